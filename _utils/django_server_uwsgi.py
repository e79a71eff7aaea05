"""uWSGI (https://uwsgi-docs.readthedocs.io): an ini file, by its own protocol or HTTP."""

import http.client
import json
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import django_host_unix
import django_release_settings
from django_process import Requirements
from django_site import Site
from django_wall_foreign import Foreign
from django_wall_response import Bounded

INI = "salt://django/files/uwsgi.ini"
#: What uWSGI imports: file name in ``config/`` → template.
_PROGRAMS = {
    name: f"salt://django/files/{name}"
    for name in ("django_formula_uwsgi.py", "django_formula_warm.py", "django_formula_unread.py")
}
PYUWSGI = "pyuwsgi==2.0.30.post1"

#: What reading an answer raises that is none of uWSGI's.
_NOT_STATISTICS = (ValueError, LookupError, TypeError, AttributeError, ArithmeticError, RecursionError)

TEMPLATES: tuple[str, ...] = (INI, *_PROGRAMS.values())
MAIN = "uwsgi.ini"
BINDS = True
INHERITS = True
WRITES_LOG = True


def interface(site: Site) -> str:
    """Always WSGI."""
    del site
    return "wsgi"


def requirements(site: Site) -> Requirements:
    """The wheel of uWSGI, where the project has brought neither it nor uWSGI itself."""
    del site
    return {("pyuwsgi", "uwsgi"): (PYUWSGI,)}


def python(site: Site) -> str:
    """Any."""
    del site
    return ""


def configuration(
    site: Site, release: Path, variables: Mapping[str, Any], templates: Mapping[str, str]
) -> dict[str, str]:
    """The ini file of a release, and what it has imported: file name in ``config/`` → content."""
    del site
    binary = _binary(variables["virtualenv"])
    return {
        MAIN: django_release_settings.render(templates, INI, binary=str(binary), backlog=_backlog(), **variables),
        **{name: templates[url] for name, url in _PROGRAMS.items()},
    }


def _binary(virtualenv: Path) -> Path:
    """What uWSGI executes when it reloads: the interpreter where ``uwsgi`` is a script (pyuwsgi), else itself."""
    uwsgi = virtualenv / "bin/uwsgi"
    begins = (Foreign(virtualenv.resolve()) / "bin/uwsgi").begins_with(b"#!")
    return (
        uwsgi if begins is False else uwsgi.with_name("python")
    )  # None: of another server, which a plan has to do with


def _backlog() -> int:
    """How many connections may wait at a socket that the server binds: uWSGI takes no more than the kernel does."""
    return min(1024, int(Path("/proc/sys/net/core/somaxconn").read_text()))


def command(release: Path, facts: Mapping[str, Any]) -> list[str]:
    """What runs uWSGI."""
    del facts
    return [f"{release}/virtualenv/bin/uwsgi", "--ini", f"{release}/config/{MAIN}"]


def keeps_threads(site: Site) -> bool:
    """Unless something takes the place of threads."""
    return not {"gevent", "asyncio", "ugreen", "async"} & {*site.config["server"]["options"]}


def workers(run: Foreign) -> str:
    """What the processes do, by uWSGI's own word at ``stats.sock``, which uwsgitop reads too."""
    try:
        folder = run.status()
        owner = folder.st_uid if folder else -1
        with django_host_unix.connect(str(run / "stats.sock"), owner, 2) as stats:
            told = json.loads(Bounded(stats, time.monotonic() + 2).read())
        states = [worker["status"] for worker in told["workers"]]
        requests = sum(worker["requests"] for worker in told["workers"])
        raised = sum(worker["exceptions"] for worker in told["workers"])
        waiting = int(told.get("listen_queue", 0))
        busy = f"{states.count('busy')} of {len(states)} busy"
        return f"{busy}, {waiting:d} waiting, {requests:d} requests, {raised:d} exceptions"
    except (OSError, http.client.HTTPException, *_NOT_STATISTICS):  # it does not run, or the site has something there
        return ""


def timeout(site: Site) -> int:
    """Seconds that uWSGI gives a request."""
    return int(site.config["server"]["options"].get("harakiri", 60))
