"""Virtualenvs: requirements, lock files, interpreters, indexes, uv."""
