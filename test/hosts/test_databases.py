"""Databases on servers, given by settings, by a URL, several at once; and what is said when one is not to be had."""

import json

import pytest
import servers
from products import shortened
from sites import Site, lines, version

pytestmark = pytest.mark.full

PASSWORD = 'grenadier-7f3 p@s:s/w%20#?+"$x'
MORE = """
DATABASES["metrics"] = {"ENGINE": "django.db.backends.sqlite3", "NAME": BASE_DIR / "metrics.sqlite3"}
"""
#: A project that reads its environment, as with dj-database-url.
FROM_URL = """
import os
import dj_database_url
SECRET_KEY = os.environ["SECRET_KEY"]
DEBUG = False
ALLOWED_HOSTS = [os.environ["HOST"]]
STATIC_ROOT, MEDIA_ROOT = os.environ["STATIC_ROOT"], os.environ["MEDIA_ROOT"]
DATABASES["default"] = dj_database_url.config()
"""
ENVIRONMENT = {
    "SECRET_KEY": {"from": "secret_key"},
    "HOST": {"from": "domains"},
    "STATIC_ROOT": {"from": "static_root"},
    "MEDIA_ROOT": {"from": "media_root"},
    "DB_PASSWORD": {"from": "database_password"},
}
POSTGRES = {"engine": "postgres", "host": "127.0.0.1", "password": PASSWORD}
MYSQL = {"engine": "mysql", "host": "127.0.0.1", "name": "blog", "password": PASSWORD}
ROLES = f"""
CREATE ROLE blog LOGIN PASSWORD '{PASSWORD}';
CREATE DATABASE blog OWNER blog;
"""
USERS = f"""
CREATE USER blog@localhost IDENTIFIED BY '{PASSWORD}';
CREATE DATABASE blog CHARACTER SET utf8mb4;
CREATE DATABASE metrics CHARACTER SET utf8mb4;
GRANT ALL ON *.* TO blog@localhost;
"""


@pytest.fixture(scope="module")
def blog(module_hosts, repositories) -> Site:
    host = module_hosts(kind="ready")
    servers.set_up(host, postgres=ROLES, mysql=USERS)
    return Site(host, repositories(host))


def add(blog: Site, settings: str = "", requirements: str = "") -> None:
    """Commit the example project with more settings and requirements."""
    files = {"website/settings.py": settings, "requirements.txt": requirements}
    first = {name: blog.repository.git("show", f"{blog.repository.first}:{name}") for name in files}
    blog.repository.commit({name: first[name] + "\n" + more for name, more in files.items()})


def migrated(blog: Site, engine: str, database: str) -> int:
    """The migrations that a database has."""
    count = "SELECT count(*) FROM django_migrations"
    client = ["runuser", "-u", "postgres", "--", "psql", "--tuples-only", f"--dbname={database}"]
    argv = [*client, f"--command={count}"] if engine == "postgres" else ["mariadb", "-Ne", count, database]
    done = blog.host.run(argv, check=False)
    return int(done.stdout or 0)


def installed(blog: Site) -> set[str]:
    listed = blog.host.run(f"ls {blog.root}/current/virtualenv/lib/python3*/site-packages").stdout.lower()
    return {line.partition("-")[0] for line in listed.split() if line.endswith(".dist-info")}


def value(blog: Site, expression: str) -> str:
    """What an expression is in the site's Django."""
    program = f"from django.conf import settings; print(({expression}))"
    return str(blog.manage(f'shell -c "{program}"')).splitlines()[-1]


def where_it_lies(blog: Site) -> set[str]:
    """The files of the site, its units and nginx that hold the password, as it is or in a URL."""
    parts = "grenadier-7f3"
    listed = blog.host.run(f"grep -rlF {parts} {blog.root} /etc/systemd /etc/nginx /var/log /run/django", check=False)
    return {path.removeprefix(f"{blog.root}/") for path in listed.stdout.split()}


def test_postgres_by_settings(blog):
    applied = blog.deploy(database={**POSTGRES, "options": {"connect_timeout": 5}, "settings": {"CONN_MAX_AGE": 60}})
    assert applied["blog has its database migrated"].changes
    assert blog.get().status_code == 200 and migrated(blog, "postgres", "blog") > 15
    assert {"psycopg", "psycopg_binary"} <= installed(blog)
    assert value(blog, "settings.DATABASES['default']['CONN_MAX_AGE']") == "60"
    assert where_it_lies(blog) == {"secrets/database.default"}
    assert not blog.apply().changed
    blog.repository.commit(version("2.0"))
    blog.deploy()
    assert blog.answering["version"] == "2.0" and migrated(blog, "mysql", "blog") == 0


WRONG = {
    "the password": ({"password": "grenadier-7f3 not"}, ["password authentication failed", "database:password"]),
    "the name": ({"name": "lost"}, ['database "lost" does not exist', "database:name"]),
    "the server": ({"port": 9}, ["onnection refused", "database:port"]),
    "the host": ({"host": "db9.invalid"}, ["db9.invalid", "database:host"]),
    "the kind": ({"engine": "mysql", "password": "grenadier-7f3 not"}, ["Access denied", "database:password"]),
}


@pytest.mark.parametrize("what", shortened(WRONG, "the password", "the server"))
def test_errors_of_wrong_configuration(blog, what):
    said, told = WRONG[what]
    live = blog.live
    kept = blog.options["database"]
    applied = blog.apply(database={**kept, "settings": {}, "options": {}, **said})
    comment = applied.failed["blog has its static files"]
    assert all(text in comment for text in told) and f"{live} still runs" in comment, comment
    assert lines(comment) <= 10 and "grenadier" not in applied.stdout + applied.stderr
    assert blog.answering["release"] == live
    assert not blog.apply(database=kept).changed.get("blog is live")
    assert blog.releases == [live] or live in blog.releases


def test_mysql_by_settings(blog):
    blog.deploy(database={**MYSQL, "replaces": "postgres:///blog"})
    assert blog.get().status_code == 200 and migrated(blog, "mysql", "blog") > 15
    assert "mysqlclient" in installed(blog) and "psycopg" not in installed(blog)
    assert value(blog, "settings.DATABASES['default']['OPTIONS']['charset']") == "utf8mb4"
    assert not blog.apply().changed


def test_several_databases(blog):
    add(blog, MORE)
    blog.deploy(database=None, databases={"default": POSTGRES, "metrics": {**MYSQL, "name": "metrics"}})
    assert {"psycopg", "mysqlclient"} <= installed(blog) and blog.get().status_code == 200
    assert set(blog.record()["facts"]["migrations"]) == {"default", "metrics"}
    made = blog.host.call("django.backup", "blog")["made"]
    assert sorted(path.partition(f"{blog.live}.")[2] for path in made) == ["dump.zst", "sql.zst"]
    assert migrated(blog, "mysql", "metrics") == migrated(blog, "postgres", "blog") > 15
    assert where_it_lies(blog) == {"secrets/database.default", "secrets/database.metrics"}
    assert not blog.apply().changed


def test_database_url_in_environment(blog):
    add(blog, FROM_URL, "dj-database-url\npsycopg2-binary\n")
    blog.deploy(databases=None, database={**POSTGRES, "as": "environment"}, overlay=False, environment=ENVIRONMENT)
    assert blog.get().status_code == 200 and "psycopg" not in installed(blog)
    assert json.loads(value(blog, "__import__('json').dumps(settings.DATABASES['default']['PASSWORD'])")) == PASSWORD
    for_a_rollback = {"secrets/database.metrics"}
    assert where_it_lies(blog) - for_a_rollback == {"secrets/database.default", "secrets/environment"}
    secret = blog.host.testinfra.file(f"{blog.root}/secrets/environment")
    assert (secret.user, secret.group, secret.mode) == ("root", "blog", 0o640)
    assert not blog.apply().changed


def test_release_refused_when_project_ignores_url(blog):
    live = blog.live
    applied = blog.apply(database={**POSTGRES, "as": "environment", "variable": "DB_URL"})
    comment = applied.failed["blog has its static files"]
    assert "the project does not use the database 'default' of the pillar" in comment and "DB_URL" in comment
    assert blog.answering["release"] == live


def test_release_refused_without_driver(blog):
    live = blog.live
    add(blog, FROM_URL, "dj-database-url\n")
    url = "postgres://blog:grenadier-7f3@127.0.0.1/blog"
    applied = blog.apply(database=None, environment=ENVIRONMENT | {"DB_PASSWORD": ""}, secrets={"DATABASE_URL": url})
    comment = applied.failed["blog has its static files"]
    assert "Error loading psycopg" in comment and "python_packages" in comment and "grenadier" not in comment
    assert blog.answering["release"] == live
