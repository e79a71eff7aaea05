"""The configuration of a release: the settings overlay and its data, the environment, the files in its source."""

import json
import os
import re
import socket
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from django_formula.database import databases
from django_formula.email import mail
from django_formula.host import environment_files, template, users
from django_formula.host.commands import PATH, DeploymentError
from django_formula.kind import kinds
from django_formula.release import templates as release_templates
from django_formula.site import domains as site_domains
from django_formula.site import sites
from django_formula.site.sites import Site
from django_formula.store import stores as store_stores
from django_formula.untrusted.foreign import Foreign
from django_formula.virtualenv import packages

#: CONN_MAX_AGE, where the project does not set it.
_CONN_MAX_AGE = 60
#: The name of the overlay module, which no module of a project has.
MODULE = "django_formula_settings"
#: The word for former secret keys in `environment`.
FORMER_KEYS = "secret_key_fallbacks"


def overlay(
    site: Site, release: Path, settings_module: str, *, leaving: Sequence[str] = (), keeps_threads: bool = True
) -> str:
    """Return the data that the overlay module reads (``config/settings.json``), without secrets.

    Args:
        leaving: domains that are another site's next, and of which this one gets requests until then.
        keeps_threads: whether the server's threads, and with them their connections to databases, outlive a request.
    """
    config = site.config
    data = {
        "settings_module": settings_module,
        "secret_key_file": str(site.secrets / "secret_key.json"),
        "path": config["path"].rstrip("/"),
        "database_folder": str(site.database),
        "databases": databases.overlay_data(site),
        "conn_max_age": _CONN_MAX_AGE if keeps_threads else 0,
        "always": {
            "DEBUG": False,
            "ALLOWED_HOSTS": [*map(site_domains.in_django, [*config["domains"], *leaving])],
            **({"STATIC_ROOT": str(release / "static")} if config["static"]["collect"] else {}),
            "MEDIA_ROOT": str(site.media),
        },
        "settings": {**({"STATIC_URL": url} if (url := config["static"].get("url")) else {}), **config["settings"]},
        **mail.overlay_data(site),
        **({"silenced_checks": config["silenced_checks"]} if config.get("silenced_checks") else {}),
        **({"shared_folder": os.path.realpath(site.shared.top)} if uses_shared(site) else {}),
        **({"https": origins(site)} if site.public_https else {}),
        **({"proves": True} if release_templates.proves(config) else {}),
        **({"stores": stores} if (stores := store_stores.overlay_data(site)) else {}),
    }
    return json.dumps(data, indent=1, sort_keys=True) + "\n"


def uses_shared(site: Site) -> bool:
    """Return whether the project has paths below ``shared/``: by links in its source, or by a variable."""
    sources = [value.get("from") for value in site.config["environment"].values() if isinstance(value, dict)]
    return bool(site.config["shared"] or "shared" in sources)


def origins(site: Site) -> list[str]:
    """Return the origins of a site with https: ``https://blog.example.org``."""
    port = "" if site.public_https[0] == 443 else f":{site.public_https[0]}"
    return [f"https://{domain}{port}" for domain in site.config["domains"]]


def environment(site: Site, release: Path, facts: Mapping[str, Any], leaving: Sequence[str] = ()) -> dict[str, str]:
    """Return the environment of everything that runs the project, without secrets.

    Args:
        leaving: see `overlay`.
        facts: what was found in the source: ``commit``, ``settings_module``, ``folder`` (that of manage.py) and
            ``python_path`` (other folders).
    """
    config = site.config
    source = site.source_folder(release)
    imported_from = [
        *([release / "config"] if config["overlay"] else []),
        *(source / path for path in (facts["folder"], *facts["python_path"])),
        *([packages.folder(release)] if packages.names(site) else []),
    ]
    variables = {
        "PATH": f"{release}/virtualenv/bin:{PATH}",
        "VIRTUAL_ENV": f"{release}/virtualenv",
        "PYTHONPATH": ":".join(map(str, imported_from)),
        "PYTHONDONTWRITEBYTECODE": "1",
        "PYTHONUNBUFFERED": "1",
        "LANG": "C.UTF-8",
        "DJANGO_SETTINGS_MODULE": MODULE if config["overlay"] else facts["settings_module"],
        "DJANGO_SITE": site.name,
        "DJANGO_RELEASE": release.name,
    }
    variables = {**_observed(site, release, facts), **variables}
    domains = [*map(site_domains.in_django, [*site.config["domains"], *leaving])]
    known = {**_known_values(site, release, facts), "domains": domains}
    for name, value in config["environment"].items():
        if not isinstance(value, dict):
            variables[name] = json.dumps(value) if isinstance(value, bool) else str(value)
        elif not _is_secret(site, value):
            found = store_stores.environment_value(site, value, {}) or known[value["from"]]
            variables[name] = value.get("join", ",").join(found) if isinstance(found, list) else found
    secrets = config["secrets"].items()
    files = {secret["variable"]: str(site.secrets / name) for name, secret in secrets if secret["as"] == "file"}
    return {**variables, **databases.url_variables(site, {}, secret=False), **_broker(site, {}), **files}


def _observed(site: Site, release: Path, facts: Mapping[str, Any]) -> dict[str, str]:
    """Return the variables by which Sentry's and OpenTelemetry's libraries name what they report.

    Without such a library they do nothing. A project that has one of them in an .env file keeps it: programs that read
    such a file prefer the environment.
    """
    commit, environment, host = facts["commit"], site.config["environment_name"], socket.gethostname()
    resource = {
        "service.version": commit,
        "service.instance.id": f"{host}-{release.name.split('-')[0]}",
        "deployment.environment.name": environment,
        "host.name": host,
    }
    variables = {
        "SENTRY_RELEASE": commit,
        "SENTRY_ENVIRONMENT": environment,
        "OTEL_SERVICE_NAME": site.name,
        "OTEL_RESOURCE_ATTRIBUTES": ",".join(f"{name}={value}" for name, value in resource.items()),
    }
    source = release / "source"
    folders = {"", facts["folder"]} if source.is_dir() else ()
    texts = [(Foreign(source) / f"{folder}/.env".lstrip("/")).text() or "" for folder in folders]
    own = {name for text in texts for name in re.findall(r"(?m)^[ \t]*(?:export\s+)?(\w+)\s*=", text)}
    return {name: value for name, value in variables.items() if name not in own}


def _known_values(site: Site, release: Path, facts: Mapping[str, Any]) -> dict[str, Any]:
    """Return the values that ``environment`` may take with ``from``, without secrets."""
    return {
        "commit": facts["commit"],
        "release": release.name,
        "static_root": f"{release}/static",
        "media_root": str(site.media),
        "shared": str(site.shared),
        "root": str(site.root),
        "secret_key_file": str(site.secrets / "secret_key"),
        **databases.environment_values(site, {}),
        **mail.environment_values(site, {}),
    }


def _broker(site: Site, secrets: Mapping[str, str]) -> dict[str, str]:
    """Return the variable by which Celery finds the site's queue, unless the pillar sets it.

    Whatever may send a task needs it: views and commands do, also on a host whose site has its workers elsewhere.

    Args:
        secrets: the site's; with none of them the variable is only returned where the queue has no password.
    """
    found = {}
    for word in kinds.brokers(site.config) if site.config.get("queue") else ():
        name, taken = word.upper(), {"from": word}
        if name not in site.config["environment"] and store_stores.is_secret(site, taken) == bool(secrets):
            found[name] = str(store_stores.environment_value(site, taken, secrets))
    return found


def _is_secret(site: Site, value: Mapping[str, str]) -> bool:
    word = value["from"]
    is_key = word in ("secret_key", FORMER_KEYS) or mail.is_secret(site, word)
    return is_key or databases.is_secret(site, word) or store_stores.is_secret(site, value)


def secret_environment(site: Site, secrets: Mapping[str, str], former_keys: Sequence[str]) -> dict[str, str]:
    """Return the variables that contain secrets.

    Raises:
        DeploymentError: a former key contains the separator of the keys.
    """
    known = {"secret_key": secrets.get("secret_key", ""), **databases.environment_values(site, secrets)}
    known |= mail.environment_values(site, secrets)
    taken = {
        name: _joined(site, name, former_keys)
        if value["from"] == FORMER_KEYS
        else store_stores.environment_value(site, value, secrets) or known[value["from"]]
        for name, value in site.config["environment"].items()
        if isinstance(value, dict) and _is_secret(site, value)
    }
    return {
        **taken,
        **databases.url_variables(site, secrets, secret=True),
        **(_broker(site, secrets) if secrets else {}),
        **{name: secrets[name] for name, said in site.config["secrets"].items() if said["as"] == "variable"},
    }


def _joined(site: Site, name: str, keys: Sequence[str]) -> str:
    between = str(site.config["environment"][name].get("join", ","))
    if any(between in key for key in keys):
        raise DeploymentError(
            f"a former secret key contains {between!r}, which separates the keys in {name}",
            hint=f"let the project split them at another separator, and set {site.at}:environment:"
            f"{name}:join, such as ' ' or '|||'",
        )
    return between.join(keys)


def project_files(
    site: Site, templates: Mapping[str, str], variables: Mapping[str, str], secret_key: str = ""
) -> dict[str, str]:
    """Render the files of the pillar's ``files``; return path below the source → content.

    Raises:
        DeploymentError: a template is missing, or cannot be rendered.
    """
    rendered = {}
    for path, said in site.config["files"].items():
        if said.get("environment"):
            own = {name: value for name, value in variables.items() if name in _own_names(site)}
            rendered[path] = environment_files.dotenv_file(own)
        elif said.get("source"):
            rendered[path] = template.render(templates, said["source"], site=site.config, environment=dict(variables))
        elif said.get("from"):
            rendered[path] = secret_key
        else:
            rendered[path] = said["contents"]
    return rendered


def files_of_build(site: Site) -> dict[str, str]:
    """Return those of the pillar's ``files`` that builds read too, without secrets; path below the source → content."""
    return {path: said["contents"] for path, said in site.config["files"].items() if said.get("build")}


def _own_names(site: Site) -> set[str]:
    secrets = {said["variable"] for said in site.config["secrets"].values()}
    urls = {database["variable"] for database in site.config["databases"].values()} - {None}
    return {*site.config["environment"], *secrets, *urls}


def write_project_file(site: Site, source: Path, path: str, content: str) -> None:
    """Write one of the pillar's files into the source; replace a link of the project, never follow it.

    Raises:
        DeploymentError: a folder on the way is a link.
    """
    target = sites.inside(Foreign(source), path, f"{site.at}:files")
    readable = users.owner("root", site.user)
    target.parent.make_folder(mode=0o750, owner=readable)
    target.write(content, mode=0o640, owner=readable)
