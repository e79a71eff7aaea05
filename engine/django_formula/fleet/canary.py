"""What people decide of a canary on several hosts, whose deployment waits in another process of the master."""

import time
from typing import Any

from django_formula.fleet.store import Store
from django_formula.host.commands import DeploymentError
from django_formula.untrusted.text import in_command

#: Seconds between two looks at the deployment.
_LOOK = 0.5


def decide(store: Store, verb: str, by: str) -> dict[str, Any]:
    """Have all visitors get the new release, or the former one; return what they get, once its deployment has ended.

    Args:
        verb: ``promote`` or ``back``.
        by: who says so.

    Raises:
        DeploymentError: no release gets a share of the visitors.
    """
    deployment = store.proving()
    if not deployment:
        see = in_command("salt-run", "django.status", store.site)
        raise DeploymentError(f"no release of {store.site} gets a share of the visitors now", hint=f"see: {see}")
    store.set_order(deployment, verb, by)
    while store.last() == deployment and store.is_deployed():
        time.sleep(_LOOK)
    active = store.release()["commit"]
    if store.is_complete(deployment) != (verb == "promote"):
        history = in_command("salt-run", "django.history", store.site)
        raise DeploymentError(f"the deployment has ended otherwise: {active[:12]} is active", hint=f"see: {history}")
    return {"commit": active}
