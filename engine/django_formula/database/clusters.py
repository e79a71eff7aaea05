"""Clusters of PostgreSQL on this host, as Debian's postgresql-common has them: what is there, made, moved, and copied.

Files of a cluster's configuration belong to postgres, so they are read and written as that user.
"""

import json
import re
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any, NamedTuple

from django_formula.database import engines
from django_formula.database.postgres import PROGRAMS, connection, newest_psql
from django_formula.host import commands, daemons, file, folders, ports, units
from django_formula.host.commands import DeploymentError
from django_formula.host.folders import Folder

USER = "postgres"
CONFIGURATION, DATA = Path("/etc/postgresql"), Path("/var/lib/postgresql")
#: What pg_createcluster reads, which makes the first cluster when Debian's package is installed.
CREATION = Path("/etc/postgresql-common/createcluster.d")
#: The settings of each cluster of its own; the others are copied.
_OWN_SETTINGS = {
    *("cluster_name", "data_directory", "external_pid_file", "hba_file", "ident_file", "port"),
    *("stats_temp_directory",),
}
_COPIED_FILES = ("pg_hba.conf", "pg_ident.conf", "environment", "pg_ctl.conf")
_COPIED_SETTINGS, _MEANWHILE = "conf.d/former-settings.conf", "conf.d/meanwhile.conf"
#: Seconds that a server may take to start or to stop, and a statement to be executed.
_PATIENCE = 300.0
#: Seconds that a database may take to be copied.
_COPYING = 86400.0
#: Dump one database of a cluster into another cluster, where it is created.
_COPY = (
    'set -o pipefail; "$0" --format=custom --compress=0 --port="$2" --dbname="$4" "${@:5}"'
    ' | "$1" --exit-on-error --create --port="$3" --dbname=postgres'
)
_REPLACE = 'umask 027; cat >"$0~" && mv -f "$0~" "$0"'
#: What keeps everyone but superusers out, or lets them in again, and ends the connections that are open.
_LIMIT = "SELECT format('ALTER DATABASE %I CONNECTION LIMIT %s', key, value) FROM json_each_text(:'limits') \\gexec\n"
_END = engines.ending_sessions(
    "pid",
    "FROM pg_stat_activity WHERE datname IN (SELECT json_object_keys(:'limits'))"
    " AND pid <> pg_backend_pid() AND backend_type = 'client backend'",
)
#: The rows of each table, as backups count them, but of extensions' tables too.
ROWS = """SELECT coalesce(json_object_agg(n.nspname || '.' || c.relname, (xpath('/row/rows/text()', query_to_xml(
    format('SELECT count(*) AS rows FROM ONLY %I.%I', n.nspname, c.relname), false, true, '')))[1]::text::bigint), '{}')
  FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace
  WHERE c.relkind = 'r' AND n.nspname NOT LIKE 'pg\\_%' AND n.nspname <> 'information_schema';"""
_NAMES = """SELECT coalesce(json_agg(datname ORDER BY datname), '[]') FROM pg_database
  WHERE datname NOT IN ('postgres', 'template0', 'template1');"""
#: What has been written since the server began to count: inserted, changed and deleted rows of each table.
_WRITTEN = """SELECT coalesce(json_object_agg(schemaname || '.' || relname, json_build_array(n_tup_ins,
    CASE relname WHEN 'pg_class' THEN 0 ELSE n_tup_upd END, n_tup_del)), '{}') FROM pg_stat_all_tables
  WHERE schemaname NOT IN ('pg_catalog', 'pg_toast', 'information_schema')
  OR schemaname = 'pg_catalog' AND relname IN ('pg_class', 'pg_largeobject');"""


class Cluster(NamedTuple):
    """A cluster.

    Attributes:
        version: the major version of its server.
    """

    version: str
    name: str
    port: int
    is_running: bool
    data: Path

    def __str__(self) -> str:
        return f"{self.version} {self.name}"

    def program(self, name: str) -> str:
        """Return the path of a program of its version."""
        return str(PROGRAMS / self.version / "bin" / name)


def prepare_first() -> None:
    """Have the clusters that are made on this host from now on write what logical replication needs."""
    for path in (CREATION.parent, CREATION):
        folders.make(Folder(path, "root", "root", 0o755))
    text = "# Written by django-formula: docs/guides/upgrade-database.md\nwal_level = logical\n"
    file.write(CREATION / "django-formula.conf", text)


def clusters() -> list[Cluster]:
    """Return the clusters of this host, the oldest version first."""
    found = []
    for line in commands.run(["pg_lsclusters", "--no-header"], doing="listing the clusters of PostgreSQL").splitlines():
        version, name, port, status, _owner, data = line.split()[:6]
        found.append(Cluster(version, name, int(port), status.startswith("online"), Path(data)))
    return found


def find(version: str, name: str) -> Cluster | None:
    """Return a cluster, or None where this host does not have it."""
    return next((one for one in clusters() if (one.version, one.name) == (version, name)), None)


def free_port(taken: Iterable[int]) -> int:
    """Return a port after PostgreSQL's own that no cluster has, and nothing listens on."""
    taken = {*taken}
    return next(port for port in range(5433, 5533) if port not in taken and ports.listener(port) is None)


def psql(cluster: Cluster, script: str, *, database: str = "postgres", doing: str, **variables: str) -> str:
    """Return the output of a script that the superuser runs.

    Raises:
        DeploymentError: the server refuses it, or does not answer.
    """
    argv = [newest_psql(), "--no-psqlrc", "--quiet", "--no-align", "--tuples-only", "--no-password"]
    argv += ["--set=ON_ERROR_STOP=1", f"--dbname={connection(database)}", f"--port={cluster.port}"]
    return commands.run(
        [*argv, *(f"--set={name}={value}" for name, value in variables.items())],
        doing=doing,
        user=USER,
        environment={"PGCONNECT_TIMEOUT": "10", "PGOPTIONS": "-c search_path=pg_catalog"},
        timeout=_PATIENCE,
        stdin=script,
        secrets=re.findall(r"SCRAM-SHA-256\$[^']+|md5[0-9a-f]{32}", script),
    )


def query(cluster: Cluster, script: str, *, database: str = "postgres", doing: str, **variables: str) -> Any:
    """Return the JSON that a script answers."""
    return json.loads(psql(cluster, script, database=database, doing=doing, **variables))


def _as_owner(argv: list[str], *, doing: str, stdin: str = "", timeout: float = _PATIENCE) -> str:
    return commands.run(argv, doing=doing, user=USER, stdin=stdin, timeout=timeout)


def create(former: Cluster, version: str, name: str, port: int, meanwhile: Mapping[str, str] | None = None) -> Cluster:
    """Make a cluster of another version, set up as a former one that runs, and start it; no boot does.

    Args:
        meanwhile: settings that it has until `forget_meanwhile`, and its next start.

    Raises:
        DeploymentError: a program fails, or the server does not start with the settings of the former one.
    """
    made_of = query(former, _MADE_OF, doing=f"querying {former}")
    argv = ["pg_createcluster", "--encoding", made_of["encoding"], "--lc-collate", made_of["collate"]]
    argv += ["--lc-ctype", made_of["ctype"], "--locale", made_of["collate"], "--start-conf", "manual"]
    argv += ["--port", str(port), version, name, "--", *(["--data-checksums"] if made_of["checksums"] else [])]
    commands.run(argv, doing=f"creating {version} {name}", timeout=_PATIENCE)
    made = find(version, name)
    if made is None:
        raise DeploymentError(f"{version} {name} is not there after it was created", hint="look at pg_lsclusters")
    known = _known(version)
    lines = "".join(f"{name} = '{_escaped(value)}'\n" for name, value in settings(former).items() if name in known)
    head = f"# The settings of {former}, copied by django-formula.\n"
    _write(_file(made, _COPIED_SETTINGS), head + lines)
    if meanwhile:
        _write(_file(made, _MEANWHILE), "".join(f"{name} = {value}\n" for name, value in meanwhile.items()))
    for one in _COPIED_FILES:
        _write(_file(made, one), _as_owner(["cat", str(_file(former, one))], doing=f"reading {one}"))
    control("start", made)
    return made._replace(is_running=True)


_MADE_OF = """SELECT json_build_object('encoding', pg_encoding_to_char(encoding), 'collate', datcollate,
  'ctype', datctype, 'checksums', current_setting('data_checksums')::bool) FROM pg_database WHERE datname = 'template1';
"""


def forget_meanwhile(cluster: Cluster) -> None:
    """Take out the settings that a cluster has had while it was filled."""
    _as_owner(["rm", "-f", str(_file(cluster, _MEANWHILE))], doing=f"changing the settings of {cluster}")


def checkpoint(*of: Cluster) -> None:
    """Have servers write what they have in memory, so that they stop quickly soon after."""
    for cluster in of:
        psql(cluster, "CHECKPOINT;", doing=f"a checkpoint of {cluster}")


def settings(cluster: Cluster) -> dict[str, str]:
    """Return the settings in the files of a cluster that runs, without those that each cluster has of its own."""
    rows = query(cluster, _SETTINGS, doing=f"reading the settings of {cluster}")
    return {name: value for name, value in rows.items() if name not in _OWN_SETTINGS}


_SETTINGS = "SELECT json_object_agg(name, setting) FROM pg_file_settings WHERE applied;"


def unknown_settings(cluster: Cluster, version: str) -> list[str]:
    """Return the settings of a cluster that another version, which is installed, does not have."""
    known = _known(version)
    return sorted(name for name in settings(cluster) if name not in known)


class _Known(frozenset[str]):
    """The settings of a version; those of extensions, which have a dot in their names, are known to each."""

    def __contains__(self, name: object) -> bool:
        return super().__contains__(name) or "." in str(name)


def _known(version: str) -> _Known:
    argv = [str(PROGRAMS / version / "bin/postgres"), "--describe-config"]
    text = commands.run(argv, doing=f"reading the settings of PostgreSQL {version}", user=USER)
    return _Known(line.partition("\t")[0].lower() for line in text.splitlines())


def _escaped(value: str) -> str:
    """Return a value as it is between quotes in postgresql.conf, where it may have escapes and has no end of a line."""
    return value.replace("\\", r"\\").replace("\n", r"\n").replace("'", "''")


def _file(cluster: Cluster, name: str) -> Path:
    return CONFIGURATION / cluster.version / cluster.name / name


def _write(path: Path, text: str) -> None:
    _as_owner(["sh", "-c", _REPLACE, str(path)], doing=f"writing {path}", stdin=text)


def extensions_without_files(names: Iterable[str], version: str) -> list[str]:
    """Return the extensions that an installed version does not have."""
    folder = Path("/usr/share/postgresql") / version / "extension"
    return sorted(name for name in names if not (folder / f"{name}.control").exists())


def control(verb: str, cluster: Cluster) -> None:
    """Start or stop the server of a cluster; nothing happens where it is so already.

    Raises:
        DeploymentError: it fails; the last lines of the server's log are in the error.
    """
    found = find(cluster.version, cluster.name)
    if found is not None and found.is_running != (verb == "start"):
        _control(verb, cluster)


def _control(verb: str, *of: Cluster) -> None:
    doing = f"{'starting' if verb == 'start' else 'stopping'} PostgreSQL {of[0]}"
    try:
        if daemons.has_systemd():
            names = [f"postgresql@{one.version}-{one.name}.service" for one in of]
            # a server that was killed leaves its unit failed, and each start counts for a limit
            units.attempt("reset-failed", *names, doing=doing)
            units.control(verb, *names, doing=doing, timeout=_PATIENCE)
            return
        for one in of:
            commands.run(["pg_ctlcluster", one.version, one.name, verb], doing=doing, timeout=_PATIENCE, daemon=True)
    except DeploymentError as error:
        path = f"/var/log/postgresql/postgresql-{of[0].version}-{of[0].name}.log"
        error.log = _as_owner(["tail", "--lines=20", path], doing=f"reading {path}") or error.log
        raise


def _place(cluster: Cluster, port: int, *, at_boot: bool) -> None:
    """Set the port that a cluster has from its next start on, and whether a boot starts it."""
    argv = ["pg_conftool", cluster.version, cluster.name, "set", "port", str(port)]
    _as_owner(argv, doing=f"setting the port of {cluster}")
    _write(_file(cluster, "start.conf"), "auto\n" if at_boot else "manual\n")


def exchange(serving: Cluster, port: int, other: Cluster, other_port: int) -> None:
    """Have one cluster run at a port and at each boot, and another one stopped, with another port.

    It can be repeated at any time, and then does what is left.
    """
    now = {str(one): one for one in clusters()}
    current, others = now.get(str(serving)), [other] if str(other) in now else []
    is_there = current is not None and current.is_running and current.port == port
    running = [
        one for one in ([] if is_there else [serving]) + others if daemons.has_systemd() or now[str(one)].is_running
    ]
    if running:
        _control("stop", *running)
    for one in others:
        _place(one, other_port, at_boot=False)
    _place(serving, port, at_boot=True)
    try:
        _control("start", serving)  # also one that runs: systemd may be about to stop it
    except DeploymentError:
        if not is_there or not any(one.is_running and one[:2] == serving[:2] for one in clusters()):
            raise


def tell_systemd() -> None:
    """Have systemd read which clusters a start of PostgreSQL as a whole starts; a boot reads that by itself."""
    if daemons.has_systemd():
        units.daemon_reload()


def drop(cluster: Cluster) -> None:
    """Remove a cluster with all its data; nothing happens where it is not there."""
    if find(cluster.version, cluster.name) is None:
        return
    control("stop", cluster)
    argv = ["pg_dropcluster", cluster.version, cluster.name]
    commands.run(argv, doing=f"removing the cluster {cluster}", timeout=_PATIENCE)


def remains(version: str, name: str) -> list[Path]:
    """Return the folders that a cluster has, also one whose creation was interrupted, which is not listed."""
    return [path for path in (CONFIGURATION / version / name, DATA / version / name) if path.exists()]


def remove_remains(version: str, name: str) -> None:
    """Remove the folders of a cluster that is not listed."""
    if remains(version, name) and find(version, name) is None:
        folders_of = [str(path) for path in remains(version, name)]
        _as_owner(["rm", "--recursive", "--force", *folders_of], doing=f"removing the remains of {version} {name}")


def copy_roles(former: Cluster, new: Cluster) -> None:
    """Create the roles of a cluster in a new one, with their passwords and memberships."""
    argv = [new.program("pg_dumpall"), "--globals-only", f"--port={former.port}", "--no-password"]
    text = _as_owner(argv, doing=f"reading the roles of {former}")
    lines = "".join(f"{line}\n" for line in text.splitlines() if line != f"CREATE ROLE {USER};")
    psql(new, lines, doing=f"creating the roles in {new}")


def copy_database(former: Cluster, new: Cluster, name: str, *, schema_only: bool = False) -> None:
    """Create a database of a cluster in another one, as it is at this moment."""
    programs = [new.program("pg_dump"), new.program("pg_restore")]
    more = ["--schema-only", "--no-publications", "--no-subscriptions"] if schema_only else []
    argv = ["bash", "-c", _COPY, *programs, str(former.port), str(new.port), connection(name), *more]
    _as_owner(argv, doing=f"copying the database {name}", timeout=_COPYING)


def analyze(cluster: Cluster, *, marks: bool = False) -> None:
    """Collect the statistics by which the server plans queries: a copy has none.

    Args:
        marks: mark each page whose rows all see too, which the first count of rows would write to the disk otherwise.
    """
    argv = [cluster.program("vacuumdb"), "--quiet", "--all", "--analyze" if marks else "--analyze-only"]
    argv += ["--jobs=2", f"--port={cluster.port}"]
    _as_owner(argv, doing=f"analyzing {cluster}", timeout=_COPYING)


def limit(cluster: Cluster, limits: Mapping[str, int], *, end: bool = False) -> None:
    """Set how many connections databases accept from others than superusers.

    Args:
        end: end those that are open.
    """
    if limits:
        script, text = _LIMIT + (_END if end else ""), json.dumps(dict(limits))
        psql(cluster, script, doing=f"setting the connections of {cluster}", limits=text)


def names(cluster: Cluster) -> list[str]:
    """Return the databases of a cluster, without those that each has."""
    found: list[str] = query(cluster, _NAMES, doing=f"listing the databases of {cluster}")
    return found


def rows(cluster: Cluster, names: Iterable[str]) -> dict[str, dict[str, int]]:
    """Return the rows of each table, by database."""
    return {name: query(cluster, ROWS, database=name, doing=f"counting the rows of {name}") for name in names}


def activity(cluster: Cluster, names: Iterable[str]) -> dict[str, dict[str, list[int]]]:
    """Return what the server has counted as written, by database and table: inserted, changed, deleted rows."""
    return {name: query(cluster, _WRITTEN, database=name, doing=f"querying {name}") for name in names}


def written(before: Mapping[str, Mapping[str, list[int]]], now: Mapping[str, Mapping[str, list[int]]]) -> list[str]:
    """Return what was written between two answers of `activity`, in words; empty where nothing was."""
    found = []
    for database, tables in now.items():
        for table, counts in sorted(tables.items()):
            was = before.get(database, {}).get(table, [0, 0, 0])
            parts = [
                f"{count - former} {verb}"
                for count, former, verb in zip(counts, was, ("inserted", "changed", "deleted"), strict=True)
                if count != former
            ]
            label = {
                "pg_catalog.pg_class": "tables or indexes themselves",
                "pg_catalog.pg_largeobject": "large objects",
            }
            if any(count < former for count, former in zip(counts, was, strict=True)):
                found.append(f"{database}: not known, since the server was killed meanwhile")
                break
            if parts:
                found.append(f"{database}: {label.get(table, table)}: {', '.join(parts)}")
    return found
