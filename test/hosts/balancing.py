"""Hosts of a site behind a balancer. They are nginx alone, which answers with its name, the release that it serves, and
what it was sent.
"""

import json
import subprocess
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

from client import Load
from conftest import Hosts
from lab import Host, podman

OLD, NEW = "a" * 40, "b" * 40
NGINX = """server {
    listen 80;
    server_name blog.example.org;
    default_type text/plain;
    location = /.django-release/blog { alias /srv/release; }
    location = /healthz { return 200 well; }
    location = /kept {
        add_header Cache-Control "public, max-age=300";
        add_header Vary "Accept-Language, Cookie";
        return 200 "NAME $request_id";
    }
    location = /links {
        add_header Cache-Control "public, max-age=300";
        return 200 "$http_x_forwarded_proto $http_x_forwarded_for";
    }
    location = /session {
        add_header Cache-Control "max-age=300";
        add_header Set-Cookie "sessionid=$request_id";
        return 200 "NAME $request_id";
    }
    location = /private { add_header Cache-Control "private, max-age=300"; return 200 "NAME $request_id"; }
    location = /dies { access_log /var/log/nginx/dies.log; return 444; }
    location / { return 200 "NAME $http_x_forwarded_for $http_x_forwarded_proto $http_x_forwarded_host"; }
}
"""
STATES = """import csv, socket
s = socket.socket(socket.AF_UNIX); s.connect("/run/django-haproxy/admin.sock"); s.sendall(b"show stat\\n")
text = b"".join(iter(lambda: s.recv(65536), b"")).decode()
print(*(f"{row['svname']}={row['status'].split()[0]}" for row in csv.DictReader(text[2:].splitlines())
        if row["pxname"] == "django-blog"))
"""


class Fleet:
    """A balancer `lb` and two hosts `web1` and `web2` behind it."""

    def __init__(self, lb: Host, web: list[Host]):
        self.lb, self.web = lb, web
        self.second: Host
        self.hosts: dict[str, Any] = {host.name: {"parts": ["app"], "address": host.address} for host in web}
        self.hosts |= {lb.name: {"parts": ["balancer"], "address": lb.address}}
        self.release: dict[str, Any] = {"commit": OLD, "sequence": 1, "count": 1}
        self.balancer: dict[str, Any] = {}

    def configure(self, **options: Any) -> None:
        site = {
            "repository": "/srv/none",
            "domains": ["blog.example.org"],
            "health": {"path": "/healthz"},
            "secret_key": "k" * 50,
            "database": {"engine": "postgres", "host": "db.example.org", "password": "of the database"},
            "media": {"shared": False},
            "hosts": self.hosts,
            "fleet": self.release,
            "balancer": self.balancer,
            **options,
        }
        self.lb.pillar({"django": {"sites": {"blog": site}}})

    def apply(self, **options: Any) -> Any:
        self.configure(**options)
        applied = self.lb.apply()
        assert applied.ok, applied
        return applied

    def load(self, method: str = "GET") -> Load:
        """About a hundred requests a second."""
        url, domain = f"http://{self.lb.address}/", "blog.example.org"
        return Load(url, domain, connections=8, pause=0.08, release=name_of, timeout=20, method=method)

    def serve(self, host: Host, commit: str) -> None:
        host.write("/srv/release", f"{commit}\n")

    def states(self) -> dict[str, str]:
        """What the balancer thinks of each host: UP, DOWN, DRAIN or MAINT."""
        if self.balancer.get("kind") == "nginx":
            known = json.loads(self.lb.read("/var/lib/django-formula/balancer/hosts.json"))["blog"]
            return {name: state_of(**entry) for name, entry in known.items()}
        text = self.lb.run(["python3", "-c", STATES]).stdout
        return dict(entry.split("=") for entry in text.split() if not entry.startswith("BACKEND"))

    def wait(self, host: Host, state: str, timeout: float = 200) -> float:
        """Wait until the balancer gives a host a state, and return the seconds."""
        began = time.monotonic()
        while self.states()[host.name] != state:
            assert time.monotonic() < began + timeout, (host.name, state, self.states())
            time.sleep(0.25)
        return round(time.monotonic() - began, 1)

    def backend(self, *arguments: str) -> Any:
        return self.lb.call("django_fleet.backend", "blog", *arguments)

    def expect(self, *commits: str) -> bool:
        return bool(self.lb.call("django_fleet.expect", "blog", commits=list(commits)))

    @contextmanager
    def lossless(self) -> Iterator[Load]:
        with self.load() as load:
            load.wait(20)
            yield load
            load.wait(50)
        assert load.failed == [], load.failed[:3]

    def add_late(self) -> None:
        """Give the site a second host, healthy and with another release: no request before it has that of the site."""
        late = self.web[1]
        known = self.hosts.pop(late.name)
        self.serve(late, NEW)
        with self.lossless() as load:
            self.apply()
            self.hosts[late.name] = known
            since = time.time()
            self.apply()
            load.wait(100)
            assert self.states() == {"web1": "UP", "web2": "DOWN"}
            assert answers_of(load, late, since) == 0
            self.serve(late, OLD)
            self.wait(late, "UP")

    def shares(self, count: int, ask: Callable[[], str | None] | None = None) -> Counter[str | None]:
        return Counter((ask or self.ask)() for _number in range(count))

    def ask(self, **options: Any) -> str | None:
        return name_of(self.lb.http("/", "blog.example.org", **options).content)


def state_of(state: str, is_up: bool, **_more: Any) -> str:
    return state.upper() if state != "ready" else "UP" if is_up else "DOWN"


def name_of(body: bytes) -> str | None:
    return body.decode().split()[0] if body.startswith(b"web") else None


def answers_of(load: Load, host: Host, since: float) -> int:
    return sum(answer.release == host.name and answer.time > since for answer in load.answers)


def returns(load: Load, host: Host, since: float) -> bool:
    """Whether a host gets requests again, for which the balancer has a while."""
    for _number in range(40):
        if answers_of(load, host, since):
            return True
        load.wait(25)
    return False


def cable(host: Host, state: str) -> None:
    """Cut a host off, or connect it again; it has no right to do that itself."""
    pid = podman("inspect", "--format={{.State.Pid}}", host.container).stdout.strip()
    subprocess.run(["nsenter", f"--target={pid}", "--net", "ip", "link", "set", "eth0", state], check=True)


def start(module_hosts: Hosts, **balancer: Any) -> Fleet:
    """Two hosts with a release, and a balancer to be applied."""
    web = [module_hosts(kind="ready", name=name) for name in ("web1", "web2")]
    for host in web:
        host.write("/etc/nginx/conf.d/blog.conf", NGINX.replace("NAME", host.name))
        host.write("/srv/release", f"{OLD}\n")
        host.run(["systemctl", "reload", "nginx"])
    lb = module_hosts(name="lb1")
    fleet = Fleet(lb, web)
    fleet.balancer = balancer
    fleet.configure()
    return fleet
