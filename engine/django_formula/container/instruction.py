"""The instructions of a Dockerfile, as podman and as Docker read them."""

import re
from collections.abc import Iterator
from typing import NamedTuple

#: A word of an instruction as it is written: in quotes it may have blanks.
WORD = re.compile(r"""(?:[^\s"'\\]|\\.?|"(?:[^"\\]|\\.)*"?|'(?:[^'\\]|\\.)*'?)+""")
#: A word that begins a text in the lines below an instruction: whether tabs may precede its last line, and that line.
_HEREDOC = re.compile(r"""\d*<<(-?)(["']?)([^<"']+)\2""")
#: The beginning of a text in the lines below an instruction, however it is written.
_BEGINNING = re.compile(r"""(?:^|\s)([\d"'\\]*<<(?=[^<\s])\S*)""")
#: What every version of an engine takes for one, and the rest of an instruction in which each finds the same words.
_PLAIN = re.compile(r"""\d*<<-?(["']?)[A-Za-z][A-Za-z0-9]*\1""")
_ALIKE = re.compile(r"""(?:[^\\"'$]|"[^"\\$]*"|'[^']*'|\$(?:\w|\{\w+\}))*""")


class Instruction(NamedTuple):
    """An instruction of a Dockerfile: the number of its first line, and its text in one line.

    Attributes:
        is_whole: whether each text in the lines below it ends.
    """

    line: int
    text: str
    is_whole: bool = True


def instructions(text: str, *, doubled: bool = True) -> Iterator[Instruction]:
    """Yield the instructions of a Dockerfile, those over several lines as one line.

    Args:
        doubled: whether two backslashes at the end of a line continue it, as for podman; for Docker they do not.
    """
    lines = enumerate((line.rstrip("\r") for line in text.removeprefix("\ufeff").split("\n")), 1)
    for number, first in lines:
        if _is_empty(first):
            continue
        parts, last = [], first.rstrip(" \t")
        while last.endswith("\\") and (doubled or not last.endswith("\\\\")):
            parts.append(last.removesuffix("\\"))
            last = next((line.rstrip(" \t") for _number, line in lines if not _is_empty(line)), "")
        whole = normal("".join([*parts, last]))
        is_whole = all(_skip_text(lines, tabs, end) for tabs, end in texts(whole))
        yield Instruction(number, whole, is_whole)


def _skip_text(lines: Iterator[tuple[int, str]], tabs: str, end: str) -> bool:
    """Skip the text below an instruction; return whether it ends."""
    return any((line.lstrip("\t") if tabs else line) == end for _number, line in lines)


def _is_empty(line: str) -> bool:
    return not line.strip() or line.lstrip().startswith("#")


def texts(instruction: str) -> list[tuple[str, str]]:
    """Return how the texts end that an instruction has in the lines below it: whether after tabs, and the last line."""
    verb, _rest = verb_of(instruction)
    words = WORD.findall(instruction) if verb in ("RUN", "COPY", "ADD") else []
    return [(found[1], found[3]) for word in words if (found := _HEREDOC.fullmatch(word))]


def is_read_alike(instruction: Instruction) -> bool:
    """Return whether all engines find the same texts in the lines below an instruction, if any.

    They differ in the words that end one, and find none where they cannot read the words of the instruction.
    """
    verb, rest = verb_of(instruction.text)
    begun = _BEGINNING.findall(rest) if verb in ("RUN", "COPY", "ADD") else []
    is_plain = all(_PLAIN.fullmatch(word) or word[0] in "\"'" for word in begun)  # no text begins with a quote
    return instruction.is_whole and (not begun or (is_plain and bool(_ALIKE.fullmatch(rest))))


def readings(text: str) -> Iterator[list[Instruction]]:
    """Yield the instructions of a Dockerfile as podman and as Docker read it."""
    yield from (list(instructions(text, doubled=doubled)) for doubled in (True, False))


def options_of(rest: str) -> tuple[list[str], str]:
    """Return the options of an instruction without quotes and backslashes, as engines read them, and what follows."""
    options = []
    while (found := WORD.match(rest)) and found[0].startswith("--"):
        rest = rest[found.end() :].lstrip()
        if found[0] == "--":
            break
        options.append(re.sub(r"[\"'\\]", "", found[0]))
    return options, rest


def verb_of(instruction: str) -> tuple[str, str]:
    """Return the verb of an instruction in capitals, and what follows; of ONBUILD those of what it has."""
    word, _blank, rest = instruction.partition(" ")
    return verb_of(rest) if word.upper() == "ONBUILD" else (word.upper(), rest)


def normal(text: str) -> str:
    """Return a text in one line, with one blank between its words."""
    return " ".join(text.split())
