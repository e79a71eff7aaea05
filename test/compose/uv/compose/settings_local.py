"""The settings of uv in compose.local.yml: the project's, and those of the containers."""


from shop.settings import *

DEBUG = True
ALLOWED_HOSTS = ["*"]
EMAIL_BACKEND = "django.core.mail.backends.console.EmailBackend"
# There is no https here.
SECURE_SSL_REDIRECT = SESSION_COOKIE_SECURE = CSRF_COOKIE_SECURE = False
SECURE_HSTS_SECONDS = 0
STATIC_ROOT = "/srv/static"
MEDIA_ROOT = "/srv/media"
