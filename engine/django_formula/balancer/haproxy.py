"""HAProxy (https://docs.haproxy.org/) as the balancer of sites, with a unit and a configuration file of its own.

A haproxy.cfg that is there already stays as it is, and so does the service of Debian's package.
"""

import contextlib
import csv
import re
import socket
import tempfile
import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from django_formula.balancer import program
from django_formula.balancer import varnish as balancer_varnish
from django_formula.balancer.program import Entries, Place
from django_formula.host import commands, daemons, template, units
from django_formula.host import file as host_file
from django_formula.host.commands import DeploymentError, size
from django_formula.host.config_files import OURS, Files
from django_formula.kind.kinds import FILES
from django_formula.site import domains as site_domains
from django_formula.tls import certificates
from django_formula.untrusted import headers

TITLE = "HAProxy"
DAEMON = daemons.HAPROXY
NAME = DAEMON.service
CONFIG = Path("/etc/haproxy/django.cfg")
#: The files of certificates, which are for all places.
CERTIFICATES = Path("/etc/haproxy/django.certificates")
UNIT = Path(f"/etc/systemd/system/{NAME}.service")
#: The socket for commands, of root alone.
SOCKET = Path(f"/run/{NAME}/admin.sock")
#: What HAProxy knew of its servers before the last reload: which are drained, and which are up.
SERVERS = program.STATE / "haproxy.servers"
TEMPLATES: tuple[str, ...] = (
    *(f"{FILES}haproxy/haproxy.cfg", f"{FILES}haproxy/haproxy.service"),
    *balancer_varnish.TEMPLATES,
)

#: Seconds that a command or a reload may take.
PATIENCE = 10.0
#: The administrative state of a server in ``show servers state``: bits of maintenance, and of a drain.
_MAINTENANCE, _DRAIN = 0x01 | 0x04 | 0x20, 0x08
#: The place in its rows of how many checks passed, after the status and the result of the last one.
_HEALTH = 12


# Files


def configuration_files(sites: Entries, templates: Mapping[str, str]) -> Files:
    """Return configuration and unit, or None for each where there is no site.

    Args:
        sites: as `balancer.plan` records them.
        templates: texts of `TEMPLATES`.
    """
    if not sites:
        _sites, authorities = program.with_clients({}, CONFIG.parent)
        return {
            **balancer_varnish.configuration_files("", {}),
            **authorities,
            **dict.fromkeys((CONFIG, CERTIFICATES, UNIT)),
        }
    ordered, authorities = program.with_clients(sites, CONFIG.parent)
    secure = {domain: _clients(site) for site in ordered if site["https"] for domain in site["domains"]}
    places = [_place(place) for place in program.places(ordered)]
    cached = [site for site in ordered if site["memory"]]
    varnish = balancer_varnish.configuration_files(
        max((site["memory"] for site in cached), key=size, default=""), templates
    )
    cache = {"cached": cached, "cache": balancer_varnish.SOCKET, "hosts": balancer_varnish.HOSTS}
    cache |= program.challenges(ordered)
    cache["subject"] = headers.CLIENT_SUBJECT
    paths = {**cache, "socket": SOCKET, "state": SERVERS, "certificates": CERTIFICATES}
    text = template.render(templates, TEMPLATES[0], ours=OURS, sites=ordered, places=places, **paths)
    listed = (
        [f"{OURS}: key and certificate of each domain.", *(_line(*one) for one in sorted(secure.items())), ""]
        if secure
        else []
    )
    unit = template.render(templates, TEMPLATES[1], ours=OURS, name=NAME, config=CONFIG, cached=cached)
    return {**varnish, **authorities, CERTIFICATES: "\n".join(listed) or None, CONFIG: text, UNIT: unit}


def _line(domain: str, clients: str) -> str:
    return f"{certificates.path_of(domain)} {clients}{domain}"


def _clients(site: Mapping[str, Any]) -> str:
    """Return the options by which HAProxy asks the clients of a site for a certificate."""
    return f"[ca-file {site['authorities']} verify {site['verify']}] " if site["authorities"] else ""


def _place(place: Place) -> dict[str, Any]:
    name = "django-" + re.sub(r"[^0-9a-z]", "-", str(place.listen)).strip("-")  # 2001:db8::1 is not 2001:db8:1::
    binds = program.addresses(place.listen, "0.0.0.0:{}", ":::{} v6only")
    domains = sorted({domain for site in place.sites for domain in site["domains"]})
    wildcards = sorted(filter(site_domains.is_wildcard, domains), key=lambda domain: domain.count("."))
    hosts = [domain for domain in domains if domain not in wildcards] if wildcards else []
    return {
        **{"name": name, "binds": binds, "sites": place.sites, "tls": place.tls},
        "wildcards": wildcards,
        "hosts": hosts,
    }


def masked(text: str) -> str:
    """Return a difference of files without passwords."""
    return re.sub(r"(?m)(insecure-password ).*", r"\1**********", text)


def check(wanted: Files) -> None:
    """Have HAProxy test a configuration that is not installed yet.

    Raises:
        DeploymentError: HAProxy refuses it; the message is HAProxy's.
    """
    vcl = wanted[balancer_varnish.CONFIG]
    if vcl:
        balancer_varnish.check(vcl)
    SERVERS.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix=f"{NAME}-") as folder:
        path, listed = Path(folder, CONFIG.name), Path(folder, CERTIFICATES.name)
        host_file.write(listed, wanted[CERTIFICATES] or "", durable=False)
        text = (wanted[CONFIG] or "").replace(f"crt-list {CERTIFICATES}", f"crt-list {listed}")
        for file in (file for file in wanted if file.name.endswith(".clients.pem") and wanted[file]):
            host_file.write(Path(folder, file.name), wanted[file] or "", durable=False)
            lines = listed.read_text().replace(f"ca-file {file} ", f"ca-file {Path(folder, file.name)} ")
            host_file.write(listed, lines, durable=False)
        host_file.write(path, text, mode=0o600, durable=False)
        try:
            commands.run(["haproxy", "-c", "-f", str(path)], doing="haproxy -c")
        except DeploymentError as error:
            pattern = r"(?m)\[ALERT\].*? : (?:config : )?(.*)"
            raise program.refused(TITLE, error, pattern, folder, CONFIG.parent) from None


def prepare(sites: Entries) -> None:
    """Do nothing: HAProxy takes hosts for up until its first checks."""


def forget() -> None:
    """Remove what HAProxy knew of its servers, and Varnish."""
    for path in balancer_varnish.configuration_files("", {}):
        path.unlink(missing_ok=True)
    balancer_varnish.start_or_reload()
    SERVERS.unlink(missing_ok=True)


def purge(sites: Entries, site: str) -> None:
    """Forget what Varnish has kept of a site.

    Raises:
        DeploymentError: Varnish does not answer.
    """
    if sites[site]["memory"]:
        balancer_varnish.purge(site)


def ask_hosts(sites: Entries) -> None:
    """Do nothing: HAProxy's own checks look at the release too."""


# The process


def start_or_reload() -> None:
    """Start HAProxy and enable it at boot, or have it read its configuration anew.

    Raises:
        DeploymentError: it does not start, or keeps its old configuration.
    """
    if daemons.pid(DAEMON) is None:
        if not SERVERS.exists():
            host_file.write(SERVERS, "1\n", mode=0o600)  # the version of an empty file
        daemons.start(DAEMON)
    else:
        reload()
    balancer_varnish.start_or_reload()
    if not daemons.is_enabled(DAEMON):
        daemons.enable(DAEMON)


def reload() -> None:
    """Have HAProxy read its configuration anew; which hosts are drained or down is known to the new process.

    Raises:
        DeploymentError: it keeps its old configuration.
    """
    keep_servers()
    before = _worker()
    units.control("reload", f"{NAME}.service", doing=f"reloading {NAME}")
    deadline = time.monotonic() + PATIENCE
    while _worker() in (None, before):
        if time.monotonic() > deadline:
            raise DeploymentError(
                f"{NAME} still uses its old configuration after it was reloaded",
                hint=f"read its journal: journalctl --unit {NAME}",
            )
        time.sleep(0.05)


def _worker() -> str | None:
    """Return the process that takes requests, as HAProxy's socket gives it; None where it does not answer."""
    with contextlib.suppress(OSError):
        found = re.search(r"(?m)^Pid: (\d+)$", ask("show info"))
        return found[1] if found else None
    return None


def keep_servers() -> None:
    """Write what HAProxy knows of its servers to the file that a new process begins with."""
    with contextlib.suppress(OSError):
        text = ask("show servers state")
        configuration = host_file.read_text(CONFIG) or ""
        host_file.write(SERVERS, text + "".join(_newcomers(configuration, text)), mode=0o600)


def _newcomers(configuration: str, state: str) -> Iterator[str]:
    """Yield lines for the servers that a running HAProxy does not have yet: down until their checks pass.

    HAProxy takes a server that it does not know for up, and would give it requests before it has checked its release.
    """
    rows = {row[1]: row for line in state.splitlines() if len(row := line.split()) > _HEALTH and row[0] != "#"}
    known = {(row[1], row[3]) for line in state.splitlines() if len(row := line.split()) > _HEALTH}
    for backend, text in re.findall(r"(?ms)^backend (\S+)$(.*?)(?=^\S|\Z)", configuration):
        for name in re.findall(r"(?m)^    server (\S+) ", text):
            if backend in rows and (backend, name) not in known:
                row = [*rows[backend]]  # HAProxy takes address and weight from its configuration
                row[3], row[5], row[6] = name, "0", "0"
                row[_HEALTH - 2 : _HEALTH + 1] = ["1", "0", "0"]
                yield " ".join(row) + "\n"


def ask(command: str) -> str:
    """Return the answer of HAProxy's socket.

    Raises:
        OSError: HAProxy does not run.
    """
    with socket.socket(socket.AF_UNIX) as connection:
        connection.settimeout(PATIENCE)
        connection.connect(str(SOCKET))
        connection.sendall(f"{command}\n".encode())
        blocks = []
        while block := connection.recv(1 << 16):
            blocks.append(block)
    return b"".join(blocks).decode(errors="replace")


# Servers


def servers(site: str) -> dict[str, dict[str, Any]]:
    """Return the hosts of a site as HAProxy sees them, by name: state, check, open requests, weight.

    Raises:
        DeploymentError: HAProxy does not run.
    """
    states = {}
    for line in _answer("show servers state").splitlines()[2:]:
        fields = line.split()
        if len(fields) > 6 and fields[1] == f"django-{site}":
            bits = int(fields[6])
            states[fields[3]] = "maint" if bits & _MAINTENANCE else "drain" if bits & _DRAIN else "ready"
    statistics = csv.DictReader(_answer("show stat").removeprefix("# ").splitlines())
    return {
        row["svname"]: {
            "state": states[row["svname"]],
            "is_up": row["check_status"] in ("L7OK", "* L7OK") or row["status"].startswith("UP"),
            "check": " ".join(filter(None, [row["check_status"], row["last_chk"]])),
            "requests": int(row["scur"]),
            "weight": int(row["weight"]),
        }
        for row in statistics
        if row["pxname"] == f"django-{site}" and row["svname"] in states
    }


def set_state(sites: Entries, site: str, host: str, state: str) -> None:
    """Have HAProxy give a host requests (`ready`), no new ones (`drain`), or none and no checks (`maint`).

    Raises:
        DeploymentError: HAProxy does not run or refuses it.
    """
    del sites
    refusal = _answer(f"set server django-{site}/{host} state {state}").strip()
    if refusal:
        raise DeploymentError(f"HAProxy refuses to set {host} of {site} to {state}: {refusal}")
    keep_servers()  # so that it is so too after a restart, or a reload on the command line


def _answer(command: str) -> str:
    try:
        return ask(command)
    except OSError as error:
        raise DeploymentError(
            f"{NAME} does not answer on {SOCKET}: {error.strerror or error}", hint=f"run systemctl status {NAME}"
        ) from None
