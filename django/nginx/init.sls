# nginx itself, where its ports are free. Its default site goes only where it is this formula that installs nginx; a
# site's own files are made by the site's step `proxy`.
{% from "django/map.jinja" import django with context %}
{% set ports = [] %}
{% set https = [] %}
{% set sites = {} %}
{% set places = [] %}
{% for name, site in django.sites.items() %}
{% set secure = site.tls.listen if site.tls.kind != 'none' else [] %}
{% do ports.extend(site.proxy.listen) %}
{% do https.extend(secure) %}
{% do sites.update({name: site.proxy.listen + secure}) %}
{% do places.append({'django': name ~ ' has its place'}) %}
{% endfor %}

include:
  - django.place

The ports of nginx are free:
  django.ports:
    - sites: {{ sites | tojson }}
    - require_any: {{ places | tojson }}

nginx is installed:
  django.nginx:
    - pkgs: [{{ django.platform.packages.nginx }}]
    - require:
      - django: The ports of nginx are free

The default site of a fresh nginx is off:
  file.absent:
    - name: {{ django.platform.nginx.configuration }}/sites-enabled/default
    - onchanges:
      - django: nginx is installed

nginx refuses unknown hosts:
  django.default_server:
    - ports: {{ ports | unique | sort | tojson }}
    - template: salt://django/files/default.conf
{% if https %}
    - https: {{ https | unique | sort | tojson }}
    - tls: salt://django/files/tls.conf
{% endif %}
    - require:
      - django: nginx is installed
      - file: The default site of a fresh nginx is off

nginx runs:
  django.running:
    - name: {{ django.platform.nginx.service }}
    - enable: True
    - require:
      - django: nginx is installed
