# The databases that this host has for other hosts of sites, whose `hosts` give it the part `database`. The servers are
# installed by django.postgres and django.mysql. A host that has lost the part keeps the data, and lets no host in.
{% if django is not defined %}{% from "django/map.jinja" import django with context %}{% endif %}
{% set served = {} %}
{% for name, site in django.served.items() if site.fleet.connections is defined %}{% do served.update({name: site}) %}{% endfor %}
{% set gone = (django.sites.keys() | list + django.absent.keys() | list) | reject('in', served) | list %}

The databases of the sites are served:
  django.databases:
    - sites: {{ served | tojson | yaml_dquote }}
    - gone: {{ gone | tojson }}
    - platform: {{ django.platform | tojson }}
{% if served and django.servers %}
    - require:
{% for engine in django.servers %}
      - django: {{ {'postgres': 'PostgreSQL', 'mysql': 'MariaDB'}[engine] }} runs
{% endfor %}
{% endif %}
