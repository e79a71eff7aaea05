"""Fixtures of the engine's tests."""

from django_formula.host import lazy  # noqa: F401 - modules run when they are used, as on hosts

# isort: split
from project_commands import project_commands
from socket_host import socket_host
from specimen import make_site, own_host
from world import asked_here, kept_templates, world

__all__ = ["asked_here", "kept_templates", "make_site", "own_host", "project_commands", "socket_host", "world"]
