# salt-run state.orchestrate orchestrate: every host gets its configuration, then all get the release. It fails
# when one of the two does, and shows why. Copy it to a folder of your own: docs/guides/fleet.md.
the hosts have their configuration:
  salt.state:
    - tgt: '*'
    - sls: [django]

blog is released:
  salt.runner:
    - name: django.deploy
    - site: blog
    - require:
      - salt: the hosts have their configuration
