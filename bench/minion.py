"""What an apply with nothing to do costs a master: requests of the minion, and CPU of the master's processes."""

import json
import time
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType

from driven import Driven
from lab import MACHINE, CommandFailed, Lab
from repository import Repository
from sites import Site

REQUESTS = "/var/log/requests"
COUNTING = ("/opt/salt/bin/python", "/srv/formula/bench/counting_master.py")
MASTER = MappingProxyType(
    {"auto_accept": True, "file_roots": {"base": ["/srv/formula"]}, "pillar_roots": {"base": ["/srv/pillar"]}}
)
#: CPU seconds of a process and all below it, those that have ended included.
SPENT = """
import os, pathlib, sys
stats = [path.read_text().rpartition(")") for path in pathlib.Path("/proc").glob("[0-9]*/stat")]
fields = {head.partition(" ")[0]: rest.split() for head, _, rest in stats}
unit = {sys.argv[1]}
while more := {pid for pid, row in fields.items() if row[1] in unit} - unit:
    unit |= more
print(sum(int(value) for pid in unit for value in fields[pid][11:15]) / os.sysconf("SC_CLK_TCK"))
"""


@dataclass(frozen=True)
class Cost:
    """Of one apply: CPU seconds of the master, and how often each command was requested."""

    cpu: float
    requests: Mapping[str, float]


class Pair:
    """A master and a minion with one live site, until the block ends."""

    def __init__(self, lab: Lab, folder: Path):
        self.master = lab.start(name="master", rights=MACHINE)
        self.master.write("/etc/salt/master", json.dumps(dict(MASTER)))
        self.master.run(["systemd-run", "--unit=salt-master", f"--setenv=REQUESTS={REQUESTS}", *COUNTING])
        self.minion = lab.start(name="minion", rights=MACHINE, kind="ready")
        self.minion.run(["rm", "-r", "/srv/formula", "/srv/pillar"])
        self.minion.write("/etc/salt/minion", json.dumps({"id": "minion", "master": "master"}))
        self.minion.run(["systemd-run", "--unit=salt-minion", "salt-minion"])
        self.driven = Driven(self.minion, by=self.master, command=("salt", "--timeout=600"))
        self.master.run("until salt --timeout=5 minion test.ping | grep True; do sleep 0.5; done", timeout=180)
        self.site = Site(self.driven, Repository(folder, self.minion, "/srv/git/project.git"))

    def __enter__(self) -> "Pair":
        self.site.deploy()
        return self

    def __exit__(self, *_raised: object) -> None:
        self.master.remove()
        self.minion.remove()

    def spent(self) -> float:
        main = self.master.run("systemctl show --value --property=MainPID salt-master").stdout.strip()
        return float(self.master.run(["python3", "-c", SPENT, main]).stdout)

    def idle(self, seconds: float = 20) -> float:
        """CPU seconds of the master in each second without a job."""
        before = self.spent()
        time.sleep(seconds)
        return (self.spent() - before) / seconds

    def nothing(self, count: int, idle: float) -> Cost:
        """Applies that find nothing to do; /proc counts in hundredths, so several at once."""
        self.apply()
        self.master.run(["truncate", "--size=0", REQUESTS])
        before, began = self.spent(), time.monotonic()
        for _each in range(count):
            self.apply()
        cpu = self.spent() - before - idle * (time.monotonic() - began)
        commands = Counter(line.partition(" ")[0] for line in self.master.read(REQUESTS).splitlines())
        return Cost(cpu / count, {command: number / count for command, number in commands.items()})

    def apply(self) -> None:
        told = self.driven.apply()
        if not told.ok or told.changed:
            raise CommandFailed(f"there was something to do: {told}")
