"""The application server and the workers of one release: their configuration, process manager, start and stop."""

import contextlib
import json
import os
import re
import signal
import socket
import struct
import threading
import time
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

from django_formula.container import containers
from django_formula.host import proc, unix_sockets
from django_formula.host.commands import DeploymentError, seconds
from django_formula.host.units import Overdue
from django_formula.knowledge import cause
from django_formula.process import command, contract, supervisor, systemd, transient
from django_formula.process.contract import ProcessManager, unit
from django_formula.release import templates as release_templates
from django_formula.server import servers
from django_formula.site.sites import Site
from django_formula.worker import workers

#: Every process manager, by the name that the pillar has for it.
PROCESS_MANAGERS: dict[str, ProcessManager] = {
    "systemd": systemd.MANAGER,
    "supervisor": supervisor.MANAGER,
}

#: Bytes of memory for each process with `processes: auto`; one that shares nothing takes up to 118 MB.
_PROCESS = 128 << 20
#: Seconds without a new line after which a log counts as written.
_SETTLES = 0.4
_REDIRECTS = (301, 302, 303, 307, 308)
#: What is wrong with a page where the project raises; past Django's own handlers, uWSGI closes the connection.
_RAISES = ("it answers 500", "no answer (Remote end closed connection without response)")
_EXCEPTION = re.compile(r"(?:\d{4}-\S+ )?([A-Za-z_][\w.]*)(: .*)?$")


def templates(site: Site) -> set[str]:
    """Return the templates of a release's configuration."""
    return {*release_templates.of_instance(site.config)}


def warnings(site: Site) -> list[str]:
    """Return what the process manager does not enforce for a new release on this host."""
    return PROCESS_MANAGERS[site.process].warnings(site)


def address(site: Site, release: Path) -> str:
    """Return the address of a release's instance: the path of its socket, or ``host:port``.

    A socket that systemd makes is in the site's folder, which is root's; one that the server binds by itself is in a
    folder of its own below. Releases alternate between two ports; the active one's is never used.
    """
    recorded = command.recorded(release)
    if recorded:
        return str(recorded["address"])
    bind = site.config["server"]["bind"]
    sequence = release.name.split("-")[0]
    if bind == "unix":
        is_inherited = site.process == "systemd" and _inherits(site, release)
        return f"{site.runtime}/{sequence}.sock" if is_inherited else f"{site.sockets(release)}/server.sock"
    host, _colon, port = bind.rpartition(":")
    one, other = (f"{host}:{int(port) + (int(sequence) + turn) % 2}" for turn in (0, 1))
    taken = (command.recorded(site.current) or {}).get("address")
    return other if one == taken else one


def share_port(site: Site, one: Path, other: Path) -> bool:
    """Return whether two releases listen on the same port, as every second one does where they alternate."""
    first, second = address(site, one), address(site, other)
    return first == second and not first.startswith("/")


def kind(release: Path) -> tuple[str, str]:
    """Return how the proxy reaches a release, (``unix`` or ``tcp``, protocol): a rename cannot change that."""
    recorded = command.recorded(release) or {"address": "/", "protocol": "uwsgi"}
    return ("unix" if recorded["address"].startswith("/") else "tcp", recorded["protocol"])


def have_same_server(one: Path, other: Path) -> bool:
    """Return whether two releases have application servers of the same kind, whose CPU for a page is comparable."""
    first, second = (command.recorded(release) or {} for release in (one, other))
    return all(first.get(key) == second.get(key) for key in ("server", "interface"))


def is_kept_connected(release: Path) -> bool:
    """Return whether the proxy keeps connections to a release open, which a rename does not close."""
    return bool((command.recorded(release) or {}).get("keepalive"))


def next_kind(site: Site) -> tuple[str, str]:
    """Return how the proxy will reach the site's next release, as `kind` does."""
    server = site.config["server"]
    return ("unix" if server["bind"] == "unix" else "tcp", server["protocol"])


def configuration(
    site: Site, release: Path, facts: Mapping[str, Any], templates: Mapping[str, str], built: Path | None = None
) -> dict[str, str]:
    """Return the configuration of the server and its process manager: file name in ``config/`` → content.

    Args:
        built: a release whose virtualenv is used, where this one has none yet.
    """
    server, own = site.config["server"], servers.configured(site)
    variables = _variables(site, release, facts, built or release)
    recorded = {
        "address": variables["address"],
        "interface": own.interface(site),
        "process": site.process,
        "protocol": server["protocol"],
        "run": str(site.run),
        "server": server["kind"],
        **({"keepalive": True} if site.config["proxy"].get("keepalive") else {}),
        **({"proves": True} if release_templates.proves(site.config) else {}),
    }
    files = {
        "instance.json": json.dumps(recorded) + "\n",
        "upstream.conf": f"server {'unix:' if variables['unix'] else ''}{variables['address']};\n",
    }
    if own.SERVES:
        files |= own.configuration(site, release, variables, templates)
        files |= PROCESS_MANAGERS[site.process].configuration(site, release, variables, templates)
    return files | _configuration_of_workers(site, release, variables, templates)


def _configuration_of_workers(
    site: Site, release: Path, variables: Mapping[str, Any], templates: Mapping[str, str]
) -> dict[str, str]:
    """Return the configuration of the workers of a release; none for a site without workers."""
    files = workers.configuration(site, release, variables, templates)
    for name, kind in workers.configured(site).items():
        worker = site.config["workers"][name]
        own = {
            "unit": unit(site, release, name),
            "run": str(contract.run_folder(site, release, name)),
            "worker": name,
            "command": kind.command(release, name),
            "patience": max(int(seconds(worker["patience"])), 1),  # for systemd 0 is no limit
            "job_timeout": contract.job_timeout(site, seconds(worker["patience"])),
            "resources": worker["resources"],
            "writable": kind.writable(site),
        }
        files |= PROCESS_MANAGERS[site.process].worker_configuration(site, release, {**variables, **own}, templates)
    return files


def _variables(site: Site, release: Path, facts: Mapping[str, Any], built: Path) -> dict[str, Any]:
    """Return the variables of the templates of a server and its process manager."""
    own, where = servers.configured(site), address(site, release)
    stop_timeout = int(seconds(site.config["releases"]["drain"])) + contract.STOP
    is_own = where.startswith("/") and Path(where).parent != site.runtime
    is_unix = site.config["server"]["bind"] == "unix"
    return {
        "site": site.config,
        "release": str(release),
        "unit": unit(site, release),
        "run": str(contract.run_folder(site, release)),
        "address": where,
        "runtime": str(site.runtime),
        "own_folder": str(Path(where).parent) if is_own else "",
        "facts": facts,
        "chdir": str(site.project_folder(release, facts)),
        "processes": processes(site),
        "virtualenv": built / "virtualenv",
        "command": [*_listening(site, release, where), *own.command(release, facts)],
        "binds": own.BINDS,
        "inherits": _inherits(site, release),
        "writes_log": own.WRITES_LOG,
        "log": str(supervisor.log_file(site, release)),
        "proxy_group": site.proxy_group,
        "stop_timeout": stop_timeout,
        "job_timeout": contract.job_timeout(site, stop_timeout),
        "unix": is_unix,
        # Whose X-Forwarded-For is trusted: the socket's or this host's clients, unless visitors connect directly.
        "believed": [] if site.listener else ["*"] if is_unix else ["127.0.0.1", "::1"],
    }


def _inherits(site: Site, release: Path) -> bool:
    """Return whether the server of a release takes a socket that systemd makes."""
    container = containers.expected(site, release)
    is_passed = site.process == "systemd" and (not container or container.engine.passes_sockets)
    return servers.configured(site).INHERITS and (not container or is_passed)


def _listening(site: Site, release: Path, where: str) -> list[str]:
    """Return the program that binds the socket which a server inherits, where systemd cannot pass it one."""
    own = servers.configured(site)
    if site.process != "systemd" or not own.INHERITS or own.BINDS or _inherits(site, release):
        return []
    return [f"{release}/virtualenv/bin/python", "-I", f"{release}/config/django_formula_listen.py", where]


def processes(site: Site) -> int:
    """Return the number of worker processes: the pillar's, else one per core if memory suffices, at least two.

    Two instances run during a switch, each within the limits of its own unit, both in the host's memory.
    """
    configured = site.config["server"]["processes"]
    if configured != "auto":
        return int(configured)
    limits = (proc.memory_limit(site.config["resources"].get(name)) for name in ("MemoryMax", "MemoryHigh"))
    rooms = [proc.total_memory() // 2, *(limit for limit in limits if limit is not None)]
    return max(2, min(os.cpu_count() or 1, min(rooms) // _PROCESS))


def process_manager(site: Site, release: Path) -> ProcessManager:
    """Return the process manager of a release: as recorded, else the one that has files of it, else the pillar's."""
    recorded = command.recorded(release)
    if recorded:
        return PROCESS_MANAGERS[recorded.get("process", "systemd")]
    name = unit(site, release)
    present = (one for one in PROCESS_MANAGERS.values() if any(path.stem == name for path in one.files(site)))
    return next(present, PROCESS_MANAGERS[site.process])


def pid(site: Site, release: Path) -> int | None:
    """Return the main process of a release's server; None if it does not run."""
    return process_manager(site, release).pid(site, release)


def serves(release: Path) -> bool:
    """Return whether a release has a server; one on a host for workers has none."""
    return servers.of_release(release).SERVES


def is_running(site: Site, release: Path) -> bool:
    """Return whether the instance runs and listens; without a server, whether all workers run."""
    manager = process_manager(site, release)
    return all(
        manager.pid(site, release, part) is not None and contract.is_whole(site, release, part)
        for part in ([""] if serves(release) else parts(release))
    )


def parts(release: Path) -> list[str]:
    """Return the parts of a release: its server where it has one, and its workers."""
    return [*([""] if serves(release) else []), *workers.recorded(release)]


def units(site: Site, release: Path) -> list[str]:
    """Return the units of a release: that of its server where it has one, and those of its workers."""
    return [unit(site, release, part) for part in parts(release)]


def is_kept_alive(site: Site, release: Path) -> bool:
    """Return whether the instance runs and listens, all its workers run, and all of them are started at boot."""
    manager = process_manager(site, release)
    manager.try_host(site, release)
    return all(manager.is_kept_alive(site, release, part) for part in parts(release))


def start(site: Site, release: Path) -> None:
    """Start a release, enable it at boot, and wait until the server and each worker reports that it is ready.

    Raises:
        DeploymentError: the server or a worker does not start; the error has the last lines of its log.
    """
    _for_each(parts(release), lambda part: _start_worker(site, release, part) if part else _start(site, release))


def _for_each(parts: list[str], call: Callable[[str], None]) -> None:
    """Call a function for each part, all at the same time; the error of the first one is raised."""
    if len(parts) < 2:
        for part in parts:
            call(part)
        return
    with ThreadPoolExecutor(len(parts)) as pool:
        for called in [pool.submit(call, part) for part in parts]:
            called.result()


def _start_worker(site: Site, release: Path, name: str) -> None:
    own, began = process_manager(site, release), time.time()
    try:
        own.start(site, release, name)
    except DeploymentError as error:
        why = "" if error.log else f": {error.message}"
        log = own.journal(site, release, began, name) or error.log
        raise DeploymentError(
            f"the worker {name} of {release.name} does not start{why}",
            log=log,
            hint=_hint(site, error, log) or own.where_the_log_is(site, release, name),
            transient=error.transient or bool(transient.CANNOT_START.search(log)),
        ) from None


def _start(site: Site, release: Path) -> None:
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
            hint=_hint(site, error, log) or own.where_the_log_is(site, release),
            transient=error.transient or bool(transient.CANNOT_START.search(log)),
        ) from None


def _hint(site: Site, error: DeploymentError, log: str) -> str:
    """Return what to do where the cause is known, from the log of a part that does not start; else an empty text."""
    slow = f"if its imports take that long, set {site.at}:timeouts:start"
    return cause.hint(site, log) or (slow if isinstance(error, Overdue) else "")


def _refuse_foreign_socket(site: Site, release: Path) -> None:
    where = address(site, release)
    if where.startswith("/"):
        return
    if pid(site, release) is None and _is_taken(where):
        process_manager(site, release).end_leftovers(site, release)
        for other in strays(site, release):  # of a rollback that was ended while it had the port of the active release
            if address(site, other) == where and other.name != site.current.resolve().name:
                stop(site, other)
        if _is_taken(where):
            port = where.rpartition(":")[2]
            raise DeploymentError(
                f"another process listens on {where}",
                hint=f"ss -ltnp 'sport = :{port}' names it; stop it, or set {site.at}:server:bind",
                transient=True,
            )


def _is_taken(where: str) -> bool:
    """Return whether a process listens on ``host:port``."""
    with socket.socket(_family(where)) as probe:
        probe.settimeout(5)
        return probe.connect_ex(endpoint(where)) == 0


def strays(site: Site, release: Path) -> list[Path]:
    """Return the other releases of a site that are started at boot, also those whose folder is missing."""
    enabled = {name for one in PROCESS_MANAGERS.values() for name in one.enabled(site)}
    others = _numbers(site, enabled) - {release.name.split("-")[0]}
    return sorted(next(site.releases.glob(f"{number}-*"), site.releases / f"{number}-gone") for number in others)


def numbers(site: Site) -> set[str]:
    """Return the numbers of the releases of a site for which a process manager has files."""
    return _numbers(site, {path.stem for manager in PROCESS_MANAGERS.values() for path in manager.files(site)})


def _numbers(site: Site, units: set[str]) -> set[str]:
    return {parsed[0] for name in units if (parsed := contract.parse(site, name))}


def stop(site: Site, release: Path, *, wait: bool = True) -> None:
    """Stop a release and disable it at boot. Its workers finish the tasks that they have, which is not waited for.

    Args:
        wait: wait until its server has exited.
    """
    for name in workers.recorded(release):
        process_manager(site, release).stop(site, release, name, wait=False)
    process_manager(site, release).stop(site, release, wait=wait)
    site.prepare_runtime(site.current)


def cut(site: Site, release: Path) -> None:
    """Stop a release at once, and disable it at boot; its open connections are closed."""
    number = pid(site, release)
    before = proc.stat(number) if number else None

    def kill() -> None:
        after = proc.stat(number) if number else None
        if number and before and after and before.started == after.started:  # no other process with the same number
            with contextlib.suppress(ProcessLookupError):
                os.kill(number, signal.SIGKILL)

    timer = threading.Timer(
        0.5, kill
    )  # concurrent with the stop, which waits for the exit of the process with supervisor
    timer.start()
    try:
        stop(site, release, wait=False)
    finally:
        timer.join()


def pause(site: Site, release: Path) -> None:
    """Stop an instance that stays enabled at boot, and that no connection starts; `start` starts it again.

    Tasks that its workers have after ``releases:drain`` are ended.
    """
    manager = process_manager(site, release)
    _for_each(parts(release), lambda part: manager.pause(site, release, part))


def remove(site: Site, release: Path) -> None:
    """Delete the process managers' files of a release, and stop its instance."""
    for one in PROCESS_MANAGERS.values():
        one.remove(site, release)


def _family(where: str) -> socket.AddressFamily:
    return socket.AF_INET6 if where.startswith("[") else socket.AF_INET


def endpoint(where: str) -> tuple[str, int]:
    host, _colon, port = where.rpartition(":")
    return host.strip("[]"), int(port)


# The connections that are open on the socket of an instance, and the wait for their end


def connections(where: str) -> int:
    """Return the number of connections that wait or are open on a socket, at a path or at ``host:port``."""
    if where.startswith("/"):
        return unix_sockets.connections(where)
    suffix = _local_end(where)
    rows: list[list[str]] = []
    for table in ("tcp", "tcp6"):
        with contextlib.suppress(FileNotFoundError):
            rows += [row.decode().split() for row in proc.network_table(table)]
    # While connections open and close, the kernel may list one twice; its two addresses identify it.
    return len({(row[1], row[2]) for row in rows if row[1].endswith(suffix) and row[3] in ("01", "02", "03", "08")})


def _local_end(where: str) -> str:
    """Return the end of a local address in the kernel's tables, for ``host:port``: with the host if it is IPv4."""
    host, _colon, port = where.rpartition(":")
    is_one = ":" not in host and host.strip("0.")
    number = f"{struct.unpack('=I', socket.inet_aton(host))[0]:08X}" if is_one else ""
    return f"{number}:{int(port):04X}"


def drain(site: Site, release: Path, most: float | None = None) -> int:
    """Wait until an instance has no connections, at most ``releases:drain``; return the number that is left.

    Args:
        most: seconds after which it does not wait any more either.
    """
    where, longest = address(site, release), seconds(site.config["releases"]["drain"])
    deadline = time.monotonic() + (longest if most is None else min(most, longest))
    idle = 0
    while True:
        left = connections(where)
        idle = 0 if left else idle + 1
        if idle == 2:
            return 0
        if left and time.monotonic() > deadline:
            return left
        time.sleep(0.05)
