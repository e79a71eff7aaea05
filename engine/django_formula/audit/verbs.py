"""What the audit log has of an execution function: whether it is an act, and which of its arguments may be shown."""

import contextlib
import inspect
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, NamedTuple

from django_formula.audit import audit
from django_formula.audit.audit import Act
from django_formula.audit.caller import Caller
from django_formula.host.commands import redact


class Rule(NamedTuple):
    """What is recorded of a function.

    Attributes:
        reads: whether it only reads, and nothing that is secret; or the arguments without which it does.
        shows: the arguments that may be shown, besides the site; of several words the first.
    """

    reads: bool | tuple[str, ...] = False
    shows: tuple[str, ...] = ()


class Call:
    """A call of a function.

    Args:
        rule: what is recorded of it.
        caller: returns who calls; it is not called for one that only reads.
    """

    def __init__(
        self,
        function: Callable[..., Any],
        rule: Rule,
        arguments: Sequence[Any],
        named: Mapping[str, Any],
        caller: Callable[[], Caller],
    ):
        self._rule, self._given = rule, _given(function, arguments, named)
        self._act: Act | None = None
        if not self._only_reads():
            shown = {name: _first(self._given[name]) for name in rule.shows if name in self._given}
            self._act = Act(function.__name__, caller(), str(self._given.get("site") or ""), shown)

    def _only_reads(self) -> bool:
        reads = self._rule.reads
        if isinstance(reads, bool):
            return reads
        return all(self._given.get(name) in ("", None) for name in reads)  # off is False

    @contextlib.contextmanager
    def recorded(self) -> Iterator[None]:
        """Record the call in this block."""
        with audit.recorded(self._act) if self._act else contextlib.nullcontext():
            yield

    def fail(self, text: str) -> None:
        """Set that it has failed, and why, without what its arguments have that is not shown."""
        if self._act:
            hidden = [str(value) for name, value in self._given.items() if name not in ("site", *self._rule.shows)]
            words = [word for text in hidden for word in text.replace("'", " ").replace("=", " ").split()]
            self._act.result = f"failed: {redact(text.partition(chr(10))[0], [*hidden, *words])}"

    @property
    def warning(self) -> str:
        """Why the log does not have it; empty where it has."""
        return self._act.warning if self._act else ""


def with_warning(answer: Any, warning: str) -> Any:
    """Return the answer of a function with a warning, unless it is rows for programs."""
    if not warning:
        return answer
    if isinstance(answer, Mapping):
        return {**answer, "warnings": [*(answer.get("warnings") or ()), warning]}
    if isinstance(answer, str):
        return f"{answer.rstrip()}\n\nwarning: {warning}"
    texts = isinstance(answer, list) and all(isinstance(one, str) for one in answer)
    return [*answer, f"warning: {warning}"] if texts else answer


def _given(function: Callable[..., Any], arguments: Sequence[Any], named: Mapping[str, Any]) -> dict[str, Any]:
    try:
        return dict(inspect.signature(function).bind(*arguments, **named).arguments)
    except TypeError:
        return {}  # the function refuses them


def _first(value: Any) -> Any:
    words = str(value[0]).split() if isinstance(value, tuple) and value else []
    return words[0] if words else value
