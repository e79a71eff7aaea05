"""The sandbox of a site, and what a host enforces of it."""

import json
import os
import socket
import subprocess
import sys

import pytest
from django_formula.deploy import drift
from django_formula.host.commands import DeploymentError
from django_formula.process import sandbox, systemd, transient, trial
from django_formula.process.command import ProjectCommand
from django_formula.release import releases
from django_formula.site import sites as site_sites
from specimen import FACTS, configured
from world import CONFINED

OUTSIDE = {"namespaces": dict.fromkeys(("ipc", "mnt", "net", "user"), "1"), "filters": 1}

BUS = "/run/dbus/system_bus_socket"


def judged(options=None, **found):
    """What is said of a site on a host where a process has found this, and else that all is in force."""
    return trial.not_in_force(configured(**(options or {})), {**CONFINED, "outside": OUTSIDE, **found})


def test_no_warning_when_all_is_in_force():
    limits = {"MemoryMax": "512M", "CPUQuota": "150%", "TasksMax": 99, "IOWeight": 50, "LimitNOFILE": 99}
    assert judged({"resources": limits}) == []
    assert judged({"sandbox": {"IPAddressDeny": "any"}}, sends=False) == []
    assert judged({"resources": {"IOWeight": 50}}, controllers=["blkio"]) == []


@pytest.mark.parametrize(
    ("options", "found", "names", "way_out"),
    [
        (
            {},
            {"proc": ["rw"]},
            "ProtectProc, ProcSubset; /proc cannot be mounted with this option here; ",
            "; to accept this, set ProtectProc: default, ProcSubset: all in django:sites:blog:sandbox",
        ),
        ({"sandbox": {"ProtectProc": "default"}}, {"proc": ["rw"]}, "ProcSubset;", "set ProcSubset: all in "),
        ({}, {"writes_and_executes": True}, "MemoryDenyWriteExecute;", "set MemoryDenyWriteExecute: false in "),
        ({}, {"writable": ["/", "/srv"]}, "ProtectSystem; writable: /, /srv; ", "set ProtectSystem: false in "),
        (
            {"sandbox": {"ProtectSystem": "full"}},
            {"read_only": False},
            "ProtectSystem; writable: /usr; ",
            "set ProtectSystem: false in ",
        ),
        (
            {},
            {"writable": ["/run", "/run/lock"]},
            "ReadOnlyPaths; writable: /run, /run/lock; ",
            "set ReadOnlyPaths: '' in ",
        ),
        ({}, {"writable": ["/sys"]}, "ProtectKernelTunables; writable: /sys; ", "set ProtectKernelTunables: false in "),
        ({}, {"writable": ["/sys/fs/cgroup/cpu"]}, "ProtectControlGroups; writable: ", "docs"),
        (
            {},
            {"shm": False},
            "TemporaryFileSystem; shared with the host: /dev/shm; ",
            "set TemporaryFileSystem: '' in ",
        ),
        ({}, {"shared": ["/tmp"]}, "PrivateTmp; shared with the host: /tmp; ", "set PrivateTmp: false in "),
        ({}, {"devices": ["kvm", "sda"]}, "PrivateDevices; devices of the host are visible: kvm, sda; ", "docs"),
        ({}, {"reads": ["/home"]}, "ProtectHome; reads /home; ", "set ProtectHome: false in "),
        ({}, {"reaches": [BUS]}, f"InaccessiblePaths; connects to {BUS}; ", "set InaccessiblePaths: '' in "),
        ({}, {"others": True}, "ProtectProc; processes of other users are visible; ", "set ProtectProc: default in "),
        ({}, {"rights": [0, 1, 0]}, "CapabilityBoundingSet; capabilities of root are left; ", "'~' in "),
        ({}, {"gains_rights": True}, "NoNewPrivileges; a process may gain rights; ", "set NoNewPrivileges: false in "),
        ({}, {"reads": ["/etc/shadow"]}, "file modes; blog may read /etc/shadow; ", "(docs/reference/walls.md)"),
        (
            {},
            {"writes": ["/srv", "/run/lock"]},
            "file modes; blog may write to /srv; chmod",
            "(docs/reference/walls.md)",
        ),
        ({}, {"reaches": ["/run/lxd.socket"]}, "file modes; blog may connect to /run/lxd.socket; ", "docs"),
        ({}, {"filters": 1}, "LockPersonality, MemoryDenyWriteExecute, ProtectClock,", "SystemCallFilter: '' in "),
        (
            {},
            {"filters": 0, "seccomp": 0, "writes_and_executes": True},
            "LockPersonality,",
            "(docs/reference/sandbox.md)",
        ),
        (
            {"sandbox": {"IPAddressDeny": "any"}},
            {"sends": True},
            "IPAddressDeny; the kernel filters no packets",
            "blog",
        ),
        (
            {"resources": {"MemoryMax": "512M", "CPUQuota": "150%", "LimitNOFILE": 99}},
            {"controllers": ["cpu", "pids"]},
            "MemoryMax; systemd does not have this cgroup controller",
            "remove them from django:sites:blog:resources",
        ),
    ],
)
def test_directives_not_in_force_are_reported(options, found, names, way_out):
    line = judged(options, **found)[0]
    assert line.startswith(f"not in force on this host: {names}") and way_out in line, line


def test_restricted_container_is_reported():
    """Each directive is named once, by the first reason."""
    found = {"writable": ["/", "/run"], "reads": ["/home"], "reaches": [BUS], "writes": ["/dev/shm"], "shm": False}
    lines = judged(namespaces=OUTSIDE["namespaces"], proc=["rw"], **found)
    assert [line.partition(";")[0].count(",") + 1 for line in lines] == [14, 1, 1]
    assert "ProtectSystem" in lines[0] and "ProtectProc: default" in lines[0]
    assert [line.split("; ")[1] for line in lines[1:]] == [
        "systemd may not create user namespaces here",
        "systemd may not create IPC namespaces here",
    ]


def test_directives_switched_off_are_not_reported():
    off = {"ProtectProc": "default", "ProcSubset": "all", "PrivateUsers": False, "MemoryDenyWriteExecute": "no"}
    found = {"proc": ["rw"], "writes_and_executes": True, "namespaces": {**CONFINED["namespaces"], "user": "1"}}
    assert judged({"sandbox": off}, **found) == []


@pytest.mark.parametrize(
    ("options", "found"),
    [
        ({"ReadOnlyPaths": ""}, {"writable": ["/run"]}),
        ({"InaccessiblePaths": ""}, {"reaches": [BUS, "/run/docker.sock"]}),
        ({"TemporaryFileSystem": ""}, {"shm": False, "writes": ["/dev/shm"]}),
        ({"ProtectSystem": "full"}, {"writable": ["/", "/var"]}),
        ({"ReadWritePaths": ["-/run/mine"], "BindPaths": ["/a:/b", "/c"]}, {"writable": ["/run/mine", "/b", "/c/d"]}),
        ({"CapabilityBoundingSet": "~"}, {"rights": [0, 1, 0]}),
        ({"ProtectHome": "read-only"}, {"reads": ["/home"]}),
    ],
)
def test_paths_opened_by_the_pillar_are_not_reported(options, found):
    assert judged({"sandbox": options}, **found) == []


def test_reachable_socket_of_root_is_reported():
    lines = judged(namespaces=OUTSIDE["namespaces"], reaches=[BUS, "/run/docker.sock"])
    assert "file modes; blog may connect to /run/docker.sock; chmod" in lines[-1]


def test_paths_of_the_pillar_are_added_to_ours():
    site = configured(sandbox={"ReadOnlyPaths": ["/data"], "InaccessiblePaths": "/opt/x", "TemporaryFileSystem": ""})
    said = list(sandbox.flattened(sandbox.confinement(site)))
    assert {("ReadOnlyPaths", "/run"), ("ReadOnlyPaths", "/data"), ("InaccessiblePaths", "/opt/x")} <= {*said}
    assert said.index(("TemporaryFileSystem", "")) > said.index(("TemporaryFileSystem", "/dev/shm:mode=1777,size=50%"))


def test_trial_has_the_sandbox_of_the_site():
    site = configured(sandbox={"IPAddressDeny": "10.0.0.0/8", "PrivateTmp": False}, resources={"MemoryMax": "1G"})
    said = dict(trial.properties(site))
    wanted = {"User": "blog", "ProtectSystem": "strict", "PrivateTmp": "no", "MemoryMax": "1G", "IPAddressDeny": "any"}
    assert wanted.items() <= said.items() and said["IPAddressAllow"] == "" and "ReadWritePaths" not in said


ASKED = {"folders": ["/", "/nowhere"], "closed": ["/etc/passwd", "/nowhere"], "sockets": ["/run/x"], "shm": 0}


def look(asked=ASKED):
    program = [sys.executable, *trial.LOOK[1:]]
    return subprocess.run(program, capture_output=True, text=True, check=True, input=json.dumps(asked)).stdout


def test_trial_program_answers():
    """Here it is not confined, but for what confines the tests."""
    found = trial.parse_answer(look(), ASKED)
    assert found.keys() == CONFINED.keys() and found["sends"] is True
    assert found["namespaces"]["mnt"] == os.readlink("/proc/self/ns/mnt")
    assert found["reads"] == ["/etc/passwd"] and found["reaches"] == [] and "/nowhere" not in found["writes"]


def test_trial_leaves_nothing_and_finds_open_paths(tmp_path):
    (tmp_path / "folder").mkdir()
    (tmp_path / "empty").mkdir()
    path = str(tmp_path / "socket")
    with socket.socket(socket.AF_UNIX) as server:
        server.bind(path)
        server.listen()
        asked = {
            "folders": [str(tmp_path)],
            "closed": [str(tmp_path), f"{tmp_path}/empty"],
            "sockets": [path],
            "shm": 0,
        }
        found = json.loads(look(asked))
    assert (found["writes"], found["reads"], found["reaches"]) == ([str(tmp_path)], [str(tmp_path)], [path])
    assert sorted(one.name for one in tmp_path.iterdir()) == ["empty", "folder", "socket"]


@pytest.mark.parametrize(
    "answer",
    [
        "",
        "no JSON",
        "[]",
        "null",
        "{}",
        "[" * 100_000,
        "9" * 5000,
        '"' + "x" * 1_000_000 + '"',
        *(
            json.dumps({**CONFINED, name: value})
            for name in CONFINED
            for value in (None, "x", 1.5, {"a": 1}, [[]], ["x\ny"], ["x"] * 300, True if name == "filters" else "y")
            if (name, value) not in (("seccomp", True), ("proc", "x"))
        ),
        json.dumps({**CONFINED, "namespaces": {**CONFINED["namespaces"], "mnt": 1}}),
        json.dumps({**CONFINED, "proc": ["\u001b[2J"]}),
    ],
)
def test_answer_of_another_shape_is_refused(answer):
    with pytest.raises(ValueError, match=r"."):
        trial.parse_answer(answer, ASKED)


def test_answer_has_only_queried_paths():
    found = {**CONFINED, "reads": ["/etc/passwd", "/etc/other"], "more": 1}
    understood = trial.parse_answer(json.dumps(found), ASKED)
    assert understood["reads"] == ["/etc/passwd"] and "more" not in understood


def test_trial_covers_sites_of_other_users(world, monkeypatch):
    world.apply()
    shop, twin = configured(name="shop", user="shop"), configured(name="twin", user=world.site.user)
    sites = {"shop": shop, "twin": twin, world.site.name: world.site}

    def find(name):
        if name == "broken":
            raise DeploymentError("site.json is damaged")
        return sites[name]

    monkeypatch.setattr(site_sites, "registered", lambda: ["broken", *sites])
    monkeypatch.setattr(site_sites, "find", find)
    asked = trial.questions(world.site)
    assert f"{shop.root}/secrets" in asked["closed"] and f"{shop.root}/current/socket" in asked["sockets"]
    assert not [path for path in asked["closed"] if path.startswith(str(twin.root))]
    assert str(world.site.backups) in asked["closed"] and str(world.site.secrets) not in asked["closed"]


def test_comparison_values_are_read_from_proc():
    outside = trial.outside()
    assert outside["namespaces"]["user"].startswith("user:[") and outside["filters"] >= 0


# Releases


def tried(world):
    return [argv for argv in world.commands if argv[-1] == trial.LOOK[-1]]


def test_release_warns_of_what_is_not_in_force(world):
    world.sandbox["proc"] = ["rw"]
    world.apply()
    assert [warning.partition(";")[0] for warning in world.last.warnings] == [
        "not in force on this host: ProtectProc, ProcSubset"
    ]
    (argv,) = tried(world)
    assert "--property=ProtectSystem=strict" in argv and f"--property=User={world.site.user}" in argv
    assert world.apply() == {} and world.last.warnings == []


def test_trial_runs_once_for_each_boot_and_sandbox(world):
    world.apply()
    world.push("two")
    world.apply()
    assert len(tried(world)) == 1
    world.options = {"sandbox": {"PrivateTmp": False}}
    world.apply(test=True)
    assert len(tried(world)) == 1, "a dry run tries nothing"
    world.apply()
    assert len(tried(world)) == 2


@pytest.mark.parametrize(
    ("answer", "cause"),
    [(DeploymentError("exit 217"), "exit 217"), ("no JSON", "Expecting value"), ("[]", "other keys")],
)
def test_failed_trial_is_reported(world, monkeypatch, answer, cause):
    def run(argv, **_options):
        if isinstance(answer, DeploymentError):
            raise answer
        return answer

    monkeypatch.setattr(systemd.commands, "run", run)
    (warning,) = systemd.MANAGER.warnings(world.site)
    assert warning.startswith("the sandbox of blog could not be tried: ") and cause in warning
    assert not world.site.confinement.exists()


@pytest.fixture
def with_it(monkeypatch):
    """A host that may not mount, where a unit with a file system of its own does not start: those that were tried."""
    inner, tried = systemd.commands.run, []

    def run(argv, **options):
        if argv[0] == "systemd-run" and any("TemporaryFileSystem=/dev/shm" in one for one in argv):
            tried.append(argv)
            raise DeploymentError("x failed (exit 226)")
        return inner(argv, **options)

    monkeypatch.setattr(systemd.commands, "run", run)
    return tried


def test_stores_have_none_where_the_pillar_takes_that_of_the_site_off(world, with_it):
    """Their units have our sandbox, whatever the pillar has for the site."""
    world.options = {"sandbox": {"TemporaryFileSystem": "''"}}
    world.apply()
    assert len(with_it) == 1 and not any("TemporaryFileSystem" in warning for warning in world.last.warnings)
    assert sandbox.refused(world.site) == ["TemporaryFileSystem"]


def test_units_have_no_own_file_system_without_mounts(world, with_it, monkeypatch):
    """All other walls of mounts are left out without a word."""
    world.sandbox["namespaces"] = dict.fromkeys(("ipc", "mnt", "net", "user"), "1")
    world.apply()
    assert len(with_it) == 1 and "TemporaryFileSystem" in world.last.warnings[0]
    unit = (systemd.UNITS / f"django-blog-{world.live[:4]}.service").read_text()
    assert "TemporaryFileSystem" not in unit and "ReadOnlyPaths=/run\n" in unit
    world.site.confinement.unlink()
    release = world.site.releases / world.live
    systemd.MANAGER.run(ProjectCommand(world.site, release, FACTS, ["x"], doing="x", timeout=1.0))
    assert len(with_it) == 2, "after a boot it is tried anew before the first command"
    monkeypatch.setattr(transient, "PROGRAM", release / "release.json")
    for _time in range(2):
        systemd.MANAGER.run(ProjectCommand(world.site, release, FACTS, ["x"], doing="x", timeout=1.0))
    assert len(with_it) == 3, "and once after an upgrade of systemd"


def test_apply_writes_units_anew_that_a_new_systemd_does_not_start(world, with_it, monkeypatch):
    """The release stays, and its own files too; after the next boot nothing is pending."""
    world.apply()
    unit = systemd.UNITS / f"django-blog-{world.live[:4]}.service"
    former = world.live
    assert len(with_it) == 1
    text, line = unit.read_text(), "TemporaryFileSystem=/dev/shm:mode=1777,size=50%\n"
    for path in (unit, world.site.releases / former / "config" / unit.name):
        path.write_text(f"{text}{line}")  # as the former systemd let it be
    live = releases.linked(world.site, world.site.current)
    drift.note(live)
    monkeypatch.setattr(transient, "PROGRAM", live.path / "release.json")
    assert world.apply() == {"instance": {"instance": "django-blog-0001 started"}} and world.live == former
    assert unit.read_text() == text and len(with_it) == 2 and world.apply() == {}
    world.site.confinement.unlink()
    assert not drift.differing_paths(world.site, live) and world.apply() == {}


def test_value_of_the_pillar_stays_in_units():
    own = "TemporaryFileSystem=/dev/shm:mode=1777,size=50%\nTemporaryFileSystem=/srv/x\nPrivateTmp=yes\n"
    left = sandbox.without_lines(own, sandbox.MAY_BE_REFUSED)
    assert left == "TemporaryFileSystem=/srv/x\nPrivateTmp=yes\n"
