# One site on six hosts: docs/guides/fleet.md. Every host has the same pillar, and each finds its own parts by its name.
# The master's external pillar adds the secret key, the passwords of database and queue, their certificates, the hosts'
# addresses and the commit that they have in common.
#
#   salt db1 state.apply django; salt '*' state.apply django; salt-run django.deploy blog
django:
  sites:
    blog:
      repository: https://git.example.org/blog.git
      domains: [blog.example.org]
      tags: [eu]                                   # for: salt-run django.deploy tag:eu
      hosts:
        'web*': [app]                  # serve the site
        jobs1: [worker]                # runs its tasks and schedules
        db1: [database, cache]         # has its database, queue and cache
        lb1: [balancer]                # gives requests to web*; or {parts: [balancer], address: 10.0.0.9}
      balancer:
        kind: haproxy
        listen: [80]
        balance: leastconn
        sticky: false
        status: {password: a-password-for-the-page}
      database: {engine: postgres, pool: 20, pool_port: 6432}  # 20 connections, shared by PgBouncer
      queue: {engine: redis}
      cache: {engine: redis}
      workers:
        default: {kind: celery}
        beat: {kind: celery_beat}
      media: {shared: false}           # uploads are stored elsewhere, or there are none
