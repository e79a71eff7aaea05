"""The steps of a release, by their functions; `deploy.order` has what each is about.

A step is a generator: it looks, yields the changes that it would make, and acts when it is resumed. One that finds
nothing to do yields nothing. Each is a state; a dry run does not resume it. What is known only after it has acted, it
adds to the changes that it has yielded.
"""

from collections.abc import Callable, Iterator

from django_formula.deploy import order, proof_begin
from django_formula.deploy.deployment import Changes, Deployment
from django_formula.deploy.step_build import build, virtualenv
from django_formula.deploy.step_database import database, migration
from django_formula.deploy.step_instance import instance
from django_formula.deploy.step_live import live
from django_formula.deploy.step_proxy import acme, domains, proxy, tls  # noqa: F401 - a state of its own
from django_formula.deploy.step_record import record
from django_formula.deploy.step_settings import secret_key, settings
from django_formula.deploy.step_site import schedules, site, store
from django_formula.deploy.step_source import source
from django_formula.deploy.step_static import push, static
from django_formula.host.outcome import Outcome

Step = Callable[[Deployment], Iterator[Changes]]

#: Every step in its order; each is a state of its name. After those of all sites each has the state `domains`.
ORDER: tuple[Step, ...] = (
    site,
    database,
    store,
    tls,
    source,
    virtualenv,
    build,
    secret_key,
    settings,
    static,
    push,
    migration,
    instance,
    live,
    proxy,
    acme,
    schedules,
    record,
)
#: The steps of a release on the command line, for a site as its last apply configured it.
RELEASE: tuple[Step, ...] = tuple(step for step in ORDER if step not in (site, database, store, tls, acme, schedules))
#: The steps of a rollback.
BACK: tuple[Step, ...] = (instance, live, proxy, record)
#: The steps of which a dry run knows only that they would run, once there is a new release to make.
_OF_A_NEW_RELEASE = (virtualenv, build, settings, static, push, migration, instance, live, record)


def as_state(step: Step, deployment: Deployment) -> Iterator[Changes]:
    """Run a step as the states do: in a dry run, steps after a new source report the name of its release."""
    name = step.__name__
    is_later = name in [one.__name__ for one in _OF_A_NEW_RELEASE] or not deployment.release
    is_missing = not order.BY_NAME[name].is_for(deployment.site.config)
    if deployment.test and deployment.findings.planned and is_later and not is_missing:
        yield {"release": deployment.findings.planned, **deployment.findings.foreseen.get(name, {})}
    elif name != "site" or deployment.site.user_exists() or not deployment.test:
        yield from step(deployment)
    else:
        yield {str(deployment.site.root): "would be created"}


def walk(deployment: Deployment, steps: tuple[Step, ...]) -> Changes:
    """Run steps one after another; return the changes of each that had something to do, by its name."""
    taken: Changes = {}
    for step in steps:
        with deployment.step(step.__name__):
            for changes in step(deployment):
                taken[step.__name__] = changes
    return taken


def outcome(step: str, deployment: Deployment) -> Outcome:
    """Run a step as a state, in a dry run without its changes.

    Raises:
        DeploymentError: the step fails.
    """
    row, name = order.BY_NAME[step], deployment.site.name
    with deployment.step(step):
        work = as_state(globals()[step], deployment)
        changes = next(work, None)
        if changes and not deployment.test:
            next(work, None)
    subject, done = row.subject, row.done
    if changes and "canary" in changes:
        is_late = proof_begin.failing_tasks(deployment.site)
        subject, done = "new release", "compared after its switch" if is_late else "given a share of the visitors"
    done = f"{'would be ' if deployment.test else ''}{done}" if changes else "unchanged"
    return Outcome(f"{name}: {subject} {done}", changes or {})
