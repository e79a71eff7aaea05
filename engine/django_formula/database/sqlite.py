"""Read the migrations in a SQLite file of a site, by a small program with limits that runs as the site's user.

Root never opens such a file. A process that can write it controls what SQLite does with it: a hot journal names files
that SQLite deletes, a view may never end, a FIFO blocks. Root only reads its status, which is the key of a cache.
"""

import json
import os
import time
from pathlib import Path
from urllib.parse import quote

from django_formula.host import commands, file, users
from django_formula.host.commands import Command, DeploymentError
from django_formula.site.sites import Site
from django_formula.untrusted import delegate, shapes

#: Limits of the program: seconds, bytes of memory, rows, and characters of each text.
_TIMEOUT, _MEMORY, _ROWS, _TEXT = 5, 512 << 20, 20_000, 255
#: Files whose migrations are cached.
_CACHED = 20
#: Nanoseconds after which a further write to a file changes its times: clocks of file systems tick slowly.
_TICK = 100_000_000
_PROGRAM = f"""
import json
import os
import resource
import signal
import sqlite3
import stat
import sys
import time
path, owner = sys.argv[1], int(sys.argv[2])
resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
resource.setrlimit(resource.RLIMIT_CPU, ({_TIMEOUT}, {_TIMEOUT}))
resource.setrlimit(resource.RLIMIT_AS, ({_MEMORY}, {_MEMORY}))
signal.alarm({_TIMEOUT})
names = []
try:
    status = os.lstat(path)
    if stat.S_ISREG(status.st_mode) and status.st_uid == owner:
        from urllib.parse import quote
        connection = sqlite3.connect("file:" + quote(path) + "?mode=ro", uri=True, timeout=2)
        deadline = time.monotonic() + {_TIMEOUT - 2}
        connection.set_progress_handler(lambda: time.monotonic() > deadline, 10000)
        if hasattr(connection, "setlimit"):
            connection.setlimit(sqlite3.SQLITE_LIMIT_LENGTH, 1 << 20)
        connection.execute("PRAGMA trusted_schema = OFF")
        is_table = "SELECT 1 FROM sqlite_master WHERE type = 'table' AND name = 'django_migrations'"
        if connection.execute(is_table).fetchone():
            rows = connection.execute(
                "SELECT substr(app, 1, {_TEXT}), substr(name, 1, {_TEXT}) FROM django_migrations LIMIT {_ROWS}"
            )
            names = [str(app) + "." + str(name) for app, name in rows]
except (OSError, ValueError, MemoryError, sqlite3.Error):
    names = []
sys.stdout.write(json.dumps(names))
"""  # noqa: S608  # nosec B608 - numbers of ours


def applied(site: Site, path: Path) -> set[str]:
    """Return the rows of django_migrations in a SQLite file of the site's user, or none if it cannot be read.

    A link, a file of another owner, and a view instead of the table count as empty. The rows are cached until the file
    changes.
    """
    before = _stamp(path)
    if not before:
        return set()
    recorded = (file.read_json(site.schema) or {}).get("files")
    cached = recorded if isinstance(recorded, dict) else {}
    entry = cached.get(str(path))
    if isinstance(entry, dict) and entry.get("stamp") == before and shapes.fits(entry.get("names"), [str]):
        return set(entry["names"])
    names = _read(site, path)
    if names is None:
        return set()
    if before == _stamp(path) and _is_settled(before) and site.schema.parent.is_dir():
        rest = {name: value for name, value in cached.items() if name != str(path)} if len(cached) < _CACHED else {}
        files = {**rest, str(path): {"stamp": before, "names": names}}
        file.write_json(site.schema, {"files": files}, mode=0o600, durable=False)
    return set(names)


def resolved(site: Site, *paths: Path) -> list[Path]:
    """Return the paths of files that a project names, with links resolved as far as the site's user can read them.

    Raises:
        DeploymentError: resolving them timed out.
    """
    names = delegate.ask(
        site.user, lambda: [os.path.realpath(path) for path in paths], doing="looking for the databases"
    )
    return [Path(name) for name in names]


def problem(site: Site, path: Path) -> str:
    """Return why a site cannot write a file; the site's user checks it, since the project has chosen its path."""
    try:
        found: str = delegate.ask(site.user, _problem, site, path, doing=f"looking at {path}")
    except DeploymentError as error:
        return error.message
    return found


def _problem(site: Site, path: Path) -> str:
    if not path.exists():
        return f"there is no file {path}"
    folder = path.resolve().parent
    if os.statvfs(folder).f_flag & os.ST_RDONLY:
        return f"the file system of {folder} is read-only"
    if folder in {own.path for own in site.folders()}:
        return ""  # the step `site` has just corrected its owner and mode
    return "" if users.may(users.WRITE, folder, site.user) else f"{site.user} cannot write in {folder}"


def copy_command(user: str, source: Path | str, target: Path | str, *, committed: bool = False) -> list[str]:
    """Return the words of a command of root that copies the rows of a database, as a user, into another file.

    Args:
        committed: whether the source is a file of a release, in which its user may not write.
    """
    one, other = (json.dumps(str(path), ensure_ascii=False) for path in (source, target))
    if committed:
        one = f'"file:{quote(str(source))}?immutable=1", uri=True'
    # With a WAL it takes no pages of another size than its own.
    opened = f't = s.connect({other}); t.execute("PRAGMA journal_mode=DELETE")'
    program = f"import sqlite3 as s; {opened}; s.connect({one}).backup(t)"
    return ["runuser", "-u", user, "--", "python3", "-c", program]


def _read(site: Site, path: Path) -> list[str] | None:
    """Run the program; returns the names of migrations, or None if it failed."""
    argv = ["/usr/bin/python3", "-I", "-S", "-c", _PROGRAM, str(path), str(users.user_id(site.user))]
    doing = f"reading {path}"
    try:
        command = Command(argv, doing=doing, user=site.user, timeout=_TIMEOUT + 1, grace=0)
        ended = commands.execute(command)
        if ended.code != 0:
            return None
        names: list[str] = shapes.parse(ended.printed, [str], doing=doing)
    except (DeploymentError, KeyError):  # KeyError: the user is not on the host yet
        return None
    return names


def _stamp(path: Path) -> list[list[int]]:
    """Return what a write changes in the status of a file and its write-ahead log; empty if there is no file."""
    stamp = []
    for name in (str(path), f"{path}-wal"):
        try:
            status = os.lstat(name)
        except (OSError, ValueError):
            stamp.append([0])
            continue
        times = [status.st_mtime_ns, status.st_ctime_ns]
        stamp.append([status.st_dev, status.st_ino, status.st_size, status.st_uid, *times])
    return stamp if len(stamp[0]) > 1 else []


def _is_settled(stamp: list[list[int]]) -> bool:
    """Return whether a further write to the files would have changed their times."""
    now = time.time_ns()
    return all(now - moment > _TICK for one in stamp if len(one) > 1 for moment in one[-2:])
