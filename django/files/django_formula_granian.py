"""
Runs granian as granian.json beside this file has it; it binds its socket by itself.

The processes that answer are watched by one that does not, which says when they can be reached.
"""

import ctypes
import importlib
import inspect
import json
import os
import pathlib
import signal
import socket
import sys
import threading
import time

import granian
from granian.utils import proxies

HERE = os.path.dirname(os.path.abspath(__file__))
PR_SET_PDEATHSIG = 1  # linux/prctl.h

with open(os.path.join(HERE, "granian.json"), encoding="utf-8") as file:
    GIVEN = json.load(file)
IMPORTED, READY = (os.path.join(GIVEN["run"], name) for name in ("imported", "ready"))
SETTINGS = {**GIVEN["settings"], **GIVEN["options"]}


def application():
    """The project's; it is imported by the processes that answer only."""
    ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGTERM)  # nobody answers on without the process that watches
    sys.path[:0] = [GIVEN["folder"]]
    project = importlib.import_module(GIVEN["module"]).application
    is_wsgi = SETTINGS["interface"] == "wsgi"
    wrap = proxies.wrap_wsgi_with_proxy_headers if is_wsgi else proxies.wrap_asgi_with_proxy_headers
    with open(IMPORTED, "w", encoding="utf-8"):
        pass
    return wrap(project, GIVEN["trusted"])


def connect(address):
    """Connect once to the address of the release."""
    family = socket.AF_UNIX if address[0] == "/" else socket.AF_INET6 if address[0] == "[" else socket.AF_INET
    host, _colon, port = address.rpartition(":")
    with socket.socket(family) as client:
        client.connect(address if address[0] == "/" else (host.strip("[]"), int(port)))


def say_ready(server):
    """Tell systemd, by sd_notify, and supervisor, by a file, once the project is imported and connections are taken."""
    while True:
        time.sleep(0.02)
        if os.path.exists(IMPORTED):
            try:
                connect(GIVEN["address"])
                break
            except OSError:
                pass
    # From here on a process that ends is replaced; before, the project does not start.
    server.respawn_failed_workers = True
    with open(READY, "w", encoding="utf-8"):
        pass
    address = os.environ.get("NOTIFY_SOCKET")
    if address:
        with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as notify:
            notify.connect("\0" + address[1:] if address[0] == "@" else address)
            notify.sendall(b"READY=1")


def main():
    known = inspect.signature(granian.Granian).parameters
    unknown = sorted(set(GIVEN["options"]) - set(known))
    if unknown:
        sys.exit(f"granian {granian.__version__} has no setting {', '.join(unknown)} (server:options)")
    address = GIVEN["address"]
    if address[0] == "/":
        binds = {"uds": pathlib.Path(address), "uds_permissions": 0o660}
        if os.path.lexists(address):
            os.unlink(address)
    else:
        host, _colon, port = address.rpartition(":")
        binds = {"address": host.strip("[]"), "port": int(port)}
    for path in (IMPORTED, READY):
        if os.path.exists(path):
            os.unlink(path)
    with open(os.path.join(GIVEN["run"], "pid"), "w", encoding="utf-8") as pid:
        pid.write(str(os.getpid()))
    settings = {name: value for name, value in SETTINGS.items() if name in known}
    server = granian.Granian(f"{GIVEN['module']}:application", **binds, **settings)
    threading.Thread(target=say_ready, args=(server,), daemon=True).start()
    server.serve(target_loader=application, wrap_loader=False)


if __name__ == "__main__":
    main()
