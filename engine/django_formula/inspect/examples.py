"""The values that a project shows for its variables: in examples of .env files, .env files themselves, Dockerfiles."""

import os
import re
from collections.abc import Callable, Iterable, Iterator, Mapping
from pathlib import Path
from typing import NamedTuple

from django_formula.inspect import code, process_files

#: Files with examples of variables, and those with variables of a developer or a container.
_EXAMPLES = re.compile(
    r"\.?(dot)?env[._-](example|sample|template|dist|defaults?)s?|(example|sample|template)s?[._-]env"
    r"|\.?env\.[\w-]+\.(example|sample|template|dist)|[\w-]+\.env\.(example|sample|template|dist)",
    re.IGNORECASE,
)
_OWN = re.compile(r"\.env|\.env[._-](dev\w*|local|docker|compose|web|app|django|prod\w*)|(dev|docker|local|prod)\.env")
_LINE = re.compile(r"^[ \t]*(?:export[ \t]+)?([A-Za-z_]\w*)[ \t]*=[ \t]*(.*?)[ \t]*$", re.MULTILINE)
#: What a Dockerfile sets, in both of its forms.
_ENV = re.compile(r"^ENV[ \t]+(?:(?P<name>\w+)[ \t]+(?P<value>[^=\s]\S*)[ \t]*$|(?P<pairs>\w+=.*))", re.MULTILINE)
_PAIR = re.compile(r"""(\w+)=("[^"]*"|'[^']*'|\S*)""")
#: A URL with a password, and values that have to be replaced.
_LOGIN = re.compile(r"://[^/\s@]*:[^/\s]*@")
_PLACEHOLDER = re.compile(r"[<{\[*]|change.?me|replace|your|xxx|todo|\$|^$", re.IGNORECASE)


class Example(NamedTuple):
    """A value of a variable, and the file that shows it."""

    value: str
    place: str


def find(
    folders: Iterable[Path], is_secret: Callable[[str], bool], declared: Mapping[str, str], place: str
) -> dict[str, Example]:
    """Return the variables of which a project shows a usable value.

    Only the first example of a .env file is taken, and other files for the variables that it does not have.

    Args:
        folders: where such files are searched.
        is_secret: whether a variable of a name may be a secret, which only an example has to show.
        declared: the values that a deployment file declares, before all others; paths are those of its container.
        place: that file.
    """
    paths = [path for folder in dict.fromkeys(folders) for path in sorted(folder.iterdir()) if path.is_file()]
    examples = [path for path in paths if _EXAMPLES.fullmatch(path.name)][:1]
    found = {name: Example(value, path.name) for path in examples for name, value in _pairs(path)}
    others = [path for path in paths if _OWN.fullmatch(path.name)]
    of_images = [path for path in paths if process_files.DOCKERFILE.fullmatch(path.name)]
    for path, pairs in [*((path, _pairs(path)) for path in others), *((path, _of_image(path)) for path in of_images)]:
        for name, value in pairs:
            if not is_secret(name) and not _LOGIN.search(value):
                found.setdefault(name, Example(value, path.name))
    for name, value in declared.items():
        if _is_usable(value) and not is_secret(name) and not _LOGIN.search(value):
            found[name] = Example(value, place)
    return found


def _pairs(path: Path) -> Iterator[tuple[str, str]]:
    """Yield the variables of a .env file that have a usable value."""
    for name, value in _LINE.findall(code.read(path)):
        plain = "" if value.startswith("#") else _unquoted(value)
        if name.endswith("_DSN") and "://" not in plain:
            continue  # a word in place of a URL
        if plain.isprintable() and not _PLACEHOLDER.search(plain):
            yield name, plain


def _of_image(path: Path) -> Iterator[tuple[str, str]]:
    """Yield the variables that a Dockerfile sets, without paths, which are those of its image."""
    for found in _ENV.finditer(re.sub(r"\\\n", " ", code.read(path))):
        pairs = _PAIR.findall(found["pairs"]) if found["pairs"] else [(found["name"], found["value"])]
        for name, value in pairs:
            plain = _unquoted(value)
            if _is_usable(plain):
                yield name, plain


def _is_usable(value: str) -> bool:
    """Whether a value of a container may be one of another host too: paths are not."""
    return value.isprintable() and not _PLACEHOLDER.search(value) and not os.path.isabs(value)


def _unquoted(value: str) -> str:
    """Return the value of a line of a .env file without its quotes, and without a comment after it."""
    quoted = re.match(r"""(["'])(.*?)\1\s*(#.*)?$""", value)
    return quoted[2] if quoted else re.sub(r"\s+#.*", "", value).strip("\"'")
