"""Read a project from its source and write a pillar that deploys it. No code of the project is run."""

import contextlib
import os
import re
import shutil
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from django_formula.host import commands, users
from django_formula.host.commands import DeploymentError
from django_formula.inspect import code, layout, options
from django_formula.inspect import report as inspect_report
from django_formula.inspect.report import Report
from django_formula.site.sites import Site
from django_formula.source import commits, mirror
from django_formula.source import reader as source_reader
from django_formula.untrusted import delegate, shapes
from django_formula.untrusted.foreign import OWN, Foreign
from django_formula.untrusted.text import proposal, shown, tell

#: The user who reads a repository that no site has yet.
_READER = "nobody"
#: What the process answers that has read a source; another one of its user may have replaced it.
_ANSWER = {"remarks": [inspect_report.REMARK], "lines": [inspect_report.LINE], "keys": {str: Any}}
#: Names that the schema refuses.
_RESERVED = re.compile(
    r"root|daemon|bin|sys|sync|games|man|lp|mail|news|uucp|proxy|www-data|backup|list|irc|gnats|nobody|messagebus|sshd"
    r"|ntp|dbus|polkitd|systemd-.*|postgres|mysql|redis|nginx|apache|salt|admin|adm|sudo|wheel|users|staff|django|django-ops"
)


def inspect(where: str, revision: str = "HEAD", deploy_key: str | None = None) -> str:
    """Return a pillar for a project, with comments where something was guessed.

    Args:
        where: the URL of a repository, or a folder.
        revision: a branch, a tag or a commit of the repository.
        deploy_key: the path of a private SSH key for the repository.

    Raises:
        DeploymentError: the source cannot be fetched, or has no project.
    """
    where = str(Path(where).resolve()) if Path(where).is_dir() else where
    with _source(where, revision, deploy_key) as (tree, commit, user):
        answer = read(where, revision, tree, commit, user)
    return inspect_report.text(where, name_of(where), answer["remarks"], answer["lines"])


def read(where: str, revision: str, tree: Path, commit: str, user: str | None) -> dict[str, Any]:
    """Read a source as a user: text from outside, if that user is not root.

    Returns:
        ``remarks`` and ``lines``, as `inspect.report.text` takes them; ``keys``, the keys of the pillar that need not
        be completed.

    Raises:
        DeploymentError: it has no project.
    """
    arguments = (where, revision, is_folder(where, revision), tree, commit, _host_python())
    doing = f"reading {commands.redact(where)}"
    answer: dict[str, Any] = delegate.ask(user, _found, *arguments, doing=doing, timeout=120, memory=1 << 30)
    if not shapes.fits(answer, _ANSWER):
        raise DeploymentError(f"{doing}: it ended without a usable answer")
    return answer


def found(where: str, revision: str = "HEAD", domain: str = "localhost") -> dict[str, Any]:
    """Return the keys of the pillar that need not be completed, without the source and the domains.

    Args:
        where: the URL of a repository, or a folder.
        revision: a branch, a tag or a commit of the repository.
        domain: the domain of the site.

    Raises:
        DeploymentError: the source cannot be fetched, or has no project.
    """
    where = str(Path(where).resolve()) if Path(where).is_dir() else where
    with _source(where, revision, None) as (tree, _commit, user):
        doing = f"reading {commands.redact(where)}"
        keys: dict[str, Any] = delegate.ask(user, _keys, tree, domain, doing=doing, timeout=120, memory=1 << 30)
        return keys


def _keys(tree: Path, domain: str) -> dict[str, Any]:
    report = Report()
    _read(report, tree, domain, "")
    return report.keys()


def _found(where: str, revision: str, is_folder: bool, tree: Path, commit: str, host: str) -> dict[str, Any]:
    """Return what the pillar for a tree has, as data; this runs as the user who can write to the tree."""
    report = Report()
    name = name_of(where)
    if commit:
        report.remarks.append(f"commit {commit[:12]}")
    _location(report, where, revision, name, is_folder)
    _read(report, tree, f"{name}.example.org", host)
    return {"remarks": report.remarks, "lines": report.lines(), "keys": report.keys()}


def _read(report: Report, tree: Path, domain: str, host: str) -> None:
    """Add what is found in a tree to a report.

    Args:
        domain: the domain of the site.
        host: the version of this host's python3; empty if there is none.
    """
    code.begin()
    try:
        options.add(report, tree, layout.add(report, tree), domain, host)
        report.leave_out_refused()
    except code.UNEXPECTED as error:
        path = code.Reading.path
        after = f", after {os.path.relpath(path, tree)} was read" if path else ""
        raise DeploymentError(
            f"the project could not be inspected: {type(error).__name__}: {str(error)[:300]}{after}",
            hint="inspect a copy of the project without that file, or write the pillar after pillar.example",
        ) from None
    for path, lines in code.Reading.unread.items():
        where = f"{os.path.relpath(path, tree)}:{lines[0]}"
        report.remarks.append(f"not read: {where} is nested too deep; split that statement if its settings are missing")


@contextlib.contextmanager
def _source(where: str, revision: str, deploy_key: str | None) -> Iterator[tuple[Path, str, str | None]]:
    """Yield the tree of a folder, or of a repository's commit in a temporary folder.

    Yields:
        The tree; its commit, empty for a folder; the user to read it as, None for the own one.
    """
    if is_folder(where, revision):
        yield Path(where), "", None if os.geteuid() else _reader(where)
        return
    with tempfile.TemporaryDirectory(prefix="django-inspect-") as folder:
        tree, commit = _fetched(folder, where, revision, deploy_key)
        if os.geteuid():
            yield tree, commit, None
            return
        os.chmod(folder, 0o711)  # noqa: S103  # nosec B103 - its content is not accessible to others
        Foreign(tree).give(users.owner(_READER, "nogroup"), OWN, of=0)
        yield tree, commit, _READER


def _fetched(folder: str, where: str, revision: str, deploy_key: str | None) -> tuple[Path, str]:
    """Export a commit of a repository below a folder, as a site without further configuration would."""
    config: dict[str, Any] = {"name": "inspected", "user": "root", "root": folder, "repository": where, "folder": None}
    config |= {"revision": revision, "submodules": False, "known_hosts": [], "timeouts": {"fetch": "2m"}}
    config["releases"] = {"files": 100_000, "size": "1G"}
    site = Site(config, {"nginx": {"group": "root"}})
    site.mirror.mkdir(mode=0o700)
    mirror.prepare(site, Path(deploy_key).read_text() if deploy_key else None)
    commit = commits.resolve(site, revision)
    commits.fetch_only(site, commit)
    tree = site.root / "source"
    commits.export(site, commit, tree)
    return tree, commit


def _reader(folder: str) -> str | None:
    """Return the user who can change what a folder's path leads to, or None for root."""
    reader = source_reader.reader(folder)
    if reader.uid and reader.name is None:
        raise DeploymentError(
            f"{folder} is owned by uid {reader.uid}, which is not a user of this host",
            hint=proposal("change its owner: {}", "chown", "-R", "root", folder),
        )
    return reader.name


def is_folder(where: str, revision: str) -> bool:
    """Return whether the files of a folder are inspected, not a repository there, bare or at a revision."""
    return Path(where).is_dir() and not Path(where, "objects").is_dir() and revision == "HEAD"


def name_of(where: str) -> str:
    """Return a name for the site: that of its repository or folder."""
    last = re.split(r"[/:]", where.rstrip("/"))[-1].removesuffix(".git").lower()
    name = _not_of_builder(re.sub(r"[^a-z0-9]+", "-", last).strip("-"))
    name = "built" if name == "build" else name
    name = name if name[:1].isalpha() and not _RESERVED.fullmatch(name) else f"site-{name}"
    return _not_of_builder(name[:26].strip("-"))


def _not_of_builder(name: str) -> str:
    """Return a name that is not one of a build user, which has -build at its end."""
    while name.endswith("-build"):
        name = name.removesuffix("-build")
    return name


def _location(report: Report, where: str, revision: str, name: str, is_folder: bool) -> None:
    if is_folder:
        report.set("folder", where)
    else:
        report.set("repository", where)
        if revision != "HEAD":
            report.set("revision", revision)
    report.set("domains", [f"{name}.example.org"], "guessed: replace it by the site's domains")


def _host_python() -> str:
    """Return the version of this host's python3; empty if there is none."""
    python = shutil.which("python3", path=commands.PATH)
    program = "import platform; print(platform.python_version())"
    with contextlib.suppress(DeploymentError):
        argv = [python or "python3", "-I", "-S", "-c", program]
        return commands.run(argv, doing="reading the version of python3").strip()
    return ""


if __name__ == "__main__":
    try:
        tell(inspect(*sys.argv[1:3]), end="")
    except (DeploymentError, OSError) as failure:
        sys.exit(shown(f"quickstart: {failure}", lines=True))
