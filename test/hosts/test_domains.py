"""Domains and paths that move between the sites of a host: one apply, and each request is answered by a site of it."""

import json
import random
from collections.abc import Callable
from contextlib import ExitStack
from typing import Any

import certificates
import pytest
from client import Load
from sites import Site, release_of, version

pytestmark = pytest.mark.full

NAMES = ["blog", "forum", "shop", "wiki"]


@pytest.fixture(scope="module", params=["nginx", "apache"])
def sites(
    request: pytest.FixtureRequest, module_hosts: Callable[..., Any], repositories: Callable[..., Any]
) -> list[Site]:
    """Two sites that live; each has a version of its own, by which its responses are known."""
    host = module_hosts(kind="ready")
    found: list[Site] = []
    for name in NAMES[:2]:
        repository = repositories(host, f"/srv/git/{name}.git")
        repository.commit(version(name))
        neighbour = found[0] if found else None
        options = {"proxy": {"kind": request.param}, "releases": {"keep": 2, "watch": "1s"}}
        found.append(Site(host, repository, name, neighbour=neighbour, **options))
    found[0].deploy()
    return found


def answers(site: Site, domain: str, path: str = "", *, secure: bool = False) -> str:
    """Which site answers for a domain."""
    if secure:
        return str(
            json.loads(certificates.ask(site.host.address, domain, f"{path}/release", root=None).body)["version"]
        )
    return str(site.host.http(f"{path}/release", domain).json()["version"])


def test_two_sites_change_their_domains_by_one_apply(sites: list[Site]) -> None:
    blog, forum = sites
    domains = [site.domain for site in sites]
    with ExitStack() as stack:
        loads = [stack.enter_context(ask(blog, domain)) for domain in domains]
        for load in loads:
            load.wait(10)
        blog.configure(domains=[domains[1]])
        forum.deploy(domains=[domains[0]])
        for load in loads:
            load.wait(10)
    assert [answers(blog, domain) for domain in domains] == ["forum", "blog"]
    for load, own in zip(loads, (["blog", "forum"], ["forum", "blog"]), strict=True):
        assert load.failed == [] and load.releases == own
    assert not blog.apply().changed


def test_sites_keep_their_domains_where_one_of_them_is_not_released(sites: list[Site]) -> None:
    blog, forum = sites
    before = {domain: answers(blog, domain) for site in sites for domain in site.options["domains"]}
    forum.repository.commit({"guestbook/version.py": "VERSION =\n"})
    blog.configure(domains=forum.options["domains"])
    applied = forum.apply(
        domains=["blog.example.org"] if before["blog.example.org"] == "blog" else ["forum.example.org"]
    )
    assert "blog has its domains" in applied.failed, applied
    failure = applied.failed["blog has its domains"]
    assert "change as soon as forum is released with its new domains" in failure
    assert "the sites keep the domains that they have" in failure
    assert {domain: answers(blog, domain) for domain in before} == before
    (status,) = blog.host.call("django.status", "blog")
    assert "as soon as forum is released" in status["unreached"]
    forum.repository.commit(version("forum"))
    blog.deploy()
    assert {domain: answers(blog, domain) for domain in before} == {
        domain: {"blog": "forum", "forum": "blog"}[name] for domain, name in before.items()
    }


#: How many arrangements follow one another; each is a release of up to four sites. test_proxy_move.py has 200 of them.
ROUNDS = 5
DOMAINS = [f"{letter}.example.org" for letter in "abcd"]


def test_any_arrangement_of_four_sites_follows_by_one_apply(
    sites: list[Site], repositories: Callable[..., Any]
) -> None:
    four, chance = [*sites], random.Random(36)
    for name in NAMES[2:]:
        repository = repositories(four[0].host, f"/srv/git/{name}.git")
        repository.commit(version(name))
        options = {key: four[0].options[key] for key in ("proxy", "releases")}
        four.append(Site(four[0].host, repository, name, neighbour=four[0], **options))
    before: dict[str, set[str]] = {}
    for turn in range(ROUNDS):
        after = arrange(four, chance)
        with ExitStack() as stack:
            loads = {domain: stack.enter_context(ask(four[0], domain)) for domain in before}
            four[0].deploy()
        for domain, load in loads.items():
            assert {*load.releases} <= before[domain] | after.get(domain, set()), (turn, domain, load.releases)
        for domain, names in after.items():
            paths = {site.name: site.path for site in four if site.name in names}
            secure = any("tls" in site.options for site in four if site.name in names)
            found = {name: answers(four[0], domain, path, secure=secure) for name, path in paths.items()}
            assert found == {name: name for name in names}, (turn, domain)
        assert not four[0].apply().changed, turn
        before = after


def arrange(four: list[Site], chance: random.Random) -> dict[str, set[str]]:
    """Give sites the domains by chance, one of them below a path of another one's; return the names of each domain."""
    owners = dict(zip(DOMAINS, chance.sample(four, len(four)), strict=True))
    below = chance.choice([None, *four])
    found = {domain: {site.name} for domain, site in owners.items()}
    for domain, site in owners.items():
        tls = chance.choice([None, {"kind": "self_signed"}])
        site.configure(domains=[domain], path=None, tls=tls)
    if below:
        domain = chance.choice([domain for domain, site in owners.items() if site is not below])
        found = {name: names for name, names in found.items() if below.name not in names}
        found[domain].add(below.name)
        below.configure(domains=[domain], path="/below", tls=owners[domain].options.get("tls"))
    return found


def ask(site: Site, domain: str, path: str = "") -> Load:
    """A load on a domain that notes which site answers."""
    return Load(f"http://{site.host.address}{path}/release", domain, connections=2, release=of_version)


def of_version(body: bytes) -> str | None:
    """The version in a response of `/release`; that of the site."""
    return str(json.loads(body)["version"]) if release_of(body) else None
