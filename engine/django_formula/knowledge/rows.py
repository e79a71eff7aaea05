"""The rows of `knowledge.yaml`, and those that the pillar of a site adds, which come first.

A list has rows that are tried in turn, a map has one for each name. They are read from `knowledge.json`, which
`engine/pack.py` writes: a bare host's Python has no PyYAML. They are read with this module, for a process that has
become another user (`untrusted.delegate`) cannot read the engine's files.
"""

import json
import pkgutil
from typing import Any

from django_formula.site.sites import Site

_KNOWN: dict[str, Any] = json.loads(pkgutil.get_data("django_formula.knowledge", "knowledge.json") or b"")


def rows(part: str, site: Site | None = None) -> Any:
    """Return the rows of a part, such as ``causes``, with those of a site."""
    known = _KNOWN[part]
    own = (site.config.get("knowledge") or {}).get(part) if site else None
    if not own:
        return known
    return {**known, **own} if isinstance(known, dict) else [*own.values(), *known]
