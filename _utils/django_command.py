"""Commands as argument lists: an identity, a clean environment, a time limit, and the one exception of the engine."""

import contextlib
import logging
import os
import pwd
import re
import signal
import subprocess
import time
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

log = logging.getLogger(__name__)

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

_SECONDS = {"ms": 0.001, "s": 1, "m": 60, "h": 3600, "d": 86400}
_CREDENTIALS = re.compile(r"(?<=://)[^/\s]*@")
#: What a program says when its cause lies outside of what is deployed: the network, the disk, a server that is down.
_TRANSIENT = re.compile(
    r"could not resolve|couldn't resolve|failed to resolve|name resolution|temporary failure"
    r"|connection refused|connection reset|connection timed out|operation timed out|network is unreachable"
    r"|no route to host|failed to connect|couldn't connect|dns error"
    r"|error sending request|client error \(connect\)|early eof|the remote end hung up|tcp connect error"
    r"|50[0234] (server error|bad gateway|service unavailable|gateway time)"
    r"|no space left|disk quota|read-only file system|cannot allocate memory|input/output error|database is locked",
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
    stdin: str = "",
    secrets: Iterable[str] = (),
    umask: int = 0o022,
    hint: str = "",
    errors_too: bool = False,
    daemon: bool = False,
) -> str:
    """Run a command to its end and return its standard output, with `errors_too` and its standard error behind it.

    The environment is empty but for ``PATH``, ``LANG``, ``HOME`` and what is given; the command is the leader of a
    process group that ends with it: as a whole when the time is up, and whoever it has left behind.

    Args:
        argv: the program and its arguments; there is no shell.
        doing: what the command is for, as in "fetching the repository"; errors begin with it.
        user: the identity to take, with its own group and no other; None stays root.
        timeout: seconds.
        secrets: texts that are masked in errors and logs.
        daemon: whether it leaves somebody behind on purpose, who then lives on, and does not keep the site's lock.

    Raises:
        DeploymentError: it cannot be started, fails, or is not through in time.
    """
    secrets = list(secrets)
    clean = {"PATH": PATH, "LANG": "C.UTF-8", "HOME": "/nonexistent" if user else "/root", **(environment or {})}
    identity: dict[str, Any] = {}
    if user:
        entry = pwd.getpwnam(user)
        identity = {"user": entry.pw_uid, "group": entry.pw_gid, "extra_groups": []}
    log.debug("running %s", redact(" ".join(argv), secrets))
    started = time.monotonic()
    try:
        process = subprocess.Popen(  # noqa: S603 - an argument list, never a shell
            list(argv),
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            env=clean,
            cwd=folder,
            start_new_session=True,
            pass_fds=() if daemon else tuple(inherited_descriptors),
            umask=umask,
            encoding="utf-8",
            errors="replace",
            **identity,
        )
    except OSError as error:
        raise DeploymentError(f"{doing}: {argv[0]} cannot be started: {error.strerror}", hint=hint) from None
    try:
        output, errors = process.communicate(stdin, timeout=timeout)
    except subprocess.TimeoutExpired:
        _end(process)
        output, errors = process.communicate()
        text = redact(f"{output}\n{errors}", secrets)
        raise DeploymentError(
            f"{doing}: not through after {timeout:g} s", log=text, hint=hint, transient=True
        ) from None
    except BaseException:
        _end(process)
        raise
    if process.returncode or not daemon:
        _end(process)
    if process.returncode:
        text = redact(errors if errors.strip() else output, secrets)
        log.info("%s failed (exit %s):\n%s", doing, process.returncode, redact(f"{output}\n{errors}", secrets))
        transient = bool(_TRANSIENT.search(text))
        raise DeploymentError(f"{doing} failed (exit {process.returncode})", log=text, hint=hint, transient=transient)
    log.debug("%s took %.2f s", doing, time.monotonic() - started)
    return f"{output}{errors}" if errors_too else str(output)


def _end(process: subprocess.Popen[str]) -> None:
    """End the process group: SIGTERM, two seconds for its leader, SIGKILL for whatever is left."""
    with contextlib.suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGTERM)
    with contextlib.suppress(subprocess.TimeoutExpired):
        process.wait(2)
    with contextlib.suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGKILL)
