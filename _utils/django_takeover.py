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
import sqlite3
import time
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import django_adoption
import django_command
import django_database
import django_instance
import django_port
import django_proxy
import django_service
import django_site
from django_adoption import Adoption
from django_command import DeploymentError, seconds
from django_etc import Files
from django_release import Release
from django_site import Folder, Site

_COMPANIONS = ("", "-journal", "-wal", "-shm")


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
        #: Connections that keep the old site from writing to a database that has been copied.
        self._frozen: list[sqlite3.Connection] = []
        #: Who had the data that another user's old site uses in the same place, and its modes.
        self._lent: dict[Path, os.stat_result] = {}
        #: The processes of Apache before the switch, which may run the old site.
        self._former: set[int] = set()

    def write(self, **values: Any) -> None:
        """Change the plan, on disk too."""
        self.plan.update(values)
        django_site.write_json(self.site.adopted / "plan.json", self.plan, mode=0o600)

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
        if str(root.path) in self.plan["folders"]:
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
        folder = self.site.media
        if str(folder) not in self.plan["kept"]:
            os.chown(folder, django_site.user_id("root"), django_site.group_id("root"))
        self._copy_uploads()
        self._give(final=False)

    def _refuse_a_full_disk(self) -> None:
        copied = [old for old, new in self.databases.items() if old != new]
        copied += [Path(path) for path in self.plan["media"] if path != str(self.site.media)]
        needed = sum(path.lstat().st_size for top in copied for path in [top, *top.rglob("*")] if path.is_file())
        free = shutil.disk_usage(self.site.root).free
        if needed * 1.1 > free:
            raise DeploymentError(
                f"the old site's data needs {needed >> 20} MiB in {self.site.root}, which has {free >> 20} MiB left",
                hint=f"make room, or choose the old site's folder as django:sites:{self.site.name}:root",
                transient=True,
            )

    def _copy(self, old: Path, new: Path) -> None:
        """Copy a database, and keep it from being written to by anybody else from before that on.

        While it is frozen nothing of this process may open and close the old file: that would end the lock.
        """
        temporary = self.site.adopted / new.name  # nobody but root may put a link there
        _remove_database(temporary)
        try:
            lock = sqlite3.connect(f"{old.as_uri()}?mode=rw", uri=True, timeout=30, isolation_level=None)
            self._frozen.append(lock)
            lock.execute("BEGIN IMMEDIATE")
            with (
                contextlib.closing(sqlite3.connect(f"{old.as_uri()}?mode=rw", uri=True)) as source,
                contextlib.closing(sqlite3.connect(temporary)) as copy,
            ):
                source.backup(copy)
        except sqlite3.Error as error:
            self.let_go()
            raise DeploymentError(
                f"the old site's database {old} cannot be copied: {error}",
                hint=f"look who uses it: fuser -v {old}; the old site serves on",
                transient=True,
            ) from None
        _hand(temporary, self.site.user, self.site.user)
        _remove_database(new)
        _move(temporary, new)
        django_site.sync_folder(new.parent)

    def _copy_uploads(self) -> None:
        """Bring what the old site's folders of uploads have, and the site's has not, into the site's."""
        for old in map(Path, self.plan["media"]):
            if old != self.site.media:
                for path in _files_below(old):
                    target = self.site.media / path.relative_to(old)
                    target.parent.mkdir(parents=True, exist_ok=True)
                    is_older = not os.path.lexists(target) or target.lstat().st_mtime < path.stat().st_mtime
                    if is_older and target.parent.resolve().is_relative_to(self.site.media):
                        target.unlink(missing_ok=True)
                        shutil.copy2(path, target, follow_symlinks=False)
                        _hand(target, self.site.user, self.site.proxy_group)

    def _give(self, *, final: bool) -> None:
        """Give the data to the site's user. Before the end another user that runs the old site may still read it."""
        site = self.site
        owner = self.plan["owner"]
        shares = not final and owner and owner[0] not in (0, django_site.user_id(site.user))
        group = self.plan["group"] if shares else site.user
        lent = [Path(path) for path in self.plan["kept"]] if shares else []
        self._lent = {path: os.lstat(path) for top in lent for path in [top, *top.rglob("*")]}
        if str(site.database) in self.plan["kept"] or final:
            _hand(site.database, site.user, group)
        for old, new in self.databases.items():
            if old == new and not old.is_relative_to(site.database):
                self._refuse_a_foreign_folder(old.parent)
                for ending in _COMPANIONS:
                    _hand(Path(f"{old}{ending}"), site.user, group)
        _hand(site.media, site.user, site.proxy_group, extra=0o2000)

    def _refuse_a_foreign_folder(self, folder: Path) -> None:
        status = folder.stat()
        if status.st_uid != django_site.user_id(self.site.user):
            raise DeploymentError(
                f"{folder} holds the database and belongs to {django_site.owner_of(status)}, not to {self.site.user}",
                hint=f"chown {self.site.user} {folder}, or leave database:name out and let it be copied",
                transient=True,
            )

    def check(self, release: Release, databases: dict[str, dict[str, str]]) -> None:
        """Refuse a release that would begin with an empty database beside the old one.

        Raises:
            DeploymentError: the default database is none of those that the old site has used.
        """
        default = databases.get("default")
        path = default and django_database.file_of(self.site, release.path, release.facts, default)
        known = {*self.databases, *self.databases.values()}
        if path and known and path not in known:
            names = ", ".join(str(old) for old in self.databases)
            first = next(iter(self.databases.values())).name
            raise DeploymentError(
                f"the release would begin with an empty database {path}; the old site has {names}",
                hint=f"{django_database.place(self.site, 'default')}: {{engine: sqlite, name: {first}}}",
            )

    def let_go(self) -> None:
        """Let the old site write again."""
        while self._frozen:
            self._frozen.pop().close()
        for path, status in self._lent.items():
            with contextlib.suppress(FileNotFoundError):
                os.chown(path, status.st_uid, status.st_gid, follow_symlinks=False)
                if not path.is_symlink():
                    path.chmod(status.st_mode & 0o7777)
        self._lent.clear()

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
                django_port.ordered(http), django_port.ordered(https), templates, without=theirs
            )
            self._former = django_service.children(django_service.pid(proxy.DAEMON))
            django_proxy.apply({**dict.fromkeys(theirs), **refusing, **wanted})
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
        for path in [*self.plan["entries"], *self.plan["units"], *self.plan["programs"]]:
            self._put_aside(Path(path))
        if self.plan["units"] and django_service.has_systemd():
            django_command.run(["systemctl", "daemon-reload"], doing="reading the units again")
        self._give(final=True)
        django_site.make_folder(self.site.folders()[0])
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
            left = _still(functools.partial(django_instance.connections, address), deadline)
            if left:
                return [f"{left} connections to the old site were still open after {patience}, and were cut"]
        left = _still(self._answering, deadline) if self.plan["wsgi_user"] else 0
        return [f"{left} processes of Apache that have run the old site still answer after {patience}"] if left else []

    def _answering(self) -> int:
        """How many processes of Apache from before the switch still answer somebody; idle ones may stay for long."""
        listens = [*self.site.config["proxy"]["listen"], *self.site.listens_tls]
        former = self._former & django_service.children(django_service.pid(django_service.APACHE))
        return len(django_port.answering(former, [django_port.split(listen)[1] for listen in listens]))

    def _stop(self) -> None:
        units = [Path(path).name for path in self.plan["units"] if Path(path).exists()]
        if units and django_service.has_systemd():
            argv = ["systemctl", "disable", "--quiet", "--now", *units]
            django_command.run(argv, doing=f"stopping {' '.join(units)}", timeout=120)
        for name in self.plan["names"]:
            self._stop_program(name)
        apps = [Path(path) for path in self.plan["apps"]]
        for path in apps:
            self._put_aside(path)  # first, or an emperor starts anew what has ended
        ours = [self.site.releases, self.site.virtualenvs]
        folders = [Path(folder) for folder in self.plan["folders"]]
        found = django_adoption.loose(folders, self.plan["addresses"], apps)
        left = [process for process in found if not process.lies_in(ours)]
        for process in left:
            _signal(process.pid, signal.SIGINT if process.is_uwsgi() else signal.SIGTERM)
        deadline = time.monotonic() + 10
        while any(Path(f"/proc/{process.pid}/exe").exists() for process in left) and time.monotonic() < deadline:
            time.sleep(0.05)
        for process in left:
            _signal(process.pid, signal.SIGKILL)

    def _stop_program(self, name: str) -> None:
        """Stop a program of supervisor and have it forgotten; a supervisor that does not run has nothing to stop."""
        try:
            for verb, what in (("stop", f"{name}:*"), ("remove", name)):
                django_command.run(["supervisorctl", verb, what], doing=f"stopping {name}", timeout=120)
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
            django_site.remove_tree(new)
            argv = ["cp", "--archive", "--", str(path), str(new)]
            django_command.run(argv, doing=f"setting {path} aside", timeout=3600)
            new.rename(target)
            django_site.remove_tree(path)


def load(site: Site) -> Takeover | None:
    """The adoption of a site that is under way; None when there is none."""
    plan = django_site.read_json(site.adopted / "plan.json")
    return Takeover(site, plan) if plan else None


def wanted(site: Site) -> Takeover | None:
    """The adoption of a site that is under way, or is to begin; None where there is nothing to adopt.

    Raises:
        DeploymentError: see `django_adoption.look`.
    """
    under_way = load(site)
    if under_way and under_way.plan["phase"] != "waiting":
        return under_way
    if not under_way and site.current.is_symlink() and site.applied.exists():
        return None
    adoption = django_adoption.look(site, under_way.plan["kept"] if under_way else ())
    return _begin(site, adoption, under_way) if adoption else None


def _begin(site: Site, adoption: Adoption, under_way: Takeover | None) -> Takeover:
    """What an adoption will do, not yet written down; it goes on with one that has begun."""
    kept = [str(path) for path in (site.database, site.media) if path.is_dir() and any(path.iterdir())]
    before = under_way.plan if under_way else {"aside": django_site.now().replace(":", ""), "kept": kept}
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
            "group": django_site.group_name(adoption.owner[1]) if adoption.owner else "root",
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


def _files_below(folder: Path) -> Iterator[Path]:
    """The plain files below a folder; links are not followed, and not taken over."""
    for parent, _folders, files in os.walk(folder):
        yield from (path for name in files if (path := Path(parent, name)).is_file() and not path.is_symlink())


def _hand(top: Path, user: str, group: str, extra: int = 0) -> None:
    """Give a tree or a file to a user: folders 0750 and what `extra` adds, files 0640."""
    if not os.path.lexists(top):
        return
    django_site.give(top, user, group)
    for path in [top, *(top.rglob("*") if top.is_dir() else ())]:
        if not path.is_symlink():
            path.chmod(0o750 | extra if path.is_dir() else 0o640)


def _stamp(path: Path) -> list[int]:
    """Sizes and times of a database and its journals, which a write changes."""
    stamp: list[int] = []
    for ending in ("", "-wal"):
        with contextlib.suppress(FileNotFoundError):
            status = os.stat(f"{path}{ending}")
            stamp += [status.st_size, status.st_mtime_ns] if status.st_size else []
    return stamp


def _move(path: Path, target: Path) -> None:
    """Move a file, to another disk too; a link at the target is replaced, never followed."""
    try:
        path.replace(target)
    except OSError as error:
        if error.errno != errno.EXDEV:
            raise
        status = path.stat()
        with open(path, "rb") as old, open(target, "xb") as new:
            os.fchmod(new.fileno(), status.st_mode & 0o7777)
            os.fchown(new.fileno(), status.st_uid, status.st_gid)
            shutil.copyfileobj(old, new, 1 << 20)
        path.unlink()


def _remove_database(path: Path) -> None:
    for ending in _COMPANIONS:
        Path(f"{path}{ending}").unlink(missing_ok=True)


def _signal(pid: int, number: signal.Signals) -> None:
    with contextlib.suppress(ProcessLookupError):
        os.kill(pid, number)
