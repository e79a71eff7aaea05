"""The upgrade of a site's cluster: what is refused, which way it goes, and what an interrupted one leads to."""

import os
import socket
import threading
from pathlib import Path

import pytest
from django_formula.database import clusters
from django_formula.database.clusters import Cluster
from django_formula.host import file
from django_formula.host.commands import DeploymentError
from django_formula.site import sites
from django_formula.verbs import upgrade_database, upgrade_hold, upgrade_plan

FORMER = Cluster("15", "main", 5432, True, Path("/var/lib/postgresql/15/main"))
SERVER = {
    "wal_level": "logical", "slots": 10, "tablespaces": 0, "replicas": 0, "subscriptions": 0, "prepared": 0,
    "archive": "",
}  # fmt: skip
DATABASE = {"owner": "blog", "comment": "Django site blog", "size": 1 << 20, "limit": -1, "collate": "C.UTF-8"}
FACTS = {"extensions": [], "tables": 3, "without_key": [], "unlogged": [], "views": [], "of_extensions": [],
         "collations": [], "large_objects": 0}  # fmt: skip


@pytest.fixture
def looked(own_host, monkeypatch):
    """Plan the upgrade of a cluster with these facts of its server, of one database, and more databases."""
    monkeypatch.setattr(upgrade_plan, "_version", lambda _former, to: to or "17")
    monkeypatch.setattr(upgrade_plan, "_packages", lambda *_arguments: ([], []))
    monkeypatch.setattr(upgrade_plan.shutil, "which", lambda *_arguments, **_options: "/usr/bin/pg_lsclusters")
    monkeypatch.setattr(upgrade_plan, "_free", lambda _former: free[0])
    monkeypatch.setattr(clusters, "clusters", lambda: [FORMER])
    monkeypatch.setattr(clusters, "remains", lambda *_names: [])
    free = [1 << 30]

    def look(server=(), facts=(), more=(), room=1 << 30):
        own = {name: {**DATABASE, "accepts": name != "template0"} for name in upgrade_plan.OWN}
        databases = {**own, "blog": {**DATABASE, "accepts": True}, **dict(more)}
        answers = {"postgres": {**SERVER, **dict(server), "databases": databases}}
        free[0] = room

        def query(_cluster, script, *, database="postgres", doing, **_variables):
            if script == upgrade_plan._SERVER:
                return answers["postgres"]
            return {**FACTS, **dict(facts)} if database == "blog" else {**FACTS, "tables": 0}

        monkeypatch.setattr(clusters, "query", query)
        return upgrade_plan.make(5432)

    return look


def test_cluster_whose_data_can_be_replicated_is_upgraded_live(looked):
    plan = looked()
    assert (plan.way, plan.version, plan.problems, plan.sizes) == ("live", "17", [], {"blog": 1 << 20})


@pytest.mark.parametrize(
    ("given", "words"),
    [
        ({"server": {"wal_level": "replica"}}, "wal_level is replica"),
        ({"server": {"slots": 2}}, "max_wal_senders is 2"),
        ({"facts": {"without_key": ["public.log"]}}, "no primary key: public.log"),
        ({"facts": {"unlogged": ["public.log"]}}, "no WAL (UNLOGGED): public.log"),
        ({"facts": {"views": ["public.sums"]}}, "materialized views, which are not replicated: public.sums"),
        ({"facts": {"of_extensions": ["public.spatial_ref_sys"]}}, "rows of an extension: public.spatial_ref_sys"),
        ({"facts": {"large_objects": 4}}, "large objects (4)"),
    ],
)
def test_cluster_that_cannot_be_replicated_is_upgraded_in_maintenance(looked, given, words):
    plan = looked(**given)
    assert plan.way == "maintenance" and words in plan.reasons[0] and plan.problems == []


@pytest.mark.parametrize(
    ("given", "words"),
    [
        ({"server": {"tablespaces": 1}}, "it has tablespaces"),
        ({"server": {"archive": "pgbackrest --stanza=main archive-push %p"}}, "archives its WAL by pgbackrest,"),
        (
            {"more": {"erp": {**DATABASE, "owner": "erp", "comment": "", "accepts": True}}},
            "database erp of erp belongs",
        ),
        ({"room": 1 << 20}, "are free"),
    ],
)
def test_upgrade_is_refused_with_the_reason(looked, given, words):
    (problem,) = looked(**given).problems
    assert words in problem
    with pytest.raises(DeploymentError, match="15 main cannot be upgraded"):
        upgrade_database._refuse(looked(**given))


@pytest.mark.parametrize(
    ("owner", "candidates", "packages", "problem"),
    [
        ("postgresql-15-postgis-3: /x", ["postgresql-17-postgis-3"], ["postgresql-17-postgis-3"], ""),
        ("postgresql-15-postgis-3: /x", [], [], "apt has no postgresql-17-postgis-3"),
        ("postgresql-15: /x", [], [], ""),
        ("our-postgis: /x", ["our-postgis"], [], "apt has no our-postgis"),
        ("", [], [], "apt has no package of it"),
    ],
    ids=["apt has it", "apt has it not", "of the server", "of no version", "of no package"],
)
def test_package_of_an_extension_is_installed_or_named(monkeypatch, owner, candidates, packages, problem):
    def run(argv, *, doing):
        if argv[0] == "apt-cache":
            return "".join(f"{name}:\n  Installed: (none)\n  Candidate: 3.5\n" for name in candidates)
        if not owner:
            raise DeploymentError(f"{doing}: no path found matching pattern")
        return owner

    monkeypatch.setattr(upgrade_plan.commands, "run", run)
    monkeypatch.setattr(upgrade_plan, "_CONTROL", "/nowhere/{}/{}.control")
    missing, problems = upgrade_plan._packages(FORMER, "17", ["postgis"])
    assert missing == ["postgresql-17", *packages]
    assert problems == ([f"the extension postgis is missing in 17: {problem}"] if problem else [])


def test_packages_of_an_extension_are_those_of_its_control_file_and_its_library(monkeypatch, tmp_path):
    """Debian's `postgis.control` is a link of alternatives, which no package owns."""
    (tmp_path / "15/lib").mkdir(parents=True)
    (tmp_path / "15/postgis-3.control").write_text("default_version = '3.3.2'\nmodule_pathname = '$libdir/postgis-3'\n")
    (tmp_path / "15/postgis.control").symlink_to(tmp_path / "15/postgis-3.control")
    owners = {"postgis-3.control": "postgresql-15-postgis-3-scripts", "postgis-3.so": "postgresql-15-postgis-3"}

    def run(argv, *, doing):
        if argv[0] == "apt-cache":
            return "".join(f"{name}:\n  Installed: (none)\n  Candidate: 3.5\n" for name in argv[2:])
        if Path(argv[-1]).name not in owners:
            raise DeploymentError(f"{doing}: no path found matching pattern")
        return f"{owners[Path(argv[-1]).name]}: {argv[-1]}\n"

    monkeypatch.setattr(upgrade_plan.commands, "run", run)
    monkeypatch.setattr(upgrade_plan, "_CONTROL", f"{tmp_path}/{{}}/{{}}.control")
    monkeypatch.setattr(upgrade_plan, "PROGRAMS", tmp_path)
    packages = ["postgresql-17", "postgresql-17-postgis-3-scripts", "postgresql-17-postgis-3"]
    assert upgrade_plan._packages(FORMER, "17", ["postgis"]) == (packages, [])


def test_cluster_that_a_package_has_made_before_is_refused_and_one_made_by_the_upgrade_is_removed(
    looked, monkeypatch, tmp_path
):
    """Older versions of postgresql-common make one next to a cluster of another version."""
    made = Cluster("17", "main", 5433, True, Path("/var/lib/postgresql/17/main"))
    plan, dropped = looked()._replace(packages=["postgresql-17"]), []
    monkeypatch.setattr(clusters, "remains", lambda *_names: [Path("/etc/postgresql/17/main")])
    (problem,) = looked().problems
    assert problem.startswith("a cluster 17 main exists already") and "pg_dropcluster --stop 17 main" in problem
    monkeypatch.setattr(upgrade_database.commands, "run", lambda *_arguments, **_options: "")
    monkeypatch.setattr(clusters, "find", lambda *_names: made)
    monkeypatch.setattr(clusters, "drop", dropped.append)
    upgrade_database._install(plan)
    assert dropped == [made]


def test_database_that_a_removed_site_has_left_is_moved_along(looked):
    left = {**DATABASE, "owner": "old", "comment": "Django site old", "accepts": True}
    assert looked(more={"old": left}).problems == []


@pytest.mark.parametrize(
    ("database", "words"),
    [
        (None, "which is no server of the formula"),
        ({"engine": "mysql"}, "MariaDB is upgraded in place by its packages"),
        ({"engine": "postgres", "host": "db1", "password": "x"}, "its administrator upgrades it"),
        ({"engine": "postgres", "manage": False}, "its administrator upgrades it"),
    ],
)
def test_sites_without_a_cluster_here_are_refused_with_the_reason(world, database, words):
    world.options = {"database": database} if database else {}
    with pytest.raises(DeploymentError, match=words):
        upgrade_plan.port_of(world.site)


@pytest.fixture
def interrupted(own_host, tmp_path, monkeypatch):
    """Settle an upgrade that was interrupted in a phase; return what was done then."""
    done = []
    monkeypatch.setattr(upgrade_database, "STATE", tmp_path / "upgrade.json")
    monkeypatch.setattr(clusters, "exchange", lambda serving, port, *_other: done.append(f"{serving} at {port}"))
    monkeypatch.setattr(clusters, "drop", lambda one: done.append(f"{one} removed"))
    monkeypatch.setattr(clusters, "remove_remains", lambda *_names: None)
    monkeypatch.setattr(clusters, "limit", lambda one, limits: done.append(f"{one} open"))
    monkeypatch.setattr(clusters, "find", lambda version, name: Cluster(version, name, 5432, True, Path("/")))
    monkeypatch.setattr(clusters, "names", lambda _cluster: ["blog"])
    monkeypatch.setattr(upgrade_database.replication, "remove", lambda one, _names: done.append(f"{one} without slots"))
    monkeypatch.setattr(upgrade_database, "_start", lambda _state: done.append("sites start"))
    monkeypatch.setattr(upgrade_database.upgrade_plan, "of_port", lambda _port: [])

    def settle(phase, held):
        state = {"former": ["15", "main"], "new": ["17", "main"], "port": 5432, "other_port": 5433, "phase": phase}
        state |= {"held": {"gone": {}} if held else {}, "limits": {"blog": -1}, "since": "2026-11-28T12:00:00Z"}
        file.write_json(upgrade_database.STATE, state, mode=0o600)
        monkeypatch.setattr(upgrade_database, "_held", lambda _state: iter(()))
        upgrade_database._settle()
        left = file.read_json(upgrade_database.STATE)
        return done, left and left["phase"]

    return settle


@pytest.mark.parametrize(
    ("phase", "held", "expected", "left"),
    [
        ("copying", False, ["17 main removed", "15 main without slots"], None),
        (
            "held",
            True,
            ["15 main at 5432", "15 main open", "sites start", "17 main removed", "15 main without slots"],
            None,
        ),
        ("done", True, ["17 main at 5432", "17 main open", "sites start"], "done"),
        ("done", False, [], "done"),
        ("returning", True, ["17 main at 5432", "17 main open", "sites start"], "done"),
        ("returned", True, ["15 main at 5432", "15 main open", "sites start"], "returned"),
    ],
)
def test_interrupted_upgrade_has_the_right_cluster_serve(interrupted, phase, held, expected, left):
    assert interrupted(phase, held) == (expected, left)


def test_killed_process_is_noticed_by_its_child(own_host, tmp_path, monkeypatch):
    """It settles what was interrupted; where the block ends by itself, it does nothing."""
    marks = tmp_path / "marks"
    monkeypatch.setattr(upgrade_database, "_settle", lambda _holders: marks.write_text("settled"))
    monkeypatch.setattr(upgrade_database.upgrade_plan, "of_port", lambda _port: [])
    for is_killed in (False, True):
        child = os.fork()
        if not child:
            with upgrade_database._guarded({"port": 5432}):
                os._exit(9) if is_killed else None
            os._exit(0)
        os.waitpid(child, 0)
        for _try in range(100 if is_killed else 1):
            if marks.exists():
                break
            threading.Event().wait(0.1)
        assert marks.exists() is is_killed


def test_requests_that_wait_are_answered_afterwards(own_host, world, monkeypatch):
    """Each with its own bytes, in both directions, however many there are."""
    site = world.site
    site.runtime.parent.mkdir(parents=True, exist_ok=True)
    monkeypatch.setattr(upgrade_hold.relay.os, "chown", lambda *_arguments: None)
    holder = upgrade_hold.Holder(site)
    clients = [socket.socket(socket.AF_UNIX) for _number in range(20)]
    for number, client in enumerate(clients):
        client.connect(str(holder.path))
        client.sendall(f"request {number}".encode())
    target = site.runtime.parent / "instance.sock"
    instance = socket.socket(socket.AF_UNIX)
    instance.bind(str(target))
    instance.listen(64)

    def answer():
        for _number in clients:
            connection, _address = instance.accept()
            with connection:
                connection.sendall(b"answer to " + connection.recv(100))

    server = threading.Thread(target=answer)
    server.start()
    holder.serve(target)
    server.join()
    assert [client.recv(100).decode() for client in clients] == [f"answer to request {n}" for n in range(20)]
    assert not holder.path.exists()
    for client in (*clients, instance):
        client.close()


def test_unknown_word_is_refused_and_no_upgrade_cannot_be_taken_back(world, own_host, monkeypatch, tmp_path):
    monkeypatch.setattr(upgrade_database, "STATE", tmp_path / "upgrade.json")
    monkeypatch.setattr(upgrade_plan, "port_of", lambda _site: 5432)
    monkeypatch.setattr(sites, "find", lambda _name: world.site)
    with pytest.raises(DeploymentError, match="can be taken back"):
        upgrade_database.back("blog")


@pytest.mark.parametrize(
    ("phase", "words"),
    [
        ("done", "the upgrade of 15 main, port 5432, to 17 main could not be taken back any more"),
        ("held", "the upgrade of 15 main, port 5432, was interrupted: salt-call django.upgrade_database blog back"),
    ],
)
def test_upgrade_of_another_cluster_of_the_host_is_left_as_it_is(
    interrupted, world, monkeypatch, tmp_path, phase, words
):
    """The site shop has its database in a cluster at port 5433."""
    interrupted("returned", False)
    state = file.read_json(upgrade_database.STATE) | {"phase": phase}
    file.write_json(upgrade_database.STATE, state, mode=0o600)
    places = {5432: [(world.site, None)], 5433: []}
    monkeypatch.setattr(upgrade_plan, "port_of", lambda _site: 5433)
    monkeypatch.setattr(upgrade_database.upgrade_plan, "of_port", places.get)
    monkeypatch.setattr(upgrade_database, "_settle", lambda: pytest.fail("another cluster was changed"))
    monkeypatch.setattr(sites, "find", lambda _name: world.site)
    with pytest.raises(DeploymentError, match="no upgrade of the cluster at port 5433 can be taken back"):
        upgrade_database.back("shop")
    with pytest.raises(DeploymentError, match=words):
        upgrade_database.upgrade("shop")
    assert file.read_json(upgrade_database.STATE) == state
