"""The figures: each measures, alternating, what its bound speaks of, and returns ratios of neighbours in time."""

import functools
import http.client
import itertools
import json
import re
import statistics
import subprocess
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from types import MappingProxyType

import background
import channels
import containers
import copies
import trial
from client import Answer, Load
from contestants import (
    SALT,
    Ansible,
    Before,
    Contestant,
    Empty,
    Fabric,
    Formula,
    Plain,
    Pyinfra,
    Took,
    apply,
    install_peers,
    measured,
)
from lab import ROOT, CommandFailed, Host, Lab
from minion import Pair
from repository import Repository
from rolling import Rolling
from scale import Cost, Scale


@dataclass(frozen=True)
class Figure:
    """A row of the table: what the values are (their median counts), their upper bound, and other details measured."""

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
    """One host with both contestants' sites, and how much is measured; figures may start further hosts of the lab."""

    lab: Lab
    host: Host
    folder: Path
    say: Callable[[str], object]
    runs: int = 11
    sites: int = 10
    deployments: int = 20
    minions: int = 50
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

    def commit(self, more: Mapping[str, str] = MappingProxyType({})) -> str:
        """A commit that changes code and nothing else, but for more files."""
        number = f"2.{len(self.commits)}"
        files = {"guestbook/version.py": f'VERSION = "{number}"\nRELEASE_NOTE = ""\n', **more}
        self.commits.append(self.repository.commit(files, f"Version {number}"))
        return self.commits[-1]

    def check(self, contestant: Contestant, is_so: bool) -> None:
        if not is_so:
            raise CommandFailed(f"{contestant.title} answers {contestant.answering}")

    @functools.cached_property
    def everybody(self) -> list[Contestant]:
        """All contestants, each with its site live; those that are no Salt are installed on first need."""
        install_peers(self.host)
        rivals = [kind(self.host, self.repository) for kind in (Fabric, Ansible, Pyinfra)]
        for rival in rivals:
            self.say(f"{rival.title}: first deployment")
            rival.deploy(self.commits[0])
            self.pause()
            self.check(rival, rival.answering["version"] == "1.2")
        return [self.formula, self.plain, *rivals]

    def each(self, what: str) -> range:
        self.say(f"{what}: {self.runs} runs")
        return range(self.runs)

    def pause(self) -> None:
        """Let what a command has left to systemd and nginx come to its end."""
        time.sleep(self.rest)


def nothing(bench: Bench) -> list[Figure]:
    empty = Empty(bench.host)
    for contestant in (bench.formula, bench.plain):
        contestant.configure(contestant.revision)
        contestant.nothing()
    empty.nothing()
    took: dict[str, list[Took]] = {"empty": [], "formula": [], "plain": []}
    for _run in bench.each("nothing to do"):
        took["empty"].append(empty.nothing())
        took["formula"].append(bench.formula.nothing())
        took["plain"].append(bench.plain.nothing())
    empties, ours, plain = ([one.cpu for one in row] for row in took.values())
    details = f"CPU: {seconds(ours)}; empty {seconds(empties)}; plain Salt tree {seconds(plain)}"
    values = ratios(ours, empties)
    return [Figure("nothing to do, one site", "CPU ÷ an empty state.apply", 1.3, values, details)]


def master(bench: Bench) -> list[Figure]:
    with Pair(bench.lab, bench.folder / "minion") as pair:
        idle = pair.idle()
        costs = [pair.nothing(8, idle) for _run in bench.each("nothing to do, by a master; eight applies each")]
    counted = ", ".join(f"{number:g} {command}" for command, number in sorted(costs[-1].requests.items()))
    title, requests = "nothing to do, by a master", [sum(cost.requests.values()) for cost in costs]
    return [
        Figure(title, "requests of the minion", 12, requests, counted),
        Figure(title, "CPU of the master, ms", 110, [1000 * cost.cpu for cost in costs], "eight applies each"),
    ]


def scale(bench: Bench) -> list[Figure]:
    """What each of many minions costs its master, and how straight the line over their number is."""
    counts = [count for count in (10, 25, 50, 100, 200) if count <= max(25, bench.minions)]
    costs: dict[str, list[Cost]] = {"apply": [], "deploy": []}
    memory = []
    with Scale(bench.lab, bench.folder / "scale") as many:
        for count in counts:
            many.grow(count)
            memory.append(many.memory() / 1e6)
            idle = many.idle()
            for act, found in costs.items():
                found.append(many.cost(act, idle, max(1, 50 // count)))
                bench.say(f"{count} minions, {act}: {found[-1]}")
    requests = [[sum(cost.requests.values()) for cost in found] for found in costs.values()]
    took = f"memory of a minion {', '.join(f'{one:.0f}' for one in memory)} MB"
    figures = [Figure("nothing to do, by many minions", "requests of each", 12, requests[0], took)]
    for (act, found), bound in zip(costs.items(), (110, 60), strict=True):
        title = {"apply": "nothing to do, by many minions", "deploy": "a deployment of one site on many hosts"}[act]
        each = [1000 * cost.cpu for cost in found]
        total = [count * one for count, one in zip(counts, each, strict=True)]
        bend = 1 - statistics.correlation(counts, total) ** 2
        told = ", ".join(f"{count}: {one:.0f} ms" for count, one in zip(counts, each, strict=True))
        figures += [
            Figure(title, "CPU of the master for each, ms", bound, each, told),
            Figure(title, "1 - R² of a line over their number", 0.02, [bend], f"{counts[0]} to {counts[-1]} minions"),
        ]
    return figures


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
        Figure("a code-only commit", "wall ÷ the plain Salt tree", 0.6, *compared(deployed, f"; {untouched}")),
        Figure("a code-only commit", "CPU of the host ÷ the plain Salt tree", 0.8, cpu_ratios(deployed), ""),
        Figure("rollback", "wall ÷ the plain Salt tree", 0.36, *compared(returned)),
        Figure("rollback", "CPU of the host ÷ the plain Salt tree", 0.42, cpu_ratios(returned), ""),
    ]


def cpu_ratios(took: dict[str, list[Took]]) -> list[float]:
    """Return ratios of the CPU of the whole host, which hold on a machine with other work too."""
    ours, plain = ([one.host for one in row] for row in took.values())
    return ratios(ours, plain)


def compared(took: dict[str, list[Took]], more: str = "") -> tuple[list[float], str]:
    """Return ratios of wall times, and as details the CPU of the whole host, which other work disturbs less."""
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
    return [Figure("a first deployment, packages cached", "wall ÷ the plain Salt tree", 0.6, *compared(took))]


def inspect(bench: Bench) -> list[Figure]:
    """What is found in a project of ten thousand files, Salt's own start included."""
    folder = "/srv/bench/large"
    made = "for d in $(seq 100); do mkdir -p app$d; for f in $(seq 100); do echo 'X = 1' > app$d/m$f.py; done; done"
    bench.host.run(f"mkdir -p {folder} && cd {folder} && cp -r /srv/formula/examples/project/. . && {made}")
    took = [measured(bench.host, *SALT, "django.inspect", folder)[0] for _run in bench.each("inspect")]
    return [Figure("inspect, 10 000 files", "wall, s", 2, [one.wall for one in took], "salt-call and all it does")]


MIGRATION = """from django.db import migrations, models


class Migration(migrations.Migration):
    dependencies = [("guestbook", "{before}")]
    operations = [migrations.AddField("entry", "note{number}", models.CharField(max_length=9, null=True))]
"""


def peers(bench: Bench) -> list[Figure]:
    """A code-only commit, its rollback, and a commit with a migration, in turn by each tool that people use."""
    everybody = bench.everybody
    took: dict[str, dict[str, list[Took]]] = {
        what: {one.title: [] for one in everybody} for what in ("code", "back", "migration")
    }
    before = "0003_entry_hidden"
    for run in bench.each("peers: a commit, back, and a commit with a migration"):
        number = len(bench.commits)
        commit = bench.commit()
        for one in everybody:
            last = one.revision
            bench.pause()
            took["code"][one.title].append(one.deploy(commit))
            bench.pause()
            took["back"][one.title].append(one.back(last))
            bench.check(one, one.answering["version"] != f"2.{number}")
            one.revision = last
        name = f"{run + 4:04}_note{number}"
        text = MIGRATION.format(before=before, number=number)
        before = name
        commit = bench.commit({f"guestbook/migrations/{name}.py": text})
        for one in everybody:
            bench.pause()
            took["migration"][one.title].append(one.deploy(commit))
            bench.check(one, one.answering["version"] == f"2.{number + 1}")
    fabric = Fabric.title
    return [
        Figure(title, "wall ÷ a Fabric script", bound, *among(took[what], fabric))
        for what, title, bound in (
            ("code", "a code-only commit compared with peers", 0.9),
            ("migration", "a commit with a migration, backup, lock and guard included", 1.1),
            ("back", "rollback compared with peers", 0.6),
        )
    ]


BROKEN = {
    "a syntax error": {"guestbook/views.py": "def entries(:\n"},
    "a view that raises": {
        "guestbook/views.py": "+\n\nclass EntryList:\n    as_view = lambda: lambda request: 1 / 0\n"
    },
}


def broken(bench: Bench) -> list[Figure]:
    """What visitors get after a commit that is broken, and after the next restart of the server."""
    good = (bench.repository.worktree / "guestbook/views.py").read_text()
    wrong, details = 0, []
    bench.formula.health = {}  # the first page, as it is by default
    for what, files in BROKEN.items():
        texts = {name: good + text[1:] if text.startswith("+") else text for name, text in files.items()}
        bad, mended = bench.commit(texts), bench.commit({"guestbook/views.py": good})
        for one in bench.everybody:
            told = "it succeeds"
            try:
                one.deploy(bad)
            except CommandFailed:
                told = "it fails"
            after = one.status()
            bench.host.run(["systemctl", "restart", one.unit])
            bench.pause()
            restarted = one.status()
            wrong += one is bench.formula and (after, restarted) != (200, 200)
            details.append(f"{what}, {one.title}: {told}, {after}, after a restart {restarted}")
            one.deploy(mended)
    return [Figure("a broken commit", "times that visitors saw it", 0, [wrong], "; ".join(details))]


def among(took: dict[str, list[Took]], rival: str) -> tuple[list[float], str]:
    """Return ratios of wall times to one rival's, and as details the times of all."""
    walls = {title: [one.wall for one in row] for title, row in took.items()}
    cpu = {title: statistics.median(one.host for one in row) for title, row in took.items()}
    details = "; ".join(f"{title} {seconds(row)}, CPU {cpu[title]:.2f} s" for title, row in walls.items())
    return ratios(walls[Formula.title], walls[rival]), details


@dataclass
class Endured:
    """Deployments under load.

    quick, slow: pages of 20 ms that 16 asked for, and of 5 s that one did
    walls: seconds of each deployment; times: when each began and ended, as time.time has it
    early, late: bytes of memory and of disk that the site takes, after ten deployments and at the end
    """

    quick: Load
    slow: Load
    walls: list[float] = field(default_factory=list)
    times: list[tuple[float, float]] = field(default_factory=list)
    early: tuple[int, int] = (1, 1)
    late: tuple[int, int] = (1, 1)

    @property
    def lost(self) -> int:
        return len(self.quick.failed) + len(self.slow.failed)

    def __str__(self) -> str:
        asked = len(self.quick.answers) + len(self.slow.answers)
        return f"lost {self.lost} of {asked} requests in {len(self.walls)} deployments of {seconds(self.walls)}"

    def gap(self) -> tuple[list[float], str]:
        """The longest time without an answer, as a multiple of the slowest quick page outside of deployments."""
        ends = sorted(answer.time + answer.duration for answer in self.quick.answers)
        longest = max(after - before for before, after in itertools.pairwise(ends))
        calm = max(
            answer.duration
            for answer in self.quick.answers
            if all(answer.time + answer.duration < began or answer.time > ended for began, ended in self.times)
        )
        return [longest / calm], f"{1000 * longest:.0f} ms; the slowest page outside took {1000 * calm:.0f} ms"

    def growth(self) -> tuple[list[float], str]:
        """How much more the site takes at the end than after ten deployments: the worse of memory and disk."""
        told = zip(("memory", "disk"), self.early, self.late, strict=True)
        details = "; ".join(f"{what} {early >> 20} → {late >> 20} MB" for what, early, late in told)
        return [max(late / early for early, late in zip(self.early, self.late, strict=True))], details


def tasks(bench: Bench) -> list[Figure]:
    """What becomes of tasks while a site is deployed: lost, or run twice."""
    install_peers(bench.host)
    everybody = [bench.formula, bench.plain, *(kind(bench.host, bench.repository) for kind in (Fabric, Ansible))]
    apt = "DEBIAN_FRONTEND=noninteractive apt-get -qq install --no-install-recommends redis-server"
    bench.host.run(f"apt-get -qq update && {apt} && systemctl start redis-server", timeout=600)
    count, deployments = (1000, 5) if bench.runs > 3 else (300, 2)
    commits = [bench.commit(background.files(bench.repository.worktree, number)) for number in range(deployments + 1)]
    outcomes = {}
    for one in everybody:
        bench.say(f"{one.title}: {count} tasks over {deployments} deployments")
        background.prepare(one)
        outcomes[one.title] = background.run(one, commits, count)
        bench.say(f"{one.title}: {outcomes[one.title]}")
    ours = outcomes[Formula.title]
    bench.formula.more = {}
    return [
        Figure(
            f"{count} tasks of Celery, {deployments} deployments",
            "tasks lost or doubled",
            0,
            [ours.lost + ours.doubled],
            "; ".join(f"{title} {outcome}" for title, outcome in outcomes.items()),
        )
    ]


#: The last commit of the formula without workers, queues and schedules.
WITHOUT_WORKERS = "20e3f70"


def before(bench: Bench) -> list[Figure]:
    """What workers, stores and schedules cost a site that has none: releases by the formula of before, and by this."""
    archive = subprocess.run(["git", "archive", WITHOUT_WORKERS], cwd=ROOT, check=True, capture_output=True).stdout
    both: list[Contestant] = [Before(bench.host, bench.repository, archive), bench.formula]
    took: dict[str, list[Took]] = {one.title: [] for one in both}
    both[0].deploy(bench.commits[0])
    for run in bench.each("a release of a site without workers"):
        commit = bench.commit()
        for one in both if run % 2 else both[::-1]:
            bench.pause()
            took[one.title].append(one.deploy(commit))
    earlier, now = ([one.cpu for one in row] for row in took.values())
    added = [1000 * (b - a) for a, b in zip(earlier, now, strict=True)]
    details = f"CPU of salt-call and its children: {seconds(now)}; before {seconds(earlier)}"
    return [Figure("a release of a site without workers", f"ms of CPU more than {WITHOUT_WORKERS}", 20, added, details)]


def load(bench: Bench) -> list[Figure]:
    """Deployments under a load that never pauses; the plain tree shows with fewer what is lost without care."""
    ours = endure(bench, bench.formula, bench.deployments)
    plain = endure(bench, bench.plain, min(5, bench.deployments))
    title = f"{bench.deployments} deployments, 16 connections always in flight"
    return [
        Figure(title, "failed requests", 0, [ours.lost], f"{Formula.title} {ours}; {Plain.title} {plain}"),
        Figure("their longest gap between answers", "÷ the slowest page outside of them", 2, *ours.gap()),
        Figure("what the site takes after them", "÷ what it took after the tenth", 1.1, *ours.growth()),
    ]


def endure(bench: Bench, contestant: Contestant, count: int) -> Endured:
    """Deploy some commits under load."""
    bench.say(f"{contestant.title}: {count} deployments under load")
    commits = [bench.commit() for _each in range(count)]
    address = f"http://{bench.host.address}/slow?seconds="
    quick = Load(f"{address}0.02", contestant.domain, connections=16, seconds=7200, requests=10**8)
    slow = Load(f"{address}5", contestant.domain, connections=1, seconds=7200, requests=10**8)
    endured = Endured(quick, slow)
    with quick, slow:
        quick.wait(100)
        for number, commit in enumerate(commits, start=1):
            began = time.time()
            endured.walls.append(contestant.deploy(commit).wall)
            endured.times.append((began, time.time()))
            endured.late = contestant.takes()
            endured.early = endured.late if number <= 10 else endured.early
        quick.wait(100)
    return endured


#: A build that compiles: two processes for each core, which compute and write. It says when.
COMPILES = """
import hashlib, json, multiprocessing, os, time

def compile_and_write(end):
    with open(f"object-{os.getpid()}", "wb") as file:
        while time.time() < end:
            block = hashlib.sha256(bytes(1 << 16)).digest() * 4096
            sum(number * number for number in range(50_000))
            file.seek(0)
            file.write(block)

began = time.time()
pool = [multiprocessing.Process(target=compile_and_write, args=[began + 6]) for _ in range(2 * os.cpu_count())]
for process in pool:
    process.start()
for process in pool:
    process.join()
json.dump([began, time.time()], open("built.json", "w"))
"""


def build(bench: Bench) -> list[Figure]:
    """A page before and during a build, by a visitor who waits between requests: the slowest of twenty."""
    calm, busy = [], []
    bench.formula.more = {"build": ["python3 compiles.py"]}
    for _run in range(max(3, bench.runs // 2)):
        commit = bench.commit({"compiles.py": COMPILES})
        bench.pause()
        page = f"http://{bench.host.address}/"
        with Load(page, bench.formula.domain, connections=2, pause=0.04, seconds=600, requests=10**6) as load:
            time.sleep(6)
            bench.formula.deploy(commit)
        began, ended = json.loads(bench.host.read(f"{bench.formula.root}/current/source/built.json"))
        ordered = sorted(load.answers, key=lambda answer: answer.time)
        first = ordered[0].time
        calm.append(p95([answer for answer in ordered if answer.time < first + 5]))
        busy.append(p95([answer for answer in ordered if began < answer.time < ended]))
    bench.formula.more = {}
    details = (
        f"95 % of the pages within {1000 * statistics.median(busy):.0f} ms, before {1000 * statistics.median(calm):.0f}"
    )
    return [Figure("a page during a build that compiles", "p95 ÷ before", 1.5, ratios(busy, calm), details)]


def p95(answers: Sequence[Answer]) -> float:
    return sorted(answer.duration for answer in answers)[int(len(answers) * 0.95)]


FIVE = """

def five(request):
    from django.shortcuts import render
    counts = [Entry.objects.filter(pk__gt=number).count() for number in range(3)]
    entries = list(Entry.objects.filter(hidden=False)[:20])
    return render(request, "guestbook/entry_list.html", {"page_obj": entries, "counts": counts,
                                                         "version": Entry.objects.filter(hidden=True).exists()})
"""
#: A tutorial's server, which replaces the plain tree's: four processes of two threads each, listening on a port.
TUTORIAL = r"""set -e
cd /srv/plain/config
sed -i -e 's/^processes.*/processes = 4/' -e 's/^socket.*/socket = 127.0.0.1:8900/' -e '/^chmod-socket/d' uwsgi.ini
echo 'threads = 2' >>uwsgi.ini
sed -i 's|uwsgi_pass .*|uwsgi_pass 127.0.0.1:8900;|' /etc/nginx/sites-available/plain*
systemctl restart plain
systemctl reload nginx
"""
#: CPU (s) and memory (bytes, what is shared counted in parts) of all processes of a user.
SPENT = """
import os, pathlib, sys
hertz, cpu, memory = os.sysconf("SC_CLK_TCK"), 0, 0
for process in pathlib.Path("/proc").glob("[0-9]*"):
    if process.owner() == sys.argv[1]:
        fields = (process / "stat").read_text().rpartition(")")[2].split()
        cpu += int(fields[11]) + int(fields[12])
        memory += int((process / "smaps_rollup").read_text().split("Pss:")[1].split()[0]) * 1024
print(cpu / hertz, memory)
"""


def serving(bench: Bench) -> list[Figure]:
    """Return the cost of a page with five queries and of a static file, compared with a server as tutorials have it."""
    views = (bench.repository.worktree / "guestbook/views.py").read_text()
    urls = (bench.repository.worktree / "guestbook/urls.py").read_text()
    route = urls.replace("urlpatterns = [", 'urlpatterns = [\n    path("five", views.five),')
    commit = bench.commit({"guestbook/views.py": views + FIVE, "guestbook/urls.py": route})
    both = {"blog": bench.formula, "plain": bench.plain}
    for contestant in both.values():
        contestant.deploy(commit)
    bench.host.run(TUTORIAL)
    bench.pause()
    cpu: dict[str, list[float]] = {user: [] for user in both}
    files: dict[str, list[float]] = {user: [] for user in both}
    memory: dict[str, list[float]] = {user: [] for user in both}
    for run in range(bench.runs + 1):
        for user, contestant in both.items():
            cost, size = asked(bench, contestant, "/five", user)
            page = bench.host.http("/five", contestant.domain).text
            name = re.search(r'/static/[^"]+[.][0-9a-f]{8,}[.]css', page)
            if not name:
                raise CommandFailed(f"{contestant.title}: no static file in {page[:500]}")
            file = fetched(bench, contestant, name[0])
            if run:  # the first warms up
                cpu[user].append(cost)
                memory[user].append(size)
                files[user].append(file)
    bench.plain.revision = ""
    told = [
        "; ".join(f"{both[user].title} {1000 * statistics.median(row):.3f} ms" for user, row in rows.items())
        for rows in (cpu, files)
    ]
    sizes = "; ".join(f"{both[user].title} {statistics.median(row) / 2**20:.0f} MB" for user, row in memory.items())
    ratio = "÷ a tutorial's uWSGI"
    return [
        Figure("a page with five queries", f"CPU of the server {ratio}", 0.8, ratios(*cpu.values()), told[0]),
        Figure("its memory", f"shared pages in parts, {ratio}", 0.55, ratios(*memory.values()), sizes),
        Figure("a static file", "CPU of nginx ÷ its defaults", 0.7, ratios(*files.values()), told[1]),
    ]


def page(bench: Bench) -> list[Figure]:
    """Return what a page costs more where releases prove themselves, while none does: 1 % of a page of 2 ms at most."""
    python = f"{bench.formula.root}/current/virtualenv/bin/python"
    argv = [python, "-B", "/srv/formula/bench/page.py", "/srv/formula/django/files", str(bench.runs)]
    bench.say(f"a page with and without the middleware of proofs: {bench.runs} rounds")
    found = json.loads(bench.host.run(argv).stdout)
    own, again, proof = (statistics.median(found[name]) for name in ("page", "again", "proof"))
    details = f"than {own:.0f} µs without; without, a second time, {again:.1f}; while a proof is on {proof:.1f}"
    title = "a page where releases prove themselves, while none does"
    return [Figure(title, "µs of CPU more", 20, found["idle"], details)]


def asked(bench: Bench, contestant: Contestant, path: str, user: str, count: int = 600) -> tuple[float, float]:
    """Ask for a page or file; seconds of CPU that each answer took of a user's processes, and their memory then."""
    before, _memory = spent(bench.host, user)
    load = Load(f"http://{bench.host.address}{path}", contestant.domain, connections=2, requests=count)
    with load:
        while len(load.answers) < count:
            load.wait(min(100, count - len(load.answers)))
    if load.failed:
        raise CommandFailed(f"{contestant.title}: {path}: {load.failed[0]}")
    after, memory = spent(bench.host, user)
    return (after - before) / count, memory


def fetched(bench: Bench, contestant: Contestant, path: str, count: int = 5000) -> float:
    """Fetch a file over one connection, as browsers do; seconds of CPU that each answer took of nginx."""
    connection = http.client.HTTPConnection(bench.host.address, timeout=30)
    before, _memory = spent(bench.host, "www-data")
    for _each in range(count):
        connection.request("GET", path, headers={"Host": contestant.domain, "Accept-Encoding": "gzip"})
        answer = connection.getresponse()
        answer.read()
        if answer.status != 200:
            raise CommandFailed(f"{contestant.title}: {path}: {answer.status}")
    connection.close()
    return (spent(bench.host, "www-data")[0] - before) / count


def spent(host: Host, user: str) -> tuple[float, float]:
    cpu, memory = host.run(["python3", "-c", SPENT, user]).stdout.split()
    return float(cpu), float(memory)


def contained(bench: Bench) -> list[Figure]:
    """Releases in containers, by each engine, next to those of a plain site in the same run."""
    found = []
    for engine, release in containers.CELLS:
        cell = f"{engine} on {release}"
        bench.say(f"{cell}: a plain site and one in containers")
        one = containers.Contained(bench.lab, bench.folder / cell.replace(" ", "-"), engine, release)
        one.measure(bench.runs)
        one.host.remove()
        more = [ours - 1.5 * plain for ours, plain in zip(one.contained, one.plain, strict=True)]
        details = f"container {seconds(one.contained)}; plain {seconds(one.plain)}"
        found += [
            Figure(f"{cell}: first apply, its base there", "s", 90, [one.first], ""),
            Figure(f"{cell}: start to end of the former", "s more than 1.5 times plain", 2, more, details),
            Figure(f"{cell}: image, code alone changed", "s", 1.5, one.builds, ""),
            Figure(f"{cell}: the same, builds' cache removed", "s", 1.5, one.pruned, ""),
        ]
    return found


def fleet(bench: Bench) -> list[Figure]:
    """One site on three hosts behind HAProxy, next to an Ansible play that takes one host after another."""
    bench.say("fleet: a master, three hosts and their balancer")
    rolling = Rolling(bench.lab, bench.folder / "fleet")
    bench.say(f"fleet: {bench.runs} runs")
    rolling.measure(bench.runs)
    ours, theirs = rolling.took.values()
    details = "; ".join(f"{title}: {seconds(took.walls)}, {took}" for title, took in rolling.took.items())
    return [
        Figure(
            "a code-only commit on three hosts",
            "wall ÷ an Ansible play",
            0.5,
            ratios(ours.walls, theirs.walls),
            details,
        ),
        Figure("the same, 100 requests a second", "failed requests", 0, [ours.lost], ""),
        Figure("a commit that one host cannot run", "commits live after it", 1, [len(ours.versions)], ""),
    ]


def machinery(bench: Bench) -> list[Figure]:
    """What the look for migrations adds to releases that have none: the same site with `migrate`, and without it."""
    figures = []
    for name, database, bound in (("small", {}, 50), ("large", {"engine": "postgres"}, 100)):
        spent: dict[bool, list[float]] = {True: [], False: []}
        release(bench, name, {**database, "migrate": True})
        for _run in bench.each(f"nothing to migrate, {name}"):
            for migrates, row in spent.items():
                bench.pause()
                row.append(release(bench, name, {**database, "migrate": migrates}))
        engine = database.get("engine", "sqlite")
        looks, looks_not = (statistics.median(row) for row in spent.values())
        details = f"steps static and migration: {looks:.0f} ms, {looks_not:.0f} ms with migrate: false"
        added = [a - b for a, b in zip(*spent.values(), strict=True)]
        figures.append(Figure(f"nothing to migrate, {engine}", "ms added to a release", bound, added, details))
    return figures


def release(bench: Bench, name: str, database: Mapping[str, object]) -> float:
    """Deploy a commit to a site of its own; milliseconds of the steps that have to do with migrations."""
    options = {**bench.formula.options(bench.commit(), f"{name}.example.org"), "database": database}
    bench.host.pillar({"django": {"sites": {name: options}}})
    apply(bench.host, *bench.formula.apply_argv)
    steps = bench.host.call("django.record", name)["steps"]
    return 1000 * float(steps["static"] + steps["migration"])


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
    for _run in bench.each(f"nothing to do, 1 and {bench.sites} sites"):
        for pillar, seconds_of in took.items():
            apply(host, f"--pillar-root=/srv/bench/{pillar}", *formula.apply_argv)  # the watch has its sites
            seconds_of.append(quiet(host, pillar, formula).cpu)
    slopes = [1000 * (b - a) / (bench.sites - 1) for a, b in zip(took["one"], took["all"], strict=True)]
    details = f"CPU: {seconds(took['one'])} with 1 site, {seconds(took['all'])} with {bench.sites}"
    looks = [look(host) for _run in bench.each(f"looks of the watch, {bench.sites} sites")]
    host.write("/srv/bench/lines.py", LINES)
    lines = [1000 * measured(host, "python3", "/srv/bench/lines.py")[0].cpu for _run in bench.each("100,000 requests")]
    return [
        Figure(f"each further site, to {bench.sites}", "CPU, ms", 50, slopes, details),
        Figure(
            f"a look of the watch, {bench.sites} sites",
            "CPU, ms",
            250 if bench.sites <= 10 else 800,
            looks,
            "the program of django-watch.service",
        ),
        Figure(
            "100,000 requests of an access log, rotated in their middle", "CPU, ms", 500, lines, "the count is exact"
        ),
    ]


#: Counts what a log has grown by, and of the one before it, as a look of the watch does.
LINES = """
import pathlib, sys
sys.path.insert(0, "/srv/formula/engine")
from django_formula.metrics import access_log
from django_formula.proxy.access_log import grown

line = '{"host":"blog.example.org","uri":"/","protocol":"HTTP/1.1","status":200,"bytes":100,"seconds":0.004}\\n'
log, place = pathlib.Path("/srv/bench/access.log"), {}
log.write_text("")
grown(log, place)
log.write_text(line * 50_000)
log.rename("/srv/bench/access.log.1")
log.write_text(line * 50_000)
assert access_log.count(grown(log, place)).codes == {"2xx": 100_000}
"""


def look(host: Host) -> float:
    """Milliseconds of CPU of one look of the watch, its health checks included."""
    return 1000 * measured(host, "python3", "-I", "/usr/local/lib/django-formula/watch.pyz", "look")[0].cpu


def quiet(host: Host, pillar: str, formula: Formula) -> Took:
    took, told = apply(host, f"--pillar-root=/srv/bench/{pillar}", *formula.apply_argv)
    if told.changed:
        raise CommandFailed(f"there was something to do with the pillar {pillar!r}: {told}")
    return took


def told(bench: Bench) -> list[Figure]:
    """Releases while messages about them are sent, and while no channel takes any."""
    turns = channels.Channels(bench.host, bench.formula)
    for run in bench.each(f"releases with channels {', '.join(channels.HOW)}"):
        first = run % len(channels.HOW)  # each is as often after each time of the others
        for how in channels.HOW[first:] + channels.HOW[:first]:
            turns.turn(how, *(bench.commit() for _ in range(1 + channels.EACH)))
    details = "; ".join(f"{how} {quartiles(row)}" for how, row in turns.took.items())
    good = turns.took["good"]
    details += f"; every other one of good {statistics.median(good[::2]):.3f} and {statistics.median(good[1::2]):.3f} s"
    medians = {how: 1000 * statistics.median(row) for how, row in turns.took.items()}
    more = [abs(medians[how] - medians["good"]) for how in channels.HOW if how != "good"]
    return [
        Figure("releases with good channels and with others", "ms between the medians", 50, [max(more)], details),
        Figure("the same", "releases that failed", 0, [turns.failed], f"{sum(map(len, turns.took.values()))} releases"),
    ]


def quartiles(row: Sequence[float]) -> str:
    low, median, high = statistics.quantiles(row, n=4)
    return f"{median:.3f} s ({low:.3f} to {high:.3f})"


def proof(bench: Bench) -> list[Figure]:
    """Releases of several projects with a canary under visitors, half of them broken."""
    ended: list[trial.Ended] = []
    lost = requests = 0
    for name, kinds in zip(trial.PROVED, trial.shares(bench.deployments, len(trial.PROVED)), strict=True):
        bench.say(f"{name}: {len(kinds)} releases with a canary")
        one = trial.Trial(bench.lab, name, bench.say)
        one.run(kinds)
        ended, lost, requests = ended + one.ended, lost + len(one.lost), requests + one.requests
        one.host.remove()
    broken = [one for one in ended if one.broken]
    found, wrongly = (trial.taken_back(ended, broken=is_broken) for is_broken in (True, False))
    details = "; ".join(
        f"{kind}: {', '.join('missed' if one.seconds is None else f'{one.seconds:.0f} s' for one in rows)}"
        for kind, rows in trial.summary(ended).items()
        if kind != "good"
    )
    missed = 100 * (1 - len(found) / max(len(broken), 1))
    return [
        Figure("broken releases that their canary has not found", "percent", 10, [missed], details),
        Figure("the others: taken back after", "seconds", 20, [trial.median(ended)], "median"),
        Figure("the same: visitors who met it", "visitors", 3, [one.visitors for one in found] or [0], ""),
        Figure("good releases taken back", "releases", 0, [len(wrongly)], str([one.why for one in wrongly])),
        Figure("requests that no release answered", "requests", 0, [lost], f"of {requests}"),
    ]


def replay(bench: Bench) -> list[Figure]:
    """Releases of public projects with a replay of requests: of the same code, and of broken code."""
    replayed = []
    for name in trial.REPLAYED:
        one = trial.Trial(bench.lab, name, bench.say)
        replayed.append(one.replay())
        bench.say(str(replayed[-1]))
        one.host.remove()
    refused = [why for one in replayed for why in one.refused]
    missed = [f"{one.project}: {kind}" for one in replayed for kind in one.missed]
    count, measured = sum(one.compared for one in replayed), sum(one.measured for one in replayed)
    compared = f"{count} requests of {len(replayed)} projects compared, {measured} of them by their CPU"
    return [
        Figure("a replay refuses the same code", "releases", 0, [len(refused)], "; ".join([compared, *refused])),
        Figure("seeded faults that it has not found", "faults", 0, [len(missed)], "; ".join(missed)),
    ]


def copied(bench: Bench) -> list[Figure]:
    """What a backup and its copy elsewhere cost, and what the copy of the next day adds."""
    rows = 100_000
    site = copies.Copies(bench.host, bench.formula, bench.commit(), rows)
    usual = [site.usual() for _run in bench.each("dumps as people make them")]
    ours = [site.spent("backup") for _run in bench.each("backups")]
    first, size = site.spent("offsite"), site.dump()
    before = site.stored()
    site.change()
    site.spent("backup")
    later = site.spent("offsite")
    added = site.stored() - before
    drill = site.spent("restore_drill", "offsite=True")
    details = f"{rows // 1000} MB: {seconds(ours)}, {seconds(usual)}"
    spent = f"CPU: first {first:.1f} s, next {later:.1f} s, drill {drill:.1f} s"
    return [
        Figure("a backup by salt-call", "CPU : pg_dump with zlib", 0.7, ratios(ours, usual), details),
        Figure("its first copy elsewhere", "bytes : the dump", 1.05, [before / size], spent),
        Figure(
            "the copy of the next day", "bytes added : the dump, 2 % of the rows are new", 0.15, [added / size], spent
        ),
    ]


def ratios(ours: Sequence[float], others: Sequence[float]) -> list[float]:
    return [a / b for a, b in zip(ours, others, strict=True)]


def seconds(values: Sequence[float]) -> str:
    return f"{statistics.median(values):.2f} s (best {min(values):.2f})"


FIGURES: dict[str, Callable[[Bench], list[Figure]]] = {
    "nothing": nothing,
    "master": master,
    "scale": scale,
    "deployment": deployment,
    "cold": cold,
    "inspect": inspect,
    "peers": peers,
    "broken": broken,
    "tasks": tasks,
    "before": before,
    "load": load,
    "build": build,
    "containers": contained,
    "fleet": fleet,
    "machinery": machinery,
    "serving": serving,
    "page": page,
    "channels": told,
    "copies": copied,
    "sites": sites,
    "proof": proof,
    "replay": replay,
}
