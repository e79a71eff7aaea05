"""The processes of a host as detection sees them: whose they are, what they run, where they listen."""

import os
import pwd
import re
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

from django_formula.host import daemons, proc, unix_sockets
from django_formula.host.commands import DeploymentError
from django_formula.server import servers
from django_formula.takeover import existing
from django_formula.untrusted import delegate

_SERVERS = servers.programs()
_WORKERS = r"celery|rq|rqworker|dramatiq|huey|qcluster"
_APPLICATION = re.compile(rf"({_SERVERS}|{_WORKERS})(:|$)|manage\.py$")
#: Commands of manage.py that run until they are stopped.
_LASTING = re.compile(rf"runserver.*|{_WORKERS}|runworker|run_huey|rundramatiq|process_tasks|rqscheduler")
_WEB = re.compile(rf"\b({_SERVERS}|runserver)\b")
#: What Docker and podman have listen on the ports of their containers.
_OF_CONTAINERS = re.compile(r"docker-proxy|conmon|rootlessport(-child)?|slirp4netns|pasta(\.avx2)?|podman")
#: Units of sessions, which do not restart what is started in them.
_SESSIONS = re.compile(r"(ssh|sshd|cron|user@\d+)\.service")


class Process(NamedTuple):
    """A process of the host.

    Attributes:
        folder: working directory; empty if neither root nor the process's user may read it.
        user: uid of its owner.
        group: gid of its owner.
        unit: unit of systemd that it belongs to; empty for one that was started in a session.
        sockets: links of its open sockets, if its own user was needed to read them; None if root may.
        is_here: whether its paths are those of this host: one in a container has others of the same names.
    """

    pid: int
    argv: list[str]
    folder: str
    user: int
    group: int
    unit: str
    sockets: frozenset[str] | None = None
    is_here: bool = True

    def __str__(self) -> str:
        """Return its program and the command of a manage.py; further arguments may be secrets."""
        words = self.argv[1:] if self.is_python() else []
        program, *rest = words if words and not words[0].startswith("-") else self.argv
        is_manage = program.endswith("manage.py")
        shown = " ".join([program, *rest[:1]]) if is_manage else program.partition(" ")[0]
        return "".join(filter(str.isprintable, shown))[:200]

    def is_application(self) -> bool:
        """Return whether it serves or works for a Django project; a shell, editor or screen in its folder does not."""
        words = self.argv[1:6] if self.is_python() else self.argv[:1]
        return any(_APPLICATION.match(os.path.basename(word)) for word in words)

    def is_python(self) -> bool:
        """Return whether it runs a program in Python."""
        return bool(re.match(r"python|pypy", os.path.basename(self.argv[0])))

    def is_uwsgi(self) -> bool:
        """Return whether it is uWSGI, which by default reloads on SIGTERM."""
        return bool(re.match(r"uwsgi(?![a-z])", os.path.basename(self.argv[0]), re.IGNORECASE))

    def is_of_container(self) -> bool:
        """Return whether it holds a port of this host for a container."""
        return bool(_OF_CONTAINERS.fullmatch(os.path.basename(self.argv[0])))

    def is_finite(self) -> bool:
        """Return whether it is a management command that ends on its own, such as an import."""
        words = [os.path.basename(word) for word in self.argv[:6]]
        command = words[words.index("manage.py") + 1 :][:1] if "manage.py" in words else []
        return bool(command) and not _LASTING.fullmatch(command[0])

    def serves_pages(self) -> bool:
        """Return whether its arguments name an application server."""
        return serves_pages(" ".join(self.argv))

    def is_below(self, folders: Iterable[Path]) -> bool:
        """Return whether its working directory or one of its arguments is below one of these folders."""
        return self.is_here and any(existing.is_below(path, folders) for path in (self.folder, *self.argv))


def serves_pages(text: str) -> bool:
    """Return whether a command line or a configuration names an application server."""
    return bool(_WEB.search(text))


def server(text: str) -> str:
    """Return the application server that a command line or a configuration names, as the pillar has it, or empty."""
    found = _WEB.search(text)
    return re.split("-(?:core|serve|express)", found[1])[0] if found else ""


def processes() -> Iterator[Process]:
    """Yield the processes of this host without this one; those that end meanwhile are left out."""
    for pid in proc.pids():
        words = proc.command_line(pid).decode(errors="replace").split("\0")
        try:
            uid, gid = proc.owner(pid)
            try:
                folder, sockets = proc.working_directory(pid), None
            except PermissionError:
                folder, sockets = _read_as_user(pid, uid)
        except OSError:
            continue
        argv = [word for word in words if word]
        if argv and pid != os.getpid():
            unit = _unit(proc.control_groups(pid))
            yield Process(pid, argv, folder, uid, gid, unit, sockets, _is_here(pid, folder))


def _is_here(pid: int, folder: str) -> bool:
    """Return whether the working directory of a process is the one of its name here; also where it is not known."""
    try:
        return os.path.samestat(os.stat(proc.PROC / str(pid) / "root" / folder.lstrip("/")), os.stat(folder))
    except OSError:
        return True


def _read_as_user(pid: int, uid: int) -> tuple[str, frozenset[str]]:
    """Return the working directory and the sockets of a process, read as its own user.

    Without CAP_SYS_PTRACE, which neither podman nor Docker gives a container, root may not read them.
    """
    if not uid:
        return "", frozenset()
    try:
        user = pwd.getpwuid(uid).pw_name
        folder, sockets = delegate.ask(user, _read, pid, doing="looking at a process", timeout=5)
    except (KeyError, OSError, DeploymentError):
        return "", frozenset()
    return folder, frozenset(sockets)


def _read(pid: int) -> tuple[str, list[str]]:
    sockets = [link for link in proc.open_files(pid) if link.startswith("socket:")]
    return proc.working_directory(pid), sockets


def _unit(groups: str) -> str:
    """Return the unit in the control groups of a process; empty in a session, and without systemd.

    In a container without systemd the groups may be those of the machine around it, with units of that machine.
    """
    for line in groups.splitlines() if daemons.has_systemd() else ():
        if ":name=systemd:" in line or line.startswith("0::"):
            units = re.findall(r"/([^/]+\.service)(?=/|$)", line)
            if units and not _SESSIONS.fullmatch(units[-1]):
                return str(units[-1])
    return ""


def has_listener(address: str) -> bool:
    """Return whether a process listens on an address: the path of a socket, or ``host:port``."""
    return bool(_inodes(address))


def listeners(address: str, among: Iterable[Process]) -> list[Process]:
    """Return the processes that listen on an address, without systemd."""
    sockets = {f"socket:[{inode}]" for inode in _inodes(address)}
    return [process for process in among if sockets and process.pid != 1 and sockets & _open_files(process)]


def _inodes(address: str) -> set[str]:
    if address.startswith("/"):
        return {str(found.inode) for found in unix_sockets.sockets(address) if found.is_listening}
    port = f":{int(address.rpartition(':')[2]):04X}"
    return {row[9] for name in ("tcp", "tcp6") for row in _rows(name) if row[1].endswith(port) and row[3] == "0A"}


def _rows(name: str) -> list[list[str]]:
    try:
        return [row.decode().split() for row in proc.network_table(name)]
    except FileNotFoundError:
        return []


def _open_files(process: Process) -> set[str] | frozenset[str]:
    return proc.open_files(process.pid) if process.sockets is None else process.sockets


def unknown_listener(address: str, among: Iterable[Process], found: Sequence[Process]) -> str:
    """Return why the process that listens on an address cannot be identified; empty if it can, or if there is none.

    Args:
        found: the listeners that were identified.
    """
    unreadable = [process for process in among if not process.folder]
    if found or not unreadable or not has_listener(address):
        return ""
    named = ", ".join(f"pid {process.pid} ({process})" for process in unreadable[:5])
    return (
        f"the process that listens on {address} cannot be identified: CAP_SYS_PTRACE is missing in this container, "
        f"and root may not read {named}: start the container with --cap-add=SYS_PTRACE, or stop that process"
    )


def is_uwsgi_instance(process: Process, folders: Iterable[Path], files: Iterable[Path]) -> bool:
    """Return whether uWSGI runs a process for one of these files; the emperor that may hold its socket is none."""
    names = {path.name for path in files}
    is_named = any(os.path.basename(word) in names for word in process.argv[1:])
    return bool(names) and process.is_uwsgi() and (is_named or process.is_below(folders))


def unmanaged(folders: list[Path], addresses: Iterable[str] = (), uwsgi_files: Sequence[Path] = ()) -> list[Process]:
    """Return the processes of an existing deployment that nothing restarts: started in a session or the background.

    Args:
        uwsgi_files: files that were taken away from uWSGI, which therefore does not restart their instances either.
    """
    free = [one for one in processes() if not one.unit or is_uwsgi_instance(one, folders, uwsgi_files)]
    candidates = [process for process in free if not process.is_finite()]
    listening = [process for address in addresses for process in listeners(address, candidates)]
    return [one for one in candidates if one in listening or (one.is_application() and one.is_below(folders))]
