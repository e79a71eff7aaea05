"""The watch of a master in the pillar: who is one, and which channels get what is about several hosts."""

from typing import Any

import pytest
from django_formula.pillar import compiler, parts, states
from specimen import GRAINS, contract, three_keys

NOTIFY = {"ops": {"mail": ["ops@example.org"]}, "shop": {"url": "https://example.org", "sites": ["shop"]}}


def compiled(sites: dict[str, Any], watch: Any, name: str = "master1") -> dict[str, Any]:
    pillar = {"django": {"sites": sites, "watch": watch, "notify": NOTIFY}}
    found = compiler.compile(pillar, contract("schema.yaml"), contract("platforms.yaml"), {**GRAINS, "id": name})
    assert found["errors"] == []
    return found


def test_master_without_sites_is_watched_and_any_other_host_is_not():
    found = compiled({}, {"fleet": "master1"})
    watch = found["watch"]["watch"]
    assert (watch["fleet"], watch["is_master"], watch["deploys"]) == ("master1", True, [])
    assert watch["channels"]["ops"]["fleet"] == [] and watch["channels"]["shop"]["fleet"] == ["shop"]
    assert parts.order(found) == ["sync", "watch"]
    [(_name, state)] = states.parts(found, GRAINS, {})["watch"].items()
    assert '"is_master": true' in str(state)
    for name, options in (("web9", {"fleet": "master1"}), ("master1", {}), ("master1", False)):
        assert compiled({}, options, name)["watch"] is None


@pytest.mark.parametrize("name", ["web1", "master1"])
def test_every_host_knows_who_tells_and_only_the_master_does(name):
    site = {**three_keys(), "notify": {"ops": None}}
    watch = compiled({"blog": site}, {"fleet": "master1"}, name)["watch"]["watch"]
    assert (watch["fleet"], watch["is_master"]) == ("master1", name == "master1")
    assert watch["channels"]["ops"].get("but") == (["blog"] if name == "master1" else None)
