"""Back up and restore the site's own queue: the snapshot that Redis sends a replica, which it also reads at its start.

It is treated like a database. A task of a restored queue runs again that has run since the backup, so a restore takes
it only where that is requested.
"""

import contextlib
import os
import shutil
from pathlib import Path
from typing import IO, Any

import django_backup_dump
import django_host_command
import django_host_file
import django_host_folder
import django_host_user
import django_store
import django_store_client
import django_store_contract
import django_store_redis
import django_store_service
import django_wall_move
from django_backup_dump import Database, Dumper, Prepare, nothing
from django_host_command import DeploymentError
from django_host_folder import Folder
from django_site import Site
from django_store_contract import OwnServer

#: The alias of the queue in backups; no alias of a database has such a name by accident.
ALIAS = "store_queue"
#: The file that Redis takes over at its start where it has no other: an append-only file may begin with a snapshot.
_FILE = "appendonly.aof"
_PART = 1 << 20


def of_site(site: Site) -> list[Database]:
    """Return the queue of a site as what is backed up; nothing where it has none of its own."""
    queues = [server for _kind, server in django_store.own_servers(site) if server.name == "queue"]
    return [Database(site, ALIAS, django_store_redis.STORE.KIND, str(server.data)) for server in queues]


class StoreDumper(Dumper):
    """The queue; nothing in it is counted, since tasks come and go while it is dumped."""

    suffix = "rdb"
    is_path = True

    def measure(self, database: Database) -> dict[str, int]:
        """Return the memory that its server uses; an empty one counts as one without tables."""
        server = _server(database)
        usage = django_store_redis.STORE.usage(server)
        (keys,) = django_store_client.redis(server.socket, [["DBSIZE"]])
        return {"size": usage.used, "tables": int(bool(keys))}

    def dump(self, database: Database, file: int) -> dict[str, Any]:
        """Write the snapshot of one moment that the server sends a replica."""
        server = _server(database)
        patience, limit = database.timeout(), 2 * django_store_redis.STORE.usage(server).limit
        with django_store_client.connection(server.socket, patience=patience, limit=limit) as (bounded, stream):
            django_store_client.send(bounded, [django_store_redis.login(server)])
            django_store_client.answer(stream, server.socket)
            django_store_client.send(bounded, [["SYNC"]])
            write = django_backup_dump.writer(file)
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
        site, user = database.site, django_store_contract.user(database.site)
        path = Path(name) / _FILE
        django_host_folder.make(Folder(Path(name), "root", "root", 0o700))
        flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW
        with open(os.dup(file), "rb") as source, open(os.open(path, flags, 0o600), "wb") as target:
            source.seek(0)
            shutil.copyfileobj(source, target, _PART)
            os.fchown(target.fileno(), *django_host_user.owner(user, site.user))
            os.fsync(target.fileno())
        django_host_folder.make(Folder(Path(name), user, site.user, 0o700))
        argv = [site.platform["stores"][database.kind], str(path)]
        django_host_command.run(argv, doing="checking the queue's dump", user=user, timeout=database.timeout())
        return {"rows": {}, "migrations": []}

    def count_rows(self, database: Database) -> dict[str, int]:
        return {}

    def swap(self, database: Database, name: str, kept: str) -> None:
        server = _server(database)
        try:
            django_store_service.stop(server)
            django_wall_move.rename(Path(database.name), Path(kept))
            os.rename(name, database.name)
            django_host_file.sync_folder(Path(name).parent)
            django_store_service.restart(server)
        except BaseException:
            if os.path.lexists(kept):
                if os.path.lexists(database.name):
                    os.rename(database.name, name)
                os.rename(kept, database.name)
            with contextlib.suppress(DeploymentError):  # the first error says why
                django_store_service.restart(server)
            raise

    def undo_partial_swap(self, database: Database, kept: str) -> None:
        is_undone = django_wall_move.undo(Path(database.name), Path(kept))
        if not is_undone and os.path.lexists(kept) and not os.path.lexists(database.name):
            os.rename(kept, database.name)
            is_undone = True
        if is_undone:
            django_store_service.restart(_server(database))

    def drop(self, database: Database, name: str) -> None:
        django_host_file.remove_tree(Path(name))


def _server(database: Database) -> OwnServer:
    part = Path(database.name).name
    found = [server for _kind, server in django_store.own_servers(database.site) if server.part == part]
    if not found:
        raise DeploymentError(
            f"{database.site.name} has no queue of its own on this host",
            hint=f"set django:sites:{database.site.name}:queue, and apply",
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
