import os
import time
from pathlib import Path

import pytest
from django_formula.deploy import removal
from django_formula.host import users
from django_formula.host.commands import DeploymentError
from django_formula.proxy import maintenance as proxy_maintenance
from django_formula.proxy import nginx
from django_formula.site import sites
from django_formula.verbs import operations, status

NOON = time.mktime((2026, 3, 1, 12, 0, 0, 0, 0, -1))


@pytest.fixture
def blog(world):
    """A world in which the blog is served."""
    world.apply()
    return world


def page(site):
    return (site.maintenance / "on/index.html").read_text()


def retry_after(site):
    """Return Retry-After as nginx sends it: the name of the folder that the link points to."""
    return (site.maintenance / "on").resolve().name


def test_maintenance_is_switched_on_and_off(blog):
    site = blog.site
    assert sites.known_maintenance(site) is None and proxy_maintenance.summary(site) == ""
    blog.commands.clear()
    proxy_maintenance.on(site, "back <b>soon</b> & safe", by="ada")
    about = sites.known_maintenance(site)
    assert {**about, "since": ""} == {"since": "", "by": "ada", "message": "back <b>soon</b> & safe", "page": "own"}
    assert "<p>back &lt;b&gt;soon&lt;/b&gt; &amp; safe</p>" in page(site)
    assert retry_after(site) == "300"
    assert proxy_maintenance.summary(site) == f"since {about['since']}: back <b>soon</b> & safe"
    assert status.status(site)["maintenance"] == proxy_maintenance.summary(site)
    proxy_maintenance.off(site)
    proxy_maintenance.off(site)
    assert sites.known_maintenance(site) is None and blog.commands == []
    blog.check_leftovers()


def test_page_is_readable_for_nginx_and_writable_for_root_alone(blog, monkeypatch):
    before = os.umask(0o077)
    try:
        proxy_maintenance.on(blog.site, by="ada")
    finally:
        os.umask(before)
    modes = {path.name: path.stat().st_mode & 0o777 for path in blog.site.maintenance.rglob("*") if path.is_file()}
    assert modes == {"index.html": 0o644, "about.json": 0o600, "retry-after": 0o644}
    folders = [blog.site.maintenance, *(path for path in blog.site.maintenance.rglob("*") if path.is_dir())]
    assert {path.stat().st_mode & 0o777 for path in folders} == {0o755}


def test_second_message_replaces_the_first(blog):
    for number in range(4):
        proxy_maintenance.on(blog.site, f"message {number}", by="ada")
        assert f"message {number}" in page(blog.site)
    assert len([*blog.site.maintenance.iterdir()]) == 3  # the link, its folder, and that of the one before
    assert sites.known_maintenance(blog.site)["message"] == "message 3"


def test_maintenance_lasts_through_releases_and_is_removed_with_the_site(blog):
    proxy_maintenance.on(blog.site, by="ada")
    blog.push("two")
    blog.apply()
    operations.rollback("blog")
    assert sites.known_maintenance(blog.site)
    assert str(blog.site.maintenance) in removal.present(blog.site)
    removal.remove(blog.site, "a test")
    assert not blog.site.maintenance.exists()


@pytest.mark.parametrize(
    ("message", "end"),
    [
        ("back at 14:00", 2 * 3600),
        ("14:00", 2 * 3600),
        ("back at 9:30, we hope", 21.5 * 3600),
        ("12:00", 24 * 3600),
        ("from 13:00 to 14:00", 2 * 3600),
        ("11:30-12:30", 1800),
        ("from 23:00 to 1:00", 13 * 3600),
        ("2026-03-02 22:00 to 23:30", 35.5 * 3600),
        ("2026-03-02 22:00 until 1:00", 37 * 3600),
        ("back at 2:00 pm", 2 * 3600),
        ("until 12:30 a.m.", 12.5 * 3600),
        ("12:15 PM", 900),
        ("14:00 pmc", 2 * 3600),
        ("2026-03-02 12:30", 24.5 * 3600),
        ("until 2026-03-01T11:00", -3600),
        ("30m", 1800),
        ("for 2h or so", 7200),
        ("version 2.30 comes", None),
        ("25:00", None),
        ("2026-13-41 12:30", None),
        ("", None),
        ("99:99:99", None),
    ],
)
def test_time_or_duration_in_the_message_is_the_end(message, end):
    found = proxy_maintenance.until(message, NOON)
    assert found == (None if end is None else NOON + end)


def test_time_in_the_message_is_of_the_hosts_time_zone(monkeypatch):
    moment = 1772366400.0  # 2026-03-01 12:00 UTC
    for zone in ("Asia/Shanghai", "America/New_York"):
        monkeypatch.setenv("TZ", zone)
        time.tzset()
        assert proxy_maintenance.until("14:00 UTC", moment) == moment + 7200
        assert proxy_maintenance.until("2026-03-01T14:00Z", moment) == moment + 7200
    monkeypatch.undo()
    time.tzset()


def test_retry_after_is_the_end_of_maintenance(blog):
    proxy_maintenance.on(blog.site, "2026-03-01 14:00 UTC", by="ada")
    assert retry_after(blog.site) == "Sun, 01 Mar 2026 14:00:00 GMT"
    assert sites.known_maintenance(blog.site)["until"] == "2026-03-01T14:00:00Z"


def test_maintenance_refused_when_proxy_files_do_not_support_it(blog):
    nginx.PROXY.locations(blog.site).write_text("location / {}\n")
    with pytest.raises(DeploymentError, match="its files do not support maintenance"):
        proxy_maintenance.on(blog.site, by="ada")
    assert sites.known_maintenance(blog.site) is None


def test_maintenance_refused_without_a_proxy(make_site):
    with pytest.raises(DeploymentError, match="django:sites:blog:proxy:kind is none"):
        proxy_maintenance.on(make_site(proxy={"kind": "none"}), by="ada")


@pytest.mark.parametrize("torn", ["", "{", '{"since": "2026"', "\0" * 40, "[]"])
def test_maintenance_is_on_when_its_record_is_torn(blog, torn):
    proxy_maintenance.on(blog.site, "soon", by="ada")
    (blog.site.maintenance / "on/about.json").write_text(torn)
    assert sites.known_maintenance(blog.site) == dict.fromkeys(("since", "by", "message", "page"), "")
    assert proxy_maintenance.summary(blog.site) == "on"


def project_page(world, content="<p>ours: {{ message }}</p>"):
    """The live release has a page."""
    path = world.site.current.resolve() / "source/pages/down.html"
    path.parent.mkdir(exist_ok=True)
    path.write_text(content)
    world.options["maintenance"] = {"page": "pages/down.html"}
    return path


def test_page_of_the_project_is_shown_with_the_message(blog):
    project_page(blog)
    proxy_maintenance.on(blog.site, "<soon>", by="ada")
    assert page(blog.site) == "<p>ours: &lt;soon&gt;</p>"
    assert sites.known_maintenance(blog.site)["page"] == "pages/down.html"


@pytest.mark.parametrize("how", ["gone", "link", "folder is a link", "hard link", "folder", "fifo", "another's"])
def test_link_or_foreign_file_is_not_shown_as_page(blog, how, monkeypatch):
    path = project_page(blog)
    secret = blog.site.secrets / "TOKEN"
    secret.write_text("hunter2")
    path.unlink()
    if how == "link":
        path.symlink_to(secret)
    elif how == "folder is a link":
        path.parent.rmdir()
        path.parent.symlink_to(secret.parent)
        (secret.parent / path.name).write_text("hunter2")
    elif how == "hard link":
        os.link(secret, path)
    elif how == "folder":
        path.mkdir()
    elif how == "fifo":
        os.mkfifo(path)
    elif how == "another's":
        path.write_text("hunter2")
        monkeypatch.setattr(users, "user_id", lambda name: os.getuid() + 1)
    site = blog.site
    with pytest.raises(DeploymentError, match="django:sites:blog:maintenance:page: "):
        proxy_maintenance.refuse_missing_page(site, site.current.resolve(), ".")
    monkeypatch.setattr(os, "fchown", lambda *arguments: None)
    proxy_maintenance.on(site, "soon", by="ada")
    assert "hunter2" not in page(site) and "soon" in page(site)
    assert sites.known_maintenance(site)["page"] == "own"


def test_release_refused_when_the_page_is_missing(blog):
    live = blog.live
    blog.options["maintenance"] = {"page": "lost.html"}
    assert set(blog.apply()) == {"site"}
    blog.push("two")
    with pytest.raises(DeploymentError, match=r"settings: .*:maintenance:page: there is no file lost\.html") as error:
        blog.apply()
    assert blog.live == live and f"{live} still runs" in error.value.hint


def test_maintenance_is_switched_by_a_command(blog):
    assert operations.maintenance("blog", "", "") == {"maintenance": "off"}
    told = operations.maintenance("blog", "on", "30m", "salt job 7")
    assert (told["maintenance"], told["by"], told["message"]) == ("on", "salt job 7", "30m")
    assert operations.maintenance("blog", "", "") == told
    assert operations.maintenance("blog", "off", "") == {"maintenance": "off"}
    with pytest.raises(DeploymentError, match="maintenance is on or off, not 'of'"):
        operations.maintenance("blog", "of", "")


def test_locations_check_for_the_link_of_maintenance(blog):
    locations = nginx.PROXY.locations(blog.site).read_text()
    assert f"if (-f {blog.site.root}/maintenance/on/index.html) {{" in locations
    blog.options["maintenance"] = {"allow": ["10.0.0.0/8"]}
    assert set(blog.apply()) == {"site", "proxy"}
    locations = nginx.PROXY.locations(blog.site).read_text()
    allowed = nginx.shared_variable("allowed", "10.0.0.0/8")
    assert f"if (-f {blog.site.root}/maintenance/on/index.html${allowed}) {{" in locations
    upstream = Path(nginx.ETC / "conf.d/django-blog.conf").read_text()
    assert f"geo ${allowed} {{" in upstream and "    10.0.0.0/8 .seen;" in upstream
