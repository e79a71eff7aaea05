"""A temporary PostgreSQL server next to the present one, with all databases of it as they were at a moment.

It has no port, and none but PostgreSQL's own user may use it. There is one at a time, and nothing of it is left.
"""

import contextlib
import re
import time
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

from django_formula.backup import backups, dumps
from django_formula.database import postgres
from django_formula.database.clusters import ROWS
from django_formula.host import clock, commands, file, folders
from django_formula.host.commands import DeploymentError
from django_formula.host.folders import Folder
from django_formula.host.locks import Lock
from django_formula.points import archive
from django_formula.points.archive import FOLDER, USER, Cluster
from django_formula.untrusted import shapes
from django_formula.untrusted.text import Log

log = Log.of(__name__)

_ASIDE = FOLDER / "aside"
#: Segments on their way: a restore removes what waits there, and the present server's are on theirs to the archive.
_QUEUES = [f"--spool-path={_ASIDE}/spool"]
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


class Moment(NamedTuple):
    """A moment: in seconds since 1970, and as all records have it."""

    seconds: float
    text: str

    @property
    def target(self) -> str:
        """It as PostgreSQL takes it."""
        return self.text.replace("T", " ").replace("Z", "+00")


def check_covered(cluster: Cluster, moment: Moment) -> int:
    """Return the size of a cluster whose archive has a moment.

    A transaction after it, which is in the archive too, tells PostgreSQL that the moment is reached.

    Raises:
        DeploymentError: it does not have it.
    """
    now = time.time()
    cluster.ask("SELECT txid_current();", doing="asking PostgreSQL for a transaction")
    archive.pgbackrest(cluster, "check", doing="waiting until the log is in the archive")
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


def lock(holder: str) -> Lock:
    """Return the lock under which there is a temporary server."""
    return Lock(
        FOLDER / ".aside.lock",
        holder,
        busy="another restore of a moment",
        timeout="10s",
        hint="wait until it has finished: there is one temporary server of PostgreSQL at a time; a drill of the timer "
        "is ended by systemctl stop django-points.service",
    )


class Server(NamedTuple):
    """The temporary server: its folder, the one of its socket, and the cluster that it is of."""

    folder: Path
    cluster: Cluster

    @property
    def socket(self) -> str:
        return str(self.folder / "socket")

    def ask(self, script: str, *, doing: str = "querying the restored PostgreSQL") -> str:
        """Run a script as the superuser, and return its output."""
        return postgres.ask(script, port=self.cluster.port, socket=self.socket, doing=doing)

    def rows(self, name: str) -> int:
        """Read each table of a database, and return the rows of all."""
        doing = f"reading {name} of the restored PostgreSQL"
        printed = postgres.ask(
            ROWS, port=self.cluster.port, socket=self.socket, database=name, doing=doing, timeout=archive.DATA
        )
        return sum(shapes.parse(printed, {str: int}, doing=doing).values())

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
def restored(cluster: Cluster, moment: Moment, size: int) -> Iterator[Server]:
    """Yield a temporary server with a cluster as it was at a moment; afterwards nothing of it is left."""
    server = Server(_ASIDE, cluster)
    _clear(server)
    left = dumps.free(FOLDER)
    if size * 1.1 > left:
        raise DeploymentError(
            f"the moment needs {backups.in_words(size * 1.1)} in {FOLDER}, and {backups.in_words(left)} are free",
            hint="make room there; nothing was changed. Without drills: backup:points:drill: never",
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
        archive.pgbackrest(cluster, *words, "restore", doing=f"restoring {moment.text} aside", timeout=archive.DATA)
        _start(server, moment)
        yield server
    finally:
        _clear(server)


def _get(cluster: Cluster) -> str:
    """Return the command that fetches segments, several ahead, in folders that the present server does not use."""
    words = [f"--config={archive.CONFIG}", f"--stanza={cluster.stanza}", f"--pg1-path={_ASIDE}/data", "--archive-async"]
    words += [*_QUEUES, f"--lock-path={_ASIDE}/spool/lock", "archive-get", "%f", '"%p"']
    return " ".join(["pgbackrest", *words])


def _start(server: Server, moment: Moment) -> None:
    """Start the server, and wait until it has applied the log up to the moment."""
    files = {"config_file": "postgresql.conf", "hba_file": "pg_hba.conf", "ident_file": "pg_ident.conf"}
    settings = {key: f"{server.folder}/{name}" for key, name in files.items()} | _SETTINGS
    settings |= {"unix_socket_directories": server.socket, "port": str(server.cluster.port)}
    prepared = server.cluster.ask("SHOW max_prepared_transactions", doing="querying PostgreSQL").strip()
    settings["max_prepared_transactions"] = prepared if prepared.isdecimal() else "0"
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


def _clear(server: Server) -> None:
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
