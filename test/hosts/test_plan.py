"""What is known before a release: by a plan, which builds it aside, by a dry run, and what is written down after it."""

import json

import pytest
from conftest import live_site
from sites import Site, lines, version

TOKEN = "grenadier-7f3-token"
SETTINGS = """
import os
TIME_ZONE = "Europe/Berlin"
LEAK = f"token={os.environ['API_TOKEN']}"
SHOP = {"PASSWORD": "grenadier-7f3-password", "URL": "https://shop.example.org"}
BUILDER = os.getuid()
"""
MIGRATION = """
from django.db import migrations, models

class Migration(migrations.Migration):
    dependencies = [("guestbook", "0003_entry_hidden")]
    operations = [migrations.AddField("entry", "mood", models.CharField(max_length=20, null=True))]
"""


@pytest.fixture(scope="module")
def blog(module_hosts, repositories) -> Site:
    options = {"secrets": {"API_TOKEN": {"value": TOKEN}}, "shared": ["guestbook/data"]}
    return live_site(module_hosts, repositories, **options)


def traces(site: Site) -> str:
    """What a plan must not change: releases, links, secrets, data, units, nginx's files, and what was written down.

    Of the database only the file: any process that opens it may create or remove its write-ahead log.
    """
    parts = "releases current previous secrets database/db.sqlite3 media shared log site.json deploys.jsonl"
    places = f"{parts} /etc/nginx /etc/systemd/system/django-*"
    found = site.host.run(
        f"cd {site.root} && find {places} -printf '%p %u:%g %m %s %T@ %l\n' | sort; ls -A {site.root}"
    )
    return f"{found.stdout}{site.host.run(['pgrep', '-u', 'blog', '-a'], check=False).stdout}"


def test_a_plan_says_what_the_release_then_does(blog):
    settings = blog.repository.read("website/settings.py")
    files = {
        "requirements.txt": "Django==5.2.19\npython-dotenv==1.1.1\n",
        "website/settings.py": settings + SETTINGS,
        "guestbook/migrations/0004_mood.py": MIGRATION,
        **version("2"),
    }
    blog.repository.commit(files, "Moods")
    before, live = traces(blog), blog.live
    plan = blog.host.call("django.plan", "blog")
    assert traces(blog) == before and blog.answering["release"] == live
    new = plan["release"]["new"]
    assert new.startswith("0003-") and plan["release"]["old"] == live
    assert plan["packages"] == {"added": {"python-dotenv": "1.1.1"}}
    assert plan["requirements"]["requirements.txt"].splitlines()[-1] == "+python-dotenv==1.1.1"
    assert [line.partition(" ")[2] for line in plan["commits"]] == ["Ada: Moods"]
    assert "guestbook.0004_mood" in json.dumps(plan["migrations"])
    uid = blog.host.run(["id", "-u", "blog"]).stdout.strip()
    assert plan["settings"] == {
        "BUILDER": f"not set → {uid}",
        "LEAK": "new",
        "SHOP.PASSWORD": "new",
        "SHOP.URL": "not set → 'https://shop.example.org'",
        "TIME_ZONE": "'UTC' → 'Europe/Berlin'",
    }
    assert "grenadier" not in json.dumps(plan) and "rendered" not in plan
    assert "0003 starts next to django-blog-0002" in plan["restarts"][0]

    told = blog.apply(test=True)
    source = told.changed["blog has its source"]
    assert {key: source[key] for key in ("commits", "requirements", "migrations")} == {
        "commits": plan["commits"],
        "requirements": plan["requirements"],
        "migrations": ["guestbook/migrations/0004_mood.py"],
    }
    done = blog.deploy()
    assert blog.live == new and done.changed["blog has its virtualenv"]["virtualenv"].endswith(", shared")
    assert "guestbook.0004_mood" in json.dumps(done.changed["blog has its database migrated"])
    assert blog.record()["packages"]["python-dotenv"] == "1.1.1"
    assert blog.host.call("django.plan", "blog")["release"].startswith(f"none: {new} is of this commit")


@pytest.mark.full
def test_a_dry_run_shows_the_files_that_the_apply_then_writes(blog):
    changes = {"server": {"threads": 2}, "media": {"max_upload": "5M"}}
    told = blog.apply(test=True, **changes)
    assert told.ok and "+threads = 2" in told.changed["blog has its instance"]["files"]["uwsgi.ini"]
    done = blog.deploy()
    assert told.changed["blog is served"] == done.changed["blog is served"]
    assert "client_max_body_size" in json.dumps(done.changed["blog is served"])
    assert "threads = 2\n" in blog.host.read(f"{blog.root}/current/config/uwsgi.ini")
    assert not blog.apply(test=True).changed


@pytest.mark.full
def test_a_plan_that_fails_leaves_nothing_and_says_why(blog):
    blog.repository.commit({"guestbook/views.py": "def entries(:\n"}, "Broken")
    assert blog.units  # the former release has ended
    before = traces(blog)
    done = blog.host.salt("django.plan", "blog")
    assert done.returncode != 0 and traces(blog) == before
    told = json.loads(done.stdout)["local"]
    assert (
        told.startswith("plan: starting Django: SyntaxError") and "guestbook/views.py:1" in told and lines(told) <= 10
    )


@pytest.mark.full
def test_what_was_done_and_what_has_failed_is_written_down(blog):
    live = blog.live
    assert not blog.apply().ok
    assert not blog.apply(revision="gone").ok
    rows = blog.host.call("django.releases", "blog")
    assert [(row["release"][:4], row["state"], row["role"]) for row in rows] == [
        ("", "failed", ""),
        ("0005", "failed", ""),
        (live[:4], "good", "live"),
        ("0003", "good", "previous"),
        ("0002", "good", ""),
        ("0001", "good", ""),
    ]
    assert rows[0]["failure"].startswith("source: looking up gone") or "no such branch" in rows[0]["failure"]
    assert rows[1]["failure"].startswith("static: starting Django: SyntaxError")
    assert (rows[2]["health"].split(",")[0], rows[2]["schema"]) == ("runs", "fits")
    assert rows[4]["schema"] == "fits; database has 1 migration more (all safe)"
    assert rows[2]["asked_by"] == "state.apply by root"
    record = blog.host.call("django.record", "blog", "2")
    assert record["asked_by"].startswith("state.apply by root, salt job 2") and record["author"] == "Ada"
    assert record["packages"]["django"] == record["facts"]["django"] == "5.2.19" and record["committed"].endswith("Z")
    assert blog.host.call("django.status", "blog")[0]["failed"].endswith(" s ago")
    assert "Moods" in blog.host.run(["salt-call", "--local", "django.releases", "blog"]).stdout
