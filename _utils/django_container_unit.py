"""The lines of a systemd unit that runs a server or a worker of a site in a container."""

import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import django_container
from django_container import Container
from django_site import Site

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
    run = f"/run/{name}"
    inside = django_container.of_project(site, release, variables["facts"], container, name, writable)
    inside = django_container.with_run_folder(inside, run, variables.get("resources"))
    options = ["--detach", "--replace", "--sdnotify=container", "--log-driver=journald"]
    if any("pool" in database for database in site.config["databases"].values()):
        options.append("--env=DJANGO_DATABASE_POOL=1")  # as django.service has it
    argv = django_container.argv(engine, container.image, inside, variables["command"], *options)
    patience = int(variables.get("patience", variables["stop_timeout"]))
    return [
        ("Type", "notify"),
        # The container's first process reports that it is ready, which is not the unit's main process.
        ("NotifyAccess", "all"),
        ("Environment", "PODMAN_IGNORE_CGROUPSV1_WARNING=1"),
        ("StandardOutput", "null"),  # the container's id; what the container prints is logged by the engine
        # systemd would give a RuntimeDirectory to root again before each of its commands.
        ("ExecStartPre", f"/usr/bin/install -d -m 0750 -o {site.user} -g {site.user} {run}"),
        ("ExecStart", quoted(argv)),
        ("ExecStop", quoted([*engine.program, "stop", "--ignore", f"--time={max(1, patience - _SPARE)}", name])),
        ("ExecStopPost", f"-{quoted([*engine.program, 'rm', '--force', *engine.at_once, name])}"),
        ("ExecStopPost", f"-/bin/rm -rf {run}"),
    ]


def of_command(
    container: Container, inside: django_container.Inside, argv: Sequence[str]
) -> tuple[list[tuple[str, str]], list[str]]:
    """Return the properties of the transient unit of a command, and the arguments that run it in a container."""
    engine = container.engine
    own = ["--replace"] if engine.name == "podman" else []
    command = django_container.argv(engine, container.image, inside, argv, "--interactive", "--log-driver=none", *own)
    end = [*engine.program, "rm", "--force", *engine.at_once, inside.name]
    return [("Environment", "PODMAN_IGNORE_CGROUPSV1_WARNING=1"), ("ExecStopPost", f"-{quoted(end)}")], command


def quoted(argv: Sequence[str]) -> str:
    """Return a command as systemd reads it, each argument as it is."""
    return " ".join(_word(word) for word in argv)


def _word(word: str) -> str:
    text = word.replace("%", "%%").replace("$", "$$")
    if re.fullmatch(r"[A-Za-z0-9_./:=,@%$+-]+", text):
        return text
    return '"' + re.sub(r'([\\"])', r"\\\1", text) + '"'
