"""Which variables settings need, observed with a real Django in each of the ways that projects read them."""

import json
import subprocess
import textwrap
from typing import Any

import in_django
import pytest
from django_formula.observe import observation
from thinned import full

#: A reader as libraries have it: found in site-packages, with a default that is not None, and a type.
LIBRARY = """
import os
class Undefined: pass
class Config:
    def __call__(self, name, default=Undefined, cast=str):
        if name in os.environ:
            return cast(os.environ[name])
        if default is Undefined:
            raise ValueError(f"{name} not found. Declare it as envvar or define a default value.")
        return default
    def bool(self, name, default=Undefined):
        return self(name, default, lambda text: {"true": True, "false": False}[text.lower()])
config = Config()
class NoValue:
    def __repr__(self):
        return "<NoValue>"
def entries(name, default=Undefined):
    return config(name, default, lambda text: text).split(",")
def known(name, default=NoValue()):
    return os.environ[name] if name in os.environ else "Bern"
"""


def observe(
    tree,
    settings: str,
    given: dict[str, str] | None = None,
    everything: bool = False,
    over: dict[str, Any] | None = None,
    **files: str,
) -> dict[str, Any]:
    library = tree / "elsewhere/site-packages"
    library.mkdir(parents=True)
    (library / "reader.py").write_text(LIBRARY)
    source = tree / "source"
    texts = {"settings": f"import os\n{textwrap.dedent(settings)}", "urls": "urlpatterns = []\n", "wsgi": "", **files}
    for name, text in texts.items():
        path = source / f"{name.replace('__', '/')}.py"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(textwrap.dedent(text))
    request = {
        "root": str(source),
        "path": [str(source)],
        "module": "settings",
        "application": "wsgi",
        "given": given or {},
        "settings": over or {},
        "seconds": 30,
        "all": everything,
    }
    done = subprocess.run(
        [in_django.python("django"), "-B", "-c", observation.READ],
        input=observation.stdin(request),
        env={"PATH": "/usr/bin", "PYTHONPATH": str(library)},
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert done.returncode == 0, done.stderr
    answer: dict[str, Any] = json.loads(done.stdout)
    return answer


def needed(answer: dict[str, Any]) -> dict[str, Any]:
    return {one["name"]: one["feeds"] for one in answer["variables"]}


#: Raises an exception that has no text.
UNPRINTABLE = "class Odd(Exception):\n    def __str__(self):\n        raise ValueError\nraise Odd\n"
#: Writes an answer of its own to all that is open.
FORGED = """
import contextlib
for number in range(3, 50):
    with contextlib.suppress(OSError):
        os.write(number, b"{}")
"""
URL = """
from urllib.parse import urlsplit
def parsed(text):
    url = urlsplit(text)
    if url.scheme not in ("postgres", "sqlite"):
        raise ValueError(f"no database has the scheme {url.scheme!r}")
    part = {"USER": url.username, "PASSWORD": url.password, "HOST": url.hostname, "PORT": url.port}
    return {"ENGINE": "django.db.backends.sqlite3", "NAME": url.path[1:], **part}
"""


@pytest.mark.parametrize(
    ("settings", "variables"),
    [
        ("SECRET_KEY = os.environ['KEY']\n", {"KEY": {"SECRET_KEY": "whole"}}),
        full("SECRET_KEY = os.getenv('KEY')\nassert SECRET_KEY, 'no key'\n", {"KEY": {"SECRET_KEY": "whole"}}),
        ("SECRET_KEY = os.environ.get('KEY', 'a')\nTOKEN = os.environ.get('TOKEN')\n", {}),
        full("A = os.environ['A_B']\nC = int(os.environ['C'])\n", {"A_B": {"A": "whole"}, "C": {"C": "whole"}}),
        (
            "from reader import config\nSITE_KEY = config('A')\nB = config('B', default='')\n",
            {"A": {"SITE_KEY": "whole"}},
        ),
        full(
            "from reader import config\nUSE_IT = config.bool('USE_IT')\nN = config('N', cast=int)\n",
            {"USE_IT": {}, "N": {"N": "whole"}},
        ),
        (
            "ALLOWED_HOSTS = os.environ['HOSTS'].split(',')\n",
            {"HOSTS": {"ALLOWED_HOSTS": "element"}},
        ),
        (
            f"{URL}\nDATABASES = {{'default': parsed(os.environ['DATABASE_URL'])}}\n",
            {
                "DATABASE_URL": {
                    "DATABASES:default:NAME": "part",
                    "DATABASES:default:USER": "part",
                    "DATABASES:default:PASSWORD": "part",
                    "DATABASES:default:HOST": "part",
                    "DATABASES:default:PORT": "part",
                }
            },
        ),
        (
            "from reader import config, entries\nSECRET_KEY = config('KEY')\nON = config.bool('ON', default=False)\n"
            "ALLOWED_HOSTS = entries('HOSTS', default=[])\n",
            {"KEY": {"SECRET_KEY": "whole"}, "HOSTS": {"ALLOWED_HOSTS": "element"}},
        ),
        full("N = int(os.environ.get('N', ''))\n", {"N": {"N": "whole"}}),
        (
            "KEY, SECRET = os.environ.get('KEY'), os.environ.get('SECRET')\n"
            "if not (KEY and SECRET):\n    raise RuntimeError('set KEY and SECRET')\n",
            {"KEY": {"KEY": "whole"}, "SECRET": {"SECRET": "whole"}},
        ),
        full(
            "def taken(name):\n    text = os.environ.get(name)\n    if text:\n        return text\n"
            "    raise RuntimeError('not complete')\nB, C, A = taken('B'), taken('C'), taken('A')\n",
            {"B": {"B": "whole"}, "C": {"C": "whole"}, "A": {"A": "whole"}},
        ),
        full(
            "from urllib.parse import urlsplit\nURL = urlsplit(os.environ['STORE'])\nSECRET_KEY = os.environ['KEY']\n"
            "KINDS = {'postgres': 'postgresql'}" + 20 * "\n" + "ENGINE = 'django.db.backends.' + KINDS[URL.scheme]\n"
            "DATABASES = {'default': {'ENGINE': ENGINE.replace('postgresql', 'sqlite3'), 'HOST': URL.hostname}}\n",
            {"KEY": {"SECRET_KEY": "whole"}, "STORE": {"URL": "element", "DATABASES:default:HOST": "part"}},
        ),
        full("try:\n    A = os.environ['A']\nexcept KeyError:\n    A = ''\n", {}),
        full("import sys\nif 'A_B' not in os.environ:\n    sys.exit('A_B is missing')\n", {"A_B": {}}),
        ("from elsewhere import nothing\n", {}),
    ],
)
def test_variables_that_settings_need(tmp_path, settings, variables):
    answer = observe(tmp_path, f"ROOT_URLCONF = 'urls'\n{settings}")
    assert needed(answer) == variables
    assert all(one["place"].startswith("settings.py:") for one in answer["variables"])


def test_all_stages_are_asked(tmp_path):
    """An application's ready(), a check and the module that serves need variables too."""
    answer = observe(
        tmp_path,
        "INSTALLED_APPS = ['shop']\nROOT_URLCONF = 'urls'\nKEY = os.environ['KEY']\n",
        shop__apps="""
            import os
            from django.apps import AppConfig
            from django.core import checks
            from django.core.exceptions import ImproperlyConfigured

            class Shop(AppConfig):
                name = "shop"
                def ready(self):
                    if not os.environ.get("UAA_CLIENT"):
                        raise ImproperlyConfigured("UAA_CLIENT must be defined")
                    checks.register(lambda **_: [] if os.environ["OF_CHECK"] else [])
        """,
        shop____init__="",
        wsgi="import os\nTOKEN = os.environ['OF_SERVER']\n",
    )
    assert answer["stage"] == "done" and answer["error"] == ""
    assert [*needed(answer)] == ["KEY", "UAA_CLIENT", "OF_CHECK", "OF_SERVER"]
    assert answer["variables"][1]["place"].startswith("shop/apps.py:")
    assert answer["attempts"] == 5 + 4


def test_what_is_given_is_not_told(tmp_path):
    settings = "A = int(os.environ['A'])\nB = os.environ['B']\nROOT_URLCONF = 'urls'\n"
    answer = observe(tmp_path, settings, given={"A": "x" * 50})
    assert [*needed(answer)] == ["B"] and answer["stage"] == "done"


def test_a_variable_near_the_failure_is_tried_and_taken_away_again(tmp_path):
    settings = "OTHER = os.environ.get('OTHER')\nVALUE = os.environ.get('VALUE')\nSHOWN = VALUE.upper()\n"
    assert [*needed(observe(tmp_path, f"{settings}ROOT_URLCONF = 'urls'\n"))] == ["VALUE"]
    wrong = "VALUE = os.environ.get('VALUE')\nSHOWN = {}['a']\nROOT_URLCONF = 'urls'\n"
    assert needed(observe(tmp_path / "wrong", wrong)) == {}


@pytest.mark.parametrize(
    ("settings", "error"),
    [
        ("import os, signal\nos.kill(os.getppid(), 0)\nos.kill(os.getpid(), signal.SIGKILL)\n", "Ended: no answer"),
        full("print('x' * 10_000_000)\nraise ValueError('loud')\n", "ValueError: loud"),
        ("A = 'x' * 100_000_000\nraise ValueError('large')\n", "ValueError: large"),
        (
            FORGED,
            "Ended",
        ),
        full("raise ValueError('\\ud800\\x1b[31m' + 'x' * 5000)\n", "ValueError: "),
        full(UNPRINTABLE, "Odd: <exception str() failed>"),
        ("import sys\nprint('declare it in local.py')\nsys.exit(1)\n", "SystemExit: declare it in local.py"),
        ("import sys\nprint('bad', file=sys.stderr)\nraise SystemExit('no key')\n", "SystemExit: no key"),
    ],
)
def test_hostile_settings_end_nothing_else(tmp_path, settings, error):
    answer = observe(tmp_path, settings)
    assert answer["error"].startswith(error) and answer["variables"] == [] and len(answer["error"]) <= 300


def test_each_variable_that_is_asked_for_has_the_settings_that_it_is_in(tmp_path):
    answer = observe(
        tmp_path,
        """
        from reader import config, known
        SECRET_KEY = os.environ["KEY"]
        CITY = known("CITY")
        ROWS_IN = os.environ.get("ROWS_IN", os.path.join(os.path.dirname(os.path.abspath(__file__)), "rows"))
        REGION = os.environ.get("REGION", "north")
        ROWS = config("ROWS", default=20, cast=int)
        USE_CACHE = config.bool("USE_CACHE", default=False)
        CACHES = {"default": {"BACKEND": "django.core.cache.backends.locmem.LocMemCache"}}
        if USE_CACHE:
            CACHES = {"default": {"BACKEND": "django.core.cache.backends.db.DatabaseCache", "LOCATION": "cached"}}
            TABLE = os.environ.get("TABLE")
        INSTALLED_APPS = ["shop"]
        LOGGING = {"version": 1, "handlers": {"file": {"class": "logging.NullHandler", "filename": "x.log"}}}
        LOGGING["handlers"]["file"].pop("class")
        LOGGING_CONFIG = None
        DATABASES = {}
        if os.environ.get("PG_NAME") and os.environ.get("PG_HOST"):
            part = {"NAME": os.environ["PG_NAME"], "HOST": os.environ["PG_HOST"], "PORT": os.getenv("PG_PORT", "5432")}
            DATABASES = {"default": {"ENGINE": "django.db.backends.sqlite3", **part}}
        ROOT_URLCONF = "urls"
        """,
        everything=True,
        shop____init__="",
        shop__models="from django.db import models\nclass Basket(models.Model):\n    pass\n",
        urls="""
            from django.urls import include, path, re_path
            page = lambda _request: None
            inner = ([path("new/", page), path("<int:number>/", page)], "shop")
            urlpatterns = [path("", page), path("baskets/", include(inner)), re_path(r"^health/$", page)]
        """,
    )
    told = {one["name"]: one for one in answer["variables"]}
    feeds = {name: one["feeds"] for name, one in told.items()}
    assert feeds == {
        "KEY": {"SECRET_KEY": "whole"},
        "CITY": {"CITY": "whole"},
        "ROWS_IN": {"ROWS_IN": "whole"},
        "REGION": {"REGION": "whole"},
        "ROWS": {"ROWS": "whole"},
        "USE_CACHE": {"CACHES": "switched", "USE_CACHE": "switched"},
        "PG_NAME": {"DATABASES:default:NAME": "whole"},
        "PG_HOST": {"DATABASES:default:HOST": "whole"},
        "PG_PORT": {"DATABASES:default:PORT": "whole"},
    }
    assert [name for name, one in told.items() if one["required"]] == ["KEY"]
    assert [name for name, one in told.items() if one["together"]] == ["PG_NAME", "PG_HOST", "PG_PORT"]
    assert {name: one["default"] for name, one in told.items() if one["default"]} == {
        **{"ROWS_IN": "'rows'", "REGION": "'north'", "ROWS": "20", "USE_CACHE": "False", "PG_PORT": "'5432'"}
    }
    assert answer["facts"] == {
        "databases": {"default": "django.db.backends.dummy"},
        "caches": {"default": "django.core.cache.backends.locmem.LocMemCache"},
        "storages": answer["facts"]["storages"],
        "logs": ["x.log"],
        "servers": [],
        "eager": [],
        "brokers": [],
        "workers": [],
        "written": [],
        "missing": [],
        "routes": ["/", "/baskets/new/", "/health/"],
        "migrations": ["shop"],
        "unmigrated": ["shop"],
        "checks": [],
        "middleware": [],
    }


def test_answer_has_servers_of_this_host_that_settings_name(tmp_path):
    settings = """
        BROKER = {"OPTIONS": {"url": "redis://:secret@127.0.0.1:6380/4"}, "MIDDLEWARE": ["a", "b"]}
        REDIS_CONF = {"host": os.environ.get("REDIS_HOST", "localhost"), "port": os.environ.get("REDIS_PORT", "6379")}
        LAYERS = {"default": {"CONFIG": {"hosts": [("127.0.0.1", 6379), ("10.0.0.4", 6379)]}}}
        MONGO = "mongodb://localhost/shop?x=1"
        SITE, API, SOCKET, FAR = "http://localhost:8000", "wss://localhost/a", "unix:///run/x", "redis://redis:6379/0"
        LOCALES, SIZE, EMPTY = ["localhost", "x"], ["localhost"], {"host": "localhost"}
        DATABASES = {"default": {"ENGINE": "django.db.backends.dummy", "HOST": "localhost", "PORT": "5432"}}
        CACHES = {"default": {"BACKEND": "django.core.cache.backends.locmem.LocMemCache", "LOCATION": "redis://localhost"}}
        ROOT_URLCONF = "urls"
    """
    found = observe(tmp_path, settings, everything=True)["facts"]["servers"]
    hosts = "LAYERS:default:CONFIG:hosts 127.0.0.1:6379"
    assert found == ["BROKER:OPTIONS:url 127.0.0.1:6380", hosts, "MONGO localhost", "REDIS_CONF localhost:6379"]


def test_answer_has_checks_that_fail_and_middleware_that_is_not_read(tmp_path):
    names = [
        "django.middleware.common.CommonMiddleware",
        "django.contrib.auth.middleware.SessionAuthenticationMiddleware",
    ]
    settings = f"""
        MIDDLEWARE_CLASSES = {names}
        DATABASES = {{"default": {{"ENGINE": "django.db.backends.sqlite3", "NAME": ":memory:"}}}}
        INSTALLED_APPS = ["django.contrib.admin", "django.contrib.auth", "django.contrib.contenttypes"]
        SILENCED_SYSTEM_CHECKS = ["admin.E410"]
        ROOT_URLCONF = "urls"
    """
    facts = observe(tmp_path, settings, everything=True)["facts"]
    assert facts["middleware"] == names[:1]
    assert any(one.startswith("(admin.E408) 'django.contrib.auth.middleware.Auth") for one in facts["checks"])
    assert not any("E410" in one for one in facts["checks"])


@pytest.mark.parametrize(
    ("tasks", "backend", "missing"),
    [
        ("pass", "return 'database'", []),
        ("pass", "import no_driver_of_this_name.errors", ["no_driver_of_this_name"]),
        ("import no_module_of_this_name", "return ''", ["no_module_of_this_name"]),
        ("1 / 0", "return ''", []),
    ],
)
def test_modules_that_workers_lack_are_in_the_answer(tmp_path, tasks, backend, missing):
    """They are imported when a worker starts: those of tasks, and of what keeps their results."""
    state = f"""
        class App:
            main, tasks = "shop", {{"shop.add": None}}
            class loader:
                def import_default_modules():
                    {tasks}
            @property
            def backend(self):
                {backend}
        def _get_active_apps():
            return [App()]
    """
    settings = "import celery._state\nROOT_URLCONF = 'urls'\n"
    answer = observe(tmp_path, settings, everything=True, celery____init__="", celery___state=state)
    assert answer["stage"] == "done" and answer["facts"]["missing"] == missing


def test_a_survey_goes_on_with_the_others_where_one_text_is_refused(tmp_path):
    settings = "A = os.environ.get('A', 'a')\nB = {'x': 1, 'y': 2}[os.environ.get('B', 'x')]\nC = os.environ.get('C')\n"
    answer = observe(tmp_path, f"{settings}ROOT_URLCONF = 'urls'\n", everything=True)
    told = {one["name"]: one["feeds"] for one in answer["variables"]}
    assert told == {"A": {"A": "whole"}, "B": {}, "C": {"C": "whole"}}
    assert answer["stage"] == "done" and not any(one["required"] for one in answer["variables"])


def test_why_a_package_that_is_there_cannot_be_imported_is_reported(tmp_path):
    """Where a library has hidden it, and asks for the package."""
    answer = observe(tmp_path, "raise AssertionError('`old` must be installed.')", old="raise ImportError('too new')\n")
    assert answer["error"] == "AssertionError: `old` must be installed. <- ImportError: too new"


def test_a_survey_goes_on_where_a_text_has_the_settings_ask_for_more(tmp_path):
    settings = """
    from reader import config
    SECRET_KEY, NAME = "x", config("NAME", default="")
    if NAME:
        OTHER = (NAME, config("NAME_OF_USER"), config("NAME_OF_HOST"))
    """
    assert needed(observe(tmp_path, settings, everything=True)).keys() >= {"NAME", "NAME_OF_USER", "NAME_OF_HOST"}


def test_variables_of_a_project_that_does_not_start_are_those_asked_so_far(tmp_path):
    settings = "A = os.environ.get('A', 'a')\nINSTALLED_APPS = ['nothing_of_this_name']\nROOT_URLCONF = 'urls'\n"
    answer = observe(tmp_path, settings, everything=True)
    assert answer["stage"] == "setup" and "nothing_of_this_name" in answer["error"]
    assert {one["name"]: one["feeds"] for one in answer["variables"]} == {"A": {"A": "whole"}}
    assert answer["facts"] == {"written": [], "missing": ["nothing_of_this_name"]}


@pytest.mark.parametrize(
    ("reading", "separator"),
    [
        ("os.environ['HOSTS'].split(',')", ","),
        full("os.environ['HOSTS'].split()", " "),
        ("[one for one in os.environ.get('HOSTS', '').split(';') if one]", ";"),
        full("['localhost', *os.environ.get('HOSTS', 'x').split('|')]", "|"),
        ("[os.environ['HOSTS']]", ""),
    ],
)
def test_what_separates_the_entries_of_a_list_is_tried(tmp_path, reading, separator):
    answer = observe(tmp_path, f"ALLOWED_HOSTS = {reading}\nROOT_URLCONF = 'urls'\n", everything=True)
    (told,) = answer["variables"]
    assert (told["feeds"], told.get("separator", "")) == ({"ALLOWED_HOSTS": "element"}, separator)


@pytest.mark.parametrize(
    ("statement", "written"),
    [
        ("os.makedirs('data/logs', exist_ok=True)", ["data", "data/logs"]),
        full("open('settings.log', 'a').close()", ["settings.log"]),
        ("open(os.path.join(os.path.dirname(__file__), 'none/x'), 'w')", ["none/x"]),
        full("import sqlite3; sqlite3.connect('db.sqlite3').close()", ["db.sqlite3"]),
        full("open('manage.txt', 'w').close() if False else open(__file__).close()", []),
        ("open('/tmp/obs-elsewhere', 'w').close()", []),
    ],
)
def test_paths_written_in_the_source_are_reported(tmp_path, statement, written):
    answer = observe(tmp_path, f"{statement}\nROOT_URLCONF = 'urls'\n", everything=True)
    assert answer["facts"]["written"] == written


def test_settings_of_the_pillar_replace_those_of_the_project(tmp_path):
    """Before the project is set up, which its package may do while its settings are imported."""
    settings = """
        SECRET_KEY = "x"
        file = {"class": "logging.FileHandler", "filename": "/nonexistent/a.log"}
        LOGGING = {"version": 1, "handlers": {"file": file}}
    """
    answer = observe(tmp_path / "over", settings, everything=True, over={"LOGGING": {"version": 1}})
    assert (answer["stage"], answer["facts"]["logs"]) == ("done", [])


@pytest.mark.parametrize("file", ["/nonexistent/a.log", "django.log"])
def test_log_that_cannot_be_written_here_keeps_nothing_from_being_asked(tmp_path, file):
    """The answer has its file, and the path in the source."""
    settings = f"""
        LOGGING = {{"version": 1, "handlers": {{"file": {{"class": "logging.FileHandler", "filename": "{file}"}}}}}}
        SECRET_KEY, ROOT_URLCONF = os.environ["KEY"], "urls"
    """
    (tmp_path / "source/django.log").mkdir(parents=True)  # root may write any file
    answer = observe(tmp_path, settings, everything=True)
    assert (answer["stage"], answer["facts"]["logs"]) == ("done", [file])
    assert [one["name"] for one in answer["variables"]] == ["KEY"]
    assert answer["facts"]["written"] == ([] if file.startswith("/") else [file])


def test_handler_of_logs_that_is_wrong_ends_the_setup(tmp_path):
    settings = """
        LOGGING = {"version": 1, "handlers": {"file": {"class": "logging.NoHandler"}}}
    """
    answer = observe(tmp_path, settings)
    assert answer["stage"] == "setup" and answer["error"].startswith("ValueError: Unable to configure handler 'file'")


def test_project_may_replace_its_standard_output(tmp_path):
    settings = """
        import io, sys
        sys.stdout = io.TextIOWrapper(sys.stdout.buffer, encoding="utf-8")
        print("imported")
        SECRET_KEY = os.environ["KEY"]
    """
    answer = observe(tmp_path, settings)
    assert (answer["stage"], needed(answer)) == ("done", {"KEY": {"SECRET_KEY": "whole"}})
