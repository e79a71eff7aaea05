"""Breaks a deployment from within: a host has it as `sitecustomize.py`, and the environment configures what and when.

FAULT_STEP   the step of a release in which the fault comes
FAULT_WHEN   `first` before the step looks, `acting` while its first command runs (or when it has acted, where it has
             none), `last` when it is completed
FAULT_DOES   a signal for the process that deploys, such as KILL, or a command line of the host
FAULT_CLOCK  seconds by which its wall clock is wrong; the clock that is monotonic goes on, as a kernel's does
"""

import contextlib
import importlib.machinery
import os
import signal
import subprocess
import threading
import time
from collections.abc import Iterator
from typing import Any

STEP, WHEN, DOES = (os.environ.get(f"FAULT_{name}", "") for name in ("STEP", "WHEN", "DOES"))
CLOCK = float(os.environ.get("FAULT_CLOCK", "0"))
state = {"inside": False, "struck": False}
striking = threading.Lock()  # a step does not end while the fault lasts


def strike(when: str) -> None:
    """Do what is to be done, once, if this is the moment."""
    with striking:
        if state["struck"] or not state["inside"] or when != WHEN:
            return
        state["struck"] = True
        number = getattr(signal, f"SIG{DOES}", None)
        if number is None:
            subprocess.run(["/bin/sh", "-c", DOES], check=True)
        else:
            os.kill(os.getpid(), number)


def break_steps(module: Any) -> None:
    original = module.Deployment.step

    @contextlib.contextmanager
    def step(deployment: Any, name: str) -> Iterator[None]:
        with original(deployment, name):
            state["inside"] = name == STEP
            try:
                strike("first")
                yield
                strike("acting")
                strike("last")
            finally:
                state["inside"] = False

    module.Deployment.step = step


def break_commands(module: Any) -> None:
    original = module.run

    def run(*arguments: Any, **options: Any) -> Any:
        timer = threading.Timer(0.05, strike, ["acting"])
        timer.daemon = True
        timer.start()
        return original(*arguments, **options)

    module.run = run


BREAKS = {"django_formula.deploy.deployment": break_steps, "django_formula.host.commands": break_commands}


def break_modules() -> None:
    """Have modules of the formula changed once they have run."""
    execute = importlib.machinery.SourceFileLoader.exec_module

    def exec_module(loader: Any, module: Any) -> None:
        execute(loader, module)
        if module.__name__ in BREAKS:
            BREAKS[module.__name__](module)

    importlib.machinery.SourceFileLoader.exec_module = exec_module  # type: ignore[assignment, method-assign]


def move_clock(seconds: float) -> None:
    now, local, utc, text = time.time, time.localtime, time.gmtime, time.strftime
    time.time = lambda: now() + seconds
    time.time_ns = lambda: int(time.time() * 1e9)
    time.localtime = lambda at=None: local(time.time() if at is None else at)
    time.gmtime = lambda at=None: utc(time.time() if at is None else at)
    time.strftime = lambda form, at=None: text(form, time.localtime() if at is None else at)


if CLOCK:
    move_clock(CLOCK)
if STEP:
    break_modules()
