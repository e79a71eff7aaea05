import json
import os
import resource
import signal
import socket
import stat
import subprocess
import sys
import time
from pathlib import Path

import django_host_clock
import django_host_command
import django_host_file
import django_host_folder
import django_host_user
import django_site
import pytest
from django_host_command import DeploymentError
from django_host_folder import Folder
from django_wall_foreign import Foreign
from specimen import ROOT, configured


def test_folders_and_who_owns_them():
    site = configured()
    assert [(str(path), f"{owner}:{group} {mode:04o}") for path, owner, group, mode in site.folders()] == [
        ("/srv/django/blog", "root:root 0755"),
        ("/srv/django/blog/repository.git", "root:root 0700"),
        ("/srv/django/blog/build", "blog-build:blog-build 0700"),
        ("/srv/django/blog/virtualenvs", "root:root 0755"),
        ("/srv/django/blog/releases", "root:root 0755"),
        ("/srv/django/blog/database", "blog:blog 0750"),
        ("/srv/django/blog/media", "blog:www-data 2750"),
        ("/srv/django/blog/shared", "blog:blog 0750"),
        ("/srv/django/blog/secrets", "root:blog 0750"),
        ("/srv/django/blog/backups", "root:root 0700"),
        ("/srv/django/blog/log", "blog:adm 0750"),
        ("/srv/django/blog/templates", "root:root 0700"),
        ("/run/django/blog", "root:www-data 0751"),
    ]


@pytest.mark.parametrize(
    ("recorded", "owner"),
    [
        (None, "root"),
        ({"server": "uwsgi", "address": "{runtime}/0042.sock"}, "root"),
        ({"server": "uwsgi", "process": "supervisor", "address": "{runtime}/0042.sock"}, "blog"),
        ({"server": "granian", "process": "systemd", "address": "{runtime}/0042.sock"}, "blog"),
        ({"server": "granian", "process": "systemd", "address": "{runtime}/0042/server.sock"}, "root"),
        ({"server": "granian", "process": "systemd", "address": "127.0.0.1:8000"}, "root"),
    ],
)
def test_the_folder_of_sockets_is_roots_but_for_old_releases_that_bind_there(make_site, recorded, owner):
    site = make_site()
    release = site.releases / "0042-3f2a9c1b77de"
    if recorded:
        (release / "config").mkdir(parents=True)
        recorded["address"] = recorded["address"].format(runtime=site.runtime)
        (release / "config/instance.json").write_text(json.dumps(recorded))
    mode = {"root": 0o751, "blog": 0o2750}[owner]
    assert site.runtime_folder(release) == Folder(site.runtime, owner, "www-data", mode)
    site.register()
    site.open_runtime(release)
    lines = [f"d {site.runtime} {mode:04o} {owner} www-data -"]
    if recorded and recorded["address"].endswith("/server.sock"):
        lines.append(f"d {site.runtime}/0042 2750 blog www-data -")
        assert (site.runtime / "0042").stat().st_mode & 0o7777 == 0o2750
    assert site.tmpfiles.read_text().splitlines() == lines
    assert site.runtime.stat().st_mode & 0o7777 == mode
    django_host_file.link(site.current, str(release))
    assert site.is_registered() and site.folders()[-1] == site.runtime_folder(release)


def test_what_the_site_has_put_into_a_folder_that_becomes_roots_goes(make_site, monkeypatch, tmp_path):
    if os.getuid():
        pytest.skip("needs root")
    site = make_site()
    monkeypatch.setattr(django_host_user, "user_id", lambda name: {"root": 0}.get(name, 65534))
    os.chown(site.runtime, 65534, 65534)
    (tmp_path / "precious").mkdir()
    (site.runtime / "0043").symlink_to(tmp_path / "precious")
    (site.runtime / "0044").mkdir()
    os.chown(site.runtime / "0044", 65534, 65534)
    (site.runtime / "0045").mkdir()
    (site.runtime / "file").write_text("")
    monkeypatch.chdir(site.runtime)
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind("0042.sock")
    site.open_runtime(site.current)
    assert {path.name for path in site.runtime.iterdir()} == {"0042.sock", "0045"}
    assert (tmp_path / "precious").is_dir() and site.runtime.stat().st_uid == 0


def test_a_folder_is_made_and_mended(make_site, tmp_path):
    site = make_site()
    assert {folder: django_host_folder.problem(folder) for folder in site.folders()} == dict.fromkeys(
        site.folders(), ""
    )
    folder = Folder(tmp_path / "one/two", "blog", "blog", 0o2750)
    assert django_host_folder.problem(folder) == "missing"
    django_host_folder.make(folder)
    assert django_host_folder.problem(folder) == ""
    folder.path.chmod(0o777)
    assert django_host_folder.problem(folder).endswith(" 0777, not blog:blog 2750")
    django_host_folder.make(folder)
    assert django_host_folder.problem(folder) == ""


@pytest.mark.parametrize("what", ["a file", "a link"])
def test_what_is_in_a_folders_way_is_named(own_host, what):
    path = own_host / "releases"
    path.symlink_to(own_host) if what == "a link" else path.write_text("")
    with pytest.raises(DeploymentError) as error:
        django_host_folder.problem(Folder(path, "root", "root", 0o755))
    assert error.value.message == f"{path} is in the way: it is not a folder"
    assert error.value.hint == f"move it away: mv {path} {path}.aside"


@pytest.mark.parametrize(("path", "link"), [("a/link/b", True), ("a/link", False), ("a/link/b", False)])
def test_a_path_that_leads_through_a_link_is_refused(own_host, path, link):
    (own_host / "a").mkdir()
    (own_host / "a/link").symlink_to(own_host)
    with pytest.raises(DeploymentError) as error:
        django_site.inside(Foreign(own_host), path, "some:key", link=link)
    assert str(error.value) == f"some:key: {path} leads through the link a/link\nname where it really is"
    assert django_site.inside(Foreign(own_host), "a/link", "some:key") == Foreign(own_host) / "a/link"
    assert django_site.inside(Foreign(own_host), "a/b", "some:key", link=False) == Foreign(own_host) / "a/b"


@pytest.mark.parametrize(
    ("users", "there"), [(["blog", "blog-build"], True), (["blog"], False), (["blog-build"], False)]
)
def test_whether_a_site_has_its_users(monkeypatch, users, there):
    monkeypatch.setattr(django_host_user, "user_id", lambda name: 0 if name in users else -2)
    assert configured().user_exists() is there


def test_names_of_users_and_groups():
    assert django_host_user.user_id("root") == django_host_user.group_id("root") == 0
    assert django_host_user.user_id("no-such-user") == django_host_user.group_id("no-such-group") == -2
    assert django_host_user.owner_of(os.stat("/")) == "root:root"
    assert django_host_user.owner_of(os.stat_result((0, 0, 0, 0, 999999, 999998, 0, 0, 0, 0))) == "999999:999998"


def test_a_file_is_written_whole(own_host, monkeypatch):
    """The content is on disk before the name leads to it, and the name before anything goes on."""
    order = []
    sync, replace, give = os.fsync, Path.replace, os.fchown
    modes = []
    monkeypatch.setattr(
        os, "fchown", lambda file, *ids: modes.append(os.fstat(file).st_mode & 0o777) or give(file, *ids)
    )
    monkeypatch.setattr(os, "fsync", lambda file: order.append(os.readlink(f"/proc/self/fd/{file}")) or sync(file))
    monkeypatch.setattr(Path, "replace", lambda path, to: order.append((str(path), str(to))) or replace(path, to))
    path, new = own_host / "site.json", own_host / ".site.json.new"
    django_host_file.write(path, "grüße\n", mode=0o640, user="root", group="blog")
    assert order == [str(new), (str(new), str(path)), str(own_host)]
    assert path.read_text() == "grüße\n" and stat.S_IMODE(path.stat().st_mode) == 0o640
    assert modes == [0o600], "nobody else reads it before it has its owner"
    django_host_file.write(path, b"bytes")
    assert path.read_bytes() == b"bytes" and stat.S_IMODE(path.stat().st_mode) == 0o644
    order.clear()
    django_host_file.link(own_host / "current", "releases/0001")
    assert order == [(str(own_host / ".current.new"), str(own_host / "current")), str(own_host)]
    assert os.readlink(own_host / "current") == "releases/0001"


@pytest.mark.parametrize("what", ["file", "link"])
def test_a_write_that_is_cut_short_leaves_what_was_there(own_host, monkeypatch, what):
    path, new = own_host / "one", own_host / ".one.new"

    def put(content):
        django_host_file.link(path, content) if what == "link" else django_host_file.write(path, content)

    put("old")
    with monkeypatch.context() as patched:
        patched.setattr(Path, "replace", lambda *_: os.kill(os.getpid(), 0) or (_ for _ in ()).throw(KeyboardInterrupt))
        with pytest.raises(KeyboardInterrupt):
            put("new")
    assert (os.readlink(path) if what == "link" else path.read_text()) == "old"
    assert os.path.lexists(new)
    put("newer")
    assert (os.readlink(path) if what == "link" else path.read_text()) == "newer"
    assert not os.path.lexists(new)


def test_a_link_is_replaced_and_not_followed(own_host):
    target = own_host / "target"
    target.write_text("untouched")
    for name in ("one", ".one.new"):
        (own_host / name).symlink_to(target)
    django_host_file.write(own_host / "one", "content")
    assert target.read_text() == "untouched" and not (own_host / "one").is_symlink()


WHOLE = b'{\n "key": "value"\n}\n'


@pytest.mark.parametrize(
    ("content", "expected"),
    [
        (WHOLE, {"key": "value"}),
        (b"", None),
        (WHOLE[: len(WHOLE) // 2], None),
        (WHOLE[:-2], None),
        (WHOLE + b"garbage", None),
        (b"\0" * len(WHOLE), None),
        (b"\xff\xfe", None),
        (b'["a list"]', None),
        (None, None),
    ],
    ids=["whole", "empty", "half", "all but its end", "garbage behind", "zeros", "not utf-8", "a list", "missing"],
)
def test_a_torn_record_is_none(own_host, content, expected):
    path = own_host / "record.json"
    if content is not None:
        path.write_bytes(content)
    assert django_host_file.read_json(path) == expected


def test_what_is_written_is_read(own_host):
    value = {"text": "ü\n\0", "list": [1, 2.5, None, True]}
    django_host_file.write_json(own_host / "record.json", value)
    assert django_host_file.read_json(own_host / "record.json") == value
    assert django_host_file.read_text(own_host / "no such file") is None


def test_a_tree_is_removed_without_following_links(own_host):
    (own_host / "outside").mkdir()
    (own_host / "tree").mkdir()
    (own_host / "tree/link").symlink_to(own_host / "outside")
    (own_host / "link").symlink_to(own_host / "outside")
    for name in ("tree", "link", "missing"):
        django_host_file.remove_tree(own_host / name)
    assert not os.path.lexists(own_host / "tree") and not os.path.lexists(own_host / "link")
    assert (own_host / "outside").is_dir()


def test_the_host_knows_its_sites(make_site):
    blog, shop = make_site(), make_site("shop")
    assert django_site.registered() == [] and not blog.is_registered()
    blog.register()
    shop.register()
    (django_site.REGISTRY / ".wiki.new").symlink_to("/left/by/a/kill")
    assert blog.is_registered() and django_site.registered() == ["blog", "shop"]
    assert blog.tmpfiles.read_text() == f"d {blog.runtime} 0751 root www-data -\n"
    blog.tmpfiles.write_text("")
    assert not blog.is_registered()


def test_a_site_is_found_by_its_name(make_site):
    site = make_site(path="/blog")
    site.register()
    django_host_file.write_json(site.applied, {"config": site.config, "platform": site.platform})
    assert django_site.find("blog").config == site.config
    for name in ("shop", "../blog", "", "blog/"):
        with pytest.raises(DeploymentError, match=r"there is no site '.*' on this host \(registered: blog\)"):
            django_site.find(name)
    site.applied.write_text("{")
    with pytest.raises(DeploymentError, match="the configuration of blog as applied, is gone or damaged"):
        django_site.find("blog")


def test_templates_are_kept_by_their_url(make_site):
    site = make_site()
    templates = {"salt://django/files/uwsgi.ini": "one", "salt://blog/__init__.py.jinja": "two", "salt://a%2Fb": "3"}
    assert site.stale_templates(templates) == sorted(templates)
    site.keep_templates(templates)
    (site.templates / ".torn.new").write_text("left by a kill")
    assert site.kept_templates() == templates and site.stale_templates(templates) == []
    site.kept_template("salt://a%2Fb").write_text("torn")
    with pytest.raises(DeploymentError, match="is not as the last apply has left it"):
        site.kept_templates()
    del templates["salt://a%2Fb"]
    assert site.stale_templates(templates) == [str(site.template_sums)]
    site.keep_templates(templates)
    assert site.kept_templates() == templates and len([*site.templates.iterdir()]) == 3


HOLD = """
import sys, time
from pathlib import Path
from django_host_lock import Lock
lock = Lock(Path(sys.argv[1]), "salt job 42", busy="another deployment of blog", timeout="1s", hint="")
lock.take()
if sys.argv[2:]:
    import django_host_command
    django_host_command.run(["sh", "-c", "echo $$ > " + sys.argv[2] + "; exec sleep 60"], doing="sleeping")
print("held", flush=True)
time.sleep(60)
"""


def holder(lock_file: Path, *arguments: str) -> "subprocess.Popen[str]":
    """Another process that takes the lock."""
    environment = {**os.environ, "PYTHONPATH": str(ROOT / "_utils")}
    argv = [sys.executable, "-c", HOLD, str(lock_file), *arguments]
    return subprocess.Popen(argv, env=environment, stdout=subprocess.PIPE, text=True)


def test_a_lock_is_held_by_one_and_freed_by_its_end(make_site):
    site = make_site(timeouts={"lock": "300ms"})
    with holder(site.lock_file) as other:
        assert other.stdout and other.stdout.readline() == "held\n"
        lock = site.lock("salt job 43")
        began = time.monotonic()
        with pytest.raises(DeploymentError) as error:
            lock.take()
        assert 0.3 <= time.monotonic() - began < 2
        expected = rf"another deployment of blog is under way: salt job 42, pid {other.pid}, since \S+Z; waited 300ms"
        assert error.match(expected) and error.value.transient and not django_host_command.locks
        other.send_signal(signal.SIGSTOP)
        with pytest.raises(DeploymentError):
            lock.take()
        other.kill()
    lock.take()
    assert f"salt job 43, pid {os.getpid()}, since" in site.lock_file.read_text()
    lock.take()
    with pytest.raises(DeploymentError, match="salt job 43"):
        site.lock("salt job 44").take()
    lock.release()
    lock.release()
    assert site.lock_file.read_text() == "" and not django_host_command.locks
    after = site.lock("salt job 44")
    after.take()
    after.release()


def test_a_lock_waits_for_the_one_before(make_site):
    site = make_site(timeouts={"lock": "5s"})
    with holder(site.lock_file) as other:
        assert other.stdout and other.stdout.readline() == "held\n"
        subprocess.Popen(["sh", "-c", f"sleep 0.2; kill -9 {other.pid}"])
        lock = site.lock("next")
        lock.take()
        lock.release()


def test_a_lock_ends_with_its_deployment_whatever_that_has_left_behind(make_site, tmp_path):
    site = make_site(timeouts={"lock": "200ms"})
    with holder(site.lock_file, str(tmp_path / "child")) as other:
        deadline = time.monotonic() + 5
        while not (child := django_host_file.read_text(tmp_path / "child")) and time.monotonic() < deadline:
            time.sleep(0.02)
        other.kill()
        other.wait()
        lock = site.lock("next")
        lock.take()
        lock.release()
        assert child
        os.kill(int(child), signal.SIGKILL)


def test_a_lock_that_is_a_link_is_not_followed(make_site):
    site = make_site()
    site.lock_file.symlink_to("/dev/null")
    with pytest.raises(OSError, match="symbolic links"):
        site.lock("next").take()


@pytest.mark.parametrize(
    ("seconds", "expected"),
    [(-5, "0 s"), (0, "0 s"), (119, "119 s"), (120, "2 min"), (7199, "120 min"), (7200, "2 h"), (172800, "2 d")],
)
def test_how_long_ago_a_time_is(monkeypatch, seconds, expected):
    when = django_host_clock.written(1772366400)
    assert when == "2026-03-01T12:00:00Z"
    monkeypatch.setattr(django_host_clock.time, "time", lambda: 1772366400.0 + seconds)
    assert django_host_clock.age(when) == expected and django_host_clock.age("") == django_host_clock.age("torn") == ""


def test_a_user_that_cannot_be_looked_up_is_not_said_to_be_missing():
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (0, hard))
    try:
        for look_up in (django_host_user.find_user, django_host_user.user_id, django_host_user.group_id):
            with pytest.raises(OSError, match="Too many open files"):
                look_up("nobody-at-all")
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
    assert django_host_user.find_user("nobody-at-all") is None and django_host_user.user_id("nobody-at-all") == -2


def test_the_process_that_holds_a_lock_is_ended(make_site):
    site = make_site(timeouts={"lock": "2s"})
    assert site.lock("next").end() == []
    with holder(site.lock_file) as other:
        assert other.stdout and other.stdout.readline() == "held\n"
        lock = site.lock("next")
        assert lock.holder().startswith("salt job 42, pid ") and lock.end() == [other.pid]
        assert other.wait(5) == -signal.SIGTERM
    lock.take()
    lock.release()


def test_a_process_that_holds_a_lock_and_does_not_end_is_killed(make_site):
    site = make_site()
    with holder(site.lock_file) as other:
        assert other.stdout and other.stdout.readline() == "held\n"
        other.send_signal(signal.SIGSTOP)
        assert site.lock("next").end(patience=0.3) == [other.pid]
        assert other.wait(5) in (-signal.SIGKILL, -signal.SIGTERM)  # both are there for it once it goes on
