"""Points in time: what the store has, what is due, which moments there are, and what status says of them."""

import contextlib
import dataclasses
import functools
import json
import os
import re
import time
from pathlib import Path

import pytest
from django_formula.database import postgres
from django_formula.host import clock, commands, users
from django_formula.host.commands import DeploymentError, Ended
from django_formula.host.locks import Lock
from django_formula.pillar import states
from django_formula.points import archive, aside, drill, moment, program, setup
from django_formula.points.archive import Cluster
from django_formula.verbs import backup as verbs_backup
from django_formula.watch import problem
from specimen import configured

POINTS = {"kind": "folder", "path": "/mnt/archive", "password": "grenadier-of-the-archive"}
FULL = {
    "keep": 14,
    "prune": True,
    "drill": "weekly",
    "endpoint": None,
    "region": "us-east-1",
    "bucket": None,
    "key": None,
    "secret": None,
}
MAIN = Cluster("15-main", Path("/var/lib/postgresql/15/main"), Path("/nowhere"), 5432, "")
ENTRY = {
    **{
        "stanza": "15-main",
        "data": "/var/lib/postgresql/15/main",
        "waiting": "/nowhere",
        "store": "",
        "port": 5432,
        "socket": "",
    },
    **{"oldest": "", "newest": "", "full": "", "backup": "", "gaps": [], "failed": {}},
}


FINE = {"code": 0, "message": "ok"}
EXECUTE = commands.execute


def segment(number):
    return f"0000000100000000/00000001{number // 256:08X}{number % 256:08X}-{'a' * 40}.zst"


def files(*numbers, begin=1000):
    """What is in an archive: a segment each minute."""
    return {".": {"type": "path"}, **{segment(each): {"time": begin + each * 60} for each in numbers}}


@pytest.fixture
def site(tmp_path, monkeypatch):
    """A site with points in time, on a host that remembers a cluster."""
    for name, path in (("FOLDER", tmp_path), ("STATE", tmp_path / "state.json"), ("CONFIG", tmp_path / "conf")):
        monkeypatch.setattr(archive, name, path)
    waiting = tmp_path / "archive_status"
    waiting.mkdir()
    archive.write_state({"program": "", "clusters": {"15-main": {**ENTRY, "waiting": str(waiting)}}})
    return configured(database={"engine": "postgres"}, backup={"points": POINTS})


@pytest.fixture
def store(monkeypatch):
    """A store that pgbackrest reaches: its backups and files, and the calls."""
    there = {"backups": [], "files": files(1, 2, 3), "calls": [], "failure": None, "unread": ""}

    def execute(command):
        words = [word for word in command.argv[1:] if not word.startswith(("--config", "--stanza", "--log"))]
        there["calls"].append(" ".join(words))
        assert command.user == "postgres" and command.argv[1] == f"--config={archive.CONFIG}"
        if there["failure"] and words[0] != "info":
            return Ended(50, "", there["failure"])
        backups = [
            {"type": kind, "timestamp": {"start": when - 5, "stop": when}, "info": {"size": 1 << 20}}
            for when, kind in there["backups"]
        ]
        repositories = [{"status": {"code": 99, "message": there["unread"]} if there["unread"] else FINE}]
        answers = {"info": [{"backup": backups, "repo": repositories}], "repo-ls": there["files"]}
        answer = next((value for word, value in answers.items() if word in words), "")
        if command.output is not None:
            os.write(command.output, json.dumps(answer).encode())
            return Ended(0, "", "")
        return Ended(0, answer and json.dumps(answer), "")

    monkeypatch.setattr(commands, "execute", execute)
    return there


def test_segments_that_are_missing_are_a_gap_until_the_next_backup(store):
    store["files"] = files(254, 255, 256, 257, 260, 261)
    store["backups"] = [(1000, "full")]
    begin = 1000 + 257 * 60
    assert archive.contents(MAIN).gaps == [(begin, float("inf"))]
    store["backups"] += [(begin + 500, "diff")]
    there = archive.contents(MAIN)
    assert there.gaps == [(begin, begin + 500)] and there.newest == 1000 + 261 * 60
    store["backups"] = [(begin + 500, "full")]
    store["files"] = files(261, 262)
    assert archive.contents(MAIN).gaps == []


@pytest.mark.parametrize(("megabytes", "last"), [(16, 255), (1, 4095), (64, 63), (1024, 3)])
def test_segments_of_another_size_have_no_gap_where_their_first_number_goes_up(
    monkeypatch, store, versioned, megabytes, last
):
    """As `initdb --wal-segsize=64` makes them; PostgreSQL names them by the log file of 4 GB that they are of."""
    answer = {"data": "/var/lib/postgresql/15/main", "name": "15/main", "version": 15}
    answer |= facts(wal_segment_size=str(megabytes << 20))
    versioned["realpath"] = "/nowhere"
    monkeypatch.setattr(postgres, "ask", lambda *_words, **_options: json.dumps(answer))
    found, _facts = setup._facts("", 5432)
    state = {"clusters": {}}
    monkeypatch.setattr(archive, "write_state", lambda _state: None)
    setup._begin(state, found, [], "")
    names = [f"0000000100000000/0000000100000000{last:08X}", "0000000100000001/000000010000000100000000"]
    store["files"] = {f"{name}-{'a' * 40}.zst": {"time": 1000 + number} for number, name in enumerate(names)}
    store["backups"] = [(900, "full")]
    cluster = archive.cluster(state["clusters"]["15-main"])
    assert archive.contents(cluster).gaps == []
    store["files"].pop(next(iter(store["files"])))
    store["files"][f"0000000100000000/0000000100000000{last - 1:08X}-{'a' * 40}"] = {"time": 999}
    assert archive.contents(cluster).gaps == [(999, float("inf"))]


def test_list_of_an_archive_may_be_longer_than_outputs_are(store, tmp_path, monkeypatch):
    """Of a server that writes a segment every few seconds it is so within days."""
    listed = {segment(number): {"type": "file", "size": 1 << 20, "time": 1000 + number} for number in range(130_000)}
    text = json.dumps(listed)
    assert len(text) > commands.WHOLE
    (tmp_path / "listed").write_text(text)
    played, real = commands.execute, EXECUTE

    def execute(command):
        if "repo-ls" not in command.argv:
            return played(command)
        argv = ["cat", str(tmp_path / "listed")]
        return real(dataclasses.replace(command, argv=argv, user=None))

    monkeypatch.setattr(commands, "execute", execute)
    there = archive.contents(MAIN)
    assert there.gaps == [] and there.newest == 1000 + 129_999


@pytest.mark.parametrize("text", ["", "[]", "ERROR"])
def test_list_that_is_none_is_an_error(store, monkeypatch, text):
    monkeypatch.setattr(json, "dumps", lambda _value: text)
    with pytest.raises(DeploymentError, match="listing the archive of PostgreSQL: it ended without a usable answer"):
        list(archive._segments(MAIN))


def test_segments_of_several_timelines_are_one_row(store):
    later = segment(4).replace("00000001", "00000002", 2)
    store["files"] = {**files(1, 2, 3), later: {"time": 2000}, "00000002.history": {"time": 1999}}
    assert archive.contents(MAIN).gaps == []


@pytest.mark.parametrize(
    ("full", "backup", "gaps", "expected"),
    [
        (None, None, [], "full"),
        (8, 1, [], "full"),
        (1, 0.2, [], ""),
        (3, 1.1, [], "diff"),
        (3, 0.1, [["2026-01-01T00:00:00Z", "now"]], "diff"),
        (-300, -300, [], "full"),  # of a clock that was ahead
        (3, -300, [], "diff"),
        (3, 0.1, [["2026-01-01T00:00:00Z", "2026-01-01T01:00:00Z"]], ""),
    ],
)
def test_what_is_due(full, backup, gaps, expected):
    def ago(days):
        return "" if days is None else clock.timestamp(time.time() - days * 86400)

    assert program.due({**ENTRY, "full": ago(full), "backup": ago(backup), "gaps": gaps}) == expected


def test_what_fails_is_remembered_until_it_works(site, store):
    store["failure"] = "ERROR: [103]: unable to find a valid repository:\n       repo1: [X] no; such\nHINT: look"
    assert [error.message for error in program.work("test")] == [
        "checking the archive of PostgreSQL: unable to find a valid repository: repo1: [X] no, such",
    ]
    assert "check fails since 2" in archive.status(site)["points"]
    store["failure"], store["backups"] = None, [(time.time() // 1 - 10, "full")]
    store["backups"] = [(int(when), kind) for when, kind in store["backups"]]
    assert program.work("test") == []
    stamp = clock.timestamp(store["backups"][0][0])
    assert archive.status(site) == {"points": f"since {stamp}, backup {stamp}", "points_behind": 0}
    assert "backup --type=full" not in store["calls"][-3:]


@pytest.mark.parametrize(
    ("unread", "message", "hint"),
    [
        (
            "[HostConnectError] unable to connect to '192.0.2.1:443': [111] Connection refused",
            "Connection refused",
            "run",
        ),
        ("[FileReadError] timeout after 10000ms waiting for read from '192.0.2.1:443'", "waiting for read from", "run"),
        ("[CryptoError] cipher header invalid", "cipher header invalid", "correct django:sites:SITE:backup:points:pas"),
        (
            "[ProtocolError] HTTP request failed with 403 (Forbidden):\n*** Path/Query ***:\nGET /archive/\n"
            "*** Response Content ***:\n<Error><Code>SignatureDoesNotMatch</Code></Error>",
            "HTTP request failed with 403 (Forbidden): SignatureDoesNotMatch",
            "correct django:sites:SITE:backup:points:secret",
        ),
    ],
)
def test_store_that_cannot_be_read_is_asked_once(site, store, unread, message, hint):
    store["unread"] = unread
    (failure,) = program.work("test")
    assert failure.message.startswith("listing the backups of PostgreSQL: ") and message in failure.message
    assert hint in failure.hint and store["calls"] == ["info --output=json --io-timeout=10"]
    assert message.partition(":")[0] in archive.status(site)["points"]


def test_segment_that_waits_is_a_problem(site):
    waiting = archive.cluster(archive.read_state()["clusters"]["15-main"]).waiting
    for name, age in (("000000010000000000000009.done", 9000), ("00000001000000000000000A.ready", 700)):
        (waiting / name).touch()
        os.utime(waiting / name, (time.time() - age,) * 2)
    row = archive.status(site)
    assert row["points"] == "archive fails: the oldest segment waits for 700 s" and row["points_behind"] == 700
    (found,) = [one for one in problem._of_data({"site": "blog", **row}) if one.key == "points"]
    assert (found.kind, found.command) == ("backup", "salt-call django.points blog")
    assert found.text == "points in time: archive fails: the oldest segment waits for 700 s"
    (waiting / "00000001000000000000000A.ready").unlink()
    assert archive.status(site)["points_behind"] == 0


@pytest.mark.parametrize(
    ("backup", "failed", "said"),
    [
        ("2026-01-01T00:00:00Z", [], "backup fails: the newest one is of 2026-01-01T00:00:00Z, see the journal"),
        ("2026-01-01T00:00:00Z", ["check"], "check fails since"),
        ("", [], "backup fails: there is none yet, see the journal"),
        ("now", [], ""),
    ],
)
def test_program_that_makes_no_backup_any_more_is_a_problem(site, backup, failed, said):
    """It cannot say so itself: its timer is gone, the disk is full, or it is killed each time."""
    archive.CONFIG.touch()
    os.utime(archive.CONFIG, (time.time() - 4 * 86400,) * 2)
    state = archive.read_state()
    failures = {task: {"since": clock.now(), "cause": "the store is away"} for task in failed}
    state["clusters"]["15-main"] |= {"backup": clock.now() if backup == "now" else backup, "failed": failures}
    archive.write_state(state)
    row = archive.status(site)
    assert said in row["points"] and row["points"].count("fails") == bool(said)
    found = [one.text for one in problem._of_data({"site": "blog", **row}) if one.key == "points"]
    assert len(found) == bool(said) and all(said in text for text in found)


def test_gap_is_a_problem_for_a_day(site):
    def said(end):
        state = archive.read_state()
        state["clusters"]["15-main"]["gaps"] = [["2026-01-01T00:00:00Z", end]]
        archive.write_state(state)
        row = {"site": "blog", **archive.status(site)}
        assert [one.key for one in problem._of_data(row)] == (["points"] if "gap" in row["points"] else [])
        return row["points"]

    assert said("now") == "gap from 2026-01-01T00:00:00Z to now: what was committed between has no points"
    recent = clock.timestamp(time.time() - 3600)
    assert f"to {recent}: what" in said(recent)
    assert "gap" not in said("2026-01-01T01:00:00Z")


def test_site_without_points_says_nothing(site):
    assert archive.status(configured(database={"engine": "postgres"})) == {"points": "", "points_behind": ""}
    archive.STATE.unlink()
    assert "apply, and see" in archive.status(site)["points"]


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("2026-11-26 04:00Z", "2026-11-26T04:00:00Z"),
        ("2026-11-26T04:00:30Z", "2026-11-26T04:00:30Z"),
        ("2026-11-26 04:00:30 UTC", "2026-11-26T04:00:30Z"),
        ("2026-11-26 04:00 +02:00", "2026-11-26T02:00:00Z"),
        ("2026-11-26 04:00", "2026-11-26T01:00:00Z"),
    ],
)
def test_moment_is_one_of_the_hosts_clock(monkeypatch, text, expected):
    monkeypatch.setenv("TZ", "XYZ-3")
    time.tzset()
    try:
        assert moment.parse(text).text == expected
        assert moment.parse(text).target == expected.replace("T", " ").replace("Z", "+00")
    finally:
        monkeypatch.delenv("TZ")
        time.tzset()


@pytest.mark.parametrize("text", ["", "yesterday", "2026-11-26", "2026-13-26 04:00", "2026-11-26 04:00'; DROP", "\n"])
def test_other_text_is_no_moment(text):
    with pytest.raises(DeploymentError, match="is no moment"):
        moment.parse(text)


@pytest.fixture
def answering(monkeypatch):
    """A server that answers."""
    monkeypatch.setattr(postgres, "ask", lambda *_words, **_options: "")


def refusal(when):
    with pytest.raises(DeploymentError) as error:
        aside.check_covered(MAIN, aside.Moment(when, clock.timestamp(when)))
    return error.value.message


def test_moment_that_the_archive_does_not_have_is_refused(store, answering):
    assert "has no backup" in refusal(5000)
    store["backups"] = [(1000, "full"), (2000, "diff")]
    assert "its oldest moment is 1970-01-01T00:16:40Z, the newest 2" in refusal(500)
    assert "its oldest moment is 1970-01-01T00:16:40Z, the newest 2" in refusal(time.time() + 60)
    store["files"] = files(1, 2, 9)
    assert "segments are missing from 1970-01-01T00:18:40Z to 1970-01-01T00:33:20Z" in refusal(1500)
    assert aside.check_covered(MAIN, aside.Moment(1050, "")) == 1 << 20
    assert store["calls"][-3] == "check"


@pytest.fixture
def restored(site, store, answering, monkeypatch):
    """A server that is restored aside, with the rows of its databases."""
    store["backups"] = [(1000, "full")]
    there = {
        "live": ["blog", "postgres"],
        "aside": {"blog": 40, "shop's": 1, "postgres": 7, "template1": 0},
        "failure": None,
    }

    @contextlib.contextmanager
    def restored(one, at, size):
        assert one.stanza == "15-main" and abs(time.time() - at.seconds) < 60 and size == 1 << 20
        if there["failure"]:
            raise DeploymentError(there["failure"])
        yield aside.Server(Path("/nowhere"), one)

    monkeypatch.setattr(aside, "FOLDER", archive.FOLDER)
    monkeypatch.setattr(time, "sleep", lambda _seconds: None)
    monkeypatch.setattr(aside, "restored", restored)
    monkeypatch.setattr(Cluster, "ask", lambda *_words, **_options: json.dumps(there["live"]))
    monkeypatch.setattr(aside.Server, "ask", lambda *_words, **_options: json.dumps([*there["aside"]]))
    monkeypatch.setattr(aside.Server, "rows", lambda _self, name: there["aside"][name])
    state = archive.read_state()
    state["clusters"]["15-main"]["backup"] = clock.now()
    archive.write_state({**state, "drill": "weekly"})
    return there


def test_drill_reads_each_row_of_the_server_as_it_is_now(site, restored):
    assert drill.due() == ["15-main"] and drill.work(drill.due(), "test") == []
    assert drill.due() == []
    text = archive.status(site)["points"]
    assert re.fullmatch(r"no backup yet|(since .*)?drill 2\d{3}-\S+Z, 0 s: good, 41 rows", text), text
    assert problem._BAD_POINTS.match(text) is None


def test_drill_that_fails_is_a_problem_until_one_is_good(site, restored):
    drill.work(["15-main"], "test")
    restored["failure"] = "restoring 2026 aside: checksum error; damaged"
    (failure,) = drill.work(["15-main"], "test")
    assert failure.message == restored["failure"]
    text = archive.status(site)["points"]
    assert "good, 41 rows" in text and "drill fails since 2" in text and "checksum error, damaged" in text
    state = archive.read_state()
    state["clusters"]["15-main"]["drill"] |= {"done": "2026-01-01T00:00:00Z"}
    archive.write_state(state)
    assert drill.due() == [], "tried again a day later"
    state["clusters"]["15-main"]["drill"] |= {"tried": "2026-01-01T00:00:00Z"}
    archive.write_state(state)
    assert drill.due() == ["15-main"]
    state["clusters"]["15-main"]["drill"] |= {"tried": "2999-01-01T00:00:00Z", "done": "2999-01-01T00:00:00Z"}
    archive.write_state(state)
    assert drill.due() == ["15-main"], "the clock was wrong then"
    restored["failure"] = None
    assert drill.work(["15-main"], "test") == [] and "fails" not in archive.status(site)["points"]


@pytest.mark.parametrize(("live", "missing"), [(["blog", "wiki"], "wiki"), (["blog"], ""), ([], "")])
def test_database_that_the_archive_lacks_fails_its_drill(site, restored, live, missing):
    restored["live"] = live
    failures = [one.message for one in drill.work(["15-main"], "test")]
    assert bool(failures) == bool(missing) and all(text.endswith(f"does not have {missing}") for text in failures)


def test_drill_waits_for_no_backup_and_never_runs_unasked(site, restored):
    state = archive.read_state()
    archive.write_state({**state, "drill": "never"})
    assert drill.due() == []
    state["clusters"]["15-main"]["backup"] = ""
    archive.write_state(state)
    assert drill.due() == []
    with aside.lock("django.restore").held(), pytest.raises(DeploymentError, match="another restore of a moment"):
        drill.work(["15-main"], "test")


def test_result_of_a_drill_waits_for_the_backup_that_has_begun_meanwhile(site, restored, monkeypatch):
    """A person has asked for the drill, which has taken an hour, and the timer backs up for hours."""

    def lock(holder, patience="10s"):
        waits.append(commands.seconds(patience))
        return real(holder, patience)

    waits, real = [], archive.lock
    monkeypatch.setattr(archive, "lock", lock)
    assert drill.work(["15-main"], "django.restore_drill") == []
    assert waits == [6 * 3600.0]


def test_drill_of_an_archive_that_has_ended_meanwhile_says_so(site, restored):
    """An apply without backup:points may come while it waits."""
    failures = drill.work(["9-gone", "15-main"], "test")
    assert [one.message for one in failures] == ["PostgreSQL 9-gone is archived no more"]
    assert "good, 41 rows" in archive.status(site)["points"]


def test_a_moment_and_a_backup_are_not_restored_at_once(world):
    world.apply()
    for options in ({"offsite": True}, {"which": "20260301T120000Z-0041-9be1c07d2a44"}):
        with pytest.raises(DeploymentError, match="at names a moment"):
            verbs_backup.restore("blog", at="2026-11-26 04:00", **options)
    with pytest.raises(DeploymentError, match="has no points in time"):
        verbs_backup.restore("blog", at="2026-11-26 04:00")


@pytest.fixture
def versioned(monkeypatch):
    """A host with a version of pgbackrest, and a disk of 100 GB."""
    answers = {"pgbackrest": "pgBackRest 2.45\n", "stat": f"{100 << 18} 4096\n"}
    monkeypatch.setattr(commands, "run", lambda argv, **_options: answers[argv[0]])
    return answers


def test_configuration_of_a_store(versioned):
    text = setup._config({**FULL, **POINTS}, [MAIN])
    for line in (
        "repo1-type=posix\nrepo1-path=/mnt/archive\n",
        "repo1-cipher-pass=grenadier-of-the-archive\n",
        "repo1-retention-full=14\n",
        "archive-push-queue-max=10240MiB\n",
        "io-timeout=20\n",
        "[15-main]\npg1-path=/var/lib/postgresql/15/main\npg1-port=5432\n",
    ):
        assert line in text
    assert "repo1-block" not in text and "expire-auto" not in text
    versioned["pgbackrest"] = "pgBackRest 2.55.1\n"
    s3 = {"kind": "s3", "path": None, "bucket": "archive", "endpoint": "https://s3.example.org:9000", "prune": False}
    text = setup._config({**FULL, **POINTS, **s3, "key": "id", "secret": "s" * 8}, [MAIN, MAIN._replace(stanza="17-x")])
    for line in (
        "repo1-path=/points\n",
        "repo1-s3-endpoint=s3.example.org\n",
        "repo1-storage-port=9000\n",
        "repo1-s3-uri-style=path\n",
        "repo1-block=y\n",
        "expire-auto=n\n",
        "[17-x]\n",
    ):
        assert line in text


def facts(**settings):
    there = {"archive_mode": "off", "archive_command": "(disabled)", "archive_timeout": "0", "wal_level": "replica"}
    return {"settings": {**there, "archive_library": "", **settings}, "pending": 0}


def test_settings_of_a_server_are_those_of_the_archive():
    first = setup._statements(MAIN, facts())
    assert first[:2] == ["ALTER SYSTEM SET archive_mode = 'on';", "ALTER SYSTEM SET archive_timeout = '45';"]
    command = f"pgbackrest --config={archive.CONFIG} --stanza=15-main archive-push %p"
    done = facts(archive_mode="on", archive_timeout="45", archive_command=command)
    assert setup._statements(MAIN, done) == []
    assert setup._statements(MAIN, {**done, "pending": 1}) == first[:1]


@pytest.mark.parametrize(
    ("settings", "expected"),
    [
        (
            {"archive_mode": "on", "archive_command": "wal-g wal-push %p"},
            "has an archive of its own: wal-g wal-push %p",
        ),
        ({"archive_mode": "on", "archive_library": "basic_archive"}, "has an archive of its own"),
        ({"wal_level": "minimal"}, "has wal_level = minimal"),
    ],
)
def test_server_with_an_archive_of_its_own_is_refused(monkeypatch, settings, expected):
    answer = {"data": "/var/lib/postgresql/15/main", "name": "15/main", "version": 15, **facts(**settings)}
    monkeypatch.setattr(postgres, "ask", lambda *_words, **_options: json.dumps(answer))
    with pytest.raises(DeploymentError, match=expected):
        setup._facts("", 5432)


def test_nothing_is_done_without_an_archive(monkeypatch, tmp_path):
    for name in ("CONFIG", "PROGRAM", "CRON", "UNITS"):
        monkeypatch.setattr(setup, name, tmp_path / name)
    assert setup.ensure(None, (), test=False) == ("PostgreSQL is not archived", {}, (), False)
    assert [*tmp_path.iterdir()] == []


@pytest.fixture
def host(monkeypatch, tmp_path, store, versioned):
    """A host with a PostgreSQL, on which the archive is set up for real, into folders; the calls of its programs."""
    for name in ("CONFIG", "PROGRAM", "CRON", "FOLDER"):
        monkeypatch.setattr(setup, name, tmp_path / name.lower())
    for name, path in (("FOLDER", "folder"), ("STATE", "folder/state.json"), ("CONFIG", "config")):
        monkeypatch.setattr(archive, name, tmp_path / path)
    monkeypatch.setattr(aside, "FOLDER", tmp_path / "folder")
    monkeypatch.setattr(setup, "UNITS", tmp_path)
    there = {"facts": facts(), "said": [], "units": [], "store": store}

    def ask(text, **_options):
        there["said"].append(text)
        if "ALTER SYSTEM" in text:
            command = f"pgbackrest --config={archive.CONFIG} --stanza=15-main archive-push %p"
            off = {"archive_command": "/bin/true", "archive_timeout": "0"}
            on = {"archive_command": command, "archive_timeout": "45"}
            there["facts"]["settings"] |= off if "/bin/true" in text else on
        whole = {"data": str(tmp_path), "name": "15/main", "version": 15, **there["facts"]}
        mode = there["facts"]["settings"]["archive_mode"]
        return json.dumps(whole) if "json_build_object" in text else mode if "SHOW" in text else ""

    def restart(_daemon):
        there["units"].append("restart")
        there["facts"]["settings"]["archive_mode"] = "on"

    versioned["realpath"] = str(tmp_path / "waiting")
    monkeypatch.setattr(postgres, "ask", ask)
    monkeypatch.setattr(setup, "_are_installed", lambda: True)
    monkeypatch.setattr(setup.host_archive, "install", lambda _module, path: path.write_bytes(b"PK\5\6" + bytes(18)))
    monkeypatch.setattr(setup.daemons, "has_systemd", lambda: True)
    monkeypatch.setattr(setup.daemons, "is_running", lambda _daemon: True)
    monkeypatch.setattr(setup.daemons, "restart", restart)
    monkeypatch.setattr(setup.folders, "refuse_unsafe_parents", lambda _path, _at: None)
    monkeypatch.setattr(users, "user_id", lambda _name: os.getuid())
    monkeypatch.setattr(users, "group_id", lambda _name: os.getgid())

    def start_timer(name):
        (tmp_path / "timers.target.wants").mkdir(exist_ok=True)
        (tmp_path / "timers.target.wants" / name).touch()
        there["units"].append("start_timer")

    monkeypatch.setattr(setup.units, "start_timer", start_timer)
    for name in ("daemon_reload", "control", "end_timer"):
        monkeypatch.setattr(setup.units, name, lambda *words, _name=name, **_options: there["units"].append(_name))
    return there


HERE = [{"socket": "", "port": 5432}]
#: The calls that make an archive.
MADE = ["info --output=json --io-timeout=10", "stanza-create"]


def test_archive_is_made_before_postgresql_adds_to_it(host, tmp_path):
    wanted = {**FULL, **POINTS, "path": str(tmp_path / "mount")}
    assert "restarted" in setup.ensure(wanted, HERE, test=True).changes["settings of 15-main"]
    assert not archive.CONFIG.exists() and host["units"] == []
    done = setup.ensure(wanted, HERE, test=False)
    assert done.changes["archive 15-main"] == "new" and host["store"]["calls"] == MADE
    assert host["units"] == ["restart", "daemon_reload", "start_timer", "control"]
    assert archive.CONFIG.stat().st_mode & 0o777 == 0o640
    assert POINTS["password"] not in str(done) + archive.STATE.read_text()
    assert setup.ensure(wanted, HERE, test=False) == ("PostgreSQL is archived", {}, (), False)
    setup.ensure({**wanted, "path": str(tmp_path / "another")}, HERE, test=False)
    assert host["store"]["calls"] == MADE * 2 and host["units"].count("restart") == 1


def test_archive_is_cared_for_by_cron_without_systemd(host, tmp_path, monkeypatch):
    """And once at once, since there are no points without a backup."""
    monkeypatch.setattr(setup.daemons, "has_systemd", lambda: False)
    monkeypatch.setattr(setup.daemons, "is_running", lambda _daemon: False)
    monkeypatch.setattr(setup.daemons, "start", lambda daemon: host["units"].append(f"start {daemon.service}"))
    monkeypatch.setattr(setup.commands, "detach", lambda argv: host["units"].append(argv[0]))
    wanted = {**FULL, **POINTS, "path": str(tmp_path / "mount")}
    setup.ensure(wanted, HERE, test=False)
    assert host["units"] == ["restart", "/usr/bin/python3", "start cron"]
    assert re.fullmatch(r"# .*\n17 \* \* \* \* root /usr/bin/python3 -I \S+ >/dev/null 2>&1\n", setup.CRON.read_text())
    assert setup.ensure(wanted, HERE, test=False) == ("PostgreSQL is archived", {}, (), False)
    setup.ensure(None, (), test=False)
    assert not setup.CRON.exists() and host["units"] == ["restart", "/usr/bin/python3", "start cron"]


@pytest.mark.parametrize("has_systemd", [True, False])
def test_cron_is_installed_for_it_only_without_systemd(has_systemd):
    site = configured(database={"engine": "postgres"}, backup={"points": POINTS})
    packages = {*states._packages(site.config, (), site.platform["packages"], has_systemd=has_systemd)}
    assert "pgbackrest" in packages and ("cron" in packages) is not has_systemd


def test_store_that_refuses_leaves_postgresql_as_it_is(host, tmp_path):
    host["store"]["failure"] = "ERROR: [028]: backup and archive info files exist but do not match the database"
    with pytest.raises(DeploymentError) as error:
        setup.ensure({**FULL, **POINTS, "path": str(tmp_path / "mount")}, HERE, test=False)
    assert "do not match the database" in error.value.message and "#a-new-host" in error.value.hint
    assert not [text for text in host["said"] if "ALTER SYSTEM" in text] and host["units"] == []


def test_archive_ends_without_points(host, tmp_path):
    setup.ensure({**FULL, **POINTS, "path": str(tmp_path / "mount")}, HERE, test=False)
    assert str(setup.PROGRAM) in setup.ensure(None, (), test=True).changes and setup.CONFIG.exists()
    setup.ensure(None, (), test=False)
    assert "ALTER SYSTEM SET archive_command = '/bin/true'" in host["said"][-1]
    assert sorted(path.name for path in tmp_path.iterdir()) == ["mount", "timers.target.wants"]


def test_program_that_runs_is_ended_with_the_archive(host, tmp_path, monkeypatch):
    setup.ensure({**FULL, **POINTS, "path": str(tmp_path / "mount")}, HERE, test=False)
    host["units"].clear()
    monkeypatch.setattr(setup.units, "stop", lambda _verb, units, **_options: host["units"].extend(units))
    setup.ensure(None, (), test=False)
    assert host["units"] == ["end_timer", "django-points.service", "control", "daemon_reload"]


def test_archive_stays_while_a_moment_of_it_is_restored(host, tmp_path, monkeypatch):
    """The temporary server would go on without its files, and nothing would end it any more."""
    setup.ensure({**FULL, **POINTS, "path": str(tmp_path / "mount")}, HERE, test=False)
    take = functools.partial(Lock, tmp_path / "folder/.aside.lock", busy="a restore", timeout="0s", hint="wait")
    monkeypatch.setattr(aside, "lock", take)
    with aside.lock("django.restore").held(), pytest.raises(DeploymentError, match="a restore is under way"):
        setup.ensure(None, (), test=False)
    assert setup.CONFIG.exists() and archive.read_state()["clusters"]
    setup.ensure(None, (), test=False)
    assert not setup.CONFIG.exists() and not setup.FOLDER.exists()


def test_archive_ends_with_the_last_site_that_has_it(host, tmp_path, monkeypatch):
    setup.ensure({**FULL, **POINTS, "path": str(tmp_path / "mount")}, HERE, test=False)
    blog = configured(database={"engine": "postgres"}, backup={"points": POINTS})
    monkeypatch.setattr(setup.sites, "registered", lambda: ["blog"])
    monkeypatch.setattr(setup.sites, "find", lambda _name: blog)
    assert setup.remove_if_unasked((), test=False) == {}
    assert setup.remove_if_unasked(["blog"], test=True)[str(setup.CONFIG)] == "removed"
    monkeypatch.setattr(setup.sites, "registered", list)
    assert setup.remove_if_unasked((), test=False)[str(setup.CONFIG)] == "removed"
    assert setup.remove_if_unasked((), test=False) == {}


def test_newer_server_on_the_same_port_has_an_archive_of_its_own(host, tmp_path, monkeypatch):
    wanted = {**FULL, **POINTS, "path": str(tmp_path / "mount")}
    setup.ensure(wanted, HERE, test=False)
    newer = Cluster("17-main", tmp_path, tmp_path, 5432, "")
    monkeypatch.setattr(setup, "_facts", lambda _socket, _port: (newer, host["facts"]))
    setup.ensure(wanted, HERE, test=False)
    assert [*archive.read_state()["clusters"]] == ["17-main"]
    assert not [text for text in host["said"] if "/bin/true" in text]
