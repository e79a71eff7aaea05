"""Logical replication of all databases of a cluster into a new one, from their copy until both are equal."""

import functools
import time
from collections.abc import Callable, Iterable

from django_formula.database import clusters, engines
from django_formula.database.clusters import Cluster
from django_formula.database.postgres import connection
from django_formula.host.commands import DeploymentError

# Publications and subscriptions are named formula_upgrade, replication slots likewise with a number. PostgreSQL makes
# more slots while it copies tables, and leaves them where it is killed then: pg_16400_sync_16385_….

#: Of names of slots and of connections for replication, those of the copy.
OWN = "^(formula_upgrade|pg_[0-9]+_sync_[0-9]+_)"
#: Seconds that the copy, and the last of what was written, may take.
_COPYING, _REST = 86400.0, 60.0
#: Bytes of the WAL that may be left when requests are held.
_NEAR = 1 << 20
_PUBLISH = "CREATE PUBLICATION formula_upgrade FOR ALL TABLES;\n"
_SUBSCRIBE = """SELECT format('CREATE SUBSCRIPTION formula_upgrade CONNECTION %L PUBLICATION formula_upgrade
  WITH (slot_name = %L)', :'connection', :'slot') \\gexec
"""
_COPIED = "SELECT count(*) FROM pg_subscription_rel WHERE srsubstate <> 'r';"
_LAG = """SELECT coalesce(max(pg_current_wal_lsn() - confirmed_flush_lsn), 0)::bigint FROM pg_replication_slots
  WHERE slot_name LIKE 'formula_upgrade%';"""
_REACHED = """SELECT bool_and(confirmed_flush_lsn >= :'position') FROM pg_replication_slots
  WHERE slot_name LIKE 'formula_upgrade%';"""
_SEQUENCES = """SELECT coalesce(string_agg(format('SELECT setval(%L, %s, %s);',
  format('%I.%I', schemaname, sequencename), coalesce(last_value, start_value),
  (last_value IS NOT NULL)::text), E'\\n'), '') FROM pg_sequences;"""
_UNSUBSCRIBE = """SELECT 'ALTER SUBSCRIPTION formula_upgrade DISABLE' FROM pg_subscription s
  JOIN pg_database d ON d.oid = s.subdbid WHERE datname = current_database() \\gexec
SELECT 'ALTER SUBSCRIPTION formula_upgrade SET (slot_name = NONE)' FROM pg_subscription s
  JOIN pg_database d ON d.oid = s.subdbid WHERE datname = current_database() \\gexec
DROP SUBSCRIPTION IF EXISTS formula_upgrade;
"""
_OF_SLOTS = "FROM pg_replication_slots WHERE slot_name ~ :'own' AND active_pid IS NOT NULL"
_DROP = """SELECT pg_drop_replication_slot(slot_name) FROM pg_replication_slots WHERE slot_name ~ :'own';
"""
_DROP_SLOTS = engines.ending_sessions("active_pid", _OF_SLOTS) + _DROP


def needs(databases: int) -> dict[str, str]:
    """Return the settings that the new cluster needs for so many subscriptions at once."""
    workers = 2 * databases + 4
    return {
        "max_logical_replication_workers": str(workers),
        "max_replication_slots": str(workers),
        "max_worker_processes": str(workers + 8),
    }


def copy(former: Cluster, new: Cluster, names: Iterable[str]) -> None:
    """Copy each database, and follow what is written, until the new cluster is near to that.

    Raises:
        DeploymentError: it does not get there.
    """
    for number, name in enumerate(names):
        clusters.copy_database(former, new, name, schema_only=True)
        clusters.psql(former, _PUBLISH, database=name, doing=f"publishing {name}")
        place = f"port={former.port} user=postgres {connection(name)}"
        variables = {"connection": place, "slot": f"formula_upgrade_{number}"}
        clusters.psql(new, _SUBSCRIBE, database=name, doing=f"subscribing to {name}", **variables)
        _wait(functools.partial(_is_copied, new, name), _COPYING, f"the copy of {name}")
    _wait(lambda: int(_ask(former, _LAG)) < _NEAR, _COPYING, "what is written meanwhile")


def _is_copied(new: Cluster, name: str) -> bool:
    return _ask(new, _COPIED, name) == "0"


def finish(former: Cluster, new: Cluster, names: Iterable[str]) -> None:
    """Once nothing is written any more: wait for the last of it, set the sequences, and end the replication.

    Raises:
        DeploymentError: the new cluster does not get it.
    """
    position = _ask(former, "SELECT pg_current_wal_lsn();")
    _wait(lambda: _ask(former, _REACHED, position=position) == "t", _REST, "the last of what was written", 0.05)
    for name in names:
        script = _ask(former, _SEQUENCES, name)
        clusters.psql(new, f"{script}\n{_UNSUBSCRIBE}", database=name, doing=f"ending the replication of {name}")
    remove(former, names)


def remove(former: Cluster, names: Iterable[str]) -> None:
    """Remove what the replication has made in the former cluster: a slot that is left keeps its WAL for ever."""
    clusters.psql(former, _DROP_SLOTS, doing="removing the replication slots", own=OWN)
    for name in names:
        script = "SET client_min_messages = error;\nDROP PUBLICATION IF EXISTS formula_upgrade;\n"
        clusters.psql(former, script, database=name, doing=f"removing the publication of {name}")


def _ask(cluster: Cluster, script: str, database: str = "postgres", **variables: str) -> str:
    return clusters.psql(cluster, script, database=database, doing=f"querying {cluster}", **variables).strip()


def _wait(is_there: Callable[[], bool], within: float, what: str, interval: float = 0.5) -> None:
    deadline = time.monotonic() + within
    while not is_there():
        if time.monotonic() > deadline:
            raise DeploymentError(f"{what} did not reach the new cluster within {int(within)} s")
        time.sleep(interval)
