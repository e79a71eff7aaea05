"""What a health page answers, and which key of the pillar, or setting of the project, corrects it."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple
from urllib.parse import urlsplit

from django_formula.host import file
from django_formula.knowledge import cause, hints
from django_formula.server import servers
from django_formula.site import domains
from django_formula.site.sites import Site
from django_formula.untrusted.text import in_pillar

#: How the hint begins where nothing is known of a cause.
GENERAL = "correct the project, or set "


class Finding(NamedTuple):
    """What a health page answered.

    Attributes:
        problem: what is wrong with it; empty when it is healthy.
        path: the path of the last request.
        status: its status, where there is a problem with that.
        target: the URL of a redirect that was not followed.
        said: the short text that came with an unexpected status, as health pages report what is wrong.
    """

    problem: str
    path: str = ""
    status: int = 0
    target: str = ""
    said: str = ""


def page(site: Site) -> str:
    """Return the path of the health page, below that of the site."""
    return f"{site.config['path'].rstrip('/')}{site.config['health']['path']}"


def hint(site: Site, release: Path, found: Finding, raised: str = "") -> str:
    """Return what to do about the answer of a health page.

    Args:
        raised: the exception that the page raises.
    """
    at = site.at
    facts = (file.read_json(release / "release.json") or {}).get("facts") or {}
    known = cause.hint(site, raised, facts) if raised else ""
    if known:
        return known
    if found.target:
        return _of_redirect(site, facts, found)
    if found.status == 400 and not _allows(site, facts):
        domain = site.canonical
        return (
            f"ALLOWED_HOSTS is {facts['allowed_hosts']}, without {domain}: add it, or correct {at}:domains; "
            f"the setting is {hints.setting(site, 'ALLOWED_HOSTS')}"
        )
    if found.status in (401, 403):
        return (
            f"set {at}:health:path to a page without a login, {at}:health:headers to what it requires, or "
            f"{at}:health:status: {in_pillar([*site.config['health']['status'], found.status])}"
        )
    if found.status == 404:
        above = f"/{found.path.split('/')[1]}"
        is_below = site.config["path"] == "/" and str(facts.get("static_url", "")).startswith(f"{above}/")
        path = (
            f"{at}:path: {in_pillar(above)}, below which the project has its static files too, or " if is_below else ""
        )
        return f"the project has no page {found.path}: set {path}{at}:health:path to one that it has"
    if found.status == 405:
        server = f", or, where its ASGI module serves websockets only, {at}:server: {{kind: uwsgi}}"
        is_asgi = servers.configured(site).interface(site) == "asgi"
        return f"the project answers no GET at {found.path}: set {at}:health:path to a page{server if is_asgi else ''}"
    if found.said:
        return f"{GENERAL}{at}:health:path to a page that does not depend on what this one reports"
    return f"{GENERAL}{at}:health (path, status, contains, timeout)"


def _of_redirect(site: Site, facts: Mapping[str, Any], found: Finding) -> str:
    """Return what to do about a redirect: to https, to http, in a circle, or to another host."""
    at, target = site.at, urlsplit(found.target)
    if not domains.has(site.config["domains"], target.hostname):
        return (
            f"add {target.hostname} to {at}:domains if it is a name of this site, correct the setting that redirects "
            f"there, or set {at}:health:path to a page without the redirect"
        )
    https = facts.get("https") or {}
    passes = f"{at}:health:headers: {in_pillar({_scheme_header(https): 'https'})}"
    if target.scheme == "https" and site.scheme == "http":
        setting = hints.setting(site, "SECURE_SSL_REDIRECT")
        switch_off = f"switch SECURE_SSL_REDIRECT off ({setting}), or " if https.get("redirect") else ""
        return (
            f"the project redirects to https, and the site has no tls: set {at}:tls; where a proxy in front has the "
            f"certificate, set {at}:proxy:trusted to its address and {passes}; "
            f"or {switch_off}set {at}:health:path to a page without the redirect"
        )
    if found.problem.startswith("redirected to"):
        return f"correct the project, or set {at}:health:path to a page without the redirect"
    if https.get("redirect") and site.scheme == "https":
        header = hints.setting(site, "SECURE_PROXY_SSL_HEADER")
        return (
            "SECURE_SSL_REDIRECT is on, and the project takes a request over https for one over http: set "
            f"{header} to [HTTP_X_FORWARDED_PROTO, https], or {passes}"
        )
    return f"the page redirects in a circle: correct the project, or set {at}:health:path to another page"


def _scheme_header(https: Mapping[str, Any]) -> str:
    """Return the header by which the project recognises requests over https."""
    name = str(https.get("header") or "HTTP_X_FORWARDED_PROTO").removeprefix("HTTP_")
    return name.replace("_", "-").title()


def _allows(site: Site, facts: Mapping[str, Any]) -> bool:
    """Return whether the project's ALLOWED_HOSTS has the domain of the request, as far as it is known."""
    domain = f".{site.canonical}"
    hosts = facts.get("allowed_hosts", ["*"])
    return any(host == "*" or f".{host}" == domain or (host[:1] == "." and domain.endswith(host)) for host in hosts)
