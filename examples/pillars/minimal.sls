# yaml-language-server: $schema=../../docs/reference/pillar.schema.json
# One site. Its settings, requirements, WSGI module and static files are detected. The formula sets DEBUG, ALLOWED_HOSTS,
# the secret key, STATIC_ROOT, MEDIA_ROOT and the path of a SQLite file, so a new project of django-admin works.
django:
  sites:
    blog:
      repository: https://git.example.org/blog.git
      revision: main
      domains: [blog.example.org]
