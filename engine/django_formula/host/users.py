"""Users and groups of this host: ids by names, names by ids, and what a user may do with a file."""

import contextlib
import grp
import os
import pwd
import struct
from collections.abc import Collection, Iterator
from pathlib import Path

from django_formula.host import proc

#: The uid and gid of root.
ROOT = (0, 0)
#: The system user of what pushes static files elsewhere; no site can have a name with an underscore.
PUSHER = "_django-push"
#: The one of what copies backups elsewhere.
COPIER = "_django-offsite"
#: Of system users, as journald and logind tell them from people; images and packages seldom have these.
_UIDS = range(899, 299, -1)
#: How many files a look for a user opens at most at once: a library, a database and a socket, and one to spare.
_FILES_OF_A_LOOK = 4
#: Rights, as they are in the mode of others and in an entry of an ACL.
READ, WRITE, ENTER = 4, 2, 1
_ATTRIBUTE, _HEAD, _ENTRY = "system.posix_acl_access", struct.Struct("<I"), struct.Struct("<HHI")
# linux/posix_acl.h
_USER, _GROUP_OBJ, _GROUP, _MASK = 0x02, 0x04, 0x08, 0x10


def owner(user: str, group: str) -> tuple[int, int]:
    """Return the ids of a user and a group, as `untrusted.foreign` takes them."""
    return user_id(user), group_id(group)


def find_user(name: str) -> pwd.struct_passwd | None:
    """Return the entry of a user, or None if there is none.

    Raises:
        OSError: the user database cannot be opened: too many open files.
    """
    try:
        return pwd.getpwnam(name)
    except ValueError:  # a NUL in it
        return None
    except KeyError:
        _require_readable_database()
        return None


def _require_readable_database() -> None:
    """Raise if the C library cannot open what it looks in: Python reports that as a user that does not exist."""
    with contextlib.ExitStack() as opened:
        for _ in range(_FILES_OF_A_LOOK):
            opened.callback(os.close, os.open("/", os.O_RDONLY))


def user_id(name: str) -> int:
    """Return the uid of a user, or -2, which is no uid, if the user does not exist."""
    user = find_user(name)
    return user.pw_uid if user else -2


def group_id(name: str) -> int:
    """Return the gid of a group, or -2, which is no gid, if the group does not exist."""
    try:
        return grp.getgrnam(name).gr_gid
    except KeyError:
        _require_readable_database()
        return -2


def user_name(uid: int) -> str:
    """Return the name of the user with a number, or an empty text if there is none."""
    try:
        return pwd.getpwuid(uid).pw_name
    except KeyError:
        _require_readable_database()
        return ""


def free_uids() -> Iterator[int]:
    """Yield numbers for users whose processes are all ended at times: neither a user nor a process has them.

    They are not the first that ``useradd`` takes, 999 downwards: images of databases have these for their servers,
    which are processes of this host too.
    """
    return (uid for uid in _UIDS if not user_name(uid) and not proc.pids_of(uid))


def group_name(gid: int) -> str:
    """Return the name of a group, or ``root`` if it has none."""
    try:
        return grp.getgrgid(gid).gr_name
    except KeyError:
        _require_readable_database()
        return "root"


def owner_of(status: os.stat_result) -> str:
    """Return ``user:group`` of a stat result, with numbers where there is no name."""
    user = user_name(status.st_uid) or str(status.st_uid)
    try:
        group = grp.getgrgid(status.st_gid).gr_name
    except KeyError:
        _require_readable_database()
        group = str(status.st_gid)
    return f"{user}:{group}"


# What a user may do with a file, by its mode and its POSIX ACL: acl(5), "ACCESS CHECK ALGORITHM"


def may(
    right: int,
    path: Path | str,
    user: str,
    groups: Collection[int] = (),
    *,
    status: os.stat_result | None = None,
) -> bool:
    """Return whether a user has all of some rights of a file, whose folders are another matter.

    Args:
        groups: of which the user is too.
        status: of the file, where the caller has it, else links are followed.
    """
    found, acl = status or os.stat(path), _acl(path, follow=status is None)
    uid, groups = user_id(user), {*groups, *_groups(user)}
    if found.st_uid == uid:
        return _has(found.st_mode >> 6, right)
    mask = next((has for tag, has, _id in acl if tag == _MASK), READ | WRITE | ENTER)
    named = [has for tag, has, number in acl if tag == _USER and number == uid]
    if named:
        return _has(named[0] & mask, right)
    of_group = next((has for tag, has, _id in acl if tag == _GROUP_OBJ), found.st_mode >> 3)
    own = [of_group] if found.st_gid in groups else []
    own += [has for tag, has, number in acl if tag == _GROUP and number in groups]
    return any(_has(has & mask, right) for has in own) if own else _has(found.st_mode, right)


def _has(bits: int, right: int) -> bool:
    return bits & right == right


def _groups(user: str) -> set[int]:
    own = find_user(user)
    return {own.pw_gid, *(one.gr_gid for one in grp.getgrall() if user in one.gr_mem)} if own else set()


def _acl(path: Path | str, *, follow: bool) -> list[tuple[int, int, int]]:
    """Return the entries of an ACL: tag, rights and number; none where the mode says all."""
    try:
        value = os.getxattr(path, _ATTRIBUTE, follow_symlinks=follow)
    except OSError:  # there is none, or the file system has none
        return []
    whole = len(value) - (len(value) - _HEAD.size) % _ENTRY.size
    return list(_ENTRY.iter_unpack(value[_HEAD.size : whole]))
