"""Releases in containers next to those of a plain site, on one host with a container engine."""

from dataclasses import dataclass, field
from pathlib import Path

import lab
from contestants import apply
from images import RELEASES
from lab import Lab
from repository import Repository
from sites import Site, version

CELLS = [(engine, release) for release in RELEASES for engine in ("podman", "docker")]
#: What removes an engine's cache of builds; with --all podman would remove all images that no container has.
PRUNE = {"podman": ("image", "prune"), "docker": ("builder", "prune", "--all")}


@dataclass
class Contained:
    """A host with a plain site and one in containers, both from one repository.

    Attributes:
        first: seconds of the first apply of a site in containers whose base is there.
        plain, contained: seconds from the start of a release's instance to the end of the former one, by release.
        builds: seconds in which the image of a release with equal requirements was made.
        pruned: the same, after the engine's cache of builds was removed.
    """

    lab: Lab
    folder: Path
    engine: str
    release: str
    first: float = 0
    plain: list[float] = field(default_factory=list)
    contained: list[float] = field(default_factory=list)
    builds: list[float] = field(default_factory=list)
    pruned: list[float] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.host = self.lab.start(self.release, name=self.engine, kind="ready", rights=lab.ENGINE)
        self.host.run("apt-get -qq update && apt-get -qq install --no-install-recommends git >/dev/null")
        self.repository = Repository(self.folder, self.host, "/srv/git/project.git")

    def measure(self, runs: int) -> None:
        """Release both sites in turn, then the one in containers without the cache of builds."""
        container, server = {"engine": self.engine}, {"kind": "gunicorn"}
        earlier = Site(self.host, self.repository, "earlier", server=server, container=container)
        earlier.deploy()
        plain = Site(self.host, self.repository, "plain", neighbour=earlier, server=server)
        plain.deploy()
        blog = Site(self.host, self.repository, "blog", neighbour=earlier, server=server, container=container)
        blog.configure()
        self.first = apply(self.host, "state.apply", "django")[0].wall
        for number in range(runs):
            self.repository.commit(version(f"2.{number}"))
            blog.deploy()
            for site, times in ((plain, self.plain), (blog, self.contained)):
                steps = site.record()["steps"]
                times.append(steps["instance"] + steps["live"])
            self.builds.append(blog.record()["steps"]["build"])
        for number in range(min(runs, 5)):
            self.host.run([self.engine, *PRUNE[self.engine], "--force"])
            self.repository.commit(version(f"3.{number}"))
            blog.deploy()
            self.pruned.append(blog.record()["steps"]["build"])
