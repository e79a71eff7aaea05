"""What arguments of test/run make of it: tests run side by side, unless arguments name some."""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
#: Prints in place of a run how it would run; after xdist, and before pytest's own.
PLUGIN = """
def pytest_cmdline_main(config):
    option = config.option
    print("\\nWOULD", option.numprocesses or 0, option.dist, option.markexpr, option.verbose, option.maxfail or 0)
    return 0
"""
#: Runs pytest in one process for each case, since Salt's imports take most of a start.
CASES = f"""
import json, sys, types, pytest
plugin = types.ModuleType("would")
exec({PLUGIN!r}, plugin.__dict__)
for arguments in json.loads(sys.argv[1]):
    pytest.main([*arguments, "--side-by-side=loadfile"], plugins=[plugin])
"""
RUNS = {
    "": "6 loadfile",
    "--all": "6 loadfile",
    "-q": "6 loadfile",
    "-v": "6 loadfile",
    "-x": "6 loadfile",
    "-r A --tb short --maxfail 3": "6 loadfile",
    "--for proxy": "6 loadfile",
    "--part 3/64": "3 loadfile",
    "--ignore test/hosts": "6 loadfile",
    "-n 2": "2 loadfile",
    "-n 2 --dist worksteal": "2 worksteal",
    "-n 0": "0 no",
    "-s": "0 no",
    "--pdb": "0 no",
    "-k reboot": "0 no",
    "test/style": "0 no",
    "--all test/hosts/test_lab.py -q": "0 no",
    "test/style -q -n 2": "2 load",
}


def would(*argv: str, **environment: str) -> list[str]:
    environment = {name: text for name, text in os.environ.items() if not name.startswith("PYTEST_")} | environment
    done = subprocess.run(argv, cwd=ROOT, env=environment, check=True, capture_output=True, text=True)
    return [line.removeprefix("WOULD ") for line in done.stdout.splitlines() if line.startswith("WOULD ")]


def test_tests_run_side_by_side_unless_some_are_named():
    runs = would(sys.executable, "-c", CASES, json.dumps([arguments.split() for arguments in RUNS]))
    assert dict(zip(RUNS, [" ".join(run.split()[:2]) for run in runs], strict=True)) == RUNS


@pytest.mark.parametrize(
    ("arguments", "run"),
    [("--quick -q -x", "2 worksteal not slow -1 1"), ("--smoke", "6 loadfile smoke 0 0")],
)
def test_flags_of_pytest_go_with_those_of_run(tmp_path, arguments, run):
    (tmp_path / "would.py").write_text(PLUGIN)
    path = os.pathsep.join([str(tmp_path), os.environ.get("PYTHONPATH", "")])
    assert would("test/run", *arguments.split(), "-p", "would", PYTHONPATH=path) == [run]


def test_programs_of_root_are_found_after_su():
    """`su` keeps the PATH of the user; podman's network needs iptables or nft."""
    environment = {**os.environ, "PATH": "/usr/bin:/bin"}
    argv = ["test/run", "--exec", "printenv", "PATH"]
    done = subprocess.run(argv, cwd=ROOT, env=environment, check=True, capture_output=True, text=True)
    assert done.stdout.strip().endswith("/usr/bin:/bin:/usr/local/sbin:/usr/sbin:/sbin")


def git(*argv: str, folder: Path) -> str:
    author = ["-c", "user.name=Ada", "-c", "user.email=ada@example.org"]
    done = subprocess.run(["git", "-C", folder, *author, *argv], check=True, capture_output=True, text=True)
    return done.stdout.strip()


def test_part_of_a_commit_is_another_in_a_shallow_clone_too(tmp_path, monkeypatch):
    """Clones of CI mostly have one commit, which each would count as the first."""
    (tmp_path / "podman").symlink_to("/bin/true")
    monkeypatch.setenv("PATH", str(tmp_path), prepend=os.pathsep)
    origin = tmp_path / "origin"
    (origin / ".ci").mkdir(parents=True)
    (origin / "test").mkdir()
    shutil.copy(ROOT / ".ci/run", origin / ".ci/run")
    (origin / "test/run").write_text('#!/bin/sh\necho "$*" >>../ran\n')
    (origin / "test/run").chmod(0o755)
    git("init", "--quiet", folder=origin)
    git("add", ".", folder=origin)
    parts: dict[str, list[int]] = {"whole": [], "shallow": []}
    for number in range(6):
        git("commit", "--quiet", "--allow-empty", f"--message={number}", folder=origin)
        for kind, depth in {"whole": [], "shallow": ["--depth=1"]}.items():
            clone = tmp_path / kind / "clone"
            subprocess.run(["git", "clone", "--quiet", *depth, origin.as_uri(), clone], check=True)
            subprocess.run([clone / ".ci/run"], check=True)
            whole, part = (clone.parent / "ran").read_text().splitlines()
            assert whole == ""
            parts[kind].append(int(part.removeprefix("--part ").removesuffix("/64")))
            shutil.rmtree(clone.parent)
    assert parts["whole"] == [2, 3, 4, 5, 6, 7]
    assert len({*parts["shallow"]}) > 1 and all(1 <= part <= 64 for part in parts["shallow"])
