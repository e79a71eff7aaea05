"""Virtualenvs by uv: keyed by what goes into them, built once, shared by releases, never modified."""

import contextlib
import functools
import hashlib
import json
import os
import re
import shutil
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import django_database
import django_host_command
import django_host_file
import django_host_user
import django_server
import django_virtualenv_index
import django_wall_build
import django_wall_delegate
from django_host_command import DeploymentError
from django_site import Site
from django_wall_foreign import OWN, PUBLIC, Foreign

UV = Path("/usr/local/lib/django-formula/uv")
UV_VERSION = "0.13.8"
#: The server of a project that brings none of its own.
#: The drivers of a database server that a project may bring, as their dist-info folders are named.
_DRIVERS = {
    "postgres": {"psycopg", "psycopg2", "psycopg2_binary", "psycopg2cffi"},
    "mysql": {"mysqlclient", "pymysql", "mysql_connector_python"},
}

_LOCKS = ("uv.lock", "Pipfile.lock", "poetry.lock")
_FOUND = (
    "requirements.txt",
    "requirements/production.txt",
    "requirements/prod.txt",
    "requirements/base.txt",
    "requirements-prod.txt",
)
_PYTHON_VERSIONS = {
    "uv.lock": r'^requires-python = "([^"]+)"',
    "pyproject.toml": r"""^requires-python\s*=\s*["']([^"']+)""",
    "poetry.lock": r'^\[metadata\][\s\S]*?^python-versions = "([^"]+)"',
}
#: A line that asks for the project itself, which is never installed: its code is that of each release.
_ITSELF = re.compile(
    r"^\s*(?:(?:-e|--editable)[\s=]+)?(?:file:)?\./?(?:\[([\w, -]+)\])?[ \t]*(?:[;#].*)?$", re.MULTILINE
)
_REQUIREMENT = re.compile(r"[A-Za-z][\w.-]*(\[[\w, -]+\])?")
_PACKAGED = ("pyproject.toml", "setup.py", "setup.cfg")
#: What a build says that lacks something of the system → the packages of Debian that bring it.
_LACKING = (
    (r"pg_config", ["gcc", "libc6-dev", "libpq-dev", "python3-dev"]),
    (r"mysql_config|mysqlclient\.pc|MYSQLCLIENT_CFLAGS|mariadb_config", ["default-libmysqlclient-dev", "pkg-config"]),
    (r"Python\.h: No such file", ["python3-dev"]),
    (
        r"(command '?\S*gcc'? failed: No such file|unable to execute '?\S*gcc|No such file or directory: '\S*gcc')",
        ["gcc"],
    ),
    (r"(stdlib|stdio|limits|errno)\.h: No such file", ["libc6-dev"]),
    (r"lber\.h|ldap\.h", ["libldap2-dev", "libsasl2-dev"]),
    (r"ffi\.h: No such file", ["libffi-dev"]),
    (r"xmlsec1? (is|was) not found|Unable to invoke pkg-config", ["libxmlsec1-dev", "pkg-config"]),
    (r"git executable not found|Git executable not found", ["git"]),
)
_INCLUDE = re.compile(r"^\s*(?:-r|-c|--requirement|--constraint)[\s=]+(\S+)", re.MULTILINE)
_COMPLETE = ".complete"
#: The most that the texts of requirements may have, in characters.
_MOST = 8 << 20
#: What uv says of an index → what to do.
_HINTS = {
    r"\b(401 Unauthorized|403 Forbidden|407 Proxy)": "the package index wants another login: {at}:index:user "
    "and :password",
    r"invalid peer certificate": "the index has an authority that is not in the system's store, nor in the file that "
    "SSL_CERT_FILE names in Salt's environment; {user} has to be able to read that",
}


def uv_is_installed() -> bool:
    """Whether the uv of the formula is on this host, in its version."""
    return django_host_file.read_text(UV / "version") == UV_VERSION


def install_uv(index: Mapping[str, Any] | None = None, password: str | None = None) -> None:
    """Install uv into a virtualenv of its own, by the host's pip (which knows the host's indexes).

    Args:
        index: the pillar's index, and its password.

    Raises:
        DeploymentError: it cannot be installed.
    """
    environment = django_virtualenv_index.for_pip(index, password)
    bundle = Path("/etc/ssl/certs/ca-certificates.crt")
    if bundle.exists():
        environment.setdefault("PIP_CERT", str(bundle))
    django_host_file.remove_tree(UV)
    django_host_command.run(["python3", "-m", "venv", str(UV)], doing="making a virtualenv for uv", timeout=120)
    temporary = UV / "tmp"  # /tmp may be small
    temporary.mkdir()
    environment["TMPDIR"] = str(temporary)
    pip = [str(UV / "bin/pip"), "install", "--quiet", "--disable-pip-version-check", f"uv=={UV_VERSION}"]
    secrets = [password] if password else []
    django_host_command.run(pip, doing="installing uv", timeout=600, environment=environment, secrets=secrets)
    django_host_file.remove_tree(temporary)
    django_host_file.write(UV / "version", UV_VERSION)


def interpreter(python: str) -> str:
    """The real path of an interpreter that pillar names.

    Raises:
        DeploymentError: there is no such interpreter on this host.
    """
    found = shutil.which(python, path=django_host_command.PATH)
    if not found:
        raise DeploymentError(
            f"there is no {python} on this host",
            hint="install it (django:sites:…:packages), or name another in django:sites:…:python",
        )
    return str(Path(found).resolve())


@functools.lru_cache(maxsize=16)
def _identity(path: str, _modified: float) -> str:
    program = (
        "import platform, sys, sysconfig; "
        "print(sys.implementation.cache_tag, sysconfig.get_platform(), *platform.libc_ver(), platform.python_version())"
    )
    return django_host_command.run([path, "-I", "-S", "-c", program], doing=f"asking {path} for its version").strip()


def know_interpreter(site: Site) -> None:
    """Ask the interpreter of a site what it is, so that it has not to be waited for later."""
    python = interpreter(site.config["python"])
    _identity(python, Path(python).stat().st_mtime)


class Needs(NamedTuple):
    """What a source says that its project needs.

    Attributes:
        files: those that say it, relative to the source.
        contents: their texts, and those of the files that they include, by path.
        python: the versions of Python that they are for, such as ``>=3.12``; empty where none says it.
    """

    files: list[str]
    contents: dict[str, str]
    python: str


def needs(site: Site, source: Path, folder: str) -> Needs:
    """Read what a project needs, as the build user.

    Args:
        folder: where manage.py is, relative to the source; looked at before the source's top.

    Raises:
        DeploymentError: the pillar names a file that is not there, none is found, or they are too large.
    """
    found = django_wall_delegate.ask(site.build_user, _needs, site, source, folder, doing="reading the requirements")
    return Needs(*found)


def _needs(site: Site, source: Path, folder: str) -> Needs:
    files = requirement_files(site, source, folder)
    contents = _contents(source, files)
    if sum(map(len, contents.values())) > _MOST:
        raise DeploymentError(f"{', '.join(files)} and what they include have more than {_MOST >> 20} MiB")
    return Needs(files, contents, python_versions(source, files))


def requirement_files(site: Site, source: Path, folder: str) -> list[str]:
    """The files that say what a project needs, relative to its source.

    Args:
        folder: where manage.py is, relative to the source; looked at before the source's top.

    Raises:
        DeploymentError: the pillar names a file that is not there, or none is found.
    """
    said = site.config["requirements"]
    at = f"django:sites:{site.name}:requirements"
    if said:
        absent = [path for path in said if not (source / path).is_file()]
        if absent:
            raise DeploymentError(f"there is no {absent[0]} in the source", hint=f"correct {at}")
        return list(said)
    found = found_files(source, folder)
    if found or site.config["python_packages"]:
        return found
    looked = ", ".join((*_LOCKS, *_FOUND, "pyproject.toml"))
    raise DeploymentError(
        f"nothing says what the project needs; looked for {looked}",
        hint=f"name the file in {at}, or add python_packages",
    )


def found_files(source: Path, folder: str) -> list[str]:
    """The file from which a project would be installed where the pillar names none; empty where there is none."""
    folders = [source / folder] if folder == "." else [source / folder, source]
    for names in (_LOCKS, _FOUND, ("pyproject.toml",)):
        for place in folders:
            for name in names:
                if (place / name).is_file() and (name != "pyproject.toml" or _is_package(place / name)):
                    return [str((place / name).relative_to(source))]
    return []


def _is_package(pyproject: Path) -> bool:
    """Whether a pyproject.toml says what the project needs; many hold only the configuration of tools."""
    return bool(re.search(r"^\[(project|tool\.poetry)\]", pyproject.read_text(errors="replace"), re.MULTILINE))


def python_versions(source: Path, files: list[str]) -> str:
    """The versions of Python that the files are for, as they say it: ``>=3.12``; empty where none does."""
    for name in files:
        pattern = _PYTHON_VERSIONS.get(Path(name).name)
        found = re.search(pattern, (source / name).read_text(errors="replace"), re.MULTILINE) if pattern else None
        if found:
            return found.group(1)
    return ""


def refuse_other_python(site: Site, wanted: str) -> None:
    """Refuse an interpreter that the project or its lock file is not for.

    Args:
        wanted: the versions of Python that it is for.

    Raises:
        DeploymentError: it is not; the error says for which it is.
    """
    from packaging.specifiers import InvalidSpecifier, SpecifierSet

    python = interpreter(site.config["python"])
    version = _identity(python, Path(python).stat().st_mtime).split()[-1]
    try:
        fits = SpecifierSet(wanted).contains(version, prereleases=True)
    except InvalidSpecifier:  # poetry's own way to say it, such as ^3.11
        return
    if not fits:
        raise DeploymentError(
            f"the project is for Python {wanted}, and {site.config['python']} is {version}",
            hint=f"name another interpreter: django:sites:{site.name}:python",
        )


def refuse_python_of_another(site: Site) -> None:
    """Refuse an interpreter in which the server of a site does not run.

    Raises:
        DeploymentError: it is not the one that the server is built for; the error says which that is.
    """
    wanted = django_server.of_site(site).python(site)
    if not wanted:
        return
    kind, python = site.config["server"]["kind"], interpreter(site.config["python"])
    tag, *_platform, version = _identity(python, Path(python).stat().st_mtime).split()
    if tag != f"cpython-{wanted.replace('.', '')}":
        raise DeploymentError(
            f"this system's {kind} is built for Python {wanted}, and {site.config['python']} is {version} ({tag})",
            hint=f"django:sites:{site.name}:python: python{wanted}, or another server:kind",
        )


def asked_for(source: Path, files: list[str]) -> list[str]:
    """The requirements of a project, or the packages of its lock file, by name in lower case, with their extras."""
    names: list[str] = []
    for name in files:
        for path in _with_included(source, source / name, set()):
            text = path.read_text(errors="replace")
            if path.name == "Pipfile.lock":
                names += json.loads(text).get("default", {})
            elif path.suffix == ".lock":
                names += re.findall(r'^name = "([^"]+)"', text, re.MULTILINE)
            else:
                lines = text.splitlines() if path.suffix != ".toml" else _dependencies(path)
                names += [found.group() for line in lines if (found := _REQUIREMENT.match(line.strip()))]
    return sorted({name.lower().replace("_", "-").replace(" ", "") for name in names})


def _dependencies(pyproject: Path) -> list[str]:
    """The dependencies that a pyproject.toml lists; those of poetry by their names."""
    content = _toml(pyproject)
    listed: list[str] = content.get("project", {}).get("dependencies", [])
    return [*listed, *content.get("tool", {}).get("poetry", {}).get("dependencies", {})]


def _toml(path: Path) -> dict[str, Any]:
    try:
        import tomllib
    except ImportError:
        raise DeploymentError(f"{path.name} needs a Salt that runs on Python 3.11 or later") from None
    return tomllib.loads(path.read_text())


def _with_included(source: Path, path: Path, seen: set[Path]) -> Iterator[Path]:
    """A requirements file and all that it includes; a file outside the source is refused."""
    path = path.resolve()
    if path in seen:
        return
    seen.add(path)
    if not path.is_relative_to(source.resolve()):
        raise DeploymentError(f"the requirements include {path}, which is not in the source")
    if not path.is_file():
        raise DeploymentError(
            f"the requirements include {path.relative_to(source.resolve())}, which is not in the source"
        )
    yield path
    if path.suffix in (".txt", ".in"):
        for included in _INCLUDE.findall(path.read_text(errors="replace")):
            if "://" not in included:
                yield from _with_included(source, path.parent / included, seen)


def _contents(source: Path, files: list[str]) -> dict[str, str]:
    """The texts of all files that decide what is installed, by their paths."""
    seen: set[Path] = set()
    contents = {}
    for name in files:
        for path in _with_included(source, source / name, seen):
            contents[str(path.relative_to(source.resolve()))] = path.read_text(errors="replace")
        beside = (source / name).with_name("pyproject.toml")
        if name.endswith("uv.lock") and beside.is_file():
            contents[str(beside.relative_to(source))] = beside.read_text(errors="replace")
    if any(_ITSELF.search(text) for name, text in contents.items() if name.endswith((".txt", ".in"))):
        contents |= {
            name: text for name in _PACKAGED if (text := django_host_file.read_text(source / name)) is not None
        }
    return contents


def key_of(site: Site, contents: Mapping[str, str]) -> str:
    """The name of the virtualenv for these requirements: equal for equal contents, interpreter and platform."""
    python = interpreter(site.config["python"])
    inputs = {
        "files": dict(contents),
        "packages": site.config["python_packages"],
        "constraints": site.config["constraints"],
        "server": " ".join(django_server.requirements(site)),
        "databases": django_database.engines(site),
        "python": [python, _identity(python, Path(python).stat().st_mtime)],
    }
    return hashlib.sha256(json.dumps(inputs, sort_keys=True).encode()).hexdigest()[:16]


def newest(site: Site, key: str) -> str:
    """The name of the last virtualenv that was built for a key: the key itself, unless it had to be built anew."""
    return _generations(site, key)[-1]


def next_of(site: Site, key: str) -> str:
    """A name for one more virtualenv of a key, since releases may still run in those that are there."""
    return f"{key}.{int(newest(site, key).partition('.')[2] or 1) + 1}"


def _generations(site: Site, key: str) -> list[str]:
    found = [path.name for path in site.virtualenvs.glob(f"{key}.*") if path.suffix[1:].isdigit()]
    return [key, *sorted(found, key=lambda name: int(name.partition(".")[2]))]


def is_complete(site: Site, key: str) -> bool:
    """Whether a virtualenv is there whole, and its interpreter still on this host."""
    folder = site.virtualenvs / key
    return (folder / _COMPLETE).exists() and (folder / "bin/python").exists()


def packages(folder: Path) -> dict[str, str]:
    """The packages of a virtualenv, as the names of their dist-info folders say it: normalised name → version."""
    infos = (path.stem.partition("-") for path in folder.glob("lib/python*/site-packages/*.dist-info"))
    return {re.sub("[-_.]+", "-", name).lower(): version for name, _dash, version in sorted(infos)}


def build(site: Site, source: Path, files: list[str], key: str, password: str | None = None) -> list[str]:
    """Build a virtualenv as the build identity, then hand it to root.

    Args:
        password: that of the pillar's index.

    Returns:
        The drivers of databases that the project had forgotten.

    Raises:
        DeploymentError: the packages cannot be resolved, fetched or built.
    """
    folder = site.virtualenvs / key
    django_wall_build.end_processes(site)
    django_host_file.remove_tree(folder)
    folder.mkdir(mode=0o755)
    builder = django_host_user.owner(site.build_user, site.build_user)
    tree = Foreign(folder)
    tree.give(builder, None, of=0)
    work = site.build / "requirements"
    uv = _Uv(site, folder, str(work), password)
    try:
        prepared = django_wall_delegate.ask(
            site.build_user, _prepare, site, source, work, files, doing="reading the requirements", timeout=120
        )
        python = interpreter(site.config["python"])
        uv.run("venv", "--quiet", "--no-project", "--allow-existing", "--python", python, str(folder))
        for lock, target in prepared["exports"]:
            exported = ["export", "--quiet", "--frozen", "--no-dev", "--no-emit-project", "--no-header"]
            uv.run(*exported, "--output-file", target, doing="reading uv.lock", folder=str(Path(lock).parent))
        for arguments in prepared["installations"]:
            uv.install(*arguments)
        drivers = _missing_drivers(site, folder)
        for driver in drivers:
            uv.install(*prepared["limit"], driver, doing=f"installing {driver}")
        server = django_server.requirements(site, packages(folder))
        if server:
            uv.install(*server, doing=f"installing {site.config['server']['kind']}")
        (tree / ".lock").remove()
        tree.give(django_host_user.ROOT, PUBLIC, of=builder[0])
    except (DeploymentError, OSError):
        django_host_file.remove_tree(folder)
        raise
    finally:
        with contextlib.suppress(DeploymentError):
            work.remove()
    django_host_file.write(folder / _COMPLETE, "")
    return drivers


def _prepare(site: Site, source: Path, folder: Foreign, files: list[str]) -> dict[str, Any]:
    """Bring what the installer needs to see of a source into a folder of the build user's, as that user.

    Returns:
        ``installations``, the arguments of each ``uv pip install``; ``limit``, those by which the constraints hold;
        ``exports``, a lock file of uv's and what it is to be exported to.
    """
    work = folder.path
    django_host_file.remove_tree(work)
    shutil.copytree(source, work, symlinks=True, ignore=_only_small_text)
    folder.give((os.geteuid(), os.getegid()), OWN, of=os.geteuid())  # with modes that let it be changed
    locks = [work / name for name in files if Path(name).name == "uv.lock"]
    installations = list(_installations(site, work, files))
    exports = [[str(path), str(_converted(path))] for path in locks]
    return {"installations": installations, "limit": _limit(site, work), "exports": exports}


def _only_small_text(folder: str, names: list[str]) -> list[str]:
    """What the installer does not need to see: everything but folders and the files that describe packages."""
    described = (".txt", ".in", ".toml", ".lock", ".cfg", ".py", ".md", ".rst", ".whl", ".gz", ".json", ".pip")
    return [
        n
        for n in names
        if not os.path.isdir(os.path.join(folder, n))
        and not n.endswith(described)
        and n not in ("Pipfile", "README", "LICENSE", "VERSION")
    ]


def _installations(site: Site, work: Path, files: list[str]) -> Iterator[list[str]]:
    """The arguments of each ``uv pip install``: what the project asks for, then what the pillar adds over it."""
    limit = _limit(site, work)
    extras = _take_itself_out(work, files)
    listed = [argument for name in files for argument in ("--requirement", str(_as_requirements(site, work, name)))]
    if extras is not None:
        own = next((name for name in _PACKAGED if (work / name).is_file() and _says_dependencies(work / name)), None)
        listed += ["--requirement", own, *(f"--extra={extra}" for extra in extras)] if own else []
    if listed:
        yield [*limit, *listed]
    if site.config["python_packages"]:
        yield [*limit, "--", *site.config["python_packages"]]


def _take_itself_out(work: Path, files: list[str]) -> list[str] | None:
    """Take the lines that ask for the project itself out of its requirements.

    Returns:
        The extras that they ask for; None where there is no such line.
    """
    seen: set[Path] = set()
    extras: list[str] | None = None
    for name in files:
        for path in _with_included(work, work / name, seen):
            text = path.read_text(errors="replace") if path.suffix in (".txt", ".in") else ""
            for found in _ITSELF.finditer(text):
                extras = [*(extras or []), *re.findall(r"[\w-]+", found.group(1) or "")]
            if _ITSELF.search(text):
                _replace(path, _ITSELF.sub("", text))
    return extras


def _says_dependencies(path: Path) -> bool:
    return path.name != "pyproject.toml" or _is_package(path)


def _limit(site: Site, work: Path) -> list[str]:
    """The arguments by which the pillar's constraints hold."""
    constraints = work / ".constraints.txt"
    _replace(constraints, "".join(f"{line}\n" for line in site.config["constraints"]))
    return ["--constraint", str(constraints)] if site.config["constraints"] else []


def _missing_drivers(site: Site, folder: Path) -> list[str]:
    """A driver for each server of the pillar's databases for which the project brings none."""
    installed = {name.replace("-", "_"): version for name, version in packages(folder).items()}
    version = tuple(int(part) for part in re.findall(r"\d+", installed.get("django", ""))[:2])
    postgres = "psycopg[binary]>=3.1.8" if version >= (4, 2) else "psycopg2-binary>=2.8.6"
    wanted = {"postgres": postgres, "mysql": "mysqlclient>=2.2.1"}
    return [wanted[engine] for engine in django_database.engines(site) if not _DRIVERS[engine] & {*installed}]


def _as_requirements(site: Site, work: Path, name: str) -> Path:
    """A file that ``uv pip install --requirement`` reads: lock files are converted, others are taken as they are."""
    path = work / name
    target = _converted(path)
    if path.name == "uv.lock":
        target.unlink(missing_ok=True)
        return target
    convert = {"Pipfile.lock": _pipfile_requirements, "poetry.lock": _poetry_requirements}.get(path.name)
    if not convert:
        return path
    try:
        _replace(target, "".join(convert(path)))
    except (ValueError, LookupError, TypeError, AttributeError) as error:
        raise DeploymentError(f"{name} cannot be read: {error!r}", hint="lock it anew, and commit it") from None
    return target


def _converted(lock: Path) -> Path:
    """Where what a lock file asks for is written in the form of a requirements file."""
    return lock.with_name(f".{lock.name}.txt")


def _replace(path: Path, text: str) -> None:
    """Write a file in the place of what the project may have there under its name, such as a link."""
    path.unlink(missing_ok=True)
    path.write_text(text)


def _pipfile_requirements(path: Path) -> Iterator[str]:
    lock: dict[str, Any] = json.loads(path.read_text())
    yield from _indexes(source["url"] for source in lock.get("_meta", {}).get("sources", []))
    for name, package in lock.get("default", {}).items():
        if package.get("path") == ".":
            continue  # the project itself
        extras = f"[{','.join(package['extras'])}]" if package.get("extras") else ""
        if "git" in package:
            subdirectory = f"#subdirectory={package['subdirectory']}" if "subdirectory" in package else ""
            requirement = f"{name}{extras} @ git+{package['git']}@{package['ref']}{subdirectory}"
        elif "path" in package or "file" in package:
            requirement = package.get("file") or package["path"]
        else:
            requirement = f"{name}{extras}{package['version']}"
        yield f"{requirement}{_marker(package.get('markers'))}\n"


def _poetry_requirements(path: Path) -> Iterator[str]:
    lock = _toml(path)
    sources = [package.get("source", {}) for package in lock.get("package", [])]
    yield from _indexes(sorted({source["url"] for source in sources if source.get("type") == "legacy"}))
    for package in lock.get("package", []):
        groups = package.get("groups", ["main"])
        if (
            "main" not in groups
            or (package.get("optional") and "groups" not in package)
            or package.get("category") == "dev"
        ):
            continue
        markers = package.get("markers")
        marker = markers.get("main") if isinstance(markers, dict) else markers
        source = package.get("source", {})
        if source.get("type") == "git":
            reference = source.get("resolved_reference", source.get("reference", "HEAD"))
            requirement = f"{package['name']} @ git+{source['url']}@{reference}"
        elif source.get("type") == "url":
            requirement = f"{package['name']} @ {source['url']}"
        elif source.get("type") in ("directory", "file"):
            requirement = str(path.parent / source["url"])
        else:
            requirement = f"{package['name']}=={package['version']}"
        yield f"{requirement}{_marker(marker)}\n"


def _indexes(urls: Iterable[str]) -> Iterator[str]:
    """The indexes that a lock names. PyPI is what it is for everybody: the host may have another in its place."""
    for url in urls:
        if url.rstrip("/") != "https://pypi.org/simple":
            yield f"--extra-index-url {url}\n"


def _marker(marker: str | None) -> str:
    return f" ; {marker}" if marker else ""


def build_environment(site: Site) -> dict[str, str]:
    """The environment of the build identity: its own home and caches, what the host says of networks, and no secret."""
    return {**django_host_command.network_environment(), "HOME": str(site.build), "TMPDIR": str(site.build / "tmp")}


class _Uv:
    """The installer at work on a virtualenv, as the build user.

    Args:
        folder: the virtualenv.
        work: what it sees of the source.
        password: that of the pillar's index.
    """

    def __init__(self, site: Site, folder: Path, work: str, password: str | None):
        self.site = site
        self.folder = folder
        self.work = work
        self.password = password

    def install(self, *arguments: str, doing: str = "installing packages") -> None:
        """Install what the arguments say.

        Raises:
            DeploymentError: it cannot be resolved, fetched or built.
        """
        python = str(self.folder / "bin/python")
        self.run("pip", "install", "--python", python, *arguments, doing=doing, folder=self.work)

    def run(self, *arguments: str, doing: str = "making the virtualenv", folder: str = "") -> None:
        """Run uv.

        Raises:
            DeploymentError: it fails; the hint says what the system or the index lacks.
        """
        site, at = self.site, f"django:sites:{self.site.name}"
        environment = {
            **build_environment(site),
            **django_virtualenv_index.for_uv(site.config["index"], self.password),
            "UV_CACHE_DIR": str(site.build / "uv"),
            "UV_LINK_MODE": "copy",
            "UV_COMPILE_BYTECODE": "1",
            "UV_PYTHON_DOWNLOADS": "never",
            "UV_SYSTEM_CERTS": "1",
            "UV_NO_PROGRESS": "1",
        }
        try:
            django_wall_build.run(
                site,
                [str(UV / "bin/uv"), *arguments],
                doing=doing,
                environment=environment,
                folder=folder or str(site.build),
                writable=[str(self.folder)],
                timeout=django_host_command.seconds(site.config["timeouts"]["build"]),
                secrets=[self.password] if self.password else [],
                hint=f"look at the requirements, or at {at}:python and :packages (headers, compilers)",
            )
        except DeploymentError as error:
            for says, hint in _HINTS.items():
                if re.search(says, error.log, re.IGNORECASE):
                    error.hint = hint.format(at=at, user=site.build_user)
            lacking = sorted({name for pattern, names in _LACKING if re.search(pattern, error.log) for name in names})
            if lacking:
                error.hint = f"the system lacks what this takes to be built: {at}:packages: [{', '.join(lacking)}]"
            raise


def unused(site: Site, used: set[str]) -> list[Path]:
    """The virtualenvs of a site whose keys are not among those that its releases use."""
    return sorted(path for path in site.virtualenvs.iterdir() if path.name not in used)
