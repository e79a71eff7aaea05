"""A host with Docker, podman and the implementations of compose, and stand-ins for the images of a registry."""

import hashlib
import io
import subprocess
import tarfile
import time
from collections.abc import Sequence
from pathlib import Path

from images import CERTIFICATES, cache_folder, locked
from lab import Host, Result

HERE = Path(__file__).parent
PACKAGES = (
    *("docker.io", "docker-cli", "docker-compose", "docker-buildx", "podman", "podman-compose", "crun", "netavark"),
    *("aardvark-dns", "nftables", "iptables", "supervisor", "python3-venv", "curl", "git", "openssl"),
)
#: What is in the root of all stand-ins.
IN_IMAGES = (
    *("python3", "python3-venv", "python3-pip", "python3-dev", "ca-certificates", "tzdata", "nginx-light"),
    *("postgresql", "mariadb-server", "redis-server", "certbot", "openssl", "gcc", "libc6-dev"),
)
NAMES = (
    *("library/python:3.13-slim", "library/nginx:1.28", "library/postgres:17", "library/mariadb:11.8"),
    *("library/redis:7.4", "certbot/certbot:v4.0.0"),
)
#: What is in the root of images of a Python for old versions of Django, whose own packages there are no more.
OF_OLD_PYTHON = ("python3", "python3-venv", "python3-pip", "ca-certificates")
#: docker-compose 1.29 in an environment of its own; its own pins do not build with Python 3.13.
COMPOSE_1 = (
    *("docker-compose==1.29.2", "docker==5.0.3", "dockerpty==0.4.1", "docopt==0.6.2", "texttable==1.7.0"),
    *("distro==1.9.0", "jsonschema==3.2.0", "attrs==25.3.0", "pyrsistent==0.20.0", "six==1.17.0", "PyYAML==6.0.2"),
    *("requests==2.31.0", "urllib3==1.26.20", "charset-normalizer==3.4.1", "idna==3.10", "certifi==2025.1.31"),
    *("websocket-client==0.59.0", "python-dotenv==0.21.1", "setuptools==75.8.0"),
)
#: Each implementation: its command and the engine that it talks to.
IMPLEMENTATIONS = {
    "docker compose 2": ("docker compose", "docker"),
    "docker-compose 1.29": ("/opt/compose-1/bin/docker-compose", "docker"),
    "podman-compose 1.3": ("podman-compose", "podman"),
}
#: As root of a host that may not raise limits.
_LIMITS = '[containers]\ndefault_ulimits = ["nofile=4096:4096", "nproc=4096:4096"]\n'
_VARIABLES = (
    "PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin",
    *(f"{name}={CERTIFICATES}" for name in ("SSL_CERT_FILE", "PIP_CERT")),
)
_CHANGES = " ".join(f"--change 'ENV {one}'" for one in _VARIABLES)
ENVIRONMENT = {"PODMAN_IGNORE_CGROUPSV1_WARNING": "1"}


def install(host: Host) -> None:
    """Install engines and implementations, and load the stand-ins into both engines."""
    install = "DEBIAN_FRONTEND=noninteractive apt-get -qq install -y --no-install-recommends"
    host.run(f"apt-get -qq update && {install} {' '.join(PACKAGES)} >/dev/null", timeout=600)
    host.write("/etc/containers/containers.conf", _LIMITS)
    pip = "/opt/compose-1/bin/pip install --quiet --no-deps"
    host.run(f"python3 -m venv /opt/compose-1 && {pip} {' '.join(COMPOSE_1)}", timeout=300)
    shim = "from shlex import quote\n"  # Python 3.13 has no module pipes
    host.write("/opt/compose-1/lib/python3.13/site-packages/pipes.py", shim)
    send(root("trixie", IN_IMAGES), host, "/srv/root.tar")
    host.send(folder(HERE / "stand_ins"), "/srv/stand_ins")
    host.run(f"cp {CERTIFICATES} /srv/stand_ins/")
    for engine in ("docker", "podman"):
        run(host, f"{engine} import {_CHANGES} /srv/root.tar localhost/plain")
        for name in NAMES:
            target, tag = name.partition("/")[2].partition(":")[0], f"docker.io/{name}"
            run(host, f"{engine} build --quiet --target {target} --tag {tag} /srv/stand_ins")


def install_old_python(host: Host, tag: str) -> None:
    """Make a stand-in of Python from Debian 12, under the name of an older version, for Docker."""
    send(root("bookworm", OF_OLD_PYTHON), host, "/srv/old.tar")
    run(host, f"docker import {_CHANGES} /srv/old.tar localhost/old")
    options = f"--quiet --target python --build-arg PLAIN=localhost/old --tag docker.io/library/python:{tag}"
    run(host, f"docker build {options} /srv/stand_ins")


def send(file: Path, host: Host, path: str) -> None:
    with file.open("rb") as opened:
        argv = ["runc", "exec", host.id, "sh", "-c", f"cat >{path}"]
        subprocess.run(argv, stdin=opened, check=True, timeout=300)


def run(host: Host, command: str, *, check: bool = True, timeout: float = 600) -> Result:
    return host.run(command, check=check, timeout=timeout, environment=ENVIRONMENT)


def root(release: str, included: Sequence[str]) -> Path:
    """The root of stand-ins as a tar archive, made once: a release of Debian with packages."""
    key = hashlib.sha256("\n".join(included).encode()).hexdigest()[:12]
    archive = cache_folder() / "images" / f"{release}-services-{key}.tar"
    archive.parent.mkdir(parents=True, exist_ok=True)
    with locked(archive.with_suffix(".lock")):
        if not archive.exists():
            part = archive.with_suffix(".part")
            without = [f"--dpkgopt=path-exclude=/usr/share/{name}/*" for name in ("doc", "man", "locale")]
            packages = f"--include={','.join(included)}"
            argv = ["mmdebstrap", "--quiet", "--variant=minbase", packages, *without, "--format=tar", release]
            subprocess.run([*argv, str(part)], check=True, capture_output=True)
            part.rename(archive)
        archive.touch()
    return archive


def folder(path: Path) -> bytes:
    archive = io.BytesIO()
    with tarfile.open(fileobj=archive, mode="w") as tar:
        tar.add(path, ".")
    return archive.getvalue()


class Composed:
    """A project in a folder of a host, run by one implementation of compose."""

    def __init__(self, host: Host, path: str, implementation: str, kind: str = "production", user: str = "root"):
        self.host, self.path, self.user = host, path, user
        self.command, self.engine = IMPLEMENTATIONS[implementation]
        self.file = f"compose.{kind}.yml"

    def __call__(self, words: str, *, check: bool = True, timeout: float = 600) -> Result:
        command = f"cd {self.path} && {self.command} -f {self.file} {words}"
        return self.host.run(
            command, check=check, timeout=timeout, user=self.user, environment={**ENVIRONMENT, "HOME": self.path}
        )

    def containers(self) -> list[str]:
        """The ids of its containers that run."""
        label = f"com.docker.compose.project={Path(self.path).name}"
        return run(self.host, f"{self.engine} ps --quiet --no-trunc --filter label={label}").stdout.split()

    def health(self) -> list[str]:
        """The health of each container that has a health check: starting, healthy, unhealthy."""
        key = "{{if .State.Health}}{{.State.Health.Status}}{{end}}"
        found = run(self.host, f"{self.engine} inspect --format '{key}' {' '.join(self.containers())}", check=False)
        return found.stdout.split()

    def wait(self, url: str, host: str, seconds: float) -> str:
        """Wait until a page answers 200 and every health check passes; return the page."""
        began, code = time.monotonic(), ""
        while time.monotonic() - began < seconds:
            curl = ["curl", "--silent", "--insecure", "--write-out", "\n%{http_code}"]
            done = self.host.run([*curl, "--header", f"Host: {host}", url], check=False)
            page, _line, code = done.stdout.rpartition("\n")
            if code == "200" and {*self.health()} == {"healthy"}:
                return page
            time.sleep(0.5)
        logs = self("logs", check=False)
        raise AssertionError(f"{code}, {self.health()} after {seconds} s:\n{logs.stdout[-3000:]}{logs.stderr[-2000:]}")
