"""Apache (https://httpd.apache.org/docs/2.4/) as the proxy of sites: virtual hosts for each domain."""

import fnmatch
import re
from collections.abc import Collection, Iterator, Mapping, Sequence
from itertools import permutations
from pathlib import Path
from typing import Any

from django_formula.host import commands, config_files, daemons, file, ports, template
from django_formula.host import folders as host_folders
from django_formula.host.commands import DeploymentError
from django_formula.host.config_files import Files
from django_formula.host.folders import Folder
from django_formula.host.ports import Listen, Place
from django_formula.kind import kinds
from django_formula.proxy import contract, nginx
from django_formula.proxy.contract import Bound, Proxy, Server
from django_formula.site import domains
from django_formula.site.sites import Site

ETC = Path("/etc/apache2")

#: The ports of Debian's package as it is installed.
_USUAL = {80}
_PROXY_MODULES = ("proxy", "proxy_http", "proxy_uwsgi")
_MODULES = ("alias", "authz_core", "authz_host", "headers", "mime", *_PROXY_MODULES, "rewrite", "setenvif", "unique_id")
_TLS_MODULES = ("http2", "socache_shmcb", "ssl")
#: Modules that come with a file of settings.
_WITH_SETTINGS = {"alias", "http2", "mime", "proxy", "proxy_balancer", "setenvif", "ssl"}

#: Where Debian records which of its modules an administrator, or a package, has disabled.
NOTES = Path("/var/lib/apache2/module")

#: `proxy:balance` → Apache's lbmethod.
_LBMETHODS = {"round_robin": "byrequests", "least_conn": "bybusyness"}


#: The URLs of static files and of uploads in the rules of a site.
_OF_FILES = re.compile(r'(?m)^RewriteRule "\^(/\S*/)" - \[(?:R=404|E=django_site:[^,\]]+),L\]')


class Apache(Proxy):
    """Apache, with the rules of each site included by the virtual hosts of its domains."""

    DAEMON = daemons.APACHE
    KIND = kinds.PROXIES["apache"]
    SUFFIX = ".conf"
    DEFAULT_SITE = "000-default.conf"

    @property
    def etc(self) -> Path:
        """The folder of its configuration."""
        return ETC

    def share(self, site: Site, domain: str) -> Path:
        """Return the link by which a domain includes the rules of a site; Apache reads the longest path first."""
        depth = 999 - len(site.config["path"])
        return ETC / "django" / domains.file_name(domain) / f"{depth:03}-{site.name}.conf"

    def shares(self, site: Site) -> list[Path]:
        """Return the links of a site that exist, and the marks of domains that only redirect."""
        pattern = re.compile(rf"\d\d\d-{re.escape(site.name)}\.(conf|redirect)")
        return [path for path in ETC.glob("django/*/*") if pattern.fullmatch(path.name)]

    def files(self, site: Site, variables: Mapping[str, Any], templates: Mapping[str, str]) -> Files:
        """Return the rules of a site, and the modules that they need."""
        config = site.config
        # Protected uploads are responses of the project.
        media_url = "" if config["media"].get("protected") else variables["media_url"]
        more = {
            "media_url": media_url,
            "max_age": nginx.age(config["static"]["expires"]),
            "max_upload": nginx.size(config["media"]["max_upload"]),
            "members": _members(config["proxy"].get("upstreams", {})),
            "lbmethod": _LBMETHODS.get(config["proxy"].get("balance")),
            "unescapes": bool(config["media"].get("protected")) and unescapes(site),
        }
        (locations,) = (kinds.FILES + name for name in self.KIND.site)
        return {
            **self.needs(site),
            self.locations(site): template.render(templates, locations, **{**variables, **more}),
        }

    def needs(self, site: Site) -> Files:
        """Return the links of modules that are not enabled yet, as a2enmod makes them; they stay enabled."""
        proxy = site.config["proxy"]
        more = ["remoteip"] if proxy["trusted"] else []
        if proxy.get("upstreams"):
            more += ["proxy_balancer", "slotmem_shm", f"lbmethod_{_LBMETHODS[proxy['balance']]}"]
        if site.config["media"].get("protected"):
            more.append("xsendfile")
        return _enabled(*_MODULES, *(_TLS_MODULES if site.https else ()), *more)

    def needs_for_page(self, site: Site) -> Files:
        """Return the links of modules that the page needs besides those of the site."""
        return {**self.needs(site), **_enabled("auth_basic", "authn_core", "authn_file", "authz_user")}

    def refuse_conflicts(self, files: Files) -> None:
        """Refuse URLs of files that two sites of a domain serve: nginx refuses them, Apache would use the first.

        Raises:
            DeploymentError: such a URL.
        """
        folders = ETC / "django"
        for folder in sorted({path.parent for path in files if path.parent.parent == folders}):
            links = {*folder.glob("*.conf"), *(path for path in files if path.parent == folder)}
            names = [
                link.name[4:-5] for link in sorted(links) if link.suffix == ".conf" and files.get(link, "") is not None
            ]
            paths = {name: folders / f"{name}.conf" for name in names}
            texts = {name: files.get(path) or file.read_text(path) or "" for name, path in paths.items()}
            for name, other in permutations(sorted(names, key=lambda name: paths[name] not in files), 2):
                for url in _OF_FILES.findall(texts[name]):
                    if f'RewriteRule "^{url}' in texts[other]:
                        domain = domains.of_file(folder.name)
                        raise DeploymentError(
                            f"{url.replace(chr(92), '')} on {domain} already serves files of site {other}",
                            hint=f"set another STATIC_URL or MEDIA_URL in django:sites:{name}:settings",
                        )

    def protocols(self) -> Path:
        """Return the file with what all virtual hosts of https have in common."""
        return ETC / "django-tls.conf"

    def listening(self, http: Collection[Listen], https: Collection[Listen]) -> dict[str, Any]:
        """Return the template variables about where Apache listens; ``own`` are places that no other file has."""
        everywhere, named = _existing_listens()
        taken = {port for _host, port in named}

        def is_own(listen: Listen) -> bool:
            host, port = ports.split(listen)
            return port not in everywhere and ((host, port) not in named if host else port not in taken)

        own = filter(is_own, ports.ordered([*http, *https]))

        def places(listens: Collection[Listen]) -> list[str]:
            return [f"*:{listen}" if isinstance(listen, int) else listen for listen in ports.ordered(listens)]

        return {
            "http": places(http),
            "https": places(https),
            "own": {str(listen).translate({46: "_", 58: "-", 91: None, 93: None}): listen for listen in own},
        }

    def has_certificate(self, text: str, certificate: Path) -> bool:
        """Return whether the virtual hosts in the text of a domain's file use a certificate."""
        return f'SSLCertificateFile "{certificate}"' in text

    def place(self, text: str, *, tls: bool) -> Place | None:
        """Return the first place where the virtual hosts in a text listen, for https or for http."""
        for first, inside in re.findall(r"<VirtualHost ([^ >]+)[^>]*>(.*?)</VirtualHost>", text, re.DOTALL):
            if ("SSLEngine on" in inside) == tls:
                return ports.split(first.removeprefix("*:"))
        return None

    def path(self, text: str) -> str:
        """Return the path of a site by the text of its locations; ``/`` for an empty one."""
        found = re.search(r'(?m)^RewriteRule "\^(\S*)/" - \[E=django_site:[^,]+,E=django_application:', text)
        return (found[1].replace("\\.", ".") or "/") if found else "/"

    def listens(self, text: str) -> set[str]:
        """Return where the virtual hosts in the text of a domain's file listen, in Apache's syntax."""
        return {place for places in re.findall(r"<VirtualHost ([^>]+)>", text) for place in places.split()}

    def places(self) -> set[Place]:
        """Return where Apache listens by its whole configuration."""
        own = (
            path.read_text(errors="replace")
            for path in ETC.glob("sites-enabled/*.conf")
            if config_files.is_managed(path)
        )
        return _listens("\n".join([*_existing(), *own]))

    def servers(self) -> list[Server]:
        """Return all virtual hosts of Apache's whole configuration, in their order."""
        return _virtual_hosts(_tested("-S"))

    def chosen(self, candidates: Sequence[Server], name: str, is_default: Sequence[bool]) -> Server | None:
        """Return which virtual host answers for a name: the first that fits, or the first of all."""
        del is_default
        fitting = (one for one in candidates if any(fnmatch.fnmatchcase(name, known) for known in one.names))
        return next(fitting, next(iter(candidates), None))

    def check(self) -> None:
        """Have Apache test its configuration.

        Raises:
            DeploymentError: Apache refuses it; the message is Apache's, with file and line.
        """
        _tested("configtest")

    def is_idle(self) -> bool:
        """Return whether Apache has no site any more, of the formula or other ones."""
        return not any(path.is_file() and path.stat().st_size for path in ETC.glob("sites-enabled/*.conf"))

    def foreign_servers(self, port: int) -> list[Path]:
        """Return the enabled files that the formula did not write; each has Apache run, with its ports."""
        if port not in self.needed_ports():
            return []
        paths = (path for path in sorted(ETC.glob("sites-enabled/*.conf")) if not config_files.is_managed(path))
        return [path for path in paths if path.stat().st_size]

    def needed_ports(self) -> set[int]:
        """Return the ports that Apache listens on whatever the sites are, without which it does not start."""
        if not (ETC / "ports.conf").exists():
            return _USUAL
        everywhere, named = _existing_listens()
        return {*everywhere, *(port for _host, port in named)} - {443}


def _enabled(*modules: str) -> Files:
    """Return the links of modules that are not enabled yet."""
    names = [f"{name}.{end}" for name in modules for end in ("load", *(["conf"] if name in _WITH_SETTINGS else []))]
    links = [ETC / "mods-enabled" / name for name in names]
    return {link: f"-> ../mods-available/{link.name}" for link in links if not link.exists()}


def _virtual_hosts(text: str) -> list[Server]:
    """Return the virtual hosts that ``apache2ctl -S`` prints, each once for each address and port."""
    found: list[Server] = []
    bound = Bound("", 0, is_default=False)
    for line in text.splitlines():
        place = re.match(r"(\S+):(\d+|\*)\s+(?:is a NameVirtualHost|(\S+) \((.+):(\d+)\))", line)
        named = re.match(r"\s+port \S+ namevhost (\S+) \((.+):(\d+)\)", line)
        other = re.match(r"\s+(?:wild )?alias (\S+)", line)
        if place:
            host = place[1].strip("[]").replace("_default_", "*")
            bound = Bound("" if host == "*" else host, int(place[2].replace("*", "0")), is_default=False)
        if place and place[3]:
            found.append(Server(place[4], int(place[5]), [bound], [place[3].lower()]))
        elif named:
            found.append(Server(named[2], int(named[3]), [bound], [named[1].lower()]))
        elif other and found:
            found[-1].names.append(other[1].lower())
    return found


def unescapes(site: Site) -> bool:
    """Return whether mod_xsendfile unquotes paths unless configured otherwise, as Debian 13's does."""
    try:
        return b"XSendFileUnescape" in Path(site.platform["mod_wsgi"]["modules"], "mod_xsendfile.so").read_bytes()
    except OSError:
        return False


def _members(upstreams: Mapping[str, Any]) -> dict[str, str]:
    """Return Apache's options for each server by its address, ``self`` for the site's own; empty where it is alone.

    After a failure Apache excludes a server for as long as nginx would.
    """
    members = {}
    for name, options in ({"self": {}, **upstreams} if upstreams else {}).items():
        words = [f"loadfactor={options['weight']}"] if options.get("weight") else []
        words.append(f"retry={nginx.age(options.get('fail_timeout') or '10s')}")
        members[name] = " ".join([*words, *(["status=+H"] if options.get("backup") else [])])
    return members


def _tested(argument: str) -> str:
    """Return what apache2ctl prints of Apache's configuration, with ``configtest`` or ``-S``.

    Raises:
        DeploymentError: Apache refuses it; the message is Apache's, with file and line.
    """
    try:
        return commands.run(["apache2ctl", argument], doing=f"apache2ctl {argument}")
    except DeploymentError as error:
        lines = [re.sub(r"^AH\d+: ", "", line.strip()) for line in error.log.splitlines()]
        noise = "ServerName|Action '[^']*'|Apache error log|ulimit"
        text = " ".join(line for line in lines if line and not re.search(noise, line)) or error.message
        raise DeploymentError(
            f"Apache refuses its configuration: {text}", hint=contract.refusal_hint("Apache", text)
        ) from None


def _existing_listens() -> tuple[set[int], set[Place]]:
    """Return where files that are not the formula's listen: ports on all addresses, and single addresses."""
    listens = _listens("\n".join(_existing()))
    everywhere = {port for host, port in listens if host in ports.ALL}
    return everywhere, {(host, port) for host, port in listens if host not in ports.ALL}


def _listens(text: str) -> set[Place]:
    """Return where Apache listens by a text; a port without address is for IPv4 and IPv6."""
    found = re.findall(r"(?mi)^[ \t]*Listen\s+(?:(\S+):)?(\d+)\b", text)
    return {(host.strip("[]").replace("*", "::") or "::", int(port)) for host, port in found}


def _existing() -> Iterator[str]:
    """Yield the texts of files that are not the formula's; of Debian's package before Apache is installed."""
    if not (ETC / "ports.conf").exists():
        yield "Listen 80\nListen 443"
    places = ["ports.conf", "apache2.conf", "conf-enabled/*.conf", "mods-enabled/*.conf", "sites-enabled/*.conf"]
    for path in [path for place in places for path in ETC.glob(place)]:
        if path.is_file() and not config_files.is_managed(path):
            yield path.read_text(errors="replace")


def leave_out(module: str) -> None:
    """Have the host's Apache, installed now or later, not load a module when its package is installed.

    The package enables its module and restarts Apache, unless ``a2dismod`` has disabled it; this does the same.
    """
    note = NOTES / "disabled_by_admin" / module
    for folder in reversed(note.parents):
        if not folder.exists():
            host_folders.make(Folder(folder, "root", "root", 0o755))
    file.write(note, "")
    (NOTES / "disabled_by_maint" / note.name).unlink(missing_ok=True)


PROXY = Apache()
