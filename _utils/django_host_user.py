"""Users and groups of this host: their numbers and names."""

import grp
import os
import pwd

#: Numbers of root and its group.
ROOT = (0, 0)


def owner(user: str, group: str) -> tuple[int, int]:
    """The numbers of a user and a group, as `django_wall_foreign` takes them."""
    return user_id(user), group_id(group)


def find_user(name: str) -> pwd.struct_passwd | None:
    """The entry of a user; None when there is none.

    Raises:
        OSError: it cannot be known, for no more files may be opened.
    """
    try:
        return pwd.getpwnam(name)
    except KeyError:
        _refuse_to_guess()
        return None


def _refuse_to_guess() -> None:
    """For Python nobody is there either where the file of users cannot be opened."""
    os.close(os.open("/", os.O_RDONLY))


def user_id(name: str) -> int:
    """The uid of a user; -2, which nobody has, while the user does not exist."""
    user = find_user(name)
    return user.pw_uid if user else -2


def group_id(name: str) -> int:
    """The gid of a group; -2, which nobody has, while the group does not exist."""
    try:
        return grp.getgrnam(name).gr_gid
    except KeyError:
        _refuse_to_guess()
        return -2


def group_name(gid: int) -> str:
    """The name of a group; ``root`` where it has none."""
    try:
        return grp.getgrgid(gid).gr_name
    except KeyError:
        return "root"


def owner_of(status: os.stat_result) -> str:
    """``user:group`` of a stat result, numbers where there is no name."""
    try:
        user = pwd.getpwuid(status.st_uid).pw_name
    except KeyError:
        user = str(status.st_uid)
    try:
        group = grp.getgrgid(status.st_gid).gr_name
    except KeyError:
        group = str(status.st_gid)
    return f"{user}:{group}"
