"""Find what a project with django-compressor needs: its blocks are compressed in a release, not at requests."""

import re
from pathlib import Path
from typing import Any

from django_formula.inspect import code as inspect_code
from django_formula.inspect import project
from django_formula.inspect.report import Report
from django_formula.inspect.settings import Settings
from django_formula.inspect.values import UNKNOWN
from django_formula.knowledge import package as knowledge_package

#: Folders below the source in which a template is looked for.
_DEPTH = 12
_BLOCK = re.compile(r"{%\s*compress\b.*?{%\s*endcompress\s*%}", re.S)


def add(report: Report, settings: Settings, tree: Path) -> None:
    """Add the command, settings and packages by which a release compresses all blocks."""
    installed = settings.get("INSTALLED_APPS")
    has_compressor = installed is UNKNOWN or "compressor" in installed
    is_offline = settings.get("COMPRESS_OFFLINE")
    if is_offline is True and has_compressor:
        report.extend("commands", [("after_static", ["manage.py compress"])], "COMPRESS_OFFLINE")
    elif _compresses_at_requests(settings) and is_offline is not True and (blocks := _blocks(tree)):
        comment = "django-compressor would write to STATIC_ROOT when a page is requested"
        report.merge("settings", {"COMPRESS_OFFLINE": True}, comment)
        report.extend("commands", [("after_static", ["manage.py compress"])], "COMPRESS_OFFLINE")
        languages = _languages(settings)
        if languages and "COMPRESS_OFFLINE_CONTEXT" not in settings.values and "LANGUAGE_CODE" in blocks:
            contexts = [{"LANGUAGE_CODE": code} for code in languages]
            report.merge("settings", {"COMPRESS_OFFLINE_CONTEXT": contexts}, "a block to compress has LANGUAGE_CODE")
    precompilers = settings.get("COMPRESS_PRECOMPILERS")
    for entry in precompilers if isinstance(precompilers, list) and has_compressor else ():
        words = entry[1].split() if isinstance(entry, list) and len(entry) > 1 and isinstance(entry[1], str) else []
        package = knowledge_package.of_program(words[0]) if words else ""
        if package:
            report.extend("packages", [package], "for COMPRESS_PRECOMPILERS")


def _compresses_at_requests(settings: Settings) -> bool:
    """Return whether the project has django-compressor, and nothing turns it off."""
    installed, is_on = settings.get("INSTALLED_APPS"), settings.get("COMPRESS_ENABLED")
    return isinstance(installed, list) and "compressor" in installed and is_on is not False


def _languages(settings: Settings) -> list[str]:
    """Return the languages of the settings; without LANGUAGES the one of LANGUAGE_CODE."""
    listed: Any = settings.get("LANGUAGES")
    if isinstance(listed, list):
        codes = [one[0] if isinstance(one, list) and one else None for one in listed]
    else:
        codes = [settings.get("LANGUAGE_CODE")]
    known = [code for code in codes if isinstance(code, str)]
    return known if len(known) == len(codes) else []


def _blocks(tree: Path) -> str:
    """Return the blocks of templates that are compressed."""
    paths = (path for path in project.walk(tree, None, _DEPTH) if path.suffix in (".html", ".jinja", ".jinja2", ".txt"))
    return "\n".join(block for path in paths for block in _BLOCK.findall(inspect_code.read(path)))
