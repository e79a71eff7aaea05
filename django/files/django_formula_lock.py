"""Lock a database while it is migrated: one process holds the lock, others wait. It ends with that process.

Imported in a site's virtualenv, where Django is set up; drivers are only used through Django.
"""

import contextlib
import copy
import fcntl
import hashlib
import os
import re
import socket
import threading
from urllib.parse import unquote, urlsplit

#: Part of every lock's name.
NAMESPACE = "django-formula migrate"


def of(connection, alias):
    """Return the lock for the vendor of a database."""
    return {"postgresql": Advisory, "mysql": Named, "sqlite": LockFile}.get(connection.vendor, NoLock)(
        connection, alias
    )


def description():
    """Return what other processes see of the process that holds the lock."""
    release = f"{os.environ.get('DJANGO_SITE', '')} {os.environ.get('DJANGO_RELEASE', '')}"
    return f"{NAMESPACE} {release} {socket.gethostname()}"[:63]


class NoLock:
    """The lock of a database without locks, which is always free; the contract of the others."""

    def __init__(self, connection, alias):
        self.alias = alias

    def take(self):
        """Take the lock if it is free; returns whether it was taken."""
        return True

    def holder(self):
        """Return a description of the process that holds the lock."""
        return ""

    def release(self):
        """Release the lock."""

    def watch(self, connection, timeout):
        """Return a thread that records which sessions a connection waits for."""
        return Watch(None, None, 0)


class OnServer(NoLock):
    """A lock of a database server, held by a connection of its own."""

    def __init__(self, connection, alias):
        super().__init__(connection, alias)
        settings = copy.deepcopy(connection.settings_dict)
        settings["OPTIONS"].pop("pool", None)
        self.connection = type(connection)(settings, alias)
        if hasattr(self.connection, "inc_thread_sharing"):
            self.connection.inc_thread_sharing()
        self.key = hashlib.sha256(f"{NAMESPACE} {settings['NAME']}".encode()).digest()
        self.prepare()

    def rows(self, sql, *values):
        with self.connection.cursor() as cursor:
            cursor.execute(sql, values)
            return cursor.fetchall() if cursor.description else []

    def one(self, sql, *values):
        return (self.rows(sql, *values) or [(None,)])[0][0]

    def sessions(self, numbers):
        """Return sessions of the server, the oldest first: number, names, age, state, query."""
        found = [row for row in self.rows(self.SESSIONS) if row[0] in numbers]
        return sorted(found, key=lambda row: -(row[3] or 0))

    def described(self, numbers):
        return "; ".join(_described(*row) for row in self.sessions(numbers)[:3])

    def holder(self):
        return "; ".join(_described(*row[:5], "") for row in self.sessions([self.holder_number()]))

    def release(self):
        self.connection.close()

    def watch(self, connection, timeout):
        with connection.cursor() as cursor:
            cursor.execute(self.NUMBER)
            number = cursor.fetchone()[0]
        return Watch(self, number, min(1, timeout / 4))


class Advisory(OnServer):
    """An advisory lock of a PostgreSQL session."""

    NUMBER = "SELECT pg_backend_pid()"
    SESSIONS = """
        SELECT pid, application_name, usename,
        extract(epoch FROM clock_timestamp() - coalesce(xact_start, backend_start))::int, state, query
        FROM pg_stat_activity"""

    def prepare(self):
        self.number = int.from_bytes(self.key[:8], "big", signed=True)
        self.one("SELECT set_config('application_name', %s, false)", description())
        self.rows("SELECT set_config(name, '0', false) FROM pg_settings WHERE name = 'idle_session_timeout'")

    def take(self):
        return self.one("SELECT pg_try_advisory_lock(%s)", self.number)

    def holder_number(self):
        high, low = self.number >> 32 & 0xFFFFFFFF, self.number & 0xFFFFFFFF
        return self.one(
            "SELECT pid FROM pg_locks WHERE locktype = 'advisory' AND granted AND objsubid = 1 "
            "AND database = (SELECT oid FROM pg_database WHERE datname = current_database()) "
            "AND classid::bigint = %s AND objid::bigint = %s",
            high,
            low,
        )

    def blockers(self, number):
        """Return the sessions that another one waits for."""
        return [row[0] for row in self.rows("SELECT unnest(pg_blocking_pids(%s))", number)]


class Named(OnServer):
    """A named lock of a MySQL or MariaDB session."""

    NUMBER = "SELECT CONNECTION_ID()"
    SESSIONS = "SELECT id, user, host, time, command, info FROM information_schema.processlist"

    def prepare(self):
        self.name = f"{NAMESPACE} {self.key.hex()[:32]}"
        self.rows("SET SESSION wait_timeout = 2147483")

    def take(self):
        return self.one("SELECT GET_LOCK(%s, 0)", self.name) == 1

    def holder_number(self):
        return self.one("SELECT IS_USED_LOCK(%s)", self.name)

    def blockers(self, number):
        """Return the sessions that another one waits for; if the server does not say, those in a transaction."""
        state = self.one("SELECT state FROM information_schema.processlist WHERE id = %s", number)
        if "lock" not in str(state).lower():
            return []
        with contextlib.suppress(Exception):
            found = [row[0] for row in self.rows(_HOLDERS, number, number)]
            if found:
                return found
        candidates = [row[0] for row in self.rows(_OTHER_SESSIONS, number, self.one(self.NUMBER))]
        with contextlib.suppress(Exception):
            busy = {row[0] for row in self.rows("SELECT trx_mysql_thread_id FROM information_schema.innodb_trx")}
            candidates = [one for one in candidates if one in busy] or candidates
        return candidates


_OTHER_SESSIONS = "SELECT id FROM information_schema.processlist WHERE db = DATABASE() AND id NOT IN (%s, %s)"
_HOLDERS = """
    SELECT holder.processlist_id FROM performance_schema.metadata_locks held
    JOIN performance_schema.metadata_locks wanted USING (object_type, object_schema, object_name)
    JOIN performance_schema.threads holder ON holder.thread_id = held.owner_thread_id
    JOIN performance_schema.threads waiter ON waiter.thread_id = wanted.owner_thread_id
    WHERE held.lock_status = 'GRANTED' AND wanted.lock_status = 'PENDING'
    AND waiter.processlist_id = %s AND holder.processlist_id <> %s"""


def _described(number, name, user, age, state, query):
    """Return a session in words; literals of its query are masked, because they may be personal data."""
    text = re.sub(r"'(?:[^']|'')*'|\b\d+\b", "?", " ".join(str(query or "").split()))[:120]
    parts = ", ".join(str(part) for part in (name, user, f"{age} s" if age is not None else "", state) if part)
    return f"session {number} ({parts}){f': {text}' if text else ''}"


class LockFile(NoLock):
    """A locked file next to a SQLite database, which is deleted with the lock."""

    def __init__(self, connection, alias):
        super().__init__(connection, alias)
        name = str(connection.settings_dict["NAME"])
        parts = urlsplit(name) if name.startswith("file:") else None
        path = unquote(parts.path) if parts else name
        in_memory = path.startswith(":memory:") or (parts and "mode=memory" in parts.query)
        self.path = None if in_memory else f"{os.path.realpath(path)}.migrating"
        self.descriptor = None

    def take(self):
        if not self.path:
            return True
        descriptor = os.open(self.path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, 0o640)
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            is_present = os.path.samestat(os.fstat(descriptor), os.stat(self.path))
        except OSError:
            is_present = False
        if not is_present:
            os.close(descriptor)
            return False
        self.descriptor = descriptor
        os.ftruncate(descriptor, 0)
        os.pwrite(descriptor, f"{description()} pid {os.getpid()}".encode(), 0)
        return True

    def holder(self):
        with contextlib.suppress(OSError), open(self.path) as file:
            return file.read(200)
        return ""

    def release(self):
        if self.descriptor is not None:
            os.unlink(self.path)
            os.close(self.descriptor)
            self.descriptor = None


class Watch(threading.Thread):
    """Queries periodically which sessions a connection waits for, over the connection that holds the lock."""

    def __init__(self, lock, number, pause):
        super().__init__(daemon=True)
        self.lock, self.number, self.pause = lock, number, pause
        self.found, self.ended = "", threading.Event()

    def run(self):
        with contextlib.suppress(Exception):
            while not self.ended.wait(self.pause):
                blockers = self.lock.blockers(self.number)
                if blockers:
                    self.found = self.lock.described(blockers)

    def described(self):
        """Return which sessions held what the connection waited for at the last query."""
        return f"it is held by {self.found}" if self.found else "its holder is unknown"

    def __enter__(self):
        if self.lock:
            self.start()
        return self

    def __exit__(self, *_error):
        self.ended.set()
        if self.lock:
            self.join()
