"""Taking an existing deployment over on a host in miniature: no data is lost, and a failure changes nothing."""

import contextlib
import errno
import os
import shutil
import signal
import sqlite3
import stat
import types
from pathlib import Path

import pytest
from django_formula.deploy import removal, steps
from django_formula.host import daemons, file, users
from django_formula.host.commands import DeploymentError
from django_formula.proxy import nginx, switch
from django_formula.takeover import copy, data, existing, manager, process, stop, takeovers
from django_formula.takeover import worker as takeover_worker
from django_formula.untrusted import handover

OLD = "server { listen 80; server_name blog.example.org; location / { proxy_pass http://127.0.0.1:8001; } }\n"


class Old:
    """An old site: its folder, and its database of guests."""

    def __init__(self, world, folder: Path, mode: str = "delete"):
        self.world, self.folder, self.database = world, folder, folder / "db.sqlite3"
        (folder / "media/2026").mkdir(parents=True)
        (folder / "media/2026/photo").write_text("a photo")
        (folder / "manage.py").write_text("")
        with contextlib.closing(sqlite3.connect(self.database)) as connection:
            connection.execute(f"PRAGMA journal_mode={mode}")
            connection.execute("CREATE TABLE django_migrations (app, name)")
            connection.execute("INSERT INTO django_migrations VALUES ('blog', '0001_initial')")
            connection.execute("CREATE TABLE guest (name)")
            connection.commit()
        self.sign("Ada")
        (nginx.ETC / "sites-enabled").mkdir()
        self.nginx = nginx.ETC / "sites-enabled/blog"
        self.nginx.write_text(OLD)

    def sign(self, name: str) -> None:
        with contextlib.closing(sqlite3.connect(self.database, timeout=0)) as connection:
            connection.execute("INSERT INTO guest VALUES (?)", [name])
            connection.commit()

    def guests(self, path: Path | None = None) -> list[str]:
        with contextlib.closing(sqlite3.connect(path or self.database)) as connection:
            return [name for (name,) in connection.execute("SELECT name FROM guest")]


@pytest.fixture
def old(world, own_host, monkeypatch):
    """An existing deployment in its own folder; no process listens on the port that nginx passes requests to."""
    old = Old(world, own_host / "opt/shop")
    unit = f"[Service]\nWorkingDirectory={old.folder}\nExecStart={old.folder}/venv/bin/gunicorn x\n"
    (manager.SYSTEMD / "shop.service").write_text(unit)
    monkeypatch.setattr(existing, "is_project", lambda folder: folder == old.folder)
    old.nginx.write_text(OLD.replace("location", f"location /static {{ alias {old.folder}/static; }} location"))
    world.options = {"adopt": True}
    uses(world, world.site.database.top / "db.sqlite3")
    return old


def uses(world, path: Path) -> None:
    """The project's default database is this file."""
    world.answers = {"databases": {"default": {"engine": "django.db.backends.sqlite3", "name": str(path)}}}


def plan(world) -> dict:
    return file.read_json(world.site.adopted / "plan.json")


def test_deployment_taken_over(world, old):
    changes = world.apply()
    site = world.site
    (aside,) = site.adopted.iterdir()
    unit = str(manager.SYSTEMD / "shop.service")
    told = {
        str(old.nginx): f"moved to {aside}",
        unit: f"stopped, moved to {aside}",
        str(old.database): f"copied to {site.database.top}/db.sqlite3",
        str(old.folder / "media"): f"copied to {site.media.top}",
    }
    assert changes["site"]["adopted"] == changes["live"]["adopted"] == told
    assert old.guests(site.database.top / "db.sqlite3") == old.guests() == ["Ada"]
    assert (site.media.top / "2026/photo").read_text() == "a photo"
    assert not old.nginx.exists() and "alias" in (aside / str(old.nginx)[1:]).read_text()
    assert not Path(unit).exists() and (aside / unit[1:]).exists()
    assert (nginx.ETC / "sites-enabled/blog.example.org").is_symlink()
    stopping = ["systemctl", "disable", "--quiet", "--now", "shop.service"]
    commands = world.commands
    assert commands.index(["systemctl", "reload", "nginx.service"]) < commands.index(stopping)
    assert commands.index(stopping) < commands.index(["systemctl", "daemon-reload"])
    assert file.read_json(aside / "adoption.json")["phase"] == "done" and plan(world) is None
    world.check()
    assert world.apply() == {}
    del world.options["adopt"]
    assert world.apply() == {"site": {str(site.applied): "changed"}}


def test_uwsgi_file_moved_before_instance_is_stopped(world, old, own_host, monkeypatch):
    """An emperor starts anew what ends while its file is there; SIGTERM would be a reload."""
    app = own_host / "etc/uwsgi/vassals/shop.ini"
    app.parent.mkdir(parents=True)
    app.write_text(f"[uwsgi]\nchdir = {old.folder}\n")
    gone = [
        process.Process(1 << 30, ["/usr/bin/uwsgi", "--ini", "shop.ini"], str(old.folder), 33, 33, "uwsgi"),
        process.Process(1 << 29, ["python3", "manage.py", "runserver"], str(old.folder), 33, 33, ""),
    ]
    done = []
    monkeypatch.setattr(process, "unmanaged", lambda *told: done.append((app.exists(), told[-1])) or gone)
    monkeypatch.setattr(stop, "_signal", lambda pid, number: done.append((pid, number)))
    told = world.apply()["live"]["adopted"]
    (aside,) = world.site.adopted.iterdir()
    assert told[str(app)] == f"stopped, moved to {aside}" and (aside / str(app)[1:]).exists()
    assert done[:3] == [(False, [app]), (1 << 30, signal.SIGINT), (1 << 29, signal.SIGTERM)]


def test_releases_of_another_tool_refused(world):
    """As Capistrano lays them out: with the same names, and nothing that could be told from a site's."""
    site = world.site
    (site.releases / "20200101120000").mkdir(parents=True)
    site.current.symlink_to(site.releases / "20200101120000")
    (site.shared.top / "log").mkdir(parents=True)
    world.options = {"adopt": True}
    with pytest.raises(DeploymentError, match="the existing deployment of blog cannot be taken over as it is") as error:
        world.apply()
    for name in ("current", "releases", "shared"):
        assert f"{site.root}/{name} has a name that the formula uses itself" in error.value.message
    assert sorted(path.name for path in site.root.iterdir()) == ["current", "releases", "shared"]


def test_dry_run_changes_nothing(world, old, own_host):
    before = {path: path.lstat().st_mtime_ns for path in own_host.rglob("*")}
    changes = world.apply(test=True)
    assert changes["site"]["adopted"][str(old.database)] == f"copied to {world.site.database.top}/db.sqlite3"
    assert {path: path.lstat().st_mtime_ns for path in own_host.rglob("*")} == before


@pytest.mark.parametrize("mode", ["delete", "wal"])
def test_existing_deployment_only_reads_copied_database(world, own_host, mode):
    old = Old(world, own_host / "opt/shop", mode)
    site = world.make_site()
    site.adopted.mkdir()
    adoption = existing.ExistingDeployment(databases={old.database: site.database.top / "db.sqlite3"})
    takeover = takeovers._begin(site, adoption, None)
    with contextlib.closing(sqlite3.connect(old.database)) as open_before:
        assert len(open_before.execute("SELECT * FROM guest").fetchall()) == 1
        takeover.hand_over()
        assert old.guests() == ["Ada"]
        with pytest.raises(sqlite3.OperationalError, match="locked"):
            old.sign("too late")
    assert old.guests(site.database.top / "db.sqlite3") == ["Ada"]
    assert stat.S_IMODE((site.database.top / "db.sqlite3").stat().st_mode) == 0o640
    takeover.release_data()
    old.sign("Bob")
    takeover.hand_over()
    assert old.guests(site.database.top / "db.sqlite3") == ["Ada", "Bob"]
    takeover.release_data()
    assert sorted(path.name for path in site.database.top.iterdir()) == ["db.sqlite3"]


@pytest.mark.parametrize("disks", ["one", "two"])
def test_copy_follows_no_link(world, own_host, monkeypatch, disks):
    """The old site's user may write in the folder of databases: what it puts there leads root nowhere."""
    old = Old(world, own_host / "opt/shop")
    site = world.make_site()
    site.adopted.mkdir()
    adoption = existing.ExistingDeployment(databases={old.database: site.database.top / "db.sqlite3"})
    takeover = takeovers._begin(site, adoption, None)
    (own_host / "shadow").write_text("untouched")
    for name in ("db.sqlite3", ".db.sqlite3.new", "db.sqlite3-wal", "db.sqlite3-journal"):
        (site.database.top / name).symlink_to(own_host / "shadow")
    if disks == "two":
        another = OSError(errno.EXDEV, "another disk")
        monkeypatch.setattr(
            Path,
            "replace",
            lambda path, to: (_ for _ in ()).throw(another) if "sqlite3" in path.name else os.replace(path, to),
        )
    takeover.hand_over()
    takeover.release_data()
    assert (own_host / "shadow").read_text() == "untouched"
    assert old.guests(site.database.top / "db.sqlite3") == ["Ada"]
    assert stat.S_IMODE((site.database.top / "db.sqlite3").lstat().st_mode) == 0o640
    assert [path.name for path in site.adopted.iterdir()] == ["plan.json"]


def test_takeover_refused_while_database_is_locked(world, old, monkeypatch):
    monkeypatch.setattr(takeovers, "LOCK_TIMEOUT", 0.1)
    held = copy.LockedDatabase(old.database, {}, 1)
    held.copy(world.site, old.folder / "copy.sqlite3", 1 << 20, 5)
    (old.folder / "copy.sqlite3").unlink()
    with pytest.raises(DeploymentError) as error:
        world.apply()
    held.unlock()
    assert error.value.message == f"static: the existing database {old.database} cannot be copied: database is locked"
    assert old.nginx.exists() and world.live == "" and world.releases == {}
    world.apply()
    assert old.guests(world.site.database.top / "db.sqlite3") == ["Ada"]


FAILURES = [
    *[("the project", "migrate"), ("the instance", "enable --quiet --no-reload --now django-blog")],
    ("the disk", "sync --file-system"),
    ("nginx", "nginx -t"),
    ("its reload", "reload nginx.service"),
]


@pytest.mark.slow
@pytest.mark.parametrize("part", [part for _name, part in FAILURES], ids=[name for name, _part in FAILURES])
def test_failure_keeps_existing_deployment_and_next_apply_copies_new_rows(world, old, part, monkeypatch):
    if part == "migrate":
        pending = {"default": {"applied": [], "pending": ["blog.0001_initial"]}}
        world.answers["migrations"] = pending
        broken = DeploymentError("no such table", transient=True)
        monkeypatch.setattr("django_formula.project.program.migrate", lambda *_: (_ for _ in ()).throw(broken))
    else:
        world.fails = {part: DeploymentError("it does not", transient=True)}
    text = old.nginx.read_text()
    with pytest.raises(DeploymentError) as error:
        world.apply()
    assert str(error.value).splitlines()[-1] == "the old site still serves"
    assert old.nginx.read_text() == text and world.live == ""
    assert not (nginx.ETC / "sites-enabled/blog.example.org").exists()
    assert ["systemctl", "disable", "--quiet", "--now", "shop.service"] not in world.commands
    assert plan(world)["phase"] == "waiting" and world.running == set()
    old.sign("Bob")
    (old.folder / "media/new").write_text("new")
    world.fails, world.answers["migrations"] = {}, {}
    world.options["environment"] = {"MENDED": "yes"}
    world.apply()
    assert old.guests(world.site.database.top / "db.sqlite3") == ["Ada", "Bob"]
    assert (world.site.media.top / "new").read_text() == "new"
    assert plan(world) is None and not old.nginx.exists()
    world.check()


def test_release_refused_when_database_would_be_empty(world, old):
    uses(world, world.site.database.top / "other.sqlite3")
    with pytest.raises(DeploymentError) as error:
        world.apply()
    assert error.value.message == (
        f"static: the release would begin with an empty database {world.site.database.top}/other.sqlite3; "
        f"the existing deployment has {old.database}"
    )
    assert error.value.hint.startswith("django:sites:blog:database: {engine: sqlite, name: db.sqlite3}")
    old.sign("Bob")
    assert old.nginx.exists()


def test_refused_when_disk_has_not_enough_room(world, old, monkeypatch):
    monkeypatch.setattr(shutil, "disk_usage", lambda path: shutil._ntuple_diskusage(100, 99, 1))
    with pytest.raises(DeploymentError, match=r"the existing data needs 0 MiB in .*, and 0 MiB are free"):
        world.apply()
    old.sign("Bob")


def test_removal_before_activation_keeps_existing_data(world, in_place):
    world.fails = {"nginx -t": DeploymentError("it does not", transient=True)}
    with pytest.raises(DeploymentError):
        world.apply()
    world.options |= {"state": "absent", "remove_data": True}
    removal.remove(world.site, "a test")
    assert in_place.guests() == ["Ada"] and (world.site.media.top / "2026/photo").exists()


@pytest.mark.parametrize("disks", ["one", "two"])
def test_moving_aside_replaces_nothing(world, in_place, monkeypatch, disks):
    rename = Path.rename

    def over_disks(path, target):
        if path.name == "source" and disks == "two":
            raise OSError(errno.EXDEV, "another disk")
        return rename(path, target)

    monkeypatch.setattr(Path, "rename", over_disks)
    monkeypatch.setattr(stop, "path_aside", occupied(stop.path_aside))
    world.apply()
    (aside,) = world.site.adopted.iterdir()
    assert not (world.site.root / "source").exists()
    found = aside / str(world.site.root)[1:]
    assert (found / "source/first").exists() and (found / "source.again/manage.py").exists()
    assert sorted(path.name for path in found.iterdir()) == ["source", "source.again"]


def occupied(path_aside):
    def made(path, aside):
        target = path_aside(path, aside)
        if target.name == "source":
            target.mkdir()
            (target / "first").write_text("")
        return target

    return made


@pytest.mark.parametrize("problem", ["room", "unreadable", "third user"])
def test_dry_run_refuses_the_data_that_the_apply_refuses(world, old, own_host, monkeypatch, problem):
    if problem == "room":
        usage = types.SimpleNamespace(total=100, used=100, free=10)
        monkeypatch.setattr(takeovers.shutil, "disk_usage", lambda _path: usage)
    else:
        module, name = {
            "unreadable": (copy, "measure"),
            "third user": (handover, "check"),
        }[problem]

        def refuse(*_arguments, **_options):
            raise DeploymentError(f"photo.jpg: {problem}")

        monkeypatch.setattr(module, name, refuse)
    errors = []
    for test in (True, False):
        with pytest.raises(DeploymentError) as error:
            world.apply(test=test)
        errors.append(error.value.message)
    assert errors[0] == errors[1] and errors[0].startswith("site: ")
    assert old.nginx.exists() and world.live == ""


# Workers


@pytest.fixture
def worker(world, old):
    """A worker of the existing deployment, which the pillar has too; returns the file that changes its unit."""
    unit = f"[Service]\nWorkingDirectory={old.folder}\nExecStart={old.folder}/venv/bin/python manage.py run_huey\n"
    (manager.SYSTEMD / "tasks.service").write_text(unit)
    world.options["workers"] = {"huey": {"kind": "huey", "patience": "1h"}}
    return daemons.SYSTEMD / "tasks.service.d/django-formula.conf"


@pytest.mark.parametrize(
    ("files", "connected", "expected"),
    [({"socket:[7]"}, {4712}, 1), ({"socket:[7]"}, set(), 0), (set(), set(), 2)],
    ids=["one answers", "none answers", "without CAP_SYS_PTRACE"],
)
def test_former_processes_of_apache_are_waited_for(make_site, monkeypatch, files, connected, expected):
    monkeypatch.setattr(stop.daemons, "children", lambda _daemon: {4711, 4712, 4713})
    monkeypatch.setattr(stop.proc, "open_files", lambda _pid: files)
    monkeypatch.setattr(stop.ports, "connected", lambda pids, _ports: connected & pids)
    assert stop._answering(make_site(), {4711, 4712}) == expected


def test_old_worker_finishes_what_it_has_in_hand(world, worker, monkeypatch):
    given = []
    monkeypatch.setattr(switch, "apply", looking(switch.apply, given, worker))
    world.apply()
    assert given[-1] == "[Service]\nKillMode=mixed\nTimeoutStopSec=3600\nKillSignal=SIGINT\n"
    ours = [
        command for command in world.commands if "tasks.service" in command or command[:2] == ["systemctl", "reload"]
    ]
    assert ours == [
        ["systemctl", "stop", "--no-block", "tasks.service"],
        ["systemctl", "stop", "tasks.service"],
        ["systemctl", "reload", "nginx.service"],
        ["systemctl", "disable", "--quiet", "--now", "shop.service", "tasks.service"],
    ]
    assert not worker.parent.exists() and not any("nothing replaces it" in text for text in world.last.warnings)


def looking(apply, given: list[str], path: Path):
    def applied(files):
        given.append(path.read_text() if path.exists() else "")
        apply(files)

    return applied


def test_old_worker_ends_before_the_database_is_locked(world, worker, old, monkeypatch):
    """A task in hand that wrote while it is copied would fail."""
    wait = takeover_worker.wait

    def waiting(*arguments):
        old.sign("a task")
        wait(*arguments)

    monkeypatch.setattr(takeover_worker, "wait", waiting)
    world.apply()
    assert old.guests(world.site.database.top / "db.sqlite3") == ["Ada", "a task"]


@pytest.mark.parametrize("where", ["nginx -t", "migrate"])
def test_old_worker_starts_again_where_the_switch_or_a_step_before_it_fails(world, worker, monkeypatch, where):
    world.fails = {"nginx -t": DeploymentError("it does not", transient=True)}
    if where == "migrate":

        def fails(*_arguments):
            raise DeploymentError("it does not", transient=True)

        monkeypatch.setattr(takeovers.Takeover, "check", fails)
    with pytest.raises(DeploymentError, match="it does not"):
        world.apply()
    assert [command for command in world.commands if "tasks.service" in command] == [
        ["systemctl", "stop", "--no-block", "tasks.service"],
        ["systemctl", "stop", "tasks.service"],
        ["systemctl", "start", "tasks.service"],
    ]
    assert not worker.parent.exists() and (manager.SYSTEMD / "tasks.service").exists()


def test_old_worker_starts_again_after_an_apply_that_was_killed(world, worker, monkeypatch):
    """The next one does so, also where it fails before it stops workers itself."""

    def fails(*_arguments):
        raise DeploymentError("it does not", transient=True)

    with monkeypatch.context() as killed, pytest.raises(DeploymentError, match="it does not"):
        killed.setattr(takeovers.Takeover, "check", fails)
        killed.setattr(takeovers.Takeover, "_start_workers", lambda takeover: None)
        world.apply()
    assert worker.exists()
    world.commands.clear()
    monkeypatch.setattr(takeovers.Takeover, "check_data", fails)
    for _time in range(2):
        with pytest.raises(DeploymentError, match="it does not"):
            world.apply()
    started = [command for command in world.commands if "tasks.service" in command]
    assert started == [["systemctl", "start", "tasks.service"]] and not worker.parent.exists()


def test_worker_that_nothing_replaces_is_named(world, old):
    unit = f"[Service]\nWorkingDirectory={old.folder}\nExecStart={old.folder}/bot\n"
    (manager.SYSTEMD / "bot.service").write_text(unit)
    world.apply()
    named = "bot.service served no pages and was stopped with the existing deployment: nothing replaces it"
    assert [text for text in world.last.warnings if "served no pages" in text] == [named]


# A killed apply


def kill_apply(world, monkeypatch, where: str) -> None:
    """An apply that is killed."""
    with monkeypatch.context() as patched:
        module, name = where.rsplit(".", 1)
        patched.setattr(f"{module}.{name}", lambda *_: (_ for _ in ()).throw(SystemExit))
        patched.setattr(Path, "unlink", lambda *_, **__: None)
        patched.setattr(takeovers.Takeover, "write", only_switching(takeovers.Takeover.write))
        with pytest.raises(SystemExit):
            world.apply()


def only_switching(write):
    """What follows the kill is not done."""
    return lambda self, **values: None if values.get("phase") == "waiting" else write(self, **values)


def test_takeover_resumed_after_kill_behind_switch(world, old, monkeypatch):
    monkeypatch.setattr(stop, "stop", lambda *_: (_ for _ in ()).throw(SystemExit))
    with pytest.raises(SystemExit):
        world.apply()
    assert plan(world)["phase"] == "switched" and world.live
    monkeypatch.setattr(stop, "stop", lambda *_: None)
    del world.options["adopt"]
    changes = world.apply()
    assert "adopted" in changes["live"] and plan(world) is None
    assert not (manager.SYSTEMD / "shop.service").exists()
    world.check()


@pytest.mark.parametrize("wrote", [False, True])
def test_takeover_resumed_after_kill_in_switch_unless_data_changed(world, old, monkeypatch, wrote):
    """Nobody knows which of the two served then: it is gone on with only if the old one has not written."""
    kill_apply(world, monkeypatch, "django_formula.proxy.switch.apply")
    assert plan(world)["phase"] == "switching" and world.live
    if wrote:
        old.sign("Bob")
        with pytest.raises(DeploymentError) as error:
            world.apply()
        assert error.value.message.startswith(
            f"live: the existing deployment wrote to {old.database} after it was copied"
        )
        world.site.current.unlink()
    world.apply()
    assert old.guests(world.site.database.top / "db.sqlite3") == (["Ada", "Bob"] if wrote else ["Ada"])
    assert plan(world) is None


# Data that stays where it is


@pytest.fixture
def in_place(world):
    """A site whose database and uploads lie where the formula has them."""
    site = world.site
    old = Old(world, site.root / "database")
    (site.root / "database/manage.py").unlink()
    shutil.move(site.root / "database/media", site.media.top)
    (site.root / "source").mkdir()
    (site.root / "source/manage.py").write_text("")
    world.options = {"adopt": True}
    uses(world, old.database)
    return old


def test_data_in_place_used_without_copy(world, in_place, monkeypatch):
    inode = in_place.database.stat().st_ino
    changes = world.apply()
    assert changes["live"]["adopted"][str(in_place.database)] == "used where it is"
    assert in_place.database.stat().st_ino == inode and in_place.guests() == ["Ada"]
    assert (world.site.media.top / "2026/photo").read_text() == "a photo"
    assert not (world.site.root / "source").exists()
    assert {stat.S_IMODE(path.stat().st_mode) for path in (world.site.root, world.site.database.top)} == {0o755, 0o750}
    assert world.apply() == {}


def test_existing_deployment_writes_until_switch(world, in_place):
    deployment = world.deployment()
    list(steps.site(deployment))
    assert stat.S_IMODE(world.site.root.stat().st_mode) == 0o755
    assert str(world.site.database.top) in plan(world)["kept"]
    in_place.sign("Bob")


def test_database_in_root_writable_until_switch(world):
    old = Old(world, world.site.root)
    world.options = {"adopt": True}
    uses(world, world.site.database.top / "db.sqlite3")
    list(steps.site(world.deployment()))
    assert stat.S_IMODE(world.site.root.stat().st_mode) == 0o1775
    old.sign("Bob")


def test_data_returned_to_other_user_on_failure(world, in_place, monkeypatch):
    monkeypatch.setattr(data, "detect_owner", lambda adoption, mine: setattr(adoption, "owner", (12345, 54321)))
    in_place.database.chmod(0o644)
    world.fails = {"nginx -t": DeploymentError("it does not", transient=True)}
    seen = []
    give = takeovers.Takeover._hand
    monkeypatch.setattr(takeovers.Takeover, "_hand", lambda *who, **more: seen.append(who[2]) or give(*who, **more))
    with pytest.raises(DeploymentError):
        world.apply()
    assert users.group_name(54321) in seen
    assert stat.S_IMODE(in_place.database.stat().st_mode) == 0o644
    world.fails = {}
    world.apply()
    assert stat.S_IMODE(in_place.database.stat().st_mode) == 0o640 and os.getuid() == in_place.database.stat().st_uid
