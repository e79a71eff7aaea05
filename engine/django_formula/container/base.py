"""The image that all images of a site begin with: one that the pillar names, or Debian as it is on this host."""

import functools
import hashlib
import shlex
from collections.abc import Sequence
from pathlib import Path

from django_formula.container import containers, registry
from django_formula.container.engine import Engine
from django_formula.host import commands, file
from django_formula.host.commands import DeploymentError
from django_formula.host.locks import Lock
from django_formula.site.sites import Site

#: Our labels of an image: the site that it is of and the folder that it is made of; or the release of Debian of a base.
SITE, PATH, BASE = "django-formula.site", "django-formula.path", "django-formula.base"
#: Our label of an image that was pulled: the name by which the registry has it.
PULLED = "django-formula.pulled"
_WORK = Path("/var/lib/django-formula/images")
_PACKAGES = ("ca-certificates", "python3", "tzdata")
_MMDEBSTRAP = (
    *("mmdebstrap", "--quiet", "--variant=minbase", "--format=tar"),
    *("--dpkgopt=path-exclude=/usr/share/man/*", "--dpkgopt=path-exclude=/usr/share/locale/*"),
    *("--dpkgopt=path-exclude=/usr/share/doc/*", "--dpkgopt=force-unsafe-io"),  # a tree of a minute needs no fsync
)
#: A source of apt as mmdebstrap takes it.
_SOURCE = "deb $(REPO_URI) $(RELEASE) $(COMPONENT)"
#: The ids of bases that this process has found; one of the build user, which cannot ask the engine, inherits them.
_found: dict[tuple[str, str], str] = {}
#: Seconds to make a base.
_TIMEOUT = 1800
#: What is asked of the Python of an image.
_IDENTITY = (
    "import os, platform, sys, sysconfig; "
    "print(os.path.realpath(sys.executable), sys.implementation.cache_tag, sysconfig.get_platform(), "
    "*platform.libc_ver(), platform.python_version())"
)


def tag(site: Site, release: Path) -> str:
    """Return the tag of the images of a release; that of a plan is in a folder of its own."""
    return release.name if release.parent == site.releases else f"{release.parent.name}-{release.name}"


def reference(site: Site) -> str:
    """Return the name of the base of a site's images; the one that is made here is named by a hash of its recipe."""
    container = site.config["container"]
    if container["base"]:
        return str(container["base"])
    suite = _suite()
    recipe = "\n".join((*_MMDEBSTRAP, suite, *_packages(site)))
    return f"localhost/django/base:{suite}-{hashlib.sha256(recipe.encode()).hexdigest()[:12]}"


def require(site: Site) -> str:
    """Return the id of the base of a site's images, which is pulled or made where this host does not have it.

    Raises:
        DeploymentError: it can be neither, or has lines for images which begin with it (ONBUILD).
    """
    engine, name = containers.engine(site), reference(site)
    if (engine.name, name) in _found:
        return _found[engine.name, name]
    found = engine.image(name)
    if not found and site.config["container"]["base"]:
        at = f"{site.at}:container"
        hint = f"correct {at}:base or {at}:login, or give this host the image: {engine.name} load"
        registry.pull(site, engine, name, hint)
    elif not found:
        _make(site, engine, name)
    if site.config["container"]["base"]:
        engine.refuse_triggers(name)
    _found[engine.name, name] = found or engine.image(name)
    return _found[engine.name, name]


def identity(site: Site) -> str:
    """Return what tells the base of a site from others: its recipe where it is made here, the id of another image.

    Raises:
        DeploymentError: this host does not have it, and it can be neither pulled nor made.
    """
    found = require(site)
    return found if site.config["container"]["base"] else reference(site)


def require_of(site: Site, engine: Engine, name: str) -> None:
    """Have the base of a release, which may be another one than that of the pillar.

    Raises:
        DeploymentError: this host does not have it, and it is not that of the pillar; or that can not be made.
    """
    if engine.image(name):
        return
    if not site.config.get("container") or reference(site) != name:
        raise DeploymentError(
            f"{engine.name} no longer has the image {name}, with which the release was made",
            hint=f"activate another release, or make a new one: {site.to_release()}",
        )
    require(site)


def _make(site: Site, engine: Engine, name: str) -> None:
    """Make a base from this host's release of Debian, unless a deployment of another site is making it.

    Raises:
        DeploymentError: mmdebstrap or the import fails.
    """
    _WORK.mkdir(mode=0o700, parents=True, exist_ok=True)
    busy, hint = "a base image", "wait for it, or end that process, which releases the lock"
    with Lock(_WORK / "lock", site.name, busy=busy, timeout=f"{_TIMEOUT}s", hint=hint).held():
        if not engine.image(name):
            _import(site, engine, name)


def _import(site: Site, engine: Engine, name: str) -> None:
    tree = _WORK / f"{name.rpartition(':')[2]}.tar"
    included = f"--include={','.join(_packages(site))}"
    try:
        commands.run(
            [*_MMDEBSTRAP, included, _suite(), str(tree), *_sources(_suite())],
            doing=f"making a base image of Debian {_suite()}",
            timeout=_TIMEOUT,
            environment=_network(),
            hint=f"correct {site.at}:packages, or set container:base to an image instead",
        )
        changes = [f"--change=ENV PATH={commands.PATH}", f"--change=LABEL {BASE}={_suite()}"]
        engine.run("import", *changes, str(tree), name, doing="importing the base image", timeout=_TIMEOUT)
    finally:
        tree.unlink(missing_ok=True)


def _sources(suite: str) -> list[str]:
    """Return the lines of this host's sources of Debian, such as a company's mirror; none where they are not whole.

    Those of others are left out, and all of them where one has a login, which would stay in the image.
    """
    argv = ["apt-get", "indextargets", f"--format={_SOURCE}", "Created-By: Packages", "Origin: Debian"]
    listed = dict.fromkeys(commands.run(argv, doing="listing the sources of apt").splitlines())
    found = [line for line in listed if line.split()[2].partition("-")[0] == suite]
    is_whole = any(line.split()[2] == suite for line in found)
    return found if is_whole and not any("@" in line for line in found) else []


def _network() -> dict[str, str]:
    """Return the variables with the proxies of this host, those of apt too: mmdebstrap does not read them."""
    names = {"http_proxy": "Acquire::http::Proxy", "https_proxy": "Acquire::https::Proxy"}
    argv = ["apt-config", "shell", *(word for pair in names.items() for word in pair)]
    lines = shlex.split(commands.run(argv, doing="listing the proxies of apt"))
    found = {name: "" if value == "DIRECT" else value for name, _is, value in (line.partition("=") for line in lines)}
    return {**commands.network_environment(), **found}


def _packages(site: Site) -> list[str]:
    """Return the packages of a base that is made here: Python, those of the site, and clients of its databases."""
    known = site.platform["packages"]
    clients = [name for one in site.config["databases"].values() for name in _listed(known.get(one["engine"], []))]
    return sorted({*_PACKAGES, *site.config["packages"], *clients})


def _listed(value: str | Sequence[str]) -> Sequence[str]:
    return [value] if isinstance(value, str) else value


def _suite() -> str:
    """Return the code name of this host's release.

    Raises:
        DeploymentError: it is not Debian.
    """
    text = file.read_text(Path("/etc/os-release")) or ""
    known = dict(line.partition("=")[::2] for line in text.splitlines())
    if known.get("ID") != "debian":
        raise DeploymentError(
            "a base image can be made of Debian only, and this host has another system",
            hint="set container:base to an image",
        )
    return known["VERSION_CODENAME"].strip('"')


def python(site: Site) -> tuple[str, str]:
    """Return the path of the interpreter of a site's base image, and its identity: tag, platform, C library, version.

    Raises:
        DeploymentError: the image has none.
    """
    found = _python(containers.engine(site), require(site), site.python).split(maxsplit=1)
    return found[0], found[1]


@functools.lru_cache(maxsize=16)
def _python(engine: Engine, image: str, name: str) -> str:
    hint = f"set python to an interpreter of the image, or container:base to an image that has {name}"
    command = [name, "-I", "-S", "-c", _IDENTITY]
    return engine.look(image, command, doing=f"looking for {name} in the base image", hint=hint).strip()
