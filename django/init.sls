# The Django sites of this host: `salt '*' state.apply django`. The pillar is described in pillar.example.
#
#   django.sync        our own modules, where they are missing or old
#   django.clean       removes sites with `state: absent`
#   django.balancer    HAProxy, where this host balances sites between their hosts
#   django.place       stops where another deployment is in the path of a site
#   django.host        packages and uv
#   django.proxy       nginx and Apache, which reject unknown hosts
#   django.postgres    PostgreSQL, where a site has its database on a server of this host
#   django.mysql       MariaDB, likewise
#   django.supervisor  the process manager where it is not systemd
#   django.site        each site, step by step
{% from "django/map.jinja" import django with context %}
{% if django.errors %}

The pillar has errors:
  test.fail_without_changes:
    - name: {{ ("\n" ~ django.errors | join("\n")) | yaml_dquote }}
    - comment: Correct the pillar; nothing has been changed.
    - failhard: True
{% else %}

include:
  - django.sync
{% if django.absent %}
  - django.clean
{% endif %}
{% if django.balanced or django.absent.values() | selectattr('fleet', 'defined') | list %}
  - django.balancer
{% endif %}
{% if django.sites %}
  - django.place
  - django.host
  - django.proxy
{% for engine in django.servers %}
  - django.{{ engine }}
{% endfor %}
{% if django.process == 'supervisor' %}
  - django.supervisor
{% endif %}
  - django.site
{% endif %}
{% endif %}
