"""
Runs a consumer of huey, which takes tasks only while it may.

On SIGTERM it finishes the tasks that it has in hand; huey's own consumer drops them, and stops so on SIGINT only. Two
consumers would enqueue each periodic task twice, so each minute is enqueued once: a file that outlives releases has
the last one.
"""

import fcntl
import inspect
import multiprocessing
import os
import re
import threading
import time

import django
import django_formula_worker
from huey import signals
from huey.consumer import Consumer, Scheduler
from huey.utils import load_class

#: Seconds between two looks at whether all of the consumer's threads or processes still run.
HEALTH = 10
#: Minutes by which a clock is set back; a minute that is further ahead was written while the clock was wrong.
SET_BACK = 60


def instance(given):
    """Return the project's Huey instance: as the pillar names it, else that of HUEY in its settings."""
    if given["app"]:
        module, _colon, name = given["app"].partition(":")
        return load_class(f"{module}.{name or 'huey'}")
    from huey.contrib.djhuey import HUEY

    return HUEY


def import_tasks():
    """Import the modules that register tasks: the URLconf, as the checks before run_huey do, and those called tasks."""
    from django.conf import settings
    from django.urls import get_resolver
    from django.utils.module_loading import autodiscover_modules

    if getattr(settings, "ROOT_URLCONF", None):
        get_resolver().url_patterns  # noqa: B018 - a property that imports the views
    autodiscover_modules("tasks")


def options_of(given):
    """Return the options of the consumer: those of HUEY in the settings, below those of the pillar.

    As `manage.py run_huey` does, one that this huey no longer has is left out of the settings'.
    """
    from django.conf import settings

    configured = getattr(settings, "HUEY", None)
    own = configured.get("consumer") or {} if isinstance(configured, dict) and not given["app"] else {}
    accepted = inspect.signature(Consumer.__init__).parameters
    known = {name: value for name, value in own.items() if name in accepted and name != "workers"}
    return {**known, "workers": given["processes"], **given["options"]}


class Gate:
    """What the consumer's threads and processes pass when they take a task, and count what they have in hand."""

    def __init__(self, given, huey):
        self.given, self.names = given, {}
        self.inside, self.active, self.done = (multiprocessing.Value("i", 0) for _ in range(3))
        self.outcomes = django_formula_worker.Outcomes()
        self.taken, self.executed = huey.dequeue, huey.execute
        huey.dequeue, huey.execute = self.dequeue, self.execute
        huey.signal(signals.SIGNAL_COMPLETE, signals.SIGNAL_ERROR)(self.ended)
        if hasattr(huey.storage, "read_timeout"):
            huey.storage.read_timeout = patience(huey.storage)

    def may_take(self):
        return django_formula_worker.may_take(self.given)

    def dequeue(self):
        """Take a task, or None, while the worker may."""
        with counted(self.inside):
            task = self.taken() if self.may_take() else None
        if task is None:
            time.sleep(0 if self.may_take() else django_formula_worker.LOOK)
        return task

    def execute(self, task, timestamp=None):
        """Run a task."""
        self.names[threading.get_ident()] = task.name
        try:
            with counted(self.active):
                return self.executed(task, timestamp)
        finally:
            del self.names[threading.get_ident()]
            add(self.done, 1)

    def ended(self, _signal, task, error=None):
        """Report how a task has ended; with retries left it is tried again."""
        is_final = error is not None and not task.retries
        self.outcomes.ended(f"{type(task).__module__}.{task.name}", type(error).__name__ if is_final else None)

    def state(self):
        """Return what is reported."""
        return {
            "fetching": self.may_take() or self.inside.value > 0,
            "active": self.active.value,
            "reserved": 0,
            "done": self.done.value,
            "tasks": set(self.names.copy().values()),
            "outcomes": self.outcomes.found(),
        }


def patience(storage):
    """Return the seconds for which a storage waits for a task: a Redis before version 6 takes whole ones only."""
    try:
        is_old = int(storage.conn.info("server")["redis_version"].partition(".")[0]) < 6
    except Exception:  # no Redis, or one that refuses it, as later ones may; one that is gone is reported below
        is_old = False
    return 1 if is_old else django_formula_worker.LOOK


class counted:
    """Counts those that are within a block."""

    def __init__(self, value):
        self.value = value

    def __enter__(self):
        add(self.value, 1)

    def __exit__(self, *_error):
        add(self.value, -1)


def add(value, number):
    with value.get_lock():
        value.value += number


def schedule_while(gate, file):
    """Have huey's scheduler do its work only while the worker may take tasks, and each minute's once.

    Args:
        gate: of the consumer.
        file: has the last minute whose periodic tasks were enqueued.
    """
    loop, enqueue = Scheduler.loop, Scheduler.enqueue_periodic_tasks

    def waiting(self, now=None):
        if gate.may_take():
            loop(self, now)
        else:
            self._next_loop = time.monotonic()
            time.sleep(django_formula_worker.LOOK)  # the scheduler has its stop flag since huey 3 only

    def once(self, now, *others):
        if is_new_minute(file):
            enqueue(self, now, *others)

    Scheduler.loop, Scheduler.enqueue_periodic_tasks = waiting, once


def is_new_minute(path):
    """Return whether this minute is not yet the one in a file, and write it there."""
    minute = int(time.time()) // 60
    with open(path, "a+", encoding="utf-8") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        file.seek(0)
        found = re.match(r"\d+", file.read(20))
        if found and minute <= int(found.group()) < minute + SET_BACK:
            return False
        file.truncate(0)
        file.write(str(minute))
    return True


def main():
    given = django_formula_worker.read()
    django.setup()
    import_tasks()
    huey = instance(given)
    if getattr(huey, "immediate", False):  # a release has warned of it: its tasks run where they are asked for
        huey.immediate = False
    report, stop, gate = django_formula_worker.Report(given), django_formula_worker.Stop(), Gate(given, huey)
    name = re.sub("[^A-Za-z0-9_-]", "_", str(huey.name))
    schedule_while(gate, os.path.join(given["beat"], f"huey-{name}"))
    huey.pending_count()  # raises where the storage is not there
    consumer = huey.create_consumer(**options_of(given))
    consumer.start()
    stop.install()
    report.write(**gate.state())
    report.ready()
    looked = time.monotonic()
    while not stop.requested:
        if time.monotonic() - looked > HEALTH:
            consumer.check_worker_health()
            looked = time.monotonic()
        report.write(**gate.state())
        time.sleep(django_formula_worker.LOOK)
    stopping = threading.Thread(target=consumer.stop, kwargs={"graceful": True})
    stopping.start()
    while stopping.is_alive():
        report.write(**{**gate.state(), "fetching": gate.inside.value > 0})
        stopping.join(django_formula_worker.LOOK)


if __name__ == "__main__":
    main()
