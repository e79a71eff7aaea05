"""The switch: a release becomes the one that is served, in the place of the live one or of an old site."""

import contextlib
import logging
import threading
import time
from collections.abc import Collection, Mapping
from pathlib import Path
from typing import NoReturn

import django_database_migration
import django_host_clock
import django_host_file
import django_proxy
import django_proxy_files
import django_proxy_handover
import django_proxy_switch
import django_release_instance
import django_release_switch_report
from django_host_command import DeploymentError, seconds
from django_proxy_contract import Proxy
from django_release import Release
from django_release_deployment import Deployment
from django_site import Site
from django_takeover import Takeover

log = logging.getLogger(__name__)

#: Seconds between two looks at how a release does.
_PAUSE = 0.01


def take_over(deployment: Deployment, release: Release, takeover: Takeover, *, flips: bool) -> None:
    """The first release goes live in the place of an old site, which is stopped then; or it stays as it was."""
    site = deployment.site
    log.info("%s: %s takes over", site.name, release.name)
    if flips:
        takeover.write(phase="switching")
        flip(deployment, release)
    try:
        takeover.switch(django_proxy_files.of_site(site, release.facts, deployment.templates), deployment.templates)
    except BaseException as error:
        if flips:
            site.current.unlink()
            deployment.went_live = False
            takeover.write(phase="waiting")
        if isinstance(error, DeploymentError):
            error.transient = True
        raise
    deployment.warnings += takeover.end()
    deployment.takeover = None


def flip(deployment: Deployment, release: Release) -> None:
    """Make a release `current`: by the rename alone where the proxy finds it through the link, else with a reload too.

    Raises:
        DeploymentError: its instance has ended since it was found well, or the proxy refuses its configuration.
    """
    site, old = deployment.site, deployment.live
    if deployment.steady and django_release_instance.pid(site, release.path) != deployment.steady:
        raise _ended(site, release, deployment.began)
    log.info("%s: %s goes live", site.name, release.name)
    if deployment.is_new:
        django_host_file.sync(release.path)
    with django_proxy_switch.alone():
        before = site.current.resolve() if site.current.is_symlink() else None  # serves, even where its record is torn
        if before and old and django_proxy.of_site(site) and not django_proxy.is_ready(site):
            django_proxy_switch.apply(django_proxy_handover.files(site, old.facts, deployment.templates))
        proxy = django_proxy.serving(site) if before else None
        if before and proxy and _is_reached_otherwise(site, proxy, before, release.path):
            django_proxy_switch.apply(
                django_proxy_files.of_site(site, release.facts, deployment.templates, through=release.path)
            )
        reloads = proxy is not None and _reads_by_reload(site, proxy, release.path)
        if reloads:
            django_proxy.check(site)
        release.update(state="good", live_since=django_host_clock.now())
        if old:
            django_host_file.link(site.previous, f"releases/{old.name}")
        with deployment.probe.switching() if deployment.probe else contextlib.nullcontext():
            django_host_file.link(site.current, f"releases/{release.name}")
            deployment.went_live = True
            if reloads:
                django_proxy.reload(site)
    if deployment.left:
        deployment.left.update(state="held", held_since=django_host_clock.now())
    if deployment.paused:
        gap = time.monotonic() - deployment.paused_at
        deployment.warnings.append(f"nothing has answered for {gap:.1f} s, as releases:overlap says")


def _is_reached_otherwise(site: Site, proxy: Proxy, one: Path, other: Path) -> bool:
    """Whether a proxy has other files for one release than for another."""
    first, second = django_release_instance.kind(one), django_release_instance.kind(other)
    if django_release_instance.is_kept_connected(one) != django_release_instance.is_kept_connected(other):
        return True
    return first != second or (first[0] == "tcp" and proxy.names_addresses(site))


def _reads_by_reload(site: Site, proxy: Proxy, release: Path) -> bool:
    """Whether a proxy finds a release by the link, but looks there only when it is reloaded."""
    if django_release_instance.is_kept_connected(release):
        return True
    return django_release_instance.kind(release)[0] == "tcp" and not proxy.names_addresses(site)


def _ended(site: Site, release: Release, since: float) -> DeploymentError:
    keeper = django_release_instance.process_manager(site, release.path)
    return DeploymentError(
        f"the application server of {release.name} does not stay up: it has ended since its health page was well",
        log=keeper.journal(site, release.path, since),
        hint=keeper.where_the_log_is(site, release.path),
    )


def watch(deployment: Deployment, release: Release, leaving: Collection[Path], former: Path | None) -> dict[Path, int]:
    """See that a release that has just gone live does well, while the instances before it end their requests.

    It lasts until the last probes were good and nobody is connected to the old ones any more, at least as long as
    ``releases:watch``; meanwhile the size of the release is measured.

    Args:
        leaving: the folders of the releases that no request is led to any more; their instances run on.
        former: what `previous` named before.

    Returns:
        The connections that are left at each of the old instances when their time is up.

    Raises:
        DeploymentError: it does not do well; then the release before it is live again.
    """
    site, old = deployment.site, deployment.live
    began, deadline = time.time(), time.monotonic() + seconds(site.config["releases"]["watch"])
    probe = deployment.probe or _probe_of_what_is_live(site)
    deployment.probe = probe
    pid = deployment.steady or django_release_instance.pid(site, release.path)
    cut = dict.fromkeys(leaving, 0)

    def drain() -> None:
        for path in leaving:
            cut[path] = django_release_instance.drain(site, path)

    drained = threading.Thread(target=drain, daemon=True)
    drained.start()
    with contextlib.suppress(OSError):  # a full disk
        release.measure()
    failed = ""
    while True:
        failed = failed or _failed(deployment, release, pid, probe)
        if failed and old and _is_better(deployment, old, release, pid, probe):
            probe.end()
            _go_back(deployment, release, old, former, failed, began)
        if not drained.is_alive() and (failed or probe.is_steady()) and time.monotonic() >= deadline:
            break
        time.sleep(_PAUSE)
    drained.join()
    probe.end()
    receipt = deployment.receipt = probe.receipt(sum(cut.values()))
    if failed:
        asked_for = site.config["releases"]["max_errors"] == "any"
        why = "releases:max_errors is any" if asked_for else "there is nothing better to go back to"
        deployment.warnings.append(f"{failed}; {release.name} stays live, for {why}")
    elif receipt["failed"]:
        deployment.warnings.append(f"{receipt['failed']} of {receipt['sent']} requests failed")
    return cut


def _probe_of_what_is_live(site: Site) -> django_release_switch_report.Probe:
    """A probe where nothing has answered before the switch."""
    probe = django_release_switch_report.Probe(site, through_proxy=False)
    with probe.switching():
        pass
    return probe.start()


def _failed(
    deployment: Deployment, release: Release, pid: int | None, probe: django_release_switch_report.Probe
) -> str:
    """What is wrong with the release that has just gone live; empty while it may stay."""
    if django_release_instance.pid(deployment.site, release.path) != pid:
        return "its application server has ended after the switch"
    limit = deployment.site.config["releases"]["max_errors"]
    if probe.failures() > (0 if limit == "any" else limit):
        path, problem = deployment.site.config["health"]["path"], probe.last_problem()
        return f"{probe.failures()} requests for the health page {path} failed after the switch: {problem}"
    return ""


def _is_better(
    deployment: Deployment, old: Release, release: Release, pid: int | None, probe: django_release_switch_report.Probe
) -> bool:
    """Whether the pillar lets a release that has failed go, and the one before it has done better and is still well.

    After a migration that it cannot live with, it is not.
    """
    site = deployment.site
    if site.config["releases"]["max_errors"] == "any":
        return False
    if deployment.is_new and django_database_migration.breaking_operations(
        django_database_migration.recorded_schema(release)
    ):
        return False
    if django_release_instance.pid(site, release.path) == pid and not probe.is_worse():
        return False
    return bool(deployment.paused) or not django_release_instance.problem_of(site, old.path, time.monotonic() + 5)


def _go_back(
    deployment: Deployment, release: Release, old: Release, former: Path | None, why: str, since: float
) -> NoReturn:
    """Make the release before live again, whose instance still runs, and give up the new one."""
    site = deployment.site
    log.warning("%s: %s; back to %s", site.name, why, old.name)
    try:
        _flip_back(deployment, release, old, former)
    except (DeploymentError, OSError) as error:
        with contextlib.suppress(OSError):
            django_host_file.link(site.current, f"releases/{release.name}")
            django_host_file.link(site.previous, f"releases/{old.name}")
        outcome = f"{old.name} cannot be made live again: {str(error).splitlines()[0]}"
    else:
        deployment.went_live = False
        outcome = f"{old.name} is live again"
    keeper = django_release_instance.process_manager(site, release.path)
    journal = keeper.journal(site, release.path, since)
    raised = django_release_instance.raised_in(journal, release.path)
    told = f"{why}: {raised}" if raised else why
    failure = DeploymentError(f"{told}; {outcome}", log=journal, hint=keeper.where_the_log_is(site, release.path))
    if deployment.left and not deployment.went_live:
        deployment.left.record.pop("held_since", None)
        deployment.left.update(state="good")
    if deployment.probe:
        left = 0 if deployment.went_live else django_release_instance.drain(site, release.path)
        deployment.receipt = deployment.probe.receipt(left)
        release.update(receipt=deployment.receipt)
    raise failure


def _flip_back(deployment: Deployment, release: Release, old: Release, former: Path | None) -> None:
    site = deployment.site
    if deployment.paused:
        django_release_instance.start(site, old.path)
    with django_proxy_switch.alone():
        proxy = django_proxy.serving(site)
        is_other = proxy is not None and _is_reached_otherwise(site, proxy, release.path, old.path)
        if is_other:
            django_proxy_switch.apply(
                django_proxy_files.of_site(site, old.facts, deployment.templates, through=old.path)
            )
        if former:
            django_host_file.link(site.previous, str(former))
        else:
            site.previous.unlink(missing_ok=True)
        django_host_file.link(site.current, f"releases/{old.name}")
        if is_other:
            django_proxy_switch.apply(django_proxy_files.of_site(site, old.facts, deployment.templates))
        elif proxy and _reads_by_reload(site, proxy, old.path):
            django_proxy.reload(site)


def end(deployment: Deployment, leaving: Mapping[Path, int]) -> None:
    """Stop instances for good that no request is led to any more.

    Args:
        leaving: the folders of their releases, and how many connections are still open at each.
    """
    site, patience = deployment.site, deployment.site.config["releases"]["drain"]
    for path, connections in leaving.items():
        if connections:
            django_release_instance.cut(site, path)
        else:
            django_release_instance.stop(site, path, wait=False)
    if any(leaving.values()):
        deployment.warnings.append(
            f"{sum(leaving.values())} connections were still open after {patience}, and were cut"
        )
