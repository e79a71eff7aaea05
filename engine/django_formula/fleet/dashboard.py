"""A page of all hosts that answer a master; one that is silent is shown as it was when it last answered."""

import time
from collections.abc import Collection, Mapping
from typing import Any, Protocol

from django_formula.fleet.minions import Answer
from django_formula.fleet.watch import silent_hosts
from django_formula.host import file
from django_formula.page import document, pages, seen

#: What hosts have last answered, next to the page.
KEPT = "hosts.json"
#: Seconds after which a host that still looks at its sites is left out of the page.
_LIMIT = 30.0


class Hosts(Protocol):
    """Minions, or the hosts of a roster."""

    def ask(self, hosts: Collection[str], function: str, *, limit: float) -> dict[str, Answer]:
        """Call a function on hosts at once; return the answer of each."""


def write(folder: str, hosts: Hosts, names: Collection[str]) -> dict[str, Any]:
    """Write the page of hosts into a folder.

    Args:
        folder: its path.
        hosts: how they are asked.
        names: of all of them.

    Raises:
        DeploymentError: users other than root may write to the folder, or the master takes no jobs.
    """
    place = pages.safe(folder)
    answers = hosts.ask(names, "django_fleet.seen", limit=_LIMIT) if names else {}
    known = file.read_json(place / KEPT) or {}
    kept = known_now(known, answers, time.time())
    file.write_json(place / KEPT, kept, mode=0o600, durable=False)
    shown: list[document.Host] = [kept[name] for name in sorted(kept)]
    pages.write(place, shown)
    silent = silent_hosts(answers)
    return {"page": str(place / pages.NAME), "hosts": [host["host"] for host in shown], "silent": silent}


def known_now(known: Mapping[str, Any], answers: Mapping[str, Answer], now: float) -> dict[str, dict[str, Any]]:
    """Return what is known of hosts after they were asked.

    Args:
        known: what was known before, by their names: of hosts that had sites.
        answers: of all hosts of the master; others are forgotten.
        now: seconds since 1970.
    """
    found = {}
    for name, answer in answers.items():
        host = seen.checked(answer.value, name, now) if not answer.error else None
        before = seen.checked(known.get(name), name, now)
        if host:
            found[name] = {**host, "time": now}
        elif before and before["sites"]:
            found[name] = {**before, "silent": answer.error or "its answer is not one of this formula"}
    return {name: host for name, host in found.items() if host["sites"]}
