"""The package index of a site: how uv and pip are configured with it, and its password, which is kept for commands."""

import json
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any
from urllib.parse import quote, urlsplit

from django_formula.host import commands
from django_formula.secret.secrets import KeptSecret
from django_formula.site.sites import Site

#: The name of the pillar's index in uv's variables.
_NAME = "FORMULA"
#: Where the host configures uv.
HOST_CONFIGURATION = (Path("/etc/xdg/uv/uv.toml"), Path("/etc/uv/uv.toml"))
#: The variables of pip for a host's indexes → those of uv.
_PYPI = "https://pypi.org/simple"
#: The names that PyPI has and had.
_PYPI_HOSTS = ("pypi.org", "pypi.python.org", "files.pythonhosted.org")
_NAMED = re.compile(r"(?:([\w.-]+)=)?(.+)", re.ASCII)
#: uv compiles a source distribution again if the index's answer says that it may not be cached, or does not say that it
#: may. The file of a version never changes: indexes refuse a second upload.
_FILES_ARE_KEPT = 'cache-control = { files = "max-age=31536000, immutable" }'
#: Several folders of it have blanks between them for pip, and commas for uv.
_FIND_LINKS = "PIP_FIND_LINKS"
_VARIABLES = {"PIP_INDEX_URL": "UV_DEFAULT_INDEX", "PIP_EXTRA_INDEX_URL": "UV_INDEX", _FIND_LINKS: "UV_FIND_LINKS"}
#: The password of the pillar's index.
PASSWORD = KeptSecret(".index_password", lambda config: config["index"]["password"])


def is_pypi(url: str) -> bool:
    """Return whether a URL is of PyPI, which every host has: some have a mirror of it configured."""
    try:
        return urlsplit(url).hostname in _PYPI_HOSTS
    except ValueError:
        return False


def is_only(site: Site) -> bool:
    """Return whether packages are installed from the pillar's index alone."""
    return bool(site.config["index"]["url"] and site.config["index"]["only"])


def for_uv(index: Mapping[str, Any], value: str | None) -> dict[str, str]:
    """Return uv's environment: the host's proxies, authorities and indexes, overridden by the pillar's index.

    Args:
        index: ``url``, ``user`` and ``only`` of the pillar.
        value: the password.
    """
    variables = commands.network_environment()
    for pip_name, uv_name in _VARIABLES.items():
        if pip_name in variables:
            given = variables.pop(pip_name)
            variables.setdefault(uv_name, ",".join(given.split()) if pip_name == _FIND_LINKS else given)
    if not index["url"]:
        return variables
    if index["only"]:
        variables.pop("UV_INDEX", None)
    variables["UV_DEFAULT_INDEX" if index["only"] else "UV_INDEX"] = f"{_NAME.lower()}={index['url']}"
    if index["user"]:
        variables |= {f"UV_INDEX_{_NAME}_USERNAME": index["user"], f"UV_INDEX_{_NAME}_PASSWORD": value or ""}
    return variables


def configuration(variables: Mapping[str, str]) -> str:
    """Return a configuration of uv with the indexes of its environment, of which it keeps the files.

    What is configured there has to be removed from the environment, which uv prefers.
    """
    default = variables.get("UV_DEFAULT_INDEX", "" if any(path.exists() for path in HOST_CONFIGURATION) else _PYPI)
    tables = [_table(text) for text in variables.get("UV_INDEX", "").split()]
    return "".join([*tables, *([_table(default) + "default = true\n"] if default else [])])


def _table(text: str) -> str:
    """Return the table of an index, given as a URL or name=URL."""
    name, url = _NAMED.fullmatch(text).groups()  # type: ignore[union-attr]
    named = f"name = {json.dumps(name)}\n" if name else ""
    return f"[[index]]\nurl = {json.dumps(url)}\n{named}{_FILES_ARE_KEPT}\n"


def for_pip(index: Mapping[str, Any] | None, value: str | None) -> dict[str, str]:
    """Return the environment of the host's pip, which installs uv; the arguments are those of `for_uv`."""
    variables = commands.network_environment()
    for pip_name, uv_name in _VARIABLES.items():
        if uv_name in variables:
            given = variables.pop(uv_name)
            found = given.replace(",", " ") if pip_name == _FIND_LINKS else _without_names(given, variables)
            variables.setdefault(pip_name, found)
    if index and index["url"]:
        if index["only"]:
            variables.pop("PIP_EXTRA_INDEX_URL", None)
        name = "PIP_INDEX_URL" if index["only"] else "PIP_EXTRA_INDEX_URL"
        variables[name] = _with_login(index["url"], index["user"], value)
    return variables


def _without_names(text: str, variables: Mapping[str, str]) -> str:
    """Return the indexes of a variable of uv as pip takes them: no names, and the login of each in its URL."""
    urls = []
    for name, url in (_NAMED.fullmatch(word).groups() for word in text.split()):  # type: ignore[union-attr]
        login = f"UV_INDEX_{re.sub('[^A-Z0-9]', '_', (name or '').upper())}"
        urls.append(_with_login(url, variables.get(f"{login}_USERNAME"), variables.get(f"{login}_PASSWORD")))
    return " ".join(urls)


def _with_login(url: str, user: str | None, value: str | None) -> str:
    parts = urlsplit(url)
    login = ":".join(quote(text, safe="") for text in (user, value) if text)
    return parts._replace(netloc=f"{login}@{parts.netloc}").geturl() if user else url
