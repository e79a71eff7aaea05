"""Who calls: the user who published a Salt job, a person by ssh, or the user who became root."""

import os
import re
from pathlib import Path
from typing import NamedTuple

from django_formula.host import proc, users

#: Set by `django-ops` for the Salt that it calls: the name of the person whose key it was.
PERSON = "DJANGO_OPS_PERSON"
_ASKED_BY = re.compile(r"(?P<verb>[\w.]+) by (?P<who>.+?)(?:, salt job (?P<job>\d+))?")


class Caller(NamedTuple):
    """Who calls.

    Attributes:
        who: the user.
        origin: the address that the user comes from; empty where it is not known.
        how: ``salt``, ``schedule``, ``ssh`` or ``terminal``.
        job: the number of the Salt job.
    """

    who: str
    origin: str = ""
    how: str = "terminal"
    job: str = ""


def of_this_process() -> Caller:
    """Return who has started this process, as its environment and its login name them."""
    environ = os.environ
    who = environ.get(PERSON) or environ.get("SUDO_USER") or _login() or "root"
    origin = environ.get("SSH_CONNECTION", "").split(" ")[0]
    return Caller(who, origin, "ssh" if origin else "terminal")


def of_request(asked_by: str) -> tuple[str, Caller]:
    """Return the function that was called, and by whom, of what `deploy.origin.asked_by` has returned."""
    found = _ASKED_BY.fullmatch(asked_by)
    if not found:
        return "deployment", Caller(asked_by, how="salt")
    if found["job"]:
        return found["verb"], Caller(found["who"], how="salt", job=found["job"])
    return found["verb"], of_this_process()._replace(who=found["who"])


def _login() -> str:
    """Return the user who logged in, also where another one was become since; empty without a login."""
    try:
        return users.user_name(int(Path(proc.PROC, "self/loginuid").read_text()))
    except (OSError, ValueError, OverflowError):
        return ""
