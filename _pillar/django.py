"""
External pillar: what the hosts of a site have in common. Three lines of the master's configuration switch it on:

.. code-block:: yaml

    runner_dirs: [/srv/django-formula/_runners]
    pillar_dirs: [/srv/django-formula/_pillar]
    ext_pillar: [{django: /srv/django-fleet}]

The value is the folder of its store, which it makes. Sites without ``hosts`` get nothing. See docs/guides/fleet.md.
"""

import fnmatch
import inspect
import ipaddress
import itertools
import os
import re
import socket
import sys

import salt.cache
import salt.exceptions
import salt.pillar

for _name in ("engine", "utils"):  # of the formula, or of what Salt has synced
    sys.path.append(os.path.join(os.path.dirname(os.path.dirname(os.path.abspath(__file__))), _name))

import django_engine

django_engine.use()

from django_formula.database import engines
from django_formula.fleet import certificate, known_minions, secrets
from django_formula.fleet import store as fleet_store
from django_formula.kind import kinds as kind_kinds
from django_formula.pillar import parts

#: The parts whose servers other hosts use.
_SERVERS = tuple(part.name for part in parts.parts() if part.has_server)
#: Names of minions that configurations of servers take as they are; Salt allows nearly all characters.
_ID = re.compile("[A-Za-z0-9][A-Za-z0-9._-]{0,252}")
#: Interfaces of containers and virtual machines on a host: no other host reaches it by their addresses.
_INSIDE = re.compile("docker[0-9]+|br-[0-9a-f]{12}|(cni-)?podman[0-9]+|(virbr|lxcbr|lxdbr)[0-9]+")
#: The most CPUs that a minion is believed to have: the connections of a database are reckoned by them.
_CPUS = 256


def ext_pillar(minion_id, pillar, store):
    """
    Return the fleet and the secret key of each site of which this minion is a host, and what takes the place of
    secrets of the pillar that it does not use.

    minion_id
        Name of the minion.
    pillar
        Its pillar so far.
    store
        Folder of the store.
    """
    given = _map(_of_master(minion_id, pillar).get("django"))
    defaults = _map(given.get("defaults"))
    found, roster = {}, None
    parts: list[tuple[list[str], set[str]] | None] = []
    for name, site in _map(given.get("sites")).items():
        whole = _over(defaults, site) if isinstance(site, dict) else {}
        hosts = {str(host): entry for host, entry in _map(whole.get("hosts")).items()}  # YAML reads 10 as a number
        if hosts and fleet_store.NAME.fullmatch(str(name)):
            roster = roster or _roster()
            own, every = _parts(minion_id, hosts), {part for one in hosts for part in _parts(one, hosts)}
            parts.append((own, every))
            withheld = secrets.withheld_of_site(whole, own, every)
            found[name] = {**withheld, **_of_site(minion_id, name, whole, hosts, store, roster)}
        else:
            parts.append(None)
    if not found:
        return {}
    _refuse_old_minions()
    withheld = secrets.withheld_of_defaults(defaults, parts)
    return {"django": {"sites": found, **({"defaults": withheld} if withheld else {})}}


def _refuse_old_minions():
    """
    Refuse a master that accepts older messages of minions, which any of them can send in the name of another one: it
    would give secrets of a site to a host of none.
    """
    version = __opts__.get("minimum_auth_version", 3)
    if "_ssh_version" not in __opts__ and (type(version) is not int or version < 3):
        raise salt.exceptions.SaltConfigurationError(
            f"minimum_auth_version is {version}: a minion can ask for the pillar of another one; hint: remove it from "
            "the master's configuration, or set 3, once all minions are updated"
        )


def _of_master(minion_id, pillar):
    """
    Return the pillar without what the minion has sent along, such as `pillar=` of a command, which Salt has merged into
    it: it would make any minion a host of any site. It is compiled once more only where there is such a thing.
    """
    if "_ssh_version" in __opts__ or not _is_overridden():
        return pillar
    before = [*itertools.takewhile(lambda entry: "django" not in entry, __opts__["ext_pillar"])]
    options = {**__opts__, "pillar": {}, "ext_pillar": before}
    environments = (__opts__.get("saltenv"), __opts__.get("pillarenv"))
    return salt.pillar.Pillar(
        options, __grains__, minion_id, environments[0], pillarenv=environments[1]
    ).compile_pillar()


def _is_overridden():
    """Return whether the pillar that is being compiled has anything of the minion's; also where that is not known."""
    frame = inspect.currentframe()
    while frame:
        compiler = frame.f_locals.get("self")
        if isinstance(compiler, salt.pillar.Pillar):
            return bool(compiler.pillar_override)
        frame = frame.f_back
    return True


def _map(value):
    """Return a map of the pillar; an empty one for anything else, which the minion reports as a mistake."""
    return value if isinstance(value, dict) else {}


def _over(lower, upper):
    """Return a map of a site over that of the defaults, merged as a minion does: null removes."""
    merged = dict(lower)
    for name, value in upper.items():
        if value is None:
            merged.pop(name, None)
        else:
            merged[name] = _over(_map(lower.get(name)), value) if isinstance(value, dict) else value
    return merged


def _of_site(minion_id, name, site, hosts, folder, roster):
    store = fleet_store.Store(folder, name)
    accepted = sorted(roster or known_minions.accepted(__opts__))
    names = [
        one for one in accepted if _ID.fullmatch(one) and any(fnmatch.fnmatchcase(one, pattern) for pattern in hosts)
    ]
    literal = [one for one in hosts if not any(character in one for character in "*?[")]
    is_there = site.get("state") != "absent"
    parts = {one: _parts(one, hosts) for one in sorted({*names, *literal})} if is_there else {}
    store.keep_hosts(parts)
    tags = site.get("tags")
    store.keep_tags([str(tag) for tag in tags] if isinstance(tags, list) else [])
    store.keep_promotion(site.get("promote") if is_there else None)
    store.keep_checks(site.get("checks") if is_there else None)
    addresses = _addresses(minion_id, store, names, roster)
    servers = _servers(minion_id, store, parts, hosts, addresses)
    known = {**store.release(), "over": store.over(), "addresses": addresses, **servers}
    if "database" in parts.get(minion_id, ()):
        cache = salt.cache.factory(__opts__)
        apps = [one for one in names if "app" in parts[one]]
        known["cpus"] = {one: _cpus(_grains(cache, one)) for one in apps}
    if not {*kind_kinds.RELEASED} & {*parts.get(minion_id, ())}:
        return {"fleet": known}
    known["secrets"] = _generated(store, site)
    if site.get("secret_key"):
        return {"fleet": known}
    keys = secrets.Keys(store)
    return {"secret_key": keys.current(), "fleet": {**known, "keys": keys.given()}}


def _generated(store, site):
    """Return the values of the secrets that the pillar has generated."""
    lengths = {name: _map(entry).get("generate") for name, entry in _map(site.get("secrets")).items()}
    return {
        name: store.secret(f"variable.{name}", lambda length=length: secrets.new_password(length))
        for name, length in lengths.items()
        if type(length) is int and 16 <= length <= 1024 and fleet_store.SECRET.fullmatch(f"variable.{name}")
    }


def _servers(minion_id, store, parts, hosts, addresses):
    """
    Return what a host needs of the servers that one host has for all: the passwords, or what a server may know of
    them, the certificates of the servers, and the key of its own.
    """
    own = {*parts.get(minion_id, ())}
    uses = {*kind_kinds.RELEASED} & own
    passwords: dict[str, str] = {}
    certificates: dict[str, str] = {}
    own_key: dict[str, str] = {}
    login_given: dict[str, int] = {}
    for part in _SERVERS:
        hosts_with = [one for one, its in parts.items() if part in its]
        for host in hosts_with:
            address = _map(hosts.get(host)).get("address") or addresses.get(host)
            if _is_address(address):
                certificates[host], key = certificate.of_host(store.folder.parent, host, address)
                own_key |= {"key": key} if host == minion_id else {}
        if hosts_with and (uses or part in own):
            former = store.former_secret(part)
            password = store.secret(part, lambda former=former: secrets.following_password(former))
            passwords |= {part: password} if uses else {}
            passwords |= _verifiers(part, password, former) if part in own else {}
            if part == "database" and (login := secrets.login_of(password)) > 1:
                login_given = {"login": login}
    given = {"passwords": passwords, "certificates": certificates, **own_key, **login_given}
    return given if certificates or passwords else {}


def _is_address(text):
    """Return whether a text is an IP address; a minion reports one that is not."""
    try:
        ipaddress.ip_address(text)
    except ValueError:
        return False
    return True


def _verifiers(part, *passwords):
    """Return what the server of a part may know of its password, and after a comma of the former one."""
    of_databases = {"postgres": secrets.scram, "mysql": engines.mariadb_verifier}
    kinds = of_databases if part == "database" else {"redis": secrets.sha256}
    return {kind: ",".join(of(one) for one in passwords if one) for kind, of in kinds.items()}


def _roster():
    """Return the entries of salt-ssh's roster by name of the host; None where the master compiles this pillar."""
    if "_ssh_version" not in __opts__:
        return None
    from django_formula.fleet import roster as fleet_roster  # only here: the master needs nothing of salt-ssh

    return fleet_roster.targets(__opts__)


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
        known[minion_id] = _address(__grains__, known.get(minion_id, ""))
    store.keep_addresses({one: known[one] for one in {minion_id, *new} if known.get(one)})
    return {one: known[one] for one in names}


def _cpus(grains):
    """Return how many CPUs a minion reports to have, as far as that is possible."""
    number = grains.get("num_cpus")
    return min(number, _CPUS) if type(number) is int and number > 0 else 0


def _grains(cache, name):
    """Return the grains of a minion that the master has seen; Salt 3007 keeps them with its pillar."""
    return cache.fetch("grains", name) or (cache.fetch(f"minions/{name}", "data") or {}).get("grains") or {}


def _address(grains, before=""):
    """
    Return the address of a host: the one before while the host has it, for a VPN or an engine of containers adds some;
    else the first one by which others may reach it; empty where the master has not seen the host yet.
    """
    inside, found = _inside(grains), []
    for address in [*(grains.get("ipv4") or []), *(grains.get("ipv6") or [])]:
        try:
            one = ipaddress.ip_address(str(address).partition("%")[0])
        except ValueError:  # a minion reports what it likes
            continue
        if not (one.is_loopback or one.is_link_local or str(one) in inside):
            found.append(str(one))
    return before if before in found else (found or [""])[0]


def _inside(grains):
    """Return the addresses of interfaces that are for containers and virtual machines of the host."""
    interfaces = _map(grains.get("ip_interfaces"))
    lists = [value for name, value in interfaces.items() if _INSIDE.fullmatch(str(name))]
    return {str(address) for value in lists if isinstance(value, list) for address in value}


def _resolved(host):
    """Return the address of a host, of its address or its name; empty where the name is unknown."""
    try:
        return socket.getaddrinfo(host, None, type=socket.SOCK_STREAM)[0][4][0]
    except OSError:
        return ""


def _parts(name, hosts):
    """Return the parts of a host: those under its own name, if it has some there, else those of its first pattern."""
    patterns = [pattern for pattern in sorted(hosts) if pattern != name and fnmatch.fnmatchcase(name, pattern)]
    for key in [name, *patterns]:
        entry = hosts.get(key)
        parts = entry.get("parts") if isinstance(entry, dict) else entry
        if parts is not None:
            return [str(part) for part in parts] if isinstance(parts, list) else []
    return []
