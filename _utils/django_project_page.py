"""The exception of a page: it is requested once more, in a process of its own that catches what Django raises."""

import json
import logging
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import django_project_program
import django_release_http
import django_server
import django_wall_shape
from django_host_command import DeploymentError, redact, seconds
from django_process import ProjectCommand
from django_release_health import Explain, Raised
from django_site import Site

log = logging.getLogger(__name__)

PROGRAM = "django_formula_request.py"
_SHAPE = {"raised": str, "frames": [str]}
#: Seconds that the page and the start of the project may take together, and those for the page.
_TIMEOUT, _PATIENCE = 60.0, 20
#: Texts of exceptions that are longer are left out, not cut: a part of a secret would not be masked.
_LONGEST = 1000
#: Frames of the project that are shown.
_FRAMES = 3


def explain(site: Site, release: Path, facts: Mapping[str, Any], secrets: list[str]) -> Explain:
    """Return a function that requests a path of a release in a process of its own, and returns what is raised.

    Args:
        facts: what starting the project reported.
        secrets: texts that are masked.
    """
    return lambda path: raised(site, release, facts, path, secrets)


def raised(site: Site, release: Path, facts: Mapping[str, Any], path: str, secrets: list[str]) -> Raised | None:
    """Return what a page of a release raises, requested as the health check does; None if that is not known.

    It runs as the site's user, in the sandbox and environment of the release.
    """
    program = release / "config" / PROGRAM
    if not program.exists():
        return None
    command = ProjectCommand(
        site,
        release,
        facts,
        [f"{release}/virtualenv/bin/python", str(program)],
        doing="requesting the page again",
        timeout=min(_TIMEOUT, seconds(site.config["timeouts"]["start"])),
        stdin=json.dumps(_request(site, facts, path)),
        secrets=secrets,
    )
    try:
        answer = django_wall_shape.parse(django_project_program.run(command), _SHAPE, doing=command.doing)
    except DeploymentError as error:
        log.info("%s: %s", site.name, redact(str(error), secrets))
        return None
    exception = _plain(answer["raised"], secrets)
    frames = [_plain(line, secrets) for line in answer["frames"][-_FRAMES:]]
    return Raised(exception, "\n".join([*filter(None, frames), exception])) if exception else None


def _plain(text: str, secrets: list[str]) -> str:
    """Return a text of the site's process on one line, masked; empty where it is too long."""
    return redact("".join(filter(str.isprintable, text)), secrets) if len(text) <= _LONGEST else ""


def _request(site: Site, facts: Mapping[str, Any], path: str) -> dict[str, Any]:
    headers = {**site.config["proxy"].get("headers", {}), **site.config["health"]["headers"]}
    target, _mark, query = path.partition("?")
    variables = django_release_http.variables(site.config["domains"][0], target, query, site.scheme, headers)
    prefix = site.config["path"].rstrip("/")
    if prefix and f"{variables['PATH_INFO']}/".startswith(f"{prefix}/"):
        variables |= {"SCRIPT_NAME": prefix, "PATH_INFO": variables["PATH_INFO"][len(prefix) :]}
    return {
        "mode": "page",
        "patience": _PATIENCE,
        "application": facts["application"],
        "interface": django_server.of_site(site).interface(site),
        "variables": variables,
    }
