"""The secrets of a site: one file each below ``secrets/``, read by the site's user, outside every release."""

import contextlib
import hashlib
import hmac
import json
import os
import secrets
import stat
import string
from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Any

import django_database
import django_host_file
import django_host_user
from django_host_command import DeploymentError
from django_site import Site

#: The file of the secret key holds its fallbacks too, so that one rename changes both.
KEY_FILE = "secret_key.json"
#: The secret key alone, for projects that read it from a file; derived from the other.
PLAIN_KEY_FILE = "secret_key"
MASK = "**********"
#: Without a comma, which stands between the keys in a list of former ones.
_ALPHABET = string.ascii_letters + string.digits + "!#%&()*+-.:;<=>?@[]^_{|}~"
_URL_SAFE = string.ascii_letters + string.digits + "-_"


def configured(site: Site) -> dict[str, dict[str, Any]]:
    """The secrets that the configuration names: ``secret_key``, those of ``secrets``, the databases' passwords."""
    key = site.config["secret_key"]
    named = {"secret_key": {"value": key} if key else {"generate": 50}, **site.config["secrets"]}
    return {**named, **django_database.passwords(site)}


def values(site: Site, given: Mapping[str, str]) -> dict[str, str]:
    """The value of each secret that is known: as the pillar gives it, else as it lies on disk.

    Raises:
        DeploymentError: a file holds no usable secret.
    """
    known = {name: given.get(name) or _read(site, name) for name in configured(site)}
    return {name: value for name, value in known.items() if value}


def stored(site: Site, name: str) -> str | None:
    """The value that lies on disk; None where there is none, or none that can be used."""
    try:
        return _read(site, name)
    except DeploymentError:
        return None


def fallbacks(site: Site) -> list[str]:
    """The secret keys that still verify what they have signed."""
    return list((django_host_file.read_json(site.secrets / KEY_FILE) or {}).get("fallbacks", []))


def fallbacks_with(site: Site, key: str) -> list[str]:
    """The fallbacks once that is the key: those that there are, and before them the key that it replaces."""
    before = (django_host_file.read_json(site.secrets / KEY_FILE) or {}).get("key")
    return [former for former in [before, *fallbacks(site)] if former and former != key]


def path_of(site: Site, name: str) -> Path:
    """The file of a secret."""
    return site.secrets / (KEY_FILE if name == "secret_key" else name)


def _read(site: Site, name: str) -> str | None:
    path = path_of(site, name)
    try:
        status = os.lstat(path)
    except FileNotFoundError:
        return None
    problem = ""
    text = ""
    if not stat.S_ISREG(status.st_mode):
        problem = "is not a plain file"
    elif status.st_uid != django_host_user.user_id("root"):
        problem = f"belongs to {django_host_user.owner_of(status)}, not to root"
    else:
        text = path.read_bytes().decode(errors="replace")
        if name == "secret_key":
            text = str((django_host_file.read_json(path) or {}).get("key", ""))
        if not text or text.strip() in ("", MASK) or "\r" in text or "\0" in text:
            problem = "is empty or damaged"
    if problem:
        raise DeploymentError(
            f"{path} {problem}",
            hint=f"restore it from a backup, or give the value: {pillar_key(site, name)}",
        )
    return text


def pillar_key(site: Site, name: str) -> str:
    """Where the pillar may give a secret, for errors."""
    if name.startswith("database."):
        return f"{django_database.pillar_key(site, name.removeprefix('database.'))}:password"
    return f"django:sites:{site.name}:{name if name == 'secret_key' else f'secrets:{name}'}"


def missing(site: Site, known: Mapping[str, str], recorded: Mapping[str, Any]) -> list[str]:
    """The secrets that have to be generated.

    Args:
        recorded: the inputs of the last good release; what it had must not be made anew.

    Raises:
        DeploymentError: a secret that a release had is gone, or one of the pillar has not come yet.
    """
    absent = [name for name in configured(site) if name not in known]
    for name in absent:
        if f"secrets:{name}" in recorded:
            raise DeploymentError(
                f"{path_of(site, name)} is gone; a new one would break what the old one has signed "
                "(every session, for the secret key)",
                hint=f"restore it from a backup, or give the value: {pillar_key(site, name)}",
            )
        if "value" in configured(site)[name]:
            raise DeploymentError(
                f"{path_of(site, name)} is not there yet: the pillar gives it, and only an apply reads the pillar",
                hint="salt-call state.apply django",
            )
    return absent


def changed(site: Site, known: Mapping[str, str]) -> list[str]:
    """The secrets and logins whose file does not hold their value, or is not 0640 root:site."""
    return [name for name, value in known.items() if not _is_kept(site, name, value)]


def _is_kept(site: Site, name: str, value: str) -> bool:
    try:
        if _read(site, name) != value:
            return False
    except DeploymentError:
        return False
    paths = [path_of(site, name)]
    if name == "secret_key" and _has_plain_key(site):
        paths.append(site.secrets / PLAIN_KEY_FILE)
        if django_host_file.read_text(paths[-1]) != value:
            return False
    found = {(status.st_gid, stat.S_IMODE(status.st_mode)) for status in map(os.lstat, paths)}
    return found == {(django_host_user.group_id(site.user), 0o640)}


def _has_plain_key(site: Site) -> bool:
    """Whether the pillar has the path of the plain key in a variable, or had, and an older release may read it."""
    taken = [value["from"] for value in site.config["environment"].values() if isinstance(value, dict)]
    return "secret_key_file" in taken or os.path.lexists(site.secrets / PLAIN_KEY_FILE)


def exposed(site: Site, names: Collection[str]) -> list[Path]:
    """The files of these secrets whose mode lets every user read them."""
    paths = [path_of(site, name) for name in names]
    return [path for path in paths if path.is_file() and os.lstat(path).st_mode & 0o004]


def generate(site: Site, name: str) -> str:
    """A new random value of the length that the configuration says."""
    alphabet = _ALPHABET if name == "secret_key" else _URL_SAFE
    return "".join(secrets.choice(alphabet) for _ in range(configured(site)[name].get("generate", 50)))


def store(site: Site, name: str, value: str, without: Collection[str] = ()) -> None:
    """Write a secret; a secret key that is replaced becomes the first of its fallbacks.

    Args:
        without: former keys that go.
    """
    content = value
    if name == "secret_key":
        former = [key for key in fallbacks_with(site, value) if key not in without]
        content = json.dumps({"key": value, "fallbacks": former}) + "\n"
    django_host_file.write(path_of(site, name), content, mode=0o640, group=site.user)
    if name == "secret_key" and _has_plain_key(site):
        django_host_file.write(site.secrets / PLAIN_KEY_FILE, value, mode=0o640, group=site.user)


def fingerprint(key: str) -> str:
    """What says whether two secret keys are equal, and nothing else."""
    return hmac.new(key.encode(), b"django-formula fingerprint", hashlib.sha256).hexdigest()[:16]


def record_key(site: Site) -> bytes:
    """The key of this host's records: what they hold of a value cannot be found by guessing values."""
    path = site.secrets / ".record_key"
    with contextlib.suppress(FileNotFoundError):
        kept = path.read_bytes()
        if len(kept) == 32:
            return kept
    key = secrets.token_bytes(32)
    if site.secrets.is_dir():
        django_host_file.write(path, key, mode=0o600)
    return key


def keyed_hash(key: bytes, value: Any) -> str:
    """A short hash of a JSON value that only the owner of the key can compare with another."""
    return hmac.new(key, json.dumps(value, sort_keys=True).encode(), hashlib.sha256).hexdigest()[:16]
