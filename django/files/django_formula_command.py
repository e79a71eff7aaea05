"""
Runs a command of the project, as many processes of it as configured, while it may: the command takes what it likes.

So it is started once the worker's release is active, and stopped as soon as a deployment switches. It is reported
as fetching until its last process has ended, and as active once it is ready.
"""

import os
import signal
import socket
import time

import django_formula_worker


class Readiness:
    """When the processes are ready: by their own word at a socket, or some time after their start."""

    def __init__(self, given):
        self.after = given["ready_after"]
        self.socket, self.path, self.is_reported = None, os.path.join(given["run"], "notify"), False
        if self.after is None:
            if os.path.exists(self.path):
                os.unlink(self.path)
            self.socket = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_CLOEXEC)
            self.socket.bind(self.path)
            self.socket.setblocking(False)

    def is_reached(self, processes):
        """Return whether all processes are ready."""
        if self.socket is None:
            since = [process.since for process in processes.running.values()]
            return bool(since) and time.monotonic() - max(since) >= self.after
        try:
            while True:
                self.is_reported |= b"READY=1" in self.socket.recv(4096).split(b"\n")
        except BlockingIOError:
            pass
        self.is_reported &= bool(processes.running)
        return self.is_reported


def execute(given, _number):
    """Become the command."""
    environment = {name: value for name, value in os.environ.items() if name != "NOTIFY_SOCKET"}
    if given["ready_after"] is None:
        environment["NOTIFY_SOCKET"] = os.path.join(given["run"], "notify")
    os.execvpe(given["argv"][0], given["argv"], environment)  # noqa: S606 - no shell


def main():
    given = django_formula_worker.read()
    report, stop, readiness = django_formula_worker.Report(given), django_formula_worker.Stop(), Readiness(given)
    processes = django_formula_worker.Processes(given, execute, getattr(signal, given["stop"]))
    stop.install()
    is_reported = False
    while not stop.requested or processes.running:
        may_take = django_formula_worker.may_take(given)
        processes.look(is_wanted=may_take and not stop.requested)
        is_ready = readiness.is_reached(processes)
        active = len(processes.running) if is_ready else 0
        report.write(bool(processes.running), active=active, failed=processes.failed)
        if not is_reported and (is_ready or not may_take):
            report.ready()
            is_reported = True
        time.sleep(django_formula_worker.LOOK)


if __name__ == "__main__":
    main()
