"""Taking an old site over: it serves until the release is live, its data loses nothing, and it is set aside then.

The plan is kept in ``adopted/plan.json`` from the first apply that says ``adopt`` until all of it is done, so that an
apply that was cut short is gone on with. What is set aside lies below ``adopted/<time>/`` under the path that it had.
"""

import contextlib
import errno
import functools
import os
import shutil
import signal
import time
import types
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import django_database
import django_host_clock
import django_host_command
import django_host_file
import django_host_folder
import django_host_port
import django_host_proc
import django_host_service
import django_host_user
import django_proxy
import django_proxy_switch
import django_release_drain
import django_takeover_data
import django_takeover_detection
from django_host_command import DeploymentError, seconds
from django_host_config import Files
from django_host_folder import Folder
from django_release import Release
from django_site import Site
from django_takeover_data import Held
from django_takeover_detection import Adoption
from django_wall_foreign import Foreign, Had, Modes

#: Seconds that are waited for whoever writes to a database of the old site.
PATIENCE = 30.0
_COMPANIONS = ("", "-journal", "-wal", "-shm")


#: What the plan of an adoption has; one of another shape counts as torn, and the adoption begins anew.
_PLAN = {
    **dict.fromkeys(("phase", "aside", "wsgi_user", "group"), str),
    **{name: [str] for name in ("found", "entries", "servers", "units", "programs", "apps", "names", "workers")},
    **{name: [str] for name in ("folders", "addresses", "media", "kept")},
    "databases": {str: str},
    "owner": ([int], types.NoneType),
    "stamps?": {str: [int]},
}


class Takeover:
    """The adoption of an old site that is under way.

    Args:
        plan: ``phase`` (waiting, switching, switched), ``aside``, and what `Adoption` has, as JSON.
    """

    def __init__(self, site: Site, plan: dict[str, Any]):
        self.site = site
        self.plan = plan
        self.aside: Path = site.adopted / plan["aside"]
        self.databases = {Path(old): Path(new) for old, new in plan["databases"].items()}
        #: What keeps the old site from writing to a database that has been copied.
        self._frozen: list[Held] = []
        #: Who had the data that another user's old site uses in the same place, and its modes.
        self._lent: list[tuple[Foreign, Had]] = []
        #: The processes of Apache before the switch, which may run the old site.
        self._former: set[int] = set()

    def write(self, **values: Any) -> None:
        """Change the plan, on disk too."""
        self.plan.update(values)
        django_host_file.write_json(self.site.adopted / "plan.json", self.plan, mode=0o600)

    def told(self) -> dict[str, str]:
        """What is done with each thing, by its path."""
        files = [*self.plan["entries"], *self.plan["servers"]]
        stopped = [*self.plan["units"], *self.plan["programs"], *self.plan["apps"]]
        told = dict.fromkeys(files, f"set aside in {self.aside}")
        told |= dict.fromkeys(stopped, f"stopped, set aside in {self.aside}")
        for old, new in self.databases.items():
            told[str(old)] = "used where it is" if old == new else f"copied to {new}"
        for path in self.plan["media"]:
            told[path] = "used where it is" if path == str(self.site.media) else f"copied to {self.site.media}"
        return told

    # The data

    def folders(self) -> list[Folder]:
        """The site's folders while the old site serves: its data stays its own, and it may write beside a database."""
        if self.plan["phase"] == "switched":
            return self.site.folders()
        root, *others = self.site.folders()
        used = [*self.databases, *(Path(address) for address in self.plan["addresses"])]
        if str(root.path) in self.plan["folders"] and root.path in [path.parent for path in used]:
            root = Folder(root.path, "root", self.plan["group"], 0o1775)
        given = [folder for folder in others if str(folder.path) not in self.plan["kept"]]
        return [root, Folder(self.site.adopted, "root", "root", 0o700), *given]

    def hand_over(self) -> None:
        """Let the new release have the data. From here on the old site reads a database that was copied, and no more.

        Raises:
            DeploymentError: a database cannot be read or locked, or there is no room for the copies.
        """
        self.let_go()
        self._refuse_a_full_disk()
        for old, new in self.databases.items():
            if old != new:
                self._copy(old, new)
        self.write(stamps={str(old): _stamp(old) for old, new in self.databases.items() if old != new})
        self._copy_uploads()
        self._give(final=False)

    def _refuse_a_full_disk(self) -> None:
        copied = [old for old, new in self.databases.items() if old != new]
        copied += [Path(path) for path in self.plan["media"] if path != str(self.site.media)]
        needed = sum(django_takeover_data.measure([path], self._who(path), self._patience) for path in copied)
        free = shutil.disk_usage(self.site.root).free
        if needed * 1.1 > free:
            raise DeploymentError(
                f"the old site's data needs {needed >> 20} MiB in {self.site.root}, which has {free >> 20} MiB left",
                hint=f"make room, or choose the old site's folder as django:sites:{self.site.name}:root",
                transient=True,
            )

    def _who(self, path: Path) -> dict[str, Any]:
        """As whom a path of the old site is opened."""
        owner = self.plan["owner"]
        return django_takeover_data.identity((owner[0], owner[1]) if owner else None, path)

    @property
    def _patience(self) -> float:
        return seconds(self.site.config["timeouts"]["backup"])

    def _copy(self, old: Path, new: Path) -> None:
        """Copy a database, and keep it from being written to by anybody else from before that on."""
        try:
            try:
                self._hold(old, new, self._who(old))
            except DeploymentError as error:
                owner = django_takeover_data.identity(None, old)
                if "locked" in error.message or owner == self._who(old):
                    raise
                self._hold(old, new, owner)  # whoever runs the old site may not write to it
        except DeploymentError as error:
            self.let_go()
            raise DeploymentError(
                f"the old site's database {old} cannot be copied: {error.message}",
                hint=error.hint or f"look who uses it: fuser -v {old}; the old site serves on",
                transient=True,
            ) from None

    def _hold(self, old: Path, new: Path, who: dict[str, Any]) -> None:
        held = Held(old, who, PATIENCE)
        self._frozen.append(held)
        held.copy(self.site, new, shutil.disk_usage(self.site.root).free, self._patience)

    def _copy_uploads(self) -> None:
        """Bring what the old site's folders of uploads have, and the site's has not, into the site's."""
        for old in map(Path, self.plan["media"]):
            if old != self.site.media.top:
                django_takeover_data.copy_files(self.site, old, self._who(old), self.site.media.top, self._patience)

    def _give(self, *, final: bool) -> None:
        """Give the data to the site's user. Before the end another user that runs the old site may still read it."""
        site = self.site
        owner = self.plan["owner"]
        shares = not final and owner and owner[0] not in (0, django_host_user.user_id(site.user))
        group = self.plan["group"] if shares else site.user
        if str(site.database) in self.plan["kept"] or final:
            self._hand(site.database, group, final=final)
        for old, new in self.databases.items():
            if old == new and not old.is_relative_to(site.database.top):
                place = Foreign(Path("/"), *old.parts[1:])
                self._refuse_a_foreign_folder(place.parent)
                for ending in _COMPANIONS:
                    self._hand(place.parent / f"{place.name}{ending}", group, final=final)
        self._hand(site.media, site.proxy_group, final=final, extra=0o2000)
        if not shares:
            self._lent.clear()

    def _hand(self, tree: Foreign, group: str, *, final: bool, extra: int = 0) -> None:
        """Give a tree or a file to the site's user: folders 0750 and what `extra` adds, files 0640."""
        owner = (django_host_user.user_id(self.site.user), django_host_user.group_id(group))
        of = {self.plan["owner"][0]} if self.plan["owner"] else set()
        modes = Modes(0o750 | extra, 0o640, 0o640)
        self._lent.append((tree, tree.hand_over(owner, modes, of=of, strict=not final)))

    def _refuse_a_foreign_folder(self, folder: Foreign) -> None:
        status = folder.status()
        if not status or status.st_uid != django_host_user.user_id(self.site.user):
            whose = django_host_user.owner_of(status) if status else "nobody"
            raise DeploymentError(
                f"{folder} holds the database and belongs to {whose}, not to {self.site.user}",
                hint=f"chown {self.site.user} {folder}, or leave database:name out and let it be copied",
                transient=True,
            )

    def check(self, release: Release, databases: dict[str, dict[str, str]]) -> None:
        """Refuse a release that would begin with an empty database beside the old one.

        Raises:
            DeploymentError: the default database is none of those that the old site has used.
        """
        default = databases.get("default")
        path = default and django_database.database_file(self.site, release.path, release.facts, default)
        known = {*self.databases, *self.databases.values()}
        if path and known and path not in known:
            names = ", ".join(str(old) for old in self.databases)
            first = next(iter(self.databases.values())).name
            raise DeploymentError(
                f"the release would begin with an empty database {path}; the old site has {names}",
                hint=f"{django_database.pillar_key(self.site, 'default')}: {{engine: sqlite, name: {first}}}",
            )

    def let_go(self) -> None:
        """Let the old site write again."""
        while self._frozen:
            self._frozen.pop().let_go()
        while self._lent:
            tree, had = self._lent.pop()
            tree.take_back(had)

    # The switch

    def switch(self, wanted: Files, templates: Mapping[str, str]) -> None:
        """Have the proxy serve the release in place of the old site: all files at once, or everything as it was.

        Raises:
            DeploymentError: the proxy refuses the files, or the old site has written since its database was copied.
        """
        self._refuse_late_writes()
        theirs = [Path(path) for path in self.plan["servers"]]
        for path in theirs:
            target = self._place(path)
            if os.path.lexists(path) and not os.path.lexists(target):
                shutil.copy2(path, target, follow_symlinks=False)
        if self.plan["phase"] != "switched":
            proxy = django_proxy.PROXIES[self.site.config["proxy"]["kind"]]
            plain, secure = proxy.refused()
            http, https = [*plain, *self.site.config["proxy"]["listen"]], [*secure, *self.site.listens_tls]
            refusing = proxy.default_server(
                django_host_port.ordered(http), django_host_port.ordered(https), templates, without=theirs
            )
            self._former = django_host_service.children(proxy.DAEMON)
            django_proxy_switch.apply({**dict.fromkeys(theirs), **refusing, **wanted})
            self.write(phase="switched")

    def _refuse_late_writes(self) -> None:
        """After an apply that was cut short in the switch: nobody may have written to what had been copied before."""
        if self._frozen or self.plan["phase"] == "switched":
            return
        late = [old for old, stamp in self.plan.get("stamps", {}).items() if _stamp(Path(old)) != stamp]
        if late:
            raise DeploymentError(
                f"the old site has written to {', '.join(late)} after it was copied, when the adoption was cut short",
                hint=f"rm {self.site.current}, then apply again: it is copied anew",
                transient=True,
            )

    def end(self) -> list[str]:
        """Drain and stop the old site, set aside what is left of it, and give its data to the site's user alone.

        Returns:
            Warnings.
        """
        self.aside.mkdir(mode=0o700, exist_ok=True)
        warnings = self._drain()
        self._stop()
        self._lent.clear()
        self.let_go()
        self._copy_uploads()
        django_host_folder.make(self.site.folders()[0])  # from here on only root may rename in it
        for path in [*self.plan["entries"], *self.plan["units"], *self.plan["programs"]]:
            self._put_aside(Path(path))
        if self.plan["units"] and django_host_service.has_systemd():
            django_host_command.run(["systemctl", "daemon-reload"], doing="reading the units again")
        self._give(final=True)
        if self.plan["workers"]:
            names = ", ".join(self.plan["workers"])
            warnings.append(f"{names} served no pages and is stopped with the old site: there is nothing in its place")
        self.write(phase="done")
        (self.site.adopted / "plan.json").replace(self.aside / "adoption.json")
        return warnings

    def _drain(self) -> list[str]:
        patience = self.site.config["releases"]["drain"]
        deadline = time.monotonic() + seconds(patience)
        for address in self.plan["addresses"]:
            left = _still(functools.partial(django_release_drain.connections, address), deadline)
            if left:
                return [f"{left} connections to the old site were still open after {patience}, and were cut"]
        left = _still(self._answering, deadline) if self.plan["wsgi_user"] else 0
        return [f"{left} processes of Apache that have run the old site still answer after {patience}"] if left else []

    def _answering(self) -> int:
        """How many processes of Apache from before the switch still answer somebody; idle ones may stay for long."""
        listens = [*self.site.config["proxy"]["listen"], *self.site.listens_tls]
        former = self._former & django_host_service.children(django_host_service.APACHE)
        return len(django_host_port.connected(former, [django_host_port.split(listen)[1] for listen in listens]))

    def _stop(self) -> None:
        units = [Path(path).name for path in self.plan["units"] if Path(path).exists()]
        if units and django_host_service.has_systemd():
            argv = ["systemctl", "disable", "--quiet", "--now", *units]
            django_host_command.run(argv, doing=f"stopping {' '.join(units)}", timeout=120)
        for name in self.plan["names"]:
            self._stop_program(name)
        apps = [Path(path) for path in self.plan["apps"]]
        for path in apps:
            self._put_aside(path)  # first, or an emperor starts anew what has ended
        ours = [self.site.releases, self.site.virtualenvs]
        folders = [Path(folder) for folder in self.plan["folders"]]
        found = django_takeover_detection.loose(folders, self.plan["addresses"], apps)
        left = [process for process in found if not process.lies_in(ours)]
        for process in left:
            _signal(process.pid, signal.SIGINT if process.is_uwsgi() else signal.SIGTERM)
        deadline = time.monotonic() + 10
        while any(django_host_proc.is_running(process.pid) for process in left) and time.monotonic() < deadline:
            time.sleep(0.05)
        for process in left:
            _signal(process.pid, signal.SIGKILL)

    def _stop_program(self, name: str) -> None:
        """Stop a program of supervisor and have it forgotten; a supervisor that does not run has nothing to stop."""
        try:
            for verb, what in (("stop", f"{name}:*"), ("remove", name)):
                django_host_command.run(["supervisorctl", verb, what], doing=f"stopping {name}", timeout=120)
        except DeploymentError as error:
            if "no such file" not in error.log and "refused connection" not in error.log:
                raise

    def _place(self, path: Path) -> Path:
        target = self.aside / path.relative_to("/")
        target.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
        return target

    def _put_aside(self, path: Path) -> None:
        target = self._place(path)
        while os.path.lexists(target):
            target = target.with_name(f"{target.name}.again")
        try:
            if os.path.lexists(path):
                path.rename(target)
        except OSError as error:
            if error.errno != errno.EXDEV:
                raise
            new = target.with_name(f".{target.name}.new")
            django_host_file.remove_tree(new)
            argv = ["cp", "--archive", "--", str(path), str(new)]
            django_host_command.run(argv, doing=f"setting {path} aside", timeout=3600)
            new.rename(target)
            django_host_file.remove_tree(path)


def load(site: Site) -> Takeover | None:
    """The adoption of a site that is under way; None when there is none."""
    plan = django_host_file.read_json(site.adopted / "plan.json", _PLAN)
    return Takeover(site, plan) if plan and len(plan["owner"] or (0, 0)) == 2 else None


def wanted(site: Site) -> Takeover | None:
    """The adoption of a site that is under way, or is to begin; None where there is nothing to adopt.

    Raises:
        DeploymentError: see `django_takeover_detection.look`.
    """
    under_way = load(site)
    if under_way and under_way.plan["phase"] != "waiting":
        return under_way
    if not under_way and site.current.is_symlink() and site.applied.exists():
        return None
    adoption = django_takeover_detection.look(site, under_way.plan["kept"] if under_way else ())
    return _begin(site, adoption, under_way) if adoption else None


def _begin(site: Site, adoption: Adoption, under_way: Takeover | None) -> Takeover:
    """What an adoption will do, not yet written down; it goes on with one that has begun."""
    kept = [str(path) for path in (site.database, site.media) if path.names()]
    before = under_way.plan if under_way else {"aside": django_host_clock.now().replace(":", ""), "kept": kept}
    return Takeover(
        site,
        {
            "phase": "waiting",
            "aside": before["aside"],
            "found": [str(found) for found in adoption.found],
            "entries": [str(path) for path in adoption.entries],
            "servers": [str(path) for path in adoption.servers],
            "wsgi_user": adoption.wsgi_user,
            "units": [str(path) for path in adoption.units],
            "programs": [str(path) for path in adoption.programs],
            "apps": [str(path) for path in adoption.apps],
            "names": adoption.names,
            "workers": adoption.workers,
            "folders": [str(path) for path in adoption.folders],
            "addresses": adoption.addresses,
            "databases": {str(old): str(new) for old, new in adoption.databases.items()},
            "media": [str(path) for path in adoption.media],
            "owner": list(adoption.owner) if adoption.owner else None,
            "group": django_host_user.group_name(adoption.owner[1]) if adoption.owner else "root",
            "kept": before["kept"],
        },
    )


def _still(count: Callable[[], int], deadline: float) -> int:
    """Wait until twice there is nothing to count; what is left at the deadline."""
    idle = 0
    while idle < 2:
        left = count()
        idle = 0 if left else idle + 1
        if left and time.monotonic() > deadline:
            return left
        time.sleep(0.05)
    return 0


def _stamp(path: Path) -> list[int]:
    """Sizes and times of a database and its journals, which a write changes."""
    stamp: list[int] = []
    for ending in ("", "-wal"):
        with contextlib.suppress(FileNotFoundError):
            status = os.lstat(f"{path}{ending}")
            stamp += [status.st_size, status.st_mtime_ns] if status.st_size else []
    return stamp


def _signal(pid: int, number: signal.Signals) -> None:
    with contextlib.suppress(ProcessLookupError):
        os.kill(pid, number)
