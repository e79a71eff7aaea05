# MariaDB on this host, for sites whose database names no host. A server that is already installed is used as it is; the
# state `… has its databases` of a site creates its database and login there.
{% if django is not defined %}{% from "django/map.jinja" import django with context %}{% endif %}

MariaDB is installed:
  django.server:
    - engine: mysql
    - pkgs: {{ django.platform.packages.mysql_server | tojson }}
{% set own = [] %}
{% for name, site in django.sites.items() if 'mysql' in site.databases.values() | selectattr('manage') | map(attribute='engine') %}
{% do own.append(name) %}
{% endfor %}
{% if own and not django.served.values() | selectattr('fleet.connections', 'defined') | list %}
    - require_any:
{% for name in own %}
      - django: {{ name }} can be deployed
{% endfor %}
{% endif %}

MariaDB runs:
  django.running:
    - name: mariadb
    - require:
      - django: MariaDB is installed
