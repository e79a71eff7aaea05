# MariaDB on this host, where a site has its database on it and names no host. A server that is there already, whoever has
# installed it, is taken as it is; what a site has on it is made by the site's own step `database`.
{% from "django/map.jinja" import django with context %}

MariaDB is installed:
  django.server:
    - engine: mysql
    - pkgs: {{ django.platform.packages.mysql_server | tojson }}

MariaDB runs:
  django.running:
    - name: mariadb
    - require:
      - django: MariaDB is installed
