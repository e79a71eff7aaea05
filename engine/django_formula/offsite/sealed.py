"""What a backup is only half of one without: the site's secrets, sealed by age to keys that no host has."""

import io
import os
import re
import tarfile
from collections.abc import Collection, Iterator, Mapping
from pathlib import Path

from django_formula.host import commands, file
from django_formula.host.commands import DeploymentError
from django_formula.site.sites import Site

#: The name of the part of a copy.
NAME = "secrets.age"
#: A file among them: of `Site.secrets`, without those that open the copies themselves and what a deployment keeps.
_MEMBER = re.compile(r"(?!\.offsite_|\.before)[\w.@-]{1,200}", re.ASCII)
#: The most that all of them may have.
_LIMIT = 4 << 20


def seal(site: Site, recipients: Collection[str]) -> io.BufferedRandom:
    """Return a file in memory with the secrets of a site, which only the keys of the recipients open.

    Raises:
        DeploymentError: age fails.
    """
    plain, sealed = io.BytesIO(), file.in_memory(b"")
    with tarfile.open(fileobj=plain, mode="w") as archive:
        for path in sorted(site.secrets.iterdir()):
            if _MEMBER.fullmatch(path.name) and path.is_file() and not path.is_symlink():
                content = path.read_bytes()
                member = tarfile.TarInfo(path.name)
                member.size, member.mtime = len(content), int(path.stat().st_mtime)
                archive.addfile(member, io.BytesIO(content))
    argv = ["age", *(word for key in recipients for word in ("--recipient", key))]
    try:
        with file.in_memory(plain.getvalue()) as descriptor:
            commands.run(argv, doing="sealing the secrets", stdin=descriptor.fileno(), output=sealed.fileno())
    except BaseException:
        sealed.close()
        raise
    sealed.seek(0)
    return sealed


def opened(sealed: Path, identity: Path) -> dict[str, bytes]:
    """Return the secrets in a sealed file, by the names of their files.

    Args:
        identity: the file of the recovery key.

    Raises:
        DeploymentError: this key does not open it.
    """
    hint = "the recovery key is the file that age-keygen wrote for one of backup:offsite:recipients"
    with file.in_memory(b"") as plain, open(sealed, "rb") as source:
        argv = ["age", "--decrypt", "--identity", str(identity)]
        commands.run(argv, doing="opening the secrets", stdin=source.fileno(), output=plain.fileno(), hint=hint)
        plain.seek(0)
        return dict(_members(plain))


def restore(site: Site, secrets: Mapping[str, bytes]) -> list[str]:
    """Write secrets where the next apply takes them from; those that are there stay. Return the names of the files."""
    written = [name for name in secrets if not os.path.lexists(site.secrets / name)]
    for name in written:  # the apply gives the site's group what it may read
        file.write(site.secrets / name, secrets[name], mode=0o600)
    return written


def _members(archive: io.BufferedRandom) -> Iterator[tuple[str, bytes]]:
    size = 0
    with tarfile.open(fileobj=archive, mode="r:") as members:
        for member in members:
            size += member.size
            content = members.extractfile(member)
            if not _MEMBER.fullmatch(member.name) or content is None or size > _LIMIT:
                raise DeploymentError(f"the sealed secrets have {member.name!r}, which is no secret of a site")
            yield member.name, content.read()
