# yaml-language-server: $schema=../../docs/reference/pillar.schema.json
# A site with background work: tasks by Celery, a queue and a cache of its own, commands at times, and static files in
# an S3-compatible store. docs/guides/workers.md, stores.md, schedules.md and static.md explain the parts.
django:
  sites:
    shop:
      repository: https://git.example.org/shop.git
      revision: main
      domains: [shop.example.org]
      python_packages: ['celery[redis]']              # unless the project requires it
      queue: {engine: redis}                          # CELERY_BROKER_URL
      cache: {engine: redis}                          # CACHES
      sessions: cached_db
      workers:
        default: {kind: celery, processes: 2}
        beat: {kind: celery_beat}
      schedules:
        clearsessions: {command: manage.py clearsessions, at: daily, within: 1h}
      static:
        url: http://minio.example.org:9000/static/shop/
        push:
          kind: s3
          bucket: static
          endpoint: http://minio.example.org:9000
          style: path
          key: shop
          secret: sdb://vault/secret/static/secret
