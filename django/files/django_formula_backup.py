"""Query a project for a backup: how its databases are reached, and which migrations restored ones are missing.

stdin has the length of this program, the program, and a request (JSON); stdout gets the answer (JSON).
"""

import configparser
import contextlib
import importlib
import json
import os
import sys
import traceback

#: Names of parameters that differ between drivers, and what the answer calls them.
NAMES = {"dbname": "name", "database": "name", "db": "name", "passwd": "password", "unix_socket": "host"}
#: Those that a file of options may have, by their names there.
OPTIONS = ("user", "password", "host", "port", "database", "ssl_mode")
#: Where Debian has services of PostgreSQL for all users.
SERVICES = "/etc/postgresql-common/pg_service.conf"


def connections_of(request):
    """Return the connection parameters of each database, as far as they are text and numbers."""
    from django.db import connections

    found = {alias: connections[alias].get_connection_params() for alias in request["aliases"]}
    return {alias: plain(of_service({**of_option_file(values), **values})) for alias, values in found.items()}


def of_service(values):
    """Return parameters with those of a service of PostgreSQL, which a driver reads in a file itself.

    The clients of a backup would ask its database in place of their own, and do not know the project's file.
    """
    own = os.environ.get("PGSERVICEFILE") or os.path.expanduser("~/.pg_service.conf")
    for path in (own, SERVICES) if "service" in values else ():
        services = parsed(path)
        if values["service"] in services:
            return {**services[values["service"]], **{key: values[key] for key in values if key != "service"}}
    return values


def parsed(path):
    parser = configparser.RawConfigParser(allow_no_value=True, strict=False, delimiters="=")
    with contextlib.suppress(configparser.Error, OSError, ValueError):
        parser.read(path or ())
    return parser


def of_option_file(values):
    """Return the parameters that a driver of MySQL reads in a file of options itself."""
    parser, options = parsed(values.get("read_default_file")), {}
    for group in ("client", values.get("read_default_group")):
        lines = parser[group].items() if group in parser else ()
        options.update({key.replace("-", "_"): unquoted(value) for key, value in lines if value is not None})
    if "socket" in options and options.get("host", "localhost") == "localhost":
        options["host"] = options["socket"]
    found = {key: options[key] for key in OPTIONS if key in options}
    tls = {key[4:]: options[key] for key in options if key.startswith("ssl_") and key != "ssl_mode"}
    return {**found, "ssl": tls} if tls else found


def unquoted(value):
    return value[1:-1] if len(value) > 1 and value[0] == value[-1] and value[0] in "'\"" else value


def plain(values):
    renamed = {NAMES.get(key, key): value for key, value in values.items() if is_plain(value)}
    return {key: plain(value) if isinstance(value, dict) else value for key, value in renamed.items()}


def is_plain(value):
    return isinstance(value, (str, int, float)) or (isinstance(value, dict) and all(isinstance(k, str) for k in value))


def fit(request):
    """Return the pending migrations of databases with other names; with ``migrate`` they are applied first."""
    from django.core.management import call_command
    from django.db import connections

    for alias, name in request["names"].items():
        connections[alias].close()
        if hasattr(connections[alias], "close_pool"):  # since Django 5.1: its connections are those of the former name
            connections[alias].close_pool()
        connections[alias].settings_dict["NAME"] = name
        if request.get("port"):
            connections[alias].settings_dict["PORT"] = str(request["port"])
        if request["migrate"]:
            call_command("migrate", database=alias, interactive=False, verbosity=1, stdout=sys.stderr)
    return {alias: pending(connections[alias]) for alias in request["names"]}


def pending(connection):
    from django.db.migrations.executor import MigrationExecutor

    executor = MigrationExecutor(connection)
    plan = executor.migration_plan(executor.loader.graph.leaf_nodes())
    connection.close()
    return [f"{migration.app_label}.{migration.name}" for migration, backwards in plan if not backwards]


def import_application(request):
    """Import the project; its databases are known although it reads a table that migrations have yet to make."""
    import django
    from django.core.exceptions import AppRegistryNotReady
    from django.db import DatabaseError

    try:
        importlib.import_module(request["application"])
    except AppRegistryNotReady:  # it imports models before it sets up Django, which is all that is needed here
        django.setup()
    except DatabaseError:
        if request["mode"] != "connections":
            raise


def main():
    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)
    request = json.load(sys.stdin)
    try:
        import_application(request)
        answer = {"connections": connections_of, "fit": fit}[request["mode"]](request)
    except (Exception, SystemExit) as error:
        traceback.print_exc()
        print(f"cause: {type(error).__name__}: {' '.join(str(error).split())[:400]}", file=sys.stderr)
        sys.stderr.flush()
        os._exit(1)
    answers.write(f"{json.dumps(answer)}\nanswered\n")  # a log shows the last lines, and the answer has passwords
    answers.flush()
    os._exit(0)


if __name__ == "__main__":
    main()
