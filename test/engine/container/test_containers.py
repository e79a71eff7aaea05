"""Containers: the arguments by which an engine runs a command of a site, its units, and which images are removed."""

import grp
import json
import pwd
import shlex
import shutil
import subprocess
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from django_formula.container import base, containers
from django_formula.container import engine as container_engine
from django_formula.container import host as container_host
from django_formula.container import images as container_images
from django_formula.container import unit as container_unit
from django_formula.container.containers import Container
from django_formula.container.engine import ENGINES
from django_formula.host import commands as host_commands
from django_formula.host.commands import DeploymentError
from django_formula.kind import kinds
from django_formula.process import container as process_container
from django_formula.process import contract, supervisor, systemd, transient
from django_formula.process.command import ProjectCommand
from django_formula.release import disk, instances, releases
from django_formula.store import stores
from django_formula.verbs import status
from specimen import FACTS, formula_templates

PODMAN = ENGINES["podman"]
NAME = "0042-3f2a9c1b77de"


@pytest.fixture
def site(make_site):
    """A site with containers whose folders exist."""
    return make_site(container={}, server={"kind": "gunicorn"}, resources={"MemoryMax": "512M", "CPUQuota": "150%"})


@pytest.fixture
def release(site):
    """A release of it that was built: its record names its image."""
    path = site.releases / NAME
    for name in ("config", "source", "static"):
        (path / name).mkdir(parents=True)
    container = Container(PODMAN, f"localhost/django/blog:{NAME}", "localhost/base", (f"{path}/source/.env",))
    (path / "source/.env").touch()
    (path / "release.json").write_text(json.dumps({"container": containers.record(container)}))
    return path


def command(site, release, **options):
    return ProjectCommand(site, release, FACTS, ["manage.py", "check"], doing="a check", timeout=5, **options)


def test_a_release_without_a_record_of_an_image_has_no_container(tmp_path):
    (tmp_path / "release.json").write_text(json.dumps({"state": "good"}))
    assert containers.of_release(tmp_path) is None


def test_an_unknown_engine_in_a_record_is_no_container(tmp_path):
    record = {"engine": "../../bin/sh", "image": "x", "base": "y", "mounts": []}
    (tmp_path / "release.json").write_text(json.dumps({"container": record}))
    assert containers.of_release(tmp_path) is None


def test_a_command_runs_locked_down_with_the_paths_and_limits_of_its_site(site, release):
    _properties, argv = process_container.confined(
        command(site, release), containers.of_release(release), "django-blog-task"
    )
    variables = [f"{release}/config/environment", f"{site.secrets}/environment"]
    assert argv[-6:] == ["sh", *variables, "--", "manage.py", "check"]
    for option in (
        "--read-only",
        "--cap-drop=ALL",
        "--security-opt=no-new-privileges",
        "--pull=never",
        "--network=host",
        "--tmpfs=/dev/shm:rw,nosuid,nodev,noexec,mode=1777",  # Celery's semaphores
    ):
        assert option in argv
    assert {"--memory=512m", "--cpus=1.5"} <= {*argv}
    assert f"--volume={release}/config:{release}/config:ro" in argv
    assert f"--volume={release}/source/.env:{release}/source/.env:ro" in argv
    assert f"--volume={site.media}:{site.media}:rw" in argv
    assert f"--volume={release}/source:{release}/source:ro" not in argv  # it is the image's
    assert not [word for word in argv if word.startswith("--env-file")]


def test_containers_reach_each_server_that_the_site_has_for_its_queue_and_caches(make_site, release, monkeypatch):
    caches = {"default": {"engine": "memcached"}, "pages": {"engine": "memcached"}, "sessions": {"engine": "redis"}}
    site = make_site(container={}, queue={"engine": "redis"}, caches=caches)
    monkeypatch.setattr(containers, "_existing", lambda _site, _release, paths: [*map(str, paths)])
    _properties, argv = process_container.confined(
        command(site, release), containers.of_release(release), "django-blog-task"
    )
    servers = [server for _kind, server in stores.own_servers(site)]
    assert {server.unit for server in servers} == {
        *("django-blog-queue", "django-blog-memcached", "django-blog-memcached_pages", "django-blog-cache_sessions")
    }
    for server in servers:
        assert f"--volume={server.socket.parent}:{server.socket.parent}:ro" in argv


def test_a_command_may_write_only_what_it_names(site, release):
    def modes(**options):
        confined = process_container.confined(
            command(site, release, **options), containers.of_release(release), "django-blog-task"
        )
        return [word.rpartition(":")[2] for word in confined[1] if word.startswith(f"--volume={release}/static:")]

    assert (modes(), modes(writable=[release / "static"])) == (["ro"], ["rw"])


@pytest.mark.parametrize("manager", [systemd, supervisor])
def test_variables_of_a_command_are_in_a_file_of_its_site_while_it_runs(site, release, monkeypatch, tmp_path, manager):
    """``django.superuser`` has the password there, which is no argument of the engine."""
    given = tmp_path / "given"
    given.write_text("PASSWORD='it is $(secret)'\n")
    monkeypatch.setattr(process_container.sites, "RUNTIME", tmp_path)
    monkeypatch.setattr(container_engine.Engine, "end", lambda _engine, _name: None)
    monkeypatch.setattr(transient, "start_bus", lambda: None)
    monkeypatch.setattr(transient, "end", lambda _name: None)
    seen = []

    def execute(command):
        seen.append((command.argv, own.read_text(), own.stat().st_mode & 0o777))
        return host_commands.Ended(0, "", "")

    own = tmp_path / "django-blog-manage-1.environment"
    monkeypatch.setattr(host_commands, "execute", execute)
    manager.MANAGER.run(command(site, release, environment_file=str(given), task="manage-1"))
    ((argv, text, mode),) = seen
    assert (text, mode) == ('PASSWORD="it is \\$(secret)"\n', 0o640) and not own.exists()
    assert argv[argv.index("sh") + 3] == str(own) and "secret)" not in str(argv)


def test_commands_run_in_a_first_release_that_failed_by_the_interpreter_of_its_image(site, release):
    (release / "config/environment").touch()
    (release / "virtualenv/bin").mkdir(parents=True)
    record = json.loads((release / "release.json").read_text()) | {"state": "failed", "step": "migration"}
    (release / "release.json").write_text(json.dumps(record))
    with pytest.raises(DeploymentError, match="failed too early to run commands in it"):
        status.runnable_release(site)
    (release / "virtualenv/bin/python").symlink_to("/of/the/image/bin/python")
    assert status.runnable_release(site).name == NAME


def test_variables_reach_the_command_and_no_argument(tmp_path):
    files = [tmp_path / "one", tmp_path / "two"]
    files[0].write_text('A="x y"\n')
    files[1].write_text('B="\\$A\\"q"\n')
    argv = ["/bin/sh", "-c", containers._ENTER, "sh", *map(str, files), "--", "/usr/bin/env"]
    printed = subprocess.run(argv, capture_output=True, text=True, check=True, env={}).stdout.splitlines()
    assert {"A=x y", 'B=$A"q'} <= {*printed}


def test_options_that_an_image_has_for_its_own_server_are_forgotten(tmp_path):
    """UWSGI_HTTP=:8000 would be a port of the host; what the pillar sets holds."""
    own = tmp_path / "own"
    own.write_text('GUNICORN_CMD_ARGS="--preload"\n')
    given = {
        "UWSGI_HTTP": ":8000",
        "GUNICORN_CMD_ARGS": "--bind=:8000",
        "GRANIAN_HOST": "0.0.0.0",
        "UVICORN_HOST": "::",
    }
    kept = {"MY_UWSGI": "it's $(x)\nexport UWSGI_$(false)=1", "PATH": "/usr/bin:/bin"}
    argv = ["/bin/sh", "-c", containers._ENTER, "sh", str(own), "--", "/usr/bin/env", "-0"]
    found = subprocess.run(argv, capture_output=True, text=True, check=True, env=given | kept).stdout.split("\0")
    expected = {*(f"{name}={value}" for name, value in kept.items()), "GUNICORN_CMD_ARGS=--preload"}
    assert {one for one in found if one and not one.startswith(("PWD=", "SHLVL=", "_="))} == expected


def test_the_unit_of_a_server_runs_the_container_and_no_sandbox_of_its_own(site, release):
    templates = formula_templates()
    files = instances.configuration(site, release, FACTS, templates)
    lines = files["django-blog-0042.service"].splitlines()
    assert [
        line for line in lines if line.startswith(("User=", "MemoryMax=", "ProtectSystem=", "RuntimeDirectory="))
    ] == []
    assert "NotifyAccess=all" in lines
    (start,) = [line for line in lines if line.startswith("ExecStart=")]
    assert start.startswith("ExecStart=/usr/bin/podman --events-backend=none run --name=django-blog-0042 --detach")
    assert start.endswith("django_formula_gunicorn:application")


def test_docker_gets_no_socket_of_systemd_and_is_waited_for(make_site):
    site = make_site(container={"engine": "docker"}, server={"kind": "gunicorn"})
    path = site.releases / NAME
    path.mkdir()
    record = containers.record(Container(ENGINES["docker"], f"localhost/django/blog:{NAME}", "localhost/base"))
    (path / "release.json").write_text(json.dumps({"container": record}))
    files = instances.configuration(site, path, FACTS, formula_templates())
    assert "django-blog-0042.socket" not in files
    assert json.loads(files["instance.json"])["address"] == f"{site.run}/0042.sockets/server.sock"
    lines = files["django-blog-0042.service"].splitlines()
    assert "Type=exec" in lines and "After=network.target docker.service" in lines
    (start,) = [line for line in lines if line.startswith("ExecStart=")]
    listen = f"{path}/config/django_formula_listen.py {site.run}/0042.sockets/server.sock"
    assert f"--volume={site.run}/0042.sockets:{site.run}/0042.sockets:rw" in start and listen in start
    assert "django_formula_listen.py" in files
    (wait,) = [line for line in lines if line.startswith("ExecStartPost=")]
    assert f"{site.run}/0042/ready" in wait and "$MAINPID" in wait


@pytest.mark.parametrize("engine", ENGINES)
def test_uwsgi_binds_the_socket_that_docker_does_not_pass(make_site, engine):
    site = make_site(container={"engine": engine}, server={"kind": "uwsgi"})
    path = site.releases / NAME
    (path / "virtualenv/bin").mkdir(parents=True)
    record = containers.record(Container(ENGINES[engine], f"localhost/django/blog:{NAME}", "localhost/base"))
    (path / "release.json").write_text(json.dumps({"container": record}))
    text = instances.configuration(site, path, FACTS, formula_templates())["uwsgi.ini"]
    socket, ready = (
        f"socket = {site.run}/0042.sockets/server.sock\nchmod-socket = 660\n",
        f"create:{site.run}/0042/ready\n",
    )
    assert [one in text for one in (socket, ready, "\nlisten = ")] == [engine == "docker"] * 3
    assert "logto" not in text, "the journal has its log"


def test_a_worker_in_a_container_reads_the_link_of_the_active_release(make_site):
    site = make_site(container={}, workers={"mail": {"kind": "celery"}}, server={"kind": "gunicorn"})
    path = site.releases / NAME
    path.mkdir()
    record = containers.record(Container(PODMAN, f"localhost/django/blog:{NAME}", "localhost/base"))
    (path / "release.json").write_text(json.dumps({"container": record}))
    files = instances.configuration(site, path, FACTS, formula_templates())
    given = json.loads(files["worker-mail.json"])
    assert (given["current"], given["hold"]) == ("/site/current", "/site/maintenance/on/hold")
    assert f"--volume={site.root}:/site:ro" in files["django-blog-0042-mail.service"]
    assert f"--volume={site.root}:/site:ro" not in files["django-blog-0042.service"]


def test_the_process_of_a_container_is_the_one_that_the_engine_reports(site, release, monkeypatch):
    asked = []

    def run(_engine, *arguments, **_options):
        asked.append(arguments)
        return "4711\n"

    monkeypatch.setattr(container_engine.Engine, "run", run)
    assert systemd.MANAGER.pid(site, release) == 4711
    assert systemd.MANAGER.pid(site, release, "mail") == 4711
    assert [arguments[-1] for arguments in asked] == ["django-blog-0042", "django-blog-0042-mail"]


def test_a_site_without_containers_has_the_unit_that_it_had(make_site):
    site = make_site(server={"kind": "gunicorn"})
    files = instances.configuration(site, site.releases / NAME, FACTS, formula_templates())
    assert "bin/podman" not in files["django-blog-0042.service"]


@pytest.mark.parametrize(
    ("word", "written"),
    [("a b", '"a b"'), ("$1", "$$1"), ("50%", "50%%"), ('say "x"', '"say \\"x\\""'), ("", '""'), (";", '";"')],
)
def test_words_of_a_unit_are_quoted(word, written):
    assert container_unit.quoted([word]) == written


def test_limits_have_the_names_of_the_engine():
    limits = {"MemoryMax": "1G", "CPUQuota": "50%", "TasksMax": 64, "LimitNOFILE": "1024:2048"}
    expected = ["--memory=1g", "--cpus=0.5", "--pids-limit=64", "--ulimit=nofile=1024:2048"]
    assert container_engine.limits(limits) == expected


# Images


class Played:
    """An engine that has images in memory."""

    name = "podman"

    def __init__(self, images):
        self.present, self.built = images, []

    def image(self, reference):
        return reference if reference in self.present else ""

    def images(self, label="", name=""):
        if name:
            return [one for one in self.present if one.startswith(name.rstrip("*"))]
        return [one for one, labels in self.present.items() if label in labels]

    def labels(self, image, name):
        return next(label.partition("=")[2] for label in self.present[image] if label.startswith(f"{name}="))

    def remove(self, image):
        del self.present[image]

    def build(self, dockerfile, _context, tag, _timeout, **options):
        self.options = options
        ignored = dockerfile.with_name("Dockerfile.dockerignore").read_text().splitlines()
        self.built.append((tag, dockerfile.read_text(), ignored))
        self.present[tag] = []


@pytest.fixture
def engine(monkeypatch, site):
    played = Played({})
    monkeypatch.setattr(container_images.container_containers, "engine", lambda _site: played)
    monkeypatch.setattr(base, "require_of", lambda _site, _engine, _name: None)
    return played


def test_images_go_with_their_folders_and_foreign_ones_stay(site, release, engine):
    gone, failed = site.releases / "0007-gone", site.releases / "0041-failed"
    failed.mkdir()
    (failed / "release.json").write_text(json.dumps({"state": "failed"}))  # whose source was deleted
    own = base.SITE + "=blog"
    at = base.PATH
    engine.present |= {
        "live": [own, f"{at}={release}"],
        "gone": [own, f"{at}={gone}"],
        "failed": [own, f"{at}={failed}"],
        "localhost/django/blog-carried:deps-abc": [own, f"{at}={gone}"],  # of another host, for a release to come
        "foreign": ["maintainer=me"],
        "shop": [base.SITE + "=shop", f"{at}={gone}"],
    }
    assert container_images.prune(site, [engine]) == []
    assert {*engine.present} == {"live", "localhost/django/blog-carried:deps-abc", "foreign", "shop"}


def test_an_image_that_cannot_be_removed_keeps_no_other_one(site, engine, monkeypatch):
    own, at = base.SITE + "=blog", base.PATH
    engine.present |= {name: [own, f"{at}={site.releases}/{name}"] for name in ("used", "gone", "last")}

    def remove(image):
        if image in ("used", "last"):
            raise DeploymentError(f"removing the image {image} failed: in use by a container")
        del engine.present[image]

    monkeypatch.setattr(engine, "remove", remove)
    (told,) = container_images.prune(site, [engine])
    assert told == (
        "images of blog could not be removed: removing the image used failed: in use by a container, and 1 more"
    )
    assert {*engine.present} == {"used", "last"}


def test_containers_of_killed_processes_keep_no_image(monkeypatch):
    """podman leaves the container of a build whose process was killed; rmi fails as long as it is there."""
    listed = [
        "a1 sha-1 Storage deps-working-container",  # podman 4.3
        "a2 sha-1 storage deps-working-container-1",  # podman 5.4
        "a3 sha-1 Created django-look-4711",
        "a4 sha-1 running django-blog-0042",
        "a5 sha-1 exited of-the-operator",
        "a6 sha-2 storage another-working-container",
        "a7  storage of-scratch",
    ]
    answers = {"ps": "\n".join(listed), "image": "sha-1\n"}
    asked = []

    def run(_engine, command, *rest, **_how):
        asked.append([command, *rest])
        return '["localhost/django/blog-deps:abc"]' if rest[:3] == NAMES else answers.get(command, "")

    monkeypatch.setattr(container_engine.Engine, "run", run)
    PODMAN.remove("sha-1")
    assert [one[-1] for one in asked if one[0] == "rm"] == ["a1", "a2", "a3"]
    assert asked[-1] == ["rmi", "localhost/django/blog-deps:abc"]
    asked.clear()
    ENGINES["docker"].remove("sha-1")
    assert [one[0] for one in asked] == ["image", "rmi"]


NAMES = ("inspect", "--format", "{{json .RepoTags}}")


def test_an_image_on_another_file_system_is_on_the_disk_before_its_release_serves(site, release, monkeypatch, tmp_path):
    synced = []
    monkeypatch.setattr(releases.file, "sync", synced.append)
    monkeypatch.setitem(container_engine._STORAGE, "podman", "/proc")
    disk.sync(releases.Release(site, NAME))
    monkeypatch.setitem(container_engine._STORAGE, "podman", str(tmp_path))
    disk.sync(releases.Release(site, NAME))
    assert synced == [release, Path("/proc"), release]


def test_a_base_that_another_deployment_has_made_meanwhile_is_not_made_again(site, engine, monkeypatch, tmp_path):
    monkeypatch.setattr(base, "_WORK", tmp_path / "images")
    monkeypatch.setattr(base, "_import", lambda *_given: pytest.fail("made again"))
    engine.present["localhost/django/base:x"] = []
    base._make(site, engine, "localhost/django/base:x")
    assert (tmp_path / "images/lock").read_text() == ""


def test_no_secret_of_the_source_is_in_the_image_of_a_release(site, release, engine):
    (release / "source/deep").mkdir()
    (release / "source/deep/server.key").touch()
    (release / "virtualenv").symlink_to("../../virtualenvs/abc")
    container = container_images.of_release(site, release, "abc")
    (_dependencies, (tag, text, ignored)) = engine.built
    assert {"*", "!source", "source/.env", "source/deep/server.key", "**/.git"} <= {*ignored}
    assert ignored.index("source/.env") > ignored.index("!source")
    assert {*container.mounts} == {f"{release}/source/.env", f"{release}/source/deep/server.key"}
    assert tag == f"localhost/django/blog:{NAME}"
    assert f"source {release}/source" in text and "STOPSIGNAL SIGTERM" in text.splitlines()


def test_what_leads_elsewhere_or_is_written_by_the_site_is_never_mounted(make_site, tmp_path, engine):
    """Root would mount what a link leads to; the site may lay one where it writes."""
    site = make_site(container={}, writable=["cache"])
    source = site.releases / NAME / "source"
    (source / "cache").mkdir(parents=True)
    (source / ".envs").symlink_to("/root")
    (source / "cache/.env").touch()
    (source / ".env").touch()
    assert [*container_images._private(site, source)] == [".env"]
    (source / "a:b.key").touch()


@pytest.mark.parametrize("name", ["a:b.key", ".env.a\nExecStart=\nExecStart=touch x", ".env.\udcff"])
def test_a_file_whose_name_an_engine_or_a_unit_would_misread_is_refused(make_site, name):
    """A line in the unit of a container would be run by root."""
    site = make_site(container={})
    source = site.releases / NAME / "source"
    source.mkdir(parents=True)
    (source / name).touch()
    with pytest.raises(DeploymentError, match="may have secrets, and a name with a colon or a control character"):
        [*container_images._private(site, source)]


@pytest.mark.parametrize("word", ["a\nb", "\x1b", "a\u2028b"])
def test_no_argument_adds_a_line_to_a_unit(word):
    with pytest.raises(ValueError, match="cannot be written to a systemd unit"):
        container_unit.quoted(["/bin/true", word])


def test_a_secret_below_a_folder_with_brackets_is_in_no_image(site, release, engine):
    (release / "source/[slug] ").mkdir()
    (release / "source/[slug] /server.key").touch()
    (release / "virtualenv").symlink_to("../../virtualenvs/abc")
    container_images.of_release(site, release, "abc")
    assert "source/?slug??/server.key" in engine.built[-1][2]


def test_a_command_that_times_out_ends_with_its_container(site, release, monkeypatch):
    """The engine ends it first: a process with the number 1 may ignore SIGTERM, and go on without the engine."""
    commands = []
    monkeypatch.setattr(transient, "start_bus", lambda: None)
    monkeypatch.setattr(transient, "end", lambda _name: None)
    monkeypatch.setattr(
        systemd.commands,
        "execute",
        lambda command: commands.append(command.argv) or host_commands.Ended(0, "", ""),
    )
    systemd.Systemd().run(command(site, release))
    (argv,) = commands
    stop = [word for word in argv if word.startswith("--property=ExecStop=")]
    assert len(stop) == 1 and "podman --events-backend=none rm --force" in stop[0] and "django-blog-" in stop[0]
    assert "--property=TimeoutStopSec=15" in argv


# Below supervisor


@pytest.fixture
def supervised(make_site):
    options = {"server": {"kind": "gunicorn"}, "workers": {"mail": {"kind": "command", "command": "manage.py mail"}}}
    return make_site(process="supervisor", container={}, **options)


def test_supervisor_runs_the_engine_in_the_foreground(supervised):
    files = instances.configuration(supervised, supervised.releases / NAME, FACTS, formula_templates())
    for name, unit in (("supervisor.sh", "django-blog-0042"), ("worker-mail.sh", "django-blog-0042-mail")):
        *_before, start = files[name].splitlines()
        words = shlex.split(start)
        assert words[:2] == ["exec", "/usr/bin/env"] and f"--name={unit}" in words and "--detach" not in words
        assert f"rm --force --ignore --time=0 {unit} >/dev/null" in files[name]
    command = shlex.split(files["supervisor.sh"].splitlines()[-1])
    folder = f"{supervised.run}/0042.sockets"
    assert f"--volume={folder}:{folder}:rw" in command and f"{folder}/server.sock" in command
    assert f"{supervised.releases / NAME}/config/django_formula_listen.py" in command


def test_only_a_site_in_containers_has_the_script_of_supervisor_for_them(supervised, make_site):
    url = f"{kinds.FILES}container.sh"
    assert url in instances.templates(supervised)
    assert url not in instances.templates(make_site(process="supervisor"))


def test_a_command_below_supervisor_ends_with_its_container(supervised, release, monkeypatch):
    ended, ran = [], []
    monkeypatch.setattr(container_engine.Engine, "end", lambda _engine, name: ended.append(name))

    def run(argv, **how):
        ran.append((argv, how))
        raise DeploymentError("a check: timed out after 5 s")

    monkeypatch.setattr(supervisor.commands, "run", run)
    manager = supervisor.MANAGER
    with supervised.lock("a test").held(), pytest.raises(DeploymentError, match="timed out"):
        manager.run(command(supervised, release))
    ((argv, how),) = ran
    assert argv[:2] == ["/usr/bin/podman", "--events-backend=none"] and argv[-2:] == ["manage.py", "check"]
    assert how["timeout"] == 5 and ended == ["django-blog-task"] * 2


def test_a_part_below_supervisor_is_the_first_process_of_its_container(supervised, release, monkeypatch):
    running = {"django-blog-0042": supervisor.Program(17, 9.0, "RUNNING")}
    monkeypatch.setattr(supervisor, "_program", running.get)
    monkeypatch.setattr(container_engine.Engine, "pid", lambda _engine, _name: 4711)
    manager = supervisor.MANAGER
    assert manager.pid(supervised, release) == 4711
    assert manager.pid(supervised, release, "mail") is None
    ended = []
    monkeypatch.setattr(container_engine.Engine, "end", lambda _engine, name: ended.append(name))
    manager.end_leftovers(supervised, release)
    assert ended == ["django-blog-0042"]
    assert manager.is_command_active(supervised, "manage-1")
    manager.end_tasks(supervised)
    assert ended[1:] == ["django-blog-task"]


def test_only_a_folder_that_the_site_cannot_exchange_is_mounted_for_a_command(site, release):
    for name in ("media/up/a.csv", "imports/a.csv"):
        (site.root / name).parent.mkdir(parents=True, exist_ok=True)
        (site.root / name).touch()
    inside = containers.Inside("n", site.user, "/", write=[str(site.media)])
    named = [f"{site.root}/media/up/a.csv", f"{site.root}/imports/a.csv"]
    assert containers.with_files(site, release, inside, named).read == [f"{site.root}/imports"]


def test_the_images_of_a_site_go_with_its_last_release_in_containers(make_site, release, monkeypatch):
    monkeypatch.setattr(container_engine.Engine, "images", lambda _engine, label="", name="": ["sha"] * (not name))
    monkeypatch.setattr(container_engine.Engine, "labels", lambda _engine, _image, _name: str(release))
    removed = []
    monkeypatch.setattr(container_engine.Engine, "remove", lambda _engine, image: removed.append(image))
    plain = make_site()
    engines = container_images.used(plain)
    assert engines == [PODMAN] and container_images.prune(plain, engines) == [] and removed == []
    shutil.rmtree(release)
    assert container_images.used(plain) == []
    assert container_images.prune(plain, engines) == [] and removed == ["sha"]


def test_an_engine_that_fails_is_no_failure_of_the_release(site, monkeypatch):
    def failing(_engine, **_wanted):
        raise DeploymentError("listing images failed: storage is locked")

    monkeypatch.setattr(container_engine.Engine, "images", failing)
    (told,) = container_images.prune(site, [PODMAN])
    assert told == "images of blog could not be removed: listing images failed: storage is locked"


def test_a_release_is_not_made_again_on_another_base(make_site, monkeypatch):
    monkeypatch.setattr(container_engine.Engine, "image", lambda _engine, _name: "")
    for site in (make_site(), make_site(container={"base": "localhost/other"})):
        with pytest.raises(DeploymentError, match="podman no longer has the image localhost/base, with which"):
            base.require_of(site, PODMAN, "localhost/base")


def test_a_removed_image_is_made_again_from_its_release(site, release, engine, monkeypatch):
    (release / "virtualenv").symlink_to("../../virtualenvs/abc")
    monkeypatch.setattr(
        container_images.container_containers,
        "of_release",
        lambda _release: Container(engine, f"localhost/django/blog:{NAME}", "localhost/base"),
    )
    container_images.require(site, release)
    container_images.require(site, release)
    assert [tag for tag, *_rest in engine.built] == ["localhost/django/blog-deps:abc", f"localhost/django/blog:{NAME}"]


def test_a_removed_image_is_made_once_where_the_parts_of_a_release_start_at_once(site, release, engine, monkeypatch):
    """A build ends what is left in the slice of its site: it would be the build for another part."""
    (release / "virtualenv").symlink_to("../../virtualenvs/abc")
    made, build = Container(engine, f"localhost/django/blog:{NAME}", "localhost/base"), engine.build
    monkeypatch.setattr(container_images.container_containers, "of_release", lambda _release: made)
    running, seen = [], []

    def slowly(*arguments, **options):
        running.append(arguments)
        seen.append(len(running))
        time.sleep(0.1)
        build(*arguments, **options)
        running.pop()

    monkeypatch.setattr(engine, "build", slowly)
    with ThreadPoolExecutor(3) as pool:
        for one in [pool.submit(container_images.require, site, release) for _part in range(3)]:
            one.result()
    assert seen == [1, 1]


# Docker on this host


def docker_host(monkeypatch, *, live_restore="true", members=(), ports=()):
    answers = {"info": live_restore, "ps": "\n".join(json.dumps({"Names": n, "Ports": p}) for n, p in ports)}
    monkeypatch.setattr(container_engine.Engine, "run", lambda _engine, command, *_rest, **_how: answers[command])
    group = grp.struct_group(("docker", "x", 999, list(members)))
    monkeypatch.setattr(container_host.grp, "getgrnam", lambda _name: group)
    users = [pwd.struct_passwd((name, "x", 1000, gid, "", "/", "")) for name, gid in (("ray", 1000), ("deploy", 999))]
    monkeypatch.setattr(container_host.pwd, "getpwall", lambda: users[: 2 if members else 1])


def test_a_sound_docker_has_no_warning(make_site, monkeypatch):
    docker_host(monkeypatch, ports=[("db", "127.0.0.1:5432->5432/tcp, [::1]:5432->5432/tcp"), ("blog", "")])
    assert container_host.warnings(make_site(container={"engine": "docker"})) == []


def test_what_is_weak_about_docker_is_reported(make_site, monkeypatch):
    ports = [("web", "0.0.0.0:8080->80/tcp, :::8080->80/tcp"), ("db", "127.0.0.1:5432->5432/tcp")]
    docker_host(monkeypatch, live_restore="false", members=["ray"], ports=ports)
    restart, group, firewall = container_host.warnings(make_site(container={"engine": "docker"}))
    assert restart.startswith("Docker runs without live-restore")
    assert "root on this host: deploy, ray;" in group
    assert "past the firewall of this host: 8080 (web);" in firewall


def test_podman_has_no_warning_of_docker(site, monkeypatch):
    docker_host(monkeypatch, live_restore="false", members=["ray"])
    assert container_host.warnings(site) == []


def test_a_docker_that_does_not_answer_is_a_warning_and_no_failure(make_site, monkeypatch):
    def failing(*_arguments, **_how):
        raise DeploymentError("querying Docker failed (exit 1)")

    monkeypatch.setattr(container_engine.Engine, "run", failing)
    (told,) = container_host.warnings(make_site(container={"engine": "docker"}))
    assert told == "Docker's configuration could not be read: querying Docker failed (exit 1)"


def test_a_dry_run_foresees_the_container_of_a_release_that_is_not_built(site, release):
    site.current.symlink_to(release)
    following = site.releases / "0043-aaaaaaaaaaaa"
    units = []
    for path in (release, following):
        unit = systemd.unit(site, path)
        variables = {"unit": unit, "command": ["gunicorn"], "facts": FACTS, "stop_timeout": 40}
        variables["run"] = str(contract.run_folder(site, path))
        around = str(systemd._around(site, path, variables, [])).replace(variables["run"], "RUN")
        units.append(around.replace(unit, "UNIT").replace(str(path), "RELEASE").replace(path.name, "NAME"))
    assert units[0] == units[1] and "--volume=RELEASE/source/.env:RELEASE/source/.env:ro" in units[1]


def test_a_dry_run_foresees_the_first_container_of_a_site(site, release):
    (release / "release.json").write_text(json.dumps({"state": "good"}))
    site.current.symlink_to(release)
    found = containers.expected(site, site.releases / "0043-aaaaaaaaaaaa")
    assert (found.engine, found.image) == (PODMAN, "localhost/django/blog:0043-aaaaaaaaaaaa")
    assert containers.expected(site, release) is None


DEBIAN = "deb http://mirror.example.org/debian/ bookworm main"
SECURITY = "deb http://mirror.example.org/security/ bookworm-security main"


@pytest.mark.parametrize(
    ("listed", "taken"),
    [
        ([DEBIAN, DEBIAN, SECURITY], [DEBIAN, SECURITY]),  # each architecture has a line
        ([DEBIAN, "deb http://deb.debian.org/debian/ trixie main"], [DEBIAN]),
        ([SECURITY], []),
        ([], []),
        ([DEBIAN, "deb https://user:s3cret@mirror.example.org/debian/ bookworm-updates main"], []),
    ],
)
def test_a_base_is_made_from_the_sources_of_the_host(monkeypatch, listed, taken):
    monkeypatch.setattr(host_commands, "run", lambda *_, **__: "".join(f"{line}\n" for line in listed))
    assert base._sources("bookworm") == taken


def test_a_base_is_made_by_the_proxy_of_apt(monkeypatch):
    """mmdebstrap 1.3 does not read the configuration of the host's apt, and failed where only its proxy is reached."""
    printed = "http_proxy='http://cache.example.org:3142/'\nhttps_proxy='DIRECT'\n"
    monkeypatch.setattr(host_commands, "run", lambda *_, **__: printed)
    monkeypatch.setenv("https_proxy", "http://other.example.org:3128")
    found = base._network()
    assert (found["http_proxy"], found["https_proxy"]) == ("http://cache.example.org:3142/", "")
