"""What the tests of the watch share."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from django_formula.host import file
from django_formula.watch import spool


@pytest.fixture
def watched(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[[dict[str, Any]], dict[str, Any]]:
    """Writes a configuration of the watch, and returns it."""
    monkeypatch.setattr(spool, "CONFIG", tmp_path / "configuration/watch.json")
    monkeypatch.setattr(spool, "CHANNELS", tmp_path / "channels")
    spool.CHANNELS.mkdir(mode=0o700, exist_ok=True)

    def write(config: dict[str, Any]) -> dict[str, Any]:
        spool.CONFIG.parent.mkdir(exist_ok=True)
        file.write_json(spool.CONFIG, config)
        return config

    return write
