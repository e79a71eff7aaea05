"""What a site has logged, with the lines of one request from the proxy to the traceback; and its console."""

import contextlib
import shutil
import signal
import subprocess
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from django_formula.host import commands
from django_formula.host.commands import DeploymentError, redact
from django_formula.process import selection as selections
from django_formula.process.contract import ProcessManager
from django_formula.process.selection import Selection
from django_formula.proxy import proxies
from django_formula.release import console as release_console
from django_formula.release import instances, releases
from django_formula.release.releases import Release
from django_formula.secret import secrets as secret_secrets
from django_formula.site import sites
from django_formula.site.sites import Site
from django_formula.untrusted.text import in_command, tell
from django_formula.verbs import operations
from django_formula.verbs import status as verbs_status
from django_formula.verbs import workers as verbs_workers


def show(name: str, lines: object = 50, worker: str | None = None, **asked: Any) -> str:
    """Return the last lines of the log of the active release's server, or of one of its workers.

    With a time, a text, a level or the id of a request these are looked for in all releases on the host. Before a first
    release the lines are those of the newest that failed, after its error.

    Args:
        asked: the other arguments of `process.selection.parse`.

    Raises:
        DeploymentError: there is no such release or worker, an argument is wrong, or the log cannot be read.
    """
    site, selection = sites.find(name), selections.parse(lines, **asked)
    release, manager = _logging(site, worker)
    notice = verbs_status.failure_notice(release)
    try:
        text = _text(site, release, manager, selection, worker or "")
    except DeploymentError:
        if not notice:
            raise
        text = ""  # its application server was never started
    if notice:
        text = f"{notice}:\n{release.record['error']}\n{text}"
    return redact(text, secret_secrets.known(site))


def follow(
    name: str, lines: object, worker: str | None, host: str, *, salt_call: Sequence[str] | None, **asked: Any
) -> str:
    """Print lines of the log, and new ones as they come, until Ctrl-C.

    Args:
        host: how people reach this host by ssh.
        salt_call: None where what this process prints is seen at once. Otherwise the command is returned that has a
            terminal: this verb by salt-call, as this host runs it, or without salt-call what it runs itself.
        asked: the other arguments of `process.selection.parse`.

    Raises:
        DeploymentError: there is no such release or worker, or an argument is wrong.
    """
    site, selection = sites.find(name), selections.parse(lines, **asked)
    if selection.request or selection.until is not None:
        raise DeploymentError("follow shows what comes: leave out until and id")
    release, manager = _logging(site, worker)
    argv = manager.follow(site, release.path, selection, worker or "")
    if salt_call is not None:
        words = [f"{key}={value}" for key, value in {"worker": worker, **asked}.items() if value]
        verb = [*salt_call, "django.logs", name, str(lines), *words, "follow=True"] if salt_call else argv
        return f"following needs a terminal: {in_command('ssh', '-t', host, in_command(*verb))}"
    secrets = secret_secrets.known(site)
    with subprocess.Popen(argv, stdout=subprocess.PIPE, stdin=subprocess.DEVNULL) as process:  # noqa: S603 # nosec B603
        assert process.stdout is not None  # noqa: S101
        with contextlib.suppress(KeyboardInterrupt):
            for line in process.stdout:
                tell(redact(line.decode(errors="replace").rstrip("\n"), secrets))
        process.send_signal(signal.SIGTERM)
    return ""


def console(name: str, host: str, command: str, write: str) -> str:
    """Return the command that opens a console of a site.

    Args:
        host: how people reach this host by ssh.
        command: what runs in it.
        write: why it may change data.

    Raises:
        DeploymentError: there is no such site, a quote is not closed, or the arguments ask for nothing that there is.
    """
    words = [sites.find(name).name, *(["--write", write] if write else []), *operations.words([command])]
    release_console.parse(words)
    return in_command("ssh", "-t", host, in_command("django-shell", *words))


def salt_call(opts: Mapping[str, Any]) -> list[str] | None:
    """Return how this host runs salt-call, empty where it has none; None where this process prints to a terminal."""
    if opts.get("__cli") == "salt-call" and sys.stdout.isatty():
        return None
    local = ["--local"] if opts.get("file_client") == "local" else []
    return ["salt-call", *local] if shutil.which("salt-call") else []


def _logging(site: Site, worker: str | None) -> tuple[Release, ProcessManager]:
    """Return the release whose log is meant, and what runs it.

    Raises:
        DeploymentError: there is no such release or worker.
    """
    release = verbs_status.newest_release(site)
    verbs_workers.check_name(release, worker)
    verbs_workers.refuse_without_server(release, worker)
    return release, instances.process_manager(site, release.path)


def _text(site: Site, release: Release, manager: ProcessManager, selection: Selection, part: str) -> str:
    if selection.is_plain:
        return manager.log(site, release.path, selection.lines, part)
    started = [one.path for one in releases.releases(site) if (one.path / "config/instance.json").exists()]
    ours = [path for path in started if instances.process_manager(site, path) is manager] or [release.path]
    text = manager.search(site, ours, selection, part)
    return "\n".join([*_of_proxy(site, selection), text]) if selection.request else text


def _of_proxy(site: Site, selection: Selection) -> list[str]:
    """Return the lines of the proxy's access log about a request; why there are none, where it has no ids."""
    proxy = proxies.serving(site)
    if not proxy:
        return []
    log = proxies.access_log(site)
    if not log:
        return [f"the access log of {proxy.KIND.title} has no ids: set {site.at}:proxy:access_log: json"]
    return _found([path for path in (log.with_name(f"{log.name}.1"), log) if path.is_file()], selection)


def _found(files: Sequence[Path], selection: Selection) -> list[str]:
    """Return the last lines of files that have the id of a request."""
    if not files:
        return []
    argv = [
        "grep",
        "--fixed-strings",
        "--text",
        "--no-filename",
        f"--regexp={selection.request}",
        "--",
        *map(str, files),
    ]
    command = commands.Command(argv, doing="searching the access log", only_the_end=True)
    ended = commands.execute(command)
    return [] if ended.code == 1 else commands.check(command, ended).splitlines()[-selection.lines :]
