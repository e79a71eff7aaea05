"""What to do about a file that a proxy refuses: one of the formula's is written from the pillar, and names its key."""

import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from django_formula.host import config_files, file
from django_formula.host.commands import DeploymentError
from django_formula.site import sites
from django_formula.site.sites import Site
from django_formula.untrusted.headers import meta

#: Where a proxy says that the error is: ``in /etc/nginx/nginx.conf:12``, ``on line 12 of /etc/apache2/apache2.conf``.
_PLACES = (re.compile(r" in (?P<path>/\S+?):(?P<line>\d+)\b"), re.compile(r" line (?P<line>\d+) of (?P<path>/[^\s:]+)"))
#: What the first line of a file of the formula is about.
_ABOUT = re.compile(r"for the (site|domain) ([^\s;]+?)[.;,]?(?:\s|$)")
#: The keys that these files are rendered from, those that a mistake is most often in first.
_KEYS = ("proxy", "media", "static", "tls", "maintenance", "domains", "redirect_domains")


def hint(title: str, cause: str) -> str:
    """Return what to do about a configuration that a proxy refuses.

    Args:
        title: the name of the proxy.
        cause: its message.
    """
    keeps = f"until then {title} keeps its running configuration"
    found = next(filter(None, (place.search(cause) for place in _PLACES)), None)
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
