"""Domains that move between the sites of a host change at once, and only when every one of these sites is released."""

import random
from collections.abc import Callable, Iterator
from types import SimpleNamespace
from typing import Any

import pytest
from django_formula.host import commands, config_files, daemons
from django_formula.host.commands import DeploymentError
from django_formula.proxy import moves, proxies, site_files, switch
from django_formula.release import releases
from django_formula.site import sites as site_sites
from django_formula.site.sites import Site
from specimen import FACTS, configured, formula_templates

NAMES = ["blog", "forum", "shop", "wiki"]
DOMAINS = [f"{letter}.org" for letter in "abcdef"]


def facts(site: Site) -> dict[str, Any]:
    """What is known of a release that was made for the site's path."""
    prefix = site.config["path"].rstrip("/")
    return {**FACTS, "static_url": f"{prefix}/static/", "media_url": f"{prefix}/media/"}


class Host:
    """The sites of a host: what the pillar has for them, and which of them are released as it has them."""

    def __init__(self, kind: str):
        self.kind = kind
        self.sites: dict[str, Site] = {}
        self.released: set[str] = set()

    def configure(self, name: str, **options: Any) -> Site:
        """A site with another pillar is not released yet where its domains or its path differ."""
        before = self.sites.get(name)
        self.sites[name] = site = configured(name, **{"proxy": {"kind": self.kind}, **options})
        keys = ("domains", "path")
        if not before or any(before.config[key] != site.config[key] for key in keys):
            self.released.discard(name)
        return site

    def files(self, name: str) -> config_files.Files:
        return moves.handover_files(self.sites[name], facts(self.sites[name]), formula_templates())

    def proxy(self, name: str) -> None:
        """The steps `live` and `proxy` of a site."""
        self.released.add(name)
        switch.apply(self.files(name))

    def present(self) -> dict[str, dict[str, str]]:
        return {name: moves.present(site) for name, site in self.sites.items()}

    def wanted(self) -> dict[str, dict[str, str]]:
        return {name: moves._wanted(site) for name, site in self.sites.items()}


@pytest.fixture(params=["nginx", "apache"])
def host(own_host: Any, monkeypatch: pytest.MonkeyPatch, request: pytest.FixtureRequest) -> Host:
    host = Host(request.param)
    monkeypatch.setattr(commands, "run", lambda argv, **_options: "")
    monkeypatch.setattr(daemons, "reload", lambda daemon: None)
    monkeypatch.setattr(daemons, "enable", lambda daemon: None)
    monkeypatch.setattr(site_sites, "registered", lambda: sorted(host.sites))
    monkeypatch.setattr(site_sites, "find", lambda name: host.sites[name])
    monkeypatch.setattr(Site, "kept_templates", lambda site: formula_templates())
    monkeypatch.setattr(releases, "linked", lambda site, link: SimpleNamespace(facts=facts(site), record={}))
    monkeypatch.setattr(moves, "_is_released", lambda site: site.name in host.released)
    return host


def test_two_sites_change_their_domains(host: Host) -> None:
    for name, domain in (("blog", "a.org"), ("shop", "b.org")):
        host.configure(name, domains=[domain])
        host.proxy(name)
    host.configure("blog", domains=["b.org"])
    host.configure("shop", domains=["a.org"])
    assert moves.leaving(host.sites["blog"]) == ["a.org"], "its next release gets them until then"
    host.proxy("blog")
    waits = moves.pending_move(host.sites["blog"]).waits
    assert waits == "a.org, b.org change as soon as shop is released with its new domains"
    assert host.present() == {"blog": {"a.org": "/"}, "shop": {"b.org": "/"}}
    host.proxy("shop")
    assert host.present() == host.wanted() and not moves.pending_move(host.sites["blog"]).waits
    assert all(config_files.differences(host.files(name)) == {} for name in host.sites)


def test_site_whose_configuration_is_damaged_stops_no_change_of_addresses(
    host: Host, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its files stay as they are; where the proxy has to listen otherwise, those of other sites change too."""
    for name, domain in (("blog", "a.org"), ("shop", "b.org")):
        host.configure(name, domains=[domain])
        host.proxy(name)

    def find(name: str) -> Site:
        if name == "shop":
            raise DeploymentError("shop: its configuration is damaged")
        return host.sites[name]

    monkeypatch.setattr(site_sites, "find", find)
    site = host.configure("blog", domains=["a.org"], proxy={"kind": host.kind, "listen": ["127.0.0.1:80"]})
    host.proxy("blog")
    proxy = proxies.PROXIES[host.kind]
    assert "127.0.0.1:80" in proxy.server("a.org").read_text() and proxies.serving(site) is proxy
    assert "127.0.0.1:80" not in proxy.server("b.org").read_text()


def test_domain_is_not_closed_before_its_next_site_is_released(host: Host) -> None:
    host.configure("blog", domains=["a.org", "b.org"])
    host.proxy("blog")
    host.configure("blog", domains=["a.org"])
    host.configure("shop", domains=["b.org"])
    host.proxy("blog")
    assert host.present()["blog"] == {"a.org": "/", "b.org": "/"}
    host.proxy("shop")
    assert host.present() == host.wanted()


def test_domain_that_a_site_keeps_is_not_given_to_another_one(host: Host) -> None:
    """The step `site` of the one that has it has failed, so that it is configured as before."""
    host.configure("blog", domains=["a.org"])
    host.proxy("blog")
    host.configure("shop", domains=["a.org", "c.org"])
    host.proxy("shop")
    assert moves.pending_move(host.sites["shop"]).waits == "a.org belongs to both shop and blog"
    assert host.present() == {"blog": {"a.org": "/"}, "shop": {}}


def test_what_does_not_concern_the_domains_does_not_wait(host: Host) -> None:
    for name, domain in (("blog", "a.org"), ("shop", "b.org")):
        host.configure(name, domains=[domain])
        host.proxy(name)
    host.configure("blog", domains=["b.org"], media={"max_upload": "5M"})
    host.configure("shop", domains=["a.org"])
    host.proxy("blog")
    text = host.files("blog")[proxies.PROXIES[host.kind].locations(host.sites["blog"])]
    assert text and ("client_max_body_size 5M" in text or f"LimitRequestBody {5 << 20}" in text)
    assert host.present()["blog"] == {"a.org": "/"}


def test_sites_that_come_to_a_domain_do_not_wait_for_each_other(host: Host) -> None:
    host.configure("blog", domains=["a.org"])
    host.configure("shop", domains=["a.org"], path="/shop")
    host.proxy("blog")
    assert host.present()["blog"] == {"a.org": "/"}
    host.proxy("shop")
    assert host.present() == host.wanted()


def arrangement(chance: random.Random) -> dict[str, dict[str, Any]]:
    """A pillar of four sites: each domain has at most one site at a path, or is redirected by one site."""
    found: dict[str, dict[str, Any]] = {name: {"domains": [], "redirect_domains": []} for name in NAMES}
    paths = dict(zip(NAMES, chance.sample(["/", "/", "/", "/shop"], 4), strict=True))
    for name in NAMES:
        found[name]["path"] = paths[name]
        found[name]["tls"] = {"kind": chance.choice(["none", "none", "self_signed"])}
    top = [name for name in NAMES if paths[name] == "/"]
    below = [name for name in NAMES if paths[name] != "/"]
    for domain in DOMAINS:
        if chance.random() < 0.25:
            found[chance.choice(NAMES)]["redirect_domains"].append(domain)
            continue
        owner = chance.choice(top)
        found[owner]["domains"].append(domain)
        if found[below[0]]["tls"] == found[owner]["tls"] and chance.random() < 0.3:
            found[below[0]]["domains"].append(domain)
    for number, name in enumerate(NAMES):
        if not found[name]["domains"]:
            found[name]["domains"] = [f"own{number}.org"]
    return found


def moments(host: Host, chance: random.Random) -> Iterator[str]:
    for name in chance.sample(NAMES, len(NAMES)):
        host.proxy(name)
        yield name


def servers(host: Host) -> dict[str, set[tuple[str, str]]]:
    """Which sites a domain has, each with its path."""
    found: dict[str, set[tuple[str, str]]] = {}
    for name, domains in host.present().items():
        for domain, path in domains.items():
            found.setdefault(domain, set()).add((name, path))
    return found


def files_of(kind: str) -> dict[str, str | None]:
    etc = proxies.PROXIES[kind].etc
    every = [path for path in etc.rglob("*") if path.is_symlink() or path.is_file()]
    return {str(path.relative_to(etc)): config_files.read(path) for path in every if "mods-" not in str(path)}


@pytest.mark.parametrize(
    "seed", [pytest.param(seed, marks=() if seed < 8 else pytest.mark.full) for seed in range(100)]
)
def test_any_arrangement_follows_any_other_by_one_apply(host: Host, seed: int, clean: Callable[[], None]) -> None:
    """In each moment a domain has the sites of before or those of now, and in the end what a fresh host has."""
    chance = random.Random(seed)
    for name, options in arrangement(chance).items():
        host.configure(name, **options)
    for _name in moments(host, chance):
        pass
    assert host.present() == host.wanted()
    before = servers(host)
    for name, options in arrangement(chance).items():
        host.configure(name, **options)
    after: dict[str, set[tuple[str, str]]] = {}
    for name, domains in host.wanted().items():
        for domain, path in domains.items():
            after.setdefault(domain, set()).add((name, path))
    for name in moments(host, chance):
        now = servers(host)
        for domain, sites in now.items():
            old, new = before.get(domain, set()), after.get(domain, set())
            assert sites <= old | new, (name, domain)
            assert len({path for _site, path in sites}) == len(sites), f"{domain}: {sites}"
        gone = {domain for domain in before.keys() & after.keys() if domain not in now}
        assert not gone, f"closed after {name}: {gone}"
    assert host.present() == host.wanted()
    moved = files_of(host.kind)
    clean()
    for name in NAMES:
        host.proxy(name)
    assert moved == files_of(host.kind)


@pytest.fixture
def clean(host: Host) -> Callable[[], None]:
    """Removes what the proxy has."""

    def remove() -> None:
        for site in host.sites.values():
            switch.apply(site_files.absent(site))

    return remove
