"""A site whose Python the host does not have: Debian 12 serves a project for 3.13, without a network."""

import io
import tarfile

import pytest
from lab import Applied, Host, podman
from pythons import FOLDER, TABLE, Archive, made_on
from sites import Site, lines

pytestmark = pytest.mark.full

PROJECT = '[project]\nname = "site"\nversion = "1"\nrequires-python = ">=3.13"\ndependencies = ["Django==6.1.3"]\n'
INSTALLED = "Python 3.13 is installed"
#: Serves the packages of a folder as an index of Python packages.
INDEX = "systemd-run --quiet --unit=index --working-directory=/srv/index python3 -m http.server --bind 127.0.0.1 8009"
PACKAGES = """
set -eu
/usr/local/lib/django-formula/uv/bin/pip download --quiet --dest /srv/wheels --python-version 3.13 \
    --implementation cp --only-binary=:all: Django==6.1.3 pyuwsgi
for file in /srv/wheels/*; do
    name=$(basename "$file" | sed 's/-[0-9].*//' | tr 'A-Z_' 'a-z-')
    mkdir -p "/srv/index/simple/$name" && mv "$file" "/srv/index/simple/$name/"
done
"""


@pytest.fixture(scope="module")
def archive(module_hosts) -> Archive:
    host = module_hosts("trixie", kind="bare", name="maker")
    archive = made_on(host)
    host.remove()
    return archive


@pytest.fixture(scope="module")
def blog(module_hosts, repositories, archive) -> Site:
    """A site on a host that nothing but the tests reach."""
    host = module_hosts("bookworm", kind="ready", name="web1")
    host.write(TABLE, archive.table)
    blog = Site(host, repositories(host))
    blog.repository.commit({"pyproject.toml": PROJECT, "requirements.txt": None})
    host.run(PACKAGES, timeout=300)
    host.run(INDEX)
    podman("exec", "--privileged", host.container, "ip", "route", "del", "default")
    blog.options["index"] = {"url": "http://127.0.0.1:8009/simple", "only": True}
    return blog


def serve(host: Host, archive: Archive, content: bytes) -> None:
    """Have a mirror in a folder of the host."""
    packed = io.BytesIO()
    with tarfile.open(fileobj=packed, mode="w") as tar:
        entry = tarfile.TarInfo(archive.path)
        entry.size = len(content)
        tar.addfile(entry, io.BytesIO(content))
    host.run("rm -rf /srv/pythons && mkdir /srv/pythons")
    host.send(packed.getvalue(), "/srv/pythons")


def apply(blog: Site, mirror: str | None = None, test: bool = False) -> Applied:
    pillar = {"sites": blog.sites, **({"python_mirror": mirror} if mirror else {})}
    blog.host.pillar({"django": pillar})
    return blog.host.apply(test=test)


def test_error_of_a_project_for_another_python_has_the_key(blog):
    comment = apply(blog).failed["blog has its virtualenv"]
    assert "the project requires Python >=3.13, and python3 is 3.11" in comment
    assert "set django:sites:blog:python to '3.13' in quotes" in comment and lines(comment) <= 10


def test_site_without_its_python_is_not_begun(blog):
    blog.options["python"] = "3.13"
    assert apply(blog, test=True)[INSTALLED].result is None
    failed = apply(blog).failed
    assert "cannot fetch http://127.0.0.1:9/" in failed[INSTALLED] and "python_mirror" in failed[INSTALLED]
    assert lines(failed[INSTALLED]) <= 10
    assert blog.host.run(["ls", "-A", FOLDER]).stdout == ""


def test_archive_with_another_byte_is_refused(blog, archive):
    content = bytearray(archive.content)
    content[len(content) // 2] ^= 1
    serve(blog.host, archive, bytes(content))
    comment = apply(blog, "file:///srv/pythons").failed[INSTALLED]
    assert "is not the archive that the formula knows" in comment and archive.sha256 in comment
    assert blog.host.run(["ls", "-A", FOLDER]).stdout == ""


def test_debian_12_serves_a_project_for_python_3_13_by_one_key(blog, archive):
    serve(blog.host, archive, archive.content)
    applied = apply(blog, "file:///srv/pythons")
    assert applied.ok, applied
    assert applied[INSTALLED].changes == {"python": archive.release}
    assert blog.get("/").status_code == 200 and blog.answering["release"] == blog.live
    python = blog.host.run(["readlink", "-f", f"{blog.root}/current/virtualenv/bin/python"]).stdout
    assert python.startswith(f"{FOLDER}/{archive.release}/")
    program = "import django, sys; print(*sys.version_info[:2], django.VERSION[0])"
    seen = blog.host.run([f"{blog.root}/current/virtualenv/bin/python", "-I", "-c", program]).stdout
    assert seen.split() == ["3", "13", "6"]
    again = apply(blog, "file:///srv/pythons")
    assert again.ok and not again.changed, again


def test_interpreter_is_root_s_and_compiled(blog):
    assert blog.host.run(["find", FOLDER, "-not", "-user", "root"]).stdout == ""
    assert blog.host.run(["find", FOLDER, "-not", "-type", "l", "-perm", "/022"]).stdout == ""
    assert blog.host.run(["find", FOLDER, "-name", ".lock"]).stdout == ""
    assert "/__pycache__/" in blog.host.run(["find", FOLDER, "-path", "*/http/*", "-name", "*.pyc"]).stdout


def test_other_site_shares_the_interpreter(blog, repositories):
    blog.host.run("rm -r /srv/pythons")
    shop = Site(blog.host, blog.repository, "shop", neighbour=blog, python="3.13", index=blog.options["index"])
    applied = apply(blog, "file:///srv/pythons")
    assert applied.ok and INSTALLED not in applied.changed, applied
    assert shop.answering["release"] == shop.live
    blog.host.run(["systemctl", "restart", f"django-shop-{shop.live[:4]}.service"])
    assert shop.get("/").status_code == 200
    assert blog.host.call("django.backup", "shop")


def test_interpreter_goes_with_the_last_site_and_is_not_of_this_apply(blog):
    blog.host.run(f"find {FOLDER} -name .complete -exec touch -d '2 hours ago' {{}} +")
    for site in blog.sites.values():
        site["state"] = "absent"
    applied = apply(blog)
    assert applied.ok, applied
    assert blog.host.run(["ls", "-A", FOLDER]).stdout == ""
