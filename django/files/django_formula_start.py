"""Start Django once in a site's virtualenv, as its user: a request on stdin, the answer on stdout, both JSON."""

import contextlib
import functools
import gc
import importlib
import io
import json
import os
import re
import sys
import textwrap
import traceback

#: The formula's value, read before the project is imported.
SETTINGS_MODULE = os.environ.get("DJANGO_SETTINGS_MODULE")
#: Settings by which a browser may not send a cookie back.
COOKIES = ("SESSION_COOKIE_SECURE", "CSRF_COOKIE_SECURE", "SESSION_COOKIE_DOMAIN", "CSRF_COOKIE_DOMAIN")
#: Django's own DATA_UPLOAD_MAX_MEMORY_SIZE.
LARGEST_BODY = 2621440
#: How databases report a table or column that is missing.
NOT_MADE = "(?i)(relation|table|column) .*(does not|doesn't) exist|no such (table|column)|unknown column"
#: The applications whose ready() has ended before its end, each with the cause.
unready = []
#: A time limit in PostgreSQL's command-line options, and its units in seconds.
STATEMENT_TIMEOUT = r"(?:-c *|--)statement[_-]timeout=(\d+)(us|ms|s|min|h|d)?"
UNITS = {"us": 1e-6, "": 1e-3, "ms": 1e-3, "s": 1, "min": 60, "h": 3600, "d": 86400}


def start(request):
    gc.disable()  # imports are 10 % faster, and the process ends before garbage matters
    with static_urls_without_hash() if request["collect"] else contextlib.nullcontext():
        import_application(request["application"])
    from django.conf import settings

    answer = {**effective(settings), "unready": unready}
    is_expected = answer["settings_module"] == answer["expected_settings_module"]  # else the release is refused
    if request["collect"] and is_expected and "django.contrib.staticfiles" in settings.INSTALLED_APPS:
        answer["static_storage"] = static_storage()
        if request.get("push") and answer["static_storage"]["elsewhere"]:
            raise RuntimeError(f"{answer['static_storage']['class']} uploads static files itself")
        answer["collected"] = collect(settings, request["static_root"])
        answer["static_code"] = static_code(settings)
    if request.get("cache_tables"):
        answer["cache_tables"] = missing_tables(request["cache_tables"])
    if request.get("celery"):
        answer["celery"] = celery_apps(request["celery"])
    answer["faults"] = faults(settings, request, answer)
    databases = migrated_databases(request["migrate"])
    for alias in databases if request["write_ahead"] else ():
        write_ahead(alias)
    answer["migrations"] = {alias: migrations(alias) for alias in databases}
    pending = {alias: names["pending"] for alias, names in answer["migrations"].items() if names["pending"]}
    if pending:
        for alias in pending:
            require_order(alias)
        answer["schema"] = {alias: classified(alias, names) for alias, names in pending.items()}
    else:
        answer["checks"] = [*checks(request), *not_made(databases)]
    return answer


def check(request):
    import_application(request["application"])
    return {"checks": checks(request)}


def import_application(name):
    """Import the module of the application as the server does, which sets up Django; some only do at a request."""
    import django_formula_application

    with contextlib.suppress(ImportError):  # of Django, which the import of the project reports
        ready_before_migrations()
    module = django_formula_application.module(name)
    if not callable(getattr(module, "application", None)):
        raise RuntimeError(f"{name} has no application")
    import django
    from django.apps import apps

    if not apps.ready:
        django.setup()


def ready_before_migrations():
    """Have the ready() of an application end where it reads what pending migrations make; the others go on.

    Without it such a project could not be migrated, least of all from an empty database. The server, which is started
    after the migrations, runs all of ready().
    """
    from django.apps import AppConfig

    create = AppConfig.create.__func__

    def made(cls, entry):
        config = create(cls, entry)
        config.ready = functools.partial(ready_if_migrated, config.name, config.ready)
        return config

    AppConfig.create = classmethod(made)


def ready_if_migrated(name, ready):
    from django.db import DatabaseError, connections

    try:
        ready()
    except DatabaseError as error:
        if not re.search(NOT_MADE, str(error)) or not migrations("default")["pending"]:
            raise
        connections.close_all()
        unready.append(f"{name}: {described(error)}")


@contextlib.contextmanager
def static_urls_without_hash():
    """Give URLs of static files without the hash in their names, as Django does with DEBUG.

    A project may ask for them while it is imported, in ``class Media`` of an admin.py: this process collects the files,
    and has no manifest before. The server and commands, which import the project anew, have it.
    """
    from django.contrib.staticfiles.storage import HashedFilesMixin

    hashed = HashedFilesMixin.url
    HashedFilesMixin.url = lambda storage, name, force=False: super(HashedFilesMixin, storage).url(name)
    try:
        yield
    finally:
        HashedFilesMixin.url = hashed


def static_code(settings):
    """Return the URLs' names of the project's modules that lie in STATICFILES_DIRS."""
    entries = [entry if isinstance(entry, (list, tuple)) else ("", entry) for entry in settings.STATICFILES_DIRS]
    if not entries:  # the real paths of all modules take 3 % of a start of Django
        return []
    folders = [(prefix, os.path.join(os.path.realpath(str(folder)), "")) for prefix, folder in entries]
    files = {os.path.realpath(module.__file__) for module in list(sys.modules.values()) if is_source(module)}
    return sorted(
        os.path.join(prefix or "", file[len(folder) :])
        for prefix, folder in folders
        for file in files
        if file.startswith(folder)
    )


def is_source(module):
    """Return whether a module was imported from a file; a project may put anything among its modules."""
    name = getattr(module, "__file__", None)
    return isinstance(name, str) and name.endswith(".py")


def missing_tables(names):
    """Return those of some tables that the default database lacks."""
    from django.db import connection

    with connection.cursor() as cursor:
        present = connection.introspection.table_names(cursor)
    return [name for name in names if name not in present]


def effective(settings):
    import django

    former = list(getattr(settings, "SECRET_KEY_FALLBACKS", None) or ()) if django.VERSION >= (4, 1) else []
    return {
        "django": django.get_version(),
        "python": ".".join(map(str, sys.version_info[:3])),
        "settings_module": settings_module(settings),
        "expected_settings_module": SETTINGS_MODULE,
        "debug": bool(settings.DEBUG),
        "allowed_hosts": [str(host) for host in settings.ALLOWED_HOSTS],
        "static_url": str(settings.STATIC_URL or ""),
        "static_root": str(settings.STATIC_ROOT or ""),
        "media_url": str(settings.MEDIA_URL or ""),
        "media_root": str(settings.MEDIA_ROOT or ""),
        "cookies": {name: getattr(settings, name, None) for name in COOKIES},
        "https": https(settings),
        "trusted_origins": [str(origin) for origin in getattr(settings, "CSRF_TRUSTED_ORIGINS", None) or ()],
        "script_name": getattr(settings, "FORCE_SCRIPT_NAME", None),
        "largest_body": largest_body(settings),
        "timeouts": dict(timeouts(settings.DATABASES)),
        "signed_for": longest_age(settings),
        "former_keys": len(list(filter(None, former))),
        "empty_former_key": not all(former),
        "databases": {
            alias: {key.lower(): str(database.get(key) or "") for key in ("ENGINE", "NAME", "HOST", "PORT")}
            for alias, database in settings.DATABASES.items()
        },
        "own_files": own_files(),
    }


def settings_module(settings):
    """Return the name of the module that Django has taken the settings from."""
    module = os.environ["DJANGO_SETTINGS_MODULE"]
    # A project may have a setting of this name; dynaconf has a list of files there.
    is_own = hasattr(sys.modules.get(module), "SETTINGS_MODULE")
    named = settings.SETTINGS_MODULE
    return named if isinstance(named, str) and not is_own else module


def faults(settings, request, answer):
    """Return what fails without a sign; a project in which that cannot be found out starts all the same."""
    is_here = "collected" in answer and not answer["static_storage"]["elsewhere"]
    root = request["static_root"] if is_here else ""
    try:
        import django_formula_faults

        return django_formula_faults.found(settings, request.get("workers", {}), request.get("modules", []), root)
    except Exception as error:
        print(f"what fails without a sign was not found out: {cause(error)}", file=sys.stderr)
        return {}


def celery_apps(request):
    """Return what the Celery app of each worker is, by the worker's name."""
    import django_formula_celery_app

    found = {}
    for app in set(request["workers"].values()):
        found[app] = django_formula_celery_app.facts(app, request["modules"])
    return {worker: found[app] for worker, app in request["workers"].items()}


def own_files():
    """Return the SQLite files of the project's own settings, which the overlay may have moved, by alias."""
    overlay = sys.modules.get("django_formula_settings")
    databases = getattr(overlay, "_project", {}).get("DATABASES") or {}
    return {
        alias: os.path.realpath(str(database["NAME"]))
        for alias, database in databases.items()
        if "lite" in str(database.get("ENGINE")) and database.get("NAME")
    }


def https(settings):
    """Return whether Django redirects to https, and the header by which it recognises requests over https."""
    header = getattr(settings, "SECURE_PROXY_SSL_HEADER", None)
    redirects = getattr(settings, "SECURE_SSL_REDIRECT", False)
    has_middleware = any(
        str(name).endswith("SecurityMiddleware") for name in getattr(settings, "MIDDLEWARE", None) or ()
    )
    return {"redirect": bool(redirects and has_middleware), "header": str(header[0]) if header else None}


def largest_body(settings):
    """Return the project's limit of a request without its files, in bytes; None if it is Django's default."""
    size = getattr(settings, "DATA_UPLOAD_MAX_MEMORY_SIZE", None)
    return size if isinstance(size, int) and size != LARGEST_BODY else None


def timeouts(databases):
    """Yield the options with a time limit of databases, and their seconds."""
    for alias, database in databases.items():
        options = database.get("OPTIONS") or {}
        for name in ("connect_timeout", "read_timeout", "write_timeout", "timeout"):
            seconds = options.get(name)
            if isinstance(seconds, (int, float)):
                yield f"DATABASES[{alias!r}]['OPTIONS'][{name!r}]", seconds
        # PostgreSQL takes the last one; a number without a unit is in milliseconds, and 0 is no limit.
        found = re.findall(STATEMENT_TIMEOUT, str(options.get("options") or ""))
        if found:
            number, unit = found[-1]
            yield f"DATABASES[{alias!r}]['OPTIONS']['options']: statement_timeout", float(number) * UNITS[unit]


def longest_age(settings):
    """Return the seconds for which signed values stay valid: sessions, password reset links, cookies."""
    ages = [settings.SESSION_COOKIE_AGE, 86400 * (getattr(settings, "PASSWORD_RESET_TIMEOUT_DAYS", None) or 0)]
    for name in dir(settings):
        signed = re.search(r"(_COOKIE_AGE|_RESET_TIMEOUT|REMEMBER\w*_AGE)$", name)
        if signed and not name.startswith(("CSRF_", "LANGUAGE_")):
            age = getattr(settings, name)
            ages.append(age.total_seconds() if hasattr(age, "total_seconds") else age)
    return max(age for age in ages if isinstance(age, (int, float)))


def static_storage():
    """Return the storage of static files: its class, the name of its manifest, and whether that is on another host."""
    from django.contrib.staticfiles import storage
    from django.core.files.storage import FileSystemStorage

    used = storage.staticfiles_storage
    manifest = getattr(used, "manifest_name", None)
    where = getattr(used, "manifest_storage", used)
    return {
        "class": f"{used.__class__.__module__}.{used.__class__.__qualname__}",
        "manifest": str(manifest) if manifest else None,
        "elsewhere": not isinstance(where, FileSystemStorage),
    }


def why_other_root(settings):
    """Return why the settings do not have the STATIC_ROOT of the release."""
    cure = "have it take STATIC_ROOT from a variable that environment sets to {from: static_root}"
    if type(settings._wrapped).__name__ == "UserSettingsHolder":
        return f"the project calls settings.configure(), so that the overlay has no effect: {cure}"
    if os.environ.get("DJANGO_SETTINGS_MODULE") == "django_formula_settings":
        return f"the project changes it after its settings are imported: {cure}"
    return f"with overlay: false {cure}"


def collect(settings, static_root):
    """Collect static files, and return their number."""
    from django.core.management import call_command

    if os.path.realpath(settings.STATIC_ROOT or "") != os.path.realpath(static_root):
        raise RuntimeError(f"STATIC_ROOT is {settings.STATIC_ROOT!r}, not {static_root}: {why_other_root(settings)}")
    output = io.StringIO()
    call_command("collectstatic", interactive=False, verbosity=0, stdout=output, stderr=sys.stderr)
    return sum(len(files) for _parent, _folders, files in os.walk(static_root))


def migrated_databases(configured):
    """Return the databases to migrate: as the pillar sets it for each, else the default one and every SQLite file.

    Args:
        configured: alias → whether it is migrated.
    """
    from django.db import connections

    databases = connections.settings if hasattr(connections, "settings") else connections.databases
    engines = {alias: engine_of(database) for alias, database in databases.items()}
    return [
        alias
        for alias, engine in engines.items()
        if not engine.endswith(".dummy")
        and configured.get(alias, alias == "default" or "sqlite" in engine or "spatialite" in engine)
    ]


def engine_of(database):
    """Return the backend of an entry of DATABASES: without one Django takes that which does nothing."""
    return str(database.get("ENGINE") or "django.db.backends.dummy")


def write_ahead(alias):
    """Switch a SQLite file to a write-ahead log, so that readers and a writer do not wait for each other.

    If the file is locked, the next release tries again; a project that sets the journal mode itself keeps its own.
    """
    from django.db import OperationalError, connections

    connection = connections[alias]
    if connection.vendor != "sqlite" or "journal_mode" in str(connection.settings_dict["OPTIONS"]):
        return
    try:
        with connection.cursor() as cursor:
            cursor.execute("PRAGMA journal_mode=WAL")
    except OperationalError as error:
        print(f"no write-ahead log for {alias}: {error}", file=sys.stderr)


def migrations(alias):
    """Return the names of the source's migrations: those that the database has, and the pending ones, in order."""
    from django.db import connections
    from django.db.migrations.executor import MigrationExecutor

    executor = MigrationExecutor(connections[alias])
    plan = executor.migration_plan(executor.loader.graph.leaf_nodes())
    applied = set(executor.loader.applied_migrations) & set(executor.loader.graph.nodes)
    return {
        "applied": sorted(".".join(key) for key in applied),
        "pending": [f"{m.app_label}.{m.name}" for m, backwards in plan if not backwards],
    }


def require_order(alias):
    """Raise an error if `migrate` would refuse: a history out of order, or an application with two last migrations."""
    from django.db import connections
    from django.db.migrations.executor import MigrationExecutor

    loader = MigrationExecutor(connections[alias]).loader
    loader.check_consistent_history(connections[alias])
    for app, names in loader.detect_conflicts().items():
        last = ", ".join(sorted(names))
        raise RuntimeError(f"{app} has {len(names)} last migrations, {last}: run makemigrations --merge, and commit")


def classified(alias, names):
    """Classify what pending migrations do to the running release; those that cannot be inspected are opaque."""
    import django_formula_guard as guard
    import django_formula_keep as keep
    from django.db import connections
    from django.db.migrations.executor import MigrationExecutor

    executor = MigrationExecutor(connections[alias])
    try:
        with keep.keeping(connections[alias]):
            return guard.classify(connections[alias], executor, [tuple(name.split(".", 1)) for name in names])
    except Exception as error:
        print(f"the pending migrations cannot be looked at: {cause(error)}", file=sys.stderr)
        return [{"name": name, "class": "opaque", "reversible": False, "operations": []} for name in names]


def not_made(aliases):
    """Return warnings for tables and columns of models that no migration makes."""
    if not aliases:
        return []
    import django_formula_tables as tables

    return tables.not_made(aliases)


class CheckFailure(Exception):
    """Some of Django's checks fail: the first `SHOWN` in full as Django prints them, the others by their ids."""

    SHOWN = 3

    def __init__(self, failed):
        texts = list(dict.fromkeys(" ".join(str(message).split()).replace("?: ", "", 1) for message in failed))
        shown = "; ".join(textwrap.shorten(text, 1000, placeholder=" …") for text in texts[: self.SHOWN])
        others = sorted({message.id or "?" for message in failed[self.SHOWN :]}) if len(texts) > self.SHOWN else []
        also = f"; also {', '.join(others)}" if others else ""
        super().__init__(f"{len(failed)} of Django's checks fail: {shown}{also}")


def checks(request):
    """Return the warnings of the system checks, including those for deployment.

    Raises:
        CheckFailure: a check fails; with ``deploy``, also if one for deployment does.
    """
    from django.core import checks as framework

    def relevant(messages):
        return [m for m in messages if not m.is_silenced() and m.id not in request["ignored_checks"]]

    found = relevant(framework.run_checks())
    of_deployment = framework.registry.registry.deployment_checks
    deployment = relevant([message for check in of_deployment for message in check(app_configs=None, databases=None)])
    failed = [m for m in found if m.level >= framework.ERROR]
    if request["check"] == "deploy":
        failed = [m for m in [*found, *deployment] if m.level >= framework.WARNING]
    if failed:
        raise CheckFailure(failed)
    warnings = [m for m in [*found, *deployment] if m.level >= framework.WARNING]
    return shortened((m.id, f"{m.id}: {textwrap.shorten(str(m.msg), 1000, placeholder=' …')}") for m in warnings)


def shortened(warnings):
    """Return each warning once, of each check the first `SHOWN`, and how many more it has.

    Args:
        warnings: the id of a check and the text, of each.
    """
    by_check = {}
    for check, text in dict.fromkeys(warnings):
        by_check.setdefault(check, []).append(text)
    found = []
    for check, texts in by_check.items():
        more = len(texts) - CheckFailure.SHOWN
        found += texts[: CheckFailure.SHOWN] if more > 1 else texts
        found += [f"{check}: {more} more; manage.py check --deploy lists them"] if more > 1 else []
    return found


def cause(error):
    """Return the exception with the project's last place in its traceback, and the first cause of it.

    A blocked migration and failed checks are explained by their message alone.
    """
    if isinstance(error, CheckFailure) or getattr(error, "told", {}).get("blocked"):
        return str(error)
    text = described(error)
    root = first_cause(error)
    shown = reason(root).strip("'\"")
    if root is not error and not re.search(rf"(?<!\w){re.escape(shown)}(?!\w)", text):
        text += f", caused by {described(root)}"
    return text


def chain(error):
    """Return an exception and those that it was raised from, or while handling them; the first cause is the last."""
    found = [error]
    while len(found) < 20:
        error = error.__cause__ or (None if error.__suppress_context__ else error.__context__) or hidden_import(error)
        if error is None or error in found:
            break
        found.append(error)
    return found


def hidden_import(error):
    """Return why a package cannot be imported that a library says must be installed, and is; else None."""
    found = re.match(r"`(\w+)` must be installed", str(error))
    if found:
        try:
            importlib.import_module(found.group(1))
        except Exception as reason:
            return None if getattr(reason, "name", "") == found.group(1) else reason
    return None


def first_cause(error):
    """Return the first cause of an exception.

    logging imports a module of LOGGING after its package lacks it as an attribute: the import that fails is the cause.
    """
    *_rest, last = found = chain(error)
    is_tried_again = isinstance(last, AttributeError) and len(found) > 1 and isinstance(found[-2], ImportError)
    return found[-2] if is_tried_again else last


def described(error):
    """Return an exception with the project's last place in its traceback."""
    places = [frame for frame in traceback.extract_tb(error.__traceback__) if "site-packages" not in frame.filename]
    places = [
        frame
        for frame in places
        if not frame.filename.startswith((sys.prefix, sys.base_prefix, "<")) and not is_ours(frame.filename)
    ]
    where = f" ({os.path.relpath(places[-1].filename)}:{places[-1].lineno})" if places else ""
    if isinstance(error, SyntaxError) and error.filename:
        where = f" ({os.path.relpath(error.filename)}:{error.lineno})"
    return f"{type(error).__name__}: {reason(error)}{where}"


def reason(error):
    """Return the text of an exception in one line; for a SQLite file that cannot be opened, with its path."""
    text = " ".join(str(error.msg if isinstance(error, SyntaxError) else error).split())[:400]
    files = (opened(error) or sqlite_files()) if text == "unable to open database file" else []
    return f"{text}: {files[0]}" if len(files) == 1 else text


def opened(error):
    """Return the SQLite file that a package other than Django cannot open, as its object has it; else nothing."""
    objects = [frame.f_locals.get("self") for frame, _line in traceback.walk_tb(error.__traceback__)]
    if any(type(one).__module__.startswith("django.db.") for one in objects):
        return []
    names = [name for one in objects if isinstance(name := getattr(one, "filename", None), (str, os.PathLike))]
    return [os.path.abspath(name) for name in names[-1:] if os.fspath(name)]


def sqlite_files():
    """Return the SQLite files of the project's settings, as far as these can be read."""
    try:
        from django.conf import settings

        databases = settings.DATABASES.values()
        names = [str(one.get("NAME") or "") for one in databases if re.search("sqlite|spatialite", engine_of(one))]
        return [os.path.abspath(name) for name in names if name and not name.startswith((":memory:", "file:"))]
    except Exception:
        return []


def is_ours(filename):
    """Return whether a file is a program of the formula, whose place in a traceback says nothing of the project."""
    return os.path.basename(filename).startswith("django_formula_")


def is_of_python(filename):
    """Return whether a file is of Python's standard library, which alone says nothing of the project either."""
    return filename.startswith((f"{os.path.dirname(os.__file__)}/", "<frozen")) and "-packages/" not in filename


def print_traceback(error):
    """Write the traceback of an exception and its causes to stderr, without the programs of the formula.

    One that a library has hidden is the last: what ends it is the code that does not go with the others.
    """
    found = chain(error)
    is_hidden = len(found) > 1 and found[-1] not in (found[-2].__cause__, found[-2].__context__)
    for one in [*found[-2::-1], found[-1]] if is_hidden else reversed(found):
        frames = [frame for frame in traceback.extract_tb(one.__traceback__) if not is_ours(frame.filename)]
        if all(is_of_python(frame.filename) for frame in frames):
            frames = []
        lines = ["Traceback (most recent call last):\n", *traceback.format_list(frames)] if frames else []
        sys.stderr.write("".join([*lines, *traceback.format_exception_only(type(one), one)]))


def missing_variable(error):
    """Return the missing environment variable that caused an exception; empty if it has another cause."""
    return next(filter(None, map(variable_of, chain(error))), "")


def variable_of(error):
    """Return the environment variable whose absence an exception reports; empty for another exception."""
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


def serve(modes):
    """Answer the request on stdin by the function of its mode; the cause of an error is the end of stderr."""
    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)
    request = json.load(sys.stdin)
    try:
        answer = modes[request["mode"]](request)
    except (Exception, SystemExit) as error:
        # A project that exits has printed the reason: no frames take its place at the end of the output.
        has_reason = isinstance(error, SystemExit) and len(chain(error)) == 1
        if not isinstance(error, CheckFailure) and not has_reason:
            print_traceback(error)
        report = {**getattr(error, "told", {}), "missing": missing_variable(error), "cause": cause(error)}
        print("\n".join(f"{name}: {value}" for name, value in report.items()), file=sys.stderr)
        sys.stderr.flush()
        os._exit(1)
    json.dump(answer, answers)
    answers.flush()
    sys.stderr.flush()
    os._exit(0)


def main():
    serve({"start": start, "check": check})


if __name__ == "__main__":
    main()
