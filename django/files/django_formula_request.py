"""Ask Django about a project's pages, in a process of its own, as the site's user.

`page` requests one and tells which exception it raises, and where: a project's LOGGING decides whether the application
server's log has it. `routes` tells which pages there are without arguments, and requests none.
stdin has a request, stdout gets the answer, both JSON.
"""

import io
import itertools
import os
import re
import sys
import threading
import traceback

import django_formula_start as start

#: Frames of the project that are reported, and blocks of a response that are read.
FRAMES = 3
BLOCKS = 100
#: Routes that are reported, and includes that are followed below each other.
ROUTES, DEPTH = 2000, 8


def page(request):
    """Return the exception that is raised for a page, and its frames in the project; empty where none is.

    Of a page that is still not there after the seconds of ``patience``, it is where it waits.
    """
    start.import_application(request["application"])
    answer = {"raised": "", "frames": []}
    thread = threading.Thread(target=lambda: answer.update(asked(request)), daemon=True)
    thread.start()
    thread.join(request["patience"])
    stack = sys._current_frames().get(thread.ident) if thread.is_alive() else None
    if stack is None:
        return answer
    waiting = frames(traceback.extract_stack(stack))
    place = f" ({waiting[-1].partition(' in ')[0]})" if waiting else ""
    what = ", its modules are still imported" if waiting and " in <module>: " in waiting[-1] else ""
    return {"raised": f"no answer within {request['patience']} s{what}{place}", "frames": waiting}


def asked(request):
    """Return what `page` does of a page that is there, or raises, in time."""
    from django.core.signals import got_request_exception

    raised = []

    def receive(sender, **_more):
        raised.append(sys.exc_info()[1])

    got_request_exception.connect(receive)
    try:
        application = wsgi_application(request)
        response = application(environ(request), lambda status, headers, exc_info=None: None)
        try:
            list(itertools.islice(response, BLOCKS))
        finally:
            getattr(response, "close", lambda: None)()
    except Exception as error:
        raised.append(error)
    found = [error for error in raised if error is not None]
    if not found:
        return {"raised": "", "frames": []}
    return {"raised": start.cause(found[-1]), "frames": frames(traceback.extract_tb(found[-1].__traceback__))}


def routes(request):
    """Return the paths of the project's routes that take no arguments, in the order of the project."""
    start.import_application(request["application"])
    from django.urls import get_resolver

    return {"routes": list(itertools.islice(without_arguments(get_resolver(), "/"), ROUTES))}


def without_arguments(resolver, prefix, depth=0):
    """Yield the paths below a resolver of Django's."""
    for entry in resolver.url_patterns:
        text = literal(entry.pattern)
        if text is None:
            continue
        if not hasattr(entry, "url_patterns"):
            yield prefix + text
        elif depth < DEPTH:
            yield from without_arguments(entry, prefix + text, depth + 1)


def literal(pattern):
    """Return the one text that a pattern matches; None where it has arguments or choices."""
    text = str(pattern)
    if type(pattern).__name__ == "RegexPattern":
        text = re.sub(r"^\^|(\$|\\Z)$", "", text).replace("/?", "/")
        if not re.fullmatch(r"([\w/~-]|\\[.~/_-])*", text):
            return None
        return text.replace("\\", "")
    return None if "<" in text else text


def wsgi_application(request):
    """Return the project's own application, or Django's for a project that is served by ASGI."""
    if request["interface"] == "wsgi":
        return sys.modules[request["application"]].application
    from django.core.wsgi import get_wsgi_application

    return get_wsgi_application()


def environ(request):
    """Return the environment of a WSGI request; application servers take the scheme from X-Forwarded-Proto."""
    variables = request["variables"]
    return {
        "SCRIPT_NAME": "",
        **variables,
        "wsgi.version": (1, 0),
        "wsgi.url_scheme": variables.get("HTTP_X_FORWARDED_PROTO") or variables["REQUEST_SCHEME"],
        "wsgi.input": io.BytesIO(),
        "wsgi.errors": sys.stderr,
        "wsgi.multithread": False,
        "wsgi.multiprocess": True,
        "wsgi.run_once": True,
    }


def frames(stack):
    """Return the last frames in the project: place, function and line of code."""
    own = [
        frame
        for frame in stack
        if "site-packages" not in frame.filename
        and not frame.filename.startswith((sys.prefix, sys.base_prefix, "<"))
        and not start.is_ours(frame.filename)
    ]
    return [f"{os.path.relpath(one.filename)}:{one.lineno} in {one.name}: {one.line}" for one in own[-FRAMES:]]


if __name__ == "__main__":
    start.serve({"page": page, "routes": routes})
