"""Find the packages that a project needs: those of Python and Debian, its Python, and its application server."""

import ast
import os
import re
from collections.abc import Collection, Mapping, Sequence
from pathlib import Path

from django_formula.database import engines
from django_formula.host import daemons
from django_formula.inspect import code, imports, modules, project, removed, repositories
from django_formula.inspect import requirements as inspect_requirements
from django_formula.inspect.report import Report
from django_formula.inspect.settings import Settings
from django_formula.knowledge import python_versions
from django_formula.server import servers
from django_formula.untrusted.text import in_command
from django_formula.virtualenv import interpreter
from django_formula.virtualenv import requirements as virtualenv_requirements


def add(report: Report, tree: Path, folder: str, host: str) -> tuple[list[str], list[str]]:
    """Add what the requirements of a project tell to a report.

    Args:
        folder: the folder of manage.py.
        host: the version of this host's python3; empty if there is none.

    Returns:
        The files with requirements, and the packages that they require.
    """
    files = virtualenv_requirements.default_files(tree, folder) or _setup(report, tree)
    of_image, place = inspect_requirements.of_dockerfile(tree, folder, files)
    if of_image:
        report.set("requirements", of_image, f"{place} installs them, and not {files[0]}")
        files = of_image
    required = [] if files else _pipfile(report, tree, folder)
    if not files and not required:
        files = virtualenv_requirements.named_for_others(tree)
        if files:
            report.set("requirements", files, "found: no other file lists Django")
    return files, _requirements(report, tree, folder, files, host) if files else required


def _pipfile(report: Report, tree: Path, folder: str) -> list[str]:
    """Take the packages of a Pipfile that has no lock, where nothing else lists any; return their names."""
    for path in dict.fromkeys((tree / folder / "Pipfile", tree / "Pipfile")):
        packages = virtualenv_requirements.of_pipfile(path)
        if packages:
            report.set("python_packages", packages, f"{path.relative_to(tree)}, which has no lock")
            names = virtualenv_requirements.names(packages)
            for name, needed in inspect_requirements.system_packages(names):
                report.extend("packages", needed, f"for {name}")
            return names
    return []


def complete(
    report: Report,
    settings: Settings,
    tree: Path,
    roots: Sequence[Path],
    files: list[str],
    required: list[str],
    host: str,
) -> list[str]:
    """Add the packages of modules that the project needs and that no file requires; return all that are known.

    Args:
        roots: the folders that the project is imported from.
        files: the files with requirements.
        required: the packages that they require.
        host: the version of this host's python3; empty if there is none.
    """
    for name, path in imports.foreign(roots, settings).items():
        if name in ("tkinter", "turtle"):
            report.extend("packages", ["python3-tk"], f"{path.relative_to(tree)} imports {name}")
    for name, folder in modules.in_other_case(settings, roots).items():
        if name.lower() not in required:
            link = os.path.relpath(folder.with_name(name), roots[0])
            command = in_command("ln", "-sfn", folder.name, link)
            report.extend(
                "build",
                [command] if command else [],
                f"the settings import {name}, and the folder is named {folder.name}",
            )
    if (required and not files) or (files and not (virtualenv_requirements.list_nothing(tree, files) and not required)):
        required = [*required, *_of_applications(report, settings, tree, roots, files, required)]
        offered = inspect_requirements.offered(tree, files)
        left_out = modules.left_out(settings, roots, required, offered)
        if left_out:
            report.extend("python_packages", left_out, "the project needs them, and no file requires them")
        return [*required, *virtualenv_requirements.names(left_out)]
    _guess(report, settings, tree, roots, files, host)
    return required


def add_removed(
    report: Report, settings: Settings, roots: Sequence[Path], required: Collection[str], host: str
) -> None:
    """Add the packages that carry on what the project imports and its Python no longer has.

    Args:
        roots: the folders that the project is imported from.
        required: the packages that the project requires.
        host: the version of this host's python3; empty if there is none.
    """
    python = report.value("python") or host
    for module, package in modules.of_removed(settings, roots, python).items() if python else ():
        if package not in required:
            report.extend("python_packages", [package], f"Python {python} does not have {module}")


def _of_applications(
    report: Report, settings: Settings, tree: Path, roots: Sequence[Path], files: list[str], required: Collection[str]
) -> list[str]:
    """Add the requirements that installed applications of the project have in their own folders; return the packages.

    Locks have all packages of a project.
    """
    installed = settings.get("INSTALLED_APPS")
    names = (
        [name.partition(".")[0] for name in installed if isinstance(name, str)] if isinstance(installed, list) else []
    )
    paths = [root / name / "requirements.txt" for name in dict.fromkeys(names) for root in roots]
    own = [str(path.relative_to(tree)) for path in paths if os.path.isfile(path)]
    more = [name for name in own if {*virtualenv_requirements.package_names(tree, [name])} - {*required}]
    if not all(name.endswith(".txt") for name in files) or not {*more} - {*files}:
        return []
    report.set("requirements", [*files, *more], "of the installed applications too")
    found = virtualenv_requirements.package_names(tree, more)
    for name, packages in inspect_requirements.system_packages(found):
        report.extend("packages", packages, f"for {name}")
    return found


def _setup(report: Report, tree: Path) -> list[str]:
    """Take the dependencies of the project's package where nothing else lists any; return the file."""
    name = virtualenv_requirements.setup_file(tree)
    if name:
        report.set("requirements", [name], "found: it has the dependencies of the project")
    return [name] if name else []


def _requirements(report: Report, tree: Path, folder: str, files: list[str], host: str) -> list[str]:
    """Find the Python and system packages that the project needs; return the required packages."""
    report.remarks.append(f"requirements: {', '.join(files)}")
    required, contents, python = inspect_requirements.read(tree, files)
    extra, packages = inspect_requirements.extra_with_django(tree, files, required)
    if extra:
        report.set("python_packages", packages, f"those of the extra {extra}, which has Django")
        required = [*required, *virtualenv_requirements.names(packages)]
    of_servers, packages = inspect_requirements.extra_for_servers(tree, files)
    if of_servers not in ("", extra):
        report.extend("python_packages", packages, f"those of the extra {of_servers}")
        required = [*required, *virtualenv_requirements.names(packages)]
    names = virtualenv_requirements.without_extras(required)  # locks and constraints have versions of others too
    pinned = {name: version for name, version in inspect_requirements.versions(contents).items() if name in names}
    contradictory = inspect_requirements.contradictory(contents)
    pinned |= contradictory
    constraint, why = removed.limit(tree, contents)
    newest = inspect_requirements.newest_django([*contents.values(), constraint])
    is_bound = bool(newest) and "django" not in pinned
    oldest_python = interpreter.of_django(newest).partition(",")[0]
    if is_bound and python_versions.is_among(host, oldest_python):  # else an older Django within the bound is installed
        pinned["django"] = newest
    django = pinned.get("django", "")
    has_newer = not is_bound and bool(_instead_of_django(tree, django, host, pinned))
    of_django = "" if has_newer else interpreter.of_django(django, pinned=pinned)
    host = _chosen_python(report, host, django, of_django, python)
    of_system = inspect_requirements.of_system(pinned)
    if of_system:
        left_out = [f"{name}; sys_platform == 'none'" for name in of_system]
        report.extend("python_packages", left_out, "left out, being of the Ubuntu on which they were listed")
    required = [*required, *_of_other_systems(report, contents)]
    of_pytorch = inspect_requirements.of_pytorch(pinned, contents)
    if of_pytorch:
        report.extend(
            "python_packages", of_pytorch, "PyPI has no such builds, and the requirements name no other index"
        )
    for name, version in inspect_requirements.not_running(pinned, host):
        reason = f"{name} {pinned[name]} is too old for Python {'.'.join(host.split('.')[:2])}"
        report.extend("python_packages", [f"{name}~={version}"], reason)
    for name, version, why in inspect_requirements.broken(pinned):
        report.extend("python_packages", [f"{name}~={version}"], f"{name} {pinned[name]} {why}")
    django, why_newer = removed.newer(tree, pinned.get("django", ""))
    if django:
        report.extend("python_packages", [f"django~={django}.0"], why_newer)
        pinned["django"] = f"{django}.0"
    _newer_django(report, tree, pinned, host)
    replaced = inspect_requirements.replacing(report.value("python_packages", []))
    chosen = [f"{name}=={version}" for name, version in contradictory.items() if name not in replaced]
    if chosen:
        report.extend("python_packages", chosen, "the requirements pin several versions of one package")
    for name, packages in inspect_requirements.system_packages(required):
        report.extend("packages", packages, f"for {name}")
    for name, imported in inspect_requirements.writable_packages(required):
        report.extend("writable_packages", [imported], f"{name} writes into its own folder")
    limits = removed.limits_of_packages(tree, pinned, required)
    for text, reason in ((constraint, why), *limits):
        if text:
            report.extend("constraints", [text], reason)
    makes_code = inspect_requirements.makes_code(required)
    if makes_code and daemons.SYSTEMD.exists():
        report.set("sandbox", {"MemoryDenyWriteExecute": False}, f"{makes_code} makes code at run time")
    needed_by = inspect_requirements.needs_setuptools(tree, required, pinned)
    if needed_by:
        report.extend("python_packages", ["setuptools<81"], f"{needed_by} imports pkg_resources")
    _server(report, tree, folder, required, pinned.get("channels", ""))
    report.remarks += repositories.remarks(contents, required)
    for url in inspect_requirements.indexes(contents):
        report.remarks.append(f"packages come from {url} too; a mirror, or a login, is set by `index`")
    _python(report, host, pinned.get("django", ""), python, inspect_requirements.compiled_for(contents))
    return required


def _chosen_python(report: Report, host: str, django: str, of_django: str, supported: str) -> str:
    """Choose another Python than this host's where the project, or its Django, is for newer or older ones only.

    Args:
        of_django: the versions of Python that its Django runs on; empty where another Django takes its place.

    Returns:
        The version of the site's Python.
    """
    limits = [supported, of_django]
    if not host or all(not limit or python_versions.is_of_series_among(host, limit) for limit in limits):
        return host
    version = python_versions.suggested(*limits)
    if not version:
        return host
    needed = f"it requires Python {supported}" if supported else f"Django {django} runs on Python {of_django}"
    report.set("python", version, f"{needed}, and python3 of this host is {host}")
    return f"{version}.0"


def _instead_of_django(tree: Path, django: str, host: str, pinned: Mapping[str, str]) -> str:
    """Return the version of Django that replaces one which a Python does not run, or an empty text.

    It is of the same or of the next major version, and the project's code runs with it.
    """
    newer = interpreter.newer_django(django, host, pinned=pinned)
    majors = [int(version.partition(".")[0]) for version in (django, newer) if newer]
    return newer if newer and majors[1] - majors[0] <= 1 and removed.runs_with(tree, newer) else ""


def _newer_django(report: Report, tree: Path, pinned: dict[str, str], host: str) -> None:
    """Replace a pinned Django that this host's Python does not run, where another one can take its place."""
    own = pinned.get("django", "")
    newer = _instead_of_django(tree, own, host, pinned)
    if not newer:
        return
    versions = interpreter.of_django(own, pinned=pinned)
    driver = " with its driver" if versions != interpreter.of_django(own) else ""
    text = f"Django {own}{driver} runs on Python {versions}, and python3 of this host is {host}"
    report.remarks.append(f"{text}: `python_packages` replaces it by Django {newer}, unless `python` is an older one")
    report.extend("python_packages", [f"django~={newer}.0"], f"Django {own} does not run on this host's Python")
    pinned["django"] = f"{newer}.0"
    replaced = inspect_requirements.replacing(report.value("python_packages", []))
    drivers = {name.replace("_", "-") for name in engines.SERVERS["mysql"].drivers}  # of which Django refuses old ones
    extensions = [name for name in pinned if re.match(r"(django|drf)[a-z-]", name) or name in drivers]
    extensions = [name for name in extensions if name not in replaced]
    for name in extensions:
        text = f"those of {project.listed(extensions)} that are for Django {newer} take their place"
        report.extend("python_packages", [f"{name}>={pinned[name]}"], text)


def _of_other_systems(report: Report, contents: Mapping[str, str]) -> list[str]:
    """Leave out packages of Windows and macOS; return the names of those that take their place."""
    names = inspect_requirements.of_other_systems(contents)
    instead = ["python-magic"] if "python-magic-bin" in names else []
    if names:
        left_out = [f"{name}; sys_platform == 'none'" for name in names]
        report.extend("python_packages", [*left_out, *instead], "left out, being of Windows or macOS")
    return instead


def _python(report: Report, host: str, django: str, supported: str, compiled_for: str) -> None:
    """Tell which versions of Python the project is for.

    Args:
        host: the version of this host's python3; empty if there is none.
        django: the version of Django that is pinned.
        supported: the versions of Python that the requirements declare.
        compiled_for: the version of Python that the requirements were compiled for.
    """
    if supported and not (host and python_versions.is_among(host, supported)):
        has = f", and python3 of this host is {host}" if host else ""
        report.remarks.append(f"requires Python {supported}{has}: set `python` to another one")
    if compiled_for and not host.startswith(f"{compiled_for}."):
        report.remarks.append(f"requirements compiled for Python {compiled_for}: set `python` if packages do not build")
    versions = interpreter.of_django(django)
    if versions and host and not python_versions.is_among(host, versions):
        text = f"Django {django} runs on Python {versions}, and python3 of this host is {host}"
        report.remarks.append(f"{text}: set `python` to another one")


#: What has to be known of each server; loaded here, since a user who reads a source cannot read the engine.
_SERVERS = {kind: server.TRAITS for kind, server in servers.SERVERS.items()}


def _server(report: Report, tree: Path, folder: str, required: Collection[str], channels: str) -> None:
    """Propose the application server that the project's requirements are for, if it is not the default.

    Args:
        channels: the version of Channels; empty if it is not known.
    """
    roots = [tree / path for path in (folder, *report.value("python_path", []))]
    names = {re.sub(r"\[.*", "", name) for name in required}
    has_both = all(project.application_modules(roots, interface) for interface in ("wsgi", "asgi"))
    without_http = _without_http(roots, channels) if has_both else None
    if without_http:
        where = without_http.relative_to(tree)
        report.remarks.append(f"{where} serves websockets only, and no http: the site's server runs the WSGI module")
        return
    for name, kind in _SERVERS.items():
        packages = [package for package in kind.suggested_by if package in names]
        every = (other for other, one in _SERVERS.items() if one.interface == kind.interface)
        others = [other for other in every if other != name and other in names]
        if not packages or not project.application_modules(roots, kind.interface):
            continue
        if not others:
            report.set("server", {"kind": name}, f"guessed: {packages[0]} is required")
        elif len(packages) == len(kind.suggested_by):  # pip freeze lists every server that was ever tried
            report.set("server", {"kind": name}, f"guessed: {' and '.join(packages)} are required")
        elif name not in names:  # Channels itself serves nothing
            report.set("server", {"kind": others[0]}, f"guessed: {packages[0]} and {others[0]} are required")


def _without_http(roots: Sequence[Path], channels: str) -> Path | None:
    """Return the module by which the ASGI application of Channels serves websockets only; None if it may serve http."""
    paths = [path for root in roots for path in project.walk(root, None, depth=5)]
    paths = [path for path in paths if path.name in ("asgi.py", "routing.py")]
    texts = {path: code.read(path) for path in paths}
    found = [path for path, text in texts.items() if "ProtocolTypeRouter(" in text]
    has_django = any("get_asgi_application" in text for text in texts.values())
    is_served = has_django or any(_serves_http(path, channels) for path in found)
    return None if is_served else next(iter(found), None)


def _serves_http(path: Path, channels: str) -> bool:
    """Return whether a module that chooses by protocol may serve http: not by a class of its own, or by nothing.

    Before version 3 of Channels, whose consumers have as_asgi(), Django serves http that has no application.
    """
    text = code.read(path)
    classes = [node.name for node in code.tree(path).body if isinstance(node, ast.ClassDef)]
    served = re.findall(r"""["']http["']\s*(?::|\]\s*=)\s*([\w.]+)""", text)
    is_newer = ".as_asgi()" in text or re.match(r"[3-9]|\d\d", channels)
    return any(name not in classes for name in served) or not (served or is_newer)


def _guess(
    report: Report, settings: Settings, tree: Path, roots: Sequence[Path], files: Collection[str], host: str
) -> None:
    """Propose the packages of the modules that the settings need, where no file lists packages.

    Django is that of the project's files, or the next one that this host's Python runs, else with another Python.
    """
    packages = modules.guessed(settings, roots)
    comment = f"guessed from the settings: {', '.join(files)} lists no packages"
    if not files:
        comment = "no requirements found: list all packages of the project"
    django, path = removed.made_with(tree, settings.files)
    if django:
        newer = _instead_of_django(tree, django, host, {})
        if not newer:
            _chosen_python(report, host, django, interpreter.of_django(django), "")
        packages = [f"django~={newer or django}.0", *packages[1:]]
        comment += f"; {path} is by Django {django}"
    report.set("python_packages", packages, comment, is_open=not files)
