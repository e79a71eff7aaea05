"""RQ (https://python-rq.org): workers of queues in Redis."""

from django_formula.worker.contract import Worker


class Rq(Worker):
    """Workers of RQ, each a process that forks for each job."""

    KIND = "rq"
    PROGRAM = "django_formula_rq.py"


WORKER = Rq()
