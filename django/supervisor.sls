# supervisor keeps the sites alive where systemd is not PID 1, or pillar wants it. Each release has a program of its own, which
# the site's step `instance` makes.
{% if django is not defined %}{% from "django/map.jinja" import django with context %}{% endif %}

supervisor is installed:
  django.packages:
    - pkgs: [{{ django.platform.packages.supervisor }}]

supervisor runs:
  django.running:
    - name: supervisor
    - enable: True
    - require:
      - django: supervisor is installed
