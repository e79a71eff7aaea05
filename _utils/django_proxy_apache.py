"""Apache (https://httpd.apache.org/docs/2.4/) as the proxy of sites: virtual hosts for each domain."""

import re
from collections.abc import Collection, Iterator, Mapping
from pathlib import Path
from typing import Any

import django_host_command
import django_host_etc
import django_host_file
import django_host_folder
import django_host_port
import django_host_service
import django_proxy_nginx
import django_release_settings
from django_host_command import DeploymentError
from django_host_etc import Files
from django_host_folder import Folder
from django_host_port import Listen, Place
from django_site import Site

ETC = Path("/etc/apache2")
DAEMON = django_host_service.APACHE

_LOCATIONS = "salt://django/files/apache/locations.conf"
DOMAIN, REDIRECT = "salt://django/files/apache/domain.conf", "salt://django/files/apache/redirect.conf"
TLS = "salt://django/files/apache/tls.conf"
TEMPLATES: tuple[str, ...] = (_LOCATIONS, DOMAIN, REDIRECT)

#: The ports that Debian's package listens on before anybody has said otherwise.
_USUAL = {80}
_PROXY_MODULES = ("proxy", "proxy_http", "proxy_uwsgi")
_MODULES = ("alias", "authz_core", "authz_host", "headers", "mime", *_PROXY_MODULES, "rewrite", "setenvif")
_TLS_MODULES = ("http2", "socache_shmcb", "ssl")
#: Those that come with a file of settings.
_WITH_SETTINGS = {"alias", "http2", "mime", "proxy", "proxy_balancer", "setenvif", "ssl"}

#: Where Debian notes which of its modules an administrator, or a package, has disabled.
NOTES = Path("/var/lib/apache2/module")

#: How it chooses among several servers: the pillar's word → Apache's.
_LBMETHODS = {"round_robin": "byrequests", "least_conn": "bybusyness"}


def main_file(site: Site) -> Path:
    """The file without which Apache does not serve a site."""
    return locations(site)


def locations(site: Site) -> Path:
    """The file with the rules of a site."""
    return ETC / "django" / f"{site.name}.conf"


def server(domain: str) -> Path:
    """The file with the virtual hosts of a domain."""
    return ETC / "sites-available" / f"{domain}.conf"


def enabled(domain: str) -> Path:
    """The link to that file, as a2ensite makes it."""
    return ETC / "sites-enabled" / f"{domain}.conf"


def share(site: Site, domain: str) -> Path:
    """The link by which a domain has the rules of a site; the site with the longest path comes first."""
    depth = 999 - len(site.config["path"])
    return ETC / "django" / domain / f"{depth:03}-{site.name}.conf"


def shares(site: Site) -> list[Path]:
    """Those links that there are, and the marks of domains that only lead on."""
    pattern = re.compile(rf"\d\d\d-{re.escape(site.name)}\.(conf|redirect)")
    return [path for path in ETC.glob("django/*/*") if pattern.fullmatch(path.name)]


def files(site: Site, variables: Mapping[str, Any], templates: Mapping[str, str]) -> Files:
    """What a site has beside the virtual hosts of its domains: its rules, and the modules that they need."""
    config = site.config
    # Uploads that are protected are pages of the project.
    media_url = "" if config["media"].get("protected") else variables["media_url"]
    more = {
        "media_url": media_url,
        "max_age": django_proxy_nginx.age(config["static"]["expires"]),
        "max_upload": django_proxy_nginx.size(config["media"]["max_upload"]),
        "members": _members(config["proxy"].get("upstreams", {})),
        "lbmethod": _LBMETHODS.get(config["proxy"].get("balance")),
        "unescapes": bool(config["media"].get("protected")) and unescapes(site),
    }
    _refuse_shared_urls(site, [variables["static_url"], media_url])
    return {
        **needs(site),
        locations(site): django_release_settings.render(templates, _LOCATIONS, **{**variables, **more}),
    }


def unescapes(site: Site) -> bool:
    """Whether mod_xsendfile, as that of Debian 13, reads a path as if it were quoted, unless it is told otherwise."""
    try:
        return b"XSendFileUnescape" in Path(site.platform["mod_wsgi"]["modules"], "mod_xsendfile.so").read_bytes()
    except OSError:
        return False


def _members(upstreams: Mapping[str, Any]) -> dict[str, str]:
    """What Apache is told of each server where there are several, by its address; the site's own is ``self``.

    After a failure a server is left out for as long as nginx would leave it out.
    """
    members = {}
    for name, said in ({"self": {}, **upstreams} if upstreams else {}).items():
        words = [f"loadfactor={said['weight']}"] if said.get("weight") else []
        words.append(f"retry={django_proxy_nginx.age(said.get('fail_timeout') or '10s')}")
        members[name] = " ".join([*words, *(["status=+H"] if said.get("backup") else [])])
    return members


def _refuse_shared_urls(site: Site, urls: Collection[str]) -> None:
    """Refuse a URL of files that another site of a domain has: nginx would refuse it, Apache takes the first."""
    links = [link for domain in site.config["domains"] for link in (ETC / "django" / domain).glob("*.conf")]
    for link in links:
        text = "" if link.name.endswith(f"-{site.name}.conf") else django_host_file.read_text(link) or ""
        for url in filter(None, urls):
            if f'RewriteRule "^{url}'.replace(".", "\\.") in text:
                raise DeploymentError(
                    f"{url} of {link.parent.name} is served for another site, {link.name[4:-5]}",
                    hint=f"another STATIC_URL or MEDIA_URL in one of the two: django:sites:{site.name}:settings",
                )


def needs(site: Site) -> Files:
    """The links of modules that are not enabled yet, as a2enmod makes them; nobody disables them again."""
    wanted: Files = {}
    proxy = site.config["proxy"]
    more = ["remoteip"] if proxy["trusted"] else []
    if proxy.get("upstreams"):
        more += ["proxy_balancer", "slotmem_shm", f"lbmethod_{_LBMETHODS[proxy['balance']]}"]
    if site.config["media"].get("protected"):
        more.append("xsendfile")
    for name in [*_MODULES, *(_TLS_MODULES if site.https else ()), *more]:
        for ending in ("load", *(["conf"] if name in _WITH_SETTINGS else [])):
            link = ETC / "mods-enabled" / f"{name}.{ending}"
            if not link.exists():
                wanted[link] = f"-> ../mods-available/{link.name}"
    return wanted


def names_addresses(site: Site) -> bool:
    """An address behind it is in its own files, for a backend cannot be included."""
    del site
    return True


def protocols() -> Path:
    """The file with what all virtual hosts of https have in common."""
    return ETC / "django-tls.conf"


def listening(http: Collection[Listen], https: Collection[Listen]) -> dict[str, Any]:
    """What templates know of where it listens; ``own`` is where nobody else has a Listen, by a name for it."""
    everywhere, named = _foreign_listens()
    taken = {port for _host, port in named}

    def is_own(listen: Listen) -> bool:
        host, port = django_host_port.split(listen)
        return port not in everywhere and ((host, port) not in named if host else port not in taken)

    own = filter(is_own, django_host_port.ordered([*http, *https]))

    def places(listens: Collection[Listen]) -> list[str]:
        return [f"*:{listen}" if isinstance(listen, int) else listen for listen in django_host_port.ordered(listens)]

    return {
        "http": places(http),
        "https": places(https),
        "own": {str(listen).translate({46: "_", 58: "-", 91: None, 93: None}): listen for listen in own},
    }


def _foreign_listens() -> tuple[set[int], set[Place]]:
    """Where somebody else's files listen: the ports at all addresses, and single addresses."""
    listens = _listens("\n".join(_foreign()))
    everywhere = {port for host, port in listens if host in django_host_port.ALL}
    return everywhere, {(host, port) for host, port in listens if host not in django_host_port.ALL}


def _listens(text: str) -> set[Place]:
    """Where Apache listens by a text; a port alone is for both families."""
    found = re.findall(r"(?mi)^\s*Listen\s+(?:(\S+):)?(\d+)\b", text)
    return {(host.strip("[]").replace("*", "::") or "::", int(port)) for host, port in found}


def _foreign() -> Iterator[str]:
    """The files of somebody else; before Apache is there, what Debian's package brings."""
    if not (ETC / "ports.conf").exists():
        yield "Listen 80\nListen 443"
    places = ["ports.conf", "apache2.conf", "conf-enabled/*.conf", "mods-enabled/*.conf", "sites-enabled/*.conf"]
    for path in [path for place in places for path in ETC.glob(place)]:
        if path.is_file() and not django_host_etc.is_ours(path):
            yield path.read_text(errors="replace")


def has_certificate(text: str, certificate: Path) -> bool:
    """Whether the virtual hosts of a domain show a certificate."""
    return f'SSLCertificateFile "{certificate}"' in text


def place(text: str, *, tls: bool) -> Place | None:
    """The first place of https, or of http, where the virtual hosts of a domain listen."""
    for first, inside in re.findall(r"<VirtualHost ([^ >]+)[^>]*>(.*?)</VirtualHost>", text, re.DOTALL):
        if ("SSLEngine on" in inside) == tls:
            return django_host_port.split(first.removeprefix("*:"))
    return None


def listens(text: str) -> set[str]:
    """Where the virtual hosts in a file of ours listen, in Apache's words."""
    return {place for places in re.findall(r"<VirtualHost ([^>]+)>", text) for place in places.split()}


def places() -> set[Place]:
    """Where Apache listens by its configuration, of whomever that is."""
    own = (
        path.read_text(errors="replace") for path in ETC.glob("sites-enabled/*.conf") if django_host_etc.is_ours(path)
    )
    return _listens("\n".join([*_foreign(), *own]))


def check() -> None:
    """Have Apache read its configuration.

    Raises:
        DeploymentError: it refuses; the message is Apache's own, with file and line.
    """
    try:
        django_host_command.run(["apache2ctl", "configtest"], doing="apache2ctl configtest")
    except DeploymentError as error:
        lines = [re.sub(r"^AH\d+: ", "", line.strip()) for line in error.log.splitlines()]
        said = [
            line
            for line in lines
            if line and not re.search("ServerName|Action 'configtest'|Apache error log|ulimit", line)
        ]
        raise DeploymentError(
            f"Apache refuses its configuration: {' '.join(said) or error.message}",
            hint="mend that file; until then Apache is not reloaded",
        ) from None


def leave_out_the_default_site() -> None:
    """Have an Apache that is about to be installed start without Debian's default site, for it keeps what is there."""
    folder = ETC / "sites-enabled"
    for path in (ETC, folder):
        django_host_folder.make(Folder(path, "root", "root", 0o755))
    django_host_file.write(folder / "000-default.conf", "")


def leave_out(module: str) -> None:
    """Have the Apache of the host, if there is or comes one, go on as it is once the package of a module is installed.

    By itself the package enables it there and restarts Apache, unless ``a2dismod`` has said no; so does this.
    """
    note = NOTES / "disabled_by_admin" / module
    for folder in reversed(note.parents):
        if not folder.exists():
            django_host_folder.make(Folder(folder, "root", "root", 0o755))
    django_host_file.write(note, "")
    (NOTES / "disabled_by_maint" / note.name).unlink(missing_ok=True)


def is_idle() -> bool:
    """Whether it has no site any more, of anybody."""
    return not any(path.is_file() and path.stat().st_size for path in ETC.glob("sites-enabled/*.conf"))


def needed_ports() -> set[int]:
    """The ports that it listens on whatever the sites say, without which it does not start."""
    if not (ETC / "ports.conf").exists():
        return _USUAL
    everywhere, named = _foreign_listens()
    return {*everywhere, *(port for _host, port in named)} - {443}


def refused() -> tuple[list[Listen], list[Listen]]:
    """Where a default server refuses unknown hosts: nowhere, each virtual host does that itself."""
    return [], []


def default_server(
    http: Collection[Listen], https: Collection[Listen], templates: Mapping[str, str], without: Collection[Path] = ()
) -> Files:
    """There is none."""
    del http, https, templates, without
    return {}
