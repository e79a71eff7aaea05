"""Debian 12 becomes Debian 13 under a live site, which goes on, and gets the new Python by the next apply."""

import json

import pytest
from lab import MACHINE, Host, Needs
from sites import Site

pytestmark = pytest.mark.full
NEEDS = Needs(MACHINE, "a new systemd starts units of the former one, which it refuses in a container")

KEPT = "/etc/apt/apt.conf.d/60django-formula"
#: The steps that Debian's release notes have, and the one that people run after them.
UPGRADE = """
set -eu
export DEBIAN_FRONTEND=noninteractive
get="apt-get -qq --option=Dpkg::Options::=--force-confold --option=Dpkg::Use-Pty=0"
apt-mark hold ca-certificates >/dev/null  # whose file the tests have mounted
sed -i s/bookworm/trixie/g $(find /etc/apt/sources.list /etc/apt/sources.list.d -type f)
$get update >/dev/null
$get upgrade --without-new-pkgs >/dev/null
$get full-upgrade >/dev/null
$get autoremove >/dev/null
"""


@pytest.fixture(scope="module")
def blog(module_hosts, repositories) -> Site:
    host: Host = module_hosts("bookworm", kind="ready", name="web1")
    host.run("ln -sfn /usr/bin/python3.11 /opt/salt/bin/python")  # the tests' Salt stays with its Python
    blog = Site(host, repositories(host), database={"engine": "postgres"})
    blog.deploy()
    assert "/usr/bin/python3.11" in host.read(KEPT)
    return blog


def python(blog: Site, *arguments: str) -> str:
    """What the interpreter of the active release prints."""
    return blog.host.run([f"{blog.root}/current/virtualenv/bin/python", *arguments]).stdout.strip()


def test_release_goes_on_after_the_upgrade(blog):
    before = blog.live
    blog.host.run(UPGRADE, timeout=2400)
    assert blog.host.run(["python3", "--version"]).stdout.startswith("Python 3.13.")
    assert python(blog, "-c", "import ssl, sqlite3, sys; print(sys.version_info[1])") == "11"
    blog.host.run(["systemctl", "restart", f"{blog.unit}.service"])
    assert blog.answering["release"] == before
    assert blog.host.call("django.backup", "blog")
    (row,) = blog.host.call("django.status", "blog", full=True)
    assert row["interpreter"].startswith("python3 is 3.13.") and f"{before} has 3.11." in row["interpreter"]


def test_apply_gives_the_site_the_new_python(blog):
    record, before = blog.record(), blog.live
    foreseen = blog.apply(test=True)
    assert foreseen["blog has its source"].changes["python"]["old"].startswith("3.11.")
    with blog.lossless():
        blog.deploy()
    assert blog.live != before and blog.record()["commit"] == record["commit"]
    assert python(blog, "-c", "import sys; print(sys.version_info[1])") == "13"
    again = blog.apply()
    assert again.ok and not again.changed, again
    (row,) = blog.host.call("django.status", "blog", full=True)
    assert row["interpreter"] == "" and row["running"] is True
    assert blog.host.call("django.backup", "blog")


def test_former_release_is_there_until_it_is_deleted(blog):
    former = [name for name in blog.releases if name < blog.live][-1]
    blog.host.call("django.rollback", "blog", former)
    assert blog.answering["release"] == former
    blog.host.call("django.rollback", "blog", max(blog.releases))
    blog.deploy(releases={"keep": 2})
    for number in range(3):
        blog.repository.commit({"notes.txt": f"{number}\n"})
        blog.deploy()
    kept = blog.host.read(KEPT)
    assert "/usr/bin/python3.13" in kept and "/usr/bin/python3.11" not in kept
    simulated = blog.host.run(["apt-get", "--simulate", "autoremove"]).stdout
    assert "Remv python3.11" in simulated and "Remv python3.13" not in simulated, json.dumps(simulated)


def test_boot_starts_the_site(blog):
    blog.host.restart()
    assert blog.answering["release"] == blog.live
