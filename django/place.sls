# Before anything is changed: the place of each site is free, or the pillar says that what is there is taken over.
{% from "django/map.jinja" import django with context %}
{% for name, site in django.sites.items() %}

{{ name }} has its place:
  django.adoption:
    - name: {{ name }}
    - config: {{ site | tojson | yaml_dquote }}
    - platform: {{ django.platform | tojson }}
{% endfor %}
