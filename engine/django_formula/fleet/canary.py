"""What people decide of a canary on several hosts, whose deployment waits in another process of the master."""

import time
from typing import Any

from django_formula.fleet.deployment import Fleet
from django_formula.fleet.store import Store
from django_formula.host.commands import DeploymentError
from django_formula.untrusted.text import in_command

#: Seconds between two looks at the deployment.
_LOOK = 0.5
#: What is shown of a host's answer.
_SHOWN = ("release", "share", "cookie")


def decide(store: Store, verb: str, by: str) -> dict[str, Any]:
    """Have all visitors get the new release, or the former one; return what they get, once its deployment has ended.

    Args:
        verb: ``promote`` or ``back``.
        by: who says so.

    Raises:
        DeploymentError: no release gets a share of the visitors.
    """
    deployment = _proving(store)
    store.set_order(deployment, verb, by)
    while store.last() == deployment and store.is_deployed():
        time.sleep(_LOOK)
    active = store.release()["commit"]
    if store.is_complete(deployment) != (verb == "promote"):
        history = in_command("salt-run", "django.history", store.site)
        raise DeploymentError(f"the deployment has ended otherwise: {active[:12]} is active", hint=f"see: {history}")
    return {"commit": active}


def share(fleet: Fleet, percent: str | int | None, *, token: bool | None) -> dict[str, Any]:
    """Change which share of the visitors gets the new release on all hosts, and whether a token does.

    Args:
        percent: from 0 to 50; the steps of the pillar do not go on then. None leaves the share as it is.
        token: whether people get the release by a cookie, the same on all hosts; None leaves it as it is.

    Returns:
        ``release``, ``share`` and ``cookie``, as `django.canary` of a host.

    Raises:
        DeploymentError: no release gets a share of the visitors; or a host does not change it.
    """
    deployment = _proving(fleet.store)
    hosts = fleet.store.sharing() or fleet.names("app")  # a deployment may have left hosts out
    try:
        answers = fleet.phase("share", hosts, "share", deployment, percent, token)
    except DeploymentError as error:
        again = in_command("salt-run", "django.back", fleet.site)
        error.hint = f"the others may have it: do it again, or give all visitors the former release: {again}"
        raise
    value = answers[hosts[0]].value
    return {key: value[key] for key in _SHOWN if key in value}


def _proving(store: Store) -> str:
    """Return the id of the deployment whose release gets a share of the visitors.

    Raises:
        DeploymentError: none does.
    """
    deployment = store.proving()
    if not deployment:
        see = in_command("salt-run", "django.status", store.site)
        raise DeploymentError(f"no release of {store.site} gets a share of the visitors now", hint=f"see: {see}")
    return deployment
