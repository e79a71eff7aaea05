# yaml-language-server: $schema=../../django/schema.yaml
# A site by https: http leads to it, HTTP/2, Django's settings follow. The certificate is signed by an authority of this
# host, for a network of one's own; with `kind: acme` and an e-mail address it is one of Let's Encrypt.
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
