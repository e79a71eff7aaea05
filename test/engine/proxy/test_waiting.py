"""The relay of a site as files, and its way: closed, opened, and found open again after what closed it was killed."""

import multiprocessing
import os
import signal
import threading
import time
import types

import pytest
from django_formula.host import commands
from django_formula.host.commands import DeploymentError
from django_formula.proxy import relay, waiting
from django_formula.release import health, instances
from django_formula.site import sites
from django_formula.verbs import hold, operations, status

WAIT = {"wait": "20s"}


@pytest.fixture
def host(socket_host, monkeypatch):
    monkeypatch.setattr(waiting, "_PROGRAMS", socket_host.root / "etc/supervisor/conf.d")
    waiting._PROGRAMS.mkdir(parents=True, exist_ok=True)
    return socket_host


def applied(site):
    changes = waiting.pending(site)
    waiting.apply(site)
    assert waiting.pending(site) == {}
    return changes


def files(host):
    return sorted(path.name for path in host.root.rglob("*") if "relay" in path.name)


UNITS = ["django-blog-wait-relay.service", "django-blog-wait-relay.socket"]


def test_relay_is_made_once_and_removed_whole(host, make_site):
    site = make_site(releases=WAIT)
    assert applied(site)["user blog-wait"] == "new"
    assert files(host) == sorted([*UNITS, UNITS[1], "relay.pyz"])
    service = (host.root / "etc/systemd/system" / UNITS[0]).read_text()
    ends = f"{site.current} 20 {site.errors}/wait.html blog-wait {site.proxy_group}\n"
    assert f"{waiting.RELAY.program} {host.root}/run/django-wait/blog.sock {ends}" in service
    assert f"\nUser=blog-wait\nSupplementaryGroups={site.proxy_group}\n" in service
    host.calls.clear()
    waiting.apply(site)
    assert host.calls == []
    changed = make_site(releases={"wait": True})
    assert waiting.pending(changed) == {}, "true is 20s"
    assert [*applied(make_site(releases={"wait": "30s"}))] == [str(host.root / "etc/systemd/system" / UNITS[0])]
    gone = make_site()
    assert {*applied(gone).values()} == {"removed"} and files(host) == [] and host.users == {}


def test_relay_that_systemd_has_refused_is_begun_anew(host, make_site, monkeypatch):
    site = make_site(releases=WAIT)
    applied(site)
    changed, run = make_site(releases={"wait": "30s"}), commands.run

    def refuse(argv, **options):
        if argv[1] == "start":
            raise DeploymentError("it cannot")
        return run(argv, **options)

    for _ in range(2):
        with monkeypatch.context() as patched:
            patched.setattr(commands, "run", refuse)
            with pytest.raises(DeploymentError, match="it cannot"):
                waiting.apply(changed)
    assert applied(changed) == {UNITS[1]: "disabled"}


def test_a_site_without_the_option_asks_and_changes_nothing(host, make_site):
    site = make_site()
    assert waiting.pending(site) == {} and waiting.pages(site) == {} and waiting.status(site) == {}
    waiting.apply(site)
    waiting.remove(site)
    assert host.calls == []


def test_program_stays_for_another_site(host, make_site):
    applied(make_site(releases=WAIT))
    applied(make_site("shop", releases=WAIT))
    waiting.remove(make_site())
    assert waiting.RELAY.program.exists() and [*host.users] == ["shop-wait"]
    waiting.remove(make_site("shop"))
    assert files(host) == []


def test_user_of_another_is_not_taken(host, make_site):
    host.users["blog-wait"] = types.SimpleNamespace(pw_gecos="The user of a shop")
    with pytest.raises(DeploymentError, match="the user blog-wait exists on this host and does not belong"):
        waiting.apply(make_site(releases=WAIT))


def test_supervisor_runs_the_relay_where_there_is_no_systemd(host, make_site, monkeypatch):
    monkeypatch.setattr(waiting.daemons, "has_systemd", lambda: False)
    monkeypatch.setattr(waiting.daemons, "pid", lambda _daemon: 1)
    applied(make_site(releases=WAIT))
    assert files(host) == ["django-blog-wait-relay.conf", "relay.pyz"]
    assert host.calls[-1] == "supervisorctl update django-blog-wait-relay"
    host.calls.clear()
    applied(make_site())
    assert files(host) == [] and host.calls[0] == "supervisorctl update django-blog-wait-relay"


# The way


@pytest.fixture
def blog(host, make_site, monkeypatch):
    """A site whose active release nginx reaches by a link, with the relay behind it, and no connection is open."""
    site = make_site(releases=WAIT)
    release = site.releases / "0042-3f2a9c1b77de"
    release.mkdir(parents=True, exist_ok=True)
    (release / "socket").symlink_to("/run/django/blog/0042.sock")
    site.current.symlink_to(f"releases/{release.name}")
    waiting.RELAY.folder.mkdir(parents=True)
    live = types.SimpleNamespace(path=release, name=release.name)
    monkeypatch.setattr(waiting, "works", lambda *_arguments: True)
    monkeypatch.setattr(instances, "drain", lambda *_arguments: 0)
    monkeypatch.setattr(sites, "find", lambda _name: site)
    monkeypatch.setattr(status, "live_release", lambda _site: live)
    return types.SimpleNamespace(site=site, live=live, release=release)


def comes_true(condition):
    deadline = time.monotonic() + 30
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.05)


def link(blog):
    return os.readlink(blog.release / "socket")


def test_way_is_closed_and_opened(blog):
    hold_ = waiting.begin(blog.site, blog.live, "state.apply")
    assert link(blog) == str(waiting.socket(blog.site))
    assert os.readlink(blog.release / relay.HELD) == "/run/django/blog/0042.sock"
    assert relay.target(blog.site.current, link(blog)) == f"{blog.site.current}/held"
    assert waiting.closed(blog.site)["by"] == "state.apply" and waiting.status(blog.site)["hold"].endswith(
        "state.apply"
    )
    assert "way" not in waiting.pending(blog.site), "it is not left"
    hold_.end()
    hold_.end()
    assert link(blog) == "/run/django/blog/0042.sock" and not os.path.lexists(blog.release / relay.HELD)
    assert waiting.closed(blog.site) is None and waiting.status(blog.site) == {}


def test_a_lease_is_renewed_and_ends_without_its_process(blog, monkeypatch):
    monkeypatch.setattr(waiting, "_LEASE", 3.0)
    monkeypatch.setattr(waiting, "_RENEWED", 0.1)
    hold_ = waiting.begin(blog.site, blog.live, "state.apply")
    first = waiting.closed(blog.site)["until"]
    comes_true(lambda: waiting.closed(blog.site)["until"] > first)
    hold_._ended.set()  # as where it is killed
    hold_._renewal.join()
    comes_true(lambda: waiting.closed(blog.site) is None)
    assert link(blog) == str(waiting.socket(blog.site))
    assert waiting.pending(blog.site)["way"] == "opened"
    applied(blog.site)
    assert link(blog) == "/run/django/blog/0042.sock"


def test_what_is_closed_twice_is_opened_once(blog):
    waiting.close_way(blog.site, blog.release, "one", time.monotonic() + 5)
    waiting.close_way(blog.site, blog.release, "two", time.monotonic() + 5)
    waiting.open_way(blog.site)
    assert link(blog) == "/run/django/blog/0042.sock"


def test_way_is_opened_by_several_processes_at_once(blog):
    """A hold that is ended by a command meets the process that ends it in time."""
    failed = multiprocessing.Value("i", 0)

    def open_often():
        try:
            for _ in range(300):
                waiting.close_way(blog.site, blog.release, "one", time.monotonic() + 5)
                waiting.open_way(blog.site)
        except OSError:
            failed.value += 1

    processes = [multiprocessing.Process(target=open_often) for _ in range(3)]
    for process in processes:
        process.start()
    for process in processes:
        process.join()
    assert failed.value == 0
    waiting.open_way(blog.site)
    assert link(blog) == "/run/django/blog/0042.sock" and not os.path.lexists(blog.release / relay.HELD)


def test_way_is_opened_although_a_child_was_forked_while_it_was_moved(blog):
    """Such as one that asks a git server, while the thread of a hold renews its lease."""
    with waiting._moving(blog.site):
        child = os.fork()
        if not child:
            time.sleep(30)
            os._exit(0)
    opening = threading.Thread(target=waiting.open_way, args=(blog.site,))
    opening.start()
    opening.join(3)
    is_open = not opening.is_alive()
    os.kill(child, signal.SIGKILL)
    os.waitpid(child, 0)
    opening.join()
    assert is_open


def test_way_that_something_else_has_closed_since_stays_closed(blog):
    waiting.close_way(blog.site, blog.release, "state.apply", time.monotonic() + 5)
    for open_ in (lambda: waiting.open_way(blog.site, of="django.hold"), lambda: waiting.open_left(blog.site)):
        open_()
        assert link(blog) == str(waiting.socket(blog.site)) and waiting.closed(blog.site)["by"] == "state.apply"
    waiting.open_way(blog.site, of="state.apply")
    assert link(blog) == "/run/django/blog/0042.sock"


def test_deployment_leaves_requests_waiting_for_a_hold_that_has_begun_since(blog, monkeypatch):
    monkeypatch.setattr(waiting, "_RENEWED", 0.05)
    own = waiting.begin(blog.site, blog.live, "state.apply")
    waiting.close_way(blog.site, blog.release, "django.hold by root", time.monotonic() + 5)
    time.sleep(0.2)
    own.end()
    assert waiting.closed(blog.site)["by"] == "django.hold by root" and link(blog) == str(waiting.socket(blog.site))


@pytest.mark.parametrize("lasts", ["0", "21", "21s", "1m"])
def test_hold_for_longer_than_a_request_waits_is_refused(blog, lasts):
    with pytest.raises(DeploymentError, match="expected off, or at most 20 seconds"):
        hold.hold("blog", lasts)
    assert link(blog) == "/run/django/blog/0042.sock"


def test_hold_of_another_stays(blog):
    hold_ = waiting.begin(blog.site, blog.live, "state.apply by root")
    for lasts in ("", "off"):
        with pytest.raises(DeploymentError, match=r"requests for blog wait already, since .*, for state.apply by root"):
            hold.hold("blog", lasts)
    hold_.end()


def test_hold_ends_by_a_command(blog, monkeypatch):
    monkeypatch.setattr(hold, "_open_in_time", lambda _site: None)
    assert hold.hold("blog", "5", "django.hold by root")["requests"] == "wait for 5 s from now"
    assert waiting.closed(blog.site)["by"] == "django.hold by root"
    assert hold.hold("blog")["requests"] == "wait for 20 s from now", "it may be extended"
    assert hold.hold("blog", "off") == {"requests": "reach blog"} and link(blog) == "/run/django/blog/0042.sock"


def test_hold_ends_by_itself(blog):
    hold.hold("blog", "2s", "django.hold by root")
    assert link(blog) == str(waiting.socket(blog.site))
    comes_true(lambda: link(blog) == "/run/django/blog/0042.sock")


def test_hold_that_runs_makes_nothing_again_of_a_site_that_was_removed(blog):
    hold.hold("blog", "20", "django.hold by root")
    waiting.remove(blog.site)
    assert not waiting.RELAY.folder.exists()
    time.sleep(0.5)
    assert not waiting.RELAY.folder.exists()


def test_requests_that_do_not_end_are_not_cut(blog, monkeypatch):
    monkeypatch.setattr(hold, "_open_in_time", lambda _site: None)
    monkeypatch.setattr(instances, "drain", lambda *_arguments: 3)
    with pytest.raises(DeploymentError, match="3 requests to blog did not end within 5 s, so that none wait"):
        hold.hold("blog", "5", "django.hold")
    assert link(blog) == "/run/django/blog/0042.sock" and waiting.closed(blog.site) is None


def test_hold_waits_no_longer_than_requests_do(blog, monkeypatch):
    """Its time is over then, and it would say that requests wait for seconds that are past."""
    monkeypatch.setattr(hold, "_open_in_time", lambda _site: None)
    monkeypatch.setattr(instances, "drain", lambda _site, _release, most: time.sleep(most) or 0)
    with pytest.raises(DeploymentError, match="the last requests to blog did not end within 1 s, so that none wait"):
        hold.hold("blog", "1", "django.hold")
    assert link(blog) == "/run/django/blog/0042.sock" and waiting.closed(blog.site) is None


def test_sites_of_a_database_that_restarts_answer_what_they_have_at_the_same_time(host, make_site, monkeypatch):
    """A stream of one would have the visitors of all others wait until they get an error."""
    chosen, meeting, seen = [], threading.Barrier(2, timeout=30), []
    for name, wait in (("blog", "20s"), ("shop", "12s")):
        site = make_site(name, releases={"wait": wait})
        release = site.releases / "0042-3f2a9c1b77de"
        release.mkdir(parents=True)
        (release / "socket").symlink_to(f"/run/django/{name}/0042.sock")
        chosen.append((site, types.SimpleNamespace(path=release, name=release.name)))

    def drain(site, _release, most=None):
        meeting.wait()
        seen.append((most, [waiting.closed(one) is not None for one, _live in chosen]))
        return 1

    monkeypatch.setattr(instances, "drain", drain)
    monkeypatch.setattr(waiting, "_with_databases", lambda _engine: iter(chosen))
    monkeypatch.setattr(waiting, "works", lambda *_arguments: True)
    with waiting.around_restart("postgres"):
        assert seen == [(6, [True, True])] * 2, "half of the shortest time that requests wait"
    assert [waiting.closed(one) for one, _live in chosen] == [None, None]


def test_hold_is_refused_without_the_option(blog, make_site):
    with pytest.raises(DeploymentError, match="requests for blog do not wait: its pillar has no releases:wait"):
        waiting.refuse_impossible(make_site(), blog.live)


# What closes the way


@pytest.fixture
def one(world, monkeypatch):
    """A site that is released once, without overlap, whose requests wait; the relay itself is left out."""
    monkeypatch.setattr(waiting, "pending", lambda _site: {})
    monkeypatch.setattr(waiting, "unix_sockets", types.SimpleNamespace(connections=lambda _path: 0))
    world.options = {"releases": {"overlap": False, "wait": "20s"}}
    world.apply()
    world.push("two")
    return world


@pytest.fixture
def paused(one, monkeypatch):
    """Where the link of the release led when it was stopped."""
    found, pause = [], instances.pause
    monkeypatch.setattr(
        instances, "pause", lambda site, path: (found.append(os.readlink(path / "socket")), pause(site, path))
    )
    return found


def test_way_is_closed_before_the_old_instance_is_stopped_and_opened_by_the_switch(one, paused):
    first = one.site.current.resolve()
    before = os.readlink(first / "socket")
    assert one.apply(test=True)["source"]["gapless"].startswith("yes, their requests wait: ")
    one.apply()
    assert paused == [str(waiting.socket(one.site))]
    assert one.last.warnings[-1].startswith("requests waited for 0.")
    assert os.readlink(first / "socket") == before and waiting.closed(one.site) is None
    assert f"{one.site.errors}/wait.html" in map(str, one.site.errors.iterdir())
    operations.rollback("blog")
    assert len(paused) == 2 and one.site.current.resolve() == first
    one.check()


def test_way_is_opened_where_the_new_instance_fails(one, paused, monkeypatch):
    live = one.site.current.resolve()
    before = os.readlink(live / "socket")

    def fail(*_arguments):
        raise DeploymentError("returned 500")

    monkeypatch.setattr(health, "check", fail)
    with pytest.raises(DeploymentError, match="returned 500"):
        one.apply()
    assert paused == [str(waiting.socket(one.site))]
    assert os.readlink(live / "socket") == before and waiting.closed(one.site) is None
    one.check()


def test_without_a_relay_in_the_files_of_nginx_visitors_get_errors(world, monkeypatch):
    monkeypatch.setattr(waiting, "pending", lambda _site: {})
    world.options = {"releases": {"overlap": False}}
    world.apply()
    world.options = {"releases": {"overlap": False, "wait": "20s"}}
    world.push("two")
    world.apply()
    assert world.last.warnings[-1].startswith("the site did not answer for 0.")


def test_databases_on_this_host_are_those_of_the_engine(one, monkeypatch):
    monkeypatch.setattr(instances, "drain", lambda *_arguments: 0)
    options = {"manage": False, "password": "x"}
    for database, is_held in (
        ({"engine": "postgres"}, True),
        ({"engine": "postgres", "host": "127.0.0.1", **options}, True),
        ({"engine": "postgres", "host": "db1.example.org", **options}, False),
        ({"engine": "mysql"}, False),
    ):
        site = one.make_site(folders=False, database=database, **one.options)
        monkeypatch.setattr(waiting.sites, "find", lambda _name, site=site: site)
        with waiting.around_restart("postgres"):
            assert (waiting.closed(site) is not None) is is_held, database
        assert waiting.closed(site) is None
