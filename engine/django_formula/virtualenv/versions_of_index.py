"""What uv tells of the versions of packages that an index has, for the Python of a virtualenv or another one."""

import datetime
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from django_formula.host.commands import DeploymentError
from django_formula.knowledge.package import normalised
from django_formula.untrusted import delegate, shapes
from django_formula.virtualenv import lock
from django_formula.virtualenv.uv import Uv

#: The files in the build user's folder: what uv is asked for, and its answer.
_ASKED, _ANSWER = ".relax.in", "pylock.relax.toml"
#: The name of a package, and a version, in regular expressions.
NAME, VERSION = r"[A-Za-z0-9](?:[\w.-]{0,98}[A-Za-z0-9])?", r"[A-Za-z0-9][\w.!+]{0,60}"
#: What uv says of a version that does not fit this Python, or a pip of today.
UNFIT = re.compile(
    rf"({NAME})==({VERSION}) (?:depends on Python|has no wheels with a matching Python|has invalid metadata)",
    re.ASCII,
)
#: What uv says of a version that the index does not have, of a package that it does not have, and of a login.
GONE = re.compile(rf"[Tt]here is no version of ({NAME})(?:\[[^\]]*\])?(?:\{{[^}}]*\}})?==({VERSION})", re.ASCII)
UNKNOWN = re.compile(rf"[Bb]ecause ({NAME})(?:\[[^\]]*\])? was not found in the package registry", re.ASCII)
REFUSED = re.compile(r"could not be queried|\b40[137] (?:Unauthorized|Forbidden|Proxy)")
#: What uv says of a package that has no wheel, or that the index lacks, at all or in this version.
_WITHOUT = re.compile(
    r"[Bb]ecause (?:only (?:the following versions of )?|there (?:is|are) no versions? of |all versions of )?"
    rf"({NAME})|"
    rf"(?:and|all versions of) ({NAME})(?:[<>=!~]\S*)? ha(?:s|ve) no usable wheels",
    re.ASCII,
)
#: The most major versions that a pin moves, and how often uv is asked without what its last answer was about.
MAJORS, _QUERIES = 2, 100


class Answer(NamedTuple):
    """What uv answers about packages, by their normalised names.

    Attributes:
        found: name → version, the file of a wheel or nothing, and the day of its source.
        refused: those that are for other versions of Python.
        absent: those that the index does not have, at all or in this version.
    """

    found: dict[str, tuple[str, str, str]]
    refused: set[str]
    absent: set[str]


class Queries:
    """What uv is asked for one virtualenv.

    Args:
        options: the lines of requirements that name an index.
    """

    def __init__(self, uv: Uv, options: Sequence[str]):
        self.uv, self.options = uv, [str(line) for line in options]

    def wheels_for(self, series: str, versions: Mapping[str, str]) -> tuple[set[str], set[str]]:
        """Return the packages that have a wheel for another Python, and those that are for other ones than it.

        Args:
            versions: normalised name → version.
        """
        pins = [f"{name}=={version}" for name, version in versions.items() if is_pin(name, [version, "", ""])]
        found, refused, _absent = self.ask(pins, [f"--python-version={series}"])
        return {name for name, (_version, wheel, _day_of_source) in found.items() if wheel}, refused & versions.keys()

    def newer_for(self, series: str, versions: Mapping[str, str]) -> dict[str, str]:
        """Return the nearest newer versions of packages that have a wheel for another Python: name → version."""
        named = {name: version for name, version in versions.items() if is_pin(name, [version, "", ""])}
        newer = self.newer(named, [f"--python-version={series}"]) if named else {}
        return {name: version for name, (version, _is_compiled) in newer.items()}

    def newer(self, versions: Mapping[str, str], more: Sequence[str] = ()) -> dict[str, tuple[str, bool]]:
        """Return the nearest newer version of packages that has a wheel, and whether that is compiled."""
        options = [*(f"--only-binary={name}" for name in versions), "--resolution=lowest", *more]
        found = self.ask([f"{name}>={_public(version)}" for name, version in versions.items()], options).found
        return {
            name: (version, not wheel.endswith("-none-any.whl"))
            for name, (version, wheel, _day_of_source) in found.items()
            if wheel and version != versions.get(name)
        }

    def present(self, gone: Mapping[str, str]) -> tuple[dict[str, str], dict[str, str]]:
        """Return the versions nearest to some that the index does not have, and those that are too far from them.

        Newer ones with a wheel are taken before other newer ones, and these before older ones.
        """
        newest = {name: new for name, (new, _is_compiled) in self.newer(gone).items()}
        near = {name: new for name, new in newest.items() if is_near(gone[name], new)}
        for sign, resolution in ((">=", "lowest"), ("<", "highest")):
            left = [f"{name}{sign}{_public(version)}" for name, version in gone.items() if name not in near]
            found = self.ask(left, [f"--resolution={resolution}"]).found
            for name, (new, _wheel, _day_of_source) in found.items():
                if name in gone and is_near_either_way(gone[name], new):
                    near[name] = new
        return near, {name: new for name, new in newest.items() if name not in near}

    def ask(self, wanted: list[str], options: Sequence[str] = ()) -> Answer:
        """Ask uv which version of each package it takes."""
        refused, absent = set[str](), set[str]()
        asked, answer = (str(Path(self.uv.work) / name) for name in (_ASKED, _ANSWER))
        arguments = ["--quiet", "--no-deps", "--format=pylock.toml", "--output-file", answer]
        arguments += ["--python", str(self.uv.folder / "bin/python"), *options, asked]
        for _query in range(_QUERIES if wanted else 0):
            self.as_builder(write_lines, asked, [*self.options, *wanted])
            try:
                self.uv.run("pip", "compile", *arguments, doing="looking for wheels", folder=self.uv.work)
            except DeploymentError as error:
                refused |= {normalised(name) for name, _version in UNFIT.findall(error.log)}
                if not REFUSED.search(error.log):
                    lacking = [*(name for name, _version in GONE.findall(error.log)), *UNKNOWN.findall(error.log)]
                    absent |= {normalised(name) for name in lacking}
                named = {normalised(one) for names in _WITHOUT.findall(error.log) for one in names if one} | refused
                left = [one for one in wanted if _named(one) not in named]
                if not left or left == wanted:
                    break
                wanted = left
            else:
                return Answer(dict(_versions(self.as_builder(_read_answer, answer))), refused, absent)
        return Answer({}, refused, absent)

    def as_builder(self, function: Callable[..., Any], *arguments: Any) -> Any:
        """Return what a function returns that runs as the build user."""
        return delegate.ask(self.uv.site.build_user, function, *arguments, doing="reading the requirements", timeout=60)


def is_pin(name: Any, pin: Any) -> bool:
    """Return whether what the build user's process answers is the name of a package and a version of it."""
    if not shapes.fits(pin, [str]) or len(pin) != 3 or not re.fullmatch(NAME, name, re.ASCII):
        return False
    return all(part.isprintable() for part in pin) and bool(re.fullmatch(VERSION, pin[0], re.ASCII))


def _versions(answer: Any) -> Iterator[tuple[str, tuple[str, str, str]]]:
    """Yield the packages of uv's answer that have a name and a version, a wheel of each, and the day of its source."""
    for found in answer if shapes.fits(answer, [[str]]) else ():
        name, version, wheel, day = (*found, "", "", "", "")[:4]
        wheel = wheel if re.fullmatch(r"[\w.+-]{1,300}\.whl", wheel, re.ASCII) else ""
        if re.fullmatch(NAME, name, re.ASCII) and re.fullmatch(VERSION, version, re.ASCII):
            yield normalised(name), (version, wheel, str(day_of(day) or ""))


def majors(old: str, new: str) -> int:
    """Return by how many major versions one is newer than another; -1 where that is not known."""
    numbers = [re.match(r"(?:\d+!)?(\d+)", version) for version in (old, new)]
    return int(numbers[1][1]) - int(numbers[0][1]) if numbers[0] and numbers[1] else -1


def is_near(old: str, new: str) -> bool:
    """Return whether a version is at most two major ones newer than another."""
    return 0 <= majors(old, new) <= MAJORS


def is_near_either_way(old: str, new: str) -> bool:
    """Return whether a version is near another one, be it newer or older."""
    return is_near(old, new) or is_near(new, old)


def _public(version: str) -> str:
    """Return a version without what its builder has added, as ``+cpu``, which no comparison of versions may have."""
    return version.partition("+")[0]


def _named(requirement: str) -> str:
    """Return the normalised name of the package that a requirement is for."""
    found = re.match(NAME, requirement, re.ASCII)
    return normalised(found[0]) if found else ""


def day_of(text: str) -> datetime.date | None:
    """Return the day that a text begins with, ``2021-06-30``; None if it is none."""
    try:
        return datetime.date.fromisoformat(text[:10])
    except ValueError:
        return None


# What runs as the build user


def write_lines(path: str, lines: list[str]) -> None:
    """Write a file of the build user."""
    lock.replace(Path(path), "".join(f"{line}\n" for line in lines))


def _read_answer(path: str) -> list[list[str]]:
    """Return the packages of uv's answer; none where another process of the build user has removed it."""
    if not Path(path).is_file():
        return []
    answer = lock.read_toml(Path(path))
    Path(path).unlink()
    return [
        [
            *(str(one.get("name")), str(one.get("version")), _file_name((one.get("wheels") or [{}])[0])),
            str(one.get("sdist", {}).get("upload-time", ""))[:10],
        ]
        for one in answer.get("packages", [])
    ]


def _file_name(wheel: Mapping[str, Any]) -> str:
    return str(wheel.get("name") or wheel.get("url") or wheel.get("path") or "").partition("#")[0].rpartition("/")[2]
