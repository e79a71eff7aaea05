"""What is mounted on this host; and a folder mounted over itself, in which the kernel follows no link.

The latter (``nosymfollow``, Linux 5.10) is for servers that bind their socket themselves: a site may replace it by a
link to the socket of another site, which the proxy would follow (docs/decisions/0053).
"""

import contextlib
import re
import tempfile
from pathlib import Path

from django_formula.host import commands, config_files, file, proc, units
from django_formula.host.commands import DeploymentError

UNITS = Path("/etc/systemd/system")
#: Where a mount is tried: root's.
SCRATCH = Path("/run")
_UNIT = """\
{ours}
[Unit]
Description=Runtime folders of Django sites, in which no link is followed
DefaultDependencies=no
Conflicts=umount.target
Before=multi-user.target umount.target

[Mount]
What={folder}
Where={folder}
Type=none
Options=bind,nosymfollow

[Install]
WantedBy=multi-user.target
"""


def unit(folder: Path) -> Path:
    """Return the mount unit of a folder, whose name systemd prescribes (systemd.unit(5), "string escaping")."""
    name = "-".join(re.sub(r"[^A-Za-z0-9:_.]", _escaped, part) for part in folder.parts[1:])
    return UNITS / f"{re.sub(r'^[.]', _escaped, name)}.mount"


def _escaped(found: re.Match[str]) -> str:
    return "".join(f"\\x{byte:02x}" for byte in found[0].encode())


def follows_no_link(folder: Path) -> bool:
    """Return whether the folder is mounted so that no link in it is followed."""
    found = proc.mount(folder)
    return found is not None and "nosymfollow" in found.options


def follow_no_link(folder: Path) -> str:
    """Have systemd mount a folder so that no link in it is followed, now and at each boot.

    Returns:
        Why the host cannot do this; empty if it does.
    """
    path, text = unit(folder), _UNIT.format(ours=config_files.OURS, folder=folder)
    if file.read_text(path) == text and follows_no_link(folder):
        return ""
    problem = _problem()
    if problem:
        return problem
    try:
        file.write(path, text)
        units.daemon_reload()
        units.control("enable", "--quiet", "--now", path.name)
    except DeploymentError as error:
        _remove(path)  # without stopping it: systemd would stop all sites that have a socket below the folder
        return str(error).splitlines()[0]
    return ""


def _problem() -> str:
    """Return why this host cannot mount a folder so, by an empty one; empty if it can."""
    with tempfile.TemporaryDirectory(dir=SCRATCH, prefix="django-mount-") as scratch:
        try:
            argv = ["mount", "--bind", "--options", "nosymfollow", scratch, scratch]
            commands.run(argv, doing="mounting a folder in which no link is followed")
        except DeploymentError as error:
            return str(error).splitlines()[0]
        can = follows_no_link(Path(scratch))
        commands.run(["umount", scratch], doing="unmounting it")
    return "" if can else "the kernel has no nosymfollow (Linux 5.10)"


def remove(folder: Path) -> None:
    """Remove the mount of a folder that no site uses any more, and its unit; what is in the folder stays."""
    path = unit(folder)
    if path.exists():
        _remove(path, "--now")


def _remove(path: Path, *options: str) -> None:
    with contextlib.suppress(DeploymentError):
        units.control("disable", "--quiet", *options, path.name)
    path.unlink()
    units.daemon_reload()
