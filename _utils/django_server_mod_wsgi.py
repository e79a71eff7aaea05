"""mod_wsgi (https://modwsgi.readthedocs.io): an Apache for each release, run by a program of the formula."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import django_release_settings
from django_host_command import seconds
from django_process import Requirements
from django_site import Site
from django_wall_foreign import Foreign

CONF = "salt://django/files/mod_wsgi.conf"
#: What runs Apache, and what that imports: file name in ``config/`` → template.
_PROGRAMS = {
    name: f"salt://django/files/{name}"
    for name in (
        "django_formula_mod_wsgi.py",
        "django_formula_ready.py",
        "django_formula_wsgi.py",
        "django_formula_warm.py",
    )
}
#: Requests that the one process of Apache takes at a time, at least; further ones wait at its socket.
_TAKERS = 64

TEMPLATES: tuple[str, ...] = (CONF, *_PROGRAMS.values())
MAIN = "mod_wsgi.conf"
BINDS = True
INHERITS = False
WRITES_LOG = False


def interface(site: Site) -> str:
    """Always WSGI."""
    del site
    return "wsgi"


def requirements(site: Site) -> Requirements:
    """Nothing: Apache and mod_wsgi are packages of the system."""
    del site
    return {}


def python(site: Site) -> str:
    """The version that the system's mod_wsgi is built for, by the name of the file; empty where there is none yet."""
    module = Path(site.platform["mod_wsgi"]["modules"], "mod_wsgi.so")
    return module.resolve().name.partition("mod_wsgi.so-")[2]


def configuration(
    site: Site, release: Path, variables: Mapping[str, Any], templates: Mapping[str, str]
) -> dict[str, str]:
    """The configuration of an Apache, what runs it, and what it runs: file name in ``config/`` → content."""
    server, run = site.config["server"], f"/run/{variables['unit']}"
    platform, is_embedded = site.platform["mod_wsgi"], _is_embedded(site)
    options = {} if is_embedded else _daemon_options(site)
    more = {
        "run": run,
        "modules": platform["modules"],
        "embedded": is_embedded,
        "mpm": "mpm_prefork" if is_embedded and server["threads"] == 1 else "mpm_event",
        "takers": min(max(_TAKERS, 2 * variables["processes"] * server["threads"]), 4096),
        "drain": max(int(seconds(site.config["releases"]["drain"])), 1),
        # The process that has the request is to give up first, and takes a moment for it.
        "timeout": timeout(site) + 10,
        "options": options,
        # Nobody but the proxy of this host reaches it, and that says who the visitor is.
        "trusted": ["127.0.0.0/8", "::1", *({variables["address"].rpartition(":")[0].strip("[]")} - {"::1"})],
    }
    given = {
        "apache": platform["program"],
        "modules": platform["modules"],
        "address": variables["address"],
        "module": variables["facts"]["application"],
        "folder": variables["chdir"],
        "options": options,
        "run": run,
    }
    return {
        MAIN: django_release_settings.render(templates, CONF, **more, **variables),
        "mod_wsgi.json": json.dumps(given, indent=1, sort_keys=True) + "\n",
        **{name: templates[url] for name, url in _PROGRAMS.items()},
    }


def _is_embedded(site: Site) -> bool:
    return bool(site.config["server"]["options"].get("mode") == "embedded")


def _daemon_options(site: Site) -> dict[str, str]:
    """The options of the processes that run the project, as mod_wsgi reads them."""
    said = {"request-timeout": timeout(site), **site.config["server"]["options"]}
    spelled = {True: "On", False: "Off"}
    return {
        name: spelled[value] if isinstance(value, bool) else str(value)
        for name, value in said.items()
        if name != "mode"
    }


def command(release: Path, facts: Mapping[str, Any]) -> list[str]:
    """What runs Apache."""
    del facts
    return [f"{release}/virtualenv/bin/python", "-I", "-S", f"{release}/config/django_formula_mod_wsgi.py"]


def keeps_threads(site: Site) -> bool:
    """Always."""
    del site
    return True


def workers(run: Foreign) -> str:
    """Nothing: there is nobody to ask."""
    del run
    return ""


def timeout(site: Site) -> int:
    """Seconds that mod_wsgi gives a request; in embedded mode it sets no limit, and it may be silent as long."""
    return int(site.config["server"]["options"].get("request-timeout", 60))
