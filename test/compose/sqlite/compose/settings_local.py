"""The settings of sqlite in compose.local.yml: the project's, and those of the containers."""

import os
from pathlib import Path

from website.settings import *

DEBUG = True
ALLOWED_HOSTS = ["*"]
EMAIL_BACKEND = "django.core.mail.backends.console.EmailBackend"
# There is no https here.
SECURE_SSL_REDIRECT = SESSION_COOKIE_SECURE = CSRF_COOKIE_SECURE = False
SECURE_HSTS_SECONDS = 0
SECRET_KEY = os.environ["SECRET_KEY"]
STATIC_ROOT = Path("/srv/static")
MEDIA_ROOT = "/srv/media"
DATABASES["default"] = {
    **DATABASES["default"],
    "NAME": "/srv/data/db.sqlite3",
    "OPTIONS": {"timeout": 20, **DATABASES["default"].get("OPTIONS", {})},
}
