"""Dockerfiles, ours and those of projects: how they are built, the line that has failed, and what no image may have."""

import fnmatch
import itertools
import json
import os
import re
from collections.abc import Collection, Iterator, Mapping
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
    labels: Mapping[str, str] | None = None,
) -> None:
    """Build an image from a Dockerfile.

    Args:
        text: the Dockerfile.
        context: the folder that it copies from.
        ignored: what it does not get of that folder, as .dockerignore has it.
        file: where the source has it, if it is the project's own.
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
        slice_name = f"django_build_{site.name.replace('-', '_')}.slice" if file else ""
        with django_container_registry.login(site) as login:
            variables = {**login, **(_caches(site) if file else {})}
            engine.build(
                dockerfile, context, image, timeout, slice_name=slice_name, labels=labels or {}, variables=variables
            )
    except DeploymentError as error:
        if found := failing(text, error.log):
            error.message = f"{error.message} at line {found.line} of {file or 'its Dockerfile'}: {found.text[:200]}"
        raise
    finally:
        django_host_file.remove_tree(folder)


def _caches(site: Site) -> dict[str, str]:
    """Return the variables by which a Dockerfile's caches (RUN --mount=type=cache) are those of this site alone."""
    folder = caches(site)
    folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    return {"TMPDIR": str(folder), "BUILDKIT_CACHE_MOUNT_NS": f"django-{site.name}"}


def caches(site: Site) -> Path:
    """Return the folder in which podman keeps the caches of a site's Dockerfiles."""
    return Path("/var/lib/django-formula/caches") / site.name


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


def begins_with(text: str) -> list[str]:
    """Return the images that the stages of a Dockerfile begin with, other than its own stages."""
    return [name for one, name in _images(text) if one.text.upper().startswith("FROM ")]


def refuse_foreign(text: str, own: str, others: Collection[str]) -> None:
    """Refuse a Dockerfile whose lines get at what is not the project's: images of other sites, the host's network.

    Args:
        own: the name of the site.
        others: the names of the other sites of this host.

    Raises:
        DeploymentError: one does; the message names the line.
    """
    for one in instructions(text):
        if found := _reaching(one.text):
            raise DeploymentError(
                f"line {one.line} of the Dockerfile has {found}, and it may not reach the services of this host",
                hint="remove that option: a line has a network of its own, and the internet by it",
            )
    parts = ("", "-deps", "-file", "-carried")
    for one, name in _images(text):
        repository = re.sub(r"(:[^/]*)?(@.*)?$", "", name).removeprefix("localhost/")
        is_id = re.fullmatch(r"(sha256:)?[0-9a-f]+", name)
        of_others = {f"{prefix}{other}{part}" for other in others for part in parts for prefix in ("", "django/")}
        is_ours = repository.startswith("django/") and repository not in {
            "django/base",
            *(f"django/{own}{part}" for part in parts),
        }
        if is_id or "$" in name or is_ours or repository in of_others:
            raise DeploymentError(
                f"line {one.line} of the Dockerfile names the image {name[:200]}, which may be that of another site",
                hint="name an image of a registry in full, such as docker.io/library/python:3.13-slim",
            )


def _reaching(instruction: str) -> str:
    """Return the option by which a line would leave the network or the confinement of a build; empty without one."""
    words = instruction.split()
    words = words[1:] if words[0].upper() == "ONBUILD" else words
    if words[:1] and words[0].upper() == "RUN":
        for option in itertools.takewhile(lambda word: word.startswith("--"), words[1:]):
            name, _is, value = option.replace('"', "").replace("'", "").lower().partition("=")
            if value not in {"--network": ("none", "default"), "--security": ("sandbox",)}.get(name, (value,)):
                return option
    return ""


def _images(text: str) -> Iterator[tuple[Instruction, str]]:
    """Yield each instruction that uses an image, with the name of that, which may have variables; no stages of its own.

    Variables with a value in the Dockerfile are replaced.
    """
    values: dict[str, str] = {}
    stages = {"scratch", ""}
    number = 0
    for one in instructions(text):
        word, _blank, rest = one.text.partition(" ")
        word = word.upper()
        if word == "ONBUILD":
            word, _blank, rest = rest.partition(" ")
            word = word.upper()
        if word == "ARG":
            for name, is_set, value in (part.partition("=") for part in rest.split()):
                values[name] = value.strip("\"'") if is_set else values.get(name, "")
        named = []
        if word == "FROM":
            words = [part for part in rest.split() if not part.startswith("--")]
            named = words[:1]
        elif word in ("COPY", "ADD", "RUN"):
            named = re.findall(r"(?:^|\s)--from=(\S+)", rest) if word != "RUN" else []
            named += [
                value
                for mount in re.findall(r"(?:^|\s)--mount=(\S+)", rest)
                for key, _is, value in (part.partition("=") for part in mount.strip("\"'").split(","))
                if key.strip("\"'").lower() == "from"
            ]
        for name in named:
            found = _expanded(name.strip("\"'"), values)
            if found.lower() not in stages and not (word != "FROM" and found.isdigit()):
                yield one, found
        if word == "FROM":
            stages.add(str(number))
            if len(words) > 2 and words[1].upper() == "AS":
                stages.add(words[2].lower())
            number += 1


def _expanded(name: str, values: Mapping[str, str]) -> str:
    """Return a name with the values of its variables, or their defaults; one that has neither stays."""

    def value(found: re.Match[str]) -> str:
        key, sign, default = found[1] or found[2], found[3] or "", found[4] or ""
        known = values.get(key, "")
        if sign == ":+":
            return default if known else ""
        return known or default or (found[0] if key not in values else "")

    return re.sub(r"\$(?:(\w+)|\{(\w+)(?:(:[-+])([^}]*))?\})", value, name)


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
