"""Dumps of databases, uploads and queues, their manifests, and how they are restored."""
