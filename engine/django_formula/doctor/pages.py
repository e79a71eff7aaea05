"""What visitors get of a site: the page of the URL, its static files, and the folder of uploads."""

import http.client
import os
import re
import stat
import time
from pathlib import Path
from urllib.parse import quote, urlsplit

from django_formula.doctor import application
from django_formula.doctor.visit import APPLY, PATIENCE, Broken, Visit, to_start
from django_formula.host import proc, template, users
from django_formula.host.commands import DeploymentError
from django_formula.release import http as release_http
from django_formula.release import static as release_static
from django_formula.release.health import Finding
from django_formula.release.http import Answer
from django_formula.site import domains, sites
from django_formula.tls import certificates
from django_formula.untrusted.text import in_command, shown

_REDIRECTS = (301, 302, 303, 307, 308)
_HOPS = 5
#: What the proxy answers by the site's options: a login, access rules, a rate.
_RULES = (401, 403, 429)
#: What a site may answer at its own path, without a URL of the operator: it has no page there, or one with a login.
_NO_PAGE = (401, 403, 404, 405)
#: Bytes of the proxy's error log that are read, files of a page that are asked for, and the seconds for all of them.
_LOG, _FILES, _ALL = 1 << 16, 10, 4.0
#: The least part of a disk that is free for uploads.
_FREE = 0.02


# The page


def page(visit: Visit) -> str:
    """Return what visitors get of the URL: redirects to the same host are followed."""
    if not visit.proxy and not visit.site.listener:
        return ""
    target, since, seen = visit.target, time.time(), list[str]()
    while True:
        seen.append(target)
        begins = _size_of_log(visit)
        try:
            answer = visit.get(target)
        except (OSError, http.client.HTTPException) as error:
            if visit.is_secure and certificates.requires_clients(visit.site):
                return f"GET {target} requires a certificate of the client"
            raise _unanswered(visit, target, error, begins) from None
        if answer.status not in _REDIRECTS:
            return _judged(visit, target, answer, begins, since)
        goal = release_http.redirected(f"{visit.scheme}://{visit.host_header}{target}", answer)
        if goal is None:
            text = f"GET {target} is redirected to {shown(answer.headers['location'])}, which is no URL"
            raise application.wrong(visit, text, Finding(text, target, answer.status), since)
        if (goal.scheme, goal.netloc) != (visit.scheme, visit.host_header):
            return _elsewhere(visit, target, answer, goal.geturl())
        target = release_http.target(goal)
        if target in seen or len(seen) > _HOPS:
            text = f"GET {visit.target} is redirected in a circle: {' → '.join([*seen, target][-3:])}"
            raise application.wrong(visit, text, Finding(text, target, 0, goal.geturl()), since)


def _elsewhere(visit: Visit, target: str, answer: Answer, goal: str) -> str:
    """Return where a page redirects to: another host, or the same by another scheme."""
    site, parts = visit.site, urlsplit(goal)
    text = f"GET {target} returned {answer.status} to {goal}"
    is_own = domains.has(site.config["domains"], parts.hostname)
    if is_own and parts.scheme == "https" and not site.public_https:
        finding = Finding(text, target, answer.status, goal)
        raise application.wrong(visit, f"{text}, and {site.name} has no https", finding, time.time())
    return text


def _unanswered(visit: Visit, target: str, error: Exception, begins: int) -> Broken:
    """Return why the proxy does not answer, though Django does."""
    why = f"has no answer within {PATIENCE:.0f} s" if isinstance(error, TimeoutError) else f"fails: {error}"
    return _of_proxy(visit, f"GET {target} through the proxy {why}{_logged(visit, target, begins)}")


def _judged(visit: Visit, target: str, answer: Answer, begins: int, since: float) -> str:
    """Return that an answer is right, next to what the release itself answers.

    Raises:
        Broken: it is not.
    """
    text = f"GET {target} returned {answer.status}"
    if answer.status < 400:
        visit.page = answer.body
        return text
    own = _own(visit, target)
    if own != answer.status:
        if answer.status in _RULES and own < 400:
            return f"{text}: by rules of the proxy"
        raise _of_proxy(visit, f"{text}, and the release {own or 'does not answer'}{_logged(visit, target, begins)}")
    if visit.is_own and own in _NO_PAGE:
        return f"{text}, as the release answers; its health check passes"
    raise application.wrong(visit, text, Finding(f"returned {own}", target, own), since)


def _own(visit: Visit, target: str) -> int:
    """Return the status of the same page from the release's own socket; 0 where it does not answer."""
    try:
        return release_http.get(
            visit.site, visit.release.path, target, host=visit.host_header, scheme=visit.scheme, timeout=PATIENCE
        ).status
    except (OSError, http.client.HTTPException):
        return 0


def _of_proxy(visit: Visit, text: str) -> Broken:
    """Return what cures a proxy that answers otherwise than the release: its files are changed, or not loaded."""
    proxy = visit.proxy
    drifted = [path for path in visit.drifted() if proxy and Path(path).is_relative_to(proxy.etc)]
    if drifted:
        return Broken(f"{text}; {drifted[0]} is not as the formula wrote it", APPLY, link="virtual host")
    if not proxy:
        return Broken(text, APPLY)
    reload = to_start(proxy.DAEMON, "reload")
    can_compare = template.can_render()  # the watch cannot, so that the files may be changed
    return Broken(text, reload if can_compare else f"{APPLY} && {reload}")


def _size_of_log(visit: Visit) -> int:
    """Return the size of the proxy's error log, from which on its lines are of a request that follows."""
    try:
        return os.stat(visit.proxy.DAEMON.log).st_size if visit.proxy else 0
    except OSError:
        return 0


def _logged(visit: Visit, target: str, begins: int) -> str:
    """Return the last line that the proxy has written to its error log about this request, after a colon."""
    if not visit.proxy:
        return ""
    time.sleep(0.1)
    try:
        with open(visit.proxy.DAEMON.log, "rb") as log:
            log.seek(max(begins, os.fstat(log.fileno()).st_size - _LOG))
            lines = log.read(_LOG).decode(errors="replace").splitlines()
    except OSError:
        return ""
    path = target.partition("?")[0]
    own = [
        line
        for line in lines
        if (f'host: "{visit.host_header}"' in line and f'"GET {path}' in line) or re.search(r"\[proxy\w*:error\]", line)
    ]
    found = re.sub(r"^.*?\[error\] [\d#]+: (\*\d+ )?|, client: .*", "", own[-1]) if own else ""
    return f": {visit.plain(found[:300])}" if found else ""


# Static files


def static(visit: Visit) -> str:
    """Return that the stylesheets and scripts of the page are served."""
    live, url = visit.release, str(visit.release.facts.get("static_url") or "")
    if not visit.page or live.facts.get("collected") is None or not url or urlsplit(url).netloc:
        return ""
    names = release_static.linked(visit.site, url, visit.page)[:_FILES]
    deadline, served = time.monotonic() + _ALL, 0
    for name in names:
        if time.monotonic() > deadline:
            break
        served += 1
        _serve(visit, f"{url}{quote(name)}", live.path / "static" / name)
    return f"{served} of {len(names)} static files of the page were asked for, and are served" if names else ""


def _serve(visit: Visit, target: str, path: Path) -> None:
    begins = _size_of_log(visit)
    try:
        status = visit.get(target).status
    except (OSError, http.client.HTTPException) as error:
        raise _unanswered(visit, target, error, begins) from None
    if status == 200:
        return
    text = f"GET {target}, which the page needs, returned {status}"
    for one in [*reversed(path.parents), path]:
        try:
            found = os.stat(one)
        except OSError:
            missing = in_command("salt-call", "django.collectstatic", visit.site.name)
            is_changed = any(Path(drifted) == one for drifted in visit.drifted())
            todo = f"correct the name in the project, or have {visit.site.at}:build create it"
            raise Broken(f"{text}: {one} is missing", missing if is_changed else "", todo) from None
        right = users.ENTER if stat.S_ISDIR(found.st_mode) else users.READ
        user = visit.site.platform["nginx"]["user"]
        if not users.may(right, one, user):
            command = in_command("chmod", "a+rX", str(one))
            raise Broken(f"{text}: {user} cannot read {one} ({application.ownership(found)})", command)
    raise _of_proxy(visit, f"{text}{_logged(visit, target, begins)}")


# Uploads


def media(visit: Visit) -> str:
    """Return that the site can write uploads."""
    site, folder = visit.site, visit.site.media
    found = folder.status()
    if found is None:
        raise Broken(f"{folder} is missing", APPLY)
    try:
        sites.refuse_unmounted_media(site)
    except DeploymentError as error:
        raise Broken(error.message, todo=error.hint) from None
    if sites.is_media_shared(site):
        return f"{folder} is mounted"
    if found.st_uid != users.user_id(site.user) or found.st_mode & 0o300 != 0o300:
        owner = in_command("chown", "--no-dereference", f"{site.user}:{site.proxy_group}", str(folder))
        text = f"{site.user} may not write to {folder} ({application.ownership(found)})"
        raise Broken(text, f"{owner} && {in_command('chmod', '2750', str(folder))}")
    disk = os.statvfs(folder.top)
    if disk.f_bavail < disk.f_blocks * _FREE:
        mounted = proc.mount(folder.top)
        todo = f"free some of it: du -xh --max-depth=2 {(mounted and folder) or '/'} | sort -h | tail"
        raise Broken(f"the disk of {folder} is full: {disk.f_bavail * disk.f_frsize >> 20} MB are free", todo=todo)
    return f"{site.user} may write to {folder}"
