#!jinja|json
{# The balancer of sites whose `hosts` give this host that part. engine/django_formula/pillar/balancer.py has the states. #}
{% from "django/map.jinja" import django with context %}
{{ django.parts.balancer | tojson }}
