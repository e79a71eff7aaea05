"""Work off the requests of a site, one after another, until none waits: the program of its unit.

It requires neither a master nor a minion that runs: each release is one call of `django.release` by Salt on this host.
"""

import contextlib
import ctypes
import json
import logging
import os
import signal
import subprocess
import tempfile
import time
from collections.abc import Callable
from types import FrameType
from typing import IO, Any

from django_formula.audit import caller
from django_formula.git_server import servers
from django_formula.host import commands, daemons, file, units
from django_formula.host.commands import DeploymentError
from django_formula.proof import state, unit
from django_formula.proof.state import Proof
from django_formula.release import progress, releases
from django_formula.release.releases import Release
from django_formula.request import checks, queue
from django_formula.request.queue import Request
from django_formula.site import sites
from django_formula.site.sites import Site
from django_formula.site.users import push_user
from django_formula.source import commits
from django_formula.untrusted.text import Log, shown, tell

log = Log.of(__name__)
#: Seconds between two looks at what is waited for.
_TICK = 0.2
#: Seconds that the program waits before it exits with an error, since its unit starts it again.
_PAUSE = 30.0
#: Bytes of the answer of a release.
_ANSWER = 1 << 20
_PR_SET_PDEATHSIG = 1  # linux/prctl.h
#: The least that the configuration has.
CONFIGURATION = {"salt_call": [str], "environment": {str: str}, "program": str}


class _Stop:
    """Whether systemd has asked the program to end: what runs ends before, unless the host is shut down."""

    def __init__(self) -> None:
        self.is_asked = False
        signal.signal(signal.SIGTERM, self._ask)

    def _ask(self, _number: int, _frame: FrameType | None) -> None:
        self.is_asked = True

    def is_of_host(self) -> bool:
        """Return whether the host is shut down: what runs would meet units that stop, and is begun again after it."""
        if not self.is_asked or not daemons.has_systemd():
            return False
        with contextlib.suppress(DeploymentError):
            return units.control("show", "--property=SystemState", "--value", timeout=5).strip() == "stopping"
        return False


def main(name: str) -> int:
    """Work off the requests of a site; return the exit code."""
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    stop = _Stop()
    try:
        site, gate, is_left = sites.find(name), checks.Gate(), True
        lock = queue.work_lock(site)
        while is_left and not stop.is_asked:
            try:
                lock.take()
            except DeploymentError as error:
                tell(error)
                return 0
            try:
                while not stop.is_asked and _work(sites.find(name), stop, gate):
                    pass
            finally:
                lock.release()
            is_left = _is_asked(site)  # what came just now has seen the lock, and started no program
    except (DeploymentError, OSError) as error:
        tell(error, is_error=True)
        until = time.monotonic() + _PAUSE
        while not stop.is_asked and time.monotonic() < until:
            time.sleep(_TICK)
        return 1
    return 0


def _work(site: Site, stop: _Stop, gate: checks.Gate) -> bool:
    """Work off one request; return whether to look for another one."""
    if not _is_asked(site):
        return False
    left = queue.running(site)
    if left and left.commit == _active(site):  # interrupted after it
        _follow(site, left)
    if site.lock("").holder():  # while another deployment is under way a newer request may take the place of this one
        time.sleep(_TICK)
        return True
    queue.recover(site, _active(site))
    waiting = queue.waiting(site)
    if not waiting:
        return True
    if not gate.admit(site, waiting, _subject(site, waiting)):
        time.sleep(_TICK)
        return True
    request = queue.take(site, waiting.number)  # a newer one has checks of its own
    if not request:
        return True
    log.info("request %s: %s by %s, try %s", request.number, request.commit, request.by.who, request.tries)
    status, why, is_recorded = *(gate.verdict or verdict(site, request) or ("", "")), False
    if not status:
        status, why, is_recorded = _released(site, request, stop)
    if status == queue.RELEASED:
        _follow(site, request)
    if status:  # else it was interrupted, and is begun again
        queue.finish(site, request, status, why, is_recorded=is_recorded)
        log.info("request %s: %s: %s", request.number, status, why.partition("\n")[0])
    return True


def _is_asked(site: Site) -> bool:
    return any(path.exists() for path in queue.paths(site))


def _subject(site: Site, request: Request) -> checks.Subject:
    return checks.Subject(
        wanted=site.config.get("checks"),
        commit=lambda: request.commit,
        token=lambda: servers.TOKEN.value(site, None) or "",
        verdict=lambda _commit: verdict(site, request),
    )


def _follow(site: Site, request: Request) -> None:
    """Set the branch of a site that is pushed to what was pushed and is active."""
    user, ref = push_user(site.name), f"refs/heads/{site.config['revision']}"
    if not site.config.get("push") or request.by.how != user:
        return
    argv = ["git", f"--git-dir={site.config['repository']}", "-c", "core.hooksPath=/dev/null", "update-ref", ref]
    environment = {"GIT_CONFIG_NOSYSTEM": "1", "GIT_CONFIG_GLOBAL": "/dev/null"}
    try:
        commands.run([*argv, request.commit], doing=f"setting {ref}", user=user, environment=environment)
    except DeploymentError as error:  # the next push finds the branch behind, and needs no more than that
        tell(error, is_error=True)


def _active(site: Site) -> str:
    live = releases.linked(site, site.current)
    return str(live.record.get("commit", "")) if live else ""


def verdict(site: Site, request: Request) -> tuple[str, str] | None:
    """Return status and reason of a request that needs no release.

    Its commit is active, or part of the active one, or not for its sender to release.
    """
    active, commit = _active(site), request.commit
    if active == commit:
        return queue.RELEASED, "it was active already"
    if request.is_checked:
        os.environ.update((_configuration(site) or {}).get("environment", {}))  # proxies, for git
        try:
            commits.of_revision(site, commit)
        except DeploymentError as error:
            return (queue.FAILED if error.transient else queue.REFUSED), str(error)
    if not request.is_rewind and active and commits.is_part(site, commit, active):
        back = site.to_release(commit)
        return queue.SUPERSEDED, f"{commit[:12]} is part of {active[:12]}, which is active; to go back: {back}"
    return None


def _released(site: Site, request: Request, stop: _Stop) -> tuple[str, str, bool]:
    """Release a commit; return the final status, the reason, and whether the audit log has it.

    Empty where the release was interrupted.
    """
    configuration = _configuration(site)
    if not configuration:
        return queue.FAILED, f"{queue.folder(site)}/config.json is damaged: request it again", False
    options = ["--out=json", "--retcode-passthrough", "--no-parse=revision"]
    steps = queue.steps(site)
    steps.unlink(missing_ok=True)
    argv = [
        *configuration["salt_call"],
        *options,
        "django.release",
        site.name,
        f"revision={request.commit}",
        "wait=True",
    ]
    environment = {
        **configuration["environment"],
        "PATH": commands.PATH,
        "LANG": "C.UTF-8",
        "HOME": "/root",
        caller.PERSON: request.by.who,
        progress.FILE: str(steps),
        **({"SSH_CONNECTION": request.by.origin} if request.by.origin else {}),
    }
    began = time.time()
    with tempfile.TemporaryFile() as output:
        process = subprocess.Popen(  # noqa: S603 # nosec B603 - of root's configuration
            argv, env=environment, stdin=subprocess.DEVNULL, stdout=output, cwd="/", preexec_fn=_ends_with(os.getpid())
        )
        while process.poll() is None:
            if stop.is_of_host():
                process.terminate()
                return "", "", False
            if _is_overtaken(site, request):
                unit.supersede(site, "a newer request waits")
            time.sleep(_TICK)
        last = state.last(site)
        if last and last.outcome == state.SUPERSEDED and last.ended >= began and _proves(site, last, request):
            return queue.SUPERSEDED, last.why, True
        return _ending(process.returncode, output, is_active=_active(site) == request.commit)


def _proves(site: Site, proof: Proof, request: Request) -> bool:
    return Release(site, proof.release).record.get("commit") == request.commit


def _is_overtaken(site: Site, request: Request) -> bool:
    """Return whether the release of a request gets a share of the visitors only, while a newer request waits."""
    proof = state.current(site)
    is_its = proof is not None and proof.phase == state.CANARY and _proves(site, proof, request)
    return is_its and queue.waiting(site) is not None


def _configuration(site: Site) -> dict[str, Any] | None:
    return file.read_json(queue.folder(site) / "config.json", CONFIGURATION)


def _ends_with(parent: int) -> Callable[[], None]:
    """Return what has a child end with this process, however that ends: a second one would begin the same release."""
    control = ctypes.CDLL(None).prctl

    def prepare() -> None:
        control(_PR_SET_PDEATHSIG, signal.SIGTERM, 0, 0, 0)
        if os.getppid() != parent:
            os._exit(143)

    return prepare


def _ending(code: int, output: IO[bytes], *, is_active: bool) -> tuple[str, str, bool]:
    """Return how a release has ended, by the exit code and the answer of Salt; without one by what is active.

    There is none that can be read on a full disk, for one, or where a module of the operator's prints something.
    """
    output.seek(0)
    printed = output.read(_ANSWER).decode(errors="replace")
    try:
        answer = json.loads(printed)["local"]
    except (ValueError, RecursionError, KeyError, TypeError):
        if code < 0 or code in (128 + signal.SIGTERM, 128 + signal.SIGKILL):
            return "", "", False
        if is_active:
            return queue.RELEASED, f"it is active; Salt exited with {code}, and its answer cannot be read", False
        last = "; ".join(shown(printed).split("\n")[-3:])
        return queue.FAILED, f"Salt exited with {code}: {last or 'see the journal'}", False
    if code == 0 and isinstance(answer, dict):
        return queue.RELEASED, f"{answer.get('release')} is active", True
    return queue.FAILED, str(answer), True
