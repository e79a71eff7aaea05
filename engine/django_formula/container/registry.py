"""Registries of container images: the login of a site, and the repository by which hosts share what one has built.

What a host pulls runs as the site: who may push to a registry decides what that is.
"""

import base64
import contextlib
import json
import os
import platform
import re
import threading
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

from django_formula.container.engine import Engine
from django_formula.host import file as host_file
from django_formula.host.commands import DeploymentError
from django_formula.secret.secrets import KeptSecret
from django_formula.site.sites import Site

#: Seconds to pull or push an image.
_TIMEOUT = 1800
#: How engines report that a registry has no such image; the last one is of Docker 29.
_UNKNOWN = re.compile(
    r"manifest unknown|name unknown|manifest for \S+ not found|repository name not known"
    r"|(artifact|repository) \S+ not found"
    r'|failed to resolve reference "\S+": (\S+: )?not found'
)
#: The name by which Docker looks up a login at Docker Hub.
_DOCKER_HUB = "https://index.docker.io/v1/"
#: The password of the pillar's registry.
PASSWORD = KeptSecret(".registry_password", lambda config: _login(config).get("password"))


def _login(config: Mapping[str, Any]) -> dict[str, str]:
    return (config.get("container") or {}).get("login") or {}


def clear(site: Site) -> None:
    """Remove the logins that processes have left which were killed."""
    for folder in site.secrets.glob(".registry-*"):
        if not Path("/proc", folder.name.rpartition("-")[2]).exists():
            host_file.remove_tree(folder)


@contextlib.contextmanager
def login(site: Site) -> Iterator[dict[str, str]]:
    """Yield the variables by which an engine finds the login of a site's registry, in a folder that is then removed."""
    clear(site)
    known, value = _login(site.config), PASSWORD.value(site, None)
    if not known or not value:
        yield {}
        return
    # Units of a release start at once, and each may need its image.
    folder = site.secrets / f".registry-{threading.get_native_id()}-{os.getpid()}"
    host_file.remove_tree(folder)
    folder.mkdir(mode=0o700)
    try:
        entry = base64.b64encode(f"{known['user']}:{value}".encode()).decode()
        file = folder / "config.json"
        places = [known["registry"], *([_DOCKER_HUB] if known["registry"] == "docker.io" else [])]
        content = json.dumps({"auths": {place: {"auth": entry} for place in places}})
        host_file.write(file, content, mode=0o600, durable=False)
        yield {"DOCKER_CONFIG": str(folder), "REGISTRY_AUTH_FILE": str(file)}
    finally:
        host_file.remove_tree(folder)


def is_by_another_login(site: Site, name: str, others: Iterable[Site]) -> bool:
    """Return whether this host may have an image by the login of another site, so that this one has to pull it itself.

    Args:
        name: the full name of an image; those of docker.io/library are for all.
    """
    place, _is, rest = name.partition("/")
    registry = place if rest and re.search(r"[.:]|^localhost$", place) else "docker.io"
    if registry == "docker.io" and (not rest or rest.startswith("library/") or place == "library"):
        return False
    own = [_login(site.config).get(key) for key in ("registry", "user")]
    logins = [[_login(one.config).get(key) for key in ("registry", "user")] for one in others]
    return any(one[0] == registry and one != own for one in logins)


def pull(site: Site, engine: Engine, name: str, hint: str) -> None:
    """Pull an image.

    Raises:
        DeploymentError: the registry does not have it, refuses the login, or cannot be reached: it may later.
    """
    with login(site) as variables, _later():
        doing = f"pulling the image {name}"
        engine.run("pull", "--quiet", name, doing=doing, timeout=_TIMEOUT, variables=variables, hint=hint)


@contextlib.contextmanager
def _later() -> Iterator[None]:
    """Have the next apply try again what fails in the block."""
    try:
        yield
    except DeploymentError as error:
        error.transient = True
        raise


def shared(site: Site, tag: str) -> str:
    """Return the name under which the hosts of a site share an image; empty if they share none.

    Args:
        tag: names its content; one host builds it, others pull it.
    """
    share = site.config["container"]["share"]
    return f"{share}:{tag}-{platform.machine()}" if share else ""


def carried(site: Site, tag: str) -> str:
    """Return the name of an image in an archive for other hosts (`container.images`)."""
    return f"localhost/django/{site.name}-carried:{tag}"


def has_pulled(site: Site, engine: Engine, name: str) -> bool:
    """Pull an image that hosts share, if another host has pushed it; return whether this host has it now.

    Args:
        name: as `shared` returns it.

    Raises:
        DeploymentError: the registry refuses the login, or cannot be reached.
    """
    if not name:
        return False
    try:
        pull(site, engine, name, _hint(site))
    except DeploymentError as error:
        if not _UNKNOWN.search(error.log):
            raise
        return False
    return True


def push(site: Site, engine: Engine, image: str, name: str) -> None:
    """Push an image for other hosts; without a name they share none.

    Raises:
        DeploymentError: the registry refuses it, or cannot be reached.
    """
    if not name:
        return
    engine.run("tag", image, name, doing=f"naming the image {name}")
    try:
        with login(site) as variables, _later():
            doing = f"pushing the image {name}"
            engine.run("push", name, doing=doing, timeout=_TIMEOUT, variables=variables, hint=_hint(site))
    finally:
        engine.forget(name)


def _hint(site: Site) -> str:
    at = f"{site.at}:container"
    text = f"correct {at}:share and {at}:login, or remove them"
    return f"check that this host reaches the registry, and that the repository was created there; {text}"
