# Remove sites with `state: absent`: proxy, instances, releases, users. Their data stays unless `remove_data` is true.
{% if django is not defined %}{% from "django/map.jinja" import django with context %}{% endif %}
{% for name, site in django.absent.items() %}

{{ name }} is absent:
  django.absent:
    - name: {{ name }}
    - config: {{ site | tojson | yaml_dquote }}
    - platform: {{ django.platform | tojson }}

{{ name }} has no build user:
  user.absent:
    - name: {{ site.user }}-build
    - require:
      - django: {{ name }} is absent
{% if site.remove_data %}

{{ name }} has no user of its stores:
  user.absent:
    - name: {{ site.user }}-store
    - require:
      - django: {{ name }} is absent
{% endif %}
{% if site.remove_data and site.user == name %}

{{ name }} has no user:
  user.absent:
    - name: {{ site.user }}
    - require:
      - django: {{ name }} is absent
{% endif %}
{% endfor %}
