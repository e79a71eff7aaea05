"""What hints for a site's failures are made of: the output that is searched, and the options of the site."""

import re
from collections.abc import Collection

from django_site import Site

#: The most characters of an output, and of each of its lines, that are searched for causes.
_TEXT, _LINE = 20_000, 2_000
#: What sets the colours of a terminal, in the middle of words too.
_COLOURS = re.compile(r"\x1b\[[0-9;]*m")


def bounded(text: str) -> str:
    """Return the end of an output, with the beginnings of its lines: a project controls how much it prints."""
    return "\n".join(line[:_LINE] for line in _COLOURS.sub("", text[-_TEXT:]).splitlines())


def at(site: Site) -> str:
    """Return the key of a site in the pillar."""
    return f"django:sites:{site.name}"


def listed(names: Collection[str]) -> str:
    """Return a list in one line of YAML."""
    quoted = (name if re.fullmatch(r"[\w/][\w./+ -]*", name) else f"'{_escaped(name)}'" for name in names)
    return f"[{', '.join(dict.fromkeys(quoted))}]"


def extended(site: Site, option: str, more: Collection[str]) -> str:
    """Return an option that is a list, with the values that the pillar has and more, so that it can be pasted."""
    return f"{at(site)}:{option}: {listed([*site.config.get(option, []), *more])}"


def _escaped(text: str) -> str:
    return text.replace("'", "''")
