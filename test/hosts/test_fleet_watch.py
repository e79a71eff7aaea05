"""The watch of a master: a host that is silent, one message for a release on all hosts, and its events."""

import json
import time
from collections.abc import Callable
from typing import Any

import pytest
from fleet import Fleet, start_database, start_master, start_minions, start_salt
from lab import ROOT, Host
from watching import SECRET, channel, receive, told

pytestmark = pytest.mark.full

EVENTS = "/var/log/events"
#: The reactor of the docs, and where the docs have its files.
EXAMPLE = {"master.conf": "/etc/salt/master.d/events.conf", "note.sls": "/etc/salt/reactor/note.sls"}
WATCH = "django-fleet-watch"
NOTIFY = {"all": channel("all", kinds=["released", "failed", "silent", "rolled_back"])}


class WatchedFleet(Fleet):
    """A site on two hosts, whose master is a minion of itself and watches them."""

    master_name: str | None = "master"

    def configure(self, **changes: Any) -> None:
        super().configure(**changes)
        self.master.pillar(
            {"django": {"watch": {"fleet": self.master_name}, "notify": NOTIFY, "sites": {"blog": self.options}}}
        )

    def messages(self, host: Host | None = None) -> list[dict[str, Any]]:
        """What the channel of a host has got; of the master's by default."""
        return [one for batch in told(host or self.master).get("all", []) for one in batch.messages]

    def wait_for(self, *kinds: tuple[str, str]) -> list[dict[str, Any]]:
        """The messages of the master once they are these: what happened, and of which kind.

        On a loaded machine a host that runs may miss the ten seconds of two rounds: only web2 is dead.
        """
        limit = time.monotonic() + 60
        while True:
            found = [one for one in self.messages() if one.get("host") in (None, "web2")]
            if [(one["what"], one["kind"]) for one in found] == [*kinds]:
                return found
            assert time.monotonic() < limit, found
            time.sleep(0.5)

    def look(self, times: int) -> None:
        """Rounds of the master's watch, without the minutes between them."""
        for _ in range(times):
            self.master.run(["systemctl", "start", f"{WATCH}.service"], timeout=120)

    def events(self, tag: str) -> list[dict[str, Any]]:
        lines = (line.partition("\t") for line in self.master.read(EVENTS).splitlines())
        return [json.loads(text) for found, _tab, text in lines if found == tag]


@pytest.fixture(scope="module")
def fleet(module_hosts: Callable[..., Host], tmp_path_factory: pytest.TempPathFactory) -> WatchedFleet:
    """The hosts after the first apply and the first deployment, whose master is not watched yet."""
    master = module_hosts(name="master")
    web1, web2 = (module_hosts(kind="ready", name=name) for name in ("web1", "web2"))
    for name, path in EXAMPLE.items():
        master.write(path, (ROOT / "examples/events" / name).read_text())
    start_master(master)
    start_database(master)
    start_minions(master, [web1, web2])
    for host in (master, web1):
        receive(host)
    start_salt(master, "minion", {"id": "master", "master": "localhost"})
    fleet = WatchedFleet(master, [web1, web2], master, tmp_path_factory.mktemp("repository"))
    master.run("until salt --timeout=5 master test.ping | grep True; do sleep 0.5; done", timeout=240)
    fleet.configure()
    fleet.laid_out = fleet.apply("*")
    assert fleet.failed() == {"master": [], "web1": [], "web2": []}
    listen = f"exec salt-run state.event tagmatch='django/*' count=-1 >{EVENTS}"
    master.run(["systemd-run", "--unit=events", "--setenv=PYTHONUNBUFFERED=1", "sh", "-c", listen])
    fleet.look(1)  # the first one reports no history
    return fleet


def test_second_apply_changes_nothing_on_the_master(fleet: WatchedFleet) -> None:
    states = fleet.apply("master")["master"].values()
    assert [state["comment"] for state in states if state["changes"] or not state["result"]] == []
    active = fleet.master.run(["systemctl", "is-active", f"{WATCH}.timer", "django-watch.timer"]).stdout
    assert active.split() == ["active", "active"]


def test_release_on_all_hosts_is_one_message_with_events_of_its_begin_and_end(fleet: WatchedFleet) -> None:
    done = fleet.deploy("main")
    [message] = fleet.wait_for(("event", "released"))
    assert message["text"].startswith("main is active on web1, web2 (") and message["site"] == "blog"
    assert message["by"].startswith("root (salt-run django.deploy on master")
    [begin], [end] = fleet.events("django/blog/deploy/begin"), fleet.events("django/blog/deploy/end")
    assert (begin["user"], begin["revision"], begin["commit"]) == ("root", "main", "")
    assert (end["user"], end["revision"], end["commit"]) == ("root", "main", done["commit"])
    assert (end["result"], end["hosts"], end["error"]) == ("released", done["hosts"], "")
    assert {one["commit"] for one in fleet.events("django/blog/deploy/switch")} == {done["commit"]}
    noted = "until grep released /var/log/django-deployments; do sleep 0.5; done"
    note = json.loads(fleet.master.run(noted, timeout=60).stdout)
    assert (note["site"], note["user"], note["commit"], note["from"]) == ("blog", "root", done["commit"], "master")
    web1 = fleet.apps[0]
    web1.run(["systemctl", "start", "django-watch.service"], timeout=120)
    assert web1.run("tail -n 1 /srv/django/blog/deploys.jsonl").stdout.count("salt-run django.deploy") == 1
    assert fleet.messages(web1) == [], "the hosts leave it to the master"


def test_dead_host_is_reported_once_and_good_again_once(fleet: WatchedFleet) -> None:
    web2 = fleet.apps[1]
    web2.run(["systemctl", "stop", "salt-minion"])
    asked = fleet.master.run(["salt-run", "--out=json", "--log-level=quiet", "django.watch"])
    assert json.loads(asked.stdout)["silent"] == {"web2": "it does not answer; blog is served by web1"}
    fleet.look(4)
    message = fleet.wait_for(("event", "released"), ("problem", "silent"))[-1]
    assert (message["host"], message["command"]) == ("web2", "salt web2 test.ping")
    start_minions(fleet.master, [web2])
    fleet.look(4)
    assert fleet.wait_for(("event", "released"), ("problem", "silent"), ("good", "silent"))[-1]["host"] == "web2"


def test_failed_release_is_one_message_of_the_master(fleet: WatchedFleet) -> None:
    before = len(fleet.messages())
    fleet.repository.commit({"guestbook/views.py": "def entries(:\n"})
    assert fleet.run("deploy").returncode == 1
    limit = time.monotonic() + 60
    while len(found := fleet.messages()[before:]) != 1:
        assert time.monotonic() < limit, found
        time.sleep(0.5)
    assert found[0]["kind"] == "failed" and "SyntaxError" in found[0]["text"]
    assert found[0]["command"] == "salt-run django.status blog"
    fleet.apps[0].run(["systemctl", "start", "django-watch.service"], timeout=120)
    assert fleet.messages(fleet.apps[0]) == []


def test_master_that_is_not_named_any_more_has_nothing_of_its_watch(fleet: WatchedFleet) -> None:
    fleet.master_name = None
    fleet.configure()
    assert fleet.failed(fleet.apply("master")) == {"master": []}
    gone = "ls -d /etc/systemd/system/django-* /var/lib/django-formula/watch /etc/django-formula/* 2>/dev/null"
    assert fleet.master.run(gone, check=False).stdout == ""
    assert SECRET not in fleet.master.read(EVENTS)
