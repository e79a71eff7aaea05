"""Defaults of new columns in the database: the INSERTs of a release that does not know them, on SQLite.

The cases are in defaults.yaml; test/hosts/test_kept_defaults.py has them on PostgreSQL and MariaDB.
"""

import json
import subprocess
from pathlib import Path

import in_django
import pytest
import yaml
from specimen import ROOT

FILES = ROOT / "django/files"
DATA = yaml.safe_load(Path(__file__).with_name("defaults.yaml").read_text())
NAMES = ["; ".join(case["operations"])[:110] for case in DATA["cases"]]


def problems(case, answer, django, *, sqlite=True):
    """What is not as a case says."""
    told = answer["told"]
    if django < str(case.get("since", "")):
        return [] if told[-1]["class"] == "breaking" else [f"{django}: {case['operations']}: {answer}"]
    expected = case["class"] if isinstance(case["class"], list) else [case["class"]]
    is_safe, last = set(expected) == {"safe"}, told[-1]
    checked = [
        ([one["class"] for one in told] == expected, "classes"),
        (case.get("why", "") in last["why"] and case.get("way", "") in last["way"], "why, way"),
        (not sqlite or case.get("default", last.get("default")) == last.get("default"), "default"),
        (("default" in last) <= is_safe, "a default where it is refused"),
        (case.get("value", answer.get("value")) == answer.get("value"), "value"),
        (case.get("careful") or (answer.get("inserted") == "ok") == is_safe, "INSERTs"),
    ]
    wrong = [name for is_right, name in checked if not is_right]
    return [f"{django}: {case['operations']}: {', '.join(wrong)}: {answer}"] if wrong else []


@pytest.fixture(scope="module", params=in_django.DJANGOS)
def answers(request):
    """What came of all cases, by one start of Django."""
    database = json.dumps({"ENGINE": "django.db.backends.sqlite3", "NAME": ":memory:"})
    program = str(Path(__file__).with_name("keeping.py"))
    argv = [in_django.python(request.param), "-B", "-W", "ignore", program, str(FILES), database]
    done = subprocess.run(argv, input=json.dumps(DATA), capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return request.param, json.loads(done.stdout)


@pytest.mark.slow
@pytest.mark.parametrize("number", range(len(NAMES)), ids=NAMES)
def test_inserts_of_running_release_after_new_column(answers, number):
    django, found = answers
    if isinstance(found[number], str):
        assert django != "django", found[number]
        return
    assert not problems(DATA["cases"][number], found[number], django)
