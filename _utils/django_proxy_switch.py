"""Switch the proxies of this host to other files or certificates, or leave everything as it was."""

import contextlib
import re
from collections.abc import Callable, Collection, Iterator, Mapping
from pathlib import Path

import django_host_config
import django_host_file
import django_host_folder
import django_host_port
import django_host_service
import django_proxy
import django_proxy_connection
import django_site
import django_tls
from django_host_command import DeploymentError
from django_host_config import Files
from django_host_folder import Folder
from django_host_lock import Lock
from django_proxy_contract import Proxy

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
    lock = django_site.RUNTIME / "flip.lock"
    if not lock.parent.is_dir():
        django_host_folder.make(Folder(lock.parent, "root", "root", 0o755))  # whatever the umask is
    switch = Lock(
        lock,
        "switch",
        busy="the switch of another site of this host",
        timeout=PATIENCE,
        hint="wait for it, or end that process, which releases the lock",
        interval=0.02,
    )
    with switch.held():
        _held.append(lock)
        try:
            yield
        finally:
            _held.clear()


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
    before = {path: django_host_config.read(path) for path in files}
    proxies = django_proxy.PROXIES.values()
    coming = [proxy for proxy in proxies if any(text is not None for text in _of(proxy, files).values())]
    leaving = [
        proxy
        for proxy in proxies
        if proxy not in coming and any(before[path] is not None for path in _of(proxy, files))
    ]
    folders = [proxy.etc / "django" for proxy in proxies]
    try:
        django_host_config.install(files, folders)
        for proxy in [*leaving, *coming]:
            if proxy in coming or not coming or django_host_service.pid(proxy.DAEMON):
                proxy.check()
        accept()
    except BaseException:
        django_host_config.install(before, folders)
        raise
    moving = [proxy for proxy in coming if moves(proxy, files, before)]
    try:
        _switch(leaving, coming, moving)
    except BaseException:
        django_host_config.install(before, folders)
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
    old = before if before is not None else {path: django_host_config.read(path) for path in paths}
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
            django_host_service.stop(proxy.DAEMON)
        elif not coming or django_host_service.pid(proxy.DAEMON):
            django_host_service.reload(proxy.DAEMON)
    for proxy in coming:
        if proxy in moving and _has_conflicting_sockets(proxy):
            django_host_service.restart(proxy.DAEMON)
        else:
            django_host_service.reload(proxy.DAEMON)
        if leaving:
            django_host_service.enable(proxy.DAEMON)


def _has_conflicting_sockets(proxy: Proxy) -> bool:
    """Return whether a proxy cannot open its new sockets while it holds the present ones."""
    pid = django_host_service.pid(proxy.DAEMON)
    held, needed = django_host_port.addresses(pid) if pid else set(), proxy.places()
    return any(
        port == new_port and {host, new_host} & {*django_host_port.ALL}
        for host, port in held - needed
        for new_host, new_port in needed - held
    )


def change_certificates(texts: Mapping[Path, str]) -> None:
    """Install certificates, and reload the proxies that serve their domains; on failure all is as it was before.

    Raises:
        DeploymentError: a proxy does not accept them.
    """
    with alone():
        django_host_folder.make(Folder(django_tls.STATE, "root", "root", 0o755))
        django_host_folder.make(Folder(django_tls.STATE / "certificates", "root", "root", 0o700))
        django_host_folder.make(Folder(django_tls.challenges(), "root", "root", 0o755))
        before = {path: django_host_file.read_text(path) for path in texts}
        _write_secretly(texts)
        serving = [
            proxy
            for proxy in django_proxy.PROXIES.values()
            if any(django_proxy_connection.has_certificate(proxy, path.stem) for path in texts)
        ]
        try:
            for proxy in serving:
                proxy.check()
                django_host_service.reload(proxy.DAEMON)
        except BaseException:
            _write_secretly(before)
            raise


def _write_secretly(texts: Mapping[Path, str | None]) -> None:
    for path, text in texts.items():
        if text is None:
            path.unlink(missing_ok=True)
        else:
            django_host_file.write(path, text, mode=0o600)
