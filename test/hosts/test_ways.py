"""Further ways to run: the formula by gitfs, Salt 3007, and an upgrade from modules that were flat files."""

import io
import json
import subprocess
import tarfile

import pytest
from driven import Driven, reachable_by_ssh
from fleet import MASTER, Fleet, await_minions, start_master, start_salt
from images import pins
from lab import MINION, ROOT, Host, tree
from sites import Site, version

#: The last commit in which `_utils` had each module of the engine as a file.
FLAT = "742c587f"


@pytest.fixture
def formula(tmp_path):
    """The work tree in a folder, as a commit would have it."""
    with tarfile.open(fileobj=io.BytesIO(tree())) as tar:
        tar.extractall(tmp_path / "formula")
    return tmp_path / "formula"


#: Where a master or a minion finds the formula: a git repository, which its file server reads.
GITFS = {
    "file_roots": {"base": ["/srv/salt"]},
    "fileserver_backend": ["roots", "gitfs"],
    "gitfs_provider": "gitpython",
    "gitfs_remotes": [{"file:///srv/git/formula.git": [{"base": "main"}]}],
}


@pytest.mark.full
@pytest.mark.parametrize("way", ["masterless", "master"])
def test_the_formula_comes_by_gitfs(hosts, repositories, formula, way):
    host = hosts(kind="ready", name="web1")
    repositories(host, "/srv/git/formula.git", formula)
    others = "find /srv/formula -mindepth 1 -maxdepth 1 -not -name test"  # in which is what runs salt-call
    host.run(f"rm -r /var/cache/salt/minion $({others})")
    if way == "master":
        start_salt(host, "master", MASTER | GITFS | {"runner_dirs": [], "pillar_dirs": [], "ext_pillar": []})
        start_salt(host, "minion", {"id": "web1", "master": "localhost"})
        await_minions(host, [host])
        blog = Site(Driven(host, by=host, command=("salt", "--timeout=600")), repositories(host))
    else:
        host.write("/etc/salt/minion", json.dumps(MINION | GITFS | {"id": host.name}))
        blog = Site(host, repositories(host))
    foreseen = blog.apply(test=True)
    assert not foreseen.failed and foreseen["blog has its source"].result is None, foreseen
    blog.deploy()
    assert "Guestbook" in blog.get().text
    assert blog.host.call("django.status", "blog", full=True)[0]["managed"] is True
    assert not blog.apply().changed


@pytest.mark.full
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


def serve(host: Host, formula: bytes) -> None:
    """Have a host serve this version of the formula."""
    host.run("find /srv/formula -mindepth 1 -maxdepth 1 -not -name test -exec rm -r {} +")
    host.send(formula, "/srv/formula")
    host.run("rm -rf /var/cache/salt/*/file_lists")  # Salt lists a folder once in twenty seconds


def served_by(way: str, hosts, repositories) -> tuple[Site, Host]:
    """A site that is deployed in one way, and the host that serves the formula."""
    if way == "salt-ssh":
        desk, bare = hosts(name="desk"), hosts(kind="bare", name="web1")
        reachable_by_ssh(desk, bare)
        files = {"file_roots": {"base": ["/srv/formula"]}, "pillar_roots": {"base": ["/srv/pillar"]}}
        desk.write("/etc/salt/master", json.dumps(files))
        desk.write("/etc/salt/roster", "web1:\n  host: web1\n  user: root\n  priv: /root/.ssh/id_ed25519\n")
        return Site(Driven(bare, by=desk, command=("salt-ssh",)), repositories(bare)), desk
    host = hosts(kind="ready", name="web1")
    if way == "masterless":
        return Site(host, repositories(host)), host
    start_master(host)
    host.write("/etc/salt/minion", json.dumps({"id": "web1", "master": "localhost"}))
    host.run(["systemd-run", "--unit=salt-minion", "salt-minion"])
    await_minions(host, [host])
    return Site(Driven(host, by=host, command=("salt", "--timeout=600")), repositories(host)), host


@pytest.mark.full
@pytest.mark.parametrize("way", ["masterless", "master", "salt-ssh"])
def test_upgrade_from_flat_modules_makes_one_release(hosts, repositories, way):
    folders = ("django", "_modules", "_pillar", "_runners", "_states", "_utils")
    known = subprocess.run(["git", "archive", FLAT, *folders], cwd=ROOT, capture_output=True, check=False)
    if known.returncode:
        pytest.skip("a clone without that commit")
    blog, server = served_by(way, hosts, repositories)
    serve(server, known.stdout)
    blog.configure(backup={"schedule": "daily"})
    blog.deploy()
    live, before = blog.live, blog.host.run("find / -xdev -name 'django_site*.py'").stdout
    assert before and not blog.apply().changed
    serve(server, tree())
    foreseen, upgraded = blog.apply(test=True), blog.apply()
    assert not foreseen.failed and upgraded.ok, upgraded
    # As the notes of upgrades say: where pid files and sockets are, the id of requests, and OOMPolicy are of a release.
    new = blog.live
    assert new[:4] == f"{int(live[:4]) + 1:04}" and new[5:] == live[5:], "of the same commit"
    assert {*upgraded.changed} <= {*foreseen.changed} | {"The modules of the formula are current"}
    assert not blog.apply().changed
    if way != "salt-ssh":  # which never removes a module
        assert blog.host.run("find /var/cache -path '*extmods/utils/django_site*.py'").stdout == ""
    assert blog.host.call("django.status", "blog", full=True)[0]["release"] == new
    assert blog.host.call("django.rollback", "blog")["release"] == blog.live == live
    blog.repository.commit(version("2.0"))
    assert blog.host.call("django.release", "blog")["release"] == blog.live not in (live, new)
