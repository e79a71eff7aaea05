# yaml-language-server: $schema=../../docs/reference/pillar.schema.json
# Two sites with databases in one PostgreSQL on this host, which the first apply installs. Neither can read the other's.
# `library` uses the unix socket and no password; `archive` is a project that only uses TCP, by DATABASE_URL, with a
# generated password. With another `host` it would be a server elsewhere.
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
