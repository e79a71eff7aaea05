"""Files that a project writes or commits next to its code: data that outlives a release, logs, static files."""

import ast
import os
import re
from collections.abc import Iterator
from pathlib import Path, PurePosixPath
from typing import Any

from django_formula.inspect import code, environment, project
from django_formula.inspect.settings import Settings
from django_formula.inspect.values import Called, Value, plain
from django_formula.knowledge.rows import rows

#: Settings with paths that the formula knows, or that the project only reads.
_READ = re.compile(
    r"STATIC_ROOT|MEDIA_ROOT|STATICFILES_DIRS|TEMPLATES|TEMPLATE_DIRS|LOCALE_PATHS|FIXTURE_DIRS|DATABASES|LOGGING"
    r"|.*(BASE|ROOT_DIR|PROJECT|HERE|SITE_ROOT|APPS?|LOCALE|TEMPLATE|STATIC|FRONTEND|WEBPACK|VITE|COMPRESS|PIPELINE"
    r"|NODE|NPM|YARN|BOWER|BUNDLE|MANIFEST|FIXTURE|REQUIREMENTS|VERSION|LICENSE|DOCS?|SPHINX|TESTS?|SCHEMA).*"
)
_DATA = re.compile(
    r"data|upload|storage|index|backup|private|protected|sendfile|archive|media|export|document|var"
    r"|image|img|photo|picture|avatar|attachment",
    re.I,
)
_TEMPORARY = re.compile(r"cache|tmp|temp|logs?$|run$", re.I)
_FILE = re.compile(r"\.(sqlite3?|db|key|pem|secret|json|txt|log|dat|pickle|pid|sock)$", re.I)
_CREATED = re.compile(r"""\bCreateExtension\(\s*(?:name=)?["']([a-z][a-z0-9_-]*)["']""")
#: Operations with a name of their own that make one which the owner may not create, or whose package is not installed.
_OPERATIONS = {"bloom": re.compile(r"\bBloomExtension\("), "vector": re.compile(r"\bVectorExtension\(")}
#: Extensions that the owner of a database may create, since PostgreSQL 13.
_TRUSTED = {
    *("btree_gin", "btree_gist", "citext", "cube", "dict_int", "fuzzystrmatch", "hstore", "intarray", "isn", "lo"),
    *("ltree", "pg_trgm", "pgcrypto", "seg", "tablefunc", "tcn", "tsm_system_rows", "tsm_system_time", "unaccent"),
    "uuid-ossp",
}
#: Ends of names of settings with folders.
_OF_FOLDERS = re.compile(r"(DIR|DIRECTORY|PATH|ROOT|FOLDER|HOME|BASE)$")
#: Folders of the system, of people and of other sites, in which no project has data, and those that every process may
#: write to.
_OF_OTHERS = (
    r"/+(bin|boot|dev|etc|home|lib\w*|proc|root|run|sbin|srv/django|sys|tmp|usr|var/(backups|mail|run|spool|tmp))/"
)
#: How every SQLite file begins.
_SQLITE = b"SQLite format 3\0"
_PLACEHOLDERS = {".gitkeep", ".gitignore", ".keep", "README", "README.md", "README.txt", ".placeholder", "__init__.py"}


def written(settings: Settings, tree: Path, folder: str) -> tuple[list[str], list[str]]:
    """Return what the project writes inside its source: paths with data that outlives a release, and other folders.

    Folders of logs, which logging does not create, are listed too where they are below another path.

    Args:
        folder: the folder of manage.py.
    """
    shared: dict[str, None] = {}
    writable: dict[str, None] = {}
    of_logs: set[str] = set()
    for path, is_log in _paths(settings, tree, folder):
        inside = _outermost(tree, path)
        if not inside:
            continue
        of_logs |= _folder_of_log(settings, tree, path, is_log=is_log)
        above = PurePosixPath(inside).parent
        if settings.written.get(PurePosixPath(tree / inside)) == "file" and "." not in inside.rpartition("/")[2]:
            # it would be shared as a folder, having no suffix; no code is made writable for it, nor the whole source
            has_code = str(above) == "." or any((tree / above).glob("*.py"))
            writable |= {} if has_code else {str(above): None}
        elif _FILE.search(inside) and not (tree / inside).is_dir():
            shared[inside] = None
        elif is_log or _TEMPORARY.search(inside.rpartition("/")[2]):
            writable[inside] = None
        else:
            shared[inside] = None
    only = [path for path in writable if not any(_is_below(path, one) or _is_below(one, path) for one in shared)]
    kept = _without_inner(shared)
    below = {path for path in of_logs if any(path != outer and _is_below(path, outer) for outer in kept)}
    return sorted({*kept, *below}), _without_inner(only)


def _folder_of_log(settings: Settings, tree: Path, path: PurePosixPath, *, is_log: bool) -> set[str]:
    """Return the folder of a log file, or one of logs that a setting names and the settings do not create; or none.

    Args:
        is_log: whether a handler of LOGGING writes the file.
    """
    is_file = bool(_FILE.search(path.name))
    folder = path.parent if is_file else path
    inside = _relative(tree, folder)
    is_of_logs = is_log if is_file else any(re.fullmatch(r"logs?", part, re.I) for part in path.parts)
    is_made = any(kind == "folder" and _is_below(str(made), str(folder)) for made, kind in settings.written.items())
    if not inside or not is_of_logs or is_made or not re.fullmatch(r"[\w/@+-]+", str(inside)):
        return set()
    return {str(inside)}


def elsewhere(settings: Settings, tree: Path) -> dict[str, str]:
    """Return the settings that name a folder for data outside of the source, and these folders, unless by a variable.

    Not those of Django, which the formula knows, and none of the system, of people or of other sites.
    """
    found = {}
    for name, value in settings.values.items():
        path = plain(value)
        is_path = isinstance(path, str | PurePosixPath) and re.fullmatch(r"/[\w./@+-]+", str(path))
        if is_path and not value.taint and _OF_FOLDERS.search(name) and not _READ.fullmatch(name):
            folder = PurePosixPath(os.path.normpath(path))
            is_elsewhere = not folder.is_relative_to(tree) and not re.match(_OF_OTHERS, f"{folder}/")
            if is_elsewhere and any(map(_DATA.search, (name, folder.name))):
                found[name] = str(folder)
    return found


def key_file(settings: Settings, tree: Path, folder: str) -> str:
    """Return the file that SECRET_KEY is read from and that the source lacks, unless the settings write it; or nothing.

    It is relative to the source.

    Args:
        folder: the folder of manage.py.
    """
    content = settings.values.get("SECRET_KEY", Value()).content
    path = content.args[0].content if isinstance(content, Called) and content.name == "open" else None
    if not isinstance(path, str | PurePosixPath) or path in settings.written:
        return ""
    inside = _relative(tree, PurePosixPath(os.path.join(tree / folder, path)))
    is_missing = inside and not (tree / inside).exists() and re.fullmatch(r"[\w./@+-]+", str(inside))
    return str(inside) if is_missing else ""


def extensions(tree: Path) -> list[str]:
    """Return the extensions of PostgreSQL that migrations create and that the owner of a database cannot create.

    Only a superuser may create them, or they are in a package of their own.
    """
    paths = (path for path in project.walk(tree, None, depth=6) if path.parent.name == "migrations")
    texts = [text for path in paths if path.suffix == ".py" and "Extension(" in (text := code.read(path))]
    found = {name for text in texts for name in _CREATED.findall(text)}
    found |= {name for name, operation in _OPERATIONS.items() if any(map(operation.search, texts))}
    return sorted(found - _TRUSTED)


def refused_by_mysql(tree: Path) -> str:
    """Return the place of a ForeignKey with the default 0 that a migration adds, which MySQL refuses; else empty."""
    for path in sorted(project.walk(tree, None, depth=6)):
        is_migration = path.suffix == ".py" and path.parent.name == "migrations"
        for call in _calls(code.tree(path), "AddField") if is_migration else ():
            for field in _calls(call, "ForeignKey"):
                values = [getattr(one.value, "value", None) for one in field.keywords if one.arg == "default"]
                if values == [0]:
                    return f"{path.relative_to(tree)}:{field.lineno}"
    return ""


def _calls(top: ast.AST, name: str) -> Iterator[ast.Call]:
    """Yield the calls of a name in a part of a module."""
    for node in ast.walk(top):
        if isinstance(node, ast.Call) and code.dotted(node.func).rpartition(".")[2] == name:
            yield node


def command_with(tree: Path, module: str) -> str:
    """Return the project's own management command that imports a module of a package; empty if none does."""
    for path in project.walk(tree, None, depth=6):
        is_command = path.suffix == ".py" and path.parent.name == "commands" and code.is_module(path.stem)
        if is_command and not path.name.startswith("_"):
            text = code.read(path)
            if module in text and code.names(code.parse(text), module):
                return path.stem
    return ""


def _is_below(path: str, other: str) -> bool:
    return path == other or path.startswith(f"{other}/")


def _without_inner(paths: Any) -> list[str]:
    every = [*paths]
    return sorted(path for path in every if not any(path != other and _is_below(path, other) for other in every))


def _paths(settings: Settings, tree: Path, folder: str) -> Iterator[tuple[PurePosixPath, bool]]:
    """Yield the paths below a source that the project writes to, and whether a release begins without their files.

    Those that are relative are below the folder of manage.py, in which the project runs.
    """
    current = tree / folder
    for log in settings.log_files():
        yield PurePosixPath(os.path.join(current, log)), True
    served = {str(settings.get(name)) for name in ("STATIC_ROOT", "MEDIA_ROOT")}
    served |= {str(one) for one in _listed(settings.get("STATICFILES_DIRS"))}
    for path, kind in settings.written.items():
        whole = PurePosixPath(os.path.join(current, path))
        if kind == "folder" and str(path) == str(settings.get("STATIC_ROOT")):
            yield whole, True  # only created: a release collects its files elsewhere
        elif kind == "folder" and environment.is_in_media(settings, path):
            if not settings.values["MEDIA_ROOT"].source:  # else a variable gives the folder of the site's uploads
                yield whole, True  # only created: uploads are elsewhere
        elif str(path) not in served:
            yield whole, kind == "folder" and bool(_TEMPORARY.search(path.name))
    for name, value in settings.values.items():
        if _READ.fullmatch(name):
            continue
        for path in _inner(plain(value)):
            inside = _relative(tree, path)
            parts = inside.parts if inside else ()
            is_data = any(map(_DATA.search, (name, *parts))) or path.suffix in (".sqlite", ".sqlite3", ".db")
            if is_data or _TEMPORARY.search(path.name):
                yield path, False


def _inner(value: Any) -> Iterator[PurePosixPath]:
    """Yield the absolute paths in a value."""
    if isinstance(value, PurePosixPath):
        yield value
    elif isinstance(value, str) and re.fullmatch(r"/[\w./@ -]+", value):
        yield PurePosixPath(value)
    elif isinstance(value, list | dict):
        for part in value.values() if isinstance(value, dict) else value:
            yield from _inner(part)


def _outermost(tree: Path, path: PurePosixPath) -> str:
    """Return the outermost folder on the way to a path that has no committed files, relative to the source.

    Empty for a path that is elsewhere, or has committed files.
    """
    inside = _relative(tree, path)
    parts = inside.parts if inside else ()
    for number in range(1, len(parts) + 1):
        part = PurePosixPath(*parts[:number])
        if not _has_files(tree / part):
            return str(part) if re.fullmatch(r"[\w./@+-]+", str(part)) else ""
    return ""


def _relative(tree: Path, path: PurePosixPath) -> PurePosixPath | None:
    """Return a path relative to the source, or None if it is elsewhere."""
    whole = PurePosixPath(os.path.normpath(path))
    return whole.relative_to(tree) if whole.is_relative_to(tree) else None


def _has_files(path: Path) -> bool:
    """Return whether a path is a file, or a folder with other files than placeholders; logs were committed in error."""
    if not path.is_dir():
        return path.exists() and path.suffix != ".log"
    return any(
        name not in _PLACEHOLDERS and not name.endswith(".log")
        for _parent, _folders, names in os.walk(path)
        for name in names
    )


def committed_static_files(settings: Settings, tree: Path) -> str:
    """Return the folder of STATIC_ROOT in a source if it has files that collectstatic would not find elsewhere.

    Empty if it has none, or neither a style sheet nor a script: the pages need those that are collected.
    """
    top = _folder_inside(settings, "STATIC_ROOT", tree)
    if not top or (top.name == "static" and top.parent.name in _labels(settings)):  # an application's own are collected
        return ""
    own = {path.relative_to(top) for path in _files(top)}
    own = {path for path in own if path.name not in _PLACEHOLDERS and path.parts[0] not in rows("static_folders")}
    if any(path.suffix in (".css", ".js") for path in own) and not own & _sources(settings, tree, top):
        return str(top.relative_to(tree))
    return ""


def static_folders(settings: Settings, tree: Path, folder: str, committed: str) -> list[str]:
    """Return STATICFILES_DIRS with a committed STATIC_ROOT, relative to the folder of manage.py.

    None where the project serves STATIC_ROOT itself, its storage has a manifest there, or the folders are not known.
    """
    names = ("STATICFILES_DIRS", "STATICFILES_FINDERS")
    listed, finders = (settings.get(name) if name in settings.values else None for name in names)
    installed, middleware = (_listed(settings.get(name)) for name in ("INSTALLED_APPS", "MIDDLEWARE"))
    storage = [settings.get("STATICFILES_STORAGE"), settings.get("STORAGES", "staticfiles", "BACKEND")]
    own = [str(path) for path in _listed(listed) if isinstance(path, str | PurePosixPath)]
    serves = re.compile("|".join(rows("serve_static")), re.IGNORECASE)
    is_served = any(serves.search(str(one)) for one in middleware) or any("Manifest" in str(one) for one in storage)
    is_found = finders is None or "FileSystemFinder" in str(finders)
    if not committed or is_served or not is_found or "django.contrib.staticfiles" not in installed:
        return []
    if listed is not None and len(own) != len(_listed(listed)):
        return []
    return [os.path.relpath(os.path.join(tree, path), tree / folder) for path in dict.fromkeys([*own, committed])]


def _labels(settings: Settings) -> set[str]:
    """Return the names of the folders of the installed applications."""
    listed = [name.split(".") for name in _listed(settings.get("INSTALLED_APPS")) if isinstance(name, str)]
    return {parts[-3] if len(parts) > 2 and parts[-2] == "apps" else parts[-1] for parts in listed}


def committed_uploads(settings: Settings, tree: Path) -> str:
    """Return the folder of MEDIA_ROOT in a source if it has files; empty if it has none, or is elsewhere."""
    top = _folder_inside(settings, "MEDIA_ROOT", tree)
    return str(top.relative_to(tree)) if top and _has_files(top) else ""


def _folder_inside(settings: Settings, setting: str, tree: Path) -> Path | None:
    """Return the folder of a setting if it is one in a source, else None."""
    root = settings.get(setting)
    if not isinstance(root, str | PurePosixPath) or not str(root):
        return None
    top = Path(os.path.normpath(os.path.join(tree, root)))
    return top if top != tree and top.is_relative_to(tree) and top.is_dir() else None


def committed_database(settings: Settings, tree: Path) -> str:
    """Return the SQLite file of the default database if it is in a source; empty if it is not."""
    engine, name = (settings.get("DATABASES", "default", key) for key in ("ENGINE", "NAME"))
    if not str(engine).endswith("sqlite3") or not isinstance(name, str | PurePosixPath):
        return ""
    inside = _relative(tree, PurePosixPath(os.path.join(tree, name)))
    path = tree / inside if inside else tree
    if not path.is_file() or not re.fullmatch(r"[\w./@+-]+", str(inside)):
        return ""
    with open(path, "rb") as file:
        return str(inside) if file.read(len(_SQLITE)) == _SQLITE else ""


def _sources(settings: Settings, tree: Path, top: Path) -> set[Path]:
    """Return the names of the static files that collectstatic finds in a source."""
    folders = {Path(os.path.join(tree, str(one))) for one in _listed(settings.get("STATICFILES_DIRS"))}
    for parent, names, _files_in in os.walk(tree):
        names[:] = [name for name in names if name not in (".git", "node_modules")]
        folders |= {Path(parent, name) for name in names if name == "static"}
    return {path.relative_to(folder) for folder in folders - {top} for path in _files(folder)}


def _listed(value: Any) -> list[Any]:
    return value if isinstance(value, list) else []


def _files(folder: Path) -> Iterator[Path]:
    return (Path(parent, name) for parent, _folders, names in os.walk(folder) for name in names)
