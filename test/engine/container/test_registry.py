"""Images from a registry or an archive: pulled for a release, and shared by the hosts of a site."""

import base64
import dataclasses
import hashlib
import json
import os
import re
import stat
import threading
from pathlib import Path

import pytest
from django_formula.container import base, containers
from django_formula.container import file as container_file
from django_formula.container import images as container_images
from django_formula.container import registry as container_registry
from django_formula.container.base import PATH, PULLED
from django_formula.container.engine import Engine
from django_formula.deploy import inputs as deploy_inputs
from django_formula.host.commands import DeploymentError
from django_formula.virtualenv import image

COMMIT = "3f2a9c1b77de24f0c7e5a1d8b9630e4f5a6b7c8d"
NAME = f"0042-{COMMIT[:12]}"
REGISTRY = "registry.example.org"
LOGIN = {"registry": REGISTRY, "user": "deploy", "password": "x"}
OWN = "localhost/django/blog-file:" + NAME
MANIFEST = b'{"schemaVersion": 2}'
DIGEST = f"sha256:{hashlib.sha256(MANIFEST).hexdigest()}"


@dataclasses.dataclass(frozen=True)
class Played(Engine):
    """An engine with its images, by name → labels, and the registry that it reaches."""

    images: dict[str, dict[str, str]] = dataclasses.field(default_factory=dict)
    registry: dict[str, dict[str, str]] = dataclasses.field(default_factory=dict)
    ran: list[tuple[str, ...]] = dataclasses.field(default_factory=list)
    logins: list[object] = dataclasses.field(default_factory=list)
    problem: list[str] = dataclasses.field(default_factory=list)
    unknown: list[str] = dataclasses.field(default_factory=lambda: ["reading manifest in {}: manifest unknown"])

    def run(self, *arguments: str, doing: str, variables=None, hint="", **_how) -> str:
        self.ran.append(arguments)
        verb, name = arguments[0], arguments[-1]
        if verb in ("pull", "push"):
            file = (variables or {}).get("REGISTRY_AUTH_FILE")
            self.logins.append(json.loads(Path(file).read_text()) if file else None)
            if self.problem:
                raise DeploymentError(f"{doing} failed (exit 125)", log=self.problem[0], hint=hint)
        if verb == "pull":
            if name not in self.registry:
                raise DeploymentError(f"{doing} failed (exit 125)", log=self.unknown[0].format(name), hint=hint)
            self.images[name] = self.registry[name]
        elif verb == "push":
            self.registry[name] = self.images[name]
        elif verb == "tag":
            self.images[name] = self.images[arguments[1]]
        elif verb == "rmi":
            self.images.pop(name, None)
        elif arguments[:2] == ("image", "inspect"):
            if name not in self.images:
                raise DeploymentError(f"{doing} failed (exit 1)", log=f"Error: No such image: {name}")
            return self._shown(arguments[3], name)
        elif verb == "info":
            return str(self._store())
        elif verb == "cp":
            self._copy(Path(name))
        elif verb == "save":
            Path(arguments[arguments.index("--output") + 1]).write_text("tar")
        elif verb == "load":
            return "Loaded image: localhost/django/blog-carried:deps-abc\n"
        return ""

    def _store(self) -> Path:
        """Where podman keeps the configurations and manifests of its images."""
        folder = Path(os.environ["STORE"])
        for name, labels in self.images.items():
            number = name.replace("/", "-")
            file = folder / number / f"={base64.b64encode(f'sha256:{number}'.encode()).decode()}"
            file.parent.mkdir(exist_ok=True)
            file.write_text(json.dumps({"config": {"OnBuild": json.loads(labels.get("onbuild", "null"))}}))
            (file.parent / "manifest").write_bytes(MANIFEST)
        return folder

    def _shown(self, template: str, name: str) -> str:
        if "OnBuild" in template:
            return self.images[name].get("onbuild", "null")  # as Docker prints it
        if "RepoTags" in template:
            return json.dumps([name])
        if "RepoDigests" in template:
            return json.dumps([f"other.example.org/x@sha256:{'0' * 64}", f"{name.rpartition(':')[0]}@{DIGEST}"])
        label = re.search(r'Labels "([^"]+)"', template)
        return self.images[name].get(label[1], "") if label else f"sha256:{name.replace('/', '-')}"

    def _copy(self, folder: Path) -> None:
        (folder / "bin").mkdir()
        (folder / "bin/python").symlink_to("/usr/bin/python3")
        (folder / "bin/program").touch()
        (folder / "bin/program").chmod(0o4755)
        if self.problem == ["a FIFO"]:
            os.mkfifo(folder / "bin/odd")
        if not self.problem:
            (folder / ".complete").touch()

    def build(self, dockerfile, context, tag, timeout, **options):
        self.ran.append(("build", dockerfile.read_text(), tag, str(options.get("slice_name"))))
        self.images[tag] = dict(options.get("labels") or {})


@pytest.fixture(params=["podman", "docker"])
def engine(monkeypatch, request, tmp_path):
    engine = Played(request.param)
    monkeypatch.setenv("STORE", str(tmp_path))
    monkeypatch.setattr(containers, "engine", lambda _site: engine)
    return engine


@pytest.fixture
def site_with(make_site):
    """A site whose `container` has these keys, and a release of it with its source."""

    def make(**container):
        site = make_site(container=container, server={"kind": "gunicorn"})
        release = site.releases / NAME
        (release / "source").mkdir(parents=True, exist_ok=True)
        (release / "source/Dockerfile").write_text("FROM scratch\n")
        (release / "release.json").write_text(json.dumps({"commit": COMMIT}))
        site.secrets.mkdir(parents=True, exist_ok=True)
        return site, release

    return make


def verbs(engine: Played) -> list[str]:
    return [one[0] for one in engine.ran if one[0] in ("pull", "push", "build")]


# The login


def test_the_login_is_in_a_folder_of_roots_while_an_engine_needs_it(site_with, engine):
    site, _release = site_with(login=LOGIN)
    container_registry.PASSWORD.keep(site, "s3cret")
    assert stat.S_IMODE(os.stat(site.secrets / ".registry_password").st_mode) == 0o600
    with container_registry.login(site) as variables:
        folder = Path(variables["DOCKER_CONFIG"])
        file = Path(variables["REGISTRY_AUTH_FILE"])
        assert file == folder / "config.json"
        assert [stat.S_IMODE(os.stat(path).st_mode) for path in (folder, file)] == [0o700, 0o600]
        assert json.loads(file.read_text()) == {"auths": {REGISTRY: {"auth": "ZGVwbG95OnMzY3JldA=="}}}
    assert not folder.exists()


def test_each_of_the_parts_that_start_at_once_has_its_login(site_with):
    site, _release = site_with(login=LOGIN)
    container_registry.PASSWORD.keep(site, "s3cret")

    def end_another():
        with container_registry.login(site):
            pass

    with container_registry.login(site) as variables:
        other = threading.Thread(target=end_another)
        other.start()
        other.join()
        assert Path(variables["REGISTRY_AUTH_FILE"]).exists()


def test_the_login_that_a_killed_deployment_has_left_is_removed(site_with):
    site, _release = site_with(login=LOGIN)
    gone, running = site.secrets / ".registry-7-4194305", site.secrets / ".registry-1"
    for folder in (gone, running):
        folder.mkdir()
    with container_registry.login(site) as variables:
        assert variables == {}  # no password is kept yet
    assert (gone.exists(), running.exists()) == (False, True)


def test_the_password_is_that_of_the_pillar_or_the_one_that_was_kept(site_with):
    site, _release = site_with(login=LOGIN)
    assert container_registry.PASSWORD.value(site, None) is None
    container_registry.PASSWORD.keep(site, "kept")
    assert container_registry.PASSWORD.value(site, None) == "kept"
    assert container_registry.PASSWORD.value(site, "new") == "new"
    without, _release = site_with()
    assert container_registry.PASSWORD.value(without, None) is None
    container_registry.PASSWORD.keep(without, None)
    assert not (site.secrets / ".registry_password").exists()


# An image that is made elsewhere


def test_the_image_of_a_commit_is_pulled_and_remembered_by_its_digest(site_with, engine):
    site, release = site_with(image=REGISTRY + "/team/blog:v-{commit:8}", login=LOGIN)
    container_registry.PASSWORD.keep(site, "s3cret")
    engine.registry[f"{REGISTRY}/team/blog:v-3f2a9c1b"] = {}
    container_file.make(site, release, engine, OWN, again=False, aside=False)
    assert engine.images == {
        OWN: {
            "django-formula.site": "blog",
            PATH: str(release),
            PULLED: f"{REGISTRY}/team/blog@{DIGEST}",
        }
    }
    assert engine.logins == [{"auths": {REGISTRY: {"auth": "ZGVwbG95OnMzY3JldA=="}}}]
    (build,) = [one for one in engine.ran if one[0] == "build"]
    assert build[1:3] == (f"FROM {REGISTRY}/team/blog:v-3f2a9c1b\n", OWN)
    container_file.make(site, release, engine, OWN, again=False, aside=False)
    assert verbs(engine) == ["pull", "build"]


def test_an_image_that_was_not_pushed_is_named_with_the_keys(site_with, engine):
    site, release = site_with(image=REGISTRY + "/blog:{commit}")
    with pytest.raises(DeploymentError) as caught:
        container_file.make(site, release, engine, OWN, again=False, aside=False)
    assert caught.value.message == f"pulling the image {REGISTRY}/blog:{COMMIT} failed (exit 125)"
    assert "django:sites:blog:container:image or django:sites:blog:container:login" in caught.value.hint
    assert engine.images == {}


def test_a_removed_image_is_pulled_again_as_it_was(site_with, engine):
    site, release = site_with(image=REGISTRY + "/blog:{commit}")
    digest = f"{REGISTRY}/blog@{DIGEST}"
    engine.registry[digest] = {}
    record = {"engine": engine.name, "image": "x", "base": OWN, "mounts": [], "pulled": digest}
    (release / "release.json").write_text(json.dumps({"container": record}))
    container = dataclasses.replace(containers.of_release(release), engine=engine)
    assert container.is_of_project and containers.record(container) == record
    container_file.require_again(site, release, container)
    assert engine.images[OWN][PULLED] == digest and verbs(engine) == ["pull", "build"]


def test_lines_that_an_image_has_for_others_do_not_run_as_ours(site_with, engine):
    site, release = site_with(image=REGISTRY + "/blog:{commit}")
    engine.registry[f"{REGISTRY}/blog:{COMMIT}"] = {"onbuild": '["RUN --network=host sh"]'}
    with pytest.raises(DeploymentError, match=r"would run in the builds of others \(ONBUILD\): RUN --network=host sh"):
        container_file.make(site, release, engine, OWN, again=False, aside=False)
    assert "build" not in verbs(engine)


def test_a_base_with_lines_for_others_is_refused_each_time(site_with, engine, monkeypatch):
    """Not only when it is pulled: the image is there afterwards."""
    monkeypatch.setattr(base, "_found", {})
    site, _release = site_with(base=f"{REGISTRY}/python:3")
    engine.registry[f"{REGISTRY}/python:3"] = {"onbuild": '["RUN sh"]'}
    for _time in range(2):
        with pytest.raises(DeploymentError, match=r"\(ONBUILD\): RUN sh"):
            base.require(site)
    assert verbs(engine) == ["pull"]


# Images that hosts share


def test_a_virtualenv_with_lines_for_others_is_not_taken(site_with, engine):
    site, _release = site_with(share=f"{REGISTRY}/blog")
    engine.registry[container_registry.shared(site, "deps-abc")] = {
        PATH: str(site.virtualenvs / "abc"),
        "onbuild": '["RUN --network=host sh"]',
    }
    with pytest.raises(DeploymentError, match=r"\(ONBUILD\): RUN --network=host sh"):
        image.taken(site, "abc")
    assert engine.images == {}


def test_the_files_for_a_dockerfile_are_kept_where_another_host_has_built_it(site_with, engine):
    """The source gets the pillar's files later: a build that comes after them would have them."""
    site, release = site_with(file="Dockerfile", share=f"{REGISTRY}/blog")
    tag = container_file._tag(site, COMMIT)
    engine.registry[container_registry.shared(site, tag)] = {}
    container_file.make(site, release, engine, OWN, again=False, aside=False)
    assert "push" not in verbs(engine)
    (release / "source/local.py").write_text("SECRET_KEY = 'x'")
    engine.images.clear()
    container_file.require(site, release, engine, OWN, "Dockerfile")
    assert os.listdir(release / "image/context") == ["Dockerfile"]


def test_a_plan_pushes_nothing_and_a_release_that_is_asked_for_builds_again(site_with, engine):
    site, release = site_with(file="Dockerfile", share=f"{REGISTRY}/blog")
    container_file.make(site, release, engine, OWN, again=False, aside=True)
    assert verbs(engine) == ["pull", "build"] and engine.registry == {}
    engine.images.clear()
    engine.ran.clear()
    container_file.make(site, release, engine, OWN, again=True, aside=False)
    assert verbs(engine) == ["build", "push"]


def test_a_virtualenv_that_could_not_be_pushed_is_pushed_by_the_next_apply(site_with, engine, monkeypatch):
    site, _release = site_with(share=f"{REGISTRY}/blog")
    folder = site.virtualenvs / "abc"
    folder.mkdir(parents=True)
    (folder / ".complete").touch()
    engine.images["localhost/django/blog-deps:abc"] = {PATH: str(folder)}
    monkeypatch.setattr(container_images, "dependencies", lambda _site, _key: "localhost/django/blog-deps:abc")
    engine.problem.append("dial tcp: connection refused")
    with pytest.raises(DeploymentError):
        image.share(site, "abc")
    assert not (folder / ".complete").exists()
    engine.problem.clear()
    assert image.taken(site, "abc") == "here"
    image.share(site, "abc")
    assert len(engine.registry) == 1


#: How Docker reports that a registry has no such image: since 29, or before, and of a repository that is missing.
UNKNOWN = (
    "Error response from daemon: manifest for {0} not found: manifest unknown: manifest unknown",
    'Error response from daemon: failed to resolve reference "{0}": {0}: not found',
    'failed to resolve reference "{0}": not found',
    "Error response from daemon: name unknown: repository name not known to registry",
)


@pytest.mark.parametrize("unknown", UNKNOWN)
def test_the_first_host_builds_and_pushes_and_the_others_pull(site_with, engine, unknown):
    engine.unknown[0] = unknown
    site, release = site_with(file="Dockerfile", share=f"{REGISTRY}/blog")
    container_file.make(site, release, engine, OWN, again=False, aside=False)
    assert verbs(engine) == ["pull", "build", "push"] and [*engine.images] == [OWN]
    (pushed,) = engine.registry
    assert re.fullmatch(rf"{REGISTRY}/blog:{COMMIT[:12]}-[0-9a-f]{{8}}-\w+", pushed)
    engine.images.clear()
    engine.ran.clear()
    container_file.make(site, release, engine, OWN, again=False, aside=False)
    assert verbs(engine) == ["pull", "build"] and engine.ran[-2][1] == f"FROM {pushed}\n"
    assert engine.images == {OWN: {"django-formula.site": "blog", PATH: str(release)}}


def test_a_registry_that_does_not_answer_is_an_error_and_no_reason_to_build(site_with, engine):
    site, release = site_with(file="Dockerfile", share=f"{REGISTRY}/blog")
    engine.problem.append("dial tcp 192.0.2.1:443: connect: connection refused")
    with pytest.raises(DeploymentError, match="pulling the image") as caught:
        container_file.make(site, release, engine, OWN, again=False, aside=False)
    assert "container:share and django:sites:blog:container:login" in caught.value.hint
    assert verbs(engine) == ["pull"]


def test_a_virtualenv_is_taken_from_the_image_of_another_host(site_with, engine, monkeypatch):
    site, _release = site_with(share=f"{REGISTRY}/blog")
    folder, name = site.virtualenvs / "abc", "localhost/django/blog-deps:abc"
    site.virtualenvs.mkdir(parents=True, exist_ok=True)
    assert image.taken(site, "abc") == ""

    def dependencies(_site, _key):
        engine.images[name] = {PATH: str(folder)}
        return name

    monkeypatch.setattr(container_images, "dependencies", dependencies)
    image.share(site, "abc")
    engine.images.clear()
    assert image.taken(site, "abc") == "pulled"
    assert (folder / ".complete").exists() and [*engine.images] == [name]
    copied = [one for one in engine.ran if one[0] in ("create", "cp")]
    assert copied == [
        ("create", "--name=django-blog-copy", "--pull=never", "--network=none", name, "/bin/true"),
        ("cp", f"django-blog-copy:{folder}/.", f"{site.root}/image-{os.getpid()}/virtualenv"),
    ]
    assert stat.S_IMODE(os.stat(folder / "bin/program").st_mode) == 0o755
    assert not (site.root / f"image-{os.getpid()}").exists()


def test_a_device_in_an_image_gets_into_no_virtualenv(site_with, engine):
    """Nor a FIFO; who may push to the registry decides what runs as the site, and not what runs as root."""
    site, _release = site_with()
    site.virtualenvs.mkdir(parents=True, exist_ok=True)
    engine.images["localhost/django/blog-deps:abc"] = {PATH: str(site.virtualenvs / "abc")}
    engine.problem.append("a FIFO")
    with pytest.raises(DeploymentError, match="bin/odd is neither a file nor a folder"):
        image.taken(site, "abc")
    assert not (site.virtualenvs / "abc").exists() and not (site.root / f"image-{os.getpid()}").exists()


@pytest.mark.parametrize("what", ["of another folder", "incomplete"])
def test_an_image_without_a_whole_virtualenv_is_not_taken(site_with, engine, what):
    site, _release = site_with()
    site.virtualenvs.mkdir(parents=True, exist_ok=True)
    folder, name = site.virtualenvs / "abc", "localhost/django/blog-deps:abc"
    engine.images[name] = {PATH: "/srv/elsewhere" if what == "of another folder" else str(folder)}
    if what == "incomplete":
        engine.problem.append("")
    assert image.taken(site, "abc") == ""
    assert not folder.exists() and engine.images == {}


def test_neither_the_login_nor_the_registry_of_hosts_makes_a_release(site_with):
    def inputs(**container):
        site, _release = site_with(**container)
        return {path for path in deploy_inputs.hashes(site, COMMIT, {}, [], {}) if "container" in path}

    assert inputs() == inputs(login=LOGIN, share=f"{REGISTRY}/blog")
    assert inputs(image=REGISTRY + "/blog:{commit}") - inputs() == {"container:image"}


# Archives


def test_an_archive_has_the_virtualenv_under_a_name_that_waits_for_its_release(
    site_with, engine, monkeypatch, tmp_path
):
    site, release = site_with()
    (release / "virtualenv").symlink_to("../../virtualenvs/abc")
    container = containers.Container(engine, "x", "localhost/django/base:bookworm-1")
    own, carried = "localhost/django/blog-deps:abc", "localhost/django/blog-carried:deps-abc"
    engine.images[own] = {PATH: str(site.virtualenvs / "abc")}
    monkeypatch.setattr(containers, "of_release", lambda _release: container)
    monkeypatch.setattr(containers, "configured_engine", lambda _site: engine)
    monkeypatch.setattr(container_images.folders, "refuse_unsafe_parents", lambda _path: None)
    assert container_images.save_archive(site, release, tmp_path / "a.tar") == [carried]
    assert ("save", "--output", str(tmp_path / "a.tar"), carried) in engine.ran and [*engine.images] == [own]
    assert stat.S_IMODE(os.stat(tmp_path / "a.tar").st_mode) == 0o600
    with pytest.raises(DeploymentError, match=r"a\.tar exists"):
        container_images.save_archive(site, release, tmp_path / "a.tar")
    site.virtualenvs.mkdir(parents=True, exist_ok=True)
    engine.images[carried] = engine.images.pop(own)
    assert container_images.load_archive(site, tmp_path / "a.tar") == [carried]
    assert image.taken(site, "abc") == "loaded" and [*engine.images] == [own]


def test_the_image_of_a_dockerfile_is_taken_from_an_archive_by_its_commit(site_with, engine, monkeypatch, tmp_path):
    site, release = site_with(file="Dockerfile", share=f"{REGISTRY}/blog")
    container = containers.Container(engine, "x", OWN, (), "Dockerfile")
    engine.images[OWN] = {}
    monkeypatch.setattr(containers, "of_release", lambda _release: container)
    monkeypatch.setattr(container_images.folders, "refuse_unsafe_parents", lambda _path: None)
    (carried,) = container_images.save_archive(site, release, tmp_path / "a.tar")
    assert carried.startswith(f"localhost/django/blog-carried:{COMMIT[:12]}-") and [*engine.images] == [OWN]
    engine.images.clear()
    engine.images[carried] = {}
    engine.ran.clear()
    container_file.make(site, release, engine, OWN, again=False, aside=False)
    assert verbs(engine) == ["build"] and [*engine.images] == [OWN]


def test_an_archive_that_could_not_be_written_leaves_no_file(site_with, engine, monkeypatch, tmp_path):
    """It would be refused the next time: it exists."""
    site, release = site_with()
    (release / "virtualenv").symlink_to("../../virtualenvs/abc")
    container = containers.Container(engine, "x", "localhost/django/base:gone")
    monkeypatch.setattr(containers, "of_release", lambda _release: container)
    monkeypatch.setattr(container_images.folders, "refuse_unsafe_parents", lambda _path: None)
    with pytest.raises(DeploymentError, match="no longer has the image localhost/django/base:gone"):
        container_images.save_archive(site, release, tmp_path / "a.tar")
    assert not (tmp_path / "a.tar").exists()


def test_an_archive_where_others_may_write_is_refused(site_with, engine, monkeypatch):
    site, _release = site_with()
    monkeypatch.setattr(containers, "configured_engine", lambda _site: engine)

    def refuse(path):
        raise DeploymentError(f"{path} cannot be used: users other than root may write to /tmp", hint="chmod go-w /tmp")

    monkeypatch.setattr(container_images.folders, "refuse_unsafe_parents", refuse)
    with pytest.raises(DeploymentError, match="users other than root may write to /tmp") as caught:
        container_images.load_archive(site, Path("/tmp/blog.tar"))
    assert caught.value.hint == "name a file in a folder that only root may write to"
    with pytest.raises(DeploymentError, match="is no absolute path"):
        container_images.load_archive(site, Path("blog.tar"))
    assert engine.ran == []
