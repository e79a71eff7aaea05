"""The source of a site that is deployed from a local folder: the tree that git would commit of it.

A folder may belong to a developer, who can replace what is in it by a link at any time: git reads it with the rights of
that user, in a repository of its own (`<root>/folder.git`), and only finished objects are copied into the mirror.
"""

import contextlib
import os
import stat
import struct
import tempfile
from pathlib import Path

from django_formula.host import commands, users
from django_formula.host import file as host_file
from django_formula.host.commands import DeploymentError
from django_formula.site.sites import Site
from django_formula.source import git, submodule
from django_formula.source import reader as source_reader
from django_formula.source.reader import Reader
from django_formula.source.writing import writing
from django_formula.untrusted.text import proposal

#: Up to this number of objects, each gets a file of its own in the mirror, as in a fetch.
_UNPACKED = 100
#: The configuration of git for the folder's user, passed in its environment.
_SETTINGS = {
    "core.hooksPath": "/dev/null",
    "core.excludesFile": "/dev/null",
    "core.attributesFile": "/dev/null",
    "core.fsmonitor": "false",
    "gc.auto": "0",
}


def tree(site: Site) -> str:
    """Return the tree of the local folder as it is now: what git would commit of it, without ignored files.

    Raises:
        DeploymentError: the folder is missing or empty, contains other repositories, or cannot be read by the user
            who can write to it.
    """
    folder = site.config["folder"]
    if not Path(folder).is_dir():
        raise DeploymentError(f"the folder {folder} does not exist", hint=f"correct {site.at}:folder")
    try:
        reader = source_reader.reader(folder)
    except OSError as error:
        raise DeploymentError(f"{folder} cannot be reached: {error.strerror or error}") from None
    record = site.mirror / "folder.tree"
    last = (host_file.read_text(record) or "").strip()
    found = _as_root(site) if not reader.uid else _as_user(site, reader, last)
    if found == last:
        return found
    listed = submodule.entries(site, found)
    nested = [entry.path for entry in listed if entry.mode == "160000"]
    if nested:
        raise DeploymentError(
            f"{folder} contains other repositories: {', '.join(nested)}",
            hint=f"set {site.at}:repository for a project with submodules",
        )
    if not reader.uid:
        try:
            _refuse_writable_folders(Path(folder), {os.path.dirname(entry.path) for entry in listed})
        except DeploymentError:
            (site.mirror / "folder.index").unlink()  # a file in it would stay in the tree once it is ignored
            raise
    host_file.write(record, f"{found}\n", mode=0o600, durable=False)
    return found


def _as_root(site: Site) -> str:
    """Return the tree of a folder in which only root can change anything."""
    folder = site.config["folder"]
    git.set_attributes(site, site.mirror)
    index = {"GIT_WORK_TREE": folder, "GIT_INDEX_FILE": str(site.mirror / "folder.index")}
    timeout = commands.seconds(site.config["timeouts"]["fetch"])
    with writing(site.mirror):
        git.run_git(site, "add", "--all", "--", ".", doing=f"reading {folder}", extra=index, timeout=timeout)
    return git.run_git(site, "write-tree", doing=f"reading {folder}", extra=index).strip()


def _refuse_writable_folders(top: Path, folders: set[str]) -> None:
    """Refuse a tree that root read while another user could replace what is in it.

    Raises:
        DeploymentError: a folder in it is not owned by root, or other users may write to it.
    """
    parents = {str(parent) for folder in folders for parent in [Path(folder), *Path(folder).parents]}
    for folder in sorted(parents):
        found = os.lstat(top / folder)
        if found.st_uid or not stat.S_ISDIR(found.st_mode) or source_reader.is_loose(found, is_last=True):
            owner = users.owner_of(found)
            raise DeploymentError(
                f"{top} is owned by root, but {folder} in it is {owner} {stat.S_IMODE(found.st_mode):04o}: root does "
                "not read what other users may replace",
                hint=f"give all of {top} to one user (chown -R), or add {folder} to its .gitignore",
            )


def _as_user(site: Site, reader: Reader, last: str) -> str:
    """Return the tree of a folder that a user can write to, read as that user, and copy it into the mirror."""
    if reader.name is None:
        raise DeploymentError(
            f"{site.config['folder']} is owned by uid {reader.uid}, which is not a user of this host",
            hint=proposal("change its owner: {}", "chown", "-R", "root", site.config["folder"]),
        )
    store = site.root / "folder.git"
    is_new = _make_store(store, reader)
    try:
        found = _write_tree(site, reader, store)
    except DeploymentError:
        if is_new:
            raise
        host_file.remove_tree(store)  # it may be damaged, as after a loss of power
        _make_store(store, reader)
        found = _write_tree(site, reader, store)
    if found != last:
        _copy(site, reader, store, found, last)
    return found


def _make_store(store: Path, reader: Reader) -> bool:
    """Create the repository of the folder's user, and return whether it is new."""
    with contextlib.suppress(FileNotFoundError):
        found = os.lstat(store)
        if stat.S_ISDIR(found.st_mode) and found.st_uid == reader.uid and os.path.lexists(store / "HEAD"):
            return False
    host_file.remove_tree(store)
    store.mkdir(mode=0o700)
    os.chown(store, reader.uid, reader.gid, follow_symlinks=False)
    return True


def _write_tree(site: Site, reader: Reader, store: Path) -> str:
    """Have git write the tree of the folder as its user, and return its name."""
    folder = site.config["folder"]
    doing = f"reading {folder} as {reader.name}"
    hint = f"git reads it as {reader.name}, who can write to it: make all of it readable for that user"
    if not os.path.lexists(store / "HEAD"):
        _git(reader, store, "init", "--quiet", "--bare", "--template=", str(store), doing=doing, hint=hint)
        argv = ["sh", "-c", "mkdir -p info && cat >info/attributes"]
        attributes = git.attributes(site)
        commands.run(argv, doing=doing, user=reader.name, folder=str(store), stdin=attributes)
    timeout = commands.seconds(site.config["timeouts"]["fetch"])
    index = {"GIT_WORK_TREE": folder, "GIT_INDEX_FILE": str(store / "folder.index")}
    argv = ["add", "--all", "--", "."]
    _git(reader, store, *argv, doing=doing, hint=hint, extra=index, timeout=timeout)
    found = _git(reader, store, "write-tree", doing=doing, hint=hint, extra=index).strip()
    if not git.COMMIT.fullmatch(found):
        raise DeploymentError(f"{doing}: {found[:80]!r} is not a tree")
    return found


def _git(
    reader: Reader,
    store: Path,
    *arguments: str,
    doing: str,
    hint: str = "",
    extra: dict[str, str] | None = None,
    timeout: float = 60.0,
    stdin: str = "",
    output: int | None = None,
) -> str:
    """Run git as the folder's user, in that user's repository."""
    environment = {
        "GIT_DIR": str(store),
        "GIT_CONFIG_GLOBAL": "/dev/null",
        "GIT_CONFIG_NOSYSTEM": "1",
        "GIT_ATTR_NOSYSTEM": "1",
        "GIT_ADVICE": "0",
        "GIT_CONFIG_COUNT": str(len(_SETTINGS)),
        **{f"GIT_CONFIG_KEY_{number}": name for number, name in enumerate(_SETTINGS)},
        **{f"GIT_CONFIG_VALUE_{number}": value for number, value in enumerate(_SETTINGS.values())},
        **(extra or {}),
    }
    return commands.run(
        ["git", *arguments],
        doing=doing,
        user=reader.name,
        environment=environment,
        timeout=timeout,
        stdin=stdin,
        output=output,
        hint=hint,
    )


def _copy(site: Site, reader: Reader, store: Path, found: str, last: str) -> None:
    """Copy a tree into the mirror, as a stream of the objects that are missing there; git checks each of them.

    Raises:
        DeploymentError: the stream is incomplete, or an object in it is invalid.
    """
    doing = f"copying {site.config['folder']}"
    for known in [f"--not\n{last}\n", ""] if last else [""]:
        try:
            _stream(site, reader, store, f"{found}\n{known}", doing)
        except DeploymentError:
            if not known:
                raise
            continue  # the user's repository is new, or the mirror has lost objects: copy all of them
        return


def _stream(site: Site, reader: Reader, store: Path, revisions: str, doing: str) -> None:
    """Copy objects into the mirror.

    Args:
        revisions: the standard input of `git pack-objects --revs`.
    """
    timeout = commands.seconds(site.config["timeouts"]["fetch"])
    with tempfile.TemporaryFile(dir=site.mirror) as file:
        argv = ["pack-objects", "--revs", "--stdout", "-q", "--window=0"]
        _git(reader, store, *argv, doing=doing, timeout=timeout, stdin=revisions, output=file.fileno())
        head = os.pread(file.fileno(), 12, 0)
        number = struct.unpack(">4sII", head)[2] if len(head) == 12 else 0
        argv = ["unpack-objects", "--strict", "-q"]
        if number >= _UNPACKED:
            argv = ["index-pack", "--strict", "--stdin", "--fix-thin"]
        os.lseek(file.fileno(), 0, os.SEEK_SET)
        with writing(site.mirror):
            git.run_git(site, *argv, doing=doing, timeout=timeout, stdin=file.fileno())
