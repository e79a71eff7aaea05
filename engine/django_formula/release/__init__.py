"""Releases on disk, and the instance of each: configuration, start, health, workers, end."""
