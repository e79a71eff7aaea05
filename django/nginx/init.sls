# nginx itself. Its default site goes only where it is this formula that installs nginx; a site's own files are made by
# the site's step `proxy`.
{% from "django/map.jinja" import django with context %}
{% set ports = [] %}
{% for site in django.sites.values() %}{% do ports.extend(site.proxy.listen) %}{% endfor %}

nginx is installed:
  django.packages:
    - pkgs: [{{ django.platform.packages.nginx }}]

The default site of a fresh nginx is off:
  file.absent:
    - name: {{ django.platform.nginx.configuration }}/sites-enabled/default
    - onchanges:
      - django: nginx is installed

nginx refuses unknown hosts:
  django.default_server:
    - ports: {{ ports | unique | sort | tojson }}
    - template: salt://django/files/default.conf
    - require:
      - django: nginx is installed
      - file: The default site of a fresh nginx is off

nginx runs:
{% if grains.init == 'systemd' %}
  service.running:
    - enable: True
{% else %}
  django.running:
{% endif %}
    - name: {{ django.platform.nginx.service }}
    - require:
      - django: nginx is installed
