# The balancer of sites whose `hosts` give this host that part: HAProxy or nginx with a unit and a configuration of its own.
# The service of Debian's package is not started, and its haproxy.cfg or nginx.conf is left alone.
{% if django is not defined %}{% from "django/map.jinja" import django with context %}{% endif %}
{% set gone = (django.sites.keys() | list + django.absent.keys() | list) | reject('in', django.balanced) | list %}
{% set files = {
  'haproxy': ['haproxy/haproxy.cfg', 'haproxy/haproxy.service', 'varnish/django.vcl', 'varnish/varnish.service'],
  'varnish': [],
  'nginx': ['nginx/balancer.conf', 'nginx/balancer.service', 'nginx/checks.service', 'nginx/checks.timer'],
} %}
{% set kinds = django.balanced.values() | map(attribute='balancer') | map(attribute='kind') | unique | list %}
{% set programs = (['haproxy'] if 'varnish' in kinds else []) + kinds %}
{% set templates = ['salt://django/files/tls.service', 'salt://django/files/tls.timer'] if kinds else [] %}
{% for kind in programs | unique %}{% for name in files[kind] %}{% do templates.append('salt://django/files/' ~ name) %}{% endfor %}{% endfor %}
{% for site in django.balanced.values() %}
{% for url in (site.tls.certificate, site.tls.key) if url is string and url.startswith('salt://') %}{% do templates.append(url) %}{% endfor %}
{% endfor %}
{% set packages = [django.platform.packages.tls] %}
{% for site in django.balanced.values() if site.tls.kind == 'acme' %}{% do packages.append(django.platform.packages[site.tls.client]) %}{% endfor %}
{% for kind in programs | unique %}

The balancer {{ kind }} is installed:
  django.quiet_packages:
    - pkgs: {{ ([django.platform.packages[kind]] + packages) | unique | list | tojson }}
    - service: {{ kind }}
{% endfor %}

The balancer serves its sites:
  django.balancer:
    - sites: {{ django.balanced | tojson | yaml_dquote }}
    - gone: {{ gone | tojson }}
    - platform: {{ django.platform | tojson }}
    - templates: {{ templates | unique | tojson }}
{% if kinds %}
    - require:
{% for kind in programs | unique %}
      - django: The balancer {{ kind }} is installed
{% endfor %}
{% endif %}
