"""What many minions cost one master: real salt-minions, all on one host that serves one site of theirs."""

import json
import time
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from fleet import MASTER, Fleet, answer_of, start_database, start_minions
from lab import MACHINE, CommandFailed, Lab
from minion import COUNTING, REQUESTS, SPENT

#: How many are started at once, and how many apply: what is published to some reaches all, and takes them CPU.
STARTED, APPLYING = 10, 50
#: The master has a core that no minion runs on, as hosts have cores of their own: they would push it out of its caches.
MASTER_CORE, MINION_CORES = "0", "1-63"


@dataclass(frozen=True)
class Cost:
    """Of each minion: CPU seconds of the master, requests by command. wall: seconds for all of them."""

    cpu: float
    requests: Mapping[str, float]
    wall: float


class Scale:
    """A master, and a host that really serves a site of many minions: an apply of any of them finds nothing to do.

    In a deployment their answers are those of `faked_edge.py`, since they cannot all release on the same host.
    """

    def __init__(self, lab: Lab, folder: Path):
        self.lab, self.names = lab, ["m001"]
        self.master = lab.start(name="master", rights=MACHINE)
        self.master.write("/etc/salt/master", json.dumps(MASTER))
        alone = f"--property=CPUAffinity={MASTER_CORE}"
        self.master.run(["systemd-run", "--unit=salt-master", alone, f"--setenv=REQUESTS={REQUESTS}", *COUNTING])
        self.host = lab.start(name="m001", rights=MACHINE, kind="ready", options=["--pids-limit=-1"])
        start_database(self.host)
        start_minions(self.master, [self.host])
        self.fleet = Fleet(self.master, [self.host], self.host, folder, hosts={"m*": ["app"]})

    def __enter__(self) -> "Scale":
        """Deploy the site for real, by its first minion; then the edge of all minions is faked."""
        self.fleet.configure()
        self.fleet.laid_out = self.fleet.apply("m*")
        if self.fleet.failed() != {"m001": []}:
            raise CommandFailed(f"the first apply failed: {self.fleet.failed()}")
        self.deploy()
        self.host.run("""set -e
            systemctl stop salt-minion
            mkdir -p /srv/bench/minions/m001/etc/salt /srv/bench/faked/modules
            cp -r /etc/salt/pki /srv/bench/minions/m001/etc/salt/""")
        for name, place in (("faked_edge", "faked/modules/django_fleet"), ("minions", "minions")):
            text = (Path(__file__).parent / f"{name}.py").read_text()
            self.host.write(f"/srv/bench/{place}.py", text)
        self.start(self.names)
        self.apply(has_more=True)  # so that its cache has the files: all others start with a copy of it
        return self

    def __exit__(self, *_raised: object) -> None:
        self.master.remove()
        self.host.remove()

    # How many

    def grow(self, count: int) -> None:
        """Have so many minions, all of which know of each other and have everything of the formula in their caches."""
        while len(self.names) < count:
            first = len(self.names) + 1
            more = [f"m{number:03}" for number in range(first, min(first + STARTED, count + 1))]
            self.start(more)
            self.names += more
        self.apply(has_more=True)

    def start(self, names: list[str]) -> None:
        argv = ["/opt/salt/bin/python", "/srv/bench/minions.py", self.master.name, *names]
        properties = ["--property=LimitNOFILE=65536", f"--property=CPUAffinity={MINION_CORES}"]
        self.host.run(["systemd-run", f"--unit=minions-{names[0]}", *properties, *argv])
        asked = f"salt --timeout=25 --out=txt --list {','.join(names)} test.ping"
        self.master.run(f"until test $({asked} | grep -c True) = {len(names)}; do sleep 1; done", timeout=600)

    def memory(self) -> float:
        """Bytes of each minion, shared pages in parts."""
        pages = "cat $(grep -l minions.py /proc/[0-9]*/cmdline | sed s/cmdline/smaps_rollup/) 2>/dev/null"
        total = self.host.run(f"{pages} | awk '/^Pss:/ {{ s += $2 }} END {{ print s * 1024 }}'").stdout
        return float(total) / len(self.names)

    # What is measured

    def apply(self, *, has_more: bool = False) -> None:
        """`state.apply django` on all, some at a time.

        Raises:
            CommandFailed: it failed, or changed something though no minion `has_more` hosts in its pillar than before.
        """
        for at in range(0, len(self.names), APPLYING):
            names = self.names[at : at + APPLYING]
            argv = ["salt", "--timeout=900", "--out=json", "--out-indent=-1", "--log-level=warning"]
            listed = ["--list", ",".join(names), "state.apply", "django"]  # with --static it would ask each twice
            done = self.master.run([*argv, *listed], check=False, timeout=960)
            told = {name: value for line in done.stdout.splitlines() for name, value in json.loads(line).items()}
            wrong = {
                name: [
                    state["comment"]
                    for state in told[name].values()
                    if not state["result"] or (state["changes"] and not has_more)
                ]
                if isinstance(told.get(name), dict)
                else [told.get(name)]
                for name in names
            }
            if any(wrong.values()):
                raise CommandFailed(f"an apply: {wrong}\n{done.stderr}")

    def deploy(self) -> None:
        """A deployment by the verbs."""
        argv = ["/opt/salt/bin/python", "/srv/formula/bench/patient_runner.py", "--out=json", "--log-level=warning"]
        done = answer_of(self.master.run([*argv, "django.deploy", "blog"], timeout=900).check())
        if sorted(done["hosts"]) != self.names:
            raise CommandFailed(f"a deployment was not that of all minions: {done}")

    def cost(self, act: str, idle: float, times: int) -> Cost:
        """What `apply` or `deploy` costs."""
        self.master.run(["truncate", "--size=0", REQUESTS])
        before, began = self.spent(), time.monotonic()
        for _each in range(times):
            getattr(self, act)()
        wall = time.monotonic() - began
        cpu, count = self.spent() - before - idle * wall, times * len(self.names)
        commands = Counter(line.partition(" ")[0] for line in self.master.read(REQUESTS).splitlines())
        return Cost(cpu / count, {name: number / count for name, number in commands.items()}, wall / times)

    def spent(self) -> float:
        main = self.master.run("systemctl show --value --property=MainPID salt-master").stdout.strip()
        return float(self.master.run(["python3", "-c", SPENT, main]).stdout)

    def idle(self, seconds: float = 60) -> float:
        """CPU seconds of the master in each second without a job."""
        before = self.spent()
        time.sleep(seconds)
        return (self.spent() - before) / seconds
