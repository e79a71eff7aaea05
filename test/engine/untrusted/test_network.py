"""A child that asks the network: what it reports."""

import pytest
from django_formula.untrusted import network
from specimen import UNPRIVILEGED


@pytest.mark.parametrize("names", [["checks"], ["\u6d4b\u8bd5" * 40] * 20, ["\U0001f680" * 80] * 20])
def test_value_of_an_action_is_reported_whole(names):
    assert network.ask(UNPRIVILEGED, lambda: {"names": names}) == network.Answer({"names": names}, "", 0)
