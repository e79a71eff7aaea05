"""Gunicorn (https://docs.gunicorn.org): its settings in a JSON file that a Python file of the formula reads."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import django_server_uvicorn
from django_host_command import seconds
from django_process import KEPT_ALIVE, Requirements
from django_site import Site
from django_wall_foreign import Foreign

CONF = "salt://django/files/gunicorn.conf.py"
#: What that imports: file name in ``config/`` → template.
_PROGRAMS = {name: f"salt://django/files/{name}" for name in ("django_formula_warm.py", "django_formula_unread.py")}
_GUNICORN: Requirements = {
    ("gunicorn",): ("gunicorn==27.0.1; python_version >= '3.10'", "gunicorn==23.0.0; python_version < '3.10'")
}
#: What a class of workers needs besides.
_WORKERS: dict[str, Requirements] = {
    "gevent": {
        ("gevent",): ("gevent==26.9.0; python_version >= '3.10'", "gevent==24.11.1; python_version < '3.10'"),
        ("packaging",): ("packaging==25.0",),
    },
    "uvicorn": {
        **django_server_uvicorn.REQUIREMENTS,
        ("uvicorn-worker",): ("uvicorn-worker==0.4.0",),
    },
}

TEMPLATES: tuple[str, ...] = (CONF, *_PROGRAMS.values())
MAIN = "gunicorn.json"
BINDS = False
INHERITS = True
WRITES_LOG = False


def interface(site: Site) -> str:
    """ASGI where its workers are Uvicorn's."""
    return "asgi" if _worker_class(site) == "uvicorn" else "wsgi"


def _worker_class(site: Site) -> str:
    return str(site.config["server"]["options"].get("worker_class") or "sync")


def requirements(site: Site) -> Requirements:
    """Gunicorn, and the packages of its workers."""
    return {**_GUNICORN, **_WORKERS.get(_worker_class(site), {})}


def python(site: Site) -> str:
    """Any."""
    del site
    return ""


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
        # gevent patches Python in each worker: what was imported before has not been.
        "preload_app": _worker_class(site) != "gevent",
        "max_requests": server["max_requests"],
        "max_requests_jitter": server["max_requests"] // 10,
        "timeout": 60,
        "limit_request_line": 8190,  # as long as a proxy lets through
        **({"keepalive": KEPT_ALIVE} if site.config["proxy"].get("keepalive") else {}),
        "graceful_timeout": int(seconds(site.config["releases"]["drain"])),
        "pidfile": f"{run}/pid",
        "worker_tmp_dir": run,
        "accesslog": "-" if site.config["log"]["requests"] else None,
        "proc_name": variables["unit"],
        "control_socket_disable": True,
        # Nobody but the proxy reaches it, and that says who the visitor is.
        "forwarded_allow_ips": ",".join(variables["believed"]),
    }
    if not variables["believed"]:
        settings |= {"secure_scheme_headers": {}, "forwarder_headers": ""}  # whoever comes by a socket is believed
    given = {
        "settings": settings,
        "options": server["options"],
        "script_name": site.config["path"].rstrip("/"),
        "ready": f"{run}/ready",
    }
    return {
        MAIN: json.dumps(given, indent=1, sort_keys=True) + "\n",
        "gunicorn.conf.py": templates[CONF],
        **{name: templates[url] for name, url in _PROGRAMS.items()},
    }


def command(release: Path, facts: Mapping[str, Any]) -> list[str]:
    """What runs gunicorn."""
    config = f"{release}/config/gunicorn.conf.py"
    return [f"{release}/virtualenv/bin/gunicorn", "--config", config, f"{facts['application']}:application"]


def keeps_threads(site: Site) -> bool:
    """Unless each request has a greenlet or a task of its own."""
    return _worker_class(site) not in ("gevent", "uvicorn")


def workers(run: Foreign) -> str:
    """Nothing: there is nobody to ask."""
    del run
    return ""


def timeout(site: Site) -> int:
    """Seconds that gunicorn gives a request of a worker that has one at a time."""
    return int(site.config["server"]["options"].get("timeout", 60))
