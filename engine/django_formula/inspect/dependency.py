"""Packages that do not go with each other: one uses what the installed version of another no longer has."""

import ast
import collections.abc
import re
from collections.abc import Callable, Collection, Mapping
from pathlib import Path

from django_formula.inspect import code, project, removed, requirements
from django_formula.knowledge import hints
from django_formula.knowledge import package as knowledge_package
from django_formula.site.sites import Site
from django_formula.virtualenv import interpreter

#: How Python reports a name that a module does not have.
_NO_NAME = re.compile(
    r"cannot import name '(?P<name>\w+)' from (?:partially initialized module )?'(?P<of>[\w.]+)'"
    r"|module '(?P<module>[\w.]+)' has no attribute '(?P<attribute>\w+)'"
    r"|No module named '(?P<missing>\w+\.[\w.]+)'"
)
#: How Python reports that a module of the project is imported where an installed package is meant.
_HIDING = re.compile(
    r"partially initialized module '(?P<name>\w+)'.*\(\S*?/source/(?P<path>(?:\S+/)?(?P=name)(?:/__init__)?\.py)\)"
)
#: How Python reports what its own library no longer has.
_OF_PYTHON = re.compile(
    r"cannot import name '(?P<name>\w+)' from "
    r"'(?P<of>inspect|collections|asyncio|fractions|html|typing|locale|unittest)'"
    r"|module '(?P<module>inspect|collections|asyncio|fractions|html|typing|locale|unittest)' has no attribute "
    r"'(?P<attribute>\w+)'"
    r"|No module named '(?P<missing>imp|cgi|asynchat|asyncore|telnetlib)'"
    r"|initialization of (?P<compiled>\w+) raised"
    r"|cannot pickle 'FrameLocalsProxy'|PY_SSIZE_T_CLEAN macro must be defined"
)
#: How many major versions newer one that replaces another may be.
_MAJORS = 3
_PYTHON = re.compile(r"/python(3\.\d+)/site-packages/")
_FRAME = re.compile(r'^[ \t]*File "([^"\n]+)"', re.MULTILINE)
_PACKAGE = re.compile(r"/site-packages/([A-Za-z_]\w*)(?:/|\.py$)")


def of_python(
    site: Site,
    cause: str,
    log: str,
    installed: Mapping[str, str],
    using: Callable[[str, Collection[str]], Collection[str]] = lambda _module, _names: (),
) -> str:
    """Return what replaces packages that use what this Python no longer has; empty for the project's own code.

    Args:
        cause: the exception.
        log: the output with its frames.
        installed: the packages of the virtualenv: normalised name → version.
        using: returns the installed modules that use some names of a module of Python.
    """
    found = _OF_PYTHON.search(cause)
    if not found:
        return ""
    replacing = requirements.replacing(site.config["python_packages"])
    # Several may have the module, as psycopg2 and psycopg2-binary.
    package = _of_module(_importing(log), {one: installed[one] for one in installed if one not in replacing})
    version = installed.get(package, "")
    if not version:
        return ""
    python = _PYTHON.search(log)
    known = dict(requirements.not_running(installed, python[1] if python else "3.99"))
    newer = [f"{one}~={known[one]}" for one in known if one not in replacing] if package in known else []
    supported = interpreter.newer_django(version, python[1] if python else "") if package == "django" else ""
    newer = newer or [f"{package}~={supported}.0" if supported else _newer(package, version)]
    of, name = found["of"] or found["module"], found["name"] or found["attribute"]
    gone = found["missing"] or (of and f"{of}.{name}")
    what = f"uses {gone}, which this Python no longer has" if gone else "does not run on this Python"
    removed_too = collections.abc.__all__ if of == "collections" else [name]
    modules = using(of, removed_too) if of else ()
    others = sorted({_of_module(one, installed) for one in modules} - {"", "django", package, *replacing, *known})
    newer += [_newer(one, installed[one]) for one in others]
    what += f", as {', '.join(f'{one} {installed[one]}' for one in others)} would" if others else ""
    cure = hints.extended(site, "python_packages", newer)
    text = (
        f"{package} {version} {what}: set {cure}, "
        f"{'whose version replaces the one' if len(newer) == 1 else 'whose versions replace those'} that the project "
        f"requires, or {hints.at(site)}:python to a version that the packages support; it is "
        f"{site.config['python']} now"
    )
    return hints.Hint(text, cure)


def uses(package: Path, module: str, names: Collection[str]) -> bool:
    """Return whether an installed package or module uses, in every case, some names of a module of Python.

    It imports them at its top, or they are the bases of a class there.
    """
    named = re.compile(rf"\bfrom {module} import\b|\b{module}\.(?:{'|'.join(map(re.escape, names))})\b")
    bases = {f"{module}.{name}" for name in names}
    for path in [package] if package.suffix == ".py" else project.walk(package, None, depth=1):
        text = code.read(path) if path.suffix == ".py" else ""
        for node in code.parse(text).body if named.search(text) else ():
            if isinstance(node, ast.ImportFrom) and (node.module, node.level) == (module, 0):
                if any(alias.name in names for alias in node.names):
                    return True
            elif isinstance(node, ast.ClassDef) and any(code.dotted(base) in bases for base in node.bases):
                return True
    return False


def _of_module(module: str, installed: Mapping[str, str]) -> str:
    """Return the installed package that has a module; empty for none."""
    names = (knowledge_package.normalised(module), _package(module))
    return next((one for one in installed if one in names or knowledge_package.has(one, module)), "")


def _newer(package: str, version: str) -> str:
    """Return the requirement of a newer version, which is not so new that it lacks what the project imports of it."""
    major = re.match(r"\d+", version)
    return f"{package}>{version}{f',<{int(major[0]) + _MAJORS + 1}' if major else ''}"


def _importing(log: str) -> str:
    """Return the module in site-packages whose code raises; empty for the project's own code.

    Args:
        log: the output with the frames of the exception.
    """
    frames = [path for path in _FRAME.findall(log) if not re.search(r"/python3[\d.]*/(?!site-packages/)", path)]
    module = _PACKAGE.search(frames[-1]) if frames else None
    return module[1] if module else ""


def _package(module: str) -> str:
    """Return the normalised name of the package that has a module; empty for none."""
    return re.sub("[-_.]+", "-", knowledge_package.package_of(module) or module).lower()


def hint(
    site: Site,
    cause: str,
    installed: Mapping[str, str],
    log: str = "",
    outdated: Callable[[], Collection[str]] = tuple,
) -> str:
    """Return the packages or the constraint for an installed version that lacks what a module uses, or empty text.

    Args:
        cause: the exception.
        log: the output with its frames.
        installed: the packages of the virtualenv: normalised name → version.
        outdated: returns the installed modules that import what the installed Django no longer has.
    """
    found = _NO_NAME.search(cause)
    if not found:
        return ""
    hiding = _HIDING.search(cause)
    if hiding:
        return (
            f"{hiding['path']} has the name of the package {hiding['name']} and is imported in its place: "
            f"take its folder out of django:sites:{site.name}:python_path, or rename the file"
        )
    module = found["of"] or found["module"] or found["missing"]
    name = found["name"] or found["attribute"] or found["missing"]
    top = module.partition(".")[0]
    package = knowledge_package.package_of(top)
    limit = removed.version_without(package or top, module, name.rpartition(".")[2])
    package = package if package in installed and limit else re.sub("[-_.]+", "-", top).lower()
    version = installed.get(package, "")
    limit = limit or _below(version)
    if not version:
        return _older(site, re.sub("[-_.]+", "-", knowledge_package.package_of(top)).lower(), name, installed)
    replacing = requirements.replacing(site.config["python_packages"])
    if package in replacing:
        user = _package(_importing(log))
        if user in ("", package, *replacing) or user not in installed:
            return ""
        others = (
            [one for one in _replaceable(site, outdated(), installed) if one != user] if package == "django" else []
        )
        users = [f"{one} {installed[one]}" for one in (user, *others)]
        newer = [f"{one}>{installed[one]}" for one in (user, *others)]
        cure = hints.extended(site, "python_packages", newer)
        what = f"{users[0]} uses {name}, which {package} {version} no longer has"
        if others:
            older = f"{project.listed(users[1:])} {'is' if len(others) == 1 else 'are'} too old for it as well"
            text = f"{what}, and {older}: set {cure}, whose versions replace those that the project requires"
            return hints.Hint(text, cure)
        return hints.Hint(f"{what}: set {cure}, whose version replaces the one that the project requires", cure)
    present: list[str] = site.config["constraints"]
    if not limit or not version or any(re.match(rf"{re.escape(package)}\s*[<=~]", one) for one in present):
        return ""
    what = f"the module {name}" if found["missing"] else name
    cure = hints.extended(site, "constraints", [f"{package}<{limit}"])
    return hints.Hint(f"{package} {version}, which is installed, does not have {what}: set {cure}", cure)


def newer_ones(site: Site, modules: Collection[str], installed: Mapping[str, str]) -> list[str]:
    """Return the requirements of newer versions of the packages that have some modules."""
    return [f"{one}>{installed[one]}" for one in _replaceable(site, modules, installed)]


def _replaceable(site: Site, modules: Collection[str], installed: Mapping[str, str]) -> list[str]:
    """Return the packages that have some modules, and that the pillar does not replace yet."""
    replacing = requirements.replacing(site.config["python_packages"])
    return sorted({_package(module) for module in modules} & installed.keys() - {*replacing})


def _older(site: Site, package: str, name: str, installed: Mapping[str, str]) -> str:
    """Return the series before that of a package with another name than its modules, which a lock may pin."""
    version = installed.get(package, "")
    limit = ".".join(re.findall(r"\d+", version)[:2])
    present: list[str] = site.config["python_packages"]
    if not version or not limit.strip("0.") or any(re.match(rf"{re.escape(package)}\s*[<=~]", one) for one in present):
        return ""
    cure = hints.extended(site, "python_packages", [f"{package}<{limit}"])
    return hints.Hint(f"{package} {version}, which is installed, does not have {name}: set {cure}", cure)


def _below(version: str) -> str:
    """Return the first version of a series: ``4`` of 4.1.2, ``0.3`` of 0.3.1; empty if there is none before it."""
    numbers = re.findall(r"\d+", version)
    if len(numbers) > 1 and numbers[0] == "0":
        return "" if numbers[1] == "0" else f"0.{numbers[1]}"
    return numbers[0] if numbers and int(numbers[0]) > 1 else ""
