"""A host that answers in place of a site, in the ways of served.yaml: the apply and the status say which file it is."""

import json
from pathlib import Path
from typing import Any

import certificates
import pytest
import requests
import yaml
from conftest import Hosts, Repositories, live_site
from sites import Site

WAYS = yaml.safe_load(Path(__file__).with_name("served.yaml").read_text())
USUAL = ["an earlier file of conf.d has the name"]
PEM = "/var/lib/django-formula/certificates/blog.example.org.pem"


def of(proxy: str) -> list[Any]:
    return [
        pytest.param(way, id=way["way"], marks=() if way["way"] in USUAL else pytest.mark.full)
        for way in WAYS
        if way.get("proxy", "nginx") == proxy
    ]


@pytest.fixture(scope="module")
def blog(module_hosts: Hosts, repositories: Repositories) -> Site:
    """A site with a domain that is redirected."""
    return live_site(module_hosts, repositories, redirect_domains=["www.example.org"])


@pytest.fixture(scope="module")
def secure(module_hosts: Hosts, repositories: Repositories) -> Site:
    return live_site(module_hosts, repositories, tls={"kind": "self_signed"})


@pytest.fixture(scope="module")
def behind_apache(module_hosts: Hosts, repositories: Repositories) -> Site:
    return live_site(module_hosts, repositories, proxy={"kind": "apache"})


def write(site: Site, way: dict[str, Any], etc: str, main: str) -> list[str]:
    """Put what a way adds on the host; return its paths."""
    paths = []
    for path, text in way.get("files", {}).items():
        paths.append(f"{etc}/{path}")
        site.host.write(paths[-1], text.replace("ADDRESS", site.host.address).replace("PEM", PEM))
    if "main" in way:
        text = site.host.read(f"{etc}/{main}")
        assert way["main"][0] in text, text
        site.host.write(f"{etc}/{main}", text.replace(*way["main"]))
    return paths


def judge(site: Site, way: dict[str, Any], etc: str, main: str, daemon: str) -> None:
    before = site.host.read(f"{etc}/{main}")
    paths = write(site, way, etc, main)
    try:
        site.host.run(f"systemctl reload-or-restart {daemon}")
        (status,) = site.host.call("django.status", site.name)
        applied = site.apply()
        assert applied.ok and {*applied.changed} <= {"nginx runs"}, applied  # another default server comes and goes
        said = str(applied.warnings)
        if way["answers"] == "the site":
            assert status["unreached"] == "" and "do not reach" not in said, (status["unreached"], said)
            return
        expected = "is not served" if way["answers"] == "nothing" else f"is answered by {etc}/{way['answers']}"
        for text in (status["unreached"], said):
            assert expected in text and way.get("says", "").replace("ADDRESS", site.host.address) in text, text
    finally:
        site.host.write(f"{etc}/{main}", before)
        site.host.run(["rm", "-f", *paths])
        site.host.run(f"systemctl reload-or-restart {daemon}")


@pytest.mark.parametrize("way", of("nginx"))
def test_what_answers_in_place_of_a_site_is_named(request: pytest.FixtureRequest, way: dict[str, Any]) -> None:
    site = request.getfixturevalue("secure" if "ssl" in str(way) else "blog")
    judge(site, way, "/etc/nginx", "nginx.conf", "nginx")


@pytest.mark.parametrize("way", of("apache"))
def test_what_answers_in_place_of_a_site_behind_apache_is_named(behind_apache: Site, way: dict[str, Any]) -> None:
    judge(behind_apache, way, "/etc/apache2", "apache2.conf", "apache2")


def test_apply_that_finds_the_proxy_unchanged_asks_it_nothing(blog: Site) -> None:
    """One after a change asks it once, and `django.status` each time."""
    blog.host.write("/usr/local/sbin/nginx", '#!/bin/sh\necho "nginx $*" >>/run/asked\nexec /usr/sbin/nginx "$@"\n')
    blog.host.run("chmod 0755 /usr/local/sbin/nginx")

    in_hand = "state established state close-wait '( sport = :80 or sport = :443 )'"

    def asked() -> tuple[int, int]:
        """How often nginx has printed its configuration, and answered the formula, since the last call."""
        counted = (
            "touch /run/asked; grep -c -e -T /run/asked; cat /var/log/nginx/*.log | grep -c '\"django-formula\"'; true"
        )
        # nginx writes a request's line when its client may have gone, and ends the connection then.
        blog.host.run(f"while ss -Htn {in_hand} | grep -q .; do sleep 0.1; done")
        read, requested = blog.host.run(counted).stdout.split()
        blog.host.run("rm /run/asked; for log in /var/log/nginx/*.log; do : >$log; done")
        return int(read), int(requested)

    try:
        assert blog.apply().ok
        asked()
        assert not blog.apply().changed and asked() == (0, 0)
        blog.host.run("touch /etc/nginx/nginx.conf")
        assert not blog.apply().changed
        read, requested = asked()  # by IPv4, and by IPv6 where the host has it
        assert read == 1 and requested in (1, 2)
        blog.host.call("django.status", "blog")
        assert asked() == (1, requested)
        assert not blog.apply().changed and asked() == (0, 0)
    finally:
        blog.host.run(["rm", "-f", "/usr/local/sbin/nginx", "/run/asked"])


@pytest.mark.full
def test_site_that_another_server_hides_is_refused_before_nginx_reads_it(blog: Site) -> None:
    host, other = blog.host, "/etc/nginx/conf.d/other.conf"
    host.write(other, f"server {{\n    listen {host.address}:80;\n    return 200 theirs;\n}}\n")
    host.run(["systemctl", "reload", "nginx"])
    shop = Site(host, blog.repository, "shop", neighbour=blog)
    failure = shop.apply().failed["shop is served"]
    where = f"shop.example.org on {host.address} port 80"
    assert f"{where} is answered by {other}:1" in failure and "remove that server" in failure
    assert "shop" not in host.run("ls -R /etc/nginx").stdout
    host.run(["rm", other])
    shop.deploy()
    assert shop.get("/").status_code == blog.get("/").status_code == 200
    (status,) = host.call("django.status", "shop")
    assert status["unreached"] == ""


@pytest.mark.full
def test_directive_that_nginx_refuses_is_named_by_its_key(blog: Site) -> None:
    applied = blog.apply(proxy={"options": {"gzip_comp_level": "99"}})
    (failure,) = (text for text in applied.failed.values() if "nginx refuses" in text)
    assert "correct django:sites:blog:proxy:options:gzip_comp_level, from which that line is" in failure
    last = applied.states[-1]
    assert last.function == "django.outcome" and failure.splitlines()[0] in last.comment
    assert blog.get("/").status_code == 200
    blog.deploy(proxy=None)


@pytest.mark.full
@pytest.mark.parametrize("fixture", ["secure", "behind_apache"])
def test_wildcard_and_a_name_below_it_are_two_sites(request: pytest.FixtureRequest, fixture: str) -> None:
    tenants: Site = request.getfixturevalue(fixture)
    host = tenants.host
    tenants.deploy(domains=["*.example.org"], tls={"kind": "self_signed"})
    options = {key: tenants.options[key] for key in ("proxy", "tls") if key in tenants.options}
    shop = Site(host, tenants.repository, "shop", neighbour=tenants, **options)
    shop.deploy()
    assert shop.live != tenants.live
    root = host.read("/var/lib/django-formula/authority/root.pem")

    def release(name: str) -> str:
        return str(json.loads(certificates.ask(host.address, name, "/release", root=root).body)["release"])

    assert release("shop.example.org") == shop.live
    assert release("a.example.org") == release("b.example.org") == tenants.live
    redirect = host.http("/x?y=1", "a.example.org")
    assert (redirect.status_code, redirect.headers["Location"]) == (301, "https://a.example.org/x?y=1")
    for site in (tenants, shop):
        (status,) = host.call("django.status", site.name)
        assert status["unreached"] == "", status["unreached"]
    assert not tenants.apply().changed
    shop.sites["shop"] = {"state": "absent"}
    tenants.deploy()
    assert release("shop.example.org") == tenants.live
    del tenants.sites["shop"]
    tenants.deploy(domains=["blog.example.org"])
    assert "wildcard" not in host.run("ls -R /etc/nginx /etc/apache2 /var/lib/django-formula", check=False).stdout


def test_proxy_that_may_not_connect_is_no_served_site(blog: Site) -> None:
    """As with a profile of AppArmor that forbids it: nginx has the files, and returns 502."""
    blog.host.run(f"chmod 700 /run/django/{blog.name}")
    try:
        assert blog.get("/").status_code == 502
        (status,) = blog.host.call("django.status", blog.name)
        assert "returns 502, and the instance 200" in status["unreached"]
    finally:
        blog.host.run(f"chmod 751 /run/django/{blog.name}")
    with pytest.raises(requests.ConnectionError):
        blog.host.http("/", "unknown.example.org")
    (status,) = blog.host.call("django.status", blog.name)
    assert status["unreached"] == ""


@pytest.mark.full
def test_long_domain_is_served_and_a_path_without_a_site_is_404(blog: Site) -> None:
    domain = f"{'a-long-name-of-a-shop-' * 2}in-the-main-street.example.org"
    shop = Site(blog.host, blog.repository, "stall", neighbour=blog, domains=[domain], path="/stall")
    shop.deploy()
    assert shop.get("/").status_code == 200 and not blog.apply().changed
    for path in ("/", "/index.html", "/nothing"):
        assert blog.host.http(path, domain).status_code == 404, path
    moved = blog.host.http("/stall?a=b", domain)
    assert (moved.status_code, moved.headers["Location"]) == (301, "/stall/?a=b")
    shop.options["domains"] = ["stall.example.org"]
    shop.deploy()
    assert blog.host.run(["test", "-e", "/etc/nginx/conf.d/django-names.conf"], check=False).returncode
