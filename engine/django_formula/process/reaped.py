"""A command of a project where there is no systemd: a process of root's is its parent, and ends all that it leaves."""

import os
from pathlib import Path

from django_formula.host import commands, environment_files, users
from django_formula.process import command as process_command
from django_formula.process.command import ProjectCommand
from django_formula.untrusted import reaper


def run_command(command: ProjectCommand) -> str:
    """Run a command of a project and return its output; there is no sandbox: it may write what its user may.

    A process of root's is its parent, which ends all processes that it leaves behind, and also where the deployment is
    killed; until then that parent holds the site's lock, so that no other command runs at the same time.

    Raises:
        DeploymentError: the command fails or times out.
    """
    site, release = command.site, command.release
    if process_command.has_container(release):
        return _run_in_container(command)
    user = users.find_user(site.user)
    paths = [release / "config/environment", site.secrets / "environment"]
    paths += [Path(command.environment_file)] if command.environment_file else []
    variables = {"HOME": user.pw_dir if user else "/nonexistent", "USER": site.user, "LOGNAME": site.user}
    for path in paths:
        variables |= environment_files.read_environment(path.read_text())
    group = user.pw_gid if user else users.group_id(site.user)
    groups = os.getgrouplist(site.user, group) if user else []
    folder = str(site.project_folder(release, command.facts))
    return commands.run(
        reaper.command(command.argv, users.user_id(site.user), group, groups, folder),
        environment=variables,
        umask=0o027,
        descriptors=commands.locks,
        grace=reaper.PATIENCE,
        **command.options(),
    )


def _run_in_container(command: ProjectCommand) -> str:
    """Run a command of a project in a container, which is ended however the command ends, and return its output.

    Raises:
        DeploymentError: the command fails or times out.
    """
    from django_formula.process import container  # a program of a timer has only what its site uses

    name = f"django-{command.site.name}-{command.task}"
    with container.ending(command, name) as argv:
        return commands.run(argv, environment=container.QUIET, **command.options())
