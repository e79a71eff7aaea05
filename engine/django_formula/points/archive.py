"""The archive of the PostgreSQL servers of this host, by pgbackrest: their backups, and their log until now.

An archive is of a cluster, which all its databases share. pgbackrest runs as PostgreSQL's own user, who can read them
all anyway, and who alone can read its configuration; what is in the store is encrypted.
"""

import contextlib
import itertools
import re
import time
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple

from django_formula.database import postgres
from django_formula.database.engines import POSTGRES
from django_formula.host import clock, commands, file
from django_formula.host.commands import DeploymentError
from django_formula.host.locks import Lock
from django_formula.site.sites import Site
from django_formula.untrusted import shapes
from django_formula.untrusted.foreign import Foreign

#: What the formula has of the archive on this host, in a folder of root's.
FOLDER, CONFIG = postgres.ARCHIVE, postgres.ARCHIVED
STATE = FOLDER / "state.json"
#: PostgreSQL's own user.
USER = "postgres"
#: What is done with the archive, as status names it.
CHECK, BACKUP, DRILL = "check", "backup", "drill"
#: Seconds after which PostgreSQL closes a segment that has something, and after which one has to be in the store.
CLOSES, LATE = 45, 300
#: Seconds for which a gap that has ended is a problem, so that people hear of it.
_TOLD = 86400.0
#: Seconds after which there has to be another backup: each day one is begun. Else the program of the timer does not
#: run, or is killed.
_OLD = 3 * 86400.0
#: Seconds for a request, and for what sends or fetches data.
_REQUEST, DATA = 300.0, 24 * 3600.0
#: Seconds for each answer of a store when it is asked what it has; pgbackrest tries four times. Its other commands wait
#: longer and ask more often, so that they say minutes later that the store is away.
_ANSWER = 10
#: The last drill of a cluster: when one was tried, when it was good, and that in words.
NO_DRILL = {"tried": "", "done": "", "text": ""}
#: What the host remembers of a cluster: where its log is, what the store has, and what has failed.
_CLUSTER = {
    **dict.fromkeys(("stanza", "data", "waiting", "store"), str),
    "port": int,
    "socket": str,
    "oldest": str,
    "newest": str,
    "full": str,
    "backup": str,
    "gaps": [[str]],
    "failed": {str: {"since": str, "cause": str}},
    "drill?": dict.fromkeys(NO_DRILL, str),
    "numbers?": int,
}
_STATE = {"program": str, "clusters": {str: _CLUSTER}, "drill?": str}
#: A backup, as `pgbackrest info` has it.
_BACKUP = {"type": str, "timestamp": {"start": int, "stop": int}, "info": {"size": int}, "error?": Any}
_INFO = [{"backup": [_BACKUP], "repo?": [{"status": {"code": int, "message": str}}]}]
#: Its status of a store that cannot be read; it succeeds nevertheless.
_UNREADABLE = 99
#: What precedes a cause: of an error, and of a status.
_BEFORE_CAUSE = re.compile(r"^.*?(?:ERROR: \[\d+\]: |\[\w+Error\] )")
#: What an S3-compatible store says of a request that it refuses.
_CODE = re.compile(r"<Code>(\w+)</Code>")
#: A segment in the list of an archive: its timeline, its number in two parts (`Cluster.numbers`), and when it came
#: there.
_SEGMENT = re.compile(
    rb'"(?:[^"]*/)?[0-9A-F]{8}([0-9A-F]{8})([0-9A-F]{8})-[0-9a-f]{40}(?:\.\w+)?"\s*:\s*'
    rb'\{[^{}]*"time"\s*:\s*(\d{1,18})\b'
)
#: What pgbackrest, the store or PostgreSQL says → what to do.
_HINTS = (
    ("do not match the database", "another server's archive is there: docs/guides/points-in-time.md#a-new-host, or "
     "give this host another path"),
    ("cipher", "correct {at}:password: the right one was there when the archive was made"),
    ("CryptoError", "correct {at}:password: the right one was there when the archive was made"),
    ("InvalidAccessKeyId", "correct {at}:key"),
    ("SignatureDoesNotMatch", "correct {at}:secret"),
    ("AccessDenied", "let the key read, write, list and delete: docs/guides/points-in-time.md"),
    ("unable to verify certificate", "install the certificate of the store's authority: update-ca-certificates"),
    ("unable to connect", "{away}"),
    ("timeout after", "{away}"),
)  # fmt: skip
AT = "django:sites:SITE:backup:points"
_AWAY = "see whether the store runs and this host reaches it; PostgreSQL keeps its log meanwhile"


class Cluster(NamedTuple):
    """A PostgreSQL server of this host, as it is recorded.

    Attributes:
        stanza: its name in the archive: that of Debian, such as ``15-main``.
        data: its folder.
        waiting: the folder with a file for each segment that waits for the archive, as it really is.
        port: by which it is reached, and the folder of its socket if that is not the default one.
        numbers: how many segments have the same first part of their number: 256 of the usual 16 MB.
    """

    stanza: str
    data: Path
    waiting: Path
    port: int
    socket: str
    numbers: int = 256

    def ask(self, script: str, *, doing: str) -> str:
        """Run a script as the superuser, and return its output."""
        return postgres.ask(script, port=self.port, socket=self.socket, doing=doing)


def options(config: Mapping[str, Any]) -> dict[str, Any] | None:
    """Return what the pillar has for points in time; None where a site has none."""
    points: dict[str, Any] | None = (config.get("backup") or {}).get("points")
    return points


def clusters_of(config: Mapping[str, Any]) -> dict[str, dict[str, Any]]:
    """Return what the host remembers of the cluster of each database of a site that is archived, by alias."""
    recorded = {(entry["socket"], entry["port"]): entry for entry in read_state()["clusters"].values()}
    own = {alias: one for alias, one in config["databases"].items() if is_archivable(one)}
    addresses = {alias: POSTGRES.address(one) for alias, one in own.items()}
    return {alias: recorded[place] for alias, place in addresses.items() if place in recorded}


def is_archivable(database: Mapping[str, Any]) -> bool:
    """Return whether a database is on a PostgreSQL server of this host that the formula sets up."""
    return bool(database["engine"] == POSTGRES.name and database["manage"])


# What the host remembers


def read_state() -> dict[str, Any]:
    """Return what the host remembers of the archive."""
    return file.read_json(STATE, _STATE) or {"program": "", "clusters": {}}


def write_state(state: Mapping[str, Any]) -> None:
    """Have the host remember it."""
    file.write_json(STATE, dict(state), mode=0o600)


def note(entry: dict[str, Any], task: str, failure: DeploymentError | None) -> None:
    """Put into what the host remembers of a cluster that a task works, or has failed, and since when."""
    if failure is None:
        entry["failed"].pop(task, None)
        return
    since = entry["failed"].get(task, {}).get("since", clock.now())
    entry["failed"][task] = {"since": since, "cause": failure.message.splitlines()[0].replace(";", ",")}


def cluster(entry: Mapping[str, Any]) -> Cluster:
    """Return a cluster as it is recorded."""
    folders = Path(entry["data"]), Path(entry["waiting"])
    return Cluster(entry["stanza"], *folders, entry["port"], entry["socket"], entry.get("numbers", 256))


def lock(holder: str, patience: str = "10s") -> Lock:
    """Return the lock under which the archive is set up, checked and added to."""
    return Lock(
        FOLDER / ".lock",
        holder,
        busy="other work on the archive of PostgreSQL",
        timeout=patience,
        hint="wait until it has finished, or end it: systemctl stop django-points.service",
    )


def status(site: Site) -> dict[str, Any]:
    """Return what `django.status` shows: since when there are points, and what is wrong with them.

    ``points_behind`` are the seconds for which the oldest segment waits for the archive.
    """
    if not options(site.config):
        return {"points": "", "points_behind": ""}
    entry = clusters_of(site.config).get("default")
    if not entry:
        return {"points": "archive fails: it is not set up: apply, and see what that says", "points_behind": ""}
    behind, failed = waiting_since(cluster(entry)), entry["failed"]
    parts = [f"since {entry['oldest']}, backup {entry['backup']}"] if entry["oldest"] else []
    parts += [f"drill {drilled}"] if (drilled := (entry.get("drill") or NO_DRILL)["text"]) else []
    if behind > LATE:
        parts.append(f"archive fails: the oldest segment waits for {behind:.0f} s")
    parts += [f"{what} fails since {failed[what]['since']}: {failed[what]['cause']}" for what in sorted(failed)]
    if _is_old(entry) and not failed.keys() & {CHECK, BACKUP}:
        made = f"the newest one is of {entry['backup']}" if entry["backup"] else "there is none yet"
        parts.append(f"backup fails: {made}, see the journal of django-points.service")
    new = (pair for pair in entry["gaps"] if time.time() - (clock.seconds(pair[1]) or time.time()) < _TOLD)
    parts += [f"gap from {begin} to {end}: what was committed between has no points" for begin, end in new]
    return {"points": "; ".join(parts) or "no backup yet", "points_behind": round(behind)}


def _is_old(entry: Mapping[str, Any]) -> bool:
    """Return whether the newest backup of a cluster is too old; without one, what was set up for it."""
    made = clock.seconds(entry["backup"])
    with contextlib.suppress(OSError):
        made = made or CONFIG.stat().st_mtime
    return bool(made) and time.time() - made > _OLD


def waiting_since(one: Cluster) -> float:
    """Return for how many seconds the oldest segment waits for the archive; 0 where none does.

    A file of PostgreSQL's for each tells so, also where the server does not run.
    """
    folder = Foreign(Path("/"), *one.waiting.parts[1:])
    with contextlib.suppress(DeploymentError, OSError):
        for name in folder.names():
            found = (folder / name).status() if name.endswith(".ready") else None
            if found:
                return max(time.time() - found.st_mtime, 0.0)
    return 0.0


# What is in the store


def pgbackrest(one: Cluster, *words: str, doing: str, timeout: float = _REQUEST, output: int | None = None) -> str:
    """Run pgbackrest for a cluster, and return its output.

    Args:
        output: a file descriptor that gets it instead.

    Raises:
        DeploymentError: the store cannot be reached, or refuses it; or PostgreSQL does not answer.
    """
    command = commands.Command(
        ["pgbackrest", f"--config={CONFIG}", f"--stanza={one.stanza}", "--log-level-console=error", *words],
        doing=doing,
        user=USER,
        output=output,
        timeout=timeout,
        errors_too=True,
    )
    ended = commands.execute(command)
    if ended.code == 0:
        return ended.printed
    raise _explained(doing, f"{ended.printed}\n{ended.errors}", ended.code)


def _explained(doing: str, text: str, code: int | None) -> DeploymentError:
    """Return the error of a run of pgbackrest, with the cause in its message, and what to do."""
    cause = _cause(text) or ("timed out" if code is None else f"exit code {code}")
    hint = next((hint.format(at=AT, away=_AWAY) for part, hint in _HINTS if part in text), "")
    return DeploymentError(f"{doing}: {cause}", log=text.strip(), hint=hint, transient=True)


def _cause(text: str) -> str:
    """Return what pgbackrest says of an error: its first lines, without the ones that name where to look."""
    lines = [line.strip() for line in text.splitlines()]
    first = next((number for number, line in enumerate(lines) if _BEFORE_CAUSE.match(line)), None)
    if first is None:
        return ""
    said = [_BEFORE_CAUSE.sub("", lines[first]), *lines[first + 1 : first + 3]]
    code = _CODE.search(text)
    if code:
        said[1:] = [code[1]]  # the other lines are those of the request
    return " ".join(line for line in said if line and not line.startswith("HINT")).replace(";", ",")[:400]


def reach(one: Cluster) -> list[dict[str, Any]]:
    """Return the backups of a cluster that the store has, within a minute.

    Raises:
        DeploymentError: the store does not answer or refuses the login, or the password is another one.
    """
    doing = "listing the backups of PostgreSQL"
    printed = pgbackrest(one, "info", "--output=json", f"--io-timeout={_ANSWER}", doing=doing)
    found = shapes.parse(printed, _INFO, doing=doing)
    for status in (repository["status"] for stanza in found for repository in stanza.get("repo", [])):
        if status["code"] == _UNREADABLE:
            raise _explained(doing, status["message"], _UNREADABLE)
    return [backup for stanza in found for backup in stanza["backup"] if not backup.get("error")]


class Contents(NamedTuple):
    """What the store has of a cluster.

    Attributes:
        backups: when each was complete, with its type and the size of the cluster; the oldest first.
        gaps: between which moments the log is missing, as far as a later backup does not begin anew.
        newest: when the newest segment came there.
    """

    backups: list[tuple[float, str, int]]
    gaps: list[tuple[float, float]]
    newest: float


def contents(one: Cluster) -> Contents:
    """Return what the store has of a cluster.

    Raises:
        DeploymentError: it cannot be reached.
    """
    backups = reach(one)
    made = sorted((float(each["timestamp"]["stop"]), each["type"], each["info"]["size"]) for each in backups)
    began = min((float(each["timestamp"]["start"]) for each in backups), default=0.0)
    segments = sorted(_segments(one))
    gaps = _gaps(segments, [when for when, _type, _size in made])
    newest = max((when for _number, when in segments), default=0.0)
    return Contents(made, [gap for gap in gaps if gap[1] > began], newest)


def _segments(one: Cluster) -> Iterator[tuple[int, float]]:
    """Yield the number of each segment, and when it came into the archive.

    There are two thousand of each day, and many more where much is written: the list is longer than outputs may be.

    Raises:
        DeploymentError: the store cannot be reached.
    """
    doing, words = "listing the archive of PostgreSQL", ("--log-level-stderr=error", "repo-ls", "--recurse")
    with file.in_memory(b"") as listed:
        pgbackrest(one, *words, "--output=json", f"archive/{one.stanza}", doing=doing, output=listed.fileno())
        listed.seek(0)
        text = listed.read().strip()
    if not (text.startswith(b"{") and text.endswith(b"}")):
        raise DeploymentError(f"{doing}: it ended without a usable answer")
    for found in _SEGMENT.finditer(text):
        yield int(found[1], 16) * one.numbers + int(found[2], 16), float(found[3])


def _gaps(segments: list[tuple[int, float]], backups: Iterable[float]) -> list[tuple[float, float]]:
    """Return between which moments segments are missing: until the first backup after that, or until now."""
    complete, found = sorted(backups), []
    for (number, when), (following, _later) in itertools.pairwise(segments):
        if following > number + 1:
            found.append((when, next((each for each in complete if each > when), float("inf"))))
    return found


def remember(entry: dict[str, Any], there: Contents) -> None:
    """Put what the store has into what the host remembers of a cluster."""
    times = [(when, kind) for when, kind, _size in there.backups]
    full = [when for when, kind in times if kind == "full"]
    entry["oldest"] = clock.timestamp(times[0][0]) if times else ""
    entry["backup"] = clock.timestamp(times[-1][0]) if times else ""
    entry["full"] = clock.timestamp(full[-1]) if full else ""
    entry["newest"] = clock.timestamp(there.newest) if there.newest else ""
    entry["gaps"] = [
        [clock.timestamp(begin), clock.timestamp(end) if end < float("inf") else "now"] for begin, end in there.gaps
    ]
