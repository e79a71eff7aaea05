"""What a user may do by mode and ACL; the kernel writes no ACL here, whose bytes are those of `setfacl`."""

import errno
import os
import struct
import types

import pytest
from django_formula.host import users
from django_formula.host.users import ENTER, READ, WRITE

OWNER, WEB, OTHER = 1000, 33, 44
USER_OBJ, USER, GROUP_OBJ, GROUP, MASK, OTHERS = 1, 2, 4, 8, 16, 32
NONE = 0xFFFFFFFF


def acl(*entries):
    return struct.pack("<I", 2) + b"".join(struct.pack("<HHI", *entry) for entry in entries)


@pytest.fixture
def look(monkeypatch):
    """What the user of the proxy may do, who is in the group 33."""

    def may(mode, right, value=None, group=OWNER, owner=OWNER):
        def read(_path, name, *, follow_symlinks):
            if value is None:
                raise OSError(errno.ENODATA, "no data")
            assert name == "system.posix_acl_access" and not follow_symlinks
            return value

        monkeypatch.setattr(os, "getxattr", read)
        monkeypatch.setattr(users, "find_user", lambda _name: types.SimpleNamespace(pw_uid=WEB, pw_gid=WEB))
        status = types.SimpleNamespace(st_mode=0o040000 | mode, st_uid=owner, st_gid=group)
        return users.may(right, "/home/ann", "www-data", status=status)

    return may


@pytest.mark.parametrize(
    ("mode", "right", "group", "expected"),
    [
        (0o755, ENTER, OWNER, True),
        (0o700, ENTER, OWNER, False),
        (0o750, ENTER | READ, WEB, True),
        (0o710, ENTER | READ, WEB, False),
        (0o705, ENTER, WEB, False),
        (0o722, WRITE, OTHER, True),
    ],
)
def test_mode_says_what_a_user_may(look, mode, right, group, expected):
    assert look(mode, right, group=group) is expected


def test_owner_has_the_rights_of_the_owner(look):
    assert look(0o300, WRITE | ENTER, owner=WEB) and not look(0o477, WRITE, owner=WEB)


BASE = [(USER_OBJ, 7, NONE), (GROUP_OBJ, 0, NONE), (OTHERS, 0, NONE)]


@pytest.mark.parametrize(
    ("mode", "entries", "right", "expected"),
    [
        (0o710, [(USER, 1, WEB), (MASK, 1, NONE)], ENTER, True),
        (0o710, [(USER, 1, OTHER), (MASK, 1, NONE)], ENTER, False),
        (0o700, [(USER, 1, WEB), (MASK, 0, NONE)], ENTER, False),
        (0o750, [(GROUP, 5, WEB), (MASK, 5, NONE)], READ | ENTER, True),
        (0o710, [(GROUP, 5, WEB), (MASK, 1, NONE)], READ | ENTER, False),
        (0o755, [(USER, 0, WEB), (OTHERS, 5, NONE), (MASK, 7, NONE)], ENTER, False),
        (0o755, [(GROUP, 0, WEB), (OTHERS, 5, NONE), (MASK, 7, NONE)], ENTER, False),
        (0o770, [(USER, 7, OTHER), (MASK, 7, NONE)], ENTER, False),
    ],
    ids=["user", "another", "mask", "group", "masked group", "closed to user", "closed to group", "bits are the mask"],
)
def test_acl_says_what_a_user_may(look, mode, entries, right, expected):
    value = acl(*[one for one in BASE if one[0] not in {tag for tag, *_ in entries}], *entries)
    assert look(mode, right, value) is expected


def test_group_of_the_file_has_its_own_entry_where_the_bits_are_the_mask(look):
    value = acl((USER_OBJ, 7, NONE), (USER, 7, OTHER), (GROUP_OBJ, 0, NONE), (MASK, 7, NONE), (OTHERS, 0, NONE))
    assert not look(0o770, ENTER, value, group=WEB)


def test_torn_acl_is_read_as_far_as_it_is_whole(look):
    assert look(0o710, ENTER, acl((USER, 1, WEB), (MASK, 1, NONE)) + b"\x02")
    assert not look(0o710, ENTER, b"\x02")
