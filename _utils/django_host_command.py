"""Commands as argument lists: an identity, a clean environment, a time limit, and the one exception of the engine."""

import atexit
import contextlib
import errno
import gc
import logging
import os
import pwd
import re
import selectors
import signal
import subprocess
import time
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from typing import Any, NamedTuple

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

#: The descriptors of the locks that this process has: only `django_wall_reaper` inherits them, no command ever does.
locks: set[int] = set()
#: Bytes of standard output that are kept of a command, and of what only the end is kept of.
OUTPUT, KEPT = 16 << 20, 256 << 10
#: Bytes in which the last line of an output is looked for.
_LINE = 8 << 10
#: Seconds after which a process is looked for that says nothing and has its pipes open: another may have them.
_LOOK = 0.2

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


class Ended(NamedTuple):
    """How a command ended: its exit code (None where its time was up), what it printed, and what of errors."""

    code: int | None
    printed: str
    errors: str
    #: Seconds in which it had printed nothing when it was ended for that; 0 where it was not.
    stalled: float = 0


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
    only_the_end: bool = False,
    stall: float = 0,
    exit_code: Callable[[int], int] | None = None,
) -> str:
    """Run a command to its end and return its standard output, with `errors_too` and its standard error behind it.

    The environment is empty but for ``PATH``, ``LANG``, ``HOME`` and what is given; the command is the leader of a
    process group that ends with it: as a whole when the time is up, and whoever it has left behind. While it runs, the
    log has its last line now and then, at level info. Of standard error only the last `KEPT` bytes are kept.

    Args:
        argv: the program and its arguments; there is no shell.
        doing: what the command is for, as in "fetching the repository"; errors begin with it.
        user: the identity to take, with its own group and no other; None stays root.
        timeout: seconds.
        stdin: what it reads; or a file descriptor that it reads.
        output: a file descriptor that takes its standard output, of which nothing is returned then.
        descriptors: further ones that it inherits.
        secrets: texts that are masked in errors and logs.
        daemon: whether it leaves a process behind on purpose, which then lives on.
        only_the_end: whether no more than the last `KEPT` bytes of its standard output are wanted, however many come;
            otherwise one that prints more than `OUTPUT` bytes is ended.
        stall: seconds without a byte of output or errors after which it is ended before its time is up; 0 for none.
        exit_code: called with the exit code of a command that fails; what it returns counts in its place.

    Raises:
        DeploymentError: it cannot be started, fails, prints too much, or is not through in time.
    """
    secrets = list(secrets)
    ended = execute(
        argv,
        doing=doing,
        user=user,
        environment=environment,
        folder=folder,
        timeout=timeout,
        stdin=stdin,
        output=output,
        descriptors=descriptors,
        secrets=secrets,
        umask=umask,
        hint=hint,
        daemon=daemon,
        only_the_end=only_the_end,
        stall=stall,
    )
    if ended.code and exit_code:
        ended = ended._replace(code=exit_code(ended.code))
    return judge(ended, doing=doing, timeout=timeout, secrets=secrets, hint=hint, errors_too=errors_too)


def judge(
    ended: Ended, *, doing: str, timeout: float, secrets: Iterable[str] = (), hint: str = "", errors_too: bool = False
) -> str:
    """Return what a command has printed, or raise what `run` raises of one that has failed.

    Raises:
        DeploymentError: it has failed, or its time was up.
    """
    secrets = list(secrets)
    if ended.code is None:
        text = redact(f"{ended.printed}\n{ended.errors}", secrets)
        if ended.stalled:
            message = f"{doing}: no progress for {ended.stalled:g} s"
            raise DeploymentError(message, log=text, hint=hint, transient=True)
        raise DeploymentError(f"{doing}: not through after {timeout:g} s", log=text, hint=hint, transient=True)
    if ended.code:
        text = redact(ended.errors if ended.errors.strip() else ended.printed, secrets)
        printed = redact(f"{ended.printed}\n{ended.errors}", secrets)
        log.info("%s failed (exit %s):\n%s", doing, ended.code, printed)
        transient = bool(_TRANSIENT.search(text))
        raise DeploymentError(f"{doing} failed (exit {ended.code})", log=text, hint=hint, transient=transient)
    return f"{ended.printed}{ended.errors}" if errors_too else ended.printed


def execute(
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
    secrets: Sequence[str] = (),
    umask: int = 0o022,
    hint: str = "",
    daemon: bool = False,
    only_the_end: bool = False,
    grace: float = 2.0,
    stall: float = 0,
) -> Ended:
    """Run a command to its end, as `run` does, and return how it ended.

    Args:
        grace: seconds that it has to end in, once its time is up, before it is killed.

    Raises:
        DeploymentError: it cannot be started, or prints too much.
    """
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
            pass_fds=tuple(descriptors),
            umask=umask,
            **identity(user),
        )
    except OSError as error:
        transient = error.errno in (errno.EMFILE, errno.ENFILE, errno.ENOMEM, errno.EAGAIN)
        message = f"{doing}: {argv[0]} cannot be started: {error.strerror}"
        raise DeploymentError(message, hint=hint, transient=transient) from None
    with contextlib.ExitStack() as pipes:
        for pipe in filter(None, (process.stdin, process.stdout, process.stderr)):
            pipes.enter_context(pipe)
        heard = _Heard(process, stdin if isinstance(stdin, str) else "", only_the_end)
        try:
            is_over = _listen(process, heard, doing, started + timeout, secrets, stall)
        except BaseException:
            _end(process, grace)
            raise
        if not is_over or process.returncode or not daemon:
            _end(process, grace)
        _take_the_rest(heard)
    log.debug("%s took %.2f s", doing, time.monotonic() - started)
    code = process.returncode if is_over else None
    stalled = stall if not is_over and stall and heard.silence() >= stall else 0
    return Ended(code, heard.text(process.stdout), heard.text(process.stderr), stalled)


def identity(user: str | None) -> dict[str, Any]:
    """What makes a new process one of a user, with its own group and no other; nothing for None, which stays root."""
    if not user:
        return {}
    entry = pwd.getpwnam(user)
    return {"user": entry.pw_uid, "group": entry.pw_gid, "extra_groups": []}


class _Heard:
    """The pipes of a process: what it has not read yet, and what it has printed so far, within bounds."""

    def __init__(self, process: subprocess.Popen[bytes], stdin: str, only_the_end: bool):
        self.stdin: Any = process.stdin
        self.unsent = memoryview(stdin.encode(errors="surrogateescape"))
        self.most = {process.stdout: KEPT if only_the_end else OUTPUT, process.stderr: KEPT}
        self.is_cut = {process.stdout: only_the_end, process.stderr: True}
        self.content: dict[Any, bytearray] = {}
        self.last_time = time.monotonic()
        self.selector = selectors.PollSelector()  # which takes no descriptor of its own
        for pipe in filter(None, (process.stdout, process.stderr)):
            os.set_blocking(pipe.fileno(), False)
            self.selector.register(pipe, selectors.EVENT_READ)
            self.content[pipe] = bytearray()
        if process.stdin:
            os.set_blocking(process.stdin.fileno(), False)
            self.selector.register(process.stdin, selectors.EVENT_WRITE)

    def take(self, patience: float) -> bool:
        """Read what comes within some seconds, and wait no longer once something has; whether all pipes are closed.

        Raises:
            OverflowError: it is more than is kept.
        """
        for key, _events in self.selector.select(patience) if self.selector.get_map() else ():
            pipe: Any = key.fileobj
            if pipe is self.stdin:
                self._send()
                continue
            try:
                part = os.read(pipe.fileno(), 1 << 16)
            except BlockingIOError:
                continue
            if not part:
                self.selector.unregister(pipe)
                continue
            self.last_time = time.monotonic()
            content, most = self.content[pipe], self.most[pipe]
            content += part
            if len(content) > most and not self.is_cut[pipe]:
                raise OverflowError(most)
            if len(content) > 2 * most:
                del content[:-most]
        return not self.selector.get_map()

    def _send(self) -> None:
        """Write some more of what the process reads; one that does not read it to its end has ended, or will."""
        with contextlib.suppress(BlockingIOError):
            try:
                self.unsent = self.unsent[os.write(self.stdin.fileno(), self.unsent[: 1 << 16]) :]
            except BrokenPipeError:
                self.unsent = self.unsent[:0]
        if not self.unsent:
            self.selector.unregister(self.stdin)
            self.stdin.close()

    def silence(self) -> float:
        """Seconds since it has printed something."""
        return time.monotonic() - self.last_time

    def last(self) -> list[bytes]:
        """The last lines of each pipe."""
        return [bytes(content[-_LINE:]) for content in self.content.values()]

    def text(self, pipe: Any) -> str:
        """All that has come by a pipe, or the last `KEPT` bytes of it."""
        content = self.content.get(pipe, bytearray())
        return bytes(content[-self.most[pipe] :] if self.is_cut[pipe] else content).decode(errors="replace")


def _listen(
    process: subprocess.Popen[bytes], heard: _Heard, doing: str, deadline: float, secrets: Sequence[str], stall: float
) -> bool:
    """Read what a process prints until it has ended; while it runs, the log tells how far it is.

    Returns:
        Whether it has ended by itself within its time.

    Raises:
        DeploymentError: it prints more than is kept.
    """
    began = last = time.monotonic()
    told = [""] * len(heard.content)
    while True:
        now = time.monotonic()
        if now >= deadline or (stall and heard.silence() >= stall):
            return process.poll() is not None
        if now - last >= PROGRESS:
            last = now
            lines = [_last_line(text, secrets) for text in heard.last()]
            new = [line for line, before in zip(lines, told, strict=True) if line and line != before]
            told = lines
            log.info("%s takes %.0f s so far%s", doing, now - began, f": {new[-1]}" if new else "")
        wait = max(min(deadline, last + PROGRESS, heard.last_time + stall if stall else deadline) - now, 0)
        try:
            is_silent = heard.take(min(wait, _LOOK))
        except OverflowError as error:
            raise DeploymentError(f"{doing}: it prints more than {error.args[0] >> 20} MiB") from None
        if is_silent:
            with contextlib.suppress(subprocess.TimeoutExpired):
                process.wait(wait)
                return True
        elif process.poll() is not None:
            _take_the_rest(heard)  # before what it has left behind is ended
            return True


def _take_the_rest(heard: _Heard) -> None:
    """Read what a process that has ended has left in its pipes, which others may keep open."""
    deadline = time.monotonic() + 1
    with contextlib.suppress(OverflowError):
        while time.monotonic() < deadline and not heard.take(0.05):
            pass


def _last_line(output: bytes, secrets: Sequence[str]) -> str:
    """The last line of an output so far; one that goes on is left out where it may end within a secret."""
    parts = [line for secret in secrets for line in secret.splitlines() if len(line) > 3]
    *lines, rest = re.split(r"[\r\n]", output.decode(errors="ignore"))
    ends = any(rest.endswith(part[:size]) for part in parts for size in range(1, len(part) + 1))
    if not ends and "://" not in rest:
        lines.append(rest)
    last = next((line for line in reversed(lines) if line.strip()), "")
    return "".join(filter(str.isprintable, redact(last, parts))).strip()[:200]


def _end(process: subprocess.Popen[bytes], grace: float) -> None:
    """End the process group: SIGTERM, some seconds for its leader, SIGKILL for whatever is left."""
    with contextlib.suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGTERM)
    with contextlib.suppress(subprocess.TimeoutExpired):
        process.wait(grace)
    with contextlib.suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGKILL)
