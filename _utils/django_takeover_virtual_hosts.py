"""What others have told a web server: the servers in the files that are not ours, and what is behind them."""

import glob
import os
import re
from collections.abc import Collection, Iterator
from pathlib import Path
from typing import NamedTuple

import django_host_config
import django_host_file
import django_host_port
from django_site import Site


class Server(NamedTuple):
    """A server of nginx, or a virtual host of Apache.

    Attributes:
        tls: whether one of its ports has TLS.
        addresses: behind it: paths of sockets, or ``127.0.0.1:port``.
        folders: of files, by location.
        wsgi_user: whose processes of Apache run the project, by mod_wsgi; empty where requests go to another server.
        wsgi_folders: where mod_wsgi is told to look for it, and for its virtualenv.
    """

    names: list[str]
    ports: list[int]
    tls: bool
    addresses: list[str]
    folders: dict[str, Path]
    wsgi_user: str = ""
    wsgi_folders: tuple[Path, ...] = ()


def problems(site: Site, path: Path, inside: Collection[Server]) -> Iterator[str]:
    """Why a file with a domain of the site cannot be set aside as it is.

    Args:
        inside: the servers of the file.
    """
    at = f"django:sites:{site.name}"
    domains = {*site.config["domains"], *site.config["redirect_domains"]}
    if path.name in ("nginx.conf", "apache2.conf"):
        yield f"{path} has the server in itself: move it into a file of its own in sites-enabled"
    others = {name for server in inside for name in server.names} - domains - {"_", "localhost", '""'}
    others = {name for name in others if name.removeprefix(".") not in domains}
    if others:
        names = ", ".join(sorted(others))
        yield f"{path} also serves {names}: name that in {at}:domains or redirect_domains, or move it to another file"
    secure = {port for server in inside for port in server.ports if server.tls} - {80}
    if secure and not site.https:
        yield f"{path} serves https: say in {at}:tls where the site's certificate comes from"
    elif secure - {*site.https}:
        yield f"{path} serves https on {', '.join(map(str, sorted(secure)))}: add that to {at}:tls:listen"
    own = {django_host_port.split(listen)[1] for listen in site.config["proxy"]["listen"]}
    ports = {port for server in inside for port in server.ports if not server.tls} - own
    if ports:
        yield f"{path} listens on {', '.join(map(str, sorted(ports)))}: add that to {at}:proxy:listen"


def read(path: Path) -> str:
    """The text of a file that is not ours; empty for ours and for links to nothing."""
    try:
        text = django_host_file.read_untrusted(path).decode(errors="replace")
    except OSError:
        return ""
    return "" if text.startswith(django_host_config.OURS) else text


def included(etc: Path, pattern: str) -> list[Path]:
    """The files that an ``include`` means: by an absolute path, or one below the web server's folder, or a pattern."""
    return [Path(path) for path in sorted(glob.glob(str(etc / pattern))) if os.path.isfile(path)]


def address(value: str) -> str:
    """An address behind a web server: the path of a socket, or ``127.0.0.1:port``; empty for one of another host.

    Args:
        value: without its protocol; of a socket ``unix:/path``, and what follows a colon, or a bar in Apache's words.
    """
    if value.startswith("unix:"):
        return os.path.normpath("/" + re.split("[:|]", value.removeprefix("unix:"))[0].lstrip("/"))
    local = re.match(r"(127\.0\.0\.1|localhost|\[::1?\]|0\.0\.0\.0):(\d+)", value)
    return f"127.0.0.1:{local[2]}" if local else ""
