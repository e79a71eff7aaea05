"""Dumps: SQLite by its real program, how clients are configured, and how the rows of a dump are counted."""

import contextlib
import io
import json
import os
import random
import shutil
import sqlite3
import subprocess
import sys
import tarfile
import time
from pathlib import Path

import pytest
from django_formula.backup import dumps, media, mysql, postgres
from django_formula.backup.backups import DUMPERS
from django_formula.backup.dumps import Database
from django_formula.host import commands
from django_formula.host.commands import DeploymentError
from django_formula.project import ask as project_ask
from django_formula.release import releases
from specimen import ROOT
from trees import write_tree

PASSWORD = "p:a\\s \"s' #;=%$x"


@pytest.fixture
def site(make_site, monkeypatch):
    """A site whose user is the one that runs the tests."""
    monkeypatch.setattr(commands, "identity", lambda user: {})
    site = make_site()
    for name in ("django_formula_sqlite.py", "django_formula_backup.py"):
        text = (ROOT / "django/files" / name).read_text()
        site.kept_template(f"salt://django/files/{name}").write_text(text)
    return site


# SQLite


@pytest.fixture(params=["wal", "delete"])
def sqlite(site, request):
    """A database of two tables, in each journal mode, which another process has open."""
    path = site.database.top / "db.sqlite3"
    with contextlib.closing(sqlite3.connect(path, isolation_level=None)) as connection:
        connection.execute(f"PRAGMA journal_mode={request.param}")
        connection.execute("CREATE TABLE django_migrations (app, name)")
        connection.execute("CREATE TABLE 'odd \"name' (value UNIQUE)")
        connection.execute("CREATE VIRTUAL TABLE words USING fts5(word)")
        connection.executemany("INSERT INTO 'odd \"name' VALUES (?)", [(number,) for number in range(1000)])
        connection.execute("INSERT INTO django_migrations VALUES ('blog', '0001_initial')")
        yield Database(site, "default", "sqlite", str(path))


def dumped(database, path):
    with open(path, "wb+") as file:
        return DUMPERS["sqlite"].dump(database, file.fileno())


def test_sqlite_database_dumped_and_loaded(sqlite, tmp_path):
    looked = DUMPERS["sqlite"].measure(sqlite)
    assert looked["tables"] >= 2 and looked["size"] > 8192
    found = dumped(sqlite, tmp_path / "dump")
    assert found["rows"]['odd "name'] == 1000 and found["migrations"] == ["blog.0001_initial"]
    assert "words" not in found["rows"]
    with open(tmp_path / "dump", "rb") as file:
        assert DUMPERS["sqlite"].load(sqlite, f"{sqlite.name}.restore", file.fileno()) == found
    assert sorted(path.name for path in Path(sqlite.name).parent.glob("*restore*")) == ["db.sqlite3.restore"]


def test_sqlite_database_dumped_during_writes(sqlite, tmp_path):
    with contextlib.closing(sqlite3.connect(sqlite.name, isolation_level=None)) as other:
        other.execute("BEGIN IMMEDIATE")
        other.execute("INSERT INTO 'odd \"name' VALUES ('not yet')")
        assert dumped(sqlite, tmp_path / "dump")["rows"]['odd "name'] == 1000
        other.execute("COMMIT")
    assert dumped(sqlite, tmp_path / "dump")["rows"]['odd "name'] == 1001


def test_functions_of_django_in_indexes_and_checks_are_no_damage(sqlite, tmp_path):
    """SQLite knows them only in a process of the project, which has registered them."""
    with contextlib.closing(sqlite3.connect(sqlite.name, isolation_level=None)) as connection:
        connection.create_function("django_datetime_cast_date", 1, lambda value: value, deterministic=True)
        day = "django_datetime_cast_date(at)"
        connection.execute(f"CREATE TABLE news (at, day GENERATED ALWAYS AS ({day}) VIRTUAL, CHECK ({day} > 0))")
        connection.execute(f"CREATE UNIQUE INDEX one_a_day ON news ({day})")
        connection.execute("INSERT INTO news VALUES (1)")
    found = dumped(sqlite, tmp_path / "dump")
    assert found["rows"]["news"] == 1
    with open(tmp_path / "dump", "rb+") as file:
        assert DUMPERS["sqlite"].load(sqlite, f"{sqlite.name}.restore", file.fileno()) == found
        file.seek(3 * 4096 + 100)
        file.write(b"\xff" * 6000)
        file.seek(0)
        with pytest.raises(DeploymentError, match=r"SQLite: load .*(damaged|malformed)"):
            DUMPERS["sqlite"].load(sqlite, f"{sqlite.name}.other", file.fileno())


def test_sqlite_files_exchanged(sqlite, tmp_path):
    dumped(sqlite, tmp_path / "dump")
    with open(tmp_path / "dump", "rb") as file:
        DUMPERS["sqlite"].load(sqlite, f"{sqlite.name}.restore", file.fileno())
    with contextlib.closing(sqlite3.connect(sqlite.name, isolation_level=None)) as connection:
        mode = connection.execute("PRAGMA journal_mode").fetchone()
        connection.execute("INSERT INTO 'odd \"name' VALUES ('since')")
    os.chmod(sqlite.name, 0o600)
    DUMPERS["sqlite"].swap(sqlite, f"{sqlite.name}.restore", f"{sqlite.name}.before")
    assert os.stat(sqlite.name).st_mode & 0o777 == 0o600
    assert DUMPERS["sqlite"].count_rows(sqlite)['odd "name'] == 1000
    assert DUMPERS["sqlite"].count_rows(sqlite._replace(name=f"{sqlite.name}.before"))['odd "name'] == 1001
    with contextlib.closing(sqlite3.connect(sqlite.name)) as connection:
        assert connection.execute("PRAGMA journal_mode").fetchone() == mode
    assert not Path(f"{sqlite.name}.restore").exists()


def test_missing_sqlite_file_has_no_size(site):
    database = Database(site, "default", "sqlite", str(site.database.top / "none.sqlite3"))
    assert DUMPERS["sqlite"].measure(database) == {"size": 0, "tables": 0}
    assert list(site.database.top.iterdir()) == []


def test_missing_sqlite_file_restored(sqlite, tmp_path):
    dumped(sqlite, tmp_path / "dump")
    for path in Path(sqlite.name).parent.glob("db.sqlite3*"):
        path.unlink()
    with open(tmp_path / "dump", "rb") as file:
        DUMPERS["sqlite"].load(sqlite, f"{sqlite.name}.restore", file.fileno())
    DUMPERS["sqlite"].swap(sqlite, f"{sqlite.name}.restore", f"{sqlite.name}.before")
    assert DUMPERS["sqlite"].count_rows(sqlite)['odd "name'] == 1000
    with pytest.raises(DeploymentError, match="unable to open database file"):
        DUMPERS["sqlite"].count_rows(sqlite._replace(name=f"{sqlite.name}.before"))
    assert not Path(f"{sqlite.name}.before").exists()


def test_loading_refused_for_damaged_sqlite_file(sqlite, tmp_path):
    dumped(sqlite, tmp_path / "dump")
    with open(tmp_path / "dump", "rb+") as file:
        file.seek(3 * 4096 + 100)
        file.write(b"\xff" * 6000)
        file.seek(0)
        with pytest.raises(DeploymentError, match=r"SQLite: load .*(damaged|malformed)"):
            DUMPERS["sqlite"].load(sqlite, f"{sqlite.name}.restore", file.fileno())
    DUMPERS["sqlite"].drop(sqlite, f"{sqlite.name}.restore")
    assert list(Path(sqlite.name).parent.glob("*restore*")) == []


def test_copy_of_killed_sqlite_dump_replaced(sqlite, tmp_path):
    copy = Path(sqlite.name).with_name(".db.sqlite3.backup")
    copy.write_text("half")
    assert dumped(sqlite, tmp_path / "dump")["rows"]['odd "name'] == 1000 and not copy.exists()


# PostgreSQL


def test_environment_of_postgresql_clients(site):
    said = {"host": "db1", "port": 5433, "user": "blog", "password": PASSWORD, "sslmode": "require", "pool": True}
    database = Database(site, "default", "postgres", "blog", said)
    with postgres._client_environment(database) as (environment, (descriptor,)):
        with open(environment.pop("PGPASSFILE")) as file:
            assert file.read() == "*:*:*:*:p\\:a\\\\s \"s' #;=%$x\n"
        assert os.fstat(descriptor).st_mode & 0o777 == 0o600
    expected = {"PGHOST": "db1", "PGPORT": "5433", "PGUSER": "blog", "PGDATABASE": "blog", "PGSSLMODE": "require"}
    assert environment == {**expected, "PGAPPNAME": "django-formula"}
    with postgres._client_environment(database._replace(connection={})) as (environment, _descriptors):
        assert environment == {"PGDATABASE": "blog", "PGAPPNAME": "django-formula"}


def test_limit_of_statements_does_not_end_the_counting_of_rows(site, monkeypatch):
    """As of ALTER ROLE … SET statement_timeout, by which a dump was made and could not be restored."""
    scripts = []
    monkeypatch.setattr(postgres.commands, "run", lambda argv, **options: scripts.append(options["stdin"]) or "{}")
    monkeypatch.setattr(dumps, "client", lambda *_arguments: "psql")
    assert postgres.PostgreSQLDumper().count_rows(Database(site, "default", "postgres", "blog")) == {}
    assert [script.splitlines()[:2] for script in scripts] == [["BEGIN READ ONLY;", "SET LOCAL statement_timeout = 0;"]]


def test_entries_that_the_superuser_owns_are_not_loaded(site, monkeypatch):
    monkeypatch.setattr(postgres, "_psql", lambda *_arguments: '["public spatial_ref_sys"]')
    listed = (
        ";\n2; 3079 16400 EXTENSION - postgis \n3; 0 0 COMMENT - EXTENSION postgis \n"
        "4; 0 16402 TABLE DATA public spatial_ref_sys postgres\n5; 0 16403 TABLE DATA public spatial_ref_systems blog\n"
        "6; 0 0 COMMENT public COLUMN t.c blog\n"
    )
    database = Database(site, "default", "postgres", "blog", {"user": "ray"})
    kept = postgres._entries_of_site(database, listed)
    assert [line[:1] for line in kept.splitlines()] == [";", "2", "5", "6"]


def test_loading_refused_when_role_cannot_create_databases(site, monkeypatch):
    def psql(database, script, **variables):
        raise DeploymentError("querying blog failed (exit 3)", log="ERROR:  permission denied to create database")

    monkeypatch.setattr(postgres, "_psql", psql)
    monkeypatch.setattr(dumps, "client", lambda database, *programs: programs[0])
    database = Database(site, "default", "postgres", "blog", {"user": "ray"})
    with pytest.raises(DeploymentError, match="ray may not create databases on its server") as error:
        DUMPERS["postgres"].load(database, "blog_restore", 0)
    assert error.value.hint == 'as a superuser there: ALTER ROLE "ray" CREATEDB;'


def test_restore_refused_for_database_of_another_role(site, monkeypatch):
    monkeypatch.setattr(postgres, "_psql", lambda database, script: "f\n" if "role" in script else "dba\n")
    with pytest.raises(DeploymentError, match="blog is owned by dba, and only its owner may rename it") as error:
        DUMPERS["postgres"].check_swappable(Database(site, "default", "postgres", "blog", {"user": "ray"}))
    assert error.value.hint == 'as a superuser there: ALTER DATABASE "blog" OWNER TO "ray";'


def test_session_answers_and_reports_errors(site, monkeypatch):
    database = Database(site, "default", "postgres", "blog", {"password": PASSWORD})
    monkeypatch.setattr(postgres, "_client", lambda database: ["cat"])
    with postgres._session(database) as ask:
        assert ask("one\n") == "one" and ask("two\n") == "two"
    monkeypatch.setattr(postgres, "_client", lambda database: ["sh", "-c", f'echo "{PASSWORD[:4]}" >&2'])
    with (
        pytest.raises(DeploymentError, match="querying blog failed"),
        postgres._session(database) as ask,
    ):
        ask("one\n")


def test_backup_refused_when_client_is_not_installed(site, monkeypatch):
    monkeypatch.setattr(commands, "PATH", str(site.root))
    with pytest.raises(DeploymentError, match="pg_dump is not installed") as error:
        DUMPERS["postgres"].dump(Database(site, "default", "postgres", "blog"), 0)
    assert error.value.hint == "django:sites:blog:packages: [postgresql-client], then apply"


# MariaDB


def counted(text, size=1 << 16):
    """What is counted in a dump that comes in parts of a size."""
    parts = []
    counter = mysql._Counter(parts.append)
    for start in range(0, len(text), size):
        counter.take(text[start : start + size])
    assert b"".join(parts) == text
    return counter


@pytest.mark.parametrize(
    ("text", "rows"),
    [
        (b"CREATE TABLE `a` (\n  `id` int,\n  KEY `x` (`id`)\n);\n", {"a": 0}),
        (b"CREATE TABLE `a` (\nINSERT INTO `a` VALUES (1,'x'),(2,NULL);\n", {"a": 2}),
        (b"CREATE TABLE `a` (\nINSERT INTO `a` VALUES\n(1,'x'),\n(2,0xAB);\n(not a row)\n", {"a": 2}),
        (b"CREATE TABLE `a` (\nINSERT INTO `a` VALUES (1,'),(3,\\'),(\\\\'),(2,'it''s (');\n", {"a": 2}),
        (b"CREATE TABLE `a` (\nINSERT INTO `a` VALUES\n(1,'x;'),\n(2,'(');\nINSERT INTO `a` VALUES\n(3,_binary '(');\n",
         {"a": 3}),
        (b"CREATE TABLE `a``(b` (\nINSERT INTO `a``(b` (`x`, `y`) VALUES (1,2);\n", {"a`(b": 1}),
        (b"CREATE TABLE `a` (\nCREATE TABLE `b` (\nINSERT INTO `b` VALUES (1);\nINSERT INTO `a` VALUES (1),(2);\n",
         {"a": 2, "b": 1}),
        (b"/*!50001 CREATE VIEW `v` AS SELECT 1 */;\n", {}),
    ],
)  # fmt: skip
def test_rows_are_counted_in_the_dump(text, rows):
    text += b"-- Dump completed on 2026-03-01\n"
    for size in (1, 7, 1 << 16):
        counter = counted(text, size)
        assert counter.rows == rows and counter.last.startswith(mysql._END)


def test_backup_refused_for_longer_rows_than_are_counted(monkeypatch):
    monkeypatch.setattr(mysql, "_LINE", 1 << 20)
    with pytest.raises(OSError, match="a row has more than 1 MiB"):
        counted(b"INSERT INTO `a` VALUES ('" + b"x" * (1 << 20))


def test_dump_refused_when_incomplete(site, monkeypatch):
    monkeypatch.setattr(dumps, "client", lambda database, *programs: programs[0])
    monkeypatch.setattr(mysql, "_migrations", lambda database: [])
    monkeypatch.setattr(mysql, "_run", lambda *arguments, output, **options: os.write(output, b"CREATE\n"))
    with (
        open(site.backups / "dump", "wb") as file,
        pytest.raises(DeploymentError, match="the dump of blog is incomplete"),
    ):
        DUMPERS["mysql"].dump(Database(site, "default", "mysql", "blog"), file.fileno())


def test_options_of_mariadb_clients(site):
    said = {"host": "db1", "port": 3307, "user": "blog", "password": PASSWORD, "ssl": {"ca": "/etc/ca.pem"}}
    for host, option in (("db1", 'host="db1"'), ("/run/my.sock", 'socket="/run/my.sock"')):
        database = Database(site, "default", "mysql", "blog", {**said, "host": host})
        with mysql._option_file(database) as descriptor:
            lines = os.read(descriptor, 4096).decode().splitlines()
        assert lines[0] == "[client]" and option in lines and 'ssl-ca="/etc/ca.pem"' in lines
        assert 'password="p:a\\\\s \\"s\' #;=%$x"' in lines


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        ({"ssl_mode": "REQUIRED"}, ['loose-ssl="1"', 'loose-ssl-mode="REQUIRED"']),
        ({"ssl_mode": "VERIFY_IDENTITY", "ssl": {"ca": "/ca"}}, ['ssl-ca="/ca"', 'loose-ssl-verify-server-cert="1"']),
        ({"ssl": True}, ['loose-ssl="1"']),
        ({"ssl_mode": "PREFERRED"}, []),
        ({}, []),
    ],
)
def test_mariadb_clients_connect_by_tls_where_the_project_does(site, options, expected):
    """A server may refuse what is not encrypted, and a dump has all data."""
    with mysql._option_file(Database(site, "default", "mysql", "blog", {"host": "db1", **options})) as descriptor:
        lines = os.read(descriptor, 4096).decode().splitlines()
    assert {*expected} <= {*lines} and any("ssl" in line for line in lines) == bool(expected)


def test_exchange_refused_for_views_triggers_and_routines(site, monkeypatch):
    monkeypatch.setattr(mysql, "_sql", lambda database, text: "view totals\n")
    with pytest.raises(DeploymentError, match="only tables can be moved to another database, and it has view totals"):
        DUMPERS["mysql"].check_swappable(Database(site, "default", "mysql", "blog"))


def test_loading_refused_when_login_cannot_create_databases(site, monkeypatch):
    def sql(database, text):
        if text.startswith("CREATE"):
            raise DeploymentError("querying blog failed", log="ERROR 1044 (42000): Access denied for user")
        return "blog@localhost\n" if "USER" in text else "utf8mb4 COLLATE utf8mb4_general_ci\n"

    monkeypatch.setattr(mysql, "_sql", sql)
    with pytest.raises(DeploymentError, match="blog may not create databases on its server") as error:
        DUMPERS["mysql"].load(Database(site, "default", "mysql", "my_blog", {"user": "blog"}), "my_blog_restore", 0)
    assert error.value.hint == "as root there: GRANT ALL ON `my\\_blog\\_%`.* TO 'blog'@'localhost';"


@pytest.mark.parametrize("shown, dropped", [("blog\nblog_drill_1\n", True), ("blog\nblog_drill_10\n", False)])
def test_database_that_was_never_created_is_not_dropped(site, monkeypatch, shown, dropped):
    """A login that may not create it may not drop it either, which would stop each later backup."""
    statements = []

    def sql(database, text):
        statements.append(text)
        return shown

    monkeypatch.setattr(mysql, "_sql", sql)
    DUMPERS["mysql"].drop(Database(site, "default", "mysql", "blog"), "blog_drill_1")
    assert statements == ["SHOW DATABASES", *(["DROP DATABASE `blog_drill_1`"] if dropped else [])]


# Compression


@pytest.fixture
def database(site, tmp_path, monkeypatch):
    """A database of a host whose programs are in a folder: gzip, a zstd unless a test removes it, and pg_dump."""
    for name in ("gzip", "sh", "sleep", "zstd"):
        tmp_path.joinpath(name).symlink_to(shutil.which(name))
    text = '#!/bin/sh\nprintf "PGDMP %s " "$*"; printf "%090000d" 7\n'
    tmp_path.joinpath("pg_dump").write_text(text)
    tmp_path.joinpath("pg_dump").chmod(0o755)
    monkeypatch.setattr(commands, "PATH", str(tmp_path))
    return Database(site, "default", "postgres", "blog", {"user": "ray"})


def packed(database, text):
    """A file with what a text is compressed to."""
    file = os.memfd_create("packed")
    with dumps.compressed(database, file) as take:
        for start in range(0, len(text), 100_000):
            take(text[start : start + 100_000])
    return file


def unpacked(database, file, size=-1, **options):
    with dumps.content(database, file, **options) as read, open(os.dup(read), "rb") as content:
        return content.read(size)


TEXT = random.Random(0).randbytes(300_000).hex().encode()


@pytest.mark.parametrize(("program", "magic"), [("zstd", b"\x28\xb5\x2f\xfd"), ("gzip", b"\x1f\x8b")])
def test_compressed_dump_has_its_content(database, tmp_path, program, magic):
    if program == "gzip":
        tmp_path.joinpath("zstd").unlink()
    for text in (b"", b"x", TEXT):
        file = packed(database, text)
        assert os.pread(file, len(magic), 0) == magic and os.fstat(file).st_size < 0.7 * len(text) + 100
        assert unpacked(database, file) == text == unpacked(database, file)
    assert unpacked(database, file, 1000, whole=False) == TEXT[:1000]
    os.close(file)


def test_dump_without_compression_is_read_itself(database):
    file = os.memfd_create("dump")
    os.write(file, b"PGDMP\1")
    assert unpacked(database, file) == b"PGDMP\1"
    os.close(file)


@pytest.mark.parametrize("program", ["zstd", "gzip"])
@pytest.mark.parametrize(
    "damage", [lambda file: os.truncate(file, 150_000), lambda file: os.pwrite(file, b"\xff", 150_000)]
)
@pytest.mark.parametrize("fails", [False, True])
def test_damaged_compressed_dump_detected(database, tmp_path, program, damage, fails):
    """Also where the client that reads it fails because of that."""
    if program == "gzip":
        tmp_path.joinpath("zstd").unlink()
    file = packed(database, TEXT)
    damage(file)
    with (
        pytest.raises(dumps.Damaged, match=rf"^{program} cannot decompress it") as error,
        dumps.content(database, file) as read,
        open(os.dup(read), "rb") as content,
    ):
        content.read()
        if fails:
            raise DeploymentError("loading failed: unexpected end of file")
    assert error.value.log
    os.close(file)


def test_failed_client_reported_where_dump_is_whole(database):
    file = packed(database, TEXT)
    with pytest.raises(DeploymentError, match=r"^permission denied$"), dumps.content(database, file):
        raise DeploymentError("permission denied")
    os.close(file)


def test_failed_compression_is_the_cause(database, monkeypatch):
    """The client fails too, since it writes into a closed pipe."""
    monkeypatch.setattr(dumps, "_ZSTD", ("sh", "-c", "echo no memory >&2; exit 11"))
    with pytest.raises(DeploymentError, match=r"^compressing blog failed \(exit 11\)") as error:
        packed(database, 100 * TEXT)
    assert error.value.log == "no memory\n"


def test_compression_that_does_not_read_is_ended(database, monkeypatch):
    """A process of the site's user may have stopped it."""
    database.site.config["timeouts"]["backup"] = "500ms"
    monkeypatch.setattr(dumps, "PIPE_TIMEOUT", 0.5)
    monkeypatch.setattr(dumps, "_ZSTD", ("sleep", "600"))
    with pytest.raises(commands.TimedOut, match=r"^compressing blog: timed out after 1 s$"):
        packed(database, 100 * TEXT)


def test_error_reported_when_disk_is_full(database, monkeypatch):
    with (
        open("/dev/full", "wb") as full,
        pytest.raises(DeploymentError, match=r"^dumping blog: No space left on device$") as error,
        dumps.compressed(database, full.fileno()) as take,
    ):
        take(b"x\n")
    assert error.value.transient


def test_restore_refused_without_zstd(database, tmp_path):
    file = packed(database, TEXT)
    tmp_path.joinpath("zstd").unlink()
    with pytest.raises(DeploymentError, match=r"^zstd is not installed") as error:
        unpacked(database, file)
    assert error.value.hint == "django:sites:blog:packages: [zstd], then apply"
    os.close(file)


@pytest.mark.parametrize("has_zstd", [True, False])
def test_postgresql_compressed_by_zstd_where_that_is_installed(database, tmp_path, monkeypatch, has_zstd):
    if not has_zstd:
        tmp_path.joinpath("zstd").unlink()
    answers = {f"{postgres._ROWS}\n": "{}", postgres._MIGRATIONS: "[]"}
    monkeypatch.setattr(postgres, "_session", lambda database: contextlib.nullcontext(lambda text: answers.get(text)))
    file = os.memfd_create("dump")
    assert DUMPERS["postgres"].dump(database, file) == {"rows": {}, "migrations": []}
    dump = unpacked(database, file)
    assert dump.startswith(b"PGDMP ") and len(dump) > 90_000 and (b" --compress=0 " in dump) == has_zstd
    assert (os.pread(file, 5, 0) == b"PGDMP") == (not has_zstd)
    os.close(file)


# Uploads


def test_uploads_dumped_and_loaded(site, tmp_path):
    (site.media.top / "2026").mkdir()
    (site.media.top / "2026/ä picture.png").write_bytes(b"x" * 5000)
    (site.media.top / "link").symlink_to("/etc/passwd")
    database = Database(site, "media", "media", str(site.media.top))
    looked = DUMPERS["media"].measure(database)
    assert looked["tables"] == 1 and looked["size"] > 5000
    with open(tmp_path / "tar", "wb+") as file:
        assert DUMPERS["media"].dump(database, file.fileno())["rows"] == {"files": 2}
        file.seek(0)
        with tarfile.open(fileobj=io.BytesIO(file.read())) as packed:
            assert packed.getmember("./link").issym()
        file.seek(0)
        name = f"{site.media.top}.restore"
        assert DUMPERS["media"].load(database, name, file.fileno())["rows"] == {"files": 2}
    (site.media.top / "new").touch()
    DUMPERS["media"].swap(database, name, f"{site.media.top}.before")
    assert not (site.media.top / "new").exists() and Path(f"{site.media.top}.before/new").exists()
    assert (site.media.top / "2026/ä picture.png").stat().st_size == 5000 and (site.media.top / "link").is_symlink()
    assert site.media.top.stat().st_mode & 0o7777 == 0o2750


def test_deleted_uploads_restored(site, tmp_path):
    """A restore that is undone, as the site does not start, leaves none again."""
    database = Database(site, "media", "media", str(site.media.top))
    (site.media.top / "picture.png").write_bytes(b"x")
    name, kept = (f"{site.media.top}.{word}" for word in ("restore", "before"))
    with open(tmp_path / "tar", "wb+") as file:
        DUMPERS["media"].dump(database, file.fileno())
        shutil.rmtree(site.media.top)
        file.seek(0)
        DUMPERS["media"].load(database, name, file.fileno())
    DUMPERS["media"].swap(database, name, kept)
    assert (site.media.top / "picture.png").exists()
    assert DUMPERS["media"].count_rows(database._replace(name=kept)) == {"files": 0}
    DUMPERS["media"].swap(database, kept, name)
    assert not site.media.top.exists() and Path(name, "picture.png").exists()


# The program that asks the project


@pytest.mark.parametrize("reads_tables", [False, True])
def test_program_reports_connection_parameters(site, tmp_path, reads_tables):
    """As `project.program.backup` runs it: the program and its request come by the standard input."""
    django = tmp_path / "django/db"
    django.mkdir(parents=True)
    (tmp_path / "django/__init__.py").touch()
    (tmp_path / "django/core").mkdir()
    (tmp_path / "django/core/exceptions.py").write_text("class AppRegistryNotReady(Exception):\n    pass\n")
    django.joinpath("__init__.py").write_text(
        f"params = dict(dbname='blog', passwd={PASSWORD!r}, conv={{1: str}}, factory=object, n=1)\n"
        "params['ssl'] = {'ca': '/ca'}\n"
        "class Connection:\n    get_connection_params = staticmethod(lambda: params)\n"
        "connections = {'default': Connection()}\n"
        "class DatabaseError(Exception):\n    pass\n"
    )
    raises = "from django.db import DatabaseError\nraise DatabaseError('no such table: blog_post')\n"
    (tmp_path / "wsgi.py").write_text(f"print('noise')\n{raises * reads_tables}")
    done = asked(site, tmp_path, {"mode": "connections", "aliases": ["default"]})
    answer = json.loads(done.stdout.splitlines()[0])
    assert answer == {"default": {"name": "blog", "password": PASSWORD, "ssl": {"ca": "/ca"}, "n": 1}}
    assert done.stdout.splitlines()[1:] == [b"answered"]
    assert b"noise" in done.stderr and PASSWORD.encode() not in done.stderr


def asked(site, folder, request):
    """Run the program with a request, as every command of a release runs."""
    program = site.kept_template(project_ask.BACKUP).read_bytes()
    return subprocess.run(
        [sys.executable, "-u", "-c", project_ask._READ],
        input=b"%d\n%s%s" % (len(program), program, json.dumps({**request, "application": "wsgi"}).encode()),
        cwd=folder,
        capture_output=True,
        check=False,
    )


POOLED = """
pools = {}

class Connection:
    settings_dict = {"NAME": "blog"}

    def connected(self):
        return pools.setdefault("default", self.settings_dict["NAME"])

    def close(self):
        pass

    def close_pool(self):
        pools.clear()

connections = {"default": Connection()}

class DatabaseError(Exception):
    pass
"""
PLANNED = """
from types import SimpleNamespace

class MigrationExecutor:
    loader = SimpleNamespace(graph=SimpleNamespace(leaf_nodes=list))

    def __init__(self, connection):
        self.connection = connection

    def migration_plan(self, nodes):
        return [(SimpleNamespace(app_label=self.connection.connected(), name="0001"), False)]
"""


def test_restored_database_is_looked_at_although_a_pool_has_connections_of_the_present_one(site, tmp_path):
    """Where the project queries its database while it is imported: migrate=True would migrate the present one."""
    files = {
        "django/__init__.py": "",
        "django/core/__init__.py": "",
        "django/core/exceptions.py": "class AppRegistryNotReady(Exception):\n    pass\n",
        "django/core/management.py": "call_command = print",
        "django/db/__init__.py": POOLED,
        "django/db/migrations/executor.py": PLANNED,
        "wsgi.py": "from django.db import connections\nconnections['default'].connected()\n",
    }
    write_tree(tmp_path, files)
    done = asked(site, tmp_path, {"mode": "fit", "names": {"default": "blog_restore"}, "migrate": False})
    assert json.loads(done.stdout.splitlines()[0]) == {"default": ["blog_restore.0001"]}, done.stderr


LOGIN = """
[client]
database = blog
user = 'blog'
password = "p#s=%"
socket = /run/mysqld/mysqld.sock
ssl-ca = /ca
skip-auto-rehash
[mysqldump]
password = another
"""


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        ({}, {"name": "blog", "user": "blog", "host": "/run/mysqld/mysqld.sock"}),
        ({"db": "shop", "host": "db1"}, {"name": "shop", "user": "blog", "host": "db1"}),
    ],
)
def test_login_of_an_option_file_is_that_of_the_driver(site, tmp_path, given, expected):
    """As Django's documentation has it for MySQL: OPTIONS: {read_default_file: …}."""
    (tmp_path / "my.cnf").write_text(LOGIN)
    found = connection(site, tmp_path, {**given, "read_default_file": str(tmp_path / "my.cnf")})
    assert {**expected, "password": "p#s=%", "ssl": {"ca": "/ca"}}.items() <= found.items()


def test_login_of_a_service_is_that_of_the_driver(site, tmp_path, monkeypatch):
    """As Django's documentation has it for PostgreSQL; clients would take its database for that of a copy."""
    (tmp_path / "services").write_text("[blog]\nhost=db1\ndbname=blog\nuser=blog\npassword=p#s=%\n")
    monkeypatch.setenv("PGSERVICEFILE", str(tmp_path / "services"))
    found = connection(site, tmp_path, {"service": "blog", "user": "other"})
    assert found == {"host": "db1", "name": "blog", "user": "other", "password": "p#s=%"}
    assert connection(site, tmp_path, {"service": "none"}) == {"service": "none"}


def connection(site, folder, params):
    """Return what the program reports of the only database of a project."""
    files = {
        "django/__init__.py": "",
        "django/core/exceptions.py": "class AppRegistryNotReady(Exception):\n    pass\n",
        "django/db/__init__.py": "class DatabaseError(Exception):\n    pass\nclass Connection:\n"
        f"    get_connection_params = staticmethod(lambda: {params})\nconnections = {{'default': Connection()}}\n",
        "wsgi.py": "",
    }
    done = asked(site, write_tree(folder, files), {"mode": "connections", "aliases": ["default"]})
    return json.loads(done.stdout.splitlines()[0])["default"]


def test_connections_queried_only_for_servers(site, monkeypatch):
    asked = []

    def backup(site, release, facts, request, secrets):
        asked.append(request)
        return {alias: {"name": "blog2", "password": PASSWORD} for alias in request["aliases"]}

    monkeypatch.setattr(project_ask, "backup", backup)
    release = releases.Release(site, "0001-3f2a9c1b77de")
    databases = {
        "default": {"engine": "django_prometheus.db.backends.postgresql", "name": "blog"},
        "files": {"engine": "django.db.backends.sqlite3", "name": "files.sqlite3"},
        "none": {"engine": "django.db.backends.sqlite3", "name": ":memory:"},
    }
    release.record = {"facts": {"folder": ".", "databases": databases}}
    found = dumps.databases(release, sorted(databases), [])
    by_alias = {one.alias: one for one in found}
    assert by_alias.keys() == {"default", "files"} and by_alias["default"].name == "blog2"
    assert by_alias["default"].secrets() == [PASSWORD] and by_alias["files"].secrets() == []
    assert by_alias["files"].name.endswith("0001-3f2a9c1b77de/source/files.sqlite3")
    assert asked == [{"mode": "connections", "aliases": ["default"]}]


@pytest.mark.parametrize(
    ("uri", "path"),
    [
        ("file:/srv/data/db%20of%20blog.sqlite3?mode=rwc&cache=private", "/srv/data/db of blog.sqlite3"),
        ("file:///srv/data/db.sqlite3", "/srv/data/db.sqlite3"),
        ("file:data/db.sqlite3#x", "{source}/data/db.sqlite3"),
        *((uri, "") for uri in ("file::memory:?cache=shared", "file:blog?cache=shared&mode=memory", "file:?x=1")),
        *((uri, "") for uri in ("file:words.sqlite3?mode=ro", "file:/srv/words.sqlite3?immutable=1")),
    ],
)
def test_databases_by_uris_of_files_that_are_written(site, uri, path):
    """All that SQLite opens by a URI was taken for a database in memory, and never backed up."""
    release = releases.Release(site, "0001-3f2a9c1b77de")
    databases = {"default": {"engine": "django.db.backends.sqlite3", "name": uri}}
    release.record = {"facts": {"folder": ".", "databases": databases}}
    found = [one.name for one in dumps.databases(release, ["default"], [])]
    assert found == ([os.path.realpath(path.format(source=release.path / "source"))] if path else [])


def test_unreadable_uploads_reported(site, monkeypatch):
    (site.media.top / "2026").mkdir()
    scan = os.scandir

    def refused(error):
        def scandir(path):
            if str(path).endswith("2026"):
                raise error
            return scan(path)

        monkeypatch.setattr(os, "scandir", scandir)
        return DUMPERS["media"].measure(Database(site, "media", "media", str(site.media.top)))

    with pytest.raises(DeploymentError, match=r"looking through the uploads: .*/media/2026: Permission denied"):
        refused(PermissionError(13, "Permission denied", str(site.media.top / "2026")))
    assert refused(FileNotFoundError(2, "it has just gone"))["tables"] == 0


# Hostile processes of the site's user


def test_site_user_gets_no_descriptor_of_backup(sqlite, tmp_path, monkeypatch):
    """One that keeps the descriptor could change a finished backup."""
    seen = []
    run = commands.run

    def watched(argv, **options):
        if "dump" in argv:
            seen.append(os.readlink(f"/proc/self/fd/{options['output']}"))
        return run(argv, **options)

    monkeypatch.setattr(commands, "run", watched)
    dumped(sqlite, tmp_path / "dump")
    assert len(seen) == 1 and seen[0].startswith("pipe:")


def test_backup_fails_when_child_keeps_writing(tmp_path, monkeypatch):
    monkeypatch.setattr(dumps, "PIPE_TIMEOUT", 0.3)
    with (
        open(tmp_path / "file", "wb") as file,
        pytest.raises(DeploymentError, match="keeps writing"),
        dumps.received("dumping", dumps.writer(file.fileno())) as pipe,
    ):
        left = subprocess.Popen(["sleep", "60"], stdout=pipe)
    left.kill()
    left.wait()


def test_backup_fails_when_child_never_stops_writing(monkeypatch):
    monkeypatch.setattr(dumps, "PIPE_TIMEOUT", 0.3)
    with (
        pytest.raises(DeploymentError, match="keeps writing"),
        dumps.received("dumping", lambda part: None) as pipe,
    ):
        left = subprocess.Popen(["cat", "/dev/zero"], stdout=pipe)
    left.kill()
    left.wait()


def test_backup_waits_for_what_is_in_the_pipe(monkeypatch):
    """As where a disk is slow: the command has exited, and has left nothing behind."""
    monkeypatch.setattr(dumps, "PIPE_TIMEOUT", 0.1)
    parts = []

    def slowly(part):
        time.sleep(0.5)
        parts.append(part)

    with dumps.received("dumping", slowly) as pipe:
        os.write(pipe, b"x")
        time.sleep(0.3)
        os.write(pipe, b"y" * 60_000)
    assert b"".join(parts) == b"x" + b"y" * 60_000


def test_dump_fails_with_cause_when_disk_is_full(tmp_path):
    def full(part):
        raise OSError(28, "No space left on device")

    with (
        pytest.raises(DeploymentError, match=r"^dumping: No space left on device$") as error,
        dumps.received("dumping", full) as pipe,
    ):
        os.write(pipe, b"x" * 5000)
    assert error.value.transient


@pytest.mark.parametrize("answer", ["[]", "{}", '{"rows": 7, "migrations": []}', "[" * 100_000, "\0", "x" * (5 << 20)])
def test_invalid_answer_of_sqlite_program_refused(sqlite, tmp_path, monkeypatch, answer):
    def run(argv, *, descriptors, **options):
        with pytest.raises(OSError, match="Operation not permitted"):
            os.ftruncate(descriptors[1], 1 << 30)
        os.pwrite(descriptors[1], answer.encode()[: 4 << 20], 0)

    monkeypatch.setattr(commands, "run", run)
    with pytest.raises(DeploymentError, match=r"SQLite: measure .*: it ended without a usable answer"):
        DUMPERS["sqlite"].measure(sqlite)


@pytest.mark.parametrize("target", ["2026", "/etc"])
def test_link_to_a_folder_is_a_file_of_the_uploads(site, tmp_path, target):
    (site.media.top / "2026").mkdir()
    (site.media.top / "latest").symlink_to(target)
    database = Database(site, "media", "media", str(site.media.top))
    with open(tmp_path / "tar", "wb+") as file:
        expected = DUMPERS["media"].dump(database, file.fileno())["rows"]
        file.seek(0)
        assert DUMPERS["media"].load(database, f"{site.media.top}.restore", file.fileno())["rows"] == expected
    assert expected == {"files": 1} and DUMPERS["media"].measure(database)["tables"] == 1


@pytest.mark.parametrize(
    "said",
    [
        "tar: ./a: file changed as we read it",
        "tar: ./a: File removed before we read it",
        "tar: ./a: File shrank by 5 bytes; padding with zeros",
    ],
)
def test_uploads_that_change_while_they_are_packed_are_packed_again(site, tmp_path, monkeypatch, said):
    (site.media.top / "a").write_text("x")
    pack, attempts = media.pack, []

    def changing(database, take):
        attempts.append(said)
        if len(attempts) < media.ATTEMPTS:
            raise DeploymentError("packing the uploads failed (exit 1)", log=said)
        pack(database, take)

    monkeypatch.setattr(media, "pack", changing)
    database = Database(site, "media", "media", str(site.media.top))
    with open(tmp_path / "tar", "wb+") as file:
        assert DUMPERS["media"].dump(database, file.fileno())["rows"] == {"files": 1}
    assert len(attempts) == media.ATTEMPTS


def test_unusual_names_of_uploads_counted(site, tmp_path):
    for name in ("a", "b\nc/", "d/e", "-rf", "$(x)", "ü"):
        (site.media.top / name.rpartition("/")[0]).mkdir(parents=True, exist_ok=True)
        if not name.endswith("/"):
            (site.media.top / name).write_text("x")
    os.mkfifo(site.media.top / "fifo")
    (site.media.top / "link").symlink_to("/etc/shadow")
    database = Database(site, "media", "media", str(site.media.top))
    with open(tmp_path / "dump", "wb+") as file:
        found = DUMPERS["media"].dump(database, file.fileno())
    assert found["rows"] == DUMPERS["media"].count_rows(database)
