# mypy: ignore-errors
"""A view of a hostile project: runs whatever it is sent, inside the web process and its sandbox."""

import contextlib
import io
import traceback
from typing import Any

from django.http import HttpRequest, HttpResponse, JsonResponse
from django.views.decorators.csrf import csrf_exempt


@csrf_exempt
def run(request: HttpRequest) -> HttpResponse:
    """Run the posted program; the answer is what it prints."""
    printed = io.StringIO()
    names: dict[str, Any] = {"request": request}
    try:
        with contextlib.redirect_stdout(printed):
            exec(request.body.decode(), names)
    except Exception:
        return HttpResponse(traceback.format_exc(), status=500, content_type="text/plain")
    return HttpResponse(printed.getvalue(), content_type="text/plain")


def variables(request: HttpRequest) -> HttpResponse:
    """Return all HTTP_* variables of the request, and what Django makes of them."""
    found = {name: value for name, value in request.META.items() if isinstance(value, str)}
    return JsonResponse({**found, "is_secure": request.is_secure(), "host": request.get_host()})
