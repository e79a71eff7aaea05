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
from types import MappingProxyType
from typing import Any, NamedTuple

from django_formula.host import daemons
from django_formula.host.commands import DeploymentError, redact
from django_formula.inspect import environment
from django_formula.observe.search import SEPARATORS
from django_formula.process import command as process_command
from django_formula.process import transient
from django_formula.process.command import ProjectCommand
from django_formula.secret import secrets
from django_formula.site import build
from django_formula.site.sites import Site
from django_formula.untrusted import shapes
from django_formula.untrusted.text import Log, shown

_log = Log.of(__name__)

#: The modules that run in the project's Python, in the order in which they import each other.
_MODULES = ("facts", "search", "override", "program")
#: Makes modules of the texts in the request, and runs the last one.
READ = """
import json, sys, types
request = json.loads(sys.stdin.buffer.read())
for name in ("django_formula", "django_formula.observe"):
    sys.modules[name] = types.ModuleType(name)
for name, text in request.pop("modules").items():
    module = sys.modules[f"django_formula.observe.{name}"] = types.ModuleType(f"django_formula.observe.{name}")
    exec(compile(text, f"<{name}>", "exec"), module.__dict__)
module.main(request)
"""
#: Seconds that an observation may take, and those after which it says what it knows.
_TIMEOUT, _BUDGET = 120, 80
#: What an observation may have reached, in this order.
STAGES = ("", "ended", "settings", "setup", "checks", "application", "done")
#: What stands for a secret, and for the URL of a database.
_LONG = "x" * 50
_URLS = {
    "sqlite": "sqlite:////nonexistent/x",
    "postgres": "postgres://x:x@localhost/x",
    "mysql": "mysql://x:x@localhost/x",
}
#: The most variables, entries of a list, characters of a text, and characters of the whole answer.
_MOST, _FEW, _LONGEST, _LOG, _WHOLE = 500, 200, 300, 6000, 256 << 10
_NAME = re.compile(r"[A-Za-z_]\w{0,80}", re.ASCII)
_SETTING = re.compile(r"[A-Za-z_]\w{0,80}(:[\w.-]{1,60}){0,5}", re.ASCII)
#: What releases, which do not change, have answered to this process.
_ANSWERED: dict[Path, "list[Variable]"] = {}
_HOW = ("whole", "part", "element", "switched")
_VARIABLE = {"name": str, "place": str, "default": str, "kind": str, "feeds": {str: str}, "required": bool}
_MORE = {"together": bool, "separator?": str}
#: What a project that starts reports: maps of its settings, and lists.
MAPS = ("databases", "caches", "storages")
LISTS = (
    *(
        "logs",
        "servers",
        "eager",
        "brokers",
        "workers",
        "routes",
        "migrations",
        "unmigrated",
        "checks",
        "middleware",
        "written",
    ),
    "missing",
)
_ANSWER = {
    **{"stage": str, "error": str, "attempts": int, "variables": [{**_VARIABLE, **_MORE}], "log?": str},
    "facts": {**{f"{name}?": {str: str} for name in MAPS}, **{f"{name}?": [str] for name in LISTS}},
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
#: Words for what a database has on a server elsewhere only: to one of this host sites connect by its socket.
_ELSEWHERE = ("database_host", "database_password")
#: The word for a variable of which nothing is used, since `database` replaces its setting; it must not be empty.
UNUSED = "unused"


class Variable(NamedTuple):
    """A variable that a project asks for.

    Attributes:
        place: where it is read, relative to the source.
        word: the word of the pillar that gives its value, such as ``database_url``; `UNUSED`; empty if only its owner
            knows it.
        feeds: the settings that it is in, and how: ``whole``, ``part``, ``element``, ``switched``.
        default: what the settings have without it, as Python writes it; empty if that is not known.
        is_required: whether the project does not start without it.
        is_together: whether it makes a database only together with others.
        separator: what separates the entries of the list that is made of it; empty if that is not known.
    """

    name: str
    place: str
    word: str
    feeds: Mapping[str, str] = MappingProxyType({})
    default: str = ""
    kind: str = "text"
    is_required: bool = True
    is_together: bool = False
    separator: str = ""

    @property
    def value(self) -> Any:
        """What the pillar has for it: the word and how domains are joined, or a text that nothing uses."""
        if self.word == UNUSED:
            return UNUSED
        is_joined = self.word == "domains" and self.separator not in ("", ",")
        return {"from": self.word, **({"join": self.separator} if is_joined else {})}

    @property
    def is_made_up(self) -> bool:
        """Whether it is a secret that only the site has to know, so that one can be generated."""
        is_free = all(how == "whole" for how in self.feeds.values())
        return not self.word and self.kind == "text" and is_free and environment.is_made_up(self.name)


class Observation(NamedTuple):
    """What a project has answered: text from outside, with names and shapes that were checked.

    Attributes:
        stage: the one that it reached: ``settings``, ``setup``, ``checks``, ``application``, or ``done``.
        error: the exception with which it ended there; empty after the last.
        facts: of a project that starts: `MAPS` and `LISTS`.
        log: its frames, and the exception with all of its text.
    """

    stage: str
    error: str
    attempts: int
    variables: list[Variable]
    facts: dict[str, Any]
    log: str = ""


def impossible(release: Path) -> str:
    """Return why the settings of a release cannot be asked, in a line; empty where they can.

    Nothing but a unit of systemd keeps them from the network and from the site's secrets.
    """
    if process_command.has_container(release):
        return "the release runs in containers, from which nothing here takes the network and the site's secrets"
    if not daemons.has_systemd():
        return "this host has no systemd, without which nothing takes the network and the site's secrets from them"
    return ""


def needed(site: Site, release: Path, facts: Mapping[str, Any]) -> list[Variable]:
    """Return the variables that the settings of a release need and the site does not have; empty if that is not known.

    Args:
        facts: ``folder``, ``python_path``, ``settings_module`` and ``application`` of the release.
    """
    if release in _ANSWERED:
        return _ANSWERED[release]
    why = impossible(release)
    if not why:
        try:
            of(site, release, facts)
            return _ANSWERED[release]
        except DeploymentError as error:
            why = error.message
    _log.info("%s: its settings are not asked for variables: %s", site.name, why)
    return []


def of(site: Site, release: Path, facts: Mapping[str, Any], *, everything: bool = False) -> Observation:
    """Ask the settings of a release for the variables that they need and the site does not have.

    Args:
        everything: ask for all variables that the site does not have, and for facts of the project.

    Raises:
        DeploymentError: they cannot be asked, or answer nothing that can be used.
    """
    source = Path(site.config["mount"] or release / "source")
    given = _given(site)
    request = {
        "root": str(source),
        "path": [str(source / folder) for folder in (facts["folder"], *facts["python_path"])],
        "module": facts["settings_module"],
        "application": facts.get("application") or "",
        "given": given,
        "settings": site.config["settings"],
        "seconds": _BUDGET,
        "all": everything,
    }
    command = ProjectCommand(
        site,
        release,
        facts,
        [f"{release}/virtualenv/bin/python", "-c", READ],
        doing="asking the settings for their variables",
        timeout=_TIMEOUT,
        stdin=stdin(request),
        task=f"observe-{os.getpid()}",
        closed=True,
    )
    found = parse(transient.run_command(command), {*given, *site.config["environment"]}, secrets.known(site))
    found = with_known_words(site, found)
    _ANSWERED[release] = [one for one in found.variables if one.is_required]
    return found


def stdin(request: Mapping[str, Any]) -> str:
    """Return what the program reads: a request, and its own modules."""
    modules = {name: Path(__file__).with_name(f"{name}.py").read_text(encoding="utf-8") for name in _MODULES}
    return json.dumps({**request, "modules": modules})


def _given(site: Site) -> dict[str, str]:
    """Return texts for the variables that the site has as secrets or by words: the sandbox has none of these."""
    engine = (site.config["databases"].get("default") or {}).get("engine") or "sqlite"
    texts = {**build.VALUES, "database_url": _URLS.get(engine, _URLS["sqlite"])}
    given = {secret["variable"]: _LONG for secret in site.config["secrets"].values() if secret["as"] == "variable"}
    words = {name: value.get("from") for name, value in site.config["environment"].items() if isinstance(value, dict)}
    return {**given, **{name: texts.get(str(word), _LONG) for name, word in sorted(words.items())}}


def parse(text: str, given: Collection[str], masked: Collection[str] = ()) -> Observation:
    """Return an answer; what has no form of a name is left out, and the rest is cut.

    Args:
        given: the variables that the site has, which are left out.
        masked: texts that no output may show.

    Raises:
        DeploymentError: it is too long, or has another shape.
    """
    doing = "asking the settings for their variables"
    if len(text) > _WHOLE:
        raise DeploymentError(f"{doing}: the answer has more than {_WHOLE >> 10} KiB")
    answer = shapes.parse(redact(text, masked), _ANSWER, doing=doing)
    told = [one for one in answer["variables"][:_MOST] if _NAME.fullmatch(one["name"]) and one["name"] not in given]
    told = [one for one in told if not environment.OWN.fullmatch(one["name"])]
    facts = answer["facts"]
    maps = {name: facts[name] for name in MAPS if facts.get(name)}
    kept: dict[str, Any] = {
        name: {_line(key): _line(value) for key, value in [*found.items()][:_FEW]} for name, found in maps.items()
    }
    kept |= {name: [_line(one) for one in facts[name][:_FEW]] for name in LISTS if facts.get(name)}
    stage = answer["stage"] if answer["stage"] in STAGES else ""
    log = redact(shown(answer.get("log", "")[-_LOG:], lines=True))
    return Observation(stage, _line(answer["error"]), answer["attempts"], [*map(_variable, told)], kept, log)


def _variable(one: Mapping[str, Any]) -> Variable:
    feeds = {path: how for path, how in one["feeds"].items() if _SETTING.fullmatch(path) and how in _HOW}
    kind = one["kind"] if _NAME.fullmatch(one["kind"]) else "text"
    place, default = _line(one["place"]), _line(one["default"])
    feeds, word = dict([*feeds.items()][:_FEW]), _word(feeds, kind)
    separator = one.get("separator", "")
    known = separator if separator in SEPARATORS else ""
    return Variable(one["name"], place, word, feeds, default, kind, one["required"], one["together"], known)


def _line(text: str) -> str:
    return redact(shown(text))[:_LONGEST]


def _word(feeds: Mapping[str, str], kind: str) -> str:
    """Return the word of the pillar that a variable gets by the settings that it is in; empty if none is known.

    Args:
        kind: the text that it took: one that is a part of a database's name alone may be that of a file.
    """
    in_databases = [path for path in feeds if path.startswith("DATABASES:default:")]
    is_url = len(in_databases) > 1 or kind == "database"
    words = [row for row in _WORDS if is_url or row[2] != "database_url"]
    for setting, how, word in words:
        if any(re.fullmatch(setting, path) and re.fullmatch(how, found) for path, found in feeds.items()):
            return word
    return ""


def with_known_words(site: Site, found: Observation) -> Observation:
    """Return an observation whose variables have words for which the site's database has a value."""
    database = site.config["databases"].get("default") or {}
    missing = [word for word in _ELSEWHERE if not database.get(word.removeprefix("database_"))]
    told = [one._replace(word=UNUSED) if one.word in missing else one for one in found.variables]
    return found._replace(variables=told)


def lacking(site: Site, variables: Collection[Variable]) -> dict[str, Any]:
    """Return the options of a site without which the words of some variables are not known."""
    kinds = {"database" if one.word == UNUSED else one.word.partition("_")[0] for one in variables}
    databases, options = site.config["databases"], dict[str, Any]()
    if "database" in kinds and not databases.get("default", {}).get("engine"):
        options["database"] = {"engine": "postgres"}
    if "celery" in kinds and not site.config.get("queue"):
        options["queue"] = {"engine": "redis"}
    if "cache" in kinds and not site.config.get("caches"):
        options["cache"] = {"engine": "redis"}
    return options
