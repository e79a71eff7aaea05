"""Set the archive up on this host: pgbackrest's configuration, PostgreSQL's settings, the program and its timer."""

import contextlib
import re
import shutil
from collections.abc import Collection, Mapping, Sequence
from pathlib import Path
from typing import Any

from django_formula.database import postgres
from django_formula.database.engines import POSTGRES
from django_formula.database.postgres import PROGRAMS
from django_formula.host import archive as host_archive
from django_formula.host import commands, config_files, daemons, file, folders, units
from django_formula.host.commands import DeploymentError
from django_formula.host.folders import Folder
from django_formula.host.outcome import Outcome
from django_formula.points import archive, aside
from django_formula.points.archive import CONFIG, FOLDER, USER, Cluster
from django_formula.proxy import waiting
from django_formula.site import sites
from django_formula.untrusted import shapes

PROGRAM = Path("/usr/local/lib/django-formula/points.pyz")
MODULE = "django_formula.points.program"
UNITS, CRON = Path("/etc/systemd/system"), Path("/etc/cron.d/django-points")
SERVICE, TIMER = "django-points.service", "django-points.timer"
_RUN = f"/usr/bin/python3 -I {PROGRAM}"
#: Seconds that the program has to end.
_ENDS = 60.0
_TEXTS = {
    SERVICE: f"""\
[Unit]
Description=Archive of PostgreSQL for points in time
After=network-online.target

[Service]
Type=oneshot
ExecStart={_RUN}
Nice=10
CPUWeight=20
IOSchedulingClass=idle
TimeoutStartSec=infinity
UMask=0077
# pgbackrest and psql run as PostgreSQL's own user.
NoNewPrivileges=yes
CapabilityBoundingSet=CAP_CHOWN CAP_DAC_OVERRIDE CAP_FOWNER CAP_SETUID CAP_SETGID CAP_KILL
ProtectSystem=full
PrivateDevices=yes
ProtectKernelLogs=yes
ProtectKernelModules=yes
LockPersonality=yes
RestrictAddressFamilies=AF_UNIX AF_INET AF_INET6
RestrictRealtime=yes
RestrictSUIDSGID=yes
SystemCallArchitectures=native
""",
    TIMER: """\
[Unit]
Description=Archive of PostgreSQL for points in time

[Timer]
OnCalendar=hourly
RandomizedDelaySec=10m
Persistent=yes

[Install]
WantedBy=timers.target
""",
}
_FACTS = """SELECT json_build_object(
  'data', current_setting('data_directory'), 'name', current_setting('cluster_name'),
  'version', current_setting('server_version_num')::int / 10000,
  'settings', (SELECT json_object_agg(name, setting) FROM pg_settings WHERE name IN
    ('archive_mode', 'archive_command', 'archive_timeout', 'archive_library', 'wal_level',
     'wal_segment_size')),
  'pending', (SELECT count(*) FROM pg_settings WHERE name = 'archive_mode' AND pending_restart))"""
_SHAPE = {"data": str, "name": str, "version": int, "settings": {str: str}, "pending": int}
#: Archive commands that archive nothing.
_NONE = ("", "(disabled)", "/bin/true", "true")
#: The share of a disk, and the least in bytes, that segments may take which wait for a store.
_QUEUE, _LEAST = 0.1, 1 << 30


def ensure(wanted: Mapping[str, Any] | None, servers: Sequence[Mapping[str, Any]], *, test: bool) -> Outcome:
    """Have the PostgreSQL servers of this host archived, or not any more.

    Args:
        wanted: what the pillar has, with secrets; None for no archive.
        servers: the folder of the socket, empty for the default one, and the port of each.
        test: whether this is a dry run.

    Raises:
        DeploymentError: a server has an archive of its own, or the store cannot be reached.
    """
    if wanted is None:
        return _remove(test=test)
    if test and not _are_installed():
        return Outcome("PostgreSQL would be archived", {str(CONFIG): "new"})
    state, place = archive.read_state(), _place(wanted)
    found = [_facts(one["socket"], one["port"]) for one in servers]
    text = _config(wanted, [one for one, _facts_of in found])
    files = {CONFIG: text, **({CRON: _cron()} if not daemons.has_systemd() else _units())}
    changes = {
        str(path): "changed" if path.exists() else "new" for path in files if file.read_text(path) != files[path]
    }
    version = host_archive.version(MODULE)
    changes |= {str(PROGRAM): "new"} if state["program"] != version or not host_archive.is_whole(PROGRAM) else {}
    changes |= {"drill": wanted["drill"]} if state.get("drill") != wanted["drill"] else {}
    statements = {one.stanza: _statements(one, facts) for one, facts in found}
    for one, facts in found:
        if state["clusters"].get(one.stanza, {}).get("store") != place:
            changes[f"archive {one.stanza}"] = "new"
        if statements[one.stanza]:
            restarts = "; PostgreSQL is restarted" if facts["settings"]["archive_mode"] == "off" else ""
            changes[f"settings of {one.stanza}"] = f"archiving{restarts}"
    if daemons.has_systemd() and not (UNITS / "timers.target.wants" / TIMER).exists():
        changes[TIMER] = "enabled"
    gone = {*state["clusters"]} - {one.stanza for one, _facts_of in found}
    changes |= {f"archive {stanza}": "no longer added to" for stanza in sorted(gone)}
    if not changes:
        return Outcome("PostgreSQL is archived")
    if test:
        return Outcome("the archive of PostgreSQL would be changed", changes)
    with _locked():
        state = archive.read_state()  # the program may have written it meanwhile
        _write(files, wanted)
        state["drill"] = wanted["drill"]
        archive.write_state(state)
        _install(state, version)
        for one, _of_server in found:
            _begin(state, one, statements[one.stanza], place)
        for stanza in gone:
            _end(state, stanza, [one for one, _of_server in found])
    _start()
    return Outcome("PostgreSQL is archived", changes)


def _locked() -> Any:
    folders.make(Folder(FOLDER, "root", "root", 0o755))
    return archive.lock("state.apply").held()


def _are_installed() -> bool:
    has_client = shutil.which("pgbackrest", path=commands.PATH) is not None
    return has_client and any(PROGRAMS.glob("*/bin/postgres")) and daemons.is_running(daemons.POSTGRES)


def _facts(socket: str, port: int) -> tuple[Cluster, dict[str, Any]]:
    """Return a cluster, and what its server says of itself.

    Raises:
        DeploymentError: it does not run, or archives to elsewhere.
    """
    doing = "querying PostgreSQL"
    facts = shapes.parse(postgres.ask(_FACTS, port=port, socket=socket, doing=doing), _SHAPE, doing=doing)
    command, mode = facts["settings"]["archive_command"], facts["settings"]["archive_mode"]
    is_ours = str(CONFIG) in command or command in _NONE
    if mode != "off" and (not is_ours or facts["settings"].get("archive_library")):
        raise DeploymentError(
            f"PostgreSQL on port {port} has an archive of its own: {command}",
            hint="remove backup:points, or that archive: ALTER SYSTEM RESET archive_command",
        )
    if facts["settings"]["wal_level"] == "minimal":
        raise DeploymentError(
            f"PostgreSQL on port {port} has wal_level = minimal, whose log cannot be archived",
            hint="as the superuser: ALTER SYSTEM SET wal_level = replica; and restart it",
        )
    name = re.sub(r"[^\w.-]", "-", facts["name"]) or f"{facts['version']}-{port}"
    data = Path(facts["data"])
    waiting = commands.run(
        ["realpath", "--", str(data / "pg_wal/archive_status")], doing="looking at the log", user=USER
    )
    numbers = (1 << 32) // int(facts["settings"].get("wal_segment_size") or 16 << 20)
    return Cluster(name, data, Path(waiting.strip()), port, socket, numbers), facts


def _statements(one: Cluster, facts: Mapping[str, Any]) -> list[str]:
    """Return the statements that a server needs to add to the archive."""
    settings = {**facts["settings"], **({"archive_mode": "another one soon"} if facts["pending"] else {})}
    command = f"pgbackrest --config={CONFIG} --stanza={one.stanza} archive-push %p"
    wanted = {"archive_mode": "on", "archive_timeout": str(archive.CLOSES), "archive_command": command}
    return [f"ALTER SYSTEM SET {key} = '{value}';" for key, value in wanted.items() if settings[key] != value]


def _config(wanted: Mapping[str, Any], clusters: Sequence[Cluster]) -> str:
    """Return the configuration of pgbackrest."""
    version = _version()
    options = {**_store(wanted), "repo1-cipher-type": "aes-256-cbc", "repo1-cipher-pass": wanted["password"]}
    options |= {"repo1-retention-full-type": "time", "repo1-retention-full": wanted["keep"]}
    options |= {"repo1-bundle": "y"} if version >= (2, 39) else {}
    options |= {"repo1-block": "y"} if version >= (2, 46) else {}
    options |= {} if wanted["prune"] else {"expire-auto": "n"}
    options |= {"compress-type": "zst", "start-fast": "y", "archive-async": "y", "process-max": 2}
    options |= {"archive-push-queue-max": _queue(clusters), "lock-path": "/run/postgresql/django-pgbackrest"}
    # A store that is away is tried for so long at each of several requests: a check ends within its time, and says why.
    options |= {"io-timeout": 20, "log-level-console": "warn", "log-level-file": "off"}
    lines = [config_files.OURS, "[global]", *(f"{key}={value}" for key, value in options.items())]
    lines += ["", "[global:archive-get]", "archive-async=n"]
    for one in clusters:
        lines += ["", f"[{one.stanza}]", f"pg1-path={one.data}", f"pg1-port={one.port}"]
        lines += [f"pg1-socket-path={one.socket}"] if one.socket else []
    return "\n".join(lines) + "\n"


def _store(wanted: Mapping[str, Any]) -> dict[str, Any]:
    path = wanted["path"] or "/points"
    if wanted["kind"] == "folder":
        return {"repo1-type": "posix", "repo1-path": path}
    endpoint = wanted["endpoint"] or f"https://s3.{wanted['region']}.amazonaws.com"
    host, _colon, port = endpoint.removeprefix("https://").partition(":")
    return {
        "repo1-type": "s3",
        "repo1-path": path,
        "repo1-s3-bucket": wanted["bucket"],
        "repo1-s3-endpoint": host,
        "repo1-s3-region": wanted["region"],
        "repo1-s3-key": wanted["key"],
        "repo1-s3-key-secret": wanted["secret"],
        "repo1-s3-uri-style": "path" if wanted["endpoint"] else "host",
        **({"repo1-storage-port": port} if port else {}),
    }


def _place(wanted: Mapping[str, Any]) -> str:
    """Return where the archive is, as the host remembers it."""
    store = _store(wanted)
    return " ".join(str(store[key]) for key in sorted(store) if not key.startswith("repo1-s3-key"))


def _version() -> tuple[int, ...]:
    said = commands.run(["pgbackrest", "version"], doing="querying pgbackrest", user=USER)
    return tuple(int(number) for number in re.findall(r"\d+", said))


def _queue(clusters: Sequence[Cluster]) -> str:
    """Return the size of the segments that may wait: more are given up, so that the disk is never full of them."""
    sizes = [int(_QUEUE * _disk(one.data)) for one in clusters]
    return f"{max(min(sizes), _LEAST) >> 20}MiB"


def _disk(folder: Path) -> int:
    """Return the bytes of the file system of a cluster, in steps, so that a larger disk alone is a change."""
    said = commands.run(["stat", "-f", "-c", "%b %S", "--", str(folder)], doing="looking at the disk", user=USER)
    blocks, size = map(int, said.split())
    return max(blocks * size >> 30, 1) << 30


def _units() -> dict[Path, str]:
    return {UNITS / name: f"{config_files.OURS}\n{text}" for name, text in _TEXTS.items()}


def _cron() -> str:
    return f"{config_files.OURS}\n17 * * * * root {_RUN} >/dev/null 2>&1\n"


def _write(files: Mapping[Path, str], wanted: Mapping[str, Any]) -> None:
    for path, text in files.items():
        if path == CONFIG:
            file.write(path, text, mode=0o640, user="root", group=USER)
        else:
            file.write(path, text)
    if wanted["kind"] == "folder" and not Path(wanted["path"]).exists():
        folders.refuse_unsafe_parents(Path(wanted["path"]), archive.AT + ":path")
        folders.make(Folder(Path(wanted["path"]), USER, USER, 0o700))


def _install(state: dict[str, Any], version: str) -> None:
    if state["program"] != version or not host_archive.is_whole(PROGRAM):
        PROGRAM.parent.mkdir(parents=True, exist_ok=True)
        host_archive.install(MODULE, PROGRAM)
        state["program"] = version
        archive.write_state(state)


def _begin(state: dict[str, Any], one: Cluster, statements: Sequence[str], place: str) -> None:
    """Make the archive of a cluster, and then have PostgreSQL add to it: before, its segments would be refused."""
    former = state["clusters"].get(one.stanza, {})
    if former.get("store") != place:
        former = {}
        archive.reach(one)
        archive.pgbackrest(one, "stanza-create", doing=f"making the archive of PostgreSQL {one.stanza}")
    if statements:
        one.ask("\n".join([*statements, "SELECT pg_reload_conf();"]), doing="setting PostgreSQL up")
        if one.ask("SHOW archive_mode", doing="querying PostgreSQL").strip() == "off":
            with waiting.around_restart(POSTGRES.name):
                daemons.restart(daemons.POSTGRES)
    empty = {"oldest": "", "newest": "", "full": "", "backup": "", "gaps": [], "failed": {}}
    own: dict[str, Any] = {"stanza": one.stanza, "data": str(one.data), "waiting": str(one.waiting), "store": place}
    own |= {"port": one.port, "socket": one.socket, "numbers": one.numbers}
    state["clusters"][one.stanza] = {**empty, **former, **own}
    archive.write_state(state)


def _end(state: dict[str, Any], stanza: str, others: Sequence[Cluster] = ()) -> None:
    """Have PostgreSQL add no more to an archive; what is in the store stays.

    Args:
        others: the servers that are archived; one of a newer version may have taken the port.
    """
    one = archive.cluster(state["clusters"].pop(stanza))
    is_taken = (one.socket, one.port) in [(other.socket, other.port) for other in others]
    if not is_taken and one.data.exists():  # else its segments would wait for ever
        reset = ["ALTER SYSTEM SET archive_command = '/bin/true';", "ALTER SYSTEM RESET archive_timeout;"]
        reset += ["ALTER SYSTEM RESET archive_mode;", "SELECT pg_reload_conf();"]
        one.ask("\n".join(reset), doing="ending the archive of PostgreSQL")
    archive.write_state(state)


def _start() -> None:
    """Have what is due done by the timer from now on, and once at once: without a backup there are no points."""
    if daemons.has_systemd():
        units.daemon_reload()
        units.start_timer(TIMER)
        units.control("start", "--no-block", SERVICE, doing=f"starting {SERVICE}")
        return
    commands.detach(_RUN.split())
    if not daemons.is_running(daemons.CRON):
        daemons.start(daemons.CRON)


def remove_if_unasked(gone: Collection[str], *, test: bool) -> dict[str, str]:
    """End the archive of a host on which the last site with points in time is removed; return what is removed.

    Args:
        gone: sites that are removed, which are still there in a dry run.
    """
    if not CONFIG.exists():
        return {}
    for name in {*sites.registered()}.difference(gone):
        with contextlib.suppress(DeploymentError, OSError):
            if archive.options(sites.find(name).config):
                return {}
    return dict(_remove(test=test).changes)


def _remove(*, test: bool) -> Outcome:
    """Have PostgreSQL archived no more; what is in the store stays."""
    present = [path for path in (CONFIG, PROGRAM, CRON, UNITS / SERVICE, UNITS / TIMER) if path.exists()]
    if not present:
        return Outcome("PostgreSQL is not archived")
    changes = {str(path): "removed" for path in present}
    if test:
        return Outcome("PostgreSQL would be archived no more", changes)
    if (UNITS / TIMER).exists() and daemons.has_systemd():
        units.end_timer(TIMER)
        units.stop("stop", units=[SERVICE], doing=f"ending {SERVICE}", within=_ENDS)
        units.attempt("reset-failed", SERVICE, doing=f"ending {SERVICE}")  # it would stay listed
    with _locked(), aside.lock("state.apply").held():  # a temporary server would go on without its files
        state = archive.read_state()
        for stanza in [*state["clusters"]]:
            _end(state, stanza)
        for path in present:
            path.unlink()
        file.remove_tree(FOLDER)
    if daemons.has_systemd():
        units.daemon_reload()
    return Outcome("PostgreSQL is archived no more; what is in the store stays", changes)
