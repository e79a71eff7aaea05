"""The example of docs/guides/projects.md is what inspection prints of such a project."""

import re
import subprocess
from pathlib import Path

ROOT = Path(__file__).parents[3]
PROJECT = {
    "Procfile": "web: gunicorn mysite.wsgi\nworker: celery -A mysite worker -c 4\nrelease: python manage.py migrate\n",
    "requirements.txt": "Django==5.2.19\ndjango-environ\npsycopg[c]\ncelery[redis]\n",
    "manage.py": """
import os, sys
os.environ.setdefault("DJANGO_SETTINGS_MODULE", "mysite.settings.base")
from django.core.management import execute_from_command_line
execute_from_command_line(sys.argv)
""",
    "mysite/__init__.py": "",
    "mysite/wsgi.py": """
import os
from django.core.wsgi import get_wsgi_application
os.environ.setdefault("DJANGO_SETTINGS_MODULE", "mysite.settings.production")
application = get_wsgi_application()
""",
    "mysite/urls.py": """
from django.contrib import admin
from django.urls import path
urlpatterns = [path("admin/", admin.site.urls)]
""",
    "mysite/celery.py": """
from celery import Celery
app = Celery("mysite")
app.config_from_object("django.conf:settings", namespace="CELERY")
app.autodiscover_tasks()
""",
    "mysite/settings/__init__.py": "",
    "mysite/settings/production.py": 'from .base import *\nEMAIL_HOST = env("EMAIL_HOST", default="localhost")\n',
    "mysite/settings/base.py": """import environ
env = environ.Env(DEBUG=(bool, False))
SECRET_KEY = env("SECRET_KEY")
DEBUG = env("DEBUG")
ALLOWED_HOSTS = env.list("ALLOWED_HOSTS", default=[])
INSTALLED_APPS = ["django.contrib.admin", "django.contrib.auth", "django.contrib.contenttypes"]
INSTALLED_APPS += ["django.contrib.sessions", "django.contrib.messages", "django.contrib.staticfiles"]
DATABASES = {"default": env.db("DATABASE_URL")}
CELERY_BROKER_URL = env("CELERY_BROKER_URL")
STRIPE_KEY = env("STRIPE_KEY")
ROOT_URLCONF = "mysite.urls"
STATIC_URL = "/static/"
""",
}


def test_the_example_of_the_guide_is_printed(tmp_path):
    folder = tmp_path / "blog"
    for name, text in PROJECT.items():
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    argv = [str(ROOT / "quickstart"), "--inspect", str(folder)]
    printed = subprocess.run(argv, check=True, capture_output=True, text=True).stdout.replace(
        str(tmp_path), "/home/ray"
    )
    page = (ROOT / "docs/guides/projects.md").read_text()
    command, *shown = re.search(r"(?m)^    \$ (?:.+\n)+(?:    .*\n)+", page)[0].splitlines()
    assert command == "    $ ./quickstart --inspect /home/ray/blog"
    assert "\n".join(line[4:] for line in shown) == printed.rstrip()
