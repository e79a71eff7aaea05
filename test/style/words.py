"""Words that the project's texts do not use, and what to write. `test/style/words.py FILE...` lists them in files."""

import re
import sys
from pathlib import Path

#: What is not written, and what is in its place.
WORDS = {
    r"somebody|someone else|whoever|whomever": "name what acts: nginx, another deployment, the build user",
    r"(?-i:(?<!['\"`:/(|=])nobody(?!['\"`:/=)|]))": "name what is missing",
    r"keepers?": "process manager",
    r"receipts?": "switch report",
    r"(the|a) flips?|flip of": "switch",
    r"(held|holds?|holding) back": "on hold",
    r"(is|are|was|were|not) (un)?well": "passes / fails",
    r"(is|are) not through|is through|not through after": "timed out, completed",
    r"(go|goes|went|gone) live": "is activated, switch",
    r"(is|are|was|were) laid out": "exist",
    r"(is|are|was|were) lacking|what is lacking": "missing",
    r"has been here|has its place": "an existing deployment",
    r"(is|are|was|were) told|it is said|its word|has no word": "reports, is configured with, is not supported by",
    r"by hand": "on the command line",
    r"beside": "next to, in addition to",
    r"lies (in|at|below|on|there)": "is in",
    r"in the place of": "instead of",
    r"the way back": "undo, revert",
    r"meets nobody|ends what it is at": "say what happens",
    r"made of something else": "its inputs changed",
}
#: Keys of data, in quotes or backticks, as an argument or as printed, and former state ids: they keep their names.
KEYS = re.compile(
    r"""(["'`])(?:receipt\??|held_back)\1|\breceipt(?==[^=])|held back(?=: \d{4}-)"""
    r"|`blog (?:has its place|is laid out)`"
)
_EACH = "|".join(rf"(?P<w{number}>{words})" for number, words in enumerate(WORDS))
PATTERN = re.compile(rf"\b(?:{_EACH})\b", re.IGNORECASE)


def _prose(line: str) -> str:
    """Return a line without keys of data; the name of a function as words."""
    line = KEYS.sub(lambda key: " " * len(key[0]), line)
    return line.replace("_", " ") if line.lstrip().startswith("def ") else line


def found(text: str) -> list[str]:
    """Return each use of such a word: line, word, what to write."""
    advice = list(WORDS.values())
    return [
        f"{number}: {match[0]!r} ({advice[int((match.lastgroup or 'w0')[1:])]})"
        for number, line in enumerate(text.splitlines(), 1)
        for match in PATTERN.finditer(_prose(line))
    ]


if __name__ == "__main__":
    for name in sys.argv[1:]:
        for line in found(Path(name).read_text()):
            print(f"{name}:{line}")
