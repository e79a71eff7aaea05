"""What a Dockerfile copies of a front end, built in a stage of its own, to a folder that the settings refer to."""

import os
import re
from collections.abc import Collection, Iterator
from pathlib import Path, PurePosixPath

from django_formula.inspect import code, process_files
from django_formula.inspect import project as inspect_project

_NAME = re.compile(r"(?i)([\w-]+\.)?dockerfile([._-][\w.-]+)?")
_STAGE = re.compile(r"^FROM\s+\S+(?:\s+AS\s+(\S+))?", re.MULTILINE | re.IGNORECASE)
_COPY = re.compile(r"^(?:COPY|ADD)\s+((?:--\S+\s+)*)(\S+)\s+(\S+)\s*$", re.MULTILINE | re.IGNORECASE)
_WORKDIR = re.compile(r"^WORKDIR\s+(\S+)", re.MULTILINE | re.IGNORECASE)


def placed(tree: Path, project: str, folder: Path, missing: Collection[Path]) -> tuple[str, str]:
    """Return the folder that a front end is built into, below its own, and the place for it that the settings mean.

    Args:
        project: the folder of manage.py.
        folder: that of package.json, relative to the source.
        missing: folders that the settings refer to and the source lacks, relative to it.

    Returns:
        Both relative, the place to the source; empty texts where no Dockerfile copies it to such a place.
    """
    for path in sorted(inspect_project.walk(tree, None, depth=3)):
        if _NAME.fullmatch(path.name) and process_files.is_for_live(path.relative_to(tree)):
            for built, target in _copies(code.read(path), folder):
                place = next(filter(None, (_place(one, project, target) for one in missing)), "")
                if place and os.path.normpath(folder / built) != place:
                    return built, place
    return "", ""


def _copies(text: str, folder: Path) -> Iterator[tuple[str, PurePosixPath]]:
    """Yield what a Dockerfile copies of the stage of a front end: the built folder below its own, and the target."""
    starts = [*_STAGE.finditer(text)]
    ends = [*(one.start() for one in starts[1:]), len(text)]
    stages = {one[1]: text[one.start() : end] for one, end in zip(starts, ends, strict=False) if one[1]}
    for options, source, target in _COPY.findall(text):
        stage = re.search(r"--from=(\S+)", options)
        inside = stages.get(stage[1], "") if stage else ""
        for base in _bases(inside, folder):
            if PurePosixPath(source).is_relative_to(base) and PurePosixPath(source) != base:
                yield str(PurePosixPath(source).relative_to(base)), PurePosixPath(target)


def _bases(stage: str, folder: Path) -> Iterator[PurePosixPath]:
    """Yield the folders of a stage that it copies a front end to."""
    work = next(iter(_WORKDIR.findall(stage)), "/")
    for _options, source, target in _COPY.findall(stage):
        path = Path(os.path.normpath(source.lstrip("/")))
        if path == folder:
            yield PurePosixPath(os.path.normpath(os.path.join(work, target)))
        elif str(path) == ".":
            yield PurePosixPath(os.path.normpath(os.path.join(work, target, folder)))
        elif path.parent == folder and path.name.startswith("package"):
            yield PurePosixPath(os.path.normpath(os.path.join(work, target)))


def _place(missing: Path, project: str, target: PurePosixPath) -> str:
    """Return the folder of the source, one that is missing or above it, that a target in an image stands for."""
    for place in (missing, *missing.parents):
        own = place.relative_to(project) if place.is_relative_to(project) else place
        names = own.parts or ("",)
        if len(place.parts) and place != Path(project) and target.parts[-len(names) :] == names:
            return str(place)
    return ""
