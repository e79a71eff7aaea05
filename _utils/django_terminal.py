"""Texts for people at a terminal, as Salt's own outputters print them."""

import re
from collections.abc import Iterable

_CONTROL = re.compile(r"[\x00-\x08\x0b-\x1f\x7f-\x9f]")
_PARENTHESES = str.maketrans("{}", "()")
_ENDS = (".", "!", "?", "…")


def plain(text: str) -> str:
    """Return a text without control characters: what a project or another program reported may have some."""
    return _CONTROL.sub("", text)


def warnings(texts: Iterable[str]) -> list[str]:
    """Return the warnings of a state: each one once, a sentence that ends with a period, without braces.

    Salt's highstate outputter formats warnings with ``str.format`` where ``state_output`` is terse or mixed, so that a
    brace is a KeyError there. Where it is full, the outputter fills all warnings of a state into one paragraph.
    """
    return list(dict.fromkeys(map(_sentence, texts)))


def _sentence(text: str) -> str:
    words = "; ".join(line.strip() for line in plain(text).splitlines() if line.strip()).translate(_PARENTHESES)
    return words if words.endswith(_ENDS) else f"{words}."
