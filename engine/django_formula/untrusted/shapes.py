"""Check the shape of data from outside: answers of a project's processes, files that may be damaged.

A shape is a type; `[shape]`, a list of such values; `{str: shape}`, an object with any names; `{"name": shape,
"other?": …}`, an object with these names, of which those with a question mark may be missing; or a tuple of shapes.
"""

import json
import re
import types
from collections.abc import Collection, Mapping
from typing import Any

from django_formula.host.commands import DeploymentError

#: A NUL as JSON escapes it, not an escaped backslash followed by u0000.
_NUL = re.compile(r"(?<!\\)(?:\\\\)*\\u0000")


def fits(value: Any, shape: Any) -> bool:
    """Return whether a value has a shape; a bool is not a number, and None has the shape `types.NoneType`."""
    if shape is Any:
        return True
    if isinstance(shape, type):
        if shape not in (int, float):
            return isinstance(value, shape)
        kinds = (int, float) if shape is float else int
        return isinstance(value, kinds) and not isinstance(value, bool) and abs(value) < 1 << 63  # no NaN either
    if isinstance(shape, dict):
        return isinstance(value, dict) and _fits_object(value, shape)
    if isinstance(shape, list):
        return isinstance(value, list) and _all_fit(value, shape[0])
    return any(fits(value, one) for one in shape)


def _all_fit(values: Collection[Any], shape: Any) -> bool:
    if shape is not Any and isinstance(shape, type) and shape not in (int, float):  # without a call for each
        return all(isinstance(one, shape) for one in values)
    return all(fits(one, shape) for one in values)


def _fits_object(value: dict[str, Any], shape: dict[Any, Any]) -> bool:
    for name, one in shape.items():
        if name is str:
            if not _all_fit(value.values(), one):
                return False
        elif name in value:
            if not fits(value[name], one):
                return False
        elif not name.endswith("?") or (name[:-1] in value and not fits(value[name[:-1]], one)):
            return False
    return True


#: A text or None.
MAYBE = (str, types.NoneType)


def parse(text: str, shape: Any, *, doing: str, log: str = "") -> Any:
    """Return the value in a JSON text that a process printed.

    An object whose shape has names is returned with only these.

    Args:
        doing: what the process does; the error begins with it.
        log: its output, for the error.

    Raises:
        DeploymentError: it is not JSON, has another shape, or has texts with NUL or half a surrogate pair.
    """
    try:
        value = json.loads(text)
        value = _only(value, shape) if isinstance(shape, Mapping) and str not in shape else value
        plain = json.dumps(value, ensure_ascii=False)
        plain.encode(errors="surrogateescape")
        usable = not _NUL.search(plain) and fits(value, shape)
    except (ValueError, TypeError, RecursionError):
        usable = False
    if not usable:
        raise DeploymentError(f"{doing}: it ended without a usable answer", log=log[-2000:])
    return value


def _only(value: Any, shape: Mapping[str, Any]) -> Any:
    """Return an object without names that its shape does not have, so that they are not recorded."""
    names = {name.removesuffix("?") for name in shape}
    return {name: one for name, one in value.items() if name in names} if isinstance(value, dict) else value


# Answers of the project's processes, and what releases record of them

#: The databases of a project, and the migrations of each, by alias.
DATABASES = {str: {"engine": str, "name": str, "host?": str, "port?": str}}
MIGRATIONS = {str: {"applied": [str], "pending": [str]}}
_OPERATION = {
    **dict.fromkeys(("operation", "model", "field", "class", "why", "way"), str),
    **dict.fromkeys(("lock?", "sql?", "default?"), MAYBE),
    "reversible?": bool,
}
#: Migrations with their operations, by alias.
SCHEMA = {str: [{"name": str, "class": str, "reversible": bool, "operations": [_OPERATION]}]}
#: The Celery app of each worker that has one.
CELERY = {
    str: {
        **dict.fromkeys(("broker", "place"), str),
        **{name: [str] for name in ("queues", "tasks")},
        "no_results?": str,
        **dict.fromkeys(("uses_variable", "acks_late", "rejects_lost", "waits_when_idle"), bool),
        **dict.fromkeys(("visibility_timeout", "time_limit"), (float, types.NoneType)),
        "schedule": {str: str},
    }
}
#: What fails without a sign, by the start of Django: the setting by which a worker gets no tasks, what sends no mail,
#: where sessions are lost, static files that templates name, with the place, and the folders with those.
FAULTS = {
    **{"at_once?": {str: str}, "mail?": str, "sessions?": str},
    **{"static?": [{"name": str, "place": str, "folder?": str}], "folders?": ([str], types.NoneType)},
}
#: The answer of the program that starts Django.
START = {
    **dict.fromkeys(("django", "settings_module", "static_url", "static_root", "media_url", "media_root"), str),
    "python?": str,
    "expected_settings_module": MAYBE,
    "debug": bool,
    "allowed_hosts": [str],
    "cookies?": {str: (str, bool, int, float, types.NoneType)},
    "https?": {"redirect": bool, "header": MAYBE},
    "trusted_origins?": [str],
    "script_name?": MAYBE,
    "largest_body?": (int, types.NoneType),
    "timeouts?": {str: float},
    "signed_for?": (float, types.NoneType),
    "former_keys?": int,
    "empty_former_key?": bool,
    "databases": DATABASES,
    "own_files?": {str: str},
    "unready?": [str],
    "faults?": FAULTS,
    "celery?": CELERY,
    "migrations": MIGRATIONS,
    "collected?": (int, types.NoneType),
    "static_code?": [str],
    "static_storage?": {"class": str, "manifest": MAYBE, "elsewhere": bool},
    "schema?": SCHEMA,
    "checks?": [str],
    "cache_tables?": [str],
}
#: What a release records of the image of its containers.
CONTAINER = {"engine": str, "image": str, "base": str, "mounts": [str], "file?": str, "pulled?": str}
#: What gave way in a build of a virtualenv: pins with their old and new version, the day that bounds what has none, and
#: that of the tools of builds.
RELAXED = {"versions": {str: [str]}, "until": str, "tools": {str: str}}
#: What a release records of its source and its start, as far as it has got.
FACTS = {
    **dict.fromkeys(("commit?", "folder?", "settings_module?", "application?"), str),
    "python_path?": [str],
    **{f"{name.removesuffix('?')}?": shape for name, shape in START.items()},
}
