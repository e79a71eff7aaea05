"""The interpreter of a site: where it is, and for which projects and servers it is refused."""

import os
import shutil
import sys

import pytest
from django_formula.host.commands import DeploymentError
from django_formula.knowledge import python_versions
from django_formula.virtualenv import interpreter, requirements
from specimen import ROOT, configured
from trees import write_tree

QUOTED = "'{}' in quotes, which is installed where the host does not have it"


def test_interpreter_is_found_by_name_and_a_missing_one_refused():
    assert interpreter.path(configured(python="sh")) == os.path.realpath(shutil.which("sh"))
    with pytest.raises(DeploymentError) as error:
        interpreter.path(configured(python="python9.9"))
    assert str(error.value) == (
        "the interpreter python9.9 is not installed on this host\n"
        "add it to django:sites:blog:packages, or set django:sites:blog:python to another one"
    )
    assert interpreter._identity(sys.executable, 0).startswith(sys.implementation.cache_tag)


@pytest.mark.parametrize(
    ("python", "hint"),
    [
        ("3.7", "state.apply django installs it, or set django:sites:blog:python to another one"),
        ("python3.8", "set django:sites:blog:python to '3.8' in quotes, which installs it, or to another one"),
    ],
)
def test_missing_version_of_python_can_be_installed(own_host, monkeypatch, python, hint):
    monkeypatch.setattr(shutil, "which", lambda name, path: None)
    with pytest.raises(DeploymentError) as error:
        interpreter.path(configured(python=python))
    name = "python3.7" if python == "3.7" else python
    assert str(error.value) == f"the interpreter {name} is not installed on this host\n{hint}"


def test_host_s_own_python_comes_before_an_installed_one(own_host, monkeypatch):
    installed = own_host / "usr/local/lib/django-formula/python"
    for release in ("3.13.9", "3.13.18", "3.12.20"):
        write_tree(installed / release, {".complete": "", f"x/bin/python{release[:4]}": ""})
    write_tree(installed / "3.13.19", {"x/bin/python3.13": ""})  # half of it
    monkeypatch.setattr(shutil, "which", lambda name, path: None)
    site = configured(python="3.13")
    assert interpreter.path(site) == str(installed / "3.13.18/x/bin/python3.13")
    assert site.has_managed_python()
    monkeypatch.setattr(shutil, "which", lambda name, path: f"/usr/bin/{name}")
    assert interpreter.path(site) == "/usr/bin/python3.13"
    assert not site.has_managed_python() and not configured(python="python3.13").has_managed_python()


@pytest.mark.parametrize(
    ("files", "expected"),
    [
        ({"uv.lock": 'version = 1\nrequires-python = ">=3.99"\n'}, ">=3.99"),
        ({"pyproject.toml": "[project]\nrequires-python = '>=3.99,<4'\n"}, ">=3.99,<4"),
        (
            {
                "poetry.lock": '[[package]]\nname = "a"\npython-versions = ">=3.99"\n'
                '[metadata]\nlock-version = "2"\npython-versions = ">=3.2"\n'
            },
            None,
        ),
        ({"poetry.lock": '[metadata]\npython-versions = "==3.99"\n'}, "==3.99"),
        ({"poetry.lock": '[metadata]\npython-versions = "^3.99"\n'}, "^3.99"),
        ({"poetry.lock": '[metadata]\npython-versions = "^3.8"\n'}, None),
        ({"pdm.lock": '[metadata]\n\n[[metadata.targets]]\nrequires_python = ">=3.99"\n'}, ">=3.99"),
        ({"pdm.lock": '[[package]]\nname = "a"\nrequires_python = ">=3.99"\n'}, None),
        ({"pyproject.toml": "[project]\nrequires-python = '>=3.2'\n"}, None),
        ({"requirements.txt": "django\n"}, None),
        ({"uv.lock": 'requires-python = "==3.11.9"\n'}, None),
        ({"pyproject.toml": "[project]\nrequires-python = '>=3.11.4,<3.12'\n"}, None),
        ({"poetry.lock": '[metadata]\npython-versions = "3.11.9"\n'}, None),
        ({"uv.lock": 'requires-python = "==3.13.11"\n'}, "==3.13.11"),
    ],
)
def test_interpreter_that_the_project_does_not_support_is_refused(make_site, tmp_path, monkeypatch, files, expected):
    source = write_tree(tmp_path / "source", files)
    monkeypatch.setattr(interpreter, "path", lambda site: sys.executable)
    monkeypatch.setattr(interpreter, "_identity", lambda path, modified: "cpython-311 linux glibc 2.36 3.11.2")
    site = make_site()
    if not expected:
        interpreter.require(site, requirements.python_versions(source, [*files]))
        return
    with pytest.raises(DeploymentError) as error:
        interpreter.require(site, requirements.python_versions(source, [*files]))
    assert str(error.value) == (
        f"the project requires Python {expected}, and python3 is 3.11.2\nset django:sites:blog:python to "
        + ("another interpreter" if "3.99" in expected or "==3.2" in expected else QUOTED.format("3.13"))
    )


@pytest.mark.parametrize(
    ("versions", "supported"),
    [
        (">=3.8", True),
        (">= 3.11, < 3.12", True),
        (">=3.12", False),
        ("<3.11", False),
        ("<=3.11", False),
        (">3.11", True),
        ("==3.11.*", True),
        ("==3.11", False),
        ("!=3.11.*", False),
        ("!=3.11.1", True),
        ("~=3.10", True),
        ("~=3.11.0", True),
        ("~=3.10.1", False),
        ("^3.8", True),
        ("^3.12", False),
        ("~3.11", True),
        ("~3.10", False),
        ("3.11", True),
        ("3.8 || ^3.9", True),
        ("*", True),
        ("", True),
        ("nonsense", True),
    ],
)
def test_version_of_python_is_compared_as_packaging_and_poetry_do(versions, supported):
    assert python_versions.is_among("3.11.2", versions) is supported


@pytest.mark.parametrize(
    ("version", "python", "needed", "newer", "suggested"),
    [
        ("1.11.29", "3.11.2", ">=3.4,<3.10", "2.2", "3.9"),
        ("2.1.15", "3.11.2", ">=3.5,<3.11", "2.2", "3.10"),
        ("2.2.10", "3.11.2", None, "", ""),
        ("2.2.28", "3.12.1", ">=3.6,<3.12", "4.2", "3.11"),
        ("3.0.14", "3.11.2", None, "", ""),
        ("3.2.25", "3.12.1", ">=3.6,<3.12", "4.2", "3.11"),
        ("3.2.25", "3.11.2", None, "", ""),
        ("4.0.3", "3.13.5", ">=3.8,<3.13", "4.2", "3.12"),
        ("4.2.26", "3.13.0", None, "", ""),
        ("4.2.26", "3.14.0", ">=3.8,<3.14", "5.2", "3.13"),
        ("5.2.1", "3.9.2", ">=3.10", "", "3.13"),
        ("6.0", "3.11.2", ">=3.12", "", "3.13"),
        ("99.0", "3.11.2", None, "", ""),
        ("", "3.11.2", None, "", ""),
    ],
)
def test_django_that_does_not_run_on_the_interpreter_is_refused(
    make_site, monkeypatch, version, python, needed, newer, suggested
):
    site = make_site(python_packages=["six"])
    monkeypatch.setattr(interpreter, "path", lambda site: sys.executable)
    monkeypatch.setattr(interpreter, "_identity", lambda path, modified: f"cpython-3 linux glibc 2 {python}")
    assert interpreter.newer_django(version, python) == newer
    assert interpreter.newer_django(version, "") == ""
    if not needed:
        interpreter.require_for_django(site, version)
        return
    with pytest.raises(DeploymentError) as error:
        interpreter.require_for_django(site, version)
    cure = f", or django:sites:blog:python_packages: [six, 'django~={newer}.0']" if newer else ""
    assert error.value.offered == ({"python_packages": ["six", f"django~={newer}.0"]} if newer else {})
    assert str(error.value) == (
        f"Django {version} does not run on python3, which is Python {python}: it needs {needed}\n"
        f"set django:sites:blog:python to {QUOTED.format(suggested)}{cure}"
    )


def test_django_that_is_newer_than_the_tested_ones_has_a_warning():
    newest = interpreter.TESTED[-1]
    for version in ("", "4.2.26", "5.1", newest, f"{newest}.9", f"{newest}rc1"):
        assert interpreter.warning_of_django(version) == ""
    for version in ("9.0", "10.0a1", f"{newest}9.1"):
        warning = interpreter.warning_of_django(version)
        assert warning.startswith(f"Django {version} is newer than what this version of the formula is tested with")
    row = next(line for line in (ROOT / "docs/reference/support.md").read_text().splitlines() if "| Django |" in line)
    assert f"| {', '.join(interpreter.TESTED)} |" in row and f"4.2 to {newest};" in row


@pytest.mark.parametrize(
    ("tag", "module", "reported"),
    [
        ("cpython-311", "mod_wsgi.so-3.11", None),
        ("cpython-311", None, None),
        ("cpython-312", "mod_wsgi.so-3.11", "python3.12 is 3.12.3 (cpython-312)"),
        ("pypy-311", "mod_wsgi.so-3.11", "python3.12 is 3.12.3 (pypy-311)"),
    ],
)
def test_interpreter_that_the_server_is_not_built_for_is_refused(
    make_site, tmp_path, monkeypatch, tag, module, reported
):
    monkeypatch.setattr(interpreter, "path", lambda site: sys.executable)
    monkeypatch.setattr(interpreter, "_identity", lambda path, modified: f"{tag} linux glibc 2.36 3.12.3")
    if module:
        (tmp_path / "mod_wsgi.so").symlink_to(module)
    site = make_site(server={"kind": "mod_wsgi"}, python="python3.12")
    site.platform["mod_wsgi"] = {"modules": str(tmp_path)}
    if not reported:
        interpreter.require_for_server(site)
        return
    with pytest.raises(DeploymentError) as error:
        interpreter.require_for_server(site)
    assert str(error.value) == (
        f"mod_wsgi of this system is built for Python 3.11, and {reported}\n"
        "set django:sites:blog:python to python3.11, or choose another server:kind"
    )
