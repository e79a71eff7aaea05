"""Static files in a store elsewhere: which are sent and deleted, by signed requests to a store of the tests."""

import json
import re
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from django_formula.host import commands
from django_formula.host.commands import DeploymentError
from django_formula.push import rsync, s3, static_files
from django_formula.push.s3 import Bucket
from django_formula.site import sites
from django_formula.untrusted import delegate
from s3_store import Store

KEY, SECRET = "AKIAIOSFODNN7EXAMPLE", "wJalrXUtnFEMI/K7MDENG/bPxRfiCYEXAMPLEKEY"
HASHED = {"class": "Manifest", "manifest": "staticfiles.json", "elsewhere": False}


@pytest.fixture
def store(monkeypatch: pytest.MonkeyPatch) -> Iterator[Store]:
    monkeypatch.setattr(s3.time, "sleep", lambda seconds: None)
    monkeypatch.setenv("no_proxy", "127.0.0.1")
    with Store(0, "static", KEY, SECRET) as store:
        thread = threading.Thread(target=store.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        yield store
        store.shutdown()
        thread.join()


@pytest.fixture
def pushing(make_site, store) -> Any:
    """Make a site that pushes to the store."""

    def make(**options: Any) -> Any:
        push = {"kind": "s3", "bucket": "static", "endpoint": store.url, "style": "path", "key": KEY}
        return make_site(static={"push": {**push, "secret": SECRET, **options}})

    return make


def collected(folder: Path, count: int = 3, version: int = 1) -> Path:
    """Collected files with their manifest; a version changes the first of them."""
    paths = {}
    (folder / "app").mkdir(parents=True, exist_ok=True)
    for number in range(count):
        text = f"body {{ order: {number} }} /* {version if number == 0 else 1} */\n"
        name = f"app/{number}.{abs(hash(text)) % 16**12:012x}.css"
        (folder / name).write_text(text)
        (folder / f"app/{number}.css").write_text(text)
        paths[f"app/{number}.css"] = name
    (folder / "staticfiles.json").write_text(json.dumps({"paths": paths, "version": "1.1"}))
    return folder


def push(site, folder: Path) -> list[str]:
    return static_files.send(site, folder, static_files.names(site, folder, HASHED), SECRET)


# Signatures, as Amazon documents them (Signature Calculations for the Authorization Header, examples)

AMAZON = Bucket("https://s3.amazonaws.com", "examplebucket", "", "us-east-1", False, KEY, SECRET)
MOMENT = time.strptime("20130524T000000Z", "%Y%m%dT%H%M%SZ")
EMPTY = "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855"


@pytest.mark.parametrize(
    ("method", "path", "query", "headers", "digest", "expected"),
    [
        (
            "GET",
            AMAZON.path("test.txt"),
            {},
            {"Range": "bytes=0-9"},
            EMPTY,
            "f0e8bdb87c964420e857bd35b5d6ed310bd44f0170aba48dd91039c6036bdb41",
        ),
        (
            "PUT",
            AMAZON.path("test$file.text"),
            {},
            {"Date": "Fri, 24 May 2013 00:00:00 GMT", "x-amz-storage-class": "REDUCED_REDUNDANCY"},
            "44ce7dd67c959e0d3524ffac1771dfbba87d2b6b4b4e99e42034a8b803f8b072",
            "98ad721746da40c64f1a55b78f14c238d841ea1380cd77a1b5971af0ece108bd",
        ),
        (
            "GET",
            AMAZON.path(),
            {"prefix": "J", "max-keys": "2"},
            {},
            EMPTY,
            "34b48302e7b5fa45bde8084f4b7868a86f0a534bc59db6670ed5711ef69dc6f7",
        ),
    ],
    ids=["get", "put", "list"],
)
def test_signature_is_that_of_amazons_examples(method, path, query, headers, digest, expected):
    sent = {"Host": AMAZON.host, "x-amz-content-sha256": digest, **headers}
    signed = s3.signature(AMAZON, method, path, query, sent, digest, MOMENT)
    assert signed["Authorization"].endswith(f"Signature={expected}")


# What is sent


def test_only_what_the_store_lacks_is_sent(pushing, store, tmp_path):
    site = pushing()
    assert len(push(site, collected(tmp_path / "1", count=300))) == 300
    store.requests.clear()
    sent = push(site, collected(tmp_path / "2", count=300, version=2))
    assert len(sent) == 1 and sent[0].startswith("app/0.")
    assert store.requests == ["GET /static/", f"PUT /static/blog/{sent[0]}"]
    assert push(site, tmp_path / "2") == []


def test_names_without_hash_and_manifest_are_not_sent(pushing, store, tmp_path):
    push(pushing(), collected(tmp_path))
    assert sorted(store.objects) == sorted(
        f"blog/{path.relative_to(tmp_path)}" for path in tmp_path.glob("app/*.*.css")
    )


def test_long_listing_is_read_to_its_end(pushing, store, tmp_path):
    store.page = 7
    site = pushing()
    push(site, collected(tmp_path, count=20))
    store.requests.clear()
    assert push(site, tmp_path) == []
    assert store.requests == ["GET /static/"] * 3


def test_objects_have_headers_and_compressed_content(pushing, store, tmp_path):
    collected(tmp_path, count=1)
    name = next(tmp_path.glob("app/0.*.css")).relative_to(tmp_path)
    (tmp_path / f"{name}.gz").write_bytes(b"compressed")
    push(pushing(), tmp_path)
    assert store.objects[f"blog/{name}"] == (
        {
            "Content-Type": "text/css; charset=utf-8",
            "Cache-Control": "public, max-age=31536000, immutable",
            "Content-Encoding": "gzip",
        },
        b"compressed",
    )


@pytest.mark.parametrize(
    ("name", "expected"),
    {
        "a.js": "text/javascript; charset=utf-8",
        "a.mjs": "text/javascript; charset=utf-8",
        "a.css.map": "application/json; charset=utf-8",
        "a.woff2": "font/woff2",
        "a.SVG": "image/svg+xml",
        "a.png": "image/png",
        "a.wasm": "application/wasm",
        "a": "application/octet-stream",
        "a.unknown": "application/octet-stream",
    }.items(),
)
def test_content_type_is_by_the_name(name, expected):
    assert s3.content_type(name) == expected


def test_names_are_quoted(pushing, store, tmp_path):
    (tmp_path / "a b+ä&.0123456789ab.css").write_text("x")
    (tmp_path / "staticfiles.json").write_text(json.dumps({"paths": {"a b+ä&.css": "a b+ä&.0123456789ab.css"}}))
    site = pushing()
    assert push(site, tmp_path) == ["a b+ä&.0123456789ab.css"]
    assert [*store.objects] == ["blog/a b+ä&.0123456789ab.css"]
    assert push(site, tmp_path) == []


def test_bucket_in_the_host():
    assert AMAZON.host == "examplebucket.s3.amazonaws.com" and AMAZON.path("a b") == "/a%20b"


# What fails


@pytest.mark.parametrize("failures", [[503, 500], [None, None]], ids=["overloaded", "connection closed"])
def test_failing_store_is_tried_again(pushing, store, tmp_path, failures):
    store.failures = [0, *failures]
    assert len(push(pushing(), collected(tmp_path))) == 3
    assert len(store.objects) == 3


def test_store_that_keeps_failing_is_a_transient_error(pushing, store, tmp_path):
    store.failures = [503] * 50
    with pytest.raises(DeploymentError, match=r"returned 503 \(SlowDown: refused by the test\)") as error:
        push(pushing(), collected(tmp_path))
    assert error.value.transient and not store.objects
    assert store.requests == ["GET /static/"] * 4


@pytest.mark.parametrize(
    ("options", "message", "hint"),
    [
        ({"secret": "another-secret"}, "403 .SignatureDoesNotMatch", "static:push:key and .*:secret"),
        ({"key": "another"}, "403 .InvalidAccessKeyId", "static:push:key and .*:secret"),
        (
            {"bucket": "another"},
            "404 .NoSuchBucket",
            "create the bucket, or correct django:sites:blog:static:push:bucket",
        ),
    ],
    ids=["secret", "key", "bucket"],
)
def test_refusal_names_its_cause_and_is_not_tried_again(pushing, store, tmp_path, options, message, hint):
    site, secret = pushing(**options), options.get("secret", SECRET)
    with pytest.raises(DeploymentError, match=message) as error:
        static_files.send(site, collected(tmp_path), ["app/x.0123456789ab.css"], secret)
    assert not error.value.transient and len(store.requests) == 1
    assert secret not in str(error.value)
    assert re.search(hint, error.value.hint)


def test_unreachable_store_is_a_transient_error(pushing, tmp_path):
    site = pushing(endpoint="http://127.0.0.1:1")
    with pytest.raises(DeploymentError, match=r"127.0.0.1:1: .*refused") as error:
        push(site, collected(tmp_path))
    assert error.value.transient and "static:push:endpoint" in error.value.hint


def test_endless_answer_is_an_error(monkeypatch, pushing, store, tmp_path):
    monkeypatch.setattr(s3, "_ANSWER", 10)
    with pytest.raises(DeploymentError, match="the answer is too large"):
        push(pushing(), collected(tmp_path))


def test_push_takes_no_longer_than_configured(pushing, monkeypatch, tmp_path):
    asked = {}
    monkeypatch.setattr(delegate, "ask", lambda *arguments, **options: asked.update(options) or [])
    push(pushing(timeout="7s"), collected(tmp_path))
    assert asked["timeout"] == 7 and asked["doing"].startswith("pushing static files at s3://static/blog/ at http:")


def test_secret_that_is_not_known_is_refused(pushing, tmp_path):
    with pytest.raises(DeploymentError, match="which only an apply reads"):
        static_files.send(pushing(), tmp_path, ["a.0123456789ab.css"], None)


# Names


def test_project_without_manifest_is_refused(pushing, tmp_path):
    (tmp_path / "app.css").write_text("x")
    storage = {"class": "django.contrib.staticfiles.storage.StaticFilesStorage", "manifest": None, "elsewhere": False}
    with pytest.raises(DeploymentError, match=r"StaticFilesStorage gives them none") as error:
        static_files.names(pushing(), tmp_path, storage)
    assert "ManifestStaticFilesStorage" in error.value.hint and "{{" not in error.value.hint


def test_name_that_the_storage_leaves_without_hash_is_refused(pushing, tmp_path):
    paths = {"app.css": "app.0123456789ab.css", "main.js": "main.js", "vite-3f2a9c1b.js": "vite-3f2a9c1b.js"}
    (tmp_path / "staticfiles.json").write_text(json.dumps({"paths": paths}))
    with pytest.raises(DeploymentError, match=r"Manifest leaves .* replace those of the active one: main\.js\n"):
        static_files.names(pushing(), tmp_path, HASHED)


@pytest.mark.parametrize("name", ["../../etc/shadow", "/etc/shadow", "a//b", "a\nb"])
def test_name_that_leads_elsewhere_is_refused(pushing, tmp_path, name):
    (tmp_path / "staticfiles.json").write_text(json.dumps({"paths": {"a": name}}))
    with pytest.raises(DeploymentError, match="which is no file below it"):
        static_files.names(pushing(), tmp_path, HASHED)


# What is deleted


def test_what_no_kept_release_names_is_deleted(pushing, store, tmp_path):
    site = pushing()
    store.objects["blog/of.another.css"] = ({}, b"")
    for version in (1, 2, 3):
        push(site, collected(tmp_path / str(version), version=version))
    assert len(store.objects) == 6
    assert static_files.prune(site, [(tmp_path / "2", HASHED), (tmp_path / "3", HASHED)], SECRET) == 1
    (first,) = {path.name for path in tmp_path.glob("1/app/*.*.css")} - {
        path.name for path in tmp_path.glob("2/app/*.*.css")
    }
    assert f"blog/app/{first}" not in store.objects
    assert len(store.objects) == 5 and "blog/of.another.css" in store.objects
    store.requests.clear()
    assert static_files.prune(site, [(tmp_path / "2", HASHED), (tmp_path / "3", HASHED)], SECRET) == 0
    assert store.requests == []


def test_what_an_interrupted_push_has_sent_is_deleted_too(pushing, store, tmp_path):
    site = pushing()
    store.failures = [0, *[0] * 2, *[503] * 4]
    with pytest.raises(DeploymentError):
        push(site, collected(tmp_path / "1"))
    assert len(store.objects) == 2
    static_files.prune(site, [], SECRET)
    assert store.objects == {}


def test_what_is_gone_already_is_deleted_for_each_store(pushing, store, tmp_path):
    """An interrupted deletion, or a rule of the bucket, has deleted some; the next one ends with the others."""
    site = pushing()
    store.refuses_missing = True
    push(site, collected(tmp_path))
    del store.objects[sorted(store.objects)[0]]
    assert static_files.prune(site, [], SECRET) == 3 and store.objects == {}
    assert static_files.pushed(site) == set()


def test_nothing_is_deleted_where_a_manifest_is_damaged(pushing, store, tmp_path):
    site = pushing()
    push(site, collected(tmp_path))
    (tmp_path / "staticfiles.json").write_text("{")
    with pytest.raises(DeploymentError, match=r"staticfiles\.json is missing or damaged"):
        static_files.prune(site, [(tmp_path, HASHED)], SECRET)
    assert len(store.objects) == 3


def test_nothing_is_deleted_with_prune_off_or_in_another_place(pushing, store, tmp_path):
    site = pushing(prune=False)
    push(site, collected(tmp_path))
    assert static_files.prune(site, [], SECRET) == 0
    assert static_files.prune(pushing(prefix="elsewhere"), [], SECRET) == 0
    assert len(store.objects) == 3


# The secret


def test_secret_is_kept_for_commands_and_removed(pushing, make_site):
    site = pushing()
    assert static_files.SECRET.value(site, None) is None and not static_files.SECRET.is_kept(site, SECRET)
    static_files.SECRET.keep(site, SECRET)
    assert static_files.SECRET.value(site, None) == SECRET and static_files.SECRET.is_kept(site, SECRET)
    assert (site.secrets / ".push_secret").stat().st_mode & 0o777 == 0o600
    former = make_site()
    assert static_files.SECRET.value(former, None) is None and not static_files.SECRET.is_kept(former, None)
    static_files.SECRET.keep(former, None)
    assert static_files.SECRET.is_kept(former, None)


def test_bucket_does_not_show_its_secret():
    assert SECRET not in repr(AMAZON)


# The step


@pytest.fixture
def deploying(world, store, monkeypatch) -> Any:
    """A host in miniature with a site that pushes; `version` is that of its static files."""
    push = {"kind": "s3", "bucket": "static", "endpoint": store.url, "style": "path", "key": KEY, "secret": SECRET}
    world.options = {"static": {"url": "https://static.example.org/", "push": push}, "releases": {"keep": 2}}
    world.given, world.version = {"push_secret": SECRET}, 1
    world.answers = {"static_storage": HASHED}
    answer = world.project

    def project(request: dict[str, Any]) -> str:
        if request["mode"] == "start":
            assert request["push"]
            collected(Path(request["static_root"]), version=world.version)
        return answer(request)

    monkeypatch.setattr(world, "project", project)
    return world


def test_release_pushes_before_it_is_migrated_and_started(deploying, store):
    changes = deploying.apply()
    assert changes["push"] == {"pushed": f"3 of 3 files to s3://static/blog/ at {store.url}"}
    assert [*changes].index("static") < [*changes].index("push") < [*changes].index("instance")
    assert static_files.SECRET.is_kept(deploying.site, SECRET)
    record = json.loads((deploying.site.current / "release.json").read_text())
    assert record["pushed"] == {"files": 3, "sent": 3}
    deploying.check()


def test_nothing_to_release_and_dry_run_connect_to_nothing(deploying, store):
    deploying.apply()
    store.requests.clear()
    assert deploying.apply() == {}
    deploying.push("two")
    deploying.version = 2
    assert "push" in deploying.apply(test=True)
    assert store.requests == []


def test_release_from_the_command_line_has_the_kept_secret(deploying):
    deploying.apply()
    deploying.given = {}
    deploying.push("two")
    deploying.version = 2
    assert deploying.apply()["push"]["pushed"].startswith("1 of 3 files")


def test_refused_push_fails_before_migrations_and_removes_nothing(deploying, store):
    deploying.apply()
    live, objects = deploying.live, dict(store.objects)
    deploying.push("two")
    deploying.version, store.failures = 2, [0, 403]
    with pytest.raises(DeploymentError, match=r"push: pushing static files .*|returned 403") as error:
        deploying.apply()
    assert f"{live} still runs" in error.value.hint and SECRET not in str(error.value)
    assert deploying.live == live and objects == store.objects
    assert not any(request["mode"] == "migrate" for request in deploying.requests)


def test_files_that_no_kept_release_names_are_deleted(deploying, store):
    for version in (1, 2, 3):
        deploying.push(str(version))
        deploying.version = version
        deploying.apply()
    kept = [f"blog/{name}" for path in deploying.site.releases.iterdir() for name in named(path / "static")]
    assert {*store.objects} == {*kept} and len(store.objects) == 4
    assert sum(line.startswith("DELETE") for line in store.requests) == 1


def named(folder: Path) -> list[str]:
    return [*json.loads((folder / "staticfiles.json").read_text())["paths"].values()]


def test_store_that_refuses_to_delete_is_a_warning(deploying, store):
    for version in (1, 2):
        deploying.push(str(version))
        deploying.version = version
        deploying.apply()
    deploying.push("three")
    deploying.version, store.failures = 3, [0, 0, 403]
    deploying.apply()
    assert any("static files of deleted releases stay at s3://static/blog/" in text for text in deploying.last.warnings)
    deploying.push("four")
    deploying.version = 4
    deploying.apply()
    assert len(store.objects) == 4


def test_change_of_the_login_makes_no_release_and_one_of_the_bucket_does(deploying):
    deploying.apply()
    push = deploying.options["static"]["push"]
    push |= {"key": "another", "secret": "another-secret", "prune": False, "timeout": "1m"}
    deploying.given = {"push_secret": "another-secret"}
    assert [*deploying.apply()] == ["site"]
    push["prefix"] = "elsewhere"
    assert "source" in deploying.apply(test=True)


def test_secret_is_removed_with_the_push(deploying):
    deploying.apply()
    deploying.options, deploying.given = {}, {}
    answer = deploying.project
    deploying.project = lambda request: answer({**request, "push": True})
    deploying.apply()
    assert static_files.SECRET.is_kept(deploying.site, None)


def test_key_that_a_killed_push_has_left_is_removed_by_the_next_apply(deploying):
    deploying.apply()
    keys = static_files.keys(deploying.site)
    keys.mkdir()
    (keys / "key").touch()
    with deploying.site.lock("another").held():  # it may push just now
        assert deploying.apply(test=True) == {} and keys.exists()
    assert deploying.apply(test=True) == {"site": {str(keys): "removed: a push was interrupted"}} and keys.exists()
    assert [*deploying.apply()] == ["site"] and not keys.exists()
    assert not deploying.last.lock.is_held and deploying.apply() == {}


# A static host

SSH_KEY = "-----BEGIN OPENSSH PRIVATE KEY-----\nb3BlbnNzaC1rZXktdjEA\n-----END OPENSSH PRIVATE KEY-----"
KNOWN_HOST = "static.example.org ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIOMqqnkVzrm0SdG6UOoqKLsabgH5C9okWi0dh2l9GKJl"


@pytest.fixture
def rsyncing(make_site, monkeypatch) -> Any:
    """A site that pushes to a static host, and the runs of rsync, each of which ends as `ends` has it."""
    push = {"kind": "rsync", "host": "static.example.org", "path": "/srv/static/blog", "port": 2222}
    site = make_site(static={"push": {**push, "ssh_key": SSH_KEY, "known_hosts": [KNOWN_HOST]}})
    runs, ends = [], []

    def run(argv, *, doing, user, stdin, timeout):
        keys = sites.RUNTIME / "blog.push"
        files = {path.name: path.read_text() for path in keys.iterdir() if path.is_file()}
        folders = sorted(str(path.relative_to(keys)) for path in keys.rglob("*") if path.is_dir())
        runs.append({"argv": argv, "user": user, "names": stdin.split("\0")[:-1], "files": files, "folders": folders})
        end = ends.pop(0) if ends else ""
        if isinstance(end, DeploymentError):
            raise end
        return end

    monkeypatch.setattr(commands, "run", run)
    monkeypatch.setattr(rsync.time, "sleep", lambda seconds: None)
    return site, runs, ends


def failed(text: str, *, transient: bool = False) -> DeploymentError:
    return DeploymentError("pushing static files failed (exit 255)", log=text, transient=transient)


def test_rsync_sends_files_and_compressed_copies(rsyncing, tmp_path):
    site, runs, ends = rsyncing
    (tmp_path / "a.0123456789ab.css.gz").write_bytes(b"")
    ends.append("./\na.0123456789ab.css\na.0123456789ab.css.gz\n")
    assert static_files.send(site, tmp_path, ["a.0123456789ab.css", "b.0123456789ab.png"], SSH_KEY) == [
        "a.0123456789ab.css"
    ]
    (ran,) = runs
    assert ran["names"] == ["./a.0123456789ab.css", "./b.0123456789ab.png", "./a.0123456789ab.css.gz"]
    assert ran["user"] == "_django-push" and SSH_KEY not in str(ran["argv"])
    assert ran["argv"][-2:] == [f"{tmp_path}/", "deploy@static.example.org:/srv/static/blog/"]
    assert "--ignore-existing" in ran["argv"] and "--delete-missing-args" not in ran["argv"]
    (ssh,) = [word for word in ran["argv"] if word.startswith("--rsh=")]
    assert "ssh -F none -p 2222 " in ssh and "StrictHostKeyChecking=yes" in ssh and "BatchMode=yes" in ssh
    assert ran["files"] == {"key": f"{SSH_KEY}\n", "known_hosts": f"{KNOWN_HOST}\n"}
    assert not (sites.RUNTIME / "blog.push").exists()


def test_rsync_deletes_what_is_missing_in_an_empty_folder(rsyncing, tmp_path):
    site, runs, _ends = rsyncing
    static_files.send(site, collected(tmp_path), static_files.names(site, tmp_path, HASHED), SSH_KEY)
    assert static_files.prune(site, [], SSH_KEY) == 3
    ran = runs[-1]
    assert "--delete-missing-args" in ran["argv"] and ran["argv"][-2].endswith("/blog.push/empty/")
    assert ran["folders"] == ["empty", "empty/app"] and len(ran["names"]) == 6
    assert static_files.pushed(site) == set()


def test_rsync_is_tried_again_where_the_connection_fails(rsyncing, tmp_path):
    site, runs, ends = rsyncing
    ends += [failed("Connection reset by peer", transient=True), "a.0123456789ab.css\n"]
    assert static_files.send(site, tmp_path, ["a.0123456789ab.css"], SSH_KEY) == ["a.0123456789ab.css"]
    ends += [failed("Connection refused", transient=True)] * 3
    with pytest.raises(DeploymentError):
        static_files.send(site, tmp_path, ["a.0123456789ab.css"], SSH_KEY)
    assert len(runs) == 5


@pytest.mark.parametrize(
    ("said", "hint"),
    [
        ("Host key verification failed.", "add a line of `ssh-keyscan -p 2222 static.example.org` to .*:known_hosts"),
        ("@ WARNING: REMOTE HOST IDENTIFICATION HAS CHANGED! @\nHost key verification failed.", "find out why"),
        ("deploy@x: Permission denied (publickey).", "authorized_keys of deploy on static.example.org, or correct"),
        ('rsync: [Receiver] mkdir "/srv/static/blog" failed: No such file or directory (2)', "create /srv/static/blog"),
        ('rsync: [Receiver] mkdir "/srv/static/blog" failed: Permission denied (13)', "let deploy write to"),
        ("bash: line 1: rsync: command not found", "install rsync on static.example.org"),
    ],
)
def test_failure_of_rsync_has_a_hint_and_leaves_no_key(rsyncing, tmp_path, said, hint):
    site, runs, ends = rsyncing
    ends.append(failed(said))
    with pytest.raises(DeploymentError) as error:
        static_files.send(site, tmp_path, ["a.0123456789ab.css"], SSH_KEY)
    assert re.search(hint, error.value.hint), error.value.hint
    assert len(runs) == 1 and not (sites.RUNTIME / "blog.push").exists()
