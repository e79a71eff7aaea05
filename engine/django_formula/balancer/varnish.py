"""Varnish between HAProxy and HAProxy: it answers what Django's headers let a shared cache answer.

HAProxy gives it the requests that have neither a session nor an effect, by one socket, and takes from it those that it
cannot answer, by another one. So hosts are balanced, checked and drained by HAProxy, and without Varnish requests go
to the hosts: see docs/decisions/0068.
"""

import os
import tempfile
import time
from collections.abc import Mapping
from pathlib import Path

from django_formula.host import commands, daemons, file, template, units
from django_formula.host.commands import DeploymentError
from django_formula.host.config_files import OURS, Files
from django_formula.kind.kinds import FILES

DAEMON = daemons.VARNISH
NAME = DAEMON.service
CONFIG = Path("/etc/varnish/django.vcl")
UNIT = Path(f"/etc/systemd/system/{NAME}.service")
#: Where Varnish takes requests from HAProxy.
SOCKET = Path(f"/run/{NAME}/http.sock")
#: Where HAProxy takes from Varnish those that it cannot answer.
HOSTS = Path("/run/django-haproxy/cached.sock")
#: What Varnish has compiled, and how it is asked.
WORK = Path("/var/lib/varnish/django")
TEMPLATES = (f"{FILES}varnish/django.vcl", f"{FILES}varnish/varnish.service")


def configuration_files(memory: str, templates: Mapping[str, str]) -> Files:
    """Return configuration and unit, or None for each.

    Args:
        memory: of the cache; empty without one.
        templates: texts of `TEMPLATES`.
    """
    if not memory:
        return dict.fromkeys((CONFIG, UNIT))
    variables = {"ours": OURS, "name": NAME, "config": CONFIG, "work": WORK, "memory": memory}
    variables |= {"socket": SOCKET, "hosts": HOSTS}
    texts = [template.render(templates, url, **variables) for url in TEMPLATES]
    return dict(zip((CONFIG, UNIT), texts, strict=True))


def check(text: str) -> None:
    """Have Varnish compile a configuration that is not installed yet.

    Raises:
        DeploymentError: Varnish refuses it; the message is Varnish's.
    """
    with tempfile.TemporaryDirectory(prefix=f"{NAME}-") as folder:
        path = Path(folder, CONFIG.name)
        file.write(path, text, durable=False)
        try:
            commands.run(["varnishd", "-j", "none", "-C", "-n", f"{folder}/work", "-f", str(path)], doing="varnishd -C")
        except DeploymentError as error:
            lines = [line for line in error.log.splitlines() if line.strip()]
            cause = " ".join(lines[:3]).replace(f"{folder}/", f"{CONFIG.parent}/") or error.message
            raise DeploymentError(
                f"Varnish refuses its new configuration: {cause}",
                hint="the balancer keeps its running configuration; balancer:kind: haproxy has no Varnish",
            ) from None


def start_or_reload() -> None:
    """Start Varnish and enable it at boot, restart it with a new configuration, or stop it where it has none.

    HAProxy goes past it meanwhile.

    Raises:
        DeploymentError: it does not start.
    """
    if not CONFIG.exists():
        _stop()
    elif daemons.pid(DAEMON) is None:
        daemons.start(DAEMON)
    elif time.time() - max(path.stat().st_mtime for path in (CONFIG, UNIT)) < daemons.age(DAEMON):
        daemons.restart(DAEMON)
    if CONFIG.exists() and not daemons.is_enabled(DAEMON):
        daemons.enable(DAEMON)


def _stop() -> None:
    """Stop Varnish, whose unit is removed."""
    if daemons.pid(DAEMON) is not None:
        units.control("stop", f"{NAME}.service", doing=f"stopping {NAME}")
    link = UNIT.parent / "multi-user.target.wants" / UNIT.name
    if os.path.lexists(link):
        link.unlink()


def purge(site: str) -> None:
    """Have Varnish forget all answers of a site.

    Raises:
        DeploymentError: it does not answer.
    """
    if daemons.pid(DAEMON) is None:
        return  # its memory went with it
    argv = ["varnishadm", "-n", str(WORK), "-t", "10", "ban", f"obj.http.X-Django-Site == {site}"]
    commands.run(argv, doing=f"purging {site} from Varnish", hint=f"run systemctl restart {NAME}")
