#!jinja|json
{# The steps of each site. engine/django_formula/pillar/states.py has the states. #}
{% from "django/map.jinja" import django with context %}
{{ django.parts.site | default({}) | tojson }}
