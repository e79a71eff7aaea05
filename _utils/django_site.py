"""A site on disk: its paths, who owns them, and the configuration as last applied."""

import os
import re
import stat
from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Any
from urllib.parse import quote, unquote

import django_host_file
import django_host_folder
import django_host_port
import django_host_service
import django_host_user
from django_host_command import DeploymentError
from django_host_folder import Folder
from django_host_lock import Lock
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

    def lock(self, holder: str) -> Lock:
        """Return the lock of the site's deployments, as `holder` would take it."""
        return Lock(
            self.lock_file,
            holder,
            busy=f"another deployment of {self.name}",
            timeout=self.config["timeouts"]["lock"],
            hint=f"wait for it, or end it: salt-call django.unlock {self.name}",
        )

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
        recorded = django_host_file.read_json(release / "config/instance.json") or {}
        binds = recorded.get("process") == "supervisor" or recorded.get("server") == "granian"
        if binds and Path(str(recorded.get("address"))).parent == self.runtime:
            return Folder(self.runtime, self.user, self.proxy_group, 0o2750)
        return Folder(self.runtime, "root", self.proxy_group, 0o751)

    def prepare_runtime(self, release: Path) -> None:
        """Make that folder ready for a release that is to be started, now and at the next boot."""
        folder, own = self.runtime_folder(release), self._own_folder(release)
        if django_host_folder.problem(folder):
            was_own = self.runtime.exists() and os.stat(self.runtime).st_uid != 0
            django_host_folder.make(folder)
            if was_own and folder.owner == "root":
                self._clear_runtime(own)
        if own and django_host_folder.problem(own):
            django_host_folder.make(own)
        if django_host_service.has_systemd() and django_host_file.read_text(self.tmpfiles) not in (
            None,
            self._tmpfiles(release),
        ):
            django_host_file.write(self.tmpfiles, self._tmpfiles(release))

    def _own_folder(self, release: Path) -> Folder | None:
        """The folder in which the server of a release binds its socket, where systemd keeps it alive.

        (supervisor.sh makes one by itself.) No unit makes it: even what a unit runs as root has its mount namespace,
        in which `/run` is read-only.
        """
        recorded = django_host_file.read_json(release / "config/instance.json") or {}
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

    def source_folder(self, release: Path) -> Path:
        """Return the source of a release as the project sees it: ``mount`` where the pillar has one."""
        return Path(self.config["mount"]) if self.config["mount"] else release / "source"

    def project_folder(self, release: Path, facts: Mapping[str, Any]) -> Path:
        """Return the folder of manage.py as the project sees it."""
        return self.source_folder(release) / str(facts["folder"])

    def plans(self) -> list[Path]:
        """The folders of plans, each named after the process that builds a release there."""
        return [path for path in self.root.glob("plan-*") if re.fullmatch(r"plan-\d+", path.name)]

    def user_exists(self) -> bool:
        """Whether the site's identities are on this host."""
        return django_host_user.user_id(self.user) >= 0 and django_host_user.user_id(self.build_user) >= 0

    def is_registered(self) -> bool:
        """Whether the host knows the site: its root by its name, its runtime folder at boot."""
        entry = REGISTRY / self.name
        return (
            entry.is_symlink()
            and os.readlink(entry) == str(self.root)
            and (
                not django_host_service.has_systemd()
                or django_host_file.read_text(self.tmpfiles) == self._tmpfiles(self.current)
            )
        )

    def register(self) -> None:
        """Make the site known to the host, unless it is."""
        if self.is_registered():
            return
        REGISTRY.mkdir(parents=True, exist_ok=True)
        django_host_file.link(REGISTRY / self.name, str(self.root))
        if django_host_service.has_systemd():
            django_host_file.write(self.tmpfiles, self._tmpfiles(self.current))

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
        stale = [url for url, text in templates.items() if django_host_file.read_text(self.kept_template(url)) != text]
        sums = {url: django_host_file.checksum(text) for url, text in templates.items()}
        return sorted(stale) or (
            [] if django_host_file.read_json(self.template_sums) == sums else [str(self.template_sums)]
        )

    def keep_templates(self, templates: Mapping[str, str]) -> None:
        """Keep the templates that the site is rendered from, by URL, in the place of those before."""
        for url, text in templates.items():
            if django_host_file.read_text(self.kept_template(url)) != text:
                django_host_file.write(self.kept_template(url), text, mode=0o600)
        for path in {*self.templates.iterdir()} - {self.template_sums, *map(self.kept_template, templates)}:
            path.unlink()
        django_host_file.write_json(
            self.template_sums, {url: django_host_file.checksum(text) for url, text in templates.items()}, mode=0o600
        )

    def kept_templates(self) -> dict[str, str]:
        """The templates that the site was last rendered from, by URL.

        Raises:
            DeploymentError: one is not as it was kept.
        """
        kept = [path for path in self.templates.iterdir() if not path.name.startswith(".")]
        texts = {f"salt://{unquote(path.name)}": django_host_file.read_text(path) or "" for path in kept}
        sums = django_host_file.read_json(self.template_sums) or {}
        damaged = [url for url, text in texts.items() if sums.get(url) != django_host_file.checksum(text)]
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
    return (
        sorted(path.name for path in REGISTRY.iterdir() if not django_host_file.is_temporary(path))
        if REGISTRY.is_dir()
        else []
    )


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


def read_applied(path: Path) -> dict[str, Any] | None:
    """The content of ``site.json``; None when it is missing, torn, or not what was written."""
    applied = django_host_file.read_json(path, _APPLIED)
    return applied if applied and applied.get("sum") in (None, django_host_file.with_checksum(applied)["sum"]) else None
