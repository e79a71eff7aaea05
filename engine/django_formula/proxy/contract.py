"""The contract of a proxy: what the others use of nginx and Apache, with what is the same for both."""

from __future__ import annotations

import re
from abc import ABC, abstractmethod
from collections.abc import Collection, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, ClassVar, NamedTuple

from django_formula.host import config_files, file, folders, template
from django_formula.host.commands import DeploymentError
from django_formula.host.config_files import OURS, Files
from django_formula.host.daemons import Daemon
from django_formula.host.folders import Folder
from django_formula.host.ports import Listen, Place
from django_formula.kind.kinds import FILES, ProxyKind
from django_formula.site import domains, sites
from django_formula.site.sites import Site
from django_formula.untrusted.headers import meta


class Bound(NamedTuple):
    """Where a server listens: an address, one of `host.ports.ALL` or empty for all; and whether by default."""

    host: str
    port: int
    is_default: bool


class Server(NamedTuple):
    """A server of nginx or a virtual host of Apache: where it is written, where it listens, and for which names."""

    path: str
    line: int
    listens: list[Bound]
    names: list[str]


class Proxy(ABC):
    """A proxy; each kind is a class in a module of its own.

    A domain has a file with its servers, which include the locations of each of its sites: sites that share a domain
    do not depend on each other. The proxy reaches a site through ``current``, so that a rename switches it.
    """

    #: Its daemon.
    DAEMON: ClassVar[Daemon]
    #: Its facts that the pillar and the states read too.
    KIND: ClassVar[ProxyKind]
    #: The end of the name of a domain's file.
    SUFFIX: ClassVar[str] = ""
    #: Debian's default site in ``sites-enabled``.
    DEFAULT_SITE: ClassVar[str]

    @property
    def templates(self) -> tuple[str, ...]:
        """The URLs of the templates of a site's files."""
        return tuple(FILES + name for name in (*self.KIND.site, self.KIND.domain, self.KIND.redirect))

    @property
    @abstractmethod
    def etc(self) -> Path:
        """The folder of its configuration."""

    def main_file(self, site: Site) -> Path:
        """Return the file without which the proxy does not serve a site."""
        return self.locations(site)

    def locations(self, site: Site) -> Path:
        """Return the file with the locations of a site."""
        return self.etc / "django" / f"{site.name}.conf"

    def server(self, domain: str) -> Path:
        """Return the file with the servers of a domain."""
        return self.etc / "sites-available" / f"{domains.file_name(domain)}{self.SUFFIX}"

    def enabled(self, domain: str) -> Path:
        """Return the link to that file."""
        return self.etc / "sites-enabled" / f"{domains.file_name(domain)}{self.SUFFIX}"

    @abstractmethod
    def share(self, site: Site, domain: str) -> Path:
        """Return the link by which the servers of a domain include the locations of a site."""

    @abstractmethod
    def shares(self, site: Site) -> list[Path]:
        """Return the links of a site that exist, and the marks (``.redirect``) of domains that only redirect."""

    @abstractmethod
    def protocols(self) -> Path:
        """Return the file with what all servers of https have in common."""

    def shared_protocols(self, templates: Mapping[str, str]) -> Files:
        """Return that file with its content."""
        text = template.render(templates, FILES + self.KIND.tls, ours=OURS, **self.tls_variables())
        return {self.protocols(): text}

    def tls_variables(self) -> dict[str, Any]:
        """Return the template variables of that file."""
        return {}

    @abstractmethod
    def files(self, site: Site, variables: Mapping[str, Any], templates: Mapping[str, str]) -> Files:
        """Return what a site has in addition to the servers of its domains."""

    def refuse_conflicts(self, files: Files) -> None:
        """Refuse files with which a site would answer for another one, where the proxy itself accepts them.

        Raises:
            DeploymentError: such files.
        """
        del files

    def for_names(self, names: Collection[str]) -> Files:
        """Return what the proxy needs for servers of these names, all that it has."""
        del names
        return {}

    def shared(self, site: Site, addresses: Collection[str]) -> dict[str, Any]:
        """Return the names of the proxy's variables that sites with the same options share.

        Args:
            site: the site.
            addresses: where it listens, without ports.
        """
        del site, addresses
        return {}

    @abstractmethod
    def listening(self, http: Collection[Listen], https: Collection[Listen]) -> dict[str, Any]:
        """Return the template variables about where it listens, ``http`` and ``https`` among them, in its syntax."""

    @abstractmethod
    def has_certificate(self, text: str, certificate: Path) -> bool:
        """Return whether the servers in the text of a domain's file use a certificate."""

    @abstractmethod
    def place(self, text: str, *, tls: bool) -> Place | None:
        """Return the first place where the servers in the text of a domain's file listen, for https or for http."""

    @abstractmethod
    def path(self, text: str) -> str:
        """Return the path of a site by the text of its locations; ``/`` for an empty one."""

    @abstractmethod
    def listens(self, text: str) -> set[str]:
        """Return where the servers in the text of a domain's file listen, in the proxy's syntax."""

    @abstractmethod
    def places(self) -> set[Place]:
        """Return where the proxy listens by its whole configuration, files of other programs included."""

    @abstractmethod
    def servers(self) -> list[Server]:
        """Return all servers of its whole configuration, files of other programs included, in their order."""

    @abstractmethod
    def chosen(self, candidates: Sequence[Server], name: str, is_default: Sequence[bool]) -> Server | None:
        """Return which of the servers of an address and port answers for a name in lower case, by the proxy's rules.

        Args:
            candidates: the servers, in their order.
            name: a host name.
            is_default: whether each is the default server there.
        """

    @abstractmethod
    def check(self) -> None:
        """Have the proxy test its configuration.

        Raises:
            DeploymentError: the proxy refuses it; the message is the proxy's, with file and line.
        """

    @abstractmethod
    def is_idle(self) -> bool:
        """Return whether the proxy has no site any more, of the formula or other ones."""

    @abstractmethod
    def foreign_servers(self, port: int) -> list[Path]:
        """Return the enabled files that the formula did not write, and for which the proxy listens on a port."""

    def names_addresses(self, site: Site) -> bool:
        """Return whether the proxy's own files name the address of a release: a release over TCP then changes them."""
        del site
        return True

    def needs(self, site: Site) -> Files:
        """Return what the proxy does not have yet for the servers of a site's domains."""
        del site
        return {}

    def needs_for_page(self, site: Site) -> Files:
        """Return what the proxy does not have yet for the page of the host, which is served like a site."""
        return self.needs(site)

    def leave_out_the_default_site(self) -> None:
        """Have a proxy that is about to be installed start without Debian's default site: its package keeps the file.

        nginx does not start with that site on a kernel without IPv6, and its installation fails then.
        """
        for path in (self.etc, self.etc / "sites-enabled"):
            folders.make(Folder(path, "root", "root", 0o755))
        file.write(self.etc / "sites-enabled" / self.DEFAULT_SITE, "")

    def needed_ports(self) -> set[int]:
        """Return the ports that the proxy listens on whatever the sites are."""
        return set()

    def refused(self) -> tuple[list[Listen], list[Listen]]:
        """Return where a default server of the formula refuses unknown hosts, by http and by https."""
        return [], []

    def default_server(
        self,
        http: Collection[Listen],
        https: Collection[Listen],
        templates: Mapping[str, str],
        without: Collection[Path] = (),
    ) -> Files:
        """Return the server that refuses unknown hosts; none where the servers of domains do that themselves.

        Args:
            http: where it listens.
            https: where it listens; a client of an unknown name gets no certificate.
            templates: their texts.
            without: existing files that are about to be removed.
        """
        del http, https, templates, without
        return {}


# What to do about a file that a proxy refuses: one of the formula's is written from the pillar, and names its key

#: Where a proxy says that the error is: ``in /etc/nginx/nginx.conf:12``, ``on line 12 of /etc/apache2/apache2.conf``.
_PLACES = (re.compile(r" in (?P<path>/\S+?):(?P<line>\d+)\b"), re.compile(r" line (?P<line>\d+) of (?P<path>/[^\s:]+)"))
#: What the first line of a file of the formula is about.
_ABOUT = re.compile(r"for the (site|domain) ([^\s;]+?)[.;,]?(?:\s|$)")
#: The keys that these files are rendered from, those that a mistake is most often in first.
_KEYS = ("proxy", "media", "static", "tls", "maintenance", "domains", "redirect_domains")


def _refused_line(cause: str) -> re.Match[str] | None:
    return next(filter(None, (place.search(cause) for place in _PLACES)), None)


def refused_path(cause: str) -> Path | None:
    """Return the file in which a proxy finds what it refuses, by its message; None where that names none."""
    found = _refused_line(cause)
    return Path(found["path"]) if found else None


def refusal_hint(title: str, cause: str) -> str:
    """Return what to do about a configuration that a proxy refuses.

    Args:
        title: the name of the proxy.
        cause: its message.
    """
    keeps = f"until then {title} keeps its running configuration"
    found = _refused_line(cause)
    if not found:
        return f"correct that; {keeps}"
    path, line = Path(found["path"]), int(found["line"])
    text = (file.read_text(path) or "").splitlines()
    if not text or not config_files.is_managed(path):
        return f"correct that file; {keeps}"
    directive = text[line - 1].strip() if line <= len(text) else ""
    keys = list(dict.fromkeys(key for site in _sites(text[0]) for key in _keys_of(site, directive)))
    if keys:
        return f"correct {' or '.join(keys)}, from which that line is, and apply again; {keeps}"
    return f"the formula writes that file: apply again, which writes it anew; {keeps}"


def _sites(first: str) -> Iterator[Site]:
    """Yield the sites that a file is for, by its first line."""
    about = _ABOUT.search(first)
    for name in sites.registered() if about else ():
        try:
            site = sites.find(name)
        except DeploymentError:
            continue
        domains = [*site.config["domains"], *site.config["redirect_domains"]]
        if about and about[2] in ([name] if about[1] == "site" else domains):
            yield site


def _keys_of(site: Site, directive: str) -> list[str]:
    """Return the pillar keys that a line of a site's files may be from: that of its name, else of its longest value."""
    leaves = [leaf for key in _KEYS for leaf in _leaves(site.config.get(key), (key,))]
    word = directive.split(" ")[0]
    found = [path for path, _value in leaves if path[-1] == word]
    found = found or [path for path, _value in leaves if path[1:2] == ("headers",) and _sets(directive, path[-1])]
    if not found:
        texts = [(path[:3], path[2]) for path, _value in leaves if path[:2] == ("proxy", "upstreams")]
        texts += [(path, str(value)) for path, value in leaves if path[-1] != "kind" and not isinstance(value, bool)]
        texts = [
            (path, text) for path, text in texts if re.search(rf"(?<![\w.-]){re.escape(text)}(?![\w.-])", directive)
        ]
        longest = max((len(text) for _path, text in texts), default=0)
        found = [path for path, text in texts if len(text) == longest and longest > 1]
    return [f"{site.at}:{':'.join(path)}" for path in found]


def _sets(directive: str, header: str) -> bool:
    return {header, meta(header)} & {*directive.split()} != set()


def _leaves(value: Any, path: tuple[str, ...]) -> Iterator[tuple[tuple[str, ...], Any]]:
    """Yield the values of a part of the pillar with their keys; those of a list have that of the list."""
    if isinstance(value, Mapping):
        for name, inner in value.items():
            yield from _leaves(inner, (*path, str(name)))
    elif isinstance(value, list):
        for inner in value:
            yield from _leaves(inner, path)
    elif value is not None:
        yield path, value
