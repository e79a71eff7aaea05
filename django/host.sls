#!jinja|json
{# What all sites need on the host: packages, and uv for their virtualenvs. engine/django_formula/pillar/states.py has the states. #}
{% from "django/map.jinja" import django with context %}
{{ django.parts.host | default({}) | tojson }}
