"""A repository's own packages, which its requirements name by a path or as members of a workspace.

They are built and installed whole, as `uv pip install` does, and not in place: a release cannot import from a folder
that its build has had. So what is in them decides which virtualenv a release has.
"""

import contextlib
import hashlib
import os
import re
import stat
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path

from django_formula.host import file as host_file
from django_formula.host.commands import DeploymentError
from django_formula.knowledge import package
from django_formula.virtualenv import lock

#: The files that make a folder a package.
PACKAGING = ("pyproject.toml", "setup.py", "setup.cfg")
#: Folders in which no package of a repository is.
_SKIPPED = re.compile(r"\..*|node_modules|__pycache__|.*\.egg-info")
#: The most nested folders that are looked through, and bytes of a file that describes a package.
_DEPTH, _MOST = 12, 1 << 20
#: What names of packages and parts of paths are made of.
_WORD = re.compile(r"[A-Za-z0-9][\w.-]*")
#: A requirement by a path: its beginning, the path, of which extras, markers and comments are not part.
_BY_PATH = re.compile(
    r"(?m)^(?P<space>[ \t]*)(?P<editable>(?:-e|--editable)[ \t=]+)?"
    r"(?P<name>[A-Za-z][\w.-]*(?:\[[^\]\n]*\])?[ \t]*@[ \t]*)?"
    r"(?P<scheme>file:(?://(?=[/$]))?)?(?P<path>[^\s;#\[\]]+)"
)


def find(source: Path, texts: Mapping[str, str], folder: str) -> dict[str, str]:
    """Return the packages of a source that its requirements name, directly or by each other: folder → name.

    A folder counts as named where a text has its name, or that of its package: one too many costs a virtualenv, one
    too few would leave a release with the code of an older one.

    Args:
        texts: the texts of the requirements files, by path.
        folder: that of manage.py; the project itself, which is in it or around it, is not installed.
    """
    own = {".", folder, *map(str, Path(folder).parents)}
    packages = {path: name for path, name in _packages(source) if path not in own}
    waiting = {path: _words(path, text, folder) for path, text in texts.items()} if packages else {}
    found: dict[str, str] = {}
    while waiting:
        _path, words = waiting.popitem()
        for path, name in packages.items():
            if path not in found and {_normal(Path(path).name), _normal(name)} & words:
                found[path] = name
                waiting |= {f"{path}/{one}": _words(one, text, folder) for one, text in _described(source / path)}
    return dict(sorted(found.items()))


def _packages(source: Path) -> Iterator[tuple[str, str]]:
    """Yield the folders of a source that are packages, and the names that these have; empty where a program has it."""
    for parent, folders, files in os.walk(source):
        path = os.path.relpath(parent, source)
        is_deepest = len(Path(path).parts) >= _DEPTH
        folders[:] = [] if is_deepest else sorted(name for name in folders if not _SKIPPED.fullmatch(name))
        if {*PACKAGING} & {*files}:
            yield path, _name(Path(parent) / "pyproject.toml")


def _name(pyproject: Path) -> str:
    try:
        content = lock.read_toml(pyproject)
        return str(content.get("project", {}).get("name") or content.get("tool", {}).get("poetry", {}).get("name", ""))
    except (OSError, ValueError, LookupError, TypeError, AttributeError, RecursionError):
        return ""


def _described(folder: Path) -> Iterator[tuple[str, str]]:
    """Yield the files that may name what a package requires, with their texts."""
    for name in sorted({*PACKAGING, *(path.name for path in folder.glob("*requirements*.txt"))}):
        if text := host_file.decoded(host_file.read_untrusted(folder / name, _MOST)):
            yield name, text


def _words(path: str, text: str, folder: str) -> set[str]:
    """Return the names of packages and the parts of paths in a text; of a uv.lock those that a site needs."""
    if Path(path).name == "uv.lock":
        needed = lock.local_of_uv(text, os.path.relpath(folder, Path(path).parent))
        if needed is not None:
            return {_normal(Path(one).name) for one in needed}
    return {_normal(word) for word in _WORD.findall(text)}


def _normal(name: str) -> str:
    return package.normalised(name).strip("-")


def hashes(source: Path, folders: Iterable[str]) -> dict[str, str]:
    """Return a hash of all that is in each of these folders of a source, by their paths."""
    return {f"{folder}/": _hash(source / folder) for folder in folders}


def _hash(top: Path) -> str:
    found = hashlib.sha256()
    for parent, folders, files in os.walk(top):
        folders.sort()
        for name in sorted([*files, *(name for name in folders if os.path.islink(os.path.join(parent, name)))]):
            path = os.path.join(parent, name)
            mode = os.lstat(path).st_mode
            found.update(
                f"{os.path.relpath(path, top)}\0{stat.S_IFMT(mode):o}{mode & 0o100:o}\0".encode(errors="replace")
            )
            if stat.S_ISLNK(mode):
                found.update(os.readlink(path).encode(errors="surrogateescape"))
            elif stat.S_ISREG(mode):
                with open(path, "rb") as file:
                    found.update(host_file.sha256(file).encode())
    return found.hexdigest()


def start_folder(source: Path, file: str, text: str) -> str:
    """Return the folder from which all paths of a requirements file are right: its own, or the first above it.

    Args:
        file: its path in the source.
    """
    paths = [found["path"] for found in _BY_PATH.finditer(text) if _is_path(found)]
    folders = [Path(file).parent, *Path(file).parent.parents]
    there = (one for one in folders if all(os.path.lexists(source / one / path) for path in paths))
    return str(next(there, Path(file).parent) if paths else Path())


def make_absolute(work: Path, files: Iterable[Path]) -> None:
    """Write the paths of local packages in requirements as they are in a copy of the source, and without `-e`.

    A path is relative to the folder of its file, or else to one above it, up to the top of the source: pip and uv take
    it relative to the folder in which they are started, which people do in one of these.

    Args:
        files: the requirements files, and those that these include.

    Raises:
        DeploymentError: a path is not in the source.
    """
    for file in files:
        text = file.read_text(errors="replace") if file.suffix in lock.REQUIREMENTS_SUFFIXES and file.is_file() else ""
        written = _BY_PATH.sub(lambda found, file=file: _absolute(work, file, found), text)  # type: ignore[misc]
        if written != text:
            lock.replace(file, written)


def _is_path(found: re.Match[str]) -> bool:
    """Return whether a requirement is one by a path, and not by a name or a URL."""
    path = found["path"]
    is_path = bool(found["editable"] or found["scheme"]) or path.startswith(("./", "../", "${"))
    is_path = is_path or ("/" in path and not path.startswith("-"))
    return is_path and "://" not in path and not path.startswith(("git+", "hg+", "svn+", "bzr+"))


def _absolute(work: Path, file: Path, found: re.Match[str]) -> str:
    if not _is_path(found):
        return found[0]
    path = found["path"].replace("${PROJECT_ROOT}", str(work))
    folders = [file.parent, *(parent for parent in file.parent.parents if parent == work or work in parent.parents)]
    candidates = [Path(os.path.normpath(folder / path)) for folder in folders]
    there = [one for one in candidates if one == work or work in one.parents if os.path.lexists(one)]
    if there:
        return f"{found['space']}{found['name'] or ''}{there[0] if not found['name'] else there[0].as_uri()}"
    if not (found["editable"] or found["scheme"] or path.startswith(("./", "../"))):
        return found[0]
    with contextlib.suppress(ValueError):
        file = file.relative_to(work)
    raise DeploymentError(
        f"{file} requires {found['path']}, which is not in the source",
        hint="commit that folder or file, or a submodule with it; or remove the line",
    )
