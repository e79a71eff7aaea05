"""Real projects, each deployed by its pillar alone and upgraded from one version to another."""

import re
import threading
import time
from collections.abc import Collection, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, nullcontext
from typing import Any

import pytest
from client import Load
from recipes import RECIPES, commit, recipe, visit
from sites import Site


def look(site: Site, pages: dict[str, str]) -> None:
    """Check that each page is served and has the expected words."""
    for path, words in pages.items():
        response = site.get(path, timeout=60)
        assert (response.status_code, words in response.text) == (200, True), (path, response.text[:2000])


def counted(site: Site, program: str) -> int:
    """The number that a program prints in the project's shell; not what the project and warnings print besides."""
    return int(re.findall(r"^\d+$", str(site.manage(f'shell -c "{program}"')), re.MULTILINE)[-1])


@contextmanager
def enqueuing(site: Site, program: str) -> Iterator[list[str]]:
    """Run the program that enqueues tasks again and again, at least once; yield a list that gets what it printed."""
    runs: list[str] = []
    is_over = threading.Event()

    def enqueue() -> None:
        while not (runs and is_over.wait(1)):
            runs.append(str(site.manage(f'shell -c "{program}"')))

    with ThreadPoolExecutor(1) as thread:
        enqueued = thread.submit(enqueue)
        try:
            yield runs
        finally:
            is_over.set()
            enqueued.result()


@contextmanager
def at_work(site: Site, project: dict[str, Any]) -> Iterator[None]:
    """Visitors ask for a page while tasks are queued and run: no request fails, and no task is lost or run twice.

    Requests fail in an upgrade behind the maintenance page.
    """
    work, page = project["work"], next(iter(project["pages"]))
    before = counted(site, work["done"])
    load = Load(f"http://{site.host.address}{site.path}{page}", site.domain, connections=2, pause=0.05, seconds=3600)
    with load, enqueuing(site, work["enqueue"]) as runs:
        load.wait(5)
        yield
        load.wait(5)
    assert load.failed == [] or project["pillar"].get("migrate") == {"unsafe": "maintenance"}
    expected, deadline = len(runs) * work["tasks"], time.monotonic() + 300
    while (done := counted(site, work["done"]) - before) < expected:
        assert time.monotonic() < deadline, (done, site.host.run("journalctl --no-pager -n 60 -u 'django-*'").stdout)
        time.sleep(1)
    time.sleep(2)
    assert counted(site, work["done"]) - before == expected


def wait_for_workers(site: Site, workers: Collection[str]) -> None:
    """Wait until the active release has every worker of the pillar, and each takes tasks, beats or runs its command."""
    deadline = time.monotonic() + 60
    while True:
        rows = site.host.call("django.workers", site.name)
        does = {row["worker"]: row["does"] for row in rows if row["release"] == site.live}
        if does == dict.fromkeys(workers, "takes tasks"):
            return
        assert time.monotonic() < deadline, rows
        time.sleep(1)


@pytest.mark.full
@pytest.mark.parametrize("name", RECIPES)
def test_real_project_is_deployed_and_upgraded(hosts, name):
    project = recipe(name)
    host = hosts(project.get("debian", "bookworm"), kind="ready")
    host.run(f"set -euo pipefail\nexport DEBIAN_FRONTEND=noninteractive\n{project.get('host', '')}", timeout=900)
    health = {"health": {"timeout": "60s"}}
    repository = f"file:///srv/projects/{name}"
    pillar = {**health, **project["pillar"]}
    proof = {"proxy": {"access_log": "json", **pillar.get("proxy", {})}, "releases": {"replay": True}}
    site = Site(host, name=name, repository=None, **{**pillar, **proof})
    site.configure(repository=repository, revision="main")
    releases = set()
    for number, version in enumerate(project["versions"]):
        commit(host, name, str(version), project["owner"])
        with at_work(site, project) if number and "work" in project else nullcontext():
            site.deploy()
        releases.add(site.live)
        look(site, project["pages"])
        visit(site, project["pages"])
        if "workers" in project["pillar"]:
            wait_for_workers(site, project["pillar"]["workers"])
        if number == 0 and "write" in project:
            site.manage(project["write"])
        if "read" in project:
            program, expected = project["read"]["program"], project["read"]["expected"]
            assert expected in site.manage(f'shell -c "{program}"').splitlines()
        if number == 0 and "work" in project:
            with at_work(site, project):
                pass
        if "run" in project:
            assert host.call("django.run", name, project["run"])["exit"] == 0
        assert not site.apply().changed
    assert len(releases) == len(project["versions"])
    site.deploy(environment={**site.options.get("environment", {}), "OF_THE_REPLAY": "1"})
    record = site.record()["replay"]
    assert record["compared"] >= 1 and record["refused"] == 0, record
