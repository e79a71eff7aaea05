"""Database servers on a site's own host: from nothing to an answering site, next to existing databases."""

import re

import pytest
from client import Load
from lab import busy
from sites import Site, lines, version

POSTGRES, MARIADB = {"engine": "postgres"}, {"engine": "mysql"}
NOBODY_ELSES = """
runuser -u postgres -- psql --quiet --set=ON_ERROR_STOP=1 <<'SQL'
CREATE ROLE ray LOGIN PASSWORD 'sesame';
CREATE DATABASE theirs OWNER ray;
\\connect theirs
CREATE TABLE kept AS SELECT 42 AS answer;
SQL
mariadb <<'SQL'
CREATE DATABASE theirs;
CREATE TABLE theirs.kept AS SELECT 42 AS answer;
CREATE USER ray@localhost IDENTIFIED BY 'sesame';
GRANT ALL ON theirs.* TO ray@localhost;
SQL
"""


@pytest.fixture(scope="module")
def blog(module_hosts, repositories) -> Site:
    host = module_hosts(kind="ready")
    return Site(host, repositories(host))


@pytest.fixture(scope="module")
def shop(blog, repositories) -> Site:
    """Return a second site with a database on each server of the host."""
    repository = repositories(blog.host, "/srv/git/shop.git")
    settings = '\nDATABASES["metrics"] = {"ENGINE": "django.db.backends.sqlite3", "NAME": "metrics.sqlite3"}\n'
    repository.append("website/settings.py", settings)
    databases = {"default": POSTGRES, "metrics": {**MARIADB, "name": "shop_metrics"}}
    return Site(blog.host, repository, "shop", neighbour=blog, databases=databases)


def psql(site: Site, database: str, statement: str, user: str | None = None, **options):
    argv = ["runuser", "-u", user or site.name, "--", "psql", "--no-password", "-tA", "-c", statement, database]
    return site.host.run(argv, **options)


def mariadb(site: Site, database: str, statement: str, user: str | None = None, **options):
    return site.host.run(["runuser", "-u", user or site.name, "--", "mariadb", "-Ne", statement, database], **options)


COUNT = "SELECT count(*) FROM django_migrations"


@pytest.mark.full
def test_bare_host_gets_server_role_and_database(blog):
    planned = blog.apply(test=True, database=POSTGRES)
    assert planned.ok and planned["PostgreSQL is installed"].result is None
    told = {"postgres": {"role blog": "new", "database blog": "new"}}
    assert planned["blog has its databases"].changes == told
    applied = blog.deploy()
    assert applied["blog has its databases"].changes == told and blog.get().status_code == 200
    assert applied["blog has its virtualenv"].changes["added"] == ["psycopg[binary]>=3.1.8"]
    assert int(psql(blog, "blog", COUNT).stdout) > 15
    assert psql(blog, "blog", "SHOW wal_level").stdout.strip() == "logical"
    encoding = "SELECT pg_encoding_to_char(encoding), datcollate FROM pg_database WHERE datname = 'blog'"
    assert psql(blog, "blog", encoding).stdout.strip() == "UTF8|C.UTF-8"
    rights = "SELECT rolsuper, rolcreatedb, rolcreaterole FROM pg_roles WHERE rolname = 'blog'"
    assert psql(blog, "blog", rights).stdout.strip() == "f|t|f"
    assert "database.default" not in blog.host.run(["ls", f"{blog.root}/secrets"]).stdout
    assert "psycopg" in blog.host.run(f"ls {blog.root}/current/virtualenv/lib/python3*/site-packages").stdout
    assert not blog.apply().changed and not blog.apply(test=True).changed


@pytest.mark.full
def test_hints_for_a_login_over_the_socket_end_the_failure(blog):
    """Neither is a password: the login of a live site over the socket would refuse it."""

    def migrate() -> str:
        return blog.host.run(["salt-call", "--out=json", "django.migrate", "blog"], check=False).stdout

    def reload(text: str) -> None:
        blog.host.write(path, text)
        blog.host.run(["systemctl", "reload", "postgresql"])

    path = blog.host.run("ls /etc/postgresql/*/main/pg_hba.conf").stdout.strip()
    before = blog.host.read(path)
    reload(re.sub(r"(?m)^(local\s+all\s+all\s+)peer$", r"\1scram-sha-256", before))
    assert "restore Debian's line in the server's pg_hba.conf: local all all peer" in migrate()
    reload(before)
    assert "hint" not in migrate() and "pg_hba" not in migrate()
    psql(blog, "postgres", "ALTER ROLE blog RENAME TO gone", "postgres")
    assert "apply, which sets up the database and its login on this host" in migrate()
    assert blog.apply().ok and "apply, which" not in migrate() and blog.get().status_code == 200
    psql(blog, "postgres", "DROP ROLE blog", "postgres")  # as it was: the database's owner has its name again
    psql(blog, "postgres", "ALTER ROLE gone RENAME TO blog", "postgres")
    assert not blog.apply().changed and blog.get().status_code == 200


@pytest.mark.full
def test_site_with_databases_on_both_servers(blog, shop):
    applied = blog.deploy()
    assert set(applied["shop has its databases"].changes) == {"mysql", "postgres"}
    assert not applied["blog has its databases"].changes and shop.get().status_code == 200
    assert int(mariadb(shop, "shop_metrics", COUNT).stdout) == int(psql(shop, "shop", COUNT).stdout) > 15
    charset = "SELECT DEFAULT_CHARACTER_SET_NAME FROM information_schema.SCHEMATA WHERE SCHEMA_NAME = 'shop_metrics'"
    assert mariadb(shop, "shop_metrics", charset).stdout.strip() == "utf8mb4"
    known = "SELECT CONVERT_TZ('2026-01-01 12:00', 'UTC', 'Asia/Shanghai')"
    assert mariadb(shop, "shop_metrics", known).stdout.startswith("2026-01-01 20:00")
    again = blog.apply()
    assert not again.changed
    asked = [state.duration for state in again.states if state.id.endswith("has its databases")]
    assert sum(asked) < 1000 * busy()  # milliseconds


ROOM = """
class Room(models.Model):
    name = models.TextField()

class Moved(models.Model):
    floor = models.TextField()
    class Meta:
        db_table = "django_migrations"
"""


@pytest.mark.full
def test_tables_and_columns_that_no_migration_makes_are_named_on_both_servers(blog, shop):
    shop.repository.append("guestbook/models.py", ROOM)
    warnings = str(shop.deploy().warnings)
    missing = "no migration makes guestbook_room, django_migrations.floor, which models have"
    assert warnings.count(missing) == 2 and warnings.count("(database metrics)") == 1, warnings


@pytest.mark.full
def test_site_cannot_reach_databases_of_another(blog, shop):
    for who in ("blog", "blog-build", "shop-build", "www-data"):
        for tried in (
            psql(shop, "shop", "SELECT 1", who, check=False),
            psql(shop, "shop", "SELECT 1", who, check=False, environment={"PGUSER": "shop"}),
            mariadb(shop, "shop_metrics", "SELECT 1", who, check=False),
        ):
            assert tried.returncode != 0 and tried.stdout == "", who
    assert psql(blog, "postgres", "CREATE TABLE public.mine()", check=False).returncode != 0
    assert mariadb(shop, "", "CREATE DATABASE mine", check=False).returncode != 0
    assert mariadb(shop, "", "CREATE DATABASE shop_metrics_drill_1; DROP DATABASE shop_metrics_drill_1").returncode == 0
    assert mariadb(shop, "", "SHOW DATABASES").stdout.split() == ["information_schema", "shop_metrics"]


def dumped(blog: Site) -> str:
    """What others have on both servers: rows, rights, owners."""
    tables = [
        psql(
            blog,
            "theirs",
            "SELECT answer FROM kept; SELECT datacl, datdba FROM pg_database WHERE datname = 'theirs'",
            "postgres",
        ).stdout,
        mariadb(blog, "theirs", "SELECT answer FROM kept; SHOW GRANTS FOR ray@localhost", "root").stdout,
    ]
    verifier = "SELECT rolname, rolpassword FROM pg_authid WHERE rolname = 'ray'"
    return "\n".join([*tables, psql(blog, "postgres", verifier, "postgres").stdout])


@pytest.mark.full
def test_existing_databases_and_roles_are_unchanged(blog):
    blog.host.run(f"set -e\n{NOBODY_ELSES}")
    before = dumped(blog)
    live = blog.live
    for database, told in (
        ({**POSTGRES, "name": "theirs"}, "PostgreSQL already has a database theirs, owned by ray"),
        ({**MARIADB, "name": "theirs"}, "MariaDB already has a database theirs, and blog@localhost has no"),
        ({**POSTGRES, "user": "ray", "host": "localhost", "manage": True}, "PostgreSQL already has a role ray"),
    ):
        comment = blog.apply(database=database).failed["blog has its databases"]
        assert told in comment and lines(comment) <= 10
        assert re.search("set django:sites:blog:database:(name|user) to another name", comment)
        assert blog.live == live and dumped(blog) == before
    assert not blog.apply(database=POSTGRES).failed and dumped(blog) == before


@pytest.mark.full
def test_generated_password_over_tcp_and_login_of_another_name(blog, shop):
    over_tcp = {**POSTGRES, "host": "localhost", "manage": True}
    applied = blog.deploy(database=over_tcp)
    assert applied["blog has its databases"].changes == {
        "postgres": {"role blog": "password changed"},
        "passwords": ["database.default"],
    }
    password = blog.host.read(f"{blog.root}/secrets/database.default")
    assert len(password) == 40 and password not in applied.stdout + applied.stderr
    assert blog.get().status_code == 200 and not blog.apply().changed
    url = f"postgres://blog:{password}@127.0.0.1/blog"
    assert blog.host.run(["psql", "-tAc", COUNT, url]).returncode == 0
    applied = blog.deploy(database={**over_tcp, "password": "another one", "user": "blog2"})
    assert applied["blog has its databases"].changes["postgres"]["membership of blog2"] == "of blog"
    assert blog.get().status_code == 200 and blog.host.run(["psql", "-tAc", COUNT, url]).returncode == 0
    owners = "SELECT DISTINCT tableowner FROM pg_tables WHERE schemaname = 'public'"
    assert (
        blog.manage(
            "shell -c \"from django.db import connection as c; k = c.cursor(); k.execute('CREATE TABLE made ()')\""
        )
        is not None
    )
    assert psql(blog, "blog", owners, "postgres").stdout.split() == ["blog"]
    shop.options["databases"]["default"] = {**POSTGRES, "name": "till", "user": "clerk", "replaces": "postgres:///shop"}
    applied = blog.deploy()
    assert "pg_hba.conf" in applied["shop has its databases"].changes["postgres"]
    assert int(psql(shop, "till", COUNT, environment={"PGUSER": "clerk"}).stdout) > 15
    assert psql(shop, "till", COUNT, "blog", environment={"PGUSER": "clerk"}, check=False).returncode != 0
    assert shop.get().status_code == 200 and not blog.apply().changed


def renewed(site: Site, *, by) -> tuple[str, str]:
    """The password of a site before and after it was renewed, under a load of pages that read the database."""
    file = f"{site.root}/secrets/database.default"
    before = site.host.read(file)
    with Load(f"http://{site.host.address}/", site.domain, 4, pause=0.08) as load:
        load.wait(20)
        by()
        load.wait(20)
    assert not load.failed and len(load.answers) > 40
    assert not site.host.apply().changed and site.get().status_code == 200
    return before, site.host.read(file)


@pytest.mark.full
def test_postgresql_password_rotation_loses_no_request(blog):
    over_tcp = {**POSTGRES, "host": "localhost", "manage": True}
    verb = "django.rotate_database_password"
    blog.deploy(database=over_tcp)
    for user in ("blog", "blog_2"):
        former = blog.host.read(f"{blog.root}/secrets/database.default.user")
        old, new = renewed(blog, by=lambda: blog.host.call(verb, "blog"))
        assert former != user == blog.host.read(f"{blog.root}/secrets/database.default.user") and old != new
        for login, password, code in ((former, old, 2), (user, old, 2), (user, new, 0)):
            argv = ["psql", "-tAc", COUNT, f"postgres://{login}:{password}@127.0.0.1/blog"]
            assert blog.host.run(argv, check=False).returncode == code, login
    renewed(blog, by=lambda: blog.deploy(database={**over_tcp, "password": "of the pillar"}))
    blog.host.call("django.rollback", "blog")
    assert blog.get().status_code == 200
    blog.deploy(database={**over_tcp, "password": "of the pillar", "user": "other"})
    blog.host.call("django.rollback", "blog")
    assert blog.get().status_code == 200
    blog.host.call("django.backup", "blog")
    blog.host.call("django.restore", "blog")
    assert blog.get().status_code == 200 and not blog.apply().changed


@pytest.mark.full
def test_mariadb_password_rotation_loses_no_request(blog, shop):
    before = dict(shop.options["databases"])
    replaced = f"postgres:///{before['default'].get('name', 'shop')}"
    cashier = {**MARIADB, "user": "cashier", "host": "localhost", "manage": True, "replaces": replaced}
    shop.deploy(databases={**before, "default": cashier})
    old, new = renewed(shop, by=lambda: shop.host.call("django.rotate_database_password", "shop"))
    for password, code in ((old, 1), (new, 0)):
        argv = ["mariadb", "--user=cashier", f"--password={password}", "-e", COUNT, "shop"]
        assert shop.host.run(argv, check=False).returncode == code
    shop.deploy(databases=before)
    shop.host.call("django.backup", "shop")
    assert shop.host.call("django.restore", "shop")["kept"].keys() == {"default", "metrics"}
    assert shop.get().status_code == 200 and not shop.apply().changed


@pytest.mark.full
def test_extension_is_created_by_the_superuser_and_restored(blog):
    extensions = "SELECT string_agg(extname || ' of ' || extowner::regrole, ', ' ORDER BY extname) FROM pg_extension"
    role = psql(blog, "blog", "SELECT current_user").stdout.strip()
    refused = psql(blog, "blog", "CREATE EXTENSION pg_buffercache", check=False)
    assert "permission denied to create extension" in refused.stderr
    applied = blog.deploy(database={**blog.options["database"], "extensions": ["pg_buffercache"]})
    assert "extension pg_buffercache of blog" in applied["blog has its databases"].changes["postgres"]
    assert not blog.apply().changed
    psql(blog, "blog", "CREATE TABLE kept AS SELECT 42 AS answer")
    (backup,) = blog.host.call("django.backup", "blog")["made"]
    psql(blog, "blog", "DROP TABLE kept")
    blog.host.call("django.restore", "blog", backup.rpartition("/")[2])
    assert psql(blog, "blog", "SELECT answer FROM kept").stdout.strip() == "42"
    found = psql(blog, "blog", extensions).stdout.strip()
    assert found == "pg_buffercache of postgres, plpgsql of postgres" and role != "postgres"
    assert blog.get().status_code == 200


@pytest.mark.full
def test_both_sites_serve_after_reboot(blog, shop):
    blog.host.restart()
    assert blog.get().status_code == shop.get().status_code == 200
    assert not blog.apply().changed


@pytest.mark.full
def test_removal_keeps_data_unless_configured(blog, shop):
    before = dumped(blog)
    blog.sites["shop"] = {"state": "absent"}
    applied = blog.deploy()
    assert applied.changed and int(psql(blog, "till", COUNT, "postgres").stdout) > 15
    blog.sites["shop"]["remove_data"] = True
    planned = blog.apply(test=True)
    gone = {"postgres database till", "postgres role clerk", "mysql database shop_metrics", "mysql user shop"}
    assert gone <= set(planned["shop is absent"].changes)
    assert gone <= set(blog.deploy()["shop is absent"].changes)
    left = psql(blog, "postgres", "SELECT datname FROM pg_database", "postgres").stdout.split()
    assert "till" not in left and "shop" not in left and {"blog", "theirs"} <= {*left}
    assert "django-formula: shop" not in blog.host.run("cat /etc/postgresql/*/main/pg_hba.conf").stdout
    assert dumped(blog) == before and blog.get().status_code == 200
    del blog.sites["shop"]
    assert not blog.apply().changed


@pytest.mark.full
def test_debian_13_without_systemd(hosts, repositories):
    host = hosts("trixie", kind="ready", init=False)
    databases = {"default": MARIADB, "metrics": {**POSTGRES, "name": "metrics"}, "log": {"engine": "sqlite"}}
    site = Site(host, repositories(host), databases=databases)
    assert site.deploy()["MariaDB runs"].result is True
    assert site.get().status_code == 200 and int(mariadb(site, "blog", COUNT).stdout) > 15
    mode = f"import sqlite3; print(*sqlite3.connect('{site.root}/database/log.sqlite3').execute('PRAGMA journal_mode'))"
    assert "wal" in host.run(["python3", "-c", mode]).stdout
    strict = site.manage(
        'shell -c "from django.db import connection as c; k = c.cursor(); '
        "k.execute('SELECT @@sql_mode'); print(k.fetchone()[0])\""
    )
    assert "STRICT_TRANS_TABLES" in strict
    assert not site.apply().changed
    host.run("service postgresql stop; service mariadb stop")
    assert {"PostgreSQL runs", "MariaDB runs"} <= set(site.deploy().changed)
    site.repository.commit(version("2.0"))
    site.deploy()
    assert site.answering["version"] == "2.0"
