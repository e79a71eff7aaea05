"""What gives way where uv cannot install a project's requirements: the kind of its failure decides.

uv is asked, no table of versions: for the nearest version with a wheel, or for packages as of the day on which the
requirements were last changed. Only where they cannot be installed as they are (docs/decisions/0115).
"""

import datetime
import re
from collections.abc import Callable, Collection, Iterable, Mapping
from pathlib import Path
from typing import Any, NamedTuple

from django_formula.host.commands import DeploymentError
from django_formula.knowledge import cause_package, hints
from django_formula.knowledge.package import normalised
from django_formula.site.sites import Site
from django_formula.untrusted.text import Log
from django_formula.virtualenv import lock, requirements, versions_of_index
from django_formula.virtualenv.uv import Uv
from django_formula.virtualenv.versions_of_index import NAME, VERSION, Queries

log = Log.of(__name__)

#: The file in the build user's folder with the versions that replace pins.
_RELAXED = ".relaxed.txt"
#: That with the newest versions of the packages that build others. It does not bind what requirements want of them.
_BUILT_BY = ".built-by.txt"
#: What uv says of a package that it cannot build: one of an index has a version.
_UNBUILT = re.compile(rf"Failed to (?:build|download and build) `({NAME})(?:==({VERSION})|\[|\s*@)", re.ASCII)
#: What uv says of versions that are younger than the day by which they are bound: of one that is pinned, its day.
_YOUNGER = re.compile(r"was filtered by `exclude-newer`[^\n]*?was published at (\d{4}-\d\d-\d\d)T", re.ASCII)
_FILTERED = re.compile(rf"`({NAME})` was filtered by `exclude-newer`", re.ASCII)
#: The packages that have built one: the backend that uv has called, and those whose code has run.
_TOOLS = re.compile(
    r"Call to `([A-Za-z]\w{0,60})[.:]|/builds-v\d+/[^\s\"]*/site-packages/([A-Za-z]\w{0,60})/", re.ASCII
)
_MOST_TOOLS = 5
#: What a package reports, while it is built, that is for other versions of Python.
_REFUSES_PYTHON = re.compile(
    r"^[^\n]*Error: [^\n]*(?:(?:support|requir|install|only)[^\n]{0,60}\bPython\b[^\n]{0,30}\d\.\d"
    r"|\bPython\b[^\n]{0,40}\d\.\d[^\n]{0,60}(?:support|requir|only))",
    re.MULTILINE | re.IGNORECASE,
)
#: What a compiler reports of code that it cannot compile.
_UNCOMPILED = re.compile(
    r"failed with exit (?:code|status) \d|fatal error: |\.(?:c|cc|cpp|cxx|h|hpp)(?::\d+)+: error: "
    r"|ninja: build stopped|can't find Rust|error: could not compile|CMake Error"
)
#: A version that Ubuntu or Debian has built, which no index has.
_OF_SYSTEM = re.compile(r"\+(?:ubuntu|deb|dfsg)")
#: The most attempts to install, the most days, and how far apart these are.
_ATTEMPTS, _DAYS, _YEAR = 24, 6, datetime.timedelta(days=365)
#: What makes a requirement one that no Python installs, and how people write it.
NEVER = "; sys_platform == 'none'"
_NEVER = re.compile(r";\s*sys_platform\s*==\s*(['\"])none\1\s*$")
#: What is not bound by a day.
_ALWAYS = "2100-01-01"


class Pin(NamedTuple):
    """A version that requirements pin, with extras and marker as its line has them."""

    version: str
    extras: str
    marker: str


class Ladder:
    """What gives way in one build of a virtualenv.

    Args:
        prepared: ``pins``, ``names``, ``options`` (indexes), ``is_fixed`` (a lock, or hashes) and ``files`` of the
            requirements.
        day: returns the day on which the requirements were last changed, ``2021-06-30``; empty if it is not known.

    Attributes:
        versions: what replaces pins: normalised name → the old and the new version.
        until: the day by which packages without a version and those of builds are bound; empty if there is none.
        tools: the packages by which others are built → the day by which they are bound.
    """

    def __init__(self, uv: Uv, prepared: Mapping[str, Any], day: Callable[[], str]):
        self.uv, self.site, self.day = uv, uv.site, day
        self.is_fixed = prepared["is_fixed"] is True
        self.queries, self.files = Queries(uv, prepared["options"]), prepared["files"]
        self.pins = {name: Pin(*pin) for name, pin in prepared["pins"].items() if versions_of_index.is_pin(name, pin)}
        names = prepared["names"].items()
        self.names = {name: marker for name, marker in names if versions_of_index.is_pin(name, ["0", "", marker])}
        self.versions: dict[str, tuple[str, str]] = {}
        self.until = ""
        self.tools: dict[str, str] = {}
        self._free: set[str] = set()
        self._offered: dict[str, tuple[str, str]] = {}
        #: What the offered versions have that the pins do not, and the packages that the index does not have.
        self._offer_is, self._unknown = "with a wheel for this Python", dict[str, str]()
        self._without_wheel: dict[str, tuple[str, bool]] | None = None
        #: What packages fail with before anything is bound by a day; of uv's resolution, which names none, as "".
        self._unbound: dict[str, DeploymentError] = {}
        self._log = ""
        self._attempts = self._days = self._tool_days = 0

    def arguments(self) -> list[str]:
        """Return the arguments of ``uv pip install`` by which something gives way; none at first."""
        relaxed = ["--overrides", str(Path(self.uv.work) / _RELAXED)] if self.versions else []
        free = sorted({*self.versions, *self._free, *self._named_by("python_packages")}) if self.until else []
        bound = ["--exclude-newer", self.until] if self.until else []
        return [*relaxed, *bound, *self._of_tools(), *(bound_by(name, _ALWAYS) for name in free)]

    def _of_tools(self) -> list[str]:
        return [f"--build-constraint={Path(self.uv.work) / _BUILT_BY}"] if self.tools else []

    def without_tools(self, arguments: Iterable[str]) -> list[str]:
        """Return the arguments of an installation for another one, in which all that the first has built is built."""
        return [one for one in arguments if one not in self._of_tools()]

    def give_way(self, error: DeploymentError) -> None:
        """Choose what gives way after a failure, for the next attempt.

        Args:
            error: that of the last attempt.

        Raises:
            DeploymentError: nothing does; with the versions that a person may choose.
        """
        cause = _cause(error)
        kind, name, about = ("", "", "") if cause.transient else failure(cause.log, self.site)
        if not self.until and not self.tools:
            self._unbound[name] = error
        self._attempts, self._log = self._attempts + 1, cause.log
        if self._attempts >= _ATTEMPTS or not any(rung(kind, name, about) for rung in self._rungs(kind)):
            raise self._with_offer(self._with_packages(kind, self._as_written(name, error)))
        log.info("%s: %s (%s); the next attempt has %s", self.site.name, error.message, kind, self.told())

    def _rungs(self, kind: str) -> tuple[Callable[[str, str, str], bool], ...]:
        """Return what may give way after a failure of a kind, the first at first."""
        rungs: dict[str, tuple[Callable[[str, str, str], bool], ...]] = {
            "missing": (self._nearest,),
            "uncompiled": (self._nearest, self._newest, self._as_of_day),
            "build": (
                *(self._nearest_of_series, self._older_tools),
                *(self._as_of_day, self._a_year_later, self._nearest_of_today),
            ),
            "python": (self._nearest,),
            "gone": (self._nearest_of_index,),
            "unknown": (self._find_unknown,),
            "unsolved": (self._nearest_that_suits, self._as_of_day),
            "younger": (self._as_of_younger,),
            "filtered": (self._without_day,),
        }
        return rungs.get(kind, ())

    def _as_written(self, name: str, error: DeploymentError) -> DeploymentError:
        """Return the failure of a package as the requirements have it, and not that with what a day has bound."""
        latest = [*self._unbound.values()][-1] if self._unbound else error
        return self._unbound.get(name, error if name else latest)

    def _depends_on_tools(self, name: str) -> bool:
        """Return whether a build fails in another way than with the tools of today."""
        unbound = self._unbound.get(name)
        return not unbound or _essence(self._log) != _essence(_cause(unbound).log)

    def told(self) -> str:
        """Return what gives way, as one text; empty if nothing does."""
        changed = [f"{name} {new} instead of {old}" for name, (old, new) in sorted(self.versions.items())]
        bound = [f"packages without a version, and those that builds need, as of {self.until}"] if self.until else []
        return ", ".join([*changed, *(f"{name} of {day} for builds" for name, day in self.tools.items()), *bound])

    # The rungs. Each returns whether something more gives way

    def _older_tools(self, _kind: str, name: str, version: str) -> bool:
        """Bind what has built a package by the day on which that was published; by a later one where that fails too.

        A build that fails with them as it does with those of today does not depend on them.
        """
        found = {normalised(one) for pair in _TOOLS.findall(self._log) for one in pair if one} - {normalised(name)}
        tools, self._tool_days = sorted(found)[:_MOST_TOOLS], self._tool_days + 1
        day = versions_of_index.day_of(max(self.tools.values(), default=""))
        if day:
            day = day + _YEAR if self._depends_on_tools(name) else None
        elif version and tools and not self.until:
            asked = self.queries.ask([f"{normalised(name)}=={version}"]).found
            day = versions_of_index.day_of(asked.get(normalised(name), ("", "", ""))[2])
        is_usable = bool(tools and day and day < datetime.date.today() and self._tool_days <= _DAYS)
        self.tools = self._bind_tools({*tools, *self.tools}, str(day)) if is_usable else {}
        return bool(self.tools)

    def _bind_tools(self, names: set[str], day: str) -> dict[str, str]:
        """Bind builds by the versions that packages had on a day; return those that were there, with the day."""
        found = self.queries.ask(sorted(names), [f"--exclude-newer={day}"]).found
        known = sorted(names & found.keys())
        lines = [f"{name}<={found[name][0]}" for name in known]
        self.queries.as_builder(versions_of_index.write_lines, str(Path(self.uv.work) / _BUILT_BY), lines)
        return dict.fromkeys(known, day)

    def _as_of_day(self, kind: str, _name: str, _version: str) -> bool:
        """Bind what has no version by the day of the requirements."""
        if self.until or (self.is_fixed and kind == "unsolved"):
            return False
        return self._bind(versions_of_index.day_of(self.day()))

    def _a_year_later(self, _kind: str, name: str, _version: str) -> bool:
        """Bind it by a later day: the tools of builds of that day do not run on this Python either."""
        day = versions_of_index.day_of(self.until)
        self._days += 1
        return self._days <= _DAYS and self._depends_on_tools(name) and self._bind(day and day + _YEAR)

    def _as_of_younger(self, _kind: str, _name: str, day: str) -> bool:
        """Bind it by the day of a version that the requirements pin, where that is later."""
        return bool(self.until) and self._bind(versions_of_index.day_of(day))

    def _without_day(self, _kind: str, name: str, _version: str) -> bool:
        """Leave a package unbound that one of the nearest versions requires."""
        is_new = bool(self.until and self.versions) and normalised(name) not in self._free
        self._free.add(normalised(name))
        return is_new

    def _bind(self, day: datetime.date | None) -> bool:
        if not day or day >= datetime.date.today() or str(day) <= self.until:
            return False
        self.until = str(day)
        return True

    def _nearest(self, _kind: str, name: str, version: str) -> bool:
        """Replace a version by the nearest that has a wheel, and with it all pins that have none for this Python.

        A package that is only built of its sources keeps its pin, unless it is the one that fails.
        """
        name = normalised(name)
        if not version or name in self.versions or name in self._kept():
            return False
        found = self._find_nearest(name, version)
        old = {name: version, **{one: pin.version for one, pin in self.pins.items()}}
        compiled = {
            one: new for one, (new, is_compiled) in found.items() if one == name or (is_compiled and one in old)
        }
        near = {one: (old[one], new) for one, new in compiled.items() if versions_of_index.is_near(old[one], new)}
        if self.is_fixed or name not in near:
            is_offered = self.is_fixed or (name in found and found[name][1])
            self._offered = {one: (old[one], new) for one, new in compiled.items() if is_offered and found[one][1]}
            return False
        self.versions.update(near)
        self._write()
        return True

    def _nearest_of_series(self, kind: str, name: str, version: str) -> bool:
        """Replace it where the nearest one is compiled, and of the same major version: less changes than by a day."""
        found = (
            self._find_nearest(normalised(name), version) if version and normalised(name) not in self._kept() else {}
        )
        new, is_compiled = found.get(normalised(name), ("", False))
        return is_compiled and versions_of_index.majors(version, new) == 0 and self._nearest(kind, name, version)

    def _nearest_of_today(self, kind: str, name: str, version: str) -> bool:
        """Replace it, and bind nothing by a day any more, which did not help."""
        if not self._nearest(kind, name, version):
            return False
        self.until = ""
        return True

    def _newest(self, _kind: str, name: str, version: str) -> bool:
        """Replace a version that does not compile, of which none has a wheel, by the newest of its major version.

        Where that is the one, by the newest of the next major ones.
        """
        name = normalised(name)
        old = self.versions[name][0] if name in self.versions else version
        major = re.match(r"\d+(?=[.]|$)", old)
        if (
            self.is_fixed
            or not version
            or not major
            or name in self._kept()
            or name in self._find_nearest(name, version)
        ):
            return False
        for below in (int(major[0]) + 1, int(major[0]) + versions_of_index.MAJORS + 1):
            found = self.queries.ask([f"{name}>{version},<{below}"]).found
            if name in found and found[name][0] != version:
                self.versions[name] = (old, found[name][0])
                self._write()
                return True
        return False

    def _nearest_of_index(self, kind: str, name: str, version: str) -> bool:
        """Replace a version that the index does not have by the nearest that it has, and with it all such pins.

        Not of a package that was not on the index yet when the requirements were written: it may be another one of the
        same name, of which the requirements mean one on another index.
        """
        name = normalised(name)
        if not version or name in self.versions or name in self._kept():
            return False
        if _OF_SYSTEM.search(version):
            return self._find_unknown(kind, name, version)
        pins = {one: pin for one, pin in self.pins.items() if one not in {*self._kept(), *self.versions}}
        pins = {one: pin for one, pin in pins.items() if not _OF_SYSTEM.search(pin.version)}
        absent = self.queries.ask([f"{one}=={pin.version} {pin.marker}".rstrip() for one, pin in pins.items()]).absent
        gone = {name: version, **{one: pins[one].version for one in sorted(absent & pins.keys())}}
        near, far = self.queries.present(gone)
        day = str(versions_of_index.day_of(self.day()) or "")
        known = self.queries.ask([*near], [f"--exclude-newer={day}"]).found if day else {}
        taken = {one: (gone[one], new) for one, new in near.items() if one in known}
        if self.is_fixed or name not in taken:
            self._offered = {one: (gone[one], new) for one, new in {**far, **near}.items()}
            self._offer_is = "that the index has"
            return False
        self.versions.update(taken)
        self._write()
        return True

    def _nearest_that_suits(self, _kind: str, _name: str, _version: str) -> bool:
        """Replace a pin by the nearest version that suits one which has replaced a pin, and excludes it."""
        for package, name, versions, _required in cause_package.contradictions(self._log):
            name = normalised(name)
            pin = self.pins.get(name)
            is_of_ladder = normalised(package.partition("=")[0]) in self.versions
            if not is_of_ladder or not pin or name in self.versions or name in self._kept() or self.is_fixed:
                continue
            found = self.queries.ask([f"{name}{versions}"], ["--resolution=lowest"]).found
            new = found[name][0] if name in found else ""
            if new and versions_of_index.is_near_either_way(pin.version, new):
                self.versions[name] = (pin.version, new)
                self._write()
                return True
        return False

    def _find_unknown(self, _kind: str, name: str, _version: str) -> bool:
        """Find all packages that the index does not have, which only a person can leave out or get elsewhere.

        Those in a version that a distribution has built are of its system.
        """
        asked = [f"{one} {marker}".rstrip() for one, marker in self.names.items()]
        unknown = {normalised(name), *(self.queries.ask(asked).absent if not self.is_fixed else ())}
        of_system = {one: pin.version for one, pin in self.pins.items() if _OF_SYSTEM.search(pin.version)}
        names = sorted({*unknown, *of_system} - self._named_by("python_packages"))
        self._unknown = {one: f"{one} {of_system.get(one, '')}".rstrip() for one in names}
        return False

    def _find_nearest(self, name: str, version: str) -> dict[str, tuple[str, bool]]:
        """Return what `_newer` has of a package, and of all pins without a wheel; uv is asked once."""
        if self._without_wheel is None:
            self._without_wheel = self._find_without_wheel()
        if name not in self._without_wheel:
            own = self.queries.newer({name: self.pins[name].version if name in self.pins else version})
            self._without_wheel |= {name: own.get(name, ("", False))}
        return {one: found for one, found in self._without_wheel.items() if found[0]}

    def _find_without_wheel(self) -> dict[str, tuple[str, bool]]:
        """Return the pins without a wheel for this Python, and what `_newer` has of them."""
        pins = {name: pin.version for name, pin in sorted(self.pins.items()) if name not in self._kept()}
        found, refused, _absent = self.queries.ask([f"{name}=={version}" for name, version in pins.items()])
        names = [name for name in pins if name in refused or (name in found and not found[name][1])]
        newer = self.queries.newer({name: pins[name] for name in names}) if names else {}
        return {name: newer.get(name, ("", False)) for name in names}

    def _kept(self) -> set[str]:
        """Return the packages of which the pillar has the version."""
        return self._named_by("python_packages") | self._named_by("constraints")

    def _named_by(self, option: str) -> set[str]:
        return requirements.without_extras(self.site.config[option])

    def _write(self) -> None:
        pins = {name: self.pins.get(name, Pin("", "", "")) for name in sorted(self.versions)}
        lines = [f"{name}{pin.extras}=={self.versions[name][1]}{pin.marker}" for name, pin in pins.items()]
        self.queries.as_builder(versions_of_index.write_lines, str(Path(self.uv.work) / _RELAXED), lines)
        changed = [[name, *versions] for name, versions in self.versions.items()]
        self.queries.as_builder(_replace_pins, self.uv.work, self.files, changed)

    def _with_packages(self, kind: str, error: DeploymentError) -> DeploymentError:
        """Return an error whose hint has the packages of Debian for all pins that are built, and not for one alone."""
        if kind == "missing" and "packages" in error.options:
            if self._without_wheel is None:
                self._without_wheel = self._find_without_wheel()
            built = {name for name, (new, _is_compiled) in self._without_wheel.items() if not new}
            error.hint = cause_package.of_packages(self.site, _cause(error).log, built) or error.hint
        return error

    def _with_offer(self, error: DeploymentError) -> DeploymentError:
        """Return an error whose hint has all that only a person may choose: versions, and what is left out."""
        if self._unknown:
            cure = hints.extended(self.site, "python_packages", [f"{name}{NEVER}" for name in self._unknown])
            what, them = ("package", "it") if len(self._unknown) == 1 else ("packages", "them")
            error.hint = (
                f"the package index has no {what} {', '.join(self._unknown.values())}: correct the requirements; "
                f"or set {self.site.at}:index to the index that has {them}; or, to leave {them} out, set {cure}"
            )
            error.offered = {**cure.options}
        if not self._offered:
            return error
        versions = {name: new for name, (_old, new) in {**self.versions, **self._offered}.items()}
        offer = f"the nearest versions {self._offer_is} are not taken unasked, {self._why_not()}: set "
        proposed = proposal(self.site, versions)
        error.hint, error.offered = "; or ".join(filter(None, [offer + proposed, error.hint])), {**proposed.options}
        return error

    def _why_not(self) -> str:
        """Return why the offered versions are not taken."""
        offered = sorted(self._offered.items())
        far = [f"{name} {new}" for name, (old, new) in offered if not versions_of_index.is_near_either_way(old, new)]
        if self.is_fixed:
            return "since the requirements are a lock or have hashes"
        if far:
            return f"since {', '.join(far)} is more than two major versions newer than what is required"
        return f"since {', '.join(sorted(self._offered))} may be others of these names than the requirements mean"


def left_out(packages: Iterable[str]) -> set[str]:
    """Return the packages that `python_packages` has the build leave out, by a marker that is true nowhere."""
    return requirements.without_extras(one for one in packages if _NEVER.search(one))


def bound_by(name: str, day: str) -> str:
    return f"--exclude-newer-package={name}={day}"


def proposal(site: Site, versions: Mapping[str, str]) -> hints.Hint:
    """Return the option of the pillar that keeps versions, with those that it has."""
    return hints.extended(site, "python_packages", [f"{name}=={new}" for name, new in sorted(versions.items())])


def failure(text: str, site: Site | None = None) -> tuple[str, str, str]:
    """Return the kind of uv's failure, and the package with its version; for ``younger`` its day. Empty for another.

    Args:
        text: what uv printed, of which the output of builds is a part.
        site: the site whose rows of knowledge count too.
    """
    unbuilt = _UNBUILT.search(text)
    if unbuilt and "Hash mismatch" not in text:
        text = text[unbuilt.start() :]
        return _kind_of_build(text, site), unbuilt[1], unbuilt[2] or ""
    if "No solution found" not in text:
        return "", "", ""
    unknown = versions_of_index.UNKNOWN.search(text)
    if unknown or "not found in the package registry" in text:
        return ("unknown", unknown[1], "") if unknown and not versions_of_index.REFUSED.search(text) else ("", "", "")
    younger = _YOUNGER.findall(text)
    if younger:
        return "younger", "", max(younger)
    filtered = _FILTERED.search(text)
    if filtered:
        return "filtered", filtered[1], ""
    python = versions_of_index.UNFIT.search(text)
    if python:
        return "python", python[1], python[2]
    gone = versions_of_index.GONE.search(text)
    if gone or re.search(r"[Bb]ecause there (is|are) no versions? of", text):
        return ("gone", gone[1], gone[2]) if gone else ("", "", "")
    return "unsolved", "", ""


def is_of_bound(error: DeploymentError, bound: Collection[str]) -> bool:
    """Return whether packages that are bound by a day may be the cause: none suits, or one of them cannot be built.

    Args:
        bound: their arguments, as `bound_by` makes them.
    """
    text = _cause(error).log
    unbuilt = _UNBUILT.search(text)
    names = {argument.split("=")[1] for argument in bound}
    return normalised(unbuilt[1]) in names if unbuilt else "No solution found" in text


def lacking(error: DeploymentError) -> str:
    """Return the normalised name of the package whose build lacks a header or a program of this host; else nothing."""
    kind, name, _version = failure(_cause(error).log)
    return normalised(name) if kind == "missing" else ""


def _kind_of_build(text: str, site: Site | None) -> str:
    if cause_package.is_missing(text, site):
        return "missing"
    if _REFUSES_PYTHON.search(text):
        return "python"
    return "uncompiled" if _UNCOMPILED.search(text) else "build"


def _cause(error: DeploymentError) -> DeploymentError:
    """Return the failure of the requirements where the versions of the pillar do not suit them either."""
    return error.__cause__ if isinstance(error.__cause__, DeploymentError) else error


def _essence(text: str) -> str:
    """Return the last error in an output without paths and numbers, by which failures are compared."""
    lines = [line.strip() for line in text.splitlines() if "rror" in line and not line.startswith("hint")]
    return re.sub(r"\S*/\S*|\d+", "", lines[-1]) if lines else ""


def is_fixed(files: Iterable[str], texts: Iterable[str]) -> bool:
    """Return whether requirements are a lock, or have hashes: their versions were chosen together."""
    locks = any(Path(name).name in lock.NAMES for name in files)
    return locks or any(re.search(r"--hash[ =]|--require-hashes", text) for text in texts)


# What runs as the build user


def pins(source: Path, files: Iterable[str]) -> dict[str, list[str]]:
    """Return the versions that requirements pin: normalised name → version, extras and marker.

    None of a package that lines pin to several versions, or in several ways. A constraint has no extras and no marker.
    """
    found: dict[str, list[tuple[list[str], bool]]] = {}
    for line, is_limit in requirements.lines(source, files):
        pin = _PIN.fullmatch(line)
        if pin:
            parts = [pin[3], pin[2] or "", (pin[4] or "").strip()]
            found.setdefault(normalised(pin[1]), []).append((parts, is_limit))
    required = {name: [parts for parts, is_limit in listed if not is_limit] for name, listed in found.items()}
    chosen = {name: required[name] or [parts for parts, _is_limit in listed] for name, listed in found.items()}
    several = {name for name, listed in found.items() if len({parts[0] for parts, _is_limit in listed}) > 1}
    return {name: ways[0] for name, ways in chosen.items() if name not in several and ways.count(ways[0]) == len(ways)}


def markers(source: Path, files: Iterable[str]) -> dict[str, str]:
    """Return the packages that requirements want of an index: normalised name → the marker of its first line."""
    found: dict[str, str] = {}
    for line, is_limit in requirements.lines(source, files):
        wanted = _OF_INDEX.match(line)
        if wanted and not is_limit and not wanted[1].endswith(requirements.ARCHIVES):
            found.setdefault(normalised(wanted[1]), (wanted[2] or "").strip())
    return found


_OF_INDEX = re.compile(
    rf"\s*({NAME})\s*(?:\[[\w, .-]*\])?(?!\s*@)\s*(?:[<>=!~][^;#@\n]*)?(;[^#\n\\]*)?(?:[\s#\\]|$)", re.ASCII
)
_PIN = re.compile(
    rf"\s*({NAME})\s*(\[[\w, .-]*\])?\s*===?\s*({VERSION})\s*(;[^#\n\\]*?)?\s*(?:\s--[^\n]*|#[^\n]*|\\)?", re.ASCII
)
_INDEX = re.compile(r"^[ \t]*(?:-i|--index-url|--extra-index-url|-f|--find-links)[\s=]+\S+", re.MULTILINE)


def index_options(texts: Collection[str]) -> list[str]:
    """Return the lines of requirements that name an index."""
    return [found.strip() for text in texts for found in _INDEX.findall(text)]


def _replace_pins(work: str, files: list[str], changed: list[list[str]]) -> None:
    """Write the new versions into the copies of the requirements, where constraints are too."""
    top = Path(work)
    for path in [one for name in files for one in requirements.with_included(top, top / name, set())]:
        text = path.read_text(errors="replace") if path.suffix in lock.REQUIREMENTS_SUFFIXES else ""
        written = text
        for name, old, new in changed:
            spelled = re.escape(name).replace(r"\-", "[-_.]+")
            pattern = rf"(?im)^(\s*{spelled}\s*(?:\[[^\]\n]*\])?\s*===?\s*){re.escape(old)}(?![\w.!+*])"
            written = re.sub(pattern, rf"\g<1>{new}", written)
        if written != text:
            lock.replace(path, written)
