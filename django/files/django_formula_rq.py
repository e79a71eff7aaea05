"""
Runs workers of RQ, which take jobs only while they may: processes that are forked once the project is loaded.

Each job runs in a process of its own, which RQ forks. On SIGTERM a worker finishes the job that it has in hand.
"""

import contextlib
import functools
import os
import sys
import time

import django
import django_formula_worker

try:
    from rq.exceptions import DequeueTimeout, StopRequested
except ImportError:  # RQ 1
    from rq.worker import DequeueTimeout, StopRequested

#: What ends a job whose process is killed, for which RQ has no exception.
KILLED = "WorkHorseKilled"


def waiting(base):
    """Return a class of RQ's workers that a signal does not interrupt between taking a job and running it."""

    class Waiting(base):
        def request_stop(self, signum, frame):
            self._stop_requested = True

        def execute_job(self, job, queue):
            name = name_of(job)
            with contextlib.suppress(OSError):  # a full /run: the job is taken already, and would be lost
                self.formula_report.write(False, active=1, reserved=0, done=self.formula_done, tasks=[name])
            super().execute_job(job, queue)
            self.formula_done += 1
            self.formula_outcomes.ended(name)

        def handle_job_failure(self, job, *arguments, **options):
            """Report what has ended a job: called in its process, or in the worker's where that was killed."""
            error = sys.exc_info()[0]
            is_stopped = job.id == getattr(self, "_stopped_job_id", None)
            if not is_stopped and not getattr(job, "retries_left", None):
                self.formula_outcomes.failed(name_of(job), error.__name__ if error else KILLED)
            return super().handle_job_failure(job, *arguments, **options)

    return Waiting


def name_of(job):
    """Return the name of a job's function, of a job that cannot be read too."""
    try:
        return str(job.func_name)
    except Exception:
        return "unknown"


def dequeuing(given, worker):
    """Return a class of the worker's queues from which a job is taken only while it may be."""

    class Queue(worker.queue_class):
        @classmethod
        def dequeue_any(cls, queues, timeout, *arguments, **options):
            end = time.monotonic() + (timeout or 0)
            while True:
                if worker._stop_requested:
                    raise StopRequested
                may_take = django_formula_worker.may_take(given)
                worker.formula_report.write(may_take, active=0, reserved=0, done=worker.formula_done)
                if may_take:
                    # None does not block, so that the worker looks again after 0.1 s.
                    found = super().dequeue_any(queues, None, *arguments, **options)
                    if found is not None:
                        return found
                if time.monotonic() >= end:
                    raise DequeueTimeout(timeout, [queue.name for queue in queues])
                time.sleep(django_formula_worker.LOOK)

    return Queue


def make(given):
    """Return a worker of the project's queues: as django-rq has them in its settings, else of a URL."""
    from django.conf import settings

    if "django_rq" in settings.INSTALLED_APPS:
        from django_rq.workers import get_worker, get_worker_class

        return get_worker(*given["queues"], worker_class=waiting(get_worker_class()))
    from redis import Redis
    from rq import Worker

    url = os.environ.get("RQ_REDIS_URL") or os.environ.get("REDIS_URL")
    if not url:
        raise RuntimeError("no Redis: INSTALLED_APPS lacks django_rq, and neither RQ_REDIS_URL nor REDIS_URL is set")
    return waiting(Worker)(given["queues"], connection=Redis.from_url(url))


def work(outcomes, given, number):
    """Take jobs in this process until a signal stops it."""
    worker = make(given)
    worker.formula_outcomes = outcomes
    worker.formula_report, worker.formula_done = django_formula_worker.Report(given, f"state-{number}"), 0
    worker.queue_class = dequeuing(given, worker)
    options = given["options"]
    worker.work(
        logging_level=options.get("logging_level") or "INFO",
        max_jobs=options.get("max_jobs"),
        with_scheduler=bool(options.get("with_scheduler")),
    )


def main():
    given = django_formula_worker.read()
    django.setup()
    make(given).connection.ping()
    from django.db import connections

    connections.close_all()
    report, stop = django_formula_worker.Report(given), django_formula_worker.Stop()
    outcomes = django_formula_worker.Outcomes()
    processes = django_formula_worker.Processes(given, functools.partial(work, outcomes))
    stop.install()
    processes.look()
    report.write(**processes.states(), outcomes=outcomes.found())
    report.ready()
    while not stop.requested or processes.running:
        processes.look(is_wanted=not stop.requested)
        report.write(**processes.states(), outcomes=outcomes.found())
        time.sleep(django_formula_worker.LOOK)


if __name__ == "__main__":
    main()
