"""Classes of migrations by their effect on the running release: the cases are in operations.yaml."""

import importlib.util
import json
import subprocess
from pathlib import Path

import in_django
import pytest
import yaml
from specimen import ROOT

FILES = ROOT / "django/files"
DATA = yaml.safe_load(Path(__file__).with_name("operations.yaml").read_text())
NAMES = [" ".join(case["operations"])[:90] for case in DATA["cases"]]


@pytest.fixture(scope="module")
def guard():
    spec = importlib.util.spec_from_file_location("guarding", FILES / "django_formula_guard.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture(scope="module", params=in_django.DJANGOS)
def judged(request):
    """What the guard says of all cases, by one start of Django."""
    argv = [in_django.python(request.param), "-B", str(Path(__file__).with_name("guarded.py")), str(FILES)]
    done = subprocess.run(argv, input=json.dumps(DATA), capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return request.param, json.loads(done.stdout)


@pytest.mark.parametrize(
    "number", range(len(DATA["cases"])), ids=[" ".join(c["operations"])[:90] for c in DATA["cases"]]
)
def test_operation_classified(judged, number):
    django, answers = judged
    case, found = DATA["cases"][number], answers[number]
    if isinstance(found, str):
        assert django != "django", found
        return
    expected = case["class"] if isinstance(case["class"], list) else [case["class"]]
    assert [one["class"] for one in found] == expected, found
    if found:
        assert case.get("why", "") in found[-1]["why"] and case.get("way", "") in found[-1]["way"], found
        assert case.get("reversible", found[-1]["reversible"]) == found[-1]["reversible"]
    for one in found:
        assert bool(one["why"]) == (one["class"] != "safe") and bool(one["way"]) == (one["class"] == "breaking")


@pytest.mark.parametrize(("old", "new", "expected"), DATA["widens"])
def test_widened_type_accepts_all_values(guard, old, new, expected):
    assert guard.widens(old, new) is expected


@pytest.mark.parametrize(
    ("vendor", "statement", "expected"),
    [(vendor, *case) for vendor, cases in DATA["locks"].items() for case in cases],
)
def test_lock_of_statement(guard, vendor, statement, expected):
    assert guard.lock(vendor, [statement], False, {"blog_post"}, "blog_post") == expected


def test_strongest_lock_reported(guard):
    statements = ['CREATE INDEX "i" ON "blog_post" ("x")', 'ALTER TABLE "blog_post" DROP COLUMN "x"']
    told = guard.lock("postgresql", statements, False, {"blog_post"}, "blog_post")
    assert told == "ACCESS EXCLUSIVE on blog_post for a moment"
    told = guard.lock("postgresql", statements, True, {"blog_post"}, "blog_post")
    assert told == "ACCESS EXCLUSIVE on blog_post while it is rewritten"
