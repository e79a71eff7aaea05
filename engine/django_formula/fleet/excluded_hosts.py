"""Hosts that a deployment leaves out (``exclude=web7``), and that are shown until they serve the common release."""

from collections.abc import Collection, Iterator, Mapping
from typing import Any

from django_formula.fleet.store import Store
from django_formula.host import clock
from django_formula.host.commands import DeploymentError
from django_formula.kind import kinds
from django_formula.untrusted.text import in_command

Parts = Mapping[str, Collection[str]]
Seen = Mapping[str, Mapping[str, Mapping[str, Any]]]


def refuse(site: str, names: Collection[str], parts: Parts) -> None:
    """Refuse to leave out what the other hosts do not do without.

    Args:
        names: the hosts that are to be left out.
        parts: those of each host of the site.

    Raises:
        DeploymentError: one is no host of the site, or has a part that no other host has.
    """
    for name in names:
        if name not in parts:
            raise DeploymentError(f"exclude: {name} is no host of {site}", hint=f"its hosts are {', '.join(parts)}")
        if needed := parts_of_no_other(name, names, parts):
            raise DeploymentError(
                f"exclude: {name} is the only host of {site} with the part {' and '.join(needed)}, and the release "
                "needs it; nothing was begun",
                hint=f"repair it, or give another host that part in the pillar (hosts), and apply there: {site}",
            )


def parts_of_no_other(name: str, names: Collection[str], parts: Parts) -> list[str]:
    """Return the parts of a host that no host has which is not left out."""
    stay = {part for other, its in parts.items() if other not in {*names, name} for part in its}
    return sorted({*parts[name]} - stay)


def hint(again: Collection[str], lost: Collection[str], excluded: Collection[str], parts: Parts) -> str:
    """Return how to release without hosts that do not answer; empty where that is not possible.

    Args:
        again: the words of the runner's function that was called; empty for one that leaves no host out.
        excluded: those that are left out already.
    """
    names = sorted({*lost, *excluded})
    if not lost or any(parts_of_no_other(name, names, parts) for name in names):
        return ""
    repair = f"repair {', '.join(sorted(lost))}"
    command = in_command("salt-run", *again, f"exclude={','.join(names)}")
    return f"{repair}; or release without, and apply there later: {command}" if again else repair


def warnings(names: Collection[str], parts: Parts, migrated: Collection[str]) -> dict[str, list[str]]:
    """Return what becomes of each host that was left out.

    Args:
        parts: those of each host of the site.
        migrated: the migrations of this deployment.
    """
    found = {}
    for name in sorted(names):
        texts = ["left out: no balancer gives it requests until an apply has brought it to the common release"]
        if "balancer" in parts[name]:
            texts = ["left out: it lets in hosts with the former release alone until an apply on it"]
        texts += [
            f"{does} for all hosts, so nothing does until it is back or out of hosts" for does in _duties(name, parts)
        ]
        if migrated and {*kinds.RELEASED} & {*parts[name]}:
            texts.append(f"it was not judged whether {', '.join(migrated)} fits what it still runs, if it runs")
        found[name] = texts
    return found


def _duties(name: str, parts: Parts) -> Iterator[str]:
    """Yield what a host does for all others: the first one in the order of names does."""
    apps, workers = ([one for one in sorted(parts) if part in parts[one]] for part in ("app", "worker"))
    if name in apps[:1]:
        yield "it makes the backups at times"
    if name in (workers or apps)[:1]:
        yield "it runs the schedules and sends what is due at times"


def keep(store: Store, names: Collection[str], by: str, commit: str) -> None:
    """Keep which hosts do not have a release.

    Args:
        by: who has left them out.
        commit: the one that all others serve.
    """
    if names:
        now = {"since": clock.now(), "by": by, "commit": commit}
        store.keep_excluded({**store.excluded(), **{name: store.excluded().get(name, now) for name in names}})


def rows(store: Store, commits: Mapping[str, str], seen: Seen, parts: Parts) -> dict[str, str]:
    """Return what is shown of each host that was left out; one that has caught up is forgotten.

    Args:
        commits: what each host serves.
        seen: the hosts as each balancer sees them; one that lets a host with the common release in has caught up.
        parts: those of each host of the site.
    """
    common, known = store.release()["commit"], store.excluded()
    current = {host for host, commit in commits.items() if commit == common}
    for name in known:
        if {*kinds.RELEASED} & {*parts.get(name, ())}:
            continue
        current |= {name} if any(seen.get(name, {}).get(host, {}).get("is_up") for host in current) else set()
    left = {name: one for name, one in known.items() if name in parts and name not in current}
    if left != known:
        store.keep_excluded(left)
    return {name: f"left out since {one['since']} by {one['by']}" for name, one in left.items()}
