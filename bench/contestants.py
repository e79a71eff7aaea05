"""What is measured: django-formula and a plain Salt tree, each with its site on the same host, and an empty apply."""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any

from images import pins
from lab import Applied, CommandFailed, Host, Result, applied
from repository import Repository

MEASURE, PEERS = "/srv/formula/bench/measure.py", "/srv/formula/bench/peers"
#: Printing Salt's own warnings about deprecated modules costs time, so no contestant prints them.
QUIET = {"PYTHONWARNINGS": "ignore::DeprecationWarning"}
SALT = ("salt-call", "--local", "--out=json", "--log-level=quiet")
PYUWSGI = "2.0.30.post1"


@dataclass(frozen=True)
class Took:
    """Seconds: CPU of a command and its children, CPU of the whole host meanwhile, wall."""

    cpu: float
    host: float
    wall: float


def measured(host: Host, *argv: str) -> tuple[Took, Result]:
    """Run a command on a host. Raises CommandFailed where it does not exit with 0."""
    answer = json.loads(host.run(["python3", MEASURE, *argv], timeout=3600, environment=QUIET).stdout)
    result = Result(" ".join(argv), answer["returncode"], answer["stdout"], answer["stderr"])
    return Took(**answer["took"]), result.check()


def apply(host: Host, *argv: str) -> tuple[Took, Applied]:
    """Run a state.apply that has to succeed."""
    took, result = measured(host, *SALT, *argv)
    told = applied(result)
    if not told.ok:
        raise CommandFailed(f"{' '.join(argv)}: {told}")
    return took, told


class Contestant:
    """A site of the bundled example that one way of deploying keeps on a host."""

    title: str
    domain: str
    root: str
    apply_argv: tuple[str, ...]

    def __init__(self, host: Host, repository: Repository):
        self.host, self.repository = host, repository
        self.revision = ""
        #: Whether the site has a worker of Celery.
        self.has_worker = False

    def configure(self, revision: str) -> None:
        """Have the pillar name a commit."""
        raise NotImplementedError

    def nothing(self) -> Took:
        """An apply that finds nothing to do. Raises CommandFailed where it did something."""
        took, told = apply(self.host, *self.apply_argv)
        if told.changed:
            raise CommandFailed(f"{self.title}: there was something to do: {told}")
        return took

    def deploy(self, revision: str) -> Took:
        """An apply that brings another commit; the pillar is written before the clock starts."""
        self.configure(revision)
        self.revision = revision
        took, told = apply(self.host, *self.apply_argv)
        if not told.changed:
            raise CommandFailed(f"{self.title}: {revision} has not been deployed: {told}")
        return took

    def back(self, revision: str) -> Took:
        """Roll back to the commit before."""
        raise NotImplementedError

    def takes(self) -> tuple[int, int]:
        """Bytes of memory that the processes of the site's user have, and of disk below its folder."""
        user = self.domain.split(".")[0]
        memory = self.host.run(f"ps -o rss= --user {user} | awk '{{s += $1}} END {{print s * 1024}}'").stdout
        disk = self.host.run(["du", "--summarize", "--bytes", self.root]).stdout
        return int(float(memory)), int(disk.split()[0])

    def clear(self) -> None:
        """Leave the host as before the first deployment of the site, but with the packages in their caches."""
        raise NotImplementedError

    @property
    def unit(self) -> str:
        """The systemd unit of its server."""
        return self.domain.split(".")[0]

    def status(self) -> int:
        """What a visitor of the first page gets."""
        return self.host.http("/", self.domain).status_code

    @property
    def answering(self) -> dict[str, Any]:
        """What the running code says of itself."""
        return dict(self.host.http("/release", self.domain).json())


class Formula(Contestant):
    title, domain, root = "django-formula", "blog.example.org", "/srv/django/blog"
    apply_argv: tuple[str, ...] = ("state.apply", "django")
    health: Mapping[str, str] = MappingProxyType({"path": "/healthz"})
    more: Mapping[str, Any] = MappingProxyType({})

    def options(self, revision: str, domain: str) -> dict[str, Any]:
        about = {"domains": [domain], "health": dict(self.health)}
        return {"repository": self.repository.url, "revision": revision, **about, **self.more}

    def configure(self, revision: str) -> None:
        self.host.pillar({"django": {"sites": {"blog": self.options(revision, self.domain)}}})

    def back(self, revision: str) -> Took:
        return measured(self.host, *SALT, "django.rollback", "blog")[0]

    @property
    def unit(self) -> str:
        sequence = self.host.run(["readlink", f"{self.root}/current"]).stdout.partition("/")[2].partition("-")[0]
        return f"django-blog-{sequence}.service"

    def clear(self) -> None:
        self.host.run(
            "systemctl stop 'django-blog-*'; cd /etc/systemd/system && rm -f django-blog-* *.wants/django-blog-*; "
            "systemctl daemon-reload; "
            "cd /srv/django/blog && rm -rf current previous releases/* virtualenvs/* database/*"
        )

    def virtualenvs(self) -> str:
        """The site's virtualenvs, with the latest change of anything in them."""
        newest = "find $one -printf '%C@\\n' | sort | tail -1"
        return self.host.run(f"cd /srv/django/blog/virtualenvs && for one in *; do echo $one; {newest}; done").stdout


class Before(Formula):
    """The formula of an earlier commit, for a site of its own without workers; it has its own modules and cache."""

    title, domain, root = "before", "before.example.org", "/srv/django/before"
    folder = "/srv/bench/before"

    def __init__(self, host: Host, repository: Repository, archive: bytes):
        super().__init__(host, repository)
        host.run(["mkdir", "-p", f"{self.folder}/formula"])
        host.send(archive, f"{self.folder}/formula")
        minion = {
            "id": host.name,
            "file_client": "local",
            "cachedir": f"{self.folder}/cache",
            "extension_modules": f"{self.folder}/extmods",  # or both would sync theirs into one folder, in turn
            "file_roots": {"base": [f"{self.folder}/formula"]},
            "pillar_roots": {"base": [f"{self.folder}/pillar"]},
        }
        host.write(f"{self.folder}/minion", json.dumps(minion))
        host.write(f"{self.folder}/pillar/top.sls", "base:\n  '*':\n    - host\n")
        self.apply_argv = (f"--config-dir={self.folder}", "state.apply", "django")

    def configure(self, revision: str) -> None:
        pillar = {"django": {"sites": {"before": self.options(revision, self.domain)}}}
        self.host.write(f"{self.folder}/pillar/host.sls", "#!json\n" + json.dumps(pillar))


class Plain(Contestant):
    title, domain, root = "plain Salt tree", "plain.example.org", "/srv/plain"
    folder = "/srv/bench/plain"
    apply_argv = (f"--config-dir={folder}", "state.apply", "site")

    def __init__(self, host: Host, repository: Repository):
        super().__init__(host, repository)
        minion = {
            "id": host.name,
            "file_client": "local",
            "cachedir": f"{self.folder}/cache",
            "file_roots": {"base": [f"{PEERS}/salt", PEERS]},
            "pillar_roots": {"base": [f"{self.folder}/pillar"]},
        }
        host.write(f"{self.folder}/minion", json.dumps(minion))
        host.write(f"{self.folder}/pillar/top.sls", "base:\n  '*':\n    - host\n")

    def configure(self, revision: str) -> None:
        pillar = {"plain": told(self.repository, revision, self.domain, has_worker=self.has_worker)}
        self.host.write(f"{self.folder}/pillar/host.sls", "#!json\n" + json.dumps(pillar))

    def back(self, revision: str) -> Took:
        return self.deploy(revision)

    def clear(self) -> None:
        self.host.run(
            "systemctl disable --quiet --now plain; rm -f /etc/systemd/system/plain.service; systemctl daemon-reload; "
            "cd /srv/plain && rm -rf virtualenv source static database config"
        )


class Peer(Contestant):
    """A site of a tool that is not Salt: the site is data in a file of its name, with its user and folder."""

    user: str
    #: Its command for a first deployment, and for each further one.
    first: tuple[str, ...]
    again: tuple[str, ...]

    def __init__(self, host: Host, repository: Repository):
        super().__init__(host, repository)
        self.domain, self.root = f"{self.user}.example.org", f"/srv/{self.user}"

    def configure(self, revision: str) -> None:
        site = told(self.repository, revision, self.domain, has_worker=self.has_worker)
        self.host.write(f"/srv/bench/peers/{self.user}.json", json.dumps(self.data(site)))

    def data(self, site: Mapping[str, str]) -> Mapping[str, Any]:
        return site

    def run(self, argv: tuple[str, ...]) -> Took:
        return measured(
            self.host, "env", f"--chdir={PEERS}", "PATH=/opt/peers/bin:/usr/sbin:/usr/bin:/sbin:/bin", *argv
        )[0]

    def deploy(self, revision: str) -> Took:
        self.configure(revision)
        took = self.run(self.again if self.revision else self.first)
        self.revision = revision
        return took

    def back(self, revision: str) -> Took:
        return self.deploy(revision)


class Fabric(Peer):
    title, user = "a Fabric script", "fabric"
    first = ("fab", "--hosts=localhost", "provision")
    again = ("fab", "--hosts=localhost", "deploy")


class Ansible(Peer):
    title, user = "an Ansible play", "ansible"
    first = again = ("ansible-playbook", "--inventory=localhost,", "--connection=local", "ansible.yaml")

    def data(self, site: Mapping[str, str]) -> Mapping[str, Any]:
        return {"site": site}


class Pyinfra(Peer):
    title, user = "pyinfra", "pyinfra"
    first = again = ("pyinfra", "--yes", "@local", "pyinfra_deploy.py")


def told(repository: Repository, revision: str, domain: str, *, has_worker: bool) -> dict[str, str]:
    """Return the data with which every peer configures its site."""
    return {
        **({"celery": "yes"} if has_worker else {}),
        "repository": repository.url,
        "revision": revision,
        "domain": domain,
        "pyuwsgi": PYUWSGI,
        "secret_key": "of-a-peer-0123456789-0123456789-0123456789-0123456789",
    }


def install_peers(host: Host) -> None:
    """Install the tools of the peers on the host, and let root log in at localhost, as Fabric does."""
    host.run(["python3", "-m", "venv", "/opt/peers"])
    host.run(["/opt/peers/bin/pip", "install", "--quiet", *pins("peers")], timeout=900)
    host.run("""set -e
        git config --system --replace-all safe.directory '*'
        test -e /root/.ssh/id_ed25519 || ssh-keygen -q -t ed25519 -N '' -f /root/.ssh/id_ed25519
        cat /root/.ssh/id_ed25519.pub >>/root/.ssh/authorized_keys
        systemctl start ssh
        ssh-keyscan localhost 2>/dev/null >>/root/.ssh/known_hosts
    """)


class Empty:
    """The smallest apply that succeeds, by a minion that has the formula's modules.

    It has a cache of its own: in a shared one, other file roots make Salt throw the hashes of all files away, and the
    next apply of the formula would hash them anew.
    """

    folder = "/srv/bench/empty"

    def __init__(self, host: Host):
        self.host = host
        minion = {
            "id": host.name,
            "file_client": "local",
            "cachedir": f"{self.folder}/cache",
            "extension_modules": "/var/cache/salt/minion/extmods",
            "file_roots": {"base": [f"{PEERS}/salt"]},
            "pillar_roots": {"base": ["/srv/pillar"]},
        }
        host.write(f"{self.folder}/minion", json.dumps(minion))

    def nothing(self) -> Took:
        return apply(self.host, f"--config-dir={self.folder}", "state.apply", "empty")[0]
