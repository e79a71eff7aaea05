"""The mount of a site's uploads: what is at ``<root>/media``, by the formula (``media:mount``) or of the host itself.

With ``media:mount`` the formula writes a mount unit of systemd. The folder below a mount of the formula's belongs to
root, so that no process of the site writes into it while nothing is mounted there: docs/decisions/0070.
"""

import contextlib
import os
import stat
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from django_formula.host import commands, config_files, daemons, file, folders, mounts, proc, units, users
from django_formula.host.commands import DeploymentError
from django_formula.host.folders import Folder
from django_formula.site import sites
from django_formula.site.sites import Site
from django_formula.untrusted import delegate
from django_formula.untrusted.text import in_command, in_pillar

#: Seconds in which a file system has to answer, systemd has to mount it, and to notice that it is not mounted any more.
_PATIENCE, _MOUNTED, _NOTICED = 10.0, 120.0, 10.0
#: Always among the options.
_ALWAYS = ("nosuid", "nodev")
#: Owners of the top folder of a new export: root, and with root_squash the user that root becomes.
_NO_OWNERS = (0, 65534)
_UNIT = """\
{ours} for the site {name}.
[Unit]
Description=Uploads of the Django site {name}

[Mount]
What={device}
Where={folder}
Type={type}
Options={options}

[Install]
WantedBy=multi-user.target
"""


def unit(site: Site) -> Path:
    """Return the mount unit of a site's uploads."""
    return mounts.unit(site.media.top)


def problem(site: Site) -> str:
    """Return why the site cannot have its uploads on its mount; empty where it can, or is to have none."""
    try:
        sites.refuse_unmounted_media(site)
        return f"{site.media} is {found}" if sites.is_media_shared(site) and (found := _wrong_owner(site)) else ""
    except DeploymentError as error:
        return error.message


def pending_changes(site: Site) -> dict[str, str]:
    """Return what `apply` would change, by path.

    Raises:
        DeploymentError: the mount would hide files, or something else is mounted there; or a mount of the host's own is
            missing, or its files belong to another user.
    """
    mount, path = site.config["media"].get("mount"), unit(site)
    if not sites.is_media_shared(site):
        return {}
    if not mount:
        sites.refuse_unmounted_media(site)
        kept = {str(path): "removed: the host mounts it itself"} if _is_ours(path) else {}
        return kept | _owner_changes(site)
    _refuse_links(site)
    found = proc.mount(site.media.top)
    _refuse_another(site, path, found is not None)
    changes = {}
    if file.read_text(path) != _text(site) or not os.path.lexists(_link(path)):
        changes[str(path)] = "changed" if path.exists() else "new"
    if found is None:
        _refuse_to_hide(site)
        changes[str(site.media)] = f"{mount['device']} mounted"
        return changes
    return changes | _owner_changes(site)


def apply(site: Site) -> None:
    """Mount the site's uploads as the pillar has it, have the mount at each boot, and give its top folder to the site.

    Raises:
        DeploymentError: it cannot be mounted; what was mounted before is mounted again.
    """
    if not sites.is_media_shared(site):
        return
    path = unit(site)
    if site.config["media"].get("mount"):
        if file.read_text(path) != _text(site) or not proc.mount(site.media.top):
            _mount(site, path)
        if not os.path.lexists(_link(path)):
            units.control("enable", "--quiet", path.name)
    elif _is_ours(path):
        _forget(path)
    if _owner_changes(site):
        _own(site)


@contextlib.contextmanager
def taken_away(site: Site) -> Iterator[None]:
    """Unmount what the pillar no longer has while the block starts another release; mount it again where that fails.

    A process keeps seeing what was mounted when it started, so this is before the new release starts. Not by
    `systemctl stop`, which would stop the active release with it.
    """
    path = unit(site)
    if sites.is_media_shared(site) or not _is_ours(path):
        yield
        return
    _unmount(site, path)
    folders.make(_folder(site))
    try:
        yield
    except BaseException:
        folders.make(_below(site))
        units.control("start", path.name, timeout=_MOUNTED)
        raise
    _forget(path)


def remove(site: Site) -> None:
    """Unmount what the formula has mounted for a site, and remove its unit; files on the mount stay."""
    if _is_ours(unit(site)):
        _unmount(site, unit(site))
        _forget(unit(site))


def is_foreign(site: Site, path: Path) -> bool:
    """Return whether something is mounted at or below a path that the formula has not mounted for the site."""
    own = [site.media.top] if _is_ours(unit(site)) else []
    return any(folder not in own for folder in proc.mounted_within(path))


def present(site: Site) -> list[Path]:
    """Return what `remove` would remove."""
    return [unit(site)] if _is_ours(unit(site)) else []


# What is looked at


def _is_ours(path: Path) -> bool:
    return path.is_file() and config_files.is_managed(path)


def _refuse_links(site: Site) -> None:
    """Refuse a root with a link in its path, by which systemd would not know the mount.

    Raises:
        DeploymentError: it has one.
    """
    real = os.path.realpath(site.root)
    if real != str(site.root):
        raise DeploymentError(
            f"nothing can be mounted below {site.root}: a link in it leads to {real}, and systemd follows none",
            hint=f"{site.at}:root: {in_pillar(real)}",
        )


def _refuse_another(site: Site, path: Path, is_mounted: bool) -> None:
    """Refuse what the host mounts there itself.

    Raises:
        DeploymentError: it does.
    """
    if (is_mounted or os.path.lexists(path)) and not _is_ours(path):
        what = f"{path} is a unit that the formula did not write" if path.exists() else "something is mounted there"
        raise DeploymentError(
            f"{site.config['media']['mount']['device']} cannot be mounted at {site.media}: {what}",
            hint=f"keep that and set {site.at}:media: {{shared: true}} instead of mount, with hosts; or "
            f"{in_command('umount', str(site.media))}, and remove it from /etc/fstab and {path.parent}",
        )


def _refuse_to_hide(site: Site) -> None:
    """Refuse to mount over files.

    Raises:
        DeploymentError: the folder has some.
    """
    names = site.media.names()
    if names:
        mount, folder = site.config["media"]["mount"], site.media
        options = ["-o", mount["options"]] if mount["options"] else []
        copy = [
            in_command("mount", "-t", mount["type"], *options, mount["device"], "/mnt"),
            in_command("cp", "-a", f"{folder}/.", "/mnt/"),
            in_command("umount", "/mnt"),
            in_command("mv", str(folder), f"{folder}.before"),
        ]
        raise DeploymentError(
            f"{folder} has files, such as {names[0]}, which the mount of {mount['device']} would hide",
            hint=f"copy them, as root, and apply again: salt-call django.maintenance {site.name} on; "
            f"{' && '.join(copy)}; then salt-call django.maintenance {site.name} off",
        )


def _owner_changes(site: Site) -> dict[str, str]:
    found = _wrong_owner(site)
    return {str(site.media): found} if found else {}


def _wrong_owner(site: Site) -> str:
    """Return how the top folder of a mount does not fit, where root may mend that.

    What the site can write to and the proxy can read is left alone: root may have no rights there.

    Raises:
        DeploymentError: it belongs to another user, or its server does not answer.
    """
    doing = f"looking at the mount {site.media}"
    owner, group, mode, can_write = delegate.ask(site.user, _status, str(site.media), doing=doing, timeout=_PATIENCE)
    is_proxys = group == users.group_id(site.proxy_group)
    is_read = (is_proxys and mode & 0o050 == 0o050) or mode & 0o005 == 0o005
    if can_write and is_read:
        return ""
    uid = users.user_id(site.user)
    if owner not in (uid, *_NO_OWNERS):
        raise DeploymentError(
            f"the mount {site.media} belongs to the user {owner}, and {site.user} is the user {uid} on this host",
            hint=f"give {site.user} the same number on all hosts: {site.at}:uid; or chown the folder on "
            f"the file server: {_commands(site)}; with cifs: options: uid={site.user},gid={site.proxy_group}",
        )
    return f"{owner}:{group} {mode:04o}, not {site.user}:{site.proxy_group} 2750"


def _status(path: str) -> list[Any]:
    """Return owner, group and mode of a folder, and whether this process may write to it."""
    status = os.stat(path)
    return [status.st_uid, status.st_gid, stat.S_IMODE(status.st_mode), os.access(path, os.W_OK | os.X_OK)]


def _commands(site: Site) -> str:
    uid, group = users.user_id(site.user), users.group_id(site.proxy_group)
    return f"{in_command('chown', f'{uid}:{group}', 'FOLDER')} && chmod 2750 FOLDER"


# What is changed


def _folder(site: Site) -> Folder:
    return next(folder for folder in site.folders() if folder.path == site.media.top)


def _below(site: Site) -> Folder:
    """Return the folder below the mount, in which only root may write."""
    return Folder(site.media.top, "root", "root", 0o700)


def _text(site: Site) -> str:
    mount = site.config["media"]["mount"]
    options = [one for one in (mount["options"] or "").split(",") if one and one not in _ALWAYS]
    values = {"device": mount["device"], "type": mount["type"], "options": ",".join([*options, *_ALWAYS])}
    values["folder"] = str(site.media)
    escaped = {key: value.replace("%", "%%") for key, value in values.items()}
    return _UNIT.format(ours=config_files.OURS, name=site.name, **escaped)


def _link(path: Path) -> Path:
    return path.parent / "multi-user.target.wants" / path.name


def _mount(site: Site, path: Path) -> None:
    former = file.read_text(path)
    if proc.mount(site.media.top):
        _unmount(site, path)
    try:
        folders.make(_below(site))  # from here on no process of the site adds a file
        _refuse_to_hide(site)
        _start(site, path, _text(site))
    except DeploymentError:
        if former is None:
            _forget(path)
            folders.make(_folder(site))
        elif former != _text(site):
            with contextlib.suppress(DeploymentError):
                _start(site, path, former)
        raise


def _start(site: Site, path: Path, text: str) -> None:
    """Write the mount unit, and have systemd mount it.

    Raises:
        DeploymentError: it cannot; with what mount(8) printed.
    """
    began = time.time()
    file.write(path, text)
    units.daemon_reload()
    try:
        units.control("start", path.name, timeout=_MOUNTED)
    except DeploymentError as error:
        log = daemons.journal(path.name, began)
        cause = next((line for line in reversed(log.splitlines()) if line.startswith("mount")), error.message)
        raise DeploymentError(
            f"{site.config['media']['mount']['device']} cannot be mounted at {site.media}: {cause}",
            log=log,
            hint=f"correct {site.at}:media:mount, or what the file server gives to this host; "
            f"journalctl --unit '{path.name}' has more",
            transient=True,
        ) from None


def _own(site: Site) -> None:
    """Give the top folder of the mount to the site.

    Raises:
        DeploymentError: root may not, as on NFS with root_squash.
    """
    try:
        folders.make(_folder(site))
    except OSError as error:
        raise DeploymentError(
            f"root cannot give the mount {site.media} to {site.user}: {error.strerror}",
            hint=f"on the file server: {_commands(site)}; or export it with no_root_squash",
        ) from None


def _unmount(site: Site, path: Path) -> None:
    """Unmount it at once, also while files are open, which are finished there; wait until systemd has noticed."""
    folder, deadline = str(site.media), time.monotonic() + _NOTICED
    if not proc.mount(site.media.top):
        return
    commands.run(["umount", "--lazy", "--no-canonicalize", folder], doing=f"unmounting {folder}")
    while units.value(path.name, "ActiveState") == "active":
        if time.monotonic() > deadline:
            raise DeploymentError(f"systemd does not notice that {folder} is not mounted any more", transient=True)
        time.sleep(0.05)


def _forget(path: Path) -> None:
    """Remove a mount unit; what is mounted stays."""
    _link(path).unlink(missing_ok=True)
    path.unlink(missing_ok=True)
    units.daemon_reload()
