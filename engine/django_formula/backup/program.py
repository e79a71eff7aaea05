"""The program of a site's timer for backups, and what it shares with others: it requires neither Salt nor a master."""

import time
from collections.abc import Callable, Sequence

from django_formula.backup import backups
from django_formula.host import clock
from django_formula.host.commands import DeploymentError
from django_formula.release import releases
from django_formula.release.releases import Release
from django_formula.secret import secrets as secret_secrets
from django_formula.site import sites
from django_formula.untrusted.text import tell

_DAY = 86400.0
#: Seconds between two drills, by the word of the pillar.
DRILLS = {"daily": _DAY, "weekly": 7 * _DAY, "monthly": 30 * _DAY, "never": float("inf")}
#: Seconds by which a timer may be early, and between two tries of what has failed.
_EARLY, _AGAIN = 1800.0, _DAY


def is_due(period: float, *, done: str, tried: str, has_failed: bool) -> bool:
    """Return whether what a program does at times is to be done now.

    Args:
        period: seconds between two times.
        done: when it was done last, and `tried` when it was begun; empty for never.
        has_failed: whether the last time has.
    """
    return is_over(done, period) and (not has_failed or is_over(tried, _AGAIN))


def is_over(since: str, period: float) -> bool:
    """Return whether a period has passed since a moment; one that is yet to come was of a clock that was wrong."""
    now, moment = time.time(), clock.seconds(since)
    return now + _EARLY >= (moment if moment <= now else 0.0) + period


def main(name: str) -> int:
    """Back up a site as last applied, and return the exit code."""
    return with_active(name, _back_up)


def _back_up(live: Release, secrets: list[str]) -> Sequence[DeploymentError]:
    for path in backups.make(live.site, live, why=backups.BY_TIMER, secrets=secrets):
        tell(path)
    return []


def with_active(name: str, act: Callable[[Release, list[str]], Sequence[DeploymentError]]) -> int:
    """Act on the active release of a site as last applied, if it has one, and return the exit code of the program.

    Args:
        act: gets the release, and the secrets that no output may show; it returns what has failed, or raises it.
    """

    def work() -> Sequence[DeploymentError]:
        site = sites.find(name)
        live = releases.linked(site, site.current)
        if not live:
            tell(f"{name} has no active release yet")
            return []
        return act(live, secret_secrets.known(site))

    return exit_code(work)


def exit_code(work: Callable[[], Sequence[DeploymentError]]) -> int:
    """Do the work of a program, print what has failed, and return the exit code: 1 where something has.

    Args:
        work: returns what has failed, or raises it.
    """
    try:
        failures = work()
    except (DeploymentError, OSError) as error:
        tell(error, is_error=True)
        return 1
    for failure in failures:
        tell(failure, is_error=True)
    return 1 if failures else 0
