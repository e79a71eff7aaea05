"""The kinds of databases: what each is called, how it is reached, and which packages belong to it.

The table `ENGINES` has all of them. Two concerns have a class per engine of their own: setting a server up
(`database.server`) and backing up (`backup.backups`); the pillar's enumeration is in `django/schema.yaml`. This
module runs while Salt renders too (`django_pillar_render`), so it imports the standard library only.
"""

from __future__ import annotations

import base64
import hashlib
import hmac
import re
import secrets
import unicodedata
from collections.abc import Mapping
from typing import Any


def login_pair(user: str) -> tuple[str, str]:
    """Return the two logins of a database: the pillar's, and the one that alternates with it at each new password."""
    return user, f"{user[:61]}_2"


#: The most bytes of a name on a server, and those of `_restore_20260301t140212` at the end of a copy's.
_LONGEST, _OF_COPY = 63, 24


def start_of_copies(name: str) -> str:
    """Return how the names of the copies begin that a backup of a database is loaded into, so that servers take them.

    A name that is too long is cut, and has a checksum: another database may begin as it does, on the same server.
    """
    content = name.encode(errors="surrogateescape")
    if len(content) <= _LONGEST - _OF_COPY:
        return name
    return f"{content[:30].decode(errors='ignore')}_{hashlib.sha256(content).hexdigest()[:8]}"


class Engine:
    """A kind of database.

    Attributes:
        name: as the pillar has it.
        title: as its makers write it, for people.
        backend: the dotted path of Django's own backend.
        spatial_backend: that of GeoDjango for a database with PostGIS; empty for other kinds.
        backend_words: parts of a backend's dotted path, also of a third party's, that are only in those of this kind.
        is_server: whether it is reached over a connection; otherwise a database is a file.
        port: the one that a server listens on unless it is configured otherwise.
        socket_path: the unix socket of a server on this host; ``{}`` is its port.
        default_sockets: values of ``host`` that mean the socket that clients use anyway.
        drivers: Python packages that Django reaches it by, as their ``dist-info`` folders are named.
        client_package: the distribution's package with the programs that dump and load it.
    """

    name = ""
    title = ""
    backend = ""
    spatial_backend = ""
    backend_words: tuple[str, ...] = ()
    is_server = True
    port = 0
    socket_path = ""
    default_sockets: tuple[str, ...] = ()
    drivers: frozenset[str] = frozenset()
    client_package = ""

    def is_backend(self, backend: str) -> bool:
        """Return whether a Django backend, given by its dotted path, is for this kind of database."""
        return any(word in backend for word in self.backend_words)

    def driver_requirement(self, django_version: tuple[int, ...]) -> str:
        """Return the requirement that is installed where the project brings no driver; empty where none is needed."""
        return ""


class SQLite(Engine):
    """SQLite, a file that the site's user owns; Python brings its driver."""

    name = "sqlite"
    title = "SQLite"
    backend = "django.db.backends.sqlite3"
    backend_words = ("sqlite", "spatialite")
    is_server = False


class PostgreSQL(Engine):
    """PostgreSQL, and servers that speak its protocol."""

    name = "postgres"
    title = "PostgreSQL"
    backend = "django.db.backends.postgresql"
    spatial_backend = "django.contrib.gis.db.backends.postgis"
    backend_words = ("postg",)
    port = 5432
    socket_path = "/run/postgresql/.s.PGSQL.{}"
    default_sockets = ("/run/postgresql", "/var/run/postgresql")
    drivers = frozenset({"psycopg", "psycopg2", "psycopg2_binary", "psycopg2cffi"})
    client_package = "postgresql-client"

    def address(self, database: Mapping[str, Any]) -> tuple[str, int]:
        """Return where the server on this host is that has a database of the pillar.

        Returns:
            The folder of its socket, empty for the default one, and its port.
        """
        host = database["host"] or ""
        is_own = host.startswith("/") and host not in self.default_sockets
        return host if is_own else "", database["port"] or self.port

    def driver_requirement(self, django_version: tuple[int, ...]) -> str:
        """Return psycopg 3 for the Django versions that support it."""
        return "psycopg[binary]>=3.1.8" if django_version >= (4, 2) else "psycopg2-binary>=2.8.6"


class MySQL(Engine):
    """MySQL and MariaDB, which Django and the pillar do not tell apart."""

    name = "mysql"
    title = "MariaDB"
    backend = "django.db.backends.mysql"
    backend_words = ("mysql", "mariadb")
    port = 3306
    socket_path = "/run/mysqld/mysqld.sock"
    default_sockets = ("/run/mysqld/mysqld.sock", "/var/run/mysqld/mysqld.sock")
    drivers = frozenset({"mysqlclient", "pymysql", "mysql_connector_python"})
    client_package = "mariadb-client"

    def driver_requirement(self, django_version: tuple[int, ...]) -> str:
        """Return mysqlclient, which Django recommends."""
        return "mysqlclient>=2.2.1"


#: The extension of PostgreSQL that GeoDjango uses, and the scheme of its URLs.
POSTGIS = "postgis"
SQLITE, POSTGRES, MYSQL = SQLite(), PostgreSQL(), MySQL()
#: Every kind of database, by its name in the pillar.
ENGINES: Mapping[str, Engine] = {engine.name: engine for engine in (SQLITE, POSTGRES, MYSQL)}
#: Those that are reached over a connection.
SERVERS = {name: engine for name, engine in ENGINES.items() if engine.is_server}


def find(backend: str) -> Engine | None:
    """Return the kind of database that a Django backend is for, or None for one that is not supported.

    Args:
        backend: the dotted path, as in ``DATABASES[…]["ENGINE"]``.
    """
    return next((engine for engine in ENGINES.values() if engine.is_backend(backend)), None)


# What servers store of a password; computed here, so that no statement or log contains the password

#: PostgreSQL's own number of rounds; and the most, about a second, for a login may set any for its own password.
_ROUNDS, _MOST_ROUNDS = 4096, 1_000_000


def postgres_verifier(password: str, salt: bytes = b"", rounds: int = _ROUNDS) -> str:
    """Return what PostgreSQL stores of a password (SCRAM-SHA-256, RFC 5803).

    Args:
        salt: of 16 bytes; by default another one each time.
        rounds: of the hash; from version 16 on a server may be set to others (`scram_iterations`).
    """
    salt = salt or secrets.token_bytes(16)
    salted = hashlib.pbkdf2_hmac("sha256", unicodedata.normalize("NFKC", password).encode(), salt, rounds)
    stored = hashlib.sha256(hmac.digest(salted, b"Client Key", "sha256")).digest()
    parts = [base64.b64encode(part).decode() for part in (salt, stored, hmac.digest(salted, b"Server Key", "sha256"))]
    return f"SCRAM-SHA-256${rounds}:{parts[0]}${parts[1]}:{parts[2]}"


def ending_sessions(pid: str, rows: str) -> str:
    """Return statements for psql that end sessions of PostgreSQL, and wait up to five seconds for the end of each.

    Args:
        pid: the column with the process.
        rows: what follows it in a query: ``FROM pg_stat_activity WHERE …``.
    """
    return f"""SELECT format('SELECT pg_terminate_backend(%s%s)', {pid}, CASE
    WHEN current_setting('server_version_num')::int >= 140000 THEN ', 5000' ELSE '' END) {rows} \\gexec
SELECT 'SELECT pg_sleep(1)' WHERE current_setting('server_version_num')::int < 140000 \\gexec
"""


def is_verifier_of(stored: str, password: str, user: str) -> bool:
    """Return whether what PostgreSQL stores belongs to this password; before version 14 that was an MD5 hash."""
    found = re.fullmatch(r"SCRAM-SHA-256\$([1-9][0-9]{0,6}):([^$]+)\$.*", stored)
    if found and int(found[1]) <= _MOST_ROUNDS:
        return hmac.compare_digest(stored, postgres_verifier(password, base64.b64decode(found[2]), int(found[1])))
    return stored == "md5" + hashlib.md5(f"{password}{user}".encode(), usedforsecurity=False).hexdigest()


def mariadb_verifier(password: str) -> str:
    """Return what MariaDB's `mysql_native_password` stores of a password."""
    once = hashlib.sha1(password.encode(), usedforsecurity=False).digest()
    return "*" + hashlib.sha1(once, usedforsecurity=False).hexdigest().upper()
