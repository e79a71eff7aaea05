"""What an upgrade of the distribution changes for sites, before it is done: the rows of `django.upgrade_check`."""

import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from django_formula.host import distribution, file
from django_formula.host.commands import DeploymentError
from django_formula.host.distribution import Release as Distribution
from django_formula.knowledge import python_versions
from django_formula.process import sandbox
from django_formula.process.systemd import UNITS
from django_formula.release import disk, instances
from django_formula.release import releases as release_releases
from django_formula.release.releases import Release
from django_formula.site import sites
from django_formula.site.sites import Site
from django_formula.store import service, stores
from django_formula.untrusted import delegate
from django_formula.verbs import terminal
from django_formula.virtualenv import index, interpreter, kept, relaxed_pins, requirements, virtualenvs, wheels

#: A package of one version of Python, such as python3.11-dev or libpython3.11.
_OF_VERSION = re.compile(r"(?:lib)?python(3\.\d+)(-[a-z-]+)?")
#: What systemd writes at boot where it runs in a container.
_CONTAINER = Path("/run/systemd/container")


class Row(NamedTuple):
    """What becomes of a part of a site, or with an empty site of the host.

    Attributes:
        what: the part.
        today: what it is.
        then: what it is after the upgrade.
        problem: why it would not work then; empty where it would.
        cure: what to do before the upgrade; of a part that works, what is better done.
    """

    site: str
    what: str
    today: str
    then: str
    problem: str = ""
    cure: str = ""


def check(name: str | None = None) -> dict[str, Any]:
    """Return the rows of the host and of a site, or all of its sites, and the number of their problems.

    Raises:
        DeploymentError: no upgrade of this host is known, or it has no such site.
    """
    found = distribution.next_release()
    chosen = [sites.find(one) for one in ([name] if name else sites.registered())]
    rows = [*_of_host(chosen, found), *(row for site in chosen for row in _of_site(site, found))]
    problems = [row for row in rows if row.problem]
    return {"release": found.name, "problems": len(problems), "rows": [row._asdict() for row in rows]}


def view(answer: Mapping[str, Any]) -> str:
    """Return what people see of the rows: the problems first, each with its cure, then the parts in columns."""
    rows = [Row(**row) for row in answer["rows"]]
    cells = [(row.site or "host", row.what, row.today, row.then if not row.problem else "PROBLEM") for row in rows]
    cures = [row for row in rows if row.problem or row.cure]
    told = [f"{row.site or 'host'}, {row.what}: {row.problem or row.then}\n    do: {row.cure}" for row in cures]
    count = answer["problems"]
    end = f"{answer['release']}: {count or 'no'} problem{'' if count == 1 else 's'}"
    return terminal.plain("\n".join([*terminal.columns(cells), *told, end]))


def _of_host(chosen: Sequence[Site], found: Distribution) -> Iterator[Row]:
    missing = sorted(path for path, how in kept.changes().items() if how == "kept")
    if missing:
        text = "apt does not keep it for the releases of sites, and autoremove would take it away"
        yield Row("", "interpreters", ", ".join(missing), "removed", text, "salt-call state.apply django")
    if any(database["manage"] for site in chosen for database in _postgres(site)):
        yield from (_of_cluster(cluster, found) for cluster in distribution.postgres_clusters())


def _of_cluster(cluster: str, found: Distribution) -> Row:
    version = cluster.split()[0]
    if distribution.is_of_project(version):
        cure = f"have the source of apt.postgresql.org name {found.codename}-pgdg, together with those of {found.name}"
        return Row("", "PostgreSQL", cluster, "stays, with the updates of apt.postgresql.org", "", cure)
    stays = f"stays, without updates by {found.name}, which installs {found.postgres} next to it"
    return Row("", "PostgreSQL", cluster, stays if version != found.postgres else "stays")


def _postgres(site: Site) -> list[Mapping[str, Any]]:
    return [one for one in site.config["databases"].values() if one["engine"] == "postgres"]


def _of_site(site: Site, found: Distribution) -> Iterator[Row]:
    live = release_releases.linked(site, site.current)
    if not live:
        return
    yield from _of_python(site, live, found)
    held = [release.name for release in release_releases.releases(site) if release.record.get("state") == "held"]
    if held:
        text = "a rollback put it on hold, so that an apply makes no release with the new Python"
        yield Row(site.name, "on hold", ", ".join(held), "on hold", text, site.to_release())
    yield from _of_packages(site, found)
    for kind, server in stores.own_servers(site):
        yield Row(site.name, server.name, Path(service.program(kind, server)).name, "stays")
    yield from _of_units(site, live)


def _of_python(site: Site, live: Release, found: Distribution) -> Iterator[Row]:
    """Yield what becomes of the interpreter of a site, and of its packages."""
    container = site.config.get("container")
    named = (
        next((str(container[key]) for key in ("image", "file", "base") if container.get(key)), "") if container else ""
    )
    if named:
        yield Row(site.name, "container", named, "stays")
        return
    if container:
        yield Row(site.name, "container", "made of this host's release", f"made of {found.name} by the next release")
    today = interpreter.interpreter(site).version
    if site.python != "python3":
        stays = "stays" if site.python_version else f"stays while a release has it: {found.name} has no updates of it"
        yield Row(site.name, "Python", f"{site.python}: {today}", stays)
        return
    doing = "reading the requirements"
    declared, options = delegate.ask(
        site.user, _requirements, site, live.path / "source", live.facts["folder"], doing=doing, timeout=120
    )
    problems = [*_refusals(live, found, str(declared))]
    series = ".".join(today.split(".")[:2])
    keep = f"set {site.at}:python to '{series}' in quotes, which keeps it"
    cure = f"have the project support Python {found.python}, or {keep}" if problems else ""
    yield Row(site.name, "Python", today, found.python, "; ".join(problems), cure)
    if not problems:
        yield from _of_wheels(live, found, keep, [line for line in options if isinstance(line, str)])


def _refusals(live: Release, found: Distribution, declared: str) -> Iterator[str]:
    """Yield why the project is not for the next Python.

    Args:
        declared: the versions that the project or its lock file is for.
    """
    problem = disk.interpreter_problem(live)
    if problem:
        yield problem
    if not python_versions.is_of_series_among(found.python, declared):
        yield f"the project requires Python {declared}"
    django = virtualenvs.packages(live.path / "virtualenv").get("django", "")
    versions = interpreter.of_django(django)
    if versions and not python_versions.is_of_series_among(found.python, versions):
        yield f"Django {django} is for Python {versions}"


def _requirements(site: Site, source: Path, folder: str) -> tuple[str, list[str]]:
    """Return the versions of Python that a project is for, and the lines of its requirements that name an index."""
    names = requirements.requirement_files(site, source, folder)
    texts = requirements.contents(source, names).values()
    options = [] if index.is_only(site) else relaxed_pins.index_options(texts)
    return requirements.python_versions(source, names), options


def _of_wheels(live: Release, found: Distribution, keep: str, options: Sequence[str]) -> Iterator[Row]:
    """Yield a row for all packages, or for each that cannot be installed for the next Python as it is."""
    site, password = live.site, index.PASSWORD.value(live.site, None)
    try:
        lacking = wheels.without(site, live.path / "virtualenv", found.python, options, password)
    except DeploymentError as error:
        yield Row(site.name, "packages", "not known", "not known", error.message, error.hint or keep)
        return
    count = len(virtualenvs.packages(live.path / "virtualenv"))
    if not lacking:
        yield Row(site.name, "packages", f"{count} of Python", f"installed as they are for {found.python}")
    for one in lacking:
        newer = f"require {one.name} {one.newer} or newer, which has a wheel; or " if one.newer else ""
        yield Row(site.name, "packages", f"{one.name} {one.version}", "", one.why, f"{newer}{keep}")


def _of_packages(site: Site, found: Distribution) -> Iterator[Row]:
    """Yield the packages of the distribution that are for its Python."""
    for name in site.config["packages"]:
        version = _OF_VERSION.fullmatch(name)
        if version and version[1] != found.python:
            cure = f"set {name.replace(version[1], '3', 1)} in {site.at}:packages"
            yield Row(site.name, "packages", name, "", f"{found.name} does not have it", cure)
        elif name.startswith("python3-"):
            yield Row(site.name, "packages", name, f"that of Python {found.python}")


def _of_units(site: Site, live: Release) -> Iterator[Row]:
    """Yield the units that a new systemd may refuse in a container: those with a file system of their own."""
    names = [*_refusable(site, live)] if _CONTAINER.exists() else []
    if names:
        text = "a newer systemd may refuse them in this container (226/NAMESPACE)"
        yield Row(site.name, "units", ", ".join(names), text, "", "apply after the upgrade, before anything restarts")


def _refusable(site: Site, live: Release) -> Iterable[str]:
    """Yield the names of units that have directives which a host may refuse."""
    manager = instances.process_manager(site, live.path)
    units = [path for part in instances.parts(live.path) for path in manager.installed(site, live.path, part)]
    units += [UNITS / f"{server.unit}.service" for _kind, server in stores.own_servers(site)]
    for path in units:
        text = file.read_text(path) or ""
        if sandbox.without_lines(text, sandbox.MAY_BE_REFUSED) != text:
            yield path.stem
