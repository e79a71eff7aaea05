"""What the master knows of its minions.

Salt loads the external pillar anew for the pillar of each minion. This module stays in the master's processes, and
keeps what takes long to find: with ten thousand minions the names of all keys take Salt half a second.
"""

import os
import time
from typing import Any

import salt.key

#: Nanoseconds after which a folder is taken as unchanged while its time is: clocks of file systems tick slowly.
_SETTLED = 2_000_000_000
_kept: dict[tuple[str, int], list[str]] = {}


def accepted(options: dict[str, Any]) -> list[str]:
    """Return the names of the minions whose keys the master has accepted.

    Args:
        options: the master's configuration.
    """
    folder = os.path.join(options.get("pki_dir", ""), "minions")
    try:
        changed = os.stat(folder).st_mtime_ns
    except FileNotFoundError:
        changed = 0
    if (folder, changed) in _kept:
        return _kept[folder, changed]
    names = sorted(salt.key.get_key(options).list_keys()["minions"])
    in_folder = options.get("keys.cache_driver", "localfs_key") == "localfs_key"
    _kept.clear()
    if changed and in_folder and time.time_ns() - changed > _SETTLED:
        _kept[folder, changed] = names
    return names
