"""Ask a release which variables its settings need and do not have, after a start that has failed.

The settings are imported again and again, so this is done where a start has failed anyway, never on the way of a
release that succeeds. The project's code runs as at that start: as the site's user, in the sandbox of an instance, but
without secrets and without network. What it answers is text from outside, and chooses only among words of the pillar.
See docs/decisions/0117.
"""

import json
import os
import re
from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Any, NamedTuple

from django_formula.host import daemons
from django_formula.host.commands import DeploymentError
from django_formula.process import command as process_command
from django_formula.process import transient
from django_formula.process.command import ProjectCommand
from django_formula.site.sites import Site
from django_formula.untrusted import shapes
from django_formula.untrusted.text import Log

_log = Log.of(__name__)

_PROGRAM = Path(__file__).with_name("program.py")
#: Runs the program, which is before its request in the standard input.
_READ = "import sys; exec(sys.stdin.buffer.read(int(sys.stdin.buffer.readline())).decode())"
#: Seconds that an observation may take, and those after which it says what it knows.
_TIMEOUT, _BUDGET = 120, 80
#: The most variables that are named.
_MOST = 50
_NAME = re.compile(r"[A-Za-z_]\w{0,80}")
_ANSWER = {
    "stage": str,
    "error": str,
    "attempts": int,
    "variables": [{"name": str, "place": str, "feeds": {str: str}}],
}
#: Settings, and how a variable is in them → the word of the pillar that it gets; a database's URL is in several.
_WORDS = (
    (r"DATABASES:default:(NAME|USER|HOST)", "part", "database_url"),
    (r"SECRET_KEY", "whole", "secret_key"),
    (r"DATABASES:default:NAME", "whole", "database_name"),
    (r"DATABASES:default:USER", "whole", "database_user"),
    (r"DATABASES:default:PASSWORD", "whole", "database_password"),
    (r"DATABASES:default:HOST", "whole", "database_host"),
    (r"DATABASES:default:PORT", "whole", "database_port"),
    (r"ALLOWED_HOSTS", "element", "domains"),
    (r"(CELERY_)?BROKER_URL", "whole", "celery_broker_url"),
    (r"CACHES:default:LOCATION", "whole|element", "cache_url"),
    (r"MEDIA_ROOT", "whole", "media_root"),
)


class Variable(NamedTuple):
    """A variable without which a project does not start.

    Attributes:
        place: where it is read, relative to the source.
        word: the word of the pillar that gives its value, such as ``database_url``; empty if only its owner knows it.
    """

    name: str
    place: str
    word: str


def needed(site: Site, release: Path, facts: Mapping[str, Any]) -> list[Variable]:
    """Return the variables that the settings of a release need and the site does not have; empty if that is not known.

    Args:
        facts: ``folder``, ``python_path``, ``settings_module`` and ``application`` of the release.
    """
    if not daemons.has_systemd() or process_command.has_container(release):
        return []
    source = Path(site.config["mount"] or release / "source")
    made_up = {secret["variable"] for secret in site.config["secrets"].values() if secret["as"] == "variable"}
    made_up |= {name for name, value in site.config["environment"].items() if isinstance(value, dict)}
    request = {
        "root": str(source),
        "path": [str(source / folder) for folder in (facts["folder"], *facts["python_path"])],
        "module": facts["settings_module"],
        "application": facts.get("application") or "",
        "given": dict.fromkeys(sorted(made_up), "x" * 50),
        "seconds": _BUDGET,
    }
    program = _PROGRAM.read_text(encoding="utf-8")
    command = ProjectCommand(
        site,
        release,
        facts,
        [f"{release}/virtualenv/bin/python", "-c", _READ],
        doing="asking the settings for their variables",
        timeout=_TIMEOUT,
        stdin=f"{len(program.encode())}\n{program}{json.dumps(request)}",
        task=f"observe-{os.getpid()}",
        closed=True,
    )
    try:
        answer = shapes.parse(transient.run_command(command), _ANSWER, doing=command.doing)
    except DeploymentError as error:
        _log.info("%s: %s", site.name, error.message)
        return []
    given = {*made_up, *site.config["environment"]}
    return [
        Variable(one["name"], one["place"], _word(one["feeds"]))
        for one in answer["variables"][:_MOST]
        if _NAME.fullmatch(one["name"]) and one["name"] not in given
    ]


def _word(feeds: Mapping[str, str]) -> str:
    """Return the word of the pillar that a variable gets by the settings that it is in; empty if none is known."""
    for setting, how, word in _WORDS:
        if any(re.fullmatch(setting, path) and re.fullmatch(how, found) for path, found in feeds.items()):
            return word
    return ""


def lacking(site: Site, variables: Collection[Variable]) -> dict[str, Any]:
    """Return the options of a site without which the words of some variables are not known."""
    kinds = {one.word.partition("_")[0] for one in variables}
    databases, options = site.config["databases"], dict[str, Any]()
    if "database" in kinds and not databases.get("default", {}).get("engine"):
        options["database"] = {"engine": "postgres"}
    if "celery" in kinds and not site.config.get("queue"):
        options["queue"] = {"engine": "redis"}
    if "cache" in kinds and not site.config.get("caches"):
        options["cache"] = {"engine": "redis"}
    return options
