"""The settings of mysql in compose.local.yml: the project's, and those of the containers."""

import os
from pathlib import Path

from chat.settings import *

DEBUG = True
ALLOWED_HOSTS = ["*"]
EMAIL_BACKEND = "django.core.mail.backends.console.EmailBackend"
# There is no https here.
SECURE_SSL_REDIRECT = SESSION_COOKIE_SECURE = CSRF_COOKIE_SECURE = False
SECURE_HSTS_SECONDS = 0
SECRET_KEY = os.environ["SECRET_KEY"]
STATIC_ROOT = "/srv/static"
MEDIA_ROOT = "/srv/media"
DATABASES["default"] = {
    **DATABASES["default"],
    "NAME": "mysql",
    "USER": "mysql",
    "PASSWORD": Path("/run/secrets/database_password").read_text().strip(),
    "HOST": "database",
    "PORT": "3306",
}
CHANNEL_LAYERS["default"]["CONFIG"] = {"hosts": ["redis://queue:6379/0"]}
