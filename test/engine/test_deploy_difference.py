import django_deploy_difference
import django_host_file
import django_release
import pytest
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
    assert django_deploy_difference.of_text(old, new) == expected


def test_a_long_difference_is_cut():
    lines = django_deploy_difference.of_text("", "a\n" * 100).splitlines()
    assert len(lines) == 61 and lines[-1] == "… 41 lines more"


def differences(world, path=None):
    live = django_release.Release(world.site, world.live)
    path = path or world.site.releases / TWO
    return django_deploy_difference.of_instance(live, path, live.facts, world.templates, ["hunter2"])


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
    django_host_file.remove_tree(world.site.virtualenvs)
    assert differences(world) == {}
