"""Attacks of a hostile repository on root's git: none may reach its target."""

import http.server
import os
import subprocess
import threading
import time
from base64 import b64decode
from contextlib import contextmanager, suppress
from pathlib import Path
from urllib.parse import quote

import pytest
from django_formula.host import commands
from django_formula.host.commands import DeploymentError
from django_formula.source import commits, git, mirror, submodule
from thinned import pairs
from upstream import Upstream

pytestmark = pytest.mark.slow  # transfers that wait


@pytest.fixture
def upstream(tmp_path):
    return Upstream(tmp_path / "upstream")


@pytest.fixture
def secret(tmp_path):
    """Return a repository of root, or of another site."""
    return Upstream(tmp_path / "secret", {"password.txt": "hunter2\n"})


@pytest.fixture
def without_fsck(monkeypatch):
    """Switch git fsck off: the first wall has to hold without it."""
    monkeypatch.setattr(
        git,
        "CONFIGURATION",
        git.CONFIGURATION.replace("fsckObjects = true", "fsckObjects = false"),
    )


@pytest.fixture
def cloned(make_site):
    """Return a function that makes a site with a prepared mirror of a repository."""

    def clone(upstream: Upstream | str, **options):
        site = make_site(repository=str(getattr(upstream, "folder", upstream)), **options)
        mirror.prepare(site, None)
        return site

    return clone


def export(site, commit):
    commits.export(site, commit, site.releases / "one")
    return site.releases / "one"


def tree_with(upstream: Upstream, lines: list[str]) -> str:
    """Commit a tree that git itself does not create: lines as of ls-tree, in their order."""
    argv = ["git", "mktree", "--missing"]
    text = "".join(f"{line}\n" for line in lines)
    made = subprocess.run(argv, cwd=upstream.folder, input=text, check=True, capture_output=True, text=True)
    commit = upstream.git("commit-tree", "-m", "A tree", made.stdout.strip())
    upstream.git("update-ref", "refs/heads/main", commit)
    return commit


def raw_tree(upstream: Upstream, entries: list[tuple[str, bytes, str]]) -> str:
    """Commit a tree byte by byte, for what mktree refuses."""
    content = b"".join(f"{mode} ".encode() + name + b"\0" + bytes.fromhex(sha) for mode, name, sha in entries)
    argv = ["git", "hash-object", "-t", "tree", "--literally", "-w", "--stdin"]
    made = subprocess.run(argv, cwd=upstream.folder, input=content, check=True, capture_output=True)
    commit = upstream.git("commit-tree", "-m", "A tree", made.stdout.decode().strip())
    upstream.git("update-ref", "refs/heads/main", commit)
    return commit


def blob(upstream: Upstream, content: str) -> str:
    argv = ["git", "hash-object", "-w", "--stdin"]
    return subprocess.run(
        argv, cwd=upstream.folder, input=content, check=True, capture_output=True, text=True
    ).stdout.strip()


def gitmodules(*modules: tuple[str, str]) -> str:
    return "".join(
        f'[submodule "{number}"]\n\tpath = {path}\n\turl = {url}\n' for number, (path, url) in enumerate(modules)
    )


# Repositories of this host


@pytest.mark.parametrize(
    "url",
    [
        "file://{secret}",
        "{secret}",
        "../secret",
        "/./{secret}",
        "file:///{secret}",
        "{upstream}/../secret",
        "{secret}/.git",
    ],
)
@pytest.mark.parametrize("submodules", [True, ["/srv/git/library.git"]])
def test_local_submodule_refused_unless_the_pillar_lists_it(cloned, upstream, secret, url, submodules):
    commit = upstream.submodule(url.format(secret=secret.folder, upstream=upstream.folder), "vendor", secret.first)
    site = cloned(upstream, submodules=submodules)
    with pytest.raises(DeploymentError, match=r"the submodule vendor points to .*, which is on this host") as error:
        export(site, commit)
    assert "list it in django:sites:blog:submodules: [/" in error.value.hint
    assert error.value.hint.endswith(
        "]; set django:sites:blog:submodules to false if the site does without its submodules"
    )
    assert not list(site.root.rglob("password.txt"))


def test_local_submodule_exported_when_the_pillar_lists_it(cloned, upstream, secret):
    commit = upstream.submodule(f"file://{secret.folder}/", "vendor", secret.first)
    site = cloned(upstream, submodules=[str(secret.folder)])
    assert (export(site, commit) / "vendor/password.txt").read_text() == "hunter2\n"


def test_mirror_of_a_listed_submodule_is_not_exported_once_it_is_no_longer_listed(cloned, upstream, secret):
    commit = upstream.submodule(str(secret.folder), "vendor", secret.first)
    site = cloned(upstream, submodules=[str(secret.folder)])
    export(site, commit)
    site.config["submodules"] = True
    with pytest.raises(DeploymentError, match="which is on this host"):
        commits.export(site, commit, site.releases / "two")


@pytest.mark.parametrize(
    ("parent", "url", "allowed"),
    [
        ("https://a.org/x.git", "https://b.org/y.git", True),
        ("https://a.org/x.git", "git@b.org:y.git", True),
        ("https://a.org/x.git", "http://b.org/y.git", False),
        ("git@a.org:x.git", "https://b.org/y.git", True),
        ("git@a.org:x.git", "http://b.org/y.git", False),
        ("http://a.org/x.git", "http://b.org/y.git", True),
        ("/srv/git/x.git", "http://b.org/y.git", True),
        ("https://a.org/x.git", "ssh://git@b.org:2222/y.git", True),
        ("https://a.org/x.git", "git@[::1]:y.git", False),
        ("https://a.org/x.git", "ssh://-oProxyCommand=touch+x/y.git", False),
        ("https://a.org/x.git", "ssh://-oProxyCommand=x@b.org/y.git", False),
        ("https://a.org/x.git", "ssh://git@-oProxyCommand=x/y.git", False),
        ("https://a.org/x.git", "-oProxyCommand=x:y.git", False),
        ("https://a.org/x.git", "git@-oProxyCommand=x:y.git", False),
        ("https://a.org/x.git", "git@b.org:-x", False),
        ("https://a.org/x.git", "ext::sh -c x", False),
        ("https://a.org/x.git", "fd::3", False),
        ("https://a.org/x.git", "https::file:///etc", False),
        ("https://a.org/x.git", "git://b.org/y.git", False),
        ("https://a.org/x.git", "ftp://b.org/y.git", False),
        ("https://a.org/x.git", "FILE:///srv/git", False),
        ("https://a.org/x.git", "library", False),
    ],
)
def test_protocol_of_a_submodule_is_no_wider_than_its_parents(cloned, upstream, parent, url, allowed):
    site = cloned(upstream)
    if allowed:
        assert submodule.permitted(site, url, parent, "vendor")[0] == url
        assert "file" not in submodule.permitted(site, url, parent, "vendor")[1]
    else:
        with pytest.raises(DeploymentError, match="uses a protocol that is not allowed"):
            submodule.permitted(site, url, parent, "vendor")


@contextmanager
def web(answer):
    """Yield the port of a web server, and the requests that it receives: (path, credentials)."""
    requests = []

    class Handler(http.server.BaseHTTPRequestHandler):
        def do_POST(self):
            self.do_GET()

        def do_GET(self):
            login = self.headers.get("Authorization", "").removeprefix("Basic ")
            requests.append((self.path, b64decode(login).decode()))
            answer(self)

        def log_message(self, *_arguments):
            pass

    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True).start()
        yield server.server_address[1], requests
        server.shutdown()


def require_login(handler):
    handler.send_response(401)
    handler.send_header("WWW-Authenticate", 'Basic realm="git"')
    handler.send_header("Content-Length", "0")
    handler.end_headers()


def test_login_of_the_parent_is_not_sent_to_another_host(cloned, upstream):
    with web(require_login) as (port, requests):
        commit = upstream.submodule(f"http://localhost:{port}/library.git", "vendor", "1" * 40)
        site = cloned(upstream)
        commits.fetch(site, commit)
        parent = f"http://ci:hunter2@127.0.0.1:{port}/team/blog.git"
        with pytest.raises(DeploymentError, match="requires a login"):
            commits._export(site, commit, site.releases / "one", site.mirror, url=parent)
    assert requests and not any(login for _path, login in requests)


@pytest.mark.parametrize("login", ["ci %@'\"$:OWN%2F\\n $x", "OWN$ %2F'x:"], ids=["password", "token alone"])
def test_login_in_a_url_is_in_no_process_list(cloned, upstream, login):
    own = os.urandom(8).hex()  # other processes of this host may have any usual word
    lists, wanted = [], login.replace("OWN", own)

    def answer(handler):
        if not handler.headers.get("Authorization"):
            require_login(handler)
            return
        for path in Path("/proc").glob("[0-9]*/cmdline"):
            with suppress(OSError):
                lists.append(path.read_bytes())
        smart(upstream, lambda _sent: 0)(handler)

    words = ":".join(quote(part, safe="") for part in wanted.split(":") if part)
    with web(answer) as (port, requests):
        site = cloned(f"http://{words}@127.0.0.1:{port}/upstream/.git")
        commit = commits.resolve(site, "main")
        export(site, commit)
    assert {login for _path, login in requests} == {"", wanted}
    assert any(b"ls-remote" in one for one in lists) and any(b"fetch" in one for one in lists)
    assert not [one for one in lists if own.encode() in one]


def test_password_of_a_login_in_a_url_is_asked_of_the_helper_of_the_system(cloned, upstream, tmp_path, system):
    def answer(handler):
        if not handler.headers.get("Authorization"):
            require_login(handler)
            return
        smart(upstream, lambda _sent: 0)(handler)

    with open(tmp_path / "gitconfig", "a") as file:
        file.write('[credential]\n\thelper = "!f() { test $1 != get || echo password=known; }; f"\n')
    with web(answer) as (port, requests):
        commits.resolve(cloned(f"http://ci@127.0.0.1:{port}/upstream/.git"), "main")
    assert {login for _path, login in requests} == {"", "ci:known"}


def test_url_that_is_none_is_explained(cloned, upstream):
    commit = upstream.submodule("https://[x/library.git", "vendor", "1" * 40)
    with pytest.raises(DeploymentError, match="the submodule vendor"):
        export(cloned(upstream), commit)


def test_redirect_to_a_file_is_not_followed(cloned, upstream, secret):
    def redirects(handler):
        handler.send_response(302)
        handler.send_header("Location", f"file://{secret.folder}/.git/info/refs")
        handler.end_headers()

    with web(redirects) as (port, requests):
        commit = upstream.submodule(f"http://127.0.0.1:{port}/library.git", "vendor", secret.first)
        site = cloned(upstream)
        with pytest.raises(DeploymentError):
            export(site, commit)
    assert requests and not list(site.root.rglob("password.txt"))


def test_two_urls_have_two_mirrors(cloned, upstream):
    site = cloned(upstream)
    urls = [f"https://a.org/{'x' * 200}{name}/library.git" for name in ("", "_", "/")] + ["https://a.org/library.git"]
    assert len({commits._module(site, url) for url in urls}) == len(urls)
    assert "hunter2" not in str(commits._module(site, "https://ci:hunter2@a.org/x.git"))


# Paths of submodules


@pytest.fixture
def outside(tmp_path):
    """Return a folder of root to which nothing may be written."""
    folder = tmp_path / "outside"
    folder.mkdir()
    return folder


def test_submodule_through_a_link_of_another_one_refused(cloned, upstream, tmp_path, outside, without_fsck):
    """The tree of the commit has two entries of one name."""
    linking = Upstream(tmp_path / "linking")
    (linking.folder / "x").symlink_to(outside)
    linked = linking.commit({})
    payload = Upstream(tmp_path / "payload", {"cron": "* * * * * root id\n"})
    inner = tree_with(upstream, [f"160000 commit {payload.first}\tx"])
    inner = upstream.git("rev-parse", f"{inner}^{{tree}}")
    modules = blob(upstream, gitmodules(("a", "../linking"), ("a/x", "../payload")))
    entries = [("100644", b".gitmodules", modules), ("160000", b"a", linked), ("40000", b"a", inner)]
    commit = raw_tree(upstream, entries)
    site = cloned(upstream, submodules=[str(linking.folder), str(payload.folder)])
    with pytest.raises(DeploymentError, match="has two entries named a"):
        export(site, commit)
    assert not list(outside.iterdir())


@pytest.mark.parametrize("name", ["x", "x/y"])
def test_link_on_the_way_to_a_submodule_refused(tmp_path, outside, name):
    (tmp_path / "source/a").mkdir(parents=True)
    (tmp_path / "source/a/x").symlink_to(outside)
    with pytest.raises(DeploymentError, match="cannot be exported: x: "):
        submodule.make_folder(tmp_path / "source", f"a/{name}")
    assert not list(outside.iterdir())


def test_submodule_over_files_of_another_one_refused(tmp_path):
    (tmp_path / "source/a").mkdir(parents=True)
    (tmp_path / "source/a/file").write_text("")
    with pytest.raises(DeploymentError, match="its folder has files of another one"):
        submodule.make_folder(tmp_path / "source", "a")
    (tmp_path / "source/b").write_text("")
    with pytest.raises(DeploymentError, match="cannot be exported: b: Not a directory"):
        submodule.make_folder(tmp_path / "source", "b")


@pytest.mark.parametrize(
    "path",
    [
        *["..", "../x", "a/../../x", ".git", ".GIT/hooks", "a/.git./x", ".git ", "GIT~1", ".git::$INDEX_ALLOCATION"],
        *["/etc/x", "a//b", "", ".", "a\\..\\b", ".g\u200cit", "a\nb"],
    ],
)
def test_path_of_a_submodule_refused(path):
    with pytest.raises(DeploymentError, match="is not a path below the source"):
        submodule._refuse_path(path)


NAMES = [b"..", b".git", b".GIT", b"git~1", b".git. ", ".g\u200cit".encode()]


@pytest.mark.parametrize(("name", "kind"), pairs(NAMES, ["submodule", "file", "folder"]))
def test_hostile_name_in_a_tree_refused(cloned, upstream, tmp_path, without_fsck, name, kind):
    library = Upstream(tmp_path / "library")
    file = blob(upstream, "x")
    folder = upstream.git("rev-parse", f"{tree_with(upstream, [f'100755 blob {file}	config'])}^{{tree}}")
    entry = {"submodule": ("160000", library.first), "file": ("100644", file), "folder": ("40000", folder)}[kind]
    modules = blob(upstream, gitmodules((os.fsdecode(name), "../library")))
    commit = raw_tree(upstream, [("100644", b".gitmodules", modules), (entry[0], name, entry[1])])
    site = cloned(upstream, submodules=[str(library.folder)])
    before = set(site.releases.rglob("*"))
    with pytest.raises(DeploymentError):
        export(site, commit)
    after = {path.name for path in set(site.releases.rglob("*")) - before}
    assert not after - {"one", ".gitmodules"}


def test_git_fsck_refuses_a_tree_with_two_entries_of_one_name(cloned, upstream):
    """The second wall: git checks each object that it fetches."""
    file = blob(upstream, "x")
    commit = raw_tree(upstream, [("100644", b"a", file), ("120000", b"a", file)])
    site = cloned(upstream)
    with pytest.raises(DeploymentError, match="git fsck refuses an object in the history of") as error:
        export(site, commit)
    assert "duplicateEntries" in error.value.log and not error.value.transient


def test_harmless_defects_of_old_histories_pass(cloned, upstream):
    file = blob(upstream, "x")
    argv = ["git", "hash-object", "-t", "tree", "--literally", "-w", "--stdin"]
    inner = raw_tree(upstream, [("100664", b"old", file)])
    inner = upstream.git("rev-parse", f"{inner}^{{tree}}")
    tree = raw_tree(upstream, [("040000", b"folder", inner)])
    tree = upstream.git("rev-parse", f"{tree}^{{tree}}")
    text = f"tree {tree}\nauthor Ada<ada@example.org> 1 +051800\ncommitter Ada <ada@example.org> 1 +051800\n\nOld\n"
    argv[3] = "commit"
    made = subprocess.run(argv, cwd=upstream.folder, input=text.encode(), check=True, capture_output=True)
    upstream.git("update-ref", "refs/heads/main", made.stdout.decode().strip())
    assert (export(cloned(upstream), made.stdout.decode().strip()) / "folder/old").read_text() == "x"


@pytest.mark.parametrize(
    "who",
    ["Ada <ada@example.org> 9223372036854775807 +0000", "Ada <ada@example.org> 99999999999999 +0000", "Ada 1 +0000"],
)
def test_commit_with_an_impossible_date_is_described_without_one(cloned, upstream, who):
    tree = upstream.git("rev-parse", "HEAD^{tree}")
    text = f"tree {tree}\nauthor Ada <ada@example.org> 1 +0000\ncommitter {who}\n\nLate\n"
    argv = ["git", "hash-object", "-t", "commit", "--literally", "-w", "--stdin"]
    made = subprocess.run(argv, cwd=upstream.folder, input=text.encode(), check=True, capture_output=True)
    commit = made.stdout.decode().strip()
    upstream.git("update-ref", "refs/heads/main", commit)
    site = cloned(upstream)
    export(site, commit)
    assert commits.describe(site, commit) == {"author": "Ada", "subject": "Late", "committed": ""}


# .gitmodules


def test_gitmodules_does_not_include_other_files(cloned, upstream, tmp_path):
    (tmp_path / "included").write_text(gitmodules(("vendor", "https://stolen.example.org/x")))
    upstream.commit({".gitmodules": f"[include]\n\tpath = {tmp_path}/included\n"})
    upstream.git("update-index", "--add", "--cacheinfo", f"160000,{'1' * 40},vendor")
    upstream.git("commit", "--quiet", "--message", "A submodule")
    with pytest.raises(DeploymentError, match="the submodule vendor has no url in"):
        export(cloned(upstream), upstream.git("rev-parse", "HEAD"))


@pytest.mark.parametrize("target", ["/dev/zero", "/etc/shadow"])
def test_gitmodules_as_a_link_refused(cloned, upstream, target, without_fsck):
    entries = [("120000", b".gitmodules", blob(upstream, target)), ("160000", b"vendor", "1" * 40)]
    commit = raw_tree(upstream, entries)
    with pytest.raises(DeploymentError):
        export(cloned(upstream), commit)
    site = cloned(upstream)
    listed = [submodule.Entry("120000", "1" * 40, ".gitmodules")]
    with pytest.raises(DeploymentError, match="gitmodules: it is not a regular file"):
        submodule._urls(site, listed, site.mirror)


def test_huge_gitmodules_refused(cloned, upstream):
    commit = upstream.submodule("https://a.org/x", "vendor", "1" * 40)
    upstream.commit({".gitmodules": "# a comment\n" * 100_000})
    upstream.git("update-index", "--add", "--cacheinfo", f"160000,{commit},vendor")
    upstream.git("commit", "--quiet", "--allow-empty", "--message", "Huge")
    with pytest.raises(DeploymentError, match="it has 1200000 bytes, more than 1048576"):
        export(cloned(upstream), upstream.git("rev-parse", "HEAD"))


def test_number_of_submodules_is_bounded(cloned, upstream, tmp_path, monkeypatch):
    monkeypatch.setattr(submodule, "NUMBER", 3)
    library = Upstream(tmp_path / "library")
    for number in range(4):
        commit = upstream.submodule("../library", f"vendor/{number}", library.first)
    site = cloned(upstream, submodules=[str(library.folder)])
    with pytest.raises(DeploymentError, match="there are more than 3 submodules"):
        export(site, commit)


def test_depth_of_submodules_is_bounded(cloned, upstream, tmp_path):
    inner, names = Upstream(tmp_path / "level0").first, ["level0"]
    for number in range(1, 6):
        names.append(f"level{number}")
        inner = Upstream(tmp_path / names[-1]).submodule(f"../level{number - 1}", "inner", inner)
    site = cloned(upstream, submodules=[str(tmp_path / name) for name in names])
    with pytest.raises(DeploymentError, match="nested more than five deep"):
        export(site, upstream.submodule("../level5", "inner", inner))


def test_commit_with_endless_files_refused(cloned, upstream, monkeypatch):
    """Ten levels of ten folders, all the same tree, are 10**10 files."""
    inner = upstream.git("rev-parse", "HEAD^{tree}")
    for _level in range(10):
        commit = tree_with(upstream, [f"040000 tree {inner}\t{name}" for name in "0123456789"])
        inner = upstream.git("rev-parse", f"{commit}^{{tree}}")
    with pytest.raises(DeploymentError, match="has too many files for a release"):
        export(cloned(upstream), commit)


def test_commit_of_large_files_refused_before_any_is_written(cloned, upstream):
    """A thousand files of a megabyte are one object of a kilobyte."""
    zeros = blob(upstream, "\0" * (1 << 20))
    commit = tree_with(upstream, [f"100644 blob {zeros}\t{number}" for number in range(1100)])
    site = cloned(upstream)
    with pytest.raises(DeploymentError) as error:
        export(site, commit)
    found = f"the files of the commit {commit[:12]} have 1100 MB"
    assert error.value.message == f"{found}, more than releases:size (1G) allows"
    assert error.value.hint.endswith("or raise django:sites:blog:releases:size")
    assert not (site.releases / "one").exists()


@pytest.mark.parametrize(
    ("limits", "message"),
    [
        ({"files": 4}, r"the commit {commit} has 5 files, more than releases:files \(4\) allows"),
        ({"files": 5}, ""),
        ({"size": "2M"}, r"the files of the commit {commit} have 3 MB, more than releases:size \(2M\) allows"),
        ({"size": "4M"}, ""),
        ({"size": None, "files": None}, ""),
    ],
)
def test_files_of_submodules_count(cloned, upstream, tmp_path, limits, message):
    library = Upstream(tmp_path / "library", {"a": "a" * (2 << 20), "b": "a" * (1 << 20)})
    commit = upstream.submodule("../library", "vendor", library.first)
    site = cloned(upstream, submodules=[str(library.folder)], releases=limits)
    if not message:
        assert (export(site, commit) / "vendor/b").exists()
        return
    with pytest.raises(DeploymentError, match=message.format(commit=library.first[:12])):
        export(site, commit)


# Filters


@pytest.fixture
def system(tmp_path, monkeypatch):
    """Configure filters, hooks and attributes for the whole host; return the file that they create if one runs."""
    witness = tmp_path / "witness"
    (tmp_path / "hooks").mkdir()
    (tmp_path / "hooks/reference-transaction").write_text(f"#!/bin/sh\ntouch {witness}\n")
    (tmp_path / "hooks/reference-transaction").chmod(0o755)
    (tmp_path / "attributes").write_text("* filter=steal\n")
    (tmp_path / "gitconfig").write_text(
        f'[filter "steal"]\n\tsmudge = touch {witness}; cat\n\tclean = touch {witness}; cat\n\trequired = true\n'
        f'[diff "steal"]\n\tcommand = touch {witness}\n\ttextconv = touch {witness}; cat\n'
        f"[core]\n\thooksPath = {tmp_path}/hooks\n\tattributesFile = {tmp_path}/attributes\n"
    )
    run = commands.run

    def on_that_host(argv, *, environment=None, **options):
        return run(
            argv, environment={"GIT_CONFIG_SYSTEM": str(tmp_path / "gitconfig"), **(environment or {})}, **options
        )

    monkeypatch.setattr(commands, "run", on_that_host)
    return witness


@pytest.mark.parametrize("attributes", ["* filter=steal diff=steal\n", "[attr]x filter=steal\n* x\n", ""])
def test_filter_of_the_system_does_not_run(cloned, upstream, tmp_path, system, attributes):
    files = {".gitattributes": attributes, "requirements.txt": "django\n"}
    library = Upstream(tmp_path / "library", files)
    upstream.commit(files)
    commit = upstream.submodule("../library", "vendor", library.first)
    site = cloned(upstream, submodules=[str(library.folder)])
    source = export(site, commit)
    commits.commit_difference(site, upstream.first, commit)
    commits.describe(site, commit)
    assert (source / "vendor/requirements.txt").read_text() == "django\n" and not system.exists()


def test_attributes_of_a_repository_other_than_filters_are_honoured(cloned, upstream, system):
    upstream.git("config", "core.autocrlf", "false")
    files = {
        ".gitattributes": "*.txt text eol=crlf filter=steal\n*.id ident\n*.ps1 text working-tree-encoding=UTF-16LE\n"
    }
    commit = upstream.commit({**files, "a.txt": "a\n", "b.id": "$Id$\n", "c.ps1": "c\n".encode("utf-16-le")})
    source = export(cloned(upstream), commit)
    assert (source / "a.txt").read_bytes() == b"a\r\n" and (source / "c.ps1").read_bytes() == b"c\0\n\0"
    assert (source / "b.id").read_text().startswith("$Id: ") and not system.exists()


def test_site_that_was_a_folder_before_has_the_attributes_of_a_repository(cloned, upstream):
    site = cloned(upstream)
    (site.mirror / "info/attributes").write_text("* -text -ident -filter -working-tree-encoding\n")
    commit = upstream.commit({".gitattributes": "*.txt text eol=crlf\n", "a.txt": "a\n"})
    assert (export(site, commit) / "a.txt").read_bytes() == b"a\r\n"


def test_configuration_of_the_system_applies_to_remotes(cloned, upstream, tmp_path, system):
    """Commands that connect to a remote use the system's configuration, as companies have it."""
    with open(tmp_path / "gitconfig", "a") as file:
        file.write(f'[url "{upstream.folder}"]\n\tinsteadOf = https://git.example.org/blog.git\n')
    assert commits.resolve(cloned("https://git.example.org/blog.git"), "main") == upstream.first


# What git prints


def test_control_characters_of_a_commit_are_not_passed_on(cloned, upstream):
    commit = upstream.commit(
        {"requirements.txt": "django\x1b[2J\n", "blog/migrations/0001_\x1b]0;x.py": ""}, "Sub\x1b[31mject\u202e\x07"
    )
    upstream.git("-c", "user.name=A\x1b[1mda", "commit", "--quiet", "--amend", "--reset-author", "--no-edit")
    commit = upstream.git("rev-parse", "HEAD")
    site = cloned(upstream)
    export(site, commit)
    text = str((commits.describe(site, commit), commits.commit_difference(site, upstream.first, commit)))
    assert "Sub[31mject" in text and "django[2J" in text and "0001_]0;x.py" in text
    assert "\\x1b" not in text and "\\u202e" not in text and "\\x07" not in text


def test_control_characters_of_a_server_are_not_passed_on(cloned, upstream):
    def rude(handler):
        handler.send_response(200)
        handler.send_header("Content-Type", "application/x-git-upload-pack-advertisement")
        handler.end_headers()
        handler.wfile.write(b"001e# service=git-upload-pack\n00000015ERR x\x1b[2Jy\x07 rude\n")

    with web(rude) as (port, _requests), pytest.raises(DeploymentError) as error:
        commits.resolve(cloned(f"http://127.0.0.1:{port}/x.git"), "main")
    assert "rude" in str(error.value) and "\x1b" not in str(error.value) and "\x07" not in str(error.value)


def test_diff_of_a_huge_file_is_bounded(cloned, upstream):
    commit = upstream.commit({"requirements.txt": "x\n" * 10_000_000})
    site = cloned(upstream)
    export(site, commit)
    diff = commits.commit_difference(site, upstream.first, commit)["requirements"]["requirements.txt"]
    assert "Binary files" in diff and len(diff) < 500


# Slow and silent servers


def smart(repository, pause):
    """Return the handler of a git server over http that sends 64 KiB at a time and pauses in between."""

    def answer(handler):
        length = int(handler.headers.get("Content-Length") or 0)
        path, _mark, query = handler.path.partition("?")
        environment = {
            **os.environ,
            "GIT_PROJECT_ROOT": str(repository.folder.parent),
            "GIT_HTTP_EXPORT_ALL": "1",
            "PATH_INFO": path,
            "QUERY_STRING": query,
            "REQUEST_METHOD": handler.command,
            "CONTENT_TYPE": handler.headers.get("Content-Type", ""),
            "GIT_PROTOCOL": handler.headers.get("Git-Protocol", ""),
            "HTTP_CONTENT_ENCODING": handler.headers.get("Content-Encoding", ""),
        }
        body = handler.rfile.read(length)
        done = subprocess.run(["git", "http-backend"], env=environment, input=body, capture_output=True, check=True)
        head, _blank, content = done.stdout.partition(b"\r\n\r\n")
        handler.send_response(200)
        for line in head.decode().split("\r\n"):
            handler.send_header(*line.split(": ", 1))
        handler.end_headers()
        for start in range(0, len(content), 1 << 16):
            time.sleep(pause(start) if handler.command == "POST" else 0)
            handler.wfile.write(content[start : start + (1 << 16)])
            handler.wfile.flush()

    return answer


def test_slow_transfer_completes(cloned, upstream):
    commit = upstream.commit({"film": os.urandom(1 << 20)})
    with web(smart(upstream, lambda _sent: 0.45)) as (port, _requests):
        site = cloned(f"http://127.0.0.1:{port}/upstream/.git", timeouts={"fetch": "6s"})
        began = time.monotonic()
        assert (export(site, commit) / "film").stat().st_size == 1 << 20
    assert time.monotonic() - began > 6


def test_stalled_transfer_times_out(cloned, upstream):
    commit = upstream.commit({"film": os.urandom(1 << 20)})
    with web(smart(upstream, lambda sent: 30 if sent else 0)) as (port, _requests):
        site = cloned(f"http://127.0.0.1:{port}/upstream/.git", timeouts={"fetch": "4s"})
        began = time.monotonic()
        with pytest.raises(DeploymentError, match="no progress for 5 s") as error:
            export(site, commit)
        assert time.monotonic() - began < 28 and error.value.transient
    assert not [*site.mirror.glob("objects/**/tmp_*")]


def test_transfer_that_never_ends_times_out(cloned, upstream, monkeypatch):
    """The server sends a little for ever."""
    monkeypatch.setattr(git, "_SLOW", 2)
    commit = upstream.commit({"film": os.urandom(1 << 20)})
    with web(smart(upstream, lambda _sent: 0.3)) as (port, _requests):
        site = cloned(f"http://127.0.0.1:{port}/upstream/.git", timeouts={"fetch": "2s"})
        with pytest.raises(DeploymentError, match="timed out after 4 s"):
            export(site, commit)
