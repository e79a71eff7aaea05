"""Promotion of sites with several hosts: a commit is requested once it has proved itself on another site of the master.

The master has what is asked of it (`promote` of the pillar), how the deployments of the other site have ended, and who
has approved; the hosts of both sites say the rest. See docs/guides/promotion.md.
"""

from collections.abc import Iterator, Mapping
from typing import Any, NamedTuple

from django_formula.audit.caller import Caller
from django_formula.fleet import record, requests
from django_formula.fleet.deployment import Fleet
from django_formula.fleet.minions import Answer
from django_formula.fleet.store import Store
from django_formula.host.commands import DeploymentError
from django_formula.request import promotion
from django_formula.untrusted.text import in_command

#: Seconds after which a host is lost that does not say how it is; and one that does not plan a release.
_LIMIT, _PLAN = 60.0, 1800.0
#: Deployments of a site in which the last one that succeeded is searched.
_KNOWN = 1000
#: Results of deployments after which another release is active.
_RELEASED = ("released", "rolled back")


class Promotion(NamedTuple):
    """A commit that may become the next release of a site.

    Attributes:
        store: of the site that gets the commit.
        source: of the one whose hosts have it.
        commit: whole.
    """

    store: Store
    source: Store
    commit: str


def find(store: Store, commit: str | None = None) -> Promotion:
    """Return what can be promoted to a site.

    Args:
        commit: the one that is expected, by at least seven digits.

    Raises:
        DeploymentError: the site gets no commits from another one, nothing is active there, or another commit is.
    """
    wanted = store.promotion()
    if not wanted:
        raise DeploymentError(
            f"{store.site} gets its commits from no other site, as its hosts were applied last",
            hint=f"set django:sites:{store.site}:promote:from to the name of one with hosts, and apply",
        )
    source = Store(store.folder.parent, wanted["from"])
    active = source.release()["commit"]
    if not active:
        see = in_command("salt-run", "django.status", source.site)
        raise DeploymentError(f"nothing is active on {source.site}", hint=f"see: {see}")
    if commit is not None and (len(commit) < 7 or not active.startswith(commit)):
        deploy = in_command("salt-run", "django.deploy", source.site, commit)
        raise DeploymentError(
            f"{commit} is not active on {source.site}, but {active[:12]}", hint=f"release it there first: {deploy}"
        )
    return Promotion(store, source, active)


def refuse_unproved(found: Promotion, fleet: Fleet, source: Fleet, by: Caller) -> None:
    """Check that a commit has proved itself, and that people have approved it where that is wanted.

    Args:
        fleet: the hosts of the site that gets it.
        source: those of the other one.
        by: who promotes it, and whose own approval does not count.

    Raises:
        DeploymentError: it has not; all reasons are in it.
    """
    site, needed = found.store.site, found.store.promotion()["approve"]
    people = promotion.approvals(requests.place(found.store), found.commit) - {by.who}
    approve = in_command("salt-run", "django.approve", site)
    reasons = [
        *_of_record(found),
        *_of_hosts(found, fleet, source),
        *promotion.missing_approvals(people, needed, approve),
    ]
    instead = in_command("salt-run", "django.deploy", site, found.commit)
    promotion.refuse(reasons, found.commit, found.source.site, instead)


def _of_record(found: Promotion) -> Iterator[str]:
    """Yield what the deployments of the other site say against a commit."""
    source, after = found.source.site, found.store.promotion()["after"]
    known = record.history(found.store.folder.parent, source, _KNOWN)
    last = next((one for one in known if one["result"] in _RELEASED), {})
    if last.get("commit") != found.commit:
        yield f"the master has no record of its deployment on {source}"
        return
    yield from promotion.of_run(last["time"], last, after, source)


def _of_hosts(found: Promotion, fleet: Fleet, source: Fleet) -> Iterator[str]:
    """Yield what the hosts of both sites say against a commit."""
    olds, news = (one.ask("proof", one.released(), "proof", limit=_LIMIT) for one in (source, fleet))
    yield from dict.fromkeys(
        f"{host}: {answer.error}" for some in (olds, news) for host, answer in sorted(some.items()) if answer.error
    )
    for host, old in _answered(olds):
        if old["commit"] != found.commit:
            yield f"{host} of {source.site} has {old['commit'][:12] or 'no release'}"
        elif old["problem"]:
            yield f"{host} of {source.site} does not answer well: {old['problem']}"
    pairs = [(old, new) for _host, old in _answered(olds) for _other, new in _answered(news)]
    yield from dict.fromkeys(text for old, new in pairs for text in _differences(source.site, fleet.site, old, new))


def _answered(answers: Mapping[str, Answer]) -> Iterator[tuple[str, dict[str, Any]]]:
    return ((host, answer.value) for host, answer in sorted(answers.items()) if not answer.error)


def _differences(source: str, site: str, old: Mapping[str, Any], new: Mapping[str, Any]) -> Iterator[str]:
    yield from promotion.of_packages(source, old["packages"], new["packages"])
    if old["python"] and new["python"] and old["python"] != new["python"]:
        yield f"{source} runs it on Python {old['python']}, and {site} has {new['python']}"


def plan(found: Promotion, fleet: Fleet) -> dict[str, Any]:
    """Return the plan of the release, which the first host of the site makes.

    Raises:
        DeploymentError: the host fails, or the commit would not be released.
    """
    host = fleet.recipients()[0]
    answer = fleet.ask("plan", [host], "plan", found.commit, limit=_PLAN)[host]
    if answer.error:
        raise DeploymentError(f"plan failed on {host}: {answer.error}")
    made: dict[str, Any] = answer.value["plan"]
    if "refused" in made:
        see = in_command("salt", host, "django.plan", fleet.site, found.commit)
        raise DeploymentError(f"{found.commit[:12]} would not be released: {made['refused']}", hint=f"see: {see}")
    return made


def approve(found: Promotion, by: Caller) -> dict[str, Any]:
    """Record that a person approves a commit; return who has."""
    requests.make(found.store)
    return promotion.keep_approval(requests.place(found.store), found.commit, by)
