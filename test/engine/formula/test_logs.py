"""What the overlay adds to lines of a project's log, the level and the id of the request (django_formula_logs.py)."""

import os
import subprocess

import in_django
import pytest
from specimen import ROOT

ID = "9123ac9f0b1c2d3e4f5061728394a5b6"
#: A project of one module: it logs to standard error, to a file, as JSON, and by mail.
PROJECT = """
import asyncio, json, logging, sys
import django
from django.conf import settings
from django.core import mail
from django.http import HttpResponse

class AsJson(logging.Formatter):
    def format(self, record):
        return json.dumps({"message": record.getMessage(), "id": getattr(record, "request_id", None)})

def view(request):
    logging.getLogger("shop").warning("in the view")
    logging.getLogger("own").error("to a file")
    logging.getLogger("json").info("as JSON")
    logging.getLogger("named").info("with extra", extra={"request_id": "the project's own"})
    if "boom" in request.path:
        raise ValueError("no ink\\nand no paper")
    answer = HttpResponse("ok")
    if "own" in request.path:
        answer["X-Request-ID"] = "the project's own"
    return answer

handlers = {
    "console": {"class": "logging.StreamHandler"},
    "json": {"class": "logging.StreamHandler", "formatter": "json"},
    "file": {"class": "logging.FileHandler", "filename": "own.log"},
    "mail": {"class": "django.utils.log.AdminEmailHandler"},
}
settings.configure(
    ROOT_URLCONF="__main__", SECRET_KEY="x", ALLOWED_HOSTS=["*"], ADMINS=[('a', 'a@b.org')],
    EMAIL_BACKEND="django.core.mail.backends.locmem.EmailBackend",
    LOGGING={
        "version": 1, "disable_existing_loggers": False, "handlers": handlers,
        "formatters": {"json": {"()": AsJson}},
        "root": {"handlers": ["console"], "level": "INFO"},
        "loggers": {
            "django.request": {"handlers": ["console", "mail"], "propagate": False},
            "own": {"handlers": ["file"], "propagate": False},
            "json": {"handlers": ["json"], "propagate": False},
        },
    },
)
import django_formula_logs
django.setup()
from django.test import AsyncClient, Client
from django.urls import re_path
urlpatterns = [re_path("", view)]
"""


@pytest.fixture
def run(tmp_path):
    """Run a program in the project; return what it printed and logged. `journal` is whether its errors go there."""

    def run(program: str, *, journal: bool = False, django: str = in_django.DJANGOS[0]) -> tuple[str, str]:
        log = tmp_path / "errors"
        with log.open("w") as errors:
            place = os.fstat(errors.fileno())
            environment = {
                "PYTHONPATH": str(ROOT / "django/files"),
                "PYTHONDONTWRITEBYTECODE": "1",
                **({"JOURNAL_STREAM": f"{place.st_dev}:{place.st_ino}"} if journal else {"JOURNAL_STREAM": "1:2"}),
            }
            done = subprocess.run(
                [in_django.python(django), "-c", PROJECT + program],
                cwd=tmp_path, env=environment, stdout=subprocess.PIPE, stderr=errors, text=True, timeout=60,
            )  # fmt: skip
        assert done.returncode == 0, log.read_text()
        return done.stdout, log.read_text()

    run.file = tmp_path / "own.log"
    return run


def ask(path: str, given: str = ID, client: str = "Client") -> str:
    call = f"Client(raise_request_exception=False).get('{path}', HTTP_X_REQUEST_ID={given!r})"
    if client == "AsyncClient":
        call = f"asyncio.run(AsyncClient().get('{path}', headers={{'X-Request-ID': {given!r}}}))"
    return f"\nanswer = {call}\nprint(answer.get('X-Request-ID'))\n"


@pytest.mark.parametrize("django", in_django.DJANGOS)
def test_lines_have_the_id_of_their_request_and_responses_too(run, django):
    printed, log = run(ask("/") + "logging.getLogger('shop').warning('afterwards')", django=django)
    assert printed == f"{ID}\n"
    assert log.splitlines() == [
        f"in the view [{ID}]",
        '{"message": "as JSON", "id": null}',
        f"with extra [{ID}]",
        "afterwards",
    ]
    assert run.file.read_text() == "to a file\n"


def test_lines_of_asgi_have_the_id(run):
    printed, log = run(ask("/", client="AsyncClient"))
    assert printed == f"{ID}\n" and f"in the view [{ID}]" in log.splitlines()


@pytest.mark.parametrize("given", ["", "short", "a b c d e f g", "-begins-with-a-dash", "x" * 129, "née-123456"])
def test_id_that_no_proxy_gives_is_not_logged(run, given):
    printed, log = run(ask("/", given))
    assert printed == "None\n" and log.splitlines()[0] == "in the view"


def test_response_that_names_a_request_itself_stays(run):
    assert run(ask("/own"))[0] == "the project's own\n"


def test_exception_and_its_mail_have_the_id(run):
    printed, log = run(ask("/boom") + f"print({ID!r} in mail.outbox[0].body)")
    assert printed == f"{ID}\nTrue\n"
    assert f"Internal Server Error: /boom [{ID}]\nTraceback (most recent call last):\n" in log


def test_each_line_to_the_journal_begins_with_its_level(run):
    program = ask("/boom") + "logging.getLogger('x').critical('c'); logging.getLogger('django').debug('d')"
    _printed, log = run(program + "\nlogging.getLogger('json').info('i')", journal=True)
    lines = log.splitlines()
    assert lines[:3] == [f"<4>in the view [{ID}]", '<6>{"message": "as JSON", "id": null}', f"<6>with extra [{ID}]"]
    first = lines.index(f"<3>Internal Server Error: /boom [{ID}]")
    assert lines[-4:] == ["<3>ValueError: no ink", "<3>and no paper", "<2>c", '<6>{"message": "i", "id": null}']
    assert all(line.startswith("<3>") for line in lines[first:-2])
    assert run.file.read_text() == "to a file\n"


def test_overlay_imports_it():
    assert 'import_module("django_formula_logs")' in (ROOT / "django/files/django_formula_settings.py").read_text()
