"""A deployment: one run over the steps of one site, what they have found out, and what happens when one fails."""

import contextlib
import json
import os
import time
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any

from django_formula.audit import audit
from django_formula.audit import caller as audit_caller
from django_formula.audit.caller import Caller
from django_formula.container import registry
from django_formula.deploy import inputs as deploy_inputs
from django_formula.deploy import migration
from django_formula.deploy import takeover as deploy_takeover
from django_formula.deploy.findings import Changes as Changes
from django_formula.deploy.findings import Findings
from django_formula.deploy.secrets_in_use import Secrets
from django_formula.deploy.switch_report import Probe
from django_formula.deploy.takeover import Takeover
from django_formula.host import clock, disk
from django_formula.host.commands import DeploymentError, redact
from django_formula.knowledge import hints
from django_formula.project import program
from django_formula.proxy import waiting
from django_formula.push import static_files
from django_formula.release import bus, instances, progress, releases
from django_formula.release import workers as release_workers
from django_formula.release.releases import Release
from django_formula.secret import secrets
from django_formula.site.sites import Site
from django_formula.source import commits, folder
from django_formula.virtualenv import index
from django_formula.worker import workers as worker_workers


class RepeatedFailure(DeploymentError):
    """A release that failed before was not tried again, so that no new attempt is recorded."""


class Deployment:
    """One run over the steps of one site. Other modules change it by its methods only.

    Args:
        site: the site with its effective configuration.
        given: secrets from the pillar, as for `Secrets`.
        templates: text of the templates, by URL.
        asked_by: origin of the deployment, for the lock and the record.
        caller: who calls, for the audit log, where `asked_by` does not tell it.
        revision: overrides the revision of the configuration.
        again: release even where nothing has changed, or the commit is on hold or has failed.
        test: steps only look.
        aside: the release is built for a plan and removed again: what outlives releases stays unchanged.
        servers: what is known of the database servers of this host; shared by the sites of an apply.
        listening: the users of each port, where this apply has looked already.
        coming: the sites that this apply gives to the proxy of the site; None where the pillar is not known.
        fleet: the id of the fleet's deployment that this is a part of; empty for one of this host alone.
        sequence: the least number of a new release.
        salt_call: the command that calls Salt on this host; empty where there is none, or where it is not needed.
    """

    #: Whether `release` is made by this deployment.
    is_new = False
    #: Whether `current` points to `release` by this deployment.
    is_activated = False
    #: In a rollback, the release that was active before.
    left: Release | None = None
    #: Whether the rollback is to an older release, and puts `left` on hold.
    holds_left = False
    #: The active release, where it was stopped before the new one starts, and when (by the monotonic clock).
    paused: Release | None = None
    paused_at = 0.0
    #: Why it was stopped.
    pause_reason = ""
    _hold: "waiting.Hold | None" = None
    #: The requests for the health page during the switch.
    probe: Probe | None = None
    #: Whether a new release has served a share of the visitors already, or is not to: it is given to all.
    is_proved = False
    #: Whether the former release goes on for a share of the visitors.
    keeps_old = False
    #: Whether it is still being decided if anything is done: a failure is recorded as refused.
    _is_undecided = False
    _reported = 0
    _find_commit: Callable[[], str] | None = None

    def __init__(
        self,
        site: Site,
        given: Mapping[str, str],
        templates: Mapping[str, str],
        *,
        asked_by: str = "salt",
        caller: Caller | None = None,
        revision: str | None = None,
        again: bool = False,
        test: bool = False,
        aside: bool = False,
        servers: dict[Any, Any] | None = None,
        listening: Mapping[int, set[str]] | None = None,
        coming: Collection[str] | None = None,
        fleet: str = "",
        sequence: int = 0,
        salt_call: Sequence[str] = (),
    ):
        self.site = site
        self.secrets = Secrets(site, given)
        self.templates = templates
        self.asked_by = asked_by
        self._caller = caller
        self.revision = revision
        self.again = again
        self.test = test
        self.aside = aside
        self.servers = {} if servers is None else servers
        self.listening = listening
        self.coming = coming
        self.fleet = fleet
        self.salt_call = salt_call
        self.sequence = sequence or self.release_of_fleet.get("sequence", 0)
        self.lock = site.lock(asked_by)
        self.switch_lock = release_workers.SwitchLock(site)
        self.live = releases.linked(site, site.current)
        #: The release that the steps work on: the active one until `source` begins another.
        self.release: Release | None = self.live
        self.findings = Findings(deploy_takeover.in_progress(site))
        self.warnings: list[str] = []
        self.began, self._began = time.time(), time.monotonic()
        self.seconds: dict[str, float] = {}

    @property
    def release_of_fleet(self) -> dict[str, Any]:
        """The commit and the number of the release that the master keeps for all hosts of the site; empty without."""
        known: dict[str, Any] = self.site.config.get("fleet", {}).get("release") or {}
        return known

    # What steps find out

    def warn(self, texts: Iterable[str]) -> None:
        """Add warnings for the operator."""
        self.warnings += texts

    def unreported_warnings(self) -> list[str]:
        """Return the warnings that were added since the last call, each once."""
        before, new = self.warnings[: self._reported], self.warnings[self._reported :]
        self._reported = len(self.warnings)
        return [text for text in dict.fromkeys(new) if text not in before]

    def find_takeover(self) -> Takeover | None:
        """Look for an existing deployment that the pillar wants taken over; return its takeover.

        Raises:
            DeploymentError: there is one, and the pillar does not say ``adopt``.
        """
        self.findings.takeover = deploy_takeover.due(self.site)
        return self.findings.takeover

    def complete_takeover(self) -> None:
        """End the takeover: the new release serves instead of the existing deployment."""
        if self.findings.takeover:
            self.warn(self.findings.takeover.end())
        self.findings.takeover = None

    def find_inputs(self) -> tuple[dict[str, str], dict[str, str]]:
        """Find out the secrets and the commit; return the inputs of the last release, and those of the next one.

        Raises:
            DeploymentError: a secret is lost or damaged, or the revision cannot be resolved.
        """
        self.secrets.read()
        recorded = self.recorded_inputs()
        secrets.missing(self.site, self.secrets.by_name, recorded)
        releases.refuse_unknown_secrets(self.site, self.secrets.by_name, self.secrets.given, recorded)
        self.findings.commit = self.resolve_commit()
        if self.live and self.live.record.get("commit") == self.findings.commit:
            self.secrets.drop(self.secrets.expired_keys(self.live, test=self.test))
        return recorded, self.inputs()

    def plan(self, name: str, foreseen: dict[str, Changes] | None = None) -> None:
        """Set the name of the release that would be made.

        Args:
            foreseen: the known changes of its steps, by the step's name.
        """
        self.findings.planned, self.findings.foreseen = name, foreseen or {}

    def begin(self, release: Release) -> None:
        """Let the steps work on a new release."""
        self.release, self.is_new = release, True

    def note_begin(self) -> None:
        """Tell that a new release is begun: by an event, and in the audit log, unless what has called this does."""
        self._send_begin()
        if self.release and not audit.is_open():
            self._act().begin()

    def _act(self) -> audit.Act:
        verb, caller = audit_caller.of_request(self.asked_by)
        release = self.release.name if self.release else ""
        key = f"{self.site.name}/{release}" if release else ""
        revision = {"revision": self.revision} if self.revision else {}
        return audit.Act(verb, self._caller or caller, self.site.name, revision, key)

    def resume(self, release: Release) -> None:
        """Let the steps go on with a new release that another process has begun.

        Raises:
            DeploymentError: a file holds no usable secret.
        """
        self.begin(release)
        self.findings.commit = release.record["commit"]
        self.secrets.read()

    def keep_live(self) -> None:
        """Let the steps work on the active release, which another deployment has made meanwhile."""
        self.release = self.live

    def return_to(self, target: Release, left: Release) -> None:
        """Let the steps activate another release again.

        Args:
            left: the active release, which is put on hold if the other one is older.
        """
        self.holds_left = target.sequence < left.sequence
        self.release, self.left, self.findings.commit = target, left, target.record["commit"]
        self._send_begin()

    def _send_begin(self) -> None:
        revision = self.revision or self.site.config.get("revision") or ""
        release = self.release.name if self.release else ""
        bus.begin(self.site, self.asked_by, revision=str(revision), commit=self.findings.commit or "", release=release)

    @contextlib.contextmanager
    def deciding(self) -> Iterator[None]:
        """Decide in this block whether anything is done; what fails in it is recorded as refused."""
        self._is_undecided = True
        yield
        self._is_undecided = False

    def pause(self, live: Release, why: str) -> None:
        """Stop the active instance before the new one starts; where that fails, it is started again.

        Args:
            why: for people.
        """
        self.paused, self.paused_at, self.pause_reason = live, time.monotonic(), why
        self._hold = waiting.begin(self.site, live, self.asked_by)
        instances.pause(self.site, live.path)

    def open_way(self) -> bool:
        """Have requests reach the site again where they wait for it; return whether they have waited."""
        if self._hold:
            self._hold.end()
        return self._hold is not None

    def hold_tasks(self, leaving: Release | None, coming: Release) -> None:
        """Keep all workers of the site from taking tasks, until `let_tasks_go` or the end of this process.

        Args:
            leaving: the active release, whose workers are waited for.
            coming: the release that is activated next.
        """
        if not any(worker_workers.recorded(one.path) for one in (leaving, coming) if one):
            return
        self.switch_lock.take()
        taking = release_workers.await_quiet(self.site, leaving.path) if leaving else []
        if taking and leaving:
            self.warn(
                [f"workers of {leaving.name} did not report in time that they take no tasks: {', '.join(taking)}"]
            )

    def let_tasks_go(self) -> None:
        """Let the workers of the active release take tasks."""
        self.switch_lock.release()

    def set_healthy(self, pid: int | None) -> None:
        """Set the main process of the new release, whose health check has passed."""
        self.findings.healthy_pid = pid

    def set_waiting(self, why: str) -> None:
        """Set why the proxy does not give the site its domains yet; empty where it does."""
        self.findings.waiting = why

    def set_probe(self, probe: Probe) -> Probe:
        """Set the requests of the switch; the deployment ends them."""
        self.probe = probe
        return probe

    def set_proved(self, *, keeps_old: bool = False) -> None:
        """Set that the release gets all visitors without a proof, and whether the former one goes on for some."""
        self.is_proved, self.keeps_old = True, keeps_old

    def set_proving(self) -> None:
        """Let the steps work on the active release: a proof goes on with the new one, which runs."""
        self.end_probe()
        self.is_new, self.findings.is_proving = False, True
        self.release = self.live

    def end_probe(self) -> None:
        """End the requests of the switch, which another process begins anew."""
        if self.probe:
            self.probe.end()
        self.probe = None

    def set_activated(self, is_activated: bool) -> None:
        """Set whether `current` points to the release by this deployment."""
        self.is_activated = is_activated

    def report_switch(self, cut: int) -> dict[str, Any]:
        """Make the switch report of the probe, and return it.

        Args:
            cut: connections that were still open on the old instance when it was stopped.
        """
        self.findings.switch_report = self.probe.report(cut) if self.probe else {}
        return self.findings.switch_report

    # What a release is made of

    def inputs(self) -> dict[str, str]:
        """Return what the release is made of: see `deploy.inputs`."""
        return deploy_inputs.hashes(
            self.site, self.findings.commit, self.secrets.by_name, self.secrets.former_keys(), self.templates
        )

    def recorded_inputs(self) -> dict[str, Any]:
        """Return the inputs of the active release, or of the last good one."""
        good = [release for release in releases.releases(self.site) if release.record.get("state") in ("good", "held")]
        last = self.live or (good[-1] if good else None)
        recorded = dict(last.record.get("inputs", {})) if last else {}
        if releases.has_released(self.site):
            recorded.setdefault("secrets:secret_key", "")
        return recorded

    def configuration_hash(self) -> str:
        """Return a keyed hash of all that judges a release: whether one that failed is worth a new try."""
        password = self.secrets.of(registry.PASSWORD)
        own = {"registry_password": password} if password else {}
        own["formula"] = deploy_inputs.formula()
        configuration = {**self.site.config, "index_password": self.secrets.of(index.PASSWORD), **own}
        return secrets.keyed_hash(secrets.record_key(self.site), configuration)

    def begin_to_resolve(self) -> Callable[[], str]:
        """Begin to resolve the revision, so that the remotes of all sites are queried at the same time."""
        site, live = self.site, self.live
        revision = self.revision or site.config["revision"]
        if site.config["folder"] and not self.revision:
            self._find_commit = lambda: folder.tree(site)
        elif self.release_of_fleet.get("commit") and not self.again:
            self._find_commit = lambda: str(self.release_of_fleet["commit"])
        elif live and not self.again and (site.config["deploy"] == "manual" or not commits.was_pushed(site)):
            self._find_commit = lambda: live.record["commit"]
        elif commits.COMMIT.fullmatch(revision):
            self._find_commit = lambda: revision
        else:
            pool = ThreadPoolExecutor(1)
            self._find_commit = pool.submit(commits.resolve, site, revision).result
            pool.shutdown(wait=False)
        return self._find_commit

    def resolve_commit(self) -> str:
        """Return the commit of the revision; with a warning the active one, where the remote cannot be reached.

        Raises:
            DeploymentError: the revision cannot be resolved.
        """
        find = self._find_commit or self.begin_to_resolve()
        try:
            return find()
        except DeploymentError as error:
            if not (self.live and error.transient and not self.again):
                raise
            cause = next((line.strip() for line in reversed(error.log.splitlines()) if line.strip()), "")
            self.warn([f"{error.message}{f' ({cause})' if cause else ''}; {self.live.name} stays live"])
            self.findings.is_resolved = False
            return str(self.live.record["commit"])

    def take_lock(self, *, look_again: bool = False) -> None:
        """Take the site's lock, unless this deployment holds it.

        Args:
            look_again: accept that another release was activated meanwhile; the caller starts again with it.

        Raises:
            DeploymentError: another deployment holds the lock for too long, or activated another release meanwhile.
        """
        if self.lock.is_held:
            return
        self.lock.take()
        static_files.remove_keys(self.site)
        before, self.live = self.live, releases.linked(self.site, self.site.current)
        if not look_again and (before and before.name) != (self.live and self.live.name):
            now = self.live.name if self.live else "no release"
            raise DeploymentError(
                f"another deployment has activated {now} meanwhile", hint="apply again", transient=True
            )

    # What happens when a step fails

    @contextlib.contextmanager
    def step(self, name: str) -> Iterator[None]:
        """Run a step in this block; an error ends the deployment and is recorded with the step's name.

        Raises:
            DeploymentError: always this, for the operator; an error of the file system becomes one.
        """
        began, umask = time.monotonic(), os.umask(0o022)
        progress.note(name)
        try:
            try:
                yield
            finally:
                self.seconds[name] = round(self.seconds.get(name, 0) + time.monotonic() - began, 3)
        except DeploymentError as error:
            self._fail(name, error)
            raise
        except OSError as error:
            wrapped = DeploymentError(f"{error.strerror or error}: {error.filename or ''}".rstrip(": "), transient=True)
            self._fail(name, wrapped)
            raise wrapped from error
        except BaseException:
            self._restore_secrets()
            if self.paused and not self.is_activated:
                self._resume(self.paused)
            self._let_go()
            raise
        finally:
            os.umask(umask)

    def _fail(self, step: str, error: DeploymentError) -> None:
        """Stop the new release and keep it as failed, or delete it where a new try may help; complete the error."""
        try:
            advice = self._give_up(step, error)
        except OSError:  # not even a module of the engine can be opened: the next apply clears away, as after a kill
            advice, error.log = "", ""  # a log that may not be redacted yet
            with contextlib.suppress(OSError):
                self._restore_secrets()
        error.message = f"{step}: {error.message}"
        error.hint = "\n".join(filter(None, [error.hint, advice, self._what_serves()]))
        self._let_go()

    def _give_up(self, step: str, error: DeploymentError) -> str:
        """Stop or delete the new release, record the failure; return what the release's source has of its cause."""
        self.let_tasks_go()
        program.explain(error)
        error.log = redact(error.log, self.secrets.masked())
        error.message = redact(error.message, self.secrets.masked())
        error.hint = redact(error.hint, self.secrets.masked())
        if "more time" not in error.hint and (more_time := hints.more_time(self.site, error.message)):
            error.hint = "; ".join(filter(None, [more_time, error.hint]))
        disk.add_hint(error, self.site.root)
        self._restore_secrets()
        release = self.release if self.is_new and not self.is_activated else None
        is_tried_again = error.transient or self.aside
        advice = self._advice(release, step, error) if release and not is_tried_again else ""
        self._record_failure(step, error)
        with contextlib.suppress(DeploymentError, OSError):
            if release and release.path.exists():
                self._clear_away(release, step, error)
            elif self.left and self.release and not self.is_activated and self.release.name != self.left.name:
                instances.stop(self.site, self.release.path)
        return advice

    def _advice(self, release: Release, step: str, error: DeploymentError) -> str:
        """Return what a failed release has in its source and the pillar lacks; complete the hint of the error."""
        with contextlib.suppress(Exception):  # whatever it meets in the source: what failed is said and cleared away
            from django_formula.deploy import failure  # which only a failure needs

            return failure.advice(release, step, error, self.secrets.masked())
        return ""

    def _what_serves(self) -> str:
        """Return what serves after a failure; an instance that was stopped is started again."""
        live = self.release if self.is_activated else self.live
        nothing = "the old site still serves" if self.findings.takeover else "nothing runs yet"
        serves = f"{live.name} {'is live' if self.is_activated else 'still runs'}" if live else nothing
        if self.paused and not self.is_activated:
            serves = self._resume(self.paused)
        elif self.live and not self.is_activated and not self.findings.takeover and not self.test:
            serves = self._start_again(self.live) or serves
        with contextlib.suppress(OSError):
            if not self.is_activated and self.live and migration.is_in_maintenance(self.site, self.live):
                serves = (
                    f"visitors get the maintenance page: {self.live.name} runs, and does not work with the migrated "
                    "database; release a commit that does, or restore a backup and run "
                    f"salt-call django.maintenance {self.site.name} off"
                )
        return serves

    def _start_again(self, live: Release) -> str:
        """Start the active release where it was stopped; return what runs then, empty where it has been running.

        Without this a site that was stopped would stay so for as long as its newest commit fails.
        """
        with contextlib.suppress(DeploymentError, OSError):
            is_busy = not self.lock.is_held and self.lock.holder()
            if is_busy or instances.is_running(self.site, live.path):
                return ""
            self.lock.take()
            return self._resume(live)
        return ""

    def _restore_secrets(self) -> None:
        if self.live and not self.is_activated:
            self.secrets.restore_replaced()
        self.secrets.forget_replaced()

    def _let_go(self) -> None:
        if self.probe:
            self.probe.end()
        if self.findings.takeover:
            self.findings.takeover.release_data()
        self.let_tasks_go()
        with contextlib.suppress(OSError):
            self.open_way()
        self.lock.release()

    def _resume(self, live: Release) -> str:
        """Start the instance again that was stopped first; return what runs then."""
        try:
            instances.start(self.site, live.path)
        except (DeploymentError, OSError) as error:
            again = self.site.to_release(live.record["commit"])
            return f"{live.name} does not start again: {str(error).splitlines()[0]}\n{again} releases it anew"
        finally:
            self.open_way()
        return f"{live.name} runs again"

    def _clear_away(self, release: Release, step: str, error: DeploymentError) -> None:
        from django_formula.deploy import failure  # which only a failure needs

        judged_by = self.configuration_hash()
        record = {"steps": self.seconds, "step": step, "error": str(error), "judged_by": judged_by}
        self.warnings += failure.clear_away(release, self.live, record, is_transient=error.transient)

    # The record

    def _record_failure(self, step: str, error: DeploymentError) -> None:
        """Record a failure, also before there was a release; not where nothing was tried."""
        if isinstance(error, RepeatedFailure) or self.test or not self.site.applied.exists():
            return
        with contextlib.suppress(OSError):  # a full disk
            result = "refused" if self._is_undecided else "failed"
            options = {"options": error.options} if error.options and self._shows_no_secret(error.options) else {}
            result = self.result() if self.is_activated else result
            self.write_attempt(result, step=step, error=error.message, **options)
            if self.is_activated and self.release:
                self.release.update(steps=self.seconds)

    def _shows_no_secret(self, options: Mapping[str, Any]) -> bool:
        text = json.dumps(options, ensure_ascii=False)
        return redact(text, self.secrets.masked()) == text

    def _replayed(self) -> dict[str, Any]:
        """Return how many URLs a new release was compared by, and how many were worse."""
        proof = self.release.record.get("replay") if self.release and self.is_new else None
        return {"replay": {key: proof[key] for key in ("compared", "refused")}} if proof else {}

    def result(self) -> str:
        """Return the result of a deployment that has activated its release."""
        return "released" if not self.left else "rolled back" if self.holds_left else "rolled forward"

    def write_attempt(self, result: str, **more: Any) -> None:
        """Append the result of this deployment to ``deploys.jsonl``."""
        begun = self.release.name if self.release else None
        attempt = {
            "time": clock.now(),
            "release": None if self.live and begun == self.live.name else begun,
            "commit": self.findings.commit,
            "result": result,
            "asked_by": self.asked_by,
            "seconds": round(time.monotonic() - self._began, 1),
            **({"revision": self.revision} if self.revision else {}),
            **({"receipt": self.findings.switch_report} if self.findings.switch_report else {}),
            **self._replayed(),
            **more,
        }
        releases.append_attempt(self.site, attempt)
        if not audit.is_open():
            act = self._act()
            act.result = f"{result} in {more['step']}" if "step" in more else result
            act.end(seconds=attempt["seconds"])
            self.warn([act.warning] if act.warning else [])
