"""How git runs: as root on what a repository contains, with no configuration but ours; and what its errors mean."""

import contextlib
import os
import pwd
import re
import stat
import urllib.parse
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

import django_host_command
import django_host_file
import django_host_user
from django_host_command import DeploymentError
from django_site import Site

#: The configuration of every git of ours, over that of the system.
CONFIGURATION = """\
[safe]
\tdirectory = *
[core]
\thooksPath = /dev/null
\tfsmonitor = false
\tattributesFile = /dev/null
\texcludesFile = /dev/null
\tprotectHFS = true
\tprotectNTFS = true
[http]
\tfollowRedirects = initial
[fetch]
\tfsckObjects = true
\trecurseSubmodules = false
[gc]
\tauto = 0
[maintenance]
\tauto = false
# Defects that old tools have left in the history of many repositories, and that do no harm.
[fetch "fsck"]
\tzeroPaddedFilemode = ignore
\tbadFilemode = ignore
\tbadTimezone = ignore
\tzeroPaddedDate = ignore
\tmissingSpaceBeforeDate = ignore
\tbadEmail = ignore
\tmissingEmail = ignore
\tmissingNameBeforeEmail = ignore
\tmissingSpaceBeforeEmail = ignore
\tmultipleAuthors = ignore
\tmissingTaggerEntry = ignore
\tbadTagName = ignore
\tnulInCommit = ignore
"""
#: What no file of a repository can change: no filter runs, whatever .gitattributes says and the host has configured.
#: The files of a folder are taken byte by byte.
_ATTRIBUTES = {"repository": "* -filter\n", "folder": "* -text -ident -filter -working-tree-encoding\n"}
COMMIT = re.compile(r"[0-9a-f]{40}")
#: What every repository may be fetched by; a submodule gets less (`django_source_submodule`).
PROTOCOLS = ("https", "http", "ssh", "file")
#: A group that Debian lets write to /usr/local/bin: it has root's trust anyway.
_TRUSTED_GROUP = "staff"

#: What git says → what it means: (pattern, message, hint, transient). The first that matches is taken.
_REFUSALS = (
    (
        r"fsck error|error: object [0-9a-f]{40}: [a-z]",
        "the history of {url} has an object that git's own check refuses",
        "the line above names it (git fsck in a clone does too): whoever maintains the repository has to remove it",
        False,
    ),
    (
        r"REMOTE HOST IDENTIFICATION HAS CHANGED|Offending .* key",
        "the host key of {host} is not the one that is pinned",
        "find out why it changed; then correct {at}:known_hosts",
        False,
    ),
    (
        r"Host key verification failed|No .* host key is known",
        "the host key of {host} is not known",
        "pin it: {at}:known_hosts, with a line of `ssh-keyscan {host}` that you have checked",
        False,
    ),
    (
        r"Permission denied|Load key .* (invalid format|error in libcrypto)",
        "{host} refuses the key",
        "put a private key that may read the repository into {at}:deploy_key",
        False,
    ),
    (
        r"Authentication failed|could not read Username|terminal prompts disabled|returned error: 40[13]",
        "{host} wants a login",
        "use an ssh URL with {at}:deploy_key, or a read token in the URL",
        False,
    ),
    (
        r"certificate verif|certificate problem|unable to get local issuer|unknown authority",
        "the certificate of {host} is not trusted here",
        "add its authority to the system's store, or to the file that SSL_CERT_FILE names in Salt's environment",
        False,
    ),
    (
        r"not found|does not exist|not appear to be a git repository|returned error: 404|no such file",
        "there is no repository at {url}",
        "correct {at}:repository",
        False,
    ),
    (
        r"transport '.*' not allowed|Protocol .* (not supported|disabled)",
        "{url} uses a protocol that is not allowed",
        "use https, ssh or a path in {at}:repository",
        False,
    ),
)


#: How many times as long as it may be silent a fetch may take: a server that sends a byte now and then is left too.
_SLOW = 30
#: Seconds between two lines of git's progress.
_TICK = 1
#: What git prints while it fetches, in contrast to why it fails.
_PROGRESS = re.compile(
    r"(remote: )?(Enumerating|Counting|Compressing|Receiving|Resolving|Unpacking|Checking|Finding|Total)\b"
    r"|From |POST git-upload-pack| [-+*=t! ] "
)


class Reader(NamedTuple):
    """Who reads a path of this host: the user who decides what is there; without a name, root."""

    uid: int
    gid: int
    name: str | None


ROOT = Reader(0, 0, None)


def run(
    site: Site,
    *arguments: str,
    doing: str,
    timeout: float = 60.0,
    extra: Mapping[str, str] | None = None,
    mirror: Path | None = None,
    stdin: str | int = "",
    output: int | None = None,
    through: Sequence[str] = (),
) -> str:
    """Run a git command on what a mirror contains, and return its output: without the system's configuration.

    A filter, a hook or an attribute that the host has configured for its users does nothing here.

    Args:
        through: a program with its arguments that git is started by, such as one that sets limits.

    Raises:
        DeploymentError: git fails, or its time is up.
    """
    environment = {
        "GIT_DIR": str(mirror or site.mirror),
        "GIT_CONFIG_GLOBAL": str(site.mirror / "gitconfig"),
        "GIT_CONFIG_NOSYSTEM": "1",
        "GIT_ATTR_NOSYSTEM": "1",
        "GIT_ALLOW_PROTOCOL": "none",
        "GIT_LITERAL_PATHSPECS": "1",
        "GIT_ADVICE": "0",
        **(extra or {}),
    }
    argv = [*through, "git", *arguments]
    return django_host_command.run(
        argv, doing=doing, environment=environment, timeout=timeout, stdin=stdin, output=output
    )


def ask(
    site: Site,
    command: str,
    *arguments: str,
    url: str,
    references: tuple[str, ...] = (),
    doing: str,
    protocols: tuple[str, ...] = PROTOCOLS,
    mirror: Path | str | None = None,
) -> str:
    """Run a git command that talks to a remote, and return its output; its refusals become sentences.

    The system's configuration applies, for it may name a proxy, an authority or another address of the remote.

    Args:
        protocols: what git may use to get there, redirects and rewritten addresses included.

    Raises:
        DeploymentError: the remote does not answer, or refuses.
    """
    stall = django_host_command.seconds(site.config["timeouts"]["fetch"])
    shows = command == "fetch"
    options = [*(["--progress"] if shows else []), *arguments, *_as_its_owner(url)]
    try:
        return django_host_command.run(
            ["git", command, *options, "--", url, *references],
            doing=doing,
            environment=_environment(site, protocols, mirror),
            timeout=stall * (_SLOW if shows else 1),
            stall=stall + _TICK if shows else 0,
        )
    except DeploymentError as error:
        shown = django_host_command.redact(url)
        error.log = "\n".join(line for line in map(plain, error.log.splitlines()) if not _PROGRESS.match(line))
        fields = {"url": shown, "host": _host(shown), "at": f"django:sites:{site.name}"}
        for pattern, message, hint, transient in _REFUSALS:
            if re.search(pattern, error.log, re.IGNORECASE):
                raise DeploymentError(
                    f"{doing}: {message.format(**fields)}",
                    log=error.log,
                    hint=hint.format(**fields),
                    transient=transient,
                ) from None
        raise DeploymentError(
            error.message, log=error.log, hint=f"is {fields['host'] or url} reachable from here?", transient=True
        ) from None


def _environment(site: Site, protocols: tuple[str, ...], mirror: Path | str | None) -> dict[str, str]:
    """The environment of a command that talks to a remote."""
    ssh = ["ssh", "-o", "BatchMode=yes", "-o", "StrictHostKeyChecking=yes", "-o", "ConnectTimeout=15"]
    ssh += ["-o", f"UserKnownHostsFile='{site.mirror}/known_hosts'"]
    ssh += ["-o", "GlobalKnownHostsFile=/etc/ssh/ssh_known_hosts"]
    if (site.mirror / "deploy_key").exists():
        ssh += ["-i", f"'{site.mirror}/deploy_key'", "-o", "IdentitiesOnly=yes"]
    return {
        **django_host_command.network_environment(),
        "GIT_DIR": str(mirror or site.mirror),
        "GIT_CONFIG_GLOBAL": str(site.mirror / "gitconfig"),
        "GIT_ATTR_NOSYSTEM": "1",
        "GIT_ALLOW_PROTOCOL": ":".join(protocols),
        "GIT_TERMINAL_PROMPT": "0",
        "GIT_ASKPASS": "/bin/false",
        "GIT_SSH_COMMAND": " ".join(ssh),
        "GIT_ADVICE": "0",
    }


def plain(text: str) -> str:
    """A text of somebody else's on one line, without what a terminal would act on."""
    return "".join(c if c.isprintable() else " " if c.isspace() else "" for c in text)


def _host(url: str) -> str:
    if "://" in url:
        return urllib.parse.urlsplit(url).hostname or ""
    return url.split(":", 1)[0].rsplit("@", 1)[-1] if ":" in url else "this host"


def attributes(site: Site) -> str:
    """The attributes that come before those of the files in a repository."""
    return _ATTRIBUTES["folder" if site.config["folder"] else "repository"]


def set_attributes(site: Site, mirror: Path) -> None:
    """Lay the attributes into a mirror, where they are not there."""
    path = mirror / "info" / "attributes"
    if django_host_file.read_text(path) != attributes(site):
        path.parent.mkdir(exist_ok=True)
        path.write_text(attributes(site))


def local_path(url: str) -> str:
    """The path of a repository on this host; empty for one that is elsewhere."""
    path = url.removeprefix("file://")
    return path if path.startswith("/") else ""


def _as_its_owner(url: str) -> list[str]:
    """The option by which a repository of this host is read as the user who decides what is there."""
    path = local_path(url)
    try:
        who = reader(path) if path else ROOT
    except OSError:
        return []
    if not who.uid:
        return []
    environment = ["GIT_PROTOCOL=version=2", "GIT_CONFIG_GLOBAL=/dev/null", "GIT_CONFIG_NOSYSTEM=1"]
    environment += ["GIT_CONFIG_COUNT=1", "GIT_CONFIG_KEY_0=safe.directory", "GIT_CONFIG_VALUE_0=*"]
    become = f"setpriv --reuid={who.uid} --regid={who.gid} --clear-groups --no-new-privs"
    clean = f"env -i PATH={django_host_command.PATH} HOME=/nonexistent LANG=C.UTF-8 {' '.join(environment)}"
    return [f"--upload-pack={become} {clean} git-upload-pack"]


def reader(path: str) -> Reader:
    """Who is to read a path of this host: the first user on the way to it who could put something else there.

    What git opens by its path may be exchanged for a link by whoever may write there. So it is read with the rights of
    that user; as root only where nobody else has a say.

    Raises:
        DeploymentError: it is root's, but a folder on the way may be written to by a group or by everybody.
        OSError: there is nothing, or a loop of links.
    """
    folder = os.open("/", os.O_PATH | os.O_DIRECTORY)
    try:
        rest, seen, loose, links = path.split("/"), "", "", 0
        while rest:
            name = rest.pop(0)
            if name in ("", "."):
                continue
            found = os.stat(name, dir_fd=folder, follow_symlinks=False)
            if found.st_uid:
                return _reader(found.st_uid, found.st_gid)
            if stat.S_ISLNK(found.st_mode):
                links += 1
                target = os.readlink(name, dir_fd=folder)
                if links > 40:
                    raise OSError(f"{path} is a loop of links")
                rest, name = target.split("/") + rest, "/" if target.startswith("/") else "."
            seen = "" if name == "/" else seen if name == "." else f"{seen}/{name}"
            inner = os.open(name, os.O_PATH | os.O_NOFOLLOW, dir_fd=folder)
            os.close(folder)
            folder = inner
            if name not in (".", "/") and is_loose(found, is_last=not any(rest)):
                loose = loose or seen
    finally:
        os.close(folder)
    if loose:
        raise DeploymentError(
            f"{path} is root's, but others than root may write to {loose}, and exchange what is there",
            hint=f"chmod go-w {loose}; or give {path} to the user who works there: chown -R USER {path}",
        )
    return ROOT


def is_loose(found: os.stat_result, *, is_last: bool) -> bool:
    """Whether others than root may exchange what is in a folder of root's."""
    if found.st_mode & stat.S_ISVTX and not is_last:
        return False
    by_group = bool(found.st_mode & stat.S_IWGRP) and found.st_gid != 0
    if by_group and django_host_user.group_name(found.st_gid) == _TRUSTED_GROUP:
        by_group = False
    return by_group or bool(found.st_mode & stat.S_IWOTH)


def _reader(uid: int, gid: int) -> Reader:
    """The identity of a user with its own group; of one without an entry, the group of what it owns."""
    with contextlib.suppress(KeyError):
        user = pwd.getpwuid(uid)
        return Reader(uid, user.pw_gid, user.pw_name)
    return Reader(uid, gid, None)
