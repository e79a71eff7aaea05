"""The database of a site on one of its hosts: the configuration of each host, and what is changed on its server."""

import contextlib
import json
import socket
from pathlib import Path

import pytest
from django_formula.database import mariadb as database_mariadb
from django_formula.database import served as database_served
from django_formula.database import server as database_server
from django_formula.database import setup
from django_formula.database.served import Served
from django_formula.database.server import Network
from django_formula.host import commands, daemons, ports
from django_formula.host.commands import DeploymentError
from django_formula.pillar import compiler
from django_formula.site import sites
from django_formula.site.sites import Site
from specimen import GRAINS, contract

POSTGRESQL, MARIADB = (setup.SERVERS[name] for name in ("postgres", "mysql"))
HOSTS = {"web*": ["app"], "jobs1": ["worker"], "db1": ["database"], "lb1": ["balancer"]}
ADDRESSES = {"web1": "10.0.0.1", "web2": "10.0.0.2", "jobs1": "10.0.0.3", "db1": "10.0.0.5", "lb1": "10.0.0.9"}
PEM = "-----BEGIN CERTIFICATE-----\n{}\n"
VERIFIERS = {"postgres": "SCRAM-SHA-256$4096:aa$bb:cc", "mysql": "*14E65567ABDB5135D0CFD9A70B3032C179A49EE7"}


def pillar(**options):
    """A site with hosts, as its pillar is with what the master adds."""
    fleet = {
        "commit": "",
        "sequence": 0,
        "held": [],
        "addresses": ADDRESSES,
        "cpus": {"web1": 4, "web2": 1},
        "passwords": {"database": "hunter2", **VERIFIERS},
        "certificates": {"db1": PEM.format("of db1"), "web1": PEM.format("of web1")},
        "key": PEM.format("key"),
    }
    site = {"repository": "https://git.example.org/blog.git", "domains": ["blog.example.org"], "hosts": HOSTS}
    site |= {"schedules": {"clean": {"command": "clearsessions", "at": "daily"}}}
    site |= {"secret_key": "at-least-twenty-characters", "media": {"shared": False}, "database": {"engine": "postgres"}}
    return {**site, "fleet": fleet, **options}


def on(host, sites):
    """What a host compiles."""
    schema, platforms = contract("schema.yaml"), contract("platforms.yaml")
    return compiler.compile({"django": {"sites": sites}}, schema, platforms, {**GRAINS, "id": host})


def errors(host="web1", **options):
    return [line.removeprefix("django:sites:blog:") for line in on(host, {"blog": pillar(**options)})["errors"]]


def test_hosts_get_the_database_of_the_host_that_has_it():
    found = {host: on(host, {"blog": pillar()}) for host in ADDRESSES}
    assert [one["errors"] for one in found.values()] == [[]] * 5
    web, other = (found[host]["sites"]["blog"]["databases"]["default"] for host in ("web1", "web2"))
    file = "/srv/django/blog/secrets/certificate.default"
    assert web == other and (web["host"], web["name"], web["user"], web["manage"]) == (
        "10.0.0.5",
        "blog",
        "blog",
        False,
    )
    assert web["options"] == {"sslmode": "verify-ca", "sslrootcert": file}
    assert web["password"] == {"pillar": "django:sites:blog:fleet:passwords:database"}
    assert web["certificate"] == {"pillar": "django:sites:blog:fleet:certificates:db1"}
    assert {host: one["servers"] for host, one in found.items() if one["servers"]} == {"db1": ["postgres"]}
    assert [host for host, one in found.items() if one["served"]] == ["db1"]
    assert "hunter2" not in json.dumps(found) and "of db1" not in json.dumps(found)


def test_a_host_serves_the_site_and_has_its_database():
    found = on("web1", {"blog": pillar(hosts={"web1": ["app", "database"], "web2": ["app"]})})
    assert found["errors"] == [] and found["servers"] == ["postgres"] and [*found["served"]] == ["blog"]
    assert found["sites"]["blog"]["databases"]["default"]["host"] == "10.0.0.1", "over TLS, as the other hosts"


@pytest.mark.parametrize("given", ["fd00:0:0::5", "fd00::0005"])
def test_address_of_a_host_is_as_servers_have_it(given):
    """MariaDB and PgBouncer compare the text of an address with that of an account, or of those that may connect."""
    hosts = {"web1": {"parts": ["app"], "address": given}, "db1": ["database"]}
    fleet = {**pillar()["fleet"], "addresses": {**ADDRESSES, "db1": "::ffff:10.0.0.5"}}
    found = on("db1", {"blog": pillar(hosts=hosts, fleet=fleet)})
    places = {name: host["address"] for name, host in found["served"]["blog"]["fleet"]["hosts"].items()}
    assert found["errors"] == [] and places == {"web1": "fd00::5", "db1": "10.0.0.5"}


def test_mariadb_is_given_the_certificate_in_the_form_of_its_drivers():
    database = on("web1", {"blog": pillar(database={"engine": "mysql"})})["sites"]["blog"]["databases"]["default"]
    assert database["options"] == {"ssl": {"ca": "/srv/django/blog/secrets/certificate.default"}}


def test_databases_elsewhere_stay_where_they_are():
    other = {"engine": "postgres", "host": "10.9.9.9", "name": "facts", "user": "blog", "password": "hunter2"}
    wrong = errors(databases={"default": {"engine": "postgres"}, "facts": other}, database=None)
    assert wrong == ["databases:facts:host — a host of the site has the part database: remove host, or the part"]


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        (
            {"hosts": {**HOSTS, "db1": ["database"], "jobs1": ["database"]}},
            "hosts — expected one host with the part database, got db1, jobs1: the formula does not replicate them",
        ),
        (
            {"database": {"engine": "postgres", "host": "10.9.9.9", "password": "hunter2"}},
            "database:host — a host of the site has the part database: remove host, or the part",
        ),
        (
            {"database": {"engine": "postgres", "password": "hunter2"}},
            "database:password — the master's store generates it for the part database: remove it",
        ),
        (
            {"database": {"engine": "postgres", "user": "postgres"}},
            "database:user — postgres is reserved by the server: choose another name",
        ),
        (
            {"fleet": {**pillar()["fleet"], "addresses": {**ADDRESSES, "web2": ""}}, "hosts": {**HOSTS, "lb1": []}},
            "hosts — the address of web2 is not known to the master yet: let it apply once more, or set address",
        ),
        (
            {"fleet": {**pillar()["fleet"], "certificates": {}}},
            "hosts — db1 has the part database: its address is not known to the master yet: let it apply once more, or "
            "set address",
        ),
    ],
)
def test_what_contradicts_a_database_host_is_named(options, expected):
    assert errors(**options) == [expected]


def test_a_database_host_without_a_database_is_refused():
    sqlite = errors(database={"engine": "sqlite"})
    assert (
        "hosts:db1 — no database of the site is for it: set database: {engine: postgres}, or remove the part" in sqlite
    )


WORKERS = {"queue": {"engine": "redis", "host": "10.9.9.9"}, "workers": {"default": {"kind": "celery", "app": "blog"}}}
BEAT = {**WORKERS, "workers": {**WORKERS["workers"], "beat": {"kind": "celery_beat", "app": "blog"}}}
WITHOUT = {key: value for key, value in HOSTS.items() if key != "jobs1"}


@pytest.mark.parametrize(
    ("options", "number"),
    [
        ({"server": {"kind": "uwsgi", "processes": 3, "threads": 2}}, 2 * (3 * 2 * 2) + 20),
        ({"server": {"kind": "uwsgi"}, "hosts": {**HOSTS, "lb1": ["app"]}}, 2 * (4 + 2 + 8) + 20),  # lb1 counts as 8
        ({"server": {"kind": "uvicorn", "processes": 2}}, 2 * (2 * 20 * 2) + 20),
        ({"server": {"kind": "uwsgi", "processes": 2}, **WORKERS}, 2 * (2 + 2 + 3) + 20),
        ({"server": {"kind": "uwsgi", "processes": 2}, **BEAT}, 2 * (2 + 2 + 3 + 2) + 20),
        ({"server": {"kind": "uwsgi", "processes": 2}, **WORKERS, "hosts": WITHOUT}, 2 * (2 + 2 + 3 + 3) + 20),
    ],
)
def test_connections_are_counted_for_two_releases_of_every_host(options, number):
    assert on("db1", {"blog": pillar(**options)})["served"]["blog"]["fleet"]["connections"] == number


# The server


NETWORK = Network("127.0.0.1", "certificate", "key", 150)


@pytest.fixture(autouse=True)
def state(tmp_path, monkeypatch):
    """The formula's folder of this host."""
    monkeypatch.setattr(database_server, "STATE", tmp_path / "databases")
    monkeypatch.setattr(database_served, "RECORD", tmp_path / "databases/served.json")
    monkeypatch.setattr(database_mariadb, "CONFIG", tmp_path / "90-django-formula.cnf")
    return tmp_path


def settings(**others):
    found = {"listen_addresses": "localhost", "max_connections": "100", "ssl": "on", "ssl_key_file": "x"}
    return {"loaded": 0, "settings": {**found, "ssl_cert_file": "/etc/ssl/certs/ssl-cert-snakeoil.pem", **others}}


def test_postgresql_is_restarted_only_to_listen_elsewhere_or_for_connections(monkeypatch):
    monkeypatch.setattr(ports, "bind_error", lambda host: "gone" if host == "10.0.0.77" else "")
    network = NETWORK._replace(address="10.0.0.5")
    changes = {one.item: one for one in POSTGRESQL.network_changes(network, settings())}
    assert changes["listen_addresses"].statements == ["ALTER SYSTEM SET listen_addresses = 'localhost,10.0.0.5';"]
    assert changes["max_connections"].statements == ["ALTER SYSTEM SET max_connections = 200;"]
    assert [one.restarts for one in changes.values()] == [True, True, False]
    for there in ("*", "0.0.0.0", "localhost, 10.0.0.5"):
        found = POSTGRESQL.network_changes(network, settings(listen_addresses=there, max_connections="150"))
        assert [one.item for one in found] == ["certificate"] and not found[0].restarts
    moved, *_rest = POSTGRESQL.network_changes(network, settings(listen_addresses="localhost,10.0.0.77"))
    assert moved.statements == ["ALTER SYSTEM SET listen_addresses = 'localhost,10.0.0.5';"]


def test_an_address_that_this_host_does_not_have_is_refused():
    with pytest.raises(DeploymentError, match=r"cannot listen on 192\.0\.2\.77, its address in the pillar's hosts"):
        POSTGRESQL.network_changes(NETWORK._replace(address="192.0.2.77"), settings())


def test_a_certificate_for_other_clients_is_not_replaced():
    with pytest.raises(DeploymentError, match=r"a certificate of its own, /etc/ssl/company\.crt"):
        POSTGRESQL.network_changes(NETWORK, settings(ssl_cert_file="/etc/ssl/company.crt"))
    with pytest.raises(DeploymentError, match=r"a certificate of its own, /etc/ssl/company\.crt"):
        MARIADB.network_changes(NETWORK, {"variables": variables(certificate="/etc/ssl/company.crt")})


def variables(**others):
    found = {"bind": "127.0.0.1", "connections": "151", "tls": "DISABLED", "certificate": ""}
    return {**found, "version": "10.11.14-MariaDB-0+deb12u2", **others}


def test_mariadb_keeps_what_it_has_and_takes_connections_without_a_restart(state, monkeypatch):
    monkeypatch.setattr(ports, "bind_error", lambda host: "")
    network = NETWORK._replace(address="10.0.0.5")
    first, _certificate = MARIADB.network_changes(network, {"variables": variables()})
    text = next(iter(first.files.values()))
    assert first.restarts and "bind-address = 127.0.0.1,10.0.0.5\n" in text and "max_connections" not in text
    database_mariadb.CONFIG.write_text(text)
    now = variables(bind="127.0.0.1,10.0.0.5", tls="YES", certificate=str(state / "databases/mysql.crt"))
    assert [one.item for one in MARIADB.network_changes(network, {"variables": now})] == ["certificate"]
    more, _certificate = MARIADB.network_changes(network._replace(connections=201), {"variables": now})
    assert not more.restarts and more.statements == ["SET GLOBAL max_connections = 300;"]
    assert "bind-address = 127.0.0.1,10.0.0.5\nmax_connections = 300\n" in next(iter(more.files.values()))


def test_mariadb_reads_a_certificate_whose_apply_was_killed(state, tmp_path, monkeypatch):
    """Clients trust the former one for a while only."""
    told = []
    monkeypatch.setattr(sites, "RUNTIME", tmp_path)
    monkeypatch.setattr(database_server.file, "write", lambda path, text, **_options: Path(path).write_text(text))
    network = NETWORK._replace(address="127.0.0.1")
    _settings, certificate = MARIADB.network_changes(network, {"variables": variables()})

    def killed(*_arguments, **_options):
        raise KeyboardInterrupt

    for client in (killed, lambda _database, text, **_options: told.append(text)):
        monkeypatch.setattr(database_mariadb, "_client", client)
        (again,) = [one for one in MARIADB.network_changes(network, {"variables": variables()}) if not one.restarts]
        assert again == certificate
        with contextlib.suppress(KeyboardInterrupt):
            MARIADB.apply_network(None, [again])
    assert told == ["FLUSH SSL;"]
    assert all(one.restarts for one in MARIADB.network_changes(network, {"variables": variables()}))


@pytest.mark.parametrize("bind", ["::", "*", "0.0.0.0", ""])
def test_mariadb_that_listens_everywhere_stays_so(bind, monkeypatch):
    """Its socket on :: is for IPv4 too, so that one on an address as well would keep the server from starting."""
    monkeypatch.setattr(ports, "bind_error", lambda host: "")
    network = NETWORK._replace(address="10.0.0.5")
    first, _certificate = MARIADB.network_changes(network, {"variables": variables(bind=bind)})
    assert "bind-address" not in next(iter(first.files.values()))


def test_postgresql_on_all_addresses_of_ipv6_listens_on_one_of_ipv4_too(monkeypatch):
    monkeypatch.setattr(ports, "bind_error", lambda host: "")
    first, *_rest = POSTGRESQL.network_changes(NETWORK._replace(address="10.0.0.5"), settings(listen_addresses="::"))
    assert first.statements == ["ALTER SYSTEM SET listen_addresses = '::,10.0.0.5';"]


def test_mariadb_that_cannot_listen_on_two_addresses_is_not_told_to(monkeypatch):
    """One before 10.11, such as Ubuntu 22.04's, does not start with several addresses."""
    monkeypatch.setattr(ports, "bind_error", lambda host: "")
    network, version = NETWORK._replace(address="10.0.0.5"), "10.6.22-MariaDB-0ubuntu0.22.04.1"
    with pytest.raises(DeploymentError, match=r"^MariaDB 10\.6\.22 listens on one address or on all, here on 127\."):
        MARIADB.network_changes(network, {"variables": variables(version=version)})
    for bind in ("*", "10.0.0.5"):
        first, _certificate = MARIADB.network_changes(network, {"variables": variables(version=version, bind=bind)})
        assert "bind-address" not in next(iter(first.files.values()))


@pytest.fixture
def server(monkeypatch):
    """A server of PostgreSQL, by what it is asked and told."""

    class Played:
        def __init__(self):
            self.texts = {"hba": "local all all peer\n", "ident": ""}
            self.roles, self.databases, self.told, self.ended = {}, {}, [], []

        def query(self, _database):
            files = {"hba": "/etc/pg/pg_hba.conf", "ident": "/etc/pg/pg_ident.conf"}
            return {**files, **settings(), "roles": self.roles, "databases": self.databases, "texts": self.texts} | {
                "unread": []
            }

        def apply(self, _database, changes):
            for change in changes:
                self.told += change.statements
                for text in change.files.values():
                    self.texts = {**self.texts, "hba": text}

    played = Played()
    for name, method in (("query", played.query), ("apply", played.apply)):
        monkeypatch.setattr(POSTGRESQL, name, method)
    monkeypatch.setattr(POSTGRESQL, "apply_network", lambda _database, changes: None)
    monkeypatch.setattr(POSTGRESQL, "is_installed", lambda: True)
    monkeypatch.setattr(POSTGRESQL, "is_running", lambda: True)
    monkeypatch.setattr(POSTGRESQL, "end_others", lambda database: played.ended.append(database.clients))
    monkeypatch.setattr(ports, "bind_error", lambda host: "")
    return played


def served(**options):
    config = on("db1", {"blog": pillar(**options)})["served"]["blog"]
    return [Served(Site(config, contract("platforms.yaml")["Debian"]), VERIFIERS, PEM, PEM)]


def test_exactly_the_hosts_of_the_site_may_log_in_over_tls(server):
    found = database_served.serve(served(), [], {}, test=False)
    assert {"role blog", "database blog", "pg_hba.conf"} <= {*found["postgres"]}
    lines = [f'hostssl all "blog" 10.0.0.{number}/32 scram-sha-256' for number in (1, 2, 3)]
    assert server.texts["hba"].splitlines() == [
        "# django-formula: blog",
        *lines,
        'host all "blog" all reject',
        "# django-formula: end of blog",
        "local all all peer",
    ]
    assert f"PASSWORD '{VERIFIERS['postgres']}'" in server.told[0] and server.ended == [
        ("10.0.0.1", "10.0.0.2", "10.0.0.3")
    ]


def test_a_host_that_leaves_is_let_in_no_more_and_a_lost_part_leaves_the_data(server):
    database_served.serve(served(), [], {}, test=False)
    database_served.serve(served(hosts={**HOSTS, "jobs1": []}), [], {}, test=False)
    assert "10.0.0.3" not in server.texts["hba"] and server.ended[-1] == ("10.0.0.1", "10.0.0.2")
    told = [*server.told]
    assert database_served.serve([], ["shop"], {}, test=False) == {}
    closed = database_served.serve([], ["blog"], {}, test=False)["postgres"]
    assert closed == {"pg_hba.conf": "changed", "database blog": "closed to other hosts; data and login stay"}
    assert server.texts["hba"] == "local all all peer\n" and server.ended[-1] == ()
    assert not [one for one in server.told if "DROP" in one] and len(server.told) == len(told)
    assert database_served.serve([], ["blog"], {}, test=False) == {}


def test_the_former_server_of_a_site_that_stays_lets_no_host_in(server, monkeypatch):
    """At once, or by the first apply that finds it running; until then the new one answers for the site."""
    monkeypatch.setattr(MARIADB, "query", lambda _database: mariadb())
    for method in ("apply", "apply_network", "end_others"):
        monkeypatch.setattr(MARIADB, method, lambda *_arguments: None)
    monkeypatch.setattr(MARIADB, "network_changes", lambda _network, _state: [])
    for method in ("is_installed", "is_running"):
        monkeypatch.setattr(MARIADB, method, lambda: True)
    database_served.serve(served(), [], {}, test=False)
    new = served(database={"engine": "mysql"})
    monkeypatch.setattr(POSTGRESQL, "is_running", lambda: False)
    assert "postgres" not in database_served.serve(new, [], {}, test=False)
    assert "hostssl" in server.texts["hba"]
    assert database_served.clients("blog") == ["10.0.0.1", "10.0.0.2", "10.0.0.3"]
    monkeypatch.setattr(POSTGRESQL, "is_running", lambda: True)
    closed = database_served.serve(new, [], {}, test=False)["postgres"]
    assert closed == {"pg_hba.conf": "changed", "database blog": "closed to other hosts; data and login stay"}
    assert server.texts["hba"] == "local all all peer\n"
    assert "postgres" not in database_served.serve(new, [], {}, test=False)


def test_the_master_learns_whom_a_database_lets_in(server):
    with pytest.raises(DeploymentError, match="this host has no database of blog yet"):
        database_served.clients("blog")
    database_served.serve(served(), [], {}, test=False)
    assert database_served.clients("blog") == ["10.0.0.1", "10.0.0.2", "10.0.0.3"]


def test_a_dry_run_changes_nothing(server, state):
    found = database_served.serve(served(), [], {}, test=True)
    assert "role blog" in found["postgres"] and server.told == [] and not (state / "databases").exists()


def test_a_login_that_the_active_release_uses_is_not_changed(server, monkeypatch):
    server.roles = {"blog": {"comment": "Django site blog", "login": True, "rights": False, "verifier": "other"}}
    monkeypatch.setattr(Path, "is_symlink", lambda path: path.name == "current")
    with pytest.raises(DeploymentError, match="cannot be changed: the active release uses it"):
        database_served.serve(served(), [], {}, test=False)


def test_both_logins_of_a_pair_are_let_in_while_the_former_password_is_valid(server):
    first, second = VERIFIERS["postgres"], "SCRAM-SHA-256$4096:dd$ee:ff"
    login = {"blog": {"comment": "Django site blog", "login": True, "rights": False, "member_of": None}}
    both = pillar()
    both["fleet"] |= {"login": 2}
    config = on("db1", {"blog": both})["served"]["blog"]
    assert config["databases"]["default"]["user"] == "blog_2" and config["fleet"]["other_users"] == {"default": "blog"}
    site = Site(config, on("db1", {"blog": both})["platform"])
    one = Served(site, {"postgres": f"{second},{first}"}, "", "")
    (managed,) = [place.managed for place in database_served._places(one)]
    assert managed.users == ("blog_2", "blog") and (managed.verifier, managed.former) == (second, first)
    has = {**POSTGRESQL.empty_state(), "roles": {"blog": {**login["blog"], "verifier": first}}}
    has["databases"] = {"blog": {"owner": "blog", "comment": "Django site blog", "is_public": False, "acts_as": None}}
    changes = {change.item: change for change in POSTGRESQL.pending_changes([managed], has)}
    assert [*changes] == ["role blog_2", "membership of blog_2", "pg_hba.conf"]
    (text,) = changes["pg_hba.conf"].files.values()
    assert [line for line in text.splitlines() if "10.0.0.1/" in line or "reject" in line] == [
        'hostssl all "blog_2" 10.0.0.1/32 scram-sha-256',
        'host all "blog_2" all reject',
        'hostssl all "blog" 10.0.0.1/32 scram-sha-256',
        'host all "blog" all reject',
    ]
    after = managed._replace(former="")
    closed = {change.item: change for change in POSTGRESQL.pending_changes([after], {**has, "texts": {"hba": text}})}
    assert closed["role blog"].statements == ['ALTER ROLE "blog" PASSWORD NULL;'] and after.users == ("blog_2",)


BLOG = database_server.ManagedDatabase(
    "blog", "blog", "default", "django:sites:blog:database", "blog", "blog", verifier=VERIFIERS["mysql"],
    clients=("10.0.0.1",),
)  # fmt: skip
ACCOUNT = {"plugin": "mysql_native_password", "authentication_string": VERIFIERS["mysql"], "ssl_type": 1, "access": 0}
RIGHTS = [
    ("blog@10.0.0.1", name) for name in ("blog", *(f"blog\\_{why}\\_%" for why in ("restore", "before", "drill")))
]


def mariadb(accounts=None, rights=(), databases=None):
    return {**MARIADB.empty_state(), "zones": 1, "accounts": accounts or {}, "rights": [*rights]} | {
        "databases": databases or {"blog": "Django site blog"}
    }


def test_mariadb_has_an_account_for_each_host():
    new, grant = MARIADB.pending_changes([BLOG], mariadb())
    assert new.statements == [
        f"CREATE USER 'blog'@'10.0.0.1' IDENTIFIED VIA mysql_native_password USING '{VERIFIERS['mysql']}' REQUIRE SSL;"
    ]
    assert len(grant.statements) == 4 and "TO 'blog'@'10.0.0.1';" in grant.statements[0]
    assert MARIADB.pending_changes([BLOG], mariadb({"blog@10.0.0.1": ACCOUNT}, RIGHTS)) == []
    for wrong in ({**ACCOUNT, "ssl_type": 0}, {**ACCOUNT, "authentication_string": "*AA"}):
        (changed,) = MARIADB.pending_changes([BLOG], mariadb({"blog@10.0.0.1": wrong}, RIGHTS))
        assert changed.statements[0].startswith("ALTER USER 'blog'@'10.0.0.1'")
    both = BLOG._replace(former="*AA")
    (changed,) = MARIADB.pending_changes([both], mariadb({"blog@10.0.0.1": ACCOUNT}, RIGHTS))
    ways = f"mysql_native_password USING '{VERIFIERS['mysql']}' OR mysql_native_password USING '*AA'"
    assert changed.statements == [f"ALTER USER 'blog'@'10.0.0.1' IDENTIFIED VIA {ways} REQUIRE SSL;"]
    with pytest.raises(DeploymentError, match=r"already has a user blog@10\.0\.0\.1, and it has rights"):
        MARIADB.pending_changes([BLOG], mariadb({"blog@10.0.0.1": {**ACCOUNT, "access": 1}}))


def test_an_account_of_a_host_that_left_is_dropped_with_its_connections(monkeypatch):
    monkeypatch.setattr(socket, "getnameinfo", lambda place, flags: ("web8.example.org", "0"))
    accounts = {"blog@10.0.0.1": ACCOUNT, "blog@10.0.0.8": ACCOUNT, "shop@10.0.0.8": ACCOUNT}
    rights = [*RIGHTS, ("blog@10.0.0.8", "blog"), ("shop@10.0.0.8", "blog"), ("blog@10.0.0.8", "other")]
    (dropped,) = MARIADB.pending_changes([BLOG], mariadb(accounts, rights))
    assert dropped.statements == [
        "DROP USER 'blog'@'10.0.0.8';",
        "KILL USER 'blog'@'10.0.0.8';",
        "KILL USER 'blog'@'web8.example.org';",
    ]
    closed = MARIADB.closing_changes(BLOG, mariadb(accounts, rights))
    assert [one.item for one in closed] == ["user blog@10.0.0.1", "user blog@10.0.0.8"]


def test_a_certificate_is_read_by_the_server_alone_and_loaded_without_a_restart(state, monkeypatch):
    written, ran = {}, []
    monkeypatch.setattr(
        database_server.file,
        "write",
        lambda path, text, **options: written.update({path.name: (text, options)}),
    )
    monkeypatch.setattr(database_server.folders, "make", lambda folder: None)
    monkeypatch.setattr(commands, "run", lambda argv, stdin="", **options: ran.append(stdin) or "")
    monkeypatch.setattr(daemons, "restart", lambda daemon: ran.append("restart"))
    changes = POSTGRESQL.network_changes(NETWORK, settings(listen_addresses="*", max_connections="500"))
    POSTGRESQL.apply_network(BLOG, changes)
    assert written["postgres.key"] == ("key", {"mode": 0o600, "user": "postgres", "group": "postgres"})
    assert "pg_reload_conf()" in ran[-1] and "restart" not in ran
