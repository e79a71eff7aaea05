"""Whether the pillar, the proxy and the project's settings agree: each contradiction is a line with both sides."""

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import django_proxy_headers
import django_proxy_nginx
import django_server
from django_site import Site

#: The option by which a server gives a request longer, where it has one.
_PATIENCE = {"uwsgi": "harakiri", "gunicorn": "timeout"}


def contradictions(site: Site, said: Mapping[str, Any]) -> Iterator[str]:
    """What the settings of a release say against the pillar; the site works, but not for everybody or not everywhere.

    Args:
        said: what Django has said of its effective settings when it started.
    """
    domains = site.config["domains"]
    if not all(_is_allowed(domain, said["allowed_hosts"]) for domain in domains):
        yield f"ALLOWED_HOSTS is {said['allowed_hosts']}, which has not every domain of the site"
    if said["media_root"] and Path(said["media_root"]) != site.media.top:
        yield f"MEDIA_ROOT is {said['media_root']}, not {site.media}: uploads are not served"
    yield from _of_cookies(site, said.get("cookies", {}))
    yield from _of_https(site, said.get("https", {}))
    yield from _of_origins(site, said.get("trusted_origins", ()))
    yield from _of_paths(site, said)
    yield from _of_sizes(site, said.get("largest_body"))
    yield from _of_times(site, said.get("timeouts", {}))


def _is_allowed(domain: str, hosts: Sequence[str]) -> bool:
    """Whether Django's ALLOWED_HOSTS has a domain; a name with a dot before it has those below it too."""
    patterns = [host.lower() for host in hosts]
    return any(host in ("*", domain) or (host.startswith(".") and f".{domain}".endswith(host)) for host in patterns)


def _setting(site: Site, name: str) -> str:
    """Where in the pillar a setting of the project is given another value."""
    return f"django:sites:{site.name}:{f'settings:{name}' if site.config['overlay'] else 'environment'}"


def _of_cookies(site: Site, cookies: Mapping[str, Any]) -> Iterator[str]:
    """Cookies that no browser sends back: of another domain, or by https only where there is none."""
    secure = [name for name, value in cookies.items() if name.endswith("_SECURE") and value]
    if secure and not _may_be_https(site):
        names = " and ".join(secure)
        yield (
            f"browsers send what {names} {'are' if len(secure) > 1 else 'is'} about by https only, and the site has no "
            "tls; where a proxy before this one speaks https, name it in proxy:trusted"
        )
    for name, value in cookies.items():
        for domain in site.config["domains"] if name.endswith("_DOMAIN") and value else ():
            if not f".{domain}".endswith(f".{value.lower().lstrip('.')}"):
                yield (
                    f"{name} is {value}, which {domain} is not below: browsers refuse the cookie there; "
                    f"correct {_setting(site, name)}"
                )


def _may_be_https(site: Site) -> bool:
    """Whether visitors may come by https: to the site's proxy, or to somebody else's before it or in its place."""
    return bool(site.https or site.config["proxy"]["trusted"] or not _is_ours(site))


def _of_https(site: Site, https: Mapping[str, Any]) -> Iterator[str]:
    """A redirect to https where nobody speaks it, or where Django never learns that the visitor has come by it."""
    # (a header that is not about proxies comes from the visitor's side as it is)
    header = https.get("header")
    learns = header not in (None, "HTTP_X_FORWARDED_PROTO")
    removed = {django_proxy_headers.meta(name): name for name in django_proxy_headers.removed(site.config["proxy"])}
    if _is_ours(site) and header in removed:
        name, at = removed[header], f"django:sites:{site.name}:proxy"
        yield (
            f"SECURE_PROXY_SSL_HEADER is {header}, and the proxy removes {name} from requests: use "
            f"HTTP_X_FORWARDED_PROTO, or name {name} in {at}:trusted_headers and the proxy that sends it in "
            f"{at}:trusted"
        )
    if https.get("redirect") and not _may_be_https(site) and not learns:
        at = f"django:sites:{site.name}"
        yield (
            "SECURE_SSL_REDIRECT leads every visitor to https, and the site has no tls, so they meet nobody, or the "
            f"same redirect again: {at}:tls; where a proxy before this one speaks https, {at}:proxy:trusted names it"
        )


def _of_origins(site: Site, origins: Sequence[str]) -> Iterator[str]:
    """Origins that no page of the site has; which others it trusts beside its own is the project's matter."""
    domains = site.config["domains"]
    own = [origin for origin in origins if any(_is_allowed(domain, [_host(origin)]) for domain in domains)]
    if origins and not own:
        yield (
            f"CSRF_TRUSTED_ORIGINS is {list(origins)}, which has no domain of the site ({', '.join(domains)}); "
            f"correct {_setting(site, 'CSRF_TRUSTED_ORIGINS')}"
        )
    plain = [origin for origin in own if origin.lower().startswith("http://")]
    if plain and site.https:
        yield (
            f"CSRF_TRUSTED_ORIGINS has {' and '.join(plain)}, and the site is served by https only; "
            f"correct {_setting(site, 'CSRF_TRUSTED_ORIGINS')}"
        )


def _host(origin: str) -> str:
    """The host of an origin, in the words of ALLOWED_HOSTS; before Django 4 an origin has no scheme."""
    return origin.rpartition("://")[2].partition(":")[0].removeprefix("*")


def _of_paths(site: Site, said: Mapping[str, Any]) -> Iterator[str]:
    """Links that lead to another path than that of the site, and paths of files that hide each other."""
    at = f"django:sites:{site.name}"
    prefix, path = said.get("script_name"), site.config["path"].rstrip("/")
    if prefix is not None and prefix.rstrip("/") != path:
        yield (
            f"FORCE_SCRIPT_NAME is {prefix!r}, and the site's path is {path or '/'!r}: links lead to the former; "
            f"correct {_setting(site, 'FORCE_SCRIPT_NAME')}, or {at}:path"
        )
    static, media = (str(said.get(key, "")) for key in ("static_url", "media_url"))
    if said.get("collected") is None or not _is_here(static) or not _is_ours(site):
        return
    if static.rstrip("/") in ("", path):
        yield (
            f"STATIC_URL is {static!r}, and the site's path is {path or '/'!r}: no static files are served there; "
            f"correct {_setting(site, 'STATIC_URL')}"
        )
    elif _is_here(media) and media.strip("/") and (static.startswith(media) or media.startswith(static)):
        yield (
            f"MEDIA_URL is {media!r}, and STATIC_URL is {static!r}: what lies below both is found in one of them only; "
            f"correct {_setting(site, 'MEDIA_URL')}, or STATIC_URL"
        )


def _is_ours(site: Site) -> bool:
    """Whether the proxy of the site is of the formula."""
    return bool(site.config["proxy"]["kind"] != "none")


def _is_here(url: str) -> bool:
    """Whether a URL is a path of this host."""
    return url.startswith("/") and not urlsplit(url).netloc


def _of_sizes(site: Site, largest: int | None) -> Iterator[str]:
    """A project that takes larger requests than the proxy lets through; Django counts no files, and may take less."""
    said = [site.config["media"]["max_upload"]]
    parts = site.config["proxy"]["locations"].values()
    said += [part[name] for part in parts for name in ("client_max_body_size", "LimitRequestBody") if name in part]
    limits = [size for size in map(django_proxy_nginx.size, said) if size is not None]
    if largest and _is_ours(site) and 0 not in limits and largest > max(limits):
        yield (
            f"DATA_UPLOAD_MAX_MEMORY_SIZE is {largest} bytes, and the proxy takes no request over {said[0]}: "
            f"django:sites:{site.name}:media:max_upload"
        )


def _of_times(site: Site, timeouts: Mapping[str, float]) -> Iterator[str]:
    """Databases that are waited for longer than the server gives a request."""
    at, limit = f"django:sites:{site.name}", django_server.of_site(site).timeout(site)
    option = _PATIENCE.get(site.config["server"]["kind"])
    longer = f", or a longer {at}:server:options:{option}" if option else ""
    for name, seconds in timeouts.items():
        if seconds > limit:
            yield (
                f"{name} is {seconds:g} s, and a request is given up after {limit} s: who waits never learns why; "
                f"say a shorter one in {_options(site, name)}{longer}"
            )


def _options(site: Site, name: str) -> str:
    """Where the options of a database are said, of which this is one."""
    for alias, database in site.config["databases"].items():
        if database["engine"] and name.startswith(f"DATABASES[{alias!r}]"):
            is_alone = alias == "default" and len(site.config["databases"]) == 1
            return f"django:sites:{site.name}:{'database' if is_alone else f'databases:{alias}'}:options"
    return "the project"
