"""A child that asks the network: what it reports."""

import contextlib
import os

import pytest
from django_formula.host.locks import Lock
from django_formula.untrusted import network
from specimen import UNPRIVILEGED


@pytest.mark.parametrize("names", [["checks"], ["\u6d4b\u8bd5" * 40] * 20, ["\U0001f680" * 80] * 20])
def test_value_of_an_action_is_reported_whole(names):
    assert network.ask(UNPRIVILEGED, lambda: {"names": names}) == network.Answer({"names": names}, "", 0)


@pytest.mark.parametrize("error", [KeyError("token"), TypeError("no text"), AssertionError("plugin")])
def test_error_of_a_package_that_sends_is_reported(error):
    def send():
        raise error

    assert network.ask(UNPRIVILEGED, send) == network.Answer(None, f"{type(error).__name__}: {error}", 0)


def test_child_has_no_lock_of_root(tmp_path):
    lock = Lock(tmp_path / "lock", "root", busy="", timeout="0s", hint="")

    def inodes():
        found = []
        for descriptor in range(256):
            with contextlib.suppress(OSError):
                found.append(os.fstat(descriptor).st_ino)
        return found

    with lock.held():
        answer = network.ask(UNPRIVILEGED, inodes)
        assert answer.value and lock.path.stat().st_ino not in answer.value
