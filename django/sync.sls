#!py
"""
Sync the formula's modules to this minion.

``state.apply django`` does not sync custom modules. Where they are missing or differ from the file server's, they are
synced while this file is rendered, and reloaded before the first state runs. salt-ssh brings them along. See
docs/decisions/0011.
"""

import hashlib
import pathlib

KINDS = ("modules", "states", "utils")


def run():
    # The wrapper that salt-ssh renders with contains every name. This one has no dot: Salt would load every execution
    # module to look for a missing function.
    if "no_such_module" in __salt__:
        return {}
    stale = {kind for kind in KINDS if any(_is_stale(kind, url) for url in _ours(kind))}
    if not stale:
        return {}
    for kind in sorted(stale):
        __salt__[f"saltutil.sync_{kind}"](refresh=True)
    return {
        "The modules of the formula are current": {
            "test.nop": [{"name": ", ".join(sorted(stale))}, {"force_reload_modules": True}, {"order": "first"}]
        }
    }


def _ours(kind):
    files = __salt__["cp.list_master"](__env__, prefix=f"_{kind}/django")
    return [name for name in files if name.endswith(".py")]


def _is_stale(kind, name):
    here = pathlib.Path(__opts__["extension_modules"], kind, pathlib.PurePosixPath(name).name)
    there = __salt__["cp.hash_file"](f"salt://{name}", saltenv=__env__)
    return not here.exists() or hashlib.new(there["hash_type"], here.read_bytes()).hexdigest() != there["hsum"]
