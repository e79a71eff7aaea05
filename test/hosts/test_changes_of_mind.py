"""What people change in the pillar of a site that lives: each apply does it without loss, or says how it is done."""

import pytest
from client import Load
from conftest import live_site
from products import shortened
from sites import Site, lines, release_of, version

pytestmark = pytest.mark.full


@pytest.fixture(scope="module")
def blog(module_hosts, repositories) -> Site:
    blog = live_site(module_hosts, repositories, releases={"keep": 2})
    blog.host.run(["sh", "-c", f"printf kept > {blog.root}/media/kept.txt"])
    blog.manage("shell -c \"from guestbook.models import Entry; Entry.objects.create(name='Ada', message='was here')\"")
    return blog


CHANGES = {
    "settings module": {"settings_module": "website.production"},
    "requirements": {"requirements": ["needs/all.txt"]},
    "the project's folder": {"project": "src", "requirements": None, "settings_module": None},
    "python": {"python": "python3.11-own"},
    "workers": {"server": {"processes": 3}},
    "an address": {"server": {"bind": "127.0.0.1:8101"}},
    "a socket again": {"server": None},
    "http": {"server": {"protocol": "http"}},
    "no overlay": {
        "server": None,
        "overlay": False,
        "settings_module": "website.environment",
        "environment": {
            "SITE_DATABASE": {"from": "database_path"},
            "SITE_STATIC": {"from": "static_root"},
            "SITE_KEY": {"from": "secret_key"},
            "SITE_HOSTS": {"from": "domains"},
        },
        "database": {"engine": "sqlite"},
    },
    "an overlay again": {"overlay": None, "settings_module": None, "environment": None, "database": None},
    "a repository": {"repository": "file:///srv/git/moved.git"},
}
ENVIRONMENT = """
import os
from website.settings import *
DEBUG = False
SECRET_KEY = os.environ["SITE_KEY"]
ALLOWED_HOSTS = os.environ["SITE_HOSTS"].split(",")
STATIC_ROOT = os.environ["SITE_STATIC"]
DATABASES["default"]["NAME"] = os.environ["SITE_DATABASE"]
"""


@pytest.fixture(scope="module")
def prepared(blog):
    """The repository has what each change asks for, in one commit."""
    top = blog.repository.worktree
    files = {str(path.relative_to(top)): path.read_bytes() for path in top.rglob("*") if path.is_file()}
    project = {name: content for name, content in files.items() if not name.startswith(".git")}
    settings = {
        "website/production.py": "from website.settings import *\n",
        "website/environment.py": ENVIRONMENT,
        "needs/all.txt": "Django==5.2.19\n",
        **version("5.0"),
    }
    copied = {f"src/{name}": content for name, content in (project | settings).items() if name != "requirements.txt"}
    blog.repository.commit({**settings, **copied})
    blog.host.run("cp -L /usr/bin/python3 /usr/local/bin/python3.11-own; cp -r /srv/git/project.git /srv/git/moved.git")
    blog.deploy(project=".")
    return blog


#: Further ones are left to --all.
USUAL = ("requirements",)


@pytest.mark.parametrize("change", shortened(CHANGES, *USUAL))
def test_a_change_loses_no_request(prepared, change):
    blog = prepared
    before = blog.live
    address = f"http://{blog.host.address}/release"
    with Load(address, blog.domain, connections=4, release=release_of, pause=0.08) as load:
        load.wait(20)
        blog.deploy(**CHANGES[change])
        load.wait(20)
    assert load.failed == [] and load.releases[:1] == [before]
    assert (blog.live != before) == (change != "a repository")
    assert "was here" in blog.get("/").text and not blog.apply().changed


@pytest.mark.parametrize("changes", [{"root": "/srv/django/elsewhere"}, {"user": "another"}], ids=["root", "user"])
def test_what_holds_data_is_refused(blog, changes):
    comment = next(iter(blog.apply(**changes).failed.values()))
    assert "its data belongs to the former" in comment and "state: absent" in comment and lines(comment) <= 10
    blog.configure(root=None, user=None)


def test_another_file_of_the_database_is_refused_until_the_data_is_there(blog):
    before = blog.live
    comment = blog.apply(database={"engine": "sqlite", "name": "other.sqlite3"}).failed["blog can be deployed"]
    assert f"would be {blog.root}/database/other.sqlite3, which is empty" in comment and lines(comment) <= 10
    assert blog.answering["release"] == before
    command = next(line for line in comment.splitlines() if "runuser -u" in line).partition("copy the data: ")[2]
    blog.host.run(command)
    blog.deploy()
    assert blog.live != before and "was here" in blog.get("/").text
    blog.deploy(database=None)


def test_another_engine_is_refused_and_how_it_is_done_works(blog):
    """As docs/guides/databases.md has it; nothing of the new server is installed before."""
    before, postgres = blog.live, {"engine": "postgres"}
    for test in (True, False):
        failed = blog.apply(test=test, database=postgres).failed
        assert "would be postgres:///blog, which is empty; the data is in sqlite:///" in failed["blog can be deployed"]
        assert "PostgreSQL is installed" in failed and blog.answering["release"] == before
    assert blog.host.run(["dpkg-query", "-W", "postgresql"], check=False).returncode != 0
    blog.deploy(database=None, databases={"default": {}, "next": {**postgres, "name": "blog"}})
    blog.host.call("django.maintenance", "blog", "on")
    file = f"{blog.root}/database/move.json"
    dump = "dumpdata --natural-foreign --exclude contenttypes --exclude auth.permission --output"
    blog.manage(f"{dump} {file}")
    blog.manage(f"loaddata --database next {file}")
    (warning,) = blog.deploy(databases=None, database=postgres)["blog can be deployed"].warnings
    assert "if the new one is empty" in warning
    blog.host.call("django.maintenance", "blog", "off")
    assert "was here" in blog.get("/").text and not blog.apply().changed
    rows = ["runuser", "-u", "blog", "--", "psql", "-tAc", "SELECT name FROM guestbook_entry", "blog"]
    assert blog.host.run(rows).stdout.split() == ["Ada"]
    refused = blog.host.salt("django.rollback", "blog").stdout
    assert "writes to postgres:///blog: what was written since would be missing" in refused and blog.live != before


def test_empty_database_is_begun_with_where_the_pillar_says_so(blog):
    before = blog.live
    comment = blog.apply(database={"engine": "postgres", "name": "blog_2"}).failed["blog can be deployed"]
    place = comment.partition("database:replaces: ")[2].partition(" to begin")[0]
    applied = blog.deploy(database={"engine": "postgres", "name": "blog_2", "replaces": place})
    assert "postgres:///blog_2, which is empty" in str(applied.warnings) and blog.live != before
    assert "was here" not in blog.get("/").text and not blog.apply().changed


def test_another_name_is_refused_and_how_it_is_done_works(blog):
    options = {**blog.options, "root": blog.root, "user": "blog"}
    del options["repository"], blog.sites["blog"]
    journal = Site(blog.host, blog.repository, "journal", neighbour=blog, **options)
    applied = journal.apply()
    comment = applied.failed["journal can be deployed"]
    assert (
        "blog, which is no longer in the pillar, still serves blog.example.org on this host" in comment
        and lines(comment) <= 10
    )
    assert blog.get("/").status_code == 200
    del journal.sites["journal"]
    journal.sites["blog"] = {"state": "absent"}
    blog.host.pillar({"django": {"sites": journal.sites}})
    assert blog.host.apply().ok
    del journal.sites["blog"]
    journal.sites["journal"] = journal.options
    journal.deploy()
    assert "was here" in journal.get("/").text and journal.get("/media/kept.txt").text == "kept"
    assert not journal.apply().changed
