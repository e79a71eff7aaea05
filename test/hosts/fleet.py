"""A fleet: a master, hosts that serve one site, and a database server of a company's own."""

import io
import json
import tarfile
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from client import Load
from images import RELEASES
from lab import Host, Result
from repository import EXAMPLE, Repository
from sites import release_of, version

STORE = "/srv/django-fleet"
MASTER = {
    "auto_accept": True,
    "file_roots": {"base": ["/srv/formula"]},
    "pillar_roots": {"base": ["/srv/pillar"]},
    "runner_dirs": ["/srv/formula/_runners"],
    "pillar_dirs": ["/srv/formula/_pillar"],
    "ext_pillar": [{"django": STORE}],
}
PASSWORD = "canary-4c7e12-of-the-database"


class Shared(Repository):
    """A repository on each of several hosts, at the same path."""

    def __init__(self, folder: Path, hosts: Sequence[Host]):
        self.hosts = hosts
        super().__init__(folder, hosts[0], "/srv/git/project.git", EXAMPLE)

    def push(self) -> None:
        self.git("push", "--quiet", "--force", "--all", "origin")
        archive = io.BytesIO()
        with tarfile.open(fileobj=archive, mode="w") as tar:
            tar.add(self.bare, ".")
        for host in self.hosts:
            host.send(archive.getvalue(), self.path)


class Fleet:
    """A site on several hosts of one master.

    Args:
        master: has the formula, the pillar and the store.
        apps: the hosts that serve the site.
        database: has a server of PostgreSQL.
    """

    def __init__(self, master: Host, apps: Sequence[Host], database: Host, folder: Path, **options: Any):
        self.master, self.apps, self.database = master, [*apps], database
        self.balancer: Host
        #: What the first apply and the first deployment have answered.
        self.laid_out: dict[str, Any] = {}
        self.first: dict[str, Any] = {}
        self.repository = Shared(folder, self.apps)
        self.options: dict[str, Any] = {
            "repository": self.repository.url,
            "revision": "main",
            "domains": ["blog.example.org"],
            "health": {"path": "/healthz", "timeout": "15s"},
            "hosts": {"web*": ["app"]},
            "database": {
                "engine": "postgres",
                "host": database.address,
                "name": "blog",
                "user": "blog",
                "password": PASSWORD,
            },
            "media": {"shared": False},
            **options,
        }

    def configure(self, **changes: Any) -> None:
        """Change options of the site's pillar; None takes one out."""
        self.options.update(changes)
        for key in [key for key, value in changes.items() if value is None]:
            del self.options[key]
        self.master.pillar({"django": {"sites": {"blog": self.options}}})

    def run(self, verb: str, *arguments: str, timeout: float = 600) -> Result:
        """A command of the runner."""
        argv = ["salt-run", "--out=json", "--log-level=warning", f"django.{verb}", "blog", *arguments]
        return self.master.run(argv, check=False, timeout=timeout)

    def deploy(self, *arguments: str) -> dict[str, Any]:
        """A deployment that has to succeed; return what the runner says of it."""
        return answer_of(self.run("deploy", *arguments).check())

    def release(self, number: str) -> dict[str, Any]:
        """Commit a version of the project, and deploy it."""
        self.repository.commit(version(number))
        return self.deploy()

    def apply(self, target: str = "web*") -> dict[str, Any]:
        """`state.apply django` on hosts, after those that are under way; return each one's states.

        With `queue=True` Salt 3008 returns nothing of a job that had to wait (`_check_queue` of its module state).
        """
        salt = ["salt", "--timeout=600", "--out=json", "--static", "--log-level=warning"]
        argv = [*salt, target, "state.apply", "django", "queue=99"]
        found: dict[str, Any] = json.loads(self.master.run(argv, timeout=900).stdout)
        return found

    @contextmanager
    def lossless(self, pause: float = 0.035) -> Iterator[Load]:
        """What is done in the block loses no request at the balancer: of about a hundred a second, or fewer."""
        address = f"http://{self.balancer.address}/release"
        with Load(address, "blog.example.org", connections=4, release=release_of, pause=pause) as load:
            load.wait(20)
            yield load
            load.wait(20)
        assert load.failed == []

    def live(self) -> dict[str, str]:
        """The release that each host serves."""
        argv = ["readlink", "/srv/django/blog/current"]
        return {host.name: host.run(argv, check=False).stdout.strip().removeprefix("releases/") for host in self.apps}

    def failed(self, answers: dict[str, Any] | None = None) -> dict[str, list[str]]:
        """What has failed in an apply, by host; without answers, in the first one."""
        return {
            host: [f"{state['name']}: {state['comment']}" for state in states.values() if state["result"] is False]
            if isinstance(states, dict)
            else [str(states)]
            for host, states in (self.laid_out if answers is None else answers).items()
        }

    def commits(self, but: Host | None = None) -> dict[str, str]:
        """The commit of the release that each host serves, as balancers see it; one may be left out."""
        argv = ["cat", "/srv/django/blog/current/commit"]
        return {host.name: host.run(argv).stdout for host in self.apps if host is not but}

    def fingerprints(self) -> set[str]:
        """Those of the hosts' secret keys."""
        argv = ["salt", "--timeout=60", "--out=json", "--static", "web*", "django.secret_key", "blog"]
        found = json.loads(self.master.run(argv).stdout)
        return {answer["fingerprint"] for answer in found.values()}

    def answering(self) -> dict[str, Any]:
        """What the site says of itself through its balancer, which lets a new host in after two good checks."""
        limit = time.monotonic() + 300
        while (found := self.balancer.http("/release", "blog.example.org")).status_code != 200:
            assert time.monotonic() < limit, (found.status_code, found.text)
            time.sleep(0.2)
        return dict(found.json())

    def instances(self) -> dict[str, list[str]]:
        """The application servers that run on each host."""
        argv = ["systemctl", "list-units", "--no-legend", "--plain", "--state=active", "django-blog-*.service"]
        return {host.name: [line.split()[0] for line in host.run(argv).stdout.splitlines()] for host in self.apps}

    def left(self) -> str:
        """What claims and prepared releases there are on the hosts."""
        argv = ["bash", "-c", "ls -d /srv/django/blog/next /srv/django/blog/claim.json 2>/dev/null"]
        return "".join(
            f"{host.name}: {line}\n" for host in self.apps for line in host.run(argv, check=False).stdout.split()
        )


class Running(threading.Thread):
    """A deployment that runs while the test does something else."""

    def __init__(self, fleet: Fleet, *arguments: str, verb: str = "deploy"):
        super().__init__(daemon=True)
        self.fleet, self.verb, self.arguments = fleet, verb, arguments
        self.start()

    def run(self) -> None:
        self.done = self.fleet.run(self.verb, *self.arguments, timeout=600)
        self.ended = time.monotonic()

    def result(self) -> Result:
        self.join(700)
        return self.done


def answer_of(done: Result) -> dict[str, Any]:
    """What a runner returned."""
    found: dict[str, Any] = json.loads(done.stdout)
    return found


def start_salt(host: Host, program: str, configuration: dict[str, Any]) -> None:
    """Start Salt's master or minion, at each boot too; as with its packages, jobs outlive their minion."""
    host.write(f"/etc/salt/{program}", json.dumps(configuration))
    mode = "process" if program == "minion" else "control-group"
    service = f"[Service]\nExecStart=/usr/local/bin/salt-{program}\nKillMode={mode}\n"
    host.write(f"/etc/systemd/system/salt-{program}.service", f"{service}[Install]\nWantedBy=multi-user.target\n")
    host.run(f"systemctl daemon-reload; systemctl enable --quiet salt-{program}; systemctl restart salt-{program}")


def start_master(master: Host) -> None:
    """Start Salt's master with the formula's three lines."""
    start_salt(master, "master", MASTER)


def start_minions(master: Host, hosts: Sequence[Host]) -> None:
    """Start a minion on each host, and wait until the master has their answers."""
    for host in hosts:
        host.run("rm -rf /srv/formula /srv/pillar")
        start_salt(host, "minion", {"id": host.name, "master": master.name})
    await_minions(master, hosts)


def await_minions(master: Host, hosts: Sequence[Host]) -> None:
    """Wait until the minions of these hosts answer."""
    for host in hosts:
        # A look at a file costs less than a call of Salt.
        accepted = f"for _ in $(seq 50); do test -e /etc/salt/pki/master/minions/{host.name} && break; sleep 0.2; done"
        ping = f"until salt --timeout=5 {host.name} test.ping | grep True; do sleep 0.5; done"
        master.run(f"{accepted}; {ping}", timeout=240)


def laid_out(
    module_hosts: Callable[..., Host],
    folder: Path,
    apps: int = 2,
    database: str = "master",
    prepare: Callable[[Host], None] | None = None,
    systems: Sequence[str] = (*RELEASES, RELEASES[0]),
    **options: Any,
) -> Fleet:
    """A balancer and up to three hosts of different releases of Debian, after the first apply and deployment.

    Args:
        database: the name of the host with the database's server, if the master's host is not to have it.
        systems: the release of Debian of each host.
        prepare: may change the formula on the master before anything is applied.
        options: of the site.
    """
    balancer = module_hosts(name="lb1")
    server = module_hosts(name=database, packages=("postgresql",))
    master = server if database == "master" else module_hosts(name="master")
    web = [module_hosts(systems[at], kind="ready", name=f"web{at + 1}") for at in range(apps)]
    if prepare:
        prepare(master)
    start_master(master)
    start_database(server)
    start_minions(master, [*web, balancer])
    fleet = Fleet(master, web, server, folder)
    fleet.balancer = balancer
    fleet.configure(hosts={"web*": ["app"], "lb1": ["balancer"]}, **options)
    fleet.laid_out = fleet.apply("*")
    assert fleet.failed() == {host.name: [] for host in (*web, balancer)}
    fleet.first = fleet.deploy()
    return fleet


def start_database(host: Host) -> None:
    """Set up a server of PostgreSQL that other hosts may log in to, as a company has one."""
    host.run(
        "command -v pg_ctlcluster || apt-get -qq install --no-install-recommends postgresql >/dev/null",
        environment={"DEBIAN_FRONTEND": "noninteractive"},
        timeout=300,
    )
    version_ = host.run("ls /etc/postgresql").stdout.strip()
    folder = f"/etc/postgresql/{version_}/main"
    host.run(f"echo \"listen_addresses = '*'\" >>{folder}/postgresql.conf")
    host.run(f"echo 'host all all 0.0.0.0/0 scram-sha-256' >>{folder}/pg_hba.conf")
    host.run(["systemctl", "restart", "postgresql"])
    host.run(
        "su postgres -c psql",
        stdin=f"CREATE ROLE blog LOGIN PASSWORD '{PASSWORD}';\nCREATE DATABASE blog OWNER blog;\n",
    )
