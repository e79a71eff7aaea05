"""The history of a site's source: what a commit is, and what differs between two."""

import re
from typing import Any

from django_formula.host import clock, commands
from django_formula.site.sites import Site
from django_formula.source import git, mirror

_REQUIREMENTS = re.compile(r"(^|/)([^/]*requirements[^/]*(/[^/]+)?\.(txt|in)|[^/]*\.lock|pyproject\.toml)$")
_HEADER = re.compile(r"diff --git |index [0-9a-f]+\.\.|--- |\+\+\+ ")
#: The most commits between two that are shown, and the most lines of a diff.
_COMMITS, _LINES = 20, 60


def describe(site: Site, commit: str) -> dict[str, Any]:
    """Return author, subject and date of a commit; of the tree of a folder, the name of the folder."""
    if site.config["folder"]:
        return {"subject": f"the files of {site.config['folder']}"}
    shown = git.run(site, "show", "-s", "--format=%ct%n%an%n%s", commit, doing="reading the commit").strip()
    date, author, subject = [*shown.split("\n", 2), "", ""][:3]
    author, subject = (git.plain(text[:1000])[:200] for text in (author, subject))
    return {"author": author, "subject": subject, "committed": clock.timestamp(float(date))}


def difference(site: Site, old: str | None, new: str) -> dict[str, Any]:
    """Return the difference between two commits; nothing if the mirror does not have both.

    Returns:
        ``files`` (the number that differ), ``commits`` (new ones, the newest first, at most 20), ``left`` (commits that
        the new one does not have), ``requirements`` (path → diff), ``migrations`` (paths of new ones).
    """
    if not old or not mirror.has_tree(site, old) or not mirror.has_tree(site, new):
        return {}
    changed = git.run(
        site, "diff", "--no-renames", "--name-status", "-z", old, new, doing="comparing the commits"
    ).split("\0")
    pairs = list(zip(changed[::2], changed[1::2], strict=False))
    answer: dict[str, Any] = {"files": len(pairs)}
    if not site.config["folder"]:
        answer |= {"commits": _log(site, old, new), "left": _log(site, new, old)}
    requirements = [path for _status, path in pairs if _REQUIREMENTS.search(path)]
    answer["requirements"] = {git.plain(path): _diff(site, old, new, path) for path in requirements[:10]}
    answer["migrations"] = [
        git.plain(p) for status, p in pairs if status == "A" and re.search(r"(^|/)migrations/(?!__init__)[^/]+\.py$", p)
    ]
    return {key: value for key, value in answer.items() if value}


def _log(site: Site, old: str, new: str) -> list[str]:
    """Return the commits of `new` that `old` does not have, a line each."""
    arguments = ["log", "--format=%h %an: %s", "-n", str(_COMMITS + 1), f"{old}..{new}"]
    lines = git.run(site, *arguments, doing="listing the commits").split("\n")
    lines = [git.plain(line[:1000])[:200] for line in lines if line]
    return [*lines[:_COMMITS], "…"] if len(lines) > _COMMITS else lines


def _diff(site: Site, old: str, new: str, path: str) -> str:
    """Return the diff of a file between two commits, without header and credentials."""
    options = ["--no-renames", "--no-ext-diff", "--no-textconv", "--unified=1"]
    arguments = ["-c", "core.bigFileThreshold=512k", "diff", *options, old, new, "--", path]
    lines = git.run(site, *arguments, doing="comparing the commits").splitlines()
    lines = [git.plain(line[:1000])[:300] for line in lines if not _HEADER.match(line)]
    more = [f"… {len(lines) - _LINES} lines more"] if len(lines) > _LINES else []
    return commands.redact("\n".join([*lines[:_LINES], *more]))
