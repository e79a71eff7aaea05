# One site on three hosts: docs/guides/fleet.md. Every host has the same pillar, and each finds its own part by its name.
# The master's external pillar adds the secret key, the hosts' addresses and the commit that they have in common.
django:
  sites:
    blog:
      repository: https://git.example.org/blog.git
      domains: [blog.example.org]
      hosts:
        'web*': [app]
        lb1: {parts: [balancer], address: 10.0.0.9}
      balancer:
        kind: haproxy
        listen: [80]
        balance: roundrobin
        sticky: false
        status: {password: sdb://vault/balancer}
      database: {engine: postgres, host: db.example.org, name: blog, user: blog, password: sdb://vault/blog-database}
      media: {shared: false}
