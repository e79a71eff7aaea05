"""What CONTRIBUTING.md says of the tests is so: the families' files on hosts, and the rights that hosts have."""

import ast
import re
from pathlib import Path

import families

ROOT = Path(__file__).parents[2]
FILES = {path.stem.removeprefix("test_"): path for path in sorted((ROOT / "test/hosts").glob("test_*.py"))}


def needs(path: Path) -> tuple[str, str] | None:
    """The rights that a file's hosts need beyond a container's, and why."""
    for node in ast.parse(path.read_text()).body:
        if isinstance(node, ast.Assign) and ast.unparse(node.targets[0]) == "NEEDS":
            assert isinstance(node.value, ast.Call)
            rights, reason = node.value.args
            return ast.unparse(rights).removeprefix("lab."), ast.literal_eval(reason)
    return None


def test_each_file_on_hosts_is_of_a_family():
    named = {name for files in families.on_hosts().values() for name in files}
    assert named == {*FILES}


def test_each_family_of_the_engine_is_listed():
    found = {path.parent.name for path in (ROOT / "engine/django_formula").glob("*/__init__.py")}
    assert found <= {*families.on_hosts()}


def test_rights_beyond_those_of_a_container_are_listed():
    section = (ROOT / "CONTRIBUTING.md").read_text().partition("## Rights of hosts")[2].partition("\n## ")[0]
    listed = {
        name: (rights, reason)
        for names, rights, reason in re.findall(r"^\| ([a-z][\w, ]+) \| `(\w+)` \| (.+) \|$", section, re.MULTILINE)
        for name in names.split(", ")
    }
    assert listed == {name: found for name, path in FILES.items() if (found := needs(path))}


def test_rights_are_given_by_the_file_alone():
    """But a container's, next to hosts that have more."""
    given = {name: set(re.findall(r"\brights=([\w.]+)", path.read_text())) for name, path in FILES.items()}
    assert {name: rights for name, rights in given.items() if rights - {"CONTAINER"}} == {}
