"""Build commands that load the settings of a project, and what they have in place of the site's variables and files."""

import json
import shlex
from typing import Any

from django_project_report import Report
from django_project_settings import Settings

#: A text that is no secret, says so where it is read, and is as long as packages require of a key.
_NO_SECRET = "none-in-a-build".ljust(50, "-")
#: Words of the pillar → a value of the same kind, which settings may parse while they are imported.
_VALUES = {
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


def command(report: Report, settings: Settings, name: str) -> str:
    """Return a command of manage.py as a build runs it, which has neither the site's variables nor its secrets.

    Args:
        name: the command, with its arguments.
    """
    given = {"DJANGO_SETTINGS_MODULE": report.settings_module, **settings.set_by_application}
    given |= {name: _value(value) for name, (value, _comment) in report.value("environment", {}).items()}
    given |= dict.fromkeys(report.value("secrets", {}), _NO_SECRET)
    words = [shlex.quote(f"{name}={value}") for name, value in given.items() if value.isprintable()]
    return " ".join(["env", *words, f"python manage.py {name}"])


def _value(value: Any) -> str:
    if isinstance(value, dict):
        return _VALUES.get(value["from"], str(value["from"]))
    return value if isinstance(value, str) else json.dumps(value)


def add_files(report: Report) -> None:
    """Have the modules of the pillar's `files`, which settings import, where a build command loads the settings."""
    files, comment = report.pillar.get("files", ({}, ""))
    names = [path for path, about in files.items() if path.endswith(".py") and "contents" in about]
    if names and any("manage.py " in command for command in report.value("build", [])):
        report.set("files", files | {path: {**files[path], "build": True} for path in names}, comment)
        report.remarks.append(
            f"builds read {', '.join(names)} too (`build: true`), so no secret may be in there: set it in `secrets`, "
            "and read it from the variable"
        )
