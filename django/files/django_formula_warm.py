"""What the first process of a server does once the project is loaded, before it makes those that answer."""

import contextlib
import gc


def warm():
    """Load what the first page would load, and have no collection of garbage touch it again: so it stays shared."""
    from django.db import connections
    from django.template import engines
    from django.urls import get_resolver

    for load in (lambda: get_resolver().url_patterns, engines.all, names_of_static_files):
        with contextlib.suppress(Exception):  # whoever asks for a page is told
            load()
    connections.close_all()  # what was connected until here is no connection of those that answer
    gc.freeze()
    gc.enable()


def names_of_static_files():
    """Read which name each static file has; not where another host would be asked for it."""
    from django.conf import settings
    from django.contrib.staticfiles import storage
    from django.utils.module_loading import import_string

    named = getattr(settings, "STORAGES", {}).get("staticfiles", {}).get("BACKEND")
    if issubclass(import_string(named or settings.STATICFILES_STORAGE), storage.StaticFilesStorage):
        storage.staticfiles_storage.exists  # noqa: B018 - it is made at the first look
