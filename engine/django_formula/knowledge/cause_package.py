"""Failures whose cause is a package: a header, library, program or module is missing, or a version cannot be built."""

import re
from collections.abc import Collection, Iterator

from django_formula.host import packages as host_packages
from django_formula.knowledge import hints
from django_formula.knowledge import package as knowledge_package
from django_formula.knowledge.rows import rows
from django_formula.site.sites import Site

_NOT_BUILT = re.compile(r"Failed to (?:build|download and build) `([\w.-]+)(?:==|@)|\bfor `([\w.-]+)@")
_UNBUILT = re.compile(r"Failed to (?:build|download and build) `([\w.-]+)==([\w.!+]+)`")
#: Headers of older versions of Python: no package of Debian has them.
_REMOVED = r"(?:longintrepr|code|eval|grammar|graminit|parsetok|asdl|ucnhash|pyfpe|(?:cell|class|func|gen)object)\.h"
#: A header that no row names, as uv and GCC report it.
_HEADER = re.compile(rf"(?:provides `|fatal error: )(?!{_REMOVED})([\w./+-]+\.h(?:pp|xx)?)(?:`|: No such)")
#: What uv says of requirements without a solution: what a package depends on, and what the project requires.
_REQUIREMENT = r"([\w.-]+)(?:\[[^\]]*\])?(?:\{[^}]*\})?([<>=!~][\w.*<>=!~,+]*\w)"  # with extras, and with a marker
_DEPENDS = re.compile(rf"(\S+) depends? on {_REQUIREMENT}")
_REQUIRE = re.compile(rf"you require {_REQUIREMENT}")
_EXCLUDED = re.compile(rf"you\s+require\s+{_REQUIREMENT}\s+and\s+{_REQUIREMENT},\s+we\s+can\s+conclude")
#: What uv says of a version that the index does not have, be it one or a range.
_ABSENT = re.compile(
    r"Because (?:there is no version of |only (?:the following versions of )?)([\w.-]+)[\s\S]{0,2000}?"
    r"you require (\S+),(?=\s)"
)
#: What npm says of packages that are for other versions of each other.
_PEER = re.compile(r"Could not resolve dependency:\s+(?:npm \S+ )?peer (\S+?)@\"([^\"]+)\" from (\S+)")
_INSTALLS = re.compile(r"(?:env .* )?npm(?: --prefix \S+)? (?:ci|i|install)(?: --(?!legacy-peer-deps)[\w=-]+)*")
#: A module of which no part is installed; a package that a library asks for by its name.
_NO_MODULE = re.compile(
    r"ModuleNotFoundError: No module named '(\w+)'(?!\S)|AssertionError: `([\w-]+)` must be installed"
)
#: One that is installed: what ends its import is said after it.
_IS_INSTALLED = re.compile(r"must be installed.*(?:, caused by | <- )")
#: How shells, env and Python report a program that is not installed.
_PROGRAM = re.compile(
    r"(?:sh: (?:\d+: )?|/usr/bin/env: .)(?P<shell>[\w+.-]+)(?:: not found|.: No such file)"
    r"|No such file or directory: '(?P<python>[\w+.-]+)'"
    r"|: (?P<argv>[\w+.-]+) cannot be started: No such file"
    r"|(?P<what>msgfmt|[Gg]it(?= executable)|C[Mm]ake|cmake|cargo)\b.*"
    r"(?:not found|not installed|must be installed|Make sure)"
)
#: How npm runs a command with a package that package.json lacks.
_EXEC = "npm exec --yes --package="


def of_module(site: Site, text: str) -> str:
    """Return the package of a module that is not installed, with those that the pillar has; empty for another cause."""
    found = _NO_MODULE.search(text)
    package = found and (found[2] or knowledge_package.package_of(found[1], site))
    if found and found[2] and _IS_INSTALLED.search(text):
        return ""
    present: list[str] = site.config["python_packages"]
    if not found or not package or package in present:
        return ""
    cure = hints.extended(site, "python_packages", [package])
    what = f"has the module {found[1]}" if found[1] else f"is {package}, which another one needs"
    return hints.Hint(f"no package that is installed {what}: set {cure}", cure)


def of_packages(site: Site, text: str, others: Collection[str] = ()) -> str:
    """Return the packages for all headers or libraries that are missing; a compilation needs the compiler too.

    Args:
        others: the normalised names of other packages that are compiled as well.
    """
    headers = [row["packages"] for row in rows("headers", site) if re.search(row["match"], text)]
    if headers:
        python = site.python.rpartition("/")[2]
        if site.has_managed_python():
            python = ""  # it has its own
        names = {name.lower().replace("_", "-") for pair in _NOT_BUILT.findall(text) for name in pair if name}
        needed = [row["packages"] for row in rows("needed") for one in others if re.fullmatch(row["match"], one)]
        built = build_packages({*names, *others}, python, site)
        return _install(site, "a package is built from source", [*headers, *needed, built])
    libraries = [row["packages"] for row in rows("libraries", site) if re.search(row["match"], text)]
    if libraries:
        return _install(site, "a library is missing on this host", libraries)
    unknown = re.search(r"(\w[\w+.-]*\.so[.\d]*): cannot open shared object file", text) or _HEADER.search(text)
    return _unknown_package(site, unknown[1], _having(unknown[1])) if unknown else ""


def is_missing(text: str, site: Site | None = None) -> bool:
    """Return whether a build reports that a compiler, a header or a program is missing on this host."""
    text = hints.bounded(text)
    headers = any(re.search(row["match"], text) for row in rows("headers", site))
    return headers or bool(_HEADER.search(text) or _PROGRAM.search(text))


def build_packages(names: Collection[str], python: str = "python3", site: Site | None = None) -> list[str]:
    """Return the packages of Debian by which Python packages are built: a compiler, and their headers.

    Args:
        names: the normalised names of the Python packages.
        python: the name of the interpreter; empty if it has its own headers.
        site: the site whose rows count too.
    """
    known = rows("packages", site)
    headers = [header for name in names for header in known.get(name, [])]
    of_python = f"{python}-dev" if re.fullmatch(r"python3(\.\d+)?", python) else "python3-dev"
    return ["gcc", "libc6-dev", *headers, *([of_python] if python else [])]


def of_contradiction(site: Site, text: str) -> str:
    """Return the version by which the requirements no longer contradict each other; empty for another cause.

    A package of the pillar does not give way.
    """
    present = _named(site)
    for package, name, version, required in contradictions(text):
        if knowledge_package.normalised(name) in present:
            continue
        nearest = re.sub(r"^>=(\d+\.[\d.]*\d)$", r"~=\1", version)
        cure = hints.extended(site, "python_packages", [f"{name}{nearest}"])
        text = (
            f"the requirements contradict themselves: {package} depends on {name}{version}, and they have "
            f"{name}{required}: correct them, or set {cure}, which replaces that"
        )
        return hints.Hint(text, cure)
    return _of_constraint(site, text)


def _of_constraint(site: Site, text: str) -> str:
    """Return the package that replaces what the requirements have, where a constraint of the pillar excludes it."""
    constraints = {re.sub(r"\s", "", one): one for one in site.config["constraints"]}
    for name, first, other, second in _EXCLUDED.findall(text):
        own = [one for one in (f"{name}{first}", f"{other}{second}") if one in constraints]
        if len(own) == 1 and knowledge_package.normalised(name) not in _named(site):
            cure = hints.extended(site, "python_packages", [constraints[own[0]]])
            required = f"{other}{second}" if own[0] == f"{name}{first}" else f"{name}{first}"
            text = f"{own[0]} in {site.at}:constraints excludes {required}, which the requirements have"
            return hints.Hint(f"{text}: set {cure}, which replaces it", cure)
    return ""


def contradictions(text: str) -> Iterator[tuple[str, str, str, str]]:
    """Yield what uv says that requirements contradict each other in.

    A package with its version, one that it depends on, the versions of that which it depends on, and those required.
    """
    required = dict(_REQUIRE.findall(text)) if "No solution found" in text else {}
    for package, name, version in _DEPENDS.findall(text):
        if name in required and version != required[name]:
            yield package, name, version, required[name]


def _named(site: Site) -> set[str]:
    """Return the normalised names of the pillar's packages."""
    return {knowledge_package.normalised(re.split(r"[^\w.-]", one)[0]) for one in site.config["python_packages"]}


def of_absent_version(site: Site, text: str) -> str:
    """Return what replaces a version that the package index does not have; empty for another cause."""
    found, at = _ABSENT.search(text) if "No solution found" in text else None, f"{site.at}:python_packages"
    if not found:
        return ""
    what = (
        f"the package index has no version {found[2]}, which its author may have removed, or which is on another index"
    )
    is_of_pillar = knowledge_package.normalised(found[1]) in _named(site)
    cure = f"correct it in {at}" if is_of_pillar else f"add {found[1]} in another version to {at}, which replaces it"
    return f"{what}: {cure}, or set {site.at}:index to the index that has it"


def of_peers(site: Site, text: str) -> str:
    """Return how npm installs packages that are for other versions of each other; empty for another cause."""
    found, commands = _PEER.search(text) if "ERESOLVE" in text else None, site.config["build"]
    build = [f"{one} --legacy-peer-deps" if _INSTALLS.fullmatch(one) else one for one in commands]
    if not found or build == [*commands]:
        return ""
    cure = f"{site.at}:build: {hints.listed(build)}"
    text = (
        f"{found[3]} is for {found[1]} {found[2]}, and package.json requires another version: correct it there, or set "
        f"{cure}, by which npm installs them nevertheless"
    )
    return hints.Hint(text, {"build": build})


def of_unbuilt_package(site: Site, text: str) -> str:
    """Return what to install in place of a version that cannot be built; empty where the pillar names another.

    Args:
        text: the whole output, which names the package before all that its compiler reports.
    """
    found = _UNBUILT.search(text)
    if not found:
        return ""
    (name, version), present = found.groups(), site.config["python_packages"]
    if any(re.fullmatch(rf"{re.escape(name)}\b[^-_.\w].*", one, re.IGNORECASE) for one in present):
        return ""
    newer = hints.extended(site, "python_packages", [f"{name}>{version}"])
    text = (
        f"{name} {version} cannot be built for {site.config['python']}: set {newer}, whose version replaces the one "
        f"that the project requires, or {site.at}:python to a Python that it supports"
    )
    return hints.Hint(text, newer)


def of_program(site: Site, text: str) -> str:
    """Return the package of a program that is not installed; empty for another cause."""
    found = _PROGRAM.search(text)
    if not found:
        return ""
    name = next(filter(None, found.groups())).lower()
    if name in rows("of_windows"):
        return (
            f"a script that the build runs is written for Windows, whose shell has {name}: have it run on both, as by "
            f"cross-env and shx, or have {site.at}:build run what it does"
        )
    of_npm = {**{one: one for one in rows("own_of_npm")}, **rows("npm", site)}
    runs = rf"{_EXEC}{of_npm.get(name)} -- \1"
    build = [re.sub(r"^(npm (?:--prefix \S+ )?run\b)", runs, one) for one in site.config["build"]]
    if name in of_npm and build != site.config["build"]:
        cure = f"{site.at}:build: {hints.listed(build)}"
        text = f"no package of package.json has the program {name}: add one there that has it, or set {cure}"
        return hints.Hint(text, {"build": build})
    package = knowledge_package.of_program(name, site)
    if package:
        return _install(site, f"the program {name} is missing on this host", [[package]])
    return _unknown_package(site, f"the program {name}", host_packages.named(re.escape(name), name))


def _unknown_package(site: Site, what: str, likely: str) -> str:
    text = f"{what} is missing on this host: add the Debian package that has it to {site.at}:packages"
    return f"{text}, most likely {likely}" if likely else text


def _having(file: str) -> str:
    """Return the package of Debian that a header or a library is most likely in, by its name; empty if none is."""
    library = re.fullmatch(r"(lib[\w+.-]*?)\.so(?:\.(\d+)[.\d]*)?", file)
    if library:
        name = library[1].lower().replace("_", "-")
        number = rf"-?{library[2]}" if library[2] else r"[\d.-]*"
        return host_packages.named(rf"{re.escape(name)}{number}(t64)?", name)
    for word in dict.fromkeys(re.sub(r"\.h\w*$", "", part) for part in file.split("/")):
        name = word.lower().replace("_", "-").removeprefix("lib")
        known = host_packages.named(rf"lib{re.escape(name)}[\d.-]*-dev", f"lib{name}") if name else ""
        known = known or (host_packages.named(rf"{re.escape(name)}-dev", f"{name}-") if name else "")
        if known:
            return known
    return ""


def _install(site: Site, why: str, packages: Collection[Collection[str]]) -> str:
    """Return the hint to install packages, with those that the pillar has; empty where it has all of them."""
    needed = sorted({name for names in packages for name in names} - {*site.config["packages"]})
    cure = hints.extended(site, "packages", needed)
    return hints.Hint(f"{why}: set {cure}", cure) if needed else ""
