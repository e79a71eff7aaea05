"""Copies elsewhere: what one consists of, when it is due, what is found of its damage, and which stay."""

import contextlib
import hashlib
import json
import os
import time

import pytest
from django_formula.backup import backups, dumps, loading, media
from django_formula.backup.dumps import Database
from django_formula.host import clock, file, users
from django_formula.host.commands import DeploymentError
from django_formula.offsite import copies, fetching, program, repository, sealed
from django_formula.offsite.repository import Snapshot
from django_formula.release import releases
from django_formula.verbs import backup as verbs_backup
from django_formula.watch import problem

OFFSITE = {
    "kind": "s3",
    "bucket": "backups",
    "endpoint": "http://127.0.0.1:9000",
    "key": "key",
    "secret": "grenadier-of-the-key",
    "password": "grenadier-of-the-store",
    "recipients": ["age1" + "q" * 58],
    "keep": {"daily": 1, "weekly": 1, "monthly": 1},
}
SEAL, LOCK = sealed.seal, copies.lock


class PlayedStore:
    """A repository in memory."""

    def __init__(self, site):
        self.site, self.parts, self.forgotten, self.failure, self.away = site, {}, [], None, None

    def unanswered(self):
        return self.away

    def make_sure(self, *, is_new):
        if self.failure:
            raise self.failure
        self.is_new = is_new

    def send(self, name, tag, made, file):
        content = b""
        while part := os.read(file, 1 << 16):
            content += part
        identity = hashlib.sha256(f"{tag}/{name}/{len(self.parts)}".encode()).hexdigest()
        self.parts[identity] = (Snapshot(identity, name, tag, clock.seconds(made)), content)
        return identity[:8]

    def fetch(self, snapshot, name, file):
        (content,) = [content for one, (_part, content) in self.parts.items() if one.startswith(snapshot)]
        os.write(file, content)

    def snapshots(self):
        return sorted((part for part, _content in self.parts.values()), key=lambda one: one.seconds, reverse=True)

    def check(self, *, data=""):
        if self.failure:
            raise self.failure

    def forget(self, ids):
        self.forgotten += [self.parts.pop(one)[0].name for one in ids]

    def lose(self, name):
        self.parts = {key: value for key, value in self.parts.items() if value[0].name != name}

    def damage(self, name):
        self.parts = {
            key: (part, content[:-1] + b"?" if part.name == name else content)
            for key, (part, content) in self.parts.items()
        }


@pytest.fixture
def site(world, monkeypatch):
    """A site that is live, with uploads, a backup and a store elsewhere."""
    world.options = {"backup": {"offsite": OFFSITE}}
    world.given = {"offsite_password": "grenadier-of-the-store", "offsite_secret": "grenadier-of-the-key"}
    world.apply()
    world.server.databases["blog"] = {"rows": {"public.entry": 3}, "migrations": ["guestbook.0001"]}
    monkeypatch.setattr(media, "pack", lambda database, take: take(b"a tar of uploads"))
    monkeypatch.setattr(media, "count_files", lambda database, file: 1)

    monkeypatch.setattr(sealed, "seal", lambda site, recipients: file.in_memory(b"sealed"))
    return world.site


@pytest.fixture
def store(site, monkeypatch):
    played = PlayedStore(site)

    @contextlib.contextmanager
    def opened(site, secrets=None):
        yield played

    monkeypatch.setattr(repository, "opened", opened)
    return played


def backup(site):
    live = releases.linked(site, site.current)
    return [path.name for path in backups.make(site, live, why=backups.BY_COMMAND, secrets=[])]


def work(site, *tasks):
    return program.work(releases.linked(site, site.current), tasks, [])


def test_copy_has_the_backup_the_uploads_and_the_sealed_secrets(site, store):
    (name,) = backup(site)
    assert program.due(site) == ["copy", "drill"]
    assert work(site, "copy") == []
    copy = copies.find(store, None)
    tag = copy["backup"]
    assert {*copy["parts"]} == {"default.dump", "media.tar", "secrets.age"} and copy["dumps"][0]["name"] == name
    sent = {part.name for part, _content in store.parts.values()}
    assert sent == {*copy["parts"], "copy.json"} and {part.tag for part, _content in store.parts.values()} == {tag}
    assert copies.status(site)["offsite"].endswith("Z, 1 copy") and program.due(site) == ["check", "drill"]
    assert [row["backup"] for row in copies.overview(store)] == [tag]


def test_copies_of_a_clock_that_was_ahead_are_listed_last(site, store):
    backup(site)
    assert work(site, "copy") == []
    newest, ahead = copies.find(store, None)["backup"], f"29990101T000000Z-0001-{'a' * 12}"
    store.parts["f" * 64] = (Snapshot("f" * 64, "copy.json", ahead, clock.seconds("2999-01-01T00:00:00Z")), b"")
    assert [row["backup"] for row in copies.overview(store)] == [newest, ahead]


def test_backup_that_a_newer_one_replaces_meanwhile_is_copied_to_its_end(site, store, monkeypatch):
    """With `backup:keep: 1`, and databases that take longer to send than there is between two backups."""

    def replaced(*arguments):
        for one in copies.newest_backup(site):
            backups.remove(site.backups / one["name"])
        return send(*arguments)

    (name,) = backup(site)
    other = name.replace("default-", "other-")
    manifest = file.read_json(site.backups / f"{name}.json") | {"name": other, "alias": "other"}
    (site.backups / other).write_bytes((site.backups / name).read_bytes())
    file.write_json(site.backups / f"{other}.json", manifest)
    send = store.send
    monkeypatch.setattr(store, "send", replaced)
    assert work(site, "copy") == []
    assert {"default.dump", "other.dump"} <= {*copies.find(store, None)["parts"]}


def test_interrupted_copy_is_none(site, store):
    backup(site)
    assert work(site, "copy") == []
    store.lose("copy.json")
    assert copies.overview(store) == []
    with pytest.raises(DeploymentError, match="blog has no copy elsewhere"):
        copies.find(store, None)


def test_uploads_that_change_are_packed_again(site, store, monkeypatch):
    backup(site)
    attempts = []

    def pack(_database, take):
        attempts.append(1)
        take(b"half")
        if len(attempts) < 3:
            raise DeploymentError("packing the uploads failed", log="tar: ./a: file changed as we read it")

    monkeypatch.setattr(media, "pack", pack)
    assert work(site, "copy") == [] and len(attempts) == 3
    copy = copies.find(store, None)
    part = copy["parts"]["media.tar"]
    assert part["size"] == 4 and part["sha256"] == hashlib.sha256(b"half").hexdigest()


def test_failure_of_the_store_is_the_cause_while_uploads_are_packed(site, store, monkeypatch):
    backup(site)
    send = store.send

    def refuse(name, tag, made, file):
        if name.startswith("media"):
            raise DeploymentError("copying media: the store is full")
        return send(name, tag, made, file)

    monkeypatch.setattr(store, "send", refuse)

    def pack(_database, take):
        for _ in range(1000):  # more than a pipe takes
            try:
                take(b"x" * 65536)
            except OSError:
                raise DeploymentError("packing the uploads: Broken pipe") from None

    monkeypatch.setattr(media, "pack", pack)
    (failure,) = work(site, "copy")
    assert failure.message == "copying media: the store is full"


def test_what_fails_is_a_problem_until_it_works(site, store):
    backup(site)
    store.failure = DeploymentError("opening the repository: connection refused")
    assert len(work(site, "copy", "check")) == 1  # there is nothing to check yet
    since = copies.read_state(site)["failed"]["copy"]["since"]
    text = copies.status(site)["offsite"]
    assert f"copy fails since {since}: opening the repository: connection refused" in text
    row = {"site": "blog", "release": "1", "failed": "", "damage": "", "running": True, "offsite": text}
    (told,) = problem.problems(row)
    assert told.kind == "backup" and str(told.command) == "salt-call django.offsite blog"
    store.failure = None
    assert work(site, "copy", "check") == [] and " fails " not in copies.status(site)["offsite"]
    store.failure = DeploymentError("checking the repository: a pack is missing")
    assert len(work(site, "check")) == 1
    assert program.due(site) == ["drill"]  # the check is tried again tomorrow
    assert "check fails since" in copies.status(site)["offsite"]


def test_store_that_does_not_answer_is_asked_once(site, store, monkeypatch):
    backup(site)
    work(site, "copy")
    backup(site)
    store.away = DeploymentError("opening the repository: s3:http://x does not answer (timed out)")
    monkeypatch.setattr(store, "make_sure", None)
    monkeypatch.setattr(store, "snapshots", None)
    assert work(site, "check", "copy", "drill") == [store.away] * 3
    assert copies.status(site)["offsite"].count(" does not answer (timed out)") == 3


def test_only_a_store_that_does_not_answer_is_not_asked_more(site, monkeypatch):
    ended = {"code": 1, "errors": "Fatal: unable to open config file: Stat: Access Denied."}
    monkeypatch.setattr(repository.commands, "execute", lambda _command: _ended(ended["code"], "", ended["errors"]))
    with repository.opened(site) as opened:
        assert opened.unanswered() is None
        ended |= {"code": None, "errors": ""}
        away = opened.unanswered()
        assert away.message == f"opening the repository: {repository.place(site)} does not answer (timed out)"
        ended["errors"] = "Load(<config/0>, 0, 0) returned error, retrying after 1.2s: dial tcp 192.0.2.1:443: refused"
        away = opened.unanswered()
        assert away.message == "opening the repository: dial tcp 192.0.2.1:443: refused (timed out)" and away.hint


def test_backup_that_is_not_copied_is_a_problem_after_hours(site, store, monkeypatch):
    backup(site)
    assert copies.status(site)["offsite"] == "no copy yet"
    now = time.time()
    monkeypatch.setattr(time, "time", lambda: now + 4 * 3600)
    assert copies.status(site)["offsite"].startswith("copy is missing: the backup of 2")


def test_copies_go_on_after_one_that_was_made_while_the_clock_was_ahead(site, store, monkeypatch):
    real, now = time.gmtime, time.time()
    with monkeypatch.context() as wrong:
        wrong.setattr(time, "gmtime", lambda given=None: real(now + 1e8 if given is None else given))
        backup(site)
        assert work(site, "copy") == []
    (ahead,) = copies.read_state(site)["copies"]
    (name,) = backup(site)
    assert "copy" in program.due(site) and work(site, "copy") == []
    assert copies.find(store, None)["dumps"][0]["name"] == name, "a new host is not made of the former one"
    made = copies.whole(store.snapshots())
    assert copies.kept(made, {"daily": 1, "weekly": 1, "monthly": 1}) == {*made} and ahead in made


def test_copy_that_is_gone_is_found_and_can_be_accepted(site, store):
    backup(site)
    work(site, "copy")
    for name in ("copy.json", "secrets.age"):
        store.lose(name)
    (failure,) = work(site, "check")
    assert failure.message.startswith("copies are gone that no rule has deleted: 2")
    copies.forget_missing(store)
    assert program.due(site)[0] == "copy" and work(site, "copy", "check") == []


def test_another_store_begins_without_copies(world, site, store):
    backup(site)
    work(site, "copy", "drill")
    work(site, "check")
    assert program.due(site) == []
    world.options = {"backup": {"offsite": {**OFFSITE, "bucket": "others"}}}
    world.apply()
    assert program.due(world.site) == ["copy", "drill"]
    assert copies.status(world.site)["offsite"] == "no copy yet"


def test_copies_that_the_rule_does_not_keep_may_be_gone(site, store):
    backup(site)
    work(site, "copy")
    state = copies.read_state(site)
    today = next(iter(state["copies"].values()))
    old = {"20260101T030000Z-0001-c71d97a38e83": f"{today[:11]}00:00:00Z"}
    copies.write_state(site, {**state, "copies": {**old, **state["copies"]}})
    assert work(site, "check") == []
    assert copies.read_state(site)["copies"] == state["copies"]


@pytest.mark.parametrize(
    ("keep", "stay"),
    [
        ({"daily": 2, "weekly": 0, "monthly": 0}, ["20260311", "20260310"]),
        ({"daily": 0, "weekly": 2, "monthly": 0}, ["20260311", "20260308"]),
        ({"daily": 0, "weekly": 0, "monthly": 3}, ["20260311", "20260228", "20260131"]),
        ({"daily": 0, "weekly": 0, "monthly": 0}, ["20260311"]),
        ({"daily": 1, "weekly": 1, "monthly": 2}, ["20260311", "20260228"]),
    ],
)
def test_which_copies_stay(keep, stay):
    days = ["20260131", "20260227", "20260228", "20260307", "20260308", "20260310", "20260311"]
    made = {f"{day} {hour}": f"{day[:4]}-{day[4:6]}-{day[6:]}T{hour:02d}:00:00Z" for day in days for hour in (3, 15)}
    assert sorted(copies.kept(made, keep), reverse=True) == [f"{day} 15" for day in stay]


def test_former_copies_are_deleted_only_where_the_pillar_says_so(world, site, store):
    backup(site)
    work(site, "copy")
    old = "20250101T030000Z-0001-c71d97a38e83"
    for name in ("copy.json", "secrets.age"):
        with file.in_memory(b"{}") as memory:
            store.send(name, old, "2025-01-01T03:00:00Z", memory.fileno())
    time.sleep(1)
    backup(site)
    assert work(site, "copy") == [] and store.forgotten == []
    world.options = {"backup": {"offsite": {**OFFSITE, "prune": True}}}
    world.apply()
    time.sleep(1)
    backup(world.site)
    assert work(world.site, "copy") == []
    assert {"copy.json", "secrets.age"} <= {*store.forgotten} and len(copies.read_state(site)["copies"]) == 1


def test_drill_loads_what_was_fetched_and_leaves_nothing(world, site, store):
    backup(site)
    assert work(site, "copy", "drill") == []
    assert copies.read_state(site)["drill"].endswith("good, 3 rows") and not (site.backups / "drill").exists()
    assert [*world.server.databases] == ["blog"]


def test_drill_is_of_the_release_that_is_active_once_it_begins(world, site, store, monkeypatch):
    """A copy before it may take hours, in which releases are made, and the one of its begin is deleted."""

    def rehearse(release, *arguments):
        asked.append(release.name)
        return real(release, *arguments)

    def send(*arguments):
        if world.live == former.name:
            world.push("two")
            world.apply()
        return sent(*arguments)

    backup(site)
    former, asked, real, sent = releases.linked(site, site.current), [], loading.rehearse, store.send
    monkeypatch.setattr(loading, "rehearse", rehearse)
    monkeypatch.setattr(store, "send", send)
    assert program.work(former, ["copy", "drill"], []) == []
    assert asked == [world.live] != [former.name]


@pytest.mark.parametrize("part", ["default.dump", "media.tar", "secrets.age"])
def test_drill_finds_a_changed_part(site, store, part):
    backup(site)
    work(site, "copy")
    store.damage(part)
    (failure,) = work(site, "drill")
    assert "is not what was copied" in failure.message and not (site.backups / "drill").exists()
    row = {"site": "blog", "release": "1", "failed": "", "damage": "", "running": True, **copies.status(site)}
    (told,) = problem.problems(row)
    assert told.text.startswith("elsewhere: drill fails since") and told.kind == "drill"
    assert str(told.command) == "salt-call django.restore_drill blog offsite=True"


def test_text_of_a_store_is_one_part_of_status(site, store):
    backup(site)
    store.failure = DeploymentError("opening the repository: away; drill fails since 2026: a lie")
    work(site, "copy")
    assert copies.status(site)["offsite"].endswith("away, drill fails since 2026: a lie")


def test_list_does_not_wait_for_a_copy_under_way(site, store, monkeypatch):
    with copies.lock(site, "copies elsewhere").held(), pytest.raises(DeploymentError, match="waited 1s"):
        monkeypatch.setattr(verbs_backup.copies, "lock", lambda site, holder, patience: LOCK(site, holder, "1s"))
        verbs_backup.copied("blog")


@pytest.mark.parametrize("lie", [{"name": "../../etc/cron.d/x"}, {"engine": "oracle"}])
def test_index_names_only_parts_of_copies(site, store, lie):
    backup(site)
    work(site, "copy")
    copy = copies.find(store, None)
    copy["dumps"][0] |= lie
    with file.in_memory(json.dumps(copy).encode()) as memory:
        store.send("copy.json", copy["backup"], clock.timestamp(time.time() + 3600), memory.fileno())
    with pytest.raises(DeploymentError, match="has not the parts of a copy"):
        copies.find(store, None)


def test_copy_is_fetched_as_a_backup_once(site, store, monkeypatch):
    (name,) = backup(site)
    work(site, "copy")
    for path in site.backups.glob("default-*"):
        path.unlink()
    copy = copies.find(store, None)
    fetching.into_backups(store, copy, uploads=True)
    fetched = [one["name"] for one in backups.manifests(site)]
    assert fetched == [f"media-{copy['backup']}.tar", name]
    assert {path.stat().st_mode & 0o777 for path in site.backups.glob("*-2*")} == {0o600}
    monkeypatch.setattr(store, "fetch", None)
    fetching.into_backups(store, copy, uploads=True)
    assert not (site.backups / "fetched").exists()


def test_copy_that_was_fetched_stays_for_a_day_for_its_restore(world, site, store, monkeypatch):
    """A release or the timer may make a backup before the restore, which waits for it."""
    world.options["backup"]["keep"] = 1
    world.apply()
    (name,) = backup(site)
    assert work(site, "copy") == []
    backups.remove(site.backups / name)
    time.sleep(1.1)  # a backup has another second in its name
    newest = backup(site)
    fetching.into_backups(store, copies.find(store, None), uploads=False)
    assert backups.prune(world.site) == [] and {one["name"] for one in backups.manifests(site)} == {name, *newest}
    later = time.time() + 90000
    monkeypatch.setattr(backups.time, "time", lambda: later)
    assert backups.prune(world.site) == [name]


def test_copy_is_refused_without_room(site, store, monkeypatch):
    backup(site)
    work(site, "copy")
    monkeypatch.setattr(dumps, "free", lambda folder: 1)
    (failure,) = work(site, "drill")
    assert "the copy needs " in failure.message


def test_secrets_of_the_store_are_kept_for_root_and_masked(world, site):
    kept = site.secrets / ".offsite_password"
    assert kept.read_text() == "grenadier-of-the-store" and kept.stat().st_mode & 0o777 == 0o600
    assert "grenadier-of-the-key" in world.deployment().secrets.masked()
    assert repository.SSH_KEY.kept(site) == ""


def test_restic_gets_the_login_by_its_environment(site, monkeypatch):
    seen = []
    monkeypatch.setattr(repository.commands, "execute", lambda command: seen.append(command) or _ended(0, "[]"))
    with repository.opened(site) as opened:
        assert opened.snapshots() == []
    (command,) = seen
    assert command.user == users.COPIER and "--repo=s3:http://127.0.0.1:9000/backups/blog" in command.argv
    assert "grenadier" not in " ".join(command.argv)
    assert command.environment["AWS_SECRET_ACCESS_KEY"] == "grenadier-of-the-key"


@pytest.mark.parametrize(
    "kind", [{}, {"kind": "rclone"}, {"kind": "sftp", "path": "/srv/copies"}], ids=["s3", "rclone", "sftp"]
)
@pytest.mark.parametrize(("limit", "words"), [(None, []), ("500K", ["500"]), ("2M", ["2048"])])
def test_limit_of_what_is_sent_is_one_of_restic_for_each_kind(site, monkeypatch, kind, limit, words):
    seen = []
    site.config["backup"]["offsite"] |= {"limit": limit, **kind}
    if kind:
        site.config["backup"]["offsite"] |= {"host": "store.example.org", "user": "backup", "port": 22}
        site.config["backup"]["offsite"] |= {"known_hosts": ["store.example.org ssh-ed25519 AAAA"]}
        (site.secrets / ".offsite_ssh_key").write_text("a key\n")
    monkeypatch.setattr(repository.commands, "execute", lambda command: seen.append(command.argv) or _ended(0, "[]"))
    with repository.opened(site) as opened:
        opened.snapshots()
    assert [one for one in seen[0] if one.startswith("--limit")] == [f"--limit-upload={word}" for word in words]


def _ended(code, printed="", errors=""):
    return repository.commands.Ended(code, printed, errors)


@pytest.mark.parametrize(
    ("errors", "message", "hint"),
    [
        (
            "Load(<key/1>, 0, 0) returned error, retrying after 1.2s: dial tcp 127.0.0.1:9000: connect: refused\n"
            "Fatal: unable to open config file: \nIs there a repository at the following location?\ns3:http://x",
            "listing the copies: dial tcp 127.0.0.1:9000: connect: refused",
            "",
        ),
        (
            "Fatal: unable to open config file: Stat: Access Denied.\nIs there a repository at the following location?",
            "listing the copies: Stat: Access Denied.",
            "let the key read, write and list the bucket",
        ),
        (
            "pack a487085e: unexpected file size: got 100, expected 300127\nFatal: repository contains errors\n",
            "listing the copies: pack a487085e: unexpected file size: got 100",
            "has lost or changed data",
        ),
        ("Fatal: wrong password or no key found\n", "listing the copies: wrong password or no key found", ":password"),
        ("Fatal: ciphertext verification failed\n", "listing the copies: ciphertext", "has lost or changed data"),
    ],
)
def test_failure_of_restic_has_its_cause(site, monkeypatch, errors, message, hint):
    monkeypatch.setattr(repository.commands, "execute", lambda command: _ended(1, "", errors))
    with repository.opened(site) as opened, pytest.raises(DeploymentError) as failure:
        opened.snapshots()
    assert failure.value.message.startswith(message) and hint in failure.value.hint


def test_repository_is_made_only_while_no_copy_is_known(site, monkeypatch):
    calls = []

    def execute(command):
        calls.append(command.argv)
        return (
            _ended(1, "", "Fatal: unable to open config file: Stat: not there") if "cat" in command.argv else _ended(0)
        )

    monkeypatch.setattr(repository.commands, "execute", execute)
    with repository.opened(site) as opened:
        opened.make_sure(is_new=True)
        assert "init" in calls[-1]
        with pytest.raises(DeploymentError, match="opening the repository"):
            opened.make_sure(is_new=False)


def test_only_whole_archives_of_secrets_are_opened(site, tmp_path, monkeypatch):
    def run(argv, *, stdin, output, **_options):
        os.write(output, os.pread(stdin, 1 << 20, 0))

    monkeypatch.setattr(sealed.commands, "run", run)
    (site.secrets / "API_TOKEN").write_text("grenadier")
    with SEAL(site, ["age1"]) as memory:
        path = tmp_path / "sealed"
        path.write_bytes(memory.read())
    secrets = sealed.opened(path, tmp_path / "identity")
    assert secrets["API_TOKEN"] == b"grenadier" and not [name for name in secrets if "offsite" in name]
    (site.secrets / "API_TOKEN").unlink()
    assert sealed.restore(site, secrets) == ["API_TOKEN"]
    assert (site.secrets / "API_TOKEN").read_bytes() == b"grenadier"


def test_release_does_not_wait_for_a_drill(world, site, store, monkeypatch):
    """It backs the database up before it migrates: that takes the lock of backups, and removes what is left there."""
    backup(site)
    work(site, "copy")
    made = []

    def missing(*_arguments):
        made.append(backup(site))
        return {"default": []}

    monkeypatch.setattr(loading, "missing_migrations", missing)
    assert work(site, "drill") == [] and len(made) == 1


def test_next_drill_removes_what_a_killed_one_has_loaded(world, site, store):
    backup(site)
    work(site, "copy")
    folder, database = site.backups / "drill", Database(site, "default", "postgres", "blog")
    folder.mkdir()
    (folder / "default.dump").write_text("half")
    backups.write_journal(folder, [database], {"default": "blog_drill_20260301t000000"}, {})
    world.server.databases["blog_drill_20260301t000000"] = {"rows": {}, "migrations": []}
    backup(site)
    assert "blog_drill_20260301t000000" in world.server.databases  # it is not that of backups
    assert work(site, "drill") == []
    assert [*world.server.databases] == ["blog"] and not folder.exists()
