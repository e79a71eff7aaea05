"""The step `instance`: the new release's own application server, before it gets any request of a visitor."""

import contextlib
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor

from django_formula.deploy import commands as deploy_commands
from django_formula.deploy import drift, preflight, replay
from django_formula.deploy.deployment import Changes, Deployment
from django_formula.deploy.switch_report import Probe
from django_formula.host import file, mounts, template
from django_formula.host.commands import DeploymentError
from django_formula.process import contract
from django_formula.project import page as project_page
from django_formula.proxy import proxies
from django_formula.release import disk, health, instances
from django_formula.release import static as release_static
from django_formula.release.releases import Release
from django_formula.server import servers
from django_formula.site import mount, sites
from django_formula.site.sites import Site
from django_formula.untrusted.text import Log
from django_formula.virtualenv import virtualenvs
from django_formula.worker import workers

log = Log.of(__name__)

#: Seconds that a page may take whose links are looked at.
_PATIENCE = 10.0


def instance(deployment: Deployment) -> Iterator[Changes]:
    """Start the release's own server on its own socket, and its workers; wait for its health check and replay."""
    site, release = deployment.site, deployment.release
    if not release or (not deployment.is_new and instances.is_kept_alive(site, release.path)):
        return
    commands = deploy_commands.changes(deployment, "before_switch")
    changes: Changes = {"instance": f"{', '.join(_units(deployment, release))} started", **commands}
    yield changes
    deployment.take_lock()
    sites.refuse_unmounted_media(site)
    live = deployment.live if deployment.live and deployment.live.name != release.name else None
    if live and (why := _why_alone(site, live, release)):
        deployment.pause(live, why)
    elif live:
        preflight.refuse_without_memory(site, live)
    log.info("%s: starting %s", site.name, release.name)
    if deployment.is_new:
        _configure(deployment, release)
    if site.binds_socket(release.path):
        _follow_no_link(deployment, release)
    with mount.taken_away(site):
        _start(deployment, release)
    deploy_commands.run_stage(deployment, "before_switch")
    if deployment.is_new and instances.serves(release.path) and (proof := replay.prove(deployment, release)):
        changes["replay"] = proof


def _why_alone(site: Site, live: Release, release: Release) -> str:
    """Return why a release cannot run next to the active one; empty where it can."""
    if not site.config["releases"]["overlap"]:
        return "releases:overlap is false"
    return "both releases listen on the same port" if instances.share_port(site, live.path, release.path) else ""


def _start(deployment: Deployment, release: Release) -> None:
    """Start the release's server and workers, and check its health.

    Raises:
        DeploymentError: it does not start, or its health check fails.
    """
    site, began = deployment.site, time.time()
    with ThreadPoolExecutor(1) as pool:  # this process is idle while the server starts
        finished = pool.submit(_finish_files, deployment, release)
        instances.start(site, release.path)
        finished.result()
    if instances.serves(release.path):
        _check_health(deployment, release)
        if deployment.is_new:
            _warn_of_missing_files(deployment, release, began)
        if release.record.get("page") != health.page(site):
            release.update(page=health.page(site))


def take_up(deployment: Deployment) -> None:
    """Go on with the instance that another process of this deployment has started.

    Raises:
        DeploymentError: it does not run any more, or its health check fails.
    """
    site, release = deployment.site, deployment.release
    assert release is not None  # noqa: S101 - the caller has it from disk
    instances.start(site, release.path)
    if instances.serves(release.path):
        _check_health(deployment, release)


def _check_health(deployment: Deployment, release: Release) -> None:
    """Wait until the health check of a server that runs passes, and begin with the requests of the switch.

    Raises:
        DeploymentError: it fails.
    """
    site, live = deployment.site, deployment.live
    is_other = live and live.name != release.name and instances.serves(live.path)
    if live and is_other and not deployment.paused:
        deployment.set_probe(_probe(site, live)).start()
    explain = project_page.explain(site, release.path, release.facts, deployment.secrets.masked())
    health.check(site, release.path, explain)
    deployment.set_healthy(instances.pid(site, release.path))


def _warn_of_missing_files(deployment: Deployment, release: Release, began: float) -> None:
    """Warn of stylesheets and scripts that the health page or the home page uses and the release does not have.

    Args:
        began: when the instance was started.
    """
    site = deployment.site
    body = health.body(site, release.path, time.monotonic() + _PATIENCE)
    found = release_static.page_warnings(site, release.path, release.facts, body)
    deployment.warn(found or _of_home(site, release))
    if release_static.INLINES & virtualenvs.packages(release.path / "virtualenv").keys():
        log = instances.process_manager(site, release.path).journal(site, release.path, began)
        deployment.warn(release_static.logged_warnings(site, log))


def _of_home(site: Site, release: Release) -> list[str]:
    """Return a warning where the page at the site's path lacks files or returns 500, if it is not the health page."""
    status, body = health.home(site, release.path, time.monotonic() + _PATIENCE)
    path = f"{site.config['path'].rstrip('/')}/"
    if status == 500:
        return [
            f"GET {path} on release {release.name} returned 500, and the health check requests another page: the "
            f"exception is in salt-call django.logs {site.name}, if the project logs it"
        ]
    return release_static.page_warnings(site, release.path, release.facts, body, f"the page {path}")


def _units(deployment: Deployment, release: Release) -> list[str]:
    """Return the units that are started; those of a new release are not written yet."""
    site = deployment.site
    if not deployment.is_new:
        return instances.units(site, release.path)
    server = [""] if servers.configured(site).SERVES else []
    return [contract.unit(site, release.path, part) for part in (*server, *workers.configured(site))]


def _probe(site: Site, live: Release) -> Probe:
    """Return the requests of the switch: through the proxy, where its files serve both releases."""
    before = health.as_checked(site, live.record)
    moves = before.config["domains"][0] != site.config["domains"][0] or before.config["path"] != site.config["path"]
    through_proxy = proxies.is_installed(site) and proxies.configured(site) is not None
    through_proxy &= not site.config["proxy"].get("upstreams") and not moves
    return Probe(site, through_proxy=through_proxy, before=before)


def _follow_no_link(deployment: Deployment, release: Release) -> None:
    """Have the proxy follow no link that the site puts where its server's socket was."""
    site = deployment.site
    is_of_older_formula = instances.address(site, release.path).startswith(f"{site.runtime}/")
    folder = sites.RUNTIME if is_of_older_formula else site.run
    problem = mounts.follow_no_link(folder)
    if problem:
        deployment.warn(
            [
                f"{site.name} could replace the socket of its server by a link to that of another site: "
                f"{folder} cannot be mounted with nosymfollow: {problem}"
            ]
        )


def _configure(deployment: Deployment, release: Release) -> None:
    """Write the configuration of a new release's server, and the link to its socket."""
    site, templates = deployment.site, deployment.templates
    contents = instances.configuration(site, release.path, release.facts, templates)
    for name, content in contents.items():
        file.write(release.path / "config" / name, content, mode=0o640, group=site.user, durable=False)
    address = instances.address(site, release.path)
    target = address if address.startswith("/") else "/dev/null"
    file.link(release.path / "socket", target, durable=False)


def _finish_files(deployment: Deployment, release: Release) -> None:
    """Finish the files of a new release that its server does not read, and prepare the next step."""
    if deployment.is_new:
        before = deployment.live.path / "static" if deployment.live else None
        static = deployment.site.config["static"]
        if "gzip" in static["compress"] and not static.get("push"):  # what is pushed is compressed before
            release_static.compress(release.path / "static", before)
        drift.note(release)
        with contextlib.suppress(DeploymentError):  # the switch does it again, and fails where it fails
            disk.sync(release)
    proxy = proxies.configured(deployment.site)
    template.compile_templates(deployment.templates, proxy.templates if proxy else ())
