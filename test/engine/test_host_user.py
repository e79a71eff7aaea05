"""Users and groups by their names."""

import os
import resource

import django_host_user
import pytest


def test_ids_and_names_of_users_and_groups():
    assert django_host_user.user_id("root") == django_host_user.group_id("root") == 0
    assert django_host_user.user_id("no-such-user") == django_host_user.group_id("no-such-group") == -2
    assert django_host_user.owner_of(os.stat("/")) == "root:root"
    assert django_host_user.owner_of(os.stat_result((0, 0, 0, 0, 999999, 999998, 0, 0, 0, 0))) == "999999:999998"


def test_failed_lookup_of_a_user_is_an_error():
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (0, hard))
    try:
        for look_up in (django_host_user.find_user, django_host_user.user_id, django_host_user.group_id):
            with pytest.raises(OSError, match="Too many open files"):
                look_up("nobody-at-all")
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
    assert django_host_user.find_user("nobody-at-all") is None and django_host_user.user_id("nobody-at-all") == -2
