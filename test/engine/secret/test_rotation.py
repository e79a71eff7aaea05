"""Former secret keys and when they expire."""

import json
import time

import pytest
from django_formula.deploy import plan
from django_formula.host import environment_files
from django_formula.host import file as host_file
from django_formula.host.commands import DeploymentError
from django_formula.release import instances, releases
from django_formula.secret import secrets
from django_formula.verbs import operations
from django_formula.verbs import rotation as verbs_rotation
from world import commit

DAY = 86400.0


@pytest.fixture
def clock(monkeypatch, own_host):
    """The host's clocks: `up` seconds since a boot of that `name`, and what the `wall` clock says."""

    class Clock:
        up, wall = 1000.0, 1.7e9

        def boot(self, name, up=0.0, after=30 * DAY):
            (boot_id := own_host / "proc/sys/kernel/random/boot_id").parent.mkdir(parents=True, exist_ok=True)
            boot_id.write_text(f"{name}\n")
            self.up = up
            self.wall += after

    clock = Clock()
    clock.boot("first", 1000.0)
    monkeypatch.setattr(time, "clock_gettime", lambda which: clock.up)
    monkeypatch.setattr(time, "time", lambda: clock.wall)
    return clock


@pytest.fixture
def site(make_site, clock):
    """A site whose key has been replaced just now."""
    site = make_site()
    for key in ("old", "new"):
        secrets.store(site, "secret_key", key)
    assert secrets.expired_keys(site, DAY) == []
    return site


def record(site):
    return (site.secrets / ".former_keys.json").read_text()


def test_key_expires_after_its_age(site, clock):
    clock.up += DAY
    assert secrets.expired_keys(site, DAY) == []
    clock.up += 1
    assert secrets.expired_keys(site, DAY) == ["old"]
    assert [*json.loads(record(site))] == [secrets.fingerprint("old")]


@pytest.mark.parametrize("wall", [-3600, 365 * DAY, -50 * 365 * DAY])
def test_wall_clock_is_ignored(site, clock, wall):
    clock.wall += wall
    clock.up += DAY - 60
    assert secrets.expired_keys(site, DAY) == []
    clock.up += 120
    assert secrets.expired_keys(site, DAY) == ["old"]


def test_recorded_uptime_counts(site, clock):
    clock.up += DAY / 2
    assert secrets.expired_keys(site, DAY) == []
    clock.boot("second", DAY / 4)
    assert secrets.expired_keys(site, DAY) == []
    clock.boot("third", DAY / 4 - 10)
    assert secrets.expired_keys(site, DAY) == []
    clock.up += 20
    assert secrets.expired_keys(site, DAY) == ["old"]


def test_unrecorded_uptime_does_not_count(site, clock):
    clock.up += 20 * DAY  # without an apply, then it was shut down
    clock.boot("second", 60)
    assert secrets.expired_keys(site, DAY) == []
    clock.up = 10  # a clock that cannot be
    assert secrets.expired_keys(site, DAY) == []


@pytest.mark.parametrize(("wall", "lapses"), [(-DAY, False), (60, False), (2 * DAY, True), (365 * DAY, True)])
def test_wall_clock_only_delays_after_a_boot(site, clock, wall, lapses):
    clock.boot("on another host", 300 * DAY, after=wall)
    assert secrets.expired_keys(site, DAY) == (["old"] if lapses else [])
    clock.boot("third", DAY / 2, after=365 * DAY)
    assert secrets.expired_keys(site, DAY) == (["old"] if lapses else [])


def test_record_is_written_rarely_and_never_in_a_dry_run(site, clock):
    before = record(site)
    clock.up += DAY / 20
    secrets.expired_keys(site, DAY)
    clock.boot("second", 5)
    secrets.expired_keys(site, DAY, test=True)
    assert record(site) == before
    secrets.expired_keys(site, DAY)
    assert record(site) != before


def test_longest_age_counts(site, clock):
    clock.up += DAY / 2
    assert secrets.expired_keys(site, 10 * DAY) == []
    clock.up += DAY
    assert secrets.expired_keys(site, DAY) == []
    assert secrets.expired_keys(site, None) == []
    clock.up += 10 * DAY
    assert secrets.expired_keys(site, DAY) == ["old"]


@pytest.mark.parametrize("torn", ["", "{", "[]", '{"x": 1}', "\0\0", None])
def test_key_without_a_valid_record_starts_anew(site, clock, torn):
    file = site.secrets / ".former_keys.json"
    clock.up += 2 * DAY
    if torn is None:
        file.unlink()
    else:
        file.write_text(torn)
    assert secrets.expired_keys(site, DAY) == []
    clock.up += DAY + 1
    assert secrets.expired_keys(site, DAY) == ["old"]


def test_former_keys_expire_separately(site, clock):
    clock.up += DAY / 2
    secrets.store(site, "secret_key", "newest")
    assert secrets.expired_keys(site, DAY) == []
    clock.up += DAY / 2 + 1
    assert secrets.expired_keys(site, DAY) == ["old"]
    assert "old" not in json.loads(record(site)) and len(json.loads(record(site))) == 2


# In a deployment


@pytest.fixture
def blog(world, clock):
    world.answers |= {"signed_for": DAY, "former_keys": 9}
    world.apply()
    return world


def keys(world):
    told = host_file.read_json(world.site.secrets / "secret_key.json")
    return told["key"], told["fallbacks"]


def test_rotated_key_is_released_with_the_same_commit(blog, clock):
    old, _none = keys(blog)
    verbs_rotation.rotate_secret_key("blog")
    new, fallbacks = keys(blog)
    assert fallbacks == [old] and blog.apply() == {} and blog.live.startswith("0002-")
    clock.up += DAY + 1
    assert set(blog.apply(test=True)) >= {"source", "live"} and keys(blog) == (new, [old])
    assert plan.make("blog")["changed"] == ["secrets:secret_key:fallbacks"] and keys(blog) == (
        new,
        [old],
    )
    changes = blog.apply()
    assert changes["source"]["changed"] == ["secrets:secret_key:fallbacks"]
    assert changes["secret_key"] == {"former keys": "1 dropped, since all their signatures have expired"}
    assert keys(blog) == (new, []) and blog.live == f"0003-{commit('one')[:12]}"
    blog.check()
    assert blog.apply() == {}


def test_age_of_a_key_starts_with_the_next_active_key(blog, clock, monkeypatch):
    def slow(*arguments):
        clock.up += 2 * DAY  # a migration of two days, in which the old release signs with the old key
        return real(*arguments)

    real = instances.start
    monkeypatch.setattr(instances, "start", slow)
    verbs_rotation.rotate_secret_key("blog")
    assert len(keys(blog)[1]) == 1 and blog.apply() == {}
    clock.up += DAY - 1
    assert blog.apply() == {}
    clock.up += 2
    assert "live" in blog.apply() and keys(blog)[1] == []


def test_key_of_the_pillar_is_rotated(world, clock):
    world.answers |= {"signed_for": DAY, "former_keys": 9}
    for key in ("a" * 40, "b" * 40):
        world.options, world.given = {"secret_key": key}, {"secret_key": key}
        assert "source" in world.apply()
        assert world.apply() == {}
    assert keys(world) == ("b" * 40, ["a" * 40])
    clock.up += DAY + 1
    world.apply()
    assert keys(world) == ("b" * 40, []) and world.apply() == {}


def test_expired_key_does_not_activate_a_commit_on_hold(blog, clock):
    verbs_rotation.rotate_secret_key("blog")
    blog.push("two")
    blog.apply()
    operations.rollback("blog")
    live = blog.live
    clock.up += 5 * DAY
    assert blog.apply() == {} and blog.live == live and len(keys(blog)[1]) == 1
    blog.push("three")
    blog.apply()
    assert len(keys(blog)[1]) == 1
    clock.up += 5 * DAY
    blog.apply()
    assert keys(blog)[1] == []
    blog.check()


@pytest.mark.parametrize(
    ("answers", "why"),
    [
        ({"django": "5.2", "former_keys": 9}, ""),
        ({"django": "3.2.25", "former_keys": 0}, "Django 3.2.25 does not support SECRET_KEY_FALLBACKS"),
        (
            {"django": "4.2", "former_keys": 0},
            "SECRET_KEY_FALLBACKS in the project's settings does not contain the former key",
        ),
    ],
)
def test_rotation_that_ends_sessions_is_reported(blog, answers, why):
    blog.answers |= answers
    deployment, _changes = verbs_rotation.rotate_secret_key("blog")
    told = [text for text in deployment.warnings if "every session ends" in text]
    assert told == ([f"the secret key has changed, and every session ends with this release: {why}"] if why else [])
    assert operations.release("blog")[0].warnings == []


def test_project_without_the_overlay_gets_the_former_keys(world, clock):
    world.options = {"overlay": False, "environment": {"OLD": {"from": "secret_key_fallbacks"}}}
    world.answers |= {"signed_for": DAY, "settings_module": "blog.settings", "former_keys": 1}
    world.answers["expected_settings_module"] = "blog.settings"
    world.apply()
    environment = world.site.secrets / "environment"
    assert environment.read_text() == 'OLD=""\n' and world.apply() == {}
    old, _none = keys(world)
    deployment, _changes = verbs_rotation.rotate_secret_key("blog")
    kept = environment_files.read_environment(environment.read_text())
    assert kept == {"OLD": old} and deployment.warnings == [] and old in deployment.secrets.masked()
    assert world.apply() == {} and operations.drift("blog")["drift"] == []
    clock.up += DAY + 1
    assert "live" in world.apply() and environment.read_text() == 'OLD=""\n'
    assert world.apply() == {}


def test_empty_former_key_is_refused(world):
    world.answers["empty_former_key"] = True
    with pytest.raises(DeploymentError, match="SECRET_KEY_FALLBACKS in the project's settings contains an empty key"):
        world.apply()


# What is on disk when a release fails, and what is found there


def test_failed_release_leaves_the_secrets_of_the_active_one(blog):
    blog.options = {"secrets": {"API": "first"}, "database": {"engine": "postgres", "host": "db1", "password": "x"}}
    blog.answers["databases"] = {"default": {"engine": "django.db.backends.postgresql", "name": "blog"}}
    blog.given = {"API": "first", "database.default": "password one"}
    blog.apply()
    folder = blog.site.secrets
    before = {path.name: path.read_bytes() for path in folder.iterdir()}
    blog.given = {"API": "second", "database.default": "password two"}
    blog.fails["systemd-run"] = DeploymentError("no", transient=True)
    for _ in range(2):
        with pytest.raises(DeploymentError):
            blog.apply()
        assert {path.name: path.read_bytes() for path in folder.iterdir()} == before
    blog.fails.clear()
    assert "live" in blog.apply()
    assert (folder / "database.default").read_text() == "password two"
    assert (folder / "environment").read_text() == 'API="second"\n'
    blog.check()


def test_failed_rotation_by_pillar_is_not_repeated(world, clock):
    for key in ("a" * 40, "b" * 40):
        world.options, world.given = {"secret_key": key}, {"secret_key": key}
        if key[0] == "b":
            world.fails["systemd-run"] = DeploymentError("no")
        else:
            world.apply()
    with pytest.raises(DeploymentError):
        world.apply()
    assert keys(world) == ("a" * 40, [])
    world.fails.clear()
    with pytest.raises(DeploymentError, match="failed before with the same inputs"):
        world.apply()


@pytest.fixture
def secretive(world):
    world.options["secrets"] = {"TOKEN": {"generate": 40}, "API": "given"}
    world.given = {"API": "given"}
    world.apply()
    return world


def test_part_of_a_multiline_secret_is_refused(secretive):
    file, live = secretive.site.secrets / "TOKEN", secretive.live
    whole = file.read_text()
    for text in (whole[:20], whole[:-1], f"{whole}x", "x" * 40):
        file.write_text(text)
        with pytest.raises(DeploymentError, match="TOKEN contains a value that no release was made with") as error:
            secretive.apply()
        assert "django:sites:blog:secrets:TOKEN, and apply" in error.value.hint and secretive.live == live
    file.write_text(whole)
    assert secretive.apply() == {}
    (secretive.site.secrets / "API").write_text("giv")
    with pytest.raises(DeploymentError, match="API contains a value that no release was made with"):
        operations.release("blog")
    assert set(secretive.apply()) == {"secret_key"} and secretive.apply() == {}
    secretive.check()


def test_secret_of_an_older_release_is_accepted(secretive):
    secretive.options["secrets"]["API"] = secretive.given["API"] = "newer"
    secretive.apply()
    operations.rollback("blog")
    assert (secretive.site.secrets / "API").read_text() == "newer"
    operations.release("blog")
    assert releases.has_used(secretive.site, "API", "given")


@pytest.mark.parametrize("torn", [b"", b"half"])
def test_nothing_is_refused_without_the_record_key(secretive, torn):
    (secretive.site.secrets / ".record_key").write_bytes(torn)
    assert "live" in secretive.apply()
    assert secretive.apply() == {}
    secretive.check()


def test_readable_secret_is_corrected_with_a_warning(secretive):
    file = secretive.site.secrets / "TOKEN"
    file.chmod(0o644)
    assert secretive.apply()["secret_key"] == {"TOKEN": "kept"}
    assert secretive.last.warnings == [f"{file} was readable by every user until now: replace that secret"]
    assert file.stat().st_mode & 0o777 == 0o640 and secretive.apply() == {}
