# yaml-language-server: $schema=../../docs/reference/pillar.schema.json
# A site with https: http redirects to it, HTTP/2 and Django's settings are set. An authority of this host signs the
# certificate, for an internal network; with `kind: acme` and an e-mail address it is one of Let's Encrypt.
django:
  sites:
    intranet:
      repository: https://git.example.org/website.git
      revision: main
      domains: [intranet.example.org]
      redirect_domains: [wiki.example.org]
      health: {path: /healthz}
      proxy:
        locations:
          /admin/: {allow: 10.0.0.0/8, deny: all}
        limit_req: {rate: 20r/s, burst: 40}
      tls: {kind: self_signed}
