# MariaDB on this host, for sites whose database names no host. A server that is already installed is used as it is; the
# state `… has its databases` of a site creates its database and login there.
{% if django is not defined %}{% from "django/map.jinja" import django with context %}{% endif %}

MariaDB is installed:
  django.server:
    - engine: mysql
    - pkgs: {{ django.platform.packages.mysql_server | tojson }}

MariaDB runs:
  django.running:
    - name: mariadb
    - require:
      - django: MariaDB is installed
