"""The project that is found in a source."""

from pathlib import Path

import django_host_command
import django_project
import pytest
import yaml
from django_host_command import DeploymentError
from specimen import configured


class Cases(yaml.SafeLoader):
    """A loader of YAML with tags for the files that django-admin creates."""


Cases.add_constructor(
    "!manage", lambda loader, node: f"os.environ.setdefault('DJANGO_SETTINGS_MODULE', '{node.value}')"
)
Cases.add_constructor(
    "!wsgi",
    lambda loader, node: (
        "from django.core.wsgi import get_wsgi_application\n"
        f'os.environ.setdefault("DJANGO_SETTINGS_MODULE", "{node.value}")\napplication = get_wsgi_application()\n'
    ),
)
Cases.add_constructor("!join", lambda loader, node: "".join(loader.construct_sequence(node)))
PROJECTS = yaml.load((Path(__file__).parent / "projects.yaml").read_text(), Loader=Cases)


@pytest.mark.parametrize("case", [pytest.param(case, id=case["case"]) for case in PROJECTS])
def test_project_is_found_in_its_source(tmp_path, case, monkeypatch):
    for name, content in case["files"].items():
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_bytes(content.encode(errors="surrogateescape"))
    site = configured(**case.get("site", {}))
    monkeypatch.setattr(django_host_command, "identity", lambda user: {})
    if "found" in case:
        assert django_project.find(site, tmp_path) == {"python_path": [], **case["found"]}
    else:
        with pytest.raises(DeploymentError) as error:
            django_project.find(site, tmp_path)
        assert str(error.value) == case["error"]
