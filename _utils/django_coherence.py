"""Whether the pillar, the proxy and the project's settings agree: each contradiction is a line with both sides."""

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import django_server
from django_site import Site


def contradictions(site: Site, said: Mapping[str, Any]) -> Iterator[str]:
    """What the settings of a release say against the pillar; the site works, but not for everybody or not everywhere.

    Args:
        said: what Django has said of its effective settings when it started.
    """
    domains = site.config["domains"]
    if not all(_is_allowed(domain, said["allowed_hosts"]) for domain in domains):
        yield f"ALLOWED_HOSTS is {said['allowed_hosts']}, which has not every domain of the site"
    if said["media_root"] and said["media_root"].rstrip("/") != str(site.media):
        yield f"MEDIA_ROOT is {said['media_root']}, not {site.media}: uploads are not served"
    yield from _of_cookies(site, said.get("cookies", {}))
    prefix, path = said.get("script_name"), site.config["path"].rstrip("/")
    if prefix is not None and prefix.rstrip("/") != path:
        yield f"FORCE_SCRIPT_NAME is {prefix!r}, and the site's path is {path or '/'!r}: links lead to the former"
    yield from _of_times(site, said.get("timeouts", {}))


def _is_allowed(domain: str, hosts: Sequence[str]) -> bool:
    """Whether Django's ALLOWED_HOSTS has a domain; a name with a dot before it has those below it too."""
    return any(
        host in ("*", domain) or (host.startswith(".") and f".{domain}".endswith(host.lower())) for host in hosts
    )


def _of_cookies(site: Site, cookies: Mapping[str, Any]) -> Iterator[str]:
    """Cookies that no browser sends back: of another domain, or by https only where there is none."""
    secure = [name for name, value in cookies.items() if name.endswith("_SECURE") and value]
    if secure and not site.https and not site.config["proxy"]["trusted"]:
        names = " and ".join(secure)
        yield (
            f"browsers send what {names} {'are' if len(secure) > 1 else 'is'} about by https only, and the site has no "
            "tls; where a proxy before this one speaks https, name it in proxy:trusted"
        )
    for name, value in cookies.items():
        for domain in site.config["domains"] if name.endswith("_DOMAIN") and value else ():
            if not f".{domain}".endswith(f".{value.lstrip('.')}"):
                yield f"{name} is {value}, which {domain} is not below: browsers refuse the cookie there"


def _of_times(site: Site, timeouts: Mapping[str, float]) -> Iterator[str]:
    """Databases that are waited for longer than the server gives a request."""
    limit = django_server.of_site(site).timeout(site)
    for name, seconds in timeouts.items():
        if seconds > limit:
            yield f"{name} is {seconds:g} s, and a request is given up after {limit} s: who waits never learns why"
