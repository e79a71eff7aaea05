"""What the master keeps of each site that is on several hosts: its secrets, and the release that they have in common.

The store is a folder that only root reads, with a folder for each site:

    secret_key      what the external pillar gives to the hosts that serve the site; fleet.secrets has the others
    secrets         folder of what else is generated once for all of them, a file for each; servers accept what
                    NAME.former has too
    hosts.json      the parts of each host, as the pillar had them when a host compiled it last
    tags.json       the tags of the site, where it has had some
    checks.json     what the Git server is asked of a commit before it is released, where the site has had that
    promote.json    the site from which it gets its commits, where it has had one, and what is asked of them
    addresses.json  the address of each host, as its grains had it when its pillar was compiled last
    fleet.json      commit and number of the release, the commits that were rolled back, how many times that was another
                    release, and the id of its deployment
    excluded.json   the hosts that a deployment has left out, until they have caught up
    lock            held by the runner that deploys the site, with what it does
    last            the id of the last deployment with claims, which is over where the lock is free
"""

import contextlib
import fcntl
import fnmatch
import math
import os
import pwd
import re
import secrets
import socket
import string
import time
from collections.abc import Callable, Collection, Iterator, Mapping
from pathlib import Path
from typing import Any

from django_formula.host import clock, commands, locks, proc
from django_formula.host import file as host_file
from django_formula.host.commands import DeploymentError
from django_formula.untrusted import shapes
from django_formula.untrusted.text import in_command

#: Characters of a secret key, and how many it has, as Django's own.
_ALPHABET = string.ascii_letters + string.digits + "!@#$%^&*(-_=+)"
_LENGTH = 50
#: Names of sites, as the schema has them.
NAME = re.compile("[a-z]([a-z0-9-]{0,24}[a-z0-9])?")
#: What a tag has before it where sites are named.
TAG = "tag:"
SECRET = re.compile("[A-Za-z0-9][A-Za-z0-9._-]{0,99}")
_FLEET = {"commit": str, "sequence": int, "held": [str], "count?": int, "deployment?": str}
#: What is asked of a commit: as `promote` of the pillar.
_PROMOTION = {"from": str, "after": str, "approve": int}
_ASKED = {"from": "", "after": "1h", "approve": 0}
#: What is asked of the Git server, as `checks` of the pillar, and where a value is not given.
_CHECKS = {"kind": str, "url": str, "token": str, "names": [str], "ignore": [str], "within": str}
_WANTED = {"kind": "", "url": "", "token": "", "names": [], "ignore": [], "within": "30m"}
_EXCLUDED = {"since": str, "by": str, "commit": str}
#: What hosts without a release have in common.
_NONE = {"commit": "", "sequence": 0, "held": [], "count": 0}


def new_key() -> str:
    """Return a new secret key."""
    return "".join(secrets.choice(_ALPHABET) for _ in range(_LENGTH))


class Store:
    """What is kept of one site.

    Args:
        folder: the master's store.
        site: the name of the site.

    Raises:
        DeploymentError: it is no name.
    """

    def __init__(self, folder: str | Path, site: str):
        if not NAME.fullmatch(str(site)):  # Salt's command line reads a number as one
            raise DeploymentError(f"{site} is no name of a site")
        self.folder = Path(folder, site)
        self.site = site

    def make(self) -> None:
        """Make the folders, for root only.

        Raises:
            DeploymentError: others may write to the store.
        """
        user = pwd.getpwuid(os.geteuid()).pw_name  # Salt's own packages run the master as `salt`
        for path in (self.folder.parent, self.folder):
            try:
                path.mkdir(mode=0o700, parents=True, exist_ok=True)
            except PermissionError:
                raise DeploymentError(
                    f"the master runs as {user}, who cannot make {path}",
                    hint=in_command("install", "-d", "-o", user, "-m", "700", str(path)),
                ) from None
            status = path.lstat()
            if status.st_uid != os.geteuid() or status.st_mode & 0o077:
                raise DeploymentError(
                    f"{path} has to be a folder that only {user} reads, as whom the master runs",
                    hint=f"{in_command('chown', '-R', f'{user}:', str(path))} && "
                    f"{in_command('chmod', '700', str(path))}",
                )

    def secret_key(self) -> str:
        """Return the secret key of the site; it is generated once."""
        return self._once(self.folder / "secret_key", new_key).strip()

    def secret(self, name: str, make: Callable[[], str]) -> str:
        """Return another secret of the site; it is generated once.

        Args:
            name: which one, such as `database`.
            make: returns a new one.

        Raises:
            DeploymentError: `name` is no name of a file.
        """
        if not SECRET.fullmatch(name):
            raise DeploymentError(f"{name} is no name of a secret")
        return self._once(self.folder / "secrets" / name, make)

    def former_secret(self, name: str) -> str:
        """Return the value that a secret had, while the file of it is there; empty otherwise."""
        return host_file.read_text(self.folder / "secrets" / f"{name}.former") or ""

    def _once(self, path: Path, make: Callable[[], str]) -> str:
        """Return what a file has, which is made when it is missing."""
        if not path.exists():
            self.make()
            path.parent.mkdir(mode=0o700, exist_ok=True)
            with self._alone():  # the master compiles the pillars of several minions at once
                if not path.exists():
                    host_file.write(path, make(), mode=0o600)
        return path.read_text()

    def keep_hosts(self, hosts: Mapping[str, list[str]]) -> None:
        """Keep the parts of each host."""
        self.make()
        path = self.folder / "hosts.json"
        if host_file.read_json(path) != hosts:
            with self._alone():  # the master compiles the pillars of several minions at once
                host_file.write_json(path, hosts, mode=0o600)

    def hosts(self) -> dict[str, list[str]]:
        """Return the parts of each host; empty where none has compiled its pillar yet."""
        return host_file.read_json(self.folder / "hosts.json", {str: [str]}) or {}

    def keep_tags(self, tags: list[str]) -> None:
        """Keep the tags of the site; nothing is written where it has none."""
        if tags != self.tags():
            with self._alone():
                host_file.write_json(self.folder / "tags.json", {"tags": tags}, mode=0o600)

    def tags(self) -> list[str]:
        """Return the tags of the site."""
        kept = host_file.read_json(self.folder / "tags.json", {"tags": [str]})
        return [*kept["tags"]] if kept else []

    def keep_promotion(self, given: Any) -> None:
        """Keep what the pillar has as `promote`; a mistake in it is none, which the hosts of the site report.

        Nothing is written where the site has none.
        """
        wanted = _promotion(given) if isinstance(given, dict) else {}
        if wanted != self.promotion():
            with self._alone():
                host_file.write_json(self.folder / "promote.json", wanted, mode=0o600)

    def promotion(self) -> dict[str, Any]:
        """Return ``from``, ``after`` and ``approve`` as the pillar has them; empty where commits come from no site."""
        return host_file.read_json(self.folder / "promote.json", _PROMOTION) or {}

    def keep_checks(self, given: Any) -> None:
        """Keep what the pillar has as `checks`, of which a mistake lets nothing through.

        Nothing is written where the site has none.
        """
        wanted = {} if given is None else _checks(given) if isinstance(given, dict) else _WANTED
        if wanted != self._checks():
            with self._alone():
                if wanted:
                    host_file.write_json(self.folder / "checks.json", wanted, mode=0o600)
                else:
                    (self.folder / "checks.json").unlink(missing_ok=True)

    def checks(self) -> dict[str, Any]:
        """Return `checks` of the pillar; empty where nothing is asked of commits.

        Raises:
            DeploymentError: the pillar has a mistake there.
        """
        wanted = self._checks()
        if wanted and not wanted["kind"]:
            raise DeploymentError(
                f"the checks of {self.site} have a mistake in the pillar, so nothing is released by a request",
                hint=f"apply on a host of {self.site}, which names it; correct it, and apply",
            )
        return wanted

    def _checks(self) -> dict[str, Any]:
        path = self.folder / "checks.json"
        return host_file.read_json(path, _CHECKS) or ({**_WANTED} if path.exists() else {})

    def addresses(self) -> dict[str, str]:
        """Return the address of each host whose pillar was compiled."""
        return host_file.read_json(self.folder / "addresses.json", {str: str}) or {}

    def keep_addresses(self, addresses: Mapping[str, str]) -> None:
        """Keep the addresses of some hosts."""
        if not addresses.items() <= self.addresses().items():
            with self._alone():
                known = {**self.addresses(), **addresses}
                host_file.write_json(self.folder / "addresses.json", known, mode=0o600)

    def release(self) -> dict[str, Any]:
        """Return ``commit``, ``sequence``, ``held`` and ``count`` of the release that the hosts have in common."""
        known = {**_NONE, **(self._fleet() or {})}
        return {key: known[key] for key in _NONE}

    def set_release(self, release: Mapping[str, Any], deployment: str = "") -> None:
        """Set ``commit``, ``sequence`` and ``held`` of the release that the hosts have in common, and count it.

        Args:
            deployment: the id of the one that has activated it on all hosts.
        """
        new = {**release, "count": self.release()["count"] + 1, "deployment": deployment}
        host_file.write_json(self.folder / "fleet.json", new, mode=0o600)

    def is_complete(self, deployment: str) -> bool:
        """Return whether a deployment has activated its release on all hosts, and none has since."""
        return (self._fleet() or {}).get("deployment") == deployment

    def _fleet(self) -> dict[str, Any] | None:
        return host_file.read_json(self.folder / "fleet.json", _FLEET)

    def last(self) -> str:
        """Return the id of the last deployment that has claimed hosts; empty without one."""
        return host_file.read_text(self.folder / "last") or ""

    def order(self, deployment: str) -> tuple[str, str]:
        """Return what people want of the canary of a deployment, ``promote`` or ``back``, and who has said so."""
        known = self._order()
        return (known["verb"], known["by"]) if known and known["deployment"] == deployment else ("", "")

    def set_order(self, deployment: str, verb: str, by: str = "", hosts: Collection[str] = ()) -> None:
        """Keep what people want of the canary of a deployment; nothing yet where it begins.

        Args:
            hosts: those that give the release a share of the visitors; without them the known ones.
        """
        names = [*hosts] or self.sharing()
        known = {"deployment": deployment, "verb": verb, "by": by, "hosts": names}
        host_file.write_json(self._order_path, known, mode=0o600)

    def sharing(self) -> list[str]:
        """Return the hosts that give a release a share of the visitors now."""
        return [*(self._order() or {}).get("hosts", ())]

    def end_order(self) -> None:
        """Keep that no release gets a share of the visitors."""
        self._order_path.unlink(missing_ok=True)

    def proving(self) -> str:
        """Return the id of the deployment whose release gets a share of the visitors now; empty without one."""
        known = self._order()
        return known["deployment"] if known and known["deployment"] == self.last() and self.is_deployed() else ""

    @property
    def _order_path(self) -> Path:
        return self.folder / "canary.json"

    def _order(self) -> dict[str, Any] | None:
        shape = {"deployment": str, "verb": str, "by": str, "hosts?": [str]}
        return host_file.read_json(self._order_path, shape)

    def over(self) -> str:
        """Return the id of the last deployment that has claimed hosts, if no process deploys the site.

        The lock is not tried for it: that would keep a deployment from beginning. Of a process of another master that
        has the same store it is not known whether it lives: its deployment is not over.
        """
        last = self.last()  # before the lock: one that begins now is another one
        return "" if self.is_deployed() else last

    def is_deployed(self, entered: float = math.inf) -> bool:
        """Return whether a process deploys the site, or one of another master of which that is not known.

        Args:
            entered: seconds within which one of another master has to have entered a phase.
        """
        path = self.folder / "lock"
        recorded = host_file.read_text(path) or ""
        found = re.search(r", pid \d+ of (\S+), since ", recorded)
        if not found or found[1] == socket.gethostname():
            return bool(found) and locks.runs(recorded)
        return time.time() - path.stat().st_mtime < entered

    def excluded(self) -> dict[str, dict[str, str]]:
        """Return the hosts that were left out, and have not caught up: ``since``, ``by`` whom, of which ``commit``."""
        return host_file.read_json(self.folder / "excluded.json", {str: _EXCLUDED}) or {}

    def keep_excluded(self, hosts: Mapping[str, Mapping[str, str]]) -> None:
        """Keep which hosts were left out of a release."""
        with self._alone():
            host_file.write_json(self.folder / "excluded.json", hosts, mode=0o600)

    def begin(self, deployment: str) -> None:
        """Keep the id of a deployment that holds the lock and is about to claim hosts."""
        host_file.write(self.folder / "last", deployment, mode=0o600)

    @contextlib.contextmanager
    def deploying(self, by: str) -> Iterator["Progress"]:
        """Hold the lock of the site's deployments on this master; it ends with this process.

        Args:
            by: who deploys, and how.

        Raises:
            DeploymentError: another process holds it.
        """
        self.make()
        descriptor = os.open(self.folder / "lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)
        with open(descriptor, "r+", encoding="utf-8") as file:
            try:
                fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                text = file.readline().strip()
                ends = f"salt-run django.back {self.site} ends its canary, django.promote gives it to all visitors"
                raise DeploymentError(
                    f"{self.site} is being deployed by {text or 'another process'}",
                    hint=ends if text.endswith(", phase canary") else "",
                    transient=True,
                ) from None
            try:
                process = f"pid {os.getpid()} of {socket.gethostname()}"
                yield Progress(descriptor, f"{by}, {process}, since {clock.now()}")
            finally:
                os.ftruncate(descriptor, 0)

    @contextlib.contextmanager
    def _alone(self) -> Iterator[None]:
        with open(self.folder / ".writing.lock", "w") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            yield


def _promotion(given: Mapping[str, Any]) -> dict[str, Any]:
    """Return what is asked of a commit, by the schema's defaults; nothing where that is no such map."""
    wanted = {**_ASKED, **{name: value for name, value in given.items() if value is not None}}
    with contextlib.suppress(DeploymentError):
        if wanted.keys() == _ASKED.keys() and shapes.fits(wanted, _PROMOTION) and NAME.fullmatch(wanted["from"]):
            commands.seconds(wanted["after"])
            return wanted
    return {}


def _checks(given: Mapping[str, Any]) -> dict[str, Any]:
    """Return what is asked of the Git server, by the schema's defaults; without a kind where that is no such map."""
    wanted = {**_WANTED, **{name: value for name, value in given.items() if value is not None}}
    with contextlib.suppress(DeploymentError):
        if wanted.keys() == _WANTED.keys() and shapes.fits(wanted, _CHECKS) and re.match("https?://", wanted["url"]):
            commands.seconds(wanted["within"])
            return wanted
    return {**_WANTED}


class Progress:
    """What a deployment does, for others who want to deploy the same site.

    Args:
        descriptor: of the lock's file.
        by: who deploys, and since when.
    """

    def __init__(self, descriptor: int, by: str):
        self._descriptor = descriptor
        self._by = by
        self.phase("begins")

    def phase(self, name: str) -> None:
        """Say in which phase it is."""
        text = f"{self._by}, phase {name}\n{proc.identity(os.getpid())}\n".encode()
        os.pwrite(self._descriptor, text, 0)
        os.ftruncate(self._descriptor, len(text))  # after it: `over` may read the file in between


def matching(folder: str | Path, pattern: str) -> list[str]:
    """Return the names of the sites that the store knows and a pattern of the shell or a tag, or one of several, fits.

    Raises:
        DeploymentError: there is none.

    Example: ``matching("/srv/django-fleet", "shop-*,tag:eu") == ["blog", "shop-de", "shop-fr"]``
    """
    patterns = [one.strip() for one in pattern.split(",")]

    def fits(name: str) -> bool:
        tags = [TAG + tag for tag in Store(folder, name).tags()]
        return any(fnmatch.filter(tags if one.startswith(TAG) else [name], one) for one in patterns)

    found = [name for name in sites(folder) if fits(name)]
    if not found:
        raise DeploymentError(
            f"no site with hosts is named {pattern}",
            hint="run: salt-run django.status, which shows those that there are",
        )
    return found


def sites(folder: str | Path) -> list[str]:
    """Return the names of the sites that the store knows."""
    found = (path.parent.name for path in Path(folder).glob("*/hosts.json"))
    return sorted(name for name in found if Store(folder, name).hosts())
