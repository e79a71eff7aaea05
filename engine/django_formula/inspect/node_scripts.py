"""Scripts of a package.json that are written for Windows, and what they are for the shell of a release."""

import re
import shlex
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

#: A script that another one runs, by the programs that do so.
_CALLED = re.compile(r"\b(?:npm run(?:-script)?|(?:yarn|pnpm|bun)(?: run)?) ([\w:.-]+)")
#: Scripts that run when packages are installed.
_OF_INSTALLATION = ("preinstall", "install", "postinstall", "prepare")
_BEGIN = r"(?P<begin>^|&&|\|\||;)\s*"
#: A variable as the shell of Windows sets it, and a program in a folder.
_SET = re.compile(rf"{_BEGIN}set\s+(?P<name>\w+)=(?P<value>[^&|;]*?)(?=\s*(?:&&|\|\||;|$))", re.IGNORECASE)
_PLAIN = re.compile(r"[\w=./:,@+ -]*")
_PATH = re.compile(rf"{_BEGIN}[\w.@-]+(\\[\w.@-]+)+")
#: What only that shell has.
_ONLY = re.compile(
    r"\b(?:xcopy|robocopy|powershell)\b|\b(?:rmdir|rd|del|copy|move) /\w|[\w\\/-]+\.(?:bat|cmd|ps1)\b", re.I
)


def run(scripts: Mapping[str, Any], named: Sequence[str]) -> Iterator[str]:
    """Yield the names of the scripts that run when packages are installed, and then some scripts.

    Args:
        named: the names of these.
    """
    waiting, seen = [*_OF_INSTALLATION, *named], set[str]()
    while waiting:
        name = waiting.pop(0)
        if name in seen or not isinstance(scripts.get(name), str):
            continue
        seen.add(name)
        yield name
        waiting += [f"pre{name}", f"post{name}", *_CALLED.findall(scripts[name])]


def for_shell(script: str) -> str:
    """Return a script as the shell of a release understands it.

    Example: ``for_shell("SET A=1 && vite build") == "export A=1 && vite build"``
    """
    text = script.replace("\\", "/") if _PATH.search(script) else script
    return _SET.sub(_exported, text).strip()


def _exported(found: re.Match[str]) -> str:
    value = found["value"]
    quoted = f'"{value}"' if " " in value and _PLAIN.fullmatch(value) else shlex.quote(value)
    return f"{found['begin']} export {found['name']}={quoted}"


def only_of_windows(script: str) -> str:
    """Return what a script has that no shell of a release understands; empty where there is none."""
    found = _ONLY.search(script)
    return found[0] if found else ""
