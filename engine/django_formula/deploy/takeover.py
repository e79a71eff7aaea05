"""The takeover of an existing deployment, as steps use it; it is loaded for a site that may have one."""

from collections.abc import Collection, Mapping
from typing import Any, Protocol

from django_formula.deploy import database
from django_formula.deploy.entries import entry
from django_formula.host.config_files import Files
from django_formula.host.folders import Folder
from django_formula.host.outcome import Outcome
from django_formula.release import releases
from django_formula.release.releases import Release
from django_formula.site import sites
from django_formula.site.sites import Site


class Takeover(Protocol):
    """The takeover of an existing deployment, as steps use it.

    Attributes:
        plan: ``phase``, ``found``, ``kept`` and more.
    """

    plan: dict[str, Any]

    def write(self, **values: Any) -> None:
        """Change values of the plan, and write it to disk."""

    def as_state_changes(self) -> dict[str, str]:
        """Return what becomes of each part, by its path."""

    def warnings(self) -> list[str]:
        """Return what the operator has to know of it."""

    def folders(self) -> list[Folder]:
        """Return the site's folders, as long as the existing deployment has its data there."""

    def check_data(self) -> None:
        """Refuse data that could not be handed over."""

    def hand_over(self) -> None:
        """Copy or share the data."""

    def check(self, release: Release, databases: dict[str, dict[str, str]]) -> None:
        """Refuse a release that would not use the data."""

    def release_data(self) -> None:
        """Let the existing deployment use its data again."""

    def switch(self, files: Files, templates: Mapping[str, str]) -> None:
        """Let the proxy serve the release instead of the existing deployment."""

    def end(self) -> list[str]:
        """Stop the existing deployment and move it aside; return warnings."""


def in_progress(site: Site) -> Takeover | None:
    """Return the takeover that an apply has begun, or None."""
    takeover: Takeover | None = entry("takeover in progress")(site) if site.adopted.is_dir() else None
    return takeover


def due(site: Site) -> Takeover | None:
    """Return the takeover that is in progress or would begin, or None.

    Raises:
        DeploymentError: there is an existing deployment, and the pillar does not say ``adopt``.
    """
    if not site.adopted.is_dir() and site.current.is_symlink() and site.applied.exists():
        return None
    takeover: Takeover | None = entry("takeover that is due")(site)
    return takeover


def adoption(site: Site, names: Collection[str], *, test: bool) -> Outcome:
    """Look for another deployment where a site is going to be; nothing is changed.

    Args:
        site: the site.
        names: those of all sites in the pillar.
        test: whether this is a dry run.

    Raises:
        DeploymentError: there is one that is not to be taken over, or the pillar gives the site an empty database.
    """
    sites.refuse_another_identity(site, names)
    takeover = due(site)
    live = releases.linked(site, site.current)
    warnings = [*(takeover.warnings() if takeover else []), *(database.foresee(site, live) if live else [])]
    if not takeover:
        return Outcome(f"no other deployment found in {site.root}", warnings=warnings)
    if test:
        comment = f"{site.name}: the existing deployment would be taken over"
        return Outcome(comment, takeover.as_state_changes(), warnings)
    begins = f"{site.name}: the existing deployment is taken over when the new release is activated:"
    return Outcome("\n  ".join([begins, *takeover.plan["found"]]), warnings=warnings)
