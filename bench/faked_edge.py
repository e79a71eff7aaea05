"""In place of `_modules/django_fleet.py`: a host answers the master as it does in a deployment, and changes nothing.

What reads is the formula's own. So many minions can be on one host, and what a deployment costs their master is the
same: the verbs, their arguments and their answers are.
"""

from typing import Any

import django_engine

django_engine.use()

from django_formula.verbs import fleet  # noqa: E402

__virtualname__ = "django_fleet"

Answer = dict[str, Any]
#: Seconds of the steps of a release, as a host reports them.
_STEPS = {"source": 0.21, "virtualenv": 0.01, "build": 0.0, "settings": 0.05, "static": 0.28}


def __virtual__() -> str:
    return __virtualname__


def ready(site: str) -> Answer:
    return fleet.ready(site)


def resolve(site: str, revision: str | None = None) -> Answer:
    return {"commit": fleet.resolve(site, revision)}


def claim(site: str, deployment: str, by: str, until: float) -> Answer:
    return {}


def renew(site: str, deployment: str, until: float) -> Answer:
    return {"renewed": True}


def prepare(site: str, deployment: str, by: str, commit: str, sequence: int) -> Answer:
    return {"commit": commit, "pending": [], **_done(site)}


def migrate(site: str, deployment: str, by: str, until: float) -> Answer:
    return {"changes": {}, "migrated": [], **_done(site)}


def start(site: str, deployment: str, by: str, until: float, migrated: list[str]) -> Answer:
    return {"changes": {"unit": "started"}, **_done(site)}


def switch(site: str, deployment: str, by: str, until: float) -> Answer:
    return {"changes": {"live": "switched"}, **_done(site)}


def finish(site: str, deployment: str, by: str, first: str, known: Answer) -> Answer:
    return _done(site)


def abandon(site: str, deployment: str, by: str, keep: bool = False) -> Answer:
    return {}


def _done(site: str) -> Answer:
    release = fleet.ready(site)["release"]
    return {"release": release, "seconds": _STEPS, "warnings": []}
