"""The settings of celery in compose.local.yml: the project's, and those of the containers."""

from pathlib import Path

from shop.settings import *

DEBUG = True
ALLOWED_HOSTS = ["*"]
EMAIL_BACKEND = "django.core.mail.backends.console.EmailBackend"
# There is no https here.
SECURE_SSL_REDIRECT = SESSION_COOKIE_SECURE = CSRF_COOKIE_SECURE = False
SECURE_HSTS_SECONDS = 0
STATIC_ROOT = "/srv/static"
MEDIA_ROOT = "/srv/media"
DATABASES["default"] = {
    **DATABASES["default"],
    "NAME": "celery",
    "USER": "celery",
    "PASSWORD": Path("/run/secrets/database_password").read_text().strip(),
    "HOST": "database",
    "PORT": "5432",
}
CACHES["default"]["LOCATION"] = "redis://cache:6379/0"
TIME_ZONE = 'Europe/Berlin'
