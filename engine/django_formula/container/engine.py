"""A container engine of this host, podman or Docker: its commands, and what it reports of images and containers."""

import base64
import contextlib
import dataclasses
import functools
import hashlib
import json
import os
import re
import resource
import threading
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from django_formula.host import commands, units
from django_formula.host.commands import DeploymentError

#: What keeps podman 5 from a warning in each answer where control groups are of version 1, and selects BuildKit.
QUIET = {"PODMAN_IGNORE_CGROUPSV1_WARNING": "1", "DOCKER_BUILDKIT": "1"}
#: The nice value of a build, and the share of the CPU that its lines have; others have 1024.
_NICE, _CPU_SHARES = 10, 200
#: Seconds in which an engine ends a build that takes too long.
_SPARE = 15
#: What a container that only looks at an image may do: nothing.
_LOOKING = (
    *(
        "--rm",
        "--log-driver=none",
        "--pull=never",
        "--network=none",
        "--read-only",
        "--cap-drop=ALL",
        "--user=65534:65534",
    ),
    *("--security-opt=no-new-privileges", "--pids-limit=64", "--memory=1g", "--workdir=/", "--entrypoint="),
)
#: How engines report that they have no such image or container.
_ABSENT = re.compile(r"no such (image|container|object)|image not known", re.IGNORECASE)
#: Where engines have their images; neither waits until one is on the disk.
_STORAGE = {"podman": "/var/lib/containers", "docker": "/var/lib/docker"}
#: The states of a container of podman that does not run.
_ENDED = ("created", "exited", "stopped", "initialized")


@dataclasses.dataclass(frozen=True)
class Engine:
    """One engine by its name, which is that of its program."""

    name: str

    @property
    def program(self) -> list[str]:
        """The engine's program, which logs no event of ours among the lines of a site."""
        return [f"/usr/bin/{self.name}", *(["--events-backend=none"] if self.name == "podman" else [])]

    @property
    def passes_sockets(self) -> bool:
        """Whether a container inherits systemd's socket, and reports to systemd that it is ready."""
        return self.name == "podman"

    @property
    def leniently(self) -> list[str]:
        """The option by which a container that does not exist is no error."""
        return ["--ignore"] if self.name == "podman" else []

    @property
    def at_once(self) -> list[str]:
        """The options of ``rm --force`` by which it does not wait, nor fails where there is no such container."""
        return [*self.leniently, "--time=0"] if self.name == "podman" else []

    def apart_from(self, path: Path) -> list[Path]:
        """Return the folder with the images, if it is on another file system than a path."""
        folder = Path(_STORAGE[self.name])
        return [folder] if folder.is_dir() and folder.stat().st_dev != path.stat().st_dev else []

    def run(
        self,
        *arguments: str,
        doing: str,
        timeout: float = 120,
        variables: Mapping[str, str] | None = None,
        **options: object,
    ) -> str:
        """Run a command of the engine and return its output.

        Args:
            variables: further variables of its environment.

        Raises:
            DeploymentError: it fails.
        """
        environment = {**commands.network_environment(), **QUIET, **(variables or {})}
        argv = [*self.program, *arguments]
        return commands.run(argv, doing=doing, timeout=timeout, environment=environment, **options)  # type: ignore[arg-type]

    def version(self) -> tuple[int, int]:
        """Return the first two numbers of the engine's version."""
        asked = "{{.Client.Version}}" if self.name == "podman" else "{{.Server.Version}}"
        found = re.match(r"(\d+)\.(\d+)", self.run("version", "--format", asked, doing=f"querying {self.name}"))
        return (int(found[1]), int(found[2])) if found else (0, 0)

    def image(self, reference: str) -> str:
        """Return the id of an image; empty if this host does not have it."""
        argv = ["image", "inspect", "--format", "{{.Id}}", reference]
        try:
            found = self.run(*argv, doing=f"looking for the image {reference}").strip()
        except DeploymentError as error:
            if not _ABSENT.search(error.log):
                raise
            return ""
        return found.removeprefix("sha256:")

    def look(self, image: str, command: Sequence[str], *, doing: str, hint: str) -> str:
        """Return what a command prints in a container of an image that may do nothing else.

        Raises:
            DeploymentError: it fails, prints too much or takes too long; its container has ended then.
        """
        name = f"django-look-{os.getpid()}"
        self.end(name)
        try:
            return self.run("run", f"--name={name}", *_LOOKING, image, *command, doing=doing, hint=hint)
        finally:
            self.end(name)

    def refuse_triggers(self, image: str) -> None:
        """Refuse an image with lines that run in the build of each image which begins with it (ONBUILD).

        Raises:
            DeploymentError: it has such lines.
        """
        lines = self._configured(image).get("OnBuild") if self.name == "podman" else self._inspected(image)
        if lines:
            raise DeploymentError(
                f"the image {image} has lines that would run in the builds of others (ONBUILD): {str(lines[0])[:200]}",
                hint="choose an image without them, or write them into the Dockerfile of the project",
            )

    def _inspected(self, image: str) -> Any:
        argv = ["image", "inspect", "--format", "{{json .Config.OnBuild}}", image]
        return json.loads(self.run(*argv, doing=f"looking at {image}") or "null")

    def _configured(self, image: str) -> dict[str, Any]:
        """Return the configuration of an image as podman has stored it; what ``inspect`` prints lacks a part of it."""
        name = base64.b64encode(f"sha256:{self.image(image)}".encode()).decode()
        return json.loads(self._stored(image, f"={name}")).get("config") or {}

    def _stored(self, image: str, name: str) -> bytes:
        """Return what podman has stored of an image under a name.

        Raises:
            DeploymentError: it is not where podman has kept it since version 1.
        """
        asked = "{{.Store.GraphRoot}}/{{.Store.GraphDriverName}}-images"
        folder = self.run("info", "--format", asked, doing="looking for podman's images").strip()
        try:
            return Path(folder, self.image(image), name).read_bytes()
        except OSError as error:
            raise DeploymentError(f"what podman has stored of the image {image} cannot be read: {error}") from None

    def labels(self, reference: str, name: str) -> str:
        """Return a label of an image; empty if it has none."""
        argv = ["image", "inspect", "--format", f'{{{{index .Config.Labels "{name}"}}}}', reference]
        found = self.run(*argv, doing=f"reading the labels of {reference}").strip()
        return "" if found == "<no value>" else found

    def images(self, label: str = "", name: str = "") -> list[str]:
        """Return the ids of the images with a label, such as ``site=blog``, or with a name, such as ``blog:*``."""
        given = {"label": label, "reference": name}
        filters = [f"--filter={key}={value}" for key, value in given.items() if value]
        found = self.run("images", "--quiet", "--no-trunc", *filters, doing="listing images")
        return list(dict.fromkeys(line.removeprefix("sha256:") for line in found.split()))

    def build(
        self,
        dockerfile: Path,
        context: Path,
        tag: str,
        timeout: float,
        *,
        slice_name: str = "",
        labels: Mapping[str, str] | None = None,
        variables: Mapping[str, str] | None = None,
    ) -> None:
        """Build an image; what the context does not need is in a file next to the Dockerfile.

        Args:
            slice_name: the slice of systemd for the lines of a project's Dockerfile, which run in a network of their
                own, and are kept by the engine for the next build; empty for a Dockerfile of the formula.
            labels: labels of the image.
            variables: further variables of the engine's environment, not of the build's.

        Raises:
            DeploymentError: a line of the Dockerfile fails; no image of this tag is left.
        """
        argv = ["build", "--file", str(dockerfile), "--tag", tag]
        argv += [f"--label={name}={value}" for name, value in (labels or {}).items()]
        if self.name == "podman":
            limits = (("nofile", resource.RLIMIT_NOFILE), ("nproc", resource.RLIMIT_NPROC))
            argv += ["--format", "docker", "--ignorefile", f"{dockerfile}.dockerignore"]
            argv += [f"--ulimit={name}={_limit(kind)}" for name, kind in limits]
        argv += self._of_project(slice_name) if slice_name else self._own()
        doing = f"building the image {tag}"
        # Our own timeout comes first: this one is for the case that this process is killed.
        limited = ["nice", "-n", str(_NICE), "timeout", "-k", "15", commands.number(timeout + 2 * _SPARE)]
        command = [*limited, *self.program, *argv, str(context)]
        environment = {**commands.network_environment(), **QUIET, **(variables or {})}
        run = functools.partial(
            commands.run, command, doing=doing, environment=environment, only_the_end=True, grace=_SPARE
        )
        if self.name == "podman" and slice_name:
            _within(slice_name, run, doing, timeout)
        else:
            run(timeout=timeout)

    def _own(self) -> list[str]:
        return ["--quiet", "--network=none", *(["--pull=never", "--layers=false"] if self.name == "podman" else [])]

    def _of_project(self, slice_name: str) -> list[str]:
        """Return the options by which a build reaches no service on a loopback address of this host."""
        if self.name == "podman":
            limits = [f"--cpu-shares={_CPU_SHARES}", f"--cgroup-parent={slice_name}"]
            return ["--network=private", "--layers=true", *limits]
        # Docker takes the values from the environment; podman gives them to a build without an option.
        names = (one for one in commands.network_environment() if one.lower().endswith("_proxy"))
        given = ["BUILDKIT_CACHE_MOUNT_NS", *names]
        return ["--network=default", "--progress=plain", *(f"--build-arg={one}" for one in given)]

    def names(self, image: str) -> list[str]:
        """Return the names of an image."""
        printed = self.run("image", "inspect", "--format", "{{json .RepoTags}}", image, doing=f"looking at {image}")
        return [str(name) for name in json.loads(printed or "null") or []]

    def remove(self, image: str) -> None:
        """Remove an image that no container has, with all its names: by its id engines refuse one of several.

        Containers that killed processes of the formula have left of it are removed too.

        Raises:
            DeploymentError: a container has it.
        """
        for container in self._left_behind(image) if self.name == "podman" else ():
            self.run("rm", "--force", *self.at_once, container, doing=f"removing a container of {image}")
        for name in self.names(image) or [image]:
            self.run("rmi", name, doing=f"removing the image {name}")

    def _left_behind(self, image: str) -> list[str]:
        """Return the containers of an image that a killed process has left: of a build, or of ours that do not run.

        Docker has none of a build, and removes those of ours when it starts.
        """
        columns = "{{.ID}} {{.ImageID}} {{.State}} {{.Names}}"
        argv = ["ps", "--all", "--external", "--no-trunc", "--format", columns]
        rows = [line.split() for line in self.run(*argv, doing="listing containers").splitlines()]
        wanted = self.image(image)
        return [
            number
            for number, of_image, state, name in (row for row in rows if len(row) == 4)
            if of_image.removeprefix("sha256:") == wanted
            and (state.lower() == "storage" or (state.lower() in _ENDED and name.startswith("django-")))
        ]

    def forget(self, name: str) -> None:
        """Remove a name of an image, and the image too if that was its last one and nothing is made of it."""
        with contextlib.suppress(DeploymentError):
            self.run("rmi", name, doing=f"removing the name {name}")

    def digest(self, name: str) -> str:
        """Return the name of an image by which a registry has it unchangeably, as ``blog@sha256:…``.

        Raises:
            DeploymentError: it was not pulled by this name.
        """
        repository = f"{name.rpartition('/')[0]}/{name.rpartition('/')[2].partition(':')[0]}"
        if self.name == "podman":  # it may know several, of which the registry has one: that of the manifest it pulled
            return f"{repository}@sha256:{hashlib.sha256(self._stored(name, 'manifest')).hexdigest()}"
        printed = self.run("image", "inspect", "--format", "{{json .RepoDigests}}", name, doing=f"looking at {name}")
        known = {str(one).rpartition("@")[0]: str(one).rpartition("@")[2] for one in json.loads(printed) or []}
        # Docker names an image of Docker Hub without its registry.
        short = repository.removeprefix("docker.io/")
        digest = known.get(repository) or known.get(short) or known.get(short.removeprefix("library/"))
        if not digest:
            raise DeploymentError(f"{self.name} knows no digest of the image {name}")
        return f"{repository}@{digest}"

    def copy(self, image: str, path: Path, folder: Path, container: str) -> None:
        """Copy what an image has in a folder into a folder of this host, which exists.

        Args:
            container: the name of a container that is made for it and never started.

        Raises:
            DeploymentError: the image has no such folder.
        """
        self.end(container)
        doing = f"copying {path} from {image}"
        self.run("create", f"--name={container}", "--pull=never", "--network=none", image, "/bin/true", doing=doing)
        try:
            self.run("cp", f"{container}:{path}/.", str(folder), doing=doing, timeout=600)
        finally:
            self.end(container)

    def pid(self, container: str) -> int | None:
        """Return the first process of a container, as this host numbers it, or None when it does not run."""
        argv = ["inspect", "--type", "container", "--format", "{{.State.Pid}}", container]
        try:
            return int(self.run(*argv, doing=f"querying {container}", timeout=30)) or None
        except (DeploymentError, ValueError):
            return None

    def end(self, container: str) -> None:
        """End and remove a container, if there is one of this name."""
        try:
            self.run("rm", "--force", "--volumes", *self.at_once, container, doing=f"ending {container}")
        except DeploymentError as error:
            if not _ABSENT.search(error.log):
                raise


def _within(slice_name: str, run: Callable[..., str], doing: str, timeout: float) -> None:
    """Run podman, and after a time end what a line of its Dockerfile runs, so that podman itself fails and clears up.

    On SIGTERM podman 4.3 ends without it: the line's processes go on, and its containers stay.

    Raises:
        DeploymentError: it fails or times out.
    """
    done, expired = threading.Event(), threading.Event()

    def watch() -> None:
        if not done.wait(timeout):
            expired.set()
            while not done.wait(1):
                _kill(slice_name)

    _kill(slice_name)  # of a deployment that was killed
    watching = threading.Thread(target=watch, daemon=True)
    watching.start()
    try:
        run(timeout=timeout + _SPARE)
    except DeploymentError as error:
        if expired.is_set():
            raise DeploymentError(f"{doing}: timed out after {timeout:g} s", log=error.log, transient=True) from None
        raise
    finally:
        done.set()
        watching.join()
        _kill(slice_name)


def _kill(slice_name: str) -> None:
    with contextlib.suppress(DeploymentError):  # nothing has run in it yet
        units.control("kill", "--signal=SIGKILL", slice_name, doing=f"ending {slice_name}")


def _limit(kind: int) -> str:
    """Return a limit of this process: without CAP_SYS_RESOURCE no container may have a higher one."""
    return ":".join(str(value) if value >= 0 else "-1" for value in resource.getrlimit(kind))


def mounts(paths: Mapping[str, bool]) -> list[str]:
    """Return the options for paths of the host at the same paths in a container; outer ones come first.

    Args:
        paths: path → whether it may be written.
    """
    return [f"--volume={path}:{path}:{'rw' if paths[path] else 'ro'}" for path in sorted(paths)]


ENGINES: Mapping[str, Engine] = {name: Engine(name) for name in ("podman", "docker")}


def limits(resources: Mapping[str, object]) -> list[str]:
    """Return the options for the limits of the pillar, which has them by systemd's names."""
    options: list[str] = []
    for name, value in resources.items():
        if name == "MemoryMax" and value != "infinity":
            options += [f"--memory={str(value).lower()}"]
        elif name == "CPUQuota":
            options += [f"--cpus={int(str(value).rstrip('%')) / 100:g}"]
        elif name == "TasksMax":
            options += [f"--pids-limit={-1 if value == 'infinity' else value}"]
        elif name == "LimitNOFILE" and value != "infinity":
            options += [f"--ulimit=nofile={value}"]
    return options


def locked_down(engine: str) -> Sequence[str]:
    """Return the options that every container of the formula has."""
    own = []
    if engine == "podman":  # whose version 5 has a read-only /dev/shm then, where Celery makes its semaphores
        own = [
            *("--cgroups=no-conmon", "--read-only-tmpfs=false"),
            "--tmpfs=/dev/shm:rw,nosuid,nodev,noexec,mode=1777",
        ]
    return [
        *("--rm", "--pull=never", "--network=host", "--read-only", "--cap-drop=ALL"),
        *("--security-opt=no-new-privileges", "--entrypoint="),
        *own,
        "--tmpfs=/tmp:rw,nosuid,nodev,mode=1777",
    ]
