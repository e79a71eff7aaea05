"""A site: its folders, its paths, its registration on the host, its templates."""

import contextlib
import json
import os
import socket
import threading

import pytest
import salt.utils.args
from django_formula.host import file
from django_formula.host import users as host_users
from django_formula.host.commands import DeploymentError
from django_formula.host.folders import Folder
from django_formula.site import sites
from django_formula.untrusted.foreign import Foreign
from specimen import configured


def test_folders_have_owner_group_and_mode():
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
        ("/srv/django/blog/runtime", "root:root 0755"),
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
def test_runtime_folder_is_owned_by_root_except_for_old_releases(make_site, recorded, owner):
    site = make_site()
    release = site.releases / "0042-3f2a9c1b77de"
    if recorded:
        (release / "config").mkdir(parents=True)
        recorded["address"] = recorded["address"].format(runtime=site.runtime)
        (release / "config/instance.json").write_text(json.dumps(recorded))
    mode = {"root": 0o751, "blog": 0o2750}[owner]
    assert site.runtime_folder(release) == Folder(site.runtime, owner, "www-data", mode)
    site.register()
    site.prepare_runtime(release)
    lines = [f"d {site.runtime} {mode:04o} {owner} www-data -"]
    if recorded and recorded["address"].endswith("/server.sock"):
        lines.append(f"d {site.runtime}/0042 2750 blog www-data -")
        assert (site.runtime / "0042").stat().st_mode & 0o7777 == 0o2750
    assert site.tmpfiles.read_text().splitlines() == lines
    assert site.runtime.stat().st_mode & 0o7777 == mode
    file.link(site.current, str(release))
    assert site.is_registered() and site.folders()[-1] == site.runtime_folder(release)


def test_entries_of_the_site_are_removed_from_the_runtime_folder(make_site, monkeypatch, tmp_path):
    if os.getuid():
        pytest.skip("needs root")
    site = make_site()
    monkeypatch.setattr(host_users, "user_id", lambda name: {"root": 0}.get(name, 65534))
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
    site.prepare_runtime(site.current)
    assert {path.name for path in site.runtime.iterdir()} == {"0042.sock", "0045"}
    assert (tmp_path / "precious").is_dir() and site.runtime.stat().st_uid == 0


@pytest.mark.parametrize(("path", "link"), [("a/link/b", True), ("a/link", False), ("a/link/b", False)])
def test_path_through_a_link_is_refused(own_host, path, link):
    (own_host / "a").mkdir()
    (own_host / "a/link").symlink_to(own_host)
    with pytest.raises(DeploymentError) as error:
        sites.inside(Foreign(own_host), path, "some:key", link=link)
    assert str(error.value) == f"some:key: {path} leads through the link a/link\nwrite the real path"
    assert sites.inside(Foreign(own_host), "a/link", "some:key") == Foreign(own_host) / "a/link"
    assert sites.inside(Foreign(own_host), "a/b", "some:key", link=False) == Foreign(own_host) / "a/b"


@pytest.mark.parametrize(
    ("users", "there"), [(["blog", "blog-build"], True), (["blog"], False), (["blog-build"], False)]
)
def test_site_has_users_if_both_exist(monkeypatch, users, there):
    monkeypatch.setattr(host_users, "user_id", lambda name: 0 if name in users else -2)
    assert configured().user_exists() is there


def test_sites_are_registered(make_site):
    blog, shop = make_site(), make_site("shop")
    assert sites.registered() == [] and not blog.is_registered()
    blog.register()
    shop.register()
    (sites.REGISTRY / ".wiki.new").symlink_to("/left/by/a/kill")
    assert blog.is_registered() and sites.registered() == ["blog", "shop"]
    assert blog.tmpfiles.read_text() == f"d {blog.runtime} 0751 root www-data -\n"
    blog.tmpfiles.write_text("")
    assert not blog.is_registered()


@pytest.mark.parametrize("written", ["no", "on", "yes", "off"])
def test_site_is_found_by_a_name_that_yaml_reads_as_another_value(make_site, written):
    """As of a site of Norway or Ontario: `salt-call django.release no`."""
    site = make_site(written)
    site.register()
    file.write_json(site.applied, {"config": site.config, "platform": site.platform})
    (given,), _named = salt.utils.args.parse_input([written], condition=False)
    assert isinstance(given, bool) and sites.find(given).name == written
    with pytest.raises(DeploymentError, match=f"there is no site '{not given}' on this host"):
        sites.find(not given)


def test_site_is_found_by_its_name(make_site):
    site = make_site(path="/blog")
    site.register()
    file.write_json(site.applied, {"config": site.config, "platform": site.platform})
    assert sites.find("blog").config == site.config
    for name in ("shop", "../blog", "", "blog/"):
        with pytest.raises(DeploymentError, match=r"there is no site '.*' on this host \(registered: blog\)"):
            sites.find(name)
    site.applied.write_text("{")
    with pytest.raises(DeploymentError, match="the applied configuration of blog, is missing or damaged"):
        sites.find("blog")


def test_templates_are_not_read_while_an_apply_writes_them(make_site, monkeypatch):
    """A timer would report that they differ from what the last apply has written."""

    def write(path, *arguments, **options):
        real(path, *arguments, **options)
        if not reader.ident:
            reader.start()
            reader.join(0.3)

    def read():
        with contextlib.suppress(DeploymentError):
            answers.append(site.kept_templates())

    site, real, answers, reader = make_site(), file.write, [], threading.Thread(target=read)
    before, after = ({"salt://a": text, "salt://b": text} for text in ("old", "new"))
    site.keep_templates(before)
    monkeypatch.setattr(file, "write", write)
    site.keep_templates(after)
    reader.join()
    assert answers == [after]


def test_templates_are_stored_by_their_url(make_site):
    site = make_site()
    templates = {"salt://django/files/uwsgi.ini": "one", "salt://blog/__init__.py.jinja": "two", "salt://a%2Fb": "3"}
    templates |= {f"salt://{'settings/' * 80}{name}": name for name in "ab"}
    assert site.stale_templates(templates) == sorted(templates)
    site.keep_templates(templates)
    (site.templates / ".torn.new").write_text("left by a kill")
    assert site.kept_templates() == templates and site.stale_templates(templates) == []
    site.kept_template("salt://a%2Fb").write_text("torn")
    with pytest.raises(DeploymentError, match="differs from what the last apply wrote"):
        site.kept_templates()
    del templates["salt://a%2Fb"]
    assert site.stale_templates(templates) == [str(site.template_sums)]
    site.keep_templates(templates)
    assert site.kept_templates() == templates and len([*site.templates.iterdir()]) == 5
