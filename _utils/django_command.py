"""Commands as argument lists: an identity, a clean environment, a time limit, and the one exception of the engine."""

import atexit
import contextlib
import errno
import gc
import logging
import os
import pwd
import re
import signal
import subprocess
import time
from collections.abc import Collection, Iterable, Mapping, Sequence
from typing import Any

log = logging.getLogger(__name__)

# What Salt has in memory is not looked through for garbage once more when its process ends: that takes some 30 ms.
atexit.register(gc.freeze)

PATH = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"

#: What a command that talks to the network may take over from the environment of Salt: proxies, authorities, indexes.
NETWORK_VARIABLES = (
    "http_proxy",
    "https_proxy",
    "no_proxy",
    "all_proxy",
    "HTTP_PROXY",
    "HTTPS_PROXY",
    "NO_PROXY",
    "ALL_PROXY",
    "SSL_CERT_FILE",
    "SSL_CERT_DIR",
    "GIT_SSL_CAINFO",
    "REQUESTS_CA_BUNDLE",
    "NODE_EXTRA_CA_CERTS",
    "PIP_CERT",
    "PIP_INDEX_URL",
    "PIP_EXTRA_INDEX_URL",
    "PIP_FIND_LINKS",
    "PIP_TRUSTED_HOST",
    "UV_DEFAULT_INDEX",
    "UV_INDEX",
    "UV_FIND_LINKS",
    "NPM_CONFIG_REGISTRY",
)
_INDEX_LOGIN = re.compile(r"UV_INDEX_[A-Z0-9_]+_(USERNAME|PASSWORD)")

#: File descriptors that every command inherits: the site's lock, so that it is held while any child lives.
inherited_descriptors: set[int] = set()

#: Seconds after which a command that still runs is told of, again and again.
PROGRESS = 15.0

_SECONDS = {"ms": 0.001, "s": 1, "m": 60, "h": 3600, "d": 86400}
_CREDENTIALS = re.compile(r"(?<=://)[^/\s]*@")
#: What a program says when its cause lies outside of what is deployed: the network, the disk, a server that is down.
_TRANSIENT = re.compile(
    r"could not resolve|couldn't resolve|failed to resolve|name resolution|temporary failure"
    r"|connection refused|connection reset|connection timed out|operation timed out|network is unreachable"
    r"|no route to host|failed to connect|couldn't connect|dns error"
    r"|error sending request|client error \(connect\)|early eof|the remote end hung up|tcp connect error"
    r"|50[0234] (server error|bad gateway|service unavailable|gateway time)"
    r"|no space left|disk quota|read-only file system|input/output error|too many open files"
    r"|cannot allocate memory|database is locked",
    re.IGNORECASE,
)


class DeploymentError(Exception):
    """What an operator has to know: what happened, the last lines of a log, what to do.

    Args:
        message: one sentence with the cause.
        log: output of the program that failed; its last lines are shown.
        hint: what to do, usually a command or a pillar key.
        transient: True where trying again may help without a change (network, disk).
    """

    def __init__(self, message: str, *, log: str = "", hint: str = "", transient: bool = False):
        super().__init__(message)
        self.message = message
        self.log = log
        self.hint = hint
        self.transient = transient

    def __str__(self) -> str:
        lines = [line.rstrip()[:300] for line in self.log.splitlines() if line.strip()][-5:]
        return "\n".join([self.message, *(f"  | {line}" for line in lines), *([self.hint] if self.hint else [])])


def seconds(duration: str) -> float:
    """The seconds of a duration as the pillar writes it: ``500ms``, ``30s``, ``5m``, ``1h``, ``2d``.

    Raises:
        DeploymentError: it is none.
    """
    found = re.fullmatch(r"(\d+)(ms|s|m|h|d)", str(duration))
    if not found:
        raise DeploymentError(f"{duration!r} is no duration", hint="write a number with its unit, such as 30s or 5m")
    return int(found[1]) * _SECONDS[found[2]]


def redact(text: str, secrets: Iterable[str] = ()) -> str:
    """The text without the given secrets and without the credentials of any URL."""
    for secret in sorted((s for s in secrets if len(s) > 3), key=len, reverse=True):
        text = text.replace(secret, "**********")
    return _CREDENTIALS.sub("**********@", text)


def network_environment() -> dict[str, str]:
    """The variables about proxies, certificate authorities and package indexes that Salt was started with.

    An authority that ``SSL_CERT_FILE`` names is git's and pip's too, which do not read that variable.
    """
    environ = os.environ
    found = {name: environ[name] for name in environ if name in NETWORK_VARIABLES or _INDEX_LOGIN.fullmatch(name)}
    for name in ("GIT_SSL_CAINFO", "PIP_CERT"):
        if "SSL_CERT_FILE" in found:
            found.setdefault(name, found["SSL_CERT_FILE"])
    return found


def run(
    argv: Sequence[str],
    *,
    doing: str,
    user: str | None = None,
    environment: Mapping[str, str] | None = None,
    folder: str = "/",
    timeout: float = 60.0,
    stdin: str | int = "",
    output: int | None = None,
    descriptors: Collection[int] = (),
    secrets: Iterable[str] = (),
    umask: int = 0o022,
    hint: str = "",
    errors_too: bool = False,
    daemon: bool = False,
) -> str:
    """Run a command to its end and return its standard output, with `errors_too` and its standard error behind it.

    The environment is empty but for ``PATH``, ``LANG``, ``HOME`` and what is given; the command is the leader of a
    process group that ends with it: as a whole when the time is up, and whoever it has left behind. While it runs, the
    log has its last line now and then, at level info.

    Args:
        argv: the program and its arguments; there is no shell.
        doing: what the command is for, as in "fetching the repository"; errors begin with it.
        user: the identity to take, with its own group and no other; None stays root.
        timeout: seconds.
        stdin: what it reads, no more than a pipe takes at once, 64 KiB; or a file descriptor that it reads.
        output: a file descriptor that takes its standard output, of which nothing is returned then.
        descriptors: further ones that it inherits.
        secrets: texts that are masked in errors and logs.
        daemon: whether it leaves somebody behind on purpose, who then lives on, and does not keep the site's lock.

    Raises:
        DeploymentError: it cannot be started, fails, or is not through in time.
    """
    secrets = list(secrets)
    clean = {"PATH": PATH, "LANG": "C.UTF-8", "HOME": "/nonexistent" if user else "/root", **(environment or {})}
    log.debug("running %s", redact(" ".join(argv), secrets))
    started = time.monotonic()
    try:
        process = subprocess.Popen(  # noqa: S603 - an argument list, never a shell
            list(argv),
            stdin=subprocess.PIPE if isinstance(stdin, str) else stdin,
            stdout=subprocess.PIPE if output is None else output,
            stderr=subprocess.PIPE,
            env=clean,
            cwd=folder,
            start_new_session=True,
            pass_fds=() if daemon else (*inherited_descriptors, *descriptors),
            umask=umask,
            encoding="utf-8",
            errors="replace",
            **identity(user),
        )
    except OSError as error:
        transient = error.errno in (errno.EMFILE, errno.ENFILE, errno.ENOMEM, errno.EAGAIN)
        message = f"{doing}: {argv[0]} cannot be started: {error.strerror}"
        raise DeploymentError(message, hint=hint, transient=transient) from None
    try:
        printed, errors = _wait(process, stdin if isinstance(stdin, str) else None, doing, timeout, secrets)
    except subprocess.TimeoutExpired:
        _end(process)
        printed, errors = process.communicate()
        text = redact(f"{printed or ''}\n{errors}", secrets)
        raise DeploymentError(
            f"{doing}: not through after {timeout:g} s", log=text, hint=hint, transient=True
        ) from None
    except BaseException:
        _end(process)
        raise
    if process.returncode or not daemon:
        _end(process)
    printed = printed or ""
    if process.returncode:
        text = redact(errors if errors.strip() else printed, secrets)
        log.info("%s failed (exit %s):\n%s", doing, process.returncode, redact(f"{printed}\n{errors}", secrets))
        transient = bool(_TRANSIENT.search(text))
        raise DeploymentError(f"{doing} failed (exit {process.returncode})", log=text, hint=hint, transient=transient)
    log.debug("%s took %.2f s", doing, time.monotonic() - started)
    return f"{printed}{errors}" if errors_too else str(printed)


def identity(user: str | None) -> dict[str, Any]:
    """What makes a new process one of a user, with its own group and no other; nothing for None, which stays root."""
    if not user:
        return {}
    entry = pwd.getpwnam(user)
    return {"user": entry.pw_uid, "group": entry.pw_gid, "extra_groups": []}


def _wait(
    process: subprocess.Popen[str], stdin: str | None, doing: str, timeout: float, secrets: Sequence[str]
) -> tuple[str, str]:
    """What a process prints, once it has ended; while it runs, the log tells how far it is.

    Raises:
        subprocess.TimeoutExpired: it has not ended in time.
    """
    began = time.monotonic()
    unsent = stdin
    told = ["", ""]
    while True:
        left = began + timeout - time.monotonic()
        try:
            return process.communicate(unsent, timeout=min(left, PROGRESS))
        except subprocess.TimeoutExpired as expired:
            if left <= PROGRESS:
                raise
            lines = [_last_line(text or b"", secrets) for text in (expired.stdout, expired.stderr)]
            new = [line for line, before in zip(lines, told, strict=True) if line and line != before]
            told, unsent = lines, None
            last = f": {new[-1]}" if new else ""
            log.info("%s takes %.0f s so far%s", doing, time.monotonic() - began, last)


def _last_line(output: bytes, secrets: Sequence[str]) -> str:
    """The last line of an output so far; one that goes on is left out where it may end within a secret."""
    parts = [line for secret in secrets for line in secret.splitlines() if len(line) > 3]
    *lines, rest = re.split(r"[\r\n]", output.decode(errors="ignore"))
    ends = any(rest.endswith(part[:size]) for part in parts for size in range(1, len(part) + 1))
    if not ends and "://" not in rest:
        lines.append(rest)
    last = next((line for line in reversed(lines) if line.strip()), "")
    return "".join(filter(str.isprintable, redact(last, parts))).strip()[:200]


def _end(process: subprocess.Popen[str]) -> None:
    """End the process group: SIGTERM, two seconds for its leader, SIGKILL for whatever is left."""
    with contextlib.suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGTERM)
    with contextlib.suppress(subprocess.TimeoutExpired):
        process.wait(2)
    with contextlib.suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGKILL)
