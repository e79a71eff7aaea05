"""A deployment on all hosts of a site at once: in phases, and as a whole or not at all.

Until the switch nothing is visible, and whatever fails leaves every host as it was. In the switch those that have
switched go back. See docs/guides/fleet.md.
"""

import os
import re
import time
from collections.abc import Callable, Collection, Iterator, Mapping
from typing import Any, Protocol

from django_formula.fleet import excluded_hosts
from django_formula.fleet.minions import Answer
from django_formula.fleet.secrets import Keys
from django_formula.fleet.store import Progress, Store
from django_formula.host import clock
from django_formula.host.commands import DeploymentError
from django_formula.pillar import parts as pillar_parts
from django_formula.secret import secrets
from django_formula.untrusted import shapes
from django_formula.untrusted.text import in_command

#: A claim holds for so many times the patience, unless it is renewed; after the death of the runner it ends by itself.
CLAIM = 3
#: Seconds after which a host is lost that is still giving up a deployment: the lock would never end.
_ABANDON = 600.0
#: Seconds by which the clocks of hosts may differ: deadlines are in their time.
SKEW = 5.0
#: Seconds between two questions to hosts that do not answer, before anything is begun.
_LOOK_FIRST = 1.3
#: Seconds between two questions to hosts on which a release gets a share of the visitors.
_LOOK_CANARY = 5.0

#: What hosts with the other parts are asked: the name of the phase, and the verb.
_OTHERS = {part.name: (part.phase, part.verb) for part in pillar_parts.parts() if part.phase}
#: What they have, if it lets in the site's hosts alone.
_WHAT = {part.name: part.what for part in pillar_parts.parts() if part.what}

#: How many hosts switch at once.
_BATCH = re.compile("[1-9][0-9]{0,3}%?")

#: What a host says of itself before a deployment: see `verbs.fleet.ready`.
_READY = {
    **dict.fromkeys(("release", "commit", "older", "key", "claim", "unfinished", "deployment"), str),
    **{"sequence": int, "time": float, "hosts": {str: {"address?": str}}},
    **{"accepts?": [str], "has_keys?": bool, "uploads?": str, "shares_images?": bool, "canary?": str},
}
#: What hosts answer to every verb, and to some of them besides.
_ANSWER: dict[str, Any] = {"release?": str, "warnings?": [str], "sent?": int, "failed?": int}
_ANSWERS: dict[str, dict[str, Any]] = {
    "resolve": {"commit": str},
    "release": {"release": str, "commit": str},
    "prepare": {"pending": [str]},
    "migrate": {"migrated": [str]},
    "start": {"canary?": str},
    "proving": {"state": str, "text": str},
    "share": {"share": str, "cookie?": str},
    "plan": {"plan": dict},
    "proof": {
        **dict.fromkeys(("commit", "problem", "python"), str),
        "packages": dict.fromkeys(("repository", "requirements", "constraints"), str),
    },
    "doctor": {"links": [{"is_broken": bool, **dict.fromkeys(("name", "text", "command", "todo"), str)}]},
}
#: How a balancer sees a host.
_SEEN = {"state": str, "is_up": bool, "check": str}
_OTHER_VERSION = "its answer is not that of this version of the formula: apply on it"
#: The highest number of a release, as the schema has it.
_LAST = 99_999_999
#: By how much the next number of one host may be above all others: numbers are finite.
_AHEAD = 100_000
_RELEASE = re.compile("([0-9]{4,8})-[0-9a-f]{12}")
_COMMIT = re.compile("[0-9a-f]{40}")

Answers = dict[str, Answer]
Report = Callable[[str, dict[str, Any]], None]


class Hosts(Protocol):
    """How functions are called on hosts: see `fleet.minions` and `fleet.roster`.

    Attributes:
        patience: seconds after which a host does not begin any more what it was asked to do.
    """

    patience: float

    def ask(
        self,
        hosts: Collection[str],
        function: str,
        *arguments: Any,
        look: float = ...,
        limit: float = ...,
        every: float = ...,
        meanwhile: Callable[[], None] | None = ...,
    ) -> Answers:
        """Call a function on hosts at once; return the answer of each."""

    def send(self, hosts: Collection[str], function: str, *arguments: Any) -> None:
        """Call a function on hosts without waiting for an answer."""


class Failed(DeploymentError):
    """A phase has failed on some hosts.

    Args:
        phase: which one.
        problems: why, by the name of the host.
        lost: the hosts of which it is not known what they have done.
    """

    def __init__(self, phase: str, problems: Mapping[str, str], lost: Collection[str] = ()):
        reasons = [f"{name}: {text}" for name, text in sorted(problems.items())]
        super().__init__("\n".join([f"{phase} failed on {len(reasons)} of the hosts:", *reasons]))
        self.phase = phase
        self.lost = lost


class Overtaken(DeploymentError):
    """A canary was ended for something newer that waits."""


class Fleet:
    """The hosts of a site, as one deployment deals with them.

    Args:
        store: what the master keeps of the site.
        hosts: how functions are called on hosts.
        by: who asks, and how.
        report: is called with the name of each phase and what has become of it.
        batch: how many hosts switch at once, after the first one: a number, or a percentage of all.
        exclude: hosts that are left out.
        canary: whether a release gets a share of the visitors first, where the pillar has it.
        is_overtaken: returns whether something newer waits, for which a canary ends.
        words: what each command of the runner has besides, by which it reaches the same hosts.

    Raises:
        DeploymentError: `batch` is neither.
    """

    def __init__(
        self,
        store: Store,
        hosts: Hosts,
        by: str,
        report: Report,
        batch: str = "25%",
        exclude: Collection[str] = (),
        *,
        canary: bool = True,
        is_overtaken: Callable[[], bool] = lambda: False,
        words: Collection[str] = (),
    ):
        if not _BATCH.fullmatch(batch):
            raise DeploymentError(f"batch: expected a number of hosts or a percentage of them, got {batch}")
        self.store = store
        self.site = store.site
        self.by = by
        self.id = f"{time.strftime('%Y%m%dT%H%M%S', time.gmtime())}-{os.getpid()}"
        self._hosts = hosts
        self._report = report
        self._batch = batch
        self._excluded = {*exclude}
        self._has_canary = canary
        self._is_overtaken = is_overtaken
        self._words = words
        #: The words by which the runner is called for the same again.
        self._again: list[str] = []
        self._drained: dict[str, list[str]] = {}
        self._progress: Progress | None = None
        self._renewed = 0.0
        self._parts: dict[str, list[str]] = {}
        #: What each report has besides: who asks for what, and the commit once it is known.
        self.about: dict[str, Any] = {}
        #: Whether hosts were claimed: what fails before has changed nothing.
        self.is_begun = False

    def names(self, part: str) -> list[str]:
        """Return the hosts that have a part, as the store had them at first: an apply may change them meanwhile.

        Raises:
            DeploymentError: the store knows no host of the site.
        """
        self._parts = known = self._parts or self.store.hosts()
        if not known:
            raise DeploymentError(
                f"the master knows no hosts of {self.site}",
                hint="name them in the pillar (hosts), and apply on them: salt '*' state.apply django",
            )
        excluded_hosts.refuse(self.site, self._excluded, known)
        return sorted(name for name, parts in known.items() if part in parts and name not in self._excluded)

    def released(self) -> list[str]:
        """Return the hosts that have the site's releases; those that only run workers are last.

        Raises:
            DeploymentError: the store knows no host of the site.
        """
        apps = self.names("app")
        return [*apps, *(name for name in self.names("worker") if name not in apps)]

    def recipients(self) -> list[str]:
        """Return the hosts that get a release.

        Raises:
            DeploymentError: the store knows none.
        """
        if hosts := self.released():
            return hosts
        raise DeploymentError(
            f"no host of {self.site} that the master knows has the part app or worker",
            hint=f"it knows {', '.join(self._parts)}; accept the keys of the others (salt-key), and apply on them",
        )

    # One phase

    def phase(self, name: str, hosts: Collection[str], verb: str, *arguments: Any, **options: Any) -> Answers:
        """Call a verb of `django_fleet` on hosts; return their answers.

        Raises:
            Failed: on one of them it failed, or the host is lost.
        """
        answers = self.ask(name, hosts, verb, *arguments, **options)
        problems = {host: answer.error for host, answer in answers.items() if answer.error}
        if problems:
            raise Failed(name, problems, [host for host, answer in answers.items() if answer.is_lost])
        return answers

    def ask(self, name: str, hosts: Collection[str], verb: str, *arguments: Any, **options: Any) -> Answers:
        """Call a verb of `django_fleet` on hosts; return their answers, whatever they are."""
        began = time.monotonic()
        if self._progress:
            self._progress.phase(name)
        if not hosts:
            return {}
        answers = self._call(hosts, verb, *arguments, **options)
        results = {
            host: answer.error or answer.value.get("release") or "ok" for host, answer in sorted(answers.items())
        }
        self.report(name, {"hosts": results, "seconds": round(time.monotonic() - began, 2)})
        return answers

    def _call(self, hosts: Collection[str], verb: str, *arguments: Any, **options: Any) -> Answers:
        renew = options.get("meanwhile")
        if renew and time.monotonic() - self._renewed > self._hosts.patience:  # many short phases last as a long one
            renew()
        asked = self._hosts.ask(hosts, f"django_fleet.{verb}", self.site, *arguments, **options)
        return {host: _fitting(verb, answer) for host, answer in asked.items()}

    def report(self, name: str, found: dict[str, Any]) -> None:
        """Report a phase, or the begin and the end of the deployment."""
        self._report(name, {**self.about, **found})

    def _first(self, name: str, hosts: Collection[str], verb: str) -> Answers:
        """Ask hosts what they answer within a moment, before anything is begun; one that hangs is lost."""
        return self.ask(name, hosts, verb, look=_LOOK_FIRST, limit=CLAIM * self._hosts.patience)

    def renew(self, hosts: Collection[str]) -> Callable[[], None]:
        """Return what renews the claim of this deployment on hosts."""

        def renew() -> None:
            self._renewed = time.monotonic()
            self._hosts.send(hosts, "django_fleet.renew", self.site, self.id, self._until(CLAIM))

        return renew

    def _until(self, times: int = 1) -> float:
        """Return the time (Unix time) at which the patience with hosts ends, or some times as much of it."""
        return time.time() + times * self._hosts.patience

    # Deployments

    def deploy(self, revision: str | None) -> dict[str, Any]:
        """Release a revision on all hosts.

        Returns:
            ``commit``, ``sequence``, ``release`` and ``warnings`` of each host, ``seconds``; ``requests``: how many
            were ``sent`` during the switches of all, and ``failed``.

        Raises:
            DeploymentError: another deployment is under way, or a phase fails; the message says what serves.
        """
        began, hosts = time.monotonic(), self.recipients()
        self._again = ["django.deploy", self.site, *filter(None, [revision])]
        self._again += [*([] if self._has_canary else ["canary=False"]), *self._words]
        with self.store.deploying(self.by) as self._progress:
            ready = self._preflight(hosts)
            return self._release(hosts, ready, self._resolve(hosts, revision), began)

    def _release(
        self, hosts: list[str], ready: Answers, commit: str, began: float, *, keys: bool = False
    ) -> dict[str, Any]:
        """Go through the phases of a release.

        Args:
            keys: the hosts take the store's secret keys before.
        """
        sequence = max(answer.value["sequence"] for answer in ready.values())
        self.about["commit"] = commit
        with self._undone(hosts, ready):
            self._claim(hosts)
            if keys:
                self.phase("keys", hosts, "keys", self.id, self.by)
            built = self._prepare(hosts, ready, commit, sequence)
            migrated = self._migrate(hosts, built, ready)
            started = self._start(hosts, migrated)
            self._expect([*_commits(ready), commit])
            proved = self._prove(hosts, started) if self._has_canary and not keys else {}
        switched = self._switch(hosts, ready, "switch")
        parts = [built, started, proved, switched]
        return self._complete(hosts, commit, sequence, parts, began, migrated=migrated)

    def rollback(self, to: str | None, *, force: bool) -> dict[str, Any]:
        """Activate an older commit again on all hosts, of releases that they still have.

        Args:
            to: the commit; the one before the active one by default.
            force: also where it does not work with the databases' schema.

        Returns:
            As `deploy`.

        Raises:
            DeploymentError: as `deploy`.
        """
        began, hosts = time.monotonic(), self.recipients()
        self._again = ["django.rollback", self.site, *filter(None, [to]), *(["force=True"] if force else [])]
        self._again += self._words
        with self.store.deploying(self.by) as self._progress:
            ready = self._preflight(hosts)
            first = ready[hosts[0]].value
            older = {answer.value["older"] for answer in ready.values()}
            if to is None and len(older) != 1:
                lists = {host: answer.value["older"] or "none" for host, answer in ready.items()}
                raise Failed("preflight", {host: f"its older release is {commit}" for host, commit in lists.items()})
            commit = to or older.pop()
            if not commit:
                raise DeploymentError(f"the hosts of {self.site} have no older good release to roll back to")
            with self._undone(hosts, ready):
                self._claim(hosts)
                commit, sequence = self._whole(hosts, commit)
                self.about["commit"] = commit
                arguments = (self.id, self.by, self._until(), commit, force)
                started = self.phase("start", hosts, "start_older", *arguments, meanwhile=self.renew(hosts))
                self._expect([*_commits(ready), commit])
            switched = self._switch(hosts, ready, "rollback", commit, force)
            return self._complete(hosts, commit, sequence, [started, switched], began, held=first["commit"])

    def abandon(self, *, own: bool = False) -> dict[str, Any]:
        """End the deployment that has claimed the site's hosts, whose runner is gone; return each answer.

        What it has prepared is removed, and hosts that have switched go back, unless all had.

        Args:
            own: only one of this master's, on the hosts that have not ended it.

        Raises:
            DeploymentError: its runner is not gone, or a host did not end it.
        """
        hosts = self.released()
        with self.store.deploying(self.by) as self._progress:
            if own:
                ready = self._first("preflight", hosts, "ready")
                hosts = self._left(ready)
                if not hosts and any(answer.value.get("claim") for answer in ready.values()):
                    return {}  # they are another master's
            answers = self._abandon(hosts, self.store.last() if own else "")
            known = self.store.release()
            if known["commit"]:
                arguments = ([known["commit"]], known["count"])
                answers |= self.ask("expect", self.names("balancer"), "expect", *arguments, look=_LOOK_FIRST)
        if problems := {host: answer.error for host, answer in answers.items() if answer.error}:
            raise Failed("abandon", problems)
        return {host: answer.value for host, answer in sorted(answers.items())}

    def status(self) -> dict[str, Any]:
        """Return the release that the hosts have in common, and what each says.

        Returns:
            ``commit``, ``sequence``, ``held``; ``hosts``: ``parts``, ``answers``, ``error``, and what it serves;
            ``behind``: the hosts that serve another commit, do not answer, or were left out of the common release.
        """
        answers = self._first("status", self.released(), "ready")
        others = self._others(answers)
        errors, seen = _errors([answers, *others.values()]), _seen(others["balancer"])
        known, rows = self.store.release(), {}
        commits = {host: str(answer.value.get("commit", "")) for host, answer in answers.items() if not answer.error}
        excluded = excluded_hosts.rows(self.store, commits, seen, self._parts)
        behind = {host for host, found in errors.items() if found}
        behind |= {host for host, answer in answers.items() if answer.value.get("commit") != known["commit"]}
        for host, found in sorted(errors.items()):
            row: dict[str, Any] = {"parts": ", ".join(self._parts[host]), "answers": not found}
            value = answers[host].value if host in answers else {}
            row |= {key: value[key] for key in ("release", "commit", "claim", "deployment", "canary") if value.get(key)}
            out = [text for drained in (True, False) for text in _out(seen, drained=drained).get(host, ())]
            row |= {"no_requests": ", ".join(out)} if out else {}
            row |= {"excluded": excluded[host]} if host in excluded else {}
            rows[host] = row | ({"error": "; ".join(found)} if found else {})
        del known["count"]
        return {**known, "hosts": rows, "behind": sorted(behind | {*excluded})}

    def set_backend(self, host: str, state: str) -> dict[str, Any]:
        """Have all balancers give a host of the site no new requests (``drain``), or requests again (``ready``).

        Raises:
            DeploymentError: the site has no balancer of the formula's, or one of them fails.
        """
        balancers = self.names("balancer")
        if not balancers:
            raise DeploymentError(f"{self.site} has no host with the part balancer")
        answers = self.phase(state, balancers, "backend", host, state, look=_LOOK_FIRST)
        return {balancer: answer.value for balancer, answer in sorted(answers.items())}

    def drained(self, lost: Collection[str]) -> dict[str, list[str]]:
        """Return the hosts that people have taken out: at which balancers.

        Args:
            lost: the hosts that do not answer, and are not asked.
        """
        balancers = [name for name in self.names("balancer") if name not in lost]
        return _out(_seen(self._first("balancer", balancers, "backend")), drained=True)

    # Their phases

    def _preflight(self, hosts: list[str]) -> Answers:
        """Return what all hosts say before anything is begun, every reason against it at once.

        What a deployment of this master has left whose runner was killed is ended before.

        Raises:
            Failed: a host does not answer, is being deployed, or does not fit to the others.
        """
        began = time.time()
        answers = self._first("preflight", hosts, "ready")
        if left := self._left(answers):
            self._abandon(left, self.store.last())
            answers |= self._first("preflight", left, "ready")
        ended = time.time()
        others = self._others(answers)
        values = {host: answer.value for host, answer in answers.items() if _is_ready(answer)}
        signing = {values[host]["key"]: host for host in sorted(values, reverse=True)}
        known = self.store.release()
        problems = _errors([answers, *others.values()])
        for host in answers.keys() - values:
            problems[host] = problems[host] or [_OTHER_VERSION]
        for host, value in values.items():
            problems[host] += self._problems(host, value, values[min(values)], known["commit"], signing)
            highest = max([known["sequence"], *(other["sequence"] for other in values.values() if other is not value)])
            if value["sequence"] > highest + _AHEAD:
                problems[host].append(f"its next release has the number {value['sequence']}, the others' {highest}")
            if not began - SKEW <= value["time"] <= ended + SKEW:
                problems[host].append(f"its clock differs by {abs(value['time'] - ended):.0f} s from the master's")
        for part, what in _WHAT.items():
            for host, text in _not_let_in(others[part], values, what).items():
                problems[host].append(text)
        if found := {host: "; ".join(texts) for host, texts in problems.items() if texts}:
            failure = Failed("preflight", found)
            lost = {host for some in (answers, *others.values()) for host, answer in some.items() if answer.is_lost}
            failure.hint = excluded_hosts.hint(self._again, lost, self._excluded, self._parts)
            raise failure
        if not self._excluded:  # what a host that was left out signs with, the others go on to accept
            in_use = {key for value in values.values() for key in accepted(value)}
            Keys(self.store).forget(lambda key: secrets.fingerprint(key) in in_use)
        self._drained = _out(_seen(others["balancer"]), drained=True)
        return answers

    def _others(self, known: Answers) -> dict[str, Answers]:
        """Return what hosts with the parts balancer, database and cache say of their servers, by part.

        Args:
            known: what hosts have said before; one that is lost is not asked again.
        """
        found, lost = {}, {host for host, answer in known.items() if answer.is_lost}
        for part, (phase, verb) in _OTHERS.items():
            hosts = [name for name in self.names(part) if name not in lost]
            found[part] = self._first(phase, hosts, verb)
            lost |= {host for host, answer in found[part].items() if answer.is_lost}
        return found

    def _left(self, answers: Answers) -> list[str]:
        """Return the hosts that have not ended the last deployment of this master."""
        last = self.store.last()
        return [host for host, answer in answers.items() if last and answer.value.get("unfinished") == last]

    def _problems(
        self, host: str, value: dict[str, Any], first: dict[str, Any], known: str, signing: Mapping[str, str]
    ) -> Iterator[str]:
        """Yield what speaks against a deployment on one host.

        Args:
            value: what it says of itself; first: what the first host says.
            known: the commit that the hosts have in common.
            signing: fingerprints of the secret keys that hosts sign with, and one such host of each.
        """
        if value["claim"]:
            ends = in_command("salt-run", "django.abandon", self.site, *self._words)
            yield f"it is being deployed by {value['claim']}; {ends} ends it"
        elif value["deployment"]:
            yield f"it is being deployed by {value['deployment']}"
        if value.get("uploads"):
            yield value["uploads"]
        if value["hosts"] != first["hosts"] or (value["hosts"] and host not in value["hosts"]):  # it was renamed
            yield "its hosts were applied from another pillar: apply on it"
        for key, other in signing.items():
            if key not in accepted(value):
                yield f"it does not accept what {other} signs with another secret key: apply on both"
        if known and value["commit"] != known:
            yield f"it serves {value['commit'][:12] or 'nothing'}, the others {known[:12]}: apply on it"

    def commit_of(self, revision: str | None) -> str:
        """Return the commit that a deployment of a revision would release.

        Raises:
            DeploymentError: the store knows no host of the site, or they find none.
        """
        return self._resolve(self.recipients(), revision)

    def _resolve(self, hosts: list[str], revision: str | None) -> str:
        """Return the commit of a revision, in which two hosts have to agree: one alone could choose the others' code.

        A whole commit is not asked for.

        Raises:
            Failed: they do not.
        """
        if revision and _COMMIT.fullmatch(revision):
            return revision
        answers = self.phase("resolve", hosts[:2], "resolve", revision)
        commits: dict[str, str] = {name: answer.value["commit"] for name, answer in answers.items()}
        if not all(map(_COMMIT.fullmatch, commits.values())):
            raise Failed("resolve", {name: f"{commit} is no whole commit" for name, commit in commits.items()})
        if len({*commits.values()}) > 1:
            text = "is the commit that it finds, and another host another one; a branch may just have moved: try again"
            raise Failed("resolve", {name: f"{commit[:12]} {text}" for name, commit in commits.items()})
        return commits[hosts[0]]

    def _whole(self, hosts: list[str], commit: str) -> tuple[str, int]:
        """Return the whole commit of a part of one, of which every host still has a release, and that one's number.

        Raises:
            Failed: a host has none, or the hosts find different commits.
        """
        answers = self.phase("look", hosts, "release", commit)
        commits: dict[str, str] = {host: answer.value["commit"] for host, answer in answers.items()}
        found = _RELEASE.fullmatch(answers[hosts[0]].value["release"])
        if len({*commits.values()}) > 1 or not found or not _COMMIT.fullmatch(commits[hosts[0]]):
            raise Failed("look", {host: f"{commit} is {whole} there" for host, whole in commits.items()})
        return commits[hosts[0]], int(found[1])

    def _expect(self, commits: Collection[str]) -> None:
        """Have the balancers give requests to hosts that serve one of these commits.

        Raises:
            Failed: one of them fails.
        """
        self.phase("expect", self.names("balancer"), "expect", sorted({*commits} - {""}))

    def _claim(self, hosts: list[str]) -> None:
        self.is_begun = True
        self.store.begin(self.id)
        self._renewed = time.monotonic()
        self.phase("claim", hosts, "claim", self.id, self.by, self._until(CLAIM))

    def _prepare(self, hosts: list[str], ready: Answers, commit: str, sequence: int) -> Answers:
        """Build the release on all hosts at the same time; where they share images, on the first one before."""
        arguments = (self.id, self.by, commit, sequence)
        built: Answers = {}
        for some in (hosts[:1], hosts[1:]) if ready[hosts[0]].value.get("shares_images") else (hosts,):
            if some:
                built |= self.phase("prepare", some, "prepare", *arguments, meanwhile=self.renew(hosts))
        return built

    def _migrate(self, hosts: list[str], built: Answers, ready: Answers) -> list[str]:
        """Migrate the databases on the first host; return the migrations that it has applied.

        Raises:
            Failed: one fails, or the hosts serve different commits, for which it was not judged.
        """
        lives = {answer.value["commit"] for answer in ready.values()}
        pending = built[hosts[0]].value["pending"]
        if pending and len(lives) > 1:
            text = f"migrations are pending ({', '.join(pending)}), and the hosts do not serve the same commit"
            raise Failed("judge", dict.fromkeys(hosts, text))
        first = hosts[:1]
        arguments = (self.id, self.by, self._until())
        answer = self.phase("migrate", first, "migrate", *arguments, meanwhile=self.renew(hosts))[first[0]]
        return list(answer.value["migrated"])

    def _start(self, hosts: list[str], migrated: list[str]) -> Answers:
        arguments = (self.id, self.by, self._until(), migrated)
        return self.phase("start", hosts, "start", *arguments, meanwhile=self.renew(hosts))

    def _prove(self, hosts: list[str], started: Answers) -> Answers:
        """Give the release a share of the visitors on all hosts that serve, and wait until it has passed on each.

        Args:
            started: what the hosts say of its start, and whether it can have a canary there.

        Returns:
            Warnings of the hosts where it cannot: no host has one then.

        Raises:
            Failed: it was taken back on a host, or on the command line; or a host is lost.
            Overtaken: something newer waits.
        """
        serving = [host for host in hosts if host in self.names("app")]
        whys = {host: answer.value.get("canary") for host, answer in started.items()}
        if not any(why is not None for why in whys.values()):
            return {}
        unknown = "it has no release yet, or another version of the formula"
        refused = {host: unknown if why is None else why for host, why in whys.items() if why != ""}
        if refused:
            text = "all visitors get the release at once, without a canary on any host"
            return {host: Answer({"warnings": [f"{text}: {why}"]}) for host, why in refused.items()}
        self.store.set_order(self.id, "", hosts=serving)
        try:
            self.phase("canary", serving, "canary", self.id, self.by, self._until(), meanwhile=self.renew(hosts))
            self._await_canary(hosts, serving)
        finally:
            self.store.end_order()
        return {}

    def _await_canary(self, hosts: list[str], serving: list[str]) -> None:
        """Wait until a release has passed on all hosts that get requests, or people end its canary.

        A host that does not answer is asked again for as long as it keeps the claim: it may only be busy.
        """
        began = time.monotonic()
        heard, known = dict.fromkeys(serving, began), dict[str, str]()
        limit = CLAIM * self._hosts.patience
        while True:
            answers = self._call(serving, "proving", self.id, limit=limit, meanwhile=self.renew(hosts))
            now = time.monotonic()
            heard |= {host: now for host, answer in answers.items() if not answer.is_lost}
            texts = {host: answer.error or str(answer.value["text"]) for host, answer in answers.items()}
            problems = {
                host: texts[host]
                for host, answer in answers.items()
                if _state(answer) == "ended" or (answer.error and (not answer.is_lost or now - heard[host] > limit))
            }
            if texts != known:
                self.report("canary", {"hosts": texts, "seconds": round(time.monotonic() - began, 2)})
                known = texts
            if problems:
                failure = Failed("canary", problems, [host for host, answer in answers.items() if answer.is_lost])
                salt = "salt-ssh" if self._words else "salt"
                see = in_command(salt, min(problems), "django.proof", self.site)
                without = in_command("salt-run", *self._again, "canary=False")
                failure.hint = f"{see} has the evidence; {without} goes without it"
                raise failure
            order, by = self.store.order(self.id)
            if order == "back":
                raise Failed("canary", dict.fromkeys(serving, f"it was taken back by {by}"))
            if self._is_overtaken():
                raise Overtaken("canary: a newer request takes the place of this release")
            waits_for = [host for host in serving if host not in self._drained] or serving
            if order == "promote" or all(_state(answers[host]) == "passed" for host in waits_for):
                return
            time.sleep(_LOOK_CANARY)

    def _switch(self, hosts: list[str], ready: Answers, verb: str, *more: Any) -> Answers:
        """Activate the release on one batch of hosts after the other, workers last; where one fails, take all back.

        Raises:
            Failed: a host fails or is lost; the message says what serves.
        """
        done: Answers = {}
        serving = self.names("app")
        only_work = [host for host in hosts if host not in serving]
        for batch in [*batches(serving, self._batch), *batches(only_work, self._batch)]:
            arguments = (self.id, self.by, self._until(), *more)
            try:
                answers = self.ask(verb, batch, verb, *arguments, meanwhile=self.renew(hosts))
            except BaseException as error:  # Ctrl-C, or the master's bus is gone: some of the batch may have switched
                failure = Failed(verb, dict.fromkeys(batch, _interruption(error)))
                self._take_back(hosts, ready, failure)
                raise failure from error
            done |= {host: answer for host, answer in answers.items() if not answer.error}
            problems = {host: answer.error for host, answer in answers.items() if answer.error}
            if problems:
                failure = Failed(verb, problems, [host for host, answer in answers.items() if answer.is_lost])
                self._take_back(hosts, ready, failure)
                raise failure
        return done

    def _take_back(self, hosts: list[str], ready: Answers, failure: Failed) -> None:
        """Activate the former release on the hosts that have switched, and give up what the others have prepared."""
        answers = self._abandon(hosts, self.id, failure.lost)
        self.ask("expect", self.names("balancer"), "expect", _commits(ready))
        stay = [f"{host}: {answer.error}" for host, answer in answers.items() if answer.error]
        failure.hint = "\n".join([*stay, self._what_serves(ready, failure.lost)])

    def _undone(self, hosts: list[str], ready: Answers) -> "_Undone":
        return _Undone(self, hosts, ready)

    def _abandon(self, hosts: Collection[str], deployment: str, lost: Collection[str] = ()) -> Answers:
        """End a deployment on hosts: those that have switched go back, unless all had; return their answers.

        The lost ones are asked for it too, in case they hear it, and not waited for.
        """
        arguments = (deployment, self.by, self.store.is_complete(deployment or self.store.last()))
        if gone := [host for host in hosts if host in lost]:
            self._hosts.send(gone, "django_fleet.abandon", self.site, *arguments)
        return self.ask("abandon", [host for host in hosts if host not in lost], "abandon", *arguments, limit=_ABANDON)

    def _what_serves(self, ready: Answers, lost: Collection[str] = ()) -> str:
        """Return what the hosts serve after a failure, and what becomes of those that were lost."""
        commits = [commit[:12] for commit in _commits(ready)] or ["nothing"]
        text = f"the hosts of {self.site} serve {', '.join(commits)}, as before"
        if lost:
            text += f"; it is not known what {', '.join(sorted(lost))} does: once it answers, apply on it"
        return text

    def _complete(
        self,
        hosts: list[str],
        commit: str,
        sequence: int,
        parts: list[Answers],
        began: float,
        *,
        held: str = "",
        migrated: Collection[str] = (),
    ) -> dict[str, Any]:
        """Keep the release in the store, and end the deployment on each host.

        Args:
            held: the commit that was rolled back.
            migrated: the migrations that were applied.

        Raises:
            Failed: it did not end on all of them; the release stays.
        """
        on_hold = [one for one in self.store.release()["held"] if one != commit]
        new = {"commit": commit, "sequence": sequence, "held": [*on_hold, held] if held else on_hold}
        excluded_hosts.keep(self.store, self._excluded, self.by, commit)
        self.store.set_release(new, self.id)
        release = self.store.release()
        arguments = (self.id, self.by, "" if held else hosts[0], release)
        ended = self.ask("finish", hosts, "finish", *arguments, meanwhile=self.renew(hosts))
        ended |= self.ask("expect", self.names("balancer"), "expect", [commit], release["count"])
        if problems := {host: answer.error for host, answer in ended.items() if answer.error}:
            failure = Failed("finish", problems)
            failure.hint = f"the hosts of {self.site} serve {commit[:12]}: apply on those that failed"
            raise failure
        warnings = excluded_hosts.warnings(self._excluded, self._parts, migrated)
        for host, texts in self._drained.items():
            again = in_command("salt-run", "django.join", self.site, host, *self._words)
            warnings.setdefault(host, []).append(f"it gets no requests ({', '.join(texts)}) until {again}")
        for answers in (*parts, ended):
            for host, answer in answers.items():
                warnings.setdefault(host, []).extend(answer.value.get("warnings", ()))
        last = parts[-1]
        by_host = {host: [*dict.fromkeys(texts)] for host, texts in warnings.items() if texts}
        return {
            "commit": commit,
            "sequence": sequence,
            "hosts": {host: last[host].value.get("release", "") for host in hosts},
            "requests": {key: sum(one.value.get(key, 0) for one in last.values()) for key in ("sent", "failed")},
            **({"warnings": by_host} if by_host else {}),
            "seconds": round(time.monotonic() - began, 1),
            "time": clock.now(),
        }


class _Undone:
    """A block before the switch: where it fails, the hosts give up what they have prepared, and serve as before."""

    def __init__(self, fleet: Fleet, hosts: list[str], ready: Answers):
        self._fleet, self._names, self._ready = fleet, hosts, ready

    def __enter__(self) -> None:
        pass

    def __exit__(self, kind: object, error: BaseException | None, trace: object) -> None:
        if error is None:
            return
        lost = error.lost if isinstance(error, Failed) else ()
        self._fleet._abandon(self._names, self._fleet.id, lost)
        hint = self._fleet._what_serves(self._ready, lost)
        if isinstance(error, DeploymentError):
            error.hint = "\n".join(filter(None, [error.hint, hint]))
        elif not isinstance(error, Exception):
            raise DeploymentError(_interruption(error), hint=hint) from error


def _interruption(error: BaseException) -> str:
    """Return why a phase was left by something other than its failure; Salt makes an exit of Ctrl-C."""
    if isinstance(error, Exception):
        return f"interrupted: {str(error) or type(error).__name__}"
    return "interrupted by Ctrl-C or another signal"


def accepted(value: Mapping[str, Any]) -> list[str]:
    """Return the fingerprints of the secret keys that a host accepts."""
    return [value["key"], *value.get("accepts", ())]


def _fitting(verb: str, answer: Answer) -> Answer:
    """Return the answer of a host to a verb, or an error where it is none: a host may answer anything."""
    is_one = answer.error or shapes.fits(answer.value, _ANSWER | _ANSWERS.get(verb, {}))
    return answer if is_one else Answer({}, _OTHER_VERSION)


def _is_ready(answer: Answer) -> bool:
    """Return whether a host has answered as one does before a deployment."""
    if answer.error or not shapes.fits(answer.value, _READY):
        return False
    is_commit = answer.value["commit"] == "" or _COMMIT.fullmatch(answer.value["commit"])
    return bool(0 < answer.value["sequence"] <= _LAST and is_commit)


def _state(answer: Answer) -> str:
    """Return how far the canary of a host is."""
    return str(answer.value.get("state", ""))


def _commits(ready: Answers) -> list[str]:
    """Return the commits that the hosts serve."""
    return sorted({answer.value["commit"] for answer in ready.values()} - {""})


def _seen(balancers: Answers) -> dict[str, dict[str, dict[str, Any]]]:
    """Return the hosts of a site as each of its balancers sees them; nothing of an answer in another form."""
    return {
        name: {host: row for host, row in answer.value.items() if shapes.fits(row, _SEEN)}
        for name, answer in balancers.items()
        if not answer.error
    }


def _out(seen: Mapping[str, Mapping[str, Mapping[str, Any]]], *, drained: bool) -> dict[str, list[str]]:
    """Return the hosts that get no requests: at which balancers, and why.

    Args:
        drained: those that people have taken out; else those whose checks fail.
    """
    found: dict[str, list[str]] = {}
    for balancer, hosts in sorted(seen.items()):
        for host, row in hosts.items():
            why = row["state"] if row["state"] != "ready" else "" if row["is_up"] else f"down ({row['check']})"
            if why and drained == (row["state"] != "ready"):
                found.setdefault(host, []).append(f"{balancer}: {why}")
    return found


def _errors(asked: Collection[Answers]) -> dict[str, list[str]]:
    """Return the errors of each host that was asked, once or more, without repetition; an empty list without one."""
    found: dict[str, list[str]] = {}
    for answers in asked:
        for host, answer in answers.items():
            errors = found.setdefault(host, [])
            errors += [answer.error] if answer.error and answer.error not in errors else []
    return found


def _not_let_in(servers: Answers, ready: Mapping[str, Mapping[str, Any]], what: str) -> dict[str, str]:
    """Return the hosts with a server that do not let a host of the site in, with the reason.

    Args:
        servers: what they say; without ``clients`` they do not ask where one comes from.
        ready: what the site's hosts say.
        what: what they have.
    """
    places = {host: value["hosts"].get(host, {}).get("address") for host, value in ready.items()}
    found = {}
    for name, answer in servers.items():
        if not shapes.fits(answer.value, {"clients?": [str]}):
            found[name] = _OTHER_VERSION
            continue
        known = answer.value.get("clients", [*places.values()])
        refused = [host for host, address in sorted(places.items()) if address and address not in known]
        if refused and not answer.error:
            found[name] = f"its {what} does not let in {', '.join(refused)}: apply on it"
    return found


def batches(hosts: list[str], batch: str) -> list[list[str]]:
    """Return the hosts in the order of their switch: the first one alone, then a number or a percentage at a time.

    >>> batches(["a", "b", "c", "d", "e", "f", "g", "h"], "25%")
    [['a'], ['b', 'c'], ['d', 'e'], ['f', 'g'], ['h']]
    """
    number = int(batch.rstrip("%"))
    size = max(1, len(hosts) * number // 100 if batch.endswith("%") else number)
    return [hosts[:1]] * bool(hosts) + [hosts[at : at + size] for at in range(1, len(hosts), size)]
