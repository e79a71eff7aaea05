"""A child that asks the network: what it reports."""

import os
import pwd

import pytest
from django_formula.untrusted import network

USER = pwd.getpwuid(os.geteuid()).pw_name if os.geteuid() else "nobody"


@pytest.mark.parametrize("names", [["checks"], ["\u6d4b\u8bd5" * 40] * 20, ["\U0001f680" * 80] * 20])
def test_value_of_an_action_is_reported_whole(names):
    assert network.ask(USER, lambda: {"names": names}) == network.Answer({"names": names}, "", 0)
