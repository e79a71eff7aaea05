# yaml-language-server: $schema=../../docs/reference/pillar.schema.json
# A site from a folder of the host, without git: the next apply releases the files in it, if they have changed.
django:
  sites:
    kiosk:
      folder: /srv/kiosk
      domains: [kiosk.example.org]
      root: /srv/sites/kiosk
      user: screens
      python_packages: ['python-dateutil>=2.8']      # in addition to requirements.txt
      files:
        website/robots.txt: {contents: "User-agent: *\nDisallow: /\n"}
      database: {engine: sqlite, name: visitors.sqlite3}
      server:
        processes: 2
        threads: 4
        options: {harakiri: 30}                      # seconds that a request may take
      releases: {keep: 2}
