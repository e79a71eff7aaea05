"""A command of a project in a container, whichever process manager runs it."""

import contextlib
import dataclasses
from collections.abc import Iterator, Sequence
from pathlib import Path

from django_formula.container import containers, unit
from django_formula.container.containers import Container
from django_formula.container.engine import QUIET as QUIET
from django_formula.host import environment_files, file
from django_formula.host.commands import DeploymentError
from django_formula.process.command import ProjectCommand
from django_formula.site import sites


@contextlib.contextmanager
def confining(command: ProjectCommand, name: str) -> Iterator[tuple[list[tuple[str, str]], Sequence[str]]]:
    """Yield the properties of the transient unit of a command in a container of a name, and its arguments.

    Raises:
        DeploymentError: the container of the release is unknown.
    """
    container = containers.of_release(command.release)
    if not container:
        raise DeploymentError(f"{command.doing}: {command.release.name} does not record the container that it runs in")
    try:
        yield confined(command, container, name)
    finally:
        forget(name)


@contextlib.contextmanager
def ending(command: ProjectCommand, name: str) -> Iterator[Sequence[str]]:
    """Yield the arguments that run a command in a container of a name, which is ended however the command ends.

    Raises:
        DeploymentError: the container of the release is unknown, or does not end.
    """
    with confining(command, name) as (_properties, argv):
        container = containers.of_release(command.release)
        assert container is not None  # noqa: S101 - `confining` has refused that
        container.engine.end(name)
        try:
            yield argv
        finally:
            container.engine.end(name)


def is_active(release: Path, name: str) -> bool:
    """Return whether a container of a name runs, by the engine of a release."""
    container = containers.of_release(release)
    return container is not None and container.engine.pid(name) is not None


def confined(command: ProjectCommand, container: Container, name: str) -> tuple[list[tuple[str, str]], Sequence[str]]:
    """Return the properties of the transient unit of a command, and the arguments that run it in a container.

    Args:
        name: the name of the container. Its own variables are in a file until `forget`, since the site's user reads
            them there.
    """
    site, release = command.site, command.release
    inside = containers.of_project(site, release, command.facts, container, name, command.writable)
    inside = containers.with_files(site, release, inside, command.argv)
    if command.environment_file:
        own = _variables(name)
        values = environment_files.read_environment(Path(command.environment_file).read_text())
        text = environment_files.environment_file(values)
        file.write(own, text, mode=0o640, group=site.user, durable=False)
        inside = dataclasses.replace(inside, variables=[*inside.variables, str(own)])
    return unit.of_command(container, inside, command.argv)


def forget(name: str) -> None:
    """Remove the variables of a command that has ended.

    Args:
        name: the name of its container.
    """
    _variables(name).unlink(missing_ok=True)


def _variables(name: str) -> Path:
    return sites.RUNTIME / f"{name}.environment"
