"""The tables of `django/*.yaml`, as `engine/pack.py` writes them next to this module: no host parses that YAML."""

import json
import pkgutil
from typing import Any


def read() -> dict[str, Any]:
    """Return the ``schema``, the ``platforms`` and the ``pythons``, without what only people read."""
    text = pkgutil.get_data(__name__, "tables.json")
    if text is None:
        raise ImportError("the engine lacks pillar/tables.json")
    found: dict[str, Any] = json.loads(text)
    return found
