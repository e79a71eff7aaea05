"""How the page is served: the files of each proxy, and the password that the host does not have."""

import os
from pathlib import Path

import pytest
from django_formula.page import serve
from django_formula.proxy import nginx, proxies
from django_formula.tls import certificates, renewal
from specimen import configured, formula_templates

PASSWORD = "correct horse"


@pytest.mark.parametrize("proxy", ["nginx", "apache"])
@pytest.mark.parametrize("tls", ["none", "self_signed"])
def test_server_is_the_one_that_was_reviewed(monkeypatch, own_host, proxy, tls):
    monkeypatch.setattr(nginx, "version", lambda: (1, 26))
    site = renewal.with_domain(configured(proxy={"kind": proxy}, tls={"kind": tls}), "status.example.org")
    files = serve._files(site, formula_templates())
    text = next(text for path, text in files.items() if text and "for the page of this host" in text)
    text = text.replace(str(own_host), "")
    golden = Path(__file__).with_name(f"served-{proxy}-{tls}.conf")
    if os.environ.get("UPDATE"):
        golden.write_text(text)
    assert text == golden.read_text()


@pytest.mark.parametrize(("listen", "port"), [(80, ""), ("192.0.2.1:8080", ":8080")])
def test_url_of_the_page_has_its_port(listen, port):
    site = renewal.with_domain(configured(proxy={"kind": "nginx", "listen": [listen]}), "status.example.org")
    assert proxies.origin(site) == f"http://status.example.org{port}"


@pytest.fixture
def passwords(tmp_path, monkeypatch):
    monkeypatch.setattr(serve, "PASSWORDS", tmp_path / "page.htpasswd")
    return tmp_path / "page.htpasswd"


def test_password_is_kept_as_its_hash(passwords):
    assert not serve._has_password("team", PASSWORD)
    serve._keep_password("team", PASSWORD, "root")
    assert passwords.read_text().startswith("team:$6$") and PASSWORD not in passwords.read_text()
    assert passwords.stat().st_mode & 0o777 == 0o640
    assert serve._has_password("team", PASSWORD)
    assert not serve._has_password("team", "another") and not serve._has_password("ops", PASSWORD)


@pytest.mark.parametrize("given", ["$6$abcdefgh$" + "x" * 86, "$2y$10$" + "x" * 53])
def test_hash_of_the_pillar_is_kept_as_it_is(passwords, given):
    serve._keep_password("team", given, "root")
    assert passwords.read_text() == f"team:{given}\n" and serve._has_password("team", given)
    assert not serve._has_password("team", given[:-1] + "y")


def test_certificate_of_the_page_is_renewed_with_those_of_its_site(monkeypatch, tmp_path, make_site):
    monkeypatch.setattr(renewal, "PAGE", tmp_path / "page.json")
    site = make_site(tls={"kind": "self_signed"})
    asked = []
    monkeypatch.setattr(renewal.sites, "find", lambda _name: site)
    monkeypatch.setattr(
        certificates, "missing", lambda one, *_more, **_options: asked.append(certificates.domains(one)) or {}
    )
    monkeypatch.setattr(type(site), "kept_templates", lambda _self: {})
    renewal.renew(site)
    renewal.keep_page({"domain": "status.example.org", "site": "blog", "kind": "nginx"})
    renewal.renew(site)
    assert asked == [["blog.example.org"], ["blog.example.org"], ["status.example.org"]]


def test_host_without_a_page_has_nothing_to_remove(monkeypatch, tmp_path, passwords):
    monkeypatch.setattr(renewal, "PAGE", tmp_path / "page.json")
    assert serve.retire(None, test=False) == {}
