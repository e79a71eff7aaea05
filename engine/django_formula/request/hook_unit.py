"""The webhook of a site as files: its secret, its program, its user, and the two units that systemd starts it by.

Sites without `hook` have none of it. Why each site has its own: docs/decisions/0159.
"""

import contextlib
import secrets
import time
from pathlib import Path
from typing import Any

from django_formula.host import archive, config_files, file, locks, units
from django_formula.host.commands import DeploymentError
from django_formula.host.config_files import Files
from django_formula.proxy import proxies
from django_formula.request import entrance
from django_formula.site.behind_socket import WALLS, Behind
from django_formula.site.sites import Site

MODULE = "django_formula.request.hook"
HOOK = Behind("web-hook", "hook", "hook", Path("/usr/local/lib/django-formula/hook.pyz"), Path("/run/django-hook"))
#: Below the path of the site. Proxies and firewalls let no other path with a dot through.
PATH = "/.well-known/django-hook"
#: Seconds for which the former secret is accepted: until the git server has the new one.
_FORMER = 24 * 60 * 60
_SHAPE = {"site": str, "ref": str, "secret": str, "former": str, "until": float, "is_given": bool}
_SOCKET = """\
[Unit]
Description=Webhook of the Django site {site}

[Socket]
ListenStream={socket}
SocketUser=root
SocketGroup={proxy}
SocketMode=0660
DirectoryMode=0755
Backlog=64

[Install]
WantedBy=sockets.target
"""
_SERVICE = """\
# {version}
[Unit]
Description=Webhook of the Django site {site}
Requires=django-{site}-web-hook.socket
After=django-{site}-web-hook.socket
StartLimitIntervalSec=0

[Service]
ExecStart=/usr/bin/python3 -I {program}
# The secret, which systemd opens as root: LoadCredential= requires mounts, which not every container has.
StandardInput=file:{config}
StandardOutput=journal
StandardError=journal
User={user}
SupplementaryGroups={group}
ProtectHome=yes
{walls}"""


def config_file(site: Site) -> Path:
    """Return the file with the secret, which only root can read."""
    return site.secrets / ".hook.json"


def sockets(site: Site) -> dict[str, Path]:
    """Return the unit of the socket that the proxy passes deliveries to, and its path; nothing without a webhook."""
    return {HOOK.units(site)[0].name: HOOK.socket(site)} if site.config.get("hook") else {}


def url(site: Site) -> str:
    """Return where the git server sends its requests."""
    return f"{proxies.origin(site)}{site.config['path'].rstrip('/')}{PATH}"


def read(site: Site) -> dict[str, Any] | None:
    """Return what the program is configured with; None where the site has no webhook."""
    return file.read_json(config_file(site), _SHAPE)


def pending(site: Site, given: str | None) -> dict[str, str]:
    """Return what `apply` would change: path → in what way.

    Args:
        given: the secret of the pillar, if it has one.
    """
    if "hook" not in site.config:
        return HOOK.gone(site, [config_file(site)])
    changes = config_files.differences(_files(site))
    before = read(site)
    if before is None or before != _config(site, before, given):
        changes[str(config_file(site))] = "changed" if before else "new"
    return dict(changes) | HOOK.lacks(site)


def _config(site: Site, before: dict[str, Any] | None, given: str | None) -> dict[str, Any]:
    """Return the configuration of the program, which is the one before where nothing has changed."""
    revision = str(site.config["revision"])
    ref = revision if revision.startswith("refs/") else f"refs/heads/{revision}"
    found = {"former": "", "until": 0, **(before or {}), "site": site.name, "ref": ref, "is_given": bool(given)}
    secret = given or found.get("secret") or secrets.token_hex(32)
    return found | _with_secret(before, secret)


def _with_secret(before: dict[str, Any] | None, secret: str) -> dict[str, Any]:
    if before and before["secret"] != secret:
        return {"secret": secret, "former": before["secret"], "until": int(time.time()) + _FORMER}
    return {"secret": secret}


def apply(site: Site, given: str | None) -> None:
    """Have the webhook of a site as configured, or not any more.

    Raises:
        DeploymentError: its user is another one's, or systemd refuses a unit.
    """
    changes = pending(site, given)
    if "hook" not in site.config:
        remove(site)
    elif changes:
        HOOK.make_user(site)
        with _alone(site):
            file.write_json(config_file(site), _config(site, read(site), given), mode=0o600)
        files = _files(site)
        HOOK.program.parent.mkdir(parents=True, exist_ok=True)
        if {str(HOOK.program), *map(str, files)} & {*changes}:
            archive.install(MODULE, HOOK.program)
        HOOK.start_anew(site, files)


def _alone(site: Site) -> contextlib.AbstractContextManager[None]:
    """Return a lock for changes of the secret; the folder of secrets could be locked by the site's user too."""
    return locks.of_folder(site.templates)


def rotate(site: Site) -> None:
    """Generate another secret; the former one is accepted for a day.

    Raises:
        DeploymentError: the pillar has it, or there is no webhook.
    """
    with _alone(site):
        before = read(site)
        if not before:
            raise _has_none(site)
        if before["is_given"]:
            raise DeploymentError(
                f"the pillar has the secret of the webhook of {site.name}",
                hint="change it there, and apply: the former one is accepted for a day",
            )
        file.write_json(config_file(site), before | _with_secret(before, secrets.token_hex(32)), mode=0o600)
    service = HOOK.units(site)[1].name
    units.control("stop", service, doing=f"stopping {service}")  # the next request starts it


def describe(site: Site) -> dict[str, str]:
    """Return what a git server has to know.

    Raises:
        DeploymentError: the site has no webhook.
    """
    found = read(site)
    if not found:
        raise _has_none(site)
    secret = f"as in the pillar, {site.at}:hook:secret" if found["is_given"] else found["secret"]
    answer = {"url": url(site), "content_type": "application/json", "branch": found["ref"], "secret": secret}
    left = found["until"] - time.time()
    return answer | ({"former_secret": f"accepted for {left / 3600:.0f} h"} if left > 0 else {})


def _has_none(site: Site) -> DeploymentError:
    return DeploymentError(f"{site.name} has no webhook", hint=f"set {site.at}:hook to true, and apply")


def present(site: Site) -> list[Path]:
    """Return what the site has of it."""
    return HOOK.present(site, [config_file(site)])


def remove(site: Site) -> None:
    """Remove the units, the secret, the user, and with the last one of the host the program.

    Raises:
        DeploymentError: systemd does not stop them.
    """
    HOOK.remove(site, present(site))


def _files(site: Site) -> Files:
    values = {
        "site": site.name,
        "socket": HOOK.socket(site),
        "proxy": site.proxy_group,
        "version": archive.version(MODULE),
        "program": HOOK.program,
        "config": str(config_file(site)).replace("%", "%%"),
        "user": HOOK.user(site),
        "group": entrance.group(site),
        "walls": WALLS,
    }
    texts = zip(HOOK.units(site), (_SOCKET, _SERVICE), strict=True)
    return {path: f"{config_files.OURS}\n{text.format(**values)}" for path, text in texts}
