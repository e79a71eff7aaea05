"""Celery (https://docs.celeryq.dev): a worker of the project's Celery app."""

from django_formula.worker.contract import Worker


class Celery(Worker):
    """A Celery worker, which parks tasks whose name its release does not know."""

    KIND = "celery"
    PROGRAM = "django_formula_celery.py"


WORKER = Celery()
