"""The requirements files of a project."""

import pytest
from django_formula.host.commands import DeploymentError
from django_formula.virtualenv import requirements
from trees import write_tree


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16"])
def test_requirements_as_windows_writes_them(tmp_path, encoding):
    (tmp_path / "requirements.txt").write_bytes("Django==3.2\r\npsycopg2-binary==2.9.9\r\n".encode(encoding))
    names = requirements.package_names(tmp_path, ["requirements.txt"])
    assert sorted(names) == ["django", "psycopg2-binary"]
    (text,) = requirements.contents(tmp_path, ["requirements.txt"]).values()
    assert text.startswith("Django==3.2")


def test_links_that_lead_to_themselves_are_not_in_the_source(tmp_path):
    tree = write_tree(tmp_path, {"requirements.txt": "-r more.txt\nkit.zip\n", "limits.txt": "-c more.txt\nkit.zip\n"})
    for name in ("more.txt", "kit.zip"):
        (tree / name).symlink_to(name)
    for name in ("requirements.txt", "limits.txt"):
        with pytest.raises(DeploymentError, match=r"the requirements include more\.txt, which is not in the source"):
            requirements.contents(tree, [name])
    (tree / "requirements.txt").write_text("django\nkit.zip\n")
    assert [*requirements.contents(tree, ["requirements.txt"])] == ["requirements.txt"]


@pytest.mark.parametrize(
    ("files", "folder", "options", "expected"),
    [
        (["requirements.txt"], ".", {}, ["requirements.txt"]),
        (["requirements/base.txt", "requirements/production.txt"], ".", {}, ["requirements/production.txt"]),
        (["requirements/base.txt", "requirements/prod.txt"], ".", {}, ["requirements/prod.txt"]),
        (["requirements/base.txt", "requirements/local.txt"], ".", {}, ["requirements/base.txt"]),
        (["requirements-prod.txt"], ".", {}, ["requirements-prod.txt"]),
        (["uv.lock", "pyproject.toml", "requirements.txt"], ".", {}, ["uv.lock"]),
        (["Pipfile.lock", "Pipfile", "requirements.txt"], ".", {}, ["Pipfile.lock"]),
        (["poetry.lock", "pyproject.toml"], ".", {}, ["poetry.lock"]),
        (["pdm.lock", "pyproject.toml"], ".", {}, ["pdm.lock"]),
        (["pyproject.toml"], ".", {}, ["pyproject.toml"]),
        (["pyproject.toml", "requirements.txt"], ".", {}, ["requirements.txt"]),
        (["src/requirements.txt", "requirements.txt"], "src", {}, ["src/requirements.txt"]),
        (["requirements.txt", "src/manage.py"], "src", {}, ["requirements.txt"]),
        (["uv.lock", "src/requirements.txt"], "src", {}, ["uv.lock"]),
        (["api/Pipfile.lock", "api/app/manage.py"], "api/app", {}, ["api/Pipfile.lock"]),
        (["api/requirements.txt", "requirements.txt", "web/requirements.txt"], "api/app", {}, ["api/requirements.txt"]),
        (["a.txt", "b.txt", "uv.lock"], ".", {"requirements": ["b.txt", "a.txt"]}, ["b.txt", "a.txt"]),
        ([], ".", {"python_packages": ["django"]}, []),
        (
            ["a.txt"],
            ".",
            {"requirements": ["a.txt", "b.txt"]},
            "the requirements file b.txt is not in the source\ncorrect django:sites:blog:requirements",
        ),
        (
            ["setup.py"],
            ".",
            {},
            "no requirements found in the source; searched for uv.lock, Pipfile.lock, poetry.lock, pdm.lock, "
            "requirements.txt, requirements/production.txt, requirements/prod.txt, requirements/base.txt, "
            "requirements-prod.txt, pyproject.toml\nname the file in django:sites:blog:requirements, or list the "
            "packages in django:sites:blog:python_packages",
        ),
    ],
)
def test_requirements_files_are_found_or_named_by_the_pillar(make_site, tmp_path, files, folder, options, expected):
    source = write_tree(tmp_path / "source", dict.fromkeys(["manage.py", *files], "[project]"))
    site = make_site(**options)
    if isinstance(expected, list):
        assert requirements.requirement_files(site, source, folder) == expected
    else:
        with pytest.raises(DeploymentError) as error:
            requirements.requirement_files(site, source, folder)
        assert str(error.value) == expected


@pytest.mark.parametrize(
    ("files", "expected"),
    [
        ({"reqs.txt": "django"}, ["reqs.txt"]),
        (
            {
                "base-requirements.txt": "django",
                "dev-requirements.txt": "x",
                "prod-requirements.txt": "-r base-requirements.txt",
            },
            ["prod-requirements.txt"],
        ),
        (
            {"requirements/common.txt": "django", "requirements/test.txt": "x", "requirements/docs.txt": "x"},
            ["requirements/common.txt"],
        ),
        (
            {"deploy/requirements.txt": "django", "notes.txt": "django", "doc/requirements.txt": "sphinx"},
            ["deploy/requirements.txt"],
        ),
        (
            {"requirements.txt": "django", "requirements-dev.txt": "x", "requirements-prod.txt": "-r requirements.txt"},
            ["requirements-prod.txt"],
        ),
        ({"requirements.txt": "django", "requirements-prod.txt": "-r base.txt"}, ["requirements.txt"]),
        ({"requirements-live.txt": "-r missing.txt", "requirements-web.txt": "django"}, ["requirements-web.txt"]),
        ({"requirements-x.txt": "# none"}, []),
        (
            {"REQUIREMENTS.txt": "-r deploy/docker/REQUIREMENTS.txt", "deploy/docker/REQUIREMENTS.txt": "Django"},
            ["REQUIREMENTS.txt"],
        ),
        ({"Pipfile.lock": "\n", "poetry.lock": "", "requirements.txt": "django"}, ["requirements.txt"]),
        (
            {
                "pyproject.toml": "[project]\nname = 'a'\n[project.optional-dependencies]\ndocs = ['mkdocs']\n",
                "requirements/common.txt": "Django==5.2",
                "requirements/dev.txt": "pytest",
            },
            ["requirements/common.txt"],
        ),
        (
            {
                "pyproject.toml": "[project]\n[project.optional-dependencies]\nsite = ['Django[argon2]>5']\n",
                "requirements/common.txt": "Django",
            },
            ["pyproject.toml"],
        ),
        ({"requirements.pip": "Django>=4"}, ["requirements.pip"]),
        ({"requirements.in": "Django>=4", "requirements.pip": "Django==4.2"}, ["requirements.in"]),
        ({"reqs/main.in": "Django>=4", "reqs/main.txt": "Django==4.2"}, ["reqs/main.txt"]),
        ({"requirements.md": "Django>=4", "requirements.yml": "a: Django"}, []),
        ({"pyproject.toml": "[project]\n", "requirements/tools.txt": "ruff"}, ["pyproject.toml"]),
        (
            {"pyproject.toml": "[project]\ndynamic = ['dependencies']\n", "requirements/all.txt": "Django"},
            ["pyproject.toml"],
        ),
        ({"pyproject.toml": "[project]\n= 1\n", "requirements/all.txt": "Django"}, ["pyproject.toml"]),
        ({"a/pip/requirements.txt": "fabric", "b/pip/requirements.txt": "Django==5.2"}, ["b/pip/requirements.txt"]),
        ({"a/pip/requirements.txt": "fabric", "b/pip/requirements.txt": "Django[argon2]"}, ["b/pip/requirements.txt"]),
    ],
)
def test_requirements_of_other_names_are_found(tmp_path, files, expected):
    source = write_tree(tmp_path / "source", {"manage.py": "", **files})
    assert requirements.default_files(source, ".") == expected


@pytest.mark.parametrize("target", ["missing", "requirements-prod.txt", None])
def test_names_that_are_no_files_are_no_requirements(tmp_path, target):
    """A link that leads nowhere, as out of the repository, or to itself; a folder."""
    source = write_tree(tmp_path, {"requirements.txt": "django\n"})
    path = source / "requirements-prod.txt"
    path.symlink_to(target) if target else path.mkdir()
    assert requirements.default_files(source, ".") == ["requirements.txt"]


@pytest.mark.parametrize(
    ("name", "text", "packages"),
    [
        ("requirements.txt", "-e git+https://git.example.org/x/y.git@main#egg=House_Yard[all]\n", ["house-yard[all]"]),
        ("requirements.txt", "git+ssh://git@git.example.org/x/house.git@v1#subdirectory=y\n", ["house"]),
        ("requirements.txt", "https://example.org/house-1.2-py3-none-any.whl#sha256=0\n", ["house"]),
        ("requirements.txt", "house @ git+https://git.example.org/x/y.git\n", ["house"]),
        ("requirements.txt", "house; sys_platform == 'win32'\nyard; sys_platform == 'linux'\n", ["yard"]),
        ("requirements.txt", 'house; os_name == "nt" or python_version < "4"\n', ["house"]),
        ("requirements.txt", "-c limits.txt\n--requirement more.in\nhouse\n", ["house", "yard"]),
        ("requirements.txt", '"house[a]>=4.2,<4.3"\r\n \'yard\' # ours\n"shed\n', ["house[a]", "yard"]),
        (
            "pyproject.toml",
            "[tool.poetry]\n[tool.poetry.dependencies]\npython = '^3.12'\nhouse = {version = '*', extras = ['a']}\n"
            "shed = {version = '*', optional = true}\nden = {version = '*', platform = 'win32'}\n"
            "[tool.poetry.group.prod.dependencies]\nyard = '*'\n[tool.poetry.group.dev.dependencies]\nbarn = '*'\n",
            ["house[a]", "yard"],
        ),
    ],
)
def test_packages_that_a_file_lists_for_a_site(tmp_path, name, text, packages):
    source = write_tree(tmp_path, {"limits.txt": "garage==1\n", "more.in": "yard\n", name: text})
    assert requirements.package_names(source, [name]) == packages


@pytest.mark.parametrize(
    ("entry", "requirement"),
    [
        ("'*'", "house"),
        ("'1.2'", "house==1.2"),
        ("'>=1,<2'", "house>=1,<2"),
        ("{version = '4.*', extras = ['a', 'b']}", "house[a,b]==4.*"),
        (
            "{version = '*', markers = \"os_name == 'nt' or os_name == 'x'\"}",
            "house; os_name == 'nt' or os_name == 'x'",
        ),
        ("{version = '*', sys_platform = \"== 'win32'\"}", "house; sys_platform == 'win32'"),
        (
            "{version = '>2', python_version = \"< '3.9'\", markers = \"a == 'b' or c == 'd'\"}",
            "house>2; (a == 'b' or c == 'd') and python_version < '3.9'",
        ),
    ],
)
def test_entry_of_a_pipfile_is_a_requirement(tmp_path, entry, requirement):
    source = write_tree(tmp_path, {"Pipfile": f"[packages]\nhouse = {entry}\nyard = {{path = '.'}}\n"})
    assert requirements.of_pipfile(source / "Pipfile") == [requirement]


@pytest.mark.parametrize("name", ["Pipfile.lock", "poetry.lock", "pdm.lock", "uv.lock", "pyproject.toml"])
@pytest.mark.parametrize("text", ["<<<<<<< HEAD\n{}\n", '["default"]'])
def test_damaged_file_lists_no_packages(tmp_path, name, text):
    source = write_tree(tmp_path / "source", {name: text})
    assert requirements.package_names(source, [name]) == []


@pytest.mark.parametrize("line", ["-e .", "-e.", "-e .[prod]", ".  # ours", "--editable=./"])
@pytest.mark.parametrize("ends", ["\n", "\r\n"])
def test_packaging_of_the_project_decides_the_virtualenv(tmp_path, line, ends):
    """Of a file that Windows has written too: another `install_requires` needs another virtualenv."""
    (tmp_path / "requirements.txt").write_bytes(f"Django{ends}{line}{ends}".encode())
    (tmp_path / "setup.py").write_text("setup(install_requires=['requests'])")
    assert {*requirements.contents(tmp_path, ["requirements.txt"])} == {"requirements.txt", "setup.py"}
    assert requirements.package_names(tmp_path, ["requirements.txt"]) == ["django", "requests"]
