"""What the settings of a release answer, as a person reads it: comments, and the part of a pillar that follows."""

from collections.abc import Iterator, Mapping
from typing import Any

from django_formula.host.commands import DeploymentError
from django_formula.inspect import advice
from django_formula.inspect import report as inspect_report
from django_formula.observe import observation
from django_formula.observe.observation import LISTS, MAPS, Observation, Variable
from django_formula.release import releases
from django_formula.release.releases import Release
from django_formula.site import sites
from django_formula.site.sites import Site

#: The words for each fact.
_TOLD = {
    "databases": "databases",
    "caches": "caches",
    "storages": "storages",
    "logs": "files of logs",
    "servers": "settings with a server of this host, unless the pillar sets them",
    "eager": "tasks run in the process that asks for them, not in a worker",
    "brokers": "brokers of Celery",
    "workers": "tasks for workers",
    "routes": "pages",
    "migrations": "applications whose models differ from their committed migrations",
    "unmigrated": "applications without any migration",
    "checks": "Django's checks that fail",
    "middleware": "MIDDLEWARE_CLASSES, which this Django does not read, has",
    "written": "written in the source, or tried to",
    "missing": "modules that no requirement has",
}
#: How a variable is in a setting.
_HOW = {"whole": "", "part": " (a part of it)", "element": " (one of a list)", "switched": " (another value)"}
#: The most settings and pages that a line names.
_SETTINGS, _ENTRIES = 8, 30


def describe(name: str) -> str:
    """Return what the settings of a site's release ask for and say, and the part of a pillar that follows from it.

    Raises:
        DeploymentError: there is no such site or release, or its settings cannot be asked.
    """
    site = sites.find(name)
    release = _release(site)
    why = observation.impossible(release.path)
    if why:
        raise DeploymentError(f"the settings of {name} cannot be asked: {why}", hint=f"salt-call django.check {name}")
    found = observation.of(site, release.path, advice.own(release.path, release.facts), everything=True)
    return text(site, release.name, found)


def _release(site: Site) -> Release:
    """Return the active release; before the first one, the newest that failed and has its source and packages."""
    live = releases.linked(site, site.current)
    for release in [live] if live else reversed(releases.releases(site)):
        parts = [release.path / part for part in ("source", "virtualenv/bin/python", "config/environment")]
        if "settings_module" in release.facts and all(part.exists() for part in parts):
            return release
    raise DeploymentError(
        f"{site.name} has no release on this host whose settings can be asked", hint="salt-call state.apply django"
    )


def text(site: Site, release: str, found: Observation) -> str:
    """Return an observation as a part of a pillar, with comments."""
    said = [*remarks(found), *(_variable(one) for one in _sorted(found))]
    return inspect_report.text(f"{site.name}, asked of {release}", site.name, said, _lines(site, found))


def _sorted(found: Observation) -> list[Variable]:
    return sorted(found.variables, key=lambda one: (not one.is_required, one.name))


def remarks(found: Observation) -> Iterator[str]:
    """Yield how far a project has started, and its facts."""
    reached = "started without network, secrets and database" if found.stage == "done" else f"ended at {found.stage}"
    yield f"{reached}{f': {found.error}' if found.error else ''} ({found.attempts} attempts)"
    for name in (*MAPS, *LISTS):
        told = found.facts.get(name) or []
        entries = [f"{key}: {value}" for key, value in told.items()] if isinstance(told, Mapping) else [*told]
        if entries:
            more = f" and {len(entries) - _ENTRIES} more" if len(entries) > _ENTRIES else ""
            yield f"{_TOLD[name]}: {', '.join(entries[:_ENTRIES])}{more}"
    group = [one.name for one in found.variables if one.is_together]
    if group:
        yield f"a database that only these variables make together: {', '.join(group)}"


def _variable(one: Variable) -> str:
    """Return a line on a variable: whether it is required, where it is read, its settings, and what is without it."""
    settings = [f"{path}{_HOW[how]}" for path, how in one.feeds.items()]
    parts = ["required" if one.is_required else f"without it {one.default}" if one.default else "not required"]
    parts += [f"read in {one.place}"] if one.place else []
    parts += [f"in {', '.join(settings[:_SETTINGS])}"] if settings else []
    return f"{one.name}: {'; '.join(parts)}"


def _lines(site: Site, found: Observation) -> Iterator[dict[str, Any]]:
    """Yield the lines of a pillar for what is required, and for a database that has to be made of variables."""
    wanted = [one for one in _sorted(found) if one.is_required or one.is_together]
    words = {one.name: one.value for one in wanted if one.word}
    made_up = {one.name: {"generate": 50} for one in wanted if one.is_made_up}
    for key, entries in (("environment", words), ("secrets", made_up)):
        if entries:
            listed = [{"key": name, "value": value, "remark": ""} for name, value in entries.items()]
            yield {"key": key, "entries": listed}
    for key, value in observation.lacking(site, wanted).items():
        yield {"key": key, "value": value, "remark": ""}
