"""Daphne (https://github.com/django/daphne): Channels' ASGI server, run by a program of the formula."""

import ipaddress
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from django_formula.host.commands import seconds
from django_formula.server.contract import Server, Traits
from django_formula.site.sites import Site


class Daphne(Server):
    """Daphne, with as many processes as configured on one inherited socket."""

    KIND = "daphne"
    TRAITS = Traits(
        place=5,
        templates=("django_formula_daphne.py", "django_formula_ready.py"),
        interface="asgi",
        concurrency="ASGI",
        suggested_by=("daphne", "channels"),
    )
    MAIN = "daphne.json"
    TIMEOUT = "http_timeout"
    #: What is installed where the project does not require it.
    PACKAGES = {("daphne",): ("daphne==4.2.3",)}  # noqa: RUF012 - a constant

    def configuration(
        self, site: Site, release: Path, variables: Mapping[str, Any], templates: Mapping[str, str]
    ) -> dict[str, str]:
        """Return the settings of a release, and the programs that read them: file name in ``config/`` → content."""
        headers = {
            "proxy_forwarded_address_header": "X-Forwarded-For",
            "proxy_forwarded_proto_header": "X-Forwarded-Proto",
        }
        given = {
            "module": variables["facts"]["application"],
            "folder": variables["chdir"],
            "prefix": site.config["path"].rstrip("/"),
            "processes": variables["processes"],
            "drain": int(seconds(site.config["releases"]["drain"])),
            "log_requests": site.config["log"]["requests"],
            "settings": {"server_name": "", **(headers if _is_proxy_alone(variables) else {})},
            "options": site.config["server"]["options"],
            "run": variables["run"],
        }
        return {self.MAIN: json.dumps(given, indent=1, sort_keys=True) + "\n", **self.programs(templates)}

    def command(self, release: Path, facts: Mapping[str, Any]) -> list[str]:
        """Return the command that runs Daphne."""
        return [f"{release}/virtualenv/bin/python", f"{release}/config/django_formula_daphne.py"]


def _is_proxy_alone(variables: Mapping[str, Any]) -> bool:
    """Return whether only this host can connect: Daphne trusts the proxy's headers from every peer."""
    host = str(variables["address"]).rpartition(":")[0].strip("[]")
    return bool(variables["believed"]) and (variables["unix"] or ipaddress.ip_address(host).is_loopback)


SERVER = Daphne()
