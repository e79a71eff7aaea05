"""What the master adds to the pillar of a site's hosts, by its external pillar."""

import importlib.util
import json
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import salt.cache
import salt.key

ROOT = Path(__file__).parents[2]
GRAINS = {
    "web1": {"ipv4": ["127.0.0.1", "10.0.0.1"]},
    "web2": {"ipv4": ["127.0.0.1"], "ipv6": ["::1", "fe80::1", "2001:db8::2"]},
    "lb1": {"ipv4": ["10.0.0.9", "192.168.1.9"]},
}
HOSTS = {"web*": ["app"], "lb1": {"parts": ["balancer"]}}


@pytest.fixture
def pillar_of(tmp_path, monkeypatch):
    """The pillar of a minion: what is added to sites, for a master with the keys of web1, web2, web3 and lb1."""
    spec = importlib.util.spec_from_file_location("django_ext_pillar", ROOT / "_pillar/django.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    monkeypatch.setattr(module, "__opts__", {}, raising=False)
    monkeypatch.setattr(module, "__grains__", {"id": "master"}, raising=False)
    keys = SimpleNamespace(list_keys=lambda: {"minions": [*GRAINS, "web3"]})
    monkeypatch.setattr(salt.key, "get_key", lambda _opts: keys)
    cache = SimpleNamespace(fetch=lambda _bank, name: GRAINS.get(name))
    monkeypatch.setattr(salt.cache, "factory", lambda _opts: cache)

    def pillar(minion: str, sites: Any, **more: Any) -> dict[str, Any]:
        found = module.ext_pillar(minion, {"django": {"sites": sites, **more}}, str(tmp_path / "store"))
        return found.get("django", {}).get("sites", {})

    return pillar


def test_a_host_that_serves_gets_the_key_the_release_and_the_addresses(pillar_of, tmp_path):
    web1, web2 = (pillar_of(name, {"blog": {"hosts": HOSTS}})["blog"] for name in ("web1", "web2"))
    assert web1 == web2 and len(web1["secret_key"]) == 50
    assert web1["fleet"] == {
        **{"commit": "", "sequence": 0, "held": []},
        "addresses": {"lb1": "10.0.0.9", "web1": "10.0.0.1", "web2": "2001:db8::2", "web3": ""},
    }
    kept = json.loads((tmp_path / "store/blog/hosts.json").read_text())
    assert kept == {"lb1": ["balancer"], "web1": ["app"], "web2": ["app"], "web3": ["app"]}


def test_a_balancer_gets_no_key_and_a_key_of_the_pillar_is_left(pillar_of):
    assert "secret_key" not in pillar_of("lb1", {"blog": {"hosts": HOSTS}})["blog"]
    assert "secret_key" not in pillar_of("web1", {"blog": {"hosts": HOSTS, "secret_key": "mine"}})["blog"]


def test_hosts_of_the_defaults_are_those_of_each_site(pillar_of):
    found = pillar_of("web1", {"blog": {}, "shop": {"hosts": {"web2": ["app"]}}}, defaults={"hosts": {"web1": ["app"]}})
    assert {*found} == {"blog", "shop"} and {*found["shop"]["fleet"]["addresses"]} == {"web1", "web2"}


@pytest.mark.parametrize(
    "sites",
    [
        None,
        {},
        [],
        "blog",
        {"blog": None},
        {"blog": {}},
        {"blog": {"hosts": None}},
        {"blog": {"hosts": ["web1"]}},
        {"../x": {"hosts": HOSTS}},
        {1: {"hosts": HOSTS}},
    ],
    ids=str,
)
def test_sites_without_hosts_and_mistakes_get_nothing(pillar_of, tmp_path, sites):
    assert pillar_of("web1", sites) == {}
    assert not (tmp_path / "store").exists()


@pytest.mark.parametrize("parts", [None, "app", {"parts": "app"}, 7])
def test_a_part_in_a_wrong_form_makes_no_host(pillar_of, parts):
    assert "secret_key" not in pillar_of("web1", {"blog": {"hosts": {"web1": parts}}})["blog"]
