"""
Runs uvicorn as uvicorn.json beside this file has it, on the socket that systemd hands over (sd_listen_fds).

The processes that answer are watched by one that does not, which says when the first of them is ready.
"""

import importlib
import inspect
import json
import os
import socket
import sys
import threading
import time

import django_formula_ready
import uvicorn
from uvicorn.supervisors import Multiprocess

HERE = os.path.dirname(os.path.abspath(__file__))
LISTENER = 3  # the descriptor at which sd_listen_fds begins

with open(os.path.join(HERE, "uvicorn.json"), encoding="utf-8") as file:
    GIVEN = json.load(file)
READY = os.path.join(GIVEN["run"], "ready")


def __getattr__(name):
    """``application``: the project's, below the path of the site. It is imported by the processes that answer only."""
    if name != "application":
        raise AttributeError(name)
    django_formula_ready.end_with_parent()
    project = importlib.import_module(GIVEN["module"]).application
    with open(READY, "w", encoding="utf-8"):
        pass
    if not GIVEN["prefix"]:
        return project

    async def application(scope, receive, send):
        await project({**scope, "root_path": GIVEN["prefix"]}, receive, send)

    return application


def say_ready():
    """Say so once the project is imported; connections wait at the socket already."""
    while not os.path.exists(READY):
        time.sleep(0.02)
    django_formula_ready.say_ready(GIVEN["run"])


class Watch(Multiprocess):
    """Keeps as many processes as there are to be; where one ends before any was ready, nothing comes of the others."""

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
    threading.Thread(target=say_ready, daemon=True).start()
    target = {"target": uvicorn.Server(config).run} if "target" in inspect.signature(Multiprocess).parameters else {}
    Watch(config, sockets=[socket.socket(fileno=LISTENER)], **target).run()


if __name__ == "__main__":
    main()
