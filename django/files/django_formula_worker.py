"""What the programs of a site's workers share: whether they may take tasks, and how they report what they do."""

import contextlib
import errno
import fcntl
import json
import os
import signal
import sys
import time
import traceback
from collections import Counter

import django_formula_ready

#: Seconds between two looks at whether the worker may take tasks.
LOOK = 0.1
#: Seconds after the end of a process before another one is started in its place.
PAUSE = 0.5
#: Names of tasks that are reported, those that are counted, classes of exceptions of each, and characters of a name.
REPORTED, COUNTED, RAISED, NAME = 50, 1000, 5, 200


def read():
    """Return the worker's configuration, and delete what an earlier process has reported."""
    with open(sys.argv[1], encoding="utf-8") as file:
        given = json.load(file)
    sys.path[:0] = [given["folder"]]
    django_formula_ready.begin(given["run"], "state")
    return given


def is_active(given):
    """Return whether the worker's release is the active one."""
    try:
        return os.path.basename(os.readlink(given["current"])) == os.path.basename(given["release"])
    except FileNotFoundError:
        return False


def may_take(given):
    """Return whether the worker may take tasks: its release is active, not on hold, and no deployment switches."""
    return is_active(given) and not os.path.exists(given["hold"]) and not is_switching(given)


def is_switching(given):
    """Return whether a deployment holds the switch lock; the kernel frees that of one that was killed."""
    try:
        descriptor = os.open(given["switch"], os.O_RDONLY | os.O_CLOEXEC)
    except FileNotFoundError:
        return False
    try:
        fcntl.flock(descriptor, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except BlockingIOError:
        return True
    finally:
        os.close(descriptor)
    return False


#: The state file of the worker as a whole; and the errors of a full disk, on which that is.
MAIN, FULL = "state", (errno.ENOSPC, errno.EDQUOT)


class Report:
    """The worker's state file, or that of one of its processes, written when what it reports has changed."""

    def __init__(self, given, name=MAIN):
        self.run, self.name, self.last = given["run"], name, None

    def write(self, fetching, active=None, reserved=None, done=None, tasks=(), failed=None, outcomes=None):
        """Report whether the worker takes tasks, how many it has in hand, their names, what has failed, and how."""
        state = {"pid": os.getpid(), "fetching": fetching, "active": active, "reserved": reserved, "done": done}
        state["tasks"] = [name[:200] for name in sorted(tasks)[:100]]
        state |= {"failed": failed, "outcomes": outcomes or {}}
        if state == self.last:
            return
        try:
            self.replace(json.dumps({**state, "time": round(time.time(), 3)}).encode())
        except OSError as error:
            if self.name != MAIN or error.errno not in FULL:
                raise
            # It ends no task in hand. A worker without a report counts as one that takes tasks.
            with contextlib.suppress(OSError):
                os.unlink(os.path.join(self.run, self.name))
            self.last = None
        else:
            self.last = state

    def replace(self, text):
        """Replace the file, completely or not at all."""
        # os.write, since a process that forks while another thread holds the lock of a file object could wait forever.
        new = os.path.join(self.run, f"{self.name}.new")
        descriptor = os.open(new, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, 0o640)
        try:
            if os.write(descriptor, text) < len(text):
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), new)
        finally:
            os.close(descriptor)
        os.replace(new, os.path.join(self.run, self.name))

    def ready(self):
        """Report that the worker is ready; it has reported its state before."""
        django_formula_ready.report(self.run)


class Outcomes:
    """Counts how tasks end, by their names: all of them, and those that an exception has ended, by its class.

    Threads and processes of the worker write that to a pipe, and its main process reads it. A task never waits for it:
    what does not fit into the pipe is not counted.
    """

    def __init__(self):
        self.reader, self.writer = os.pipe2(os.O_NONBLOCK | os.O_CLOEXEC)
        self.done, self.raised, self.rest = Counter(), {}, b""

    def ended(self, name, exception=None):
        """Report that a task has ended.

        Args:
            exception: the class of the one that has ended it for good, not of one after which it is tried again.
        """
        self.tell(name, 1, exception)

    def failed(self, name, exception):
        """Report what has ended a task of which another process reports that it has ended."""
        self.tell(name, 0, exception)

    def tell(self, *line):
        # At most 2.5 kB, which the kernel writes as a whole (PIPE_BUF).
        text = json.dumps([part[:NAME] if isinstance(part, str) else part for part in line])
        with contextlib.suppress(OSError):  # the pipe is full, or the task has closed it
            os.write(self.writer, text.encode() + b"\n")

    def found(self, totals=None, running=None):
        """Return what was counted, of the most frequent names.

        Args:
            totals: of each name how many tasks have begun, where that is not counted here.
            running: how many of these still run.
        """
        self.read()
        running = running or {}
        return {
            name: {"done": max(total - running.get(name, 0), 0), "raised": {**self.raised.get(name, {})}}
            for name, total in Counter(self.done if totals is None else totals).most_common(REPORTED)
        }

    def read(self):
        """Count what the tasks have reported."""
        with contextlib.suppress(BlockingIOError):
            while True:
                *lines, self.rest = (self.rest + os.read(self.reader, 1 << 16)).split(b"\n")
                for line in lines:
                    self.count(*json.loads(line))

    def count(self, name, ended, exception):
        if name not in self.done and len(self.done) >= COUNTED:
            return
        self.done[name] += ended
        raised = self.raised.setdefault(name, {}) if exception else {}
        if exception and (exception in raised or len(raised) < RAISED):
            raised[exception] = raised.get(exception, 0) + 1


class Stop:
    """Whether a signal has requested the worker to stop."""

    def __init__(self):
        self.requested = False

    def install(self):
        for number in (signal.SIGTERM, signal.SIGINT):
            signal.signal(number, self)

    def __call__(self, _signal, _frame):
        self.requested = True


class Process:
    """A process of a worker: when it was started, and whether its stop signal was sent."""

    def __init__(self, number):
        self.number, self.since, self.is_stopping = number, time.monotonic(), False


class Processes:
    """The processes of a worker, which are started again when they end."""

    def __init__(self, given, run, stop_signal=signal.SIGTERM):
        """
        Args:
            given: the worker's configuration.
            run: what each does, called with that and its number; the process ends with it.
            stop_signal: on which it finishes what it has in hand and ends.
        """
        self.given, self.run, self.stop_signal = given, run, stop_signal
        self.running, self.ended, self.failed = {}, {}, 0

    def look(self, is_wanted=True):
        """Start what has to run and does not, or send the stop signal to what runs."""
        self.reap()
        numbers = {process.number for process in self.running.values()}
        for number in sorted(set(range(self.given["processes"])) - numbers) if is_wanted else ():
            if time.monotonic() - self.ended.get(number, -PAUSE) >= PAUSE:
                self.start(number)
        for pid, process in self.running.items() if not is_wanted else ():
            if not process.is_stopping:
                process.is_stopping = True
                os.kill(pid, self.stop_signal)

    def start(self, number):
        """Fork a process."""
        pid = os.fork()
        if pid:
            self.running[pid] = Process(number)
            return
        status = 1
        try:
            for one in (signal.SIGTERM, signal.SIGINT):
                signal.signal(one, signal.SIG_DFL)
            django_formula_ready.end_with_parent(self.stop_signal)
            self.run(self.given, number)
            status = 0
        except BaseException:
            traceback.print_exc()
        finally:
            sys.stderr.flush()
            sys.stdout.flush()
            os._exit(status)

    def reap(self):
        """Forget the processes that have ended; count those that failed, unless they were being stopped."""
        for pid in list(self.running):
            ended, status = os.waitpid(pid, os.WNOHANG)
            if ended:
                process = self.running.pop(pid)
                number = process.number
                self.failed += bool(status) and not process.is_stopping
                self.ended[number] = time.monotonic()
                state = os.path.join(self.given["run"], f"state-{number}")
                if os.path.exists(state):
                    os.unlink(state)

    def states(self):
        """Return the sum of what the processes report; one that runs a task takes no other."""
        found = []
        for process in self.running.values():
            try:
                with open(os.path.join(self.given["run"], f"state-{process.number}"), encoding="utf-8") as file:
                    found.append(json.load(file))
            except FileNotFoundError:  # it has just been started
                pass
        active = sum(one["active"] or 0 for one in found)
        return {
            "fetching": any(one["fetching"] for one in found) or bool(active and may_take(self.given)),
            "active": active,
            "reserved": 0,
            "done": sum(one["done"] or 0 for one in found),
            "tasks": {name for one in found for name in one["tasks"]},
        }
