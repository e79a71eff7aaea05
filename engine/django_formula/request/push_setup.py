"""What a site has on its host to be pushed by git: a user with keys, a repository of that user, and a timer for it.

The user owns the repository and nothing else: neither its home nor its keys. Root runs no git in the repository; it
reads from it as from each repository of another user (`source.git`). See docs/decisions/0156.
"""

import json
import os
import re
import socket
from collections.abc import Mapping
from pathlib import Path

from django_formula.host import archive, commands, config_files, daemons, file, folders, units, users
from django_formula.host.commands import DeploymentError
from django_formula.host.folders import Folder
from django_formula.process import build_user
from django_formula.request import entrance, push
from django_formula.site.sites import Site
from django_formula.site.users import push_user
from django_formula.source import git
from django_formula.untrusted.foreign import Foreign

MODULE = "django_formula.request.push"
_ARCHIVE = Path("/usr/local/lib/django-formula/push.pyz")
_NAMES = ("pre-receive", "proc-receive")
_GIT = {"GIT_CONFIG_NOSYSTEM": "1", "GIT_CONFIG_GLOBAL": "/dev/null"}
_PATIENCE = 30.0
_HARMLESS = re.compile(r"(?m)^\t(\w+) = ignore$")
_SERVICE = """\
[Unit]
Description=Removal of what was pushed to the Django site {site} and is not released

[Service]
Type=oneshot
User={user}
Environment=GIT_CONFIG_NOSYSTEM=1 GIT_CONFIG_GLOBAL=/dev/null HOME=/nonexistent
ExecStart=/usr/bin/git -c core.hooksPath=/dev/null --git-dir={repository} gc --quiet --prune=2.hours.ago
NoNewPrivileges=yes
MemoryMax=1G
TasksMax=32
CPUWeight=20
IOWeight=20
TimeoutStartSec=1h
"""
_TIMER = """\
[Unit]
Description=Removal of what was pushed to the Django site {site} and is not released

[Timer]
OnCalendar=daily
RandomizedDelaySec=2h

[Install]
WantedBy=timers.target
"""


def repository(site: Site) -> Foreign:
    """Return the repository that is pushed to, a tree of the user of the site's pushes."""
    return Foreign(site.root / "push.git")


def address(site: Site) -> str:
    """Return the URL by which people push, with this host's own name."""
    try:
        host = socket.getfqdn()
    except UnicodeError:  # of a name with more characters than names in DNS may have
        host = socket.gethostname()
    return f"{push_user(site.name)}@{host}:{site.name}"


def _title(site: Site) -> str:
    return f"Pushes to the Django site {site.name}"


def _home(site: Site) -> Path:
    return push.HOME / site.name


def pending(site: Site) -> dict[str, str]:
    """Return what `apply` would change, by path.

    Raises:
        DeploymentError: there is another user of the name of ours.
    """
    if not site.config.get("push"):
        own = [f"user {push_user(site.name)}"] if _is_ours(site) else []
        return dict.fromkeys([*map(str, present(site)), *own], "removed")
    texts = {path: file.read_text(path) for path in _files(site)}
    found = {
        str(path): "new" if texts[path] is None else "changed"
        for path, (text, _mode) in _files(site).items()
        if texts[path] != text
    }
    user = push_user(site.name)
    if not _has_user(site):
        found[f"user {user}"] = "new"
    elif not entrance.is_admitted(site, user):
        found[f"user {user}"] = "changed"
    if not _is_made(site):
        found[str(repository(site))] = "damaged" if repository(site).exists() else "new"
    if not os.path.lexists(_link(site)):
        found.setdefault(str(_units(site)[1]), "disabled")
    if not archive.is_whole(_ARCHIVE):
        found[str(_ARCHIVE)] = "changed" if _ARCHIVE.exists() else "new"
    return found


def apply(site: Site) -> None:
    """Have who is configured push to a site, and no one else; its socket is there already (`request.entrance`).

    Raises:
        DeploymentError: a user cannot be made, or systemd refuses the timer.
    """
    if not site.config.get("push"):
        remove(site)
        return
    user, changes = push_user(site.name), pending(site)
    for folder in (push.HOME, _home(site), _keys(site).parent, push.HOOKS):
        folders.make(Folder(folder, "root", "root", 0o755))
    if not _has_user(site):
        argv = ["useradd", "--system", "--user-group", "--no-create-home", "--home-dir", str(_home(site))]
        argv += ["--password", "*", "--shell", "/bin/sh", "--comment", _title(site), user]
        commands.run(argv, doing=f"creating the user {user}")
    entrance.admit(site, user)
    archive.install(MODULE, _ARCHIVE)
    for path, (text, mode) in _files(site).items():
        if str(path) in changes:
            file.write(path, text, mode=mode)
    if repository(site).exists() and not _is_made(site):
        build_user.end_user(user)
        file.remove_whole(repository(site).top)
    folders.make(Folder(repository(site).top, user, user, 0o700))
    if not _is_made(site):
        argv = ["git", "init", "--quiet", "--bare", "--template=", f"--initial-branch={site.config['revision']}"]
        doing = "creating the repository that is pushed to"
        commands.run([*argv, str(repository(site))], doing=doing, user=user, environment=_GIT)
        file.sync(repository(site).top)
    units.daemon_reload()
    timer = _units(site)[1].name
    units.control("enable", "--quiet", "--now", timer, doing=f"starting {timer}")


def _is_made(site: Site) -> bool:
    """Return whether git has made the repository to its end; after a power loss its first files may be empty."""
    top = repository(site)
    if not (top / "objects").is_folder():
        return False
    return all(((top / name).text() or "").strip("\0\n ") for name in ("HEAD", "config"))


def present(site: Site) -> list[Path]:
    """Return the files that a site has of it."""
    return [path for path in (*_units(site), _home(site), repository(site).top) if os.path.lexists(path)]


def remove(site: Site) -> None:
    """Remove keys, user, timer and repository.

    Raises:
        DeploymentError: a process of the user does not end, or systemd does not stop the timer.
    """
    file.remove_tree(_home(site))  # first, so that no key opens a connection
    found = [path for path in _units(site) if path.exists()]
    if found:
        names = [path.name for path in reversed(found)]
        units.stop("disable", "--quiet", "--now", units=names, doing=f"ending pushes to {site.name}", within=_PATIENCE)
        for path in found:
            path.unlink()
        units.daemon_reload()
    if _is_ours(site):
        user = push_user(site.name)
        build_user.end_user(user)
        file.remove_whole(repository(site).top)
        commands.run(["userdel", user], doing=f"removing the user {user}")
    if push.HOME.is_dir() and not any(push.HOME.iterdir()):
        for path in (push.HOME, push.HOOKS, _ARCHIVE):
            file.remove_tree(path)


def _has_user(site: Site) -> bool:
    user = users.find_user(push_user(site.name))
    if user and user.pw_gecos != _title(site):
        raise DeploymentError(
            f"the user {user.pw_name} exists on this host and is not the one of pushes to {site.name}",
            hint="rename it, or the site",
        )
    return user is not None


def _is_ours(site: Site) -> bool:
    """Return whether there is the user of the pushes to a site."""
    user = users.find_user(push_user(site.name))
    return user is not None and user.pw_gecos == _title(site)


def _keys(site: Site) -> Path:
    return _home(site) / ".ssh/authorized_keys"


def _units(site: Site) -> tuple[Path, Path]:
    service = daemons.UNITS / f"django-{site.name}-push-gc.service"
    return service, service.with_suffix(".timer")


def _link(site: Site) -> Path:
    return daemons.UNITS / "timers.target.wants" / _units(site)[1].name


def _files(site: Site) -> Mapping[Path, tuple[str, int]]:
    """Return the files of a site, each with its mode, and those that all sites have."""
    wanted, user, releases = site.config["push"], push_user(site.name), site.config["releases"]
    config = {
        "repository": str(repository(site)),
        "branch": site.config["revision"],
        "size": commands.size(wanted["size"]),
        "quota": commands.size(wanted["quota"]),
        "files": releases["files"],
        "files_size": commands.size(releases["size"]),
        "socket": str(entrance.path(site)),
        "harmless": _HARMLESS.findall(git.CONFIGURATION),  # defects of old histories
        "program": archive.version(MODULE),
    }
    lines = [_line(site.name, name, entry) for name, entry in sorted(wanted["keys"].items())]
    service, timer = _units(site)
    names = {"site": site.name, "user": user, "repository": repository(site)}
    hooks = {
        push.HOOKS / name: (f"#!/bin/sh\n{config_files.OURS}\nexec {archive.PYTHON} -I {_ARCHIVE} {name}\n", 0o755)
        for name in _NAMES
    }
    return {
        _home(site) / "config.json": (json.dumps(config, indent=1, sort_keys=True) + "\n", 0o644),
        service: (f"{config_files.OURS}\n{_SERVICE.format(**names)}", 0o644),
        timer: (f"{config_files.OURS}\n{_TIMER.format(**names)}", 0o644),
        **hooks,
        _keys(site): ("".join([f"{config_files.OURS}\n", *lines]), 0o644),
    }


def _line(site: str, name: str, entry: Mapping[str, object]) -> str:
    """Return the line of a key."""
    networks = entry["from"]
    allowed = f'from="{",".join(networks)}",' if isinstance(networks, list) and networks else ""
    command = f"{archive.PYTHON} -I {_ARCHIVE} ssh {site} {name}"
    return f'restrict,{allowed}command="{command}" {entry["key"]}\n'
