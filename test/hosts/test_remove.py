"""Taking a site off: what goes, what stays, and what is said of a site that merely left the pillar."""

import pytest
from sites import Site

DATA = {"backups", "database", "deploys.jsonl", "log", "media", "secrets", "shared", "site.json"}


@pytest.fixture(scope="module")
def shop(module_hosts, repositories) -> Site:
    """A site that stays."""
    host = module_hosts(kind="live")
    return Site(host, repositories(host), "shop")


@pytest.fixture
def blog(shop) -> Site:
    """A site with an upload, to be removed: that of the host's image first."""
    shop.host.run("test -e /srv/django/blog/current || pkill -u blog || true")
    blog = Site(shop.host, shop.repository, "blog", neighbour=shop)
    blog.deploy(state=None, remove_data=None)
    blog.host.write(f"{blog.root}/media/picture.txt", "kept", owner="blog", group="www-data")
    return blog


def left(blog: Site) -> set[str]:
    """What of the site is anywhere on the host, outside its root."""
    places = "/etc/nginx /etc/systemd /etc/tmpfiles.d /run/django /run/systemd/transient /var/lib/django-formula"
    found = blog.host.run(f"find {places} -name '*blog*' 2>/dev/null || true").stdout.split()
    return set(found)


def test_a_site_that_is_absent_is_gone_but_for_its_data(blog, shop):
    foreseen = blog.apply(test=True, state="absent")
    assert foreseen["blog is absent"].result is None and not foreseen.failed
    assert blog.get().status_code == 200

    secret = blog.host.read(f"{blog.root}/secrets/secret_key.json")
    applied = blog.deploy()
    assert "blog is absent" in applied.changed and not any(key.startswith("shop ") for key in applied.changed)
    assert set(blog.host.run(["ls", blog.root]).stdout.split()) == DATA
    assert left(blog) == set() and blog.units == []
    assert blog.host.run(["ps", "-u", "blog"], check=False).stdout.count("\n") == 1
    with pytest.raises(OSError):
        blog.get()
    assert shop.get().status_code == 200
    assert not blog.apply().changed

    blog.deploy(state="present")
    assert blog.host.read(f"{blog.root}/secrets/secret_key.json") == secret
    assert blog.get("/media/picture.txt").text == "kept"


def test_with_its_data_nothing_is_left(blog):
    blog.deploy(state="absent", remove_data=True)
    assert left(blog) == set() and not blog.host.testinfra.file(blog.root).exists
    assert blog.host.run(["getent", "passwd", "blog", "blog-build"], check=False).stdout == ""
    again = blog.apply()
    assert again.ok and not again.changed


@pytest.mark.full
def test_what_is_foreign_in_its_root_stays(blog):
    blog.host.write(f"{blog.root}/notes/mine.txt", "mine")
    blog.deploy(state="absent", remove_data=True)
    assert blog.host.run(["find", blog.root, "-type", "f"]).stdout.split() == [f"{blog.root}/notes/mine.txt"]
    blog.host.run(["rm", "-r", blog.root])


@pytest.mark.full
def test_data_goes_later_when_the_pillar_says_so(blog):
    blog.deploy(state="absent")
    applied = blog.deploy(remove_data=True)
    assert "blog is absent" in applied.changed
    assert not blog.host.testinfra.file(blog.root).exists


@pytest.mark.full
def test_a_site_that_left_the_pillar_keeps_running_and_is_named(blog, shop):
    live = blog.live
    del blog.sites["blog"]
    applied = shop.deploy()
    assert not applied.changed
    assert blog.answering["release"] == live
    status = {row["site"]: row for row in blog.host.call("django.status")}
    assert (status["blog"]["managed"], status["shop"]["managed"]) == (False, True)
    assert status["blog"]["running"] is True
    blog.sites["blog"] = blog.options


@pytest.mark.full
def test_the_first_of_all_is_taken_off_before_another_takes_its_domain(blog):
    wiki = Site(blog.host, blog.repository, "wiki", neighbour=blog, domains=blog.options["domains"])
    applied = blog.deploy(state="absent")
    order = [state.id for state in applied.states]
    assert order.index("blog is absent") < order.index("wiki is live")
    assert wiki.answering["release"] == wiki.live
    blog.sites["wiki"] = wiki.options | {"state": "absent", "remove_data": True}
    blog.deploy(state="present")
    assert blog.answering["release"] == blog.live
