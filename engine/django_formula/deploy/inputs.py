"""The inputs of a release: everything it is made of, as keyed hashes; a release is made when one of them changes."""

import hashlib
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from django_formula.database import databases
from django_formula.email import mail
from django_formula.release import instances
from django_formula.secret import secrets as secret_secrets
from django_formula.site.sites import Site

#: Keys of the configuration that are not part of a release: changing one makes no new release.
_NOT_INPUTS = {
    *("state", "remove_data", "adopt", "repository", "folder", "revision", "deploy", "deploy_key", "known_hosts"),
    *("redirect_domains", "packages", "index", "secret_key", "health", "migrate", "check", "proxy", "releases"),
    *("uid", "timeouts", "media", "build_sandbox", "maintenance", "backup", "tls", "schedules", "fleet", "balancer"),
    *("knowledge", "notify", "people", "push", "checks", "hook", "promote", "tags"),
}
#: Keys of a database that change nothing in the project.
_NOT_OF_DATABASE = {"manage", "served_by", "certificate", "pool", "replaces"}
#: Keys of `static:push` that change no file in the store.
_NOT_PUSHED = {"key", "secret", "ssh_key", "known_hosts", "prune", "timeout"}
#: The templates of a release that are not the application server's.
PROGRAMS = [
    f"salt://django/files/django_formula_{name}.py"
    for name in ("application", "start", "migrate", "lock", "guard", "keep", "request", "tables", "faults")
]
OVERLAY = "salt://django/files/django_formula_settings.py"
#: What the overlay imports whatever the site is.
LOGS = "salt://django/files/django_formula_logs.py"
#: What it imports where releases prove themselves; no input, since to begin with that makes no release.
SAID = "salt://django/files/django_formula_said.py"


def hashes(
    site: Site, commit: str, secrets: Mapping[str, str], former_keys: Sequence[str], templates: Mapping[str, str]
) -> dict[str, str]:
    """Return the commit, and a keyed hash of each value that a release is made of, by its path below the site's pillar.

    Args:
        secrets: the values of the site's secrets, by name.
        former_keys: the former secret keys that the release accepts.
        templates: the text of each template, by URL.
    """
    config = _configuration(site)
    values = dict(_leaves(config))
    renewed = databases.certificates(site)  # whose files are read at each connection
    values |= {f"secrets:{name}": value for name, value in secrets.items() if name not in renewed}
    if former_keys:
        values["secrets:secret_key:fallbacks"] = former_keys
    used = {file["source"] for file in config["files"].values() if file.get("source")}
    used |= {*PROGRAMS, OVERLAY, LOGS, *instances.templates(site)}
    used |= {mail.MODULE} if site.config.get("email") else set()
    values |= {url: text for url, text in templates.items() if url in used}
    key = secret_secrets.record_key(site)
    return {"commit": commit, **{path: secret_secrets.keyed_hash(key, value) for path, value in values.items()}}


def formula() -> str:
    """Return a digest of the formula's own modules, as Salt has them here."""
    modules = sorted(Path(__file__).parents[1].rglob("*.py"))
    return hashlib.sha256(b"".join(module.read_bytes() for module in modules)).hexdigest()


def _configuration(site: Site) -> dict[str, Any]:
    """Return the part of a site's configuration that a release is made of, without the values of secrets."""
    config = {name: value for name, value in site.config.items() if name not in _NOT_INPUTS}
    config["static"] = {name: value for name, value in config["static"].items() if name != "expires"}
    if push := config["static"].get("push"):
        config["static"]["push"] = {name: value for name, value in push.items() if name not in _NOT_PUSHED}
    config["secrets"] = {
        name: {"as": secret["as"], "variable": secret["variable"]} for name, secret in config["secrets"].items()
    }
    config["databases"] = {
        alias: {key: value for key, value in {**database, "password": None}.items() if key not in _NOT_OF_DATABASE}
        for alias, database in config["databases"].items()
    }
    if config.get("queue"):
        config["queue"] = _of_project(config["queue"])
    if config.get("caches"):
        config["caches"] = {alias: _of_project(cache) for alias, cache in config["caches"].items()}
    if site.config.get("email"):
        config["email"] = {**site.config["email"], "password": None}
    if site.public_https and site.config["overlay"]:
        config["tls"] = {"listen": site.public_https}
    if site.config.get("container"):
        config["packages"] = site.config["packages"]  # which are in its image
        unset = () if site.config["container"]["image"] else ("image",)
        config["container"] = _without(site.config["container"], "login", "share", *unset)
    if site.config["media"].get("shared"):
        # Units wait for the mount, and a process keeps seeing the one that was there when it started.
        config["media"] = {"shared": True, "mount": site.config["media"].get("mount")}
    if site.config["proxy"].get("keepalive"):
        config["proxy"] = {"keepalive": True}
    return config


def _of_project(store: Mapping[str, Any]) -> dict[str, Any]:
    """Return the part of a store that the project gets; what a server of its own does with its memory is not."""
    return _without(store, "memory", "sync", "password")


def _without(values: Mapping[str, Any], *keys: str) -> dict[str, Any]:
    return {key: value for key, value in values.items() if key not in keys}


def _leaves(value: Any, path: str = "") -> Iterator[tuple[str, Any]]:
    if isinstance(value, dict) and value:
        for name, inner in value.items():
            yield from _leaves(inner, f"{path}:{name}" if path else name)
    else:
        yield path, value
