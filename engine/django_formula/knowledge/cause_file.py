"""Failures whose cause is a file: the project may not read or write it, or it does not exist."""

import os
import re
from collections.abc import Mapping
from pathlib import PurePosixPath
from typing import Any

from django_formula.knowledge import hints
from django_formula.site.sites import Site
from django_formula.untrusted.text import in_command

#: A file that the sandbox, or the owner of a folder, keeps the project from; as Python and Node.js report it.
_FILE = re.compile(
    r"(?P<why>Read-only file system|Permission denied|No such file or directory|EROFS|EACCES)(?::|\b[^\n']*?, \w+) ?"
    r"b?'(?P<path>[^'\n]+)'(?: -> '(?P<to>[^'\n]+)')?"
)
#: What the name of a file ends in, and that of a folder does not: of static.dist a hint names the folder.
_FILE_NAME = re.compile(
    r"\.(log|txt|json|ya?ml|xml|csv|html?|css|js|map|py|pyc|pyo|db|sqlite3?|sqlite3?-\w+|dat|bin|pickle|pkl|cache|pid|sock|lock"
    r"|key|pem|crt|secret|tmp|png|jpe?g|gif|svg|webp|pdf|gz|zip|tar|[mp]o|ini|conf|cfg|env|dump|idx|mmdb)(\.\w+)?$",
    re.IGNORECASE,
)
#: Files that the owner of a site writes, and a project only reads; of JSON only by their names, since builds write it.
_CONFIGURATION = re.compile(
    r"\.(py|ini|cfg|conf|cnf|ya?ml|toml|properties|env)$|^\.env(\.\w+)?$|(config\w*|settings|secrets?|credentials)\.json$",
    re.IGNORECASE,
)
#: Files that a project reads, and no build of it writes: data, models of scikit-learn and the like, keys.
_DATA = re.compile(r"\.(pkl|pickle|joblib|sav|h5|keras|onnx|np[yz]|mmdb|csv|xlsx?|pem|key|crt)$", re.IGNORECASE)
#: Folders in which no site may write.
_OF_SYSTEM = r"/(bin|boot|dev|etc|lib\w*|proc|root|run|sbin|sys|usr|var/(run|lib/(dpkg|systemd|django-formula)))(/|$)"
#: A path in the folder of a package that is installed.
_PACKAGE = re.compile(r"/(?:virtualenv|virtualenvs/[^/]+)/lib/python[\d.]+/site-packages/([A-Za-z_]\w*)/")
_HOME = PurePosixPath("/nonexistent")
_DATABASE_FILE = re.compile(
    r"(?:unable to open database file|attempt to write a readonly database)(?:: (?P<path>/\S+))?"
)


def of_file(site: Site, text: str, facts: Mapping[str, Any], *, building: bool = False) -> str:
    """Return what lets a project write a file that it may not write; empty for another cause.

    A release is read-only but for ``writable`` and ``shared``: the cause stays until the pillar changes.
    """
    for found in _FILE.finditer(hints.bounded(text)):
        path, is_missing = PurePosixPath(found["path"]), found["why"].startswith("No such")
        if found["to"] and not is_missing:  # a link, or a file that is moved: it is the folder that is written
            path = PurePosixPath(found["to"]).parent
        package = _PACKAGE.search(str(path))
        if package and not is_missing and not building:
            return _copy_package(site, package[1])
        inside = _in_source(site, path, facts)
        if is_missing and not building and _is_shared(site, path, inside):
            return _make_folder(site, path, inside)
        if not building and is_missing and _CONFIGURATION.search(path.name):
            return _add_file(site, path, inside)
        if inside and not building and is_missing and _DATA.search(path.name):
            return _put_file(site, inside)
        is_program = found["why"] in ("Permission denied", "EACCES") and path.suffix in (".sh", ".py")
        if inside and not building and not is_program and (not is_missing or path.suffix == ".log"):
            return _make_writable(site, inside, facts, is_missing=is_missing)
        is_elsewhere = not inside and path.is_absolute() and not path.is_relative_to(site.root.parent)
        if is_elsewhere and not is_missing and not building and _CONFIGURATION.search(path.name):
            return f"let {site.user} read {path}, a file with its configuration"
        if is_elsewhere and (not is_missing or path.suffix == ".log"):
            within = re.search(re.escape(f"{path}/") + r"[^'\"\s]+", text)  # whose parents it makes
            path = PurePosixPath(within[0]) if within and path == _HOME else path
            return _let_write(site, path, found["why"], building=building)
    return ""


def _in_source(site: Site, path: PurePosixPath, facts: Mapping[str, Any]) -> PurePosixPath | None:
    """Return a path relative to the source of the release, or None if it is elsewhere."""
    if not path.is_absolute():
        return PurePosixPath(facts.get("folder", "."), path)
    mount = site.config["mount"]
    if mount and path.is_relative_to(mount):
        return path.relative_to(mount)
    found = re.match(re.escape(f"{site.root}/") + r"(?:current|releases/[^/]+)/source/(.+)", str(path))
    return PurePosixPath(found[1]) if found else None


def _copy_package(site: Site, name: str) -> str:
    """Return the option that gives a release its own copy of a package; empty where the pillar has it."""
    if name in site.config.get("writable_packages", []):
        return ""
    cure = hints.extended(site, "writable_packages", [name])
    return hints.Hint(f"the package writes into its own folder: set {cure}", cure)


def _make_writable(site: Site, path: PurePosixPath, facts: Mapping[str, Any], *, is_missing: bool = False) -> str:
    """Return the options that make a file of the release writable; empty where the pillar has them."""
    if any(path.is_relative_to(there) for there in [*site.config["writable"], *site.config["shared"]]):
        return ""
    folder = path.parent if _FILE_NAME.search(path.name) else path
    has_code = str(folder) in (".", facts.get("folder", "."))
    shared = hints.extended(site, "shared", [str(path if has_code else folder)])
    if has_code:
        return hints.Hint(f"the release is read-only: set {shared}, which keeps {path} outside of it", shared)
    writable = hints.extended(site, "writable", [str(folder)])
    why = f"{folder} is not in the source" if is_missing else "the release is read-only"
    return hints.Hint(f"{why}: set {writable}, or, for files that outlive a release, {shared}", writable)


def _add_file(site: Site, path: PurePosixPath, inside: PurePosixPath | None) -> str:
    """Return what gives a project a file with its configuration, which is not committed.

    Args:
        inside: the path relative to the source of a release, or None.
    """
    files = f"{site.at}:files"
    if inside:
        return f"the project reads {inside}, which is not in the source: add it to {files}, or commit it"
    above = re.match(
        re.escape(f"{site.root}/") + r"releases/[^/]+/(?!(?:source|virtualenv|config|static)/)(.+)", str(path)
    )
    if above and not site.config["mount"] and ".." not in path.parts:
        top = f"/opt/{site.name}"
        what = f"the project reads {above[1]} from the folder above its source"
        return f"{what}: set {site.at}:mount: {top}/source, and put the file into {top}/{above[1]}"
    if path.is_relative_to(site.root.parent) or ".." in path.parts:
        return ""
    by_name = f"add it to {files} and set the variable that has its path to that one, relative to manage.py's folder"
    if path.is_relative_to(_HOME):
        return f"the project reads {path.name} from its home, which {site.user} does not have: {by_name}"
    return f"the project reads {path}, which this host does not have: create it for {site.user}, or {by_name}"


def _put_file(site: Site, path: PurePosixPath) -> str:
    """Return what gives a project a file with data, which is not committed."""
    shared = hints.extended(site, "shared", [str(path)])
    there = f"put it into {site.shared.top}/{path}"
    return f"the project reads {path}, which is not in the source: commit it, or set {shared} and {there}"


def _is_shared(site: Site, path: PurePosixPath, inside: PurePosixPath | None) -> bool:
    """Return whether a path is in what releases share, but not one of its paths itself.

    Args:
        inside: the path relative to the source of a release, or None.
    """
    entries = [PurePosixPath(one) for one in site.config["shared"]]
    of_source = inside is not None and any(one != inside and inside.is_relative_to(one) for one in entries)
    return of_source or path.is_relative_to(site.shared.top)


def _make_folder(site: Site, path: PurePosixPath, inside: PurePosixPath | None) -> str:
    """Return what creates a folder which the project expects in what releases share: an option, or a command."""
    folder = (inside or path).parent if _FILE_NAME.search(path.name) else inside or path
    cure, option = _made(site, folder), ""
    if inside and str(folder) not in site.config["shared"] and "." not in folder.name:
        option = hints.extended(site, "shared", [str(folder)])
        cure = f"set {option}, which creates {folder}"
    elif inside:
        cure = _made(site, PurePosixPath(site.shared.top, folder))
    ways = ", or ".join(filter(None, [cure, "put it there"]))
    return hints.Hint(f"{path.name} is missing in what releases share: {ways}", option)


def _made(site: Site, folder: PurePosixPath) -> str:
    """Return the command that makes a folder; empty where its name cannot be quoted."""
    return in_command("runuser", "-u", site.user, "--", "mkdir", "-p", str(folder))


#: Folders of a home, and the variables that name others in their place.
_OF_HOME = {".config": "XDG_CONFIG_HOME", ".cache": "XDG_CACHE_HOME", ".local/share": "XDG_DATA_HOME"}


def _let_write(site: Site, path: PurePosixPath, why: str, *, building: bool) -> str:
    """Return what lets a project write outside of the site's folders, but for those of the system."""
    folder = path.parent if _FILE_NAME.search(path.name) else path
    if path.is_relative_to(_HOME):
        text = f"the project writes to its home, which {site.user} does not have: set "
        variable = next((name for folder, name in _OF_HOME.items() if path.is_relative_to(_HOME / folder)), "")
        if variable:
            found = {variable: {"from": "shared"}}
            return hints.Hint(f"{text}{site.at}:environment: {hints.flow(found)}", {"environment": found})
        return (
            f"{text}the variable that names the folder, in {site.at}:environment, to {{from: shared}}, or have the "
            f"project write below {site.shared.top}"
        )
    if ".." in path.parts or re.match(_OF_SYSTEM, str(path)):
        return f"have the project write below {site.shared.top}"
    key, user = ("build_sandbox", site.build_user) if building else ("sandbox", site.user)
    exception = f"set {site.at}:{key}: {hints.flow({'ReadWritePaths': [str(folder)]})}"
    is_there = os.path.isdir(folder)  # systemd refuses a unit with a path of these that does not exist
    is_sandbox = why in ("Read-only file system", "EROFS") and site.process == "systemd"
    if why.startswith("No such") or (is_sandbox and not is_there):
        cure = f"create {folder} for {user}" + (f" and {exception}" if site.process == "systemd" else "")
    elif is_sandbox:
        cure = exception
    else:
        cure = f"let {user} write to {folder}"
    return f"{cure}, or have the project write below {site.shared.top}"


def of_file_of_pillar(site: Site, text: str) -> str:
    """Return what lets a build read a file that the pillar has, and that is written after it; empty for another."""
    modules = [name.replace(".", "/") for name in re.findall(r"No module named '([\w.]+)'", text)]
    modules += [
        f"{package}.{name}".replace(".", "/")
        for name, package in re.findall(r"cannot import name '(\w+)' from '([\w.]+)'", text)
    ]
    for path, about in site.config["files"].items():
        is_module = any(f"/{path}".endswith((f"/{one}.py", f"/{one}/__init__.py")) for one in modules)
        named = rf"(?:Error|No such file)\b[^\n]*/source/{re.escape(path)}(?![\w/.-])"
        if about.get("build") or not (is_module or re.search(named, text)):
            continue
        after = f"run the command after collectstatic, by {site.at}:commands:after_static"
        what = f"{path} is in {site.at}:files, which are written after the build"
        if about.get("contents") is None:
            return f"{what}, since they may have secrets: {after}, or take it out of {site.at}:build"
        key = f"{site.at}:files:{path}:build: true"
        return f"{what}: set {key} if the file has no secret, or {after}"
    return ""


def of_file_of_settings(site: Site, text: str) -> str:
    """Return the file of the pillar, imported by the settings next to it, that lacks a name which they use."""
    found = re.search(r"NameError: name '([A-Z][A-Z0-9_]*)' is not defined \(([\w./-]+\.py):\d+", text)
    if not found:
        return ""
    for path, about in site.config["files"].items():
        is_next = f"/{path}".rpartition("/")[0].endswith(f"/{found[2]}".rpartition("/")[0])
        if path.endswith(".py") and is_next and about.get("contents") is not None:
            key = f"{site.at}:files:{path}:contents"
            return f"{found[2]} uses {found[1]}, which {path} has to set: add it and the others of the site to {key}"
    return ""


def of_database_file(site: Site, text: str, facts: Mapping[str, Any]) -> str:
    """Return which SQLite file a project cannot open or write, and what lets it."""
    found = _DATABASE_FILE.search(text)
    if not found:
        return ""
    databases = facts.get("databases", {}).values()
    named = [one["name"] for one in databases if re.search("sqlite|spatialite", one.get("engine", ""))]
    names = [found["path"]] if found["path"] else named
    if len(names) != 1:
        return ""
    path = PurePosixPath(names[0])
    inside = _in_source(site, path, facts)
    if inside:
        cure = _make_writable(site, inside, facts)
        return hints.Hint(f"the SQLite file is {inside} of the release; {cure}".removesuffix("; "), cure)
    return f"the SQLite file is {path}: {site.user} must be able to write to it and to its folder, {path.parent}"
