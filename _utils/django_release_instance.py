"""The application server of one release: its files, who keeps it alive, whether it runs, answers and is idle."""

import contextlib
import json
import os
import re
import signal
import socket
import threading
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import django_host_memory
import django_host_proc
import django_kinds
import django_process
import django_process_supervisor
import django_process_systemd
import django_server
from django_host_command import DeploymentError, seconds
from django_process import ProcessManager, unit
from django_site import Site

#: Every process manager, by the name that the pillar has for it.
PROCESS_MANAGERS: dict[str, ProcessManager] = {
    "systemd": django_process_systemd.MANAGER,
    "supervisor": django_process_supervisor.MANAGER,
}

#: Bytes of memory for each process, where nobody says how many there are: one that shares nothing has up to 118 MB.
_PROCESS = 128 << 20
#: Seconds without a new line after which a log counts as written.
_SETTLES = 0.4
_REDIRECTS = (301, 302, 303, 307, 308)
#: What is wrong with a page where the project raises; past Django's own handlers, uWSGI closes the connection.
_RAISES = ("it answers 500", "no answer (Remote end closed connection without response)")
#: A frame of a traceback in a log, and the line with the exception behind the last one; supervisor's have a time first.
_FRAME = re.compile(r'(?:\d{4}-\S+ )?  File "([^"]+)", line (\d+)')
_EXCEPTION = re.compile(r"(?:\d{4}-\S+ )?([A-Za-z_][\w.]*)(: .*)?$")


def templates(site: Site) -> set[str]:
    """The templates of a release's configuration."""
    return {*django_kinds.templates(site.config)}


def warnings(site: Site) -> list[str]:
    """What a new release has to do without on this host, because of who keeps it alive."""
    return PROCESS_MANAGERS[site.process].warnings(site)


def address(site: Site, release: Path) -> str:
    """Where the instance of a release listens: the path of its socket, or ``host:port``.

    A socket that systemd makes is in the site's folder, which is root's; one that the server binds by itself is in a
    folder of its own below. Releases take turns on two ports; none takes that of the live one.
    """
    recorded = django_server.recorded(release)
    if recorded:
        return str(recorded["address"])
    bind = site.config["server"]["bind"]
    sequence = release.name.split("-")[0]
    if bind == "unix":
        is_inherited = site.process == "systemd" and django_server.of_site(site).INHERITS
        return f"{site.runtime}/{sequence}.sock" if is_inherited else f"{site.runtime}/{sequence}/server.sock"
    host, _colon, port = bind.rpartition(":")
    one, other = (f"{host}:{int(port) + (int(sequence) + turn) % 2}" for turn in (0, 1))
    taken = (django_server.recorded(site.current) or {}).get("address")
    return other if one == taken else one


def kind(release: Path) -> tuple[str, str]:
    """How nginx reaches a release: (``unix`` or ``tcp``, protocol). Where two differ in it, a rename is not enough."""
    recorded = django_server.recorded(release) or {"address": "/", "protocol": "uwsgi"}
    return ("unix" if recorded["address"].startswith("/") else "tcp", recorded["protocol"])


def is_kept_connected(release: Path) -> bool:
    """Whether nginx keeps connections to a release, which a rename does not end."""
    return bool((django_server.recorded(release) or {}).get("keepalive"))


def next_kind(site: Site) -> tuple[str, str]:
    """How nginx will reach the site's next release, as `kind` has it."""
    server = site.config["server"]
    return ("unix" if server["bind"] == "unix" else "tcp", server["protocol"])


def configuration(
    site: Site, release: Path, facts: Mapping[str, Any], templates: Mapping[str, str], built: Path | None = None
) -> dict[str, str]:
    """The server's configuration, and what keeps it alive: file name in ``config/`` → content.

    Args:
        built: a release whose virtualenv is looked at, where this one has none yet.
    """
    server, own = site.config["server"], django_server.of_site(site)
    where = address(site, release)
    is_own = where.startswith("/") and Path(where).parent != site.runtime
    variables = {
        "site": site.config,
        "release": str(release),
        "unit": unit(site, release),
        "address": where,
        "runtime": str(site.runtime),
        "own_folder": str(Path(where).parent) if is_own else "",
        "facts": facts,
        "chdir": str(site.project_folder(release, facts)),
        "processes": processes(site),
        "virtualenv": (built or release) / "virtualenv",
        "command": own.command(release, facts),
        "binds": own.BINDS,
        "inherits": own.INHERITS,
        "writes_log": own.WRITES_LOG,
        "log": str(django_process_supervisor.log_file(site, release)),
        "proxy_group": site.proxy_group,
        "stop_timeout": int(seconds(site.config["releases"]["drain"])) + 10,
        "unix": server["bind"] == "unix",
        # Who may say who the visitor is: what leads to it by its socket or from this host, unless visitors do so.
        "believed": [] if site.listener else ["*"] if server["bind"] == "unix" else ["127.0.0.1", "::1"],
    }
    recorded = {
        "address": variables["address"],
        "interface": own.interface(site),
        "process": site.process,
        "protocol": server["protocol"],
        "server": server["kind"],
        **({"keepalive": True} if site.config["proxy"].get("keepalive") else {}),
    }
    return {
        "instance.json": json.dumps(recorded) + "\n",
        "upstream.conf": f"server {'unix:' if variables['unix'] else ''}{variables['address']};\n",
        **own.configuration(site, release, variables, templates),
        **PROCESS_MANAGERS[site.process].configuration(site, release, variables, templates),
    }


def processes(site: Site) -> int:
    """The number of worker processes: as the pillar says, else one for each core that has memory too, at least two.

    Two instances run for a while, each in the limits of its own unit and both in the host's memory.
    """
    said = site.config["server"]["processes"]
    if said != "auto":
        return int(said)
    limits = (django_host_memory.limit(site.config["resources"].get(name)) for name in ("MemoryMax", "MemoryHigh"))
    rooms = [django_host_memory.total() // 2, *(limit for limit in limits if limit is not None)]
    return max(2, min(os.cpu_count() or 1, min(rooms) // _PROCESS))


def process_manager(site: Site, release: Path) -> ProcessManager:
    """Return the process manager of a release: as recorded, else the one that has files of it, else the pillar's."""
    recorded = django_server.recorded(release)
    if recorded:
        return PROCESS_MANAGERS[recorded.get("process", "systemd")]
    name = unit(site, release)
    present = (one for one in PROCESS_MANAGERS.values() if any(path.stem == name for path in one.files(site)))
    return next(present, PROCESS_MANAGERS[site.process])


def pid(site: Site, release: Path) -> int | None:
    """The main process behind a release's socket; None when it does not run."""
    return process_manager(site, release).pid(site, release)


def is_running(site: Site, release: Path) -> bool:
    """Whether the instance runs, and listens."""
    return pid(site, release) is not None and django_process.is_whole(site, release)


def is_kept_alive(site: Site, release: Path) -> bool:
    """Whether the instance runs and listens, and would run again after a boot."""
    return process_manager(site, release).is_kept_alive(site, release)


def start(site: Site, release: Path) -> None:
    """Start a release, at every boot too, and wait until the server says that it is ready.

    Raises:
        DeploymentError: the server does not start; the error has the last lines of its log.
    """
    _refuse_foreign_socket(site, release)
    own = process_manager(site, release)
    began = time.time()
    site.prepare_runtime(release)
    try:
        own.start(site, release)
    except DeploymentError as error:
        with contextlib.suppress(DeploymentError):
            own.stop(site, release, wait=True)
        site.prepare_runtime(site.current)
        why = "" if error.log else f": {error.message}"
        log = own.journal(site, release, began) or error.log
        raise DeploymentError(
            f"the application server of {release.name} does not start{why}",
            log=log,
            hint=own.where_the_log_is(site, release),
            transient=error.transient or bool(django_process_systemd.CANNOT_START.search(log)),
        ) from None


def _refuse_foreign_socket(site: Site, release: Path) -> None:
    where = address(site, release)
    if where.startswith("/"):
        return
    if pid(site, release) is None and _is_taken(where):
        process_manager(site, release).end_leftovers(site, release)
        if _is_taken(where):
            port = where.rpartition(":")[2]
            raise DeploymentError(
                f"{where} is taken by another process",
                hint=f"ss -ltnp 'sport = :{port}' names it; or django:sites:{site.name}:server:bind",
                transient=True,
            )


def _is_taken(where: str) -> bool:
    """Whether somebody listens at ``host:port``."""
    with socket.socket(_family(where)) as probe:
        probe.settimeout(5)
        return probe.connect_ex(endpoint(where)) == 0


def strays(site: Site, release: Path) -> list[Path]:
    """The other releases of a site that would run after a boot, whether their folder is there or not."""
    others = {name for one in PROCESS_MANAGERS.values() for name in one.enabled(site)} - {unit(site, release)}
    numbers = [name.rpartition("-")[2] for name in sorted(others)]
    return sorted(next(site.releases.glob(f"{number}-*"), site.releases / f"{number}-gone") for number in numbers)


def numbers(site: Site) -> set[str]:
    """The numbers of the releases of a site that something on the host would keep alive."""
    return {path.stem.rpartition("-")[2] for keeper in PROCESS_MANAGERS.values() for path in keeper.files(site)}


def stop(site: Site, release: Path, *, wait: bool = True) -> None:
    """Stop a release for good: it runs no more, and not after a boot.

    Args:
        wait: until it has ended; without it, it may still be about to.
    """
    process_manager(site, release).stop(site, release, wait=wait)
    site.prepare_runtime(site.current)


def cut(site: Site, release: Path) -> None:
    """Stop a release for good, and at once: who is connected to it yet loses the connection."""
    number = pid(site, release)
    before = django_host_proc.stat(number) if number else None

    def kill() -> None:
        after = django_host_proc.stat(number) if number else None
        if number and before and after and before.started == after.started:  # no other process with the same number
            with contextlib.suppress(ProcessLookupError):
                os.kill(number, signal.SIGKILL)

    timer = threading.Timer(0.5, kill)  # beside the stop, which with supervisor waits for the end of the process
    timer.start()
    try:
        stop(site, release, wait=False)
    finally:
        timer.join()


def pause(site: Site, release: Path) -> None:
    """Stop an instance that still comes up at a boot; `start` lets it go on. No late connection starts it again."""
    process_manager(site, release).pause(site, release)


def remove(site: Site, release: Path) -> None:
    """Take what keeps a release alive off the host, and stop its instance if it has one."""
    for one in PROCESS_MANAGERS.values():
        one.remove(site, release)


def _family(where: str) -> socket.AddressFamily:
    return socket.AF_INET6 if where.startswith("[") else socket.AF_INET


def endpoint(where: str) -> tuple[str, int]:
    host, _colon, port = where.rpartition(":")
    return host.strip("[]"), int(port)
