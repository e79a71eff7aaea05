"""The settings of uv in compose.production.yml: the project's, and those of the containers."""


from shop.settings import *

DEBUG = False
ALLOWED_HOSTS = ["localhost", "127.0.0.1"]
# nginx sets it, or passes on what the proxy of this host has set.
SECURE_PROXY_SSL_HEADER = ("HTTP_X_FORWARDED_PROTO", "https")
STATIC_ROOT = "/srv/static"
MEDIA_ROOT = "/srv/media"
