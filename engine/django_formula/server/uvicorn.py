"""Uvicorn (https://www.uvicorn.org): an ASGI server, run by a program of the formula that reads a JSON file."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from django_formula.host.commands import seconds
from django_formula.server.contract import KEPT_ALIVE, Requirements, Server, Traits
from django_formula.site.sites import Site

#: What is installed where the project does not require it; for Python 3.9 and older the last versions are others.
REQUIREMENTS: Requirements = {
    ("uvicorn",): ("uvicorn==0.54.0; python_version >= '3.10'", "uvicorn==0.33.0; python_version < '3.10'"),
    ("uvloop",): ("uvloop==0.23.0",),
    ("httptools",): ("httptools==0.9.0",),
    ("websockets", "wsproto"): ("websockets==15.0.1",),
}


class Uvicorn(Server):
    """Uvicorn, with as many processes as configured on one inherited socket."""

    KIND = "uvicorn"
    TRAITS = Traits(
        place=3,
        templates=("django_formula_uvicorn.py", "django_formula_ready.py"),
        interface="asgi",
        concurrency="ASGI",
        keepalive="timeout_keep_alive",
        is_cutting=True,
    )
    MAIN = "uvicorn.json"
    PACKAGES = REQUIREMENTS

    def configuration(
        self, site: Site, release: Path, variables: Mapping[str, Any], templates: Mapping[str, str]
    ) -> dict[str, str]:
        """Return the settings of a release, and the programs that read them: file name in ``config/`` → content."""
        server, run = site.config["server"], variables["run"]
        settings = {
            "workers": variables["processes"],
            "limit_max_requests": server["max_requests"] or None,
            "limit_max_requests_jitter": server["max_requests"] // 10,
            "timeout_graceful_shutdown": int(seconds(site.config["releases"]["drain"])),
            **({"timeout_keep_alive": KEPT_ALIVE} if site.config["proxy"].get("keepalive") else {}),
            "access_log": site.config["log"]["requests"],
            # Only the proxy can connect to it, and its headers have the address of the visitor.
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
            self.MAIN: json.dumps(given, indent=1, sort_keys=True) + "\n",
            **self.programs(templates),
        }

    def command(self, release: Path, facts: Mapping[str, Any]) -> list[str]:
        """Return the command that runs Uvicorn."""
        return [f"{release}/virtualenv/bin/python", f"{release}/config/django_formula_uvicorn.py"]


SERVER = Uvicorn()
