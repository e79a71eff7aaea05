"""Import the settings of a project, and note which environment variables they need. It runs in the project's Python.

It reads a request from its standard input, and prints one line of JSON. Each attempt is a fork of this process, which
has imported Django. An attempt raises what a real start would raise; this process finds the variable that the exception
is about, gives it a text that can be found again (``obs007q``), and tries again, with a number, a URL and so on where
that text is refused. When all stages pass, each variable that was given is taken away once: was it needed? Nothing of
Django or the project is replaced; `os.environ` has another class only. The project may say anything here, so that the
answer is text from outside.

It runs on each Python that a site may have, and imports nothing of ours but the three modules that come with it
(`observation.program`).
"""

import contextlib
import importlib
import io
import json
import os
import re
import select
import signal
import sys
import time
import traceback
from typing import Any

from django_formula.observe import facts
from django_formula.observe.override import override
from django_formula.observe.search import KINDS, Search

#: What Python, Django, libraries and the sandbox ask for by themselves.
_NOT_ASKED = re.compile(
    r"PATH|HOME|LANG|LC_\w+|TMPDIR|TZ|PWD|USER|LOGNAME|SHELL|TERM|COLUMNS|LINES|PYTHON\w+|NO_COLOR|FORCE_COLOR|XDG_\w+"
    r"|SSLKEYLOGFILE|(?:HTTPS?|NO|ALL|FTP)_PROXY|\w+_proxy|DJANGO_SETTINGS_MODULE|DJANGO_RUNSERVER_HIDE_WARNING"
    r"|OPENBLAS\w*|OMP_\w+|MKL_\w+|GOTO_\w+|PYDANTIC_\w+|RUN_MAIN|DJANGO_CONFIGURATION"
)
#: Seconds of an attempt, and the most characters of its answer.
_PATIENCE, _ANSWER = 30.0, 1 << 22
Answer = dict[str, Any]

_base: Any = type(os.environ)
#: The variables that the project asked for in this attempt: name → its places, default, cast, order.
_asked: dict[str, Answer] = {}
#: The paths in the source that this attempt has made, or opened for writing.
_written: set[str] = set()
_is_noting = False
_root = ""
#: The most variables, paths, and characters of a default, in an answer.
_MOST, _PATHS, _SHOWN, _LOG = 500, 50, 80, 6000
_WRITES = os.O_WRONLY | os.O_RDWR | os.O_CREAT


class Recording(_base):  # type: ignore[misc]
    """`os.environ`, which notes what it is asked for, and answers as always."""

    def __getitem__(self, name: Any) -> Any:
        try:
            return _base.__getitem__(self, name)
        finally:
            _note(name, None)

    def get(self, name: Any, default: Any = None) -> Any:
        """Return a variable, or a default."""
        _note(name, default)
        return _base.__getitem__(self, name) if self.has(name) else default

    def __contains__(self, name: Any) -> bool:
        _note(name, None)
        return self.has(name)

    def has(self, name: Any) -> bool:
        """Return whether a variable is set, without a note."""
        try:
            _base.__getitem__(self, name)
        except (KeyError, TypeError):
            return False
        return True


def _note(name: Any, default: Any) -> None:
    """Note that the project, perhaps through a library, has asked for a variable."""
    global _is_noting
    if _is_noting or not isinstance(name, str) or _NOT_ASKED.fullmatch(name):
        return
    _is_noting = True
    try:
        frame, library = sys._getframe(2), []
        while frame and not _is_own(frame.f_code.co_filename):
            if "/site-packages/" in frame.f_code.co_filename:
                library.append(frame)
            frame = frame.f_back  # type: ignore[assignment]
        if frame is None or any(one.f_code.co_name == "<module>" for one in library):
            return  # a package asks for itself, while it is imported
        if len(_asked) >= _MOST and name not in _asked:
            return
        about = _asked.setdefault(name, {"places": [], "order": len(_asked)})
        place = (frame.f_code.co_filename, frame.f_lineno)
        if place not in about["places"]:
            about["places"].append(place)
        for one in library:  # the arguments of its functions, by the names that all such libraries use
            about.update(_of_library(one))
        if default is not None:
            about["default"] = _shown(default)
    finally:
        _is_noting = False


def _of_library(frame: Any) -> Answer:
    """Return the type and whether there is a default, from the arguments of a function that reads a variable."""
    found: Answer = {}
    for key in ("cast", "type", "subcast"):
        if isinstance(frame.f_locals.get(key), type):
            found["cast"] = frame.f_locals[key].__name__
    if frame.f_code.co_name in KINDS:
        found["cast"] = frame.f_code.co_name
    if "default" in frame.f_locals:
        text = _shown(frame.f_locals["default"])
        is_none = re.search(
            r"notset|novalue|undefined|missing|^<(class|marshmallow|environ)|^Ellipsis$|^None$", text, re.I
        )
        found.update({} if is_none else {"default": text})
    return found


def _note_path(event: str, arguments: Any) -> None:
    """Note a path in the source that is made or opened for writing, whether that is allowed or not: an audit hook."""
    if event == "open":
        path, _mode, flags = arguments
        path = path if isinstance(flags, int) and flags & _WRITES else None
    else:
        path = arguments[0] if event in ("os.mkdir", "sqlite3.connect") else None
    if isinstance(path, (str, bytes, os.PathLike)) and len(_written) < _PATHS:
        text = os.path.abspath(os.fsdecode(path))
        if text.startswith(_root) and "/__pycache__/" not in text:
            _written.add(os.path.relpath(text, _root))


def _shown(default: Any) -> str:
    """Return a default as Python writes it, without the folder of the source, which is another one in each release."""
    return repr(default).replace(_root, "")[:_SHOWN]


def _is_own(file: str) -> bool:
    return file.startswith(_root) and "/site-packages/" not in file


# An attempt


def _attempt(request: Answer, given: dict[str, str], until: str = "", tells: bool = False) -> Answer:
    """Return how a start with some variables ended; it is done by a child, which ends with all its children.

    Args:
        until: the last stage, if not all of them are run.
        tells: whether facts of the started project are in the answer.
    """
    reader, writer = os.pipe()
    child = os.fork()
    if not child:
        try:
            os.setsid()
            os.close(reader)
            nothing = os.open(os.devnull, os.O_RDWR)
            for number in (0, 1, 2):
                os.dup2(nothing, number)
            with os.fdopen(writer, "w") as out:
                json.dump(_started(request, given, until, tells), out, default=repr)
        finally:  # an exception that cannot be described, for example: only the parent may go on
            os._exit(0)
    os.close(writer)
    data = _received(reader)
    os.close(reader)
    with contextlib.suppress(ProcessLookupError):
        os.killpg(child, signal.SIGKILL)
    os.waitpid(child, 0)
    try:
        answer: Answer = json.loads(data)
    except ValueError:
        answer = {"stage": "ended", "error": {"type": "Ended", "text": "no answer", "frames": []}, "asked": {}}
    answer.setdefault("settings", {})
    return answer


def _received(reader: int) -> bytes:
    data, end = b"", time.monotonic() + _PATIENCE
    while select.select([reader], [], [], max(0.0, end - time.monotonic()))[0]:
        part = os.read(reader, 1 << 16)
        if not part or len(data) > _ANSWER:
            break
        data += part
    return data


def _started(request: Answer, given: dict[str, str], until: str, tells: bool) -> Answer:
    """Start the project: its settings, its applications, Django's checks, and what serves requests."""
    os.environ.update(given)
    os.environ["DJANGO_SETTINGS_MODULE"] = request["module"]
    os.environ.__class__ = Recording
    sys.addaudithook(_note_path)
    stage, settings, error, told = "", Answer(), None, Answer()
    printed = io.BytesIO()
    standard = sys.stdout = io.TextIOWrapper(printed, encoding="utf-8", write_through=True)
    try:
        for stage, run in facts.STAGES:
            found = run(request)
            settings = found if stage == "settings" else settings
            if stage == until:
                break
        else:
            stage = "done"
            told = facts.facts() if tells else {}
    except BaseException as failure:  # SystemExit too: some settings end the process
        error = _described(failure, b"" if printed.closed else printed.getvalue())
    del standard  # until now, for projects replace `sys.stdout` by another one of the same buffer
    os.environ.__class__ = _base
    answer = {"stage": stage, "settings": settings, "error": error, "asked": _asked, "facts": told}
    return {**answer, "fields": facts.fields_of_pydantic(), "written": sorted(_written)}


def _described(error: BaseException, printed: bytes) -> Answer:
    """Return an exception; of a project that ends the process the text is what it has printed before."""
    hidden = _hidden_import(error)
    chain = error.__cause__ or error.__context__ or hidden
    reason = _text(error)[:2000]
    if isinstance(error, SystemExit) and not isinstance(error.code, str):
        reason = " ".join(printed[-2000:].decode(errors="replace").split("\n")[-4:]).strip() or reason
    text = reason + (f" <- {type(chain).__name__}: {_text(chain)[:300]}" if chain else "")
    frames = [[one.filename, one.lineno] for one in traceback.extract_tb(error.__traceback__)][-25:]
    found: Answer = {"type": type(error).__name__, "text": text, "frames": frames}
    shown = [error, hidden] if hidden else [error]  # what ends the hidden one does not go with the others
    found["log"] = "".join("".join(traceback.format_exception(type(one), one, one.__traceback__)) for one in shown)[
        -_LOG:
    ]
    if isinstance(error, KeyError) and error.args:
        found["key"] = str(error.args[0])
    if isinstance(error, ModuleNotFoundError) and error.name:
        found["module"] = error.name
    if type(error).__name__ == "ValidationError" and hasattr(error, "errors"):
        try:
            found["fields"] = [str(one["loc"][0]) for one in error.errors()]
        except Exception:
            found["fields"] = []  # marshmallow's has no such method
    return found


def _text(error: BaseException) -> str:
    """Return the text of an exception, in whose class the project may have an error too."""
    try:
        return str(error)
    except Exception:
        return "<exception str() failed>"  # as tracebacks have it


def _hidden_import(error: BaseException) -> Exception | None:
    """Return why a package cannot be imported that a library says must be installed, and is; else None."""
    found = re.match(r"`(\w+)` must be installed", _text(error))
    if found:
        try:
            importlib.import_module(found[1])
        except Exception as reason:
            return None if getattr(reason, "name", "") == found[1] else reason
    return None


def _observe(request: Answer) -> Answer:
    """Return the variables without which the project does not start; where it is asked, all of them, and facts."""
    search = Search(request, _root, _attempt)
    result = search.complete()
    needed = search.needed(result)
    error = result["error"] or {"type": "", "text": ""}
    done = {"stage": result["stage"], "error": f"{error['type']}: {error['text']}"[:300] if error["type"] else ""}
    variables = [search.described(result, name, is_required=True) for name in needed]
    told: Answer = {}
    if request.get("all"):
        told = {"written": result.get("written", []), "missing": [error["module"]] if "module" in error else []}
    if request.get("all") and result["settings"]:
        told |= search.attempt(search.given, tells=True)["facts"]
        variables = search.survey(result, needed) or variables
    for one in variables:
        search.add_separator(one)
    log = error.get("log", "")
    return {**done, "variables": variables, "facts": told, "attempts": search.attempts, "log": log}


def main(request: Answer) -> None:
    """Print the answer to a request, in JSON on one line."""
    global _root
    output, sys.stdout = sys.stdout, io.StringIO()
    _root = request["root"].rstrip("/") + "/"
    sys.path[:0] = [folder for folder in request["path"] if folder not in sys.path]
    os.chdir(request["path"][0])
    override(request.get("settings", {}))
    for name in ("django", "django.conf", "django.core.checks", "django.urls"):
        try:
            importlib.import_module(name)
        except ImportError:
            break  # the first attempt says so
    print(json.dumps(_observe(request)), file=output)
