"""Plays the files of a host: below its own folder, never those of the machine that runs the tests."""

from pathlib import Path


def absent(name):
    path = Path(__opts__["played_host"]).parent / name.lstrip("/")
    changes = {"removed": name} if path.exists() else {}
    if changes and not __opts__["test"]:
        path.unlink()
    return {"name": name, "changes": changes, "result": None if changes and __opts__["test"] else True, "comment": ""}
