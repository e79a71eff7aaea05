"""The engine's folder on Python's path, from which Salt takes it after it has loaded a module."""

import sys
from pathlib import Path

import django_host_import


def test_folder_of_the_engine_stays_when_salt_has_loaded_the_module(monkeypatch):
    folder = str(Path(django_host_import.__file__).parent)
    monkeypatch.setattr(sys, "path", ["/usr/lib/python3", folder])
    for _load in range(3):
        django_host_import.keep_folder()
    assert sys.path == ["/usr/lib/python3", folder, folder]
    sys.path.remove(folder)
    assert sys.path == ["/usr/lib/python3", folder]
