"""uWSGI (https://uwsgi-docs.readthedocs.io): an ini file, by its own protocol or HTTP."""

import http.client
import json
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from django_formula.host import template, unix_sockets
from django_formula.server.contract import Requirements, Server, Traits
from django_formula.site.sites import Site
from django_formula.untrusted.foreign import Foreign
from django_formula.untrusted.response import Bounded

PYUWSGI = "pyuwsgi==2.0.30.post1"

#: What reading an answer raises that is none of uWSGI's statistics.
_NOT_STATISTICS = (ValueError, LookupError, TypeError, AttributeError, ArithmeticError, RecursionError)


class Uwsgi(Server):
    """uWSGI, as the wheel pyuwsgi unless the project requires uWSGI itself."""

    KIND = "uwsgi"
    TRAITS = Traits(
        place=1,
        templates=("uwsgi.ini", "django_formula_uwsgi.py", "django_formula_warm.py", "django_formula_unread.py"),
        programs=("uwsgi", "uwsgi-core"),
    )
    MAIN = "uwsgi.ini"
    BINDS = True
    WRITES_LOG = True
    TIMEOUT = "harakiri"

    def requirements(self, site: Site) -> Requirements:
        """Return the wheel of uWSGI, which is installed where the project requires neither it nor uWSGI itself."""
        return {("pyuwsgi", "uwsgi"): (PYUWSGI,)}

    def configuration(
        self, site: Site, release: Path, variables: Mapping[str, Any], templates: Mapping[str, str]
    ) -> dict[str, str]:
        """Return the ini file of a release, and what it imports: file name in ``config/`` → content."""
        binary = _binary(variables["virtualenv"])
        return {
            self.MAIN: template.render(
                templates, self.templates[0], binary=str(binary), backlog=_backlog(), **variables
            ),
            **self.programs(templates),
        }

    def command(self, release: Path, facts: Mapping[str, Any]) -> list[str]:
        """Return the command that runs uWSGI."""
        return [f"{release}/virtualenv/bin/uwsgi", "--ini", f"{release}/config/{self.MAIN}"]

    def keeps_threads(self, site: Site) -> bool:
        """Return whether threads run the requests: options may replace them by greenlets or tasks."""
        return not {"gevent", "asyncio", "ugreen", "async"} & {*site.config["server"]["options"]}

    def workers(self, run: Foreign) -> str:
        """Return what uWSGI reports of its processes at ``stats.sock``, which uwsgitop reads too."""
        try:
            folder = run.status()
            owner = folder.st_uid if folder else -1
            with unix_sockets.connect(str(run / "stats.sock"), owner, 2) as stats:
                report = json.loads(Bounded(stats, time.monotonic() + 2).read())
            states = [worker["status"] for worker in report["workers"]]
            requests = sum(worker["requests"] for worker in report["workers"])
            raised = sum(worker["exceptions"] for worker in report["workers"])
            waiting = int(report.get("listen_queue", 0))
            busy = f"{states.count('busy')} of {len(states)} busy"
            return f"{busy}, {waiting:d} waiting, {requests:d} requests, {raised:d} exceptions"
        except (OSError, http.client.HTTPException, *_NOT_STATISTICS):  # not running, or the site replaced the socket
            return ""


def _binary(virtualenv: Path) -> Path:
    """Return what uWSGI executes on a reload: the interpreter where ``uwsgi`` is a script (pyuwsgi), else itself."""
    uwsgi = virtualenv / "bin/uwsgi"
    is_script = (Foreign(virtualenv.resolve()) / "bin/uwsgi").begins_with(b"#!")
    # None: the virtualenv was made for another server, as in a plan of a change.
    return uwsgi if is_script is False else uwsgi.with_name("python")


def _backlog() -> int:
    """Return how many connections may wait at a socket that the server binds: uWSGI refuses more than the kernel."""
    return min(1024, int(Path("/proc/sys/net/core/somaxconn").read_text()))


SERVER = Uwsgi()
