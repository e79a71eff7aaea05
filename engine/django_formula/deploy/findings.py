"""What a deployment has found out: what is to be released, what a dry run foresees, how the new release serves."""

from dataclasses import dataclass, field
from typing import Any

from django_formula.deploy.takeover import Takeover

#: What a step changes, for people: a path or a word → what happens to it.
Changes = dict[str, Any]


@dataclass
class Findings:
    """What the steps of a deployment tell each other.

    Attributes:
        takeover: the takeover of an existing deployment, until it is complete.
        commit: the commit that is to be released.
        is_resolved: whether `commit` is what the revision is now; otherwise the remote could not be reached.
        planned: in a dry run or a plan, the name of the release that would be made.
        foreseen: in a dry run, the known changes of steps after `source`, by the step's name.
        healthy_pid: the main process of the new release when its health check passed.
        waiting: why the proxy has not given the site its domains yet; empty where it has.
        switch_report: the requests of the switch.
        is_proving: whether this deployment has begun the proof of its release.
    """

    takeover: Takeover | None = None
    commit: str = ""
    is_resolved: bool = True
    planned: str = ""
    foreseen: dict[str, Changes] = field(default_factory=dict)
    healthy_pid: int | None = None
    waiting: str = ""
    switch_report: dict[str, Any] = field(default_factory=dict)
    is_proving: bool = False
