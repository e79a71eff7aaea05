"""The health check of a release: its page, requested until it is healthy, and the exception where it is not."""

import http.client
import re
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from urllib.parse import urljoin, urlsplit

import django_release_http
import django_release_instance
from django_host_command import DeploymentError, seconds
from django_release_http import Answer
from django_site import Site

#: Seconds without a new line after which a log counts as written.
_SETTLES = 0.4
_REDIRECTS = (301, 302, 303, 307, 308)
_HOPS = 5
#: The problems of a page whose view raises; where Django's own handlers raise too, uWSGI closes the connection.
_RAISES = ("returned 500", "got no response (Remote end closed connection without response)")
#: A frame of a traceback in a log, and the line with the exception after the last one; supervisor's begin with a time.
_FRAME = re.compile(r'(?:\d{4}-\S+ )?  File "([^"]+)", line (\d+)')
_EXCEPTION = re.compile(r"(?:\d{4}-\S+ )?([A-Za-z_][\w.]*)(: .*)?$")


def check(site: Site, release: Path) -> None:
    """Request the health page until it is healthy, then once for each worker at the same time, three times in a row.

    Every worker is warm then: a first page takes several times as long as the next. While the page is not healthy,
    one request at a time is sent with growing pauses: a project may send a mail for each error.

    Raises:
        DeploymentError: the page is not healthy within ``health:timeout``, or the application server exits.
    """
    began, first = time.time(), django_release_instance.pid(site, release)
    problem = _wait_for_health(site, release, time.monotonic() + seconds(site.config["health"]["timeout"]))
    if problem:
        raise _failure(site, release, problem, began)
    last = django_release_instance.pid(site, release)
    if last is None:
        address = django_release_instance.address(site, release)
        raise DeploymentError(f"another process than the application server of {release.name} answers on {address}")
    if first not in (None, last):
        manager = django_release_instance.process_manager(site, release)
        raise DeploymentError(
            f"the application server of {release.name} exited during its health check",
            log=manager.journal(site, release, began),
            hint=manager.where_the_log_is(site, release),
        )


def _wait_for_health(site: Site, release: Path, deadline: float) -> str:
    """Return the problem of the health page at the deadline; empty as soon as it is healthy."""
    late = _timed_out(site)
    slow = f"{late}: it is healthy, but too slow to be requested four times in a row"
    good, pause, problem = 0, 0.1, late
    processes = django_release_instance.processes(site)
    with ThreadPoolExecutor(processes) as pool:
        while good <= 3:
            if time.monotonic() >= deadline:
                return problem or slow
            at_once = processes if good else 1
            answers = list(pool.map(lambda _: problem_of(site, release, deadline), range(at_once)))
            found = next(filter(None, answers), "")
            # The last request has less time than it may take; the response before it tells more.
            problem = (problem or found) if found == late else found
            good = 0 if problem else good + 1
            if problem:
                time.sleep(min(pause, max(deadline - time.monotonic(), 0)))
                pause = min(pause * 1.5, 2)
    return ""


def _failure(site: Site, release: Path, problem: str, began: float) -> DeploymentError:
    journal = _settled_journal(site, release, began)
    exception = raised_in(journal, release)
    if exception and problem.startswith(_RAISES):
        problem = f"returned 500: {exception}"
    return DeploymentError(
        f"health check failed: GET {site.config['health']['path']} on release {release.name} {problem}",
        log=journal,
        hint=f"correct the project, or set django:sites:{site.name}:health (path, status, contains, timeout)",
    )


def _settled_journal(site: Site, release: Path, since: float) -> str:
    """Return a release's log since a time, once no more lines come: a response may arrive before its log lines."""
    manager = django_release_instance.process_manager(site, release)
    before, log = None, manager.journal(site, release, since)
    deadline = time.monotonic() + 3
    while log != before and time.monotonic() < deadline:
        time.sleep(_SETTLES)
        before, log = log, manager.journal(site, release, since)
    return log


def raised_in(log: str, release: Path) -> str:
    """Return the last exception with a traceback in a log, and the last place in the project's own code."""
    raised = place = ""
    has_frames = False
    for line in log.splitlines():
        frame, exception = _FRAME.match(line), _EXCEPTION.match(line)
        if frame:
            has_frames = True
            if not re.search("^<|/site-packages/|/lib/python3", frame[1]):
                place = f" ({frame[1].removeprefix(f'{release}/source/')}:{frame[2]})"
        elif has_frames and exception:
            text = exception[2] or ""  # never cut: a part of a secret would not be masked
            raised = f"{exception[1]}{text if len(text) <= 400 else ''}{place}"
            place, has_frames = "", False
    return raised


def problem_of(site: Site, release: Path, deadline: float) -> str:
    """Return the problem of a release's health page, requested at its own socket; empty when it is healthy."""
    headers = site.config["health"]["headers"]

    def at_socket(path: str, timeout: float) -> Answer:
        return django_release_http.get(site, release, path, scheme=site.scheme, headers=headers, timeout=timeout)

    return problem(site, at_socket, deadline, site.scheme)


def problem(site: Site, get: Callable[[str, float], Answer], deadline: float, scheme: str = "http") -> str:
    """Return the problem of the health page; empty when it is healthy. Redirects on the same host are followed.

    Args:
        get: requests a path within some seconds; it may raise OSError and http.client.HTTPException.
        deadline: when the response has to be complete, by the monotonic clock.
        scheme: that of the requests.
    """
    health = site.config["health"]
    path = site.config["path"].rstrip("/") + health["path"]
    try:
        for _hop in range(_HOPS):
            answer = get(path, max(deadline - time.monotonic(), 0.05))
            if answer.status in health["status"]:
                missing = health["contains"] and health["contains"] not in answer.body
                return f"returned a page without {health['contains']!r}" if missing else ""
            if answer.status not in _REDIRECTS:
                return f"returned {answer.status} (expected {', '.join(map(str, health['status']))})"
            base = f"{scheme}://{site.config['domains'][0]}{path}"
            target = urlsplit(urljoin(base, answer.headers.get("location", "")))
            if target.hostname not in site.config["domains"] or target.scheme != scheme:
                return f"redirected to {target.geturl()}"
            path = target.path + (f"?{target.query}" if target.query else "")
        return f"redirected {_HOPS} times, last to {path}"
    except TimeoutError:
        return _timed_out(site)
    except (OSError, http.client.HTTPException) as error:
        return f"got no response ({error})"


def _timed_out(site: Site) -> str:
    return f"timed out after {site.config['health']['timeout']}"
