"""Files torn by a loss of power, or damaged otherwise; and in what order files are written to disk."""

import json
import os
from pathlib import Path

import pytest
from django_formula.backup import backups
from django_formula.host import commands as host_commands
from django_formula.host import file
from django_formula.host.commands import DeploymentError
from django_formula.process import systemd
from django_formula.release import releases
from django_formula.secret import secrets
from django_formula.verbs import operations, status
from django_formula.verbs import rotation as verbs_rotation
from thinned import each, full

pytestmark = pytest.mark.slow  # many applies for each file

TEARS = {
    "nothing": lambda whole: b"",
    "half": lambda whole: whole[: len(whole) // 2],
    "all but a byte": lambda whole: whole[:-1],
    "all but two bytes": lambda whole: whole[:-2],
    "garbage behind": lambda whole: whole + b"\xff\xfe{]garbage",
    "a NUL": lambda whole: whole[:5] + b"\0" + whole[6:],
    "NULs": lambda whole: b"\0" * len(whole),
    "other bytes": lambda whole: b"\xff" * 100,
    "brackets": lambda whole: b"[" * 200_000,
}
SHORT = ("nothing", "half", "NULs")
FILES = {
    "current/release.json": "released",
    "previous/release.json": "nothing",
    "current/config/instance.json": "nothing",
    "site.json": "rebuilt",
    "deploys.jsonl": "nothing",
    "secrets/secret_key.json": "refused",
    "secrets/TOKEN": "refused",
    "secrets/environment": "rebuilt",
    "secrets/.record_key": "released",
    "secrets/.former_keys.json": "nothing",
    "current/.manifest.json": "nothing",
    "templates/django%2Ffiles%2Fuwsgi.ini": "rebuilt",
    "templates/.sums.json": "rebuilt",
}


@pytest.fixture(scope="module")
def kept_templates():
    """None that tests share: these tear them, and see each file come to the disk."""


@pytest.fixture
def blog(world):
    """A site with two releases and everything that it writes down."""
    world.options["secrets"] = {"TOKEN": {"generate": 40}}
    world.answers["signed_for"] = 1e9
    world.apply()
    verbs_rotation.rotate_secret_key("blog")
    world.push("two")
    world.apply()
    assert world.apply() == {}
    return world


@pytest.mark.parametrize("tears", ["one", full("all")])
@pytest.mark.parametrize("name", FILES)
def test_a_torn_file(blog, name, tears):
    """By default one of three tears, in turn."""
    turn = [*FILES].index(name) % len(SHORT)
    for tear in TEARS if tears == "all" else [SHORT[turn]]:
        check_a_tear(blog, name, tear)


def check_a_tear(blog, name, tear):
    """Commands say what is damaged; the next apply mends it or refuses, and all is as before."""
    path = (blog.site.root / name).resolve()
    whole, live = path.read_bytes(), blog.live
    path.write_bytes(TEARS[tear](whole))
    is_json = path.suffix == ".json"
    harmless = is_json and tear == "all but a byte"  # the line's end
    for verb in (operations.drift, operations.secret_key, lambda name: status.status(blog.site)):
        try:
            verb("blog")
        except DeploymentError as error:
            assert len(str(error).splitlines()) <= 3, tear
    expected = "nothing" if harmless else FILES[name]
    if expected == "refused":
        with pytest.raises(DeploymentError, match=str(path.name)) as refusal:
            blog.apply()
        assert f"{live} still runs" in refusal.value.hint and "restore it from a backup" in refusal.value.hint, tear
        path.write_bytes(whole)
        assert blog.apply() == {}, tear
        return
    changes = blog.apply()
    assert ("live" in changes) == (expected == "released"), tear
    assert bool(changes) == (expected != "nothing"), tear
    assert blog.apply() == {} and blog.releases[blog.live] == "good", tear
    operations.release("blog")
    assert releases.next_sequence(blog.site) > int(live.split("-")[0]) + 1, tear
    assert operations.drift("blog")["drift"] == [], tear
    blog.check()


@pytest.mark.parametrize("tear", each(3, TEARS))
def test_what_was_torn_is_read_past(blog, tear):
    path = blog.site.deploys
    path.write_bytes(TEARS[tear](path.read_bytes()))
    operations.release("blog", asked_by="after the tear")
    last = path.read_bytes().splitlines()[-1]
    assert b'"asked_by": "after the tear"' in last and last.startswith(b"{") and last.endswith(b"}")


def test_a_site_whose_configuration_is_damaged_is_named(blog):
    blog.site.applied.write_text("{")
    with pytest.raises(DeploymentError) as error:
        operations.config("blog")
    assert error.value.message == f"{blog.site.applied}, the applied configuration of blog, is missing or damaged"
    assert error.value.hint == "salt-call state.apply django writes it again"


@pytest.fixture
def order(monkeypatch):
    """What came to the disk, in its order: (what, name, and for a rename what was renamed)."""
    done = []

    def name(path):
        return os.path.basename(path)

    def fsync(descriptor):
        done.append(("fsync", os.readlink(f"/proc/self/fd/{descriptor}")))

    def replace(source, target, real=os.replace):
        done.append(("rename", str(target), "link" if os.path.islink(source) else "file", str(source)))
        real(source, target)

    monkeypatch.setattr(os, "fsync", fsync)
    monkeypatch.setattr(os, "replace", replace)
    return done


def test_a_file_its_name_and_its_folder_come_to_the_disk_in_this_order(order, tmp_path):
    file.write(tmp_path / "file", "content")
    new = f"{tmp_path}/.file.new"
    assert order == [("fsync", new), ("rename", f"{tmp_path}/file", "file", new), ("fsync", str(tmp_path))]
    order.clear()
    file.link(tmp_path / "link", "file")
    new = f"{tmp_path}/.link.new"
    assert order == [("rename", f"{tmp_path}/link", "link", new), ("fsync", str(tmp_path))]
    order.clear()
    file.write(tmp_path / "file", "of a release in the making", durable=False)
    file.link(tmp_path / "link", "file", durable=False)
    assert [event[0] for event in order] == ["rename", "rename"]
    order.clear()
    file.append(tmp_path / "lines", "one", mode=0o640)
    assert order == [("fsync", f"{tmp_path}/lines"), ("fsync", str(tmp_path))]
    order.clear()
    (tmp_path / "lines").write_text("one\ntw")
    file.append(tmp_path / "lines", "three", mode=0o640)
    assert order == [("fsync", f"{tmp_path}/lines")]
    assert (tmp_path / "lines").read_text() == "one\ntw\nthree\n"


def test_all_that_a_deployment_writes_down_comes_to_the_disk(world, order, monkeypatch):
    def run(argv, **options):
        if argv[0] == "sync":
            order.append(("sync", argv[-1]))
        return real(argv, **options)

    real = host_commands.run
    monkeypatch.setattr(host_commands, "run", run)
    world.apply()
    world.push("two")
    world.apply()
    operations.rollback("blog")
    renamed = [event for event in order if event[0] == "rename"]
    written = {Path(event[1]).name for event in renamed}
    assert {"release.json", "site.json", "secret_key.json", "current", "previous", "environment"} <= written
    for place, event in enumerate(order):
        release = Path(event[1]).relative_to(world.site.root).parts[:2] if str(world.site.root) in event[1] else ()
        if event[0] == "rename":
            after = order[place + 1 :]
            if ("sync", str(world.site.root.joinpath(*release))) in after:
                continue  # a release in the making comes to the disk as a whole
            assert ("fsync", os.path.dirname(event[1])) in after[:6], event
            assert event[2] == "link" or ("fsync", event[3]) in order[:place], event
    flips = [place for place, event in enumerate(order) if event[:2] == ("rename", str(world.site.current))]
    synced = [place for place, event in enumerate(order) if event[0] == "sync"]
    assert len(flips) == 3 and len(synced) == 4 and synced[1] < flips[0] < synced[2] and synced[3] < flips[1]
    good = [event for event in order[synced[3] :] if event[1].endswith("/release.json")]
    assert good, "the record of a release that is live comes to the disk by itself"


# Files that hold JSON of other types than they should

WRONG = [None, 7, -1.5, True, "text", [], {}, [[]], ["x"], {"x": {"y": [1]}}, "\0/..", 1 << 80]
TYPED = {
    "current/release.json": "live",
    "previous/release.json": "",
    "current/config/instance.json": "",
    "site.json": "",
    "secrets/.former_keys.json": "",
    "current/.manifest.json": "",
    "templates/.sums.json": "",
    "backups/drill.json": "",
    "run": "",
}


def places(value, path=(), depth=3):
    """The paths of what is in a JSON value."""
    below = value.items() if isinstance(value, dict) else enumerate(value[:2]) if isinstance(value, list) else ()
    for name, one in below:
        yield (*path, name)
        if depth:
            yield from places(one, (*path, name), depth - 1)


def replaced(value, path, by):
    """A JSON value with another one at a path."""
    if not path:
        return by
    if isinstance(value, dict):
        return {**value, path[0]: replaced(value[path[0]], path[1:], by)}
    return [replaced(one, path[1:], by) if place == path[0] else one for place, one in enumerate(value)]


def commands(site):
    """Whatever reads what a site has written down, without changing it."""
    yield lambda: status.releases(site)
    yield lambda: status.status(site)
    yield lambda: operations.drift("blog")
    yield lambda: operations.config("blog")
    yield lambda: backups.overview(site)
    yield lambda: backups.status(site)
    yield lambda: secrets.expired_keys(site, 1e9, test=True)
    yield lambda: systemd.MANAGER.warnings(site)


def survive(site):
    """Each command answers, or says in a sentence why not."""
    for command in commands(site):
        try:
            command()
        except DeploymentError as error:
            assert len(str(error).splitlines()) <= 4


def path_of(site, name):
    return (site.confinement if name == "run" else site.root / name).resolve()


@pytest.mark.parametrize("step", [10, pytest.param(1, marks=pytest.mark.full)], ids=["a tenth", "all"])
@pytest.mark.parametrize("name", TYPED)
def test_values_of_wrong_types_are_survived(blog, name, step):
    site, path = blog.site, path_of(blog.site, name)
    if name.startswith("backups"):
        path.write_text('{"date": "2026-03-01T12:00:00Z", "seconds": 1.5, "result": "good"}')
    systemd.MANAGER.warnings(site)
    whole = path.read_text()
    value = json.loads(whole)
    every = [(), *places(value, depth=1 if "release" in name else 3)]
    for turn, place in enumerate((every if len(every) < 120 else every[::7])[::step]):
        for wrong in WRONG if len(place) < 2 else WRONG[turn % 3 :: 3]:
            path.write_text(json.dumps(replaced(value, place, wrong)))
            survive(site)
    path.write_text(whole)
    survive(site)


KEYS = ["state", "commit", "inputs", "facts", "schema", "packages", "steps", "asked_by", "size"]


@pytest.mark.parametrize("key", each(3, KEYS))
@pytest.mark.parametrize("which", ["current", "previous"])
def test_a_record_of_wrong_types_is_healed_by_an_apply(blog, which, key):
    """It counts as torn: the live one is released anew, a former one is passed over."""
    path = (blog.site.root / which / "release.json").resolve()
    record = json.loads(path.read_text())
    path.write_text(json.dumps({**record, key: [[7]]}))
    changes = blog.apply()
    assert ("live" in changes) == (which == "current")
    assert blog.apply() == {} and blog.releases[blog.live] == "good"


FACTS = ["application", "folder", "databases", "migrations", "python_path", "checks"]


@pytest.mark.parametrize("key", each(3, FACTS))
def test_facts_of_wrong_types_are_healed_by_an_apply(blog, key):
    path = (blog.site.current / "release.json").resolve()
    record = json.loads(path.read_text())
    path.write_text(json.dumps({**record, "facts": {**record["facts"], key: {"default": 7}}}))
    assert "live" in blog.apply()
    assert blog.apply() == {} and blog.releases[blog.live] == "good"


def test_a_configuration_of_wrong_types_is_written_anew(blog):
    whole = json.loads(blog.site.applied.read_text())
    for key in whole["config"]:
        config = {**whole["config"], key: [[7]]}
        blog.site.applied.write_text(json.dumps({**whole, "config": config}))
        with pytest.raises(DeploymentError, match="the applied configuration of blog, is missing or damaged"):
            operations.config("blog")
    assert list(blog.apply()) == ["site"] and blog.apply() == {}


@pytest.mark.parametrize("wrong", each(6, WRONG))
def test_attempts_of_wrong_types_are_passed_over(blog, wrong):
    whole = blog.site.deploys.read_text()
    last = json.loads(whole.splitlines()[-1])
    lines = [json.dumps({**last, "result": "failed", key: wrong}) for key in last]
    blog.site.deploys.write_text("\n".join([whole, *lines, json.dumps(wrong), ""]))
    survive(blog.site)
    assert blog.apply() == {}


@pytest.mark.parametrize("wrong", each(6, WRONG))
def test_a_manifest_of_a_backup_of_wrong_types_counts_as_none(blog, wrong):
    site = blog.site
    blog.server.databases["blog"] = {"rows": {"public.guest": 3}, "migrations": []}
    live = releases.linked(site, site.current)
    (made,) = backups.make(site, live, why=backups.BY_COMMAND, secrets=[])
    path = made.with_name(f"{made.name}.json")
    whole = json.loads(path.read_text())
    for key in whole:
        path.write_text(json.dumps({**whole, key: wrong}))
        survive(site)
        try:
            backups.find(site, None)
        except DeploymentError as error:
            assert error.message == "blog has no backup"
