"""PgBouncer on the host of a site's database: 200 clients share ten connections, and releases lose no request."""

import time

import pytest
from client import Load
from fleet import STORE, Fleet, start_master, start_minions
from lab import Host
from sites import release_of
from test_fleet_database import changed, wrong

pytestmark = pytest.mark.full

POOL = 10
MIGRATION = """
from django.db import migrations

class Migration(migrations.Migration):
    dependencies = [("guestbook", "0003_entry_hidden")]
    operations = [migrations.RunSQL("CREATE TABLE ledger AS SELECT host(inet_client_addr())", "DROP TABLE ledger")]
"""
#: A page that keeps a transaction open for as long as a slow one does.
VIEWS = """
import os
from django.db import connection, transaction
from django.http import JsonResponse

def page(request):
    with transaction.atomic(), connection.cursor() as cursor:
        cursor.execute("SELECT pg_sleep(0.05), inet_server_addr()")
        row = cursor.fetchone()
    return JsonResponse({"release": os.environ["DJANGO_RELEASE"], "socket": row[1] is None})
"""
RULES = "\nfrom guestbook import pooled\nurlpatterns.insert(0, path('pooled', pooled.page))\n"


@pytest.fixture(scope="module", params=["bookworm", "trixie"])
def fleet(module_hosts, tmp_path_factory, request) -> Fleet:
    """A host that serves and its database's, with PgBouncer 1.18 or 1.24, after the first deployment."""
    master, database = module_hosts(name="master"), module_hosts(request.param, name="db1")
    app = module_hosts(request.param, kind="ready", name="web1")
    start_master(master)
    start_minions(master, [app, database])
    fleet = Fleet(master, [app], database, tmp_path_factory.mktemp("repository"))
    fleet.repository.commit(slow_pages(fleet))
    fleet.configure(**with_pool(POOL), server={"kind": "gunicorn", "processes": 4, "threads": 50})
    fleet.configure(hosts={"web1": ["app"], "db1": ["database"]})
    assert wrong(fleet.apply("db1")) == {"db1": []}
    assert wrong(fleet.apply("web1")) == {"web1": []}
    fleet.deploy()
    yield fleet
    for host in (master, database, app):
        host.remove()


def slow_pages(fleet: Fleet) -> dict[str, str]:
    """The example project, with a page that takes its time in a transaction."""
    urls = "website/urls.py"
    text = (fleet.repository.worktree / urls).read_text()
    return {urls: text + RULES, "guestbook/pooled.py": VIEWS}


def with_pool(number: int | None) -> dict[str, object]:
    return {"database": {"engine": "postgres", **({"pool": number} if number else {})}}


def on_database(fleet: Fleet) -> list[str]:
    """What an apply has changed on the host of the database."""
    return changed(fleet.apply("db1"))["db1"]


def sql(fleet: Fleet, text: str) -> list[str]:
    """What PostgreSQL answers its administrator."""
    argv = ["runuser", "-u", "postgres", "--", "psql", "-At", "-d", "blog"]
    return fleet.database.run(argv, stdin=text).stdout.split("\n")[:-1]


def console(fleet: Fleet, query: str) -> list[list[str]]:
    """What PgBouncer answers its own user."""
    where = ["-h", "/run/django-pgbouncer", "-p", "6432", "-U", "pgbouncer", "pgbouncer"]
    found = fleet.database.run(["runuser", "-u", "_django-pool", "--", "psql", "-At", *where, "-c", query]).stdout
    return [line.split("|") for line in found.splitlines()]


def servers(fleet: Fleet) -> int:
    """How many connections of PostgreSQL the site's login has over the socket, which are PgBouncer's."""
    text = "SELECT count(*) FROM pg_stat_activity WHERE usename = 'blog' AND client_addr IS NULL"
    return int(sql(fleet, text)[0])


def clients(fleet: Fleet) -> int:
    return sum(row[0] == "C" and row[2] == "blog" for row in console(fleet, "SHOW CLIENTS"))


def slow(fleet: Fleet, connections: int, **options: object) -> Load:
    """Visitors of the slow page."""
    url = f"http://{fleet.apps[0].address}/pooled"
    return Load(url, "blog.example.org", connections=connections, release=release_of, **options)  # type: ignore[arg-type]


def log_in(fleet: Fleet, host: Host, port: int, *, password: str = "", tls: bool = True, name: str = "blog") -> str:
    """What a login from a host gives: 1, or the error."""
    password = password or fleet.apps[0].read("/srv/django/blog/secrets/database.default")
    quiet = {"DEBIAN_FRONTEND": "noninteractive"}
    host.run("which psql || apt-get -qq install postgresql-client >/dev/null", environment=quiet, timeout=300)
    login = f"host={fleet.database.address} port={port} user=blog dbname={name} password={password} connect_timeout=5"
    done = host.run(["psql", f"{login} sslmode={'require' if tls else 'disable'}", "-Atc", "SELECT 1"], check=False)
    return (done.stdout + done.stderr).strip()


def test_200_clients_share_ten_connections(fleet):
    most = 0
    with slow(fleet, 200, timeout=60) as load:
        for _ in range(20):
            load.wait(100)
            most = max(most, clients(fleet))
            assert servers(fleet) <= POOL
        load.wait(200)
        assert servers(fleet) == POOL
    print(f"{len(load.answers)} requests, {len(load.failed)} failed, at most {most} clients on {POOL} connections")
    # A sample may be taken while some of the 200 have been answered and have not connected again.
    assert load.failed == [] and most > 15 * POOL
    assert int(sql(fleet, "SHOW max_connections")[0]) == 100, "as PostgreSQL has it: ten and twenty are enough"
    page = fleet.apps[0].http("/pooled", "blog.example.org").json()
    assert page["socket"], "PgBouncer logs in over the socket"


def test_an_apply_changes_nothing(fleet):
    assert [*changed(fleet.apply("*")).values()] == [[], []]


def test_no_other_host_logs_in_and_none_without_tls_or_to_another_database(fleet):
    app = fleet.apps[0]
    assert log_in(fleet, app, 6432) == "1"
    for found in (
        log_in(fleet, app, 6432, tls=False),
        log_in(fleet, app, 6432, password="wrong"),
        log_in(fleet, app, 6432, name="postgres"),
        log_in(fleet, fleet.master, 6432),
    ):
        assert "failed" in found or "FATAL" in found, found


def test_the_password_is_not_on_the_host_of_the_database(fleet):
    password = fleet.apps[0].read("/srv/django/blog/secrets/database.default")
    argv = ["grep", "-rlF", password, "/srv", "/var", "/etc", "/run", "/root"]
    assert len(password) == 40 and fleet.database.run(argv, check=False).stdout == ""


def test_debians_pgbouncer_does_not_run(fleet):
    argv = ["systemctl", "is-enabled", "pgbouncer", "django-pgbouncer"]
    assert fleet.database.run(argv, check=False).stdout.split() == ["disabled", "enabled"]
    argv = ["systemctl", "is-active", "pgbouncer", "django-pgbouncer"]
    assert fleet.database.run(argv, check=False).stdout.split() == ["inactive", "active"]


def test_a_deployment_with_a_migration_loses_no_request_and_goes_past_the_pool(fleet):
    fleet.repository.commit({"guestbook/migrations/0004_ledger.py": MIGRATION})
    with slow(fleet, 20, pause=0.5) as load:
        load.wait(50)
        fleet.deploy()
        load.wait(50)
    print(f"{len(load.answers)} requests, {len(load.failed)} failed")
    assert load.failed == [] and len(load.releases) == 2
    assert sql(fleet, "SELECT * FROM ledger") == [fleet.apps[0].address], "not PgBouncer's socket, which has none"
    assert "default-" in fleet.apps[0].run("ls /srv/django/blog/backups").stdout


def test_another_size_and_certificate_take_no_connection(fleet):
    kept = f"{STORE}/.certificates/db1/{fleet.database.address}"
    before = main_process(fleet)
    with slow(fleet, 20, pause=0.5) as load:
        load.wait(50)
        fleet.configure(**with_pool(5))
        assert len(on_database(fleet)) == 1
        load.wait(50)
        fleet.master.run(["mv", f"{kept}.pem", f"{kept}.former.pem"])
        assert wrong(fleet.apply("web1")) == {"web1": []}
        assert len(on_database(fleet)) == 1
        load.wait(50)
    assert load.failed == [] and main_process(fleet) == before
    fleet.master.run(["rm", f"{kept}.former.pem"])
    assert wrong(fleet.apply("web1")) == {"web1": []}
    assert log_in(fleet, fleet.apps[0], 6432) == "1"
    limit = time.monotonic() + 300
    while servers(fleet) > 5:
        assert time.monotonic() < limit, "the others end once they are idle"
        time.sleep(0.5)
    fleet.configure(**with_pool(POOL))
    assert len(on_database(fleet)) == 1


def main_process(fleet: Fleet) -> str:
    return fleet.database.run(["systemctl", "show", "--value", "-p", "MainPID", "django-pgbouncer"]).stdout.strip()


def test_the_pool_ends_once_no_host_uses_it(fleet):
    # So few that max_connections of PostgreSQL is enough, which would be restarted otherwise.
    fleet.configure(**with_pool(None), server={"kind": "gunicorn", "processes": 4, "threads": 4})
    with slow(fleet, 5, pause=0.1) as load:
        load.wait(20)
        assert on_database(fleet) == [] and clients(fleet) > 0, "the active release uses it"
        assert wrong(fleet.apply("web1")) == {"web1": []}
        load.wait(20)
        assert wrong(fleet.apply("db1")) == {"db1": []}
        load.wait(20)
        assert wrong(fleet.apply("db1")) == {"db1": []}
        load.wait(20)
    assert load.failed == [] and not fleet.apps[0].http("/pooled", "blog.example.org").json()["socket"]
    gone = fleet.database.run("systemctl is-active django-pgbouncer; ls /var/lib/django-formula/databases", check=False)
    assert gone.stdout.split()[0] == "inactive" and "pool" not in gone.stdout.split()
    assert sql(fleet, "SELECT count(*) FROM pg_hba_file_rules WHERE 'map=django-pool' = ANY (options)") == ["0"]
    assert on_database(fleet) == []
