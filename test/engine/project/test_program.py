"""Programs of the formula in a virtualenv: their requests, answers and errors."""

import json
from pathlib import Path

import pytest
from django_formula.host.commands import DeploymentError
from django_formula.project import program
from django_formula.untrusted import shapes
from specimen import FACTS, configured

RELEASE = Path("/srv/django/blog/releases/0042-3f2a9c1b77de")


#: The least that the start of a project answers.
STARTED = {
    **dict.fromkeys(("django", "settings_module", "static_url", "static_root", "media_url", "media_root"), "x"),
    "expected_settings_module": "x",
    "debug": False,
    "allowed_hosts": ["blog.example.org"],
    "databases": {"default": {"engine": "postgresql", "name": "blog"}},
    "migrations": {"default": {"applied": ["blog.0001"], "pending": []}},
}
DEEP = "[" * 100_000 + "]" * 100_000


def test_start_sends_a_request_and_returns_the_answer(project_commands):
    project_commands.output = json.dumps({**STARTED, "folder": "/etc"})
    databases = {"default": {}, "replica": {"migrate": False}}
    site = configured(
        timeouts={"start": "10s"},
        static={"collect": False},
        check="deploy",
        databases=databases,
        silenced_checks=["models.W042"],
    )
    assert program.start(site, RELEASE, FACTS, ["hunter2"]) == STARTED
    assert project_commands.argv == [f"{RELEASE}/virtualenv/bin/python", f"{RELEASE}/config/django_formula_start.py"]
    request = json.loads(project_commands.options.pop("stdin"))
    assert request == {
        "mode": "start",
        "application": "blog.wsgi",
        "collect": False,
        "static_root": f"{RELEASE}/static",
        "push": False,
        "check": "deploy",
        "ignored_checks": [*program.NOT_WITHOUT_TLS, "models.W042"],
        "migrate": {"default": True, "replica": False},
        "write_ahead": False,
    }
    expected = {"doing": "starting Django", "timeout": 10.0, "secrets": ["hunter2"], "writable": [RELEASE / "static"]}
    assert project_commands.options == expected


def test_migrate_sends_its_time_limits(project_commands):
    site = configured(migrate={"timeout": "2h"})
    facts = FACTS | {"migrations": {"default": {}, "log": {}}}
    answer = {"migrations": {"default": {"applied": ["a.1"], "pending": []}}, "checks": [], "migrated": {}}
    project_commands.output = json.dumps(answer)
    assert program.migrate(site, RELEASE, facts, []) == answer
    request = json.loads(project_commands.options.pop("stdin"))
    assert (request["mode"], request["databases"]) == ("migrate", ["default", "log"])
    assert (request["timeout"], request["lock_timeout"]) == (7195.0, 5.0)
    assert project_commands.argv[1].endswith("config/django_formula_migrate.py")
    assert project_commands.options == {"doing": "migrating the database", "timeout": 7200.0, "secrets": []}


@pytest.mark.parametrize(
    ("report", "message", "kind"),
    [
        (
            "migration: blog.0002\napplied: blog.0001",
            "blog.0002: it fails (applied before it: blog.0001)",
            "PartlyMigrated",
        ),
        (
            f"migration: blog.0012\napplied: {', '.join(f'blog.{number:04}' for number in range(1, 12))}",
            "blog.0012: it fails (applied before it: 11 migrations)",
            "PartlyMigrated",
        ),
        ("migration: blog.0002\napplied: ", "blog.0002: it fails", "ProjectError"),
        ("migration: blog.0002\napplied: \nblocked: yes", "blog.0002: it fails", "ProjectError"),
    ],
)
def test_failed_migration_is_named_with_those_applied_before_it(project_commands, report, message, kind):
    project_commands.error = DeploymentError("exit 1", log=f"Traceback\n{report}\nmissing: \ncause: it fails")
    with pytest.raises(DeploymentError) as error:
        program.migrate(configured(), RELEASE, FACTS, [])
    assert error.value.message == f"migrating the database: {message}" and type(error.value).__name__ == kind
    blocked = "blocked" in report
    assert error.value.transient == blocked == ("lock_timeout" in error.value.hint)
    assert error.value.log == ("" if blocked else "Traceback")


@pytest.mark.parametrize(
    ("cause", "hint"),
    [
        (
            'ProgrammingError: column "note" of relation "blog_post" already exists',
            "migrations before blog.0002 have added blog.Post.note too, so that no empty database can be migrated: "
            "correct them in the project",
        ),
        ("RuntimeError: it does not balance", ""),
    ],
)
def test_migrations_that_add_the_same_are_to_be_corrected(project_commands, cause, hint):
    """The second is by SQL, or by a change of the key: only a database that was empty shows it."""
    for applied, is_known in (("contenttypes.0001_initial, blog.0001", True), ("blog.0001", False)):
        log = f"Traceback\nmigration: blog.0002\napplied: {applied}\ncause: {cause}"
        project_commands.error = DeploymentError("exit 1", log=log)
        with pytest.raises(DeploymentError) as error:
            program.migrate(configured(), RELEASE, FACTS, [])
        assert error.value.hint == (hint.replace("blog.Post.note", "it") if is_known else "")
    log = f"Traceback\nmigration: blog.0002\napplied: blog.0001\nrepeated: blog.Post.note\ncause: {cause}"
    project_commands.error = DeploymentError("exit 1", log=log)
    with pytest.raises(DeploymentError) as error:
        program.migrate(configured(), RELEASE, FACTS, [])
    assert (error.value.hint, error.value.log) == (hint, "Traceback")


@pytest.mark.parametrize("transient", [True, False])
def test_exception_of_the_project_is_the_cause(project_commands, transient):
    log = "Traceback (most recent call last):\n  File x\nKeyError: 'X'\ncause: KeyError: 'X' (blog/settings.py:5)\n"
    project_commands.error = DeploymentError("starting Django failed (exit 1)", log=log, hint="", transient=transient)
    with pytest.raises(DeploymentError) as error:
        program.start(configured(), RELEASE, FACTS, [])
    assert error.value.message == "starting Django: KeyError: 'X' (blog/settings.py:5)"
    assert error.value.log == "Traceback (most recent call last):\n  File x\nKeyError: 'X'"
    assert error.value.transient is transient


def test_missing_variable_is_named_in_the_hint(project_commands):
    log = "KeyError: 'TOKEN'\nmissing: TOKEN\ncause: KeyError: 'TOKEN' (blog/settings.py:5)\n"
    project_commands.error = DeploymentError("starting Django failed (exit 1)", log=log)
    with pytest.raises(DeploymentError) as error:
        program.start(configured(), RELEASE, FACTS, [])
    assert error.value.hint == "set django:sites:blog:environment:TOKEN, or django:sites:blog:secrets:TOKEN"
    assert error.value.log == "KeyError: 'TOKEN'"


@pytest.mark.parametrize(
    ("options", "module"),
    [
        ({"settings_module": "blog.production"}, "blog.production"),
        ({"settings_module": "web.production"}, "web"),
        ({"wsgi": "web.wsgi"}, "web"),
    ],
)
def test_module_that_the_pillar_names_is_corrected_there(project_commands, options, module):
    log = f"cause: ModuleNotFoundError: No module named '{module}' (blog/wsgi.py:7)\n"
    project_commands.error = DeploymentError("starting Django failed (exit 1)", log=log)
    with pytest.raises(DeploymentError) as error:
        program.start(configured(**options), RELEASE, FACTS, [])
    (key,) = options
    assert error.value.hint == f"correct django:sites:blog:{key}: the source has no such module"


def test_known_cause_has_its_cure_and_is_not_tried_again(project_commands):
    """A read-only file system may be the disk's, which may recover; in the release it is the pillar's matter."""
    path = "/srv/django/blog/releases/0042-3f2a9c1b77de/source/logs/tock.log"
    exception = f"OSError: [Errno 30] Read-only file system: '{path}' (blog/settings.py:5)"
    log = f"cause: ValueError: Unable to configure handler 'file', caused by {exception}\n"
    project_commands.error = DeploymentError("starting Django failed (exit 1)", log=log, transient=True)
    with pytest.raises(DeploymentError) as error:
        program.start(configured(), RELEASE, FACTS, [])
    assert error.value.message == (
        f"starting Django: ValueError: Unable to configure handler 'file', caused by {exception}"
    )
    assert error.value.hint == (
        "the release is read-only: set django:sites:blog:writable: [logs], or, for files that outlive a release, "
        "django:sites:blog:shared: [logs]"
    )
    assert error.value.transient is False
    project_commands.error = DeploymentError("starting Django failed (exit 1)", log=log.replace("/srv", "/mnt"))
    project_commands.error.transient = True
    with pytest.raises(DeploymentError) as error:
        program.start(configured(), RELEASE, FACTS, [])
    assert error.value.transient is False and "ReadWritePaths: [" in error.value.hint


@pytest.mark.parametrize(
    ("module", "hint"),
    [
        ("shop", "the module is in the source: set django:sites:blog:python_path: [apps]"),
        ("shop.views", "the module is in the source: set django:sites:blog:python_path: [apps]"),
        ("shop.models", ""),
        (
            "celery",
            "no package that is installed has the module celery: set django:sites:blog:python_packages: [celery]",
        ),
        (
            "shops",
            "no package that is installed has the module shops: add the one that has it to "
            "django:sites:blog:python_packages",
        ),
    ],
)
def test_missing_module_that_is_in_the_source_is_named_in_the_hint(project_commands, tmp_path, module, hint):
    (tmp_path / "source/apps/shop").mkdir(parents=True)
    for name in ("__init__", "views", "celery"):
        (tmp_path / f"source/apps/shop/{name}.py").touch()
    log = f"cause: ModuleNotFoundError: No module named '{module}' (blog/settings.py:5)\n"
    project_commands.error = DeploymentError("starting Django failed (exit 1)", log=log)
    with pytest.raises(DeploymentError) as error:
        program.start(configured(), tmp_path, FACTS, [])
    assert error.value.hint == hint


@pytest.mark.parametrize(
    ("module", "file", "hint"),
    [
        ("models", "sec/query.py", "the module is in the source: set django:sites:blog:python_path: [sec]"),
        (
            "celery",
            "sec/tasks.py",
            "no package that is installed has the module celery: set django:sites:blog:python_packages: [celery]",
        ),
        (
            "feeder",
            "sec/feeder.py",
            "no package that is installed has the module feeder: add the one that has it to "
            "django:sites:blog:python_packages",
        ),
    ],
)
def test_missing_module_next_to_the_one_that_imports_it_is_named_in_the_hint(
    project_commands, tmp_path, module, file, hint
):
    for folder in ("news", "sec"):
        (tmp_path / "source" / folder).mkdir(parents=True)
        for name in ("__init__", "models", "celery", "feeder"):
            (tmp_path / f"source/{folder}/{name}.py").touch()
    log = f"cause: ModuleNotFoundError: No module named '{module}' ({file}:9)\n"
    project_commands.error = DeploymentError("starting Django failed (exit 1)", log=log)
    with pytest.raises(DeploymentError) as error:
        program.start(configured(), tmp_path, FACTS, [])
    assert error.value.hint == hint


def test_program_that_takes_too_long_names_the_option_for_it(project_commands):
    project_commands.error = DeploymentError("starting Django: timed out after 300 s", transient=True)
    with pytest.raises(DeploymentError) as error:
        program.start(configured(), RELEASE, FACTS, [])
    assert error.value.hint == "give it more time: set django:sites:blog:timeouts:start to a longer one"
    project_commands.error = DeploymentError("migrating the database: timed out after 1800 s", transient=True)
    with pytest.raises(DeploymentError) as error:
        program.migrate(configured(), RELEASE, FACTS, [])
    assert error.value.hint == "give it more time: set django:sites:blog:migrate:timeout to a longer one"


def test_program_without_a_cause_keeps_its_log(project_commands):
    project_commands.error = DeploymentError(
        "starting Django failed (exit 217)", log="Failed to set up user namespacing"
    )
    with pytest.raises(DeploymentError, match="starting Django: starting Django failed") as error:
        program.start(configured(), RELEASE, FACTS, [])
    assert error.value.log == "Failed to set up user namespacing"
    project_commands.error, project_commands.output = None, "Segmentation fault"
    with pytest.raises(DeploymentError, match="starting Django: it ended without a usable answer") as error:
        program.start(configured(), RELEASE, FACTS, [])
    assert error.value.log == "Segmentation fault"


@pytest.mark.parametrize("value", [None, 7, -1, True, "text", [], ["x"], {}, {"x": 1}, [[]], "\0", "\ud800", 1e400])
def test_answer_of_wrong_types_is_refused(project_commands, value):
    """A hostile project may replace any part of it: the answer is usable, or there is one error."""
    for key in STARTED:
        project_commands.output = json.dumps({**STARTED, key: value})
        _start_or_fail()
    for text in (json.dumps(value), json.dumps([value]), f'{{"migrations": {json.dumps(value)}}}'):
        project_commands.output = text
        for request in REQUESTS.values():
            with pytest.raises(DeploymentError, match="it ended without a usable answer"):
                request()


def _start_or_fail():
    try:
        answer = program.start(configured(), RELEASE, FACTS, [])
    except DeploymentError as error:
        assert error.message == "starting Django: it ended without a usable answer"
    else:
        assert all(shapes.fits(answer[key], shapes.START[key]) for key in STARTED)


REQUESTS = {
    "start": lambda: program.start(configured(), RELEASE, FACTS, []),
    "migrate": lambda: program.migrate(configured(), RELEASE, FACTS, []),
    "reverse": lambda: program.reverse(configured(), RELEASE, FACTS, {"default": []}, []),
    "classify": lambda: program.classify(configured(), RELEASE, FACTS, {"default": []}, {}, []),
    "check": lambda: program.check(configured(), RELEASE, FACTS, []),
    "connections": lambda: _backup({"mode": "connections", "aliases": ["default"]}),
    "fit": lambda: _backup({"mode": "fit", "names": {"default": "blog"}, "migrate": False}),
}


def _backup(request):
    site = configured()
    return program.backup(site, RELEASE, FACTS, request, [])


@pytest.mark.parametrize("text", [DEEP, f'{{"migrations": {DEEP}}}', "9" * 100_000, "{", "", "NaN", "\0", "null"])
@pytest.mark.parametrize("mode", REQUESTS)
def test_unreadable_answer_is_refused(project_commands, mode, text):
    project_commands.output = text
    with pytest.raises(DeploymentError, match="it ended without a usable answer"):
        REQUESTS[mode]()


@pytest.mark.parametrize("alias", ["../../etc/cron.d/x", "", ".", "a/b", "a\n"])
def test_database_alias_that_is_a_path_is_refused(project_commands, alias):
    """The alias is the first part of the name of a backup's file, which root writes."""
    databases = {alias: {"engine": "sqlite3", "name": "x"}}
    project_commands.output = json.dumps(
        {**STARTED, "databases": databases, "migrations": {alias: {"applied": [], "pending": []}}}
    )
    with pytest.raises(DeploymentError, match="it ended without a usable answer"):
        program.start(configured(), RELEASE, FACTS, [])
