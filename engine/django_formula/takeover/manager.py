"""Detect what starts and restarts an existing deployment: units of systemd, supervisor, uWSGI, cron."""

import os
import re
from collections.abc import Sequence
from pathlib import Path

from django_formula.takeover import existing as takeover_existing
from django_formula.takeover import process as takeover_process
from django_formula.takeover import worker
from django_formula.takeover.existing import ExistingDeployment, Finding, names_path_below, read_text
from django_formula.takeover.process import Process

SYSTEMD = Path("/etc/systemd/system")
SUPERVISOR = Path("/etc/supervisor/conf.d")
UWSGI = [Path("/etc/uwsgi"), Path("/etc/uwsgi-emperor")]
CRONTABS = [Path("/var/spool/cron/crontabs"), Path("/etc/cron.d"), Path("/etc/crontab")]
#: The folder of folders with scripts that cron runs: cron.daily.
CRON = Path("/etc")
_PERIODS = "cron.[hdwm]*ly/*"
_OWN_UNIT = re.compile(r"django-.+-\d+\.(service|socket)")
#: A time of a timer that counts from an event, such as the last run.
_SINCE = re.compile(r"(?m)^[ \t]*(On\w+Sec\s*=.*\S)")
#: What a timer, a socket or a path starts that is not the service of its own name.
_STARTS = re.compile(r"(?m)^[ \t]*(?:Unit|Service)\s*=\s*(\S+)")
_OWN_PROGRAM = re.compile(r"django-.+-\d+\.conf")


def detect(existing: ExistingDeployment, listening: list[Process], at: str) -> None:
    """Add everything that starts an existing deployment.

    Args:
        listening: the processes that listen on its addresses.
        at: the key of its site in the pillar.
    """
    _units(existing, listening)
    _programs(existing)
    _uwsgi_files(existing, listening)
    _crontabs(existing)
    _scripts(existing, at)


def _units(existing: ExistingDeployment, listening: list[Process]) -> None:
    """Add the units that name the project's folders, run its processes, or hold its socket."""
    files = [path for path in sorted(SYSTEMD.glob("*.*")) if path.is_file() and not path.is_symlink()]
    texts = {path: read_text(path) for path in files if not _OWN_UNIT.fullmatch(path.name)}
    services = {process.unit for process in listening} | _activated_services(texts, existing.addresses)
    services |= {*map(template_of, services)}
    for path, text in texts.items():
        runs_it = path.name in services and not _is_emperor(text)
        is_own = path.suffix == ".service" and (runs_it or names_path_below(text, existing.folders))
        if is_own and path.stem.endswith("@"):
            existing.templates.append(path.name)
            existing.findings.append(Finding("unit", path.name, str(path)))
            existing.refusals.append(
                f"{path} is a template of units, whose instances are not taken over: have a unit of its own for each, "
                "or stop and disable them and remove it"
            )
        elif is_own:
            pair = [path, *(other for other in texts if other != path and _is_for(other, texts[other], path))]
            existing.units += pair
            existing.findings += [Finding("unit", one.name, str(one)) for one in pair]
            if not takeover_process.serves_pages(text):
                existing.workers.append(path.name)
                _add_command(existing, pair, text)
            _add_working_directory(existing, text)


def template_of(unit: str) -> str:
    """Return the name of the template that a unit is an instance of; that of another unit as it is."""
    return re.sub(r"@.+(?=\.\w+$)", "@", unit)


def _is_for(other: Path, text: str, service: Path) -> bool:
    """Return whether a unit has the name of a service, or is a timer or another one that starts it."""
    named = _STARTS.search(text) if other.suffix in (".timer", ".path", ".socket") else None
    return named[1] == service.name if named else other.stem == service.stem


def _add_command(existing: ExistingDeployment, units: Sequence[Path], text: str) -> None:
    """Add what a worker's unit runs, or a timer.

    Args:
        units: the service, and what starts it.
    """
    from django_formula.inspect import process_files  # which only a host with such a unit needs

    path, *others = units
    command = process_files.unit_command(text)
    when = "\n".join(read_text(other) for other in others if other.suffix == ".timer")
    at = [process_files.timer_time(when), *reversed(_SINCE.findall(when))]
    if any(at):
        existing.timers[path.name] = (command, next(filter(None, at)))
    else:
        existing.commands[path.name] = command


def _activated_services(texts: dict[Path, str], addresses: list[str]) -> set[str]:
    """Return the services whose sockets listen on these addresses."""
    services = set()
    for path, text in texts.items():
        listens = set(re.findall(r"^[ \t]*ListenStream\s*=\s*(\S+)", text, re.MULTILINE))
        listens |= {f"127.0.0.1:{value.rpartition(':')[2]}" for value in listens if not value.startswith("/")}
        if path.suffix == ".socket" and listens & {*addresses}:
            named = _STARTS.search(text)
            services.add(named[1] if named else f"{path.stem}.service")
    return services


def _add_working_directory(existing: ExistingDeployment, text: str) -> None:
    found = re.search(r"^[ \t]*WorkingDirectory\s*=\s*-?(/\S+)", text, re.MULTILINE)
    folder = Path(found[1]) if found else None
    if folder and not takeover_existing.is_shared(folder) and folder not in existing.folders:
        existing.folders.append(folder)


def _is_emperor(text: str) -> bool:
    """Return whether a unit runs uWSGI for all files of a folder, by its own text or by its configuration file."""
    named = re.findall(r"/\S+\.(?:ini|xml|ya?ml|json)\b", text)
    return any("emperor" in one for one in (text, *map(read_text, map(Path, named))))


def _programs(existing: ExistingDeployment) -> None:
    """Add the files of supervisor whose programs name the project's folders."""
    for path in sorted(SUPERVISOR.glob("*.conf")):
        sections = re.split(r"^(?=\[)", read_text(path), flags=re.MULTILINE)
        programs = [section for section in sections if section.startswith(("[program:", "[fcgi-program:"))]
        inside = [section for section in programs if names_path_below(section, existing.folders)]
        if inside and not _OWN_PROGRAM.fullmatch(path.name):
            names = [_program_name(section) for section in inside]
            existing.programs.append(path)
            existing.program_names += names
            existing.findings.append(Finding("supervisor program", ", ".join(names), str(path)))
            from django_formula.inspect import process_files  # which only a host with such a program needs

            for section in inside:
                if not takeover_process.serves_pages(section):
                    existing.workers.append(_program_name(section))
                    existing.commands[_program_name(section)] = process_files.program_command(section)
            if len(inside) != len(programs):
                rest = ", ".join(_program_name(section) for section in programs if section not in inside)
                existing.refusals.append(f"{path} also runs {rest}: move that to another file")
    if existing.program_names:
        _refuse_groups(existing)


def _refuse_groups(existing: ExistingDeployment) -> None:
    """Refuse programs in a group of supervisor, which it neither stops nor removes by their own names."""
    from django_formula.inspect import process_files  # which only a host with such a program needs

    for path in [*sorted(SUPERVISOR.glob("*.conf")), SUPERVISOR.parent / "supervisord.conf"]:
        groups = process_files.group_programs(read_text(path)) if path.is_file() else {}
        for group, programs in groups.items():
            names = ", ".join(name for name in existing.program_names if name in programs)
            if names:
                existing.refusals.append(
                    f"{path} has {names} in the group {group}, of which supervisor stops no program for good: "
                    "remove it from the group, and run supervisorctl update, which restarts it"
                )


def _program_name(section: str) -> str:
    return section.partition("]")[0].partition(":")[2].strip()


def _uwsgi_files(existing: ExistingDeployment, listening: list[Process]) -> None:
    """Add the files for which an emperor of uWSGI, or Debian's uwsgi, runs an instance of the project.

    Either they name its folders, or its process has their name among its arguments and no other file has that name.
    """
    files = [path for folder in UWSGI for path in sorted(folder.glob("*/*")) if path.is_file()]
    arguments = {os.path.basename(word) for process in listening if process.is_uwsgi() for word in process.argv[1:]}
    for path in files:
        is_named = path.name in arguments and len({one.resolve() for one in files if one.name == path.name}) == 1
        if is_named or names_path_below(read_text(path), existing.folders):
            existing.uwsgi_files.append(path)
            existing.findings.append(Finding("uWSGI file", str(path)))


def _scripts(existing: ExistingDeployment, at: str) -> None:
    """Refuse scripts of cron, as in /etc/cron.daily, that run manage.py of the project."""
    for path in sorted(CRON.glob(_PERIODS)):
        text = read_text(path) if path.is_file() else ""
        if "manage.py" in text and names_path_below(text, existing.folders):
            existing.findings.append(Finding("script of cron", str(path)))
            existing.refusals.append(
                f"{path} runs manage.py of the existing deployment: have its commands in {at}:schedules, and remove it"
            )


def _crontabs(existing: ExistingDeployment) -> None:
    """Add the crontabs with lines that name the project's folders; each has to be a command of manage.py."""
    for path in [path for one in CRONTABS for path in (sorted(one.iterdir()) if one.is_dir() else [one])]:
        rows = worker.rows(path, existing.folders) if path.is_file() else []
        if rows:
            existing.findings.append(Finding("crontab", str(path)))
            existing.crontabs.append(path)
            from django_formula.takeover import review  # which only a host with such a crontab needs

            if not all(review.of_row(path, row)[0] for row in rows):
                existing.refusals.append(
                    f"{path} has lines with paths of the existing deployment that are no commands of manage.py: "
                    "remove them first"
                )
