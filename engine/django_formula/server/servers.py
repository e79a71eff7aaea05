"""The application servers: every kind, the one that a site is configured with, and the one that a release has."""

import importlib
import re
from collections.abc import Collection, Iterator, Mapping
from pathlib import Path
from typing import Any

from django_formula.host import file
from django_formula.server.contract import Server, Traits
from django_formula.site.sites import Site

#: Programs that serve projects and are no kind of the formula's.
_OTHERS = ("hypercorn", "waitress-serve")


class _Servers(Mapping[str, Server]):
    """The servers by their names in the pillar: `SERVER` of the module with that name, which is loaded by a look at it.

    A kind is listed nowhere else; the folder is read by what looks at all kinds.
    """

    def __getitem__(self, kind: str) -> Server:
        if not re.fullmatch(r"[a-z][a-z0-9_]*", kind):
            raise KeyError(kind)
        try:
            module = importlib.import_module(f"django_formula.server.{kind}")
        except ModuleNotFoundError:
            raise KeyError(kind) from None
        server: Server | None = getattr(module, "SERVER", None)
        if server is None:
            raise KeyError(kind)
        return server

    def __iter__(self) -> Iterator[str]:
        names = [path.stem for path in Path(__file__).parent.glob("[a-z]*.py")]
        return iter(sorted((name for name in names if name in self), key=lambda name: self[name].TRAITS.place))

    def __len__(self) -> int:
        return sum(1 for _kind in iter(self))  # `list` asks for the length first


#: Every application server, by its name in the pillar.
SERVERS: Mapping[str, Server] = _Servers()


def traits(server: Mapping[str, Any]) -> Traits:
    """Return what has to be known of a site's server, with what its options change.

    Args:
        server: the part `server` of a site's configuration.
    """
    return SERVERS[server["kind"]].traits(server)


def programs() -> str:
    """Return a pattern of the programs that serve projects, the formula's and others."""
    own = [
        program for kind, server in SERVERS.items() if server.SERVES for program in server.TRAITS.programs or (kind,)
    ]
    return "|".join(map(re.escape, sorted((*own, *_OTHERS), key=len, reverse=True)))


def configured(site: Site) -> Server:
    """Return the server of a site's new releases."""
    return SERVERS[site.config["server"]["kind"]]


def of_release(release: Path) -> Server:
    """Return the server of a release."""
    of_instance = file.read_json(release / "config/instance.json", {"server?": str}) or {}
    return SERVERS.get(of_instance.get("server", "uwsgi")) or SERVERS["uwsgi"]


def requirements(site: Site, packages: Collection[str] = ()) -> list[str]:
    """Return what is installed into a virtualenv for the server of a site, as requirements of pip.

    Args:
        packages: names of the packages that the virtualenv has already; the versions that the project requires stay.
    """
    needed = configured(site).requirements(site).items()
    return [one for names, pins in needed if not {*names} & {*packages} for one in pins]
