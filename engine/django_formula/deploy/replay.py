"""The replay: a new release answers what visitors have requested as the active one does, or gets none of them."""

import time
from typing import Any

from django_formula.deploy.deployment import Deployment
from django_formula.host.commands import DeploymentError
from django_formula.knowledge import cause
from django_formula.project import page
from django_formula.proof import judge
from django_formula.proof.judge import Line
from django_formula.proxy import access_log, proxies
from django_formula.proxy.access_log import Url
from django_formula.release import health, instances
from django_formula.release import replay as release_replay
from django_formula.release.releases import Release
from django_formula.site.sites import Site
from django_formula.untrusted import delegate, shapes
from django_formula.untrusted.text import Log, shown

log = Log.of(__name__)

#: URLs with ``replay: true``.
_USUAL = 200
#: Seconds that the process with the requests may take: more than they do.
_TIMEOUT = 200
#: URLs that an error or a warning names, and the length of their texts.
_NAMED, _LONGEST = 5, 300


def outlook(site: Site, live: Release | None) -> str:
    """Return what a release will have to prove; empty where nothing."""
    if not (site.config["releases"].get("replay") and live):
        return ""
    urls = _urls(site, live)
    count = f"{len(urls)} URLs that visitors got" if urls else f"nothing yet, since {_why_none(site)}"
    return f"{count}: requested from {live.name} and the new release before the switch" if urls else count


def prove(deployment: Deployment, release: Release) -> str:
    """Request what visitors have requested from the active release and a new one; return what came of it.

    Raises:
        DeploymentError: the new release fails where the active one does not.
    """
    site, live = deployment.site, deployment.live
    if not site.config["releases"].get("replay"):
        return ""
    if not live or live.name == release.name or not _answers(site, live):
        return _nothing(release, "no active release runs")
    urls = _urls(site, live)
    if not urls:
        return _nothing(release, _why_none(site))
    log.info("%s: requesting %s URLs from %s and %s", site.name, len(urls), live.name, release.name)
    found = _compare(site, live, release, urls)
    refused = [one for one in found["differences"] if one["kind"] != "gone"]
    heavier = "" if refused else _heavier(site, live, release, found)
    if heavier:  # again, since the new release may have had caches to fill
        heavier = _heavier(site, live, release, _compare(site, live, release, urls))
    gone = [one for one in found["differences"] if one["kind"] == "gone"]
    texts = [_text(one, live) for one in found["differences"]]
    counts = {key: found[key] for key in ("compared", "pages", "failing", "left", "seconds")}
    texts += [heavier] if heavier else []
    counts["measured"] = len(found["cpu"])
    release.update(replay={**counts, "refused": len(refused) + bool(heavier), "differences": texts})
    if refused:
        raise _failure(deployment, live, release, refused, found)
    if heavier:
        raise DeploymentError(f"replay failed: {heavier}; {found['compared']} URLs were compared", hint=_as_it_is(site))
    if not found["pages"]:
        deployment.warn([f"the replay has shown little: {_summary(found, live)}"])
    if gone:
        more = f" and {len(gone) - _NAMED} more" if len(gone) > _NAMED else ""
        named = ", ".join(_shown(one) for one in gone[:_NAMED])
        deployment.warn([f"pages that visitors got from {live.name} are gone in {release.name}: {named}{more}"])
    return _summary(found, live)


def _answers(site: Site, live: Release) -> bool:
    return instances.serves(live.path) and instances.pid(site, live.path) is not None


def _nothing(release: Release, why: str) -> str:
    """Record that nothing was compared, and return why."""
    release.update(replay={"compared": 0, "refused": 0, "why": why})
    return f"nothing was compared: {why}"


def _urls(site: Site, live: Release) -> list[Url]:
    """Return URLs of the access log that both releases are requested for."""
    path, most = proxies.access_log(site), site.config["releases"].get("replay")
    urls = (str(live.facts.get(name) or "") for name in ("static_url", "media_url"))
    apart = [url for url in urls if url.startswith("/") and url != "/"]
    return access_log.visited(site, path, apart, _USUAL if most is True else most) if path else []


def _why_none(site: Site) -> str:
    path = proxies.access_log(site)
    return f"{path} has no page of a visitor that may be requested again" if path else "the proxy writes no log yet"


def _compare(site: Site, live: Release, release: Release, urls: list[Url]) -> dict[str, Any]:
    """Request the URLs from both releases as the site's user.

    Raises:
        DeploymentError: the process of the site's user ended without a usable answer.
    """
    sides = [
        release_replay.side(site, live.path, live.facts),
        release_replay.side(site, release.path, release.facts, live.path),
    ]
    doing = "requesting what visitors have requested"
    asked = (*sides, [tuple(url) for url in urls], _allowed(site, live, release)["queries"])
    found: dict[str, Any] = delegate.ask(site.user, release_replay.compare, *asked, doing=doing, timeout=_TIMEOUT)
    is_usable = shapes.fits(found, release_replay.SHAPE) and len(found["cpu"]) <= len(urls)
    if not is_usable or any(one["kind"] not in release_replay.KINDS for one in found["differences"]):
        raise DeploymentError(f"{doing}: it ended without a usable answer", transient=True)
    return found


def _allowed(site: Site, live: Release, release: Release) -> dict[str, float]:
    return judge.allowed(site.config["releases"], has_same_server=instances.have_same_server(live.path, release.path))


def _heavier(site: Site, live: Release, release: Release, found: dict[str, Any]) -> str:
    """Return how pages of the new release take more CPU, by the odds of a canary; empty where they do not."""
    both = judge.Judge(live.name, release.name, _allowed(site, live, release))
    for see, side, name in ((both.past, "old", live.name), (lambda line: both.see(line, 0.5), "new", release.name)):
        for number, cost in enumerate(found["cpu"]):
            see(Line(number, name, str(number), cost["route"], 0.0, cost[side], None, "", 200, False))
    return both.verdict.text if both.verdict and both.verdict.kind == "cpu" else ""


def _failure(
    deployment: Deployment, live: Release, release: Release, refused: list[dict[str, Any]], found: dict[str, Any]
) -> DeploymentError:
    """Return the error of a release that fails where the active one does not."""
    site = deployment.site
    first, *others = sorted(refused, key=lambda one: release_replay.KINDS.index(one["kind"]))
    exception, text = _raised(deployment, release, first) or ("", "")
    why = f": {exception}" if exception else ""
    count, compared = len(refused), found["compared"]
    least = "at least " if found["suspects"] > len(found["differences"]) else ""
    fail = "make more" if first["kind"] == "queries" else "fail"
    more = f"; {least}{count} of {compared} URLs {fail}" if count > 1 else f"; {compared} URLs were compared"
    names = f": {', '.join(_shown(one) for one in others[:_NAMED])}" if others else ""
    known = cause.hint(site, exception, release.facts) if exception else ""
    return DeploymentError(
        f"replay failed: GET {_shown(first)} on release {release.name} {shown(first['new'])[:_LONGEST]}{why}; "
        f"{live.name} {shown(first['old'])[:_LONGEST]}{more}{names}",
        log=text,
        hint=known or _as_it_is(site),
    )


def _as_it_is(site: Site) -> str:
    return f"{health.GENERAL}{site.at}:releases:replay: false to release it as it is"


def _raised(deployment: Deployment, release: Release, difference: dict[str, Any]) -> health.Raised | None:
    """Return the exception of a URL: its log has it after one more request, or the page is requested by a program."""
    if difference["kind"] != "fails" or difference["new"].startswith(release_replay.REDIRECTS):
        return None
    site, began = deployment.site, time.time()
    side = release_replay.side(site, release.path, release.facts)
    url = (difference["host"], difference["target"])
    delegate.ask(site.user, release_replay.ask, [side], url, doing="requesting a page again")
    raised = health.raised_in(health.settled_journal(site, release.path, began), release.path)
    explain = page.explain(site, release.path, release.facts, deployment.secrets.masked())
    return raised or explain(difference["target"])


def _summary(found: dict[str, Any], live: Release) -> str:
    failing = f", {found['failing']} fail in {live.name} too" if found["failing"] else ""
    others = found["compared"] - found["pages"] - found["failing"]
    failing += f", {others} are no pages without a login" if others > 0 else ""
    left = f"; there was no time for {found['left']} more" if found["left"] else ""
    return f"{found['compared']} URLs{failing}, none worse, {found['seconds']:g} s{left}"


def _shown(difference: dict[str, Any]) -> str:
    return shown(access_log.masked(difference["target"]))[:_LONGEST]


def _text(difference: dict[str, Any], live: Release) -> str:
    """Return a line of the record for a difference."""
    new, old = (shown(difference[key])[:_LONGEST] for key in ("new", "old"))
    return f"{_shown(difference)} {new}; {live.name} {old}"
