"""
External pillar: what the hosts of a site have in common. Two lines of the master's configuration switch it on:

.. code-block:: yaml

    module_dirs: [/srv/django-formula]
    ext_pillar: [{django: /srv/django-fleet}]

The value is the folder of its store, which it makes. Sites without ``hosts`` get nothing. See docs/guides/fleet.md.
"""

import fnmatch
import ipaddress
import os
import socket
import sys

import salt.cache

for _name in ("_utils", "utils"):  # of the formula, or of what Salt has synced
    sys.path.append(os.path.join(os.path.dirname(os.path.dirname(os.path.abspath(__file__))), _name))

import django_master_certificate  # noqa: E402
import django_master_keys  # noqa: E402
import django_master_known  # noqa: E402
import django_master_password  # noqa: E402
import django_master_store  # noqa: E402

#: The parts whose servers other hosts use.
_SERVERS = ("database", "cache")


def ext_pillar(minion_id, pillar, store):
    """
    Return the fleet and the secret key of each site of which this minion is a host.

    minion_id
        Name of the minion.
    pillar
        Its pillar so far.
    store
        Folder of the store.
    """
    given = _map(pillar.get("django"))
    defaults = _map(given.get("defaults"))
    found, roster = {}, None
    for name, site in _map(given.get("sites")).items():
        hosts = {**_map(defaults.get("hosts")), **_map(_map(site).get("hosts"))}
        if hosts and isinstance(site, dict) and django_master_store.NAME.fullmatch(str(name)):
            roster = roster or _roster()
            secrets = {**_map(defaults.get("secrets")), **_map(site.get("secrets"))}
            whole = {**defaults, **site, "secrets": secrets}
            found[name] = _of_site(minion_id, name, whole, hosts, store, roster)
    return {"django": {"sites": found}} if found else {}


def _map(value):
    """Return a map of the pillar; an empty one for anything else, which the minion reports as a mistake."""
    return value if isinstance(value, dict) else {}


def _of_site(minion_id, name, site, hosts, folder, roster):
    store = django_master_store.Store(folder, name)
    accepted = sorted(roster or django_master_known.accepted(__opts__))
    names = [one for one in accepted if any(fnmatch.fnmatchcase(one, pattern) for pattern in hosts)]
    literal = [one for one in hosts if not any(character in one for character in "*?[")]
    parts = {one: _parts(one, hosts) for one in sorted({*names, *literal})}
    store.keep_hosts(parts)
    addresses = _addresses(minion_id, store, names, roster)
    servers = _servers(minion_id, store, parts, hosts, addresses)
    known = {**store.release(), "over": store.over(), "addresses": addresses, **servers}
    if "database" in parts.get(minion_id, ()):
        cache = salt.cache.factory(__opts__)
        apps = [one for one in names if "app" in parts[one]]
        known["cpus"] = {one: int((cache.fetch("grains", one) or {}).get("num_cpus") or 0) for one in apps}
    if not {"app", "worker"} & {*parts.get(minion_id, ())}:
        return {"fleet": known}
    known["secrets"] = _generated(store, site)
    if site.get("secret_key"):
        return {"fleet": known}
    keys = django_master_keys.Keys(store)
    return {"secret_key": keys.current(), "fleet": {**known, "keys": keys.given()}}


def _generated(store, site):
    """Return the values of the secrets that the pillar has generated."""
    lengths = {name: _map(entry).get("generate") for name, entry in _map(site.get("secrets")).items()}
    return {
        name: store.secret(f"variable.{name}", lambda length=length: django_master_password.new(length))
        for name, length in lengths.items()
        if type(length) is int and 16 <= length <= 1024 and django_master_store.SECRET.fullmatch(f"variable.{name}")
    }


def _servers(minion_id, store, parts, hosts, addresses):
    """
    Return what a host needs of the servers that one host has for all: the passwords, or what a server may know of
    them, the certificates of the servers, and the key of its own.
    """
    own = {*parts.get(minion_id, ())}
    uses = {"app", "worker"} & own
    passwords: dict[str, str] = {}
    certificates: dict[str, str] = {}
    own_key: dict[str, str] = {}
    for part in _SERVERS:
        hosts_with = [one for one, its in parts.items() if part in its]
        for host in hosts_with:
            address = _map(hosts.get(host)).get("address") or addresses.get(host)
            if address:
                certificates[host], key = django_master_certificate.of_host(store.folder.parent, host, address)
                own_key |= {"key": key} if host == minion_id else {}
        if hosts_with and (uses or part in own):
            password = store.secret(part, django_master_password.new)
            passwords |= {part: password} if uses else {}
            passwords |= _verifiers(part, password) if part in own else {}
    return {"passwords": passwords, "certificates": certificates, **own_key} if certificates or passwords else {}


def _verifiers(part, password):
    """Return what the server of a part may know of its password."""
    if part == "database":
        return {
            "postgres": django_master_password.scram(password),
            "mysql": django_master_password.native(password),
        }
    return {"redis": django_master_password.sha256(password)}


def _roster():
    """Return the entries of salt-ssh's roster by name of the host; None where the master compiles this pillar."""
    if "_ssh_version" not in __opts__:
        return None
    import django_master_roster  # only here: the master needs nothing of salt-ssh

    return django_master_roster.targets(__opts__)


def _addresses(minion_id, store, names, roster):
    """
    Return the address of each host, as it was when its pillar was compiled last. For a host of which that was never
    done it is what the master knows: the grains of one host after the other would take longer with each of them.
    """
    known = store.addresses() if roster is None else {}
    new = [one for one in names if not known.get(one)]
    if new:
        cache = salt.cache.factory(__opts__)
        known |= {one: _address(_grains(cache, one)) for one in new}
    if roster is not None:  # a host's grains are those of this host alone, and all have to get the same addresses
        return {one: known[one] or _resolved(roster[one].get("host", one)) for one in names}
    if __grains__.get("id") == minion_id:
        known[minion_id] = _address(__grains__)
    store.keep_addresses({one: known[one] for one in {minion_id, *new} if known.get(one)})
    return {one: known[one] for one in names}


def _grains(cache, name):
    """Return the grains of a minion that the master has seen; Salt 3007 keeps them with its pillar."""
    return cache.fetch("grains", name) or (cache.fetch(f"minions/{name}", "data") or {}).get("grains") or {}


def _address(grains):
    """Return the first address that is not of the loopback; empty where the master has not seen the host yet."""
    for address in [*(grains.get("ipv4") or []), *(grains.get("ipv6") or [])]:
        one = ipaddress.ip_address(address)
        if not (one.is_loopback or one.is_link_local):
            return str(one)
    return ""


def _resolved(host):
    """Return the address of a host, of its address or its name; empty where the name is unknown."""
    try:
        return socket.getaddrinfo(host, None, type=socket.SOCK_STREAM)[0][4][0]
    except OSError:
        return ""


def _parts(name, hosts):
    """Return the parts of a host: those under its own name, else under the first pattern that matches."""
    matching = [value for pattern, value in sorted(hosts.items()) if fnmatch.fnmatchcase(name, pattern)]
    entry = hosts.get(name) or (matching or [[]])[0]
    parts = entry.get("parts") if isinstance(entry, dict) else entry
    return [str(part) for part in parts] if isinstance(parts, list) else []
