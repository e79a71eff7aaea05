"""What every application server of the formula is: a class with defaults, of which each kind overrides what differs."""

from abc import ABC, abstractmethod
from collections.abc import Mapping
from pathlib import Path
from typing import Any, ClassVar

from django_formula.kind import kinds
from django_formula.site.sites import Site
from django_formula.untrusted.foreign import Foreign

#: Seconds that a server keeps an idle connection of the proxy: longer than the proxy, which may be about to use it.
KEPT_ALIVE = 75

#: The packages of a server: their names, of which one is enough, → what is installed where none of them is present.
Requirements = dict[tuple[str, ...], tuple[str, ...]]


class Server(ABC):
    """One application server. Each kind is a subclass in a module of its own, ``server/<kind>.py``.

    What the pillar and the states read of it too is in `kind.kinds.SERVERS`.

    The server reads everything from files in the release's ``config/``, takes an inherited socket (sd_listen_fds) or
    binds its own, and writes ``pid`` in its folder when it starts. Its main process reports that it is ready by
    sd_notify and by the file ``ready`` there. On SIGTERM it finishes in-flight requests and exits.

    Attributes:
        KIND: its name in the pillar.
        MAIN: the file in ``config/`` without which a release cannot start.
        SERVES: whether there is a process that answers requests.
        BINDS: whether the server binds its socket itself where it inherits none.
        INHERITS: whether it takes the socket that systemd passes to it; one that does not binds its own there too.
        WRITES_LOG: whether it writes and rotates the log of a release itself.
        PACKAGES: the packages that a virtualenv needs for it.
        TIMEOUT: its option for the seconds that a request may take; empty where it has none.
    """

    KIND: ClassVar[str]
    MAIN: ClassVar[str]
    SERVES: ClassVar[bool] = True
    BINDS: ClassVar[bool] = False
    INHERITS: ClassVar[bool] = True
    WRITES_LOG: ClassVar[bool] = False
    PACKAGES: ClassVar[Requirements] = {}
    TIMEOUT: ClassVar[str] = ""

    @abstractmethod
    def configuration(
        self, site: Site, release: Path, variables: Mapping[str, Any], templates: Mapping[str, str]
    ) -> dict[str, str]:
        """Return the server's files of a release: name in ``config/`` → content."""

    @abstractmethod
    def command(self, release: Path, facts: Mapping[str, Any]) -> list[str]:
        """Return the command that runs the server, for a project with these facts."""

    def interface(self, site: Site) -> str:
        """Return the interface of the project that the server calls: ``wsgi`` or ``asgi``."""
        return kinds.server_of({**site.config["server"], "kind": self.KIND}).interface

    @property
    def templates(self) -> tuple[str, ...]:
        """The URLs of the templates of its files."""
        return tuple(f"{kinds.FILES}{name}" for name in kinds.SERVERS[self.KIND].templates)

    def programs(self, templates: Mapping[str, str]) -> dict[str, str]:
        """Return its files that are copied as they are: name in ``config/`` → content."""
        named = {url.rpartition("/")[2]: templates[url] for url in self.templates}
        return {name: text for name, text in named.items() if name != self.MAIN}

    def requirements(self, site: Site) -> Requirements:
        """Return the packages that a virtualenv needs for the server with the site's options."""
        return self.PACKAGES

    def python(self, site: Site) -> str:
        """Return the only version of Python in which the server runs, such as ``3.11``; empty where any does."""
        return ""

    def keeps_threads(self, site: Site) -> bool:
        """Return whether the threads that run requests outlive a request, and with them their database connections."""
        return False

    def workers(self, run: Foreign) -> str:
        """Return what the server's processes do at the moment, for people; empty where the server does not report it.

        Args:
            run: the folder of the instance in /run.
        """
        return ""

    def timeout(self, site: Site) -> int:
        """Return the seconds that a request may take, or may be silent where the server sets no limit."""
        return int(site.config["server"]["options"].get(self.TIMEOUT) or 60)
