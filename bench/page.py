"""Serve a page of Django by turns without a middleware, with it, and with it while a proof is on; print JSON of CPU.

python page.py FOLDER ROUNDS: with the Django of this Python, and the middleware django_formula_said.py of the folder.
Each round serves batches of pages each way in changing order. Its values are the microseconds that a page takes more
than without, and of that page itself: of the tenth of the batches that took least, since other work on the machine
only adds. The page has five queries and the middleware of a new project, and is as small as one can be: what is added
does not depend on what a page does, but for its queries.
"""

import gc
import io
import json
import random
import statistics
import sys
import time

import django
from django.conf import settings
from django.http import HttpRequest, HttpResponse
from django.urls import path

BATCHES, PAGES = 20, 20
USUAL = [
    "django.middleware.security.SecurityMiddleware",
    "django.contrib.sessions.middleware.SessionMiddleware",
    "django.middleware.common.CommonMiddleware",
    "django.middleware.csrf.CsrfViewMiddleware",
    "django.contrib.auth.middleware.AuthenticationMiddleware",
    "django.contrib.messages.middleware.MessageMiddleware",
    "django.middleware.clickjacking.XFrameOptionsMiddleware",
]
SAID = "django_formula_said.middleware"
PROOF = "9/07"

settings.configure(
    ROOT_URLCONF=__name__,
    SECRET_KEY="x",
    ALLOWED_HOSTS=["*"],
    LOGGING_CONFIG=None,
    INSTALLED_APPS=[f"django.contrib.{name}" for name in ("auth", "contenttypes", "sessions", "messages")],
    DATABASES={"default": {"ENGINE": "django.db.backends.sqlite3", "NAME": ":memory:"}},
    MIDDLEWARE=USUAL,
)
django.setup()

from django.core.handlers.wsgi import WSGIHandler  # noqa: E402
from django.db import connection  # noqa: E402


def page(request: HttpRequest) -> HttpResponse:
    with connection.cursor() as cursor:
        for _query in range(5):
            cursor.execute("select 1")
    return HttpResponse("page")


urlpatterns = [path("page", page)]


class Way:
    """A way to serve the page: with some middleware, and with the header of a proof that is on."""

    def __init__(self, middleware: list[str], *, is_proof: bool = False):
        settings.MIDDLEWARE = middleware
        connection.execute_wrappers.clear()
        self.handler, self.more = WSGIHandler(), {"HTTP_X_DJANGO_PROOF": PROOF} if is_proof else {}
        self.serve()
        self.wrappers = [*connection.execute_wrappers]

    def cost(self) -> float:
        """Microseconds of CPU that a page of a batch takes; the queries of other ways are not counted."""
        connection.execute_wrappers[:] = self.wrappers
        return 1e6 * self.serve() / PAGES

    def serve(self) -> float:
        about = {"REQUEST_METHOD": "GET", "PATH_INFO": "/page", "SERVER_NAME": "x", "SERVER_PORT": "80"}
        about |= {"wsgi.url_scheme": "http", "HTTP_HOST": "x", **self.more}
        requests = [{**about, "wsgi.input": io.BytesIO()} for _page in range(PAGES)]
        began = time.thread_time()
        for request in requests:
            response = self.handler(request, lambda status, headers: None)
            assert b"".join(response) == b"page"
            response.close()
        return time.thread_time() - began


def compared(rounds: int) -> dict[str, list[float]]:
    """The microseconds that each way takes more, in each round; `again` is the page without it a second time."""
    with_it = [SAID, *USUAL]
    ways = {"page": Way(USUAL), "again": Way(USUAL), "idle": Way(with_it), "proof": Way(with_it, is_proof=True)}
    found: dict[str, list[float]] = {name: [] for name in ways}
    for _round in range(rounds):
        took: dict[str, list[float]] = {name: [] for name in ways}
        for _batch in range(BATCHES):
            for name in random.sample([*ways], len(ways)):
                took[name].append(ways[name].cost())
        quick = {name: statistics.quantiles(row, n=10)[0] for name, row in took.items()}
        for name, value in quick.items():
            found[name].append(value if name == "page" else value - quick["page"])
    return found


if __name__ == "__main__":
    sys.path.insert(0, sys.argv[1])
    gc.freeze()
    json.dump(compared(int(sys.argv[2])), sys.stdout)
