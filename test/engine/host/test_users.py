"""Users and groups by their names."""

import os
import resource

import pytest
from django_formula.host import users


def test_ids_and_names_of_users_and_groups():
    assert users.user_id("root") == users.group_id("root") == 0
    assert users.user_id("no-such-user") == users.group_id("no-such-group") == -2
    assert users.owner_of(os.stat("/")) == "root:root"
    assert users.owner_of(os.stat_result((0, 0, 0, 0, 999999, 999998, 0, 0, 0, 0))) == "999999:999998"


@pytest.mark.parametrize("free", range(4))
def test_failed_lookup_of_a_user_is_an_error(free):
    """With none, or a few, of the files that a look opens at once."""
    lookups = {users.find_user: "no-such-user", users.user_id: "no-such-user", users.group_id: "no-such-user"}
    lookups |= {users.user_name: 999999, users.group_name: 999999}
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    begin = os.dup(0)
    os.close(begin)
    resource.setrlimit(resource.RLIMIT_NOFILE, (begin + free, hard))
    try:
        for look_up, what in lookups.items():
            with pytest.raises(OSError, match="Too many open files"):
                look_up(what)
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
    assert users.find_user("no-such-user") is None and users.user_id("no-such-user") == -2
    assert users.user_name(999999) == "" and users.group_name(999999) == "root"


def test_numbers_that_a_user_or_a_process_has_are_not_given(monkeypatch):
    monkeypatch.setattr(users, "user_name", lambda uid: "other" if uid == 899 else "")
    monkeypatch.setattr(users.proc, "pids_of", lambda uid: [4] if uid == 897 else [])
    free = users.free_uids()
    assert [next(free), next(free), next(free)] == [898, 896, 895]
