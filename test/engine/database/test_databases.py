"""Databases: how the project gets them, hints for their errors, and the migrations in their files."""

import contextlib
import importlib.util
import json
import os
import sqlite3
import subprocess
import sys
from types import SimpleNamespace
from urllib.parse import parse_qs, unquote, urlsplit

import pytest
from django_formula.database import databases as database_databases
from django_formula.database import sqlite
from django_formula.host import users
from django_formula.host.commands import DeploymentError
from django_formula.release import settings
from django_formula.secret import secrets as secret_secrets
from django_formula.server import servers
from specimen import FACTS, ROOT, configured

SQLITE = "django.db.backends.sqlite3"
POSTGRES = "django.db.backends.postgresql"
MYSQL = "django.db.backends.mysql"
PASSWORD = "p@s:s/w%20#?+ [x] ü"
SERVER = {"engine": "postgres", "host": "db1.example.org", "password": PASSWORD}
RELEASE = configured().releases / "0042-3f2a9c1b77de"


def secrets_of(site):
    return {name: f"{PASSWORD} {name}" for name in secret_secrets.configured(site)}


def read_url(url):
    """As dj-database-url and django-environ read it."""
    parts = urlsplit(url)
    options = {name: values[-1] for name, values in parse_qs(parts.query).items()}
    read = {"engine": parts.scheme, "name": unquote(parts.path[1:]), "host": unquote(parts.hostname or "")}
    login = {"user": unquote(parts.username or ""), "password": unquote(parts.password or "")}
    return {**read, **login, "port": parts.port, "options": options}


@pytest.mark.parametrize(
    ("database", "expected"),
    [
        ({}, {}),
        ({"host": None}, {"host": ""}),
        ({"host": "10.0.0.5", "port": 6432}, {"host": "10.0.0.5", "port": 6432}),
        ({"host": "fd00::5", "port": 6432}, {"host": "fd00::5", "port": 6432}),
        ({"host": "/run/postgresql"}, {"host": "/run/postgresql"}),
        ({"engine": "mysql"}, {"engine": "mysql"}),
        ({"name": "b+c", "user": "ray@azure"}, {"name": "b+c", "user": "ray@azure"}),
        ({"password": None}, {"password": ""}),
        (
            {"options": {"sslmode": "require", "application_name": "a b&c", "connect_timeout": 5, "x": True}},
            {"options": {"sslmode": "require", "application_name": "a b&c", "connect_timeout": "5", "x": "true"}},
        ),
    ],
)
def test_url_parses_to_same_values(database, expected):
    site = configured(database={**SERVER, "as": "environment", **database})
    secrets = secrets_of(site)
    usual = {
        "engine": "postgres",
        "name": "blog",
        "user": "blog",
        "host": "db1.example.org",
        "port": None,
        "options": {},
    }
    password = {"password": secrets.get("database.default", "")}
    assert read_url(database_databases.url(site, "default", secrets)) == {**usual, **password, **expected}


def environments(**options):
    """The plain and the secret variables of a site, but for those that every site has."""
    site = configured(**options)
    usual = set(settings.environment(configured(), RELEASE, FACTS))
    plain = settings.environment(site, RELEASE, FACTS)
    hidden = settings.secret_environment(site, {name: name for name in secret_secrets.configured(site)}, [])
    return {name: value for name, value in plain.items() if name not in usual}, hidden


URL = "postgres://blog:database.default@db1.example.org/blog"


@pytest.mark.parametrize(
    ("options", "plain", "secret"),
    [
        ({"database": SERVER}, {}, {}),
        ({"database": {**SERVER, "as": "environment"}}, {}, {"DATABASE_URL": URL}),
        ({"database": {**SERVER, "as": "environment", "variable": "DB"}}, {}, {"DB": URL}),
        ({"database": SERVER, "overlay": False}, {}, {"DATABASE_URL": URL}),
        ({"database": SERVER, "environment": {"DB": {"from": "database_url"}}}, {}, {"DB": URL}),
        (
            {
                "database": {**SERVER, "port": 5433},
                "environment": {
                    name: {"from": f"database_{name.lower()}"} for name in ("NAME", "USER", "HOST", "PORT", "PASSWORD")
                },
            },
            {"NAME": "blog", "HOST": "db1.example.org", "PORT": "5433"},
            {"USER": "blog", "PASSWORD": "database.default"},
        ),
        ({"database": SERVER, "environment": {"PORT": {"from": "database_port"}}}, {"PORT": "5432"}, {}),
        (
            {"database": {"engine": "mysql"}, "environment": {"PORT": {"from": "database_port"}}},
            {"PORT": "3306"},
            {},
        ),
        ({"database": {"engine": "sqlite"}, "overlay": False}, {}, {}),
        (
            {"database": {"engine": "sqlite", "as": "environment"}},
            {"DATABASE_URL": "sqlite:////srv/django/blog/database/db.sqlite3"},
            {},
        ),
        (
            {"databases": {"default": {}, "log": {**SERVER, "name": "log", "as": "environment"}}},
            {},
            {"LOG_DATABASE_URL": "postgres://blog:database.log@db1.example.org/log"},
        ),
    ],
)
def test_variables_by_configuration(options, plain, secret):
    assert environments(**options) == (plain, secret)


def test_dotenv_file_contains_url():
    site = configured(database={**SERVER, "as": "environment"}, files={".env": {"environment": True}})
    variables = settings.secret_environment(site, {"database.default": "x"}, [])
    assert settings.project_files(site, {}, variables)[".env"] == (
        "DATABASE_URL=postgres://blog:x@db1.example.org/blog\n"
    )


def test_settings_contain_no_password():
    site = configured(database={**SERVER, "options": {"sslmode": "require"}, "settings": {"CONN_MAX_AGE": 60}})
    data = json.loads(settings.overlay(site, RELEASE, "blog.settings"))
    assert data["databases"] == {
        "default": {
            "engine": POSTGRES,
            "name": "blog",
            "user": "blog",
            "host": "db1.example.org",
            "port": "",
            "password_file": "/srv/django/blog/secrets/database.default",
            "user_file": "/srv/django/blog/secrets/database.default.user",
            "options": {"sslmode": "require"},
            "settings": {"CONN_MAX_AGE": 60},
        }
    }


POOLED = {**SERVER, "pool": 10, "pool_port": 6432, "options": {"sslmode": "require"}}


def test_servers_and_workers_alone_reach_the_database_through_its_pool(overlay, monkeypatch):
    site = {"default": {"engine": "postgres"}, "facts": {**SERVER, "name": "facts"}}
    project = {"default": {"ENGINE": POSTGRES, "OPTIONS": {"prepare_threshold": 5}}}
    config = configured(databases=site)
    config.config["databases"]["default"] |= POOLED
    direct = overlay(project, config=config)
    assert direct["default"]["PORT"] == "" and direct["default"]["OPTIONS"]["prepare_threshold"] == 5
    assert "DISABLE_SERVER_SIDE_CURSORS" not in direct["default"]
    monkeypatch.setenv("DJANGO_DATABASE_POOL", "1")
    pooled = overlay(project, config=config)
    assert (pooled["default"]["PORT"], pooled["default"]["DISABLE_SERVER_SIDE_CURSORS"]) == ("6432", True)
    assert pooled["default"]["OPTIONS"] == {"sslmode": "require"} and pooled["facts"] == direct["facts"]


@pytest.fixture
def overlay(tmp_path, monkeypatch):
    """The overlay, over a project without settings: its functions are asked."""
    (tmp_path / "database.default").write_text(PASSWORD)
    (tmp_path / "database.default.user").write_text("blog")
    (tmp_path / "key.json").write_text('{"key": "x", "fallbacks": []}')
    (tmp_path / "empty_project_settings.py").write_text("")
    monkeypatch.setattr(sys, "path", [str(tmp_path), *sys.path])
    monkeypatch.setitem(sys.modules, "django", SimpleNamespace(VERSION=(5, 2, 0)))
    monkeypatch.setitem(sys.modules, "django_formula_logs", SimpleNamespace())
    data = json.loads(settings.overlay(configured(), RELEASE, "empty_project_settings"))
    (tmp_path / "settings.json").write_text(json.dumps({**data, "secret_key_file": str(tmp_path / "key.json")}))
    path = tmp_path / "django_formula_settings.py"
    path.write_text((ROOT / "django/files" / path.name).read_text())
    spec = importlib.util.spec_from_file_location("overlay_of_databases", path)
    module = importlib.util.module_from_spec(spec)
    monkeypatch.setitem(sys.modules, "overlay_of_databases", module)
    spec.loader.exec_module(module)

    def databases(project, root="/srv/django/blog", config=None, **options):
        text = settings.overlay(config or configured(**options), RELEASE, "x")
        data = json.loads(text.replace("/srv/django/blog", root))
        for given in data["databases"].values():
            if given.get("password_file"):
                given["password_file"] = str(tmp_path / "database.default")
                given["user_file"] = str(tmp_path / "database.default.user")
        return module._databases(project, data)

    return databases


GEVENT = {"kind": "gunicorn", "options": {"worker_class": "gevent"}}
STRICT = {"init_command": "SET sql_mode = CONCAT(@@sql_mode, ',STRICT_TRANS_TABLES')"}
PATIENT = {"timeout": 20, "transaction_mode": "IMMEDIATE"}
WHERE = {"NAME": "blog", "USER": "blog", "HOST": "db1.example.org", "PORT": "", "PASSWORD": PASSWORD}


@pytest.mark.parametrize(
    ("project", "database", "expected"),
    [
        ({}, {}, {"ENGINE": POSTGRES, **WHERE, "OPTIONS": {}}),
        (
            {
                "ENGINE": SQLITE,
                "NAME": "db.sqlite3",
                "OPTIONS": {"timeout": 5},
                "TEST": {"NAME": "x"},
                "ATOMIC_REQUESTS": True,
            },
            {},
            {"ENGINE": POSTGRES, **WHERE, "OPTIONS": {}, "ATOMIC_REQUESTS": True},
        ),
        (
            {
                "ENGINE": "django.contrib.gis.db.backends.postgis",
                "HOST": "old",
                "OPTIONS": {"sslmode": "prefer", "a": 1},
            },
            {
                "options": {"sslmode": "require"},
                "port": 6432,
                "settings": {"CONN_MAX_AGE": None, "TEST": {"NAME": "t"}},
            },
            {
                "ENGINE": "django.contrib.gis.db.backends.postgis",
                **WHERE,
                "PORT": "6432",
                "OPTIONS": {"sslmode": "require", "a": 1},
                "CONN_MAX_AGE": None,
                "TEST": {"NAME": "t"},
            },
        ),
        (
            {"ENGINE": POSTGRES},
            {"extensions": ["postgis"]},
            {"ENGINE": "django.contrib.gis.db.backends.postgis", **WHERE, "OPTIONS": {}},
        ),
        (
            {"ENGINE": "django_prometheus.db.backends.postgis"},
            {"extensions": ["postgis"]},
            {"ENGINE": "django_prometheus.db.backends.postgis", **WHERE, "OPTIONS": {}},
        ),
        (
            {"ENGINE": POSTGRES},
            {"engine": "mysql"},
            {"ENGINE": MYSQL, **WHERE, "OPTIONS": {"charset": "utf8mb4", **STRICT}},
        ),
        (
            {"ENGINE": "django_prometheus.db.backends.mysql", "OPTIONS": {"charset": "latin1"}},
            {"engine": "mysql", "password": None, "host": None},
            {
                "ENGINE": "django_prometheus.db.backends.mysql",
                **WHERE,
                "HOST": "",
                "PASSWORD": "",
                "OPTIONS": {"charset": "latin1", **STRICT},
            },
        ),
    ],
)
def test_pillar_overrides_database_of_settings(overlay, project, database, expected):
    found = overlay({"default": project} if project else {}, database={**SERVER, **database})
    assert found == {"default": expected}


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        ({}, "{root}/database/db.sqlite3"),
        ({"shared": ["data"]}, "{root}/shared/data/db.sqlite3"),
        ({"shared": ["src/db.sqlite3"]}, "{root}/shared/data/db.sqlite3"),
        ({"environment": {"DATA": {"from": "shared"}}}, "{root}/shared/data/db.sqlite3"),
        ({"shared": ["data"], "database": {"engine": "sqlite"}}, "{root}/shared/data/db.sqlite3"),
        ({"shared": ["data"], "database": {"engine": "sqlite", "name": "a.db"}}, "{root}/database/a.db"),
    ],
)
@pytest.mark.parametrize("is_relative", [True, False])
def test_sqlite_file_below_a_shared_path_stays_there(overlay, tmp_path, monkeypatch, is_relative, options, expected):
    root = tmp_path / "site"
    (root / "shared/data").mkdir(parents=True)
    source = root / "releases/0001/source"
    source.mkdir(parents=True)
    (source / "data").symlink_to(root / "shared/data")
    monkeypatch.chdir(source)
    name = "data/db.sqlite3" if is_relative else str(source / "data/db.sqlite3")
    project = {"default": {"ENGINE": SQLITE, "NAME": name}, "log": {"ENGINE": SQLITE, "NAME": str(source / "log.db")}}
    found = overlay(project, root=str(root), **options)
    assert found["default"] == {"ENGINE": SQLITE, "NAME": expected.format(root=root), "OPTIONS": PATIENT}
    assert found["log"]["NAME"] == f"{root}/database/log.db"


def test_several_databases_overridden(overlay):
    project = {"default": {"ENGINE": SQLITE, "NAME": "a.db"}, "own": {"ENGINE": POSTGRES, "NAME": "own"}}
    given = {"default": {"engine": "sqlite", "options": {"timeout": 9}}, "log": {"engine": "sqlite"}}
    folder = "/srv/django/blog/database"
    assert overlay(project, databases={**given, "own": {}, "metrics": {**SERVER, "name": "m"}}) == {
        "default": {"ENGINE": SQLITE, "NAME": f"{folder}/a.db", "OPTIONS": {**PATIENT, "timeout": 9}},
        "own": {"ENGINE": POSTGRES, "NAME": "own"},
        "log": {"ENGINE": SQLITE, "NAME": f"{folder}/log.sqlite3", "OPTIONS": PATIENT},
        "metrics": {"ENGINE": POSTGRES, **WHERE, "NAME": "m", "OPTIONS": {}},
    }


@pytest.mark.parametrize(
    ("database", "age", "version", "expected"),
    [
        ({"ENGINE": SQLITE}, 60, (5, 2), {"CONN_MAX_AGE": 60, "CONN_HEALTH_CHECKS": True}),
        ({"ENGINE": POSTGRES}, 60, (4, 0), {"CONN_MAX_AGE": 60}),
        ({"ENGINE": POSTGRES, "OPTIONS": {"pool": True}}, 60, (5, 2), {}),
        ({"ENGINE": "django_db_geventpool.backends.postgresql"}, 60, (5, 2), {}),
        ({"ENGINE": SQLITE}, 0, (5, 2), {}),
        ({}, 60, (5, 2), {}),
    ],
)
def test_connection_age_by_backend(overlay, monkeypatch, database, age, version, expected):
    monkeypatch.setattr(sys.modules["django"], "VERSION", version)
    assert sys.modules["overlay_of_databases"]._connection(database, age) == expected


@pytest.mark.parametrize(("server", "age"), [({}, 60), ({"kind": "uvicorn"}, 0), (GEVENT, 0)])
def test_connections_persist_with_thread_workers(server, age):
    site = configured(server=server)
    keeps = servers.configured(site).keeps_threads(site)
    assert json.loads(settings.overlay(site, RELEASE, "x", keeps_threads=keeps))["conn_max_age"] == age


@pytest.mark.parametrize(
    ("version", "own", "expected"),
    [
        ((5, 2), {}, PATIENT),
        ((4, 2), {}, {"timeout": 20}),
        ((5, 1), {"timeout": 5, "transaction_mode": "DEFERRED"}, {"timeout": 5, "transaction_mode": "DEFERRED"}),
    ],
)
def test_sqlite_waits_for_locks(overlay, monkeypatch, version, own, expected):
    monkeypatch.setitem(sys.modules, "django", SimpleNamespace(VERSION=version))
    (found,) = overlay({"default": {"ENGINE": SQLITE, "NAME": "a.db", "OPTIONS": own}}).values()
    assert found["OPTIONS"] == expected


@pytest.mark.parametrize(
    ("databases", "said", "expected"),
    [
        ({"default": POSTGRES, "other": POSTGRES}, {"default": True}, ["default"]),
        ({"default": POSTGRES, "log": SQLITE, "geo": "x.spatialite"}, {}, ["default", "log", "geo"]),
        ({"default": POSTGRES, "other": POSTGRES}, {"default": False, "other": True}, ["other"]),
        ({"default": POSTGRES, "log": SQLITE}, {"log": False, "gone": True}, ["default"]),
        ({"default": "django.db.backends.dummy"}, {"default": True}, []),
        ({"default": SQLITE, "OPTIONS": None}, {}, ["default"]),
    ],
)
def test_migrated_databases(monkeypatch, databases, said, expected):
    path = ROOT / "django/files/django_formula_start.py"
    spec = importlib.util.spec_from_file_location("started", path)
    program = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(program)
    settings = {alias: {"ENGINE": engine} if engine else {} for alias, engine in databases.items()}
    connections = SimpleNamespace(settings=settings)
    monkeypatch.setitem(sys.modules, "django.db", SimpleNamespace(connections=connections))
    assert program.migrated_databases(said) == expected


@pytest.mark.parametrize(
    ("vendor", "options", "holder", "expected"),
    [
        ("sqlite", {}, None, "wal"),
        ("sqlite", {"init_command": "PRAGMA journal_mode=DELETE"}, None, "delete"),
        ("postgresql", {}, None, "delete"),
        ("sqlite", {}, "BEGIN EXCLUSIVE", "delete"),
    ],
)
def test_sqlite_file_switched_to_write_ahead_log(tmp_path, monkeypatch, capsys, vendor, options, holder, expected):
    path = ROOT / "django/files/django_formula_start.py"
    spec = importlib.util.spec_from_file_location("started", path)
    program = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(program)
    file = str(tmp_path / "db.sqlite3")

    @contextlib.contextmanager
    def cursor():
        with contextlib.closing(sqlite3.connect(file, timeout=0)) as opened:
            yield opened.cursor()

    connection = SimpleNamespace(vendor=vendor, settings_dict={"OPTIONS": options}, cursor=cursor)
    played = SimpleNamespace(connections={"default": connection}, OperationalError=sqlite3.OperationalError)
    monkeypatch.setitem(sys.modules, "django.db", played)
    with contextlib.closing(sqlite3.connect(file, isolation_level=None)) as other:
        other.execute("CREATE TABLE entry (name)")
        if holder:
            other.execute(holder)
        program.write_ahead("default")
    with contextlib.closing(sqlite3.connect(file)) as found:
        assert found.execute("PRAGMA journal_mode").fetchone() == (expected,)
    assert ("no write-ahead log for default: database is locked" in capsys.readouterr().err) == bool(holder)


@pytest.mark.parametrize(
    ("effective", "told"),
    [
        ({"default": (POSTGRES, "blog")}, None),
        ({"default": ("django.contrib.gis.db.backends.postgis", "blog")}, None),
        ({"default": (SQLITE, "/x/db.sqlite3")}, f"its settings have /x/db.sqlite3 ({SQLITE})"),
        ({"default": (POSTGRES, "other")}, f"its settings have other ({POSTGRES})"),
        ({}, "its settings have none (nothing)"),
    ],
)
@pytest.mark.parametrize("way", ["settings", "environment"])
def test_release_refused_when_settings_use_another_database(effective, told, way):
    site = configured(database={**SERVER, "as": way})
    found = {alias: {"engine": engine, "name": name} for alias, (engine, name) in effective.items()}
    if told is None:
        return database_databases.check_settings(site, found)
    with pytest.raises(DeploymentError) as error:
        database_databases.check_settings(site, found)
    assert error.value.message == f"the project does not use the database 'default' of the pillar: {told}"
    assert ("DATABASE_URL" in error.value.hint) == (way == "environment")
    return None


@pytest.mark.parametrize("database", [{}, {"engine": "sqlite"}])
def test_own_database_of_project_accepted(database):
    database_databases.check_settings(configured(database=database), {"default": {"engine": POSTGRES, "name": "own"}})


HINTS = {
    'OperationalError: connection to server at "db1.example.org" (10.0.0.5), port 5432 failed: FATAL:  password '
    'authentication failed for user "blog"': "correct {key}:user or {key}:password",
    "OperationalError: (1045, \"Access denied for user 'blog'@'web1' (using password: YES)\")": (
        "correct {key}:user or {key}:password"
    ),
    'OperationalError: connection to server at "db1.example.org", port 6432 failed: FATAL:  login rejected': (
        "apply on the host of the database first: its PgBouncer does not have {key}:pool, or does not let in this host"
    ),
    'OperationalError: connection failed: FATAL:  database "lost" does not exist': (
        "create it on the server, or correct {key}:name"
    ),
    "OperationalError: (1049, \"Unknown database 'lost'\")": "create it on the server, or correct {key}:name",
    'OperationalError: could not translate host name "db1.example.org" to address: Name or service not known': (
        "correct {key}:host"
    ),
    "OperationalError: (2005, \"Unknown server host 'db1.example.org' (-2)\")": "correct {key}:host",
    'OperationalError: connection to server at "db1.example.org", port 5432 failed: Connection refused': (
        "check that the server runs and is reachable at {key}:host, {key}:port"
    ),
    "OperationalError: (2002, \"Can't connect to server on 'db1.example.org' (115)\")": (
        "check that the server runs and is reachable at {key}:host, {key}:port"
    ),
}


@pytest.mark.parametrize("message", HINTS)
@pytest.mark.parametrize("several", [False, True])
def test_hint_for_server_error(message, several):
    site = configured(databases={"default": SERVER, **({"log": {"engine": "sqlite"}} if several else {})})
    error = DeploymentError(f"starting Django: {message}", hint="")
    database_databases.add_hint(site, error)
    key = "django:sites:blog:databases:…" if several else "django:sites:blog:database"
    assert error.hint == HINTS[message].format(key=key) and error.transient


@pytest.mark.parametrize(
    "message",
    [
        'OperationalError: connection to server on socket "/run/x" failed: FATAL:  role "blog" does not exist',
        'OperationalError: connection failed: FATAL:  database "blog" does not exist',
        "OperationalError: (1045, \"Access denied for user 'blog'@'localhost' (using password: NO)\")",
    ],
)
def test_hint_for_a_login_that_the_formula_sets_up_names_no_password(message):
    engine = "mysql" if "1045" in message else "postgres"
    for database, hint in (
        ({"engine": engine}, "apply, which sets up the database and its login on this host"),
        ({"engine": engine, "host": "localhost", "manage": True}, "apply, which sets up the database and its login"),
    ):
        error = DeploymentError(f"starting Django: {message}", hint="")
        database_databases.add_hint(configured(database=database), error)
        assert hint in error.hint and "password" not in error.hint


def test_hint_for_a_login_over_the_socket_that_is_asked_for_a_password():
    """Its server's pg_hba.conf was changed, and an apply leaves what is Debian's there."""
    message = 'connection to server on socket "/run/postgresql" failed: fe_sendauth: no password supplied'
    error = DeploymentError(f"starting Django: OperationalError: {message}", hint="")
    database_databases.add_hint(configured(database={"engine": "postgres"}), error)
    assert error.hint == "restore Debian's line in the server's pg_hba.conf: local all all peer"


def test_hint_for_a_login_on_the_host_of_the_database_names_that_host():
    site = configured(database=SERVER)
    site.config = {**site.config, "databases": {"default": {**site.config["databases"]["default"], "served_by": "db1"}}}
    error = DeploymentError('starting Django: OperationalError: FATAL:  role "blog" does not exist', hint="")
    database_databases.add_hint(site, error)
    assert error.hint == "apply on db1, which sets up the database and the login for this host, then here"


#: Other users and hosts than those of the pillar, as the drivers report them.
OF_PROJECT = {
    'OperationalError: (psycopg2.OperationalError) connection to server at "localhost" (127.0.0.1), port 5432 failed: '
    'FATAL:  password authentication failed for user "puser"': "user puser, host localhost",
    'OperationalError: connection to server at "db1.example.org" (10.0.0.5), port 5432 failed: FATAL:  password '
    'authentication failed for user "puser"': "user puser, host db1.example.org",
    'OperationalError: connection failed: FATAL:  role "puser" does not exist': "user puser",
    "OperationalError: (1045, \"Access denied for user 'root'@'localhost' (using password: YES)\")": "user root",
    'OperationalError: could not translate host name "db" to address: Name or service not known': "host db",
    "OperationalError: (2005, \"Unknown server host 'mysql' (-2)\")": "host mysql",
    "OperationalError: (2003, \"Can't connect to MySQL server on '10.9.9.9:3306' (111)\")": "host 10.9.9.9",
    'OperationalError: connection to server at "::1", port 5432 failed: Connection refused': "host ::1",
}


@pytest.mark.parametrize("message", OF_PROJECT)
@pytest.mark.parametrize("database", [SERVER, {"engine": "sqlite"}])
def test_hint_for_a_connection_that_the_project_opens_itself(message, database):
    error = DeploymentError(f"starting Django: {message}", hint="")
    database_databases.add_hint(configured(database=database), error)
    assert error.hint == (
        f"the project itself connects with {OF_PROJECT[message]}, which no database of django:sites:blog has: change "
        "the variables or settings that it takes them from, django:sites:blog:environment or "
        "django:sites:blog:settings; or the file that has them, django:sites:blog:files; or create that user and "
        "database there"
    )
    assert error.transient


@pytest.mark.parametrize(
    ("host", "hint"),
    [
        (None, "apply, which sets up the database and its login on this host"),
        ("127.0.0.1", "correct django:sites:blog:database:user or django:sites:blog:database:password"),
    ],
)
def test_hint_for_a_local_database_of_the_pillar(host, hint):
    text = 'connection to server at "localhost" (127.0.0.1), port 5432 failed: FATAL:  password authentication failed'
    error = DeploymentError(f'starting Django: OperationalError: {text} for user "blog_2"', hint="")
    database_databases.add_hint(configured(database={**SERVER, "host": host}), error)
    assert error.hint == hint


def test_hint_for_missing_driver():
    error = DeploymentError("starting Django: ImproperlyConfigured: Error loading psycopg2 or psycopg module")
    database_databases.add_hint(configured(), error)
    assert "django:sites:blog:python_packages" in error.hint and not error.transient


@pytest.mark.parametrize(
    "message",
    [
        'ProgrammingError: relation "blog_entry" does not exist',
        "OperationalError: [Errno 111] Connection refused",
        "ConnectionError: Error 111 connecting to redis:6379. Connection refused.",
    ],
)
def test_no_hint_for_other_errors(message):
    error = DeploymentError(f"starting Django: {message}", hint="as it was")
    database_databases.add_hint(configured(), error)
    assert error.hint == "as it was" and not error.transient


# Files of SQLite


@pytest.mark.parametrize(
    ("content", "expected"),
    [
        (None, set()),
        ("", set()),
        ("garbage " * 200, set()),
        ("no table", set()),
        ([("blog", "0001"), ("auth", "0001_initial")], {"blog.0001", "auth.0001_initial"}),
    ],
)
def test_migrations_read_from_sqlite_file(make_site, content, expected):
    site = make_site()
    path = site.database.top / "db.sqlite3"
    if isinstance(content, list) or content == "no table":
        with sqlite3.connect(path) as connection:
            connection.execute("PRAGMA journal_mode=WAL")
            connection.execute("CREATE TABLE x (y)")
            if isinstance(content, list):
                connection.execute("CREATE TABLE django_migrations (app TEXT, name TEXT)")
                connection.executemany("INSERT INTO django_migrations VALUES (?, ?)", content)
    elif content is not None:
        path.write_text(content)
    assert sqlite.applied(site, path) == expected


@pytest.mark.parametrize("how", ["link", "owner"])
def test_sqlite_file_of_another_user_not_read(make_site, monkeypatch, how):
    site = make_site()
    path = site.database.top / "db.sqlite3"
    with sqlite3.connect(path) as connection:
        connection.execute("CREATE TABLE django_migrations (app TEXT, name TEXT)")
        connection.execute("INSERT INTO django_migrations VALUES ('a', 'b')")
    if how == "link":
        (site.database.top / "link").symlink_to(path)
        path = site.database.top / "link"
    else:
        monkeypatch.setattr(users, "user_id", lambda name: os.getuid() + 1)
    assert sqlite.applied(site, path) == set()


@pytest.mark.parametrize("size", [1024, 4096])
@pytest.mark.parametrize("committed", [False, True])
def test_copy_command_replaces_the_rows_of_a_database_that_has_a_wal(tmp_path, size, committed):
    """It has one from the first start on, and takes no pages of another size then."""
    source, target = tmp_path / "committed 100%.sqlite3", tmp_path / "db.sqlite3"
    for path, statements in (
        (source, [f"PRAGMA page_size={size}", "CREATE TABLE rows (value)", "INSERT INTO rows VALUES (7)"]),
        (target, ["PRAGMA journal_mode=WAL", "CREATE TABLE rows (value)"]),
    ):
        with contextlib.closing(sqlite3.connect(path)) as connection:
            for statement in statements:
                connection.execute(statement)
            connection.commit()
    argv = sqlite.copy_command("blog", source, target, committed=committed)
    assert argv[:4] == ["runuser", "-u", "blog", "--"]
    subprocess.run([sys.executable, *argv[5:]], check=True)
    with contextlib.closing(sqlite3.connect(target)) as connection:
        assert connection.execute("SELECT value FROM rows").fetchall() == [(7,)]
