"""One fault of a deployment: what breaks, what is judged. The cases are in faults.yaml."""

import itertools
import json
import re
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from client import Load, Writer
from lab import Applied, Host
from sites import Site, lines, release_of, version

HERE, SWITCH = Path(__file__).parent, "/root/faults"
APPLY = ["/usr/local/bin/salt-call", "--local", "--out=json", "--log-level=warning", "state.apply", "django"]


def provoked(host: Host, step: str = "", when: str = "", does: str = "", clock: int = 0) -> dict[str, str]:
    """The environment in which an apply of the host breaks itself in a step, or has another clock."""
    host.write(f"{SWITCH}/sitecustomize.py", (HERE / "fault_switch.py").read_text())
    told = {"STEP": step, "WHEN": when, "DOES": does, "CLOCK": str(clock)}
    return {**{f"FAULT_{name}": value for name, value in told.items()}, "PYTHONPATH": SWITCH}


ABOUT = """
What happens when a deployment is killed or the host fails. The example project is deployed and broken on purpose while
two clients read and one writes. Each row has the failed requests, the release that served, the first line of the error
or warning, and the result of the next apply. The faults are in `test/hosts/faults.yaml`; `test/run --all
test/hosts/test_faults.py` writes this page.
""".strip().splitlines()


@dataclass
class Fault:
    """A case.

    fault: what breaks, in words; `number` is that of the list of faults
    commit: files of the commit that is deployed; a text that begins with + is appended, `first` is that of the first
        commit; without the key it is a new version, and with no files there is no commit
    pillar: options that are changed for the case, and put back with the mending
    before, after: command lines of the host that bring the fault, and take it away
    step, when, does: the fault comes in a step (see fault_switch.py); of several steps, each in an apply of its own
    gives: `kept`, the old release stays and the apply fails; `live`, the new one is activated; `warned`, the old one
        stays, the apply succeeds and warns; `same`, there is nothing to do; `broken`, the apply fails, and the site is
        down as long as the fault lasts; `either`, kept or live
    state: the state that fails; says: what it says, as a pattern
    lost: how many requests may fail while it happens
    mended: files of the commit that mends it; with `same_commit` the commit needs none
    """

    fault: str
    number: int = 0
    commit: Mapping[str, str | None] | None = None
    pillar: Mapping[str, Any] = field(default_factory=dict)
    before: str = ""
    after: str = ""
    step: str = ""
    when: str = "first"
    does: str = ""
    gives: str = "kept"
    state: str = ""
    says: str = ""
    lost: int = 0
    mended: Mapping[str, str | None] | None = None
    full: bool = False

    @property
    def name(self) -> str:
        return f"{self.number:02} {self.fault}"


class Judge:
    """Watches a site while a fault comes and goes, and says what has not held.

    thorough: whether it is asked too what takes time and is the same for nearly all: a dry run at the end
    """

    def __init__(self, blog: Site, fault: Fault, secrets: Sequence[str], thorough: bool = True):
        self.blog, self.fault, self.secrets, self.thorough = blog, fault, secrets, thorough
        self.old = blog.live
        self.wrong: list[str] = []
        self.operator = self.served = self.later = self.seen = self.live = ""

    @property
    def row(self) -> tuple[str, ...]:
        """A row of the page: the fault, what clients saw, what served, what the apply reported, what came then."""
        return (self.fault.name, self.seen, self.served, self.operator.replace("|", "/"), self.later)

    def expect(self, holds: object, what: str) -> None:
        if not holds:
            self.wrong.append(what)

    def run(self) -> None:
        """Commit, break, deploy, mend, deploy again, and again."""
        blog, fault = self.blog, self.fault
        base = dict(blog.options)
        self.commit(fault.commit if fault.commit is not None else version(f"{time.time()}"))
        if fault.pillar:
            blog.configure(**fault.pillar)
        address = f"http://{blog.host.address}"
        load = Load(f"{address}/release", blog.domain, connections=2, pause=0.05, release=release_of)
        with load, Writer(address, blog.domain, pause=0.5) as self.writer:
            load.wait(5)
            if fault.before:
                blog.host.run(fault.before)
            try:
                for step in fault.step.split() or [""]:
                    self.first(self.apply(step))
            finally:
                if fault.pillar:
                    blog.options.clear()
                    blog.configure(**base)
                if fault.after:
                    blog.host.run(fault.after)
            if fault.mended is not None:
                self.commit(fault.mended)
            load.wait(5)
            self.converges()
            load.wait(5)
        self.clients(load)

    def judge(self) -> None:
        """Raises AssertionError with all that has not held."""
        assert not self.wrong, "\n".join([self.fault.name, *self.wrong])

    def commit(self, files: Mapping[str, str | None]) -> None:
        repository, texts = self.blog.repository, dict(files)
        for name, text in files.items():
            if text == "first":
                texts[name] = repository.git("show", f"{repository.first}:{name}")
        if texts:
            repository.commit(repository.amended(texts))

    def apply(self, step: str) -> Applied:
        told = provoked(self.blog.host, step, self.fault.when, self.fault.does) if step else None
        return self.blog.host.apply(environment=told)

    def first(self, result: Applied) -> None:
        """What the apply under the fault gave: C2, C3, C6 and C7 of the list."""
        blog, fault = self.blog, self.fault
        self.told(result)
        live = blog.live if fault.gives != "broken" else "nothing"
        self.served = f"{live} replaced {self.old}" if live != self.old else f"{live} still"
        said = [*result.failed.values(), *(text for texts in result.warnings.values() for text in texts)]
        said.append("nothing" if result.states else f"exit {result.returncode}")
        self.operator = said[0].strip().splitlines()[0]
        killed = fault.step and fault.does in ("KILL", "TERM", "INT")
        if fault.gives == "kept":
            self.expect(live == self.old, f"{live} is live instead of {self.old}")
        elif fault.gives == "live":
            self.expect(live != self.old, f"{live} is still live")
        elif fault.gives in ("warned", "same"):
            self.expect(result.ok and live == self.old, f"not as before: {result}")
        if fault.does == "KILL" or (fault.gives in ("kept", "broken") and not killed):  # by SIGTERM, Salt exits with 0
            self.expect(result.returncode, f"exit 0: {result}")
        if fault.gives in ("kept", "broken") and not killed:
            self.failed(result)
        if fault.gives == "warned":
            self.expect(re.search(fault.says, str(result.warnings)), f"{fault.says!r} is not said: {result}")

    def failed(self, result: Applied) -> None:
        fault = self.fault
        state, comment = next(iter(result.failed.items()), ("none", ""))
        if fault.state:
            self.expect(state == f"{self.blog.name} {fault.state}", f"another state failed: {result}")
        self.expect(fault.says and re.search(fault.says, comment), f"{fault.says!r} is not said: {state}: {comment}")
        self.expect(lines(comment) <= 10, f"{lines(comment)} lines: {comment}")

    def told(self, result: Applied) -> None:
        """No secret, no traceback of ours or of Salt's in what an apply prints."""
        text = result.stdout + result.stderr
        self.expect(not [secret for secret in self.secrets if secret in text], "a secret is printed")
        own = re.search(r'File \\?"[^"]*(/salt/|/extmods/|/django-formula/|/_utils/|/_states/)[^"]*", line', text)
        self.expect(not own, f"a traceback of ours:\n{text[-3000:]}")

    def converges(self) -> None:
        """The next apply reaches what the pillar says, another changes nothing: C5; nothing is left behind: C8."""
        blog = self.blog
        second = blog.host.apply()
        self.told(second)
        live = self.live = blog.live
        self.later = f"{live} is live" if second.changed else "nothing to do"
        self.expect(second.ok, f"the next apply fails: {second}")
        wanted = blog.repository.git("rev-parse", "main").strip()
        self.expect(blog.record(live)["commit"] == wanted, f"the next apply has not released the commit: {second}")
        answering = blog.answering["release"]
        self.expect(answering == live, f"{answering} answers, {live} is live")
        if second.changed:
            third = blog.host.apply()
            self.expect(third.ok and not third.changed, f"a third apply changes something: {third}")
        if self.thorough:
            self.expect(not blog.host.apply(test=True).changed, "a dry run would change something")
        left = blog.host.run(
            f"find {blog.root} -name '.*.new' -not -path '*/virtualenvs/*'; "
            f"flock --nonblock {blog.root}/lock true || cat {blog.root}/lock; "
            f"pgrep --uid {blog.name}-build --list-full; systemctl list-units --no-legend 'django-{blog.name}-task*'",
            check=False,
        ).stdout
        self.expect(not left.strip(), f"left behind: {left}")
        unit, units = f"django-{blog.name}-{live.split('-')[0]}", blog.units
        stores = [f"django-{blog.name}-queue.service"] if blog.options.get("queue") else []
        self.expect(units == [f"{unit}.service", f"{unit}.socket", *stores], f"units: {units}")
        records = blog.host.run(f"cat {blog.root}/releases/*/release.json").stdout
        self.expect('"state": "building"' not in records, f"half built: {records}")

    def clients(self, load: Load) -> None:
        """What clients saw: C1, C2 and C4."""
        told = [f"{answer.status} {answer.error}" for answer in load.failed[:3]]
        ends = sorted(answer.time + answer.duration for answer in load.answers)
        gap = max((after - before for before, after in itertools.pairwise(ends)), default=0.0)
        self.seen = f"{len(load.failed)} of {len(load.answers)} failed, longest gap {gap:.1f} s"
        self.expect(len(load.failed) <= self.fault.lost, f"{len(load.failed)} requests failed: {told}")
        self.expect(not load.went_back, f"answers of an older release after a newer one: {load.releases}")
        self.expect({*load.releases} <= {self.old, self.live, *self.blog.releases}, f"who is {load.releases}?")
        if not self.fault.lost:
            self.expect(not self.writer.refused, f"writes were refused: {self.writer.refused}")
        rows = json.loads(self.blog.host.run(["python3", "-c", ROWS, f"{self.blog.root}/database/db.sqlite3"]).stdout)
        missing = {*self.writer.acknowledged} - {*rows}
        self.expect(not missing, f"rows are lost: {missing}")
        uploads = self.blog.host.run(["find", f"{self.blog.root}/media", "-name", "*.txt", "-printf", "%f\n"]).stdout
        gone = [name for name in self.writer.acknowledged if f"{name}.txt" not in uploads]
        self.expect(not gone, f"uploads are lost: {gone}")


def report(rows: Sequence[Sequence[str]], numbers: Mapping[int, Mapping[str, Any]]) -> str:
    """A page with what came of each fault, and with the tests that show those of which no row tells."""
    told = {int(row[0].partition(" ")[0]) for row in rows}
    others = [
        (f"{number:02}", about["fault"], "<br>".join(shown_by(about, told=number in told)))
        for number, about in numbers.items()
    ]
    return "\n".join(
        [
            f"# Faults, {time.strftime('%Y-%m-%d')}",
            "",
            *ABOUT,
            "",
            *table(("fault", "clients", "served", "the error", "the next apply"), sorted(rows, key=tuple)),
            "",
            "## Every fault by its number",
            "",
            *table(("number", "fault", "shown by"), others),
            "",
        ]
    )


def shown_by(about: Mapping[str, Any], told: bool) -> list[str]:
    """Where a fault of the list is shown: above, in tests, or nowhere."""
    tests = [f"`test/{test}`" for test in about.get("tests", [])]
    return [*(["above"] if told else []), *tests, *([about["open"]] if "open" in about else [])]


def table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> list[str]:
    return [f"| {' | '.join(row)} |" for row in (head, ["---"] * len(head), *rows)]


ROWS = """
import json, sqlite3, sys
rows = sqlite3.connect(f"file:{sys.argv[1]}?mode=ro", uri=True).execute("SELECT name FROM guestbook_entry")
print(json.dumps([name for (name,) in rows]))
"""
