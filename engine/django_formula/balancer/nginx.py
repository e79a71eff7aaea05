"""nginx as the balancer of sites, with units and a configuration file of its own.

The open source nginx has no checks: `balancer.check` asks the hosts, and nginx reads who is out from the files
that it writes. An nginx.conf that is there already stays as it is, and so does the service of Debian's package.
"""

import base64
import hashlib
import re
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from django_formula.balancer import check as balancer_check
from django_formula.balancer import program as balancer_program
from django_formula.balancer.program import STATE, Entries, Place
from django_formula.host import archive, commands, daemons, file, template, units
from django_formula.host.commands import DeploymentError
from django_formula.host.config_files import OURS, Files
from django_formula.kind.kinds import FILES
from django_formula.proxy import nginx
from django_formula.site import sites as site_sites
from django_formula.tls import certificates
from django_formula.untrusted import headers

TITLE = "nginx"
DAEMON = daemons.BALANCING_NGINX
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
#: The least size of a bucket of its table of server names.
_BUCKET = 128
#: The version of nginx that can refuse a handshake: Ubuntu 22.04 has 1.18.
_REJECTS = (1, 19, 4)


def configuration_files(sites: Entries, templates: Mapping[str, str]) -> Files:
    """Return configuration and units, or None for each where there is no site.

    Args:
        sites: as `balancer.plan` records them.
        templates: texts of `TEMPLATES`.
    """
    present = dict.fromkeys(sorted(balancer_check.SERVERS.glob("*.conf")))
    completed, authorities = balancer_program.with_clients(sites, CONFIG.parent)
    if not sites:
        return {**present, **authorities, **dict.fromkeys((CONFIG, UNIT, CHECKS, TIMER))}
    ordered = [_with_login(site, number) for number, site in enumerate(completed)]
    known = balancer_check.states()
    listed = {balancer_check.SERVERS / f"{site['name']}.conf": balancer_check.servers(site, known) for site in ordered}
    variables = {
        "ours": OURS,
        "sites": ordered,
        "bucket": max(_BUCKET, nginx.bucket(max(len(domain) for site in ordered for domain in site["domains"]))),
        "places": [_place(place) for place in balancer_program.places(ordered)],
        **balancer_program.challenges(ordered),
        "servers": balancer_check.SERVERS,
        "pages": balancer_check.PAGES,
        "name": NAME,
        "config": CONFIG,
        "user": ordered[0]["user"],
        "rejects": nginx.version() >= _REJECTS,
        "program": PROGRAM,
        "subject": headers.CLIENT_SUBJECT,
        "digest": hashlib.sha256(archive.packed("django_formula.balancer.check")).hexdigest(),
        "lock": site_sites.RUNTIME / "balancer.lock",
        "record": STATE / "sites.json",
    }
    texts = [template.render(templates, url, **variables) for url in TEMPLATES]
    return {**present, **authorities, **listed, **dict(zip((CONFIG, UNIT, CHECKS, TIMER), texts, strict=True))}


def _place(place: Place) -> dict[str, Any]:
    """Return a place with its domains: of each the certificate, and the sites by path."""
    listening = nginx.PROXY.listening([], [place.listen])
    domains: dict[str, list[Mapping[str, Any]]] = {}
    for site in place.sites:
        for domain in site["domains"]:
            redirects = domain in site.get("redirects", ())  # by the proxy of a host, whatever the path is
            domains.setdefault(domain, []).append({**site, "path": "/"} if redirects else site)
    return {
        "listens": balancer_program.addresses(place.listen, "{}", "[::]:{}"),
        "flags": listening["flags"] if place.tls else "",
        "http2_directive": place.tls and listening["http2_directive"],
        "tls": place.tls,
        "domains": [
            {"name": domain, "certificate": certificates.path_of(domain), "sites": here}
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
        moved = (f"{balancer_check.SERVERS}/", f"/var/cache/{NAME}/", f"/run/{NAME}/nginx.pid")
        for path, text in wanted.items():
            if path.suffix == ".conf" and text is not None:
                for place in moved:
                    text = text.replace(place, f"{folder}/{place.rpartition('/')[2]}")
                file.write(Path(folder, path.name), text, mode=0o600, durable=False)
        try:
            argv = ["nginx", "-t", "-q", "-c", f"{folder}/{CONFIG.name}"]
            commands.run(argv, doing="nginx -t")
        except DeploymentError as error:
            pattern = r"\[emerg\] (?:\d+#\d+: )?(.*)"
            raise balancer_program.refused(TITLE, error, pattern, folder, CONFIG.parent) from None


def start_or_reload() -> None:
    """Start nginx and its checks and enable them at boot, or have it read its configuration anew.

    Raises:
        DeploymentError: it does not start, or keeps its old configuration.
    """
    if not archive.IS_PACKED:
        program = archive.packed("django_formula.balancer.check")
        if not PROGRAM.exists() or PROGRAM.read_bytes() != program:
            file.write(PROGRAM, program, mode=0o600)
    daemons.reload(DAEMON)
    if not daemons.is_enabled(DAEMON):
        daemons.enable(DAEMON)
    units.start_timer(TIMER.name)


def prepare(sites: Entries) -> None:
    """Ask the hosts before nginx starts, which gives requests only to those that have passed."""
    balancer_check.keep(sites, balancer_check.ask(sites, balancer_check.states()))


def forget() -> None:
    """Stop the checks, and remove what they know."""
    units.end_timer(TIMER.name)
    for path in (PROGRAM, balancer_check.STATES):
        path.unlink(missing_ok=True)


def purge(sites: Entries, site: str) -> None:
    """Do nothing: nginx keeps no responses."""


def ask_hosts(sites: Entries) -> None:
    """Ask the hosts now, and give requests only to those that have passed.

    Raises:
        DeploymentError: nginx does not read its configuration.
    """
    known = balancer_check.states()
    if balancer_check.keep(sites, balancer_check.ask(sites, known)):
        daemons.reload(DAEMON)


# Servers


def servers(site: str) -> dict[str, dict[str, Any]]:
    """Return the hosts of a site by name: state, last check, whether it is up.

    Raises:
        DeploymentError: nginx does not run.
    """
    if daemons.pid(DAEMON) is None:
        raise DeploymentError(f"{NAME} does not run", hint=f"run systemctl status {NAME}")
    known = balancer_check.states().get(site, {})
    return {host: {key: state[key] for key in ("state", "is_up", "check")} for host, state in known.items()}


def set_state(sites: Entries, site: str, host: str, state: str) -> None:
    """Give a host requests (`ready`), no new ones (`drain`), or none and no checks (`maint`).

    Raises:
        DeploymentError: nginx does not read its configuration.
    """
    if balancer_check.set_state(sites, site, host, state):
        daemons.reload(DAEMON)
    if state == "ready":
        ask_hosts(sites)
