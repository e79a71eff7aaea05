"""Masterless in two further ways: the formula by gitfs, and Salt 3007."""

import io
import json
import tarfile

import pytest
from fleet import Fleet, start_master
from images import pins
from lab import MINION, tree
from sites import Site, version


@pytest.fixture
def formula(tmp_path):
    """The work tree in a folder, as a commit would have it."""
    with tarfile.open(fileobj=io.BytesIO(tree())) as tar:
        tar.extractall(tmp_path / "formula")
    return tmp_path / "formula"


@pytest.mark.full
def test_the_formula_comes_by_gitfs(hosts, repositories, formula):
    host = hosts(kind="ready")
    repositories(host, "/srv/git/formula.git", formula)
    others = "find /srv/formula -mindepth 1 -maxdepth 1 -not -name test"  # in which is what runs salt-call
    host.run(f"rm -r /var/cache/salt/minion $({others})")
    minion = MINION | {
        "id": host.name,
        "file_roots": {"base": ["/srv/salt"]},
        "fileserver_backend": ["roots", "gitfs"],
        "gitfs_provider": "gitpython",
        "gitfs_remotes": [{"file:///srv/git/formula.git": [{"base": "main"}]}],
    }
    host.write("/etc/salt/minion", json.dumps(minion))
    blog = Site(host, repositories(host))
    foreseen = blog.apply(test=True)
    assert not foreseen.failed and foreseen["blog has its source"].result is None, foreseen
    blog.deploy()
    assert "Guestbook" in blog.get().text
    assert host.call("django.status", "blog")[0]["managed"] is True
    assert not blog.apply().changed


def test_salt_3007_does_the_same(hosts, repositories):
    host = hosts(kind="salt-3007")
    assert [f"salt=={host.call('test.version')}"] == pins("salt-3007")
    blog = Site(host, repositories(host), secrets={"API_TOKEN": "hunter2"})
    foreseen = blog.apply(test=True)
    assert not foreseen.failed and foreseen["blog has its source"].result is None, foreseen
    blog.deploy()
    first = blog.live
    again = blog.apply()
    assert again.ok and not again.changed, again
    blog.repository.commit(version("2.0"))
    blog.deploy()
    assert blog.answering["version"] == "2.0"
    host.call("django.rollback", "blog")
    assert blog.answering["release"] == blog.live == first
    held = blog.apply()
    assert held.ok and not held.changed
    assert host.salt("django.manage", "blog", "lacking").returncode != 0


@pytest.mark.full
def test_salt_3007_deploys_by_a_master(hosts, repositories, tmp_path):
    """A master that is its own minion: what it knows of a host is in another place of its cache."""
    host = hosts(kind="salt-3007", name="web1")
    start_master(host)
    host.write("/etc/salt/minion", json.dumps({"id": "web1", "master": "localhost"}))
    host.run(["systemd-run", "--unit=salt-minion", "salt-minion"])
    host.run("until salt --timeout=5 web1 test.ping | grep True; do sleep 0.5; done", timeout=240)
    fleet = Fleet(host, [host], host, tmp_path, hosts={"web*": ["app"]})
    fleet.configure(database={"engine": "sqlite"})
    fleet.laid_out = fleet.apply()
    assert fleet.failed() == {"web1": []}
    assert fleet.deploy()["hosts"] == fleet.live()
    before = fleet.live()
    fleet.release("2.0")
    fleet.run("rollback").check()
    assert fleet.live() == before
    assert [state["comment"] for state in fleet.apply()["web1"].values() if state["changes"]] == []
    known = host.run(["salt-run", "--out=json", "cache.grains", "web1"]).stdout
    assert host.address in str(json.loads(known)["web1"]["ipv4"])
