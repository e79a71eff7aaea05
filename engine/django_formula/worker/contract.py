"""What every kind of worker of the formula is: a class with defaults, of which each kind overrides what differs.

A worker is a process of a site that serves no requests: it runs tasks of a queue, or a program of the project.
"""

from abc import ABC
from collections.abc import Mapping
from pathlib import Path
from typing import Any, ClassVar

from django_formula.kind import kinds
from django_formula.site.sites import Site

#: The options of every kind of worker, which its program does not read.
OF_EVERY_KIND = ("kind", "patience", "resources")


class Worker(ABC):
    """One kind of worker. Each is a subclass in a module of its own, ``worker/<kind>.py``.

    What the pillar and the states read of it too is in `kind.kinds.WORKERS`.

    Its program runs in the release's virtualenv and reads ``config/worker-<name>.json``. It reports that it is ready by
    sd_notify and by its file ``ready``. On SIGTERM it takes nothing more, finishes what it has in hand and
    exits, whatever the programs that it runs expect. It is started before its release is activated, connects, and takes
    tasks only as long as ``current`` points to its release, no deployment holds the switch lock, and the file ``hold``
    is missing, which a migration that the release cannot run with puts there. The program of a kind that cannot run
    without taking tasks starts what it runs only then, stops it when that ends, and reports that it takes tasks while
    any process of that is left.

    Attributes:
        KIND: its name in the pillar.
        PROGRAM: the program in ``config/`` that runs it.
        HOLDS: whether what it runs is started before the release is activated, and only takes no tasks until then.
    """

    KIND: ClassVar[str]
    PROGRAM: ClassVar[str]
    HOLDS: ClassVar[bool] = True

    @property
    def templates(self) -> tuple[str, ...]:
        """The URLs of its programs, which a release has copies of."""
        return tuple(f"{kinds.FILES}{name}" for name in kinds.WORKERS[self.KIND].templates)

    def command(self, release: Path, name: str) -> list[str]:
        """Return the command that runs the worker of this name."""
        config = f"{release}/config"
        return [f"{release}/virtualenv/bin/python", f"{config}/{self.PROGRAM}", f"{config}/worker-{name}.json"]

    def writable(self, site: Site) -> list[Path]:
        """Return the folders that it may write to in addition to the site's own."""
        return [site.beat.top] if kinds.WORKERS[self.KIND].has_schedule else []

    def settings(
        self, site: Site, release: Path, facts: Mapping[str, Any], worker: Mapping[str, Any]
    ) -> dict[str, Any]:
        """Return what its program reads in addition to what every worker's does.

        Args:
            facts: what the start of the project reported.
            worker: the worker's part of the configuration.
        """
        beat = {"beat": str(site.beat)} if kinds.WORKERS[self.KIND].has_schedule else {}
        return {**{option: value for option, value in worker.items() if option not in OF_EVERY_KIND}, **beat}
