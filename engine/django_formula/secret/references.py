"""What an ``sdb://PROFILE/PATH/KEY`` of the pillar refers to, and why it has no value.

Drivers are Salt's and of extensions; each fails in its own way. See docs/guides/secrets.md.
"""

import re
from collections.abc import Callable
from typing import Any

from django_formula.host.commands import DeploymentError, redact
from django_formula.secret import secrets
from django_formula.untrusted.text import in_command

SCHEME = "sdb://"
_PAGE = "docs/guides/secrets.md"
_ENCRYPTED = "-----BEGIN PGP MESSAGE-----"
#: How keys and certificates begin, whose line ends may be those of Windows.
_PEM = re.compile("-----BEGIN [A-Z0-9 ]+-----\r\n")
#: What the errors of GPG repeat: the whole message, as text or as bytes.
_MESSAGE = re.compile(rf"(b')?{_ENCRYPTED}.*?-----END PGP MESSAGE-----(\\n|\s)*'?", re.DOTALL)


def value(uri: str, get: Callable[[str], Any]) -> str:
    """Return the text that a reference refers to.

    Args:
        uri: the reference.
        get: Salt's ``sdb.get``, which returns a reference as it is where this Salt has no such profile.

    Raises:
        DeploymentError: it has none. The message has the cause, and no value.

    Example: ``value("sdb://vault/secret/blog/database", salt["sdb.get"])``
    """
    profile, _slash, key = uri.removeprefix(SCHEME).partition("/")
    try:
        kept = get(uri)
    except Exception as error:
        raise _error(uri, *_failure(error)) from None  # its frames and its text may have the value
    if kept == uri:
        raise _error(
            uri,
            f"this Salt has no sdb profile {profile}",
            f"write the profile into the configuration of this minion and restart it; with salt-ssh take its value"
            f" into the pillar, {{{{ salt['sdb.get']('{SCHEME}…') | json }}}}",
        )
    if kept is None:
        raise _error(
            uri, f"profile {profile} has no {key}", f"see what it has: {in_command('salt-call', 'sdb.get', uri)}"
        )
    if not isinstance(kept, str):
        raise _error(uri, "it is no text", "put a number in quotes; name a key of a map as the last part")
    if _PEM.match(kept):
        kept = kept.replace("\r\n", "\n")
    cause = "it was not decrypted" if _ENCRYPTED in kept else secrets.unusable(kept)
    if cause:
        raise _error(uri, cause, "correct it where it is kept")
    return kept


def _error(uri: str, cause: str, cure: str) -> DeploymentError:
    return DeploymentError(f"{uri} has no value: {cause}", hint=f"{cure}: {_PAGE}")


def _failure(error: Exception) -> tuple[str, str]:
    """What a driver has failed with, and what to do."""
    driver = re.fullmatch(r"'([\w-]+)\.get'", str(error)) if isinstance(error, KeyError) else None
    if driver:
        name = driver[1]
        return f"this Salt has no sdb driver {name}", f"install the extension with {name} into the Python of this Salt"
    lines = _MESSAGE.sub("…", str(error)).split("\n")
    cause = redact(next((line.strip() for line in lines if line.strip()), ""))
    return f"{type(error).__name__}: {cause[:300]}", "look at the store and at what this host logs in with"
