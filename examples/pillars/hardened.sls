# yaml-language-server: $schema=../../docs/reference/pillar.schema.json
# A site that has to pass `manage.py check --deploy`, behind a proxy that ends https; secrets from a vault (any sdb
# profile of the minion), a deploy key, and limits of memory, CPU and tasks.
django:
  sites:
    members:
      repository: git@git.example.org:members.git
      revision: main
      deploy_key: sdb://vault/secret/members/deploy_key
      known_hosts: ['git.example.org ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIOMqqnkVzrm0SdG6UOoqKLsabgH5C9okWi0dh2l9GKJl']
      domains: [members.example.org]
      secret_key: sdb://vault/secret/members/secret_key
      secrets:
        SMTP_PASSWORD: {value: sdb://vault/secret/members/smtp_password, as: file}
      settings:
        SECURE_PROXY_SSL_HEADER: [HTTP_X_FORWARDED_PROTO, https]
        CSRF_TRUSTED_ORIGINS: ['https://members.example.org']
        CSRF_COOKIE_SECURE: true
        SESSION_COOKIE_SECURE: true
        SECURE_HSTS_SECONDS: 31536000
        SECURE_HSTS_INCLUDE_SUBDOMAINS: true
        SECURE_HSTS_PRELOAD: true
        SILENCED_SYSTEM_CHECKS: [security.W008]      # the proxy in front redirects to https
      check: deploy
      health: {path: /healthz, status: [200], contains: ok, timeout: 20s}
      sandbox:
        IPAddressDeny: any
        IPAddressAllow: localhost                    # no outgoing connections; requests from nginx only
      resources:
        MemoryMax: 512M
        CPUQuota: 150%
        TasksMax: 128
      proxy:
        trusted: [10.0.0.0/8]                        # the proxy in front: its X-Forwarded-For and -Proto are used
        options: {keepalive_timeout: 30s}
      log: {requests: true}
