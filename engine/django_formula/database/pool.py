"""PgBouncer on this host: it shares a few connections of PostgreSQL among the hosts of sites, for a transaction each.

It is a unit of the formula's own; PgBouncer as Debian's package starts it stays as it is. It logs in to PostgreSQL over
the unix socket, as the site's login, and knows of the site's password what PostgreSQL does. Why it is set up so, and
when a pool ends that the pillar no longer has: docs/decisions/0069.
"""

import csv
import hashlib
import socket
from collections.abc import Collection, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from django_formula.database import postgres, server
from django_formula.database.engines import POSTGRES
from django_formula.database.postgres import POOL_USER
from django_formula.database.server import ManagedDatabase, Network
from django_formula.host import commands, daemons, file, folders, template, units
from django_formula.host.commands import DeploymentError
from django_formula.host.folders import Folder

DAEMON = daemons.PGBOUNCER
PROGRAM = Path("/usr/sbin/pgbouncer")
FOLDER = server.STATE / "pool"
#: What PgBouncer runs with: written once it does, so that an apply which was killed is repeated.
RECORD = FOLDER / "pools.json"
UNIT = daemons.UNITS / f"{DAEMON.service}.service"
RUN = daemons.RUN / DAEMON.service
TEMPLATES = ("salt://django/files/pgbouncer.ini", "salt://django/files/pgbouncer.service")
_POOL = {"site": str, "user": str, "verifier": str, "former?": [str], "clients": [str]}
_POOL |= {"size": int, "port": int, "queries": int}
_SHAPE = {"address": str, "port": int, "certificate": str, "pools": {str: _POOL}, "files?": str}
#: The count of queries of a pool that the pillar has.
_WANTED = -1

Pools = dict[str, dict[str, Any]]  # by the names of their databases


class Place(NamedTuple):
    """Where PgBouncer listens, and the texts of its templates by URL."""

    network: Network
    port: int
    templates: Mapping[str, str]


def kept(sites: Collection[str], wanted: Collection[str]) -> dict[str, int]:
    """Return the pools that the pillar has no longer and hosts still use: connections by the database's name.

    A release that was made before the change uses the pool until the next one is active on its host.

    Args:
        sites: those whose databases this host has.
        wanted: the databases that have a pool in the pillar.
    """
    before = _recorded()["pools"]
    left = {name: one for name, one in before.items() if name not in wanted and one["site"] in sites}
    if not left or daemons.pid(DAEMON) is None:
        return {}
    counts, connected = _counts(), {row["database"] for row in _clients()}
    return {
        name: one["size"] for name, one in left.items() if name in connected or one["queries"] != counts.get(name, 0)
    }


def port() -> int:
    """Return the port of the PgBouncer that runs with pools; 0 without one."""
    return int(_recorded()["port"])


def leftover() -> list[str]:
    """Return the names of the databases whose pools are `kept`."""
    return sorted(name for name, one in _recorded()["pools"].items() if one["queries"] != _WANTED)


def changes(databases: Sequence[ManagedDatabase], wanted: Collection[str], place: Place | None) -> dict[str, str]:
    """Return what differs on this host, for people.

    Args:
        databases: those with a pool, of the pillar or `kept`.
        wanted: the names of those that have it in the pillar.
        place: None where there is no database with a pool.

    Raises:
        DeploymentError: PgBouncer cannot get another port while hosts use it.
    """
    before, now = _recorded(), _record(databases, wanted, place)
    if place and before["pools"] and before["port"] != place.port:
        raise DeploymentError(
            f"PgBouncer listens on port {before['port']}: on port {place.port} the hosts that serve would not reach it",
            hint=f"keep pool_port: {before['port']}; or remove pool, apply on those hosts and then here until it is "
            "gone, and set both again",
        )
    found = {f"pool of {name}": "removed" for name in before["pools"] if name not in now["pools"]}
    for name, one in now["pools"].items():
        old = before["pools"].get(name)
        if not old or {**old, "queries": 0} != {**one, "queries": 0}:
            found[f"pool of {name}"] = f"{one['size']} connections"
    if place and not found:
        moved = [key for key in ("address", "certificate") if before[key] != now[key]]
        files = _files(now, place)
        stale = [path.name for path, text in files.items() if file.read_text(path) != text]
        if not stale and before.get("files") not in (None, _digest(files)):
            stale = ["configuration"]  # written, and not read again: that apply was killed
        found |= dict.fromkeys([f"{key} of PgBouncer" for key in moved] or stale, "changed")
        if daemons.pid(DAEMON) is None:
            found["PgBouncer"] = "started"
    return found


def apply(databases: Sequence[ManagedDatabase], wanted: Collection[str], place: Place | None) -> None:
    """Have PgBouncer run with these pools; without any it is stopped and removed.

    Raises:
        DeploymentError: it does not start, or refuses its configuration.
    """
    now, before = _record(databases, wanted, place), _recorded()
    if not place:
        _remove()
        return
    for folder in (FOLDER.parent.parent, FOLDER.parent):
        folders.make(Folder(folder, "root", "root", 0o755))
    folders.make(Folder(FOLDER, "root", POOL_USER, 0o750))
    files = _files(now, place)
    stale = {path: text for path, text in files.items() if file.read_text(path) != text}
    for path, text in stale.items():
        is_unit = path == UNIT
        mode, group = (0o644, "root") if is_unit else (0o640, POOL_USER)
        file.write(path, text, mode=mode, group=group)
    starts = daemons.pid(DAEMON) is None or before["address"] != now["address"]
    if not starts:
        _console("RELOAD", doing="reloading PgBouncer")
        _end_others(now["pools"])
    # After that, for the unit's filter would drop the packets that end a connection.
    units.daemon_reload()
    if starts:
        _start(place)
    if not daemons.is_enabled(DAEMON):
        daemons.enable(DAEMON)
    file.write_json(RECORD, {**now, "files": _digest(files)}, mode=0o600)


def note(databases: Sequence[ManagedDatabase], wanted: Collection[str], place: Place | None) -> None:
    """Record how many queries the pools have had that are `kept`: the next apply sees whether there were more."""
    now, before = _record(databases, wanted, place), _recorded()
    if place and {**before, **now} != before:
        file.write_json(RECORD, {**before, **now}, mode=0o600)


def _recorded() -> dict[str, Any]:
    return file.read_json(RECORD, _SHAPE) or {"address": "", "port": 0, "certificate": "", "pools": {}}


def _record(databases: Sequence[ManagedDatabase], wanted: Collection[str], place: Place | None) -> dict[str, Any]:
    left = [one for one in databases if one.database not in wanted]
    counts = _counts() if left else {}
    pools: Pools = {}
    for one in databases:
        queries = _WANTED if one.database in wanted else counts.get(one.database, 0)
        login = {"site": one.site, "user": one.user, "verifier": one.verifier, "clients": [*one.clients]}
        login |= {"former": [one.other_user, one.former]} if one.former else {}
        pools[one.database] = {**login, "size": one.pool, "port": one.port or POSTGRES.port, "queries": queries}
    if not place:
        return {"address": "", "port": 0, "certificate": "", "pools": {}}
    network = place.network
    return {"address": network.address, "port": place.port, "certificate": network.certificate, "pools": pools}


def _files(record: Mapping[str, Any], place: Place) -> dict[Path, str]:
    """Return the files of PgBouncer: path → content."""
    pools = record["pools"].items()
    clients = sorted({client for _name, one in pools for client in one["clients"]})
    variables = {"pools": record["pools"], "address": place.network.address, "port": place.port, "clients": clients}
    variables |= {"folder": str(FOLDER), "run": str(RUN), "name": DAEMON.service, "user": POOL_USER}
    logins = [(name, *login, one["clients"]) for name, one in pools for login in _logins(one)]
    users = {f'"{user}" "{verifier}"\n' for _name, user, verifier, _clients in logins}
    lines = [_line(name, user, client) for name, user, _verifier, clients in logins for client in clients]
    configuration, unit = (template.render(place.templates, url, **variables) for url in TEMPLATES)
    return {
        FOLDER / "pgbouncer.ini": configuration,
        FOLDER / "hba": "".join(lines),
        FOLDER / "users": "".join(sorted(users)),
        FOLDER / "crt": place.network.certificate,
        FOLDER / "key": place.network.key,
        UNIT: unit,
    }


def _logins(pool: Mapping[str, Any]) -> list[tuple[str, str]]:
    """Return the logins of a pool, each with what is kept of its password."""
    former = [(str(pool["former"][0]), str(pool["former"][1]))] if "former" in pool else []
    return [(pool["user"], pool["verifier"]), *former]


def _digest(files: Mapping[Path, str]) -> str:
    return hashlib.sha256("\0".join(files.values()).encode()).hexdigest()


def _line(database: str, user: str, client: str) -> str:
    return f'hostssl "{database}" "{user}" {client}/{128 if ":" in client else 32} scram-sha-256\n'


def _start(place: Place) -> None:
    """Start PgBouncer, which would run without a port that another program has, or with the address before.

    Raises:
        DeploymentError: it does not start.
    """
    if daemons.pid(DAEMON) is not None:
        daemons.stop(DAEMON)
    address = place.network.address
    try:
        with socket.socket(socket.AF_INET6 if ":" in address else socket.AF_INET) as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            probe.bind((address, place.port))
    except OSError as error:
        raise DeploymentError(
            f"PgBouncer cannot listen on {address}, port {place.port}: {error.strerror}",
            hint="set pool_port of the site's database to a port that is free there",
        ) from None
    daemons.start(DAEMON)


def _remove() -> None:
    if UNIT.exists():
        daemons.stop(DAEMON)
        UNIT.unlink()
        units.daemon_reload()
    file.remove_tree(FOLDER)


def _end_others(pools: Pools) -> None:
    """End connections from addresses that may no longer log in; PgBouncer itself asks at a login only."""
    for row in _clients():
        if row["addr"] not in pools.get(row["database"], {}).get("clients", ()):
            address = f"[{row['addr']}]" if ":" in row["addr"] else row["addr"]
            argv = ["ss", "--kill", "--tcp", "--no-header", "dst", address, "dport", "=", f":{row['port']}"]
            commands.run(argv, doing=f"ending a connection of {row['addr']}")


def _counts() -> dict[str, int]:
    """Return how many transactions the pools have had, by the names of their databases."""
    return {row["database"]: int(row["xact_count"]) for row in _rows("SHOW STATS_TOTALS")}


def _clients() -> list[dict[str, str]]:
    """Return the connections of other hosts."""
    return [row for row in _rows("SHOW CLIENTS") if row["addr"] != "unix"]


def _rows(query: str) -> list[dict[str, str]]:
    return list(csv.DictReader(_console(query, doing="querying PgBouncer").splitlines()))


def _console(query: str, *, doing: str) -> str:
    """Return what PgBouncer's console answers; it lets in PgBouncer's own user, over its socket.

    Raises:
        DeploymentError: it does not answer, or refuses.
    """
    ports = [path.suffix for path in RUN.glob(".s.PGSQL.*") if path.suffix[1:].isdecimal()]
    argv = [postgres.newest_psql(), "--no-psqlrc", "--csv", "--no-password", f"--host={RUN}"]
    argv += [f"--port={port[1:]}" for port in ports]
    return commands.run(
        [*argv, "--username=pgbouncer", "--dbname=pgbouncer", f"--command={query}"],
        doing=doing,
        user=POOL_USER,
        environment={"PGCONNECT_TIMEOUT": "10"},
        timeout=60,
        hint=f"read its log: journalctl -u {DAEMON.service}",
    )
