"""What a user may do with a file or a folder, by its mode and its POSIX ACL: acl(5), "ACCESS CHECK ALGORITHM"."""

import grp
import os
import struct
from collections.abc import Collection
from pathlib import Path

from django_formula.host import users

#: Rights, as they are in the mode of others and in an entry of an ACL.
READ, WRITE, ENTER = 4, 2, 1
_ATTRIBUTE, _HEAD, _ENTRY = "system.posix_acl_access", struct.Struct("<I"), struct.Struct("<HHI")
# linux/posix_acl.h
_USER, _GROUP_OBJ, _GROUP, _MASK = 0x02, 0x04, 0x08, 0x10


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
    uid, groups = users.user_id(user), {*groups, *_groups(user)}
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
    own = users.find_user(user)
    return {own.pw_gid, *(one.gr_gid for one in grp.getgrall() if user in one.gr_mem)} if own else set()


def _acl(path: Path | str, *, follow: bool) -> list[tuple[int, int, int]]:
    """Return the entries of an ACL: tag, rights and number; none where the mode says all."""
    try:
        value = os.getxattr(path, _ATTRIBUTE, follow_symlinks=follow)
    except OSError:  # there is none, or the file system has none
        return []
    whole = len(value) - (len(value) - _HEAD.size) % _ENTRY.size
    return list(_ENTRY.iter_unpack(value[_HEAD.size : whole]))
