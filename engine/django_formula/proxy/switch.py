"""Switch the proxies of this host to other files or certificates, or leave everything as it was."""

import contextlib
import re
from collections.abc import Callable, Collection, Iterator, Mapping
from pathlib import Path

from django_formula.host import config_files, daemons, file, ports
from django_formula.host import folders as host_folders
from django_formula.host.commands import DeploymentError
from django_formula.host.config_files import Files
from django_formula.host.folders import Folder
from django_formula.host.locks import Lock
from django_formula.proxy import proxies as proxy_proxies
from django_formula.proxy.contract import Proxy
from django_formula.site import sites
from django_formula.site import unread as site_unread
from django_formula.tls import certificates

#: How long to wait for another site's switch.
PATIENCE = "60s"
#: The lock file, while this process holds the lock.
_held: list[Path] = []


@contextlib.contextmanager
def alone() -> Iterator[None]:
    """Hold the lock of this host's proxies: switches of several sites, in several processes, wait for each other.

    A process that holds it may enter again.

    Raises:
        DeploymentError: another process holds the lock for longer than `PATIENCE`.
    """
    if _held:
        yield
        return
    sites.make_runtime()
    switch = Lock(
        sites.RUNTIME / "flip.lock",
        "switch",
        busy="the switch of another site of this host",
        timeout=PATIENCE,
        hint="wait for it, or end that process, which releases the lock",
        interval=0.02,
    )
    with switch.held():
        _held.append(switch.path)
        try:
            yield
        finally:
            _held.clear()


def noted(proxies: Collection[Proxy], *, restores: bool = True) -> contextlib.AbstractContextManager[None]:
    """Note that these proxies have not read what is changed in a block, as `site.unread.noted` does.

    The lock of this host's proxies is held.
    """
    return site_unread.noted([*map(_note, proxies)], restores=restores)


def _note(proxy: Proxy) -> str:
    return f"proxy-{proxy.DAEMON.service}"


def _is_unread(proxy: Proxy) -> bool:
    return site_unread.is_unread(_note(proxy))


def unread() -> list[Proxy]:
    """Return the proxies that have not read what a process has changed which was killed then.

    Raises:
        DeploymentError: another process holds the lock of this host's proxies for too long.
    """
    proxies = proxy_proxies.PROXIES.values()
    if not any(map(_is_unread, proxies)):
        return []
    with alone():  # a switch that is under way has its note too
        return [*filter(_is_unread, proxies)]


def catch_up() -> list[str]:
    """Have proxies read what they have not read because a process was killed.

    Returns:
        For each that refuses it, why: it keeps its running configuration.
    """
    problems: list[str] = []
    if not unread():
        return problems
    with alone():
        for proxy in unread():
            try:
                with noted([proxy]):
                    if daemons.pid(proxy.DAEMON):
                        proxy.check()
                        daemons.reload(proxy.DAEMON)
            except DeploymentError as error:
                problems.append(f"what a killed process has changed is not in use yet: {error.message}")
    return problems


def apply(files: Files, accept: Callable[[], object] = lambda: None) -> None:
    """Install files and reload the proxies that have them; on failure everything is as it was before.

    A proxy that has nothing to serve any more is stopped before another one takes its ports.

    Args:
        files: what is installed.
        accept: is called before a proxy reads them; it raises DeploymentError where they are not to be used.

    Raises:
        DeploymentError: a proxy refuses the files of this site or of another one; the message has file and line. Or
            it keeps its old configuration after a reload.
    """
    with alone():
        _apply(files, accept)


def _apply(files: Files, accept: Callable[[], object]) -> None:
    before = {path: config_files.read(path) for path in files}
    proxies = proxy_proxies.PROXIES.values()
    coming = [proxy for proxy in proxies if any(text is not None for text in _of(proxy, files).values())]
    leaving = [
        proxy
        for proxy in proxies
        if proxy not in coming and any(before[path] is not None for path in _of(proxy, files))
    ]
    with noted([*leaving, *coming]):
        _install(files, before, leaving, coming, accept)


def _install(
    files: Files,
    before: Files,
    leaving: Collection[Proxy],
    coming: Collection[Proxy],
    accept: Callable[[], object],
) -> None:
    folders = [proxy.etc / "django" for proxy in proxy_proxies.PROXIES.values()]
    try:
        config_files.install(files, folders)
        for proxy in [*leaving, *coming]:
            if proxy in coming or not coming or daemons.pid(proxy.DAEMON):
                proxy.check()
        accept()
    except BaseException:
        config_files.install(before, folders)
        raise
    moving = [proxy for proxy in coming if moves(proxy, files, before)]
    try:
        _switch(leaving, coming, moving)
    except BaseException:
        config_files.install(before, folders)
        with contextlib.suppress(DeploymentError):  # a proxy may have read the new files before another one failed
            _switch(coming if leaving else [], leaving or coming, moving)
        raise


def _of(proxy: Proxy, files: Files) -> Files:
    """Return the files of one proxy."""
    return {path: text for path, text in files.items() if path.is_relative_to(proxy.etc)}


def moves(proxy: Proxy, files: Files, before: Files | None = None) -> bool:
    """Return whether files change where a proxy listens, and a single address is among the places before or after.

    Args:
        proxy: the proxy.
        files: the new files.
        before: the files before; without it, as they are now.
    """
    paths = _of(proxy, files)
    old = before if before is not None else {path: config_files.read(path) for path in paths}
    places = {place for path in paths for place in proxy.listens(old[path] or "") ^ proxy.listens(files[path] or "")}
    return any(re.search(r"\d\.|\[.*[0-9a-f].*\]", place) for place in places)


def _switch(leaving: Collection[Proxy], coming: Collection[Proxy], moving: Collection[Proxy]) -> None:
    """Have proxies read their files: first those that lose servers.

    Args:
        leaving: proxies that lose servers, and get none.
        coming: proxies that get servers.
        moving: of ``coming``, those that may have to close a socket on all addresses before they open one on a single
            address of the port, or the other way round, which a reload cannot do.
    """
    for proxy in leaving:
        if coming and proxy.is_idle():
            daemons.stop(proxy.DAEMON)
        elif not coming or daemons.pid(proxy.DAEMON):
            daemons.reload(proxy.DAEMON)
    for proxy in coming:
        if proxy in moving and _has_conflicting_sockets(proxy):
            daemons.restart(proxy.DAEMON)
        else:
            daemons.reload(proxy.DAEMON)
        if leaving:
            daemons.enable(proxy.DAEMON)


def _has_conflicting_sockets(proxy: Proxy) -> bool:
    """Return whether a proxy cannot open its new sockets while it holds the present ones."""
    pid = daemons.pid(proxy.DAEMON)
    held, needed = ports.addresses(pid) if pid else set(), proxy.places()
    return any(
        port == new_port and {host, new_host} & {*ports.ALL}
        for host, port in held - needed
        for new_host, new_port in needed - held
    )


def change_certificates(texts: Mapping[Path, str]) -> None:
    """Install certificates, and reload the proxies that serve their domains; on failure all is as it was before.

    Raises:
        DeploymentError: a proxy does not accept them.
    """
    with alone():
        host_folders.make(Folder(certificates.STATE, "root", "root", 0o755))
        host_folders.make(Folder(certificates.STATE / "certificates", "root", "root", 0o700))
        host_folders.make(Folder(certificates.challenges(), "root", "root", 0o755))
        before = {path: file.read_text(path) for path in texts}
        serving = [
            proxy
            for proxy in proxy_proxies.PROXIES.values()
            if any(proxy_proxies.has_certificate(proxy, path.stem) for path in texts)
        ]
        with noted(serving):
            _write_secretly(texts)
            try:
                for proxy in serving:
                    proxy.check()
                    daemons.reload(proxy.DAEMON)
            except BaseException:
                _write_secretly(before)
                raise


def _write_secretly(texts: Mapping[Path, str | None]) -> None:
    for path, text in texts.items():
        if text is None:
            path.unlink(missing_ok=True)
        else:
            file.write(path, text, mode=0o600)
