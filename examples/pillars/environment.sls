# yaml-language-server: $schema=../../docs/reference/pillar.schema.json
# A project that reads its configuration from the environment (twelve-factor). `overlay: false` leaves its settings
# alone; `{from: …}` passes values of the formula under the names that the project reads.
django:
  sites:
    api:
      repository: https://git.example.org/api.git
      revision: main
      domains: [api.example.org, api.example.net]
      settings_module: website.production
      overlay: false
      environment:
        DEBUG: false
        SECRET_KEY: {from: secret_key}
        ALLOWED_HOSTS: {from: domains, join: ','}
        DATABASE_PATH: {from: database_path}
        STATIC_ROOT: {from: static_root}
        MEDIA_ROOT: {from: media_root}
        SOURCE_COMMIT: {from: commit}
        SITE_TITLE: 'Ray & Elspeth: 100% "quoted" $HOME'
      secrets:
        SIGNING_KEY: {generate: 64}                  # generated once, kept on the host
        SMTP_PASSWORD: {generate: 24, as: file}      # the project reads the file that SMTP_PASSWORD_FILE names
      database: {engine: sqlite, name: api.sqlite3}   # its path is {from: database_path} above
