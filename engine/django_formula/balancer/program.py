"""The programs that balance sites, HAProxy and nginx: what a module of one has, and how its files are installed."""

from __future__ import annotations

import contextlib
import re
import time
from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Any, NamedTuple, Protocol

from django_formula.host import config_files, daemons, file, ports
from django_formula.host import units as host_units
from django_formula.host.commands import DeploymentError
from django_formula.host.config_files import Files
from django_formula.host.daemons import Daemon
from django_formula.host.ports import Listen
from django_formula.site import domains, unread
from django_formula.tls import acme, certificates
from django_formula.untrusted.text import in_command

#: Where the balancer of this host has its records. Of root alone.
STATE = Path("/var/lib/django-formula/balancer")
#: Its name in `site.unread`.
NOTE = "balancer"
IPV6 = Path("/proc/net/if_inet6")
#: The states of a host, for all programs.
STATES = ("ready", "drain", "maint")
#: Seconds in which a program that is stopped closes its ports.
PATIENCE = 15.0
KEPT = "the balancer keeps its running configuration; correct the pillar and apply again"

Entries = Mapping[str, Mapping[str, Any]]  # the sites of a balancer, by name


class Program(Protocol):
    """A program that balances; each is a module, ``balancer/<program>.py``, with units of its own."""

    #: How messages call it.
    TITLE: str
    DAEMON: Daemon
    UNIT: Path
    CONFIG: Path
    #: ``salt://`` URLs of its templates.
    TEMPLATES: tuple[str, ...]

    def configuration_files(self, sites: Entries, templates: Mapping[str, str]) -> Files:
        """Return its files, or None for each where there is no site."""

    def masked(self, text: str) -> str:
        """Return a difference of its files without passwords."""

    def check(self, wanted: Files) -> None:
        """Have the program test files that are not installed yet; raise what it says against them."""

    def start_or_reload(self) -> None:
        """Start it and enable it at boot, or have it read its configuration anew."""

    def prepare(self, sites: Entries) -> None:
        """Have it know which hosts may get requests, before it starts."""

    def forget(self) -> None:
        """Remove what it has recorded, once it has stopped."""

    def ask_hosts(self, sites: Entries) -> None:
        """Have the hosts that may not get requests now get none, if the program itself does not see to that."""

    def purge(self, sites: Entries, site: str) -> None:
        """Forget the responses of a site that it has kept."""

    def servers(self, site: str) -> dict[str, dict[str, Any]]:
        """Return the hosts of a site as the program sees them, by name: state, check, whether it is up, weight."""

    def set_state(self, sites: Entries, site: str, host: str, state: str) -> None:
        """Have it give a host requests (`ready`), no new ones (`drain`), or none and no checks (`maint`)."""


class Place(NamedTuple):
    """Where a balancer listens, and the sites there: those with longer paths last."""

    listen: Listen
    tls: bool
    sites: list[Mapping[str, Any]]


def with_clients(sites: Entries, etc: Path) -> tuple[list[dict[str, Any]], Files]:
    """Return the sites by their names with what programs read in addition, and the files of authorities of clients.

    Each gets ``host``, the name by which its health is asked for, ``authorities``, the file by which certificates of
    its clients are verified or empty, and ``verify``, ``required`` or ``optional``.

    Args:
        sites: as `balancer.plan` records them.
        etc: the folder of the program's files.
    """
    found: list[dict[str, Any]] = []
    files: Files = dict.fromkeys(etc.glob("django-*.clients.pem"))
    for name, site in sorted(sites.items()):
        clients = site.get("clients") or {}
        path, written = certificates.client_authorities(name, clients, etc)
        files |= written
        more = {"authorities": path, "verify": clients.get("verify") or "required"}
        found.append({**site, "host": domains.host(site["domains"][0]), **more})
    return found, files


def places(sites: Collection[Mapping[str, Any]]) -> list[Place]:
    """Return where a balancer listens, and which sites it serves there.

    Raises:
        DeploymentError: a place is for http and for https.
    """
    found = []
    for key in ("listen", "https"):
        for listen in ports.ordered({listen for site in sites for listen in site[key]}):
            here = [site for site in sites if listen in site[key]]
            other = [site["name"] for site in sites if listen in site["https"] and key == "listen"]
            if other:
                raise DeploymentError(
                    f"{listen} is for http of {here[0]['name']} and for https of {other[0]}",
                    hint="change balancer:listen of the one, or tls:listen of the other",
                )
            here.sort(key=lambda site: (len(site["path"]), site["name"]))
            found.append(Place(listen, key == "https", here))
    return found


def challenges(sites: Collection[Mapping[str, Any]]) -> dict[str, Any]:
    """Return the template variables of http-01: the socket of this host's answers, and the other balancers."""
    asked = [site for site in sites if site["challenge"]]
    others = sorted({address for site in asked for address in site["others"]})
    return {"challenges": acme.CHALLENGES if asked else None, "others": others}


def addresses(listen: Listen, ipv4: str, ipv6: str) -> list[str]:
    """Return how a program writes a place: a port without an address is for IPv4, and for IPv6 where the host has it.

    Args:
        listen: the place.
        ipv4: the form of a port of IPv4, such as ``0.0.0.0:{}``.
        ipv6: that of IPv6.
    """
    if not isinstance(listen, int):
        return [listen]
    has_ipv6 = IPV6.exists() and bool(IPV6.read_text())
    return [ipv4.format(listen), *([ipv6.format(listen)] if has_ipv6 else [])]


def differences(program: Program, wanted: Files) -> dict[str, str]:
    """Return what would change in files, by path; passwords are masked.

    Raises:
        DeploymentError: a file of that name exists that the formula did not write.
    """
    return {path: program.masked(text) for path, text in config_files.differences(wanted).items()}


def install(program: Program, wanted: Files, keys: Mapping[Path, str]) -> None:
    """Install files that differ, and have the program run with them; on failure all is as it was before.

    Args:
        program: the program.
        wanted: its files.
        keys: files with the keys and certificates of domains.

    Raises:
        DeploymentError: it refuses the configuration, or does not start.
    """
    before = {path: config_files.read(path) for path in (*keys, *wanted)}
    with unread.noted([NOTE]):
        _install(program, wanted, keys, before)


def _install(program: Program, wanted: Files, keys: Mapping[Path, str], before: Files) -> None:
    try:
        write(program, keys)
        program.check(wanted)
        write(program, wanted)
        program.start_or_reload()
    except BaseException:
        write(program, before)
        if before[program.CONFIG] is not None and daemons.pid(program.DAEMON):
            with contextlib.suppress(DeploymentError):
                program.start_or_reload()
        raise


def give_up(program: Program, places: Collection[Listen]) -> None:
    """Have a program close its ports, and wait until it has; it may still finish the requests that it has.

    Raises:
        DeploymentError: it does not.
    """
    service = f"{program.DAEMON.service}.service"
    host_units.control("stop", "--no-block", service, doing=f"stopping {service}")
    deadline = time.monotonic() + PATIENCE
    while taken := [place for place in places if _is_open(place)]:
        if time.monotonic() > deadline:
            raise DeploymentError(
                f"{program.TITLE} still listens on {taken[0]} after it was stopped",
                hint=in_command("systemctl", "status", service),
            )
        time.sleep(0.01)


def _is_open(place: Listen) -> bool:
    host, port = ports.split(place)
    return bool(ports.listening(host).get(port))


def remove(program: Program) -> None:
    """Stop a program, and remove what the formula has laid for it; nothing where there is nothing."""
    if program.UNIT.exists():
        daemons.stop(program.DAEMON)
        program.forget()
    write(program, program.configuration_files({}, {}))


def write(program: Program, wanted: Mapping[Path, str | None]) -> None:
    """Write files that differ, or remove those without content."""
    units = {path: text for path, text in wanted.items() if path.parent == program.UNIT.parent}
    before = {path: config_files.read(path) for path in units}
    for path, text in wanted.items():
        if config_files.read(path) == text:
            continue  # a timer cannot write to /etc
        if text is None:
            path.unlink()
        else:
            path.parent.mkdir(parents=True, exist_ok=True)
            is_public = path in units or path.suffix == ".vcl"  # which Varnish reads without being root
            file.write(path, text, mode=0o644 if is_public else 0o600)
    if units != before:
        host_units.daemon_reload()


def refused(title: str, error: DeploymentError, pattern: str, folder: str, installed: Path) -> DeploymentError:
    """Return the error for a configuration that a program refuses.

    Args:
        title: the program.
        error: what its own test has ended with.
        pattern: finds the reason in its output.
        folder: where the files were for the test.
        installed: the folder that they are for.
    """
    found = re.search(pattern, error.log)
    reason = found[1] if found else error.message
    line, cause = _line(reason, Path(folder)), reason.replace(f"{folder}/", f"{installed}/")
    details = [f"the line: {line}"] if line else []
    return DeploymentError(f"{title} refuses its new configuration: {cause}", details=details, hint=KEPT)


def _line(cause: str, folder: Path) -> str:
    """Return the line that an error is about, of a file that is not installed; empty for one that may have a secret."""
    found = re.search(r"/([\w.-]+):(\d+)", cause)
    lines = (file.read_text(folder / found[1]) or "").splitlines() if found else []
    line = lines[int(found[2]) - 1].strip() if found and 0 < int(found[2]) <= len(lines) else ""
    return "" if re.search(r"password|Basic|\bhdr\b|set-header|add-header|set_header|http-check", line) else line
