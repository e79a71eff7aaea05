"""Containers of a whole project: database, queue, workers, schedule, on a base that the pillar names; each server."""

import re
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
import yaml
from client import Load
from company import Intranet, Server, login
from conftest import Hosts, Repositories
from contained import CELLS, engine_of, images, inside, load, places_of, secret_key, wait_for, watch_arguments
from lab import ENGINE, ROOT, Lab, Needs, busy
from sites import Site, release_of, until, version

NEEDS = Needs(ENGINE, "podman and Docker run on them")

pytestmark = pytest.mark.full

SHOP = yaml.safe_load((ROOT / "test/hosts/shop.yaml").read_text())
BASE = "localhost/lab/python:1"
#: Visitors of a site, and a view that fails for each.
VISITORS = [f"browser {number}" for number in range(60)]
BROKEN = {"guestbook/views.py": "+\ndef release(request):\n    raise KeyError('seven')\n"}
DATABASE, INDEX = "CANARY-database-9137", "CANARY-index-9137"
COMMAND = """
from django.core.management.base import BaseCommand


class Command(BaseCommand):
    def handle(self, **options):
        import os
        from django.contrib.auth.models import User

        print("users", User.objects.count(), "uid", os.getuid(), "root", os.path.exists("/root/inside"))
"""


@pytest.fixture(scope="module", params=CELLS)
def blog(request: pytest.FixtureRequest, module_hosts: Hosts, repositories: Repositories) -> Site:
    engine, release = request.param.split("-")
    host = module_hosts(release)
    host.run("apt-get -qq update && apt-get -qq install --no-install-recommends git >/dev/null")
    watch_arguments(host)
    blog = Site(host, repositories(host), server={"kind": "gunicorn"}, container={"engine": engine})
    blog.deploy()
    return blog


@pytest.fixture(scope="module")
def index(lab: Lab, blog: Site) -> Iterator[Server]:
    """A package index that requires a login, on an address of this machine that hosts reach."""
    handler = type("Index", (Intranet,), {"repositories": Path("/nonexistent")})
    index = Server(str(lab.subnet[1]), handler, login("deploy", INDEX))
    index.start()
    yield index
    index.stop()


@pytest.fixture(scope="module")
def shop(blog: Site, repositories: Repositories, index: Server, tmp_path_factory: pytest.TempPathFactory) -> Site:
    """A project with Celery on a base that the pillar names."""
    host, folder = blog.host, tmp_path_factory.mktemp("shop")
    (base,) = [name for name in images(blog) if name.startswith("base:")]
    host.run([engine_of(blog), "tag", f"localhost/django/{base}", BASE])
    files = {name: text for name, text in SHOP.items() if name != "Procfile"}
    files["requirements.txt"] += "company-motto\ngunicorn\n"
    files["shop/settings.py"] += 'INSTALLED_APPS += ["shop"]\n'
    files["shop/management/commands/count.py"] = COMMAND
    for name, text in files.items():
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    repository = repositories(host, "/srv/git/shop.git", folder)
    return Site(
        host,
        repository,
        "shop",
        neighbour=blog,
        health={"path": "/", "timeout": "10s"},
        server={"kind": "gunicorn"},
        container={"engine": engine_of(blog), "base": BASE},
        environment={"SECRET_KEY": {"from": "secret_key"}},
        database={"engine": "postgres", "host": "127.0.0.1", "manage": True, "password": DATABASE},
        index={"url": f"http://{index.place}/simple", "user": "deploy", "password": INDEX},
        queue={"engine": "redis"},
        cache={"engine": "redis"},
        workers={"default": {"kind": "celery"}, "beat": {"kind": "celery_beat"}},
        schedules={"count": {"command": "manage.py count", "at": "*:*:0/10"}},
    )


def ticks(shop: Site) -> int:
    return int(shop.get("/").text.split()[-1])


def test_a_project_with_a_queue_a_database_and_a_schedule(shop: Site, index: Server) -> None:
    shop.deploy()
    assert index.seen and shop.record()["container"]["base"] == BASE
    wait_for(lambda: ticks(shop) >= 2)  # beat has sent tasks, the worker has run them
    names = shop.host.run([engine_of(shop), "ps", "--format={{.Names}}"]).stdout.split()
    assert {f"{shop.unit}{part}" for part in ("", "-default", "-beat")} <= {*names}
    shop.host.run(["touch", "/root/inside"])
    uid = shop.host.run(["id", "-u", "shop"]).stdout.strip()
    line = f"users 0 uid {uid} root False"
    wait_for(lambda: line in shop.host.run("journalctl -u 'django-shop-at-count*' --no-pager").stdout)
    applied = shop.apply()
    assert applied.ok and applied.changed == {}
    assert shop.host.call("django.drift", "shop")["drift"] == []
    assert {row["worker"] for row in shop.host.call("django.workers", "shop")} == {"default", "beat"}


def test_a_release_takes_workers_and_schedule_with_it(shop: Site) -> None:
    first, unit, before = shop.live, shop.unit, ticks(shop)
    shop.repository.commit({"shop/version.py": "VERSION = 2\n"})
    with Load(f"http://{shop.host.address}/", shop.domain, connections=4, pause=0.04) as requests:
        shop.deploy()
    assert requests.failed == [] and shop.live != first
    wait_for(lambda: ticks(shop) > before + 1)

    def running() -> set[str]:
        return {*shop.host.run([engine_of(shop), "ps", "--format={{.Names}}"]).stdout.split()}

    wait_for(lambda: not [name for name in running() if name.startswith(unit)])
    assert {f"{shop.unit}{part}" for part in ("", "-default", "-beat")} <= running()


def test_passwords_of_the_database_and_of_the_index_are_nowhere(shop: Site) -> None:
    key = secret_key(shop)
    assert places_of(shop, [DATABASE, INDEX, key]) == []


@pytest.mark.parametrize("kind", ["uwsgi", "uvicorn", "granian", "daphne"])
def test_each_server_runs_in_a_container(blog: Site, kind: str) -> None:
    before = blog.live
    blog.repository.commit(version(f"1.{kind}"))
    with load(blog) as requests:
        blog.deploy(server={"kind": kind})
    assert requests.failed == [] and requests.releases == [before, blog.live]
    assert kind in inside(blog, "cat /proc/1/cmdline") and 1
    assert blog.apply().changed == {}


def test_a_release_gets_a_share_of_the_visitors_first(blog: Site) -> None:
    def ended() -> str:
        return until(lambda: blog.host.call("django.proof", "blog").get("ended"))

    good = blog.repository.read("guestbook/views.py")
    canary = {"steps": {"50%": "10s"}, "requests": 10, "limit": "1m"}
    blog.deploy(proxy={"access_log": "json"}, releases={"canary": canary})
    for files, way in (({"guestbook/views.py": f"import os\n{good}", **version("7.0")}, "active"), (BROKEN, "back")):
        old = blog.live
        blog.repository.commit(blog.repository.amended(files))
        address = f"http://{blog.host.address}/release"
        with Load(address, blog.domain, connections=4, release=release_of, visitors=VISITORS) as requests:
            blog.deploy()
            assert ended() == way
            requests.wait(60)
        assert (blog.live == old) == (way == "back")
        assert {answer.release for answer in requests.answers[-20:]} == {blog.live}
        assert {one.status for one in requests.failed} == ({500} if way == "back" else set()), requests.failed
    blog.repository.commit({"guestbook/views.py": good})
    blog.deploy(proxy={}, releases={})


def test_supervisor_keeps_the_containers(blog: Site, shop: Site) -> None:
    """The server of one site; server and workers of the other; a rollback to a release that systemd keeps, and back."""
    before, engine = blog.live, engine_of(blog)
    blog.process = shop.process = "supervisor"
    with load(blog) as requests:
        blog.deploy(server={"kind": "gunicorn"})
    assert requests.failed == [] and requests.releases == [before, blog.live]
    listed = blog.host.run(["supervisorctl", "status"], check=False).stdout
    for unit in (blog.unit, shop.unit, f"{shop.unit}-default", f"{shop.unit}-beat"):
        assert re.search(rf"^{unit} +RUNNING", listed, re.M), listed
        assert blog.host.run([engine, "inspect", "--format={{.State.Running}}", unit]).stdout == "true\n"
    assert inside(blog, "id -u").strip() == blog.host.run(["id", "-u", "blog"]).stdout.strip()
    assert blog.apply().changed == {}
    count = ticks(shop)
    wait_for(lambda: ticks(shop) > count)
    kept = blog.live
    blog.repository.commit(version("9.0"))
    with load(blog) as requests:
        blog.deploy()
        newest = blog.live
        blog.host.call("django.rollback", "blog")
    assert requests.failed == [] and requests.releases == [kept, newest] and blog.live == kept
    assert "No such" not in blog.host.call("django.logs", "blog")
    assert blog.host.call("django.manage", "blog", "check").startswith("System check identified no issues")
    running = blog.host.run([engine, "ps", "--format={{.Names}}"]).stdout.split()
    assert [name for name in running if name.startswith("django-blog-")] == [blog.unit]


def test_a_server_that_is_killed_below_supervisor_is_started_again(blog: Site) -> None:
    with load(blog) as requests:
        pid = blog.host.run([engine_of(blog), "inspect", "--format={{.State.Pid}}", blog.unit]).stdout.strip()
        blog.host.run(["kill", "-9", pid])
        time.sleep(4)
        wait_for(lambda: blog.get("/release").status_code == 200)
        requests.wait(20)
    failed = [answer.time for answer in requests.failed]
    gap = failed[-1] - failed[0] if failed else 0
    assert {answer.status for answer in requests.failed} <= {502} and gap < 20 * busy()
    assert blog.apply().changed == {}


def test_from_supervisor_to_systemd(blog: Site, shop: Site) -> None:
    before = blog.live
    blog.process = shop.process = "auto"
    with load(blog) as requests:
        blog.deploy()
    assert requests.failed == [] and requests.releases == [before, blog.live]
    assert not blog.host.run("ls /etc/supervisor/conf.d | grep -E 'django-(blog|shop)-[0-9]' || :").stdout
    assert blog.apply().changed == {}
