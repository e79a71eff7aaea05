"""Virtualenvs: their keys, how they are built, which of them releases use."""

import itertools
import re
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest
from django_formula.host.commands import DeploymentError
from django_formula.knowledge import cause
from django_formula.knowledge.hints import Hint
from django_formula.process import build_user
from django_formula.server import uwsgi
from django_formula.virtualenv import interpreter as virtualenv_interpreter
from django_formula.virtualenv import relaxed_pins, virtualenvs
from django_formula.virtualenv import requirements as virtualenv_requirements
from django_formula.virtualenv import uv as virtualenv_uv
from trees import write_tree

CHAIN = {
    "requirements/production.txt": "-r base.txt\n--constraint=../limits.txt\ngunicorn\n",
    "requirements/base.txt": "-c ../limits.txt\n  --requirement common.in  # more\ndjango\n",
    "requirements/common.in": "-r production.txt\npillow\n-r https://example.org/more.txt\n",
    "limits.txt": "django<6\n",
    "unrelated.txt": "x\n",
}


def key_in(site, source, names):
    """Return the key of a virtualenv for these files of a source."""
    return virtualenvs.key_of(site, virtualenv_requirements.contents(source, names))


@pytest.fixture
def key(make_site, tmp_path, monkeypatch):
    """Return a function: the key of a virtualenv for a source of these files, in a site with these options."""
    monkeypatch.setattr(virtualenv_interpreter, "path", lambda site: sys.executable)
    count = itertools.count()

    def key(files, names, **options):
        source = write_tree(tmp_path / f"source{next(count)}", files)
        return key_in(make_site(folders=False, **options), source, names)

    return key


def test_key_changes_with_every_input_of_the_virtualenv(key, monkeypatch):
    names = ["requirements/production.txt"]
    first = key(CHAIN, names)
    assert len(first) == 16 and key(CHAIN, names) == first
    assert key(CHAIN | {"unrelated.txt": "y\n", "blog/models.py": "x"}, names) == first
    assert key(CHAIN, names, settings={"A": 1}, packages=["libpq5"]) == first
    changed = [key(CHAIN | {name: CHAIN[name] + "more\n"}, names) for name in CHAIN if name != "unrelated.txt"]
    changed += [key(CHAIN, [*names, "unrelated.txt"])]
    changed += [key(CHAIN, names, python_packages=["a"]), key(CHAIN, names, constraints=["a"])]
    monkeypatch.setattr(virtualenv_interpreter, "_identity", lambda path, modified: "another python")
    changed += [key(CHAIN, names)]
    changed += [key(CHAIN, names, database={"engine": "postgres"}), key(CHAIN, names, database={"engine": "mysql"})]
    monkeypatch.setattr(uwsgi, "PYUWSGI", "pyuwsgi==0")
    changed += [key(CHAIN, names)]
    assert len({first, *changed}) == 1 + len(changed) == 12


@pytest.mark.parametrize(
    "line", ["kit.zip", "./kit.zip\n", "kit @ file:kit.zip ; python_version > '3'", "-r base.txt\n  kit.zip  # ours"]
)
def test_key_changes_with_a_package_that_is_a_file_of_the_source(key, line):
    files = {"requirements/prod.txt": f"django\n{line}", "requirements/base.txt": "", "kit.zip": "one"}
    first = key(files, ["requirements/prod.txt"])
    assert key(files | {"other.zip": "two"}, ["requirements/prod.txt"]) == first
    assert key(files | {"kit.zip": "two"}, ["requirements/prod.txt"]) != first


@pytest.mark.parametrize("line", ["../kit.zip", "/etc/kit.zip", "https://example.org/kit.zip", "gone.whl"])
def test_key_has_no_package_outside_of_the_source(key, tmp_path, line):
    (tmp_path / "kit.zip").write_text("one")
    first = key({"requirements.txt": line}, ["requirements.txt"])
    (tmp_path / "kit.zip").write_text("two")
    assert key({"requirements.txt": line}, ["requirements.txt"]) == first


@pytest.mark.parametrize("lock", ["uv.lock", "poetry.lock", "pdm.lock"])
def test_key_changes_with_pyproject_of_a_lock(key, lock):
    files = {lock: "lock", "pyproject.toml": "one"}
    assert key(files, [lock]) != key(files | {"pyproject.toml": "two"}, [lock])


@pytest.mark.parametrize(
    ("files", "message"),
    [
        ({"requirements.txt": "-r gone.txt\n"}, "the requirements include gone.txt, which is not in the source"),
        (
            {"requirements.txt": "-r ../../secret.txt\n"},
            r"the requirements include /.*/secret.txt, which is not in the",
        ),
        ({"requirements.txt": "-c/etc/passwd\n"}, "the requirements include /etc/passwd, which is not in the source"),
        ({"requirements.txt": "-c /etc/passwd\n"}, "the requirements include /etc/passwd, which is not in the source"),
    ],
)
def test_included_file_outside_of_the_source_is_refused(key, files, message):
    with pytest.raises(DeploymentError, match=message):
        key(files, ["requirements.txt"])


def test_requirements_file_that_links_out_of_the_source_is_refused(make_site, tmp_path):
    source = write_tree(tmp_path / "source", {})
    source.mkdir()
    (source / "requirements.txt").symlink_to("/etc/passwd")
    with pytest.raises(DeploymentError, match="the requirements include /etc/passwd, which is not in the source"):
        key_in(make_site(), source, ["requirements.txt"])


REQUIRED, OVERRIDES = ["--requirement", "requirements.txt"], ["--overrides", ".overrides.txt"]


@pytest.fixture
def uv(monkeypatch):
    """Replace uv: record its command lines, create its files, and fail at a command that has `uv.fails`.

    It finds no solution for one that `uv.contradiction` matches.
    """

    class FakeUv:
        calls: list
        fails = contradiction = absent = cause = log = ""

        def __init__(self):
            self.calls = []

        def run(self, site, argv, *, doing, environment, folder, writable, timeout, hint, secrets, image):
            assert not image
            self.calls.append((argv, folder))
            self.modes = {path.stat().st_mode & 0o777 for path in site.virtualenvs.iterdir()}
            self.configuration = Path(environment["XDG_CONFIG_HOME"], "uv/uv.toml").read_text()
            self.options = {"environment": environment, "writable": writable, "timeout": timeout, "hint": hint}
            if self.contradiction and re.search(self.contradiction, " ".join(argv)):
                log = "error: No solution found when resolving dependencies\n"
                log += f"  cause: Because {self.absent} was not found in the package registry" if self.absent else ""
                log += f"  cause: {self.cause}" if self.cause else ""
                cure = cause.hint(site, self.log or log, building=True)
                raise DeploymentError(f"{doing} failed (exit 1)", log=self.log or log, hint=cure)
            if self.fails and self.fails in argv:
                cure = Hint("set what cures it", {"python_packages": ["b>=1"]})
                raise DeploymentError(f"{doing} failed", hint=cure)
            if "venv" in argv:
                Path(argv[-1], "bin").mkdir()
                Path(argv[-1], "bin/python").write_text("")
                Path(argv[-1], ".lock").write_text("")
            if "export" in argv:
                Path(argv[-1]).write_text("")
            return ""

    fake = FakeUv()
    monkeypatch.setattr(virtualenv_interpreter, "path", lambda site: f"/usr/bin/{site.config['python']}")
    monkeypatch.setattr(build_user, "run_as_build_user", fake.run)
    return fake


@pytest.mark.parametrize(
    ("django", "bound"), [("django~=2.2.0", "2022-04-11"), ("django~=5.2.0", ""), ("django>=2.2", "")]
)
def test_package_for_a_replaced_django_is_of_its_days(make_site, uv, tmp_path, monkeypatch, django, bound):
    """That has the pin as its lower bound; where there is none of these days, there is no bound."""
    monkeypatch.setattr(virtualenvs, "datetime", SimpleNamespace(date=SimpleNamespace(today=lambda: "2026-11-29")))
    source = write_tree(tmp_path / "source", {"requirements.txt": "django==2.1.5\ndjango-beat==1.3.0\nother==1.0\n"})
    site = make_site(python="python3", python_packages=[django, "django-beat>=1.3.0", "other>=2.0"])
    virtualenvs.build(site, source, ["requirements.txt"], "key")
    asked = [[one for one in argv if one.startswith("--exclude")] for argv, _folder in uv.calls if "install" in argv]
    assert asked[0] == ([f"--exclude-newer-package=django-beat={bound}"] if bound else [])
    if bound:
        uv.calls.clear()
        uv.contradiction = "exclude-newer-package"
        virtualenvs.build(site, source, ["requirements.txt"], "key")
        assert "exclude" not in str(uv.calls[-2])
        uv.calls.clear()
        uv.contradiction = "requirements.txt.* -- "  # then the pillar's packages are installed over the project's
        virtualenvs.build(site, source, ["requirements.txt"], "key")
        assert f"--exclude-newer-package=django-beat={bound}" in uv.calls[-2][0]


@pytest.mark.parametrize(
    ("log", "is_so"),
    [
        ("error: No solution found when resolving dependencies\n", True),
        ("error: Failed to build `pillow==6.2.0`\n", False),
        ("error: Failed to build `Django_beat==1.3.0`\n", True),
        ("error: Failed to build `pillow==6.2.0`\n  cause: No solution found when resolving: `setuptools`\n", False),
    ],
)
def test_day_may_be_the_cause_where_no_version_suits_or_its_package_is_not_built(log, is_so):
    error = DeploymentError("no versions suit", log="error: No solution found when resolving dependencies\n")
    error.__cause__ = DeploymentError("installing packages failed (exit 1)", log=log)
    bound = [relaxed_pins.bound_by("django-beat", "2022-04-11")]
    assert relaxed_pins.is_of_bound(error, bound) is is_so


def test_virtualenv_is_built_from_requirements_packages_and_server(make_site, uv, tmp_path, monkeypatch):
    monkeypatch.setenv("UV_INDEX", "https://pypi.example.org/simple")
    source = write_tree(tmp_path / "source", CHAIN | {"photo.jpg": "x", "blog/models.py": "x"})
    (source / "link.txt").symlink_to("/etc/passwd")
    site = make_site(
        python="python3",
        python_packages=["psycopg[binary]", "a @ https://x.org/a"],
        constraints=["b<2"],
        timeouts={"build": "1m"},
    )
    work, folder = site.build.top / "requirements", site.virtualenvs / "key"
    files_seen_by_uv = []
    end = virtualenvs.servers.requirements
    monkeypatch.setattr(
        virtualenvs.servers,
        "requirements",
        lambda *arguments: (
            files_seen_by_uv.append({str(p.relative_to(work)) for p in work.rglob("*") if not p.is_dir()})
            or end(*arguments)
        ),
    )
    virtualenvs.build(site, source, ["requirements/production.txt"], "key")
    binary = str(virtualenv_uv.UV / "bin/uv")
    install = [binary, "pip", "install", "--python", f"{folder}/bin/python"]
    constraint = ["--constraint", f"{work}/.constraints.txt", "--build-constraint", f"{work}/.constraints.txt"]
    required = ["--requirement", f"{work}/requirements/production.txt"]
    assert uv.calls == [
        (
            [
                binary,
                "venv",
                "--quiet",
                "--no-project",
                "--allow-existing",
                "--python",
                "/usr/bin/python3",
                str(folder),
            ],
            str(site.build.top),
        ),
        ([*install, *constraint, *required, "--", "psycopg[binary]", "a @ https://x.org/a"], str(work)),
        ([*install, uwsgi.PYUWSGI], str(work)),
    ]
    assert uv.options["writable"] == [str(folder)] and uv.options["timeout"] == 60
    assert (
        uv.options["environment"].items()
        >= {
            "HOME": str(site.build.top),
            "TMPDIR": f"{site.build.top}/tmp",
            "UV_CACHE_DIR": f"{site.build.top}/uv",
            "UV_LINK_MODE": "copy",
            "UV_COMPILE_BYTECODE": "1",
            "UV_PYTHON_DOWNLOADS": "never",
            "UV_SYSTEM_CERTS": "1",
            "UV_NO_PROGRESS": "1",
        }.items()
    )
    assert "UV_INDEX" not in uv.options["environment"] and 'url = "https://pypi.example.org/simple"' in uv.configuration
    assert files_seen_by_uv[-1] == {".constraints.txt", ".overrides.txt", "link.txt", "blog/models.py", *CHAIN}
    assert not work.exists() and virtualenvs.is_complete(site, "key")
    assert sorted(path.name for path in folder.iterdir()) == [".complete", "bin"]
    assert uv.modes == {0o700}, "uv's lock in it is for all users"
    assert folder.stat().st_mode & 0o777 == 0o755


def test_uv_lock_is_exported_by_uv(make_site, uv, tmp_path):
    source = write_tree(tmp_path / "source", {"src/uv.lock": "", "src/pyproject.toml": ""})
    site = make_site()
    virtualenvs.build(site, source, ["src/uv.lock"], "key")
    work = site.build.top / "requirements/src"
    options = ["--quiet", "--frozen", "--no-dev", "--no-emit-project", "--no-header", "--output-file"]
    argv, folder = uv.calls[1]
    assert (argv[1:], folder) == (["export", *options, f"{work}/.uv.lock.txt"], str(work))
    assert uv.calls[2][0][-2:] == ["--requirement", f"{work}/.uv.lock.txt"]


def test_groups_of_uv_lock_that_a_site_needs_are_exported(make_site, uv, tmp_path):
    lock = """
[[package]]
name = "blog"
source = { virtual = "." }
dev-dependencies = { dev = [{ name = "pytest" }], production = [{ name = "psycopg2" }], prod = [], docs = [] }
[[package]]
name = "other"
source = { virtual = "other" }
dev-dependencies = { web = [] }
"""
    source = write_tree(tmp_path / "source", {"uv.lock": lock, "pyproject.toml": ""})
    virtualenvs.build(make_site(), source, ["uv.lock"], "key")
    argv, _folder = uv.calls[1]
    assert [argument for argument in argv if argument.startswith("--group")] == ["--group=production", "--group=prod"]


@pytest.mark.parametrize(("packaging", "expected"), [("setup.py", True), ("pyproject.toml", False)])
def test_setup_py_reads_all_files_of_the_source(make_site, uv, tmp_path, monkeypatch, packaging, expected):
    source = write_tree(tmp_path / "source", {packaging: "", "blog/static/a.scss": "x"})
    seen = []
    monkeypatch.setattr(
        build_user,
        "run_as_build_user",
        lambda site, argv, **options: (
            seen.append(sorted(site.build.top.rglob("a.scss"))) or uv.run(site, argv, **options)
        ),
    )
    virtualenvs.build(make_site(python_packages=["b"]), source, [packaging], "key")
    assert [bool(found) for found in seen[:2]] == [expected, expected]


@pytest.mark.parametrize("project", ["", '[project]\nname = "blog"\nversion = "1"\n'])
def test_dependency_groups_of_pyproject_are_installed(make_site, uv, tmp_path, project):
    text = f'{project}[dependency-groups]\nprod = ["django"]\ndev = ["pytest"]\n'
    source = write_tree(tmp_path / "source", {"pyproject.toml": text})
    assert virtualenv_requirements.default_files(source, ".") == ["pyproject.toml"]
    assert virtualenv_requirements.package_names(source, ["pyproject.toml"]) == ["django"]
    site = make_site()
    virtualenvs.build(site, source, ["pyproject.toml"], "key")
    path = f"{site.build.top}/requirements/pyproject.toml"
    own = ["--requirement", path] if project else []
    argv, _folder = uv.calls[1]
    assert argv[argv.index("--python") + 2 :] == [*own, f"--group={path}:prod"]


@pytest.mark.parametrize(
    ("contradiction", "expected"),
    [
        ("", [[*REQUIRED, "--", "a==2", "b"]]),
        (
            "requirements.txt -- a",
            [*[[*REQUIRED, "--", "a==2", "b"]] * 2, [*REQUIRED, *OVERRIDES, "--", "a==2", "b"]],
        ),
        (
            "requirements.txt .*-- a",
            [
                *([*REQUIRED, "--", "a==2", "b"], [*REQUIRED, "--", "a==2", "b"]),
                *([*REQUIRED, *OVERRIDES, "--", "a==2", "b"], REQUIRED, ["--", "a==2", "b"]),
            ],
        ),
    ],
)
def test_packages_that_do_not_suit_the_requirements_override_them(make_site, uv, tmp_path, contradiction, expected):
    """First in place of the project's versions, of which none has to be built then, or else over its packages."""
    source = write_tree(tmp_path / "source", {"requirements.txt": "a==1\n"})
    site = make_site(python_packages=["a==2", "b"])
    work = f"{site.build.top}/requirements/"
    uv.contradiction = contradiction
    virtualenvs.build(site, source, ["requirements.txt"], "key")
    added = [argv[5:] for argv, _folder in uv.calls if "install" in argv][:-1]
    assert [[argument.replace(work, "") for argument in argv] for argv in added] == expected


def test_what_packages_require_of_others_counts_where_the_pillar_replaces_a_pin(make_site, uv, tmp_path, monkeypatch):
    """An override would take Django in the version that a package requires out of that too."""
    text = (
        "Django==2.0.12 # old\na_b>=1\nDjango_CORS[x]==2.2\nc==1; python_version < '4'\n-r more.txt\ndjango-other==1\n"
    )
    source = write_tree(tmp_path / "source", {"requirements.txt": text, "more.txt": "DJANGO<3\nc\n"})
    site = make_site(python_packages=["django~=3.2.0", "django-cors>=2.2", "c"])
    left: list[str] = []

    def run(*arguments, **more):
        left[:] = [(site.build.top / "requirements" / name).read_text() for name in ("requirements.txt", "more.txt")]
        uv.contradiction = "--requirement" if "Django==" in left[0] else ""
        return uv.run(*arguments, **more)

    monkeypatch.setattr(build_user, "run_as_build_user", run)
    virtualenvs.build(site, source, ["requirements.txt"], "key")
    assert [text.split() for text in left] == [
        ["a_b>=1", "c==1;", "python_version", "<", "'4'", "-r", "more.txt", "django-other==1"],
        ["c"],
    ]
    assert not [argv for argv, _folder in uv.calls if "--overrides" in argv]


def test_constraints_of_a_project_do_not_bind_what_the_pillar_has_in_a_version(make_site, uv, tmp_path, monkeypatch):
    """Neither those of a file nor those of a lock of Poetry 1: uv's overrides replace requirements only."""
    lock = "".join(f'[[package]]\nname = "{name}"\nversion = "1.2"\n\n' for name in ("django", "a_b", "c"))
    source = write_tree(
        tmp_path / "source",
        {
            "poetry.lock": lock,
            "pyproject.toml": '[tool.poetry.dependencies]\ndjango = "^1"\n',
            "more.txt": "--constraint=limits.txt\ndjango\n",
            "limits.txt": "A.B==1.1  # old\nc<2\ndjango<2\n",
        },
    )
    work = make_site().build.top / "requirements"
    seen: dict[str, str] = {}

    def run(*arguments, **more):
        seen.update({name: (work / name).read_text() for name in ("limits.txt", ".poetry.lock.constraints.txt")})
        return uv.run(*arguments, **more)

    monkeypatch.setattr(build_user, "run_as_build_user", run)
    site = make_site(python_packages=["a-b==1.3", "django~=2.2.0", "c"])
    virtualenvs.build(site, source, ["poetry.lock", "more.txt"], "key")
    assert {name: text.split() for name, text in seen.items()} == {
        "limits.txt": ["c<2"],
        ".poetry.lock.constraints.txt": ["c==1.2"],
    }


def test_versions_without_solution_are_the_error_where_the_requirements_alone_fail(make_site, uv, tmp_path):
    source = write_tree(tmp_path / "source", {"requirements.txt": "a==1\n"})
    uv.contradiction, uv.fails = "requirements.txt .*-- a", "--requirement"
    uv.cause = "Because you require a>=2 and b==1, we can conclude that …"
    with pytest.raises(DeploymentError) as error:
        virtualenvs.build(make_site(python_packages=["a~=2.0"]), source, ["requirements.txt"], "key")
    assert (error.value.message, error.value.log, error.value.hint) == (
        "installing packages failed (exit 1)",
        f"error: No solution found when resolving dependencies\n  cause: {uv.cause}",
        "no versions suit both the requirements and django:sites:blog:python_packages: add what the lines above name "
        "to it, in a version that suits the rest. "
        "The requirements alone cannot be installed: installing packages failed; set what cures it",
    )
    assert error.value.options == {"python_packages": ["b>=1"]}


@pytest.mark.parametrize(
    ("cause", "options"),
    [
        # The project's own gives way; where it is the pillar's, its author decides.
        ("b==5.2 depends on c>=3.6,<4.0 and you require c==3.3", {"python_packages": ["a~=2.0", "c>=3.6,<4.0"]}),
        ("b==5.2 depends on a>=3.6,<4.0 and you require a>=2.0,<3", {"python_packages": ["b>=1"]}),
    ],
)
def test_contradiction_that_the_project_has_is_named_where_its_requirements_fail_too(
    make_site, uv, tmp_path, cause, options
):
    source = write_tree(tmp_path / "source", {"requirements.txt": "b==5.2\nc==3.3\n"})
    uv.contradiction, uv.fails = "requirements.txt .*-- a", "--requirement"
    uv.cause = f"Because {cause}, we can conclude that your requirements are unsatisfiable."
    with pytest.raises(DeploymentError) as error:
        virtualenvs.build(make_site(python_packages=["a~=2.0"]), source, ["requirements.txt"], "key")
    assert error.value.options == options
    assert error.value.hint.startswith("the requirements contradict") is (len(options["python_packages"]) == 2)


@pytest.mark.parametrize(("absent", "installs"), [("b-c", 1), ("a", 3)])
def test_package_of_the_pillar_that_the_index_lacks_is_named(make_site, uv, tmp_path, absent, installs):
    """The project's requirements alone may not be built, which the pillar's other packages are for."""
    source = write_tree(tmp_path / "source", {"requirements.txt": "a==1\n"})
    uv.contradiction, uv.absent = "requirements.txt", absent
    with pytest.raises(DeploymentError, match=f"Because {absent} was not found"):
        virtualenvs.build(make_site(python_packages=["B_c[x]==2"]), source, ["requirements.txt"], "key")
    assert len([argv for argv, _folder in uv.calls if "install" in argv]) == installs


FETCH = """error: Failed to download and build `B_c @ git+https://git.example.org/b-c.git@0123abc`
  cause: Git operation failed
  cause: process didn't exit successfully: `/usr/bin/git fetch --force 'https://git.example.org/b-c.git' '+0123abc'`
         fatal: unable to access 'https://git.example.org/b-c.git/': Could not resolve host: git.example.org
"""


@pytest.mark.parametrize(
    ("package", "installs"), [("b-c>=0", 3), ("b-c", 1), ("d>=0", 1), ("b-c @ git+https://x.y/z", 1)]
)
def test_package_of_a_repository_that_is_out_of_reach_is_replaced(make_site, uv, tmp_path, package, installs):
    """The third is that of the server."""
    source = write_tree(tmp_path / "source", {"requirements.txt": "b-c @ git+https://git.example.org/b-c.git\n"})
    uv.contradiction, uv.log = r"requirements\.txt (?!.*--overrides)", FETCH
    if installs == 1:
        with pytest.raises(DeploymentError):
            virtualenvs.build(make_site(python_packages=[package]), source, ["requirements.txt"], "key")
    else:
        virtualenvs.build(make_site(python_packages=[package]), source, ["requirements.txt"], "key")
    assert len([argv for argv, _folder in uv.calls if "install" in argv]) == installs


@pytest.fixture
def given(uv, monkeypatch) -> list[str]:
    """The texts of requirements.txt that uv is given."""
    texts: list[str] = []

    def run(site, argv, **options):
        texts.extend(Path(one).read_text() for one in argv if one.endswith("requirements.txt"))
        return uv.run(site, argv, **options)

    monkeypatch.setattr(build_user, "run_as_build_user", run)
    return texts


@pytest.mark.parametrize(
    "url",
    [
        "git+https://git.example.org/team/Kit_X.git",
        "git+https://git.example.org/kit-x@feature/one",
        "git+ssh://git@git.example.org/team/kit-x.git@v1.2",
        "https://git.example.org/team/kit-x/archive/v1.2.zip",
    ],
)
def test_package_that_has_no_name_is_replaced_where_the_pillar_names_it(make_site, given, tmp_path, url):
    """Else uv fetches it to learn its name, and fails where it is out of reach."""
    for number, (packages, name) in enumerate(((["kit-x>=0"], "kit-x @ "), (["kit"], ""))):
        given.clear()
        source = write_tree(tmp_path / str(number), {"requirements.txt": f"django\n{url}#subdirectory=src\n"})
        virtualenvs.build(make_site(python_packages=packages), source, ["requirements.txt"], "key")
        assert given[0] == f"django\n{name}{url}#subdirectory=src\n"


def test_requirement_of_a_repository_is_written_as_uv_reads_it(make_site, given, tmp_path):
    listed = """-e git+https://git.example.org/a.git@v1#egg=a
    --editable=git+ssh://git@git.example.org/b.git#egg=b[x]  # own
git+https://git.example.org/c.git#egg=c&subdirectory=src
-e git+https://git.example.org/d.git
-e d @ git+https://git.example.org/d.git
"""
    source = write_tree(tmp_path / "source", {"requirements.txt": listed})
    virtualenvs.build(make_site(), source, ["requirements.txt"], "key")
    assert given == [
        """a @ git+https://git.example.org/a.git@v1
    b[x] @ git+ssh://git@git.example.org/b.git  # own
git+https://git.example.org/c.git#egg=c&subdirectory=src
git+https://git.example.org/d.git
d @ git+https://git.example.org/d.git
"""
    ]


def test_archive_that_is_not_named_is_named_where_the_pillar_replaces_it(make_site, given, tmp_path):
    listed = """https://github.com/x/some_kit/archive/40ff.zip  # own
https://git.example.org/other-1.0-py3-none-any.whl#sha256=0123
https://git.example.org/third-1.0.tar.gz
https://git.example.org/page
"""
    source = write_tree(tmp_path / "source", {"requirements.txt": listed})
    virtualenvs.build(
        make_site(python_packages=["some-kit>=0", "Other~=1.0", "third"]), source, ["requirements.txt"], "key"
    )
    assert given == [
        """some-kit @ https://github.com/x/some_kit/archive/40ff.zip  # own
other @ https://git.example.org/other-1.0-py3-none-any.whl#sha256=0123
https://git.example.org/third-1.0.tar.gz
https://git.example.org/page
"""
    ]


def test_package_that_a_marker_leaves_out_need_not_be_in_the_index(make_site, uv, tmp_path):
    source = write_tree(tmp_path / "source", {"requirements.txt": "ufw==0.36.1\n"})
    uv.contradiction, uv.absent = r"requirements\.txt (?!.*--overrides)", "ufw"
    left_out = "ufw; sys_platform == 'none'"
    virtualenvs.build(make_site(python_packages=[left_out]), source, ["requirements.txt"], "key")
    argv = [argv for argv, _folder in uv.calls if "install" in argv][1]
    assert "--overrides" in argv and argv[-2:] == ["--", left_out]


@pytest.mark.parametrize(
    ("version", "written"),
    [
        ("3.11.2", 'asgiref==3.6\n    # via django\nbackports.zoneinfo==0.2.1 ; python_version < "3.9"\n'),
        ("3.8.1", None),
    ],
)
def test_a_backport_that_python_has_is_not_required(make_site, tmp_path, monkeypatch, version, written):
    text = (
        "asgiref==3.6\nbackports-zoneinfo==0.2.1 \\\n    --hash=sha256:aa \\\n    --hash=sha256:bb\n    # via django\n"
        'backports.zoneinfo==0.2.1 ; python_version < "3.9"\n'
    )
    interpreter = virtualenv_interpreter.Interpreter(sys.executable, f"cpython-311 linux glibc 2.36 {version}")
    monkeypatch.setattr(virtualenv_interpreter, "interpreter", lambda site: interpreter)
    work = write_tree(tmp_path / "work", {"requirements.txt": "-r base.txt\n", "base.txt": text})
    virtualenvs._remove_backports(make_site(), work, ["requirements.txt"])
    assert (work / "base.txt").read_text() == (written or text)


def test_a_requirement_in_quotes_is_one_without(make_site, uv, tmp_path, monkeypatch):
    """As a shell needs it for pip; a requirement for another system has quotes of its own."""
    text = "\"django>=4.2,<4.3\"\na==1 ; sys_platform == 'win32'\n  'b<2'  # ours\n"
    found, run = [], uv.run

    def reading(site, argv, **options):
        if "install" in argv and "--requirement" in argv:
            found.append(Path(argv[argv.index("--requirement") + 1]).with_name("base.txt").read_text())
        return run(site, argv, **options)

    monkeypatch.setattr(build_user, "run_as_build_user", reading)
    source = write_tree(tmp_path / "source", {"requirements.txt": "-r base.txt\n", "base.txt": text})
    virtualenvs.build(make_site(), source, ["requirements.txt"], "key")
    assert found and {*found} == {"django>=4.2,<4.3\na==1 ; sys_platform == 'win32'\n  b<2  # ours\n"}
    assert (source / "base.txt").read_text() == text


def test_an_option_of_pip_after_a_requirement_is_one_of_all(tmp_path):
    text = "a==1\npsycopg2==2.8.5 --no-binary psycopg2  # https://example.org/--no-binary\nb==1\n"
    work = write_tree(tmp_path / "work", {"requirements.txt": "-r base.txt\n", "base.txt": text})
    virtualenvs._rewrite(work, ["requirements.txt"], virtualenvs._OPTION, r"\1\n\2")
    assert (work / "base.txt").read_text() == text.replace(" --no-binary psycopg2", "\n--no-binary psycopg2", 1)


@pytest.mark.parametrize("left_out", ["a; sys_platform == 'none'", 'A ;sys_platform=="none"'])
def test_what_the_pillar_leaves_out_is_not_installed_though_a_requirement_has_it(
    make_site, uv, tmp_path, monkeypatch, left_out
):
    """The two contradict each other in nothing, so that uv alone would install the package."""
    text = []
    run = uv.run

    def reading(site, argv, **options):
        if "install" in argv and "--requirement" in argv:
            text.append(Path(argv[argv.index("--requirement") + 1]).read_text())
        return run(site, argv, **options)

    monkeypatch.setattr(build_user, "run_as_build_user", reading)
    source = write_tree(tmp_path / "source", {"requirements.txt": "a==1\nb==1\n"})
    virtualenvs.build(make_site(python_packages=[left_out]), source, ["requirements.txt"], "key")
    assert text and not any("a==1" in one for one in text) and all("b==1" in one for one in text)


def test_a_failure_of_another_kind_is_not_tried_with_overrides(make_site, uv, tmp_path):
    source = write_tree(tmp_path / "source", {"requirements.txt": "a==1\n"})
    uv.fails = "--requirement"
    with pytest.raises(DeploymentError, match="installing packages failed"):
        virtualenvs.build(make_site(python_packages=["a==2"]), source, ["requirements.txt"], "key")
    assert sum("install" in argv for argv, _folder in uv.calls) == 1


def test_missing_driver_suits_the_requirements_if_one_does(make_site, uv, tmp_path, monkeypatch):
    source = write_tree(tmp_path / "source", {"requirements.txt": "a==1\n"})
    site = make_site(python_packages=["b", "a==2"])
    monkeypatch.setattr(virtualenvs, "_missing_drivers", lambda *_: ["django-redis>=5.0"])
    work, driver = f"{site.build.top}/requirements/", "django-redis>=5.0"

    def installed():
        uv.calls.clear()
        virtualenvs.build(site, source, ["requirements.txt"], "key")
        return [[argument.replace(work, "") for argument in argv[5:]] for argv, _ in uv.calls if driver in argv]

    assert installed() == [[*REQUIRED, "--", "b", "a==2", driver]]
    uv.contradiction = f"-- b a==2 {driver}$"
    assert installed() == [[*REQUIRED, "--", "b", "a==2", driver], [driver]]
    uv.contradiction = "requirements.txt -- b"
    assert installed() == [[*REQUIRED, *OVERRIDES, "--", "b", "a==2", driver]]


def test_server_is_not_installed_when_the_project_requires_one(make_site, uv, tmp_path, monkeypatch):
    run = uv.run

    def with_server(site, argv, **options):
        if "install" in argv:
            folder = Path(argv[4]).parents[1] / "lib/python3.11/site-packages/uWSGI-2.0.30.dist-info"
            folder.mkdir(parents=True, exist_ok=True)
        return run(site, argv, **options)

    monkeypatch.setattr(build_user, "run_as_build_user", with_server)
    virtualenvs.build(make_site(), write_tree(tmp_path / "source", {"a.txt": ""}), ["a.txt"], "key")
    assert not any(uwsgi.PYUWSGI in argv for argv, _folder in uv.calls)


POSTGRES, MYSQL = {"engine": "postgres"}, {"engine": "mysql", "name": "x"}


@pytest.mark.parametrize(
    ("databases", "installed", "expected"),
    [
        ({"default": {"engine": "sqlite"}}, ["django-5.2.19"], []),
        ({"default": POSTGRES}, ["Django-5.2.19"], ["psycopg[binary]>=3.1.8"]),
        ({"default": POSTGRES}, ["django-4.2"], ["psycopg[binary]>=3.1.8"]),
        ({"default": POSTGRES}, ["django-4.1.13"], ["psycopg2-binary>=2.8.6"]),
        ({"default": POSTGRES}, ["django-10.0"], ["psycopg[binary]>=3.1.8"]),
        ({"default": POSTGRES}, ["django-5.2.19", "psycopg-3.2.1"], []),
        ({"default": POSTGRES}, ["django-5.2.19", "psycopg2_binary-2.9.9"], []),
        ({"default": POSTGRES}, ["django-5.2.19", "psycopg2-2.9.9"], []),
        ({"default": MYSQL}, ["django-5.2.19", "psycopg-3.2.1"], ["mysqlclient>=2.2.1"]),
        ({"default": MYSQL}, ["django-5.2.19", "PyMySQL-1.1.0"], []),
        ({"default": MYSQL}, ["django-5.2.19", "mysqlclient-2.2.4"], []),
        ({"default": {}, "a": MYSQL, "b": MYSQL, "c": {**POSTGRES, "name": "c"}}, ["django-5.2.19"], 2),
    ],
)
def test_missing_database_driver_is_installed(make_site, uv, tmp_path, monkeypatch, databases, installed, expected):
    run = uv.run

    def with_packages(site, argv, **options):
        if "--requirement" in argv:
            for name in installed:
                (Path(argv[4]).parents[1] / f"lib/python3.11/site-packages/{name}.dist-info").mkdir(
                    parents=True, exist_ok=True
                )
        return run(site, argv, **options)

    monkeypatch.setattr(build_user, "run_as_build_user", with_packages)
    site = make_site(databases=databases, constraints=["psycopg<4"])
    reported = virtualenvs.build(site, write_tree(tmp_path / "source", {"a.txt": ""}), ["a.txt"], "key")
    drivers = [argv[5:] for argv, _folder in uv.calls[2:-1]]
    assert all([*argv[:1], argv[-2]] == ["--constraint", "--"] and "--requirement" in argv for argv in drivers)
    requirements = ["mysqlclient>=2.2.1", "psycopg[binary]>=3.1.8"] if expected == 2 else expected
    assert [argv[-1] for argv in drivers] == requirements == reported


@pytest.mark.parametrize(
    ("files", "expected"),
    [
        ({"widgets/__init__.py": "'''Widgets.'''\nfrom pkg_resources import get_distribution, X\n"}, ["setuptools<81"]),
        ({"widgets/deep/a.py": "import os\nimport pkg_resources\n"}, ["setuptools<81"]),
        ({"widgets/a.py": "import pkg_resources\n", "pkg_resources/__init__.py": ""}, []),
        ({"widgets/a.py": "try:\n    import pkg_resources\nexcept ImportError:\n    pass\n"}, []),
        ({"widgets/a.py": "def plugins():\n    from pkg_resources import x\n"}, []),
        ({"widgets/tests/a.py": "import pkg_resources\n", "widgets/a.txt": "import pkg_resources\n"}, []),
        ({"widgets/a.py": "import pkg_resources_of_mine\n"}, []),
        ({"broker/a.py": "from packaging.version import Version\n"}, ["packaging"]),
        ({"broker/a.py": "from packaging import version\n", "packaging/__init__.py": ""}, []),
    ],
)
def test_what_a_package_imports_and_does_not_require_is_installed(
    make_site, uv, tmp_path, monkeypatch, files, expected
):
    run = uv.run

    def with_packages(site, argv, **options):
        if "--requirement" in argv:
            write_tree(Path(argv[4]).parents[1] / "lib/python3.11/site-packages", files)
        return run(site, argv, **options)

    monkeypatch.setattr(build_user, "run_as_build_user", with_packages)
    source = write_tree(tmp_path / "source", {"a.txt": ""})
    assert virtualenvs.build(make_site(constraints=["a<4"]), source, ["a.txt"], "key") == expected
    assert [argv[-1] for argv, _folder in uv.calls[2:-1]] == expected


@pytest.mark.parametrize("fails", ["venv", "--requirement", uwsgi.PYUWSGI])
def test_failed_build_leaves_no_virtualenv(make_site, uv, tmp_path, fails):
    uv.fails = fails
    site, source = make_site(), write_tree(tmp_path / "source", {"a.txt": ""})
    with pytest.raises(DeploymentError):
        virtualenvs.build(site, source, ["a.txt"], "key")
    assert list(site.virtualenvs.iterdir()) == [] and not (site.build.top / "requirements").exists()
    assert not virtualenvs.is_complete(site, "key")
    uv.fails = ""
    virtualenvs.build(site, source, ["a.txt"], "key")
    assert virtualenvs.is_complete(site, "key")


@pytest.mark.parametrize("part", [".complete", "bin/python"])
def test_partial_virtualenv_is_not_complete(make_site, uv, tmp_path, part):
    site, source = make_site(), write_tree(tmp_path / "source", {"a.txt": ""})
    virtualenvs.build(site, source, ["a.txt"], "key")
    (site.virtualenvs / "key" / part).unlink()
    assert not virtualenvs.is_complete(site, "key")


def test_unused_virtualenvs_are_listed(make_site):
    site = make_site()
    for name in ("one", "two", "three"):
        (site.virtualenvs / name).mkdir()
    assert [path.name for path in virtualenvs.unused(site, {"two"})] == ["one", "three"]


PROJECT_LINES = {
    "-e .": [],
    ".": [],
    "./": [],
    "--editable=.": [],
    "-e file:.[prod, db]": ["prod", "db"],
    ".[prod] ; python_version > '3'": ["prod"],
    "-e .  # the project": [],
}


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16"])
def test_requirements_are_rewritten_whatever_their_byte_order_mark(make_site, tmp_path, encoding):
    work = write_tree(tmp_path / "work", {"setup.py": ""})
    lines = "-e .\n-e git+https://git.example.org/x/house.git@v1#egg=house\ndjango==5.2\n-r more.txt\n"
    (work / "requirements.txt").write_text(lines, encoding=encoding)
    (work / "more.txt").write_text("-e git+https://git.example.org/x/yard.git#egg=yard\n", encoding=encoding)
    virtualenvs._required(make_site(), work, ["requirements.txt"])
    house = "house @ git+https://git.example.org/x/house.git@v1"
    assert (work / "requirements.txt").read_text().split("\n") == ["", house, "django==5.2", "-r more.txt", ""]
    assert (work / "more.txt").read_text() == "yard @ git+https://git.example.org/x/yard.git\n"


def test_options_with_their_value_in_one_word_are_written_as_uv_reads_them(make_site, tmp_path):
    work = write_tree(tmp_path / "work", {"setup.py": "", "limits.txt": "", "more.txt": "-fwheels\na\n"})
    (work / "requirements.txt").write_text("-rmore.txt\n-climits.txt\n-e.\n-egit+https://git.example.org/x.git#egg=x\n")
    virtualenvs._required(make_site(), work, ["requirements.txt"])
    written = ["-r more.txt", "-c limits.txt", "", "x @ git+https://git.example.org/x.git"]
    assert (work / "requirements.txt").read_text().splitlines() == written
    assert (work / "more.txt").read_text() == "-f wheels\na\n"


@pytest.mark.parametrize("line", PROJECT_LINES)
@pytest.mark.parametrize("packaged", ["pyproject.toml", "setup.py", None])
def test_project_in_its_requirements_is_replaced_by_its_dependencies(make_site, tmp_path, line, packaged):
    files = {
        "requirements.txt": f"django\n{line}\n-r more.txt\n",
        "more.txt": "wheel\n",
        "pyproject.toml": "[tool.x]\n",
    }
    work = write_tree(tmp_path / "work", files | ({packaged: "[project]\n"} if packaged else {}))
    arguments = virtualenvs._required(make_site(), work, ["requirements.txt"])
    own = ["--requirement", packaged, *(f"--extra={extra}" for extra in PROJECT_LINES[line])] if packaged else []
    assert arguments == ["--requirement", str(work / "requirements.txt"), *own]
    assert (work / "requirements.txt").read_text().split() == ["django", "-r", "more.txt"]


def test_key_changes_with_packaging_of_a_project_in_its_requirements(make_site, tmp_path, monkeypatch):
    monkeypatch.setattr(virtualenv_interpreter, "path", lambda site: sys.executable)
    monkeypatch.setattr(virtualenv_interpreter, "_identity", lambda path, modified: "3.11")
    source = write_tree(tmp_path / "source", {"requirements.txt": "django\n", "pyproject.toml": "[project]\n"})

    def key():
        return key_in(make_site(), source, ["requirements.txt"])

    alone = key()
    (source / "pyproject.toml").write_text("[project]\nversion = '2'\n")
    assert key() == alone
    (source / "requirements.txt").write_text("django\n-e .\n")
    with_itself = key()
    (source / "pyproject.toml").write_text("[project]\nversion = '3'\n")
    assert len({alone, with_itself, key()}) == 3


def test_packages_are_read_from_dist_info_folders(tmp_path):
    packages = tmp_path / "lib/python3.11/site-packages"
    for name in ("Django-5.2.1", "psycopg2_binary-2.9.10", "ruamel.yaml-0.18", "a-1.0+local.1"):
        (packages / f"{name}.dist-info").mkdir(parents=True)
    (packages / "django").mkdir()
    expected = {"a": "1.0+local.1", "django": "5.2.1", "psycopg2-binary": "2.9.10", "ruamel-yaml": "0.18"}
    assert virtualenvs.packages(tmp_path) == expected
