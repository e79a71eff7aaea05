"""Push static files to a static host by rsync over ssh.

rsync and ssh run as `host.users.PUSHER`. Root writes the private key and the known hosts into a folder that only
this user can read, and removes it when they have ended.
"""

import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from django_formula.host import commands, folders, ssh
from django_formula.host.commands import DeploymentError, seconds
from django_formula.host.folders import Folder
from django_formula.host.users import PUSHER
from django_formula.push import static_files
from django_formula.site.sites import Site

#: Tries, and seconds without data.
_TRIES, _SILENCE = 3, 60
#: Errors of ssh and rsync → what to do.
_HINTS = (
    ("REMOTE HOST IDENTIFICATION HAS CHANGED", "find out why the host key changed, then correct {at}:known_hosts"),
    (
        "Host key verification failed",
        "add a line of `ssh-keyscan -p {port} {host}` to {at}:known_hosts after checking it",
    ),
    ("No such file or directory", "create {path} on {host}, writable by {user}"),
    (
        "Permission denied (publickey",
        "add the public key to authorized_keys of {user} on {host}, or correct {at}:ssh_key",
    ),
    ("error in libcrypto", "{at}:ssh_key is not a complete private key, or has a passphrase"),
    ("rsync: command not found", "install rsync on {host}"),
    ("rsync: not found", "install rsync on {host}"),
    ("Permission denied", "let {user} write to {path} on {host}"),
)


def place(push: Mapping[str, Any]) -> str:
    """Return where a site's files are, for people and for the record of what was pushed."""
    port = f":{push['port']}" if push["port"] != 22 else ""
    return f"rsync://{push['user']}@{push['host']}{port}{push['path']}"


def send(site: Site, folder: Path, names: list[str], secret: str) -> list[str]:
    """Send the files that the host lacks, with their compressed copies; return their names.

    Raises:
        DeploymentError: the host cannot be reached, or refuses it.
    """
    compressed = [f"{name}.gz" for name in names if (folder / f"{name}.gz").exists()]
    options = ["--ignore-existing", "--times", "--chmod=D755,F644", "--out-format=%n"]
    printed = _rsync(site, options, folder, [*names, *compressed], secret, "pushing static files")
    return sorted(set(names) & set(printed.splitlines()))


def delete(site: Site, names: list[str], secret: str) -> None:
    """Delete files on the host, with their compressed copies: they are missing in folders without files.

    Raises:
        DeploymentError: the host cannot be reached, or refuses it.
    """
    both = [path for name in names for path in (name, f"{name}.gz")]
    _rsync(site, ["--delete-missing-args"], None, both, secret, "deleting static files")


def _rsync(site: Site, options: list[str], folder: Path | None, names: list[str], secret: str, doing: str) -> str:
    """Run rsync with a list of names, again where the connection fails; return what it prints."""
    push = site.config["static"]["push"]
    until = time.monotonic() + seconds(push["timeout"])
    keys = static_files.keys(site)
    static_files.remove_keys(site)
    with ssh.login(keys, PUSHER, key=secret, known_hosts=push["known_hosts"], port=push["port"]) as command:
        folders.make(Folder(keys / "empty", "root", PUSHER, 0o750))
        host = f"[{push['host']}]" if ":" in push["host"] else push["host"]
        target = f"{push['user']}@{host}:{push['path']}/"
        if not folder:
            for parent in {(keys / "empty" / name).parent for name in names}:
                parent.mkdir(parents=True, exist_ok=True)
        argv = ["rsync", *options, "--from0", "--files-from=-", "--8-bit-output", f"--timeout={_SILENCE}"]
        argv += [f"--rsh={' '.join(command)}"]
        for attempt in range(_TRIES):
            try:
                return commands.run(
                    [*argv, f"{folder or keys / 'empty'}/", target],
                    doing=f"{doing} at {place(push)}",
                    user=PUSHER,
                    stdin="".join(f"./{name}\0" for name in names),  # one that begins with # would be a comment
                    timeout=max(until - time.monotonic(), 1),
                )
            except DeploymentError as error:
                error.hint = _hint(site, error)
                if not error.transient or attempt == _TRIES - 1 or time.monotonic() > until:
                    raise
                time.sleep(2**attempt)
    raise AssertionError("unreachable")


def _hint(site: Site, error: DeploymentError) -> str:
    push = site.config["static"]["push"]
    text = f"{error.message}\n{error.log}"
    known = {
        "at": f"{site.at}:static:push",
        **{name: push[name] for name in ("host", "port", "user", "path")},
    }
    return next((hint.format(**known) for cause, hint in _HINTS if cause in text), "")
