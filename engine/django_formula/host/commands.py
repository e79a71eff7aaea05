"""Run commands: argument lists with an identity, a clean environment and a timeout; and the engine's one exception."""

import atexit
import contextlib
import dataclasses
import errno
import functools
import gc
import json
import os
import pwd
import re
import selectors
import signal
import subprocess
import time
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from typing import Any, NamedTuple, ParamSpec
from urllib.parse import quote, quote_plus

from django_formula.untrusted.text import Log, shown, uncoloured, without_logins

#: Bytes of standard output that are kept of a command, and bytes of an output of which only the end is kept.
WHOLE, END = 16 << 20, 256 << 10
#: Bytes in which the last line of an output is looked for.
_LINE = 8 << 10


class _Output:
    """The output of a process so far, and the input that it has not read yet.

    Args:
        process: its standard error is a pipe; its standard input and output may be.
        stdin: the text to write to its standard input, if that is a pipe.
        only_the_end: whether only the last `END` bytes of its standard output are kept.
    """

    def __init__(self, process: "subprocess.Popen[bytes]", stdin: str, only_the_end: bool):
        self.last_time = time.monotonic()
        self._stdin: Any = process.stdin
        self._unsent = memoryview(stdin.encode(errors="surrogateescape"))
        self._limits = {process.stdout: END if only_the_end else WHOLE, process.stderr: END}
        self._is_cut = {process.stdout: only_the_end, process.stderr: True}
        self._content: dict[Any, bytearray] = {}
        self._selector = selectors.PollSelector()  # which takes no descriptor of its own
        for pipe in filter(None, (process.stdout, process.stderr)):
            os.set_blocking(pipe.fileno(), False)
            self._selector.register(pipe, selectors.EVENT_READ)
            self._content[pipe] = bytearray()
        if process.stdin:
            os.set_blocking(process.stdin.fileno(), False)
            self._selector.register(process.stdin, selectors.EVENT_WRITE)

    def read(self, patience: float) -> bool:
        """Read the output that is there, or wait for some.

        Args:
            patience: seconds to wait at most.

        Returns:
            Whether all pipes are closed.

        Raises:
            OverflowError: the output has more bytes than are kept.
        """
        for key, _events in self._selector.select(patience) if self._selector.get_map() else ():
            if key.fileobj is self._stdin:
                self._send()
            else:
                self._receive(key.fileobj)
        return not self._selector.get_map()

    def _receive(self, pipe: Any) -> None:
        try:
            part = os.read(pipe.fileno(), 1 << 16)
        except BlockingIOError:
            return
        if not part:
            self._selector.unregister(pipe)
            return
        self.last_time = time.monotonic()
        content, limit = self._content[pipe], self._limits[pipe]
        content += part
        if len(content) > limit and not self._is_cut[pipe]:
            raise OverflowError(limit)
        if len(content) > 2 * limit:
            del content[:-limit]

    def _send(self) -> None:
        """Write more of the input; a process that has closed its standard input gets no more of it."""
        with contextlib.suppress(BlockingIOError):
            try:
                self._unsent = self._unsent[os.write(self._stdin.fileno(), self._unsent[: 1 << 16]) :]
            except BrokenPipeError:
                self._unsent = self._unsent[:0]
        if not self._unsent:
            self._selector.unregister(self._stdin)
            self._stdin.close()

    def read_rest(self) -> None:
        """Read what a process that has ended has left in its pipes, which its children may keep open."""
        deadline = time.monotonic() + 1
        with contextlib.suppress(OverflowError):
            while time.monotonic() < deadline and not self.read(0.05):
                pass

    def silence(self) -> float:
        """Return the seconds since the process last printed something."""
        return time.monotonic() - self.last_time

    def tails(self) -> list[bytes]:
        """Return the end of each pipe's output, which has its last line."""
        return [bytes(content[-_LINE:]) for content in self._content.values()]

    def text(self, pipe: Any) -> str:
        """Return the output of a pipe, or the end of it where only that is kept."""
        content = self._content.get(pipe, bytearray())
        return bytes(content[-self._limits[pipe] :] if self._is_cut[pipe] else content).decode(errors="replace")


log = Log.of(__name__)

# Python's last garbage collection goes through all that Salt has loaded: Salt 3008.3 with all its modules exits after
# 300 ms (two cores), and after 30 ms where they are frozen before. Nothing of them requires a finalizer at that point.
atexit.register(gc.freeze)

PATH = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"

#: Variables of Salt's environment that commands may have that use the network: proxies, certificates, indexes.
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

#: The descriptors of the locks that this process holds: `untrusted.reaper` inherits them, and no command does.
locks: set[int] = set()
#: What the process of a command does before it becomes the command; linux/prctl.h.
_beginning: Callable[[], object] | None = None
_PR_SET_PDEATHSIG = 1
#: Seconds between two looks at whether a silent process has ended: its children may keep its pipes open.
_POLL = 0.2
#: Seconds between two messages in the log about a command that is still running.
PROGRESS = 15.0
#: The part of a CPU below which a command does nothing, and seconds of that, without output, of which an error tells.
_IDLE, _STILL = 0.01, 60.0

_SECONDS = {"ms": 0.001, "s": 1, "m": 60, "h": 3600, "d": 86400}
#: The longest duration: the pillar has no longer one, and some centuries later the clocks of C end.
_LONGEST = 999_999 * 86400
#: Characters of a line of a secret that is masked without the others.
_OWN_LINE = 16
#: What pydantic-settings quotes of the environment, cut in the middle: parts of secrets, which no list of them has.
_INPUT = re.compile(r"(?<=\binput_value=)(?!\*).*?(?=, input_type=|\Z)", re.DOTALL)
#: Output of programs that fail for a reason outside of the deployment: the network, the disk, a server that is down.
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


#: The lines of a traceback, which supervisor's log begins with a time: the first one, those of a frame, its code.
_HEADER = re.compile(r"(?:\d{4}-\S+ )?Traceback \(most recent call last\):")
FRAME = re.compile(
    r'(?:\d{4}-\S+ )?  File "(?P<path>(?:[^"]*/)?(?P<file>[^"/]+))", line (?P<line>\d+)(?:, in (?P<function>.*))?'
)
_CODE = re.compile(r"(?:\d{4}-\S+ )?    ")
#: A frame of a JavaScript stack: the error is above it.
_JAVASCRIPT_FRAME = re.compile(r"\s+at (?:async )?(?:new )?[\w.<>$\[\] ]*\(?(?:file:|node:|/|<anonymous>)\S*\)?$")
#: Lines of an output that an error shows: the last ones; or the beginning of an error further up, and fewer last ones.
_LAST, _FIRST, _LAST_AFTER_FIRST = 5, 2, 3
#: How npm, yarn, webpack, esbuild, Vite, TypeScript, GCC and others begin an error. They print more after it: what it
#: leads to, how often it happened, where their log is.
_ERROR = re.compile(
    r"\s*(?:npm (?:ERR!|error) |ERROR in |✘ \[ERROR\]|\[!\] |error during build:|\S+: error TS\d+: |error |Error: "
    r"|\S+:\d+:\d+: (?:fatal )?error: |\[[\d:]{8}\] \w*Error in plugin )"
)
#: The words of gulp above what an error says.
_OF_GULP = re.compile(r"(Message|Details):\s*")
#: How yarn ends where a command of a script fails, which has said why before; and what yarn says in between.
_ENDED = re.compile(r"error Command failed with exit code \d+\.?")
_OF_YARN = re.compile(r"info Visit \S+ for documentation|\$ ")


class DeploymentError(Exception):
    """An error for the operator.

    Args:
        message: what failed, with its cause, in one sentence.
        details: further lines of the message, each one with a name or a text of others.
        log: output of the program that failed; its last lines are shown, and its first error where that is further up,
            without frames of the formula's own files.
        hint: what to do, usually a command or a pillar key.
        transient: whether trying again may succeed without a change (network, disk).
    """

    def __init__(
        self, message: str, *, details: Sequence[str] = (), log: str = "", hint: str = "", transient: bool = False
    ):
        super().__init__(message)
        self.message: str = "\n  ".join([shown(message, lines=True), *map(shown, details)])
        self.log = log
        self.options: dict[str, Any] = {}
        #: Those that a person may choose in their place.
        self.offered: dict[str, Any] = {}
        self.hint = hint
        self.transient = transient

    @property
    def hint(self) -> str:
        """What to do. One that has options (`knowledge.hints.Hint`) brings them; another text leaves them as they are.

        ``options`` are those of the pillar that cure it, as data.
        """
        return self._hint

    @hint.setter
    def hint(self, text: str) -> None:
        self._hint: str = shown(text, lines=True)
        self.options = {**getattr(text, "options", self.options)}

    def __str__(self) -> str:
        log = uncoloured(self.log)
        lines = _chosen([line.rstrip()[:300] for line in _without_own_frames(log) if line.strip()])
        text = "\n".join([self.message, *(f"  | {shown(line)}" for line in lines), *filter(None, [self.hint])])
        return shown(text, lines=True)


class TimedOut(DeploymentError):
    """A command did not end within its timeout, and was ended."""


def _chosen(lines: list[str]) -> list[str]:
    """Return the last lines of a log, after the first error if that is further up."""
    first = _first_error(lines[:-_LAST])
    return [*first, "…", *lines[-_LAST_AFTER_FIRST:]] if first else lines[-_LAST:]


def _first_error(lines: list[str]) -> list[str]:
    """Return the first error in an output, and what follows it; an empty list if it has none."""
    begins = (number for number, line in enumerate(lines) if _ERROR.match(line) and not _ENDED.fullmatch(line))
    first = next(begins, len(lines))
    return lines[first : first + _FIRST]


def _without_own_frames(text: str) -> Iterator[str]:
    """Yield the lines of a log; of its tracebacks only the frames that are not in programs of the formula.

    Frames of JavaScript are left out. Python names a program that it reads from its standard input ``<string>``.
    """
    is_own, header = False, ""
    for line in text.splitlines():
        if _JAVASCRIPT_FRAME.fullmatch(line) or _OF_GULP.fullmatch(line):
            continue
        frame = FRAME.match(line)
        if frame:
            is_own = frame["file"].startswith(("django_formula_", "<string>"))
        elif not _CODE.match(line):
            is_own, header = False, ""
        if _HEADER.match(line):
            header = line
        elif not is_own:
            yield from filter(None, [header])
            yield line
            header = ""


def size(text: str) -> int:
    """Return the bytes of a size as the pillar has it: ``500K``, ``256M``, ``2G``."""
    return int(text[:-1]) << {"K": 10, "M": 20, "G": 30}[text[-1]]


def seconds(duration: str) -> float:
    """Return the seconds of a duration as the pillar has it: ``500ms``, ``30s``, ``5m``, ``1h``, ``2d``.

    Raises:
        DeploymentError: it is not a duration.
    """
    found = re.fullmatch(r"(\d{1,12})(ms|s|m|h|d)", str(duration))
    length = int(found[1]) * _SECONDS[found[2]] if found else None
    if length is None or length > _LONGEST:
        raise DeploymentError(f"{duration!r} is not a duration", hint="write a number and a unit, such as 30s or 5m")
    return length


def number(length: float) -> str:
    """Return seconds as systemd and coreutils read them, which know no exponent: ``90``, ``0.5``, ``1036815``."""
    return f"{length:.3f}".rstrip("0").rstrip(".")


def redact(text: str, secrets: Iterable[str] = ()) -> str:
    """Return a text with secrets, the credentials in URLs, and values that a validation quotes, masked."""
    forms = {form for secret in secrets for form in _forms(secret)}
    for secret in sorted((form for form in forms if len(form) > 3), key=len, reverse=True):
        text = text.replace(secret, "**********")
    return _INPUT.sub("**********", without_logins(text, "**********@"))


def _forms(secret: str) -> Iterator[str]:
    """Yield what a secret is in texts: as it is, shown, quoted as Python, JSON and URLs do, stripped, by lines.

    A log has each line of a private key apart, and who reads a file leaves out the line break at its end.
    """
    lines = [line.strip() for line in secret.splitlines()]
    for text in (secret, secret.strip(), *(line for line in lines if len(line) >= _OWN_LINE)):
        yield from (text, shown(text), shown(text, lines=True), repr(text)[1:-1], ascii(text)[1:-1])
        yield from (json.dumps(text, ensure_ascii=is_ascii)[1:-1] for is_ascii in (True, False))
        yield from (quoted(text, safe, errors="replace") for quoted in (quote, quote_plus) for safe in ("", "/"))


def network_environment() -> dict[str, str]:
    """Return Salt's own variables about proxies, certificate authorities and package indexes.

    ``SSL_CERT_FILE`` also sets the variables of git and pip, which do not read it.
    """
    environ = os.environ
    found = {name: environ[name] for name in environ if name in NETWORK_VARIABLES or _INDEX_LOGIN.fullmatch(name)}
    for name in ("GIT_SSL_CAINFO", "PIP_CERT"):
        if "SSL_CERT_FILE" in found:
            found.setdefault(name, found["SSL_CERT_FILE"])
    return found


@dataclasses.dataclass(frozen=True)
class Command:
    """A command and the conditions under which it runs.

    Its environment is ``PATH``, ``LANG``, ``HOME`` and `environment`, nothing of Salt's. It leads a process group that
    is ended with it.

    Attributes:
        argv: the program and its arguments; there is no shell.
        doing: what the command does, as in "fetching the repository"; errors begin with it.
        user: the user that runs it, with that user's own group and no other; None is root.
        environment: its variables.
        folder: its working directory.
        timeout: seconds after which it is ended.
        stall: seconds without output after which it is ended earlier; 0 for none.
        cpu: returns the seconds of CPU that its processes have used, where an error tells how long it did nothing.
        grace: seconds between SIGTERM and SIGKILL.
        stdin: its standard input: a text, or a file descriptor.
        output: a file descriptor for its standard output, none of which is returned then.
        descriptors: further descriptors that it inherits.
        secrets: texts to mask in errors and logs.
        umask: its file mode creation mask.
        hint: the hint of its errors.
        daemon: whether it starts a process that keeps running, which is not ended with it.
        only_the_end: whether only the end of its standard output is kept; otherwise too much output is an error.
        errors_too: whether its standard error is returned too, after its standard output.
    """

    argv: Sequence[str]
    _: dataclasses.KW_ONLY
    doing: str
    user: str | None = None
    environment: Mapping[str, str] | None = None
    folder: str = "/"
    timeout: float = 60.0
    stall: float = 0
    cpu: Callable[[], float] | None = None
    grace: float = 2.0
    stdin: str | int = ""
    output: int | None = None
    descriptors: Collection[int] = ()
    secrets: Collection[str] = ()
    umask: int = 0o022
    hint: str = ""
    daemon: bool = False
    only_the_end: bool = False
    errors_too: bool = False


class Ended(NamedTuple):
    """How a command ended: its exit code (None where it timed out), its standard output, the end of its errors."""

    code: int | None
    printed: str
    errors: str
    #: Whether it was ended because it had printed nothing for `Command.stall` seconds.
    has_stalled: bool = False
    #: Seconds for which it had neither used CPU nor printed anything, as far as `Command.cpu` tells.
    still: float = 0


_P = ParamSpec("_P")


def _with_parameters_of(command: Callable[_P, Command]) -> Callable[_P, str]:
    def run(*arguments: _P.args, **options: _P.kwargs) -> str:
        """Run a command, whose parameters are those of `Command`, and return its standard output.

        While it runs, the log gets its last line every `PROGRESS` seconds, at level info.

        Raises:
            DeploymentError: it cannot be started, fails, prints too much, or times out.
        """
        made = command(*arguments, **options)
        return check(made, execute(made))

    return run


run = _with_parameters_of(Command)


def check(command: Command, ended: Ended) -> str:
    """Return the output of a command that succeeded.

    Raises:
        TimedOut: it timed out.
        DeploymentError: it failed.
    """
    if ended.code == 0:
        return f"{ended.printed}{ended.errors}" if command.errors_too else ended.printed
    output = redact(f"{ended.printed}\n{ended.errors}", command.secrets)
    if ended.code is None:
        reason = (
            f"no progress for {number(command.stall)} s"
            if ended.has_stalled
            else f"timed out after {number(command.timeout)} s"
        )
        if ended.still >= _STILL:
            reason += f"; for the last {ended.still:.0f} s it had used no CPU and printed nothing"
        raise TimedOut(f"{command.doing}: {reason}", log=output, hint=command.hint, transient=True)
    log.info("%s failed (exit %s):\n%s", command.doing, ended.code, output)
    printed, errors = (redact(uncoloured(text), command.secrets) for text in (ended.printed, ended.errors))
    # Webpack and others print their errors to standard output, and npm that they failed to standard error.
    lines = [line for line in printed.splitlines() if line.strip()]
    first = _first_error(lines)
    text = "\n".join([*first, errors]) if errors.strip() else printed
    if lines and not first and _ENDED.fullmatch(errors.rstrip().rpartition("\n")[2]):
        text = "\n".join([errors, *[line for line in lines if not _OF_YARN.match(line)][-_LAST:]])
    message = f"{command.doing} failed (exit {ended.code})"
    raise DeploymentError(message, log=text, hint=command.hint, transient=bool(_TRANSIENT.search(text)))


def execute(command: Command) -> Ended:
    """Run a command and return how it ended.

    Raises:
        DeploymentError: it cannot be started, or prints too much.
    """
    log.debug("running %s", redact(" ".join(command.argv), command.secrets))
    started = time.monotonic()
    process = _start(command)
    with contextlib.ExitStack() as pipes:
        for pipe in filter(None, (process.stdin, process.stdout, process.stderr)):
            pipes.enter_context(pipe)
        output = _Output(process, command.stdin if isinstance(command.stdin, str) else "", command.only_the_end)
        progress = _Progress(command, output)
        try:
            has_ended = _wait(command, process, output, progress, started + command.timeout)
        except BaseException:
            _end(process, command.grace)
            raise
        # Before it is ended, when it may print something.
        has_stalled = not has_ended and bool(command.stall) and output.silence() >= command.stall
        still = progress.still()
        if not has_ended or process.returncode or not command.daemon:
            _end(process, command.grace)
        output.read_rest()
    log.debug("%s took %.2f s", command.doing, time.monotonic() - started)
    code = process.returncode if has_ended else None
    return Ended(code, output.text(process.stdout), output.text(process.stderr), has_stalled, still)


def _start(command: Command) -> "subprocess.Popen[bytes]":
    own = {"PATH": PATH, "LANG": "C.UTF-8", "HOME": "/nonexistent" if command.user else "/root"}
    try:
        return subprocess.Popen(  # noqa: S603 - an argument list, never a shell
            list(command.argv),
            stdin=subprocess.PIPE if isinstance(command.stdin, str) else command.stdin,
            stdout=subprocess.PIPE if command.output is None else command.output,
            stderr=subprocess.PIPE,
            env={**own, **(command.environment or {})},
            cwd=command.folder,
            start_new_session=True,
            pass_fds=tuple(command.descriptors),
            umask=command.umask,
            preexec_fn=_beginning,
            **identity(command.user),
        )
    except OSError as error:
        transient = error.errno in (errno.EMFILE, errno.ENFILE, errno.ENOMEM, errno.EAGAIN)
        program = str(command.argv[0])
        is_absent = error.errno == errno.ENOENT and error.filename == program and "/" not in program
        hint = command.hint or (f"install {program} on this host" if is_absent else "")
        message = f"{command.doing}: {program} cannot be started: {error.strerror}"
        raise DeploymentError(message, hint=hint, transient=transient) from None


@contextlib.contextmanager
def ending_with_this_process() -> Iterator[None]:
    """Have commands that are started in this block killed when this process is, so that none acts afterwards."""
    import ctypes  # which few processes need

    global _beginning
    before = _beginning
    _beginning = functools.partial(ctypes.CDLL(None).prctl, _PR_SET_PDEATHSIG, signal.SIGKILL)
    try:
        yield
    finally:
        _beginning = before


def detach(argv: Sequence[str]) -> None:
    """Start a program that outlives this process, without input and output."""
    subprocess.Popen(  # noqa: S603 # nosec B603 - an argument list, never a shell
        argv,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        cwd="/",
        start_new_session=True,
    )


def identity(user: str | None) -> dict[str, Any]:
    """Return the options of `Popen` for a process of a user, with that user's group and no other; none for None."""
    if not user:
        return {}
    entry = pwd.getpwnam(user)
    return {"user": entry.pw_uid, "group": entry.pw_gid, "extra_groups": []}


def _wait(
    command: Command, process: "subprocess.Popen[bytes]", output: _Output, progress: "_Progress", deadline: float
) -> bool:
    """Read the output of a process until it ends; meanwhile the log reports its progress.

    Returns:
        Whether it ended before its timeouts.

    Raises:
        DeploymentError: it prints more than is kept.
    """
    while True:
        now = time.monotonic()
        if now >= deadline or (command.stall and output.silence() >= command.stall):
            return process.poll() is not None
        progress.report(now)
        stalled_at = output.last_time + command.stall if command.stall else deadline
        patience = max(min(deadline, progress.next_time, stalled_at) - now, 0)
        try:
            is_closed = output.read(min(patience, _POLL))
        except OverflowError as error:
            raise DeploymentError(f"{command.doing}: it prints more than {error.args[0] >> 20} MiB") from None
        if is_closed:
            with contextlib.suppress(subprocess.TimeoutExpired):
                process.wait(patience)
                return True
        elif process.poll() is not None:
            output.read_rest()  # before the processes that it has left behind are ended
            return True


class _Progress:
    """Reports a running command to the log, with the last line of its output where that is a new one.

    It sees by the CPU that the command's processes use how long they have done nothing.
    """

    def __init__(self, command: Command, output: _Output):
        self._command, self._output = command, output
        self._started = self._seen = self._worked = time.monotonic()
        self._cpu = 0.0
        self.next_time = self._started + PROGRESS
        self._reported = [""] * len(output.tails())

    def report(self, now: float) -> None:
        """Write a line to the log where it is time for one."""
        if now < self.next_time:
            return
        self.next_time = now + PROGRESS
        self._look(now)
        lines = [_last_line(text, self._command.secrets) for text in self._output.tails()]
        new = [line for line, before in zip(lines, self._reported, strict=True) if line and line != before]
        self._reported = lines
        latest = f": {new[-1]}" if new else ""
        log.info("%s takes %.0f s so far%s", self._command.doing, now - self._started, latest)

    def still(self) -> float:
        """Return the seconds for which the command has neither used CPU nor printed anything; 0 where none knows."""
        self._look(now := time.monotonic())
        return now - max(self._worked, self._output.last_time) if self._command.cpu else 0

    def _look(self, now: float) -> None:
        cpu = self._command.cpu() if self._command.cpu else 0.0
        # Less than before, where processes have ended.
        if abs(cpu - self._cpu) > _IDLE * (now - self._seen):
            self._worked = now
        self._cpu, self._seen = cpu, now


def _last_line(output: bytes, secrets: Collection[str]) -> str:
    """Return the last line of an output, without an incomplete one that may end within a secret."""
    parts = [line for secret in secrets for line in secret.splitlines() if len(line) > 3]
    *lines, rest = re.split(r"[\r\n]", output.decode(errors="ignore"))
    is_cut = any(rest.endswith(part[:size]) for part in parts for size in range(1, len(part) + 1))
    if not is_cut and "://" not in rest:
        lines.append(rest)
    last = next((line for line in reversed(lines) if line.strip()), "")
    return shown(redact(last, parts)).strip()[:200]


def _end(process: "subprocess.Popen[bytes]", grace: float) -> None:
    """End a process group: SIGTERM, some seconds for its leader, SIGKILL for the rest."""
    with contextlib.suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGTERM)
    with contextlib.suppress(subprocess.TimeoutExpired):
        process.wait(grace)
    with contextlib.suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGKILL)
