"""Queue, cache and sessions of a site in servers of its own: who may connect, what survives, what a change costs."""

import hashlib
import json
import os
import re
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import pytest
from lab import busy
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


def setting(site: Site, name: str, part: str = "queue") -> str:
    """Return a setting of a running Redis, which its operator alone may read."""
    password = site.host.read(f"{site.root}/secrets/.store_password")
    login = ["--no-auth-warning", "--user", "operator", "--pass", password]
    return client(site, *login, "CONFIG", "GET", name, part=part, user="root").split()[-1]


def limit(site: Site, part: str = "queue") -> int:
    """Return the memory limit of a store's unit, in MB."""
    shown = site.host.run(["systemctl", "show", "-PMemoryMax", f"django-{site.name}-{part}"]).stdout
    return int(shown) >> 20


def processes(site: Site) -> dict[str, str]:
    """Return the main process of each store."""
    shown = site.host.run(["systemctl", "show", "-PMainPID", *UNITS]).stdout.split()
    return dict(zip(UNITS, shown, strict=True))


def await_restart(site: Site, before: dict[str, str]) -> None:
    """Wait until each store has another process than before, and is ready."""
    deadline = time.monotonic() + 300
    while {*before.values(), "0"} & {*processes(site).values()} or not is_active(site):
        assert time.monotonic() < deadline, "the stores were not started again within 300 s"
        time.sleep(0.5)


def is_active(site: Site) -> bool:
    """Return whether each store is ready; the command's exit code would say so of one."""
    return site.host.run(["systemctl", "is-active", *UNITS], check=False).stdout.split() == ["active"] * len(UNITS)


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
    """With podman's default capabilities, by which systemd 257 mounts nothing for a unit."""
    assert blog.host.run("mount -t tmpfs none /mnt", check=False).returncode, "this host may mount"
    assert is_active(blog)
    told = "from django.conf import settings as s; from django.core.cache import cache; cache.set('a', 7)"
    found = python(blog, f"{told}; print(s.SESSION_ENGINE, s.SESSION_CACHE_ALIAS, cache.get('a'))")
    assert found == "django.contrib.sessions.backends.cache sessions 7"
    assert "redis" in blog.host.run(f"ls {blog.root}/current/virtualenv/lib/python3*/site-packages").stdout
    assert not blog.apply().changed


@pytest.mark.full
def test_site_that_keeps_its_queue_busy_is_deployed_all_the_same(blog):
    """A script is ended where that is possible; else the queue is restarted, with its tasks."""
    client(blog, "RPUSH", "celery", "task")
    for script, told in (
        ("while true do end", "served nothing until the script that it ran was ended"),
        ("redis.call('SET', 'half', '1') while true do end", "was restarted, since it served nothing"),
    ):
        program = "valkey-cli" if blog.host.run(["which", "valkey-cli"], check=False).stdout else "redis-cli"
        blog.host.run(
            f'runuser -u blog -- setsid --fork {program} -s {QUEUE} EVAL "{script}" 0 </dev/null >/dev/null 2>&1'
        )
        blog.host.run(f"while timeout 1 runuser -u blog -- {program} -s {QUEUE} ping | grep PONG; do sleep 0.1; done")
        began = time.monotonic()
        applied = blog.apply()
        assert applied.ok and told in str(applied.warnings["blog has its stores"]), applied
        print(f"{told}: {time.monotonic() - began:.1f} s")
        assert client(blog, "LRANGE", "celery", "0", "-1") == "task" and not blog.apply().changed
    client(blog, "DEL", "celery")


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


def test_site_cannot_change_its_stores(blog):
    """Its user tries all that has been of use against a shared Redis, and looks for the operator's password."""
    before = processes(blog)
    for command in (
        *("CONFIG SET maxmemory 0", "CONFIG SET dir /srv/django/blog", "SHUTDOWN NOSAVE", "DEBUG SEGFAULT"),
        *("MODULE LOAD /tmp/x.so", "REPLICAOF 127.0.0.1 6379", "SLAVEOF 127.0.0.1 6379", "SAVE", "SYNC"),
        *("ACL SETUSER default +@all", "ACL LIST", "CLIENT PAUSE 60000", "BGREWRITEAOF", "AUTH operator blog"),
    ):
        refused = client(blog, *command.split(), check=False)
        assert re.search("NOPERM|WRONGPASS|command not allowed", refused), (command, refused)
    readable = "find / -xdev -name .store_password -readable; grep -l maxmemory /srv/django/blog/stores/queue.conf"
    found = blog.host.run(readable, user="blog", check=False).stdout.split()
    assert found == ["/srv/django/blog/stores/queue.conf"]  # which has a hash of a random password
    assert (setting(blog, "maxmemory"), processes(blog)) == (str(256 << 20), before)
    assert not blog.apply().changed


@contextmanager
def enforced(site: Site, part: str) -> Iterator[None]:
    """Have the kernel enforce the memory limit of a store's unit in the block.

    systemd does it where it has the controller. In a container under cgroup v1 it has not: a group is made outside.
    """
    unit = f"django-{site.name}-{part}"
    shown = site.host.run(["systemctl", "show", "-PMemoryCurrent", "-PMainPID", unit]).stdout.split()
    group = Path("/sys/fs/cgroup/memory", f"{site.host.container}-{part}")
    if "set]" not in shown:
        yield
        return
    if not group.parent.is_dir() or not os.access(group.parent, os.W_OK):
        pytest.skip("no limit of memory can be enforced here")
    group.mkdir()
    try:
        (group / "memory.limit_in_bytes").write_text(str(limit(site, part) << 20))
        (group / "cgroup.procs").write_text(process_outside(site, shown))
        yield
    finally:
        for number in (group / "cgroup.procs").read_text().split():  # it was not ended
            (group.parent / "cgroup.procs").write_text(number)
        group.rmdir()


def process_outside(site: Site, inside: list[str]) -> str:
    """Return the number that a process of the host has outside of its container."""
    for path in Path("/proc").glob("[0-9]*"):
        with suppress(OSError):
            numbers = re.search(r"NSpid:\s+(\d+)\s+(\d+)\n", (path / "status").read_text())
            if numbers and numbers[2] in inside and site.host.id in (path / "cgroup").read_text():
                return numbers[1]
    raise AssertionError(f"no process {inside} of {site.host}")


@pytest.mark.full
def test_site_that_fills_the_memory_of_its_store_ends_that_store_alone(blog):
    """By a script, whose memory `maxmemory` does not count."""
    session, before, unit = log_in(blog), processes(blog), "django-blog-queue.service"
    client(blog, "RPUSH", "kept", "a", "b")
    with enforced(blog, "queue"):
        script = "local t = {} for n = 1, 1e9 do t[n] = string.rep('x', 1000) .. n end"
        client(blog, "EVAL", script, "0", check=False)
        deadline = time.monotonic() + 300
        while processes(blog)[unit] in (before[unit], "0") or not is_active(blog):
            assert time.monotonic() < deadline, "the store was not ended and started again within 300 s"
            time.sleep(0.1)
    assert {**processes(blog), unit: ""} == {**before, unit: ""} and who(blog, session) == "ada"
    assert client(blog, "LLEN", "kept") == "2" and client(blog, "DEL", "kept")
    assert not blog.apply().changed


def test_queue_and_sessions_survive_a_restart_and_a_kill(blog):
    session = log_in(blog)
    client(blog, "RPUSH", "celery", "a", "b", "c")
    before = processes(blog)
    blog.host.run(["systemctl", "restart", *UNITS])
    assert client(blog, "LLEN", "celery") == "3" and who(blog, session) == "ada"
    restarted = processes(blog)
    blog.host.run(["kill", "-9", *restarted.values()])
    await_restart(blog, restarted)
    assert client(blog, "LLEN", "celery") == "3" and who(blog, session) == "ada"
    assert not {*before.values()} & {*processes(blog).values()}
    (row,) = json.loads(blog.host.salt("django.status", "--out=json").stdout)["local"]
    assert re.search(r"queue \d+M of 256M, 3 tasks wait", row["stores"])


@pytest.mark.full
def test_restart_with_10000_tasks_and_1000_sessions_takes_less_than_a_second(blog):
    """The fastest of five, since other tests may run on this machine; a store that has started has read its file."""
    session = log_in(blog)
    client(blog, "EVAL", "for n = 1, 10000 do redis.call('RPUSH', 'many', string.rep('x', 500)) end", "0")
    many = "for n = 1, 1000 do redis.call('SET', 'session' .. n, string.rep('x', 500)) end"
    client(blog, "EVAL", many, "0", part="cache_sessions")
    for unit in ("django-blog-queue", "django-blog-cache_sessions"):
        timed = f"for n in 1 2 3 4 5; do date +%s%N; systemctl restart {unit}; date +%s%N; done"
        times = [int(line) for line in blog.host.run(timed).stdout.split()]
        seconds = sorted((after - before) / 1e9 for before, after in zip(times[::2], times[1::2], strict=True))
        print(f"{unit}: {seconds[0]:.2f} to {seconds[-1]:.2f} s")
        assert seconds[0] <= busy(), seconds
    assert (client(blog, "LLEN", "many"), who(blog, session)) == ("10000", "ada")
    assert int(client(blog, "DBSIZE", part="cache_sessions")) >= 1000
    client(blog, "DEL", "many")


@pytest.mark.full
def test_changed_memory_restarts_nothing_and_makes_no_release(blog):
    live, before = blog.live, processes(blog)
    assert (limit(blog), limit(blog, "cache")) == (3 * 256 + 128, 2 * 64 + 128)
    changed = {**STORES["caches"], "default": {"engine": "redis", "memory": "32M"}}
    applied = blog.deploy(queue={"engine": "redis", "memory": "128M", "sync": "always"}, caches=changed)
    assert (setting(blog, "maxmemory"), setting(blog, "appendfsync")) == (str(128 << 20), "always")
    assert setting(blog, "maxmemory", part="cache") == str(32 << 20)
    assert (limit(blog), limit(blog, "cache")) == (3 * 128 + 128, 2 * 32 + 128)
    assert [*applied.changed] and {*applied.changed} <= {"blog has its directories", "blog has its stores"}
    assert (blog.live, processes(blog)) == (live, before)
    assert not blog.apply().changed


@pytest.mark.full
def test_changed_unit_restarts_the_queue_when_no_task_is_in_hand(blog):
    """Tasks that wait are kept; one that a worker of Celery has taken puts the restart off."""
    before = processes(blog)
    client(blog, "HSET", "unacked", "tag", "message")
    unit = "/etc/systemd/system/django-blog-queue.service"
    blog.host.run(["sed", "-i", "s/^TimeoutStopSec=.*/TimeoutStopSec=9s/", unit])
    warned = blog.deploy().warnings["blog has its stores"]
    assert "1 messages are not acknowledged" in " ".join(warned) and processes(blog) == before
    client(blog, "DEL", "unacked")
    assert blog.deploy().changed["blog has its stores"]["django-blog-queue"] == "restarted"
    assert processes(blog)["django-blog-queue.service"] != before["django-blog-queue.service"]
    assert client(blog, "LLEN", "celery") == "3" and not blog.apply().changed


def test_queue_is_in_the_backup(blog):
    made = blog.host.call("django.backup", "blog")["made"]
    assert any("/store_queue-" in path for path in made)
    client(blog, "RPUSH", "celery", "d", "e")
    blog.host.call("django.restore", "blog")
    assert client(blog, "LLEN", "celery") == "5"
    restored = blog.host.call("django.restore", "blog", queue=True)
    assert client(blog, "LLEN", "celery") == "3" and "store_queue" in restored["kept"]
    assert blog.host.call("django.restore_drill", "blog")["result"] == "good"
    assert not blog.apply().changed


def test_queue_with_tasks_is_not_removed(blog):
    refused = blog.apply(queue=None)
    assert "3 tasks wait in the queue of blog" in refused.failed["blog has its source"]
    client(blog, "DEL", "celery")


@pytest.mark.full
def test_store_of_the_active_release_runs_until_the_switch(blog):
    """A release that fails leaves the former cache, which the active release uses."""
    more = {"queue": None, "caches": {"default": {"engine": "database"}}, "sessions": "cached_db"}
    foreseen = blog.apply(test=True, **more).changed["blog is recorded"]["stores"]
    failed = blog.apply(commands={"before_switch": ["false"]})
    assert failed.changed["blog has its database migrated"]["cache tables"] == ["django_cache"]
    assert "blog has its instance" in failed.failed and client(blog, "ping", part="cache") == "PONG"
    applied = blog.deploy(commands=None)
    assert foreseen == applied.changed["blog is recorded"]["stores"]
    assert {*applied.changed["blog is recorded"]["stores"]} == {unit.removesuffix(".service") for unit in UNITS}
    assert not [unit for unit in blog.units if unit in UNITS]
    assert python(blog, "from django.core.cache import cache; cache.set('a', 7); print(cache.get('a'))") == "7"
    assert not blog.apply().changed


@pytest.mark.full
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


# The rest of the product


SECRET = "grenadier-7f3 p@s:s/w?"
#: A Redis that is shared by prefix: a user may have its own keys alone, and connects by TLS.
SHARED = f"""
port 0
tls-port 6380
bind 0.0.0.0
tls-cert-file /etc/redis1.crt
tls-key-file /etc/redis1.key
tls-ca-cert-file /etc/redis1.crt
tls-auth-clients no
user default off
user blog on "#{hashlib.sha256(SECRET.encode()).hexdigest()}" ~blog:* &blog:* +@all -@dangerous -@admin
"""


@pytest.mark.full
def test_server_elsewhere_by_tls_password_and_acl(hosts, repositories):
    redis1 = hosts(name="redis1")
    redis1.run("apt-get -qq update && apt-get -qq install --no-install-recommends redis-tools openssl", timeout=300)
    redis1.run(
        "openssl req -x509 -newkey rsa:2048 -nodes -days 2 -subj /CN=redis1 -addext subjectAltName=DNS:redis1"
        " -keyout /etc/redis1.key -out /etc/redis1.crt"
    )
    redis1.write("/etc/redis1.conf", SHARED)
    redis1.run(
        "systemd-run --unit=redis1 /bin/bash -c 'exec -a redis-server /usr/bin/redis-check-rdb /etc/redis1.conf'"
    )
    host = hosts(kind="ready", name="web1")
    host.write("/etc/ssl/redis1.pem", redis1.read("/etc/redis1.crt"))
    there = {"engine": "redis", "host": "redis1", "port": 6380, "user": "blog", "password": SECRET, "tls": True}
    there |= {"ca": "/etc/ssl/redis1.pem", "prefix": "blog:"}
    site = Site(host, repositories(host), cache=there, sessions="cached_db")
    site.deploy()
    told = "from django.core.cache import cache; cache.set('a', 7); print(cache.get('a'))"
    assert python(site, told) == "7" and not site.apply().changed
    assert not host.run("ls /etc/systemd/system | grep django-blog-cache", check=False).stdout
    site.deploy(cache=None, sessions=None, queue=there, environment={"REDIS_URL": {"from": "queue_url"}})
    told = (
        "import os, redis; r = redis.from_url(os.environ['REDIS_URL']); r.rpush('blog:a', 1); print(r.llen('blog:a'))"
    )
    assert python(site, told) == "1"
    refused = "import os, redis; redis.from_url(os.environ['REDIS_URL']).set('shop:a', 1)"
    assert "NoPermission" in host.salt("django.manage", "blog", f'shell -c "{refused}"').stdout
    listed = host.run(f"grep -rlF grenadier {site.root} /etc/systemd /var/log /run/django", check=False).stdout
    kept = {"store.cache", "store.queue", "environment"}  # the former release reads the first, after a rollback
    assert {path.removeprefix(f"{site.root}/secrets/") for path in listed.split()} == kept


@pytest.mark.full
def test_memcached_of_the_site_next_to_that_of_the_host(hosts, repositories):
    """Memcached's own service is not started by the formula; one that the host runs stays as it is."""
    host = hosts(kind="ready")
    site = Site(host, repositories(host), cache={"engine": "memcached"})
    site.deploy()
    assert host.run("systemctl is-active memcached", check=False).stdout.strip() == "inactive"
    assert host.run("systemctl is-enabled memcached", check=False).stdout.strip() == "disabled"
    assert "11211" not in ports(site)
    host.run("systemctl enable --now memcached")
    pid = host.run(["systemctl", "show", "-PMainPID", "django-blog-memcached"]).stdout
    site.deploy(cache={"engine": "memcached", "memory": "96M"})
    assert host.run("systemctl is-active memcached").stdout.strip() == "active" and "11211" in ports(site)
    assert host.run(["systemctl", "show", "-PMainPID", "django-blog-memcached"]).stdout == pid
    assert python(site, "from django.core.cache import cache; cache.set('a', 7); print(cache.get('a'))") == "7"
    assert not site.apply().changed


@pytest.mark.full
def test_stores_without_systemd(hosts, repositories):
    host = hosts(kind="ready", init=False, options=["--tmpfs=/run"])
    host.run("rm -f /etc/nginx/sites-enabled/default")
    site = Site(host, repositories(host), queue={"engine": "redis"}, cache={"engine": "memcached"})
    site.deploy()
    programs = host.run("supervisorctl status").stdout
    assert re.search(r"django-blog-queue +RUNNING", programs) and re.search(r"django-blog-memcached +RUNNING", programs)
    assert client(site, "ping") == "PONG" and not {"6379", "11211"} & ports(site)
    assert "Permission denied" in client(site, "ping", user="nobody", check=False)
    data = ["runuser", "-u", "blog", "--", "ls", f"{site.root}/stores/queue"]
    assert "Permission denied" in host.run(data, check=False).stderr
    client(site, "RPUSH", "celery", "a")
    host.run("pkill -9 -u blog-store -f redis-server")
    host.run("until redis-cli -s /run/django-blog-queue/socket ping; do sleep 0.1; done", timeout=300)
    assert client(site, "LLEN", "celery") == "1" and not site.apply().changed
    site.deploy(queue={"engine": "redis", "memory": "64M"})
    assert setting(site, "maxmemory") == str(64 << 20)
    assert "NOPERM" in client(site, "CONFIG", "SET", "maxmemory", "0")
    site.deploy(state="absent", remove_data=True)
    assert not host.run("pgrep -u blog-store; getent passwd blog-store", check=False).stdout
