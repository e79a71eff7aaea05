"""What people may do with the sites of this host, by SSH and by Salt: `people` of each site.

A person's key runs one program as root, by sudo, and nothing else. See docs/decisions/0154.
"""

import json
import re
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from django_formula.audit import audit
from django_formula.audit.caller import Caller
from django_formula.host import archive, commands, config_files, file, folders, users
from django_formula.host.commands import DeploymentError
from django_formula.host.folders import Folder
from django_formula.host.outcome import Outcome

#: The functions that people may have, each with the name of a site and nothing else: `may` in the schema.
VERBS = (
    *("status", "releases", "logs", "history", "doctor", "schedules", "workers", "backups", "check", "plan"),
    *("release", "request", "promote", "approve", "rollback", "restart", "backup", "restore_drill"),
)
#: Those that may have a commit too, and what one looks like.
OF_COMMITS, COMMIT = ("plan", "request", "promote", "approve"), re.compile("[0-9a-f]{7,40}")
CONFIG = Path("/etc/django-formula/people.json")
USER, HOME = "django-ops", Path("/var/lib/django-ops")
_TITLE = "People of Django sites"
KEYS = HOME / ".ssh/authorized_keys"
SUDOERS = Path("/etc/sudoers.d/django-ops")
PROGRAM, ARCHIVE = Path("/usr/local/bin/django-ops"), Path("/usr/local/lib/django-formula/ops.pyz")
MODULE = "django_formula.audit.ops"
#: Users of a master that may do anything on this host, as they are root there; with sudo they are sudo_NAME.
_ROOT = ("root", "salt")


def rights() -> dict[str, dict[str, list[str]]]:
    """Return what people may do, by site and person, as last applied."""
    found: dict[str, dict[str, list[str]]] = (file.read_json(CONFIG) or {}).get("sites", {})
    return found


def refuse(site: str, verb: str, who: Iterable[str]) -> None:
    """Refuse a function to users of whom one may not call it; the audit log has that.

    Args:
        who: the users of a master, or a person by SSH.

    Raises:
        DeploymentError: one of them may not.
    """
    for user in sorted(who):
        if user not in _ROOT and not user.startswith("sudo_") and verb not in rights().get(str(site), {}).get(user, ()):
            note_refusal(verb, str(site), user)
            raise DeploymentError(
                f"{user} may not call {verb} for {site}",
                hint=f"django:sites:{site}:people:{user}:may has what is allowed",
            )


def note_refusal(verb: str, site: str, user: str, caller: Caller | None = None) -> None:
    """Record that a function was refused to a user."""
    act = audit.Act(verb, (caller or Caller(user, how="salt"))._replace(who=user), site)
    act.result = "refused"
    act.end()


# As files


def apply(wanted: Mapping[str, Any], salt_call: list[str], *, test: bool) -> Outcome:
    """Have people do what is configured, and no one else.

    Args:
        wanted: ``sites``: functions by site and person; ``keys``: SSH keys by person, as `pillar.people` compiles it.
        salt_call: the command that calls Salt on this host; empty where there is none.

    Raises:
        DeploymentError: there is no salt-call, which a function called by SSH needs.
    """
    if wanted["keys"] and not salt_call:
        raise DeploymentError(
            "there is no salt-call on this host, which what people call by SSH runs",
            hint="install salt-minion, which need not run, or leave out people:ssh_key",
        )
    files = _files(wanted, salt_call) if wanted["sites"] else {}
    changes = {
        str(path): "changed" for path, (text, _mode) in files.items() if file.read_text(path) not in (None, text)
    }
    changes |= {str(path): "new" for path in files if not path.exists()}
    if PROGRAM in files and not archive.is_whole(ARCHIVE):
        changes[str(ARCHIVE)] = "changed" if ARCHIVE.exists() else "new"
    gone = [path for path in (CONFIG, KEYS, SUDOERS, PROGRAM, ARCHIVE) if path.exists() and path not in files]
    gone = [path for path in gone if path != ARCHIVE or PROGRAM not in files]
    changes |= {str(path): "removed" for path in gone}
    has_user = _has_user()
    if has_user != bool(wanted["keys"]):
        changes[f"user {USER}"] = "removed" if has_user else "new"
    if not changes or test:
        done = "would be changed" if changes else "are as configured"
        return Outcome(f"the rights of people {done}", changes)
    for path in gone:  # first, so that a key that was taken away is gone whatever fails
        path.unlink()
    if has_user and not wanted["keys"]:
        _remove_user()
    if wanted["keys"]:
        _make_user(is_new=not has_user)
    if PROGRAM in files and {str(PROGRAM), str(ARCHIVE)} & {*changes}:
        ARCHIVE.parent.mkdir(parents=True, exist_ok=True)
        archive.install(MODULE, ARCHIVE)
    for path, (text, mode) in files.items():
        path.parent.mkdir(parents=True, exist_ok=True)
        if str(path) in changes:
            file.write(path, text, mode=mode)
    return Outcome("people have the rights that are configured", changes)


def remove(*, test: bool) -> dict[str, str]:
    """Take all rights away, on a host whose last site is removed; return what is removed."""
    return dict(apply({"sites": {}, "keys": {}}, [], test=test).changes)


def _files(wanted: Mapping[str, Any], salt_call: list[str]) -> dict[Path, tuple[str, int]]:
    """Return the files, each with its mode; without keys only that of the rights."""
    config = {"sites": wanted["sites"], "salt_call": salt_call, "environment": commands.network_environment()}
    files = {CONFIG: (json.dumps(config, indent=1, sort_keys=True) + "\n", 0o600)}
    if not wanted["keys"]:
        return files
    run = f"/usr/bin/sudo -n {PROGRAM}"
    lines = [f'restrict,command="{run} {name}" {key}\n' for name, key in sorted(wanted["keys"].items())]
    files[KEYS] = ("".join([f"{config_files.OURS}\n", *lines]), 0o644)
    may = [f"{USER} ALL=(root) NOPASSWD: {PROGRAM} {name}\n" for name in sorted(wanted["keys"])]
    kept = f'Defaults:{USER} !requiretty, env_keep += "SSH_ORIGINAL_COMMAND SSH_CONNECTION"\n'
    files[SUDOERS] = ("".join([f"{config_files.OURS}\n", kept, *may]), 0o440)
    text = f'#!/bin/sh\n{config_files.OURS}: {archive.version(MODULE)}\nexec {archive.PYTHON} -I {ARCHIVE} "$@"\n'
    files[PROGRAM] = (text, 0o755)
    return files


def _has_user() -> bool:
    """Return whether there is our user.

    Raises:
        DeploymentError: there is another one of its name.
    """
    user = users.find_user(USER)
    if user and user.pw_gecos != _TITLE:
        raise DeploymentError(
            f"the user {USER} exists already and is not ours", hint=f"rename it: {USER} gets keys of people"
        )
    return user is not None


def _make_user(*, is_new: bool) -> None:
    """Create the user of the keys, which owns nothing: not its home and not its keys."""
    for folder in (HOME, KEYS.parent):
        folders.make(Folder(folder, "root", "root", 0o755))
    if is_new:
        argv = ["useradd", "--system", "--user-group", "--no-create-home", "--home-dir", str(HOME), "--password", "*"]
        argv += ["--shell", "/bin/sh", "--comment", _TITLE, USER]
        commands.run(argv, doing=f"creating the user {USER}")


def _remove_user() -> None:
    file.remove_tree(HOME)
    commands.run(["userdel", USER], doing=f"removing the user {USER}")
