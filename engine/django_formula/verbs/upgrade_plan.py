"""What an upgrade of the PostgreSQL cluster of a site has to move, to which version, how, and what is against it."""

import os
import re
import shutil
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from django_formula.backup.backups import in_words
from django_formula.database import clusters, replication, served
from django_formula.database import server as database_server
from django_formula.database.clusters import Cluster
from django_formula.database.engines import POSTGRES
from django_formula.database.postgres import PROGRAMS
from django_formula.host import commands, file
from django_formula.host.commands import DeploymentError
from django_formula.release import releases
from django_formula.release.releases import Release
from django_formula.site import sites
from django_formula.site.sites import Site
from django_formula.verbs import upgrade_hold

#: How the data gets into the new cluster: while sites serve, or while they are in maintenance.
LIVE, MAINTENANCE = "live", "maintenance"
#: Databases that each cluster has.
OWN = ("postgres", "template0", "template1")
#: How much of the size of the databases has to be free.
_ROOM = 1.3
#: Replication slots that the copy of a table needs for itself.
_SPARE_SLOTS = 2
#: In the version of a package: that of PostgreSQL is not released yet.
_BETA = re.compile("~(?:alpha|beta|rc|devel)")
_CONTROL = "/usr/share/postgresql/{}/extension/{}.control"
#: Its library, as its control file names it.
_LIBRARY = re.compile(r"(?m)^[ \t]*module_pathname\s*=\s*'\$libdir/([\w.-]+)'")
_SERVER = """SELECT json_build_object(
  'wal_level', current_setting('wal_level'),
  'slots', least(current_setting('max_replication_slots')::int, current_setting('max_wal_senders')::int),
  'tablespaces', (SELECT count(*) FROM pg_tablespace WHERE spcname NOT IN ('pg_default', 'pg_global')),
  'replicas', (SELECT count(*) FROM pg_stat_replication WHERE application_name !~ :'own')
    + (SELECT count(*) FROM pg_replication_slots WHERE slot_name !~ :'own'),
  'subscriptions', (SELECT count(*) FROM pg_subscription),
  'prepared', (SELECT count(*) FROM pg_prepared_xacts),
  'archive', CASE current_setting('archive_mode') WHEN 'off' THEN ''
    ELSE coalesce(nullif(current_setting('archive_library', true), ''), current_setting('archive_command')) END,
  'databases', (SELECT json_object_agg(datname, json_build_object('owner', pg_get_userbyid(datdba),
    'comment', coalesce(shobj_description(datdba, 'pg_authid'), ''), 'size', pg_database_size(oid),
    'limit', datconnlimit, 'collate', datcollate, 'accepts', datallowconn)) FROM pg_database));
"""
_DATABASE = """WITH own AS (
  SELECT c.oid, c.relkind, c.relpersistence, c.relreplident, format('%I.%I', n.nspname, c.relname) AS name
  FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace
  WHERE n.nspname NOT LIKE 'pg\\_%' AND n.nspname <> 'information_schema')
SELECT json_build_object(
  'extensions', (SELECT coalesce(json_agg(extname ORDER BY extname), '[]') FROM pg_extension
    WHERE extname <> 'plpgsql'),
  'tables', (SELECT count(*) FROM own WHERE relkind = 'r'),
  'without_key', (SELECT coalesce(json_agg(name ORDER BY name), '[]') FROM own o WHERE relkind IN ('r', 'p')
    AND (relreplident = 'n' OR relreplident = 'd'
    AND NOT EXISTS (SELECT FROM pg_index i WHERE i.indrelid = o.oid AND i.indisprimary))),
  'unlogged', (SELECT coalesce(json_agg(name ORDER BY name), '[]') FROM own
    WHERE relkind = 'r' AND relpersistence = 'u'),
  'collations', (SELECT coalesce(json_agg(DISTINCT c.collname), '[]') FROM pg_attribute a
    JOIN own o ON o.oid = a.attrelid JOIN pg_collation c ON c.oid = a.attcollation
    WHERE c.collprovider IN ('c', 'i') AND c.collname NOT IN ('C', 'POSIX', 'C.utf8', 'C.UTF-8')),
  'views', (SELECT coalesce(json_agg(name ORDER BY name), '[]') FROM own WHERE relkind = 'm'),
  'of_extensions', (SELECT coalesce(json_agg(name ORDER BY name), '[]') FROM own o WHERE relkind = 'r' AND EXISTS (
    SELECT FROM pg_depend d WHERE d.classid = 'pg_class'::regclass AND d.objid = o.oid AND d.deptype = 'e')),
  'large_objects', (SELECT count(*) FROM pg_largeobject_metadata));
"""


class Plan(NamedTuple):
    """What an upgrade would do.

    Attributes:
        former: the cluster that is upgraded.
        version: the major version that it gets; empty where there is no newer one.
        packages: those that have to be installed for it.
        places: the sites with databases there, each with its active release, if it has one.
        sizes: bytes of each database.
        extensions: those of all databases.
        limits: how many connections each accepts; -1 is any number.
        reasons: why the data cannot be replicated while sites serve; empty where it can.
        problems: what is against any upgrade.
        notes: what was judged, in words.
    """

    former: Cluster
    version: str
    packages: list[str]
    places: list[tuple[Site, Release | None]]
    sizes: dict[str, int]
    extensions: list[str]
    limits: dict[str, int]
    reasons: list[str]
    problems: list[str]
    notes: dict[str, Any]

    @property
    def way(self) -> str:
        return MAINTENANCE if self.reasons else LIVE


def port_of(site: Site) -> int:
    """Return the port of the cluster of this host that a site has its database in.

    Raises:
        DeploymentError: it has none, with the reason.
    """
    databases = [one for one in site.config["databases"].values() if _is_here(one)]
    if databases:
        return databases[0]["port"] or POSTGRES.port
    kinds = {one["engine"]: one for one in site.config["databases"].values()}
    if "mysql" in kinds:
        raise DeploymentError(
            "MariaDB is upgraded in place by its packages, together with the distribution, and does not go back",
            hint=f"before the upgrade of the packages: salt-call django.backup {site.name}; they run mariadb-upgrade "
            f"themselves; afterwards: salt-call django.restore_drill {site.name}",
        )
    if "postgres" in kinds and not kinds["postgres"].get("manage"):
        why = "its server is not one that the formula has set up on this host: its administrator upgrades it"
    elif "postgres" in kinds:
        why = f"its server is on {kinds['postgres']['host']}: upgrade it there"
    else:
        own = ", ".join(sorted(kind or "what its settings name" for kind in kinds)) or "no database"
        why = f"it has {own}, which is no server of the formula"
    raise DeploymentError(f"{site.name} has no cluster of PostgreSQL here: {why}", hint="docs/guides/databases.md")


def _is_here(database: Mapping[str, Any]) -> bool:
    host = database["host"] or ""
    is_local = not host or host.startswith("/") or host in ("localhost", "127.0.0.1", "::1")
    return bool(database["engine"] == POSTGRES.name and database.get("manage") and is_local)


def of_port(port: int) -> list[tuple[Site, Release | None]]:
    """Return the sites that have databases in the cluster at a port, by their names, with their active releases."""
    found = [sites.find(name) for name in sites.registered()]
    chosen = [
        site
        for site in found
        if any(_is_here(one) and (one["port"] or POSTGRES.port) == port for one in site.config["databases"].values())
    ]
    return [(site, releases.linked(site, site.current)) for site in chosen]


def make(port: int, to: str | None = None) -> Plan:
    """Look at the cluster at a port and at what it would become.

    Raises:
        DeploymentError: no cluster of Debian's postgresql-common runs there.
    """
    if not shutil.which("pg_lsclusters", path=commands.PATH):
        raise DeploymentError(
            "PostgreSQL on this host is not Debian's: there is no pg_lsclusters",
            hint="upgrade it as it was installed (pg_upgrade)",
        )
    former = next((one for one in clusters.clusters() if one.port == port and one.is_running), None)
    if former is None:
        raise DeploymentError(
            f"no cluster of PostgreSQL runs at port {port}", hint="look at pg_lsclusters", transient=True
        )
    server = clusters.query(former, _SERVER, doing=f"querying {former}", own=replication.OWN)
    places, version = of_port(port), _version(former, to)
    own = {name: one for name, one in server["databases"].items() if name not in OWN}
    facts = {
        name: clusters.query(former, _DATABASE, database=name, doing=f"querying {name}")
        for name, one in server["databases"].items()
        if one["accepts"]
    }
    extensions = sorted({name for one in facts.values() for name in one["extensions"]})
    packages, missing = _packages(former, version, extensions) if version else ([], [])
    sizes = {name: one["size"] for name, one in own.items()}
    problems = [*_problems(former, version, to, server, places, facts), *missing, *_room(former, sizes)]
    return Plan(
        former,
        version,
        packages,
        places,
        sizes,
        extensions,
        {name: one["limit"] for name, one in own.items()},
        [*_reasons(server, {name: facts[name] for name in own if name in facts}, places)],
        problems,
        _notes(former, version, own, facts, extensions),
    )


def _version(former: Cluster, to: str | None) -> str:
    """Return the newest version that is installed or that apt has, if it is newer; or the one that is wished.

    A repository of the PostgreSQL project's may have one that is not released yet: it has to be wished.
    """
    installed = {path.parts[-3] for path in PROGRAMS.glob("*/bin/postgres")}
    listed = commands.run(["apt-cache", "pkgnames", "postgresql-"], doing="reading the names of packages").split()
    offered = _offered([name for name in listed if re.fullmatch(r"postgresql-\d+", name)])
    found = installed | {name.partition("-")[2] for name, version in offered.items() if to or not _BETA.search(version)}
    newer = {one for one in found if one.isdecimal() and int(one) > int(former.version.split(".")[0])}
    if to:
        return to if to in newer else ""
    return max(newer, key=int, default="")


def _offered(names: Sequence[str]) -> dict[str, str]:
    """Return the packages that are installed, or that apt can install, with the version that it would."""
    text = commands.run(["apt-cache", "policy", *names], doing="reading apt's lists") if names else ""
    return dict(re.findall(r"(?m)^(\S+):\n  Installed: .*\n  Candidate: (?!\(none\))(\S+)", text))


def _packages(former: Cluster, version: str, extensions: Sequence[str]) -> tuple[list[str], list[str]]:
    """Return the packages that have the new server and its extensions, and why those of an extension are missing."""
    found, problems = [f"postgresql-{version}"], []
    for name in extensions:
        if Path(_CONTROL.format(version, name)).exists():
            continue
        of_former = _packages_of(former.version, name)
        its = [re.sub(rf"-{re.escape(former.version)}(?=-|$)", f"-{version}", package) for package in of_former]
        others = [package for package in its if package != found[0]]
        missing = [one for one in others if one in of_former or not _offered([one])]
        if missing or not its:
            text = " ".join(missing) or "package of it"
            problems.append(f"the extension {name} is missing in {version}: apt has no {text}")
        else:
            found += others
    is_present = all(Path(_CONTROL.format(version, one)).exists() for one in ["plpgsql"])
    missing = [*([] if is_present else found[:1]), *dict.fromkeys(found[1:])]
    return missing, problems


def _packages_of(version: str, name: str) -> list[str]:
    """Return the packages of an extension: of its control file, which may be a link, and of its library."""
    control = Path(_CONTROL.format(version, name))
    library = _LIBRARY.search(file.read_text(control) or "")
    paths = [os.path.realpath(control), *([str(PROGRAMS / version / f"lib/{library[1]}.so")] if library else [])]
    return [*dict.fromkeys(filter(None, map(_owner, paths)))]


def _owner(path: str) -> str:
    try:
        return commands.run(["dpkg", "--search", path], doing=f"looking for the package of {path}").partition(":")[0]
    except DeploymentError:
        return ""


def _problems(
    former: Cluster,
    version: str,
    to: str | None,
    server: Mapping[str, Any],
    places: Sequence[tuple[Site, Release | None]],
    facts: Mapping[str, Mapping[str, Any]],
) -> Iterator[str]:
    """Yield what is against an upgrade, whichever way."""
    if not version:
        wanted = f"postgresql-{to}" if to else f"a version newer than {former.version}"
        yield f"neither installed nor offered by apt: {wanted}"
    elif clusters.remains(version, former.name) and not is_ours(version, former.name):
        there = f"{version} {former.name}"
        yield f"a cluster {there} exists already, as packages make them; if it is empty: pg_dropcluster --stop {there}"
    if former.data != clusters.DATA / former.version / former.name:
        yield f"its data is in {former.data}, where no new cluster is made: use pg_upgradecluster"
    names = {one["name"] for site, _live in places for one in site.config["databases"].values()}
    for name, one in sorted(server["databases"].items()):
        if name in OWN:
            if facts.get(name, {}).get("tables"):
                yield f"the database {name} has tables, which belong to no site"
        elif name not in names and not one["comment"].startswith(database_server.owner_comment("")):
            yield f"the database {name} of {one['owner']} belongs to no site, and its clients would be disconnected"
        elif not one["accepts"]:
            yield f"the database {name} accepts no connections"
    counts = {"tablespaces": "tablespaces", "replicas": "replicas or replication slots"}
    counts |= {"subscriptions": "subscriptions", "prepared": "prepared transactions"}
    yield from (f"it has {text}, which are not moved" for key, text in counts.items() if server[key])
    if server["archive"] and server["archive"] != "/bin/true":
        yield f"it archives its WAL by {server['archive'].split()[0]}, which has to know the new version first"
    entries = (file.read_json(served.RECORD) or {}).items()
    for name, there in entries:
        if any(one["clients"] and (one["port"] or POSTGRES.port) == former.port for one in there):
            yield f"hosts of {name} use it over the network, whose requests cannot be held here"


def is_ours(version: str, name: str) -> bool:
    """Return whether a cluster is of an upgrade that is recorded."""
    recorded = file.read_json(database_server.STATE / "upgrade.json") or {}
    return recorded.get("new") == [version, name]


def _reasons(
    server: Mapping[str, Any], facts: Mapping[str, Mapping[str, Any]], places: Sequence[tuple[Site, Release | None]]
) -> Iterator[str]:
    """Yield why the data cannot be replicated while the sites serve."""
    if server["wal_level"] != "logical":
        yield f"wal_level is {server['wal_level']}, and has to be logical, which needs a restart"
    if len(facts) + _SPARE_SLOTS > server["slots"]:
        yield f"it has {len(facts)} databases, and max_replication_slots or max_wal_senders is {server['slots']}"
    texts = {"without_key": "no primary key", "unlogged": "no WAL (UNLOGGED)", "of_extensions": "rows of an extension"}
    for name, one in facts.items():
        for key, text in texts.items():
            if one[key]:
                yield f"{name} has tables with {text}: {', '.join(one[key][:5])}"
        if one["views"]:
            yield f"{name} has materialized views, which are not replicated: {', '.join(one['views'][:5])}"
        if one["large_objects"]:
            yield f"{name} has large objects ({one['large_objects']}), which are not replicated"
    for site, live in places:
        if live:
            yield from upgrade_hold.reasons(site, live)


def _room(former: Cluster, sizes: Mapping[str, int]) -> Iterator[str]:
    needed, free = _needed(sizes), _free(former)
    if free < needed:
        yield f"it needs {in_words(needed)} in {former.data.parents[1]}, and {in_words(free)} are free"


def _needed(sizes: Mapping[str, int]) -> int:
    return int(sum(sizes.values()) * _ROOM)


def _free(former: Cluster) -> int:
    return shutil.disk_usage(former.data.parents[1]).free


def _notes(
    former: Cluster,
    version: str,
    own: Mapping[str, Mapping[str, Any]],
    facts: Mapping[str, Mapping[str, Any]],
    extensions: Sequence[str],
) -> dict[str, Any]:
    """Return what was judged, in words."""
    locales = sorted(
        {one["collate"] for one in own.values()} | {name for one in facts.values() for name in one["collations"]}
    )
    by_code = [name for name in locales if name in ("C", "POSIX", "C.UTF-8", "C.utf8")]
    others = [name for name in locales if name not in by_code]
    collations = [f"{name}: by code point, the same in each version" for name in by_code]
    collations += [
        f"{name}: every index is built anew by the copy, in the order of today's libraries" for name in others
    ]
    is_installed = bool(version) and (PROGRAMS / version / "bin/postgres").exists()
    unknown = clusters.unknown_settings(former, version) if is_installed else []
    size = sum(one["size"] for one in own.values())
    return {
        "databases": {name: in_words(one["size"]) for name, one in sorted(own.items())},
        "disk": f"{in_words(size * _ROOM)} needed, {in_words(_free(former))} free",
        "extensions": extensions or "none",
        "collations": collations,
        **({f"settings that {version} does not have": unknown} if unknown else {}),
    }
