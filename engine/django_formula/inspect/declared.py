"""What the deployment files of other platforms declare: Heroku and Dokku, Fly, Render, Kamal, uWSGI's own processes.

A declaration comes before a guess. Each reader gives the same: domains, the path of the health check, commands, those
of each release, and variables with their values. The files are the repository's: what has not the shape that is
expected is left out.
"""

import json
import re
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple

from django_formula.host import toml
from django_formula.inspect import code, process_files, project
from django_formula.inspect.process_files import Line

_DOMAIN = re.compile(r"(?=.{4,253}$)([a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?\.)+[a-z]{2,63}")
_PATH = re.compile(r"/[\w./~-]{0,200}")
_NAME = re.compile(r"[A-Za-z_]\w{0,80}")
#: A variable as uWSGI writes it.
_VARIABLE = re.compile(r"\$\((\w+)\)")
#: Processes that serve pages.
_WEB = {"web", "app"}
#: A line of uWSGI's configuration; the forms of a process next to it, and of a job.
_OPTION = re.compile(r"^[ \t]*([\w-]+)[ \t]*=[ \t]*(\S.*?)[ \t]*$", re.MULTILINE)
_DAEMONS = {
    "attach-daemon": re.compile(r"(.+)"),
    "attach-daemon2": re.compile(r"(?:[^,]*,)*?cmd=([^,]+)(?:,.*)?"),
    "smart-attach-daemon": re.compile(r"\S+\s+(.+)"),
}
_JOB = re.compile(r"((?:-?\d+\s+){5})(\S.*)")


class Declared(NamedTuple):
    """What the files of a source declare.

    Attributes:
        domains: those of visitors.
        health: the path of the health check; empty if there is none.
        commands: processes and jobs, but what serves pages.
        release: what runs once in each release, before it serves.
        variables: values by the names of variables, without secrets.
        places: the file of each of these five that has something.
    """

    domains: list[str]
    health: str
    commands: list[Line]
    release: list[str]
    variables: dict[str, str]
    places: dict[str, str]


NOTHING = Declared([], "", [], [], {}, {})


class _File:
    """What one file declares, as a reader has found it."""

    def __init__(self, place: str):
        self.place = place
        self.domains: list[Any] = []
        self.paths: list[Any] = []
        self.commands: list[tuple[str, Any, str]] = []
        self.release: list[Any] = []
        self.variables: dict[Any, Any] = {}


def find(tree: Path, remarks: list[Any], folder: str = ".") -> Declared:
    """Return what the files declare; of two that declare the same thing the first one counts.

    Args:
        remarks: gets the files that could not be read.
        folder: that of manage.py, whose files come before those above it.

    Example: ``find(Path("shop"), []).health == "/healthz"``
    """
    declared = NOTHING
    for file in _files(tree, remarks, folder):
        named = [name for name in file.domains if isinstance(name, str) and _DOMAIN.fullmatch(name)]
        health = next((path for path in file.paths if isinstance(path, str) and _PATH.fullmatch(path)), "")
        variables = {name: _text(value) for name, value in file.variables.items() if _NAME.fullmatch(str(name))}
        commands = [
            Line(str(name), command, file.place, at)
            for name, command, at in file.commands
            if isinstance(command, str) and command.strip() and command.isprintable() and (at or str(name) not in _WEB)
        ]
        plain = {str(name): value for name, value in variables.items() if value is not None}
        release = [row.strip() for text in file.release if isinstance(text, str) for row in text.splitlines()]
        found: dict[str, Any] = {
            "domains": [*dict.fromkeys(named)],
            "health": health,
            "commands": commands,
            "release": [row for row in release if row and row.isprintable()],
            "variables": plain,
        }
        first = {what: value for what, value in found.items() if value and not getattr(declared, what)}
        declared = declared._replace(**first, places={**declared.places, **dict.fromkeys(first, file.place)})
    return declared


def _files(tree: Path, remarks: list[Any], folder: str) -> Iterator[_File]:
    folders = project.folders_above(tree, folder)
    known = [(str((top / name).relative_to(tree)), *how) for top in folders for name, how in _READERS.items()]
    for name, parse, reader in known:
        text = code.read(tree / name)
        if not text:
            continue
        file = _File(name)
        try:
            content = parse(text)
        except ImportError as error:
            remarks.append(f"{name} was not read: {error}")
            continue
        except (ValueError, RecursionError):
            language = name.rpartition(".")[2].upper().replace("YML", "YAML")
            remarks.append(f"{name} was not read: it is not valid {language}")
            continue
        if isinstance(content, dict):
            reader(file, content)
            yield file
    for path in project.walk(tree, None, depth=3):
        inside = path.relative_to(tree)
        if path.suffix == ".ini" and process_files.is_for_live(inside):
            yield _uwsgi(_File(str(inside)), code.read(path))


def _text(value: Any) -> str | None:
    """The value of a variable; None where it is none, or no plain one."""
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, int | float):
        return str(value)
    return value if isinstance(value, str) and value.isprintable() and len(value) <= 500 else None


def _map(value: Any, *keys: str) -> dict[Any, Any]:
    """The map below these keys; empty where there is none."""
    for key in keys:
        value = value.get(key) if isinstance(value, Mapping) else None
    return dict(value) if isinstance(value, Mapping) else {}


def _list(value: Any) -> list[Any]:
    return value if isinstance(value, list) else []


def _maps(content: Mapping[str, Any], key: str) -> list[dict[str, Any]]:
    """The maps of the list below this key."""
    return [one for one in _list(content.get(key)) if isinstance(one, dict)]


def _yaml(text: str) -> Any:
    import yaml  # which Salt has, and a bare python3 may not

    try:
        return yaml.safe_load(text)
    except (yaml.YAMLError, LookupError, TypeError, AttributeError) as error:  # of a value such as !!bool x
        raise ValueError("no YAML") from error


def _rows(text: str) -> dict[str, str]:
    return dict(re.findall(r"^(\w+):[ \t]*(\S.*)", text, re.MULTILINE))


def _procfile(file: _File, content: Mapping[str, Any]) -> None:
    """The `release` of a `Procfile`; its processes are read with those of the project's own files."""
    file.release = [content.get("release")]


def _heroku(file: _File, content: Mapping[str, Any]) -> None:
    """`app.json` of Heroku and Dokku."""
    file.release = [_map(content, "scripts", "dokku").get("predeploy")]
    for name, value in _map(content, "env").items():
        file.variables[name] = value.get("value") if isinstance(value, Mapping) else value
    file.paths = [
        check.get("path") for check in _list(_map(content, "healthchecks").get("web")) if isinstance(check, dict)
    ]
    for job in _list(content.get("cron")):
        if isinstance(job, dict):
            file.commands.append(("", job.get("command"), str(job.get("schedule", ""))))


def _heroku_images(file: _File, content: Mapping[str, Any]) -> None:
    """`heroku.yml`."""
    file.variables = _map(content, "setup", "config")
    file.commands = [(name, _joined(process), "") for name, process in _map(content, "run").items()]
    file.release = [_joined(content.get("release"))]


def _joined(process: Any) -> str | None:
    """The commands of a process as a line of shell."""
    command: Any = process.get("command") if isinstance(process, Mapping) else process
    lines = command if isinstance(command, list) else [command]
    return " && ".join(lines) if all(isinstance(line, str) for line in lines) else None


def _fly(file: _File, content: Mapping[str, Any]) -> None:
    """`fly.toml`."""
    file.variables = _map(content, "env")
    file.commands = [(name, command, "") for name, command in _map(content, "processes").items()]
    file.release = [_map(content, "deploy").get("release_command")]
    services = [_map(content, "http_service"), *_list(content.get("services"))]
    checks = [*_map(content, "checks").values()]
    for service in services:
        if isinstance(service, dict):
            checks += [*_list(service.get("checks")), *_list(service.get("http_checks"))]
    file.paths = [check.get("path") for check in checks if isinstance(check, dict)]


def _render(file: _File, content: Mapping[str, Any]) -> None:
    """`render.yaml`."""
    groups = {str(one.get("name")): one for one in _maps(content, "envVarGroups")}
    for service in _maps(content, "services"):
        kind, name = service.get("type"), service.get("name", "")
        command = service.get("startCommand") or service.get("dockerCommand")
        if kind == "web":
            file.domains += _list(service.get("domains"))
            file.paths.append(service.get("healthCheckPath"))
            file.release.append(service.get("preDeployCommand"))
            own = _maps(service, "envVars")
            pairs = [pair for one in own for pair in _maps(groups.get(str(one.get("fromGroup")), {}), "envVars")]
            file.variables |= {str(pair.get("key", "")): pair.get("value") for pair in (*pairs, *own)}
        elif kind in ("worker", "cron"):
            file.commands.append((name, command, str(service.get("schedule", "")) if kind == "cron" else ""))


def _kamal(file: _File, content: Mapping[str, Any]) -> None:
    """Kamal's `config/deploy.yml`."""
    role = _map(content, "servers", str(content.get("primary_role", "web")))
    proxy = _map(content, "proxy") | _map(role, "proxy")
    file.domains = [proxy.get("host"), *_list(proxy.get("hosts"))]
    file.paths = [_map(proxy, "healthcheck").get("path", "/up")] if proxy else []
    for environment in (_map(content, "env"), _map(role, "env")):
        is_split = "clear" in environment or "secret" in environment
        file.variables |= _map(environment, "clear") if is_split else environment
    for name, role in _map(content, "servers").items():
        if isinstance(role, dict):
            file.commands.append((name, role.get("cmd"), ""))


def _uwsgi(file: _File, text: str) -> _File:
    """The processes and jobs that uWSGI runs next to the application."""
    for option, raw in _OPTION.findall(text):
        value = _VARIABLE.sub(r"${\1}", raw).replace("%%", "%")
        if daemon := _DAEMONS.get(option) and _DAEMONS[option].fullmatch(value):
            file.commands.append(("", daemon[1], ""))
        elif option == "cron" and (job := _JOB.fullmatch(value)):
            fields = [f"*/{field[1:]}" if field[0] == "-" else field for field in job[1].split()]
            file.commands.append(("", job[2], " ".join("*" if field == "*/1" else field for field in fields)))
    file.commands = [one for one in file.commands if "%(" not in one[1]]
    return file


_Reader = Callable[[_File, Mapping[str, Any]], None]
_READERS: dict[str, tuple[Callable[[str], Any], _Reader]] = {
    "Procfile": (_rows, _procfile),
    "app.json": (json.loads, _heroku),
    "heroku.yml": (_yaml, _heroku_images),
    "fly.toml": (toml.loads, _fly),
    "render.yaml": (_yaml, _render),
    "config/deploy.yml": (_yaml, _kamal),
}
