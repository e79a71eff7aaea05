"""The application of a project, which servers and programs import."""

import importlib


def module(name):
    """Import the module of an application, which sets up Django.

    One that imports models before it has set up Django is imported again once it is: runserver, which sets it up first,
    has never shown its author that.
    """
    try:
        return importlib.import_module(name)
    except Exception as error:
        if type(error).__name__ != "AppRegistryNotReady":
            raise
    import django

    django.setup()
    return importlib.import_module(name)


def load(name):
    """Return the application of a module."""
    return module(name).application
