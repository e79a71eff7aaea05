"""What a running site has in /run and its folder: whose it is, what a hostile site puts there, what comes back."""

import time

import pytest
from conftest import live_site
from lab import MACHINE, Needs
from products import shortened
from sites import Site, ownership, version

pytestmark = pytest.mark.full


NEEDS = Needs(MACHINE, "a folder is mounted in which no link is followed")

#: What a site puts in place of its own files in /run: nothing of it may keep root waiting, or be read without an end.
HOSTILE = {
    "a fifo": "rm -f pid ready stats.sock; mkfifo pid ready stats.sock",
    "no end": "rm -f pid ready stats.sock; ln -s /dev/zero pid; ln -s /dev/zero ready; ln -s /dev/zero stats.sock",
    "another socket": "rm -f pid stats.sock; echo 1 >pid; ln -s /run/systemd/private stats.sock",
    "an endless stream": """rm -f stats.sock; cat >/tmp/stream.py <<'PY'
import os, socket, sys
listener = socket.socket(socket.AF_UNIX)
listener.bind("stats.sock")
listener.listen()
if os.fork():
    os._exit(0)
os.setsid()
null = os.open("/dev/null", os.O_RDWR)
for number in range(3):
    os.dup2(null, number)
while True:
    connection, _address = listener.accept()
    try:
        while True:
            connection.sendall(b"x" * 65536)
    except OSError:
        pass
PY
python3 /tmp/stream.py""",
}


@pytest.fixture(scope="module")
def blog(module_hosts, repositories) -> Site:
    return live_site(module_hosts, repositories)


#: The socket of another site, to which nginx may connect.
ANOTHER = """
import socket
listener = socket.socket(socket.AF_UNIX)
listener.bind("/run/another.sock")
__import__("os").chmod("/run/another.sock", 0o666)
listener.listen()
while True:
    connection, _address = listener.accept()
    connection.recv(65536)
    connection.sendall(b"HTTP/1.1 200 OK\\r\\nContent-Length: 5\\r\\n\\r\\nother")
    connection.close()
"""


def as_site(blog: Site, command: str, **options):
    return blog.host.run(["runuser", "-u", blog.name, "--", "sh", "-c", command], **options)


def test_the_folder_in_which_systemd_makes_sockets_is_roots(blog):
    """A link that waits there for the next socket would be given to the site, with what it leads to."""
    own = ownership(blog.host, "/run/django/blog", 2)
    assert own == {".": "root:www-data 751", f"{blog.live[:4]}.sock": "blog:www-data 660"}
    tried = as_site(
        blog, "ln -s /root/canary /run/django/blog/0002.sock; mv /run/django/blog /run/django/x", check=False
    )
    assert tried.stderr.count("Permission denied") == 2
    blog.host.run("touch /root/canary")
    blog.repository.commit(version("2.0"))
    blog.deploy()
    assert blog.host.run("stat -c %U /root/canary").stdout == "root\n"


@pytest.mark.parametrize("what", shortened(HOSTILE, "an endless stream"))
def test_entries_in_the_folder_of_a_site_delay_no_verb(blog, what):
    as_site(blog, f"cd {blog.run} && {HOSTILE[what]}")
    pid = blog.host.run(["systemctl", "show", "--value", "--property=MainPID", blog.unit]).stdout.strip()
    measured = "bash -c 'ulimit -v 4000000; exec \"$@\"' x"
    for command in ("state.apply django", f"django.status {blog.name}", f"django.releases {blog.name}"):
        argv = f"/usr/bin/env timeout 60 {measured} salt-call --local --out=json {command}"
        done = blog.host.run(argv, check=False, timeout=90)
        assert done.returncode == 0, (command, done.stdout[-2000:], done.stderr[-2000:])
        assert "started" not in done.stdout
    (status,) = blog.host.call("django.status", blog.name)
    assert status["running"] is True and status["server"] == "uwsgi"
    assert blog.host.run(["systemctl", "show", "--value", "--property=MainPID", blog.unit]).stdout.strip() == pid
    blog.host.run("pkill -u blog -f /tmp/stream.py; rm -f /tmp/stream.py", check=False)
    blog.host.run(["systemctl", "restart", blog.unit])


GONE = ("/run/django", "/run/django/blog/*.sock", "{run}", "/run/django {run}")


@pytest.mark.parametrize("gone", shortened(GONE, "/run/django/blog/*.sock", "/run/django {run}"))
@pytest.mark.parametrize("dead", [pytest.param(False, marks=pytest.mark.full), True])
def test_what_is_deleted_from_run_comes_back_by_an_apply(blog, gone, dead):
    live = blog.live
    blog.host.run(f"rm -rf {gone.format(run=blog.run)}")
    if dead:
        blog.host.run(["systemctl", "stop", f"{blog.unit}.service"])
    if "/run/django" in gone:
        assert blog.get().status_code in (502, 503)
    (status,) = blog.host.call("django.status", blog.name)
    assert status["running"] is False
    assert "blog has its instance" in blog.deploy().changed
    assert blog.answering["release"] == live
    assert not blog.apply().changed
    own = ownership(blog.host, "/run/django/blog", 2)
    assert own == {".": "root:www-data 751", f"{live[:4]}.sock": "blog:www-data 660"}


@pytest.mark.full
def test_a_server_that_binds_by_itself_has_a_folder_of_its_own(blog):
    blog.deploy(server={"kind": "granian"})
    number = blog.live[:4]
    top, own = f"{blog.root}/runtime", f"{number}.sockets"
    expected = {".": "root:root 755", own: "blog:www-data 2750", f"{own}/server.sock": "blog:www-data 660"}
    assert expected.items() <= ownership(blog.host, top, 2).items()
    tried = as_site(blog, f"touch {top}/x; mv {top}/{own} {top}/y", check=False)
    assert tried.stderr.count("Permission denied") == 2
    blog.host.run(
        f"systemd-run --quiet --unit=another python3 -c '{ANOTHER}'; until test -S /run/another.sock; do :; done"
    )
    as_site(blog, f"cd {top}/{own} && mv server.sock mine && ln -s /run/another.sock server.sock")
    assert blog.get("/release").status_code == 502, "nginx followed a link of the site"
    blog.host.run("systemctl stop another")
    for gone in (f"{top}/{own}", f"{top}/{own}/*", blog.run):
        blog.host.run(f"rm -rf {gone}")
        assert "blog has its instance" in blog.deploy().changed
        assert blog.answering["release"] == blog.live and not blog.apply().changed
    blog.host.restart()
    assert blog.answering["release"] == blog.live and expected.items() <= ownership(blog.host, top, 2).items()
    assert not blog.apply().changed


#: What makes the live release one of an older formula, whose server binds its socket in the site's folder itself.
OLD = """
cd /srv/django/blog/current/config
sed -i -e 's#/srv/django/blog/runtime/{number}.sockets/server.sock#/run/django/blog/{number}.sock#' \
    -e 's#"run": "/srv/django/blog/runtime/{number}"#"run": "/run/{unit}"#' \
    -e 's#"run": "/srv/django/blog/runtime", ##' \
    instance.json granian.json upstream.conf
sed -i -e 's#^ExecStopPost=.*#ExecStopPost=-/bin/rm -f /run/django/blog/{number}.sock#' \
    -e 's#^ReadWritePaths=/srv/django/blog/runtime/{number}.sockets$#ReadWritePaths=/run/django/blog#' \
    -e 's#^ReadWritePaths=/srv/django/blog/runtime/{number}$#RuntimeDirectory={unit}#' {unit}.service
ln -sfn /run/django/blog/{number}.sock ../socket
cp {unit}.service /etc/systemd/system/
chown blog:www-data /run/django/blog
chmod 2750 /run/django/blog
echo 'd /run/django/blog 2750 blog www-data -' >/etc/tmpfiles.d/django-blog.conf
systemctl daemon-reload
systemctl restart {unit}
nginx -s reload
"""


@pytest.mark.full
def test_a_release_of_an_older_formula_works_on(blog):
    """Through an apply, a crash, a boot, a release and a rollback."""
    blog.host.run(OLD.format(number=blog.live[:4], unit=blog.unit))
    old = blog.live
    folder = {".": "blog:www-data 2750", f"{old[:4]}.sock": "blog:www-data 660"}
    assert not blog.apply().changed and blog.answering["release"] == old
    blog.host.restart()
    assert blog.answering["release"] == old and ownership(blog.host, "/run/django/blog", 2) == folder

    blog.repository.commit(version("3.0"))
    with blog.lossless():
        blog.deploy()
    assert ownership(blog.host, "/run/django/blog", 2)["."] == "root:www-data 751"
    assert ownership(blog.host, f"{blog.run}.sockets")["."] == "blog:www-data 2750"
    with blog.lossless():
        assert blog.host.call("django.rollback", "blog")["release"] == old
    assert not blog.apply().changed
    blog.host.restart()
    assert blog.answering["release"] == old and ownership(blog.host, "/run/django/blog", 2) == folder
    blog.host.run(["systemctl", "kill", "--signal=KILL", blog.unit])
    limit = time.monotonic() + 300
    while blog.get("/release").status_code != 200 and time.monotonic() < limit:
        time.sleep(0.5)
    assert blog.answering["release"] == old and not blog.apply().changed
