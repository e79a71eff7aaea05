"""Real projects, each deployed by its pillar alone and upgraded from one version to another.

A recipe is a file in test/projects, with these keys:

about: what is special about the project
debian: the release of the host; bookworm by default
versions: the first is deployed, each further one is an upgrade
owner: commands of bash that create a version ($VERSION) in an empty folder, which is then committed
host: commands that run on the host before, as root: database servers, npm
pillar: the site, without repository and domain
pages: path → words of the page
write, read: a management command after the first version; a program, and what it prints after each
work: `enqueue`, a program that enqueues tasks, run again and again; `done`, one that prints how many have run;
    `tasks`, how many `enqueue` adds
run: a schedule that is run after each version
"""

import re
import threading
import time
from collections.abc import Collection, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, nullcontext
from typing import Any

import pytest
import yaml
from client import Load
from lab import ROOT, Host
from sites import Site

RECIPES = {path.stem: path for path in sorted((ROOT / "test/projects").glob("*.yaml"))}
UV = "/usr/local/lib/django-formula/uv/bin"
#: The owner's commands run in an empty folder, which is then committed.
OWNER = """
set -euo pipefail
export HOME=/root PATH={uv}:$PATH VERSION={version} UV_LINK_MODE=copy REQUESTS_CA_BUNDLE=$SSL_CERT_FILE
git config --global user.name Ada
git config --global user.email ada@example.org
sdist() {{ # the source distribution of a package, unpacked here
    mkdir /tmp/sdist
    pip download --quiet --disable-pip-version-check --no-deps --no-binary=:all: --dest=/tmp/sdist "$1==$VERSION"
    tar -x --strip-components=1 -f /tmp/sdist/*.tar.gz
    rm -r /tmp/sdist
}}
mkdir -p /srv/projects/{name}
cd /srv/projects/{name}
git init --quiet --initial-branch=main
find . -mindepth 1 -maxdepth 1 ! -name .git -exec rm -r {{}} +
{owner}
git add --all --force
git commit --quiet --allow-empty --message="{name} {version}"
"""


def recipe(name: str) -> dict[str, Any]:
    read: dict[str, Any] = yaml.safe_load(RECIPES[name].read_text())
    return read


def commit(host: Host, name: str, version: str, owner: str) -> None:
    """Commit a version of the project, as its owner."""
    host.run(OWNER.format(uv=UV, name=name, version=version, owner=owner), timeout=900)


def look(site: Site, pages: dict[str, str]) -> None:
    """Check that each page is served and has the expected words."""
    for path, words in pages.items():
        response = site.get(path, timeout=60)
        assert (response.status_code, words in response.text) == (200, True), (path, response.text[:2000])


def visit(site: Site, pages: Collection[str], most: int = 60) -> None:
    """Request pages and those that they link to, as visitors do."""
    rest, seen = list(pages), set[str]()
    while rest and len(seen) < most:
        path = rest.pop(0)
        if path not in seen and not re.search("logout|delete", path):
            seen.add(path)
            response = site.get(path, timeout=60)
            is_page = response.status_code == 200 and "html" in response.headers.get("content-type", "")
            rest += re.findall(r"""<a\b[^>]*\bhref=["'](/[^/"'#?][^"'#]*)""", response.text) if is_page else []


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
