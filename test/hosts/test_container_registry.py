"""Images from a registry with a login: pulled for a release, shared by two hosts, carried in a file."""

import base64
import json
from pathlib import Path

import lab
import pytest
from conftest import Hosts, Repositories
from lab import ENGINE, Host, Needs
from sites import Site, version

NEEDS = Needs(ENGINE, "podman and Docker run on them")

pytestmark = pytest.mark.full

PASSWORD = "CANARY-registry-9137"
REGISTRY = "reg1:5000"
SET_UP = f"""
set -e
export DEBIAN_FRONTEND=noninteractive
apt-get -qq update && apt-get -qq install --no-install-recommends docker-registry apache2-utils >/dev/null
cat >/etc/docker/registry/config.yml <<'YAML'
version: 0.1
storage: {{filesystem: {{rootdirectory: /var/lib/docker-registry}}}}
http: {{addr: ":5000"}}
auth: {{htpasswd: {{realm: lab, path: /etc/docker/registry/htpasswd}}}}
YAML
htpasswd -nbB deploy {PASSWORD} >/etc/docker/registry/htpasswd
systemctl restart docker-registry
"""
#: An http registry is allowed by the host's own configuration.
ALLOWED = {
    "/etc/containers/registries.conf.d/lab.conf": f'[[registry]]\nlocation = "{REGISTRY}"\ninsecure = true\n',
    "/etc/docker/daemon.json": f'{{"insecure-registries": ["{REGISTRY}"]}}\n',
}
LOGIN = {"registry": REGISTRY, "user": "deploy", "password": PASSWORD}
CELLS = [("podman", "bookworm"), ("docker", "trixie"), ("podman", "trixie"), ("docker", "bookworm")]


@pytest.fixture(scope="module", params=CELLS, ids="-".join)
def blogs(request: pytest.FixtureRequest, module_hosts: Hosts, repositories: Repositories) -> list[Site]:
    """A site on two hosts, the first of which has the registry and the repository."""
    engine, release = request.param
    found: list[Site] = []
    for name in ("reg1", "web2"):
        host = module_hosts(release, name=name)
        host.run("apt-get -qq update && apt-get -qq install --no-install-recommends git >/dev/null")
        for path, text in ALLOWED.items():
            host.run(["mkdir", "-p", str(Path(path).parent)])
            host.write(path, text)
        container = {"engine": engine, "share": f"{REGISTRY}/team/blog", "login": LOGIN}
        site = Site(host, repositories(host), server={"kind": "gunicorn"}, container=container)
        found.append(site)
    first = found[0].host
    first.run(SET_UP, timeout=600)
    for blog in found:  # the name alone may be that of another cell's host
        blog.host.run(f"echo {first.address} {REGISTRY.partition(':')[0]} >>/etc/hosts")
    return found


def carry(source: Host, path: str, target: Host) -> None:
    """Copy a file or a folder to another host."""
    packed = source.run(["sh", "-c", f"tar -c -C / {path.lstrip('/')} | base64"]).stdout
    target.run(["sh", "-c", f"rm -rf {path}; base64 -d | tar -x -C /"], stdin=packed)


def commit(blogs: list[Site], files: dict[str, str | None]) -> None:
    """Commit to the repository of the first host, and copy it to the second."""
    blogs[0].repository.commit(files)
    carry(blogs[0].host, "/srv/git", blogs[1].host)


def engine_of(blog: Site) -> str:
    return str(blog.options["container"]["engine"])


def images(blog: Site) -> list[str]:
    return blog.host.run([engine_of(blog), "images", "--format={{.Repository}}:{{.Tag}}"]).stdout.split()


def virtualenv_of(applied: lab.Applied) -> str:
    return str(applied["blog has its virtualenv"].changes["virtualenv"])


def test_one_host_builds_and_the_other_pulls(blogs: list[Site]) -> None:
    first, second = blogs
    commit(blogs, version("1.0"))
    assert virtualenv_of(first.deploy()).endswith(", new")
    assert virtualenv_of(second.deploy()).endswith(", from an image (pulled)")
    assert second.get("/").status_code == first.get("/").status_code == 200
    assert second.record()["virtualenv"] == first.record()["virtualenv"]
    for blog in blogs:
        assert not [name for name in images(blog) if name.startswith(REGISTRY)]
        assert blog.apply().changed == {}
        assert blog.host.call("django.drift", "blog")["drift"] == []


def test_the_login_is_in_one_file_of_roots(blogs: list[Site]) -> None:
    encoded = base64.b64encode(f"deploy:{PASSWORD}".encode()).decode()
    for blog in blogs:
        places = "/root /run /home /tmp /var/lib/docker /var/lib/containers /srv /etc/docker /etc/containers /var/log"
        found = blog.host.run(f"grep -rlF -e {PASSWORD} -e {encoded} {places} 2>/dev/null", check=False).stdout.split()
        assert [path for path in found if not path.startswith(("/srv/pillar", "/srv/formula"))] == [
            f"{blog.root}/secrets/.registry_password"
        ]
        assert blog.host.run(f"stat -c '%a %U' {found[-1]}").stdout == "600 root\n"
        assert PASSWORD not in blog.host.run("journalctl --no-pager").stdout


def test_new_requirements_are_carried_in_a_file(blogs: list[Site]) -> None:
    first, second = blogs
    commit(blogs, {"requirements.txt": first.repository.read("requirements.txt") + "\niniconfig==2.3.1\n"})
    own = {"container": {"engine": engine_of(first)}}
    assert virtualenv_of(first.deploy(**own)).endswith(", new")
    saved = first.host.call("django.save_images", "blog", "/root/blog.tar")
    carry(first.host, "/root/blog.tar", second.host)
    assert second.host.call("django.load_images", "blog", "/root/blog.tar") == saved
    assert virtualenv_of(second.deploy(**own)).endswith(", from an image (loaded)")
    assert second.record()["virtualenv"] == first.record()["virtualenv"] and second.get("/").status_code == 200
    assert first.host.run("stat -c %a /root/blog.tar").stdout == "600\n"
    for blog in blogs:
        assert not blog.host.run(["ls", "-A", f"{blog.root}/secrets"]).stdout.count("registry")


def push(blog: Site, image: str, name: str) -> None:
    """Push an image of a host as another machine would, with a login of its own."""
    auth = {"auths": {REGISTRY: {"auth": base64.b64encode(f"deploy:{PASSWORD}".encode()).decode()}}}
    blog.host.write("/root/ci/config.json", json.dumps(auth))
    environment, engine = "DOCKER_CONFIG=/root/ci REGISTRY_AUTH_FILE=/root/ci/config.json", engine_of(blog)
    blog.host.run(f"{engine} tag {image} {name} && {environment} {engine} push -q {name}")
    blog.host.run(f"{engine} rmi {name} && rm -r /root/ci")


def test_a_base_is_pulled_by_its_name(blogs: list[Site]) -> None:
    first, second = blogs
    name = f"{REGISTRY}/library/python:1"
    push(first, next(name for name in images(first) if name.startswith("localhost/django/base:")), name)
    before = second.live
    second.deploy(container={"engine": engine_of(first), "base": name, "login": LOGIN})
    assert second.live != before and second.record()["container"]["base"] == name
    assert second.get("/").status_code == 200 and second.apply().changed == {}


def dockerfile(blog: Site) -> str:
    base = next(name for name in images(blog) if name.startswith("localhost/django/base:"))
    return f"""\
FROM {base}
RUN apt-get -qq update && apt-get -qq install --no-install-recommends python3-venv >/dev/null
WORKDIR /app
COPY trusted.crt requirements.txt ./
RUN python3 -m venv /venv && \\
    PIP_CERT=/app/trusted.crt /venv/bin/pip install --quiet -r requirements.txt gunicorn==23.0.0
COPY . .
RUN --mount=type=cache,target=/kept date +%s%N >/kept/built.txt && cp /kept/built.txt .
"""


def test_a_dockerfile_is_built_once(blogs: list[Site]) -> None:
    first, second = blogs
    files = {"trusted.crt": Path(lab.certificates()).read_text(), "Dockerfile": dockerfile(first)}
    commit(blogs, files)
    own = {"engine": engine_of(first), "file": "Dockerfile", "share": f"{REGISTRY}/team/blog", "login": LOGIN}
    for blog in blogs:
        blog.deploy(container=own, python="/venv/bin/python")
        assert blog.get("/").status_code == 200
    built = [blog.host.read(f"{blog.root}/current/source/built.txt") for blog in blogs]
    assert built[0] == built[1]
    if engine_of(first) == "podman":  # a cache is the site's own
        assert first.host.run("find /var/lib/django-formula/caches/blog -name built.txt").stdout
        assert not first.host.run("ls -d /var/tmp/buildah-cache*", check=False).stdout
    assert [name for name in images(second) if name.startswith("localhost/django/blog-file:")] == [
        f"localhost/django/blog-file:{second.live}"
    ]


@pytest.mark.parametrize(
    ("line", "says"),
    [
        ("RUN --network=host true", "has --network=host, and it may not reach the services of this host"),
        ("COPY --from=localhost/django/shop:0001-abc / /", "which may be that of another site"),
        ("ONBUILD RUN true", "has lines that would run in the builds of others (ONBUILD): RUN true"),
    ],
)
def test_a_line_that_leaves_the_build_is_refused(blogs: list[Site], line: str, says: str) -> None:
    blog = blogs[0]
    live, before = blog.live, images(blog)
    blog.repository.commit({"Dockerfile": f"{dockerfile(blog)}{line}\n"})
    applied = blog.apply()
    assert not applied.ok and says in str(applied.failed) and blog.answering["release"] == live
    assert images(blog) == before
    blog.repository.commit({"Dockerfile": dockerfile(blog)})


def test_an_image_of_another_place_is_pulled_and_pulled_again(blogs: list[Site]) -> None:
    blog = blogs[0]
    live, engine = blog.live, engine_of(blog)
    commit_id = blog.repository.commit(version("9.0"))
    own = {"engine": engine, "image": f"{REGISTRY}/team/shop:ci-{{commit:10}}", "login": LOGIN}
    applied = blog.apply(container=own)
    name = f"{REGISTRY}/team/shop:ci-{commit_id[:10]}"
    assert f"pulling the image {name} failed" in str(applied.failed) and blog.answering["release"] == live

    push(blog, f"localhost/django/blog-file:{live}", name)
    with blog.lossless():
        blog.deploy()
    assert blog.live != live and blog.record()["container"]["pulled"].startswith(f"{REGISTRY}/team/shop@sha256:")
    assert blog.apply().changed == {}

    pulled = blog.live
    blog.repository.commit(version("9.1"))
    blog.apply(container={"engine": engine, "file": "Dockerfile", "login": LOGIN})
    for image in (f"blog:{pulled}", f"blog-file:{pulled}"):
        blog.host.run([engine, "rmi", "--force", f"localhost/django/{image}"])
    with blog.lossless():
        blog.host.call("django.rollback", "blog", pulled)
    assert blog.live == pulled and blog.get("/").status_code == 200
