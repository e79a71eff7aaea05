"""A host where Apache faces the visitors, taken over: a daemon of mod_wsgi, Apache's own processes, and gunicorn."""

import time
from collections.abc import Iterator

import pytest
from client import Load, Writer
from lab import Host
from old_sites import APT, entries, old_site, sign_before, until
from sites import Site, release_of

pytestmark = pytest.mark.full
ROOT = "/home/elspeth/sites/blog.example.org"
#: As mod_wsgi's own handbook has it, and a2ensite links it.
DAEMON = f"""<VirtualHost *:80>
    ServerName blog.example.org
    Alias /static {ROOT}/static
    <Directory {ROOT}>
        Require all granted
    </Directory>
    WSGIDaemonProcess blog user=elspeth group=elspeth processes=2 threads=5 \\
        python-home={ROOT}/virtualenv python-path={ROOT}/source
    WSGIProcessGroup blog
    WSGIScriptAlias / {ROOT}/source/website/wsgi.py
</VirtualHost>
"""
#: As Django's handbook has it, in a file of the name that the formula's will have.
EMBEDDED = """WSGIPythonHome /opt/shop/venv
WSGIPythonPath /opt/shop
<VirtualHost *:80>
    ServerName shop.example.org
    WSGIScriptAlias / /opt/shop/website/wsgi.py
    <Directory /opt/shop/website>
        Require all granted
    </Directory>
</VirtualHost>
"""
PASSED = """<VirtualHost *:80>
    ServerName club.example.org
    ProxyPreserveHost On
    ProxyPass /static !
    Alias /static /home/ray/club/staticfiles
    ProxyPass / http://127.0.0.1:8002/
</VirtualHost>
"""
UNIT = """[Service]
User=ray
WorkingDirectory=/home/ray/club
ExecStart=/home/ray/club/env/bin/gunicorn --bind 127.0.0.1:8002 website.wsgi

[Install]
WantedBy=multi-user.target
"""
FILES = {"blog": ("blog.conf", DAEMON), "shop": ("shop.example.org.conf", EMBEDDED), "club": ("club.conf", PASSED)}
STATE = "find /etc/apache2 /etc/systemd/system /home/elspeth/sites /opt/shop /home/ray/club /srv/django"
STATE += " -not -name '*.pyc' -not -name '__pycache__' -printf '%p %u %m %l\\n' 2>/dev/null | sort"


@pytest.fixture(scope="module", params=["bookworm", pytest.param("trixie", marks=pytest.mark.full)])
def host(request, module_hosts, repositories) -> Host:
    host = module_hosts(request.param, kind="ready", name="web1")
    host.repository = repositories(host)
    host.run("systemctl disable --quiet --now nginx; apt-get -qq update", environment=APT)
    host.run("apt-get -qq install --no-install-recommends git apache2 libapache2-mod-wsgi-py3", environment=APT)
    host.run("git config --system --add safe.directory '*'")
    host.run("useradd --create-home elspeth && useradd --create-home ray && chmod 755 /home/elspeth /home/ray")
    old_site(host, f"{ROOT}/source", f"{ROOT}/virtualenv", "elspeth", "../database/db.sqlite3")
    host.run(f"mv {ROOT}/source/staticfiles {ROOT}/static && chown -R elspeth:elspeth {ROOT}")
    old_site(host, "/opt/shop", "/opt/shop/venv", "www-data")
    old_site(host, "/home/ray/club", "/home/ray/club/env", "ray")
    host.write("/etc/systemd/system/club.service", UNIT)
    host.run("systemctl daemon-reload && systemctl enable --quiet --now club")
    for name, text in FILES.values():
        host.write(f"/etc/apache2/sites-available/{name}", text)
        host.run(["a2ensite", "--quiet", name])
    host.run("a2enmod --quiet proxy_http && systemctl restart apache2")
    host.run(
        "chown root: /home/elspeth /home/elspeth/sites /home/ray"
    )  # as docs/guides/adopt.md says of data in its place
    for name in FILES:
        sign_before(host, f"{name}.example.org")
    return host


@pytest.fixture(scope="module")
def blog(host) -> Site:
    return Site(host, host.repository, user="elspeth", root=ROOT)


@pytest.fixture(scope="module")
def shop(host, blog) -> Site:
    return Site(host, host.repository, "shop", neighbour=blog)


@pytest.fixture(scope="module")
def club(host, blog) -> Site:
    return Site(host, host.repository, "club", neighbour=blog, user="ray", root="/home/ray/club")


@pytest.fixture
def loads(host) -> Iterator[dict[str, Load]]:
    """A client of each old site that never rests."""
    url = f"http://{host.address}/release"
    made = {name: Load(url, f"{name}.example.org", 2, 0.02, release_of) for name in FILES}
    with made["blog"], made["shop"], made["club"]:
        yield made


def test_findings_listed_and_nothing_changed(host, blog, shop, club):
    before = host.run(STATE).stdout
    applied = blog.apply()
    for name, (file, _text) in FILES.items():
        found = applied.failed[f"{name} can be deployed"]
        assert f"/etc/apache2/sites-enabled/{file} is a file of apache, which listens on the port: set" in found, found
    for site in (blog, shop, club):
        site.options["proxy"] = {"kind": "apache"}
    applied = blog.apply()
    found = {name: applied.failed[f"{name} can be deployed"] for name in FILES}
    for name, (file, _text) in FILES.items():
        assert f"apache file /etc/apache2/sites-enabled/{file} (ServerName {name}.example.org)" in found[name]
        assert f"django:sites:{name}:adopt: true takes it over" in found[name]
    assert f"database {ROOT}/database/db.sqlite3" in found["blog"] and f"folder {ROOT}/source" in found["blog"]
    assert "database /opt/shop/db.sqlite3" in found["shop"] and "unit club.service" in found["club"]
    assert host.run(STATE).stdout == before


def test_deployments_taken_over(host, blog, shop, club, loads):
    for site in (blog, shop, club):
        site.options["adopt"] = True
    origin = f"http://{host.address}"
    with Writer(origin, "blog.example.org") as of_blog, Writer(origin, "shop.example.org") as of_shop:
        for load in loads.values():
            load.wait(20)
        applied = blog.apply()
        assert applied.ok, applied
        for load in loads.values():
            load.wait(20)
        time.sleep(1)
    for site, writer in ((blog, of_blog), (shop, of_shop)):
        assert len(writer.acknowledged) > 5
        assert {"before", *writer.acknowledged} <= {*entries(site)}, (site.name, writer.refused)
        uploads = host.run(f"find {site.root}/media -type f -size +0 -printf '%f\\n'").stdout.split()
        assert {f"{name}.txt" for name in ("before", *writer.acknowledged)} <= {*uploads}
    assert entries(club) == ["before"]
    for name, load in loads.items():
        # A reload of Apache ends the daemons of mod_wsgi that its former processes still have requests for.
        failed = [one for one in load.failed if (name, one.status) != ("blog", 503)]
        assert failed == [] and len(load.failed) < 5, (name, load.failed)
        assert load.releases == ["None", {"blog": blog, "shop": shop, "club": club}[name].live]


def test_existing_deployment_stopped_and_moved_aside(host, blog, shop, club):
    assert host.run("systemctl is-active club", check=False).stdout.strip() != "active"
    assert "elspeth" not in host.run("ps -eo user,args | grep [a]pache2").stdout
    for site in (blog, shop, club):
        file, text = FILES[site.name]
        (aside,) = host.run(f"ls -d {site.root}/adopted/*").stdout.split()
        assert host.read(f"{aside}/etc/apache2/sites-available/{file}") == text
        assert host.testinfra.file(f"{aside}/etc/apache2/sites-enabled/{file}").is_symlink
    assert "Written by django-formula" in host.read("/etc/apache2/sites-available/shop.example.org.conf")
    assert not host.testinfra.file("/etc/apache2/sites-enabled/blog.conf").exists


def test_second_apply_and_reboot_change_nothing(host, blog, shop, club):
    assert not blog.apply().changed
    host.restart()
    for site in (blog, shop, club):
        assert site.answering["release"] == site.live


def test_takeover_reverted_by_commands(host, blog):
    """As docs/guides/adopt.md has it."""
    blog.deploy(state="absent")
    (aside,) = host.run(f"ls -d {blog.root}/adopted/*").stdout.split()
    host.run(f"cd {aside} && rm adoption.json && tar -c . | tar -x -C / --no-overwrite-dir")
    host.run("apache2ctl configtest && systemctl reload apache2")
    writer = Writer(f"http://{host.address}", "blog.example.org")
    until(lambda: writer.sign("after"), "the old site does not come back")
    assert host.http("/release", "blog.example.org").json()["release"] is None
