"""The application server of one release: its files and units, whether it runs, answers and is idle, how it stops."""

import contextlib
import http.client
import json
import os
import re
import socket
import struct
import time
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, NamedTuple
from urllib.parse import unquote, urljoin, urlsplit

import django_command
import django_sandbox
import django_settings
import django_site
from django_command import DeploymentError, seconds
from django_site import Site

UNITS = Path("/etc/systemd/system")
RUN = Path("/run")
PROC = Path("/proc")
#: The templates of a release's configuration.
UWSGI, SERVICE, SOCKET = (
    "salt://django/files/uwsgi.ini",
    "salt://django/files/django.service",
    "salt://django/files/django.socket",
)

_ACCEPTING = 0x10000
_REDIRECTS = (301, 302, 303, 307, 308)


class Answer(NamedTuple):
    """An HTTP response: status, headers (names in lower case), the first 64 KiB of the body."""

    status: int
    headers: dict[str, str]
    body: str


def unit(site: Site, release: Path) -> str:
    """The name of a release's units, without suffix: ``django-blog-0042``."""
    return f"django-{site.name}-{release.name.split('-')[0]}"


def address(site: Site, release: Path) -> str:
    """Where the instance of a release listens: the path of its socket, or ``host:port``.

    Releases take turns on two ports; none takes that of the live one.
    """
    recorded = django_site.read_json(release / "config/instance.json")
    if recorded:
        return str(recorded["address"])
    bind = site.config["server"]["bind"]
    sequence = release.name.split("-")[0]
    if bind == "unix":
        return f"{site.runtime}/{sequence}.sock"
    host, _colon, port = bind.rpartition(":")
    one, other = (f"{host}:{int(port) + (int(sequence) + turn) % 2}" for turn in (0, 1))
    taken = (django_site.read_json(site.current / "config/instance.json") or {}).get("address")
    return other if one == taken else one


def kind(release: Path) -> tuple[str, str]:
    """How nginx reaches a release: (``unix`` or ``tcp``, protocol). Where two differ in it, a rename is not enough."""
    recorded = django_site.read_json(release / "config/instance.json") or {"address": "/", "protocol": "uwsgi"}
    return ("unix" if recorded["address"].startswith("/") else "tcp", recorded["protocol"])


def configuration(site: Site, release: Path, facts: Mapping[str, Any], templates: Mapping[str, str]) -> dict[str, str]:
    """The server's configuration and the units of a release: file name in ``config/`` → content."""
    name = unit(site, release)
    server = site.config["server"]
    variables = {
        "site": site.config,
        "release": str(release),
        "unit": name,
        "address": address(site, release),
        "facts": facts,
        "chdir": str(django_settings.project_folder(site, release, facts)),
        "processes": processes(site),
        "binary": str(_binary(release)),
        "sandbox": django_sandbox.directives(site, release, facts),
        "proxy_group": site.proxy_group,
        "stop_timeout": int(seconds(site.config["releases"]["drain"])) + 10,
        "unix": server["bind"] == "unix",
    }
    listens = {"address": variables["address"], "protocol": server["protocol"]}
    return {
        "instance.json": json.dumps(listens) + "\n",
        "upstream.conf": f"server {'unix:' if variables['unix'] else ''}{variables['address']};\n",
        "uwsgi.ini": django_settings.render(templates, UWSGI, **variables),
        f"{name}.service": django_settings.render(templates, SERVICE, **variables),
        f"{name}.socket": django_settings.render(templates, SOCKET, **variables),
    }


def _binary(release: Path) -> Path:
    """What uWSGI executes when it reloads: the interpreter where ``uwsgi`` is a script (pyuwsgi), else itself."""
    uwsgi = release / "virtualenv/bin/uwsgi"
    with open(uwsgi, "rb") as file:
        return uwsgi.with_name("python") if file.read(2) == b"#!" else uwsgi


def processes(site: Site) -> int:
    """The number of worker processes: as the pillar says, else one for each core, at least two."""
    said = site.config["server"]["processes"]
    return max(2, os.cpu_count() or 1) if said == "auto" else said


def pid(site: Site, release: Path) -> int | None:
    """The main process behind a release's socket; None when it does not run.

    The pid file is the server's word; the control group and the environment of the process are the kernel's.
    """
    name = unit(site, release)
    try:
        number = int((RUN / name / "pid").read_text())
        group = (PROC / str(number) / "cgroup").read_text()
        variables = (PROC / str(number) / "environ").read_bytes().split(b"\0")
    except (OSError, ValueError):
        return None
    is_ours = f"/{name}.service" in group and f"DJANGO_RELEASE={release.name}".encode() in variables
    return number if is_ours else None


def is_kept_alive(site: Site, release: Path) -> bool:
    """Whether the instance runs, and would run again after a boot."""
    name = unit(site, release)
    is_enabled = len(_enabled(name)) == 2
    return is_enabled and pid(site, release) is not None and not _changed_units(site, release)


def _changed_units(site: Site, release: Path) -> list[tuple[Path, str]]:
    name = unit(site, release)
    wanted = (
        (UNITS / f"{name}{suffix}", django_site.read_text(release / "config" / f"{name}{suffix}") or "")
        for suffix in (".service", ".socket")
    )
    return [(path, text) for path, text in wanted if django_site.read_text(path) != text]


def start(site: Site, release: Path) -> None:
    """Install the units of a release, start and enable them, and wait until the server says that it is ready.

    Raises:
        DeploymentError: the server does not start; the error has the last lines of its journal.
    """
    name = unit(site, release)
    changed = _changed_units(site, release)
    reload = [] if any(path.exists() for path, _text in changed) else ["--no-reload"]  # systemd reads new units anyway
    for path, text in changed:
        django_site.write(path, text)
    _refuse_foreign_socket(site, release)
    timeout = seconds(site.config["timeouts"]["start"])
    units = [f"{name}.socket", f"{name}.service"]
    began = time.time()
    try:
        _systemctl("enable", "--quiet", *reload, "--now", *units, doing=f"starting {name}", timeout=timeout + 10)
    except DeploymentError as error:
        with contextlib.suppress(DeploymentError):
            stop(site, release)
        raise DeploymentError(
            f"the application server of {release.name} does not start",
            log=journal(name, began) or error.log,
            hint=f"journalctl -u {name} has all of it",
        ) from None


def _refuse_foreign_socket(site: Site, release: Path) -> None:
    where = address(site, release)
    if where.startswith("/"):
        return
    host, _colon, port = where.rpartition(":")
    with socket.socket(socket.AF_INET6 if ":" in host else socket.AF_INET) as probe:
        if pid(site, release) is None and probe.connect_ex((host.strip("[]"), int(port))) == 0:
            raise DeploymentError(
                f"{host}:{port} is taken by another process",
                hint=f"ss -ltnp 'sport = :{port}' names it; or django:sites:{site.name}:server:bind",
                transient=True,
            )


def strays(site: Site, release: Path) -> list[Path]:
    """The other releases of a site that still have a unit enabled, whether their folder is there or not."""
    links = [*UNITS.glob(f"*.wants/django-{site.name}-*.service"), *UNITS.glob(f"*.wants/django-{site.name}-*.socket")]
    sequences = {found.group(1) for link in links if (found := re.fullmatch(rf"django-{site.name}-(\d+)", link.stem))}
    sequences.discard(release.name.split("-")[0])
    return sorted(next(site.releases.glob(f"{number}-*"), site.releases / f"{number}-gone") for number in sequences)


def stop(site: Site, release: Path, *, wait: bool = True) -> None:
    """Stop and disable the units of a release, both in one call, so that no late connection starts it again.

    Args:
        wait: until it has ended; without it systemd sees to the end, after the site's drain time by force.
    """
    name = unit(site, release)
    units = [f"{name}.service", f"{name}.socket"]
    if any((UNITS / one).exists() for one in units):
        options = ["--quiet", "--no-reload", "--now", *([] if wait else ["--no-block"])]
        timeout = seconds(site.config["releases"]["drain"]) + 60
        _systemctl("disable", *options, *units, doing=f"stopping {name}", timeout=timeout)


def pause(site: Site, release: Path) -> None:
    """Stop an instance that still comes up at a boot; `start` lets it go on. No late connection starts it again."""
    name = unit(site, release)
    timeout = seconds(site.config["releases"]["drain"]) + 60
    _systemctl("stop", f"{name}.socket", f"{name}.service", doing=f"stopping {name}", timeout=timeout)


def remove(site: Site, release: Path) -> None:
    """Delete the units of a release, and stop its instance if it has one."""
    name = unit(site, release)
    if _enabled(name) or pid(site, release) is not None:
        stop(site, release)
        _systemctl("reset-failed", f"{name}.service", doing="forgetting the unit", check=False)
    for suffix in (".service", ".socket"):
        (UNITS / f"{name}{suffix}").unlink(missing_ok=True)


def _enabled(name: str) -> list[Path]:
    """The links that start the units of a release at boot."""
    links = (UNITS / f"multi-user.target.wants/{name}.service", UNITS / f"sockets.target.wants/{name}.socket")
    return [path for path in links if os.path.lexists(path)]


def _systemctl(*arguments: str, doing: str, timeout: float = 90, check: bool = True) -> None:
    try:
        django_command.run(["systemctl", *arguments], doing=doing, timeout=timeout)
    except DeploymentError:
        if check:
            raise


def journal(name: str, since: float) -> str:
    """What a unit has written to the journal since a time (seconds since 1970), without the noise of the manager."""
    argv = [
        "journalctl",
        "--unit",
        name,
        "--since",
        f"@{int(since)}",
        "--lines",
        "60",
        "--output",
        "cat",
        "--no-pager",
        "--quiet",
    ]
    try:
        text = django_command.run(argv, doing="reading the journal")
    except DeploymentError:
        return ""
    noise = re.compile(
        r"^(django-\S+\.(service|socket): |Started |Starting |Stopped |Stopping |Listening on |Closed |Failed to start "
        r"|\*\*\* )|^\s*$"
    )
    return "\n".join(line for line in text.splitlines() if not noise.search(line))


def ask(
    site: Site,
    release: Path,
    path: str,
    *,
    scheme: str = "http",
    headers: Mapping[str, str] | None = None,
    timeout: float = 10,
) -> Answer:
    """Request a page from a release's own socket, as the proxy would for the first domain.

    Raises:
        OSError: nobody answers.
        http.client.HTTPException: the answer is not HTTP.
    """
    host = site.config["domains"][0]
    where = address(site, release)
    target, _mark, query = path.partition("?")
    with socket.socket(socket.AF_UNIX if where.startswith("/") else _family(where)) as connection:
        connection.settimeout(timeout)
        connection.connect(where if where.startswith("/") else _endpoint(where))
        if kind(release)[1] == "uwsgi":
            connection.sendall(_uwsgi_request(host, target, query, scheme, headers or {}))
        else:
            said = {"Host": host, "X-Forwarded-Proto": scheme, "User-Agent": "django-formula"}
            said |= {name.title(): value for name, value in (headers or {}).items()}
            lines = [f"GET {path} HTTP/1.0", *(f"{name}: {value}" for name, value in said.items())]
            connection.sendall("\r\n".join([*lines, "", ""]).encode())
        response = http.client.HTTPResponse(connection)
        response.begin()
        body = response.read(65536).decode(errors="replace")
        return Answer(response.status, {name.lower(): value for name, value in response.getheaders()}, body)


def _family(where: str) -> socket.AddressFamily:
    return socket.AF_INET6 if where.startswith("[") else socket.AF_INET


def _endpoint(where: str) -> tuple[str, int]:
    host, _colon, port = where.rpartition(":")
    return host.strip("[]"), int(port)


def _uwsgi_request(host: str, path: str, query: str, scheme: str, headers: Mapping[str, str]) -> bytes:
    """A request in the uwsgi protocol (https://uwsgi-docs.readthedocs.io/en/latest/Protocol.html)."""
    variables = {
        "REQUEST_METHOD": "GET",
        "REQUEST_URI": f"{path}?{query}" if query else path,
        "PATH_INFO": unquote(path),
        "QUERY_STRING": query,
        "SERVER_PROTOCOL": "HTTP/1.1",
        "REQUEST_SCHEME": scheme,
        "UWSGI_SCHEME": scheme,
        "HTTPS": "on" if scheme == "https" else "",
        "HTTP_HOST": host,
        "HTTP_X_FORWARDED_PROTO": scheme,
        "HTTP_USER_AGENT": "django-formula",
        "REMOTE_ADDR": "127.0.0.1",
        "SERVER_NAME": host,
        "SERVER_PORT": "443" if scheme == "https" else "80",
        **{f"HTTP_{name.upper().replace('-', '_')}": value for name, value in headers.items()},
    }
    pairs = ((name.encode(), value.encode()) for name, value in variables.items())
    block = b"".join(struct.pack("<H", len(n)) + n + struct.pack("<H", len(v)) + v for n, v in pairs)
    return struct.pack("<BHB", 0, len(block), 0) + block


def check_health(site: Site, release: Path) -> None:
    """Ask the health page until it is well, then as often at once as there are workers, three times in a row.

    Every worker is warm then: a first page takes several times as long as the next. While the page is not well it is
    asked by one, with growing pauses: a project may write a mail for each error.

    Raises:
        DeploymentError: that has not come within ``health:timeout``; the error says what was answered instead.
    """
    health = site.config["health"]
    began, deadline = time.time(), time.monotonic() + seconds(health["timeout"])
    good, pause, problem = 0, 0.1, "it has not answered"
    with ThreadPoolExecutor(processes(site)) as pool:
        while good <= 3:
            if time.monotonic() >= deadline:
                raise DeploymentError(
                    f"the health page {health['path']} of {release.name} is not well: {problem}",
                    log=journal(unit(site, release), began),
                    hint=f"mend the project, or say what is well: django:sites:{site.name}:health",
                )
            at_once = processes(site) if good else 1
            answers = list(pool.map(lambda _: _health_problem(site, release, deadline), range(at_once)))
            problem = next(filter(None, answers), "")
            good = 0 if problem else good + 1
            if problem:
                time.sleep(min(pause, max(deadline - time.monotonic(), 0)))
                pause = min(pause * 1.5, 2)
    if pid(site, release) is None:
        raise DeploymentError(f"another process than that of {release.name} answers on {address(site, release)}")


def _health_problem(site: Site, release: Path, deadline: float) -> str:
    """What is wrong with the health page now; empty when it is well. Redirects on the same host are followed.

    Args:
        deadline: when the answer has to be there, by the monotonic clock.
    """
    health = site.config["health"]
    path = site.config["path"].rstrip("/") + health["path"]
    try:
        for _hop in range(5):
            left = max(deadline - time.monotonic(), 0.05)
            answer = ask(site, release, path, headers=health["headers"], timeout=left)
            if answer.status in health["status"]:
                missing = health["contains"] and health["contains"] not in answer.body
                return f"it does not contain {health['contains']!r}" if missing else ""
            if answer.status not in _REDIRECTS:
                return f"it answers {answer.status}"
            target = urlsplit(urljoin(f"http://{site.config['domains'][0]}{path}", answer.headers.get("location", "")))
            if target.hostname not in site.config["domains"] or target.scheme != "http":
                return f"it redirects to {target.geturl()}"
            path = target.path + (f"?{target.query}" if target.query else "")
        return f"it redirects in a circle, at last to {path}"
    except TimeoutError:
        return f"no answer within {health['timeout']}"
    except (OSError, http.client.HTTPException) as error:
        return f"no answer ({error})"


def connections(where: str) -> int:
    """How many connections wait at, or are open on, a socket that listens at a path or at ``host:port``."""
    if where.startswith("/"):
        rows = (line.split() for line in Path("/proc/net/unix").read_text().splitlines()[1:] if line.endswith(where))
        return sum(1 for row in rows if row[-1] == where and not int(row[3], 16) & _ACCEPTING)
    suffix = f":{int(where.rpartition(':')[2]):04X}"
    tables = [path for path in (Path("/proc/net/tcp"), Path("/proc/net/tcp6")) if path.exists()]
    rows = (line.split() for path in tables for line in path.read_text().splitlines()[1:])
    return sum(1 for row in rows if row[1].endswith(suffix) and row[3] in ("01", "02", "03", "08"))


def drain(site: Site, release: Path) -> int:
    """Wait until nobody is connected to an instance, as long as ``releases:drain``; returns how many are left."""
    where = address(site, release)
    deadline = time.monotonic() + seconds(site.config["releases"]["drain"])
    idle = 0
    while idle < 2:
        left = connections(where)
        idle = 0 if left else idle + 1
        if left and time.monotonic() > deadline:
            return left
        time.sleep(0.05)
    return 0
