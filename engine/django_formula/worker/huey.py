"""huey (https://huey.readthedocs.io): a consumer of the project's Huey instance."""

from django_formula.worker.contract import Worker


class Huey(Worker):
    """A consumer of huey."""

    KIND = "huey"
    PROGRAM = "django_formula_huey.py"


WORKER = Huey()
