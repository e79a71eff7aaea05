# PostgreSQL on this host, where a site has its database on it and names no host. A server that is there already, whoever has
# installed it, is taken as it is; what a site has on it is made by the site's own step `database`.
{% from "django/map.jinja" import django with context %}

PostgreSQL is installed:
  django.server:
    - engine: postgres
    - pkgs: {{ django.platform.packages.postgres_server | tojson }}

PostgreSQL runs:
  django.running:
    - name: postgresql
    - require:
      - django: PostgreSQL is installed
