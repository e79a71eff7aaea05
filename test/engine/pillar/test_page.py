"""How the page is compiled: like which site it is served, and that a host without one has nothing of it."""

import json

import pytest
from django_formula.pillar import compiler, states
from specimen import GRAINS, contract, three_keys

PASSWORD = "correct horse"
PAGE = {"domain": "status.example.org", "password": PASSWORD}


def compiled(page, watch=None, **options):
    sites = {name: {**three_keys(name), **options.get(name, {})} for name in ("blog", "shop", "wiki")}
    pillar = {"django": {"sites": sites, "page": page, "watch": watch}}
    result = compiler.compile(pillar, contract("schema.yaml"), contract("platforms.yaml"), GRAINS)
    assert result["errors"] == []
    return result


def made(result):
    found = states.parts(result, {**GRAINS, "init": "systemd"}, contract("pythons.yaml"))
    return found["watch"] | found["site"]


@pytest.mark.parametrize(
    ("page", "options", "site"),
    [
        (PAGE, {}, "blog"),
        (PAGE, {"shop": {"tls": {"kind": "self_signed"}}}, "shop"),
        (PAGE, {"blog": {"proxy": {"kind": "none"}}}, "shop"),
        (PAGE, {"blog": {"state": "absent"}}, "shop"),
        ({**PAGE, "site": "wiki"}, {"shop": {"tls": {"kind": "self_signed"}}}, "wiki"),
    ],
)
def test_page_is_served_like_a_site(page, options, site):
    result = compiled(page, **options)
    assert result["page"]["site"]["name"] == site
    assert result["page"]["password"] == {"pillar": "django:page:password"} and PASSWORD not in json.dumps(result)
    state = {key: value for one in made(result)["The page is served"]["django.page"] for key, value in one.items()}
    assert state["require"] == [{"django": "nginx runs"}]


def test_page_without_a_domain_is_written_and_not_served():
    result = compiled({})
    assert result["page"] is None and result["watch"]["watch"]["page"] is True
    assert "The page is served" not in made(result)


def test_host_without_a_page_has_nothing_of_it():
    result = compiled(None)
    assert result["page"] is None and result["watch"]["watch"]["page"] is False
    assert "The page is served" not in made(result)
    assert not any("page" in one for one in made(result)["The host is watched"]["django.watch"])


def test_page_of_all_hosts_is_on_the_master_alone():
    page = {**PAGE, "hosts": "all"}
    here = compiled(page, {"fleet": GRAINS["id"]})
    assert here["page"]["site"]["name"] == "blog" and here["watch"]["watch"]["page_of"] == "all"
    there = compiled(page, {"fleet": "master1"})
    assert there["page"] is None and there["watch"]["watch"]["page"] is False
    assert "page_of" not in compiled(PAGE)["watch"]["watch"]


def test_no_site_waits_for_the_page():
    found = made(compiled(PAGE))
    assert list(found)[-1] == "The page is served"
    assert "The page is served" not in json.dumps([state for name, state in found.items() if "page" not in name])
