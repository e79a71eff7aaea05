"""Modules that run when something of them is used; each case is a process of its own."""

import json
import subprocess
import sys
from pathlib import Path

import django_host_lazy
import pytest

ROOT = Path(__file__).parents[2]
UTILS = Path(django_host_lazy.__file__).parent


def run(program: str) -> object:
    """Return what a program prints, as JSON, in a process that has the engine on its path and nothing of it loaded."""
    text = f"import json, sys\nsys.path[:0] = [{str(UTILS)!r}]\nimport django_host_lazy\n{program}"
    done = subprocess.run([sys.executable, "-c", text], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


LOADED = "print(json.dumps(django_host_lazy.loaded()))"


def test_import_runs_nothing_and_the_first_use_does():
    first, second = run(
        "import django_host_clock, django_backup\nimport django_backup\nfirst = django_host_lazy.loaded()\n"
        "django_host_clock.now()\nprint(json.dumps([first, django_host_lazy.loaded()]))"
    )
    assert first == ["django_host_lazy"]
    assert second == ["django_host_clock", "django_host_lazy"]


def test_name_that_is_imported_runs_its_module():
    assert "django_host_clock" in run(f"from django_host_clock import now\n{LOADED}")


def test_attribute_that_is_set_replaces_that_of_the_module():
    assert run("import django_host_clock\ndjango_host_clock.now = lambda: 7\nprint(django_host_clock.now())") == 7


def test_module_runs_once_for_threads_that_use_it_at_once(tmp_path):
    (tmp_path / "django_slow.py").write_text(
        "import time\nruns = __import__('builtins').runs\nruns.append(1)\ntime.sleep(0.3)\nvalue = 7\n"
    )
    program = (
        "import builtins, threading\nbuiltins.runs = []\nsys.path[:0] = [{0!r}]\n"
        "django_host_lazy._FOLDER = {0!r}\nimport django_slow\nseen = []\n"
        "threads = [threading.Thread(target=lambda: seen.append(django_slow.value)) for _ in range(8)]\n"
        "[one.start() for one in threads]; [one.join() for one in threads]\nprint(json.dumps([seen, builtins.runs]))"
    )
    assert run(program.format(str(tmp_path))) == [[7] * 8, [1]]


def test_module_that_fails_is_tried_again(tmp_path):
    (tmp_path / "django_broken.py").write_text("value = 1 / __import__('builtins').divisor\n")
    program = (
        "import builtins\nbuiltins.divisor = 0\nsys.path[:0] = [{0!r}]\ndjango_host_lazy._FOLDER = {0!r}\n"
        "import django_broken\ntry:\n    django_broken.value\nexcept ZeroDivisionError:\n    builtins.divisor = 1\n"
        "print(django_broken.value)"
    )
    assert run(program.format(str(tmp_path))) == 1


def test_process_that_cannot_read_the_engine_has_what_it_calls():
    """`ask` loads all that the function can reach; what it cannot is an error, and no other version of the engine."""
    loaded = run(
        "import django_project_code\nfinder = sys.meta_path[0]\n"
        "finder.run_reachable(['django_project_code'])\nfinder.seal()\n"
        "import django_backup\ntry:\n    django_backup.make\nexcept ImportError as error:\n"
        "    print(json.dumps([str(error), django_host_lazy.loaded()]))"
    )
    assert loaded[0] == "django_backup was not loaded before this process became another user"
    assert "django_project_code" in loaded[1]


#: What an apply and a verb of a site that uses nothing special never run.
UNUSED = (
    "backup",
    "balancer",
    "compose",
    "container_d",
    "master",
    "project",
    "push",
    "schedule",
    "server",
    "store_",
    "takeover_d",
    "tls",
    "virtualenv",
    "worker_",
)


@pytest.mark.parametrize(
    ("entrance", "most"),
    [("_states/django.py", 45), ("_modules/django.py", 12), ("_modules/django_fleet.py", 12)],
)
def test_entrances_run_few_modules(entrance, most):
    loaded = run(
        "import importlib.util\n"
        f"spec = importlib.util.spec_from_file_location('entered', {str(ROOT / entrance)!r})\n"
        f"spec.loader.exec_module(importlib.util.module_from_spec(spec))\n{LOADED}"
    )
    families = {name.removeprefix("django_") for name in loaded}
    assert [name for name in families if name.startswith(UNUSED)] == []
    assert len(loaded) <= most, loaded
