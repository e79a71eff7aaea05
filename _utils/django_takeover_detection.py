"""What somebody else has left where a site is to be: folders, processes, files of web servers and of what runs it.

Where a domain of the site is in a file of nginx or Apache, that is followed: to the address behind it, the processes
that listen there, their folders, and what keeps them alive; with mod_wsgi to the folders that it is told.
"""

import contextlib
import itertools
import os
import pwd
import re
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import NamedTuple

import django_database
import django_host_file
import django_host_port
import django_host_proc
import django_host_service
import django_host_unix
import django_proxy
import django_takeover_apache
import django_takeover_nginx
import django_takeover_virtual_hosts
import django_wall_delegate
from django_database_engine import SERVERS
from django_host_command import DeploymentError
from django_site import Site
from django_takeover_virtual_hosts import Server

SYSTEMD = Path("/etc/systemd/system")
SUPERVISOR = Path("/etc/supervisor/conf.d")
UWSGI = [Path("/etc/uwsgi"), Path("/etc/uwsgi-emperor")]
CRONTABS = [Path("/var/spool/cron/crontabs"), Path("/etc/cron.d")]
#: What reads the files of a web server, by the pillar's word for it.
READERS = {"nginx": django_takeover_nginx, "apache": django_takeover_apache}

#: What a project in a folder looks like, besides the data that may stay where it is.
_LEFT = ("source", "virtualenv", "venv", "env", ".venv", "static", "staticfiles", "manage.py", "db.sqlite3")
#: Folders in which a project keeps its source beside its data.
_INNER = ("source", "src", "code", "app", "project")
_SERVERS = r"gunicorn|uwsgi(-core)?|uvicorn|daphne|hypercorn|granian|waitress-serve|mod_wsgi-express"
_WORKERS = r"celery|rq|rqworker|dramatiq|huey|qcluster"
_APPLICATION = re.compile(rf"({_SERVERS}|{_WORKERS})(:|$)|manage\.py$")
_LASTING = re.compile(rf"runserver.*|{_WORKERS}|runworker|run_huey|rundramatiq|process_tasks|rqscheduler")
_WEB = re.compile(rf"\b({_SERVERS}|runserver)\b")
#: Units that keep nothing alive which is started from them.
_SESSIONS = re.compile(r"(ssh|sshd|cron|user@\d+)\.service")


class Found(NamedTuple):
    """A thing that was found: what it is, where, and more about it in words."""

    kind: str
    path: str
    more: str = ""

    def __str__(self) -> str:
        return f"{self.kind} {self.path}" + (f" ({self.more})" if self.more else "")


class Process(NamedTuple):
    """A process: its number, arguments, working directory, owner's uid and gid, and the unit that it belongs to.

    `sockets` are those that it has open, where they were asked of its own user; None where root may look itself. The
    directory is empty where neither may.
    """

    pid: int
    argv: list[str]
    folder: str
    user: int
    group: int
    unit: str
    sockets: frozenset[str] | None = None

    def __str__(self) -> str:
        """Its program, and the command of a manage.py; further arguments may be secrets."""
        words = self.argv[1:] if self.is_python() else []
        program, *more = words if words and not words[0].startswith("-") else self.argv
        told = " ".join([program, *more[:1]]) if program.endswith("manage.py") else program.partition(" ")[0]
        return "".join(filter(str.isprintable, told))[:200]

    def is_application(self) -> bool:
        """Whether it serves or works for a Django project, and is no shell, editor or screen in which somebody does."""
        words = self.argv[1:6] if self.is_python() else self.argv[:1]
        return any(_APPLICATION.match(os.path.basename(word)) for word in words)

    def is_python(self) -> bool:
        """Whether it runs a program in Python."""
        return bool(re.match(r"python|pypy", os.path.basename(self.argv[0])))

    def is_uwsgi(self) -> bool:
        """Whether it is uWSGI, which takes SIGTERM for a reload unless it is told otherwise."""
        return bool(re.match(r"uwsgi(?![a-z])", os.path.basename(self.argv[0]), re.IGNORECASE))

    def is_at_work(self) -> bool:
        """Whether it is a management command that ends by itself."""
        words = [os.path.basename(word) for word in self.argv[:6]]
        command = words[words.index("manage.py") + 1 :][:1] if "manage.py" in words else []
        return bool(command) and not _LASTING.fullmatch(command[0])

    def lies_in(self, folders: Iterable[Path]) -> bool:
        """Whether its working directory or one of its arguments lies in one of these folders."""
        return any(_lies_in(path, folders) for path in (self.folder, *self.argv))


@dataclass
class Adoption:
    """What there is to adopt.

    Attributes:
        found: everything, as the operator is told.
        refused: why it cannot be adopted as it is, and the way out.
        folders: the folders of the old project.
        entries: what lies in the site's root and is set aside.
        servers, units, programs: files of the old site: of the web server, systemd and supervisor.
        apps: files of it that an emperor of uWSGI, or Debian's uwsgi, runs an instance for.
        neighbours: names of other servers of the web server, by the address behind them.
        names: names of the programs.
        workers: units and programs that serve no pages.
        addresses: where the old site listens: paths of sockets, or ``host:port``.
        databases: SQLite files: where each lies, and where the site has it.
        media: folders of uploads.
        wsgi_user: whose processes of Apache run the old site, by mod_wsgi; empty where they do not.
        owner: uid and gid of the old site's processes; those of its database where none runs.
    """

    found: list[Found] = field(default_factory=list)
    refused: list[str] = field(default_factory=list)
    folders: list[Path] = field(default_factory=list)
    entries: list[Path] = field(default_factory=list)
    servers: list[Path] = field(default_factory=list)
    neighbours: dict[str, list[str]] = field(default_factory=dict)
    units: list[Path] = field(default_factory=list)
    programs: list[Path] = field(default_factory=list)
    apps: list[Path] = field(default_factory=list)
    names: list[str] = field(default_factory=list)
    workers: list[str] = field(default_factory=list)
    addresses: list[str] = field(default_factory=list)
    databases: dict[Path, Path] = field(default_factory=dict)
    media: list[Path] = field(default_factory=list)
    wsgi_user: str = ""
    owner: tuple[int, int] | None = None


def look(site: Site, kept: Sequence[str] = ()) -> Adoption | None:
    """What there is to adopt before the first release of a site; None when nobody has been here.

    Args:
        kept: the site's own folders that are known to be another's.

    Raises:
        DeploymentError: there is something, and the pillar does not say ``adopt``, or it cannot be adopted as it is.
    """
    adoption = find(site, kept)
    if not adoption.found:
        return None
    at = f"django:sites:{site.name}"
    things = [str(found) for found in adoption.found]
    if not site.config["adopt"]:
        takes = (
            f"{at}:adopt: true takes it over and sets it aside; or " if site.config["proxy"]["kind"] in READERS else ""
        )
        raise DeploymentError(
            "\n  ".join([f"somebody has been where {site.name} is to be:", *things, *adoption.refused]),
            hint=f"{takes}choose another {at}:root, or remove it",
        )
    if adoption.refused:
        raise DeploymentError(
            "\n  ".join([f"{site.name} cannot be adopted as it is:", *adoption.refused]),
            hint="docs/guides/adopt.md has the ways out; nothing has been changed",
        )
    return adoption


def find(site: Site, kept: Sequence[str] = ()) -> Adoption:
    """Everything of somebody else's that is in the way of a site; changes nothing."""
    adoption = Adoption()
    servers = _files_of_servers(site, adoption)
    _entries(site, adoption, kept)
    ports = _wanted_ports(site)
    addresses = list(dict.fromkeys(address for server in servers for address in server.addresses))
    if not (adoption.found or any(_inodes(port) for port in ports)):
        return adoption
    everybody = list(processes())
    holders = {address: _holders(address, everybody) for address in [*addresses, *ports]}
    adoption.addresses = addresses
    adoption.refused += filter(None, (_unknown(address, everybody, holders[address]) for address in addresses))
    behind = [process for address in addresses for process in holders[address]]
    _project_folders(site, adoption, servers, behind)
    _units(adoption, behind)
    _programs(adoption)
    _apps(adoption, behind)
    _crontabs(adoption)
    if site.config["proxy"]["kind"] == "apache":
        adoption.refused += django_takeover_apache.problems(adoption.servers, adoption.folders)
    mine = _processes(adoption, everybody, behind)
    _ports(site, adoption, {port: holders[port] for port in ports}, mine)
    _databases(site, adoption)
    _media(site, adoption, servers)
    _owner(adoption, mine)
    return adoption


# Web servers


def _files_of_servers(site: Site, adoption: Adoption) -> list[Server]:
    """The servers of the site's domains in files that are not ours; none where its proxy is to be somebody else's."""
    kind = site.config["proxy"]["kind"]
    servers: list[Server] = []
    for path, inside in READERS[kind].servers().items() if kind in READERS else ():
        own = _of_site(site, inside)
        for server in inside:
            if server not in own:
                adoption.neighbours |= dict.fromkeys(server.addresses, server.names)
        if own:
            servers += own
            adoption.found.append(_file(kind, path, own))
            if path.resolve() not in adoption.servers:  # else it is the link to a file that was there already
                adoption.refused += django_takeover_virtual_hosts.problems(site, path, inside)
            adoption.servers.append(path)
    for other in READERS.keys() - {kind} if kind in READERS else ():
        _refuse_the_other(site, adoption, other)
    adoption.wsgi_user = next((server.wsgi_user for server in servers if server.wsgi_user), "")
    return servers


def _of_site(site: Site, inside: Iterable[Server]) -> list[Server]:
    """Those servers that have a domain of the site."""
    domains = {*site.config["domains"], *site.config["redirect_domains"]}
    return [server for server in inside if domains & {name.removeprefix(".") for name in server.names}]


def _file(kind: str, path: Path, servers: list[Server]) -> Found:
    names = sorted({name for server in servers for name in server.names})
    word = {"nginx": "server_name", "apache": "ServerName"}[kind]
    return Found(f"{kind} file", str(path), f"{word} {' '.join(names)}")


def _refuse_the_other(site: Site, adoption: Adoption, kind: str) -> None:
    """The files of a web server that the site is not to have, which answers for its domains at its ports."""
    running = django_host_service.pid(django_proxy.PROXIES[kind].DAEMON)
    wanted = {django_host_port.split(listen)[1] for listen in [*site.config["proxy"]["listen"], *site.listens_tls]}
    wanted &= {port for _host, port in django_host_port.addresses(running)} if running else set()
    for path, inside in READERS[kind].servers().items() if wanted else ():
        own = [server for server in _of_site(site, inside) if wanted & {*server.ports}]
        if own and path.parent.name != "sites-available":
            adoption.found.append(_file(kind, path, own))
            adoption.refused.append(
                f"{path} is of {kind}, which has the port: say django:sites:{site.name}:proxy: {{kind: {kind}}}"
            )


# The root, and the folders of the old project


def _entries(site: Site, adoption: Adoption, kept: Sequence[str]) -> None:
    """What lies in the site's root that the formula has not made."""
    # One of these is enough: a site that was taken off keeps them, and so does one that was brought from another host.
    signs = (site.applied, site.deploys, site.secrets / "secret_key.json")
    is_laid_out = any(path.exists() for path in signs)
    ours = {folder.path for folder in site.folders()} | {site.current, site.previous, site.deploys, site.lock_file}
    ours |= {site.applied, site.adopted}
    data = {site.database.top, site.media.top}
    present = [path for path in sorted(site.root.iterdir()) if not _is_empty(path)] if site.root.is_dir() else []
    for path in present:
        taken = not is_laid_out and path in ours - data
        if path.name in _LEFT or str(path) in kept or (path in data and not is_laid_out) or taken:
            adoption.found.append(Found("folder" if path.is_dir() else "file", str(path)))
            adoption.folders = [site.root]
        if taken:
            adoption.refused.append(
                f"{path} has the name of something of this formula's, and the old site may need it: "
                f"choose another django:sites:{site.name}:root"
            )
    if adoption.folders:
        whole = (site.root / "manage.py").exists()
        theirs = [path for path in present if path.name in _LEFT or (whole and path.name != "lost+found")]
        adoption.entries = [path for path in theirs if path not in ours]


def _is_empty(path: Path) -> bool:
    return path.is_dir() and not path.is_symlink() and not any(path.iterdir())


def _project_folders(site: Site, adoption: Adoption, servers: list[Server], behind: list[Process]) -> None:
    """The folders of the old project: where its processes run, and the projects of which a web server has files."""
    found = [Path(process.folder) for process in behind]
    virtualenvs = [Path(word).parents[1] for process in behind for word in process.argv[:2] if _is_program(word)]
    found += [*virtualenvs, *(folder.parent for folder in virtualenvs if _is_project(folder.parent))]
    served = [folder for server in servers for folder in (*server.folders.values(), *server.wsgi_folders)]
    found += [top for folder in served for top in (folder, folder.parent) if _is_project(top)]
    adoption.folders += [folder for folder in dict.fromkeys(found) if not _is_broad(folder)]
    adoption.folders = list(dict.fromkeys(adoption.folders))
    if adoption.wsgi_user and not any(map(_is_project, adoption.folders)):
        adoption.refused.append(
            f"{adoption.servers[-1]} runs a project, and leads to no folder of its own with manage.py: "
            "name that there, as home= of WSGIDaemonProcess or as WSGIPythonPath"
        )


def _is_program(word: str) -> bool:
    """Whether a word is the path of a program in a virtualenv."""
    path = Path(word)
    return path.is_absolute() and path.parent.name == "bin" and len(path.parents) > 3 and not word.startswith("/usr/")


def _is_project(folder: Path) -> bool:
    return any((folder / name).is_file() for name in ("manage.py", "source/manage.py", "src/manage.py"))


def _is_broad(folder: Path) -> bool:
    """Whether a folder is more than a project's: of the system, or somebody's home."""
    homes = {Path(entry.pw_dir) for entry in pwd.getpwall()}
    system = ("/usr/", "/etc/", "/run/", "/proc/", "/var/lib/", "/var/cache/", "/var/log/")
    return len(folder.parts) <= 2 or folder in homes or str(folder).startswith(system) or folder == Path("/var/www")


def _lies_in(path: str, folders: Iterable[Path]) -> bool:
    return path.startswith("/") and any(Path(os.path.normpath(path)).is_relative_to(folder) for folder in folders)


# What keeps the old site alive


def processes() -> Iterator[Process]:
    """The processes of this host but this one; those that end meanwhile are left out."""
    for pid in django_host_proc.pids():
        words = django_host_proc.command_line(pid).decode(errors="replace").split("\0")
        try:
            uid, gid = django_host_proc.owner(pid)
            try:
                folder, sockets = django_host_proc.working_directory(pid), None
            except PermissionError:
                folder, sockets = _as_its_user(pid, uid)
        except OSError:
            continue
        argv = [word for word in words if word]
        if argv and pid != os.getpid():
            yield Process(pid, argv, folder, uid, gid, _unit_of(django_host_proc.control_groups(pid)), sockets)


def _as_its_user(pid: int, uid: int) -> tuple[str, frozenset[str]]:
    """The working directory and the sockets of a process, asked of its own user: in a container root may not look.

    That is CAP_SYS_PTRACE, which neither podman nor Docker gives.
    """
    if not uid:
        return "", frozenset()
    try:
        user = pwd.getpwuid(uid).pw_name
        folder, sockets = django_wall_delegate.ask(user, _look, pid, doing="looking at a process", timeout=5)
    except (KeyError, OSError, DeploymentError):
        return "", frozenset()
    return folder, frozenset(sockets)


def _look(pid: int) -> tuple[str, list[str]]:
    sockets = [link for link in django_host_proc.open_files(pid) if link.startswith("socket:")]
    return django_host_proc.working_directory(pid), sockets


def _unit_of(groups: str) -> str:
    """The unit in the control groups of a process; empty for what was started by hand, and without systemd.

    In a container the groups may be those of the machine around it, with its units.
    """
    for line in groups.splitlines() if django_host_service.has_systemd() else ():
        if ":name=systemd:" in line or line.startswith("0::"):
            units = re.findall(r"/([^/]+\.service)(?=/|$)", line)
            if units and not _SESSIONS.fullmatch(units[-1]):
                return str(units[-1])
    return ""


def _inodes(address: str) -> set[str]:
    """The inodes of the sockets that listen at an address."""
    if address.startswith("/"):
        return {str(found.inode) for found in django_host_unix.sockets(address) if found.is_listening}
    port = f":{int(address.rpartition(':')[2]):04X}"
    return {row[9] for name in ("tcp", "tcp6") for row in _rows(name) if row[1].endswith(port) and row[3] == "0A"}


def _rows(name: str) -> list[list[str]]:
    try:
        return [row.decode().split() for row in django_host_proc.network_table(name)]
    except FileNotFoundError:
        return []


def _holders(address: str, everybody: list[Process]) -> list[Process]:
    """The processes that listen at an address, but for systemd."""
    wanted = {f"socket:[{inode}]" for inode in _inodes(address)}
    return [process for process in everybody if wanted and process.pid != 1 and wanted & _open(process)]


def _unknown(address: str, everybody: list[Process], holders: list[Process]) -> str:
    """Why it cannot be known which process listens at an address; empty where it can, or none does."""
    closed = [process for process in everybody if not process.folder]
    if holders or not closed or not _inodes(address):
        return ""
    named = ", ".join(f"pid {process.pid} ({process})" for process in closed[:5])
    return (
        f"which process listens at {address} cannot be known: CAP_SYS_PTRACE is missing in this container, "
        f"without which root may not look into {named}: start the container with --cap-add=SYS_PTRACE, or stop it"
    )


def _open(process: Process) -> set[str] | frozenset[str]:
    return django_host_proc.open_files(process.pid) if process.sockets is None else process.sockets


def _units(adoption: Adoption, behind: list[Process]) -> None:
    """The units that lead into the old project's folders, keep its processes alive, or hold its socket."""
    keepers = {process.unit for process in behind}
    own = re.compile(r"django-.+-\d+\.(service|socket)")
    files = [path for path in sorted(SYSTEMD.glob("*.*")) if path.is_file() and not path.is_symlink()]
    texts = {path: _text(path) for path in files if not own.fullmatch(path.name)}
    for path, text in texts.items():
        listens = set(re.findall(r"^\s*ListenStream\s*=\s*(\S+)", text, re.MULTILINE))
        listens |= {f"127.0.0.1:{value.rpartition(':')[2]}" for value in listens if not value.startswith("/")}
        if path.suffix == ".socket" and listens & {*adoption.addresses}:
            keepers.add(f"{path.stem}.service")
    for path, text in texts.items():
        kept = path.name in keepers and not _is_emperor(text)
        if path.suffix == ".service" and (kept or _leads_into(text, adoption.folders)):
            pair = [path, *(other for other in texts if other.stem == path.stem and other != path)]
            adoption.units += pair
            adoption.found += [Found("unit", one.name, str(one)) for one in pair]
            if not _WEB.search(text):
                adoption.workers.append(path.name)
            home = re.search(r"^\s*WorkingDirectory\s*=\s*-?(/\S+)", text, re.MULTILINE)
            if home and not _is_broad(Path(home[1])) and Path(home[1]) not in adoption.folders:
                adoption.folders.append(Path(home[1]))


def _text(path: Path) -> str:
    """The text of a file of configuration; it may be a link to one in somebody's home."""
    return django_host_file.read_untrusted(path).decode(errors="replace")


def _is_emperor(text: str) -> bool:
    """Whether a unit runs uWSGI for whatever lies in a folder, as it says itself or in its configuration."""
    named = re.findall(r"/\S+\.(?:ini|xml|ya?ml|json)\b", text)
    return any("emperor" in one for one in (text, *map(_text, map(Path, named))))


def _leads_into(text: str, folders: list[Path]) -> bool:
    lines = re.sub(r"^\s*[#;].*$", "", text, flags=re.MULTILINE)
    return any(_lies_in(word, folders) for word in re.findall(r"(?<![\w.])/[^\s\"'=:,;]+", lines))


def _programs(adoption: Adoption) -> None:
    """The files of supervisor whose programs lead into the old project's folders."""
    for path in sorted(SUPERVISOR.glob("*.conf")):
        text = _text(path)
        sections = re.split(r"^(?=\[)", text, flags=re.MULTILINE)
        programs = [section for section in sections if section.startswith(("[program:", "[fcgi-program:"))]
        inside = [section for section in programs if _leads_into(section, adoption.folders)]
        if inside and not re.fullmatch(r"django-.+-\d+\.conf", path.name):
            adoption.programs.append(path)
            adoption.names += [_program(section) for section in inside]
            names = ", ".join(_program(section) for section in inside)
            adoption.found.append(Found("supervisor program", names, str(path)))
            adoption.workers += [_program(section) for section in inside if not _WEB.search(section)]
            if len(inside) != len(programs):
                others = ", ".join(_program(section) for section in programs if section not in inside)
                adoption.refused.append(f"{path} also runs {others}: move that to another file")


def _apps(adoption: Adoption, behind: list[Process]) -> None:
    """The files for which an emperor of uWSGI, or Debian's uwsgi, runs the old project's instance.

    They lead into its folders; or its process is told their name, which no other has.
    """
    files = [path for folder in UWSGI for path in sorted(folder.glob("*/*")) if path.is_file()]
    named = {os.path.basename(word) for process in behind if process.is_uwsgi() for word in process.argv[1:]}
    for path in files:
        is_named = path.name in named and len({one.resolve() for one in files if one.name == path.name}) == 1
        if is_named or _leads_into(_text(path), adoption.folders):
            adoption.apps.append(path)
            adoption.found.append(Found("uWSGI file", str(path)))


def _is_app(process: Process, folders: list[Path], apps: Iterable[Path]) -> bool:
    """Whether uWSGI runs a process for one of these files; the emperor itself, which may hold its socket, is none."""
    names = {path.name for path in apps}
    is_told = any(os.path.basename(word) in names for word in process.argv[1:])
    return bool(names) and process.is_uwsgi() and (is_told or process.lies_in(folders))


def _crontabs(adoption: Adoption) -> None:
    """The lines of crontabs that lead into the old project's folders."""
    for path in [path for folder in CRONTABS if folder.is_dir() for path in sorted(folder.iterdir())]:
        if path.is_file() and _leads_into(_text(path), adoption.folders):
            adoption.found.append(Found("crontab", str(path)))
            adoption.refused.append(f"{path} has lines that lead into the old site: take them out first")


def _program(section: str) -> str:
    return section.partition("]")[0].partition(":")[2].strip()


def _processes(adoption: Adoption, everybody: list[Process], behind: list[Process]) -> list[Process]:
    """The processes of the old site; each has to be kept alive by what was found, or by nobody."""
    mine = [
        process
        for process in everybody
        if process in behind or (process.is_application() and process.lies_in(adoption.folders))
    ]
    for address, names in adoption.neighbours.items():
        if address not in adoption.addresses and any(process in mine for process in _holders(address, everybody)):
            adoption.refused.append(
                f"what answers for {', '.join(names)} at {address} runs in the same folders, and would be stopped too: "
                "give it others, or choose another root"
            )
    units = {path.name for path in adoption.units}
    for process in mine:
        adoption.found.append(Found("process", str(process.pid), str(process)))
        if process.is_at_work():
            adoption.refused.append(f"process {process.pid} ({process}) is at work: wait until it has ended")
        elif not process.unit and not _WEB.search(" ".join(process.argv)) and process not in behind:
            adoption.workers.append(f"process {process.pid} ({process})")
        by_supervisor = process.unit == "supervisor.service" and adoption.programs
        by_uwsgi = _is_app(process, adoption.folders, adoption.apps)
        if process.unit and process.unit not in units and not (by_supervisor or by_uwsgi):
            adoption.refused.append(
                f"process {process.pid} is kept alive by {process.unit}, which is not this site's alone: "
                "take it out of there by hand"
            )
    return mine


def loose(folders: list[Path], addresses: Iterable[str] = (), apps: Sequence[Path] = ()) -> list[Process]:
    """The processes of an old site that nothing keeps alive: started by hand, in screen, tmux or the background.

    Args:
        apps: the files that are taken from uWSGI: what it runs for them is kept alive by nothing either.
    """
    alone = [one for one in processes() if not one.unit or _is_app(one, folders, apps)]
    everybody = [process for process in alone if not process.is_at_work()]
    behind = [process for address in addresses for process in _holders(address, everybody)]
    return [one for one in everybody if one in behind or (one.is_application() and one.lies_in(folders))]


def _wanted_ports(site: Site) -> list[str]:
    """The addresses that the site needs for itself: of its own server, and of its proxy."""
    bind = site.config["server"]["bind"]
    host, _colon, port = bind.rpartition(":")
    own = [] if bind == "unix" else [f"{host}:{int(port) + turn}" for turn in (0, 1)]
    return [*own, *(f"0.0.0.0:{django_host_port.split(listen)[1]}" for listen in site.config["proxy"]["listen"])]


def _ports(site: Site, adoption: Adoption, holders: dict[str, list[Process]], mine: list[Process]) -> None:
    """The ports that the site needs and an application has; another web server's are not of this page."""
    for address, held in holders.items():
        for process in held:
            if process in mine or process.is_application():
                port = address.rpartition(":")[2]
                adoption.found.append(Found("port", port, f"process {process.pid}, {process}"))
                way = "choose another server:bind" if not address.startswith("0.0.0.0:") else "have it listen elsewhere"
                adoption.refused.append(f"port {port} is needed while process {process.pid} still has it: {way}")


# Data


def _databases(site: Site, adoption: Adoption) -> None:
    """The SQLite files of the old site, and where the new one has each."""
    given = site.config["databases"]
    default = given.get("default", {"engine": None, "name": None})
    if default["engine"] in SERVERS or not (site.config["overlay"] or default["engine"]):
        return  # it is on a server, or the project alone knows where it is
    names = [database["name"] or "" for database in given.values() if database["engine"] == "sqlite"]
    kept = [Path(name) for name in names if name.startswith("/")]
    for path in _candidates(site, adoption, kept):
        stays = path in kept or _lies_in(str(path), [site.database.top])
        adoption.databases[path] = path if stays else site.database.top / path.name
    if len(adoption.databases) == 1 and default["name"] and not kept:
        path = next(iter(adoption.databases))
        stays = _lies_in(str(path), [site.database.top])
        adoption.databases[path] = path if stays else site.database.top / default["name"]
    olds_of: dict[Path, list[Path]] = {}
    for path, new in adoption.databases.items():
        olds_of.setdefault(new, []).append(path)
    for olds in olds_of.values():
        if len(olds) > 1:
            adoption.refused.append(
                f"{' and '.join(map(str, olds))} may each be the database: move away what is not, "
                "or let it stay where it is: "
                f"{django_database.pillar_key(site, 'default')}: {{engine: sqlite, name: {olds[0]}}}"
            )
    adoption.found += [Found("database", str(path)) for path in adoption.databases]


def _candidates(site: Site, adoption: Adoption, kept: list[Path]) -> list[Path]:
    """The SQLite files that the pillar or the old settings name, or that lie in the old project's folders."""
    files = list(kept)
    for top in _tops(adoption):
        inner = (".", "database", "db", "data", *_INNER)
        files += [path for name in inner for path in sorted((top / name).glob("*"))]
        files += _named_in_settings(top)
    told = {found.path for found in adoption.found}
    ours = [folder for folder in (site.database.top, site.media.top) if str(folder) not in told]
    paths = dict.fromkeys(Path(os.path.normpath(file)) for file in files)
    return [path for path in paths if not _lies_in(str(path), ours) and _is_database(path)]


def _tops(adoption: Adoption) -> list[Path]:
    """The folders of the old project, and those above where one is but its source."""
    above = [folder.parent for folder in adoption.folders if folder.name in _INNER and not _is_broad(folder.parent)]
    return list(dict.fromkeys([*adoption.folders, *above]))


def _named_in_settings(folder: Path) -> list[Path]:
    """The SQLite files that the settings of a project name by an absolute path."""
    read = (django_host_file.read_untrusted(path, follow=False) for path in _settings_files(folder))
    texts = (text.decode(errors="replace") for text in read)
    return [Path(name) for text in texts for name in re.findall(r"[\"'](/[^\"'\n]+\.(?:sqlite3?|db))[\"']", text)]


def _settings_files(folder: Path) -> list[Path]:
    patterns = [f"{inner}/*/{name}" for inner in (".", *_INNER) for name in ("settings*.py", "settings/*.py")]
    return list(itertools.islice((path for pattern in patterns for path in folder.glob(pattern)), 50))


def _is_database(path: Path) -> bool:
    """Whether a file is a SQLite database that Django has migrated."""
    if not path.name.endswith((".sqlite3", ".sqlite", ".db")) or path.is_symlink() or not path.is_file():
        return False
    beginning = django_host_file.read_untrusted(path, follow=False)
    return beginning.startswith(b"SQLite format 3\0") and b"django_migrations" in beginning


def _media(site: Site, adoption: Adoption, servers: list[Server]) -> None:
    """The folders of uploads: as they are served, in the site's root, beside the project."""
    served = [
        folder
        for server in servers
        for location, folder in server.folders.items()
        if re.search("media|upload", f"{location} {folder.name}") and not _holds_a_project(folder, adoption)
    ]
    around = [top / inner / "media" for top in _tops(adoption) for inner in (".", *_INNER)]
    told = {found.path for found in adoption.found}
    folders = [path for path in (*served, *around) if path != site.media.top or str(path) in told]
    present = [path for path in dict.fromkeys(folders) if path.is_dir() and not (path.is_symlink() or _is_empty(path))]
    adoption.media = present
    adoption.found += [Found("uploads", str(path)) for path in present if str(path) not in told]


def _holds_a_project(folder: Path, adoption: Adoption) -> bool:
    return _is_project(folder) or any(one.is_relative_to(folder) for one in adoption.folders)


def _owner(adoption: Adoption, mine: list[Process]) -> None:
    """Whose the old site is: of its processes, workers rather than a master that root has started."""
    with contextlib.suppress(KeyError):  # a user whom the host has not; then no process of his runs either
        entry = pwd.getpwnam(adoption.wsgi_user)
        adoption.owner = (entry.pw_uid, entry.pw_gid)
    owners = {status.st_uid for path in (*adoption.databases, *adoption.folders) if (status := _status(path))}
    for process in sorted(mine, key=lambda process: (process.user == 0, process.user not in owners)):
        adoption.owner = adoption.owner or (process.user, process.group)
    for path in adoption.databases:
        status = _status(path)
        adoption.owner = adoption.owner or (status and (status.st_uid, status.st_gid))


def _status(path: Path) -> os.stat_result | None:
    try:
        return os.lstat(path)
    except OSError:
        return None
