"""nginx as the balancer of sites, with units and a configuration file of its own.

The open source nginx has no checks: `django_balancer_check` asks the hosts, and nginx reads who is out from the files
that it writes. An nginx.conf that is there already stays as it is, and so does the service of Debian's package.
"""

import base64
import hashlib
import re
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import django_balancer_check
import django_balancer_program
import django_host_archive
import django_host_command
import django_host_file
import django_host_service
import django_host_template
import django_host_unit
import django_proxy_nginx
import django_site
import django_tls
import django_wall_headers
from django_balancer_program import STATE, Entries, Place
from django_host_command import DeploymentError
from django_host_config import OURS, Files
from django_kinds import FILES

TITLE = "nginx"
DAEMON = django_host_service.BALANCING_NGINX
NAME = DAEMON.service
CONFIG = Path("/etc/nginx/django-balancer.conf")
UNIT = Path(f"/etc/systemd/system/{NAME}.service")
#: The service and the timer of the checks.
CHECKS = UNIT.with_name(f"{NAME}-checks.service")
TIMER = CHECKS.with_suffix(".timer")
PROGRAM = STATE / "checks.pyz"
TEMPLATES = tuple(
    f"{FILES}nginx/{name}" for name in ("balancer.conf", "balancer.service", "checks.service", "checks.timer")
)
#: The version of nginx that can refuse a handshake: Ubuntu 22.04 has 1.18.
_REJECTS = (1, 19, 4)


def files(sites: Entries, templates: Mapping[str, str]) -> Files:
    """Return configuration and units, or None for each where there is no site.

    Args:
        sites: as `django_balancer` records them.
        templates: texts of `TEMPLATES`.
    """
    present = dict.fromkeys(sorted(django_balancer_check.SERVERS.glob("*.conf")))
    completed, authorities = django_balancer_program.with_clients(sites, CONFIG.parent)
    if not sites:
        return {**present, **authorities, **dict.fromkeys((CONFIG, UNIT, CHECKS, TIMER))}
    ordered = [_with_login(site, number) for number, site in enumerate(completed)]
    known = django_balancer_check.states()
    listed = {
        django_balancer_check.SERVERS / f"{site['name']}.conf": django_balancer_check.servers(site, known)
        for site in ordered
    }
    variables = {
        "ours": OURS,
        "sites": ordered,
        "places": [_place(place) for place in django_balancer_program.places(ordered)],
        **django_balancer_program.challenges(ordered),
        "servers": django_balancer_check.SERVERS,
        "pages": django_balancer_check.PAGES,
        "name": NAME,
        "config": CONFIG,
        "user": ordered[0]["user"],
        "rejects": django_proxy_nginx.version() >= _REJECTS,
        "program": PROGRAM,
        "subject": django_wall_headers.CLIENT_SUBJECT,
        "digest": hashlib.sha256(django_host_archive.packed("django_balancer_check")).hexdigest(),
        "lock": django_site.RUNTIME / "balancer.lock",
        "record": STATE / "sites.json",
    }
    texts = [django_host_template.render(templates, url, **variables) for url in TEMPLATES]
    return {**present, **authorities, **listed, **dict(zip((CONFIG, UNIT, CHECKS, TIMER), texts, strict=True))}


def _place(place: Place) -> dict[str, Any]:
    """Return a place with its domains: of each the certificate, and the sites by path."""
    listening = django_proxy_nginx.PROXY.listening([], [place.listen])
    domains: dict[str, list[Mapping[str, Any]]] = {}
    for site in place.sites:
        for domain in site["domains"]:
            domains.setdefault(domain, []).append(site)
    return {
        "listens": django_balancer_program.addresses(place.listen, "{}", "[::]:{}"),
        "flags": listening["flags"] if place.tls else "",
        "http2_directive": place.tls and listening["http2_directive"],
        "tls": place.tls,
        "domains": [
            {"name": domain, "certificate": django_tls.path_of(domain), "sites": here}
            for domain, here in sorted(domains.items())
        ],
    }


def _with_login(site: Mapping[str, Any], number: int) -> dict[str, Any]:
    """Return a site with a pattern of the header that has the login of its status page, and a variable for it."""
    status = site["status"] or {"user": "", "password": ""}
    value = base64.b64encode(f"{status['user']}:{status['password']}".encode()).decode()
    return {**site, "login": f"~^Basic {re.escape(value)}\\z", "variable": f"$django_login_{number}"}


def masked(text: str) -> str:
    """Return a difference of files without passwords."""
    return re.sub(r"(?m)(~\^Basic\\*).*", r"\1**********", text)


def check(wanted: Files) -> None:
    """Have nginx test a configuration that is not installed yet.

    Raises:
        DeploymentError: nginx refuses it; the message is nginx's.
    """
    with tempfile.TemporaryDirectory(prefix=f"{NAME}-") as folder:
        moved = (f"{django_balancer_check.SERVERS}/", f"/var/cache/{NAME}/", f"/run/{NAME}/nginx.pid")
        for path, text in wanted.items():
            if path.suffix == ".conf" and text is not None:
                for place in moved:
                    text = text.replace(place, f"{folder}/{place.rpartition('/')[2]}")
                django_host_file.write(Path(folder, path.name), text, mode=0o600, durable=False)
        try:
            argv = ["nginx", "-t", "-q", "-c", f"{folder}/{CONFIG.name}"]
            django_host_command.run(argv, doing="nginx -t")
        except DeploymentError as error:
            pattern = r"\[emerg\] (?:\d+#\d+: )?(.*)"
            raise django_balancer_program.refused(TITLE, error, pattern, folder, CONFIG.parent) from None


def run() -> None:
    """Start nginx and its checks and enable them at boot, or have it read its configuration anew.

    Raises:
        DeploymentError: it does not start, or keeps its old configuration.
    """
    if not django_host_archive.IS_PACKED:
        program = django_host_archive.packed("django_balancer_check")
        if not PROGRAM.exists() or PROGRAM.read_bytes() != program:
            django_host_file.write(PROGRAM, program, mode=0o600)
    django_host_service.reload(DAEMON)
    if not django_host_service.is_enabled(DAEMON):
        django_host_service.enable(DAEMON)
    django_host_unit.start_timer(TIMER.name)


def prepare(sites: Entries) -> None:
    """Ask the hosts before nginx starts, which gives requests only to those that have passed."""
    django_balancer_check.keep(sites, django_balancer_check.ask(sites, django_balancer_check.states()))


def forget() -> None:
    """Stop the checks, and remove what they know."""
    django_host_unit.end_timer(TIMER.name)
    for path in (PROGRAM, django_balancer_check.STATES):
        path.unlink(missing_ok=True)


def purge(sites: Entries, site: str) -> None:
    """Do nothing: nginx keeps no responses."""


def settle(sites: Entries) -> None:
    """Ask the hosts now, and give requests only to those that have passed.

    Raises:
        DeploymentError: nginx does not read its configuration.
    """
    known = django_balancer_check.states()
    if django_balancer_check.keep(sites, django_balancer_check.ask(sites, known)):
        django_host_service.reload(DAEMON)


# Servers


def servers(site: str) -> dict[str, dict[str, Any]]:
    """Return the hosts of a site by name: state, last check, whether it is up.

    Raises:
        DeploymentError: nginx does not run.
    """
    if django_host_service.pid(DAEMON) is None:
        raise DeploymentError(f"{NAME} does not run", hint=f"run systemctl status {NAME}")
    known = django_balancer_check.states().get(site, {})
    return {host: {key: state[key] for key in ("state", "is_up", "check")} for host, state in known.items()}


def set_state(sites: Entries, site: str, host: str, state: str) -> None:
    """Give a host requests (`ready`), no new ones (`drain`), or none and no checks (`maint`).

    Raises:
        DeploymentError: nginx does not read its configuration.
    """
    if django_balancer_check.set_state(sites, site, host, state):
        django_host_service.reload(DAEMON)
    if state == "ready":
        settle(sites)
