"""Queue, cache and sessions of a site in servers of its own: who may connect, what survives, what a change costs."""

import json
import re

import pytest
from sites import Site

QUEUE = "/run/django-blog-queue/socket"
STORES = {
    "queue": {"engine": "redis"},
    "caches": {"default": {"engine": "redis"}, "sessions": {"engine": "redis", "sync": "everysec"}},
    "sessions": "cache",
}
SESSION = "from django.contrib.sessions.backends.cache import SessionStore as S"
UNITS = [f"django-blog-{part}.service" for part in ("cache", "cache_sessions", "queue")]


@pytest.fixture(scope="module")
def blog(module_hosts, repositories) -> Site:
    """A site with a queue, two caches and sessions on Debian 13, which has Valkey."""
    host = module_hosts("trixie", kind="ready")
    site = Site(host, repositories(host), **STORES)
    site.deploy()
    return site


def python(site: Site, program: str) -> str:
    """Return the last line that a program in the site's Django prints."""
    return str(site.manage(f'shell -c "{program}"')).splitlines()[-1]


def client(site: Site, *arguments: str, part: str = "queue", user: str = "blog", check: bool = True) -> str:
    """Return what the client of a store prints, run as a user of the host."""
    program = "valkey-cli" if site.host.run(["which", "valkey-cli"], check=False).stdout else "redis-cli"
    socket = f"/run/django-blog-{part}/socket"
    done = site.host.run(["runuser", "-u", user, "--", program, "-s", socket, *arguments], check=check)
    return (done.stdout + done.stderr).strip()


def processes(site: Site) -> dict[str, str]:
    """Return the main process of each store."""
    return {unit: site.host.run(["systemctl", "show", "-PMainPID", unit]).stdout.strip() for unit in UNITS}


def ports(site: Site) -> set[str]:
    listening = site.host.run(["ss", "--listening", "--no-header", "--tcp", "--udp", "--numeric"]).stdout
    return {line.split()[4].rpartition(":")[2] for line in listening.splitlines()}


def log_in(site: Site) -> str:
    """Return the key of a session that has a value."""
    program = (
        "from django.contrib.sessions.backends.cache import SessionStore as S; s = S(); s['who'] = 'ada'; s.save()"
    )
    return python(site, f"{program}; print(s.session_key)")


def who(site: Site, session: str) -> str:
    return python(site, f"{SESSION}; print(S('{session}').get('who'))")


def test_project_has_its_cache_and_sessions(blog):
    told = "from django.conf import settings as s; from django.core.cache import cache; cache.set('a', 7)"
    found = python(blog, f"{told}; print(s.SESSION_ENGINE, s.SESSION_CACHE_ALIAS, cache.get('a'))")
    assert found == "django.contrib.sessions.backends.cache sessions 7"
    assert "redis" in blog.host.run(f"ls {blog.root}/current/virtualenv/lib/python3*/site-packages").stdout
    assert not blog.apply().changed


def test_only_the_site_may_connect_and_nothing_listens_on_a_port(blog):
    assert client(blog, "ping") == "PONG"
    for user in ("nobody", "blog-build", "www-data"):
        assert "Permission denied" in client(blog, "ping", user=user, check=False)
    assert not {"6379", "11211"} & ports(blog)
    data = f"{blog.root}/stores/queue"
    assert "Permission denied" in blog.host.run(["runuser", "-u", "blog", "--", "ls", data], check=False).stderr
    for unit in UNITS:
        rated = blog.host.run(["systemd-analyze", "security", "--no-pager", unit]).stdout.splitlines()[-1]
        assert float(re.search(r"(\d+\.\d+) ", rated)[1]) <= 1.1, rated
        status = blog.host.run(["cat", f"/proc/{processes(blog)[unit]}/status"]).stdout
        assert int(re.search(r"VmRSS:\s+(\d+) kB", status)[1]) < 16 << 10


def test_queue_and_sessions_survive_a_restart_and_a_kill(blog):
    session = log_in(blog)
    client(blog, "RPUSH", "celery", "a", "b", "c")
    before = processes(blog)
    blog.host.run(["systemctl", "restart", *UNITS])
    assert client(blog, "LLEN", "celery") == "3" and who(blog, session) == "ada"
    for pid in processes(blog).values():
        blog.host.run(["kill", "-9", pid])
    blog.host.run(f"for i in $(seq 300); do systemctl is-active -q {' '.join(UNITS)} && exit; sleep 0.1; done; exit 1")
    assert client(blog, "LLEN", "celery") == "3" and who(blog, session) == "ada"
    assert not {*before.values()} & {*processes(blog).values()}
    (row,) = json.loads(blog.host.salt("django.status", "--out=json").stdout)["local"]
    assert re.search(r"queue \d+M of 256M, 3 tasks wait", row["stores"])


def test_changed_memory_restarts_nothing_and_makes_no_release(blog):
    live, before = blog.live, processes(blog)
    changed = {**STORES["caches"], "default": {"engine": "redis", "memory": "32M"}}
    applied = blog.deploy(queue={"engine": "redis", "memory": "128M", "sync": "always"}, caches=changed)
    assert client(blog, "CONFIG", "GET", "maxmemory").split() == ["maxmemory", str(128 << 20)]
    assert client(blog, "CONFIG", "GET", "appendfsync").split() == ["appendfsync", "always"]
    assert client(blog, "CONFIG", "GET", "maxmemory", part="cache").split() == ["maxmemory", str(32 << 20)]
    assert [*applied.changed] and {*applied.changed} <= {"blog has its directories", "blog has its stores"}
    assert (blog.live, processes(blog)) == (live, before)
    assert not blog.apply().changed


def test_changed_unit_waits_until_the_queue_is_empty(blog):
    before = processes(blog)
    unit = "/etc/systemd/system/django-blog-queue.service"
    blog.host.run(["sed", "-i", "s/^TimeoutStopSec=.*/TimeoutStopSec=9s/", unit])
    warned = blog.deploy().warnings["blog has its stores"]
    assert "3 tasks wait in it" in " ".join(warned) and processes(blog) == before
    client(blog, "DEL", "celery")
    assert blog.deploy().changed["blog has its stores"]["django-blog-queue"] == "restarted"
    assert processes(blog)["django-blog-queue.service"] != before["django-blog-queue.service"]
    assert not blog.apply().changed


def test_queue_with_tasks_is_not_removed(blog):
    client(blog, "RPUSH", "celery", "a")
    refused = blog.apply(queue=None)
    assert "1 tasks wait in the queue of blog" in refused.failed["blog has its source"]
    client(blog, "DEL", "celery")


def test_store_of_the_active_release_runs_until_the_switch(blog):
    """A release that fails leaves the former cache, which the active release uses."""
    more = {"queue": None, "caches": {"default": {"engine": "database"}}, "sessions": "cached_db"}
    failed = blog.apply(**more, commands={"before_switch": ["false"]})
    assert failed.failed and client(blog, "ping", part="cache") == "PONG"
    applied = blog.deploy(commands=None)
    assert applied.changed["blog has its database migrated"]["cache tables"] == ["django_cache"]
    assert {*applied.changed["blog is recorded"]["stores"]} == {unit.removesuffix(".service") for unit in UNITS}
    assert not [unit for unit in blog.units if unit in UNITS]
    assert python(blog, "from django.core.cache import cache; cache.set('a', 7); print(cache.get('a'))") == "7"
    assert not blog.apply().changed


def test_removed_site_leaves_its_queue(blog):
    blog.deploy(**STORES)
    client(blog, "RPUSH", "celery", "a", "b")
    blog.deploy(state="absent")
    assert not blog.host.run("ls /etc/systemd/system | grep django-blog", check=False).stdout
    blog.deploy(state="present")
    assert client(blog, "LLEN", "celery") == "2"
    blog.deploy(state="absent", remove_data=True)
    left = blog.host.run("ls -d /srv/django/blog /run/django-blog-* ; getent passwd | grep blog", check=False).stdout
    assert left == ""
