"""Import the settings of a project, and note which environment variables they need. It runs in the project's Python.

It reads a request from its standard input, and prints one line of JSON. Each attempt is a fork of this process, which
has imported Django. An attempt raises what a real start would raise; this process finds the variable that the exception
is about, gives it a text that can be found again (``obs007q``), and tries again, with a number, a URL and so on where
that text is refused. When all stages pass, each variable that was given is taken away once: was it needed? Nothing of
Django or the project is replaced; `os.environ` has another class only. The project may say anything here, so that the
answer is text from outside.

This file runs as a program, so it imports nothing of ours. It runs on each Python that a site may have.
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
from collections.abc import Callable, Iterator
from typing import Any

#: What Python, Django, libraries and the sandbox ask for by themselves.
_NOT_ASKED = re.compile(
    r"PATH|HOME|LANG|LC_\w+|TMPDIR|TZ|PWD|USER|LOGNAME|SHELL|TERM|COLUMNS|LINES|PYTHON\w+|NO_COLOR|FORCE_COLOR|XDG_\w+"
    r"|SSLKEYLOGFILE|(?:HTTPS?|NO|ALL|FTP)_PROXY|\w+_proxy|DJANGO_SETTINGS_MODULE|DJANGO_RUNSERVER_HIDE_WARNING"
    r"|OPENBLAS\w*|OMP_\w+|MKL_\w+|GOTO_\w+|PYDANTIC_\w+|RUN_MAIN|DJANGO_CONFIGURATION"
)
#: Seconds of an attempt, and the most attempts and characters of its answer.
_PATIENCE, _ATTEMPTS, _ANSWER = 30.0, 120, 1 << 22
#: What a variable is given, in this order: {0} makes a text unique.
_LADDER = {
    "text": "obs{0:03d}q",
    "int": "1{0:04d}",
    "bool": "False",
    "url": "https://obs{0:03d}u@obs{0:03d}h.example/1{0:04d}",
    "database": "postgres://obs{0:03d}u:obs{0:03d}w@obs{0:03d}h:1{0:04d}/obs{0:03d}d",
    "redis": "redis://obs{0:03d}h:1{0:04d}/1",
    "list": "obs{0:03d}a,obs{0:03d}b",
    "json": '{{"obs{0:03d}k": "obs{0:03d}v"}}',
    "path": "/nonexistent/obs{0:03d}f",
    "key": "b2JzLW9icy1vYnMtb2JzLW9icy1vYnMtb2JzLW9{0:03d}0=",
    "email": "obs{0:03d}e@obs{0:03d}h.example",
    "truth": "True",
}
#: The first of these, by the type that a library was given, or by how the name ends.
_BY_CAST = {
    **{
        "int": "int",
        "float": "int",
        "bool": "bool",
        "boolean": "bool",
        "list": "list",
        "tuple": "list",
        "json": "json",
    },
    **{"dict": "json", "loads": "json", "db": "database", "db_url": "database", "url": "url", "path": "path"},
    "cache": "redis",
}
_BY_NAME = (
    (r"(DATABASE|DB|POSTGRES\w*)_UR[LI]$", "database"),
    (r"(REDIS|BROKER|CACHE|CELERY|RESULT)\w*UR[LI]$", "redis"),
    (r"(UR[LI]|DSN)$", "url"),
    (r"PORT$|_TIMEOUT$|_SIZE$|_AGE$", "int"),
    (r"(DEBUG|ENABLED?)$|^USE_", "bool"),
    (r"(DIR|FOLDER|ROOT|PATH|FILE)$", "path"),
    (r"EMAIL$", "email"),
)

Answer = dict[str, Any]

_base: Any = type(os.environ)
#: The variables that the project asked for in this attempt: name → its places, default, cast, order.
_asked: dict[str, Answer] = {}
_is_noting = False
_root = ""


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
        about = _asked.setdefault(name, {"places": [], "order": len(_asked)})
        place = (frame.f_code.co_filename, frame.f_lineno)
        if place not in about["places"]:
            about["places"].append(place)
        for one in library:  # the arguments of its functions, by the names that all such libraries use
            about.update(_of_library(one))
        if default is not None:
            about["default"] = True
    finally:
        _is_noting = False


def _of_library(frame: Any) -> Answer:
    """Return the type and whether there is a default, from the arguments of a function that reads a variable."""
    found: Answer = {}
    for key in ("cast", "type", "subcast"):
        if isinstance(frame.f_locals.get(key), type):
            found["cast"] = frame.f_locals[key].__name__
    if frame.f_code.co_name in _BY_CAST:
        found["cast"] = frame.f_code.co_name
    if "default" in frame.f_locals:
        text = repr(frame.f_locals["default"])[:80]
        is_none = re.search(r"notset|undefined|missing|^<(class|marshmallow|environ)|^Ellipsis$|^None$", text, re.I)
        found.update({} if is_none else {"default": True})
    return found


def _is_own(file: str) -> bool:
    return file.startswith(_root) and "/site-packages/" not in file


# An attempt


def _attempt(request: Answer, given: dict[str, str]) -> Answer:
    """Return how a start with some variables ended; it is done by a child, which ends with all its children."""
    reader, writer = os.pipe()
    child = os.fork()
    if not child:
        os.setsid()
        os.close(reader)
        nothing = os.open(os.devnull, os.O_RDWR)
        for number in (0, 1, 2):
            os.dup2(nothing, number)
        with os.fdopen(writer, "w") as out:
            json.dump(_started(request, given), out, default=repr)
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
    return answer


def _received(reader: int) -> bytes:
    data, end = b"", time.monotonic() + _PATIENCE
    while select.select([reader], [], [], max(0.0, end - time.monotonic()))[0]:
        part = os.read(reader, 1 << 16)
        if not part or len(data) > _ANSWER:
            break
        data += part
    return data


def _started(request: Answer, given: dict[str, str]) -> Answer:
    """Start the project: its settings, its applications, Django's checks, and what serves requests."""
    os.environ.update(given)
    os.environ["DJANGO_SETTINGS_MODULE"] = request["module"]
    os.environ.__class__ = Recording
    stage, settings, error = "", Answer(), None
    try:
        for stage, run in _STAGES:
            found = run(request)
            settings = found if stage == "settings" else settings
        stage = "done"
    except BaseException as failure:  # SystemExit too: some settings end the process
        error = _described(failure)
    os.environ.__class__ = _base
    return {"stage": stage, "settings": settings, "error": error, "asked": _asked, "fields": _fields()}


def _settings(_request: Answer) -> Answer:
    if "DJANGO_CONFIGURATION" in os.environ:  # its classes are modules only after this
        importlib.import_module("configurations").setup()
    settings = importlib.import_module("django.conf").settings
    return {name: _plain(getattr(settings, name, None), 0) for name in dir(settings) if settings.is_overridden(name)}


def _setup(_request: Answer) -> None:
    importlib.import_module("django").setup()


def _checks(_request: Answer) -> None:
    importlib.import_module("django.core.checks").run_checks()


def _application(request: Answer) -> None:
    if request["application"]:
        importlib.import_module(request["application"])


_STAGES: tuple[tuple[str, Callable[[Answer], Any]], ...] = (
    ("settings", _settings),
    ("setup", _setup),
    ("checks", _checks),
    ("application", _application),
)


def _plain(value: Any, depth: int) -> Any:
    """Return a setting as JSON has it; texts are cut."""
    if isinstance(value, (bool, int, float)) or value is None:
        return value
    if isinstance(value, (str, os.PathLike)):
        return str(value)[:300]
    if isinstance(value, (list, tuple, set, frozenset)) and depth < 5:
        return [_plain(one, depth + 1) for one in list(value)[:100]]
    if isinstance(value, dict) and depth < 5:
        return {str(key)[:100]: _plain(one, depth + 1) for key, one in list(value.items())[:100]}
    return None


def _described(error: BaseException) -> Answer:
    chain = error.__cause__ or error.__context__
    text = str(error)[:2000] + (f" <- {type(chain).__name__}: {str(chain)[:300]}" if chain else "")
    frames = [[one.filename, one.lineno] for one in traceback.extract_tb(error.__traceback__)][-25:]
    found: Answer = {"type": type(error).__name__, "text": text, "frames": frames}
    if isinstance(error, KeyError) and error.args:
        found["key"] = str(error.args[0])
    if type(error).__name__ == "ValidationError" and hasattr(error, "errors"):
        try:
            found["fields"] = [str(one["loc"][0]) for one in error.errors()]
        except Exception:
            found["fields"] = []  # marshmallow's has no such method
    return found


def _fields() -> dict[str, str]:
    """Return the variables of pydantic-settings' classes, by the names of their fields: it reads them at once."""
    base = getattr(sys.modules.get("pydantic_settings"), "BaseSettings", None)
    found: dict[str, str] = {}
    queue = list(base.__subclasses__()) if base else []
    while queue:
        one = queue.pop()
        queue += one.__subclasses__()
        if one.__module__.startswith(("pydantic_settings", "pydantic.")):
            continue
        for name, field in one.model_fields.items():
            alias = field.validation_alias or field.alias
            names = getattr(alias, "choices", [alias] if alias else [one.model_config.get("env_prefix", "") + name])
            for text in names:
                found[name.lower()] = found[str(text).lower()] = str(text).upper()
    return found


# What an attempt is about


def _observe(request: Answer) -> Answer:
    """Try until all stages pass, or an exception is about nothing that can be given."""
    end = time.monotonic() + request["seconds"]
    given: dict[str, str] = dict(request["given"])
    tried: dict[str, list[str]] = {}
    numbers: dict[str, int] = {}
    attempts, result = 0, Answer()
    while attempts < _ATTEMPTS and time.monotonic() < end:
        result = _attempt(request, given)
        attempts += 1
        if not result["error"]:
            break
        moved = [name for name in _named(result, given) if _give(name, result, given, tried, numbers)]
        if not moved and not any(_give(name, result, given, tried, numbers) for name in _near(result, given)):
            break
    needed = []
    for name in tried:
        if name in request["given"] or time.monotonic() > end:
            continue
        without = _attempt(request, {key: text for key, text in given.items() if key != name})
        attempts += 1
        if without["stage"] != result["stage"] or bool(without["error"]) != bool(result["error"]):
            needed.append(name)
    variables = [
        {
            "name": name,
            "place": _place(result, name),
            "feeds": dict(_traces(result["settings"], given[name], numbers[name])),
        }
        for name in needed
    ]
    error = result["error"] or {"type": "", "text": ""}
    done = {"stage": result["stage"], "error": f"{error['type']}: {error['text']}"[:300] if error["type"] else ""}
    return {**done, "variables": variables, "attempts": attempts}


def _place(result: Answer, name: str) -> str:
    """Return where a variable is read: a file relative to the source, and a line."""
    places: list[Any] = result["asked"].get(name, {}).get("places", [])
    return f"{os.path.relpath(places[0][0], _root)}:{places[0][1]}" if places else ""


def _named(result: Answer, given: dict[str, str]) -> list[str]:
    """Return the variables that an exception names, by themselves, by their texts, or by the settings made of them."""
    error, asked, text = result["error"], result["asked"], result["error"]["text"]
    if "fields" in error:
        return [result["fields"].get(one.lower(), one.upper()) for one in error["fields"]]
    for name, value in given.items():
        if len(value) > 4 and value not in ("False", "True") and (value in text or value.partition(",")[0] in text):
            return [name]
    if error.get("key") in asked:
        return [error["key"]]
    absent = [name for name in asked if name not in given]
    named = [name for name in absent if re.search(rf"(?<![A-Za-z0-9_]){re.escape(name)}(?![A-Za-z0-9_])", text)]
    words = re.findall(r"[A-Z][A-Z0-9_]{3,}", text)  # a setting, whose name a variable's ends with
    return named or [name for name in absent if any(f"_{name}".endswith(f"_{word}") for word in words)]


def _near(result: Answer, given: dict[str, str]) -> list[str]:
    """Return the variables that an exception may be about: read near the line that failed, then those before them.

    One that is not given comes before those that are. Each is taken away later, to see whether it was.
    """
    error, asked = result["error"], result["asked"]
    if error["type"] in ("ModuleNotFoundError", "FileNotFoundError", "Ended"):
        return []
    own = [frame for frame in error["frames"] if _is_own(frame[0])]
    near = [
        (-depth, line - number, name in given, -about["order"], name)
        for depth, (file, line) in enumerate(own)
        for name, about in asked.items()
        for path, number in about["places"]
        if path == file and 0 <= line - number <= 12 and (name in given or "default" not in about)
    ]
    before = sorted(asked, key=lambda name: -int(asked[name]["order"]))
    before = [name for name in before if name in given or "default" not in asked[name]]
    is_own = bool(own) and own[-1] == error["frames"][-1]
    return list(dict.fromkeys([name for *_how, name in sorted(near)] + (before if is_own else [])))


def _give(
    name: str, result: Answer, given: dict[str, str], tried: dict[str, list[str]], numbers: dict[str, int]
) -> bool:
    """Give a variable its first text, or the next; return whether there is one."""
    about = result["asked"].get(name, {})
    first = _BY_CAST.get(str(about.get("cast", "")).lower()) or next(
        (kind for end, kind in _BY_NAME if re.search(end, name)), "text"
    )
    done = tried.setdefault(name, [])
    left = [kind for kind in (first, *_LADDER) if kind not in done]
    text = result["error"]["text"]
    for pattern, wanted in ((r"invalid literal for int|valid integer|not an int", "int"), (r"bool|truth", "bool")):
        if re.search(pattern, text) and wanted in left:
            left.insert(0, wanted)
    kind = left[0] if left else done[0]
    done += left[:1]
    given[name] = _LADDER[kind].format(numbers.setdefault(name, len(numbers) + 1))
    return bool(left)


def _traces(settings: Answer, text: str, number: int) -> Iterator[tuple[str, str]]:
    """Yield the settings that a text is in, and how: as the whole, as a part, or as an element of a list."""
    mark = re.compile(rf"obs{number:03d}[a-z]|(?<!\d)1{number:04d}(?!\d)")

    def walk(value: Any, path: str) -> Iterator[tuple[str, str]]:
        if isinstance(value, dict):
            for key, one in value.items():
                yield from walk(one, f"{path}:{key}" if path else key)
        elif isinstance(value, list):
            if any(isinstance(one, str) and mark.search(one) for one in value):
                yield path, "element"
        elif mark.search(str(value)):
            yield path, "whole" if str(value) == text else "part"

    return walk(settings, "")


def main(text: str) -> str:
    """Return the answer to a request, both in JSON."""
    global _root
    request: Answer = json.loads(text)
    _root = request["root"].rstrip("/") + "/"
    sys.path[:0] = [folder for folder in request["path"] if folder not in sys.path]
    os.chdir(request["path"][0])
    for name in ("django", "django.conf", "django.core.checks", "django.urls"):
        try:
            importlib.import_module(name)
        except ImportError:
            break  # the first attempt says so
    return json.dumps(_observe(request))


if __name__ == "__main__":
    output, sys.stdout = sys.stdout, io.StringIO()
    print(main(sys.stdin.read()), file=output)
