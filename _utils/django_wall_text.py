"""Text that others wrote has three ways out: shown to a person, in a pillar, in a command.

Others are repositories, what a project prints, visitors, queues, other hosts and existing deployments. Their text is
data: no terminal, no renderer of Salt and no shell may take a part of it for an instruction. A function for each way
returns a type of its own, which nothing else makes (``test/style/test_text.py``). Why: docs/decisions/0072.
"""

import re
import shlex
from collections.abc import Mapping
from typing import Any, NewType

#: Text for a terminal, an error, a log or a state: nothing in it moves the cursor, adds a line or turns the direction.
Shown = NewType("Shown", str)
#: YAML on one line, for a pillar: Jinja leaves it as it is.
InPillar = NewType("InPillar", str)
#: A command that a person may paste into a shell of root.
InCommand = NewType("InCommand", str)

#: How programs colour their output.
_COLOUR = re.compile(r"\x1b\[[\d;]*m")
#: The first character of what begins or ends a part of Jinja.
_JINJA = re.compile(r"\{(?=[{%#])|[}%#](?=\})")
#: Strings that YAML reads as strings without quotes, also between brackets; of ASCII alone.
_PLAIN = re.compile(r"\.?[A-Za-z/][\w./-]*(:[\w./@-]+)*|[\w.+-]+@[\w./-]+(:[\w./-]+)*", re.ASCII)
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
    kept = "\n\t" if lines else ""
    text = _COLOUR.sub("", text)
    text = text.replace("\r\n", "\n") if lines else text
    return Shown("".join(sign if sign.isprintable() or sign in kept else _visible(sign) for sign in text))


def shown_answer(answer: Any) -> Any:
    """Return the answer of a function, all of whose strings are shown, the names in its maps too."""
    if isinstance(answer, str):
        return shown(answer, lines=True)
    if isinstance(answer, Mapping):
        return {shown_answer(name): shown_answer(value) for name, value in answer.items()}
    return [shown_answer(one) for one in answer] if isinstance(answer, list | tuple) else answer


def in_pillar(value: Any) -> InPillar:
    """Return a value as YAML on one line, which is that value again with and without Jinja.

    Raises:
        TypeError: it is no string, number, bool, None, list or map.
    """
    if isinstance(value, Mapping):
        return InPillar("{" + ", ".join(f"{_key(key)}: {in_pillar(one)}" for key, one in value.items()) + "}")
    if isinstance(value, list | tuple):
        return InPillar("[" + ", ".join(map(in_pillar, value)) + "]")
    if isinstance(value, str):
        is_plain = _PLAIN.fullmatch(value) and value.lower() not in _YAML_WORDS
        return InPillar(value if is_plain else _quoted(value))
    if value is None or isinstance(value, bool):
        return InPillar(_CONSTANTS[value])
    if isinstance(value, int | float):
        return InPillar(str(value) if isinstance(value, int) else _float(value))
    raise TypeError(f"{type(value).__name__} is not a type of YAML")


def pillar_line(indent: int, key: str, value: Any, remark: str = "") -> InPillar:
    """Return a key and its value as a line of a block in a pillar, with a comment."""
    begin, end = " " * indent, f"  {pillar_comment(remark)}" if remark else ""
    name = in_pillar(key)
    if len(name) > _LONGEST_KEY:
        return InPillar(f"{begin}? {name}\n{begin}: {in_pillar(value)}{end}")
    return InPillar(f"{begin}{name}: {in_pillar(value)}{end}")


def pillar_head(indent: int, key: str) -> InPillar:
    """Return a key of a pillar whose value is the block of lines below it."""
    return InPillar(f"{' ' * indent}{in_pillar(key)}:")


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
    """Return a hint with a command in the place of its ``{}``; empty where the command cannot be quoted."""
    command = in_command(*words)
    return text.replace("{}", command, 1) if command else ""


def _visible(sign: str) -> str:
    """Return a character as Python escapes it: a newline, ``\\x1b``, ``\\u202e``."""
    return ascii(sign)[1:-1]


def _float(value: float) -> str:
    """Return a number with a point, without which YAML reads 1e+20 as a string."""
    if value != value or value in (float("inf"), float("-inf")):
        return {"nan": ".nan", "inf": ".inf", "-inf": "-.inf"}[str(value)]
    number, e, exponent = repr(value).partition("e")
    return f"{number if '.' in number else f'{number}.0'}{e}{exponent}"


def _key(key: Any) -> str:
    name = in_pillar(key)
    return name if len(name) <= _LONGEST_KEY else f"? {name}"


def _quoted(text: str) -> str:
    """Return a string between double quotes, where YAML reads escapes: ``{`` of Jinja is ``\\x7B``."""
    escaped = "".join(_escaped(sign) for sign in text)
    return '"' + _JINJA.sub(lambda sign: f"\\x{ord(sign[0]):02X}", escaped) + '"'


def _escaped(sign: str) -> str:
    return f"\\{sign}" if sign in '"\\' else sign if sign.isprintable() else _visible(sign)
