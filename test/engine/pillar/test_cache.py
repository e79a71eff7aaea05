"""The part `cache`: what the pillar gives the host of a queue and caches, and the hosts that use them."""

from pathlib import Path
from typing import Any

import pytest
import yaml
from django_formula.pillar import compiler

ROOT = Path(__file__).parents[3]
SCHEMA = yaml.safe_load((ROOT / "django/schema.yaml").read_text())
PLATFORMS = yaml.safe_load((ROOT / "django/platforms.yaml").read_text())
HOSTS = {"web1": ["app"], "web2": ["app"], "cache1": ["cache"]}
ADDRESSES = {"web1": "10.0.0.1", "web2": "10.0.0.2", "cache1": "10.0.0.7", "cache2": "10.0.0.8", "lb1": "10.0.0.9"}
PEM = "-----BEGIN CERTIFICATE-----\nMIIB\n"
KEY = "-----BEGIN PRIVATE KEY-----\nMIIE\n"
SITE = {
    "repository": "https://git.example.org/blog.git",
    "revision": "main",
    "domains": ["blog.example.org"],
    "secret_key": "of-the-master-and-at-least-twenty-characters",
    "database": {"engine": "postgres", "host": "10.0.0.5", "name": "blog", "user": "blog", "password": "hunter2"},
    "media": {"shared": False},
}
REDIS = {"engine": "redis"}
PILLAR = "django:sites:blog"


def site(host: str, hosts: dict[str, Any], **options: Any) -> dict[str, Any]:
    """The pillar of a site as the master gives it to a host."""
    parts = hosts.get(host, [])
    passwords = {"cache": "hunter2-and-more"} if {"app", "worker"} & {*parts} else {}
    passwords |= {"redis": "ab" * 32} if "cache" in parts else {}
    fleet = {"commit": "", "sequence": 0, "held": [], "addresses": ADDRESSES, "passwords": passwords}
    fleet |= {"certificates": {name: PEM for name in hosts if "cache" in hosts[name]}}
    fleet |= {"key": KEY} if "cache" in parts else {}
    return {**SITE, "hosts": hosts, "fleet": fleet, **options}


def on(host: str, hosts: dict[str, Any] = HOSTS, sites: dict[str, Any] | None = None, **options: Any) -> dict[str, Any]:
    """What a host compiles."""
    grains = {"os_family": "Debian", "osmajorrelease": 12, "init": "systemd", "id": host}
    given = sites or {"blog": site(host, hosts, **options)}
    return compiler.compile({"django": {"sites": given}}, SCHEMA, PLATFORMS, grains)


def test_hosts_use_the_queue_and_cache_of_their_host_by_tls() -> None:
    found = on("web2", queue={**REDIS, "port": 6390}, cache=REDIS)
    assert found["errors"] == [] and found["stores"] == {"blog": []} and found["served"] == {}
    blog = found["sites"]["blog"]
    there = {"host": "10.0.0.7", "user": "blog", "tls": True, "ca": "/srv/django/blog/trusted/cache1.pem"}
    there |= {"password": {"pillar": f"{PILLAR}:fleet:passwords:cache"}, "memory": None, "sync": None}
    cache = blog["caches"]["default"]
    assert there.items() <= blog["queue"].items() and there.items() <= cache.items()
    assert blog["queue"]["port"] == 6390 and 20_000 <= cache["port"] < 30_000
    assert blog["fleet"]["trusted"] == {"cache1": {"pillar": f"{PILLAR}:fleet:certificates:cache1"}}
    assert "stores" not in blog["fleet"] and "given" not in blog["fleet"]
    assert on("web1", queue={**REDIS, "port": 6390}, cache=REDIS)["sites"]["blog"]["caches"] == blog["caches"]


def test_the_host_of_the_queue_knows_its_clients_and_a_hash() -> None:
    found = on("cache1", {**HOSTS, "lb1": ["balancer"]}, queue=REDIS, caches={"default": REDIS, "pages": REDIS})
    assert found["errors"] == [] and [*found["absent"]] == [*found["served"]] == ["blog"]
    stores = found["served"]["blog"]["fleet"]["stores"]
    assert [*stores["servers"]] == ["queue", "cache", "cache_pages"] and stores["clients"] == ["10.0.0.1", "10.0.0.2"]
    assert stores["password"] == {"pillar": f"{PILLAR}:fleet:passwords:redis"}
    assert stores["certificate"] == {"pillar": f"{PILLAR}:fleet:certificates:cache1"}
    assert stores["key"] == {"pillar": f"{PILLAR}:fleet:key"}
    queue, cache = stores["servers"]["queue"], stores["servers"]["cache"]
    assert (queue["sync"], queue["memory"], cache["sync"], cache["memory"]) == ("everysec", "256M", "never", "64M")
    assert len({store["port"] for store in stores["servers"].values()}) == 3
    used = on("web1", {**HOSTS, "lb1": ["balancer"]}, queue=REDIS, caches={"default": REDIS, "pages": REDIS})
    assert used["sites"]["blog"]["queue"]["port"] == queue["port"]


def test_a_host_may_serve_the_site_and_have_its_cache() -> None:
    found = on("web1", {"web1": ["app", "cache"], "web2": ["app"]}, cache=REDIS)
    assert found["errors"] == [] and [*found["sites"]] == [*found["served"]] == ["blog"] and found["absent"] == {}
    blog = found["sites"]["blog"]
    assert blog["caches"]["default"]["host"] == "10.0.0.1" and blog["fleet"]["stores"]["clients"][0] == "10.0.0.1"


def test_a_host_of_a_site_that_is_absent_serves_nothing() -> None:
    found = on("cache1", queue=REDIS, state="absent")
    assert found["errors"] == [] and found["served"] == {} and "stores" not in found["absent"]["blog"]["fleet"]


WRONG: dict[str, tuple[str, dict[str, Any], dict[str, Any], list[str]]] = {
    "nothing-to-serve": (
        "web1",
        HOSTS,
        {},
        [
            "hosts:cache1 — the part cache has nothing to serve: set queue or cache with engine: redis and without "
            "host",
        ],
    ),
    "served-elsewhere": (
        "web1",
        HOSTS,
        {"queue": {**REDIS, "host": "redis1"}},
        [
            "hosts:cache1 — the part cache has nothing to serve: set queue or cache with engine: redis and without "
            "host",
        ],
    ),
    "two": (
        "web1",
        {**HOSTS, "cache2": ["cache"]},
        {"cache": REDIS},
        ["hosts:cache2 — cache1 has the part cache already: a queue or cache is on one host"],
    ),
    "memcached": (
        "web1",
        HOSTS,
        {"cache": {"engine": "memcached"}},
        [
            "cache:engine — expected redis with a host with the part cache: Memcached has no logins, and would answer "
            "everybody in the network",
        ],
    ),
    "socket": (
        "web1",
        HOSTS,
        {"queue": REDIS, "environment": {"SOCKET": {"from": "queue_socket"}}},
        ["environment:SOCKET — queue_socket is not known: the queue is on a server elsewhere"],
    ),
    "without-the-store": (
        "web1",
        HOSTS,
        {"cache": REDIS, "fleet": {"commit": "", "sequence": 0, "held": [], "addresses": ADDRESSES}},
        [
            "hosts:cache1 — the part cache needs its password and certificate from the master's store: set "
            "runner_dirs, pillar_dirs and ext_pillar in the master's configuration (docs/guides/fleet.md)",
        ],
    ),
    "client-without-address": (
        "cache1",
        {**HOSTS, "web2": ["app"]},
        {
            "cache": REDIS,
            "fleet": {
                **site("cache1", HOSTS)["fleet"],
                "addresses": {**ADDRESSES, "web2": ""},
            },
        },
        ["hosts:web2 — its address is not known to the master yet: let it apply once more, or set address"],
    ),
    "sessions": (
        "web1",
        HOSTS,
        {"cache": REDIS, "sessions": "cache"},
        [
            "sessions — the cache has no file, so that a restart would log everybody out: set sync: everysec there, or "
            "sessions: cached_db",
        ],
    ),
}


@pytest.mark.parametrize(("host", "hosts", "options", "errors"), WRONG.values(), ids=[*WRONG])
def test_what_cannot_be_is_named(host: str, hosts: Any, options: dict[str, Any], errors: list[str]) -> None:
    assert on(host, hosts, **options)["errors"] == [f"{PILLAR}:{line}" for line in errors]


@pytest.mark.parametrize("host", ["web1", "cache1"])
def test_stores_of_a_host_have_different_ports(host: str) -> None:
    one = site(host, HOSTS, queue={**REDIS, "port": 6390})
    other = {**site(host, HOSTS, queue={**REDIS, "port": 6390}), "domains": ["shop.example.org"]}
    text = "expected another port: 6390 of 10.0.0.7 is that of the queue of blog"
    assert on(host, sites={"blog": one, "shop": other})["errors"] == [f"django:sites:shop:queue:port — {text}"]
    both = on(host, sites={"blog": one, "shop": {**other, "queue": REDIS}})
    assert both["errors"] == []


def test_a_port_without_the_part_has_no_effect() -> None:
    hosts = {"web1": ["app"]}
    found = on("web1", hosts, queue={**REDIS, "port": 6390})
    text = "has no effect without host: the site's own server needs none"
    assert found["errors"] == [f"{PILLAR}:queue:port — {text}"]
