"""A site on disk: its paths, who owns them, and the configuration as last applied."""

import calendar
import contextlib
import fcntl
import grp
import hashlib
import json
import os
import pwd
import re
import shutil
import signal
import stat
import time
from collections.abc import Callable, Collection, Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple
from urllib.parse import quote, unquote

import django_host_command
import django_host_port
import django_host_service
import django_wall_shape
from django_host_command import DeploymentError
from django_wall_foreign import Foreign

#: Where the sites of this host are registered: a link to the root of each, so that whoever has the name finds the site.
REGISTRY = Path("/var/lib/django-formula/sites")
RUNTIME = Path("/run/django")
TMPFILES = Path("/etc/tmpfiles.d")
#: What `site.json` has at the least.
_APPLIED = {
    "config": {"name": str, "user": str, "root": str, "path": str, "domains": [str], "databases": {str: {}}},
    "platform": {"nginx": {"group": str}},
    "sum?": str,
}


class Folder(NamedTuple):
    """A folder of a site with its owner, group and mode."""

    path: Path
    owner: str
    group: str
    mode: int


class Site:
    """One Django project on this host.

    Args:
        config: the effective configuration, as `django_pillar` compiles it; it holds no secret.
        platform: names of the operating system (`platforms.yaml`).
    """

    def __init__(self, config: Mapping[str, Any], platform: Mapping[str, Any]):
        self.config = config
        self.platform = platform
        self.name: str = config["name"]
        self.user: str = config["user"]
        self.build_user = f"{self.user}-build"
        self.proxy_group: str = platform["nginx"]["group"]
        self.process: str = config.get("process", "systemd")
        tls = config.get("tls") or {"kind": "none"}
        #: Where it is served by https, as the pillar has it, and at which ports; nowhere where it has no certificate.
        self.listens_tls: list[django_host_port.Listen] = list(tls["listen"]) if tls["kind"] != "none" else []
        self.https = sorted({django_host_port.split(listen)[1] for listen in self.listens_tls})
        self.scheme = "https" if self.https else "http"
        #: The address on which systemd listens for a site that has no proxy; empty where none is said.
        self.listener: str = config.get("listener", "")
        self.root = Path(config["root"])
        self.mirror = self.root / "repository.git"
        self.build = Foreign(self.root / "build")
        self.virtualenvs = self.root / "virtualenvs"
        self.releases = self.root / "releases"
        self.current = self.root / "current"
        self.previous = self.root / "previous"
        self.database = Foreign(self.root / "database")
        self.media = Foreign(self.root / "media")
        self.shared = Foreign(self.root / "shared")
        self.secrets = self.root / "secrets"
        elsewhere = (config.get("backup") or {}).get("directory")
        self.backups = Path(elsewhere, self.name) if elsewhere else self.root / "backups"
        self.log = Foreign(self.root / "log")
        self.templates = self.root / "templates"
        self.template_sums = self.templates / ".sums.json"
        self.maintenance = self.root / "maintenance"
        self.errors = self.root / "errors"
        self.applied = self.root / "site.json"
        self.deploys = self.root / "deploys.jsonl"
        self.adopted = self.root / "adopted"
        self.lock_file = self.root / "lock"
        self.runtime = RUNTIME / self.name
        #: What has been found of its sandbox since the boot; not in `runtime`, where the site may write.
        self.confinement = RUNTIME / f"{self.name}.sandbox.json"
        #: What its SQLite files have said of their migrations; root's, as above.
        self.schema = RUNTIME / f"{self.name}.schema.json"
        #: The logins of databases that were chosen since this object was made, by alias.
        self.logins: dict[str, str] = {}
        self.tmpfiles = TMPFILES / f"django-{self.name}.conf"

    def folders(self) -> list[Folder]:
        """Every folder of the site, parents first."""
        return [
            Folder(self.root, "root", "root", 0o755),
            Folder(self.mirror, "root", "root", 0o700),
            Folder(self.build.top, self.build_user, self.build_user, 0o700),
            Folder(self.virtualenvs, "root", "root", 0o755),
            Folder(self.releases, "root", "root", 0o755),
            Folder(self.database.top, self.user, self.user, 0o750),
            Folder(self.media.top, self.user, self.proxy_group, 0o2750),
            Folder(self.shared.top, self.user, self.user, 0o750),
            Folder(self.secrets, "root", self.user, 0o750),
            Folder(self.backups, "root", "root", 0o700),
            Folder(self.log.top, self.user, "adm", 0o750),
            Folder(self.templates, "root", "root", 0o700),
            self.runtime_folder(self.current),
        ]

    def runtime_folder(self, release: Path) -> Folder:
        """The folder in /run in which the sockets of the site are, as a release needs it that is live.

        It is root's, for systemd gives what it makes there to the site: one that the site may write could have a link
        in its place. Releases of an older formula whose server binds its socket there by itself need it as it was;
        systemd makes no socket for them.
        """
        recorded = read_json(release / "config/instance.json") or {}
        binds = recorded.get("process") == "supervisor" or recorded.get("server") == "granian"
        if binds and Path(str(recorded.get("address"))).parent == self.runtime:
            return Folder(self.runtime, self.user, self.proxy_group, 0o2750)
        return Folder(self.runtime, "root", self.proxy_group, 0o751)

    def open_runtime(self, release: Path) -> None:
        """Make that folder ready for a release that is to be started, now and at the next boot."""
        folder, own = self.runtime_folder(release), self._own_folder(release)
        if wrong_folder(folder):
            was_own = self.runtime.exists() and os.stat(self.runtime).st_uid != 0
            make_folder(folder)
            if was_own and folder.owner == "root":
                self._clear_runtime(own)
        if own and wrong_folder(own):
            make_folder(own)
        if django_host_service.has_systemd() and read_text(self.tmpfiles) not in (None, self._tmpfiles(release)):
            write(self.tmpfiles, self._tmpfiles(release))

    def _own_folder(self, release: Path) -> Folder | None:
        """The folder in which the server of a release binds its socket, where systemd keeps it alive.

        (supervisor.sh makes one by itself.) No unit makes it: even what a unit runs as root has its mount namespace,
        in which `/run` is read-only.
        """
        recorded = read_json(release / "config/instance.json") or {}
        folder = Path(str(recorded.get("address"))).parent
        if recorded.get("process", "systemd") == "systemd" and folder.parent == self.runtime:
            return Folder(folder, self.user, self.proxy_group, 0o2750)
        return None

    def _clear_runtime(self, own: Folder | None) -> None:
        """Delete what the site may have put into its folder in /run while that was its own, but for what serves."""
        tree = Foreign(self.runtime)
        for name in tree.names():
            status = (tree / name).status()
            is_own = own is not None and own.path.name == name and (tree / name).is_folder()
            if is_own or status is None or stat.S_ISSOCK(status.st_mode):
                continue
            if status.st_uid or not stat.S_ISDIR(status.st_mode):
                (tree / name).remove()

    def plans(self) -> list[Path]:
        """The folders of plans, each named after the process that builds a release there."""
        return [path for path in self.root.glob("plan-*") if re.fullmatch(r"plan-\d+", path.name)]

    def user_exists(self) -> bool:
        """Whether the site's identities are on this host."""
        return user_id(self.user) >= 0 and user_id(self.build_user) >= 0

    def is_registered(self) -> bool:
        """Whether the host knows the site: its root by its name, its runtime folder at boot."""
        entry = REGISTRY / self.name
        return (
            entry.is_symlink()
            and os.readlink(entry) == str(self.root)
            and (not django_host_service.has_systemd() or read_text(self.tmpfiles) == self._tmpfiles(self.current))
        )

    def register(self) -> None:
        """Make the site known to the host, unless it is."""
        if self.is_registered():
            return
        REGISTRY.mkdir(parents=True, exist_ok=True)
        link(REGISTRY / self.name, str(self.root))
        if django_host_service.has_systemd():
            write(self.tmpfiles, self._tmpfiles(self.current))

    def _tmpfiles(self, release: Path) -> str:
        """The lines by which systemd-tmpfiles makes the folders in /run at boot, for the live release and this one."""
        own = [self._own_folder(one) for one in (self.current, release)]
        folders = [self.runtime_folder(release), *filter(None, own)]
        lines = (f"d {one.path} {one.mode:04o} {one.owner} {one.group} -\n" for one in folders)
        return "".join(dict.fromkeys(lines))

    def kept_template(self, url: str) -> Path:
        """Where the text of a template lies that the site was last rendered from."""
        return self.templates / quote(url.removeprefix("salt://"), safe="")

    def stale_templates(self, templates: Mapping[str, str]) -> list[str]:
        """What `keep_templates` would write: URLs, or the file of their checksums."""
        stale = [url for url, text in templates.items() if read_text(self.kept_template(url)) != text]
        sums = {url: checksum(text) for url, text in templates.items()}
        return sorted(stale) or ([] if read_json(self.template_sums) == sums else [str(self.template_sums)])

    def keep_templates(self, templates: Mapping[str, str]) -> None:
        """Keep the templates that the site is rendered from, by URL, in the place of those before."""
        for url, text in templates.items():
            if read_text(self.kept_template(url)) != text:
                write(self.kept_template(url), text, mode=0o600)
        for path in {*self.templates.iterdir()} - {self.template_sums, *map(self.kept_template, templates)}:
            path.unlink()
        write_json(self.template_sums, {url: checksum(text) for url, text in templates.items()}, mode=0o600)

    def kept_templates(self) -> dict[str, str]:
        """The templates that the site was last rendered from, by URL.

        Raises:
            DeploymentError: one is not as it was kept.
        """
        kept = [path for path in self.templates.iterdir() if not path.name.startswith(".")]
        texts = {f"salt://{unquote(path.name)}": read_text(path) or "" for path in kept}
        sums = read_json(self.template_sums) or {}
        damaged = [url for url, text in texts.items() if sums.get(url) != checksum(text)]
        if damaged:
            raise DeploymentError(
                f"{self.kept_template(damaged[0])} is not as the last apply has left it",
                hint="salt-call state.apply django writes it anew",
            )
        return texts


def find(name: str) -> Site:
    """The site of that name as it was last applied.

    Raises:
        DeploymentError: there is no such site on this host, or its configuration cannot be read.
    """
    is_known = re.fullmatch(r"[a-z][a-z0-9-]*", name) and (REGISTRY / name).is_symlink()
    applied = read_applied(REGISTRY / name / "site.json") or {} if is_known else {}
    if is_known and not applied:
        raise DeploymentError(
            f"{os.readlink(REGISTRY / name)}/site.json, the configuration of {name} as applied, is gone or damaged",
            hint="salt-call state.apply django writes it anew",
        )
    if not applied:
        known = ", ".join(registered()) or "none"
        raise DeploymentError(
            f"there is no site {name!r} on this host (registered: {known})",
            hint="salt-call state.apply django makes the sites of the pillar",
        )
    return Site(applied["config"], applied["platform"])


def registered() -> list[str]:
    """The names of the sites on this host."""
    return sorted(path.name for path in REGISTRY.iterdir() if not is_temporary(path)) if REGISTRY.is_dir() else []


def refuse_another_identity(site: Site, managed: Collection[str]) -> None:
    """A site's root, user and name hold its data: they do not change by a change of the pillar alone.

    Args:
        managed: the names of the sites that the pillar has on this host.

    Raises:
        DeploymentError: one has changed; the error says how that is done.
    """
    before = (read_applied(REGISTRY / site.name / "site.json") or {}).get("config", {})
    for key in ("root", "user"):
        if before.get(key, site.config[key]) != site.config[key]:
            raise DeploymentError(
                f"{site.name} lives on this host with {key}: {before[key]}, and its data with it; "
                f"the pillar now says {site.config[key]}",
                hint=f"keep django:sites:{site.name}:{key}: {before[key]}, "
                "or take the site off first (state: absent) and move its data",
            )
    for name in sorted({*registered()} - {site.name, *managed}):
        other = (read_applied(REGISTRY / name / "site.json") or {}).get("config")
        if not other:
            continue
        shared = sorted({*other["domains"]} & {*site.config["domains"]}) if other["path"] == site.config["path"] else []
        if shared or other["root"] == site.config["root"]:
            raise DeploymentError(
                f"{name}, which the pillar no longer has, still serves {shared[0] if shared else other['root']} here",
                hint=f"keep its name; or apply with django:sites:{name}: {{state: absent}} first, then with "
                f"{site.name}: {{root: {other['root']}, user: {other['user']}}}, which has its data again",
            )


def wrong_folder(folder: Folder) -> str:
    """What is wrong with a folder, in words; empty when nothing is.

    Raises:
        DeploymentError: the path is taken by something that is not a folder.
    """
    try:
        status = os.lstat(folder.path)
    except FileNotFoundError:
        return "missing"
    if not stat.S_ISDIR(status.st_mode):
        raise _in_the_way(folder.path)
    found = (status.st_uid, status.st_gid, stat.S_IMODE(status.st_mode))
    wanted = (user_id(folder.owner), group_id(folder.group), folder.mode)
    return (
        ""
        if found == wanted
        else f"{owner_of(status)} {found[2]:04o}, not {folder.owner}:{folder.group} {folder.mode:04o}"
    )


def refuse_parents_of_others(path: Path, at: str) -> None:
    """Refuse a path below a folder in which anybody but root may rename: they would decide what root works in.

    Args:
        at: the key of the pillar that names the path.

    Raises:
        DeploymentError: there is such a folder.
    """
    for place in dict.fromkeys([path, Path(os.path.realpath(path))]):
        for parent in reversed(place.parents):
            try:
                status = os.lstat(parent)
            except FileNotFoundError:
                break
            is_link = stat.S_ISLNK(status.st_mode)
            if status.st_uid == 0 and (is_link or not status.st_mode & (0o002 if not status.st_gid else 0o022)):
                continue
            way = f"chown root: {parent}" if status.st_uid else f"chmod go-w {parent}"
            raise DeploymentError(
                f"{path} cannot be used: {parent} is {owner_of(status)} {status.st_mode & 0o7777:04o}, "
                "and who may write there can put another folder in its place, for root to work in",
                hint=f"leave {at} out, and take the usual folder; or give that folder to root: {way}",
            )


def make_folder(folder: Folder) -> None:
    """Make a folder, or give it its owner, group and mode."""
    folder.path.parent.mkdir(parents=True, exist_ok=True, mode=0o755)
    with contextlib.suppress(FileExistsError):
        folder.path.mkdir(mode=0o700)
    try:
        descriptor = os.open(folder.path, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC)
    except NotADirectoryError:
        raise _in_the_way(folder.path) from None
    try:
        os.fchown(descriptor, user_id(folder.owner), group_id(folder.group))
        os.fchmod(descriptor, folder.mode)
    finally:
        os.close(descriptor)


def _in_the_way(path: Path) -> DeploymentError:
    return DeploymentError(f"{path} is in the way: it is not a folder", hint=f"move it away: mv {path} {path}.aside")


def inside(top: Foreign, path: str, at: str, *, link: bool = True) -> Foreign:
    """A path below a folder that somebody else has written.

    Args:
        at: the key of the pillar that names the path, for the error.
        link: whether the path itself may be a link; a folder on the way to it may not.

    Raises:
        DeploymentError: there is a link, which may lead anywhere.
    """
    for part in [*reversed(Path(path).parents), *([] if link else [Path(path)])]:
        if (top / str(part)).is_link():
            raise DeploymentError(f"{at}: {path} leads through the link {part}", hint="name where it really is")
    return top / path


#: Numbers of root and its group.
ROOT = (0, 0)


def owner(user: str, group: str) -> tuple[int, int]:
    """The numbers of a user and a group, as `django_wall_foreign` takes them."""
    return user_id(user), group_id(group)


def find_user(name: str) -> pwd.struct_passwd | None:
    """The entry of a user; None when there is none.

    Raises:
        OSError: it cannot be known, for no more files may be opened.
    """
    try:
        return pwd.getpwnam(name)
    except KeyError:
        _refuse_to_guess()
        return None


def _refuse_to_guess() -> None:
    """For Python nobody is there either where the file of users cannot be opened."""
    os.close(os.open("/", os.O_RDONLY))


def user_id(name: str) -> int:
    """The uid of a user; -2, which nobody has, while the user does not exist."""
    user = find_user(name)
    return user.pw_uid if user else -2


def group_id(name: str) -> int:
    """The gid of a group; -2, which nobody has, while the group does not exist."""
    try:
        return grp.getgrnam(name).gr_gid
    except KeyError:
        _refuse_to_guess()
        return -2


def group_name(gid: int) -> str:
    """The name of a group; ``root`` where it has none."""
    try:
        return grp.getgrgid(gid).gr_name
    except KeyError:
        return "root"


def owner_of(status: os.stat_result) -> str:
    """``user:group`` of a stat result, numbers where there is no name."""
    try:
        user = pwd.getpwuid(status.st_uid).pw_name
    except KeyError:
        user = str(status.st_uid)
    try:
        group = grp.getgrgid(status.st_gid).gr_name
    except KeyError:
        group = str(status.st_gid)
    return f"{user}:{group}"


def write(
    path: Path,
    content: str | bytes,
    *,
    mode: int = 0o644,
    user: str = "root",
    group: str = "root",
    durable: bool = True,
) -> None:
    """Write a file so that it is there whole or not at all, through any loss of power.

    Args:
        durable: False for a file of a release in the making, which is brought to disk as a whole before it goes live.
    """
    temporary = path.with_name(f".{path.name}.new")
    with contextlib.suppress(FileNotFoundError):
        temporary.unlink()
    descriptor = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW, 0o600)
    with open(descriptor, "wb") as file:
        os.fchown(descriptor, user_id(user), group_id(group))
        os.fchmod(descriptor, mode)
        file.write(content.encode(errors="surrogateescape") if isinstance(content, str) else content)
        file.flush()
        if durable:
            os.fsync(descriptor)
    temporary.replace(path)
    if durable:
        sync_folder(path.parent)


def checksum(text: str) -> str:
    """What tells whether a text is whole."""
    return hashlib.sha256(text.encode(errors="surrogateescape")).hexdigest()


def is_temporary(path: Path) -> bool:
    """Whether a file is what `write` or `link` had begun when it was killed."""
    return path.name.startswith(".") and path.name.endswith(".new")


def write_json(path: Path, value: Any, **options: Any) -> None:
    """Write a value as JSON, as `write` does."""
    write(path, json.dumps(value, indent=1, sort_keys=True) + "\n", **options)


def read_json(path: Path, shape: Any = None) -> dict[str, Any] | None:
    """The object in a JSON file; None when the file is missing or torn, or has another shape (`django_wall_shape`)."""
    try:
        value = json.loads(path.read_bytes())
    except (FileNotFoundError, NotADirectoryError, ValueError, RecursionError):
        return None
    return value if isinstance(value, dict) and (shape is None or django_wall_shape.fits(value, shape)) else None


def sealed(values: Mapping[str, Any]) -> dict[str, Any]:
    """An object for a JSON file with a checksum of its own, ``sum``."""
    value = json.loads(json.dumps({name: one for name, one in values.items() if name != "sum"}))
    return {**value, "sum": checksum(json.dumps(value, sort_keys=True))}


def read_sealed(path: Path) -> dict[str, Any]:
    """Return an object that `sealed` has made, from its JSON file; an empty one where it is missing or damaged."""
    value = read_json(path) or {}
    return value if value and value.get("sum") == sealed(value)["sum"] else {}


def read_applied(path: Path) -> dict[str, Any] | None:
    """The content of ``site.json``; None when it is missing, torn, or not what was written."""
    applied = read_json(path, _APPLIED)
    return applied if applied and applied.get("sum") in (None, sealed(applied)["sum"]) else None


def read_text(path: Path) -> str | None:
    """The text of a file, whatever its bytes are; None when it is missing."""
    try:
        return path.read_text(errors="surrogateescape")
    except FileNotFoundError:
        return None


def read_named(path: Path, limit: int = 1 << 20, *, follow: bool = True) -> bytes:
    """Return the beginning of a plain file that others may have written, or put there; nothing where it is none.

    Nothing blocks (a FIFO), and nothing is read without a bound (`/dev/zero`).

    Args:
        follow: whether the path may be a link.
    """
    flags = os.O_RDONLY | os.O_NONBLOCK | os.O_NOCTTY | os.O_CLOEXEC | (0 if follow else os.O_NOFOLLOW)
    try:
        descriptor = os.open(path, flags)
    except (OSError, ValueError):
        return b""
    with open(descriptor, "rb") as file:
        return file.read(limit) if stat.S_ISREG(os.fstat(descriptor).st_mode) else b""


def append(path: Path, line: str, *, mode: int) -> None:
    """Add a line to a file, on disk too; half a line that is its last one stays one of its own."""
    is_new = not path.exists()
    descriptor = os.open(path, os.O_RDWR | os.O_APPEND | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC, mode)
    with open(descriptor, "a+b") as file:
        os.fchmod(file.fileno(), mode)
        end = file.seek(0, os.SEEK_END)
        whole = not end or os.pread(file.fileno(), 1, end - 1) == b"\n"
        file.write(f"{'' if whole else chr(10)}{line}\n".encode())
        file.flush()
        os.fsync(file.fileno())
    if is_new:
        sync_folder(path.parent)


def link(path: Path, target: str, *, durable: bool = True) -> None:
    """Make a link point to a target in one rename, through any loss of power.

    Args:
        durable: as for `write`.
    """
    temporary = path.with_name(f".{path.name}.new")
    with contextlib.suppress(FileNotFoundError):
        temporary.unlink()
    temporary.symlink_to(target)
    temporary.replace(path)
    if durable:
        sync_folder(path.parent)


def sync_folder(path: Path) -> None:
    """Bring what was made, renamed or deleted in a folder to disk."""
    descriptor = os.open(path, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def sync(path: Path) -> None:
    """Bring the file system of a folder to disk.

    Raises:
        DeploymentError: that fails.
    """
    django_host_command.run(["sync", "--file-system", str(path)], doing=f"writing {path.name} to the disk")


def remove_tree(path: Path) -> None:
    """Delete a folder and all below it; nothing happens when it is not there."""
    if path.is_symlink() or path.is_file():
        path.unlink()
    elif path.exists():
        try:
            shutil.rmtree(path)
        except RecursionError:  # rm needs no frame for each folder, and follows no link either
            django_host_command.run(["rm", "-rf", "--", str(path)], doing=f"deleting {path}", timeout=600)


class Lock:
    """The lock of a site: held by the open file, so that it ends with the last process that has it.

    No command inherits it, but for the process that ends the others where there is no systemd (`django_wall_reaper`).

    Args:
        what: who takes it, for whoever has to wait.
        path: another file, for a lock `of` something else than a deployment.
    """

    def __init__(self, site: Site, what: str, *, path: Path | None = None, of: str = "deployment"):
        self.path = path or site.lock_file
        self.of = of
        self.what = what
        self.site = site
        self.descriptor: int | None = None

    def take(self, *, clock: Callable[[], float] = time.monotonic) -> None:
        """Take the lock, waiting as long as `timeouts:lock` says.

        Raises:
            DeploymentError: somebody else holds it; the error says who, since when and for what.
        """
        if self.descriptor is not None:
            return
        patience = self.site.config["timeouts"]["lock"]
        deadline = clock() + django_host_command.seconds(patience)
        descriptor = os.open(self.path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)
        while True:
            try:
                fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
                break
            except BlockingIOError:
                if clock() >= deadline:
                    holder = os.pread(descriptor, 4096, 0).decode(errors="replace").strip() or "a process"
                    os.close(descriptor)
                    raise DeploymentError(
                        f"another {self.of} of {self.site.name} is under way: {holder}; waited {patience}",
                        hint=f"wait for it, or end it: salt-call django.unlock {self.site.name}",
                        transient=True,
                    ) from None
                time.sleep(0.1)
        os.ftruncate(descriptor, 0)
        os.pwrite(descriptor, f"{self.what}, pid {os.getpid()}, since {now()}\n".encode(), 0)
        self.descriptor = descriptor
        django_host_command.locks.add(descriptor)

    def holder(self) -> str:
        """Who has the lock now: what, process, since; empty while nobody has."""
        try:
            with open(self.path, "rb") as file:
                try:
                    fcntl.flock(file, fcntl.LOCK_SH | fcntl.LOCK_NB)
                except BlockingIOError:
                    return file.read(4096).decode(errors="replace").strip() or "a process"
        except FileNotFoundError:
            pass
        return ""

    def end(self, patience: float = 10.0) -> list[int]:
        """End the processes that hold the lock, by force where they do not end in time; their numbers."""
        ended = self._processes()
        for number in ended:
            with contextlib.suppress(ProcessLookupError):
                os.kill(number, signal.SIGTERM)
        deadline = time.monotonic() + patience
        while self.holder() and time.monotonic() < deadline:
            time.sleep(0.05)
        for number in self._processes() if self.holder() else ():
            with contextlib.suppress(ProcessLookupError):
                os.kill(number, signal.SIGKILL)
        return ended

    def _processes(self) -> list[int]:
        """The processes, other than this one, that have the file of the lock open: only root's can."""
        found = []
        for entry in Path("/proc").glob("[0-9]*"):
            with contextlib.suppress(OSError):
                names = [os.readlink(path) for path in (entry / "fd").iterdir()]
                if str(self.path) in names and int(entry.name) != os.getpid():
                    found.append(int(entry.name))
        return found

    def release(self) -> None:
        """Give the lock back."""
        if self.descriptor is not None:
            django_host_command.locks.discard(self.descriptor)
            os.ftruncate(self.descriptor, 0)
            os.close(self.descriptor)
            self.descriptor = None


@contextlib.contextmanager
def held(lock: Lock) -> Iterator[Lock]:
    """Hold a lock for a while.

    Raises:
        DeploymentError: somebody else holds it.
    """
    lock.take()
    try:
        yield lock
    finally:
        lock.release()


def now() -> str:
    """The time as people and programs read it: ``2026-03-01T12:00:00Z``."""
    return written()


def age(when: str) -> str:
    """How long ago a time is that `now` has written: ``40 s``, ``5 min``, ``3 h``, ``12 d``; empty where it is none."""
    try:
        passed = max(time.time() - calendar.timegm(time.strptime(when, "%Y-%m-%dT%H:%M:%SZ")), 0)
    except ValueError:
        return ""
    for unit, length in (("d", 86400), ("h", 3600), ("min", 60)):
        if passed >= 2 * length:
            return f"{passed / length:.0f} {unit}"
    return f"{passed:.0f} s"


def written(moment: float | None = None) -> str:
    """A time (seconds since 1970, by default the present) as `now` writes it."""
    return time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(moment))
