"""What lines of a project's log have in addition: their level, for the journal, and the id of the request.

This is about lines to standard output and standard error alone, whatever handler writes them: files and services that
the project logs to get what they got. Each response has the id too. See docs/decisions/0150.
"""

import contextvars
import functools
import logging
import os
import re

from django.core.signals import request_finished, request_started

#: The id of the request that is served; empty outside of one.
_current = contextvars.ContextVar("django_formula_request_id", default="")
#: What the journal takes for the severity of a line: sd-daemon(3).
_severities = ((logging.CRITICAL, "<2>"), (logging.ERROR, "<3>"), (logging.WARNING, "<4>"), (logging.INFO, "<6>"))
_id = re.compile(r"[A-Za-z0-9][A-Za-z0-9@._-]{5,127}")
_header, _meta = "X-Request-ID", "HTTP_X_REQUEST_ID"


def _begun(sender=None, **_more):
    """Have Django's handlers keep the id of each request, and name it in each response.

    They can be imported once a request begins. A context variable that a signal sets is lost in ASGI.
    """
    request_started.disconnect(_begun)
    from django.core.handlers.base import BaseHandler

    now, later = BaseHandler.get_response, getattr(BaseHandler, "get_response_async", None)

    @functools.wraps(now)
    def get_response(self, request):
        found = _keep(request)
        return _named(now(self, request), found)

    BaseHandler.get_response = get_response
    if later:

        @functools.wraps(later)
        async def get_response_async(self, request):
            found = _keep(request)
            return _named(await later(self, request), found)

        BaseHandler.get_response_async = get_response_async


def _ended(sender=None, **_more):
    _current.set("")


def _keep(request):
    """Keep the id of a request, as the proxy has given it, for what it logs."""
    found = request.META.get(_meta, "")
    _current.set(found if _id.fullmatch(found) else "")
    return _current.get()


def _named(response, found):
    if found and not response.has_header(_header):
        response[_header] = found
    return response


def _format(plain, own, journal):
    """Return how a handler that writes to a stream formats a record.

    Args:
        plain: how it does that by itself.
        own: the files that standard output and standard error are.
        journal: that of the journal, where it is one of them.
    """

    @functools.wraps(plain)
    def format(self, record):
        text = plain(self, record)
        place = _place(self.stream)
        if place not in own or not isinstance(text, str):
            return text
        text = _with_id(text, record)
        if place != journal:
            return text
        severity = next((mark for level, mark in _severities if record.levelno >= level), "<7>")
        return "\n".join(f"{severity}{line}" for line in text.split("\n"))

    return format


def _with_id(text, record):
    """The text of a record with the id of its request at the end of its first line; JSON stays as it is.

    The record of an exception that no view has caught is made outside of all middleware, and names its request.
    """
    meta = getattr(getattr(record, "request", None), "META", None)
    found = meta.get(_meta, "") if isinstance(meta, dict) else ""
    found = found if _id.fullmatch(found) else _current.get()
    if not found or found in text or text.startswith("{"):
        return text
    first, newline, rest = text.partition("\n")
    return f"{first} [{found}]{newline}{rest}"


def _place(stream):
    """The file that a stream writes to: device and inode; None for one that has none."""
    try:
        found = os.fstat(stream if isinstance(stream, int) else stream.fileno())
    except (AttributeError, OSError, TypeError, ValueError):
        return None
    return found.st_dev, found.st_ino


def _journal():
    """The journal, where systemd has connected an output with it: JOURNAL_STREAM in systemd.exec(5)."""
    device, _colon, inode = os.environ.get("JOURNAL_STREAM", "").partition(":")
    return (int(device), int(inode)) if device.isdigit() and inode.isdigit() else None


request_started.connect(_begun)
request_finished.connect(_ended)
logging.StreamHandler.format = _format(logging.StreamHandler.format, {_place(1), _place(2)} - {None}, _journal())
