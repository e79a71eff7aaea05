"""The table of database engines: what it says of each, and that everything that has a row per engine follows it."""

import re

import pytest
import yaml
from django_formula.backup import backups, postgres
from django_formula.database import clusters, engines, replication, setup
from django_formula.database.engines import ENGINES, SERVERS
from django_formula.pillar import compiler, states
from specimen import ROOT, contract

SCHEMA = yaml.safe_load((ROOT / "django/schema.yaml").read_text())
PLATFORMS = yaml.safe_load((ROOT / "django/platforms.yaml").read_text())


def engine_enums(rules):
    """Yield the values that the pillar accepts as the engine of a database."""
    if isinstance(rules, dict):
        if isinstance(rules.get("engine"), dict) and "enum" in rules["engine"]:
            yield rules["engine"]["enum"]
        for value in rules.values():
            yield from engine_enums(value)


def test_pillar_accepts_every_engine():
    (enum,) = engine_enums(SCHEMA["$defs"]["database"])
    assert {*enum} - {None} == {*ENGINES}


def test_every_server_is_set_up_and_every_engine_backed_up():
    assert {*setup.SERVERS} == {*SERVERS}
    assert {*backups.KINDS} == {*ENGINES, *backups.ON_REQUEST}


@pytest.mark.parametrize("script", [postgres._CLOSE, clusters._END, replication._DROP_SLOTS])
def test_sessions_are_ended_on_versions_of_postgresql_without_a_timeout_too(script):
    """PostgreSQL 13 and older have `pg_terminate_backend` with one argument alone."""
    assert "pg_terminate_backend(" in script and re.findall(r"pg_terminate_backend\([^)]*,", script) == []
    assert "server_version_num')::int >= 140000 THEN ', 5000'" in script


def test_autovacuum_which_only_a_superuser_may_end_prevents_no_restore():
    assert "usesysid IS NOT NULL" in postgres._CLOSE


@pytest.mark.parametrize("name", SERVERS)
def test_every_server_has_its_packages_and_its_state(name):
    packages = PLATFORMS["Debian"]["packages"]
    assert SERVERS[name].client_package in packages[name] and packages[f"{name}_server"]
    assert f"{SERVERS[name].title} runs:" in (ROOT / f"django/{name}.sls").read_text()
    assert states.SERVERS[name] == f"{SERVERS[name].title} runs"
    assert SERVERS[name].client_package in states.CLIENTS


@pytest.mark.parametrize(
    ("options", "has_zstd"),
    [
        ({}, False),
        ({"packages": ["ffmpeg", "openssh-client"]}, False),
        ({"packages": ["postgresql-client-16"]}, True),
        ({"packages": ["default-mysql-client"]}, True),
        *(({"database": {"engine": name}}, True) for name in SERVERS),
    ],
)
def test_zstd_is_installed_with_clients_of_servers(options, has_zstd):
    site = {"repository": "https://git.example.org/blog.git", "domains": ["blog.example.org"], **options}
    grains = {"os_family": "Debian", "osmajorrelease": 12, "init": "systemd", "os": "Debian"}
    compiled = compiler.compile(
        {"django": {"sites": {"blog": site}}}, contract("schema.yaml"), contract("platforms.yaml"), grains
    )
    assert compiled["errors"] == []
    parts = states.parts(compiled, grains, contract("pythons.yaml"))
    (arguments,) = parts["host"][states.PACKAGES].values()
    assert ("zstd" in next(one["pkgs"] for one in arguments if "pkgs" in one)) == has_zstd


@pytest.mark.parametrize(
    ("backend", "name"),
    [
        ("django.db.backends.sqlite3", "sqlite"),
        ("django.contrib.gis.db.backends.spatialite", "sqlite"),
        ("django.db.backends.postgresql", "postgres"),
        ("django.contrib.gis.db.backends.postgis", "postgres"),
        ("django_prometheus.db.backends.mysql", "mysql"),
        ("mysql.connector.django", "mysql"),
        ("django.db.backends.oracle", None),
    ],
)
def test_engine_is_found_by_the_backend_of_django(backend, name):
    engine = engines.find(backend)
    assert (engine and engine.name) == name


@pytest.mark.parametrize("engine", ENGINES.values(), ids=lambda engine: engine.name)
def test_own_backend_belongs_to_one_engine(engine):
    assert [one for one in ENGINES.values() if one.is_backend(engine.backend)] == [engine]
