"""Fixtures of the engine's tests."""

from specimen import make_site, own_host
from world import world

__all__ = ["make_site", "own_host", "world"]
