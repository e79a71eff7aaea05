"""A pillar that was read from a source is completed by what the project answers when it is run."""

import json
from pathlib import Path
from typing import Any

import pytest
import yaml
from django_formula.inspect import report as inspect_report
from django_formula.observe import completed, observation
from observed import LIE, answer, variable
from specimen import configured

CASES = yaml.safe_load((Path(__file__).parent / "completed.yaml").read_text())


def line(key: str, value: Any) -> dict[str, Any]:
    """A line of a pillar that was read, with entries for the keys that have them."""
    if key not in ("environment", "secrets", "workers"):
        return {"key": key, "value": value, "remark": "read"}
    return {"key": key, "entries": [{"key": name, "value": one, "remark": "read"} for name, one in value.items()]}


def printed(lines: list[dict[str, Any]]) -> list[str]:
    """The lines as a person reads them, without those that have no value of their own."""
    text = inspect_report.text("x", "site", [], inspect_report.ordered(lines))
    return [one.strip() for one in text.splitlines() if one.startswith("      ") and not one.endswith(":")]


def observed(case: dict[str, Any]) -> observation.Observation:
    variables = [
        variable(name, **{"place": "site/settings.py:7", **more}) for name, more in case.get("variables", {}).items()
    ]
    said = answer(*variables, facts=case.get("facts", {}), stage=case.get("stage", "done"))
    found = observation.parse(json.dumps(said), [])
    return observation.with_known_words(configured(**case["site"]), found) if "site" in case else found


@pytest.mark.parametrize("case", CASES, ids=[case["about"] for case in CASES])
def test_pillar_is_completed_by_what_was_observed(case):
    read = [line(key, value) for key, value in case.get("read", {}).items()]
    found = completed.lines(read, observed(case), case.get("options", {}))
    before = printed(read)
    assert [one for one in printed(found) if one not in before] == case["lines"]
    assert len(printed(found)) >= len(before)


@pytest.mark.parametrize(
    ("read", "options", "lines"),
    [
        ({}, {"packages": ["gcc", "libjpeg-dev"]}, ["packages: [gcc, libjpeg-dev]"]),
        ({"packages": ["libpq5"]}, {"packages": ["gcc"]}, ["packages: [gcc, libpq5]"]),
        ({"python": "3.9"}, {"python": "3.11"}, ['python: "3.11"']),
        ({"environment": {"A": "1"}}, {"environment": {"A": "2", "B": "3"}}, ['B: "3"']),
        ({}, {"commands:after_static": ["manage.py compress"]}, ['commands: {after_static: ["manage.py compress"]}']),
        ({}, {"user": "root", "sandbox": {"ProtectHome": False}, "repository": "file:///srv"}, []),
    ],
)
def test_the_cure_of_a_build_that_fails_is_in_the_pillar(read, options, lines):
    before = [line(key, value) for key, value in read.items()]
    found = [one.partition("  #")[0] for one in printed(completed.cured(before, options)) if "it fails without" in one]
    assert found == lines


def test_a_lie_stays_in_its_lines():
    """Jinja, YAML and control characters in all that an answer may have: nothing but values and comments is made."""
    facts = {name: [LIE, f"Celery {LIE} (3)", f"/{LIE}/healthz"] for name in observation.LISTS}
    said = answer(
        variable("KEY", {"SECRET_KEY": "whole", f"X:{LIE}": "whole"}, place=LIE, default=LIE, separator=LIE),
        variable("OTHER", place=LIE, default=LIE, required=False),
        facts=facts,
        error=LIE,
    )
    found = observation.parse(json.dumps(said), [])
    lines = completed.lines([line("environment", {"KEY": ""})], found, {})
    text = inspect_report.text("x", "site", completed.remarks([], found, "/srv/source"), lines)
    assert yaml.safe_load(text) == {"django": {"sites": {"site": {"environment": {"KEY": {"from": "secret_key"}}}}}}
    assert "{{" not in text and "\x1b" not in text and "\u202e" not in text
