"""What the requirements of a project say beyond its packages: packages of the system, the database, indexes."""

import contextlib
import itertools
import json
import re
from collections.abc import Collection, Iterator, Mapping
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from django_formula.database import engines as database_engines
from django_formula.host import toml
from django_formula.inspect import code
from django_formula.inspect import project as inspect_project
from django_formula.virtualenv import lock, requirements

#: A required Python package → packages of Debian that it needs to be built or loaded.
_SYSTEM_PACKAGES = (
    (r"psycopg2(cffi)?(?!-binary)", ["gcc", "libc6-dev", "libpq-dev", "python3-dev"]),
    (r"psycopg(?!2)(?!\[[^\]]*(binary|c)\b)(?!-(binary|c\b))", ["libpq5"]),
    (r"psycopg(\[([^\]]*,\s*)?c\b[^\]]*\]|-c)", ["gcc", "libc6-dev", "libpq-dev", "python3-dev"]),
    (r"mysqlclient", ["default-libmysqlclient-dev", "gcc", "libc6-dev", "pkg-config", "python3-dev"]),
    (r"pylibmc", ["gcc", "libc6-dev", "libmemcached-dev", "python3-dev", "zlib1g-dev"]),
    (r"uwsgi", ["gcc", "libc6-dev", "python3-dev"]),
    (r"python-ldap|django-auth-ldap", ["gcc", "libc6-dev", "libldap2-dev", "libsasl2-dev", "python3-dev"]),
    (r"xmlsec|python3-saml", ["gcc", "libc6-dev", "libxmlsec1-dev", "pkg-config", "python3-dev"]),
    (r"pycairo|xhtml2pdf", ["gcc", "libc6-dev", "libcairo2-dev", "pkg-config", "python3-dev"]),
    (r"cairocffi|cairosvg", ["libcairo2"]),
    (r"weasyprint", ["libpango-1.0-0", "libpangoft2-1.0-0"]),
    (r"python-magic", ["libmagic1"]),
    (r"netifaces", ["gcc", "libc6-dev", "python3-dev"]),
    (r"pygraphviz", ["gcc", "libc6-dev", "libgraphviz-dev", "pkg-config", "python3-dev"]),
    (r"dlib|face-recognition", ["cmake", "g++", "make", "python3-dev"]),
    (r"pyicu", ["g++", "libicu-dev", "pkg-config", "python3-dev"]),
    (r"pyaudio", ["gcc", "libc6-dev", "portaudio19-dev", "python3-dev"]),
    (r"(requests-)?(gssapi|kerberos)|phoenixdb", ["gcc", "libc6-dev", "libkrb5-dev", "python3-dev"]),
    (r"pyzbar", ["libzbar0"]),
    (r"opencv-(contrib-)?python", ["libgl1", "libglib2.0-bin"]),
)
#: Package of which Linux has no wheel → Python, the first version that may be built for it and imported, and the
#: version that replaces an older one. What cannot be built gives way in the build (virtualenv.relaxed_pins).
_BUILT_SINCE = {
    "psycopg2": (("3.11", "2.9.2", "2.9.5"), ("3.13", "2.9.10", "2.9.10")),
}
#: Package → Python, the first version that runs on it, and the nearest that replaces an older one, as above.
_RUNS_SINCE = {
    "bleach": (("3.10", "3.2", "3.3.1"),),  # the html5lib in it imports collections.Mapping
    "channels": (("3.13", "4", "4.0.0"),),  # imports cgi
    "channels-redis": (("3.13", "4", "4.0.0"),),  # for Channels before 4
    "html5lib": (("3.10", "1.1", "1.1"),),
}
#: Package → Django, the first version that runs with it, and the nearest that replaces an older one, as above.
_RUNS_WITH_DJANGO = {
    "django-allauth": (("3.0", "0.40", "0.54.0"),),  # python_2_unicode_compatible
    "django-compressor": (("3.0", "2.4", "2.4.1"), ("4.0", "3.0", "3.1"), ("5.1", "4.5", "4.5")),
    "django-countries": (("3.2", "7.2", "7.5.1"),),  # db_collation
    "django-crispy-forms": (("3.0", "1.8", "1.14.0"),),  # lru_cache
    "django-debug-toolbar": (("3.0", "2.1", "3.2.4"), ("4.0", "3.2.2", "3.8.1")),
    "django-haystack": (("3.0", "3.0", "3.2.1"), ("4.0", "3.2", "3.2.1"), ("5.0", "3.3", "3.3.0")),
    "djangorestframework": (("4.0", "3.12", "3.13.1"), ("4.2", "3.14", "3.14.0")),
}
#: Packages that make code at run time, which the sandbox of the site's processes refuses.
_MAKE_CODE = ("psycopg2cffi", "numba", "llvmlite")
#: Packages of Ubuntu's own system, which ``pip freeze`` lists there and no index has; and others of a desktop that come
#: with them, whose builds need its libraries.
_OF_UBUNTU = {
    *("apturl", "command-not-found", "cupshelpers", "language-selector", "python-apt", "screen-resolution-extra"),
    *("ubuntu-advantage-tools", "ubuntu-drivers-common", "ubuntu-pro-client", "ufw", "unattended-upgrades", "xkit"),
}
_OF_DESKTOP = {"brlapi", "dbus-python", "defer", "louis", "pycups", "pygobject", "systemd-python", "usb-creator"}
#: Package, its extra, its first version that requires another package without a limit, its first one that has it
#: right, the other package, and the first version of that which those between do not run with.
_FITTING = (
    ("django-allauth", "mfa", "64", "65.8.1", "fido2", "2"),
    ("jinja2", "", "2", "3", "markupsafe", "2.1"),
    ("openai", "", "1", "1.55.3", "httpx", "0.28"),
)
#: Packages that write into their own folder → the names that they are imported by.
_WRITE_INTO_THEMSELVES = {"django-simple-bulma": "django_simple_bulma"}
#: Celery and what it requires of its own authors → the series that replace pins of Celery 4 together.
_CELERY = {"celery": "5.4.0", "kombu": "5.4.0", "vine": "5.1", "amqp": "5.2", "billiard": "4.2"}
_INDEX = re.compile(r"^\s*(?:-i|--index-url|--extra-index-url|-f|--find-links)[\s=]+(\S+)", re.MULTILINE)
_OF_LOCK = re.compile(r"""(?:registry = |^url = )"(https?://[^"]+)\"""", re.MULTILINE)
_PINNED = re.compile(
    r"^\s*[\"']?([A-Za-z][\w.-]*)(?:\[[^\]]*\])?\s*===?\s*([\w.!+]+?)(\.\*)?(?![\w.!+*])", re.MULTILINE
)
#: A requirement with a version or a bound of it, which as one of the pillar's replaces the pin of the project.
_REPLACING = re.compile(r"\s*([A-Za-z][\w.-]*)\s*(?:\[[^\]]*\])?\s*(?:(?:===?|~=)\s*(\d[\w.]*)|[<>!@=])")
_LOCKED = re.compile(r'^name = "([^"]+)"\nversion = "([^"]+)"', re.MULTILINE)
#: Packages of Windows and macOS, of which Linux has no wheel and that it cannot build, in lines without a marker.
_OF_OTHER_SYSTEMS = re.compile(
    r"^\s*(pywin32|pypiwin32|pywinpty|windows-curses|winkerberos|wmi|twisted-iocpsupport|python-magic-bin|winrt-[\w-]+"
    r"|pyobjc(?:-core|-framework-[\w-]+)?)\s*(?:[<>=!~][^;#\n]*)?(?:#.*)?$",
    re.IGNORECASE | re.MULTILINE,
)
#: Names of extras with what only servers need.
_FOR_SERVERS = re.compile(r"prod|production|live|deploy|deployment|servers?", re.IGNORECASE)
_COMPILED_FOR = re.compile(r"autogenerated by pip-compile with python (\d\.\d+)", re.IGNORECASE)

#: What a command of a Dockerfile has pip install, and the files with requirements in it.
_PIP = re.compile(r"\bpip3?[ ]+(?:install|wheel)\b([^\n;&|]*)")
_OPTION_R = re.compile(r"(?:-r|--requirement)[ =]*([\w./-]+\.txt)\b")


def system_packages(required: Collection[str]) -> Iterator[tuple[str, list[str]]]:
    """Yield the required packages that need packages of Debian, and these."""
    for pattern, packages in _SYSTEM_PACKAGES:
        matching = [name for name in required if re.match(rf"({pattern})(?![\w-])", name)]
        if matching:
            yield matching[0], packages


def unbuilt(pinned: Mapping[str, str], python: str) -> Iterator[tuple[str, str]]:
    """Yield the pinned packages that cannot be built for a Python, and the version that is installed in their place.

    Args:
        python: the version of Python that they are installed for; empty if it is not known.
    """
    yield from _outdated(_BUILT_SINCE, pinned, python)


def not_running(pinned: Mapping[str, str], python: str) -> Iterator[tuple[str, str]]:
    """Yield the pinned packages that a Python cannot import, and the version that is installed in their place.

    Args:
        python: as for `unbuilt`.
    """
    yield from _outdated(_RUNS_SINCE, pinned, python)


def not_running_with_django(pinned: Mapping[str, str], django: str) -> Iterator[tuple[str, str]]:
    """Yield the pinned packages that do not run with a newer Django, and the version that is installed in their place.

    Args:
        django: the version of Django that replaces the pinned one.
    """
    yield from _outdated(_RUNS_WITH_DJANGO, pinned, django)


def _outdated(
    table: Mapping[str, tuple[tuple[str, str, str], ...]], pinned: Mapping[str, str], present: str
) -> Iterator[tuple[str, str]]:
    for name, rows in table.items():
        fitting_rows = [row for row in rows if present and not _is_before(present, row[0])]
        if fitting_rows and _is_before(pinned.get(name, ""), fitting_rows[-1][1]):
            yield name, fitting_rows[-1][2]


def writable_packages(required: Collection[str]) -> Iterator[tuple[str, str]]:
    """Yield the required packages that write into their own folder, and the names that they are imported by."""
    for name, imported in _WRITE_INTO_THEMSELVES.items():
        if any(re.match(rf"{name}(\[|$)", one) for one in required):
            yield name, imported


def fitting(pinned: Mapping[str, str], required: Collection[str]) -> Iterator[tuple[str, str]]:
    """Yield constraints for packages that are not pinned, of which the newest does not fit a pinned one, and why."""
    if "celery" in required and "kombu" not in pinned and _is_before(pinned.get("redis", ""), "6.1"):
        # no metadata of kombu says it, unless Celery is required with its extra for Redis
        yield "kombu<5.7", f"kombu 5.7 refuses redis {pinned['redis']}"
    for package, extra, first, fixed, other, limit in _FITTING:
        pattern = rf"{package}\[(.+,)?{extra}(,.+)?\]" if extra else rf"{package}(\[.+\])?"
        is_required = any(re.fullmatch(pattern, one) for one in required) and other not in pinned
        version = pinned.get(package, "")
        if is_required and _is_before(version, fixed) and not _is_before(version, first):
            yield f"{other}<{limit}", f"{package} {pinned[package]} does not run with {other} {limit}"


def newer_celery(versions: Mapping[str, str], python: str) -> list[str]:
    """Return requirements that replace a Celery before 5, whose vine a Python since 3.11 cannot import.

    Args:
        versions: the packages that are pinned or installed.
        python: the version of Python; empty if it is not known.
    """
    if not python or _is_before(python, "3.11") or not _is_before(versions.get("celery", ""), "5"):
        return []
    return [f"{name}~={version}" for name, version in _CELERY.items() if name in versions]


def of_system(pinned: Mapping[str, str]) -> list[str]:
    """Return the pinned packages that only the system has on which the requirements were written, Ubuntu or Debian.

    No index has a version with ``+ubuntu`` in it.
    """
    only = {name for name, version in pinned.items() if name in _OF_UBUNTU or re.search(r"\+(ubuntu|deb)", version)}
    return sorted(only | (_OF_DESKTOP & {*pinned} if only else set()))


def of_other_systems(contents: Mapping[str, str]) -> list[str]:
    """Return the packages of Windows and macOS that requirements list for every system, as pip freeze does there."""
    texts = [text for name, text in contents.items() if not name.endswith((".lock", ".toml"))]
    return sorted({found.lower() for text in texts for found in _OF_OTHER_SYSTEMS.findall(text)})


def contradictory(contents: Mapping[str, str]) -> dict[str, str]:
    """Return the packages that lines without markers pin to several versions, and the newest of these.

    A version with letters, as 5.0rc1 has them, is older than the same without.
    """
    found: dict[str, dict[tuple[tuple[int, ...], bool], str]] = {}
    for file, text in contents.items():
        lines = re.sub(r"\\\n", " ", text).splitlines() if not file.endswith((".lock", ".toml")) else []
        for name, version in _pins("\n".join(line for line in lines if ";" not in line)):
            release = re.match(r"[\d.]*", version)[0]  # type: ignore[index]  # (matches any text)
            order = (tuple(_numbers(re.sub(r"(\.0)+$", "", release))), release == version.partition("+")[0])
            found.setdefault(re.sub("[-_.]+", "-", name).lower(), {})[order] = version
    return {name: several[max(several)] for name, several in sorted(found.items()) if len(several) > 1}


def of_pytorch(pinned: Mapping[str, str], contents: Mapping[str, str]) -> list[str]:
    """Return requirements for versions on PyPI, of packages that are pinned to builds on the index of PyTorch only.

    None where the requirements name that index.
    """
    if any("download.pytorch.org" in text for text in contents.values()):
        return []
    found = {name: re.fullmatch(r"([\d.]+)\+(cpu|cu\d+|rocm[\d.]+)", version) for name, version in pinned.items()}
    return [f"{name}=={version[1]}" for name, version in sorted(found.items()) if version]


def makes_code(required: Collection[str]) -> str:
    """Return a required package that makes code at run time; empty if none does."""
    return next((name for name in _MAKE_CODE if name in required), "")


def versions(contents: Mapping[str, str]) -> dict[str, str]:
    """Return the packages that requirements or a lock file pin: normalised name → version."""
    found: dict[str, str] = {}
    for name, text in contents.items():
        pairs = _LOCKED.findall(text) if name.endswith(".lock") else [*_pins(text)]
        if name.endswith("Pipfile.lock"):
            locked = _pipfile(text).get("default", {}).items()
            pairs = [
                (one, str(about.get("version", "")).lstrip("=")) for one, about in locked if isinstance(about, dict)
            ]
        found |= {re.sub("[-_.]+", "-", one).lower(): version for one, version in pairs if version}
    return found


def _pins(text: str) -> Iterator[tuple[str, str]]:
    """Yield the packages that lines pin, and the version; of open ones (``==2.*``) only that of Django."""
    for name, version, is_open in _PINNED.findall(text):
        if not is_open or name.lower() == "django":
            yield name, version


def replacing(packages: Collection[str]) -> dict[str, str]:
    """Return the packages of the pillar that replace pins of the project: normalised name → version.

    The version is empty where only bounds are known: ``>=4.2``.
    """
    found = filter(None, map(_REPLACING.match, packages))
    return {re.sub("[-_.]+", "-", one[1]).lower(): one[2] or "" for one in found}


def _pipfile(text: str) -> dict[str, dict[str, Any]]:
    """Return the tables of a Pipfile.lock; none if it is damaged, which its installation reports."""
    try:
        content = json.loads(text)
    except (ValueError, RecursionError):
        return {}
    return (
        {name: table for name, table in content.items() if isinstance(table, dict)} if isinstance(content, dict) else {}
    )


def drivers(required: Collection[str]) -> dict[str, str]:
    """Return the kinds of database servers that packages are drivers for: name in the pillar → package."""
    names = {re.sub(r"\[.*", "", name).replace("-", "_"): name for name in required}
    engines = database_engines.SERVERS.items()
    return {kind: names[one] for kind, engine in engines for one in sorted(engine.drivers) if one in names}


def needs_setuptools(tree: Path, required: Collection[str], pinned: dict[str, str]) -> str:
    """Return the project's file that imports pkg_resources, which setuptools has until version 80; empty if none does.

    What its packages need is installed with them (`virtualenv.setuptools`).
    """
    if "setuptools" in required and _is_before(pinned.get("setuptools", ""), "81"):
        return ""
    for path in inspect_project.files(tree, None, depth=5):
        if path.suffix == ".py" and path.name != "setup.py" and _imports_pkg_resources(path):
            return str(path.relative_to(tree))
    return ""


def _imports_pkg_resources(path: Path) -> bool:
    text = code.read(path)
    return "pkg_resources" in text and code.names(code.parse(text), "pkg_resources")


def _is_before(version: str, other: str) -> bool:
    return bool(_numbers(version)) and _numbers(version) < _numbers(other)


def _numbers(version: str) -> list[int]:
    return [int(part) for part in re.findall(r"\d+", version)]


def extra_with_django(tree: Path, files: Collection[str], required: Collection[str]) -> tuple[str, list[str]]:
    """Return the extra of a pyproject.toml that has Django, if the dependencies lack it, and its packages."""
    names = {re.sub(r"\[.*", "", name) for name in required}
    if "django" in names or [*files] != [name for name in files if name.endswith("pyproject.toml")]:
        return "", []
    for name in files:
        extras = lock.read_toml(tree / name).get("project", {}).get("optional-dependencies", {})
        for extra, packages in extras.items():
            if "django" in requirements.names(packages):
                return extra, [package for package in packages if ";" not in package]
    return "", []


def extra_for_servers(tree: Path, files: Collection[str]) -> tuple[str, list[str]]:
    """Return the extra of a project that is named for production, and its packages; locks have it, and leave it out."""
    for name in files:
        path = (tree / name).with_name("pyproject.toml")
        is_of_project = name.endswith(("pyproject.toml", "uv.lock")) and path.is_file()
        project = lock.read_toml(path).get("project", {}) if is_of_project else {}
        for extra, packages in project.get("optional-dependencies", {}).items():
            if _FOR_SERVERS.fullmatch(extra) and packages:
                return extra, [package for package in packages if ";" not in package]
    return "", []


def offered(tree: Path, files: Collection[str]) -> dict[str, str]:
    """Return the packages of all extras that a pyproject.toml among the files has: name → requirement."""
    found: dict[str, str] = {}
    for name in files:
        is_it = name.endswith("pyproject.toml")
        project = lock.read_toml(tree / name).get("project", {}) if is_it else {}
        for package in itertools.chain.from_iterable(project.get("optional-dependencies", {}).values()):
            for one in requirements.names([package] if ";" not in package else []):
                found[re.sub(r"\[.*", "", one)] = package
    return found


def indexes(contents: Mapping[str, str]) -> list[str]:
    """Return the package indexes that requirements or a lock file name, without PyPI, logins and queries."""
    found: dict[str, None] = {}
    for name, text in contents.items():
        urls = (_OF_LOCK if name.endswith(".lock") else _INDEX).findall(text)
        if name.endswith("Pipfile.lock"):
            sources = _pipfile(text).get("_meta", {}).get("sources", [])
            urls = [str(source.get("url", "")) for source in sources if isinstance(source, dict)]
        elif name.endswith("pdm.lock"):
            pyproject = contents.get(f"{name.removesuffix('pdm.lock')}pyproject.toml", "")
            with contextlib.suppress(ValueError, LookupError, TypeError, AttributeError):  # installing reports it
                urls = lock.sources_of_pdm(toml.loads(pyproject))
        found |= dict.fromkeys(filter(None, map(_index, urls)))
    return [*found]


def _index(url: str) -> str:
    """Return the URL of an index without login and query; empty for PyPI, a repository, or what is no URL."""
    try:
        parts = urlsplit(url)
        port = f":{parts.port}" if parts.port else ""
    except ValueError:
        return ""
    host = parts.hostname or ""
    is_pypi = host in ("", "pypi.org", "files.pythonhosted.org", "pypi.python.org")
    return "" if is_pypi or parts.path.endswith(".git") else f"{parts.scheme}://{host}{port}{parts.path}"


def compiled_for(contents: Mapping[str, str]) -> str:
    """Return the version of Python that pip-compile wrote the requirements for; empty if it did not."""
    found = next(filter(None, map(_COMPILED_FOR.search, contents.values())), None)
    return found.group(1) if found else ""


def read(tree: Path, files: list[str]) -> tuple[list[str], dict[str, str], str]:
    """Return the names of the required packages, the texts of the files, and the supported versions of Python."""
    contents = requirements.contents(tree, files)
    names = requirements.package_names(tree, files)
    return names, contents, requirements.python_versions(tree, files)


def of_dockerfile(tree: Path, folder: str, files: Collection[str]) -> tuple[list[str], str]:
    """Return the files with requirements that a Dockerfile installs in place of those found, and its path; else none.

    Args:
        folder: the folder of manage.py; its Dockerfile is taken before the one at the top.
        files: the files that are found by their names.
    """
    if not files or not all(name.endswith(".txt") for name in files):
        return [], ""
    for top in dict.fromkeys((tree / folder, tree)):
        text = code.read(top / "Dockerfile").replace("\\\n", " ")
        named = [name for options in _PIP.findall(text) for name in _OPTION_R.findall(options)]
        found = [str((top / name).relative_to(tree)) for name in dict.fromkeys(named) if _is_inside(top, name)]
        live = [name for name in found if not requirements.NOT_FOR_SITES.search(name)]
        if live and {*live}.isdisjoint(files) and "django" in requirements.package_names(tree, live):
            return live, str((top / "Dockerfile").relative_to(tree))
    return [], ""


def _is_inside(folder: Path, name: str) -> bool:
    return not name.startswith("/") and ".." not in name and (folder / name).is_file()
