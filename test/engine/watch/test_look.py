"""What one look finds of a site, the walk through it, its queue, and a look that raises."""

import fcntl
import json
import math
import os
import stat
import threading
import time

import pytest
from django_formula.audit import chain
from django_formula.host import clock, file
from django_formula.release import releases
from django_formula.watch import decide, look, notify, problem, setup, spool, walk, watch
from django_formula.watch.problem import Problem
from specimen import configured

DOWN = [Problem("down", "GET / returned 502", "salt-call django.doctor blog", "health")]
SLOW = Problem("degraded", "GET / takes 4.0 s", "salt-call django.logs blog", "slow")
BROKEN = ("socket", True, "www-data may not connect", "chmod a+x /srv/django/blog", "")
CONFIG = {"queue": 1000, "channels": {}}


@pytest.fixture
def walked(monkeypatch):
    """Have the walk find a link; return the list of sites through which it was made."""
    made = []

    def given(link):
        monkeypatch.setattr(walk, "broken_link", lambda name: made.append(name) or list(link))
        return made

    return given


def state(**own):
    """What is kept between two looks, of a site that the last look has found down."""
    return {"known": {"blog/down": {"looks": [True]}}, "sites_seen": {"blog": own}}


def explained(kept, found=DOWN, now=0.0, walking=float("inf")):
    return [tuple(one) for one in look._explained("blog", [*found], kept, now, walking)]


def test_site_that_is_down_is_explained_by_the_broken_link(walked):
    made = walked(BROKEN)
    cure = ("down", "socket: www-data may not connect", "chmod a+x /srv/django/blog", "walk")
    assert explained(state(), [*DOWN, SLOW]) == [cure, tuple(SLOW)] and made == ["blog"]


def test_what_to_do_is_in_the_message_where_no_command_cures_it(walked):
    walked((*BROKEN[:3], "", "connect to it"))
    assert explained(state())[0][2] == "connect to it"


def test_walk_that_finds_nothing_leaves_what_the_look_has_found(walked):
    walked(())
    assert explained(state()) == [tuple(DOWN[0])]


def test_first_look_and_one_that_has_walked_for_long_do_not_walk(walked):
    made = walked(BROKEN)
    first = {"known": {"blog/down": {"looks": [False]}}, "sites_seen": {"blog": {}}}
    assert explained(first) == explained(state(), walking=0.0) == [tuple(DOWN[0])] and made == []


def test_site_that_stays_down_in_the_same_way_is_walked_through_every_ten_minutes(walked):
    made, kept = walked(BROKEN), state()
    for now in (0.0, 60.0, 599.0, 601.0):
        assert explained(kept, now=now)[0][3] == "walk"
        kept = json.loads(json.dumps(kept))
    assert len(made) == 2
    explained(kept, [DOWN[0]._replace(text="GET / returned 500")], 602.0)
    assert len(made) == 3
    assert explained(kept, [SLOW], 603.0) == [tuple(SLOW)] and "walk" not in kept["sites_seen"]["blog"]


#: Tasks that wait at each look → the problem of the last one.
QUEUES = {
    "it never shrinks": (range(0, 30, 3), "its queue has grown from 0 to 27 tasks in 10 looks, and never shrunk"),
    "it shrinks once": ([0, 3, 6, 9, 8, 12, 15, 18, 21, 24], ""),
    "it grows a little": ([5] * 9 + [7], ""),
    "not long enough": (range(0, 900, 100), ""),
    "more than the limit": ([1001], "1001 tasks wait in its queue"),
}


@pytest.mark.parametrize("name", QUEUES)
def test_queue_from_which_nothing_is_taken(name):
    counts, expected, own = *QUEUES[name], {}
    for count in counts:
        row = {"stores": f"queue 1M of 64M, {count} tasks wait; cache 1M of 64M"}
        found = list(look._of_queue(configured(), row, own, CONFIG))
    assert [one.text for one in found] == ([expected] if expected else [])


def test_queue_that_does_not_answer_is_counted_anew():
    own = {"waiting": [1, 2]}
    assert [*look._of_queue(configured(), {"stores": "queue does not answer"}, own, CONFIG)] == []
    assert own["waiting"] == []


#: Stores of a row → the tasks that wait.
WAITING = {
    "queue 1M of 64M, 14 tasks wait; cache 1M of 64M": 14,
    "queue 1M of 64M, 14 tasks wait, 2 unacknowledged": 14,
    "queue 1M of 64M; cache 1M of 64M": 0,
    "queue 1M of 64M, 2 unacknowledged": 0,
    "queue does not answer; cache 1M of 64M": None,
    "cache 1M of 64M": None,
    "": None,
    None: None,
}


@pytest.mark.parametrize("text", WAITING)
def test_waiting_tasks_are_read_from_the_row(text):
    assert problem.waiting({"stores": text}) == WAITING[text]


def test_walk_that_raises_without_systemd_ends_no_look(monkeypatch, tmp_path):
    monkeypatch.setattr(walk.daemons, "has_systemd", lambda: False)
    monkeypatch.setattr(walk.spool, "STATE", tmp_path)
    monkeypatch.setattr(walk, "main", lambda _name: 1 / 0)
    assert walk.broken_link("blog") == []


def test_site_that_cannot_be_looked_at_is_a_problem_of_its_own(monkeypatch):
    def raises(*_arguments):
        raise KeyError("hostile\x1b[2J")

    monkeypatch.setattr(look, "_of_site", raises)
    seen = look._of_any_site("blog", {}, {}, 0.0)
    (one,) = seen.problems
    assert (one.kind, one.command) == ("watch", "salt-call django.status blog")
    assert one.text.startswith("the watch cannot look at it: KeyError: ") and "\x1b" not in one.text
    assert seen.row["site"] == "blog" and seen.events == []


@pytest.mark.parametrize(
    ("asked_by", "fleet", "is_reported"),
    [
        ("ada (salt-run django.deploy on master1)", "master1", False),
        ("ada (salt-run django.deploy on master1)", "", True),
        ("state.apply by root, salt job 20260301", "master1", True),
    ],
)
def test_host_leaves_deployments_on_several_hosts_to_a_master_that_reports_them(
    make_site, asked_by, fleet, is_reported
):
    site, own = make_site(), {"attempts": 0}
    releases.append_attempt(site, {"result": "failed", "step": "start", "error": "x", "asked_by": asked_by})
    assert len([*look._attempts(site, own, 0.0, fleet)]) == is_reported
    assert own["attempts"] == site.deploys.stat().st_size


@pytest.mark.parametrize(("ended", "is_reported"), [(-60, False), (0, True), (60, True)])
def test_deployment_of_a_site_that_comes_is_reported_if_it_ended_after_the_last_look(
    make_site, monkeypatch, tmp_path, ended, is_reported
):
    """The unit that waits for deployments misses the one that makes their file, and the next one is the first seen."""
    monkeypatch.setattr(look.spool, "CONFIG", tmp_path / "watch.json")
    assert look._since({}) == math.inf, "a host that is not watched has history alone"
    look.spool.CONFIG.write_text("{}")
    os.utime(look.spool.CONFIG, (1e9, 1e9))
    assert look._since({}) == 1e9 and look._since({"time": 5.5}) == 5.5
    site, own = make_site(), {}
    releases.append_attempt(site, {"time": clock.timestamp(1e9 + ended), "result": "failed", "error": "x"})
    assert [*look._attempts(site, {}, 0.0, "")] == []
    assert len([*look._attempts(site, own, 0.0, "", 1e9 + 0.9)]) == is_reported
    assert own["attempts"] == site.deploys.stat().st_size
    assert [*look._attempts(site, own, 0.0, "", 1e9)] == []


def test_state_that_a_loss_of_power_has_emptied_makes_no_news_of_old_deployments(make_site, monkeypatch, tmp_path):
    monkeypatch.setattr(spool, "STATE", tmp_path)
    monkeypatch.setattr(spool, "CONFIG", tmp_path / "watch.json")
    for path, time_of in ((spool.CONFIG, 1e9), (tmp_path / "state.json", 2e9)):
        path.write_text("")
        os.utime(path, (time_of, time_of))
    site, since = make_site(), look._since(spool.state())
    for ended in (1e9 + 60, 2e9 + 60):
        releases.append_attempt(site, {"time": clock.timestamp(ended), "result": "failed", "error": str(ended)})
    assert [one["text"].split()[-1] for one in look._attempts(site, {}, 0.0, "", since)] == [str(2e9 + 60)]


def test_message_about_a_rollback_names_the_release_that_is_active_again(make_site):
    site, own = make_site(), {"attempts": 0}
    releases.append_attempt(site, {"result": "rolled back", "release": "0002-c71d97a38e83", "asked_by": "ada"})
    (one,) = look._attempts(site, own, 0.0, "")
    assert (one["kind"], one["text"]) == ("rolled_back", "rolled back to 0002-c71d97a38e83")


@pytest.mark.parametrize(
    ("release", "speaks_tls", "kinds"),
    [
        ("", True, ["down"]),
        ("0001-c71d97a38e83", True, ["certificate"]),
        ("0001-c71d97a38e83", False, []),
    ],
)
def test_site_that_gets_its_first_certificate_has_no_problem_with_it(
    make_site, monkeypatch, release, speaks_tls, kinds
):
    """The apply that makes its first release, or adds `tls`, makes the certificate a moment later."""
    site = make_site()
    monkeypatch.setattr(look.proxies, "is_installed", lambda _site: True)
    monkeypatch.setattr(look.proxies, "speaks_tls", lambda _site: speaks_tls)
    monkeypatch.setattr(look, "_of_served", lambda *_given: [])
    row = {"site": "blog", "release": release, "running": bool(release), "damage": "", "maintenance": "since now"}
    monkeypatch.setattr(look.sites, "find", lambda _name: site)
    monkeypatch.setattr(look.status, "row", lambda *_given, **_how: {**row, "certificate": "a.org: missing"})
    seen = look._of_site("blog", {}, {"queue": 100}, 0.0)
    assert [one.kind for one in seen.problems] == kinds


@pytest.mark.parametrize(("seen", "told"), [([2, 0], [1, 0, 0]), ([2, 2], [1, 1, 1]), ([0, 2], [0, 0, 0])])
@pytest.mark.parametrize("what", ["drift", "served"])
def test_what_an_apply_has_changed_in_part_is_wrong_in_one_look_only(make_site, monkeypatch, what, seen, told):
    """Such as a certificate that the proxy is about to read. What two looks find is reported."""
    site, found = make_site(tls={"kind": "self_signed"}), iter(seen)
    monkeypatch.setattr(look.proxies, "is_installed", lambda _site: True)
    monkeypatch.setattr(look, "_drift", lambda _name: next(found) if what == "drift" else 0)
    monkeypatch.setattr(look, "_served", lambda _site: "x" * next(found) if what == "served" else "")
    row = {"site": "blog", "release": "0001-c71d97a38e83", "running": True, "damage": "", "maintenance": "since now"}
    monkeypatch.setattr(look.sites, "find", lambda _name: site)
    monkeypatch.setattr(look.status, "row", lambda *_given, **_how: dict(row))
    state = {}
    looks = [look._of_site("blog", state, {"queue": 100, "drift": True}, 1e9 + 60 * number) for number in range(3)]
    assert [len([one for one in each.problems if one.key == what]) for each in looks] == told


def test_files_of_a_site_that_is_deployed_are_not_compared(make_site, monkeypatch):
    """They are those of the pillar's next release, maybe for minutes."""
    compared, deployed = [], iter([True, True, False])
    monkeypatch.setattr(look, "_drift", lambda name: compared.append(name) or 0)
    monkeypatch.setattr(look, "_is_deployed", lambda _site: next(deployed))
    row = {"site": "blog", "release": "0001-c71d97a38e83", "running": True, "damage": "", "maintenance": "since now"}
    monkeypatch.setattr(look.sites, "find", lambda _name: make_site())
    monkeypatch.setattr(look.status, "row", lambda *_given, **_how: dict(row))
    state = {}
    for number in range(3):
        look._of_site("blog", state, {"queue": 100, "drift": True}, 1e9 + 60 * number)
        assert len(compared) == (number == 2)


@pytest.mark.parametrize("hold", ["", "since 2026-03-01T12:00:00Z, by django.hold"])
def test_site_whose_requests_are_held_is_not_visited(make_site, monkeypatch, hold):
    visits = []
    monkeypatch.setattr(look, "_of_visit", lambda site, _row: visits.append(site.name) or [])
    monkeypatch.setattr(look, "_of_served", lambda *_given: [])
    row = {"site": "blog", "release": "0001-c71d97a38e83", "running": True, "damage": "", "maintenance": ""}
    monkeypatch.setattr(look.sites, "find", lambda _name: make_site())
    monkeypatch.setattr(look.status, "row", lambda *_given, **_how: {**row, **({"hold": hold} if hold else {})})
    seen = look._of_site("blog", {}, {"queue": 100}, 0.0)
    assert visits == ([] if hold else ["blog"])
    is_quiet = look.quiet_by({"quiet": []}, look.Seen({}, [], [seen.row], {}), 0.0)
    assert is_quiet("blog", "down") is bool(hold)


@pytest.mark.parametrize(
    ("is_deployed", "is_good", "sites"), [(True, False, []), (True, True, ["wiki"]), (False, False, ["wiki"])]
)
def test_site_whose_turn_in_an_apply_is_to_come_is_not_down(monkeypatch, is_deployed, is_good, sites):
    monkeypatch.setattr(look.sites, "registered", lambda: ["blog", "wiki"])
    for name, answer in (("units", {}), ("of_units", ([], [])), ("of_host", ([], [])), ("counters", {})):
        monkeypatch.setattr(look.machine, name, lambda *_given, answer=answer: answer)
    monkeypatch.setattr(look, "_consoles", lambda *_given: [])
    monkeypatch.setattr(walk, "rivals", lambda *_given: {})
    monkeypatch.setattr(walk, "broken_link", lambda _name: [])
    seen = {"blog": look._SiteSeen([], [], {}, is_deployed=is_deployed), "wiki": look._SiteSeen([*DOWN], [], {})}
    monkeypatch.setattr(look, "_of_any_site", lambda name, *_given: seen[name])
    kept = {"sites_seen": {"wiki": {"good": is_good}}}
    assert [one["site"] for one in look.examine(kept, CONFIG, 0.0).problems.values()] == sites


def test_site_that_is_made_anew_after_its_removal_is_not_taken_for_the_former_one(monkeypatch):
    for name, answer in (("units", {}), ("of_host", ([], [])), ("counters", {})):
        monkeypatch.setattr(look.machine, name, lambda *_given, answer=answer: answer)
    monkeypatch.setattr(look, "_consoles", lambda *_given: [])
    monkeypatch.setattr(look, "_of_any_site", lambda *_given: look._SiteSeen([], [], {}))
    kept = {"sites_seen": {"blog": {"good": True, "attempts": 5000}, "wiki": {"good": True}}}
    for names, expected in ((["wiki"], ["wiki"]), (["blog", "wiki"], ["wiki"])):
        monkeypatch.setattr(look.sites, "registered", lambda names=names: names)
        look.examine(kept, CONFIG, 0.0)
        assert [*kept["sites_seen"]] == expected


@pytest.mark.parametrize(
    ("schedule", "limit"),
    [
        ("hourly", 3 * 3600),
        ("daily", 26 * 3600),
        ("weekly", 7.5 * 86400),
        ("monthly", 32 * 86400),
        ("03:30", 26 * 3600),
        ("00/6:00", 8 * 3600),
        ("Mon..Fri 03:30", 3 * 86400 + 3 * 86400 / 14),
    ],
)
def test_backup_is_too_old_by_its_schedule(make_site, schedule, limit):
    site, made = make_site(backup={"schedule": schedule}), 1772366400
    for late, expected in ((-1, []), (1, ["backup"])):
        row = {"backup": clock.timestamp(made)}
        assert [one.kind for one in look._of_backups(site, row, made + limit + late)] == expected
    assert [*look._of_backups(make_site(), {"backup": clock.timestamp(made)}, 2e9)] == []


def test_site_that_comes_or_is_deployed_needs_more_looks():
    own, backup = {}, Problem("backup", "no backup since it was released", "salt-call django.backup blog", "age")
    assert look._need(own, [], is_deployed=True, is_released=False) == decide.OF
    assert look._need(own, [*DOWN], is_deployed=False) == decide.OF, "its first apply is under way"
    assert look._need(own, [backup], is_deployed=False) == decide.BAD
    assert look._need(own, [*DOWN], is_deployed=False) == decide.BAD
    assert look._need(own, [*DOWN], is_deployed=True) == decide.OF


def test_look_in_which_the_clock_is_set_has_not_taken_long(tmp_path, watched, monkeypatch):
    def sets_the_clock(*_arguments):
        real = time.time
        monkeypatch.setattr(time, "time", lambda: real() + 8 * 3600)
        return look.Seen({}, [], [], {})

    monkeypatch.setattr(spool, "STATE", tmp_path)
    monkeypatch.setattr(look, "examine", sets_the_clock)
    assert watch.take(watched({"channels": {}, "quiet": [], "heartbeat": False})) == 0
    assert 0 <= spool.state()["took"] < 60


@pytest.mark.parametrize("is_fleet", [False, True])
def test_look_that_began_before_an_apply_writes_nothing_of_what_the_apply_has_removed(
    tmp_path, watched, monkeypatch, is_fleet
):
    def applies(*_arguments):
        watched(new)
        return ([], {"web1": {}}) if is_fleet else look.Seen({}, [], [], {})

    monkeypatch.setattr(spool, "STATE", tmp_path / "state")
    monkeypatch.setattr(spool, "PAGE", tmp_path / "page")
    monkeypatch.setattr(watch.fleet if is_fleet else look, "take" if is_fleet else "examine", applies)
    new = {"channels": {}, "quiet": [], "heartbeat": False}
    metrics = tmp_path / "metrics"
    old = watched({**new, "metrics": str(metrics), "page": True, "page_of": "all" if is_fleet else "host"})
    metrics.mkdir()
    assert (watch.take_fleet if is_fleet else watch.take)(old) == 0
    assert [*metrics.iterdir()] == [] and not (tmp_path / "page").exists() and spool.state() == {}


def test_no_other_user_may_hold_the_lock_of_looks_and_applies(watched, monkeypatch):
    """One who may open a folder may lock it: every look and every apply would wait for ever."""
    modes, flock = [], fcntl.flock

    def lock(number, operation):
        modes.append(stat.S_IMODE(os.fstat(number).st_mode))
        flock(number, operation)

    watched({})
    monkeypatch.setattr(fcntl, "flock", lock)
    with spool.locked():
        assert modes and not any(mode & 0o077 for mode in modes)


@pytest.mark.parametrize("wanted", [None, {"metrics": None, "page": False, "every": 60}])
def test_apply_waits_for_a_look_that_writes(tmp_path, watched, monkeypatch, wanted):
    def changes(*_arguments):
        done.set()

    watched({"metrics": "/nonexistent"})
    done = threading.Event()
    for name in ("_remove", "_remove_metrics", "_apply"):
        monkeypatch.setattr(setup, name, changes)
    monkeypatch.setattr(setup, "_present", lambda: [spool.CONFIG])
    monkeypatch.setattr(setup, "_files", lambda _wanted: {})
    monkeypatch.setattr(setup.users, "find_user", lambda _name: None)
    with spool.locked():
        apply = threading.Thread(target=setup.watch, args=(wanted, {}), kwargs={"test": False})
        apply.start()
        assert not done.wait(0.2)
    apply.join(60)
    assert done.is_set()


@pytest.mark.parametrize("is_fleet", [False, True])
def test_look_that_cron_has_started_during_another_one_tells_nothing_twice(tmp_path, watched, monkeypatch, is_fleet):
    def examine(state, *_arguments):
        began.append(state)
        if len(began) == 1:
            take(config)
        return (messages, {"web1": {}}) if is_fleet else look.Seen({}, messages, [], {})

    monkeypatch.setattr(spool, "STATE", tmp_path / "state")
    monkeypatch.setattr(watch.daemons, "has_systemd", lambda: True)
    monkeypatch.setattr(watch.units, "attempt", lambda *_arguments, **_options: None)
    monkeypatch.setattr(watch.fleet if is_fleet else look, "take" if is_fleet else "examine", examine)
    channel = {"format": "json", "kinds": [], "sites": ["blog"], "but": [], "fleet": [], "host": True}
    config = watched({"channels": {"chat": channel}, "quiet": [], "heartbeat": False})
    messages, began = [look.event("blog", "failed", "0002 failed", "", 0.0)], []
    take = watch.take_fleet if is_fleet else watch.take
    monkeypatch.setattr(watch.pages, "of_hosts", lambda *_arguments: None)
    assert take(config) == 0 and len(began) == 2
    assert len(spool.batches("chat")) == 1


def test_sites_that_two_commands_have_be_quiet_at_once_are_both_quiet(tmp_path, watched, monkeypatch):
    def write(path, *arguments, **options):
        if not other.ident:
            other.start()
            other.join(0.3)
        real(path, *arguments, **options)

    watched({"channels": {}})
    monkeypatch.setattr(spool, "STATE", tmp_path)
    monkeypatch.setattr(notify.sites, "find", lambda _name: None)
    real, other = file.write_json, threading.Thread(target=notify.notify, args=("quiet", "shop", "2h", "", "ada"))
    monkeypatch.setattr(notify.file, "write_json", write)
    notify.notify("quiet", "blog", "2h", "", "bob")
    other.join()
    assert spool.quiet().keys() == {"blog", "shop"}


def test_site_that_was_quietened_while_the_clock_was_ahead_is_not_quiet_for_years(tmp_path, watched, monkeypatch):
    watched({"channels": {}})
    monkeypatch.setattr(spool, "STATE", tmp_path)
    monkeypatch.setattr(notify.sites, "find", lambda _name: None)
    real = time.time
    monkeypatch.setattr(time, "time", lambda: real() + 1e8)
    notify.notify("quiet", "blog", "2h", "moving the database", "ada")
    assert [*spool.quiet()] == ["blog"]
    monkeypatch.setattr(time, "time", real)
    assert [*spool.quiet()] == []


def test_channel_that_fails_for_some_time_is_a_problem_until_it_works(tmp_path, monkeypatch):
    monkeypatch.setattr(spool, "STATE", tmp_path)
    config = {"channels": {"chat": {}, "mail": {}}}
    spool.put("chat", {"messages": []})
    spool.keep_retry("chat", tries=4, at=0, error="HTTP 401")
    assert [*look._of_channels(config)] == []
    spool.keep_retry("chat", tries=5, at=0, error="HTTP 401")
    (found,) = look._of_channels(config)
    assert (found.kind, found.text) == ("watch", "messages by the channel chat fail: HTTP 401")
    assert found.command == "salt-call django.notify test chat"
    monkeypatch.setattr(spool, "host", lambda: "web1")
    monkeypatch.setattr(notify.commands, "run", lambda *_arguments, **_options: "")  # it fails again
    assert notify._tried(config, "chat") == {"chat": "HTTP 401"}
    assert [*look._of_channels(config)] == [found]
    spool.keep_retry("chat")
    assert [*look._of_channels(config)] == []


def test_batches_that_were_given_up_do_not_pile_up(tmp_path, monkeypatch):
    monkeypatch.setattr(spool, "STATE", tmp_path)
    monkeypatch.setattr(spool, "MOST", 2)
    for number in range(4):
        spool.put("chat", {"number": number})
        spool.batches("chat")[-1].rename(spool.folder("chat") / f"{number}.lost")
    spool.forget_lost("chat")
    assert sorted(path.name for path in spool.folder("chat").iterdir()) == ["2.lost", "3.lost"]


def test_consoles_around_a_new_year_are_reported(monkeypatch, tmp_path):
    monkeypatch.setattr(chain, "FOLDER", tmp_path)
    kept = {}

    def opened(time, reason):
        monkeypatch.setattr(clock, "now", lambda: time)
        act = {"verb": "shell", "site": "blog", "who": "ada", "from": "", "result": "begun"}
        chain.append({"time": time, **act, "arguments": {"write": reason}})

    def told():
        return [one["text"].partition(": ")[2] for one in look._consoles(kept, 0.0)]

    for minute in range(10, 20):
        opened(f"2025-12-31T23:{minute}:00Z", "before the first look")
    assert told() == []
    opened("2025-12-31T23:59:00Z", "the last one")
    opened("2026-01-01T00:00:00Z", "the first one")
    assert len(chain.years()) == 2 and told() == ["the last one", "the first one"] and told() == []
    opened("2026-01-01T00:01:00Z", "the second one")
    assert told() == ["the second one"]


def test_consoles_that_can_change_data_are_reported_once(monkeypatch, tmp_path):
    monkeypatch.setattr(chain, "FOLDER", tmp_path)
    kept = {}

    def opened(**more):
        chain.append({"verb": "shell", "site": "blog", "who": "ada", "from": "192.0.2.7", "result": "begun", **more})
        return [(one["kind"], one["text"], one["by"]) for one in look._consoles(kept, 0.0)]

    assert opened(arguments={"write": "before the first look"}) == []
    told = ("shell", "a console that can change data was opened: ticket 311", "ada 192.0.2.7")
    assert opened(arguments={"kind": "bash", "write": "ticket 311"}) == [told]
    assert opened(arguments={"kind": "bash"}) == opened(arguments=None) == []
    assert opened(arguments={"write": "ticket 311"}, result="exit 0") == []
    assert opened(arguments={"write": "ticket 311"}, verb="release") == []
    one = look.event("blog", "shell", "", "", 0.0)
    channel = {"kinds": None, "sites": ["blog"], "host": True}
    assert not look.takes(channel, one) and look.takes({**channel, "kinds": ["shell"]}, one)
