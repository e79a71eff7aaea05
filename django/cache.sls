# The queue and caches of sites whose `hosts` give this host the part `cache`: the site's own Redis or Valkey, which its
# other hosts use too.
{% if django is not defined %}{% from "django/map.jinja" import django with context %}{% endif %}
{% for name, site in django.served.items() if site.fleet.stores is defined %}
{% set files = {'systemd': ['store.service'], 'supervisor': ['store.conf', 'store.sh']}[django.process] %}

{{ name }} has the packages of its queue and caches:
  django.packages:
    - pkgs: [{{ django.platform.packages.redis }}]

{{ name }} has the user of its queue and caches:
  django.users:
    - name: {{ name }}
    - user: {{ site.user }}
    - shell: {{ django.platform.shell }}
    - stores: True
    - build: False

{{ name }} has its queue and caches for its hosts:
  django.cache:
    - name: {{ name }}
    - config: {{ site | tojson | yaml_dquote }}
    - platform: {{ django.platform | tojson }}
    - templates:
{% for file in files %}
      - salt://django/files/{{ file }}
{% endfor %}
    - require:
      - django: {{ name }} has the packages of its queue and caches
      - django: {{ name }} has the user of its queue and caches
{% endfor %}
