"""The verb `django.hook`."""

from django_formula.request import hook_unit
from django_formula.site import sites


def hook(name: str, *, rotate: bool) -> dict[str, str]:
    """Return what a git server has to know of the webhook of a site.

    Args:
        rotate: whether it gets another secret first.

    Raises:
        DeploymentError: there is no such site, it has no webhook, or the pillar has the secret that is to be rotated.
    """
    site = sites.find(name)
    if rotate:
        hook_unit.rotate(site)
    return hook_unit.describe(site)
