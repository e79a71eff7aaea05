"""What the first process of a server does once the project is loaded, before it makes those that answer."""

import contextlib
import gc


def warm():
    """Load what the first page would load, and have no collection of garbage touch it again: so it stays shared."""
    from django.db import connections
    from django.template import engines
    from django.urls import get_resolver

    with contextlib.suppress(Exception):  # whoever asks for a page is told
        get_resolver().url_patterns  # noqa: B018 - it is read from the project's module now
        engines.all()
    connections.close_all()  # what was connected until here is no connection of those that answer
    gc.collect()
    gc.freeze()
