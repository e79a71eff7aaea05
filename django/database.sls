# The databases that this host has for other hosts of sites, whose `hosts` give it the part `database`. The servers are
# installed by django.postgres and django.mysql. A host that has lost the part keeps the data, and lets no host in.
{% if django is not defined %}{% from "django/map.jinja" import django with context %}{% endif %}
{% set served = {} %}
{% for name, site in django.served.items() if site.fleet.connections is defined %}{% do served.update({name: site}) %}{% endfor %}
{% set gone = (django.sites.keys() | list + django.absent.keys() | list) | reject('in', served) | list %}

{% set pools = [] %}
{% for site in served.values() %}
{% for database in site.databases.values() if database.pool is defined and database.served_by == site.fleet.host %}{% do pools.append(database) %}{% endfor %}
{% endfor %}
{% if pools %}
PgBouncer is installed:
  django.quiet_packages:
    - pkgs: {{ django.platform.packages.pgbouncer | tojson }}
    - service: pgbouncer

The user of PgBouncer exists:
  user.present:
    - name: _django-pool
    - fullname: Shares connections of PostgreSQL among hosts of Django sites
    - system: true
    - createhome: false
    - home: /nonexistent
    - shell: {{ django.platform.shell }}
{% endif %}

The databases of the sites are served:
  django.databases:
    - sites: {{ served | tojson | yaml_dquote }}
    - gone: {{ gone | tojson }}
    - platform: {{ django.platform | tojson }}
    - templates: [salt://django/files/pgbouncer.ini, salt://django/files/pgbouncer.service]
{% if served and django.servers %}
    - require:
{% if pools %}
      - django: PgBouncer is installed
      - user: The user of PgBouncer exists
{% endif %}
{% for engine in django.servers %}
      - django: {{ {'postgres': 'PostgreSQL', 'mysql': 'MariaDB'}[engine] }} runs
{% endfor %}
{% endif %}
