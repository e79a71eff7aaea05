"""The package index of a site: what tells uv and pip of it, and its password, which verbs by hand need as well."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any
from urllib.parse import quote, urlsplit

import django_host_command
import django_host_file
from django_site import Site

#: What uv calls the pillar's index.
_NAME = "FORMULA"
#: The variables of pip by which a host tells its indexes, and what uv calls them.
_SAME = {"PIP_INDEX_URL": "UV_DEFAULT_INDEX", "PIP_EXTRA_INDEX_URL": "UV_INDEX", "PIP_FIND_LINKS": "UV_FIND_LINKS"}


def _file(site: Site) -> Path:
    return site.secrets / ".index_password"


def password(site: Site, given: str | None) -> str | None:
    """The password of the pillar's index: as the pillar gives it, else as the last apply has kept it."""
    if not site.config["index"]["password"]:
        return None
    return given or django_host_file.read_text(_file(site))


def is_kept(site: Site, value: str | None) -> bool:
    """Whether `keep` would change nothing."""
    return django_host_file.read_text(_file(site)) == value


def keep(site: Site, value: str | None) -> None:
    """Keep the password for the verbs by hand, in a file that only root reads; None removes it."""
    if value:
        django_host_file.write(_file(site), value, mode=0o600)
    else:
        _file(site).unlink(missing_ok=True)


def for_uv(index: Mapping[str, Any], value: str | None) -> dict[str, str]:
    """The environment in which uv installs: the host's proxies, authorities and indexes; the pillar's index over them.

    Args:
        index: ``url``, ``user`` and ``only`` as the pillar has them.
        value: the password.
    """
    variables = django_host_command.network_environment()
    for pips, uvs in _SAME.items():
        if pips in variables:
            variables.setdefault(uvs, variables.pop(pips))
    if not index["url"]:
        return variables
    if index["only"]:
        variables.pop("UV_INDEX", None)
    variables["UV_DEFAULT_INDEX" if index["only"] else "UV_INDEX"] = f"{_NAME.lower()}={index['url']}"
    if index["user"]:
        variables |= {f"UV_INDEX_{_NAME}_USERNAME": index["user"], f"UV_INDEX_{_NAME}_PASSWORD": value or ""}
    return variables


def for_pip(index: Mapping[str, Any] | None, value: str | None) -> dict[str, str]:
    """The environment in which the host's pip installs uv; the arguments are those of `for_uv`."""
    variables = django_host_command.network_environment()
    for pips, uvs in _SAME.items():
        if uvs in variables:
            variables.setdefault(pips, variables.pop(uvs))
    if index and index["url"]:
        if index["only"]:
            variables.pop("PIP_EXTRA_INDEX_URL", None)
        name = "PIP_INDEX_URL" if index["only"] else "PIP_EXTRA_INDEX_URL"
        variables[name] = _with_login(index["url"], index["user"], value)
    return variables


def _with_login(url: str, user: str | None, value: str | None) -> str:
    parts = urlsplit(url)
    login = ":".join(quote(text, safe="") for text in (user, value) if text)
    return parts._replace(netloc=f"{login}@{parts.netloc}").geturl() if user else url
