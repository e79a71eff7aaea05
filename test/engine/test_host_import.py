"""The engine's folder on Python's path, from which Salt takes it after it has loaded a module."""

import sys
from pathlib import Path

import django_host_import


def test_folder_of_the_engine_stays_on_the_path_once(monkeypatch):
    monkeypatch.setattr(sys, "path", ["/usr/lib/python3"])
    django_host_import.keep_folder()
    django_host_import.keep_folder()
    assert sys.path == ["/usr/lib/python3", str(Path(django_host_import.__file__).parent)]
