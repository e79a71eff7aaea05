"""Secret keys of the master on one host: what it takes, signs with and accepts, and what an end in between leaves."""

from typing import Any

import pytest
from django_formula.host import file
from django_formula.host.commands import DeploymentError
from django_formula.release import claim as release_claim
from django_formula.secret import secrets
from django_formula.verbs import fleet as verbs
from django_formula.verbs import rotation
from engine.deploy.test_deployment import ONE
from engine.verbs.test_fleet import BY, ID, claim, known, prepared, released, soon

OLD_KEY, NEW_KEY, LATER_KEY = ("old-" + "o" * 50, "new-" + "n" * 50, "later-" + "l" * 50)


def keyed(host: Any, key: str, sequence: int = 1, **others: str) -> None:
    """Let the pillar have keys: the one to sign with, ``next``, and former ones by number."""
    host.options = {**known(ONE, sequence), "secret_key": key}
    host.options["fleet"] = {**host.options["fleet"], "keys": others}
    host.given = secrets.named_keys({"secret_key": key, **others})


def keys_of(host: Any) -> list[str]:
    found = file.read_json(host.site.secrets / "secret_key.json")
    return [found["key"], *found["fallbacks"]]


@pytest.fixture
def signing(world):
    """A host that serves the first commit, and signs with the old key of the master's store."""
    world.options = known()
    world.apply()
    released(ONE, 1)
    keyed(world, OLD_KEY)
    world.apply()
    assert keys_of(world)[0] == OLD_KEY
    return world


def taken(key: str, **others: str) -> None:
    verbs.keys("blog", ID, BY, secrets.named_keys({"secret_key": key, **others}))


def fully_released(commit: str, sequence: int) -> None:
    verbs.prepare("blog", ID, BY, commit, sequence)
    verbs.migrate("blog", ID, BY, soon())
    verbs.start("blog", ID, BY, soon(), [])
    verbs.switch("blog", ID, BY, soon())


def test_a_rotation_makes_a_host_accept_a_key_and_then_sign_with_it(signing):
    before = keys_of(signing)
    claim()
    taken(OLD_KEY, next=NEW_KEY)
    assert keys_of(signing) == [OLD_KEY, NEW_KEY, *before[1:]]
    fully_released(ONE, 3)
    verbs.finish("blog", ID, BY, "web1", {"commit": ONE, "sequence": 3, "held": [], "count": 1})
    assert verbs.ready("blog")["accepts"][0] == secrets.fingerprint(NEW_KEY)
    keyed(signing, OLD_KEY, 3, next=NEW_KEY)
    assert signing.apply() == {}, "an apply between the two releases changes nothing"
    claim()
    taken(NEW_KEY, **{"1": OLD_KEY})
    fully_released(ONE, 4)
    verbs.finish("blog", ID, BY, "web1", {"commit": ONE, "sequence": 4, "held": [], "count": 1})
    assert keys_of(signing) == [NEW_KEY, OLD_KEY, *before[1:]]
    keyed(signing, NEW_KEY, 4, **{"1": OLD_KEY})
    assert signing.apply() == {} and not (signing.site.secrets / ".before.json").exists()
    assert verbs.ready("blog")["has_keys"]


@pytest.mark.slow
@pytest.mark.parametrize("reached", ["keys", "prepare", "start", "switch"])
@pytest.mark.parametrize("given", [{"key": OLD_KEY, "next": NEW_KEY}, {"key": NEW_KEY, "1": OLD_KEY}], ids=["1", "2"])
def test_an_abandoned_rotation_leaves_the_keys_as_they_were(signing, given, reached):
    before, live = keys_of(signing), signing.live
    environment = (signing.site.secrets / "environment").read_text()
    claim()
    taken(**given)
    assert keys_of(signing) != before
    if reached != "keys":
        prepared(ONE, 3)
    if reached in ("start", "switch"):
        verbs.migrate("blog", ID, BY, soon())
        verbs.start("blog", ID, BY, soon(), [])
    if reached == "switch":
        verbs.switch("blog", ID, BY, soon())
    verbs.abandon("blog", ID, BY, False)
    assert keys_of(signing) == before and signing.live == live
    assert (signing.site.secrets / "environment").read_text() == environment
    assert signing.apply() == {}


@pytest.mark.parametrize("calls", [1, 2])
def test_two_rotations_that_did_not_end_leave_the_keys_as_they_were(signing, calls):
    """The host was lost in the first one, and is back when the second one begins, whose call Salt may repeat."""
    before = keys_of(signing)
    environment = (signing.site.secrets / "environment").read_text()
    claim()
    taken(NEW_KEY, **{"1": OLD_KEY})
    prepared(ONE, 3)
    release_claim.drop(signing.site)  # as the time ends it
    claim("another")
    for _call in range(calls):
        verbs.keys("blog", "another", BY, secrets.named_keys({"secret_key": LATER_KEY, "1": OLD_KEY}))
    verbs.abandon("blog", "another", BY, False)
    assert keys_of(signing) == before
    assert (signing.site.secrets / "environment").read_text() == environment


def test_a_host_that_was_lost_in_a_rotation_is_brought_along_by_an_apply(signing):
    claim(seconds=60)
    taken(OLD_KEY, next=NEW_KEY)
    prepared(ONE, 3)
    release_claim.drop(signing.site)  # as the time ends it
    keyed(signing, LATER_KEY, **{"1": NEW_KEY, "2": OLD_KEY})
    signing.apply()
    assert keys_of(signing)[0] == LATER_KEY and {OLD_KEY, NEW_KEY} <= {*keys_of(signing)}
    assert signing.apply() == {}


def test_a_new_host_accepts_what_others_signed_before(world):
    world.options = known()
    keyed(world, NEW_KEY, **{"1": OLD_KEY})
    world.apply()
    assert keys_of(world) == [NEW_KEY, OLD_KEY]


def test_a_former_key_that_a_host_has_dropped_stays_dropped(signing):
    path = signing.site.secrets / "secret_key.json"
    file.write_json(path, {"key": OLD_KEY, "fallbacks": []}, mode=0o640)
    assert secrets.fallbacks_with(signing.site, OLD_KEY, {"secret_key.former.1": "dropped"}) == []
    assert secrets.fallbacks_with(signing.site, NEW_KEY, {"secret_key.former.1": "dropped"}) == [
        OLD_KEY,
        "dropped",
    ]


def test_keys_are_taken_for_the_deployment_that_has_the_claim_only(signing):
    before = keys_of(signing)
    with pytest.raises(DeploymentError, match="has no claim on blog any more"):
        taken(NEW_KEY)
    claim()
    with pytest.raises(DeploymentError, match="the master has no secret key of blog for this host"):
        verbs.keys("blog", ID, BY, {})
    assert keys_of(signing) == before


def test_a_host_of_a_fleet_does_not_rotate_alone(signing):
    with pytest.raises(DeploymentError, match=r"on the master: salt-run django\.rotate_secret_key blog"):
        rotation.rotate_secret_key("blog")
