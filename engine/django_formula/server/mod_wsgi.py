"""mod_wsgi (https://modwsgi.readthedocs.io): an Apache for each release, run by a program of the formula."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from django_formula.host import template
from django_formula.host.commands import seconds
from django_formula.server.contract import Server, Traits
from django_formula.site.sites import Site

#: Requests that Apache's one process takes at a time, at least; further ones wait at its socket.
_TAKERS = 64


class ModWsgi(Server):
    """An Apache with mod_wsgi, both packages of the system, in daemon or embedded mode."""

    KIND = "mod_wsgi"
    TRAITS = Traits(
        place=6,
        templates=(
            "mod_wsgi.conf",
            "django_formula_mod_wsgi.py",
            "django_formula_ready.py",
            "django_formula_wsgi.py",
            "django_formula_warm.py",
        ),
        port=8471,
        variants=(({"mode": ("embedded",)}, {"used_options": ("mode",)}),),
        programs=("mod_wsgi-express",),
    )
    MAIN = "mod_wsgi.conf"
    BINDS = True
    INHERITS = False
    TIMEOUT = "request-timeout"  # in embedded mode mod_wsgi sets no limit, and a request may be silent that long

    def python(self, site: Site) -> str:
        """Return the version that the system's mod_wsgi is built for, from its file name; empty where it is missing."""
        module = Path(site.platform["mod_wsgi"]["modules"], "mod_wsgi.so")
        return module.resolve().name.partition("mod_wsgi.so-")[2]

    def configuration(
        self, site: Site, release: Path, variables: Mapping[str, Any], templates: Mapping[str, str]
    ) -> dict[str, str]:
        """Return Apache's configuration, the program that runs it, the application: name in ``config/`` → content."""
        server, run = site.config["server"], variables["run"]
        platform, is_embedded = site.platform["mod_wsgi"], _is_embedded(site)
        options = {} if is_embedded else self._daemon_options(site)
        more = {
            "modules": platform["modules"],
            "embedded": is_embedded,
            "mpm": "mpm_prefork" if is_embedded and server["threads"] == 1 else "mpm_event",
            "takers": min(max(_TAKERS, 2 * variables["processes"] * server["threads"]), 4096),
            "drain": max(int(seconds(site.config["releases"]["drain"])), 1),
            # The process that runs the request has to give up first, and takes a moment for it.
            "timeout": self.timeout(site) + 10,
            "options": options,
            # Only the proxy of this host connects to it, and its headers have the address of the visitor.
            "trusted": ["127.0.0.0/8", "::1", *({variables["address"].rpartition(":")[0].strip("[]")} - {"::1"})],
        }
        given = {
            "apache": platform["program"],
            "modules": platform["modules"],
            "address": variables["address"],
            "module": variables["facts"]["application"],
            "folder": variables["chdir"],
            "options": options,
            "run": run,
        }
        return {
            self.MAIN: template.render(templates, self.templates[0], **more, **variables),
            "mod_wsgi.json": json.dumps(given, indent=1, sort_keys=True) + "\n",
            **self.programs(templates),
        }

    def _daemon_options(self, site: Site) -> dict[str, str]:
        """Return the options of the processes that run the project, spelled as mod_wsgi reads them."""
        options = {"request-timeout": self.timeout(site), **site.config["server"]["options"]}
        spelled = {True: "On", False: "Off"}
        return {
            name: spelled[value] if isinstance(value, bool) else str(value)
            for name, value in options.items()
            if name != "mode"
        }

    def command(self, release: Path, facts: Mapping[str, Any]) -> list[str]:
        """Return the command that runs Apache."""
        return [f"{release}/virtualenv/bin/python", "-I", "-S", f"{release}/config/django_formula_mod_wsgi.py"]

    def keeps_threads(self, site: Site) -> bool:
        """Return True: Apache's threads and those of mod_wsgi's processes run many requests."""
        return True


def _is_embedded(site: Site) -> bool:
    return bool(site.config["server"]["options"].get("mode") == "embedded")


SERVER = ModWsgi()
