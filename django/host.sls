# What all sites need on the host: packages, and uv for their virtualenvs.
{% if django is not defined %}{% from "django/map.jinja" import django with context %}{% endif %}
{% set platform = django.platform %}
{% set own = ['certificates', 'git', 'python', 'ssh', 'venv'] + (['bus'] if django.process == 'systemd' else []) %}
{% set packages = [] %}
{% for noun in own %}{% do packages.append(platform.packages[noun]) %}{% endfor %}
{% for name, site in django.sites.items() %}
{% do packages.extend(site.packages) %}
{% if site.media.mount is defined %}{% do packages.extend(platform.packages.mount.get(site.media.mount.type, [])) %}{% endif %}
{% if site.static.push is defined and site.static.push.kind == 'rsync' %}{% do packages.append(platform.packages.rsync) %}{% endif %}
{% if site.tls.kind != 'none' %}{% do packages.append(platform.packages.tls) %}{% endif %}
{% if site.schedules is defined and grains.init != 'systemd' %}{% do packages.append(platform.packages.cron) %}{% endif %}
{% if site.container is defined %}
{% do packages.extend(platform.packages[site.container.engine]) %}
{% if not (site.container.base or site.container.file or site.container.image) %}{% do packages.append(platform.packages.mmdebstrap) %}{% endif %}
{% endif %}
{% if site.tls.kind == 'acme' %}{% do packages.append(platform.packages[site.tls.client]) %}{% endif %}
{% for store in django.stores[name] if store == 'redis' %}{% do packages.append(platform.packages.redis) %}{% endfor %}
{% for database in site.databases.values() %}
{% do packages.extend(platform.packages.get(database.engine, [])) %}
{% if 'postgis' in database.get('extensions', []) %}
{% do packages.extend(platform.packages.postgis + (platform.packages.postgis_server if database.manage else [])) %}
{% endif %}
{% endfor %}
{% endfor %}
{% set indexes = django.sites.values() | map(attribute='index') | selectattr('url') | list %}

The packages of the sites are installed:
  django.packages:
    - pkgs: {{ packages | unique | sort | tojson }}

{% if 'docker' in django.sites.values() | selectattr('container', 'defined') | map(attribute='container.engine') %}
Docker runs:
  django.running:
    - name: docker
    - enable: True
    - require:
      - django: The packages of the sites are installed
{% endif %}

{% if grains.init != 'systemd' and django.sites.values() | selectattr('schedules', 'defined') | list %}
cron runs:
  django.running:
    - name: cron
    - require:
      - django: The packages of the sites are installed
{% endif %}

{% if 'mod_wsgi' in django.sites.values() | map(attribute='server.kind') %}
mod_wsgi is installed:
  django.apache_module:
    - module: wsgi
    - pkgs: {{ platform.packages.mod_wsgi | tojson }}
{% endif %}

{% if 'memcached' in django.stores.values() | sum(start=[]) %}
Memcached is installed:
  django.quiet_packages:
    - pkgs: [{{ platform.packages.memcached }}]
    - service: memcached
    - require:
      - django: The packages of the sites are installed
{% endif %}

{% if django.sites.values() | map(attribute='static') | selectattr('push', 'defined') | list %}
The user that pushes static files exists:
  user.present:
    - name: _django-push
    - fullname: Pushes the static files of Django sites
    - system: true
    - createhome: false
    - home: /nonexistent
    - shell: {{ platform.shell }}
{% endif %}

uv is installed:
  django.uv:
    - index: {{ indexes | first | default(none) | tojson }}
    - require:
      - django: The packages of the sites are installed
{% set versions = django.sites.values() | selectattr('container', 'undefined') | map(attribute='python')
                  | select('match', '3[.]') | unique | sort %}
{% if versions %}
{% import_yaml "django/pythons.yaml" as pythons %}
{% for version in versions %}
{% set table = {'versions': {version: pythons.versions[version]} if version in pythons.versions else pythons.versions} %}

Python {{ version }} is installed:
  django.python:
    - version: {{ version | tojson }}
    - table: {{ table | tojson }}
    - mirror: {{ (django.python_mirror or pythons.origin) | tojson }}
    - require:
      - django: uv is installed
{% endfor %}
{% endif %}
