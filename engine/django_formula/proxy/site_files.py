"""The files of a site for its proxy: those that it needs, and those that are removed."""

import re
from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from django_formula.host import config_files, ports
from django_formula.host import template as host_template
from django_formula.host.commands import DeploymentError
from django_formula.host.config_files import OURS, Files
from django_formula.kind.kinds import FILES
from django_formula.process import command
from django_formula.proxy import proxies as proxy_proxies
from django_formula.proxy import waiting
from django_formula.proxy.contract import Proxy
from django_formula.server import servers as server_servers
from django_formula.site import domains as site_domains
from django_formula.site.sites import Site
from django_formula.tls import certificates
from django_formula.untrusted import headers


def files_of_site(
    site: Site,
    facts: Mapping[str, Any],
    templates: Mapping[str, str],
    through: Path | None = None,
    *,
    upcoming: bool = False,
) -> Files:
    """Return every file that the site's proxy needs; files of its former domains and of other proxies are None.

    Args:
        site: the site.
        facts: of the release: ``static_url``, ``media_url``, ``collected``.
        templates: their texts.
        through: the release that is reached; without it `current`, whatever release that points to.
        upcoming: whether the files are those of the next release, whose server is as the pillar describes it.
    """
    return together([part(site, facts, templates, through, upcoming=upcoming)])


def part(
    site: Site,
    facts: Mapping[str, Any],
    templates: Mapping[str, str],
    through: Path | None = None,
    *,
    upcoming: bool = False,
) -> Files:
    """Return what a site has in those files by itself, for `together`; the arguments are those of `of_site`."""
    own = proxy_proxies.configured(site)
    files: Files = {}
    for proxy in proxy_proxies.PROXIES.values():
        files |= _present(proxy, site, facts, templates, through, upcoming) if proxy is own else _absent(proxy, site)
    return files


def together(parts: Collection[Files]) -> Files:
    """Return the files of several sites; what one of them has is not removed for another one.

    Raises:
        DeploymentError: one of them would answer for another one.
    """
    files: Files = {path: None for one in parts for path, text in one.items() if text is None}
    files |= {path: text for one in parts for path, text in one.items() if text is not None}
    for proxy in proxy_proxies.PROXIES.values():
        proxy.refuse_conflicts(files)
    return _with_names({**files, **deserted(files)})


def _with_names(files: Files) -> Files:
    """Return files with what the proxies need for the names of all domains that they have with them."""
    more: Files = {}
    for proxy in proxy_proxies.PROXIES.values():
        ours = {path for path in (proxy.etc / "sites-enabled").glob("*") if config_files.is_managed(path)}
        ours |= {path for path in files if path.parent == proxy.etc / "sites-enabled"}
        names = {path.name.removesuffix(proxy.SUFFIX) for path in ours if files.get(path, "it stays") is not None}
        more |= proxy.for_names(names)
    return {**files, **more}


def _present(
    proxy: Proxy,
    site: Site,
    facts: Mapping[str, Any],
    templates: Mapping[str, str],
    through: Path | None,
    upcoming: bool,
) -> Files:
    """Return the files of a site for one proxy."""
    # A rollback may have activated a release whose server differs from the pillar's.
    recorded = {} if upcoming else command.recorded(through or site.current) or {}
    places = listening(proxy, site)
    variables = {
        "ours": OURS,
        "root": str(site.root),
        "through": str(through or site.current),
        "upstream": f"django-{site.name}",
        "variable": site.name.replace("-", "_"),
        **_server_variables(site, recorded),
        **places,
        "shared": proxy.shared(site, places["addresses"]),
        **headers.variables(site.config["proxy"]),
        "clients": certificates.client_authorities(site.name, site.config["tls"], proxy.etc)[0],
        "static_url": _local(_static_url(site, facts), site) if facts.get("collected") is not None else "",
        "media_url": _local(facts.get("media_url", ""), site),
    }
    files = proxy.files(site, variables, templates)
    files |= certificates.client_authorities(site.name, site.config["tls"], proxy.etc)[1]
    if site.https:
        files |= proxy.shared_protocols(templates)
    for domain in site.config["domains"]:
        files[proxy.share(site, domain)] = f"-> ../{proxy.locations(site).name}"
        files |= _server(proxy, proxy.KIND.domain, domain, templates, variables)
    for domain in site.config["redirect_domains"]:
        files[proxy.share(site, domain).with_suffix(".redirect")] = "-> /dev/null"
        files |= _server(proxy, proxy.KIND.redirect, domain, templates, variables)
    return {**_stale(proxy, site, files), **files}


def _server_variables(site: Site, recorded: Mapping[str, Any]) -> dict[str, Any]:
    """Return the template variables about the application server.

    Args:
        site: the site.
        recorded: what the release records of its server; empty for the one of the pillar.
    """
    server = site.config["server"]
    kind = server_servers.SERVERS.get(recorded.get("server", "")) or server_servers.configured(site)
    address = str(recorded.get("address", "/" if server["bind"] == "unix" else server["bind"]))
    protocol = recorded.get("protocol", server["protocol"])
    keeps_alive = recorded.get("keepalive", not recorded)
    waits = site.longest_wait if address.startswith("/") else 0
    return {
        "site": {**site.config, "server": {**server, "protocol": protocol}},
        "unix": address.startswith("/"),
        "address": address,
        "names_itself": recorded.get("proves", False),
        "keepalive": site.config["proxy"].get("keepalive") if keeps_alive else None,
        "waits": str(waiting.socket(site)) if waits else "",
        "timeout": kind.timeout(site) + 5 + waits,
        "websockets": recorded.get("interface", kind.interface(site)) == "asgi",
    }


def listening(proxy: Proxy, site: Site) -> dict[str, Any]:
    """Return the template variables about where a site is served."""
    http, https = site.config["proxy"]["listen"], site.listens_tls
    places = [ports.split(listen) for listen in [*http, *https]]
    return {
        **proxy.listening(http, https),
        "ports": sorted({port for _host, port in places}),
        "addresses": sorted({host for host, _port in places} - {"", *ports.ALL}),
        "canonical_port": "" if not https or site.https[0] == 443 else f":{site.https[0]}",
        "redirects": True,
    }


def _server(
    proxy: Proxy, template: str, domain: str, templates: Mapping[str, str], variables: Mapping[str, Any]
) -> Files:
    """Return the file of a domain, and its link."""
    paths = {"certificate": certificates.path_of(domain), "challenges": certificates.challenges()}
    names = {"folder": site_domains.file_name(domain), "host": site_domains.host(domain)}
    path = proxy.server(domain)
    return {
        path: host_template.render(templates, FILES + template, domain=domain, **names, **paths, **variables),
        proxy.enabled(domain): f"-> ../sites-available/{path.name}",
    }


def _stale(proxy: Proxy, site: Site, files: Files) -> Files:
    """Return the links of a site in domains that it no longer has, to be removed."""
    return {path: None for path in proxy.shares(site) if path not in files}


def _absent(proxy: Proxy, site: Site) -> Files:
    clients = proxy.etc / f"django-{site.name}.clients.pem"
    gone: Files = {clients: None} if clients.exists() else {}
    return {**_stale(proxy, site, {}), proxy.main_file(site): None, proxy.locations(site): None, **gone}


def deserted(files: Files) -> Files:
    """Return the servers of domains whose last site is removed with these files, to be removed too."""
    servers: Files = {}
    for proxy in proxy_proxies.PROXIES.values():
        for folder in {path.parent for path, text in files.items() if text is None} & {*proxy.etc.glob("django/*")}:
            path = proxy.server(folder.name)
            if path not in files and all(files.get(share, "it stays") is None for share in folder.iterdir()):
                servers |= {proxy.enabled(folder.name): None, path: None}
    return servers


def absent(site: Site) -> Files:
    """Return the files of a site, all to be removed."""
    files: Files = {path: None for proxy in proxy_proxies.PROXIES.values() for path in _absent(proxy, site)}
    return _with_names({**files, **deserted(files)})


def _static_url(site: Site, facts: Mapping[str, Any]) -> str:
    """Return the URL of a release's static files on this host, which also serves those that it has pushed elsewhere.

    A CDN may fetch them there, and so do pages that were made before ``static:url`` was set.
    """
    url, static = str(facts.get("static_url", "")), site.config["static"]
    is_elsewhere = urlsplit(url).netloc and (static.get("url") or static.get("push"))
    return f"{site.config['path'].rstrip('/')}/static/" if is_elsewhere else url


def _local(url: str, site: Site) -> str:
    """Return the path of a URL that this host serves; empty for another host's, and for the root of the site.

    Raises:
        DeploymentError: the path has characters that are not allowed there.
    """
    parts = urlsplit(url)
    if parts.netloc or not parts.path.strip("/") or not parts.path.startswith("/"):
        return ""
    if not re.fullmatch(r"/[A-Za-z0-9/._~-]+/", parts.path):
        raise DeploymentError(
            f"{site.name}: STATIC_URL or MEDIA_URL is {url!r}, which the proxy cannot serve",
            hint="set a URL that ends in a slash and has letters, digits and / . _ ~ - only",
        )
    return parts.path


def refuse_in_the_way(site: Site) -> None:
    """Refuse files of the host with the names of those that the proxy needs, before a release is made.

    Raises:
        DeploymentError: there is such a file.
    """
    proxy = proxy_proxies.configured(site)
    if proxy:
        for path in (proxy.main_file(site), proxy.locations(site)):
            config_files.refuse_in_the_way(path)
        for domain in (*site.config["domains"], *site.config["redirect_domains"]):
            for path in (proxy.server(domain), proxy.enabled(domain)):
                config_files.refuse_in_the_way(path)


def opening(site: Site, templates: Mapping[str, str]) -> Files:
    """Return the files by which domains that are served by http alone get https in addition; none once they have it.

    A release that needs https can be activated then, while the active one still gets its requests by http.
    """
    proxy = proxy_proxies.configured(site)
    if not site.https or not proxy or proxy_proxies.serving(site) is not proxy:
        return {}
    files: Files = {}
    clients, written = certificates.client_authorities(site.name, site.config["tls"], proxy.etc)
    variables = {"ours": OURS, "site": site.config, **listening(proxy, site), "redirects": False, "clients": clients}
    for domain in site.config["domains"]:
        path = proxy.server(domain)
        present = config_files.read(path)
        if (
            present
            and config_files.is_managed(path)
            and not proxy.has_certificate(present, certificates.path_of(domain))
        ):
            files[path] = _server(proxy, proxy.KIND.domain, domain, templates, variables)[path]
    return {**files, **written, **proxy.needs(site), **proxy.shared_protocols(templates)} if files else {}


def leftovers(site: Site, files: Files) -> list[Path]:
    """Return the certificates of domains of a site that have no https any more once these files are in place."""
    proxies = proxy_proxies.PROXIES.values()
    domains = dict.fromkeys([*site.config["domains"], *site.config["redirect_domains"]])
    for proxy in proxies:
        domains |= dict.fromkeys(path.parent.name for path in proxy.shares(site))
    left = []
    for domain in domains:
        paths = [(proxy, proxy.server(domain)) for proxy in proxies]
        texts = [(proxy, files[path] if path in files else config_files.read(path)) for proxy, path in paths]
        if not any(proxy.has_certificate(text or "", certificates.path_of(domain)) for proxy, text in texts):
            left += certificates.belongings(domain)
    return left
