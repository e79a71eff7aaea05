"""The layout of a project as inspection reports it: the folder of manage.py, the application, the settings module."""

import ast
import re
from pathlib import Path

from django_formula.host.commands import DeploymentError
from django_formula.inspect import code, declared, process_files, project, python_path
from django_formula.inspect import settings as inspect_settings
from django_formula.inspect.report import Report

#: Files that describe a container or a service, and how they set the settings module.
_CONTAINER = re.compile(r"Dockerfile[\w.-]*|(docker-)?compose[\w.-]*\.ya?ml|[\w.-]*\.env|.+\.service")
_SET = re.compile(r"""^[^#\n]*\bDJANGO_SETTINGS_MODULE\s*[=:]\s*["']?([\w.]+)""", re.MULTILINE)

#: Where manage.py names the settings, and a name that startproject, cookiecutter or copier fills in.
_NAMED = re.compile(r"^.*\bDJANGO_SETTINGS_MODULE\b.*$", re.MULTILINE)
_BLANK = re.compile(r"(\{\{|\[\[)[ -]*[\w.]+[\w.| -]*(\}\}|\]\])")
#: The WSGI module of a project that has none; the site's environment has the settings module.
_WSGI = "project_wsgi"
_WSGI_MODULE = "from django.core.wsgi import get_wsgi_application\napplication = get_wsgi_application()\n"


def add(report: Report, tree: Path) -> str:
    """Add the folder of manage.py, the settings and the WSGI or ASGI module to a report, and return the folder.

    Raises:
        DeploymentError: the tree has no Django project.
    """
    folders = sorted((str(path.parent) for path in project.manage_files(tree)), key=lambda one: len(Path(one).parts))
    if not folders:
        return _without_manage(report, tree)
    folders = _without_templates(tree, folders)
    package = next((one for one in folders if project.is_in_package(tree, one)), "")
    if package:
        return _package(report, tree, package)
    served = [one for one in folders if project.application_modules([tree / one])]
    folder = [*served, *(one for one in folders if _has_own_settings(tree / one)), folders[0]][0]
    if len(folders) > 1:
        report.set("project", folder, f"guessed: manage.py is in {project.listed(folders)}")
    elif folder != ".":
        report.remarks.append(f"manage.py is in {folder}")
    _modules(report, tree, folder)
    return folder


def _without_templates(tree: Path, folders: list[str]) -> list[str]:
    """Return the folders of manage.py without those in which names are still to be filled in.

    Raises:
        DeploymentError: there is no other.
    """
    lines = {folder: _NAMED.findall(code.read(tree / folder / "manage.py")) for folder in folders}
    found = {folder: _BLANK.search("\n".join([folder, *lines[folder]])) for folder in folders}
    if all(found.values()):
        blanks = [f"{Path(folder, 'manage.py')} has {blank[0]}" for folder, blank in found.items() if blank]
        raise DeploymentError(
            f"the source is a template for projects, and no project: {blanks[0]}",
            hint="make a project of it (django-admin startproject --template, cookiecutter, copier), and inspect that",
        )
    return [folder for folder, blank in found.items() if not blank]


def _has_own_settings(folder: Path) -> bool:
    """Return whether the settings module that manage.py in a folder names can be imported from there."""
    named = code.settings_named(folder / "manage.py")
    return bool(named) and bool(python_path.find_module([folder], named))


def _without_manage(report: Report, tree: Path) -> str:
    """Find the folder, the settings and the WSGI module of a project that has no manage.py; return the folder."""
    folders = project.folders_without_manage(tree)
    if not folders:
        raise DeploymentError("no manage.py found in the source", hint="name the source of a Django project")
    report.set("project", folders[0], "guessed: there is no manage.py, but settings")
    _modules(report, tree, folders[0])
    return folders[0]


def _modules(report: Report, tree: Path, folder: str) -> None:
    """Find the settings and the WSGI module of a project, and the folders that it is imported from."""
    paths = [path for path in project.python_path(tree, folder) if path != folder]
    if paths:
        report.set("python_path", paths, "found: folders with further modules of the project")
    roots = [tree / path for path in (folder, *paths)]
    report.application = _application(report, roots, folder)
    report.settings_module = _settings_module(report, tree, roots, report.application)


def _package(report: Report, tree: Path, package: str) -> str:
    """Write where a project is whose manage.py is in its own package; return the folder that it is imported from."""
    folder = str(Path(package).parent)
    roots = [tree / folder, tree / package]
    report.set("project", folder, f"found: the settings import the package {Path(package).name} from here")
    modules = project.application_modules(roots)
    wsgi = modules[0] if modules else f"{Path(package).name}.wsgi"
    report.set("wsgi", wsgi, f"found: {wsgi.replace('.', '/')}.py", is_open=not modules)
    report.application = wsgi
    module = _settings_module(report, tree, roots, wsgi)
    report.set("settings_module", module, "found")
    report.settings_module = module
    return folder


def _application(report: Report, roots: list[Path], folder: str) -> str:
    """Find the WSGI module, or the ASGI module of a project that has no other; return it.

    Where there is none, one is written that Django's project template would have, if the settings are known.
    """
    modules = project.application_modules(roots)
    only_asgi = [] if modules else project.application_modules(roots, "asgi")
    if len(modules) == 1:
        report.remarks.append(f"WSGI module: {modules[0]}")
    elif modules:
        report.set("wsgi", modules[0], f"guessed: found {project.listed(modules)}")
    elif len(only_asgi) == 1:
        report.set("server", {"kind": "uvicorn"}, f"guessed: there is no WSGI module, but {only_asgi[0]}")
    elif _has_own_settings(roots[0]):
        why = f"the project has no WSGI module: {_WSGI} is as Django's template has it"
        report.set("wsgi", _WSGI, why)
        report.merge("files", {str(Path(folder, f"{_WSGI}.py")): {"contents": _WSGI_MODULE}}, "")
        return _WSGI
    else:
        comment = "not found: name the module that calls get_wsgi_application()"
        report.set("wsgi", "mysite.wsgi", comment, is_open=True)
    return next(iter([*modules, *only_asgi]), "mysite.wsgi")


def _settings_module(report: Report, tree: Path, roots: list[Path], wsgi: str) -> str:
    named, found = project.settings_named(roots, wsgi), project.settings_modules(roots)
    deployed = declared.find(tree, [], str(roots[0].relative_to(tree)))
    module = deployed.variables.get(code.SETTING, "")
    if module and module != named and _is_live(roots, module):
        report.set("settings_module", module, f"as {deployed.places['variables']} has it")
        return module
    production = [module for module in found if code.LIVE.search(module)]
    if not named:
        wrong = {one: error for one in found if (error := _syntax_error(roots, one))}
        guess = next(iter([*sorted([*production, *found], key=wrong.__contains__), "mysite.settings"]))
        comment = f"guessed: found {project.listed(found) or 'no settings module'}"
        comment += "".join(f"; {one} has a SyntaxError in line {error}" for one, error in wrong.items())
        report.set("settings_module", guess, comment, is_open=not found)
        return guess
    if (
        production
        and named not in production
        and (not _is_for_servers(roots, named) or _is_debugging(roots, named, production[0]))
        and not _is_part(roots, named, production[0])
    ):
        report.set("settings_module", production[0], f"guessed: the project names {named}")
        return production[0]
    guess, comment = _of_container(tree, roots) if not _has_code(roots, named) else ("", "")
    if not guess and not _has_example(roots, named):
        guess, comment = _instead_of(roots, named, wsgi, [*production, *found])
    if guess and not python_path.find_module(roots, named) and _is_imported(roots, named):
        _add_module(report, tree, roots, named, guess)
        return guess
    if guess:
        report.set("settings_module", guess, comment)
        return guess
    report.remarks.append(f"settings module: {named}")
    return named


def _has_example(roots: list[Path], module: str) -> bool:
    """Return whether a settings module is in the source as an example only, of which a file is made."""
    paths = [root / f"{module.replace('.', '/')}.py" for root in roots if "." in module]
    return not python_path.find_module(roots, module) and any(map(code.example_of, paths))


def _syntax_error(roots: list[Path], module: str) -> str:
    """Return the line and the reason of a syntax error in a module of the project; empty if it has none."""
    path = python_path.find_module(roots, module)
    return code.syntax_error(path) if path else ""


def _of_container(tree: Path, roots: list[Path]) -> tuple[str, str]:
    """Return the settings module that a file of a container or a service sets, and the file; none for development."""
    for path in sorted(project.walk(tree, None, depth=3), key=lambda path: (len(path.parts), path)):
        inside = path.relative_to(tree)
        if _CONTAINER.fullmatch(path.name) and process_files.is_for_live(inside):
            live = [name for name in _SET.findall(code.read(path)) if _is_live(roots, name)]
            if live:
                return live[0], f"named by {inside}"
    return "", ""


def _is_live(roots: list[Path], module: str) -> bool:
    """Return whether a settings module is in the source, and not one for development by its name."""
    return not code.NOT_LIVE.search(module) and bool(python_path.find_module(roots, module))


def _is_debugging(roots: list[Path], named: str, live: str) -> bool:
    """Return whether a settings module has DEBUG without any variable, and one for a live site has not."""
    return [inspect_settings.read(roots, one, {}).get("DEBUG") for one in (named, live)] == [True, False]


def _is_part(roots: list[Path], named: str, module: str) -> bool:
    """Return whether a module has some settings only, which the named package or module imports with the others."""
    names = [{*inspect_settings.read(roots, one, {}).values} for one in (named, module)]
    files = [file for root in roots if (file := python_path.module_file(root, module))]
    texts = [code.read(file) for file in files]
    is_whole = any(re.search(r"^[ \t]*from\s.+\simport\s+\*|\bROOT_URLCONF\b", text, re.MULTILINE) for text in texts)
    lacks_pages = "ROOT_URLCONF" in names[0] - names[1]
    if module.startswith(f"{named}."):
        return not is_whole or lacks_pages
    return not is_whole and lacks_pages


def _instead_of(roots: list[Path], named: str, wsgi: str, found: list[str]) -> tuple[str, str]:
    """Return the module to take instead of one that has no settings, and why; empty texts where it has some."""
    live = [module for module in found if not code.NOT_LIVE.search(module)]
    of_manage = code.settings_named(roots[0] / "manage.py")
    path = python_path.find_module(roots, of_manage)
    parts = code.star_imports(code.tree(path), absolute=True) if path else []
    has_others = bool({*live} - {*parts}) or not python_path.find_module(roots, named)
    is_live = not has_others or not code.NOT_LIVE.search(of_manage)
    if of_manage and is_live and not _has_code(roots, named) and _has_code(roots, of_manage):
        return of_manage, f"named by manage.py; {wsgi} names {named}, which has no settings"
    inner = [module for module in live if module.startswith(f"{named}.")]
    if inner and not _has_code(roots, named):
        return inner[0], f"guessed: the project names {named}, which has no settings"
    if live and not python_path.find_module(roots, named):
        live.sort(key=lambda module: module.rpartition(".")[2] != named.rpartition(".")[2])
        return live[0], f"guessed: the project names {named}, which is not in the source"
    return "", ""


def _add_module(report: Report, tree: Path, roots: list[Path], module: str, settings: str) -> None:
    """Add a file that has the settings of another module, for one that is not committed."""
    file = f"{module.replace('.', '/')}.py"
    root = next((root for root in roots if (root / file).parent.is_dir()), roots[0])
    path = str((root / file).relative_to(tree))
    report.set("files", {path: {"contents": f"from {settings} import *\n"}}, f"guessed: {path} is not in the source")


def _is_imported(roots: list[Path], module: str) -> bool:
    """Return whether code of the project imports a settings module by its name."""
    package, _dot, name = module.rpartition(".")
    ways = (f"from {module} import", f"import {module}\\b", f"from {package} import {name}\\b")
    pattern = "|".join(rf"^[ \t]*{way}" for way in ways)
    paths = (path for root in roots for path in project.walk(root, None, depth=4) if path.suffix == ".py")
    return any(module in (text := code.read(path)) and re.search(pattern, text, re.M) for path in paths)


def _has_code(roots: list[Path], module: str) -> bool:
    """Return whether a module of the project has statements; one of a package that is installed counts as if it had."""
    path = python_path.find_module(roots, module)
    if not path:
        return not any((root / module.partition(".")[0]).is_dir() for root in roots)
    body = code.tree(path).body
    return any(not isinstance(getattr(statement, "value", None), ast.Constant) for statement in body)


def _is_for_servers(roots: list[Path], module: str) -> bool:
    """Return whether a settings module is not for development, and neither empty nor taken from one that is."""
    if code.NOT_LIVE.search(module):
        return False
    path = python_path.find_module(roots, module)
    tree = code.tree(path) if path else None
    taken = code.star_imports(tree) if tree else []
    return not tree or (code.is_settings(tree) and not any(map(code.NOT_LIVE.search, taken)))
