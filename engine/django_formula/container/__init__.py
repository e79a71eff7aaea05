"""Containers of sites: engines, images, registries, and commands in containers."""
