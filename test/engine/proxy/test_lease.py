"""The lease by which nginx gives visitors the other release: what is there, when, and what ends it."""

import os

import pytest
from django_formula.host import users
from django_formula.proxy import lease
from django_formula.site import sites

NOW = 1_700_000_123.0
SLOTS = ["170000012", "170000013"]


@pytest.fixture
def site(monkeypatch, tmp_path):
    monkeypatch.setattr(sites, "RUNTIME", tmp_path / "django")
    sites.RUNTIME.mkdir()
    monkeypatch.setattr(users, "user_id", lambda name: os.getuid())
    monkeypatch.setattr(users, "group_id", lambda name: os.getgid())

    class Blog:
        name = "blog"

    return Blog()


def chosen(site, key, now=NOW):
    """Whether nginx gives the other release to visitors with a key, as its configuration asks."""
    top = lease.folder(site)
    return (top / "on").is_file() and (top / str(int(now // 10)) / key).is_file()


def test_visitors_of_the_share_get_the_other_release_for_the_present_slot_and_the_next(site):
    lease.hold(site, lease.first(10), NOW)
    assert [chosen(site, f"{number:02}") for number in (0, 9, 10, 99)] == [True, True, False, False]
    assert chosen(site, "00", NOW + 10) and not chosen(site, "00", NOW + 20) and not chosen(site, "00", NOW - 10)
    assert sorted(path.name for path in lease.folder(site).iterdir() if path.is_symlink()) == SLOTS


def test_larger_share_keeps_the_visitors_of_the_smaller_one(site):
    assert {*lease.first(10)} < {*lease.first(30)} and not {*lease.first(50)} & {*lease.rest(10)}
    lease.hold(site, lease.first(10), NOW)
    lease.hold(site, lease.first(30), NOW)
    assert chosen(site, "29") and not chosen(site, "30")
    assert len([path for path in lease.folder(site).iterdir() if path.name.startswith("set-")]) == 1


def test_token_of_people_counts_without_a_share(site):
    lease.hold(site, [*lease.first(0), "0123456789abcdef0123456789abcdef"], NOW)
    assert chosen(site, "0123456789abcdef0123456789abcdef") and not chosen(site, "00")


def test_share_that_is_held_on_changes_nothing_but_its_slots(site):
    lease.hold(site, lease.first(5), NOW)
    before = os.stat(lease.folder(site) / SLOTS[0]).st_ino
    lease.hold(site, lease.first(5), NOW + 2)
    assert os.stat(lease.folder(site) / SLOTS[0]).st_ino == before
    lease.hold(site, lease.first(5), NOW + 30)
    assert not (lease.folder(site) / SLOTS[0]).is_symlink() and chosen(site, "04", NOW + 30)


def test_names_in_the_folder_cannot_be_listed_by_others(site):
    lease.hold(site, ["0123456789abcdef0123456789abcdef"], NOW)
    modes = {oct(os.stat(path).st_mode & 0o777) for path in (lease.folder(site), lease.folder(site) / SLOTS[0])}
    assert modes == {"0o711"}


def test_end_gives_all_visitors_the_active_release(site):
    lease.hold(site, lease.first(50), NOW)
    lease.end(site)
    assert not chosen(site, "00") and not lease.folder(site).exists()
    lease.end(site)


def test_what_a_kill_leaves_is_cleared_away(site):
    lease.hold(site, lease.first(50), NOW)
    top = lease.folder(site)
    (top / ".170000012.new").symlink_to("set-x")
    (top / ".set-x").mkdir()
    lease.hold(site, lease.first(20), NOW)
    assert not os.path.lexists(top / ".170000012.new") and not (top / ".set-x").exists()
    assert chosen(site, "19") and not chosen(site, "20")


def test_nginx_counts_the_same_slots(site):
    """`map $msec` of upstream.conf takes all but the last digit of the seconds."""
    assert sites.RUNTIME.name == "django" and f"{NOW:.3f}"[: -len("3.000")] == SLOTS[0]
