"""What each response says of itself, for the proxy, which logs it and removes the header.

`X-Django-Said: <release> <route> <milliseconds of CPU> <queries> <exception@function>`; `-` where there is nothing to
say, and `~` before the CPU of the first answer of a route by this process. The overlay has this middleware around all
others in sites that prove their releases. While the proxy says that a proof is on, each request is measured; else one
of four, by which the next proof knows what is usual. A failure of it is never one of the page. See docs/decisions/0168.
"""

import collections.abc
import contextlib
import contextvars
import functools
import os
import random
import re
import sys
import sysconfig
import time
import types

from django.core.signals import got_request_exception
from django.db import connections
from django.db.backends.signals import connection_created

try:
    from asgiref.sync import SyncToAsync, iscoroutinefunction
except ImportError:  # Django before 3.0, or an old asgiref
    SyncToAsync = None
    from asyncio import iscoroutinefunction

_header = "X-Django-Said"
_release = os.environ.get("DJANGO_RELEASE") or "-"
#: What the proxy sends with each request while a proof is on, and the share of requests that are measured otherwise.
_proof, _measured = "HTTP_X_DJANGO_PROOF", 0.25
#: Chance that the project does not seed.
_chance = random.Random().random  # noqa: S311  # nosec B311
#: Routes that this process has answered, after imports and with caches that are filled: what the header begins with for
#: each, and all of it where nothing is measured; how many are remembered.
_answered, _routes = {}, 1000
#: Where a request that is not measured has its exception.
_raised_in = "_django_formula_raised"
#: The request that is measured.
_current = contextvars.ContextVar("django_formula_said", default=None)
_unfit = re.compile(r"[^!-~]")
_not_a_name = re.compile(r"[^A-Za-z0-9_.<>]")
#: Files whose functions are not the project's.
_stdlib = {os.path.realpath(sysconfig.get_path(name)) + os.sep for name in ("stdlib", "platstdlib")}
_elsewhere = re.compile(f"^({'|'.join(map(re.escape, sorted(_stdlib)))}|<frozen )|/(site|dist)-packages/")


class _Request:
    """What is counted while a request is measured."""

    cpu, queries, exception = 0.0, 0, "-"


def middleware(get_response):
    """Measure requests, and name what is known of each in its response."""
    _listen()
    get, put, clock = _current.get, _current.set, time.thread_time

    def is_left_out(request):
        # A request within one that is measured would count as a part of it.
        return _chance() >= _measured and get() is None and _proof not in getattr(request, "META", ())

    if iscoroutinefunction(get_response):

        async def asked(request):
            if is_left_out(request):
                return _plain(request, await get_response(request))
            own, before = _Request(), get()
            put(own)
            try:
                answer = get_response(request)
                response = await (_stepped(answer, own) if isinstance(answer, collections.abc.Coroutine) else answer)
            finally:
                put(before)
            return _named(request, response, own, own.cpu + _cpu_of_thread())

    else:

        def asked(request):
            if is_left_out(request):
                return _plain(request, get_response(request))
            own, before = _Request(), get()
            put(own)
            began = clock()
            try:
                response = get_response(request)
            finally:
                put(before)
            return _named(request, response, own, clock() - began)

    return asked


middleware.sync_capable = middleware.async_capable = True


@types.coroutine
def _stepped(inner, own):
    """Run a coroutine as `await` does, and count the CPU of its steps: other requests have the thread between them."""
    step, value = inner.send, None
    while True:
        began = time.thread_time()
        try:
            awaited = step(value)
        except StopIteration as end:
            return end.value
        finally:
            own.cpu += time.thread_time() - began
        try:
            step, value = inner.send, (yield awaited)
        except GeneratorExit:
            inner.close()
            raise
        except BaseException as error:
            step, value = inner.throw, error


def _cpu_of_thread():
    """The CPU seconds of the thread that has run what is not async of this request: Django has one for each."""
    try:
        context = SyncToAsync.thread_sensitive_context.get(None)
        executor = SyncToAsync.context_to_thread_executor.get(context) if context else None
        threads = executor._threads if executor else ()
        return sum(time.clock_gettime(time.pthread_getcpuclockid(thread.ident)) for thread in threads)
    except Exception:
        return 0.0


def _named(request, response, own, cpu):
    """The response of a request that was measured, with the header, in place of one that the project may have set."""
    try:
        begins = _begins(request)[0]
        milliseconds = "-" if _shares_threads() else f"{cpu * 1000:.2f}"
        response[_header] = f"{begins}{milliseconds} {own.queries} {own.exception}"
    except Exception:
        _remove(response)
    return response


def _plain(request, response):
    """The response of a request that was not measured, with the header."""
    try:
        begins, whole = _begins(request)
        exception = request.__dict__.get(_raised_in)
        response[_header] = f"{begins.rstrip('~')}- - {exception}" if exception else whole
    except Exception:
        _remove(response)
    return response


def _remove(response):
    with contextlib.suppress(Exception):
        del response[_header]


def _begins(request):
    """What the header begins with for the route of a request, and all of it where nothing is measured."""
    match = getattr(request, "resolver_match", None)
    route = (getattr(match, "route", None) or "/") if match else "-"
    return _answered.get(route) or _first(route)


def _first(route):
    begins = f"{_release} {_unfit.sub('_', route[:200])} "
    both = begins, f"{begins}- - -"
    if len(_answered) >= _routes:
        return both
    _answered[route] = both
    return begins if _shares_threads() else f"{begins}~", both[1]


@functools.cache
def _shares_threads():
    """Whether requests take turns in a thread without the event loop knowing: gevent and eventlet."""
    gevent, eventlet = sys.modules.get("gevent.monkey"), sys.modules.get("eventlet.patcher")
    return bool(
        (gevent and gevent.is_module_patched("threading")) or (eventlet and eventlet.is_monkey_patched("thread"))
    )


def _listen():
    """Count the queries of each connection, and notice the exceptions that Django answers with 500."""
    try:
        got_request_exception.connect(_raised)
        connection_created.connect(_opened)
        for connection in connections.all():  # those that were opened while Django was set up
            _opened(connection=connection)
    except Exception:
        return


def _opened(sender=None, connection=None, **_more):
    wrappers = getattr(connection, "execute_wrappers", None)
    if isinstance(wrappers, list) and _count not in wrappers:
        wrappers.insert(0, _count)


def _count(execute, sql, parameters, many, context):
    own = _current.get()
    if own is not None:
        own.queries += 1
    return execute(sql, parameters, many, context)


def _raised(sender=None, request=None, **_more):
    try:
        own, (kind, _error, trace) = _current.get(), sys.exc_info()
        if kind is None:
            return
        text = f"{_name(kind.__name__)}@{_name(_function(trace))}"
        if own is not None:
            own.exception = text
        elif request is not None:
            setattr(request, _raised_in, text)
    except Exception:
        return


def _function(trace):
    """The innermost function of the project in a traceback; if it has none, the innermost of all."""
    own = innermost = ""
    while trace:
        code = trace.tb_frame.f_code
        module = trace.tb_frame.f_globals.get("__name__", "")
        innermost = f"{module}.{getattr(code, 'co_qualname', code.co_name)}"
        if not _elsewhere.search(code.co_filename) and not module.startswith("django_formula_"):
            own = innermost
        trace = trace.tb_next
    return own or innermost


def _name(text):
    """A name as a part of the header: its end tells most."""
    return _not_a_name.sub("_", text)[-100:] or "_"
