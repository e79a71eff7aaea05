"""A site on two hosts whose queue and cache are on a third: who may connect, and what deployments do to tasks."""

import json
import threading
from collections.abc import Iterator
from typing import Any

import pytest
from fleet import Fleet, start_database, start_master, start_minions
from lab import Host

pytestmark = pytest.mark.full

CELERY = """
import socket
import time

from celery import Celery

app = Celery("website")
app.config_from_object("django.conf:settings", namespace="CELERY")


@app.task(name="note")
def note(number):
    from django.core.cache import cache

    time.sleep(0.05)
    cache.set(f"note-{number}", socket.gethostname(), None)
"""
FILES = {
    "website/__init__.py": "",
    "website/celery.py": CELERY,
    "requirements.txt": "Django==5.2.19\ncelery[redis]==5.7.0\npsycopg[binary]>=3.2\n",
}
TASKS = 300
UNIT = "django-blog-served_queue"
DATA = "/srv/django/blog/stores/served_queue"
SEND = """
import time
from django.core.cache import cache
from website.celery import note
for number in range({}, {}):
    note.delay(number)
    cache.set("sent", number + 1, None)
    time.sleep({})
"""
#: Waits until the tasks that were sent have run: how many were sent, and are left, and on how many hosts they ran.
DONE = """
import time
from django.core.cache import cache
sent, limit, ran = cache.get("sent"), time.monotonic() + 90, {}
while len(ran) < sent and time.monotonic() < limit:
    ran |= {n: host for n in range(sent) if n not in ran and (host := cache.get(f"note-{n}"))}
    time.sleep(0.5)
print(sent, sent - len(ran), len(set(ran.values())))
"""
#: Opens a connection.
REACH = "timeout 3 bash -c ': < /dev/tcp/{}/{}'"
#: What a stranger who has the address tries, by the words that the server or its host answers.
STRANGERS = {
    "AuthenticationError": "redis.from_url(url.replace(word, 'wrong')).ping()",
    "invalid username-password": "redis.from_url(url.replace('blog:', 'default:')).ping()",
    "certificate verify failed": "redis.from_url(url.split('?')[0]).ping()",
    "ConnectionError": "redis.from_url(url.replace('rediss:', 'redis:').split('?')[0], socket_timeout=5).ping()",
    "NoPermission": "redis.from_url(url).config_set('maxmemory', 0)",
}


class CacheFleet(Fleet):
    """A fleet with a host for its queue and cache."""

    cache: Host

    def python(self, host: Host, program: str, timeout: float = 120) -> str:
        """What a program in the site's Django prints."""
        host.write("/srv/told.py", program)
        argv = [
            "salt-call",
            "--out=json",
            "django.manage",
            "blog",
            "shell --verbosity 0 -c \"exec(open('/srv/told.py').read())\"",
        ]
        answer: dict[str, Any] = json.loads(host.run(argv, timeout=timeout, check=False).stdout)
        return str(answer["local"]).strip()

    def settle(self) -> dict[str, Any]:
        """`state.apply django` on all hosts, which has to succeed: what has changed."""
        found = self.apply("*")
        states = {f"{host} {one['name']}": one for host in found for one in found[host].values()}
        assert {name: one["comment"] for name, one in states.items() if one["result"] is False} == {}
        return {name: one["changes"] for name, one in states.items() if one["changes"]}

    def pid(self) -> str:
        return self.cache.run(["systemctl", "show", "-PMainPID", UNIT]).stdout.strip()


@pytest.fixture(scope="module", params=["bookworm", "trixie"])
def fleet(request, module_hosts, tmp_path_factory) -> Iterator[CacheFleet]:
    """The host of the queue and cache has Redis (Debian 12) or Valkey (Debian 13)."""
    master, cache = module_hosts(name="master"), module_hosts(request.param, name="cache1")
    apps = [module_hosts("bookworm", kind="ready", name="web1"), module_hosts("trixie", kind="ready", name="web2")]
    start_master(master)
    start_database(master)
    start_minions(master, [*apps, cache])
    yield lay_out(CacheFleet(master, apps, master, tmp_path_factory.mktemp("repository")), cache)
    for host in (master, cache, *apps):  # the next ones have the same names
        host.remove()


def lay_out(fleet: CacheFleet, cache: Host) -> CacheFleet:
    fleet.cache = cache
    fleet.repository.commit(FILES)
    fleet.configure(
        hosts={"web*": ["app"], "cache1": ["cache"]},
        queue={"engine": "redis"},
        cache={"engine": "redis"},
        workers={"default": {"kind": "celery", "processes": 1}},
        environment={"REDIS_URL": {"from": "queue_url"}},
    )
    fleet.settle()
    fleet.deploy()
    return fleet


def test_hosts_share_the_cache_and_a_second_apply_changes_nothing(fleet: CacheFleet) -> None:
    web1, web2 = fleet.apps
    fleet.python(web1, "from django.core.cache import cache; cache.set('a', 7, None)")
    assert fleet.python(web2, "from django.core.cache import cache; print(cache.get('a'))") == "7"
    assert fleet.settle() == {}


@pytest.mark.parametrize(("refused", "attempt"), STRANGERS.items())
def test_only_the_login_of_the_site_by_tls_is_served(fleet: CacheFleet, refused: str, attempt: str) -> None:
    found = "import os, redis, re; url = os.environ['REDIS_URL']; word = re.search('blog:([^@]+)@', url)[1]"
    assert refused in fleet.python(fleet.apps[0], f"{found}\n{attempt}")


def test_other_hosts_are_let_in_once_they_are_the_sites(fleet: CacheFleet) -> None:
    """The server is not restarted for them. Where the kernel filters no packets of units, TLS and password are left."""
    port = fleet.cache.run(f"grep -oP 'tls-port \\K.*' {DATA}.conf").stdout.strip()
    filters = fleet.cache.run(
        f"systemd-run --wait -p IPAddressDeny=any {REACH.format(fleet.master.address, 4506)}", check=False
    )
    is_filtered, reach = filters.returncode != 0, REACH.format(fleet.cache.address, port)
    hosts, before = fleet.options["hosts"], fleet.pid()
    with_another = {**hosts, "web9": {"parts": ["app"], "address": fleet.master.address}}
    for now, others in ((hosts, 0), (with_another, 1), (hosts, 0)):
        fleet.configure(hosts=now)
        fleet.apply("cache1")
        allowed = fleet.cache.run(["systemctl", "show", "-PIPAddressAllow", UNIT]).stdout.split()
        assert allowed.count(f"{fleet.master.address}/32") == others and f"{fleet.apps[0].address}/32" in allowed
        assert fleet.apps[0].run(reach, check=False).returncode == 0
        assert (fleet.master.run(reach, check=False).returncode == 0) == (others == 1 or not is_filtered)
    assert fleet.pid() == before


def test_password_is_on_no_disk_of_the_host_of_the_queue(fleet: CacheFleet) -> None:
    password = fleet.master.read("/srv/django-fleet/blog/secrets/cache")
    argv = ["grep", "-rlF", password, "/etc", "/srv", "/var", "/run", "/tmp"]
    assert len(password) > 30 and fleet.cache.run(argv, check=False).stdout == ""
    kept = set(fleet.apps[0].run(["grep", "-rlF", password, "/srv/django/blog"], check=False).stdout.split())
    assert kept == {f"/srv/django/blog/secrets/{name}" for name in ("environment", "store.cache", "store.queue")}


def test_deployments_lose_no_task(fleet: CacheFleet) -> None:
    web1, web2 = fleet.apps
    sender = threading.Thread(target=fleet.python, args=(web1, SEND.format(0, TASKS, 0.1), 300))
    sender.start()
    fleet.release("2.0")
    fleet.release("2.1")
    sender.join()
    sent, left, hosts = fleet.python(web2, DONE, timeout=200).split()
    print(f"{sent} tasks sent, {left} left, {hosts} hosts have run them")
    assert int(sent) > 50 and (left, hosts) == ("0", "2")


def test_host_that_loses_the_part_keeps_the_tasks(fleet: CacheFleet) -> None:
    for host in fleet.apps:
        host.run("systemctl stop 'django-blog-*-default.service'")
    fleet.python(fleet.apps[0], SEND.format(TASKS, TASKS + 5, 0))
    hosts = fleet.options["hosts"]
    fleet.configure(hosts={"web*": ["app"]}, queue={"engine": "redis", "host": "10.0.0.9"}, cache=None)
    states = fleet.apply("cache1")["cache1"].values()
    (changes,) = (state["changes"] for state in states if state["changes"])
    assert changes[f"{DATA}.conf"] == f"removed; {DATA} stays"
    assert fleet.cache.run(f"systemctl is-active {UNIT}", check=False).stdout.strip() == "inactive"
    fleet.configure(hosts=hosts, queue={"engine": "redis"}, cache={"engine": "redis"})
    fleet.apply("cache1")
    assert "celery  5 waiting" in fleet.apps[0].run(["salt-call", "django.queue", "blog"]).stdout
