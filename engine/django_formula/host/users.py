"""Users and groups of this host: ids by names, and names by ids."""

import contextlib
import grp
import os
import pwd
from collections.abc import Iterator

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
