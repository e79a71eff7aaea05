"""A command of a project where there is no systemd: a process of root's is its parent, and ends all that it leaves."""

import os
from pathlib import Path

import django_host_command
import django_host_environment
import django_host_user
import django_process_command
import django_wall_reaper
from django_process_command import ProjectCommand


def run(command: ProjectCommand) -> str:
    """Run a command of a project and return its output; there is no sandbox: it may write what its user may.

    A process of root's is its parent, which ends all processes that it leaves behind, and also where the deployment is
    killed; until then that parent holds the site's lock, so that no other command runs at the same time.

    Raises:
        DeploymentError: the command fails or times out.
    """
    site, release = command.site, command.release
    if django_process_command.has_container(release):
        return _run_in_container(command)
    user = django_host_user.find_user(site.user)
    paths = [release / "config/environment", site.secrets / "environment"]
    paths += [Path(command.environment_file)] if command.environment_file else []
    variables = {"HOME": user.pw_dir if user else "/nonexistent", "USER": site.user, "LOGNAME": site.user}
    for path in paths:
        variables |= django_host_environment.read_environment(path.read_text())
    group = user.pw_gid if user else django_host_user.group_id(site.user)
    groups = os.getgrouplist(site.user, group) if user else []
    folder = str(site.project_folder(release, command.facts))
    return django_host_command.run(
        django_wall_reaper.command(command.argv, django_host_user.user_id(site.user), group, groups, folder),
        environment=variables,
        umask=0o027,
        descriptors=django_host_command.locks,
        grace=django_wall_reaper.PATIENCE,
        **command.options(),
    )


def _run_in_container(command: ProjectCommand) -> str:
    """Run a command of a project in a container, which is ended however the command ends, and return its output.

    Raises:
        DeploymentError: the command fails or times out.
    """
    import django_process_container  # a program of a timer has only what its site uses

    name = f"django-{command.site.name}-{command.task}"
    with django_process_container.ending(command, name) as argv:
        return django_host_command.run(argv, environment=django_process_container.QUIET, **command.options())
