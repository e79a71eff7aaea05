"""Containers: a site in images of podman and of Docker, from its first apply to its way out of them.

The cell of the default run has the oldest Salt that is supported: it is one story for both.
"""

import json
import re
import time
from pathlib import Path

import lab
import pytest
from client import Load
from conftest import Hosts, Repositories
from contained import (
    CELLS,
    dependencies,
    du,
    engine_of,
    image_ids,
    images,
    inside,
    load,
    places_of,
    secret_key,
    size_of,
    wait_for,
    watch_arguments,
)
from images import pins
from products import shortened
from sites import Site, release_of, version

NEEDS = lab.Needs(lab.ENGINE, "podman and Docker run on them")

DEFAULT = "podman-bookworm"
#: What is committed (a text that begins with + is appended), and what the failing state reports.
FAILING = {
    "requirements": ({"requirements.txt": "+\nno-such-package-9137\n"}, "no-such-package-9137"),
    "health check": (
        {"guestbook/views.py": "+\ndef health(request):\n    raise RuntimeError('out of ink')\n"},
        "RuntimeError: out of ink",
    ),
    "migration": (
        {
            "guestbook/migrations/0004_fail.py": "from django.db import migrations\n\n\n"
            "def fail(apps, schema_editor):\n    raise RuntimeError('no ink at all')\n\n\n"
            "class Migration(migrations.Migration):\n"
            "    dependencies = [('guestbook', '0003_entry_hidden')]\n"
            "    operations = [migrations.RunPython(fail)]\n"
        },
        "no ink at all",
    ),
}


@pytest.fixture(scope="module", params=shortened(CELLS, DEFAULT))
def blog(request: pytest.FixtureRequest, module_hosts: Hosts, repositories: Repositories) -> Site:
    """A site in containers of each engine on each release of Debian, after a dry run of a bare host."""
    engine, release = request.param.split("-")
    salt = "salt-3007" if request.param == DEFAULT else "salt"
    host = module_hosts(release, kind=salt, packages=("git",))
    assert [f"salt=={host.call('test.version')}"] == pins(salt)
    blog = Site(host, repositories(host), server={"kind": "gunicorn"}, container={"engine": engine})
    foreseen = blog.apply(test=True, resources={"MemoryMax": "300M", "TasksMax": 100})
    assert not foreseen.failed and foreseen["blog has its source"].result is None, foreseen
    blog.deploy()
    return blog


def test_second_apply_changes_nothing(blog: Site) -> None:
    assert blog.get("/").status_code == 200
    applied = blog.apply()
    assert applied.ok and applied.changed == {}
    (row,) = blog.host.call("django.status", "blog")
    assert row["running"] and row["container"].startswith(f"{engine_of(blog)}: localhost/django/blog:{blog.live} (")
    assert blog.host.call("django.drift", "blog")["drift"] == []
    assert blog.host.salt("django.manage", "blog", "lacking").returncode != 0, "no success of Salt"


def test_a_process_has_the_sites_uid_and_nothing_else(blog: Site) -> None:
    uid = blog.host.run(["id", "-u", "blog"]).stdout.strip()
    assert inside(blog, "id -u").strip() == uid
    status = dict(
        line.split(":\t") for line in inside(blog, "grep -E 'CapEff|NoNew|Seccomp:' /proc/1/status").splitlines()
    )
    assert status == {"CapEff": "0" * 16, "NoNewPrivs": "1", "Seccomp": "2"}
    source = f"{blog.root}/releases/{blog.live}/source"
    tried = inside(
        blog, f"touch /x {source}/x {blog.root}/releases/{blog.live}/config/x; touch {blog.root}/media/x && echo ok"
    )
    assert tried == "ok\n"
    blog.host.run(["rm", f"{blog.root}/media/x"])
    files = ("memory.max", "memory/memory.limit_in_bytes", "pids.max", "pids/pids.max")
    limits = inside(blog, f"cd /sys/fs/cgroup && cat {' '.join(files)} 2>/dev/null")
    assert limits.split() == [str(300 << 20), "100"]


def test_a_release_and_a_rollback_lose_no_request(blog: Site) -> None:
    first = blog.live
    blog.repository.commit(version("2.0"))
    foreseen = blog.apply(test=True)
    assert foreseen.changed and ".service" not in str(foreseen.changed), "its unit is that of the active release"
    with load(blog) as requests:
        requests.wait(20)
        warned = str(blog.deploy().warnings)
        second = blog.live
        requests.wait(20)
        blog.host.call("django.rollback", "blog")
        requests.wait(20)
    assert (requests.failed, requests.releases) == ([], [first, second])
    assert ("Docker runs without live-restore" in warned) == (engine_of(blog) == "docker")
    assert blog.live == first
    assert blog.apply().changed == {}


@pytest.mark.full
def test_what_is_weak_about_docker_is_in_the_warnings_of_a_release(blog: Site) -> None:
    if engine_of(blog) == "podman":
        pytest.skip("podman has no daemon, no group and no such ports")
    image = f"localhost/django/{dependencies(blog)}"
    blog.host.run("useradd --groups docker ray")
    blog.host.run(f"docker run --detach --name web --publish 8081:80 {image} sleep 600")
    blog.repository.commit(version("2.5"))
    warned = str(blog.deploy().warnings)
    assert "in the group docker, and so as powerful as root on this host: ray" in warned
    assert "past the firewall of this host: 8081 (web)" in warned
    blog.host.run("docker rm --force web && userdel ray")


@pytest.mark.full
def test_twenty_releases_lose_no_request_and_share_their_virtualenv(blog: Site) -> None:
    first, sizes = blog.live, []
    with load(blog, seconds=1800) as requests:
        for number in range(20):
            blog.repository.commit(version(f"20.{number}"))
            blog.deploy()
            layers = [size_of(blog, name) for name in (f"blog:{blog.live}", dependencies(blog))]
            sizes.append(layers[0] - layers[1])
    assert requests.failed == [] and len(requests.answers) > 2000
    assert requests.releases[0] == first and len(requests.releases) == 21
    source = du(blog, f"{blog.root}/releases/{blog.live}/source")
    assert sum(sizes[:10]) <= 10 * source + 5_000_000, (sizes, source)
    virtualenv = du(blog, f"{blog.root}/releases/{blog.live}/virtualenv/")
    base = next(name for name in images(blog) if name.startswith("base:"))
    added = size_of(blog, f"blog:{blog.live}") - size_of(blog, base)
    print(f"{len(requests.answers)} requests; ten releases add {sum(sizes[:10])} bytes, their source has {source};")
    print(f"the image adds {added} to its base, virtualenv and source have {virtualenv + source}")
    assert added <= 1.15 * (virtualenv + source), (added, virtualenv, source)


@pytest.mark.full
def test_a_request_under_way_is_answered_when_the_server_stops(blog: Site) -> None:
    """systemd stops the unit while a request of fifteen seconds runs; the container ends with 0."""
    url = f"http://{blog.host.address}/slow?seconds=15"
    with Load(url, blog.domain, connections=1, release=release_of, requests=1) as requests:
        time.sleep(5)
        unit = blog.unit
        blog.host.run(["systemctl", "stop", *blog.units])
        show = ["systemctl", "show", "--property=Result,ExecMainStatus", f"{unit}.service"]
        assert blog.host.run(show).stdout.split() == ["Result=success", "ExecMainStatus=0"]
    assert [answer.status for answer in requests.answers] == [200]
    blog.deploy()
    assert blog.get("/").status_code == 200


@pytest.mark.parametrize("cause", FAILING)
@pytest.mark.full
def test_a_failing_release_loses_no_request_and_leaves_no_image(blog: Site, cause: str) -> None:
    files, message = FAILING[cause]
    before, live = images(blog), blog.live
    blog.repository.commit(blog.repository.amended(files))
    with load(blog) as requests:
        applied = blog.apply()
    assert not applied.ok and re.search(message, str(applied.failed)), applied.failed
    assert requests.failed == [] and requests.releases == [live] == [blog.live]
    assert images(blog) == before
    blog.repository.git("revert", "--no-edit", "HEAD")
    blog.repository.push()
    blog.deploy()


@pytest.mark.full
def test_a_rollback_needs_no_network_and_makes_no_image(blog: Site) -> None:
    blog.repository.commit(version("30.0"))
    blog.deploy()
    before = image_ids(blog)
    route = blog.host.run("ip route show default").stdout.strip()
    blog.host.run("ip route del default")
    try:
        rolled = blog.host.call("django.rollback", "blog")
    finally:
        blog.host.run(f"ip route add {route}")
    assert rolled["release"] == blog.live and image_ids(blog) == before


@pytest.mark.full
def test_a_console_is_a_container_that_reads(blog: Site) -> None:
    count = "from guestbook.models import Entry\nprint('entries', Entry.objects.count())\n"
    add = f"{count}Entry.objects.create(name='ada', message='hello')\nprint('written')\n"
    console, options = ["django-shell", "blog"], {"check": False}
    read = blog.host.run(console, stdin=add, **options)
    assert "entries " in read.stdout and "readonly database" in read.stderr and "written" not in read.stdout, read
    inside = blog.host.run([*console, "bash"], stdin="id -u; touch media/x; exit 7\n", **options)
    assert (inside.stdout.strip(), inside.returncode) == (blog.host.run(["id", "-u", "blog"]).stdout.strip(), 7), inside
    assert "written" in blog.host.run([*console, "--write", "ticket 311"], stdin=add, **options).stdout
    assert (
        "console" not in blog.host.run(f"{blog.options['container']['engine']} ps -a --format '{{{{.Names}}}}'").stdout
    )


@pytest.mark.full
def test_a_superuser_is_created_in_a_container_and_its_password_is_no_argument(blog: Site) -> None:
    host, file = blog.host, f"{blog.root}/secrets/superuser-ada"
    host.call("django.superuser", blog.name, "ada")
    assert "DJANGO_SUPERUSER_PASSWORD" in host.read(file)
    assert host.run(["stat", "-c", "%a %U", file]).stdout == "600 root\n"
    query = "from django.contrib.auth.models import User; print(User.objects.get(username='ada').is_superuser)"
    assert "True" in host.call("django.manage", blog.name, f'shell -c "{query}"')
    assert "django-blog-manage" not in host.run("ls /run/django").stdout


@pytest.mark.full
def test_a_killed_server_is_started_again(blog: Site) -> None:
    """With podman requests wait at systemd's socket; Docker passes no socket on, and nginx answers 502 meanwhile."""
    with load(blog) as requests:
        requests.wait(60)
        pid = blog.host.run([engine_of(blog), "inspect", "--format={{.State.Pid}}", blog.unit]).stdout.strip()
        blog.host.run(["kill", "-9", pid])
        time.sleep(4)
        wait_for(lambda: blog.get("/release").status_code == 200)
        requests.wait(60)
    assert len(requests.answers) > 100 and blog.answering["release"] == blog.live
    expected = set() if engine_of(blog) == "podman" else {502}
    failed = [answer.time for answer in requests.failed]
    longest = max(answer.duration for answer in requests.answers)
    gap = failed[-1] - failed[0] if failed else 0
    print(f"{len(failed)} of {len(requests.answers)} failed, within {gap:.1f} s; the longest took {longest:.1f} s")
    assert {answer.status for answer in requests.failed} == expected and gap < 20 * lab.busy()
    assert blog.apply().changed == {}


@pytest.mark.full
def test_pruned_images_are_made_again(blog: Site) -> None:
    blog.repository.commit(version("3.0"))
    blog.deploy()
    before = blog.live
    # A container has the image of the active release, so that only the others are removed.
    blog.host.run([engine_of(blog), "image", "prune", "--all", "--force"])
    assert [name for name in images(blog) if name.startswith("blog:")] == [f"blog:{before}"]
    with load(blog) as requests:
        rolled = blog.host.call("django.rollback", "blog")
    assert requests.failed == [] and blog.live == rolled["release"] != before
    assert f"blog:{blog.live}" in images(blog)


@pytest.mark.full
def test_images_of_deleted_releases_are_removed_and_foreign_ones_stay(blog: Site) -> None:
    host = blog.host
    base = next(name for name in images(blog) if name.startswith("base:"))
    host.run([engine_of(blog), "tag", f"localhost/django/{base}", "localhost/other/app:1"])
    for number in range(4):
        blog.repository.commit(version(f"4.{number}"))
        blog.deploy(releases={"keep": 2})
    own = [name for name in images(blog) if name.startswith("blog:")]
    assert own == sorted(f"blog:{name}" for name in blog.releases)
    assert len([name for name in images(blog) if name.startswith("blog-deps:")]) == 1
    assert "localhost/other/app:1" in host.run([engine_of(blog), "images", "--format={{.Repository}}:{{.Tag}}"]).stdout


@pytest.mark.full
def test_no_secret_is_in_an_image_a_container_or_the_journal(blog: Site) -> None:
    marks = {name: f"CANARY-{name}-9137" for name in ("secret", "env", "pem", "variable")}
    blog.repository.commit(
        {
            ".env": f"A={marks['env']}\n",
            "deep/.envs/production": f"B={marks['env']}\n",
            "deep/server.pem": marks["pem"],
        }
    )
    watch_arguments(blog.host)
    blog.deploy(secrets={"API_TOKEN": marks["secret"]}, environment={"TOKEN": marks["variable"]})
    key = secret_key(blog)
    assert places_of(blog, [*marks.values(), key]) == []
    assert blog.host.run("find /srv/saved/x -name .git -o -name .env -o -name .envs -o -name server.pem").stdout == ""
    assert inside(blog, f"cat {blog.root}/releases/{blog.live}/source/.env") == f"A={marks['env']}\n"


def dockerfile(blog: Site) -> str:
    """A Dockerfile as projects have it, on the base that the formula has made, and a file that its build makes."""
    base = next(name for name in images(blog) if name.startswith("base:"))
    return f"""\
FROM localhost/django/{base}
RUN apt-get -qq update && apt-get -qq install --no-install-recommends python3-venv >/dev/null
WORKDIR /app
COPY trusted.crt requirements.txt ./
RUN python3 -m venv /venv && \\
    PIP_CERT=/app/trusted.crt /venv/bin/pip install --quiet -r requirements.txt gunicorn==23.0.0
ENV PATH=/venv/bin:$PATH
COPY . .
RUN mkdir made && env >made/environment.txt && ls -a >made/names.txt
RUN python3 -c "import socket; print(socket.socket().connect_ex(('127.0.0.1', 80)))" >made/host.txt
USER root
ENTRYPOINT ["false"]
CMD ["never"]
"""


@pytest.mark.full
def test_a_dockerfile_of_the_project_makes_the_image(blog: Site) -> None:
    mark = "CANARY-file-9137"
    files = {"trusted.crt": Path(lab.certificates()).read_text(), ".env": f"A={mark}\n", "Dockerfile": dockerfile(blog)}
    blog.repository.commit(files)
    own = {"engine": engine_of(blog), "file": "Dockerfile"}
    with load(blog) as requests:
        requests.wait(20)
        blog.deploy(container=own, python="/venv/bin/python", secrets={"API_TOKEN": mark})
        requests.wait(20)
    assert requests.failed == [] and requests.releases[-1] == blog.live
    source = f"{blog.root}/releases/{blog.live}/source"
    assert inside(blog, f"cat {source}/made/names.txt").split().count(".env") == 0
    assert "gunicorn" in inside(blog, "cat /proc/1/cmdline")
    assert inside(blog, f"cat {source}/made/host.txt").strip() != "0"  # a service on a loopback address of the host
    assert "CANARY" not in inside(blog, f"cat {source}/made/environment.txt")
    uid = blog.host.run(["id", "-u", "blog"]).stdout.strip()
    assert inside(blog, "id -u").strip() == uid
    applied = blog.apply()
    assert applied.ok and applied.changed == {}
    image = f"localhost/django/blog-file:{blog.live}"
    assert mark not in blog.host.run([engine_of(blog), "history", "--no-trunc", image]).stdout
    assert blog.host.call("django.drift", "blog")["drift"] == []


@pytest.mark.full
def test_a_release_of_a_dockerfile_is_taken_back_and_made_again(blog: Site) -> None:
    first, virtualenv = blog.live, blog.record()["virtualenv"]
    blog.repository.commit(version("6.0"))
    with load(blog) as requests:
        requests.wait(20)
        blog.deploy()
        assert blog.record()["virtualenv"] == virtualenv
        rolled = blog.host.call("django.rollback", "blog")
        requests.wait(20)
    assert requests.failed == [] and blog.live == rolled["release"] == first
    blog.repository.commit(version("6.1"))
    blog.deploy()
    for name in (f"blog:{first}", f"blog-file:{first}"):
        blog.host.run([engine_of(blog), "rmi", "--force", f"localhost/django/{name}"])
    blog.host.call("django.rollback", "blog", first)
    assert blog.live == first and f"blog-file:{first}" in images(blog)


@pytest.mark.parametrize(
    ("line", "error"),
    [
        ("RUN cat /nowhere", "at line 14 of Dockerfile: RUN cat /nowhere"),
        ("COPY nowhere.txt /", "at line 14 of Dockerfile: COPY nowhere.txt /"),
        ("COPY .env /app/", "line 14 of Dockerfile copies a file that may have secrets"),
        ("RUN sleep 4321", "timed out after 40 s at line 14 of Dockerfile: RUN sleep 4321"),
    ],
    ids=["command", "missing", "secret", "timeout"],
)
@pytest.mark.full
def test_a_dockerfile_that_fails_names_its_line_and_leaves_nothing(blog: Site, line: str, error: str) -> None:
    live, before = blog.live, images(blog)
    blog.repository.commit({"Dockerfile": f"{dockerfile(blog)}{line}\n"})
    with load(blog) as requests:
        applied = blog.apply(timeouts={"build": "40s"})
    assert requests.failed == [] and requests.releases == [live]
    assert not applied.ok and error in str(applied), applied
    assert (blog.live, images(blog)) == (live, before)
    assert blog.get("/release").status_code == 200
    assert blog.host.run(["pgrep", "-f", "sleep [4]321"], check=False).stdout == ""
    if engine_of(blog) == "podman":
        assert "working-container" not in blog.host.run("podman ps --all --external").stdout


@pytest.mark.full
def test_images_of_a_dockerfile_go_with_their_releases(blog: Site) -> None:
    blog.repository.commit({"Dockerfile": dockerfile(blog)})
    blog.deploy(timeouts=None, releases={"keep": 2})
    for number in range(2):
        blog.repository.commit(version(f"7.{number}"))
        blog.deploy()
    own = [name for name in images(blog) if name.startswith("blog-file:")]
    assert own == sorted(f"blog-file:{name}" for name in blog.releases)
    blog.deploy(container={"engine": engine_of(blog)}, python=None, secrets=None)


@pytest.mark.full
def test_to_a_plain_site_and_back_without_a_lost_request(blog: Site) -> None:
    with load(blog) as requests:
        requests.wait(20)
        blog.deploy(container=None)
        plain = blog.live
        wait_for(lambda: blog.host.run([engine_of(blog), "ps", "--quiet"]).stdout == "")
        blog.deploy(container={"engine": engine_of(blog)})
        again = blog.live
        requests.wait(20)
        blog.host.call("django.rollback", "blog")
        assert blog.live == plain
        requests.wait(20)
    assert requests.failed == [] and requests.releases[-2:] == [plain, again]
    assert blog.apply().ok


@pytest.mark.full
def test_a_reboot_starts_the_containers(blog: Site) -> None:
    blog.repository.commit(version("5.0"))
    blog.deploy()
    live = blog.live
    blog.host.restart()
    wait_for(lambda: blog.get("/release").status_code == 200)
    assert blog.answering["release"] == live
    applied = blog.apply()
    assert applied.ok and applied.changed == {}, json.dumps(applied.changed)
