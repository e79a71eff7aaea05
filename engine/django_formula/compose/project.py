"""Compose files for a project: written into its source, for Docker and podman, without Salt."""

import argparse
import json
import os
import re
import sys
from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Any

from django_formula.compose import files as compose_files
from django_formula.compose import image, programs, services, settings
from django_formula.compose import plan as compose_plan
from django_formula.compose import secrets as compose_secrets
from django_formula.compose.plan import Plan
from django_formula.host import environment_files, file
from django_formula.host.commands import DeploymentError
from django_formula.site import sites
from django_formula.source import reader as source_reader
from django_formula.untrusted import delegate, shapes
from django_formula.untrusted.foreign import Foreign
from django_formula.untrusted.text import proposal, shown, tell

#: The uid and gid of the containers of a project in a folder of root.
_NOT_ROOT = 10001


#: Versions of Python that an image has.
_PYTHON = re.compile(r"3\.([6-9]|[1-9]\d)(\.\d+)?")
#: The databases that there is a service for, or a file.
DATABASES = ("postgres", "mysql", "sqlite")
#: Where it is kept which files were written, and what was written next to those that differ, in this work tree.
_RECORD = ".envs/written.json"
_SHAPE = {"files": [str], "offered": {str: str}}


def write_compose_files(name: str, folder: str, python: str = "", database: str = "") -> list[str]:
    """Write the compose files of a site of this host; return what was done.

    Args:
        folder: a work tree of the project.
        python: the version of Python of the image, such as ``3.12``.
        database: one of `DATABASES`, in place of the site's.

    Raises:
        DeploymentError: there is no such site, or no project in the folder.
    """
    given = compose_plan.options_of_site(sites.find(name).config)
    return write(folder, name, {**given, **chosen(python, database)})


def chosen(python: str, database: str) -> dict[str, Any]:
    """Return the options that are chosen on the command line.

    Raises:
        DeploymentError: there is no such database, or no such version of Python.
    """
    if python and not _PYTHON.fullmatch(python):
        raise DeploymentError(
            f"python is {python!r}",
            hint="a version such as 3.12; have 3.10 in quotes for Salt too: python='\"3.10\"'",
        )
    if database and database not in DATABASES:
        raise DeploymentError(f"database is {database!r}", hint=f"one of {', '.join(DATABASES)}")
    own = {"engine": database} if database else {}
    return {**({"python": python} if python else {}), **({"database": own} if own else {})}


def write(where: str, name: str = "", given: Mapping[str, Any] | None = None) -> list[str]:
    """Write the compose files of a project into its folder, as the user who can change what is there.

    Args:
        where: a work tree of the project.
        name: the name of the project; empty for that of the folder.
        given: options of a site, which replace what is found in the source.

    Returns:
        A line for each file, and for what is to be completed.

    Raises:
        DeploymentError: the folder has no project, or no user of this host owns it.
    """
    folder = Path(where).resolve()
    if not folder.is_dir():
        raise DeploymentError(
            f"{where} is not a folder", hint=proposal("clone the project there: {}", "git", "clone", "URL", where)
        )
    reader = source_reader.ROOT if os.geteuid() else source_reader.reader(str(folder))
    if reader.uid and reader.name is None:
        raise DeploymentError(
            f"{folder} is owned by uid {reader.uid}, which is not a user of this host",
            hint=proposal("change its owner: {}", "chown", "-R", "root", str(folder)),
        )
    arguments = (folder, name, dict(given or {}))
    doing = f"writing the compose files of {folder}"
    lines = delegate.ask(reader.name, _write, *arguments, doing=doing, timeout=120, memory=1 << 30)
    if not shapes.fits(lines, [str]):
        raise DeploymentError(f"{doing}: it ended without a usable answer")
    return [shown(line) for line in lines]


def _write(folder: Path, name: str, given: dict[str, Any]) -> list[str]:
    """Inspect the project and write the files; this runs as the user who can change them."""
    own = os.geteuid(), os.getegid()
    user = own if own[0] else (_NOT_ROOT, _NOT_ROOT)
    top = Foreign(folder)
    record = _record(top)
    name = name or _named(top) or re.sub(r"[^a-z0-9]+", "-", folder.name.lower()).strip("-") or "site"
    plan = compose_plan.make(folder, name, _with_written(given, top, record["files"]))
    (top / ".envs").make_folder(mode=0o700, owner=own)
    done = {}
    for path, text in secrets(plan, top).items():
        own_file: dict[str, Any] = {"mode": 0o600, "owner": user, "of_folder": own}
        done[path] = compose_files.put(top / path, text, **own_file, replaces_empty=True)
    named = _named_user(top) or user
    for path, (text, mode) in plain_files(plan, folder, named).items():
        offered = record["offered"].get(path, "")
        done[path] = compose_files.put(top / path, text, mode=mode, owner=own, of_folder=own, offered=offered)
        record["offered"][path] = file.checksum(text)
    record["files"] = sorted({*record["files"], *plan.contents})
    (top / _RECORD).write(json.dumps(record, indent=1, sort_keys=True) + "\n", mode=0o600, owner=own)
    written = [path for path, what in done.items() if what == "written"]
    lines = [f"written: {', '.join(written)}"] if written else ["nothing had to be written"]
    lines += [
        f"{path} is another one and stays as it is; what compose needs is in {path}{compose_files.NEW}"
        for path, what in done.items()
        if what == "differs"
    ]
    if named != user and "APP_USER=" not in ((top / ".env").text() or ""):
        own_user = f"APP_USER={user[0]}:{user[1]}"
        lines.append(f"the compose files are for uid {named[0]}, and .envs is of {user[0]}: add {own_user} to .env")
    lines += [f"set {name} in .envs/production and .envs/local" for name in compose_secrets.missing(plan)]
    return [*lines, *plan.notes]


def _record(top: Foreign) -> dict[str, Any]:
    """Return what earlier runs have written in this work tree."""
    try:
        found: dict[str, Any] = shapes.parse((top / _RECORD).text() or "", _SHAPE, doing="reading it")
    except DeploymentError:
        return {"files": [], "offered": {}}
    return found


def _with_written(given: dict[str, Any], top: Foreign, paths: Collection[str]) -> dict[str, Any]:
    """Return the options with the files of the project that an earlier run has written: they are there, and ours."""
    texts = {path: text for path in paths if (text := (top / path).text())}
    files = {path: {"contents": text} for path, text in texts.items()}
    return {**given, **({"files": {**files, **given.get("files", {})}} if files else {})}


def _named(top: Foreign) -> str:
    """Return the name that the compose files have, which a clone in a folder of another name keeps; else empty."""
    text = (top / "compose.production.yml").text() or ""
    found = re.search(r"^  image: localhost/([a-z0-9][a-z0-9_-]*):production$", text, re.MULTILINE)
    return found[1] if found else ""


def _named_user(top: Foreign) -> tuple[int, int] | None:
    """Return the uid and gid that the compose files have, which may be of another machine; None without files."""
    found = re.search(r"\$\{APP_USER:-(\d{1,10}):(\d{1,10})\}", (top / "compose.production.yml").text() or "")
    return (int(found[1]), int(found[2])) if found else None


def plain_files(plan: Plan, folder: Path, owner: tuple[int, int]) -> dict[str, tuple[str, int]]:
    """Return the files without secrets: path → content and mode.

    Args:
        owner: the uid and gid of the containers of the project.
    """
    user = f"{owner[0]}:{owner[1]}"
    found = {
        plan.dockerfile: (image.dockerfile(plan, folder), 0o644),
        plan.dockerignore: (image.dockerignore(folder), 0o644),
        "compose.production.yml": (services.production(plan, user), 0o644),
        "compose.local.yml": (services.local(plan, user), 0o644),
        "compose/start": (programs.start(plan), 0o755),
        "compose/healthy": (programs.healthy(plan), 0o755),
        "compose/nginx.conf": (programs.nginx(plan), 0o644),
    }
    if plan.email:
        found["compose/serve"] = (programs.serve(), 0o755)
        found["compose/certificates"] = (programs.certificates(plan), 0o755)
    for kind in ("production", "local") if plan.has_overlay else ():
        found[f"compose/settings_{kind}.py"] = (settings.overlay(plan, kind), 0o644)
    return found


def secrets(plan: Plan, top: Foreign) -> dict[str, str]:
    """Return the files for the containers' user alone: path → content. What is in them already stays."""
    files = {".gitignore": "*\n"}
    password = (top / ".envs/database_password").text() or compose_secrets.generated()
    key = (top / ".envs/secret_key").text() or compose_secrets.generated()
    if plan.engine != "sqlite":
        files["database_password"] = password
    if compose_secrets.has_key_file(plan):
        files["secret_key"] = key
    for kind in ("production", "local"):
        text = (top / f".envs/{kind}").text() or ""
        present = environment_files.read_environment(text)
        values = compose_secrets.variables(plan, key, password.rstrip("\n"))
        is_whole = text and {*values} <= {*present}
        files[kind] = text if is_whole else compose_secrets.file({**values, **present})
    return {f".envs/{name}": text for name, text in files.items()} | plan.contents


def main(arguments: list[str]) -> None:
    """Write the compose files of a folder, as ``quickstart --compose`` does without Salt."""
    parser = argparse.ArgumentParser(prog="quickstart --compose")
    parser.add_argument("folder")
    parser.add_argument("--domain", action="append", default=[])
    parser.add_argument("--python", default="")
    parser.add_argument("--database", choices=DATABASES, default="")
    parser.add_argument("--certificates", metavar="EMAIL", default="")
    given = parser.parse_args(arguments)
    try:
        options = {"domains": given.domain, "email": given.certificates, **chosen(given.python, given.database)}
        tell("\n".join(write(given.folder, given={key: value for key, value in options.items() if value})))
    except (DeploymentError, OSError) as failure:
        sys.exit(shown(f"quickstart: {failure}", lines=True))


if __name__ == "__main__":
    main(sys.argv[1:])
