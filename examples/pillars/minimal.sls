# yaml-language-server: $schema=../../django/schema.yaml
# One site. Its settings, requirements, WSGI module and static files are found; DEBUG, ALLOWED_HOSTS, the secret key,
# STATIC_ROOT, MEDIA_ROOT and a SQLite file are taken over by the formula, so a project as django-admin makes it will do.
django:
  sites:
    blog:
      repository: https://git.example.org/blog.git
      revision: main
      domains: [blog.example.org]
