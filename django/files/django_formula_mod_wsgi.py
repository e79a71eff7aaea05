"""
Runs an Apache with mod_wsgi as mod_wsgi.conf in the same folder configures it, and reports when the project is loaded.

On SIGTERM it finishes in-flight requests and exits. No process of Apache outlives this one or the main one of Apache.
"""

import glob
import json
import os
import signal
import subprocess
import sys
import time

HERE = os.path.dirname(os.path.abspath(__file__))
sys.path.append(HERE)  # Python runs with -I
import django_formula_ready  # noqa: E402

CONFIGURATION = os.path.join(HERE, "mod_wsgi.conf")

with open(os.path.join(HERE, "mod_wsgi.json"), encoding="utf-8") as file:
    GIVEN = json.load(file)
LOADED, BROKEN, READY = (os.path.join(GIVEN["run"], name) for name in ("loaded", "broken", "ready"))


def end_leftovers():
    """Kill the processes of an Apache of this release whose main process was killed."""
    marks = {f"{name}={os.environ[name]}".encode() for name in ("DJANGO_SITE", "DJANGO_RELEASE")}
    for process in glob.glob("/proc/[0-9]*"):
        try:
            if os.readlink(f"{process}/exe").startswith(GIVEN["apache"]):  # " (deleted)" follows where it was upgraded
                with open(f"{process}/environ", "rb") as environment:
                    if marks <= {*environment.read().split(b"\0")}:
                        os.kill(int(process.rpartition("/")[2]), signal.SIGKILL)
        except OSError:
            pass  # it belongs to another user, or has ended


def wait_until_loaded(apache):
    """Wait until the project is imported and connections are accepted; exit where Apache or the import fails."""
    while apache.poll() is None:
        if os.path.exists(BROKEN):
            apache.terminate()
            apache.wait()
            sys.exit("the project does not start")
        if os.path.exists(LOADED):
            try:
                django_formula_ready.connect(GIVEN["address"])
            except OSError:
                pass
            else:
                return
        time.sleep(0.02)
    wrong = GIVEN["options"].items() if apache.returncode else ()
    refused = [f"{name}={value}" for name, value in sorted(wrong) if not takes(name, value)]
    sys.exit(f"mod_wsgi does not take {', '.join(refused)} (server:options)" if refused else apache.returncode)


def takes(name, value):
    """Return whether mod_wsgi accepts an option of its processes; Apache reports only that one of them is wrong."""
    modules = (f"LoadModule {name}_module {GIVEN['modules']}/mod_{name}.so" for name in ("mpm_event", "wsgi"))
    directives = ["ServerName localhost", "ErrorLog |/bin/cat", *modules, f'WSGIDaemonProcess x {name}="{value}"']
    argv = [GIVEN["apache"], "-t", "-f", "/dev/null", *(word for one in directives for word in ("-C", one))]
    tested = subprocess.run(argv, capture_output=True, text=True, check=False)  # noqa: S603 - root wrote it
    return "WSGI daemon process" not in tested.stderr


def main():
    end_leftovers()
    django_formula_ready.begin(GIVEN["run"], "loaded", "broken", "apache.pid")
    argv = [GIVEN["apache"], "-f", CONFIGURATION, "-DFOREGROUND"]
    apache = subprocess.Popen(argv, preexec_fn=django_formula_ready.end_with_parent)  # noqa: S603 - root wrote it
    ended = []

    def end(_signal, _frame):
        ended.append(True)
        apache.send_signal(signal.SIGWINCH if os.path.exists(READY) else signal.SIGTERM)

    signal.signal(signal.SIGTERM, end)
    wait_until_loaded(apache)
    django_formula_ready.report(GIVEN["run"])
    code = apache.wait()
    if not ended:
        end_leftovers()
        sys.exit(f"Apache has ended by itself ({code})")


if __name__ == "__main__":
    main()
