"""Commands of manage.py in builds, and what they have there in place of the site's variables and secrets."""

import json
import re
import shlex
from collections.abc import Collection, Mapping
from typing import Any

from django_formula.untrusted.text import without_logins

#: A text that is no secret, says so where it is read, and is as long as packages require of a key.
_NO_SECRET = "none-in-a-build".ljust(50, "-")
#: Names of variables whose values may be secrets, and values that are none: numbers and switches, which settings parse.
_SECRET = re.compile(r"PASS|PWD|TOKEN|SECRET|SALT|PEPPER|KEY|CREDENTIAL", re.IGNORECASE)
_NONE = re.compile(r"|[\d.]+|true|false|yes|no|on|off|none", re.IGNORECASE)
#: Words of the pillar → a value of the same kind, which settings may parse while they are imported.
VALUES = {
    "domains": "localhost",
    "database_url": "sqlite:///x",
    "database_port": "5432",
    "email_port": "25",
    "email_url": "smtp://localhost",
    "email_from": "site@localhost",
    "database_path": "/tmp/x",  # noqa: S108  # nosec B108 - a build has its own
    "queue_socket": "/tmp/x",  # noqa: S108  # nosec B108
    **dict.fromkeys(("cache_url", "queue_url", "celery_broker_url"), "redis://localhost"),
    **dict.fromkeys(("database_host", "email_host"), "localhost"),
    **dict.fromkeys(("static_root", "media_root", "shared", "root"), "/tmp"),  # noqa: S108  # nosec B108
    **dict.fromkeys(("secret_key", "secret_key_fallbacks", "database_password", "email_password"), _NO_SECRET),
}


def manage(command: str, environment: Mapping[str, Any], secrets: Collection[str]) -> str:
    """Return a command of manage.py as a build runs it.

    Args:
        command: the command, with its arguments.
        environment: variables, with values as the pillar has them; what may be a secret of them is not told.
        secrets: variables with secrets.

    Example:
        >>> manage("makemigrations shop", {"DATABASE_URL": {"from": "database_url"}}, [])
        'env DATABASE_URL=sqlite:///x python manage.py makemigrations shop'
    """
    given = {name: _value(name, value) for name, value in environment.items()} | dict.fromkeys(secrets, _NO_SECRET)
    words = [shlex.quote(f"{name}={value}") for name, value in given.items() if value.isprintable()]
    return " ".join([*(["env", *words] if words else []), f"python manage.py {command}"])


def _value(name: str, value: Any) -> str:
    if isinstance(value, dict):
        return VALUES.get(value["from"], str(value["from"]))
    if not isinstance(value, str):
        return json.dumps(value)
    is_secret = _SECRET.search(name) and "://" not in value and not _NONE.fullmatch(value)
    return _NO_SECRET if is_secret else without_logins(value)
