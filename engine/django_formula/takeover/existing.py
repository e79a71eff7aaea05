"""What an existing deployment of a site consists of: folders, processes, configuration files, data."""

import os
import pwd
import re
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import NamedTuple

from django_formula.host import file


class Finding(NamedTuple):
    """One part of an existing deployment: its kind, its path or name, and more about it in words."""

    kind: str
    path: str
    details: str = ""

    def __str__(self) -> str:
        return f"{self.kind} {self.path}" + (f" ({self.details})" if self.details else "")


@dataclass
class ExistingDeployment:
    """An existing deployment, as detection builds it up.

    Attributes:
        findings: all parts, as they are reported to the operator.
        refusals: why it cannot be taken over as it is, each with a way out.
        folders: folders of the existing project.
        entries: entries of the site's root that are moved aside.
        virtual_host_files: files of the web server with a virtual host of the site.
        other_names: names of the web server's other virtual hosts, by the address that they pass requests to.
        units: files of systemd.
        templates: names of files of systemd whose instances belong to it, which is refused.
        programs: files of supervisor.
        uwsgi_files: files for which an emperor of uWSGI, or Debian's uwsgi, runs an instance of it.
        program_names: names of the programs of supervisor.
        workers: units, programs and processes that serve no pages.
        commands: the workers' commands, by the names in `workers`; a job of a timer is in `timers` instead.
        timers: services that timers run → command and time.
        crontabs: crontabs with commands of manage.py that name the project's folders.
        replaced: workers that the pillar has too → a line that their unit needs for its stop, or an empty text; of a
            program of supervisor, the signal that stops it.
        addresses: where it listens: paths of sockets, or ``host:port``.
        databases: SQLite files, with the path that the new site uses for each.
        media: folders of uploads.
        wsgi_user: user of Apache's processes that run it by mod_wsgi; empty if they do not.
        server: its application server, as the pillar has it; empty where that is not known.
        owner: uid and gid of its processes; those of its database if no process runs.
    """

    findings: list[Finding] = field(default_factory=list)
    refusals: list[str] = field(default_factory=list)
    folders: list[Path] = field(default_factory=list)
    entries: list[Path] = field(default_factory=list)
    virtual_host_files: list[Path] = field(default_factory=list)
    other_names: dict[str, list[str]] = field(default_factory=dict)
    units: list[Path] = field(default_factory=list)
    templates: list[str] = field(default_factory=list)
    programs: list[Path] = field(default_factory=list)
    uwsgi_files: list[Path] = field(default_factory=list)
    program_names: list[str] = field(default_factory=list)
    workers: list[str] = field(default_factory=list)
    commands: dict[str, str] = field(default_factory=dict)
    timers: dict[str, tuple[str, str]] = field(default_factory=dict)
    crontabs: list[Path] = field(default_factory=list)
    replaced: dict[str, str] = field(default_factory=dict)
    addresses: list[str] = field(default_factory=list)
    databases: dict[Path, Path] = field(default_factory=dict)
    media: list[Path] = field(default_factory=list)
    wsgi_user: str = ""
    server: str = ""
    owner: tuple[int, int] | None = None


def is_project(folder: Path) -> bool:
    """Return whether a folder has a Django project in it, or in its folder of source."""
    return any((folder / name).is_file() for name in ("manage.py", "source/manage.py", "src/manage.py"))


def is_shared(folder: Path) -> bool:
    """Return whether a folder holds more than one project: a folder of the system, or a home."""
    homes = {Path(entry.pw_dir) for entry in pwd.getpwall()}
    system = ("/usr/", "/etc/", "/run/", "/proc/", "/var/lib/", "/var/cache/", "/var/log/")
    return len(folder.parts) <= 2 or folder in homes or str(folder).startswith(system) or folder == Path("/var/www")


def is_empty(path: Path) -> bool:
    """Return whether a path is an empty folder."""
    return path.is_dir() and not path.is_symlink() and not any(path.iterdir())


def is_below(path: str, folders: Iterable[Path]) -> bool:
    """Return whether an absolute path is one of these folders, or below one."""
    return path.startswith("/") and any(Path(os.path.normpath(path)).is_relative_to(folder) for folder in folders)


def read_text(path: Path) -> str:
    """Return the text of a configuration file; it may be a link to a file in a home."""
    return file.read_untrusted(path).decode(errors="replace")


def names_path_below(text: str, folders: Iterable[Path]) -> bool:
    """Return whether a configuration text, without its comments, names a path below one of these folders."""
    lines = re.sub(r"^[ \t]*[#;].*$", "", text, flags=re.MULTILINE)
    return any(is_below(word, folders) for word in re.findall(r"(?<![\w.])/[^\s\"'=:,;]+", lines))
