"""The users of a site: the one that it runs as, its build user, and the user of its own queue and caches."""

from collections.abc import Collection

from django_formula.host import users
from django_formula.host.commands import DeploymentError


def title(name: str) -> str:
    """Return the full name of a user of a site, by which it is known that the user belongs to the site."""
    return f"Django site {name}"


def push_user(name: str) -> str:
    """Return the user who pushes to a site by git."""
    return f"{name}-push"


def missing(name: str, user: str, every: Collection[str], uid: int | None) -> list[str]:
    """Return the users of a site that this host does not have.

    Args:
        name: of the site.
        user: the user that it runs as, whom the pillar may name.
        every: all its users.
        uid: the number that the pillar has for `user`, or None.

    Raises:
        DeploymentError: a user has the name of one and does not belong to the site, or the number is not free.
    """
    found = {one: users.find_user(one) for one in every}
    for one, existing in found.items():
        is_own = one != user or user == name  # else the pillar names a user that may exist already
        if existing and is_own and existing.pw_gecos.split(",")[0] != title(name):
            raise DeploymentError(
                f"the user {one} exists on this host and does not belong to the site {name}",
                hint=f"set django:sites:{name}:user to another name",
            )
    existing = found[user]
    if uid and existing and existing.pw_uid != uid:
        raise DeploymentError(
            f"the user {user} has the number {existing.pw_uid} on this host, and django:sites:{name}:uid is {uid}",
            hint=f"stop the site, then: usermod --uid {uid} {user}; chown its files in the site's root; and apply",
        )
    if uid and not existing and (other := users.user_name(uid)):
        raise DeploymentError(
            f"{uid}, which django:sites:{name}:uid has, is the number of the user {other} on this host",
            hint="set it to a number that is free on all hosts of the site",
        )
    return [one for one, existing in found.items() if not existing]
