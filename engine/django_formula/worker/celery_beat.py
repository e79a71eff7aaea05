"""Celery beat: the scheduler of the project's Celery app, one for each site."""

from django_formula.worker.contract import Worker


class CeleryBeat(Worker):
    """Celery beat, which begins when the beat of the release before it has ended."""

    KIND = "celery_beat"
    PROGRAM = "django_formula_celery_beat.py"


WORKER = CeleryBeat()
