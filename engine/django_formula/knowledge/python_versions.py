"""Versions of Python: which of them a restriction allows, and which is chosen where several are."""

import re

#: The versions of Python that are chosen for a project, the first one that it supports.
SERIES = ("3.13", "3.12", "3.11", "3.10", "3.9", "3.8", "3.14")
#: The releases that a series of Python has at most: 3.11.0, 3.11.1, …
_RELEASES = 50


def suggested(*versions: str) -> str:
    """Return the version of Python for which all of these restrictions hold, such as ``3.13``; empty if none is known.

    Args:
        versions: the versions that a project, its lock file or its Django are for; an empty one is no restriction.
    """
    return next((one for one in SERIES if all(is_of_series_among(one, limit) for limit in versions if limit)), "")


def is_of_series_among(version: str, versions: str) -> bool:
    """Return whether any release of the series of a version is among those that a project declares."""
    series = ".".join(version.split(".")[:2])
    return any(is_among(f"{series}.{number}", versions) for number in range(_RELEASES))


def is_among(version: str, versions: str) -> bool:
    """Return whether a version of Python is among those that a project declares, such as ``>=3.12`` or ``^3.11``.

    What cannot be read is no restriction.
    """
    own = numbers_of(version, 3)
    return any(all(_fits(own, part) for part in re.split(r"[,\s]+", one)) for one in _spaced(versions).split("||"))


def _spaced(versions: str) -> str:
    """Return restrictions without blanks between an operator and its version."""
    return re.sub(r"([<>=!~^])\s+", r"\1", versions).strip()


def _fits(version: list[int], restriction: str) -> bool:
    found = re.fullmatch(r"(===?|!=|~=|>=|<=|<|>|\^|~)?(\d[\d.]*?)(\.\*)?", restriction)
    if not found:
        return True
    operator, numbers = found.group(1) or "", numbers_of(found.group(2), 3)
    if not operator or found.group(3):
        return (version[: len(numbers)] == numbers) == (operator != "!=")
    if operator in ("^", "~=", "~"):
        same = 1 if operator == "^" else max(1, len(numbers) - (operator == "~=" or len(numbers) > 2))
        return version >= numbers and version[:same] == numbers[:same]
    exact = [*numbers, 0, 0][:3]
    is_equal = version == exact
    return {
        ">=": version >= exact,
        "<=": version <= exact,
        "<": version < exact,
        ">": version > exact,
        "==": is_equal,
        "===": is_equal,
        "!=": not is_equal,
    }[operator]


def numbers_of(version: str, most: int = 2) -> list[int]:
    """Return the first numbers of a version."""
    return [int(part) for part in re.findall(r"\d+", version)[:most]]
