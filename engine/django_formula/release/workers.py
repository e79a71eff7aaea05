"""The workers of releases while one release replaces another: which of them take tasks, and what they still run.

The programs of workers decide by themselves whether they take tasks (`worker.workers`); nothing here tells them
to. See docs/decisions/0062.
"""

import dataclasses
import fcntl
import os
import time
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

from django_formula.host import users
from django_formula.process import contract
from django_formula.release import instances
from django_formula.site.sites import Site
from django_formula.worker import workers
from django_formula.worker.workers import Outcome, State

#: Seconds within which a worker has to notice that a deployment holds the switch lock; it looks every 0.1 s.
_QUIET = 2.0
#: Seconds within which what a worker starts only after the switch fails, if its deployment is to report that.
_STARTS = 5.0
#: Seconds between two looks at the state of a worker.
_PAUSE = 0.01


class SwitchLock:
    """The lock that keeps every worker of a site from taking tasks, as long as this process holds it.

    The kernel frees it when the process ends. Each time it is a new file, locked before it has its name: processes of
    the site may lock a file that they can read too, and would otherwise keep a deployment waiting.
    """

    def __init__(self, site: Site):
        self._site = site
        self._descriptor: int | None = None

    @property
    def is_held(self) -> bool:
        """Whether this object holds the lock."""
        return self._descriptor is not None

    def take(self) -> None:
        """Take the lock; it is never waited for."""
        if self._descriptor is not None:
            return
        path = workers.switch_lock(self._site)
        new = path.with_name(f".{path.name}.{os.getpid()}")
        new.unlink(missing_ok=True)
        descriptor = os.open(new, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX)
            os.fchown(descriptor, 0, users.group_id(self._site.user))
            os.fchmod(descriptor, 0o640)
            new.rename(path)
        except BaseException:
            os.close(descriptor)
            new.unlink(missing_ok=True)
            raise
        self._descriptor = descriptor

    def release(self) -> None:
        """Release the lock, if it is held."""
        if self._descriptor is not None:
            os.close(self._descriptor)
            self._descriptor = None


def states(site: Site, release: Path) -> dict[str, State | None]:
    """Return what each worker of a release reports of itself, by name."""
    folders = {name: contract.folder(site, release, name) for name in workers.recorded(release)}
    return {name: workers.state(folder) for name, folder in folders.items()}


def await_quiet(site: Site, release: Path) -> list[str]:
    """Wait until every worker of a release reports that it takes no tasks; return those that do not in time."""
    taking = [*workers.recorded(release)]
    manager = instances.process_manager(site, release) if taking else None
    deadline = time.monotonic() + _QUIET
    while True:
        known = states(site, release)
        taking = [
            name
            for name in taking
            if _may_take(site, release, name, known.get(name)) and manager and manager.pid(site, release, name)
        ]
        if not taking or time.monotonic() > deadline:
            return taking
        time.sleep(_PAUSE)


def _may_take(site: Site, release: Path, name: str, state: State | None) -> bool:
    """Return whether a worker may be taking tasks: it reports so, or its report cannot be read any more.

    One that is not ready yet takes none, and need not have reported anything.
    """
    return state.fetching if state else contract.is_whole(site, release, name)


def failed_after_switch(site: Site, release: Path) -> list[str]:
    """Wait until what workers start only after the switch is ready; return the workers of which it failed before."""
    kinds = {name: workers.WORKERS[worker["kind"]] for name, worker in workers.recorded(release).items()}
    starting = {name for name, kind in kinds.items() if not kind.HOLDS}
    failed, deadline = [], time.monotonic() + _STARTS
    while starting and time.monotonic() < deadline:
        for name, state in states(site, release).items():
            if name in starting and state and (state.active or state.failed or state.failed is None):
                starting.discard(name)  # None: it does not report that
                failed += [name] if state.failed else []
        time.sleep(_PAUSE)
    return failed


def failing(site: Site, release: Path) -> list[str]:
    """Return the workers that are started only after the switch of which a process has failed by now."""
    kinds = {name: workers.WORKERS[worker["kind"]] for name, worker in workers.recorded(release).items()}
    return [name for name, state in states(site, release).items() if not kinds[name].HOLDS and state and state.failed]


def outcomes(site: Site, release: Path) -> dict[str, Outcome]:
    """Return how the tasks of each name have ended in all workers of a release, as far as these report it."""
    total: dict[str, Outcome] = {}
    for state in states(site, release).values():
        for name, outcome in state.outcomes.items() if state else ():
            known = total.get(name, Outcome(0, {}))
            raised = Counter(known.raised) + Counter(outcome.raised)
            total[name] = Outcome(known.done + outcome.done, dict(raised))
    return total


@dataclasses.dataclass(frozen=True)
class Finishing:
    """A worker of a release that is not active, which still runs: it finishes its tasks, or it is stuck.

    Attributes:
        release: the folder of its release.
        worker: its name.
        pid: its main process.
        state: what it reports of itself.
    """

    release: Path
    worker: str
    pid: int
    state: State | None


def finishing(site: Site, releases: Iterator[Path] | list[Path]) -> list[Finishing]:
    """Return the workers that run of some releases, oldest first."""
    found = []
    for release in releases:
        for name, state in states(site, release).items():
            pid = instances.process_manager(site, release).pid(site, release, name)
            if pid is not None:
                found.append(Finishing(release, name, pid, state))
    return found
