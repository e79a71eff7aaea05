"""The watch of a master: silent hosts, one message for a release on all hosts, its events, a page of all hosts.

The master runs as a user of its own, as those of Salt's packages do.
"""

import json
import time
from collections.abc import Callable
from typing import Any

import pytest
from fleet import MASTER, STORE, Fleet, answer_of, start_database, start_minions, start_salt
from lab import ROOT, Host, podman
from sites import until
from watching import SECRET, channel, receive, told

pytestmark = pytest.mark.full

EVENTS = "/var/log/events"
#: The reactor of the docs, and where the docs have its files.
EXAMPLE = {"master.conf": "/etc/salt/master.d/events.conf", "note.sls": "/etc/salt/reactor/note.sls"}
WATCH = "django-fleet-watch"
NOTIFY = {
    "all": channel("all", kinds=["released", "failed", "silent", "rolled_back"]),
    "site": channel("site", kinds=["down", "degraded"]),
}


class WatchedFleet(Fleet):
    """A site on two hosts, whose master is a minion of itself and watches them."""

    master_name: str | None = "master"

    def configure(self, **changes: Any) -> None:
        super().configure(**changes)
        own = {"watch": {"fleet": self.master_name}, "page": {"hosts": "all"} if self.master_name else None}
        self.master.pillar({"django": {**own, "notify": NOTIFY, "sites": {"blog": self.options}}})
        self.master.run(["chown", "-R", "salt", "/srv/pillar"])

    def messages(self, host: Host | None = None) -> list[dict[str, Any]]:
        """What the channel of a host has got; of the master's by default."""
        return [one for batch in told(host or self.master).get("all", []) for one in batch.messages]

    def wait_for(self, *kinds: tuple[str, str], within: float = 300) -> list[dict[str, Any]]:
        """The messages of the master once they are these: what happened, and of which kind.

        On a loaded machine a host that runs may miss the ten seconds of two rounds: only web2 is dead.
        """
        limit = time.monotonic() + within
        while True:
            found = [one for one in self.messages() if one.get("host") in (None, "web2")]
            if [(one["what"], one["kind"]) for one in found] == [*kinds]:
                return found
            assert time.monotonic() < limit, found
            time.sleep(0.5)

    def look(self, times: int) -> None:
        """Rounds of the master's watch, without the minutes between them."""
        for _ in range(times):
            self.master.run(["systemctl", "start", f"{WATCH}.service"])

    def doctor(self, code: int) -> dict[str, Any]:
        """What `salt-run django.doctor` answers of each host."""
        done = self.run("doctor")
        assert done.returncode == code, done
        return {host: row for host, row in answer_of(done).items() if host != "retcode"}

    def events(self, tag: str) -> list[dict[str, Any]]:
        lines = (line.partition("\t") for line in self.master.read(EVENTS).splitlines())
        return [json.loads(text) for found, _tab, text in lines if found == tag]


def start_master(master: Host) -> None:
    """Start Salt's master as the user `salt`, and with its store as the guide has it."""
    master.run("useradd --system --no-create-home --home-dir /opt/saltstack/salt --shell /usr/sbin/nologin salt")
    own = "/etc/salt/pki/master /var/cache/salt/master /var/log/salt /run/salt/master"
    master.run(f"mkdir -p {own} && chown -R salt {own} && install -d -o salt -m 700 {STORE}")
    start_salt(master, "master", {**MASTER, "user": "salt"})


@pytest.fixture(scope="module")
def fleet(module_hosts: Callable[..., Host], tmp_path_factory: pytest.TempPathFactory) -> WatchedFleet:
    """The hosts after the first apply and the first deployment, whose master is not watched yet."""
    master, balancer = module_hosts(name="master"), module_hosts(name="lb1")
    web1, web2 = (module_hosts(kind="ready", name=name) for name in ("web1", "web2"))
    for name, path in EXAMPLE.items():
        master.write(path, (ROOT / "examples/events" / name).read_text())
    start_master(master)
    start_database(master)
    start_minions(master, [web1, web2, balancer])
    for host in (master, web1):
        receive(host)
    start_salt(master, "minion", {"id": "master", "master": "localhost"})
    fleet = WatchedFleet(master, [web1, web2], master, tmp_path_factory.mktemp("repository"))
    master.run("until salt --timeout=5 master test.ping | grep True; do sleep 0.5; done", timeout=240)
    fleet.balancer = balancer
    fleet.configure(hosts={"web*": ["app"], "lb1": ["balancer"]})
    fleet.laid_out = fleet.apply("*")
    assert fleet.failed() == {"master": [], "web1": [], "web2": [], "lb1": []}
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
    fleet.look(1)  # a runner of another user than root starts no unit
    [message] = fleet.wait_for(("event", "released"))
    assert message["text"].startswith("main is active on web1, web2 (") and message["site"] == "blog"
    assert message["by"].startswith("salt (salt-run django.deploy on master")  # as whom Salt runs what root begins
    [begin], [end] = fleet.events("django/blog/deploy/begin"), fleet.events("django/blog/deploy/end")
    assert (begin["user"], begin["revision"], begin["commit"]) == ("salt", "main", "")
    assert (end["user"], end["revision"], end["commit"]) == ("salt", "main", done["commit"])
    assert (end["result"], end["hosts"], end["error"]) == ("released", done["hosts"], "")
    assert {one["commit"] for one in fleet.events("django/blog/deploy/switch")} == {done["commit"]}
    noted = "until grep released /var/log/salt/django-deployments; do sleep 0.5; done"
    note = json.loads(fleet.master.run(noted, timeout=60).stdout)
    assert (note["site"], note["user"], note["commit"], note["from"]) == ("blog", "salt", done["commit"], "master")
    web1 = fleet.apps[0]
    web1.run(["systemctl", "start", "django-watch.service"], timeout=120)
    assert web1.run("tail -n 1 /srv/django/blog/deploys.jsonl").stdout.count("salt-run django.deploy") == 1
    assert fleet.messages(web1) == [], "the hosts leave it to the master"


def test_page_of_all_hosts_is_served_as_the_guide_has_it(fleet: WatchedFleet) -> None:
    """The master has no site, by whose proxy it would be served."""
    fleet.look(1)
    apt = "export DEBIAN_FRONTEND=noninteractive; apt-get -qq update && apt-get -qq install nginx openssl >/dev/null"
    fleet.master.run(apt, timeout=300)
    guide = (ROOT / "docs/guides/page.md").read_text()
    lines = [line[6:].split("     #")[0] for line in guide.splitlines() if line.startswith("    # ")]
    (first,) = [number for number, line in enumerate(lines) if line.startswith("apt install nginx")]
    commands = "\n".join(lines[first : first + 5]).replace("apt install nginx && ", "")
    commands = commands.replace("openssl passwd -6", "openssl passwd -6 correct-horse")
    fleet.master.run(f"set -e; cd /srv/formula; {commands}")
    until(lambda: fleet.master.http("/", "status.example.org").status_code == 401)  # nginx reads its files by then
    answer = fleet.master.http("/", "status.example.org", auth=("team", "correct-horse"))
    assert answer.status_code == 200, answer.text
    assert all(f"<h2>{name}" in answer.text for name in ("web1", "web2")) and "is silent" not in answer.text
    closed = fleet.master.http("/hosts.json", "status.example.org", auth=("team", "correct-horse"))
    assert closed.status_code == 403
    assert fleet.apps[0].run(["ls", "/var/lib/django-formula/page"], check=False).returncode, "the master alone has it"


def test_doctor_walks_through_hosts_and_balancers(fleet: WatchedFleet) -> None:
    walk = ["salt", "--timeout=60", "lb1", "django.doctor", "blog"]
    until(lambda: "requests for web1, web2" in fleet.master.run(walk, check=False).stdout)
    rows = fleet.doctor(0)
    assert [*rows] == ["lb1", "web1", "web2"] and all("ok" in row for row in rows.values()), rows
    assert rows["lb1"] == {"ok": "no broken link, from balancer to page"}
    fleet.balancer.run(["systemctl", "stop", "django-haproxy"])
    row = fleet.doctor(1)["lb1"]
    assert (row["broken"], row["text"]) == ("balancer", "django-haproxy does not run")

    def said(expected: int) -> list[tuple[str, str, str]]:
        rounds = 0
        while len(found := [one for batch in told(fleet.master).get("site", []) for one in batch.messages]) < expected:
            assert rounds < 60, found
            fleet.look(1)
            time.sleep(2)
            rounds += 1
        return [(one["what"], one["kind"], one["text"]) for one in found]

    assert said(1) == [("problem", "down", "lb1: django-haproxy does not run")]
    fleet.balancer.run(row["do"])
    assert [one[:2] for one in said(2)] == [("problem", "down"), ("good", "down")]
    web2 = fleet.apps[1]
    web2.run("systemctl stop 'django-blog-*.socket' 'django-blog-*.service'")
    limit = time.monotonic() + 300
    while (rows := fleet.doctor(1))["lb1"].get("broken") != "hosts":
        assert time.monotonic() < limit, rows
    assert rows["web2"]["broken"] == "process" and rows["lb1"]["text"].startswith("no requests for web2 ("), rows
    web2.run(rows["web2"]["do"])
    limit = time.monotonic() + 300
    while rows := [row for row in answer_of(fleet.run("doctor")).values() if row != 1 and "ok" not in row]:
        assert time.monotonic() < limit, rows


def test_dead_host_is_reported_within_five_minutes_once_and_good_again_once(fleet: WatchedFleet) -> None:
    """By the timer, and by a line of cron as a master without systemd has it."""
    web2, began = fleet.apps[1], time.monotonic()
    podman("pause", web2.container)
    try:
        message = fleet.wait_for(("event", "released"), ("problem", "silent"))[-1]
        print(f"a dead host was reported after {time.monotonic() - began:.0f} s")
        assert (message["host"], message["command"]) == ("web2", "salt web2 test.ping")
        assert message["text"].endswith("; blog is served by web1")
        login = ("team", "correct-horse")
        until(lambda: "web2 is silent: " in fleet.master.http("/", "status.example.org", auth=login).text)
    finally:
        podman("unpause", web2.container)
    fleet.master.run("until salt --timeout=5 web2 test.ping | grep True; do sleep 0.5; done", timeout=240)
    as_cron = ["env", "-i", "HOME=/root", "SHELL=/bin/sh", "PATH=/usr/bin:/bin", "/bin/sh", "-c"]
    for _round in range(4):
        fleet.master.run([*as_cron, "/usr/bin/python3 -I /usr/local/lib/django-formula/watch.pyz fleet"])
    assert fleet.wait_for(("event", "released"), ("problem", "silent"), ("good", "silent"))[-1]["host"] == "web2"


def test_silence_of_a_drained_host_is_no_message(fleet: WatchedFleet) -> None:
    web2 = fleet.apps[1]
    fleet.run("drain", "web2").check()
    before = [one for one in fleet.messages() if one.get("host") == "web2"]
    podman("pause", web2.container)
    try:
        fleet.look(3)
    finally:
        podman("unpause", web2.container)
    fleet.master.run("until salt --timeout=5 web2 test.ping | grep True; do sleep 0.5; done", timeout=240)
    fleet.run("join", "web2").check()
    fleet.look(1)
    assert [one for one in fleet.messages() if one.get("host") == "web2"] == before


def test_failed_release_is_one_message_of_the_master(fleet: WatchedFleet) -> None:
    before = len(fleet.messages())
    fleet.repository.commit({"guestbook/views.py": "def entries(:\n"})
    assert fleet.run("deploy").returncode == 1
    fleet.look(1)
    limit = time.monotonic() + 300
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
    gone = "ls -d /etc/systemd/system/django-* /var/lib/django-formula/{watch,page} /etc/django-formula/* 2>/dev/null"
    assert fleet.master.run(gone, check=False).stdout == ""
    assert SECRET not in fleet.master.read(EVENTS)
