"""The links of a site on its host: release, process, socket, Django, and the database with stores and workers."""

import os
import re
import stat
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from django_formula.backup import backups
from django_formula.container import containers
from django_formula.database import databases, engines, sqlite
from django_formula.database import setup as database_setup
from django_formula.doctor.visit import APPLY, PATIENCE, Broken, Visit, to_start
from django_formula.host import daemons, users
from django_formula.host import file as host_file
from django_formula.host.commands import DeploymentError
from django_formula.process import contract
from django_formula.project import page as project_page
from django_formula.release import disk, health, instances, releases
from django_formula.release.health import Finding
from django_formula.secret import secrets
from django_formula.site import domains
from django_formula.store import setup as store_setup
from django_formula.store import stores
from django_formula.untrusted.foreign import Foreign
from django_formula.untrusted.text import in_command
from django_formula.verbs import workers

#: Lines of a log in which a cause is searched, and one that may be one.
_LINES = 40
_CAUSE = re.compile(r"Error\b|error:|[Ff]ailed|denied|Killed|No such file|unable to|cannot ")
#: Exceptions that another release has too: of a database, or of another server.
_ELSEWHERE = re.compile(r"OperationalError|InterfaceError|Connection|Timeout|TimedOut|Unavailable|gaierror")
_OF_DATABASE = re.compile(r"OperationalError|ProgrammingError|InterfaceError|DatabaseError|sqlite3\.")


def release(visit: Visit) -> str:
    """Return the active release."""
    site, found = visit.site, visit.live
    if found:
        return f"{found.name} is active"
    if site.current.is_symlink():
        raise Broken(f"{site.current}/release.json is missing or damaged", APPLY)
    failed = releases.failed_attempts(site)
    why = visit.plain(f"; the newest attempt failed: {failed[0].get('error', '')}") if failed else ""
    raise Broken(f"no release of {site.name} is active{why}", site.to_release() if failed else APPLY)


# The process, and its socket


def process(visit: Visit) -> str:
    """Return that the application server runs; on a host for workers, that these do."""
    site, live = visit.site, visit.release
    for part in [""] if instances.serves(live.path) else instances.parts(live.path):
        broken = _not_running(visit, part)
        if broken:
            raise broken
    return f"{', '.join(instances.units(site, live.path)[:1])} runs"


def _not_running(visit: Visit, part: str) -> Broken | None:
    """Return why a part of the active release does not run; None where it does.

    One that is being started is waited for: supervisor does not wait itself until it is ready, as systemd does.
    """
    site, path = visit.site, visit.release.path
    manager, deadline = instances.process_manager(site, path), time.monotonic() + PATIENCE
    ran: set[int] = set()
    while not _runs(visit, part):
        number = manager.pid(site, path, part)
        ran |= {number} if number else set()
        if len(ran) > 1 or (ran and number is None):
            return _ended(visit, part, "it ends each time that it is started")
        if number is None and not manager.is_starting(site, path, part):
            return _ended(visit, part)
        if time.monotonic() > deadline:
            return _ended(visit, part, "" if number else f"it is being started for {PATIENCE:.0f} s")
        time.sleep(0.1)
    return None


def _runs(visit: Visit, part: str) -> bool:
    site, path = visit.site, visit.release.path
    is_there = instances.process_manager(site, path).pid(site, path, part) is not None
    return is_there and contract.is_whole(site, path, part)


def _ended(visit: Visit, part: str, ended: str = "") -> Broken:
    """Return why a part of the active release does not run, and what starts it.

    Args:
        ended: how, where it is known that it did; it may run again since.
    """
    site, live = visit.site, visit.release
    manager = instances.process_manager(site, live.path)
    name = contract.unit(site, live.path, part)
    if interpreter := disk.interpreter_problem(live) if not live.has_python else "":
        return Broken(f"{name} does not run: {interpreter}", APPLY)
    if broken := _of_container(visit, part):
        return Broken(f"{name} does not run: {broken.text}", broken.command)
    if not ended and manager.pid(site, live.path, part) is not None:
        what = "is not ready" if part else "does not listen at its socket"
        return Broken(f"{name} runs and {what}", manager.way_to_start(site, live.path, part))
    ended = ended or manager.how_it_ended(site, live.path, part)
    if not ended:
        return Broken(f"{name} was stopped", manager.way_to_start(site, live.path, part))
    text = f"{name} does not run ({ended}){_last_cause(visit, part)}"
    drifted = visit.drifted()
    if drifted:
        return Broken(f"{text}; {drifted[0]} differs from the release", visit.to_release())
    return Broken(text, manager.way_to_start(site, live.path, part))


def _of_container(visit: Visit, part: str) -> Broken | None:
    """Return why the container of a part cannot start: its engine does not run, or does not have its image any more."""
    site, live = visit.site, visit.release
    container = containers.of_release(live.path)
    if not container:
        return None
    if container.engine.name == daemons.DOCKER.service and daemons.pid(daemons.DOCKER) is None:
        start = instances.process_manager(site, live.path).way_to_start(site, live.path, part)
        return Broken("Docker does not run", f"{to_start(daemons.DOCKER)} && {start}")
    if container.engine.image(container.image):
        return None
    return Broken(f"its image {container.image} was removed", APPLY)


def _last_cause(visit: Visit, part: str) -> str:
    """Return the last line of a part's log that may be a cause, after a colon."""
    site, live = visit.site, visit.release
    try:
        lines = instances.process_manager(site, live.path).log(site, live.path, _LINES, part).splitlines()
    except DeploymentError:
        return ""
    found = next((line for line in reversed(lines) if _CAUSE.search(line) and len(line) < 400), "")
    return f": {visit.plain(found)}" if found else ""


def socket(visit: Visit) -> str:
    """Return that the proxy may connect to the application server's socket."""
    site, live, proxy = visit.site, visit.release, visit.proxy
    if not proxy or not instances.serves(live.path):
        return ""
    where = instances.address(site, live.path)
    if not where.startswith("/"):
        return f"the application server listens on {where}"
    user = site.platform["nginx"]["user"]
    for folder in [*reversed(Path(where).parents), *reversed(live.path.parents)]:
        found = os.stat(folder)
        if not users.may(users.ENTER, folder, user):
            command = in_command("chmod", "a+x", str(folder))
            raise Broken(f"{user} cannot traverse {folder} ({ownership(found)})", command)
    if not users.may(users.WRITE, Path(where), user, status=os.lstat(where)):
        restart = instances.process_manager(site, live.path).way_to_start(site, live.path)
        raise Broken(f"{user} may not connect to {where} ({ownership(os.lstat(where))})", restart)
    return f"{proxy.KIND.title} may connect to {where}"


def ownership(found: os.stat_result) -> str:
    return f"{users.owner_of(found)} {stat.S_IMODE(found.st_mode):04o}"


# Django, and why it does not answer


def django(visit: Visit) -> str:
    """Return how the release answers its health check at its own socket."""
    site, live = visit.site, visit.release
    if not instances.serves(live.path):
        return ""
    ran, began, since = instances.pid(site, live.path), time.monotonic(), time.time()
    checked = health.as_checked(site, live.record)
    found = health.find(checked, live.path, began + PATIENCE)
    took = time.monotonic() - began
    path = found.path or health.page_path(checked)
    if not found.problem:
        return f"GET {path} past the proxy is answered in {took * 1000:.0f} ms"
    if ran is None or instances.pid(site, live.path) != ran:
        broken = _ended(visit, "", "it ended while it was asked")
        raise Broken(broken.text, broken.command, broken.todo, "process")
    if took >= PATIENCE - 0.3:
        text = f"GET {path} past the proxy has no answer within {PATIENCE:.0f} s: all processes are busy or hang"
        raise Broken(text, instances.process_manager(site, live.path).way_to_start(site, live.path))
    raise wrong(visit, f"GET {path} past the proxy {found.problem}", found, since)


def wrong(visit: Visit, text: str, found: Finding, since: float) -> Broken:
    """Return why Django answers a page otherwise than it should, and what cures it.

    Args:
        text: what it answers.
        found: the same, as the health check has it.
        since: the time before the request, in seconds since 1970.
    """
    site, live = visit.site, visit.release
    raised = _exception(visit, found, since) if found.status in (0, 500) else ""
    because = f": {raised}" if raised else ""
    broken = _of_data(visit, raised)
    if broken:
        return Broken(f"{text}{because}: {broken.text}", broken.command, broken.todo, "database")
    if found.status == 400 and not _allows(visit):
        text = f"{text}: ALLOWED_HOSTS of {live.name} has no {visit.host}"
        return Broken(text, visit.to_release())
    drifted = visit.drifted()
    if drifted:
        return Broken(f"{text}{because}; {drifted[0]} differs from the release", visit.to_release())
    hint = health.hint(site, live.path, found, raised)
    older = disk.older_good(site, live)
    is_of_code = found.status in (0, 404, 500) or found.target
    if older and is_of_code and not _ELSEWHERE.search(raised):
        return Broken(f"{text}{because}", site.to_return(older.name, older.record["commit"]), hint)
    return Broken(f"{text}{because}", "" if hint else in_command("salt-call", "django.logs", site.name), hint)


def _exception(visit: Visit, found: Finding, since: float) -> str:
    """Return the exception of a page, from the log, or from Django in a process of its own."""
    site, live = visit.site, visit.release
    raised = health.raised_in(health.settled_journal(site, live.path, since), live.path)
    if not raised and visit.explains:
        raised = project_page.raised(site, live.path, live.facts, found.path, secrets.known(site))
    return visit.plain(raised.exception) if raised else ""


def _allows(visit: Visit) -> bool:
    """Return whether ALLOWED_HOSTS of the active release, as the overlay sets it, has the name of the visit."""
    kept: Any = host_file.read_json(visit.release.path / "config/settings.json") or {}
    allowed = [str(name) for name in (kept.get("always") or {}).get("ALLOWED_HOSTS", ["*"])]
    return "*" in allowed or domains.has([f"*{name}" if name[:1] == "." else name for name in allowed], visit.host)


# The data


def database(visit: Visit) -> str:
    """Return that the databases, stores and workers of the active release are there and fit it."""
    broken = _of_data(visit) or _of_stores(visit) or _of_workers(visit)
    if broken:
        raise broken
    parts = ["the schema fits", *(["stores answer"] if visit.site.stores else [])]
    return ", ".join([*parts, *(["workers run"] if _workers(visit) else [])])


def _of_data(visit: Visit, raised: str = "") -> Broken | None:
    """Return what is wrong with a database of the site; None where nothing is known.

    Args:
        raised: the exception of a page, for a database that cannot be looked into from here.
    """
    site, live = visit.site, visit.release
    present: dict[str, dict[str, str]] = live.facts.get("databases") or {}
    for alias, one in present.items():
        path = databases.database_file(site, live.path, live.facts, one)
        broken = _of_sqlite(visit, alias, path) if path else _of_server(one)
        if broken:
            return broken
    records = [one.record for one in releases.releases(site) if one.record]
    schema = databases.schema_status(live.record, records, databases.applied_migrations(site, records))
    if schema and not schema.startswith("fits"):
        return Broken(f"the schema does not fit: {schema}", in_command("salt-call", "django.migrate", site.name))
    if raised and _OF_DATABASE.search(raised):
        names = ", ".join(f"{one['name']} on {one.get('host') or 'this host'}" for one in present.values())
        return Broken(f"the database is {names}", todo=f"connect to it: salt-call django.check {site.name}")
    return None


def _of_sqlite(visit: Visit, alias: str, path: Path) -> Broken | None:
    """Return what keeps the site from its SQLite file."""
    site, found = visit.site, Foreign(path.parent, path.name).status()
    if not found:
        return _lost(visit, alias, f"the database {path} is missing")
    if stat.S_ISLNK(found.st_mode):
        return None
    for one, status in ((path.parent, os.lstat(path.parent)), (path, found)):
        needed = users.WRITE | (users.ENTER if stat.S_ISDIR(status.st_mode) else users.READ)
        if not users.may(needed, one, site.user, status=status):
            owner = in_command("chown", "--no-dereference", f"{site.user}:{site.user}", str(one))
            text = f"{site.user} may not write to {one} ({ownership(status)})"
            return Broken(text, f"{owner} && {in_command('chmod', 'u+rwX', str(one))}")
    recorded = (visit.release.facts.get("migrations") or {}).get(alias) or {}
    if recorded.get("applied") and not sqlite.applied(site, path):
        return _lost(visit, alias, f"the database {path} is empty")
    return None


def _lost(visit: Visit, alias: str, text: str) -> Broken:
    """Return what cures a SQLite file that is gone, or that a process has made anew."""
    site = visit.site
    if any(one["alias"] == alias for one in backups.manifests(site)):
        return Broken(text, in_command("salt-call", "django.restore", site.name))
    command = in_command("salt-call", "django.migrate", site.name)
    return Broken(f"{text}, and this host has no backup of it: the command makes an empty one", command)


def _of_server(database: dict[str, str]) -> Broken | None:
    """Return that a database server of this host does not run."""
    engine = engines.find(database["engine"])
    server = database_setup.SERVERS.get(engine.name) if engine else None
    is_here = (database.get("host") or "/").startswith(("/", "127.", "localhost"))
    if server and is_here and server.is_installed() and not daemons.is_running(server.daemon):
        return Broken(f"{server.daemon.service} does not run", to_start(server.daemon))
    return None


def _of_stores(visit: Visit) -> Broken | None:
    """Return the first store of the site's own that does not answer."""
    texts = store_setup.summary(visit.site).split("; ")
    for _kind, server in stores.own_servers(visit.site):
        if f"{server.name} {store_setup.NO_ANSWER}" in texts:
            way = in_command("systemctl", "restart", f"{server.unit}.service")
            return Broken(f"{server.unit} does not answer", way if daemons.has_systemd() else APPLY)
    return None


def _of_workers(visit: Visit) -> Broken | None:
    """Return the first worker that does not run, or whose tasks all fail."""
    for name in _workers(visit):
        broken = _not_running(visit, name)
        if broken:
            return broken
    failing = [text for text in workers.status(visit.site, visit.live)["workers"].split(", ") if " fails (" in text]
    if failing:
        logs = in_command("salt-call", "django.logs", visit.site.name, f"worker={failing[0].split()[0]}")
        return Broken(f"worker {failing[0]}{_last_cause(visit, failing[0].split()[0])}", todo=logs)
    return None


def _workers(visit: Visit) -> Iterator[str]:
    return (part for part in instances.parts(visit.release.path) if part)
