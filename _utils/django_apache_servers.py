"""What others have told Apache: the virtual hosts of the files that are not ours, and what is behind them."""

import re
import shlex
from collections.abc import Collection, Iterator, Mapping
from pathlib import Path

import django_apache
import django_foreign_servers
import django_site
from django_foreign_servers import Server

#: The options of a daemon of mod_wsgi that name folders of the project, or of its virtualenv.
_FOLDERS = ("home", "python-home", "python-path")
_INCLUDE = re.compile(r'(?mi)^[ \t]*Include(?:Optional)?[ \t]+"?([^"\s]+)"?[ \t]*$')


def servers() -> dict[Path, list[Server]]:
    """The virtual hosts in each file of Apache that is not ours."""
    texts = _texts()
    whole = "\n".join(texts.values())
    balancers = {name.strip("/"): list(_behind(block, {})) for name, block in _blocks(whole, "Proxy", "balancer://")}
    daemons = {name: options for name, *options in _said(whole, "WSGIDaemonProcess")}
    embedded = [f"python-home={home}" for (home, *_more) in _said(whole, "WSGIPythonHome")]
    daemons[""] = embedded + [f"python-path={path}" for (path, *_more) in _said(whole, "WSGIPythonPath")]
    return {
        path: [_server(places, block, balancers, daemons) for places, block in _blocks(text, "VirtualHost")]
        for path, text in texts.items()
    }


def problems(taken: Collection[Path], folders: Collection[Path]) -> Iterator[str]:
    """Why files of Apache cannot be set aside while the others stay as they are.

    Args:
        taken: those with a domain of the site.
        folders: of the old project.
    """
    enabled = {path: text for path, text in _texts().items() if path.parent.name != "sites-available"}
    for path, text in enabled.items():
        if path in taken and _said(text, "Listen"):
            yield f"{path} has the Listen of its port in itself: move that to {django_apache.ETC}/ports.conf"
        words = [word for line in _said(text, r"WSGI\w+") for word in line]
        paths = [Path(part) for word in words for part in re.split("[=:]", word) if part.startswith("/")]
        if path not in taken and any(one.is_relative_to(folder) for one in paths for folder in folders):
            yield f"{path} leads into the old site too: have the WSGI lines in the file of its virtual host only"


def _texts() -> dict[Path, str]:
    """The files that are not ours, each without its comments, a directive a line, with what a virtual host includes."""
    etc = django_apache.ETC
    texts = {etc / "apache2.conf": _text(etc / "apache2.conf")}
    for name in ("conf-enabled", "sites-available", "sites-enabled"):
        texts |= {path: _INCLUDE.sub(_included, _text(path)) for path in sorted(etc.glob(f"{name}/*"))}
    return texts


def _text(path: Path) -> str:
    text = django_foreign_servers.read(path).replace("\\\n", " ")
    return re.sub(r"(?m)^\s*#.*$", "", text)


def _included(directive: re.Match[str]) -> str:
    return "\n".join(map(_text, django_foreign_servers.included(django_apache.ETC, directive[1])))


def _blocks(text: str, name: str, what: str = "") -> list[tuple[str, str]]:
    """The blocks of a name, of those whose argument begins so: the rest of it, and the contents."""
    return re.findall(rf'(?is)<{name}\s+"?{what}([^">]*)"?\s*>(.*?)</{name}>', text)


def _said(text: str, directive: str) -> list[list[str]]:
    """What follows a directive, each time it is there, in words."""
    return [_words(line) for line in re.findall(rf"(?mi)^[ \t]*(?:{directive})[ \t]+(\S.*)$", text)]


def _words(line: str) -> list[str]:
    try:
        return shlex.split(line)
    except ValueError:
        return line.split()


def _server(places: str, block: str, balancers: Mapping[str, list[str]], daemons: Mapping[str, list[str]]) -> Server:
    names = [re.sub(r"^\w+://|:\d+$", "", name) for line in _said(block, "ServerName|ServerAlias") for name in line]
    ports = [int(found[1]) if (found := re.search(r":(\d+)$", place)) else 80 for place in places.split()]
    folders = {line[0]: Path(line[1]) for line in _said(block, "Alias") if len(line) > 1}
    scripts = [line for line in _said(block, "WSGIScriptAlias") if len(line) > 1]
    for line in scripts:
        folders[line[0]] = Path(line[1]).parent
        for option in _options(block, daemons):
            name, _equals, value = option.partition("=")
            folders |= {f"{name} {path}": Path(path) for path in value.split(":") if name in _FOLDERS and path}
    return Server(
        names=names,
        ports=ports,
        tls=["on"] in [[word.lower() for word in line] for line in _said(block, "SSLEngine")]
        or bool(_said(block, "SSLCertificateFile")),
        addresses=list(dict.fromkeys(_behind(block, balancers))),
        folders=folders,
        user=_user(_options(block, daemons)) if scripts else "",
    )


def _options(block: str, daemons: Mapping[str, list[str]]) -> list[str]:
    """What a virtual host's daemon of mod_wsgi is told; of embedded mode, what Apache's own Python is."""
    named = [name for name, *_more in _said(block, "WSGIProcessGroup")]
    named += re.findall(r"(?m)^\s*WSGIScriptAlias.*\bprocess-group=(\S+)", block)
    return next((daemons[name] for name in named if name in daemons), daemons[""])


def _user(options: list[str]) -> str:
    """Whose the processes are that run the project: as its daemon is told, or Apache's own."""
    own = re.search(r"APACHE_RUN_USER=(\S+)", django_site.read_text(django_apache.ETC / "envvars") or "")
    said = [option.partition("=")[2] for option in options if option.startswith("user=")]
    return [own[1] if own else "www-data", *said][-1]


def _behind(text: str, balancers: Mapping[str, list[str]]) -> Iterator[str]:
    """The addresses to which requests are handed on."""
    lines = _said(text, "ProxyPass|ProxyPassMatch|BalancerMember|SetHandler")
    lines += [line for line in _said(text, "RewriteRule") if "P" in line[-1].strip("[]").split(",")]
    for word in [word for line in lines for word in line]:
        found = re.search(r"(unix:/[^|]+)|(\w+)://([^/]+)", word)
        if found and found[2] == "balancer":
            yield from balancers.get(found[3], ())
        elif found and (address := django_foreign_servers.address(found[1] or found[3])):
            yield address
