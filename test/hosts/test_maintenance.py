"""What is done to a site that lives: maintenance, hands on its files, and keys that change."""

import json
import time
from email.utils import parsedate_to_datetime

import pytest
from client import Load
from conftest import live_site
from sites import Site, release_of, version

PAGE = "<!DOCTYPE html><title>ours</title><p>{{ message }}</p>\n"


@pytest.fixture(scope="module")
def blog(module_hosts, repositories) -> Site:
    return live_site(module_hosts, repositories, releases={"drain": "5s"})


def maintenance(blog: Site, *arguments: str):
    return blog.host.call("django.maintenance", blog.name, *arguments)


def test_maintenance_lasts_through_a_deployment_and_a_reboot(blog):
    assert maintenance(blog) == {"maintenance": "off"}
    main = blog.host.read("/run/nginx.pid")
    with Load(f"http://{blog.host.address}/release", blog.domain, 4, pause=0.08, release=release_of) as load:
        load.wait(20)
        told = maintenance(blog, "on", "back in 30m, <b>promised</b>")
        assert told["maintenance"] == "on" and told["page"] == "own" and told["by"].startswith("django.maintenance")
        load.wait(20)
        before = blog.live
        blog.repository.commit(version("2.0"))
        applied = blog.deploy()
        assert blog.live != before and "blog is served" not in applied.changed
        load.wait(20)
        maintenance(blog, "off")
        load.wait(20)
    statuses = [answer.status for answer in sorted(load.answers, key=lambda answer: answer.time)]
    changes = [status for place, status in enumerate(statuses) if place == 0 or statuses[place - 1] != status]
    assert {*statuses} == {200, 503} and len(changes) < 8, changes  # (four clients: their answers overlap)
    assert load.releases == [before, blog.live] and blog.host.read("/run/nginx.pid") == main

    maintenance(blog, "on", "back in 30m, <b>promised</b>")
    for method in ("GET", "POST", "PUT", "HEAD"):
        answer = blog.host.http("/sign/?x=1", blog.domain, method=method, data="x" * 5000)
        assert answer.status_code == 503 and answer.headers["Cache-Control"] == "no-store", (method, answer.headers)
        assert "text/html" in answer.headers["Content-Type"]
        left = parsedate_to_datetime(answer.headers["Retry-After"]).timestamp() - time.time()
        assert 1600 < left < 1801
        if method != "HEAD":
            assert "back in 30m, &lt;b&gt;promised&lt;/b&gt;" in answer.text
    static = blog.host.run(f"cd {blog.root}/current/static && find -name '*.css' | head -1").stdout.strip()[2:]
    assert blog.get(f"/static/{static}").status_code == 200
    assert blog.get("/.django-maintenance/blog").status_code == 404
    blog.host.restart()
    assert blog.get().status_code == 503
    row = blog.host.call("django.status", blog.name)[0]
    assert row["running"] and row["maintenance"].endswith("back in 30m, <b>promised</b>")
    assert not blog.apply().changed and blog.get().status_code == 503
    assert maintenance(blog, "off") == {"maintenance": "off"}
    assert blog.get().status_code == 200


@pytest.mark.full
def test_clients_in_allow_see_the_site_during_maintenance(blog):
    ours = blog.host.run("ip route | sed -n 's/^default via \\([0-9.]*\\).*/\\1/p'").stdout.strip()
    blog.repository.commit({"pages/maintenance.html": PAGE})
    blog.deploy(maintenance={"allow": [f"{ours}/32", "2001:db8::/32"], "page": "pages/maintenance.html"})
    maintenance(blog, "on", "09:15")
    ask = ["python3", "-c", ASK, blog.domain]
    assert blog.get("/release").status_code == 200
    status, retry_after, body = blog.host.run(ask).stdout.split("\n", 2)
    assert (status, body) == ("503", PAGE.replace("{{ message }}", "09:15"))
    assert parsedate_to_datetime(retry_after).strftime("%M:%S") == "15:00"
    blog.repository.commit({"pages/maintenance.html": None})
    applied = blog.apply()
    assert "there is no file pages/maintenance.html in the project" in applied.failed["blog has its settings"]
    blog.deploy(maintenance=None)
    assert blog.get("/release").status_code == 503
    maintenance(blog, "off")
    assert blog.host.run(ask).stdout.startswith("200\n")


ASK = """
import http.client, sys
connection = http.client.HTTPConnection("127.0.0.1")
connection.request("GET", "/release", headers={"Host": sys.argv[1]})
answer = connection.getresponse()
print(answer.status, answer.headers["Retry-After"] or "", answer.read().decode(), sep="\\n", end="")
"""


def drift(blog: Site) -> dict[str, str]:
    """What has drifted: path below the site's root, or absolute → how. The return code says whether there is any."""
    done = blog.host.salt("django.drift", blog.name)
    told = json.loads(done.stdout)["local"]
    assert (done.returncode != 0) == bool(told["drift"]), told
    return {row["path"].removeprefix(f"{blog.root}/"): f"{row['drift']} {row['owner']}" for row in told["drift"]}


@pytest.mark.full
def test_changed_files_of_a_release_are_reported_and_replaced(blog):
    assert drift(blog) == {}
    live, unit = f"releases/{blog.live}", f"/etc/systemd/system/{blog.unit}.service"
    virtualenv = blog.host.run(["readlink", f"{blog.root}/current/virtualenv"]).stdout.strip().removeprefix("../../")
    packages = blog.host.run(f"cd {blog.root} && echo {virtualenv}/lib/python3*/site-packages").stdout.strip()
    blog.host.run(f"""set -e
        cd {blog.root}
        echo 'import os' >> {live}/source/guestbook/views.py
        chown blog {live}/source/guestbook/urls.py
        rm {live}/source/guestbook/version.py
        echo evil > {packages}/evil.pth
        echo '# edited' >> {packages}/django/__init__.py
        echo 'processes = 9' >> {live}/config/uwsgi.ini
        touch {live}/static/own.css
        echo '# edited' >> {unit}
        mkdir {unit}.d && echo '[Service]' > {unit}.d/own.conf
        echo '# edited' >> /etc/nginx/django/blog.conf
        echo 'X="1"' >> secrets/environment
    """)
    assert drift(blog) == {
        f"{live}/config/uwsgi.ini": "changed root:blog",
        f"{live}/source/guestbook/urls.py": "owner blog:blog",
        f"{live}/source/guestbook/version.py": "missing ",
        f"{live}/source/guestbook/views.py": "changed root:blog",
        f"{live}/static/own.css": "added root:root",
        f"{packages}/django/__init__.py": "changed root:root",
        f"{packages}/evil.pth": "added root:root",
        "secrets/environment": "changed root:blog",
        unit: "changed root:root",
        f"{unit}.d/own.conf": "added root:root",
        "/etc/nginx/django/blog.conf": "changed root:root",
    }
    blog.host.call("django.release", blog.name)
    assert drift(blog) == {} and blog.get("/release").status_code == 200
    assert not blog.apply().changed
    blog.repository.commit(version("3.0"))
    blog.deploy()
    assert drift(blog) == {}


@pytest.mark.full
def test_files_of_a_build_are_part_of_the_release(blog):
    blog.deploy(build=["mkdir -p assets", "python -c \"open('assets/app.js', 'w').write('built')\""], writable=["logs"])
    assert drift(blog) == {}
    blog.host.run(
        f"touch {blog.root}/current/source/logs/today; echo edited > {blog.root}/current/source/assets/app.js"
    )
    assert drift(blog) == {f"releases/{blog.live}/source/assets/app.js": "changed root:blog"}
    blog.deploy(build=None, writable=None)
    assert drift(blog) == {}


def login(blog: Site):
    """A browser that is logged in to the admin."""
    file = f"{blog.root}/secrets/superuser-admin"
    if not blog.host.testinfra.file(file).exists:
        blog.host.call("django.superuser", blog.name)
    password = blog.host.run(f". {file}; echo $DJANGO_SUPERUSER_PASSWORD").stdout.strip()
    browser = blog.browser()
    form = {"username": "admin", "password": password, "csrfmiddlewaretoken": ""}
    browser.get("/admin/login/")
    form["csrfmiddlewaretoken"] = browser.cookies["csrftoken"]
    assert browser.post("/admin/login/", data=form).status_code == 302
    return browser


def is_logged_in(browser) -> bool:
    return browser.get("/admin/", allow_redirects=False).status_code == 200


@pytest.mark.full
def test_session_survives_a_rotation_and_the_removal_of_the_old_key(blog):
    age = 90
    ages = {"SESSION_COOKIE_AGE": age, "SESSION_SAVE_EVERY_REQUEST": True, "PASSWORD_RESET_TIMEOUT": age}
    blog.deploy(settings=ages)
    commit, browser, idle = blog.record()["commit"], login(blog), login(blog)
    assert not is_logged_in(blog.browser())
    old = blog.host.call("django.secret_key", blog.name)["fingerprint"]
    told = blog.host.call("django.rotate_secret_key", blog.name)
    rotated = time.monotonic()
    assert "warnings" not in told or "session" not in str(told["warnings"])
    assert is_logged_in(browser) and is_logged_in(idle) and blog.record()["commit"] == commit
    assert blog.host.call("django.secret_key", blog.name)["fallbacks"] == [old]
    early = blog.apply()
    assert early.ok and (time.monotonic() - rotated > age or not early.changed), early
    while time.monotonic() - rotated < age + 2:
        assert is_logged_in(browser)
        time.sleep(3)
    before = blog.live
    dropped = blog.deploy()
    assert dropped["blog has its secrets"].changes == {
        "former keys": "1 dropped, since all their signatures have expired"
    }
    assert blog.host.call("django.secret_key", blog.name)["fallbacks"] == []
    assert blog.record()["commit"] == commit and blog.live != before and is_logged_in(browser)
    assert not blog.apply().changed and not is_logged_in(idle)
    blog.deploy(settings=None)


@pytest.mark.full
def test_changed_secret_reaches_the_processes_by_a_switch(blog):
    def known(name: str) -> str:
        environ = blog.host.run(f"tr '\\0' '\\n' < /proc/{blog.answering['pid']}/environ").stdout
        return dict(line.split("=", 1) for line in environ.splitlines() if "=" in line).get(name, "")

    blog.deploy(secrets={"TOKEN": "one-7f3a"}, environment={"COLOUR": "red"})
    commit = blog.record()["commit"]
    with Load(f"http://{blog.host.address}/release", blog.domain, 4, pause=0.08, release=release_of) as load:
        load.wait(10)
        assert (known("TOKEN"), known("COLOUR")) == ("one-7f3a", "red")
        blog.deploy(secrets={"TOKEN": "two-7f3a"}, environment={"COLOUR": "blue"})
        load.wait(10)
    assert (known("TOKEN"), known("COLOUR")) == ("two-7f3a", "blue") and blog.record()["commit"] == commit
    assert not load.failed and not load.went_back
    blog.host.run(f"truncate -s 3 {blog.root}/secrets/TOKEN")
    told = blog.host.salt("django.release", blog.name)
    assert told.returncode and "contains a value that no release was made with" in told.stdout, told.stdout
    blog.deploy()
    assert blog.host.read(f"{blog.root}/secrets/TOKEN") == "two-7f3a"
    blog.deploy(secrets=None, environment=None)


SERVER = """set -e
export DEBIAN_FRONTEND=noninteractive
apt-get -qq update && apt-get -qq install --no-install-recommends postgresql >/dev/null
runuser -u postgres -- psql --quiet --set=ON_ERROR_STOP=1 <<'SQL'
CREATE ROLE blog LOGIN PASSWORD 'first-7f3';
CREATE DATABASE blog OWNER blog;
SQL
"""
SECOND = "CREATE ROLE blog_b LOGIN PASSWORD 'second-7f3' IN ROLE blog; ALTER ROLE blog_b SET role = 'blog'"


@pytest.mark.full
def test_uploads_that_are_in_the_image_of_a_container_are_restored(blog):
    """overlayfs renames no folder of a lower layer, such as `media` of a host that begins as an image."""
    media = f"{blog.root}/media"
    blog.host.run(f"install -o blog -g www-data -m 0640 /etc/hostname {media}/upload.txt")
    blog.deploy(backup={"media": True})
    made = blog.host.call("django.backup", "blog")["made"]
    which = next(path.partition("media-")[2].removesuffix(".tar") for path in made if "/media-" in path)
    blog.host.run(f"rm {media}/upload.txt; touch {media}/since.txt")
    before = blog.host.run(["stat", "-c", "%U %G %a", media]).stdout
    kept = blog.host.call("django.restore", "blog", which, media=True)["kept"]["media"]
    assert blog.get("/media/upload.txt").status_code == 200
    assert blog.host.testinfra.file(f"{kept}/since.txt").exists
    assert blog.host.run(["stat", "-c", "%U %G %a", kept]).stdout == before
    assert not blog.apply().changed


@pytest.mark.full
def test_password_change_of_the_database_loses_no_request(blog):
    def sql(statement: str) -> None:
        blog.host.run(["runuser", "-u", "postgres", "--", "psql", "--quiet", f"--command={statement}"])

    blog.host.run(SERVER, timeout=600)
    database = {"engine": "postgres", "host": "127.0.0.1", "password": "first-7f3"}
    blog.deploy(database={**database, "replaces": f"sqlite:///{blog.root}/database/db.sqlite3"})
    live = blog.live
    with Load(f"http://{blog.host.address}/healthz", blog.domain, 4, pause=0.08) as load:
        load.wait(10)
        applied = blog.apply(database={**database, "user": "blog_b", "password": "second-7f3"})
        comment = applied.failed["blog has its static files"]
        assert "password authentication failed" in comment and f"{live} still runs" in comment, comment
        assert "7f3" not in applied.stdout.replace(live, "")
        assert blog.host.read(f"{blog.root}/secrets/database.default") == "first-7f3"
        load.wait(10)
        sql(SECOND)
        blog.deploy()
        sql("ALTER ROLE blog PASSWORD NULL")
        load.wait(10)
    assert not load.failed, load.failed[:3]
    blog.repository.commit({"guestbook/migrations/0004_ledger.py": LEDGER})
    blog.deploy()
    owner = "SELECT tableowner FROM pg_tables WHERE tablename = 'ledger'"
    told = blog.host.run(["runuser", "-u", "postgres", "--", "psql", "-tA", "--dbname=blog", f"--command={owner}"])
    assert told.stdout.strip() == "blog" and not blog.apply().changed


LEDGER = """
from django.db import migrations

class Migration(migrations.Migration):
    dependencies = [("guestbook", "0003_entry_hidden")]
    operations = [migrations.RunSQL("CREATE TABLE ledger (line integer)", "DROP TABLE ledger")]
"""
