"""Run many real salt-minions on one host, each with an id, a key, and a cache of its own, until this is stopped.

One process imports Salt and forks them: they share its memory, and the start of each costs a second less. Each sees
the site as it is on the host, but writes to layers of its own: what one keeps of its last apply is not another's.

minions.py MASTER NAME...
"""

import ctypes
import gc
import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import salt.cli.daemons
import salt.loader
import salt.minion
import salt.scripts
import salt.state

FOLDER = Path("/srv/bench/minions")
CACHE = "var/cache/salt/minion"
#: The cache of the first minion.
FIRST = FOLDER / "m001" / CACHE
#: What a site's host keeps of it.
KEPT = ("/srv/django", "/var/lib/django-formula")
NEW_MOUNT_NAMESPACE = 0x20000


def look_seldom(minion: Any, name: str, method: Callable[[], Any], interval: float = 1) -> bool:
    """Look after children and queues every five seconds: five times a second takes half a percent of a core."""
    done: bool = add_periodic_callback(minion, name, method, max(interval, 5))
    return done


def start(name: str, master: str) -> None:
    """Start one, whose module of the fleet's verbs is `faked_edge.py`."""
    folder = FOLDER / name
    folder.mkdir(parents=True, exist_ok=True)
    config = {
        "id": name,
        "master": master,
        "root_dir": str(folder),
        "module_dirs": ["/srv/bench/faked"],
        "enable_fqdns_grains": False,  # a second of DNS for each
        "enable_gpu_grains": False,
        "keysize": 2048,
    }
    (folder / "minion").write_text(json.dumps(config))
    cache = folder / CACHE
    if FIRST.is_dir() and not cache.is_dir():  # or each fetches a thousand files when it applies first
        shutil.copytree(FIRST, cache, ignore=shutil.ignore_patterns("proc", "*.p", "queues"))
    if os.fork() == 0:
        os.setsid()
        separate(Path("/run/bench", name))
        sys.argv = ["salt-minion", f"--config-dir={folder}", "--log-level=error"]
        salt.scripts.salt_minion()
        os._exit(0)


def separate(layers: Path) -> None:
    """Give this process and its children layers of their own over what the host keeps of sites."""
    if ctypes.CDLL(None, use_errno=True).unshare(NEW_MOUNT_NAMESPACE):
        raise OSError(ctypes.get_errno(), "unshare")
    subprocess.run(["mount", "--make-rprivate", "/"], check=True)
    for number, path in enumerate(KEPT):
        upper, work = layers / f"upper{number}", layers / f"work{number}"
        upper.mkdir(parents=True)
        work.mkdir()
        options = f"lowerdir={path},upperdir={upper},workdir={work}"
        subprocess.run(["mount", "-t", "overlay", "-o", options, "overlay", path], check=True)


add_periodic_callback, salt.minion.Minion.add_periodic_callback = salt.minion.Minion.add_periodic_callback, look_seldom
gc.collect()
gc.freeze()  # or the collector of each minion writes to the pages that they share
for each in sys.argv[2:]:
    start(each, sys.argv[1])
while True:
    os.wait()
