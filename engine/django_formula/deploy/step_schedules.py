"""The step `schedules`: the commands that run at times, once the release that has them is active."""

from collections.abc import Iterator

from django_formula.deploy.deployment import Changes, Deployment
from django_formula.schedule import schedules as schedule_schedules


def schedules(deployment: Deployment) -> Iterator[Changes]:
    """Have the timers of the site's schedules, or their lines of cron; those that it lost the step `site` removed."""
    stale: Changes = {**schedule_schedules.stale(deployment.site, deployment.templates)}
    if stale:
        yield stale
        schedule_schedules.apply(deployment.site, deployment.templates)
