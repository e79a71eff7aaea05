"""The images that hosts start from: Debian as it is installed, the same with Salt, and each with packages of Debian.

An image is made once, from a recipe of which its tag is the hash, and kept twice: by podman, and as a file in the cache
folder, from which a machine without it loads it. Those with packages podman alone keeps.
"""

import fcntl
import hashlib
import math
import os
import shutil
import subprocess
import time
import tomllib
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

HERE = Path(__file__).parent
RELEASES = ("bookworm", "trixie")
CERTIFICATES = "/etc/ssl/certs/ca-certificates.crt"
KEPT_DAYS = 30
#: Of images of prepared hosts: the label, and for how many seconds they are new enough for a run, which takes less than
#: the hours after which they are dropped.
PREPARED_LABEL, PREPARED_FRESH, PREPARED_KEPT = "django-formula.prepared", 3600, "4h"
#: Of images with packages of Debian.
PACKAGES_LABEL = "django-formula.packages"
#: Packages that clients need, and that the formula installs on each host.
TOOLS = ("git", "openssh-client", "python3-venv", "sqlite3")

MMDEBSTRAP = (
    "mmdebstrap",
    "--quiet",
    "--variant=minbase",
    "--include=ca-certificates,dbus,iproute2,openssh-server,procps,python3,systemd,systemd-sysv",
    '--aptopt=Acquire::Retries "3"',
    # They hold apt's locks when they please.
    '--customize-hook=systemctl --root="$1" --quiet mask apt-daily.timer apt-daily-upgrade.timer',
)


def cache_folder() -> Path:
    given = os.environ.get("DJANGO_FORMULA_CACHE")
    return Path(given) if given else Path(os.environ.get("XDG_CACHE_HOME", Path.home() / ".cache")) / "django-formula"


def pins(group: str) -> list[str]:
    """The requirements of one of pyproject.toml's dependency groups."""
    groups = tomllib.loads((HERE.parent.parent / "pyproject.toml").read_text())["dependency-groups"]
    return [str(requirement) for requirement in groups[group]]


@dataclass(frozen=True)
class Image:
    """What hosts start from: a Debian release, "bare" or with the Salt of a dependency group ("salt", "salt-3007").

    packages: of Debian, which are installed in it besides
    """

    release: str
    kind: str = "salt"
    packages: tuple[str, ...] = ()

    @property
    def bare(self) -> "Image":
        return Image(self.release, "bare")

    @property
    def without_packages(self) -> "Image":
        return Image(self.release, self.kind)

    @property
    def recipe(self) -> str:
        if self.packages:
            recipe = (HERE / "Containerfile.packages").read_text()
            return "\n".join((self.without_packages.key, recipe, *self.packages))
        if self.kind == "bare":
            return "\n".join((*MMDEBSTRAP, self.release))
        return "\n".join((self.bare.key, (HERE / "Containerfile").read_text(), *pins(self.kind)))

    @property
    def key(self) -> str:
        return hashlib.sha256(self.recipe.encode()).hexdigest()[:12]

    @property
    def tag(self) -> str:
        return f"localhost/django-formula/{self.release}-{self.kind}:{self.key}"

    @property
    def archive(self) -> Path:
        return cache_folder() / "images" / f"{self.release}-{self.kind}-{self.key}.tar"

    def require(self, say: Callable[[str], object]) -> str:
        """The image's tag, once podman has it: found, loaded from the cache folder, or made.

        Raises CalledProcessError where podman or mmdebstrap fail.
        """
        with locked(self.archive.with_suffix(".lock")):
            if not is_present(self.tag):
                started = time.monotonic()
                origin = "loading" if self.archive.exists() else "making"
                say(f"{origin} the image {self.release}-{self.kind} …")
                self.load() if self.archive.exists() else self.make(say)
                say(f"{origin} the image {self.release}-{self.kind} took {time.monotonic() - started:.0f} s")
        if self.archive.exists():
            self.archive.touch()
        return self.tag

    def load(self) -> None:
        if self.kind == "bare":
            quiet("podman", "import", "--change", 'CMD ["/lib/systemd/systemd"]', str(self.archive), self.tag)
        else:
            quiet("podman", "load", "--input", str(self.archive))

    def make(self, say: Callable[[str], object]) -> None:
        if self.packages:
            told = [f"ORIGIN={self.without_packages.require(say)}", f"PACKAGES={' '.join(self.packages)}"]
            self.build("Containerfile.packages", told, "--label", f"{PACKAGES_LABEL}=yes")
            return
        part = self.archive.with_suffix(".part")
        part.unlink(missing_ok=True)
        if self.kind == "bare":
            quiet(*MMDEBSTRAP, "--format=tar", self.release, str(part))
            part.rename(self.archive)
            self.load()
        else:
            self.build_salt(self.bare.require(say))
            quiet("podman", "save", "--output", str(part), self.tag)
            part.rename(self.archive)

    def build_salt(self, bare: str) -> None:
        uv = shutil.which("uv")
        if not uv:
            raise FileNotFoundError("uv is not on PATH: run the tests by test/run")
        packages = cache_folder() / "packages"
        packages.mkdir(exist_ok=True)
        (requirement,) = pins(self.kind)
        mounts = (f"{Path(uv).resolve()}:/usr/local/bin/uv:ro", f"{packages}:/root/.cache/uv")
        told = [f"BARE={bare}", f"SALT={requirement}"]
        self.build("Containerfile", told, *(f"--volume={mount}" for mount in mounts))

    def build(self, recipe: str, told: Sequence[str], *options: str) -> None:
        """Make the image from a file of this folder, with arguments for it."""
        quiet(
            *("podman", "--runtime", "runc", "build", "--quiet", "--layers=false", "--format", "docker"),
            *("--tag", self.tag),
            *("--network", "host", "--ulimit", "nofile=4096:4096", "--ulimit", "nproc=4096:4096"),
            *(f"--build-arg={argument}" for argument in told),
            *("--volume", f"{certificates()}:{CERTIFICATES}:ro", *options),
            *("--file", str(HERE / recipe), str(HERE)),
        )


def is_present(tag: str) -> bool:
    """Whether podman has an image."""
    return subprocess.run(["podman", "image", "exists", tag], check=False).returncode == 0


def age(tag: str) -> float:
    """Seconds since an image was made; infinite where podman does not have it."""
    argv = ["podman", "image", "inspect", "--format={{.Created.Unix}}", tag]
    done = subprocess.run(argv, capture_output=True, text=True, check=False)
    return time.time() - int(done.stdout) if done.returncode == 0 else math.inf


def certificates() -> str:
    """The file of authorities that this machine trusts, which its hosts trust too."""
    return str(Path(os.environ.get("SSL_CERT_FILE", CERTIFICATES)).resolve())


def drop_old() -> None:
    """Drop images that no test has asked for in KEPT_DAYS, and of prepared hosts those that are PREPARED_KEPT old.

    Those with packages are made anew after KEPT_DAYS.
    """
    for label, kept in ((PREPARED_LABEL, PREPARED_KEPT), (PACKAGES_LABEL, f"{KEPT_DAYS * 24}h")):
        filters = [f"--filter=label={label}", f"--filter=until={kept}"]
        subprocess.run(["podman", "image", "prune", "--all", "--force", *filters], check=False, capture_output=True)
    limit = time.time() - KEPT_DAYS * 86400
    for archive in (cache_folder() / "images").glob("*.tar"):
        if archive.stat().st_mtime < limit:
            name, _, key = archive.stem.rpartition("-")
            subprocess.run(
                ["podman", "rmi", f"localhost/django-formula/{name}:{key}"], check=False, capture_output=True
            )
            archive.unlink()


@contextmanager
def locked(path: Path) -> Iterator[None]:
    path.parent.mkdir(parents=True, exist_ok=True)  # nothing else has made it on a fresh machine
    with path.open("w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield


def quiet(*argv: str) -> None:
    subprocess.run(argv, check=True, stdin=subprocess.DEVNULL, capture_output=True, text=True)
