"""What every kind of store is: a queue or a cache of a site, in a server of its own or elsewhere, or in a table."""

import dataclasses
import re
from abc import ABC, abstractmethod
from collections.abc import Mapping
from pathlib import Path
from typing import Any, ClassVar, NamedTuple

from django_formula.host.commands import size
from django_formula.kind import kinds
from django_formula.site.sites import Site

RUN = Path("/run")
#: Bytes of memory of an empty server and of its connections.
_BESIDES = 128 << 20


def user(site: Site) -> str:
    """Return the user that runs the site's own servers: no code of the project can write their files."""
    return f"{site.user}-store"


#: What the parts of the servers begin with that this host has for all hosts of a site.
SERVED = "served_"


@dataclasses.dataclass(frozen=True)
class Service:
    """What a server needs that hosts of its site use over the network, by TLS.

    Attributes:
        port: where it listens.
        user: login of the site.
        password: SHA-256 of its password, in hexadecimal digits.
        clients: addresses of the hosts that may connect.
    """

    port: int
    user: str
    password: str = dataclasses.field(repr=False)
    clients: tuple[str, ...]


@dataclasses.dataclass(frozen=True)
class OwnServer:
    """A server of a site's own on this host, for its queue or for one of its caches.

    Attributes:
        site: the site.
        name: ``queue``, ``cache`` or ``cache_<alias>``.
        part: the name in its unit: the same, but for Memcached ``memcached`` or ``memcached_<alias>``. Thus a cache of
            another kind is another unit, and the former one serves the active release until the switch.
            One that other hosts use too is `served_queue`, so that it can run next to that of this host alone.
        options: its part of the configuration.
        service: for other hosts; None if only this host uses it.
    """

    site: Site
    name: str
    part: str
    options: Mapping[str, Any]
    service: Service | None = None

    @property
    def unit(self) -> str:
        """The name of its unit or program: ``django-blog-queue``."""
        return f"django-{self.site.name}-{self.part}"

    @property
    def socket(self) -> Path:
        """Its unix socket, in a folder that only the site's group may enter."""
        return RUN / self.unit / "socket"

    @property
    def data(self) -> Path:
        """The folder of its files."""
        return folder(self.site) / self.part

    @property
    def certificate(self) -> Path:
        """The certificate that it shows to other hosts."""
        return folder(self.site) / "served.crt"

    @property
    def key(self) -> Path:
        """The key of the certificate, which only the user of the stores can read."""
        return folder(self.site) / "served.key"

    @property
    def memory_limit(self) -> int:
        """The bytes of memory above which the kernel ends it, more than it needs for what `memory` has it store.

        Fragmentation may double what it uses. To write its file anew, or a backup, a Redis forks, and the child keeps
        a copy of what is written meanwhile. What clients have not read yet is in its memory too.
        """
        copies = 3 if self.name == "queue" or self.options.get("sync", "never") != "never" else 2
        return copies * size(self.options["memory"]) + _BESIDES

    @property
    def configuration(self) -> Path:
        """Its configuration file, which root owns."""
        return folder(self.site) / f"{self.part}.conf"


def folder(site: Site) -> Path:
    """Return the folder of the site's own servers: their configuration, and a folder of data for each."""
    return site.root / "stores"


class Usage(NamedTuple):
    """How much a server holds: bytes of memory, and the most that it may have."""

    used: int
    limit: int


class Store(ABC):
    """A kind of store. Each is a subclass in a module of its own, ``store/<kind>.py``.

    What the pillar and the states read of it too is in `kind.kinds.STORES`.

    Attributes:
        KIND: its name in the pillar.
        CLIENTS: Python packages that Django reaches it by, as their ``dist-info`` folders are named.
    """

    KIND: ClassVar[str]
    CLIENTS: ClassVar[frozenset[str]] = frozenset()

    def clients(self, django_version: tuple[int, ...]) -> frozenset[str]:
        """Return those of the packages that do for a version of Django; empty for a store that is no cache of it."""
        return self.CLIENTS

    def requirement(self, django_version: tuple[int, ...]) -> str:
        """Return the requirement that is installed where the project brings no client; empty where none is needed."""
        return ""


class ServerStore(Store):
    """A kind of store that is a server.

    Attributes:
        NOTIFIES: whether the server reports to systemd that it is ready.
        CHANGEABLE: what of its files a running server can change too, so that a difference there needs no restart.
    """

    NOTIFIES: ClassVar[bool] = False
    CHANGEABLE: ClassVar[re.Pattern[str]]

    def part(self, name: str) -> str:
        """Return the name of a store in its unit's name."""
        return kinds.store_part(self.KIND, name)

    @abstractmethod
    def url(self, address: Mapping[str, Any]) -> str:
        """Return the URL or address by which Python's clients reach it.

        Args:
            address: ``socket``, or ``host``, ``port``, ``user``, ``password``, ``tls``, ``ca`` and ``number``.
        """

    @abstractmethod
    def command(self, server: OwnServer, program: str) -> list[str]:
        """Return the command that runs a server of the site's own; its first word is the name that it is given.

        Args:
            program: the program, as `platforms.yaml` has it.
        """

    @abstractmethod
    def configuration(self, server: OwnServer) -> str:
        """Return the text of its configuration file."""

    @abstractmethod
    def differences(self, server: OwnServer) -> dict[str, str]:
        """Return the settings of a running server that differ from the pillar: name → the pillar's value.

        Raises:
            DeploymentError: the server does not answer.
        """

    @abstractmethod
    def change(self, server: OwnServer, settings: Mapping[str, str]) -> None:
        """Change settings of a running server, without a restart.

        Raises:
            DeploymentError: the server refuses one.
        """

    def end_scripts(self, server: OwnServer) -> bool:
        """Have a running server end what it computes for the site; return whether it serves then."""
        return False

    def compact(self, server: OwnServer) -> None:
        """Have a running server give memory back that it no longer uses, before its limit is lowered.

        Raises:
            DeploymentError: the server refuses it.
        """

    @abstractmethod
    def usage(self, server: OwnServer) -> Usage:
        """Return how much memory it uses.

        Raises:
            DeploymentError: the server does not answer.
        """

    def waiting(self, server: OwnServer) -> int:
        """Return the number of tasks that wait in it."""
        return 0
