"""What a look finds on the host itself: processes that the kernel has killed, restarts, failed units, disks, boots."""

from types import SimpleNamespace

import pytest
from django_formula.host import commands
from django_formula.watch import machine

UNIT = "django-blog-0001.service"
WORKER = "django-blog-0001-default.service"
GIB = 1 << 30


def unit(restarts=0, active="active"):
    return {"NRestarts": str(restarts), "ActiveState": active, "ControlGroup": "/system.slice/blog"}


def before(restarts=0, kills=0, name=UNIT):
    return {"units": {name: [restarts, kills]}, "time": 1700000000.4}


@pytest.fixture
def groups(tmp_path, monkeypatch):
    """Have the kernel count the processes of a unit that it has killed."""
    monkeypatch.setattr(machine, "CGROUPS", tmp_path)
    (tmp_path / "system.slice/blog").mkdir(parents=True)
    return lambda kills: (tmp_path / "system.slice/blog/memory.events").write_text(f"oom 7\noom_kill {kills}\n")


@pytest.fixture
def journal(monkeypatch):
    """What journalctl prints, and the words of each call."""
    there = {"printed": "", "calls": []}

    def run(words, **_options):
        there["calls"].append(words)
        return there["printed"]

    monkeypatch.setattr(machine.commands, "run", run)
    return there


def of_units(units, state):
    problems, events = machine.of_units("blog", ["blog", "blog-b"], units, state)
    return [one.text for one in problems], [text for _kind, text, _command in events]


def test_process_that_the_kernel_has_killed_is_reported_once(groups, journal):
    groups(3)
    killed = f"the kernel killed 2 processes of {WORKER}: its memory is at its limit (resources:MemoryMax)"
    assert of_units({WORKER: unit()}, before(0, 1, WORKER)) == ([], [killed])
    assert machine.counters({WORKER: unit()}) == {WORKER: [0, 3]}
    assert of_units({WORKER: unit()}, before(0, 3, WORKER)) == ([], [])
    assert of_units({WORKER: unit()}, {}) == ([], []), "the first look reports no history"
    assert journal["calls"] == []


def test_kill_of_a_main_process_is_in_the_journal_alone(groups, journal):
    """The unit was started again, in a new control group."""
    groups(0)
    journal["printed"] = "A process of this unit has been killed by the OOM killer.\n"
    _problems, events = of_units({UNIT: unit(1)}, before(0, 3))
    assert events == [f"the kernel killed a process of {UNIT}: its memory is at its limit (resources:MemoryMax)"]
    (words,) = journal["calls"]
    assert {"--since=@1700000000", f"UNIT={UNIT}", "MESSAGE_ID=fe6faa94e7774663a0da52717891d8ef"} < {*words}
    journal["printed"] = ""
    assert of_units({UNIT: unit(1)}, before(0, 3)) == ([], [])


def test_journal_that_cannot_be_read_ends_no_look(groups, monkeypatch):
    def run(*_words, **_options):
        raise commands.DeploymentError("reading the journal: timed out after 10 s")

    monkeypatch.setattr(machine.commands, "run", run)
    groups(0)
    assert of_units({UNIT: unit(1)}, before()) == ([], [])


def test_unit_that_is_started_again_and_again_is_a_problem(groups, journal):
    assert of_units({UNIT: unit(3)}, before(2)) == ([], [])
    assert of_units({UNIT: unit(4)}, before(2))[0] == [f"{UNIT} was restarted 2 times since the last look"]


def test_failed_unit_of_a_timer_is_a_problem_of_its_site_alone(groups, journal):
    units = {f"django-{name}.service": unit(active="failed") for name in ("blog-backup", "blog-tls", "blog-b-tls")}
    found = [(one.kind, one.command) for one in machine.of_units("blog", ["blog", "blog-b"], units, {})[0]]
    assert found == [
        ("backup", "systemctl start django-blog-backup.service"),
        ("certificate", "systemctl start django-blog-tls.service"),
    ]


@pytest.fixture
def disk(monkeypatch):
    """Have each folder be on one disk, with free bytes and inodes."""
    there = {"free": 50 * GIB, "inodes": 1000}

    def statvfs(_folder):
        size = {"f_blocks": 100 * GIB, "f_bavail": there["free"], "f_frsize": 1}
        return SimpleNamespace(**size, f_files=10000, f_favail=there["inodes"])

    monkeypatch.setattr(machine, "os", SimpleNamespace(stat=lambda _folder: SimpleNamespace(st_dev=8), statvfs=statvfs))
    return there


def of_disk(state, now=0.0):
    problems = machine.of_host(["/", "/srv"], state, {"disk": 10, "every": 60}, now)[0]
    return [one.text for one in problems if one.kind == "disk"]


def test_disk_is_looked_at_once_and_has_to_have_room(disk):
    assert of_disk({}) == []
    disk["free"] = 9 * GIB
    assert of_disk({}) == ["9 % of / is free (9.0 GiB)"]
    disk |= {"free": 50 * GIB, "inodes": 499}
    assert of_disk({}) == ["5 % of the inodes of / are free"]


def test_disk_that_will_be_full_within_a_day_is_a_problem(disk):
    state = {}
    assert of_disk(state) == []
    disk["free"] = 45 * GIB
    assert of_disk(state, 3599.0) == [], "the rate is that of an hour"
    assert of_disk(state, 3600.0) == ["45 % of / is free (45.0 GiB), full in about 9 h"]
    assert of_disk(state, 3660.0) == ["45 % of / is free (45.0 GiB), full in about 9 h"]
    assert of_disk(state, 7200.0) == [], "it does not fill up any more"


def test_disk_is_measured_anew_where_the_clock_was_ahead(disk):
    state = {}
    assert of_disk(state, 1e9) == of_disk(state, 0.0) == []
    disk["free"] = 45 * GIB
    assert of_disk(state, 3600.0) == ["45 % of / is free (45.0 GiB), full in about 9 h"]


def test_reboot_and_a_watch_that_did_not_look_are_events(disk, tmp_path, monkeypatch):
    monkeypatch.setattr(machine, "BOOT", tmp_path / "boot_id")
    config, state = {"disk": 10, "every": 60}, {}

    def events(now):
        found = [kind for kind, _text, _command in machine.of_host([], state, config, now)[1]]
        state["time"] = now
        return found

    machine.BOOT.write_text("first\n")
    assert events(0.0) == events(60.0) == []
    machine.BOOT.write_text("second\n")
    assert events(120.0) == ["rebooted"]
    assert events(720.0) == [] and events(1400.0) == ["watch"]
    state["took"] = 31
    assert [one.kind for one in machine.of_host([], state, config, 1400.0)[0]] == ["watch"]
