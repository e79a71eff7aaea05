"""The project that is found in a source."""

import os
import time
from pathlib import Path

import pytest
import yaml
from django_formula.host import commands
from django_formula.host.commands import DeploymentError
from django_formula.inspect import advice, project
from specimen import configured


class Cases(yaml.SafeLoader):
    """A loader of YAML with tags for the files that django-admin creates."""


class Halves(yaml.loader.SafeLoader):
    """The same without C, ten times slower, which does not refuse halves of characters."""


TAGS = {
    "!manage": lambda loader, node: f"os.environ.setdefault('DJANGO_SETTINGS_MODULE', '{node.value}')",
    "!wsgi": lambda loader, node: (
        "from django.core.wsgi import get_wsgi_application\n"
        f'os.environ.setdefault("DJANGO_SETTINGS_MODULE", "{node.value}")\napplication = get_wsgi_application()\n'
    ),
    "!join": lambda loader, node: "".join(loader.construct_sequence(node)),
}
for tag, construct in TAGS.items():
    Cases.add_constructor(tag, construct)
    Halves.add_constructor(tag, construct)
PROJECTS = yaml.load((Path(__file__).parents[1] / "projects.yaml").read_text(), Loader=Halves)


@pytest.mark.usefixtures("asked_here")
@pytest.mark.parametrize("case", [pytest.param(case, id=case["case"]) for case in PROJECTS])
def test_project_is_found_in_its_source(tmp_path, case, monkeypatch):
    for name, content in case["files"].items():
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_bytes(content.encode(errors="surrogateescape"))
    site = configured(**case.get("site", {}))
    monkeypatch.setattr(commands, "identity", lambda user: {})
    if "found" in case:
        assert project.find(site, tmp_path) == {"python_path": [], **case["found"]}
    else:
        with pytest.raises(DeploymentError) as error:
            project.find(site, tmp_path)
        assert str(error.value) == case["error"]


def test_endless_files_of_a_project_are_not_read(tmp_path, monkeypatch):
    """A FIFO would block, and a device has no end; links lead there."""
    monkeypatch.setattr(commands, "identity", lambda user: {})
    for name in ("manage.py", "blog/wsgi.py", "blog/settings.py", "blog/urls.py", "blog/dates.py", "package.json"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).symlink_to("/dev/zero")
    os.mkfifo(tmp_path / "blog/base.py")
    os.mkfifo(tmp_path / ".env")
    began = time.monotonic()
    with pytest.raises(DeploymentError):
        project.find(configured(), tmp_path)
    facts = {"folder": ".", "python_path": [], "settings_module": "blog.base"}
    assert advice._required(tmp_path, facts, {}) == []
    assert advice._found(tmp_path, facts, "blog.example.org") == {}
    assert time.monotonic() - began < 60
