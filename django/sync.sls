#!py
"""
Sync the formula's modules to this minion.

``state.apply django`` does not sync custom modules. Where they are missing or differ from the file server's, they are
synced while this file is rendered, and reloaded before the first state runs. salt-ssh brings them along. See
docs/decisions/0011.
"""

SERVER = "salt://_utils/django_fileserver.py"


def run():
    # `files` is given by init.sls.
    files = globals().get("files") or __salt__["slsutil.renderer"](SERVER, default_renderer="py", saltenv=__env__)
    stale = [] if files.is_wrapped else files.stale_kinds()
    if not stale:
        return {}
    for kind in stale:
        __salt__[f"saltutil.sync_{kind}"](refresh=True)
    return {
        "The modules of the formula are current": {
            "test.nop": [{"name": ", ".join(stale)}, {"force_reload_modules": True}, {"order": "first"}]
        }
    }
