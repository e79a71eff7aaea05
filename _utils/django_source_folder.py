"""The source of a site that is deployed from a local folder: the tree that git would commit of it.

A folder may be a developer's, who can exchange what is in it for a link at any time: git reads it with the rights of
that user, in a repository of its own (`<root>/folder.git`), and the mirror takes over no more than finished objects.
"""

import contextlib
import os
import stat
import struct
import tempfile
from pathlib import Path

import django_host_command
import django_host_file
import django_host_user
import django_source_git
import django_source_submodule
from django_host_command import DeploymentError
from django_site import Site
from django_source_git import Reader

#: Of fewer objects than these each gets a file of its own in the mirror, as of a fetch.
_UNPACKED = 100
#: What a git of the folder's user is configured with, in its environment.
_SETTINGS = {
    "core.hooksPath": "/dev/null",
    "core.excludesFile": "/dev/null",
    "core.attributesFile": "/dev/null",
    "core.fsmonitor": "false",
    "gc.auto": "0",
}


def tree(site: Site) -> str:
    """The tree of the local folder as it is now: what git would commit of it, the ignored files left out.

    Raises:
        DeploymentError: the folder is missing or empty, holds repositories of its own, or cannot be read by the user
            who decides what is in it.
    """
    folder = site.config["folder"]
    if not Path(folder).is_dir():
        raise DeploymentError(f"there is no folder {folder}", hint=f"correct django:sites:{site.name}:folder")
    try:
        who = django_source_git.reader(folder)
    except OSError as error:
        raise DeploymentError(f"{folder} cannot be reached: {error.strerror or error}") from None
    taken = site.mirror / "folder.tree"
    last = (django_host_file.read_text(taken) or "").strip()
    found = _as_root(site) if not who.uid else _as_user(site, who, last)
    if found == last:
        return found
    listed = django_source_submodule.entries(site, found)
    nested = [entry.path for entry in listed if entry.mode == "160000"]
    if nested:
        raise DeploymentError(
            f"{folder} holds repositories of its own: {', '.join(nested)}",
            hint="use `repository` for a project with submodules",
        )
    if not who.uid:
        try:
            _refuse_folders_of_others(Path(folder), {os.path.dirname(entry.path) for entry in listed})
        except DeploymentError:
            (site.mirror / "folder.index").unlink()  # a file in it would stay in the tree once it is ignored
            raise
    django_host_file.write(taken, f"{found}\n", mode=0o600, durable=False)
    return found


def _as_root(site: Site) -> str:
    """The tree of a folder in which nobody but root can change anything."""
    folder = site.config["folder"]
    django_source_git.set_attributes(site, site.mirror)
    index = {"GIT_WORK_TREE": folder, "GIT_INDEX_FILE": str(site.mirror / "folder.index")}
    timeout = django_host_command.seconds(site.config["timeouts"]["fetch"])
    django_source_git.run(site, "add", "--all", "--", ".", doing=f"reading {folder}", extra=index, timeout=timeout)
    return django_source_git.run(site, "write-tree", doing=f"reading {folder}", extra=index).strip()


def _refuse_folders_of_others(top: Path, folders: set[str]) -> None:
    """Refuse a tree that root has read while somebody else could exchange what is in it.

    Raises:
        DeploymentError: a folder below root's is not root's.
    """
    parents = {str(parent) for folder in folders for parent in [Path(folder), *Path(folder).parents]}
    for folder in sorted(parents):
        found = os.lstat(top / folder)
        if found.st_uid or not stat.S_ISDIR(found.st_mode) or django_source_git.is_loose(found, is_last=True):
            owner = django_host_user.owner_of(found)
            raise DeploymentError(
                f"{top} is root's, but {folder} in it is {owner} {stat.S_IMODE(found.st_mode):04o}: root does not read "
                "what others may exchange",
                hint=f"give {top} to one user as a whole (chown -R), or name {folder} in its .gitignore",
            )


def _as_user(site: Site, who: Reader, last: str) -> str:
    """The tree of a folder that a user decides, read as that user; the mirror has it afterwards."""
    if who.name is None:
        raise DeploymentError(
            f"{site.config['folder']} is owned by uid {who.uid}, which is not a user of this host",
            hint=f"change its owner: chown -R root {site.config['folder']}",
        )
    store = site.root / "folder.git"
    is_new = _make_store(store, who)
    try:
        found = _written(site, who, store)
    except DeploymentError:
        if is_new:
            raise
        django_host_file.remove_tree(store)  # what a loss of power has left of it, perhaps
        _make_store(store, who)
        found = _written(site, who, store)
    if found != last:
        _take_over(site, who, store, found, last)
    return found


def _make_store(store: Path, who: Reader) -> bool:
    """Make the repository of the folder's user; whether it is new."""
    with contextlib.suppress(FileNotFoundError):
        found = os.lstat(store)
        if stat.S_ISDIR(found.st_mode) and found.st_uid == who.uid and os.path.lexists(store / "HEAD"):
            return False
    django_host_file.remove_tree(store)
    store.mkdir(mode=0o700)
    os.chown(store, who.uid, who.gid, follow_symlinks=False)
    return True


def _written(site: Site, who: Reader, store: Path) -> str:
    """What git has written of the folder as its user: the name of the tree."""
    folder = site.config["folder"]
    doing = f"reading {folder} as {who.name}"
    hint = f"git reads it as {who.name}, who decides what is in it: is all of it readable for that user?"
    if not os.path.lexists(store / "HEAD"):
        _git(who, store, "init", "--quiet", "--bare", "--template=", str(store), doing=doing, hint=hint)
        argv = ["sh", "-c", "mkdir -p info && cat >info/attributes"]
        attributes = django_source_git.attributes(site)
        django_host_command.run(argv, doing=doing, user=who.name, folder=str(store), stdin=attributes)
    timeout = django_host_command.seconds(site.config["timeouts"]["fetch"])
    index = {"GIT_WORK_TREE": folder, "GIT_INDEX_FILE": str(store / "folder.index")}
    argv = ["add", "--all", "--", "."]
    _git(who, store, *argv, doing=doing, hint=hint, extra=index, timeout=timeout)
    found = _git(who, store, "write-tree", doing=doing, hint=hint, extra=index).strip()
    if not django_source_git.COMMIT.fullmatch(found):
        raise DeploymentError(f"{doing}: {found[:80]!r} is no tree")
    return found


def _git(
    who: Reader,
    store: Path,
    *arguments: str,
    doing: str,
    hint: str = "",
    extra: dict[str, str] | None = None,
    timeout: float = 60.0,
    stdin: str = "",
    output: int | None = None,
) -> str:
    """Run git as the folder's user in that user's repository."""
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
    return django_host_command.run(
        ["git", *arguments],
        doing=doing,
        user=who.name,
        environment=environment,
        timeout=timeout,
        stdin=stdin,
        output=output,
        hint=hint,
    )


def _take_over(site: Site, who: Reader, store: Path, found: str, last: str) -> None:
    """Bring a tree into the mirror, as a stream of the objects that it lacks; git checks each of them.

    Raises:
        DeploymentError: the stream is not whole, or an object in it is not as git makes it.
    """
    doing = f"taking over {site.config['folder']}"
    for known in [f"--not\n{last}\n", ""] if last else [""]:
        try:
            _stream(site, who, store, f"{found}\n{known}", doing)
        except DeploymentError:
            if not known:
                raise
            continue  # the user's repository is new, or the mirror has lost something: all of it, then
        return


def _stream(site: Site, who: Reader, store: Path, wanted: str, doing: str) -> None:
    """Bring objects into the mirror: what `git pack-objects` is asked for."""
    timeout = django_host_command.seconds(site.config["timeouts"]["fetch"])
    with tempfile.TemporaryFile(dir=site.mirror) as file:
        argv = ["pack-objects", "--revs", "--stdout", "-q", "--window=0"]
        _git(who, store, *argv, doing=doing, timeout=timeout, stdin=wanted, output=file.fileno())
        head = os.pread(file.fileno(), 12, 0)
        number = struct.unpack(">4sII", head)[2] if len(head) == 12 else 0
        argv = ["unpack-objects", "--strict", "-q"]
        if number >= _UNPACKED:
            argv = ["index-pack", "--strict", "--stdin", "--fix-thin"]
        os.lseek(file.fileno(), 0, os.SEEK_SET)
        django_source_git.run(site, *argv, doing=doing, timeout=timeout, stdin=file.fileno())
