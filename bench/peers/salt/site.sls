# A Django site by standard states, as tutorials and runbooks write it: bench/run compares django-formula with it.
{% set site = pillar['plain'] %}
{% set root = '/srv/plain' %}

packages:
  pkg.installed:
    - pkgs: [git, nginx, python3-venv]

user:
  user.present:
    - name: plain
    - system: True
    - home: {{ root }}
    - shell: /usr/sbin/nologin

{% for folder in ['', '/config', '/database', '/media', '/static'] %}
{{ root }}{{ folder }}:
  file.directory:
    - user: plain
    - group: www-data
    - mode: '0755'
    - require:
      - user: user
      - pkg: packages
    - require_in:
      - git: source
{% endfor %}

source:
  git.latest:
    - name: {{ site.repository }}
    - target: {{ root }}/source
    - rev: {{ site.revision }}
    - force_reset: True

virtualenv:
  virtualenv.managed:
    - name: {{ root }}/virtualenv
    - venv_bin: /usr/bin/python3
    - user: plain
    - require:
      - git: source

requirements:
  file.managed:
    - name: {{ root }}/config/requirements.txt
    - contents: |
        -r {{ root }}/source/requirements.txt
        pyuwsgi=={{ site.pyuwsgi }}
  pip.installed:
    - requirements: {{ root }}/config/requirements.txt
    - bin_env: {{ root }}/virtualenv
    - user: plain
    - require:
      - file: requirements
      - virtualenv: virtualenv

settings:
  file.managed:
    - name: {{ root }}/config/production.py
    - source: salt://files/production.py.jinja
    - template: jinja
    - context: {account: plain, root: {{ root }}, site: {{ site | tojson }}}
    - group: www-data
    - mode: '0644'
    - require:
      - git: source

{% for command in ['migrate --noinput', 'collectstatic --noinput'] %}
{{ command }}:
  cmd.run:
    - name: {{ root }}/virtualenv/bin/python manage.py {{ command }}
    - cwd: {{ root }}/source
    - runas: plain
    - env:
      - DJANGO_SETTINGS_MODULE: production
      - PYTHONPATH: {{ root }}/config
    - onchanges:
      - git: source
      - file: settings
      - pip: requirements
    - require_in:
      - service: application
{% endfor %}

uwsgi.ini:
  file.managed:
    - name: {{ root }}/config/uwsgi.ini
    - source: salt://files/uwsgi.ini
    - template: jinja
    - context: {account: plain, root: {{ root }}}

unit:
  file.managed:
    - name: /etc/systemd/system/plain.service
    - source: salt://files/django.service
    - template: jinja
    - context: {account: plain, root: {{ root }}}
  cmd.run:
    - name: systemctl daemon-reload
    - onchanges:
      - file: unit

application:
  service.running:
    - name: plain
    - enable: True
    - watch:
      - git: source
      - pip: requirements
      - file: settings
      - file: uwsgi.ini
      - file: unit

{% if site.celery is defined %}
unit of celery:
  file.managed:
    - name: /etc/systemd/system/plain-celery.service
    - source: salt://files/celery.service
    - template: jinja
    - context: {account: plain, root: {{ root }}}
  cmd.run:
    - name: systemctl daemon-reload
    - onchanges:
      - file: unit of celery

celery:
  service.running:
    - name: plain-celery
    - enable: True
    - watch:
      - git: source
      - pip: requirements
      - file: settings
      - file: unit of celery
    - require:
      - service: application
{% endif %}

nginx site:
  file.managed:
    - name: /etc/nginx/sites-available/plain
    - source: salt://files/nginx.conf
    - template: jinja
    - context: {account: plain, root: {{ root }}, site: {{ site | tojson }}}
    - require:
      - pkg: packages

nginx link:
  file.symlink:
    - name: /etc/nginx/sites-enabled/plain
    - target: ../sites-available/plain
    - require:
      - file: nginx site

nginx:
  service.running:
    - enable: True
    - reload: True
    - watch:
      - file: nginx site
      - file: nginx link
    - require:
      - service: application
