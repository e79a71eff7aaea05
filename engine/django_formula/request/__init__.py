"""Requests to release a commit of a site: their queue on disk, its program, and its units."""
