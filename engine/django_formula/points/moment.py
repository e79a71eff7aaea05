"""The databases of a site as they were at a moment, as a backup: restored aside, by a temporary PostgreSQL server.

That server has no port, and the site's user may open nothing of it but the site's own databases, as in the present one.
"""

import contextlib
import datetime
import re
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

from django_formula.backup import backups, dumps
from django_formula.backup.dumps import Database
from django_formula.database import postgres
from django_formula.database.engines import POSTGRES
from django_formula.host import clock, commands, file, folders
from django_formula.host.commands import DeploymentError
from django_formula.host.folders import Folder
from django_formula.host.locks import Lock
from django_formula.points import archive
from django_formula.points.archive import FOLDER, USER, Cluster
from django_formula.release import releases
from django_formula.release.releases import Release
from django_formula.site.sites import Site
from django_formula.untrusted.text import Log

log = Log.of(__name__)

_ASIDE = FOLDER / "aside"
#: Segments on their way: a restore removes what waits there, and the present server's are on theirs to the archive.
_QUEUES = [f"--spool-path={_ASIDE}/spool"]
#: How a moment is written.
_FORMATS = ("%Y-%m-%d %H:%M:%S", "%Y-%m-%d %H:%M")
#: The server is for one connection: the log is applied without syncing, for a crash of it loses nothing.
_SETTINGS = {
    "listen_addresses": "",
    "archive_mode": "off",
    "hot_standby": "off",
    "ssl": "off",
    "fsync": "off",
    "logging_collector": "off",
    "shared_preload_libraries": "",
    "max_connections": "20",
    "shared_buffers": "64MB",
    "external_pid_file": "",
}
#: Seconds between two looks at a server that applies the log, and that one takes to end.
_LOOK, _ENDS = 0.5, 60.0
_OWNER = "SELECT pg_get_userbyid(datdba) FROM pg_database WHERE datname = '{}'"
#: Names of roles that may be written into the files of authentication.
_ROLE = re.compile(r"[\w.@$-]{1,63}")


class _Moment(NamedTuple):
    """A moment: in seconds since 1970, and as all records have it."""

    seconds: float
    text: str

    @property
    def target(self) -> str:
        """It as PostgreSQL takes it."""
        return self.text.replace("T", " ").replace("Z", "+00")


def fetch(site: Site, live: Release, at: str, secrets: list[str]) -> str:
    """Restore the databases of a site aside as they were at a moment, and return the name of the backup of them.

    Args:
        at: the moment, by the clock of the host unless it says otherwise: ``2026-11-26 04:00``.
        secrets: texts that no output may show.

    Raises:
        DeploymentError: the archive does not have that moment, or cannot be reached.
    """
    moment = parse(at)
    if not archive.options(site.config):
        hint = f"from now on: set {site.at}:backup:points, and apply; of what is there: django.backups {site.name}"
        raise DeploymentError(f"{site.name} has no points in time", hint=hint)
    recorded = archive.clusters_of(site.config)
    if "default" not in recorded:
        hint = "apply, and see what that says: salt-call state.apply django"
        raise DeploymentError(f"the archive of {site.name} is not set up yet", hint=hint)
    aliases = [alias for alias in sorted(live.facts["migrations"]) if alias in recorded]
    present = dumps.databases(live, aliases, secrets)
    release, commit = _made_under(site, live, moment)
    with _lock().held():
        kept = backups.of_moment(site, moment.text)
        if kept:
            return kept
        for stanza in dict.fromkeys(recorded[one.alias]["stanza"] for one in present):
            own = [one for one in present if recorded[one.alias]["stanza"] == stanza]
            cluster = archive.cluster(recorded[own[0].alias])
            size = _check_covered(cluster, moment)
            with _restored(cluster, moment, size) as server:
                name = backups.keep(site, _opened(server, own), taken=moment.text, release=release, commit=commit)
    return name


def coverage(site: Site) -> dict[str, Any]:
    """Return which moments the archive of a site has, and its backups.

    Raises:
        DeploymentError: it has none, or the store cannot be reached.
    """
    entry = archive.clusters_of(site.config).get("default")
    if not archive.options(site.config) or not entry:
        hint = f"set {site.at}:backup:points, and apply: salt-call state.apply django"
        raise DeploymentError(f"{site.name} has no points in time", hint=hint)
    there = archive.contents(archive.cluster(entry))
    archive.remember(entry, there)
    made = [f"{clock.timestamp(when)} {kind}, {backups.in_words(size)}" for when, kind, size in there.backups]
    return {
        "oldest": entry["oldest"],
        "newest": entry["newest"],
        "missing": [f"{begin} to {end}" for begin, end in entry["gaps"]],
        "backups": made[::-1],
    }


def parse(at: str) -> _Moment:
    """Return a moment.

    Raises:
        DeploymentError: the text is none.
    """
    text = re.sub(r"(?<=\d)T(?=\d)", " ", at.strip())
    plain, zone = re.fullmatch(r"(.*?)\s*(Z|UTC|[+-]\d\d:?\d\d)?", text, re.DOTALL).groups()  # type: ignore[union-attr]
    for pattern in _FORMATS:
        with contextlib.suppress(ValueError, OverflowError):
            found = datetime.datetime.strptime(plain, pattern)  # in the host's own zone
            if zone:
                offset = "+0000" if zone in ("Z", "UTC") else zone.replace(":", "")
                found = found.replace(tzinfo=datetime.datetime.strptime(offset, "%z").tzinfo)
            return _Moment(found.timestamp(), clock.timestamp(found.timestamp()))
    raise DeploymentError(
        f"{at!r} is no moment",
        hint="write it as '2026-11-26 04:00' or '2026-11-26 04:00:30', by the clock of the host, or with Z for UTC",
    )


def _made_under(site: Site, live: Release, moment: _Moment) -> tuple[str, str]:
    """Return the name and the commit of the release that was active at a moment, as far as that is recorded."""
    before = [
        one
        for one in releases.attempts(site)
        if one.get("release")
        and one.get("result") in ("released", "rolled back", "rolled forward")
        and clock.seconds(str(one.get("time"))) <= moment.seconds
    ]
    if before and re.fullmatch(r"\d{4,}-[0-9a-f]{12}", str(before[-1]["release"])):
        return str(before[-1]["release"]), str(before[-1].get("commit") or "")
    return live.name, str(live.record["commit"])


def _check_covered(cluster: Cluster, moment: _Moment) -> int:
    """Return the size of a cluster whose archive has a moment.

    A transaction after it, which is in the archive too, tells PostgreSQL that the moment is reached.

    Raises:
        DeploymentError: it does not have it.
    """
    now = time.time()
    cluster.ask("SELECT txid_current();", doing="asking PostgreSQL for a transaction")
    archive.run(cluster, "check", doing="waiting until the log is in the archive")
    there = archive.contents(cluster)
    oldest = there.backups[0][0] if there.backups else None
    if oldest is None:
        raise DeploymentError(
            "the archive has no backup of PostgreSQL yet",
            hint="it is made after the first apply: systemctl status django-points.service",
        )
    if not oldest <= moment.seconds <= now:
        raise DeploymentError(
            f"the archive has no {moment.text}: its oldest moment is {clock.timestamp(oldest)}, the newest "
            f"{clock.timestamp(now)}",
            hint="choose a moment between them; older data is in the backups: salt-call django.backups",
        )
    for begin, end in there.gaps:
        if begin < moment.seconds < end:
            until = clock.timestamp(end) if end < float("inf") else "now"
            raise DeploymentError(
                f"the archive has no {moment.text}: segments are missing from {clock.timestamp(begin)} to {until}",
                hint="choose a moment before or after that: the store could not be reached for too long",
            )
    return max(size for _when, _kind, size in there.backups)


# The temporary server


def _lock() -> Lock:
    return Lock(
        FOLDER / ".aside.lock",
        "django.restore",
        busy="another restore of a moment",
        timeout="10s",
        hint="wait until it has finished: there is one temporary server of PostgreSQL at a time",
    )


class _Server(NamedTuple):
    """The temporary server: its folder, the one of its socket, and the cluster that it is of."""

    folder: Path
    cluster: Cluster

    @property
    def socket(self) -> str:
        return str(self.folder / "socket")

    def ask(self, script: str, *, doing: str = "querying the restored PostgreSQL") -> str:
        return postgres.ask(script, port=self.cluster.port, socket=self.socket, doing=doing)

    def control(self, *words: str, timeout: float) -> None:
        """Run pg_ctl of the version that the data is of."""
        program = postgres.PROGRAMS / self.version / "bin/pg_ctl"
        argv = [str(program), f"--pgdata={self.folder}/data", *words]
        commands.run(
            argv, doing="running a PostgreSQL for the moment", user=USER, timeout=timeout, daemon=words[0] == "start"
        )

    @property
    def version(self) -> str:
        version = commands.run(["cat", "--", f"{self.folder}/data/PG_VERSION"], doing="looking at data", user=USER)
        if not re.fullmatch(r"\d+", version.strip()):
            raise DeploymentError(f"the restored data is of PostgreSQL {version.strip()[:20]}, which is none")
        return version.strip()


@contextlib.contextmanager
def _restored(cluster: Cluster, moment: _Moment, size: int) -> Iterator[_Server]:
    """Yield a temporary server with a cluster as it was at a moment; afterwards nothing of it is left."""
    server = _Server(_ASIDE, cluster)
    _clear(server)
    left = dumps.free(FOLDER)
    if size * 1.1 > left:
        raise DeploymentError(
            f"the moment needs {backups.in_words(size * 1.1)} in {FOLDER}, and {backups.in_words(left)} are free",
            hint="make room there; nothing was changed",
            transient=True,
        )
    folders.make(Folder(_ASIDE, "root", "root", 0o755))
    for name, mode in (("data", 0o700), ("tablespaces", 0o700), ("spool", 0o700), ("socket", 0o755)):
        folders.make(Folder(_ASIDE / name, USER, USER, mode))
    for name, text in (("postgresql.conf", ""), ("pg_hba.conf", "local all postgres peer\n"), ("pg_ident.conf", "")):
        file.write(_ASIDE / name, text, durable=False)
    log.info("restoring PostgreSQL %s aside as of %s", cluster.stanza, moment.text)
    try:
        words = [f"--pg1-path={_ASIDE}/data", "--type=time", f"--target={moment.target}", "--target-action=promote"]
        words += ["--archive-mode=off", f"--tablespace-map-all={_ASIDE}/tablespaces", *_QUEUES]
        words.append(f"--recovery-option=restore_command={_get(cluster)}")
        archive.run(cluster, *words, "restore", doing=f"restoring {moment.text} aside", timeout=archive.DATA)
        _start(server, moment)
        yield server
    finally:
        _clear(server)


def _get(cluster: Cluster) -> str:
    """Return the command that fetches segments, several ahead, in folders that the present server does not use."""
    words = [f"--config={archive.CONFIG}", f"--stanza={cluster.stanza}", f"--pg1-path={_ASIDE}/data", "--archive-async"]
    words += [*_QUEUES, f"--lock-path={_ASIDE}/spool/lock", "archive-get", "%f", '"%p"']
    return " ".join(["pgbackrest", *words])


def _start(server: _Server, moment: _Moment) -> None:
    """Start the server, and wait until it has applied the log up to the moment."""
    files = {"config_file": "postgresql.conf", "hba_file": "pg_hba.conf", "ident_file": "pg_ident.conf"}
    settings = {key: f"{server.folder}/{name}" for key, name in files.items()} | _SETTINGS
    settings |= {"unix_socket_directories": server.socket, "port": str(server.cluster.port)}
    prepared = server.cluster.ask("SHOW max_prepared_transactions", doing="querying PostgreSQL").strip()
    settings["max_prepared_transactions"] = prepared if prepared.isdigit() else "0"
    words = " ".join(f"-c {key}={value or chr(39) * 2}" for key, value in settings.items())
    printed = f"{server.folder}/data/restore.log"
    server.control("start", "--wait", "--timeout=60", f"--log={printed}", f"--options={words}", timeout=120)
    deadline = time.monotonic() + archive.DATA
    while time.monotonic() < deadline:
        with contextlib.suppress(DeploymentError):
            if server.ask("SELECT pg_is_in_recovery()").strip() == "f":
                return
        try:
            server.control("status", timeout=30)
        except DeploymentError:
            said = commands.run(["tail", "-n", "40", "--", printed], doing="reading a log", user=USER)
            fatal = re.findall(r"(?:FATAL|PANIC):\s+(.*)", said)
            raise DeploymentError(
                f"PostgreSQL cannot be restored to {moment.text}: {fatal[-1] if fatal else 'it has ended'}",
                log=said,
                hint="choose another moment, or a backup: salt-call django.backups",
            ) from None
        time.sleep(_LOOK)
    raise DeploymentError(f"PostgreSQL does not reach {moment.text}", transient=True)


def _clear(server: _Server) -> None:
    """End the server, and remove its files, also those of a restore that was killed."""
    if (server.folder / "data").is_dir():
        with contextlib.suppress(DeploymentError):
            server.control("stop", "--mode=immediate", "--wait", f"--timeout={_ENDS:.0f}", timeout=2 * _ENDS)
    deadline = time.monotonic() + _ENDS
    while server.folder.exists():
        try:
            file.remove_tree(server.folder)
        except OSError:  # what fetches segments ahead still writes some
            if time.monotonic() > deadline:
                raise
            time.sleep(_LOOK)


def _opened(server: _Server, databases: list[Database]) -> list[Database]:
    """Return databases with the connections by which the site's user reads them on the temporary server.

    Raises:
        DeploymentError: one did not exist then.
    """
    opened, hba, ident = [], ["local all postgres peer"], []
    for one in databases:
        name = one.site.config["databases"][one.alias]["name"]  # not what the project says: it gets into a file
        owner = server.ask(_OWNER.format(name)).strip()
        if not owner:
            raise DeploymentError(
                f"the database {name} did not exist at that moment", hint="choose a later one, at which the site had it"
            )
        if not _ROLE.fullmatch(owner):
            raise DeploymentError(f"the owner of the database {name} has a name that is not supported: {owner!r}")
        server.ask(f'ALTER ROLE "{owner}" LOGIN;')
        hba.append(f'local "{name}" "{owner}" peer map=django')
        ident.append(f'django "{one.site.user}" "{owner}"')
        connection = {"host": server.socket, "port": server.cluster.port, "user": owner}
        opened.append(Database(one.site, one.alias, POSTGRES.name, name, connection))
    for file_name, lines in (("pg_hba.conf", hba), ("pg_ident.conf", ident)):
        file.write(server.folder / file_name, "\n".join([*lines, ""]), durable=False)
    server.ask("SELECT pg_reload_conf();")
    return opened
