"""The servers of nginx's whole configuration, as ``nginx -T`` prints it: with includes, files and lines."""

import fnmatch
import os.path
import re
from collections.abc import Iterator, Mapping, Sequence
from typing import NamedTuple

from django_formula.host import ports
from django_formula.proxy.contract import Bound, Server

#: A comment, a text in quotes, a word, or a character that ends a directive.
_TOKEN = re.compile(
    r"""#[^\n]*|"(?:[^"\\]|\\.)*"|'(?:[^'\\]|\\.)*'|[{};]|(?:\$\{|\\.|[^\s{};"'\\])(?:\$\{|\\.|[^\s{};\\])*""", re.S
)
_FILE = re.compile(r"(?m)^# configuration file (.+):\n")
#: More files than that within each other are a circle, which nginx refuses.
_DEPTH = 20


class Directive(NamedTuple):
    """A directive with its words, and the directives of its block; empty where it has none."""

    words: list[str]
    block: list["Directive"]
    path: str
    line: int


def servers(dump: str) -> list[Server]:
    """Return the servers of http, in the order in which nginx reads them.

    Example: ``servers("# configuration file /n:\\nhttp { server { listen 80; } }")[0].line == 2``
    """
    texts = dict(zip(*[iter(_FILE.split(dump)[1:])] * 2, strict=False))
    if not texts:
        return []
    main = next(iter(texts))
    folder, files = os.path.dirname(main), {path: parsed(text, path) for path, text in texts.items()}
    return [
        _server(one, files, folder)
        for http in _expand(files[main], files, folder)
        if http.words == ["http"]
        for one in _expand(http.block, files, folder)
        if one.words == ["server"]
    ]


def parsed(text: str, path: str) -> list[Directive]:
    """Return the directives of a text; what is no configuration gives those before it."""
    top: list[Directive] = []
    blocks, begins, line, place = [top], 1, 1, 0
    words: list[str] = []
    for found in _TOKEN.finditer(text):
        line, place = line + text.count("\n", place, found.start()), found.start()
        piece = found[0]
        if piece.startswith("#"):
            continue
        if piece in "{};":
            if words:
                directive = Directive(words, [], path, begins)
                blocks[-1].append(directive)
                if piece == "{":
                    blocks.append(directive.block)
            if piece == "}" and len(blocks) > 1:
                blocks.pop()
            words = []
        else:
            begins = begins if words else line
            words.append(piece[1:-1] if piece[0] in "\"'" else piece)
    return top


def _expand(
    directives: Sequence[Directive], files: Mapping[str, Sequence[Directive]], folder: str, depth: int = 0
) -> Iterator[Directive]:
    """Yield directives, in place of each ``include`` those of its files in the order of their names."""
    for directive in directives:
        if directive.words[0] != "include" or len(directive.words) != 2:
            yield directive
        elif depth < _DEPTH:
            pattern = os.path.join(folder, directive.words[1])
            for path in sorted(path for path in files if fnmatch.fnmatch(path, pattern)):
                if path.count("/") == pattern.count("/"):
                    yield from _expand(files[path], files, folder, depth + 1)


def _server(directive: Directive, files: Mapping[str, Sequence[Directive]], folder: str) -> Server:
    own = [*_expand(directive.block, files, folder)]
    listens = [bound for one in own if one.words[0] == "listen" for bound in _bound(one.words[1:])]
    names = [name.lower() for one in own if one.words[0] == "server_name" for name in one.words[1:]]
    everywhere = Bound(ports.ALL[0], 80, is_default=False)
    has_listen = any(one.words[0] == "listen" for one in own)
    return Server(directive.path, directive.line, listens if has_listen else [everywhere], names or [""])


def _bound(words: Sequence[str]) -> Iterator[Bound]:
    """Yield where a directive ``listen`` has nginx listen; nothing for a unix socket."""
    found = re.fullmatch(r"(?:(\[.*\]|[^:]+):)?(\d+)|(\[.*\]|[^:]+)", words[0]) if words else None
    if not found:
        return
    host = (found[1] or found[3] or "*").strip("[]")
    host = {"*": ports.ALL[0], "localhost": "127.0.0.1"}.get(host, host)
    port, is_default = int(found[2] or 80), bool({"default_server", "default"} & {*words})
    yield Bound(host, port, is_default)
    if host == ports.ALL[1] and "ipv6only=off" in words:
        yield Bound(ports.ALL[0], port, is_default)


def chosen(candidates: Sequence[Server], name: str, is_default: Sequence[bool]) -> Server | None:
    """Return which of the servers of an address and port answers for a name.

    After https://nginx.org/en/docs/http/request_processing.html and server_names.html.

    Args:
        candidates: the servers, in their order.
        name: in lower case.
        is_default: whether each is the default server there.
    """
    exact: dict[str, Server] = {}
    for server in candidates:
        for one in server.names:
            for known in (one[1:], f"*{one}") if one.startswith(".") else (one,):
                exact.setdefault(known, server)
    labels = name.split(".")
    leading = ("*." + ".".join(labels[number:]) for number in range(1, len(labels)))
    trailing = (".".join(labels[:number]) + ".*" for number in range(len(labels) - 1, 0, -1))
    for known in (name, *leading, *trailing):
        if known in exact:
            return exact[known]
    for server in candidates:
        for one in server.names:
            if one.startswith("~") and _matches(one[1:], name):
                return server
    return next((one for one, default in zip(candidates, is_default, strict=True) if default), None) or next(
        iter(candidates), None
    )


def _matches(pattern: str, name: str) -> bool:
    """Return whether a pattern of PCRE matches a name; one that Python cannot read does not."""
    try:
        return bool(
            re.search(pattern.replace("(?<", "(?P<").replace("(?P<=", "(?<=").replace("(?P<!", "(?<!"), name, re.I)
        )
    except re.error:
        return False
