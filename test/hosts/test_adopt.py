"""Hosts where tutorials were followed before: what they have left is named, changes nothing, and is taken over.

Three layouts on one host: a folder below sites/ with gunicorn under systemd, /opt with supervisor, a home folder with a
development server in the background. Each has rows and an upload, and is written to while it is taken over.
"""

import re
import threading
import time
from collections.abc import Callable, Iterator

import pytest
import requests
from client import Load
from lab import Host
from sites import Site, lines, release_of

APT = {"DEBIAN_FRONTEND": "noninteractive"}
UV = "/usr/local/lib/django-formula/uv/bin/uv"
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
STATE = "find /etc/nginx /etc/systemd/system /etc/supervisor /home/elspeth/sites /opt/shop /home/ray/club"
STATE += " /srv/django /var/lib/django-formula /run/django -not -name '*.pyc' -not -name '__pycache__'"
STATE += " -printf '%p %u %m %l\\n' 2>/dev/null | sort; getent passwd | cut -d: -f1"


class Writer:
    """Signs the guestbook again and again, and remembers what was acknowledged."""

    def __init__(self, origin: str, domain: str):
        self.origin, self.domain = origin, domain
        self.acknowledged: list[str] = []
        self.refused: list[str] = []
        self.stopped = threading.Event()
        self.thread = threading.Thread(target=self.write, daemon=True)

    def __enter__(self) -> "Writer":
        self.thread.start()
        return self

    def __exit__(self, *_error: object) -> None:
        self.stopped.set()
        self.thread.join(40)

    def write(self) -> None:
        number = 0
        while not self.stopped.is_set():
            number += 1
            name = f"{self.domain}-{number}"
            (self.acknowledged if self.sign(name) else self.refused).append(name)
            time.sleep(0.1)

    def sign(self, name: str) -> bool:
        try:
            with requests.Session() as session:
                session.trust_env = False
                session.headers["Host"] = self.domain
                form = session.get(f"{self.origin}/sign/", timeout=30)
                found = re.search(r'name="csrfmiddlewaretoken" value="(\w+)"', form.text)
                data = {"csrfmiddlewaretoken": found[1] if found else "", "name": name, "message": "written"}
                file = {"attachment": (f"{name}.txt", name)}
                answer = session.post(f"{self.origin}/sign/", data=data, files=file, timeout=30, allow_redirects=False)
                return answer.status_code == 302
        except requests.RequestException:
            return False


def old_site(host: Host, folder: str, virtualenv: str, owner: str, database: str = "db.sqlite3") -> None:
    """A project as a script of Fabric leaves it: code, virtualenv, static files, a database with a row, an upload."""
    settings = f"{folder}/website/settings.py"
    host.run(f"""set -e
        git clone --quiet /srv/git/project.git {folder}
        sed -i 's/^ALLOWED_HOSTS.*/ALLOWED_HOSTS = ["*"]/' {settings}
        sed -i 's|BASE_DIR / "db.sqlite3"|BASE_DIR / "{database}"|' {settings}
        mkdir -p {folder}/{database.rpartition("/")[0]}
        {UV} venv --quiet {virtualenv}
        {UV} pip install --quiet --python {virtualenv}/bin/python -r {folder}/requirements.txt gunicorn==23.0.0
        cd {folder}
        {virtualenv}/bin/python manage.py migrate --verbosity 0
        {virtualenv}/bin/python manage.py collectstatic --noinput --verbosity 0
        chown -R {owner}:{owner} {folder}
    """)


@pytest.fixture(scope="module")
def host(module_hosts, repositories) -> Host:
    host = module_hosts(kind="ready", name="web1")
    host.repository = repositories(host)
    host.run("apt-get -qq update && apt-get -qq install --no-install-recommends supervisor git", environment=APT)
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
    start = (
        "cd /home/ray/club && setsid nohup env/bin/python manage.py runserver 0.0.0.0:8002 >/dev/null 2>&1 </dev/null &"
    )
    host.run(start, user="ray")
    host.run("rm -f /etc/nginx/sites-enabled/default; systemctl reload nginx")
    for domain, port in (("blog.example.org", 80), ("shop.example.org", 80), ("club.example.org", 8002)):
        writer = Writer(f"http://{host.address}:{port}", domain)
        until(lambda writer=writer: writer.sign("before"), f"the old site {domain} does not come up")
    return host


def until(is_so: Callable[[], bool], problem: str) -> None:
    deadline = time.monotonic() + 30
    while not is_so():
        assert time.monotonic() < deadline, problem
        time.sleep(0.2)


def nginx(host: Host, name: str, text: str) -> None:
    host.write(f"/etc/nginx/sites-available/{name}", text)
    host.run(f"ln -s ../sites-available/{name} /etc/nginx/sites-enabled/{name}")


@pytest.fixture(scope="module")
def blog(host) -> Site:
    root = "/home/elspeth/sites/blog.example.org"
    return Site(host, host.repository, user="elspeth", root=root)


@pytest.fixture(scope="module")
def shop(host, blog) -> Site:
    return Site(host, host.repository, "shop", beside=blog)


@pytest.fixture(scope="module")
def club(host, blog) -> Site:
    return Site(host, host.repository, "club", beside=blog, user="ray", root="/home/ray/club")


def entries(site: Site) -> list[str]:
    command = "shell -c \"from guestbook.models import Entry; print(*Entry.objects.values_list('name', flat=True))\""
    return str(site.manage(command)).splitlines()[-1].split()


@pytest.fixture
def loads(host) -> Iterator[dict[str, Load]]:
    """A client of each old site that never rests."""
    url = f"http://{host.address}/"
    made = {name: Load(f"{url}release", f"{name}.example.org", 2, 0.02, release_of) for name in ("blog", "shop")}
    with made["blog"], made["shop"]:
        yield made


def test_what_is_there_is_named_and_nothing_is_changed(host, blog, shop, club):
    before = host.run(STATE).stdout
    for test in (True, False):
        applied = blog.apply(test=test)
        found = {name: applied.failed[f"{name} has its place"] for name in ("blog", "shop", "club")}
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
        assert not [state for state in applied.states if state.changes and state.function != "test.nop"], applied
        assert host.run(STATE).stdout == before
    assert max(map(lines, found.values())) < 30
    assert host.http("/healthz", "blog.example.org").text == "ok\n"


def test_a_dry_run_says_what_would_be_adopted(host, blog, shop, club):
    before = host.run(STATE).stdout
    for site in (blog, shop, club):
        site.options["adopt"] = True
    applied = blog.apply(test=True)
    root = "/home/elspeth/sites/blog.example.org"
    assert applied.changed["blog has its place"][f"{root}/database/db.sqlite3"] == "used where it is"
    assert applied.changed["blog has its place"][f"{root}/source"].startswith(f"set aside in {root}/adopted/")
    assert (
        applied.changed["shop has its place"]["/opt/shop/db.sqlite3"]
        == "copied to /srv/django/shop/database/db.sqlite3"
    )
    assert host.run(STATE).stdout == before


def test_the_sites_are_taken_over_without_loss(host, blog, shop, club, loads):
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


def test_the_old_is_stopped_and_set_aside(host, blog, shop, club):
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


def test_a_second_apply_has_nothing_to_do(blog):
    assert not blog.apply().changed


def test_it_is_there_after_a_reboot(host, blog, shop, club):
    host.restart()
    for site in (blog, shop, club):
        assert site.answering["release"] == site.live


def test_the_way_back_by_hand(host, blog):
    """As docs/adopt.md has it."""
    blog.deploy(state="absent")
    (aside,) = host.run(f"ls -d {blog.root}/adopted/*").stdout.split()
    writer = Writer(f"http://{host.address}", "blog.example.org")
    host.run(f"cd {aside} && rm adoption.json && tar -c . | tar -x -C / --no-overwrite-dir")
    host.run("systemctl daemon-reload && systemctl enable --quiet --now gunicorn-blog.example.org")
    host.run("nginx -t -q && systemctl reload nginx")
    until(lambda: writer.sign("after"), "the old site does not come back")
    assert host.http("/release", "blog.example.org").json()["release"] is None
