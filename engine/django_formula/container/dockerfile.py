"""Dockerfiles, ours and those of projects: how they are built, the line that has failed, and what no image may have."""

import contextlib
import fnmatch
import itertools
import json
import os
import re
import threading
from collections.abc import Collection, Iterable, Iterator, Mapping
from pathlib import Path
from typing import NamedTuple

from django_formula.container import registry
from django_formula.container.engine import Engine
from django_formula.host import file as host_file
from django_formula.host.commands import DeploymentError, seconds
from django_formula.site.sites import Site
from django_formula.untrusted.foreign import Foreign

#: A word of an instruction as it is written: in quotes it may have blanks.
WORD = re.compile(r"""(?:[^\s"'\\]|\\.?|"(?:[^"\\]|\\.)*"?|'(?:[^'\\]|\\.)*'?)+""")
#: A word that begins a text in the lines below an instruction: whether tabs may precede its last line, and that line.
_HEREDOC = re.compile(r"""\d*<<(-?)(["']?)([^<"']+)\2""")
#: The beginning of a text in the lines below an instruction, however it is written.
_BEGINNING = re.compile(r"""(?:^|\s)([\d"'\\]*<<(?=[^<\s])\S*)""")
#: What every version of an engine takes for one, and the rest of an instruction in which each finds the same words.
_PLAIN = re.compile(r"""\d*<<-?(["']?)[A-Za-z][A-Za-z0-9]*\1""")
_ALIKE = re.compile(r"""(?:[^\\"'$]|"[^"\\$]*"|'[^']*'|\$(?:\w|\{\w+\}))*""")


class _Instruction(NamedTuple):
    """An instruction of a Dockerfile: the number of its first line, and its text in one line.

    Attributes:
        is_whole: whether each text in the lines below it ends.
    """

    line: int
    text: str
    is_whole: bool = True


def instructions(text: str, *, doubled: bool = True) -> Iterator[_Instruction]:
    """Yield the instructions of a Dockerfile, those over several lines as one line.

    Args:
        doubled: whether two backslashes at the end of a line continue it, as for podman; for Docker they do not.
    """
    lines = enumerate((line.rstrip("\r") for line in text.removeprefix("\ufeff").split("\n")), 1)
    for number, first in lines:
        if _is_empty(first):
            continue
        parts, last = [], first.rstrip(" \t")
        while last.endswith("\\") and (doubled or not last.endswith("\\\\")):
            parts.append(last.removesuffix("\\"))
            last = next((line.rstrip(" \t") for _number, line in lines if not _is_empty(line)), "")
        whole = normal("".join([*parts, last]))
        is_whole = all(_skip_text(lines, tabs, end) for tabs, end in texts(whole))
        yield _Instruction(number, whole, is_whole)


def _skip_text(lines: Iterator[tuple[int, str]], tabs: str, end: str) -> bool:
    """Skip the text below an instruction; return whether it ends."""
    return any((line.lstrip("\t") if tabs else line) == end for _number, line in lines)


def _is_empty(line: str) -> bool:
    return not line.strip() or line.lstrip().startswith("#")


def texts(instruction: str) -> list[tuple[str, str]]:
    """Return how the texts end that an instruction has in the lines below it: whether after tabs, and the last line."""
    verb, _rest = _verb_of(instruction)
    words = WORD.findall(instruction) if verb in ("RUN", "COPY", "ADD") else []
    return [(found[1], found[3]) for word in words if (found := _HEREDOC.fullmatch(word))]


def _is_read_alike(instruction: _Instruction) -> bool:
    """Return whether all engines find the same texts in the lines below an instruction, if any.

    They differ in the words that end one, and find none where they cannot read the words of the instruction.
    """
    verb, rest = _verb_of(instruction.text)
    begun = _BEGINNING.findall(rest) if verb in ("RUN", "COPY", "ADD") else []
    is_plain = all(_PLAIN.fullmatch(word) or word[0] in "\"'" for word in begun)  # no text begins with a quote
    return instruction.is_whole and (not begun or (is_plain and bool(_ALIKE.fullmatch(rest))))


def _readings(text: str) -> Iterator[list[_Instruction]]:
    """Yield the instructions of a Dockerfile as podman and as Docker read it."""
    yield from (list(instructions(text, doubled=doubled)) for doubled in (True, False))


def _options_of(rest: str) -> tuple[list[str], str]:
    """Return the options of an instruction without quotes and backslashes, as engines read them, and what follows."""
    options = []
    while (found := WORD.match(rest)) and found[0].startswith("--"):
        rest = rest[found.end() :].lstrip()
        if found[0] == "--":
            break
        options.append(re.sub(r"[\"'\\]", "", found[0]))
    return options, rest


def _verb_of(instruction: str) -> tuple[str, str]:
    """Return the verb of an instruction in capitals, and what follows; of ONBUILD those of what it has."""
    word, _blank, rest = instruction.partition(" ")
    return _verb_of(rest) if word.upper() == "ONBUILD" else (word.upper(), rest)


def normal(text: str) -> str:
    """Return a text in one line, with one blank between its words."""
    return " ".join(text.split())


#: podman keeps the caches of each site's Dockerfiles here.
CACHES = Path("/var/lib/django-formula/caches")

#: Names in a source that are in no image: they may hold secrets. Containers have the first ones as mounts.
PRIVATE = (".env", ".env.*", ".envs", "*.pem", "*.key")
NEVER = (".git",)
#: The full name of an image of a registry; a stage has a name without a slash.
_IMAGE = re.compile(r"[A-Za-z0-9._-]+(:\d+)?(/[a-z0-9._-]+)*(:[A-Za-z0-9_.-]{1,128})?(@[a-z0-9]+:[0-9a-f]+)?")
_STAGE = re.compile(r"[a-z][a-z0-9_.-]*")
#: Where podman takes an image from a file or a store instead, by a prefix of its name.
_TRANSPORTS = re.compile(r"(containers-storage|dir|docker-archive|docker-daemon|oci|oci-archive|ostree|sif|tarball):")
#: The image by which Docker reads a Dockerfile: that of its makers, and no other.
_SYNTAX = re.compile(r"(docker\.io/)?docker/dockerfile(:[\w.-]+)?(@sha256:[0-9a-f]{64})?")
#: Characters that engines do not take for a blank, and Python does, or that no Dockerfile needs.
_CONTROL = re.compile(r"[\x00-\x08\x0e-\x1f\x7f]")
#: The versions since which engines know a text in the lines below an instruction, and podman confines mounts of RUN.
_TEXTS, _CONFINED = {"podman": (5, 0), "docker": (23, 0)}, (5, 4)
#: The options of a mount of RUN that stay within the build in older versions of podman, by its type.
_MOUNTS = {
    "cache": {"id", "sharing", "ro", "readonly", "rw", "readwrite"},
    "bind": {"source", "src", "ro", "readonly"},
    "secret": {"id", "required"},
    "ssh": {"id", "required"},
    "tmpfs": set[str](),
}
_OF_ALL = {"type", "target", "dst", "destination", "mode", "uid", "gid"}


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
    folder = site.root / f"image-{os.getpid()}-{threading.get_native_id()}"  # units of a release start at once
    host_file.remove_tree(folder)
    folder.mkdir(mode=0o700)
    try:
        dockerfile = folder / "Dockerfile"
        host_file.write(dockerfile, text, durable=False)
        host_file.write(folder / "Dockerfile.dockerignore", ignored, durable=False)
        timeout = seconds(site.config["timeouts"]["build"])
        slice_name = f"django_build_{site.name.replace('-', '_')}.slice" if file else ""
        with registry.login(site) as login:
            variables = {**login, **(_caches(site) if file else {})}
            engine.build(
                dockerfile, context, image, timeout, slice_name=slice_name, labels=labels or {}, variables=variables
            )
    except DeploymentError as error:
        if found := failing(text, error.log):
            error.message = f"{error.message} at line {found.line} of {file or 'its Dockerfile'}: {found.text[:200]}"
        raise
    finally:
        host_file.remove_tree(folder)


def _caches(site: Site) -> dict[str, str]:
    """Return the variables by which a Dockerfile's caches (RUN --mount=type=cache) are those of this site alone."""
    folder = caches(site)
    folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    return {"TMPDIR": str(folder), "BUILDKIT_CACHE_MOUNT_NS": f"django-{site.name}"}


def caches(site: Site) -> Path:
    """Return the folder in which podman keeps the caches of a site's Dockerfiles."""
    return CACHES / site.name


def private_copy(text: str) -> _Instruction | None:
    """Return the first instruction that copies a file which no image may have; None if there is none."""
    return next((one for one in instructions(text) if any(map(_is_private, _copied(one.text)))), None)


def begins_with(text: str) -> list[str]:
    """Return the images that the stages of a Dockerfile begin with, other than its own stages."""
    return list(dict.fromkeys(name for one, name in _all_images(text) if one.text.upper().startswith("FROM ")))


def images(text: str) -> list[str]:
    """Return the images that a Dockerfile uses, also those that it only copies from."""
    return list(dict.fromkeys(name for _one, name in _all_images(text)))


def _all_images(text: str) -> Iterator[tuple[_Instruction, str]]:
    return itertools.chain.from_iterable(map(_images, _readings(text)))


def refuse_foreign(text: str, own: str, others: Collection[str]) -> None:
    """Refuse a Dockerfile whose lines get at what is not the project's: images of other sites, the host's network.

    Args:
        own: the name of the site.
        others: the names of the other sites of this host.

    Raises:
        DeploymentError: one does; the message names the line.
    """
    _refuse_directives(text)
    for reading in _readings(text):
        for one in reading:
            _refuse_ambiguous(one)
            if found := _reaching(one.text):
                raise DeploymentError(
                    f"line {one.line} of the Dockerfile has {found[:200]}, and it may not reach the services of this "
                    "host",
                    hint="remove the option, or load what ADD loads in a RUN: it has a network of its own, and the "
                    "internet by it",
                )
        for one, name in _images(reading):
            if _may_be_of_others(name, own, others):
                raise DeploymentError(
                    f"line {one.line} of the Dockerfile names the image {name[:200]}, which may be that of another "
                    "site",
                    hint="name an image of a registry in full, such as docker.io/library/python:3.13-slim",
                )


def _refuse_ambiguous(one: _Instruction) -> None:
    """Refuse an instruction of which engines may take other lines for its text than we do, or hide them in its words.

    Raises:
        DeploymentError: it is one.
    """
    if not _is_read_alike(one):
        raise DeploymentError(
            f"line {one.line} of the Dockerfile may be read in more than one way: {ascii(one.text)[1:-1][:200]}",
            hint="end a text in the lines below by one word of letters, as in RUN <<EOF, and write its first line "
            "without backslashes, $(…) and quotes that do not end",
        )


def _may_be_of_others(name: str, own: str, others: Collection[str]) -> bool:
    """Return whether a name may mean an image of another site, or one that is not in a registry."""
    if not _IMAGE.fullmatch(name) or _TRANSPORTS.match(name) or re.fullmatch(r"(sha256:)?[0-9a-f]+", name):
        return True
    parts = ("", "-deps", "-file", "-carried")
    repository = re.sub(r"(:[^/]*)?(@.*)?$", "", name).removeprefix("localhost/")
    of_others = {f"{prefix}{other}{part}" for other in others for part in parts for prefix in ("", "django/")}
    allowed = {"django/base", *(f"django/{own}{part}" for part in parts)}
    return repository in of_others or (repository.startswith("django/") and repository not in allowed)


def _refuse_directives(text: str) -> None:
    """Refuse a Dockerfile that is to be read by a program of its own choice, or with other special characters.

    Raises:
        DeploymentError: it is.
    """
    first = next(iter(instructions(text)), _Instruction(0, ""))
    for number, line in enumerate(text.removeprefix("\ufeff").split("\n"), 1):
        found = re.match(r"\s*(?:#|//)\s*(syntax|escape)\s*=\s*(\S*)", line, re.IGNORECASE)
        is_usual = found and (_SYNTAX.fullmatch(found[2]) if found[1].lower() == "syntax" else found[2] == "\\")
        is_data = number == first.line and first.text.startswith("{")
        if (found and not is_usual) or is_data or _CONTROL.search(line):
            shown = ascii(line.strip())[1:-1][:200] if _CONTROL.search(line) else line.strip()[:200]
            raise DeploymentError(
                f"line {number} of the Dockerfile has {shown}, by which an engine may read it in another way",
                hint="remove the line; # syntax=docker/dockerfile:1 is allowed",
            )


def refuse_unsupported(text: str, site: Site, engine: Engine, context: Foreign) -> None:
    """Refuse what the engine of this host cannot read, or does not confine.

    With podman before 5.4, a mount of RUN has any folder of the host where a link in a stage, in the source or in a
    cache, or an id such as ``../..``, leads to it: CVE-2024-1753, CVE-2024-9675, CVE-2024-11218.

    Args:
        context: the folder that the Dockerfile copies from.

    Raises:
        DeploymentError: it has such a line, which the message names.
    """
    known = list(itertools.chain.from_iterable(_readings(text)))
    with_text = next((one for one in known if texts(one.text)), None)
    open_mount = _open_mount(known, context, caches(site))
    if not with_text and not open_mount:
        return
    version = engine.version()
    is_by_syntax = engine.name == "docker" and re.match(r"#\s*syntax\s*=", text.removeprefix("\ufeff"), re.IGNORECASE)
    if with_text and version < _TEXTS[engine.name] and not is_by_syntax:
        raise DeploymentError(
            f"line {with_text.line} of the Dockerfile has a text in the lines below it, which {engine.name} of this "
            f"host does not know: {with_text.text[:200]}",
            hint="write it in one line, with && between its commands; Docker knows it where the Dockerfile begins with "
            "# syntax=docker/dockerfile:1",
        )
    if open_mount and engine.name == "podman" and version < _CONFINED:
        one, mount = open_mount
        raise DeploymentError(
            f"line {one.line} of the Dockerfile has --mount={mount[:200]}, by which podman before 5.4 may give it any "
            "file of this host",
            hint="give each cache an id without a slash (type=cache,id=pip,target=…), copy by COPY --from instead of "
            "from=, set container:engine to docker, or upgrade to Debian 13",
        )


def _open_mount(known: Iterable[_Instruction], context: Foreign, kept: Path) -> tuple[_Instruction, str] | None:
    """Return the first mount of a RUN that may lead out of the build where podman follows links, with its instruction.

    Args:
        kept: the folder in which podman keeps the caches.
    """
    caches: set[tuple[str, ...]] = set()
    for one in known:
        for mount in _mounts(one.text):
            pairs = [part.partition("=")[::2] for part in mount.split(",")]
            values = dict(pairs)
            kind = values.get("type", "")
            is_known = pairs[0][0] == "type" and len(values) == len(pairs) and kind in _MOUNTS and "$" not in mount
            if not is_known or {*values} - _OF_ALL - _MOUNTS[kind]:
                return one, mount
            target = next((values[key] for key in ("target", "dst", "destination") if key in values), "")
            path = _parts(values.get("id") or target)
            within = [parts for parts in caches if parts != path and path[: len(parts)] == parts[: len(path)]]
            folders = [Foreign(folder) for folder in (kept, *kept.glob("*"))]
            if kind == "cache" and (not path or within or not all(_has_no_link(folder, path) for folder in folders)):
                return one, mount
            caches |= {path} if kind == "cache" else set()
            sources = [values[key] for key in ("source", "src") if key in values]
            if not all(_has_no_link(context, _parts(source)) for source in sources):
                return one, mount
    return None


def _parts(path: str) -> tuple[str, ...]:
    return tuple(part for part in path.split("/") if part not in ("", "."))


def _has_no_link(folder: Foreign, parts: tuple[str, ...]) -> bool:
    """Return whether a path below a folder stays in it, and none of its parts is a link."""
    paths = ("/".join(parts[: number + 1]) for number in range(len(parts)))
    return ".." not in parts and not any((folder / path).is_link() for path in paths)


def _mounts(instruction: str) -> list[str]:
    """Return the mounts of a RUN, as it has them after ``--mount=``."""
    verb, rest = _verb_of(instruction)
    pairs = (option.partition("=") for option in (_options_of(rest)[0] if verb == "RUN" else ()))
    return [value for name, _is, value in pairs if name.lower() == "--mount"]


def _reaching(instruction: str) -> str:
    """Return by what a line would leave the network or the confinement of a build; empty for one that does not."""
    verb, rest = _verb_of(instruction)
    if verb == "RUN":
        for option in _options_of(rest)[0]:
            name, _is, value = option.lower().partition("=")
            if value not in {"--network": ("none", "default"), "--security": ("sandbox",)}.get(name, (value,)):
                return option
    if verb == "ADD":  # an engine itself loads what has an address
        for path in _copied(instruction):
            if re.search(r"[:$\\]", path) and not path.startswith("<<"):
                return f"ADD {path}"
    return ""


def _images(known: Iterable[_Instruction]) -> Iterator[tuple[_Instruction, str]]:
    """Yield each instruction that uses an image, with the name of that, which may have variables; no stages of its own.

    Variables with a value before the first FROM are replaced in FROM; other instructions can have none there.
    """
    values: dict[str, str] = {}
    stages = {"scratch", ""}
    number = 0
    for one in known:
        verb, rest = _verb_of(one.text)
        options, rest = _options_of(rest)
        named = []
        if verb == "ARG" and not number:
            for name, is_set, value in (part.partition("=") for part in rest.split()):
                values[name] = _expanded(value.strip("\"'"), values) if is_set else values.get(name, "")
        elif verb == "FROM":
            words = rest.split()
            if len(words) not in (1, 3):  # what no engine reads as FROM, such as a line of Python in a text
                continue
            named = [_expanded(words[0].strip("\"'"), values)]
        elif verb in ("COPY", "ADD", "RUN"):
            mounts = [part.partition("=") for mount in _mounts(one.text) for part in mount.split(",")]
            named = [option.partition("=")[2] for option in options if option.lower().startswith("--from=")]
            named += [value for name, _is, value in mounts if name.strip().lower() == "from"]
        yield from ((one, name) for name in named if name.lower() not in stages)
        if verb == "FROM":
            stages.add(str(number))
            if len(words) == 3 and _STAGE.fullmatch(words[2].lower()):
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


def failing(text: str, log: str) -> _Instruction | None:
    """Return the instruction whose failure an engine reports; None if it names none.

    Args:
        log: what the engine has printed.
    """
    known = list(instructions(text))
    if numbers := re.findall(r"^Dockerfile:(\d+)$", log, re.MULTILINE):
        return next((one for one in reversed(known) if one.line <= int(numbers[-1])), None)
    ended = re.findall(r"^#(\d+) CANCELED", log, re.MULTILINE)
    started = re.findall(rf"^#{ended[-1]} \[[^\]]*\] (.+)$", log, re.MULTILINE) if ended else []
    reported = normal("\n".join([log, *(f"] {line}:" for line in started)]))
    named = [one for one in known if f'STEP "{one.text}"' in reported or f"] {one.text}:" in reported]
    return named[-1] if named else None


def _copied(instruction: str) -> list[str]:
    """Return the paths of the context that an instruction copies; none for one that copies nothing of it."""
    verb, rest = _verb_of(instruction)
    options, rest = _options_of(rest)
    if verb not in ("COPY", "ADD") or any(one.lower().startswith("--from=") for one in options):
        return []
    if rest.startswith("["):
        with contextlib.suppress(ValueError):
            return [str(one) for one in json.loads(rest)][:-1]
    return [re.sub(r"[\"']", "", word) for word in WORD.findall(rest)][:-1]


def _is_private(path: str) -> bool:
    return any(fnmatch.fnmatch(part, one) for part in path.split("/") for one in (*PRIVATE, *NEVER))
