"""What a host does for a fleet's deployment: each verb in the played world, and applies between them."""

import fcntl
import os
import re
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from django_formula.deploy import proof_begin, proof_end, proof_run, removal
from django_formula.host.commands import DeploymentError
from django_formula.kind import kinds
from django_formula.proof import state
from django_formula.proof import unit as proof_unit
from django_formula.proxy import lease
from django_formula.release import claim as release_claim
from django_formula.release.releases import Release
from django_formula.verbs import fleet as verbs
from django_formula.verbs import logs as verbs_logs
from django_formula.verbs import operations
from django_formula.verbs import proof as verbs_proof
from engine.deploy.test_deployment import ONE, THREE, TWO

ENGINE = Path(__file__).parents[3] / "engine/django_formula"
BY, FIRST, ID = "ops on master1", "20260301T110000-6", "20260301T120000-7"


def known(commit: str = "", sequence: int = 0) -> dict[str, Any]:
    """The options of a site of which the master has this release."""
    fleet = {"commit": commit, "sequence": sequence, "held": [], "count": 1, "addresses": {"web1": "10.0.0.1"}}
    return {"hosts": {"web1": ["app"]}, "fleet": fleet}


@pytest.fixture
def host(world):
    """A host that serves the first commit, by a deployment of the fleet."""
    world.options = known()
    world.apply()
    released(ONE, 1)
    world.options = known(ONE, 1)
    world.apply()
    return world


def claim(deployment: str = ID, seconds: float = 60) -> None:
    verbs.claim("blog", deployment, BY, time.time() + seconds)


def soon() -> float:
    return time.time() + 20


def prepared(commit: str, sequence: int, deployment: str = ID) -> str:
    """Claim the site and prepare a release; return its name."""
    claim(deployment)
    own, _ = verbs.prepare("blog", deployment, BY, commit, sequence)
    return own.release.name


def released(commit: str, sequence: int) -> None:
    """Go through all verbs of a deployment."""
    prepared(commit, sequence, FIRST)
    verbs.migrate("blog", FIRST, BY, soon())
    verbs.start("blog", FIRST, BY, soon(), [])
    verbs.switch("blog", FIRST, BY, soon())
    verbs.finish("blog", FIRST, BY, "web1", {"commit": commit, "sequence": sequence, "held": [], "count": 1})


def test_first_apply_makes_no_release_and_keeps_the_secret_key(world):
    world.options, world.given = known() | {"secret_key": "x" * 50}, {"secret_key": "x" * 50}
    assert {"site", "secret_key"} >= {*world.apply()} and world.live == ""
    assert world.last.warnings == ["the hosts of blog have no release yet: salt-run django.deploy blog makes it"]
    assert verbs.ready("blog")["release"] == "" and verbs.ready("blog")["key"]


def test_verbs_make_a_release_and_leave_nothing(world, host):
    one = f"0001-{ONE[:12]}"
    assert host.live == one and host.apply() == {}
    host.check()
    site = host.site
    assert not os.path.lexists(release_claim.next_link(site)) and not release_claim.path(site).exists()
    assert (site.current / "commit").read_text() == ONE
    assert Release(site, one).record["fleet"] == FIRST


def test_a_claim_says_who_deploys_since_when_and_in_which_phase(host):
    claim()
    assert verbs.ready("blog")["claim"].endswith(", phase claim")
    verbs.prepare("blog", ID, BY, TWO, 2)
    verbs.migrate("blog", ID, BY, soon())
    assert verbs.renew("blog", ID, soon()) == {"renewed": True}
    told = verbs.ready("blog")["claim"]
    assert told.startswith(f"{BY}, since 2") and told.endswith(", phase migrate")
    verbs.start("blog", ID, BY, soon(), [])
    verbs.switch("blog", ID, BY, soon())
    with pytest.raises(DeploymentError, match=f"blog is being deployed by {BY}, since .*, phase switch"):
        verbs.claim("blog", "another", "ada on master2", time.time() + 60)


@pytest.mark.slow
def test_a_claim_is_renewed_while_phases_begin(host):
    """The renewal is a job of its own, at any moment."""
    claim()
    over = threading.Event()

    def renew() -> int:
        count = 0
        while not over.is_set():
            assert verbs.renew("blog", ID, time.time() + 90) == {"renewed": True}
            count += 1
        return count

    with ThreadPoolExecutor() as pool:
        renewals = pool.submit(renew)
        try:
            for number in range(600):
                release_claim.refuse_others(host.site, ID, f"phase {number}")
                assert release_claim.current(host.site).phase == f"phase {number}"
        finally:
            over.set()
        assert renewals.result() > 20


def test_a_late_renewal_brings_no_claim_back(host):
    claim()
    assert verbs.renew("blog", "another", soon()) == {"renewed": False}
    verbs.abandon("blog", ID, BY, False)
    assert verbs.renew("blog", ID, soon()) == {"renewed": False}
    assert verbs.ready("blog")["claim"] == "" and not release_claim.path(host.site).exists()


def test_what_is_prepared_is_invisible_but_for_its_static_files(host):
    name = prepared(TWO, 7)
    assert name == f"0007-{TWO[:12]}" and host.live == f"0001-{ONE[:12]}"
    assert os.readlink(release_claim.next_link(host.site)) == f"releases/{name}"
    assert release_claim.prepared(host.site) == name and host.releases[name] == "building"


def test_an_apply_waits_while_a_deployment_has_the_claim(host):
    name = prepared(TWO, 2)
    host.options = known(THREE, 3)
    assert "source" not in host.apply()
    assert host.last.warnings[0].startswith(f"blog is being deployed by {BY}, since ")
    assert name in host.releases, "what another process works on is not cleared away"


def test_an_apply_leaves_the_instance_of_a_deployment_that_has_not_switched(host):
    name = prepared(TWO, 2)
    verbs.start("blog", ID, BY, soon(), [])
    running = set(host.running)
    assert any("-0002" in unit for unit in running)
    assert host.apply() == {} and host.running == running
    verbs.switch("blog", ID, BY, soon())
    assert host.live == name


def test_an_apply_goes_to_the_commit_of_the_master_not_to_the_tip(host):
    host.push("two")
    assert host.apply() == {} and host.live == f"0001-{ONE[:12]}"
    host.options = known(TWO, 9)
    host.apply()
    assert host.live == f"0009-{TWO[:12]}"
    assert host.apply() == {}


def test_an_apply_without_the_masters_store_makes_no_release(host):
    host.push("two")
    host.options = {"hosts": {"web1": ["app"]}}
    host.apply()
    assert host.live == f"0001-{ONE[:12]}"
    assert host.last.warnings[0].startswith("the pillar has nothing of the master's store")
    operations.release("blog")
    assert host.live == f"0002-{TWO[:12]}", "but on request"


def test_an_apply_takes_a_host_that_was_left_ahead_back(host):
    prepared(TWO, 2)
    verbs.start("blog", ID, BY, soon(), [])
    verbs.switch("blog", ID, BY, soon())
    host.site.root.joinpath("claim.json").unlink()
    assert host.live == f"0002-{TWO[:12]}"
    host.apply()
    assert host.live == f"0003-{ONE[:12]}"


def test_back_returns_to_the_release_of_before(host):
    prepared(TWO, 2)
    verbs.start("blog", ID, BY, soon(), [])
    verbs.switch("blog", ID, BY, soon())
    assert len(host.running) == 4, "the former instance runs until all hosts have switched"
    assert verbs.abandon("blog", ID, BY, False) == {"back": f"0001-{ONE[:12]}"}
    assert host.live == f"0001-{ONE[:12]}" and host.releases[f"0002-{TWO[:12]}"] == "held"
    assert host.apply() == {} and host.live == f"0001-{ONE[:12]}"


def test_a_commit_on_hold_is_taken_when_the_master_has_it_again(host):
    test_back_returns_to_the_release_of_before(host)
    host.options = known(TWO, 3)
    host.apply()
    assert host.live == f"0003-{TWO[:12]}"


def test_abandon_removes_what_was_prepared(host):
    name = prepared(TWO, 2)
    assert verbs.abandon("blog", "another", BY, False)["claim"].startswith(BY) and name in host.releases
    assert verbs.abandon("blog", "", BY, False)["abandoned"] == name
    assert name not in host.releases and not release_claim.prepared(host.site)
    host.check()


def test_a_new_host_has_no_claim_of_a_deployment_that_is_over(world):
    world.options = known(ONE, 1)
    world.options["fleet"]["over"] = ID
    world.apply()
    assert world.live == f"0001-{ONE[:12]}"


def test_who_may_read_the_folder_of_a_site_holds_up_no_deployment(host):
    descriptor = os.open(host.site.root, os.O_RDONLY)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX)
        assert prepared(TWO, 2) in host.releases
    finally:
        os.close(descriptor)
    assert release_claim.lock(host.site).path.stat().st_mode & 0o777 == 0o600


def test_a_claim_ends_by_itself_and_the_next_deployment_clears_away(host):
    name = prepared(TWO, 2)
    claim(seconds=-1)
    assert release_claim.current(host.site) is None
    host.options = known(THREE, 3)
    host.apply()
    assert host.live == f"0003-{THREE[:12]}" and name not in host.releases
    assert not os.path.lexists(release_claim.next_link(host.site))
    host.check()


def started(commit: str, sequence: int) -> None:
    prepared(commit, sequence)
    verbs.start("blog", ID, BY, soon(), [])


@pytest.mark.parametrize("has_switched", [False, True])
def test_an_apply_ends_a_claim_that_the_master_says_is_over(host, has_switched):
    started(TWO, 2)
    if has_switched:
        verbs.switch("blog", ID, BY, soon())
    host.options = known(ONE, 1)
    assert "source" not in host.apply()
    host.options["fleet"]["over"] = FIRST
    assert "source" not in host.apply(), "of another deployment"
    host.options["fleet"]["over"] = ID
    host.apply()
    assert host.live == (f"0003-{ONE[:12]}" if has_switched else f"0001-{ONE[:12]}")
    assert verbs.ready("blog")["unfinished"] == "" and len(host.running) == 2
    assert host.apply() == {}
    host.check()


def test_an_apply_leaves_the_former_instance_until_all_hosts_have_switched(host):
    started(TWO, 2)
    verbs.switch("blog", ID, BY, soon())
    running = {*host.running}
    host.options = known(ONE, 1)
    host.apply()
    assert host.running == running and len(running) == 4
    verbs.finish("blog", ID, BY, "", {"commit": TWO, "sequence": 2, "held": [], "count": 1})
    assert len(host.running) == 2
    host.check()


def test_a_host_that_missed_the_end_of_a_deployment_stops_the_former_instance_later(host):
    started(TWO, 2)
    verbs.switch("blog", ID, BY, soon())
    claim(seconds=-1)
    host.options = known(TWO, 2)
    host.apply()
    assert host.live == f"0002-{TWO[:12]}" and len(host.running) == 2 and host.apply() == {}


def test_abandon_keeps_what_all_hosts_have_activated(host):
    started(TWO, 2)
    verbs.switch("blog", ID, BY, soon())
    assert verbs.ready("blog")["unfinished"] == ID
    verbs.abandon("blog", ID, BY, True)
    assert host.live == f"0002-{TWO[:12]}" and len(host.running) == 2 and verbs.ready("blog")["claim"] == ""


def test_a_command_after_the_switch_that_fails_leaves_the_release(host):
    host.options = known(ONE, 1) | {"commands": {"after_switch": ["manage.py tell"]}}
    host.apply()
    started(TWO, 8)
    verbs.switch("blog", ID, BY, soon())
    host.fails["tell"] = DeploymentError("no mail server")
    with pytest.raises(DeploymentError, match="after_switch: "):
        verbs.finish("blog", ID, BY, "web1", {"commit": TWO, "sequence": 8, "held": [], "count": 1})
    assert host.live == f"0008-{TWO[:12]}" and len(host.running) == 2


def test_nothing_is_begun_after_the_deadline_or_for_another_deployment(host):
    prepared(TWO, 2)
    for late in (verbs.migrate, verbs.switch):
        with pytest.raises(DeploymentError, match="too late"):
            late("blog", ID, BY, time.time() - 1)
        with pytest.raises(DeploymentError, match="has no claim on blog any more, which is being deployed by"):
            late("blog", "another", BY, soon())
    with pytest.raises(DeploymentError, match=f"blog is being deployed by {BY}, since"):
        claim("another")
    assert host.live == f"0001-{ONE[:12]}"


def test_a_start_that_fails_leaves_the_active_release(host):
    prepared(TWO, 2)
    host.fails["enable --quiet"] = DeploymentError("no memory")
    with pytest.raises(DeploymentError, match="instance: "):
        verbs.start("blog", ID, BY, soon(), [])
    host.fails.clear()
    verbs.abandon("blog", ID, BY, False)
    assert host.live == f"0001-{ONE[:12]}"
    assert host.apply() == {}
    host.check()


def newer(host) -> str:
    """Release the second commit by a deployment of the fleet; return the first one's name."""
    prepared(TWO, 2)
    verbs.start("blog", ID, BY, soon(), [])
    verbs.switch("blog", ID, BY, soon())
    verbs.finish("blog", ID, BY, "web1", {"commit": TWO, "sequence": 2, "held": [], "count": 1})
    host.options = known(TWO, 2)
    assert host.live == f"0002-{TWO[:12]}" and len(host.running) == 2
    return f"0001-{ONE[:12]}"


def test_an_older_release_runs_on_all_hosts_before_one_activates_it(host):
    one, back = newer(host), "20260301T130000-8"
    claim(back)
    verbs.start_older("blog", back, BY, soon(), ONE, force=False)
    assert host.live == f"0002-{TWO[:12]}" and len(host.running) == 4
    host.commands.clear()
    own, answer = verbs.rollback("blog", back, BY, soon(), ONE, force=False)
    assert host.live == one and answer["commit"] == ONE and own.release.record["fleet"] == back
    assert not [line for line in host.commands if "classify" in line], "it was judged before"
    verbs.finish("blog", back, BY, "", {"commit": ONE, "sequence": 1, "held": [], "count": 1})
    assert len(host.running) == 2 and Release(host.site, f"0002-{TWO[:12]}").record["state"] == "held"
    host.options = known(ONE, 1)
    assert host.apply() == {}
    host.check()


def test_an_older_release_that_was_only_started_is_stopped_again(host):
    newer(host)
    back = "20260301T130000-8"
    claim(back)
    verbs.start_older("blog", back, BY, soon(), ONE, force=False)
    verbs.abandon("blog", back, BY, False)
    assert host.live == f"0002-{TWO[:12]}" and len(host.running) == 2
    assert Release(host.site, f"0001-{ONE[:12]}").record["state"] == "good"
    assert host.apply() == {}
    host.check()


def test_an_older_release_that_does_not_start_leaves_the_active_one(host):
    newer(host)
    back = "20260301T130000-8"
    claim(back)
    host.fails["enable --quiet"] = DeploymentError("no memory")
    with pytest.raises(DeploymentError, match="instance: "):
        verbs.start_older("blog", back, BY, soon(), ONE, force=False)
    host.fails.clear()
    verbs.abandon("blog", back, BY, False)
    assert host.live == f"0002-{TWO[:12]}" and len(host.running) == 2 and host.apply() == {}
    host.check()


def test_after_switch_runs_once_for_all_hosts(host):
    host.options = known(ONE, 1) | {"commands": {"after_switch": ["manage.py tell"]}}
    host.apply()
    host.commands.clear()
    prepared(TWO, 8)
    verbs.start("blog", ID, BY, soon(), [])
    verbs.switch("blog", ID, BY, soon())
    assert not [one for one in host.commands if "tell" in one]
    verbs.finish("blog", ID, BY, "web1", {"commit": TWO, "sequence": 8, "held": [], "count": 1})
    assert len([one for one in host.commands if "tell" in one]) == 1


def test_one_host_of_several_is_not_released_or_rolled_back_alone(host):
    for verb in (operations.release, operations.rollback):
        with pytest.raises(DeploymentError, match="have their release in common") as refused:
            verb("blog")
        assert f"salt-run django.{verb.__name__.replace('release', 'deploy')} blog" in str(refused.value)


def test_a_rollback_to_the_live_commit_names_a_command_that_works(host):
    with pytest.raises(DeploymentError, match="is live") as refused:
        verbs.release("blog", ONE)
    assert refused.value.hint == f"salt-run django.deploy blog {ONE} releases its commit anew"
    prepared(ONE, 2)
    verbs.start("blog", ID, BY, soon(), [])
    verbs.switch("blog", ID, BY, soon())
    assert host.live == f"0002-{ONE[:12]}"


def test_no_hint_names_a_command_that_one_host_of_several_refuses(host):
    """All are made by the two functions of a site, which know of its master."""
    found = {
        path.relative_to(ENGINE).as_posix()
        for path in ENGINE.rglob("*.py")
        if re.search(r"call\W+django\.(release|rollback)\b", path.read_text())
    }
    assert found == {"site/sites.py", "inspect/options.py"}, "the latter is for a site that does not exist yet"
    site = host.site
    assert site.to_return("0001-x", ONE) == f"salt-run django.rollback blog {ONE}"
    site.config = {**site.config, "fleet": {**site.config["fleet"], "release": None}}
    commands = (site.to_release(ONE), site.to_return("0001-x", ONE))
    assert commands == (f"salt-call django.release blog {ONE}", "salt-call django.rollback blog 0001-x")


def test_a_site_without_hosts_has_no_verbs_of_a_fleet(world):
    world.apply()
    with pytest.raises(DeploymentError, match="has no hosts in its pillar"):
        verbs.ready("blog")


# A host for workers


SHARED = {
    "secret_key": "x" * 50,
    "database": {"engine": "postgres", "host": "10.0.0.5", "name": "blog", "user": "blog", "password": "hunter2"},
    "media": {"shared": False},
    "workers": {"mail": {"kind": "rq"}, "feed": {"kind": "command", "command": "manage.py follow_feed"}},
}


def with_parts(*parts: str, commit: str = "", sequence: int = 0) -> dict[str, Any]:
    """The options of a site of which this host has these parts, and another one serves it."""
    options = known(commit, sequence) | SHARED
    options["fleet"]["addresses"]["web2"] = "10.0.0.2"
    return options | {"hosts": {"web1": [*parts], "web2": ["app"]}}


@pytest.fixture
def workers(world):
    """A host for workers, which runs those of the first commit."""
    world.given = {"secret_key": "x" * 50, "database.default": "hunter2"}
    for kind in kinds.WORKERS.values():
        for name in kind.templates:
            world.templates.setdefault(f"{kinds.FILES}{name}", "")
    world.options = with_parts("worker")
    world.apply()
    released(ONE, 1)
    world.options = with_parts("worker", commit=ONE, sequence=1)
    return world


def units(number: str) -> set[str]:
    return {f"django-blog-{number}-{name}.service" for name in SHARED["workers"]}


def test_a_host_for_workers_runs_them_alone(workers):
    assert workers.apply() == {} and workers.running == units("0001")
    workers.check()
    assert not [path for path in workers.site.current.glob("config/*") if "uwsgi" in path.name]
    row = operations.status("blog")
    assert (row["running"], row["server"]) == (True, "") and "mail" in row["workers"]
    with pytest.raises(DeploymentError, match="has no application server on this host"):
        verbs_logs.show("blog", 10)


def test_workers_change_in_the_switch_and_go_back(workers):
    name = prepared(TWO, 2)
    verbs.start("blog", ID, BY, soon(), [])
    assert workers.running == units("0001") | units("0002")
    assert workers.fetching() == {unit.removesuffix(".service") for unit in units("0001")}
    verbs.switch("blog", ID, BY, soon())
    assert workers.live == name and workers.running == units("0001") | units("0002"), "going back starts nothing"
    assert workers.fetching() == {unit.removesuffix(".service") for unit in units("0002")}
    assert verbs.abandon("blog", ID, BY, False) == {"back": f"0001-{ONE[:12]}"}
    assert workers.live == f"0001-{ONE[:12]}" and workers.running == units("0001")


def test_workers_that_do_not_start_leave_those_that_run(workers):
    prepared(TWO, 2)
    workers.fails["0002-mail"] = DeploymentError("exits with 1")
    with pytest.raises(DeploymentError, match=f"the worker mail of 0002-{TWO[:12]} does not start"):
        verbs.start("blog", ID, BY, soon(), [])
    workers.fails.clear()
    verbs.abandon("blog", ID, BY, False)
    workers.check()
    assert workers.live == f"0001-{ONE[:12]}"


def test_with_supervisor_a_host_for_workers_has_their_programs_alone(workers):
    workers.process = "supervisor"
    workers.options = with_parts("worker", commit=TWO, sequence=2)
    workers.apply()
    assert workers.running == {f"django-blog-0002-{name}.conf" for name in SHARED["workers"]}
    workers.check()


def test_maintenance_of_a_host_for_workers_keeps_them_from_taking_tasks(workers):
    workers.apply()
    assert operations.maintenance("blog", "on", "a restore")["maintenance"] == "on"
    assert workers.fetching() == set() and workers.running == units("0001")
    operations.maintenance("blog", "off", "")
    workers.check()


def test_a_late_host_for_workers_goes_to_the_common_commit(workers):
    workers.options = with_parts("worker", commit=TWO, sequence=7)
    workers.apply()
    assert workers.live == f"0007-{TWO[:12]}"
    workers.check()


def test_parts_of_a_host_change_with_the_next_apply(workers):
    serves = {"django-blog-0002.service", "django-blog-0002.socket"}
    workers.options = with_parts("app", "worker", commit=ONE, sequence=1)
    workers.apply()
    assert workers.running == serves | units("0002")
    workers.check()
    workers.options = with_parts("worker", commit=ONE, sequence=1)
    workers.apply()
    assert workers.running == units("0003")
    workers.check()


@pytest.mark.parametrize("balancers", [{}, {"lb1": {"parts": ["balancer"], "address": "10.0.0.9"}}])
def test_a_host_that_leaves_serves_until_balancers_have_seen_it(host, monkeypatch, balancers):
    site, running = host.site, {*host.running}
    seen = site.current / "commit"
    found: list[tuple[float, str, bool]] = []

    def sleep(seconds: float) -> None:
        found.append((seconds, seen.read_text(), host.running == running))

    monkeypatch.setattr(removal.time, "sleep", sleep)
    assert seen.read_text() == ONE
    site.config["fleet"]["hosts"] = {"web2": {"parts": ["app"], "address": "10.0.0.2"}, **balancers}
    removal.remove(site, "a test")
    assert found == ([(8.0, "blog leaves this host\n", True)] if balancers else [])
    assert host.running == set() and not site.current.exists()


def test_a_host_that_was_about_to_leave_is_seen_again_after_an_apply(host):
    (host.site.current / "commit").write_text("blog leaves this host\n")
    assert host.apply()
    assert (host.site.current / "commit").read_text() == ONE
    assert host.apply() == {}


# A canary on all hosts: what this host does of it


CANARY = {"steps": {"10%": "1s", "30%": "1s"}, "requests": 0}


@pytest.fixture
def proving_host(host, monkeypatch):
    """The host, whose next release gets a share of the visitors; the program of the proof is the test's."""
    host.options = {**known(ONE, 1), "proxy": {"access_log": "json"}, "releases": {"canary": CANARY}}
    host.apply()
    host.ended, host.why_not = [], ""
    monkeypatch.setattr(proof_unit, "start", lambda site: None)
    monkeypatch.setattr(proof_unit, "runs", lambda site: True)
    monkeypatch.setattr(proof_begin, "why_not", lambda deployment, release, live: host.why_not)
    monkeypatch.setattr(proof_end, "_PAGES", 0.0)
    return host


def begun(commit: str = TWO, sequence: int = 2) -> str:
    """Begin a canary; return the name of the release."""
    name = prepared(commit, sequence)
    verbs.migrate("blog", ID, BY, soon())
    _, answer = verbs.start("blog", ID, BY, soon(), [])
    assert answer["canary"] == ""
    own, answer = verbs.canary("blog", ID, BY, soon())
    assert answer == {"release": name} and not own.lock.is_held
    return name


def passed(site: Any) -> None:
    """Have the release pass its steps."""
    state.change(site, state.current(site), stage=2)


def run_of(site: Any) -> proof_run._Run:
    """What the program of the proof has of a site, without its reader."""
    run = proof_run._Run.__new__(proof_run._Run)
    run._site, run._proof, run._reader = site, state.current(site), SimpleNamespace(keys=())
    run._new, run._answered = Release(site, run._proof.release), 0
    run.judge = SimpleNamespace(evidence=dict, verdict=None)
    return run


def test_host_says_before_a_canary_whether_it_can_have_one(proving_host):
    prepared(TWO, 2)
    proving_host.why_not = "nginx needs other files for it"
    verbs.migrate("blog", ID, BY, soon())
    assert verbs.start("blog", ID, BY, soon(), [])[1]["canary"] == "nginx needs other files for it"


def test_release_goes_on_with_its_last_share_until_the_master_switches(proving_host):
    site, old = proving_host.site, proving_host.live
    name = begun()
    answer = verbs.proving("blog", ID)
    assert answer["state"] == "running" and answer["text"].startswith(f"{name} gets 10 % of the visitors, until ")
    run = run_of(site)
    for share in ("30 %", "30 %"):
        state.change(site, run._proof, since=time.time() - 5)
        assert run._hold() and run._is_step_over() is False
        assert f"gets {share}" in verbs.proving("blog", ID)["text"]
    assert not run._is_step_over() and proving_host.live == old, "it does not switch by itself"
    answer = verbs.proving("blog", ID)
    text = f"{name} gets 30 % of the visitors, has passed, and waits for the other hosts"
    assert answer == {"state": "passed", "text": text} and verbs.ready("blog")["canary"] == text
    assert (lease.folder(site) / "on").exists()
    verbs.switch("blog", ID, BY, soon())
    assert proving_host.live == name and not lease.folder(site).exists() and state.last(site).outcome == "active"
    assert any(old[:4] in unit for unit in proving_host.running), "until all hosts have switched"
    verbs.finish("blog", ID, BY, "web1", {"commit": TWO, "sequence": 2, "held": [], "count": 2})
    assert not any(old[:4] in unit for unit in proving_host.running) and "canary" not in verbs.ready("blog")
    assert Release(site, name).record["proof"]["share"] == 30
    proving_host.check()


def test_share_and_token_of_people_are_those_of_all_hosts(proving_host):
    site = proving_host.site
    name = begun()
    with pytest.raises(DeploymentError, match="is not of other"):
        verbs_proof.share_of_fleet("blog", "other", 20, token=None)
    with pytest.raises(DeploymentError, match="from 0 to 50 percent, not 51"):
        verbs_proof.share_of_fleet("blog", ID, 51, token=None)
    first = verbs_proof.share_of_fleet("blog", ID, 20, token=True)
    assert first == {"release": name, "share": "20 %", "cookie": f"django_release={state.current(site).token}"}
    assert re.fullmatch("[0-9a-f]{32}", state.current(site).token)
    assert verbs_proof.share_of_fleet("blog", ID, None, token=True) == first, "the same on each host"
    run = run_of(site)
    assert run._hold() and f"{state.current(site).token}" in os.listdir(next(lease.folder(site).glob("set-*")))
    state.change(site, run._proof, since=time.time() - 1000)
    assert run._hold() and not run._is_step_over(), "steps do not go on"
    assert verbs.proving("blog", ID) == {"state": "running", "text": f"{name} gets 20 % of the visitors"}
    assert "cookie" not in verbs_proof.share_of_fleet("blog", ID, None, token=False)
    assert state.current(site).token == "" and state.current(site).share == 20


def test_token_needs_a_key_that_all_hosts_have(proving_host, monkeypatch):
    begun()
    monkeypatch.setattr(verbs_proof.secret, "values", lambda site, given: {})
    with pytest.raises(DeploymentError, match="follows from the secret key, and blog has none here"):
        verbs_proof.share_of_fleet("blog", ID, None, token=True)


def test_master_ends_it_and_the_former_release_goes_on(proving_host):
    site, old = proving_host.site, proving_host.live
    name = begun()
    run_of(site)._hold()
    verbs.abandon("blog", ID, BY, False)
    assert state.last(site).outcome == "superseded" and BY in state.last(site).why
    assert proving_host.live == old and not lease.folder(site).exists()
    assert not os.path.lexists(release_claim.next_link(site)) and not any(name[:4] in u for u in proving_host.running)
    proving_host.check()


def test_share_ends_when_nothing_is_heard_of_the_master(proving_host):
    site, old = proving_host.site, proving_host.live
    name = begun()
    run = run_of(site)
    assert run._hold() and (lease.folder(site) / "on").exists()
    release_claim.renew(site, ID, time.time() - 1)
    assert run._hold() is False and not lease.folder(site).exists() and proving_host.live == old
    why = "the master has not been heard of, or has ended the deployment"
    assert verbs.proving("blog", ID) == {"state": "ended", "text": why}
    assert verbs.ready("blog")["canary"] == f"{name} was taken back here: {why}"
    assert not any(name[:4] in unit for unit in proving_host.running)
    with pytest.raises(DeploymentError, match="has no claim on blog any more"):
        verbs.switch("blog", ID, BY, soon())
    verbs.abandon("blog", ID, BY, False)
    assert "canary" not in verbs.ready("blog") and name not in proving_host.releases
    assert begun(THREE, 3).startswith("0003-"), "the next deployment begins again"


def test_host_that_takes_a_release_back_does_not_switch_to_it(proving_host):
    site, old = proving_host.site, proving_host.live
    name = begun()
    proof_end.take_back(site, state.current(site), "it raised KeyError for 2 visitors")
    assert verbs.proving("blog", ID) == {"state": "ended", "text": "it raised KeyError for 2 visitors"}
    record = Release(site, name).record
    assert record["state"] == "failed" and record["step"] == "canary" and "salt-run django.deploy" in record["error"]
    with pytest.raises(DeploymentError):
        verbs.switch("blog", ID, BY, soon())
    verbs.abandon("blog", ID, BY, False)
    assert proving_host.live == old and proving_host.releases[name] == "failed"
    proving_host.check()


def test_release_that_is_taken_back_between_two_questions_is_not_switched_to(proving_host, monkeypatch):
    begun()
    site = proving_host.site
    proved = state.current(site)
    monkeypatch.setattr(proof_unit, "stop", lambda site: state.end(site, proved, state.BACK, "it leaks"))
    with pytest.raises(DeploymentError, match=r"0002-.* does not get all visitors: it leaks"):
        verbs.switch("blog", ID, BY, soon())
    assert proving_host.live.startswith("0001-")


def test_one_host_alone_changes_nothing_of_it(proving_host):
    begun()
    with pytest.raises(DeploymentError, match=r"on the master: salt-run django\.promote blog"):
        verbs_proof.finish("blog")
    with pytest.raises(DeploymentError, match=r"on the master: salt-run django\.canary blog"):
        verbs_proof.share("blog", 20, token=None)
    assert state.current(proving_host.site).share == 10


def test_one_host_alone_takes_it_back(proving_host):
    name = begun()
    assert verbs_proof.back("blog")["on hold"] == name
    assert verbs.proving("blog", ID) == {"state": "ended", "text": "it was taken back on the command line"}


def test_host_that_comes_back_gets_the_common_release_without_a_canary(proving_host):
    proving_host.options = {**proving_host.options, **known(TWO, 2)}
    assert "canary" not in proving_host.apply(test=True).get("live", {})
    changes = proving_host.apply()
    assert proving_host.live.endswith(TWO[:12]) and "canary" not in changes["live"]
    assert state.last(proving_host.site) is None


def test_apply_waits_for_a_canary(proving_host):
    name, old = begun(), proving_host.live
    proving_host.apply()
    assert proving_host.live == old and state.current(proving_host.site).release == name
    assert "phase canary: apply again when it is done" in proving_host.last.warnings[0]


def test_host_without_a_canary_says_so(host):
    with pytest.raises(DeploymentError, match=f"the deployment {ID} has no canary on this host"):
        verbs.proving("blog", ID)


def test_hosts_without_a_master_have_none(world):
    """Each applies alone, so that one host's share would be another's."""
    hosts = {"web1": {"parts": ["app"], "address": "10.0.0.1"}}
    world.options = {"hosts": hosts, "proxy": {"access_log": "json"}, "releases": {"canary": CANARY}}
    world.apply()
    world.push("two")
    world.apply()
    text = (
        f"{world.live} gets all visitors at once, without a canary: its hosts have no master, which begins one on all"
    )
    assert world.live.startswith("0002-") and any(one.startswith(text) for one in world.last.warnings)


def test_host_for_workers_says_whether_they_would_fail_tasks_of_a_canary():
    site = SimpleNamespace(config={"fleet": {"parts": ["worker"]}, "workers": {"tasks": {"kind": "rq"}}})
    own = SimpleNamespace(live=True, site=site)
    assert verbs._why_no_canary(own, None).startswith("workers of the kind rq fail tasks that they do not know")
    site.config["workers"] = {"tasks": {"kind": "celery"}}
    assert verbs._why_no_canary(own, None) == ""
