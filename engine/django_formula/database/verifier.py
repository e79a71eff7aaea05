"""What database servers store of a password; computed here, so that no statement or log contains the password."""

import base64
import hashlib
import hmac
import re
import secrets
import unicodedata

_ROUNDS = 4096  # PostgreSQL's own number


def postgres(password: str, salt: bytes = b"") -> str:
    """Return what PostgreSQL stores of a password (SCRAM-SHA-256, RFC 5803).

    Args:
        salt: of 16 bytes; by default another one each time.
    """
    salt = salt or secrets.token_bytes(16)
    salted = hashlib.pbkdf2_hmac("sha256", unicodedata.normalize("NFKC", password).encode(), salt, _ROUNDS)
    stored = hashlib.sha256(hmac.digest(salted, b"Client Key", "sha256")).digest()
    parts = [base64.b64encode(part).decode() for part in (salt, stored, hmac.digest(salted, b"Server Key", "sha256"))]
    return f"SCRAM-SHA-256${_ROUNDS}:{parts[0]}${parts[1]}:{parts[2]}"


def is_of(stored: str, password: str, user: str) -> bool:
    """Return whether what PostgreSQL stores belongs to this password; before version 14 that was an MD5 hash."""
    found = re.fullmatch(rf"SCRAM-SHA-256\${_ROUNDS}:([^$]+)\$.*", stored)
    if found:
        return hmac.compare_digest(stored, postgres(password, base64.b64decode(found[1])))
    return stored == "md5" + hashlib.md5(f"{password}{user}".encode(), usedforsecurity=False).hexdigest()


def mariadb(password: str) -> str:
    """Return what MariaDB's `mysql_native_password` stores of a password."""
    once = hashlib.sha1(password.encode(), usedforsecurity=False).digest()
    return "*" + hashlib.sha1(once, usedforsecurity=False).hexdigest().upper()
