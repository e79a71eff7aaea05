"""The settings of sqlite in compose.production.yml: the project's, and those of the containers."""

import os
from pathlib import Path

from website.settings import *

DEBUG = False
ALLOWED_HOSTS = ["localhost", "127.0.0.1"]
# nginx sets it, or passes on what the proxy of this host has set.
SECURE_PROXY_SSL_HEADER = ("HTTP_X_FORWARDED_PROTO", "https")
SECRET_KEY = os.environ["SECRET_KEY"]
STATIC_ROOT = Path("/srv/static")
MEDIA_ROOT = "/srv/media"
DATABASES["default"] = {
    **DATABASES["default"],
    "NAME": "/srv/data/db.sqlite3",
    "OPTIONS": {"timeout": 20, **DATABASES["default"].get("OPTIONS", {})},
}
LOGGING = {
    "version": 1,
    "disable_existing_loggers": False,
    "handlers": {"console": {"class": "logging.StreamHandler"}},
    "root": {"handlers": ["console"], "level": "INFO"},
}
