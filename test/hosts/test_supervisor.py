"""A site that supervisor keeps: on a host without systemd, and on one with it there and back."""

import time

import pytest
from client import Load
from lab import busy
from products import shortened
from sites import AFTER_RESTART, Site, lines, ownership, release_of, version

CANARY = "canary-of-the-api-key"


@pytest.fixture(scope="module")
def blog(module_hosts, repositories) -> Site:
    """A site on a container whose /run is empty after each restart."""
    host = module_hosts(kind="ready", init=False, command=AFTER_RESTART, options=["--tmpfs=/run"])
    return Site(host, repositories(host), secrets={"API_KEY": CANARY})


def load(blog: Site, **options: object) -> Load:
    return Load(f"http://{blog.host.address}/release", blog.domain, release=release_of, **options)  # type: ignore[arg-type]


def programs(blog: Site) -> list[str]:
    """The programs that supervisor has of the site, and what they do."""
    listed = blog.host.run(["supervisorctl", "status"], check=False).stdout.splitlines()
    return [" ".join(line.split()[:2]) for line in listed if line.startswith(f"django-{blog.name}-")]


def test_first_apply_serves(blog):
    blog.host.run("rm -f /etc/nginx/sites-enabled/default")
    applied = blog.deploy()
    assert blog.answering["release"] == blog.live
    assert {"supervisor is installed", "supervisor runs", "blog is live"} <= applied.changed.keys()
    assert "supervisor has no sandbox" in str(applied.warnings["blog has its source"])
    assert programs(blog) == [f"{blog.unit} RUNNING"]
    number = blog.live[:4]
    expected = {".": "blog:www-data 2750", "server.sock": "blog:www-data 660"}
    assert ownership(blog.host, f"{blog.root}/runtime/{number}.sockets") == expected


def test_second_apply_changes_nothing(blog):
    applied = blog.deploy()
    assert not applied.changed and not applied.warnings
    assert blog.apply(test=True).changed == {}


def test_process_has_its_user_and_environment_only(blog):
    pid = blog.host.read(f"{blog.run}/pid").strip()
    status = dict(line.split(":", 1) for line in blog.host.read(f"/proc/{pid}/status").splitlines())
    assert status["NoNewPrivs"].strip() == "1"
    user = blog.host.testinfra.user("blog")
    assert status["Uid"].split() == [str(user.uid)] * 4 and status["CapEff"].strip("\t0") == ""
    names = {
        pair.split("=")[0]
        for pair in blog.host.run(["cat", f"/proc/{pid}/environ"], user="blog").stdout.split("\0")
        if pair
    }
    assert {"API_KEY", "DJANGO_RELEASE", "HOME", "USER"} <= names
    assert not {name for name in names if name.startswith("SUPERVISOR") or name in ("container", "PIP_CERT")}
    files = f"/etc/supervisor/conf.d/* {blog.root}/releases/*/config/* {blog.root}/log/* /var/log/supervisor/*"
    pattern = f"{CANARY[:-1]}[{CANARY[-1]}]"  # not the command that looks for it
    told = blog.host.run(f"cat /proc/*/cmdline {files} 2>/dev/null | grep -ac {pattern}", check=False)
    assert told.stdout.strip() == "0"


@pytest.mark.full
def test_execution_functions_work(blog):
    (status,) = blog.host.call("django.status", "blog")
    assert status["running"] is True and status["release"] == blog.live
    program = 'import os, pwd; print(pwd.getpwuid(os.getuid()).pw_name, len(os.environ["API_KEY"]), os.getcwd())'
    source = f"{blog.root}/releases/{blog.live}/source"
    assert blog.manage(f"shell -c '{program}'").split()[-3:] == ["blog", str(len(CANARY)), source]
    blog.get("/slow?seconds=0")
    assert "WSGI app 0" in blog.host.call("django.logs", "blog", "500")
    assert len(blog.host.call("django.logs", "blog", "3").splitlines()) == 3
    assert "password_file" in blog.host.call("django.superuser", "blog")


def test_release_loses_no_request(blog):
    old, program = blog.live, blog.unit
    blog.repository.commit(version("2.0"))
    with load(blog, connections=4, pause=0.08) as requests:
        requests.wait(200)
        blog.deploy()
        requests.wait(200)
    assert requests.failed == [] and requests.went_back == []
    assert requests.releases == [old, blog.live]
    assert programs(blog) == [f"{blog.unit} RUNNING"] and blog.unit != program
    assert not blog.apply().changed


@pytest.mark.full
def test_rollback_loses_no_request(blog):
    blog.repository.commit(version("2.1"))
    blog.deploy()
    left = blog.live
    with load(blog, connections=4, pause=0.05) as requests:
        back = blog.host.call("django.rollback", "blog")["release"]
        requests.wait(20)
    assert requests.failed == [] and requests.releases == [left, back]
    assert programs(blog) == [f"{blog.unit} RUNNING"]
    assert not blog.apply().changed


@pytest.mark.full
def test_previous_release_serves_when_server_of_new_one_exits(blog):
    old = blog.live
    break_server(blog)
    with load(blog, connections=2, pause=0.1) as requests:
        applied = blog.apply()
    assert requests.failed == [] and requests.releases == [old]
    comment = applied.failed["blog has its instance"]
    assert "out of ink" in comment and f"{old} still runs" in comment and lines(comment) <= 10
    assert programs(blog) == [f"{blog.unit} RUNNING"]
    mend_server(blog)
    blog.deploy()


def break_server(blog: Site) -> None:
    """A commit that can be imported, but not by the server."""
    wsgi = blog.repository.read("website/wsgi.py")
    dies = "import sys\nif 'uwsgi' in sys.modules: raise SystemExit('out of ink')\n"
    blog.repository.commit({"website/wsgi.py": dies + wsgi})


def mend_server(blog: Site) -> None:
    blog.repository.git("revert", "--no-edit", "HEAD")
    blog.repository.push()


def test_killed_server_is_restarted(blog):
    live = blog.live
    killed = blog.host.read(f"{blog.run}/pid").strip()
    blog.host.run(["kill", "-KILL", killed])
    assert comes_back(blog, killed) == live
    assert not blog.apply().changed


def comes_back(blog: Site, killed: str = "") -> str:
    """The release that serves, and not by the workers that outlive a killed process for a moment."""
    limit = time.monotonic() + 300
    while True:
        try:
            answering = blog.answering["release"]
            assert blog.host.read(f"{blog.run}/pid").strip() != killed
            return str(answering)
        except (AssertionError, OSError):
            if time.monotonic() > limit:
                raise
            time.sleep(0.1)


@pytest.mark.full
def test_log_is_written_again_after_it_was_moved_away(blog):
    live = blog.live
    blog.host.run(f"mv {blog.root}/log {blog.root}/log.1")
    assert blog.answering["release"] == live
    killed = blog.host.read(f"{blog.run}/pid").strip()
    blog.host.run(["kill", "-KILL", killed])
    assert comes_back(blog, killed) == live
    assert blog.deploy().changed.keys() <= {"blog has its directories", "blog has its instance"}
    blog.repository.commit(version("2.3"))
    blog.deploy()
    assert blog.answering["version"] == "2.3"
    assert {f"{live[:4]}.log", f"{blog.live[:4]}.log"} <= {*blog.host.run(["ls", f"{blog.root}/log"]).stdout.split()}
    blog.host.run(["rm", "-r", f"{blog.root}/log.1"])
    assert not blog.apply().changed


@pytest.mark.full
def test_apply_starts_what_was_stopped(blog):
    live = blog.live
    blog.host.run(["supervisorctl", "stop", blog.unit])
    assert blog.get().status_code == 502
    assert blog.deploy().changed.keys() == {"blog has its instance"}
    assert blog.answering["release"] == live
    blog.host.run("kill -KILL $(cat /run/supervisord.pid); nginx -s stop")
    again = blog.deploy().changed.keys()
    assert {"supervisor runs", "nginx runs"} <= again <= {"supervisor runs", "nginx runs", "blog has its instance"}
    alive = blog.host.run("ps -u blog -o stat=,ppid= | grep -v ^Z").stdout.split()[1::2]
    assert "1" not in alive, "no server has outlived the old supervisor"
    assert blog.answering["release"] == live
    assert not blog.apply().changed


HOSTILE = {
    "a fifo": "rm -f pid stats.sock; mkfifo pid stats.sock",
    "no end": "rm -f pid stats.sock; ln -s /dev/zero pid; ln -s /dev/zero stats.sock",
    "another process": "echo 1 >pid",
}


@pytest.mark.full
@pytest.mark.parametrize("what", shortened(HOSTILE, "no end"))
def test_files_that_site_puts_in_its_folder_block_nothing(blog, what):
    live = blog.live
    blog.host.run(["sh", "-c", f"cd {blog.run} && {HOSTILE[what]}"], user="blog")
    began = time.monotonic()
    assert not blog.apply().changed
    (status,) = blog.host.call("django.status", "blog")
    assert status["running"] is True and time.monotonic() - began < 100 * busy()
    log = f"{blog.root}/log/{live[:4]}.log"
    blog.host.run(["sh", "-c", f"mv {log} {log}.2; mkfifo {log}"], user="blog")
    began = time.monotonic()
    blog.host.call("django.logs", "blog", "3")
    assert time.monotonic() - began < 100 * busy()
    blog.host.run(["sh", "-c", f"rm {log}; mv {log}.2 {log}"], user="blog")
    blog.host.run(["supervisorctl", "restart", blog.unit])
    assert comes_back(blog) == live


GONE = ("{run}.sockets/*", "{run}", "/run/django {run}*")


@pytest.mark.full
@pytest.mark.parametrize("gone", GONE)
def test_apply_restores_what_was_deleted_in_run(blog, gone):
    live = blog.live
    time.sleep(3)  # what supervisor has just begun is waited for
    blog.host.run(f"rm -rf {gone.format(run=blog.run)}")
    began = time.monotonic()
    assert "blog has its instance" in blog.deploy().changed
    assert blog.answering["release"] == live and time.monotonic() - began < 60 * busy()
    assert not blog.apply().changed


@pytest.mark.full
def test_without_overlap_previous_release_is_restarted_when_new_one_fails(blog):
    blog.repository.commit(version("2.5"))
    applied = blog.deploy(releases={"overlap": False})
    assert "the site did not answer for " in str(applied.warnings["blog is live"])
    assert blog.answering["version"] == "2.5" and programs(blog) == [f"{blog.unit} RUNNING"]
    live = blog.live
    break_server(blog)
    comment = blog.apply().failed["blog has its instance"]
    assert "out of ink" in comment and f"{live} runs again" in comment
    assert blog.answering["release"] == live and programs(blog) == [f"{blog.unit} RUNNING"]
    mend_server(blog)
    blog.deploy(releases=None)


def test_site_serves_after_restart_of_container(blog):
    live = blog.live
    blog.host.restart()
    blog.host.run("until supervisorctl pid >/dev/null; do sleep 0.1; done", timeout=300)  # the container starts it
    assert "blog has its instance" not in blog.apply().changed, "what comes up by itself is waited for"
    assert comes_back(blog) == live
    assert not blog.apply().changed


@pytest.mark.full
def test_program_that_fails_as_root_is_reported_at_once(blog):
    blog.host.run(["supervisorctl", "stop", blog.unit])
    blog.host.run("mv /usr/bin/install /usr/bin/install.away")
    began = time.monotonic()
    comment = blog.host.apply().failed["blog has its instance"]
    blog.host.run("mv /usr/bin/install.away /usr/bin/install")
    assert "install: not found" in comment and time.monotonic() - began < 60 * busy()
    blog.deploy()


@pytest.mark.full
def test_port_instead_of_socket(blog):
    blog.deploy(server={"bind": "127.0.0.1:8001", "protocol": "http"})
    old = blog.live
    blog.repository.commit(version("3.0"))
    with load(blog, connections=4, pause=0.08) as requests:
        requests.wait(50)
        blog.deploy()
        requests.wait(50)
    assert requests.failed == [] and requests.releases == [old, blog.live]


def test_removal_leaves_only_the_data(blog):
    applied = blog.deploy(state="absent")
    assert "blog is absent" in applied.changed
    assert programs(blog) == []
    left = blog.host.run("find /run /etc /var/log -xdev -name '*blog*'", check=False)
    assert left.stdout == ""
    assert blog.host.run(["pgrep", "--euid", "blog"], check=False).stdout == ""
    assert blog.host.testinfra.file(f"{blog.root}/database/db.sqlite3").is_file


# With systemd as PID 1


@pytest.mark.full
def test_change_from_systemd_to_supervisor_and_back(hosts, repositories):
    host = hosts(kind="ready")
    shop = Site(host, repositories(host), name="shop")
    shop.deploy()
    served = [shop.live]
    with load(shop, connections=8, pause=0.08) as requests:
        requests.wait(100)
        for process in ("supervisor", "systemd"):
            shop.process = process
            shop.deploy()
            served.append(shop.live)
            requests.wait(100)
            assert not shop.apply().changed
            assert (programs(shop) == [f"{shop.unit} RUNNING"]) is (process == "supervisor")
            assert bool(shop.units) is (process == "systemd")
        host.call("django.rollback", "shop")
        requests.wait(100)
    assert requests.failed == [] and requests.releases == served
    assert shop.live == served[1] and shop.units == [] and not shop.apply().changed
    host.restart()
    assert comes_back(shop) == served[1]
