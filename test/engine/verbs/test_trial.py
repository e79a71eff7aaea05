"""A project that is no site is built and asked: which options it gets, and what its answers make of the pillar."""

import contextlib
import json
from pathlib import Path
from typing import Any
from unittest import mock

import pytest
import yaml
from django_formula.host.commands import DeploymentError
from django_formula.inspect import inspection
from django_formula.inspect import project as inspect_project
from django_formula.knowledge import hints
from django_formula.observe import observation
from django_formula.server import servers
from django_formula.site import sites
from django_formula.verbs import trial
from observed import answer, variable


@pytest.fixture
def called(monkeypatch):
    """What `trial.of` asks: a site of this host, of which there are `blog` and `shop`, or a source."""
    found: list[tuple[str, ...]] = []
    monkeypatch.setattr(sites, "registered", lambda: ["blog", "shop"])
    monkeypatch.setattr(trial.observe_report, "describe", lambda name: found.append(("site", name)))
    monkeypatch.setattr(trial, "inspect", lambda *arguments: found.append(("source", *arguments)))
    return found


@pytest.mark.parametrize(
    ("source", "expected"),
    [
        ("blog", ("site", "blog")),
        ("nothing", ("site", "nothing")),
        ("/home/ray/blog", ("source", "/home/ray/blog", "HEAD", None)),
        ("https://git.example.org/blog.git", ("source", "https://git.example.org/blog.git", "HEAD", None)),
        ("git@git.example.org:blog", ("source", "git@git.example.org:blog", "HEAD", None)),
    ],
)
def test_a_name_is_a_site_and_all_else_a_source(called, source, expected):
    trial.of(source)
    assert called == [expected]


def test_the_site_that_is_none_has_the_options_that_were_read_and_no_name_of_a_site(tmp_path):
    made = trial.Trial("https://git.example.org/shop.git", "HEAD", "shop", tmp_path)._site(
        {"python_packages": ["six"], "database": {"engine": "postgres"}, "environment": {"STAGE": "live"}}
    )
    assert (made.name, made.user, made.build_user) == ("_inspected", "_django-inspect", "_django-inspect-build")
    assert (made.root, made.at) == (tmp_path, "django:sites:shop")
    assert made.config["python_packages"] == ["six"] and made.config["databases"]["default"]["engine"] == "postgres"
    assert str(tmp_path) in str(made.releases) and "srv/django" not in json.dumps(dict(made.config))


@pytest.mark.parametrize(
    ("options", "mistake"),
    [
        ({"build": 7}, "django:sites:shop:build"),
        ({"environment": {"X": {"from": "everything"}}}, "django:sites:shop:environment:X"),
        ({"writable": ["../../etc"]}, "django:sites:shop:writable"),
        ({"python": "/etc/passwd; id"}, "django:sites:shop:python"),
    ],
)
def test_what_the_pillar_refuses_is_a_mistake(tmp_path, options, mistake):
    with pytest.raises(DeploymentError, match=f"the pillar that was read has a mistake: {mistake}"):
        trial.Trial("https://git.example.org/shop.git", "HEAD", "shop", tmp_path)._site(options)


def test_no_option_that_was_read_opens_the_sandbox_or_names_a_user():
    of_host = {"sandbox", "build_sandbox", "user", "root", "packages", "index", "proxy", "tls", "mount", "commands"}
    assert not of_host & {*trial._TAKEN, *trial._OF_WORDS}


def test_the_settings_find_the_files_that_the_pillar_has_with_a_key_that_is_none(tmp_path, monkeypatch):
    """Settings that read their secret key from a file end there otherwise, before they ask for anything."""
    made = trial.Trial("https://git.example.org/shop.git", "HEAD", "shop", tmp_path)
    files = {"config/key.txt": {"from": "secret_key"}, "shop/local.py": {"contents": "STAGE = 'live'"}}
    site, written = made._site({"files": files}), {}
    deployment = made._deployment(site)
    deployment.release = trial.Release(site, "0001-abc")
    monkeypatch.setattr(trial.Release, "facts", {})
    monkeypatch.setattr(trial.folders, "make", lambda folder: None)
    monkeypatch.setattr(trial.file, "write", lambda *_arguments, **_options: None)
    monkeypatch.setattr(trial.release_settings, "environment", lambda *_arguments: {})
    monkeypatch.setattr(
        trial.release_settings, "write_project_file", lambda _site, _source, *file: written.update([file])
    )
    monkeypatch.setattr(trial.observation, "of", lambda *_arguments, **_options: {**written})
    assert made._ask(deployment) == {"config/key.txt": trial._KEY, "shop/local.py": "STAGE = 'live'"}


@pytest.fixture
def inspected(tmp_path, monkeypatch):
    """The pillar that is printed for a project of which each attempt ends so, and what the attempts were made with."""
    tried: list[dict[str, Any]] = []
    ends: list[Any] = []

    def attempt(_trial: trial.Trial, keys: dict[str, Any]) -> Any:
        tried.append(dict(keys))
        end = ends.pop(0)
        if isinstance(end, Exception):
            raise end
        return mock.Mock(), end

    def print_pillar(*said: Any) -> dict[str, Any]:
        ends[:] = said
        text = trial.inspect("https://git.example.org/shop.git")
        pillar: dict[str, Any] = yaml.safe_load(text)["django"]["sites"]["shop"]
        return pillar

    read = {"keys": {"packages": ["libpq5"]}, "lines": [{"key": "packages", "value": ["libpq5"], "remark": ""}]}
    monkeypatch.setattr(trial, "_place", lambda _where: contextlib.nullcontext(tmp_path))
    monkeypatch.setattr(trial.os, "geteuid", lambda: 0)
    monkeypatch.setattr(trial.Trial, "fetch", lambda *_arguments: None)
    monkeypatch.setattr(trial.Trial, "source", tmp_path)
    monkeypatch.setattr(trial.Trial, "read", lambda _trial: {**read, "remarks": []})
    monkeypatch.setattr(trial.Trial, "_attempt", attempt)
    monkeypatch.setattr(trial.Trial, "_failure", lambda _trial, _deployment, found: ended_by(found.error))
    monkeypatch.setattr(trial.observation, "lacking", lambda *_arguments: {})
    return print_pillar, tried


def fails(**options: Any) -> DeploymentError:
    return DeploymentError("it fails", hint=hints.Hint("set", options))


def ended_by(error: str) -> DeploymentError:
    """What ends a start is a folder that is written to, a module that is missing, or a library of Debian."""
    if error.startswith("No module"):
        return fails(python_packages=[error.split("'")[1]])
    return fails(packages=[error]) if error.startswith("lib") else fails(writable=[error])


def unbuilt(name: str, *packages: str) -> DeploymentError:
    """The failure of a build for which a compiler is missing."""
    error = fails(packages=[*packages])
    error.log = f"error: Failed to build `{name}==1.0`\n  error: [Errno 2] No such file or directory: 'gcc'"
    return error


def test_what_was_read_is_printed_whatever_ends_the_attempt(inspected, monkeypatch, tmp_path):
    print_pillar, _tried = inspected
    assert print_pillar(KeyError("pyyaml")) == {"packages": ["libpq5"]}
    monkeypatch.setattr(trial.inspect_report, "text", lambda _where, _name, remarks, _lines: {"shop": remarks})
    monkeypatch.setattr(trial.Trial, "_attempt", mock.Mock(side_effect=KeyError("pyyaml")))
    assert trial.inspect("https://git.example.org/shop.git")["shop"] == ["not observed: KeyError: 'pyyaml'"]


def test_all_packages_of_debian_are_named_by_one_inspection(inspected, monkeypatch):
    """What cannot be built without them is left out of the next attempt, and of nothing that is printed."""
    print_pillar, tried = inspected
    printed = mock.Mock(wraps=trial.inspect_report.text)
    monkeypatch.setattr(trial.inspect_report, "text", printed)
    lacking = unbuilt("PyThing", "gcc", "libpq-dev"), unbuilt("other_thing", "gcc", "libxml2-dev")
    never = ["pything; sys_platform == 'none'", "other-thing; sys_platform == 'none'"]
    found = observed("setup", "URL")._replace(error="No module named 'pything'", facts={"missing": ["pything"]})
    pillar = print_pillar(*lacking, fails(python_packages=[*never, "pytz>2018.3"]), found)
    assert len(tried) == 4 and pillar["python_packages"] == ["pytz>2018.3"]
    assert pillar["packages"] == ["gcc", "libpq-dev", "libxml2-dev", "libpq5"]
    assert ["apt-get", "install", *pillar["packages"]] in printed.call_args.args[2]


@pytest.mark.parametrize("more", [["django~=2.2.0"], []])
def test_a_package_that_was_read_from_a_module_and_that_no_index_has_is_left_out(inspected, monkeypatch, more):
    """It is once: where a file requires it too, the failure says so."""
    print_pillar, tried = inspected
    value = [*more, "django-Made_up[all]"]
    lines = [
        {"key": key, "value": one, "remark": ""} for key, one in (("python_packages", value), ("shared", ["logs"]))
    ]
    monkeypatch.setattr(
        trial.Trial, "read", lambda _trial: {"keys": {"python_packages": value}, "lines": lines, "remarks": []}
    )
    absent = DeploymentError("installing packages failed (exit 1)")
    absent.log = "  cause: Because django-made-up was not found in the package registry and you require django-made-up"
    for ends in ([absent, observed("done", "URL")], [absent, absent]):
        tried.clear()
        assert print_pillar(*ends).get("python_packages", []) == more
        assert [one["python_packages"] for one in tried] == [value, more]


def test_what_ends_a_start_without_packages_is_cured_but_for_modules_that_are_missing(inspected):
    print_pillar, tried = inspected
    ended = [observed("setup", "URL")._replace(error=error) for error in ("logs", "No module named 'pything'")]
    pillar = print_pillar(unbuilt("PyThing", "gcc"), *ended)
    assert len(tried) == 3 and pillar["writable"] == ["logs"] and "python_packages" not in pillar


def test_what_is_left_out_is_in_no_hint(inspected, monkeypatch):
    print_pillar, _tried = inspected
    printed = mock.Mock(wraps=trial.inspect_report.text)
    monkeypatch.setattr(trial.inspect_report, "text", printed)
    never = ["pything; sys_platform == 'none'", "x==1", "other; sys_platform == 'none'"]
    ended = DeploymentError("it fails", hint=f"set python_packages: {trial.hints.flow(never)}")
    print_pillar(unbuilt("PyThing", "gcc"), unbuilt("other", "gcc", "g++"), ended)
    assert f"not observed: set python_packages: {trial.hints.flow(['x==1'])}" in printed.call_args.args[2]


def test_a_project_with_an_asgi_module_alone_is_asked_with_it(tmp_path, monkeypatch):
    made = trial.Trial("https://git.example.org/shop.git", "HEAD", "shop", tmp_path)
    (tmp_path / "shop").mkdir()
    (tmp_path / "manage.py").write_text("os.environ.setdefault('DJANGO_SETTINGS_MODULE', 'shop.settings')\n")
    (tmp_path / "shop/asgi.py").write_text("application = get_asgi_application()\n")
    found, files = list[str](), list(inspection.read("x", "HEAD", tmp_path, "", None)["keys"].items())

    def begun(_trial: trial.Trial, options: dict[str, Any]) -> None:
        interface = servers.configured(made._site(options)).interface(made._site(options))
        found.append(inspect_project._application([tmp_path], interface, "here"))
        raise DeploymentError("enough is known")

    monkeypatch.setattr(trial.Trial, "_begun", begun)
    with pytest.raises(DeploymentError, match="enough"):
        made._attempt(dict(files))
    assert found == ["shop.asgi"]


def test_an_attempt_leaves_out_what_cannot_be_built(tmp_path):
    made = trial.Trial("https://git.example.org/shop.git", "HEAD", "shop", tmp_path)
    made.unbuilt = ["py-thing"]
    listed = made._without_unbuilt(["Py_Thing[all]~=2.9", "django~=2.2.0", "py-thing-more"])
    assert listed == ["django~=2.2.0", "py-thing-more", "py-thing; sys_platform == 'none'"]


def test_a_library_that_a_start_lacks_is_in_the_pillar_and_the_command(inspected, monkeypatch):
    print_pillar, tried = inspected
    printed = mock.Mock(wraps=trial.inspect_report.text)
    monkeypatch.setattr(trial.inspect_report, "text", printed)
    monkeypatch.setattr(trial.Trial, "of_extensions", lambda *_: ["libzbar0", "gdal-bin"])
    pillar = print_pillar(observed("setup", "URL")._replace(error="libzbar0"))
    assert len(tried) == 1 and pillar["packages"] == ["libzbar0", "libpq5"]
    assert ["apt-get", "install", "libzbar0", "libpq5", "gdal-bin"] in printed.call_args.args[2]
    assert {"libzbar0: set"} <= {line for line in printed.call_args.args[2] if isinstance(line, str)}


def test_the_command_has_what_an_apply_installs_for_postgis(tmp_path):
    made = trial.Trial("https://git.example.org/shop.git", "HEAD", "shop", tmp_path)
    assert made.of_extensions({"database": {"engine": "postgres", "extensions": ["postgis"]}}) == ["gdal-bin"]
    assert made.of_extensions({"database": {"engine": "sqlite"}}) == []


def test_what_a_failure_names_is_tried_and_printed(inspected):
    """What gives way in place of packages of Debian, which are not installed, is taken first."""
    print_pillar, tried = inspected
    unbuilt, ended = fails(packages=["gcc"]), observed("setup", "URL")._replace(error="logs")
    unbuilt.offered = {"python_packages": ["pillow==9.2.0"]}
    pillar = print_pillar(unbuilt, fails(python_packages=["pytz>2018.3"]), ended, observed("done", "URL"))
    cured = {"python_packages": ["pillow==9.2.0", "pytz>2018.3"], "writable": ["logs"]}
    assert len(tried) == 4 and tried[-1] == {**cured, "packages": ["libpq5"]}
    assert pillar.items() >= {**cured, "packages": ["libpq5"]}.items()


@pytest.mark.parametrize("options", [{"packages": ["gcc"]}, {"python": "3.9"}])
def test_what_would_change_the_host_is_printed_and_not_tried(inspected, options):
    print_pillar, tried = inspected
    pillar = print_pillar(fails(**options, user="root"))
    assert (
        len(tried) == 1 and "user" not in pillar and all({*value} <= {*pillar[key]} for key, value in options.items())
    )


def test_packages_of_debian_are_named_with_the_command_that_installs_them(inspected, monkeypatch):
    print_pillar, _tried = inspected
    printed = mock.Mock(wraps=trial.inspect_report.text)
    monkeypatch.setattr(trial.inspect_report, "text", printed)
    print_pillar(fails(packages=["gcc", "libpq-dev"]))
    assert ["apt-get", "install", "gcc", "libpq-dev", "libpq5"] in printed.call_args.args[2]


def test_another_python_is_printed_where_a_newer_django_does_not_start(inspected):
    print_pillar, _tried = inspected
    for stage, expected in (("done", "python_packages"), ("setup", "python")):
        old = fails(python="3.9")
        old.offered = {"python_packages": ["django~=3.2.0"]}
        pillar = print_pillar(old, *[observed(stage, "URL")._replace(error="logs")] * 2)
        assert {*pillar} & {"python", "python_packages"} == {expected}


def test_each_attempt_has_a_source_that_the_build_user_can_read(tmp_path, monkeypatch):
    """A build gives it to the site's user: the second attempt found no manage.py."""
    made, exported = trial.Trial("https://git.example.org/shop.git", "HEAD", "shop", tmp_path), []
    monkeypatch.setattr(trial.Trial, "_export", lambda _trial: exported.append(1) or trial.Release(made._site({}), "x"))
    monkeypatch.setattr(trial.observation, "impossible", lambda _release: "no systemd")
    for count in (0, 1, 2):
        with pytest.raises(DeploymentError, match="no systemd"):
            made._begun({})
        assert len(exported) == count


def test_the_virtualenvs_of_an_attempt_stay_until_the_next(tmp_path, monkeypatch):
    """Where the words of variables bring other packages, the hint is still of what the first start had."""
    made = trial.Trial("https://git.example.org/shop.git", "HEAD", "shop", tmp_path)
    site = made._site({})
    for name in ("old", "1", "2"):
        (site.virtualenvs / name).mkdir(parents=True)
    begun = (mock.Mock(site=site, release=mock.Mock(record={"virtualenv": name})) for name in ("1", "2"))
    monkeypatch.setattr(trial.Trial, "_begun", lambda *_arguments: next(begun))
    monkeypatch.setattr(trial.Trial, "_build", lambda *_arguments: None)
    monkeypatch.setattr(trial.Trial, "_ask", lambda *_arguments: observed("setup", "URL"))
    deployment, _found = made._attempt({"environment": {"URL": {"from": "queue_url"}}})
    assert deployment.release.record == {"virtualenv": "1"}
    assert sorted(path.name for path in site.virtualenvs.iterdir()) == ["1", "2"]


def test_what_does_not_help_is_tried_once(inspected):
    print_pillar, tried = inspected
    print_pillar(*[observed("setup", "URL")._replace(error="logs")] * 2)
    assert len(tried) == 2


def observed(stage: str, *names: str) -> observation.Observation:
    said: dict[str, Any] = answer(*(variable(name) for name in names), stage=stage)
    return observation.parse(json.dumps(said), [])


def test_an_attempt_that_lacks_a_module_for_the_words_of_its_variables_counts():
    first, second = observed("setup", "FLAVOR"), observed("settings", "DATABASE_URL")
    second = second._replace(facts={"missing": ["dj_database_url"]})
    found = trial._further(first, second)
    assert (found.stage, found.facts["missing"]) == ("settings", ["dj_database_url"])
    assert {one.name for one in found.variables} == {"FLAVOR", "DATABASE_URL"}


def test_the_attempt_that_got_further_counts_with_the_variables_of_both():
    first, second = observed("settings", "KEY", "URL"), observed("done", "URL", "MORE")
    for found in (trial._further(first, second), trial._further(second, first)):
        assert found.stage == "done" and {one.name for one in found.variables} == {"KEY", "URL", "MORE"}


def test_what_is_left_of_a_killed_inspection_is_removed(tmp_path, monkeypatch):
    """Folders but the caches, and whole folders but the newest three; what the next one needs stays."""
    monkeypatch.setattr(trial, "FOLDER", tmp_path / "inspected")
    monkeypatch.setattr(sites, "RUNTIME", tmp_path / "run")
    for number in range(5):
        for part in ("build", "virtualenvs", "releases/0001-abc/source", "secrets", "repository.git"):
            Path(trial.FOLDER, str(number), part).mkdir(parents=True)
    Path(tmp_path, "run/_inspected.uv").mkdir(parents=True)
    Path(tmp_path, "run/blog").mkdir()
    trial._clear()
    left = sorted(trial.FOLDER.iterdir())
    assert len(left) == 3 and [path.name for path in (tmp_path / "run").iterdir()] == ["blog"]
    assert all({part.name for part in root.iterdir()} == {"build", "virtualenvs"} for root in left)
    assert all(root.stat().st_mode & 0o777 == 0o700 for root in left)


def test_what_build_makes_by_the_commands_that_run_is_there(tmp_path, monkeypatch):
    """As the settings that the last one makes of an example, where npm is not there."""
    ran, site = list[str](), mock.Mock(config={"build": ["npm ci", "make  css", "cp a b", "cat"]})

    def build(deployment: Any) -> list[None]:
        for command in deployment.site.config["build"]:
            if command in ("npm ci", "make  css"):
                raise DeploymentError(f"{' '.join(command.split())} failed (exit 127)")
            ran.append(command)
        return []

    monkeypatch.setattr(trial.step_build, "build", build)
    made = trial.Trial("https://git.example.org/shop.git", "HEAD", "shop", tmp_path)
    made._build(mock.Mock(site=site))
    assert ran == ["cp a b", "cat"] and len(site.config["build"]) == 4
    assert made.notes[0].endswith(": npm ci failed (exit 127); make css failed (exit 127)")
    monkeypatch.setattr(trial.step_build, "build", mock.Mock(side_effect=DeploymentError("no space left")))
    with pytest.raises(DeploymentError, match="no space left"):
        made._build(mock.Mock(site=site))


def test_warnings_are_those_of_the_newest_build(tmp_path, monkeypatch):
    said = iter([["shop: x is 2"], ["shop: x is 3"]])
    deployment = mock.Mock(unreported_warnings=lambda: next(said))
    made = trial.Trial("https://git.example.org/shop.git", "HEAD", "shop", tmp_path)
    monkeypatch.setattr(trial.Trial, "_export", lambda _trial: mock.Mock(path=tmp_path))
    monkeypatch.setattr(trial.Trial, "_deployment", lambda *_arguments: deployment)
    monkeypatch.setattr(trial, "Release", lambda *_arguments: mock.Mock(path=tmp_path))
    monkeypatch.setattr(trial.observation, "impossible", lambda _release: "")
    monkeypatch.setattr(trial.uv, "is_installed", lambda: True)
    monkeypatch.setattr(trial.project, "find", lambda *_arguments: {})
    monkeypatch.setattr(trial.step_build, "virtualenv", lambda _deployment: [])
    for _attempt in range(2):
        made._begun({})
    assert [text.partition(": ")[2] or text for text in made.warnings] == ["x is 3"] and made.notes == []
