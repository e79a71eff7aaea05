"""The database of a site on one of its hosts: PostgreSQL on Debian 13 and MariaDB on Debian 12, for two others."""

import json

import pytest
from fleet import STORE, Fleet, start_master, start_minions
from lab import Host

pytestmark = pytest.mark.full

MIGRATION = """
from django.db import migrations

class Migration(migrations.Migration):
    dependencies = [("guestbook", "0003_entry_hidden")]
    operations = [migrations.RunSQL("CREATE TABLE ledger (id integer)", "DROP TABLE ledger")]
"""


@pytest.fixture(scope="module", params=["postgres", "mysql"])
def fleet(module_hosts, tmp_path_factory, request) -> Fleet:
    """Two hosts and their database's, after the first apply on that and then on all, and the first deployment."""
    release = {"postgres": "trixie", "mysql": "bookworm"}[request.param]
    master, database = module_hosts(name="master"), module_hosts(release, name="db1")
    # The first one dumps the database: pg_dump of Debian 12 refuses a server of Debian 13.
    first, second = ("trixie", "bookworm") if request.param == "postgres" else ("bookworm", "trixie")
    apps = [module_hosts(first, kind="ready", name="web1"), module_hosts(second, kind="ready", name="web2")]
    start_master(master)
    start_minions(master, [*apps, database])
    fleet = Fleet(master, apps, database, tmp_path_factory.mktemp("repository"))
    fleet.engine = request.param
    fleet.configure(hosts=hosts(fleet), database={"engine": request.param})
    assert wrong(fleet.apply("db1")) == {"db1": []}
    assert wrong(fleet.apply("web*")) == {"web1": [], "web2": []}
    fleet.deploy()
    yield fleet
    for host in (master, database, *apps):
        host.remove()


def hosts(fleet: Fleet, apps: str = "web*") -> dict[str, list[str]]:
    return {apps: ["app"], fleet.database.name: ["database"]}


def on_database(fleet: Fleet) -> list[str]:
    """What an apply has changed on the host of the database."""
    return changed(fleet.apply(fleet.database.name))[fleet.database.name]


def wrong(found: dict[str, object]) -> dict[str, list[str]]:
    """What has failed in an apply, by host."""
    return {
        host: [one["comment"] for one in states.values() if one["result"] is False]
        if isinstance(states, dict)
        else [str(states)]
        for host, states in found.items()
    }


def changed(found: dict[str, object]) -> dict[str, list[str]]:
    """What an apply has changed or not done, by host."""
    return {
        host: [one["comment"] for one in states.values() if one["changes"] or one["result"] is not True]
        for host, states in found.items()
    }


def sql(fleet: Fleet, text: str) -> list[str]:
    """What the server answers its administrator."""
    client = ["runuser", "-u", "postgres", "--", "psql", "-At"] if fleet.engine == "postgres" else ["mariadb", "-N"]
    name = ["-d", "blog"] if fleet.engine == "postgres" else ["blog"]
    return fleet.database.run([*client, *name], stdin=text).stdout.split("\n")[:-1]


def login(fleet: Fleet) -> tuple[str, str]:
    """The login and the password that the first host has."""
    password = "/srv/django/blog/secrets/database.default"
    return fleet.apps[0].read(f"{password}.user"), fleet.apps[0].read(password)


def log_in(fleet: Fleet, host: Host, *, tls: bool = True, known: tuple[str, str] | None = None) -> bool:
    """Whether a host logs in with the right password, or another one."""
    user, password = known or login(fleet)
    packages = {"postgres": "postgresql-client", "mysql": "mariadb-client"}[fleet.engine]
    quiet = {"DEBIAN_FRONTEND": "noninteractive"}
    host.run(f"which psql mariadb || apt-get -qq install {packages} >/dev/null", environment=quiet, timeout=300)
    if fleet.engine == "postgres":
        connection = f"host={fleet.database.address} user={user} dbname=blog password={password}"
        argv = ["psql", f"{connection} sslmode={'require' if tls else 'disable'}", "-Atc", "SELECT 1"]
    else:
        connection = ["-h", fleet.database.address, "-u", user, f"-p{password}", "blog"]
        argv = [
            "mariadb",
            *([] if tls else ["--skip-ssl"]),
            "--skip-ssl-verify-server-cert",
            *connection,
            "-Ne",
            "SELECT 1",
        ]
    return host.run(argv, check=False).stdout.strip() == "1"


def connections(fleet: Fleet) -> set[str]:
    """The addresses of other hosts that are connected, each of which has to use TLS."""
    if fleet.engine == "postgres":
        text = "SELECT client_addr || ' ' || ssl FROM pg_stat_activity JOIN pg_stat_ssl USING (pid) "
        found = sql(fleet, text + "WHERE usename = 'blog'")
        assert all(one.endswith(" true") for one in found), found
        return {one.partition("/")[0].split()[0] for one in found}
    # Each of its accounts requires TLS; its list of connections has names of DNS.
    open_ = "ss -Htn state established sport = :3306 | awk '{print $4}' | cut -d: -f1"
    return {*fleet.database.run(open_).stdout.split()}


def pages(fleet: Fleet) -> list[int]:
    """The status of a page that reads the database, on each host."""
    return [host.http("/", "blog.example.org").status_code for host in fleet.apps]


def test_pages_read_the_database_over_tls(fleet):
    assert pages(fleet) == [200, 200]
    assert connections(fleet) == {host.address for host in fleet.apps}


def test_an_apply_changes_nothing(fleet):
    assert [*changed(fleet.apply("*")).values()] == [[], [], []]


def test_no_other_host_logs_in_with_the_right_password_and_none_without_tls(fleet):
    assert log_in(fleet, fleet.apps[0])
    assert not log_in(fleet, fleet.apps[0], tls=False)
    assert not log_in(fleet, fleet.master)


def test_the_password_is_on_the_hosts_that_use_it_alone(fleet):
    password = fleet.apps[0].read("/srv/django/blog/secrets/database.default")
    found = fleet.database.run(["grep", "-rlF", password, "/srv", "/var", "/etc", "/root"], check=False).stdout
    assert len(password) == 40 and found == ""
    jobs = fleet.master.run(["grep", "-rlF", password, "/var/cache/salt/master/jobs"], check=False)
    assert jobs.stdout == ""


def test_a_deployment_migrates_the_database_over_the_network_with_a_backup(fleet):
    fleet.repository.commit({"guestbook/migrations/0004_ledger.py": MIGRATION})
    fleet.deploy()
    assert sql(fleet, "SELECT count(*) FROM ledger") == ["0"] and pages(fleet) == [200, 200]
    backups = fleet.apps[0].run("ls /srv/django/blog/backups").stdout
    assert "default-" in backups, backups


def test_a_host_that_leaves_is_let_in_no_more_until_it_returns(fleet):
    fleet.configure(hosts=hosts(fleet, "web1"))
    assert len(on_database(fleet)) == 1
    assert connections(fleet) <= {fleet.apps[0].address} and not log_in(fleet, fleet.apps[1])
    assert pages(fleet)[0] == 200
    fleet.configure(hosts=hosts(fleet))
    assert len(on_database(fleet)) == 1
    assert pages(fleet) == [200, 200]


def test_a_new_certificate_takes_applies_and_no_release(fleet):
    before = fleet.live()
    kept = f"{STORE}/.certificates/{fleet.database.name}/{fleet.database.address}"
    fleet.master.run(["mv", f"{kept}.pem", f"{kept}.former.pem"])
    assert wrong(fleet.apply("web*")) == {"web1": [], "web2": []}
    assert log_in(fleet, fleet.apps[0]) and pages(fleet) == [200, 200], "the former one is trusted too"
    assert len(on_database(fleet)) == 1
    fleet.master.run(["rm", f"{kept}.former.pem"])
    assert [*wrong(fleet.apply("*")).values()] == [[], [], []]
    served = fleet.database.read(f"/var/lib/django-formula/databases/{fleet.engine}.crt")
    trusted = fleet.apps[0].read("/srv/django/blog/secrets/certificate.default")
    assert served == trusted == fleet.master.read(f"{kept}.pem").partition("-----BEGIN PRIVATE")[0]
    end_connections(fleet)
    assert pages(fleet) == [200, 200] and fleet.live() == before, "new connections trust the new certificate"


def end_connections(fleet: Fleet) -> None:
    """End all connections of the site, so that its next requests log in."""
    end = {
        "postgres": "SELECT count(pg_terminate_backend(pid)) FROM pg_stat_activity WHERE usename LIKE 'blog%'",
        "mysql": "KILL USER blog",
    }
    sql(fleet, end[fleet.engine])


@pytest.mark.parametrize("number", [1, 2])
def test_a_new_password_locks_no_host_out(fleet, number):
    kept, former = f"{STORE}/blog/secrets/database", login(fleet)
    fleet.master.run(["mv", kept, f"{kept}.former"])
    for some in (fleet.database.name, "web1", "web2"):
        assert [*wrong(fleet.apply(some)).values()] == [[]]
        end_connections(fleet)
        assert pages(fleet) == [200, 200], f"each logs in with the password that it has after the apply on {some}"
        assert log_in(fleet, fleet.apps[1], known=former)
    assert login(fleet)[1] != former[1] and (login(fleet)[0] == former[0]) is (fleet.engine == "mysql")
    fleet.master.run(["rm", f"{kept}.former"])
    assert on_database(fleet) == ["the databases for other hosts have been set up"]
    assert on_database(fleet) == []
    end_connections(fleet)
    assert (
        pages(fleet) == [200, 200] and log_in(fleet, fleet.apps[1]) and not log_in(fleet, fleet.apps[1], known=former)
    )


def test_a_host_that_loses_the_part_keeps_the_data(fleet):
    other = {"engine": fleet.engine, "host": "192.0.2.1", "name": "blog", "user": "blog", "password": "x" * 20}
    fleet.configure(hosts={"web*": ["app"], fleet.database.name: []}, database=other)
    (comment,) = on_database(fleet)
    assert "set up" in comment and not log_in(fleet, fleet.apps[0])
    assert sql(fleet, "SELECT count(*) FROM ledger") == ["0"]
    assert json.loads(fleet.database.read("/var/lib/django-formula/databases/served.json")) == {}
