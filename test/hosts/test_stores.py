"""Queue, cache and sessions of a site in servers of its own: who may connect, what survives, what a change costs."""

import pytest
from sites import Site

QUEUE = "/run/django-blog-queue/socket"
STORES = {"queue": {"engine": "redis"}, "caches": {"default": {"engine": "redis"}}, "sessions": "cached_db"}


@pytest.fixture(scope="module")
def shop(module_hosts, repositories) -> Site:
    """A site with a queue, a cache and sessions on Debian 13, which has Valkey."""
    host = module_hosts("trixie", kind="ready")
    site = Site(host, repositories(host), **STORES)
    site.deploy()
    return site


def value(site: Site, expression: str) -> str:
    """Return the value of an expression in the site's Django."""
    program = f"from django.conf import settings; from django.core.cache import cache; print(({expression}))"
    return str(site.manage(f'shell -c "{program}"')).splitlines()[-1]


def test_project_has_its_cache_sessions_and_queue(shop):
    assert value(shop, "settings.CACHES['default']['BACKEND']").endswith("RedisCache")
    assert value(shop, "settings.SESSION_ENGINE").endswith("cached_db")
    assert value(shop, "cache.set('a', 7) or cache.get('a')") == "7"
    assert not shop.apply().changed
