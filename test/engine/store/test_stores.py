"""Stores: their servers as real processes, what root reads of them, and the addresses that the project gets."""

import contextlib
import os
import shutil
import socket
import subprocess
import tempfile
import threading
from pathlib import Path

import pytest
from background import SERVER, until
from django_formula.backup import store
from django_formula.host.commands import DeploymentError
from django_formula.release import settings
from django_formula.secret import secrets as secret_secrets
from django_formula.store import client, contract, redis, setup, stores
from django_formula.watch import problem
from specimen import FACTS, configured

RELEASE = Path("/srv/django/blog/releases/0042-3f2a9c1b77de")
REDIS = redis.STORE
PASSWORD = "5e" * 32


@pytest.fixture
def run(monkeypatch):
    """A short folder for sockets and data: the path of a socket has at most 107 bytes."""
    folder = Path(tempfile.mkdtemp(prefix="store-"))
    monkeypatch.setattr(contract, "RUN", folder)
    monkeypatch.setattr(contract, "folder", lambda _site: folder / "stores")
    monkeypatch.setattr(secret_secrets, "store_password", lambda _site: PASSWORD)
    yield folder
    shutil.rmtree(folder)


class Server:
    """A queue or cache of a site as a process, with the configuration that the formula writes."""

    def __init__(self, **options):
        site = configured(**options)
        ((self.kind, self.own),) = stores.own_servers(site)
        self.own.data.mkdir(parents=True, exist_ok=True)
        self.own.socket.parent.mkdir(exist_ok=True)
        self.own.configuration.write_text(self.kind.configuration(self.own))
        argv = self.kind.command(self.own, SERVER)
        self.process = subprocess.Popen(argv, executable=SERVER, stdout=subprocess.DEVNULL)
        until(self.answers)

    def answers(self):
        with contextlib.suppress(DeploymentError):
            return self("PING") == "PONG"
        return False

    def __call__(self, *command):
        return client.redis(self.own.socket, [command])[0]

    def kill(self):
        self.process.kill()
        self.process.wait()


@pytest.fixture
def start(run):
    """Start servers, and end them with the test."""
    started = []

    def begin(**options):
        started.append(Server(**options))
        return started[-1]

    yield begin
    for server in started:
        server.kill()


def test_full_queue_refuses_tasks_and_keeps_those_that_it_has(start):
    queue = start(queue={"engine": "redis", "memory": "4M"})
    with pytest.raises(DeploymentError, match="refuses a command: OOM"):
        for _number in range(10):
            queue("RPUSH", "celery", "x" * 1_000_000)
    assert queue("LLEN", "celery") >= 1 and REDIS.usage(queue.own).used > 1 << 20


#: What the site may not do with its own server.
FORBIDDEN = (
    *("CONFIG SET maxmemory 0", "CONFIG GET dir", "SHUTDOWN NOSAVE", "DEBUG SLEEP 1", "MODULE LIST", "MONITOR"),
    *("REPLICAOF 127.0.0.1 1", "SLAVEOF 127.0.0.1 1", "ACL SETUSER default +@all", "ACL LIST", "SYNC", "SAVE"),
    *("BGREWRITEAOF", "CLIENT KILL TYPE normal", "CLIENT PAUSE 1000", "FAILOVER", "SLOWLOG RESET"),
    "AUTH operator 5e",
)


@pytest.mark.parametrize("command", FORBIDDEN)
def test_site_may_not_administer_its_server(start, command):
    queue = start(queue={"engine": "redis"})
    with pytest.raises(DeploymentError, match=r"NOPERM|WRONGPASS|command not allowed"):
        queue(*command.split())
    with pytest.raises(DeploymentError, match="refuses a command"):
        queue("EVAL", f"return redis.call({', '.join(map(repr, command.split()))})", "0")
    assert REDIS.differences(queue.own) == {}


def test_site_may_do_what_clients_do(start):
    queue = start(queue={"engine": "redis"})
    assert queue("CLIENT", "SETNAME", "worker") == "OK" and "cmd=client" in queue("CLIENT", "LIST")
    assert "redis_mode" in queue("INFO") and queue("KEYS", "*") == [] and queue("PUBLISH", "channel", "a") == 0
    assert queue("EVAL", "return redis.call('RPUSH', KEYS[1], 'a')", "1", "celery") == 1
    assert queue("FLUSHDB") == "OK" and queue("ACL", "WHOAMI") == "default"


def test_full_cache_drops_values(start):
    cache = start(cache={"engine": "redis", "memory": "4M"})
    for number in range(10):
        assert cache("SET", f"key{number}", "x" * 1_000_000) == "OK"
    assert cache("DBSIZE") < 10 and cache("GET", "key9")


@pytest.mark.parametrize(("sync", "kept"), [("always", 2), ("everysec", 2)])
def test_queue_has_its_tasks_after_a_kill(start, sync, kept):
    options = {"queue": {"engine": "redis", "sync": sync}}
    queue = start(**options)
    queue("RPUSH", "celery", "a", "b")
    queue.kill()
    assert start(**options)("LLEN", "celery") == kept


def test_cache_without_a_file_is_empty_after_a_kill(start):
    cache = start(cache={"engine": "redis"})
    cache("SET", "a", "1")
    cache.kill()
    assert start(cache={"engine": "redis"})("GET", "a") is None and os.listdir(cache.own.data) == []


def test_endless_script_of_the_project_is_named_with_its_cure(start):
    """The kernel ends a server that does not stop, as systemd does by SIGKILL; it has its tasks then."""
    queue = start(queue={"engine": "redis"})
    queue("RPUSH", "celery", "task")
    redis.operate(queue.own, [["CONFIG", "SET", "lua-time-limit", "10"]])
    with client.connection(queue.own.socket) as (connected, _stream):
        client.send(connected, [["EVAL", "while true do end", "0"]])
        with pytest.raises(DeploymentError, match=r"refuses a command: BUSY .* script") as error:
            until(lambda: REDIS.differences(queue.own))
    assert error.value.hint == "a script of the project does not end: restart django-blog-queue"
    queue.kill()
    assert start(queue={"engine": "redis"})("LRANGE", "celery", "0", "-1") == ["task"]


#: What keeps a server busy, and whether it can be ended without a restart.
BUSY = {
    "script": ("EVAL", "while true do end", True),
    "script that has written": ("EVAL", "redis.call('SET', 'a', '1') while true do end", False),
    "function": ("FCALL", "endless", True),
}


@pytest.mark.parametrize("name", BUSY)
def test_server_that_the_site_keeps_busy_serves_again(start, monkeypatch, name):
    queue = start(queue={"engine": "redis"})
    queue("RPUSH", "celery", "task")
    command, text, is_ended = BUSY[name]
    if command == "FCALL":
        queue("FUNCTION", "LOAD", "#!lua name=l\nredis.register_function('endless', function() while true do end end)")
    redis.operate(queue.own, [["CONFIG", "SET", "lua-time-limit", "10"]])
    restarted = []

    def restart(server):
        queue.kill()
        restarted.append(start(queue={"engine": "redis"}))

    monkeypatch.setattr(setup.service, "restart", restart)
    monkeypatch.setattr(setup.service, "make_folders", lambda _server: None)
    with client.connection(queue.own.socket) as (connected, _stream):
        client.send(connected, [[command, text, "0"]])
        until(lambda: setup._differences(REDIS, queue.own)[1])
        found = setup.Pending(REDIS, queue.own, {}, [], {}, False, False, "BUSY")
        assert found.changes() == {"django-blog-queue": "freed of what keeps it busy, or restarted"}
        rest, warning = setup.free(found)
    assert not rest.changes() and warning.startswith("django-blog-queue ")
    assert bool(restarted) is not is_ended and ("was restarted" in warning) is not is_ended
    assert (restarted or [queue])[0]("LRANGE", "celery", "0", "-1") == ["task"]


def test_server_whose_connections_the_site_takes_is_busy(start):
    cache = start(cache={"engine": "redis"})
    redis.operate(cache.own, [["CONFIG", "SET", "maxclients", "2"]])
    with contextlib.ExitStack() as held:
        for _number in range(2):
            held.enter_context(client.connection(cache.own.socket))
        until(lambda: "max number of clients" in setup._differences(REDIS, cache.own)[1])


def test_memory_and_sync_change_without_a_restart(start):
    queue = start(queue={"engine": "redis"})
    assert REDIS.differences(queue.own) == {}
    site = configured(queue={"engine": "redis", "memory": "1G", "sync": "always"})
    ((_kind, changed),) = stores.own_servers(site)
    assert REDIS.differences(changed) == {"maxmemory": str(1 << 30), "appendfsync": "always"}
    REDIS.change(changed, REDIS.differences(changed))
    assert REDIS.differences(changed) == {} and queue.process.poll() is None


def test_less_memory_is_given_back_before_the_limit_is_lowered(start):
    """What the file has been is read at the next start, so it is written anew too."""
    options = {"engine": "redis", "sync": "everysec"}
    cache = start(cache={**options, "memory": "32M"})
    for number in range(200):
        cache("SET", f"key{number}", "x" * 100_000)
    ((kind, smaller),) = stores.own_servers(configured(cache={**options, "memory": "4M"}))
    assert cache.own.memory_limit == (3 * 32 + 128) << 20 and smaller.memory_limit == (3 * 4 + 128) << 20
    kind.change(smaller, kind.differences(smaller))
    kind.compact(smaller)
    files = (path.stat().st_size for path in (smaller.data / "appendonlydir").iterdir())
    assert kind.usage(smaller).used <= 4 << 20 and sum(files) < 4 << 20
    assert client.process(smaller.socket) == cache.process.pid and cache("DBSIZE") > 0


def test_what_a_running_server_can_change_is_no_reason_for_a_restart(run):
    texts = []
    for options in ({}, {"memory": "1G", "sync": "always"}):
        site = configured(queue={"engine": "redis", **options})
        ((kind, server),) = stores.own_servers(site)
        texts.append(setup._fixed(kind, kind.configuration(server)))
    assert texts[0] == texts[1] and "unixsocket" in texts[0] and "maxmemory" not in texts[0]


def test_server_that_an_upgrade_of_the_host_has_made_newer_gets_channels_without_a_restart(start, monkeypatch):
    """From Ubuntu 22.04 to 24.04: the configuration for Redis 6.0 has no channels, and a boot starts 7.0 with it."""
    made = redis._users
    with monkeypatch.context() as former:
        former.setattr(redis, "_users", lambda server: [(one, text.replace(" &*", "")) for one, text in made(server)])
        queue = start(queue={"engine": "redis"})
    kind, text = queue.kind, queue.own.configuration.read_text()
    assert " &*" not in text and setup._fixed(kind, text) == setup._fixed(kind, kind.configuration(queue.own))
    with pytest.raises(DeploymentError, match="NOPERM"):
        queue("PUBLISH", "room", "hello")
    assert kind.differences(queue.own) == {"channels": "all"}
    kind.change(queue.own, kind.differences(queue.own))
    assert kind.differences(queue.own) == {} and queue("PUBLISH", "room", "hello") == 0
    of_redis_6_0 = ["flags", ["on"], "passwords", [], "commands", "+@all", "keys", ["*"]]
    assert not redis._lacks_channels(of_redis_6_0), "which runs on until it is restarted"


def test_tasks_that_redis_6_has_written_are_there_in_7(run, start):
    """Redis 6 of Ubuntu 22.04 has one file, of which the next one makes a folder when it starts."""
    ((_kind, own),) = stores.own_servers(configured(queue={"engine": "redis"}))
    own.data.mkdir(parents=True)
    words = [["SELECT", "0"], ["RPUSH", "celery", "one", "two"]]
    lines = [text for one in words for text in (f"*{len(one)}", *(f"${len(word)}\r\n{word}" for word in one))]
    (own.data / "appendonly.aof").write_bytes("".join(f"{line}\r\n" for line in lines).encode())
    queue = start(queue={"engine": "redis"})
    assert queue("LRANGE", "celery", "0", "-1") == ["one", "two"] and (own.data / "appendonlydir").is_dir()


def test_waiting_tasks_are_counted_in_lists_and_in_what_celery_has_not_acknowledged(start):
    queue = start(queue={"engine": "redis"})
    assert redis.lengths(queue.own) == {}
    queue("RPUSH", "celery", "a", "b", "c")
    queue("RPUSH", "mail\r\n*9", "a")
    queue("HSET", "unacked", "tag", "message")
    queue("SET", "celery-task-meta-1", "result")
    assert redis.lengths(queue.own) == {"celery": 3, "mail\r\n*9": 1, "unacked": 1}
    assert REDIS.waiting(queue.own) == 5


def test_messages_of_a_celery_with_a_prefix_of_its_own_are_counted(start):
    """The project's global_keyprefix: without it a queue was removed with what its workers had in hand."""
    queue = start(queue={"engine": "redis"})
    queue("HSET", "shop:unacked", "tag", "message", "other", "message")
    queue("HSET", "unacked", "tag", "message")
    queue("HSET", "shop:unacked_held:worker", "tag", "0")
    assert redis.lengths(queue.own) == {"unacked": 3} and setup.taken(queue.own) == 3


def test_tasks_that_wait_for_their_time_or_by_priority_are_counted(start):
    queue = start(queue={"engine": "redis"})
    for key in ("huey.schedule.blog", "huey.redis.blog", "rq:scheduled:default"):
        queue("ZADD", key, "1", "one", "2", "other")
    queue("ZADD", "rq:finished:default", "1", "done")  # what has ended waits for nothing
    queue("ZADD", "unacked_index", "1", "tag")
    queue("RPUSH", "celery", "a")
    assert REDIS.waiting(queue.own) == 7
    assert redis.lengths(queue.own) == {"celery": 1, "huey.redis.blog": 2, redis.SCHEDULED: 4}
    text = setup.summary(queue.own.site)
    assert text.endswith(", 3 tasks wait, 4 scheduled"), "a queue of tasks for later is not one that does not shrink"
    assert problem.waiting({"stores": text}) == 3


@pytest.mark.slow
def test_no_list_is_missed_among_many_keys(start):
    queue = start(queue={"engine": "redis"})
    queue("EVAL", "for number = 1, 300000 do redis.call('SET', 'result' .. number, '') end", "0")
    for number in range(50):
        queue("RPUSH", f"queue{number}", "a")
    assert REDIS.waiting(queue.own) == 50


def test_too_many_lists_are_not_counted(start):
    queue = start(queue={"engine": "redis"})
    queue("EVAL", "for number = 1, 6 do redis.call('RPUSH', string.rep('x', 1000000) .. number, '') end", "0")
    with pytest.raises(DeploymentError, match="django-blog-queue has more lists than are counted"):
        REDIS.waiting(queue.own)


def test_endless_list_of_names_is_not_read_to_its_end(run, monkeypatch):
    ((_kind, server),) = stores.own_servers(configured(queue={"engine": "redis"}))
    server.socket.parent.mkdir()
    hostile = Hostile(server.socket, b"*2\r\n$1\r\n7\r\n*0\r\n")
    monkeypatch.setattr(client, "PATIENCE", 0.5)
    with pytest.raises(DeploymentError, match="does not answer"):
        redis.lengths(server)
    hostile.listener.close()


def test_dump_is_read_by_another_server(start, tmp_path):
    queue = start(queue={"engine": "redis"})
    queue("RPUSH", "celery", *(f"task {number}" for number in range(1000)))
    (database,) = store.own_queues(queue.own.site)
    dumper = store.StoreDumper()
    assert dumper.measure(database)["tables"] == 1
    with open(tmp_path / "dump", "wb+") as file:
        dumper.dump(database, file.fileno())
        assert file.seek(0, 2) > 1000
    queue.kill()
    shutil.rmtree(queue.own.data)
    queue.own.data.mkdir()
    shutil.copy(tmp_path / "dump", queue.own.data / "appendonly.aof")
    restored = start(queue={"engine": "redis"})
    assert restored("LLEN", "celery") == 1000 and restored("LINDEX", "celery", "999") == "task 999"


class Hostile:
    """A server that answers whatever a test wants."""

    def __init__(self, path, answer):
        self.answer = answer
        self.listener = socket.socket(socket.AF_UNIX)
        self.listener.bind(str(path))
        self.listener.listen()
        threading.Thread(target=self.serve, daemon=True).start()

    def serve(self):
        with contextlib.suppress(OSError):
            while True:
                connection = self.listener.accept()[0]
                connection.recv(4096)
                connection.sendall(self.answer)
                connection.close()


@pytest.mark.parametrize(
    "answer",
    [b"", b"$100\r\nshort", b"*1\r\n" * 50, b"$99999999999\r\n", b"*999999999\r\n:1\r\n", b"x" * 100, b":none\r\n"],
)
def test_damaged_answer_is_an_error(run, answer):
    hostile = Hostile(run / "socket", answer)
    with pytest.raises(DeploymentError, match="does not answer"):
        client.redis(run / "socket", [["PING"]])
    hostile.listener.close()


def test_silent_server_is_not_waited_for(run):
    listener = socket.socket(socket.AF_UNIX)
    listener.bind(str(run / "socket"))
    listener.listen()
    with pytest.raises(DeploymentError, match="does not answer: timed out"):
        client.redis(run / "socket", [["PING"]], patience=0.2)
    listener.close()


def test_server_of_another_user_is_not_spoken_to(run):
    """The user of the stores may put a link to the socket of another site there, and root connects to it."""
    (run / "blog").mkdir()
    hostile = Hostile(run / "socket", b"+PONG\r\n")
    (run / "blog/socket").symlink_to(run / "socket")
    assert client.redis(run / "blog/socket", [["PING"]]) == ["PONG"]
    os.chown(run / "blog", os.getuid() + 1, -1)
    with pytest.raises(DeploymentError, match="does not answer: a process of another user"):
        client.redis(run / "blog/socket", [["PING"]])
    hostile.listener.close()


def test_memcached_gets_its_memory_while_it_runs(run):
    ((kind, server),) = stores.own_servers(configured(cache={"engine": "memcached", "memory": "96M"}))
    assert server.unit == "django-blog-memcached" and kind.command(server, "")[-3:] == ["96", "-c", "1000"]
    server.socket.parent.mkdir()
    stats = Hostile(server.socket, b"STAT limit_maxbytes 67108864\r\nSTAT bytes 5\r\nSTAT version 1.6\r\nEND\r\n")
    assert kind.differences(server) == {"memory": "96"}
    assert kind.usage(server) == (5, 96 << 20)
    stats.answer = b"SERVER_ERROR no\r\n"
    with pytest.raises(DeploymentError, match="refuses a command: SERVER_ERROR no"):
        stores.STORES["memcached"].change(server, {"memory": "96"})
    stats.listener.close()


def test_memcached_that_runs_refuses_less_than_its_least_memory(run):
    """It answers so, and nothing after that: a change to less restarts it."""
    ((kind, server),) = stores.own_servers(configured(cache={"engine": "memcached", "memory": "4M"}))
    server.socket.parent.mkdir()
    hostile = Hostile(server.socket, b"MEMLIMIT_TOO_SMALL cannot set maxbytes to less than 8m\r\n")
    with pytest.raises(DeploymentError, match="refuses a command: MEMLIMIT_TOO_SMALL cannot set maxbytes") as error:
        kind.change(server, {"memory": "4"})
    assert error.value.hint == "restart it, which empties the cache: systemctl restart django-blog-memcached"
    hostile.listener.close()
    line = "exec memcached -s /run/s -a 0770 -m {} -c 1000"
    texts = {number: setup._fixed(kind, line.format(number)) for number in (4, 7, 8, 64, 128, 1024)}
    assert texts[8] == texts[64] == texts[128] == texts[1024] not in (texts[4], texts[7])


ELSEWHERE = {"engine": "redis", "host": "redis1", "user": "blog", "password": "p@s:s/w?", "tls": True, "number": 2}


@pytest.mark.parametrize(
    ("word", "options", "expected"),
    [
        ("queue_url", {"queue": {"engine": "redis"}}, "unix:///run/django-blog-queue/socket"),
        ("queue_socket", {"queue": {"engine": "redis"}}, "/run/django-blog-queue/socket"),
        ("celery_broker_url", {"queue": {"engine": "redis"}}, "redis+socket:///run/django-blog-queue/socket"),
        ("queue_url", {"queue": ELSEWHERE}, "rediss://blog:p%40s%3As%2Fw%3F@redis1:6379/2"),
        (
            "celery_broker_url",
            {"queue": {**ELSEWHERE, "ca": "/etc/ca.pem"}},
            "rediss://blog:p%40s%3As%2Fw%3F@redis1:6379/2?ssl_ca_certs=/etc/ca.pem&ssl_cert_reqs=required",
        ),
        ("queue_url", {"queue": {"engine": "redis", "host": "[2001:db8::1]"}}, "redis://[2001:db8::1]:6379/0"),
        ("cache_url", {"cache": {"engine": "memcached"}}, "unix:/run/django-blog-memcached/socket"),
        ("cache_url", {"cache": {"engine": "memcached", "host": "m1"}}, "m1:11211"),
    ],
)
def test_address_in_the_environment(word, options, expected):
    site = configured(**options, environment={"WHERE": {"from": word}})
    secrets = dict.fromkeys(secret_secrets.configured(site), "p@s:s/w?")
    plain = settings.environment(site, RELEASE, FACTS)
    hidden = settings.secret_environment(site, secrets, [])
    has_password = bool(site.stores[next(iter(site.stores))]["password"])
    assert (plain | hidden)["WHERE"] == expected and ("WHERE" in hidden) == has_password


@pytest.mark.parametrize(("kind", "names"), [("celery", {"CELERY_BROKER_URL"}), ("rq", set())])
def test_celery_worker_finds_the_queue(kind, names):
    site = configured(queue={"engine": "redis"}, workers={"default": {"kind": kind}})
    found = settings.environment(site, RELEASE, FACTS)
    assert {name for name in found if "BROKER" in name} == names


def test_a_host_whose_site_has_its_workers_elsewhere_finds_the_queue():
    site = configured(queue={"engine": "redis"})
    site.config = {**site.config, "enqueues": ["celery_broker_url"]}
    found = settings.environment(site, RELEASE, FACTS)
    assert found["CELERY_BROKER_URL"] == "redis+socket:///run/django-blog-queue/socket"
    site.config = {**site.config, "environment": {"CELERY_BROKER_URL": "memory://"}}
    assert settings.environment(site, RELEASE, FACTS)["CELERY_BROKER_URL"] == "memory://"


def test_only_missing_clients_are_installed():
    site = configured(queue={"engine": "redis"}, caches={"default": {"engine": "memcached"}})
    assert stores.requirements(site, (5, 2), set()) == ["redis>=4.5", "pymemcache>=3.4"]
    assert stores.requirements(site, (3, 2), {"pylibmc"}) == ["django-redis>=5.0"]
    assert stores.requirements(site, (5, 2), {"redis", "pymemcache"}) == []
    assert stores.requirements(site, (3, 2), {"redis", "pymemcache"}) == []
    cache = configured(queue={"engine": "redis"}, cache={"engine": "redis"})
    assert stores.requirements(cache, (3, 2), {"redis"}) == ["django-redis>=5.0"]
    assert stores.requirements(cache, (3, 2), {"redis", "django_redis"}) == []
    assert stores.requirements(configured(cache={"engine": "database"}), (5, 2), {"kombu"}) == []
    celery = {"redis", "pymemcache", "kombu"}
    assert stores.requirements(site, (5, 2), celery) == ["packaging"]
    assert stores.requirements(site, (5, 2), {*celery, "packaging"}) == []


def test_store_is_used_by_the_releases_that_have_its_socket(make_site):
    site = make_site(queue={"engine": "redis"})
    config = site.releases / RELEASE.name / "config"
    config.mkdir(parents=True)
    (config / "settings.json").write_text('{"location": "unix:///run/django-blog-cache/socket"}')
    (config / "environment").write_text('REDIS_URL="unix:///run/django-blog-queue/socket"\n')
    used = {part for part in ("queue", "cache", "cache_a", "memcached") if _is_used(site, config.parent, part)}
    assert used == {"queue", "cache"}


def test_release_whose_store_was_removed_is_named(make_site):
    site = make_site(queue={"engine": "redis"})
    config = site.releases / RELEASE.name / "config"
    config.mkdir(parents=True)
    (config / "settings.json").write_text(
        '{"a": "unix:///run/django-blog-cache_a/socket", "b": "/run/django-blog-cache/"}'
    )
    (config / "environment").write_text('REDIS_URL="unix:///run/django-blog-queue/socket"\n')
    assert setup.missing(site, config.parent) == ["django-blog-cache_a", "django-blog-queue"]
    (site.root / "stores").mkdir()
    (site.root / "stores/queue.conf").touch()
    assert setup.missing(site, config.parent) == ["django-blog-cache_a"]


def _is_used(site, release, part):
    return setup.is_used(site, release, part)
