"""Secrets of a site: generated, stored, refused when lost or damaged."""

import json
import os
import re
import stat

import django_host_file
import django_host_user
import django_secret
import pytest
from django_host_command import DeploymentError

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
    assert django_secret.configured(site) == {
        "secret_key": {"value": GIVEN},
        "TOKEN": {"generate": 64, "as": "file", "variable": "TOKEN_FILE"},
        "API": {"value": {"pillar": "django:sites:blog:secrets:API"}, "as": "variable", "variable": "API"},
    }
    assert django_secret.configured(generated(site))["secret_key"] == {"generate": 50}


@pytest.mark.parametrize(("name", "characters"), [("secret_key", 50), ("TOKEN", 64)])
def test_generated_secret_has_length_and_alphabet(site, name, characters):
    values = {django_secret.generate(generated(site), name) for _ in range(50)}
    assert len(values) == 50
    allowed = r"[^\s$\\`'\"/]" if name == "secret_key" else r"[A-Za-z0-9_-]"
    assert all(re.fullmatch(f"{allowed}{{{characters}}}", value) for value in values)


def test_first_release_generates_and_stores_secrets(site):
    site = generated(site)
    known = django_secret.values(site, {"API": "given"})
    assert known == {"API": "given"}
    assert django_secret.missing(site, known, {}) == ["secret_key", "TOKEN"]
    for name in ("secret_key", "TOKEN"):
        known[name] = django_secret.generate(site, name)
    assert django_secret.changed(site, known) == ["API", "secret_key", "TOKEN"]
    for name, value in known.items():
        django_secret.store(site, name, value)
        status = django_secret.path_of(site, name).stat()
        assert stat.S_IMODE(status.st_mode) == 0o640 and status.st_uid == os.getuid()
    assert django_secret.changed(site, known) == []
    assert django_secret.values(site, {"API": "given"}) == known
    assert sorted(path.name for path in site.secrets.iterdir()) == ["API", "TOKEN", "secret_key.json"]


@pytest.mark.parametrize("name", ["secret_key", "TOKEN"])
def test_lost_secret_of_a_release_is_an_error(site, name):
    path = django_secret.path_of(site, name)
    with pytest.raises(DeploymentError) as error:
        django_secret.missing(generated(site), {"API": "given"}, {f"secrets:{name}": "a hash"})
    assert error.value.message.startswith(f"{path} is missing; a new value would invalidate what the old one signed")
    key = "secret_key" if name == "secret_key" else f"secrets:{name}"
    assert error.value.hint == f"restore it from a backup, or set it: django:sites:blog:{key}"
    known = {"API": "given", "secret_key": KEY, "TOKEN": "given"}
    assert django_secret.missing(site, known, {f"secrets:{name}": "a hash"}) == []


def test_database_password_is_a_secret(make_site):
    server = {"engine": "postgres", "password": "hunter2"}
    site = make_site(databases={"default": {"engine": "sqlite"}, "log": {**server, "name": "log"}})
    path, at = site.secrets / "database.log", "django:sites:blog:databases:log:password"
    assert django_secret.configured(site)["database.log"] == {"value": {"pillar": at}}
    assert django_secret.path_of(site, "database.log") == path
    for recorded, message in (({}, "does not exist yet"), ({"secrets:database.log": "a hash"}, "is missing")):
        with pytest.raises(DeploymentError, match=f"^{path} {message}") as error:
            django_secret.missing(site, {"secret_key": KEY}, recorded)
        assert error.value.hint.endswith("salt-call state.apply django" if not recorded else at)
    django_secret.store(site, "database.log", "hunter2")
    assert django_secret.values(site, {})["database.log"] == "hunter2"
    alone = make_site("shop", database=server)
    with pytest.raises(DeploymentError) as error:
        django_secret.missing(alone, {"secret_key": KEY}, {"secrets:database.default": "a hash"})
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
    path = django_secret.path_of(generated(site), name)
    django_host_file.write(path, content, mode=0o640)
    with pytest.raises(DeploymentError) as error:
        django_secret.values(site, {})
    assert error.value.message == f"{path} is empty or damaged"
    known = {name: "given by pillar, as the error says"}
    assert django_secret.values(site, known)[name] == known[name]
    assert django_secret.changed(site, known) == [name]
    django_secret.store(site, name, known[name])
    assert django_secret.changed(site, known) == []


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
    path = django_secret.path_of(site, "TOKEN")
    if what == "folder":
        path.mkdir()
    elif what == "owner":
        path.write_text("token")
        monkeypatch.setattr(django_host_user, "user_id", lambda name: os.getuid() + 1)
    else:
        (site.root / "elsewhere").write_text("token")
        path.symlink_to(site.root / ("elsewhere" if what == "link" else "nowhere"))
    with pytest.raises(DeploymentError, match=message):
        django_secret.values(site, {})


@pytest.mark.parametrize("mode", [0o644, 0o666, 0o600])
def test_wrong_mode_is_corrected(site, mode):
    django_secret.store(site, "TOKEN", "token")
    path = django_secret.path_of(site, "TOKEN")
    path.chmod(mode)
    assert django_secret.changed(site, {"TOKEN": "token"}) == ["TOKEN"]
    django_secret.store(site, "TOKEN", "token")
    assert stat.S_IMODE(path.stat().st_mode) == 0o640 and django_secret.changed(site, {"TOKEN": "token"}) == []


def test_plain_key_file_is_written_on_request(site, make_site):
    plain, known = site.secrets / "secret_key", {"secret_key": KEY}
    django_secret.store(site, "secret_key", KEY)
    assert not plain.exists() and django_secret.changed(site, known) == []
    asking = make_site(environment={"KEY_PATH": {"from": "secret_key_file"}})
    assert django_secret.changed(asking, known) == ["secret_key"]
    django_secret.store(asking, "secret_key", KEY)
    assert django_secret.changed(asking, known) == [] and django_secret.fallbacks(asking) == []
    assert plain.read_text() == KEY and stat.S_IMODE(plain.stat().st_mode) == 0o640
    plain.chmod(0o644)
    assert django_secret.changed(asking, known) == ["secret_key"]
    django_secret.store(asking, "secret_key", KEY)
    plain.write_text("torn")
    assert django_secret.changed(asking, known) == ["secret_key"]
    django_secret.store(site, "secret_key", "another")
    assert plain.read_text() == "another", "an older release may still read it"


def test_former_keys_are_fallbacks(site):
    assert django_secret.fallbacks(site) == []
    for number in range(6):
        django_secret.store(site, "secret_key", f"key {number}")
    assert json.loads((site.secrets / "secret_key.json").read_text()) == {
        "key": "key 5",
        "fallbacks": ["key 4", "key 3", "key 2", "key 1", "key 0"],
    }
    django_secret.store(site, "secret_key", "key 5", ["key 1", "key 0", "key 7"])
    assert django_secret.fallbacks(site) == ["key 4", "key 3", "key 2"]
    django_secret.store(site, "secret_key", "key 3")
    assert django_secret.fallbacks(site) == ["key 5", "key 4", "key 2"]


@pytest.mark.parametrize("torn", [b"", b"k" * 31, b"k" * 33])
def test_damaged_record_key_is_replaced(site, torn):
    (site.secrets / ".record_key").write_bytes(torn)
    key = django_secret.record_key(site)
    assert len(key) == 32 and key != torn and django_secret.record_key(site) == key


def test_fingerprint_differs_per_key():
    one, other = django_secret.fingerprint(KEY), django_secret.fingerprint(f"{KEY}2")
    assert re.fullmatch("[0-9a-f]{16}", one) and one == django_secret.fingerprint(KEY) and one != other


def test_records_are_hashed_with_a_key_of_the_host(site):
    key = django_secret.record_key(site)
    assert django_secret.record_key(site) == key and len(key) == 32
    assert stat.S_IMODE((site.secrets / ".record_key").stat().st_mode) == 0o600
    one = django_secret.keyed_hash(key, {"a": 1, "b": [True]})
    assert re.fullmatch("[0-9a-f]{16}", one) and one == django_secret.keyed_hash(key, {"b": [True], "a": 1})
    others = [
        django_secret.keyed_hash(key, {"a": 1, "b": [1]}),
        django_secret.keyed_hash(b"other", {"a": 1, "b": [True]}),
    ]
    assert one not in others


def test_dry_run_of_a_new_site_writes_nothing(make_site):
    site = make_site(folders=False)
    assert len(django_secret.record_key(site)) == 32 and not site.root.exists()
