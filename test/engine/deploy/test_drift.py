import os
import sys
from pathlib import Path

import pytest
from django_formula.deploy import drift as deploy_drift
from django_formula.host import config_files, file, users
from django_formula.process import systemd
from django_formula.proxy import nginx
from django_formula.release import releases
from django_formula.secret import secrets
from django_formula.verbs import operations

KEY = b"k" * 32


def tree(folder: Path) -> Path:
    """A folder with one of everything."""
    (folder / "inner/deep").mkdir(parents=True)
    (folder / "text").write_text("text")
    (folder / "inner/empty").touch()
    (folder / "inner/deep/large").write_bytes(b"x" * 3_000_000)
    (folder / "inner/link").symlink_to("../text")
    (folder / "inner/away").symlink_to("/etc")
    os.mkfifo(folder / "fifo")
    (folder / "ours").mkdir()
    (folder / "ours/log").write_text("1")
    (folder / "release.json").write_text("{}")
    return folder


@pytest.mark.parametrize(
    ("what", "told"),
    [
        (lambda top: None, {}),
        (lambda top: (top / "text").write_text("next"), {"text": "changed"}),
        (lambda top: os.utime(top / "text"), {}),
        (lambda top: (top / "text").chmod(0o777), {"text": "mode was 0644"}),
        (lambda top: (top / "inner/empty").unlink(), {"inner/empty": "missing"}),
        (lambda top: (top / "inner/new").touch(), {"inner/new": "added"}),
        (lambda top: (top / "inner/new").symlink_to("/root"), {"inner/new": "added"}),
        (lambda top: file.link(top / "inner/link", "../other"), {"inner/link": "changed"}),
        (lambda top: ((top / "text").unlink(), (top / "text").symlink_to("inner/empty")), {"text": "changed"}),
        (lambda top: (top / "ours/log").write_text("2"), {}),
        (lambda top: (top / "release.json").write_text("2"), {}),
        (
            lambda top: file.remove_tree(top / "inner/deep"),
            {"inner/deep": "missing", "inner/deep/large": "missing"},
        ),
        (lambda top: (top / ".manifest.json").write_text("{"), {".manifest.json": "changed"}),
        (lambda top: (top / ".manifest.json").unlink(), {".manifest.json": "missing"}),
    ],
)
def test_what_is_otherwise_in_a_folder(own_host, what, told):
    top = tree(own_host / "tree")
    for path in top.rglob("*"):
        if path.is_file() and not path.is_symlink():
            path.chmod(0o644)
    assert not deploy_drift.has_manifest(top)
    deploy_drift.make_manifest(top, KEY, ["ours"])
    what(top)
    found = deploy_drift.manifest_differences(top, KEY)
    assert {path: how.replace("changed, mode was 0644", "changed") for path, how in found.items()} == told


def test_changed_owner_is_drift():
    before, now = [0o100644, 0, 0, "hash"], [0o100600, 33, 0, "other"]
    assert deploy_drift._changes(before, now) == "changed, mode was 0644, owner"


def test_contents_cannot_be_guessed(own_host):
    top = tree(own_host / "tree")
    texts = []
    for key in (KEY, b"other"):
        deploy_drift.make_manifest(top, key)
        texts.append((top / ".manifest.json").read_text())
        assert (top / ".manifest.json").stat().st_mode & 0o777 == 0o600
    assert texts[0] != texts[1]


@pytest.fixture
def blog(world):
    world.options["secrets"] = {"TOKEN": {"generate": 40}, "FILE": {"generate": 40, "as": "file"}}
    world.options["writable"] = ["logs"]
    world.apply()
    return world


def drift(world):
    """The drift of the site: path below the root of the test's host → how."""
    told = operations.drift("blog")
    top = f"{world.site.root.parents[2]}/"
    assert ("mended_by" in told) == bool(told["drift"])
    return {row["path"].removeprefix(top): row["drift"] for row in told["drift"]}


def test_what_was_just_released_has_no_drift(blog):
    assert drift(blog) == {}
    (blog.site.current / "source/logs/today").write_text("hello")
    assert drift(blog) == {}
    blog.push("two")
    blog.apply()
    assert drift(blog) == {}
    operations.rollback("blog")
    assert drift(blog) == {}


def test_each_part_is_looked_at_and_a_release_mends_it(blog):
    site, live = blog.site, releases.Release(blog.site, blog.live)
    release = f"srv/django/blog/releases/{live.name}"
    virtualenv = f"srv/django/blog/virtualenvs/{live.record['virtualenv']}"
    (live.path / "source/manage.py").write_text("evil")
    (live.path / "config/uwsgi.ini").unlink()
    (live.path / "static/new.js").touch()
    (live.path / "virtualenv/bin/extra.pth").touch()
    unit = systemd.UNITS / "django-blog-0001.service"
    unit.write_text("[Service]\n")
    unit.with_name("django-blog-0001.service.d").mkdir()
    (unit.with_name("django-blog-0001.service.d") / "more.conf").touch()
    unit.with_suffix(".socket").unlink()
    nginx.PROXY.locations(site).write_text(f"{config_files.OURS}\n")
    (nginx.ETC / "sites-enabled/blog.example.org").unlink()
    (site.secrets / "environment").write_text("TOKEN=\n")
    found = drift(blog)
    assert found == {
        f"{release}/source/manage.py": "changed",
        f"{release}/config/uwsgi.ini": "missing",
        f"{release}/static/new.js": "added",
        f"{virtualenv}/bin/extra.pth": "added",
        "etc/systemd/system/django-blog-0001.service": "changed",
        "etc/systemd/system/django-blog-0001.service.d/more.conf": "added",
        "etc/systemd/system/django-blog-0001.socket": "missing",
        "etc/nginx/django/blog.conf": "changed",
        "etc/nginx/sites-enabled/blog.example.org": "missing",
        "srv/django/blog/secrets/environment": "changed",
    }
    rows = {row["path"]: row for row in deploy_drift.differing_paths(site, live)}
    there = rows[str(live.path / "source/manage.py")]
    assert there["owner"] == users.owner_of(os.stat(live.path)) and there["modified"].endswith("Z")
    assert rows[str(live.path / "config/uwsgi.ini")]["owner"] == ""
    operations.release("blog")
    assert drift(blog) == {}
    assert blog.live.startswith("0002-")
    file.remove_tree(unit.with_name("django-blog-0001.service.d"))
    blog.check()
    assert blog.apply() == {}


def test_program_without_jinja_compares_what_is_not_rendered(blog, monkeypatch):
    live = releases.Release(blog.site, blog.live)
    (live.path / "source/manage.py").write_text("evil")
    nginx.PROXY.locations(blog.site).write_text(f"{config_files.OURS}\n")
    monkeypatch.setitem(sys.modules, "jinja2", None)
    assert drift(blog) == {f"srv/django/blog/releases/{live.name}/source/manage.py": "changed"}


def test_changed_virtualenv_is_rebuilt_next_to_the_one_in_use(blog):
    def record():
        return releases.Release(blog.site, blog.live).record["virtualenv"]

    key = record()
    operations.release("blog")
    assert record() == key
    for generation in (2, 3):
        (blog.site.current / "virtualenv/bin/python").write_text("evil")
        operations.release("blog")
        assert record() == f"{key}.{generation}" and drift(blog) == {}
        blog.push(f"commit {generation}")
        blog.apply()
        assert record() == f"{key}.{generation}"
    blog.check()


def test_secrets_are_those_of_a_release(blog):
    secret = blog.site.secrets / "TOKEN"
    kept = secret.read_text()
    secret.write_text("another")
    found = drift(blog)
    assert found == {f"srv/django/blog/secrets/{name}": "changed" for name in ("TOKEN", "environment")}
    secret.unlink()
    assert drift(blog) == {"srv/django/blog/secrets/TOKEN": "missing"}
    secret.write_text("")
    assert drift(blog) == {"srv/django/blog/secrets/TOKEN": "missing"}
    file.write(secret, kept, mode=0o640)
    assert drift(blog) == {}
    secrets.store(blog.site, "FILE", "x" * 40)
    assert drift(blog) == {"srv/django/blog/secrets/FILE": "changed"}


@pytest.mark.parametrize("how", ["gone", "torn"])
def test_without_a_manifest_nothing_can_be_compared(blog, how):
    path = blog.site.current / ".manifest.json"
    path.unlink() if how == "gone" else path.write_text(path.read_text()[:-1])
    name = f"srv/django/blog/releases/{blog.live}/.manifest.json"
    assert drift(blog) == {name: "missing" if how == "gone" else "changed"}
    operations.release("blog")
    assert drift(blog) == {}
