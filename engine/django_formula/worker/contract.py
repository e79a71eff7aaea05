"""What every kind of worker of the formula is: a class with defaults, of which each kind overrides what differs.

A worker is a process of a site that serves no requests: it runs tasks of a queue, or a program of the project.
"""

from collections.abc import Mapping
from pathlib import Path
from typing import Any, ClassVar

from django_formula.kind import kinds
from django_formula.site.sites import Site

#: The options of every kind of worker, which its program does not read.
OF_EVERY_KIND = ("kind", "patience", "resources")


class Worker:
    """One kind of worker: a row of `kind.kinds.WORKERS`, and its program ``django/files/django_formula_<kind>.py``.

    A kind of which more is to be said is a subclass with the kind's name, in a module of its own, ``worker/<kind>.py``.

    Its program runs in the release's virtualenv and reads ``config/worker-<name>.json``. It reports that it is ready by
    sd_notify and by its file ``ready``. On SIGTERM it takes nothing more, finishes what it has in hand and
    exits, whatever the programs that it runs expect. It is started before its release is activated, connects, and takes
    tasks only as long as ``current`` points to its release, no deployment holds the switch lock, and the file ``hold``
    is missing, which a migration that the release cannot run with puts there. The program of a kind that cannot run
    without taking tasks starts what it runs only then, stops it when that ends, and reports that it takes tasks while
    any process of that is left.

    Args:
        kind: its name in the pillar.

    Attributes:
        HOLDS: whether what it runs is started before the release is activated, and only takes no tasks until then.
    """

    HOLDS: ClassVar[bool] = True

    def __init__(self, kind: str):
        self.kind = kind

    @property
    def templates(self) -> tuple[str, ...]:
        """The URLs of its programs, which a release has copies of."""
        return tuple(f"{kinds.FILES}{name}" for name in kinds.WORKERS[self.kind].templates)

    def command(self, release: Path, name: str) -> list[str]:
        """Return the command that runs the worker of this name."""
        config = f"{release}/config"
        return [
            f"{release}/virtualenv/bin/python",
            f"{config}/django_formula_{self.kind}.py",
            f"{config}/worker-{name}.json",
        ]

    def writable(self, site: Site) -> list[Path]:
        """Return the folders that it may write to in addition to the site's own."""
        return [site.beat.top] if kinds.WORKERS[self.kind].has_schedule else []

    def settings(
        self, site: Site, release: Path, facts: Mapping[str, Any], worker: Mapping[str, Any]
    ) -> dict[str, Any]:
        """Return what its program reads in addition to what every worker's does.

        Args:
            facts: what the start of the project reported.
            worker: the worker's part of the configuration.
        """
        beat = {"beat": str(site.beat)} if kinds.WORKERS[self.kind].has_schedule else {}
        return {**{option: value for option, value in worker.items() if option not in OF_EVERY_KIND}, **beat}
