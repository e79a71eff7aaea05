"""A repository's own packages: found in what names them, part of a virtualenv's key, installed whole by real uv."""

import os
import subprocess
from pathlib import Path
from typing import Any

import pytest
from django_formula.host.commands import DeploymentError
from django_formula.process import build_user
from django_formula.server import servers
from django_formula.virtualenv import interpreter, local, requirements, virtualenvs
from django_formula.virtualenv import uv as virtualenv_uv
from thinned import each
from trees import write_tree

#: A build backend that needs no index: a wheel of all that is in `src`, with a module that it makes.
BACKEND = """
import os, zipfile

NAME = "{name}"

def build_wheel(wheel_directory, config_settings=None, metadata_directory=None):
    about = f"{{NAME}}-1.dist-info"
    with zipfile.ZipFile(os.path.join(wheel_directory, f"{{NAME}}-1-py3-none-any.whl"), "w") as wheel:
        for parent, _folders, names in os.walk("src"):
            for name in names:
                path = os.path.join(parent, name)
                wheel.write(path, os.path.relpath(path, "src"))
        wheel.writestr(f"{{NAME}}/made.py", "made = True")
        wheel.writestr(f"{{about}}/METADATA", f"Metadata-Version: 2.1\\nName: {{NAME}}\\nVersion: 1\\n{requires}")
        wheel.writestr(f"{{about}}/WHEEL", "Wheel-Version: 1.0\\nRoot-Is-Purelib: true\\nTag: py3-none-any\\n")
        wheel.writestr(f"{{about}}/RECORD", "")
    return f"{{NAME}}-1-py3-none-any.whl"

def build_editable(*_arguments, **_options):
    raise RuntimeError("the folder of a build is not there when the site runs")
"""


def package(folder: str, name: str, *, needs: str = "", more: str = "") -> dict[str, str]:
    """The files of a package of the repository, with data next to its module."""
    dependencies = f'dependencies = ["{needs}"]\n' if needs else ""
    build = 'requires = []\nbuild-backend = "backend"\nbackend-path = ["."]\n'
    requires = f"Requires-Dist: {needs}\\n" if needs else ""
    return {
        f"{folder}/pyproject.toml": f'[project]\nname = "{name}"\nversion = "1"\nrequires-python = ">=3.10"\n'
        f"{dependencies}[build-system]\n{build}{more}",
        f"{folder}/backend.py": BACKEND.format(name=name, requires=requires),
        f"{folder}/src/{name}/__init__.py": "value = 1\n",
        f"{folder}/src/{name}/prices.csv": "a,b\n",
    }


KIT, DEEP = package("libs/kit", "kit"), package("libs/deep", "deep")
MEMBER = "[tool.uv.sources]\ndeep = {workspace = true}\n"
WORKSPACE = {
    "pyproject.toml": '[tool.uv.workspace]\nmembers = ["apps/*", "libs/*"]\n',
    "apps/web/manage.py": "",
    "apps/web/pyproject.toml": '[project]\nname = "web"\nversion = "1"\nrequires-python = ">=3.10"\n'
    'dependencies = ["kit"]\n[tool.uv.sources]\nkit = {workspace = true}\n',
    **package("apps/api", "api"),
    **package("libs/kit", "kit", needs="deep", more=MEMBER),
    **DEEP,
    **package("libs/unused", "unused"),
}
POETRY = """
[[package]]
name = "kit"
version = "1"
groups = ["main"]
[package.source]
type = "directory"
url = "../../libs/kit"
"""
#: Sources, the file that lists their packages, the folder of manage.py and the packages of their own that they need.
SOURCES: dict[str, tuple[dict[str, str], str, str, set[str]]] = {
    "editable": ({**KIT, "requirements.txt": "-e ./libs/kit\n"}, "requirements.txt", ".", {"kit"}),
    "path": ({**KIT, "requirements.txt": "./libs/kit ; python_version > '3'\n"}, "requirements.txt", ".", {"kit"}),
    "file": ({**KIT, "requirements.lock": "-e file:libs/kit\n"}, "requirements.lock", ".", {"kit"}),
    "named": ({**KIT, "requirements.txt": "kit @ file:libs/kit\n"}, "requirements.txt", ".", {"kit"}),
    "above": ({**KIT, "apps/web/base.txt": "-e ../../libs/kit # ours\n", "apps/web/requirements.txt": "-r base.txt\n"},
              "apps/web/requirements.txt", "apps/web", {"kit"}),
    "from the top": ({**KIT, "requirements/prod.txt": "./libs/kit\n"}, "requirements/prod.txt", ".", {"kit"}),
    "pyproject": (
        {**KIT, "apps/web/pyproject.toml": '[project]\nname = "web"\nversion = "1"\ndependencies = ["kit"]\n'
         '[tool.uv.sources]\nkit = {path = "../../libs/kit", editable = true}\n'},
        "apps/web/pyproject.toml", "apps/web", {"kit"}),
    "poetry": ({**KIT, "apps/web/poetry.lock": POETRY}, "apps/web/poetry.lock", "apps/web", {"kit"}),
    "pdm": ({**KIT, "pdm.lock": '[[package]]\nname = "kit"\npath = "./libs/kit"\ngroups = ["default"]\n'},
            "pdm.lock", ".", {"kit"}),
    "pipenv": ({**KIT, "web/Pipfile.lock": '{"default": {"kit": {"editable": true, "path": "../libs/kit"}}}'},
               "web/Pipfile.lock", "web", {"kit"}),
    "workspace": (WORKSPACE, "apps/web/pyproject.toml", "apps/web", {"kit", "deep"}),
    "locked workspace": (WORKSPACE, "uv.lock", "apps/web", {"kit", "deep"}),
}  # fmt: skip


@pytest.fixture
def uv(monkeypatch, tmp_path):
    """Run uv itself, without an index."""
    binary = tmp_path / "uv/bin/uv"
    binary.parent.mkdir(parents=True)
    binary.symlink_to(subprocess.run(["sh", "-c", "command -v uv"], capture_output=True, text=True).stdout.strip())

    def run(
        site: Any, argv: list[str], *, doing: str, environment: dict[str, str], folder: str, **_options: Any
    ) -> str:
        given = {**os.environ, **environment, "UV_OFFLINE": "1", "HOME": str(tmp_path)}
        done = subprocess.run(argv, cwd=folder, env=given, capture_output=True, text=True)
        if done.returncode:
            raise DeploymentError(f"{doing} failed", log=done.stderr)
        return done.stdout

    monkeypatch.setattr(build_user, "run_as_build_user", run)
    monkeypatch.setattr(virtualenv_uv, "UV", tmp_path / "uv")
    monkeypatch.setattr(interpreter, "path", lambda site: "/usr/bin/python3")
    monkeypatch.setattr(servers, "requirements", lambda *_arguments: [])


def lock(source: Path) -> None:
    argv = ["uv", "lock", "--offline", "--quiet"]
    subprocess.run(argv, cwd=source, check=True, env={**os.environ, "HOME": str(source.parent)})


def installed(site: Any, key: str) -> dict[str, list[str]]:
    """The packages of a virtualenv, and the files of each."""
    (packages,) = (site.virtualenvs / key).glob("lib/python*/site-packages")
    names = [path.name.partition("-")[0] for path in packages.glob("*.dist-info")]
    return {name: sorted(path.name for path in (packages / name).glob("*.*")) for name in names}


@pytest.mark.slow
@pytest.mark.parametrize("name", each(3, SOURCES))
def test_own_packages_of_a_repository_are_installed_whole(make_site, uv, tmp_path, name):
    files, listing, folder, expected = SOURCES[name]
    source, site = write_tree(tmp_path / "source", files), make_site()
    if listing == "uv.lock":
        lock(source)
    virtualenvs.build(site, source, [listing], "key", None, folder)
    assert installed(site, "key") == {one: ["__init__.py", "made.py", "prices.csv"] for one in expected}
    (packages,) = (site.virtualenvs / "key").glob("lib/python*/site-packages")
    links = [path.read_text() for path in packages.glob("*.pth")]
    assert not [text for text in links if "requirements" in text]
    (source / "libs/kit/src/kit/__init__.py").write_text("value = 2\n")
    virtualenvs.build(site, source, [listing], "other", None, folder)
    (module,) = (site.virtualenvs / "other").glob("lib/python*/site-packages/kit/__init__.py")
    assert module.read_text() == "value = 2\n"


@pytest.mark.parametrize("name", each(3, SOURCES))
def test_key_changes_with_an_own_package_and_no_other_code(make_site, tmp_path, name):
    files, listing, folder, expected = SOURCES[name]
    source, site = write_tree(tmp_path / "source", files), make_site(requirements=[listing])
    if listing == "uv.lock":
        lock(source)

    def contents() -> dict[str, str]:
        found = requirements.read(site, source, folder).contents
        return {path: text for path, text in found.items() if path.endswith("/")}

    first = contents()
    assert {Path(path).name for path in first} == expected
    write_tree(source, {"apps/api/src/api/__init__.py": "2", "apps/web/views.py": "2", "libs/unused/src/x.py": "2"})
    assert contents() == first
    for path, text in (("prices.csv", "c,d\n"), ("more.bin", "")):
        write_tree(source, {f"libs/kit/src/kit/{path}": text})
        assert contents() != first
        first = contents()
    (source / "libs/kit/src/kit/more.bin").chmod(0o755)
    assert contents() != first


@pytest.mark.parametrize(
    "line", ["-e ./libs/gone", "../../libs/kit", "gone @ file:libs/gone", "-e file:///${PROJECT_ROOT}/libs/gone"]
)
def test_path_that_is_not_in_the_source_is_refused(tmp_path, line):
    work = write_tree(tmp_path / "work", {"requirements.txt": f"{line}\n", **KIT})
    with pytest.raises(DeploymentError, match=r"requirements\.txt requires .*, which is not in the source") as error:
        local.make_absolute(work, [work / "requirements.txt"])
    assert "commit that folder" in error.value.hint


def test_other_requirements_stay_as_they_are(tmp_path):
    text = """-r base.txt
--index-url https://example.org/simple
-e git+https://example.org/a.git@v1#egg=a
b @ https://example.org/b.zip
git+ssh://git@example.org/c.git
django>=5.2  # ./libs/kit
d[extra]==1 ; python_version > '3'
    --hash=sha256:00
"""
    work = write_tree(tmp_path / "work", {"requirements.txt": text, **KIT})
    local.make_absolute(work, [work / "requirements.txt"])
    assert (work / "requirements.txt").read_text() == text


def test_link_out_of_the_source_is_neither_followed_nor_read(tmp_path):
    source = write_tree(tmp_path / "source", {**KIT, "requirements.txt": "./libs/kit"})
    (source / "libs/kit/secret").symlink_to("/etc/shadow")
    (source / "libs/out").symlink_to(tmp_path)
    texts = {"requirements.txt": "./libs/kit"}
    first = local.hashes(source, local.find(source, texts, "."))
    assert [*first] == ["libs/kit/"]
    (source / "libs/kit/secret").unlink()
    (source / "libs/kit/secret").symlink_to("/etc/passwd")
    assert local.hashes(source, ["libs/kit"]) != first
