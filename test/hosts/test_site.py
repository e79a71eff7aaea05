"""A first site on a fresh host, of each Debian with --all: what a visitor, an operator and an intruder would try."""

import re

import pytest
import requests
from conftest import EACH_RELEASE
from lab import WATCH, Host
from sites import Site, ownership

PNG = bytes.fromhex(
    "89504e470d0a1a0a0000000d49484452000000010000000108060000001f15c4890000000a49444154789c6300010000050001"
)

#: DESIGN.md §3: owner, group and mode of everything in a site's root.
OWNERSHIP = {
    ".": "root:root 755",
    "repository.git": "root:root 700",
    "build": "blog-build:blog-build 700",
    "virtualenvs": "root:root 755",
    "releases": "root:root 755",
    "runtime": "root:root 755",
    "current": "root:root 777",
    "database": "blog:blog 750",
    "media": "blog:www-data 2750",
    "shared": "blog:blog 750",
    "secrets": "root:blog 750",
    "backups": "root:root 700",
    "log": "blog:adm 750",
    "site.json": "root:root 600",
    "templates": "root:root 700",
    "deploys.jsonl": "root:root 640",
    "lock": "root:root 600",
}
RELEASE_OWNERSHIP = {
    ".": "root:root 755",
    "source": "root:blog 750",
    "static": "root:root 755",
    "config": "root:blog 750",
    "virtualenv": "root:root 777",
    "socket": "root:root 777",
    "release.json": "root:root 640",
    ".manifest.json": "root:root 600",
}

#: States that have something to do only once a package has been installed, which a dry run does not do.
AFTER_PACKAGES = {"The default site of a fresh nginx is off"}


def files(host: Host) -> str:
    """Everything on the host's disk but logs and caches (and apt's index, which Salt refreshes), with its times."""
    left_out = " -o ".join(
        f"-path {path}"
        for path in ("/var/cache", "/var/lib/apt/lists", "/var/log", "/var/lib/systemd", "/tmp", "/opt/salt", WATCH)
    )
    return host.run(f"find / -xdev \\( {left_out} \\) -prune -o -type f -printf '%p %s %m %T@\\n' | sort").stdout


@pytest.fixture(scope="module", params=EACH_RELEASE)
def blog(request, module_hosts, repositories) -> Site:
    """A site after the first dry run and the first apply of a fresh host."""
    host = module_hosts(request.param, name="web1")
    blog = Site(host, repositories(host))
    blog.configure()
    before = files(host)
    blog.foreseen = host.apply(test=True)
    blog.touched = set(files(host).splitlines()) ^ set(before.splitlines())
    blog.first = blog.deploy()
    return blog


@pytest.fixture(scope="module")
def visitor(blog) -> requests.Session:
    return blog.browser()


def test_a_dry_run_of_a_bare_host_says_what_would_be_done(blog):
    assert not blog.foreseen.failed and not blog.foreseen.errors, blog.foreseen
    would = blog.foreseen["blog has its source"]
    assert would.result is None and "main" in str(would.changes)
    assert blog.foreseen.changed.keys() == blog.first.changed.keys() - AFTER_PACKAGES


def test_a_dry_run_of_a_bare_host_changes_nothing(blog):
    assert blog.touched == set()


def test_a_second_apply_changes_nothing_and_a_dry_run_says_so(blog):
    again = blog.apply()
    assert again.ok and not again.changed, again
    foreseen = blog.apply(test=True)
    assert foreseen.ok and not foreseen.changed, foreseen


def test_the_page_reads_the_database(blog):
    page = blog.get()
    assert (page.status_code, page.headers["Content-Type"]) == (200, "text/html; charset=utf-8")
    assert "Guestbook" in page.text
    assert page.headers["Server"] == "nginx"


def test_the_admin_lets_a_superuser_in(blog):
    blog.host.write("/root/ada", "DJANGO_SUPERUSER_PASSWORD=lovelace-1815\n", mode="0600")
    blog.manage("createsuperuser --noinput --username=ada --email=ada@example.org", environment_file="/root/ada")
    browser = blog.browser()
    form = browser.get("/admin/login/?next=/admin/")
    assert form.status_code == 200
    told = {"csrfmiddlewaretoken": token(form.text), "username": "ada", "password": "lovelace-1815", "next": "/admin/"}
    assert browser.post("/admin/login/", data=told).headers["Location"] == "/admin/"
    assert "Site administration" in browser.get("/admin/").text


def token(page: str) -> str:
    found = re.search(r'name="csrfmiddlewaretoken" value="(\w+)"', page)
    assert found, page
    return found.group(1)


def test_hashed_static_files_may_be_kept_for_ever(blog):
    found = re.search(r'href="(/static/guestbook/style\.[0-9a-f]{12}\.css)"', blog.get().text)
    assert found
    answer = blog.get(found.group(1))
    assert answer.status_code == 200
    assert answer.headers["Content-Type"].startswith("text/css")
    caching = {part.strip() for part in answer.headers["Cache-Control"].split(",")}
    assert caching == {"max-age=31536000", "public", "immutable"}
    assert answer.headers["X-Content-Type-Options"] == "nosniff"


def test_static_files_are_compressed_beforehand(blog):
    answer = blog.get("/static/guestbook/style.css", headers={"Accept-Encoding": "gzip"})
    assert answer.headers["Content-Encoding"] == "gzip"
    assert answer.headers["Vary"] == "Accept-Encoding"
    plain = blog.get("/static/guestbook/style.css", headers={"Accept-Encoding": "identity"})
    assert "Content-Encoding" not in plain.headers and plain.text == answer.text
    assert plain.headers["Cache-Control"] == "max-age=300"


def test_an_upload_is_kept_and_served_as_a_file(blog):
    browser = blog.browser()
    form = {"csrfmiddlewaretoken": token(browser.get("/sign/").text), "name": "Ada", "message": "A picture."}
    answer = browser.post("/sign/", data=form, files={"attachment": ("engine.png", PNG, "image/png")})
    assert answer.status_code == 302, answer.text
    found = re.search(r'"(/media/attachments/[^"]+)"', browser.get("/").text)
    assert found
    served = blog.get(found.group(1))
    assert (served.status_code, served.content) == (200, PNG)
    assert served.headers["X-Content-Type-Options"] == "nosniff"
    assert "script-src 'none'" in served.headers["Content-Security-Policy"]
    kept = blog.host.testinfra.file(f"{blog.root}{found.group(1)}")
    assert (kept.user, kept.group, kept.mode & 0o777) == ("blog", "www-data", 0o644)


def test_an_unknown_host_gets_no_answer(blog):
    for host in ("other.example.org", blog.host.address):
        with pytest.raises(requests.ConnectionError):
            blog.host.http("/", host)


@pytest.mark.parametrize(
    "path", ["/.env", "/.git/config", "/static/.hidden", "/media/.htaccess", "/static/guestbook/.x"]
)
def test_dotfiles_are_not_served(blog, path):
    blog.host.write(f"{blog.root}/media/.htaccess", "secret", owner="blog", group="www-data")
    answer = blog.get(path)
    assert answer.status_code == 404 and "nginx" in answer.text


def test_every_file_has_its_owner(blog):
    assert ownership(blog.host, blog.root) == OWNERSHIP
    release = f"{blog.root}/releases/{blog.live}"
    assert ownership(blog.host, release) == RELEASE_OWNERSHIP
    assert ownership(blog.host, "/run/django/blog") == {".": "root:www-data 751", "0001.sock": "blog:www-data 660"}
    secrets = ownership(blog.host, f"{blog.root}/secrets")
    assert secrets.pop(".") == "root:blog 750" and secrets.pop(".record_key") == "root:root 600"
    assert set(secrets.values()) == {"root:blog 640"}


def test_site_cannot_write_its_release_and_other_users_cannot_read_it(blog):
    releases, virtualenvs = f"{blog.root}/releases", f"{blog.root}/virtualenvs"
    foreign = blog.host.run(
        ["find", releases, virtualenvs, "-not", "-user", "root", "-o", "-not", "-type", "l", "-perm", "/022"]
    )
    assert foreign.stdout == ""
    for inside in ("source", "config"):
        readable = blog.host.run(["find", f"{releases}/{blog.live}/{inside}", "-not", "-type", "l", "-perm", "/007"])
        assert readable.stdout == ""


def test_the_unit_is_confined(blog):
    analysed = blog.host.run(
        ["systemd-analyze", "security", "--threshold=11", "--no-pager", f"{blog.unit}.service"], check=False
    )
    assert analysed.returncode == 0, analysed.stdout[-3000:]


def test_workers_run_as_the_site(blog):
    pid = blog.host.run(["systemctl", "show", "--property=MainPID", "--value", f"{blog.unit}.service"]).stdout.strip()
    users = set(blog.host.run(["ps", "-o", "user=", "--pid", pid, "--ppid", pid]).stdout.split())
    assert users == {"blog"}


def test_only_a_site_that_was_built_is_recorded(blog):
    assert blog.record()["state"] == "good"
    assert blog.releases == [blog.live] and blog.live.startswith("0001-")
    assert blog.answering["release"] == blog.live


def test_nothing_is_left_behind(blog):
    """No process of the build identity, no temporary file, no lock that is held."""
    host = blog.host
    assert host.run(["ps", "-u", "blog-build"], check=False).returncode == 1
    assert host.run(["find", "/tmp", "/var/tmp", f"{blog.root}/build/tmp", "-mindepth", "1", "-type", "f"]).stdout == ""
    host.run(["flock", "--nonblock", f"{blog.root}/lock", "true"])
    host.run(["systemctl", "is-system-running"])
