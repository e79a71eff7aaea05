"""
Runs granian as granian.json in the same folder configures it; granian binds its socket itself.

The main process serves no requests: it replaces those that do, and reports when they accept connections.
"""

import inspect
import json
import os
import pathlib
import signal
import sys
import threading
import time

import django_formula_application
import django_formula_ready
import django_formula_unread
import granian
from granian.utils import proxies

HERE = os.path.dirname(os.path.abspath(__file__))

with open(os.path.join(HERE, "granian.json"), encoding="utf-8") as file:
    GIVEN = json.load(file)
IMPORTED = os.path.join(GIVEN["run"], "imported")
MODE = 0o660  # of the socket: the proxy's group connects to it
SETTINGS = {**GIVEN["settings"], **GIVEN["options"]}


def application():
    """Import the project's application; only the processes that serve requests do."""
    # On SIGTERM some lived on without their main process.
    django_formula_ready.end_with_parent(signal.SIGKILL)
    sys.path[:0] = [GIVEN["folder"]]
    project = django_formula_application.load(GIVEN["module"])
    with open(IMPORTED, "w", encoding="utf-8"):
        pass
    if SETTINGS["interface"] == "wsgi":
        return proxies.wrap_wsgi_with_proxy_headers(django_formula_unread.reading_on(project), GIVEN["trusted"])
    return proxies.wrap_asgi_with_proxy_headers(project, GIVEN["trusted"])


def report_ready(server):
    """Report readiness once the project is imported and connections are accepted."""
    while True:
        time.sleep(0.02)
        if os.path.exists(IMPORTED):
            try:
                django_formula_ready.connect(GIVEN["address"])
                if GIVEN["address"][0] == "/":
                    os.chmod(GIVEN["address"], MODE)  # older ones do not
                break
            except OSError:
                pass
    # From here on a process that ends is replaced; one that ended before means that the project does not start.
    server.respawn_failed_workers = True
    django_formula_ready.report(GIVEN["run"])


def main():
    known = inspect.signature(granian.Granian).parameters
    unknown = sorted(set(GIVEN["options"]) - set(known))
    if unknown:
        sys.exit(f"granian {granian.__version__} has no setting {', '.join(unknown)} (server:options)")
    address = GIVEN["address"]
    if address[0] == "/":
        if "uds" not in known:
            sys.exit(f"granian {granian.__version__} has no unix sockets: require 2.5, or set server:bind to a port")
        binds = {"uds": pathlib.Path(address), **({"uds_permissions": MODE} if "uds_permissions" in known else {})}
        if os.path.lexists(address):
            os.unlink(address)
    else:
        host, _colon, port = address.rpartition(":")
        binds = {"address": host.strip("[]"), "port": int(port)}
    django_formula_ready.begin(GIVEN["run"], "imported")
    settings = {name: value for name, value in SETTINGS.items() if name in known}
    server = granian.Granian(f"{GIVEN['module']}:application", **binds, **settings)
    threading.Thread(target=report_ready, args=(server,), daemon=True).start()
    server.serve(target_loader=application, wrap_loader=False)


if __name__ == "__main__":
    main()
