"""Maintenance: nginx answers 503 with a page in the place of a site, from one rename of a link to the next."""

import datetime
import html
import logging
import os
import re
import tempfile
import time
from email.utils import formatdate
from pathlib import Path
from typing import Any

import django_host_clock
import django_host_command
import django_host_file
import django_proxy
import django_proxy_page
import django_release_settings
from django_host_command import DeploymentError
from django_site import Site

log = logging.getLogger(__name__)

PAGE = "salt://django/files/maintenance.html"
#: What the page of a project may say where the message is to stand.
PLACE = "{{ message }}"
#: What visitors are told of the end when the message does not say it: to ask again after so many seconds.
RETRY_AFTER = 300

_MOMENT = re.compile(r"(?:(\d{4}-\d\d-\d\d)[T ])?(?<![\d:])([01]?\d|2[0-3]):([0-5]\d)(?![\d:])(?: ?(UTC|Z)\b)?")
_DURATION = re.compile(r"\b\d{1,6}[smhd]\b")


def on(site: Site, message: str = "", *, by: str) -> None:
    """Have visitors get 503 with a page, but for static files, uploads and who is in ``maintenance:allow``.

    It takes no lock and reloads nothing, and lasts until `off`, through releases and reboots. Where it is on already,
    message and page are replaced.

    Args:
        message: what the page says; a time (``14:00``, ``2026-03-01 06:00 UTC``) or a duration (``30m``) in it becomes
            Retry-After.
        by: who asks for it.

    Raises:
        DeploymentError: no proxy of the formula serves the site, or its files are older than this.
    """
    proxy = django_proxy.serving(site)
    if not django_proxy.of_site(site):
        raise DeploymentError(
            f"{site.name} has no proxy of the formula to show a page: django:sites:{site.name}:proxy:kind is none",
            hint="have your own proxy answer 503 for that time",
        )
    if not proxy or f"{site.maintenance}/on" not in (django_host_file.read_text(proxy.locations(site)) or ""):
        raise DeploymentError(
            f"no proxy of the formula serves {site.name} yet, or by files that know nothing of maintenance",
            hint="salt-call state.apply django",
        )
    end = until(message, time.time())
    page, origin = _page(site, message)
    site.maintenance.mkdir(mode=0o755, exist_ok=True)
    site.maintenance.chmod(0o755)
    before = _target(site)
    parent = Path(tempfile.mkdtemp(dir=site.maintenance, prefix=""))
    parent.chmod(0o755)
    folder = parent / (formatdate(end, usegmt=True) if end else str(RETRY_AFTER))
    folder.mkdir(mode=0o755)
    folder.chmod(0o755)
    about = {"since": django_host_clock.now(), "by": by, "message": message, "page": origin}
    about |= {"until": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(end))} if end else {}
    django_host_file.write(folder / "index.html", page)
    django_host_file.write(folder / "retry-after", folder.name)  # as Apache wants it
    django_host_file.write_json(folder / "about.json", about, mode=0o600)
    django_host_file.sync_folder(parent)
    django_host_file.link(site.maintenance / "on", str(folder.relative_to(site.maintenance)))
    for path in site.maintenance.iterdir():
        if path.name not in ("on", parent.name, before.partition("/")[0]):
            django_host_file.remove_tree(path)
    log.info("%s: maintenance is on: %s", site.name, message or "no message")


def off(site: Site) -> None:
    """Let visitors see the site again; nothing happens where they do."""
    try:
        (site.maintenance / "on").unlink()
    except FileNotFoundError:
        return
    django_host_file.sync_folder(site.maintenance)
    log.info("%s: maintenance is off", site.name)


def is_on(site: Site) -> dict[str, Any] | None:
    """Since when there is maintenance, by whom, with what message and page, and until when if that was said.

    Returns:
        ``since``, ``by``, ``message``, ``page`` (``own``, or the path of the project's) and ``until``; None when
        visitors see the site.
    """
    if not (site.maintenance / "on/index.html").is_file():
        return None
    nothing = dict.fromkeys(("since", "by", "message", "page"), "")
    return {**nothing, **(django_host_file.read_json(site.maintenance / "on/about.json") or {})}


def told(site: Site) -> str:
    """Maintenance in a line, as ``since 2026-03-01T12:00:00Z: back at 14:00``; empty when there is none."""
    about = is_on(site)
    since = f"since {about['since']}" if about and about["since"] else "on"
    return ": ".join(filter(None, [since, about["message"]])) if about else ""


def until(message: str, now: float) -> float | None:
    """When maintenance ends as its message says it (seconds since 1970); None where it does not.

    A time without a date is the next one, by the clock of this host; a time with a date may also be past.
    """
    moment = _MOMENT.search(message)
    if moment:
        date, hour, minute, utc = moment.groups()
        zone = datetime.UTC if utc else None
        here = datetime.datetime.fromtimestamp(now, zone)
        try:
            day = datetime.date.fromisoformat(date) if date else here.date()
        except ValueError:
            return None
        said = datetime.datetime.combine(day, datetime.time(int(hour), int(minute)), zone)
        if not date and said <= here:
            said += datetime.timedelta(days=1)
        return said.timestamp()
    duration = _DURATION.search(message)
    return now + django_host_command.seconds(duration[0]) if duration else None


def refuse_missing_page(site: Site, release: Path, folder: str) -> None:
    """See that a release has the page that the pillar names.

    Args:
        folder: that of manage.py in its source.

    Raises:
        DeploymentError: it has not, or nobody but the project decides what is in it.
    """
    if site.config["maintenance"]["page"]:
        _of_project(site, release, folder)


def _page(site: Site, message: str) -> tuple[str, str]:
    """The page, and where it comes from. Where the project's cannot be had, the formula's own takes its place."""
    safe = html.escape(message)
    if site.config["maintenance"]["page"]:
        facts = (django_host_file.read_json(site.current / "release.json") or {}).get("facts", {})
        try:
            page = _of_project(site, site.current.resolve(), facts.get("folder", "."))
            return page.replace(PLACE, safe), site.config["maintenance"]["page"]
        except (DeploymentError, OSError) as error:
            log.warning("%s: %s; the formula's own page is taken", site.name, error)
    return django_release_settings.render(site.kept_templates(), PAGE, message=safe), "own"


def _of_project(site: Site, release: Path, folder: str) -> str:
    at = f"django:sites:{site.name}:maintenance:page"
    return django_proxy_page.of_project(release, folder, site.config["maintenance"]["page"], at)


def _target(site: Site) -> str:
    try:
        return os.readlink(site.maintenance / "on")
    except OSError:
        return ""
