"""What supervisor runs for a server or a worker of a site in a container: the engine's program, in the foreground."""

import dataclasses
import shlex
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from django_formula.container import containers, unit
from django_formula.container.containers import Container
from django_formula.container.engine import QUIET
from django_formula.host import template
from django_formula.kind import kinds
from django_formula.site.sites import Site

#: The script that supervisor runs.
SCRIPT = f"{kinds.FILES}container.sh"


def script(
    site: Site,
    release: Path,
    container: Container,
    variables: Mapping[str, Any],
    templates: Mapping[str, str],
    writable: Sequence[object],
) -> str:
    """Return the script that supervisor runs for a part of a release.

    Args:
        variables: those of the templates of a server, or of a worker: ``unit``, ``command``, ``facts`` and others.
        writable: folders that it may write in addition to the site's own.
    """
    name, engine = variables["unit"], container.engine
    inside = containers.of_project(site, release, variables["facts"], container, name, writable)
    inside = containers.with_run_folder(inside, str(variables["run"]), variables.get("resources"))
    if variables.get("worker"):
        inside = dataclasses.replace(inside, root=site.root)
    own = [*unit.pooled(site), "--log-driver=none"]
    argv = containers.argv(engine, container.image, inside, _command(release, variables), *own)
    quiet = [f"{key}={value}" for key, value in QUIET.items()]
    end = [*engine.program, "rm", "--force", *engine.at_once, name]
    more = {
        "worker": "",
        **variables,
        "start": shlex.join(["/usr/bin/env", *quiet, *argv]),
        "end": f"{shlex.join(end)} >/dev/null 2>&1 || :",
    }
    return template.render(templates, SCRIPT, **more)


def _command(release: Path, variables: Mapping[str, Any]) -> list[str]:
    """Return the command of a part in its container: a server may need a socket, and have the log for its output."""
    command = [str(word) for word in variables["command"]]
    if variables.get("worker"):
        return command
    if not variables["binds"]:
        listen = [f"{release}/virtualenv/bin/python", "-I", f"{release}/config/django_formula_listen.py"]
        command = [*listen, variables["address"], *command]
    if variables["writes_log"]:
        command = ["/bin/sh", "-c", 'exec >>"$0" 2>&1; exec "$@"', variables["log"], *command]
    return command
