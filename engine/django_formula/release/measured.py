"""What a response of a release says of itself: the header of django_formula_said.py, which the proxy removes."""

import re
from typing import NamedTuple

HEADER = "X-Django-Said"
#: With which a request has its response say what was measured; of those of visitors the proxy decides.
ASKED = {"X-Django-Proof": "1"}
#: Release, route, milliseconds of CPU (`~`: the first answer of a route by a process), queries, exception.
_SAID = re.compile(
    r"([\w.-]{1,80}) ([!-~]{1,200}) (~?)(\d{1,9}(?:\.\d{1,6})?|-) (\d{1,7}|-) ([\w.<>]{1,100}@[\w.<>]{1,100}|-)",
    re.ASCII,
)


class Measured(NamedTuple):
    """What one response says.

    Attributes:
        release: the full name of the release.
        route: that of the view, `-` where there is none.
        is_cold: whether it is the first answer of its route by a process, which imports modules and fills caches.
        cpu: milliseconds of CPU, None where they are not known.
        queries: of databases, None where they are not known.
        exception: class and function of an exception that no view has caught, as `KeyError@item`; empty for none.
    """

    release: str
    route: str
    is_cold: bool
    cpu: float | None
    queries: int | None
    exception: str


def parse(text: object) -> Measured | None:
    """Return what a header says; None for a text that is none.

    Example: ``parse("0042-3f2a9c1b77de item/<int:pk>/ 4.25 3 -").queries == 3``
    """
    said = _SAID.fullmatch(text) if isinstance(text, str) else None
    if not said:
        return None
    release, route, is_cold, cpu, queries, exception = said.groups()
    return Measured(
        release,
        route,
        bool(is_cold),
        None if cpu == "-" else float(cpu),
        None if queries == "-" else int(queries),
        exception if exception != "-" else "",
    )
