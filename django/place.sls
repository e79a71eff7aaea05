#!jinja|json
{# No other deployment is in the path of a site, before anything is changed. engine/django_formula/pillar/states.py has the states. #}
{% from "django/map.jinja" import django with context %}
{{ django.parts.place | default({}) | tojson }}
