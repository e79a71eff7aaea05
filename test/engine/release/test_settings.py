import contextlib
import importlib.util
import io
import itertools
import json
import os
import random
import re
import shutil
import stat
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import decouple
import dotenv
import in_django
import jinja2
import pytest
from django_formula.host import compiled, environment_files
from django_formula.host import template as host_template
from django_formula.host.commands import DeploymentError
from django_formula.release import settings
from django_formula.release import templates as release_templates
from readers import Surprise, read_environ, read_environment
from specimen import FACTS, ROOT, configured, formula_templates

RELEASE = Path("/srv/django/blog/releases/0042-3f2a9c1b77de")
KEY = "0123456789-secret-key-of-the-site"

PIECES = [
    "",
    " ",
    "a",
    "b c",
    "'",
    '"',
    "\\",
    "\\\\",
    "$",
    "${x}",
    "$(id)",
    "`id`",
    "#",
    " #",
    "%",
    "%n",
    "%%",
    "=",
    "\n",
]
PIECES += [
    "\\n",
    ";",
    "&",
    "|",
    "<>",
    "*",
    "~",
    "!",
    "{",
    "}",
    "[1]",
    "ü",
    "日本",
    "🙂",
    "\\'",
    '\\"',
    "\\`",
    "export A=1",
]


def nasty_values() -> list[str]:
    """Values of one, two and of several pieces, always the same."""
    chance = random.Random(1)
    several = ("".join(chance.choices(PIECES, k=chance.randint(3, 8))) for _ in range(1500))
    return [*{*PIECES, *map("".join, itertools.product(PIECES, PIECES)), *several, "x" * 65536}]


def read_by_sh(text: str, names: list[str], folder: Path) -> dict[str, str]:
    """What the variables are to a shell that has read the file."""
    (folder / "environment").write_text(text)
    script = '. ./environment; for name; do eval "printf \'%s\\0\' \\"\\$$name\\""; done'
    argv = ["sh", "-euc", script, "sh", *names]
    done = subprocess.run(argv, cwd=folder, check=True, capture_output=True, env={"PATH": os.environ["PATH"]})
    return dict(zip(names, done.stdout.decode().split("\0")[:-1], strict=True))


def test_an_environment_file_is_read_as_it_was_meant(tmp_path):
    variables = {f"V{number:04}": value for number, value in enumerate(nasty_values())}
    text = environment_files.environment_file(variables)
    assert read_environment(text) == variables == environment_files.read_environment(text)
    assert read_by_sh(text, list(variables), tmp_path) == variables


def test_environment_file_is_read_as_systemd_reads_it():
    pieces = ["A=", "B =", "\n", "\n", "'", "'", '"', '"', "\\", " ", "  # c", "# B=c\n", "x", "y z", "$", "\\\n", "="]
    choose = random.Random(42)
    read = 0
    for _ in range(20000):
        text = "A=" + "".join(choose.choices(pieces, k=8)) + "\n"
        with contextlib.suppress(Surprise):
            found = read_environment(text)
            if set(found) <= {"A", "B"}:
                assert environment_files.read_environment(text) == found, text
                read += 1
    assert read > 5000


def dotenv_of(value: str) -> str | None:
    """The value as a line of .env; None where it is refused."""
    try:
        return environment_files.dotenv_file({"V": value})
    except DeploymentError as error:
        assert error.message.startswith("V cannot be written to a .env file")
        return None


def test_a_dotenv_file_is_read_as_it_was_meant():
    values = nasty_values()
    lines = {value: line for value in values if (line := dotenv_of(value)) is not None}
    text = environment_files.dotenv_file({f"V{number:04}": value for number, value in enumerate(lines)})
    read = dotenv.dotenv_values(stream=io.StringIO(text))
    assert list(read.values()) == list(lines)
    assert all("${" in value or value.endswith("\\") for value in values if value not in lines)


@pytest.mark.parametrize(
    ("value", "why"),
    [
        ("a${x}", "python-dotenv expands ${…} there"),
        ("${x:-y}", "python-dotenv expands ${…} there"),
        ("'a\\", "it ends with a backslash in quotes"),  # python-dotenv before 1.2 reads on to the next quote
        ("a\nb\\", "it ends with a backslash in quotes"),
    ],
)
def test_what_no_dotenv_file_can_hold(value, why):
    with pytest.raises(DeploymentError) as error:
        environment_files.dotenv_file({"NAME": value})
    assert error.value.message == f"NAME cannot be written to a .env file: {why}"


def test_a_dotenv_file_of_plain_values_is_read_alike_by_all(tmp_path):
    """django-environ and python-decouple know no value of several lines, and no escape that the others know."""
    values = [
        "",
        "a",
        "b c",
        "it's",
        'a "b"',
        "C:\\dir",
        "1 # 2",
        "a#b",
        "#",
        "ü 日本",
        '{"a": [1]}',
        "$(id)",
        "x" * 9999,
    ]
    for value in values:
        path = tmp_path / ".env"
        path.write_text(environment_files.dotenv_file({"DF_TEST": value}))
        readers = [decouple.RepositoryEnv(str(path)).data, read_environ(path.read_text()), dotenv.dotenv_values(path)]
        assert readers == [{"DF_TEST": value}] * 3


def test_the_environment_of_a_release():
    site = configured(
        database={"engine": "sqlite"},
        domains=["a.org", "b.org"],
        settings_module="blog.settings.production",
        environment={
            "NAME": "Ray & Elspeth",
            "NUMBER": 5,
            "SWITCH": True,
            "LANG": "de_DE.UTF-8",
            "KEY": {"from": "secret_key"},
            "KEY_PATH": {"from": "secret_key_file"},
            "ORIGINS": {"from": "domains", "join": " "},
            **{name.upper(): {"from": name} for name in ("commit", "release", "domains", "static_root", "media_root")},
            **{name.upper(): {"from": name} for name in ("database_url", "database_path", "shared", "root")},
        },
        secrets={
            "API": "hunter2",
            "TOKEN": {"generate": 20, "as": "file"},
            "OTHER": {"generate": 20, "as": "file", "variable": "OTHER_PATH"},
        },
    )
    plain = settings.environment(site, RELEASE, FACTS)
    assert {name: value for name, value in plain.items() if not name.startswith(("SENTRY_", "OTEL_"))} == {
        "PATH": f"{RELEASE}/virtualenv/bin:/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin",
        "VIRTUAL_ENV": f"{RELEASE}/virtualenv",
        "PYTHONPATH": f"{RELEASE}/config:{RELEASE}/source",
        "PYTHONDONTWRITEBYTECODE": "1",
        "PYTHONUNBUFFERED": "1",
        "LANG": "de_DE.UTF-8",
        "DJANGO_SETTINGS_MODULE": "django_formula_settings",
        "DJANGO_SITE": "blog",
        "DJANGO_RELEASE": "0042-3f2a9c1b77de",
        "NAME": "Ray & Elspeth",
        "NUMBER": "5",
        "SWITCH": "true",
        "ORIGINS": "a.org b.org",
        "COMMIT": FACTS["commit"],
        "SHARED": "/srv/django/blog/shared",
        "RELEASE": "0042-3f2a9c1b77de",
        "DOMAINS": "a.org,b.org",
        "STATIC_ROOT": f"{RELEASE}/static",
        "MEDIA_ROOT": "/srv/django/blog/media",
        "DATABASE_URL": "sqlite:////srv/django/blog/database/db.sqlite3",
        "DATABASE_PATH": "/srv/django/blog/database/db.sqlite3",
        "ROOT": "/srv/django/blog",
        "TOKEN_FILE": "/srv/django/blog/secrets/TOKEN",
        "OTHER_PATH": "/srv/django/blog/secrets/OTHER",
        "KEY_PATH": "/srv/django/blog/secrets/secret_key",
    }
    secrets = {"secret_key": KEY, "API": "hunter2", "TOKEN": "token"}
    assert settings.secret_environment(site, secrets, ["former"]) == {"KEY": KEY, "API": "hunter2"}


@pytest.mark.parametrize(
    ("said", "keys", "expected"),
    [
        ({}, [], ""),
        ({}, ["one"], "one"),
        ({}, ["one", "t w|o"], "one,t w|o"),
        ({"join": " "}, ["one", "t,wo"], "one t,wo"),
        ({"join": "|||"}, ["one", "t w,o"], "one|||t w,o"),
    ],
)
def test_former_keys_for_a_project_that_reads_its_environment(said, keys, expected):
    site = configured(overlay=False, environment={"OLD": {"from": "secret_key_fallbacks", **said}})
    assert "OLD" not in settings.environment(site, RELEASE, FACTS)
    assert settings.secret_environment(site, {"secret_key": KEY}, keys) == {"OLD": expected}


def test_former_keys_that_cannot_be_told_apart():
    site = configured(environment={"OLD": {"from": "secret_key_fallbacks"}})
    with pytest.raises(DeploymentError, match="a former secret key contains ','") as error:
        settings.secret_environment(site, {"secret_key": KEY}, ["o,ne"])
    assert "django:sites:blog:environment:OLD:join" in error.value.hint and "o,ne" not in str(error.value)


@pytest.mark.parametrize(
    ("options", "folders", "expected"),
    [
        ({}, ".", f"{RELEASE}/config:{RELEASE}/source"),
        ({}, "src/app", f"{RELEASE}/config:{RELEASE}/source/src/app"),
        ({"mount": "/app"}, "src", f"{RELEASE}/config:/app/src"),
        ({"overlay": False}, ".", f"{RELEASE}/source"),
        ({}, ("src", "lib", "."), f"{RELEASE}/config:{RELEASE}/source/src:{RELEASE}/source/lib:{RELEASE}/source"),
        ({"mount": "/app", "overlay": False}, (".", "apps"), "/app:/app/apps"),
        ({"writable_packages": ["a", "b"]}, "src", f"{RELEASE}/config:{RELEASE}/source/src:{RELEASE}/packages"),
    ],
)
def test_where_python_looks(options, folders, expected):
    folder, *others = [folders] if isinstance(folders, str) else folders
    facts = {**FACTS, "folder": folder, "python_path": others}
    found = settings.environment(configured(**options), RELEASE, facts)
    assert found["PYTHONPATH"] == expected
    module = "blog.settings" if options.get("overlay") is False else "django_formula_settings"
    assert found["DJANGO_SETTINGS_MODULE"] == module


@pytest.fixture
def overlaid(tmp_path, monkeypatch):
    """The settings of a project, as the overlay makes them in a site of these options."""
    monkeypatch.setattr(sys, "path", [str(tmp_path), *sys.path])
    monkeypatch.setitem(sys.modules, "django", SimpleNamespace(VERSION=(5, 2, 0)))
    monkeypatch.setitem(sys.modules, "django_formula_logs", SimpleNamespace())
    (tmp_path / "key.json").write_text(json.dumps({"key": "the key", "fallbacks": ["older"]}))
    overlay = ROOT / "django/files/django_formula_settings.py"

    def overlay_over(project: str, **options):
        (tmp_path / "project_settings.py").write_text(project)
        monkeypatch.delitem(sys.modules, "project_settings", raising=False)
        data = json.loads(settings.overlay(configured(**options), RELEASE, "project_settings"))
        assert data["secret_key_file"] == "/srv/django/blog/secrets/secret_key.json"
        data["secret_key_file"] = str(tmp_path / "key.json")
        (tmp_path / "settings.json").write_text(json.dumps(data))
        (tmp_path / overlay.name).write_text(overlay.read_text())
        shutil.copy(overlay.with_name("django_formula_logs.py"), tmp_path)
        spec = importlib.util.spec_from_file_location("overlay", tmp_path / overlay.name)
        module = importlib.util.module_from_spec(spec)
        monkeypatch.setitem(sys.modules, spec.name, module)
        spec.loader.exec_module(module)
        return {name: value for name, value in vars(module).items() if name.isupper()}

    return overlay_over


def test_package_that_sets_up_django_while_the_settings_are_imported(tmp_path):
    """As one with a Celery app does: the applications are those of the settings, not none."""
    (tmp_path / "key.json").write_text(json.dumps({"key": "the key", "fallbacks": []}))
    data = json.loads(settings.overlay(configured(), RELEASE, "shop.settings.live"))
    (tmp_path / "settings.json").write_text(json.dumps({**data, "secret_key_file": str(tmp_path / "key.json")}))
    overlay = ROOT / "django/files/django_formula_settings.py"
    shutil.copy(overlay, tmp_path)
    shutil.copy(overlay.with_name("django_formula_logs.py"), tmp_path)
    (tmp_path / "shop/settings").mkdir(parents=True)
    (tmp_path / "shop/__init__.py").write_text("import django\ndjango.setup()\n")
    (tmp_path / "shop/settings/live.py").write_text("INSTALLED_APPS = ['django.contrib.humanize']\nTIME_ZONE = 'UTC'\n")
    program = (
        "import django; django.setup()\nfrom django.apps import apps\nfrom django.conf import settings\n"
        "print([config.name for config in apps.get_app_configs()], settings.SECRET_KEY)"
    )
    environment = {"PYTHONPATH": str(tmp_path), "DJANGO_SETTINGS_MODULE": "django_formula_settings"}
    argv = [in_django.python(in_django.DJANGOS[0]), "-c", program]
    done = subprocess.run(argv, env=environment, capture_output=True, text=True)
    assert done.stdout == "['django.contrib.humanize'] the key\n", done.stderr


@pytest.mark.parametrize(
    ("backend", "expected"),
    [
        ("django_redis.cache.RedisCache", "django_redis.cache.RedisCache"),
        ("blog.cache.RedisCache", "blog.cache.RedisCache"),
        ("blog.cache.Files", "django.core.cache.backends.redis.RedisCache"),
    ],
)
def test_backend_of_the_project_for_such_a_cache_stays(overlaid, backend, expected):
    own = f"CACHES = {{'default': {{'BACKEND': '{backend}', 'LOCATION': 'x', 'TIMEOUT': 7}}}}\n"
    cache = overlaid(own, cache={"engine": "redis"})["CACHES"]["default"]
    assert cache["BACKEND"] == expected and cache["LOCATION"].startswith("unix:///run/django-blog-")
    assert cache.get("TIMEOUT") == (7 if expected == backend else None)


def test_cache_on_a_server_of_the_sites_own_has_no_login(overlaid):
    options = "'OPTIONS': {'DB': 3, 'PASSWORD': 'secret', 'username': 'x', 'MAX_ENTRIES': 9}"
    own = f"CACHES = {{'default': {{'BACKEND': 'django_redis.cache.RedisCache', 'LOCATION': 'x', {options}}}}}\n"
    cache = overlaid(own, cache={"engine": "redis"})["CACHES"]["default"]
    assert cache["OPTIONS"] == {"MAX_ENTRIES": 9}


def test_backend_that_django_has_no_more_is_replaced(overlaid):
    """That for python-memcached, which Django 4.1 removed: the formula installs pymemcache."""
    options = "'OPTIONS': {'server_max_value_length': 9}"
    backend = "django.core.cache.backends.memcached.MemcachedCache"
    own = f"CACHES = {{'default': {{'BACKEND': '{backend}', 'LOCATION': 'x', 'TIMEOUT': 7, {options}}}}}\n"
    cache = overlaid(own, cache={"engine": "memcached"})["CACHES"]["default"]
    assert cache["BACKEND"] == "django.core.cache.backends.memcached.PyMemcacheCache"
    assert cache["TIMEOUT"] == 7 and "OPTIONS" not in cache and cache["LOCATION"] != "x"


REDIS_URL = "unix:///run/django-blog-queue/socket"


@pytest.mark.parametrize(
    ("said", "expected"),
    [
        (
            "RQ_QUEUES = {'default': {'HOST': 'localhost', 'PORT': 6379, 'DB': 1, 'DEFAULT_TIMEOUT': 360}, "
            "'high': {'URL': 'redis://a/1', 'SSL_CERT_REQS': None}}",
            {"RQ_QUEUES": {"default": {"DEFAULT_TIMEOUT": 360, "URL": REDIS_URL}, "high": {"URL": REDIS_URL}}},
        ),
        ("INSTALLED_APPS = ['huey.contrib.djhuey']", {"HUEY": {"connection": {"url": REDIS_URL}}}),
        (
            "INSTALLED_APPS = ('huey.contrib.djhuey',)\nHUEY = {'huey_class': 'huey.PriorityRedisHuey', 'name': 'a', "
            "'url': None, 'consumer': {'workers': 2}, 'connection': {'host': 'a', 'port': 6379, 'read_timeout': 2}}",
            {
                "HUEY": {
                    "huey_class": "huey.PriorityRedisHuey",
                    "name": "a",
                    "consumer": {"workers": 2},
                    "connection": {"read_timeout": 2, "url": REDIS_URL},
                }
            },
        ),
        ("INSTALLED_APPS = ['huey.contrib.djhuey']\nHUEY = {'huey_class': 'huey.SqliteHuey', 'filename': 'a'}", None),
        ("INSTALLED_APPS = ['huey.contrib.djhuey']\nHUEY = object", None),
        ("HUEY = {'connection': {'host': 'a'}}", None),
        ("Q_CLUSTER = {'name': 'a', 'redis': {'host': 'a'}}", {"Q_CLUSTER": {"name": "a", "redis": REDIS_URL}}),
        ("Q_CLUSTER = {'name': 'a', 'orm': 'default'}", None),
        (
            "DRAMATIQ_BROKER = {'BROKER': 'dramatiq.brokers.redis.RedisBroker', 'MIDDLEWARE': ['a'], "
            "'OPTIONS': {'host': 'a', 'port': 6380, 'client': object(), 'heartbeat_timeout': 7}}\n"
            "DRAMATIQ_RESULT_BACKEND = {'BACKEND': 'dramatiq.results.backends.redis.RedisBackend'}",
            {
                "DRAMATIQ_BROKER": {
                    "BROKER": "dramatiq.brokers.redis.RedisBroker",
                    "MIDDLEWARE": ["a"],
                    "OPTIONS": {"heartbeat_timeout": 7, "url": REDIS_URL},
                },
                "DRAMATIQ_RESULT_BACKEND": {
                    "BACKEND": "dramatiq.results.backends.redis.RedisBackend",
                    "BACKEND_OPTIONS": {"url": REDIS_URL},
                },
            },
        ),
        (
            "DRAMATIQ_BROKER = {'BROKER': 'dramatiq.brokers.rabbitmq.RabbitmqBroker', 'OPTIONS': {'url': 'amqp://a'}}",
            None,
        ),
    ],
)
def test_queue_of_the_site_is_that_of_the_project(overlaid, said, expected):
    of_queues = re.compile("RQ_QUEUES|HUEY|Q_CLUSTER|DRAMATIQ_.+")
    own = {name: value for name, value in overlaid(said).items() if of_queues.fullmatch(name)}
    found = overlaid(said, queue={"engine": "redis"})
    assert {name: found[name] for name in own | (expected or {})} == (own if expected is None else expected)


def test_the_overlay_decides_what_must_not_be_the_projects(overlaid):
    found = overlaid(
        "import os\nDEBUG = True\nALLOWED_HOSTS = ['*']\nSECRET_KEY = 'insecure'\nTIME_ZONE = 'UTC'\nlower = 1\n"
        "STATIC_ROOT = '/app/static'\nMEDIA_ROOT = '/app/media'\nINSTALLED_APPS = ['a', 'b']\nLOGGING = {'a': 1}\n",
        domains=["a.org", "b.org"],
        settings={"TIME_ZONE": "Asia/Shanghai", "NUMBERS": [1, 2.5, None], "INSTALLED_APPS": ["c"]},
    )
    assert found == {
        "DEBUG": False,
        "ALLOWED_HOSTS": ["a.org", "b.org"],
        "SECRET_KEY": "the key",
        "SECRET_KEY_FALLBACKS": ["older"],
        "TIME_ZONE": "Asia/Shanghai",
        "STATIC_ROOT": f"{RELEASE}/static",
        "MEDIA_ROOT": "/srv/django/blog/media",
        "STATIC_URL": "static/",
        "MEDIA_URL": "media/",
        "DATABASES": {},
        "INSTALLED_APPS": ["c"],
        "NUMBERS": [1, 2.5, None],
        "LOGGING": {"a": 1},
    }


@pytest.mark.parametrize("root", ["'/app/committed'", "__import__('pathlib').Path('/app/committed')"])
def test_static_root_stays_the_projects_when_nothing_is_collected(overlaid, root):
    found = overlaid(f"STATIC_ROOT = {root}\n", static={"collect": False})
    assert str(found["STATIC_ROOT"]) == "/app/committed" and found["MEDIA_ROOT"] == "/srv/django/blog/media"
    assert "STATIC_ROOT" not in overlaid("", static={"collect": False})


CLASSES = """
from configurations import Configuration, values
class Base(Configuration):
    SECRET_KEY = values.SecretValue()
    ALLOWED_HOSTS = values.ListValue(["of.the.project"])
    @property
    def NAME(self): return type(self).__name__
class Development(Base): DEBUG = True
class Production(Base): COLOUR = "green"
"""
NAMES = 'os.environ.setdefault("DJANGO_CONFIGURATION", "Development")'
SETS_UP = """
import configurations
configurations.setup()
from django.conf import settings
assert settings.SECRET_KEY == "the key"
"""
SHOWN = "from django.conf import settings as s; print(s.NAME, s.COLOUR, s.SECRET_KEY, s.ALLOWED_HOSTS, s.DEBUG)"


@pytest.mark.slow
@pytest.mark.parametrize("package", ["", SETS_UP], ids=["plain", "set up"])
@pytest.mark.parametrize(
    "argv",
    [
        ["-c", f"import django; django.setup(); {SHOWN}"],
        ["-c", f"import wsgi; {SHOWN}"],
        ["-c", f"import configurations; configurations.setup(); {SHOWN}"],
        ["manage.py", "shell", "--no-imports", "-c", SHOWN],
    ],
    ids=["a program of the formula", "the server", "a worker", "manage.py"],
)
def test_settings_of_a_class_are_overridden_like_others(overlaid, tmp_path, argv, package):
    """By django-configurations, also where their package sets up Django when it is imported, as Celery apps do."""
    overlaid("", domains=["blog.example.org"])
    data = json.loads((tmp_path / "settings.json").read_text())
    (tmp_path / "settings.json").write_text(json.dumps({**data, "settings_module": "project.settings"}))
    (tmp_path / "project").mkdir()
    files = {
        "project/__init__.py": package,
        "project/settings.py": CLASSES,
        "wsgi.py": f"import os\n{NAMES}\nfrom configurations.wsgi import get_wsgi_application as get\nget()\n",
        "manage.py": f"import os, sys\n{NAMES}\n"
        "from configurations.management import execute_from_command_line as run\nrun(sys.argv)\n",
    }
    for name, content in files.items():
        (tmp_path / name).write_text(content)
    environment = {
        "PYTHONPATH": str(tmp_path),
        "DJANGO_SETTINGS_MODULE": "django_formula_settings",
        "DJANGO_CONFIGURATION": "Production",
        "DJANGO_SECRET_KEY": "of the environment",
    }
    ran = subprocess.run(
        [in_django.python("configurations"), *argv], cwd=tmp_path, env=environment, capture_output=True, text=True
    )
    assert (ran.stdout, ran.returncode) == ("Production green the key ['blog.example.org'] False\n", 0), ran.stderr


def test_over_https_django_knows_of_it(overlaid):
    found = overlaid("", tls={"kind": "self_signed", "listen": [8443]}, domains=["a.org", "b.org"])
    assert {name: value for name, value in found.items() if re.match("SECURE|SESSION|CSRF|X_F|SIL", name)} == {
        "SECURE_SSL_REDIRECT": True,
        "SECURE_PROXY_SSL_HEADER": ("HTTP_X_FORWARDED_PROTO", "https"),
        "SECURE_HSTS_SECONDS": 3600,
        "SECURE_CONTENT_TYPE_NOSNIFF": True,
        "SECURE_REFERRER_POLICY": "same-origin",
        "SESSION_COOKIE_SECURE": True,
        "CSRF_COOKIE_SECURE": True,
        "CSRF_TRUSTED_ORIGINS": ["https://a.org:8443", "https://b.org:8443"],
        "X_FRAME_OPTIONS": "DENY",
        "SILENCED_SYSTEM_CHECKS": ["security.W005", "security.W021"],
    }


def test_over_https_policies_stay_the_projects_and_the_pillar_has_the_last_word(overlaid):
    found = overlaid(
        "X_FRAME_OPTIONS = 'SAMEORIGIN'\nSECURE_HSTS_SECONDS = 60\nSECURE_HSTS_INCLUDE_SUBDOMAINS = False\n"
        "CSRF_TRUSTED_ORIGINS = ['https://b.org', 'https://x.org']\nSESSION_COOKIE_SECURE = False\n"
        "SECURE_PROXY_SSL_HEADER = ('HTTP_X_SCHEME', 'https')\nSILENCED_SYSTEM_CHECKS = ['fields.W342']\n",
        tls={"kind": "self_signed"},
        domains=["a.org", "b.org"],
        settings={"SECURE_HSTS_PRELOAD": True, "CSRF_COOKIE_SECURE": False},
    )
    assert found["X_FRAME_OPTIONS"] == "SAMEORIGIN" and found["SECURE_HSTS_SECONDS"] == 60
    assert found["CSRF_TRUSTED_ORIGINS"] == ["https://b.org", "https://x.org", "https://a.org"]
    assert found["SESSION_COOKIE_SECURE"] is True and found["CSRF_COOKIE_SECURE"] is False
    assert found["SECURE_PROXY_SSL_HEADER"] == ("HTTP_X_FORWARDED_PROTO", "https")
    assert found["SILENCED_SYSTEM_CHECKS"] == ["fields.W342"]


@pytest.mark.parametrize(
    ("project", "options", "expected"),
    [
        ("", {}, ["a.E1"]),
        ("SILENCED_SYSTEM_CHECKS = ('b.W1',)", {}, ["b.W1", "a.E1"]),
        ("SILENCED_SYSTEM_CHECKS = ['b.W1']", {"settings": {"SILENCED_SYSTEM_CHECKS": ["c.W1"]}}, ["c.W1", "a.E1"]),
        ("", {"tls": {"kind": "self_signed"}}, ["security.W005", "security.W021", "a.E1"]),
    ],
)
def test_silenced_checks_are_added_to_those_of_the_project(overlaid, project, options, expected):
    assert overlaid(project, silenced_checks=["a.E1"], **options)["SILENCED_SYSTEM_CHECKS"] == expected
    assert "a.E1" not in overlaid(project, **options).get("SILENCED_SYSTEM_CHECKS", [])


def test_a_django_of_before_trusts_hosts_not_origins(overlaid, monkeypatch):
    monkeypatch.setitem(sys.modules, "django", SimpleNamespace(VERSION=(3, 2, 0)))
    assert overlaid("", tls={"kind": "self_signed"})["CSRF_TRUSTED_ORIGINS"] == ["blog.example.org"]


def test_a_folder_of_static_files_that_does_not_exist_is_left_out_as_later_versions_do(overlaid, monkeypatch, tmp_path):
    (tmp_path / "assets").mkdir()
    named = f"STATICFILES_DIRS = [({'x'!r}, {str(tmp_path / 'assets')!r}), {str(tmp_path / 'static')!r}]\n"
    assert overlaid(named)["STATICFILES_DIRS"][1] == str(tmp_path / "static")
    monkeypatch.setitem(sys.modules, "django", SimpleNamespace(VERSION=(3, 2, 0)))
    assert overlaid(named)["STATICFILES_DIRS"] == [("x", str(tmp_path / "assets"))]
    assert "STATICFILES_DIRS" not in overlaid("")


def test_further_settings_with_the_folder_of_static_files_or_uploads_have_that_of_the_site(overlaid):
    project = (
        "STATIC_ROOT = '/app/static'\nCOMPRESS_ROOT = STATIC_ROOT\nSASS_ROOT = '/app/sass'\n"
        "STATIC_SOURCES = STATIC_ROOT\n"
        "MEDIA_ROOT = '/app/media'\nSENDFILE_ROOT = MEDIA_ROOT\nOTHER_ROOT = ''\n"
    )
    found = overlaid(project)
    assert found["COMPRESS_ROOT"] == f"{RELEASE}/static" and found["SENDFILE_ROOT"] == "/srv/django/blog/media"
    assert (found["SASS_ROOT"], found["STATIC_SOURCES"], found["OTHER_ROOT"]) == ("/app/sass", "/app/static", "")
    assert overlaid(project, static={"collect": False})["COMPRESS_ROOT"] == "/app/static"
    assert overlaid(project, settings={"COMPRESS_ROOT": "/x"})["COMPRESS_ROOT"] == "/x"


def test_storages_with_a_location_of_their_own_have_the_folders_of_the_site(overlaid):
    own = {
        "default": {"BACKEND": "django.core.files.storage.FileSystemStorage", "OPTIONS": {"location": "/app/media"}},
        "below": {"BACKEND": "django.core.files.storage.FileSystemStorage", "OPTIONS": {"location": "/app/media/a"}},
        "private": {
            "BACKEND": "django.core.files.storage.FileSystemStorage",
            "OPTIONS": {"location": "/app/mediaeval"},
        },
        "staticfiles": {
            "BACKEND": "whitenoise.storage.CompressedStaticFilesStorage",
            "OPTIONS": {"location": "staticfiles", "base_url": "/s/"},
        },
    }
    project = f"STATIC_ROOT = '/app/static'\nMEDIA_ROOT = '/app/media'\nSTORAGES = {own}\n"
    found = overlaid(project)["STORAGES"]
    assert {alias: one["OPTIONS"]["location"] for alias, one in found.items()} == {
        "default": "/srv/django/blog/media",
        "below": "/srv/django/blog/media/a",
        "private": "/app/mediaeval",
        "staticfiles": f"{RELEASE}/static",
    }
    assert found["staticfiles"]["OPTIONS"]["base_url"] == "/s/"
    kept = overlaid(project, static={"collect": False})["STORAGES"]
    assert kept["staticfiles"] == own["staticfiles"]
    assert "STORAGES" not in overlaid("")


def test_location_in_a_bucket_stays_the_projects(overlaid):
    options = {"BACKEND": "storages.backends.s3.S3Storage", "OPTIONS": {"location": "static"}}
    plain = {"BACKEND": "django.contrib.staticfiles.storage.StaticFilesStorage"}
    for one in (options, plain):
        found = overlaid(f"STATIC_ROOT = 'static'\nSTORAGES = {{'staticfiles': {one}}}\n")
        assert found["STORAGES"] == {"staticfiles": one}


def test_a_path_stays_a_path(overlaid):
    """Projects reckon with it: `STATIC_ROOT / "manifest.json"`."""
    found = overlaid("import pathlib\nSTATIC_ROOT = pathlib.Path('/app/static')\nMEDIA_ROOT = '/app/media'\n")
    assert (found["STATIC_ROOT"], found["MEDIA_ROOT"]) == (RELEASE / "static", "/srv/django/blog/media")


def test_a_project_without_logging_writes_to_the_journal(overlaid):
    logging = overlaid("")["LOGGING"]
    assert logging["handlers"] == {"console": {"class": "logging.StreamHandler"}}
    assert logging["root"] == {"handlers": ["console"], "level": "INFO"}


@pytest.mark.parametrize(
    ("path", "project", "expected"),
    [
        ("/", "", ("static/", "media/")),
        (
            "/",
            "STATIC_URL = '/assets/'\nMEDIA_URL = 'https://cdn.example.org/'",
            ("/assets/", "https://cdn.example.org/"),
        ),
        (
            "/shop",
            "STATIC_URL = '/assets/'\nMEDIA_URL = 'https://cdn.example.org/'",
            ("/shop/assets/", "https://cdn.example.org/"),
        ),
        (
            "/shop",
            "STATIC_URL = '/shop/static/'\nMEDIA_URL = '//cdn.example.org/'",
            ("/shop/static/", "//cdn.example.org/"),
        ),
        ("/shop", "STATIC_URL = '/shopping/'\nMEDIA_URL = None", ("/shop/shopping/", "/shop/media/")),
    ],
)
def test_urls_below_the_path_of_the_site(overlaid, path, project, expected):
    found = overlaid(project, path=path)
    assert (found["STATIC_URL"], found["MEDIA_URL"]) == expected
    assert found.get("FORCE_SCRIPT_NAME") == (path if path != "/" else None)


SQLITE = "django.db.backends.sqlite3"


@pytest.mark.parametrize(
    ("databases", "database", "expected"),
    [
        ({}, {}, {}),
        ({}, {"engine": "sqlite"}, {"default": (SQLITE, "db.sqlite3")}),
        ({}, {"engine": "sqlite", "name": "blog.db"}, {"default": (SQLITE, "blog.db")}),
        ({"default": (SQLITE, "/app/data/site.db")}, {}, {"default": (SQLITE, "site.db")}),
        ({"default": (SQLITE, "")}, {}, {"default": (SQLITE, "db.sqlite3")}),
        ({"default": (SQLITE, "site.db")}, {"engine": "sqlite"}, {"default": (SQLITE, "site.db")}),
        ({"default": (SQLITE, "site.db")}, {"engine": "sqlite", "name": "b.db"}, {"default": (SQLITE, "b.db")}),
        ({"default": ("postgresql", "blog")}, {}, {"default": ("postgresql", "=blog")}),
        ({"default": ("postgresql", "blog")}, {"engine": "sqlite"}, {"default": (SQLITE, "db.sqlite3")}),
        ({"default": (None, "blog")}, {}, {"default": (None, "=blog")}),
        ({"default": (None, "blog")}, {"engine": "sqlite"}, {"default": (SQLITE, "db.sqlite3")}),
        (
            {"default": ("postgresql", "blog"), "log": ("spatialite", "../log.db")},
            {},
            {"default": ("postgresql", "=blog"), "log": ("spatialite", "log.db")},
        ),
        (
            {"default": (SQLITE, "a/db.sqlite3"), "other": (SQLITE, "b/db.sqlite3")},
            {},
            {"default": (SQLITE, "db.sqlite3"), "other": (SQLITE, "other.db.sqlite3")},
        ),
        (
            {"default": (SQLITE, "db.sqlite3"), "replica": (SQLITE, "db.sqlite3")},
            {},
            {"default": (SQLITE, "db.sqlite3"), "replica": (SQLITE, "db.sqlite3")},
        ),
        ({"default": (SQLITE, "x")}, {"engine": "sqlite", "name": "/data/x.db"}, {"default": (SQLITE, "=/data/x.db")}),
    ],
)
def test_sqlite_files_lie_in_the_sites_folder(overlaid, databases, database, expected):
    written = {alias: {"ENGINE": engine, "NAME": name, "X": 1} for alias, (engine, name) in databases.items()}
    found = overlaid(f"DATABASES = {written!r}", database=database)["DATABASES"]
    folder = "/srv/django/blog/database/"
    names = {alias: name[1:] if name[0] == "=" else folder + name for alias, (_engine, name) in expected.items()}
    assert {alias: entry["NAME"] for alias, entry in found.items()} == names
    assert {alias: entry["ENGINE"] for alias, entry in found.items()} == {
        a: engine for a, (engine, _) in expected.items()
    }
    kept = [alias for alias, entry in found.items() if entry.get("X")]
    assert kept == [alias for alias in databases if databases[alias][0] == expected[alias][0]]


TEMPLATE = "salt://blog/settings.py.jinja"


def test_the_files_of_the_pillar():
    site = configured(
        files={
            ".env": {"environment": True},
            "app/local.py": {"source": TEMPLATE},
            "page.html": {"contents": "<p>{{ page }}</p>\n"},
            "data/secret.key": {"from": "secret_key"},
        },
        environment={"NAME": "Ray's", "LANG": "C"},
        secrets={"API": "hunter2", "TOKEN": {"generate": 20, "as": "file"}},
    )
    variables = {"NAME": "Ray's", "LANG": "C", "API": "hunter2", "TOKEN_FILE": "/secrets/TOKEN", "PATH": "/bin"}
    templates = {TEMPLATE: "NAME = {{ environment.NAME | tojson }}\nDOMAIN = '{{ site.domains[0] }}'\n"}
    assert settings.project_files(site, templates, variables, KEY) == {
        "data/secret.key": KEY,
        ".env": "API=hunter2\nLANG=C\nNAME=Ray's\nTOKEN_FILE=/secrets/TOKEN\n",
        "app/local.py": "NAME = \"Ray\\u0027s\"\nDOMAIN = 'blog.example.org'\n",
        "page.html": "<p>{{ page }}</p>\n",
    }


@pytest.mark.parametrize(
    ("template", "message"),
    [
        (None, "the template salt://x is missing"),
        ("{{ missing }}", "salt://x cannot be rendered: 'missing' is undefined"),
        ("{% if %}", "salt://x cannot be rendered: Expected an expression, got 'end of statement block'"),
        ("{{ 1 + 'a' }}", "salt://x cannot be rendered: unsupported operand type(s) for +: 'int' and 'str'"),
        ("{{ 'a\nb' | unit }}", "salt://x cannot be rendered: 'a\\nb' cannot be written to a systemd unit"),
    ],
)
def test_a_template_that_cannot_be_rendered(template, message):
    templates = {} if template is None else {"salt://x": template}
    with pytest.raises(DeploymentError) as error:
        host_template.render(templates, "salt://x")
    assert error.value.message == message


def test_compiled_template_is_kept_for_the_next_apply(tmp_path, monkeypatch):
    url, kept = "salt://django/files/x", tmp_path / "lib/templates"
    monkeypatch.setattr(compiled, "FOLDER", kept)

    def rendered(text):
        host_template._template.cache_clear()
        return host_template.render({url: text}, url, name="blog")

    monkeypatch.setattr(compiled, "_unkept", [])
    assert rendered("{{ name }}") == "blog" and not kept.exists()  # a host without a site keeps nothing
    compiled.keep()
    assert kept.stat().st_mode & 0o777 == 0o700
    [file] = kept.iterdir()
    with monkeypatch.context() as patch:
        patch.setattr(jinja2.Environment, "compile", None)
        assert rendered("{{ name }}") == "blog"
    assert rendered("{{ name }}!") == "blog!" and [*kept.iterdir()] == [file]
    file.write_bytes(file.read_bytes()[:-9])
    assert rendered("{{ name }}!") == "blog!"


def test_every_template_of_the_formula_is_rendered_strictly():
    for url, text in formula_templates().items():
        if not url.endswith(".py"):
            with pytest.raises(DeploymentError, match="is undefined"):
                host_template.render({url: text}, url)


@pytest.mark.parametrize(
    ("filtered", "value", "expected"),
    [
        ("unit", "a b", "a b"),
        ("unit", "100% %n", "100%% %%n"),
        ("unit", True, "yes"),
        ("unit", False, "no"),
        ("unit", 5, "5"),
        ("unit", "a\\b", "a\\b"),
        ("unit", "a\nUser=root", None),
        ("unit", "a\\", None),
        ("unit", "a\u2028b", None),
        ("uwsgi", "a = b", "a = b"),
        ("uwsgi", "100% %n %%", "100%% %%n %%%%"),
        ("uwsgi", "%(chdir)", None),
        ("uwsgi", True, "true"),
        ("uwsgi", False, "false"),
        ("uwsgi", 0, "0"),
        ("uwsgi", "$(HOME)", None),
        ("uwsgi", "@(/etc/shadow)", None),
        ("uwsgi", "a\nexec-as-root = id", None),
        ("uwsgi", " a", None),
        ("uwsgi", "a ", None),
        ("nginx", 'a "b" \\ ;{}', '"a \\"b\\" \\\\ ;{}"'),
        ("nginx", "$host", None),
        ("nginx", "a\nb", None),
    ],
)
def test_what_a_value_is_in_a_file(filtered, value, expected):
    convert = getattr(host_template, f"{filtered}_value")
    if expected is None:
        with pytest.raises(ValueError, match="cannot be written to"):
            convert(value)
    else:
        assert convert(value) == expected


def test_a_file_is_written_into_the_source(make_site):
    site = make_site()
    source = site.root / "source"
    (source / "app").mkdir(parents=True)
    (source / "elsewhere").symlink_to(site.root)
    (source / "link").symlink_to(site.root / "target")
    for path in ("app/very/deep/new.py", "link", ".env"):
        settings.write_project_file(site, source, path, "ü")
        assert (source / path).read_text() == "ü" and not (source / path).is_symlink()
        assert stat.S_IMODE((source / path).stat().st_mode) == 0o640
    assert not (site.root / "target").exists()
    with pytest.raises(DeploymentError) as error:
        settings.write_project_file(site, source, "elsewhere/new.py", "")
    assert error.value.message == "django:sites:blog:files: elsewhere/new.py leads through the link elsewhere"


OBSERVED = {
    "SENTRY_RELEASE": FACTS["commit"],
    "SENTRY_ENVIRONMENT": "production",
    "OTEL_SERVICE_NAME": "blog",
    "OTEL_RESOURCE_ATTRIBUTES": f"service.version={FACTS['commit']},service.instance.id=web1-0042,"
    "deployment.environment.name=production,host.name=web1",
}


@pytest.mark.parametrize(
    ("options", "files", "changed"),
    [
        ({}, {}, {}),
        ({"environment_name": "staging"}, {}, {"SENTRY_ENVIRONMENT": "staging"}),
        ({"environment": {"SENTRY_RELEASE": "7"}}, {}, {"SENTRY_RELEASE": "7"}),
        ({"secrets": {"OTEL_SERVICE_NAME": "x"}}, {}, {}),  # whose file is read after this one
        ({}, {".env": "# SENTRY_RELEASE=1\nexport SENTRY_ENVIRONMENT=dev\n"}, {"SENTRY_ENVIRONMENT": None}),
        ({}, {"site/.env": "OTEL_SERVICE_NAME = shop\n"}, {"OTEL_SERVICE_NAME": None}),
        ({}, {"other/.env": "OTEL_SERVICE_NAME = shop\n"}, {}),
    ],
)
def test_release_and_environment_are_named_for_sentry_and_opentelemetry(tmp_path, monkeypatch, options, files, changed):
    monkeypatch.setattr(settings.socket, "gethostname", lambda: "web1")
    release = tmp_path / RELEASE.name
    for path, text in files.items():
        (release / "source" / path).parent.mkdir(parents=True, exist_ok=True)
        (release / "source" / path).write_text(text)
    found = settings.environment(configured(**options), release, {**FACTS, "folder": "site"})
    expected = {**OBSERVED, **changed}
    if options.get("environment_name"):
        expected["OTEL_RESOURCE_ATTRIBUTES"] = OBSERVED["OTEL_RESOURCE_ATTRIBUTES"].replace("production", "staging")
    assert {name: found.get(name) for name in OBSERVED} == expected


@pytest.mark.parametrize(
    ("project", "options", "own"),
    [
        ("MIDDLEWARE = ['a', 'b']", {}, ["a", "b"]),
        ("MIDDLEWARE = ('a', 'b')", {}, ["a", "b"]),
        ("", {}, []),
        ("MIDDLEWARE = ['a']", {"settings": {"MIDDLEWARE": ["c"]}}, ["c"]),
    ],
)
def test_middleware_is_around_all_others_where_releases_prove_themselves(overlaid, monkeypatch, project, options, own):
    assert list(overlaid(project, **options).get("MIDDLEWARE", [])) == own
    monkeypatch.setattr(release_templates, "proves", lambda config: True)
    assert overlaid(project, **options)["MIDDLEWARE"] == ["django_formula_said.middleware", *own]


def test_site_whose_releases_prove_themselves_has_the_program_of_the_middleware():
    config = configured().config
    program = "salt://django/files/django_formula_said.py"
    assert program not in release_templates.of_kinds(config)
    assert program in release_templates.of_kinds({**config, "releases": {**config["releases"], "canary": {}}})
