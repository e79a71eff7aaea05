"""HAProxy (https://docs.haproxy.org/) as the balancer of sites, with a unit and a configuration file of its own.

A haproxy.cfg that is there already stays as it is, and so does the service of Debian's package.
"""

import contextlib
import csv
import re
import socket
import tempfile
import time
from collections.abc import Collection, Iterator, Mapping
from pathlib import Path
from typing import Any

import django_host_command
import django_host_config
import django_host_file
import django_host_port
import django_host_service
import django_host_template
import django_tls
from django_host_command import DeploymentError
from django_host_config import OURS, Files
from django_kinds import FILES

DAEMON = django_host_service.HAPROXY
NAME = DAEMON.service
CONFIG = Path("/etc/haproxy/django.cfg")
#: The files of certificates, which are for all places.
CERTIFICATES = Path("/etc/haproxy/django.certificates")
UNIT = Path(f"/etc/systemd/system/{NAME}.service")
#: The socket for commands, of root alone.
SOCKET = Path(f"/run/{NAME}/admin.sock")
#: What HAProxy knew of its servers before the last reload: which are drained, and which are up.
SERVERS = Path("/var/lib/django-formula/balancer/haproxy.servers")
#: The states of a server, and what HAProxy's socket calls them.
STATES = ("ready", "drain", "maint")
TEMPLATES = (f"{FILES}haproxy/haproxy.cfg", f"{FILES}haproxy/haproxy.service")

IPV6 = Path("/proc/net/if_inet6")
#: Seconds that a command or a reload may take.
PATIENCE = 10.0
#: The administrative state of a server in ``show servers state``: bits of maintenance, and of a drain.
_MAINTENANCE, _DRAIN = 0x01 | 0x04 | 0x20, 0x08
#: The place in its rows of how many checks passed, after the status and the result of the last one.
_HEALTH = 12


# Files


def files(sites: Mapping[str, Mapping[str, Any]], templates: Mapping[str, str]) -> Files:
    """Return configuration and unit, or None for each where there is no site.

    Args:
        sites: as `django_balancer` records them.
        templates: texts of `TEMPLATES`.
    """
    if not sites:
        return dict.fromkeys((CONFIG, CERTIFICATES, UNIT))
    ordered = [site for _name, site in sorted(sites.items())]
    domains = sorted({domain for site in ordered if site["https"] for domain in site["domains"]})
    paths = {"socket": SOCKET, "state": SERVERS, "certificates": CERTIFICATES}
    text = django_host_template.render(
        templates, TEMPLATES[0], ours=OURS, sites=ordered, places=_places(ordered), **paths
    )
    listed = [f"{OURS}: key and certificate of each domain.", *map(_line, domains), ""] if domains else []
    unit = django_host_template.render(templates, TEMPLATES[1], ours=OURS, name=NAME, config=CONFIG)
    return {CERTIFICATES: "\n".join(listed) or None, CONFIG: text, UNIT: unit}


def certificates() -> set[Path]:
    """Return the certificates that HAProxy uses now."""
    lines = (django_host_file.read_text(CERTIFICATES) or "").splitlines()
    return {Path(line.split()[0]) for line in lines if line.startswith("/")}


def _line(domain: str) -> str:
    return f"{django_tls.path_of(domain)} {domain}"


def _places(sites: Collection[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """Return where HAProxy listens, and which sites it serves there: those with longer paths decide last.

    Raises:
        DeploymentError: a place is for http and for https.
    """
    found = []
    for key in ("listen", "https"):
        for listen in django_host_port.ordered({listen for site in sites for listen in site[key]}):
            here = [site for site in sites if listen in site[key]]
            other = [site["name"] for site in sites if listen in site["https"] and key == "listen"]
            if other:
                raise DeploymentError(
                    f"{listen} is for http of {here[0]['name']} and for https of {other[0]}",
                    hint="change balancer:listen of the one, or tls:listen of the other",
                )
            here.sort(key=lambda site: (len(site["path"]), site["name"]))
            name = "django-" + re.sub(r"[^0-9a-z]+", "-", str(listen)).strip("-")
            found.append({"name": name, "binds": _binds(listen), "sites": here, "tls": key == "https"})
    return found


def _binds(listen: django_host_port.Listen) -> list[str]:
    if not isinstance(listen, int):
        return [listen]
    has_ipv6 = IPV6.exists() and bool(IPV6.read_text())
    return [f"0.0.0.0:{listen}", *([f":::{listen} v6only"] if has_ipv6 else [])]


def differences(wanted: Files) -> dict[str, str]:
    """Return what would change in files, by path; passwords are masked.

    Raises:
        DeploymentError: a file of that name exists that the formula did not write.
    """
    found = django_host_config.differences(wanted)
    return {path: re.sub(r"(?m)(insecure-password ).*", r"\1**********", text) for path, text in found.items()}


def check(text: str, certificates: str | None) -> None:
    """Have HAProxy test a configuration that is not installed yet.

    Args:
        text: its content.
        certificates: that of `CERTIFICATES`.

    Raises:
        DeploymentError: HAProxy refuses it; the message is HAProxy's.
    """
    SERVERS.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix=f"{NAME}-") as folder:
        path, listed = Path(folder, CONFIG.name), Path(folder, CERTIFICATES.name)
        django_host_file.write(listed, certificates or "", durable=False)
        text = text.replace(f"crt-list {CERTIFICATES}", f"crt-list {listed}")
        django_host_file.write(path, text, mode=0o600, durable=False)
        try:
            django_host_command.run(["haproxy", "-c", "-f", str(path)], doing="haproxy -c")
        except DeploymentError as error:
            found = re.search(r"(?m)\[ALERT\].*? : (?:config : )?(.*)", error.log)
            cause = (found[1] if found else error.message).replace(f"{folder}/", f"{CONFIG.parent}/")
            raise DeploymentError(
                f"HAProxy refuses its new configuration: {cause}",
                hint="the balancer keeps its running configuration; correct the pillar and apply again",
            ) from None


def install(wanted: Files, keys: Mapping[Path, str]) -> None:
    """Install files that differ, and have HAProxy run with them; on failure all is as it was before.

    Args:
        wanted: what `files` returns.
        keys: files with the keys and certificates of domains.

    Raises:
        DeploymentError: HAProxy refuses the configuration, or does not start.
    """
    text = wanted[CONFIG]
    if text is None:
        remove()
        return
    before = {path: django_host_config.read(path) for path in (*keys, *wanted)}
    try:
        _write(keys)
        check(text, wanted[CERTIFICATES])
        _write(wanted)
        run()
    except BaseException:
        _write(before)
        if before[CONFIG] is not None and django_host_service.pid(DAEMON):
            with contextlib.suppress(DeploymentError):
                run()
        raise


def _write(wanted: Mapping[Path, str | None]) -> None:
    for path, text in wanted.items():
        if text is None:
            path.unlink(missing_ok=True)
        elif django_host_config.read(path) != text:
            path.parent.mkdir(parents=True, exist_ok=True)
            django_host_file.write(path, text, mode=0o644 if path in (UNIT, CERTIFICATES) else 0o600)
            if path == UNIT:
                django_host_command.run(["systemctl", "daemon-reload"], doing="systemctl daemon-reload")


def remove() -> None:
    """Stop HAProxy, and remove what the formula has laid for it."""
    if UNIT.exists():
        django_host_service.stop(DAEMON)
    _write(files({}, {}))
    django_host_command.run(["systemctl", "daemon-reload"], doing="systemctl daemon-reload")
    SERVERS.unlink(missing_ok=True)


# The process


def run() -> None:
    """Start HAProxy and enable it at boot, or have it read its configuration anew.

    Raises:
        DeploymentError: it does not start, or keeps its old configuration.
    """
    if django_host_service.pid(DAEMON) is None:
        if not SERVERS.exists():
            django_host_file.write(SERVERS, "1\n", mode=0o600)  # the version of an empty file
        django_host_service.start(DAEMON)
    else:
        reload()
    if not django_host_service.is_enabled(DAEMON):
        django_host_service.enable(DAEMON)


def reload() -> None:
    """Have HAProxy read its configuration anew; which hosts are drained or down is known to the new process.

    Raises:
        DeploymentError: it keeps its old configuration.
    """
    keep_servers()
    before = _worker()
    django_host_command.run(["systemctl", "reload", f"{NAME}.service"], doing=f"reloading {NAME}")
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
        configuration = django_host_file.read_text(CONFIG) or ""
        django_host_file.write(SERVERS, text + "".join(_newcomers(configuration, text)), mode=0o600)


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


def set_state(site: str, host: str, state: str) -> None:
    """Have HAProxy give a host requests (`ready`), no new ones (`drain`), or none and no checks (`maint`).

    Raises:
        DeploymentError: HAProxy does not run or refuses it.
    """
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
