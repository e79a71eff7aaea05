"""Drills of the archive: a whole server restored aside as it is now, and each row read; what is there is proved so."""

import time
from typing import Any

from django_formula.backup import program
from django_formula.host import clock
from django_formula.host.commands import DeploymentError
from django_formula.points import archive, aside
from django_formula.points.archive import DRILL, Cluster
from django_formula.points.aside import Moment
from django_formula.untrusted import shapes

#: How long it is waited for others before what a drill has found is given up.
_PATIENCE = "6h"
_NAMES = "SELECT coalesce(json_agg(datname ORDER BY datname), '[]') FROM pg_database WHERE datallowconn;"


def due() -> list[str]:
    """Return the stanzas of the clusters whose drill is due: once they have a backup, then as the pillar has it."""
    state = archive.read_state()
    period = program.DRILLS[state.get("drill") or "never"]
    return [stanza for stanza, entry in state["clusters"].items() if entry["backup"] and _is_due(entry, period)]


def _is_due(entry: dict[str, Any], period: float) -> bool:
    last = entry.get("drill") or archive.NO_DRILL
    return program.is_due(period, done=last["done"], tried=last["tried"], has_failed=DRILL in entry["failed"])


def work(stanzas: list[str], holder: str) -> list[DeploymentError]:
    """Drill the archives of clusters, and return what has failed, which is remembered until it works again.

    Args:
        stanzas: the names of the clusters.
        holder: what drills, for others that wait for it.

    Raises:
        DeploymentError: a moment is being restored, or another drill runs.
    """
    failures: list[DeploymentError] = []
    for stanza in stanzas:
        with aside.lock(holder).held():
            began, last = time.monotonic(), {"tried": clock.now()}
            try:
                recorded = archive.read_state()["clusters"].get(stanza)
                if not recorded:
                    raise DeploymentError(f"PostgreSQL {stanza} is archived no more")
                rows = _drill(archive.cluster(recorded))
                took = time.monotonic() - began
                last |= {"done": clock.now(), "text": f"{clock.now()}, {took:.0f} s: good, {rows} rows"}
            except (DeploymentError, OSError) as error:
                failures.append(error if isinstance(error, DeploymentError) else DeploymentError(f"drill: {error}"))
        # The archive itself is free meanwhile: a drill takes as long as a restore. A check or a backup may have begun.
        with archive.lock(holder, _PATIENCE).held():
            state = archive.read_state()
            if entry := state["clusters"].get(stanza):
                entry["drill"] = {**archive.NO_DRILL, **(entry.get("drill") or {}), **last}
                archive.note(entry, DRILL, None if "done" in last else failures[-1])
                archive.write_state(state)
    return failures


def _drill(one: Cluster) -> int:
    """Restore a cluster aside as it is now, and return the rows of all its databases.

    Raises:
        DeploymentError: the archive does not have it whole, or it cannot be restored or read.
    """
    before = _names(one.ask(_NAMES, doing="listing the databases of PostgreSQL"))
    time.sleep(1)  # a moment is a whole second, and has to be after that
    now = time.time()
    moment = Moment(now, clock.timestamp(now))
    with aside.restored(one, moment, aside.check_covered(one, moment)) as server:
        restored = _names(server.ask(_NAMES))
        still = _names(one.ask(_NAMES, doing="listing the databases of PostgreSQL"))
        missing = [name for name in before if name not in restored and name in still]
        if missing:
            raise DeploymentError(f"the archive as of {moment.text} does not have {', '.join(missing)}")
        return sum(server.rows(name) for name in restored)


def _names(printed: str) -> list[str]:
    names: list[str] = shapes.parse(printed, [str], doing="listing the databases of PostgreSQL")
    return [name for name in names if name not in ("postgres", "template1")]
