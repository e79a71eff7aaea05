"""Commands of a project on the command line."""

import json
from pathlib import Path

import pytest
from django_formula.host.commands import DeploymentError
from django_formula.project import command
from specimen import FACTS, configured

RELEASE = Path("/srv/django/blog/releases/0042-3f2a9c1b77de")


def test_migrate_command_runs_under_the_lock(project_commands):
    site = configured(migrate={"timeout": "8s", "lock_timeout": "500ms"})
    command.manage(site, RELEASE, FACTS, ["migrate", "blog", "0002"], None, 60.0, [])
    program, request, *words = project_commands.argv[1:]
    assert program.endswith("config/django_formula_migrate.py") and words == ["migrate", "blog", "0002"]
    assert json.loads(request) == {"application": "blog.wsgi", "timeout": 6.0, "lock_timeout": 0.5}
    assert project_commands.options["doing"] == "manage.py migrate"


def test_migrate_command_refused_in_a_release_without_its_program(project_commands, tmp_path):
    with pytest.raises(DeploymentError, match="was created by an older version of the formula"):
        command.manage(configured(), tmp_path, FACTS, ["migrate"], None, 60.0, [])
    command.manage(configured(), tmp_path, FACTS, ["check"], None, 60.0, [])


def test_management_command_runs_with_the_environment_file(project_commands):
    project_commands.output = "[X] 0001_initial\n"
    arguments = ["showmigrations", "--list"], "/root/admin", 60.0, ["hunter2"]
    assert command.manage(configured(), RELEASE, FACTS, *arguments) == "[X] 0001_initial\n"
    assert project_commands.argv == [f"{RELEASE}/virtualenv/bin/python", "manage.py", "showmigrations", "--list"]
    assert project_commands.options.pop("task").startswith("manage-")
    assert project_commands.options == {
        "doing": "manage.py showmigrations",
        "timeout": 60.0,
        "secrets": ["hunter2"],
        "environment_file": "/root/admin",
        "errors_too": True,
    }
    command.manage(configured(), RELEASE, FACTS, [], None, 60.0, [])
    assert project_commands.options["doing"] == "manage.py" and "environment_file" not in project_commands.options


def test_management_commands_without_manage_py_are_run_by_django(project_commands, tmp_path):
    (tmp_path / "source").mkdir()
    command.manage(configured(), tmp_path, FACTS, ["check"], None, 60.0, [])
    assert project_commands.argv == [f"{tmp_path}/virtualenv/bin/python", "-m", "django", "check"]
    site = configured(commands={"after_static": ["manage.py compress --force"]})
    command.run_stage(site, tmp_path, FACTS, "after_static", [])
    assert project_commands.argv == ["/usr/bin/env", "python", "-m", "django", "compress", "--force"]
    (tmp_path / "source/manage.py").touch()
    command.run_stage(site, tmp_path, FACTS, "after_static", [])
    assert project_commands.argv == ["/usr/bin/env", "python", "manage.py", "compress", "--force"]


@pytest.mark.parametrize(
    ("log", "hint"),
    [
        (
            "/usr/bin/env: 'npm': No such file or directory",
            "the program npm is missing on this host: set django:sites:blog:packages: [npm]",
        ),
        ("it failed", "correct django:sites:blog:commands:after_static:0, or the command itself"),
    ],
)
def test_failed_command_has_the_cure_of_a_known_cause(project_commands, tmp_path, log, hint):
    site = configured(commands={"after_static": ["npm run build"]})
    project_commands.error = DeploymentError("npm run build failed (exit 127)", log=log)
    with pytest.raises(DeploymentError) as error:
        command.run_stage(site, tmp_path, FACTS, "after_static", [])
    assert (error.value.message, error.value.hint) == ("npm run build failed (exit 127)", hint)


def test_failed_management_command_has_the_cure_of_a_known_cause(project_commands):
    log = "CommandError: Can't find msgfmt. Make sure you have GNU gettext tools 0.15 or newer installed."
    project_commands.error = DeploymentError("manage.py compilemessages failed (exit 1)", log=log)
    with pytest.raises(DeploymentError) as error:
        command.manage(configured(), RELEASE, FACTS, ["compilemessages"], None, 60, [])
    hint = "the program msgfmt is missing on this host: set django:sites:blog:packages: [gettext]"
    assert (error.value.message, error.value.hint) == ("manage.py compilemessages failed (exit 1)", hint)
