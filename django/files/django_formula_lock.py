"""The lock of a database: who has it migrates, the others wait. It ends with the process that holds it, in any way.

Imported in a site's virtualenv, where Django is set up; drivers are reached through it alone.
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

#: What all who migrate by this lock have in common.
NAMESPACE = "django-formula migrate"


def of(connection, alias):
    """The lock of a database, by its kind."""
    return {"postgresql": Advisory, "mysql": Named, "sqlite": Beside}.get(connection.vendor, Nothing)(connection, alias)


def who():
    """What others are told of whoever holds the lock."""
    release = f"{os.environ.get('DJANGO_SITE', '')} {os.environ.get('DJANGO_RELEASE', '')}"
    return f"{NAMESPACE} {release} {socket.gethostname()}"[:63]


class Nothing:
    """The lock of a database that has none."""

    def __init__(self, connection, alias):
        self.alias = alias

    def take(self):
        """Take the lock if nobody has it; returns whether it was taken."""
        return True

    def holder(self):
        """Who has the lock, for people."""
        return ""

    def give_back(self):
        """Let others have the lock."""

    def watch(self, connection, patience):
        """What tells later whom a connection has waited for."""
        return Watch(None, None, 0)


class OnServer(Nothing):
    """A lock that a connection of its own holds."""

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
        """Sessions of the server, those first that have lasted the longest: number, names, age, state, query."""
        found = [row for row in self.rows(self.SESSIONS) if row[0] in numbers]
        return sorted(found, key=lambda row: -(row[3] or 0))

    def told(self, numbers):
        return "; ".join(_told(*row) for row in self.sessions(numbers)[:3])

    def holder(self):
        return "; ".join(_told(*row[:5], "") for row in self.sessions([self.holder_number()]))

    def give_back(self):
        self.connection.close()

    def watch(self, connection, patience):
        with connection.cursor() as cursor:
            cursor.execute(self.NUMBER)
            number = cursor.fetchone()[0]
        return Watch(self, number, min(1, patience / 4))


class Advisory(OnServer):
    """PostgreSQL: an advisory lock of the session."""

    NUMBER = "SELECT pg_backend_pid()"
    SESSIONS = """
        SELECT pid, application_name, usename,
        extract(epoch FROM clock_timestamp() - coalesce(xact_start, backend_start))::int, state, query
        FROM pg_stat_activity"""

    def prepare(self):
        self.number = int.from_bytes(self.key[:8], "big", signed=True)
        self.one("SELECT set_config('application_name', %s, false)", who())
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
        """The sessions that another one of this server waits for."""
        return [row[0] for row in self.rows("SELECT unnest(pg_blocking_pids(%s))", number)]


class Named(OnServer):
    """MySQL, MariaDB: a named lock of the session."""

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
        """The sessions that another one waits for; where the server does not tell, those that have a transaction."""
        waits = self.one("SELECT state FROM information_schema.processlist WHERE id = %s", number)
        if "lock" not in str(waits).lower():
            return []
        with contextlib.suppress(Exception):
            found = [row[0] for row in self.rows(_HOLDERS, number, number)]
            if found:
                return found
        others = [row[0] for row in self.rows(_OTHERS, number, self.one(self.NUMBER))]
        with contextlib.suppress(Exception):
            busy = {row[0] for row in self.rows("SELECT trx_mysql_thread_id FROM information_schema.innodb_trx")}
            others = [one for one in others if one in busy] or others
        return others


_OTHERS = "SELECT id FROM information_schema.processlist WHERE db = DATABASE() AND id NOT IN (%s, %s)"
_HOLDERS = """
    SELECT holder.processlist_id FROM performance_schema.metadata_locks held
    JOIN performance_schema.metadata_locks wanted USING (object_type, object_schema, object_name)
    JOIN performance_schema.threads holder ON holder.thread_id = held.owner_thread_id
    JOIN performance_schema.threads waiter ON waiter.thread_id = wanted.owner_thread_id
    WHERE held.lock_status = 'GRANTED' AND wanted.lock_status = 'PENDING'
    AND waiter.processlist_id = %s AND holder.processlist_id <> %s"""


def _told(number, name, user, age, state, query):
    """A session of a server for people; no literal of its query is shown, which may be anybody's data."""
    text = re.sub(r"'(?:[^']|'')*'|\b\d+\b", "?", " ".join(str(query or "").split()))[:120]
    parts = ", ".join(str(part) for part in (name, user, f"{age} s" if age is not None else "", state) if part)
    return f"session {number} ({parts}){f': {text}' if text else ''}"


class Beside(Nothing):
    """SQLite: a lock on a file beside the database, which whoever holds it takes away at the end."""

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
            is_there = os.path.samestat(os.fstat(descriptor), os.stat(self.path))
        except OSError:
            is_there = False
        if not is_there:
            os.close(descriptor)
            return False
        self.descriptor = descriptor
        os.ftruncate(descriptor, 0)
        os.pwrite(descriptor, f"{who()} pid {os.getpid()}".encode(), 0)
        return True

    def holder(self):
        with contextlib.suppress(OSError), open(self.path) as file:
            return file.read(200)
        return ""

    def give_back(self):
        if self.descriptor is not None:
            os.unlink(self.path)
            os.close(self.descriptor)
            self.descriptor = None


class Watch(threading.Thread):
    """Asks now and then whom a connection waits for, by the connection that holds the lock."""

    def __init__(self, lock, number, pause):
        super().__init__(daemon=True)
        self.lock, self.number, self.pause = lock, number, pause
        self.found, self.ended = "", threading.Event()

    def run(self):
        with contextlib.suppress(Exception):
            while not self.ended.wait(self.pause):
                blockers = self.lock.blockers(self.number)
                if blockers:
                    self.found = self.lock.told(blockers)

    def told(self):
        """Who held what the connection waited for, when last looked."""
        return f"it is held by {self.found}" if self.found else "who holds it is not known"

    def __enter__(self):
        if self.lock:
            self.start()
        return self

    def __exit__(self, *_error):
        self.ended.set()
        if self.lock:
            self.join()
