"""The images that hosts start from: Debian as it is installed, and the same with Salt.

An image is made once, from a recipe of which its tag is the hash, and kept twice: by podman, and as a file in the cache
folder, from which a machine without it loads it.
"""

import fcntl
import hashlib
import math
import os
import shutil
import subprocess
import time
import tomllib
from collections.abc import Callable, Iterator
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
    """What hosts start from: a Debian release, "bare" or with the Salt of a dependency group ("salt", "salt-3007")."""

    release: str
    kind: str = "salt"

    @property
    def bare(self) -> "Image":
        return Image(self.release, "bare")

    @property
    def recipe(self) -> str:
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
        part = self.archive.with_suffix(".part")
        part.unlink(missing_ok=True)
        if self.kind == "bare":
            quiet(*MMDEBSTRAP, "--format=tar", self.release, str(part))
            part.rename(self.archive)
            self.load()
        else:
            self.build(self.bare.require(say))
            quiet("podman", "save", "--output", str(part), self.tag)
            part.rename(self.archive)

    def build(self, bare: str) -> None:
        uv = shutil.which("uv")
        if not uv:
            raise FileNotFoundError("uv is not on PATH: run the tests by test/run")
        packages = cache_folder() / "packages"
        packages.mkdir(exist_ok=True)
        (requirement,) = pins(self.kind)
        quiet(
            *(
                "podman",
                "--runtime",
                "runc",
                "build",
                "--quiet",
                "--layers=false",
                "--format",
                "docker",
                "--tag",
                self.tag,
            ),
            *("--network", "host", "--ulimit", "nofile=4096:4096", "--ulimit", "nproc=4096:4096"),
            *("--build-arg", f"BARE={bare}", "--build-arg", f"SALT={requirement}"),
            *("--volume", f"{certificates()}:{CERTIFICATES}:ro"),
            *("--volume", f"{Path(uv).resolve()}:/usr/local/bin/uv:ro", "--volume", f"{packages}:/root/.cache/uv"),
            *("--file", str(HERE / "Containerfile"), str(HERE)),
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
    """Drop images that no test has asked for in KEPT_DAYS, and of prepared hosts those that are PREPARED_KEPT old."""
    filters = [f"--filter=label={PREPARED_LABEL}", f"--filter=until={PREPARED_KEPT}"]
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
