"""Uvicorn (https://www.uvicorn.org): an ASGI server, run by a program of the formula that reads a JSON file."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from django_host_command import seconds
from django_process import KEPT_ALIVE, Requirements
from django_site import Site
from django_wall_foreign import Foreign

#: What runs uvicorn, and what that imports: file name in ``config/`` → template.
_PROGRAMS = {name: f"salt://django/files/{name}" for name in ("django_formula_uvicorn.py", "django_formula_ready.py")}
#: What is installed where the project does not bring it; Python 3.9 and older have another last version.
REQUIREMENTS: Requirements = {
    ("uvicorn",): ("uvicorn==0.54.0; python_version >= '3.10'", "uvicorn==0.33.0; python_version < '3.10'"),
    ("uvloop",): ("uvloop==0.23.0",),
    ("httptools",): ("httptools==0.9.0",),
    ("websockets", "wsproto"): ("websockets==15.0.1",),
}

TEMPLATES: tuple[str, ...] = (*_PROGRAMS.values(),)
MAIN = "uvicorn.json"
BINDS = False
INHERITS = True
WRITES_LOG = False


def interface(site: Site) -> str:
    """Always ASGI."""
    del site
    return "asgi"


def requirements(site: Site) -> Requirements:
    """Uvicorn, and what it needs to be quick and for websockets."""
    del site
    return REQUIREMENTS


def python(site: Site) -> str:
    """Any."""
    del site
    return ""


def configuration(
    site: Site, release: Path, variables: Mapping[str, Any], templates: Mapping[str, str]
) -> dict[str, str]:
    """The settings of a release, and the programs that read them: file name in ``config/`` → content."""
    del release
    server, run = site.config["server"], f"/run/{variables['unit']}"
    settings = {
        "workers": variables["processes"],
        "limit_max_requests": server["max_requests"] or None,
        "limit_max_requests_jitter": server["max_requests"] // 10,
        "timeout_graceful_shutdown": int(seconds(site.config["releases"]["drain"])),
        **({"timeout_keep_alive": KEPT_ALIVE} if site.config["proxy"].get("keepalive") else {}),
        "access_log": site.config["log"]["requests"],
        # Nobody but the proxy reaches it, and that says who the visitor is.
        "proxy_headers": True,
        "forwarded_allow_ips": ",".join(variables["believed"]),
        "server_header": False,
    }
    given = {
        "module": variables["facts"]["application"],
        "folder": variables["chdir"],
        "prefix": site.config["path"].rstrip("/"),
        "settings": settings,
        "options": server["options"],
        "run": run,
    }
    return {
        MAIN: json.dumps(given, indent=1, sort_keys=True) + "\n",
        **{name: templates[url] for name, url in _PROGRAMS.items()},
    }


def command(release: Path, facts: Mapping[str, Any]) -> list[str]:
    """What runs uvicorn."""
    del facts
    return [f"{release}/virtualenv/bin/python", f"{release}/config/django_formula_uvicorn.py"]


def keeps_threads(site: Site) -> bool:
    """Not so in Django's ASGI."""
    del site
    return False


def workers(run: Foreign) -> str:
    """Nothing: there is nobody to ask."""
    del run
    return ""


def timeout(site: Site) -> int:
    """Seconds that a request may be silent: the server itself sets no limit."""
    del site
    return 60
