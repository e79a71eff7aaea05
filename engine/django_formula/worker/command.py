"""A program of the project that runs until it is stopped, such as a management command."""

import shlex
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from django_formula.host.commands import seconds
from django_formula.process import command
from django_formula.site.sites import Site
from django_formula.worker.contract import Worker


class Command(Worker):
    """A command of the pillar; its program starts it while it may take tasks, and stops it when it may not any more."""

    HOLDS = False

    def settings(
        self, site: Site, release: Path, facts: Mapping[str, Any], worker: Mapping[str, Any]
    ) -> dict[str, Any]:
        """Return the command and its arguments, the signal that stops it, and when it is ready."""
        words = shlex.split(worker["command"])
        if words[0] in ("manage.py", "./manage.py"):
            words = [f"{release}/virtualenv/bin/python", *command.management(release, facts), *words[1:]]
        reports = worker["ready"] == "notify"
        return {
            "argv": words,
            "processes": worker["processes"],
            "stop": worker["stop"],
            "ready_after": None if reports else seconds(worker["ready"]),
        }
