"""The verb `superuser`: the first account of a project that has users."""

import re
import secrets as secrets_module
from collections.abc import Sequence

from django_formula.host import environment_files
from django_formula.host import file as host_file
from django_formula.host.commands import DeploymentError
from django_formula.site import sites
from django_formula.verbs import attempt, operations

#: Creates a superuser by Django's own command, where the project has another one of that name.
_DJANGOS_OWN = (
    "from django.core.management import call_command, get_commands; "
    "from django.contrib.auth.management.commands.createsuperuser import Command; "
    "assert get_commands()['createsuperuser'] != 'django.contrib.auth'; "
    "call_command(Command(), interactive=False)"
)


def create(name: str, username: str, email: str, command: Sequence[str] = ()) -> dict[str, str]:
    """Create a superuser with a generated password, which is written to a file that only root can read.

    The file is the environment of the command that creates the user; it is renamed once the user exists.

    Args:
        command: the management command that creates the user, by default createsuperuser. Where that one is the
            project's own and fails, Django's own creates the user.

    Raises:
        DeploymentError: there is such a user already, no active release, or the project has no users.
    """
    site = sites.find(name)
    if not re.fullmatch(r"[A-Za-z0-9_.@+-]+", username) or not re.fullmatch(r"[A-Za-z0-9_.@+-]*", email):
        raise DeploymentError("a username and an e-mail address may contain only letters, digits and @ . + - _")
    file = site.secrets / f"superuser-{username}"
    if file.exists():
        raise DeploymentError(f"{username} has been created before; the password was written to {file}")
    attempt.live(site)
    password = secrets_module.token_urlsafe(15)
    values = {"USERNAME": username, "EMAIL": email, "PASSWORD": password}
    variables = {f"DJANGO_SUPERUSER_{key}": value for key, value in values.items()}
    new = file.with_name(f".{file.name}")
    host_file.write(new, environment_files.environment_file(variables), mode=0o600)
    try:
        created_by = _create_superuser(name, command, str(new))
    except DeploymentError:
        new.unlink()
        raise
    new.replace(file)
    return {"username": username, "password_file": str(file), **created_by}


def _create_superuser(name: str, command: Sequence[str], environment_file: str) -> dict[str, str]:
    """Run the command that creates a superuser; return what created it, if not that command."""
    try:
        operations.manage(name, command or ["createsuperuser", "--noinput"], environment_file, timeout=300)
    except DeploymentError as error:
        if not error.message.startswith("manage.py"):
            raise
        error.hint = error.hint or (
            f"if the command requires more, give all of it: django.superuser {name} command='createsuperuser --noinput "
            "--first_name Ada'; DJANGO_SUPERUSER_USERNAME, _EMAIL and _PASSWORD are in its environment"
        )
        if command or not _is_created_by_django(name, environment_file):
            raise
        return {"created_by": "Django's own createsuperuser, since the project's failed"}
    return {}


def _is_created_by_django(name: str, environment_file: str) -> bool:
    """Run Django's own command, if the project's is another one; return whether it created the user."""
    try:
        operations.manage(name, ["shell", "-c", _DJANGOS_OWN], environment_file, timeout=300)
    except DeploymentError:
        return False
    return True
