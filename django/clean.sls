# Sites with `state: absent` are taken off: proxy, instances, releases, users. Their data stays, unless `remove_data` is true.
{% from "django/map.jinja" import django with context %}
{% for name, site in django.absent.items() %}

{{ name }} is taken off:
  django.absent:
    - name: {{ name }}
    - config: {{ site | tojson | yaml_dquote }}
    - platform: {{ django.platform | tojson }}

{{ name }} has no build user:
  user.absent:
    - name: {{ site.user }}-build
    - require:
      - django: {{ name }} is taken off
{% if site.remove_data and site.user == name %}

{{ name }} has no user:
  user.absent:
    - name: {{ site.user }}
    - require:
      - django: {{ name }} is taken off
{% endif %}
{% endfor %}
