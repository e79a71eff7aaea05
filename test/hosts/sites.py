"""A site of the bundled example on a host, as a test configures, applies and asks it."""

import json
import re
import shlex
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import requests
from client import Load
from lab import PREPARED, ROOT, Applied, Browser, Host
from repository import PATH, Repository

VERSION = "guestbook/version.py"
#: What a container without systemd runs that is to serve again after its restart, as the docs have it.
AFTER_RESTART = shlex.split(
    re.findall(r"(?m)^    (sh -c '.*')$", (ROOT / "docs/guides/without-systemd.md").read_text())[0]
)


def until(what: Callable[[], Any], within: float = 300) -> Any:
    """Return what a condition returns once it is true; it is looked at every 0.2 s, for so many seconds."""
    deadline = time.monotonic() + within
    while not (found := what()):
        assert time.monotonic() < deadline, f"not within {within} s: {what}"
        time.sleep(0.2)
    return found


class Site:
    """A site of a host's pillar.

    repository: what it is deployed from; None where the options say it
    neighbour: another site of the same host, whose pillar it shares
    options: of the pillar, over `revision: main`, the domain NAME.example.org and short timeouts
    """

    def __init__(
        self,
        host: Host,
        repository: Repository | None = None,
        name: str = "blog",
        neighbour: "Site | None" = None,
        **options: Any,
    ):
        self.host, self.name = host, name
        self.sites: dict[str, Any] = neighbour.sites if neighbour else {}
        self.options: dict[str, Any] = {
            "domains": [f"{name}.example.org"],
            "health": {"path": "/healthz", "timeout": "15s"},
        }
        if repository:
            self.repository: Repository = repository
            self.options |= {"repository": repository.url, "revision": "main"}
        self.options |= options
        self.sites[name] = self.options
        #: Where visitors find it.
        self.port = 80
        #: `django:process` of the host's pillar.
        self.process = "auto"

    def configure(self, **changes: Any) -> None:
        """Change options in the host's pillar; None takes one out."""
        self.options.update(changes)
        for key in [key for key, value in changes.items() if value is None]:
            self.options.pop(key, None)
        self.host.pillar({"django": {"process": self.process, "sites": self.sites}})

    def apply(self, test: bool = False, **changes: Any) -> Applied:
        """`state.apply django` after a change of options."""
        self.configure(**changes)
        return self.host.apply(test=test)

    def deploy(self, **changes: Any) -> Applied:
        """An apply that has to succeed."""
        applied = self.apply(**changes)
        assert applied.ok, applied
        return applied

    @property
    def root(self) -> str:
        return str(self.options.get("root", f"/srv/django/{self.name}"))

    @property
    def domain(self) -> str:
        return str(self.options["domains"][0])

    @property
    def path(self) -> str:
        return str(self.options.get("path", "/")).rstrip("/")

    def get(self, path: str = "/", **options: Any) -> requests.Response:
        return self.host.http(self.path + path, self.domain, port=self.port, **options)

    def browser(self) -> Browser:
        return self.host.browser(self.domain)

    def load(self) -> Load:
        """Ask which release answers, on and on by four connections, until the block ends."""
        address = f"http://{self.host.address}:{self.port}{self.path}/release"
        return Load(address, self.domain, connections=4, release=release_of)

    @contextmanager
    def lossless(self) -> Iterator[Load]:
        """What is done in the block loses no request: the release of before answers, then the one of after."""
        before = self.live
        with self.load() as load:
            load.wait(20)
            yield load
            load.wait(20)
        assert load.failed == [] and load.releases == [before, self.live] and before != self.live

    @property
    def answering(self) -> dict[str, Any]:
        """What the running code says of itself: `release`, `version`, `note`, `pid`."""
        response = self.get("/release")
        assert response.status_code == 200, (response.status_code, response.text[:500])
        return dict(response.json())

    @property
    def live(self) -> str:
        """The release that `current` names."""
        return self.host.run(["readlink", f"{self.root}/current"]).stdout.strip().removeprefix("releases/")

    @property
    def releases(self) -> list[str]:
        return self.host.run(["ls", f"{self.root}/releases"]).stdout.split()

    def record(self, release: str | None = None) -> dict[str, Any]:
        """What release.json says of a release, by default the live one."""
        return dict(json.loads(self.host.read(f"{self.root}/releases/{release or self.live}/release.json")))

    @property
    def last_attempt(self) -> dict[str, Any]:
        """What deploys.jsonl says of the last deployment."""
        return dict(json.loads(self.host.read(f"{self.root}/deploys.jsonl").splitlines()[-1]))

    @property
    def unit(self) -> str:
        """The name of the live release's units, without suffix."""
        return f"django-{self.name}-{self.live.split('-')[0]}"

    @property
    def run(self) -> str:
        """The folder of the live release's server: its pid file, its sockets. Those of its workers are `RUN-WORKER`."""
        return f"{self.root}/runtime/{self.live.split('-')[0]}"

    @property
    def units(self) -> list[str]:
        """The site's units that are loaded and active, by name, once systemd has no job left."""
        deadline = time.monotonic() + 300
        while f"django-{self.name}-" in self.host.run(["systemctl", "list-jobs", "--no-legend"]).stdout:
            assert time.monotonic() < deadline, "systemd has not stopped or started the site's units within 300 s"
        listed = self.host.run(
            ["systemctl", "list-units", "--no-legend", "--plain", "--state=active", f"django-{self.name}-*"]
        )
        return sorted(line.split()[0] for line in listed.stdout.splitlines())

    def make_good(self, **options: None) -> None:
        """Have a release live that differs from the example in its version only, and take these options out.

        Where that is so already, nothing is done.
        """
        git, first = self.repository.git, self.repository.first
        changed = git("diff", "--name-only", first, "main").splitlines()
        is_good = {*changed} <= {VERSION} and not options.keys() & self.options.keys()
        if is_good and self.record()["commit"] == git("rev-parse", "main").strip():
            return
        git("rm", "-r", "--quiet", "--force", "--", ".")
        git("checkout", "--quiet", first, "--", ".")
        self.repository.commit(version("1.2", f"{self.live} was before"))
        self.deploy(**options)

    def manage(self, command: str, **options: Any) -> Any:
        """`django.manage`: a management command of the live release."""
        return self.host.call("django.manage", self.name, command, **options)


def release_example(host: Host) -> None:
    """Release the first commit of the bundled example as the site `blog`."""
    with tempfile.TemporaryDirectory() as folder:
        Site(host, Repository(Path(folder), host, PATH)).deploy()


PREPARED["live"] = ("ready", release_example)


def release_of(body: bytes) -> str | None:
    """The release in an answer of `/release`, for a load."""
    try:
        return str(json.loads(body)["release"])
    except (ValueError, KeyError):
        return None


def lines(comment: str) -> int:
    return len(comment.strip().splitlines())


def version(number: str, note: str = "") -> Mapping[str, str]:
    """A commit's files that make the example project say another version."""
    return {VERSION: f'VERSION = "{number}"\nRELEASE_NOTE = "{note}"\n'}


def ownership(host: Host, folder: str, depth: int = 1) -> dict[str, str]:
    """Owner, group and mode of a folder and what is in it, by name; `depth` levels of it."""
    listed = host.run(["find", folder, "-maxdepth", str(depth), "-printf", "%P %u:%g %m\n"]).stdout
    found = {}
    for line in listed.splitlines():
        name, _blank, rest = line.partition(" ")
        found[name or "."] = rest
    return found
