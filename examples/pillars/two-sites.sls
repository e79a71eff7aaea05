# yaml-language-server: $schema=../../docs/reference/pillar.schema.json
# Two sites on one domain under different paths; `defaults` has what they share. Each has its own user, releases,
# database and uploads. `www` follows a branch; `guestbook` is released only by django.release.
django:
  defaults:
    repository: https://git.example.org/website.git
    revision: main
    domains: [www.example.org]
    redirect_domains: [example.org]
    health: {path: /healthz}
    settings:
      TIME_ZONE: Asia/Shanghai
      LANGUAGE_CODE: zh-hans
    server: {processes: 1}

  sites:
    www: {}
    guestbook:
      path: /guestbook
      deploy: manual
      redirect_domains: []
      settings:
        TIME_ZONE: null                              # the project's own again
      media: {max_upload: 5M}
