"""One site on three hosts behind HAProxy: by the formula, and by an Ansible play that takes one host after another."""

import functools
import json
import re
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from client import Answer, Load
from contestants import PEERS, Ansible, Formula, install_peers, told
from fleet import Fleet, laid_out
from lab import MACHINE, CommandFailed, Host, Lab
from repository import Repository

INSTALL = "DEBIAN_FRONTEND=noninteractive apt-get -qq install --no-install-recommends"
#: What Ansible, and its modules on the hosts, ask for.
PACKAGES = "git openssh-server python3-apt python3-packaging python3-setuptools python3-venv socat"
DOMAIN, DATABASE = "ansible.example.org", "ansible"
#: The peer's own process of HAProxy, next to the formula's.
HAPROXY = """global
    stats socket /run/haproxy-peer.sock level admin
defaults
    mode http
    timeout connect 5s
    timeout client 60s
    timeout server 60s
    option redispatch
    retries 3
frontend visitors
    bind :8080
    default_backend site
backend site
    option httpchk
    http-check send meth GET uri /healthz hdr Host {domain}
{servers}
"""
#: A commit that one host cannot run, as when it lacks a library.
UNFIT = "\nimport os\n\nif os.path.exists('/etc/lacks-a-library'):\n    raise ImportError('libwebp.so.7')\n"


@dataclass
class Rolled:
    """What one way of deploying took: seconds of each deployment, and what visitors got meanwhile.

    Attributes:
        unfit: what the way says of a commit that one of the hosts cannot run.
        versions: which versions visitors get after it.
    """

    walls: list[float] = field(default_factory=list)
    answers: list[Answer] = field(default_factory=list)
    unfit: str = ""
    versions: list[str] = field(default_factory=list)

    @property
    def lost(self) -> int:
        return sum(answer.status != 200 for answer in self.answers)

    def __str__(self) -> str:
        return (
            f"{self.lost} of {len(self.answers)} requests lost; a commit that one host cannot run: {self.unfit}, "
            f"visitors get {' and '.join(self.versions)} after it"
        )


class Ours:
    title, port = Formula.title, 80

    def __init__(self, fleet: Fleet):
        self.fleet, self.domain = fleet, fleet.options["domains"][0]

    def deploy(self, _commit: str) -> None:
        self.fleet.deploy()


class Serial:
    """The play of `peers/ansible.yaml`, from the master's host, with a database of its own on the same server."""

    title, port, domain = f"{Ansible.title} with serial: 1", 8080, DOMAIN

    def __init__(self, fleet: Fleet):
        self.fleet = fleet
        master, balancer = fleet.master, fleet.balancer
        for host in (master, balancer, *fleet.apps):
            host.run(f"{INSTALL} {PACKAGES} >/dev/null", timeout=300)
        install_peers(master)
        self.log_in([*fleet.apps, balancer])
        hosts = "\n".join(f"{host.name} ansible_host={host.address}" for host in fleet.apps)
        master.write("/srv/bench/hosts", f"{hosts}\n[balancer]\nlb1 ansible_host={balancer.address}\n")
        fleet.database.run(
            "su postgres -c psql",
            stdin=f"CREATE ROLE {DATABASE} LOGIN PASSWORD '{DATABASE}';\nCREATE DATABASE {DATABASE} OWNER {DATABASE};",
        )
        servers = "\n".join(f"    server {host.name} {host.address}:80 check inter 1s" for host in fleet.apps)
        balancer.write("/etc/haproxy/peer.cfg", HAPROXY.format(domain=DOMAIN, servers=servers))
        balancer.run("systemd-run --unit=haproxy-peer haproxy -W -db -f /etc/haproxy/peer.cfg")

    def log_in(self, hosts: list[Host]) -> None:
        """Let the master's root log in at hosts by ssh."""
        key = self.fleet.master.read("/root/.ssh/id_ed25519.pub")
        for host in hosts:
            host.run("mkdir -p -m 0700 /root/.ssh; cat >>/root/.ssh/authorized_keys; systemctl start ssh", stdin=key)
            host.run("git config --system --replace-all safe.directory '*'")
            self.fleet.master.run(f"ssh-keyscan {host.address} 2>/dev/null >>/root/.ssh/known_hosts")

    def deploy(self, commit: str) -> None:
        database = {"host": self.fleet.database.address, **dict.fromkeys(("name", "user", "password"), DATABASE)}
        site = {**told(self.fleet.repository, commit, DOMAIN, has_worker=False), "database": database}
        self.fleet.master.write("/srv/bench/peers/ansible.json", json.dumps({"site": site}))
        path = "PATH=/opt/peers/bin:/usr/sbin:/usr/bin:/sbin:/bin"
        # The first as its documentation advises; hosts of the lab give no terminal.
        ssh = ["ANSIBLE_PIPELINING=1", "ANSIBLE_SSH_USETTY=0"]
        argv = ["ansible-playbook", "--inventory=/srv/bench/hosts", "ansible.yaml"]
        self.fleet.master.run(["env", f"--chdir={PEERS}", path, *ssh, *argv], timeout=900)


def version_of(body: bytes) -> str | None:
    """The version in an answer of `/release`."""
    found = re.search(rb'"version": "([^"]*)"', body)
    return found[1].decode() if found else None


class Rolling:
    """Both ways on the same hosts, in turn."""

    def __init__(self, lab: Lab, folder: Path):
        self.fleet = laid_out(functools.partial(lab.start, rights=MACHINE), folder, 3)
        self.ways: list[Ours | Serial] = [Ours(self.fleet), Serial(self.fleet)]
        self.took: Mapping[str, Rolled] = {way.title: Rolled() for way in self.ways}
        first = Repository.git(self.fleet.repository, "rev-parse", "HEAD").strip()
        for way in self.ways[1:]:
            way.deploy(first)

    def measure(self, runs: int) -> None:
        """Deploy commits that change code under about a hundred requests a second, and one that a host cannot run."""
        for number in range(runs):
            commit = self.fleet.repository.commit(files(f"2.{number}"))
            for way in self.ways:
                self.deploy(way, commit)
        self.fleet.apps[1].run(["touch", "/etc/lacks-a-library"])
        commit = self.fleet.repository.commit(files("3.0", UNFIT))
        for way in self.ways:
            took = self.took[way.title]
            try:
                self.deploy(way, commit)
                took.unfit = "it succeeds"
            except CommandFailed:
                took.unfit = "it fails"
            with self.visitors(way) as load:
                load.wait(300)
            took.versions = sorted({answer.release or f"status {answer.status}" for answer in load.answers})

    def deploy(self, way: Ours | Serial, commit: str) -> None:
        took = self.took[way.title]
        with self.visitors(way) as load:
            load.wait(20)
            began = time.monotonic()
            try:
                way.deploy(commit)
                took.walls.append(time.monotonic() - began)
            finally:
                load.wait(20)
                took.answers += load.answers

    def visitors(self, way: Ours | Serial) -> Load:
        address = f"http://{self.fleet.balancer.address}:{way.port}/release"
        return Load(address, way.domain, connections=4, pause=0.035, release=version_of)


def files(number: str, more: str = "") -> dict[str, str]:
    return {"guestbook/version.py": f'VERSION = "{number}"\nRELEASE_NOTE = ""\n{more}'}
