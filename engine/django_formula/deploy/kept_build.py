"""What the first commands of a build have made with Node.js: it is kept, and used where all that they read is equal.

A front end takes minutes, and neither an attempt that fails for another reason nor another Python package changes it.
See docs/decisions/0120.
"""

import hashlib
import itertools
import json
import os
import re
import shlex
import stat
import time
from collections.abc import Callable, Collection, Sequence

from django_formula.host import commands, disk, file, folders, users
from django_formula.host.commands import DeploymentError
from django_formula.host.folders import Folder
from django_formula.release import settings
from django_formula.release.releases import Release
from django_formula.site.sites import Site
from django_formula.source import submodule
from django_formula.source.submodule import Entry
from django_formula.untrusted.foreign import GROUP, Foreign
from django_formula.untrusted.text import Log
from django_formula.virtualenv import uv

log = Log.of(__name__)

#: The programs of Node.js, which may have variables in front of them.
_NODE = re.compile(r"(env )?([A-Za-z_]\w*=\S* )*(npm|npx|yarn|pnpm|bun|bunx|node|corepack)\b")
#: Files that the virtualenv alone is made of.
_OF_PYTHON = re.compile(
    r"(.*/)?(requirements[\w.-]*\.(txt|in)|requirements/[^/]+\.(txt|in)|constraints[\w.-]*\.txt|Pipfile|pyproject\.toml"
    r"|(uv|poetry|pdm|Pipfile)\.lock)"
)
#: What shows that scripts of a package.json may run Python, by which the virtualenv is one of their inputs.
_RUNS_PYTHON = re.compile(r"\b(python3?|manage\.py|pip3?|poetry|pipenv|uv|make|bash|sh)\b")
#: Seconds that the commands have to take, bytes that they may make, and bytes that are to be free, for it to be kept.
_SECONDS, _MOST, _FREE = 5.0, 1 << 30, 3 << 30
#: What makes the list of all that is there, and a file that is older than all that is made then.
_BEGIN = "mkdir {work} && cd {tree} && find . | sort > {work}/before && touch {work}/mark && sleep 0.02"
#: A file that is gone cannot be kept, nor one with the folder of the release: only in JSON that is replaced, as in the
#: statistics that webpack writes for Django.
_MADE = (
    "cd {tree} && find . | sort | comm -23 {work}/before - > {work}/wrong; "
    "find . -cnewer {work}/mark -type f ! -path '*/node_modules/*' ! -name '*.json' -exec grep -lF {tree} '{{}}' + "
    ">> {work}/wrong; test ! -s {work}/wrong && ulimit -f {blocks} && mkdir {work}/made && "
    "find . -cnewer {work}/mark -print0 | "
    "tar --create --file={work}/made/made.tar --null --no-recursion --files-from=-"
)
_TAKE = (
    "cd {tree} && tar --extract --file={archive} && "
    "find . -name '*.json' ! -path '*/node_modules/*' -type f -exec sed -i {replace} '{{}}' +"
)
#: Runs a command as the build user, who may write to the source, and returns what it prints.
Run = Callable[[list[str], str], str]


def leading(site: Site) -> list[str]:
    """Return the first commands of a site's build, as far as they are of Node.js; none in containers."""
    build: list[str] = [] if site.config.get("container") else site.config["build"]
    return [*itertools.takewhile(_NODE.match, build)]


class KeptBuild:
    """What the leading commands of a build make in the source of a release.

    Args:
        commands: these commands.
        commit: of the release.
    """

    def __init__(self, release: Release, tree: Foreign, run: Run, commands: Sequence[str], commit: str):
        self._site, self._release, self._tree, self._run = release.site, release, tree, run
        self._commands, self._commit = commands, commit
        self._folder, self._work = release.site.root / "kept", release.site.build / "kept"
        self._key, self._began = "", 0.0

    def take(self) -> bool:
        """Copy what was made of the same inputs into the source; return whether there was something."""
        if not self._commands:
            return False
        try:
            self._work.remove()
            self._key = self._key_now()
            names = os.listdir(self._folder) if self._folder.is_dir() else []
            name = next((one for one in names if one.startswith(f"{self._key}.")), "")
            if name and self._copy(name):
                return True
            self._script(_BEGIN)
        except (DeploymentError, OSError) as error:
            log.warning("%s: what its front end makes is not kept: %s", self._site.name, error)
            self._key = ""
        self._began = time.monotonic()
        return False

    def keep(self) -> None:
        """Keep what the commands have made since `take`, in place of what was kept before."""
        if not self._commands:
            file.remove_tree(self._folder)
            return
        took = time.monotonic() - self._began
        try:
            if self._key and took >= _SECONDS and disk.free(self._site.root).bytes >= _FREE:
                self._script(_MADE, blocks=_MOST // 512)
                self._store(self._work / "made")
        except (DeploymentError, OSError) as error:
            log.info("%s: what its front end has made is not kept: %s", self._site.name, error)
        finally:
            self._work.remove()

    def _key_now(self) -> str:
        """Return the name of all that the commands may read."""
        site = self._site
        found = [one for one in submodule.entries(site, self._commit) if not _OF_PYTHON.fullmatch(one.path)]
        versions = self._run(["sh", "-c", "node --version; npm --version"], "reading the version of Node.js")
        inputs = {
            "files": [[one.mode, one.name, one.path] for one in found],
            "given": settings.files_of_build(site),
            "commands": [*self._commands],
            "environment": uv.build_environment(site),
            "node": versions,
            "virtualenv": self._release.record["virtualenv"] if self._runs_python(found) else "",
        }
        return hashlib.sha256(json.dumps(inputs, sort_keys=True).encode(errors="surrogateescape")).hexdigest()[:32]

    def _runs_python(self, entries: Collection[Entry]) -> bool:
        """Return whether scripts of a package.json may run a program of the virtualenv."""
        paths = [one.path for one in entries if f"/{one.path}".endswith("/package.json")]
        return any(_RUNS_PYTHON.search((self._tree / path).text() or "") for path in paths)

    def _copy(self, name: str) -> bool:
        """Copy what is kept into the source; return whether that has worked."""
        archive = self._folder / name
        of_release = str(self._site.releases / name.split(".")[1] / "source").replace(".", "[.]")
        replace = f"s#{of_release}#{self._tree}#g"
        try:
            self._script(_TAKE, archive=shlex.quote(str(archive)), replace=shlex.quote(replace))
        except DeploymentError as error:
            log.warning("%s: %s cannot be used, and is deleted: %s", self._site.name, archive, error)
            archive.unlink()
            raise
        return True

    def _store(self, made: Foreign) -> None:
        """Make the archive root's, in a folder where the build user may read it but not change it.

        Raises:
            DeploymentError: what the build user has made is not one file of its own, or it is too large.
        """
        builder, archive = users.user_id(self._site.build_user), (made / "made.tar").status()
        is_own = archive and stat.S_ISREG(archive.st_mode) and (archive.st_uid, archive.st_nlink) == (builder, 1)
        if not archive or not is_own or archive.st_size > _MOST or made.names() != ["made.tar"]:
            raise DeploymentError(f"{made} has something else than an archive of at most {_MOST} bytes")
        made.give((0, users.group_id(self._site.build_user)), GROUP, of=builder, links=False)
        folders.make(Folder(self._folder, "root", self._site.build_user, 0o750))
        new = self._folder / ".made.new"
        new.unlink(missing_ok=True)
        (made / "made.tar").share(new)
        descriptor = os.open(new, os.O_RDONLY | os.O_NOFOLLOW)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)
        for other in self._folder.glob("[!.]*"):
            other.unlink()
        new.rename(self._folder / f"{self._key}.{self._release.name}.tar")

    def _script(self, text: str, **values: str | int) -> None:
        tree, work = shlex.quote(str(self._tree)), shlex.quote(str(self._work))
        script = f"export LC_ALL=C PATH={commands.PATH}; {text.format(tree=tree, work=work, **values)}"
        self._run(["sh", "-c", script], "keeping a build")
