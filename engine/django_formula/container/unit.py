"""The lines of a systemd unit that runs a server or a worker of a site in a container."""

import dataclasses
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from django_formula.container import containers
from django_formula.container.containers import Container, Inside
from django_formula.container.engine import Engine
from django_formula.site.sites import Site

#: Seconds before systemd ends a unit by force in which the engine has ended its container by force.
_SPARE = 3


def lines(
    site: Site, release: Path, container: Container, variables: Mapping[str, Any], writable: Sequence[object]
) -> list[tuple[str, str]]:
    """Return the lines of the [Service] section, by which systemd starts, awaits and ends the container.

    Args:
        variables: those of the unit's template: ``unit``, ``command``, ``facts``, and ``patience`` of a worker or
            ``stop_timeout`` of a server.
        writable: folders that it may write in addition to the site's own.
    """
    name, engine = variables["unit"], container.engine
    run = str(variables["run"])
    inside = containers.of_project(site, release, variables["facts"], container, name, writable)
    inside = containers.with_run_folder(inside, run, variables.get("resources"))
    if variables.get("worker"):
        inside = dataclasses.replace(inside, root=site.root)
    own = pooled(site)
    start = _notifying if engine.passes_sockets else _attached
    patience = int(variables.get("patience", variables["stop_timeout"]))
    stop = [*engine.program, "stop", *engine.leniently, f"--time={max(1, patience - _SPARE)}", name]
    return [
        # What a container that was cut off has left there, the file ``ready`` above all, is not of this one.
        ("ExecStartPre", f"-/bin/rm -rf {run}"),
        ("ExecStartPre", f"/usr/bin/install -d -m 0750 -o {site.user} -g {site.user} {run}"),
        *start(container, inside, variables["command"], run, own),
        ("ExecStop", f"-{quoted(stop)}"),
        ("ExecStopPost", ended(engine, name)),
        ("ExecStopPost", f"-/bin/rm -rf {run}"),
    ]


def pooled(site: Site) -> list[str]:
    """Return the option by which settings take PgBouncer's port, as the templates of units have it."""
    return ["--env=DJANGO_DATABASE_POOL=1"] if any("pool" in one for one in site.config["databases"].values()) else []


def _notifying(
    container: Container, inside: Inside, command: Sequence[str], _run: str, own: Sequence[str]
) -> list[tuple[str, str]]:
    """Return the lines that start a container whose first process reports to systemd that it is ready."""
    options = ("--detach", "--replace", "--sdnotify=container", "--log-driver=journald")
    argv = containers.argv(container.engine, container.image, inside, command, *options, *own)
    return [
        ("Type", "notify"),
        ("NotifyAccess", "all"),  # the unit's main process is another one
        ("Environment", "PODMAN_IGNORE_CGROUPSV1_WARNING=1"),
        ("StandardOutput", "null"),  # the container's id; what the container prints is logged by the engine
        ("ExecStart", quoted(argv)),
    ]


def _attached(
    container: Container, inside: Inside, command: Sequence[str], run: str, own: Sequence[str]
) -> list[tuple[str, str]]:
    """Return the lines that start a container below the engine's program, and wait for its file ``ready``."""
    engine = container.engine
    argv = containers.argv(engine, container.image, inside, command, "--log-driver=none", *own)
    wait = f"until [ -e {run}/ready ]; do kill -0 $MAINPID || exit 1; sleep 0.1; done"
    return [
        ("Type", "exec"),
        ("ExecStartPre", ended(engine, inside.name)),
        ("ExecStart", quoted(argv)),
        ("ExecStartPost", f'/bin/sh -c "{wait}"'),
    ]


def of_command(container: Container, inside: Inside, argv: Sequence[str]) -> tuple[list[tuple[str, str]], list[str]]:
    """Return the properties of the transient unit of a command, and the arguments that run it in a container."""
    engine = container.engine
    own = ["--replace"] if engine.name == "podman" else []
    command = containers.argv(engine, container.image, inside, argv, "--interactive", "--log-driver=none", *own)
    end = ended(engine, inside.name)  # before SIGTERM, which the first process of a container may ignore
    return [("Environment", "PODMAN_IGNORE_CGROUPSV1_WARNING=1"), ("ExecStop", end), ("ExecStopPost", end)], command


def ended(engine: Engine, name: str) -> str:
    """Return the command that ends and removes a container, and reports nothing where there is none."""
    end = " ".join([*engine.program, "rm", "--force", "--volumes", *engine.at_once, name])
    return f'-/bin/sh -c "{end} >/dev/null 2>&1"'


def quoted(argv: Sequence[str]) -> str:
    """Return a command as systemd reads it, each argument as it is.

    Raises:
        ValueError: one contains a control character, which would end the line.
    """
    return " ".join(_word(word) for word in argv)


def _word(word: str) -> str:
    if not word.isprintable():
        raise ValueError(f"{word!r} cannot be written to a systemd unit")
    text = word.replace("%", "%%").replace("$", "$$")
    if re.fullmatch(r"[A-Za-z0-9_./:=,@%$+-]+", text):
        return text
    return '"' + re.sub(r'([\\"])', r"\\\1", text) + '"'
