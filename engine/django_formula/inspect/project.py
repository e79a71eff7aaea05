"""The project: its folder, settings module and application, found in its source without running it."""

import ast
import os
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

from django_formula.host.commands import DeploymentError
from django_formula.inspect import code
from django_formula.inspect import python_path as inspect_python_path
from django_formula.server import servers
from django_formula.site.sites import Site
from django_formula.untrusted import delegate

_SKIPPED = {".git", "node_modules", "site-packages", "venv", ".venv", "env", "tests", "__pycache__"}


def find(site: Site, source: Path) -> dict[str, Any]:
    """Find what the pillar does not set; the source is read as the build user.

    Returns:
        ``folder`` (of manage.py), ``python_path`` (other folders to import from), ``settings_module``, and
        ``application``: the WSGI or ASGI module that the site's server runs.

    Raises:
        DeploymentError: one of them is not found, or found several times; the hint names the key that sets it.
    """
    interface = servers.configured(site).interface(site)  # of a module that is loaded by its name
    doing = "reading the source"
    found: dict[str, Any] = delegate.ask(site.build_user, _find, site, source, interface, doing=doing)
    return found


def _find(site: Site, source: Path, interface: str) -> dict[str, Any]:
    config = site.config
    at = site.at
    folder = config["project"] or _folder(source, at)
    _refuse_missing(source, folder, f"{at}:project")
    configured = config["python_path"]
    paths = python_path(source, folder) if configured is None else configured
    for path in paths:
        _refuse_missing(source, path, f"{at}:python_path")
    roots = [source / path for path in (folder, *paths)]
    application = config[interface] or _application(roots, interface, at)
    settings_module = config["settings_module"] or _settings_module(roots, application, at)
    found = {"settings_module": settings_module, "application": application}
    return {"folder": folder, "python_path": list(paths), **found}


def _refuse_missing(source: Path, folder: str, at: str) -> None:
    if not (source / folder).is_dir():
        raise DeploymentError(f"the folder {folder} is not in the source", hint=f"correct {at}")


def python_path(source: Path, folder: str) -> list[str]:
    """Return the folders of a source that the project is imported from, without the folder of manage.py.

    They are declared by the project's own files; otherwise the one with the settings that manage.py names is taken.
    """
    found = inspect_python_path.declared(source, folder)
    named = code.settings_named(source / folder / "manage.py")
    if named and not inspect_python_path.find_module([source / path for path in (folder, *found)], named):
        folders = import_folders(source, folder, named)
        found += folders if len(folders) == 1 else []
    return found


def import_folders(source: Path, folder: str, module: str) -> list[str]:
    """Return the folders of a source from which a module of the project can be imported.

    Args:
        folder: the folder of manage.py.
    """
    name = module.replace(".", "/")
    files = (f"{name.rpartition('/')[2]}.py", "__init__.py")
    own = [path for path in own_files([source, source / folder], None, depth=5) if path.name in files]
    found = {str(path.relative_to(source)).removesuffix(".py").removesuffix("/__init__") for path in own}
    return sorted(path.removesuffix(name).rstrip("/") or "." for path in found if f"/{path}".endswith(f"/{name}"))


def manage_files(source: Path) -> list[Path]:
    """Return the paths of manage.py in a source, relative to it.

    Not one in the package of the settings that another one above it has: from its folder they cannot be imported.
    """
    found = sorted(path.relative_to(source) for path in walk(source, "manage.py", depth=3))
    named = {path: code.settings_named(source / path) for path in found} if len(found) > 1 else {}
    with_settings = {
        (path.parent, module)
        for path, module in named.items()
        if module and inspect_python_path.module_file(source / path.parent, module)
    }
    return [
        path
        for path in found
        if (path.parent, named.get(path, "")) in with_settings
        or not any((above, named.get(path, "")) in with_settings for above in path.parent.parents)
    ]


def folders_above(source: Path, folder: str) -> list[Path]:
    """Return the folder of manage.py, and those that it is in, up to the top of the source."""
    own = source / folder
    return [one for one in (own, *own.parents) if one.is_relative_to(source)]


def is_in_package(source: Path, folder: str) -> bool:
    """Return whether manage.py is in a package whose name the settings have in ROOT_URLCONF or WSGI_APPLICATION.

    Its folder must not be on the path: its ``celery.py`` would be imported in place of Celery. A package of that name
    next to manage.py is the one that the settings mean.
    """
    package = (source / folder).name
    if folder == "." or not (source / folder / "__init__.py").is_file() or (source / folder / package).is_dir():
        return False
    paths = [path for path in own_files([source / folder], None, depth=3) if path.suffix == ".py"]
    trees = (code.tree(path) for path in paths if "settings" in (path.stem, path.parent.name))
    texts = {node.value for tree in trees for node in ast.walk(tree) if isinstance(node, ast.Constant)}
    return bool({f"{package}.urls", f"{package}.wsgi.application"} & texts)


def _folder(source: Path, at: str) -> str:
    found = manage_files(source)
    if len(found) == 1:
        return str(found[0].parent)
    if not found:
        raise DeploymentError("no manage.py found in the source", hint=f"set {at}:project to the project's folder")
    raise DeploymentError(
        f"{len(found)} files named manage.py found in the source: {listed(map(str, found))}",
        hint=f"set {at}:project to the project's folder",
    )


def application_modules(roots: Sequence[Path], interface: str = "wsgi") -> list[str]:
    """Return the modules of a project that create an application as Django's project template does, else in any way.

    Args:
        roots: the folders that it is imported from, the folder of manage.py first.
        interface: ``wsgi`` or ``asgi``.
    """
    inside = [
        path for path in own_files(roots, None, depth=3) if path.parent.name == interface and path.suffix == ".py"
    ]
    paths = [*own_files(roots, f"{interface}.py", depth=3), *(path for path in inside if path.name == "__init__.py")]
    as_template = f"get_{interface}_application"
    for among in (paths, inside):
        own = [path for path in among if code.is_module(_module(path, roots))] or among
        found = [path for path in own if code.names(code.tree(path), as_template)]
        found = found or [path for path in own if code.assigns(code.tree(path))]
        if found:
            break
    return sorted(_module(path, roots).removesuffix(".__init__") for path in found)


def own_files(roots: Sequence[Path], name: str | None, depth: int) -> list[Path]:
    """Return the files of a project without those of another one in its folders, which has its own manage.py."""
    own: dict[Path, None] = {}
    for root in roots:
        found = walk(root, name, depth)
        other_projects = _folders_with_manage(root, roots) - {*roots}
        if other_projects:
            found = [path for path in found if other_projects.isdisjoint(path.parents)]
        own |= dict.fromkeys(found)
    return list(own)


def _folders_with_manage(root: Path, roots: Sequence[Path]) -> set[Path]:
    """Return the folders of manage.py below a root; not the only one whose project is imported from that root itself.

    Args:
        roots: all that the project is imported from; where one of them has manage.py, that one is the project's.
    """
    found = manage_files(root)
    if not any((one / "manage.py").is_file() for one in roots):
        inside = [path for path in found if _is_imported_from(root, path)]
        found = [path for path in found if [path] != inside]
    return {root / path.parent for path in found}


def _is_imported_from(root: Path, manage: Path) -> bool:
    """Return whether the settings of a manage.py are imported from a folder above it, as those of a package."""
    named = code.settings_named(root / manage)
    if named:
        return bool(inspect_python_path.module_file(root, named))
    return len(manage.parts) == 2 and is_in_package(root, str(manage.parent))


def _module(path: Path, roots: Sequence[Path]) -> str:
    """Return the name that a file is imported by: below the root that has its outermost package."""
    above = sorted((root for root in roots if path.is_relative_to(root)), key=lambda root: -len(root.parts))
    path = path.parent if path.stem == "__init__" else path
    if roots[0] in above and _has_settings_of_manage(roots[0]):
        return ".".join(path.relative_to(roots[0]).with_suffix("").parts)
    packages = [path.parent]
    while (packages[-1] / "__init__.py").is_file():
        packages.append(packages[-1].parent)
    root = next((package for package in reversed(packages) if package in above), above[0])
    return ".".join(path.relative_to(root).with_suffix("").parts)


def _has_settings_of_manage(folder: Path) -> bool:
    """Return whether the settings that manage.py names are in its own folder, from which Python imports them then.

    That folder may be a package of the distribution as well: ``backend/config/wsgi.py`` is ``config.wsgi``.
    """
    named = code.settings_named(folder / "manage.py")
    is_package = (folder / "__init__.py").is_file()
    return bool(is_package and named and inspect_python_path.module_file(folder, named))


def _application(roots: Sequence[Path], interface: str, at: str) -> str:
    modules = application_modules(roots, interface)
    if len(modules) == 1:
        return modules[0]
    found = f"{len(modules)} found: {listed(modules)}" if modules else f"no {interface}.py found"
    raise DeploymentError(
        f"the {interface.upper()} module is not known; {found}",
        hint=f"set {at}:{interface}, for example to mysite.{interface}",
    )


def settings_named(roots: Sequence[Path], application: str) -> str:
    """Return the settings module that the application's module names, else manage.py, else an empty text."""
    modules = filter(None, (inspect_python_path.module_file(root, application) for root in roots))
    named = map(code.settings_named, (*modules, roots[0] / "manage.py"))
    return next(filter(None, named), "")


def settings_modules(roots: Sequence[Path]) -> list[str]:
    """Return the modules that look like settings: ``settings.py``, ``settings_prod.py`` next to it, those in a package.

    Where there are none, they are the modules that have ROOT_URLCONF, and those next to them that take it from them.
    """
    files = [*_settings_files(roots)] or _with_urls(roots)
    names = sorted({name for path in files for name in _importable(path, roots)})
    return [*filter(code.is_module, names)] or names


def _with_urls(roots: Sequence[Path]) -> list[Path]:
    """Return the modules that have ROOT_URLCONF, and those next to them that take every name from one of these."""
    trees = {
        path: code.tree(path)
        for path in own_files(roots, None, depth=3)
        if path.suffix == ".py" and path.stem.isidentifier()
    }
    having = [path for path, tree in trees.items() if code.assigns(tree, "ROOT_URLCONF")]
    folders = {path.parent: path.stem for path in having}
    return [
        path for path, tree in trees.items() if path in having or folders.get(path.parent) in code.star_imports(tree)
    ]


def _settings_files(roots: Sequence[Path]) -> Iterator[Path]:
    for path in own_files(roots, None, depth=4):
        is_package = path.stem == "__init__"
        in_package = path.parent.name in ("settings", "config", "conf") and not is_package
        is_inner = is_package and path.parent.parent.name == "settings"
        is_module = path.suffix == ".py" and path.stem.isidentifier()
        is_live = (
            "settings" in path.stem and code.LIVE.search(f".{path.stem}") and path.with_name("settings.py").is_file()
        )
        is_named = path.stem == "settings" or is_live
        if is_module and (is_named or in_package or is_inner) and code.is_settings(code.tree(path)):
            yield path


def _importable(path: Path, roots: Sequence[Path]) -> list[str]:
    """Return a settings module; for one that takes its names from a module that is missing, the others it takes from.

    A sample is such a module: it is copied to another folder, next to files that are not committed.
    """
    taken = code.star_imports(code.tree(path), absolute=True)
    own = [name for name in taken if any((root / name.partition(".")[0]).is_dir() for root in roots)]
    files = {name: inspect_python_path.find_module(roots, name) for name in own}
    others = [name for name, file in files.items() if file and _installs(file)]
    return others if others and not all(files.values()) else [_module(path, roots)]


def _installs(path: Path) -> bool:
    """Return whether a module has the setting INSTALLED_APPS."""
    return code.assigns(code.tree(path), "INSTALLED_APPS")


def folders_without_manage(source: Path) -> list[str]:
    """Return the folders that a project without manage.py may be imported from, relative to its source.

    They have the package whose settings install applications, or settings and a WSGI module; the one at the top is the
    first.
    """
    found: dict[Path, None] = {}
    for path in _settings_files([source]):
        folder = path.parent
        while (folder / "__init__.py").is_file() and folder != source:
            folder = folder.parent
        is_whole = code.assigns(code.tree(path), "INSTALLED_APPS")
        if is_whole or application_modules([folder]):
            found[folder.relative_to(source)] = None
    return [str(folder) for folder in sorted(found, key=lambda folder: (len(folder.parts), folder))]


def _settings_module(roots: Sequence[Path], application: str, at: str) -> str:
    named = settings_named(roots, application)
    if named:
        return named
    found = settings_modules(roots)
    candidates = f"; found {listed(found)}" if found else ""
    raise DeploymentError(
        f"neither wsgi.py nor manage.py names a settings module{candidates}",
        hint=f"set {at}:settings_module, for example to {found[0] if found else 'mysite.settings'}",
    )


def listed(names: Iterable[str]) -> str:
    """Return names for a sentence, at most eight of them."""
    shown = list(names)
    return f"{', '.join(shown[:8])}{' …' if len(shown) > 8 else ''}"


def walk(top: Path, name: str | None, depth: int) -> list[Path]:
    """Return the files of that name, or all, in a tree down to a depth, without tests and installed packages."""
    found = []
    for folder, folders, names in os.walk(top):
        parent = Path(folder)
        is_deepest = len(parent.parts) - len(top.parts) >= depth
        folders[:] = [] if is_deepest else sorted(f for f in folders if f not in _SKIPPED and not f.startswith("."))
        found += [parent / one for one in names if name in (None, one)]
    return found
