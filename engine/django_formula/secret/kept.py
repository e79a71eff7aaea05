"""Secrets of the pillar's that the formula itself uses: kept for commands, which have no pillar."""

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, NamedTuple

from django_formula.host import file
from django_formula.site.sites import Site


class KeptSecret(NamedTuple):
    """A secret that the last apply keeps in a file, which only root can read.

    Attributes:
        name: of its file in the site's folder of secrets.
        reference: returns where the pillar has it, from a site's configuration; nothing where it has none.
    """

    name: str
    reference: Callable[[Mapping[str, Any]], Any]

    def path(self, site: Site) -> Path:
        """Return its file."""
        return site.secrets / self.name

    def value(self, site: Site, given: str | None) -> str | None:
        """Return the secret: the pillar's, else the one that the last apply kept; None where the pillar has none."""
        return (given or file.read_text(self.path(site))) if self.reference(site.config) else None

    def is_kept(self, site: Site, value: str | None) -> bool:
        """Return whether `keep` would change nothing."""
        return file.read_text(self.path(site)) == value

    def keep(self, site: Site, value: str | None) -> None:
        """Keep a value; None removes it."""
        if value:
            file.write(self.path(site), value, mode=0o600)
        else:
            self.path(site).unlink(missing_ok=True)
