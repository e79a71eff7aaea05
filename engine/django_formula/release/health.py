"""The health check of a release: its page, requested until it is healthy, and the exception where it is not."""

import http.client
import itertools
import re
import time
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, NamedTuple
from urllib.parse import urlsplit

from django_formula.host import file
from django_formula.host.commands import FRAME, DeploymentError, seconds
from django_formula.knowledge import cause, hints
from django_formula.release import http as release_http
from django_formula.release import instances
from django_formula.release.http import Answer
from django_formula.server import servers
from django_formula.site import domains
from django_formula.site.sites import Site
from django_formula.untrusted.text import in_pillar, shown

#: How the hint begins where nothing is known of a cause.
GENERAL = "correct the project, or set "


class Finding(NamedTuple):
    """What a health page answered.

    Attributes:
        problem: what is wrong with it; empty when it is healthy.
        path: the path of the last request.
        status: its status, where there is a problem with that.
        target: the URL of a redirect that was not followed.
        said: the short text that came with an unexpected status, as health pages report what is wrong.
    """

    problem: str
    path: str = ""
    status: int = 0
    target: str = ""
    said: str = ""


def page_path(site: Site) -> str:
    """Return the path of the health page, below that of the site."""
    return f"{site.config['path'].rstrip('/')}{site.config['health']['path']}"


def hint(site: Site, release: Path, found: Finding, raised: str = "") -> str:
    """Return what to do about the answer of a health page.

    Args:
        raised: the exception that the page raises.
    """
    at = site.at
    facts = (file.read_json(release / "release.json") or {}).get("facts") or {}
    known = cause.hint(site, raised, facts) if raised else ""
    if known:
        return known
    if found.target:
        return _of_redirect(site, facts, found)
    if found.status == 400 and not _allows(site, facts):
        domain = site.canonical
        return (
            f"ALLOWED_HOSTS is {facts['allowed_hosts']}, without {domain}: add it, or correct {at}:domains; "
            f"the setting is {hints.setting(site, 'ALLOWED_HOSTS')}"
        )
    if found.status in (401, 403):
        return (
            f"set {at}:health:path to a page without a login, {at}:health:headers to what it requires, or "
            f"{at}:health:status: {in_pillar([*site.config['health']['status'], found.status])}"
        )
    if found.status == 429:
        return (
            f"the project limits how many requests it answers, and counts those of the health check: set "
            f"{at}:health:path to a page without such a limit, or have the project exempt it"
        )
    if found.status == 404:
        above = f"/{found.path.split('/')[1]}"
        is_below = site.config["path"] == "/" and str(facts.get("static_url", "")).startswith(f"{above}/")
        path = (
            f"{at}:path: {in_pillar(above)}, below which the project has its static files too, or " if is_below else ""
        )
        return f"the project has no page {found.path}: set {path}{at}:health:path to one that it has"
    if found.status == 405:
        server = f", or, where its ASGI module serves websockets only, {at}:server: {{kind: uwsgi}}"
        is_asgi = servers.configured(site).interface(site) == "asgi"
        return f"the project answers no GET at {found.path}: set {at}:health:path to a page{server if is_asgi else ''}"
    if found.said:
        return f"{GENERAL}{at}:health:path to a page that does not depend on what this one reports"
    return f"{GENERAL}{at}:health (path, status, contains, timeout)"


def _of_redirect(site: Site, facts: Mapping[str, Any], found: Finding) -> str:
    """Return what to do about a redirect: to https, to http, in a circle, or to another host."""
    at, target = site.at, urlsplit(found.target)
    if not domains.has(site.config["domains"], target.hostname):
        return (
            f"add {target.hostname} to {at}:domains if it is a name of this site, correct the setting that redirects "
            f"there, or set {at}:health:path to a page without the redirect"
        )
    https = facts.get("https") or {}
    passes = f"{at}:health:headers: {in_pillar({_scheme_header(https): 'https'})}"
    if target.scheme == "https" and site.scheme == "http":
        setting = hints.setting(site, "SECURE_SSL_REDIRECT")
        switch_off = f"switch SECURE_SSL_REDIRECT off ({setting}), or " if https.get("redirect") else ""
        return (
            f"the project redirects to https, and the site has no tls: set {at}:tls; where a proxy in front has the "
            f"certificate, set {at}:proxy:trusted to its address and {passes}; "
            f"or {switch_off}set {at}:health:path to a page without the redirect"
        )
    if found.problem.startswith("redirected to"):
        return f"correct the project, or set {at}:health:path to a page without the redirect"
    if https.get("redirect") and site.scheme == "https":
        header = hints.setting(site, "SECURE_PROXY_SSL_HEADER")
        return (
            "SECURE_SSL_REDIRECT is on, and the project takes a request over https for one over http: set "
            f"{header} to [HTTP_X_FORWARDED_PROTO, https], or {passes}"
        )
    return f"the page redirects in a circle: correct the project, or set {at}:health:path to another page"


def _scheme_header(https: Mapping[str, Any]) -> str:
    """Return the header by which the project recognises requests over https."""
    name = str(https.get("header") or "HTTP_X_FORWARDED_PROTO").removeprefix("HTTP_")
    return name.replace("_", "-").title()


def _allows(site: Site, facts: Mapping[str, Any]) -> bool:
    """Return whether the project's ALLOWED_HOSTS has the domain of the request, as far as it is known."""
    domain = f".{site.canonical}"
    hosts = facts.get("allowed_hosts", ["*"])
    return any(host == "*" or f".{host}" == domain or (host[:1] == "." and domain.endswith(host)) for host in hosts)


#: Seconds without a new line after which a log counts as written.
_SETTLES = 0.4
_REDIRECTS = (301, 302, 303, 307, 308)
_HOPS = 5
#: So many equal answers in a row decide, where the answer of a release does not change by itself.
_EQUAL = 3
#: 4xx that tell to try again: Request Timeout, Locked, Too Early, Too Many Requests.
_LATER = (408, 423, 425, 429)
#: The problems of a page whose view raises; where Django's own handlers raise too, uWSGI closes the connection.
_RAISES = ("returned 500", "got no response (Remote end closed connection without response)")
#: The time that a line of supervisor's log begins with.
_TIME = re.compile(r"^\d{4}-\S+ ")
#: Characters of an answer that an error shows.
_SAID = 300
#: Frames of the project that an error shows.
_FRAMES = 3
_NOT_THE_PROJECTS = re.compile(r"^<|/site-packages/|/lib/python3|/django_formula_\w+\.py$")
_EXCEPTION = re.compile(r"(?:\d{4}-\S+ )?([A-Za-z_][\w.]*)(: .*)?$")
#: Exceptions that may be gone a moment later: a server that starts or is busy.
PASSING = re.compile(r"OperationalError|InterfaceError|Connection|Timeout|TimedOut|Unavailable|BlockingIO|gaierror")
#: Of these, those that stay: what a database server does not have.
_LASTING = re.compile(r"no such|does not exist|doesn't exist|unable to open|Unknown (column|database|table)|read-?only")
#: What a page says that needs rows which the database does not have, or another server.
_OF_ROWS = re.compile(
    r"DoesNotExist: |no answer within \d+ s \(|'NoneType' object has no attribute '\w+' \(\S*views?\b"
)


class NoPage(DeploymentError):
    """The health check's path has no page for every visitor, or one that needs rows of the database."""


class Raised(NamedTuple):
    """The exception that a page raises, with its last place in the project, and the lines of a log that show it."""

    exception: str
    log: str


#: Returns what a path of the release raises, where its log does not have it.
Explain = Callable[[str], Raised | None]


def check(site: Site, release: Path, explain: Explain = lambda path: None) -> None:
    """Request the health page until it is healthy, then once for each worker at the same time, three times in a row.

    Every worker is warm then: a first page takes several times as long as the next. While the page is not healthy,
    one request at a time is sent with growing pauses: a project may send a mail for each error. An answer that does
    not change by itself is not waited for: three equal ones decide.

    Args:
        explain: returns the exception of a page, where the log does not have it.

    Raises:
        DeploymentError: the page is not healthy within ``health:timeout``, or the application server exits.
    """
    first = instances.pid(site, release)
    wait = _Wait(site, release, explain)
    if not wait.until_healthy():
        raise wait.failure()
    last = instances.pid(site, release)
    if last is None:
        address = instances.address(site, release)
        raise DeploymentError(f"another process than the application server of {release.name} answers on {address}")
    if first not in (None, last):
        manager = instances.process_manager(site, release)
        raise DeploymentError(
            f"the application server of {release.name} exited during its health check",
            log=manager.journal(site, release, wait.began),
            hint=manager.where_the_log_is(site, release),
        )


class _Wait:
    """Waits until the health check of a release passes."""

    def __init__(self, site: Site, release: Path, explain: Explain):
        self.site, self.release = site, release
        self.began = time.time()
        self._explain = explain
        self._deadline = time.monotonic() + seconds(site.config["health"]["timeout"])
        self._found = Finding(_timed_out(site))
        self._raised: Raised | None = None

    def until_healthy(self) -> bool:
        """Return whether the page was healthy four times in a row before the deadline."""
        good, pause, equal = 0, 0.1, 0
        processes = instances.processes(self.site)
        with ThreadPoolExecutor(processes) as pool:
            while good <= 3:
                if time.monotonic() >= self._deadline:
                    return False
                found = self._request(pool, processes if good else 1)
                equal = equal + 1 if found._replace(said="") == self._found._replace(said="") else 1
                good = 0 if found.problem else good + 1
                # The last request has less time than it may take; the response before it tells more.
                if not (found.problem == _timed_out(self.site) and self._found.problem):
                    self._found = found
                if equal >= _EQUAL and self._is_final(equal):
                    return False
                if found.problem:
                    time.sleep(min(pause, max(self._deadline - time.monotonic(), 0)))
                    pause = min(pause * 1.5, 2)
        return True

    def _request(self, pool: ThreadPoolExecutor, at_once: int) -> Finding:
        """Return the first problem of some concurrent requests, or that there is none."""
        found = list(pool.map(lambda _: find(self.site, self.release, self._deadline), range(at_once)))
        return next((one for one in found if one.problem), Finding(""))

    def _is_final(self, equal: int) -> bool:
        """Return whether the release would answer as it does however long it is waited for."""
        found = self._found
        is_redirect = found.target or found.status in _REDIRECTS
        if is_redirect or (400 <= found.status < 500 and found.status not in _LATER):
            return True
        if equal > _EQUAL or not found.problem.startswith(_RAISES):
            return False
        self._look()
        text = self._raised.exception if self._raised else ""
        return bool(text) and not (PASSING.search(text) and not _LASTING.search(text))

    def _look(self) -> None:
        """Find out what the page raises: its log may have it."""
        journal = settled_journal(self.site, self.release, self.began)
        self._raised = raised_in(journal, self.release) or self._explain(self._found.path)

    def failure(self) -> DeploymentError:
        """Return the error of a health check that did not pass."""
        problem, log, exception = self._found.problem, "", ""
        if not problem:
            problem = f"{_timed_out(self.site)}: it is healthy, but too slow to be requested four times in a row"
        elif problem == _timed_out(self.site):
            self._raised = self._explain(self._found.path or page_path(self.site))
            exception, log = self._raised or ("", "")
            problem = f"{problem}: {exception}" if exception else problem
        if problem.startswith(_RAISES):
            if not self._raised:
                self._look()
            if self._raised:
                exception, log = self._raised
                problem = f"returned 500: {exception}"
        if self._found.said and not exception:
            problem = f"{problem}: {self._found.said}"
        log = log or settled_journal(self.site, self.release, self.began)
        evidence = exception or (log if problem == _timed_out(self.site) else "")
        path = self._found.path or page_path(self.site)
        is_page = self._found.status not in (401, 403, 404, 405, 429) and not _OF_ROWS.search(exception)
        kind = DeploymentError if is_page else NoPage
        return kind(
            f"health check failed: GET {path} on release {self.release.name} {problem}",
            log=log,
            hint=hint(self.site, self.release, self._found, evidence),
        )


def settled_journal(site: Site, release: Path, since: float) -> str:
    """Return a release's log since a time, once no more lines come: a response may arrive before its log lines."""
    manager = instances.process_manager(site, release)
    before, log = None, manager.journal(site, release, since)
    deadline = time.monotonic() + 3
    while log != before and time.monotonic() < deadline:
        time.sleep(_SETTLES)
        before, log = log, manager.journal(site, release, since)
    return log


def raised_in(log: str, release: Path) -> Raised | None:
    """Return the last exception with a traceback in a log, and the last places in the project's own code."""
    found, frames, has_frames = None, [], False
    for line, after in itertools.pairwise([*log.splitlines(), ""]):
        frame, exception = FRAME.match(line), _EXCEPTION.match(line)
        if frame:
            has_frames = True
            if not _NOT_THE_PROJECTS.search(frame["path"]):
                code = "" if FRAME.match(after) else _TIME.sub("", after).strip()
                path = frame["path"].removeprefix(f"{release}/source/")
                frames.append((f"{path}:{frame['line']}", frame["function"], code))
        elif has_frames and exception:
            text = exception[2] or ""  # never cut: a part of a secret would not be masked
            place = f" ({frames[-1][0]})" if frames else ""
            raised = f"{exception[1]}{text if len(text) <= 400 else ''}{place}"
            shown = [f"{where} in {function}: {code}" for where, function, code in frames[-_FRAMES:]]
            found = Raised(raised, "\n".join([*shown, raised]) if shown else log)
            frames, has_frames = [], False
    return found


def page(site: Site) -> dict[str, Any]:
    """Return what decides which page is requested, and what a healthy one is, for the record of a release."""
    health = {key: site.config["health"][key] for key in ("path", "status", "contains")}
    return {"domain": site.canonical, "path": site.config["path"], "health": health}


def as_checked(site: Site, record: Mapping[str, Any]) -> Site:
    """Return a site with the domain, path and health page of the time when a release passed its health check.

    An older release may have no page where the pillar has it now. Headers are those of now, since they may be secret.

    Args:
        record: that of the release.
    """
    checked = record.get("page")
    if not checked or checked == page(site):
        return site
    config = {
        **site.config,
        "domains": [checked["domain"], *site.config["domains"]],
        "path": checked["path"],
        "health": {**site.config["health"], **checked["health"]},
    }
    return Site(config, site.platform)


def problem_of(site: Site, release: Path, deadline: float) -> str:
    """Return the problem of a release's health page, requested at its own socket; empty when it is healthy."""
    return find(site, release, deadline).problem


def find(site: Site, release: Path, deadline: float) -> Finding:
    """Return what a release's health page answers, requested at its own socket."""
    return _find(site, release, deadline)[0]


def body(site: Site, release: Path, deadline: float) -> str:
    """Return the health page of a release, requested at its own socket; empty where it is not healthy."""
    found, answers = _find(site, release, deadline)
    return answers[-1].body if answers and not found.problem else ""


def home(site: Site, release: Path, deadline: float) -> tuple[int, str]:
    """Return how a release answers at the path of its site, and the page; 0 and no page if the health page is there."""
    health = {**site.config["health"], "path": "/", "contains": ""}
    if site.config["health"]["path"] in ("/", ""):
        return 0, ""
    found, answers = _find(Site({**site.config, "health": health}, site.platform), release, deadline)
    return (answers[-1].status, "" if found.problem else answers[-1].body) if answers else (0, "")


def _find(site: Site, release: Path, deadline: float) -> tuple[Finding, list[Answer]]:
    """Return what a release's health page answers, and the answers of all requests: redirects are followed."""
    headers = site.config["health"]["headers"]
    answers: list[Answer] = []

    def at_socket(path: str, timeout: float) -> Answer:
        answers.append(release_http.get(site, release, path, scheme=site.scheme, headers=headers, timeout=timeout))
        return answers[-1]

    return _examine(site, at_socket, deadline, site.scheme), answers


def problem(site: Site, get: Callable[[str, float], Answer], deadline: float, scheme: str = "http") -> str:
    """Return the problem of the health page, as `look` finds it; empty when it is healthy."""
    return _examine(site, get, deadline, scheme).problem


def _examine(site: Site, get: Callable[[str, float], Answer], deadline: float, scheme: str = "http") -> Finding:
    """Request the health page; redirects on the same host are followed.

    Args:
        get: requests a path within some seconds; it may raise OSError and http.client.HTTPException.
        deadline: when the response has to be complete, by the monotonic clock.
        scheme: that of the requests.
    """
    health = site.config["health"]
    path, base = page_path(site), f"{scheme}://{site.canonical}"
    url = base
    try:
        for _hop in range(_HOPS):
            answer = get(path, max(deadline - time.monotonic(), 0.05))
            if answer.status in health["status"]:
                missing = health["contains"] and health["contains"] not in answer.body
                return Finding(f"returned a page without {health['contains']!r}" if missing else "", path)
            if answer.status not in _REDIRECTS:
                expected = ", ".join(map(str, health["status"]))
                problem = f"returned {answer.status} (expected {expected})"
                return Finding(problem, path, answer.status, said=_said(answer))
            target = release_http.redirected(f"{base}{path}", answer)
            if target is None:
                location = shown(answer.headers["location"])
                return Finding(f"redirected to {location}, which is no URL", path, answer.status)
            url = target.geturl()
            if not domains.has(site.config["domains"], target.hostname) or target.scheme != scheme:
                return Finding(f"redirected to {url}", path, answer.status, url)
            path = release_http.target(target)
        return Finding(f"redirected {_HOPS} times, last to {path}", page_path(site), 0, url)
    except TimeoutError:
        return Finding(_timed_out(site), path)
    except (OSError, http.client.HTTPException) as error:
        return Finding(f"got no response ({shown(str(error))})", path)


def _said(answer: Answer) -> str:
    """Return a short answer that is JSON or plain text; empty for others: a part of a secret would not be masked."""
    kind, text = answer.headers.get("content-type", "").partition(";")[0].strip(), " ".join(answer.body.split())
    is_short = len(text) <= _SAID and text.isprintable()
    return text if is_short and re.fullmatch(r"application/(\w+\+)?json|text/plain", kind) else ""


def _timed_out(site: Site) -> str:
    return f"timed out after {site.config['health']['timeout']}"
