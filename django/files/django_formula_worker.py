"""What the programs of a site's workers share: whether they may take tasks, and how they report what they do."""

import fcntl
import json
import os
import signal
import sys
import time
import traceback

import django_formula_ready

#: Seconds between two looks at whether the worker may take tasks.
LOOK = 0.1
#: Seconds after the end of a process before another one is started in its place.
PAUSE = 0.5


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


class Report:
    """The worker's state file, or that of one of its processes, written when what it reports has changed."""

    def __init__(self, given, name="state"):
        self.run, self.name, self.last = given["run"], name, None

    def write(self, fetching, active=None, reserved=None, done=None, tasks=(), failed=None, outcomes=None):
        """Report whether the worker takes tasks, how many it has in hand, their names, what has failed, and how."""
        state = {"pid": os.getpid(), "fetching": fetching, "active": active, "reserved": reserved, "done": done}
        state["tasks"] = [name[:200] for name in sorted(tasks)[:100]]
        state |= {"failed": failed, "outcomes": outcomes or {}}
        if state == self.last:
            return
        text = json.dumps({**state, "time": round(time.time(), 3)})
        # os.write, since a process that forks while another thread holds the lock of a file object could wait forever.
        new = os.path.join(self.run, f"{self.name}.new")
        descriptor = os.open(new, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, 0o640)
        try:
            os.write(descriptor, text.encode())
        finally:
            os.close(descriptor)
        os.replace(new, os.path.join(self.run, self.name))
        self.last = state

    def ready(self):
        """Report that the worker is ready; it has reported its state before."""
        django_formula_ready.report(self.run)


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
