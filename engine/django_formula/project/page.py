"""What Django tells of a release's pages, in a process of its own: what one raises, and which there are."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from django_formula.host.commands import DeploymentError, redact, seconds
from django_formula.knowledge import hints
from django_formula.process.command import ProjectCommand
from django_formula.project import program as project_program
from django_formula.release import http
from django_formula.release.health import Explain, Raised
from django_formula.server import servers
from django_formula.site.sites import Site
from django_formula.untrusted import shapes
from django_formula.untrusted.text import Log

log = Log.of(__name__)

PROGRAM = "django_formula_request.py"
_SHAPE = {"raised": str, "frames": [str]}
#: Seconds that the page and the start of the project may take together, and those for the page.
_TIMEOUT, _PATIENCE = 60.0, 20
#: Texts of exceptions that are longer are left out, not cut: a part of a secret would not be masked.
_LONGEST = 1000
#: Frames and pages of the project that are shown.
_FRAMES, _PAGES = 3, 4


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
    answer = _answer(site, release, facts, _request(site, facts, path), _SHAPE, secrets)
    if not answer:
        return None
    exception = _plain(answer["raised"], secrets)
    frames = [_plain(line, secrets) for line in answer["frames"][-_FRAMES:]]
    return Raised(exception, "\n".join([*filter(None, frames), exception])) if exception else None


def routes(site: Site, release: Path, facts: Mapping[str, Any], secrets: list[str]) -> list[str]:
    """Return the paths that a release has routes for without arguments, below the site's own, as Django knows them.

    So those of packages, and those that code makes, are known too.
    """
    request = {"mode": "routes", "application": facts["application"]}
    answer = _answer(site, release, facts, request, {"routes": [str]}, secrets)
    return list(filter(None, (_plain(path, secrets) for path in answer["routes"]))) if answer else []


def named(paths: list[str]) -> str:
    """Return a line with the paths that are likely to be a page for every visitor; empty where none is.

    None is requested: what a view does is not known.
    """
    from django_formula.inspect import routes as inspect_routes  # which only a failure needs

    pages = inspect_routes.pages(paths)[:_PAGES]
    text = f"pages of the project, by its routes, that health:path may name: {', '.join(pages)}"
    return hints.Hint(text, {"health:path": pages[0]}) if pages else ""


def _answer(
    site: Site,
    release: Path,
    facts: Mapping[str, Any],
    request: Mapping[str, Any],
    shape: Mapping[str, Any],
    secrets: list[str],
) -> dict[str, Any] | None:
    """Return what the program answers to a request; None where it cannot be asked, or fails."""
    program = release / "config" / PROGRAM
    if not program.exists():
        return None
    command = ProjectCommand(
        site,
        release,
        facts,
        [f"{release}/virtualenv/bin/python", str(program)],
        doing=f"asking Django for its {request['mode']}",
        timeout=min(_TIMEOUT, seconds(site.config["timeouts"]["start"])),
        stdin=json.dumps(request),
        secrets=secrets,
    )
    try:
        answer: dict[str, Any] = shapes.parse(project_program.run_command(command), shape, doing=command.doing)
    except DeploymentError as error:
        log.info("%s: %s", site.name, redact(str(error), secrets))
        return None
    return answer


def _plain(text: str, secrets: list[str]) -> str:
    """Return a text of the site's process on one line, masked; empty where it is too long."""
    return redact("".join(filter(str.isprintable, text)), secrets) if len(text) <= _LONGEST else ""


def _request(site: Site, facts: Mapping[str, Any], path: str) -> dict[str, Any]:
    headers = {**site.config["proxy"].get("headers", {}), **site.config["health"]["headers"]}
    target, _mark, query = path.partition("?")
    variables = http.variables(site.canonical, target, query, site.scheme, headers)
    prefix = site.config["path"].rstrip("/")
    if prefix and f"{variables['PATH_INFO']}/".startswith(f"{prefix}/"):
        variables |= {"SCRIPT_NAME": prefix, "PATH_INFO": variables["PATH_INFO"][len(prefix) :]}
    return {
        "mode": "page",
        "patience": _PATIENCE,
        "application": facts["application"],
        "interface": servers.configured(site).interface(site),
        "variables": variables,
    }
