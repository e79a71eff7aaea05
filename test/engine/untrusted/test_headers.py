import re
from pathlib import Path

import pytest
from django_formula.proxy import proxies, site_files
from django_formula.untrusted import headers
from specimen import FACTS, formula_templates

#: What nginx, Apache, HAProxy, Traefik, CDNs and proxies for logins send, and what django-ipware reads.
KNOWN = """
    X-Real-IP Forwarded X-Forwarded-Host X-Forwarded-Port X-Forwarded-Ssl X-Forwarded-Prefix X-Forwarded-Server
    X-Forwarded-User X-Scheme X-Url-Scheme Front-End-Https X-Script-Name Script-Name Remote-User X-Remote-User
    Remote-Addr X-Client-IP Client-IP True-Client-IP CF-Connecting-IP X-Cluster-Client-IP Fastly-Client-IP Proxy
    X-Original-URL X-Rewrite-URL X-Accel-Redirect X-Accel-Mapping X-Accel-Buffering X-Sendfile X-Sendfile-Type
    X-Forwarded Forwarded-For
"""


def test_every_known_header_is_removed():
    assert {*KNOWN.split()} <= {*headers.REMOVED}
    assert len({*headers.REMOVED}) == len(headers.REMOVED)
    assert not {*headers.SET} & {*headers.REMOVED}


def test_the_document_has_each_that_is_removed():
    page = (Path(__file__).parents[3] / "docs/guides/proxy.md").read_text()
    section = re.search(r"\n## Headers that no visitor can set\n(.*?)\n## ", page, re.DOTALL)
    assert section and {*re.findall(r"(?m)`([A-Z][\w-]*)`[,\n]", section[1])} >= {*headers.REMOVED}


def test_headers_of_the_pillar_are_not_removed():
    said = {"headers": {"x-real-ip": "1"}, "trusted_headers": ["X-Forwarded-User"]}
    kept = {*headers.REMOVED} - {*headers.removed(said)}
    assert kept == {"X-Real-IP", "X-Forwarded-User"}


def test_spellings_with_underscores():
    found = headers.underscored(["X-Real-IP", "Proxy", "Client-IP"])
    assert sorted(found) == ["Client_IP", "X-Real_IP", "X_Real-IP", "X_Real_IP"]


@pytest.mark.parametrize("kind", ["nginx", "apache"])
@pytest.mark.parametrize("server", [{"kind": "uwsgi"}, {"kind": "gunicorn"}, {"kind": "uvicorn"}], ids=str)
def test_every_way_to_an_application_removes_each(make_site, kind, server):
    """In each location of a site, and nothing is there twice, which nginx warns of."""
    site = make_site(server=server, proxy={"kind": kind, "locations": {"/a/": {}, "/b": {}}})
    proxy = proxies.configured(site)
    text = site_files.files_of_site(site, FACTS, formula_templates())[proxy.locations(site)]
    patterns = {"apache": r"RequestHeader (?:unset|set) (\S+)", "nginx": r"proxy_set_header (\S+)"}
    pattern = r"uwsgi_param (HTTP_\S+)" if (kind, server["kind"]) == ("nginx", "uwsgi") else patterns[kind]
    names = [name.upper().replace("-", "_").removeprefix("HTTP_") for name in re.findall(pattern, text)]
    wanted = [name.upper().replace("-", "_") for name in [*headers.SET, *headers.REMOVED]]
    assert {*wanted} <= {*names}
    if kind == "nginx":
        assert all(names.count(name) == 3 for name in wanted)


def is_inert(content_type):
    return re.search("^" + headers.INERT, content_type, re.IGNORECASE) is not None


@pytest.mark.parametrize(
    "content_type",
    ["image/png", "IMAGE/JPEG", "image/x-icon", "video/mp4", "audio/mpeg", "application/pdf", "text/plain; charset=x"],
)
def test_uploads_that_no_browser_shows_as_a_document_with_markup(content_type):
    assert is_inert(content_type)


@pytest.mark.parametrize(
    "content_type",
    [
        *("", "text/html", "text/html; charset=utf-8", "image/svg+xml", "application/xhtml+xml", "text/xml"),
        *("application/rss+xml", "text/javascript", "text/plain+xml", "image/png, text/html", "image/pngx"),
        *("video/x+xml", "multipart/related", "message/rfc822", "application/pdfx", "xtext/plain"),
    ],
)
def test_all_others_are_in_a_sandbox(content_type):
    assert not is_inert(content_type)
    assert headers.DOCUMENT_POLICY.startswith("sandbox; default-src 'none'; ")
