"""Dockerfiles, ours and those of projects: how they are built, the line that has failed, and what no image may have."""

import fnmatch
import json
import os
import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import NamedTuple

import django_container_registry
import django_host_file
from django_container_engine import Engine
from django_host_command import DeploymentError, seconds
from django_site import Site

#: Names in a source that are in no image: they may hold secrets. Containers have the first ones as mounts.
PRIVATE = (".env", ".env.*", ".envs", "*.pem", "*.key")
NEVER = (".git",)
#: The beginning of a text in lines of an instruction, and its last line.
_HEREDOC = re.compile(r"<<-?\s*([\"']?)(\w+)\1")


class Instruction(NamedTuple):
    """An instruction of a Dockerfile: the number of its first line, and its text in one line."""

    line: int
    text: str


def build(
    site: Site,
    engine: Engine,
    text: str,
    context: Path,
    image: str,
    *,
    ignored: str,
    file: str = "",
    is_foreign: bool = False,
    labels: Mapping[str, str] | None = None,
) -> None:
    """Build an image from a Dockerfile.

    Args:
        text: the Dockerfile.
        context: the folder that it copies from.
        ignored: what it does not get of that folder, as .dockerignore has it.
        file: where the source has it, if it is the project's own.
        is_foreign: whether it begins with an image that the project has made, whose ONBUILD lines run.
        labels: labels of the image, over those of the Dockerfile.

    Raises:
        DeploymentError: a line of it fails, or it takes too long.
    """
    folder = site.root / f"image-{os.getpid()}"
    django_host_file.remove_tree(folder)
    folder.mkdir(mode=0o700)
    try:
        dockerfile = folder / "Dockerfile"
        django_host_file.write(dockerfile, text, durable=False)
        django_host_file.write(folder / "Dockerfile.dockerignore", ignored, durable=False)
        timeout = seconds(site.config["timeouts"]["build"])
        slice_name = f"django_build_{site.name.replace('-', '_')}.slice" if file or is_foreign else ""
        with django_container_registry.login(site) as variables:
            engine.build(
                dockerfile, context, image, timeout, slice_name=slice_name, labels=labels or {}, variables=variables
            )
    except DeploymentError as error:
        if found := failing(text, error.log):
            error.message = f"{error.message} at line {found.line} of {file or 'its Dockerfile'}: {found.text[:200]}"
        raise
    finally:
        django_host_file.remove_tree(folder)


def instructions(text: str) -> Iterator[Instruction]:
    """Yield the instructions of a Dockerfile, those over several lines as one line."""
    lines = enumerate(text.splitlines(), 1)
    for number, first in lines:
        if not first.strip() or first.lstrip().startswith("#"):
            continue
        parts, last = [], first.rstrip()
        while last.endswith("\\"):
            parts.append(last.removesuffix("\\"))
            last = next((line.rstrip() for _number, line in lines if not line.lstrip().startswith("#")), "")
        whole = _normal(" ".join([*parts, last]))
        for _quote, end in _HEREDOC.findall(whole) if whole.upper().startswith(("RUN ", "COPY ", "ADD ")) else ():
            next((line for _number, line in lines if line.strip() == end), None)
        yield Instruction(number, whole)


def private_copy(text: str) -> Instruction | None:
    """Return the first instruction that copies a file which no image may have; None if there is none."""
    return next((one for one in instructions(text) if any(map(_is_private, _copied(one.text)))), None)


def failing(text: str, log: str) -> Instruction | None:
    """Return the instruction whose failure an engine reports; None if it names none.

    Args:
        log: what the engine has printed.
    """
    known = list(instructions(text))
    if numbers := re.findall(r"^Dockerfile:(\d+)$", log, re.MULTILINE):
        return next((one for one in reversed(known) if one.line <= int(numbers[-1])), None)
    ended = re.findall(r"^#(\d+) CANCELED", log, re.MULTILINE)
    started = re.findall(rf"^#{ended[-1]} \[[^\]]*\] (.+)$", log, re.MULTILINE) if ended else []
    reported = _normal("\n".join([log, *(f"] {line}:" for line in started)]))
    named = [one for one in known if f'STEP "{one.text}"' in reported or f"] {one.text}:" in reported]
    return named[-1] if named else None


def _copied(instruction: str) -> list[str]:
    """Return the paths of the context that an instruction copies; none for one that copies nothing of it."""
    word, _blank, rest = instruction.partition(" ")
    if word.upper() not in ("COPY", "ADD"):
        return []
    words = rest.split()
    options = [one for one in words if one.startswith("--")]
    if any(one.startswith("--from=") for one in options):
        return []
    rest = rest[rest.index(options[-1]) + len(options[-1]) :].strip() if options else rest
    if rest.startswith("["):
        try:
            return [str(one) for one in json.loads(rest)][:-1]
        except ValueError:
            return []
    return rest.split()[:-1]


def _is_private(path: str) -> bool:
    return any(fnmatch.fnmatch(part, one) for part in path.split("/") for one in (*PRIVATE, *NEVER))


def _normal(text: str) -> str:
    return " ".join(text.split())
