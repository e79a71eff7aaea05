"""Another Python on the host, as after an upgrade of Debian: a new release, and apt keeps the former interpreter."""

import os

import pytest
from django_formula.host.commands import DeploymentError
from django_formula.release import disk, releases
from django_formula.verbs import operations, status, terminal
from django_formula.virtualenv import interpreter as virtualenv_interpreter


def test_another_series_of_python_makes_a_new_release_of_the_commit(world):
    world.apply()
    first = world.live
    world.python = "3.11.9"
    assert world.apply() == {} and world.live == first, "a correction of the same series is none"
    world.python = "3.13.5"
    assert status.status(world.site)["interpreter"] == f"python3 is 3.13.5, and {first} has 3.11.2"
    assert world.apply(test=True)["source"]["python"] == {"old": "3.11.2", "new": "3.13.5"}
    changes = world.apply()
    assert changes["source"]["python"] == {"old": "3.11.2", "new": "3.13.5"}
    assert changes["virtualenv"]["virtualenv"].endswith(", new")
    assert world.live[:4] == "0002" and world.live[5:] == first[5:]
    assert status.status(world.site)["interpreter"] == ""
    assert world.apply() == {}
    world.check()


@pytest.mark.parametrize("what", ["a FIFO", "/dev/zero", "a file of the site"])
def test_link_instead_of_the_configuration_of_a_virtualenv_not_followed(world, what):
    world.apply()
    target = world.site.media.top / "x"
    target.parent.mkdir(parents=True, exist_ok=True)
    if what == "a FIFO":
        os.mkfifo(target)
    elif what == "/dev/zero":
        target.symlink_to(what)
    else:
        target.write_text("version_info = 3.99.1\n")
    configuration = world.last.release.path / "virtualenv/pyvenv.cfg"
    configuration.unlink()
    configuration.symlink_to(target)
    world.python = "3.13.5"
    assert disk.interpreter_difference(world.site, world.last.release) == {}


def test_release_stays_where_its_packages_are_for_the_former_python_only(world, monkeypatch):
    world.apply()
    first, world.python = world.live, "3.13.5"

    def require(site, versions):
        raise DeploymentError("the project requires Python <3.12, and python3 is 3.13.5")

    monkeypatch.setattr(virtualenv_interpreter, "require", require)
    for _time in range(2):
        with pytest.raises(DeploymentError, match=r"requires Python <3\.12"):
            world.apply()
    assert world.live == first and world.running


def test_django_that_is_newer_than_the_tested_ones_is_a_warning_of_each_release(world):
    world.packages = {"django": "9.1.2"}
    for commit in ("one", "two"):
        world.push(commit)
        world.apply()
        assert any("blog: Django 9.1.2 is newer than" in warning for warning in world.last.warnings)
    assert world.apply() == {} and world.last.warnings == []


def test_interpreter_that_is_gone_is_a_problem_and_is_replaced(world):
    world.apply()
    first = releases.linked(world.site, world.site.current)
    (first.path / "virtualenv/bin/python").unlink()
    row = status.status(world.site)
    assert row["interpreter"] == (
        f"its interpreter (/usr/bin) is gone: {first.name} does not start again, and its commands fail"
    )
    assert "its interpreter (/usr/bin) is gone" in str(terminal.status([row]))
    world.apply()
    assert world.live[:4] == "0002" and status.status(world.site)["interpreter"] == ""


def test_python_that_is_not_found_any_more_is_no_other_one(world, monkeypatch):
    world.apply()
    live = releases.linked(world.site, world.site.current)

    def path(site):
        raise DeploymentError("the interpreter python3 is not installed on this host")

    monkeypatch.setattr(virtualenv_interpreter, "path", path)
    assert disk.interpreter_difference(world.site, live) == {}


def test_release_on_hold_warns_of_another_python(world):
    world.apply()
    world.push("two")
    world.apply()
    first = operations.rollback("blog")
    world.python = "3.13.5"
    world.apply()
    assert world.live in str(first) and any("python3 is 3.13.5" in text for text in world.last.warnings)
