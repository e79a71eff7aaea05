#!jinja|json
{# The databases that this host has for the other hosts of sites. engine/django_formula/pillar/database_host.py has the states. #}
{% from "django/map.jinja" import django with context %}
{{ django.parts.database | tojson }}
