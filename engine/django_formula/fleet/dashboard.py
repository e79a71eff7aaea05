"""A page of all hosts that answer a master; one that is silent is shown as it was when it last answered."""

import time
from collections.abc import Collection
from typing import Any, Protocol

from django_formula.fleet.minions import Answer
from django_formula.fleet.watch import LIMIT, shows, silent_hosts
from django_formula.host import file
from django_formula.page import document, pages, seen

#: What hosts have last answered, next to the page.
KEPT = "hosts.json"


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
    answers = hosts.ask(names, "django_fleet.seen", limit=LIMIT) if names else {}
    known = file.read_json(place / KEPT) or {}
    kept = seen.known_now(known, shows(answers), time.time())
    file.write_json(place / KEPT, kept, mode=0o600, durable=False)
    shown: list[document.Host] = [kept[name] for name in sorted(kept)]
    pages.write(place, shown)
    silent = silent_hosts(answers)
    return {"page": str(place / pages.NAME), "hosts": [host["host"] for host in shown], "silent": silent}
