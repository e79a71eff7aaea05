"""A project is built and asked what it needs before there is a site of it: its pillar, read and completed.

The steps are those of a release (`deploy.step_source`, `deploy.step_build`, `observe.observation`), in a folder of the
formula's cache and by two users that exist as long. Nothing else of the host changes. See docs/decisions/0124.
"""

import contextlib
import hashlib
import os
import re
import shlex
import stat
import sys
import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from django_formula.database.engines import POSTGIS
from django_formula.deploy import step_build, step_source
from django_formula.deploy.deployment import Deployment
from django_formula.host import commands, daemons, environment_files, file, folders, locks, users
from django_formula.host.commands import DeploymentError
from django_formula.host.folders import Folder
from django_formula.inspect import inspection, project
from django_formula.inspect import report as inspect_report
from django_formula.knowledge import hints, package
from django_formula.observe import completed, observation
from django_formula.observe import report as observe_report
from django_formula.observe.observation import Observation
from django_formula.pillar import compiler, tables
from django_formula.process import build_user
from django_formula.project import ask, program
from django_formula.release import releases
from django_formula.release import settings as release_settings
from django_formula.release.releases import Release
from django_formula.site import sites
from django_formula.site.sites import Site
from django_formula.source import mirror
from django_formula.untrusted.foreign import Foreign
from django_formula.untrusted.text import shown, tell
from django_formula.virtualenv import relaxed_pins, requirements, uv, virtualenvs

#: Has a folder for each source: its virtualenv, uv's cache and kept builds, for the next time.
FOLDER = Path("/var/cache/django-formula/inspected")
#: How many of these folders stay, and for how many seconds.
_MOST, _AGE = 3, 7 * 86400
#: The name of the site that is none, and the name of its users, which has an underscore as no site's, with the comment
#: by which they are known.
_NAME, _USER, _TITLE = "_inspected", "_django-inspect", "Asks projects what they need"
#: Options that were read and that a virtualenv, a build and the settings are made with.
_TAKEN = (
    *("project", "python_path", "settings_module", "wsgi", "asgi", "python", "requirements", "python_packages"),
    *("constraints", "build", "files", "writable", "writable_packages", "environment", "settings", "database"),
    *("submodules", "server"),
)
#: What is in a file that has the secret key.
_KEY = "asked" * 10
#: Options that a failed attempt may add, and for how many seconds there is another one.
_CURES, _BUDGET = (
    {*_TAKEN, "packages"} - {"project", "wsgi", "asgi", "settings", "database", "submodules", "server"},
    600,
)
#: Options that words of variables need.
_OF_WORDS = ("secrets", "queue", "cache", "caches")
#: A package that uv did not find.
_UNKNOWN = re.compile(r"Because ([\w.-]+) was not found in the package registry")
#: What of a folder stays for the next time.
_KEPT = ("build", "virtualenvs", "kept")


def of(source: str, revision: str = "HEAD", deploy_key: str | None = None) -> str:
    """Return what a site of this host answers, or a pillar for the project of a URL or a folder.

    Raises:
        DeploymentError: there is no such site, or it cannot be asked; or as `inspect`.
    """
    is_place = ("/" in source or ":" in source) and source not in sites.registered()
    return inspect(source, revision, deploy_key) if is_place else observe_report.describe(source)


def inspect(where: str, revision: str = "HEAD", deploy_key: str | None = None) -> str:
    """Return a pillar for a project as `inspection.inspect` does, of the same, completed by what the project answers.

    Raises:
        DeploymentError: the source cannot be fetched, or has no project.
    """
    if os.geteuid():
        raise DeploymentError("to build a project this needs root", hint="run it with sudo, or without run")
    where = str(Path(where).resolve()) if Path(where).is_dir() else where
    name = inspection.name_of(where)
    with _place(where) as root:
        trial = Trial(where, revision, name, root)
        trial.fetch(Path(deploy_key).read_text() if deploy_key else "")
        read = trial.read()
        remarks, lines, told = read["remarks"], read["lines"], list[str | list[str]]()
        try:
            found, options = trial.asked(read["keys"])
        except Exception as error:  # whatever it is, what was read is printed
            cause = str(error) if isinstance(error, (DeploymentError, OSError)) else f"{type(error).__name__}: {error}"
            told = [
                *trial.notes,
                *trial.warnings,
                *(f"not observed: {line}" for line in trial.without_left_out(cause).splitlines()[:12]),
            ]
            lines = completed.cured(trial.without_unknown(lines), trial.cures)
        else:
            told = [*trial.notes, *trial.warnings, *completed.remarks(lines, found, str(trial.source))]
            lines = completed.cured(trial.without_unknown(lines), trial.cures)
            lines = completed.lines(lines, found, options)
        if "packages" in trial.cures:
            needed = next(line["value"] for line in lines if line["key"] == "packages")
            needed = dict.fromkeys([*needed, *trial.of_extensions(read["keys"])])
            told += ["to have all of it observed, install them, and inspect again:", ["apt-get", "install", *needed]]
    return inspect_report.text(where, name, [*remarks, *told], inspect_report.ordered(lines))


class Trial:
    """A project in a folder of the cache, which is built and asked there.

    Args:
        where: the URL of its repository, or its folder.
        revision: a branch, a tag or a commit of the repository.
        name: what its site would be called.
        root: the folder.

    Attributes:
        notes: what has been done to build it, for a person.
        warnings: those of the newest build.
        cures: the options that a failed build or start has named.
        unbuilt: the packages that cannot be built without packages of Debian, and that attempts leave out.
        unknown: the packages that were read from modules, and that the index does not have.
    """

    def __init__(self, where: str, revision: str, name: str, root: Path):
        self._where, self._revision, self._name, self._root = where, revision, name, root
        self._commit = self._release = ""
        self._is_begun = False
        self.notes: list[str] = []
        self.warnings: list[str] = []
        self.cures: dict[str, Any] = {}
        self.unbuilt: list[str] = []
        self.unknown: list[str] = []

    def fetch(self, deploy_key: str) -> None:
        """Export the source as a release does.

        Raises:
            DeploymentError: the remote cannot be reached, or has no such revision; the folder cannot be read.
        """
        site = self._site({})
        for folder in site.folders():
            if folder.path.is_relative_to(site.root):
                folders.make(folder)
        deployment = self._deployment(site)
        mirror.prepare(site, deploy_key)
        self._commit = deployment.resolve_commit()
        self._fetched = deployment
        self._export()

    def _export(self) -> Release:
        """Export the source once more: a build gives it to another user."""
        site = self._fetched.site
        self._release = releases.next_name(site, self._commit)
        release = Release(site, self._release)
        release.path.mkdir(mode=0o755)
        release.update(name=release.name, state="building", commit=self._commit, inputs={}, facts={})
        self._fetched.resume(release)
        step_source.export(self._fetched, release)
        return release

    def of_extensions(self, keys: Mapping[str, Any]) -> list[str]:
        """Return the packages of Debian that an apply installs for extensions of a database, and a start needs."""
        extensions = (keys.get("database") or {}).get("extensions", [])
        return [*self._site({}).platform["packages"]["postgis"]] if POSTGIS in extensions else []

    @property
    def source(self) -> Path:
        """The folder of its source."""
        return self._site({}).releases / self._release / "source"

    def read(self) -> dict[str, Any]:
        """Return what `inspection.read` finds in the source, as the build user."""
        site = self._site({})
        commit = "" if inspection.is_folder(self._where, self._revision) else self._commit
        return inspection.read(self._where, self._revision, self.source, commit, site.build_user)

    def asked(self, keys: Mapping[str, Any]) -> tuple[Observation, dict[str, Any]]:
        """Build the project with options that were read, and ask it what it needs.

        It gets none of the words that were read for its variables, and shows them itself. Where it does not start so,
        it is asked again with them, and may write where it has tried to. Where nothing lets it start with this host's
        Python, the pillar has another one. A package that cannot be built without packages of Debian is left out, so
        that all that are needed are named at once; and one that was read from a module and that the index lacks.

        Returns:
            What it answers, and the options that the words of its variables need.

        Raises:
            DeploymentError: it cannot be built or asked.
        """
        until, python = time.monotonic() + _BUDGET, dict[str, Any]()
        while True:
            try:
                deployment, found = self._attempt(keys)
            except DeploymentError as error:
                program.explain(error)
                python = python or {key: value for key, value in error.options.items() if key == "python"}
                if self._cure(error.offered or error.options, keys, until):
                    self.notes.append(f"{error.message}: asked again with {hints.flow(self.cures)}")
                elif name := self._unknown_of(error, keys):
                    keys = {**keys, "python_packages": self._known_of(keys["python_packages"])}
                    self.notes.append(f"asked without {name}, which the package index does not have")
                elif not self._leave_out(error, until):
                    self.cures = python or hints.merged(self.cures, error.options)
                    raise
            else:
                if found.stage == "done":
                    break
                failed = self._failure(deployment, found)
                # Without what cannot be built, a module that is missing says nothing.
                cures = {key: value for key, value in failed.options.items() if key != "python_packages"}
                if not self._cure(cures if self.unbuilt else failed.options, keys, until):
                    if not self.unbuilt:
                        self.notes += [f"{found.error}: {line}" for line in failed.hint.splitlines()]
                        packages = {key: value for key, value in failed.options.items() if key == "packages"}
                        self.cures = python or hints.merged(self.cures, packages)
                    break
                self.notes.append(f"{found.error}: asked again with {hints.flow(self.cures)}")
            keys = hints.merged(self.cures, keys)
        found = found._replace(facts={**found.facts, "missing": []}) if self.unbuilt else found
        wanted = [one for one in found.variables if one.is_required or one.is_together]
        return found, observation.lacking(deployment.site, wanted)

    def _attempt(self, keys: Mapping[str, Any]) -> tuple[Deployment, Observation]:
        """Build the project and ask it; where it does not start so, with the words of its variables too."""
        options = {key: keys[key] for key in _TAKEN if key in keys}
        if self.unbuilt:
            options["python_packages"] = self._without_unbuilt(options.get("python_packages", []))
        variables = keys.get("environment", {})
        plain = {name: value for name, value in variables.items() if not isinstance(value, dict)}
        deployment = again = self._begun({**options, "environment": plain})
        self._build(deployment)
        found = self._ask(deployment)
        if found.stage != "done":
            written = [line["value"] for line in completed.lines([], found, {}) if line["key"] == "writable"]
            options["writable"] = [*options.get("writable", []), *(path for paths in written for path in paths)]
            more = {key: keys[key] for key in ("environment", *_OF_WORDS) if key in keys}
            with contextlib.suppress(DeploymentError):
                again = self._begun({**options, **more})
                self._build(again)
                found = _further(found, self._ask(again))
        used = {str(one.release.record["virtualenv"]) for one in (deployment, again) if one.release}
        for other in virtualenvs.unused(deployment.site, used):
            file.remove_tree(other)
        return deployment, found

    def _cure(self, options: Mapping[str, Any], keys: Mapping[str, Any], until: float) -> bool:
        """Take options that cure a failure; return whether there are new ones with which it can be asked again."""
        known = {key: value for key, value in options.items() if key in _CURES}
        if self.unbuilt and "python_packages" in known:  # of these only the attempts know
            left_out = {*map(_never, self.unbuilt)}
            known["python_packages"] = [one for one in known["python_packages"] if one not in left_out]
        new = {key: value for key, value in known.items() if hints.merged({key: value}, keys)[key] != keys.get(key)}
        is_new = bool(new.keys() & {*_TAKEN} - {"python"}) and time.monotonic() < until
        self.cures = hints.merged(self.cures, new) if is_new else self.cures
        return is_new

    def _leave_out(self, error: DeploymentError, until: float) -> bool:
        """Leave out the package whose build lacks packages of Debian, which are cures; return whether it is new."""
        name = relaxed_pins.lacking(error)
        if not name or name in self.unbuilt or "packages" not in error.options or time.monotonic() > until:
            return False
        self.unbuilt.append(name)
        self.cures = hints.merged(self.cures, {"packages": error.options["packages"]})
        self.notes.append(f"asked without {name}, which cannot be built here: {error.hint}")
        return True

    def _unknown_of(self, error: DeploymentError, keys: Mapping[str, Any]) -> str:
        """Return the package of the options that the index lacks, which is left out from then on; empty for none."""
        found = _UNKNOWN.search(error.log)
        name = package.normalised(found[1]) if found else ""
        if name not in requirements.without_extras(keys.get("python_packages", [])):
            return ""
        self.unknown.append(name)
        return name

    def _known_of(self, packages: list[str]) -> list[str]:
        """Return the packages of a pillar without those that the index lacks."""
        return [one for one in packages if requirements.without_extras([one]).isdisjoint(self.unknown)]

    def without_unknown(self, lines: list[dict[str, Any]]) -> list[dict[str, Any]]:
        """Return the lines of a pillar without the packages that the index lacks."""
        changed = [
            {**line, "value": self._known_of(line["value"])} if line["key"] == "python_packages" else line
            for line in lines
        ]
        return [line for line in changed if line.get("value") != [] or line["key"] != "python_packages"]

    def _without_unbuilt(self, packages: list[str]) -> list[str]:
        """Return the packages of a pillar by which those that cannot be built are left out."""
        kept = [one for one in packages if requirements.without_extras([one]).isdisjoint(self.unbuilt)]
        return [*kept, *map(_never, self.unbuilt)]

    def without_left_out(self, text: str) -> str:
        """Return a text without the packages that attempts leave out: a pillar to paste has them built."""
        for one in (hints.flow(_never(name)) for name in self.unbuilt):
            text = text.replace(f"{one}, ", "").replace(f", {one}", "").replace(one, "")
        return text

    def _failure(self, deployment: Deployment, found: Observation) -> DeploymentError:
        """Return what has ended a start as the failure of a release, with its hint and its options."""
        site, release, doing = deployment.site, deployment.release, "starting Django"
        assert release  # noqa: S101 - `_begun` has set it
        ended = DeploymentError(f"{doing}: {found.error}", log=found.log)
        error = ask.failed(site, release.path, release.facts, doing, ended)
        with contextlib.suppress(DeploymentError):
            program.explain(error)
        return error

    def _begun(self, options: Mapping[str, Any]) -> Deployment:
        """Return a deployment of the release with a virtualenv for these options.

        Raises:
            DeploymentError: it cannot be built, or nothing here keeps the settings from network and secrets.
        """
        site = self._site(options)
        release = self._export() if self._is_begun else Release(site, self._release)
        self._is_begun = True
        if why := observation.impossible(release.path):
            raise DeploymentError(why)
        if not uv.is_installed():
            uv.install()
        deployment = self._deployment(site)
        deployment.resume(release)
        facts = project.find(site, release.path / "source")
        release.update(facts={"commit": self._commit, **facts})
        self.warnings = []
        list(step_build.virtualenv(deployment))
        warnings = map(self.without_left_out, deployment.unreported_warnings())
        self.warnings = [text.removeprefix(f"{_NAME}: ") for text in warnings]
        return deployment

    def _build(self, deployment: Deployment) -> None:
        """Run the build commands; where some fail, the settings are asked without what these make."""
        site, kept, failed = deployment.site, deployment.site.config["build"], list[str]()
        commands = [*kept]
        while True:
            try:
                list(step_build.build(deployment))
            except DeploymentError as error:
                failed.append(error.message)
                names = [shlex.join(shlex.split(command)) for command in commands]
                ended = next((place for place, name in enumerate(names) if error.message.startswith(name)), len(names))
                commands = commands[ended + 1 :]  # the files of those before it are there
                if not site.config["build"]:
                    raise
                site.config = {**site.config, "build": commands}
            else:
                break
        site.config = {**site.config, "build": kept}
        if failed:
            self.notes.append(f"the settings are asked without what build makes: {'; '.join(failed)}")

    def _ask(self, deployment: Deployment) -> Observation:
        """Ask the settings, which get the environment of a release without what is secret."""
        site, release = deployment.site, deployment.release
        assert release  # noqa: S101 - `_begun` has set it
        variables = release_settings.environment(site, release.path, release.facts)
        folders.make(Folder(release.path / "config", "root", site.user, 0o750))
        text = environment_files.environment_file(variables)
        file.write(release.path / "config/environment", text, mode=0o640, group=site.user, durable=False)
        for path, contents in release_settings.project_files(site, {}, variables, secret_key=_KEY).items():
            release_settings.write_project_file(site, release.path / "source", path, contents)
        return observation.of(site, release.path, release.facts, everything=True)

    def _deployment(self, site: Site) -> Deployment:
        revision = None if inspection.is_folder(self._where, self._revision) else self._revision
        return Deployment(site, {}, {}, asked_by="django.inspect", revision=revision)

    def _site(self, options: Mapping[str, Any]) -> Site:
        """Return the site that is none, with options of the pillar.

        Raises:
            DeploymentError: the pillar does not take them.
        """
        own = "folder" if inspection.is_folder(self._where, self._revision) else "repository"
        site = {own: self._where, "domains": [f"{self._name}.example.org"], **options}
        known = tables.read()
        compiled = compiler.compile(
            {"django": {"sites": {self._name: site}}}, known["schema"], known["platforms"], _grains()
        )
        if compiled["errors"]:
            raise DeploymentError(f"the pillar that was read has a mistake: {compiled['errors'][0]}")
        config = {**compiled["sites"][self._name], "name": _NAME, "user": _USER, "root": str(self._root)}
        made = Site(config, compiled["platform"])
        made.at = f"django:sites:{self._name}"
        return made


def _never(name: str) -> str:
    """Return the requirement of a package that no Python installs."""
    return f"{name}{relaxed_pins.NEVER}"


def _grains() -> dict[str, Any]:
    """Return what the pillar's compiler asks of a host."""
    init = "systemd" if daemons.has_systemd() else "unknown"
    return {"uid": 0, "os_family": "Debian", "os": "Debian", "osmajorrelease": 12, "init": init, "id": ""}


def _further(first: Observation, second: Observation) -> Observation:
    """Return the answer of the attempt that got further, with the variables of both.

    The second one where it lacks a module, such as one that settings import only for a variable that it has.
    """
    order = [*observation.STAGES].index
    is_second = order(second.stage) >= order(first.stage) or second.facts.get("missing")
    better, other = (second, first) if is_second else (first, second)
    known = {one.name for one in better.variables}
    return better._replace(variables=[*better.variables, *(one for one in other.variables if one.name not in known)])


# The folder and the users


@contextlib.contextmanager
def _place(where: str) -> Iterator[Path]:
    """Yield the folder of a source, with the users that may work in it; remove all but what the next time may use."""
    folders.refuse_unsafe_parents(FOLDER)
    sites.make_runtime()
    if not FOLDER.is_dir():
        folders.make(Folder(FOLDER, "root", "root", 0o755))
    root = FOLDER / hashlib.sha256(where.encode()).hexdigest()[:16]
    lock = locks.Lock(
        FOLDER / "lock",
        "django.inspect",
        busy="another inspection",
        timeout="10m",
        hint="wait for it, or end its process",
    )
    lock.take()
    umask = os.umask(0o022)
    try:
        _clear()
        folders.make(Folder(root, "root", "root", 0o755))
        _make_users()
        _take_over(root)
        yield root
    finally:
        _clear()
        os.umask(umask)
        lock.release()


def _make_users() -> None:
    """Make the users."""
    free = users.free_uids()
    for name in (_USER, f"{_USER}-build"):
        argv = ["useradd", "--system", f"--uid={next(free)}", "--user-group", "--no-create-home"]
        argv += ["--home-dir", "/nonexistent", "--shell", "/usr/sbin/nologin", "--comment", _TITLE, name]
        commands.run(argv, doing=f"creating the user {name}")


def _take_over(root: Path) -> None:
    """Give the cache of a former time, whose user is gone, to the user of this time."""
    cache = root / "build"
    if cache.is_dir():
        old, new = cache.stat().st_uid, users.owner(f"{_USER}-build", f"{_USER}-build")
        if old != new[0]:
            Foreign(cache).give(new, None, of=old)


def _clear() -> None:
    """Remove what an inspection has made: its users and their processes, its files but the caches, old caches."""
    for name in (_USER, f"{_USER}-build"):
        user = users.find_user(name)
        if user and user.pw_gecos != _TITLE:
            raise DeploymentError(f"the user {name} exists already and is not ours", hint=f"rename {name}")
        if user:
            build_user.end_user(name)
            commands.run(["userdel", name], doing=f"removing the user {name}")
    for path in sites.RUNTIME.glob(f"{_NAME}*"):
        file.remove_tree(path)
    found = sorted((path for path in FOLDER.iterdir() if path.is_dir()), key=lambda path: -path.stat().st_mtime)
    for number, root in enumerate(found):
        for path in root.iterdir():
            if path.name not in _KEPT:
                file.remove_tree(path)
        os.chmod(root, stat.S_IRWXU)
        if number >= _MOST or time.time() - root.stat().st_mtime > _AGE:
            file.remove_tree(root)


if __name__ == "__main__":
    try:
        tell(inspect(*sys.argv[1:3]), end="")
    except (DeploymentError, OSError) as failure:
        sys.exit(shown(f"quickstart: {failure}", lines=True))
