"""Whether a release finds the data of the active one: a database in another place begins without it.

A place is written as the URL of a database without its login: ``postgres://db1.example.org/blog``, on the server of
this host ``postgres:///blog``, ``sqlite:////srv/django/blog/database/db.sqlite3``.
"""

import contextlib
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple

from django_formula.database import databases, engines, setup, sqlite
from django_formula.host.commands import DeploymentError
from django_formula.release.releases import Release
from django_formula.site.sites import Site
from django_formula.untrusted.text import in_command, in_pillar

#: Hosts that are the server of this host, apart from the folders of its socket.
_LOCAL = ("", "localhost", "127.0.0.1", "::1")
#: The page that shows how data is moved.
_GUIDE = "docs/guides/databases.md#another-database"


class _Move(NamedTuple):
    """A database that two releases have in different places, or the active release and the pillar.

    Attributes:
        old, new: its places.
        had_tables: whether the old one has tables of the project; None where that is not known.
        has_tables: whether the new one has.
        files: both, where they are SQLite files.
    """

    alias: str
    old: str
    new: str
    had_tables: bool | None
    has_tables: bool | None
    files: tuple[Path, ...] = ()


def refuse_empty(live: Release, release: Release) -> list[str]:
    """Refuse a release with an empty database in another place than the active release's, which has tables.

    Returns:
        A warning for each database in another place.

    Raises:
        DeploymentError: the pillar does not accept an empty one by `replaces`.
    """
    moves = [move for move in _moves(live, release) if move.had_tables and move.has_tables is not None]
    _refuse(release.site, [move for move in moves if not move.has_tables])
    return [
        f"the database {move.alias!r} is now {move.new}{'' if move.has_tables else ', which is empty'}; "
        f"{live.name} has written to {move.old}"
        for move in moves
    ]


def foresee(site: Site, live: Release) -> list[str]:
    """Refuse, before anything is changed, an empty database that the pillar alone shows to be one.

    Returns:
        A warning for each database in another place of which only a release can tell whether it is empty.

    Raises:
        DeploymentError: there is an empty one, and the pillar does not accept it.
    """
    moves = [move for move in _pillar_moves(site, live) if move.had_tables]
    _refuse(site, [move for move in moves if move.has_tables is False])
    return [
        f"the database {move.alias!r} is going to be {move.new}, and the data is in {move.old}: the release is refused "
        "if the new one is empty"
        for move in moves
        if move.has_tables is None and not _is_accepted(site, move)
    ]


def refuse_other(left: Release, target: Release) -> None:
    """Check that a rollback keeps the databases of the active release: what was written since would be out of sight.

    Raises:
        DeploymentError: the other release has another one.
    """
    for move in _moves(target, left):
        if not move.has_tables:
            continue
        old, new = move.files or (move.old, move.new)
        again = left.site.to_return(target.name, target.record.get("commit", ""))
        hint = f"copy what was written since into {old}"
        if move.files:
            copy = in_command(*sqlite.copy_command(left.site.user, *reversed(move.files)))
            hint = f"copy the data, which replaces what is in {old}: {copy}"
        raise DeploymentError(
            f"the database {move.alias!r} of {target.name} is {old}, and {left.name} writes to {new}: what was "
            "written since would be missing",
            hint=f"{hint}; then {again} force=True rolls back",
        )


def _refuse(site: Site, moves: list[_Move]) -> None:
    """Refuse databases that the pillar does not accept.

    Raises:
        DeploymentError: there is one.
    """
    for move in moves:
        if _is_accepted(site, move):
            continue
        key = databases.pillar_key(site, move.alias)
        old, new = move.files or (move.old, move.new)
        empty = f"{key}:replaces: {in_pillar(move.old)} to begin with an empty one"
        hint = f"copy the data first, {_GUIDE}; or set {empty}"
        if move.files:
            copy = in_command(*sqlite.copy_command(site.user, *move.files))
            hint = f"set {key}:name, or {empty}, or copy the data: {copy}"
        raise DeploymentError(
            f"the database {move.alias!r} would be {new}, which is empty; the data is in {old}",
            hint=hint,
            transient=True,
        )


def _is_accepted(site: Site, move: _Move) -> bool:
    return bool(site.config["databases"].get(move.alias, {}).get("replaces") == move.old)


def _moves(old: Release, new: Release) -> Iterator[_Move]:
    """Yield the databases that two releases have in different places."""
    for alias, after in new.facts.get("databases", {}).items():
        before = old.facts.get("databases", {}).get(alias)
        if not before or _place(old, before) == _place(new, after):
            continue
        paths = [
            databases.database_file(one.site, one.path, one.facts, it) for one, it in ((old, before), (new, after))
        ]
        former, later = _resolved(new.site, paths)
        if former and former == later:
            continue
        tables = _has_tables(old, alias, former), _has_tables(new, alias, later)
        files = (former, later) if former and later else ()
        yield _Move(alias, _place(old, before), _place(new, after), *tables, files)


def _resolved(site: Site, paths: list[Path | None]) -> list[Path | None]:
    """Return paths with links resolved; None stays where a database is no file."""
    found = iter(sqlite.resolved(site, *filter(None, paths)))
    return [next(found) if path else None for path in paths]


def _has_tables(release: Release, alias: str, file: Path | None) -> bool | None:
    """Return whether a database has tables of the project; None for one that is not migrated with the site."""
    if file:
        return bool(sqlite.applied(release.site, file))
    migrations = release.facts.get("migrations", {}).get(alias)
    return bool(migrations["applied"]) if migrations else None


def _place(release: Release, database: Mapping[str, Any]) -> str:
    """Return where a database of a release is, by what its settings say."""
    path = databases.database_file(release.site, release.path, release.facts, database)
    engine = engines.find(database["engine"])
    if path or not engine:
        return f"sqlite:///{path}" if path else f"{database['engine']}:{database['name']}"
    return _url(engine, database.get("host"), database.get("port"), database["name"])


def _url(engine: engines.Engine, host: Any, port: Any, name: str) -> str:
    host = str(host or "")
    host = "" if host in (*_LOCAL, *engine.default_sockets) else f"[{host}]" if ":" in host else host
    port = "" if str(port or engine.port) == str(engine.port) else f":{port}"
    return f"{engine.name}://{host}{port}/{name}"


def _pillar_moves(site: Site, live: Release) -> Iterator[_Move]:
    """Yield the databases that the pillar has in another place than the active release."""
    for alias, database in site.config["databases"].items():
        before = live.facts.get("databases", {}).get(alias)
        engine = engines.ENGINES.get(database["engine"] or "")
        if not before or not engine:
            continue
        old = _place(live, before)
        if engine.is_server:
            new = _url(engine, database["host"], database["port"], database["name"])
        elif database["name"]:
            new = f"sqlite:///{databases.sqlite_path(site, alias)}"
        else:
            continue  # the project names the file
        if old != new:
            yield _pillar_move(site, live, alias, old, new)


def _pillar_move(site: Site, live: Release, alias: str, old: str, new: str) -> _Move:
    """Return a move with what can be told of the new database without a release."""
    database = site.config["databases"][alias]
    before = databases.database_file(site, live.path, live.facts, live.facts["databases"][alias])
    after = databases.sqlite_path(site, alias) if database["engine"] == "sqlite" else None
    former, later = _resolved(site, [before, after])
    files = (former, later) if former and later else ()
    if files and former == later:
        return _Move(alias, old, new, None, None)
    if later:
        has_tables: bool | None = bool(sqlite.applied(site, later))
    else:
        has_tables = None if _may_exist(site, alias) else False
    return _Move(alias, old, new, _has_tables(live, alias, former), has_tables, files)


def _may_exist(site: Site, alias: str) -> bool:
    """Return whether a database may be on its server already; one of this host is asked, if it runs."""
    database = site.config["databases"][alias]
    if not database.get("manage"):
        return True
    with contextlib.suppress(DeploymentError):  # which the step `database` reports
        return setup.exists(site, alias)
    return True
