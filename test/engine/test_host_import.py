"""The engine's folder on Python's path, from which Salt takes it after it has loaded a module."""

import importlib.util
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


def test_salt_loads_each_module_under_a_name_that_python_does_not_know():
    """As Salt's loader does it with all of them, when a verb does not exist."""
    failed = {}
    for path in sorted(Path(django_host_import.__file__).parent.glob("django_*.py")):
        spec = importlib.util.spec_from_file_location(f"salt.loaded.ext.utils.{path.stem}", path)
        try:
            spec.loader.exec_module(importlib.util.module_from_spec(spec))
        except AttributeError as error:
            failed[path.name] = str(error)
    assert failed == {}
