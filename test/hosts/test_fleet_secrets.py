"""Secrets of a site on several hosts: each has only its own, no other place has them, a rotation ends no session."""

import json
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager

import pytest
import requests
from fleet import PASSWORD, STORE, Fleet, laid_out
from lab import Browser, Host
from sites import version

pytestmark = pytest.mark.full
#: Where Salt, the system and people leave things, on the master and on hosts.
PLACES = "/etc /root /run /srv /tmp /var"


@pytest.fixture(scope="module")
def fleet(module_hosts, tmp_path_factory) -> Fleet:
    """A balancer and two hosts of different releases of Debian, after a first deployment, with a superuser."""
    options = {"secrets": {"API_TOKEN": {"generate": 40}, "GIVEN": "of-the-pillar"}}
    fleet = laid_out(module_hosts, tmp_path_factory.mktemp("repository"), database="db1", **options)
    fleet.master.run(["salt", "--timeout=60", "web1", "django.superuser", "blog"])
    fleet.answering()
    return fleet


class Visitor:
    """Someone who is logged in to the admin, and asks the balancer and each host itself in turn."""

    def __init__(self, fleet: Fleet):
        hosts = [fleet.balancer, fleet.apps[0], fleet.balancer, fleet.apps[1]]
        self.origins = [f"http://{host.address}" for host in hosts]
        self.browser = Browser(self.origins[0], "blog.example.org")
        self.asked, self.ended = 0, []
        file = "/srv/django/blog/secrets/superuser-admin"
        password = fleet.apps[0].run(f". {file}; echo $DJANGO_SUPERUSER_PASSWORD").stdout.strip()
        self.browser.get("/admin/login/")
        token = self.browser.cookies["csrftoken"]
        form = {"username": "admin", "password": password, "csrfmiddlewaretoken": token}
        assert self.browser.post("/admin/login/", data=form).status_code == 302

    def ask(self) -> None:
        """Ask for a page of the admin, which is another one (302) for those whose session has ended."""
        self.browser.origin = self.origins[self.asked % len(self.origins)]
        self.asked += 1
        try:
            found = str(self.browser.get("/admin/").status_code)
        except requests.RequestException as error:
            found = repr(error)
        if found != "200":
            self.ended.append(f"{time.strftime('%H:%M:%S')} {self.browser.origin}: {found}")


@contextmanager
def visited(fleet: Fleet, visitors: list[Visitor], pause: float = 0.1) -> Iterator[None]:
    """In the block visitors ask on and on; none of them may lose a page or a session."""
    over = threading.Event()

    def visit(visitor: Visitor) -> None:
        while not over.is_set():
            visitor.ask()
            time.sleep(pause)

    threads = [threading.Thread(target=visit, args=(visitor,)) for visitor in visitors]
    began, before = time.monotonic(), sum(visitor.asked for visitor in visitors)
    for thread in threads:
        thread.start()
    try:
        yield
    finally:
        over.set()
        for thread in threads:
            thread.join()
    asked, seconds = sum(visitor.asked for visitor in visitors) - before, time.monotonic() - began
    ended = [text for visitor in visitors for text in visitor.ended]
    print(f"{asked} pages in {seconds:.0f} s ({asked / seconds:.0f} a second), {len(ended)} lost")
    assert asked > 100 and ended == []


def keys_of(host: Host) -> list[str]:
    found = json.loads(host.read("/srv/django/blog/secrets/secret_key.json"))
    return [found["key"], *found["fallbacks"]]


def secrets_of(fleet: Fleet) -> dict[str, str]:
    """The secrets that the master's store and the pillar have."""
    return {
        "key": fleet.master.read(f"{STORE}/blog/secret_key"),
        "token": fleet.master.read(f"{STORE}/blog/secrets/variable.API_TOKEN"),
        "password": PASSWORD,
    }


def test_rotations_end_no_session(fleet):
    visitors = [Visitor(fleet) for _ in range(10)]
    old, commits = keys_of(fleet.apps[0])[0], fleet.commits()
    with visited(fleet, visitors):
        time.sleep(3)
        fleet.run("rotate_secret_key").check()
        between = secrets_of(fleet)["key"]
        time.sleep(3)
        done = fleet.run("rotate_secret_key").check()
        time.sleep(3)
    for host in fleet.apps:
        assert keys_of(host)[:3] == [secrets_of(fleet)["key"], between, old]
    assert fleet.commits() == commits and json.loads(done.stdout)["commit"] in commits.values()
    for host, states in fleet.apply("*").items():
        assert [state["comment"] for state in states.values() if state["changes"] or not state["result"]] == [], host
    refused = fleet.master.run(["salt", "--timeout=60", "web1", "django.rotate_secret_key", "blog"], check=False)
    assert refused.returncode and "on the master: salt-run django.rotate_secret_key blog" in refused.stdout


#: Notes the arguments of all processes, each once, until it is ended; how often it has looked is the last line.
SAMPLER = """
import glob, signal, sys, time
signal.signal(signal.SIGTERM, lambda *_: sys.exit())
seen, looks = set(), 0
try:
    while True:
        for path in glob.glob("/proc/[0-9]*/cmdline"):
            try:
                seen.add(open(path, "rb").read().replace(b"\\0", b" "))
            except OSError:
                pass
        looks += 1
        time.sleep(0.05)
finally:
    open("/root/processes", "wb").write(b"\\n".join([*seen, b"%d" % looks]))
"""


@contextmanager
def sampled(hosts: Sequence[Host]) -> Iterator[None]:
    """In the block the arguments of all processes of hosts are noted, in /root/processes."""
    for host in hosts:
        host.write("/root/sampler.py", SAMPLER)
        host.run(["systemd-run", "--quiet", "--unit=sampled", "python3", "/root/sampler.py"])
    try:
        yield
    finally:
        for host in hosts:
            host.run(["systemctl", "stop", "sampled"])


def places(host: Host, texts: list[str]) -> set[str]:
    """The files of a host that have one of the texts."""
    host.write("/dev/shm/texts", "\n".join(texts), mode="0600")
    found = host.run(f"grep -rlaF --devices=skip -f /dev/shm/texts {PLACES} 2>/dev/null", check=False, timeout=300)
    host.run("rm /dev/shm/texts")
    return {path for path in found.stdout.split() if not path.startswith("/srv/formula/")}  # the tests have one of them


def test_secrets_are_where_they_belong_and_nowhere_else(fleet):
    master, (web1, web2), before = fleet.master, fleet.apps, secrets_of(fleet)
    listen = "salt-run --log-level=quiet state.event pretty=True >/root/events"
    master.run(["systemd-run", "--quiet", "--unit=events", "sh", "-c", listen])
    master.run("until test -s /root/events; do salt --async lb1 test.ping; sleep 0.5; done", timeout=300)
    fleet.repository.commit(version("7.0"))
    with sampled([master, web1, web2, fleet.balancer]):
        assert fleet.failed(fleet.apply("*")) == {"lb1": [], "web1": [], "web2": []}
        fleet.deploy()
        fleet.run("rotate_secret_key").check()
    master.run(["systemctl", "stop", "events"])
    events = master.read("/root/events")
    for tag in ("django/blog/deploy/switch", "django/blog/rotate_secret_key/keys", "salt/job/"):
        assert tag in events, "the bus was listened to"
    for host in (master, web1):
        seen = host.read("/root/processes").splitlines()
        assert int(seen[-1]) > 100 and any("salt-" in line for line in seen), "processes were looked at"
    after = secrets_of(fleet)
    texts = [*before.values(), after["key"]]
    assert len({*texts}) == 4 and all(keys_of(host)[:2] == [after["key"], before["key"]] for host in fleet.apps)
    found = {host.name: places(host, texts) for host in (master, web1, web2, fleet.balancer, fleet.database)}
    assert found.pop("lb1") == found.pop("db1") == set(), "a host has secrets of another part"
    allowed = {"master": (f"{STORE}/blog/", "/srv/pillar/", "/var/cache/salt/master/pillar/")}
    for name, paths in found.items():
        left = {path for path in paths if not path.startswith(allowed.get(name, ("/srv/django/blog/secrets/",)))}
        assert left == set(), name
    for path in found["master"]:
        assert path.startswith("/srv/pillar/") or master.run(["stat", "-c", "%a", path]).stdout.strip() == "600", path


def test_secret_of_the_pillar_reaches_hosts_that_use_it_only(fleet):
    """The last one: Salt keeps the pillars that are printed here in its job cache."""
    seen = {}
    for host in (fleet.balancer, *fleet.apps):
        shown = ["salt", "--timeout=60", "--out=json", host.name, "pillar.items", "unmask=True"]
        seen[host.name] = fleet.master.run(shown).stdout
    given = {name for name, text in seen.items() if "of-the-pillar" in text}
    assert given == {host.name for host in fleet.apps} and "sdb://withheld/" in seen[fleet.balancer.name]
    assert PASSWORD not in seen[fleet.balancer.name]
