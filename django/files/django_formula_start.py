"""One start of Django in a site's virtualenv, as its user: stdin has a request, stdout gets the answer, both JSON."""

import io
import json
import os
import sys
import traceback


def start(request):
    import_wsgi(request["wsgi"])
    from django.conf import settings

    answer = effective(settings)
    if request["collect"] and "django.contrib.staticfiles" in settings.INSTALLED_APPS:
        answer["collected"] = collect(settings, request["static_root"])
    answer["migrations"] = {alias: migrations(alias) for alias in migrated_databases(request["migrate"])}
    if not any(names["pending"] for names in answer["migrations"].values()):
        answer["checks"] = checks(request)
    return answer


def migrate(request):
    import_wsgi(request["wsgi"])
    from django.core.management import call_command

    for alias in request["databases"]:
        call_command("migrate", database=alias, interactive=False, verbosity=1, stdout=sys.stderr)
    return {
        "migrations": {alias: migrations(alias) for alias in request["databases"]},
        "checks": checks(request),
    }


def check(request):
    import_wsgi(request["wsgi"])
    return {"checks": checks(request)}


def import_wsgi(name):
    """Import the WSGI module as the server does; it sets Django up."""
    import importlib

    module = importlib.import_module(name)
    if not callable(getattr(module, "application", None)):
        raise RuntimeError(f"{name} has no application")


def effective(settings):
    import django

    module = os.environ["DJANGO_SETTINGS_MODULE"]
    return {
        "django": django.get_version(),
        "python": ".".join(map(str, sys.version_info[:3])),
        "settings_module": settings.SETTINGS_MODULE,
        "expected_settings_module": module,
        "debug": bool(settings.DEBUG),
        "allowed_hosts": [str(host) for host in settings.ALLOWED_HOSTS],
        "static_url": str(settings.STATIC_URL or ""),
        "static_root": str(settings.STATIC_ROOT or ""),
        "media_url": str(settings.MEDIA_URL or ""),
        "media_root": str(settings.MEDIA_ROOT or ""),
        "databases": {
            alias: {"engine": database["ENGINE"], "name": str(database["NAME"])}
            for alias, database in settings.DATABASES.items()
        },
    }


def collect(settings, static_root):
    """Collect static files; returns how many there are."""
    from django.core.management import call_command

    if os.path.realpath(settings.STATIC_ROOT or "") != os.path.realpath(static_root):
        raise RuntimeError(
            f"STATIC_ROOT is {settings.STATIC_ROOT!r}, not {static_root}: "
            "with overlay: false the project has to read it"
        )
    output = io.StringIO()
    call_command("collectstatic", interactive=False, verbosity=0, stdout=output, stderr=sys.stderr)
    return sum(len(files) for _parent, _folders, files in os.walk(static_root))


def migrated_databases(said):
    """The databases that the pillar names, but for those that it excepts; the default one, and every SQLite file."""
    from django.db import connections

    databases = connections.settings if hasattr(connections, "settings") else connections.databases
    return [
        alias
        for alias, database in databases.items()
        if not database["ENGINE"].endswith(".dummy")
        and said.get(alias, alias == "default" or "sqlite" in database["ENGINE"] or "spatialite" in database["ENGINE"])
    ]


def migrations(alias):
    """Names of the migrations of the source: those that the database has, and those that it lacks, in order."""
    from django.db import connections
    from django.db.migrations.executor import MigrationExecutor

    executor = MigrationExecutor(connections[alias])
    plan = executor.migration_plan(executor.loader.graph.leaf_nodes())
    applied = set(executor.loader.applied_migrations) & set(executor.loader.graph.nodes)
    return {
        "applied": sorted(".".join(key) for key in applied),
        "pending": [f"{m.app_label}.{m.name}" for m, backwards in plan if not backwards],
    }


def checks(request):
    """Messages of the system checks; one at the level of an error, or with ``deploy`` of a warning, raises."""
    from django.core import checks as framework

    found = framework.run_checks(include_deployment_checks=True)
    messages = [m for m in found if not m.is_silenced() and m.id not in request["ignored_checks"]]
    limit = framework.WARNING if request["check"] == "deploy" else framework.ERROR
    serious = [m for m in messages if m.level >= limit]
    if serious:
        for message in serious:
            print(message, file=sys.stderr)
        raise RuntimeError(
            f"{len(serious)} of Django's checks fail: {', '.join(sorted({m.id or '?' for m in serious}))}"
        )
    return [f"{m.id}: {' '.join(str(m.msg).split())[:200]}" for m in messages if m.level >= framework.WARNING]


def cause(error):
    """The exception with the last place in its traceback that is the project's own."""
    places = [frame for frame in traceback.extract_tb(error.__traceback__) if "site-packages" not in frame.filename]
    places = [
        frame
        for frame in places
        if not frame.filename.startswith((sys.prefix, sys.base_prefix, "<")) and frame.filename != __file__
    ]
    where = f" ({os.path.relpath(places[-1].filename)}:{places[-1].lineno})" if places else ""
    if isinstance(error, SyntaxError) and error.filename:
        where = f" ({os.path.relpath(error.filename)}:{error.lineno})"
    text = " ".join(str(error.msg if isinstance(error, SyntaxError) else error).split())[:400]
    return f"{type(error).__name__}: {text}{where}"


def main():
    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)
    request = json.load(sys.stdin)
    try:
        answer = {"start": start, "migrate": migrate, "check": check}[request["mode"]](request)
    except (Exception, SystemExit) as error:
        traceback.print_exc()
        print(f"cause: {cause(error)}", file=sys.stderr)
        sys.stderr.flush()
        os._exit(1)
    json.dump(answer, answers)
    answers.flush()
    sys.stderr.flush()
    os._exit(0)


if __name__ == "__main__":
    main()
