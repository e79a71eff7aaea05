#!jinja|json
{# What all sites need on the host: packages, and uv for their virtualenvs. _utils/django_pillar_states.py has the states. #}
{% from "django/map.jinja" import django with context %}
{{ django.parts.host | default({}) | tojson }}
