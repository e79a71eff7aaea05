"""Gunicorn (https://docs.gunicorn.org): its settings in a JSON file that a Python file of the formula reads."""

import json
from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Any

from django_command import seconds
from django_site import Site

CONF = "salt://django/files/gunicorn.conf.py"
#: What is installed where the project does not bring it. The last version for Python 3.9 and older is another.
_GUNICORN = ("gunicorn==27.0.1; python_version >= '3.10'", "gunicorn==23.0.0; python_version < '3.10'")
_GEVENT = ("gevent==26.9.0; python_version >= '3.10'", "gevent==24.11.1; python_version < '3.10'")
_WORKERS = {"gevent": _GEVENT}

PROTOCOLS: tuple[str, ...] = ("http",)
TEMPLATES: tuple[str, ...] = (CONF,)
MAIN = "gunicorn.json"
BINDS = False
WRITES_LOG = False


def requirements(site: Site) -> list[str]:
    """Gunicorn, and the package of its workers."""
    return [*_GUNICORN, *_WORKERS.get(_worker(site), ())]


def missing(site: Site, virtualenv: Path, packages: Collection[str]) -> list[str]:
    """Those of its requirements that the project has not brought."""
    del virtualenv
    worker = _worker(site)
    return [
        *(_GUNICORN if "gunicorn" not in packages else ()),
        *(_WORKERS.get(worker, ()) if worker not in packages else ()),
    ]


def _worker(site: Site) -> str:
    return str(site.config["server"]["options"].get("worker_class", "sync"))


def configuration(
    site: Site, release: Path, variables: Mapping[str, Any], templates: Mapping[str, str]
) -> dict[str, str]:
    """The settings of a release, and what has gunicorn read them: file name in ``config/`` → content."""
    del release
    server, run = site.config["server"], f"/run/{variables['unit']}"
    settings = {
        "chdir": variables["chdir"],
        "workers": variables["processes"],
        "threads": server["threads"],
        "preload_app": True,
        "max_requests": server["max_requests"],
        "max_requests_jitter": server["max_requests"] // 10,
        "timeout": 60,
        "graceful_timeout": int(seconds(site.config["releases"]["drain"])),
        "pidfile": f"{run}/pid",
        "worker_tmp_dir": run,
        "accesslog": "-" if site.config["log"]["requests"] else None,
        "proc_name": variables["unit"],
        "control_socket_disable": True,
    }
    given = {
        "settings": settings,
        "options": server["options"],
        "script_name": site.config["path"].rstrip("/"),
        "ready": f"{run}/ready",
    }
    return {MAIN: json.dumps(given, indent=1, sort_keys=True) + "\n", "gunicorn.conf.py": templates[CONF]}


def command(release: Path, facts: Mapping[str, Any]) -> list[str]:
    """What runs gunicorn."""
    config = f"{release}/config/gunicorn.conf.py"
    return [f"{release}/virtualenv/bin/gunicorn", "--config", config, f"{facts['wsgi']}:application"]


def timeout(site: Site) -> int:
    """Seconds that gunicorn gives a request of a worker that has one at a time."""
    return int(site.config["server"]["options"].get("timeout", 60))
