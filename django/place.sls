#!jinja|json
{# No other deployment is in the path of a site, before anything is changed. _utils/django_pillar_states.py has the states. #}
{% from "django/map.jinja" import django with context %}
{{ django.parts.place | default({}) | tojson }}
