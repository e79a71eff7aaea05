"""The application of a project, which servers and programs import."""

import contextlib
import importlib
import json
import os
import pathlib


def module(name):
    """Import the module of an application, which sets up Django.

    One that imports models before it has set up Django is imported again once it is: runserver, which sets it up first,
    has never shown its author that.
    """
    with overlay_kept():
        try:
            return importlib.import_module(name)
        except Exception as error:
            if type(error).__name__ != "AppRegistryNotReady":
                raise
        import django

        django.setup()
        return importlib.import_module(name)


@contextlib.contextmanager
def overlay_kept():
    """Ignore that a WSGI module assigns the settings which the overlay begins with: it would be without effect."""
    data = pathlib.Path(__file__).with_name("settings.json")
    own = json.loads(data.read_text())["settings_module"] if data.exists() else None
    usual = type(os.environ)

    class Environment(usual):
        def __setitem__(self, key, value):
            if key != "DJANGO_SETTINGS_MODULE" or value != own:
                super().__setitem__(key, value)

    os.environ.__class__ = Environment
    try:
        yield
    finally:
        os.environ.__class__ = usual


def load(name):
    """Return the application of a module."""
    return module(name).application
