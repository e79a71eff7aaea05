"""Which releases commands run in that are no part of a deployment: those are not deleted."""

import re

from django_formula.host.locks import Lock
from django_formula.process import transient
from django_formula.release.releases import LOCK_OF_SCHEDULE
from django_formula.site.sites import Site


def names(site: Site) -> set[str]:
    """Return the names of the releases that a schedule or a command of the command line runs in."""
    return {*schedules(site).values()} | transient.releases_of_commands(site)


def schedules(site: Site) -> dict[str, str]:
    """Return the schedules whose command runs: name → the name of the release that it runs in."""
    paths = sorted(site.schedules.glob(f"*{LOCK_OF_SCHEDULE}"))
    holders = {path.stem: Lock(path, "", busy="", timeout="0s", hint="").holder() for path in paths}
    return {name: text.split()[0] for name, text in holders.items() if re.match(r"\d{4,}-[0-9a-f]{12} ", text)}
