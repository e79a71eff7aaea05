"""The packages of a virtualenv are those that the project requires, in each form of requirements."""

import json
from pathlib import Path

import pytest
from products import shortened
from sites import Site, lines

LOCKS = Path(__file__).with_name("locks")
NEEDED = {"django": "5.2.19", "asgiref": "3.13.0", "sqlparse": "0.6.1"}


def lock(name: str) -> str:
    return (LOCKS / name).read_text()


PYPROJECT = """
[project]
name = "site"
version = "1"
dependencies = ["Django==5.2.19", "iniconfig==2.3.1"]
"""
#: Files that are committed instead of requirements.txt, options, and packages with the version that is installed.
#: A stale requirements.txt next to a lock file is ignored.
FORMS = {
    "uv.lock": (
        {"uv.lock": lock("uv.lock"), "pyproject.toml": lock("pyproject.toml"), "requirements.txt": "Django==0.0.1\n"},
        {},
        NEEDED | {"python-dotenv": "1.2.4"},
    ),
    "Pipfile.lock": ({"Pipfile.lock": lock("Pipfile.lock")}, {}, NEEDED | {"python-dotenv": "1.1.1"}),
    "poetry.lock": ({"poetry.lock": lock("poetry.lock")}, {}, NEEDED | {"python-dotenv": "1.0.1"}),
    "pyproject.toml": (
        {"pyproject.toml": f'{PYPROJECT}[dependency-groups]\nprod = ["python-dotenv==1.0.1"]\ndev = ["x==0"]\n'},
        {},
        {"django": "5.2.19", "iniconfig": "2.3.1", "python-dotenv": "1.0.1"},
    ),
    "chain": (
        {
            "requirements/production.txt": "-r base.txt\n-c limits/pins.txt\npython-dotenv\n",
            "requirements/base.txt": "Django\n",
            "requirements/limits/pins.txt": "Django==5.2.19\npython-dotenv==1.0.1\n",
        },
        {},
        {"django": "5.2.19", "python-dotenv": "1.0.1"},
    ),
    "requirements": (
        {"needs/all.txt": "Django==5.2.19\n"},
        {
            "requirements": ["needs/all.txt"],
            "python_packages": ["python-dotenv"],
            "constraints": ["python-dotenv==1.0.1"],
        },
        {"django": "5.2.19", "python-dotenv": "1.0.1"},
    ),
    "pkg_resources": (
        {"requirements.txt": "Django==5.2.19\ndjango-widget-tweaks==1.4.12\n"},
        {"requirements": None, "constraints": ["setuptools==80.9.0"], "python_packages": None},
        {"django": "5.2.19", "django-widget-tweaks": "1.4.12", "setuptools": "80.9.0"},
    ),
    "packages over pins": (
        {"requirements.txt": "Django==5.2.19\npython-dotenv==1.0.1\nfrozenlist==1.2.0\n"},  # frozenlist cannot be built
        {"requirements": None, "constraints": None, "python_packages": ["python-dotenv==1.1.1", "frozenlist>1.2.0"]},
        {"django": "5.2.19", "python-dotenv": "1.1.1"},
    ),
}
#: A package of the repository itself, with data and an extension module.
KIT = {
    "libs/kit/pyproject.toml": """
[build-system]
requires = ["setuptools"]
build-backend = "setuptools.build_meta"
""",
    "libs/kit/setup.py": """
from setuptools import Extension, setup

fast = Extension("kit.fast", ["fast.c"])
setup(name="kit", version="1", packages=["kit"], package_data={"kit": ["*.csv"]}, ext_modules=[fast])
""",
    "libs/kit/fast.c": """
#include <Python.h>
static struct PyModuleDef module = {PyModuleDef_HEAD_INIT, "fast", NULL, -1, NULL};
PyMODINIT_FUNC PyInit_fast(void) { return PyModule_Create(&module); }
""",
    "libs/kit/kit/__init__.py": "value = 1\n",
    "libs/kit/kit/prices.csv": "a,b\n",
}
UNSET = {"requirements": None, "constraints": None, "python_packages": None}
FILES = {name: None for files, _options, _has in FORMS.values() for name in files}


def installed(blog: Site) -> dict[str, str]:
    listed = "{each.name.lower(): each.version for each in importlib.metadata.distributions()}"
    program = f"import importlib.metadata, json; print(json.dumps({listed}))"
    return json.loads(blog.host.run([f"{blog.root}/current/virtualenv/bin/python", "-I", "-c", program]).stdout)


@pytest.mark.parametrize("form", shortened(FORMS, "uv.lock"))
def test_required_packages_are_installed(blog, form):
    files, options, has = FORMS[form]
    blog.repository.commit(FILES | files)
    blog.deploy(**UNSET | options)
    found = installed(blog)
    assert has.items() <= found.items()
    assert "pyuwsgi" in found and "guestbook-site" not in found and "site" not in found
    assert ("iniconfig" in found) == ("iniconfig" in has), "development packages are left out"
    assert not blog.apply().changed


def test_virtualenv_is_compiled_and_owned_by_root(blog):
    virtualenv = f"{blog.root}/virtualenvs/{blog.record()['virtualenv']}"
    packages = blog.host.run(f"echo {virtualenv}/lib/python3*/site-packages").stdout.strip()
    assert blog.host.run(["find", f"{packages}/django/http", "-name", "*.pyc"]).stdout.count("\n") >= 5
    assert blog.host.run(["find", packages, "-type", "f", "-links", "+1"]).stdout == ""
    assert blog.host.run(["find", virtualenv, "-not", "-user", "root"]).stdout == ""


@pytest.mark.full
def test_virtualenv_is_shared_and_an_unused_one_removed(blog):
    blog.repository.commit(FILES | {"requirements.txt": "Django==5.2.19\n"})
    blog.deploy(**UNSET, releases={"keep": 2})
    key = blog.record()["virtualenv"]
    blog.repository.commit({"notes.txt": "1\n"})
    assert blog.deploy()["blog has its virtualenv"].changes["virtualenv"] == f"{key}, shared"
    blog.repository.commit({"notes.txt": "2\n"})
    blog.deploy()
    assert blog.host.run(["ls", f"{blog.root}/virtualenvs"]).stdout.split() == [key]


@pytest.mark.full
def test_own_packages_of_the_repository_are_deployed_whole(blog):
    """Built as the build user, and of what a release has: a change in them is a change of the virtualenv."""

    def kit() -> dict[str, str]:
        program = "import json, kit, kit.fast, os, pathlib; folder = pathlib.Path(kit.__file__).parent; "
        program += "print(json.dumps({'value': kit.value, 'data': (folder / 'prices.csv').read_text()}))"
        argv = ["runuser", "-u", "blog", "--", f"{blog.root}/current/virtualenv/bin/python", "-I", "-c", program]
        return json.loads(blog.host.run(argv).stdout)

    blog.repository.commit(FILES | KIT | {"requirements.txt": "Django==5.2.19\n-e ./libs/kit\n"})
    blog.deploy(**UNSET, packages=["gcc", "libc6-dev", "python3-dev"])
    assert kit() == {"value": 1, "data": "a,b\n"} and not blog.apply().changed
    before = blog.host.run(["readlink", f"{blog.root}/current/virtualenv"]).stdout
    blog.repository.commit({"libs/kit/kit/__init__.py": "value = 2\n", "libs/kit/kit/prices.csv": "c,d\n"})
    blog.deploy()
    assert kit() == {"value": 2, "data": "c,d\n"}
    assert blog.host.run(["readlink", f"{blog.root}/current/virtualenv"]).stdout != before
    blog.repository.commit({"notes.txt": "3\n"})
    assert "shared" in str(blog.deploy().changed)
    live = blog.live
    blog.repository.commit({"requirements.txt": "Django==5.2.19\n-e ../kit\n"})
    comment = blog.apply().failed["blog has its virtualenv"]
    assert "requirements.txt requires ../kit, which is not in the source" in comment and blog.live == live
    blog.repository.commit(dict.fromkeys(KIT) | {"requirements.txt": "Django==5.2.19\n"})
    blog.deploy(packages=None)


def test_build_commands_run_in_the_new_source_without_secrets(blog):
    program = (
        "import json, os; print(json.dumps([os.getuid(), os.getcwd(), *os.environ]), file=open('built.json', 'w'))"
    )
    echo = "sh -c 'printf %s \"$1 ${HOME:+set} $0\" > words.txt' $HOME '${PATH} $$'"
    build = [f'python -c "{program}"', echo]
    blog.deploy(build=build, secrets={"API_TOKEN": {"generate": 40}}, environment={"MOTTO": "x"})
    assert blog.host.read(f"{blog.root}/current/source/words.txt") == "${PATH} $$ set $HOME"
    uid, folder, *names = json.loads(blog.host.read(f"{blog.root}/current/source/built.json"))
    assert str(uid) == blog.host.run(["id", "-u", "blog-build"]).stdout.strip()
    assert folder == f"{blog.root}/releases/{blog.live}/source"
    assert not {"API_TOKEN", "MOTTO", "DJANGO_SETTINGS_MODULE"} & set(names)
    built = blog.host.testinfra.file(f"{blog.root}/current/source/built.json")
    assert (built.user, built.group, built.mode) == ("root", "blog", 0o640)


def test_failed_build_command_is_named(blog):
    before = blog.live
    applied = blog.apply(build=["python -c \"import sys; sys.exit('no paper')\""])
    comment = applied.failed["blog is built"]
    assert "no paper" in comment and "sys.exit" in comment and lines(comment) <= 10
    assert blog.live == before
    blog.deploy(build=None, secrets=None, environment=None)


@pytest.mark.full
def test_unsupported_python_version_is_refused(blog):
    before = blog.live
    blog.repository.commit({"pyproject.toml": PYPROJECT + 'requires-python = ">=3.99"\n', "requirements.txt": None})
    comment = blog.apply().failed["blog has its virtualenv"]
    assert "the project requires Python >=3.99, and python3 is 3." in comment
    assert "django:sites:blog:python" in comment and lines(comment) <= 10 and blog.live == before
    blog.repository.commit(FILES | {"requirements.txt": "Django==5.2.19\n"})
    blog.deploy()


#: Pins of 2021: on a Python of 2022 or later three have no wheel, and the host has no compiler; what builds the fourth
#: is no longer in setuptools.
PINS_OF_2021 = """Django==5.2.19
lxml==4.6.3
Pillow==8.2.0
psycopg2-binary==2.8.6
django-allauth==0.39.1
"""


@pytest.mark.full
def test_requirements_that_cannot_be_installed_give_way(blog):
    blog.repository.commit({"requirements.txt": PINS_OF_2021})
    applied = blog.deploy(**UNSET)
    changes = applied["blog has its virtualenv"].changes["relaxed"]
    assert changes["versions"]["lxml"][0] == "4.6.3" and {*changes["versions"]} == {"lxml", "pillow", "psycopg2-binary"}
    assert {*changes["tools"]} == {"setuptools"} and blog.record()["relaxed"] == {**changes, "until": ""}
    has = installed(blog)
    kept = {name: new for name, (_old, new) in changes["versions"].items()}
    assert kept.items() <= has.items() and has["django-allauth"] == "0.39.1" and has["django"] == "5.2.19"
    offered = f"django:sites:blog:python_packages: {[f'{name}=={new}' for name, new in sorted(kept.items())]}"
    (warning,) = applied["blog has its virtualenv"].warnings
    assert offered in warning and "lxml 4.9.1 instead of 4.6.3" in warning, applied
    assert not blog.apply().changed
    blog.repository.commit({"notes.txt": "1\n"})
    shared_apply = blog.deploy()
    shared = shared_apply["blog has its virtualenv"].changes
    assert shared["virtualenv"].endswith(", shared") and blog.record()["relaxed"]["tools"] == changes["tools"]
    assert not shared_apply.warnings
    taken = blog.deploy(python_packages=[f"{name}=={new}" for name, new in kept.items()])
    assert not taken.warnings and "relaxed" not in blog.record(), "what was built once is in uv's cache"
    assert kept.items() <= installed(blog).items()
    blog.repository.commit({"requirements.txt": "Django==5.2.19\n"})
    blog.deploy(**UNSET)
    assert "relaxed" not in blog.record()


@pytest.mark.full
def test_missing_system_packages_are_named(blog):
    """psycopg2 has no wheel, and asks for pg_config before any compiler."""
    before = blog.live
    blog.repository.commit({"requirements.txt": "Django==5.2.19\npsycopg2==2.9.10\n"})
    comment = blog.apply().failed["blog has its virtualenv"]
    assert "django:sites:blog:packages: [gcc, libc6-dev, libpq-dev, python3-dev]" in comment
    assert lines(comment) <= 10 and blog.live == before
    blog.repository.commit({"requirements.txt": "Django==5.2.19\n"})
    blog.deploy()


@pytest.mark.full
def test_missing_interpreter_is_named(blog):
    before = blog.live
    comment = blog.apply(python="python3.99").failed["blog has its virtualenv"]
    assert (
        "the interpreter python3.99 is not installed on this host" in comment
        and "django:sites" in comment
        and lines(comment) <= 10
    )
    assert blog.answering["release"] == before
    blog.deploy(python=None)


@pytest.mark.full
def test_other_interpreter_builds_another_virtualenv(blog):
    before = blog.record()["virtualenv"]
    blog.host.run("cp -L /usr/bin/python3 /usr/local/bin/python3.11-own")
    blog.deploy(python="python3.11-own")
    assert blog.record()["virtualenv"] != before
    assert blog.answering["release"] == blog.live
    blog.deploy(python=None)
    assert blog.record()["virtualenv"] == before
