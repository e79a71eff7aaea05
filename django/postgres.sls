# PostgreSQL on this host, for sites whose database names no host. A server that is already installed is used as it is; the
# state `… has its databases` of a site creates its database and login there.
{% if django is not defined %}{% from "django/map.jinja" import django with context %}{% endif %}

PostgreSQL is installed:
  django.server:
    - engine: postgres
    - pkgs: {{ django.platform.packages.postgres_server | tojson }}

PostgreSQL runs:
  django.running:
    - name: postgresql
    - require:
      - django: PostgreSQL is installed
