#!py
"""
/etc/salt/reactor/note.sls: append a line to a file for each deployment that has ended, see docs/guides/fleet.md.

Any minion can send an event of any tag: one that came from a minion has its `id`, and what it says is in its `data`.
"""

import json
from pathlib import Path

FILE = "/var/log/salt/django-deployments"  # its folder is of the user that runs the master
KEYS = ("site", "user", "revision", "commit", "release", "result", "error")


def run():
    told = data.get("data", {}) if "id" in data else data
    line = {key: str(told.get(key, ""))[:1000] for key in KEYS}
    line["from"] = data.get("id", "master")
    with Path(FILE).open("a") as file:
        file.write(json.dumps(line) + "\n")
    return {}
