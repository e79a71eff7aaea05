"""Back up and restore the site's own queue: the snapshot that Redis sends a replica, which it also reads at its start.

It is treated like a database. A task of a restored queue runs again that has run since the backup, so a restore takes
it only where that is requested.
"""

import contextlib
import os
import shutil
from pathlib import Path
from typing import IO, Any

from django_formula.backup import dumps
from django_formula.backup.dumps import Database, Dumper, Prepare, nothing
from django_formula.host import commands, folders, users
from django_formula.host import file as host_file
from django_formula.host.commands import DeploymentError
from django_formula.host.folders import Folder
from django_formula.site.sites import Site
from django_formula.store import client, contract, redis, service, stores
from django_formula.store.contract import OwnServer
from django_formula.untrusted import move

#: The alias of the queue in backups; no alias of a database has such a name by accident.
ALIAS = "store_queue"
#: The file that Redis takes over at its start where it has no other: an append-only file may begin with a snapshot.
_FILE = "appendonly.aof"
_PART = 1 << 20


def own_queues(site: Site) -> list[Database]:
    """Return the queue of a site as what is backed up; nothing where it has none of its own."""
    queues = [server for _kind, server in stores.own_servers(site) if server.name == "queue"]
    return [Database(site, ALIAS, redis.STORE.KIND, str(server.data)) for server in queues]


class StoreDumper(Dumper):
    """The queue; nothing in it is counted, since tasks come and go while it is dumped."""

    suffix = "rdb"
    is_path = True

    def measure(self, database: Database) -> dict[str, int]:
        """Return the memory that its server uses; an empty one counts as one without tables."""
        server = _server(database)
        usage = redis.STORE.usage(server)
        (keys,) = client.redis(server.socket, [["DBSIZE"]])
        return {"size": usage.used, "tables": int(bool(keys))}

    def dump(self, database: Database, file: int) -> dict[str, Any]:
        """Write the snapshot of one moment that the server sends a replica."""
        server = _server(database)
        patience, limit = database.timeout(), 2 * redis.STORE.usage(server).limit
        with client.connection(server.socket, patience=patience, limit=limit) as (bounded, stream):
            client.send(bounded, [redis.login(server)])
            client.answer(stream, server.socket)
            client.send(bounded, [["SYNC"]])
            write = dumps.writer(file)
            left = _announced(stream)
            while left:
                part = stream.read(min(left, _PART))
                if not part:
                    raise ConnectionError("the connection was closed")
                write(part)
                left -= len(part)
        return {"rows": {}, "migrations": []}

    def load(self, database: Database, name: str, file: int, _prepare: Prepare = nothing) -> dict[str, Any]:
        """Copy a snapshot into a folder next to that of the queue, and have Redis's own program check it."""
        site, user = database.site, contract.user(database.site)
        path = Path(name) / _FILE
        folders.make(Folder(Path(name), "root", "root", 0o700))
        flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW
        with open(os.dup(file), "rb") as source, open(os.open(path, flags, 0o600), "wb") as target:
            source.seek(0)
            shutil.copyfileobj(source, target, _PART)
            os.fchown(target.fileno(), *users.owner(user, site.user))
            os.fsync(target.fileno())
        folders.make(Folder(Path(name), user, site.user, 0o700))
        argv = [service.program(redis.STORE, _server(database)), str(path)]
        commands.run(argv, doing="checking the queue's dump", user=user, timeout=database.timeout())
        return {"rows": {}, "migrations": []}

    def count_rows(self, database: Database) -> dict[str, int]:
        return {}

    def swap(self, database: Database, name: str, kept: str) -> None:
        server = _server(database)
        try:
            service.stop(server)
            if os.path.lexists(database.name):
                move.rename(Path(database.name), Path(kept))
            if os.path.lexists(name):  # else the exchange is undone
                os.rename(name, database.name)
            host_file.sync_folder(Path(name).parent)
            service.restart(server)
        except BaseException:
            if os.path.lexists(kept):
                if os.path.lexists(database.name):
                    os.rename(database.name, name)
                os.rename(kept, database.name)
            with contextlib.suppress(DeploymentError):  # the first error says why
                service.restart(server)
            raise

    def undo_partial_swap(self, database: Database, kept: str) -> None:
        is_undone = move.undo(Path(database.name), Path(kept))
        if not is_undone and os.path.lexists(kept) and not os.path.lexists(database.name):
            os.rename(kept, database.name)
            is_undone = True
        if is_undone:
            service.restart(_server(database))

    def drop(self, database: Database, name: str) -> None:
        host_file.remove_tree(Path(name))


def _server(database: Database) -> OwnServer:
    part = Path(database.name).name
    found = [server for _kind, server in stores.own_servers(database.site) if server.part == part]
    if not found:
        raise DeploymentError(
            f"{database.site.name} has no queue of its own on this host",
            hint=f"set {database.site.at}:queue, and apply",
        )
    return found[0]


def _announced(stream: IO[bytes]) -> int:
    """Return the bytes of the snapshot, which the server announces; until then it sends empty lines."""
    while True:
        line = stream.readline(1024)
        if line.startswith(b"$") and line[1:].strip().isdigit():
            return int(line[1:])
        if line.strip():
            raise DeploymentError(f"the queue sends no snapshot: {line[:80].decode(errors='replace').strip()}")
        if not line:
            raise ConnectionError("the connection was closed")
