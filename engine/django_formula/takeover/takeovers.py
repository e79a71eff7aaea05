"""Take an existing deployment over: it serves until the release is activated, loses no data, and is then moved aside.

The plan is in ``adopted/plan.json`` from the first apply with ``adopt`` until everything is done, so that the next
apply resumes one that was killed. What is moved aside is below ``adopted/<time>/``, under the path that it had.
"""

import contextlib
import os
import shutil
import types
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from django_formula.database import databases as database_databases
from django_formula.host import clock, daemons, file, ports, units
from django_formula.host import folders as host_folders
from django_formula.host import users as host_users
from django_formula.host.commands import DeploymentError, seconds
from django_formula.host.config_files import Files
from django_formula.host.folders import Folder
from django_formula.proxy import proxies
from django_formula.proxy import switch as proxy_switch
from django_formula.release.releases import Release
from django_formula.server import servers
from django_formula.site.sites import Site
from django_formula.takeover import copy, detection, stop, worker
from django_formula.takeover.copy import LockedDatabase
from django_formula.takeover.existing import ExistingDeployment
from django_formula.takeover.supervisor import Ending
from django_formula.untrusted import handover
from django_formula.untrusted.foreign import Foreign, Modes
from django_formula.untrusted.handover import FormerOwners
from django_formula.untrusted.text import Log, in_pillar, proposal

log = Log.of(__name__)

#: Seconds to wait for a lock on a database of the existing deployment.
LOCK_TIMEOUT = 30.0
#: Suffixes of the files that SQLite keeps for a database.
_SUFFIXES = ("", "-journal", "-wal", "-shm")


#: The shape of a plan; one of another shape is ignored, and the takeover begins anew.
_PLAN = {
    **dict.fromkeys(("phase", "aside", "wsgi_user", "group"), str),
    **{name: [str] for name in ("found", "entries", "servers", "units", "programs", "apps", "names", "workers")},
    **{name: [str] for name in ("folders", "addresses", "media", "kept")},
    "databases": {str: str},
    "owner": ([int], types.NoneType),
    "stamps?": {str: [int]},
    "crontabs?": [str],
    "replaced?": {str: str},
    "server?": str,
    "stopped?": bool,
}


class Takeover:
    """The takeover of an existing deployment, pending or in progress.

    Args:
        plan: ``phase`` (waiting, switching, switched), ``aside``, and the fields of `ExistingDeployment` as JSON.
    """

    def __init__(self, site: Site, plan: dict[str, Any]):
        self.site = site
        self.plan = plan
        self.aside: Path = site.adopted / plan["aside"]
        self.databases = {Path(old): Path(new) for old, new in plan["databases"].items()}
        #: Databases that were copied and stay locked, so that the existing deployment does not write to them.
        self._locked: list[LockedDatabase] = []
        #: Data that both use in the same place, with its former owners and modes.
        self._shared: list[tuple[Foreign, FormerOwners]] = []
        #: The processes of Apache before the switch, which may run the existing deployment.
        self._apache_processes: set[int] = set()
        #: The programs of old workers under supervisor, which end; whether this process has asked them to.
        self._ending: list[Ending] = []
        self._has_stopped_workers = False

    def write(self, **values: Any) -> None:
        """Change values of the plan, and write it to disk."""
        self.plan.update(values)
        file.write_json(self.site.adopted / "plan.json", self.plan, mode=0o600)

    def as_state_changes(self) -> dict[str, str]:
        """Return what becomes of each part, by its path, as a Salt state reports it."""
        moved = [*self.plan["entries"], *self.plan["servers"]]
        stopped = [*self.plan["units"], *self.plan["programs"], *self.plan["apps"]]
        changes = dict.fromkeys(moved, f"moved to {self.aside}")
        changes |= dict.fromkeys(stopped, f"stopped, moved to {self.aside}")
        changes |= dict.fromkeys(self.plan.get("crontabs", []), "its lines of the existing deployment are removed")
        for old, new in self.databases.items():
            changes[str(old)] = "used where it is" if old == new else f"copied to {new}"
        for path in self.plan["media"]:
            changes[path] = "used where it is" if path == str(self.site.media) else f"copied to {self.site.media}"
        return changes

    def warnings(self) -> list[str]:
        """Return a warning where the new release has another application server than the existing deployment."""
        old, new = self.plan.get("server", ""), self.site.config["server"]["kind"]
        if not old or old in (new, "runserver"):
            return []
        keeps = f"{self.site.at}:server:kind: {in_pillar(old)} keeps it"
        way = keeps if old in servers.SERVERS else f"the formula has {', '.join(servers.SERVERS)}"
        return [f"the existing deployment runs in {old}, and the new release runs in {new}: {way}"]

    # The data

    def folders(self) -> list[Folder]:
        """Return the site's folders; until the switch, an existing deployment keeps its data, and may write there."""
        if self.plan["phase"] == "switched":
            return self.site.folders()
        root, *rest = self.site.folders()
        used = [*self.databases, *(Path(address) for address in self.plan["addresses"])]
        if str(root.path) in self.plan["folders"] and root.path in [path.parent for path in used]:
            root = Folder(root.path, "root", self.plan["group"], 0o1775)
        own = [folder for folder in rest if str(folder.path) not in self.plan["kept"]]
        return [root, Folder(self.site.adopted, "root", "root", 0o700), *own]

    def check_data(self) -> None:
        """Refuse data that could not be handed over; nothing is changed, and a dry run does the same.

        Raises:
            DeploymentError: it belongs to a third user or cannot be read, or there is no room for copies of it.
        """
        if self.plan["phase"] != "waiting":
            return
        self._check_room()
        allowed = {*([self.plan["owner"][0]] if self.plan["owner"] else []), host_users.user_id(self.site.user)}
        for tree, is_alone in self._used_in_place(final=False):
            if is_alone:
                self._check_folder_owner(tree.parent)
            handover.check(tree, of=allowed)

    def hand_over(self) -> None:
        """Copy or share the data. From here on, the existing deployment can only read a database that was copied.

        Where it cannot write any more, its workers stop first, and their tasks in hand end.

        Raises:
            DeploymentError: a database cannot be read or locked, or there is no room for the copies.
        """
        self.release_data()
        self._check_room()
        if self._is_closed_to_writes():
            log.info("%s: waiting until the workers of the existing deployment have ended", self.site.name)
            self._stop_workers()
            worker.wait(self.site, self.plan, self._ending)
        for old, new in self.databases.items():
            if old != new:
                self._copy(old, new)
        self.write(stamps={str(old): _stamp(old) for old, new in self.databases.items() if old != new})
        self._copy_uploads()
        self._give(final=False)

    def _is_closed_to_writes(self) -> bool:
        """Return whether the existing deployment cannot write to a database from the copy or the handover on."""
        owner = self.plan["owner"]
        is_copied = any(old != new for old, new in self.databases.items())
        return is_copied or bool(self.databases and owner and owner[0] not in (0, host_users.user_id(self.site.user)))

    def _stop_workers(self) -> None:
        if not self._has_stopped_workers:
            self._has_stopped_workers = True
            self.write(stopped=True)  # an apply that is killed leaves it to the next one to start them
            self._ending = worker.ask_to_stop(self.site, self.plan)

    def _start_workers(self) -> None:
        """Start the old workers again, if they were stopped.

        Raises:
            DeploymentError: systemd or supervisor refuses it.
        """
        if self._has_stopped_workers or self.plan.get("stopped"):
            self._has_stopped_workers = False
            worker.start_again(self.plan, self._ending)
            self._ending = []
            self.write(stopped=False)

    def _check_room(self) -> None:
        copied = [old for old, new in self.databases.items() if old != new]
        copied += [Path(path) for path in self.plan["media"] if path != str(self.site.media)]
        needed = sum(copy.measure([path], self._identity(path), self._copy_timeout) for path in copied)
        there = next(path for path in (self.site.root, *self.site.root.parents) if path.is_dir())
        free = shutil.disk_usage(there).free
        if needed * 1.1 > free:
            raise DeploymentError(
                f"the existing data needs {needed >> 20} MiB in {self.site.root}, and {free >> 20} MiB are free",
                hint=f"make room, or set {self.site.at}:root to the folder of the existing deployment",
                transient=True,
            )

    def _identity(self, path: Path) -> dict[str, Any]:
        """Return the identity that opens a path of the existing deployment."""
        owner = self.plan["owner"]
        return copy.identity((owner[0], owner[1]) if owner else None, path)

    @property
    def _copy_timeout(self) -> float:
        return seconds(self.site.config["timeouts"]["backup"])

    def _copy(self, old: Path, new: Path) -> None:
        """Lock a database against writes and copy it; it stays locked."""
        try:
            try:
                self._lock_and_copy(old, new, self._identity(old))
            except DeploymentError as error:
                owner = copy.identity(None, old)
                if "locked" in error.message or owner == self._identity(old):
                    raise
                self._lock_and_copy(old, new, owner)  # the user of the processes may not write to it
        except DeploymentError as error:
            self.release_data()
            users = ("fuser", "-v", str(old))
            raise DeploymentError(
                f"the existing database {old} cannot be copied: {error.message}",
                hint=error.hint
                or proposal("list the processes that use it: {}; the existing deployment still serves", *users),
                transient=True,
            ) from None

    def _lock_and_copy(self, old: Path, new: Path, as_user: dict[str, Any]) -> None:
        locked = LockedDatabase(old, as_user, LOCK_TIMEOUT)
        self._locked.append(locked)
        locked.copy(self.site, new, shutil.disk_usage(self.site.root).free, self._copy_timeout)

    def _copy_uploads(self) -> None:
        """Copy the uploads that the site does not have yet."""
        for old in map(Path, self.plan["media"]):
            if old != self.site.media.top:
                copy.copy_files(self.site, old, self._identity(old), self.site.media.top, self._copy_timeout)

    def _give(self, *, final: bool) -> None:
        """Give the data to the site's user. Until the end, the user of the existing deployment may still read it."""
        site = self.site
        owner = self.plan["owner"]
        is_shared = not final and owner and owner[0] not in (0, host_users.user_id(site.user))
        group = self.plan["group"] if is_shared else site.user
        for tree, is_alone in self._used_in_place(final=final):
            if is_alone:
                self._check_folder_owner(tree.parent)
            is_media = tree == site.media
            self._hand(tree, site.proxy_group if is_media else group, final=final, extra=0o2000 if is_media else 0)
        if not is_shared:
            self._shared.clear()

    def _used_in_place(self, *, final: bool) -> Iterator[tuple[Foreign, bool]]:
        """Yield the data that both use in the same place, and whether it is a file in a folder of others."""
        site = self.site
        if str(site.database) in self.plan["kept"] or final:
            yield site.database, False
        for old, new in self.databases.items():
            if old == new and not old.is_relative_to(site.database.top):
                place = Foreign(Path("/"), *old.parts[1:])
                yield from ((place.parent / f"{place.name}{ending}", True) for ending in _SUFFIXES)
        yield site.media, False

    def _hand(self, tree: Foreign, group: str, *, final: bool, extra: int = 0) -> None:
        """Give a tree or a file to the site's user: folders 0750 with the bits of `extra`, files 0640."""
        owner = (host_users.user_id(self.site.user), host_users.group_id(group))
        of = {self.plan["owner"][0]} if self.plan["owner"] else set()
        modes = Modes(0o750 | extra, 0o640, 0o640)
        self._shared.append((tree, handover.hand_over(tree, owner, modes, of=of, strict=not final)))

    def _check_folder_owner(self, folder: Foreign) -> None:
        status = folder.status()
        if not status or status.st_uid != host_users.user_id(self.site.user):
            owner = host_users.owner_of(status) if status else "no user"
            chown = ("chown", self.site.user, str(folder))
            raise DeploymentError(
                f"{folder}, the folder of the database, is owned by {owner}, not by {self.site.user}",
                hint=proposal("{}, or remove database:name, so that the database is copied", *chown),
                transient=True,
            )

    def check(self, release: Release, databases: dict[str, dict[str, str]]) -> None:
        """Refuse a release that would begin with an empty database instead of the existing one.

        Raises:
            DeploymentError: the default database is none of those of the existing deployment.
        """
        default = databases.get("default")
        path = default and database_databases.database_file(self.site, release.path, release.facts, default)
        known = {*self.databases, *self.databases.values()}
        if path and known and path not in known:
            names = ", ".join(str(old) for old in self.databases)
            first = next(iter(self.databases.values())).name
            cure = in_pillar({"engine": "sqlite", "name": first})
            raise DeploymentError(
                f"the release would begin with an empty database {path}; the existing deployment has {names}",
                hint=f"{database_databases.pillar_key(self.site, 'default')}: {cure}",
            )

    def release_data(self) -> None:
        """Allow the existing deployment to write again, and start its workers, if they were stopped for that."""
        self._unlock()
        if self.plan["phase"] not in ("switched", "done"):
            try:
                self._start_workers()
            except DeploymentError as error:
                log.error("%s: the existing workers do not run: %s", self.site.name, error.message)

    def _unlock(self) -> None:
        while self._locked:
            self._locked.pop().unlock()
        while self._shared:
            tree, had = self._shared.pop()
            handover.take_back(tree, had)

    # The switch

    def switch(self, files: Files, templates: Mapping[str, str]) -> None:
        """Let the proxy serve the release instead of the existing deployment: all files at once, or none.

        Args:
            files: the proxy's files of the site.

        Raises:
            DeploymentError: the proxy refuses the files, or the existing deployment has written since it was copied.
        """
        self._refuse_late_writes()
        self._stop_workers()
        try:
            self._switch_proxy(files, templates)
        except DeploymentError as error:
            self._unlock()  # the workers write as soon as they run
            try:
                self._start_workers()
            except DeploymentError as another:
                error.message += f"; the existing workers do not run: {another.message}"
            raise
        except BaseException:
            self._unlock()
            self._start_workers()
            raise

    def _switch_proxy(self, files: Files, templates: Mapping[str, str]) -> None:
        existing = [Path(path) for path in self.plan["servers"]]
        for path in existing:
            target = stop.path_aside(path, self.aside)
            if os.path.lexists(path) and not os.path.lexists(target):
                shutil.copy2(path, target, follow_symlinks=False)
        if self.plan["phase"] != "switched":
            proxy = proxies.PROXIES[self.site.config["proxy"]["kind"]]
            plain, secure = proxy.refused()
            http, https = [*plain, *self.site.config["proxy"]["listen"]], [*secure, *self.site.listens_tls]
            refusing = proxy.default_server(ports.ordered(http), ports.ordered(https), templates, without=existing)
            self._apache_processes = daemons.children(proxy.DAEMON)
            proxy_switch.apply({**dict.fromkeys(existing), **refusing, **files})
            self.write(phase="switched")

    def _refuse_late_writes(self) -> None:
        """Refuse to resume a switch that was killed, if the existing deployment wrote after its database was copied."""
        if self._locked or self.plan["phase"] == "switched":
            return
        late = [old for old, stamp in self.plan.get("stamps", {}).items() if _stamp(Path(old)) != stamp]
        if late:
            raise DeploymentError(
                f"the existing deployment wrote to {', '.join(late)} after it was copied, because an apply was killed",
                hint=proposal("{}, then apply again: it is copied anew", "rm", str(self.site.current)),
                transient=True,
            )

    def end(self) -> list[str]:
        """Drain and stop the existing deployment, move it aside, and give its data to the site's user alone.

        Returns:
            Warnings.

        Raises:
            DeploymentError: a unit or program cannot be stopped, or a file cannot be moved.
        """
        plan, aside = self.plan, self.aside
        aside.mkdir(mode=0o700, exist_ok=True)
        warnings = stop.drain(self.site, plan, self._apache_processes)
        for program in self._ending:
            program.join()
        stop.stop(self.site, plan, aside)
        self._shared.clear()
        self.release_data()
        self._copy_uploads()
        host_folders.make(self.site.folders()[0])  # from here on only root may rename in it
        for path in [*plan["entries"], *plan["units"], *plan["programs"]]:
            stop.move_aside(Path(path), aside)
        worker.forget(plan)
        if plan["units"] and daemons.has_systemd():
            units.daemon_reload()
        for path in map(Path, plan.get("crontabs", [])):
            folders = [Path(folder) for folder in plan["folders"]]
            worker.remove_rows(path, folders, stop.path_aside(path, aside))
        self._give(final=True)
        warnings += worker.warnings(self.site, plan)
        self.write(phase="done")
        (self.site.adopted / "plan.json").replace(aside / "adoption.json")
        return warnings


def load(site: Site) -> Takeover | None:
    """Return the takeover that is in progress, or None."""
    plan = file.read_json(site.adopted / "plan.json", _PLAN)
    return Takeover(site, plan) if plan and len(plan["owner"] or (0, 0)) == 2 else None


def pending(site: Site) -> Takeover | None:
    """Return the takeover that is in progress or would begin, or None if there is nothing to take over.

    Raises:
        DeploymentError: see `takeover.detection.check`.
    """
    begun = load(site)
    if begun and begun.plan["phase"] != "waiting":
        return begun
    if not begun and site.current.is_symlink() and site.applied.exists():
        return None
    existing = detection.check(site, begun.plan["kept"] if begun else ())
    return _begin(site, existing, begun) if existing else None


def _begin(site: Site, existing: ExistingDeployment, begun: Takeover | None) -> Takeover:
    """Return a takeover that is not on disk yet, in continuation of one that has begun."""
    kept = [str(path) for path in (site.database, site.media) if path.names()]
    before = begun.plan if begun else {"aside": clock.now().replace(":", ""), "kept": kept}
    return Takeover(
        site,
        {
            "phase": "waiting",
            "aside": before["aside"],
            "found": [str(finding) for finding in existing.findings],
            "entries": [str(path) for path in existing.entries],
            "servers": [str(path) for path in existing.virtual_host_files],
            "wsgi_user": existing.wsgi_user,
            "units": [str(path) for path in existing.units],
            "programs": [str(path) for path in existing.programs],
            "apps": [str(path) for path in existing.uwsgi_files],
            "names": existing.program_names,
            "workers": existing.workers,
            "crontabs": [str(path) for path in existing.crontabs],
            "replaced": existing.replaced,
            "server": existing.server,
            "folders": [str(path) for path in existing.folders],
            "addresses": existing.addresses,
            "databases": {str(old): str(new) for old, new in existing.databases.items()},
            "media": [str(path) for path in existing.media],
            "owner": list(existing.owner) if existing.owner else None,
            "group": host_users.group_name(existing.owner[1]) if existing.owner else "root",
            "kept": before["kept"],
            "stopped": before.get("stopped", False),
        },
    )


def _stamp(path: Path) -> list[int]:
    """Return the sizes and times of a database and its write-ahead log, which a write changes."""
    stamp: list[int] = []
    for ending in ("", "-wal"):
        with contextlib.suppress(FileNotFoundError):
            status = os.lstat(f"{path}{ending}")
            stamp += [status.st_size, status.st_mtime_ns] if status.st_size else []
    return stamp
