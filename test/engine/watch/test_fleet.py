"""The watch of a master: who is silent, who gets which message, and what an answer of others may not do."""

import json
import types
from typing import Any

import pytest
import seen_hosts
from django_formula.host import commands
from django_formula.watch import decide, fleet, look, message, watch

CONFIG: dict[str, Any] = {"quiet": [], "channels": {}, "heartbeat": False}
DONE = {
    **{"site": "blog", "verb": "deploy", "result": "released", "revision": "2.1", "commit": "3f2a9c1b77de" * 3},
    **{"step": "", "error": "", "asked_by": "ada (salt-run django.deploy on master1)", "seconds": 47.2},
    **{"hosts": {"web1": "0002-a", "web2": "0002-a"}, "sent": 2646, "failed": 0},
}


class Master:
    """A master whose answers are played, and the state of its watch between two looks."""

    def __init__(self, monkeypatch):
        self.answer: Any = {"hosts": {"web1": ["blog"], "web2": ["blog"]}, "silent": {}, "known": {}}
        self.answer |= {"deployments": [], "offset": 7, "balanced": {}, "deployed": []}
        self.code, self.state, self.now, self.argv = 0, {}, 1e9, []
        monkeypatch.setattr(fleet.shutil, "which", lambda name, path: f"/usr/bin/{name}")
        monkeypatch.setattr(commands, "execute", self._execute)

    def _execute(self, command):
        self.argv = command.argv
        text = self.answer if isinstance(self.answer, str) else json.dumps(self.answer)
        return types.SimpleNamespace(code=self.code, printed=text, errors="", has_stalled=False)

    def look(self, **changes: Any) -> list[decide.Message]:
        self.answer = {**self.answer, **changes} if changes else self.answer
        self.now += 120
        self.state = json.loads(json.dumps(self.state))
        return fleet.take(self.state, CONFIG, self.now).messages


@pytest.fixture
def master(monkeypatch) -> Master:
    return Master(monkeypatch)


SILENT = {"silent": {"web2": "it does not answer; blog is served by web1"}}
AWAKE: dict[str, Any] = {"silent": {}}


def test_dead_host_is_reported_after_two_rounds_once_and_good_again_once(master):
    told = [master.look(**SILENT) for _ in range(30)]
    assert [len(one) for one in told[:3]] == [0, 1, 0] and sum(map(len, told)) == 1
    [problem] = told[1]
    assert (problem["what"], problem["kind"], problem["host"], problem["sites"]) == (
        "problem",
        "silent",
        "web2",
        ["blog"],
    )
    assert problem["command"] == "salt web2 test.ping"
    again = [one for _ in range(10) for one in master.look(**AWAKE)]
    assert [(one["what"], one["host"]) for one in again] == [("good", "web2")]
    batch = {"host": "master1", "time": master.now, "messages": [problem]}
    assert message.title(batch) == "[master1] web2: silent"
    assert message.text(batch, 900).startswith("web2: it does not answer; blog is served by web1\n    do: salt web2")


DOWN = {"text": "django-haproxy does not run", "hosts": []}
DEGRADED = {"text": "no requests for web2 (L4TOUT)", "hosts": ["web2"]}


@pytest.mark.parametrize(("one", "kind", "rounds"), [(DOWN, "down", 2), (DEGRADED, "degraded", 5)])
def test_broken_balancer_is_reported_once_and_good_again_once(master, one, kind, rounds):
    told = [master.look(balanced={"blog": {"lb1": one}}) for _ in range(20)]
    assert [number for number, messages in enumerate(told, 1) if messages] == [rounds]
    [problem] = told[rounds - 1]
    assert (problem["what"], problem["kind"], problem["site"], problem["sites"]) == (
        "problem",
        kind,
        "blog",
        ["blog"],
    )
    assert problem["text"] == f"lb1: {one['text']}" and problem["command"] == "salt-run django.doctor blog"
    assert [m for _ in range(9) for m in master.look(balanced={})] == [], "one that does not answer is not good again"
    again = [m for _ in range(9) for m in master.look(balanced={"blog": {}})]
    assert [(m["what"], m["kind"]) for m in again] == [("good", kind)]


@pytest.mark.parametrize("more", ["", " roster=True"])
def test_sites_that_are_down_together_are_one_line(master, monkeypatch, more):
    monkeypatch.setitem(CONFIG, "roster", bool(more))
    names = {f"site{number}": {"lb1": DOWN} for number in range(3)}
    messages = [m for _ in range(2) for m in master.look(balanced=names, hosts={"lb1": [*names]})]
    [fold] = decide.folded(messages)
    assert fold["text"] == "3 sites are down: site0, site1, site2: lb1: django-haproxy does not run"
    assert (fold["command"], fold["sites"]) == (f"salt-run django.status{more}", [*names])
    silent = {"silent": dict.fromkeys(("web1", "web2", "web3"), "x"), "hosts": {f"web{n}": ["a"] for n in (1, 2, 3)}}
    [fold] = decide.folded([m for _ in range(2) for m in master.look(balanced={}, **silent)])
    assert fold["command"] == f"salt-run django.watch{more}"


def test_host_that_is_silent_is_no_second_message_of_its_balancer(master):
    told = [m for _ in range(9) for m in master.look(**SILENT, balanced={"blog": {"lb1": DEGRADED}})]
    assert [m["kind"] for m in told] == ["silent"]


def test_two_balancers_that_are_down_are_one_problem_and_none_while_the_site_is_deployed(master):
    both = {"blog": {"lb1": DOWN, "lb2": {**DOWN, "text": "x\x1b[1m"}}}
    assert [master.look(balanced=both, deployed=["blog"]) for _ in range(4)] == [[]] * 4
    [message] = master.look(deployed=[])
    assert message["text"] == "lb1: django-haproxy does not run; lb2: x"
    assert [m for _ in range(9) for m in master.look(balanced={}, hosts={})] == [], "it has left the pillar"


def test_hosts_of_a_roster_are_asked_by_salt_ssh(master, monkeypatch):
    monkeypatch.setitem(CONFIG, "roster", True)
    assert [one["command"] for _ in range(2) for one in master.look(**SILENT)] == ["salt-ssh web2 test.ping"]
    assert master.argv[-3:] == ["django.watch", "roster=True", "since=7"]
    master.answer, master.code = "", 1
    assert [one["command"] for _ in range(2) for one in master.look()] == ["salt-run django.watch roster=True"]


def test_page_of_all_hosts_is_written_with_those_that_are_silent_as_they_were(master, watched, monkeypatch, tmp_path):
    for name in ("STATE", "PAGE"):
        (tmp_path / name).mkdir()
        monkeypatch.setattr(watch.spool, name, tmp_path / name)
    monkeypatch.setattr(watch, "_start", lambda _config: None)
    config, page = watched({**CONFIG, "page": True, "page_of": "all"}), tmp_path / "PAGE/index.html"
    master.answer |= {"seen": {name: seen_hosts.host(name) for name in ("web1", "web2")}}
    assert watch.take_fleet(config) == 0 and master.argv[-1] == "seen=True"
    assert "web2" in page.read_text() and "is silent" not in page.read_text()
    master.answer |= {"seen": {"web1": seen_hosts.host("web1"), "web2": "it does not answer"}}
    assert watch.take_fleet(config) == 0 and "web2 is silent: it does not answer" in page.read_text()
    assert (tmp_path / "STATE/hosts.json").stat().st_mode & 0o777 == 0o600
    before, master.answer, master.code = page.read_text(), "", 1
    assert watch.take_fleet(config) == 0 and page.read_text() == before, "a master that does not answer changes nothing"


def test_host_that_misses_one_round_is_not_reported(master):
    assert [*master.look(**SILENT), *(one for _ in range(9) for one in master.look(**AWAKE))] == []


def test_expected_silence_is_reported_at_its_end_if_it_lasts(master):
    for _ in range(5):
        assert master.look(**SILENT, known={"web2": "no requests (lb1: drain)"}) == []
    assert [one["what"] for one in master.look(known={})] == ["problem"]


def test_host_that_left_the_pillar_is_not_good_again(master):
    assert [one["host"] for _ in range(2) for one in master.look(**SILENT)] == ["web2"]
    assert [one for _ in range(9) for one in master.look(**AWAKE, hosts={"web1": ["blog"]})] == []


def test_hosts_that_are_silent_together_are_one_line(master):
    names = [f"web{number}" for number in range(5)]
    all_silent = {"silent": dict.fromkeys(names, "it does not answer"), "hosts": {name: ["blog"] for name in names}}
    messages = [one for _ in range(2) for one in master.look(**all_silent)]
    [fold] = decide.folded(messages)
    assert fold["text"] == "5 hosts are silent: web0, web1, web2, web3, web4: it does not answer"
    assert (fold["command"], fold["sites"]) == ("salt-run django.watch", ["blog"])


@pytest.mark.parametrize("quiet", [["00:00..12:00", "12:00..00:00"]])
def test_events_of_quiet_times_are_sent_at_their_end(master, monkeypatch, quiet):
    monkeypatch.setitem(CONFIG, "quiet", quiet)
    assert master.look(deployments=[DONE]) == []
    monkeypatch.setitem(CONFIG, "quiet", [])
    assert [one["kind"] for one in master.look(deployments=[])] == ["released"]


RESULTS = [
    ({}, "released", "2.1 is active on web1, web2 (47 s, 0 of 2 646 requests failed)"),
    ({"revision": "", "sent": 0}, "released", "3f2a9c1b77de is active on web1, web2 (47 s)"),
    (
        {"result": "rolled back", "verb": "rollback", "revision": "2.0"},
        "rolled_back",
        "2.0 is active again on web1, web2 (47 s, 0 of 2 646 requests failed)",
    ),
    ({"verb": "rotate_secret_key", "sent": 0}, "released", "a new secret key is active on web1, web2 (47 s)"),
    (
        {"result": "failed", "step": "start", "error": "start failed on 1 of the hosts:; web2: no \x1b[1mspace"},
        "failed",
        "2.1 failed in the phase start: start failed on 1 of the hosts:; web2: no ",
    ),
    (
        {"result": "refused", "step": "preflight", "error": "no"},
        "refused",
        "2.1 was refused in the phase preflight: no",
    ),
    ({"result": "interrupted"}, "interrupted", "2.1 was interrupted"),
    (
        {"hosts": {f"w{number}": "" for number in range(20)}, "sent": 0},
        "released",
        "2.1 is active on w0, w1, w2, w3, w4, w5, w6, w7, w8, w9, w10, w11 and 8 more (47 s)",
    ),
]


@pytest.mark.parametrize(("changes", "kind", "text"), RESULTS)
def test_deployment_on_several_hosts_is_one_message(master, changes, kind, text):
    master.look()
    [told] = master.look(deployments=[{**DONE, **changes}])
    assert master.argv[-1] == "since=7"
    assert (told["site"], told["kind"], told["what"]) == ("blog", kind, "event")
    assert told["text"].startswith(text) and "\x1b" not in told["text"]
    assert told["by"] == "ada (salt-run django.deploy on master1)"


def test_line_of_another_version_is_left_out_and_does_not_stay(master):
    told = master.look(deployments=[{"site": "blog"}, {**DONE, "sent": "many"}, {**DONE, "result": "new"}, DONE])
    assert [one["text"].split()[0] for one in told] == ["2.1"] and master.state["offset"] == 7


@pytest.mark.parametrize("answer", ["", "[" * 100000, "[1]", '{"hosts": 1}', {"error": "the master takes no jobs\nx"}])
def test_master_that_does_not_answer_is_a_problem_and_no_host_is_good_again(master, answer):
    assert [one["host"] for _ in range(2) for one in master.look(**SILENT)] == ["web2"]
    master.answer, master.code = answer, 1
    told = [one for _ in range(9) for one in master.look()]
    assert [(one["what"], one["kind"], one["site"]) for one in told] == [("problem", "watch", "")]
    assert told[0]["text"].startswith("the hosts are not watched: ") and "\n" not in told[0]["text"]


CHANNEL = {"kinds": None, "sites": [], "host": True, "fleet": [], "but": []}
SILENT_MESSAGE = {"kind": "silent", "site": "", "sites": ["blog"]}


@pytest.mark.parametrize(
    ("channel", "one", "expected"),
    [
        ({}, SILENT_MESSAGE, True),
        ({}, {"kind": "released", "site": "blog", "sites": ["blog"]}, False),
        ({"kinds": ["released"]}, {"kind": "released", "site": "blog", "sites": ["blog"]}, True),
        ({"but": ["blog"]}, SILENT_MESSAGE, False),
        ({"but": ["blog"]}, {**SILENT_MESSAGE, "sites": ["blog", "shop"]}, True),
        ({"host": False, "fleet": ["shop"]}, SILENT_MESSAGE, False),
        ({"host": False, "fleet": ["blog"]}, SILENT_MESSAGE, True),
    ],
)
def test_channels_of_the_master_take_what_is_about_their_sites(channel, one, expected):
    assert look.takes({**CHANNEL, **channel}, one) is expected


def test_look_is_kept_and_its_messages_wait_for_the_channels(master, watched, monkeypatch, tmp_path):
    monkeypatch.setattr(watch.spool, "STATE", tmp_path)
    started: list[str] = []
    monkeypatch.setattr(watch, "_start", lambda config: started.extend(config["channels"]))
    config = watched({**CONFIG, "channels": {"ops": CHANNEL}, "heartbeat": True})
    master.answer |= SILENT
    for _ in range(2):
        assert watch.take_fleet(config) == 0
    [path] = watch.spool.batches("ops")
    assert json.loads(path.read_text())["messages"][0]["host"] == "web2" and started == ["ops", "ops"]
    assert json.loads((tmp_path / "fleet.json").read_text())["offset"] == 7
