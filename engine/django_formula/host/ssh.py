"""ssh as a user of the formula's, with a key and host keys of the pillar and nothing of this host's."""

import contextlib
from collections.abc import Iterable, Iterator
from pathlib import Path

from django_formula.host import file, folders
from django_formula.host.folders import Folder

#: Seconds for a connection, and between two signs of life.
_CONNECT = 15


@contextlib.contextmanager
def login(folder: Path, user: str, *, key: str, known_hosts: Iterable[str], port: int) -> Iterator[list[str]]:
    """Yield the command of ssh, without a host; the files that it needs are removed at the end.

    Args:
        folder: a new one for them, which this user alone can read, and root write.
        user: who will run it.
        key: the private key.
        known_hosts: lines that pin the key of the host.
    """
    options = {
        "BatchMode": "yes",
        "StrictHostKeyChecking": "yes",
        "UserKnownHostsFile": f"{folder}/known_hosts",
        "GlobalKnownHostsFile": "/dev/null",
        "IdentitiesOnly": "yes",
        "IdentityAgent": "none",
        "PreferredAuthentications": "publickey",
        "ConnectTimeout": _CONNECT,
        "ServerAliveInterval": _CONNECT,
    }
    command = ["ssh", "-F", "none", "-p", str(port), "-i", f"{folder}/key"]
    command += [word for name, value in options.items() for word in ("-o", f"{name}={value}")]
    folders.make(Folder(folder, "root", user, 0o750))
    try:
        for name, text in (("key", f"{key.strip()}\n"), ("known_hosts", "".join(f"{line}\n" for line in known_hosts))):
            file.write(folder / name, text, mode=0o640, group=user, durable=False)
        yield command
    finally:
        file.remove_tree(folder)
