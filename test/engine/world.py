"""A host in miniature: the engine deploys for real, into folders; a `World` plays its daemons, git and uv."""

import fcntl
import functools
import hashlib
import json
import os
import subprocess
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any
from urllib.parse import quote

import pytest
from django_formula.backup import backups, dumps
from django_formula.backup.dumps import Database, Dumper, Prepare, nothing
from django_formula.database import sqlite
from django_formula.deploy import inputs, step_site, steps, switch, switch_report
from django_formula.deploy.deployment import Deployment
from django_formula.host import commands, daemons, proc
from django_formula.host import file as host_file
from django_formula.host.commands import Command, DeploymentError, Ended
from django_formula.process import build_user, contract, supervisor, systemd, transient, trial
from django_formula.project import ask as project_ask
from django_formula.proxy import reach
from django_formula.proxy.reach import Rival
from django_formula.release import disk, health, instances
from django_formula.server import mod_wsgi
from django_formula.site.sites import Site
from django_formula.source import commits, mirror, submodule
from django_formula.untrusted import delegate, foreign, reaper
from django_formula.untrusted.foreign import Foreign
from django_formula.virtualenv import interpreter, virtualenvs, wheels
from django_formula.worker import workers
from specimen import MakeSite, formula_templates

__all__ = ["World", "asked_here", "kept_templates", "world"]


#: Programs that print nothing, unless a test has something in `World.prints`.
SILENT = ("nginx", "journalctl", "tail", "sync", "systemd-analyze", "dpkg-query")
#: What a process finds of its sandbox where all of it is in force.
CONFINED: dict[str, Any] = {
    "namespaces": {"ipc": "2", "mnt": "2", "net": "1", "user": "2"},
    "proc": ["rw,hidepid=invisible,subset=pid"],
    "read_only": True,
    "rights": [0, 0, 0],
    "gains_rights": False,
    "writable": ["/dev/pts", "/dev/shm", "/proc", "/tmp", "/var/tmp"],
    "shared": [],
    "shm": True,
    "devices": [],
    "others": False,
    "writes": [],
    "reads": [],
    "reaches": [],
    "controllers": ["cpu", "io", "memory", "pids"],
    "filters": 30,
    "seccomp": 2,
    "sends": True,
    "writes_and_executes": False,
}


#: The digest of the formula, which reads all of it.
_FORMULA = functools.cache(inputs.formula)


class Server(Dumper):
    """A server of databases: what each has, by its name; it fails where a test says so."""

    suffix = "dump"

    def __init__(self) -> None:
        self.databases: dict[str, dict[str, Any]] = {"blog": {"rows": {}, "migrations": []}}
        self.size = 1000
        self.fails: dict[str, DeploymentError] = {}
        self.swapped: list[tuple[str, bool]] = []

    def measure(self, database: Database) -> dict[str, int]:
        return {"size": self.size, "tables": len(self.databases.get(database.name, {"rows": {}})["rows"])}

    def dump(self, database: Database, file: int) -> dict[str, Any]:
        self._fail("dump")
        os.write(file, json.dumps(self.databases[database.name]).encode())
        return dict(self.databases[database.name])

    def load(self, database: Database, name: str, file: int, prepare: Prepare = nothing) -> dict[str, Any]:
        self.databases[name] = json.loads(os.read(file, 1 << 20))
        self._fail("load")
        return self.databases[name]

    def count_rows(self, database: Database) -> dict[str, int]:
        return dict(self.databases[database.name]["rows"])

    def check_swappable(self, database: Database) -> None:
        self._fail("check_swappable")

    def swap(self, database: Database, name: str, kept: str) -> None:
        self._fail(f"swap {database.alias}")
        self.databases[kept], self.databases[database.name] = self.databases[database.name], self.databases.pop(name)
        self.swapped.append((database.name, is_maintained(database.site)))

    def drop(self, database: Database, name: str) -> None:
        self.databases.pop(name, None)

    def _fail(self, what: str) -> None:
        if what in self.fails:
            raise self.fails[what]


def is_maintained(site: Site) -> bool:
    """Whether visitors get the maintenance page."""
    return (site.root / "maintenance/on").exists()


class World:
    """What a host does while the engine works on it.

    Attributes:
        process: who keeps new releases alive.
        branches: the commit of each branch of the repository; None is a remote that cannot be reached.
        running: the units that run, and the programs of supervisor.
        answers: what the start of a project answers, laid over a good answer.
        requirements, packages: the requirements of the project, and what is installed for them, name → version.
        settings: the effective settings of a release, by its name.
        fails: part of a command line → the error with which it ends.
        prints: program → what it prints.
        commands: the command lines, in their order; `requests`, what the programs in the virtualenv were asked.
        drivers: those that a project has forgotten.
        takes: the bytes of memory that an instance takes; `memory`, what is left.
        busy: the units of workers that have tasks: those that are stopped go on until they are killed.
        connections: those that are still open at an instance when its time is up.
        sandbox: what a process finds of its sandbox.
        problems: release → what is wrong with the health page while it is live.
        page: the health page of a new release.
    """

    def __init__(self, make_site: MakeSite):
        self.make_site = make_site
        self.options: dict[str, Any] = {}
        self.given: dict[str, str] = {}
        self.templates = dict(formula_templates())
        self.branches: dict[str, str] | None = {"main": commit("one")}
        self.process = "systemd"
        self.running: set[str] = set()
        self.updated: set[str] = set()
        self.busy: set[str] = set()
        self.answers: dict[str, Any] = {}
        self.fails: dict[str, DeploymentError] = {}
        self.prints: dict[str, str] = {}
        self.commands: list[list[str]] = []
        self.daemons: list[daemons.Daemon] = []
        self.requests: list[dict[str, Any]] = []
        self.takes, self.memory = 90 << 20, 1 << 30
        self.server = Server()
        #: The migrations that a loaded database lacks for a release, by alias.
        self.lacking: dict[str, list[str]] = {}
        self.drivers: list[str] = []
        self.requirements, self.packages = "django\n", {"django": "5.2"}
        self.settings: dict[str, dict[str, Any]] = {}
        self.connections = 0
        self.problems: dict[str, str] = {}
        self.page = ""
        #: What answers in place of the site by the proxy's configuration, and what its visitors meet.
        self.rivals: list[Rival] = []
        self.unreached = ""
        #: The version of the host's Python.
        self.python = "3.11.2"
        self.home = 0, ""
        self.sandbox = dict(CONFINED)
        self.last: Deployment | None = None
        self._sites: dict[str, Site] = {}

    @property
    def site(self) -> Site:
        """The site as the pillar has it now."""
        return self.make_site(folders=False, process=self.process, **self.options)

    @property
    def _same(self) -> Site:
        """The same site as long as the pillar has the same, for what only looks at it."""
        known = json.dumps([self.process, self.options])
        if known not in self._sites:
            self._sites[known] = self.site
        return self._sites[known]

    @property
    def releases(self) -> dict[str, str]:
        """The state of each release on disk."""
        return {
            path.name: (host_file.read_json(path / "release.json") or {}).get("state", "")
            for path in sorted(self._same.releases.iterdir())
        }

    @property
    def live(self) -> str:
        """The release that is served."""
        return os.path.basename(os.readlink(self._same.current)) if self._same.current.is_symlink() else ""

    @property
    def enabled(self) -> set[str]:
        """The units that start at boot, and the programs that supervisor starts."""
        return {path.name for path in [*systemd.UNITS.glob("*.wants/*"), *supervisor.PROGRAMS.iterdir()]}

    def push(self, name: str, branch: str = "main") -> str:
        """A commit of that name is the head of a branch from now on."""
        assert self.branches is not None
        self.branches[branch] = commit(name)
        return commit(name)

    def deployment(self, **options: Any) -> Deployment:
        return Deployment(self.site, self.given, self.templates, asked_by="a test", **options)

    def apply(self, **options: Any) -> dict[str, Any]:
        """Take the steps as the states do; returns the changes of each that had some, by its name."""
        self.last = deployment = self.deployment(**options)
        changes = {}
        *release, record = steps.RELEASE
        for step in (steps.site, *release, steps.schedules, record):
            with deployment.step(step.__name__):
                work = steps.as_state(step, deployment)
                found = next(work, None)
                if found:
                    changes[step.__name__] = found
                    if not deployment.test:
                        next(work, None)
        return changes

    def check(self) -> None:
        """What holds after an apply that has ended well: one release is live, whole, and it alone runs."""
        site = self.site
        names = instances.units(site, site.releases / self.live)
        recorded = host_file.read_json(site.current / "config/instance.json") or {}
        server = names[:1] if instances.serves(site.current) else []
        suffix, more = {"systemd": (".service", [f"{name}.socket" for name in server]), "supervisor": (".conf", [])}[
            recorded.get("process", "systemd")
        ]
        assert self.running - self.busy == {*(f"{name}{suffix}" for name in names), *more} == self.enabled
        units = {
            path.stem
            for path in [
                *systemd.UNITS.glob("django-*.*"),
                *supervisor.PROGRAMS.iterdir(),
            ]
        }
        known = {name.split("-")[0] for name in self.releases}
        assert {*names} <= units and {contract.parse(site, name)[0] for name in units} <= known
        assert self.fetching() == {*names} - {*server}
        assert self.releases[self.live] == "good"
        assert "building" not in self.releases.values()
        self.check_leftovers()

    def check_leftovers(self) -> None:
        """What holds after any apply: no temporary file, no lock."""
        site = self.site
        assert list(site.root.rglob(".*.new")) == []
        assert commands.locks == set()
        assert not site.lock_file.exists() or site.lock_file.read_text() == ""

    # systemd, supervisor, nginx and uv

    def run(self, argv: Sequence[str], *, doing: str, stdin: str = "", **_options: Any) -> str:
        self.commands.append(list(argv))
        line = " ".join(argv)
        for part, error in self.fails.items():
            if part in line:
                raise DeploymentError(error.message, log=error.log, hint=error.hint, transient=error.transient)
        if argv[0] == "systemctl":
            self.systemctl(*argv[1:])
        elif argv[0] == "supervisorctl":
            return self.supervisorctl(*argv[1:])
        elif argv[-1:] == [trial.LOOK[-1]]:
            return json.dumps(self.sandbox)
        elif argv[0] == "systemd-run" or reaper.__file__ in argv:
            return self.project(json.loads(stdin)) if stdin else "printed by the command\n"
        elif argv[:3] == ["python3", "-m", "venv"]:
            Path(argv[3]).mkdir(exist_ok=True)
        elif argv[0] not in SILENT and not argv[0].endswith(("/python", "/pip")):
            assert argv[0] in ("npm", "make", "sh"), line
        return self.prints.get(argv[0], "")

    def execute(self, command: Command) -> Ended:
        """A command in a unit; the program that reads SQLite files runs for real."""
        if command.argv[-3] == sqlite._PROGRAM:
            done = subprocess.run(command.argv, capture_output=True, text=True, check=True)
            return Ended(done.returncode, done.stdout, done.stderr)
        assert isinstance(command.stdin, str)
        return Ended(0, commands.run(command.argv, doing=command.doing, stdin=command.stdin), "")

    def roll_back(self) -> dict[str, Any]:
        """Go back as verbs.operations.rollback does."""
        deployment = self.deployment()
        with deployment.step("rollback"):
            deployment.lock.take()
            deployment.return_to(disk.older_good(self.site, deployment.live), deployment.live)
        return steps.walk(deployment, steps.BACK)

    def systemctl(self, verb: str, *arguments: str) -> None:
        units = [name for name in arguments if not name.startswith("--")]
        if verb == "stop":
            self.running -= {*units} - self.busy
        if verb == "kill":
            self.running -= {*units}
            self.busy -= {*units}
        for name in units if verb in ("enable", "disable") else ():
            wants = {".socket": "sockets", ".timer": "timers"}.get(Path(name).suffix, "multi-user")
            folder = systemd.UNITS / f"{wants}.target.wants"
            folder.mkdir(exist_ok=True)
            if verb == "enable":
                assert (systemd.UNITS / name).is_file()
                self.running |= {name} if wants != "timers" else set()
                (folder / name).unlink(missing_ok=True)
                (folder / name).symlink_to(systemd.UNITS / name)
            else:
                self.running -= {name} - self.busy
                (folder / name).unlink(missing_ok=True)

    def members(self, name: str) -> list[int]:
        """The processes of a unit."""
        return [42] if name in self.running else []

    def fetching(self) -> set[str]:
        """The units of workers that take tasks, as their programs decide it."""
        names = {name.rpartition(".")[0] for name in self.running if not name.endswith(".socket")}
        return {name for name in names if (state := self.state(self.run_folder(name))) and state.fetching}

    def run_folder(self, unit: str) -> Foreign:
        """The folder of a part, by its unit."""
        return Foreign(self._same.run / unit.removeprefix(f"django-{self._same.name}-"))

    def state(self, run: Foreign) -> workers.State | None:
        """What a worker reports: it takes tasks while its release is active, and nothing holds it."""
        unit = f"django-{self._same.name}-{run.name}"
        number, part = contract.parse(self._same, unit) or ("", "")
        if not part or not {f"{unit}.service", f"{unit}.conf"} & self.running:
            return None
        is_held = (self.site.root / "maintenance/on/hold").exists() or not self.is_free()
        is_enabled = {f"{unit}.service", f"{unit}.conf"} & self.enabled
        return workers.State(42, 1.0, bool(is_enabled) and self.live[:4] == number and not is_held)

    def is_free(self) -> bool:
        """Whether no deployment holds the switch lock."""
        try:
            with open(workers.switch_lock(self.site), "rb") as file:
                fcntl.flock(file, fcntl.LOCK_SH | fcntl.LOCK_NB)
        except FileNotFoundError:
            return True
        except BlockingIOError:
            return False
        return True

    def supervisorctl(self, verb: str, name: str) -> str:
        program, before = f"{name}.conf", set(self.running)
        there = (supervisor.PROGRAMS / program).is_file()
        assert verb in ("update", "stop")
        if verb == "stop":
            self.running.discard(program)
        elif there and program not in self.updated:
            self.running.add(program)
            self.run_folder(name).top.mkdir(parents=True)
            (self.run_folder(name).top / "ready").touch()
        elif not there:
            self.running.discard(program)
        (self.updated.add if there else self.updated.discard)(program)
        return "" if self.running == before else f"{name}: updated\n"

    def project(self, request: dict[str, Any]) -> str:
        """What the program in the virtualenv answers."""
        if "seconds" in request:  # an observation, in which nothing is missing
            told = {"stage": "done", "error": "", "attempts": 1, "variables": [], "facts": {}}
            return json.dumps(told)
        self.requests.append(request)
        migrations = {"default": {"applied": ["blog.0001_initial"], "pending": []}}
        answer: dict[str, Any] = {
            "django": "5.2",
            "settings_module": "django_formula_settings",
            "expected_settings_module": "django_formula_settings",
            "debug": False,
            "allowed_hosts": ["blog.example.org"],
            "static_url": "/static/",
            "static_root": request.get("static_root", ""),
            "media_url": "/media/",
            "media_root": str(self.site.media.top),
            "databases": {"default": {"engine": "postgresql", "name": "blog"}},
            "migrations": migrations,
            "collected": 1,
            "checks": [],
        }
        if request["mode"] == "settings":
            return json.dumps(self.settings.get(request["names"][1], {}))
        if request["mode"] == "start":
            return json.dumps(answer | self.answers)
        done = {"migrated": self.answers.get("migrated", {}), "schema": self.answers.get("classes", {})}
        return json.dumps({"migrations": migrations, "checks": self.answers.get("checks", []), **done})

    def ask(
        self, site: Site, release: Path, facts: dict[str, Any], request: dict[str, Any], secrets: list[str], *_: Any
    ) -> dict[str, Any]:
        """What the program of backups answers."""
        if request["mode"] == "connections":
            return {
                alias: {"name": facts["databases"][alias]["name"], "password": "pw"} for alias in request["aliases"]
            }
        assert set(request["names"].values()) <= set(self.server.databases)
        return {} if request["migrate"] else self.lacking

    def pid(self, site: Site, release: Path, part: str = "") -> int | None:
        return 42 if f"{contract.unit(site, release, part)}.service" in self.running else None

    def is_whole(self, site: Site, release: Path, part: str = "") -> bool:
        return instances.process_manager(site, release).pid(site, release, part) is not None

    def program(self, name: str) -> supervisor.Program | None:
        """What supervisor says of a program."""
        return supervisor.Program(43, 100.0, "RUNNING") if f"{name}.conf" in self.running else None

    def problem_of(self, site: Site, release: Path, deadline: float) -> str:
        runs = instances.pid(site, release) is not None
        return self.problems.get(release.name[:4], "") if runs else "no answer"

    def problem(self) -> str:
        try:
            return self.problems.get(self.live[:4], "")
        except FileNotFoundError:  # a test has taken the folder away
            return "no answer"

    def build(
        self, site: Site, source: Path, files: list[str], key: str, password: str | None, folder: str, _day: object
    ) -> list[str]:
        host_file.remove_tree(site.virtualenvs / key)
        (site.virtualenvs / key / "bin").mkdir(parents=True)
        for name in ("bin/python", "bin/uwsgi", ".complete"):
            (site.virtualenvs / key / name).write_text("#!")
        (site.virtualenvs / key / "pyvenv.cfg").write_text(f"home = /usr/bin\nversion_info = {self.python}\n")
        for name, version in self.packages.items():
            (site.virtualenvs / key / f"lib/python3.11/site-packages/{name}-{version}.dist-info").mkdir(parents=True)
        return list(self.drivers)

    # git

    def resolve(self, site: Site, revision: str) -> str:
        if self.branches is None:
            raise DeploymentError(f"asking for {revision}: connection refused", transient=True)
        if revision not in self.branches:
            raise DeploymentError(f"asking for {revision}: there is no such branch")
        return self.branches[revision]

    def export(self, site: Site, commit: str, target: Path) -> None:
        for name, content in {
            "manage.py": "os.environ.setdefault('DJANGO_SETTINGS_MODULE', 'blog.settings')",
            "blog/wsgi.py": "application = get_wsgi_application()",
            "requirements.txt": self.requirements,
            "commit": commit,
        }.items():
            (target / name).parent.mkdir(parents=True, exist_ok=True)
            (target / name).write_text(content)


def commit(name: str) -> str:
    """The commit of that name."""
    return hashlib.sha1(name.encode()).hexdigest()


def ask_here(user: str | None, function: Callable[..., Any], *arguments: Any, doing: str = "", **_limits: Any) -> Any:
    """Call a function as `untrusted.delegate.ask` does, but in this process: a fork of the tests costs 30 ms."""
    foreign.Trust.is_root = False
    try:
        text = json.dumps(delegate._called(function, arguments)).encode()
    finally:
        foreign.Trust.is_root = True
    return delegate._result(text, doing or f"{function.__name__} as {user}", user, 30)


@pytest.fixture
def asked_here(monkeypatch: pytest.MonkeyPatch) -> None:
    """Source is read in this process: for the cases of a table, of which others have the process of another user."""
    monkeypatch.setattr(delegate, "ask", ask_here)
    monkeypatch.setattr(inputs, "formula", _FORMULA)


class Templates:
    """Keeps a site's templates where `Site.keep_templates` does, as links to files that all tests have in common.

    A site has about eighty, and most tests have a site; none writes into a template that is kept.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.name = functools.cache(lambda url: quote(url.removeprefix("salt://"), safe=""))
        self.checksum = functools.cache(host_file.checksum)

    @functools.cache  # noqa: B019 - as long as the tests
    def file(self, text: str) -> Path:
        """The file that has a text."""
        path = self.folder / self.checksum(text)
        path.write_text(text)
        path.chmod(0o600)
        return path

    @functools.cache  # noqa: B019
    def number(self, text: str) -> int:
        """The inode of that file."""
        return self.file(text).stat().st_ino

    def stale(self, site: Site, templates: Mapping[str, str]) -> list[str]:
        """As `Site.stale_templates`."""
        kept = {entry.name: entry.inode() for entry in os.scandir(site.templates)} if site.templates.exists() else {}
        stale = [url for url, text in templates.items() if kept.get(self.name(url)) != self.number(text)]
        same = host_file.read_json(site.template_sums) == self.sums(templates)
        return sorted(stale) or ([] if same else [str(site.template_sums)])

    def sums(self, templates: Mapping[str, str]) -> dict[str, str]:
        return {url: self.checksum(text) for url, text in templates.items()}

    def keep(self, site: Site, templates: Mapping[str, str]) -> None:
        """As `Site.keep_templates`."""
        for entry in os.scandir(site.templates):
            os.unlink(entry.path)
        for url, text in templates.items():
            os.link(self.file(text), f"{site.templates}/{self.name(url)}")
        host_file.write_json(site.template_sums, self.sums(templates), mode=0o600)


@pytest.fixture(scope="session")
def kept_templates(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Templates]:
    """What a test that writes into kept templates replaces by None."""
    templates = Templates(tmp_path_factory.mktemp("templates"))
    yield templates
    for path in templates.folder.iterdir():
        assert host_file.checksum(path.read_text()) == path.name, "a test has written into a template that all share"


@pytest.fixture
def world(make_site: MakeSite, kept_templates: Templates | None, monkeypatch: pytest.MonkeyPatch) -> Iterator[World]:
    """A host in miniature, on which nothing has been deployed yet."""
    world = World(make_site)
    played: dict[tuple[Any, str], Any] = {
        (os, "fsync"): lambda file: None,
        (commands, "run"): world.run,
        (project_ask, "backup"): world.ask,
        (dumps, "free"): lambda folder: 1 << 20,
        (step_site, "refuse_closed_parents"): lambda site: None,
        (interpreter, "path"): lambda site: sys.executable,
        (interpreter, "_identity"): lambda path, modified: f"cpython-311 {path} {world.python}",
        (mod_wsgi.SERVER, "python"): lambda site: "3.11",
        (virtualenvs, "build"): world.build,
        (wheels, "without"): lambda *_given: [],
        (build_user, "run_as_build_user"): lambda site, argv, **options: world.run(argv, doing=options["doing"]),
        (systemd.MANAGER, "pid"): world.pid,
        (supervisor, "_program"): world.program,
        (daemons, "pid"): lambda daemon: 7,
        (daemons, "is_enabled"): lambda daemon: daemon in world.daemons,
        (daemons, "enable"): world.daemons.append,
        (contract, "is_whole"): world.is_whole,
        (systemd, "_members"): world.members,
        (workers, "state"): world.state,
        (commands, "execute"): world.execute,
        (health, "check"): lambda site, release, explain=None: None,
        (health, "body"): lambda site, release, deadline: world.page,
        (health, "home"): lambda site, release, deadline: world.home,
        (health, "problem_of"): world.problem_of,
        (instances, "drain"): lambda site, release, most=None: world.connections,
        (switch_report, "RATE"): 2000,
        (switch, "_PAUSE"): 0.001,
        (switch_report.Probe, "problem"): lambda probe: world.problem(),
        (proc, "memory_of_tree"): lambda pid: world.takes,
        (proc, "available_memory"): lambda: world.memory,
        (transient, "_is_loaded"): lambda unit: False,
        (transient, "_BUS"): Path("/"),
        (trial, "outside"): lambda: {
            "namespaces": dict.fromkeys(("ipc", "mnt", "net", "user"), "1"),
            "filters": 0,
        },
        (mirror, "prepare"): lambda site, key: (site.mirror / "HEAD").write_text("ref: refs/heads/main\n"),
        (mirror, "unprepared"): lambda site, key: [],
        (commits, "resolve"): world.resolve,
        (mirror, "has"): lambda site, commit: True,
        (commits, "export"): world.export,
        (submodule, "entries"): lambda site, commit: [],
        (commits, "describe"): lambda site, commit: {"author": "Ada", "subject": commit[:7]},
        (commits, "commit_difference"): lambda site, old, new: {"files": 1},
        (delegate, "ask"): ask_here,
        (reach, "rivals"): lambda site: world.rivals,
        (reach, "problem"): lambda site, **_: world.unreached,
    }
    if kept_templates:
        played |= {
            (host_file, "sync_folder"): lambda path: None,
            (Site, "stale_templates"): lambda site, templates: kept_templates.stale(site, templates),
            (Site, "keep_templates"): lambda site, templates: kept_templates.keep(site, templates),
        }
    for (module, name), replacement in played.items():
        monkeypatch.setattr(module, name, replacement)
    for kind in ("sqlite", "postgres"):
        monkeypatch.setitem(backups.DUMPERS, kind, world.server)
    yield world
