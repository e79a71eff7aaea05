"""Linters and types; their rules are in pyproject.toml, .yamllint and .salt-lint."""

import fcntl
import os
import subprocess
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent.parent
#: Written by engine/pack.py: each of its lines is in another file.
PACKED = "_utils/django_engine.py"


def files(*patterns: str) -> list[str]:
    """The work tree's files that match: what git tracks, and what it would."""
    argv = ["git", "-c", f"safe.directory={ROOT}", "ls-files", "--cached", "--others", "--exclude-standard", "--"]
    listed = subprocess.run([*argv, *patterns], cwd=ROOT, check=True, capture_output=True, text=True).stdout
    return sorted(name for name in set(listed.splitlines()) if (ROOT / name).is_file())


def run(*argv: str, **environment: str) -> None:
    done = subprocess.run(argv, cwd=ROOT, env=os.environ | environment, capture_output=True, text=True, check=False)
    if done.returncode:
        pytest.fail(f"{argv[0]} exits {done.returncode}\n{done.stdout}{done.stderr}", pytrace=False)


def check_types(*arguments: str, **environment: str) -> None:
    """Run mypy, one at a time: all of them write to one cache."""
    with (ROOT / "pyproject.toml").open() as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        run("mypy", *arguments, **environment)


def test_python_is_clean():
    run("ruff", "check", "--output-format=concise")


def test_python_is_formatted():
    run("ruff", "format", "--check")


@pytest.mark.slow
def test_python_is_safe():
    run(
        "bandit",
        "--quiet",
        "-ll",
        *files(
            "_utils/*.py",
            ":(glob)django/*.py",
            "engine/*.py",
            "laptop/*.py",
            "_states/*.py",
            "_modules/*.py",
            "_runners/*.py",
            "_pillar/*.py",
            "bench/[!p]*.py",
            "quickstart.py",
        ),
    )


# One folder at a time: _modules and _states both have a django.py.
@pytest.mark.parametrize(
    "folder",
    [
        "engine",
        "_utils",
        ":(glob)django",
        "_states",
        "_modules",
        "_runners",
        "_pillar",
        "laptop",
        "test/hosts",
        "bench",
    ],
)
def test_types_hold(folder):
    written = [Path(name) for name in files(f"{folder}/*.py") if not name.startswith(("bench/peers/", PACKED))]
    modules = [str(path) for path in written if not path.name.startswith(("test_", "conftest"))]
    assert modules or folder in ("_states", "_modules", "_runners", "_pillar")
    if modules:
        oldest = ["--python-version=3.10"] if folder.startswith(("_", ":", "engine")) else []  # Salt's on Ubuntu 22.04
        check_types(*oldest, *modules, MYPYPATH="engine:_utils:laptop:test/hosts:test:bench")


def test_types_of_quickstart_hold():
    check_types("--python-version=3.10", "quickstart.py")


def test_yaml_is_clean():
    run("yamllint", "--strict", *files("*.yaml", "*.yml", ".yamllint", ".salt-lint"))


def test_states_are_clean():
    run("salt-lint", *files("*.sls", "*.jinja"))


def test_shell_scripts_parse():
    for script in ["quickstart", "test/run", ".ci/run", "bench/run"]:
        run("bash", "-n", script)
