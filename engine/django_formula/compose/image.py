"""The image of a project: Dockerfile and .dockerignore."""

import json
import re
import stat
from collections.abc import Iterator
from pathlib import Path

from django_formula.compose import files as compose_files
from django_formula.compose import plan as compose_plan
from django_formula.compose.plan import Plan
from django_formula.inspect import project
from django_formula.untrusted.foreign import Foreign
from django_formula.virtualenv import local, lock, requirements, setuptools, uv

#: Never in an image: secrets, the history, databases, and what a build makes anew.
_DOCKERIGNORE = """\
# What no image has: secrets, the history, databases, and what is made anew. A pattern without **/ is only of the top.
**/.git
**/.env
**/.env.*
**/.envs
**/*.pem
**/*.key
**/*.sqlite3
**/*.sqlite3-*
**/__pycache__
**/node_modules
**/.venv
**/.idea
**/.vscode
"""

#: Names of these that are removed from the source in any case, and those that may be of public keys and certificates.
_KEYS = (".pem", ".key")
_PRIVATE = (".git", ".env", ".env.*", ".envs", *(f"*{suffix}" for suffix in _KEYS))
#: What is no secret in a file of these names, and how deep in the source, and how large, one may be.
_PUBLIC = {"CERTIFICATE", "PUBLIC KEY", "RSA PUBLIC KEY"}
_DEPTH, _MOST = 8, 1 << 20
#: Packages of Debian that only a build needs.
_TOOLS = re.compile(r"gcc|g\+\+|make|pkg-config|npm|nodejs|yarnpkg|git")
#: Packages of servers, which have containers of their own.
_SERVERS = re.compile(r"redis-server|memcached|rabbitmq-server|postgresql-.*")
#: Packages for a build → those with the libraries of these.
_LIBRARIES = {
    "libc6-dev": [],
    "python3-dev": [],  # the image of Python has its own
    "zlib1g-dev": [],
    "libpq-dev": ["libpq5"],
    "default-libmysqlclient-dev": ["libmariadb3"],
    "libmemcached-dev": ["libmemcached11"],
    "libsasl2-dev": ["libsasl2-2"],
    "libcairo2-dev": ["libcairo2"],
}

_DOCKERFILE = """\
{header}{name}, for compose.production.yml and compose.local.yml.
FROM docker.io/library/python:{python}-slim AS base
ENV PATH=/venv/bin:$PATH PYTHONPATH={path} PYTHONUNBUFFERED=1 PYTHONDONTWRITEBYTECODE=1 LANG=C.UTF-8
{libraries}
FROM base AS packages
ENV VIRTUAL_ENV=/venv UV_LINK_MODE=copy UV_COMPILE_BYTECODE=1
{tools}RUN pip install --no-cache-dir uv=={uv} && uv venv --python python3 /venv
WORKDIR /app
{copy}
{install}
# Older packages import modules that they do not require, since every environment had them once.
{modules}
FROM packages AS source
COPY . /app
# As .dockerignore has it, where the project has another one.
RUN {remove}
{build}RUN chmod -R go+rX-w /app

FROM base
# The containers' user has no home, and may write to /tmp alone.
ENV HOME=/tmp
COPY --from=packages /venv /venv
COPY --from=source /app /app
COPY compose/start compose/healthy /srv/
RUN chmod 755 /srv/start /srv/healthy && mkdir -m 1777 {folders}
WORKDIR {folder}
ENTRYPOINT ["/srv/start"]
CMD ["serve"]
"""
#: Folders of the image that volumes take their mode from: the container's user may write there.
FOLDERS = ("/srv/data", "/srv/media", "/srv/run", "/srv/static")


def dockerfile(plan: Plan, tree: Path) -> str:
    """Return the Dockerfile of a project."""
    packages = [name for name in plan.options.get("packages", []) if not _SERVERS.fullmatch(name)]
    path = [f"/app/{folder}".removesuffix("/.") for folder in (plan.folder, *plan.python_path)]
    build = "".join(f"RUN {_line(command)}\n" for command in plan.options.get("build", []))
    copied = sorted(plan.copied)
    return _DOCKERFILE.format(
        header=compose_plan.HEADER,
        name=plan.name,
        python=plan.python,
        path=":".join(dict.fromkeys([*path, "/app"])),
        libraries=_apt([one for name in packages for one in _runtime(name)]),
        tools=_apt([name for name in packages if name != "python3-dev"]),
        uv=uv.VERSION,
        copy="\n".join(_copy(name) for name in copied) or "COPY . /app",
        remove=_remove(plan, tree),
        install="\n".join(f"RUN {command}" for command in _install(plan, tree)),
        modules="".join(map(_module, setuptools.MODULES)),
        build=f"WORKDIR {path[0]}\n{build}" if build else "",
        folders=" ".join(FOLDERS),
        folder=path[0],
    )


def _module(module: str) -> str:
    """Return the lines that install what has a module, where a package imports it."""
    found = f"'{setuptools.IMPORT.format(module=module)}' /venv/lib"
    requirement = _quoted(setuptools.MODULES[module])
    return (
        f"RUN if ! python -c 'import {module}' 2>/dev/null && grep --recursive --quiet --extended-regexp "
        f"--include='*.py' \\\n    {found}; then uv pip install {requirement}; fi\n"
    )


def dockerignore(tree: Path) -> str:
    """Return what a build does not get."""
    return _DOCKERIGNORE + "".join(f"!{path}\n" for path in _public(tree))


def _public(tree: Path) -> list[str]:
    """Return the files of a source with certificates or public keys alone, which have names of private ones."""
    found = []
    for path in project.walk(tree, None, _DEPTH):
        name = str(path.relative_to(tree))
        if path.suffix in _KEYS and compose_plan.PATH.fullmatch(name):
            there = Foreign(tree) / name
            about = there.status()
            is_read = about and stat.S_ISREG(about.st_mode) and about.st_size <= _MOST
            kinds = {*re.findall(r"-----BEGIN ([^-]*)-----", (there.text() or "") if is_read else "")}
            found += [name] if kinds and kinds <= _PUBLIC else []
    return sorted(found)


def _remove(plan: Plan, tree: Path) -> str:
    """Return the command that removes from a source what may have secrets."""
    names = " -o ".join(f"-name {_quoted(name)}" for name in _PRIVATE)
    kept = "".join(f" ! -path /app/{path}" for path in _public(tree))
    contents = [f"/app/{path}{end}" for path in plan.contents for end in _ends(plan, path)]
    files = "".join(f" && rm -f {_quoted(path)}" for path in contents)
    return f"find /app \\( {names} \\){kept} -prune -exec rm -rf {{}} +{files}"


def _ends(plan: Plan, path: str) -> tuple[str, ...]:
    """Return the ends of a file's names that no image has; one that builds read has no secret."""
    return (compose_files.NEW,) if plan.options["files"][path].get("build") else ("", compose_files.NEW)


def _runtime(package: str) -> list[str]:
    """Return the packages of Debian that a program needs where a build needs one."""
    return [] if _TOOLS.fullmatch(package) else _LIBRARIES.get(package, [package])


def _apt(packages: list[str]) -> str:
    """Return the line that installs packages of Debian; empty without any."""
    if not packages:
        return ""
    names = " ".join(dict.fromkeys(packages))
    install = f"apt-get install --yes --no-install-recommends {names}"
    return f"RUN apt-get update && {install} && rm -rf /var/lib/apt/lists/*\n"


def _copy(name: str) -> str:
    return f"COPY {json.dumps([name, f'/app/{name}'])}"


def _install(plan: Plan, tree: Path) -> list[str]:
    """Return the commands that install the project's packages into /venv."""
    commands, arguments = [], []
    starts = "."
    for name in plan.requirements:
        kind, folder = Path(name).name, f"/app/{Path(name).parent}".removesuffix("/.")
        if kind in _LOCKS:
            options = compose_plan.options_of_lock(plan, tree, name)
            words = "".join(f" {_quoted(option)}" for option in options)
            commands.append(f"cd {folder} && {_LOCKS[kind].format(options=words)}")
            starts = str(Path(name).parent)  # an export has its paths from there
            arguments.append(f"--requirement=/tmp/{kind}.txt")  # nosec B108 - in the image
        elif kind == "pyproject.toml":
            starts = "."
            arguments += _of_pyproject(tree, name)
        else:
            text = (Foreign(tree) / name).text() or ""
            starts = local.start_folder(tree, name, text)
            name = f"/app/{name}" if starts != "." else name
            arguments.append(f"--requirement={_quoted(name)}")
    constraints = plan.options.get("constraints", [])
    if constraints:
        commands.append(f"printf '%s\\n' {' '.join(map(_quoted, constraints))} >/tmp/constraints.txt")
        arguments += ["--constraint=/tmp/constraints.txt", "--build-constraint=/tmp/constraints.txt"]
    own = plan.options.get("python_packages", [])
    if arguments or own:
        start = f"cd {_quoted(f'/app/{starts}')} && " if starts != "." else ""
        commands.append(" ".join([f"{start}uv pip install", *arguments, *map(_quoted, own)]))
    if plan.driver:
        commands.append(" ".join(["uv pip install", *map(_quoted, plan.driver)]))
    return commands


def _of_pyproject(tree: Path, name: str) -> Iterator[str]:
    """Yield the arguments of uv for the dependencies of a pyproject.toml, and for its groups that a site needs.

    What uv cannot read, as the table of Poetry of a project that is no package, is written out.
    """
    lines = lock.lines_of_pyproject(tree / name)
    for line in lines:
        option, _space, value = line.partition(" ") if line.startswith("--") else ("", "", "")
        yield f"{option}={_quoted(value)}" if option else _quoted(line.replace(f"{tree}/", "/app/"))
    if lines:
        return
    if requirements.is_package(tree / name):
        yield f"--requirement={_quoted(name)}"
    yield from (f"--group={_quoted(f'{name}:{group}')}" for group in lock.groups_of_pyproject(tree / name))


#: The commands that write a lock file as requirements.
_LOCKS = {
    "uv.lock": "uv export --quiet --frozen --no-dev --no-emit-project{options} --output-file /tmp/uv.lock.txt",
    "Pipfile.lock": "uv tool run --quiet pipenv requirements >/tmp/Pipfile.lock.txt",
    "poetry.lock": "uv tool run --quiet --with poetry-plugin-export "
    "poetry export{options} --output /tmp/poetry.lock.txt",
    "pdm.lock": "PDM_USE_VENV=false uv tool run --quiet pdm export{options} --output /tmp/pdm.lock.txt",
}


def _quoted(text: str) -> str:
    """Return a word for the shell."""
    plain = re.fullmatch(r"[\w@%+=:,./-]+", text)
    return text if plain else "'" + text.replace("'", "'\\''") + "'"


def _line(command: str) -> str:
    """Return a command of the shell for one RUN; each line of it has to succeed."""
    return json.dumps(["sh", "-ec", command.strip()]) if "\n" in command.strip() else command.strip()
