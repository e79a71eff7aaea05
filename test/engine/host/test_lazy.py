"""Modules that run when something of them is used; each case is a process of its own."""

import json
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from django_formula.host import archive, lazy
from specimen import configured
from trees import write_tree

ROOT = Path(__file__).parents[3]
ENGINE = Path(lazy.__file__).parents[2]


def run(program: str, engine: Path = ENGINE) -> object:
    """Return what a program prints, as JSON, in a process that has the engine on its path and nothing of it loaded."""
    folders = [str(engine), str(ROOT / "_utils")]
    text = f"import json, sys\nsys.path[:0] = {folders!r}\nfrom django_formula.host import lazy\n{program}"
    done = subprocess.run([sys.executable, "-c", text], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


LOADED = "print(json.dumps(lazy.loaded()))"


def test_import_runs_nothing_and_the_first_use_does():
    first, second = run(
        "from django_formula.host import clock\nfrom django_formula.backup import backups\n"
        "from django_formula.backup import backups\nfirst = lazy.loaded()\n"
        "clock.now()\nprint(json.dumps([first, lazy.loaded()]))"
    )
    assert first == ["django_formula.host.lazy"]
    assert second == ["django_formula.host.clock", "django_formula.host.lazy"]


def test_name_that_is_imported_runs_its_module():
    assert "django_formula.host.clock" in run(f"from django_formula.host.clock import now\n{LOADED}")


def test_attribute_that_is_set_replaces_that_of_the_module():
    assert run("from django_formula.host import clock\nclock.now = lambda: 7\nprint(clock.now())") == 7


def test_module_runs_once_for_threads_that_use_it_at_once(tmp_path):
    (tmp_path / "slow.py").write_text(
        "import time\nruns = __import__('builtins').runs\nruns.append(1)\ntime.sleep(0.3)\nvalue = 7\n"
    )
    program = (
        "import builtins, threading\nbuiltins.runs = []\nsys.modules['django_formula.host'].__path__.append({0!r})\n"
        "lazy._FOLDER = {0!r}\nfrom django_formula.host import slow\nseen = []\n"
        "threads = [threading.Thread(target=lambda: seen.append(slow.value)) for _ in range(8)]\n"
        "[one.start() for one in threads]; [one.join() for one in threads]\nprint(json.dumps([seen, builtins.runs]))"
    )
    assert run(program.format(str(tmp_path))) == [[7] * 8, [1]]


def test_module_that_fails_is_tried_again(tmp_path):
    (tmp_path / "broken.py").write_text("value = 1 / __import__('builtins').divisor\n")
    program = (
        "import builtins\nbuiltins.divisor = 0\nsys.modules['django_formula.host'].__path__.append({0!r})\n"
        "lazy._FOLDER = {0!r}\nfrom django_formula.host import broken\n"
        "try:\n    broken.value\nexcept ZeroDivisionError:\n    builtins.divisor = 1\nprint(broken.value)"
    )
    assert run(program.format(str(tmp_path))) == 1


def test_process_that_cannot_read_the_engine_has_what_it_calls():
    """`ask` loads all that the function can reach; what it cannot is an error, and no other version of the engine."""
    loaded = run(
        "from django_formula.inspect import code\nfinder = sys.meta_path[0]\n"
        "finder.run_reachable(['django_formula.inspect.code'])\nfinder.seal()\n"
        "from django_formula.backup import backups\ntry:\n    backups.make\nexcept ImportError as error:\n"
        "    print(json.dumps([str(error), lazy.loaded()]))"
    )
    assert loaded[0] == "django_formula.backup.backups was not loaded before this process became another user"
    assert "django_formula.inspect.code" in loaded[1]


#: A project of which every part of an inspection has something to tell.
PROJECT = {
    "manage.py": "import os\nos.environ.setdefault('DJANGO_SETTINGS_MODULE', 'shop.settings')\n",
    "shop/__init__.py": "",
    "shop/wsgi.py": "from django.core.wsgi import get_wsgi_application\napplication = get_wsgi_application()\n",
    "shop/settings.py": "import os\nSECRET_KEY = os.environ['SECRET_KEY']\nROOT_URLCONF = 'shop.urls'\n"
    "INSTALLED_APPS = ['rest_framework', 'whitenoise']\n",
    "shop/urls.py": "import bs4\nfrom django.urls import path\nurlpatterns = [path('', bs4.view)]\n",
    "requirements.txt": "django==4.2\npsycopg2==2.9.9\n",
    "package.json": '{"scripts": {"build": "vite build"}}',
}
FACTS = {"folder": ".", "python_path": [], "settings_module": "shop.settings", "application": "shop.wsgi"}


@pytest.mark.parametrize(
    ("module", "call", "expected"),
    [
        ("inspect.inspection", "_found('/x/shop', 'HEAD', True, tree, '', '3.13.1')", "beautifulsoup4"),
        ("inspect.inspection", "_keys(tree, 'a.org')", "beautifulsoup4"),
        ("inspect.advice", f"_found(tree, {FACTS}, 'a.org')", "beautifulsoup4"),
        ("inspect.advice", f"_required(tree, {FACTS}, {{}})", "SECRET_KEY"),
        ("inspect.advice", f"_absent(tree, {FACTS}, ['django'])", "rest_framework"),
        ("inspect.advice", f"_choosing(tree, {FACTS})", ""),
        ("inspect.advice", f"_page(tree, {FACTS}, '/')", ""),
        ("inspect.project", "_find(site, tree, 'wsgi')", "shop.wsgi"),
        ("compose.project", "_write(tree, 'shop', {})", "compose.production.yml"),
        ("virtualenv.requirements", "_read(site, tree, '.')", "psycopg2"),
    ],
)
def test_what_runs_as_another_user_reads_nothing_of_the_engine(tmp_path, module, call, expected):
    """Salt's cache, where the engine is on a host, is root's alone: what is read too late is lost."""
    engine, tree = tmp_path / "engine", write_tree(tmp_path / "shop", PROJECT)
    shutil.copytree(ENGINE, engine, ignore=shutil.ignore_patterns("__pycache__"))
    program = (
        f"import pathlib, shutil\nfrom django_formula.{module.replace('.', ' import ')} as called\n"
        "from django_formula.site.sites import Site\n"
        f"site, tree = Site({configured().config!r}, {{'nginx': {{'group': 'x'}}}}), pathlib.Path({str(tree)!r})\n"
        f"finder = sys.meta_path[0]\nfinder.run_reachable(['django_formula.{module}'])\nfinder.seal()\n"
        f"shutil.rmtree({str(engine)!r})\nprint(json.dumps(str(called.{call})))"
    )
    answer = run(program, engine)
    assert "not completely inspected" not in str(answer) and expected in str(answer), answer


#: What an apply and a verb of a site that uses nothing special never run.
UNUSED = (
    "backup.",
    "balancer.",
    "compose.",
    "container.d",
    "database.p",
    "database.s",
    "fleet.",
    "inspect.",
    "project.",
    "push.",
    "schedule.",
    "server.",
    "store.c",
    "takeover.",
    "tls.",
    "virtualenv.",
    "worker.",
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
    names = {name.removeprefix("django_formula.") for name in loaded}
    assert [name for name in names if name.startswith(UNUSED)] == []
    assert len(loaded) <= most, loaded


def test_look_of_the_watch_runs_neither_senders_nor_the_doctor(tmp_path):
    config = {"channels": {}, "heartbeat": False, "quiet": [], "disk": 0, "queue": 100, "every": 60}
    names, has_urllib = run(
        "import pathlib\nfrom django_formula.site import sites\nfrom django_formula.watch import spool, watch\n"
        f"spool.STATE = sites.REGISTRY = pathlib.Path({str(tmp_path)!r})\nspool.config = lambda: {config!r}\n"
        "watch.main('look')\nprint(json.dumps([lazy.loaded(), 'urllib.request' in sys.modules]))"
    )
    unused = ("watch.send", "doctor.", "deploy.", "metrics.serve", "git_server.")
    assert [name for name in names if name.removeprefix("django_formula.").startswith(unused)] == []
    assert not has_urllib and (tmp_path / "state.json").exists()


def test_module_of_an_archive_is_read_once_when_it_runs(tmp_path):
    program = tmp_path / "watch.pyz"
    program.write_bytes(archive.packed("django_formula.watch.watch"))
    unread, read, place = run(
        "import zipimport\nreal, read = zipimport._get_data, []\n"
        "zipimport._get_data = lambda program, entry: read.append(entry[0][-20:]) or real(program, entry)\n"
        "from django_formula.host import commands\nbefore = [*read]\n"
        "from django_formula.host import file, units\nunread = read == before\nunits.control\n"
        "print(json.dumps([unread, sum(one.endswith('host/units.py') for one in read), units.__file__]))",
        program,
    )
    assert (unread, read, place) == (True, 1, f"{program}/django_formula/host/units.py")
