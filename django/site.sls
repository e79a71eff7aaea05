#!jinja|json
{# The steps of each site. _utils/django_pillar_states.py has the states. #}
{% from "django/map.jinja" import django with context %}
{{ django.parts.site | default({}) | tojson }}
