"""Lock files of pipenv, poetry, PDM and uv in the form of a requirements file, which ``uv pip install`` reads."""

import itertools
import json
import re
import stat
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any

from django_formula.host import file, toml
from django_formula.host.commands import DeploymentError
from django_formula.virtualenv import index

#: The names of lock files; the first that a project has is taken.
NAMES = ("uv.lock", "Pipfile.lock", "poetry.lock", "pdm.lock")
#: The ends of names of files with a requirement in each line.
REQUIREMENTS_SUFFIXES = (".txt", ".in", ".pip")
_INDEX = "--extra-index-url"
#: Bytes of a TOML file that are read: uv's locks of large projects have some megabytes.
_MOST = 64 << 20
#: A repository as git writes it: a user and a host of SSH, and a path there.
_OF_SSH = re.compile(r"([\w.-]+@[\w.-]+):/*(\S+)")
#: Groups of dependencies that a site needs; others are for development.
_GROUP = re.compile(r"main|prod\w*|live|deploy\w*|server|web")
_DEVELOPMENT = re.compile(r"(^|[._-])(dev\w*|tests?|testing|docs?|lint\w*|ci|typing|types|debug|local)([._-]|$)", re.I)
_DJANGO = re.compile(r"django(?![\w.-])", re.IGNORECASE)
#: Keys of a pyproject.toml and of lock files → what they have; ``*`` is each name of a table, or each entry of a list.
_OF_PYPROJECT: dict[str, type] = {
    **dict.fromkeys(("project", "project.optional-dependencies", "dependency-groups", "tool"), dict),
    **dict.fromkeys(("project.dependencies", "project.optional-dependencies.*", "dependency-groups.*"), list),
    **dict.fromkeys(("project.dependencies.*", "project.optional-dependencies.*.*"), str),
    **dict.fromkeys(("tool.poetry", "tool.poetry.dependencies", "tool.poetry.group", "tool.poetry.group.*"), dict),
    **dict.fromkeys(("tool.poetry.group.*.dependencies", "tool.pdm", "tool.uv", "tool.uv.sources"), dict),
    **dict.fromkeys(("tool.poetry.source", "tool.pdm.source"), list),
    **dict.fromkeys(("tool.poetry.source.*", "tool.pdm.source.*"), dict),
}
_OF_LOCK: dict[str, type] = {
    **{"package": list, "package.*": dict, "package.*.name": str, "package.*.version": str, "package.*.source": dict},
    "package.*.groups": list,
}
_KINDS: dict[type, str] = {dict: "table", list: "list", str: "text"}


def read_toml(path: Path) -> dict[str, Any]:
    """Return the content of a TOML file.

    Raises:
        OSError: it does not exist.
        ValueError: it is no file, such as a link of a repository to a device, or no TOML, or has a value of another
            type than its users have there.
    """
    if not stat.S_ISREG(path.stat().st_mode):
        raise ValueError(f"{path.name} is no file")
    try:
        content = toml.loads(file.decoded(file.read_untrusted(path, _MOST)))
    except ValueError as error:
        raise ValueError(f"{path.name}: {error}") from None
    kinds = _OF_PYPROJECT if path.name == "pyproject.toml" else _OF_LOCK if path.suffix == ".lock" else {}
    for pattern, kind in kinds.items():
        for key, value in _values(content, pattern.split(".")):
            if not isinstance(value, kind):
                raise ValueError(f"{path.name}: {'.'.join(key)} is no {_KINDS[kind]}")
    return content


def _values(content: Any, path: list[str]) -> Iterator[tuple[list[str], Any]]:
    """Yield the keys that a path is for, each with its value."""
    found: list[tuple[list[str], Any]] = [([], content)]
    for name in path:
        inner = [(key, value.items() if isinstance(value, dict) else enumerate(value)) for key, value in found]
        found = [([*key, str(one)], value) for key, pairs in inner for one, value in pairs if name in ("*", one)]
    yield from found


def groups_of_pyproject(path: Path) -> dict[str, list[str]]:
    """Return the dependency groups (PEP 735) of a pyproject.toml that a site needs: name → requirements.

    Those for production; where neither these nor the project's own dependencies have Django, the ones that have it too.
    """
    try:
        content = read_toml(path)
        groups = {
            name: [*_of_group(content["dependency-groups"], name, set())] for name in content["dependency-groups"]
        }
        own: list[str] = content.get("project", {}).get("dependencies", [])
    except (ValueError, LookupError, TypeError, AttributeError):
        return {}
    found = {name: listed for name, listed in groups.items() if _GROUP.fullmatch(name)}
    if not any(map(_DJANGO.match, itertools.chain(own, *found.values()))):
        others = {name: listed for name, listed in groups.items() if not _DEVELOPMENT.search(name)}
        found |= {name: listed for name, listed in others.items() if any(map(_DJANGO.match, listed))}
    return found


def _of_group(groups: dict[str, Any], name: str, above: set[str]) -> Iterator[str]:
    """Yield the requirements of a dependency group and of the groups that it includes.

    Args:
        above: the groups that include it.
    """
    for entry in groups[name] if name not in above else ():
        if isinstance(entry, str):
            yield entry
        elif isinstance(entry, dict) and entry.get("include-group") in groups:
            yield from _of_group(groups, entry["include-group"], {*above, name})


def groups_of_poetry(pyproject: Path) -> list[str]:
    """Return the groups of Poetry in a pyproject.toml that a site needs, in addition to its dependencies."""
    content = _content(pyproject)
    return _of_sites(_table(content, "tool", "poetry", "group"), _table(content, "dependency-groups"))


def groups_of_pdm(pyproject: Path) -> tuple[list[str], list[str]]:
    """Return the extras of a pyproject.toml that a site needs, and the groups, which are PDM's for development."""
    content = _content(pyproject)
    groups = _table(content, "tool", "pdm", "dev-dependencies"), _table(content, "dependency-groups")
    return _of_sites(_table(content, "project", "optional-dependencies")), _of_sites(*groups)


def _content(pyproject: Path) -> dict[str, Any]:
    """Return the content of a pyproject.toml; empty where it is missing or damaged."""
    try:
        return read_toml(pyproject)
    except (OSError, ValueError):
        return {}


def _table(content: dict[str, Any], *names: str) -> dict[str, Any]:
    for name in names:
        found = content.get(name)
        content = found if isinstance(found, dict) else {}
    return content


def _of_sites(*tables: dict[str, Any]) -> list[str]:
    return sorted({name for table in tables for name in table if _GROUP.fullmatch(name) and name != "main"})


def lines_of_pyproject(path: Path) -> list[str]:
    """Return the requirements of a pyproject.toml that uv does not read itself; none of one that it reads."""
    convert = _converter(path)
    lines = "".join(convert(path)).split("\n") if convert else []
    return [line for line in lines if line.strip() and line.isprintable()]


def converted_path(lock: Path) -> Path:
    """Return where the requirements of a lock file are written."""
    return lock.with_name(f".{lock.name}.txt")


def as_requirements(work: Path, name: str, *, indexes: bool = True) -> Path:
    """Return a file that ``uv pip install --requirement`` reads: lock files are converted, other files are not.

    The one for a uv.lock is removed here; uv writes it later.

    Args:
        indexes: whether to use the package indexes that a lock file names.

    Raises:
        DeploymentError: the lock file is damaged or of an unknown version.
    """
    path = work / name
    target = converted_path(path)
    if path.name == "uv.lock":
        target.unlink(missing_ok=True)
        return target
    try:
        convert = _converter(path)
        if not convert:
            return path
        lines = [line for line in convert(path) if indexes or not line.startswith(_INDEX)]
        replace(target, "".join(lines))
    except (ValueError, LookupError, TypeError, AttributeError) as error:
        hint = "generate the lock file again and commit it"
        raise DeploymentError(f"{name} cannot be read: {error!r}", hint=hint) from None
    return target


def _converter(path: Path) -> Callable[[Path], Iterable[str]] | None:
    """Return what writes a file as requirements; None for one that uv reads itself."""
    if path.name != "pyproject.toml":
        return _CONVERTED.get(path.name)
    content = read_toml(path)
    if "name" not in content.get("project", {"name": ""}):
        return _pyproject_requirements  # uv refuses the table [project] without it; PDM and others do not
    if "project" not in content and any(_poetry_dependencies(path)):
        return _poetry_pyproject_requirements  # uv has Poetry build the project, which may be no package
    return None


def of_uv(lock: Path) -> list[str]:
    """Return the names of the packages in a uv.lock that a site needs: without extras and groups for development.

    Empty for a lock that is damaged, or does not have the project itself.
    """
    try:
        return [*_needed(read_toml(lock)["package"])]
    except (ValueError, LookupError, TypeError, AttributeError):
        return []


def groups_of_uv(lock: Path, folder: str = ".") -> list[str]:
    """Return the groups of a uv.lock that a site needs, such as ``production``; empty for a lock that is damaged.

    Args:
        folder: that of manage.py, relative to the lock's.
    """
    try:
        return [group for entry in _own(read_toml(lock)["package"], folder) for group in _groups(entry)]
    except (ValueError, LookupError, TypeError, AttributeError):
        return []


def member_of_uv(lock: Path, folder: str) -> str:
    """Return the member of a workspace that a project is, where that is not its top; else an empty text.

    Args:
        folder: that of manage.py, relative to the lock's.
    """
    try:
        own = _own(read_toml(lock)["package"], folder)
        return "" if not own or _local(own[0]) == "." else str(own[0]["name"])
    except (ValueError, LookupError, TypeError, AttributeError):
        return ""


def local_of_uv(text: str, folder: str) -> list[str] | None:
    """Return the folders of the packages in a uv.lock that a site needs and that are in the source itself.

    None for a lock that is damaged, or does not have the project.

    Args:
        folder: that of manage.py, relative to the lock's.
    """
    try:
        entries = toml.loads(text)["package"]
        own = _own(entries, folder)
        needed = {*_needed(entries, folder)} | {entry["name"] for entry in own}
        found = [_local(entry) for entry in entries if entry["name"] in needed]
        return [path for path in found if path] if own else None
    except (ValueError, LookupError, TypeError, AttributeError, RecursionError):
        return None


def _local(entry: dict[str, Any]) -> str:
    """Return the path of a package of a uv.lock that is in the source; empty for another one."""
    source = entry.get("source", {})
    return next((str(source[kind]) for kind in ("editable", "virtual", "directory", "path") if kind in source), "")


def _own(entries: list[dict[str, Any]], folder: str = ".") -> list[dict[str, Any]]:
    """Return the project itself among the packages of its uv.lock, as a list of at most one.

    It is what is at the top, or else, of a workspace whose top does not require it, the member with manage.py.
    """
    top = [entry for entry in entries if _local(entry) == "."]
    around = [path for path in (folder, *map(str, Path(folder).parents)) if path != "." and not path.startswith("..")]
    members = [entry for path in around for entry in entries if _local(entry) == path]
    if not members or (top and members[0]["name"] in _closure(entries, top)):
        return top
    return members[:1]


def _groups(entry: dict[str, Any]) -> dict[str, list[dict[str, Any]]]:
    """Return the dependencies of those groups of a project that a site needs, by the names of the groups."""
    return {name: listed for name, listed in entry.get("dev-dependencies", {}).items() if _GROUP.fullmatch(name)}


def _needed(entries: list[dict[str, Any]], folder: str = ".") -> dict[str, set[str]]:
    """Return the packages that the project itself requires, directly or not, with the extras of each."""
    return _closure(entries, _own(entries, folder))


def _closure(entries: list[dict[str, Any]], own: list[dict[str, Any]]) -> dict[str, set[str]]:
    packages = {entry["name"]: entry for entry in entries}
    listed = [[entry.get("dependencies", []), *_groups(entry).values()] for entry in own]
    waiting = [*itertools.chain.from_iterable(itertools.chain.from_iterable(listed))]
    needed: dict[str, set[str]] = {}
    while waiting:
        dependency = waiting.pop()
        name, extras = dependency["name"], {*dependency.get("extra", [])}
        package = packages.get(name, {})
        waiting += [] if name in needed else package.get("dependencies", [])
        known = needed.setdefault(name, set())
        more = package.get("optional-dependencies", {})
        waiting += [one for extra in extras - known for one in more.get(extra, [])]
        known |= extras
    return needed


def uv_indexes(lock: Path) -> Path | None:
    """Write the indexes of a uv.lock except PyPI into a requirements file, since its export does not name them."""
    found = re.findall(r'registry = "(https?://[^"\s]+)"', lock.read_text(errors="replace"))
    lines = list(_indexes(sorted({*found})))
    target = lock.with_name(f".{lock.name}.indexes.txt")
    if lines:
        replace(target, "".join(lines))
    return target if lines else None


def replace(path: Path, text: str) -> None:
    """Write a new file instead of what the project may have at that path, such as a link."""
    path.unlink(missing_ok=True)
    path.write_text(text)


def _pipfile_requirements(path: Path) -> Iterator[str]:
    lock: dict[str, Any] = json.loads(path.read_text())
    yield from _indexes(source["url"] for source in lock.get("_meta", {}).get("sources", []))
    for name, package in lock.get("default", {}).items():
        if package.get("path") == ".":
            continue  # the project itself
        extras = _extras(package)
        if "git" in package:
            subdirectory = f"#subdirectory={package['subdirectory']}" if "subdirectory" in package else ""
            requirement = f"{name}{extras} @ {_of_git(package['git'])}@{package['ref']}{subdirectory}"
        elif "path" in package or "file" in package:
            requirement = package.get("file") or package["path"]
        else:
            requirement = f"{name}{extras}{package['version']}"
        yield f"{requirement}{_marker(package.get('markers'))}\n"


def _pyproject_requirements(path: Path) -> Iterator[str]:
    groups = groups_of_pyproject(path).values()
    listed: list[str] = read_toml(path)["project"].get("dependencies", [])
    yield from (f"{one}\n" for one in itertools.chain(listed, *groups))


def _poetry_requirements(path: Path) -> Iterator[str]:
    packages: list[dict[str, Any]] = read_toml(path).get("package", [])
    sources = [package.get("source", {}) for package in packages]
    yield from _indexes(sorted({source["url"] for source in sources if source.get("type") == "legacy"}))
    is_complete = any("groups" in package for package in packages)
    direct = {} if is_complete else _direct_dependencies(path.with_name("pyproject.toml"))
    if not direct:
        yield from _pins(path, [package for package in packages if _is_installed_by_poetry(package)])
        return
    of_index = [package for package in packages if package.get("source", {}).get("type") in (None, "legacy")]
    yield _constraint(path, _pins(path, of_index))
    yield from (f"{name}{extras}{marker}\n" for name, (extras, marker) in direct.items())
    elsewhere = [package for package in packages if package not in of_index and _is_installed_by_poetry(package)]
    yield from _pins(path, elsewhere)


def _constraint(path: Path, pins: Iterable[str]) -> str:
    """Write the versions of a lock that does not say what is needed of it; return the line that limits to them."""
    constraints = path.with_name(f".{path.name}.constraints.txt")
    replace(constraints, "".join(pins))
    return f"--constraint {constraints.name}\n"


def _direct_dependencies(pyproject: Path) -> dict[str, tuple[str, str]]:
    """Return the dependencies that a pyproject.toml of Poetry 1 lists: name → extras and marker; empty if it has none.

    A lock of Poetry 1 has packages of development and those for some versions of Python only, and does not say which
    ones: Poetry starts from these, and uv does with the lock's versions as constraints.
    """
    found = {}
    for name, ways in _poetry_dependencies(pyproject) if pyproject.exists() else ():
        options = ways[0] if len(ways) == 1 else {}
        is_elsewhere = {"git", "path", "url", "file"} & {*options}  # the lock has where it is from
        if not options.get("optional") and not is_elsewhere:
            found[name] = (_extras(options), _marker(_marker_of_poetry(options)))
    return found


def _poetry_dependencies(pyproject: Path) -> Iterator[tuple[str, list[dict[str, Any]]]]:
    """Yield what a site needs of the dependencies in Poetry's table: a name, and one table or several, as they are."""
    poetry = read_toml(pyproject).get("tool", {}).get("poetry", {})
    more = [group.get("dependencies", {}) for name, group in poetry.get("group", {}).items() if _GROUP.fullmatch(name)]
    for name, entry in itertools.chain.from_iterable(one.items() for one in [poetry.get("dependencies", {}), *more]):
        if name.lower() != "python":
            ways = entry if isinstance(entry, list) else [entry]
            yield name, [way if isinstance(way, dict) else {"version": str(way)} for way in ways]


def requirements_of_poetry(pyproject: Path) -> list[str]:
    """Return what a site needs of the dependencies in Poetry's table, with extras and markers, without versions."""
    ways = [(name, way) for name, listed in _poetry_dependencies(pyproject) for way in listed]
    needed = [(name, way) for name, way in ways if not way.get("optional")]
    return [f"{name}{_extras(way)}{_marker(_marker_of_poetry(way))}" for name, way in needed]


def _poetry_pyproject_requirements(path: Path) -> Iterator[str]:
    """Yield the requirements of a pyproject.toml of Poetry that has no lock."""
    content = read_toml(path)
    yield from _indexes(source["url"] for source in content["tool"]["poetry"].get("source", []) if "url" in source)
    for name, ways in _poetry_dependencies(path):
        for way in ways:
            if not way.get("optional"):
                yield f"{_poetry_wanted(path, name, way)}{_marker(_marker_of_poetry(way))}\n"
    yield from (f"{one}\n" for one in itertools.chain.from_iterable(groups_of_pyproject(path).values()))


def _poetry_wanted(path: Path, name: str, way: dict[str, Any]) -> str:
    named = f"{name}{_extras(way)}"
    if "git" in way:
        reference = next((way[key] for key in ("rev", "tag", "branch") if key in way), "HEAD")
        subdirectory = f"#subdirectory={way['subdirectory']}" if "subdirectory" in way else ""
        return f"{named} @ {_of_git(way['git'])}@{reference}{subdirectory}"
    if "url" in way:
        return f"{named} @ {way['url']}"
    local = way.get("path", way.get("file"))
    return str(path.parent / local) if local else f"{named}{_poetry_versions(way.get('version', '*'))}"


def _poetry_versions(text: str) -> str:
    """Return versions that Poetry wants in the form of a requirement; of alternatives the last, which are the newest.

    Example:
        >>> [_poetry_versions(text) for text in ("^1.2", "~1.2.3", "1.4", ">=2,<3", "1.*", "*")]
        ['>=1.2,<2', '>=1.2.3,<1.3', '==1.4', '>=2,<3', '==1.*', '']
    """
    wanted = _POETRY_VERSION.findall(re.split(r"\|\|?", text)[-1])
    return ",".join(itertools.chain.from_iterable(_poetry_range(*found) for found in wanted if found[1] != "*"))


_POETRY_VERSION = re.compile(r"(\^|~=?|[<>=!]=?)?\s*v?(\d[\w.*+!-]*|\*)")


def _poetry_range(operator: str, version: str) -> Iterator[str]:
    """Yield the conditions of one version: `^` keeps its first number that is not 0, `~` its second."""
    if operator not in ("^", "~"):
        yield f"{'==' if operator in ('', '=') else operator}{version}"
        return
    numbers = [int(number) for number in re.match(r"\d+(?:\.\d+)*", version)[0].split(".")]  # type: ignore[index]
    first = next((place for place, number in enumerate(numbers) if number), len(numbers) - 1)
    kept = first if operator == "^" else min(1, len(numbers) - 1)
    yield f">={version}"
    yield f"<{'.'.join(map(str, [*numbers[:kept], numbers[kept] + 1]))}"


def _marker_of_poetry(options: dict[str, Any]) -> str:
    """Return the marker of a dependency in pyproject.toml."""
    parts = [f"({options['markers']})"] if options.get("markers") else []
    if options.get("platform"):
        parts.append(f'sys_platform == "{options["platform"]}"')
    versions = _poetry_versions(str(options.get("python", "*"))).split(",")
    ranges = [re.fullmatch(r"(<=?|>=?|==|!=)(\d+(?:\.\d+)?)", version) for version in versions]
    parts += [f'python_version {found[1]} "{found[2]}"' for found in ranges if found]
    return " and ".join(parts)


def _pins(path: Path, packages: list[dict[str, Any]]) -> Iterator[str]:
    """Yield packages of a poetry.lock with their versions."""
    plain = [one["name"] for one in packages if not one.get("markers") and not one.get("source")]
    for package in packages:
        markers = package.get("markers")
        marker = markers.get("main") if isinstance(markers, dict) else markers
        if package["name"] not in plain or plain.count(package["name"]) == 1:
            yield f"{_poetry_requirement(path, package)}{_marker(marker)}\n"
    for name in sorted({name for name in plain if plain.count(name) > 1}):
        yield f"{name}{_between([one['version'] for one in packages if one['name'] == name])}\n"


def _between(versions: Iterable[str]) -> str:
    """Return the range of several versions of a package, in a lock of Poetry 1 that does not say which one is for what.

    It has them for several versions of Python; the packages that require it decide.
    """
    ordered = sorted(versions, key=lambda version: [int(number) for number in re.findall(r"\d+", version)])
    return f">={ordered[0]},<={ordered[-1]}"


def of_poetry(lock: Path) -> list[str]:
    """Return the names of the packages that are installed by a poetry.lock, as far as it says so."""
    packages: list[dict[str, Any]] = read_toml(lock).get("package", [])
    return [str(package.get("name", "")) for package in packages if _is_installed_by_poetry(package)]


def _is_installed_by_poetry(package: dict[str, Any]) -> bool:
    """Return whether poetry installs a package by default: not optional, and not for development only."""
    is_optional = package.get("optional") and "groups" not in package
    is_needed = any(map(_GROUP.fullmatch, package.get("groups", ["main"])))
    return is_needed and not is_optional and package.get("category") != "dev"


def _poetry_requirement(path: Path, package: dict[str, Any]) -> str:
    source = package.get("source", {})
    subdirectory = f"#subdirectory={source['subdirectory']}" if "subdirectory" in source else ""
    if source.get("type") == "git":
        reference = source.get("resolved_reference", source.get("reference", "HEAD"))
        return f"{package['name']} @ {_of_git(source['url'])}@{reference}{subdirectory}"
    if source.get("type") == "url":
        return f"{package['name']} @ {source['url']}{subdirectory}"
    if source.get("type") in ("directory", "file"):
        return str(path.parent / source["url"])
    return f"{package['name']}=={package['version']}"


def _pdm_requirements(path: Path) -> Iterator[str]:
    pyproject = path.with_name("pyproject.toml")
    about = read_toml(pyproject) if pyproject.exists() else {}
    yield from _indexes(sources_of_pdm(about))
    packages: list[dict[str, Any]] = read_toml(path).get("package", [])
    direct = (
        [] if any("groups" in package for package in packages) else about.get("project", {}).get("dependencies", [])
    )
    if not direct:
        yield from (f"{_pdm_requirement(path, one)}\n" for one in packages if _is_installed_by_pdm(one))
        return
    # a lock before PDM 2.14 has packages of development too, and does not say which ones
    pins = [f"{_pdm_requirement(path, {**one, 'extras': []})}\n" for one in packages if not one.get("path")]
    yield _constraint(path, dict.fromkeys(pins))
    yield from (f"{one}\n" for one in itertools.chain(direct, *groups_of_pyproject(pyproject).values()))


def sources_of_pdm(pyproject: dict[str, Any]) -> list[str]:
    """Return the indexes that a pyproject.toml names for PDM, without those whose login is in variables."""
    sources = pyproject.get("tool", {}).get("pdm", {}).get("source", [])
    urls = [str(source.get("url", "")) for source in sources if source.get("type", "index") == "index"]
    return [url for url in urls if url and "$" not in url]


def _pdm_requirement(path: Path, package: dict[str, Any]) -> str:
    name, url = f"{package['name']}{_extras(package)}", package.get("url")
    subdirectory = f"#subdirectory={package['subdirectory']}" if "subdirectory" in package else ""
    if "git" in package:
        url = f"{_of_git(package['git'])}@{package.get('revision', package.get('ref', 'HEAD'))}{subdirectory}"
    elif url:
        url = f"{url}{subdirectory}"
    if "path" in package:
        url = (path.parent / package["path"]).absolute().as_uri()
    return (f"{name} @ {url}" if url else f"{name}=={package['version']}") + _marker(package.get("marker"))


def _of_git(repository: str) -> str:
    """Return the URL of a repository as a requirement has it, which is no ``host:path`` of SSH.

    Example:
        >>> _of_git("git@git.example.org:shop/one.git")
        'git+ssh://git@git.example.org/shop/one.git'
    """
    found = _OF_SSH.fullmatch(repository)
    return f"git+ssh://{found[1]}/{found[2]}" if found else f"git+{repository}"


def of_pdm(lock: Path) -> list[str]:
    """Return the packages that are installed by a pdm.lock, as far as it says so, with their extras."""
    packages: list[dict[str, Any]] = read_toml(lock).get("package", [])
    return [f"{package.get('name', '')}{_extras(package)}" for package in packages if _is_installed_by_pdm(package)]


def _is_installed_by_pdm(package: dict[str, Any]) -> bool:
    """Return whether a package is for a site: of the group ``default``, or of one for production."""
    return any(group == "default" or _GROUP.fullmatch(group) for group in package.get("groups", ["default"]))


def _indexes(urls: Iterable[str]) -> Iterator[str]:
    """Yield the indexes of a lock file except PyPI."""
    for url in urls:
        if not index.is_pypi(url):
            yield f"{_INDEX} {url}\n"


def _extras(package: dict[str, Any]) -> str:
    return f"[{','.join(package['extras'])}]" if package.get("extras") else ""


def _marker(marker: str | None) -> str:
    return f" ; {marker}" if marker else ""


#: The functions that write a lock file as requirements.
_CONVERTED = {
    "Pipfile.lock": _pipfile_requirements,
    "poetry.lock": _poetry_requirements,
    "pdm.lock": _pdm_requirements,
}
