# Before anything is changed: no other deployment is in the path of a site, or the pillar has it taken over (`adopt`).
{% if django is not defined %}{% from "django/map.jinja" import django with context %}{% endif %}
{% for name, site in django.sites.items() %}

{{ name }} can be deployed:
  django.adoption:
    - name: {{ name }}
    - config: {{ site | tojson | yaml_dquote }}
    - platform: {{ django.platform | tojson }}
{% endfor %}
