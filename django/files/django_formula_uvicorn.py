"""
Runs uvicorn as uvicorn.json in the same folder configures it, on the socket that systemd passes (sd_listen_fds).

The main process serves no requests: it replaces those that do, and reports when the first of them is ready.
"""

import inspect
import json
import os
import socket
import sys
import threading
import time

import django_formula_application
import django_formula_ready
import uvicorn
from uvicorn.supervisors import Multiprocess

HERE = os.path.dirname(os.path.abspath(__file__))
LISTENER = 3  # the descriptor at which sd_listen_fds begins

with open(os.path.join(HERE, "uvicorn.json"), encoding="utf-8") as file:
    GIVEN = json.load(file)
READY = os.path.join(GIVEN["run"], "ready")


def __getattr__(name):
    """Import the project's ``application``, below the path of the site; only the processes that serve requests do."""
    if name != "application":
        raise AttributeError(name)
    django_formula_ready.end_with_parent()
    project = django_formula_application.load(GIVEN["module"])
    with open(READY, "w", encoding="utf-8"):
        pass
    if not GIVEN["prefix"]:
        return project

    async def application(scope, receive, send):
        await project({**scope, "root_path": GIVEN["prefix"]}, receive, send)

    return application


def report_ready():
    """Report readiness once the project is imported; until then connections wait at the socket."""
    while not os.path.exists(READY):
        time.sleep(0.02)
    django_formula_ready.report(GIVEN["run"])


class Watch(Multiprocess):
    """Keeps the configured number of processes running; it ends them all where one ends before any was ready."""

    def keep_subprocess_alive(self):
        processes = [getattr(process, "process", process) for process in self.processes]  # Uvicorn's own, or Python's
        if not os.path.exists(READY) and not all(process.is_alive() for process in processes):
            self.terminate_all()
            self.join_all()
            sys.exit("the project does not start")
        super().keep_subprocess_alive()


def main():
    known = inspect.signature(uvicorn.Config).parameters
    unknown = sorted(set(GIVEN["options"]) - set(known))
    if unknown:
        sys.exit(f"uvicorn {uvicorn.__version__} has no setting {', '.join(unknown)} (server:options)")
    sys.path[:0] = [GIVEN["folder"]]
    settings = {name: value for name, value in GIVEN["settings"].items() if name in known}
    config = uvicorn.Config("django_formula_uvicorn:application", **{**settings, **GIVEN["options"]})
    django_formula_ready.begin(GIVEN["run"])
    threading.Thread(target=report_ready, daemon=True).start()
    target = {"target": uvicorn.Server(config).run} if "target" in inspect.signature(Multiprocess).parameters else {}
    Watch(config, sockets=[socket.socket(fileno=LISTENER)], **target).run()


if __name__ == "__main__":
    main()
