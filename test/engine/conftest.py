"""Fixtures of the engine's tests."""

from project_commands import project_commands
from specimen import make_site, own_host
from world import world

__all__ = ["make_site", "own_host", "project_commands", "world"]
