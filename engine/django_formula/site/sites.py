"""A site on disk: its paths, their owners, and the configuration of the last apply."""

import os
import re
import shutil
import stat
from collections.abc import Callable, Collection, Mapping
from pathlib import Path
from typing import Any
from urllib.parse import quote, unquote

from django_formula.host import commands, compiled, daemons, file, locks, ports, proc, users
from django_formula.host import folders as host_folders
from django_formula.host.commands import DeploymentError
from django_formula.host.folders import Folder
from django_formula.host.locks import Lock
from django_formula.kind import kinds
from django_formula.site import domains
from django_formula.untrusted.foreign import Foreign
from django_formula.untrusted.text import in_command, in_pillar

#: Where the sites of this host are registered: a link to the root of each, by its name.
REGISTRY = Path("/var/lib/django-formula/sites")
RUNTIME = Path("/run/django")
TMPFILES = Path("/etc/tmpfiles.d")
#: Seconds that requests wait by default, where they do.
_WAIT = 20
#: Bytes of the name of a kept template, which gets a temporary one while it is written.
_NAME = 240
#: The least that `site.json` has.
_APPLIED = {
    "config": {"name": str, "user": str, "root": str, "path": str, "domains": [str], "databases": {str: {}}},
    "platform": {"nginx": {"group": str}},
    "sum?": str,
}


def make_runtime() -> None:
    """Make the folder of what a boot forgets, whatever the umask is."""
    if not RUNTIME.is_dir():
        host_folders.make(Folder(RUNTIME, "root", "root", 0o755))


class Site:
    """One Django project on this host.

    Args:
        config: the effective configuration, as `pillar.compiler` compiles it; it has no secrets.
        platform: names of the operating system (`platforms.yaml`).
    """

    def __init__(self, config: Mapping[str, Any], platform: Mapping[str, Any]):
        self.config = config
        self.platform = platform
        self.name: str = config["name"]
        #: Its key in the pillar.
        self.at: str = f"django:sites:{self.name}"
        self.user: str = config["user"]
        self.build_user = f"{self.user}-build"
        self.proxy_group: str = platform["nginx"]["group"]
        self.process: str = config.get("process", "systemd")
        python = str(config.get("python", ""))
        #: The version of Python that the pillar has in place of the name of an interpreter, such as ``3.13``.
        self.python_version = python if python[:1].isdigit() else ""
        #: The name or path of its interpreter.
        self.python = f"python{python}" if self.python_version else python
        tls = config.get("tls") or {"kind": "none"}
        #: Where it is served by https, as in the pillar, and on which ports; empty without a certificate.
        self.listens_tls: list[ports.Listen] = list(tls["listen"]) if tls["kind"] != "none" else []
        self.https = sorted({ports.split(listen)[1] for listen in self.listens_tls})
        #: The ports of https that visitors use: those of its balancers, where these have the certificates.
        self.public_https: list[int] = self.https or (config.get("fleet") or {}).get("https", [])
        self.scheme = "https" if self.public_https else "http"
        #: The host name by which the formula itself requests the site.
        self.canonical: str = domains.host(next(iter(config.get("domains") or ()), ""))
        #: The address on which systemd listens for a site without a proxy; empty if none is configured.
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
        directory = (config.get("backup") or {}).get("directory")
        self.backups = Path(directory, self.name) if directory else self.root / "backups"
        self.log = Foreign(self.root / "log")
        #: What schedulers among the workers have sent; it outlives releases.
        self.beat = Foreign(self.root / "beat")
        self.templates = self.root / "templates"
        self.template_sums = self.templates / ".sums.json"
        self.maintenance = self.root / "maintenance"
        self.errors = self.root / "errors"
        self.applied = self.root / "site.json"
        self.deploys = self.root / "deploys.jsonl"
        self.adopted = self.root / "adopted"
        self.schedules = self.root / "schedules"
        #: Certificates of the hosts that have servers for all hosts of the site.
        self.trusted = self.root / "trusted"
        self.lock_file = self.root / "lock"
        #: The folders of the parts of its releases, in which they have sockets, pid and state files.
        self.run = self.root / "runtime"
        #: Where systemd makes sockets for it.
        self.runtime = RUNTIME / self.name
        #: The result of the sandbox trial since the boot; not in `runtime`, which the site may write to.
        self.confinement = RUNTIME / f"{self.name}.sandbox.json"
        #: What was found to be right of its proxy since the boot.
        self.proxied = RUNTIME / f"{self.name}.proxy.json"
        #: The applied migrations of its SQLite files; not in `runtime` either.
        self.schema = RUNTIME / f"{self.name}.schema.json"
        #: The database logins that were chosen since this object was created, by alias.
        self.logins: dict[str, str] = {}
        self.tmpfiles = TMPFILES / f"django-{self.name}.conf"

    def has_managed_python(self) -> bool:
        """Return whether the formula installs its interpreter, as the host has none of that version."""
        on_host = not self.config.get("container")
        return on_host and bool(self.python_version) and not shutil.which(self.python, path=commands.PATH)

    @property
    def has_common_release(self) -> bool:
        """Whether a master gives this host the release of the site's other hosts, so that it makes none alone."""
        return (self.config.get("fleet") or {}).get("release") is not None

    def to_release(self, commit: str = "") -> str:
        """Return the command by which people release this site, for hints: on its master where that has the release."""
        start = ("salt-run", "django.deploy") if self.has_common_release else ("salt-call", "django.release")
        return in_command(*filter(None, [*start, self.name, commit]))

    def to_return(self, release: str, commit: str) -> str:
        """Return the command by which people activate a release again that is on this host, likewise."""
        if self.has_common_release:  # the same commit may have another number on another host
            return in_command(*filter(None, ["salt-run", "django.rollback", self.name, commit]))
        return in_command("salt-call", "django.rollback", self.name, release)

    def to_workers(self) -> str:
        """Return where the site's workers run if not on this host, for hints; without any, the key that sets them."""
        fleet = self.config.get("fleet") or {"hosts": {}, "parts": []}
        elsewhere = [name for name, entry in fleet["hosts"].items() if "worker" in entry["parts"]]
        if not elsewhere or "worker" in fleet["parts"]:
            return f"set django:sites:{self.name}:workers"
        return f"the workers of {self.name} run on {', '.join(elsewhere)}: give the command there"

    @property
    def longest_wait(self) -> int:
        """The seconds that requests wait for the site's server (`releases:wait`); 0 where they do not."""
        is_served = self.config["server"]["kind"] != kinds.NO_SERVER and self.config["proxy"]["kind"] == "nginx"
        wait = self.config["releases"].get("wait") if is_served else False
        return _WAIT if wait is True else int(wait[:-1]) if wait else 0

    @property
    def stores(self) -> dict[str, dict[str, Any]]:
        """The site's queue and caches by name: ``queue``, ``cache`` (the default one) and ``cache_<alias>``."""
        queue = {"queue": self.config["queue"]} if self.config.get("queue") else {}
        caches = (self.config.get("caches") or {}).items()
        return queue | {"cache" if alias == "default" else f"cache_{alias}": entry for alias, entry in caches}

    def lock(self, holder: str) -> Lock:
        """Return the lock of the site's deployments, to be taken by `holder`."""
        return Lock(
            self.lock_file,
            holder,
            busy=f"another deployment of {self.name}",
            timeout=self.config["timeouts"]["lock"],
            hint=f"wait for it, or end it: salt-call django.unlock {self.name}",
        )

    @property
    def has_beat(self) -> bool:
        """Whether one of the workers sends tasks on a schedule."""
        workers = (self.config.get("workers") or {}).values()
        return any(kinds.WORKERS[worker["kind"]].has_schedule for worker in workers)

    def folders(self) -> list[Folder]:
        """Return every folder of the site, parents first."""
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
            Folder(self.run, "root", "root", 0o755),
            *([Folder(self.schedules, "root", "root", 0o700)] if self.config.get("schedules") else []),
            *([Folder(self.trusted, "root", "root", 0o755)] if (self.config.get("fleet") or {}).get("trusted") else []),
            *([Folder(self.beat.top, self.user, self.user, 0o700)] if self.has_beat else []),
            self.runtime_folder(self.current),
        ]

    def runtime_folder(self, release: Path) -> Folder:
        """Return the folder of the site's sockets in /run, as a release requires it.

        Root owns it, because systemd changes the owner of the sockets that it creates there: a user who may write to
        the folder could replace one by a link. Releases of older versions whose server binds its socket there itself
        require a folder of the site's user; systemd creates no socket for them.
        """
        recorded = file.read_json(release / "config/instance.json") or {}
        binds = recorded.get("process") == "supervisor" or recorded.get("server") == "granian"
        if binds and Path(str(recorded.get("address"))).parent == self.runtime:
            return Folder(self.runtime, self.user, self.proxy_group, 0o2750)
        return Folder(self.runtime, "root", self.proxy_group, 0o751)

    def prepare_runtime(self, release: Path) -> None:
        """Create that folder as a release requires it, now and at the next boot."""
        folder, own = self.runtime_folder(release), self._own_folder(release)
        if host_folders.problem(folder):
            was_of_site = self.runtime.exists() and os.stat(self.runtime).st_uid != 0
            host_folders.make(folder)
            if was_of_site and folder.owner == "root":
                self._clear_runtime(own)
        if own and host_folders.problem(own):
            host_folders.make(own)
        if daemons.has_systemd() and file.read_text(self.tmpfiles) not in (
            None,
            self._tmpfiles(release),
        ):
            file.write(self.tmpfiles, self._tmpfiles(release))

    def sockets(self, release: Path) -> Path:
        """Return the folder in which the server of a release binds its socket itself."""
        return self.run / f"{release.name.split('-')[0]}.sockets"

    def binds_socket(self, release: Path) -> bool:
        """Return whether the server of a release creates its socket itself, and systemd runs it."""
        return self._own_folder(release) is not None

    def _own_folder(self, release: Path) -> Folder | None:
        """Return the folder in which the server of a release binds its socket, if systemd runs it.

        (supervisor.sh creates its own.) The unit cannot create it: the root of the site is read-only in its mount
        namespace, even for commands that run as root. Releases of older versions have it in /run.
        """
        recorded = file.read_json(release / "config/instance.json") or {}
        folder = Path(str(recorded.get("address"))).parent
        if recorded.get("process", "systemd") == "systemd" and folder.parent in (self.run, self.runtime):
            return Folder(folder, self.user, self.proxy_group, 0o2750)
        return None

    def _clear_runtime(self, own: Folder | None) -> None:
        """Delete what the site created in its folder in /run while it owned that, except sockets and `own`."""
        tree = Foreign(self.runtime)
        for name in tree.names():
            status = (tree / name).status()
            is_own = own is not None and own.path.name == name and (tree / name).is_folder()
            if is_own or status is None or stat.S_ISSOCK(status.st_mode):
                continue
            if status.st_uid or not stat.S_ISDIR(status.st_mode):
                (tree / name).remove()

    def source_folder(self, release: Path) -> Path:
        """Return the source of a release as the project sees it: ``mount`` where the pillar has one."""
        return Path(self.config["mount"]) if self.config["mount"] else release / "source"

    def project_folder(self, release: Path, facts: Mapping[str, Any]) -> Path:
        """Return the folder of manage.py as the project sees it."""
        return self.source_folder(release) / str(facts["folder"])

    def plans(self) -> list[Path]:
        """Return the folders of plans, each named after the process that builds a release in it."""
        return [path for path in self.root.glob("plan-*") if re.fullmatch(r"plan-\d+", path.name)]

    def user_exists(self) -> bool:
        """Return whether the site's users exist."""
        return users.user_id(self.user) >= 0 and users.user_id(self.build_user) >= 0

    def is_registered(self) -> bool:
        """Return whether the site is registered, and systemd-tmpfiles creates its runtime folder at boot."""
        entry = REGISTRY / self.name
        return (
            entry.is_symlink()
            and os.readlink(entry) == str(self.root)
            and compiled.FOLDER.is_dir()
            and (not daemons.has_systemd() or file.read_text(self.tmpfiles) == self._tmpfiles(self.current))
        )

    def register(self) -> None:
        """Register the site, if it is not registered."""
        if self.is_registered():
            return
        REGISTRY.mkdir(parents=True, exist_ok=True)
        compiled.keep()
        file.link(REGISTRY / self.name, str(self.root))
        if daemons.has_systemd():
            file.write(self.tmpfiles, self._tmpfiles(self.current))

    def _tmpfiles(self, release: Path) -> str:
        """Return the lines for systemd-tmpfiles that create the folders in /run of the active release and this one."""
        own = [self._own_folder(one) for one in (self.current, release)]
        folders = [self.runtime_folder(release), *(one for one in own if one and one.path.parent == self.runtime)]
        lines = (f"d {one.path} {one.mode:04o} {one.owner} {one.group} -\n" for one in folders)
        return "".join(dict.fromkeys(lines))

    def kept_template(self, url: str) -> Path:
        """Return the file of a template that the site was last rendered from."""
        name = quote(url.removeprefix("salt://"), safe="")
        return self.templates / (name if len(name) <= _NAME else f"{file.checksum(url)}.template")

    def stale_templates(self, templates: Mapping[str, str]) -> list[str]:
        """Return what `keep_templates` would write: URLs, or the file of their checksums."""
        stale = [url for url, text in templates.items() if file.read_text(self.kept_template(url)) != text]
        sums = {url: file.checksum(text) for url, text in templates.items()}
        return sorted(stale) or ([] if file.read_json(self.template_sums) == sums else [str(self.template_sums)])

    def keep_templates(self, templates: Mapping[str, str]) -> None:
        """Store the templates that the site is rendered from, by URL, and delete the others."""
        sums = {url: file.checksum(text) for url, text in templates.items()}
        with locks.of_folder(self.templates):
            for url, text in templates.items():
                if file.read_text(self.kept_template(url)) != text:
                    file.write(self.kept_template(url), text, mode=0o600)
            for path in {*self.templates.iterdir()} - {self.template_sums, *map(self.kept_template, templates)}:
                path.unlink()
            file.write_json(self.template_sums, sums, mode=0o600)

    def kept_templates(self) -> dict[str, str]:
        """Return the templates that the site was last rendered from, by URL.

        Raises:
            DeploymentError: one differs from what was stored.
        """
        with locks.of_folder(self.templates):  # else an apply may be writing them
            kept = [path for path in self.templates.iterdir() if not path.name.startswith(".")]
            sums = file.read_json(self.template_sums) or {}
            urls = {self.kept_template(url).name: url for url in sums}
            names = {path: urls.get(path.name, f"salt://{unquote(path.name)}") for path in kept}
            texts = {url: file.read_text(path) or "" for path, url in names.items()}
        damaged = [url for url, text in texts.items() if sums.get(url) != file.checksum(text)]
        if damaged:
            raise DeploymentError(
                f"{self.kept_template(damaged[0])} differs from what the last apply wrote",
                hint="salt-call state.apply django writes it again",
            )
        return texts


def find(name: str) -> Site:
    """Return the site of a name as last applied.

    Raises:
        DeploymentError: the site is not on this host, or its configuration cannot be read.
    """
    name = str(spelled(name, registered))
    is_known = re.fullmatch(r"[a-z][a-z0-9-]*", name) and (REGISTRY / name).is_symlink()
    applied = read_applied(REGISTRY / name / "site.json") or {} if is_known else {}
    if is_known and not applied:
        raise DeploymentError(
            f"{os.readlink(REGISTRY / name)}/site.json, the applied configuration of {name}, is missing or damaged",
            hint="salt-call state.apply django writes it again",
        )
    if not applied:
        known = ", ".join(registered()) or "none"
        raise DeploymentError(
            f"there is no site {name!r} on this host (registered: {known})",
            hint="run salt-call state.apply django, which creates the sites of the pillar",
        )
    return Site(applied["config"], applied["platform"])


#: What Salt's command line makes of names of sites, which it reads as YAML; a number is one too.
_OF_YAML = {True: ("on", "true", "yes"), False: ("false", "no", "off")}


def spelled(name: Any, known: Callable[[], Collection[str]]) -> Any:
    """Return the name of a site as it was written; one that Salt has not read as another value stays as it is.

    Args:
        known: returns the names that there are: of several that are the same in YAML the first one is meant.
    """
    if not isinstance(name, bool):
        return name
    names = known()
    return next((one for one in _OF_YAML[name] if one in names), name)


def registered() -> list[str]:
    """Return the names of the sites on this host."""
    return sorted(path.name for path in REGISTRY.iterdir() if not file.is_temporary(path)) if REGISTRY.is_dir() else []


def keep_applied(site: Site) -> None:
    """Write the configuration of a site as applied to ``site.json``."""
    applied = file.with_checksum({"config": dict(site.config), "platform": dict(site.platform)})
    file.write_json(site.applied, applied, mode=0o600)


def refuse_another_identity(site: Site, managed: Collection[str]) -> None:
    """Refuse a change of a site's root, user or name in the pillar, because its data belongs to them.

    Args:
        managed: the names of the sites in the pillar of this host.

    Raises:
        DeploymentError: one has changed; the hint has the steps.
    """
    before = (read_applied(REGISTRY / site.name / "site.json") or {}).get("config", {})
    for key in ("root", "user"):
        if before.get(key, site.config[key]) != site.config[key]:
            raise DeploymentError(
                f"{site.name} cannot change its {key} from {before[key]} to {site.config[key]}: "
                "its data belongs to the former",
                hint=f"keep {site.at}:{key}: {before[key]}, or remove the site first (state: absent) and move its data",
            )
    for name in sorted({*registered()} - {site.name, *managed}):
        other = (read_applied(REGISTRY / name / "site.json") or {}).get("config")
        if not other:
            continue
        shared = sorted({*other["domains"]} & {*site.config["domains"]}) if other["path"] == site.config["path"] else []
        if shared or other["root"] == site.config["root"]:
            raise DeploymentError(
                f"{name}, which is no longer in the pillar, still serves "
                f"{shared[0] if shared else other['root']} on this host",
                hint=f"keep its name; or apply with django:sites:{name}: {{state: absent}} first, then with "
                f"{site.name}: {in_pillar({'root': other['root'], 'user': other['user']})}, which uses its data again",
            )


def inside(top: Foreign, path: str, at: str, *, link: bool = True) -> Foreign:
    """Return a path below a folder, without links on the way.

    Args:
        at: the pillar key that sets the path, for the error.
        link: whether the path itself may be a link.

    Raises:
        DeploymentError: a component of the path is a link.
    """
    for part in [*reversed(Path(path).parents), *([] if link else [Path(path)])]:
        if (top / str(part)).is_link():
            raise DeploymentError(f"{at}: {path} leads through the link {part}", hint="write the real path")
    return top / path


def read_applied(path: Path) -> dict[str, Any] | None:
    """Return the content of ``site.json``, or None if it is missing, damaged or its checksum is wrong."""
    applied = file.read_json(path, _APPLIED)
    return applied if applied and applied.get("sum") in (None, file.with_checksum(applied)["sum"]) else None


# Whether a site is in maintenance, as its files say


def known_maintenance(site: Site) -> dict[str, Any] | None:
    """Return what is known of the maintenance of a site, or None where it is off.

    Returns:
        ``since``, ``by``, ``message``, ``page`` (``own``, or the path of the project's), and ``until`` if the message
        has a time.
    """
    if not (site.maintenance / "on/index.html").is_file():
        return None
    nothing = dict.fromkeys(("since", "by", "message", "page"), "")
    return {**nothing, **(file.read_json(site.maintenance / "on/about.json") or {})}


# Where its uploads are: on the disk of this host, or on a mount without which they are not


def is_media_shared(site: Site) -> bool:
    """Return whether the site's uploads are to be on a mount."""
    return bool(site.config["media"].get("shared"))


def refuse_unmounted_media(site: Site) -> None:
    """Check that the site's uploads are on a mount where the pillar says so.

    Raises:
        DeploymentError: nothing is mounted there.
    """
    if is_media_shared(site) and not proc.mount(site.media.top):
        mount = site.config["media"].get("mount")
        way = "salt-call state.apply django mounts it" if mount else "mount it, by /etc/fstab for example"
        raise DeploymentError(
            f"uploads of {site.name} are to be on a mount, and nothing is mounted at {site.media}"
            + (f": {mount['device']} is missing" if mount else ""),
            hint=f"{way}; if the hosts share no uploads: {site.at}:media: {{shared: false}}",
            transient=True,
        )
