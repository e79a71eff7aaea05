"""A program of the project that runs until it is stopped, such as a management command."""

from django_worker_contract import Worker


class Command(Worker):
    """A command of the pillar; the new one starts when the former one has been told to stop."""

    KIND = "command"
    PROGRAM = "django_formula_command.py"


WORKER = Command()
