"""Set up the site's own servers on this host, change them, and remove those that the pillar no longer has.

What a running server can change, such as its memory, is changed without a restart.
"""

import re
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import NamedTuple

from django_formula.host import file, proc
from django_formula.host import folders as host_folders
from django_formula.host.commands import DeploymentError
from django_formula.process import sandbox
from django_formula.site.sites import Site
from django_formula.store import client, contract, redis, service, stores
from django_formula.store.contract import OwnServer, ServerStore, Usage

#: The line of a unit with its memory limit.
_LIMIT = re.compile(r"(?m)^MemoryMax=(\d+)$")
#: Its lines with the hosts that may connect, which `store.service.let_in` changes.
_CLIENTS = re.compile(r"(?m)^IPAddressAllow=.*\n")
#: Its comments, and its line that has an effect when it stops.
_AT_ITS_END = re.compile(r"(?m)^(#|RuntimeDirectoryPreserve=).*\n")


class Pending(NamedTuple):
    """What differs on the host from a server as the pillar has it.

    Attributes:
        files: those that differ: path → content.
        folders: those that are missing, or have another owner or mode.
        settings: those of the running server.
        starts: whether it does not run, or would not after a boot.
        restarts: whether it has to be restarted, since its files differ in what it reads at its start only.
        busy: why it runs and does not serve; empty where it does.
    """

    kind: ServerStore
    server: OwnServer
    files: dict[Path, str]
    folders: list[str]
    settings: dict[str, str]
    starts: bool
    restarts: bool
    busy: str = ""

    def changes(self) -> dict[str, str]:
        """Return the changes for people; empty where there is nothing to do."""
        found = {str(path): "changed" if path.exists() else "new" for path in self.files}
        found |= dict.fromkeys(self.folders, "corrected")
        found |= {f"{self.server.unit}: {name}": value for name, value in self.settings.items()}
        if self.starts or self.restarts:
            found[self.server.unit] = "started" if self.starts else "restarted"
        if self.busy:
            found[self.server.unit] = "freed of what keeps it busy, or restarted"
        return found


def pending(servers: Iterable[tuple[ServerStore, OwnServer]], templates: Mapping[str, str]) -> list[Pending]:
    """Return what differs on the host, for each of the servers that has differences."""
    found = [_pending(kind, server, templates) for kind, server in servers]
    return [one for one in found if one.changes()]


def _pending(kind: ServerStore, server: OwnServer, templates: Mapping[str, str]) -> Pending:
    wanted = service.server_files(kind, server, templates)
    before = {path: file.read_text(path) for path in wanted}
    files = {path: text for path, text in wanted.items() if before[path] != text}
    restarts = _restart_mark(server).exists()
    restarts = restarts or any(_fixed(kind, before[path] or "") != _fixed(kind, text) for path, text in files.items())
    folders = [str(one.path) for one in service.folders(server) if host_folders.problem(one)]
    runs = service.answers(server)
    starts, restarts = not (runs and service.is_enabled(server)), restarts and runs
    settings, busy = ({}, "") if starts else _differences(kind, server)
    settings = {} if restarts else settings
    return Pending(kind, server, files, folders, settings, starts, restarts, busy)


def _differences(kind: ServerStore, server: OwnServer) -> tuple[dict[str, str], str]:
    """Return the settings of a running server that differ, or why it does not serve."""
    try:
        return kind.differences(server), ""
    except client.BusyError as error:
        return {}, error.message


def _fixed(kind: ServerStore, text: str) -> str:
    """Return a file of a server without what the server can change while it runs, and what decides if it starts."""
    startable = sandbox.without_lines(text, sandbox.MAY_BE_REFUSED)
    changeable = kind.CHANGEABLE.sub("", startable)
    return _AT_ITS_END.sub("", _CLIENTS.sub("", _LIMIT.sub("", changeable)))


def _restart_mark(server: OwnServer) -> Path:
    """Return the file in /run that records that a running server has older files than those on the disk."""
    return contract.RUN / f"{server.unit}.restart"


def mark_restart(server: OwnServer) -> None:
    """Record that a server is to be restarted, since a file that it reads at its start changes."""
    file.write(_restart_mark(server), "")


def free(found: Pending) -> tuple[Pending, str]:
    """Have a server that the site keeps busy serve again: end the script that it runs, else restart it.

    A queue has its tasks in a file, and has them after a restart. It reads its settings then, so that it is asked
    nothing afterwards: clients may keep it busy at once.

    Returns:
        What differs then, and a warning; as it was, and no warning, where the server serves.

    Raises:
        DeploymentError: the server does not start.
    """
    kind, server = found.kind, found.server
    if not found.busy:
        return found, ""
    settings, busy = _differences(kind, server) if kind.end_scripts(server) else ({}, found.busy)
    if not busy:
        text = f"{server.unit} served nothing until the script that it ran was ended: {found.busy}"
        return found._replace(busy="", settings={} if found.restarts else settings), text
    mark_restart(server)
    service.make_folders(server)
    for path, text in found.files.items():
        file.write(path, text)
    if found.files:
        service.reload(server)
    restart(server)
    rest = Pending(kind, server, {}, [], {}, starts=False, restarts=False)
    return rest, f"{server.unit} was restarted, since it served nothing: {busy}"


def apply(found: Pending) -> str:
    """Make the pending changes of a server, except for a restart (`restart`), which is recorded as due.

    Returns:
        A warning where the memory limit of its unit is to be lowered, and is not yet; empty otherwise.

    Raises:
        DeploymentError: it does not start, or refuses a setting.
    """
    server, former = found.server, _higher_limit(found)
    service.make_folders(server)
    if found.restarts:  # before the files: where this is killed, the next apply restarts it
        mark_restart(server)
    obstacle = _obstacle(found) if former else ""
    if not found.starts and _has_other_clients(found):
        service.let_in(server)
    for path, text in found.files.items():
        file.write(path, _LIMIT.sub(former, text) if obstacle else text)
    if (found.files or found.restarts) and not found.starts:
        service.reload(server)
    if found.starts:
        service.start(server)
        if not found.restarts:  # it has begun with the files that are there
            _restart_mark(server).unlink(missing_ok=True)
    if found.settings and not former:
        found.kind.change(server, found.settings)
    return f"{server.unit} keeps {former} until a later apply: {obstacle}" if obstacle else ""


def _has_other_clients(found: Pending) -> bool:
    """Return whether other hosts may connect than the unit on the disk has."""
    before = {path: file.read_text(path) or "" for path in found.files}
    return any(_CLIENTS.findall(before[path]) != _CLIENTS.findall(text) for path, text in found.files.items())


def _higher_limit(found: Pending) -> str:
    """Return the line of a unit with the memory limit that is to be lowered while the server runs; empty if none is."""
    for path, text in found.files.items() if not found.starts else ():
        before, after = (_LIMIT.search(one or "") for one in (file.read_text(path), text))
        if before and after and int(before[1]) > int(after[1]):
            return before[0]
    return ""


def _obstacle(found: Pending) -> str:
    """Have a running server use less memory; return why its limit cannot be lowered yet, empty where it can.

    systemd sets the limit of the running server, which the kernel ends if it uses more.
    """
    server = found.server
    if found.restarts:
        return "it is restarted first"
    if found.settings:
        found.kind.change(server, found.settings)
    found.kind.compact(server)
    used = proc.memory(client.process(server.socket))
    # Half of it is for the child that writes the file.
    return f"it still uses {used >> 20}M" if 2 * used > server.memory_limit else ""


def restart(server: OwnServer) -> None:
    """Restart a server that has older files than those on the disk.

    Raises:
        DeploymentError: it does not start.
    """
    service.restart(server)
    _restart_mark(server).unlink(missing_ok=True)


def taken(server: OwnServer) -> int:
    """Return the number of Celery's messages in a queue that a worker has taken and not acknowledged."""
    return redis.lengths(server).get(redis.UNACKED, 0)


#: What the status has for a server that does not run.
NO_ANSWER = "does not answer"
#: The part of its memory above which a queue counts as full: what is added next may be refused.
_FULL = 0.9


def usage(site: Site) -> Iterator[tuple[OwnServer, Usage | None, dict[str, int]]]:
    """Yield each server of the site's own: what it uses, None where it does not answer, and the lengths of its lists.

    Only a queue has lists: those of the tasks that wait.
    """
    for kind, server in stores.own_servers(site):
        try:
            waiting = redis.lengths(server) if server.name == "queue" else {}
            yield server, kind.usage(server), waiting
        except DeploymentError:
            yield server, None, {}


def summary(site: Site) -> str:
    """Return what the site's own servers use, for people: ``queue 12M of 256M, 14 tasks wait; cache 3M of 64M``.

    Tasks that a worker of Celery has taken and not acknowledged, and those that wait for their time, are next to them.
    """
    parts = []
    for server, found, waiting in usage(site):
        text = f"{found.used / (1 << 20):.0f}M of {found.limit >> 20}M" if found else NO_ANSWER
        taken, later = (waiting.get(key, 0) for key in (redis.UNACKED, redis.SCHEDULED))
        counts = {"tasks wait": sum(waiting.values()) - taken - later, "unacknowledged": taken, "scheduled": later}
        parts.append(", ".join([f"{server.name} {text}", *(f"{n} {what}" for what, n in counts.items() if n)]))
    return "; ".join(parts)


def warnings(site: Site) -> list[str]:
    """Return what is wrong with the site's own servers at present: a queue that is nearly full."""
    return [
        f"the queue of {site.name} is nearly full: {found.used >> 20}M of {found.limit >> 20}M; tasks that do not fit "
        f"are refused ({site.at}:queue:memory)"
        for server, found, _waiting in usage(site)
        if found and server.name == "queue" and found.used > _FULL * found.limit
    ]


def obsolete(site: Site) -> list[str]:
    """Return the parts of servers on this host that the pillar no longer has."""
    parts = {server.part for _kind, server in stores.own_servers(site)}
    return [part for part in service.files_on_host(site) if part not in parts]


def refuse_lost_tasks(site: Site) -> None:
    """Refuse the removal of a queue in which tasks wait.

    Raises:
        DeploymentError: some do.
    """
    waiting = lost_tasks(site)
    if waiting:
        raise DeploymentError(
            f"{waiting} tasks wait in the queue of {site.name}, which the pillar no longer has",
            hint=f"have {site.at}:queue in the pillar until the workers have emptied it",
        )


def lost_tasks(site: Site) -> int:
    """Return the number of tasks that wait in a queue that the pillar no longer has.

    Raises:
        DeploymentError: its server does not answer.
    """
    server = OwnServer(site, "queue", "queue", {})
    if "queue" not in obsolete(site) or not service.is_enabled(server):  # its removal was interrupted
        return 0
    try:
        return redis.STORE.waiting(server)
    except DeploymentError as error:
        error.hint = f"see why {server.unit} does not run; it is removed only once it reports that no task waits in it"
        raise


def unused(site: Site, live: Path) -> list[str]:
    """Return the parts of servers that neither the pillar has nor the active release is configured with."""
    return [part for part in obsolete(site) if not is_used(site, live, part)]


def is_used(site: Site, release: Path, part: str) -> bool:
    """Return whether a release is configured with a server of the site's own."""
    address = f"{contract.RUN}/django-{site.name}-{part}/"
    texts = (file.read_text(release / "config" / name) for name in ("settings.json", "environment"))
    return any(address in (text or "") for text in texts)


def missing(site: Site, release: Path) -> list[str]:
    """Return the units of the site's own servers that a release is configured with and this host no longer has."""
    pattern = rf"{contract.RUN}/(django-{re.escape(site.name)}-(\w+))/socket"
    texts = (file.read_text(release / "config" / name) for name in ("settings.json", "environment"))
    used = dict(found for text in texts for found in re.findall(pattern, text or ""))
    present = service.files_on_host(site)
    return sorted(unit for unit, part in used.items() if part not in present)


def remove_parts(site: Site, parts: Iterable[str]) -> None:
    """Remove servers of a site with their data: caches, or a queue that was empty."""
    for part in parts:
        service.remove(site, part)
        file.remove_tree(OwnServer(site, part, part, {}).data)


def remove(site: Site) -> None:
    """Remove all servers of a site; their data stays."""
    for part in service.files_on_host(site):
        service.remove(site, part)
