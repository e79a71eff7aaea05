import os
import shutil
import socket
import stat
import subprocess
import time
from contextlib import contextmanager
from pathlib import Path

import django_host_clock
import django_host_command
import django_source
import django_source_folder
import django_source_submodule
import pytest
from django_host_command import DeploymentError
from upstream import Upstream


@pytest.fixture(scope="module")
def history(tmp_path_factory):
    """A repository that no test changes: branches, tags, and what they name."""
    upstream = Upstream(tmp_path_factory.mktemp("git") / "blog")
    names = {"first": upstream.first}
    upstream.git("tag", "v1")
    upstream.git("tag", "both", upstream.first)
    upstream.git("tag", "same")
    upstream.git("branch", "same")
    names["main"] = upstream.commit({"blog/models.py": "models\n"}, "The second commit: it's ünicode")
    upstream.git("tag", "--annotate", "--message", "Two", "v2")
    upstream.git("branch", "both")
    upstream.git("switch", "--quiet", "--create", "feature/one")
    names["feature"] = upstream.commit({"feature.py": "feature\n"})
    upstream.git("switch", "--quiet", "main")
    upstream.names = names
    return upstream


@pytest.fixture
def upstream(tmp_path):
    return Upstream(tmp_path / "upstream")


@pytest.fixture
def cloned(make_site):
    """Make a site that deploys from a repository, its mirror prepared."""

    def clone(upstream: Upstream | Path | str, **options):
        site = make_site(repository=str(getattr(upstream, "folder", upstream)), **options)
        django_source.prepare(site, None)
        return site

    return clone


def exported(site, commit, target=None):
    """The files of a commit as they were exported: path → content."""
    target = target or site.releases / commit[:12]
    django_source.export(site, commit, target)
    return {str(path.relative_to(target)): path.read_bytes() for path in target.rglob("*") if path.is_file()}


@pytest.mark.parametrize(
    ("revision", "name"),
    [
        ("HEAD", "main"),
        ("main", "main"),
        ("refs/heads/main", "main"),
        ("feature/one", "feature"),
        ("v1", "first"),
        ("refs/tags/v1", "first"),
        ("v2", "main"),
        ("same", "first"),
        ("refs/heads/both", "main"),
        ("refs/tags/both", "first"),
    ],
)
def test_a_revision_is_a_commit(cloned, history, revision, name):
    assert django_source.resolve(cloned(history), revision) == history.names[name]


def test_a_short_commit_is_looked_up(cloned, history):
    site = cloned(history)
    assert django_source.resolve(site, history.names["feature"][:10]) == history.names["feature"]


def test_a_commit_needs_no_network(cloned, history):
    site = cloned("https://127.0.0.1:1/nowhere.git")
    assert django_source.resolve(site, history.first) == history.first
    site.config["revision"] = history.first
    assert not django_source.needs_network(site)
    site.config["revision"] = "main"
    assert django_source.needs_network(site)


@pytest.mark.parametrize(
    ("revision", "message", "hint"),
    [
        (
            "mian",
            "asking {url} for mian: there is no such branch, tag or commit",
            "it has both, feature/one, main, same, both, same, v1, v2; correct django:sites:blog:revision",
        ),
        (
            "v",
            "asking {url} for v: there is no such branch, tag or commit",
            "it has both, feature/one, main, same, both, same, v1, v2; correct django:sites:blog:revision",
        ),
        (
            "deadbeef",
            "asking {url} for deadbeef: there is no such branch, tag or commit",
            "it has both, feature/one, main, same, both, same, v1, v2; correct django:sites:blog:revision",
        ),
        (
            "both",
            "asking {url} for both: it is a branch ({main:.12}) and a tag ({first:.12})",
            "say which: django:sites:blog:revision: refs/heads/both",
        ),
    ],
)
def test_a_revision_that_is_no_commit(cloned, history, revision, message, hint):
    with pytest.raises(DeploymentError) as error:
        django_source.resolve(cloned(history), revision)
    assert error.value.message == message.format(url=history.folder, **history.names)
    assert error.value.hint == hint and not error.value.transient


def test_a_commit_is_exported_as_it_is(cloned, upstream):
    (upstream.folder / "link").symlink_to("manage.py")
    files = {
        ".gitattributes": "private export-ignore\n*.txt text eol=crlf\n*.id ident\n*.sub export-subst\n",
        "private": "exported all the same\n",
        "id.id": "$Id$\n",
        "sub.sub": "$Format:%H$\n",
        "bytes": bytes(range(256)),
        "name with ünicode\n": "x",
        "folder/.hidden": "",
    }
    upstream.commit(files)
    (upstream.folder / "manage.py").chmod(0o755)
    commit = upstream.commit({}, "Executable")
    site = cloned(upstream)
    target = site.releases / "one"
    found = exported(site, commit, target)
    assert found.keys() == {*files, "manage.py", "link"}
    assert found["bytes"] == bytes(range(256)) and found["private"] == b"exported all the same\n"
    assert found["sub.sub"] == b"$Format:%H$\n"
    assert os.readlink(target / "link") == "manage.py"
    assert stat.S_IMODE((target / "manage.py").stat().st_mode) == 0o755
    assert stat.S_IMODE((target / "bytes").stat().st_mode) == 0o644


def test_each_commit_has_its_own_files(cloned, history):
    site = cloned(history)
    assert exported(site, history.names["feature"]).keys() == {"manage.py", "blog/models.py", "feature.py"}
    assert exported(site, history.first) == {"manage.py": b"first\n"}


def test_a_commit_of_no_branch_is_fetched_by_its_name(cloned, upstream):
    commit = upstream.commit({"lost.py": ""})
    upstream.git("reset", "--quiet", "--hard", "HEAD^")
    assert "lost.py" in exported(cloned(upstream), commit)


def test_a_commit_that_is_not_there(cloned, upstream):
    with pytest.raises(DeploymentError) as error:
        exported(cloned(upstream), "1" * 40)
    assert error.value.message == f"fetching {upstream.folder}: it has no commit {'1' * 40}"
    assert error.value.hint == "was it pushed? correct django:sites:blog:revision" and not error.value.transient


def test_a_branch_that_was_forced_elsewhere(cloned, upstream):
    site = cloned(upstream)
    old = upstream.commit({"old.py": ""})
    assert "old.py" in exported(site, django_source.resolve(site, "main"))
    upstream.git("reset", "--quiet", "--hard", "HEAD^")
    upstream.git("branch", "gone")
    new = upstream.commit({"new.py": ""})
    upstream.git("branch", "--delete", "--force", "gone")
    assert django_source.resolve(site, "main") == new
    assert exported(site, new).keys() == {"manage.py", "new.py"}
    shutil.rmtree(site.releases / old[:12])
    assert "old.py" in exported(site, old)


@pytest.mark.parametrize("url", ["../library", "./../library", "{absolute}", "file://{absolute}"])
def test_a_submodule_is_exported_too(cloned, upstream, tmp_path, url):
    library = Upstream(tmp_path / "library", {"library.py": "library\n"})
    inner = Upstream(tmp_path / "inner", {"inner.py": "inner\n"})
    linked = library.submodule("../inner", "deep/inner", inner.first)
    commit = upstream.submodule(url.format(absolute=library.folder), "vendor/library", linked)
    site = cloned(upstream, submodules=[str(library.folder), str(inner.folder)])
    found = exported(site, commit)
    assert found["vendor/library/library.py"] == b"library\n"
    assert found["vendor/library/deep/inner/inner.py"] == b"inner\n"
    site.config["submodules"] = False
    assert "vendor/library/library.py" not in exported(site, commit, site.releases / "without")


@pytest.mark.parametrize(
    ("url", "message"),
    [
        ("ext::sh -c 'touch {witness}'", "uses a protocol that is not allowed"),
        ("--upload-pack=touch {witness}", "has an object that git's own check refuses"),
        ("../nowhere", "there is no repository at "),
        (None, "the submodule vendor has no url in .gitmodules"),
    ],
)
def test_a_submodule_that_cannot_be_fetched(cloned, upstream, tmp_path, url, message):
    witness = tmp_path / "witness"
    commit = upstream.submodule((url or "").format(witness=witness), "vendor", "1" * 40)
    if url is None:
        upstream.git("rm", "--quiet", "--cached", ".gitmodules")
        upstream.git("commit", "--quiet", "--message", "Forgotten")
        commit = upstream.git("rev-parse", "HEAD")
    with pytest.raises(DeploymentError) as error:
        exported(cloned(upstream, submodules=[str(tmp_path / "nowhere")]), commit)
    assert message in error.value.message and not witness.exists()


@pytest.mark.parametrize(
    ("url", "parent", "expected"),
    [
        ("https://a.org/x.git", "https://b.org/y.git", "https://a.org/x.git"),
        ("../x.git", "https://b.org/team/y.git", "https://b.org/team/x.git"),
        ("../x.git", "https://b.org/team/y.git/", "https://b.org/team/x.git"),
        ("../../x.git", "https://b.org/team/y.git", "https://b.org/x.git"),
        ("./x.git", "https://b.org/team/y.git", "https://b.org/team/y.git/x.git"),
        ("../x.git", "git@b.org:team/y.git", "git@b.org:team/x.git"),
        ("../x.git", "git@b.org:y.git", "git@b.org:x.git"),
        ("../x.git", "ssh://git@b.org:2222/team/y.git", "ssh://git@b.org:2222/team/x.git"),
        ("../x.git", "git@b.org:/srv/git/y.git", "git@b.org:/srv/git/x.git"),
        ("../x", "/srv/git/y", "/srv/git/x"),
        ("../x", "file:///srv/git/y", "file:///srv/git/x"),
    ],
)
def test_the_url_of_a_submodule(url, parent, expected):
    assert django_source_submodule.absolute(url, parent) == expected


@pytest.mark.parametrize(
    ("url", "message"),
    [
        ("../../../x.git", "the submodule url '../../../x.git' leads nowhere"),
        ("../../../80@evil.org/x.git", "leads nowhere"),
        ("-x", "the submodule url '-x' is not a url"),
        ("https://b.org/x\n.git", "is not a url"),
        ("", "is not a url"),
    ],
)
@pytest.mark.parametrize("parent", ["git@b.org:team/y.git", "https://ci:hunter2@b.org:8443/team/y.git"])
def test_submodule_url_refused(url, message, parent):
    with pytest.raises(DeploymentError, match=message):
        django_source_submodule.absolute(url, parent)


def test_pointers_of_lfs_are_refused_by_name(cloned, upstream):
    pointer = f"version https://git-lfs.github.com/spec/v1\noid sha256:{'0' * 64}\nsize 12345\n"
    commit = upstream.commit({f"images/{n}.png": pointer for n in "abcd"} | {"about.txt": pointer * 20})
    with pytest.raises(DeploymentError) as error:
        exported(cloned(upstream), commit)
    assert error.value.message == (
        "images/a.png, images/b.png, images/c.png and 1 more are Git LFS pointers, not the files themselves"
    )


def damage(mirror: Path, how: str) -> None:
    objects = [path for path in (mirror / "objects").rglob("*") if path.is_file()]
    if how == "no HEAD":
        (mirror / "HEAD").unlink()
    elif how == "an empty HEAD":
        (mirror / "HEAD").write_text("")
    elif how == "no objects":
        shutil.rmtree(mirror / "objects")
    for path in objects if how in ("cut", "empty", "garbage") else ():
        content = path.read_bytes()
        path.chmod(0o600)
        path.write_bytes({"cut": content[: len(content) // 2], "empty": b"", "garbage": b"\0" * len(content)}[how])


@pytest.mark.parametrize("how", ["cut", "empty", "garbage", "no HEAD", "an empty HEAD", "no objects"])
@pytest.mark.parametrize("packed", [False, True])
def test_a_damaged_mirror_is_made_anew(cloned, upstream, how, packed):
    site = cloned(upstream)
    before = exported(site, upstream.first)
    if packed:
        subprocess.run(["git", "--git-dir", site.mirror, "repack", "-adq"], check=True)
    damage(site.mirror, how)
    assert exported(site, upstream.first, site.releases / "again") == before
    new = upstream.commit({"new.py": ""})
    assert "new.py" in exported(site, new)


@contextmanager
def silent_server():
    """A server that accepts connections and says nothing."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        yield server.getsockname()[1]


@pytest.mark.parametrize("scheme", ["http", "ssh"])
def test_a_remote_that_hangs(cloned, scheme):
    with silent_server() as port:
        site = cloned(f"{scheme}://127.0.0.1:{port}/blog.git", timeouts={"fetch": "500ms"})
        began = time.monotonic()
        with pytest.raises(DeploymentError) as error:
            django_source.resolve(site, "main")
    assert time.monotonic() - began < 3
    assert error.value.transient and "for main: timed out after 0.5 s" in error.value.message
    assert error.value.hint == "is 127.0.0.1 reachable from here?"


@pytest.mark.parametrize("scheme", ["http", "ssh"])
def test_a_remote_that_refuses(cloned, scheme):
    with silent_server() as port:
        pass
    with pytest.raises(DeploymentError) as error:
        django_source.resolve(cloned(f"{scheme}://127.0.0.1:{port}/blog.git"), "main")
    assert error.value.transient and error.value.hint == "is 127.0.0.1 reachable from here?"


@pytest.mark.parametrize(
    ("said", "message", "hint", "transient"),
    [
        (
            "@@@ WARNING: REMOTE HOST IDENTIFICATION HAS CHANGED! @@@\nHost key verification failed.",
            "the host key of git.example.org is not the one that is pinned",
            "find out why it changed; then correct django:sites:blog:known_hosts",
            False,
        ),
        (
            "No ED25519 host key is known for git.example.org\nHost key verification failed.",
            "the host key of git.example.org is not known",
            "pin it: django:sites:blog:known_hosts, with a line of `ssh-keyscan git.example.org` that you have checked",
            False,
        ),
        (
            "git@git.example.org: Permission denied (publickey).\nfatal: Could not read from remote repository.",
            "git.example.org refuses the key",
            "put a private key that may read the repository into django:sites:blog:deploy_key",
            False,
        ),
        (
            "fatal: could not read Username for 'https://git.example.org': terminal prompts disabled",
            "git.example.org wants a login",
            "use an ssh URL with django:sites:blog:deploy_key, or a read token in the URL",
            False,
        ),
        (
            "fatal: unable to access 'https://git.example.org/blog.git/': server certificate verification failed.",
            "the certificate of git.example.org is not trusted here",
            "add its authority to the system's store, or to the file that SSL_CERT_FILE names in Salt's environment",
            False,
        ),
        (
            "remote: Repository not found.\nfatal: repository 'https://git.example.org/blog.git/' not found",
            "there is no repository at https://**********@git.example.org/blog.git",
            "correct django:sites:blog:repository",
            False,
        ),
        (
            "fatal: unable to access: Could not resolve host: git.example.org",
            None,
            "is git.example.org reachable from here?",
            True,
        ),
    ],
)
def test_what_a_remote_says_becomes_a_sentence(cloned, monkeypatch, said, message, hint, transient):
    site = cloned("https://ray:hunter2@git.example.org/blog.git")
    doing = "asking https://**********@git.example.org/blog.git for main"

    def refuse(*_arguments, doing, **_options):
        raise DeploymentError(f"{doing} failed (exit 128)", log=said)

    monkeypatch.setattr(django_host_command, "run", refuse)
    with pytest.raises(DeploymentError) as error:
        django_source.resolve(site, "main")
    assert error.value.message == (f"{doing}: {message}" if message else f"{doing} failed (exit 128)")
    assert (error.value.hint, error.value.transient) == (hint, transient)


@pytest.mark.parametrize("url", ["git@git.example.org:blog.git", "git@git.example.org:team/blog.git"])
def test_a_refusal_names_the_host(cloned, monkeypatch, url):
    site = cloned(url)

    def refuse(*_arguments, doing, **_options):
        raise DeploymentError(f"{doing} failed (exit 128)", log="Permission denied (publickey).")

    monkeypatch.setattr(django_host_command, "run", refuse)
    with pytest.raises(DeploymentError, match=r"git\.example\.org refuses the key"):
        django_source.resolve(site, "main")


@pytest.mark.parametrize("url", ["/nowhere/blog.git", "file:///nowhere/blog.git"])
def test_a_repository_that_is_not_there(cloned, url):
    with pytest.raises(DeploymentError, match="there is no repository at "):
        django_source.resolve(cloned(url), "main")


def test_git_runs_without_prompts_hooks_and_configurations(cloned, history, monkeypatch):
    """What decides over safety, whole: the environment of a command that talks to the remote."""
    site = cloned(history, known_hosts=[f"git.example.org ssh-ed25519 {'A' * 68}"])
    key = "-----BEGIN OPENSSH PRIVATE KEY-----\nx\n-----END OPENSSH PRIVATE KEY-----"
    django_source.prepare(site, key)
    seen = {}
    monkeypatch.setattr(django_host_command, "run", lambda argv, **options: seen.update(options, argv=argv) or "")
    monkeypatch.setenv("GIT_SSH_COMMAND", "ssh -o StrictHostKeyChecking=no")
    monkeypatch.setenv("SSL_CERT_FILE", "/etc/company.pem")
    monkeypatch.delenv("GIT_SSL_CAINFO", raising=False)
    django_source.fetch(site, None)
    mirror = site.mirror
    assert seen["argv"] == [
        *["git", "fetch", "--progress", "--prune", "--no-write-fetch-head", "--force", "--", str(history.folder)],
        *["+refs/heads/*:refs/heads/*", "+refs/tags/*:refs/tags/*"],
    ]
    assert {name: value for name, value in seen["environment"].items() if name.startswith("GIT_")} == {
        "GIT_DIR": str(mirror),
        "GIT_CONFIG_GLOBAL": f"{mirror}/gitconfig",
        "GIT_ATTR_NOSYSTEM": "1",
        "GIT_SSL_CAINFO": "/etc/company.pem",
        "GIT_ALLOW_PROTOCOL": "https:http:ssh:file",
        "GIT_TERMINAL_PROMPT": "0",
        "GIT_ASKPASS": "/bin/false",
        "GIT_SSH_COMMAND": "ssh -o BatchMode=yes -o StrictHostKeyChecking=yes -o ConnectTimeout=15"
        f" -o UserKnownHostsFile='{mirror}/known_hosts' -o GlobalKnownHostsFile=/etc/ssh/ssh_known_hosts"
        f" -i '{mirror}/deploy_key' -o IdentitiesOnly=yes",
        "GIT_ADVICE": "0",
    }


def test_keys_lie_in_the_mirror(make_site):
    site = make_site(known_hosts=[f"git.example.org ssh-ed25519 {'A' * 68}"])
    key = "-----BEGIN OPENSSH PRIVATE KEY-----\nx\n-----END OPENSSH PRIVATE KEY-----"
    assert django_source.unprepared(site, key) == ["deploy_key", "known_hosts", "gitconfig"]
    django_source.prepare(site, key)
    assert django_source.unprepared(site, key) == []
    assert (site.mirror / "deploy_key").read_text() == f"{key}\n"
    assert stat.S_IMODE((site.mirror / "deploy_key").stat().st_mode) == 0o600
    assert django_source.unprepared(site, None) == ["deploy_key"]
    django_source.prepare(site, None)
    assert not (site.mirror / "deploy_key").exists()


@pytest.fixture
def checkout(make_site, tmp_path):
    """A site that is deployed from a local folder."""
    folder = tmp_path / "checkout"
    (folder / "blog").mkdir(parents=True)
    (folder / "manage.py").write_text("manage\r\n")
    (folder / ".gitignore").write_text("*.log\nnode_modules/\n")
    (folder / "debug.log").write_text("ignored")
    site = make_site(folder="/srv/checkout")
    site.config["folder"] = str(folder)
    django_source.prepare(site, None)
    return site


def test_a_folder_is_a_source(checkout):
    folder = Path(checkout.config["folder"])
    tree = django_source_folder.tree(checkout)
    assert exported(checkout, tree) == {"manage.py": b"manage\r\n", ".gitignore": b"*.log\nnode_modules/\n"}
    assert django_source_folder.tree(checkout) == tree
    (folder / "debug.log").write_text("still ignored")
    assert django_source_folder.tree(checkout) == tree
    seen = {tree}
    for change in (
        lambda: (folder / "blog/new.py").write_text("new"),
        lambda: (folder / "blog/new.py").write_text("old"),
        lambda: (folder / "manage.py").chmod(0o755),
        lambda: (folder / "link").symlink_to("manage.py"),
        lambda: (folder / ".gitignore").unlink(),
        lambda: (folder / "manage.py").unlink(),
    ):
        change()
        tree = django_source_folder.tree(checkout)
        assert tree not in seen
        seen.add(tree)
    assert exported(checkout, tree) == {"blog/new.py": b"old", "debug.log": b"still ignored"}
    assert django_source.describe(checkout, tree) == {"subject": f"the files of {folder}"}


def test_a_folder_that_is_a_checkout_is_taken_as_it_is_on_disk(checkout):
    folder = Path(checkout.config["folder"])
    subprocess.run(["git", "init", "--quiet", folder], check=True)
    (folder / ".git/info/exclude").write_text("secret.py\n")
    assert not any(name.startswith(".git/") for name in exported(checkout, django_source_folder.tree(checkout)))


def test_a_folder_with_repositories_in_it_is_refused(checkout):
    Upstream(Path(checkout.config["folder"]) / "vendor/library")
    with pytest.raises(DeploymentError, match="holds repositories of its own: vendor/library"):
        django_source_folder.tree(checkout)


def test_a_folder_that_is_not_there(checkout):
    shutil.rmtree(checkout.config["folder"])
    with pytest.raises(DeploymentError, match="there is no folder") as error:
        django_source_folder.tree(checkout)
    assert error.value.hint == "correct django:sites:blog:folder"


def test_what_lies_between_two_commits(cloned, upstream):
    site = cloned(upstream)
    files = {
        "requirements/base.txt": "django\n",
        "uv.lock": "",
        "blog/migrations/0001_initial.py": "",
        "blog/migrations/__init__.py": "",
        "blog/page.html": "",
    }
    second = upstream.commit(files, "It's the second: ünicode\n\nBody")
    exported(site, second)
    committed = django_host_clock.written(float(upstream.git("show", "-s", "--format=%ct", second)))
    about = {"author": "Ada", "subject": "It's the second: ünicode", "committed": committed}
    assert django_source.describe(site, second) == about
    new_file = "new file mode 100644"
    assert django_source.difference(site, upstream.first, second) == {
        "files": 5,
        "commits": [f"{second[:7]} Ada: It's the second: ünicode"],
        "requirements": {"requirements/base.txt": "new file mode 100644\n@@ -0,0 +1 @@\n+django", "uv.lock": new_file},
        "migrations": ["blog/migrations/0001_initial.py"],
    }
    assert django_source.difference(site, second, upstream.first) == {
        "files": 5,
        "left": [f"{second[:7]} Ada: It's the second: ünicode"],
        "requirements": {
            "requirements/base.txt": "deleted file mode 100644\n@@ -1 +0,0 @@\n-django",
            "uv.lock": "deleted file mode 100644",
        },
    }
    third = upstream.commit({"requirements.txt": "--index-url https://ci:hunter2@pypi.example.org/simple\n"})
    for number in range(21):
        fourth = upstream.commit({"uv.lock": "x\n" * number}, f"{number}")
    exported(site, fourth)
    told = django_source.difference(site, second, fourth)
    assert "--index-url https://**********@pypi.example.org/simple" in told["requirements"]["requirements.txt"]
    assert len(told["commits"]) == 21 and told["commits"][0].endswith("Ada: 20") and told["commits"][-1] == "…"
    long = upstream.commit({"uv.lock": "".join(f"{number}\n" for number in range(100))})
    exported(site, long)
    lines = django_source.difference(site, third, long)["requirements"]["uv.lock"].splitlines()
    assert len(lines) == 61 and lines[-1] == "… 41 lines more"
    assert django_source.difference(site, None, second) == django_source.difference(site, "1" * 40, second) == {}
