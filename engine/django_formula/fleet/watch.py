"""What the watch of a master asks: which hosts are silent, what is wrong with balancers, and how deployments ended.

Where its page is to be of all hosts, what each of them shows of itself too.

It decides nothing, and keeps nothing: the program of the watch does (`watch.fleet`).
"""

from collections.abc import Callable, Collection, Mapping
from typing import Any, Protocol

from django_formula.fleet import record
from django_formula.fleet import store as fleet_store
from django_formula.fleet.deployment import Fleet
from django_formula.fleet.minions import Answer
from django_formula.fleet.store import Store
from django_formula.host.commands import DeploymentError
from django_formula.release import releases
from django_formula.untrusted import shapes

#: Seconds after which a host that still looks at its sites is left out of a page.
LIMIT = 30.0
#: Seconds after which it is not known how a balancer is, and the shape of its answer.
_BALANCES, _SHAPE = 20.0, {"sites": {str: {"text": str, "hosts": [str]}}}
#: Seconds after which a deployment of another master that has entered no other phase explains nothing.
_ENTERED = 3600.0


class Hosts(Protocol):
    """How functions are called on hosts: see `fleet.minions` and `fleet.roster`."""

    def ping(self, hosts: Collection[str]) -> dict[str, Answer]:
        """Ask hosts whether they are there; return the answer of each."""

    def ask(self, hosts: Collection[str], function: str, *, limit: float) -> dict[str, Answer]:
        """Call a function on hosts at once; return the answer of each."""


def watch(
    folder: str,
    hosts: Hosts,
    fleet_of: Callable[[str], Fleet],
    since: int | None,
    shown: Collection[str] | None = None,
) -> dict[str, Any]:
    """Ask all hosts of a store whether they answer.

    Args:
        folder: the store.
        hosts: how they are asked.
        fleet_of: returns the hosts of a site.
        since: the offset in the store's file of deployments from which on they are returned; None for none.
        shown: hosts that are to be on a page; None without one.

    Returns:
        ``hosts``: the sites of each; ``silent``: what is wrong with those that do not answer; ``known``: why it is
        expected of some; ``balanced``: sites whose balancers answer, each with what is wrong with it, by balancer;
        ``deployed``: sites that are being deployed; ``deployments``, and the ``offset`` of the next ones; ``seen``:
        what hosts show of themselves, or as a text why one shows nothing.

    Raises:
        DeploymentError: the master takes no jobs.
    """
    parts = {site: Store(folder, site).hosts() for site in fleet_store.sites(folder)}
    every = sorted({host for own in parts.values() for host in own})
    names = {host: [site for site, own in parts.items() if host in own] for host in every}
    answers = hosts.ping([*names]) if names else {}
    silent = silent_hosts(answers)
    known: dict[str, str] = {}
    for site, own in parts.items():
        if lost := own.keys() & silent.keys():
            expected = _known(Store(folder, site), fleet_of(site), silent)
            known |= {host: why for host, why in expected.items() if host in lost}
    effects = {host: [_effect(site, parts[site], host, silent) for site in names[host]] for host in silent}
    found, offset = releases.attempts_since(record.path(folder), since)
    return {
        "hosts": names,
        "silent": {host: "; ".join([error, *effects[host]]) for host, error in silent.items()},
        "known": known,
        "balanced": _balanced(hosts, {site: parts[site] for site in parts if _is_released(folder, site)}, silent),
        "deployed": [site for site in parts if Store(folder, site).is_deployed(_ENTERED)],
        "deployments": found,
        "offset": offset,
        **({"seen": _seen(hosts, shown, silent)} if shown is not None else {}),
    }


def _is_released(folder: str, site: str) -> bool:
    """Return whether a site has a release: without one no host gets requests, as it has to be."""
    return bool(Store(folder, site).release()["commit"])


def _balanced(
    hosts: Hosts, parts: Mapping[str, Mapping[str, Collection[str]]], silent: Collection[str]
) -> dict[str, dict[str, dict[str, Any]]]:
    """Return the sites all of whose balancers answer, each with what is wrong with it, by the balancer."""
    own = {site: [host for host, its in all_.items() if "balancer" in its] for site, all_ in parts.items()}
    asked = sorted({host for balancers in own.values() for host in balancers} - {*silent})
    answers = hosts.ask(asked, "django_fleet.balances", limit=_BALANCES) if asked else {}
    known = {
        host: answer.value["sites"]
        for host, answer in answers.items()
        if not answer.error and shapes.fits(answer.value, _SHAPE)
    }
    return {
        site: {host: known[host][site] for host in balancers if site in known[host]}
        for site, balancers in own.items()
        if balancers and known.keys() >= {*balancers}
    }


def _seen(hosts: Hosts, names: Collection[str], silent: Mapping[str, str]) -> dict[str, Any]:
    asked = [name for name in names if name not in silent]
    answers = hosts.ask(asked, "django_fleet.seen", limit=LIMIT) if asked else {}
    return {**{name: silent[name] for name in names if name in silent}, **shows(answers)}


def shows(answers: Mapping[str, Answer]) -> dict[str, Any]:
    """Return what hosts show of themselves on a page, or as a text why one shows nothing."""
    return {name: answer.error or answer.value for name, answer in answers.items()}


def silent_hosts(answers: dict[str, Answer]) -> dict[str, str]:
    """Return the hosts that do not answer, and how each was lost."""
    return {host: answer.error for host, answer in sorted(answers.items()) if answer.is_lost}


def _known(store: Store, fleet: Fleet, silent: Collection[str]) -> dict[str, str]:
    """Return the hosts of a site of which it is expected that they do not answer, and why."""
    known = {}
    if store.is_deployed(_ENTERED):
        known = dict.fromkeys(store.hosts(), f"{store.site} is being deployed")
    known |= {host: f"left out since {one['since']} by {one['by']}" for host, one in store.excluded().items()}
    try:
        drained = fleet.drained(silent)
    except DeploymentError:  # the master takes no jobs any more: what is silent now is asked again
        drained = {}
    return known | {host: f"no requests ({', '.join(texts)})" for host, texts in drained.items()}


def _effect(site: str, parts: dict[str, list[str]], host: str, silent: Collection[str]) -> str:
    """Return what it means for a site that a host is silent."""
    if "app" not in parts[host]:
        return f"it is the {' and '.join(parts[host]) or 'host without a part'} of {site}"
    others = [name for name, own in sorted(parts.items()) if "app" in own and name not in silent]
    return f"{site} is served by {', '.join(others)}" if others else f"no host serves {site}"
