"""Requests that wait while a site's server is stopped: the relay of a site as files, and its way, closed and opened.

nginx has the relay as the `backup` server of a site: it gets what the site's own socket refuses, and all of it while
the link `socket` of the active release leads to it. Sites without `releases:wait` have none of it. See
docs/decisions/0167.
"""

import contextlib
import fcntl
import os
import threading
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

from django_formula.host import archive, clock, commands, config_files, daemons, file, unix_sockets
from django_formula.host.commands import DeploymentError
from django_formula.host.config_files import Files
from django_formula.proxy import lease, maintenance, proxies, relay
from django_formula.release import instances, releases
from django_formula.release.releases import Release
from django_formula.site import sites
from django_formula.site.behind_socket import WALLS, Behind
from django_formula.site.sites import Site

MODULE = "django_formula.proxy.relay"
RELAY = Behind(
    *("wait-relay", "wait", "releases:wait"),
    program=Path("/usr/local/lib/django-formula/relay.pyz"),
    folder=Path("/run/django-wait"),
)
_PROGRAMS = Path("/etc/supervisor/conf.d")
#: Seconds that a closed way lasts without its process, and after which that renews it.
_LEASE, _RENEWED = 10.0, 2.5
#: The names of this host for what connects to it.
_LOCAL = ("localhost", "127.0.0.1", "::1")
_SHAPE = {"until": float, "since": str, "by": str}
#: How no name begins of what closes a way.
_NOTHING = "\0"
_SOCKET = """\
[Unit]
Description=Requests that wait for the Django site {site}

[Socket]
ListenStream={socket}
SocketUser=root
SocketGroup={proxy}
SocketMode=0660
DirectoryMode=0755
Backlog=4096
# Else as many requests as come in a moment would end the socket.
TriggerLimitIntervalSec=0

[Install]
WantedBy=sockets.target
"""
_SERVICE = """\
# {version}
[Unit]
Description=Requests that wait for the Django site {site}
Requires=django-{site}-wait-relay.socket
After=django-{site}-wait-relay.socket
StartLimitIntervalSec=0

[Service]
ExecStart={command}
Restart=on-failure
User={user}
SupplementaryGroups={proxy}
LimitNOFILE=65536
ProtectHome=read-only
{walls}"""
_SUPERVISED = """\
# {version}
[program:django-{site}-wait-relay]
command={command}
directory=/
autostart=true
autorestart=true
startsecs=0
redirect_stderr=true
stdout_logfile=/var/log/supervisor/django-{site}-wait-relay.log
stdout_logfile_maxbytes=1MB
stdout_logfile_backups=0
"""


def is_wanted(site: Site) -> bool:
    """Return whether requests for a site wait."""
    return site.longest_wait > 0


def socket(site: Site) -> Path:
    """Return the socket of a site's relay."""
    return RELAY.socket(site)


def pages(site: Site) -> dict[Path, str]:
    """Return the page that a request gets which has waited for too long, by its path; none without `releases:wait`."""
    return {_page(site): maintenance.page(site)} if is_wanted(site) else {}


def _page(site: Site) -> Path:
    return site.errors / "wait.html"


# The relay on the host


def pending(site: Site) -> dict[str, str]:
    """Return what `apply` would change: path → in what way."""
    changes = {"way": "opened"} if _is_left_closed(site) else {}
    if not is_wanted(site):
        return changes | RELAY.gone(site, _more(site), _supervised())
    return changes | config_files.differences(_files(site)) | RELAY.lacks(site)


def apply(site: Site) -> None:
    """Have the relay of a site as configured, or not any more, and its way open.

    Raises:
        DeploymentError: its user is another one's, or the process manager refuses it.
    """
    changes = pending(site)
    if changes.pop("way", ""):
        open_left(site)
    if not is_wanted(site):
        remove(site)
    elif changes:
        RELAY.make_user(site)
        files = _files(site)
        RELAY.program.parent.mkdir(parents=True, exist_ok=True)
        archive.install(MODULE, RELAY.program)
        _start_anew(site, files)


def _start_anew(site: Site, files: Files) -> None:
    if not daemons.has_systemd():
        for path, text in files.items():
            file.write(path, text or "")
        if daemons.pid(daemons.SUPERVISOR) is None:
            daemons.start(daemons.SUPERVISOR)
        _supervisorctl("update", _name(site), doing=f"starting {_name(site)}")
        return
    RELAY.start_anew(site, files)


def present(site: Site) -> list[Path]:
    """Return what the site has of it."""
    return RELAY.present(site, _more(site), _supervised())


def remove(site: Site) -> None:
    """Remove the relay and its user, and with the last one of the host the program.

    Raises:
        DeploymentError: the process manager does not stop it.
    """
    paths = present(site)
    if _program(site).exists():
        _program(site).unlink()
        if daemons.pid(daemons.SUPERVISOR) is not None:
            _supervisorctl("update", _name(site), doing=f"ending {_name(site)}")
    RELAY.remove(site, paths)


def _supervisorctl(*arguments: str, doing: str) -> None:
    commands.run(["supervisorctl", *arguments], doing=doing, timeout=60)


def _name(site: Site) -> str:
    return RELAY.name(site)


def _program(site: Site) -> Path:
    return _PROGRAMS / f"{_name(site)}.conf"


def _record(site: Site) -> Path:
    return RELAY.folder / f"{site.name}.json"


def _lock_file(site: Site) -> Path:
    return RELAY.folder / f".{site.name}.lock"


def _more(site: Site) -> list[Path]:
    return [_program(site), _record(site), _lock_file(site)]


def _supervised() -> list[Path]:
    """Return the files of all relays that supervisor has."""
    return [*_PROGRAMS.glob("django-*-wait-relay.conf")]


def _files(site: Site) -> Files:
    argv = ["/usr/bin/python3", "-I", RELAY.program, socket(site), site.current, site.longest_wait]
    values = {
        "site": site.name,
        "socket": socket(site),
        "proxy": site.proxy_group,
        "version": archive.version(MODULE),
        "command": " ".join(map(str, [*argv, _page(site), RELAY.user(site), site.proxy_group])).replace("%", "%%"),
        "user": RELAY.user(site),
        "walls": WALLS,
    }
    if not daemons.has_systemd():
        return {_program(site): f"{config_files.OURS}\n{_SUPERVISED.format(**values)}"}
    texts = zip(RELAY.units(site), (_SOCKET, _SERVICE), strict=True)
    return {path: f"{config_files.OURS}\n{text.format(**values)}" for path, text in texts}


# The way to a site


def works(site: Site, live: Release) -> bool:
    """Return whether requests for a site would wait now: whether nginx has its relay, and reaches the release by it."""
    if not is_wanted(site) or not instances.serves(live.path) or instances.kind(live.path)[0] != "unix":
        return False
    proxy = proxies.serving(site)
    return proxy is not None and f"unix:{socket(site)} " in (file.read_text(proxy.main_file(site)) or "")


def closed(site: Site) -> dict[str, Any] | None:
    """Return since when the way to a site is closed, until when, and by whom; None where it is open."""
    record = file.read_json(_record(site), _SHAPE)
    return record if record and record["until"] > time.monotonic() else None


def is_recorded(site: Site) -> bool:
    """Return whether the way to a site was closed and nothing has opened it, or removed the site, since."""
    return _record(site).exists()


def status(site: Site) -> dict[str, str]:
    """Return since when requests for a site are held, and how many wait; nothing where none does."""
    if not is_wanted(site):
        return {}
    found, count = closed(site), unix_sockets.connections(str(socket(site)))
    return {
        **({"hold": f"since {found['since']}, by {found['by']}"} if found else {}),
        **({"waiting": f"{count} requests"} if count else {}),
    }


def _is_left_closed(site: Site) -> bool:
    with contextlib.suppress(OSError):
        return os.readlink(site.current / "socket") == str(socket(site)) and closed(site) is None
    return False


def refuse_impossible(site: Site, live: Release) -> None:
    """Refuse to have requests for a site wait that would get errors.

    Raises:
        DeploymentError: they would.
    """
    if not is_wanted(site):
        hint = f"set {site.at}:releases:wait: 20s, and apply (docs/guides/waiting.md)"
        raise DeploymentError(f"requests for {site.name} do not wait: its pillar has no releases:wait", hint=hint)
    if not works(site, live):
        raise DeploymentError(
            f"nginx does not know yet that requests for {site.name} wait", hint="apply, and try again"
        )


def close_way(site: Site, release: Path, by: str, until: float) -> None:
    """Have requests for a site wait from now on; those that its server has got, it answers.

    Args:
        release: the folder of the active release.
        until: when they do not any more, without `open_way`, by the monotonic clock.
    """
    with _moving(site):
        _write(site, by, clock.now(), until)
        link, own = release / "socket", str(socket(site))
        target = os.readlink(link)
        if target != own:
            file.link(release / relay.HELD, target, durable=False)
            file.link(link, own, durable=False)
    lease.end(site)  # visitors of another release wait too


def _write(site: Site, by: str, since: str, until: float) -> None:
    record = {"until": until, "since": since, "by": by}
    file.write_json(_record(site), record, durable=False)


def open_way(site: Site, *, of: str = "") -> None:
    """Have requests reach the site, those that wait first; nothing happens where they do.

    Args:
        of: how the name begins of what has closed the way: if something else has closed it since, it stays closed.
    """
    with _moving(site):
        found = closed(site)
        if not found or found["by"].startswith(of):
            _open(site)


def open_left(site: Site) -> None:
    """Have requests reach the site where the time is over for which its way was closed."""
    open_way(site, of=_NOTHING)


def _open(site: Site) -> None:
    _record(site).unlink(missing_ok=True)
    for release in site.releases.iterdir():
        held = release / relay.HELD
        if held.is_symlink():  # whose target is missing while the server is stopped
            file.link(release / "socket", os.readlink(held), durable=False)
            held.unlink()


@contextlib.contextmanager
def _moving(site: Site) -> Iterator[None]:
    """Let no other process close or open the way within a block; nothing is written, which a full disk would refuse."""
    RELAY.folder.mkdir(mode=0o755, exist_ok=True)
    descriptor = os.open(_lock_file(site), os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW, 0o600)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX)
        yield
    finally:
        fcntl.flock(descriptor, fcntl.LOCK_UN)  # a process that was forked meanwhile has the open file, too
        os.close(descriptor)


class Hold:
    """A way that is closed for as long as this process wants, and lives."""

    def __init__(self, site: Site, live: Release, by: str):
        self.site, self._by, self._since = site, by, clock.now()
        self._ended = threading.Event()
        close_way(site, live.path, by, time.monotonic() + _LEASE)
        self._renewal = threading.Thread(target=self._renew, daemon=True)
        self._renewal.start()

    def _renew(self) -> None:
        while not self._ended.wait(_RENEWED):
            with _moving(self.site):
                if (closed(self.site) or {"by": self._by})["by"] == self._by:  # else something has closed it since
                    _write(self.site, self._by, self._since, time.monotonic() + _LEASE)

    def end(self) -> None:
        """Open the way; nothing happens the second time."""
        if not self._ended.is_set():
            self._ended.set()
            self._renewal.join()
            open_way(self.site, of=self._by)


def begin(site: Site, live: Release, by: str) -> Hold | None:
    """Have requests for a site wait, once its server has answered those that it has; None where they would not."""
    if not works(site, live):
        return None
    hold = Hold(site, live, by)
    _drain([(site, live)])
    return hold


def _drain(closed: Sequence[tuple[Site, Release]]) -> None:
    """Wait until servers have answered what they have, all at the same time, for half of the time that requests wait.

    The rest is for what follows: one request that does not end, such as a stream, must not cost all others theirs.
    """
    if closed:
        most = min(site.longest_wait for site, _live in closed) / 2
        with ThreadPoolExecutor(len(closed)) as pool:
            list(pool.map(lambda one: instances.drain(one[0], one[1].path, most), closed))


@contextlib.contextmanager
def around_restart(engine: str) -> Iterator[None]:
    """Have requests wait within a block for all sites that have databases of an engine on this host."""
    chosen = [(site, live) for site, live in _with_databases(engine) if works(site, live)]
    with contextlib.ExitStack() as stack:
        for site, live in chosen:
            stack.callback(Hold(site, live, f"the restart of {engine}").end)
        _drain(chosen)
        yield


def _with_databases(engine: str) -> Iterator[tuple[Site, Release]]:
    for name in sites.registered():
        with contextlib.suppress(DeploymentError):  # a file of the site is damaged
            site = sites.find(name)
            live = releases.linked(site, site.current)
            hosts = [one["host"] or "" for one in site.config["databases"].values() if one["engine"] == engine]
            if live and any(not host or host.startswith("/") or host in _LOCAL for host in hosts):
                yield site, live
