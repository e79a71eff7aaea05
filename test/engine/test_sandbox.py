import json
import os
import subprocess
import sys

import django_sandbox
import django_systemd
import pytest
from django_command import DeploymentError
from specimen import configured
from world import CONFINED

OUTSIDE = {"namespaces": dict.fromkeys(("ipc", "mnt", "net", "user"), "1"), "filters": 1}


def judged(options=None, **found):
    """What is said of a site on a host where a process has found this, and else that all is in force."""
    return django_sandbox.not_in_force(configured(**(options or {})), {**CONFINED, "outside": OUTSIDE, **found})


def test_nothing_is_said_where_all_is_in_force():
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
            "ProtectProc, ProcSubset; /proc cannot be mounted so here; ",
            "django:sites:blog:sandbox: {ProtectProc: default, ProcSubset: all} says that it is meant",
        ),
        ({"sandbox": {"ProtectProc": "default"}}, {"proc": ["rw"]}, "ProcSubset;", "sandbox: {ProcSubset: all} says"),
        ({}, {"writes_and_executes": True}, "MemoryDenyWriteExecute;", "sandbox: {MemoryDenyWriteExecute: false} says"),
        ({}, {"read_only": False}, "ProtectSystem; the file system stays writable", "{ProtectSystem: false}"),
        ({}, {"filters": 1}, "LockPersonality, MemoryDenyWriteExecute, ProtectClock,", "SystemCallFilter: ''}"),
        ({}, {"filters": 0, "seccomp": 0, "writes_and_executes": True}, "LockPersonality,", "(docs/sandbox.md)"),
        (
            {"sandbox": {"IPAddressDeny": "any"}},
            {"sends": True},
            "IPAddressDeny; the kernel filters no packets",
            "blog",
        ),
        (
            {"resources": {"MemoryMax": "512M", "CPUQuota": "150%", "LimitNOFILE": 99}},
            {"controllers": ["cpu", "pids"]},
            "MemoryMax; systemd has no such controller",
            "django:sites:blog:resources without them",
        ),
    ],
)
def test_what_is_not_in_force_is_named(options, found, names, way_out):
    line = judged(options, **found)[0]
    assert line.startswith(f"not in force on this host: {names}") and way_out in line, line


def test_a_host_that_lets_systemd_do_little():
    """Each directive is named once, by the first reason."""
    lines = judged(namespaces=OUTSIDE["namespaces"], proc=["rw"], read_only=False)
    assert [line.partition(";")[0].count(",") + 1 for line in lines] == [11, 1, 1]
    assert "ProtectSystem" in lines[0] and "ProtectProc: default" in lines[0]
    assert [line.split("; ")[1] for line in lines[1:]] == [
        "systemd may make no user namespace here",
        "systemd may make no IPC namespace here",
    ]


def test_what_is_switched_off_is_not_missed():
    off = {"ProtectProc": "default", "ProcSubset": "all", "PrivateUsers": False, "MemoryDenyWriteExecute": "no"}
    found = {"proc": ["rw"], "writes_and_executes": True, "namespaces": {**CONFINED["namespaces"], "user": "1"}}
    assert judged({"sandbox": off}, **found) == []


def test_a_trial_has_the_sandbox_of_the_site():
    site = configured(sandbox={"IPAddressDeny": "10.0.0.0/8", "PrivateTmp": False}, resources={"MemoryMax": "1G"})
    said = dict(django_sandbox.trial(site))
    wanted = {"User": "blog", "ProtectSystem": "strict", "PrivateTmp": "no", "MemoryMax": "1G", "IPAddressDeny": "any"}
    assert wanted.items() <= said.items() and said["IPAddressAllow"] == "" and "ReadWritePaths" not in said


def test_what_looks_at_itself():
    """Here it is not confined, but for what confines the tests."""
    program = [sys.executable, *django_sandbox.LOOK[1:]]
    found = json.loads(subprocess.run(program, capture_output=True, text=True, check=True).stdout)
    assert found.keys() == CONFINED.keys() and found["sends"] is True
    assert found["namespaces"]["mnt"] == os.readlink("/proc/self/ns/mnt")


def test_what_it_is_compared_with():
    outside = django_sandbox.outside()
    assert outside["namespaces"]["user"].startswith("user:[") and outside["filters"] >= 0


# Releases


def tried(world):
    return [argv for argv in world.commands if argv[-1] == django_sandbox.LOOK[-1]]


def test_a_release_says_what_is_not_in_force(world):
    world.sandbox["proc"] = ["rw"]
    world.apply()
    assert [warning.partition(";")[0] for warning in world.last.warnings] == [
        "not in force on this host: ProtectProc, ProcSubset"
    ]
    (argv,) = tried(world)
    assert "--property=ProtectSystem=strict" in argv and f"--property=User={world.site.user}" in argv
    assert world.apply() == {} and world.last.warnings == []


def test_it_is_tried_once_for_each_boot_and_sandbox(world):
    world.apply()
    world.push("two")
    world.apply()
    assert len(tried(world)) == 1
    world.options = {"sandbox": {"PrivateTmp": False}}
    world.apply(test=True)
    assert len(tried(world)) == 1, "a dry run tries nothing"
    world.apply()
    assert len(tried(world)) == 2


@pytest.mark.parametrize("answer", [DeploymentError("exit 217"), None])
def test_a_trial_that_fails_says_nothing(world, monkeypatch, answer):
    def run(argv, **_options):
        if answer:
            raise answer
        return "no JSON"

    monkeypatch.setattr(django_systemd.django_command, "run", run)
    assert django_systemd.warnings(world.site) == []
