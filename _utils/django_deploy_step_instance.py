"""The step `instance`: the new release's own application server, before it gets any request of a visitor."""

import contextlib
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor

import django_deploy_commands
import django_deploy_drift
import django_deploy_preflight
import django_host_file
import django_host_mount
import django_host_template
import django_process
import django_project_page
import django_proxy
import django_release_disk
import django_release_health
import django_release_instance
import django_release_page
import django_release_static
import django_server
import django_site
import django_site_media
import django_site_mount
import django_virtualenv
import django_worker
from django_deploy import Changes, Deployment
from django_deploy_switch_report import Probe
from django_host_command import DeploymentError
from django_release import Release
from django_site import Site
from django_wall_text import Log

log = Log.of(__name__)

#: Seconds that a page may take whose links are looked at.
_PATIENCE = 10.0


def instance(deployment: Deployment) -> Iterator[Changes]:
    """Start the release's own server on its own socket, and its workers; wait until its health check passes."""
    site, release = deployment.site, deployment.release
    if not release or (not deployment.is_new and django_release_instance.is_kept_alive(site, release.path)):
        return
    commands = django_deploy_commands.changes(deployment, "before_switch")
    yield {"instance": f"{', '.join(_units(deployment, release))} started", **commands}
    deployment.take_lock()
    django_site_media.refuse_unmounted(site)
    live = deployment.live if deployment.live and deployment.live.name != release.name else None
    if live and site.config["releases"]["overlap"]:
        django_deploy_preflight.refuse_without_memory(site, live)
    elif live:
        deployment.pause(live)
    log.info("%s: starting %s", site.name, release.name)
    if deployment.is_new:
        _configure(deployment, release)
    if site.binds_socket(release.path):
        _follow_no_link(deployment, release)
    with django_site_mount.taken_away(site):
        _start(deployment, release)
    django_deploy_commands.run(deployment, "before_switch")


def _start(deployment: Deployment, release: Release) -> None:
    """Start the release's server and workers, and check its health.

    Raises:
        DeploymentError: it does not start, or its health check fails.
    """
    site, began = deployment.site, time.time()
    with ThreadPoolExecutor(1) as pool:  # this process is idle while the server starts
        finished = pool.submit(_finish_files, deployment, release)
        django_release_instance.start(site, release.path)
        finished.result()
    if django_release_instance.serves(release.path):
        _check_health(deployment, release)
        if deployment.is_new:
            _warn_of_missing_files(deployment, release, began)
        if release.record.get("page") != django_release_health.page(site):
            release.update(page=django_release_health.page(site))


def take_up(deployment: Deployment) -> None:
    """Go on with the instance that another process of this deployment has started.

    Raises:
        DeploymentError: it does not run any more, or its health check fails.
    """
    site, release = deployment.site, deployment.release
    assert release is not None  # noqa: S101 - the caller has it from disk
    django_release_instance.start(site, release.path)
    if django_release_instance.serves(release.path):
        _check_health(deployment, release)


def _check_health(deployment: Deployment, release: Release) -> None:
    """Wait until the health check of a server that runs passes, and begin with the requests of the switch.

    Raises:
        DeploymentError: it fails.
    """
    site, live = deployment.site, deployment.live
    is_other = live and live.name != release.name and django_release_instance.serves(live.path)
    if live and is_other and not deployment.paused:
        deployment.set_probe(_probe(site, live)).start()
    explain = django_project_page.explain(site, release.path, release.facts, deployment.secrets.masked())
    django_release_health.check(site, release.path, explain)
    deployment.set_healthy(django_release_instance.pid(site, release.path))


def _warn_of_missing_files(deployment: Deployment, release: Release, began: float) -> None:
    """Warn of stylesheets and scripts that the health page or the home page uses and the release does not have.

    Args:
        began: when the instance was started.
    """
    site = deployment.site
    body = django_release_health.body(site, release.path, time.monotonic() + _PATIENCE)
    found = django_release_page.warnings(site, release.path, release.facts, body)
    deployment.warn(found or _of_home(site, release))
    if django_release_page.INLINES & django_virtualenv.packages(release.path / "virtualenv").keys():
        log = django_release_instance.process_manager(site, release.path).journal(site, release.path, began)
        deployment.warn(django_release_page.logged(site, log))


def _of_home(site: Site, release: Release) -> list[str]:
    """Return a warning where the page at the site's path lacks files or returns 500, if it is not the health page."""
    status, body = django_release_health.home(site, release.path, time.monotonic() + _PATIENCE)
    path = f"{site.config['path'].rstrip('/')}/"
    if status == 500:
        return [
            f"GET {path} on release {release.name} returned 500, and the health check requests another page: the "
            f"exception is in salt-call django.logs {site.name}, if the project logs it"
        ]
    return django_release_page.warnings(site, release.path, release.facts, body, f"the page {path}")


def _units(deployment: Deployment, release: Release) -> list[str]:
    """Return the units that are started; those of a new release are not written yet."""
    site = deployment.site
    if not deployment.is_new:
        return django_release_instance.units(site, release.path)
    server = [""] if django_server.of_site(site).SERVES else []
    return [django_process.unit(site, release.path, part) for part in (*server, *django_worker.of_site(site))]


def _probe(site: Site, live: Release) -> Probe:
    """Return the requests of the switch: through the proxy, where its files serve both releases."""
    before = django_release_health.as_checked(site, live.record)
    moves = before.config["domains"][0] != site.config["domains"][0] or before.config["path"] != site.config["path"]
    through_proxy = django_proxy.is_installed(site) and django_proxy.of_site(site) is not None
    through_proxy &= not site.config["proxy"].get("upstreams") and not moves
    return Probe(site, through_proxy=through_proxy, before=before)


def _follow_no_link(deployment: Deployment, release: Release) -> None:
    """Have the proxy follow no link that the site puts where its server's socket was."""
    site = deployment.site
    is_of_older_formula = django_release_instance.address(site, release.path).startswith(f"{site.runtime}/")
    folder = django_site.RUNTIME if is_of_older_formula else site.run
    problem = django_host_mount.follow_no_link(folder)
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
    contents = django_release_instance.configuration(site, release.path, release.facts, templates)
    for name, content in contents.items():
        django_host_file.write(release.path / "config" / name, content, mode=0o640, group=site.user, durable=False)
    address = django_release_instance.address(site, release.path)
    target = address if address.startswith("/") else "/dev/null"
    django_host_file.link(release.path / "socket", target, durable=False)


def _finish_files(deployment: Deployment, release: Release) -> None:
    """Finish the files of a new release that its server does not read, and prepare the next step."""
    if deployment.is_new:
        before = deployment.live.path / "static" if deployment.live else None
        static = deployment.site.config["static"]
        if "gzip" in static["compress"] and not static.get("push"):  # what is pushed is compressed before
            django_release_static.compress(release.path / "static", before)
        django_deploy_drift.note(release)
        with contextlib.suppress(DeploymentError):  # the switch does it again, and fails where it fails
            django_release_disk.sync(release)
    proxy = django_proxy.of_site(deployment.site)
    django_host_template.compile_templates(deployment.templates, proxy.templates if proxy else ())
