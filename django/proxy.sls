#!jinja|json
{# The web servers that face the clients. _utils/django_pillar_states.py has the states. #}
{% from "django/map.jinja" import django with context %}
{{ django.parts.proxy | default({}) | tojson }}
