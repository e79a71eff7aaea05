"""The secret key of a site on several hosts: the one that they sign with, and the others that they accept.

Two files in the site's folder of the store:

    secret_key       the key that the hosts sign with
    other_keys.json  ``next``: the key that a rotation goes on to; ``former``: those that were replaced, the last first

Each change is written in an order in which every state between two files is one that the hosts may get: the key that
they sign with is never missing among those that others accept. See docs/decisions/0067.
"""

from __future__ import annotations

import hashlib
import hmac
import secrets
import string
from collections.abc import Callable, Collection, Mapping
from typing import Any

from django_formula.database import engines
from django_formula.fleet.store import Store, new_key
from django_formula.host import file
from django_formula.kind.kinds import RELEASED

_SHAPE = {"next": str, "former": [str]}


class Keys:
    """The secret keys of a site.

    Args:
        store: what the master keeps of the site.
    """

    def __init__(self, store: Store):
        self._store = store
        self._others = store.folder / "other_keys.json"

    def current(self) -> str:
        """Return the key that the hosts sign with; it is generated once."""
        return self._store.secret_key()

    def given(self) -> dict[str, str]:
        """Return the keys that the hosts accept besides: ``next`` in a rotation, and the former ones by number."""
        others, current = self._read(), self.current()
        former = [key for key in others["former"] if key != current]
        begun = {"next": others["next"]} if others["next"] not in ("", current) else {}
        return begun | {str(number): key for number, key in enumerate(former, 1)}

    def begin(self) -> str:
        """Return the next key: the one that a rotation has begun with, or a new one."""
        if "next" not in self.given():
            self._write({**self._read(), "next": new_key()})
        return self.given()["next"]

    def give_up(self) -> None:
        """Forget the next key, which no host signs with."""
        self._write({**self._read(), "next": ""})

    def promote(self) -> None:
        """Let the hosts sign with the next key, which each of them accepts; the current one is a former key then."""
        others, current = self._read(), self.current()
        former = [current, *(key for key in others["former"] if key != current)]
        self._write({**others, "former": former})
        self._set(others["next"])
        self._write({"next": "", "former": former})

    def take_back(self) -> None:
        """Let the hosts sign with the former key again; the current one is the next key then, which they accept."""
        others, current = self._read(), self.current()
        before, *former = others["former"]
        self._write({**others, "next": current})
        self._set(before)
        self._write({"next": current, "former": former})

    def forget(self, is_accepted: Callable[[str], bool]) -> None:
        """Forget the former keys that no host accepts any more."""
        others = self._read()
        former = [key for key in others["former"] if is_accepted(key)]
        if former != others["former"]:
            self._write({**others, "former": former})

    def _set(self, key: str) -> None:
        file.write(self._store.folder / "secret_key", key, mode=0o600)

    def _read(self) -> dict[str, Any]:
        return file.read_json(self._others, _SHAPE) or {"next": "", "former": []}

    def _write(self, others: dict[str, Any]) -> None:
        file.write_json(self._others, others, mode=0o600)


# What a server may know of a password: enough to check it, too little to log in elsewhere with it
#
# Passwords of the master's store are long and random, so that what is derived from one cannot be guessed back.

_ALPHABET = string.ascii_letters + string.digits
_LENGTH = 40
#: That of passwords of the second login of a pair: a password tells which one it belongs to (docs/decisions/0071).
_SECOND = 41


def new_password(length: int = _LENGTH) -> str:
    """Return a new password, of characters that URLs, configuration files and SQL take as they are."""
    return "".join(secrets.choice(_ALPHABET) for _ in range(length))


def following_password(former: str) -> str:
    """Return a new password, for the login of a pair that the former one does not belong to, if there is one."""
    return new_password(_SECOND if former and login_of(former) == 1 else _LENGTH)


def login_of(password: str) -> int:
    """Return which login of a pair a password belongs to: 1 or 2."""
    return 2 if len(password) == _SECOND else 1


def scram(password: str) -> str:
    """Return the verifier that PostgreSQL keeps of a password (SCRAM-SHA-256, RFC 5803).

    Its salt follows from the password, so that the verifier is the same each time.
    """
    return engines.postgres_verifier(password, hmac.digest(password.encode(), b"salt", "sha256")[:16])


def sha256(password: str) -> str:
    """Return the hash that an ACL of Redis keeps of a password."""
    return hashlib.sha256(password.encode()).hexdigest()


# Plain secrets of a site's pillar, which the master gives only to the hosts that use them
#
# Salt gives the same pillar to every minion that `top.sls` names. What this module returns is merged over it, so that a
# host gets `WITHHELD` where it has no use for a secret. References (``sdb://``) and paths are no secrets, and stay.

#: What a host gets instead of a secret. It has the form of a reference, which is valid wherever a secret is.
WITHHELD = "sdb://withheld/the-part-of-this-host-does-not-use-it"
#: The parts that use a secret, by its path in a site's pillar, with ``*`` for any name.
USES: dict[tuple[str, ...], Collection[str]] = {
    ("deploy_key",): RELEASED,
    ("index", "password"): RELEASED,
    ("secret_key",): RELEASED,
    ("secrets", "*"): RELEASED,
    ("secrets", "*", "value"): RELEASED,
    ("database", "password"): RELEASED,
    ("databases", "*", "password"): RELEASED,
    ("queue", "password"): RELEASED,
    ("cache", "password"): RELEASED,
    ("caches", "*", "password"): RELEASED,
    ("email", "password"): RELEASED,
    ("notify", "*", "url"): RELEASED,
    ("notify", "*", "token"): RELEASED,
    ("backup", "offsite", "password"): ("app",),
    ("backup", "offsite", "secret"): ("app",),
    ("backup", "offsite", "ssh_key"): ("app",),
    ("backup", "points", "password"): (),  # refused with several hosts
    ("backup", "points", "secret"): (),
    ("hook", "secret"): RELEASED,
    ("checks", "token"): (),  # the master's runner uses it
    ("static", "push", "secret"): RELEASED,
    ("static", "push", "ssh_key"): RELEASED,
    ("container", "login", "password"): RELEASED,
    ("balancer", "status", "password"): ("balancer",),
    ("tls", "certificate"): ("app", "balancer"),
    ("tls", "key"): ("app", "balancer"),
    ("tls", "eab", "key"): ("app", "balancer"),
}

Parts = Collection[str]


def withheld_of_site(site: Mapping[str, Any], parts: Parts, all_parts: Parts) -> dict[str, Any]:
    """Return what is merged over the pillar of a site for one of its hosts.

    Args:
        site: its pillar, over that of the defaults.
        parts: those of the host; none for a minion that is no host of the site.
        all_parts: those of all hosts of the site. Behind a balancer, no other host has certificates.
    """
    unused = {path for path, users in USES.items() if not _uses(path, users, parts, all_parts)}
    replaced = _replaced(site, unused, ())
    return replaced if isinstance(replaced, dict) else {}


def withheld_of_defaults(defaults: Mapping[str, Any], sites: Collection[tuple[Parts, Parts] | None]) -> dict[str, Any]:
    """Return what is merged over the defaults of all sites: a secret is withheld if it is from each of them.

    Args:
        defaults: their pillar.
        sites: for each site the parts of this host and those of all hosts; None for one that is on this host alone.
    """
    known = [one for one in sites if one]
    if len(known) < len(sites):
        return {}
    unused = {path for path, users in USES.items() if not any(_uses(path, users, *one) for one in known)}
    replaced = _replaced(defaults, unused, ())
    return replaced if isinstance(replaced, dict) else {}


def _uses(path: tuple[str, ...], users: Parts, parts: Parts, all_parts: Parts) -> bool:
    """Return whether a host uses a secret."""
    if path[0] == "tls" and "balancer" in all_parts:
        users = ("balancer",)
    return not {*users}.isdisjoint(parts)


def _replaced(value: Any, unused: Collection[tuple[str, ...]], path: tuple[str, ...]) -> Any:
    """Return the part of a pillar that is withheld, with the same keys; None where nothing is."""
    if isinstance(value, dict):
        below = {name: _replaced(one, unused, (*path, str(name))) for name, one in value.items()}
        return {name: one for name, one in below.items() if one is not None} or None
    if value is None or not any(_matches(path, one) for one in unused) or _is_reference(str(value), path):
        return None
    return WITHHELD


def _matches(path: tuple[str, ...], pattern: tuple[str, ...]) -> bool:
    return len(path) == len(pattern) and all(one in ("*", name) for name, one in zip(path, pattern, strict=True))


def _is_reference(value: str, path: tuple[str, ...]) -> bool:
    """Return whether a value is no secret itself; a certificate or its key may be a file."""
    return value.startswith(("sdb://", "salt://", "/") if path[0] == "tls" else "sdb://")
