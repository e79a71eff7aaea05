#!jinja|json
{# The queue and caches that this host has for the other hosts of sites. engine/django_formula/pillar/cache.py has the states. #}
{% from "django/map.jinja" import django with context %}
{{ django.parts.cache | tojson }}
