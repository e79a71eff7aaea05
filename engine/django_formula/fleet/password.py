"""What a server may know of a password: enough to check it, too little to log in elsewhere with it.

Passwords of the master's store are long and random, so that what is derived from one cannot be guessed back.
"""

import hashlib
import hmac
import secrets
import string

from django_formula.database import engines

_ALPHABET = string.ascii_letters + string.digits
_LENGTH = 40
#: That of passwords of the second login of a pair: a password tells which one it belongs to (docs/decisions/0071).
_SECOND = 41


def new(length: int = _LENGTH) -> str:
    """Return a new password, of characters that URLs, configuration files and SQL take as they are."""
    return "".join(secrets.choice(_ALPHABET) for _ in range(length))


def following(former: str) -> str:
    """Return a new password, for the login of a pair that the former one does not belong to, if there is one."""
    return new(_SECOND if former and login(former) == 1 else _LENGTH)


def login(password: str) -> int:
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
