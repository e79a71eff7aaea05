"""What an upgrade of the distribution is found to change for sites: facts of a host in, rows and problems out."""

import pytest
from django_formula.host import distribution
from django_formula.host.commands import DeploymentError
from django_formula.site import sites
from django_formula.verbs import upgrade
from django_formula.virtualenv import kept, wheels

DEBIAN, UBUNTU = 'ID=debian\nVERSION_ID="12"\n', 'NAME="Ubuntu"\nVERSION_ID="22.04"\nID=ubuntu\n'


@pytest.fixture
def host(world, tmp_path, monkeypatch):
    """Release the site with these options on a host of this distribution; return the rows, and print their view."""
    monkeypatch.setattr(distribution, "_RELEASE", tmp_path / "os-release")
    monkeypatch.setattr(distribution, "_CLUSTERS", tmp_path / "postgresql")
    monkeypatch.setattr(kept, "changes", dict)
    asked = []
    monkeypatch.setattr(wheels, "without", lambda *given: asked.append(given[2]) or [*lacking])
    lacking = []

    def check(release=DEBIAN, without=(), **options):
        (tmp_path / "os-release").write_text(release)
        lacking[:], world.options = without, options
        world.apply()
        answer = upgrade.check("blog")
        print(upgrade.view(answer))
        assert answer["problems"] == sum(bool(row["problem"]) for row in answer["rows"])
        check.asked = asked
        return [upgrade.Row(**row) for row in answer["rows"]]

    return check


def problems(rows):
    return {row.what: f"{row.problem}; {row.cure}" for row in rows if row.problem}


@pytest.mark.parametrize(("release", "python"), [(DEBIAN, "3.13"), (UBUNTU, "3.12")])
def test_site_that_is_for_the_next_python_has_no_problem(host, world, release, python, capsys):
    rows = {row.what: row for row in host(release)}
    assert rows["Python"].then == python and host.asked == [python] and problems(rows.values()) == {}
    assert rows["packages"].then == f"installed as they are for {python}"
    assert "no problems" in capsys.readouterr().out


def test_other_hosts_are_refused(host):
    with pytest.raises(DeploymentError, match="it is debian 13") as refused:
        host("ID=debian\nVERSION_ID=13\n")
    assert "debian 12 and ubuntu 22.04" in refused.value.hint


@pytest.mark.parametrize(("release", "fails"), [(DEBIAN, True), (UBUNTU, False)])
def test_project_and_django_of_older_pythons_are_problems(host, world, monkeypatch, release, fails):
    """Wheels are not looked for then."""
    monkeypatch.setattr(upgrade.requirements, "python_versions", lambda _source, _names: ">=3.10,<3.13")
    world.packages = {"Django": "4.1.13"}
    found = problems(host(release))
    assert ("Python" in found) is fails and host.asked == ([] if fails else ["3.12"])
    if fails:
        assert found["Python"].startswith("the project requires Python >=3.10,<3.13; Django 4.1.13 is for Python ")
        assert found["Python"].endswith("or set django:sites:blog:python to '3.11' in quotes, which keeps it")


def test_package_without_a_wheel_is_a_problem_with_its_cure(host, capsys):
    lacking = [wheels.Lacking("lxml", "4.9.2", "it has no wheel for Python 3.13, and is compiled", "5.3.0")]
    (text,) = problems(host(without=lacking)).values()
    assert "require lxml 5.3.0 or newer, which has a wheel; or set django:sites:blog:python to '3.11'" in text
    printed = capsys.readouterr().out
    assert "blog, packages: it has no wheel" in printed and "Debian 13: 1 problem\n" in printed


def test_index_that_is_out_of_reach_is_a_problem(host, world, monkeypatch):
    def refuse(*_given):
        raise DeploymentError("looking for wheels failed", hint="have this host reach it")

    monkeypatch.setattr(wheels, "without", refuse)
    assert problems(host()) == {"packages": "looking for wheels failed; have this host reach it"}


@pytest.mark.parametrize("python", ["3.12", "python3.11"])
def test_python_that_the_pillar_names_stays(host, python):
    (row,) = (row for row in host(python=python) if row.what == "Python")
    assert row.then.startswith("stays") and not row.problem and host.asked == []


def test_packages_of_one_python_are_problems(host):
    rows = host(packages=["python3.11-dev", "python3-gdal", "libpq5"])
    assert problems(rows) == {
        "packages": "Debian 13 does not have it; set python3-dev in django:sites:blog:packages",
    }
    assert [row.then for row in rows if row.today == "python3-gdal"] == ["that of Python 3.13"]


def test_interpreter_that_apt_does_not_keep_is_a_problem_of_the_host(host, monkeypatch):
    monkeypatch.setattr(
        kept, "changes", lambda: {"/usr/bin/python3.11": "kept", "/usr/bin/python3.9": "kept no longer"}
    )
    (row,) = (row for row in host() if row.problem)
    assert (row.site, row.today, row.cure) == ("", "/usr/bin/python3.11", "salt-call state.apply django")


@pytest.mark.parametrize("kind", ["", "podman"])
def test_units_that_a_new_systemd_may_refuse_are_named_in_containers(host, tmp_path, monkeypatch, kind):
    monkeypatch.setattr(upgrade, "_CONTAINER", tmp_path / "container" if kind else tmp_path / "nothing")
    (tmp_path / "container").write_text(kind)
    found = [row for row in host() if row.what == "units"]
    assert [row.today for row in found] == (["django-blog-0001"] if kind else [])
    assert all("before anything restarts" in row.cure and not row.problem for row in found)


def test_release_on_hold_is_a_problem(host, world):
    host()
    world.push("two")
    world.apply()
    world.roll_back()
    (row,) = (upgrade.Row(**row) for row in upgrade.check()["rows"] if row["problem"])
    assert row.what == "on hold" and row.cure == "salt-call django.release blog"


def test_site_without_a_release_has_no_rows(make_site, host, monkeypatch):
    monkeypatch.setattr(sites, "registered", list)
    assert [*upgrade._of_site(make_site(name="shop"), distribution.NEXT["debian 12"])] == []
