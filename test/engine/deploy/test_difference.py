import pytest
from django_formula.deploy import difference
from django_formula.host import file
from django_formula.release import releases
from world import commit

ONE, TWO = f"0001-{commit('one')[:12]}", f"0002-{commit('two')[:12]}"


@pytest.mark.parametrize(
    ("old", "new", "expected"),
    [
        (None, "a\n", "new file"),
        ("a\n", None, "removed"),
        ("a\nb\nc\nd\n", "a\nb\nx\nd\n", "@@ -2,3 +2,3 @@\n b\n-c\n+x\n d"),
        ("", "a\n", "@@ -0,0 +1 @@\n+a"),
    ],
)
def test_two_texts(old, new, expected):
    assert difference.of_text(old, new) == expected


def test_a_long_difference_is_cut():
    lines = difference.of_text("", "a\n" * 100).splitlines()
    assert len(lines) == 61 and lines[-1] == "… 41 lines more"


def differences(world, path=None):
    live = releases.Release(world.site, world.live)
    path = path or world.site.releases / TWO
    return difference.of_instance(live, path, live.facts, world.templates, ["hunter2"])


@pytest.mark.parametrize("process", ["systemd", "supervisor"])
@pytest.mark.parametrize("bind", ["unix", "127.0.0.1:8000"])
def test_names_and_addresses_are_no_difference(world, process, bind):
    world.process, world.options = process, {"server": {"bind": bind}}
    world.apply()
    assert differences(world) == {}
    assert differences(world, world.site.root / "plan-1" / TWO) == {}


@pytest.mark.parametrize(
    ("first", "then", "expected"),
    [
        ("unix", "127.0.0.1:8000", True),
        ("127.0.0.1:8000", "unix", True),
        ("127.0.0.1:8000", "127.0.0.1:9000", True),
        ("127.0.0.1:8000", "[::1]:8000", True),
        ("127.0.0.1:8000", "127.0.0.1:8000", False),
    ],
)
def test_another_address_is_one(world, first, then, expected):
    world.options = {"server": {"bind": first}}
    world.apply()
    world.options = {"server": {"bind": then}}
    assert ("upstream.conf" in differences(world)) is expected


def test_secrets_are_masked(world):
    world.apply()
    world.options = {"server": {"options": {"procname": "hunter2"}}}
    assert "+procname = **********" in differences(world)["uwsgi.ini"]


def test_without_a_virtualenv_nothing_is_known(world):
    world.apply()
    world.options = {"server": {"threads": 2}}
    file.remove_tree(world.site.virtualenvs)
    assert differences(world) == {}
