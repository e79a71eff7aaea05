"""What a state found and did on this host."""

import textwrap
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, NamedTuple


class Outcome(NamedTuple):
    """What a state has to say.

    Attributes:
        comment: what it found, or what it has done, or in a dry run would do.
        changes: what it has changed, or would change.
        warnings: what the operator has to know besides.
        failed: whether it has failed after these changes; before any it raises `DeploymentError`.
    """

    comment: str
    changes: Mapping[str, Any] = {}
    warnings: Sequence[str] = ()
    failed: bool = False


def failures(states: Iterable[Mapping[str, Any]]) -> Outcome:
    """Return what has failed in a run, without the states that were not run because of it.

    Args:
        states: those that have run, as Salt keeps them.
    """
    own = [state for state in states if (state.get("__sls__") or "").split(".")[0] == "django"]
    failed = [state for state in own if state["result"] is False]
    if not failed:
        return Outcome("no state of this formula has failed")
    ran = (state for state in failed if state.get("__state_ran__", True))
    causes = sorted(ran, key=lambda state: state.get("__run_num__", 0))
    skipped = len(failed) - len(causes)
    not_run = f"failed (states that were not run because of these failures: {skipped}):" if skipped else "failed:"
    texts = [f"{state['__id__']}:\n{textwrap.indent(state['comment'], '  ')}" for state in causes]
    return Outcome("\n".join([not_run, *texts]), failed=True)
