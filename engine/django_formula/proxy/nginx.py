"""nginx (https://nginx.org/en/docs/) as the proxy of sites: a server for each domain includes the domain's sites."""

import fnmatch
import functools
import hashlib
import os.path
import re
from collections.abc import Collection, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from django_formula.host import commands, config_files, daemons, file, template
from django_formula.host import ports as host_ports
from django_formula.host.commands import DeploymentError
from django_formula.host.config_files import OURS, Files
from django_formula.host.ports import Listen, Place
from django_formula.kind import kinds
from django_formula.proxy import contract
from django_formula.proxy.contract import Bound, Proxy, Server
from django_formula.site import domains
from django_formula.site.sites import Site

ETC = Path("/etc/nginx")
IPV6 = Path("/proc/net/if_inet6")

_BYTES = {"": 1, "k": 1 << 10, "m": 1 << 20, "g": 1 << 30}
_SECONDS = {"ms": 0.001, "s": 1, "m": 60, "h": 3600, "d": 86400, "w": 604800, "M": 2592000, "y": 31536000}
#: The size of a bucket of nginx's table of server names where nothing sets it: that of a line of the processor's cache.
_USUAL_BUCKET = 64
#: The version of nginx that has `ssl_reject_handshake` and `ssl_conf_command`: Ubuntu 22.04 has 1.18.
_TLS_DIRECTIVES = (1, 19, 4)


class Nginx(Proxy):
    """nginx, with a file of upstream and maps for each site in ``conf.d``."""

    DAEMON = daemons.NGINX
    KIND = kinds.PROXIES["nginx"]
    DEFAULT_SITE = "default"

    @property
    def etc(self) -> Path:
        """The folder of its configuration."""
        return ETC

    def main_file(self, site: Site) -> Path:
        """Return the file with the upstream of a site."""
        return ETC / "conf.d" / f"django-{site.name}.conf"

    def share(self, site: Site, domain: str) -> Path:
        """Return the link by which the servers of a domain include the locations of a site."""
        return ETC / "django" / domains.file_name(domain) / f"{site.name}.conf"

    def shares(self, site: Site) -> list[Path]:
        """Return the links of a site that exist, and the marks of domains that only redirect."""
        return [*ETC.glob(f"django/*/{site.name}.conf"), *ETC.glob(f"django/*/{site.name}.redirect")]

    def files(self, site: Site, variables: Mapping[str, Any], templates: Mapping[str, str]) -> Files:
        """Return what a site has in addition to the servers of its domains."""
        paths = (self.main_file(site), self.locations(site))
        return {
            path: template.render(templates, kinds.FILES + name, **variables)
            for path, name in zip(paths, self.KIND.site, strict=True)
        }

    def shared(self, site: Site, addresses: Collection[str]) -> dict[str, Any]:
        """Return the names of nginx's variables that sites with the same options share."""
        return _shared_variables(site, addresses)

    def names_addresses(self, site: Site) -> bool:
        """Return whether nginx's own files name the address of a release, and do not include the release's.

        An address with options, as `proxy:upstreams:self` gives it, is in nginx's own files.
        """
        text = file.read_text(self.main_file(site))
        return "self" in site.config["proxy"].get("upstreams", ()) or (
            text is not None and f"include {site.current}/config/upstream.conf;" not in text
        )

    def protocols(self) -> Path:
        """Return the file with what all servers of https have in common."""
        return ETC / "snippets/django-tls.conf"

    def tls_variables(self) -> dict[str, Any]:
        """Return which directives of https this version has."""
        return {"has_openssl_options": version() >= _TLS_DIRECTIVES}

    def for_names(self, names: Collection[str]) -> Files:
        """Return the file with the size of the table of server names, where one of them does not fit by default.

        nginx refuses its configuration otherwise, and a second directive too where the host has one.
        """
        path = ETC / "conf.d/django-names.conf"
        size = bucket(max((len(name.encode()) for name in names), default=0))
        if size <= _USUAL_BUCKET or _sets_bucket(path):
            return {path: None} if path.exists() else {}
        return {path: f"{OURS}: its longest server name needs it.\nserver_names_hash_bucket_size {size};\n"}

    def listening(self, http: Collection[Listen], https: Collection[Listen]) -> dict[str, Any]:
        """Return the template variables about where nginx listens, and how this version writes it."""
        has_http2_directive = bool(https) and version() >= (1, 25, 1)
        everywhere = ["{}", "[::]:{}"] if _has_ipv6() else ["{}"]

        def places(listens: Collection[Listen]) -> list[str]:
            ordered = host_ports.ordered(listens)
            return [form.format(one) for one in ordered for form in (everywhere if isinstance(one, int) else ["{}"])]

        return {
            "http": places(http),
            "https": places(https),
            "flags": " ssl" if has_http2_directive else " ssl http2",
            "http2_directive": has_http2_directive,
        }

    def has_certificate(self, text: str, certificate: Path) -> bool:
        """Return whether the servers in the text of a domain's file use a certificate."""
        return f"{certificate};" in text

    def place(self, text: str, *, tls: bool) -> Place | None:
        """Return the first place where the servers in the text of a domain's file listen, for https or for http."""
        found = re.search(r"listen (\S+) ssl" if tls else r"listen ([^\s;]+);", text)
        return host_ports.split(found[1]) if found else None

    def path(self, text: str) -> str:
        """Return the path of a site by the text of its locations; ``/`` for an empty one."""
        found = re.search(r"(?m)^location (?:= )?(/\S*) \{", text)
        return found[1] if found else "/"

    def listens(self, text: str) -> set[str]:
        """Return where the servers in the text of a domain's file listen, in nginx's syntax."""
        return {*re.findall(r"(?m)^    listen ([^\s;]+)", text)}

    def places(self) -> set[Place]:
        """Return where nginx listens by its whole configuration; an address is left out where it listens on all."""
        text = re.sub(r"(?m)(^|\s)#.*", "", _tested("-T"))
        found = set()
        for listen in re.findall(r"(?<![^\s;{])listen\s+([^\s;]+)", text):
            is_whole = re.fullmatch(r"(?:(?:(\[.*\]|[^:]*):)?(\d+))|(\[.*\]|[^:]+)", listen)
            if is_whole:
                host = (is_whole[1] or is_whole[3] or "*").strip("[]").replace("*", host_ports.ALL[0])
                found.add((host, int(is_whole[2] or 80)))
        everywhere = {(host, port) for host, port in found if host in host_ports.ALL}
        return everywhere | {
            (host, port) for host, port in found if (host_ports.ALL[":" in host], port) not in everywhere
        }

    def servers(self) -> list[Server]:
        """Return all servers of nginx's whole configuration, in their order."""
        return servers(_tested("-T"))

    def chosen(self, candidates: Sequence[Server], name: str, is_default: Sequence[bool]) -> Server | None:
        """Return which server answers for a name: of several that fit, nginx takes the best."""
        return chosen(candidates, name, is_default)

    def check(self) -> None:
        """Have nginx test its configuration.

        Raises:
            DeploymentError: nginx refuses it; the message is nginx's, with file and line.
        """
        _tested("-t")

    def is_idle(self) -> bool:
        """Return whether nginx has no site any more, of the formula or other ones."""
        paths = [*ETC.glob("sites-enabled/*"), *ETC.glob("conf.d/*.conf")]
        return not any(path.is_file() and path.stat().st_size for path in paths)

    def foreign_servers(self, port: int) -> list[Path]:
        """Return the enabled files with a server on a port that the formula did not write."""
        paths = sorted([*ETC.glob("sites-enabled/*"), *ETC.glob("conf.d/*.conf")])
        foreign = ((path, path.read_text(errors="replace")) for path in paths if not config_files.is_managed(path))
        return [path for path, text in foreign if port in _ports(text)]

    def refused(self) -> tuple[list[Listen], list[Listen]]:
        """Return where the formula's default server refuses unknown hosts, by http and by https."""
        text = file.read_text(ETC / "sites-available/django-default") or ""
        plain, secure = (re.findall(pattern, text) for pattern in (r"listen (\S+) default_server", r"listen (\S+) ssl"))
        return _as_in_pillar(plain), _as_in_pillar(secure)

    def default_server(
        self,
        http: Collection[Listen],
        https: Collection[Listen],
        templates: Mapping[str, str],
        without: Collection[Path] = (),
    ) -> Files:
        """Return the server that refuses unknown hosts, where no other file has a default server."""
        name = "django-default"
        taken = _existing_defaults(ETC / "sites-available" / name, without)
        free, secure = ([listen for listen in some if listen not in taken] for some in (http, https))
        certificate = ETC / "django/unknown-hosts.pem"
        if not free and not secure:
            return dict.fromkeys((ETC / "sites-enabled" / name, ETC / "sites-available" / name, certificate))
        needs_certificate = bool(secure) and version() < _TLS_DIRECTIVES
        content = template.render(
            templates,
            kinds.FILES + self.KIND.default_server,
            ours=OURS,
            certificate=certificate if needs_certificate else None,
            **self.listening(free, secure),
        )
        return {
            **(self.shared_protocols(templates) if secure else {}),
            certificate: (file.read_text(certificate) or _nameless()) if needs_certificate else None,
            ETC / "sites-available" / name: content,
            ETC / "sites-enabled" / name: f"-> ../sites-available/{name}",
        }


def _tested(option: str) -> str:
    """Return what nginx prints of its configuration, with ``-t`` or ``-T``.

    Raises:
        DeploymentError: nginx refuses it; the message is nginx's, with file and line.
    """
    try:
        return commands.run(["nginx", option, "-q"], doing=f"nginx {option}")
    except DeploymentError as error:
        found = re.search(r"\[emerg\] (?:\d+#\d+: )?(.*)", error.log)
        cause = found.group(1) if found else error.message
        raise DeploymentError(
            f"nginx refuses its configuration: {cause}", hint=contract.refusal_hint("nginx", cause)
        ) from None


def _nameless() -> str:
    """Return a certificate of no host, with its key: what a client of an unknown host gets before the end."""
    curve = ("-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes")
    argv = ["openssl", "req", "-x509", *curve, "-days", "36500", "-subj", "/CN=invalid", "-keyout", "-", "-out", "-"]
    return commands.run(argv, doing="creating a certificate for unknown hosts")


def _ports(text: str) -> set[int]:
    """Return the ports of the servers in a file that the formula did not write."""
    text = re.sub(r"#.*", "", text)
    listens = re.findall(r"(?<![^\s;{])listen\s+([^\s;]+)", text)
    if not listens and re.search(r"(?<![^\s;{}])server\s*\{", text):
        return {80}
    found = [re.search(r"(?:^|:)(\d+)$", listen) for listen in listens if not listen.startswith("unix:")]
    return {int(port[1]) if port else 80 for port in found}


def bucket(length: int) -> int:
    """Return the smallest size of a bucket, a power of two, that has room for a name (ngx_hash.h)."""
    needed, size = 16 + (length + 2 + 7) // 8 * 8, _USUAL_BUCKET
    while size < needed:
        size *= 2
    return size


def _sets_bucket(own: Path) -> bool:
    """Return whether a file of the host, not ours, sets the size of that table."""
    pattern = re.compile(r"(?m)^[^#\n]*\bserver_names_hash_bucket_size\b")
    paths = {ETC / "nginx.conf", *ETC.glob("conf.d/*.conf"), *ETC.glob("sites-enabled/*")} - {own}
    return any(pattern.search(file.read_text(path) or "") for path in paths if path.is_file())


def size(text: object) -> int | None:
    """Return the bytes of a size in nginx's notation, such as ``75M``, or None where it is not one."""
    found = re.fullmatch(r"([0-9]+)([kmg]?)", str(text).lower())
    return int(found[1]) * _BYTES[found[2]] if found else None


def age(text: str) -> int:
    """Return the seconds of a time in nginx's notation, such as ``30d`` or ``1y``."""
    number = text.rstrip("".join(_SECONDS))
    return int(int(number) * _SECONDS[text.removeprefix(number)])


def _shared_variables(site: Site, addresses: Collection[str]) -> dict[str, Any]:
    """Return the names of nginx's variables whose values follow from options that several sites may share.

    A variable that two sites define alike counts once. nginx warns where its table of variables has too many, and
    refuses names of more than 46 characters; the directives that enlarge it may be in the host's nginx.conf already,
    where a second one is an error.
    """
    proxy, trusted = site.config["proxy"], site.config["proxy"]["trusted"]
    return {
        "during_maintenance": shared_variable("allowed", *site.config["maintenance"]["allow"]),
        **{name: shared_variable(name, *trusted) for name in ("trusted", "scheme", "https", "request")},
        **{name: shared_variable(name, *addresses) for name in ("limited", "client")},
        "headers": {name: shared_variable("header", name, *trusted) for name in proxy.get("trusted_headers", ())},
    }


def shared_variable(purpose: str, *values: str) -> str:
    """Return the name of a variable of nginx, the same for the same values."""
    return f"django_{purpose}_{hashlib.sha256(' '.join(sorted(values)).encode()).hexdigest()[:6]}"


@functools.cache
def version() -> tuple[int, ...]:
    """Return the version of nginx, or a recent one where nginx is not installed yet."""
    try:
        output = commands.run(["nginx", "-v"], doing="nginx -v", errors_too=True)
    except DeploymentError:
        return (1, 26)
    found = re.search(r"nginx/(\d+)\.(\d+)\.(\d+)", output)
    return tuple(map(int, found.groups())) if found else (1, 26)


def _has_ipv6() -> bool:
    """Return whether an interface of this host has an IPv6 address: without one, nginx cannot listen on IPv6."""
    return bool(file.read_text(IPV6))


def _as_in_pillar(places: Collection[str]) -> list[Listen]:
    """Return places of nginx as the pillar has them: a port without address is for IPv4 and IPv6."""
    ports = {f"[::]:{place}" for place in places if place.isdecimal()}
    return host_ports.ordered([int(place) if place.isdecimal() else place for place in places if place not in ports])


def _existing_defaults(own: Path, without: Collection[Path] = ()) -> set[Listen]:
    """Return the ports and the addresses for which existing files, not the formula's, name a default server."""
    taken: set[Listen] = set()
    for path in [ETC / "nginx.conf", *ETC.glob("conf.d/*.conf"), *ETC.glob("sites-enabled/*")]:
        if path.is_file() and path.resolve() != own and path not in without:
            text = re.sub(r"#.*", "", path.read_text(errors="replace"))
            for listen in re.findall(r"(?<![^\s;{])listen\s+([^;]*)(?<!\S)default(?:_server)?(?![^\s;])", text):
                port = re.search(r"(?:^|:)(\d+)\s", listen)
                taken |= {int(port.group(1)) if port else 80, *re.findall(r"^(\S+:\d+)\s", listen)}
    return taken


PROXY = Nginx()


# The servers of nginx's whole configuration, as ``nginx -T`` prints it: with includes, files and lines

#: A comment, a text in quotes, a word, or a character that ends a directive.
_TOKEN = re.compile(
    r"""#[^\n]*|"(?:[^"\\]|\\.)*"|'(?:[^'\\]|\\.)*'|[{};]|(?:\$\{|\\.|[^\s{};"'\\])(?:\$\{|\\.|[^\s{};\\])*""", re.S
)
_FILE = re.compile(r"(?m)^# configuration file (.+):\n")
#: More files than that within each other are a circle, which nginx refuses.
_DEPTH = 20


class _Directive(NamedTuple):
    """A directive with its words, and the directives of its block; empty where it has none."""

    words: list[str]
    block: list["_Directive"]
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


def parsed(text: str, path: str) -> list[_Directive]:
    """Return the directives of a text; what is no configuration gives those before it."""
    top: list[_Directive] = []
    blocks, begins, line, place = [top], 1, 1, 0
    words: list[str] = []
    for found in _TOKEN.finditer(text):
        line, place = line + text.count("\n", place, found.start()), found.start()
        piece = found[0]
        if piece.startswith("#"):
            continue
        if piece in "{};":
            if words:
                directive = _Directive(words, [], path, begins)
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
    directives: Sequence[_Directive], files: Mapping[str, Sequence[_Directive]], folder: str, depth: int = 0
) -> Iterator[_Directive]:
    """Yield directives, in place of each ``include`` those of its files in the order of their names."""
    for directive in directives:
        if directive.words[0] != "include" or len(directive.words) != 2:
            yield directive
        elif depth < _DEPTH:
            pattern = os.path.join(folder, directive.words[1])
            for path in sorted(path for path in files if fnmatch.fnmatch(path, pattern)):
                if path.count("/") == pattern.count("/"):
                    yield from _expand(files[path], files, folder, depth + 1)


def _server(directive: _Directive, files: Mapping[str, Sequence[_Directive]], folder: str) -> Server:
    own = [*_expand(directive.block, files, folder)]
    listens = [bound for one in own if one.words[0] == "listen" for bound in _bound(one.words[1:])]
    names = [name.lower() for one in own if one.words[0] == "server_name" for name in one.words[1:]]
    everywhere = Bound(host_ports.ALL[0], 80, is_default=False)
    has_listen = any(one.words[0] == "listen" for one in own)
    return Server(directive.path, directive.line, listens if has_listen else [everywhere], names or [""])


def _bound(words: Sequence[str]) -> Iterator[Bound]:
    """Yield where a directive ``listen`` has nginx listen; nothing for a unix socket."""
    found = re.fullmatch(r"(?:(\[.*\]|[^:]+):)?(\d+)|(\[.*\]|[^:]+)", words[0]) if words else None
    if not found:
        return
    host = (found[1] or found[3] or "*").strip("[]")
    host = {"*": host_ports.ALL[0], "localhost": "127.0.0.1"}.get(host, host)
    port, is_default = int(found[2] or 80), bool({"default_server", "default"} & {*words})
    yield Bound(host, port, is_default)
    if host == host_ports.ALL[1] and "ipv6only=off" in words:
        yield Bound(host_ports.ALL[0], port, is_default)


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
