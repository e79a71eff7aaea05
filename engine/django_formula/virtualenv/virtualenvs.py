"""Virtualenvs: named by a hash of their inputs, built once by uv, shared by releases, never modified."""

import codecs
import contextlib
import datetime
import functools
import hashlib
import itertools
import json
import os
import re
import shutil
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

from django_formula.container import base
from django_formula.database import databases
from django_formula.database.engines import SERVERS
from django_formula.host import file, users
from django_formula.host.commands import DeploymentError
from django_formula.knowledge import cause_repository, python_versions
from django_formula.knowledge import package as knowledge_package
from django_formula.process import build_user
from django_formula.server import servers
from django_formula.site.sites import Site
from django_formula.store import stores as store_stores
from django_formula.untrusted import delegate, shapes
from django_formula.untrusted.foreign import OWN, PUBLIC, Foreign
from django_formula.untrusted.text import Log
from django_formula.virtualenv import index, interpreter, project_indexes, relaxed_pins, requirements, setuptools
from django_formula.virtualenv import local as virtualenv_local
from django_formula.virtualenv import lock as virtualenv_lock
from django_formula.virtualenv.uv import Uv

log = Log.of(__name__)

#: The file of a virtualenv that was built to its end, and that of one in whose build something gave way.
COMPLETE, RELAXED = ".complete", ".relaxed.json"
#: The lines of a requirement for what Python has since 3.9, with its hashes; one with a marker is for older ones.
_ZONEINFO = re.compile(r"^backports[.-]zoneinfo\b(?![^\n]*;)(?:[^\n\\]|\\\n?)*\n?", re.MULTILINE | re.IGNORECASE)
#: A requirement from a repository that is editable, which uv refuses, or named at its end, which uv fetches to name it.
_EDITABLE = re.compile(r"^([ \t]*)(?:-e|--editable)[ \t=]+(?=(?:[\w.-]+\s*@\s*)?git\+)", re.MULTILINE)
_EGG = re.compile(r"^([ \t]*)(git\+[^\s#;]+)#egg=([A-Za-z][\w.-]*(?:\[[\w,-]*\])?)(?![^\s;])", re.MULTILINE)
#: A requirement from an archive or a repository that is not named, which uv fetches to name it.
_ARCHIVE = re.compile(r"^([ \t]*)(https?://[^\s#;]+|git\+[^\s#;]+)", re.MULTILINE)
#: A requirement with an option after it that pip takes no notice of there, and uv refuses.
_OPTION = re.compile(r"^(\s*[A-Za-z][^#\n]*?)[ \t]+(--(?:no|only)-binary)\b", re.MULTILINE)
#: An option with its value in one word, as pip reads it and uv does not.
_ATTACHED = re.compile(r"^([ \t]*-[rcefi])(?=[^\s=])", re.MULTILINE)


# Which virtualenv


def key_of(site: Site, contents: Mapping[str, str]) -> str:
    """Return the name of the virtualenv for these requirements: a hash of them, the interpreter and the platform.

    Args:
        contents: the texts of the requirements files, by path.
    """
    inputs = {
        "files": dict(contents),
        "packages": site.config["python_packages"],
        "constraints": site.config["constraints"],
        "server": " ".join(servers.requirements(site)),
        "databases": databases.server_engines(site),
        "python": [*interpreter.interpreter(site)],
        **({"stores": stores} if (stores := store_stores.engines(site)) else {}),
        **({"base": base.identity(site)} if site.config.get("container") else {}),
    }
    return hashlib.sha256(json.dumps(inputs, sort_keys=True).encode()).hexdigest()[:16]


def newest(site: Site, key: str) -> str:
    """Return the name of the last virtualenv that was built for a key: the key itself, unless it was built again."""
    return _generations(site, key)[-1]


def next_of(site: Site, key: str) -> str:
    """Return a new name for a key: releases may still run in the virtualenvs that exist."""
    return f"{key}.{int(newest(site, key).partition('.')[2] or 1) + 1}"


def _generations(site: Site, key: str) -> list[str]:
    found = [path.name for path in site.virtualenvs.glob(f"{key}.*") if path.suffix[1:].isdecimal()]
    return [key, *sorted(found, key=lambda name: int(name.partition(".")[2]))]


def is_complete(site: Site, key: str) -> bool:
    """Return whether a virtualenv was built to its end and its interpreter is still on this host."""
    folder = site.virtualenvs / key
    python = folder / "bin/python"  # of a container it may be one that this host does not have
    has_python = os.path.lexists(python) if site.config.get("container") else python.exists()
    return has_python and (folder / COMPLETE).exists()


def packages(folder: Path) -> dict[str, str]:
    """Return the packages of a virtualenv by the names of its dist-info folders: normalised name → version."""
    infos = (path.stem.partition("-") for path in folder.glob("lib/python*/site-packages/*.dist-info"))
    return {knowledge_package.normalised(name): version for name, _dash, version in sorted(infos)}


def unused(site: Site, used: set[str]) -> list[Path]:
    """Return the virtualenvs of a site that none of its releases uses.

    Args:
        used: the names of those that releases use.
    """
    return sorted(path for path in site.virtualenvs.iterdir() if path.name not in used)


# How it is built


def relaxed(folder: Path) -> dict[str, Any]:
    """Return what gave way in the build of a virtualenv: `shapes.RELAXED`; empty if nothing did."""
    found: dict[str, Any] = file.read_json(folder / RELAXED, shapes.RELAXED) or {}
    return found


def build(
    site: Site,
    source: Path,
    files: list[str],
    key: str,
    password: str | None = None,
    folder: str = ".",
    day: Callable[[], str] = str,
) -> list[str]:
    """Build a virtualenv as the build user, then give it to root.

    Args:
        files: the requirements files, relative to the source.
        password: the password of the pillar's index.
        folder: that of manage.py, relative to the source.
        day: returns the day on which the requirements were last changed; empty if it is not known.

    Returns:
        What was installed because the project's requirements lack it: drivers of databases and stores, setuptools.

    Raises:
        DeploymentError: a package cannot be resolved, downloaded or built; no part of the virtualenv remains.
    """
    virtualenv, work = site.virtualenvs / key, site.build / "requirements"
    build_user.end_processes(site)
    file.remove_tree(virtualenv)
    virtualenv.mkdir(mode=0o700)  # uv makes its lock in it for all users, and waits for a holder
    builder = users.owner(site.build_user, site.build_user)
    tree = Foreign(virtualenv)
    tree.give(builder, None, of=0)
    try:
        prepared = delegate.ask(
            site.build_user, _prepare, site, source, work, files, folder, doing="reading the requirements", timeout=120
        )
        uv = Uv(site, virtualenv, str(work), password, prepared["indexes"] is True)
        added, gave_way = _install(site, files, prepared, uv, day)
        (tree / ".lock").remove()
        tree.give(users.ROOT, PUBLIC, of=builder[0])
    except (DeploymentError, OSError):
        file.remove_tree(virtualenv)
        raise
    finally:
        with contextlib.suppress(DeploymentError):
            work.remove()
    if gave_way:
        file.write_json(virtualenv / RELAXED, gave_way)
    file.write(virtualenv / COMPLETE, "")
    return added


def _install(
    site: Site, files: list[str], prepared: Mapping[str, Any], uv: Uv, day: Callable[[], str]
) -> tuple[list[str], dict[str, Any]]:
    """Create the virtualenv and install the project's packages, what these lack, and the server.

    Args:
        files: the requirements files, relative to the source.
        prepared: what `_prepare` has returned.

    Returns:
        What the requirements lack, and what gave way.
    """
    python = interpreter.path(site)
    uv.run("venv", "--quiet", "--no-project", "--allow-existing", "--python", python, str(uv.folder))
    for lock, target, groups, member in prepared["exports"]:
        exported = ["export", "--quiet", "--frozen", "--no-dev", "--no-emit-project", "--no-header"]
        exported += [f"--package={member}"] if member else []
        exported += [f"--group={group}" for group in groups]
        uv.run(*exported, "--output-file", target, doing="reading uv.lock", folder=str(Path(lock).parent))
    doing, asked = "looking for the packages of the source", (uv.work, prepared["required"], files)
    prepared = {**prepared, **delegate.ask(site.build_user, _resolve, *asked, doing=doing, timeout=120)}
    present, gave_way = _install_relaxed(uv, prepared, site.config["python_packages"], day)
    lacking = [*_missing_drivers(site, uv.folder), *_missing_modules(site, uv.folder)]
    left_out = relaxed_pins.left_out(site.config["python_packages"])
    added = [one for one in lacking if left_out.isdisjoint(requirements.without_extras([one]))]
    for requirement in added:
        _add_missing(uv, present, requirement, prepared["limit"])
    server = servers.requirements(site, packages(uv.folder))
    if server:
        uv.install(*server, doing=f"installing {site.config['server']['kind']}")
    return added, gave_way


def _install_relaxed(
    uv: Uv, prepared: Mapping[str, Any], packages: list[str], day: Callable[[], str]
) -> tuple[list[str], dict[str, Any]]:
    """Install as `_install_packages` does; where that fails, again and again with what gives way then.

    Returns:
        The arguments of ``uv pip install`` that the virtualenv complies with, and what gave way.
    """
    ladder = relaxed_pins.Ladder(uv, prepared, day)
    required, bound = prepared["required"], _of_their_django(packages, ladder.pins)
    while True:
        try:
            asked = {"required": [*required, *ladder.arguments(), *bound], "limit": [*prepared["limit"], *bound]}
            present = _install_packages(uv, {**prepared, **asked}, packages)
        except DeploymentError as error:
            if not required:
                raise
            if bound and relaxed_pins.is_of_bound(error, bound):
                bound = []
            else:
                ladder.give_way(error)
        else:
            gave_way = {"versions": ladder.versions, "until": ladder.until, "tools": ladder.tools}
            return ladder.without_tools(present), gave_way if any(gave_way.values()) else {}


def _of_their_django(packages: list[str], pins: Mapping[str, relaxed_pins.Pin]) -> list[str]:
    """Return the arguments by which packages that replace a pin are of the days of the Django that replaces another.

    They have that pin as their lower bound, as inspection writes it. Newer ones may need a newer Django, though their
    metadata allows an older one.
    """
    days = [day for one in packages if (day := interpreter.last_day_of_django(one))]
    bound = [name for name, pin in pins.items() if f"{name}>={pin.version}" in packages]
    return (
        [relaxed_pins.bound_by(name, days[0]) for name in bound]
        if days and days[0] < str(datetime.date.today())
        else []
    )


def _install_packages(uv: Uv, prepared: Mapping[str, Any], packages: list[str]) -> list[str]:
    """Install the project's requirements, and the pillar's packages in versions that suit these.

    Where there are no such versions, those of the pillar replace what the project requires of the same packages, so
    that one which cannot be built for this Python is not built, and one of a repository that is out of reach not
    fetched; then also what packages require of them. Where other requirements of the project exclude them, they are
    installed over these. What the pillar leaves out is never installed.

    Returns:
        The arguments of ``uv pip install`` that the virtualenv complies with.
    """
    required, limit, override = (list(prepared[key]) for key in ("required", "limit", "override"))
    more = ["--", *packages]
    if not required or not packages:
        if required or packages:
            uv.install(*(required or limit), *(more if packages else []))
        return [*(required or limit), *more]
    with_override = [*required, *override, *more]
    leaves_out = bool(override and relaxed_pins.left_out(packages))  # else the requirements would install it
    if not leaves_out and not _unsolved(uv, [*required, *more], packages, may_replace=bool(override)):
        return [*required, *more]
    doing, as_builder = "reading the requirements", functools.partial(delegate.ask, uv.site.build_user)
    if override and not prepared["is_fixed"]:
        is_left_out = as_builder(_leave_out, uv.work, prepared["files"], packages, doing=doing, timeout=60)
        if is_left_out is True and not _unsolved(uv, [*required, *more], packages, may_replace=True):
            return [*required, *more]
    unsolved = _unsolved(uv, with_override, packages)
    if not unsolved:
        return with_override
    try:
        uv.install(*required)
    except DeploymentError as error:
        raise _without_solution(uv.site, unsolved, error) from error
    uv.install(*limit, *more)
    return [*limit, *more]


def _without_solution(site: Site, unsolved: DeploymentError, error: DeploymentError) -> DeploymentError:
    """Return the error where versions exclude each other, and the project's own packages cannot be installed either.

    Args:
        unsolved: what excludes what; where a package of the project's gives way, it says so itself.
        error: that of the project's packages.
    """
    if unsolved.options:
        return unsolved
    at = f"{site.at}:python_packages"
    hint = f"no versions suit both the requirements and {at}: add what the lines above name to it, in a version that "
    hint += f"suits the rest. The requirements alone cannot be installed: {error.message}"
    made = DeploymentError(unsolved.message, log=unsolved.log, hint="; ".join(filter(None, [hint, error.hint])))
    made.options = {**error.options}
    return made


def _unsolved(
    uv: Uv, arguments: list[str], packages: list[str], *, may_replace: bool = False
) -> DeploymentError | None:
    """Install packages if there are versions that suit all arguments; return the error where there are none.

    Args:
        packages: those of the pillar, of which one that the index lacks is no matter of versions.
        may_replace: whether to return the error of a git repository too, whose package they replace.
    """
    try:
        uv.install(*arguments)
    except DeploymentError as error:
        if may_replace and cause_repository.is_replaced(error.log, packages):
            return error
        absent = re.search(r"Because ([\w.-]+) was not found in the package registry", error.log)
        wanted = [package for package in packages if ";" not in package]  # one with a marker may be left out by it
        named = [name.partition("[")[0] for name in requirements.names(wanted)]
        if "No solution found" not in error.log or (absent and absent[1] in named):
            raise
        return error
    return None


def _add_missing(uv: Uv, present: list[str], requirement: str, limit: list[str]) -> None:
    """Install what the requirements lack, in a version that suits them: a newer django-redis brings a newer Django.

    Args:
        present: the arguments of ``uv pip install`` that the virtualenv complies with.
        limit: those for the constraints.
    """
    with contextlib.suppress(DeploymentError):
        uv.install(*present, requirement)
        return
    uv.install(*limit, requirement, doing=f"installing {requirement}")


def _missing_drivers(site: Site, folder: Path) -> list[str]:
    """Return a driver or client for each database server and store of the pillar for which the virtualenv has none."""
    installed = {name.replace("-", "_"): version for name, version in packages(folder).items()}
    version = tuple(int(part) for part in re.findall(r"\d+", installed.get("django", ""))[:2])
    engines = [SERVERS[name] for name in databases.server_engines(site)]
    drivers = [engine.driver_requirement(version) for engine in engines if not engine.drivers & {*installed}]
    return [*drivers, *store_stores.requirements(site, version, {*installed})]


def _missing_modules(site: Site, folder: Path) -> list[str]:
    """Return what has the modules that packages of the virtualenv import and do not require."""
    find = setuptools.needed_by
    found = delegate.ask(site.build_user, find, folder, doing="reading the packages", timeout=120)
    for module, path in found.items():
        log.info("%s: %s imports %s", site.name, path, module)
    return [requirement for module, requirement in setuptools.MODULES.items() if module in found]


# What uv reads of a source, as the build user


def _prepare(site: Site, source: Path, copy: Foreign, files: list[str], folder: str) -> dict[str, Any]:
    """Copy what uv needs of a source into a folder of the build user.

    Args:
        copy: the folder.
        folder: that of manage.py, relative to the source.

    Returns:
        ``required``, the arguments of ``uv pip install`` for the project's requirements; empty if it has none;
        ``limit``, the arguments for the constraints, which are among them; ``override``, those by which the versions of
        the pillar's packages replace the project's;
        ``exports``, each uv.lock, the path that uv exports it to, the groups that a site needs and the member of a
        workspace that the site is; ``indexes``, whether the project configures indexes of uv.
    """
    work = copy.path
    file.remove_tree(work)
    runs_code = any((source / name).with_name("setup.py").is_file() for name in files)  # which may read any file
    contents = requirements.contents(source, files)
    local = virtualenv_local.find(source, contents, folder)  # these are built of all that is in them
    shutil.copytree(source, work, symlinks=True, ignore=None if runs_code or local else _other_files)
    copy.give((os.geteuid(), os.getegid()), OWN, of=os.geteuid())  # with modes that allow changes
    locks = [work / name for name in files if Path(name).name == "uv.lock"]
    required = _required(site, work, files)
    if required:  # uv's cache knows a package that it has built by its path, and another release is at the same one
        required += [f"--reinstall-package={name}" for name in local.values() if name]
    exports = [_export(path, os.path.relpath(work / folder, path.parent)) for path in locks]
    indexes = project_indexes.are_configured(work, files)
    found = {"required": required, "limit": _limit(site, work), "override": _override(site, work)}
    return {**found, "exports": exports, "indexes": indexes}


def _export(lock: Path, folder: str) -> list[Any]:
    """Return a uv.lock, the path that uv exports it to, the groups that a site needs, and the member that it is.

    Args:
        folder: that of manage.py, relative to the lock's.
    """
    of_lock = virtualenv_lock
    target, member = str(of_lock.converted_path(lock)), of_lock.member_of_uv(lock, folder)
    return [str(lock), target, of_lock.groups_of_uv(lock, folder), member]


def _resolve(work: str, arguments: list[str], files: list[str]) -> dict[str, Any]:
    """Write the paths of the source's own packages in the requirements as they are in the copy of the source.

    Returns:
        What is known of the requirements where some of them have to give way: ``pins``, ``names``, ``options``,
        ``is_fixed`` and ``files``, as `relaxed_pins.Ladder` takes them.
    """
    top = Path(work)
    paths = [Path(value) for option, value in itertools.pairwise(arguments) if option == "--requirement"]
    for path in [top / path for path in paths]:
        if path.suffix in virtualenv_lock.REQUIREMENTS_SUFFIXES and path.is_file():
            included = [*requirements.with_included(top, path, set())]
            virtualenv_local.make_absolute(top.resolve(), included)
    return _pins_facts(top, arguments, files)


def _pins_facts(work: Path, arguments: list[str], files: list[str]) -> dict[str, Any]:
    """Return what requirements pin, and which indexes they name; in place of a lock is the file that uv reads."""
    converted = [(name, virtualenv_lock.converted_path(work / name)) for name in files]
    read = [os.path.relpath(path, work) if str(path) in arguments else name for name, path in converted]
    paths = {path for name in read for path in requirements.with_included(work, work / name, set())}
    texts = [
        path.read_text(errors="replace")
        for path in sorted(paths)
        if path.suffix in virtualenv_lock.REQUIREMENTS_SUFFIXES
    ]
    is_fixed = relaxed_pins.is_fixed(files, texts)
    pins, names = relaxed_pins.pins(work, read), relaxed_pins.markers(work, read)
    options = relaxed_pins.index_options(texts)
    return {"pins": pins, "names": names, "options": options, "is_fixed": is_fixed, "files": read}


def _other_files(folder: str, names: list[str]) -> list[str]:
    """Return what uv does not need: everything except folders and the files that describe packages."""
    needed = (*virtualenv_lock.REQUIREMENTS_SUFFIXES, ".toml", ".lock", ".cfg", ".py", ".md", ".rst", ".json")
    return [
        name
        for name in names
        if not os.path.isdir(os.path.join(folder, name))
        and not name.endswith((*needed, *requirements.ARCHIVES))
        and name not in ("Pipfile", "README", "LICENSE", "VERSION")
    ]


def _required(site: Site, work: Path, files: list[str]) -> list[str]:
    """Return the arguments of ``uv pip install`` for the project's requirements; empty if it has none."""
    limit = _limit(site, work)
    _remove_marks(work, files)
    _rewrite(work, files, requirements.QUOTED, r"\1\3")
    _rewrite(work, files, _ATTACHED, r"\1 ")
    extras = _remove_project(work, files)
    _remove_backports(site, work, files)
    _rewrite(work, files, _OPTION, r"\1\n\2")
    _rewrite(work, files, _EDITABLE, r"\1")
    _rewrite(work, files, _EGG, r"\1\3 @ \2")
    replaced = cause_repository.replaced(site.config["python_packages"])
    _rewrite(work, files, _ARCHIVE, lambda found: _named(found, replaced))
    is_only = index.is_only(site)
    if is_only:
        project_indexes.replace(work, files, site.config["index"]["url"])
    else:
        project_indexes.drop_pypi(work, files)
    paths = [virtualenv_lock.as_requirements(work, name, indexes=not is_only) for name in files]
    locks = [work / name for name in files if Path(name).name == "uv.lock" and not is_only]
    indexes = [path for lock in locks if (path := virtualenv_lock.uv_indexes(lock))]
    _lift_constraints(work, paths, site.config["python_packages"])
    listed = [argument for path in [*indexes, *paths] for argument in _arguments(path)]
    if indexes:  # each version is pinned by its hash: it does not matter which index another version is on
        listed += ["--index-strategy", "unsafe-best-match"]
    if extras is not None:
        declares = requirements.declares_dependencies
        names = requirements.PACKAGING
        packaging = next((name for name in names if (work / name).is_file() and declares(work / name)), None)
        listed += ["--requirement", packaging, *(f"--extra={extra}" for extra in extras)] if packaging else []
    return [*limit, *listed] if listed else []


def _arguments(path: Path) -> Iterator[str]:
    """Yield the arguments of ``uv pip install`` for a file with requirements, and for its groups that a site needs."""
    is_pyproject = path.name == "pyproject.toml"
    if not is_pyproject or requirements.is_package(path):
        yield from ("--requirement", str(path))
    if is_pyproject:
        yield from (f"--group={path}:{group}" for group in virtualenv_lock.groups_of_pyproject(path))


def _remove_marks(work: Path, files: list[str]) -> None:
    """Write files with a byte order mark in UTF-8 without it: PowerShell writes those of pip freeze in UTF-16."""
    for name in files:
        for path in requirements.with_included(work, work / name, set()):
            content = path.read_bytes()
            if content.startswith((codecs.BOM_UTF8, codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)):
                virtualenv_lock.replace(path, file.decoded(content))


def _remove_project(work: Path, files: list[str]) -> list[str] | None:
    """Remove the lines for the project itself from its requirements.

    Returns:
        The extras in these lines, or None if there is no such line.
    """
    project = requirements.PROJECT
    done: set[Path] = set()
    extras: list[str] | None = None
    for name in files:
        for path in requirements.with_included(work, work / name, done):
            text = path.read_text(errors="replace") if path.suffix in virtualenv_lock.REQUIREMENTS_SUFFIXES else ""
            for found in project.finditer(text):
                extras = [*(extras or []), *re.findall(r"[\w-]+", found.group(1) or "")]
            if project.search(text):
                virtualenv_lock.replace(path, project.sub("", text))
    return extras


def _remove_backports(site: Site, work: Path, files: list[str]) -> None:
    """Remove the lines for a backport of a module that the site's Python has, and that cannot be built for it.

    pip-compile writes it without a marker where it runs with an older Python.
    """
    if not python_versions.is_among(interpreter.interpreter(site).version, ">=3.9"):
        return
    _rewrite(work, files, _ZONEINFO, "")


def _named(archive: re.Match[str], replaced: list[str]) -> str:
    """Return the requirement of an archive or a repository with its package's name, where the pillar replaces that."""
    name = cause_repository.package_of(archive[2])
    return f"{archive[1]}{name} @ {archive[2]}" if name in replaced else archive[0]


def _leave_out(work: str, files: list[str], packages: list[str]) -> bool:
    """Remove the lines of packages that the pillar has in a version; return whether there were any."""
    return _rewrite(Path(work), files, _lines_of(packages), "")


def _lift_constraints(work: Path, paths: list[Path], packages: list[str]) -> None:
    """Remove from constraints what the pillar has in a version: uv's overrides replace requirements only."""
    for path in [one for one in paths if one.suffix in virtualenv_lock.REQUIREMENTS_SUFFIXES and one.is_file()]:
        for included in [*requirements.with_included(work, path, set())]:
            for name in requirements.LIMIT.findall(included.read_text(errors="replace")):
                limits = included.parent / name
                text = limits.read_text(errors="replace") if "://" not in name else ""
                lifted = _lines_of(packages).sub("", text)
                if lifted != text:
                    virtualenv_lock.replace(limits, lifted)


def _lines_of(packages: list[str]) -> re.Pattern[str]:
    """Return what a line of a requirements file is for one of the packages that the pillar has in a version."""
    names = [name.partition("[")[0] for name in requirements.names(_of_a_version(packages))]
    spelled = "|".join(re.escape(name).replace(r"\-", "[-_.]+") for name in names) or "(?!)"
    return re.compile(rf"(?im)^[ \t]*(?:{spelled})[ \t]*(?:\[[^\]\n]*\])?[ \t]*(?:[<>=!~;#][^\n\\]*)?$")


def _of_a_version(packages: list[str]) -> list[str]:
    return [package for package in packages if re.search("[<>=!~@]", package)]


def _rewrite(work: Path, files: list[str], pattern: re.Pattern[str], by: str | Callable[[re.Match[str]], str]) -> bool:
    """Replace what a pattern matches in the requirements, and in the files that they include; return whether it did."""
    is_found = False
    for name in files:
        for path in requirements.with_included(work, work / name, set()):
            text = path.read_text(errors="replace") if path.suffix in virtualenv_lock.REQUIREMENTS_SUFFIXES else ""
            if pattern.search(text):
                is_found = True
                virtualenv_lock.replace(path, pattern.sub(by, text))
    return is_found


def _limit(site: Site, work: Path) -> list[str]:
    """Return the arguments for the pillar's constraints, of builds of packages too, which are written into a file."""
    constraints = work / ".constraints.txt"
    virtualenv_lock.replace(constraints, "".join(f"{line}\n" for line in site.config["constraints"]))
    if not site.config["constraints"]:
        return []
    return ["--constraint", str(constraints), "--build-constraint", str(constraints)]


def _override(site: Site, work: Path) -> list[str]:
    """Return the arguments by which the pillar's packages that name a version replace the project's."""
    versions = _of_a_version(site.config["python_packages"])
    overrides = work / ".overrides.txt"
    virtualenv_lock.replace(overrides, "".join(f"{line}\n" for line in versions))
    return ["--overrides", str(overrides)] if versions else []
