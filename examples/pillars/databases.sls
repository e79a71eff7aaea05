# yaml-language-server: $schema=../../django/schema.yaml
# Two sites with their databases on this host, in one PostgreSQL that the first apply installs. Neither can reach the
# other's. `library` comes over the unix socket, where the server knows it without a password; `archive` is a project
# that only knows TCP, by DATABASE_URL, and gets a generated password. With a `host` it would be a server elsewhere.
django:
  defaults:
    repository: https://git.example.org/library.git
    revision: main
    health: {path: /healthz}
    server: {processes: 1}

  sites:
    library:
      domains: [library.example.org]
      database: {engine: postgres}
    archive:
      domains: [archive.example.org]
      settings_module: website.served
      overlay: false
      database: {engine: postgres, host: localhost, manage: true}
      environment:
        SECRET_KEY: {from: secret_key}
        ALLOWED_HOSTS: {from: domains}
        STATIC_ROOT: {from: static_root}
        MEDIA_ROOT: {from: media_root}
