"""What is left of a release that failed, and what its source has and the pillar lacks."""

import functools
import os
from collections.abc import Mapping
from typing import Any

from django_formula.container import images
from django_formula.database import databases, sqlite
from django_formula.host import file
from django_formula.host.commands import DeploymentError
from django_formula.inspect import advice as inspect_advice
from django_formula.inspect import dependency
from django_formula.knowledge import hints
from django_formula.observe import observation
from django_formula.project import failure as project_failure
from django_formula.project import page
from django_formula.release import health, instances, releases
from django_formula.release.releases import Release
from django_formula.untrusted.text import in_command
from django_formula.virtualenv import virtualenvs

#: The steps in which the project starts: where another one fails, its settings were imported before.
_STARTS = ("static", "instance")


def advice(release: Release, step: str, error: DeploymentError, masked: list[str]) -> str:
    """Return what a failed release has in its source and the pillar lacks; complete the hint of the error.

    Args:
        masked: texts that no output may show.
    """
    if "settings_module" not in release.facts or not (release.path / "source").is_dir():
        return ""
    has_page = not isinstance(error, health.NoPage)
    about = release.site, release.path, release.facts
    error.hint = inspect_advice.with_fixtures(*about, error.hint)
    if error.hint.startswith(health.GENERAL):
        packages = virtualenvs.packages(release.path / "virtualenv")
        using = functools.partial(inspect_advice.using, release.site, release.path)
        of_python = dependency.of_python(release.site, error.message, error.log, packages, using)
        error.hint = of_python or inspect_advice.unset_variables(*about, error.message) or error.hint
    routes = [] if has_page else page.routes(*about, masked)
    lacking = inspect_advice.not_in_pillar(*about, step, error.hint, has_page=has_page, routes=routes)
    pages = "" if "health:path: " in lacking else page.named(routes)
    variables = _variables(release, error) if has_page and step in _STARTS else ""
    rows = _rows(release) if error.hint.startswith(health.GENERAL) else ""
    error.options = hints.merged(error.options, lacking, pages, variables)
    return "\n".join(filter(None, [lacking, pages, variables, rows]))


def _variables(release: Release, error: DeploymentError) -> str:
    """Return the variables that the settings lack, where the hint of an error has no cure and does not name them."""
    if error.options or not (release.path / "config/environment").exists():
        return ""
    observed = observation.needed(release.site, release.path, inspect_advice.own(release.path, release.facts))
    unnamed = [one for one in observed if one.name not in error.hint]
    return project_failure.set_variables(release.site, [], observed) if unnamed else ""


def _rows(release: Release) -> str:
    """Return how a site that was never released gets the rows of the database that is in its source."""
    site = release.site
    engine = site.config["databases"].get("default", {}).get("engine")
    if engine not in (None, "sqlite") or releases.has_released(site):
        return ""
    path = inspect_advice.committed_database(site, release.path, release.facts)
    own = databases.sqlite_path(site, "default") if engine else site.database.top / os.path.basename(path)
    source = f"{release.path}/source/{path}"
    command = in_command(*sqlite.copy_command(site.user, source, own, committed=True)) if path else ""
    if not command:
        return ""
    return f"its database is empty, and {path} in the source has one; copy it if the page needs its rows: {command}"


def clear_away(release: Release, live: Release | None, record: Mapping[str, Any], *, is_transient: bool) -> list[str]:
    """Stop a release that failed, and keep its record, or nothing of it where a new try may help; return warnings.

    Args:
        live: the active release.
        record: what is recorded of the failure.
        is_transient: whether a new try may help.
    """
    site = release.site
    instances.remove(site, release.path)
    # Before a first release, the newest that failed keeps its source for `django.manage` and `django.check`.
    keeps = not live and (release.path / "config/environment").exists()
    for other in () if live else releases.releases(site):
        if other.name != release.name:
            file.remove_tree(other.path / "source")
    for part in ("static",) if keeps else ("source", "static"):
        file.remove_tree(release.path / part)
    if is_transient:
        file.remove_tree(release.path)
    else:
        release.update(state="failed", **record)
    return images.prune(site, images.used(site))
