"""Existing virtual hosts of a web server, in files that the formula has not written, and what they pass requests to."""

import glob
import os
import re
from collections.abc import Collection, Iterator
from pathlib import Path
from typing import NamedTuple

from django_formula.host import config_files, file
from django_formula.host import ports as host_ports
from django_formula.site.sites import Site

#: What has nginx or Apache ask clients for a certificate.
_ASKS = re.compile(r"(?mi)^[ \t]*(ssl_verify_client\s+o(?:n|ptional)|SSLVerifyClient\s+(?:require|optional))\b")


class VirtualHost(NamedTuple):
    """A virtual host of Apache, or a server block of nginx.

    Attributes:
        tls: whether one of its ports has TLS.
        addresses: what it passes requests to: paths of sockets, or ``127.0.0.1:port``.
        folders: folders of files that it serves, by location.
        wsgi_user: user of Apache's processes that run the project by mod_wsgi; empty if requests are passed on.
        wsgi_folders: folders that mod_wsgi is configured with for the project and its virtualenv.
    """

    names: list[str]
    ports: list[int]
    tls: bool
    addresses: list[str]
    folders: dict[str, Path]
    wsgi_user: str = ""
    wsgi_folders: tuple[Path, ...] = ()


def refusals(site: Site, path: Path, inside: Collection[VirtualHost]) -> Iterator[str]:
    """Yield the reasons why a file with a domain of the site cannot be moved aside as it is.

    Args:
        inside: the virtual hosts in the file.
    """
    key = site.at
    domains = {*site.config["domains"], *site.config["redirect_domains"]}
    if path.name in ("nginx.conf", "apache2.conf"):
        yield f"{path} contains the virtual host itself: move that to a file of its own in sites-enabled"
    others = {name for one in inside for name in one.names} - domains - {"_", "localhost", '""'}
    others = {name for name in others if not {name.removeprefix("."), f"*{name}"} & domains}
    if others:
        names = ", ".join(sorted(others))
        yield f"{path} also serves {names}: add that to {key}:domains or redirect_domains, or move it to another file"
    secure = {port for one in inside for port in one.ports if one.tls} - {80}
    if secure and not site.https:
        yield f"{path} serves https: set {key}:tls to the source of the site's certificate"
    elif secure - {*site.https}:
        yield f"{path} serves https on {', '.join(map(str, sorted(secure)))}: add that to {key}:tls:listen"
    asks = _ASKS.search(read(path))
    if asks and not site.config["tls"]["client_ca"]:
        yield f"{path} asks clients for a certificate ({asks[1]}): set {key}:tls:client_ca"
    own = {host_ports.split(listen)[1] for listen in site.config["proxy"]["listen"]}
    ports = {port for one in inside for port in one.ports if not one.tls} - own
    if ports:
        yield f"{path} listens on {', '.join(map(str, sorted(ports)))}: add that to {key}:proxy:listen"


def read(path: Path) -> str:
    """Return the text of a file; empty for one that the formula has written, and for a dangling link."""
    try:
        text = file.read_untrusted(path).decode(errors="replace")
    except OSError:
        return ""
    return "" if text.startswith(config_files.OURS) else text


def included(etc: Path, pattern: str) -> list[Path]:
    """Return the files of an ``include``: an absolute path, a path in the web server's folder, or a pattern."""
    return [Path(path) for path in sorted(glob.glob(str(etc / pattern))) if os.path.isfile(path)]


def address(value: str) -> str:
    """Return an address that requests are passed to: a socket's path, or ``127.0.0.1:port``; empty on another host.

    Args:
        value: the address without its protocol; for a socket ``unix:/path``, with what follows a colon or, in
            Apache's notation, a bar.
    """
    if value.startswith("unix:"):
        return os.path.normpath("/" + re.split("[:|]", value.removeprefix("unix:"))[0].lstrip("/"))
    local = re.match(r"(127\.0\.0\.1|localhost|\[::1?\]|0\.0\.0\.0):(\d+)", value)
    return f"127.0.0.1:{local[2]}" if local else ""
