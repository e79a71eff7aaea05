# The web servers that face the clients, where their ports are free. Debian's default site goes only where it is this
# formula that installs one; a site's own files are made by the site's step `proxy`.
{% if django is not defined %}{% from "django/map.jinja" import django with context %}{% endif %}

include:
  - django.place
{% for kind in django.proxies %}
{% set sites = {} %}
{% set places = [] %}
{% set protected = [] %}
{% set http = [] %}
{% set https = [] %}
{% for name, site in django.sites.items() if site.proxy.kind == kind %}
{% set secure = site.tls.listen if site.tls.kind != 'none' else [] %}
{% do http.extend(site.proxy.listen) %}
{% do https.extend(secure) %}
{% do sites.update({name: site.proxy.listen + secure}) %}
{% do places.append({'django': name ~ ' can be deployed'}) %}
{% if site.media.protected %}{% do protected.append(name) %}{% endif %}
{% endfor %}

The ports of {{ kind }} are free:
  django.ports:
    - kind: {{ kind }}
    - sites: {{ sites | tojson }}
    - require_any: {{ places | tojson }}

{{ kind }} is installed:
  django.web_server:
    - kind: {{ kind }}
    - pkgs: [{{ django.platform.packages[kind] }}]
    - require:
      - django: The ports of {{ kind }} are free

The default site of a fresh {{ kind }} is off:
  file.absent:
    - name: {{ django.platform.default_sites[kind] }}
    - onchanges:
      - django: {{ kind }} is installed

{% if kind == 'apache' and protected %}
mod_xsendfile is installed:
  django.apache_module:
    - module: xsendfile
    - pkgs: [{{ django.platform.packages.xsendfile }}]
    - require:
      - django: apache is installed
{% endif %}

{{ kind }} runs:
  django.proxy_runs:
    - kind: {{ kind }}
    - http: {{ http | unique | list | tojson }}
    - https: {{ https | unique | list | tojson }}
    - templates: {{ django.default_servers[kind] | tojson }}
    - require:
      - django: {{ kind }} is installed
      - file: The default site of a fresh {{ kind }} is off
{% endfor %}
