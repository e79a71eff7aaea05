"""What a release takes while channels of messages work, and while they do not: by turns, on one host."""

from typing import Any

from contestants import Formula, apply
from lab import Host
from watching import channel, receive

#: How all channels of a turn behave; nothing listens on the port of those that refuse.
HOW = ("off", "good", "hangs", "slow", "fails", "refuses")
#: Releases of a turn that are measured.
EACH = 3
FORMATS = ("json", "slack", "mattermost", "discord", "teams", "ntfy")


class Channels:
    """A site whose releases are each a message on six channels.

    took: seconds of the steps of each release, as its record has them, by how the channels behave
    failed: releases that have failed
    """

    def __init__(self, host: Host, formula: Formula):
        self.host, self.formula, self.failed = host, formula, 0
        self.took: dict[str, list[float]] = {how: [] for how in HOW}
        receive(host)

    def turn(self, how: str, before: str, *commits: str) -> None:
        """Release commits, each while the message about the one before is in the channels: those that are measured."""
        self.configure(how, before)
        apply(self.host, *self.formula.apply_argv)
        for commit in commits:
            released = self.host.salt("django.release", "blog", commit)
            record = self.host.call("django.record", "blog")
            self.failed += released.returncode != 0 or record["commit"] != commit
            self.took[how].append(sum(record["steps"].values()))

    def configure(self, how: str, revision: str) -> None:
        made: dict[str, Any] = {}
        for form in FORMATS if how != "off" else ():
            made[form] = channel(how, form, kinds=["released", "failed"])
            if how == "refuses":
                made[form]["url"] = made[form]["url"].replace(":9001", ":9009")
        sites = {"blog": self.formula.options(revision, self.formula.domain)}
        self.host.pillar({"django": {"sites": sites, "notify": made}})
