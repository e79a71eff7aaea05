"""What a state found and did on this host, and those that services and failures have."""

import textwrap
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, NamedTuple

from django_formula.host import daemons


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


def running(name: str, *, at_boot: bool, test: bool) -> Outcome:
    """Start a service whose process does not run, and have it start at boot.

    Args:
        name: the service, one of `host.daemons.DAEMONS`.
        at_boot: whether it is to start at boot.
        test: whether this is a dry run.

    Raises:
        DeploymentError: it does not start, or systemd refuses to enable it.
    """
    daemon = daemons.DAEMONS[name]
    starts, enables = not daemons.is_running(daemon), at_boot and not daemons.is_enabled(daemon)
    done = [verb for verb, is_due in (("started", starts), ("enabled", enables)) if is_due]
    if not done:
        return Outcome(f"{name} is already running")
    if starts and not test:
        daemons.start(daemon)
    if enables and not test:
        daemons.enable(daemon)
    return Outcome(f"{name} {'would be' if test else 'has been'} {' and '.join(done)}", {name: ", ".join(done)})


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
