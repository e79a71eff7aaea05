"""Lock files become requirements files."""

import os
from pathlib import Path

import pytest
import yaml
from django_formula.host.commands import DeploymentError
from django_formula.virtualenv import lock
from trees import write_tree

LOCKS = yaml.safe_load((Path(__file__).parents[1] / "locks.yaml").read_text())


@pytest.mark.parametrize("case", [pytest.param(case, id=f"{case['file']}-{case['case']}") for case in LOCKS])
def test_lock_file_is_converted_into_requirements(make_site, tmp_path, case):
    others = {"pyproject.toml": case["pyproject"]} if "pyproject" in case else {}
    work = write_tree(tmp_path / "work", {case["file"]: case["content"], **others})
    if "error" in case:
        with pytest.raises(DeploymentError) as error:
            lock.as_requirements(work, case["file"])
        assert error.value.message == case["error"]
    else:
        made = lock.as_requirements(work, case["file"])
        assert made.read_text() == case["requirements"].replace("{folder}", str(work))
        constraints = work / f".{case['file']}.constraints.txt"
        assert (constraints.read_text() if constraints.exists() else None) == case.get("constraints")


@pytest.mark.parametrize(
    ("pyproject", "expected"),
    [
        (
            """
[project]
dependencies = ["django"]
[dependency-groups]
prod = ["gunicorn>=23", {include-group = "database"}]
database = ["psycopg[binary]", {include-group = "prod"}]
dev = ["pytest"]
""",
            {"prod": ["gunicorn>=23", "psycopg[binary]"]},
        ),
        (
            """
[dependency-groups]
app = ["Django>=5.2", "django-filter"]
test = ["django", "pytest-django"]
other = ["django-extensions"]
""",
            {"app": ["Django>=5.2", "django-filter"]},
        ),
        ('[dependency-groups]\ndev = ["django"]\n', {}),
        ("[dependency-groups]\nprod = 1\n", {}),
        ('[project]\nname = "x"\n', {}),
        ("[dependency-groups", {}),
    ],
)
def test_dependency_groups_that_a_site_needs(tmp_path, pyproject, expected):
    path = write_tree(tmp_path, {"pyproject.toml": pyproject}) / "pyproject.toml"
    assert lock.groups_of_pyproject(path) == expected


@pytest.mark.parametrize("what", ["a FIFO", "a device"])
def test_toml_that_is_no_file_is_refused_and_not_read(tmp_path, what):
    path = tmp_path / "pyproject.toml"
    if what == "a FIFO":
        os.mkfifo(path)
    else:
        path.symlink_to("/dev/zero")
    with pytest.raises(ValueError, match=r"pyproject\.toml is no file"):
        lock.read_toml(path)
