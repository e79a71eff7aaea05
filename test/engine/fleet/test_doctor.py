"""What a master answers of the walks of its hosts: one row for each, whatever a host answers."""

from collections.abc import Collection
from typing import Any

import pytest
from django_formula.fleet import deployment
from django_formula.fleet import doctor as fleet_doctor
from django_formula.fleet.minions import Answer, answer_of
from engine.fleet.test_deployment import World


def link(name: str, text: str = "fine", command: str = "", todo: str = "", *, is_broken: bool = False) -> Any:
    return {"name": name, "is_broken": is_broken, "text": text, "command": command, "todo": todo}


WHOLE = {"site": "blog", "url": "http://blog.example.org/", "links": [link("domain"), link("media")], "seconds": 0.4}
STOPPED = link("process", "django-blog-0042 was stopped", "systemctl start django-blog-0042", is_broken=True)
MOUNT = link("media", "its mount is missing", todo="mount it", is_broken=True)
CASES: dict[str, tuple[Any, dict[str, str]]] = {
    "whole": (WHOLE, {"ok": "no broken link, from domain to media"}),
    "broken": (
        {**WHOLE, "links": [link("domain"), STOPPED]},
        {"broken": "process", "text": STOPPED["text"], "do": STOPPED["command"]},
    ),
    "nothing a command cures": (
        {**WHOLE, "links": [MOUNT]},
        {"broken": "media", "text": MOUNT["text"], "do": "mount it"},
    ),
    "no such site": ({"error": "there is no site blog"}, {"error": "there is no site blog"}),
    "another version": (
        "'django_fleet.doctor' is not available.",
        {"error": "'django_fleet.doctor' is not available. (the formula is not there yet: apply on it)"},
    ),
    "hostile": ({**WHOLE, "links": [{"name": []}]}, {"error": deployment._OTHER_VERSION}),
}


class Walking:
    """Hosts that answer their walk; web3 does not answer."""

    patience = 20.0

    def __init__(self, value: Any):
        self.value = value

    def ask(self, hosts: Collection[str], function: str, *arguments: Any, **_options: Any) -> dict[str, Answer]:
        assert (function, *arguments) == ("django_fleet.doctor", "blog", "")
        found = {host: answer_of(self.value, 0) for host in hosts}
        return {**found, "web3": Answer({}, "it does not answer", True)}

    def send(self, *_arguments: Any) -> None:
        raise AssertionError


@pytest.mark.parametrize("case", CASES)
def test_each_host_with_a_release_and_each_balancer_has_a_row(tmp_path, case):
    value, row = CASES[case]
    fleet = deployment.Fleet(World(tmp_path).store, Walking(value), "doctor", lambda _phase, _found: None)
    rows = fleet_doctor.walk(fleet, "")
    assert rows == {"lb1": row, "web1": row, "web2": row, "web3": {"error": "it does not answer"}}
    assert not fleet_doctor.is_whole(rows) and fleet_doctor.is_whole({"web1": rows["web1"]}) is ("ok" in row)
