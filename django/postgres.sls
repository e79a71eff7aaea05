# PostgreSQL on this host, for sites whose database names no host. A server that is already installed is used as it is; the
# state `… has its databases` of a site creates its database and login there.
{% if django is not defined %}{% from "django/map.jinja" import django with context %}{% endif %}

PostgreSQL is installed:
  django.server:
    - engine: postgres
    - pkgs: {{ django.platform.packages.postgres_server | tojson }}
{% set own = [] %}
{% for name, site in django.sites.items() if 'postgres' in site.databases.values() | selectattr('manage') | map(attribute='engine') %}
{% do own.append(name) %}
{% endfor %}
{% if own and not django.served.values() | selectattr('fleet.connections', 'defined') | list %}
    - require_any:
{% for name in own %}
      - django: {{ name }} can be deployed
{% endfor %}
{% endif %}

PostgreSQL runs:
  django.running:
    - name: postgresql
    - require:
      - django: PostgreSQL is installed

PostgreSQL is archived:
  django.points:
    - config: {{ django.points | tojson | yaml_dquote }}
    - require:
      - django: PostgreSQL runs
