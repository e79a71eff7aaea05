"""The requirements of a project: the files in its source that list them, and what is in those."""

import ast
import configparser
import contextlib
import hashlib
import itertools
import json
import os
import re
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

from django_formula.host import file as host_file
from django_formula.host.commands import DeploymentError
from django_formula.knowledge import cause_repository
from django_formula.knowledge.package import normalised
from django_formula.site.sites import Site
from django_formula.untrusted import delegate
from django_formula.virtualenv import local as virtualenv_local
from django_formula.virtualenv import lock

_FILES = (
    "requirements.txt",
    "requirements/production.txt",
    "requirements/prod.txt",
    "requirements/base.txt",
    "requirements-prod.txt",
)
#: Other names of files with requirements, and words in them by which one is chosen: the first is the best.
_OTHER = re.compile(r"(^|[/._-])(requirements|reqs?|requires)([/._-]|$)", re.IGNORECASE)
#: Words in names of files with requirements that are not those of a site.
NOT_FOR_SITES = re.compile(
    r"(^|[/._-])(dev\w*|tests?|testing|docs?|lint\w*|ci|local|build|optional|extras?|style|typing)([/._-]|$)"
    r"|\.(egg|dist)-info/"
)
#: Files of an installed package, which are not in the form of requirements.
_OF_PACKAGE = re.compile(r"\.(egg|dist)-info/")
_BEST = (r"pro|prod\w*|live|online|release", r"deploy\w*|server|web|main|default|all")
_PYTHON_VERSIONS = {
    "uv.lock": r'^requires-python = "([^"]+)"',
    "pyproject.toml": r"""^requires-python\s*=\s*["']([^"']+)""",
    "poetry.lock": r'^\[metadata\][\s\S]*?^python-versions = "([^"]+)"',
    "pdm.lock": r'^\[\[metadata\.targets\]\]\s+requires_python = "([^"]+)"',
}
#: A line for the project itself, which is never installed: its code is that of each release.
PROJECT = re.compile(
    r"^[ \t]*(?:-e[\s=]*|--editable[\s=]+)?(?:file:)?\./?(?:\[([\w, -]+)\])?[ \t]*(?:[;#].*)?\r?$", re.MULTILINE
)
#: A requirement in quotes, as a shell needs it for `<` and `>`, and no requirements file.
QUOTED = re.compile(r"^([ \t]*)(?P<quote>[\"'])([A-Za-z][^\"'\n]*)(?P=quote)(?=[ \t]*(?:#.*)?\r?$)", re.MULTILINE)
#: The files that declare the dependencies of a project as a package.
PACKAGING = ("pyproject.toml", "setup.py", "setup.cfg")
#: Keys of an entry in a Pipfile that are conditions, as the words of a marker.
_MARKERS = (
    *("os_name", "sys_platform", "platform_machine", "platform_python_implementation", "platform_release"),
    *("platform_system", "platform_version", "python_version", "python_full_version", "implementation_name"),
    "implementation_version",
)
_REQUIREMENT = re.compile(r"[A-Za-z][\w.-]*(\[[\w, -]+\])?")
#: A requirement by the URL of a repository or of an archive, the name that it may have there, and a marker by which it
#: is not for this system.
_URL = re.compile(r"(?:-e[\s=]*|--editable[\s=]+)?((?:git\+)?\w+://[^\s;]+)")
_EGG = re.compile(r"[#&]egg=([A-Za-z][\w.-]*(?:\[[\w, -]+\])?)")
_OF_OTHERS = re.compile(
    r";(?!.*\bor\b).*\b(?:sys_platform|platform_system|os_name)\s*==\s*[\"'](?:win32|cygwin|nt|Windows|[Dd]arwin)[\"']"
)
_INCLUDE = re.compile(r"^[ \t]*(?:-[rc][\s=]*|(?:--requirement|--constraint)[\s=]+)([^\s=]\S*)", re.MULTILINE)
LIMIT = re.compile(r"^[ \t]*(?:-c[\s=]*|--constraint[\s=]+)([^\s=]\S*)", re.MULTILINE)
_REQUIRE = re.compile(r"^[ \t]*(?:-r[\s=]*|--requirement[\s=]+)([^\s=]\S*)", re.MULTILINE)
#: The ends of names of packages that are files, and such a file in a line of requirements.
ARCHIVES = (".whl", ".zip", ".tar.gz", ".tgz", ".tar.bz2", ".tar.xz")
_ARCHIVE = re.compile(rf"(?:^|[\s:@])([\w./+-]+(?:{'|'.join(map(re.escape, ARCHIVES))}))(?=[\s;#]|$)", re.MULTILINE)
#: The most characters that the files may have together.
_MOST = 8 << 20


class Requirements(NamedTuple):
    """The requirements of a project.

    Attributes:
        files: the files that list them, relative to the source.
        contents: the texts of these and of the files that they include, by path; and of the source's own packages
            that they name a hash of all that is in their folders.
        python: the versions of Python that the project supports, such as ``>=3.12``; empty if none are declared.
    """

    files: list[str]
    contents: dict[str, str]
    python: str


def read(site: Site, source: Path, folder: str) -> Requirements:
    """Read the requirements of a project as the build user.

    Args:
        folder: the folder of manage.py, relative to the source; searched before those above it.

    Raises:
        DeploymentError: the pillar names a file that does not exist, no file is found, or the files are too large.
    """
    found = delegate.ask(site.build_user, _read, site, source, folder, doing="reading the requirements")
    return Requirements(*found)


def _read(site: Site, source: Path, folder: str) -> Requirements:
    names = requirement_files(site, source, folder)
    texts = contents(source, names)
    local = virtualenv_local.hashes(source, virtualenv_local.find(source, texts, folder))
    if sum(map(len, texts.values())) > _MOST:
        raise DeploymentError(f"{', '.join(names)} and the files that they include exceed {_MOST >> 20} MiB")
    return Requirements(names, texts | local, python_versions(source, names))


def requirement_files(site: Site, source: Path, folder: str) -> list[str]:
    """Return the files that list the requirements of a site's project, relative to its source.

    Args:
        folder: the folder of manage.py, relative to the source; searched before those above it.

    Raises:
        DeploymentError: the pillar names a file that does not exist, or no file is found.
    """
    named = site.config["requirements"]
    at = site.at
    if named:
        missing = [path for path in named if not (source / path).is_file()]
        if missing:
            raise DeploymentError(
                f"the requirements file {missing[0]} is not in the source", hint=f"correct {at}:requirements"
            )
        return list(named)
    found = default_files(source, folder)
    if found or site.config["python_packages"]:
        return found
    names = ", ".join((*lock.NAMES, *_FILES, "pyproject.toml"))
    raise DeploymentError(
        f"no requirements found in the source; searched for {names}",
        hint=f"name the file in {at}:requirements, or list the packages in {at}:python_packages",
    )


def default_files(source: Path, folder: str) -> list[str]:
    """Return the file that a project is installed from if the pillar names none, or an empty list.

    It is in the folder of manage.py, or in one above it.
    """
    own = source / folder
    folders = [one for one in (own, *own.parents) if one.is_relative_to(source)]
    for names in (lock.NAMES, _FILES, ("pyproject.toml",)):
        for parent in folders:
            for name in names:
                if (parent / name).is_file() and declares_dependencies(parent / name):
                    found = [str((parent / name).relative_to(source))]
                    is_stale = parent == source and name in _FILES and _lacks_all(source, name)
                    if is_stale:
                        return _otherwise_named(source, folders) or found
                    if name == "pyproject.toml" and _has_no_django(parent / name):
                        return _otherwise_named(source, folders, "django") or found
                    return (_for_production(source, parent / name) if name in _FILES else []) or found
    return _otherwise_named(source, folders)


def _for_production(source: Path, path: Path) -> list[str]:
    """Return the file next to one with requirements that is named for production and includes it, or an empty list."""
    named = [name for name in _named(source, path.parent, ("*",)) if _rank(name)[0] == 0]
    texts = {name: host_file.decoded((source / name).read_bytes()) for name in named}
    return [name for name in named if path.name in _INCLUDE.findall(texts[name])][:1]


def _otherwise_named(source: Path, folders: list[Path], package: str = "") -> list[str]:
    """Return the best file of another name that lists requirements, or an empty list.

    It is at most one folder below those given, or two where the outer one is named for requirements; a file below the
    first folder, that of manage.py, is better than all others. Where there is none, it is any other file named for
    requirements two folders below that lists Django.

    Args:
        package: a package that the file has to list; empty for any.
    """
    patterns = ("*", "*/*", "*req*/*/*")
    for top in folders:
        best = next((name for name in _named(source, top, patterns) if _lists_packages(source, name, package)), "")
        if best:
            return [best]
    inner = [name for top in folders for name in _named(source, top, ("*/*/*",))]
    return [name for name in inner if _lists_packages(source, name, "django")][:1]


def named_for_others(source: Path) -> list[str]:
    """Return the best file that lists Django of those that are named for other uses, as docs/ and dev; or none."""
    found = _named(source, source, ("*", "*/*", "*/*/*"), of_sites=False)
    return [name for name in found if not _OF_PACKAGE.search(name) and _lists_packages(source, name, "django")][:1]


def _named(source: Path, top: Path, patterns: Iterable[str], *, of_sites: bool = True) -> list[str]:
    """Return the files below a folder that are named for requirements, of sites or for other uses, the best first."""
    paths = (
        path
        for pattern in patterns
        for path in top.glob(pattern)
        if path.suffix in lock.REQUIREMENTS_SUFFIXES and path.is_file()
    )
    found = {str(path.relative_to(source)) for path in paths}
    wanted = (name for name in found if _OTHER.search(name) and bool(NOT_FOR_SITES.search(name)) != of_sites)
    return sorted(wanted, key=_rank)


def _lacks_all(source: Path, name: str) -> bool:
    """Return whether a file lists no packages, and only includes files that are not in the source."""
    included = _INCLUDE.findall(host_file.decoded((source / name).read_bytes()))
    is_there = any((source / name).parent.joinpath(path).is_file() for path in included)
    return bool(included) and not is_there and not _packages(source / name)


def _has_no_django(pyproject: Path) -> bool:
    """Return whether a pyproject.toml declares no dependencies, and its extras, as of documentation, lack Django."""
    try:
        if not list_nothing(pyproject.parent, [pyproject.name]):
            return False
        extras = lock.read_toml(pyproject).get("project", {}).get("optional-dependencies", {})
        listed = [one.partition("[")[0] for one in names(itertools.chain.from_iterable(extras.values()))]
    except (ValueError, LookupError, TypeError, AttributeError, RecursionError):  # its installation reports it
        return False
    return "django" not in listed


def _lists_packages(source: Path, name: str, package: str = "") -> bool:
    """Return whether a file lists packages, and a certain one among them if it is given."""
    with contextlib.suppress(DeploymentError):
        listed = package_names(source, [name]) if (source / name).is_file() else []
        return package in without_extras(listed) if package else bool(listed)
    return False


def _rank(name: str) -> tuple[int, int, int, str]:
    ranks = [number for number, words in enumerate(_BEST) if re.search(rf"(^|[/._-])({words})([/._-]|$)", name)]
    end = next(
        (number for number, one in enumerate(lock.REQUIREMENTS_SUFFIXES) if name.endswith(one)),
        len(lock.REQUIREMENTS_SUFFIXES),
    )
    return min(ranks, default=len(_BEST)), name.count("/"), end, name


def declares_dependencies(path: Path) -> bool:
    """Return whether a file declares dependencies.

    Many a pyproject.toml has only the configuration of tools, and a lock that is empty locks nothing.
    """
    if path.suffix == ".lock":
        return bool(path.read_bytes().strip())
    is_other = path.name != "pyproject.toml"
    return is_other or is_package(path) or bool(lock.groups_of_pyproject(path))


def is_package(pyproject: Path) -> bool:
    """Return whether a pyproject.toml describes a package, and not only tools and groups of dependencies."""
    text = host_file.decoded(pyproject.read_bytes())
    return bool(re.search(r"^\[(project|tool\.poetry)\]", text, re.MULTILINE))


def python_versions(source: Path, names: list[str]) -> str:
    """Return the versions of Python that the files declare, as they are written there: ``>=3.12``; empty if none."""
    for name in names:
        pattern = _PYTHON_VERSIONS.get(Path(name).name)
        text = host_file.decoded((source / name).read_bytes()) if pattern else ""
        found = re.search(pattern or "$.", text, re.MULTILINE)
        if found:
            return found.group(1)
    return ""


def package_names(source: Path, names: list[str]) -> list[str]:
    """Return the packages that the files list, in lower case, with their extras; none that they only limit."""
    packages: list[str] = []
    for name in names:
        for path in with_included(source, source / name, set(), _REQUIRE):
            packages += _packages(path)
            if path.suffix in lock.REQUIREMENTS_SUFFIXES and PROJECT.search(host_file.decoded(path.read_bytes())):
                packages += [one for own in PACKAGING if (source / own).is_file() for one in _packages(source / own)]
    return _normalised(packages)


def names(requirements: Iterable[str]) -> list[str]:
    """Return the packages of requirements such as ``django>=5.2``, in lower case, with their extras."""
    return _normalised(found.group() for line in requirements if (found := _REQUIREMENT.match(line.strip())))


def without_extras(requirements: Iterable[str]) -> set[str]:
    """Return the normalised names of the packages of requirements: ``psycopg[binary]>=3`` is of ``psycopg``."""
    return {normalised(name.partition("[")[0]) for name in names(requirements)}


def _normalised(packages: Iterable[str]) -> list[str]:
    return sorted({package.lower().replace("_", "-").replace(" ", "") for package in packages})


def _packages(path: Path) -> list[str]:
    """Return the packages that a file lists; none where it is damaged, which their installation reports."""
    try:
        return _listed(path)
    except (ValueError, LookupError, TypeError, AttributeError, RecursionError):
        return []


def lines(source: Path, names: Iterable[str]) -> Iterator[tuple[str, bool]]:
    """Yield the lines of requirements in files and those that they include, none of a lock; and whether they limit."""
    paths = [path for name in names for path in with_included(source, source / name, set())]
    texts = {path: _text(path) for path in paths}
    limits = {Path(os.path.realpath(path.parent / one)) for path, text in texts.items() for one in LIMIT.findall(text)}
    for path, text in texts.items():
        with contextlib.suppress(ValueError, LookupError, TypeError, AttributeError, RecursionError):
            yield from ((line, path in limits) for line in _lines(path, text))


def _lines(path: Path, text: str) -> list[str]:
    if path.suffix == ".lock" or path.name in lock.NAMES:
        return []
    if path.suffix == ".toml":
        return _dependencies(path)
    return _of_setup(path, text) if path.name in PACKAGING else text.splitlines()


def _text(path: Path) -> str:
    text = host_file.decoded(path.read_bytes())
    return QUOTED.sub(r"\1\3", text) if path.suffix in lock.REQUIREMENTS_SUFFIXES else text


def _listed(path: Path) -> list[str]:
    text = _text(path)
    if path.name == "Pipfile.lock":
        return [*json.loads(text).get("default", {})]
    if path.suffix == ".lock":
        convert = {
            "uv.lock": lock.of_uv,
            "poetry.lock": lock.of_poetry,
            "pdm.lock": lock.of_pdm,
        }
        needed = convert[path.name](path) if path.name in convert else []
        return needed or re.findall(r'^name = "([^"]+)"', text, re.MULTILINE)
    return [*filter(None, map(_name, _lines(path, text)))]


def _name(line: str) -> str:
    """Return the package of a line with its extras; empty for one of Windows or macOS alone, and for no requirement."""
    text = line.strip()
    if _OF_OTHERS.search(text):
        return ""
    if found := _URL.match(text):
        egg = _EGG.search(found[1])
        return egg[1] if egg else cause_repository.package_of(re.split("[?#]", found[1])[0])
    named = _REQUIREMENT.match(text)
    return named[0] if named else ""


def _dependencies(pyproject: Path) -> list[str]:
    """Return the dependencies that a pyproject.toml lists, also in groups that a site needs; of poetry no versions."""
    content = lock.read_toml(pyproject)
    listed: list[str] = content.get("project", {}).get("dependencies", [])
    groups = lock.groups_of_pyproject(pyproject).values()
    return [
        *listed,
        *itertools.chain.from_iterable(groups),
        *lock.requirements_of_poetry(pyproject),
    ]


def of_pipfile(path: Path) -> list[str]:
    """Return the requirements of a Pipfile, in the order there; none of a repository, and none if it is damaged."""
    try:
        listed = lock.read_toml(path).get("packages", {}) if path.is_file() else {}
        return [*filter(None, (_of_pipfile(name, about) for name, about in listed.items()))]
    except (ValueError, LookupError, TypeError, AttributeError, RecursionError):
        return []


def _of_pipfile(name: str, about: Any) -> str:
    if isinstance(about, str):
        return name + _specified(about)
    is_named = isinstance(about, dict) and not {"git", "path", "file", "url"} & {*about}
    extras = f"[{','.join(about['extras'])}]" if is_named and about.get("extras") else ""
    markers = [f"{key} {about[key]}" for key in _MARKERS if key in about] if is_named else []
    own = [about["markers"]] if is_named and about.get("markers") else []
    markers = [*(f"({one})" if markers else one for one in own), *markers]
    marker = f"; {' and '.join(markers)}" if markers else ""
    version = _specified(str(about.get("version", ""))) if is_named else ""
    return f"{name}{extras}{version}{marker}" if is_named else ""


def _specified(version: str) -> str:
    """Return the versions of a Pipfile as a requirement has them; there a version may be without an operator."""
    text = version.strip()
    return f"=={text}" if text[:1].isdigit() else text.removeprefix("*")


def list_nothing(source: Path, names: list[str]) -> bool:
    """Return whether the only files are pyproject.toml of projects without dependencies, computed ones too."""
    paths = [source / name for name in names]
    tables = [lock.read_toml(path).get("project", {}) for path in paths if path.suffix == ".toml"]
    is_dynamic = any("dependencies" in table.get("dynamic", []) for table in tables)
    return len(tables) == len(paths) and not is_dynamic and not any(map(_dependencies, paths))


def _of_setup(path: Path, text: str) -> list[str]:
    """Return the dependencies that a setup.py or setup.cfg lists literally, or by the name of a list."""
    if path.suffix == ".cfg":
        parser = configparser.ConfigParser(interpolation=None, strict=False)
        with contextlib.suppress(configparser.Error):
            parser.read_string(text)
        return parser.get("options", "install_requires", fallback="").splitlines()
    try:
        nodes = [*ast.walk(ast.parse(text))]
    except (SyntaxError, ValueError, RecursionError, MemoryError):
        return []
    lists = {ast.unparse(node.targets[0]): node.value for node in nodes if isinstance(node, ast.Assign)}
    listed = [node.value for node in nodes if isinstance(node, ast.keyword) and node.arg == "install_requires"]
    listed = [lists.get(node.id, node) if isinstance(node, ast.Name) else node for node in listed]
    entries = [entry for node in listed for entry in getattr(node, "elts", [])]
    return [entry.value for entry in entries if isinstance(entry, ast.Constant) and isinstance(entry.value, str)]


def setup_file(source: Path) -> str:
    """Return the setup.cfg or setup.py at the top of a source that lists dependencies; empty if none does."""
    for name in ("setup.cfg", "setup.py"):
        if (source / name).is_file() and _packages(source / name):
            return "setup.py" if (source / "setup.py").is_file() else name
    return ""


def with_included(source: Path, path: Path, done: set[Path], including: re.Pattern[str] = _INCLUDE) -> Iterator[Path]:
    """Yield a requirements file and the files that it includes.

    Args:
        done: the files that were yielded before; they are skipped, and new ones added.
        including: what includes a file; by default the files with constraints are among them.

    Raises:
        DeploymentError: an included file does not exist, or is outside of the source.
    """
    path, top = (Path(os.path.realpath(one)) for one in (path, source))  # which a loop of links does not end
    if path in done:
        return
    done.add(path)
    if not path.is_relative_to(top) or not path.is_file():
        shown = path.relative_to(top) if path.is_relative_to(top) else path
        raise DeploymentError(
            f"the requirements include {shown}, which is not in the source",
            hint="commit the file, or remove the line that includes it",
        )
    yield path
    if path.suffix in lock.REQUIREMENTS_SUFFIXES:
        for included in including.findall(host_file.decoded(path.read_bytes())):
            if "://" not in included:
                yield from with_included(source, path.parent / included, done, including)


def contents(source: Path, names: list[str]) -> dict[str, str]:
    """Return the texts of all files that decide which packages are installed, by their paths.

    Of a package that is a file in the source it is its hash.
    """
    done: set[Path] = set()
    texts: dict[str, str] = {}
    for name in names:
        for path in with_included(source, source / name, done):
            texts[str(path.relative_to(source.resolve()))] = _text(path)
        pyproject = (source / name).with_name("pyproject.toml")
        if name.endswith(("uv.lock", "poetry.lock", "pdm.lock")) and pyproject.is_file():
            texts[str(pyproject.relative_to(source))] = host_file.decoded(pyproject.read_bytes())
    if any(PROJECT.search(text) for name, text in texts.items() if name.endswith(lock.REQUIREMENTS_SUFFIXES)):
        texts |= {name: text for name in PACKAGING if (text := host_file.read_text(source / name)) is not None}
    archives = [path for name, text in texts.items() for path in _archives(source, Path(name).parent, text)]
    return texts | {name: _hash(source / name) for name in archives}


def _archives(source: Path, folder: Path, text: str) -> Iterator[str]:
    """Yield the files of a source that requirements name as packages: from their own folder, or from one above it."""
    top = source.resolve()
    for name in _ARCHIVE.findall(text):
        paths = [Path(os.path.realpath(source / parent / name)) for parent in (folder, *folder.parents)]
        yield from [str(path.relative_to(top)) for path in paths if path.is_file() and path.is_relative_to(top)][:1]


def _hash(path: Path) -> str:
    found = hashlib.sha256()
    with path.open("rb") as file:
        while block := file.read(1 << 20):
            found.update(block)
    return found.hexdigest()
