#!jinja|json
{# The watch of the host, and where its ports are free the web servers. engine/django_formula/pillar/states.py has the states. #}
{% from "django/map.jinja" import django with context %}
{{ django.parts.watch | default({}) | tojson }}
