"""Breaks a deployment from within: a host has it as `sitecustomize.py`, and the environment configures what and when.

FAULT_IN     functions, as `deploy.proof_end.activate`: the fault comes before a change of one of them (`CHANGES`)
FAULT_MADE   the file of the changes before which it has come already: each process meets one more
FAULT_STEP   the step of a release in which the fault comes
FAULT_WHEN   `first` before the step looks, `acting` while its first command runs (or when it has acted, where it has
             none), `last` when it is completed
FAULT_DOES   a signal for the process that deploys, such as KILL, or a command line of the host
FAULT_CLOCK  seconds by which its wall clock is wrong; the clock that is monotonic goes on, as a kernel's does
"""

import contextlib
import functools
import importlib.machinery
import os
import signal
import subprocess
import sys
import threading
import time
import types
import zipimport
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

#: What changes the state of a release or of a proof, by module: a kill between two of these calls leaves a state of its
#: own. Tests of the engine go through the same ones.
CHANGES = {
    "host.file": ("link", "write_json", "append"),
    "host.units": ("control",),
    "proxy.lease": ("hold", "end"),
}
#: Calls of a change that tell two of them apart.
_DEPTH = 5

STEP, WHEN, DOES = (os.environ.get(f"FAULT_{name}", "") for name in ("STEP", "WHEN", "DOES"))
IN, MADE = os.environ.get("FAULT_IN", "").split(), Path(os.environ.get("FAULT_MADE", "/dev/null"))
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


def break_changes(module: Any, names: tuple[str, ...]) -> None:
    """Have functions that change something strike before they do, where one of `IN` has called them."""

    def broken(original: Callable[..., Any]) -> Callable[..., Any]:
        @functools.wraps(original)
        def change(*arguments: Any, **options: Any) -> Any:
            if state["inside"] and not state["struck"]:
                place = f"{original.__name__} {callers()}"
                if place not in (MADE.read_text().splitlines() if MADE.exists() else []):
                    with MADE.open("a") as file:
                        file.write(f"{place}\n")
                    strike(WHEN)
            return original(*arguments, **options)

        return change

    for name in names:
        setattr(module, name, broken(getattr(module, name)))


def callers() -> str:
    """Who calls this, as functions and lines: the same ones in each process."""
    found: list[str] = []
    frame: types.FrameType | None = sys._getframe(2)
    while frame and len(found) < _DEPTH:
        found.append(f"{frame.f_code.co_name}:{frame.f_lineno}")
        frame = frame.f_back
    return " ".join(found)


def break_function(module: Any, name: str) -> None:
    """Have changes count while a function runs."""
    original = getattr(module, name)

    @functools.wraps(original)
    def function(*arguments: Any, **options: Any) -> Any:
        before, state["inside"] = state["inside"], True
        try:
            return original(*arguments, **options)
        finally:
            state["inside"] = before

    setattr(module, name, function)


def break_module(module: Any) -> None:
    """Change a module of the formula that has run."""
    package, _, name = module.__name__.partition(".")
    if package != "django_formula":
        return
    if STEP and name in BREAKS:
        BREAKS[name](module)
    if IN and name in CHANGES:
        break_changes(module, CHANGES[name])
    for function in IN:
        if function.rpartition(".")[0] == name:
            break_function(module, function.rpartition(".")[2])


BREAKS = {"deploy.deployment": break_steps, "host.commands": break_commands}


def break_modules(loaders: Any) -> None:
    """Have modules of the formula changed once they have run."""
    execute = loaders.exec_module

    def exec_module(loader: Any, module: Any) -> None:
        execute(loader, module)
        break_module(module)

    loaders.exec_module = exec_module


def move_clock(seconds: float) -> None:
    now, local, utc, text = time.time, time.localtime, time.gmtime, time.strftime
    time.time = lambda: now() + seconds
    time.time_ns = lambda: int(time.time() * 1e9)
    time.localtime = lambda at=None: local(time.time() if at is None else at)
    time.gmtime = lambda at=None: utc(time.time() if at is None else at)
    time.strftime = lambda form, at=None: text(form, time.localtime() if at is None else at)


if CLOCK:
    move_clock(CLOCK)
if STEP or IN:
    break_modules(importlib.machinery.SourceFileLoader)
    break_modules(zipimport.zipimporter)
