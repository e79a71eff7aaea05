"""Wildcards among the domains of a site: the names of their files, their certificates, and who answers for them."""

import json

import pytest
from django_formula.deploy import coherence
from django_formula.host import commands
from django_formula.proxy import apache, nginx, proxies, reach
from django_formula.release import settings as release_settings
from django_formula.site import domains as site_domains
from django_formula.tls import certificates
from specimen import configured


def test_wildcards_come_after_names_and_longer_ones_first():
    domains = ["*.org", "*.example.org", "zzz.org", "*.a.b.example.org", "*.z.example.org", "a.example.org"]
    ordered = sorted(domains, key=site_domains.file_name)
    assert ordered == ["a.example.org", "zzz.org", "*.a.b.example.org", "*.z.example.org", "*.example.org", "*.org"]
    names = [*map(site_domains.file_name, domains)]
    assert [*map(site_domains.of_file, names)] == domains
    assert [*map(site_domains.file_name, names)] == names and "*" not in "".join(names)


@pytest.mark.parametrize(
    ("name", "expected"),
    [("a.example.org", True), ("a.b.example.org", True), ("example.org", False), ("b.org", True), (None, False)],
)
def test_name_is_a_domain_or_below_a_wildcard(name, expected):
    assert site_domains.has(["*.example.org", "b.org"], name) is expected


def test_settings_have_a_wildcard_as_django_writes_it(tmp_path):
    site = configured(
        domains=["*.example.org", "b.org"],
        tls={"kind": "self_signed"},
        environment={"HOSTS": {"from": "domains", "join": ","}},
    )
    data = json.loads(release_settings.overlay(site, tmp_path, "x"))
    assert data["always"]["ALLOWED_HOSTS"] == [".example.org", "b.org"]
    assert data["https"] == ["https://*.example.org", "https://b.org"]
    facts = {"commit": "1", "settings_module": "x", "folder": ".", "python_path": []}
    assert release_settings.environment(site, tmp_path, facts)["HOSTS"] == ".example.org,b.org"
    assert site.canonical == "health-check.example.org"


@pytest.mark.parametrize(
    ("hosts", "is_allowed"), [([".example.org"], True), (["*"], True), (["a.example.org"], False), ([".org"], True)]
)
def test_project_that_refuses_a_wildcard_is_a_warning(hosts, is_allowed):
    site = configured(domains=["*.example.org"])
    settings = {"allowed_hosts": hosts, "media_root": "", "static_url": "/s/", "media_url": "/m/", "static_root": ""}
    found = [text for text in coherence.contradictions(site, settings) if "ALLOWED_HOSTS" in text]
    assert bool(found) is not is_allowed


@pytest.mark.parametrize(
    ("names", "expected"), [(["*.example.org"], True), (["example.org", "a.example.org"], False), (["*.org"], False)]
)
def test_certificate_covers_a_wildcard_by_the_same_one_only(names, expected):
    assert certificates.Certificate(names, (), (), 0, 1).covers("*.example.org") is expected


def test_files_of_a_wildcard_do_not_belong_to_other_names(own_host, monkeypatch):
    monkeypatch.setattr(certificates, "STATE", own_host / "state")
    for path in ("certificates/a.example.org.pem", "acme/x/a.example.org/cert.pem", "acme/x/example.org/cert.pem"):
        (own_host / "state" / path).parent.mkdir(parents=True, exist_ok=True)
        (own_host / "state" / path).touch()
    assert certificates.belongings("*.example.org") == []
    certificates.path_of("*.example.org").touch()
    assert certificates.belongings("*.example.org") == [own_host / "state/certificates/~wildcard7.example.org.pem"]


OWN = "server { listen 80; server_name *.example.org; }\n"


@pytest.mark.parametrize(
    ("text", "wins"),
    [
        ("server { listen 80; server_name .example.org; }\n", True),
        ("server { listen 80; server_name *.example.org; }\n", True),
        ("server { listen 80; server_name shop.example.org; }\n", False),
        ("server { listen 80; server_name ~^.*$; }\n", False),
        ("server { listen 80; server_name *.org; }\n", False),
        ("server { listen 80; server_name *.eu.example.org; }\n", False),
        ("server { listen 80 default_server; server_name _; }\n", False),
        ("server { listen 192.0.2.7:80; }\n", True),
    ],
)
def test_who_answers_for_a_wildcard_by_the_rules_of_nginx(own_host, monkeypatch, text, wins):
    etc = nginx.ETC
    own, other = etc / "sites-enabled/~wildcard7.example.org", etc / "conf.d/other.conf"
    parts = {
        etc / "nginx.conf": f"http {{ include {etc}/conf.d/*; include {etc}/sites-enabled/*; }}\n",
        other: text,
        own: OWN,
    }
    dump = "".join(f"# configuration file {path}:\n{content}\n" for path, content in parts.items())
    for path, content in parts.items():
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(content)
    monkeypatch.setattr(commands, "run", lambda argv, **_options: dump)
    monkeypatch.setattr(proxies, "serving", lambda site: proxies.PROXIES["nginx"])
    found = reach.rivals(configured(domains=["*.example.org"]))
    assert [rival.server.path for rival in found if rival.server] == ([str(other)] if wins else [])
    if wins:
        assert str(found[0]).startswith("*.example.org on ")


def test_who_answers_for_a_wildcard_by_the_rules_of_apache():
    text = """
*:80  is a NameVirtualHost
         default server shop.example.org (/etc/apache2/sites-enabled/shop.example.org.conf:1)
         port 80 namevhost shop.example.org (/etc/apache2/sites-enabled/shop.example.org.conf:1)
         port 80 namevhost health-check.example.org (/etc/apache2/sites-enabled/~wildcard7.example.org.conf:1)
                 wild alias *.example.org
"""
    servers = apache._virtual_hosts(text)
    chosen = apache.PROXY.chosen
    assert chosen(servers, "shop.example.org", []).path.endswith("/shop.example.org.conf")
    assert chosen(servers, "a.example.org", []).path.endswith("/~wildcard7.example.org.conf")
