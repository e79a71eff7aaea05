# The balancer of sites whose `hosts` give this host that part: HAProxy with a unit and a configuration of its own. The
# service of Debian's package is not started, and an existing haproxy.cfg is left alone.
{% if django is not defined %}{% from "django/map.jinja" import django with context %}{% endif %}
{% set gone = (django.sites.keys() | list + django.absent.keys() | list) | reject('in', django.balanced) | list %}
{% set templates = ['salt://django/files/haproxy/haproxy.cfg', 'salt://django/files/haproxy/haproxy.service'] %}
{% for site in django.balanced.values() %}
{% for url in (site.tls.certificate, site.tls.key) if url is string and url.startswith('salt://') %}{% do templates.append(url) %}{% endfor %}
{% endfor %}
{% if django.balanced %}

The balancer is installed:
  django.quiet_packages:
    - pkgs: [{{ django.platform.packages.haproxy }}, {{ django.platform.packages.tls }}]
    - service: haproxy
{% endif %}

The balancer serves its sites:
  django.balancer:
    - sites: {{ django.balanced | tojson | yaml_dquote }}
    - gone: {{ gone | tojson }}
    - platform: {{ django.platform | tojson }}
    - templates: {{ templates | unique | tojson }}
{% if django.balanced %}
    - require:
      - django: The balancer is installed
{% endif %}
