"""The Dockerfiles of a project: packages of Debian in its own images, and front ends that a stage of theirs builds."""

import os
import re
from collections.abc import Collection, Iterator
from pathlib import Path, PurePosixPath

from django_formula.host import packages
from django_formula.inspect import code, process_files
from django_formula.inspect import project as inspect_project
from django_formula.inspect.report import Report
from django_formula.knowledge.rows import rows

#: How many Dockerfiles of a project are read.
_MOST = 20
_STAGE = re.compile(r"^FROM\s+(?:--\S+\s+)*(\S+)(?:\s+AS\s+(\S+))?", re.MULTILINE | re.IGNORECASE)
_COPY = re.compile(r"^(?:COPY|ADD)\s+((?:--\S+\s+)*)(\S+)\s+(\S+)\s*$", re.MULTILINE | re.IGNORECASE)
_WORKDIR = re.compile(r"^WORKDIR\s+(\S+)", re.MULTILINE | re.IGNORECASE)
#: What has Python in it, and not a database or a front end.
_OF_PYTHON = re.compile(r"(?i)python|\bpip3?\b|\buv\b|poetry|manage\.py|gunicorn|uwsgi")
_COMMENT, _CONTINUED = re.compile(r"^[ \t]*#.*\n", re.MULTILINE), re.compile(r"\\[ \t]*\n")
#: What a command has apt install; options that have a value; a package's name, which may have a version.
_INSTALL = re.compile(r"\b(?:apt-get|apt|aptitude)\b[^&|;\n]{0,200}?\sinstall\s([^&|;\n#]*)")
_WITH_VALUE = re.compile(r"(?:^|\s)(?:-[ot]|--option|--target-release)\s+\S+")
_PACKAGE = re.compile(r"([a-z0-9][a-z0-9+.-]+)(?:=\S+|:[a-z0-9]+|/[\w.-]+)?")


def add_packages(report: Report, tree: Path, project: str) -> None:
    """Add the packages of Debian that the project's own images have, and that no row has asked for yet.

    Others are only named: a repository must not choose services of the host. So are those that apt does not have here,
    where another one may have taken their place, or apt has no lists yet.

    Args:
        project: the folder of manage.py.
    """
    taken, passed_over = (re.compile("|".join(rows(part))) for part in ("of_images", "not_of_images"))
    for place, names in _packages(tree, project):
        wanted = [name for name in names if name not in report.value("packages", ())]
        offered = packages.offered([name for name in wanted if taken.fullmatch(name)])
        known = [name for name in wanted if name in offered]
        if known:
            report.extend("packages", known, f"{place} installs them")
        if others := [name for name in wanted if name not in offered and not passed_over.fullmatch(name)]:
            why = "add those that pages and tasks need to `packages`, by their names on this host"
            report.remarks.append(f"{place} also installs {', '.join(others)}: {why}")


def _packages(tree: Path, project: str) -> Iterator[tuple[Path, list[str]]]:
    """Yield the files that install packages of Debian for the project's code, and the names of these packages."""
    paths = [folder / "Aptfile" for folder in inspect_project.folders_above(tree, project)]  # of Heroku
    texts = [(path.relative_to(tree), _COMMENT.sub("", f"{code.read(path)}\n")) for path in paths]
    texts += [(path.relative_to(tree), " ".join(_installed(code.read(path)))) for path in files(tree)]
    for place, text in texts:
        yield place, [*dict.fromkeys(found[1] for found in map(_PACKAGE.fullmatch, text.split()) if found)]


def _installed(text: str) -> Iterator[str]:
    """Yield what apt installs in the last stage of a Dockerfile that is for the live system, and in those below it."""
    text = _CONTINUED.sub(" ", _COMMENT.sub("", text))
    starts = [*_STAGE.finditer(text)]
    ends = [*(one.start() for one in starts[1:]), len(text)]
    stages = {str(one[2] or number).lower(): number for number, one in enumerate(starts)}
    live = [number for name, number in stages.items() if process_files.is_for_live(Path(name))]
    chain = live[-1:]
    while chain and chain[-1] > (below := stages.get(starts[chain[-1]][1].lower(), len(starts))):
        chain.append(below)
    texts = [text[starts[number].start() : ends[number]] for number in reversed(chain)]
    if _OF_PYTHON.search("".join(texts)):
        yield from (_WITH_VALUE.sub(" ", words) for part in texts for words in _INSTALL.findall(part))


def files(tree: Path) -> list[Path]:
    """Return the Dockerfiles of a project that are for the live system, the upper ones first."""
    paths = [
        path for path in inspect_project.walk(tree, None, depth=4) if process_files.DOCKERFILE.fullmatch(path.name)
    ]
    live = [path for path in paths if process_files.is_for_live(path.relative_to(tree))]
    return sorted(live, key=lambda path: (len(path.parts), path))[:_MOST]


def placed(tree: Path, project: str, folder: Path, missing: Collection[Path]) -> tuple[str, str]:
    """Return the folder that a front end is built into, below its own, and the place for it that the settings mean.

    Args:
        project: the folder of manage.py.
        folder: that of package.json, relative to the source.
        missing: folders that the settings refer to and the source lacks, relative to it.

    Returns:
        Both relative, the place to the source; empty texts where no Dockerfile copies it to such a place.
    """
    for path in files(tree):
        for built, target in _copies(code.read(path), folder):
            place = next(filter(None, (_place(one, project, target) for one in missing)), "")
            if place and os.path.normpath(folder / built) != place:
                return built, place
    return "", ""


def _copies(text: str, folder: Path) -> Iterator[tuple[str, PurePosixPath]]:
    """Yield what a Dockerfile copies of the stage of a front end: the built folder below its own, and the target."""
    starts = [*_STAGE.finditer(text)]
    ends = [*(one.start() for one in starts[1:]), len(text)]
    stages = {one[2]: text[one.start() : end] for one, end in zip(starts, ends, strict=False) if one[2]}
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
