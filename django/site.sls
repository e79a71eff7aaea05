# The steps of each site, in the order of _utils/django_deploy_order.py. Users and directories come first, for all sites,
# so that all remotes are queried at the same time. A step that finds nothing to do reports no change; one that fails
# stops its own site only. Nothing that serves is changed before "is live".
{% if django is not defined %}{% from "django/map.jinja" import django with context %}{% endif %}
{% set files = ['django_formula_application.py', 'django_formula_start.py', 'django_formula_migrate.py',
                'django_formula_lock.py', 'django_formula_guard.py', 'django_formula_keep.py', 'django_formula_request.py',
                'django_formula_settings.py', 'maintenance.html', 'django_formula_backup.py', 'django_formula_sqlite.py',
                'django_formula_tables.py'] %}
{% for name, site in django.sites.items() %}
{% set templates = ['salt://django/files/django_formula_plan.py'] + django.templates[name] %}
{% for file in files %}
{% do templates.append('salt://django/files/' ~ file) %}
{% endfor %}
{% if site.listener %}
{% do templates.extend(['salt://django/files/listen.service', 'salt://django/files/listen.socket']) %}
{% endif %}
{% if site.backup.schedule %}
{% do templates.extend(['salt://django/files/backup.service', 'salt://django/files/backup.timer']) %}
{% endif %}
{% if site.tls.kind != 'none' %}
{% do templates.extend(['salt://django/files/tls.service', 'salt://django/files/tls.timer']) %}
{% endif %}
{% if site.email is defined %}{% do templates.append('salt://django/files/django_formula_email.py') %}{% endif %}
{% if site.schedules is defined %}
{% do templates.extend(['salt://django/files/schedule.service', 'salt://django/files/schedule.timer']) %}
{% endif %}
{% for url in (site.tls.certificate, site.tls.key) if url is string and url.startswith('salt://') %}{% do templates.append(url) %}{% endfor %}
{% for file in site.files.values() if file.source is defined %}{% do templates.append(file.source) %}{% endfor %}

{{ name }} has its users:
  django.users:
    - name: {{ name }}
    - user: {{ site.user }}
{% if site.uid is defined %}
    - uid: {{ site.uid }}
{% endif %}
    - shell: {{ django.platform.shell }}
{% if django.stores[name] %}
    - stores: True
{% endif %}
    - require:
      - django: {{ name }} can be deployed

{{ name }} has its directories:
  django.site:
    - name: {{ name }}
    - config: {{ site | tojson | yaml_dquote }}
    - platform: {{ django.platform | tojson }}
    - templates: {{ templates | unique | tojson }}
    - require:
      - django: {{ name }} has its users
      - django: uv is installed
{% if site.container is not defined and site.python[:2] == '3.' %}
      - django: Python {{ site.python }} is installed
{% endif %}
{% if site.container is defined and site.container.engine == 'docker' %}
      - django: Docker runs
{% endif %}
{% if site.server.kind == 'mod_wsgi' %}
      - django: mod_wsgi is installed
{% endif %}
{% if 'memcached' in django.stores[name] %}
      - django: Memcached is installed
{% endif %}
{% if site.proxy.kind == 'apache' and site.media.protected %}
      - django: mod_xsendfile is installed
{% endif %}
{% if django.process == 'supervisor' %}
      - supervisor runs
{% endif %}
{% endfor %}

{% for name, site in django.sites.items() %}
{% set ns = namespace(before='has its directories') %}
{% set servers = site.databases.values() | selectattr('manage') | map(attribute='engine') | unique | list %}
{% for function, sentence in django.steps[name] if function != 'site' %}

{{ name }} {{ sentence }}:
  django.{{ function }}:
    - name: {{ name }}
    - require:
      - django: {{ name }} {{ ns.before }}
{% for engine in servers if function == 'database' %}
      - django: {{ {'postgres': 'PostgreSQL', 'mysql': 'MariaDB'}[engine] }} runs
{% endfor %}
{% set ns.before = sentence %}
{% endfor %}
{% endfor %}

{% if django.sites | length > 1 %}
# A domain that moves from one site to another does so when both are released. No requisites: the state
# that failed has reported the error.
{% for name in django.sites %}

{{ name }} has its domains:
  django.domains:
    - name: {{ name }}
{% endfor %}
{% endif %}
