"""The files of a project that name its processes and schedules: Procfile, compose files, units, crontabs, scripts.

They are read, and nothing that they name is run.
"""

import configparser
import contextlib
import os
import re
import shlex
from collections.abc import Collection, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from django_formula.inspect import code, project

#: Names of Dockerfiles: ``Dockerfile.prod``, ``web.Dockerfile``.
DOCKERFILE = re.compile(r"(?i)([\w-]+\.)?dockerfile([._-][\w.-]+)?")
#: Processes of a Procfile and of compose files that serve pages, or run once in a release.
_NOT_WORKERS = {"web", "release", "postdeploy", "django", "app", "nginx"}
#: The five fields of a time in a crontab, or a word for it.
_CRON = re.compile(
    r"\s*(?P<at>@(?:hourly|daily|midnight|weekly|monthly|yearly|annually)"
    r"|(?:[\d*/,A-Za-z-]+[ \t]+){4}[\d*/,A-Za-z-]+)[ \t]+(?P<rest>\S.*)"
)
#: How the compose files begin that the formula has written of what is found in the project.
_OURS = re.compile(r"# \S+ (in production|on the machine of a developer): docker compose -f compose\.\w+\.yml up")
_CRONTAB_NAME = re.compile(r"(crontab|cron)(\.\w+)?|[\w-]+\.(cron|crontab)|[\w-]*crontab")
_COMPOSE_NAME = re.compile(r"(docker-)?compose[\w.-]*\.ya?ml|(production|prod|live)\.ya?ml")
#: Names that any of these files may have; scripts have none, or .sh, at their end.
_CANDIDATE = re.compile(r"Procfile\.\w+|.+\.(service|conf|ini|ya?ml|cron|crontab|txt|sh)|[Dd]ockerfile\..+|[^.]+")
#: A file that a Dockerfile copies to a path of its own.
_COPY = re.compile(r"^[ \t]*(?:COPY|ADD)[ \t]+(?:--(?!from=)\S+[ \t]+)*([^-\s]\S+)[ \t]+(/\S+)[ \t]*$", re.MULTILINE)
#: A command of Django in a line of shell.
_OF_DJANGO = re.compile(r"(^|[\s/\"'])manage\.py\s")
#: A test of the first argument in a script of shell, and a branch of its ``case``.
_TESTED = re.compile(r"""(?:el)?if\s+\[+\s*["']?\$\{?1(?::-)?\}?["']?\s+==?\s+["']?([A-Za-z][\w-]*)["']?\s*\]""")
_BRANCH = re.compile(r"""["']?([A-Za-z][\w-]*)["']?\s*\)""")
_NOT_LIVE = re.compile(
    r"(^|[._-])(dev|devel|development|local|test|tests|testing|ci|circleci|travis|jenkins|e2e|debug|docs)([._-]|$)"
)


@dataclass(frozen=True)
class Line:
    """A command of such a file.

    Attributes:
        name: of the process, the unit or the job.
        command: the line, in the syntax of a shell.
        place: the file, relative to the source.
        at: when a job runs, in the words of its file; empty for a process that runs until it is stopped.
        style: of `at`: ``cron`` or ``calendar`` (systemd's OnCalendar).
        stop: the signal that ends the process; empty for SIGTERM.
        is_own: whether the command is surely the project's own, not that of a database or a proxy in its compose file.
    """

    name: str
    command: str
    place: str
    at: str = ""
    style: str = "cron"
    stop: str = ""
    is_own: bool = True


def lines(tree: Path, remarks: list[str]) -> list[Line]:
    """Return the commands of all these files, those of production first.

    Args:
        remarks: gets the files that could not be read.
    """
    found: list[Line] = []
    readers = (_procfiles, _units, _programs, _compose_files, _crontabs, _scripts)
    paths = [path for path in project.walk(tree, None, depth=5) if _CANDIDATE.fullmatch(path.name)]
    paths.sort(key=lambda path: (len(path.parts), path))
    for reader in readers:
        for path in paths:
            inside = path.relative_to(tree)
            if is_for_live(inside):
                found += reader(path, str(inside), remarks)
    copied = _copied_scripts(tree, paths)
    return [line for line in found if line.command not in copied]


def _copied_scripts(tree: Path, paths: Collection[Path]) -> set[str]:
    """Return the paths in containers that Dockerfiles copy scripts of the source to; these are read where they are."""
    files = [path for path in paths if DOCKERFILE.fullmatch(path.name)]
    pairs = (pair for path in files for pair in _COPY.findall(code.read(path)))
    inside = {path.relative_to(tree) for path in paths}
    return {target for source, target in pairs if Path(os.path.normpath(source.lstrip("/"))) in inside}


def is_for_live(path: Path) -> bool:
    """Return whether a path, relative to the source, is not one for development or tests."""
    return not any(map(_NOT_LIVE.search, path.parts))


def _procfiles(path: Path, place: str, _remarks: list[str]) -> Iterator[Line]:
    if not re.fullmatch(r"Procfile(\.\w+)?", path.name):
        return
    for row in code.read(path).splitlines():
        found = re.match(r"([A-Za-z0-9_-]+):\s*(\S.*)", row)
        if found and found[1] not in _NOT_WORKERS:
            yield Line(found[1], found[2], place)


def _units(path: Path, place: str, _remarks: list[str]) -> Iterator[Line]:
    """Yield the command of a service of systemd; that of a timer is a job."""
    if path.suffix != ".service":
        return
    text = code.read(path)
    command, at = unit_command(text), timer_time(code.read(path.with_suffix(".timer")))
    stop = re.search(r"^[ \t]*KillSignal\s*=\s*(\S+)", text, re.MULTILINE)
    is_once = re.search(r"^[ \t]*Type\s*=\s*oneshot", text, re.MULTILINE)
    if command and (at or not is_once):
        yield Line(path.stem, command, place, at, "calendar", stop[1] if stop else "")


def unit_command(text: str) -> str:
    """Return the command of a service of systemd; empty if it has none."""
    joined = re.sub(r"\\\n\s*", " ", text)
    found = re.search(r"^[ \t]*ExecStart\s*=\s*[-@:+!]*(\S.*)", joined, re.MULTILINE)
    return found[1] if found else ""


def timer_time(text: str) -> str:
    """Return when a timer of systemd runs its service; empty if it names no time."""
    found = re.search(r"^[ \t]*OnCalendar\s*=\s*(\S.*)", text, re.MULTILINE)
    return found[1].strip() if found else ""


def _programs(path: Path, place: str, _remarks: list[str]) -> Iterator[Line]:
    """Yield the commands of programs of supervisor."""
    text = code.read(path) if path.suffix in (".conf", ".ini") else ""
    if "[program:" not in text:
        return
    parser = _parsed(text)
    for section in parser.sections():
        command = _command(parser, section)
        if section.startswith("program:") and command:
            stop = parser.get(section, "stopsignal", fallback="TERM")
            yield Line(section.partition(":")[2], command, place, stop=f"SIG{stop}" if stop != "TERM" else "")


def program_command(text: str) -> str:
    """Return the command of the first program in a text of supervisor; empty if it has none."""
    parser = _parsed(text)
    return next((_command(parser, section) for section in parser.sections()), "")


def group_programs(text: str) -> dict[str, list[str]]:
    """Return the groups of programs in a text of supervisor, by their names."""
    parser = _parsed(text)
    groups = (section for section in parser.sections() if section.startswith("group:"))
    return {
        section.partition(":")[2].strip(): re.split(r"[,\s]+", parser.get(section, "programs", fallback="").strip())
        for section in groups
    }


def _parsed(text: str) -> configparser.RawConfigParser:
    parser = configparser.RawConfigParser(strict=False, inline_comment_prefixes=(";",))
    with contextlib.suppress(configparser.Error):
        parser.read_string(text)
    return parser


def _command(parser: configparser.RawConfigParser, section: str) -> str:
    """Return the command of a program, which may have several lines, and has ``%`` twice."""
    return " ".join(parser.get(section, "command", fallback="").replace("%%", "%").split("\n"))


def is_compose_file(path: Path) -> bool:
    """Return whether a file is named like those of docker compose."""
    return bool(_COMPOSE_NAME.fullmatch(path.name))


def _compose_files(path: Path, place: str, remarks: list[str]) -> Iterator[Line]:
    is_ours = _OURS.match(code.read(path)) if is_compose_file(path) else None
    if is_compose_file(path) and not is_ours:
        found: list[str] = []
        for name, service in services(path, found).items():
            yield from _service(name, service, place)
        remarks += [f"{place} was not read: {reason}" for reason in found]


def services(path: Path, remarks: list[str]) -> dict[str, dict[str, Any]]:
    """Return the services of a compose file.

    Args:
        remarks: gets why the file could not be read.
    """
    try:
        import yaml  # which Salt has, and a bare python3 may not
    except ImportError:
        remarks.append("Python's package yaml is missing here")
        return {}

    class Loader(yaml.SafeLoader):
        """With tags such as `!reset`, which safe_load refuses."""

    Loader.add_multi_constructor("!", _tagged)
    try:
        content = yaml.load(code.read(path), Loader)  # noqa: S506  # nosec B506
    except (yaml.YAMLError, RecursionError, ValueError, LookupError, TypeError, AttributeError):
        remarks.append("it is not valid YAML")
        return {}
    found = content.get("services") if isinstance(content, dict) else None
    entries = found.items() if isinstance(found, dict) else ()
    return {str(name): service for name, service in entries if isinstance(service, dict)}


def _tagged(loader: Any, tag: str, node: Any) -> Any:
    """Return what has a tag of docker compose: `!override` is for the value itself, `!reset` for none."""
    construct = {"mapping": loader.construct_mapping, "sequence": loader.construct_sequence}.get(node.id)
    value = construct(node, deep=True) if construct else loader.construct_scalar(node)
    return value if tag == "override" else None


def line_of(service: dict[str, Any]) -> str:
    """Return what a service of a compose file runs, as a line of shell: a shell as its entrypoint runs its command."""
    command, entrypoint = _shell(service.get("command")), _shell(service.get("entrypoint"))
    is_shell = re.fullmatch(r"(/\S*/)?(ba|da|a)?sh( -[a-z]*c)?", entrypoint)
    return f"{entrypoint} {command}" if is_shell and command else command or entrypoint


def _service(name: str, service: dict[str, Any], place: str) -> Iterator[Line]:
    command = _shell(service.get("command")) or _shell(service.get("entrypoint"))
    if command and name not in _NOT_WORKERS:
        yield Line(name, command, place, is_own="build" in service or bool(_OF_DJANGO.search(command)))
    labels = service.get("labels")
    listed = labels if isinstance(labels, list) else []
    pairs = labels.items() if isinstance(labels, dict) else [str(one).partition("=")[::2] for one in listed]
    about = {str(key): str(value) for key, value in pairs}
    for key, at in about.items():  # the jobs of Ofelia
        found = re.fullmatch(r"ofelia\.job-(?:exec|run|local)\.([\w.-]+)\.schedule", key)
        job = about.get(key.removesuffix("schedule") + "command", "")
        if found and job:
            yield Line(found[1], job, place, _of_six(at))


def _shell(command: Any) -> str:
    """Return a command of a compose file as a line of shell; ``$$`` is ``$`` there.

    A list of one text with blanks is for the shell of an entrypoint.
    """
    command = command[0] if isinstance(command, list) and len(command) == 1 else command
    if isinstance(command, list) and all(isinstance(word, str) for word in command):
        return shlex.join(command).replace("$$", "$")
    return " ".join(command.split()).replace("$$", "$") if isinstance(command, str) else ""


def _of_six(at: str) -> str:
    """Return a time of Ofelia, which may begin with seconds, as cron has it."""
    fields = at.split()
    return " ".join(fields[1:]) if len(fields) == 6 and fields[0] == "0" else at


def _crontabs(path: Path, place: str, _remarks: list[str]) -> Iterator[Line]:
    in_folder = path.parent.name in ("cron.d", "crontabs", "cron")
    if not (in_folder or _CRONTAB_NAME.fullmatch(path.name)) or path.suffix == ".py":
        return
    for row in code.read(path).splitlines():
        at, command = cron_line(row)
        if at:
            yield Line("", command, place, at)


def cron_line(row: str) -> tuple[str, str]:
    """Return the time and the command in a line of a crontab; empty texts for another line."""
    found = _CRON.match(row)
    return (" ".join(found["at"].split()), found["rest"].replace(r"\%", "%")) if found else ("", "")


def _scripts(path: Path, place: str, _remarks: list[str]) -> Iterator[Line]:
    """Yield the lines of shell scripts that run a worker; everything else in them has other purposes."""
    text = code.read(path) if path.suffix in ("", ".sh") else ""
    text = re.sub(r"\\\n\s*", " ", text[:20_000])
    if not re.match(r"#!\s*/\S*(sh|env \w*sh)\s", text):
        return
    kind = ""
    for row in text.splitlines():
        command = row.strip()
        kind = _kind(command, kind)
        if re.match(r"(exec\s|celery\s|python\S*\s|\S*/(celery|python\S*)\s)", command):
            name = path.parent.name if path.stem in ("start", "run", "entrypoint") else path.stem
            yield Line(kind or name, command, place, is_own=False)


def _kind(row: str, known: str) -> str:
    """Return the argument of a script at which its following lines run: ``mail`` of ``elif [ "$1" = mail ]``.

    Args:
        known: that of the lines before; kept until the next branch.
    """
    if re.match(r"(else|fi|esac)\b", row):
        return ""
    tested, branch = _TESTED.match(row), _BRANCH.match(row)
    found = tested or branch
    return found[1] if found else known
