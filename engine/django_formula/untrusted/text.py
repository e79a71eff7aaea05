"""Text that others wrote has four ways out: shown to a person, in a pillar, in a command, in a page.

Others are repositories, what a project prints, visitors, queues, other hosts and existing deployments. Their text is
data: no terminal, no renderer of Salt, no shell and no browser may take a part of it for an instruction. A function for
each way returns a type of its own, which nothing else makes (``test/style/test_text.py``). Why: docs/decisions/0072.
"""

import html
import logging
import re
import shlex
import sys
from collections.abc import Mapping
from typing import Any, NewType

#: Text for a terminal, an error, a log or a state: nothing in it moves the cursor, adds a line or turns the direction.
Shown = NewType("Shown", str)
#: YAML on one line, for a pillar: Jinja leaves it as it is.
InPillar = NewType("InPillar", str)
#: A command that a person may paste into a shell of root.
InCommand = NewType("InCommand", str)


class InPage(str):
    """HTML, in which text of others is escaped. A class, by which `element` knows what is HTML already."""

    __slots__ = ()


#: How programs colour their output.
_COLOUR = re.compile(r"\x1b\[[\d;]*m")
#: Login and password in URLs: of a password with an `@`, too.
_LOGIN = re.compile(r"(?<=://)[^/\s]*@")
#: The first character of what begins or ends a part of Jinja.
_JINJA = re.compile(r"\{(?=[{%#])|[}%#](?=\})")
#: Strings that YAML reads as strings without quotes, also between brackets; of ASCII alone.
_PLAIN = re.compile(r"\.?[A-Za-z/][\w./-]*(:[\w./@-]+)*|[\w.+-]+@[\w./-]+(:[\w./-]+)*", re.ASCII)
_PLAIN_WORDS = re.compile(r"[A-Za-z/][\w./+-]*( [\w./+-]+)*", re.ASCII)
#: Strings that YAML reads as something else.
_YAML_WORDS = {"true", "false", "yes", "no", "on", "off", "null", "none", "y", "n", ".inf", ".nan"}
_CONSTANTS = {None: "null", True: "true", False: "false"}
#: Characters of a key that YAML recognises without a question mark before it: 1024, quotes and escapes among them.
_LONGEST_KEY = 1000


def shown(text: str, *, lines: bool = False) -> Shown:
    """Return a text to be read: characters that are not printable are escaped as Python does, colours are left out.

    Args:
        lines: whether the text may have several lines, with tabs, as an output; a name has one.
    """
    if text.isprintable():
        return Shown(text)
    kept = "\n\t" if lines else ""
    text = uncoloured(text)
    text = text.replace("\r\n", "\n") if lines else text
    return Shown("".join(sign if sign.isprintable() or sign in kept else _visible(sign) for sign in text))


def shown_answer(answer: Any) -> Any:
    """Return the answer of a function, all of whose strings are shown, the names in its maps too."""
    if isinstance(answer, str):
        return shown(answer, lines=True)
    if isinstance(answer, Mapping):
        return {shown_answer(name): shown_answer(value) for name, value in answer.items()}
    return [shown_answer(one) for one in answer] if isinstance(answer, list | tuple) else answer


def tell(text: object, *, is_error: bool = False, end: str = "\n") -> None:
    """Print a text, which is shown, to standard output or error."""
    print(shown(str(text), lines=True), file=sys.stderr if is_error else sys.stdout, end=end, flush=True)


def uncoloured(text: str) -> str:
    """Return an output without the codes of colours, which are in the middle of words too."""
    return _COLOUR.sub("", text)


def without_logins(text: str, instead: str = "") -> str:
    """Return a text in whose URLs a text such as ``…@`` replaces logins and passwords.

    Example:
        >>> without_logins("git+https://ann:hunter2@example.org/shop.git")
        'git+https://example.org/shop.git'
    """
    return _LOGIN.sub(lambda _: instead, text)


class Log(logging.LoggerAdapter[logging.Logger]):
    """A logger whose messages have only shown texts: `Log.of(__name__)`."""

    @classmethod
    def of(cls, name: str) -> "Log":
        return cls(logging.getLogger(name))

    def log(self, level: int, msg: object, *args: object, **kwargs: Any) -> None:
        """Write a message, each argument of which is shown unless it is a number."""
        plain = (one if isinstance(one, int | float) else shown(str(one), lines=True) for one in args)
        if self.isEnabledFor(level):
            self.logger.log(level, msg, *plain, **kwargs)


def in_pillar(value: Any, *, quote: str = '"') -> InPillar:
    """Return a value as YAML on one line, which is that value again with and without Jinja.

    Args:
        quote: a single quote for a hint, in which strings have double ones only where they need escapes.

    Raises:
        TypeError: it is no string, number, bool, None, list or map.
    """
    if isinstance(value, Mapping):
        entries = [f"{_key(key, quote)}: {in_pillar(one, quote=quote)}" for key, one in value.items()]
        return InPillar(f"{{{', '.join(entries)}}}")
    if isinstance(value, list | tuple):
        return InPillar(f"[{', '.join(in_pillar(one, quote=quote) for one in value)}]")
    if isinstance(value, str):
        return InPillar(_string(value, quote))
    if value is None or isinstance(value, bool):
        return InPillar(_CONSTANTS[value])
    if isinstance(value, int | float):
        return InPillar(str(value) if isinstance(value, int) else _float(value))
    raise TypeError(f"{type(value).__name__} is not a type of YAML")


def pillar_line(indent: int, key: str, value: Any, remark: str = "") -> InPillar:
    """Return a key and its value as a line of a block in a pillar, with a comment."""
    comment = f"  {pillar_comment(remark)}" if remark else ""
    return InPillar(f"{pillar_head(indent, key)} {in_pillar(value)}{comment}")


def pillar_head(indent: int, key: str) -> InPillar:
    """Return a key of a pillar, up to its colon: its value is after it, or a block of lines below it."""
    begin, name = " " * indent, in_pillar(key)
    return InPillar(f"{begin}{name}:" if len(name) <= _LONGEST_KEY else f"{begin}? {name}\n{begin}:")


def pillar_block(indent: int, values: Mapping[str, Any]) -> InPillar:
    """Return a map as lines of a pillar: maps in it are blocks further inside, lists are on one line."""
    lines = []
    for key, value in values.items():
        if isinstance(value, Mapping) and value:
            lines += [pillar_head(indent, key), pillar_block(indent + 2, value)]
        else:
            lines.append(pillar_line(indent, key, value))
    return InPillar("\n".join(lines))


def pillar_comment(text: str) -> InPillar:
    """Return a text as a comment on one line of a pillar: Jinja would run what is in one."""
    return InPillar(f"# {_JINJA.sub(lambda sign: f'{sign[0]} ', shown(text))}")


def in_command(*words: str) -> InCommand:
    """Return a command of these words; empty, so that none is proposed, where one of them cannot be quoted.

    A shell takes any character between quotes; a terminal into which a command is pasted takes a line break or a
    control character for a key that was pressed.
    """
    return InCommand(shlex.join(words) if all(word.isprintable() for word in words) else "")


def proposal(text: str, *words: str) -> str:
    """Return a hint whose ``{}`` is replaced by a command; empty where the command cannot be quoted."""
    command = in_command(*words)
    return text.replace("{}", command, 1) if command else ""


#: Elements without content: of HTML, and of SVG within it.
_VOID, _VOID_IN_SVG = {"link", "meta"}, {"path", "rect", "circle"}


def in_page(text: str) -> InPage:
    """Return a text as HTML: no character of it begins or ends an element or an attribute, or turns the direction."""
    return text if isinstance(text, InPage) else InPage(html.escape(shown(text)))


def element(tag: str, /, *content: str, **attributes: str | int | None) -> InPage:
    """Return an element of HTML; what is in it is escaped, unless it is such an element.

    Args:
        attributes: their names without a ``_`` at the end, and with a hyphen for any other; None leaves one out.
    """
    words = "".join(
        f' {key.rstrip("_").replace("_", "-")}="{html.escape(shown(str(value)))}"'
        for key, value in attributes.items()
        if value is not None
    )
    if tag in _VOID_IN_SVG:
        return InPage(f"<{tag}{words}/>")
    inside = "".join(map(in_page, content))
    return InPage(f"<{tag}{words}>" if tag in _VOID else f"<{tag}{words}>{inside}</{tag}>")


def _visible(sign: str) -> str:
    """Return a character as Python escapes it: a newline, ``\\x1b``, ``\\u202e``."""
    return ascii(sign)[1:-1]


def _float(value: float) -> str:
    """Return a number with a point, without which YAML reads 1e+20 as a string."""
    if value != value or value in (float("inf"), float("-inf")):
        return {"nan": ".nan", "inf": ".inf", "-inf": "-.inf"}[str(value)]
    number, e, exponent = repr(value).partition("e")
    return f"{number if '.' in number else f'{number}.0'}{e}{exponent}"


def _string(text: str, quote: str) -> str:
    """Return a string without quotes where YAML reads it as one, also between brackets."""
    is_plain = _PLAIN.fullmatch(text) or (quote == "'" and _PLAIN_WORDS.fullmatch(text))
    if is_plain and text.lower() not in _YAML_WORDS:
        return text
    if quote == "'" and text.isprintable() and not _JINJA.search(text):
        return "'" + text.replace("'", "''") + "'"
    return _quoted(text)


def _key(key: Any, quote: str) -> str:
    name = in_pillar(key, quote=quote)
    return name if len(name) <= _LONGEST_KEY else f"? {name}"


def _quoted(text: str) -> str:
    """Return a string between double quotes, where YAML reads escapes: ``{`` of Jinja is ``\\x7B``."""
    escaped = "".join(_escaped(sign) for sign in text)
    return '"' + _JINJA.sub(lambda sign: f"\\x{ord(sign[0]):02X}", escaped) + '"'


def _escaped(sign: str) -> str:
    return f"\\{sign}" if sign in '"\\' else sign if sign.isprintable() else _visible(sign)
