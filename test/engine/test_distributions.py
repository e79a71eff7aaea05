"""A site while its distribution is upgraded in place: Debian 12 to 13, as test/hosts does it too, and Ubuntu."""

import configparser
import os
from typing import Any

import pytest
from distributions import UPGRADES, platform
from django_formula.host import commands, distribution, packages
from django_formula.host.commands import DeploymentError
from django_formula.process import systemd, transient
from django_formula.release import disk, releases
from django_formula.verbs import operations, status, upgrade, upgrade_plan
from django_formula.virtualenv import kept
from trees import write_tree

Upgrade = dict[str, Any]
OWN_SHM = "TemporaryFileSystem=/dev/shm:mode=1777,size=50%\n"


@pytest.fixture(params=UPGRADES)
def one(own_host, request: pytest.FixtureRequest, monkeypatch, tmp_path) -> Upgrade:
    """An upgrade, on a host that is before it."""
    found = UPGRADES[request.param]
    (tmp_path / "os-release").write_text(found["os_release"].replace(", ", "\n"))
    monkeypatch.setattr(distribution, "_RELEASE", tmp_path / "os-release")
    monkeypatch.setattr(distribution, "_CLUSTERS", tmp_path / "postgresql")
    if found["has_upgrader"]:
        kept.UPGRADER.parents[1].mkdir(parents=True)
    return found


@pytest.fixture
def refused(monkeypatch):
    """Has an entry once systemd, in a container, starts no unit any more that has a file system of its own."""
    run, found = systemd.commands.run, []

    def refuse(argv, **options):
        if found and argv[0] == "systemd-run" and any("TemporaryFileSystem=/dev/shm" in text for text in argv):
            raise DeploymentError("x failed (exit 226)")
        return run(argv, **options)

    monkeypatch.setattr(systemd.commands, "run", refuse)
    return found


def test_site_goes_on_with_the_former_python_until_an_apply(one, world, refused, monkeypatch, tmp_path):
    before, after = one["python"]
    world.python = before
    world.apply()
    first, unit = world.live, systemd.UNITS / "django-blog-0001.service"
    assert world.apply() == {} and OWN_SHM in unit.read_text()
    world.python = after
    refused.append("systemd")
    monkeypatch.setattr(transient, "PROGRAM", tmp_path / "os-release")
    series = after.rpartition(".")[0]
    assert world.running and status.status(world.site)["interpreter"] == f"python3 is {after}, and {first} has {before}"
    assert world.apply(test=True)["source"]["python"] == {"old": before, "new": after}
    assert world.apply()["source"]["python"] == {"old": before, "new": after}
    assert world.live == f"0002{first[4:]}" and world.apply() == {}
    world.check()
    assert OWN_SHM not in (systemd.UNITS / "django-blog-0002.service").read_text()
    operations.rollback("blog")
    assert world.live == first and OWN_SHM not in unit.read_text(), "the former release starts under the new systemd"
    world.check()
    live = releases.linked(world.site, world.site.current)
    assert disk.interpreter_problem(live) == f"python3 is {after}, and {first} has {before}" and series in after


def test_interpreter_stays_as_long_as_a_release_has_it(one, make_site, monkeypatch):
    """Ubuntu's own program removes what its new release does not have, also what apt keeps."""
    owners = one["packages"]

    def run(argv, doing):
        if argv[-1] not in owners:
            raise DeploymentError("dpkg-query failed (exit 1)")
        return f"diversion by x from: {argv[-1]}\n{owners[argv[-1]]}: {argv[-1]}\n"

    monkeypatch.setattr(commands, "run", run)
    site = make_site()
    site.register()
    path, name = next(iter(owners)), os.path.basename(next(iter(owners)))
    others = {"debian": path, "own": "/usr/local/bin/python3.13", "gone": "/usr/bin/python3.9"}
    real = {str(site.virtualenvs / f"{key}/bin/python"): value for key, value in others.items()}
    link = kept.sites.REGISTRY / "blog"
    monkeypatch.setattr(os.path, "realpath", lambda path: real.get(str(path).replace(str(link), str(site.root)), path))
    monkeypatch.setattr(os.path, "exists", lambda path: path in owners)
    for key in others:
        write_tree(site.virtualenvs / key, {"bin/python": ""})
    assert kept.changes() == {path: "kept"} == kept.not_kept(site.virtualenvs / "debian")
    assert kept.not_kept(site.virtualenvs / "own") == {}
    kept.apply()
    version = name.removeprefix("python").replace(".", r"\.")
    patterns = [f'"^{text}{version}-{part}$";' for text, part in PARTS]
    assert kept.CONFIGURATION.read_text().splitlines()[1:] == [
        f"// {path}",
        f"APT::NeverAutoRemove {{ {' '.join(patterns)} }};",
    ]
    assert kept.changes() == {} == kept.not_kept(site.virtualenvs / "debian")
    if one["has_upgrader"]:
        parser = configparser.ConfigParser()
        parser.read(kept.UPGRADER)
        assert parser.getboolean("Distro", "RemoveObsoletes") is False
        kept.UPGRADER.unlink()
        assert kept.changes() == {path: "kept"} == kept.not_kept(site.virtualenvs / "debian")
        kept.apply()
        assert kept.changes() == {}
    assert kept.UPGRADER.is_file() is one["has_upgrader"]
    (site.virtualenvs / "debian").rename(site.root / "gone")
    assert kept.changes() == {path: "kept no longer"}
    kept.apply()
    assert not kept.CONFIGURATION.is_file() and not kept.UPGRADER.is_file() and kept.changes() == {}


PARTS = (("libpython", "minimal"), ("libpython", "stdlib"), ("python", "minimal"))


@pytest.mark.parametrize("of_project", [False, True])
def test_clusters_of_postgres_stay(one, world, monkeypatch, tmp_path, of_project):
    before, after = one["postgres"]
    for version in one["postgres"]:
        (tmp_path / f"postgresql/{version}/main").mkdir(parents=True)
        (tmp_path / f"postgresql/{version}/main/postgresql.conf").touch()
    world.prints["dpkg-query"] = f"{before}.13-1.pgdg12+1" if of_project else f"{before}.13-0+deb12u1"
    world.apply()
    site, found = world.site, distribution.next_release()
    site.config["databases"]["default"] |= {"engine": "postgres", "manage": True}
    rows = {row.today: row for row in upgrade._of_host([site], found) if row.what == "PostgreSQL"}
    former = rows[f"{before} main"]
    if of_project:
        assert former.then == "stays, with the updates of apt.postgresql.org"
        assert f"name {found.codename}-pgdg" in former.cure
    else:
        assert former.then == f"stays, without updates by {found.name}, which installs {after} next to it"
        assert rows[f"{after} main"].then == "stays"


#: What apt offers where the repository of the PostgreSQL project is among its sources.
PROJECT = {
    **{f"postgresql-{number}": f"{number}.6-1.pgdg12+1" for number in range(13, 19)},
    "postgresql-19": "19~beta2-1.pgdg12+1",
}


@pytest.mark.parametrize(
    ("offered", "to", "expected"),
    [
        ({}, None, "after"),
        ({}, "17.1", ""),
        (PROJECT, None, "18"),
        (PROJECT, "17", "17"),
        (PROJECT, "19", "19"),
        (PROJECT, "13", ""),
        ({"postgresql-19": PROJECT["postgresql-19"]}, None, ""),
    ],
)
def test_cluster_is_upgraded_to_the_newest_released_version_or_the_wished_one(
    one, monkeypatch, tmp_path, offered, to, expected
):
    """Of the distribution, or of apt.postgresql.org, which has more of them, and such that are not released yet."""
    names = offered or one["offered"]

    def run(argv, *, doing):
        if argv[1] == "pkgnames":
            return "".join(f"{name}\n" for name in [*names, "postgresql-client-16", "postgresql-common"])
        lines = [f"{name}:\n  Installed: (none)\n  Candidate: {names[name]}\n  Version table:\n" for name in argv[2:]]
        return "".join([*lines, "postgresql-9:\n  Installed: (none)\n  Candidate: (none)\n"])

    monkeypatch.setattr(commands, "run", run)
    monkeypatch.setattr(upgrade_plan, "PROGRAMS", tmp_path)
    before, after = one["postgres"]
    former = upgrade_plan.Cluster(before, "main", 5432, True, tmp_path)
    assert upgrade_plan._version(former, to) == (after if expected == "after" else expected)


def test_package_that_has_another_name_afterwards_is_not_missing(one, monkeypatch):
    name, provided = one["renamed"]
    monkeypatch.setattr(commands, "run", lambda _argv, **_options: f"ii  {provided}\n")
    assert packages.missing([name, "git"], ["git", f"{name}t64"]) == set()
    monkeypatch.setattr(commands, "run", lambda _argv, **_options: "")
    assert packages.missing([name, "git"], ["git"]) == {name}


def test_stores_have_the_programs_of_the_table(one):
    assert [platform(one, at)["stores"]["redis"] for at in (0, 1)] == one["stores"]
