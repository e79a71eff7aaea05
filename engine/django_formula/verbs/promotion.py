"""The verbs `django.promote` and `django.approve`."""

from collections.abc import Sequence
from typing import Any

from django_formula.audit.caller import Caller
from django_formula.deploy import plan as deploy_plan
from django_formula.host.commands import DeploymentError
from django_formula.request import promotion
from django_formula.site import sites
from django_formula.untrusted.text import in_command
from django_formula.verbs import requests


def promote(
    name: str, commit: str | None, by: Caller, salt_call: Sequence[str], *, wait: bool, asked_by: str
) -> dict[str, Any]:
    """Request that the commit which has proved itself on another site is released; return its status and the plan.

    Args:
        commit: the one that is expected to be active there.
        salt_call: the command that calls Salt on this host.
        asked_by: by which function, for the record.

    Raises:
        DeploymentError: it has not proved itself, or the plan says that it would not be released.
    """
    found = promotion.find(sites.find(name), commit)
    promotion.refuse_unproved(found, by)
    plan = deploy_plan.make(name, found.commit, asked_by)
    if "refused" in plan:
        raise DeploymentError(
            f"{found.commit[:12]} would not be released: {plan['refused']}",
            hint=f"see: {in_command('salt-call', 'django.plan', name, found.commit)}",
        )
    origin = by._replace(how=f"promote from {found.source.name}")
    return {**requests.ask(name, found.commit, origin, salt_call, wait=wait, is_promoted=True), "plan": plan}


def approve(name: str, commit: str | None, by: Caller) -> dict[str, Any]:
    """Record that a person approves the promotion of a commit.

    Raises:
        DeploymentError: the commit is not active on the other site.
    """
    found = promotion.find(sites.find(name), commit)
    return promotion.approve(found.site, found.commit, by)
