"""The source of a site's code, and the errors if it cannot be fetched; git never waits for an answer on a terminal."""

import re
import subprocess
import time
from collections.abc import Iterator

import pytest
from lab import Host, busy
from products import shortened
from repository import Repository
from sites import Site, lines, version

#: A Git server that listens and never answers, and one that requires a login.
SILENT = "import socket, time; s = socket.create_server(('', 9001)); time.sleep(10000)"
LOGIN = """
import http.server
class Refuse(http.server.BaseHTTPRequestHandler):
    def do_GET(self):
        self.send_response(401)
        self.send_header("WWW-Authenticate", 'Basic realm="git"')
        self.send_header("Content-Length", "0")
        self.end_headers()
http.server.HTTPServer(("", 9002), Refuse).serve_forever()
"""
SHORT = {"fetch": "2s"}


@pytest.fixture(scope="module")
def server(module_hosts) -> Host:
    """Return a host with repositories, which the user git serves by ssh."""
    server = module_hosts(kind="ready", name="git1")
    server.run(["useradd", "--create-home", "git"])
    server.run(["git", "config", "--system", "--add", "safe.directory", "*"])
    server.run("ssh-keygen -q -t ed25519 -N '' -f /root/key && ssh-keygen -q -t ed25519 -N '' -f /root/stranger")
    server.run("install -D -o git -m 600 /root/key.pub /home/git/.ssh/authorized_keys && chown git /home/git/.ssh")
    for name, program in {"silent": SILENT, "login": LOGIN}.items():
        server.run(["systemd-run", "--quiet", f"--unit={name}", "python3", "-c", program])
    return server


@pytest.fixture(scope="module")
def remote(server, repositories):
    """Return the example's repository on the server."""
    return repositories(server, "/srv/git/project.git")


@pytest.fixture(scope="module")
def known(server) -> list[str]:
    key = server.read("/etc/ssh/ssh_host_ed25519_key.pub").split()
    return [f"git1 {key[0]} {key[1]}"]


@pytest.fixture(scope="module")
def blog(module_hosts, repositories) -> Site:
    """Return a site with a release, deployed from a repository on its own host."""
    host = module_hosts(kind="live", name="web1")
    blog = Site(host, repositories(host))
    blog.deploy()
    return blog


@pytest.fixture
def shop(blog) -> Iterator[Site]:
    """Return a second site of the host, which has no release yet."""
    shop = Site(blog.host, blog.repository, "shop", neighbour=blog)
    yield shop
    del shop.sites["shop"]


def ssh(server: Host, known: list[str]) -> dict[str, object]:
    return {"repository": "git@git1:/srv/git/project.git", "deploy_key": server.read("/root/key"), "known_hosts": known}


#: Options of a first deployment that fails, and its error.
UNAVAILABLE = {
    "unknown branch": (
        {"revision": "nowhere"},
        r"looking up nowhere in .*: no such branch, tag or commit.*\n.*main.*revision",
    ),
    "unknown commit": ({"revision": "f" * 40}, r"commit f{40} not found\n.*push it"),
    "no repository": ({"repository": "/srv/git/none.git"}, r"no repository found at /srv/git/none.git"),
    "closed port": ({"repository": "http://git1:9000/project.git"}, r"check that git1 is reachable from this host"),
    "unknown name": (
        {"repository": "https://nowhere.invalid/project.git"},
        r"check that nowhere.invalid is reachable from this host",
    ),
    "silent server": ({"repository": "http://git1:9001/project.git", "timeouts": SHORT}, r"timed out after 2 s"),
    "silent ssh server": (
        {"repository": "ssh://git@git1:9001/srv/project.git", "timeouts": SHORT},
        r"timed out after 2 s",
    ),
    "login": ({"repository": "http://git1:9002/project.git"}, r"git1 requires a login\n(.*\n)*.*deploy_key"),
    "no folder": (
        {"repository": None, "revision": None, "folder": "/srv/none"},
        r"the folder /srv/none does not exist",
    ),
}


@pytest.mark.parametrize("case", shortened(UNAVAILABLE, "login"))
def test_first_deployment_fails_with_the_cause(server, shop, case):
    options, error = UNAVAILABLE[case]
    refused(shop.apply(**options), error)


def refused(applied, error: str) -> None:
    assert next(iter(applied.failed)) == "shop has its source", applied
    comment = applied.failed["shop has its source"]
    assert re.search(error, comment), comment
    assert "nothing runs yet" in comment and lines(comment) <= 10
    assert applied.returncode != 0
    assert applied["shop has its source"].duration < 60_000 * busy()
    assert not [state_id for state_id in applied.failed if state_id.startswith("blog ")], "other sites are deployed"


def test_release_over_ssh_with_deploy_key_and_pinned_host_key(server, known, remote, blog):
    commit = remote.commit(version("3.0"))
    assert not blog.deploy(**ssh(server, known)).warnings
    assert blog.record()["commit"] == commit and blog.answering["version"] == "3.0"
    key = blog.host.testinfra.file(f"{blog.root}/repository.git/deploy_key")
    assert (key.user, key.mode) == ("root", 0o600)
    assert not blog.apply().changed


def test_unknown_host_key_is_refused(server, known, remote, shop):
    refused(shop.apply(**ssh(server, [])), r"the host key of git1 is not known\n(.*\n)*.*known_hosts")


@pytest.mark.full
def test_changed_host_key_is_refused(server, known, remote, shop):
    other = [f"git1 {' '.join(server.read('/root/stranger.pub').split()[:2])}"]
    refused(shop.apply(**ssh(server, other)), r"the host key of git1 is not the pinned one")


def test_refused_deploy_key_is_named(server, known, remote, shop):
    refused(
        shop.apply(**ssh(server, known) | {"deploy_key": server.read("/root/stranger")}), r"git1 refused the SSH key"
    )


def test_changed_host_key_leaves_the_release_active(server, known, remote, blog):
    live = blog.live
    blog.deploy(**ssh(server, known))
    live = blog.live
    other = [f"git1 {' '.join(server.read('/root/stranger.pub').split()[:2])}"]
    applied = blog.apply(known_hosts=other)
    assert "is not the pinned one" in applied.failed["blog has its source"]
    assert f"{live} still runs" in applied.failed["blog has its source"]
    assert blog.answering["release"] == live


@pytest.fixture
def live(blog) -> Site:
    """Return the site with its own repository again."""
    here = {
        "repository": blog.repository.url,
        "revision": "main",
        "folder": None,
        "deploy_key": None,
        "known_hosts": None,
    }
    blog.deploy(**here, timeouts=None, submodules=None)
    return blog


@pytest.mark.parametrize(
    "url",
    shortened(
        ("http://git1:9000/project.git", "http://git1:9001/project.git", "ssh://git@git1:9001/x.git"),
        "http://git1:9001/project.git",
    ),
)
def test_unreachable_remote_is_a_warning_while_a_release_is_active(server, live, url):
    release = live.live
    began = time.monotonic()
    applied = live.deploy(repository=url, timeouts=SHORT)
    assert time.monotonic() - began < 90 * busy()
    assert applied.changed.keys() == {"blog has its directories"}
    assert f"{release} stays live" in str(applied.warnings)
    assert live.answering["release"] == release


@pytest.mark.full
def test_release_of_a_branch_a_tag_and_a_commit(live):
    repository = live.repository
    branched = repository.commit(version("2.0"), branch="next")
    live.deploy(revision="next")
    assert (live.record()["commit"], live.answering["version"]) == (branched, "2.0")

    tagged = repository.commit(version("2.1"), branch="next")
    repository.git("tag", "--annotate", "--message=v2.1", "v2.1")
    repository.push()
    live.deploy(revision="v2.1")
    assert (live.record()["commit"], live.answering["version"]) == (tagged, "2.1")
    repository.commit(version("2.2"), branch="next")
    assert not live.apply().changed, "a tag does not move with its branch"

    live.deploy(revision=branched[:10])
    assert live.record()["commit"] == branched


def test_fetched_commit_is_released_without_network(live):
    first = live.record()["commit"]
    live.repository.commit(version("2.3"))
    live.deploy()
    live.host.run(["mv", live.repository.path, "/srv/away"])
    try:
        applied = live.deploy(revision=first)
        assert live.record()["commit"] == first and not applied.warnings
        again = live.apply()
        assert again.ok and not again.changed and not again.warnings
    finally:
        live.host.run(["mv", "/srv/away", live.repository.path])


@pytest.mark.full
def test_name_of_both_a_branch_and_a_tag_is_refused(live):
    live.repository.commit(version("2.4"), branch="both")
    live.repository.git("tag", "both", "main")
    live.repository.push()
    comment = live.apply(revision="both").failed["blog has its source"]
    assert "it is both a branch" in comment and "refs/heads/both" in comment
    live.deploy(revision="refs/heads/both")
    assert live.answering["version"] == "2.4"


@pytest.mark.full
def test_force_pushed_branch_is_followed(live):
    live.repository.commit(version("2.5"))
    live.deploy()
    live.repository.git("reset", "--quiet", "--hard", "HEAD~1")
    live.repository.commit(version("2.6"))
    live.deploy()
    assert live.answering["version"] == "2.6"


def test_repository_of_another_user_is_read(live):
    live.host.run(["chown", "-R", "www-data:www-data", live.repository.path])
    live.repository.git("switch", "--quiet", "main")
    commit = live.repository.commit(version("2.7"))
    live.host.run(["chown", "-R", "www-data:www-data", live.repository.path])
    live.deploy()
    assert live.record()["commit"] == commit
    live.host.run(["chown", "-R", "root:root", live.repository.path])


@pytest.mark.full
def test_listed_submodule_is_part_of_the_release(live, repositories, tmp_path):
    (tmp_path / "motto.py").write_text("MOTTO = 'from the submodule'\n")
    library = repositories(live.host, "/srv/git/motto.git", tmp_path)
    repository = live.repository
    (repository.worktree / "motto").mkdir()
    repository.git("update-index", "--add", "--cacheinfo", f"160000,{library.first},motto")
    modules = '[submodule "motto"]\n\tpath = motto\n\turl = ../motto.git\n'
    repository.commit({".gitmodules": modules})
    comment = live.apply().failed["blog has its source"]
    assert "the submodule motto points to file:///srv/git/motto.git, which is on this host" in comment
    assert "django:sites:blog:submodules: [/srv/git/motto.git]" in comment and lines(comment) <= 10
    live.deploy(submodules=["/srv/git/motto.git"])
    assert live.host.read(f"{live.root}/current/source/motto/motto.py") == "MOTTO = 'from the submodule'\n"

    live.host.run(["mv", "/srv/git/motto.git", "/srv/git/away.git"])
    repository.commit({"notes.txt": "1\n"})
    live.deploy()
    assert live.host.testinfra.file(f"{live.root}/current/source/motto/motto.py").exists, (
        "submodules that were fetched are kept"
    )
    repository.git("rm", "--quiet", "--cached", "motto")
    (repository.worktree / "motto").rmdir()
    repository.commit({".gitmodules": None})


@pytest.fixture
def hostile(live, repositories, tmp_path) -> Iterator[Site]:
    """Yield the site, whose repository an attacker may push to; restore it afterwards."""
    good = live.repository.git("rev-parse", "main").strip()
    live.host.run(["mkdir", "--mode=700", "/root/canary"])
    live.host.run("git init -q /root/secretrepo && cd /root/secretrepo && echo hunter2 >password.txt && git add . && "
                  "git -c user.name=A -c user.email=a@example.org commit -qm Secret")  # fmt: skip
    yield live
    live.repository.git("reset", "--quiet", "--hard", good)
    live.repository.push()
    live.deploy(submodules=None)
    assert live.host.run(["ls", "/root/canary"]).stdout == ""
    live.host.run(["rm", "-r", "/root/canary", "/root/secretrepo"])


@pytest.mark.parametrize(
    "url",
    shortened(
        ("file:///root/secretrepo", "/root/secretrepo", "../../../root/secretrepo", "/srv/django/blog/repository.git"),
        "../../../root/secretrepo",
    ),
)
def test_submodule_of_this_host_refused_unless_the_pillar_lists_it(hostile, url):
    repository, before = hostile.repository, hostile.live
    repository.git("update-index", "--add", "--cacheinfo", f"160000,{repository.first},stolen")
    (repository.worktree / "stolen").mkdir(exist_ok=True)
    repository.commit({".gitmodules": f'[submodule "stolen"]\n\tpath = stolen\n\turl = {url}\n'})
    comment = hostile.apply().failed["blog has its source"]
    assert "the submodule stolen points to" in comment and "which is on this host" in comment and lines(comment) <= 10
    assert hostile.live == before
    assert not hostile.host.run(f"find {hostile.root} -name password.txt").stdout


@pytest.mark.full
def test_submodule_through_a_link_of_another_one_refused(hostile, repositories, tmp_path):
    """A tree with two entries of one name: one submodule brings a link, the path of the other goes through it."""
    repository = hostile.repository
    (tmp_path / "cron").write_text("* * * * * root id\n")
    linking = repositories(hostile.host, "/srv/git/linking.git", tmp_path)
    payload = repositories(hostile.host, "/srv/git/payload.git", tmp_path)
    (linking.worktree / "x").symlink_to("/root/canary")
    linked = linking.commit({})
    modules = repository.worktree / ".gitmodules"
    modules.write_text(
        '[submodule "a"]\n\tpath = a\n\turl = ../linking.git\n[submodule "b"]\n\tpath = a/x\n\turl = ../payload.git\n'
    )
    blob = repository.git("hash-object", "-w", ".gitmodules").strip()
    manage = repository.git("rev-parse", "HEAD:manage.py").strip()
    modules.unlink()
    inner = tree(repository, {b"160000 x": payload.first})
    entries = {b"100644 .gitmodules": blob, b"160000 a": linked, b"40000 a": inner, b"100755 manage.py": manage}
    commit = repository.git("commit-tree", "-p", "main", "-m", "Through a link", tree(repository, entries)).strip()
    repository.git("update-ref", "refs/heads/main", commit)
    repository.push()
    comment = hostile.apply(submodules=["/srv/git/linking.git", "/srv/git/payload.git"]).failed["blog has its source"]
    assert "git fsck refuses" in comment and "duplicateEntries" in comment and lines(comment) <= 10


def tree(repository: Repository, entries: dict[bytes, str]) -> str:
    """Write a tree byte by byte, from the objects of its entries."""
    argv = ["git", "hash-object", "-t", "tree", "--literally", "-w", "--stdin"]
    content = b"".join(entry + b"\0" + bytes.fromhex(name) for entry, name in entries.items())
    made = subprocess.run(argv, cwd=repository.worktree, input=content, check=True, capture_output=True)
    return made.stdout.decode().strip()


@pytest.mark.full
def test_filter_of_the_system_does_not_run_as_root(hostile):
    hostile.host.run(["git", "config", "--system", "filter.lfs.smudge", "touch /root/canary/smudge; cat"])
    hostile.host.run(["git", "config", "--system", "filter.lfs.process", "touch /root/canary/process"])
    hostile.host.run(["git", "config", "--system", "filter.lfs.required", "true"])
    hostile.repository.commit({".gitattributes": "* filter=lfs\n", **version("2.9")})
    hostile.deploy()
    assert hostile.answering["version"] == "2.9"
    hostile.host.run(["git", "config", "--system", "--remove-section", "filter.lfs"])


def test_git_lfs_pointer_is_named(live):
    pointer = f"version https://git-lfs.github.com/spec/v1\noid sha256:{'a' * 64}\nsize 12345\n"
    live.repository.commit({"guestbook/static/guestbook/film.webm": pointer})
    comment = live.apply().failed["blog has its source"]
    assert "guestbook/static/guestbook/film.webm" in comment and "Git LFS" in comment and lines(comment) <= 10
    live.repository.commit({"guestbook/static/guestbook/film.webm": None})


@pytest.mark.full
def test_damaged_mirror_is_fetched_again(live):
    live.host.run(f"find {live.root}/repository.git/objects -type f -exec truncate --size=10 {{}} +")
    live.repository.commit(version("2.8"))
    live.deploy()
    assert live.answering["version"] == "2.8"


@pytest.mark.full
def test_local_folder_is_released_when_its_files_change(live):
    live.host.run(["git", "clone", "--quiet", live.repository.path, "/home/checkout"])
    live.deploy(repository=None, revision=None, folder="/home/checkout")
    first = live.live
    assert not live.host.testinfra.file(f"{live.root}/current/source/.git").exists

    live.host.write("/home/checkout/db.sqlite3", "ignored, as .gitignore says")
    live.host.run(["touch", "/home/checkout/manage.py"])
    assert not live.apply().changed
    live.host.write("/home/checkout/guestbook/version.py", 'VERSION = "local"\nRELEASE_NOTE = ""\n')
    foreseen = live.apply(test=True)
    assert "blog is live" in foreseen.changed and live.live == first
    live.deploy()
    assert live.answering["version"] == "local"
    assert live.host.run(["git", "-C", "/home/checkout", "status", "--porcelain"]).stdout == " M guestbook/version.py\n"


@pytest.mark.full
def test_folder_of_a_user_is_read_as_that_user(live):
    host = live.host
    host.run(["useradd", "--create-home", "ray"])
    host.run(f"git clone --quiet {live.repository.path} /home/ray/blog && chown -R ray: /home/ray")
    host.write("/home/ray/blog/guestbook/version.py", 'VERSION = "ray"\nRELEASE_NOTE = ""\n')
    live.deploy(repository=None, revision=None, folder="/home/ray/blog")
    assert live.answering["version"] == "ray" and not live.apply().changed
    status = host.run(["stat", "-c", "%U %a", f"{live.root}/folder.git"]).stdout
    assert status == "ray 700\n"

    host.run("mkdir -m 700 /root/secret && echo hunter2 >/root/secret/password.txt")
    host.write("/home/ray/blog/only.py", "hunter2", mode="0600")
    comment = live.apply().failed["blog has its source"]
    assert "reading /home/ray/blog as ray failed" in comment and "only.py" in comment and lines(comment) <= 10
    host.run("rm /home/ray/blog/only.py; mv /home/ray/blog /home/ray/aside")
    host.run(["runuser", "-u", "ray", "--", "ln", "-s", "/root/secret", "/home/ray/blog"])
    comment = live.apply().failed["blog has its source"]
    assert "/home/ray/blog" in comment
    assert not host.run(f"grep -rl hunter2 {live.root}", check=False).stdout
    assert live.answering["version"] == "ray"
    host.run(["rm", "-r", "/root/secret"])
