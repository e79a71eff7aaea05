"""What runs a command of a project: the process manager of its release, without all else that one does.

A program of a timer has only what its site uses, so that each is imported where it is needed.
"""

from pathlib import Path

from django_formula.process import command as process_command
from django_formula.process.command import ProjectCommand
from django_formula.site.sites import Site


def run_command(command: ProjectCommand) -> str:
    """Run a command of a project in a release that has been started, and return its output.

    Raises:
        DeploymentError: the command fails or times out.
    """
    if _manager(command.site, command.release) == "supervisor":
        from django_formula.process import reaped

        return reaped.run_command(command)
    from django_formula.process import transient

    return transient.run_command(command)


def is_active(site: Site, release: Path, task: str) -> bool:
    """Return whether a command of a name runs in a release whose starter was killed."""
    if _manager(site, release) == "systemd":
        from django_formula.process import transient

        return transient.is_active(f"django-{site.name}-{task}.service")
    if not process_command.has_container(release):
        return False  # the process that runs it ends it
    from django_formula.process import container

    return container.is_active(release, f"django-{site.name}-{task}")


def _manager(site: Site, release: Path) -> str:
    """Return the process manager of a release by its name in the pillar."""
    name: str = (process_command.recorded(release) or {}).get("process", site.process)
    return name
