"""Maintenance: the proxy responds with 503 and a page instead of the site, switched by the rename of a link."""

import contextlib
import datetime
import html
import os
import re
import tempfile
import time
from email.utils import formatdate
from pathlib import Path

from django_formula.host import clock, commands, file, template
from django_formula.host.commands import DeploymentError
from django_formula.kind import kinds
from django_formula.proxy import page as proxy_page
from django_formula.proxy import proxies
from django_formula.site import sites
from django_formula.site.sites import Site
from django_formula.untrusted.text import Log

log = Log.of(__name__)

PAGE = "salt://django/files/maintenance.html"
#: The placeholder for the message in a page of the project.
PLACE = "{{ message }}"
#: Retry-After, in seconds, where the message has no time.
RETRY_AFTER = 300

_MOMENT = re.compile(
    r"(?:(\d{4}-\d\d-\d\d)[T ])?(?<![\d:])([01]?\d|2[0-3]):([0-5]\d)(?![\d:])"
    r"(?: ?([AaPp])\.?[Mm]\b\.?)?(?: ?(UTC|Z)\b)?"
)
_DURATION = re.compile(r"\b\d{1,6}[smhd]\b")


def on(site: Site, message: str = "", *, by: str, is_coming: bool = False) -> None:
    """Respond with 503 and a page, except for static files, uploads and clients in ``maintenance:allow``.

    It takes no lock and reloads nothing, and lasts until `off`, through releases and reboots. Where it is on already,
    message and page are replaced. A host that serves nothing has its workers take no tasks instead.

    Args:
        site: the site.
        message: text of the page; a time (``14:00``, ``2026-03-01 06:00 UTC``) or a duration (``30m``) in it becomes
            Retry-After.
        by: the user or program that switches it on.
        is_coming: whether the first apply of the site is under way, which writes the proxy's files later.

    Raises:
        DeploymentError: no proxy of the formula serves the site, or its files do not support maintenance.
    """
    serves = site.config["server"]["kind"] != kinds.NO_SERVER
    if serves and not is_coming:
        _refuse_unsupported(site)
    end, holds = until(message, time.time()), holds_workers(site) or not serves
    site.maintenance.mkdir(mode=0o755, exist_ok=True)
    site.maintenance.chmod(0o755)
    before = _target(site)
    folder = _write_page(site, message, end, by)
    if holds:
        file.write(folder / "hold", "")
    file.link(site.maintenance / "on", str(folder.relative_to(site.maintenance)))
    for path in site.maintenance.iterdir():
        if path.name not in ("on", folder.parent.name, before.partition("/")[0]):
            file.remove_tree(path)
    log.info("%s: maintenance is on: %s", site.name, message or "no message")


def _refuse_unsupported(site: Site) -> None:
    """Refuse maintenance where no proxy of the formula would show its page."""
    proxy = proxies.serving(site)
    if not proxies.configured(site):
        raise DeploymentError(
            f"{site.name} has no proxy of the formula: {site.at}:proxy:kind is none",
            hint="have your own proxy respond with 503",
        )
    if not proxy or f"{site.maintenance}/on" not in (file.read_text(proxy.locations(site)) or ""):
        raise DeploymentError(
            f"no proxy of the formula serves {site.name} yet, or its files do not support maintenance",
            hint="run salt-call state.apply django",
        )


def _write_page(site: Site, message: str, end: float | None, by: str) -> Path:
    """Write a new folder with the page, and return it; its name is the value of Retry-After."""
    page, origin = _page(site, message)
    parent = Path(tempfile.mkdtemp(dir=site.maintenance, prefix=""))
    parent.chmod(0o755)
    folder = parent / (formatdate(end, usegmt=True) if end else str(RETRY_AFTER))
    folder.mkdir(mode=0o755)
    folder.chmod(0o755)
    about = {"since": clock.now(), "by": by, "message": message, "page": origin}
    about |= {"until": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(end))} if end else {}
    file.write(folder / "index.html", page)
    file.write(folder / "retry-after", folder.name)  # Apache reads it from a file
    file.write_json(folder / "about.json", about, mode=0o600)
    file.sync_folder(parent)
    return folder


def off(site: Site) -> None:
    """End maintenance; nothing happens where it is off."""
    try:
        (site.maintenance / "on").unlink()
    except FileNotFoundError:
        return
    file.sync_folder(site.maintenance)
    log.info("%s: maintenance is off", site.name)


def hold_workers(site: Site) -> None:
    """Have the workers of a site take no tasks until maintenance ends, or `release_workers`; also after a reboot."""
    if (site.maintenance / "on").is_dir():
        file.write(site.maintenance / "on/hold", "")


def holds_workers(site: Site) -> bool:
    """Return whether the workers of a site take no tasks because of `hold_workers`."""
    return (site.maintenance / "on/hold").exists()


def release_workers(site: Site) -> None:
    """Let the workers of a site take tasks."""
    with contextlib.suppress(FileNotFoundError, NotADirectoryError):
        (site.maintenance / "on/hold").unlink()


def summary(site: Site) -> str:
    """Return maintenance in a line, such as ``since 2026-03-01T12:00:00Z: back at 14:00``; empty where it is off."""
    about = sites.known_maintenance(site)
    since = f"since {about['since']}" if about and about["since"] else "on"
    return ": ".join(filter(None, [since, about["message"]])) if about else ""


def until(message: str, now: float) -> float | None:
    """Return when maintenance ends by the last time in its message, in seconds since 1970, or None.

    A time without a date is the next one by the clock of this host; a time with a date may be past.
    """
    moments = [*_MOMENT.finditer(message)]
    if not moments:
        duration = _DURATION.search(message)
        return now + commands.seconds(duration[0]) if duration else None
    end = now
    try:
        for moment in moments:
            after = max(now, end) if moments[0][1] else now  # from 2026-03-01 22:00 to 01:00
            end = _next(moment, after)
    except (OverflowError, ValueError):  # no such day
        return None
    return end


def _next(moment: re.Match[str], after: float) -> float:
    """Return the time that a part of a message names; without a date, the first one after a time."""
    date, hour, minute, half, utc = moment.groups()
    zone = datetime.timezone.utc if utc else None
    here = datetime.datetime.fromtimestamp(after, zone)
    hours = int(hour) % 12 + (12 if half in "Pp" else 0) if half and int(hour) <= 12 else int(hour)
    day = datetime.date.fromisoformat(date) if date else here.date()
    end = datetime.datetime.combine(day, datetime.time(hours, int(minute)), zone)
    if not date and end <= here:
        end += datetime.timedelta(days=1)
    return end.timestamp()


def refuse_missing_page(site: Site, release: Path, folder: str) -> None:
    """Refuse a release without the page that the pillar names.

    Args:
        site: the site.
        release: its folder.
        folder: that of manage.py in its source.

    Raises:
        DeploymentError: the page is missing, or is not a regular file of root's.
    """
    if site.config["maintenance"]["page"]:
        _of_project(site, release, folder)


def page(site: Site) -> str:
    """Return the page without a message."""
    return _page(site, "")[0]


def _page(site: Site, message: str) -> tuple[str, str]:
    """Return the page and its origin: the project's, or the formula's where that cannot be read."""
    safe = html.escape(message)
    if site.config["maintenance"]["page"]:
        facts = (file.read_json(site.current / "release.json") or {}).get("facts", {})
        try:
            page = _of_project(site, site.current.resolve(), facts.get("folder", "."))
            return page.replace(PLACE, safe), site.config["maintenance"]["page"]
        except (DeploymentError, OSError) as error:
            log.warning("%s: %s; using the formula's own page", site.name, error)
    return template.render(site.kept_templates(), PAGE, message=safe), "own"


def _of_project(site: Site, release: Path, folder: str) -> str:
    at = f"{site.at}:maintenance:page"
    return proxy_page.of_project(release, folder, site.config["maintenance"]["page"], at)


def _target(site: Site) -> str:
    try:
        return os.readlink(site.maintenance / "on")
    except OSError:
        return ""
