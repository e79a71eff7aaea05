"""The way into the engine: puts the folder that has the package `django_formula` on Python's path.

In a checkout that is the folder of this file. For hosts `python3 engine/pack.py` writes `_utils/django_engine.py`: this
file, and after it the whole tree as comments, since Salt brings single modules to a host by each of its ways, and
packages by few. There `use` unpacks the tree into Salt's cache, a folder for each version. See docs/decisions/0100.
"""

from __future__ import annotations

import contextlib
import fcntl
import hashlib
import importlib.util
import os
import shutil
import stat
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from typing import Any

#: The first characters of the SHA-256 of the tree below, the name of its folder; none in a checkout.
DIGEST = ""
#: What begins the tree, and each file of it.
TREE, FILE = "#: The tree.\n", "#: "
_PACKAGE = "django_formula"
#: Prefixes of folders that are written or removed at the moment.
_NEW, _OLD = ".new-", ".old-"
#: In a folder: the boot of the host in which its files were compared. A crash of the host may lose what was written.
_CHECKED = ".checked"
#: Seconds after which they are compared again: what cleans /var/tmp takes files that are not read for weeks.
_TRUSTED = 7 * 24 * 3600
#: How many trees of other versions are kept.
_KEPT = 1
#: Seconds to wait for another process that writes or removes the same tree.
_PATIENCE = 60.0
_lock = threading.RLock()
#: Open folders by their paths, each with a lock: what a process uses is not removed.
_held: dict[str, int] = {}


def _now() -> tuple[int, ...]:
    about = os.stat(__file__)
    return about.st_ino, about.st_size, about.st_mtime_ns


#: This file when it was read: a minion without processes of its own for jobs may have another one by now.
_read = _now()


def run() -> dict[str, Any]:
    """Use the engine, where Salt's py renderer runs this file; it renders nothing."""
    use(globals()["__opts__"]["cachedir"])
    return {}


def use(cachedir: str = "") -> None:
    """Make `django_formula` importable in the version of this file.

    Args:
        cachedir: Salt's folder for its cache, where this file is not in one of the folders that Salt syncs modules to.

    Raises:
        ImportError: this file is damaged, or another user may change what would be imported.
    """
    with _lock:
        here = os.path.dirname(os.path.realpath(__file__))
        if os.path.isdir(os.path.join(here, _PACKAGE)):
            _enter(here)
        elif _now() != _read:
            _newer().use(cachedir)
        elif not _runs_checkout():
            home = os.path.join(cachedir or _cachedir(here), "django-formula")
            if os.geteuid():
                home += f"-{os.geteuid()}"
            _enter(_unpacked(home), home)


def _newer() -> Any:
    """Return this module anew, from its file."""
    spec = importlib.util.spec_from_file_location("django_engine", __file__)
    if spec is None or spec.loader is None:
        raise ImportError(f"{__file__} is no module")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    module._held.update(_held)
    sys.modules["django_engine"] = module
    return module


def _cachedir(here: str) -> str:
    """Return Salt's folder for its cache: that of `extmods/utils`, or the folder that the modules are synced to."""
    synced = os.path.dirname(here)
    return os.path.dirname(synced) if os.path.basename(synced) == "extmods" else synced


def _runs_checkout() -> bool:
    """Return whether this process runs the tree of this file already: a checkout's, as runners and tests do."""
    package = sys.modules.get(_PACKAGE)
    folder = os.path.dirname(os.path.dirname(getattr(package, "__file__", None) or ""))
    if not folder or not os.path.isfile(os.path.join(folder, "django_engine.py")):
        return False
    if not hasattr(package, "__digest__"):
        vars(package)["__digest__"] = digest(tree(folder))
    return bool(vars(package)["__digest__"] == DIGEST)


def tree(folder: str) -> str:
    """Return the tree in a folder as comments: of each file its name, and each of its lines."""
    names = []
    for top, _folders, files in os.walk(os.path.join(folder, _PACKAGE)):
        names += [os.path.join(top, name) for name in files if name.endswith((".py", ".json"))]
    parts = []
    for path in sorted(names):
        with open(path, encoding="utf-8") as file:
            lines = file.read().removesuffix("\n").split("\n")
        parts.append(f"{FILE}{os.path.relpath(path, folder)}\n")
        parts += [f"# {line}\n" if line else "#\n" for line in lines]
    return "".join(parts)


def digest(text: str) -> str:
    """Return the digest of a tree as comments."""
    return hashlib.sha256(text.encode()).hexdigest()[:16]


def _enter(folder: str, home: str = "") -> None:
    """Import the engine from a folder from now on, and from no other one."""
    if sys.path[:1] != [folder]:
        others = (one for one in sys.path if one != folder and not (home and os.path.dirname(one) == home))
        sys.path[:] = [folder, *others]
    package = sys.modules.get(_PACKAGE)
    if package is not None and package.__file__ != os.path.join(folder, _PACKAGE, "__init__.py"):
        for name in [name for name in sys.modules if name.partition(".")[0] == _PACKAGE]:
            del sys.modules[name]


# The tree of this file on the host


def _unpacked(home: str) -> str:
    """Return the folder with the tree of this file, which is written if it is not there."""
    os.makedirs(home, mode=0o700, exist_ok=True)
    _refuse_others(home)
    folder = os.path.join(home, DIGEST)
    deadline = time.monotonic() + _PATIENCE
    while time.monotonic() < deadline:
        if _hold(folder):
            if _is_whole(folder):
                return folder
            os.close(_held.pop(folder))
            _put_aside(folder)
        _write(home, folder)
    raise ImportError(f"{folder} is damaged, and another process uses it: remove it")


def _refuse_others(folder: str) -> None:
    """Refuse a folder that another user owns or may change."""
    about = os.lstat(folder)
    if not stat.S_ISDIR(about.st_mode) or about.st_uid != os.geteuid() or about.st_mode & 0o022:
        raise ImportError(
            f"{folder} is not a folder that only {'root' if not os.geteuid() else 'this user'} may change: remove it"
        )


def _hold(folder: str) -> bool:
    """Open and lock a folder, so that no process removes it; return whether it is there."""
    with contextlib.suppress(KeyError, FileNotFoundError):
        if os.path.samestat(os.fstat(_held[folder]), os.lstat(folder)):
            return True
    try:
        number = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC)
    except FileNotFoundError:
        return False
    try:
        fcntl.flock(number, fcntl.LOCK_SH | fcntl.LOCK_NB)
        if os.path.samestat(os.fstat(number), os.lstat(folder)):
            _refuse_others(folder)
            _held[folder], number = number, -1
            return True
    except (BlockingIOError, FileNotFoundError):
        pass  # it is being removed
    finally:
        if number >= 0:
            os.close(number)
    return False


def _is_whole(folder: str) -> bool:
    """Return whether a folder has the tree of this file; its files are compared after each boot, and each week."""
    checked = os.path.join(folder, _CHECKED)
    with contextlib.suppress(OSError), open(checked, encoding="ascii") as file:
        if file.read() == _boot() != "" and 0 <= time.time() - os.stat(checked).st_mtime < _TRUSTED:
            return True
    for name, text in _files():
        try:
            with open(os.path.join(folder, name), "rb") as file_:
                if file_.read() != text:
                    return False
        except OSError:
            return False
    _mark(folder)
    return True


def _boot() -> str:
    try:
        with open("/proc/sys/kernel/random/boot_id", encoding="ascii") as file:
            return file.read().strip()
    except OSError:
        return ""


def _mark(folder: str) -> None:
    number, path = tempfile.mkstemp(prefix=_CHECKED, dir=folder)
    with open(number, "w", encoding="ascii") as file:
        file.write(_boot())
    os.rename(path, os.path.join(folder, _CHECKED))


def _files() -> Iterator[tuple[str, bytes]]:
    """Yield the files of the tree: name and content.

    Raises:
        ImportError: they are not those that were packed.
    """
    with open(__file__, encoding="utf-8") as file:
        payload = file.read().partition(f"\n{TREE}")[2]
    if digest(payload) != DIGEST:
        raise ImportError(f"{__file__} is damaged; run: python3 engine/pack.py, in the formula's folder")
    for part in payload.split(f"\n{FILE}"):
        name, _, lines = part.removeprefix(FILE).partition("\n")
        yield name, "".join(f"{line[2:]}\n" for line in lines.removesuffix("\n").split("\n")).encode()


def _write(home: str, folder: str) -> None:
    """Write the tree of this file: completely, or not at all if this process is killed or another one is faster."""
    new = tempfile.mkdtemp(prefix=_NEW, dir=home)
    if not _hold(new):
        return  # another process took it for what a killed one has left
    try:
        for name, text in _files():
            path = os.path.join(new, name)
            os.makedirs(os.path.dirname(path), mode=0o700, exist_ok=True)
            with open(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "wb") as file:
                file.write(text)
        _mark(new)
        with contextlib.suppress(FileExistsError):
            _rename(new, folder)
    finally:
        os.close(_held.pop(new))
        shutil.rmtree(new, ignore_errors=True)  # where another process was faster
    _clear(home, folder)


def _rename(new: str, folder: str) -> None:
    """Rename a folder unless there is one of the new name."""
    if os.path.isdir(folder):
        raise FileExistsError(folder)
    try:
        os.rename(new, folder)
    except OSError:
        if not os.path.isdir(folder):
            raise


def _put_aside(folder: str) -> None:
    """Remove a folder, unless another process uses it."""
    with contextlib.suppress(OSError):
        number = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW)
        try:
            fcntl.flock(number, fcntl.LOCK_EX | fcntl.LOCK_NB)
            old = tempfile.mkdtemp(prefix=_OLD, dir=os.path.dirname(folder))
            os.rename(folder, os.path.join(old, "tree"))
            shutil.rmtree(old, ignore_errors=True)  # another process may remove the same
        finally:
            os.close(number)


def _clear(home: str, folder: str) -> None:
    """Remove trees of other versions but the newest, and what processes that were killed have left."""
    others = [os.path.join(home, name) for name in os.listdir(home)]
    begun = [path for path in others if os.path.basename(path).startswith((_NEW, _OLD))]
    with contextlib.suppress(OSError):
        trees = sorted((path for path in others if path != folder and path not in begun), key=os.path.getmtime)
        for path in [*begun, *trees[: len(trees) - _KEPT]]:
            _put_aside(path)
