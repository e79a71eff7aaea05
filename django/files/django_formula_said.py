"""What each response says of itself, for the proxy, which logs it and removes the header.

`X-Django-Said: <release> <route> <milliseconds of CPU> <queries> <exception@function>`; `-` where there is nothing to
say, and `~` before the CPU of the first answer of a route by this process. The overlay has this middleware around all
others in sites that prove their releases. A failure of it is never one of the page. See docs/decisions/0168.
"""

import collections.abc
import contextvars
import functools
import os
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
#: Routes that this process has answered, after imports and with caches that are filled; how many are remembered.
_answered, _routes = set(), 1000
#: The request that is served.
_current = contextvars.ContextVar("django_formula_said", default=None)
_unfit = re.compile(r"[^!-~]")
_not_a_name = re.compile(r"[^A-Za-z0-9_.<>]")
#: Files whose functions are not the project's.
_stdlib = {os.path.realpath(sysconfig.get_path(name)) + os.sep for name in ("stdlib", "platstdlib")}
_elsewhere = re.compile(f"^({'|'.join(map(re.escape, sorted(_stdlib)))}|<frozen )|/(site|dist)-packages/")


class _Request:
    """What is counted while a request is served."""

    __slots__ = ("cpu", "exception", "queries")

    def __init__(self):
        self.cpu, self.queries, self.exception = 0.0, 0, None


def middleware(get_response):
    """Measure each request, and name what is known of it in its response."""
    _listen()
    if iscoroutinefunction(get_response):

        async def measured(request):
            own, before = _Request(), _current.get()
            _current.set(own)
            try:
                answer = get_response(request)
                response = await (_stepped(answer, own) if isinstance(answer, collections.abc.Coroutine) else answer)
            finally:
                _current.set(before)
            return _named(request, response, own, _cpu_of_thread())

    else:

        def measured(request):
            own, before = _Request(), _current.get()
            _current.set(own)
            began = time.thread_time()
            try:
                response = get_response(request)
            finally:
                _current.set(before)
            return _named(request, response, own, time.thread_time() - began)

    return measured


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
    """The response with the header, in place of one that the project may have set."""
    try:
        match = getattr(request, "resolver_match", None)
        route = _shown(getattr(match, "route", None) or "/") if match else "-"
        is_first = route not in _answered and len(_answered) < _routes
        if is_first:
            _answered.add(route)
        milliseconds = "-" if _shares_threads() else f"{'~' if is_first else ''}{(own.cpu + cpu) * 1000:.2f}"
        response[_header] = f"{_release} {route} {milliseconds} {own.queries} {own.exception or '-'}"
    except Exception:
        try:
            del response[_header]
        except Exception:
            return response
    return response


@functools.lru_cache(maxsize=1000)
def _shown(route):
    return _unfit.sub("_", route[:200])


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


def _raised(sender=None, **_more):
    try:
        own, (kind, _error, trace) = _current.get(), sys.exc_info()
        if own is not None and kind is not None:
            own.exception = f"{_name(kind.__name__)}@{_name(_function(trace))}"
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
