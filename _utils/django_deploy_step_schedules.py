"""The step `schedules`: the commands that run at times, once the release that has them is active."""

from collections.abc import Iterator

import django_schedule
from django_deploy import Changes, Deployment


def schedules(deployment: Deployment) -> Iterator[Changes]:
    """Have the timers of the site's schedules, or their lines of cron; those that it lost the step `site` removed."""
    stale: Changes = {**django_schedule.stale(deployment.site, deployment.templates)}
    if stale:
        yield stale
        django_schedule.apply(deployment.site, deployment.templates)
