"""Secrets of a site: generated, stored, refused when lost or damaged."""

import json
import os
import re
import stat

import pytest
from django_formula.host import file, users
from django_formula.host.commands import DeploymentError
from django_formula.secret import secrets

KEY = "0123456789-secret-key-of-the-site"
GIVEN = {"pillar": "django:sites:blog:secret_key"}


@pytest.fixture
def site(make_site):
    return make_site(secrets={"TOKEN": {"generate": 64, "as": "file"}, "API": "given"}, secret_key=KEY)


def generated(site):
    """The site with nothing given by pillar."""
    site.config["secret_key"] = None
    return site


def test_secrets_of_a_configuration(site):
    assert secrets.configured(site) == {
        "secret_key": {"value": GIVEN},
        "TOKEN": {"generate": 64, "as": "file", "variable": "TOKEN_FILE"},
        "API": {"value": {"pillar": "django:sites:blog:secrets:API"}, "as": "variable", "variable": "API"},
    }
    assert secrets.configured(generated(site))["secret_key"] == {"generate": 50}


@pytest.mark.parametrize(("name", "characters"), [("secret_key", 50), ("TOKEN", 64)])
def test_generated_secret_has_length_and_alphabet(site, name, characters):
    values = {secrets.generate(generated(site), name) for _ in range(50)}
    assert len(values) == 50
    allowed = r"[^\s$\\`'\"/]" if name == "secret_key" else r"[A-Za-z0-9_-]"
    assert all(re.fullmatch(f"{allowed}{{{characters}}}", value) for value in values)


def test_first_release_generates_and_stores_secrets(site):
    site = generated(site)
    known = secrets.values(site, {"API": "given"})
    assert known == {"API": "given"}
    assert secrets.missing(site, known, {}) == ["secret_key", "TOKEN"]
    for name in ("secret_key", "TOKEN"):
        known[name] = secrets.generate(site, name)
    assert secrets.changed(site, known) == ["API", "secret_key", "TOKEN"]
    for name, value in known.items():
        secrets.store(site, name, value)
        status = secrets.path_of(site, name).stat()
        assert stat.S_IMODE(status.st_mode) == 0o640 and status.st_uid == os.getuid()
    assert secrets.changed(site, known) == []
    assert secrets.values(site, {"API": "given"}) == known
    assert sorted(path.name for path in site.secrets.iterdir()) == ["API", "TOKEN", "secret_key.json"]


@pytest.mark.parametrize("name", ["secret_key", "TOKEN"])
def test_lost_secret_of_a_release_is_an_error(site, name):
    path = secrets.path_of(site, name)
    with pytest.raises(DeploymentError) as error:
        secrets.missing(generated(site), {"API": "given"}, {f"secrets:{name}": "a hash"})
    assert error.value.message.startswith(f"{path} is missing; a new value would invalidate what the old one signed")
    key = "secret_key" if name == "secret_key" else f"secrets:{name}"
    assert error.value.hint == f"restore it from a backup, or set it: django:sites:blog:{key}"
    known = {"API": "given", "secret_key": KEY, "TOKEN": "given"}
    assert secrets.missing(site, known, {f"secrets:{name}": "a hash"}) == []


def test_database_password_is_a_secret(make_site):
    server = {"engine": "postgres", "password": "hunter2"}
    site = make_site(databases={"default": {"engine": "sqlite"}, "log": {**server, "name": "log"}})
    path, at = site.secrets / "database.log", "django:sites:blog:databases:log:password"
    assert secrets.configured(site)["database.log"] == {"value": {"pillar": at}}
    assert secrets.path_of(site, "database.log") == path
    for recorded, message in (({}, "does not exist yet"), ({"secrets:database.log": "a hash"}, "is missing")):
        with pytest.raises(DeploymentError, match=f"^{path} {message}") as error:
            secrets.missing(site, {"secret_key": KEY}, recorded)
        assert error.value.hint.endswith("salt-call state.apply django" if not recorded else at)
    secrets.store(site, "database.log", "hunter2")
    assert secrets.values(site, {})["database.log"] == "hunter2"
    alone = make_site("shop", database=server)
    with pytest.raises(DeploymentError) as error:
        secrets.missing(alone, {"secret_key": KEY}, {"secrets:database.default": "a hash"})
    assert error.value.hint.endswith("set it: django:sites:shop:database:password")


def key_file(key):
    return json.dumps({"key": key, "fallbacks": []})


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("secret_key", ""),
        ("secret_key", key_file(KEY)[: len(KEY) // 2]),
        ("secret_key", key_file(KEY)[:-1]),
        ("secret_key", "\0" * 60),
        ("secret_key", "[]"),
        ("secret_key", key_file("")),
        ("secret_key", key_file("**********")),
        ("secret_key", key_file("with\0zero")),
        ("secret_key", key_file("with\rreturn")),
        ("TOKEN", ""),
        ("TOKEN", "  \n"),
        ("TOKEN", "**********"),
        ("TOKEN", "**********\n"),
        ("TOKEN", "token\r\n"),
        ("TOKEN", "\0" * 64),
    ],
)
def test_damaged_secret_is_refused(site, name, content):
    path = secrets.path_of(generated(site), name)
    file.write(path, content, mode=0o640)
    with pytest.raises(DeploymentError) as error:
        secrets.values(site, {})
    assert error.value.message == f"{path} is empty or damaged"
    known = {name: "given by pillar, as the error says"}
    assert secrets.values(site, known)[name] == known[name]
    assert secrets.changed(site, known) == [name]
    secrets.store(site, name, known[name])
    assert secrets.changed(site, known) == []


@pytest.mark.parametrize(
    ("what", "message"),
    [
        ("link", "is not a plain file"),
        ("dangling link", "is not a plain file"),
        ("folder", "is not a plain file"),
        ("owner", "is owned by .*, not by root"),
    ],
)
def test_secret_that_root_did_not_write_is_refused(site, monkeypatch, what, message):
    path = secrets.path_of(site, "TOKEN")
    if what == "folder":
        path.mkdir()
    elif what == "owner":
        path.write_text("token")
        monkeypatch.setattr(users, "user_id", lambda name: os.getuid() + 1)
    else:
        (site.root / "elsewhere").write_text("token")
        path.symlink_to(site.root / ("elsewhere" if what == "link" else "nowhere"))
    with pytest.raises(DeploymentError, match=message):
        secrets.values(site, {})


@pytest.mark.parametrize("mode", [0o644, 0o666, 0o600])
def test_wrong_mode_is_corrected(site, mode):
    secrets.store(site, "TOKEN", "token")
    path = secrets.path_of(site, "TOKEN")
    path.chmod(mode)
    assert secrets.changed(site, {"TOKEN": "token"}) == ["TOKEN"]
    secrets.store(site, "TOKEN", "token")
    assert stat.S_IMODE(path.stat().st_mode) == 0o640 and secrets.changed(site, {"TOKEN": "token"}) == []


def test_plain_key_file_is_written_on_request(site, make_site):
    plain, known = site.secrets / "secret_key", {"secret_key": KEY}
    secrets.store(site, "secret_key", KEY)
    assert not plain.exists() and secrets.changed(site, known) == []
    asking = make_site(environment={"KEY_PATH": {"from": "secret_key_file"}})
    assert secrets.changed(asking, known) == ["secret_key"]
    secrets.store(asking, "secret_key", KEY)
    assert secrets.changed(asking, known) == [] and secrets.fallbacks(asking) == []
    assert plain.read_text() == KEY and stat.S_IMODE(plain.stat().st_mode) == 0o640
    plain.chmod(0o644)
    assert secrets.changed(asking, known) == ["secret_key"]
    secrets.store(asking, "secret_key", KEY)
    plain.write_text("torn")
    assert secrets.changed(asking, known) == ["secret_key"]
    secrets.store(site, "secret_key", "another")
    assert plain.read_text() == "another", "an older release may still read it"


def test_former_keys_are_fallbacks(site):
    assert secrets.fallbacks(site) == []
    for number in range(6):
        secrets.store(site, "secret_key", f"key {number}")
    assert json.loads((site.secrets / "secret_key.json").read_text()) == {
        "key": "key 5",
        "fallbacks": ["key 4", "key 3", "key 2", "key 1", "key 0"],
    }
    secrets.store(site, "secret_key", "key 5", ["key 1", "key 0", "key 7"])
    assert secrets.fallbacks(site) == ["key 4", "key 3", "key 2"]
    secrets.store(site, "secret_key", "key 3")
    assert secrets.fallbacks(site) == ["key 5", "key 4", "key 2"]


@pytest.mark.parametrize("torn", [b"", b"k" * 31, b"k" * 33])
def test_damaged_record_key_is_replaced(site, torn):
    (site.secrets / ".record_key").write_bytes(torn)
    key = secrets.record_key(site)
    assert len(key) == 32 and key != torn and secrets.record_key(site) == key


def test_fingerprint_differs_per_key():
    one, other = secrets.fingerprint(KEY), secrets.fingerprint(f"{KEY}2")
    assert re.fullmatch("[0-9a-f]{16}", one) and one == secrets.fingerprint(KEY) and one != other


def test_records_are_hashed_with_a_key_of_the_host(site):
    key = secrets.record_key(site)
    assert secrets.record_key(site) == key and len(key) == 32
    assert stat.S_IMODE((site.secrets / ".record_key").stat().st_mode) == 0o600
    one = secrets.keyed_hash(key, {"a": 1, "b": [True]})
    assert re.fullmatch("[0-9a-f]{16}", one) and one == secrets.keyed_hash(key, {"b": [True], "a": 1})
    others = [
        secrets.keyed_hash(key, {"a": 1, "b": [1]}),
        secrets.keyed_hash(b"other", {"a": 1, "b": [True]}),
    ]
    assert one not in others


def test_dry_run_of_a_new_site_writes_nothing(make_site):
    site = make_site(folders=False)
    assert len(secrets.record_key(site)) == 32 and not site.root.exists()
