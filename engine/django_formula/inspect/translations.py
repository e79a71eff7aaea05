"""Translations of a project whose compiled catalogues are not committed: a release without them has no translations."""

import os
from collections.abc import Iterator
from pathlib import Path, PurePosixPath

from django_formula.inspect import build, project
from django_formula.inspect.report import Report
from django_formula.inspect.settings import Settings
from django_formula.knowledge import package as knowledge_package

#: The catalogues that Django reads.
_NAMES = ("django.po", "djangojs.po")
#: Folders below the source in which one is looked for.
_DEPTH = 12


def add(report: Report, settings: Settings, tree: Path, folder: str) -> None:
    """Add the command that compiles the catalogues of a project, where none of them is committed in its compiled form.

    Without settings compilemessages compiles those in folders named locale below the one in which it runs.

    Args:
        folder: the folder of manage.py.
    """
    found = [] if settings.get("USE_I18N") is False else [*_catalogues(settings, tree, tree / folder)]
    if found and not any(path.with_suffix(".mo").is_file() for path, _needs_settings in found):
        needs_settings = any(needs_settings for _path, needs_settings in found)
        plain, name = "django-admin compilemessages", "compilemessages"
        why = f"{found[0][0].relative_to(tree)} is committed, and not what is compiled of it"
        report.extend("build", [build.command(report, settings, name) if needs_settings else plain], why)
        report.extend("packages", [knowledge_package.of_program("msgfmt")], f"for {name}")


def _catalogues(settings: Settings, tree: Path, top: Path) -> Iterator[tuple[Path, bool]]:
    """Yield the catalogues that Django reads, and whether only the settings say where they are."""
    listed = settings.get("LOCALE_PATHS")
    named = [one for one in listed if isinstance(one, str | PurePosixPath)] if isinstance(listed, list) else []
    folders = {Path(os.path.normpath(top / one)) for one in named}
    for path in project.walk(tree, None, _DEPTH):
        if path.name in _NAMES and path.parent.name == "LC_MESSAGES" and len(path.relative_to(tree).parts) > 3:
            above = path.parents[2]
            is_plain = above.name == "locale" and above.is_relative_to(top)
            if is_plain or above in folders:
                yield path, not is_plain
