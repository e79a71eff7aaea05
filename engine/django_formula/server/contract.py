"""What every application server of the formula is: a class with defaults, of which each kind overrides what differs."""

from abc import ABC, abstractmethod
from collections.abc import Mapping
from pathlib import Path
from typing import Any, ClassVar, NamedTuple

from django_formula.kind import kinds
from django_formula.site.sites import Site
from django_formula.untrusted.foreign import Foreign

#: Seconds that a server keeps an idle connection of the proxy: longer than the proxy, which may be about to use it.
KEPT_ALIVE = 75

#: The packages of a server: their names, of which one is enough, → what is installed where none of them is present.
Requirements = dict[tuple[str, ...], tuple[str, ...]]


class Traits(NamedTuple):
    """What others have to know of a kind of application server: the pillar, the states, an inspection.

    Attributes:
        place: its place in lists for people.
        templates: names of its files in ``django/files``. All but the server's main file are copied as they are.
        interface: what it runs of the project, ``wsgi`` or ``asgi``.
        concurrency: what lets one thread serve many requests at a time; empty where each request needs a thread.
        keepalive: the option for the seconds that it keeps an idle connection of the proxy; empty where it may close
            one that the proxy is about to use.
        is_cutting: whether it cuts the connections of a process that it replaces.
        max_requests: the default of `server:max_requests`, where options change that of the schema.
        port: the first of the two ports that a site gets on a loopback address of its own, for a server without unix
            sockets; else 0.
        used_options: the only `server:options` that have an effect; None where all have.
        suggested_by: packages in a project's requirements for which an inspection proposes this kind, if they have no
            other server for its interface, and the project has a module for it.
        programs: names of its programs on the command line; empty where it is that of the kind.
        title: how messages call it, where that is not its name.
        variants: pairs of conditions and the attributes that differ where they hold. A condition is an option, or
            ``threads``, and its values; None stands for an option that is not set.
    """

    place: int
    templates: tuple[str, ...]
    interface: str = "wsgi"
    concurrency: str = ""
    keepalive: str = ""
    is_cutting: bool = False
    max_requests: int | None = None
    port: int = 0
    used_options: tuple[str, ...] | None = None
    suggested_by: tuple[str, ...] = ()
    programs: tuple[str, ...] = ()
    title: str = ""
    variants: tuple[tuple[Mapping[str, tuple[Any, ...]], Mapping[str, Any]], ...] = ()


class Server(ABC):
    """One application server. Each kind is a subclass in a module of its own, ``server/<kind>.py``.

    The server reads everything from files in the release's ``config/``, takes an inherited socket (sd_listen_fds) or
    binds its own, and writes ``pid`` in its folder when it starts. Its main process reports that it is ready by
    sd_notify and by the file ``ready`` there. On SIGTERM it finishes in-flight requests and exits.

    Attributes:
        KIND: its name in the pillar.
        TRAITS: what others have to know of it.
        MAIN: the file in ``config/`` without which a release cannot start.
        SERVES: whether there is a process that answers requests.
        BINDS: whether the server binds its socket itself where it inherits none.
        INHERITS: whether it takes the socket that systemd passes to it; one that does not binds its own there too.
        WRITES_LOG: whether it writes and rotates the log of a release itself.
        PACKAGES: the packages that a virtualenv needs for it.
        TIMEOUT: its option for the seconds that a request may take; empty where it has none.
    """

    KIND: ClassVar[str]
    TRAITS: ClassVar[Traits]
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
        return self.traits(site.config["server"]).interface

    def traits(self, server: Mapping[str, Any]) -> Traits:
        """Return its traits, with what options change.

        Args:
            server: the part `server` of a site's configuration.
        """
        traits, values = self.TRAITS, {**server["options"], "threads": server["threads"]}
        for conditions, differences in traits.variants:
            if all(values.get(name) in allowed for name, allowed in conditions.items()):
                traits = traits._replace(**differences)
        return traits._replace(title=traits.title or self.KIND)

    @property
    def templates(self) -> tuple[str, ...]:
        """The URLs of the templates of its files."""
        return tuple(f"{kinds.FILES}{name}" for name in self.TRAITS.templates)

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
