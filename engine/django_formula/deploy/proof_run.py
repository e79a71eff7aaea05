"""Carry on the proof of a release until it has ended: the program of its unit.

It holds the lease, has the judge look at each request of both releases, and ends the proof by its verdict or when its
steps are over. Killed it begins the present step again; after a boot of the host it ends what that has interrupted.
"""

import contextlib
import logging
import time
from typing import Any

from django_formula.host import proc, users
from django_formula.host.commands import DeploymentError, seconds
from django_formula.proof import judge, state, unit
from django_formula.proof.judge import REFUSED, Judge, Question, Use
from django_formula.proof.said import Reader
from django_formula.proof.state import Proof
from django_formula.proxy import lease, proxies, waiting
from django_formula.release import claim, instances
from django_formula.release import replay as release_replay
from django_formula.release import workers as release_workers
from django_formula.release.releases import Release
from django_formula.site import domains, sites
from django_formula.site.sites import Site
from django_formula.untrusted import delegate, shapes
from django_formula.untrusted.text import Log, in_command, tell
from django_formula.worker.workers import Outcome

log = Log.of(__name__)
#: Seconds between two looks at the log, and between two of the lease, of what the instances use, and of the record.
_TICK, _HELD, _WEIGHED, _RECORDED = 0.2, 2.0, 2.0, 3.0


def main(name: str) -> int:
    """Carry on the proof of a site; return the exit code."""
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    try:
        site = sites.find(name)
        lock = unit.run_lock(site)
        lock.take()
        try:
            while proof := state.current(site):
                _carry_on(site, proof)
            lease.end(site)  # of a proof whose state a loss of power has torn
            unit.disable(site)
        finally:
            lock.release()
    except (DeploymentError, OSError) as error:
        tell(error, is_error=True)
        return 1
    return 0


def _carry_on(site: Site, proof: Proof) -> None:
    """Carry on a proof until its phase is over, or another process has ended it."""
    if proof.why:  # killed, this process has carried the verdict out in part: the release may not run any more
        _ending().take_back(site, proof, proof.why)
        return
    shared = Release(site, proof.release if proof.phase == state.CANARY else proof.old)
    if proof.boot != state.boot() or not instances.is_running(site, shared.path):
        _ending().interrupt(site, proof, f"the host or {shared.name} was stopped meanwhile")
        return
    if proof.phase == state.CANARY:  # killed, this process begins the step again
        proof = state.change(site, proof, since=time.time()) or proof
    elif seconds(site.config["releases"]["canary"]["bake"]):
        _ending().begin_bake(site, proof)
        proof = state.current(site) or proof
    run = _Run(site, proof)
    while not run.is_over():
        time.sleep(_TICK)


def _ending() -> Any:
    """Return what ends a proof, with all steps of a deployment: loaded when it is due."""
    from django_formula.deploy import proof_end

    return proof_end


def _reader(site: Site, proof: Proof) -> Reader:
    """Return what reads the log of both releases.

    Raises:
        DeploymentError: nginx writes no log of the site alone.
    """
    log = proxies.access_log(site)
    if not log:
        raise DeploymentError(
            "nginx does not write the access log of the site",
            hint=f"apply, then {in_command('salt-call', 'django.canary', site.name)}",
        )
    former, chosen = (proof.old, proof.release) if proof.phase == state.CANARY else (proof.release, proof.old)
    facts = Release(site, former).facts
    urls = [str(facts.get(name) or "") for name in ("static_url", "media_url")]
    static = [url for url in urls if url.startswith("/") and url != "/"]
    return Reader(log, {"current": former, "next": chosen}, static, users.user_id(site.user))


class _Run:
    """A phase of a proof that this process carries on."""

    #: When the present step began: as its state has it, and by a clock that is never set.
    _began = (0.0, 0.0)

    def __init__(self, site: Site, proof: Proof):
        self._site, self._proof = site, proof
        self._new, self._old = Release(site, proof.release), Release(site, proof.old)
        self._pid = instances.pid(site, self._new.path)
        self._answered = 0
        self._reader = _reader(site, proof)
        self._due = {self._hold: 0.0, self._weigh: 0.0, self._record: 0.0}
        known = (self._old.record.get("proof") or {}).get("exceptions", [])
        has_same = instances.have_same_server(self._old.path, self._new.path)
        worse = judge.allowed(site.config["releases"], has_same_server=has_same)
        self.judge = Judge(proof.old, proof.release, worse, known)
        before = proof.evidence.get("tasks", {}).get("old", {})  # of the workers, which were stopped by the switch
        self.judge.compare_tasks({name: Outcome(**outcome) for name, outcome in before.items()}, {})
        for line in self._reader.past():
            self.judge.past(line)

    def is_over(self) -> bool:
        """Judge by new requests and do what is due; return whether the phase is over."""
        for line in self._reader.new():
            self.judge.see(line, self._share_of_new())
            self._answered += line.release == self._new.name and not line.is_static
        for act, every in ((self._hold, _HELD), (self._weigh, _WEIGHED), (self._record, _RECORDED)):
            if time.monotonic() - self._due[act] >= every:
                self._due[act] = time.monotonic()
                if act() is False:
                    return True
        if self.judge.question and not self._is_confirmed(self.judge.question):
            self.judge.acquit()
        if self.judge.verdict:
            self._record()
            self._take_back(self.judge.verdict.text)
            return True
        return self._is_step_over() if self._proof.phase == state.CANARY else self._is_bake_over()

    def _take_back(self, why: str) -> None:
        """Take the release back; killed meanwhile, the next process does."""
        state.change(self._site, self._proof, why=why)
        _ending().take_back(self._site, self._proof, why)

    def _is_confirmed(self, question: Question) -> bool:
        """Return whether a verdict counts after a page that it is about is requested again.

        What a scanner requests by chance from the new release first is no fault of it. An exception counts but where
        the old one fails in the page too; a refusal only where the old one answers it, and the new one still does not.
        """
        is_refusal = question.kind == REFUSED
        host, target = self._reader.requests.get(question, ("", ""))
        if domains.has(self._site.config["domains"], host):
            asked = [self._old, self._new] if is_refusal else [self._old]
            sides = [release_replay.side(self._site, one.path, one.facts) for one in asked]
            with contextlib.suppress(DeploymentError):
                doing = "requesting a page again that has failed in the new release"
                answers = delegate.ask(self._site.user, release_replay.ask, sides, (host, target), doing=doing)
                starts = [text[: len("returned 2")] for text in answers] if shapes.fits(answers, [str]) else []
                return starts == ["returned 2", "returned 4"] if is_refusal else starts != ["returned 5"]
        return not is_refusal

    def _share_of_new(self) -> float:
        share = self._proof.share / 100
        return share if self._proof.phase == state.CANARY else 1 - share

    def _hold(self) -> bool:
        """Hold the lease; return whether the proof is still this one."""
        known = state.current(self._site)
        own = (self._proof.release, self._proof.began, self._proof.phase)
        if not known or (known.release, known.began, known.phase) != own:
            return False
        self._proof = known
        if known.fleet and not claim.is_held(self._site, known.fleet):
            _ending().interrupt(self._site, known, "the master has not been heard of, or has ended the deployment")
            return False
        if waiting.closed(self._site):  # requests wait for both
            lease.end(self._site)
            return True
        chosen = lease.first(known.share) if known.phase == state.CANARY else lease.rest(known.share)
        lease.hold(self._site, [*chosen, *([known.token] if known.token else [])])
        self._reader.keys = chosen
        return True

    def _weigh(self) -> None:
        pid = instances.pid(self._site, self._new.path)
        if pid is None or pid != self._pid:
            self.judge.failed("its application server has ended")
        if self._proof.phase == state.BAKE:
            for name in release_workers.failing(self._site, self._new.path):
                self.judge.failed(f"the command of its worker {name} has failed")
        self.judge.weigh(self._use(self._old), self._use(self._new))
        self.judge.compare_tasks(*(release_workers.outcomes(self._site, one.path) for one in (self._old, self._new)))

    def _use(self, release: Release) -> Use | None:
        pid = instances.pid(self._site, release.path)
        return Use(proc.memory_of_tree(pid), proc.cpu_of_tree(pid)) if pid else None

    def _record(self) -> None:
        with contextlib.suppress(OSError):  # a full disk decides nothing
            state.change(self._site, self._proof, evidence=self.judge.evidence())

    def _took(self) -> float:
        """Return the seconds of the present step, whatever the clock of the host is set to meanwhile."""
        now = time.monotonic()
        if self._began[0] != self._proof.since:
            self._began = self._proof.since, now - max(time.time() - self._proof.since, 0.0)
        return now - self._began[1]

    def _is_bake_over(self) -> bool:
        if self._took() < seconds(self._site.config["releases"]["canary"]["bake"]):
            return False
        self._record()
        _ending().end_bake(self._site, self._proof)
        return True

    def _is_step_over(self) -> bool:
        """Begin the next step of a canary where one is over; return whether that was the last one."""
        options, steps = self._site.config["releases"]["canary"], state.stages(self._site)
        if not 0 <= self._proof.stage < len(steps):  # a share of the command line, or another pillar
            return False
        took, duration = self._took(), seconds(steps[self._proof.stage][1])
        has_enough = not self._proof.share or self._answered >= options["requests"]
        if took < duration or (not has_enough and took < seconds(options["limit"])):
            return False
        known = state.current(self._site)
        if not known or (known.stage, known.since) != (self._proof.stage, self._proof.since):
            return False  # people have chosen a share since `_hold`
        self._record()
        if not has_enough and options["undecided"] == "back":
            why = f"{self._new.name} had {self._answered} requests in {took:.0f} s, fewer than {options['requests']}"
            self._take_back(why)
            return True
        following = self._proof.stage + 1
        if following == len(steps) and not self._proof.fleet:
            _ending().activate(self._site, self._proof)
            return True
        share = steps[following][0] if following < len(steps) else self._proof.share
        now = f"gets {share} % of the visitors" if following < len(steps) else "has passed, and waits for the master"
        log.info("%s: %s %s", self._site.name, self._new.name, now)
        state.change(self._site, self._proof, stage=following, share=share, since=time.time())
        self._answered = 0
        return not self._hold()
