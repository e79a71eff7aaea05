"""What a project answers that is asked for its variables, as its process prints it."""

from typing import Any

#: Jinja, YAML, control characters and a long line.
LIE = "{{ salt['cmd.run']('id') }}: [x]\x1b[31m\n  - y\u202e" + 400 * "z"


def answer(*variables: dict[str, Any], **more: Any) -> dict[str, Any]:
    return {"stage": "done", "error": "", "attempts": 3, "variables": list(variables), "facts": {}, **more}


def variable(name: str, feeds: dict[str, str] | None = None, **more: Any) -> dict[str, Any]:
    told = {"name": name, "place": "blog/settings.py:7", "default": "", "kind": "text", "feeds": feeds or {}}
    return {**told, "required": True, "together": False, **more}
