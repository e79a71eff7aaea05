import os
import shutil
import socket
import stat
import subprocess
import time
from contextlib import contextmanager
from pathlib import Path

import pytest
from django_formula.host import clock, commands
from django_formula.host.commands import DeploymentError
from django_formula.source import commits, git, submodule
from django_formula.source import folder as source_folder
from django_formula.source import mirror as source_mirror
from django_formula.source.writing import writing
from upstream import Upstream


@pytest.fixture(scope="module")
def history(tmp_path_factory):
    """Return a repository that no test changes, with branches and tags."""
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
    """Return a function that makes a site with a prepared mirror of a repository."""

    def clone(upstream: Upstream | Path | str, **options):
        site = make_site(repository=str(getattr(upstream, "folder", upstream)), **options)
        source_mirror.prepare(site, None)
        return site

    return clone


def files_of(mirror):
    return [path for path in (mirror / "objects").rglob("*") if path.is_file()]


def test_mirror_with_many_objects_is_packed_and_loses_none(upstream, cloned, monkeypatch):
    site = cloned(upstream)
    commits.fetch(site, upstream.first)
    upstream.commit({"gone.py": "gone\n"})
    gone = upstream.git("rev-parse", "HEAD").strip()
    commits.fetch(site, gone)
    upstream.git("reset", "--quiet", "--hard", upstream.first)
    last = upstream.commit({f"module_{number}.py": f"{number}\n" for number in range(60)})
    commits.fetch(site, last)
    before = len(files_of(site.mirror))
    source_mirror.pack(site)
    assert len(files_of(site.mirror)) == before, "there are few"
    monkeypatch.setattr(source_mirror, "_PACKS", 2)
    source_mirror.pack(site)
    assert [path.suffix for path in files_of(site.mirror)].count(".pack") == 1 and len(files_of(site.mirror)) < before
    assert all(source_mirror.has(site, commit) for commit in (upstream.first, gone, last))
    assert exported(site, gone)["gone.py"] == b"gone\n"
    commits.fetch(site, upstream.commit({"next.py": "next\n"}))


def test_mirror_of_a_folder_is_packed_and_loses_none(upstream, cloned, monkeypatch):
    """Its trees are of no branch."""
    site = cloned(upstream)
    commits.fetch(site, upstream.first)
    blob = git.run_git(site, "hash-object", "-w", "--stdin", doing="adding a file", stdin="alone").strip()
    monkeypatch.setattr(source_mirror, "_LOOSE", -1)
    source_mirror.pack(site)
    assert not (site.mirror / "objects" / blob[:2]).exists()
    assert git.run_git(site, "cat-file", "-p", blob, doing="reading a file") == "alone"


def test_mirror_that_cannot_be_packed_stays_as_it_is(upstream, cloned, monkeypatch):
    site = cloned(upstream)
    commits.fetch(site, upstream.first)
    monkeypatch.setattr(source_mirror, "_LOOSE", -1)
    monkeypatch.setattr(source_mirror, "_ALL", ("--no-such-option",))
    source_mirror.pack(site)
    assert source_mirror.has(site, upstream.first)


def exported(site, commit, target=None):
    """Export a commit, and return its files: path → content."""
    target = target or site.releases / commit[:12]
    commits.export(site, commit, target)
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
def test_revision_is_resolved_to_a_commit(cloned, history, revision, name):
    assert commits.resolve(cloned(history), revision) == history.names[name]


def test_branch_that_is_named_like_a_reference_does_not_hide_it(cloned, upstream):
    """Who may push gives branches such names."""
    for name in ("HEAD", "refs/heads/main", "refs/tags/v1"):
        upstream.git("update-ref", f"refs/heads/{name}", upstream.first)
    new = upstream.commit({"new.py": ""})
    upstream.git("tag", "v1", new)
    site = cloned(upstream)
    assert [commits.resolve(site, name) for name in ("HEAD", "refs/heads/main", "refs/tags/v1")] == [new] * 3


@pytest.mark.parametrize("sign", ["\x85", "\u2028", "\u2029"])
def test_branch_with_a_separator_of_lines_in_its_name_does_not_hide_another(cloned, upstream, sign):
    other = upstream.commit({"other.py": ""})
    upstream.git("reset", "--quiet", "--hard", upstream.first)
    upstream.git("tag", "v1", upstream.first)
    for name in (f"refs/heads/main{sign}x", f"refs/tags/v1{sign}", f"refs/heads/gone{sign}x"):
        upstream.git("update-ref", name, other)
    site = cloned(upstream)
    assert [commits.resolve(site, name) for name in ("main", "refs/heads/main", "v1")] == [upstream.first] * 3
    with pytest.raises(DeploymentError, match="no such branch, tag or commit"):
        commits.resolve(site, "gone")


def test_short_commit_is_completed(cloned, history):
    site = cloned(history)
    assert commits.resolve(site, history.names["feature"][:10]) == history.names["feature"]


def test_commit_of_the_revision_is_distinguished_from_one_of_another_branch(cloned, history):
    site = cloned(history, revision="main")
    assert commits.of_revision(site, history.first[:8]) == commits.of_revision(site, history.first) == history.first
    assert commits.of_revision(site, history.names["main"]) == history.names["main"]
    for other in (history.names["feature"], history.names["feature"][:10], "0" * 40, "0" * 7):
        with pytest.raises(DeploymentError) as caught:
            commits.of_revision(site, other)
        assert (
            caught.value.message.startswith(f"{other} is no commit of main") and "push it to main" in caught.value.hint
        )


def test_full_commit_is_resolved_without_network(cloned, history):
    site = cloned("https://127.0.0.1:1/nowhere.git")
    assert commits.resolve(site, history.first) == history.first


@pytest.mark.parametrize(
    ("revision", "message", "hint"),
    [
        (
            "mian",
            "looking up mian in {url}: no such branch, tag or commit",
            "the repository has both, feature/one, main, same, both, same, v1, v2; correct django:sites:blog:revision",
        ),
        (
            "v",
            "looking up v in {url}: no such branch, tag or commit",
            "the repository has both, feature/one, main, same, both, same, v1, v2; correct django:sites:blog:revision",
        ),
        (
            "deadbeef",
            "looking up deadbeef in {url}: no such branch, tag or commit",
            "the repository has both, feature/one, main, same, both, same, v1, v2; correct django:sites:blog:revision",
        ),
        (
            "both",
            "looking up both in {url}: it is both a branch ({main:.12}) and a tag ({first:.12})",
            "set django:sites:blog:revision to refs/heads/both or refs/tags/both",
        ),
    ],
)
def test_unknown_or_ambiguous_revision_is_refused(cloned, history, revision, message, hint):
    with pytest.raises(DeploymentError) as error:
        commits.resolve(cloned(history), revision)
    assert error.value.message == message.format(url=history.folder, **history.names)
    assert error.value.hint == hint and not error.value.transient


def test_commit_is_exported_byte_by_byte(cloned, upstream):
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


def test_export_has_only_the_files_of_the_commit(cloned, history):
    site = cloned(history)
    assert exported(site, history.names["feature"]).keys() == {"manage.py", "blog/models.py", "feature.py"}
    assert exported(site, history.first) == {"manage.py": b"first\n"}


def test_commit_of_no_branch_is_fetched_by_its_name(cloned, upstream):
    commit = upstream.commit({"lost.py": ""})
    upstream.git("reset", "--quiet", "--hard", "HEAD^")
    assert "lost.py" in exported(cloned(upstream), commit)


def test_remote_without_its_older_commits_is_exported(cloned, upstream, tmp_path):
    commit = upstream.commit({"two.txt": "two\n"})
    shallow = tmp_path / "shallow.git"
    subprocess.run(["git", "clone", "--quiet", "--bare", "--depth=1", f"file://{upstream.folder}", shallow], check=True)
    site = cloned(shallow)
    commits.fetch(site, commit)
    assert "two.txt" in exported(site, commit)
    assert commits.describe(site, commit)["subject"] == "A change"
    newer = upstream.commit({"three.txt": "three\n"})
    refs = "+refs/heads/*:refs/heads/*"
    subprocess.run(
        ["git", "-C", shallow, "fetch", "--quiet", "--depth=1", f"file://{upstream.folder}", refs], check=True
    )
    commits.fetch(site, newer)
    assert "three.txt" in exported(site, newer)
    assert commits.commit_difference(site, commit, newer)["files"] == 1


def test_missing_commit_is_refused(cloned, upstream):
    with pytest.raises(DeploymentError) as error:
        exported(cloned(upstream), "1" * 40)
    assert error.value.message == f"fetching {upstream.folder}: commit {'1' * 40} not found"
    assert error.value.hint == "push it, or correct django:sites:blog:revision" and not error.value.transient


def test_force_pushed_branch_is_followed(cloned, upstream):
    site = cloned(upstream)
    old = upstream.commit({"old.py": ""})
    assert "old.py" in exported(site, commits.resolve(site, "main"))
    upstream.git("reset", "--quiet", "--hard", "HEAD^")
    upstream.git("branch", "gone")
    new = upstream.commit({"new.py": ""})
    upstream.git("branch", "--delete", "--force", "gone")
    assert commits.resolve(site, "main") == new
    assert exported(site, new).keys() == {"manage.py", "new.py"}
    shutil.rmtree(site.releases / old[:12])
    assert "old.py" in exported(site, old)


@pytest.mark.parametrize("url", ["../library", "./../library", "{absolute}", "file://{absolute}"])
def test_submodules_are_exported(cloned, upstream, tmp_path, url):
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
        ("--upload-pack=touch {witness}", "git fsck refuses an object in the history of"),
        ("../nowhere", "no repository found at "),
        (None, "the submodule vendor has no url in .gitmodules"),
    ],
)
def test_submodule_that_cannot_be_fetched_is_refused(cloned, upstream, tmp_path, url, message):
    witness = tmp_path / "witness"
    commit = upstream.submodule((url or "").format(witness=witness), "vendor", "1" * 40)
    if url is None:
        upstream.git("rm", "--quiet", "--cached", ".gitmodules")
        upstream.git("commit", "--quiet", "--message", "Forgotten")
        commit = upstream.git("rev-parse", "HEAD")
    with pytest.raises(DeploymentError) as error:
        exported(cloned(upstream, submodules=[str(tmp_path / "nowhere")]), commit)
    assert message in error.value.message and not witness.exists()


def test_submodule_that_is_not_found_is_named_with_the_key_to_do_without(cloned, upstream, tmp_path):
    commit = upstream.submodule("../nowhere", "vendor", "1" * 40)
    with pytest.raises(DeploymentError) as error:
        exported(cloned(upstream, submodules=[str(tmp_path / "nowhere")]), commit)
    nowhere = tmp_path / "nowhere"
    assert error.value.message == f"the submodule vendor: fetching {nowhere}: no repository found at {nowhere}"
    assert error.value.hint.endswith(
        "set django:sites:blog:submodules to false if the site does without its submodules"
    )


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
def test_relative_url_of_a_submodule_is_resolved(url, parent, expected):
    assert submodule.absolute(url, parent) == expected


@pytest.mark.parametrize(
    ("url", "message"),
    [
        ("../../../x.git", "the submodule url '../../../x.git' cannot be resolved"),
        ("../../../80@evil.org/x.git", "cannot be resolved"),
        ("-x", "the submodule url '-x' is not a URL"),
        ("https://b.org/x\n.git", "is not a URL"),
        ("", "is not a URL"),
    ],
)
@pytest.mark.parametrize("parent", ["git@b.org:team/y.git", "https://ci:hunter2@b.org:8443/team/y.git"])
def test_submodule_url_refused(url, message, parent):
    with pytest.raises(DeploymentError, match=message):
        submodule.absolute(url, parent)


def test_git_lfs_pointers_are_refused_by_name(cloned, upstream):
    pointer = f"version https://git-lfs.github.com/spec/v1\noid sha256:{'0' * 64}\nsize 12345\n"
    commit = upstream.commit({f"images/{n}.png": pointer for n in "abcd"} | {"about.txt": pointer * 20})
    with pytest.raises(DeploymentError) as error:
        exported(cloned(upstream), commit)
    assert error.value.message == (
        "images/a.png, images/b.png, images/c.png and 1 more are Git LFS pointers, not the files themselves"
    )


def test_git_lfs_pointers_for_readers_of_the_repository_stop_no_release(cloned, upstream):
    pointer = f"version https://git-lfs.github.com/spec/v1\noid sha256:{'0' * 64}\nsize 12345\n"
    commit = upstream.commit({"screenshots/a.gif": pointer, "Docs/en/b.png": pointer, "shop/docs.py": "import os\n"})
    assert exported(cloned(upstream), commit)["screenshots/a.gif"].decode() == pointer


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


@pytest.mark.slow
@pytest.mark.parametrize("how", ["cut", "empty", "garbage", "no HEAD", "an empty HEAD", "no objects"])
@pytest.mark.parametrize("packed", [False, True])
def test_damaged_mirror_is_created_again(cloned, upstream, how, packed):
    site = cloned(upstream)
    before = exported(site, upstream.first)
    if packed:
        subprocess.run(["git", "--git-dir", site.mirror, "repack", "-adq"], check=True)
    damage(site.mirror, how)
    assert exported(site, upstream.first, site.releases / "again") == before
    new = upstream.commit({"new.py": ""})
    assert "new.py" in exported(site, new)


def leave(mirror: Path, *names: str) -> None:
    for name in names:
        (mirror / name).parent.mkdir(parents=True, exist_ok=True)
        (mirror / name).touch()


LOCKS = ("export.index.lock", "packed-refs.lock", "shallow.lock", "HEAD.lock", "refs/heads/main.lock")
PARTIAL = ("objects/pack/tmp_pack_a1B2c3", "objects/pack/tmp_idx_a1B2c3", "objects/ab/tmp_obj_a1B2c3")


def test_what_a_killed_git_left_is_removed(cloned, upstream):
    upstream.git("branch", "gone")
    site = cloned(upstream)
    exported(site, upstream.first)
    subprocess.run(["git", "--git-dir", site.mirror, "pack-refs", "--all"], check=True)
    leave(site.mirror, *LOCKS, *PARTIAL)
    upstream.git("branch", "-D", "gone")
    upstream.git("branch", "tmp_x")
    new = upstream.commit({"new.py": ""})
    assert "new.py" in exported(site, new)
    assert not [name for name in (*LOCKS, *PARTIAL) if (site.mirror / name).exists()]
    leave(site.mirror, *LOCKS, *PARTIAL)
    assert "new.py" in exported(site, new, site.releases / "again")
    assert not [name for name in (*LOCKS, *PARTIAL) if (site.mirror / name).exists()]
    assert (site.mirror / "refs/heads/tmp_x").exists() and source_mirror.has(site, new)


def test_what_another_process_writes_in_a_mirror_stays(cloned, upstream):
    site = cloned(upstream)
    with writing(site.mirror):
        leave(site.mirror, *PARTIAL)
        exported(site, upstream.first)
        assert all((site.mirror / name).exists() for name in PARTIAL)
    with pytest.raises(KeyError), writing(site.mirror):
        leave(site.mirror, *PARTIAL)
        raise KeyError
    assert not [name for name in PARTIAL if (site.mirror / name).exists()]


@contextmanager
def silent_server():
    """Yield the port of a server that accepts connections and never answers."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        yield server.getsockname()[1]


@pytest.mark.slow
@pytest.mark.parametrize("scheme", ["http", "ssh"])
def test_silent_remote_times_out(cloned, scheme):
    with silent_server() as port:
        site = cloned(f"{scheme}://127.0.0.1:{port}/blog.git", timeouts={"fetch": "500ms"})
        began = time.monotonic()
        with pytest.raises(DeploymentError) as error:
            commits.resolve(site, "main")
    assert time.monotonic() - began < 30
    assert error.value.transient and "/blog.git: timed out after 0.5 s" in error.value.message
    assert (
        error.value.hint == "check that 127.0.0.1 is reachable from this host (DNS, proxies: docs/guides/networks.md)"
    )


@pytest.mark.parametrize("scheme", ["http", "ssh"])
def test_refused_connection_is_transient(cloned, scheme):
    with silent_server() as port:
        pass
    with pytest.raises(DeploymentError) as error:
        commits.resolve(cloned(f"{scheme}://127.0.0.1:{port}/blog.git"), "main")
    assert error.value.transient
    assert (
        error.value.hint == "check that 127.0.0.1 is reachable from this host (DNS, proxies: docs/guides/networks.md)"
    )


@pytest.mark.parametrize(
    ("output", "message", "hint", "transient"),
    [
        (
            "remote: fatal: unable to read b364c53da5bd68f5cd4b3f7064a362ebd8c53ff9\nfatal: early EOF",
            "https://**********@git.example.org/blog.git lacks an object of its history",
            "the log above names it: run git fsck --full in that repository, and restore it from a complete clone",
            False,
        ),
        (
            "@@@ WARNING: REMOTE HOST IDENTIFICATION HAS CHANGED! @@@\nHost key verification failed.",
            "the host key of git.example.org is not the pinned one",
            "find out why it changed, then correct django:sites:blog:known_hosts",
            False,
        ),
        (
            "No ED25519 host key is known for git.example.org\nHost key verification failed.",
            "the host key of git.example.org is not known",
            "add a line of `ssh-keyscan git.example.org` to django:sites:blog:known_hosts after checking it",
            False,
        ),
        (
            "git@git.example.org: Permission denied (publickey).\nfatal: Could not read from remote repository.",
            "git.example.org refused the SSH key",
            "set django:sites:blog:deploy_key to a private key that may read the repository",
            False,
        ),
        (
            "fatal: could not read Username for 'https://git.example.org': terminal prompts disabled",
            "git.example.org requires a login",
            "use an ssh URL with django:sites:blog:deploy_key, or a read token in the URL",
            False,
        ),
        (
            "fatal: unable to access 'https://git.example.org/blog.git/': server certificate verification failed.",
            "the certificate of git.example.org is not trusted on this host",
            "add its authority to the system's store, or to the file that SSL_CERT_FILE names in Salt's environment "
            "(docs/guides/networks.md)",
            False,
        ),
        (
            "remote: Repository not found.\nfatal: repository 'https://git.example.org/blog.git/' not found",
            "no repository found at https://**********@git.example.org/blog.git",
            "correct django:sites:blog:repository",
            False,
        ),
        (
            "fatal: unable to access: Could not resolve host: git.example.org",
            None,
            "check that git.example.org is reachable from this host (DNS, proxies: docs/guides/networks.md)",
            True,
        ),
    ],
)
def test_error_of_a_remote_is_explained(cloned, monkeypatch, output, message, hint, transient):
    site = cloned("https://ray:hunter2@git.example.org/blog.git")
    doing = "looking up main in https://**********@git.example.org/blog.git"

    def refuse(*_arguments, doing, **_options):
        raise DeploymentError(f"{doing} failed (exit 128)", log=output)

    monkeypatch.setattr(commands, "run", refuse)
    with pytest.raises(DeploymentError) as error:
        commits.resolve(site, "main")
    assert error.value.message == (f"{doing}: {message}" if message else f"{doing} failed (exit 128)")
    assert (error.value.hint, error.value.transient) == (hint, transient)


@pytest.mark.parametrize("url", ["git@git.example.org:blog.git", "git@git.example.org:team/blog.git"])
def test_refused_ssh_key_names_the_host(cloned, monkeypatch, url):
    site = cloned(url)

    def refuse(*_arguments, doing, **_options):
        raise DeploymentError(f"{doing} failed (exit 128)", log="Permission denied (publickey).")

    monkeypatch.setattr(commands, "run", refuse)
    with pytest.raises(DeploymentError, match=r"git\.example\.org refused the SSH key"):
        commits.resolve(site, "main")


@pytest.mark.parametrize("url", ["/nowhere/blog.git", "file:///nowhere/blog.git"])
def test_missing_local_repository_is_refused(cloned, url):
    with pytest.raises(DeploymentError, match="no repository found at "):
        commits.resolve(cloned(url), "main")


def test_git_runs_without_prompts_and_system_configuration(cloned, history, monkeypatch):
    """The environment of a command that connects to the remote is compared whole, since safety depends on it."""
    site = cloned(history, known_hosts=[f"git.example.org ssh-ed25519 {'A' * 68}"])
    key = "-----BEGIN OPENSSH PRIVATE KEY-----\nx\n-----END OPENSSH PRIVATE KEY-----"
    source_mirror.prepare(site, key)
    given = {}
    monkeypatch.setattr(commands, "run", lambda argv, **options: given.update(options, argv=argv) or "")
    monkeypatch.setenv("GIT_SSH_COMMAND", "ssh -o StrictHostKeyChecking=no")
    monkeypatch.setenv("SSL_CERT_FILE", "/etc/company.pem")
    monkeypatch.delenv("GIT_SSL_CAINFO", raising=False)
    commits.fetch(site, None)
    mirror = site.mirror
    assert given["argv"] == [
        *[
            "git",
            "fetch",
            "--progress",
            "--prune",
            "--no-write-fetch-head",
            "--force",
            "--update-shallow",
            "--",
            str(history.folder),
        ],
        *["+refs/heads/*:refs/heads/*", "+refs/tags/*:refs/tags/*"],
    ]
    assert {name: value for name, value in given["environment"].items() if name.startswith("GIT_")} == {
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


def test_deploy_key_is_in_the_mirror_for_root_only(make_site):
    site = make_site(known_hosts=[f"git.example.org ssh-ed25519 {'A' * 68}"])
    key = "-----BEGIN OPENSSH PRIVATE KEY-----\nx\n-----END OPENSSH PRIVATE KEY-----"
    assert source_mirror.unprepared(site, key) == ["deploy_key", "known_hosts", "gitconfig"]
    source_mirror.prepare(site, key)
    assert source_mirror.unprepared(site, key) == []
    assert (site.mirror / "deploy_key").read_text() == f"{key}\n"
    assert stat.S_IMODE((site.mirror / "deploy_key").stat().st_mode) == 0o600
    assert source_mirror.unprepared(site, None) == ["deploy_key"]
    source_mirror.prepare(site, None)
    assert not (site.mirror / "deploy_key").exists()


@pytest.fixture
def checkout(make_site, tmp_path):
    """Return a site that is deployed from a local folder."""
    folder = tmp_path / "checkout"
    (folder / "blog").mkdir(parents=True)
    (folder / "manage.py").write_text("manage\r\n")
    (folder / ".gitignore").write_text("*.log\nnode_modules/\n")
    (folder / "debug.log").write_text("ignored")
    site = make_site(folder="/srv/checkout")
    site.config["folder"] = str(folder)
    source_mirror.prepare(site, None)
    return site


def test_folder_is_exported_as_a_tree(checkout):
    folder = Path(checkout.config["folder"])
    tree = source_folder.tree(checkout)
    assert exported(checkout, tree) == {"manage.py": b"manage\r\n", ".gitignore": b"*.log\nnode_modules/\n"}
    assert source_folder.tree(checkout) == tree
    (folder / "debug.log").write_text("still ignored")
    assert source_folder.tree(checkout) == tree
    trees = {tree}
    for change in (
        lambda: (folder / "blog/new.py").write_text("new"),
        lambda: (folder / "blog/new.py").write_text("old"),
        lambda: (folder / "manage.py").chmod(0o755),
        lambda: (folder / "link").symlink_to("manage.py"),
        lambda: (folder / ".gitignore").unlink(),
        lambda: (folder / "manage.py").unlink(),
    ):
        change()
        tree = source_folder.tree(checkout)
        assert tree not in trees
        trees.add(tree)
    assert exported(checkout, tree) == {"blog/new.py": b"old", "debug.log": b"still ignored"}
    assert commits.describe(checkout, tree) == {"subject": f"the files of {folder}"}


def test_folder_with_a_repository_is_exported_as_it_is_on_disk(checkout):
    folder = Path(checkout.config["folder"])
    subprocess.run(["git", "init", "--quiet", folder], check=True)
    (folder / ".git/info/exclude").write_text("secret.py\n")
    assert not any(name.startswith(".git/") for name in exported(checkout, source_folder.tree(checkout)))


def test_folder_that_contains_other_repositories_is_refused(checkout):
    Upstream(Path(checkout.config["folder"]) / "vendor/library")
    with pytest.raises(DeploymentError, match="contains other repositories: vendor/library"):
        source_folder.tree(checkout)


def test_missing_folder_is_refused(checkout):
    shutil.rmtree(checkout.config["folder"])
    with pytest.raises(DeploymentError, match=r"the folder .* does not exist") as error:
        source_folder.tree(checkout)
    assert error.value.hint == "correct django:sites:blog:folder"


def test_difference_of_two_commits(cloned, upstream):
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
    committed = clock.timestamp(float(upstream.git("show", "-s", "--format=%ct", second)))
    about = {"author": "Ada", "subject": "It's the second: ünicode", "committed": committed}
    assert commits.describe(site, second) == about
    new_file = "new file mode 100644"
    assert commits.commit_difference(site, upstream.first, second) == {
        "files": 5,
        "commits": [f"{second[:7]} Ada: It's the second: ünicode"],
        "requirements": {"requirements/base.txt": "new file mode 100644\n@@ -0,0 +1 @@\n+django", "uv.lock": new_file},
        "migrations": ["blog/migrations/0001_initial.py"],
    }
    assert commits.commit_difference(site, second, upstream.first) == {
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
    found = commits.commit_difference(site, second, fourth)
    assert "--index-url https://**********@pypi.example.org/simple" in found["requirements"]["requirements.txt"]
    assert len(found["commits"]) == 21 and found["commits"][0].endswith("Ada: 20") and found["commits"][-1] == "…"
    long = upstream.commit({"uv.lock": "".join(f"{number}\n" for number in range(100))})
    exported(site, long)
    lines = commits.commit_difference(site, third, long)["requirements"]["uv.lock"].splitlines()
    assert len(lines) == 61 and lines[-1] == "… 41 lines more"
    assert commits.commit_difference(site, None, second) == commits.commit_difference(site, "1" * 40, second) == {}


def test_day_of_requirements_is_that_of_the_newest_commit_that_changed_one(cloned, upstream, monkeypatch):
    def commit(day, files):
        monkeypatch.setenv("GIT_COMMITTER_DATE", f"{day}T12:00:00+0000")
        return upstream.commit(files)

    commit("2019-03-01", {"requirements.txt": "-r base.txt\n", "base.txt": "django==2.2\n"})
    commit("2021-06-30", {"base.txt": "django==3.2\n"})
    last = commit("2024-01-01", {"blog/models.py": "models\n", "*.txt": ""})
    site = cloned(upstream)
    exported(site, last)
    assert commits.last_change(site, last, ["requirements.txt", "base.txt"]) == "2021-06-30"
    assert commits.last_change(site, last, ["requirements.txt"]) == "2019-03-01"
    assert commits.last_change(site, last, ["missing.txt"]) == ""


def test_files_of_a_folder_have_no_day(checkout):
    assert commits.last_change(checkout, "0" * 40, ["requirements.txt"]) == ""
