"""Several sites on a host: they fail one by one, share domains, and cannot see each other."""

import pytest
from sites import Site, lines, version


@pytest.fixture(scope="module")
def blog(module_hosts, repositories) -> Site:
    host = module_hosts(kind="ready")
    blog = Site(host, repositories(host))
    blog.settings = {"secrets": {"API_TOKEN": {"generate": 40, "as": "file"}}}
    return blog


@pytest.fixture(scope="module")
def shop(blog, repositories) -> Site:
    """Another site of the host, below /home and under a path of the same domain; both are live after one apply."""
    host = blog.host
    host.run(["useradd", "--create-home", "elspeth"])
    host.run("chmod 755 /home/elspeth && chown root: /home/elspeth")
    repository = repositories(host, "/srv/git/shop.git")
    place = {"root": "/home/elspeth/shop", "path": "/shop", "domains": ["blog.example.org"]}
    shop = Site(host, repository, "shop", neighbour=blog, **place)
    blog.deploy(**blog.settings)
    return shop


def test_two_sites_share_a_domain_under_two_paths(blog, shop):
    assert blog.answering["release"] == blog.live
    assert shop.answering["release"] == shop.live
    page = shop.get("/")
    assert page.status_code == 200 and 'href="/shop/static/guestbook/style.' in page.text
    assert shop.host.http("/shop/static/guestbook/style.css", shop.domain).status_code == 200
    assert shop.host.http("/static/guestbook/style.css", shop.domain).status_code == 200
    moved = shop.host.http("/shop", shop.domain)
    assert (moved.status_code, moved.headers["Location"]) == (301, "/shop/")
    assert shop.get("/sign/").status_code == 200 and 'action="/sign/' not in shop.get("/sign/").text
    assert shop.get("/admin/").headers["Location"].startswith("/shop/admin/login/")


def test_second_site_is_below_home(shop):
    assert shop.host.run(["readlink", "/home/elspeth/shop/current"]).stdout.strip() == f"releases/{shop.live}"
    assert shop.host.testinfra.file("/home/elspeth/shop/database/db.sqlite3").user == "shop"


def test_failing_site_stops_no_other_site(blog, shop):
    shop.repository.commit({"guestbook/version.py": "VERSION =\n"})
    blog.repository.commit(version("2.0"))
    applied = blog.apply()
    assert applied.failed and all(state_id.startswith("shop ") for state_id in applied.failed)
    assert blog.answering["version"] == "2.0" and shop.answering["version"] == "1.2"
    shop.repository.commit(version("2.0"))
    blog.deploy()
    assert shop.answering["version"] == "2.0"
    assert not blog.apply().changed


@pytest.mark.full
def test_two_sites_are_released_at_once(blog, shop):
    for site in (blog, shop):
        needs = site.repository.read("requirements.txt")
        site.repository.commit({**version("2.1"), "requirements.txt": f"{needs}iniconfig\n"})
    blog.host.run("for site in blog shop; do salt-call --local django.release $site & done; wait")
    for site in (blog, shop):
        assert site.answering["version"] == "2.1" and site.answering["release"] == site.live
        assert "iniconfig" in site.record()["packages"]
    assert not blog.apply().changed


#: What code that runs as blog could want of shop.
OUT_OF_REACH = {
    "source": "cat {root}/current/source/manage.py",
    "configuration": "cat {root}/current/config/environment {root}/current/config/settings.json",
    "secrets": "cat {root}/secrets/secret_key.json {root}/secrets/environment",
    "list of secrets": "ls {root}/secrets",
    "database": "cat {root}/database/db.sqlite3",
    "uploads": "ls {root}/media",
    "shared": "ls {root}/shared",
    "logs": "ls {root}/log",
    "the configuration as applied": "cat {root}/site.json",
    "repository": "ls {root}/repository.git",
    "build": "ls {root}/build",
    "socket": "python3 -c \"import socket; socket.socket(socket.AF_UNIX).connect('{socket}')\"",
    "control": "echo q > {run}/fifo",
    "environment of the process": "cat /proc/{pid}/environ",
    "a kill": "kill -TERM {pid}",
    "writing a release": "touch {root}/releases/new",
    "writing the link": "ln -sfn releases/none {root}/current",
}


@pytest.mark.parametrize("what", OUT_OF_REACH)
@pytest.mark.parametrize("who", ["blog", "blog-build", "shop-build"])
def test_what_a_site_cannot_reach_of_another(blog, shop, who, what):
    values = {"root": shop.root, "socket": socket(shop), "run": shop.run, "pid": master(shop)}
    command = OUT_OF_REACH[what].format(**values)
    if who == "shop-build" and what == "build":
        pytest.skip("its own")
    tried = shop.host.run(["runuser", "-u", who, "--", "bash", "-c", command], check=False)
    assert tried.returncode != 0 and tried.stdout == "", f"{who} may: {command}"
    assert "denied" in tried.stderr or "not permitted" in tried.stderr, tried.stderr


def test_link_among_uploads_shows_no_file_of_another_site(blog, shop):
    for site in (blog, shop):
        site.host.run(
            ["runuser", "-u", site.name, "--", "bash", "-c", f"echo {site.name} > {site.root}/media/report.txt"]
        )
    for name, target in {
        "own": "report.txt",
        "file": f"{shop.root}/media/report.txt",
        "folder": f"{shop.root}/media",
    }.items():
        blog.host.run(["runuser", "-u", "blog", "--", "ln", "-s", target, f"{blog.root}/media/{name}"])
    assert shop.get("/media/report.txt").text == "shop\n" and blog.get("/media/own").text == "blog\n"
    assert {blog.get(f"/media/{path}").status_code for path in ("file", "folder/report.txt")} <= {403, 404}


def test_a_site_cannot_write_its_own_code(shop):
    paths = [
        f"{shop.root}/{path}"
        for path in ("current/source", "current/config", "current/static", "virtualenvs", "secrets")
    ]
    for path in paths:
        tried = shop.host.run(["runuser", "-u", "shop", "--", "touch", f"{path}/new"], check=False)
        assert tried.returncode != 0, path


def test_a_worker_sees_of_the_host_what_it_needs(blog, shop):
    """Inside the sandbox: other sites' roots below /home are not there, and nothing of the system can be written."""
    program = (
        "import os; print([os.access(p, os.W_OK) for p in ('/etc', '/usr', '/srv', '/var', '{root}/current/source')])"
    )
    written = shop.manage(f'shell -c "{program.format(root=shop.root)}"')
    assert written.splitlines()[-1] == str([False] * 5)


def socket(site: Site) -> str:
    return site.host.run(["readlink", "-f", f"{site.root}/current/socket"]).stdout.strip()


def master(site: Site) -> str:
    return site.host.run(["cat", f"{site.run}/pid"]).stdout.strip()


@pytest.mark.full
def test_a_home_that_the_proxy_cannot_enter_is_refused_with_the_command(blog, shop, repositories):
    shop.host.run("useradd --create-home ray && chmod 700 /home/ray")
    wiki = Site(blog.host, blog.repository, "wiki", neighbour=blog, root="/home/ray/wiki")
    applied = wiki.apply()
    comment = applied.failed["wiki has its directories"]
    assert "/home/ray" in comment and "0700" in comment and "chmod o+x /home/ray" in comment and lines(comment) <= 10
    shop.host.run(["chmod", "o+x", "/home/ray"])
    comment = wiki.apply().failed["wiki has its directories"]
    assert "/home/ray (ray:ray 0701)" in comment and "chown root: /home/ray" in comment and lines(comment) <= 10
    shop.host.run(["chown", "root:", "/home/ray"])
    wiki.deploy()
    assert wiki.answering["release"] == wiki.live
    assert not wiki.apply().changed
