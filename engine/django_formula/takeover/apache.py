"""Existing virtual hosts of Apache, in files that the formula has not written."""

import re
import shlex
from collections.abc import Collection, Iterator, Mapping
from pathlib import Path

from django_formula.host import file
from django_formula.proxy import apache
from django_formula.takeover import virtual_hosts as takeover_virtual_hosts
from django_formula.takeover.virtual_hosts import VirtualHost

#: The options of a daemon of mod_wsgi that name folders of the project, or of its virtualenv.
_FOLDERS = ("home", "python-home", "python-path")
_INCLUDE = re.compile(r'(?mi)^[ \t]*Include(?:Optional)?[ \t]+"?([^"\s]+)"?[ \t]*$')
_SCRIPT = "WSGIScriptAlias|WSGIScriptAliasMatch"
_PYTHON = "WSGIPythonHome|WSGIPythonPath"
_PASSES = "ProxyPass|ProxyPassMatch|BalancerMember|SetHandler"


def virtual_hosts() -> dict[Path, list[VirtualHost]]:
    """Return the virtual hosts in each file of Apache that the formula has not written."""
    texts = _texts()
    whole = "\n".join(texts.values())
    balancers = {name.strip("/"): list(_behind(block, {})) for name, block in _blocks(whole, "Proxy", "balancer://")}
    daemons = {name: options for name, *options in _arguments(whole, "WSGIDaemonProcess")}
    # In embedded mode no daemon is named, and the module paths are those of Apache's own Python.
    daemons[""] = [f"python-path={path}" for path, *_more in _arguments(whole, _PYTHON)]
    return {
        path: [_virtual_host(places, block, balancers, daemons) for places, block in _blocks(text, "VirtualHost")]
        for path, text in texts.items()
    }


def refusals(moved: Collection[Path], folders: Collection[Path]) -> Iterator[str]:
    """Yield the reasons why files of Apache cannot be moved aside while the others stay as they are.

    Args:
        moved: the files with a domain of the site.
        folders: the folders of the existing project.
    """
    enabled = {path: text for path, text in _texts().items() if path.parent.name != "sites-available"}
    others = "\n".join(text for path, text in enabled.items() if path not in moved)
    for path, text in enabled.items():
        if path in moved:
            needed = list(_needed(text, others))
            if needed:
                yield f"{path} has {', '.join(needed)}, which other files may need: move that to a file that stays"
        elif any(one.is_relative_to(folder) for one in _loaded_paths(text) for folder in folders):
            yield f"{path} names paths of the existing deployment too: move that to the file of its virtual host"


def _needed(text: str, others: str) -> Iterator[str]:
    """Yield the directives of a file that concern all of Apache, or what is in other files."""
    yield from (name for name in ("Listen", "LoadModule", "Define") if _arguments(text, name))
    used = {name for _place, block in _blocks(others, "VirtualHost") for name in _groups(block)}
    yield from (f"WSGIDaemonProcess {name}" for name, *_more in _arguments(text, "WSGIDaemonProcess") if name in used)
    balancers = {name.strip("/") for name, _block in _blocks(text, "Proxy", "balancer://")}
    yield from (f"balancer://{name}" for name in sorted(balancers) if f"balancer://{name}" in others)
    is_embedded = any(
        _arguments(block, _SCRIPT) and not _groups(block) for _place, block in _blocks(others, "VirtualHost")
    )
    if _arguments(text, _PYTHON) and is_embedded:
        yield "WSGIPythonHome or WSGIPythonPath"


def _loaded_paths(text: str) -> list[Path]:
    """Return the paths from which Apache or mod_wsgi is configured to load something."""
    words = [word for line in _arguments(text, r"WSGI\w+|LoadModule") for word in line]
    return [Path(part) for word in words for part in re.split("[=:]", word) if part.startswith("/")]


def _texts() -> dict[Path, str]:
    """Return the files that the formula has not written: no comments, one directive per line, includes resolved."""
    etc = apache.ETC
    texts = {etc / "apache2.conf": _text(etc / "apache2.conf")}
    for pattern in ("mods-enabled/*.load", *(f"{name}-enabled/*.conf" for name in ("mods", "conf"))):
        texts |= {path: _text(path) for path in sorted(etc.glob(pattern))}
    for pattern in ("sites-available/*.conf", "sites-enabled/*.conf"):
        texts |= {path: _INCLUDE.sub(_included, _text(path)) for path in sorted(etc.glob(pattern))}
    defined = dict(line for text in texts.values() for line in _arguments(text, "Define") if len(line) == 2)
    return {
        path: re.sub(r"\$\{(\w+)\}", lambda name: defined.get(name[1], name[0]), text) for path, text in texts.items()
    }


def _text(path: Path) -> str:
    text = takeover_virtual_hosts.read(path).replace("\\\n", " ")
    return re.sub(r"(?m)^[ \t]*#.*$", "", text)


def _included(directive: re.Match[str]) -> str:
    return "\n".join(map(_text, takeover_virtual_hosts.included(apache.ETC, directive[1])))


def _blocks(text: str, name: str, what: str = "") -> list[tuple[str, str]]:
    """Return the blocks of a name whose argument begins with `what`: the rest of the argument, and the contents."""
    return re.findall(rf'(?is)<{name}\s+"?{what}([^">]*)"?\s*>(.*?)</{name}>', text)


def _arguments(text: str, directive: str) -> list[list[str]]:
    """Return the arguments of each use of a directive."""
    return [_words(line) for line in re.findall(rf"(?mi)^[ \t]*(?:{directive})[ \t]+(\S.*)$", text)]


def _words(line: str) -> list[str]:
    try:
        return shlex.split(line)
    except ValueError:
        return line.split()


def _virtual_host(
    places: str, block: str, balancers: Mapping[str, list[str]], daemons: Mapping[str, list[str]]
) -> VirtualHost:
    names = [
        re.sub(r"^\w+://|:\d+$", "", name) for line in _arguments(block, "ServerName|ServerAlias") for name in line
    ]
    ports = [int(found[1]) if (found := re.search(r":(\d+)$", place)) else 80 for place in places.split()]
    scripts = [Path(line[1]) for line in _arguments(block, _SCRIPT) if len(line) > 1]
    options = next((daemons[name] for name in _groups(block) if name in daemons), daemons[""])
    return VirtualHost(
        names=[name.lower() for name in names],
        ports=ports,
        tls=["on"] in [[word.lower() for word in line] for line in _arguments(block, "SSLEngine")]
        or bool(_arguments(block, "SSLCertificateFile")),
        addresses=list(dict.fromkeys(_behind(block, balancers))),
        folders={line[0]: Path(line[1]) for line in _arguments(block, "Alias") if len(line) > 1},
        wsgi_user=_user(options) if scripts else "",
        wsgi_folders=tuple(_wsgi_folders(scripts, options)) if scripts else (),
    )


def _groups(block: str) -> list[str]:
    """Return the daemons of mod_wsgi that a virtual host names; none in embedded mode."""
    named = [name for name, *_more in _arguments(block, "WSGIProcessGroup")]
    options = [word for line in _arguments(block, _SCRIPT) for word in line[2:]]
    return [*named, *(word.partition("=")[2] for word in options if word.startswith("process-group="))]


def _wsgi_folders(scripts: list[Path], options: list[str]) -> Iterator[Path]:
    """Yield the folders that may hold the project: of its script, of paths in that, and of the daemon's options."""
    for script in scripts:
        yield script.parent
        text = file.read_untrusted(script).decode(errors="replace")
        yield from map(Path, re.findall(r"[\"'](/[^\"'\n]+)[\"']", text))
    for option in options:
        name, _equals, value = option.partition("=")
        yield from (Path(path) for path in value.split(":") if name in _FOLDERS and path)


def _user(options: list[str]) -> str:
    """Return the user whose processes run the project: of its daemon's options, or Apache's own."""
    own = re.search(r"APACHE_RUN_USER=(\S+)", file.read_text(apache.ETC / "envvars") or "")
    configured = [option.partition("=")[2] for option in options if option.startswith("user=")]
    return [own[1] if own else "www-data", *configured][-1]


def _behind(text: str, balancers: Mapping[str, list[str]]) -> Iterator[str]:
    """Yield the addresses that requests are passed to, without those of PHP."""
    lines = _arguments(text, _PASSES)
    lines += [
        line for line in _arguments(text, "RewriteRule") if {"p", "proxy"} & {*line[-1].lower().strip("[]").split(",")}
    ]
    for word in [word for line in lines for word in line if "fcgi://" not in word]:
        found = re.search(r"(unix:/[^|]+)|(\w+)://([^/]+)", word)
        if found and found[2] == "balancer":
            yield from balancers.get(found[3], ())
        elif found and (address := takeover_virtual_hosts.address(found[1] or found[3])):
            yield address
