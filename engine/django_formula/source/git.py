"""How git runs: as root on untrusted repositories, with no configuration but the formula's; and its errors.

What a repository cannot configure, and why: docs/decisions/0050.
"""

import contextlib
import os
import re
import urllib.parse
from collections.abc import Mapping, Sequence
from pathlib import Path

from django_formula.host import commands, file
from django_formula.host.commands import DeploymentError
from django_formula.site.sites import Site
from django_formula.source import reader as source_reader
from django_formula.source import writing as source_writing

#: The configuration of git, which overrides the system's.
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
# Harmless defects that old tools have left in the history of many repositories.
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
#: Attributes that no file of a repository overrides: no filter runs, whatever .gitattributes and the host configure.
#: The files of a folder are taken byte by byte.
_ATTRIBUTES = {"repository": "* -filter\n", "folder": "* -text -ident -filter -working-tree-encoding\n"}
COMMIT = re.compile(r"[0-9a-f]{40}")
#: The protocols that a repository may be fetched by; those of a submodule are fewer (`source.submodule`).
PROTOCOLS = ("https", "http", "ssh", "file")

#: Errors of git: (pattern, message, hint, transient). The first that matches is taken.
_REFUSALS = (
    (
        r"fsck error|error: object [0-9a-f]{40}: [a-z]",
        "git fsck refuses an object in the history of {url}",
        "the log above names it, as git fsck in a clone does: remove it from the repository's history",
        False,
    ),
    (
        r"repository corruption|unable to read [0-9a-f]{40}|missing (blob|tree|commit) [0-9a-f]{40}",
        "{url} lacks an object of its history",
        "the log above names it: run git fsck --full in that repository, and restore it from a complete clone",
        False,
    ),
    (
        r"REMOTE HOST IDENTIFICATION HAS CHANGED|Offending .* key",
        "the host key of {host} is not the pinned one",
        "find out why it changed, then correct {at}:known_hosts",
        False,
    ),
    (
        r"Host key verification failed|No .* host key is known",
        "the host key of {host} is not known",
        "add a line of `ssh-keyscan {host}` to {at}:known_hosts after checking it",
        False,
    ),
    (
        r"Permission denied|Load key .* (invalid format|error in libcrypto)",
        "{host} refused the SSH key",
        "set {at}:deploy_key to a private key that may read the repository",
        False,
    ),
    (
        r"Authentication failed|could not read Username|terminal prompts disabled|returned error: 40[13]",
        "{host} requires a login",
        "use an ssh URL with {at}:deploy_key, or a read token in the URL",
        False,
    ),
    (
        r"certificate verif|certificate problem|unable to get local issuer|unknown authority",
        "the certificate of {host} is not trusted on this host",
        "add its authority to the system's store, or to the file that SSL_CERT_FILE names in Salt's environment "
        "(docs/guides/networks.md)",
        False,
    ),
    (
        r"not found|does not exist|not appear to be a git repository|returned error: 404|no such file",
        "no repository found at {url}",
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
#: The time limit of a fetch, in multiples of the one without progress: a server may send a byte now and then for ever.
_SLOW = 30
#: Seconds between two lines of git's progress.
_TICK = 1
#: A URL with a login and a password, or a login alone, which may be a token.
_LOGIN = re.compile(
    r"(?P<scheme>https?://)(?P<user>[^/?#@:]*)(?::(?P<password>[^/?#@]*))?@(?P<host>[^/?#@]+)(?P<path>.*)", re.DOTALL
)
#: What git asks for them, in a shell that has them in its environment.
_HELPER = (
    '!f() { test "$1" != get || printf "username=%s\\npassword=%s\\n" '
    '"$DJANGO_FORMULA_GIT_USER" "$DJANGO_FORMULA_GIT_PASSWORD"; }; f'
)
#: Lines of progress that git prints while it fetches, as opposed to errors.
_PROGRESS = re.compile(
    r"(remote: )?(Enumerating|Counting|Compressing|Receiving|Resolving|Unpacking|Checking|Finding|Total)\b"
    r"|From |POST git-upload-pack| [-+*=t! ] "
)


def run_git(
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
    """Run a git command on a mirror, without the system's configuration, and return its output.

    Filters, hooks and attributes that the host has configured for its users are not used.

    Args:
        extra: additional environment variables.
        mirror: the repository, if not the site's mirror.
        through: a program and its arguments that start git, such as one that sets limits.

    Raises:
        DeploymentError: git fails or times out.
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
    return commands.run(argv, doing=doing, environment=environment, timeout=timeout, stdin=stdin, output=output)


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
    """Run a git command that connects to a remote, and return its output.

    The system's configuration applies, since it may have a proxy, an authority or another address of the remote.

    Args:
        protocols: the protocols that git may use, for redirects and rewritten addresses too.

    Raises:
        DeploymentError: the remote does not answer, or refuses; the message names the cause.
    """
    stall = commands.seconds(site.config["timeouts"]["fetch"])
    is_fetch = command == "fetch"
    options = [*(["--progress"] if is_fetch else []), *arguments, *_upload_pack(url)]
    address, login = _without_login(url)
    written = source_writing.writing(Path(mirror or site.mirror)) if is_fetch else contextlib.nullcontext()
    try:
        with written:
            return commands.run(
                ["git", command, *options, "--", address, *references],
                doing=doing,
                environment=_environment(site, protocols, mirror) | login,
                timeout=stall * (_SLOW if is_fetch else 1),
                stall=stall + _TICK if is_fetch else 0,
            )
    except DeploymentError as error:
        raise _explained(site, url, doing, error) from None


def _explained(site: Site, url: str, doing: str, error: DeploymentError) -> DeploymentError:
    """Return the error of a command that connects to a remote with its cause and a hint."""
    shown = commands.redact(url)
    log = "\n".join(line for line in map(plain, error.log.splitlines()) if not _PROGRESS.match(line))
    fields = {"url": shown, "host": _host(shown), "at": site.at}
    for pattern, message, hint, transient in _REFUSALS:
        if re.search(pattern, log, re.IGNORECASE):
            cause = f"{doing}: {message.format(**fields)}"
            return DeploymentError(cause, log=log, hint=hint.format(**fields), transient=transient)
    hint = f"check that {fields['host'] or url} is reachable from this host (DNS, proxies: docs/guides/networks.md)"
    return DeploymentError(error.message, log=log, hint=hint, transient=True)


def _environment(site: Site, protocols: tuple[str, ...], mirror: Path | str | None) -> dict[str, str]:
    """Return the environment of a command that connects to a remote."""
    ssh = ["ssh", "-o", "BatchMode=yes", "-o", "StrictHostKeyChecking=yes", "-o", "ConnectTimeout=15"]
    ssh += ["-o", f"UserKnownHostsFile='{site.mirror}/known_hosts'"]
    ssh += ["-o", "GlobalKnownHostsFile=/etc/ssh/ssh_known_hosts"]
    if (site.mirror / "deploy_key").exists():
        ssh += ["-i", f"'{site.mirror}/deploy_key'", "-o", "IdentitiesOnly=yes"]
    return {
        **commands.network_environment(),
        "GIT_DIR": str(mirror or site.mirror),
        "GIT_CONFIG_GLOBAL": str(site.mirror / "gitconfig"),
        "GIT_ATTR_NOSYSTEM": "1",
        "GIT_ALLOW_PROTOCOL": ":".join(protocols),
        "GIT_TERMINAL_PROMPT": "0",
        "GIT_ASKPASS": "/bin/false",
        "GIT_SSH_COMMAND": " ".join(ssh),
        "GIT_ADVICE": "0",
    }


def _without_login(url: str) -> tuple[str, dict[str, str]]:
    """Return a URL without login and password, and the environment by which git knows them.

    The arguments of a process are public: all users of the host see them. To a login alone the system's helpers may
    have the password; a token needs none.
    """
    found = _LOGIN.fullmatch(url)
    user, password = (urllib.parse.unquote(found[part] or "") for part in ("user", "password")) if found else ("", "")
    if not found or not f"{user}{password}".isprintable():
        return url, {}
    key = f"credential.{found['scheme']}{found['host']}"
    # an empty helper takes back those of the system for this host
    first = (f"{key}.username", user) if found["password"] is None else (f"{key}.helper", "")
    settings = [first, (f"{key}.helper", _HELPER)]
    return f"{found['scheme']}{found['host']}{found['path']}", {
        "GIT_CONFIG_COUNT": str(len(settings)),
        **{f"GIT_CONFIG_KEY_{number}": name for number, (name, _value) in enumerate(settings)},
        **{f"GIT_CONFIG_VALUE_{number}": value for number, (_name, value) in enumerate(settings)},
        "DJANGO_FORMULA_GIT_USER": user,
        "DJANGO_FORMULA_GIT_PASSWORD": password,
    }


def plain(text: str) -> str:
    """Return an untrusted text on one line, without the control characters of terminals."""
    return "".join(c if c.isprintable() else " " if c.isspace() else "" for c in text)


def _host(url: str) -> str:
    if "://" in url:
        with contextlib.suppress(ValueError):  # the URL of a submodule is what its author likes
            return urllib.parse.urlsplit(url).hostname or ""
        return ""
    return url.split(":", 1)[0].rsplit("@", 1)[-1] if ":" in url else "this host"


def attributes(site: Site) -> str:
    """Return the attributes that override those of the files in a repository."""
    return _ATTRIBUTES["folder" if site.config["folder"] else "repository"]


def set_attributes(site: Site, mirror: Path) -> None:
    """Write the attributes into a mirror if they differ."""
    path = mirror / "info" / "attributes"
    if file.read_text(path) != attributes(site):
        path.parent.mkdir(exist_ok=True)
        path.write_text(attributes(site))


def local_path(url: str) -> str:
    """Return the path of a repository on this host; empty for one on another host."""
    path = url.removeprefix("file://")
    return path if path.startswith("/") else ""


def _upload_pack(url: str) -> list[str]:
    """Return the option by which root reads a repository of this host as the user who can write to it."""
    path = "" if os.geteuid() else local_path(url)
    try:
        reader = source_reader.reader(path) if path else source_reader.ROOT
    except OSError:
        return []
    if not reader.uid:
        return []
    environment = ["GIT_PROTOCOL=version=2", "GIT_CONFIG_GLOBAL=/dev/null", "GIT_CONFIG_NOSYSTEM=1"]
    environment += ["GIT_CONFIG_COUNT=1", "GIT_CONFIG_KEY_0=safe.directory", "GIT_CONFIG_VALUE_0=*"]
    become = f"setpriv --reuid={reader.uid} --regid={reader.gid} --clear-groups --no-new-privs"
    clean = f"env -i PATH={commands.PATH} HOME=/nonexistent LANG=C.UTF-8 {' '.join(environment)}"
    return [f"--upload-pack={become} {clean} git-upload-pack"]
