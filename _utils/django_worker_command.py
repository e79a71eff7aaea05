"""A program of the project that runs until it is stopped, such as a management command."""

from django_worker_contract import Worker


class Command(Worker):
    """A command of the pillar; its program starts it while it may take tasks, and stops it when it may not any more."""

    KIND = "command"
    PROGRAM = "django_formula_command.py"


WORKER = Command()
