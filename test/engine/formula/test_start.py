"""The program that starts Django in a virtualenv (django_formula_start.py)."""

import datetime
import importlib.util
import json
import shutil
import sqlite3
import subprocess
import sys
from types import SimpleNamespace

import in_django
import pytest
from specimen import ROOT

PROGRAM = ROOT / "django/files/django_formula_start.py"
APPLICATION = PROGRAM.with_name("django_formula_application.py")


@pytest.mark.parametrize(
    ("wsgi", "cause", "missing"),
    [
        ("def application(): pass\n", "ModuleNotFoundError: No module named 'django.apps'", ""),
        ("", "RuntimeError: wsgi has no application", ""),
        ("import settings\n", "KeyError: 'X' (settings.py:2)", "X"),
        ("import os\nos.environ['Y']\n", "KeyError: 'Y' (wsgi.py:2)", "Y"),
        ("{}['Z']\n", "KeyError: 'Z' (wsgi.py:1)", ""),
        ("raise ValueError('Set the A_B environment variable')\n", None, "A_B"),
        ("raise ValueError('A_B not found. Declare it as envvar or define a default value.')\n", None, "A_B"),
        ("raise ValueError('Environment variable \"A_B\" not set')\n", None, "A_B"),
        ("raise ValueError('The environment variable A_B is required')\n", None, "A_B"),
        ("raise ValueError('A_B is wrong in this environment')\n", None, ""),
        ("def broken(:\n", "SyntaxError: invalid syntax (wsgi.py:1)", ""),
        ("raise SystemExit('not today')\n", "SystemExit: not today (wsgi.py:1)", ""),
        ("raise ValueError('x' * 500 + '\\n  y')\n", f"ValueError: {'x' * 400} (wsgi.py:1)", ""),
        (
            "try:\n open('/nowhere/tock.log')\nexcept OSError as e:\n raise ValueError('no handler') from e\n",
            "ValueError: no handler (wsgi.py:4), caused by FileNotFoundError: [Errno 2] No such file or directory: "
            "'/nowhere/tock.log' (wsgi.py:2)",
            "",
        ),
        (
            "def a():\n try:\n  {}['a']\n except KeyError:\n  {}['b']\n"
            "try:\n a()\nexcept KeyError:\n raise ValueError('c')\n",
            "ValueError: c (wsgi.py:9), caused by KeyError: 'a' (wsgi.py:3)",
            "",
        ),
        (
            "import logging.config, os, pathlib\nos.mkdir('pkg')\npathlib.Path('pkg/__init__.py').touch()\n"
            "pathlib.Path('pkg/logs.py').write_text('import nowhere')\n"
            "handlers = {'cloud': {'class': 'pkg.logs.Handler'}}\n"
            "logging.config.dictConfig({'version': 1, 'handlers': handlers, 'root': {'handlers': ['cloud']}})\n",
            "ValueError: Unable to configure handler 'cloud' (wsgi.py:6), caused by ModuleNotFoundError: No module "
            "named 'nowhere' (pkg/logs.py:1)",
            "",
        ),
        ("try:\n {}['a']\nexcept KeyError:\n raise ValueError('c') from None\n", "ValueError: c (wsgi.py:4)", ""),
        ("try:\n {}['a']\nexcept KeyError:\n raise ValueError('no a') \n", "ValueError: no a (wsgi.py:4)", ""),
        (
            "import os\ntry:\n os.environ['Y']\nexcept KeyError:\n raise ValueError('unset')\n",
            "ValueError: unset (wsgi.py:5), caused by KeyError: 'Y' (wsgi.py:3)",
            "Y",
        ),
        (
            "import sys, types\nconf = sys.modules['django.conf'] = types.ModuleType('conf')\n"
            "conf.settings = types.SimpleNamespace(DATABASES={1: {'ENGINE': 'x.sqlite3', 'NAME': '/data/db'}})\n"
            "raise ValueError('unable to open database file')\n",
            "ValueError: unable to open database file: /data/db (wsgi.py:4)",
            "",
        ),
        ("print('noise')\nimport nowhere\n", "ModuleNotFoundError: No module named 'nowhere' (wsgi.py:2)", ""),
        (
            "raise AssertionError('`nowhere` must be installed.')\n",
            "AssertionError: `nowhere` must be installed. (wsgi.py:1)",
            "",
        ),
        (
            "import os\nos.mkdir('old')\nopen('old/__init__.py', 'w').write('raise ImportError(1)')\n"
            "raise AssertionError('`old` must be installed.')\n",
            "AssertionError: `old` must be installed. (wsgi.py:4), caused by ImportError: 1 (old/__init__.py:1)",
            "",
        ),
    ],
)
def test_program_reports_why_a_project_does_not_start(tmp_path, wsgi, cause, missing):
    (tmp_path / "wsgi.py").write_text(wsgi)
    (tmp_path / "settings.py").write_text("import os\nos.environ['X']\n")
    (tmp_path / "config").mkdir()
    for path in (PROGRAM, APPLICATION):
        shutil.copy(path, tmp_path / "config")
    (tmp_path / "django").mkdir()
    (tmp_path / "django").joinpath("__init__.py").write_text("")
    request = json.dumps({"mode": "start", "application": "wsgi", "collect": False})
    argv = [sys.executable, f"config/{PROGRAM.name}"]
    environment = {"PYTHONPATH": str(tmp_path)}
    done = subprocess.run(
        argv, cwd=tmp_path, env=environment, input=request, capture_output=True, text=True, check=False
    )
    assert done.returncode == 1 and done.stdout == ""
    *_log, missing_line, cause_line = done.stderr.splitlines()
    assert missing_line == f"missing: {missing}" and (cause is None or cause_line == f"cause: {cause}")


def started(folder, program):
    """Run the program of a start in a folder with a project, and return how it has ended."""
    return subprocess.run(
        [sys.executable, "-uB", program],
        env={"PYTHONPATH": str(folder)},
        cwd=folder,
        input='{"mode": "start", "application": "wsgi", "collect": false}',
        capture_output=True,
        text=True,
        check=False,
    )


def test_import_that_a_library_has_hidden_is_the_last_in_the_output(tmp_path):
    (tmp_path / "old.py").write_text("raise ImportError('too new')\n")
    (tmp_path / "wsgi.py").write_text("assert 0, '`old` must be installed'\n")
    (tmp_path / "config").mkdir()
    for path in (PROGRAM, APPLICATION):
        shutil.copy(path, tmp_path / "config")
    done = started(tmp_path, f"config/{PROGRAM.name}")
    ended = [line for line in done.stderr.splitlines() if "Error: " in line and not line.startswith("cause:")]
    assert ended == ["AssertionError: `old` must be installed", "ImportError: too new"]


def test_exit_of_a_project_ends_with_what_it_printed(tmp_path):
    (tmp_path / "wsgi.py").write_text("print('DATA_DIR cannot be owned by root')\nraise SystemExit(9)\n")
    done = started(tmp_path, str(PROGRAM))
    assert done.stderr == "DATA_DIR cannot be owned by root\nmissing: \ncause: SystemExit: 9 (wsgi.py:2)\n"


def test_traceback_has_no_frames_of_the_formula(tmp_path):
    (tmp_path / "wsgi.py").write_text("raise ValueError('x')\n")
    for path in (PROGRAM, APPLICATION):
        shutil.copy(path, tmp_path)
    request = json.dumps({"mode": "start", "application": "wsgi", "collect": False})
    argv, environment = [sys.executable, PROGRAM.name], {"PYTHONPATH": str(tmp_path)}
    done = subprocess.run(
        argv, cwd=tmp_path, env=environment, input=request, capture_output=True, text=True, check=False
    )
    assert "django_formula_" not in done.stderr
    assert done.stderr.startswith("Traceback (most recent call last):\n") and "\nValueError: x\n" in done.stderr
    assert f'  File "{tmp_path}/wsgi.py", line 1, in <module>' in done.stderr


IMPORTS_MODELS_FIRST = """
import django.contrib.contenttypes.models
from django.core.asgi import get_asgi_application
application = get_asgi_application()
"""


def test_gunicorn_imports_the_application_as_other_servers_do(tmp_path):
    (tmp_path / "site").mkdir()
    (tmp_path / "site/shop_asgi.py").write_text(IMPORTS_MODELS_FIRST)
    (tmp_path / "site/live.py").write_text("INSTALLED_APPS = ['django.contrib.contenttypes']\nSECRET_KEY = 'a'\n")
    for path in (PROGRAM.with_name("django_formula_gunicorn.py"), APPLICATION):
        shutil.copy(path, tmp_path)
    (tmp_path / "gunicorn.json").write_text('{"module": "shop_asgi"}')
    program = "import django_formula_gunicorn as a; print(type(a.application).__name__)"
    environment = {"PYTHONPATH": f"{tmp_path}/site:{tmp_path}", "DJANGO_SETTINGS_MODULE": "live"}
    argv = [in_django.python("django"), "-B", "-c", program]
    assert subprocess.run(argv, capture_output=True, text=True, env=environment).stdout == "ASGIHandler\n"


def test_application_that_imports_models_before_django_is_set_up(tmp_path):
    """As runserver shows no fault in; anything else that is missing is reported."""
    (tmp_path / "asgi.py").write_text(IMPORTS_MODELS_FIRST)
    (tmp_path / "wrong.py").write_text(IMPORTS_MODELS_FIRST + "nothing\n")
    (tmp_path / "live.py").write_text("INSTALLED_APPS = ['django.contrib.contenttypes']\nSECRET_KEY = 'a'\n")
    program = "import django_formula_application as a; print(type(a.load('asgi')).__name__); a.load('wrong')"
    environment = {"PYTHONPATH": f"{tmp_path}:{PROGRAM.parent}", "DJANGO_SETTINGS_MODULE": "live"}
    argv = [in_django.python("django"), "-B", "-c", program]
    ended = subprocess.run(argv, capture_output=True, text=True, env=environment)
    assert ended.stdout == "ASGIHandler\n"
    assert ended.stderr.endswith("NameError: name 'nothing' is not defined\n")


@pytest.mark.parametrize(("assigned", "used"), [("live", "overlay"), ("other", "other")])
def test_application_that_assigns_its_settings(tmp_path, assigned, used):
    """The overlay stays in force over the settings that it begins with, and others are not replaced by it unseen."""
    (tmp_path / "wsgi.py").write_text(
        f"import os\nos.environ['DJANGO_SETTINGS_MODULE'] = '{assigned}'\nos.environ['OWN'] = '1'\n"
        "from django.core.wsgi import get_wsgi_application\napplication = get_wsgi_application()\n"
    )
    for name in ("overlay", "live", "other"):
        (tmp_path / f"{name}.py").write_text(f"INSTALLED_APPS = []\nSECRET_KEY = 'a'\nNAME = '{name}'\n")
    shutil.copy(APPLICATION, tmp_path)
    (tmp_path / "settings.json").write_text('{"settings_module": "live"}')
    program = (
        "import os, django_formula_application as a; a.load('wsgi'); os.environ['DJANGO_SETTINGS_MODULE'] = 'live'\n"
        "from django.conf import settings as s; print(s.NAME, os.environ['OWN'], os.environ['DJANGO_SETTINGS_MODULE'])"
    )
    environment = {"PYTHONPATH": str(tmp_path), "DJANGO_SETTINGS_MODULE": "overlay"}
    argv = [in_django.python("django"), "-B", "-c", program]
    ended = subprocess.run(argv, capture_output=True, text=True, env=environment)
    assert (ended.stdout, ended.stderr) == (f"{used} 1 live\n", "")


SETS_UP_LATE = """
def application(environ, start_response):
    from django.core.wsgi import get_wsgi_application
    return get_wsgi_application()(environ, start_response)
"""


def test_application_that_sets_django_up_at_the_first_request(tmp_path):
    (tmp_path / "wsgi.py").write_text(SETS_UP_LATE)
    (tmp_path / "live.py").write_text("INSTALLED_APPS = ['django.contrib.contenttypes']\nSECRET_KEY = 'a'\n")
    program = "import django_formula_start as s; s.import_application('wsgi')"
    environment = {"PYTHONPATH": f"{tmp_path}:{PROGRAM.parent}", "DJANGO_SETTINGS_MODULE": "live"}
    more = "import django.contrib.contenttypes.models as m; print(m.ContentType.__name__)"
    argv = [in_django.python("django"), "-B", "-c", f"{program}; {more}"]
    ended = subprocess.run(argv, capture_output=True, text=True, env=environment)
    assert (ended.stdout, ended.stderr) == ("ContentType\n", "")


def test_error_of_the_formula_itself_has_no_traceback(program, capsys):
    code = "import pathlib; pathlib.Path('/proc/zero.migrating').write_text('')"
    with pytest.raises(OSError) as failed:
        exec(compile(code, "/srv/config/django_formula_migrate.py", "exec"), {})
    error = failed.value.with_traceback(failed.value.__traceback__.tb_next)
    assert len(program.traceback.extract_tb(error.__traceback__)) > 1
    program.print_traceback(error)
    assert capsys.readouterr().err == (
        "FileNotFoundError: [Errno 2] No such file or directory: '/proc/zero.migrating'\n"
    )


def test_output_of_the_project_is_not_part_of_the_answer(tmp_path):
    noisy = '"start": lambda request: print("noise") or {"a": request["b"]},'
    (tmp_path / "program.py").write_text(PROGRAM.read_text().replace('"start": start,', noisy))
    argv = [sys.executable, "-u", "program.py"]  # as every command of a release runs
    done = subprocess.run(
        argv, cwd=tmp_path, input='{"mode": "start", "b": 2}', capture_output=True, text=True, check=False
    )
    assert (done.returncode, json.loads(done.stdout)) == (0, {"a": 2})
    assert "noise" in done.stderr


@pytest.fixture
def program():
    """Return the program as a module."""
    spec = importlib.util.spec_from_file_location("started", PROGRAM)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


class Message(SimpleNamespace):
    """A message of a check, which Django prints so."""

    def __str__(self):
        return f"?: ({self.id}) x\n\tHINT: y"


@pytest.mark.parametrize(
    ("found", "of_deployment", "mode", "expected"),
    [
        ([("a.E1", 40)], [], "error", "1 of Django's checks fail: (a.E1) x HINT: y"),
        ([("a.W1", 30), ("a.I1", 20)], [("b.W1", 30)], "error", ["a.W1: x", "b.W1: x"]),
        ([], [("b.E1", 40)], "error", ["b.E1: x"]),
        ([], [("b.E1", 40)], "deploy", "1 of Django's checks fail: (b.E1) x HINT: y"),
        ([("a.W1", 30)], [("b.W1", 30)], "deploy", "2 of Django's checks fail: (a.W1) x HINT: y; (b.W1) x HINT: y"),
        ([("quiet", 40)], [("security.W004", 30)], "deploy", []),
        (
            [(f"a.E{number}", 40) for number in range(1, 6)],
            [],
            "error",
            "5 of Django's checks fail: (a.E1) x HINT: y; (a.E2) x HINT: y; (a.E3) x HINT: y; also a.E4, a.E5",
        ),
    ],
)
def test_failed_checks_stop_a_release(program, monkeypatch, found, of_deployment, mode, expected):
    def messages(levels):
        return [
            Message(id=name, level=level, msg="x", is_silenced=lambda name=name: name == "quiet")
            for name, level in levels
        ]

    registry = SimpleNamespace(deployment_checks={lambda **_options: messages(of_deployment)})
    framework = SimpleNamespace(
        WARNING=30, ERROR=40, run_checks=lambda: messages(found), registry=SimpleNamespace(registry=registry)
    )
    monkeypatch.setitem(sys.modules, "django.core", SimpleNamespace(checks=framework))
    request = {"check": mode, "ignored_checks": ["security.W004"]}
    if isinstance(expected, list):
        assert program.checks(request) == expected
    else:
        with pytest.raises(program.CheckFailure) as error:
            program.checks(request)
        assert program.cause(error.value) == expected


def test_of_many_warnings_of_a_check_the_first_are_shown(program):
    found = [("api.W2", f"api.W2: view {number}") for number in range(200)]
    found += [
        ("api.W2", "api.W2: view 0"),
        *((f"b.W{number % 2}", f"b.W{number % 2}: {number}") for number in range(8)),
    ]
    assert program.shortened(found) == [
        *(f"api.W2: view {number}" for number in range(3)),
        "api.W2: 197 more; manage.py check --deploy lists them",
        *(f"b.W0: {number}" for number in range(0, 8, 2)),
        *(f"b.W1: {number}" for number in range(1, 8, 2)),
    ]


def test_sqlite_files_of_the_projects_own_settings(program, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert program.own_files() == {}
    databases = {
        "default": {"ENGINE": "django.db.backends.sqlite3", "NAME": tmp_path / "data/db.sqlite3"},
        "log": {"ENGINE": "django.contrib.gis.db.backends.spatialite", "NAME": "log.db"},
        "other": {"ENGINE": "django.db.backends.postgresql", "NAME": "blog"},
        "none": {},
    }
    overlay = SimpleNamespace(_project={"DATABASES": databases})
    monkeypatch.setitem(sys.modules, "django_formula_settings", overlay)
    assert program.own_files() == {"default": f"{tmp_path}/data/db.sqlite3", "log": f"{tmp_path}/log.db"}


@pytest.mark.parametrize(
    ("module", "filename", "expected"),
    [
        ("huey.storage", "{0}/tasks.sqlite3", "{0}/tasks.sqlite3"),
        ("huey.storage", 7, "{0}/db.sqlite3"),
        ("django.db.backends.sqlite3.base", "{0}/tasks.sqlite3", "{0}/db.sqlite3"),
    ],
)
def test_file_that_a_package_besides_django_cannot_open_is_named(
    program, tmp_path, monkeypatch, module, filename, expected
):
    class Storage:
        __module__ = module

        def connect(self):
            self.filename = filename.format(tmp_path) if isinstance(filename, str) else filename
            sqlite3.connect(tmp_path / "none/x")

    monkeypatch.setattr(program, "sqlite_files", lambda: [f"{tmp_path}/db.sqlite3"])
    with pytest.raises(sqlite3.OperationalError) as error:
        Storage().connect()
    assert program.reason(error.value) == f"unable to open database file: {expected.format(tmp_path)}"


@pytest.mark.parametrize(
    ("more", "expected"),
    [
        ({}, 1209600),
        ({"PASSWORD_RESET_TIMEOUT": 259200, "CSRF_COOKIE_AGE": 31449600, "LANGUAGE_COOKIE_AGE": None}, 1209600),
        ({"PASSWORD_RESET_TIMEOUT": 9e6}, 9e6),
        ({"PASSWORD_RESET_TIMEOUT_DAYS": 20}, 1728000),
        ({"SHOP_COOKIE_AGE": datetime.timedelta(days=30)}, 2592000),
        ({"ACCOUNT_SESSION_REMEMBER_ME_AGE": "a year"}, 1209600),
    ],
)
def test_longest_age_of_signed_values(program, more, expected):
    assert program.longest_age(SimpleNamespace(SESSION_COOKIE_AGE=1209600, **more)) == expected


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        ({"timeout": 20, "connect_timeout": "5"}, {"['timeout']": 20}),
        ({"options": "-c search_path=blog"}, {}),
        ({"options": "-c statement_timeout=90s"}, {"['options']: statement_timeout": 90}),
        ({"options": "-cstatement_timeout=1min --statement-timeout=2500"}, {"['options']: statement_timeout": 2.5}),
        ({"options": None}, {}),
    ],
)
def test_timeouts_of_databases(program, options, expected):
    found = dict(program.timeouts({"default": {"OPTIONS": options}}))
    assert found == {f"DATABASES['default']['OPTIONS']{name}": seconds for name, seconds in expected.items()}


@pytest.mark.parametrize(
    ("settings", "expected"),
    [
        ({}, (False, None, None)),
        (
            {"SECURE_SSL_REDIRECT": True, "MIDDLEWARE": ["a.B"], "DATA_UPLOAD_MAX_MEMORY_SIZE": 2621440},
            (False, None, None),
        ),
        (
            {
                "SECURE_SSL_REDIRECT": True,
                "SECURE_PROXY_SSL_HEADER": ("HTTP_X_SCHEME", "https"),
                "MIDDLEWARE": ["django.middleware.security.SecurityMiddleware"],
                "DATA_UPLOAD_MAX_MEMORY_SIZE": 1 << 30,
            },
            (True, "HTTP_X_SCHEME", 1 << 30),
        ),
    ],
)
def test_settings_of_https_and_upload_size(program, settings, expected):
    settings = SimpleNamespace(**settings)
    assert (*program.https(settings).values(), program.largest_body(settings)) == expected


@pytest.mark.parametrize(
    ("named", "environment", "found"),
    [
        ("own.settings", "own.settings", "own.settings"),
        ("overlay", "overlay", "overlay"),
        (["settings.py", "settings.toml"], "overlay", "overlay"),  # as dynaconf leaves it
        (["settings.py", "settings.toml"], "own.settings", "own.settings"),
    ],
)
def test_effective_settings_module(program, monkeypatch, named, environment, found):
    answer = _effective(program, monkeypatch, named, environment)
    assert (answer["settings_module"], answer["expected_settings_module"]) == (found, "overlay")


def test_setting_of_the_project_is_not_taken_for_the_settings_module(program, monkeypatch):
    monkeypatch.setitem(sys.modules, "overlay", SimpleNamespace(SETTINGS_MODULE="graph.local_settings"))
    answer = _effective(program, monkeypatch, "graph.local_settings", "overlay")
    assert answer["settings_module"] == "overlay"


def _effective(program, monkeypatch, named, environment):
    monkeypatch.setattr(program, "SETTINGS_MODULE", "overlay")
    monkeypatch.setenv("DJANGO_SETTINGS_MODULE", environment)
    monkeypatch.setitem(sys.modules, "django", SimpleNamespace(get_version=lambda: "5.2", VERSION=(5, 2)))
    plain = dict.fromkeys(("STATIC_URL", "STATIC_ROOT", "MEDIA_URL", "MEDIA_ROOT"), "") | {"SESSION_COOKIE_AGE": 60}
    settings = SimpleNamespace(SETTINGS_MODULE=named, DEBUG=False, ALLOWED_HOSTS=[], DATABASES={}, **plain)
    return program.effective(settings)


STORAGES = """
from django.contrib.staticfiles.storage import ManifestStaticFilesStorage
from django.core.files.storage import Storage

class Elsewhere(Storage):
    def _open(self, name, mode="rb"):
        raise FileNotFoundError(name)

class ManifestElsewhere(ManifestStaticFilesStorage):
    def __init__(self, *arguments, **options):
        super().__init__(*arguments, manifest_storage=Elsewhere(), **options)

class UploadsManifest(Elsewhere):
    manifest_name = "staticfiles.json"

class OtherName(ManifestStaticFilesStorage):
    manifest_name = "names.json"
"""
DJANGOS_OWN = "django.contrib.staticfiles.storage"


@pytest.mark.parametrize(
    ("storage", "expected"),
    [
        (f"{DJANGOS_OWN}.StaticFilesStorage", (None, False)),
        (f"{DJANGOS_OWN}.ManifestStaticFilesStorage", ("staticfiles.json", False)),
        ("storages_of_project.OtherName", ("names.json", False)),
        ("storages_of_project.Elsewhere", (None, True)),
        ("storages_of_project.UploadsManifest", ("staticfiles.json", True)),
        ("storages_of_project.ManifestElsewhere", ("staticfiles.json", True)),
    ],
)
def test_storage_of_static_files(tmp_path, storage, expected):
    (tmp_path / "storages_of_project.py").write_text(STORAGES)
    program = f"""
import importlib.util, json, sys
sys.path.insert(0, {str(tmp_path)!r})
from django.conf import settings
storages = {{"staticfiles": {{"BACKEND": {storage!r}}}}}
settings.configure(STATIC_URL="/static/", STATIC_ROOT={str(tmp_path)!r}, STORAGES=storages)
spec = importlib.util.spec_from_file_location("start", {str(PROGRAM)!r})
start = importlib.util.module_from_spec(spec)
spec.loader.exec_module(start)
print(json.dumps(start.static_storage()))
"""
    argv = [in_django.python("django"), "-B", "-c", program]
    answer = json.loads(subprocess.run(argv, capture_output=True, text=True, check=True).stdout)
    assert answer == {"class": storage, "manifest": expected[0], "elsewhere": expected[1]}


@pytest.mark.parametrize(
    ("folders", "expected"),
    [("[top / 'shop']", ["settings.py"]), ("[('app', str(top))]", ["app/shop/settings.py"]), ("[top / 'assets']", [])],
)
def test_code_among_static_files(tmp_path, folders, expected):
    """Modules that the project imports count; scripts for browsers do not."""
    for name in ("shop/settings.py", "assets/brython.py"):
        (tmp_path / name).parent.mkdir()
        (tmp_path / name).touch()
    program = f"""
import importlib.util, json, pathlib, sys
top = pathlib.Path({str(tmp_path)!r})
sys.path.insert(0, str(top))
sys.modules["odd"] = object()
import shop.settings
from django.conf import settings
settings.configure(STATICFILES_DIRS={folders})
spec = importlib.util.spec_from_file_location("start", {str(PROGRAM)!r})
start = importlib.util.module_from_spec(spec)
spec.loader.exec_module(start)
print(json.dumps(start.static_code(settings)))
"""
    argv = [in_django.python("django"), "-B", "-c", program]
    assert json.loads(subprocess.run(argv, capture_output=True, text=True, check=True).stdout) == expected


STATIC_AT_IMPORT = """
import json, os, sys
from django.conf import settings
from django.core.wsgi import get_wsgi_application
from django.templatetags.static import static
folder = os.path.dirname(__file__)
settings.configure(
    SECRET_KEY="x",
    ROOT_URLCONF=__name__,
    INSTALLED_APPS=["django.contrib.staticfiles"],
    STATIC_URL="/static/",
    STATIC_ROOT=f"{folder}/static",
    STATICFILES_DIRS=[f"{folder}/assets"],
    STORAGES={"staticfiles": {"BACKEND": "django.contrib.staticfiles.storage.ManifestStaticFilesStorage"}},
    DATABASES={},
)
urlpatterns = []
application = get_wsgi_application()
at_import = static("a.css")
"""


@pytest.mark.parametrize("collects", [True, False])
def test_project_that_asks_for_static_urls_at_import(tmp_path, collects):
    """Django refuses that without a manifest; the names have their hash again once the files are collected."""
    (tmp_path / "wsgi.py").write_text(STATIC_AT_IMPORT)
    (tmp_path / "assets").mkdir()
    (tmp_path / "assets/a.css").write_text("a {}")
    request = {"application": "wsgi", "collect": collects, "static_root": str(tmp_path / "static")}
    request |= {"migrate": {}, "write_ahead": False, "check": "off", "ignored_checks": []}
    program = f"""
import importlib.util, json, sys
sys.path[:0] = [{str(tmp_path)!r}, {str(PROGRAM.parent)!r}]
spec = importlib.util.spec_from_file_location("start", {str(PROGRAM)!r})
start = importlib.util.module_from_spec(spec)
spec.loader.exec_module(start)
answer = start.start({request!r})
import wsgi
print(json.dumps([answer.get("collected"), wsgi.at_import, wsgi.static("a.css")]))
"""
    argv = [in_django.python("django"), "-B", "-c", program]
    ended = subprocess.run(argv, capture_output=True, text=True, env={"DJANGO_SETTINGS_MODULE": "x"})
    if collects:
        hashed = next((tmp_path / "static").glob("a.*.css")).name
        assert json.loads(ended.stdout) == [3, "/static/a.css", f"/static/{hashed}"]
    else:
        assert ended.stderr.endswith("ValueError: Missing staticfiles manifest entry for 'a.css'\n")


@pytest.mark.parametrize(
    ("module", "configures", "why"),
    [
        ("live", False, "with overlay: false"),
        ("django_formula_settings", False, "the project changes it after its settings are imported:"),
        ("live", True, "the project calls settings.configure(), so that the overlay has no effect:"),
    ],
)
def test_static_root_that_is_another_one_is_refused_with_the_reason(tmp_path, module, configures, why):
    (tmp_path / f"{module}.py").write_text("STATIC_ROOT = '/own'\nSECRET_KEY = 'a'\n")
    configured = "settings.configure(STATIC_ROOT='/own')" if configures else ""
    program = (
        f"import django_formula_start as a\nfrom django.conf import settings\n{configured}\n"
        "try: a.collect(settings, '/static')\nexcept RuntimeError as error: print(error)"
    )
    environment = {"PYTHONPATH": f"{tmp_path}:{PROGRAM.parent}", "DJANGO_SETTINGS_MODULE": module}
    argv = [in_django.python("django"), "-B", "-c", program]
    ended = subprocess.run(argv, capture_output=True, text=True, env=environment)
    cure = "have it take STATIC_ROOT from a variable that environment sets to {from: static_root}"
    assert ended.stdout == f"STATIC_ROOT is '/own', not /static: {why} {cure}\n", ended.stderr
