"""The settings of celery in compose.production.yml: the project's, and those of the containers."""

from pathlib import Path

from shop.settings import *

DEBUG = False
ALLOWED_HOSTS = ["localhost", "127.0.0.1"]
# nginx sets it, or passes on what the proxy of this host has set.
SECURE_PROXY_SSL_HEADER = ("HTTP_X_FORWARDED_PROTO", "https")
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
LOGGING = {
    "version": 1,
    "disable_existing_loggers": False,
    "handlers": {"console": {"class": "logging.StreamHandler"}},
    "root": {"handlers": ["console"], "level": "INFO"},
}
TIME_ZONE = 'Europe/Berlin'
