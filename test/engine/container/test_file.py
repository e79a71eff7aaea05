"""Images by the project's own Dockerfile."""

import json
import os
import shutil
import subprocess
import sys
import threading

import pytest
from django_formula.container import containers, file, registry
from django_formula.container import dockerfile as container_dockerfile
from django_formula.container.engine import ENGINES
from django_formula.deploy import step_build
from django_formula.host import commands
from django_formula.host.commands import DeploymentError
from django_formula.untrusted.foreign import Foreign
from django_formula.virtualenv import image as virtualenv_image

NAME = "0042-3f2a9c1b77de"
DOCKERFILE = """\
# syntax=docker/dockerfile:1
FROM python:3.13-slim AS base

RUN apt-get update && \\
    # libraries
    apt-get install -y libpq5
COPY --chown=1:1 requirements.txt \\
    /app/
RUN <<EOF
RUN false
EOF
RUN pip install -r requirements.txt
"""
FOUND = {
    "prefix": "/venv",
    "packages": "/venv/lib/python3.13/site-packages",
    "names": ["Django-5.2.19.dist-info", "django", "gunicorn-23.0.0.dist-info", "..", "a/b"],
    "has_python": True,
    "uwsgi": "",
    "version": "3.13.1",
}


@pytest.fixture
def site(make_site):
    """A site whose image is made by its Dockerfile."""
    return make_site(container={"file": "docker/Dockerfile"}, server={"kind": "gunicorn"})


@pytest.fixture
def release(site):
    """A release of it with its source."""
    path = site.releases / NAME
    (path / "source/docker").mkdir(parents=True)
    (path / "source/docker/Dockerfile").write_text(DOCKERFILE)
    return path


class Played:
    """An engine that has no image, and builds what it is given."""

    name = "podman"

    def __init__(self, found=FOUND, log="", version=(5, 4)):
        self.found, self.log, self.built = found, log, []
        self.version = lambda: version

    def image(self, _reference):
        return ""

    def build(self, dockerfile, context, tag, _timeout, **options):
        ignored = dockerfile.with_name("Dockerfile.dockerignore").read_text().splitlines()
        self.built.append((dockerfile.read_text(), context, tag, ignored, options))
        if self.log:
            raise DeploymentError(f"building the image {tag} failed (exit 1)", log=self.log)

    def run(self, *arguments, **_options):
        self.ran = arguments
        return ""

    def look(self, *arguments, **_options):
        self.looked = arguments
        return json.dumps(self.found)

    def refuse_triggers(self, image):
        pass


def test_instructions_have_the_number_of_their_first_line():
    found = list(container_dockerfile.instructions(DOCKERFILE))
    assert [one.line for one in found] == [2, 4, 7, 9, 12]
    assert found[1].text == "RUN apt-get update && apt-get install -y libpq5"
    assert found[2].text == "COPY --chown=1:1 requirements.txt /app/"


@pytest.mark.parametrize("text", ["", "RUN \\", "RUN <<EOF", "\\", "# only", "COPY", "COPY [", "RUN x \\\n# a"])
def test_a_dockerfile_of_any_form_is_read(text):
    assert container_dockerfile.private_copy(text) is None
    assert container_dockerfile.failing(text, 'STEP "RUN y"') is None


@pytest.mark.parametrize(
    "log",
    [
        'Error: building at STEP "RUN apt-get update &&     apt-get install -y libpq5": while running runtime: exit 1',
        ">>> RUN pip\nDockerfile:4\n--------------------\n   3 |\nERROR: failed to solve: process",
        " > [base 2/4] RUN apt-get update &&     apt-get install -y libpq5:\n#5 0.3 E: Unable to locate\n------\n",
        "Dockerfile:6\n----\n",
        "#9 [2/4] RUN apt-get update &&     apt-get install -y libpq5\n#9 sha256:dbe8\n#9 CANCELED\ncontext canceled\n",
    ],
    ids=["podman", "docker 26", "docker 20.10", "a later line of it", "a timeout of docker"],
)
def test_the_line_that_failed_is_found_in_what_the_engine_prints(log):
    assert container_dockerfile.failing(DOCKERFILE, log).line == 4


#: Lines by which an engine reads the next line as an instruction, and we as a text, or the other way round.
HIDING = (
    "RUN <<E\\OF\nEOF",  # BuildKit removes a backslash from the word
    'RUN <<E"O"F\nRUN <<X\nEOF',
    'RUN true # <<EOF "',  # it finds no text where it cannot read the words
    "RUN true # <<EOF ${",
    "RUN true \\<<EOF\nRUN <<X\nEOF",
    "RUN <<EOF_1",  # no text for the first versions that knew texts
    "RUN <<EOF",  # one that does not end
)
WITH_TEXT = (
    *("RUN <<EOF", "RUN cat <<-'EOF' >/x", 'COPY --chmod=755 <<"EOF" /etc/x.conf', "ADD <<EOF ${HOME}/$X"),
    'RUN python3 - <<EOF && echo "it is done"',
)


@pytest.mark.parametrize(
    ("text", "refused"),
    [
        ("FROM python:3.13-slim\n", ""),
        ("ARG TAG=3.13\nFROM docker.io/library/python:${TAG}-slim AS base\nFROM base\nCOPY --from=base /a /b\n", ""),
        ("FROM a1b2c3\n", "line 1 of the Dockerfile names the image a1b2c3,"),
        ("FROM localhost/django/base:bookworm-1\n", ""),
        ("FROM localhost/django/blog-file:0041-abc\n", ""),
        (
            "FROM python:3\nCOPY --from=localhost/django/shop:0042-abc / /loot\n",
            "line 2 of the Dockerfile names the image",
        ),
        (
            "FROM python:3\nRUN --mount=from=django/shop-file,target=/x cp /x /y\n",
            "line 2 .* the image django/shop-file",
        ),
        ("FROM shop:0042-abc\n", "line 1 of the Dockerfile names the image shop:0042-abc"),
        ("ARG X=localhost/django/shop\nFROM $X\n", "line 2 of the Dockerfile names the image localhost/django/shop"),
        ("FROM ${NOWHERE}-slim\n", "line 1 of the Dockerfile names the image"),
        ("FROM python:3\nONBUILD COPY --from=localhost/django/shop / /\n", "line 2 of the Dockerfile names the image"),
        ("FROM python:3\nRUN --mount=type=cache,target=/c --network=host curl x\n", "line 2 .* has --network=host"),
        ("FROM python:3\nRUN --security=insecure x\n", "has --security=insecure"),
        ("FROM python:3\nRUN --network=none x\nRUN docker run --network=host x\n", ""),
        ("FROM python:3\nONBUILD RUN --NETWORK='host' x\n", "line 2 of the Dockerfile has --NETWORK=host"),
        ("FROM python:3\nRUN --net\\work=host x\n", "line 2 of the Dockerfile has --network=host"),
        ("FROM python:3\nFR\\\nOM localhost/django/shop:1\n", "line 2 .* the image localhost/django/shop:1"),
        ('FROM python:3\nCOPY --fr"om"=localhost/django/shop:1 / /\n', "line 2 .* the image localhost/django/shop:1"),
        (
            'FROM python:3\nRUN --mount="type=bind,target=/a b,from=django/shop:1" x\n',
            "line 2 .* the image django/shop:1",
        ),
        ('FROM python:3\nRUN echo "<<X"\nFROM django/shop:1\nX\n', "line 3 .* the image django/shop:1"),
        ("FROM python:3\nRUN echo a<<X\nFROM django/shop:1\nX\n", "line 3 .* the image django/shop:1"),
        ("FROM python:3\nRUN x \\\\\nFROM django/shop:1\n", "line 3 .* the image django/shop:1"),
        ("FROM python:3\nRUN x\x0cFROM x AS django/shop\nFROM django/shop:1\n", "line 3 .* the image django/shop:1"),
        ("\ufeffFROM django/shop:1\n", "line 1 .* the image django/shop:1"),
        ("ARG B=django/shop:1\nFROM python:3\nARG B=python:3\nFROM $B\n", "line 4 .* the image django/shop:1"),
        ("ARG A=3.13\nARG B=python:${A}\nFROM $B\n", ""),
        ("FROM python:3\nCOPY --from=1234 / /\n", "line 2 .* the image 1234"),
        ("FROM python:3\nFROM python:3\nCOPY --from=0 / /\n", ""),
        ("FROM containers-storage:localhost/django/shop:1\n", "line 1 .* the image containers-storage:localhost"),
        ("FROM docker-archive:blog.tar\n", "line 1 .* the image docker-archive:blog.tar"),
        ("FROM oci-archive:/root/blog.tar\n", "line 1 .* the image oci-archive:/root/blog.tar"),
        ("FROM docker:24\nCOPY --from=ghcr.io/astral-sh/uv:0.9 /uv /bin/\nFROM my_org/x@sha256:a1\n", ""),
        ("FROM python:3\nADD http://127.0.0.1:8000/ /x\n", "line 2 of the Dockerfile has ADD http://127.0.0.1:8000/"),
        (
            'FROM python:3\nADD --chown=1 ["https://a.org/x", "/x"]\n',
            "line 2 of the Dockerfile has ADD https://a.org/x",
        ),
        ("FROM python:3\nADD $WHERE /x\n", r"line 2 of the Dockerfile has ADD \$WHERE"),
        ("FROM python:3\nADD a.tar.gz $HOME/\nADD <<EOF /x\nhttp://x\nEOF\n", ""),
        ("# syntax=docker/dockerfile:1.7\nFROM python:3\n", ""),
        ("# syntax = evil.example.org/reader\nFROM python:3\n", "line 1 .* by which an engine may read it"),
        ("# escape=`\nFROM python:3\nRUN x \\\nFROM django/shop:1\n", "line 1 of the Dockerfile has # escape=`, by"),
        ('{"syntax": "evil.example.org/reader"}\n', "line 1 .* by which an engine may read it"),
        *((f"FROM python:3\n{lines}\nFROM django/shop:1\n", "line 2 .* read in more than one way") for lines in HIDING),
        (
            "FROM python:3\nRUN true\x1c<<EOF\nFROM django/shop:1\n",
            r"line 2 .* has RUN true\\x1c<<EOF, by which an engine",
        ),
        ("FROM python:3\nRUN <<EOF\nEOF\r\r\nFROM django/shop:1\n", "line 4 .* the image django/shop:1"),
        *((f"FROM python:3\n{line}\nFROM django/shop:1\nEOF\n", "") for line in WITH_TEXT),
        ('FROM python:3\nRUN echo "$((1<<2)) \\"a\\"" <<<x\n', ""),
        ('FROM python:3\nRUN <<EOF\n{"a": 1}\nfrom shop import x\nFROM django/shop:1\nEOF\n', ""),
    ],
)
def test_a_dockerfile_gets_at_no_other_site_and_no_service_of_the_host(text, refused):
    if not refused:
        container_dockerfile.refuse_foreign(text, "blog", ["shop"])
    else:
        with pytest.raises(DeploymentError, match=refused):
            container_dockerfile.refuse_foreign(text, "blog", ["shop"])


BIND = "RUN --mount=type=bind,source=pyproject.toml,target=p,readonly x\n"
CACHE = "RUN --mount=type=cache,target=/var/cache/apt,sharing=locked --mount=type=cache,target=/var/lib/apt x\n"
OPEN = r"line \d of the Dockerfile has --mount=.*, by which podman before 5\.4 may give it any file of this host"


@pytest.mark.parametrize(
    ("lines", "refused"),
    [
        (BIND, ""),
        (CACHE, ""),
        ("RUN --mount=type=tmpfs,target=/t --mount=type=secret,id=x --mount=type=ssh x\n", ""),
        ("RUN --mount=type=cache,id=pip,target=/root/.cache x\nRUN --mount=type=cache,id=pip,target=/y x\n", ""),
        ("RUN --mount=type=cache,id=../../../etc,target=/x x\n", OPEN),
        ("RUN --mount=type=cache,i\\d=../../../etc,target=/x x\n", OPEN),
        ("ENV A=../../etc\nRUN --mount=type=cache,id=$A,target=/x x\n", OPEN),
        ("RUN --mount=type=cache,target=/ x\n", OPEN),
        ("RUN --mount=type=cache,target=/c ln -s / /c/l\nRUN --mount=type=cache,target=/c/l x\n", OPEN),
        ("RUN --mount=type=cache,id=kept/link,target=/c x\n", OPEN),
        ("RUN --mount=type=cache,from=evil,source=/l,target=/c x\n", OPEN),
        ("RUN --mount=type=bind,from=evil,source=/l,target=/c x\n", OPEN),
        ("RUN --mount=type=bind,source=link,target=/c x\n", OPEN),
        ("RUN --mount=type=bind,source=link/etc,target=/c x\n", OPEN),
        ("RUN --mount=type=bind,source=docker,target=/c,rw x\n", OPEN),
        ("RUN --mount=type=bind,source=docker,target=/c,bind-propagation=shared x\n", OPEN),
    ],
)
def test_no_mount_of_a_line_leads_out_of_the_build_of_an_older_podman(site, release, monkeypatch, lines, refused):
    kept = site.root / "caches"
    monkeypatch.setattr(container_dockerfile, "caches", lambda _site: kept)
    (kept / "buildah-cache/kept").mkdir(parents=True)
    (kept / "buildah-cache/kept/link").symlink_to("/")
    (release / "source/link").symlink_to("/")
    (release / "source/pyproject.toml").touch()
    context = Foreign(release / "source")
    for version in ((4, 3), (5, 4)):
        engine = Played(version=version)
        if refused and version == (4, 3):
            with pytest.raises(DeploymentError, match=refused):
                container_dockerfile.refuse_unsupported(f"FROM a\n{lines}", site, engine, context)
        else:
            container_dockerfile.refuse_unsupported(f"FROM a\n{lines}", site, engine, context)


@pytest.mark.parametrize(
    ("engine", "version", "first", "is_known"),
    [
        ("podman", (4, 3), "", False),
        ("podman", (4, 3), "# syntax=docker/dockerfile:1\n", False),
        ("podman", (5, 4), "", True),
        ("docker", (20, 10), "", False),
        ("docker", (20, 10), "# syntax=docker/dockerfile:1\n", True),
        ("docker", (26, 1), "", True),
    ],
)
def test_a_text_below_a_line_is_refused_where_the_engine_reads_it_as_lines(
    site, release, engine, version, first, is_known
):
    played, context = Played(version=version), Foreign(release / "source")
    played.name = engine
    text = f"{first}FROM a\nRUN cat <<X\nFROM django/shop:1\nX\n"
    if is_known:
        container_dockerfile.refuse_unsupported(text, site, played, context)
    else:
        with pytest.raises(
            DeploymentError, match=rf"line \d of the Dockerfile has a text .* which {engine} of this host"
        ):
            container_dockerfile.refuse_unsupported(text, site, played, context)


def test_images_that_a_dockerfile_begins_with_are_named():
    text = "ARG V=3.13\nFROM --platform=linux/amd64 python:${V:-3.12} AS one\nFROM one\nFROM scratch\nFROM x.org/y\n"
    assert container_dockerfile.begins_with(text) == ["python:3.13", "x.org/y"]


def test_an_image_by_the_login_of_another_site_is_pulled_by_the_own_one(site, release, make_site, monkeypatch):
    """The host may have it; without a pull, its line COPY --from would read what only the other site may."""
    login = {"registry": "registry.example.org", "user": "shop", "password": "s3cret"}
    shop = make_site("shop", container={"base": "registry.example.org/shop/base:1", "login": login})
    monkeypatch.setattr(file.sites, "registered", lambda: ["blog", "shop", "damaged"])
    found = {"shop": shop}.get
    monkeypatch.setattr(file.sites, "find", lambda name: found(name) or refuse())
    pulled = []
    monkeypatch.setattr(registry, "pull", lambda _site, _engine, name, _hint: pulled.append(name))
    engine = Played()
    engine.image = lambda name: "" if name == "localhost/x:1" else "present"
    lines = (
        "FROM docker.io/library/python:3\nFROM registry.example.org/a:1\nCOPY --from=registry.example.org/b:1 /x /x\n"
    )
    (release / "source/docker/Dockerfile").write_text(lines)
    file.require(site, release, engine, "localhost/x:1", "docker/Dockerfile")
    assert pulled == ["registry.example.org/a:1", "registry.example.org/b:1"]
    assert not registry.is_by_another_login(shop, "registry.example.org/a:1", [shop])
    assert not registry.is_by_another_login(site, "docker.io/library/python:3", [shop])


def refuse():
    raise DeploymentError("the applied configuration is damaged")


def test_an_error_without_a_line_names_none():
    assert container_dockerfile.failing(DOCKERFILE, "Error: no space left on device") is None


@pytest.mark.parametrize(
    ("instruction", "is_private"),
    [
        ("COPY .env /app/", True),
        ("COPY . /app/", False),
        ("COPY --chown=1:1 a.txt deep/.envs/production /app/", True),
        ('ADD ["server.key", "/etc/"]', True),
        ("COPY --from=build /app/.env /app/.env", False),
        ("COPY .git /app/.git", True),
        ("COPY --chmod=600 .env.production /app/", True),
        ("RUN cat .env", False),
        ("copy .env /app/", True),
    ],
)
def test_a_copy_of_what_may_be_secret_is_found(instruction, is_private):
    assert (container_dockerfile.private_copy(f"FROM a\n{instruction}\n") is not None) == is_private


def test_the_build_gets_no_secret_whatever_the_project_ignores(site, release):
    (release / "source/.dockerignore").write_text("docs\n!.env\n")
    engine = Played()
    file.require(site, release, engine, "localhost/x:1", "docker/Dockerfile")
    ((text, context, tag, ignored, options),) = engine.built
    assert (text, context, tag) == (DOCKERFILE, release / "image/context", "localhost/x:1")
    assert ignored[:2] == ["docs", "!.env"] and {"**/.env", "**/.env.*", "**/*.key", "**/.git"} <= {*ignored[2:]}
    assert options["slice_name"] == "django_build_blog.slice" and options["labels"]["django-formula.path"] == str(
        release
    )


def test_an_image_that_is_made_again_is_made_of_the_commits_files(site, release):
    """Not of what the build has made in the source, nor of the files of the pillar, which are in there by then."""
    (release / "source/link").symlink_to("/etc/passwd")
    for content in ("committed", "rendered"):
        (release / "source/settings.py").write_text(content)
        engine = Played()
        file.require(site, release, engine, "localhost/x:1", "docker/Dockerfile")
        context = engine.built[0][1]
        assert (context / "settings.py").read_text() == "committed" and (context / "link").is_symlink()
    assert sorted(os.listdir(release / "image")) == ["context"]


def test_the_own_ignore_file_of_a_dockerfile_is_the_one_that_holds(site, release):
    (release / "source/.dockerignore").write_text("docs\n")
    (release / "source/docker/Dockerfile.dockerignore").write_text("test\n")
    engine = Played()
    file.require(site, release, engine, "localhost/x:1", "docker/Dockerfile")
    assert engine.built[0][3][0] == "test" and "docs" not in engine.built[0][3]


def test_a_link_is_no_dockerfile(site, release, tmp_path):
    (tmp_path / "secret").write_text("FROM a\n")
    path = release / "source/docker/Dockerfile"
    path.unlink()
    path.symlink_to(tmp_path / "secret")
    with pytest.raises(DeploymentError, match="leads through the link"):
        file.require(site, release, Played(), "localhost/x:1", "docker/Dockerfile")


def test_a_missing_dockerfile_and_one_that_copies_secrets_are_refused(site, release):
    path = release / "source/docker/Dockerfile"
    path.write_text("FROM a\nCOPY .env /app/\n")
    with pytest.raises(DeploymentError, match=r"line 2 of docker/Dockerfile copies a file that may have secrets"):
        file.require(site, release, Played(), "localhost/x:1", "docker/Dockerfile")
    shutil.rmtree(release / "image")
    path.unlink()
    with pytest.raises(DeploymentError, match="the source has no file docker/Dockerfile"):
        file.require(site, release, Played(), "localhost/x:1", "docker/Dockerfile")


def test_an_error_of_a_build_names_the_line(site, release):
    engine = Played(log='Error: building at STEP "RUN pip install -r requirements.txt": exit status 1')
    with pytest.raises(DeploymentError) as caught:
        file.require(site, release, engine, "localhost/x:1", "docker/Dockerfile")
    assert caught.value.message.endswith("at line 12 of docker/Dockerfile: RUN pip install -r requirements.txt")
    assert not [*site.root.glob("image-*")]


@pytest.mark.parametrize("name", ["podman", "docker"])
def test_a_build_of_a_project_has_a_network_of_its_own_and_no_proxy_in_its_arguments(name, tmp_path, monkeypatch):
    ran = []
    monkeypatch.setenv("https_proxy", "http://user:secret@proxy:3128")
    monkeypatch.setattr(commands, "run", lambda argv, **how: ran.append((argv, how)))
    ENGINES[name].build(tmp_path / "Dockerfile", tmp_path, "x:1", 60, slice_name="a.slice", labels={"a": "b"})
    ((argv, how),) = [one for one in ran if one[0][0] == "nice"]
    assert {"--label=a=b", "--network=private" if name == "podman" else "--network=default"} <= {*argv}
    assert not [word for word in argv if "secret" in word or word.startswith(("--secret", "--volume", "--ssh"))]
    assert ("--build-arg=https_proxy" in argv) == (name == "docker")
    assert ("--cgroup-parent=a.slice" in argv) == (name == "podman")
    assert how["timeout"] == (75 if name == "podman" else 60) and how["only_the_end"]


@pytest.mark.slow
def test_a_line_that_takes_too_long_is_ended_before_podman_is(tmp_path, monkeypatch):
    """Podman then clears up after itself; on SIGTERM it would leave the line's processes and its containers."""
    ran, killed = [], threading.Event()

    def run(argv, **_how):
        ran.append(argv[0])
        if argv[0] == "systemctl":
            assert argv[-2:] == ["--signal=SIGKILL", "a.slice"]
            if "nice" in ran:
                killed.set()
        elif not killed.wait(10):
            pytest.fail("the line was not ended")
        else:
            raise DeploymentError("building the image x:1 failed (exit 137)", log='Error: building at STEP "RUN x"')

    monkeypatch.setattr(commands, "run", run)
    with pytest.raises(DeploymentError, match=r"building the image x:1: timed out after 0\.1 s") as caught:
        ENGINES["podman"].build(tmp_path / "Dockerfile", tmp_path, "x:1", 0.1, slice_name="a.slice")
    assert caught.value.log and ran[0] == ran[-1] == "systemctl"


def make(site, release, monkeypatch, **found):
    engine = Played({**FOUND, **found})
    monkeypatch.setattr(containers, "engine", lambda _site: engine)
    return virtualenv_image.make(site, release, again=False, aside=False), engine


def test_the_outline_has_the_names_of_the_packages_and_no_other_path(site, release, monkeypatch):
    key, engine = make(site, release, monkeypatch)
    folder = site.virtualenvs / key
    packages = folder / "lib/python3.13/site-packages"
    assert sorted(os.listdir(packages)) == ["Django-5.2.19.dist-info", "django", "gunicorn-23.0.0.dist-info"]
    assert os.readlink(folder / "bin/python") == "/venv/bin/python"
    assert str(file.prefix(site, key)) == "/venv"
    assert engine.looked[0] == file.name(site, release)
    assert make(site, release, monkeypatch)[0] == key


def test_an_image_without_the_server_is_refused(site, release, monkeypatch):
    with pytest.raises(DeploymentError, match=r"the image of docker/Dockerfile lacks django, gunicorn==") as caught:
        make(site, release, monkeypatch, names=["requests-2.0.dist-info"])
    assert "/venv/bin/python" in caught.value.hint


@pytest.mark.parametrize(
    "found",
    [
        {"packages": "/usr/local/lib/python3.11/dist-packages", "prefix": "/usr"},
        {"prefix": "/..", "packages": "/../lib/python3.13/site-packages"},
        {"prefix": "/a\nb", "packages": "/a\nb/lib/python3.13/site-packages"},
        {"has_python": False},
    ],
)
def test_packages_outside_of_a_folder_of_their_own_are_refused(site, release, monkeypatch, found):
    with pytest.raises(DeploymentError, match="not in a virtualenv"):
        make(site, release, monkeypatch, **found)


def test_what_a_dockerfile_has_made_is_copied_to_the_source(tmp_path):
    made, tree = tmp_path / "app", tmp_path / "tree"
    for name in ("manage.py", "assets/a.js", "node_modules/x.js", ".venv/pyvenv.cfg", ".venv/bin/x"):
        (made / name).parent.mkdir(parents=True, exist_ok=True)
        (made / name).write_text(name)
    (made / "link").symlink_to("/etc/passwd")
    (tree / "src").mkdir(parents=True)
    (tree / "src/manage.py").write_text("older")
    outside = tmp_path / "outside"
    outside.write_text("mine")
    (made / "kept").write_text("theirs")
    (tree / "src/kept").symlink_to(outside)
    argv = [sys.executable, "-I", "-S", "-c", step_build.TAKE]
    subprocess.run([*argv, str(made), str(tree), "src"], check=True)
    assert sorted(os.listdir(tree / "src")) == ["assets", "kept", "link", "manage.py"]
    assert ((tree / "src/manage.py").read_text(), outside.read_text()) == ("manage.py", "mine")
    subprocess.run([*argv, "", str(tree), "src"], check=True)
    subprocess.run([*argv, str(tmp_path / "nowhere"), str(tree), "src"], check=True)
