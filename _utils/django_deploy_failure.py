"""What is left of a release that failed, and what its source has and the pillar lacks."""

from collections.abc import Mapping
from typing import Any

import django_container_image
import django_host_file
import django_project_advice
import django_project_page
import django_release
import django_release_cure
import django_release_health
import django_release_instance
from django_host_command import DeploymentError
from django_release import Release


def advice(release: Release, step: str, error: DeploymentError, masked: list[str]) -> str:
    """Return what a failed release has in its source and the pillar lacks; complete the hint of the error.

    Args:
        masked: texts that no output may show.
    """
    if "settings_module" not in release.facts or not (release.path / "source").is_dir():
        return ""
    has_page = not isinstance(error, django_release_health.NoPage)
    about = release.site, release.path, release.facts
    error.hint = django_project_advice.with_fixtures(*about, error.hint)
    if error.hint.startswith(django_release_cure.GENERAL):
        error.hint = django_project_advice.unset_variables(*about, error.message) or error.hint
    routes = [] if has_page else django_project_page.routes(*about, masked)
    lacking = django_project_advice.not_in_pillar(*about, step, error.hint, has_page=has_page, routes=routes)
    pages = "" if "health:path: " in lacking else django_project_page.named(routes)
    return "\n".join(filter(None, [lacking, pages]))


def clear_away(release: Release, live: Release | None, record: Mapping[str, Any], *, is_transient: bool) -> list[str]:
    """Stop a release that failed, and keep its record, or nothing of it where a new try may help; return warnings.

    Args:
        live: the active release.
        record: what is recorded of the failure.
        is_transient: whether a new try may help.
    """
    site = release.site
    django_release_instance.remove(site, release.path)
    # Before a first release, the newest that failed keeps its source for `django.manage` and `django.check`.
    keeps = not live and (release.path / "config/environment").exists()
    for other in () if live else django_release.releases(site):
        if other.name != release.name:
            django_host_file.remove_tree(other.path / "source")
    for part in ("static",) if keeps else ("source", "static"):
        django_host_file.remove_tree(release.path / part)
    if is_transient:
        django_host_file.remove_tree(release.path)
    else:
        release.update(state="failed", **record)
    return django_container_image.prune(site, django_container_image.used(site))
