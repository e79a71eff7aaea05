"""Granian (https://github.com/emmett-framework/granian): ASGI or WSGI, run by a program of the formula."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from django_host_command import seconds
from django_process import Requirements
from django_site import Site
from django_wall_foreign import Foreign

#: What runs granian, and what that imports: file name in ``config/`` → template.
_PROGRAMS = {
    name: f"salt://django/files/{name}"
    for name in ("django_formula_granian.py", "django_formula_ready.py", "django_formula_unread.py")
}
#: What is installed where the project does not bring it; Python 3.9 has another last version.
_REQUIREMENTS: Requirements = {
    ("granian",): ("granian==2.8.7; python_version >= '3.10'", "granian==2.5.7; python_version < '3.10'"),
    ("uvloop",): ("uvloop==0.23.0",),
}

TEMPLATES: tuple[str, ...] = (*_PROGRAMS.values(),)
MAIN = "granian.json"
BINDS = True
INHERITS = False
WRITES_LOG = False


def interface(site: Site) -> str:
    """As its option says; ASGI without one."""
    return "wsgi" if site.config["server"]["options"].get("interface") == "wsgi" else "asgi"


def requirements(site: Site) -> Requirements:
    """Granian, and the event loop that is quick."""
    del site
    return _REQUIREMENTS


def python(site: Site) -> str:
    """Any."""
    del site
    return ""


def configuration(
    site: Site, release: Path, variables: Mapping[str, Any], templates: Mapping[str, str]
) -> dict[str, str]:
    """The settings of a release, and the programs that read them: file name in ``config/`` → content."""
    del release
    server = site.config["server"]
    drain = int(seconds(site.config["releases"]["drain"]))
    settings = {
        "interface": interface(site),
        "workers": variables["processes"],
        "workers_kill_timeout": min(max(drain, 1), 1800),
        "log_access": site.config["log"]["requests"],
        "url_path_prefix": site.config["path"].rstrip("/") or None,
        **({"blocking_threads": server["threads"]} if interface(site) == "wsgi" else {}),
    }
    given = {
        "address": variables["address"],
        "module": variables["facts"]["application"],
        "folder": variables["chdir"],
        "settings": settings,
        "options": server["options"],
        # Nobody but the proxy reaches it, and that says who the visitor is.
        "trusted": "*" if "*" in variables["believed"] else variables["believed"],
        "run": f"/run/{variables['unit']}",
    }
    return {
        MAIN: json.dumps(given, indent=1, sort_keys=True) + "\n",
        **{name: templates[url] for name, url in _PROGRAMS.items()},
    }


def command(release: Path, facts: Mapping[str, Any]) -> list[str]:
    """What runs granian."""
    del facts
    return [f"{release}/virtualenv/bin/python", f"{release}/config/django_formula_granian.py"]


def keeps_threads(site: Site) -> bool:
    """Not so in Django's ASGI, and a blocking thread of WSGI ends when it has had nothing to do for a while."""
    del site
    return False


def workers(run: Foreign) -> str:
    """Nothing: there is nobody to ask."""
    del run
    return ""


def timeout(site: Site) -> int:
    """Seconds that a request may be silent: the server itself sets no limit."""
    del site
    return 60
