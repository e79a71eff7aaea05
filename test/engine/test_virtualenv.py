import itertools
import os
import shutil
import sys
import tomllib
from pathlib import Path

import django_host_command
import django_server_uwsgi
import django_virtualenv
import django_wall_build
import pytest
import yaml
from django_host_command import DeploymentError
from specimen import ROOT

LOCKS = yaml.safe_load((Path(__file__).parent / "locks.yaml").read_text())


def tree(folder: Path, files: dict[str, str]) -> Path:
    """A source of these files."""
    for name, content in files.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text(content)
    return folder


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
        (["pyproject.toml"], ".", {}, ["pyproject.toml"]),
        (["pyproject.toml", "requirements.txt"], ".", {}, ["requirements.txt"]),
        (["src/requirements.txt", "requirements.txt"], "src", {}, ["src/requirements.txt"]),
        (["requirements.txt", "src/manage.py"], "src", {}, ["requirements.txt"]),
        (["uv.lock", "src/requirements.txt"], "src", {}, ["uv.lock"]),
        (["a.txt", "b.txt", "uv.lock"], ".", {"requirements": ["b.txt", "a.txt"]}, ["b.txt", "a.txt"]),
        ([], ".", {"python_packages": ["django"]}, []),
        (
            ["a.txt"],
            ".",
            {"requirements": ["a.txt", "b.txt"]},
            "there is no b.txt in the source\ncorrect django:sites:blog:requirements",
        ),
        (
            ["setup.py"],
            ".",
            {},
            "nothing says what the project needs; looked for uv.lock, Pipfile.lock, poetry.lock, requirements.txt, "
            "requirements/production.txt, requirements/prod.txt, requirements/base.txt, requirements-prod.txt, "
            "pyproject.toml\nname the file in django:sites:blog:requirements, or add python_packages",
        ),
    ],
)
def test_which_files_say_what_the_project_needs(make_site, tmp_path, files, folder, options, expected):
    source = tree(tmp_path / "source", dict.fromkeys(["manage.py", *files], "[project]"))
    site = make_site(**options)
    if isinstance(expected, list):
        assert django_virtualenv.requirement_files(site, source, folder) == expected
    else:
        with pytest.raises(DeploymentError) as error:
            django_virtualenv.requirement_files(site, source, folder)
        assert str(error.value) == expected


CHAIN = {
    "requirements/production.txt": "-r base.txt\n--constraint=../limits.txt\ngunicorn\n",
    "requirements/base.txt": "-c ../limits.txt\n  --requirement common.in  # more\ndjango\n",
    "requirements/common.in": "-r production.txt\npillow\n-r https://example.org/more.txt\n",
    "limits.txt": "django<6\n",
    "unrelated.txt": "x\n",
}


def key_in(site, source, names):
    """The key of a virtualenv for these files of a source."""
    return django_virtualenv.key_of(site, django_virtualenv._contents(source, names))


@pytest.fixture
def key(make_site, tmp_path, monkeypatch):
    """The key of a virtualenv for a source of these files, in a site of these options."""
    monkeypatch.setattr(django_virtualenv, "interpreter", lambda python: sys.executable)
    count = itertools.count()

    def key(files, names, **options):
        source = tree(tmp_path / f"source{next(count)}", files)
        return key_in(make_site(folders=False, **options), source, names)

    return key


def test_a_key_stands_for_all_that_goes_into_a_virtualenv(key, monkeypatch):
    names = ["requirements/production.txt"]
    first = key(CHAIN, names)
    assert len(first) == 16 and key(CHAIN, names) == first
    assert key(CHAIN | {"unrelated.txt": "y\n", "blog/models.py": "x"}, names) == first
    assert key(CHAIN, names, settings={"A": 1}, packages=["libpq5"]) == first
    others = [key(CHAIN | {name: CHAIN[name] + "more\n"}, names) for name in CHAIN if name != "unrelated.txt"]
    others += [key(CHAIN, [*names, "unrelated.txt"])]
    others += [key(CHAIN, names, python_packages=["a"]), key(CHAIN, names, constraints=["a"])]
    monkeypatch.setattr(django_virtualenv, "_identity", lambda path, modified: "another python")
    others += [key(CHAIN, names)]
    others += [key(CHAIN, names, database={"engine": "postgres"}), key(CHAIN, names, database={"engine": "mysql"})]
    monkeypatch.setattr(django_server_uwsgi, "PYUWSGI", "pyuwsgi==0")
    others += [key(CHAIN, names)]
    assert len({first, *others}) == 1 + len(others) == 12


def test_a_lock_of_uv_stands_beside_its_project(key):
    files = {"uv.lock": "lock", "pyproject.toml": "one"}
    assert key(files, ["uv.lock"]) != key(files | {"pyproject.toml": "two"}, ["uv.lock"])


@pytest.mark.parametrize(
    ("files", "message"),
    [
        ({"requirements.txt": "-r gone.txt\n"}, "the requirements include gone.txt, which is not in the source"),
        (
            {"requirements.txt": "-r ../../secret.txt\n"},
            r"the requirements include /.*/secret.txt, which is not in the",
        ),
        ({"requirements.txt": "-c /etc/passwd\n"}, "the requirements include /etc/passwd, which is not in the source"),
    ],
)
def test_what_requirements_may_not_include(key, files, message):
    with pytest.raises(DeploymentError, match=message):
        key(files, ["requirements.txt"])


def test_requirements_that_are_a_link_out_of_the_source(make_site, tmp_path):
    source = tree(tmp_path / "source", {})
    source.mkdir()
    (source / "requirements.txt").symlink_to("/etc/passwd")
    with pytest.raises(DeploymentError, match="the requirements include /etc/passwd, which is not in the source"):
        key_in(make_site(), source, ["requirements.txt"])


def test_an_interpreter():
    assert django_virtualenv.interpreter("sh") == os.path.realpath(shutil.which("sh"))
    with pytest.raises(DeploymentError) as error:
        django_virtualenv.interpreter("python9.9")
    assert str(error.value) == (
        "there is no python9.9 on this host\n"
        "install it (django:sites:…:packages), or name another in django:sites:…:python"
    )
    assert django_virtualenv._identity(sys.executable, 0).startswith(sys.implementation.cache_tag)


@pytest.mark.parametrize("case", [pytest.param(case, id=f"{case['file']}-{case['case']}") for case in LOCKS])
def test_a_lock_becomes_requirements(make_site, tmp_path, case):
    work = tree(tmp_path / "work", {case["file"]: case["content"]})
    if "error" in case:
        with pytest.raises(DeploymentError) as error:
            django_virtualenv._as_requirements(make_site(), work, case["file"])
        assert error.value.message == case["error"]
    else:
        made = django_virtualenv._as_requirements(make_site(), work, case["file"])
        assert made.read_text() == case["requirements"].replace("{folder}", str(work))


@pytest.fixture
def uv(monkeypatch):
    """Plays uv: remembers its command lines, makes what it would make, and fails where `uv.fails` is in one."""

    class Played:
        calls: list
        fails = ""

        def __init__(self):
            self.calls = []

        def run(self, site, argv, *, doing, environment, folder, writable, timeout, hint, secrets):
            self.calls.append((argv, folder))
            self.said = {"environment": environment, "writable": writable, "timeout": timeout, "hint": hint}
            if self.fails and self.fails in argv:
                raise DeploymentError(f"{doing} failed")
            if "venv" in argv:
                Path(argv[-1], "bin").mkdir()
                Path(argv[-1], "bin/python").write_text("")
                Path(argv[-1], ".lock").write_text("")
            return ""

    played = Played()
    monkeypatch.setattr(django_virtualenv, "interpreter", lambda python: f"/usr/bin/{python}")
    monkeypatch.setattr(django_wall_build, "run", played.run)
    return played


def test_a_virtualenv_is_built(make_site, uv, tmp_path, monkeypatch):
    monkeypatch.setenv("UV_INDEX", "https://pypi.example.org/simple")
    source = tree(tmp_path / "source", CHAIN | {"photo.jpg": "x", "blog/models.py": "x"})
    (source / "link.txt").symlink_to("/etc/passwd")
    site = make_site(
        python="python3.11",
        python_packages=["psycopg[binary]", "a @ https://x.org/a"],
        constraints=["b<2"],
        timeouts={"build": "1m"},
    )
    work, folder = site.build.top / "requirements", site.virtualenvs / "key"
    seen = []
    end = django_virtualenv.django_server.requirements
    monkeypatch.setattr(
        django_virtualenv.django_server,
        "requirements",
        lambda *arguments: (
            seen.append({str(p.relative_to(work)) for p in work.rglob("*") if not p.is_dir()}) or end(*arguments)
        ),
    )
    django_virtualenv.build(site, source, ["requirements/production.txt"], "key")
    binary = str(django_virtualenv.UV / "bin/uv")
    install = [binary, "pip", "install", "--python", f"{folder}/bin/python"]
    constraint = ["--constraint", f"{work}/.constraints.txt"]
    assert uv.calls == [
        (
            [
                binary,
                "venv",
                "--quiet",
                "--no-project",
                "--allow-existing",
                "--python",
                "/usr/bin/python3.11",
                str(folder),
            ],
            str(site.build.top),
        ),
        ([*install, *constraint, "--requirement", f"{work}/requirements/production.txt"], str(work)),
        ([*install, *constraint, "--", "psycopg[binary]", "a @ https://x.org/a"], str(work)),
        ([*install, django_server_uwsgi.PYUWSGI], str(work)),
    ]
    assert uv.said["writable"] == [str(folder)] and uv.said["timeout"] == 60
    assert (
        uv.said["environment"].items()
        >= {
            "HOME": str(site.build.top),
            "TMPDIR": f"{site.build.top}/tmp",
            "UV_CACHE_DIR": f"{site.build.top}/uv",
            "UV_LINK_MODE": "copy",
            "UV_COMPILE_BYTECODE": "1",
            "UV_PYTHON_DOWNLOADS": "never",
            "UV_SYSTEM_CERTS": "1",
            "UV_NO_PROGRESS": "1",
            "UV_INDEX": "https://pypi.example.org/simple",
        }.items()
    )
    assert seen[-1] == {".constraints.txt", "link.txt", "blog/models.py", *CHAIN}
    assert not work.exists() and django_virtualenv.is_complete(site, "key")
    assert sorted(path.name for path in folder.iterdir()) == [".complete", "bin"]


def test_a_lock_of_uv_is_exported_by_uv(make_site, uv, tmp_path):
    source = tree(tmp_path / "source", {"src/uv.lock": "", "src/pyproject.toml": ""})
    site = make_site()
    django_virtualenv.build(site, source, ["src/uv.lock"], "key")
    work = site.build.top / "requirements/src"
    options = ["--quiet", "--frozen", "--no-dev", "--no-emit-project", "--no-header", "--output-file"]
    argv, folder = uv.calls[1]
    assert (argv[1:], folder) == (["export", *options, f"{work}/.uv.lock.txt"], str(work))
    assert uv.calls[2][0][-2:] == ["--requirement", f"{work}/.uv.lock.txt"]


def test_a_project_that_brings_its_own_server(make_site, uv, tmp_path, monkeypatch):
    run = uv.run

    def with_server(site, argv, **options):
        if "install" in argv:
            folder = Path(argv[4]).parents[1] / "lib/python3.11/site-packages/uWSGI-2.0.30.dist-info"
            folder.mkdir(parents=True, exist_ok=True)
        return run(site, argv, **options)

    monkeypatch.setattr(django_wall_build, "run", with_server)
    django_virtualenv.build(make_site(), tree(tmp_path / "source", {"a.txt": ""}), ["a.txt"], "key")
    assert not any(django_server_uwsgi.PYUWSGI in argv for argv, _folder in uv.calls)


POSTGRES, MYSQL = {"engine": "postgres"}, {"engine": "mysql", "name": "x"}


@pytest.mark.parametrize(
    ("databases", "brought", "expected"),
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
def test_a_driver_that_the_project_has_not_brought(make_site, uv, tmp_path, monkeypatch, databases, brought, expected):
    run = uv.run

    def with_packages(site, argv, **options):
        if "--requirement" in argv:
            for name in brought:
                (Path(argv[4]).parents[1] / f"lib/python3.11/site-packages/{name}.dist-info").mkdir(parents=True)
        return run(site, argv, **options)

    monkeypatch.setattr(django_wall_build, "run", with_packages)
    site = make_site(databases=databases, constraints=["psycopg<4"])
    told = django_virtualenv.build(site, tree(tmp_path / "source", {"a.txt": ""}), ["a.txt"], "key")
    drivers = [argv[5:] for argv, _folder in uv.calls[2:-1]]
    assert all(argv[0] == "--constraint" for argv in drivers)
    wanted = ["mysqlclient>=2.2.1", "psycopg[binary]>=3.1.8"] if expected == 2 else expected
    assert [argv[2] for argv in drivers] == wanted == told


@pytest.mark.parametrize("fails", ["venv", "--requirement", django_server_uwsgi.PYUWSGI])
def test_a_virtualenv_that_cannot_be_built_is_not_there(make_site, uv, tmp_path, fails):
    uv.fails = fails
    site, source = make_site(), tree(tmp_path / "source", {"a.txt": ""})
    with pytest.raises(DeploymentError):
        django_virtualenv.build(site, source, ["a.txt"], "key")
    assert list(site.virtualenvs.iterdir()) == [] and not (site.build.top / "requirements").exists()
    assert not django_virtualenv.is_complete(site, "key")
    uv.fails = ""
    django_virtualenv.build(site, source, ["a.txt"], "key")
    assert django_virtualenv.is_complete(site, "key")


@pytest.mark.parametrize("part", [".complete", "bin/python"])
def test_half_a_virtualenv_is_none(make_site, uv, tmp_path, part):
    site, source = make_site(), tree(tmp_path / "source", {"a.txt": ""})
    django_virtualenv.build(site, source, ["a.txt"], "key")
    (site.virtualenvs / "key" / part).unlink()
    assert not django_virtualenv.is_complete(site, "key")


def test_virtualenvs_that_no_release_uses(make_site):
    site = make_site()
    for name in ("one", "two", "three"):
        (site.virtualenvs / name).mkdir()
    assert [path.name for path in django_virtualenv.unused(site, {"two"})] == ["one", "three"]


def test_uv_is_installed_once(own_host, monkeypatch):
    calls = []
    monkeypatch.setattr(django_host_command, "run", lambda argv, **options: calls.append((argv, options)) or make(argv))

    def make(argv):
        django_virtualenv.UV.mkdir(parents=True, exist_ok=True)
        return ""

    assert not django_virtualenv.uv_is_installed()
    django_virtualenv.install_uv()
    uv = str(django_virtualenv.UV)
    requirement = f"uv=={django_virtualenv.UV_VERSION}"
    assert [argv for argv, _options in calls] == [
        ["python3", "-m", "venv", uv],
        [f"{uv}/bin/pip", "install", "--quiet", "--disable-pip-version-check", requirement],
    ]
    assert django_virtualenv.uv_is_installed()
    monkeypatch.setattr(django_virtualenv, "UV_VERSION", "9")
    assert not django_virtualenv.uv_is_installed()


def test_hosts_get_the_uv_that_the_tests_have():
    pins = tomllib.loads((ROOT / "pyproject.toml").read_text())["dependency-groups"]["uv"]
    assert pins == [f"uv=={django_virtualenv.UV_VERSION}"]


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
        ({"poetry.lock": '[metadata]\npython-versions = "^3.99"\n'}, None),
        ({"pyproject.toml": "[project]\nrequires-python = '>=3.2'\n"}, None),
        ({"requirements.txt": "django\n"}, None),
    ],
)
def test_a_project_for_another_python_is_refused(make_site, tmp_path, monkeypatch, files, expected):
    source = tree(tmp_path / "source", files)
    monkeypatch.setattr(django_virtualenv, "interpreter", lambda python: sys.executable)
    monkeypatch.setattr(django_virtualenv, "_identity", lambda path, modified: "cpython-311 linux glibc 2.36 3.11.2")
    site = make_site()
    if not expected:
        django_virtualenv.refuse_other_python(site, django_virtualenv.python_versions(source, [*files]))
        return
    with pytest.raises(DeploymentError) as error:
        django_virtualenv.refuse_other_python(site, django_virtualenv.python_versions(source, [*files]))
    assert str(error.value) == (
        f"the project is for Python {expected}, and python3 is 3.11.2\n"
        "name another interpreter: django:sites:blog:python"
    )


@pytest.mark.parametrize(
    ("tag", "module", "told"),
    [
        ("cpython-311", "mod_wsgi.so-3.11", None),
        ("cpython-311", None, None),
        ("cpython-312", "mod_wsgi.so-3.11", "python3.12 is 3.12.3 (cpython-312)"),
        ("pypy-311", "mod_wsgi.so-3.11", "python3.12 is 3.12.3 (pypy-311)"),
    ],
)
def test_a_python_for_which_the_server_is_not_built_is_refused(make_site, tmp_path, monkeypatch, tag, module, told):
    monkeypatch.setattr(django_virtualenv, "interpreter", lambda python: sys.executable)
    monkeypatch.setattr(django_virtualenv, "_identity", lambda path, modified: f"{tag} linux glibc 2.36 3.12.3")
    if module:
        (tmp_path / "mod_wsgi.so").symlink_to(module)
    site = make_site(server={"kind": "mod_wsgi"}, python="python3.12")
    site.platform["mod_wsgi"] = {"modules": str(tmp_path)}
    if not told:
        django_virtualenv.refuse_python_of_another(site)
        return
    with pytest.raises(DeploymentError) as error:
        django_virtualenv.refuse_python_of_another(site)
    assert str(error.value) == (
        f"this system's mod_wsgi is built for Python 3.11, and {told}\n"
        "django:sites:blog:python: python3.11, or another server:kind"
    )


ITSELF = {
    "-e .": [],
    ".": [],
    "./": [],
    "--editable=.": [],
    "-e file:.[prod, db]": ["prod", "db"],
    ".[prod] ; python_version > '3'": ["prod"],
    "-e .  # the project": [],
}


@pytest.mark.parametrize("line", ITSELF)
@pytest.mark.parametrize("packaged", ["pyproject.toml", "setup.py", None])
def test_the_project_itself_is_not_installed_but_what_it_needs(make_site, tmp_path, line, packaged):
    files = {
        "requirements.txt": f"django\n{line}\n-r more.txt\n",
        "more.txt": "wheel\n",
        "pyproject.toml": "[tool.x]\n",
    }
    work = tree(tmp_path / "work", files | ({packaged: "[project]\n"} if packaged else {}))
    arguments = list(django_virtualenv._installations(make_site(), work, ["requirements.txt"]))
    own = ["--requirement", packaged, *(f"--extra={extra}" for extra in ITSELF[line])] if packaged else []
    assert arguments == [["--requirement", str(work / "requirements.txt"), *own]]
    assert (work / "requirements.txt").read_text().split() == ["django", "-r", "more.txt"]


def test_a_project_among_its_requirements_is_part_of_the_key(make_site, tmp_path, monkeypatch):
    monkeypatch.setattr(django_virtualenv, "interpreter", lambda python: sys.executable)
    monkeypatch.setattr(django_virtualenv, "_identity", lambda path, modified: "3.11")
    source = tree(tmp_path / "source", {"requirements.txt": "django\n", "pyproject.toml": "[project]\n"})

    def key():
        return key_in(make_site(), source, ["requirements.txt"])

    alone = key()
    (source / "pyproject.toml").write_text("[project]\nversion = '2'\n")
    assert key() == alone
    (source / "requirements.txt").write_text("django\n-e .\n")
    with_itself = key()
    (source / "pyproject.toml").write_text("[project]\nversion = '3'\n")
    assert len({alone, with_itself, key()}) == 3


LACKS = {
    "Error: pg_config executable not found.": "gcc, libc6-dev, libpq-dev, python3-dev",
    "fatal error: Python.h: No such file or directory": "python3-dev",
    "error: command 'x86_64-linux-gnu-gcc' failed: No such file or directory": "gcc",
    "Can not find valid pkg-config name. Specify MYSQLCLIENT_CFLAGS": "default-libmysqlclient-dev, pkg-config",
}


@pytest.mark.parametrize("said", LACKS)
def test_what_the_system_lacks_is_named(make_site, monkeypatch, said):
    def run(site, argv, **options):
        raise DeploymentError("installing packages failed (exit 1)", log=said, hint=options["hint"])

    monkeypatch.setattr(django_wall_build, "run", run)
    with pytest.raises(DeploymentError) as error:
        django_virtualenv._Uv(make_site(), Path("v"), Path("w"), None).install("x")
    assert (
        error.value.hint == f"the system lacks what this takes to be built: django:sites:blog:packages: [{LACKS[said]}]"
    )


def test_the_packages_of_a_virtualenv(tmp_path):
    packages = tmp_path / "lib/python3.11/site-packages"
    for name in ("Django-5.2.1", "psycopg2_binary-2.9.10", "ruamel.yaml-0.18", "a-1.0+local.1"):
        (packages / f"{name}.dist-info").mkdir(parents=True)
    (packages / "django").mkdir()
    expected = {"a": "1.0+local.1", "django": "5.2.1", "psycopg2-binary": "2.9.10", "ruamel-yaml": "0.18"}
    assert django_virtualenv.packages(tmp_path) == expected
