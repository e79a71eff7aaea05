# The story of a site. Its identities and folders come first, for all sites, so that every remote can be asked at the same
# time; then each site takes the steps of a release. A step that finds nothing to do reports no change, one that fails
# stops its own site only, and before "is live" nothing that serves is touched.
{% from "django/map.jinja" import django with context %}
{% set files = ['django_formula_start.py', 'django_formula_settings.py', 'uwsgi.ini', 'upstream.conf', 'locations.conf', 'domain.conf',
                'redirect.conf', 'default.conf'] %}
{% do files.extend({'systemd': ['django.service', 'django.socket'], 'supervisor': ['supervisor.conf', 'supervisor.sh']}[django.process]) %}
{% for name, site in django.sites.items() %}
{% set templates = [] %}
{% for file in files %}{% do templates.append('salt://django/files/' ~ file) %}{% endfor %}
{% for file in site.files.values() if file.source is defined %}{% do templates.append(file.source) %}{% endfor %}

{{ name }} has its users:
  django.users:
    - name: {{ name }}
    - user: {{ site.user }}
    - shell: {{ django.platform.shell }}
    - require:
      - django: {{ name }} has its place

{{ name }} is laid out:
  django.site:
    - name: {{ name }}
    - config: {{ site | tojson | yaml_dquote }}
    - platform: {{ django.platform | tojson }}
    - templates: {{ templates | unique | tojson }}
    - require:
      - django: {{ name }} has its users
      - django: uv is installed
{% if django.process == 'supervisor' %}
      - supervisor runs
{% endif %}
{% endfor %}

{% for name in django.sites %}
{% set ns = namespace(before='is laid out', function='site') %}
{% for function, sentence in [
     ('source', 'has its source'),
     ('virtualenv', 'has its virtualenv'),
     ('build', 'is built'),
     ('secret_key', 'has its secrets'),
     ('settings', 'has its settings'),
     ('static', 'has its static files'),
     ('migration', 'has its database migrated'),
     ('instance', 'has its instance'),
     ('live', 'is live'),
     ('proxy', 'is served'),
     ('record', 'is recorded'),
   ] %}

{{ name }} {{ sentence }}:
  django.{{ function }}:
    - name: {{ name }}
    - require:
      - django: {{ name }} {{ ns.before }}
{% set ns.before = sentence %}
{% endfor %}
{% endfor %}
