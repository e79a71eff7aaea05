"""The rotation of the secret key of a site on several hosts that are played: what each accepts at any time."""

from collections.abc import Collection
from pathlib import Path
from typing import Any

import pytest
from django_formula.fleet.minions import Answer
from django_formula.fleet.rotation import Rotation
from django_formula.fleet.secrets import Keys
from django_formula.fleet.store import Store
from django_formula.host.commands import DeploymentError
from django_formula.secret.secrets import fingerprint
from engine.fleet.test_deployment import OLD, Played, World


class Signing(Played):
    """Hosts that sign with a key, and accept others.

    Attributes:
        files: the keys of each host's file, the one that it signs with first; runs: those of its running server.
        round: counts the deployments; fails only has an effect in `failing`, when that is set.
    """

    def __init__(self, names: Collection[str], keys: Keys):
        super().__init__(names)
        self.keys = keys
        self.files = {name: [keys.current()] for name in names}
        self.runs = dict(self.files)
        self.kept: dict[str, list[str]] = {}
        self.round, self.failing = 0, 0

    def ask(self, hosts: Collection[str], function: str, site: str, *arguments: Any, **options: Any) -> Any:
        self.round += function == "django_fleet.claim"
        fails = self.fails
        if self.failing and self.round != self.failing:
            self.fails = {}
        try:
            return super().ask(hosts, function, site, *arguments, **options)
        finally:
            self.fails = fails

    def check(self) -> None:
        for host, keys in self.runs.items():
            for other, accepted in self.runs.items():
                assert keys[0] in accepted, f"{other} does not accept what {host} signs"

    def _ready(self, host: str) -> dict[str, Any]:
        key, *others = map(fingerprint, self.files[host])
        return {**super()._ready(host), "key": key, "accepts": others, "has_keys": True, **self.differs.get(host, {})}

    def _resolve(self, _host: str, revision: str | None) -> dict[str, Any]:
        raise AssertionError("a rotation has the commit that is served")

    def _keys(self, host: str, deployment: str, by: str) -> None:
        assert self.claims[host] == deployment
        key, given, before = self.keys.current(), self.keys.given(), self.files[host]
        self.kept[host] = before
        found = [key, given.get("next"), *before]
        self.files[host] = [one for one in dict.fromkeys(found) if one]

    def _switch(self, host: str, *arguments: Any) -> dict[str, Any]:
        self.runs[host] = self.files[host]
        self.check()
        return super()._switch(host, *arguments)

    def _finish(self, host: str, *arguments: Any) -> None:
        self.kept.pop(host)
        super()._finish(host, *arguments)

    def _abandon(self, host: str, *arguments: Any) -> None:
        self.files[host] = self.runs[host] = self.kept.pop(host, self.files[host])
        self.check()
        super()._abandon(host, *arguments)


class Rotating(World):
    """A site that is released on its hosts."""

    hosts: Signing

    def __init__(self, folder: Path):
        super().__init__(folder)
        self.keys = Keys(self.store)
        self.hosts = Signing(["web1", "web2", "web3"], self.keys)
        self.store.set_release({"commit": OLD, "sequence": 4, "held": []}, "before")
        self.old = self.keys.current()

    def rotation(self) -> Rotation:
        rotation = Rotation(self.store, self.hosts, "ops on master1", lambda phase, found: self.told.append(phase))
        self.number += 1
        rotation.id += f"-{self.number}"
        return rotation

    def signed_with(self) -> set[str]:
        return {keys[0] for keys in self.hosts.runs.values()}

    def assert_rotated(self) -> None:
        assert self.signed_with() == {self.keys.current()} != {self.old}
        assert self.keys.given() == {"1": self.old}
        assert all(self.old in keys for keys in self.hosts.runs.values())
        assert self.store.release()["commit"] == OLD and not self.hosts.claims


@pytest.fixture
def world(tmp_path: Path) -> Rotating:
    return Rotating(tmp_path)


def test_every_host_accepts_the_new_key_before_one_signs_with_it(world: Rotating) -> None:
    world.rotation().rotate_secret_key()
    world.assert_rotated()
    once = [*("claim", "keys", "prepare", "migrate", "start", "expect"), *["switch"] * 3, "finish", "expect"]
    assert world.hosts.verbs() == ["ready", "backend", *once, "ready", "backend", *once]
    world.rotation().rotate_secret_key()
    assert [*world.keys.given()] == ["1", "2"] and world.keys.given()["2"] == world.old
    assert len(world.signed_with()) == 1


@pytest.mark.parametrize("is_lost", [False, True])
@pytest.mark.parametrize("host", ["web1", "web3"])
@pytest.mark.parametrize("verb", ["claim", "keys", "prepare", "start", "switch"])
@pytest.mark.parametrize("turn", [1, 2])
def test_a_failure_leaves_the_old_key_and_the_next_call_goes_on(
    world: Rotating, turn: int, verb: str, host: str, is_lost: bool
) -> None:
    world.fail(host, verb, "no space left on device", is_lost=is_lost)
    world.hosts.failing = turn
    with pytest.raises(DeploymentError, match=f"{host}: no space left on device"):
        world.rotation().rotate_secret_key()
    assert world.signed_with() == {world.old} == {world.keys.current()}
    begun = world.keys.given()
    assert [*begun] == ([] if turn == 1 else ["next"])
    world.hosts.fails.clear()
    if is_lost:  # as an apply does it, once it answers
        world.hosts.claims.pop(host, None)
    world.rotation().rotate_secret_key()
    world.assert_rotated()
    assert turn == 1 or world.keys.current() == begun["next"]


@pytest.mark.parametrize("switched", [[], ["web1"], ["web1", "web2", "web3"]], ids=len)
def test_what_a_killed_runner_has_begun_is_gone_on_with(world: Rotating, switched: list[str]) -> None:
    following = world.keys.begin()
    for host in world.hosts.files:
        world.hosts.files[host] = [world.old, following]
    if switched:
        world.keys.promote()
    for host in switched:
        world.hosts.files[host] = [following, world.old]
    world.hosts.runs = dict(world.hosts.files)
    world.rotation().rotate_secret_key()
    assert world.keys.current() == following or len(switched) == 3, "a rotation that was complete is another one"
    assert world.signed_with() == {world.keys.current()}


def test_an_interrupted_rotation_is_taken_back(world: Rotating, monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupted(*_arguments: Any) -> None:
        raise KeyboardInterrupt

    world.hosts.failing = 9
    prepare = world.hosts._prepare
    monkeypatch.setattr(world.hosts, "_prepare", lambda *a: interrupted() if world.hosts.round == 2 else prepare(*a))
    with pytest.raises(DeploymentError, match="interrupted by Ctrl-C"):
        world.rotation().rotate_secret_key()
    assert world.keys.current() == world.old and [*world.keys.given()] == ["next"]
    assert world.signed_with() == {world.old}


def test_a_release_that_is_live_on_all_hosts_keeps_its_key(world: Rotating) -> None:
    world.hosts.failing = 2
    world.fail("web2", "finish", "its disk is full")
    with pytest.raises(DeploymentError, match="web2: its disk is full"):
        world.rotation().rotate_secret_key()
    assert world.signed_with() == {world.keys.current()} != {world.old}


def test_what_cannot_be_rotated_says_what_to_do(world: Rotating) -> None:
    world.hosts.differs["web2"] = {"has_keys": False}
    with pytest.raises(DeploymentError) as failure:
        world.rotation().rotate_secret_key()
    text = str(failure.value)
    assert (
        "the pillar gives blog its secret key" in text and f"write that key to {world.store.folder}/secret_key" in text
    )
    world.hosts.differs.clear()
    world.store.set_release({"commit": "", "sequence": 0, "held": []})
    with pytest.raises(DeploymentError, match="have no release yet"):
        world.rotation().rotate_secret_key()
    assert {*world.hosts.verbs()} == {"ready", "backend"} and world.keys.given() == {}


def test_rotation_leaves_no_host_out(world: Rotating) -> None:
    world.hosts.fails["web2", "ready"] = Answer({}, "it does not answer", True)
    with pytest.raises(DeploymentError, match="web2: it does not answer") as refused:
        world.rotation().rotate_secret_key()
    assert refused.value.hint == "repair web2"


def test_hosts_that_do_not_accept_each_other_are_named(world: Rotating) -> None:
    world.hosts.files["web2"] = ["another key of its own"]
    with pytest.raises(DeploymentError) as failure:
        world.fleet().deploy(None)
    text = str(failure.value)
    assert "web1: it does not accept what web2 signs with another secret key: apply on both" in text
    assert "web2: it does not accept what web1 signs" in text


def test_hosts_that_do_not_accept_the_key_of_the_store_are_named(world: Rotating) -> None:
    (world.store.folder / "secret_key").write_text("of another hand, and long enough")
    with pytest.raises(DeploymentError, match="web2: it does not accept the store's key: apply on it"):
        world.rotation().rotate_secret_key()
    assert world.signed_with() == {world.old}


def test_a_former_key_that_no_host_accepts_any_more_is_forgotten(world: Rotating) -> None:
    world.rotation().rotate_secret_key()
    first = world.keys.current()
    world.rotation().rotate_secret_key()
    for keys in world.hosts.files.values():
        keys.remove(world.old)
    world.rotation().rotate_secret_key()
    assert world.old not in world.keys.given().values() and first in world.keys.given().values()


def test_keys_of_the_store_are_consistent_between_two_writes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    keys = Keys(Store(tmp_path / "store", "blog"))
    old, following = keys.current(), keys.begin()
    assert keys.begin() == following and keys.given() == {"next": following}
    seen: list[tuple[str, dict[str, str]]] = []
    write = Keys._write

    def watched(self: Keys, others: dict[str, Any]) -> None:
        write(self, others)
        seen.append((self.current(), self.given()))

    monkeypatch.setattr(Keys, "_write", watched)
    keys.promote()
    assert keys.current() == following and keys.given() == {"1": old}
    keys.take_back()
    assert keys.current() == old and keys.given() == {"next": following}
    assert all({key, *given.values()} == {old, following} for key, given in seen), seen
    keys.give_up()
    assert keys.given() == {}
    for path in keys._store.folder.iterdir():
        assert path.is_dir() or path.stat().st_mode & 0o777 in (0o600, 0o644 if path.name == ".writing.lock" else 0o600)


def test_a_key_that_a_person_has_written_may_end_with_a_line(tmp_path: Path) -> None:
    store = Store(tmp_path / "store", "blog")
    store.make()
    (store.folder / "secret_key").write_text("k" * 50 + "\n")
    assert Keys(store).current() == "k" * 50


def test_a_damaged_file_of_other_keys_gives_none(tmp_path: Path) -> None:
    keys = Keys(Store(tmp_path / "store", "blog"))
    keys.current()
    (keys._store.folder / "other_keys.json").write_text('{"next": 7}')
    assert keys.given() == {}
    assert Answer({}) and keys.begin()
