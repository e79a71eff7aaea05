"""The proof of a release in deployments: how it begins, what goes on meanwhile, and how it ends."""

import contextlib
import importlib
import itertools
import json
import os
import time
from types import SimpleNamespace

import pytest
from django_formula.deploy import proof_begin, proof_end, proof_run, steps
from django_formula.deploy.deployment import RepeatedFailure
from django_formula.host import file, locks
from django_formula.host.commands import DeploymentError
from django_formula.proof import state, unit
from django_formula.proof.judge import EXCEPTION, REFUSED, Question
from django_formula.proxy import lease, waiting
from django_formula.release import releases
from django_formula.release.releases import Release
from django_formula.untrusted import delegate
from django_formula.verbs import operations
from django_formula.verbs import proof as verbs
from django_formula.verbs.status import status
from fault_switch import CHANGES
from thinned import full

WHY_NOT, RUN = proof_begin.why_not, proof_run._Run
#: What a process of the site's user may answer that was manipulated.
HOSTILE = [{}, [[]], "returned 2", ["returned 2"] * 9, 7]
CANARY = {"steps": {"30%": "5m", "10%": "2m"}}


@pytest.fixture
def site(world, monkeypatch):
    """A site with an active release, whose next one gets a share of the visitors."""
    world.options = {"proxy": {"access_log": "json"}, "releases": {"canary": CANARY}}
    world.started, world.why_not = [], ""
    monkeypatch.setattr(unit, "start", lambda site: world.started.append(site.name))
    monkeypatch.setattr(unit, "runs", lambda site: bool(world.started))
    monkeypatch.setattr(proof_begin, "why_not", lambda deployment, release, live: world.why_not)
    monkeypatch.setattr(proof_end, "_PAGES", 0.0)
    world.apply()
    world.push("two")
    return world


def proven(site):
    """The proof that runs."""
    found = state.current(site.site)
    assert found is not None
    return found


def test_first_release_gets_all_visitors(site):
    assert state.last(site.site) is None and site.live.startswith("0001-")


def test_apply_gives_the_new_release_a_share_and_goes_on_with_the_active_one(site):
    changes = site.apply()
    assert changes["live"] == {"canary": "10 % for 2m, 30 % for 5m of the visitors"}
    assert site.live.startswith("0001-") and site.started == ["blog"] and not site.last.lock.is_held
    known = proven(site)
    assert (known.phase, known.share, known.old) == ("canary", 10, site.live) and known.release.startswith("0002-")
    assert os.readlink(site.site.root / "next") == f"releases/{known.release}"
    assert {"source", "instance"} <= known.steps.keys() and len(site.running) >= 2
    assert json.loads(site.site.deploys.read_text().splitlines()[-1])["result"] == "proving"


def test_state_says_that_nothing_was_switched(site):
    deployment = site.deployment()
    comments = {
        step.__name__: steps.outcome(step.__name__, deployment).comment for step in (steps.site, *steps.RELEASE)
    }
    assert comments["live"] == "blog: new release given a share of the visitors"


def test_dry_run_says_which_shares_it_gets(site):
    assert site.apply(test=True)["live"]["canary"] == "10 % for 2m, 30 % for 5m of the visitors"
    assert site.started == [] and state.last(site.site) is None


def test_second_apply_changes_nothing(site):
    site.apply()
    before = proven(site)
    assert site.apply() == {}
    assert f"{before.release} gets 10 % of the visitors, until " in site.last.warnings[0]
    assert proven(site) == before and site.started == ["blog"]


def test_release_without_a_canary_says_why(site):
    site.why_not = "nginx reaches the server by a port"
    site.apply()
    assert site.live.startswith("0002-") and state.last(site.site) is None
    text = f"{site.live} gets all visitors at once, without a canary: nginx reaches the server by a port"
    assert text in site.last.warnings


def test_newer_commit_takes_its_place(site):
    site.apply()
    former = proven(site).release
    site.push("three")
    site.apply()
    assert proven(site).release.startswith("0003-") and former not in os.listdir(site.site.releases)
    assert site.live.startswith("0001-") and not any(former.split("-")[0] in name for name in site.running)


def test_release_that_is_good_gets_all_visitors(site):
    site.apply()
    known = proven(site)
    proof_end.activate(site.site, known)
    assert site.live == known.release and state.current(site.site) is None
    assert not os.path.lexists(site.site.root / "next") and not lease.folder(site.site).exists()
    record = releases.Release(site.site, known.release).record
    assert record["state"] == "good" and record["proof"]["share"] == 10 and {"source", "live"} <= record["steps"].keys()
    assert json.loads(site.site.deploys.read_text().splitlines()[-1])["result"] == "released"
    site.check()
    assert site.apply() == {}


def test_release_that_is_worse_is_taken_back_and_not_tried_again(site):
    site.apply()
    known = proven(site)
    proof_end.take_back(site.site, known, "0002 raised KeyError in item for 2 visitors")
    assert site.live == known.old and state.current(site.site) is None
    ended = state.last(site.site)
    assert (ended.outcome, ended.why) == ("back", "0002 raised KeyError in item for 2 visitors")
    record = releases.Release(site.site, known.release).record
    assert record["state"] == "failed" and record["step"] == "canary"
    assert "canary=False releases it without a canary" in record["error"]
    with pytest.raises(RepeatedFailure, match="canary: 0002 raised KeyError"):
        site.apply()
    site.push("three")
    site.apply()
    assert proven(site).release.startswith("0003-")


def test_release_that_people_take_back_is_on_hold(site):
    site.apply()
    known = proven(site)
    assert verbs.back("blog") == {"release": known.old, "on hold": known.release}
    assert releases.Release(site.site, known.release).record["state"] == "held" and site.live == known.old
    assert site.apply() == {} and "is on hold since it was rolled back" in site.last.warnings[0]
    with pytest.raises(DeploymentError, match="no release of blog gets a share of the visitors now: the last one has"):
        verbs.back("blog")


def test_bake_keeps_the_former_release_for_a_tenth(site):
    site.options = {**site.options, "releases": {"canary": {**CANARY, "bake": "5m"}}}
    site.apply()
    known = proven(site)
    proof_end.activate(site.site, known)
    baking = proven(site)
    assert site.live == known.release and (baking.phase, baking.share) == ("bake", 10)
    assert os.readlink(site.site.root / "next") == f"releases/{known.old}"
    assert any(known.old.split("-")[0] in name for name in site.running)
    assert site.apply() == {} and any(known.old.split("-")[0] in name for name in site.running)
    proof_end.end_bake(site.site, baking)
    assert not any(known.old.split("-")[0] in name for name in site.running) and state.current(site.site) is None
    site.check()


def test_release_that_is_worse_in_the_bake_is_left(site):
    site.options = {**site.options, "releases": {"canary": {**CANARY, "bake": "5m"}}}
    site.apply()
    known = proven(site)
    proof_end.activate(site.site, known)
    proof_end.take_back(site.site, proven(site), "it leaks")
    assert site.live == known.old and releases.Release(site.site, known.release).record["state"] == "held"
    assert not any(known.release.split("-")[0] in name for name in site.running)
    assert not lease.folder(site.site).exists() and state.last(site.site).outcome == "back"
    site.check()


def test_share_of_the_command_line_and_a_token(site):
    site.apply()
    answer = verbs.share("blog", 20, token=True)
    known = proven(site)
    assert answer == {"release": known.release, "share": "20 %", "cookie": f"django_release={known.token}"}
    assert (known.share, known.stage, len(known.token)) == (20, -1, 32)
    assert verbs.share("blog", None, token=False) == {"release": known.release, "share": "20 %"}
    assert verbs.share("blog", "5%", token=None)["share"] == "5 %"
    for wrong in (60, -1, "many"):
        with pytest.raises(DeploymentError, match=f"a share is from 0 to 50 percent, not {wrong}"):
            verbs.share("blog", wrong, token=None)


@pytest.mark.parametrize("stage", [0, -1])
def test_share_that_people_choose_at_the_end_of_a_step_stays(site, monkeypatch, stage):
    """The program looks at it every two seconds only, and the last step gives all visitors the release."""
    site.apply()
    activated, last = [], len(state.stages(site.site)) - 1
    known = state.change(site.site, proven(site), stage=stage % (last + 1), since=time.time() - 1e6)
    run = proof_run._Run.__new__(proof_run._Run)
    run._site, run._proof, run._answered, run._record = site.site, known, 10**6, lambda: None
    run._new, run._hold = Release(site.site, known.release), lambda: True
    monkeypatch.setattr(proof_end, "activate", lambda *_given: activated.append(True))
    verbs.share("blog", 0, token=None)
    assert not run._is_step_over() and not activated
    assert (proven(site).share, proven(site).stage) == (0, -1)


def test_program_that_was_ended_is_started_on_request(site):
    site.apply()
    site.started.clear()
    assert verbs.show("blog")["problem"] == "its program does not run: salt-call django.canary blog"
    verbs.share("blog", None, token=None)
    assert site.started == ["blog"] and "problem" not in verbs.show("blog") and proven(site).share == 10


@pytest.mark.parametrize("holders", [[""], ["a proof, pid 1", "", "a proof, pid 2", ""]], ids=["dead", "fails anew"])
def test_wait_for_a_proof_that_no_process_carries_on_ends(site, monkeypatch, holders):
    site.apply()
    monkeypatch.setattr(verbs, "_LOOK", 0.01)
    monkeypatch.setattr(verbs, "_PATIENCE", 0.2)
    found = itertools.cycle(holders)
    monkeypatch.setattr(unit, "run_lock", lambda _site: SimpleNamespace(holder=lambda: next(found)))
    with pytest.raises(DeploymentError, match=r"does not go on: its program has not run for \d s; 0001-") as failed:
        verbs.wait("blog")
    assert failed.value.hint.startswith("salt-call django.canary blog starts it")


def test_wait_for_a_proof_that_goes_on_lasts_as_long_as_it(site, monkeypatch):
    site.apply()
    known, started = proven(site), time.monotonic()
    monkeypatch.setattr(verbs, "_LOOK", 0.01)
    monkeypatch.setattr(verbs, "_PATIENCE", 0.2)

    def holder():
        if time.monotonic() - started > 1:
            state.end(site.site, known, state.ACTIVE, "it is active")
        return "a proof, pid 1"

    monkeypatch.setattr(unit, "run_lock", lambda _site: SimpleNamespace(holder=holder))
    assert verbs.wait("blog") == {"canary": "it is active"} and time.monotonic() - started > 1


def test_requests_that_are_held_wait_for_both_releases(site, monkeypatch):
    site.apply()
    run = proof_run._Run.__new__(proof_run._Run)
    run._site, run._proof, run._reader = site.site, proven(site), SimpleNamespace(keys=())
    assert run._hold() and (lease.folder(site.site) / "on").exists() and len(run._reader.keys) == 10
    monkeypatch.setattr(waiting, "closed", lambda site: {"by": "django.hold"})
    assert run._hold() and not lease.folder(site.site).exists()


@pytest.mark.parametrize(
    ("kind", "host", "answers", "counts"),
    [
        (REFUSED, "blog.example.org", ["returned 200", "returned 404"], True),
        (REFUSED, "blog.example.org", ["returned 404", "returned 404"], False),
        (REFUSED, "blog.example.org", ["returned 200", "returned 200"], False),
        (REFUSED, "blog.example.org", ["returned 200", "returned 500"], False),
        (REFUSED, "blog.example.org", ["redirects in a circle, to /", "returned 404"], False),
        (REFUSED, "blog.example.org", DeploymentError("it does not answer"), False),
        (REFUSED, "other.example.org", None, False),
        (REFUSED, None, None, False),
        (EXCEPTION, "blog.example.org", ["returned 200"], True),
        (EXCEPTION, "blog.example.org", ["returned 404"], True),
        (EXCEPTION, "blog.example.org", ["returned 500"], False),
        (EXCEPTION, "blog.example.org", DeploymentError("it does not answer"), True),
        (EXCEPTION, "other.example.org", None, True),
        (EXCEPTION, None, None, True),
        *(
            (kind, "blog.example.org", answers, kind == EXCEPTION)
            for kind in (REFUSED, EXCEPTION)
            for answers in HOSTILE
        ),
    ],
)
def test_page_that_failed_is_requested_again(site, monkeypatch, kind, host, answers, counts):
    site.apply()
    known = proven(site)
    run, question, asked = proof_run._Run.__new__(proof_run._Run), Question(kind, known.release, "item"), []
    run._site, run._old, run._new = site.site, Release(site.site, known.old), Release(site.site, known.release)
    run._reader = SimpleNamespace(requests={question: (host, "/item/7/")} if host else {})

    def ask(user, function, sides, url, doing):
        asked.append(([side.release.name for side in sides], url))
        if isinstance(answers, Exception):
            raise answers
        return answers

    monkeypatch.setattr(delegate, "ask", ask)
    assert run._is_confirmed(question) == counts
    both = [known.old, known.release] if kind == REFUSED else [known.old]
    assert asked == ([(both, ("blog.example.org", "/item/7/"))] if host == "blog.example.org" else [])


def test_promotion_on_request_switches_now(site):
    site.apply()
    known = proven(site)
    assert verbs.finish("blog") == {"release": known.release} and site.live == known.release


@pytest.mark.parametrize("begun", ["rollback", "maintenance"])
def test_what_else_is_done_with_the_site_ends_it(site, begun):
    operations.release("blog", is_proved=True)
    site.push("three")
    site.apply()
    known = proven(site)
    if begun == "rollback":
        operations.rollback("blog")
    else:
        operations.maintenance("blog", "on", "")
    assert state.last(site.site).outcome == "superseded"
    assert site.live.startswith("0001-" if begun == "rollback" else "0002-")
    assert not any(known.release.split("-")[0] in name for name in site.running)


def test_share_that_its_program_renews_meanwhile_ends_too(site, monkeypatch):
    site.apply()
    monkeypatch.setattr(unit, "stop", lambda site: lease.hold(site, lease.first(10)))
    unit.supersede(site.site, "a newer release")
    assert not lease.folder(site.site).exists()


def test_rollback_that_is_refused_leaves_it(site):
    site.apply()
    with pytest.raises(DeploymentError, match="no older good release"):
        operations.rollback("blog")
    assert proven(site).release.startswith("0002-")


def test_program_that_does_not_run_any_more_is_begun_again(site):
    site.apply()
    site.started.clear()
    site.apply()
    assert proven(site).release.startswith("0003-") and site.live.startswith("0001-") and site.started == ["blog"]


def test_switch_that_was_killed_leaves_one_truth(site):
    site.apply()
    known = proven(site)
    file.link(site.site.current, f"releases/{known.release}")
    assert proven(site).phase == "bake"
    unit.supersede(site.site, "a newer release")
    assert site.live == known.release and any(known.release[:4] in name for name in site.running)


def test_program_goes_on_with_a_switch_that_was_killed(site):
    site.apply()
    known = proven(site)
    releases.Release(site.site, known.release).update(state="good", live_since="2026-03-01T12:00:00+00:00")
    file.link(site.site.current, f"releases/{known.release}")
    proof_end.end_bake(site.site, proven(site))
    assert state.last(site.site).outcome == "active" and not any(known.old[:4] in name for name in site.running)
    site.check()


class Killed(BaseException):
    """The end of a process at some moment."""


class Ending:
    """The run of a proof whose phase is over at once: a canary by a switch, or what is worse is taken back.

    back: the phase in which the release is taken back; it gets all visitors otherwise.
    stays: percent of the visitors who stay on the former release in the bake; 0 where there is none.
    """

    def __init__(self, back="", stays=0):
        self.back, self.stays, self.killed_before, self.changes, self.held = back, stays, 0, 0, []

    def changed(self, function):
        """A function that changes something, before which the process may be killed: it changes nothing more then."""

        def change(*arguments, **options):
            self.changes += 1
            if 0 < self.killed_before <= self.changes:
                raise Killed
            return function(*arguments, **options)

        return change

    def run(self, site, known):
        return SimpleNamespace(is_over=lambda: self.end(site, known) or True)

    def end(self, site, known):
        assert known.phase == state.CANARY or self.stays in (0, known.share)
        if known.phase == self.back:
            RUN._take_back(SimpleNamespace(_site=site, _proof=known), "it leaks")
        else:
            (proof_end.activate if known.phase == state.CANARY else proof_end.end_bake)(site, known)

    def kill(self, number, call):
        """Call something that is killed before this change; return whether it was, and has let go of its locks."""
        self.killed_before, self.changes = number, 0
        try:
            call()
        except Killed:
            return True
        finally:
            self.killed_before = 0
            for lock in self.held:
                lock.release()
        return False


@pytest.fixture
def ending(site, monkeypatch):
    """Make an ending, and have each change of `CHANGES` count for it."""

    def make(**options):
        ending = Ending(**options)
        take = locks.Lock.take
        monkeypatch.setattr(locks.Lock, "take", lambda lock: ending.held.append(lock) or take(lock))
        monkeypatch.setattr(proof_run, "_Run", ending.run)
        monkeypatch.setattr(unit, "disable", lambda site: None)
        for name, functions in CHANGES.items():
            module = importlib.import_module(f"django_formula.{name}")
            for function in functions:
                monkeypatch.setattr(module, function, ending.changed(getattr(module, function)))
        return ending

    return make


def is_alone(site):
    """Whether the active release is the only one that runs, and visitors get no other one."""
    runs = {name.rpartition(".")[0][12:16] for name in site.running}
    return runs == {site.live[:4]} and not lease.folder(site.site).exists()


@pytest.mark.parametrize("bake", ["0s", full("5m")])
@pytest.mark.parametrize("back", ["", *map(full, (state.CANARY, state.BAKE))])
def test_kill_before_each_change_of_an_end_leaves_one_release(site, ending, back, bake):
    """The program is started again: before the switch it makes it again, after it the bake ends."""
    if (back, bake) == (state.BAKE, "0s"):
        return
    site.options = {**site.options, "releases": {"canary": {**CANARY, "bake": bake}}}
    end = ending(back=back, stays=0 if bake == "0s" else proof_end.KEPT)
    for number in itertools.count(1):
        site.push(f"commit {number}")
        site.apply()
        known = state.change(site.site, proven(site), share=30)
        was_killed = end.kill(number, lambda: proof_run.main("blog"))
        assert site.live in (known.release, known.old)
        assert proof_run.main("blog") == 0
        assert site.live == (known.old if back else known.release), f"before change {number}"
        ended = state.last(site.site)
        assert (ended.outcome == state.ACTIVE) == (site.live == known.release) and is_alone(site), ended
        assert not os.path.lexists(site.site.root / "next")
        with contextlib.suppress(*[RepeatedFailure] if back else []):
            assert site.apply() == {}
        if not was_killed:
            break
    assert number > 10


def test_kill_before_each_change_of_a_beginning_leaves_the_active_release(site, ending):
    end = ending()
    former = site.live
    for number in itertools.count(1):
        site.push(f"commit {number}")
        was_killed = end.kill(number, site.apply)
        assert site.live == former
        known = state.current(site.site)
        site.apply()
        assert proven(site).old == former and site.live == former
        assert not was_killed or not known or known.release <= proven(site).release
        unit.supersede(site.site, "a newer release")
        assert is_alone(site), number
        if not was_killed:
            break
    assert number > 5


@pytest.mark.parametrize("phase", [state.CANARY, state.BAKE])
@pytest.mark.parametrize("left", [0, 100])
def test_torn_state_is_no_proof_and_the_next_apply_clears_it_away(site, ending, phase, left):
    """A loss of power may leave a file that was written without a sync empty or cut."""
    site.options = {**site.options, "releases": {"canary": {**CANARY, "bake": "5m"}}}
    site.apply()
    known = proven(site)
    if phase == state.BAKE:
        proof_end.activate(site.site, known)
    active, path = site.live, site.site.root / "proof/state.json"
    path.write_bytes(path.read_bytes()[:left])
    assert proof_run.main("blog") == 0 and site.live == active and state.last(site.site) is None
    assert "canary" not in status(site.site, visits=False)
    site.apply()
    if phase == state.CANARY:
        assert proven(site).old == active and site.live == active
        unit.supersede(site.site, "a newer release")
    assert is_alone(site) and site.live == active


def test_verdict_is_carried_out_after_a_kill(site):
    site.apply()
    known = proven(site)
    state.change(site.site, known, why="it leaks")
    proof_run._carry_on(site.site, proven(site))
    assert state.last(site.site).outcome == "back" and site.live == known.old


def test_former_release_that_does_not_start_again_leaves_the_new_one(site):
    site.options = {**site.options, "releases": {"canary": {**CANARY, "bake": "5m"}}}
    site.apply()
    known = proven(site)
    proof_end.activate(site.site, known)
    site.running -= {name for name in site.running if known.old[:4] in name}
    site.fails["systemctl enable"] = site.fails["systemctl start"] = DeploymentError("no")
    with pytest.raises(DeploymentError):
        proof_end.take_back(site.site, proven(site), "it leaks")
    assert site.live == known.release and state.last(site.site).outcome == "active"


def test_boot_of_the_host_gives_all_visitors_the_active_release(site):
    site.apply()
    known = proven(site)
    proof_end.interrupt(site.site, known, "the host was stopped meanwhile")
    assert state.last(site.site).outcome == "interrupted" and site.live == known.old
    site.apply()
    assert proven(site).release.startswith("0003-")


def test_status_says_what_runs(site):
    site.apply()
    text = status(site.site, visits=False)["canary"]
    assert "gets 10 % of the visitors, until " in text and text.endswith("at least")
    site.started.clear()
    assert status(site.site, visits=False)["canary"] == f"{text}; its program does not run"


def test_switch_that_fails_leaves_the_active_release(site):
    site.apply()
    known = proven(site)
    site.problems["0002"] = "returned 500"
    with pytest.raises(DeploymentError, match="returned 500"):
        proof_end.activate(site.site, known)
    assert site.live == known.old and state.last(site.site).outcome == "back"
    assert releases.Release(site.site, known.release).record["state"] == "failed"


def test_failing_program_of_the_proof_leaves_no_share(site, monkeypatch):
    def refuse(site):
        raise DeploymentError("starting django-blog-proof.service failed")

    monkeypatch.setattr(unit, "start", refuse)
    with pytest.raises(DeploymentError, match="starting django-blog-proof"):
        site.apply()
    assert state.current(site.site) is None and site.live.startswith("0001-")
    assert not any("0002" in name for name in site.running)


def test_release_for_all_visitors_at_once_on_request(site):
    operations.release("blog", is_proved=True)
    assert site.live.startswith("0002-") and state.last(site.site) is None


@pytest.fixture
def judged(site, monkeypatch, tmp_path):
    """The site with what decides whether a release may have a canary: all of it allows one, until a test changes it."""
    nginx = SimpleNamespace(main_file=lambda site: tmp_path / "django-blog.conf")
    nginx.main_file(site.site).write_text(f"upstream django-blog-next {{ server unix:{site.site.root}/next/socket; }}")
    monkeypatch.setattr(proof_begin, "proxies", SimpleNamespace(serving=lambda site: nginx))
    files = SimpleNamespace(files_of_site=lambda own, facts, templates: facts.get("static_url"))
    monkeypatch.setattr(proof_begin, "site_files", files)
    monkeypatch.setattr(proof_begin, "why_not", WHY_NOT)
    site.nginx = nginx
    return site


def reason(judged):
    """Why the next release gets no canary; empty where it gets one."""
    judged.apply()
    texts = [text for text in judged.last.warnings if "without a canary: " in text]
    assert bool(texts) == (state.current(judged.site) is None)
    return texts[0].partition("without a canary: ")[2] if texts else ""


def test_release_that_both_can_serve_at_one_time_gets_a_canary(judged):
    assert reason(judged) == ""


def test_nginx_without_the_configuration_yet(judged):
    judged.nginx.main_file(judged.site).write_text("upstream django-blog {}")
    assert reason(judged) == "nginx does not have its configuration yet, the next release can"


def test_other_files_of_nginx(judged):
    judged.answers = {"static_url": "/files/"}
    assert reason(judged) == "nginx needs other files for it, such as for another STATIC_URL"


def test_server_on_a_port(judged):
    judged.options = {**judged.options, "server": {"kind": "gunicorn", "bind": "127.0.0.1:8001"}}
    assert reason(judged).startswith("nginx reaches one by unix and uwsgi, the other by tcp and http")


def test_database_that_is_not_shared(judged):
    judged.options = {**judged.options, "cache": {"engine": "redis", "host": "192.0.2.1"}}
    assert reason(judged).startswith("it does not share its caches with 0001-")


@pytest.mark.parametrize(("kind", "fails"), [("celery", False), ("rq", True), ("huey", True), ("command", False)])
def test_workers_that_fail_unknown_tasks(judged, kind, fails):
    own = {"command": "manage.py listen"} if kind == "command" else {}
    judged.options = {**judged.options, "workers": {"tasks": {"kind": kind, **own}}}
    text = f"workers of the kind {kind} fail tasks that they do not know, which it may send" if fails else ""
    assert reason(judged) == text


@pytest.mark.parametrize("kind", ["rq", "huey"])
def test_release_whose_tasks_the_active_one_would_fail_gets_visitors_by_the_switch_and_is_compared_then(judged, kind):
    judged.options |= {
        "workers": {"tasks": {"kind": kind}},
        "releases": {"canary": {**CANARY, "bake": "5m"}},
    }
    stays = "; then a tenth stays on the former one for 5m"
    why = f"workers of the kind {kind} fail tasks that they do not know, which it may send"
    assert judged.apply(test=True)["live"]["canary"] == f"no visitors before the switch: {why}{stays}"
    assert reason(judged) == ""
    known = proven(judged)
    assert known.share == 0 and judged.live == known.old
    for what in ({"percent": 20, "token": None}, {"percent": None, "token": True}):
        with pytest.raises(DeploymentError, match="gets no visitors before the switch: workers of the kind"):
            verbs.share("blog", **what)
    run = proof_run._Run.__new__(proof_run._Run)
    run._site, run._proof, run._answered, run._record = judged.site, known, 0, lambda: None
    assert run._is_step_over()
    baking = proven(judged)
    assert (judged.live, baking.phase, baking.share) == (known.release, "bake", 10)
    assert verbs.share("blog", 20, token=None)["share"] == "20 %"
    proof_end.take_back(judged.site, baking, "its tasks fail")
    assert judged.live == known.old
    judged.check()


@pytest.mark.parametrize("jump", [-8 * 3600, 8 * 3600])
def test_step_lasts_as_long_as_its_duration_although_the_clock_is_set(judged, monkeypatch, jump):
    """As after a pause of the virtual machine: else no visitor has met what all of them get."""
    judged.options |= {"releases": {"canary": {**CANARY, "bake": "5m"}}}
    judged.apply()
    known = proven(judged)
    run = proof_run._Run.__new__(proof_run._Run)
    run._site, run._proof, run._answered, run._record = judged.site, known, 10**6, lambda: None
    run._new = Release(judged.site, known.release)
    activated, passed, real, steady = [], [0.0], time.time, time.monotonic
    monkeypatch.setattr(proof_end, "activate", lambda *_given: activated.append(True))
    monkeypatch.setattr(proof_run.lease, "hold", lambda *_given: None)
    monkeypatch.setattr(run, "_hold", lambda: setattr(run, "_proof", state.current(judged.site)) or True)
    monkeypatch.setattr(time, "monotonic", lambda: steady() + passed[0])
    assert not run._is_step_over() and not run._is_bake_over()
    monkeypatch.setattr(time, "time", lambda: real() + jump)
    assert not run._is_step_over() and not run._is_bake_over() and not activated
    for _look in range(4):
        passed[0] += 1e5
        run._answered = 10**6
        assert run._is_step_over() is bool(activated)
        if activated:
            return
    raise AssertionError("a step does not end")


def test_state_says_that_such_a_release_is_compared_after_its_switch(judged):
    judged.options |= {"workers": {"tasks": {"kind": "rq"}}, "releases": {"canary": {**CANARY, "bake": "5m"}}}
    deployment = judged.deployment()
    comments = {
        step.__name__: steps.outcome(step.__name__, deployment).comment for step in (steps.site, *steps.RELEASE)
    }
    assert comments["live"] == "blog: new release compared after its switch"


def test_active_release_that_does_not_run(judged):
    judged.running.clear()
    judged.running.update()
    assert reason(judged).endswith("does not run")
