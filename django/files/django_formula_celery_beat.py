"""
Runs Celery beat, the scheduler of a Celery app: one at a time for a site, with one schedule that outlives releases.

It loads the project and reports that it is ready. It begins when its release is active and the beat of the release
before has ended: two at once would send each task twice, and a schedule that began anew would forget what is due.
"""

import fcntl
import os
import time

import django
import django_formula_celery_app
import django_formula_worker
from celery.beat import PersistentScheduler, Service

#: Seconds by which a clock is set back; what was sent later than that from now was sent while it was wrong.
SET_BACK = 3600


class Beat:
    """The scheduler while it runs: the lock of the site's schedule, and when the next tick is."""

    def __init__(self, given, app):
        self.given, self.app = given, app
        self.lock, self.scheduler, self.next = None, None, 0.0

    def begin(self):
        """Take the lock and read the schedule; return whether no other beat of the site has it."""
        lock = os.open(os.path.join(self.given["beat"], "lock"), os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            os.close(lock)
            return False
        self.lock = lock
        options = self.given["options"]
        self.scheduler = Service(
            self.app,
            max_interval=options.get("max_interval"),
            schedule_filename=os.path.join(self.given["beat"], "schedule"),
            scheduler_cls=options.get("scheduler") or self.app.conf.beat_scheduler,
        ).get_scheduler()
        self.forget_the_future()
        return True

    def forget_the_future(self):
        """Have what was sent while the clock of the host was ahead be due again; else it is not until that time."""
        is_own = isinstance(self.scheduler, PersistentScheduler)
        for entry in self.scheduler.schedule.values() if is_own else ():
            if entry.last_run_at.timestamp() > time.time() + SET_BACK:
                entry.last_run_at = self.app.now()

    def tick(self):
        """Send what is due; what takes longer than a look goes on in the next one."""
        end = time.monotonic() + django_formula_worker.LOOK
        while self.next <= time.monotonic() < end:
            self.next = time.monotonic() + (self.scheduler.tick() or 0)

    def end(self):
        """Write the schedule, and free the lock for the next beat."""
        if self.scheduler is not None:
            self.scheduler.close()
            os.close(self.lock)
        self.lock, self.scheduler, self.next = None, None, 0.0

    def look(self):
        """Do what there is to do now; return whether the scheduler may send tasks."""
        if not django_formula_worker.is_active(self.given):
            self.end()
            return False
        if not django_formula_worker.may_take(self.given) or not (self.scheduler or self.begin()):
            return False
        self.tick()
        return True


def main():
    given = django_formula_worker.read()
    django.setup()
    app = django_formula_celery_app.find(given["app"], given["modules"])
    app.loader.import_default_modules()
    app.finalize()
    # The schedule is written after each task: a beat that was killed would send again what it had sent since.
    app.conf.beat_sync_every = app.conf.beat_sync_every or 1
    app.log.setup(loglevel=(given["options"].get("loglevel") or "info").upper())
    stop = django_formula_worker.Stop()
    stop.install()
    report, beat = django_formula_worker.Report(given), Beat(given, app)
    report.write(False)
    report.ready()
    try:
        while not stop.requested:
            report.write(beat.look())
            time.sleep(django_formula_worker.LOOK)
    finally:
        beat.end()


if __name__ == "__main__":
    main()
