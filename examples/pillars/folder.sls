# yaml-language-server: $schema=../../django/schema.yaml
# A site from a folder of the host, without git: what is copied there is released by the next apply, if it has changed.
django:
  sites:
    kiosk:
      folder: /srv/kiosk
      domains: [kiosk.example.org]
      root: /srv/sites/kiosk
      user: screens
      python_packages: ['python-dateutil>=2.8']      # besides those of requirements.txt
      files:
        website/robots.txt: {contents: "User-agent: *\nDisallow: /\n"}
      database: {engine: sqlite, name: visitors.sqlite3}
      server:
        processes: 2
        threads: 4
        options: {harakiri: 30}                      # seconds that a request may take
      releases: {keep: 2}
