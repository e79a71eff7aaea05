"""The steps of a release in their order, as data: what states, documents and `django.steps` say of each.

What a step does is in ``deploy/step_….py``, and `deploy.steps` has the functions. This module runs
while Salt renders too (`django_pillar_render`), so it imports the standard library and `kind.kinds` only.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

from django_formula.kind import kinds


def _always(site: Mapping[str, Any]) -> bool:
    return True


class Step(NamedTuple):
    """What is said of a step.

    Attributes:
        name: of its function, and of the state function.
        state: what the id of its state says of a site: ``blog has its source``.
        subject: what it is about, and `done` what is done to that, for comments.
        does: what it does, in the present tense.
        user: who runs what it runs of the project: ``root`` where it runs nothing.
        is_for: whether a site has the step, by its configuration.
    """

    name: str
    state: str
    subject: str
    done: str
    does: str
    user: str = "root"
    is_for: Callable[[Mapping[str, Any]], bool] = _always


#: Every step in its order.
STEPS = (
    Step(
        "site",
        "has its directories",
        "site directories and configuration",
        "updated",
        "creates the site's directories, records its configuration, and sets up the mirror of its repository",
    ),
    Step(
        "database",
        "has its databases",
        "databases and logins",
        "created",
        "sets up the site's login and database on a server of this host",
        is_for=lambda site: any(database["manage"] for database in site["databases"].values()),
    ),
    Step(
        "store",
        "has its stores",
        "queue and caches",
        "set up",
        "sets up the site's own servers for its queue and caches",
        is_for=lambda site: bool(kinds.own_stores(site)),
    ),
    Step(
        "tls",
        "has its certificates",
        "certificates",
        "installed",
        "has a certificate for each domain, a temporary one until it is ordered",
        is_for=lambda site: site["tls"]["kind"] != "none",
    ),
    Step(
        "source",
        "has its source",
        "source",
        "exported",
        "decides whether there is a new release: resolves the revision, fetches it, exports its files and submodules",
    ),
    Step(
        "virtualenv",
        "has its virtualenv",
        "virtualenv",
        "built",
        "installs the requirements with uv, or shares the virtualenv of an older release",
        "build user",
    ),
    Step(
        "build",
        "is built",
        "build commands",
        "run",
        "runs the build commands, compiles the source, links shared, makes writable folders, copies writable_packages",
        "build user",
    ),
    Step(
        "secret_key",
        "has its secrets",
        "secrets",
        "written",
        "generates missing secrets, stores those of the pillar",
    ),
    Step(
        "settings",
        "has its settings",
        "settings",
        "written",
        "writes the settings overlay, the environment and the pillar's files into the release",
    ),
    Step(
        "static",
        "has its static files",
        "static files",
        "collected",
        "starts Django once: effective settings, pending migrations, collectstatic",
        "site's user",
    ),
    Step(
        "push",
        "has its static files pushed",
        "static files",
        "pushed",
        "sends the static files that are missing at the destination to it",
        "a user of its own",
        lambda site: bool(site["static"].get("push")),
    ),
    Step(
        "migration",
        "has its database migrated",
        "migrations",
        "applied",
        "migrates, then runs Django's checks",
        "site's user",
    ),
    Step(
        "instance",
        "has its instance",
        "instance",
        "started",
        "starts the application server of the release, and runs the health check and the replay",
        "site's user",
    ),
    Step(
        "live",
        "is live",
        "active release",
        "switched",
        "renames current, watches the new instance while the old one drains, stops the old one, prunes",
    ),
    Step(
        "proxy",
        "is served",
        "proxy configuration",
        "updated",
        "writes the proxy's files, tests them, reloads if one has changed, and asks as visitors do",
    ),
    Step(
        "acme",
        "has its certificates ordered",
        "certificates",
        "ordered",
        "orders the certificates that are due; a failure is a warning",
        is_for=lambda site: site["tls"]["kind"] == "acme",
    ),
    Step(
        "schedules",
        "has its schedules",
        "schedules",
        "installed",
        "installs the timers of schedules, or their lines of cron",
        is_for=lambda site: "schedules" in site,
    ),
    Step(
        "record",
        "is recorded",
        "record of the release",
        "written",
        "writes release.json and a line in deploys.jsonl",
    ),
)
#: The state of each site after the steps of all sites, where a host has several.
DOMAINS = Step(
    "domains",
    "has its domains",
    "certificates",
    "ordered",
    "checks that the site has the domains that it gets from other sites of this apply, and orders their certificates",
)
#: Every step and `DOMAINS`, by name.
BY_NAME = {step.name: step for step in (*STEPS, DOMAINS)}


def steps(site: Mapping[str, Any]) -> list[Step]:
    """Return the steps that a site has.

    Args:
        site: its configuration.
    """
    return [step for step in STEPS if step.is_for(site)]


def states(site: Mapping[str, Any]) -> list[tuple[str, str]]:
    """Return the states of a site's steps: the function, and what the id says after the name of the site."""
    return [(step.name, step.state) for step in steps(site)]
