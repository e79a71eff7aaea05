"""Databases of sites: engines, what projects get of them, and servers of this host."""
