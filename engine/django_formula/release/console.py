"""``django-shell``: a console in the active release of a site, for ``ssh -t``; read-only unless a reason is given.

It runs as the site's user in the sandbox of the release. See docs/decisions/0152.
"""

import contextlib
import os
import shlex
import subprocess
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from django_formula.audit import audit, caller
from django_formula.container import containers
from django_formula.host import archive, config_files, file
from django_formula.host.commands import DeploymentError
from django_formula.host.locks import Lock
from django_formula.host.outcome import Outcome
from django_formula.process import command as process_command
from django_formula.process import sandbox, supervisor, transient
from django_formula.release import releases
from django_formula.release.releases import Release
from django_formula.site import sites
from django_formula.site.sites import Site
from django_formula.untrusted.text import in_command, tell

#: What is run, and the program behind it.
PROGRAM, ARCHIVE = Path("/usr/local/bin/django-shell"), Path("/usr/local/lib/django-formula/console.pyz")
MODULE = "django_formula.release.console"
KINDS = ("shell", "dbshell", "bash", "manage")
USAGE = "django-shell SITE [--write REASON] [shell | dbshell | bash | manage COMMAND ...]"
#: Hours after which a console ends, and the memory that it may take.
_HOURS, _MEMORY = 4, "512M"
#: Starts a command with a home of its own, in which the clients of databases find that they only read.
_HOME = """\
trap : INT
home=$(mktemp -d) && export HOME="$home"
if [ -n "${DJANGO_READ_ONLY:-}" ] && [ -n "$home" ]; then
    printf '[mysql]\\ninit-command="SET SESSION TRANSACTION READ ONLY"\\n' >"$HOME/.my.cnf"
    printf 'PRAGMA query_only=ON;\\n' >"$HOME/.sqliterc"
fi
"$@"
code=$?
[ -z "$home" ] || rm -rf "$home"
exit "$code"
"""
#: Reads the files of variables before --, and runs what follows.
_ENTER = 'umask 027; set -a; while [ "$1" != -- ]; do . "$1"; shift; done; set +a; shift; exec "$@"'


@dataclass(frozen=True)
class Asked:
    """What is asked of the console: a site, what to run in it, and why it may write; empty where it may not."""

    site: str
    kind: str = "shell"
    words: tuple[str, ...] = ()
    reason: str = ""


def parse(arguments: Sequence[str]) -> Asked:
    """Return what the arguments ask for.

    Raises:
        DeploymentError: they ask for nothing that there is.
    """
    words, reason = [*arguments], ""
    names: list[str] = []
    while words and len(names) < 2:
        word = words.pop(0)
        if word == "--write":
            reason = words.pop(0).strip() if words else ""
            if not reason or not reason.isprintable() or reason.startswith("-") or len(reason) > 300:
                raise DeploymentError("--write requires a reason", hint=f"{USAGE}, such as --write 'ticket 311'")
        else:
            names.append(word)
    site, kind, *_ = [*names, "shell"] if names else ["", ""]
    is_whole = bool(words) if kind == "manage" else not words
    if not site or site.startswith("-") or kind not in KINDS or not is_whole:
        raise DeploymentError(f"usage: {USAGE}")
    return Asked(site, kind, tuple(words), reason)


def main(*arguments: str) -> int:
    """Open a console, and return the exit code of what ran in it."""
    try:
        asked = parse(arguments)
        if os.geteuid() != 0:
            raise DeploymentError("django-shell requires root", hint=in_command("sudo", "django-shell", *arguments))
        return _opened(asked)
    except DeploymentError as error:
        tell(error, is_error=True)
        return 1


def _opened(asked: Asked) -> int:
    site = sites.find(asked.site)
    live = releases.linked(site, site.current)
    if not live:
        raise DeploymentError(f"{site.name} has no live release", hint="salt-call state.apply django")
    lock = _lock(site, live, asked)
    with lock.held(), _removed_at_the_end(lock.path):
        if asked.reason:
            _refuse_during_restore(site)
        if site.current.resolve() != live.path:
            raise DeploymentError(f"{site.name} was released meanwhile", hint="try again")
        for line in _notices(asked, site, live):
            tell(line, is_error=True)
        is_terminal = os.isatty(0) and os.isatty(1)
        with audit.recorded(_act(asked)) as act:
            code = subprocess.call(argv(asked, site, live, is_terminal=is_terminal), cwd=_folder(site, live))  # noqa: S603 # nosec B603
            act.result = f"exit {code}"
        if act.warning:
            tell(f"warning: {act.warning}", is_error=True)
    _end(site, live)
    return code if code >= 0 else 128 - code


@contextlib.contextmanager
def _removed_at_the_end(path: Path) -> Iterator[None]:
    try:
        yield
    finally:
        path.unlink(missing_ok=True)


def _refuse_during_restore(site: Site) -> None:
    """Check that no restore runs: one that begins meanwhile sees the lock of the console."""
    if holder := releases.restore_under_way(site):
        raise DeploymentError(
            f"a restore of {site.name} is under way, and would discard what is changed here: {holder}",
            hint=f"wait until it has finished; to read meanwhile: {in_command('django-shell', site.name)}",
        )


def _lock(site: Site, live: Release, asked: Asked) -> Lock:
    """Return the lock that keeps a release on the disk while a console is open in it."""
    what = releases.WRITING_CONSOLE if asked.reason else "console"
    path = site.schedules / f"{os.getpid()}{releases.LOCK_OF_CONSOLE}"
    path.parent.mkdir(mode=0o700, exist_ok=True)
    return Lock(path, f"{live.name} {what}", busy="a console", timeout="0s", hint="")


def _notices(asked: Asked, site: Site, live: Release) -> Iterator[str]:
    """Yield what is said at the begin: what can be changed, and what this host does not limit."""
    does = "CHANGES ARE POSSIBLE" if asked.reason else "read-only; --write REASON to change data"
    yield f"{site.name} {live.name} on {os.uname().nodename}: {does}"
    if not asked.reason and not site.config["overlay"]:
        yield "with overlay: false databases on servers other than PostgreSQL can be changed"
    if not _has_sandbox(live) and not containers.of_release(live.path):
        yield "supervisor has no sandbox: uploads and other files of the site can be changed"


def _has_sandbox(live: Release) -> bool:
    return bool((process_command.recorded(live.path) or {}).get("process", "systemd") == "systemd")


def _folder(site: Site, live: Release) -> Path:
    return site.project_folder(live.path, live.facts) if not containers.of_release(live.path) else Path("/")


def _command(asked: Asked, live: Release) -> list[str]:
    """Return what runs in the release."""
    if asked.kind == "bash":
        return ["/bin/bash", "--norc"]
    manage = [f"{live.path}/virtualenv/bin/python", *process_command.management(live.path, live.facts)]
    return [*manage, *(asked.words if asked.kind == "manage" else [asked.kind])]


def argv(asked: Asked, site: Site, live: Release, *, is_terminal: bool) -> list[str]:
    """Return the command that opens a console.

    Args:
        is_terminal: whether it is opened at a terminal; it gets one of its own then, into which it cannot type for
            the shell that has opened it.
    """
    read_only = {} if asked.reason else {"DJANGO_READ_ONLY": "1", "PGOPTIONS": "-c default_transaction_read_only=on"}
    term = os.environ.get("TERM", "dumb")
    variables = {"TERM": term if term.isprintable() else "dumb", "PS1": f"{site.name}$ ", **read_only}
    words = [f"{name}={value}" for name, value in variables.items()]
    inner = ["/usr/bin/env", *words, "/bin/sh", "-c", _HOME, "sh", *_command(asked, live)]
    if containers.of_release(live.path):
        return _in_container(asked, site, live, inner, is_terminal=is_terminal)
    if _has_sandbox(live):
        return _in_unit(asked, site, live, inner, is_terminal=is_terminal)
    files = [f"{live.path}/config/environment", f"{site.secrets}/environment"]
    entered = ["/bin/sh", "-c", _ENTER, "sh", *files, "--", *inner]
    confined = [*supervisor.identity(site), "--bounding-set=-all", "--reset-env", "--", *entered]
    limited = ["timeout", "--foreground", f"{_HOURS}h", *confined]
    if is_terminal:
        return ["script", "--quiet", "--return", "--command", shlex.join(limited), "/dev/null"]
    return ["setsid", "--wait", *limited]  # /dev/tty of this session takes input for the shell that has opened it


def _in_unit(asked: Asked, site: Site, live: Release, inner: Sequence[str], *, is_terminal: bool) -> list[str]:
    transient.start_bus()
    transient.try_once(site)
    properties = sandbox.directives(site, live.path, live.facts)
    properties = properties if asked.reason else [*read_only(properties)]
    properties += [("MemoryMax", _MEMORY), ("RuntimeMaxSec", f"{_HOURS}h"), ("TimeoutStopSec", "5")]
    own = ["--pty" if is_terminal else "--pipe", "--quiet", "--wait", "--collect", "--service-type=exec"]
    unit = f"--unit=django-{site.name}-console-{os.getpid()}.service"
    return ["systemd-run", *own, unit, *transient.options(properties), "--", *transient.literal(inner)]


def read_only(properties: Sequence[tuple[str, str]]) -> Iterator[tuple[str, str]]:
    """Yield the directives of a sandbox in which nothing of the site can be written."""
    names = {"ReadWritePaths": "ReadOnlyPaths", "BindPaths": "BindReadOnlyPaths"}
    for name, value in properties:
        if name not in names:
            yield name, value
        elif value.strip("'\""):  # an empty one takes back those before it, which are not in this list
            yield names[name], value


def _in_container(asked: Asked, site: Site, live: Release, inner: Sequence[str], *, is_terminal: bool) -> list[str]:
    container, name = containers.of_release(live.path), _name(site)
    assert container is not None  # noqa: S101
    inside = containers.of_project(site, live.path, live.facts, container, name, [])
    if not asked.reason:
        inside = replace(inside, read=[*inside.read, *inside.write], write=[])
    inside = replace(inside, resources={**inside.resources, "MemoryMax": _MEMORY})
    own = ["--interactive", *(["--tty"] if is_terminal else []), "--log-driver=none"]
    run = containers.argv(container.engine, container.image, inside, inner, *own)
    return ["timeout", "--foreground", f"{_HOURS}h", *run]


def _name(site: Site) -> str:
    return f"django-{site.name}-console-{os.getpid()}"


def _end(site: Site, live: Release) -> None:
    """End a container that outlived its client, as after its time."""
    if container := containers.of_release(live.path):
        container.engine.end(_name(site))


def _act(asked: Asked) -> audit.Act:
    """Return what the audit log has of a console: what is typed in it is recorded nowhere."""
    arguments = {"kind": " ".join([asked.kind, *asked.words[:1]]), **({"write": asked.reason} if asked.reason else {})}
    return audit.Act("shell", caller.of_this_process(), asked.site, arguments)


# Its installation


def install(*, test: bool) -> Outcome:
    """Install the program, which a host has as long as it has a site.

    Raises:
        DeploymentError: Python cannot compile it.
    """
    text = _script()
    if file.read_text(PROGRAM) == text and archive.is_whole(ARCHIVE):
        return Outcome("django-shell is installed")
    changes = {str(PROGRAM): "changed" if PROGRAM.exists() else "new"}
    if test:
        return Outcome("django-shell would be installed", changes)
    ARCHIVE.parent.mkdir(mode=0o755, parents=True, exist_ok=True)
    archive.install(MODULE, ARCHIVE)
    file.write(PROGRAM, text, mode=0o755)
    return Outcome("django-shell is installed", changes)


def remove(*, test: bool) -> dict[str, str]:
    """Remove the program; return what is removed."""
    present = [path for path in (PROGRAM, ARCHIVE) if path.exists()]
    for path in [] if test else present:
        path.unlink()
    return {str(path): "removed" for path in present}


def _script() -> str:
    return (
        f"#!/bin/sh\n{config_files.OURS}: a console of a site, {archive.version(MODULE)}\n"
        f'exec {archive.PYTHON} -I {ARCHIVE} "$@"\n'
    )
