"""Before the switch, during it and after: what a release is refused for, what is cut, and its automatic undo."""

import re
import time

import pytest
from client import Load
from faults import provoked
from sites import Site, lines, release_of, version

#: A server that ends some seconds after it has started.
ENDS = """
import os, sys, threading
if "uwsgi" in sys.modules:
    threading.Timer(12, os._exit, [3]).start()
"""
DISK = "size=1g,nr_inodes=60000"
#: Commands that leave too little of the site's disk.
FILLS = {
    "size": "fallocate -l $(($(df -k --output=avail /srv/django | tail -1) - 12))k /srv/django/full",
    "nr_inodes": "mkdir /srv/django/full && cd /srv/django/full && "
    "seq $(($(df --output=iavail /srv/django | tail -1) - 2)) | xargs touch",
}
#: A page that takes longer than any deployment.
SLOW = """
def slow(request):
    time.sleep(300)
    return HttpResponse("late")
"""
BAD_DROP_IN = "[Service]\nUser=no-such-user\n"


@pytest.fixture(scope="module")
def blog(module_hosts, repositories) -> Site:
    """A site on a disk of its own, which a test can make smaller."""
    host = module_hosts(kind="ready")
    host.run(["mkdir", "-p", "/srv/django"])
    host.mount("-t", "tmpfs", "-o", f"{DISK},mode=755", "tmpfs", "/srv/django")
    blog = Site(host, repositories(host))
    blog.deploy()
    return blog


@pytest.fixture
def good(blog) -> Site:
    """The site with a good release live, whatever the test before has left."""
    blog.make_good(releases=None, commands=None, server=None, media=None)
    return blog


def load(blog: Site, **options: object) -> Load:
    return Load(f"http://{blog.host.address}/release", blog.domain, release=release_of, **options)  # type: ignore[arg-type]


@pytest.mark.full
def test_a_server_that_ends_within_the_watch_brings_the_release_before_back(good):
    old = good.live
    good.repository.append("website/wsgi.py", ENDS)
    with load(good, connections=4, pause=0.08) as requests:
        applied = good.apply(releases={"watch": "30s"})
    comment = applied.failed["blog is live"]
    assert re.search(rf"(exited after the switch|failed after the switch; .*); {old} is live again", comment), comment
    assert lines(comment) <= 10
    assert len(requests.failed) <= 4, "no more than were under way when it ended"
    assert good.live == good.answering["release"] == old
    assert good.units == [f"{good.unit}.service", f"{good.unit}.socket"]


@pytest.mark.full
def test_what_is_longer_than_the_drain_is_cut_and_counted(good):
    good.repository.append("guestbook/views.py", SLOW)
    good.deploy(server={"kind": "uwsgi", "options": {"harakiri": 600}})
    good.repository.commit(version("2.2"))
    url = f"http://{good.host.address}/slow"
    with Load(url, good.domain, connections=1, requests=1, release=release_of, timeout=400) as slow:
        while not good.host.run(["ss", "-xH", "state", "connected", "src", "*.sock"], check=False).stdout:
            pass
        began = time.monotonic()
        applied = good.deploy(releases={"drain": "2s"})
        slow.threads[0].join(60)
        assert not slow.threads[0].is_alive() and time.monotonic() - began < 250, "it was cut"
    assert len(slow.failed) == 1
    assert applied["blog is live"].changes["receipt"]["cut"] == good.last_attempt["receipt"]["cut"] == 1
    assert "1 connections were still open after 2s, and were cut." in applied.warnings["blog is live"]
    assert good.units == [f"{good.unit}.service", f"{good.unit}.socket"]


@pytest.mark.full
@pytest.mark.parametrize(("lack", "flag"), [("size", "-h"), ("nr_inodes", "-i")])
def test_a_disk_that_is_too_small_is_refused_before_anything(good, lack, flag):
    taken = "df --output=used -k /srv/django" if lack == "size" else "df --output=iused /srv/django"
    used = int(good.host.run(f"{taken} | tail -1").stdout)
    limit = f"size={used + 300}k" if lack == "size" else f"nr_inodes={used + 60}"
    live, releases = good.live, good.releases
    good.repository.commit(version("2.3", lack))
    good.host.mount("-o", f"remount,{limit}", "/srv/django")
    try:
        applied, plan = good.apply(), good.apply(test=True)
    finally:
        good.host.mount("-o", f"remount,{DISK}", "/srv/django")
    comment = applied.failed["blog has its source"]
    assert "two releases like the last one take" in comment and f"df {flag} /srv/django/blog" in comment
    assert f"{live} still runs" in comment and lines(comment) <= 10
    assert "two releases like the last one take" in plan["blog has its source"].changes["refused"]
    assert good.releases == releases and good.live == good.answering["release"] == live
    good.deploy()
    assert good.answering["version"] == "2.3"


@pytest.mark.full
@pytest.mark.parametrize("lack", ["size", "nr_inodes"])
@pytest.mark.parametrize("step", ["static", "virtualenv", "build", "settings"])
def test_a_disk_that_fills_up_within_a_deployment(good, step, lack):
    old = good.live
    good.repository.commit(version("2.5", f"{step} {lack}"))
    try:
        done = good.host.apply(environment=provoked(good.host, step, "first", FILLS[lack]))
        assert done.returncode and len(done.failed) > 1
        comment = next(iter(done.failed.values()))
        assert good.live == good.answering["release"] == old
    finally:
        good.host.run(["rm", "-rf", "/srv/django/full"])
    assert f"df -{'h' if lack == 'size' else 'i'} {good.root}: " in comment and f"{old} still runs" in comment
    assert lines(comment) <= 10, comment
    good.deploy()
    assert good.answering["version"] == "2.5" and not good.apply().changed
    assert [name for name in good.releases if good.record(name)["state"] == "building"] == []


@pytest.mark.full
def test_a_neighbour_that_breaks_nginx_is_named_before_the_build(good):
    broken = "/etc/nginx/conf.d/other.conf"
    old, releases = good.live, good.releases
    good.repository.commit(version("2.4"))
    good.host.write(broken, "retrun 200;\n")
    refused = good.apply(server={"bind": "127.0.0.1:8001"})
    assert f"{broken}:1" in refused.failed["blog has its source"], "its switch would have to reload nginx"
    assert good.releases == releases and good.live == old

    applied = good.apply(server=None, media={"max_upload": "3M"})
    (warning,) = applied["blog has its source"].changes["warnings"]
    assert f"{broken}:1" in warning and "is activated without a reload" in warning
    assert next(iter(applied.failed)) == "blog is served" and f"{broken}:1" in applied.failed["blog is served"]
    assert good.live != old and good.answering["version"] == "2.4", "a switch by rename needs no reload"
    good.host.run(["rm", broken])
    assert good.deploy().changed.keys() == {"blog is served"}


@pytest.mark.full
def test_a_rollback_to_a_release_on_the_port_of_the_active_one(good):
    """Releases alternate between two ports, so that every second one has the same: that is stopped first."""
    good.deploy(server={"kind": "uwsgi", "bind": "127.0.0.1:8101"})
    first = good.live
    for number in ("2.6", "2.7"):
        good.repository.commit(version(number))
        good.deploy()
    active = good.live
    with load(good, connections=2, pause=0.05) as requests:
        requests.wait(20)
        said = good.host.call("django.rollback", "blog", first)
        requests.wait(20)
    assert good.live == good.answering["release"] == first and requests.releases == [active, first]
    assert "both releases listen on the same port" in str(said)
    assert {answer.status for answer in requests.failed} <= {502, 503}
    assert not good.apply().changed and good.live == first
    good.host.call("django.rollback", "blog", active)
    assert good.live == good.answering["release"] == active


@pytest.mark.full
def test_a_unit_that_cannot_start_says_why(good):
    live = good.live
    drop_in = f"/etc/systemd/system/django-blog-{int(live.split('-')[0]) + 1:04}.service.d"
    good.host.write(f"{drop_in}/bad.conf", BAD_DROP_IN)
    good.repository.commit(version("2.5"))
    comment = good.apply().failed["blog has its instance"]
    good.host.run(["rm", "-r", drop_in])
    assert "does not start" in comment and re.search("217/USER|Failed (to determine user|at step USER)", comment), (
        comment
    )
    assert lines(comment) <= 10 and good.live == good.answering["release"] == live
    good.host.call("django.release", "blog")
    assert good.answering["version"] == "2.5"


@pytest.mark.full
def test_command_that_fails_after_the_switch_fails_the_apply_and_keeps_the_release(good):
    old = good.live
    good.repository.commit(version("2.6"))
    applied = good.apply(commands={"after_switch": ["manage.py no_such_command"]})
    assert list(applied.failed) == ["blog is recorded"]
    assert "no_such_command" in applied.failed["blog is recorded"]
    assert good.live != old and good.answering["version"] == "2.6"
    assert "no_such_command" in good.record()["error"]
