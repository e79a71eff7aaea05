"""What a release may have of files and submodules, judged before any file is written.

A repository compresses well: a push of 2 MB may have files of 1.5 GB, and a tree of the same trees endless ones.
"""

import collections
import operator
from collections.abc import Collection
from pathlib import Path

from django_formula.host import commands
from django_formula.host.commands import DeploymentError
from django_formula.site.sites import Site
from django_formula.source import git
from django_formula.source import submodule as source_submodule
from django_formula.source.submodule import Entry


class Limits:
    """What is left of the limits of a site for the commit of a release and those of its submodules.

    A site that an older version of the formula applied last has no limits of files before its next apply.
    """

    def __init__(self, site: Site):
        self._site = site
        allowed = site.config["releases"]
        self._files, self._size = allowed.get("files"), allowed.get("size")
        self._count = self._bytes = self._submodules = 0

    def count_files(self, commit: str, listed: list[Entry], mirror: Path) -> None:
        """Count the files of a commit, and their bytes.

        Raises:
            DeploymentError: there are more than the site allows.
        """
        times = collections.Counter(entry.name for entry in listed if entry.mode != source_submodule.MODE)
        self.refuse_number(commit, times.total())
        self._count += times.total()
        if not self._size:
            return
        self._bytes += sum(map(operator.mul, times.values(), _sizes(self._site, times, mirror)))
        if self._bytes > commands.size(self._size):
            has = f"the files of the commit {commit[:12]} have {self._bytes >> 20} MB"
            self._refuse(has, "size", self._size)

    def refuse_number(self, commit: str, number: int) -> None:
        """Refuse a commit by the number of its files.

        Raises:
            DeploymentError: with those that were counted before there are more than the site allows.
        """
        if self._files and self._count + number > self._files:
            self._refuse(f"the commit {commit[:12]} has {self._count + number} files", "files", self._files)

    def count_submodule(self) -> None:
        """Count a submodule.

        Raises:
            DeploymentError: there are too many.
        """
        self._submodules += 1
        if self._submodules > source_submodule.NUMBER:
            raise DeploymentError(f"there are more than {source_submodule.NUMBER} submodules")

    def _refuse(self, what: str, option: str, value: object) -> None:
        raise DeploymentError(
            f"{what}, more than releases:{option} ({value}) allows",
            hint=f"take what the site does not need out of the repository, or raise {self._site.at}:releases:{option}",
        )


def _sizes(site: Site, names: Collection[str], mirror: Path) -> list[int]:
    """Return the bytes of objects; none of one that is missing or damaged, which the export reports."""
    argv = ["cat-file", "--batch-check=%(objectsize)"]
    asked = "".join(f"{name}\n" for name in names)
    answer = git.run_git(site, *argv, doing="measuring the commit", mirror=mirror, stdin=asked)
    return [int(line) if line.isdecimal() else 0 for line in answer.splitlines()]
