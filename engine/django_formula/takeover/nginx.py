"""Existing server blocks of nginx, in files that the formula has not written."""

import re
from collections.abc import Iterator
from pathlib import Path

from django_formula.proxy import nginx
from django_formula.takeover import virtual_hosts as takeover_virtual_hosts
from django_formula.takeover.virtual_hosts import VirtualHost

_INCLUDE = re.compile(r"(?<![\w$./-])include\s+[\"']?([^;\"'\s]+)[\"']?\s*;")


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
    return re.sub(r"#[^\n]*", "", takeover_virtual_hosts.read(path))


def _included(directive: re.Match[str]) -> str:
    return "\n".join(map(_text, takeover_virtual_hosts.included(nginx.ETC, directive[1])))


def _blocks(text: str, name: str) -> Iterator[str]:
    """Yield the contents of the blocks of a name."""
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


def _virtual_host(block: str, upstreams: dict[str, list[str]]) -> VirtualHost:
    def values(directive: str) -> list[str]:
        return [value.strip() for value in re.findall(rf"(?<![\w$.-]){directive}\s+([^;{{}}]+);", block)]

    listens = values("listen")
    ports = [int(port[1]) if (port := re.match(r"(?:\S*:)?(\d+)(?:\s|$)", value)) else 80 for value in listens]
    passes = [_plain(value) for value in values("(?:proxy|uwsgi|scgi|grpc)_pass")]
    passed = [re.sub(r"^(https?|grpcs?|uwsgi)://", "", value) for value in passes]
    addresses = [address for value in passed for address in upstreams.get(value.partition("/")[0], [value])]
    folders = {}
    for location in re.finditer(r"(?<![\w$.-])location\s+([^{};]*?)(\S+)\s*\{([^{}]*)\}", block):
        where = re.search(r"(?<![\w$.-])(alias|root)\s+[\"']?(/[^;\"']*)", location[3])
        if where:
            below = location[2].strip("^/") if where[1] == "root" else ""
            folders[location[2]] = Path(where[2].strip(), below)
    return VirtualHost(
        names=[_plain(name).lower() or '""' for value in values("server_name") for name in value.split()],
        ports=ports or [80],
        tls=any(re.search(r"\bssl\b", value) for value in listens) or "on" in values("ssl"),
        addresses=[found for value in addresses if (found := takeover_virtual_hosts.address(value))],
        folders=folders,
    )


def _plain(word: str) -> str:
    """Return a word of nginx without its quotes."""
    return word.strip("\"'")
