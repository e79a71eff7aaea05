"""Gunicorn (https://docs.gunicorn.org): its settings in a JSON file that Python files of the formula read."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from django_formula.host.commands import seconds
from django_formula.server import uvicorn
from django_formula.server.contract import KEPT_ALIVE, Requirements, Server, Traits
from django_formula.site.sites import Site

#: What is installed where the project does not require it.
REQUIREMENTS: Requirements = {
    ("gunicorn",): ("gunicorn==27.0.1; python_version >= '3.10'", "gunicorn==23.0.0; python_version < '3.10'")
}
#: What a class of workers needs in addition.
_WORKERS: dict[str, Requirements] = {
    "gevent": {
        ("gevent",): ("gevent==26.9.0; python_version >= '3.10'", "gevent==24.11.1; python_version < '3.10'"),
        ("packaging",): ("packaging==25.0",),
    },
    "uvicorn": {
        **uvicorn.REQUIREMENTS,
        ("uvicorn-worker",): ("uvicorn-worker==0.4.0",),
    },
}


#: Gunicorn's own format, and the id of the request.
_ACCESS = '%(h)s %(l)s %(u)s %(t)s "%(r)s" %(s)s %(b)s "%(f)s" "%(a)s" [%({x-request-id}i)s]'


class Gunicorn(Server):
    """Gunicorn, with workers that run WSGI, or Uvicorn's, which run ASGI."""

    KIND = "gunicorn"
    TRAITS = Traits(
        place=2,
        templates=(
            "gunicorn.conf.py",
            "django_formula_gunicorn.py",
            "django_formula_warm.py",
            "django_formula_unread.py",
        ),
        keepalive="keepalive",
        variants=(
            (
                {"worker_class": (None, "sync"), "threads": (1,)},
                {"keepalive": "", "title": "gunicorn with worker_class sync"},
            ),
            ({"worker_class": ("gevent",)}, {"concurrency": "gevent"}),
            (
                {"worker_class": ("uvicorn",)},
                {"interface": "asgi", "concurrency": "uvicorn", "is_cutting": True, "max_requests": 0},
            ),
        ),
    )
    MAIN = "gunicorn.json"
    TIMEOUT = "timeout"

    def requirements(self, site: Site) -> Requirements:
        """Return Gunicorn, and the packages of its workers."""
        return {**REQUIREMENTS, **_WORKERS.get(_worker_class(site), {})}

    def configuration(
        self, site: Site, release: Path, variables: Mapping[str, Any], templates: Mapping[str, str]
    ) -> dict[str, str]:
        """Return the settings of a release, and what reads them: file name in ``config/`` → content."""
        run = variables["run"]
        given = {
            "settings": _settings(site, variables, run),
            "module": variables["facts"]["application"],
            "options": site.config["server"]["options"],
            "script_name": site.config["path"].rstrip("/"),
            "ready": f"{run}/ready",
        }
        return {
            self.MAIN: json.dumps(given, indent=1, sort_keys=True) + "\n",
            **self.programs(templates),
        }

    def command(self, release: Path, facts: Mapping[str, Any]) -> list[str]:
        """Return the command that runs Gunicorn."""
        config = f"{release}/config/gunicorn.conf.py"
        return [f"{release}/virtualenv/bin/gunicorn", "--config", config, "django_formula_gunicorn:application"]

    def keeps_threads(self, site: Site) -> bool:
        """Return whether threads run the requests: gevent has a greenlet for each, Uvicorn a task."""
        return _worker_class(site) not in ("gevent", "uvicorn")


def _worker_class(site: Site) -> str:
    return str(site.config["server"]["options"].get("worker_class") or "sync")


def _settings(site: Site, variables: Mapping[str, Any], run: str) -> dict[str, Any]:
    """Return the formula's settings of Gunicorn, which the pillar's options replace."""
    server = site.config["server"]
    settings = {
        "chdir": variables["chdir"],
        "workers": variables["processes"],
        "threads": server["threads"],
        # gevent patches Python in each worker, which has no effect on modules that were imported before.
        "preload_app": _worker_class(site) != "gevent",
        "max_requests": server["max_requests"],
        "max_requests_jitter": server["max_requests"] // 10,
        "timeout": 60,
        "limit_request_line": 8190,  # the longest line that nginx and Apache pass on
        **({"keepalive": KEPT_ALIVE} if site.config["proxy"].get("keepalive") else {}),
        "graceful_timeout": int(seconds(site.config["releases"]["drain"])),
        "pidfile": f"{run}/pid",
        "worker_tmp_dir": run,
        "accesslog": "-" if site.config["log"]["requests"] else None,
        "access_log_format": _ACCESS,
        "proc_name": variables["unit"],
        "control_socket_disable": True,
        # Only the proxy can connect to it, and its headers have the address of the visitor.
        "forwarded_allow_ips": ",".join(variables["believed"]),
    }
    if not variables["believed"]:
        settings |= {"secure_scheme_headers": {}, "forwarder_headers": ""}  # Gunicorn trusts every peer on a socket
    return settings


SERVER = Gunicorn()
