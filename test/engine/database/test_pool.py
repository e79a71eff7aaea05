"""PgBouncer between a site's database and its hosts: the pillar's options, its files, and when it is changed."""

import json

import pytest
from django_formula.container import containers
from django_formula.container.containers import Container
from django_formula.container.engine import ENGINES
from django_formula.database import pool, setup
from django_formula.database import served as database_served
from django_formula.database import server as database_server
from django_formula.database.served import Served
from django_formula.host import commands, daemons, ports
from django_formula.host.commands import DeploymentError
from django_formula.release import instances
from django_formula.site.sites import Site
from engine.database.test_served import ADDRESSES, HOSTS, PEM, VERIFIERS, errors, on, pillar, settings
from specimen import FACTS, ROOT, contract, formula_templates

POSTGRESQL = setup.SERVERS["postgres"]
POOL = {"engine": "postgres", "pool": 10}
TEMPLATES = {url: (ROOT / url.removeprefix("salt://")).read_text() for url in pool.TEMPLATES}


def test_a_database_with_a_pool_has_a_port_and_others_have_neither_option():
    config = on("web1", {"blog": pillar(database=POOL)})["sites"]["blog"]
    assert config["databases"]["default"]["pool_port"] == 6432 and config["databases"]["default"]["port"] is None
    plain = on("web1", {"blog": pillar()})["sites"]["blog"]["databases"]["default"]
    assert not {"pool", "pool_port"} & {*plain}


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        (
            {"database": {"engine": "mysql", "pool": 10}},
            "database:pool — PgBouncer is for PostgreSQL: set engine: postgres, or remove pool",
        ),
        (
            {"database": {"engine": "sqlite", "pool": 10}, "hosts": {"web1": ["app"]}},
            "database:pool — PgBouncer is for PostgreSQL: set engine: postgres, or remove pool",
        ),
        (
            {"database": {**POOL, "host": "10.9.9.9", "password": "hunter2"}, "hosts": {"web*": ["app"]}},
            "database:pool — PgBouncer is on the host with the part database, and hosts has none: remove pool",
        ),
        (
            {"database": {**POOL, "as": "environment"}},
            "database:as — commands need a connection past the pool, and a URL is the same for all: set as: settings",
        ),
        (
            {"database": {**POOL, "options": {"prepare_threshold": 3}}},
            "database:options — prepare_threshold is for a whole session, and a pool gives a transaction: remove it, "
            "or pool",
        ),
        (
            {"database": {**POOL, "settings": {"DISABLE_SERVER_SIDE_CURSORS": False}}},
            "database:settings — DISABLE_SERVER_SIDE_CURSORS has to be true with a pool: remove it",
        ),
        (
            {"database": {**POOL, "name": "a+b"}},
            "database:name — PgBouncer accepts no + in the name of a database: remove pool, or the +",
        ),
        (
            {"database": {**POOL, "name": "pgbouncer"}},
            "database:name — PgBouncer has its console under that name: choose another one, or remove pool",
        ),
        ({"database": {"engine": "postgres", "pool_port": 7000}}, "database:pool_port — has no effect without pool"),
        (
            {"database": {"engine": "postgres", "pool": 0}},
            "database:pool — expected a whole number from 1 to 1000, got 0 (number)",
        ),
    ],
)
def test_what_contradicts_a_pool_is_named(options, expected):
    assert expected in errors(**options)


def test_a_pool_for_the_same_database_twice_is_refused_and_a_way_past_it_is_not():
    two = {"default": POOL, "reports": {**POOL, "name": "blog"}}
    wrong = errors(databases=two, database=None)
    assert wrong == ["databases:reports:pool — blog has a pool as the database default already: remove one"]
    direct = {"default": POOL, "direct": {"engine": "postgres", "name": "blog", "migrate": False}}
    assert errors(databases=direct, database=None) == []


def test_pools_of_one_host_have_one_port():
    shop = pillar(database={**POOL, "pool_port": 7000}, domains=["shop.example.org"])
    found = on("db1", {"blog": pillar(database=POOL), "shop": shop})["errors"]
    assert found == [
        "django:sites:shop:database:pool_port — expected 6432, as for blog: this host has one PgBouncer for all sites"
    ]


def test_a_pool_needs_systemd_on_its_host_alone():
    sites = {"blog": pillar(database=POOL)}
    schema, platforms = contract("schema.yaml"), contract("platforms.yaml")
    from django_formula.pillar import compiler
    from specimen import GRAINS

    found = {
        host: compiler.compile({"django": {"sites": sites}}, schema, platforms, {**GRAINS, "id": host, "init": "x"})
        for host in ("web1", "db1")
    }
    assert found["web1"]["errors"] == []
    assert found["db1"]["errors"] == [
        "django:sites:blog:database:pool — PgBouncer runs as a unit of systemd, which db1 does not have: remove pool"
    ]


@pytest.mark.parametrize("processes", [2, 64])
def test_connections_are_those_of_the_pool_whatever_the_hosts_have(processes):
    server = {"kind": "uwsgi", "processes": processes}
    config = on("db1", {"blog": pillar(database=POOL, server=server)})["served"]["blog"]
    assert config["fleet"]["connections"] == 10 + 20
    mixed = {"default": POOL, "facts": {"engine": "postgres"}}
    config = on("db1", {"blog": pillar(databases=mixed, database=None, server={"kind": "uwsgi", "processes": 3})})
    assert config["served"]["blog"]["fleet"]["connections"] == 10 + 2 * (3 * 1 * 2) + 20


# The host


@pytest.fixture(autouse=True)
def host(tmp_path, monkeypatch):
    """A host with PostgreSQL and systemd, by what PgBouncer, its console and systemctl get."""

    class Played:
        def __init__(self):
            self.running, self.told, self.transactions, self.clients = None, [], 0, []
            self.texts = {"hba": "local all all peer\n", "ident": ""}

        def query(self, _database):
            files = {"hba": "/etc/pg/pg_hba.conf", "ident": "/etc/pg/pg_ident.conf"}
            return {**files, **settings(), "roles": {}, "databases": {}, "texts": self.texts, "unread": []}

        def apply(self, _database, changes):
            for path, text in [item for change in changes for item in change.files.items()]:
                self.texts = {**self.texts, "ident" if "ident" in path else "hba": text}

        def run(self, argv, **_options):
            query = argv[-1].removeprefix("--command=")
            if query == "SHOW STATS_TOTALS":
                return f"database,xact_count\nblog,{self.transactions}\n"
            if query == "SHOW CLIENTS":
                rows = [f"blog,{client},40000\n" for client in self.clients]
                return "".join(["database,addr,port\n", *rows, "pgbouncer,unix,6432\n"])
            if argv != ["systemctl", "daemon-reload"]:
                self.told.append(" ".join(argv) if argv[0] == "ss" else query)
            return ""

        def start(self, _daemon):
            self.running = 4711
            self.told.append("start")

        def stop(self, _daemon):
            self.running = None
            self.told.append("stop")

    played = Played()
    monkeypatch.setattr(database_server, "STATE", tmp_path / "databases")
    monkeypatch.setattr(database_served, "RECORD", tmp_path / "databases/served.json")
    monkeypatch.setattr(pool, "FOLDER", tmp_path / "databases/pool")
    monkeypatch.setattr(pool, "RECORD", tmp_path / "databases/pool/pools.json")
    monkeypatch.setattr(pool, "UNIT", tmp_path / "django-pgbouncer.service")
    monkeypatch.setattr(pool, "POOL_USER", "root")
    for name in ("query", "apply"):
        monkeypatch.setattr(POSTGRESQL, name, getattr(played, name))
    monkeypatch.setattr(POSTGRESQL, "apply_network", lambda _database, changes: None)
    monkeypatch.setattr(POSTGRESQL, "end_others", lambda _database: None)
    for method in ("is_installed", "is_running"):
        monkeypatch.setattr(POSTGRESQL, method, lambda: True)
    monkeypatch.setattr(ports, "bind_error", lambda host: "")
    monkeypatch.setattr(pool.socket.socket, "bind", lambda self, place: None)
    monkeypatch.setattr(commands, "run", played.run)
    monkeypatch.setattr(daemons, "pid", lambda daemon: played.running)
    monkeypatch.setattr(daemons, "is_enabled", lambda daemon: True)
    for name in ("start", "stop"):
        monkeypatch.setattr(daemons, name, getattr(played, name))
    return played


def served(**options):
    config = on("db1", {"blog": pillar(**{"database": POOL, **options})})["served"]["blog"]
    return [Served(Site(config, contract("platforms.yaml")["Debian"]), VERIFIERS, PEM, PEM)]


def serve(*, test=False, sites=None, gone=(), **options):
    """What an apply changes of PgBouncer."""
    sites = served(**options) if sites is None else sites
    return database_served.serve(sites, gone, TEMPLATES, test=test).get("pgbouncer", {})


def text(name):
    return (pool.FOLDER / name).read_text()


def test_pgbouncer_lets_in_the_hosts_of_the_site_by_tls_with_what_postgresql_knows(host):
    assert serve() == {"pool of blog": "10 connections"} and host.told[-1] == "start"
    assert "\nblog = host=/run/postgresql port=5432 dbname=blog pool_size=10\n" in text("pgbouncer.ini")
    assert "listen_addr = 10.0.0.5\nlisten_port = 6432\n" in text("pgbouncer.ini")
    assert text("users") == f'"blog" "{VERIFIERS["postgres"]}"\n'
    assert text("hba").splitlines() == [
        f'hostssl "blog" "blog" {ADDRESSES[name]}/32 scram-sha-256' for name in ("web1", "web2", "jobs1")
    ]
    assert "IPAddressAllow=localhost 10.0.0.1 10.0.0.2 10.0.0.3\n" in pool.UNIT.read_text()
    assert host.texts["hba"].splitlines()[1] == 'local "blog" "blog" peer map=django-pool'
    assert 'django-pool "_django-pool" "blog"\n' in host.texts["ident"]
    assert serve() == {} and host.told[-1] == "start"


def test_a_dry_run_changes_nothing(host):
    assert serve(test=True) == {"pool of blog": "10 connections"}
    assert host.told == [] and not pool.FOLDER.exists() and not pool.UNIT.exists()


def test_another_size_reloads_and_what_was_not_finished_is_repeated(host, monkeypatch):
    serve()
    with monkeypatch.context() as broken, pytest.raises(DeploymentError):
        broken.setattr(host, "apply", None)

        def refuse(argv, **_options):
            raise DeploymentError("reloading PgBouncer: refused")

        broken.setattr(commands, "run", refuse)
        serve(database={**POOL, "pool": 20})
    assert "pool_size=20" in text("pgbouncer.ini"), "the file was written"
    assert serve(database={**POOL, "pool": 20}) == {"pool of blog": "20 connections"}
    assert host.told[-1] == "RELOAD" and "stop" not in host.told
    assert serve(database={**POOL, "pool": 20}) == {}


def test_a_template_that_was_written_and_not_read_is_read_by_the_next_apply(host, monkeypatch):
    serve()
    url = pool.TEMPLATES[0]
    monkeypatch.setitem(TEMPLATES, url, TEMPLATES[url] + "\nlog_stats = 0\n")
    with monkeypatch.context() as broken, pytest.raises(DeploymentError):

        def refuse(argv, **_options):
            raise DeploymentError("reloading PgBouncer: killed")

        broken.setattr(commands, "run", refuse)
        serve()
    assert "log_stats" in text("pgbouncer.ini")
    assert serve() == {"configuration": "changed"} and host.told[-1] == "RELOAD"
    assert serve() == {}


def test_a_new_certificate_reloads_and_a_process_that_ended_is_started(host):
    serve()
    new = [served()[0]._replace(certificate=PEM.format("of a new one"))]
    assert serve(sites=new) == {"certificate of PgBouncer": "changed"} and host.told[-1] == "RELOAD"
    assert serve(sites=new) == {}
    host.running = None
    assert serve(sites=new) == {"PgBouncer": "started"} and host.told[-1] == "start"


def test_another_port_is_refused_while_hosts_use_it(host):
    serve()
    with pytest.raises(DeploymentError, match="PgBouncer listens on port 6432: on port 7000 the hosts that serve"):
        serve(database={**POOL, "pool_port": 7000})
    assert host.told[-1] == "start"


def test_a_port_of_another_program_is_named(host, monkeypatch):
    def taken(_self, _place):
        raise OSError(98, "Address already in use")

    monkeypatch.setattr(pool.socket.socket, "bind", taken)
    with pytest.raises(DeploymentError, match=r"cannot listen on 10\.0\.0\.5, port 6432: Address already in use"):
        serve()
    assert host.running is None and not pool.RECORD.exists()


def test_a_host_that_leaves_is_let_in_no_more_and_its_connections_end(host):
    serve()
    host.clients = ["10.0.0.1", "10.0.0.3", "2001:db8::3"]
    assert serve(hosts={**HOSTS, "jobs1": []}) == {"pool of blog": "10 connections"}
    assert "10.0.0.3" not in text("hba") and "10.0.0.3" not in pool.UNIT.read_text()
    ended = [one for one in host.told if one.startswith("ss ")]
    assert ended == [f"ss --kill --tcp --no-header dst {one} dport = :40000" for one in ("10.0.0.3", "[2001:db8::3]")]


PLAIN = {"engine": "postgres"}


def test_a_pool_that_the_pillar_no_longer_has_stays_while_hosts_use_it(host):
    serve()
    host.transactions, host.clients = 100, ["10.0.0.1"]
    assert serve(database=PLAIN) == {} and pool.leftover() == ["blog"]
    assert "peer map=django-pool" in host.texts["hba"]
    assert serve(database=PLAIN) == {}, "a host is connected"
    host.clients, host.transactions = [], 101
    assert serve(database=PLAIN) == {}, "a host has used it since"
    assert serve(database=PLAIN, test=True) == {"pool of blog": "removed"}
    assert serve(database=PLAIN) == {"pool of blog": "removed"} and host.running is None
    assert not pool.UNIT.exists() and not pool.FOLDER.exists()
    assert "django-pool" not in host.texts["hba"] + host.texts["ident"]
    assert serve(database=PLAIN) == {} and pool.leftover() == []


def test_a_pool_that_is_kept_can_be_had_again(host):
    serve()
    host.clients = ["10.0.0.1"]
    serve(database=PLAIN)
    assert serve() == {} and pool.leftover() == [] and "stop" not in host.told


def test_a_host_that_loses_the_part_has_no_pool_at_once(host):
    serve()
    host.clients = ["10.0.0.1"]
    assert serve(sites=[], gone=["blog"]) == {"pool of blog": "removed"}
    assert host.running is None and not pool.FOLDER.exists()


def test_a_site_without_a_pool_asks_nothing_of_pgbouncer(host):
    assert serve(database=PLAIN) == {} and host.told == [] and not database_served.has_pools(served(database=PLAIN))


def test_the_record_holds_no_password(host):
    serve()
    record = json.loads(pool.RECORD.read_text())
    assert record["pools"]["blog"]["verifier"] == VERIFIERS["postgres"] and "hunter2" not in json.dumps(record)


@pytest.mark.parametrize("has_pool", [True, False])
@pytest.mark.parametrize("process", ["systemd", "supervisor", "container"])
def test_servers_alone_have_the_variable_of_the_pool(make_site, process, has_pool):
    more = {"container": {}} if process == "container" else {}
    site = make_site(server={"kind": "gunicorn"}, process=process.replace("container", "systemd"), **more)
    release = site.releases / "0042-3f2a9c1b77de"
    (release / "config").mkdir(parents=True)
    if more:
        container = Container(ENGINES["podman"], "localhost/django/blog:0042-3f2a9c1b77de", "localhost/base")
        (release / "release.json").write_text(json.dumps({"container": containers.record(container)}))
    site.config["databases"]["default"] |= {"pool": 10, "pool_port": 6432} if has_pool else {}
    files = instances.configuration(site, release, FACTS, formula_templates())
    named = [name for name, text in files.items() if "DJANGO_DATABASE_POOL=1" in text]
    unit = "supervisor.sh" if process == "supervisor" else "django-blog-0042.service"
    assert named == [unit] * has_pool
