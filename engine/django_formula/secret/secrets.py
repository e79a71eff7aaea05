"""The secrets of a site: one file each in ``secrets/``, readable by the site's user, outside of releases."""

import contextlib
import hashlib
import hmac
import json
import os
import secrets
import stat
import string
import time
from collections.abc import Callable, Collection, Mapping
from pathlib import Path
from typing import Any, NamedTuple

from django_formula.database import databases as database_databases
from django_formula.email import mail
from django_formula.host import file, proc, users
from django_formula.host.commands import DeploymentError
from django_formula.site.sites import Site
from django_formula.untrusted import shapes

#: The file of the secret key has its fallbacks too, so that one rename changes both.
_KEY_FILE = "secret_key.json"
#: A copy of the secret key alone, for projects that read it from a file.
_PLAIN_KEY_FILE = "secret_key"
#: What Salt and the formula show in place of a secret.
MASK = "**********"
#: The name of the key that the hosts of a site will sign with, and what those of the former ones begin with.
NEXT_KEY = "secret_key.next"
_FORMER = "secret_key.former."
#: Without a comma, which separates former keys in a list.
_ALPHABET = string.ascii_letters + string.digits + "!#%&()*+-.:;<=>?@[]^_{|}~"
_URL_SAFE = string.ascii_letters + string.digits + "-_"
#: What the names of passwords of queues and caches begin with.
_STORE = "store."


def configured(site: Site) -> dict[str, dict[str, Any]]:
    """Return the secrets of the configuration: ``secret_key``, ``secrets``, passwords of databases, stores and mail."""
    key = site.config["secret_key"]
    named = {"secret_key": {"value": key} if key else {"generate": 50}, **site.config["secrets"]}
    stores = {of_store(name): {"value": one["password"]} for name, one in site.stores.items() if one["password"]}
    databases = {**database_databases.passwords(site), **database_databases.certificates(site)}
    return {**named, **databases, **stores, **mail.passwords(site)}


def of_store(name: str) -> str:
    """Return the name of the secret that is the password of a queue or cache, by the name of that (`Site.stores`)."""
    return f"{_STORE}{name}"


def values(site: Site, given: Mapping[str, str]) -> dict[str, str]:
    """Return the value of each known secret: that of the pillar, or the stored one.

    Raises:
        DeploymentError: a file does not have a usable secret.
    """
    known = {name: given.get(name) or _read(site, name) for name in configured(site)}
    return {name: value for name, value in known.items() if value}


def known(site: Site) -> list[str]:
    """Return the values of all secrets that are stored on this host, former keys too, for masking them in output."""
    return list(dict.fromkeys([*values(site, {}).values(), *fallbacks(site)]))


def stored(site: Site, name: str) -> str | None:
    """Return the stored value of a secret, or None if there is none or it is not usable."""
    try:
        return _read(site, name)
    except DeploymentError:
        return None


def fallbacks(site: Site) -> list[str]:
    """Return the former secret keys that still verify signatures."""
    return list((file.read_json(site.secrets / _KEY_FILE) or {}).get("fallbacks", []))


def fallbacks_with(site: Site, key: str, given: Mapping[str, str] | None = None) -> list[str]:
    """Return the fallbacks for when a key is used: the key that it replaces, and the present fallbacks.

    Args:
        given: what the master gives: the next key comes first, and with another key the former ones that it knows.
    """
    given = given or {}
    before = (file.read_json(site.secrets / _KEY_FILE) or {}).get("key")
    known = [given[name] for name in given if name.startswith(_FORMER)] if before != key else []
    found = [given.get(NEXT_KEY), before, *fallbacks(site), *known]
    return [other for other in dict.fromkeys(found) if other and other != key]


def named_keys(keys: Mapping[str, Any]) -> dict[str, Any]:
    """Return the keys that the master gives, by the names that they have among the secrets of a deployment."""
    usual = {"secret_key": "secret_key", "next": NEXT_KEY}
    return {usual.get(name, f"{_FORMER}{name}"): key for name, key in keys.items()}


def path_of(site: Site, name: str) -> Path:
    """Return the file of a secret."""
    return site.secrets / (_KEY_FILE if name == "secret_key" else name)


def paths_of(site: Site, name: str) -> list[Path]:
    """Return the files that have a secret: of the secret key its copy for projects too, where there may be one."""
    plain = [site.secrets / _PLAIN_KEY_FILE] if name == "secret_key" and _has_plain_key(site) else []
    return [path_of(site, name), *plain]


def unusable(text: str) -> str:
    """Return why a text can be no secret; empty where it can."""
    if text.strip() in ("", MASK):
        return "it is empty" if not text.strip() else "it is a mask of the value"
    return "it has a carriage return or a NUL" if "\r" in text or "\0" in text else ""


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
    elif status.st_uid != users.user_id("root"):
        problem = f"is owned by {users.owner_of(status)}, not by root"
    else:
        text = path.read_bytes().decode(errors="replace")
        if name == "secret_key":
            text = str((file.read_json(path) or {}).get("key", ""))
        if unusable(text):
            problem = "is empty or damaged"
    if problem:
        raise DeploymentError(
            f"{path} {problem}",
            hint=f"restore it from a backup, or set it: {pillar_key(site, name)}",
        )
    return text


def pillar_key(site: Site, name: str) -> str:
    """Return the pillar key that sets a secret."""
    if name.startswith("database."):
        return f"{database_databases.pillar_key(site, name.removeprefix('database.'))}:password"
    if name.startswith(_STORE):
        return f"{store_key(site, name.removeprefix(_STORE))}:password"
    if name == mail.SECRET:
        return f"{site.at}:email:password"
    if name in database_databases.certificates(site):
        return f"{site.at}:fleet:certificates"
    return f"{site.at}:{name if name == 'secret_key' else f'secrets:{name}'}"


def store_key(site: Site, name: str) -> str:
    """Return the pillar key of a queue or cache, for messages."""
    alias = name.removeprefix("cache_") if name != "cache" else "default"
    key = name if name == "queue" or [*site.config["caches"]] == ["default"] else f"caches:{alias}"
    return f"{site.at}:{key}"


def missing(site: Site, known: Mapping[str, str], recorded: Mapping[str, Any]) -> list[str]:
    """Return the secrets that have to be generated.

    Args:
        recorded: the inputs of the last good release: its secrets must not be generated again.

    Raises:
        DeploymentError: a secret of that release is missing, or no apply has stored one of the pillar yet.
    """
    absent = [name for name in configured(site) if name not in known]
    for name in absent:
        if f"secrets:{name}" in recorded:
            raise DeploymentError(
                f"{path_of(site, name)} is missing; a new value would invalidate what the old one signed "
                "(all sessions, for the secret key)",
                hint=f"restore it from a backup, or set it: {pillar_key(site, name)}",
            )
        if "value" in configured(site)[name]:
            raise DeploymentError(
                f"{path_of(site, name)} does not exist yet: its value is in the pillar, which only an apply reads",
                hint="salt-call state.apply django",
            )
    return absent


def changed(site: Site, known: Mapping[str, str]) -> list[str]:
    """Return the secrets whose file has another value, or another group or mode than the site's and 0640."""
    return [name for name, value in known.items() if not _is_stored(site, name, value)]


def _is_stored(site: Site, name: str, value: str) -> bool:
    try:
        if _read(site, name) != value:
            return False
    except DeploymentError:
        return False
    paths = paths_of(site, name)
    if any(file.read_text(path) != value for path in paths[1:]):
        return False
    found = {(status.st_gid, stat.S_IMODE(status.st_mode)) for status in map(os.lstat, paths)}
    return found == {(users.group_id(site.user), 0o640)}


def _has_plain_key(site: Site) -> bool:
    """Return whether a variable has the path of the plain key, or had: an older release may read it."""
    sources = [value["from"] for value in site.config["environment"].values() if isinstance(value, dict)]
    return "secret_key_file" in sources or os.path.lexists(site.secrets / _PLAIN_KEY_FILE)


def exposed(site: Site, names: Collection[str]) -> list[Path]:
    """Return the files of some secrets that every user may read."""
    paths = [path_of(site, name) for name in names]
    return [path for path in paths if path.is_file() and os.lstat(path).st_mode & 0o004]


def generate(site: Site, name: str) -> str:
    """Return a random value of the configured length."""
    alphabet = _ALPHABET if name == "secret_key" else _URL_SAFE
    return "".join(secrets.choice(alphabet) for _ in range(configured(site)[name].get("generate", 50)))


def store(
    site: Site, name: str, value: str, without: Collection[str] = (), given: Mapping[str, str] | None = None
) -> None:
    """Store a secret; a secret key that is replaced becomes the first fallback.

    Args:
        without: former keys to drop.
        given: see `fallbacks_with`.
    """
    content = value
    if name == "secret_key":
        former = [key for key in fallbacks_with(site, value, given) if key not in without]
        content = json.dumps({"key": value, "fallbacks": former}) + "\n"
    file.write(path_of(site, name), content, mode=0o640, group=site.user)
    if name == "secret_key" and _has_plain_key(site):
        file.write(site.secrets / _PLAIN_KEY_FILE, value, mode=0o640, group=site.user)


def fingerprint(key: str) -> str:
    """Return a fingerprint by which secret keys can be compared, and nothing else."""
    return hmac.new(key.encode(), b"django-formula fingerprint", hashlib.sha256).hexdigest()[:16]


def record_key(site: Site) -> bytes:
    """Return the key for hashes of values in this host's records, so that guessing values does not reveal them."""
    path = site.secrets / ".record_key"
    with contextlib.suppress(FileNotFoundError):
        stored_key = path.read_bytes()
        if len(stored_key) == 32:
            return stored_key
    key = secrets.token_bytes(32)
    if site.secrets.is_dir():
        file.write(path, key, mode=0o600)
    return key


def store_password_file(site: Site) -> Path:
    """Return the file of the password with which root administers the site's own Redis; only root can read it."""
    return site.secrets / ".store_password"


def store_password(site: Site) -> str:
    """Return the password with which root administers the site's own Redis: a new one as long as none is kept."""
    return file.read_text(store_password_file(site)) or secrets.token_hex(32)


def keyed_hash(key: bytes, value: Any) -> str:
    """Return a short hash of a JSON value that can be compared only with the key."""
    return hmac.new(key, json.dumps(value, sort_keys=True).encode(), hashlib.sha256).hexdigest()[:16]


# Secrets of the pillar's that the formula itself uses: kept for commands, which have no pillar


class KeptSecret(NamedTuple):
    """A secret that the last apply keeps in a file, which only root can read.

    Attributes:
        name: of its file in the site's folder of secrets.
        reference: returns where the pillar has it, from a site's configuration; nothing where it has none.
    """

    name: str
    reference: Callable[[Mapping[str, Any]], Any]

    @property
    def given(self) -> str:
        """Return its name among the secrets that an apply gives: its key in the pillar, and what it is."""
        return self.name[1:]

    def path(self, site: Site) -> Path:
        """Return its file."""
        return site.secrets / self.name

    def kept(self, site: Site) -> str:
        """Return the one that the last apply kept; an empty text where it kept none."""
        return file.read_text(self.path(site)) or ""

    def value(self, site: Site, given: str | None) -> str | None:
        """Return the secret: the pillar's, else the one that the last apply kept; None where the pillar has none."""
        return (given or file.read_text(self.path(site))) if self.reference(site.config) else None

    def is_kept(self, site: Site, value: str | None) -> bool:
        """Return whether `keep` would change nothing."""
        return file.read_text(self.path(site)) == value

    def keep(self, site: Site, value: str | None) -> None:
        """Keep a value; None removes it."""
        if value:
            file.write(self.path(site), value, mode=0o600)
        else:
            self.path(site).unlink(missing_ok=True)


# What a site's secret key was before a deployment of the master's that has not ended: it may have to be restored
#
# The release that serves reads the files of the key at its next start, and the next apply compares them with what that
# release was made of.

_BEFORE = ".before.json"
_BEFORE_SHAPE = {"deployment": str, "files": {str: str}}


def keep_former_key(site: Site, deployment: str) -> None:
    """Keep the files of the secret key as they are, until the deployment ends; those that it has kept stay."""
    if (file.read_json(site.secrets / _BEFORE, _BEFORE_SHAPE) or {}).get("deployment") == deployment:
        return
    names = (_KEY_FILE, _PLAIN_KEY_FILE, "environment")
    found = {name: file.read_text(site.secrets / name) for name in names}
    files = {name: text for name, text in found.items() if text is not None}
    content = json.dumps({"deployment": deployment, "files": files})
    file.write(site.secrets / _BEFORE, content, mode=0o600)


def settle_former_key(site: Site, live: str, but: str = "") -> None:
    """Settle what a deployment has left that did not end on this host.

    Args:
        live: the id of the deployment that has made the active release.
        but: that of the one which is under way.
    """
    found = file.read_json(site.secrets / _BEFORE, _BEFORE_SHAPE)
    if found and found["deployment"] == but:
        return
    if found and found["deployment"] == live:
        forget_former_key(site)
    elif found:
        restore_former_key(site)


def restore_former_key(site: Site) -> None:
    """Restore the files, if some were kept."""
    found = file.read_json(site.secrets / _BEFORE, _BEFORE_SHAPE) or {"files": {}}
    for name, text in found["files"].items():
        file.write(site.secrets / name, text, mode=0o640, group=site.user)
    forget_former_key(site)


def forget_former_key(site: Site) -> None:
    """Keep the files no longer: the deployment has succeeded."""
    (site.secrets / _BEFORE).unlink(missing_ok=True)


# Former secret keys: each is dropped once all that it signed has expired, measured by the uptime of the host
#
# Why no wall clock is used: docs/decisions/0030.


def _former_keys(site: Site) -> Path:
    return site.secrets / ".former_keys.json"


def expired_keys(site: Site, age: float | None, *, test: bool = False) -> list[str]:
    """Return the former keys whose sessions, links and cookies have all expired.

    What counts is how long the host was up since a key was replaced: at most the time that has passed, whatever
    the wall clock reads. A host that is often off drops a key late, and none drops it early. After a boot the wall
    clock can only delay it: a copy of the host may have been up for longer. A key without a record starts anew.

    Args:
        age: the seconds for which the project accepts its signatures; None keeps every key.
        test: whether to leave the records as they are.
    """
    former = fallbacks(site)
    if not former or age is None:
        return []
    now = {"boot": proc.boot_id(), "uptime": _uptime(), "time": time.time()}
    records = file.read_json(_former_keys(site)) or {}
    updated = {key: _updated(records.get(fingerprint(key)), now, age) for key in former}
    if not test and any(_is_worth_a_write(records.get(fingerprint(key)), updated[key]) for key in former):
        file.write_json(_former_keys(site), {fingerprint(key): updated[key] for key in former}, mode=0o600)
    return [key for key in former if updated[key]["lived"] > updated[key]["age"]]


#: The record of a former key.
_RECORD = {"boot": str, **dict.fromkeys(("uptime", "time", "lived", "age"), float)}


def _uptime() -> float:
    return time.clock_gettime(time.CLOCK_BOOTTIME)


def _updated(record: Any, now: dict[str, Any], age: float) -> dict[str, Any]:
    """Return the record of a former key as of now: its age as a former key, and what that is counted from."""
    if not shapes.fits(record, _RECORD):
        return {**now, "lived": 0.0, "age": age}
    if record["boot"] == now["boot"]:
        more = now["uptime"] - record["uptime"]
    else:
        more = min(now["uptime"], now["time"] - record["time"])
    return {**now, "lived": record["lived"] + max(more, 0.0), "age": max(age, record["age"])}


def _is_worth_a_write(record: Any, updated: dict[str, Any]) -> bool:
    """Return whether a record changed enough to be written: another key, boot or age, or a tenth of its time."""
    if not isinstance(record, dict) or any(record.get(name) != updated[name] for name in ("boot", "age")):
        return True
    return bool(updated["lived"] - record.get("lived", 0.0) > updated["age"] / 10)
