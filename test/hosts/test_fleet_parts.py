"""Every combination of parts that one host may have, on a fresh host each: at once, and one part after the other."""

import itertools
import json
import re
from collections.abc import Callable
from typing import Any

import pytest
from fleet import Shared, await_minions, start_master, start_salt
from images import RELEASES
from lab import ROOT, Host
from test_fleet_cache import FILES

PARTS = ("app", "worker", "database", "cache", "balancer")
#: The table of the page.
EXCLUDED = [
    {*pair} for pair in re.findall(r"(?m)^\| `(\w+)`, `(\w+)` \|", (ROOT / "docs/guides/fleet-parts.md").read_text())
]
TOGETHER = [
    parts
    for size in range(2, len(PARTS) + 1)
    for parts in itertools.combinations(PARTS, size)
    if not any(pair <= {*parts} for pair in EXCLUDED)
]
PAIRS = [order for pair in TOGETHER if len(pair) == 2 for order in itertools.permutations(pair)]
pytestmark = [pytest.mark.full, pytest.mark.apart(5)]
TASK = "from website.celery import note; note.delay(7).forget()"
RAN = (
    "import time; from django.core.cache import cache; [time.sleep(cache.get('note-7') is None) for _ in range(60)]; "
    "print(cache.get('note-7'))"
)


class OneHost:
    """A host with several parts of a site of its own, and a master with the pillar of all such sites."""

    def __init__(self, master: Host, repository: Shared, start: Callable[..., Host]):
        self.master, self.repository, self._start = master, repository, start
        self.sites: dict[str, Any] = {}
        self.host: Host
        self.name = ""

    def begin(self, release: str, parts: tuple[str, ...]) -> None:
        """Start a fresh host of a release of Debian."""
        self.name = f"h{len(self.sites)}"
        kind = "ready" if {"app", "worker"} & {*parts} else "salt"
        self.host = self._start(release, kind=kind, name=self.name)
        self.repository.hosts = [self.host]
        self.repository.push()
        self.host.run("rm -rf /srv/formula /srv/pillar")
        start_salt(self.host, "minion", {"id": self.name, "master": self.master.name})
        await_minions(self.master, [self.host])

    def configure(self, parts: tuple[str, ...]) -> None:
        """Give the host parts of its site; what they lack is on a host without an apply."""
        elsewhere = {"parts": ["app"], "address": self.master.address}
        options: dict[str, Any] = {
            "repository": self.repository.url,
            "revision": "main",
            "domains": [f"{self.name}.example.org"],
            "health": {"path": "/healthz"},
            "media": {"shared": False},
            "schedules": {"clean": {"command": "clearsessions", "at": "daily"}},
            "hosts": {self.name: [*parts], **({} if "app" in parts else {"elsewhere": elsewhere})},
        }
        if "database" in parts:
            options["database"] = {"engine": "postgres"}
        elif "app" not in parts:
            options["database"] = {"engine": "postgres", "host": "10.0.0.9", "user": "blog", "password": "hunter2"}
        if "cache" in parts:
            options |= {"queue": {"engine": "redis"}, "cache": {"engine": "redis"}}
            options["workers"] = {"default": {"kind": "celery", "processes": 1}}
        self.sites[self.name] = options
        self.master.pillar({"django": {"sites": self.sites}})

    def apply(self) -> list[str]:
        """`state.apply django`, which has to succeed; return what has changed."""
        argv = ["salt", "--timeout=600", "--out=json", "--static", "--log-level=warning", self.name]
        found = json.loads(self.master.run([*argv, "state.apply", "django"], timeout=900, check=False).stdout)
        states = found[self.name]
        assert isinstance(states, dict), states
        assert [one["comment"] for one in states.values() if one["result"] is False] == []
        return [one["name"] for one in states.values() if one["changes"]]

    def python(self, program: str) -> str:
        self.host.write("/srv/told.py", program)
        argv = ["salt-call", "--out=json", "django.manage", self.name]
        command = "shell --verbosity 0 -c \"exec(open('/srv/told.py').read())\""
        return str(json.loads(self.host.run([*argv, command], check=False).stdout)["local"]).strip()

    def has_all(self, parts: tuple[str, ...]) -> None:
        """Nothing is left to do, and where the host serves the site, a release of it is served and runs a task."""
        assert self.apply() == []
        if "app" not in parts:
            return
        argv = ["salt-run", "--out=json", "--log-level=warning", "django.deploy", self.name]
        self.master.run(argv, timeout=600).check()
        assert self.host.http("/release", f"{self.name}.example.org").status_code == 200
        if "cache" in parts:
            self.python(TASK)
            assert self.python(RAN) == self.name
        assert self.apply() == []


@pytest.fixture(scope="module")
def master(module_hosts, tmp_path_factory) -> tuple[Host, Shared]:
    host = module_hosts(name="master")
    start_master(host)
    repository = Shared(tmp_path_factory.mktemp("repository"), [host])
    repository.commit(FILES)
    return host, repository


@pytest.fixture(scope="module")
def sites() -> dict[str, Any]:
    """The pillar of the sites so far: a host and a site for each test."""
    return {}


@pytest.fixture
def one(master, sites, hosts) -> OneHost:
    found = OneHost(*master, hosts)
    found.sites = sites
    return found


def on_both(parts: list[tuple[str, ...]]) -> list[Any]:
    """The releases of Debian in turn: each pair of parts meets both, the one order on the first."""
    return [
        pytest.param(RELEASES[at % 2], one, id=f"{RELEASES[at % 2]}-{'+'.join(one)}") for at, one in enumerate(parts)
    ]


@pytest.mark.parametrize(("release", "parts"), on_both(TOGETHER))
def test_parts_that_a_fresh_host_gets_at_once(one: OneHost, release: str, parts: tuple[str, ...]) -> None:
    one.begin(release, parts)
    one.configure(parts)
    assert one.apply() != []
    one.has_all(parts)


@pytest.mark.parametrize(("release", "parts"), on_both(PAIRS))
def test_a_part_that_a_host_gets_after_another_one(one: OneHost, release: str, parts: tuple[str, ...]) -> None:
    one.begin(release, parts)
    one.configure(parts[:1])
    one.apply()
    assert one.apply() == []
    one.configure(parts)
    assert one.apply() != []
    one.has_all(parts)
