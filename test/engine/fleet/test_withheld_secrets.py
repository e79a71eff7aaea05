"""Which secrets of a site's pillar the master gives to which host, and that the others need none of them."""

import copy
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml
from django_formula.fleet import secrets
from django_formula.fleet.secrets import USES, WITHHELD
from django_formula.pillar import compiler
from django_formula.pillar.check import resolve

ROOT = Path(__file__).parents[3]
SCHEMA = yaml.safe_load((ROOT / "django/schema.yaml").read_text())
PLATFORMS = yaml.safe_load((ROOT / "django/platforms.yaml").read_text())
EXAMPLE = yaml.safe_load((ROOT / "examples/fleet.sls").read_text())["django"]["sites"]["blog"]
PARTS = {"web1": ["app"], "jobs1": ["worker"], "db1": ["database", "cache"], "lb1": ["balancer"]}
SECRETS: dict[str, Any] = {
    "deploy_key": "-----BEGIN OPENSSH PRIVATE KEY-----\nKEY\n",
    "index": {"url": "https://pypi.example.org/simple", "user": "reader", "password": "KEY"},
    "secret_key": "KEY" * 10,
    "secrets": {"TOKEN": "KEY", "FILE": {"value": "KEY", "as": "file"}, "OWN": {"generate": 20}},
    "email": {"host": "mail.example.org", "user": "blog", "password": "KEY", "from": "blog@example.org"},
    "tls": {"kind": "files", "certificate": "-----BEGIN CERTIFICATE-----\nTLS\n", "key": "-----BEGIN KEY-----\nTLS\n"},
}


def secrets_of(rules: Any, path: tuple[str, ...] = ()) -> Iterator[tuple[str, ...]]:
    """The paths of what the schema says is a secret."""

    if rules.get("secret"):
        yield path
    for name, one in rules.get("properties", {}).items():
        yield from secrets_of(one, (*path, name))
    if isinstance(rules.get("additionalProperties"), dict):
        yield from secrets_of(rules["additionalProperties"], (*path, "*"))


def test_each_secret_of_the_schema_has_the_parts_that_use_it() -> None:
    sites = resolve(SCHEMA, SCHEMA)["properties"]["django"]["properties"]["sites"]["additionalProperties"]
    given_by_master = {("fleet",)}
    found = {path for path in secrets_of(sites) if path[:1] not in given_by_master and path != ("secrets",)}
    assert found == {*USES}


def site(**more: Any) -> dict[str, Any]:
    return {**copy.deepcopy(EXAMPLE), **SECRETS, "hosts": {name: {"parts": its} for name, its in PARTS.items()}, **more}


def merged(lower: Any, upper: Any) -> Any:
    if not isinstance(lower, dict) or not isinstance(upper, dict):
        return upper
    return {**lower, **{name: merged(lower.get(name), one) for name, one in upper.items()}}


def of_host(given: dict[str, Any], name: str) -> dict[str, Any]:
    every = {part for parts in PARTS.values() for part in parts}
    return dict(merged(given, secrets.withheld_of_site(given, PARTS.get(name, []), every)))


@pytest.mark.parametrize(
    ("name", "expected"),
    [("web1", {"KEY"}), ("jobs1", {"KEY"}), ("db1", set()), ("lb1", {"TLS", "password-for"}), ("other", set())],
)
def test_host_gets_the_secrets_of_its_parts(name: str, expected: set[str]) -> None:
    text = str(of_host(site(), name))
    assert {one for one in ("KEY\\n", "KEYKEY", "'KEY'") if one in text} == (
        {"KEY\\n", "KEYKEY", "'KEY'"} if "KEY" in expected else set()
    )
    assert {one for one in ("TLS", "password-for") if one in text} == expected - {"KEY"}
    assert "OWN" in text and (WITHHELD in text)


@pytest.mark.parametrize("name", PARTS)
def test_pillar_without_secrets_of_other_parts_is_as_correct(name: str) -> None:
    """What contradicts itself is found on each host alike, whatever is withheld from it."""
    addresses = {one: f"10.0.0.{number}" for number, one in enumerate(PARTS, 1)}
    certificates = {"db1": "-----BEGIN CERTIFICATE-----\nx\n"}
    passwords = dict.fromkeys(("database", "cache", "redis", "postgres"), "x" * 30)
    known = {"addresses": addresses, "certificates": certificates, "passwords": passwords, "keys": {}}
    given = site(fleet={**known, "key": "-----BEGIN KEY-----\nx\n", "secrets": {"OWN": "x" * 20}})
    grains = {"os_family": "Debian", "os": "Debian", "osmajorrelease": 12, "init": "systemd", "id": name}
    for pillar in (given, of_host(given, name)):
        compiled = compiler.compile({"django": {"sites": {"blog": pillar}}}, SCHEMA, PLATFORMS, grains)
        assert compiled["errors"] == []
        used = compiled["sites" if name in ("web1", "jobs1") else "balanced" if name == "lb1" else "served"]
        assert WITHHELD not in str(used["blog"]) or name not in ("web1", "jobs1")


def test_default_is_withheld_where_no_site_of_the_host_uses_it() -> None:
    defaults = {"email": {"password": "KEY"}, "index": {"password": "sdb://vault/index"}}
    withheld = {"email": {"password": WITHHELD}}
    for sites, expected in (
        ([(["balancer"], ["app", "balancer"]), ([], ["app"])], withheld),
        ([(["balancer"], ["app", "balancer"]), (["worker"], ["worker"])], {}),
        ([(["balancer"], ["app", "balancer"]), None], {}),
    ):
        assert secrets.withheld_of_defaults(defaults, sites) == expected
