"""Defaults of new columns on SQLite, PostgreSQL and MariaDB, by Django 3.2 to 6.1, under a release's INSERTs."""

import json

import pytest
import servers
from lab import Host
from specimen import ROOT
from test_keep import DATA, problems

pytestmark = pytest.mark.full

PASSWORD = "grenadier-7f3"
ROLES = f"CREATE ROLE shop LOGIN PASSWORD '{PASSWORD}';\nCREATE DATABASE shop OWNER shop;\n"
USERS = f"""
CREATE USER shop@localhost IDENTIFIED BY '{PASSWORD}';
CREATE DATABASE shop CHARACTER SET utf8mb4;
GRANT ALL ON shop.* TO shop@localhost;
"""
SERVER = {"NAME": "shop", "HOST": "127.0.0.1", "USER": "shop", "PASSWORD": PASSWORD}
ENGINES = {
    "sqlite": {"ENGINE": "django.db.backends.sqlite3", "NAME": "/srv/shop.sqlite3"},
    "postgres": {"ENGINE": "django.db.backends.postgresql", **SERVER},
    "mysql": {"ENGINE": "django.db.backends.mysql", **SERVER},
}
ANEW = {
    "sqlite": "rm -f /srv/shop.sqlite3*",
    "postgres": "runuser -u postgres -- psql --quiet shop -c 'DROP SCHEMA public CASCADE' "
    "-c 'CREATE SCHEMA public AUTHORIZATION shop'",
    "mysql": "mariadb -e 'DROP DATABASE shop; CREATE DATABASE shop CHARACTER SET utf8mb4'",
}
DRIVERS = "psycopg2-binary==2.9.11 PyMySQL==1.1.2 setuptools==80.9.0"
PROGRAMS, TESTS = "/srv/programs", "/srv/tests"


#: Versions of Django, and the Debian whose Python runs them.
DJANGOS = {"3.2.25": "bookworm", "4.2.30": "bookworm", "5.2.19": "bookworm", "6.0.10": "trixie", "6.1.3": "trixie"}


@pytest.fixture(scope="module")
def host(module_hosts, request) -> Host:
    host = module_hosts(request.param, kind="ready")
    servers.set_up(host, postgres=ROLES, mysql=USERS)
    for path in (ROOT / "django/files").glob("django_formula_*.py"):
        host.write(f"{PROGRAMS}/{path.name}", path.read_text())
    for name in ("keeping.py", "inserting.py"):
        host.write(f"{TESTS}/{name}", (ROOT / "test/engine" / name).read_text())
    return host


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    pairs = [(release, version) for version, release in DJANGOS.items()]
    metafunc.parametrize(("host", "django"), pairs, indirect=True, scope="module")


@pytest.fixture(scope="module")
def django(request, host) -> str:
    """A version that the host has a virtualenv of."""
    folder = f"/srv/django-{request.param}"
    install = f"{folder}/bin/pip install --quiet Django=={request.param} {DRIVERS}"
    host.run(f"set -e; python3 -m venv {folder}; {install}")
    return str(request.param)


def run(host: Host, django: str, engine: str, program: str, *arguments: str, stdin: str = "") -> str:
    host.run(ANEW[engine])
    driver = ["pymysql"] if engine == "mysql" else []
    database = json.dumps(ENGINES[engine])
    python = [f"/srv/django-{django}/bin/python", "-W", "ignore", f"{TESTS}/{program}"]
    return str(host.run([*python, *arguments, PROGRAMS, database, *driver], stdin=stdin).stdout)


@pytest.mark.parametrize("engine", ENGINES)
def test_running_release_inserts_during_migrations(host, django, engine):
    found = json.loads(run(host, django, engine, "inserting.py", "/srv/project"))
    assert found["failed"] == 0 and found["errors"] == {} and found["INSERT"] > 100, found
    assert found["migrated"] == 3 and found["left"] == ["shop.0001_first"]
    assert found["classes"] == found["applied"] == ["data", "safe"], "the pause is the project's code"
    assert found["counted"] == 0, "a boolean becomes an integer, and had a default"


@pytest.mark.parametrize("engine", ENGINES)
def test_judgement_and_inserts_agree(host, django, engine):
    answers = json.loads(run(host, django, engine, "keeping.py", stdin=json.dumps(DATA)))
    assert len(answers) == len(DATA["cases"])
    wrong = [
        problem
        for case, answer in zip(DATA["cases"], answers, strict=True)
        if not isinstance(answer, str)
        for problem in problems(case, answer, django, sqlite=engine == "sqlite")
    ]
    assert wrong == []
