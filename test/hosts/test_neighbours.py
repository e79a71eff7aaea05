"""A host where nginx already serves other sites: their files stay, and ours never break them."""

import pytest
from sites import Site, lines, version

pytestmark = pytest.mark.full

THEIRS = """server {
    listen 80 default_server;
    server_name other.example.org;
    location / { return 200 "theirs"; }
}
"""


@pytest.fixture(scope="module")
def blog(module_hosts, repositories) -> Site:
    host = module_hosts(name="web1")
    host.run("apt-get -qq update && apt-get -qq install --no-install-recommends nginx-light", environment=APT)
    host.write("/etc/nginx/sites-available/other", THEIRS)
    host.run("ln -s ../sites-available/other /etc/nginx/sites-enabled/other && rm /etc/nginx/sites-enabled/default")
    host.write("/var/www/html/index.html", "the default page")
    host.run(["systemctl", "restart", "nginx"])
    blog = Site(host, repositories(host))
    blog.deploy()
    return blog


APT = {"DEBIAN_FRONTEND": "noninteractive"}


def test_the_neighbour_stays_and_answers_for_unknown_hosts(blog):
    assert blog.get().status_code == 200
    assert blog.host.http("/", "other.example.org").text == "theirs"
    assert blog.host.http("/", "unknown.example.org").text == "theirs"
    assert blog.host.read("/etc/nginx/sites-available/other") == THEIRS
    assert not blog.host.testinfra.file("/etc/nginx/sites-enabled/django-default").exists
    assert not blog.apply().changed


def test_a_broken_file_of_the_neighbour_is_named_and_ours_stays_as_it_was(blog):
    ours = blog.host.read("/etc/nginx/django/blog.conf")
    blog.host.write("/etc/nginx/sites-available/other", THEIRS.replace("return", "retrun"))
    old = blog.live
    blog.repository.commit(version("2.0"))
    applied = blog.apply(media={"max_upload": "3M"})
    assert next(iter(applied.failed)) == "blog is served", applied
    comment = applied.failed["blog is served"]
    assert "/etc/nginx/sites-enabled/other:4" in comment and lines(comment) <= 10
    assert blog.host.read("/etc/nginx/django/blog.conf") == ours
    assert blog.live != old and blog.answering["version"] == "2.0", "a switch needs no reload"

    blog.host.write("/etc/nginx/sites-available/other", THEIRS)
    assert blog.deploy().changed.keys() == {"blog is served"}
    assert "client_max_body_size 3M" in blog.host.read("/etc/nginx/django/blog.conf")
    assert not blog.apply().changed


def test_what_nginx_does_not_accept_of_ours_is_taken_back(blog):
    ours = blog.host.read("/etc/nginx/django/blog.conf")
    applied = blog.apply(proxy={"options": {"keepalive_timeoutt": "65s"}})
    comment = applied.failed["blog is served"]
    assert "keepalive_timeoutt" in comment and "/blog.conf:" in comment and lines(comment) <= 10, comment
    assert blog.host.read("/etc/nginx/django/blog.conf") == ours
    blog.host.run(["nginx", "-t"])
    assert blog.get().status_code == 200
    assert blog.deploy(proxy=None).changed.keys() == {"blog has its directories"}


def test_existing_file_at_the_path_of_a_virtual_host_is_refused(blog):
    path = "/etc/nginx/sites-available/news.example.org"
    blog.host.write(path, "# mine\n")
    applied = blog.apply(domains=["blog.example.org", "news.example.org"])
    comment = applied.failed["blog has its directories"]
    assert f"{path} is in the way" in comment and lines(comment) <= 10
    assert blog.host.read(path) == "# mine\n" and blog.get().status_code == 200
    blog.host.run(["rm", path])
    blog.deploy()
    assert blog.host.http("/", "news.example.org").status_code == 200
    blog.deploy(domains=["blog.example.org"])


def test_nginx_that_was_stopped_is_started(blog):
    blog.host.run(["systemctl", "stop", "nginx"])
    assert blog.deploy().changed.keys() == {"nginx runs"}
    assert blog.get().status_code == 200


def test_removal_leaves_the_neighbour(blog):
    blog.deploy(state="absent", remove_data=True)
    assert blog.host.http("/", "other.example.org").text == "theirs"
    assert blog.host.run("find /etc/nginx -name '*blog*' -o -path '/etc/nginx/django/*'").stdout == ""
    assert blog.host.testinfra.package("nginx-light").is_installed
