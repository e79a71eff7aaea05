"""Files that a loss of power has torn, or that somebody has damaged; and in what order they come to the disk."""

import os
from pathlib import Path

import django_command
import django_release
import django_site
import django_verbs
import pytest
from django_command import DeploymentError

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


@pytest.fixture
def blog(world):
    """A site with two releases and everything that it writes down."""
    world.options["secrets"] = {"TOKEN": {"generate": 40}}
    world.answers["signed_for"] = 1e9
    world.apply()
    django_verbs.rotate_secret_key("blog")
    world.push("two")
    world.apply()
    assert world.apply() == {}
    return world


@pytest.mark.parametrize("name", FILES)
def test_a_torn_file(blog, name):
    for tear in TEARS:
        check_a_tear(blog, name, tear)


def check_a_tear(blog, name, tear):
    """Commands say what is damaged; the next apply mends it or refuses, and all is as before."""
    path = (blog.site.root / name).resolve()
    whole, live = path.read_bytes(), blog.live
    path.write_bytes(TEARS[tear](whole))
    is_json = path.suffix == ".json"
    harmless = is_json and tear == "all but a byte"  # the line's end
    for verb in (django_verbs.drift, django_verbs.secret_key, lambda name: django_release.status(blog.site)):
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
    django_verbs.release("blog")
    assert django_release.next_sequence(blog.site) > int(live.split("-")[0]) + 1, tear
    assert django_verbs.drift("blog")["drift"] == [], tear
    blog.check()


@pytest.mark.parametrize("tear", TEARS)
def test_what_was_torn_is_read_past(blog, tear):
    path = blog.site.deploys
    path.write_bytes(TEARS[tear](path.read_bytes()))
    django_verbs.release("blog", asked_by="after the tear")
    last = path.read_bytes().splitlines()[-1]
    assert b'"asked_by": "after the tear"' in last and last.startswith(b"{") and last.endswith(b"}")


def test_a_site_whose_configuration_is_damaged_is_named(blog):
    blog.site.applied.write_text("{")
    with pytest.raises(DeploymentError) as error:
        django_verbs.config("blog")
    assert error.value.message == f"{blog.site.applied}, the configuration of blog as applied, is gone or damaged"
    assert error.value.hint == "salt-call state.apply django writes it anew"


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
    django_site.write(tmp_path / "file", "content")
    new = f"{tmp_path}/.file.new"
    assert order == [("fsync", new), ("rename", f"{tmp_path}/file", "file", new), ("fsync", str(tmp_path))]
    order.clear()
    django_site.link(tmp_path / "link", "file")
    new = f"{tmp_path}/.link.new"
    assert order == [("rename", f"{tmp_path}/link", "link", new), ("fsync", str(tmp_path))]
    order.clear()
    django_site.write(tmp_path / "file", "of a release in the making", durable=False)
    django_site.link(tmp_path / "link", "file", durable=False)
    assert [event[0] for event in order] == ["rename", "rename"]
    order.clear()
    django_site.append(tmp_path / "lines", "one", mode=0o640)
    assert order == [("fsync", f"{tmp_path}/lines"), ("fsync", str(tmp_path))]
    order.clear()
    (tmp_path / "lines").write_text("one\ntw")
    django_site.append(tmp_path / "lines", "three", mode=0o640)
    assert order == [("fsync", f"{tmp_path}/lines")]
    assert (tmp_path / "lines").read_text() == "one\ntw\nthree\n"


def test_all_that_a_deployment_writes_down_comes_to_the_disk(world, order, monkeypatch):
    def run(argv, **options):
        if argv[0] == "sync":
            order.append(("sync", argv[-1]))
        return real(argv, **options)

    real = django_command.run
    monkeypatch.setattr(django_command, "run", run)
    world.apply()
    world.push("two")
    world.apply()
    django_verbs.rollback("blog")
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
