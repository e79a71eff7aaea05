"""The git repositories that a project's packages come from, and what inspection says about them."""

import json

import pytest
from django_formula.inspect import repositories

UV = """
[[package]]
name = "parser"
version = "1"
source = { git = "https://github.com/buses/parser?rev=ebff40d#ebff40db3664" }

[[package]]
name = "for-tests"
source = { git = "https://git.example.org/tests" }

[[package]]
name = "django"
source = { registry = "https://pypi.org/simple" }
"""
POETRY = """
[[package]]
name = "Bit_Field"
[package.source]
type = "git"
url = "git@git.example.org:own/bit-field.git"
"""
PDM = """
[[package]]
name = "kit"
git = "https://github.com/x/kit.git"
ref = "main"
[[package]]
name = "django"
version = "5.2.8"
"""
PYPROJECT = """
[project]
dependencies = ["one @ git+https://token@github.com/x/one.git@v1.2", "two", "django"]
[tool.uv.sources]
two = { git = "https://github.com/x/two", tag = "v2" }
three = { git = "https://github.com/x/three" }
[tool.poetry.dependencies]
four = { git = "https://github.com/x/four.git", branch = "main" }
"""
LINES = """
django==5.2  # git+https://github.com/no/comment
-e git+ssh://git@git.example.org/shop/a.git@main#egg=a
b[x] @ git+https://github.com/x/b@0123abc ; python_version > "3"
git+https://github.com/x/c.git@v1
d @ git+file:///srv/d
"""
ARCHIVES = """
one @ https://token@github.com/x/one/archive/40ff.zip
https://github.com/x/two/archive/refs/tags/v3.6.zip
https://github.com/x/three/releases/download/1/three_kit-1.0-py3-none-any.whl#sha256=0123
ldap @ https://github.com/x/ldap/releases/download/1/ldap-3.4.4-cp311-cp311-win_amd64.whl ; sys_platform == "win32"
--index-url https://pypi.example.org/simple
four  # https://github.com/x/no-requirement.zip
"""
PIPFILE = '{"default": {"e": {"git": "https://github.com/x/e.git", "ref": "0123abc"}, "django": {"version": "==5"}}}'


def _github(shown: str, *names: str) -> str:
    return (
        f"installed by git: {shown}; this host must reach github.com, and `index` does not replace it; "
        f"`python_packages: {json.dumps([f'{name}>=0' for name in names])}` does, where an index has "
        f"the package{'s' if len(names) > 1 else ''}"
    )


def _downloaded(shown: str, *names: str) -> str:
    return _github(shown, *names).replace("installed by git", "downloaded")


def _ssh(shown: str, first: str) -> str:
    return (
        f"installed by git: {shown}; this host must reach git.example.org over ssh, for which a build has no key, and "
        f'`index` does not replace it; `python_packages: ["{first}>=0"]` does, where an index has the package'
    )


@pytest.mark.parametrize(
    ("contents", "expected"),
    [
        ({"requirements.txt": "django==5.2\n"}, []),
        (
            {"uv.lock": UV, "pyproject.toml": PYPROJECT},
            [_github("parser from https://github.com/buses/parser", "parser")],
        ),
        ({"poetry.lock": POETRY}, [_ssh("bit-field from git@git.example.org:own/bit-field.git", "bit-field")]),
        ({"pdm.lock": PDM}, [_github("kit from https://github.com/x/kit.git", "kit")]),
        (
            {"pyproject.toml": PYPROJECT},
            [
                _github(
                    "one from https://github.com/x/one.git, two from https://github.com/x/two, "
                    "four from https://github.com/x/four.git",
                    *("one", "two", "four"),
                )
            ],
        ),
        (
            {"requirements/base.txt": LINES},
            [
                _ssh("a from ssh://git.example.org/shop/a.git", "a"),
                _github("b from https://github.com/x/b, c from https://github.com/x/c.git", "b", "c"),
            ],
        ),
        ({"Pipfile.lock": PIPFILE}, [_github("e from https://github.com/x/e.git", "e")]),
        (
            {"requirements.txt": ARCHIVES},
            [
                _downloaded(
                    "one from https://github.com/x/one/archive/40ff.zip, "
                    "two from https://github.com/x/two/archive/refs/tags/v3.6.zip, "
                    "three-kit from https://github.com/x/three/releases/download/1/three_kit-1.0-py3-none-any.whl",
                    *("one", "two", "three-kit"),
                )
            ],
        ),
        (
            {"uv.lock": '[[package]]\nname = "one"\nsource = { url = "https://github.com/x/one.tar.gz" }\n'},
            [_downloaded("one from https://github.com/x/one.tar.gz", "one")],
        ),
        ({"uv.lock": "no toml [", "Pipfile.lock": "{}", "poetry.lock": "package = 1"}, []),
    ],
    ids=["none", "uv", "poetry", "pdm", "pyproject", "lines", "pipfile", "archives", "archive-uv", "damaged"],
)
def test_packages_of_repositories_are_named_with_their_servers(contents, expected):
    required = ["django", "parser", "bit-field", "kit", "one", "two[x]", "four"]
    assert [*repositories.remarks(contents, required)] == expected
