"""Hosts where tutorials were followed before: what they have left is named, changes nothing, and is taken over.

Three layouts on one host: a folder below sites/ with gunicorn under systemd, /opt with supervisor, a home folder with a
development server in screen. Each has rows and an upload, and is written to while it is taken over. Three more have
uWSGI, run by an emperor, by Debian's own, and by a unit. Another host is a container without systemd, of Debian 13;
with --all there is a second host of the six layouts, of Debian 13 too.
"""

import re
import time
from collections.abc import Iterator

import pytest
from client import Load, Writer
from lab import MACHINE, WATCH, Host, Needs
from old_sites import APT, entries, old_site, sign_before, until
from sites import Site, lines, release_of

pytestmark = pytest.mark.full

NEEDS = Needs(MACHINE, "the script of Debian's uWSGI reads what root may not read in a container")

UNIT = """[Unit]
Description=gunicorn for blog.example.org

[Service]
User=elspeth
WorkingDirectory=/home/elspeth/sites/blog.example.org/source
ExecStart=/home/elspeth/sites/blog.example.org/virtualenv/bin/gunicorn --bind unix:/tmp/blog.socket website.wsgi
Restart=on-failure

[Install]
WantedBy=multi-user.target
"""
PROGRAM = """[program:shop]
command=/opt/shop/venv/bin/gunicorn --workers 2 --bind 127.0.0.1:8001 website.wsgi
directory=/opt/shop
user=www-data
autostart=true
"""
NGINX = """server {
    listen 80;
    server_name %s;
    location /static { alias %s; }
    location / {
        proxy_set_header Host $host;
        proxy_pass http://%s;
    }
}
"""
INI = """[uwsgi]
plugin = python3
base = /opt
chdir = %(base)/{name}
virtualenv = %(base)/{name}/venv
module = website.wsgi
socket = /opt/{name}/wsgi.sock
chmod-socket = 666
uid = www-data
gid = www-data
master = true
processes = 2
"""
EMPEROR = """[Service]
ExecStart=/usr/bin/uwsgi --emperor /etc/uwsgi/vassals
KillSignal=SIGQUIT
Restart=always

[Install]
WantedBy=multi-user.target
"""
#: Where the file of each lies that uWSGI runs, and of the unit that runs one of them.
APPS = {"forum": "vassals/forum.ini", "wiki": "apps-available/wiki.ini", "shelf": "shelf.ini"}
PLAIN = EMPEROR.replace("--emperor /etc/uwsgi/vassals", "--ini /etc/uwsgi/shelf.ini")
STATE = "find /etc/nginx /etc/systemd/system /etc/supervisor /etc/uwsgi /home/elspeth/sites /opt/shop /home/ray/club"
STATE += " /srv/django /var/lib/django-formula /run/django -not -name '*.pyc' -not -name '__pycache__'"
STATE += f" -not -path '{WATCH}/*'"
STATE += " -printf '%p %u %m %l\\n' 2>/dev/null | sort; getent passwd | cut -d: -f1"


@pytest.fixture(scope="module", params=["bookworm", pytest.param("trixie", marks=pytest.mark.full)])
def host(request, module_hosts, repositories) -> Host:
    host = module_hosts(request.param, kind="ready", name="web1")
    host.repository = repositories(host)
    packages = "supervisor git screen uwsgi uwsgi-plugin-python3"
    host.run(f"apt-get -qq update && apt-get -qq install --no-install-recommends {packages}", environment=APT)
    host.run("git config --system --add safe.directory '*'")
    host.run("useradd --create-home elspeth && useradd --create-home ray && chmod 755 /home/elspeth /home/ray")

    base = "/home/elspeth/sites/blog.example.org"
    old_site(host, f"{base}/source", f"{base}/virtualenv", "elspeth", "../database/db.sqlite3")
    host.run(f"mv {base}/source/staticfiles {base}/static && chown -R elspeth:elspeth {base}")
    host.write("/etc/systemd/system/gunicorn-blog.example.org.service", UNIT)
    static = f"{base}/static"
    nginx(host, "blog.example.org", NGINX % ("blog.example.org", static, "unix:/tmp/blog.socket"))
    host.run("systemctl daemon-reload && systemctl enable --quiet --now gunicorn-blog.example.org")

    old_site(host, "/opt/shop", "/opt/shop/venv", "www-data")
    host.write("/etc/supervisor/conf.d/shop.conf", PROGRAM)
    nginx(host, "shop", NGINX % ("shop.example.org", "/opt/shop/staticfiles", "127.0.0.1:8001"))
    host.run("supervisorctl update")

    old_site(host, "/home/ray/club", "/home/ray/club/env", "ray")
    host.run("cd /home/ray/club && screen -dmS club env/bin/python manage.py runserver 0.0.0.0:8002", user="ray")
    host.run("rm -f /etc/nginx/sites-enabled/default")
    apps_of_uwsgi(host)
    host.run(
        "chown root: /home/elspeth /home/elspeth/sites /home/ray"
    )  # as docs/guides/adopt.md says of data in its place
    host.run("systemctl reload nginx")
    for name in ("blog", "shop", "club", *APPS):
        sign_before(host, f"{name}.example.org", 8002 if name == "club" else 80)
    return host


def apps_of_uwsgi(host: Host) -> None:
    """Copies of the shop, each run by uWSGI in another way; the emperor has one more vassal, which is not Django's."""
    for name, path in APPS.items():
        host.run(f"cp -a /opt/shop /opt/{name} && chown -R www-data: /opt/{name}")
        host.write(f"/etc/uwsgi/{path}", INI.format(name=name))
        text = NGINX % (f"{name}.example.org", f"/opt/{name}/staticfiles", f"unix:/opt/{name}/wsgi.sock")
        text = text.replace("proxy_set_header Host $host", "include uwsgi_params")
        nginx(host, name, text.replace("proxy_pass http://", "uwsgi_pass "))
    host.write("/etc/uwsgi/vassals/other.ini", "[uwsgi]\nmaster = true\nsocket = /run/other.sock\n")
    host.write("/etc/systemd/system/emperor.uwsgi.service", EMPEROR)
    host.write("/etc/systemd/system/shelf.service", PLAIN)
    host.run("ln -s /etc/uwsgi/apps-available/wiki.ini /etc/uwsgi/apps-enabled/ && systemctl restart uwsgi")
    host.run("systemctl daemon-reload && systemctl enable --quiet --now emperor.uwsgi shelf")


def nginx(host: Host, name: str, text: str) -> None:
    host.write(f"/etc/nginx/sites-available/{name}", text)
    host.run(f"ln -s ../sites-available/{name} /etc/nginx/sites-enabled/{name}")


@pytest.fixture(scope="module")
def blog(host) -> Site:
    root = "/home/elspeth/sites/blog.example.org"
    return Site(host, host.repository, user="elspeth", root=root)


@pytest.fixture(scope="module")
def shop(host, blog) -> Site:
    return Site(host, host.repository, "shop", neighbour=blog)


@pytest.fixture(scope="module")
def club(host, blog) -> Site:
    return Site(host, host.repository, "club", neighbour=blog, user="ray", root="/home/ray/club")


@pytest.fixture(scope="module")
def apps(host, blog) -> dict[str, Site]:
    return {name: Site(host, host.repository, name, neighbour=blog) for name in APPS}


@pytest.fixture
def loads(host) -> Iterator[dict[str, Load]]:
    """A client of each old site that never rests."""
    url = f"http://{host.address}/"
    made = {name: Load(f"{url}release", f"{name}.example.org", 2, 0.02, release_of) for name in ("blog", "shop")}
    with made["blog"], made["shop"]:
        yield made


def test_findings_listed_and_nothing_changed(host, blog, shop, club, apps):
    before = host.run(STATE).stdout
    for test in (True, False):
        applied = blog.apply(test=test)
        found = {name: applied.failed[f"{name} can be deployed"] for name in ("blog", "shop", "club", *APPS)}
        root = "/home/elspeth/sites/blog.example.org"
        for thing in (
            *(f"folder {root}/{name}" for name in ("source", "virtualenv", "static", "database")),
            "unit gunicorn-blog.example.org.service",
            "nginx file /etc/nginx/sites-available/blog.example.org",
            "nginx file /etc/nginx/sites-enabled/blog.example.org",
            f"database {root}/database/db.sqlite3",
            f"uploads {root}/source/media",
        ):
            assert thing in found["blog"]
        assert re.search(rf"process \d+ \({root}/virtualenv/bin/gunicorn", found["blog"])
        assert "django:sites:blog:adopt: true takes it over" in found["blog"]
        for thing in ("supervisor program shop", "database /opt/shop/db.sqlite3", "sites-available/shop"):
            assert thing in found["shop"]
        assert re.search(r"process \d+ \(/opt/shop/venv/bin/gunicorn", found["shop"])
        for thing in ("manage.py", "env", "media", "db.sqlite3"):
            assert f"/home/ray/club/{thing}" in found["club"]
        assert re.search(r"process \d+ \(manage.py runserver", found["club"])
        for name, path in APPS.items():
            assert f"/etc/uwsgi/{path}" in found[name] or name == "shelf"
            assert re.search(r"process \d+ \(/usr/bin/uwsgi", found[name]) and "is run by" not in found[name]
            assert f"database /opt/{name}/db.sqlite3" in found[name]
        assert "unit shelf.service" in found["shelf"]
        assert not [state for state in applied.states if state.changes and state.function != "test.nop"], applied
        assert host.run(STATE).stdout == before
    assert max(map(lines, found.values())) < 30
    assert host.http("/healthz", "blog.example.org").text == "ok\n"


def test_dry_run_lists_what_would_be_taken_over(host, blog, shop, club, apps):
    before = host.run(STATE).stdout
    for site in (blog, shop, club, *apps.values()):
        site.options["adopt"] = True
    applied = blog.apply(test=True)
    root = "/home/elspeth/sites/blog.example.org"
    assert applied.changed["blog can be deployed"][f"{root}/database/db.sqlite3"] == "used where it is"
    assert applied.changed["blog can be deployed"][f"{root}/source"].startswith(f"moved to {root}/adopted/")
    assert (
        applied.changed["shop can be deployed"]["/opt/shop/db.sqlite3"]
        == "copied to /srv/django/shop/database/db.sqlite3"
    )
    assert host.run(STATE).stdout == before


def test_deployments_taken_over_without_loss(host, blog, shop, club, apps, loads):
    origin = f"http://{host.address}"
    with (
        Writer(origin, "blog.example.org") as of_blog,
        Writer(origin, "shop.example.org") as of_shop,
        Writer(f"{origin}:8002", "club.example.org") as of_club,
    ):
        for load in loads.values():
            load.wait(20)
        applied = blog.apply()
        assert applied.ok, applied
        for load in loads.values():
            load.wait(20)
        time.sleep(1)
    for name, load in loads.items():
        assert load.failed == [], name
        assert load.releases == ["None", {"blog": blog, "shop": shop}[name].live]
    assert of_blog.refused == [], "both write to one file"
    for site, writer in ((blog, of_blog), (shop, of_shop), (club, of_club)):
        assert len(writer.acknowledged) > 5
        present = entries(site)
        assert {"before", *writer.acknowledged} <= {*present}, (site.name, writer.refused)
        assert len(present) == len(set(present))
        uploads = host.run(f"find {site.root}/media -type f -size +0 -printf '%f\\n'").stdout.split()
        assert {f"{name}.txt" for name in ("before", *writer.acknowledged)} <= {*uploads}
        upload = host.run(f"cd {site.root} && find media -name before.txt").stdout.strip()
        assert site.get(f"/{upload}").text == "before"
    for name, site in apps.items():
        assert site.answering["release"] == site.live and entries(site) == ["before"], name


def test_uwsgi_instances_taken_over(host, apps):
    for name, path in APPS.items():
        assert host.run(["ss", "-Hxl", "src", f"/opt/{name}/wsgi.sock"]).stdout == "", name
        (aside,) = host.run(f"ls -d /srv/django/{name}/adopted/*").stdout.split()
        assert host.testinfra.file(f"/etc/uwsgi/{path}").exists is (name == "shelf")
        assert host.testinfra.file(f"{aside}/etc/uwsgi/{path}").exists is (name != "shelf")
    assert not host.testinfra.file("/etc/uwsgi/apps-enabled/wiki.ini").exists
    assert host.testinfra.service("emperor.uwsgi").is_running and not host.testinfra.service("shelf").is_running
    assert host.run(["ss", "-Hxl", "src", "/run/other.sock"]).stdout != "", "its neighbour is not touched"


def test_existing_deployment_stopped_and_moved_aside(host, blog, shop, club):
    processes = host.run("ps -eo args").stdout
    for gone in ("sites/blog.example.org/virtualenv/bin", "/opt/shop/venv", "runserver"):
        assert gone not in processes
    (aside,) = host.run(f"ls -d {blog.root}/adopted/*").stdout.split()
    for path in ("source", "virtualenv", "static"):
        assert host.testinfra.file(f"{aside}{blog.root}/{path}").is_directory
        assert not host.testinfra.file(f"{blog.root}/{path}").exists
    for path in ("systemd/system/gunicorn-blog.example.org.service", "nginx/sites-available/blog.example.org"):
        assert host.testinfra.file(f"{aside}/etc/{path}").exists
    assert "Written by django-formula" in host.read("/etc/nginx/sites-available/blog.example.org")
    (aside,) = host.run("ls -d /srv/django/shop/adopted/*").stdout.split()
    assert host.read(f"{aside}/etc/supervisor/conf.d/shop.conf") == PROGRAM
    assert host.testinfra.file("/opt/shop/manage.py").exists, "what is not in the way stays"
    assert not host.testinfra.file("/etc/nginx/sites-enabled/shop").exists
    (aside,) = host.run("ls -d /home/ray/club/adopted/*").stdout.split()
    assert host.testinfra.file(f"{aside}/home/ray/club/manage.py").exists
    assert not host.testinfra.file("/home/ray/club/website").exists


def test_second_apply_changes_nothing(blog):
    assert not blog.apply().changed


def test_database_present_after_reboot(host, blog, shop, club, apps):
    host.restart()
    for site in (blog, shop, club, *apps.values()):
        assert site.answering["release"] == site.live


def test_takeover_reverted_by_commands(host, blog):
    """As docs/guides/adopt.md has it."""
    blog.deploy(state="absent")
    (aside,) = host.run(f"ls -d {blog.root}/adopted/*").stdout.split()
    writer = Writer(f"http://{host.address}", "blog.example.org")
    host.run(f"cd {aside} && rm adoption.json && tar -c . | tar -x -C / --no-overwrite-dir")
    host.run("systemctl daemon-reload && systemctl enable --quiet --now gunicorn-blog.example.org")
    host.run("nginx -t -q && systemctl reload nginx")
    until(lambda: writer.sign("after"), "the old site does not come back")
    assert host.http("/release", "blog.example.org").json()["release"] is None


# Without systemd


def test_deployment_under_supervisor_in_container_found(hosts, repositories, release):
    command = ("sh", "-c", "service supervisor start; service nginx start; exec sleep infinity")
    host = hosts(release, kind="ready", init=False, command=command)
    host.repository = repositories(host)
    host.run("apt-get -qq update && apt-get -qq install --no-install-recommends supervisor git", environment=APT)
    host.run("git config --system --add safe.directory '*'; rm -f /etc/nginx/sites-enabled/default")
    old_site(host, "/opt/shop", "/opt/shop/venv", "www-data")
    host.write("/etc/supervisor/conf.d/shop.conf", PROGRAM)
    nginx(host, "shop", NGINX % ("shop.example.org", "/opt/shop/staticfiles", "127.0.0.1:8001"))
    host.run("service supervisor start; service nginx start; supervisorctl update; nginx -s reload")
    sign_before(host, "shop.example.org")

    shop = Site(host, host.repository, "shop")
    told = shop.apply().failed["shop can be deployed"]
    assert "supervisor program shop" in told and "nginx file /etc/nginx/sites-enabled/shop" in told
    assert re.search(r"process \d+ \(/opt/shop/venv/bin/gunicorn", told)
    url = f"http://{host.address}/release"
    with Load(url, shop.domain, 2, 0.02, release_of) as load:
        load.wait(20)
        shop.deploy(adopt=True)
        load.wait(20)
    assert load.failed == [] and load.releases == ["None", shop.live]
    assert entries(shop) == ["before"] and not shop.apply().changed
    assert host.run(["supervisorctl", "status"]).stdout.split()[:2] == [shop.unit, "RUNNING"]
    assert "/opt/shop/venv" not in host.run("ps -eo args").stdout
    (aside,) = host.run("ls -d /srv/django/shop/adopted/*").stdout.split()
    assert host.read(f"{aside}/etc/supervisor/conf.d/shop.conf") == PROGRAM
    host.restart()
    until(lambda: shop.get("/release").status_code == 200, "it does not come back")
    assert shop.answering["release"] == shop.live
