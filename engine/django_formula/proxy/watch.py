"""Whether what a proxy answers for a site can have changed since it was found to be right (docs/decisions/0106)."""

import contextlib
import glob
import hashlib
import json
import os
import re
import time
from collections.abc import Iterator
from pathlib import Path

from django_formula.host import daemons, proc
from django_formula.host import file as host_file
from django_formula.proxy.contract import Proxy, Server
from django_formula.secret import secrets
from django_formula.site import sites
from django_formula.site.sites import Site

#: Seconds after which everything is looked at again, whatever has not changed.
TRUSTED = 24 * 3600
#: What a file of a proxy names of files elsewhere that are read with it: includes, certificates, passwords.
_NAMED = re.compile(
    r"""(?im)^\s*(?P<directive>ssl\w*|auth_basic_user_file|AuthUserFile|include(?:optional)?)\s+["']?(?P<path>/[^\s;"']+)"""
)
#: Bytes of a file that are searched for such paths, and the most files.
_SIZE, _FILES = 1 << 20, 10_000

#: Paths, and what `_numbers` returned of each.
Seen = dict[str, list[int]]
_SHAPE = {"time": (int, float), "places": str, "files": str, "visit": str}


class Configuration:
    """The whole configuration of a proxy, which is read once for as long as none of its files changes.

    Args:
        proxy: the proxy.
    """

    def __init__(self, proxy: Proxy):
        self._proxy = proxy
        self._file = sites.RUNTIME / f"proxy-{proxy.DAEMON.service}.json"
        kept = host_file.read_json(self._file, {"paths": {str: [int]}}) or {"paths": {}}
        #: What it had when it was looked at last, here or in an earlier apply.
        self._paths: Seen = kept["paths"]
        self._kept = self._paths
        self._servers: list[Server] | None = None

    def is_same(self) -> bool:
        """Return whether nothing has changed since it was looked at."""
        return bool(self._paths) and all(_numbers(path) == numbers for path, numbers in self._paths.items())

    def servers(self) -> list[Server]:
        """Return all servers of it.

        Raises:
            DeploymentError: the proxy does not print its configuration.
        """
        if self._servers is None or not self.is_same():
            self._paths, self._servers = seen(self._proxy), None
            self._servers = self._proxy.servers()
        return self._servers

    def state(self) -> str:
        """Return a hash of it, which is kept for later applies; empty where it has changed meanwhile."""
        if not self.is_same():
            return ""
        if self._kept != self._paths:
            with contextlib.suppress(OSError):  # it is read again then
                host_file.write_json(self._file, {"paths": self._paths}, mode=0o600, durable=False)
                self._kept = self._paths
        return hashlib.sha256(json.dumps(self._paths, sort_keys=True).encode()).hexdigest()[:16]


_configurations: dict[Path, Configuration] = {}


def configuration(proxy: Proxy) -> Configuration:
    """Return the configuration of a proxy, as this process knows it."""
    return _configurations.setdefault(proxy.etc, Configuration(proxy))


def seen(proxy: Proxy) -> Seen:
    """Return the files and folders of a proxy's configuration, and the files that it loads, such as certificates.

    Only the text of what the proxy reads as configuration is searched for others: certificates may be another user's.
    Where it has too many, none is returned, and it is read each time.
    """
    found: Seen = {}
    left, folders, included = [str(proxy.etc)], set(), set()
    for path in left:  # it grows
        if path in found:
            continue
        if len(found) >= _FILES:
            return {}
        found[path] = _numbers(path)
        is_own = Path(path).is_relative_to(proxy.etc)
        if is_own and os.path.isdir(path):
            if (real := os.path.realpath(path)) not in folders:  # a link may lead back
                folders.add(real)
                left += sorted(entry.path for entry in os.scandir(path))
        elif is_own or path in included:
            for named, is_included in _named(Path(path)):
                left.append(named)
                included |= {named} if is_included else set()
    return found


def _named(path: Path) -> Iterator[tuple[str, bool]]:
    """Yield the paths that a file of the configuration names, and whether they are configuration too.

    Of a pattern these are its folder, and what fits now.
    """
    text = host_file.read_untrusted(path, _SIZE).decode(errors="replace")
    for one in _NAMED.finditer(text):
        is_included = one["directive"].lower().startswith("include")
        if is_included and glob.has_magic(one["path"]):
            yield os.path.dirname(one["path"]), False
            yield from ((name, True) for name in sorted(glob.glob(one["path"])))
        else:
            yield one["path"], is_included


def _numbers(path: str) -> list[int]:
    """Return what differs once a file or the list of a folder's entries has changed; nothing where there is none."""
    try:
        found = os.stat(path)
    except OSError:
        return []
    return [found.st_ino, found.st_size, found.st_mtime_ns, found.st_ctime_ns]


class Memory:
    """What has been found to be right of a site's proxy; root's, in /run, so that a boot forgets it.

    Args:
        site: the site.
        proxy: the proxy that serves it.
    """

    def __init__(self, site: Site, proxy: Proxy):
        self._site, self._proxy = site, proxy
        known = host_file.read_json(site.proxied, _SHAPE) or {}
        self._known = known if 0 <= time.time() - known.get("time", 0) < TRUSTED else {}

    def has_no_rival(self) -> bool:
        """Return whether no server has answered in place of the site, and nothing that decides it has changed."""
        if self._known.get("places") != _places(self._site, self._proxy):
            return False
        return bool(self._known["files"]) and self._known["files"] == configuration(self._proxy).state()

    def is_reached(self) -> bool:
        """Return whether visitors have reached the site too, and nothing on their way has changed."""
        return self.has_no_rival() and self._known["visit"] == _visit(self._site, self._proxy)

    def keep(self, *, is_reached: bool) -> None:
        """Keep that no server answers in place of the site, and whether visitors reach it."""
        files = configuration(self._proxy).state()
        visit = _visit(self._site, self._proxy) if is_reached else ""
        known = {"time": time.time(), "places": _places(self._site, self._proxy), "files": files, "visit": visit}
        with contextlib.suppress(OSError):  # it is looked at again then
            host_file.write_json(self._site.proxied, known, mode=0o600, durable=False)


def _places(site: Site, proxy: Proxy) -> str:
    """Return a hash of the proxy, and of the domains and places that the site has there."""
    config = site.config
    places = [config["domains"], config["redirect_domains"], config["proxy"]["listen"], site.listens_tls]
    return secrets.keyed_hash(secrets.record_key(site), [str(proxy.etc), *places])


def _visit(site: Site, proxy: Proxy) -> str:
    """Return a hash of what else decides on the answer to a visitor: the release, its socket, the proxy's process."""
    pid = daemons.pid(proxy.DAEMON) or 0
    process, socket = proc.stat(pid), os.path.realpath(site.current / "socket")
    ways = [_rights(one) for one in (socket, *map(str, Path(socket).parents))]
    options = [site.config[name] for name in ("path", "health", "proxy", "tls")]
    known = [pid, process and process.started, str(site.current.resolve()), ways, options]
    return secrets.keyed_hash(secrets.record_key(site), known)


def _rights(path: str) -> list[int]:
    """Return what decides who may connect to a socket, or reach what is in a folder; nothing where there is none."""
    try:
        found = os.lstat(path)
    except OSError:
        return []
    return [found.st_ino, found.st_mode, found.st_uid, found.st_gid]
