"""Points in time of PostgreSQL: moments restored, a server that is lost, a store that is away, and who reads what."""

import json
import random
import re
import time
from collections.abc import Iterator
from typing import Any

import pytest
from images import pins
from lab import ROOT, Host, busy
from sites import Site

PASSWORD = "grenadier-8d1b07f2c96e4a35"
#: The archive, in a folder of the host as a mount would be.
THERE = "/mnt/archive"
POINTS = {"kind": "folder", "path": f"{THERE}/web1", "password": PASSWORD}
CONFIG = "/var/lib/django-formula/points/pgbackrest.conf"
#: Of the present server's segments on their way to the archive: no restore of a moment touches them.
QUEUES = "/var/spool/pgbackrest/archive/15-main/kept"
ADD = "INSERT INTO guestbook_entry (name, message, created, attachment, hidden) VALUES ('{}', 'kept', now(), '', false)"


def psql(site: Site, statement: str) -> str:
    """What the site's own database answers."""
    argv = ["runuser", "-u", "postgres", "--", "psql", "-qtA", "--dbname=blog", "--command", statement]
    return site.host.run(argv).stdout.strip()


def add(site: Site, name: str) -> None:
    psql(site, ADD.format(name))


def names(site: Site) -> list[str]:
    return psql(site, "SELECT name FROM guestbook_entry ORDER BY id").split()


def moment(site: Site) -> str:
    """The present moment by the host's clock, with a second to both sides in which nothing is written."""
    time.sleep(1.1)
    now = site.host.run(["date", "-u", "+%Y-%m-%d %H:%M:%SZ"]).stdout.strip()
    time.sleep(1.1)
    return now


def restore(site: Site, at: str, *options: str) -> dict[str, Any]:
    return dict(site.host.call("django.restore", "blog", f"at={at}", *options, timeout=300))


def failure(site: Site, *call: str) -> str:
    result = site.host.salt(*call)
    assert result.returncode != 0, result
    return f"{result.stdout}\n{result.stderr}"


def status(site: Site) -> dict[str, Any]:
    (row,) = site.host.call("django.status", "blog", full=True)
    return dict(row)


def restore_server(host: Host) -> None:
    """By the commands of the docs."""
    page = (ROOT / "docs/guides/points-in-time.md").read_text().partition("## A server that is lost")[2]
    commands = re.findall("(?m)^    (.+)$", page.partition("## A new host")[0])
    assert len(commands) == 5
    for command in commands:
        host.run(command, timeout=300)
    host.run("until runuser -u postgres -- psql -qtAc 'SELECT pg_is_in_recovery()' | grep -q f; do sleep 0.3; done")


def wait_for_backup(host: Host) -> None:
    """Wait until the first backup is made, without which there are no points."""
    state = "systemctl show -P ActiveState django-points.service"
    host.run(f"while [ $({state}) = activating ]; do sleep 0.5; done")
    host.run(f"journalctl --no-pager -u django-points.service; [ $({state}) = inactive ]")


@pytest.fixture(scope="module")
def blog(module_hosts: Any, repositories: Any) -> Iterator[Site]:
    host = module_hosts(kind="ready", name="web1")
    site = Site(host, repositories(host))
    host.run(["mkdir", "-p", THERE])
    site.deploy(database={"engine": "postgres"}, backup={"points": POINTS})
    wait_for_backup(host)
    return site


@pytest.mark.full
def test_a_moment_is_compared_and_restored(blog: Site) -> None:
    again = blog.apply()
    assert again.ok and not again.changed, again
    add(blog, "first")
    at = moment(blog)
    add(blog, "second")
    psql(blog, "DELETE FROM guestbook_entry WHERE name = 'first'")
    add(blog, "third")
    blog.host.run(["mkdir", QUEUES])
    compared = restore(blog, at, "compare=True")
    assert compared["rows"] == {"default": {"public.guestbook_entry": "1 then, 2 now"}}
    assert names(blog) == ["second", "third"]
    answer = restore(blog, at)
    assert answer["rows"]["default"]["public.guestbook_entry"] == "2 before, 1 now"
    assert names(blog) == ["first"] and blog.get("/").status_code == 200
    kept = answer["kept"]["default"]
    assert psql(blog, "SELECT count(*) FROM pg_database WHERE datname = '" + kept + "'") == "1"
    assert blog.host.run(["ls", "/var/lib/django-formula/points/aside"], check=False).returncode != 0
    blog.host.run(["test", "-d", QUEUES])
    row = status(blog)
    assert row["points"].startswith("since 2") and "fails" not in row["points"] and row["points_behind"] < 60
    said = failure(blog, "django.restore", "blog", "at=2020-01-01 04:00")
    shown = blog.host.call("django.points", "blog")
    assert f"its oldest moment is {shown['oldest']}, the newest 2" in said and shown["missing"] == [], said
    said = failure(blog, "django.restore", "blog", "at=yesterday")
    assert "'yesterday' is no moment" in said


@pytest.mark.full
def test_drill_reads_what_is_there_and_misses_what_is_not(blog: Site) -> None:
    host = blog.host
    rows = int(psql(blog, "SELECT count(*) FROM guestbook_entry"))
    said = host.call("django.restore_drill", "blog", "points=True", timeout=300)["result"]
    found = re.fullmatch(r"2\S+Z, \d+ s: good, (\d+) rows", said)
    assert found and int(found[1]) > rows and f"drill {said}" in status(blog)["points"]
    add(blog, "one more")
    state = "/var/lib/django-formula/points/state.json"
    host.run(["sed", "-i", 's/"done": "2[^"]*"/"done": ""/', state])
    host.run(["systemctl", "start", "django-points.service"], timeout=300)
    assert status(blog)["points"].endswith(f": good, {int(found[1]) + 1} rows")
    assert host.run(["ls", "/var/lib/django-formula/points/aside"], check=False).returncode != 0
    largest = f"find {THERE}/web1/backup -type f -size +1M | xargs ls -S | head -n 1"
    flip = "import sys; f = open(sys.argv[1], 'r+b'); f.seek(500_000); b = f.read(1); f.seek(500_000); "
    flip += "f.write(bytes([b[0] ^ 1]))"
    damaged = host.run(largest).stdout.strip()
    host.run(["python3", "-c", flip, damaged])
    said = failure(blog, "django.restore_drill", "blog", "points=True")
    assert "restoring 2" in said and " aside: " in said, said  # the cause depends on which byte it is
    assert "drill fails since 2" in status(blog)["points"] and blog.get("/").status_code == 200
    host.run(["python3", "-c", flip, damaged])
    host.call("django.restore_drill", "blog", "points=True", timeout=300)
    assert "fails" not in status(blog)["points"]


@pytest.mark.full
def test_the_sites_user_reads_nothing_of_it(blog: Site) -> None:
    host = blog.host
    held = host.run(["grep", "-rlF", PASSWORD, "/srv/django", "/etc", "/run", "/var/lib", "/var/log"], check=False)
    assert held.stdout.split() == [CONFIG]
    assert host.run(["stat", "-c", "%U:%G %a", CONFIG]).stdout.strip() == "root:postgres 640"
    assert PASSWORD not in host.run("journalctl --no-pager -o cat").stdout
    own = ["runuser", "-u", "blog", "--"]
    assert host.run([*own, "cat", CONFIG], check=False).returncode != 0
    paths = [f"{THERE}/web1", "/var/spool/pgbackrest", "/var/log/pgbackrest", "/run/postgresql/django-pgbackrest"]
    for path in paths:
        result = host.run([*own, "ls", path], check=False)
        assert "Permission denied" in result.stderr, (path, result)
    heads = host.run(f"find {THERE}/web1 -type f -exec head -c 8 {{}} \\; -exec echo \\;").stdout.split()
    assert {*heads} == {"Salted__"}, "all of it is encrypted"


@pytest.mark.full
def test_ten_moments_are_what_they_were(blog: Site) -> None:
    known = []
    for number in range(10):
        for _ in range(random.randint(1, 20)):
            add(blog, f"n{number}")
        if number % 3 == 2:
            psql(blog, "DELETE FROM guestbook_entry WHERE id IN (SELECT min(id) FROM guestbook_entry)")
        rows = psql(blog, "SELECT md5(string_agg(e::text, ',' ORDER BY id)) FROM guestbook_entry e")
        known.append((moment(blog), rows))
    random.shuffle(known)
    for at, rows in known:
        restore(blog, at)
        assert psql(blog, "SELECT md5(string_agg(e::text, ',' ORDER BY id)) FROM guestbook_entry e") == rows, at


@pytest.mark.full
def test_a_server_that_is_lost_comes_back_with_all_but_the_last_minute(blog: Site) -> None:
    host = blog.host
    host.run(["systemctl", "stop", "django-points.timer"])
    deadline = time.monotonic() + 150
    written = []
    while time.monotonic() < deadline:
        written.append((f"w{len(written)}", time.monotonic()))
        add(blog, written[-1][0])
        time.sleep(0.3)
    lost_at = time.monotonic()
    host.run("pkill -9 -u postgres postgres; rm -rf /var/lib/postgresql/15/main", check=False)
    restore_server(host)
    there = set(names(blog))
    missing = [when for name, when in written if name not in there]
    assert not missing or lost_at - missing[0] <= 60
    assert written[0][0] in there and blog.get("/").status_code == 200
    host.run(["systemctl", "start", "django-points.timer"])
    assert blog.apply().ok
    blog.host.call("django.points", "blog")
    add(blog, "after")
    at = moment(blog)
    add(blog, "later")
    restore(blog, at)
    assert names(blog)[-1] == "after"


@pytest.mark.full
def test_a_new_host_gets_the_archive_of_the_former_one(blog: Site) -> None:
    """A server that has never seen the archive, as an apply on a bare host makes it."""
    host = blog.host
    add(blog, "of the former")
    before = names(blog)
    host.call("django.points", "blog")
    host.run("systemctl stop django-points.timer; pg_dropcluster --stop 15 main && pg_createcluster 15 main --start")
    host.run("rm /var/lib/django-formula/points/state.json && systemctl restart postgresql")
    failed = blog.apply()
    assert not failed.ok and "do not match the database" in str(failed), failed
    restore_server(host)
    again = blog.apply()
    assert again.ok and names(blog) == before, again
    host.run(["systemctl", "start", "django-points.timer"])
    host.call("django.points", "blog")
    assert blog.get("/").status_code == 200


@pytest.mark.full
def test_a_store_that_is_away_is_a_problem_and_fills_no_disk(blog: Site) -> None:
    host = blog.host
    add(blog, "before")
    before = moment(blog)
    add(blog, "known")
    host.call("django.points", "blog")
    host.run(f"sed -i 's/^archive-push-queue-max=.*/archive-push-queue-max=64MiB/' {CONFIG}")
    host.run(f"mv {THERE}/web1 {THERE}/gone")
    segments = "CREATE TABLE IF NOT EXISTS filler (x int); INSERT INTO filler VALUES (1); SELECT pg_switch_wal()"
    psql(blog, segments)
    host.run("touch -d '10 minutes ago' /var/lib/postgresql/15/main/pg_wal/archive_status/*.ready")
    row = status(blog)
    assert row["points_behind"] >= 600 and "archive fails: the oldest segment waits for 6" in row["points"]
    assert "unable to" in failure(blog, "django.points", "blog")
    assert "check fails since 2" in status(blog)["points"]
    for _ in range(12):
        psql(blog, segments)
        time.sleep(2)
    away = moment(blog)
    assert blog.get("/").status_code == 200
    host.run(f"mv {THERE}/gone {THERE}/web1")
    psql(blog, segments)
    host.call("django.points", "blog")
    shown = host.call("django.points", "blog")
    (missing,) = shown["missing"]
    assert "gap from 2" in status(blog)["points"] and " to 2" in missing, shown
    said = failure(blog, "django.restore", "blog", f"at={away}")
    assert "segments are missing from 2" in said, said
    restore(blog, before)
    assert names(blog)[-1] == "before"
    assert blog.apply().ok
    assert "=64MiB" not in host.read(CONFIG)


#: A store by HTTPS, whose authority the host trusts: pgbackrest speaks nothing else.
PROXY = """server {
    listen 127.0.0.1:9443 ssl;
    server_name s3.example.org;
    ssl_certificate /root/s3.crt;
    ssl_certificate_key /root/s3.key;
    client_max_body_size 0;
    location / { proxy_pass http://127.0.0.1:9001; proxy_request_buffering off; }
}
"""


@pytest.mark.full
def test_store_may_be_s3(blog: Site) -> None:
    host = blog.host
    host.run(["python3", "-m", "venv", "/opt/moto"])
    host.run(["/opt/moto/bin/pip", "install", "--quiet", *pins("s3")], timeout=300)
    host.run("systemd-run --unit=moto --collect /opt/moto/bin/moto_server -H 127.0.0.1 -p 9001")
    host.run("until (: </dev/tcp/127.0.0.1/9001) 2>/dev/null; do sleep 0.2; done", timeout=300)
    host.run("echo 127.0.0.1 s3.example.org >> /etc/hosts")
    host.run(
        "openssl req -x509 -newkey rsa:2048 -nodes -days 30 -subj /CN=s3.example.org -keyout /root/s3.key "
        "-addext subjectAltName=DNS:s3.example.org -out /root/s3.crt 2>/dev/null && "
        "cp /root/s3.crt /etc/ssl/certs/s3.pem && cd /etc/ssl/certs && "  # the file with all of them is mounted
        "ln -s s3.pem $(openssl x509 -noout -hash -in s3.pem).0"
    )
    host.write("/etc/nginx/conf.d/store.conf", PROXY)
    host.run(["systemctl", "reload", "nginx"])
    login = {"AWS_ACCESS_KEY_ID": "AKIAWEB1", "AWS_SECRET_ACCESS_KEY": "grenadier-of-the-bucket"}
    bucket = "import boto3; boto3.client('s3', endpoint_url='http://127.0.0.1:9001', region_name='us-east-1')"
    host.run(["/opt/moto/bin/python", "-c", f"{bucket}.create_bucket(Bucket='archive')"], environment=login)
    store = {"kind": "s3", "endpoint": "https://s3.example.org:9443", "bucket": "archive", "password": PASSWORD}
    store |= {"key": login["AWS_ACCESS_KEY_ID"], "secret": login["AWS_SECRET_ACCESS_KEY"]}
    blog.deploy(backup={"points": store})
    wait_for_backup(host)
    add(blog, "in the bucket")
    at = moment(blog)
    add(blog, "later")
    restore(blog, at)
    assert psql(blog, "SELECT name FROM guestbook_entry ORDER BY id DESC LIMIT 1") == "in the bucket"
    row = status(blog)
    assert row["points"].startswith("since 2") and not re.search("fails|gap", row["points"]), row
    held = host.run(
        ["grep", "-rlF", store["secret"], "/srv/django", "/etc", "/run", "/var/lib", "/var/log"], check=False
    )
    assert held.stdout.split() == [CONFIG]


#: Accepts connections to a port, and never answers.
HANGS = """import socket, sys
listener = socket.create_server(("127.0.0.1", int(sys.argv[1])))
accepted = []
while True:
    accepted.append(listener.accept())
"""


@pytest.mark.full
@pytest.mark.parametrize(
    ("kind", "cause"),
    [("refuses", "Connection refused"), ("hangs", "timeout after"), ("another key", "SignatureDoesNotMatch")],
)
def test_a_dead_store_is_named_within_a_minute(blog: Site, kind: str, cause: str) -> None:
    host, conf = blog.host, "/etc/nginx/conf.d/store.conf"
    host.write("/root/hangs.py", HANGS)
    host.write("/root/s3_store.py", (ROOT / "test/hosts/s3_store.py").read_text())
    if kind == "another key":
        host.write(conf, PROXY.replace(":9001", ":9002"))
        strict = "9002 archive AKIAWEB1 grenadier-but-another-one /root/s3.log"
        host.run(f"systemd-run --unit=store --collect python3 /root/s3_store.py {strict}")
    else:
        host.run(["mv", conf, "/root/store.conf"])
    host.run("systemctl reload nginx && while ss -Htln | grep -q :9443 && test -e /root/store.conf; do sleep 0.2; done")
    if kind == "hangs":
        host.run("systemd-run --unit=store --collect python3 /root/hangs.py 9443")
        host.run("until ss -Htln | grep -q :9443; do sleep 0.2; done")
    try:
        began = time.monotonic()
        said = failure(blog, "django.points", "blog")
        took = time.monotonic() - began
    finally:
        host.run("systemctl stop store; rm -f /root/store.conf", check=False)
        host.write(conf, PROXY)
        host.run(["systemctl", "reload", "nginx"])
    assert cause in said and cause in status(blog)["points"], said
    assert took < 60 * busy()
    host.call("django.points", "blog")
    assert " fails since " not in status(blog)["points"]


@pytest.mark.full
def test_without_points_the_host_has_nothing_of_them(blog: Site) -> None:
    host = blog.host
    host.run(["touch", "/root/before"])
    blog.deploy(backup={})
    assert status(blog)["points"] == ""
    for path in ("/var/lib/django-formula/points", "/usr/local/lib/django-formula/points.pyz"):
        assert host.run(["ls", path], check=False).returncode != 0
    assert not host.run("systemctl list-unit-files 'django-points*' --no-legend", check=False).stdout
    psql(blog, "CREATE TABLE IF NOT EXISTS filler (x int); INSERT INTO filler VALUES (1); SELECT pg_switch_wal()")
    host.run("until ! ls /var/lib/postgresql/15/main/pg_wal/archive_status | grep -q ready; do sleep 0.5; done")
    assert host.run(["ls", f"{THERE}/web1"]).stdout.split() == ["archive", "backup"]
    assert "has no points in time" in failure(blog, "django.restore", "blog", "at=2026-11-26 04:00")
    assert json.loads(psql(blog, "SELECT to_json(current_setting('archive_command'))")) == "/bin/true"
