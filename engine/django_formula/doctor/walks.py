"""The walk of a request through a site, link by link: `walk` is what `django.doctor` and the watch call."""

import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

from django_formula.deploy.entries import entry
from django_formula.doctor import application, balanced, pages, way
from django_formula.doctor.visit import Broken, Visit, visit
from django_formula.host.commands import DeploymentError
from django_formula.site import sites
from django_formula.site.sites import Site
from django_formula.untrusted.text import shown

#: Each link: its name; what looks at it, which returns a text, empty where the site has no such link, or raises
#: `Broken`; and whether the links after a broken one would only be its consequences.
STEPS: tuple[tuple[str, Callable[[Visit], str], bool], ...] = (
    ("domain", way.domain, True),
    ("DNS", way.dns, False),
    ("TCP", way.tcp, True),
    ("TLS", way.tls, True),
    ("virtual host", way.virtual_host, True),
    ("maintenance", way.maintenance, True),
    ("release", application.release, True),
    ("process", application.process, True),
    ("socket", application.socket, True),
    ("Django", application.django, True),
    ("database", application.database, True),
    ("page", pages.page, True),
    ("static", pages.static, False),
    ("media", pages.media, False),
)


class Link(NamedTuple):
    """A link of a walk: its name, whether it is broken, what was found, and what cures it.

    Attributes:
        command: what cures it when it is run as root on this host; empty where no command does.
        todo: what to do then.
    """

    name: str
    is_broken: bool
    text: str
    command: str = ""
    todo: str = ""


class Walk(NamedTuple):
    """A walk: the site, the URL, its links until it ended, and the seconds that it took."""

    site: str
    url: str
    links: list[Link]
    seconds: float

    @property
    def broken(self) -> Link | None:
        """The first broken link."""
        return next((link for link in self.links if link.is_broken), None)


def walk(site: Site, url: str = "", *, skip_network: bool = False, explains: bool = True) -> Walk:
    """Walk from the domain of a site to its uploads, and return the links until a broken one that stops it.

    It changes nothing, and needs neither Salt nor, with `skip_network`, anything beyond this host.

    Args:
        site: the site as last applied.
        url: what a visitor asks for; by default the page at the site's own path.
        skip_network: leave out DNS, which this host may not have.
        explains: run a program of the release as the site's user where the log does not have an exception.

    Raises:
        DeploymentError: the URL is none of http or https.
    """
    began = time.monotonic()
    visited = visit(site, url, skip_network=skip_network, explains=explains)
    links = follow(STEPS, visited)
    shown_url = f"{visited.scheme}://{visited.host_header}{visited.target}"
    return Walk(site.name, shown_url, links, round(time.monotonic() - began, 1))


def follow(steps: Sequence[tuple[str, Callable[[Any], str], bool]], visited: Any) -> list[Link]:
    """Return the links until a broken one that stops the walk.

    Args:
        steps: the links, as `STEPS` has them.
        visited: what each looks at; its `plain` makes texts of others ones to show.
    """
    links: list[Link] = []
    for name, look, stops in steps:
        link = _look(visited, name, look)
        if link.text:
            links = [*(one for one in links if one.name != link.name), link]
        if link.is_broken and stops:
            break
    return links


def _look(visited: Any, name: str, look: Callable[[Any], str]) -> Link:
    """Return a link; one that cannot be looked at is broken too, by what the engine reports."""
    try:
        return Link(name, False, shown(look(visited)))
    except Broken as broken:
        return Link(broken.link or name, True, shown(broken.text), broken.command, shown(broken.todo))
    except DeploymentError as error:
        return Link(name, True, visited.plain(error.message), todo=visited.plain(error.hint))
    except OSError as error:
        return Link(name, True, f"cannot be looked at: {visited.plain(str(error))}")


def of_balancer(recorded: Mapping[str, Any]) -> Walk:
    """Walk through a site that this host balances between others, on which its way goes on.

    Args:
        recorded: what the balancer has to know of the site.
    """
    began, visited = time.monotonic(), balanced.Balanced(recorded)
    links = follow(balanced.STEPS, visited)
    return Walk(recorded["name"], visited.url, links, round(time.monotonic() - began, 1))


def balancers() -> dict[str, dict[str, Any]]:
    """Return what is wrong with the sites that this host balances, by name.

    Returns:
        ``text``; ``hosts``: where it is that hosts get no requests and others do, these; else the site is down.
    """
    found = {}
    for name, recorded in entry("sites that are balanced")().items():
        visited = balanced.Balanced(recorded)
        for link in follow(balanced.WATCHED, visited):
            if link.is_broken:
                known = _backends(visited) if link.name == "hosts" else None
                found[name] = {"text": link.text, "hosts": [*known.down] if known and known.serving else []}
    return found


def _backends(visited: balanced.Balanced) -> balanced.Backends | None:
    """Return the hosts of a site as its balancer sees them; None where it does not say."""
    try:
        return balanced.backends(visited)
    except DeploymentError:
        return None


def rows(walked: Walk) -> dict[str, Any]:
    """Return a walk for programs."""
    broken = walked.broken
    return {
        **walked._asdict(),
        "links": [link._asdict() for link in walked.links],
        "broken": broken.name if broken else "",
    }


def view(answer: dict[str, Any]) -> str:
    """Return what people see of the rows of a walk: a line for each link, and what cures the broken ones."""
    width = max(len(link["name"]) for link in answer["links"])
    lines = [answer["url"]]
    for link in answer["links"]:
        lines.append(f"  {link['name']:{width}}  {'BROKEN' if link['is_broken'] else 'ok    '}  {link['text']}")
        if cure := link["command"] or link["todo"]:
            lines.append(f"  {'':{width}}      do  {cure}")
    found = f"broken at {answer['broken']}" if answer["broken"] else "no broken link"
    return "\n".join([*lines, f"{answer['site']}: {found} ({answer['seconds']} s)"])


def doctor(name: object, url: object = "", *, skip_network: bool = False) -> dict[str, Any]:
    """Return the walk of a site of this host, or of one that it balances, as `rows` does.

    Raises:
        DeploymentError: there is no such site, or the URL is none of http or https.
    """
    name = str(name)
    others = {} if name in sites.registered() else entry("sites that are balanced")()
    if name in others:
        return rows(of_balancer(others[name]))
    return rows(walk(sites.find(name), "" if url is None else str(url), skip_network=skip_network))
