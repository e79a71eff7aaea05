import dataclasses
import datetime
import importlib.util
import json
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import django_host_command
import django_process_systemd
import django_project_program
import django_wall_shape
import pytest
from django_host_command import DeploymentError
from specimen import FACTS, ROOT, configured

RELEASE = Path("/srv/django/blog/releases/0042-3f2a9c1b77de")


@pytest.fixture
def sandbox(monkeypatch):
    """Plays the sandbox: remembers what it is told to run, and answers, or fails with a log."""

    class Played:
        output = "{}"
        error = None

        def run(self, command):
            self.argv = command.argv
            optional = {field.name: field.default for field in dataclasses.fields(command)[4:]}
            self.options = {
                name: getattr(command, name) for name in optional if getattr(command, name) != optional[name]
            }
            if self.error:
                raise self.error
            return self.output

    played = Played()
    monkeypatch.setattr(django_process_systemd.MANAGER, "run", played.run)
    monkeypatch.setattr(django_host_command, "identity", lambda user: {})
    return played


#: What the start of a project answers at the least.
STARTED = {
    **dict.fromkeys(("django", "settings_module", "static_url", "static_root", "media_url", "media_root"), "x"),
    "expected_settings_module": "x",
    "debug": False,
    "allowed_hosts": ["blog.example.org"],
    "databases": {"default": {"engine": "postgresql", "name": "blog"}},
    "migrations": {"default": {"applied": ["blog.0001"], "pending": []}},
}
DEEP = "[" * 100_000 + "]" * 100_000


def test_the_start_of_a_project(sandbox):
    sandbox.output = json.dumps({**STARTED, "folder": "/etc"})
    databases = {"default": {}, "replica": {"migrate": False}}
    site = configured(timeouts={"start": "10s"}, static={"collect": False}, check="deploy", databases=databases)
    assert django_project_program.start(site, RELEASE, FACTS, ["hunter2"]) == STARTED
    assert sandbox.argv == [f"{RELEASE}/virtualenv/bin/python", f"{RELEASE}/config/django_formula_start.py"]
    request = json.loads(sandbox.options.pop("stdin"))
    assert request == {
        "mode": "start",
        "application": "blog.wsgi",
        "collect": False,
        "static_root": f"{RELEASE}/static",
        "check": "deploy",
        "ignored_checks": django_project_program.NOT_WITHOUT_TLS,
        "migrate": {"default": True, "replica": False},
        "write_ahead": False,
    }
    expected = {"doing": "starting Django", "timeout": 10.0, "secrets": ["hunter2"], "writable": [RELEASE / "static"]}
    assert sandbox.options == expected


def test_a_migration(sandbox):
    site = configured(migrate={"timeout": "2h"})
    facts = FACTS | {"migrations": {"default": {}, "log": {}}}
    answer = {"migrations": {"default": {"applied": ["a.1"], "pending": []}}, "checks": [], "migrated": {}}
    sandbox.output = json.dumps(answer)
    assert django_project_program.migrate(site, RELEASE, facts, []) == answer
    request = json.loads(sandbox.options.pop("stdin"))
    assert (request["mode"], request["databases"]) == ("migrate", ["default", "log"])
    assert (request["timeout"], request["lock_timeout"]) == (7195.0, 5.0)
    assert sandbox.argv[1].endswith("config/django_formula_migrate.py")
    assert sandbox.options == {"doing": "migrating the database", "timeout": 7200.0, "secrets": []}


def test_migrate_by_hand_is_run_under_the_lock(sandbox):
    site = configured(migrate={"timeout": "8s", "lock_timeout": "500ms"})
    django_project_program.manage(site, RELEASE, FACTS, ["migrate", "blog", "0002"], None, 60.0, [])
    program, request, *words = sandbox.argv[1:]
    assert program.endswith("config/django_formula_migrate.py") and words == ["migrate", "blog", "0002"]
    assert json.loads(request) == {"application": "blog.wsgi", "timeout": 6.0, "lock_timeout": 0.5}
    assert sandbox.options["doing"] == "manage.py migrate"


def test_a_release_that_knows_nothing_of_locks(sandbox, tmp_path):
    with pytest.raises(DeploymentError, match="was made by an older version of the formula"):
        django_project_program.manage(configured(), tmp_path, FACTS, ["migrate"], None, 60.0, [])
    django_project_program.manage(configured(), tmp_path, FACTS, ["check"], None, 60.0, [])


@pytest.mark.parametrize(
    ("told", "message", "kind"),
    [
        ("migration: blog.0002\napplied: blog.0001", "blog.0002: it fails (before it: blog.0001)", "PartlyMigrated"),
        ("migration: blog.0002\napplied: ", "blog.0002: it fails", "DeploymentError"),
        ("migration: blog.0002\napplied: \nblocked: yes", "blog.0002: it fails", "DeploymentError"),
    ],
)
def test_where_a_migration_has_stopped(sandbox, told, message, kind):
    sandbox.error = DeploymentError("exit 1", log=f"Traceback\n{told}\nmissing: \ncause: it fails")
    with pytest.raises(DeploymentError) as error:
        django_project_program.migrate(configured(), RELEASE, FACTS, [])
    assert error.value.message == f"migrating the database: {message}" and type(error.value).__name__ == kind
    blocked = "blocked" in told
    assert error.value.transient == blocked == ("lock_timeout" in error.value.hint)
    assert error.value.log == ("" if blocked else "Traceback")


@pytest.mark.parametrize("transient", [True, False])
def test_the_cause_is_the_projects_own_exception(sandbox, transient):
    log = "Traceback (most recent call last):\n  File x\nKeyError: 'X'\ncause: KeyError: 'X' (blog/settings.py:5)\n"
    sandbox.error = DeploymentError("starting Django failed (exit 1)", log=log, hint="", transient=transient)
    with pytest.raises(DeploymentError) as error:
        django_project_program.start(configured(), RELEASE, FACTS, [])
    assert error.value.message == "starting Django: KeyError: 'X' (blog/settings.py:5)"
    assert error.value.log == "Traceback (most recent call last):\n  File x\nKeyError: 'X'"
    assert error.value.transient is transient


def test_a_variable_that_is_missing_is_named(sandbox):
    log = "KeyError: 'TOKEN'\nmissing: TOKEN\ncause: KeyError: 'TOKEN' (blog/settings.py:5)\n"
    sandbox.error = DeploymentError("starting Django failed (exit 1)", log=log)
    with pytest.raises(DeploymentError) as error:
        django_project_program.start(configured(), RELEASE, FACTS, [])
    assert error.value.hint == "give it: django:sites:blog:environment:TOKEN, or django:sites:blog:secrets:TOKEN"
    assert error.value.log == "KeyError: 'TOKEN'"


@pytest.mark.parametrize(
    ("lacking", "hint"),
    [
        ("shop", "it is in the source: django:sites:blog:python_path: [apps]"),
        ("shop.views", "it is in the source: django:sites:blog:python_path: [apps]"),
        ("shop.models", ""),
        ("shops", ""),
    ],
)
def test_a_module_that_lies_elsewhere_is_named(sandbox, tmp_path, lacking, hint):
    (tmp_path / "source/apps/shop").mkdir(parents=True)
    for name in ("__init__", "views"):
        (tmp_path / f"source/apps/shop/{name}.py").touch()
    log = f"cause: ModuleNotFoundError: No module named '{lacking}' (blog/settings.py:5)\n"
    sandbox.error = DeploymentError("starting Django failed (exit 1)", log=log)
    with pytest.raises(DeploymentError) as error:
        django_project_program.start(configured(), tmp_path, FACTS, [])
    assert error.value.hint == hint


def test_a_program_that_ends_without_a_cause(sandbox):
    sandbox.error = DeploymentError("starting Django failed (exit 217)", log="Failed to set up user namespacing")
    with pytest.raises(DeploymentError, match="starting Django: starting Django failed") as error:
        django_project_program.start(configured(), RELEASE, FACTS, [])
    assert error.value.log == "Failed to set up user namespacing"
    sandbox.error, sandbox.output = None, "Segmentation fault"
    with pytest.raises(DeploymentError, match="starting Django: it ended without a usable answer") as error:
        django_project_program.start(configured(), RELEASE, FACTS, [])
    assert error.value.log == "Segmentation fault"


@pytest.mark.parametrize("value", [None, 7, -1, True, "text", [], ["x"], {}, {"x": 1}, [[]], "\0", "\ud800", 1e400])
def test_an_answer_of_wrong_types_is_one_error(sandbox, value):
    """Whatever of it a hostile project replaces: an answer that can be used, or one error."""
    for key in STARTED:
        sandbox.output = json.dumps({**STARTED, key: value})
        _start_or_one_error()
    for text in (json.dumps(value), json.dumps([value]), f'{{"migrations": {json.dumps(value)}}}'):
        sandbox.output = text
        for ask in ASKED.values():
            with pytest.raises(DeploymentError, match="it ended without a usable answer"):
                ask()


def _start_or_one_error():
    try:
        answer = django_project_program.start(configured(), RELEASE, FACTS, [])
    except DeploymentError as error:
        assert error.message == "starting Django: it ended without a usable answer"
    else:
        assert all(django_wall_shape.fits(answer[key], django_wall_shape.START[key]) for key in STARTED)


ASKED = {
    "start": lambda: django_project_program.start(configured(), RELEASE, FACTS, []),
    "migrate": lambda: django_project_program.migrate(configured(), RELEASE, FACTS, []),
    "reverse": lambda: django_project_program.reverse(configured(), RELEASE, FACTS, {"default": []}, []),
    "classify": lambda: django_project_program.classify(configured(), RELEASE, FACTS, {"default": []}, {}, []),
    "check": lambda: django_project_program.check(configured(), RELEASE, FACTS, []),
    "connections": lambda: _backup({"mode": "connections", "aliases": ["default"]}),
    "fit": lambda: _backup({"mode": "fit", "names": {"default": "blog"}, "migrate": False}),
}


def _backup(request):
    site = configured()
    return django_project_program.backup(site, RELEASE, FACTS, request, [])


@pytest.mark.parametrize("text", [DEEP, f'{{"migrations": {DEEP}}}', "9" * 100_000, "{", "", "NaN", "\0", "null"])
@pytest.mark.parametrize("mode", ASKED)
def test_an_answer_that_cannot_be_read_is_one_error(sandbox, mode, text):
    sandbox.output = text
    with pytest.raises(DeploymentError, match="it ended without a usable answer"):
        ASKED[mode]()


@pytest.mark.parametrize("alias", ["../../etc/cron.d/x", "", ".", "a/b", "a\n"])
def test_a_database_whose_alias_is_a_path_is_refused(sandbox, alias):
    """The name of a backup's file begins with it, and root writes that."""
    databases = {alias: {"engine": "sqlite3", "name": "x"}}
    sandbox.output = json.dumps(
        {**STARTED, "databases": databases, "migrations": {alias: {"applied": [], "pending": []}}}
    )
    with pytest.raises(DeploymentError, match="it ended without a usable answer"):
        django_project_program.start(configured(), RELEASE, FACTS, [])


def test_a_command_of_the_project(sandbox):
    sandbox.output = "[X] 0001_initial\n"
    arguments = ["showmigrations", "--list"], "/root/admin", 60.0, ["hunter2"]
    assert django_project_program.manage(configured(), RELEASE, FACTS, *arguments) == "[X] 0001_initial\n"
    assert sandbox.argv == [f"{RELEASE}/virtualenv/bin/python", "manage.py", "showmigrations", "--list"]
    assert sandbox.options.pop("task").startswith("manage-")
    assert sandbox.options == {
        "doing": "manage.py showmigrations",
        "timeout": 60.0,
        "secrets": ["hunter2"],
        "environment_file": "/root/admin",
        "errors_too": True,
    }
    django_project_program.manage(configured(), RELEASE, FACTS, [], None, 60.0, [])
    assert sandbox.options["doing"] == "manage.py" and "environment_file" not in sandbox.options


# The program in the virtualenv

PROGRAM = ROOT / "django/files/django_formula_start.py"


@pytest.mark.parametrize(
    ("wsgi", "cause", "missing"),
    [
        ("def application(): pass\n", "ModuleNotFoundError: No module named 'django.conf'", ""),
        ("", "RuntimeError: wsgi has no application", ""),
        ("import settings\n", "KeyError: 'X' (settings.py:2)", "X"),
        ("import os\nos.environ['Y']\n", "KeyError: 'Y' (wsgi.py:2)", "Y"),
        ("{}['Z']\n", "KeyError: 'Z' (wsgi.py:1)", ""),
        ("raise ValueError('Set the A_B environment variable')\n", None, "A_B"),
        ("raise ValueError('A_B not found. Declare it as envvar or define a default value.')\n", None, "A_B"),
        ("raise ValueError('Environment variable \"A_B\" not set')\n", None, "A_B"),
        ("raise ValueError('The environment variable A_B is required')\n", None, "A_B"),
        ("raise ValueError('A_B is wrong in this environment')\n", None, ""),
        ("def broken(:\n", "SyntaxError: invalid syntax (wsgi.py:1)", ""),
        ("raise SystemExit('not today')\n", "SystemExit: not today (wsgi.py:1)", ""),
        ("raise ValueError('x' * 500 + '\\n  y')\n", f"ValueError: {'x' * 400} (wsgi.py:1)", ""),
        ("print('noise')\nimport nowhere\n", "ModuleNotFoundError: No module named 'nowhere' (wsgi.py:2)", ""),
    ],
)
def test_the_program_says_why_a_project_does_not_start(tmp_path, wsgi, cause, missing):
    (tmp_path / "wsgi.py").write_text(wsgi)
    (tmp_path / "settings.py").write_text("import os\nos.environ['X']\n")
    (tmp_path / "config").mkdir()
    (tmp_path / "config" / PROGRAM.name).write_text(PROGRAM.read_text())
    (tmp_path / "django").mkdir()
    (tmp_path / "django/__init__.py").write_text("")
    request = json.dumps({"mode": "start", "application": "wsgi", "collect": False})
    argv = [sys.executable, f"config/{PROGRAM.name}"]
    environment = {"PYTHONPATH": str(tmp_path)}
    done = subprocess.run(
        argv, cwd=tmp_path, env=environment, input=request, capture_output=True, text=True, check=False
    )
    assert done.returncode == 1 and done.stdout == ""
    *_log, told_missing, told_cause = done.stderr.splitlines()
    assert told_missing == f"missing: {missing}" and (cause is None or told_cause == f"cause: {cause}")


def test_the_program_answers_on_what_was_its_output(tmp_path):
    """What the project prints does not come between."""
    noisy = '"start": lambda request: print("noise") or {"a": request["b"]},'
    (tmp_path / "program.py").write_text(PROGRAM.read_text().replace('"start": start,', noisy))
    argv = [sys.executable, "program.py"]
    done = subprocess.run(
        argv, cwd=tmp_path, input='{"mode": "start", "b": 2}', capture_output=True, text=True, check=False
    )
    assert (done.returncode, json.loads(done.stdout)) == (0, {"a": 2})
    assert "noise" in done.stderr


@pytest.fixture
def program():
    """The program that runs in the virtualenv, as a module."""
    spec = importlib.util.spec_from_file_location("started", PROGRAM)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.mark.parametrize(
    ("found", "of_deployment", "mode", "expected"),
    [
        ([("a.E1", 40)], [], "error", "1 of Django's checks fail: a.E1"),
        ([("a.W1", 30), ("a.I1", 20)], [("b.W1", 30)], "error", ["a.W1: x", "b.W1: x"]),
        ([], [("b.E1", 40)], "error", ["b.E1: x"]),
        ([], [("b.E1", 40)], "deploy", "1 of Django's checks fail: b.E1"),
        ([("a.W1", 30)], [("b.W1", 30)], "deploy", "2 of Django's checks fail: a.W1, b.W1"),
        ([("quiet", 40)], [("security.W004", 30)], "deploy", []),
    ],
)
def test_which_checks_stop_a_release(program, monkeypatch, found, of_deployment, mode, expected):
    def messages(said):
        return [
            SimpleNamespace(id=name, level=level, msg="x", is_silenced=lambda name=name: name == "quiet")
            for name, level in said
        ]

    registry = SimpleNamespace(deployment_checks={lambda **_options: messages(of_deployment)})
    framework = SimpleNamespace(
        WARNING=30, ERROR=40, run_checks=lambda: messages(found), registry=SimpleNamespace(registry=registry)
    )
    monkeypatch.setitem(sys.modules, "django.core", SimpleNamespace(checks=framework))
    request = {"check": mode, "ignored_checks": ["security.W004"]}
    if isinstance(expected, list):
        assert program.checks(request) == expected
    else:
        with pytest.raises(RuntimeError, match=f"^{expected}$"):
            program.checks(request)


@pytest.mark.parametrize(
    ("more", "expected"),
    [
        ({}, 1209600),
        ({"PASSWORD_RESET_TIMEOUT": 259200, "CSRF_COOKIE_AGE": 31449600, "LANGUAGE_COOKIE_AGE": None}, 1209600),
        ({"PASSWORD_RESET_TIMEOUT": 9e6}, 9e6),
        ({"PASSWORD_RESET_TIMEOUT_DAYS": 20}, 1728000),
        ({"SHOP_COOKIE_AGE": datetime.timedelta(days=30)}, 2592000),
        ({"ACCOUNT_SESSION_REMEMBER_ME_AGE": "a year"}, 1209600),
    ],
)
def test_how_long_what_is_signed_is_taken(program, more, expected):
    assert program.longest_age(SimpleNamespace(SESSION_COOKIE_AGE=1209600, **more)) == expected


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        ({"timeout": 20, "connect_timeout": "5"}, {"['timeout']": 20}),
        ({"options": "-c search_path=blog"}, {}),
        ({"options": "-c statement_timeout=90s"}, {"['options']: statement_timeout": 90}),
        ({"options": "-cstatement_timeout=1min --statement-timeout=2500"}, {"['options']: statement_timeout": 2.5}),
        ({"options": None}, {}),
    ],
)
def test_how_long_a_database_is_waited_for(program, options, expected):
    found = dict(program.timeouts({"default": {"OPTIONS": options}}))
    assert found == {f"DATABASES['default']['OPTIONS']{name}": seconds for name, seconds in expected.items()}


@pytest.mark.parametrize(
    ("settings", "expected"),
    [
        ({}, (False, None, None)),
        (
            {"SECURE_SSL_REDIRECT": True, "MIDDLEWARE": ["a.B"], "DATA_UPLOAD_MAX_MEMORY_SIZE": 2621440},
            (False, None, None),
        ),
        (
            {
                "SECURE_SSL_REDIRECT": True,
                "SECURE_PROXY_SSL_HEADER": ("HTTP_X_SCHEME", "https"),
                "MIDDLEWARE": ["django.middleware.security.SecurityMiddleware"],
                "DATA_UPLOAD_MAX_MEMORY_SIZE": 1 << 30,
            },
            (True, "HTTP_X_SCHEME", 1 << 30),
        ),
    ],
)
def test_what_a_project_says_of_https_and_of_sizes(program, settings, expected):
    settings = SimpleNamespace(**settings)
    assert (*program.https(settings).values(), program.largest_body(settings)) == expected


@pytest.mark.parametrize(
    ("named", "environment", "found"),
    [
        ("own.settings", "own.settings", "own.settings"),
        ("overlay", "overlay", "overlay"),
        (["settings.py", "settings.toml"], "overlay", "overlay"),  # as dynaconf leaves it
        (["settings.py", "settings.toml"], "own.settings", "own.settings"),
    ],
)
def test_which_settings_module_the_project_ends_with(program, monkeypatch, named, environment, found):
    monkeypatch.setattr(program, "SETTINGS_MODULE", "overlay")
    monkeypatch.setenv("DJANGO_SETTINGS_MODULE", environment)
    monkeypatch.setitem(sys.modules, "django", SimpleNamespace(get_version=lambda: "5.2", VERSION=(5, 2)))
    plain = dict.fromkeys(("STATIC_URL", "STATIC_ROOT", "MEDIA_URL", "MEDIA_ROOT"), "") | {"SESSION_COOKIE_AGE": 60}
    settings = SimpleNamespace(SETTINGS_MODULE=named, DEBUG=False, ALLOWED_HOSTS=[], DATABASES={}, **plain)
    answer = program.effective(settings)
    assert (answer["settings_module"], answer["expected_settings_module"]) == (found, "overlay")
