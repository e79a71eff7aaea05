"""A command of a project in a container, whichever process manager runs it."""

from collections.abc import Sequence

import django_container
import django_container_unit
from django_container import Container
from django_host_command import DeploymentError
from django_process import ProjectCommand


def confined(command: ProjectCommand, container: Container, name: str) -> tuple[list[tuple[str, str]], Sequence[str]]:
    """Return the properties of the transient unit of a command, and the arguments that run it in a container.

    Args:
        name: the name of the container.

    Raises:
        DeploymentError: it has variables in a file of its own.
    """
    site, release = command.site, command.release
    if command.environment_file:
        raise DeploymentError(
            f"{command.doing}: environment_file is not supported for a site in containers",
            hint=f"set the variables in django:sites:{site.name}:environment",
        )
    inside = django_container.of_project(site, release, command.facts, container, name, command.writable)
    inside = django_container.with_files(site, release, inside, command.argv)
    return django_container_unit.of_command(container, inside, command.argv)
