"""Hosts with an init, a network and an address of their own: podman containers that the tests drive from outside."""

import contextlib
import functools
import hashlib
import inspect
import io
import ipaddress
import json
import os
import re
import shlex
import shutil
import subprocess
import sys
import tarfile
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import requests
import testinfra
from images import (
    CERTIFICATES,
    PREPARED_FRESH,
    PREPARED_LABEL,
    RELEASES,
    TOOLS,
    Image,
    age,
    cache_folder,
    certificates,
    drop_old,
    locked,
)
from shell import Gone, Shell

ROOT = Path(__file__).parent.parent.parent


def process(pid: int | str) -> str:
    """A process by its number and the time of its start, for numbers come again; only the number where it is gone."""
    try:
        return f"{pid}-{Path(f'/proc/{pid}/stat').read_text().rpartition(')')[2].split()[19]}"
    except FileNotFoundError:
        return str(pid)


#: How the hosts are prepared of which an image is made for all others of a kind: from which kind, and by what.
PREPARED: dict[str, tuple[str, Callable[["Host"], None]]] = {}
#: What of Debian is in the image that the hosts of a kind are prepared from.
PREPARED_FROM: dict[str, tuple[str, ...]] = {}
#: Lists of packages, which the formula fetches anew where they are five minutes old. Those of prepared hosts count as
#: new when a host starts: they are of this run.
APT_LISTS = "/var/lib/apt/lists"
#: Fetches them where a host is not a prepared one.
APT_UPDATE = f"{{ find {APT_LISTS} -maxdepth 0 -mmin -60 | grep -q . || apt-get -qq update; }}"
#: What the watch writes by a timer of its own: no test that compares files knows when.
WATCH = "/var/lib/django-formula/watch"
#: What of the tests runs on hosts.
PROGRAMS = ("test/hosts/chromium.py", "test/hosts/preloaded_salt.py")
#: All hosts of this process, those too that are removed.
HOSTS: list["Host"] = []
#: Hosts that are being removed.
REMOVALS: list[subprocess.Popen[bytes]] = []
LABEL, OWNER = "django-formula.owner", process(os.getpid())
#: What addr_assign_type has where a hardware address was set (NET_ADDR_SET of linux/netdevice.h).
SET_BY_US = "3"
ENVIRONMENT = {"SSL_CERT_FILE": CERTIFICATES, "PIP_CERT": CERTIFICATES, "NODE_EXTRA_CA_CERTS": CERTIFICATES}
# crun fails where cgroups are v1, podman's own limits where CAP_SYS_RESOURCE is missing.
RUN: tuple[str, ...] = ("--runtime", "runc", "run", "--ulimit", "nofile=4096:4096", "--ulimit", "nproc=4096:4096")
#: A container as podman starts it, which is what users have: systemd makes no mounts there, and root cannot read all of
#: /proc. By default, and for each host without an init.
CONTAINER: tuple[str, ...] = ()
#: What systemd has on a virtual machine: it can mount, so that each wall of a unit's sandbox is in force.
MACHINE = ("--cap-add=SYS_ADMIN,SYS_PTRACE", "--security-opt=seccomp=unconfined", "--security-opt=apparmor=unconfined")
# All rights, and control groups of its own: with --systemd=always podman would give it the machine's in place of them
# where cgroups are v1, and two such hosts end each other's units. So it has to be given what that option gives. Nor may
# systemd change what is this machine's then: its kernel's modules, and its console, which hosts would fight over.
PRIVILEGED = (
    *("--privileged", "--cgroupns=private", "--systemd=false", "--stop-signal=SIGRTMIN+3"),
    *("--tmpfs=/run:rw,nosuid,nodev,mode=755", "--tmpfs=/run/lock", "--tmpfs=/tmp:rw,mode=1777"),
    "--tmpfs=/var/log/journal",
    "--volume=/dev/null:/etc/systemd/system/systemd-modules-load.service",
    "--volume=/dev/null:/etc/systemd/system/getty@tty1.service",
)
# A host on which container engines run: they mount, make control groups of their own, and need a file system below
# their layers that is no overlay itself. `Lab.start(rights=ENGINE)`.
ENGINE = (
    *PRIVILEGED,
    *("--volume=/var/lib/containers", "--volume=/var/lib/docker", "--volume=/var/lib/containerd"),
)


@dataclass(frozen=True)
class Needs:
    """What a file's hosts need beyond a container's rights, and why; CONTRIBUTING.md lists them."""

    rights: tuple[str, ...]
    reason: str


#: What an apply says of the sandbox in a container.
WALLS = re.compile("not in force on this host: (?!MemoryMax)")
MINION = {
    "id": "host",
    "file_client": "local",
    "file_roots": {"base": ["/srv/formula"]},
    "pillar_roots": {"base": ["/srv/pillar"]},
}


#: Instances of inotify that hosts may have, all together.
INSTANCES = 1024


class LabUnavailable(Exception):
    """This machine cannot make hosts; the message says why."""


class CommandFailed(AssertionError):
    """A command on a host, or podman itself, did not exit with 0; the message holds its output."""


@dataclass(frozen=True)
class Result:
    command: str
    returncode: int
    stdout: str
    stderr: str

    def check(self) -> "Result":
        if self.returncode:
            raise CommandFailed(f"{self.command}\nexit {self.returncode}\n{self.stdout}\n{self.stderr}")
        return self


def podman(*argv: str, check: bool = True, stdin: str | bytes = "", timeout: float = 120) -> Result:
    return execute(["podman", *argv], check, stdin, timeout)


def execute(argv: list[str], check: bool, stdin: str | bytes, timeout: float) -> Result:
    """Run a command until it ends, though processes that it leaves behind keep its output open."""
    data = stdin.encode() if isinstance(stdin, str) else stdin
    with tempfile.TemporaryFile() as out, tempfile.TemporaryFile() as err:
        done = subprocess.run(argv, input=data, stdout=out, stderr=err, timeout=timeout, check=False)
        texts = [(file.seek(0), file.read().decode(errors="replace"))[1] for file in (out, err)]
    result = Result(shlex.join(argv), done.returncode, *texts)
    return result.check() if check else result


@dataclass(frozen=True)
class State:
    """What one state returned."""

    id: str
    name: str
    function: str
    result: bool | None
    changes: dict[str, Any]
    comment: str
    warnings: list[str]
    duration: float

    def __str__(self) -> str:
        mark = {True: "ok", False: "FAILED", None: "would change"}[self.result]
        changes = f" {json.dumps(self.changes)[:2000]}" if self.changes else ""
        return f"{mark:12} {self.id} ({self.function}): {self.comment}{changes}"


@dataclass(frozen=True, repr=False)
class Applied:
    """A state.apply: its states in the order of their running, or the errors for which none ran."""

    returncode: int
    states: list[State]
    errors: list[str]
    stdout: str
    stderr: str

    @property
    def ok(self) -> bool:
        return not self.errors and not self.failed and self.returncode == 0

    @property
    def failed(self) -> dict[str, str]:
        """Comments of the states that failed, by id, without the last one, which repeats them."""
        failed = (state for state in self.states if state.result is False and state.function != "django.outcome")
        return {state.id: state.comment for state in failed}

    @property
    def changed(self) -> dict[str, dict[str, Any]]:
        """Changes by id, those too that a dry run would have made."""
        return {state.id: state.changes for state in self.states if state.changes or state.result is None}

    @property
    def warnings(self) -> dict[str, list[str]]:
        """By id, but for the walls that a container does not have; limits that it does not have are meant."""
        meant = {state.id: [text for text in state.warnings if not WALLS.match(text)] for state in self.states}
        return {name: texts for name, texts in meant.items() if texts}

    def __getitem__(self, state_id: str) -> State:
        for state in self.states:
            if state.id == state_id:
                return state
        raise KeyError(f"no state {state_id!r} among {[state.id for state in self.states]}")

    def __repr__(self) -> str:
        told = [state for state in self.states if state.result is not True or state.changes]
        lines = [f"exit {self.returncode}, {len(self.states)} states", *self.errors, *map(str, told)]
        return "\n".join([*lines, "" if self.states else self.stdout, self.stderr[-4000:]])


def applied(result: Result, minion: str = "local") -> Applied:
    """Read what `salt-call --local --out=json state.apply` printed, or another command of Salt for one minion."""
    try:
        answer = json.loads(result.stdout)[minion]
    except (ValueError, KeyError):
        return Applied(result.returncode, [], ["no JSON answer"], result.stdout, result.stderr)
    if not isinstance(answer, dict):
        return Applied(result.returncode, [], [str(line) for line in answer], result.stdout, result.stderr)
    states = [
        State(
            id=state.get("__id__", key.split("_|-")[1]),
            name=state.get("name", ""),
            function="{0}.{3}".format(*key.split("_|-")),
            result=state["result"],
            changes=state["changes"],
            comment=state["comment"],
            warnings=state.get("warnings", []),
            duration=state.get("duration", 0.0),
        )
        for key, state in sorted(answer.items(), key=lambda item: item[1].get("__run_num__", 0))
    ]
    return Applied(result.returncode, states, [], result.stdout, result.stderr)


def busy() -> float:
    """How many times longer this machine's processes may take than on an idle machine, for limits of seconds."""
    return max(os.getloadavg()[0] / (os.cpu_count() or 1), 1)


def spent() -> float:
    """Seconds of CPU that the hosts of this process have taken."""
    return sum(host.spent if host.is_removed else host.spent + host.usage() for host in HOSTS)


class Host:
    """A running host. Its name resolves on the lab's network; its address can be asked from outside."""

    #: The name under which answers of `salt` come.
    minion = "local"

    def __init__(self, container: str, name: str, address: str, init: bool, identity: tuple[str, str]):
        self.container = container
        #: The container's number and the name of its control group, which it keeps.
        self.identity = identity
        self.name = name
        self.address = address
        self.init = init
        self.is_removed = False
        #: Seconds of CPU in former boots.
        self.spent = 0.0
        HOSTS.append(self)
        #: Those that have no command to run just now; commands of several threads run at once.
        self.shells: list[Shell] = []

    def __repr__(self) -> str:
        return f"<host {self.name}: podman exec -it {self.container} bash>"

    @property
    def id(self) -> str:
        """The container's number, by which runc knows it."""
        return self.identity[0]

    def usage(self) -> float:
        """Seconds of CPU since it was started; 0 where it is not running."""
        group = self.identity[1].lstrip("/")
        with contextlib.suppress(FileNotFoundError):
            if Path("/sys/fs/cgroup/cgroup.controllers").exists():
                return int(Path("/sys/fs/cgroup", group, "cpu.stat").read_text().split()[1]) / 1e6
            return int(Path("/sys/fs/cgroup/cpuacct", group, "cpuacct.usage").read_text()) / 1e9
        return 0.0

    @property
    def testinfra(self) -> Any:
        """testinfra's host: `host.testinfra.service("nginx").is_running`, `.file("/srv").mode`, …"""
        return testinfra.get_host(f"podman://{self.container}")

    def run(
        self,
        command: str | Sequence[str],
        *,
        check: bool = True,
        stdin: str | bytes = "",
        timeout: float = 600,
        user: str = "root",
        environment: Mapping[str, str] | None = None,
    ) -> Result:
        """Run an argv, or a string by bash, for at most `timeout` seconds. Raises CommandFailed if `check`."""
        argv = ["bash", "-c", command] if isinstance(command, str) else list(command)
        told = [f"--env={name}={value}" for name, value in (environment or {}).items()]
        bounded = ["timeout", "--kill-after=10", str(timeout), *argv]
        if user == "root":
            result = self.run_in_shell(bounded, environment or {}, stdin, timeout + 60)
            return result.check() if check else result
        argv = ["exec", "--interactive", f"--user={user}", *told, self.container, *bounded]
        return podman(*argv, check=check, stdin=stdin, timeout=timeout + 60)

    def type(self, command: str, prompt: str, typed: str, *, timeout: float = 120) -> Result:
        """Run a command in a terminal, and type a line once it shows its prompt: `host.type("passwd ada", "New", "x")`.

        The terminal stays open until the command ends, however long the machine takes. Returns the command's exit code,
        and what the terminal showed as `stdout`.
        """
        steps = (
            "cd $(mktemp -d) && mkfifo keys",
            f"script -qec {shlex.quote(command)} /dev/null <>keys >shown & terminal=$!",
            f"until grep -qF -- {shlex.quote(prompt)} shown || ! kill -0 $terminal; do sleep 0.1; done",
            f"echo {shlex.quote(typed)} >keys & wait $terminal; code=$?; cat shown; exit $code",
        )
        return self.run("\n".join(steps), check=False, timeout=timeout)

    def mount(self, *arguments: str) -> None:
        """Mount in the host's file system, as this machine may: `host.mount("-t", "tmpfs", "none", "/srv/small")`."""
        pid = podman("inspect", "--format={{.State.Pid}}", self.container).stdout.strip()
        execute(["nsenter", f"--target={pid}", "--mount", "mount", *arguments], True, "", 60)

    def run_in_shell(
        self, argv: list[str], environment: Mapping[str, str], stdin: str | bytes, timeout: float
    ) -> Result:
        """Run a command by a shell that has none to run just now, or a new one."""
        start = ["runc", "exec", self.id]  # as podman does it, but in a fifth of its time
        data = stdin.encode() if isinstance(stdin, str) else stdin
        while True:
            try:
                shell, is_new = self.shells.pop(), False
            except IndexError:
                shell, is_new = Shell(start), True
            try:
                code, *texts = shell.run(argv, environment, data, timeout)
            except Gone:  # with the former boot; or it cannot be started
                shell.close()
                if is_new:
                    told = [f"--env={name}={value}" for name, value in environment.items()]
                    return execute([*start[:-1], *told, self.id, *argv], False, stdin, timeout)
            except BaseException:
                shell.close()
                raise
            else:
                self.shells.append(shell)
                return Result(shlex.join(argv), code, *(text.decode(errors="replace") for text in texts))

    def write(
        self, path: str, content: str | bytes, *, mode: str = "0644", owner: str = "root", group: str = "root"
    ) -> None:
        """Write a file, and the folders above it."""
        self.run(["install", "-D", "-m", mode, "-o", owner, "-g", group, "/dev/stdin", path], stdin=content)

    def read(self, path: str) -> str:
        return self.run(["cat", "--", path]).stdout

    def send(self, archive: bytes, folder: str) -> None:
        """Unpack a tar archive into a folder, which is made."""
        self.run(["mkdir", "-p", folder])
        self.run(["tar", "-x", "--no-same-owner", "-C", folder], stdin=archive)

    def pillar(self, pillar: Mapping[str, Any] | str) -> None:
        """Give the host its pillar: data, or the text of an SLS."""
        text = pillar if isinstance(pillar, str) else "#!json\n" + json.dumps(pillar, indent=2)
        self.write("/srv/pillar/host.sls", text, mode="0600")
        self.write("/srv/pillar/top.sls", "base:\n  '*':\n    - host\n")

    def salt(
        self,
        function: str,
        *arguments: str,
        timeout: float = 900,
        log_level: str = "warning",
        environment: Mapping[str, str] | None = None,
        **options: Any,
    ) -> Result:
        """`salt-call --local`, masterless; options that are no strings are passed as JSON."""
        named = [f"{name}={value if isinstance(value, str) else json.dumps(value)}" for name, value in options.items()]
        salt_call = ["python3", "-ISB", "/srv/formula/test/hosts/preloaded_salt.py"]
        argv = [*salt_call, "--local", "--out=json", f"--log-level={log_level}", function, *arguments, *named]
        return self.run(argv, check=False, timeout=timeout, environment=environment)

    def call(self, function: str, *arguments: str, **options: Any) -> Any:
        """What an execution function answers. Raises CommandFailed where it exits otherwise than with 0."""
        return json.loads(self.salt(function, *arguments, **options).check().stdout)[self.minion]

    def apply(
        self,
        *states: str,
        test: bool = False,
        pillar: Mapping[str, Any] | None = None,
        timeout: float = 900,
        environment: Mapping[str, str] | None = None,
    ) -> Applied:
        """`state.apply`, of `django` unless other states are named, with more variables of the environment."""
        options: dict[str, Any] = {"test": True} if test else {}
        if pillar is not None:
            options["pillar"] = pillar
        done = self.salt(
            "state.apply", ",".join(states or ("django",)), timeout=timeout, environment=environment, **options
        )
        return applied(done, self.minion)

    def http(
        self, path: str = "/", host: str | None = None, method: str = "GET", port: int = 80, **options: Any
    ) -> requests.Response:
        """Ask the host from outside, under a name that need not resolve; redirects are not followed."""
        with self.browser(host, port) as browser:
            return browser.request(method, path, **options)

    def browser(self, host: str | None = None, port: int = 80) -> "Browser":
        """A session that keeps its cookies, for forms and logins."""
        return Browser(f"http://{self.address}:{port}", host or self.address)

    def restart(self) -> None:
        """Reboot. Without an init the processes are killed, and there is nothing to wait for."""
        self.spent += self.usage()
        podman("restart", "--time=30" if self.init else "--time=1", self.container)
        self.wait_for_boot()

    def kill(self) -> None:
        """Cut the power."""
        self.spent += self.usage()
        podman("kill", "--signal=KILL", self.container)
        podman("wait", self.container)

    def start(self) -> None:
        """Switch the host on again after `kill`."""
        podman("start", self.container)
        self.wait_for_boot()

    def wait_for_boot(self, timeout: float = 60) -> None:
        """Raises CommandFailed where the init has not completed in time, or a unit failed."""
        if not self.init:
            return
        limit = time.monotonic() + timeout
        while time.monotonic() < limit:
            # For a short time: a unit that has systemd reload meanwhile makes it miss the end of the boot.
            state = self.run(["systemctl", "is-system-running", "--wait"], check=False, timeout=min(5, timeout))
            if state.stdout.strip() == "running":
                return
            if state.stdout.strip() == "degraded":
                failed = self.run(["systemctl", "--failed", "--no-pager"], check=False)
                raise CommandFailed(f"{self.name} has booted with failed units:\n{failed.stdout}")
            time.sleep(0.2)
        raise CommandFailed(f"{self.name} has not booted in {timeout} s: {state.stdout} {state.stderr}")

    def remove(self) -> None:
        """Remove the host; only the lab waits for it, when it closes."""
        self.spent += self.usage()
        self.is_removed = True
        while self.shells:
            self.shells.pop().close()
        argv = ["podman", "rm", "--force", "--volumes", "--time=0", self.container]
        REMOVALS.append(subprocess.Popen(argv, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL))


def install(host: Host) -> None:
    """Have the formula install what every site needs, without a site."""
    host.pillar({"django": {"sites": {"none": {"repository": "/srv/none", "domains": ["none.example.org"]}}}})
    applied = host.apply("django.sync", "django.host", "django.proxy", "django.watch")
    if not applied.ok:
        raise CommandFailed(f"a host cannot be made ready: {applied}")


PREPARED["ready"] = ("salt", install)
# What it installs but the web server, of which only a fresh one gets no default site.
PREPARED_FROM["ready"] = TOOLS


class Browser(requests.Session):
    """Requests to one address under one name; cookies belong to the name. Redirects are not followed unless told to."""

    def __init__(self, origin: str, host: str):
        super().__init__()
        self.trust_env = False
        self.origin = origin
        self.headers["Host"] = host

    def request(self, method: str, url: str, *arguments: Any, **options: Any) -> requests.Response:  # type: ignore[override]
        options.setdefault("allow_redirects", False)
        options.setdefault("timeout", 30)
        return super().request(method, self.origin + url, *arguments, **options)


class Lab:
    """The network of one test run, and the hosts on it."""

    def __init__(self, say: Callable[[str], object]):
        self.say = say
        self.name = f"django-formula-{os.getpid()}"
        self.images: dict[Image, str | CommandFailed] = {}
        self.started = self.kept = 0
        self.named: list[Host] = []
        require_podman()
        with locked(cache_folder() / "images" / "leftovers.lock"):  # podman lists nothing while an image is removed
            remove_leftovers()
            drop_old()
            mount_hierarchies()
            allow_watching()
        podman("network", "create", f"--label={LABEL}={OWNER}", self.name)
        (network,) = json.loads(podman("network", "inspect", self.name).stdout)
        self.subnet = ipaddress.ip_network(network["subnets"][0]["subnet"])
        #: The folder in /sys of the network's bridge.
        self.bridge = Path("/sys/class/net", network["network_interface"])
        #: The control group of a container, with ID in place of its number; known once there is one.
        self.group = ""
        try:
            self.require_containers()
        except (LabUnavailable, CommandFailed):
            self.close()
            raise

    def require_containers(self) -> None:
        """Raises LabUnavailable where podman is there and cannot run, as in most containers."""
        image = self.image(RELEASES[0], "bare")
        run = podman(*RUN, "--rm", "--network", self.name, image, "true", check=False)
        if run.returncode:
            raise LabUnavailable(f"podman cannot run a container here: {run.stderr.strip()}")

    def image(self, release: str, kind: str, packages: Sequence[str] = ()) -> str:
        """The tag of an image; one that could not be made is not tried again in this run."""
        image = Image(release, kind, tuple(packages))
        if image not in self.images:
            try:
                is_prepared = kind in PREPARED and not packages
                self.images[image] = self.prepared(release, kind) if is_prepared else image.require(self.say)
            except CommandFailed as failure:
                self.images[image] = failure
            except subprocess.CalledProcessError as error:
                self.images[image] = CommandFailed(f"{shlex.join(error.cmd)}\n{error.stdout}\n{error.stderr}")
        found = self.images[image]
        if isinstance(found, CommandFailed):
            raise found
        return found

    def prepared(self, release: str, kind: str) -> str:
        """An image of a host that is prepared as PREPARED has it, for all runs of this work tree within the hour."""
        origin, prepare = PREPARED[kind]
        packages = PREPARED_FROM.get(kind, ())
        sources = [self.image(release, origin, packages), inspect.getsource(sys.modules[prepare.__module__])]
        made_of = hashlib.sha256("\n".join(sources).encode() + tree())
        tag = f"localhost/django-formula/{release}-{kind}:{made_of.hexdigest()[:12]}"
        with locked(cache_folder() / "images" / f"{release}-{kind}.lock"):
            if age(tag) > PREPARED_FRESH:
                host = self.start(release, kind=origin, packages=packages, name=kind)
                prepare(host)
                host.kill()
                label = f"--change=LABEL {PREPARED_LABEL}=yes"
                podman("commit", "--quiet", label, host.container, tag, timeout=300)
                host.remove()
        return tag

    def start(
        self,
        release: str = "bookworm",
        *,
        kind: str = "salt",
        packages: Sequence[str] = (),
        name: str | None = None,
        init: bool = True,
        command: Sequence[str] = ("sleep", "infinity"),
        options: Sequence[str] = (),
        rights: Sequence[str] = CONTAINER,
    ) -> Host:
        """Start a host and wait until it has booted, with the formula's tree in /srv/formula.

        kind: "salt" (masterless, as pinned), "salt-3007", "bare" (Debian as it is installed), "ready" ("salt" after the
            formula has installed what every site needs), or "live" ("ready" with a release of the bundled example)
        packages: of Debian, which a test would install by itself; not for a prepared kind
        init: False for a host without systemd, of which `command` is the first process
        options: more of podman run's, as --volume=OUTSIDE:INSIDE
        rights: CONTAINER; MACHINE where systemd has to mount; ENGINE for a host that runs podman or Docker itself.
            The fixtures give a file's hosts those of its `NEEDS`.
        """
        image = self.image(release, kind, packages)
        self.started += 1
        name = name or f"host{self.started}"
        container, address = f"{self.name}-{self.started}", str(self.subnet[9 + self.started])
        # podman gives a new one at each restart: a resolver that asked before does not find the host for a minute.
        hardware = "02:" + ":".join(f"{byte:02x}" for byte in (0, *map(int, address.split("."))))
        # podman's own server of names misses some while hosts come and go.
        others = [host for host in self.named if not host.is_removed]
        number = podman(
            *(
                *RUN,
                *(("--systemd=always", *rights) if init else ()),
                "--detach",
                "--name",
                container,
                "--hostname",
                name,
            ),
            *("--network", self.name, "--network-alias", name, "--ip", address, "--mac-address", hardware),
            *(f"--add-host={other.name}:{other.address}" for other in others),
            f"--label={LABEL}={OWNER}",
            *(f"--env={key}={value}" for key, value in ENVIRONMENT.items()),
            *("--volume", f"{certificates()}:{CERTIFICATES}:ro", *options),
            *((image,) if init else (image, *command)),
        ).stdout.strip()
        self.keep_bridge()
        if not self.group:
            group = podman("inspect", "--format={{.State.CgroupPath}}", container).stdout.strip()
            self.group = group.replace(number, "ID")
        host = Host(container, name, address, init, (number, self.group.replace("ID", number)))
        for other in others:
            other.run(f"echo '{address} {name}' >>/etc/hosts", check=False)
        self.named = [*others, host]
        if kind not in PREPARED:  # those have it from the host that they were made of
            host.send(tree(), "/srv/formula")
        if kind != "bare":
            host.write("/etc/salt/minion", json.dumps(MINION | {"id": name}))
            host.pillar({})
        host.wait_for_boot()
        if kind in PREPARED:
            host.run(["touch", APT_LISTS])
        return host

    def keep_bridge(self) -> None:
        """Give the network's bridge an address of its own, once.

        By itself it takes the lowest one of its ports. When that host goes, the others send to an address that is gone
        for up to 45 s, until their neighbour tables time out: "operation timed out" on the way to a package index.
        """
        if (self.bridge / "addr_assign_type").read_text().strip() != SET_BY_US:
            address = (self.bridge / "address").read_text().strip()
            subprocess.run(["ip", "link", "set", "dev", self.bridge.name, "address", address], check=True)

    def keep(self, hosts: Sequence[Host]) -> None:
        """Leave these hosts running when the lab closes; the next run removes them."""
        for host in hosts:
            self.say(f"kept {host}")
        self.kept += len(hosts)

    def close(self) -> None:
        for removal in REMOVALS:
            removal.wait(120)
        if not self.kept:
            remove(f"{LABEL}={OWNER}")


def require_podman() -> None:
    """Raises LabUnavailable unless this machine can be expected to run hosts."""
    if os.geteuid():
        raise LabUnavailable("hosts need root: sudo ./test/run")
    missing = [tool for tool in ("podman", "runc", "mmdebstrap") if not shutil.which(tool)]
    if missing:
        raise LabUnavailable(f"not installed: {', '.join(missing)}")
    info = podman("info", check=False)
    if info.returncode:
        raise LabUnavailable(f"podman does not work here: {info.stderr.strip()}")


def allow_watching() -> None:
    """Raise the kernel's limit of 128 instances of inotify for a user: each host takes ten, for systemd and its units.

    Beyond it a unit that watches a path fails, on whichever host is the last.
    """
    limit = Path("/proc/sys/fs/inotify/max_user_instances")
    with contextlib.suppress(OSError):  # where this is a container itself
        if int(limit.read_text()) < INSTANCES:
            limit.write_text(str(INSTANCES))


def mount_hierarchies() -> None:
    """Mount the control groups of version 1 that this machine has not mounted.

    Otherwise they are there while some host has them mounted, also in the tables that engines in other hosts read,
    which fail then: "creating cgroup directory `/sys/fs/cgroup/perf_event/…`: No such file or directory".
    """
    groups = Path("/sys/fs/cgroup")
    if (groups / "cgroup.controllers").exists():
        return  # of version 2
    for controllers in ("hugetlb", "net_cls,net_prio", "perf_event"):  # as systemd joins them
        folder = groups / controllers
        with contextlib.suppress(OSError):  # where this is a container itself, or another run is faster
            folder.mkdir()
            mount = ["mount", "-t", "cgroup", "-o", controllers, "none", str(folder)]
            if subprocess.run(mount, stderr=subprocess.DEVNULL, check=False).returncode:  # the kernel has none
                folder.rmdir()


def remove_leftovers() -> None:
    """Remove the hosts and networks of runs that were killed, or that kept theirs."""
    containers = podman("ps", "--all", f"--filter=label={LABEL}", "--format=json").stdout
    networks = podman("network", "ls", f"--filter=label={LABEL}", "--format=json").stdout
    entries = json.loads(containers) + json.loads(networks)
    labels = [entry.get("Labels") or entry.get("labels") for entry in entries]
    for owner in {label[LABEL] for label in labels}:
        if owner != process(owner.partition("-")[0]):
            remove(f"{LABEL}={owner}")


def remove(label: str) -> None:
    """Remove the hosts and networks of a label; those that take too long, as on a slow disk, stay for the next run."""
    containers = podman("ps", "--all", "--quiet", f"--filter=label={label}").stdout.split()
    networks = podman("network", "ls", "--quiet", f"--filter=label={label}").stdout.split()
    with contextlib.suppress(subprocess.TimeoutExpired):
        if containers:
            podman("rm", "--force", "--volumes", "--time=0", *containers, check=False)
        for network in networks:
            podman("network", "rm", "--force", network, check=False)


@functools.cache
def tree() -> bytes:
    """The work tree as a tar archive: what git tracks, and what it would, without what hosts do not use.

    Salt lists all of it at each call.
    """
    argv = ["git", "-c", f"safe.directory={ROOT}", "ls-files", "-z", "--cached", "--others", "--exclude-standard"]
    listed = subprocess.run(argv, cwd=ROOT, check=True, capture_output=True).stdout.decode()
    archive = io.BytesIO()
    with tarfile.open(fileobj=archive, mode="w") as tar:
        for name in filter(None, listed.split("\0")):
            if (ROOT / name).exists() and (not name.startswith(("docs/", "test/")) or name in PROGRAMS):
                tar.add(ROOT / name, name, recursive=False)
    return archive.getvalue()
