"""The figures: each measures, alternating, what its bound speaks of, and returns ratios of neighbours in time."""

import statistics
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from client import Load
from contestants import SALT, Contestant, Formula, Plain, Took, apply, empty, measured
from lab import CommandFailed, Host
from repository import Repository


@dataclass(frozen=True)
class Figure:
    """A row of the table: what the values are (their median counts), what they may be at most, what was seen beside."""

    title: str
    unit: str
    bound: float
    values: Sequence[float]
    details: str

    def cells(self) -> tuple[str, ...]:
        low, middle, high = (f"{f(self.values):.3g}" for f in (min, statistics.median, max))
        mark = "yes" if statistics.median(self.values) <= self.bound else "NO"
        return (self.title, self.unit, f"{self.bound:g}", low, middle, high, mark, self.details)


@dataclass
class Bench:
    """One host with both contestants' sites, and how much is measured."""

    host: Host
    folder: Path
    say: Callable[[str], object]
    runs: int = 11
    sites: int = 10
    deployments: int = 20
    rest: float = 1.0
    commits: list[str] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.repository = Repository(self.folder, self.host, "/srv/git/project.git")
        self.commits.append(self.repository.git("rev-parse", "HEAD").strip())
        self.formula, self.plain = Formula(self.host, self.repository), Plain(self.host, self.repository)
        for contestant in (self.formula, self.plain):
            self.say(f"{contestant.title}: first deployment")
            contestant.deploy(self.commits[0])
            self.pause()
            self.check(contestant, contestant.answering["version"] == "1.2")

    def commit(self) -> str:
        """A commit that changes code and nothing else."""
        number = f"2.{len(self.commits)}"
        files = {"guestbook/version.py": f'VERSION = "{number}"\nRELEASE_NOTE = ""\n'}
        self.commits.append(self.repository.commit(files, f"Version {number}"))
        return self.commits[-1]

    def check(self, contestant: Contestant, is_so: bool) -> None:
        if not is_so:
            raise CommandFailed(f"{contestant.title} answers {contestant.answering}")

    def each(self, what: str) -> range:
        self.say(f"{what}: {self.runs} runs")
        return range(self.runs)

    def pause(self) -> None:
        """Let what a command has left to systemd and nginx come to its end."""
        time.sleep(self.rest)


def nothing(bench: Bench) -> list[Figure]:
    for contestant in (bench.formula, bench.plain):
        contestant.configure(contestant.revision)
        contestant.nothing()
    took: dict[str, list[Took]] = {"empty": [], "formula": [], "plain": []}
    for _run in bench.each("nothing to do"):
        took["empty"].append(empty(bench.host))
        took["formula"].append(bench.formula.nothing())
        took["plain"].append(bench.plain.nothing())
    empties, ours, plain = ([one.cpu for one in row] for row in took.values())
    details = f"CPU: {seconds(ours)}; empty {seconds(empties)}; plain Salt tree {seconds(plain)}"
    values = ratios(ours, empties)
    return [Figure("nothing to do, one site", "CPU ÷ an empty state.apply", 1.6, values, details)]


def deployment(bench: Bench) -> list[Figure]:
    """A code-only commit and its rollback, in turn by each contestant."""
    deployed: dict[str, list[Took]] = {Formula.title: [], Plain.title: []}
    returned: dict[str, list[Took]] = {Formula.title: [], Plain.title: []}
    before = bench.formula.virtualenvs()
    for _run in bench.each("a code-only commit, and back"):
        for contestant in (bench.formula, bench.plain):
            bench.pause()
            last, version = contestant.revision, contestant.answering["version"]
            deployed[contestant.title].append(contestant.deploy(bench.commit()))
            bench.check(contestant, contestant.answering["version"] == f"2.{len(bench.commits) - 1}")
            bench.pause()
            returned[contestant.title].append(contestant.back(last))
            bench.check(contestant, contestant.answering["version"] == version)
            contestant.revision = last
    after = bench.formula.virtualenvs()
    untouched = "virtualenv untouched" if after == before else f"VIRTUALENV CHANGED: {before!r} → {after!r}"
    return [
        Figure("a code-only commit", "wall ÷ the plain Salt tree", 0.6, *beside(deployed, f"; {untouched}")),
        Figure("rollback", "wall ÷ the plain Salt tree", 0.4, *beside(returned)),
    ]


def beside(took: dict[str, list[Took]], more: str = "") -> tuple[list[float], str]:
    """Ratios of wall times; told beside them is the CPU of the whole host, which other work disturbs less."""
    (ours, plain), (our_cpu, plain_cpu) = (
        [[getattr(one, kind) for one in row] for row in took.values()] for kind in ("wall", "host")
    )
    cpu = f"{statistics.median(ratios(our_cpu, plain_cpu)):.2f}"
    walls = f"wall: {seconds(ours)}; plain Salt tree {seconds(plain)}"
    return ratios(ours, plain), f"{walls}; CPU of the whole host {seconds(our_cpu)}, {cpu} of the plain tree's{more}"


def cold(bench: Bench) -> list[Figure]:
    """A first deployment, in turn by each contestant; the packages come from the caches of uv and pip."""
    took: dict[str, list[Took]] = {Formula.title: [], Plain.title: []}
    for _run in range(max(3, bench.runs // 2)):
        for contestant in (bench.formula, bench.plain):
            contestant.clear()
            bench.pause()
            took[contestant.title].append(contestant.deploy(bench.commits[0]))
            bench.check(contestant, contestant.answering["version"] == "1.2")
    return [Figure("a first deployment, packages cached", "wall ÷ the plain Salt tree", 0.6, *beside(took))]


def inspect(bench: Bench) -> list[Figure]:
    """What is found in a project of ten thousand files, Salt's own start included."""
    folder = "/srv/bench/large"
    made = "for d in $(seq 100); do mkdir -p app$d; for f in $(seq 100); do echo 'X = 1' > app$d/m$f.py; done; done"
    bench.host.run(f"mkdir -p {folder} && cd {folder} && cp -r /srv/formula/examples/project/. . && {made}")
    took = [measured(bench.host, *SALT, "django.inspect", folder)[0] for _run in bench.each("inspect")]
    return [Figure("inspect, 10 000 files", "wall, s", 2, [one.wall for one in took], "salt-call and all it does")]


def load(bench: Bench) -> list[Figure]:
    """Deployments under a load that never pauses; the plain tree shows with fewer what is lost without care."""
    lost: dict[str, str] = {}
    failed = 0
    for contestant, count in ((bench.formula, bench.deployments), (bench.plain, min(5, bench.deployments))):
        bench.say(f"{contestant.title}: {count} deployments under load")
        commits = [bench.commit() for _each in range(count)]
        address = f"http://{bench.host.address}/release"
        with Load(address, contestant.domain, connections=16, seconds=7200, requests=10**8) as requests:
            requests.wait(100)
            walls = [contestant.deploy(commit).wall for commit in commits]
            requests.wait(100)
        if contestant is bench.formula:
            failed = len(requests.failed)
        lost[contestant.title] = (
            f"{len(requests.failed)} of {len(requests.answers)} requests in {count} deployments of {seconds(walls)}"
        )
    details = "; ".join(f"{title} lost {text}" for title, text in lost.items())
    title = f"{bench.deployments} deployments, 16 connections always in flight"
    return [Figure(title, "failed requests", 0, [failed], details)]


def sites(bench: Bench) -> list[Figure]:
    """The slope from one site to many; each was deployed for real, and is in the pillar by its own commit."""
    formula, host, commit = bench.formula, bench.host, bench.commits[0]
    names = [f"site{number:02}" for number in range(1, bench.sites + 1)]
    for pillar, count in (("one", 1), ("all", bench.sites)):
        configured = {name: formula.options(commit, f"{name}.example.org") for name in names[:count]}
        host.pillar({"django": {"sites": configured}})
        host.run(["cp", "-rT", "/srv/pillar", f"/srv/bench/{pillar}"])
    bench.say(f"deploying {bench.sites} sites")
    apply(host, *formula.apply_argv)
    took: dict[str, list[float]] = {"one": [], "all": []}
    for pillar in took:
        quiet(host, pillar, formula)
    for _run in bench.each(f"nothing to do, 1 and {bench.sites} sites"):
        for pillar, seconds_of in took.items():
            seconds_of.append(quiet(host, pillar, formula).cpu)
    slopes = [1000 * (b - a) / (bench.sites - 1) for a, b in zip(took["one"], took["all"], strict=True)]
    details = f"CPU: {seconds(took['one'])} with 1 site, {seconds(took['all'])} with {bench.sites}"
    return [Figure(f"each further site, to {bench.sites}", "CPU, ms", 50, slopes, details)]


def quiet(host: Host, pillar: str, formula: Formula) -> Took:
    took, told = apply(host, f"--pillar-root=/srv/bench/{pillar}", *formula.apply_argv)
    if told.changed:
        raise CommandFailed(f"there was something to do with the pillar {pillar!r}: {told}")
    return took


def ratios(ours: Sequence[float], others: Sequence[float]) -> list[float]:
    return [a / b for a, b in zip(ours, others, strict=True)]


def seconds(values: Sequence[float]) -> str:
    return f"{statistics.median(values):.2f} s (best {min(values):.2f})"


FIGURES: dict[str, Callable[[Bench], list[Figure]]] = {
    "nothing": nothing,
    "deployment": deployment,
    "cold": cold,
    "inspect": inspect,
    "load": load,
    "sites": sites,
}
