"""What others have told nginx: the servers of the files that are not ours, and what is behind them."""

import os
import re
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import django_etc
import django_nginx
import django_port
from django_site import Site


class Server(NamedTuple):
    """A ``server`` block of nginx: names, ports, whether one has TLS, addresses behind it, folders by location."""

    names: list[str]
    ports: list[int]
    tls: bool
    addresses: list[str]
    folders: dict[str, Path]


def servers() -> dict[Path, list[Server]]:
    """The servers in each file of nginx that is not ours."""
    etc = django_nginx.ETC
    paths = [*etc.glob("sites-available/*"), *etc.glob("sites-enabled/*"), *etc.glob("conf.d/*.conf")]
    texts = {path: _configuration(path) for path in [etc / "nginx.conf", *sorted(paths)]}
    upstreams = dict(pair for text in texts.values() for pair in _upstreams(text))
    return {path: [_server(block, upstreams) for block in _blocks(text, "server")] for path, text in texts.items()}


def problems(site: Site, path: Path, inside: list[Server]) -> Iterator[str]:
    """Why a file with a domain of the site cannot be set aside as it is.

    Args:
        inside: the servers of the file.
    """
    at = f"django:sites:{site.name}"
    domains = {*site.config["domains"], *site.config["redirect_domains"]}
    if path.name == "nginx.conf":
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
    own = {django_port.split(listen)[1] for listen in site.config["proxy"]["listen"]}
    ports = {port for server in inside for port in server.ports if not server.tls} - own
    if ports:
        yield f"{path} listens on {', '.join(map(str, sorted(ports)))}: add that to {at}:proxy:listen"


def _configuration(path: Path) -> str:
    """The text of a file of nginx that is not ours, without comments; empty for ours and for links to nothing."""
    try:
        text = path.read_text(errors="replace")
    except OSError:
        return ""
    return "" if text.startswith(django_etc.OURS) else re.sub(r"#[^\n]*", "", text)


def _blocks(text: str, name: str) -> Iterator[str]:
    """The contents of the blocks of that name."""
    for start in re.finditer(rf"(?<![\w$./-]){name}\s*\{{", text):
        depth, end = 1, start.end()
        while depth and end < len(text):
            depth += {"{": 1, "}": -1}.get(text[end], 0)
            end += 1
        yield text[start.end() : end - 1]


def _upstreams(text: str) -> Iterator[tuple[str, list[str]]]:
    for name in re.findall(r"(?<![\w$.-])upstream\s+(\S+?)\s*\{", text):
        for block in _blocks(text, rf"upstream\s+{re.escape(name)}"):
            yield name, re.findall(r"(?<![\w$.-])server\s+([^;\s]+)", block)


def _server(block: str, upstreams: dict[str, list[str]]) -> Server:
    def said(directive: str) -> list[str]:
        return [value.strip() for value in re.findall(rf"(?<![\w$.-]){directive}\s+([^;{{}}]+);", block)]

    listens = said("listen")
    ports = [int(port[1]) if (port := re.match(r"(?:\S*:)?(\d+)(?:\s|$)", value)) else 80 for value in listens]
    passed = [
        re.sub(r"^(https?|grpcs?|uwsgi)://", "", value) for value in said("(?:proxy|uwsgi|fastcgi|scgi|grpc)_pass")
    ]
    addresses = [address for value in passed for address in upstreams.get(value.partition("/")[0], [value])]
    folders = {}
    for location in re.finditer(r"(?<![\w$.-])location\s+([^{}]*?)(\S+)\s*\{([^{}]*)\}", block):
        where = re.search(r"(?<![\w$.-])(alias|root)\s+\"?(/[^;\"]*)", location[3])
        if where:
            below = location[2].strip("^/") if where[1] == "root" else ""
            folders[location[2]] = Path(where[2].strip(), below)
    return Server(
        names=[name.strip('"') or '""' for value in said("server_name") for name in value.split()],
        ports=ports or [80],
        tls=any(re.search(r"\bssl\b", value) for value in listens) or "on" in said("ssl"),
        addresses=[found for value in addresses if (found := _address(value))],
        folders=folders,
    )


def _address(value: str) -> str:
    """An address behind nginx: the path of a socket, or ``127.0.0.1:port``; empty for one of another host."""
    if value.startswith("unix:"):
        return os.path.normpath("/" + value.removeprefix("unix:").partition(":")[0].lstrip("/"))
    local = re.match(r"(127\.0\.0\.1|localhost|\[::1?\]|0\.0\.0\.0):(\d+)", value)
    return f"127.0.0.1:{local[2]}" if local else ""
