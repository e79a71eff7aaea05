import subprocess
from pathlib import Path

import django_pillar
import django_project_inspection
import pytest
import yaml
from django_host_command import DeploymentError
from specimen import contract
from test_project import Cases

INSPECTIONS = yaml.load((Path(__file__).parent / "inspections.yaml").read_text(), Loader=Cases)
DEBIAN = {"os_family": "Debian", "osmajorrelease": 12}


def written(tree, files):
    for name, content in files.items():
        (tree / name).parent.mkdir(parents=True, exist_ok=True)
        (tree / name).write_text(content)
    return tree


@pytest.mark.parametrize("case", [pytest.param(case, id=case["case"]) for case in INSPECTIONS])
def test_a_pillar_is_written_for_a_project(tmp_path, case):
    tree = written(tmp_path / case["folder"], case["files"])
    text = django_project_inspection.inspect(str(tree))
    assert text.replace(str(tree), "<tree>") == case["pillar"]
    pillar = yaml.safe_load(text)
    assert django_pillar.compile(pillar, contract("schema.yaml"), contract("platforms.yaml"), DEBIAN)["errors"] == []


READS = """
import os
os.environ["SET"] = "1"
a = os.environ["KEY_A"]; b = os.environ.get("KEY_B"); c = os.getenv("KEY_C", "x")
env = environ.Env(KEY_D=(bool, False))
d = env("KEY_D"); e = env("KEY_E"); f = env.str("KEY_F", "x"); g = env("KEY_G", default=None)
h = config("KEY_H", cast=int); i = config("KEY_I", default=3); j = decouple.config("KEY_J")
k = env.db(); l = env.db("KEY_L", default="x"); m = dj_database_url.config("KEY_M", default="x")
n = os.environ[name]; o = config("not a variable"); p = env("KEY_P", **more); q = other("KEY_Q")
"""


def test_which_variables_are_read():
    found = list(django_project_inspection.read_variables(READS, "s.py"))
    required = {variable.name for variable in found if variable.required}
    optional = {variable.name for variable in found if not variable.required}
    assert required == {"KEY_A", "KEY_E", "KEY_H", "KEY_J", "DATABASE_URL"}
    assert optional == {"KEY_B", "KEY_C", "KEY_D", "KEY_F", "KEY_G", "KEY_I", "KEY_L", "KEY_M", "KEY_P"}
    assert next(variable.place for variable in found if variable.name == "KEY_A") == "s.py:4"
    assert list(django_project_inspection.read_variables("def (", "s.py")) == []


def test_a_repository_at_a_revision(tmp_path):
    tree = written(
        tmp_path / "work", {"manage.py": "", "site/wsgi.py": "get_wsgi_application", "requirements.txt": "django"}
    )
    git = ["git", "-C", str(tree), "-c", "user.name=a", "-c", "user.email=a@b"]
    for arguments in (["init", "-q", "-b", "main"], ["add", "."], ["commit", "-qm", "one"], ["tag", "v1"]):
        subprocess.run([*git, *arguments], check=True)
    written(tree, {"later/manage.py": ""})
    subprocess.run([*git, "add", "."], check=True)
    subprocess.run([*git, "commit", "-qm", "two"], check=True)
    bare = tmp_path / "blog.git"
    subprocess.run(["git", "clone", "-q", "--bare", str(tree), str(bare)], check=True)
    assert "manage.py in later, ." in django_project_inspection.inspect(str(bare))
    text = django_project_inspection.inspect(f"file://{bare}", "v1")
    assert yaml.safe_load(text)["django"]["sites"]["blog"]["revision"] == "v1" and "manage.py in" not in text
    assert text.splitlines()[1].startswith("#   commit ")


def test_what_is_no_project(tmp_path):
    with pytest.raises(DeploymentError, match=r"there is no manage\.py in the source"):
        django_project_inspection.inspect(str(tmp_path))
    with pytest.raises(DeploymentError, match="there is no repository at"):
        django_project_inspection.inspect(f"file://{tmp_path}/missing")
