"""What a site's secret key was before a deployment of the master's that has not ended: it may have to be restored.

The release that serves reads the files of the key at its next start, and the next apply compares them with what that
release was made of.
"""

import json

from django_formula.host import file
from django_formula.secret import secrets
from django_formula.site.sites import Site

_FILE = ".before.json"
_SHAPE = {"deployment": str, "files": {str: str}}


def keep(site: Site, deployment: str) -> None:
    """Keep the files of the secret key as they are, until the deployment ends."""
    names = (secrets.KEY_FILE, secrets.PLAIN_KEY_FILE, "environment")
    found = {name: file.read_text(site.secrets / name) for name in names}
    files = {name: text for name, text in found.items() if text is not None}
    content = json.dumps({"deployment": deployment, "files": files})
    file.write(site.secrets / _FILE, content, mode=0o600)


def settle(site: Site, live: str) -> None:
    """Settle what a deployment has left that did not end on this host.

    Args:
        live: the id of the deployment that has made the active release.
    """
    found = file.read_json(site.secrets / _FILE, _SHAPE)
    if found and found["deployment"] == live:
        forget(site)
    elif found:
        restore(site)


def restore(site: Site) -> None:
    """Restore the files, if some were kept."""
    found = file.read_json(site.secrets / _FILE, _SHAPE) or {"files": {}}
    for name, text in found["files"].items():
        file.write(site.secrets / name, text, mode=0o640, group=site.user)
    forget(site)


def forget(site: Site) -> None:
    """Keep the files no longer: the deployment has succeeded."""
    (site.secrets / _FILE).unlink(missing_ok=True)
