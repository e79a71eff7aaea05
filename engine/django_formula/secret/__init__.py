"""Secrets of a site, and the rotation of its secret key."""
