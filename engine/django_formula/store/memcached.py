"""Memcached: a cache in memory alone."""

import re
from collections.abc import Mapping
from typing import Any

from django_formula.host.commands import size
from django_formula.store import client
from django_formula.store.contract import OwnServer, ServerStore, Usage


class MemcachedStore(ServerStore):
    """A cache that drops what is not read, and is empty after a restart."""

    KIND = "memcached"
    CLIENTS = frozenset({"pymemcache", "pylibmc"})
    CHANGEABLE = re.compile(r" -m \d+")

    def requirement(self, django_version: tuple[int, ...]) -> str:
        """Return pymemcache, which Django supports since 3.2."""
        return "pymemcache>=3.4"

    def part(self, name: str) -> str:
        return name.replace("cache", "memcached", 1)

    def url(self, address: Mapping[str, Any]) -> str:
        if address.get("socket"):
            return f"unix:{address['socket']}"
        return f"{address['host']}:{address['port']}"

    def command(self, server: OwnServer, program: str) -> list[str]:
        megabytes = size(server.options["memory"]) >> 20
        return ["memcached", "-s", str(server.socket), "-a", "0770", "-m", str(megabytes), "-c", "1000"]

    def configuration(self, server: OwnServer) -> str:
        """Return nothing but a line for people: Memcached has no configuration file."""
        return f"# {server.unit} has no configuration but its command line.\n"

    def differences(self, server: OwnServer) -> dict[str, str]:
        wanted = size(server.options["memory"])
        return {} if _stats(server).get("limit_maxbytes") == wanted else {"memory": str(wanted >> 20)}

    def change(self, server: OwnServer, settings: Mapping[str, str]) -> None:
        client.memcached(server.socket, f"cache_memlimit {settings['memory']}", ("OK",))

    def usage(self, server: OwnServer) -> Usage:
        return Usage(_stats(server).get("bytes", 0), size(server.options["memory"]))


def _stats(server: OwnServer) -> dict[str, int]:
    lines = client.memcached(server.socket, "stats", ("END",))
    pairs = (line.split() for line in lines)
    return {parts[1]: int(parts[2]) for parts in pairs if len(parts) == 3 and parts[2].isdigit()}


STORE = MemcachedStore()
