"""Fixtures of the engine's tests."""

import os
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest
from django_formula.host import lazy  # noqa: F401 - modules run when they are used, as on hosts

# isort: split
from project_commands import project_commands
from socket_host import socket_host
from specimen import make_site, own_host
from world import asked_here, kept_templates, world

__all__ = ["asked_here", "kept_templates", "make_site", "own_host", "project_commands", "socket_host", "world"]


@pytest.fixture
def open_folder() -> Iterator[Path]:
    """A folder that every user can enter: outside of pytest's, which each run of pytest closes to other users."""
    with tempfile.TemporaryDirectory(prefix="df-", dir=os.environ.get("PYTEST_DEBUG_TEMPROOT")) as name:
        Path(name).chmod(0o755)
        yield Path(name)
