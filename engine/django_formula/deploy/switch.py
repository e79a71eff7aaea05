"""The switch: a release is activated instead of the active one or of an existing deployment, and watched."""

import contextlib
import threading
import time
from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import NoReturn

from django_formula.deploy import migration
from django_formula.deploy.deployment import Deployment
from django_formula.deploy.switch_report import Probe
from django_formula.deploy.takeover import Takeover
from django_formula.host import clock, config_files, daemons, file
from django_formula.host.commands import DeploymentError, seconds
from django_formula.project import page as project_page
from django_formula.proxy import moves, proxies, site_files, switch
from django_formula.proxy.contract import Proxy
from django_formula.release import disk, health, instances
from django_formula.release.health import Raised
from django_formula.release.releases import Release
from django_formula.site.sites import Site
from django_formula.untrusted.text import Log

log = Log.of(__name__)

#: Seconds between two checks of a release that is watched.
_PAUSE = 0.01


def take_over(deployment: Deployment, release: Release, takeover: Takeover, *, switches: bool) -> None:
    """Activate the first release instead of an existing deployment, which is stopped then; or leave that as it was."""
    site, phase = deployment.site, takeover.plan["phase"]
    log.info("%s: %s takes over", site.name, release.name)
    try:
        if switches:
            takeover.write(phase="switching")
            activate(deployment, release)
        _switch_to(deployment, release, takeover)
    except BaseException:
        if switches and _is_current(release):
            site.current.unlink()
            deployment.set_activated(False)
            phase = "waiting"
        if switches:
            takeover.write(phase=phase)
        raise
    deployment.complete_takeover()


def _switch_to(deployment: Deployment, release: Release, takeover: Takeover) -> None:
    """Let the proxy serve a release instead of an existing deployment."""
    files = site_files.files_of_site(deployment.site, release.facts, deployment.templates)
    try:
        takeover.switch(files, deployment.templates)
    except DeploymentError as error:
        error.transient = True
        raise


def activate(deployment: Deployment, release: Release) -> None:
    """Make a release `current`: by one rename where the proxy finds it through the link, else with a reload too.

    See docs/decisions/0002.

    Raises:
        DeploymentError: its instance has exited since its health check, or the proxy refuses its configuration.
    """
    site, old = deployment.site, deployment.live
    if deployment.findings.healthy_pid and instances.pid(site, release.path) != deployment.findings.healthy_pid:
        raise _exited(site, release, deployment.began)
    log.info("%s: activating %s", site.name, release.name)
    if deployment.is_new:
        disk.sync(release)
    if deployment.probe:
        deployment.probe.wait_for_first()
    with switch.alone(), _prepared_proxy(deployment, release) as reloads, switch.noted(reloads, restores=False):
        release.record.pop("held_since", None)
        release.update(state="good", live_since=clock.now())
        if old:
            file.link(site.previous, f"releases/{old.name}")
        deployment.hold_tasks(old, release)
        with deployment.probe.switching() if deployment.probe else contextlib.nullcontext():
            file.link(site.current, f"releases/{release.name}")
            deployment.set_activated(True)
            try:
                if deployment.left and deployment.holds_left:  # before a reload, which takes time and may fail
                    deployment.left.update(state="held", held_since=clock.now())
            finally:
                for proxy in reloads:
                    daemons.reload(proxy.DAEMON)
    if deployment.paused:
        gap = time.monotonic() - deployment.paused_at
        if deployment.open_way():
            deployment.warn([f"requests waited for {gap:.1f} s, since {deployment.pause_reason}"])
        else:
            deployment.warn([f"the site did not answer for {gap:.1f} s, since {deployment.pause_reason}"])


@contextlib.contextmanager
def _prepared_proxy(deployment: Deployment, release: Release) -> Iterator[list[Proxy]]:
    """Give the proxy the files that a release needs, where a rename is not enough, for a block that activates it.

    Yields the proxy that is reloaded then, if it is.
    """
    site, old = deployment.site, deployment.live
    before = site.current.resolve() if site.current.is_symlink() else None  # serves even where its record is torn
    if before and old and proxies.configured(site) and not proxies.is_ready(site):
        switch.apply(moves.handover_files(site, old.facts, deployment.templates))
    proxy = proxies.serving(site) if before else None
    is_other = before and proxy and _needs_other_files(site, proxy, before, release.path)
    with _reaching(deployment, release) if is_other else contextlib.nullcontext():
        reloads = [proxy] if proxy and _needs_reload(site, proxy, release.path) else []
        for one in reloads:
            one.check()
        yield reloads


@contextlib.contextmanager
def _reaching(deployment: Deployment, release: Release) -> Iterator[None]:
    """Have the proxy reach a release for a block that activates it; where that fails, what it has reached before."""
    site = deployment.site
    files = moves.handover_files(site, release.facts, deployment.templates, through=release.path)
    present = {path: config_files.read(path) for path in files}
    switch.apply(files)
    try:
        yield
    except BaseException:
        if not _is_current(release):
            try:
                switch.apply(present)
            except (DeploymentError, OSError) as error:
                deployment.warn([f"the proxy still leads to {release.name}: {str(error).splitlines()[0]}"])
        raise


def _is_current(release: Release) -> bool:
    """Return whether `current` points to a release."""
    current = release.site.current
    return current.is_symlink() and current.readlink().name == release.name


def _needs_other_files(site: Site, proxy: Proxy, one: Path, other: Path) -> bool:
    """Return whether a proxy has different files for two releases."""
    first, second = instances.kind(one), instances.kind(other)
    if instances.is_kept_connected(one) != instances.is_kept_connected(other):
        return True
    return first != second or (first[0] == "tcp" and proxy.names_addresses(site))


def _needs_reload(site: Site, proxy: Proxy, release: Path) -> bool:
    """Return whether a proxy finds a release through the link, but resolves it only when it is reloaded."""
    if instances.is_kept_connected(release):
        return True
    return instances.kind(release)[0] == "tcp" and not proxy.names_addresses(site)


def _exited(site: Site, release: Release, since: float) -> DeploymentError:
    manager = instances.process_manager(site, release.path)
    return DeploymentError(
        f"the application server of {release.name} exited after its health check had passed",
        log=manager.journal(site, release.path, since),
        hint=manager.where_the_log_is(site, release.path),
    )


@dataclass
class _Watch:
    """A release that has just been activated.

    Attributes:
        pid: its main process when its health check passed.
        probe: the requests for the health page.
        former: the target of `previous` before the switch.
        began: when the watch began (Unix time).
    """

    deployment: Deployment
    release: Release
    pid: int | None
    probe: Probe
    former: Path | None
    began: float

    def failure(self) -> str:
        """Return what is wrong with the release; empty while it may stay."""
        site = self.deployment.site
        if instances.pid(site, self.release.path) != self.pid:
            return "its application server exited after the switch"
        limit, failed = site.config["releases"]["max_errors"], self.probe.failures()
        if failed > (0 if limit == "any" else limit):
            requests = f"{failed} requests for the health page {site.config['health']['path']}"
            return f"{requests} failed after the switch; the last one {self.probe.last_problem()}"
        return ""

    def is_old_better(self) -> bool:
        """Return whether the old release worked better, is still healthy, and the pillar allows to return to it.

        After a migration that it does not work with, it is not better.
        """
        deployment, release, old = self.deployment, self.release, self.deployment.live
        site = deployment.site
        if not old or site.config["releases"]["max_errors"] == "any":
            return False
        if deployment.is_new and migration.breaking_operations(migration.recorded_schema(release)):
            return False
        if instances.pid(site, release.path) == self.pid and not self.probe.is_worse():
            return False
        before = health.as_checked(site, old.record)
        return bool(deployment.paused) or not health.problem_of(before, old.path, time.monotonic() + 5)


def watch(deployment: Deployment, release: Release, leaving: Collection[Path], former: Path | None) -> dict[Path, int]:
    """Watch a release that has just been activated, while the old instances finish their requests.

    It lasts until the last health checks passed and the old instances have no connections left, at least as long as
    ``releases:watch``. The size of the release is measured meanwhile.

    Args:
        leaving: the folders of the releases that get no more requests; their instances still run.
        former: the target of `previous` before the switch.

    Returns:
        The connections still open at each of the old instances after ``releases:drain``.

    Raises:
        DeploymentError: the release fails; the old one is active again then.
    """
    site, began = deployment.site, time.time()
    if not instances.serves(release.path):
        return _leave_to_workers(deployment, release, leaving)
    deadline = time.monotonic() + seconds(site.config["releases"]["watch"])
    probe = deployment.probe or deployment.set_probe(_probe_after_switch(site))
    pid = deployment.findings.healthy_pid or instances.pid(site, release.path)
    watched = _Watch(deployment, release, pid, probe, former, began)
    connections = dict.fromkeys(leaving, 0)
    drained = threading.Thread(target=_drain, args=(deployment, connections), daemon=True)
    drained.start()
    with contextlib.suppress(OSError):  # a full disk
        disk.measure(release)
    failed = ""
    while True:
        failed = failed or watched.failure()
        if failed and watched.is_old_better():
            probe.end()
            _return_to_old(watched, failed)
        is_judged = (failed or probe.is_steady()) and time.monotonic() >= deadline
        if is_judged:  # connections that are still open do not keep tasks waiting
            deployment.let_tasks_go()
        if is_judged and not drained.is_alive():
            break
        time.sleep(_PAUSE)
    drained.join()
    probe.end()
    _report(deployment, release, sum(connections.values()), failed)
    return connections


def _leave_to_workers(deployment: Deployment, release: Release, leaving: Collection[Path]) -> dict[Path, int]:
    """Let the workers of a release without a server take tasks: there is nothing else to watch."""
    deployment.let_tasks_go()
    with contextlib.suppress(OSError):  # a full disk
        disk.measure(release)
    connections = dict.fromkeys(leaving, 0)
    _drain(deployment, connections)
    return connections


def _drain(deployment: Deployment, connections: dict[Path, int]) -> None:
    paused = deployment.paused
    for path in connections:
        if not (paused and paused.path == path):  # whose address may be that of the active one
            connections[path] = instances.drain(deployment.site, path)


def _report(deployment: Deployment, release: Release, cut: int, failed: str) -> None:
    """Make the switch report, and add a warning where requests have failed."""
    report = deployment.report_switch(cut)
    if failed:
        is_asked_for = deployment.site.config["releases"]["max_errors"] == "any"
        why = "releases:max_errors is any" if is_asked_for else "there is no better release to return to"
        deployment.warn([f"{failed}; {release.name} stays live, since {why}"])
    elif report["failed"]:
        deployment.warn([f"{report['failed']} of {report['sent']} requests failed"])


def _probe_after_switch(site: Site) -> Probe:
    """Return a probe that starts after the switch, where nothing answered before."""
    probe = Probe(site, through_proxy=False)
    with probe.switching():
        pass
    return probe.start()


def _return_to_old(watched: _Watch, why: str) -> NoReturn:
    """Activate the old release again, whose instance still runs, and give up the new one."""
    deployment, release = watched.deployment, watched.release
    site, old = deployment.site, deployment.live
    assert old is not None  # noqa: S101 - `is_old_better` has found it
    log.warning("%s: %s; returning to %s", site.name, why, old.name)
    try:
        _activate_old(deployment, release, old, watched.former)
    except (DeploymentError, OSError) as error:
        with contextlib.suppress(OSError):
            file.link(site.current, f"releases/{release.name}")
            file.link(site.previous, f"releases/{old.name}")
        outcome = f"{old.name} cannot be activated again: {str(error).splitlines()[0]}"
    else:
        deployment.set_activated(False)
        outcome = f"{old.name} is live again"
    manager = instances.process_manager(site, release.path)
    journal = manager.journal(site, release.path, watched.began)
    raised = health.raised_in(journal, release.path) or _raised(deployment, release, why)
    message = f"{why}: {raised.exception}" if raised else why
    failure = DeploymentError(f"{message}; {outcome}", log=journal, hint=manager.where_the_log_is(site, release.path))
    if deployment.left and not deployment.is_activated:
        deployment.left.record.pop("held_since", None)
        deployment.left.update(state="good")
        if not deployment.holds_left:
            release.update(state="held", held_since=clock.now())
    if deployment.probe:
        is_served = deployment.is_activated or instances.share_port(site, release.path, old.path)
        cut = 0 if is_served else instances.drain(site, release.path)
        release.update(receipt=deployment.report_switch(cut))
    raise failure


def _raised(deployment: Deployment, release: Release, why: str) -> Raised | None:
    """Return what the health page of a release raises, where its log does not have it; None without a 500."""
    site = deployment.site
    if "returned 500" not in why:
        return None
    page = health.page_path(site)
    return project_page.raised(site, release.path, release.facts, page, deployment.secrets.masked())


def _activate_old(deployment: Deployment, release: Release, old: Release, former: Path | None) -> None:
    site = deployment.site
    if deployment.paused:
        _start_paused(old, release)
    with switch.alone():
        proxy = proxies.serving(site)
        needs_other_files = proxy is not None and _needs_other_files(site, proxy, release.path, old.path)
        reloads = [proxy] if proxy and not needs_other_files and _needs_reload(site, proxy, old.path) else []
        with switch.noted(reloads, restores=False):
            with _reaching(deployment, old) if needs_other_files else contextlib.nullcontext():
                if former:
                    file.link(site.previous, str(former))
                else:
                    site.previous.unlink(missing_ok=True)
                deployment.hold_tasks(release, old)
                file.link(site.current, f"releases/{old.name}")
            deployment.let_tasks_go()
            for one in reloads:
                daemons.reload(one.DAEMON)
        if needs_other_files:
            switch.apply(moves.handover_files(site, old.facts, deployment.templates))


def _start_paused(old: Release, release: Release) -> None:
    """Start the release again that was stopped before another one, which may listen on the same port."""
    site, is_in_the_way = old.site, instances.share_port(old.site, old.path, release.path)
    if is_in_the_way:
        instances.stop(site, release.path)
    try:
        instances.start(site, old.path)
    except BaseException:
        if is_in_the_way:
            with contextlib.suppress(DeploymentError):
                instances.start(site, release.path)
        raise


def stop(deployment: Deployment, connections: Mapping[Path, int]) -> None:
    """Stop instances that get no more requests.

    Args:
        connections: the connections still open at each, by the folder of its release; they are cut.
    """
    site, drain = deployment.site, deployment.site.config["releases"]["drain"]
    for path, open_connections in connections.items():
        if open_connections:
            instances.cut(site, path)
        else:
            instances.stop(site, path, wait=False)
    if any(connections.values()):
        cut = sum(connections.values())
        deployment.warn([f"{cut} connections were still open after {drain}, and were cut"])
