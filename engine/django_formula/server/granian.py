"""Granian (https://github.com/emmett-framework/granian): ASGI or WSGI, run by a program of the formula."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from django_formula.host.commands import seconds
from django_formula.server.contract import Server, Traits
from django_formula.site.sites import Site


class Granian(Server):
    """Granian, which binds its socket itself: it takes no inherited one."""

    KIND = "granian"
    TRAITS = Traits(
        place=4,
        templates=("django_formula_granian.py", "django_formula_ready.py", "django_formula_unread.py"),
        interface="asgi",
        concurrency="ASGI",
        variants=(({"interface": ("wsgi",)}, {"interface": "wsgi", "concurrency": ""}),),
    )
    MAIN = "granian.json"
    BINDS = True
    INHERITS = False
    #: What is installed where the project does not require it; for Python 3.9 the last version is another.
    PACKAGES = {  # noqa: RUF012 - a constant
        ("granian",): ("granian==2.8.7; python_version >= '3.10'", "granian==2.5.7; python_version < '3.10'"),
        ("uvloop",): ("uvloop==0.23.0",),
    }

    def configuration(
        self, site: Site, release: Path, variables: Mapping[str, Any], templates: Mapping[str, str]
    ) -> dict[str, str]:
        """Return the settings of a release, and the programs that read them: file name in ``config/`` → content."""
        server = site.config["server"]
        drain = int(seconds(site.config["releases"]["drain"]))
        settings = {
            "interface": self.interface(site),
            "workers": variables["processes"],
            "workers_kill_timeout": min(max(drain, 1), 1800),
            "log_access": site.config["log"]["requests"],
            "url_path_prefix": site.config["path"].rstrip("/") or None,
            **({"blocking_threads": server["threads"]} if self.interface(site) == "wsgi" else {}),
        }
        given = {
            "address": variables["address"],
            "module": variables["facts"]["application"],
            "folder": variables["chdir"],
            "settings": settings,
            "options": server["options"],
            # Only the proxy can connect to it, and its headers have the address of the visitor.
            "trusted": "*" if "*" in variables["believed"] else variables["believed"],
            "run": variables["run"],
        }
        return {
            self.MAIN: json.dumps(given, indent=1, sort_keys=True) + "\n",
            **self.programs(templates),
        }

    def command(self, release: Path, facts: Mapping[str, Any]) -> list[str]:
        """Return the command that runs Granian."""
        return [f"{release}/virtualenv/bin/python", f"{release}/config/django_formula_granian.py"]


SERVER = Granian()
