"""Mail of a site: the server that takes it, its login, and how settings and environment name them."""

from collections.abc import Mapping
from typing import Any
from urllib.parse import quote

from django_formula.host.commands import seconds
from django_formula.site.sites import Site

#: The name of the password among the site's secrets.
SECRET = "email.password"  # noqa: S105 # nosec B105
#: The module of the overlay that has the settings of mail.
MODULE = "salt://django/files/django_formula_email.py"
_SCHEMES = {"none": "smtp", "starttls": "smtp+tls", "tls": "smtp+ssl"}


def passwords(site: Site) -> dict[str, dict[str, Any]]:
    """Return the password of the mail server, if it has one, as `secret.secrets.configured` has secrets."""
    email = site.config.get("email")
    return {SECRET: {"value": email["password"]}} if email and email["password"] else {}


def overlay_data(site: Site) -> dict[str, Any]:
    """Return what the overlay reads of mail, without the password; nothing for a site without it."""
    email = site.config.get("email")
    if not email:
        return {}
    settings: dict[str, Any] = {
        "EMAIL_HOST": email["host"],
        "EMAIL_PORT": email["port"],
        "EMAIL_HOST_USER": email["user"] or "",
        "EMAIL_USE_TLS": email["tls"] == "starttls",
        "EMAIL_USE_SSL": email["tls"] == "tls",
        "EMAIL_TIMEOUT": seconds(email["timeout"]),
    }
    named = {"DEFAULT_FROM_EMAIL": "from", "SERVER_EMAIL": "server_email", "EMAIL_SUBJECT_PREFIX": "subject_prefix"}
    settings |= {name: email[key] for name, key in named.items() if email[key] is not None}
    data = {
        "settings": settings,
        "password_file": str(site.secrets / SECRET) if email["password"] else None,
        "admins": email["admins"],
        "errors": {"path": f"{site.log}/error_mails.json", "hourly": email["hourly"]},
    }
    return {"email": data}


def environment_values(site: Site, secrets: Mapping[str, str]) -> dict[str, str]:
    """Return the values of mail that ``environment`` can refer to by ``from``, by their names."""
    email = site.config.get("email")
    if not email:
        return {}
    password = secrets.get(SECRET, "")
    login = f"{quote(email['user'], safe='')}:{quote(password, safe='')}@" if email["user"] else ""
    host = f"[{email['host']}]" if ":" in email["host"] else email["host"]
    return {
        "email_host": email["host"],
        "email_port": str(email["port"]),
        "email_user": email["user"] or "",
        "email_password": password,
        "email_from": email["from"] or "",
        "email_url": f"{_SCHEMES[email['tls']]}://{login}{host}:{email['port']}",
    }


def is_secret(site: Site, name: str) -> bool:
    """Return whether one of `environment_values` has the password in it."""
    return bool(passwords(site)) and name in ("email_password", "email_url")
