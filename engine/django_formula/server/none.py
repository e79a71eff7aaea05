"""No application server: for a host that runs only the workers and schedules of a site."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from django_formula.kind import kinds
from django_formula.server.contract import Server, Traits
from django_formula.site.sites import Site


class NoServer(Server):
    """What a release has on a host that visitors do not reach."""

    KIND = kinds.NO_SERVER
    TRAITS = Traits(place=7, templates=(), variants=(({"interface": ("asgi",)}, {"interface": "asgi"}),))
    MAIN = "instance.json"
    SERVES = False

    def configuration(
        self, site: Site, release: Path, variables: Mapping[str, Any], templates: Mapping[str, str]
    ) -> dict[str, str]:
        """Return no files."""
        return {}

    def command(self, release: Path, facts: Mapping[str, Any]) -> list[str]:
        """Return no command."""
        return []


SERVER = NoServer()
