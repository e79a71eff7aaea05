"""What is due of a site's copies elsewhere, and the program of its timer: it requires neither Salt nor a master."""

import time
from collections.abc import Callable, Collection
from typing import Any

from django_formula.backup import loading, program
from django_formula.host import clock
from django_formula.host.commands import DeploymentError
from django_formula.offsite import copies, fetching, repository, sending
from django_formula.offsite.copies import CHECK, COPY, DRILL
from django_formula.offsite.repository import Repository
from django_formula.release import releases
from django_formula.release.releases import Release
from django_formula.site.sites import Site

_DAY = 86400.0
#: The share of all data that a drill reads besides its copy.
_SLICE = "5%"


def main(name: str) -> int:
    """Do what is due for a site as last applied, and return the exit code."""
    return program.with_active(name, lambda live, secrets: work(live, due(live.site), secrets))


def due(site: Site) -> list[str]:
    """Return what is due: `CHECK` each day, `COPY` of a new backup, `DRILL` as the pillar has it."""
    state, newest = copies.read_state(site), copies.newest_backup(site)
    tasks = [CHECK] if state["copies"] and _is_due(state, CHECK, _DAY) else []
    tasks += [COPY] if newest and newest[0]["backup"] != state["copied"] else []
    has_one = state["copies"] or COPY in tasks
    period = program.DRILLS[repository.options(site)["drill"]]
    return tasks + ([DRILL] if has_one and _is_due(state, DRILL, period) else [])


def _is_due(state: dict[str, Any], task: str, period: float) -> bool:
    done, tried = (state[which].get(task, "") for which in ("done", "tried"))
    return program.is_due(period, done=done, tried=tried, has_failed=task in state["failed"])


def work(release: Release, tasks: Collection[str], secrets: list[str]) -> list[DeploymentError]:
    """Do tasks of the copies, each although another fails; what fails is remembered. Return the failures.

    Args:
        release: the active one.
        tasks: of `CHECK`, `COPY` and `DRILL`, which are done in this order: a copy does not hide that one is gone.
        secrets: texts that no output may show.

    Raises:
        DeploymentError: another program works on the copies, or no apply has kept what opens them.
    """
    site, failures = release.site, list[DeploymentError]()
    if not tasks:
        return failures
    acts: dict[str, Callable[[Repository, dict[str, Any]], object]] = {
        CHECK: lambda store, state: copies.check(store, state, repository.options(site)["keep"]),
        COPY: lambda store, state: sending.send(site, store, state),
        DRILL: lambda store, state: drill(release, store, state, secrets),
    }
    with copies.lock(site, "copies elsewhere").held(), repository.opened(site) as store:
        state = copies.read_state(site)
        away = store.unanswered()
        for task in (task for task in acts if task in tasks and (task != CHECK or state["copies"])):
            state["tried"][task] = clock.now()
            try:
                if away:
                    raise away
                acts[task](store, state)
            except (DeploymentError, OSError) as error:
                failure = error if isinstance(error, DeploymentError) else DeploymentError(f"{task}: {error}")
                since = state["failed"].get(task, {}).get("since", clock.now())
                state["failed"][task] = {"since": since, "cause": _cause(failure)}
                failures.append(failure)
            else:
                state["done"][task] = clock.now()
                state["failed"].pop(task, None)
            copies.write_state(site, state)
    return failures


def _cause(failure: DeploymentError) -> str:
    """Return the cause in a line of status, whose parts are separated by semicolons."""
    return failure.message.splitlines()[0].replace(";", ",")


def drill(release: Release, store: Repository, state: dict[str, Any], secrets: list[str]) -> None:
    """Fetch the newest copy as a new host would, compare each part, and load its databases next to the present ones.

    Raises:
        DeploymentError: it could not be restored.
    """
    site, began = release.site, time.monotonic()
    copies.check(store, state, repository.options(site)["keep"], data=_SLICE)
    copy = copies.find(store, None)
    # A folder, a journal and a lock of its own: a release, which backs the database up, does not wait for a drill.
    with fetching.folder(site, "drill") as folder:
        fetched = fetching.fetch(store, copy, folder)
        for part in {*copy["parts"]} - {copies.part_of(one["name"]) for one in fetched}:
            fetching.fetch_part(store, copy, part, None)
        live = releases.linked(site, site.current) or release  # all before may have taken hours
        rows = loading.rehearse(live, loading.loadable(site, fetched), folder, secrets)["rows"]
    state["drill"] = f"{clock.now()}, {time.monotonic() - began:.0f} s: good, {sum(rows.values())} rows"
