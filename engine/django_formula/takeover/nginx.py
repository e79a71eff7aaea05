"""Existing server blocks of nginx, in files that the formula has not written."""

import re
from collections.abc import Iterator
from pathlib import Path

from django_formula.proxy import nginx
from django_formula.takeover import virtual_hosts as takeover_virtual_hosts
from django_formula.takeover.virtual_hosts import VirtualHost

_INCLUDE = re.compile(r"(?<![\w$./-])include\s+[\"']?([^;\"'\s]+)[\"']?\s*;")
_LOCATION = re.compile(r"(?<![\w$.-])location\s+[^{};]*?(\S+)\s*\{")
#: What has the folder of a block's files, and what answers in place of files.
_PLACE = re.compile(r"(?<![\w$.-])(alias|root)\s+[\"']?(/[^;\"']*)")
_ELSEWHERE = re.compile(r"(?<![\w$.-])(\w+_pass|return)\s")
_BLOCK = re.compile(r"\{[^{}]*\}")


def virtual_hosts() -> dict[Path, list[VirtualHost]]:
    """Return the server blocks in each file of nginx that the formula has not written."""
    etc = nginx.ETC
    paths = [*etc.glob("sites-available/*"), *etc.glob("sites-enabled/*"), *etc.glob("conf.d/*.conf")]
    texts = {etc / "nginx.conf": _text(etc / "nginx.conf")}
    texts |= {path: _INCLUDE.sub(_included, _text(path)) for path in sorted(paths)}
    upstreams = dict(pair for text in texts.values() for pair in _upstreams(text))
    return {
        path: [_virtual_host(block, upstreams) for block in _blocks(text, "server")] for path, text in texts.items()
    }


def _text(path: Path) -> str:
    return re.sub(r"(?<![^\s;{}])#[^\n]*", "", takeover_virtual_hosts.read(path))  # in a word it is a character


def _included(directive: re.Match[str]) -> str:
    return "\n".join(map(_text, takeover_virtual_hosts.included(nginx.ETC, directive[1])))


def _blocks(text: str, name: str) -> Iterator[str]:
    """Yield the contents of the blocks of a name."""
    for start in re.finditer(rf"(?<![\w$./-]){name}\s*\{{", text):
        yield _inside(text, start.end())


def _inside(text: str, begin: int) -> str:
    """Return the contents of the block that begins there."""
    depth, end = 1, begin
    while depth and end < len(text):
        depth += {"{": 1, "}": -1}.get(text[end], 0)
        end += 1
    return text[begin : end - 1]


def _folders(block: str, root: str = "") -> Iterator[tuple[str, Path]]:
    """Yield the locations in a block, also those in others, that serve files, each with the folder of these.

    Args:
        root: the ``root`` around the block.
    """
    inner, end = [], 0
    for start in _LOCATION.finditer(block):
        if start.start() >= end:
            inside = _inside(block, start.end())
            inner.append((start[1], inside))
            end = start.end() + len(inside)
    own = dict(_PLACE.findall(_without_blocks(block)))
    root = own.get("root", root)
    for location, inside in inner:
        text = _without_blocks(inside)
        place = dict(_PLACE.findall(text))
        if "alias" in place:
            yield location, Path(re.sub(r"/\$\d+$", "", place["alias"].strip()))
        elif "root" in place or (root and not _ELSEWHERE.search(text)):
            yield location, Path(place.get("root", root).strip(), location.strip("^/"))
        yield from _folders(inside, root)


def _without_blocks(text: str) -> str:
    """Return the directives of a block without those of the blocks in it."""
    while (shorter := _BLOCK.sub(";", text)) != text:
        text = shorter
    return text


def _upstreams(text: str) -> Iterator[tuple[str, list[str]]]:
    for name in re.findall(r"(?<![\w$.-])upstream\s+(\S+?)\s*\{", text):
        for block in _blocks(text, rf"upstream\s+{re.escape(name)}"):
            yield name, re.findall(r"(?<![\w$.-])server\s+([^;\s]+)", block)


def _virtual_host(block: str, upstreams: dict[str, list[str]]) -> VirtualHost:
    def values(directive: str) -> list[str]:
        return [value.strip() for value in re.findall(rf"(?<![\w$.-]){directive}\s+([^;{{}}]+);", block)]

    listens = values("listen")
    ports = [int(port[1]) if (port := re.match(r"(?:\S*:)?(\d+)(?:\s|$)", value)) else 80 for value in listens]
    passes = [_plain(value) for value in values("(?:proxy|uwsgi|scgi|grpc)_pass")]
    passed = [re.sub(r"^(https?|grpcs?|uwsgi)://", "", value) for value in passes]
    addresses = [address for value in passed for address in upstreams.get(value.partition("/")[0], [value])]
    return VirtualHost(
        names=[_plain(name).lower() or '""' for value in values("server_name") for name in value.split()],
        ports=ports or [80],
        tls=any(re.search(r"\bssl\b", value) for value in listens) or "on" in values("ssl"),
        addresses=[found for value in addresses if (found := takeover_virtual_hosts.address(value))],
        folders=dict(_folders(block)),
    )


def _plain(word: str) -> str:
    """Return a word of nginx without its quotes."""
    return word.strip("\"'")
