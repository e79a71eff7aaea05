"""The program that works requests off, with a stand-in of Salt."""

import json
import os
import re
import signal
import sys
from types import SimpleNamespace

import pytest
from django_formula.audit.caller import Caller
from django_formula.host import file
from django_formula.host.commands import DeploymentError
from django_formula.proof import state
from django_formula.release import releases
from django_formula.request import checks, queue, unit, work
from django_formula.site import sites as site_sites
from django_formula.source import commits, mirror
from django_formula.untrusted import network
from django_formula.verbs import requests
from django_formula.watch import problem
from upstream import Upstream

ADA = Caller("ada", "192.0.2.7", "ssh")
#: A stand-in of salt-call: it notes how it was called, and does what the file `does` has for this call.
SALT = """
import json, os, signal, sys, pathlib
here = pathlib.Path(sys.argv[1])
calls = here / "calls"
number = len(calls.read_text().splitlines()) if calls.exists() else 0
keep = {name: value for name, value in os.environ.items() if name != "LC_CTYPE"}
with calls.open("a") as file:
    file.write(json.dumps([sys.argv[2:], keep]) + "\\n")
does = json.loads((here / "does").read_text())
code, answer = does[min(number, len(does) - 1)]
if code < 0:
    os.kill(os.getpid(), -code)
print(answer if isinstance(answer, str) and answer.startswith("Traceback") else json.dumps({"local": answer}))
sys.exit(code)
"""
DONE = {"release": "0002-aaaaaaaaaaaa", "took": {}}


@pytest.fixture
def site(make_site, monkeypatch):
    """A site without systemd, whose last apply this is."""
    site = make_site(process="supervisor", timeouts={"lock": "1s"})
    monkeypatch.setattr(site_sites, "find", lambda name: site)
    monkeypatch.setattr(unit.daemons, "has_systemd", lambda: False)
    monkeypatch.setattr(unit.commands, "network_environment", lambda: {"https_proxy": "http://proxy:3128"})
    monkeypatch.setattr(os, "environ", os.environ.copy())  # which the program changes for its git
    unit.prepare(site, [sys.executable, "-c", SALT, str(queue.folder(site))])
    return site


def work_off(site, *does):
    """Work everything off, with what each call of Salt does: exit code or signal, and answer."""
    file.write_json(queue.folder(site) / "does", {})
    (queue.folder(site) / "does").write_text(json.dumps(does))
    before = signal.getsignal(signal.SIGTERM)
    try:
        return work.main(site.name)
    finally:
        signal.signal(signal.SIGTERM, before)


def calls(site):
    path = queue.folder(site) / "calls"
    return [json.loads(line) for line in path.read_text().splitlines()] if path.exists() else []


def activate(site, commit):
    release = releases.Release(site, f"0001-{commit[:12]}")
    release.path.mkdir()
    made = {"commit": commit, "inputs": {}, "facts": {"folder": ".", "application": "blog.wsgi:application"}}
    release.update(name=release.name, state="good", live_since="2026-03-01T12:00:00Z", **made)
    file.link(site.current, str(release.path))


@pytest.mark.parametrize(
    ("does", "status", "why", "tries"),
    [
        ([(0, DONE)], "released", "0002-aaaaaaaaaaaa is active", 1),
        ([(1, "static: no such folder\n0001 still runs")], "failed", "static: no such folder\n0001 still runs", 1),
        ([(1, "Traceback (most recent call last)\nKeyError: 3")], "failed", "Salt exited with 1: ", 1),
        ([(-9, ""), (0, DONE)], "released", "0002-aaaaaaaaaaaa is active", 2),
        ([(-15, ""), (-9, ""), (0, DONE)], "released", "0002-aaaaaaaaaaaa is active", 3),
        ([(-9, "")], "failed", "interrupted 3 times", 3),
    ],
)
def test_end_of_a_release_is_the_status_of_its_request(site, does, status, why, tries):
    request = queue.put(site, "a" * 40, ADA)
    assert work_off(site, *does) == 0
    (ended,) = queue.history(site)
    assert (ended["id"], ended["status"], len(calls(site))) == (request.number, status, tries)
    assert ended["why"].startswith(why)


def test_release_whose_answer_is_cut_off_has_not_failed_where_it_is_active(site, monkeypatch):
    """As where the disk is full, or where a module of the operator's prints a line."""
    queue.put(site, "a" * 40, ADA)
    seen = iter(["b" * 40] * 2)  # before the release
    monkeypatch.setattr(work, "_active", lambda _site: next(seen, "a" * 40))
    assert work_off(site, (0, "Traceback: cut off")) == 0
    (ended,) = queue.history(site)
    assert (ended["status"], len(calls(site))) == ("released", 1)
    assert ended["why"] == "it is active; Salt exited with 0, and its answer cannot be read"


@pytest.mark.parametrize("newer", [True, False])
def test_newer_request_takes_the_place_of_one_that_some_visitors_get(site, monkeypatch, newer):
    """Where it is the only one, Salt goes on waiting for the end of its canary."""
    commit, ended = "1" * 40, []
    release = releases.Release(site, f"0002-{commit[:12]}")
    release.path.mkdir()
    release.update(name=release.name, state="building", commit=commit, inputs={}, facts={})
    proof = state.Proof(release.name, "0001-222222222222", "canary", "ada", "", "boot", 0.0, 0.0, 10, {}, [])
    state.begin(site, proof)

    def supersede(site, why):
        ended.append(why)
        state.end(site, proof, state.SUPERSEDED, why)

    monkeypatch.setattr(work.unit, "supersede", supersede)
    request = queue.take(site, queue.put(site, commit, ADA).number)
    if newer:
        queue.put(site, "3" * 40, ADA)
    (queue.folder(site) / "does").write_text(json.dumps([(1, "it was not activated")]))
    status, why, _is_recorded = work._released(site, request, SimpleNamespace(is_of_host=lambda: False))
    assert (status, why) == (
        (queue.SUPERSEDED, "a newer request waits") if newer else (queue.FAILED, "it was not activated")
    )
    assert bool(ended) is newer


def test_release_is_called_with_who_asked_and_nothing_of_the_environment(site, monkeypatch):
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "hunter2")
    queue.put(site, "1" * 40, ADA)
    work_off(site, (0, DONE))
    ((arguments, environment),) = calls(site)
    expected = ["--out=json", "--retcode-passthrough", "--no-parse=revision", "django.release", "blog"]
    assert arguments == [*expected, f"revision={'1' * 40}", "wait=True"]
    assert environment["DJANGO_OPS_PERSON"] == "ada" and environment["SSH_CONNECTION"] == "192.0.2.7"
    own = {"DJANGO_OPS_PERSON", "DJANGO_FORMULA_STEPS"}
    assert {*environment} == {"PATH", "LANG", "HOME", "SSH_CONNECTION", "https_proxy", *own}


def test_active_commit_is_not_released_again(site):
    activate(site, "a" * 40)
    queue.put(site, "a" * 40, ADA)
    work_off(site, (1, "it was called"))
    assert [(one["status"], one["why"]) for one in queue.history(site)] == [("released", "it was active already")]
    assert calls(site) == []


def test_part_of_the_active_commit_is_superseded(site, tmp_path, monkeypatch):
    upstream = Upstream(tmp_path / "upstream")
    newer = upstream.commit({"a": "1"})
    upstream.git("switch", "--quiet", "--orphan", "other")
    other = upstream.commit({"b": "1"})
    site.config["repository"] = str(upstream.folder)
    mirror.prepare(site, None)
    commits.fetch(site, None)
    activate(site, newer)
    for commit in (upstream.first, other):
        queue.put(site, commit, ADA)
        work_off(site, (0, DONE))
    first, second = queue.history(site)
    assert first["status"] == "superseded" and second["status"] == "released"
    back = f"salt-call django.release blog {upstream.first}"
    assert first["why"] == f"{upstream.first[:12]} is part of {newer[:12]}, which is active; to go back: {back}"
    assert len(calls(site)) == 1


def test_program_ends_where_another_one_works(site):
    queue.put(site, "a" * 40, ADA)
    with queue.work_lock(site).held():
        assert work_off(site, (0, DONE)) == 0
    assert calls(site) == [] and queue.waiting(site)


def test_request_that_comes_as_the_program_ends_is_worked_off(site, monkeypatch):
    """Without systemd no unit of paths starts another one, and `start` sees the lock of the one that ends."""

    def work_lock(one):
        def release():
            if not asked:
                asked.append(queue.put(site, "b" * 40, ADA))
                unit.start(site)
            end()

        lock = make(one)
        end, lock.release = lock.release, release
        return lock

    asked, started, make = [], [], queue.work_lock
    monkeypatch.setattr(unit.commands, "detach", started.append)
    monkeypatch.setattr(queue, "work_lock", work_lock)
    queue.put(site, "a" * 40, ADA)
    assert work_off(site, (0, DONE)) == 0
    assert len(queue.history(site)) + len(started) == 2 and not queue.waiting(site)


def test_status_has_what_waits_and_what_failed_with_its_command(site):
    row = {"site": "blog", "release": "0001-a", "running": True, "damage": ""}
    assert requests.status(site) == {"release_requests": ""}
    queue.put(site, "a" * 40, ADA)
    assert re.fullmatch(r"aaaaaaaaaaaa by ada waits for \d s", requests.status(site)["release_requests"])
    assert problem.problems({**row, **requests.status(site)}) == []
    (waits,) = requests.rows("blog")
    assert waits["status"] == "waiting" and waits["by"] == "ada (ssh, 192.0.2.7)"
    assert waits["why"] == "the program that works requests off does not run; the next request starts it"
    work_off(site, (1, "static: no such folder\nhint"))
    found = requests.status(site)
    assert re.fullmatch(r"aaaaaaaaaaaa by ada failed \d+ s ago: static: no such folder", found["release_requests"])
    (shown,) = problem.problems({**row, **found})
    assert shown.kind == "failed" and shown.command == "salt-call django.requests blog"
    assert len(problem.problems({**row, **found, "failed": "0002-aaaaaaaaaaaa: static"})) == 1
    queue.put(site, "b" * 40, ADA)
    work_off(site, (0, DONE))
    assert requests.status(site) == {"release_requests": ""}


@pytest.mark.parametrize(
    ("options", "listening", "says"),
    [
        ({"push": {"keys": {}}}, ["/run/django-requests/blog.sock"], "git push"),
        ({"push": {"keys": {}}}, [], "django-blog-requests.socket does not listen"),
        ({"hook": True}, ["/run/django-requests/blog.sock"], "django-blog-web-hook.socket does not listen"),
        ({}, [], None),
    ],
)
def test_status_has_the_socket_that_does_not_listen(make_site, monkeypatch, options, listening, says):
    site = make_site()
    site.config.update(options)
    monkeypatch.setattr(requests.unix_sockets, "listens", lambda path: path in listening)
    assert requests.status(site).get("entrance") == says


def test_site_without_requests_has_no_row_and_no_file(make_site):
    site = make_site()
    assert requests.status(site) == {} and not queue.folder(site).exists() and unit.present(site) == []


@pytest.mark.parametrize(
    ("options", "revision", "why"),
    [
        ({"folder": "/srv/code"}, "", "the code of blog is a folder, which has no commits"),
        ({}, "mian", "looking up mian in"),
        ({"hosts": ["web1", "web2"]}, "a" * 40, "the hosts of blog have their release in common"),
    ],
)
def test_request_that_cannot_be_is_refused_and_recorded(make_site, tmp_path, monkeypatch, options, revision, why):
    site = make_site(process="supervisor")
    site.config |= options | {"repository": str(Upstream(tmp_path / "upstream").folder)}
    if "hosts" in options:
        monkeypatch.setattr(site_sites.Site, "has_common_release", True)
    monkeypatch.setattr(site_sites, "find", lambda name: site)
    monkeypatch.setattr(unit.daemons, "has_systemd", lambda: False)
    if not options:
        mirror.prepare(site, None)
    answer = requests.ask("blog", revision, ADA, ["salt-call", "--local"], wait=True)
    assert answer["status"] == "refused" and answer["why"].startswith(why)
    assert requests.CODES[answer["status"]] == 2
    (row,) = requests.rows("blog")
    assert row["status"] == "refused" and row["why"].startswith(why)


def test_request_without_salt_call_is_an_error(site):
    with pytest.raises(DeploymentError, match="there is no salt-call on this host"):
        requests.ask("blog", "a" * 40, ADA, [], wait=True)


def test_units_watch_both_files_and_are_made_once(make_site, monkeypatch):
    site = make_site()
    called, fails = [], [True]
    link = unit.daemons.UNITS / "paths.target.wants/django-blog-requests.path"

    def control(*arguments, **_options):
        called.append(arguments)
        if arguments[0] == "enable":
            if fails:
                fails.clear()
                raise DeploymentError("systemd does not answer")
            link.parent.mkdir(parents=True, exist_ok=True)
            link.symlink_to(f"../{link.name}")
        return ""

    monkeypatch.setattr(unit.units, "control", control)
    monkeypatch.setattr(unit.daemons, "has_systemd", lambda: True)
    salt_call = ["salt-call", "--local"]
    with pytest.raises(DeploymentError, match="systemd does not answer"):
        unit.prepare(site, salt_call)
    assert not unit.is_prepared(site, salt_call)
    called.clear()
    for _again in range(2):
        unit.prepare(site, salt_call)
    assert unit.is_prepared(site, salt_call)
    assert called == [("daemon-reload",), ("enable", "--quiet", "--now", "django-blog-requests.path")]
    service, path = (one.read_text() for one in unit._paths(site))
    for name in ("pending.json", "running.json"):
        assert f"\nPathExists={queue.folder(site)}/{name}\n" in path
    assert "\nKillMode=process\n" in service and "\nStartLimitIntervalSec=0\n" in service
    assert f"\nExecStart=/usr/bin/python3 -I {queue.folder(site)}/program.pyz blog\n" in service
    assert os.stat(queue.folder(site)).st_mode & 0o777 == 0o700
    unit.remove(site)
    assert unit.present(site) == [queue.folder(site)]


@pytest.mark.parametrize(
    ("states", "ended"),
    [(["pending", "passed"], "released"), (["pending", "failed"], "refused"), (["none", "failed"], "refused")],
)
def test_nothing_is_released_before_its_checks_have_passed(site, monkeypatch, states, ended):
    answers = [network.Answer({"state": state, "names": ["test"]}, "", 0.0) for state in states]
    monkeypatch.setattr(checks.network, "ask", lambda _user, _action: answers.pop(0))
    monkeypatch.setattr(checks, "EVERY", 0.0)
    site.config["checks"] = {"within": "1h"}
    queue.put(site, "a" * 40, ADA)
    assert work_off(site, (0, DONE)) == 0 and not answers
    assert [one["status"] for one in queue.history(site)] == [ended] and len(calls(site)) == (ended == "released")


def test_an_active_commit_needs_no_checks(site, monkeypatch):
    monkeypatch.setattr(checks.network, "ask", lambda _user, _action: pytest.fail("the server was asked"))
    site.config["checks"] = {"within": "1h"}
    activate(site, "a" * 40)
    queue.put(site, "a" * 40, ADA)
    assert work_off(site) == 0 and [one["status"] for one in queue.history(site)] == ["released"]


@pytest.mark.parametrize(
    ("verdicts", "status"),
    [
        ([DeploymentError("no answer", transient=True), None, None], "released"),  # once its checks have passed
        ([("superseded", "part of what is active"), None], "superseded"),  # a rollback came in between
    ],
)
def test_no_verdict_that_changes_meanwhile_spares_a_commit_its_checks(site, monkeypatch, verdicts, status):
    """What has kept a commit from its checks is not looked up again: it would be released without them."""
    asked, left = [], [*verdicts]

    def of_revision(_site, _commit):
        found = left.pop(0)
        if isinstance(found, DeploymentError):
            raise found

    def verdict(_site, request):
        return left.pop(0) if left and isinstance(left[0], tuple) else judged(_site, request)

    judged = work.verdict
    monkeypatch.setattr(work, "verdict", verdict)
    monkeypatch.setattr(commits, "of_revision", of_revision)
    passed = network.Answer({"state": "passed", "names": []}, "", 0.0)
    monkeypatch.setattr(checks.network, "ask", lambda _user, action: asked.append(action) or passed)
    monkeypatch.setattr(checks, "EVERY", 0.0)
    site.config["checks"] = {"within": "1h"}
    queue.put(site, "a" * 40, Caller("hook", how="django-hook"), is_checked=True)
    work_off(site, (0, DONE))
    assert [one["status"] for one in queue.history(site)] == [status]
    assert len(calls(site)) == len(asked) == (status == "released")


PUSHED = Caller("git push (ada)", "192.0.2.7", "blog-push")


@pytest.mark.parametrize(
    ("by", "does", "sets"),
    [(PUSHED, (0, DONE), True), (PUSHED, (1, "static: no"), False), (ADA, (0, DONE), False)],
)
def test_branch_is_set_to_what_was_pushed_and_released(site, monkeypatch, by, does, sets):
    site.config.update(push={"keys": {}}, repository="/srv/django/blog/push.git", revision="main")
    ran = []
    monkeypatch.setattr(work.commands, "run", lambda argv, **options: ran.append((argv, options["user"])))
    queue.put(site, "a" * 40, by)
    work_off(site, does)
    argv = ["git", "--git-dir=/srv/django/blog/push.git", "-c", "core.hooksPath=/dev/null", "update-ref"]
    assert ran == [([*argv, "refs/heads/main", "a" * 40], "blog-push")] * sets


@pytest.mark.parametrize(
    ("commit", "raises", "status"),
    [
        ("a" * 40, None, "released"),
        ("b" * 40, DeploymentError("no commit of main"), "refused"),
        ("b" * 40, DeploymentError("no answer", transient=True), "failed"),
    ],
)
def test_commit_of_a_program_has_to_be_in_the_revision(site, monkeypatch, commit, raises, status):
    def of_revision(_site, _commit):
        if raises:
            raise raises

    monkeypatch.setattr(commits, "of_revision", of_revision)
    queue.put(site, commit, Caller("hook", how="django-hook"), is_checked=True)
    work_off(site, (0, DONE))
    assert [one["status"] for one in queue.history(site)] == [status]


def test_rewind_releases_what_is_part_of_the_active_commit(site, monkeypatch):
    activate(site, "b" * 40)
    monkeypatch.setattr(commits, "is_part", lambda *_arguments: True)
    for number, is_rewind in enumerate((False, True)):
        queue.put(site, "a" * 40, PUSHED, is_rewind=is_rewind)
        work_off(site, (0, DONE))
        assert len(calls(site)) == number
    assert [one["status"] for one in queue.history(site)] == ["superseded", "released"]
