"""The walk of `django.doctor` on each host that has releases of a site, and on its balancers."""

from django_formula.fleet.deployment import Fleet
from django_formula.fleet.minions import Answer

#: Seconds after which a host is lost whose walk has not ended: each link has a deadline of its own.
_LIMIT = 60.0


def walk(fleet: Fleet, url: str) -> dict[str, dict[str, str]]:
    """Walk through a site on its balancers and on all hosts with its releases at once.

    Those without a broken link are ``ok``.

    Args:
        url: what a visitor asks for; empty for the page at the site's own path.

    Returns:
        by host: the ``broken`` link, what is wrong with it (``text``), and what to ``do`` on that host; or the
        ``error`` of one that cannot walk or does not answer.

    Raises:
        DeploymentError: the store knows no host of the site, or the master takes no jobs.
    """
    answers = fleet.ask("doctor", [*fleet.names("balancer"), *fleet.released()], "doctor", url, limit=_LIMIT)
    return {host: _row(answer) for host, answer in sorted(answers.items())}


def is_whole(rows: dict[str, dict[str, str]]) -> bool:
    """Return whether no host has a broken link."""
    return all(row.keys() == {"ok"} for row in rows.values())


def _row(answer: Answer) -> dict[str, str]:
    if answer.error:
        return {"error": answer.error}
    links = answer.value["links"]
    broken = next((link for link in links if link["is_broken"]), None)
    if not broken:
        return {"ok": f"no broken link, from {links[0]['name']} to {links[-1]['name']}" if links else "no link"}
    cure = broken["command"] or broken["todo"]
    return {"broken": broken["name"], "text": broken["text"], **({"do": cure} if cure else {})}
