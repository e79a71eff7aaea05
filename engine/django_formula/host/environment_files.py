"""Files of environment variables, as systemd, sh and python-dotenv read them."""

import re
from collections.abc import Mapping

from django_formula.host.commands import DeploymentError


def environment_file(variables: Mapping[str, str]) -> str:
    """Return variables as a file that systemd's EnvironmentFile and ``sh`` both read, byte for byte."""
    lines = (f'{name}="{_escape(value)}"\n' for name, value in sorted(variables.items()))
    return "".join(lines)


_LINE = re.compile(
    r"""^[ \t]*(?P<name>[A-Za-z_][A-Za-z0-9_]*)[ \t]*=
    (?P<quoted>(?:[ \t]*(?:'[^']*'|"(?:[^"\\]|\\.)*"))*)
    [ \t]*(?P<plain>(?:\\.|[^\\\n])*?)[ \t]*$""",
    re.DOTALL | re.MULTILINE | re.VERBOSE,
)


def read_environment(text: str) -> dict[str, str]:
    """Return the variables of a file that systemd reads as an EnvironmentFile."""
    return {line["name"]: _unquoted(line["quoted"]) + _unescaped(line["plain"]) for line in _LINE.finditer(text)}


def _unquoted(text: str) -> str:
    parts = re.findall(r"""'([^']*)'|"((?:[^"\\]|\\.)*)\"""", text, re.DOTALL)
    return "".join(single + _unescaped(double, '"\\`$\n') for single, double in parts)


def _unescaped(text: str, escaped: str = "") -> str:
    """Remove backslashes, or only those before certain letters; one at the end of a line joins lines."""

    def plain(found: re.Match[str]) -> str:
        letter = found[1]
        return found[0] if escaped and letter not in escaped else letter.replace("\n", "")

    return re.sub(r"\\(.)", plain, text, flags=re.DOTALL)


def _escape(value: str) -> str:
    return re.sub(r'([\\"$`])', r"\\\1", value)


def dotenv_file(variables: Mapping[str, str]) -> str:
    """Return a .env file for python-dotenv; django-environ and python-decouple read it except for multi-line values.

    Raises:
        DeploymentError: a value cannot be written for python-dotenv.
    """
    return "".join(f"{name}={_dotenv(name, value)}\n" for name, value in sorted(variables.items()))


def _dotenv(name: str, value: str) -> str:
    """Return a value for a .env file, unescaped where possible, since each reader has its own escapes."""
    if re.search(r"\$\{[^}]*\}", value):
        raise DeploymentError(f"{name} cannot be written to a .env file: python-dotenv expands ${{…}} there")
    if not re.search(r"['\\\n]", value):
        return value if re.fullmatch(r"[A-Za-z0-9_./:@%+,=-]*", value) else f"'{value}'"
    if value == value.strip() and not re.search(r"^['\"]|\s#|\n", value):
        return value
    if value.endswith("\\"):
        raise DeploymentError(f"{name} cannot be written to a .env file: it ends with a backslash in quotes")
    return '"' + re.sub(r'([\\"])', r"\\\1", value) + '"'
