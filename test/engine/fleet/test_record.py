"""What the master reports of a deployment on several hosts: its begin and end, and a line in the store."""

import json
from typing import Any

import pytest
from django_formula.fleet import record
from django_formula.fleet.deployment import Fleet
from django_formula.host.commands import DeploymentError
from engine.fleet.test_deployment import NEW, World


class Told:
    """The deployments of a site on hosts that are played, and the reports of them."""

    def __init__(self, world: World):
        self.world = world
        self.reports: list[tuple[str, dict[str, Any]]] = []
        hosts = world.hosts
        self.fleet = Fleet(world.store, hosts, "ada (salt-run django.deploy on master1)", self._report)

    def _report(self, phase: str, found: dict[str, Any]) -> None:
        self.reports.append((phase, found))

    def deploy(self) -> dict[str, Any]:
        return record.told(self.fleet, "deploy", "ada", "v2.1", lambda: self.fleet.deploy("v2.1"))

    @property
    def line(self) -> dict[str, Any]:
        text = record.path(self.world.store.folder.parent).read_text()
        return dict(json.loads(text))


@pytest.fixture
def told(tmp_path) -> Told:
    return Told(World(tmp_path))


def test_begin_phases_and_end_have_user_revision_and_commit(told):
    switch = told.world.hosts._switch
    told.world.hosts._switch = lambda *arguments: {**(switch(*arguments) or {}), "sent": 20, "failed": 1}
    assert told.deploy()["requests"] == {"sent": 60, "failed": 3}
    phases = [phase for phase, _found in told.reports]
    assert phases[0] == "begin" and phases[-1] == "end" and "switch" in phases
    assert {(found["user"], found["revision"]) for _phase, found in told.reports} == {("ada", "v2.1")}
    assert {found["commit"] for phase, found in told.reports if phase in ("prepare", "switch", "end")} == {NEW}
    end = told.reports[-1][1]
    assert (end["result"], end["error"], end["release"]) == ("released", "", f"0005-{NEW[:12]}")
    assert told.line["hosts"].keys() == {"web1", "web2", "web3"}
    assert (told.line["site"], told.line["sent"], told.line["failed"]) == ("blog", 60, 3)


@pytest.mark.parametrize(("verb", "result"), [("ready", "refused"), ("start", "failed")])
def test_failure_is_reported_with_its_phase_and_cause(told, verb, result):
    told.world.fail("web2", verb, "no space\nleft")
    with pytest.raises(DeploymentError):
        told.deploy()
    end = told.reports[-1][1]
    assert end["result"] == told.line["result"] == result and end["step"] in ("preflight", "start")
    assert "web2: no space" in end["error"] and "\n" not in end["error"]


def test_interrupted_deployment_is_reported(told):
    with pytest.raises(KeyboardInterrupt):
        record.told(told.fleet, "deploy", "ada", None, lambda: (_ for _ in ()).throw(KeyboardInterrupt))
    assert told.line["result"] == "interrupted"


def test_deployment_whose_runner_was_killed_is_reported_by_what_ends_it(told):
    record.interrupted(told.fleet, {"lb1": {}, "web1": {"claim": "another master's"}})
    assert told.reports == []
    record.interrupted(told.fleet, {"lb1": {}, "web1": {"abandoned": "0002-3f2a9c1b77de", "claim": ""}})
    assert told.line["result"] == "interrupted" and told.reports[-1][0] == "end"


def test_deployment_does_not_depend_on_the_report_of_its_end(told, monkeypatch):
    monkeypatch.setattr(record.file, "append", lambda *_, **__: (_ for _ in ()).throw(OSError("disk full")))
    assert told.deploy()["commit"] == NEW


@pytest.mark.parametrize("count", ["abc", -1, "", None])
def test_number_of_deployments_that_is_none_is_refused(tmp_path, count):
    with pytest.raises(DeploymentError, match="count is a number, not"):
        record.history(tmp_path, None, count)
    assert record.history(tmp_path, None, "5") == []
