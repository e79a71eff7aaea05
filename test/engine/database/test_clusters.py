"""Clusters of PostgreSQL: what was written between two looks, and which one serves after an exchange."""

from pathlib import Path

import pytest
from django_formula.database import clusters, replication
from django_formula.database.clusters import Cluster
from django_formula.host.commands import DeploymentError

LINES = {
    "15 main": "15 main 5432 online postgres /var/lib/postgresql/15/main /var/log/15.log",
    "17 main": "17 main 5433 down   postgres /var/lib/postgresql/17/main /var/log/17.log",
}
FORMER, NEW = (Cluster(version, "main", 0, False, Path("/")) for version in ("15", "17"))


@pytest.fixture
def host(own_host, monkeypatch):
    """A host with these lines of pg_lsclusters; it keeps the commands that change something."""
    lines, done = {**LINES}, []

    def run(argv, **options):
        if argv[0] == "pg_lsclusters":
            return "\n".join(lines.values())
        done.append(" ".join([*argv[:3], argv[-1]] if argv[0] == "pg_conftool" else argv[:1] + argv[-1:]))
        done[-1] += f" {options['stdin'].strip()}" if options.get("stdin") else ""
        return ""

    monkeypatch.setattr(clusters.commands, "run", run)
    monkeypatch.setattr(
        clusters.units, "control", lambda verb, *names, **_options: done.append(f"{verb} {' '.join(names)}")
    )
    monkeypatch.setattr(clusters.units, "attempt", lambda *_arguments, **_options: None)
    return lines, done


def test_exchange_stops_both_before_it_changes_ports_and_starts_one(host):
    _lines, done = host
    clusters.exchange(NEW, 5432, FORMER, 5433)
    assert done == [
        "stop postgresql@17-main.service postgresql@15-main.service",
        "pg_conftool 15 main 5433",
        "sh /etc/postgresql/15/main/start.conf manual",
        "pg_conftool 17 main 5432",
        "sh /etc/postgresql/17/main/start.conf auto",
        "start postgresql@17-main.service",
    ]


def test_exchange_leaves_a_cluster_running_that_serves_already(host):
    lines, done = host
    clusters.exchange(FORMER, 5432, NEW, 5433)
    assert not [line for line in done if "stop" in line and "@15" in line]
    assert done[-1] == "start postgresql@15-main.service"  # systemd may be about to stop it
    assert "sh /etc/postgresql/15/main/start.conf auto" in done and "stop postgresql@17-main.service" in done
    del lines["17 main"]
    done.clear()
    clusters.exchange(FORMER, 5432, NEW, 5433)
    assert done[:2] == ["pg_conftool 15 main 5432", "sh /etc/postgresql/15/main/start.conf auto"] and len(done) == 3


@pytest.fixture
def plain(host, monkeypatch):
    """The same without systemd, where what does not run cannot be stopped."""
    monkeypatch.setattr(clusters.daemons, "has_systemd", lambda: False)
    lines, done = host
    run = clusters.commands.run

    def control(argv, **options):
        if argv[0] != "pg_ctlcluster":
            return run(argv, **options)
        name, state = " ".join(argv[1:3]), "down  " if argv[3] == "stop" else "online"
        assert options["daemon"] and (argv[3] == "start" or "online" in lines[name])
        done.append(" ".join(argv))
        lines[name] = lines[name].replace("online", state).replace("down  ", state)
        return ""

    monkeypatch.setattr(clusters.commands, "run", control)
    return lines, done


def test_exchange_without_systemd_is_the_same_by_the_clusters_own_program(plain):
    _lines, done = plain
    clusters.exchange(NEW, 5432, FORMER, 5433)
    assert done == [
        "pg_ctlcluster 15 main stop",
        "pg_conftool 15 main 5433",
        "sh /etc/postgresql/15/main/start.conf manual",
        "pg_conftool 17 main 5432",
        "sh /etc/postgresql/17/main/start.conf auto",
        "pg_ctlcluster 17 main start",
    ]
    done.clear()
    clusters.exchange(FORMER, 5432, NEW, 5433)
    assert done[0] == "pg_ctlcluster 17 main stop" and done[-1] == "pg_ctlcluster 15 main start" and len(done) == 6


def test_cluster_that_serves_already_is_not_stopped_without_systemd(plain, monkeypatch):
    """Its program fails to start one that runs, which is no failure of the exchange."""
    _lines, done = plain
    run = clusters.commands.run

    def refuse(argv, **options):
        if argv == ["pg_ctlcluster", "15", "main", "start"]:
            raise DeploymentError("starting PostgreSQL 15 main failed (exit 2)", log="already running")
        return run(argv, **options)

    monkeypatch.setattr(clusters.commands, "run", refuse)
    clusters.exchange(FORMER, 5432, NEW, 5433)
    assert not [line for line in done if "stop" in line]


def test_clusters_are_read_with_their_state(host):
    former, new = clusters.clusters()
    assert (former.port, former.is_running, str(former)) == (5432, True, "15 main") and not new.is_running
    assert clusters.find("17", "main") == new and clusters.find("17", "other") is None
    assert former.program("pg_dump") == "/usr/lib/postgresql/15/bin/pg_dump"


def test_what_was_written_is_named_by_table():
    before = {"blog": {"public.entry": [10, 0, 0], "public.session": [1, 0, 0]}}
    assert clusters.written(before, before) == []
    now = {"blog": {"public.entry": [12, 1, 0], "public.session": [1, 0, 0], "pg_catalog.pg_class": [2, 0, 0]}}
    assert clusters.written(before, now) == [
        "blog: tables or indexes themselves: 2 inserted",
        "blog: public.entry: 2 inserted, 1 changed",
    ]


def test_writes_are_not_known_where_the_server_was_killed():
    """It begins to count anew then, also where the counts are small again."""
    found = clusters.written({"blog": {"public.entry": [10, 0, 0]}}, {"blog": {"public.entry": [1, 0, 0]}})
    assert found == ["blog: not known, since the server was killed meanwhile"]


def test_settings_of_extensions_are_known_to_each_version(monkeypatch):
    rows = {"port": "5432", "max_connections": "100", "old_snapshot_threshold": "-1", "pg_stat_statements.max": "100"}
    monkeypatch.setattr(clusters, "query", lambda *_arguments, **_options: rows)
    monkeypatch.setattr(clusters.commands, "run", lambda *_arguments, **_options: "max_connections\tpostmaster\nport\t")
    assert clusters.unknown_settings(FORMER, "17") == ["old_snapshot_threshold"]


def test_settings_are_copied_as_the_former_cluster_reads_them(host, monkeypatch):
    """What is between quotes in postgresql.conf has escapes; PostgreSQL shows the value without them."""
    _lines, done = host
    rows = {"archive_command": r"sed 's/\./_/' %p", "log_line_prefix": "a\nb\t"}
    made_of = {"encoding": "UTF8", "collate": "C.UTF-8", "ctype": "C.UTF-8", "checksums": False}
    answers = iter([made_of, rows])
    monkeypatch.setattr(clusters, "query", lambda *_arguments, **_options: next(answers))
    run = clusters.commands.run
    names = "".join(f"{name}\tsighup\n" for name in rows)
    monkeypatch.setattr(
        clusters.commands, "run", lambda argv, **options: names if "--describe-config" in argv else run(argv, **options)
    )
    clusters.create(FORMER, "17", "main", 5433)
    (written,) = [line for line in done if "former-settings.conf" in line]
    assert r"archive_command = 'sed ''s/\\./_/'' %p'" in written.splitlines()
    assert "log_line_prefix = 'a\\nb\t'" in written.splitlines()


NAMES = [
    ("shop", "dbname='shop'"),
    ("host=db.example.org dbname=x", "dbname='host=db.example.org dbname=x'"),
    ("postgresql://db.example.org/x", "dbname='postgresql://db.example.org/x'"),
    ("x' host='db.example.org", r"dbname='x\' host=\'db.example.org'"),
    ("a\\", r"dbname='a\\'"),
]


@pytest.mark.parametrize(("name", "connection"), NAMES)
def test_no_name_of_a_database_is_read_as_a_connection(monkeypatch, name, connection):
    """A site's login may create databases of any name, and the superuser would connect where that says."""
    asked = []
    monkeypatch.setattr(clusters.commands, "run", lambda argv, **_options: asked.append(argv) or "0")
    replication.copy(FORMER._replace(port=5432), NEW._replace(port=5433), [name])
    (copy,) = [argv for argv in asked if argv[0] == "bash"]
    assert copy[7] == connection and '--dbname="$4"' in copy[2]
    assert {argv[7] for argv in asked if argv != copy} == {"--dbname=dbname='postgres'", f"--dbname={connection}"}
    (subscribing,) = [argv for argv in asked if any(word.startswith("--set=slot=") for word in argv)]
    assert f"--set=connection=port=5432 user=postgres {connection}" in subscribing
