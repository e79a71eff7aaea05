"""What runs a command of a project: the process manager of its release, without all else that one does.

A program of a timer has only what its site uses, so that each is imported where it is needed.
"""

from pathlib import Path

import django_process_command
from django_process_command import ProjectCommand
from django_site import Site


def run(command: ProjectCommand) -> str:
    """Run a command of a project in a release that has been started, and return its output.

    Raises:
        DeploymentError: the command fails or times out.
    """
    if _manager(command.site, command.release) == "supervisor":
        import django_process_reaped

        return django_process_reaped.run(command)
    import django_process_transient

    return django_process_transient.run(command)


def is_active(site: Site, release: Path, task: str) -> bool:
    """Return whether a command of a name runs in a release whose starter was killed."""
    if _manager(site, release) == "systemd":
        import django_process_transient

        return django_process_transient.is_active(f"django-{site.name}-{task}.service")
    if not django_process_command.has_container(release):
        return False  # the process that runs it ends it
    import django_process_container

    return django_process_container.is_active(release, f"django-{site.name}-{task}")


def _manager(site: Site, release: Path) -> str:
    """Return the process manager of a release by its name in the pillar."""
    name: str = (django_process_command.recorded(release) or {}).get("process", site.process)
    return name
