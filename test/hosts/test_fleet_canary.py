"""A site on two hosts behind a balancer, whose releases get a share of the visitors of all hosts first."""

import collections
import contextlib
import json
import time

import pytest
from client import Load
from fleet import Fleet, Running, answer_of, await_minions, laid_out
from lab import CommandFailed
from sites import release_of, until, version

#: Visitors of the site; the odds that none or all of them get a share of 30 % are nothing.
VISITORS = [f"browser {number}" for number in range(60)]
#: By the number of requests, so that what the tests look at meanwhile may take its time.
CANARY = {"steps": {"30%": "10s"}, "requests": 250, "limit": "10m"}
LONG = {"steps": {"30%": "20m"}}
#: A view that fails on the second host alone.
BROKEN = """
def release(request):
    import socket
    if socket.gethostname() == "web2":
        raise KeyError("seven")
    return JsonResponse({"release": os.environ["DJANGO_RELEASE"]})
"""


@pytest.fixture(scope="module")
def fleet(module_hosts, tmp_path_factory) -> Fleet:
    """A balancer, and two hosts of different releases of Debian."""
    folder = tmp_path_factory.mktemp("repository")
    fleet = laid_out(module_hosts, folder, proxy={"access_log": "json"}, releases={"canary": CANARY})
    fleet.answering()
    fleet.good = f"import os\n{fleet.repository.read('guestbook/views.py')}"
    return fleet


def visitors(fleet: Fleet) -> Load:
    """Have all visitors ask the balancer in turn, about 50 times a second; a form is sent by none."""
    address = f"http://{fleet.balancer.address}/release"
    return Load(address, "blog.example.org", connections=4, pause=0.05, release=release_of, visitors=VISITORS)


def share(fleet: Fleet, running: Running | None = None) -> set[str]:
    """The releases that get a share of the visitors on both hosts, once they do."""

    def names() -> list[str]:
        assert running is None or running.is_alive(), running.done
        found = [
            host.run("test -e /run/django/blog.canary/on && readlink /srv/django/blog/next", check=False).stdout
            for host in fleet.apps
        ]
        return [name.strip().removeprefix("releases/") for name in found]

    return until(lambda: all(found := names()) and {*found})


def shares(fleet: Fleet) -> list[str]:
    """The hosts on which a release has a share of the visitors."""
    return [
        host.name for host in fleet.apps if host.run("test -e /run/django/blog.canary/on", check=False).returncode == 0
    ]


def seen_by(load: Load, since: int) -> dict[str, set[str]]:
    """The releases that each visitor has got since a number of answers."""
    seen = collections.defaultdict(set)
    for answer in load.answers[since:]:
        seen[answer.visitor].add(answer.release)
    return seen


def settled(load: Load) -> int:
    """Wait for requests that were under way; return the number of answers."""
    load.wait(8)
    return len(load.answers)


def last(load: Load) -> set[str]:
    """The releases that the last answers to all visitors are of."""
    load.wait(len(VISITORS))
    return {answer.release for answer in load.answers[-len(VISITORS) :]}


def configure(fleet: Fleet, canary: dict) -> None:
    fleet.configure(releases={"canary": canary})
    assert not any(fleet.failed(fleet.apply()).values())


def begin(fleet: Fleet, subject: str, views: str = "") -> tuple[Running, str]:
    """Begin the deployment of a commit, and wait until some visitors get it on both hosts; return its release."""
    fleet.repository.commit({"guestbook/views.py": f"{fleet.good}\n{views}", **version(subject)}, subject)
    running = Running(fleet)
    (name,) = share(fleet, running)
    return running, name


def assert_as_before(fleet: Fleet, old: dict[str, str]) -> None:
    """Assert that the hosts serve what they served, and have nothing left of another release."""
    assert fleet.live() == old and fleet.left() == "" and shares(fleet) == []
    for units in fleet.instances().values():
        assert len([unit for unit in units if "-proof" not in unit]) == 1, units
    assert {answer["release"] for answer in (fleet.answering(), fleet.answering())} == {*old.values()}


def assert_same_visitors(fleet: Fleet, number: str) -> None:
    """Assert that the same visitors get a release from both hosts, then all."""
    (old,) = {*fleet.live().values()}
    with visitors(fleet) as load:
        load.wait(20)
        running, new = begin(fleet, number)
        began = settled(load)
        load.wait(240)
        assert {*fleet.live().values()} == {old}
        seen = seen_by(load, began)
        status = json.loads(fleet.run("status").stdout)["blog"]["hosts"]
        done = answer_of(running.result().check())
        after = settled(load)
        load.wait(120)
    assert load.failed == [] and {*map(len, seen.values())} == {1}, "a visitor keeps a release, whichever host answers"
    few = [visitor for visitor, releases in seen.items() if releases == {new}]
    assert 5 <= len(few) <= 32, few
    for name in ("web1", "web2"):
        assert status[name]["canary"].startswith(f"{new} gets ") and status[name]["release"] == old, status
    assert {*fleet.live().values()} == {*done["hosts"].values()} == {new}
    assert "without a canary" not in json.dumps(done), done
    assert set().union(*seen_by(load, after).values()) == {new}
    assert_as_before(fleet, fleet.live())
    for host in fleet.apps:
        kept = json.loads(host.read(f"/srv/django/blog/releases/{new}/release.json"))["proof"]["evidence"]
        assert kept["new"]["requests"] > 10 and kept["new"]["visitors"] > 3, kept


@pytest.mark.full
def test_same_visitors_get_a_release_on_both_hosts_and_then_all(fleet):
    assert_same_visitors(fleet, "2.0")


@pytest.mark.full
def test_release_that_one_host_takes_back_is_taken_back_on_all(fleet):
    old = fleet.live()
    with visitors(fleet) as load:
        fleet.repository.commit({"guestbook/views.py": f"{fleet.good}\n{BROKEN}"}, "Broken on one host")
        done = fleet.run("deploy")
        after = settled(load)
        load.wait(120)
    text = done.stdout
    assert done.returncode == 1 and "web2: " in text and "raised KeyError in guestbook.views.release for 2" in text, (
        text
    )
    assert "as before" in text and "salt web2 django.proof blog has the evidence" in text
    assert_as_before(fleet, old)
    assert {answer.status for answer in load.answers[after:]} == {200}
    last = json.loads(fleet.run("history", "count=1").stdout)
    assert "KeyError" in json.dumps(last)
    evidence = json.loads(fleet.master.run(["salt", "--out=json", "--static", "web2", "django.proof", "blog"]).stdout)
    assert evidence["web2"]["ended"] == "back" and "KeyError" in evidence["web2"]["why"]
    fleet.run("deploy", "canary=False").check()
    assert len({*fleet.live().values()} - {*old.values()}) == 1 and shares(fleet) == []
    fleet.repository.commit({"guestbook/views.py": fleet.good}, "Good again")
    fleet.run("deploy", "canary=False").check()


@pytest.mark.full
def test_people_end_it_on_all_hosts(fleet):
    configure(fleet, LONG)
    old = fleet.live()
    with visitors(fleet) as load:
        running, new = begin(fleet, "3.0")
        refused = fleet.master.run(["salt", "--out=json", "--static", "web1", "django.promote", "blog"], check=False)
        assert "on the master: salt-run django.promote blog" in refused.stdout
        name, _, token = answer_of(fleet.run("canary", "share=0", "token=True").check())["cookie"].partition("=")
        until(lambda: last(load) == {*old.values()})
        pages = [host.http("/release", "blog.example.org", cookies={name: token}) for host in fleet.apps]
        assert [release_of(page.content) for page in pages] == [new, new]
        assert answer_of(fleet.run("canary", "share=50").check())["share"] == "50 %"
        until(lambda: last(load) == {new, *old.values()})
        answer = answer_of(fleet.run("back").check())
        assert fleet.live() == old and answer["commit"] in fleet.commits().values()
        done = running.result()
        assert done.returncode == 1 and "it was taken back by root (salt-run django.back)" in done.stdout, done.stdout
        assert_as_before(fleet, old)
        assert "no release of blog gets a share of the visitors now" in fleet.run("back").stdout
        running, new = begin(fleet, "3.1")
        fleet.master.run("systemctl restart salt-master")
        answer = answer_of(fleet.run("promote").check())
        running.result().check()
        assert {*fleet.live().values()} == {new} and {*fleet.commits().values()} == {answer["commit"]}
        load.wait(20)
    assert load.failed == []


@pytest.mark.full
def test_newer_request_takes_its_place(fleet):
    configure(fleet, LONG)
    (old,) = {*fleet.live().values()}
    fleet.repository.commit(version("4.0"), "Requested")
    with visitors(fleet) as load:
        first = Running(fleet, verb="request")
        (former,) = share(fleet, first)
        configure(fleet, {"steps": {"30%": "2s"}, "requests": 1})
        fleet.repository.commit(version("4.1"), "Requested after it")
        fleet.run("request", "wait=False")
        assert answer_of(first.result().check())["status"] == "superseded"
        until(lambda: {*fleet.live().values()} not in ({old}, {former}) and len({*fleet.live().values()}) == 1)
        until(lambda: fleet.left() == "")
    assert load.failed == []


@pytest.mark.full
def test_runner_that_is_killed_leaves_the_former_release(fleet):
    configure(fleet, LONG)
    old = fleet.live()
    with visitors(fleet) as load:
        _running, _new = begin(fleet, "5.0")
        fleet.master.run("pkill -KILL -f 'salt-run.*django.deplo[y]'")
        until(lambda: shares(fleet) == [] and fleet.left() == "")
        load.wait(60)
    assert load.failed == []
    assert_as_before(fleet, old)


@pytest.mark.full
def test_hosts_that_hear_nothing_of_their_master_go_back_by_themselves(fleet):
    old = fleet.live()
    with visitors(fleet) as load:
        _running, new = begin(fleet, "6.0")
        for pattern in ("read -r ove[r]", "django.abando[n]", "salt-ru[n]"):  # what would end it at once
            fleet.master.run(f"pkill -KILL -f '{pattern}'", check=False)
        fleet.master.run("systemctl kill --signal=KILL salt-master; systemctl stop salt-master")
        silent = time.monotonic()
        until(lambda: shares(fleet) == [])
        assert time.monotonic() - silent < 200, "its step lasts 1200 s"
        after = settled(load)
        load.wait(60)
    assert load.failed == [] and fleet.live() == old
    assert set().union(*seen_by(load, after).values()) == {*old.values()}
    fleet.master.run("systemctl start salt-master")
    await_minions(fleet.master, [*fleet.apps, fleet.balancer])
    row = json.loads(fleet.run("status").stdout)["blog"]["hosts"]["web1"]
    assert row["canary"] == f"{new} was taken back here: the master has not been heard of, or has ended the deployment"
    configure(fleet, CANARY)
    with visitors(fleet) as load:
        fleet.deploy()
    assert load.failed == [] and {*fleet.live().values()} != {*old.values()}
    assert_as_before(fleet, fleet.live())


@pytest.mark.full
def test_host_that_is_silent_for_a_minute_is_taken_back_on_all(fleet):
    configure(fleet, LONG)
    old, silent = fleet.live(), fleet.apps[1]
    with visitors(fleet) as load:
        running, _new = begin(fleet, "6.5")
        silent.run("systemctl stop salt-minion")
        time.sleep(10)  # and until it has come back, on a busy machine too, less than a minute passes
        silent.run("systemctl start salt-minion")
        await_minions(fleet.master, [silent])
        time.sleep(10)
        assert running.is_alive() and shares(fleet) == ["web1", "web2"]
        silent.run("systemctl stop salt-minion")
        done = running.result()
        assert done.returncode == 1 and "web2: " in done.stdout, done.stdout
        until(lambda: shares(fleet) == [])
        after = settled(load)
        load.wait(60)
        silent.run("systemctl start salt-minion")
        await_minions(fleet.master, [silent])
        assert not any(fleet.failed(fleet.apply()).values())
    assert load.failed == [] and set().union(*seen_by(load, after).values()) == {*old.values()}
    assert_as_before(fleet, old)


@pytest.mark.full
def test_host_that_starts_again_in_the_middle_has_the_active_release(fleet):
    configure(fleet, LONG)
    (old,) = {*fleet.live().values()}
    running, _new = begin(fleet, "7.0")
    with contextlib.suppress(CommandFailed):  # the release is stopped as it starts, which fails for a moment
        fleet.apps[1].restart()
    state = ["systemctl", "is-system-running"]
    until(lambda: fleet.apps[1].run(state, check=False).stdout == "running\n")
    done = running.result()
    assert done.returncode == 1 and "web2: " in done.stdout, done.stdout
    await_minions(fleet.master, fleet.apps)
    assert not any(fleet.failed(fleet.apply()).values())
    until(lambda: fleet.left() == "" and shares(fleet) == [])
    until(lambda: all(len(units) == 1 for units in fleet.instances().values()))
    assert {*fleet.live().values()} == {old}
    assert_as_before(fleet, fleet.live())


@pytest.mark.full
@pytest.mark.parametrize("kind", ["nginx", "varnish"])
def test_other_balancers_tell_hosts_who_the_visitor_is(fleet, kind):
    fleet.configure(balancer={"kind": kind}, releases={"canary": CANARY})
    assert not any(fleet.failed(fleet.apply("*")).values())
    fleet.answering()
    assert_same_visitors(fleet, f"8.{kind}")
