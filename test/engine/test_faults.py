"""What the start of a project finds that passes every check and fails without a sign, with real Django and clients."""

import json
import os
import subprocess
from pathlib import Path
from typing import Any

import pytest
from in_django import python
from specimen import ROOT

SETTINGS = """
SECRET_KEY = "x" * 50
INSTALLED_APPS = ["django.contrib.staticfiles", "shop"]
MIDDLEWARE = ["django.contrib.sessions.middleware.SessionMiddleware"]
TEMPLATES = [{"BACKEND": "django.template.backends.django.DjangoTemplates", "DIRS": ["pages"], "APP_DIRS": True}]
STATIC_URL, STATIC_ROOT = "/static/", "STATIC"
"""
WSGI = "import django\ndjango.setup()\napplication = print\n"
CELERY = """
from celery import Celery
app = Celery("shop", broker="memory://")
app.config_from_object("django.conf:settings", namespace="CELERY")
"""
NONE = {"at_once": {}, "mail": "", "sessions": "", "static": [], "folders": []}


def started(folder: Path, settings: str = "", workers: Any = None, **files: str) -> dict[str, Any]:
    """What the start of a project with further settings and files finds."""
    source, config = folder / "source", folder / "config"
    config.mkdir()
    given = {"settings.py": SETTINGS.replace('"STATIC"', f'"{folder}/static"') + settings, "wsgi.py": WSGI}
    given |= {"shop/__init__.py": "", "shop/celery.py": CELERY, **files}
    for name, text in given.items():
        (source / name).parent.mkdir(parents=True, exist_ok=True)
        (source / name).write_text(text)
    for path in (ROOT / "django/files").glob("django_formula_*.py"):
        (config / path.name).symlink_to(path)
    request = {"mode": "start", "application": "wsgi", "collect": True, "static_root": f"{folder}/static"}
    request |= {"migrate": {}, "check": "error", "ignored_checks": [], "write_ahead": False}
    request |= {"workers": workers or {}, "modules": ["shop.settings"]}
    done = subprocess.run(
        [python("workers"), "-B", f"{config}/django_formula_start.py"],
        cwd=source,
        env={"PATH": os.environ["PATH"], "DJANGO_SETTINGS_MODULE": "settings", "PYTHONPATH": f"{config}:{source}"},
        input=json.dumps(request),
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0 and "not found out" not in done.stderr, done.stderr
    return {**NONE, **json.loads(done.stdout)["faults"]}


def worker(kind: str, *queues: str) -> dict[str, Any]:
    return {"main": {"kind": kind, "app": "", "queues": [*queues]}}


@pytest.mark.parametrize(
    ("settings", "workers", "setting"),
    [
        ("CELERY_TASK_ALWAYS_EAGER = True", worker("celery"), "CELERY_TASK_ALWAYS_EAGER"),
        ("CELERY_TASK_ALWAYS_EAGER = False", worker("celery"), ""),
        ("CELERY_TASK_ALWAYS_EAGER = True", None, ""),
        ("HUEY = {'huey_class': 'huey.MemoryHuey', 'immediate': True}", worker("huey"), "HUEY: immediate"),
        ("HUEY = {'huey_class': 'huey.MemoryHuey', 'immediate': False}", worker("huey"), ""),
        ("RQ_QUEUES = {'a': {}, 'b': {'ASYNC': False}}", worker("rq", "a", "b"), "RQ_QUEUES: b: ASYNC"),
        ("RQ_QUEUES = {'a': {}, 'b': {'ASYNC': False}}", worker("rq", "a"), ""),
        ("", worker("rq", "a"), ""),
    ],
)
def test_worker_whose_tasks_run_at_once_is_reported_with_the_setting(tmp_path, settings, workers, setting):
    assert started(tmp_path, settings, workers) == {**NONE, "at_once": {"main": setting} if setting else {}}


def test_celery_app_that_runs_tasks_at_once_by_its_own_code(tmp_path):
    app = {"shop/celery.py": f"{CELERY}app.conf.task_always_eager = True\n"}
    assert started(tmp_path, workers=worker("celery"), **app)["at_once"] == {"main": "task_always_eager"}


@pytest.mark.parametrize(
    ("settings", "mail", "sessions"),
    [
        (
            "EMAIL_BACKEND = 'django.core.mail.backends.console.EmailBackend'",
            "EMAIL_BACKEND is django.core.mail.backends.console.EmailBackend",
            "",
        ),
        (
            "MAILERS = {'default': {'BACKEND': 'django.core.mail.backends.dummy.EmailBackend'}}",
            "MAILERS: default: BACKEND is django.core.mail.backends.dummy.EmailBackend",
            "",
        ),
        ("EMAIL_BACKEND = 'anymail.backends.mailgun.EmailBackend'", "", ""),
        (
            "SESSION_ENGINE = 'django.contrib.sessions.backends.cache'",
            "",
            "CACHES: default is django.core.cache.backends.locmem.LocMemCache",
        ),
        ("SESSION_ENGINE = 'django.contrib.sessions.backends.cached_db'", "", ""),
        ("SESSION_ENGINE = 'django.contrib.sessions.backends.cache'\nMIDDLEWARE = []", "", ""),
        (
            "SESSION_ENGINE = 'django.contrib.sessions.backends.cache'\n"
            "CACHES = {'default': {'BACKEND': 'django.core.cache.backends.db.DatabaseCache', 'LOCATION': 'cache'}}",
            "",
            "",
        ),
    ],
)
def test_mail_that_is_not_sent_and_sessions_of_one_process(tmp_path, settings, mail, sessions):
    assert started(tmp_path, settings) == {**NONE, "mail": mail, "sessions": sessions}


#: What a template has of static files; the names that were not collected begin with ``gone``.
PAGE = """{% load static %}{# {% static 'hidden.js' %} #}
{% comment %}
{% static 'old.js' %}
{% endcomment %}
<link href="{% static "shop/style.css" %}?v=1"><img src="{% static 'shop/' %}{{ name }}.png">
<script src="{% static 'gone/app.js' %}"></script>{% static 'gone/app.js' as again %}
{% static name %} {% static "shop/"|add:name %} {% static 'shop/style.css?v=2#top' %}
{%- static 'gone/more.css' as more -%}
"""


@pytest.mark.parametrize("storage", ["StaticFilesStorage", "ManifestStaticFilesStorage"])
def test_static_files_that_templates_name_and_nothing_has_collected(tmp_path, storage):
    files = {"pages/home.html": PAGE, "shop/templates/shop/a.txt": "{% static 'gone/app.js' %}{% static 'gone/b' %}"}
    files |= {"shop/static/shop/style.css": "a {}"}
    backend = f"django.contrib.staticfiles.storage.{storage}"
    settings = f"STORAGES = {{'staticfiles': {{'BACKEND': '{backend}'}}}}"
    files |= {"assets/gone/more.css": "b {}", "shop/gone/b": "in a folder with code", "gone/app.js/x": "a folder"}
    assert started(tmp_path, settings, **files)["static"] == [
        {"name": "gone/app.js", "place": "pages/home.html:6", "folder": ""},
        {"name": "gone/more.css", "place": "pages/home.html:8", "folder": "assets"},
        {"name": "gone/b", "place": "shop/templates/shop/a.txt:1", "folder": ""},
    ]


@pytest.mark.parametrize(
    ("dirs", "folders"), [("[]", []), ("[TOP + '/own', 'b']", ["own", "b"]), ("[('x', TOP + '/own')]", None)]
)
def test_folders_that_are_collected_are_reported_relative_to_manage(tmp_path, dirs, folders):
    files = {"own/a.css": "", "b/b.css": ""}
    settings = f"import os\nTOP = os.path.dirname(os.path.abspath(__file__))\nSTATICFILES_DIRS = {dirs}"
    assert started(tmp_path, settings, **files)["folders"] == folders
