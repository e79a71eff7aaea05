"""Compose files, by which a project runs without the formula."""
