"""From a site on one host to a site on another, by their master: promotion, approvals, checks, and sites by tag."""

import json
import re
import time
from typing import Any

import pytest
from fleet import STORE, Fleet, answer_of, start_master, start_minions
from lab import Result
from repository import start_git_server
from sites import until, version

pytestmark = pytest.mark.full


class Promoted(Fleet):
    """`staging` on web2, and `blog` on web1, which gets its commits."""

    def configure(self, **changes: Any) -> None:
        self.options.update(changes)
        staging = {**self.options, "hosts": {"web2": ["app"]}, "domains": ["staging.example.org"], "tags": ["eu"]}
        for name in ("promote", "checks"):
            staging.pop(name, None)
        self.master.pillar({"django": {"sites": {"blog": {**self.options, "tags": ["eu"]}, "staging": staging}}})

    def salt_run(self, verb: str, *arguments: str, user: str = "") -> Result:
        by = {"SUDO_USER": user} if user else {}
        argv = ["salt-run", "--out=json", "--log-level=warning", f"django.{verb}", *arguments]
        return self.master.run(argv, check=False, timeout=600, environment=by)

    def commit_of(self, site: str, host: int) -> str:
        return self.apps[host].run(["cat", f"/srv/django/{site}/current/commit"], check=False).stdout


@pytest.fixture(scope="module")
def fleet(module_hosts, tmp_path_factory) -> Promoted:
    master, web1, web2 = module_hosts(name="master"), *(module_hosts(kind="ready", name=f"web{n}") for n in (1, 2))
    start_master(master)
    start_minions(master, [web1, web2])
    fleet = Promoted(master, [web1, web2], web1, tmp_path_factory.mktemp("repository"), hosts={"web1": ["app"]})
    fleet.configure(database={"engine": "sqlite"})
    applied = fleet.apply()
    assert not any(fleet.failed(applied).values()), applied
    return fleet


def test_sites_of_a_tag_are_deployed(fleet):
    rows = answer_of(fleet.salt_run("deploy", "tag:eu").check())["sites"]
    assert [(row["site"], row["result"], [*row["hosts"]]) for row in rows] == [
        ("blog", "released", ["web1"]),
        ("staging", "released", ["web2"]),
    ]
    head = fleet.repository.git("rev-parse", "main").strip()
    assert fleet.commit_of("blog", 0) == fleet.commit_of("staging", 1) == head
    shown = fleet.master.run(["salt-run", "--log-level=warning", "django.deploy", "b*,stag*"], timeout=600).stdout
    assert re.search(rf"- blog     released  {head[:12]}  [0-9.]+ s\n", shown), shown
    assert re.search(rf"- staging  released  {head[:12]}  [0-9.]+ s\n +hosts: web2", shown), shown


def test_a_request_waits_for_the_checks_of_its_commit_whose_token_no_host_has(fleet):
    fleet.configure(checks=start_git_server(fleet.master))
    applied = fleet.apply()
    assert not any(fleet.failed(applied).values()), applied
    before, new = fleet.commit_of("blog", 0), fleet.repository.commit(version("1.1"))
    fleet.master.write("/run/check", "pending")
    fleet.master.run("setsid salt-run --out=json django.request blog >/run/answer 2>/run/told </dev/null &")
    waits = f"checks of {new[:12]} have not passed yet: test"
    until(lambda: [row["why"] for row in answer_of(fleet.salt_run("requests", "blog"))["blog"]] == [waits])
    until(lambda: f"blog: {waits}" in fleet.master.read("/run/told"))
    assert fleet.commit_of("blog", 0) == before != new
    fleet.master.write("/run/check", "success")
    until(lambda: fleet.commit_of("blog", 0) == new)
    until(lambda: json.loads(fleet.master.read("/run/answer") or "{}").get("status") == "released")
    fleet.master.write("/run/check", "failure")
    failed = fleet.repository.commit(version("1.2"))
    refused = fleet.salt_run("request", "blog")
    assert refused.returncode == 1 and f"checks of {failed[:12]} have failed: test" in refused.stdout, refused
    assert fleet.commit_of("blog", 0) == new
    kept = fleet.apps[0].run(["grep", "-rl", "of-the-checks", "/srv/django", "/etc", "/var/cache/salt"], check=False)
    assert kept.stdout == ""
    assert "of-the-checks" in fleet.master.read(f"{STORE}/blog/checks.json")
    fleet.options.pop("checks")
    fleet.configure()
    fleet.apply()


def test_a_commit_is_refused_until_it_has_proved_itself_and_was_approved(fleet):
    fleet.configure(promote={"from": "staging", "after": "5s", "approve": 1})
    fleet.apply()
    assert json.loads(fleet.master.read(f"{STORE}/blog/promote.json"))["from"] == "staging"
    before = fleet.commit_of("blog", 0)
    fleet.repository.commit(version("2.0"))
    refused = fleet.salt_run("request", "blog")
    assert refused.returncode and "blog gets its commits from staging" in refused.stdout
    fleet.salt_run("deploy", "staging").check()
    new = fleet.commit_of("staging", 1)
    early = fleet.salt_run("promote", "blog", new, user="ada")
    assert early.returncode and "approvals by others: 0 of 1" in early.stdout, early
    approved = answer_of(fleet.salt_run("approve", "blog", new[:12], user="ben").check())
    assert approved["approved_by"] == ["ben"] and fleet.commit_of("blog", 0) == before != new
    time.sleep(5)
    answer = answer_of(fleet.salt_run("promote", "blog", new, user="ada").check())
    assert answer["status"] == "released" and fleet.commit_of("blog", 0) == new, answer
    assert answer["plan"]["release"]["new"] != answer["plan"]["release"]["old"], answer
    (row, *_rest) = answer_of(fleet.salt_run("requests", "blog"))["blog"]
    assert row["by"].startswith("ada") and "promote from staging" in row["by"]
    again = fleet.apply()
    assert not any(state["changes"] for states in again.values() for state in states.values()), again


def test_a_host_that_does_not_answer_well_keeps_the_commit_where_it_is(fleet):
    fleet.repository.commit(version("3.0"))
    fleet.salt_run("deploy", "staging").check()
    new, before = fleet.commit_of("staging", 1), fleet.commit_of("blog", 0)
    fleet.salt_run("approve", "blog", user="ben").check()
    fleet.apps[1].run("systemctl stop 'django-staging-*.socket' 'django-staging-*.service'")
    time.sleep(5)
    refused = fleet.salt_run("promote", "blog", new, user="ada")
    assert refused.returncode and "web2 of staging does not answer well" in refused.stdout, refused
    assert fleet.commit_of("blog", 0) == before
    refused = fleet.apps[0].run(["salt-call", "django.promote", "blog"], check=False)
    assert refused.returncode and "salt-run django.promote blog" in refused.stdout + refused.stderr
