"""Memory of processes and of the host, and releases where it is short."""

import os
import subprocess
import sys

import pytest
from django_formula.host import proc
from django_formula.host.commands import DeploymentError
from django_formula.release import health, instances
from django_formula.verbs import operations

EATER = "import subprocess, sys; eaten = bytearray(40 << 20); subprocess.run([sys.executable, '-c', sys.argv[1]])"
CHILD = "eaten = bytearray(30 << 20); print('eaten', flush=True); input()"
MEMINFO = "MemTotal: 2048000 kB\nMemAvailable: 1024000 kB\nHugePages_Total: 0\nSwapFree: 1024 kB\n"
HOST = 1025024 << 10


def test_memory_of_a_process_includes_its_descendants():
    argv = [sys.executable, "-c", EATER, CHILD]
    with subprocess.Popen(argv, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as process:
        assert process.stdout.readline() == b"eaten\n"
        assert 70 << 20 < proc.memory_of_tree(process.pid) < 150 << 20
        process.stdin.close()
        process.wait()
        assert proc.memory_of_tree(process.pid) == 0


@pytest.mark.parametrize(("limit", "total"), [("max", 2048000 << 10), ("9000", 9000), (None, 2048000 << 10)])
def test_total_memory_is_limited_by_the_container(tmp_path, monkeypatch, limit, total):
    monkeypatch.setattr(proc, "PROC", tmp_path)
    monkeypatch.setattr(proc, "CGROUP", tmp_path)
    (tmp_path / "meminfo").write_text(MEMINFO)
    if limit:
        (tmp_path / "memory.max").write_text(limit)
    assert proc.total_memory() == total
    assert proc.memory_limit("10%") == total // 10


@pytest.mark.parametrize(
    ("said", "limit"),
    [
        (None, None),
        ("infinity", None),
        (5000, 5000),
        ("3K", 3 << 10),
        ("512M", 512 << 20),
        ("2G", 2 << 30),
        ("1T", 1 << 40),
    ],
)
def test_limit_is_converted_to_bytes(said, limit):
    assert proc.memory_limit(said) == limit


def test_memory_without_ptrace_is_the_unshared_part(monkeypatch, tmp_path):
    """Without CAP_SYS_PTRACE."""
    monkeypatch.setattr(proc, "PROC", tmp_path)
    (tmp_path / "42").mkdir()
    (tmp_path / "42/stat").write_bytes(b"42 (\xff) S 1" + b" 0" * 20)
    (tmp_path / "42/status").write_bytes(b"Name:\t\xff\nRssAnon:\t    5000 kB\n")
    read = proc._read

    def refused(path, *limit):
        if path == "42/smaps_rollup":
            raise PermissionError(13, "Permission denied")
        return read(path, *limit)

    monkeypatch.setattr(proc, "_read", refused)
    assert proc.memory_of_tree(42) == 5000 << 10


def test_memory_of_this_process_is_measured():
    assert proc.memory_of_tree(os.getpid()) > 5 << 20


@pytest.mark.parametrize(
    ("files", "left"),
    [
        ({}, HOST),
        ({"memory.max": "max", "memory.current": "5", "memory.stat": "anon 1\ninactive_file 2"}, HOST),
        ({"memory.max": "9000", "memory.current": "1000", "memory.stat": "inactive_file 600"}, 8600),
        ({"memory.max": "1000", "memory.current": "1000", "memory.stat": "inactive_file 0"}, 0),
        (
            {
                "memory/memory.limit_in_bytes": "9000",
                "memory/memory.usage_in_bytes": "5000",
                "memory/memory.stat": "inactive_file 9\ntotal_inactive_file 1000",
            },
            5000,
        ),
        (
            {
                "memory/memory.limit_in_bytes": "9223372036854771712",
                "memory/memory.usage_in_bytes": "5000",
                "memory/memory.stat": "total_inactive_file 1000",
            },
            HOST,
        ),
    ],
)
def test_available_memory_is_limited_by_the_container(tmp_path, monkeypatch, files, left):
    monkeypatch.setattr(proc, "PROC", tmp_path)
    monkeypatch.setattr(proc, "CGROUP", tmp_path)
    (tmp_path / "meminfo").write_text(MEMINFO)
    (tmp_path / "memory").mkdir()
    for name, text in files.items():
        (tmp_path / name).write_text(f"{text}\n")
    assert proc.available_memory() == left


# A release where memory is short: see world.py


def test_release_is_refused_when_memory_is_short(world):
    world.takes, world.memory = 90 << 20, 10 << 20
    world.apply()
    world.push("two")
    first, commands = world.live, len(world.commands)
    with pytest.raises(
        DeploymentError, match=r"another instance .* needs 90 MB of memory, and 10 MB are available"
    ) as caught:
        world.apply()
    assert "django:sites:blog:releases:overlap: false" in caught.value.hint
    assert world.live == first and list(world.releases) == [first] and len(world.commands) == commands
    assert "source" in world.apply(test=True)
    world.memory = 90 << 20
    assert "live" in world.apply()
    world.check()


def test_instance_is_stopped_when_memory_runs_short(world, monkeypatch):
    world.apply()
    world.push("two")
    left = iter([1 << 30, 0])
    monkeypatch.setattr(proc, "available_memory", lambda: next(left))
    with pytest.raises(DeploymentError, match=r"^instance: another instance .* needs 90 MB of memory"):
        world.apply()
    assert world.live.startswith("0001-")
    world.check()


def test_rollback_is_refused_when_memory_is_short(world):
    world.apply()
    world.push("two")
    world.apply()
    world.memory = 0
    with pytest.raises(DeploymentError, match=r"^instance: another instance .* needs 90 MB of memory"):
        operations.rollback("blog")
    assert world.live.startswith("0002-")
    world.check()


@pytest.mark.parametrize("process", ["systemd", "supervisor"])
def test_old_instance_is_stopped_first_without_overlap(world, monkeypatch, process):
    world.process = process
    world.options, world.memory = {"releases": {"overlap": False}}, 0
    world.apply()
    world.push("two")
    running = []
    start = instances.start
    monkeypatch.setattr(
        instances, "start", lambda site, release: (running.append({*world.running}), start(site, release))
    )
    world.apply()
    assert running == [set()]
    warning = world.last.warnings[-1]
    assert warning.startswith("the site did not answer for 0.") and "releases:overlap" in warning
    world.check()
    operations.rollback("blog")
    assert running == [set(), set()] and world.live.startswith("0001-")
    world.check()


@pytest.mark.parametrize("process", ["systemd", "supervisor"])
@pytest.mark.parametrize("by_verb", [False, True])
def test_old_instance_is_started_again_when_the_new_one_fails(world, monkeypatch, by_verb, process):
    world.process = process
    world.options = {"releases": {"overlap": False}}
    world.apply()
    if by_verb:
        world.push("two")
        world.apply()
    live = world.live
    world.push("three")

    def check_health(site, release, explain=None):
        unit = "service" if process == "systemd" else "conf"
        assert f"django-blog-{live[:4]}.{unit}" in world.enabled, "at a loss of power it comes up again"
        raise DeploymentError("returned 500")

    monkeypatch.setattr(health, "check", check_health)
    with pytest.raises(DeploymentError, match="returned 500") as caught:
        operations.rollback("blog") if by_verb else world.apply()
    assert caught.value.hint == f"{live} runs again" and world.live == live
    world.check()


def test_failed_restart_of_the_old_instance_is_reported(world):
    world.options = {"releases": {"overlap": False}}
    world.apply()
    live = world.live
    world.push("two")
    world.fails["systemctl enable"] = DeploymentError("no memory")
    with pytest.raises(DeploymentError) as caught:
        world.apply()
    assert f"{live} does not start again: the application server of {live} does not start" in caught.value.hint
    del world.fails["systemctl enable"]
    assert world.running == set()
    operations.release("blog", *caught.value.hint.rpartition("django.release blog ")[2].split()[:1])
    assert world.live.endswith(live[4:]) and world.live != live
    world.check()


def test_old_instance_is_started_again_on_interrupt(world, monkeypatch):
    world.options = {"releases": {"overlap": False}}
    world.apply()
    live = world.live
    world.push("two")

    def interrupt(site, release, explain=None):
        raise KeyboardInterrupt

    monkeypatch.setattr(health, "check", interrupt)
    with pytest.raises(KeyboardInterrupt):
        world.apply()
    assert f"django-blog-{live[:4]}.service" in world.running and world.live == live
    monkeypatch.setattr(health, "check", lambda site, release, explain=None: None)
    assert "live" in world.apply()
    world.check()
