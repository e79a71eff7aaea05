"""What the main process of a server does once the project is loaded, before it forks those that serve requests."""

import contextlib
import gc


def warm():
    """Load what the first page would load, and exempt it from garbage collection, so that its memory stays shared."""
    from django.db import connections
    from django.template import engines
    from django.urls import get_resolver

    for load in (lambda: get_resolver().url_patterns, engines.all, names_of_static_files):
        with contextlib.suppress(Exception):  # the page reports it when it is requested
            load()
    connections.close_all()  # processes must not share a connection
    gc.freeze()
    gc.enable()


def names_of_static_files():
    """Read the names of the static files, unless that would query another host."""
    from django.conf import settings
    from django.contrib.staticfiles import storage
    from django.utils.module_loading import import_string

    named = getattr(settings, "STORAGES", {}).get("staticfiles", {}).get("BACKEND")
    if issubclass(import_string(named or settings.STATICFILES_STORAGE), storage.StaticFilesStorage):
        storage.staticfiles_storage.exists  # noqa: B018 - the first access creates it
