"""Attempts: every deployment of a site and what came of it, a line each in ``deploys.jsonl``."""

import json
import re
from typing import Any

import django_host_file
from django_site import Site


def append(site: Site, attempt: dict[str, Any]) -> None:
    """Write an attempt down, through any loss of power; it begins a line even where the last one is torn."""
    django_host_file.append(site.deploys, json.dumps(attempt, sort_keys=True), mode=0o640)


def attempts(site: Site) -> list[dict[str, Any]]:
    """The attempts that can be read, in their order; a line that is torn is passed over."""
    found = []
    for line in _text(site).splitlines():
        try:
            attempt = json.loads(line)
        except (ValueError, RecursionError):
            continue
        if isinstance(attempt, dict):
            found.append(attempt)
    return found


def has_released(site: Site) -> bool:
    """Whether a release of the site has ever gone live."""
    return '"result": "released"' in _text(site)


def sequences(site: Site) -> list[int]:
    """The numbers of the releases that attempts have made, those of torn lines too."""
    return [int(number) for number in re.findall(r'"release": "(\d+)-', _text(site))]


def _text(site: Site) -> str:
    try:
        return site.deploys.read_bytes().decode(errors="replace")
    except FileNotFoundError:
        return ""
