"""The step `store`: the servers of the site's own for its queue and caches."""

from collections.abc import Iterator

import django_store_setup
from django_deploy import Changes, Deployment


def store(deployment: Deployment) -> Iterator[Changes]:
    """Have the site's queue and caches in servers of its own; those that the pillar has no more are removed last."""
    pending = django_store_setup.pending(deployment.site, deployment.templates)
    if not pending:
        return
    yield {name: change for one in pending for name, change in one.changes().items()}
    deployment.take_lock()
    for one in pending:
        deployment.warn(filter(None, [django_store_setup.apply(one)]))
