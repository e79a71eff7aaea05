"""Entry points of what most sites never use: takeovers, compose files, and what balances sites between hosts.

Nothing else of the core imports these families (docs/decisions/0112): it names an entry, and calls it at once.
`test/style/test_entries.py` holds that each call fits its function.
"""

import importlib
from collections.abc import Callable
from typing import Any

#: The function of each entry: a module of the engine, and its name in it.
ENTRIES = {
    "takeover in progress": "takeover.takeovers:load",
    "takeover that is due": "takeover.takeovers:pending",
    "compose files": "compose.project:write_compose_files",
    "balance sites": "balancer.balancers:balance",
    "certificates of balancers": "balancer.plan:certificates",
    "sites that are balanced": "balancer.plan:recorded",
    "programs that balance": "balancer.plan:programs",
    "state of a backend": "balancer.plan:backend",
    "commits that are expected": "balancer.plan:expect",
}


def entry(name: str) -> Callable[..., Any]:
    """Return the function of an entry; its family is loaded now."""
    module, _colon, function = ENTRIES[name].partition(":")
    found: Callable[..., Any] = getattr(importlib.import_module(f"django_formula.{module}"), function)
    return found
