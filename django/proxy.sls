#!jinja|json
{# The web servers that face the clients. engine/django_formula/pillar/states.py has the states. #}
{% from "django/map.jinja" import django with context %}
{{ django.parts.proxy | default({}) | tojson }}
