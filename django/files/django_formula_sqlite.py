"""Dump, load and exchange SQLite files as their owner: argv has the descriptor of the answer (JSON), a verb, paths."""

import contextlib
import json
import os
import resource
import shutil
import sqlite3
import sys
from urllib.parse import quote

#: Suffixes of the files that SQLite keeps for a database.
SUFFIXES = ("", "-wal", "-shm", "-journal")
#: Limit of memory in bytes: a crafted file can make SQLite allocate any amount.
MEMORY = 1 << 30


def measure(path):
    """Return the size of a database in bytes and the number of its tables; zero if there is no file."""
    if not os.path.exists(path):
        return {"size": 0, "tables": 0}
    with contextlib.closing(opened(path)) as connection:
        ((pages,),), ((size,),) = connection.execute("PRAGMA page_count"), connection.execute("PRAGMA page_size")
        return {"size": pages * size, "tables": len(tables(connection))}


def dump(path):
    """Write a copy of the database, made while other processes read and write it, to the standard output."""
    copy = os.path.join(os.path.dirname(path), f".{os.path.basename(path)}.backup")
    remove(copy)
    try:
        with contextlib.closing(opened(path)) as source, contextlib.closing(sqlite3.connect(copy)) as target:
            source.backup(target)
        found = check(copy)
        with open(copy, "rb") as file:
            shutil.copyfileobj(file, sys.stdout.buffer, 1 << 20)
        sys.stdout.buffer.flush()
        return found
    finally:
        remove(copy)


def load(path):
    """Write the standard input to a new file, and check it."""
    remove(path)
    with open(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o640), "wb") as file:
        shutil.copyfileobj(sys.stdin.buffer, file, 1 << 20)
        file.flush()
        os.fsync(file.fileno())
    return check(path)


def check(path):
    """Check the integrity of a database, and `count` it.

    Raises:
        RuntimeError: it is damaged.
    """
    with contextlib.closing(opened(path)) as connection:
        try:
            problems = integrity(connection)
        except sqlite3.DatabaseError as error:  # by SQLite 3.44 and later, of the tables of a virtual one
            if "vtable constructor failed" not in str(error):
                raise
            problems = [str(error)]
        if problems != ["ok"]:
            raise RuntimeError(f"the database is damaged: {'; '.join(problems)}")
    return count(path)


def integrity(connection):
    """Return what SQLite finds: in tables alone where indexes or checks call functions that only Django has."""
    try:
        return [line for (line,) in connection.execute("PRAGMA integrity_check(3)")]
    except sqlite3.OperationalError as error:
        if "unknown function" not in str(error):
            raise
    connection.execute("PRAGMA ignore_check_constraints=1")
    return [line for (line,) in connection.execute("PRAGMA quick_check(3)")]


def count(path):
    """Return the rows of each table, and the migrations."""
    with contextlib.closing(opened(path)) as connection:
        names = tables(connection)
        rows = {name: number for name in names for (number,) in connection.execute(counting(name))}
        migrated = "django_migrations" in names
        found = connection.execute("SELECT app, name FROM django_migrations") if migrated else ()
        return {"rows": rows, "migrations": sorted(f"{app}.{name}" for app, name in found)}


def swap(path, new, kept):
    """Rename a database to keep it, and give its name to a new one; files of SQLite are renamed with them."""
    mode = os.stat(path).st_mode & 0o777 if os.path.exists(path) else 0o640
    move(path, kept)
    try:
        os.chmod(new, mode)
        move(new, path)
    except OSError:
        move(kept, path)
        raise
    folder = os.open(os.path.dirname(path), os.O_RDONLY)
    os.fsync(folder)
    os.close(folder)
    return {}


def undo_partial_swap(path, kept):
    """Give a database its name back, if a swap was killed between the two renames."""
    if os.path.exists(kept) and not os.path.exists(path):
        move(kept, path)
    return {}


def move(old, new):
    for suffix in SUFFIXES:
        with contextlib.suppress(FileNotFoundError):
            os.rename(old + suffix, new + suffix)


def remove(path):
    for suffix in SUFFIXES:
        with contextlib.suppress(FileNotFoundError):
            os.unlink(path + suffix)
    return {}


def opened(path):
    connection = sqlite3.connect(f"file:{quote(path)}?mode=rw", timeout=30, uri=True)
    connection.execute("PRAGMA query_only=1")
    return connection


def tables(connection):
    """Return the tables with rows of their own, without virtual tables, whose extension may not be loaded."""
    named = connection.execute("SELECT name, sql FROM sqlite_master WHERE type = 'table' ORDER BY name")
    return [name for name, sql in named if not name.startswith("sqlite_") and "CREATE VIRTUAL" not in (sql or "")]


def counting(name):
    quoted = '"' + name.replace('"', '""') + '"'
    return f"SELECT count(*) FROM {quoted}"  # noqa: S608  # nosec B608


def main():
    answers, verb, *paths = sys.argv[1:]
    os.umask(0o027)
    resource.setrlimit(resource.RLIMIT_AS, (MEMORY, MEMORY))
    try:
        answer = {one.__name__: one for one in (measure, dump, load, count, swap, undo_partial_swap, remove)}[verb](
            *paths
        )
    except (OSError, sqlite3.Error, RuntimeError, MemoryError) as error:
        sys.exit(f"{verb} {paths[0]}: {' '.join(str(error).split())[:400]}")
    with open(int(answers), "w", closefd=False) as file:
        json.dump(answer, file)


if __name__ == "__main__":
    main()
