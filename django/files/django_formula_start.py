"""One start of Django in a site's virtualenv, as its user: stdin has a request, stdout gets the answer, both JSON."""

import gc
import io
import json
import os
import re
import sys
import traceback

#: As the formula has set it, before anything of the project is imported.
SETTINGS_MODULE = os.environ.get("DJANGO_SETTINGS_MODULE")


def start(request):
    gc.disable()  # this process ends before garbage matters, and its imports are a tenth quicker
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

    # (dynaconf has a list of files there)
    named = settings.SETTINGS_MODULE if isinstance(settings.SETTINGS_MODULE, str) else None
    return {
        "django": django.get_version(),
        "python": ".".join(map(str, sys.version_info[:3])),
        "settings_module": named or os.environ["DJANGO_SETTINGS_MODULE"],
        "expected_settings_module": SETTINGS_MODULE,
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
    """Messages of the system checks; an error raises, and with ``deploy`` what `check --deploy` finds besides."""
    from django.core import checks as framework

    def heard(messages):
        return [m for m in messages if not m.is_silenced() and m.id not in request["ignored_checks"]]

    found = heard(framework.run_checks())
    of_deployment = framework.registry.registry.deployment_checks
    deployment = heard([message for check in of_deployment for message in check(app_configs=None, databases=None)])
    serious = [m for m in found if m.level >= framework.ERROR]
    if request["check"] == "deploy":
        serious = [m for m in [*found, *deployment] if m.level >= framework.WARNING]
    if serious:
        for message in serious:
            print(message, file=sys.stderr)
        raise RuntimeError(
            f"{len(serious)} of Django's checks fail: {', '.join(sorted({m.id or '?' for m in serious}))}"
        )
    warnings = [m for m in [*found, *deployment] if m.level >= framework.WARNING]
    return [f"{m.id}: {' '.join(str(m.msg).split())[:200]}" for m in warnings]


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


def missing_variable(error):
    """The environment variable that the project asks for and has not got; empty when it is something else."""
    frames = traceback.extract_tb(error.__traceback__)
    if isinstance(error, KeyError) and frames and frames[-1].filename in (os.__file__, "<frozen os>"):
        return str(error.args[0])
    for pattern in (
        r"^Set the (\w+) environment variable",  # django-environ
        r"^(\w+) not found. Declare it as envvar",  # python-decouple
        r'^Environment variable "(\w+)" not set',  # environs
        r"(?i)environment variable '?\"?(\w+)'?\"? (?:is )?(?:required|not set|missing|must be set)",
    ):
        found = re.search(pattern, str(error))
        if found:
            return found.group(1)
    return ""


def main():
    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)
    request = json.load(sys.stdin)
    try:
        answer = {"start": start, "migrate": migrate, "check": check}[request["mode"]](request)
    except (Exception, SystemExit) as error:
        traceback.print_exc()
        print(f"missing: {missing_variable(error)}\ncause: {cause(error)}", file=sys.stderr)
        sys.stderr.flush()
        os._exit(1)
    json.dump(answer, answers)
    answers.flush()
    sys.stderr.flush()
    os._exit(0)


if __name__ == "__main__":
    main()
