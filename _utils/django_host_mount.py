"""Mount a folder over itself so that the kernel follows no link in it (``nosymfollow``, Linux 5.10).

A server that binds its socket itself may replace it by a link to the socket of another site, which the proxy would
follow (docs/decisions/0053).
"""

import contextlib
from pathlib import Path

import django_host_command
import django_host_config
import django_host_file
import django_host_proc
from django_host_command import DeploymentError

UNITS = Path("/etc/systemd/system")
_UNIT = """\
{ours}
[Unit]
Description=Runtime folders of Django sites, in which no link is followed
DefaultDependencies=no
Conflicts=umount.target
Before=local-fs.target systemd-tmpfiles-setup.service umount.target

[Mount]
What={folder}
Where={folder}
Type=none
Options=bind,nosymfollow

[Install]
WantedBy=local-fs.target
"""


def unit(folder: Path) -> Path:
    """Return the mount unit of a folder, whose name systemd prescribes; the folder's name needs no escapes."""
    return UNITS / f"{'-'.join(folder.parts[1:])}.mount"


def follows_no_link(folder: Path) -> bool:
    """Return whether the folder is mounted so that no link in it is followed."""
    text = django_host_file.read_text(django_host_proc.PROC / "self/mountinfo") or ""
    rows = [row.split() for row in text.splitlines()]
    mounts = [row[5].split(",") for row in rows if len(row) > 5 and row[4] == str(folder)]
    return bool(mounts) and "nosymfollow" in mounts[-1]


def follow_no_link(folder: Path) -> str:
    """Have systemd mount a folder so that no link in it is followed, now and at each boot.

    Returns:
        Why the host cannot do this; empty if it does.
    """
    path, text = unit(folder), _UNIT.format(ours=django_host_config.OURS, folder=folder)
    if django_host_file.read_text(path) == text and follows_no_link(folder):
        return ""
    try:
        django_host_file.write(path, text)
        _systemctl("daemon-reload")
        _systemctl("enable", "--quiet", "--now", path.name)
    except DeploymentError as error:
        remove(folder)
        return str(error).splitlines()[0]
    if follows_no_link(folder):
        return ""
    remove(folder)
    return "the kernel has no nosymfollow (Linux 5.10)"


def remove(folder: Path) -> None:
    """Remove the mount and its unit; what is in the folder stays."""
    path = unit(folder)
    if path.exists():
        with contextlib.suppress(DeploymentError):
            _systemctl("disable", "--quiet", "--now", path.name)
        path.unlink()
        _systemctl("daemon-reload")


def _systemctl(*arguments: str) -> None:
    django_host_command.run(["systemctl", *arguments], doing=f"systemctl {arguments[0]} {arguments[-1]}")
