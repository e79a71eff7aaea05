"""The project's settings, overridden by those that the pillar decides, which are data: settings.json in this folder."""

import importlib.util
import json
import os
import pathlib
import sys


def _over(project, data):
    """The settings that replace those of the project."""
    keys = json.loads(pathlib.Path(data["secret_key_file"]).read_text())
    values = {"SECRET_KEY": keys["key"], "SECRET_KEY_FALLBACKS": keys["fallbacks"], **data["always"]}
    for name in ("STATIC_ROOT", "MEDIA_ROOT"):
        if name in values and isinstance(project.get(name), pathlib.PurePath):
            values[name] = pathlib.Path(values[name])
        values.update(_same_folder(project, name, values.get(name)))
    values.update(_storages(project, values))
    databases = _databases(project.get("DATABASES", {}), data)
    values["DATABASES"] = {
        alias: {**_connection(database, data["conn_max_age"]), **database} for alias, database in databases.items()
    }
    path = data["path"]
    if path:
        values["FORCE_SCRIPT_NAME"] = path
    for name, default in (("STATIC_URL", "static/"), ("MEDIA_URL", "media/")):
        url = project.get(name) or default
        elsewhere = url.startswith((path + "/", "http:", "https:", "//"))
        values[name] = url if elsewhere or not path else f"{path}/{url.lstrip('/')}"
    values.update(_static_folders(project))
    if "LOGGING" not in project:
        console = {"class": "logging.StreamHandler"}
        django = {"handlers": ["console"], "level": "INFO", "propagate": False}
        values["LOGGING"] = {
            "version": 1,
            "disable_existing_loggers": False,
            "handlers": {"console": console},
            "root": {"handlers": ["console"], "level": "INFO"},
            "loggers": {"django": django},
        }
    if "https" in data:
        values.update(_over_https(project, data))
    if "stores" in data:
        values.update(_stores(project, data["stores"]))
    if "email" in data:
        email = importlib.import_module("django_formula_email")
        values.update(email.settings({**project, **data["settings"]}, values, data["email"]))
    values = {**values, **data["settings"]}
    if data.get("proves"):
        values["MIDDLEWARE"] = [
            "django_formula_said.middleware",
            *values.get("MIDDLEWARE", project.get("MIDDLEWARE", [])),
        ]
    if "silenced_checks" in data:
        silenced = values.get("SILENCED_SYSTEM_CHECKS", project.get("SILENCED_SYSTEM_CHECKS", []))
        values["SILENCED_SYSTEM_CHECKS"] = [*silenced, *data["silenced_checks"]]
    return values


def _same_folder(project, name, path):
    """The settings that have the folder of STATIC_ROOT or MEDIA_ROOT too: COMPRESS_ROOT, SENDFILE_ROOT."""
    own = project.get(name)
    if not path or not own:
        return {}
    return {key: path for key, value in project.items() if key.endswith("_ROOT") and key != name and value == own}


def _storages(project, values):
    """STORAGES whose `location` is a folder that the site has elsewhere: that of static files, and that of uploads.

    Only of storages that are surely in the file system: for others a location is a part of their names.
    """
    storages = project.get("STORAGES") or {}
    moved = {}
    for alias, storage in storages.items():
        options = storage.get("OPTIONS") or {}
        location = str(options.get("location") or "")
        if not location or not str(storage.get("BACKEND")).startswith(_in_file_system):
            continue
        found = values.get("STATIC_ROOT") if alias == "staticfiles" else _in_media(project, values, location)
        moved.update({alias: {**storage, "OPTIONS": {**options, "location": found}}} if found else {})
    return {"STORAGES": {**storages, **moved}} if moved else {}


_in_file_system = ("django.core.files.storage.", "django.contrib.staticfiles.storage.", "whitenoise.storage.")


def _in_media(project, values, location):
    """The path below the site's MEDIA_ROOT for one below that of the project; else None."""
    own, root = project.get("MEDIA_ROOT"), values.get("MEDIA_ROOT")
    inside = os.path.relpath(location, own) if own and root else os.pardir
    return None if inside.split(os.sep)[0] == os.pardir else os.path.normpath(os.path.join(root, inside))


def _static_folders(project):
    """STATICFILES_DIRS without folders that do not exist, which collectstatic fails at before Django 4.0.

    Later versions ignore them. A folder that is empty in a work tree is not in a repository.
    """
    import django

    folders = project.get("STATICFILES_DIRS")
    if django.VERSION >= (4, 0) or not isinstance(folders, (list, tuple)):
        return {}
    present = [one for one in folders if os.path.isdir(one[1] if isinstance(one, (list, tuple)) else one)]
    return {"STATICFILES_DIRS": present} if len(present) < len(folders) else {}


def _over_https(project, data):
    """What Django has to know where all of a site is served by https; the project's own policies stay."""
    import django

    said = {**project, **data["settings"]}
    policies = {
        "SECURE_HSTS_SECONDS": 3600,
        "SECURE_CONTENT_TYPE_NOSNIFF": True,
        "X_FRAME_OPTIONS": "DENY",
        "SECURE_REFERRER_POLICY": "same-origin",
    }
    values = {name: value for name, value in policies.items() if name not in said}
    own = data["https"] if django.VERSION >= (4, 0) else [url.partition("://")[2] for url in data["https"]]
    trusted = project.get("CSRF_TRUSTED_ORIGINS", [])
    # Subdomains and the browsers' preload list concern more than this site: their checks do not warn.
    undecided = {"SECURE_HSTS_INCLUDE_SUBDOMAINS": "security.W005", "SECURE_HSTS_PRELOAD": "security.W021"}
    silenced = [check for name, check in undecided.items() if name not in said]
    return {
        **values,
        "SECURE_SSL_REDIRECT": True,
        "SECURE_PROXY_SSL_HEADER": ("HTTP_X_FORWARDED_PROTO", "https"),
        "SESSION_COOKIE_SECURE": True,
        "CSRF_COOKIE_SECURE": True,
        "CSRF_TRUSTED_ORIGINS": [*trusted, *(origin for origin in own if origin not in trusted)],
        "SILENCED_SYSTEM_CHECKS": [*project.get("SILENCED_SYSTEM_CHECKS", []), *silenced],
    }


def _databases(databases, data):
    """The project's databases, each SQLite file in the site's folder; over them those that the pillar gives.

    A file that the pillar's `shared` keeps stays there: commands of the project that name it use the same one.
    """
    moved, files = {}, {}
    for alias, database in databases.items():
        if _is_sqlite(database):
            said = str(database.get("NAME") or "")
            path = _shared_file(said, data)
            if not path:
                name = os.path.basename(said) or "db.sqlite3"
                if files.setdefault(name, said) != said:
                    name = f"{alias}.{name}"
                path = os.path.join(data["database_folder"], name)
            options = {**_patience(), **database.get("OPTIONS", {})}
            database = {**database, "NAME": path, "OPTIONS": options}
        moved[alias] = database
    for alias, given in data["databases"].items():
        over = _server if given["engine"] else _file
        moved[alias] = {**over(moved.get(alias, {}), given, alias, data["database_folder"]), **given["settings"]}
    return moved


def _stores(project, stores):
    """The settings of the site's queue, caches and sessions; what the project has for them besides stays."""
    values = {}
    if "caches" in stores:
        own = {"default": {"BACKEND": "django.core.cache.backends.locmem.LocMemCache"}, **project.get("CACHES", {})}
        given = {alias: _cache(own.get(alias, {}), one) for alias, one in stores["caches"].items()}
        values["CACHES"] = {**own, **given}
    if "sessions" in stores:
        kind, alias = stores["sessions"]["kind"], stores["sessions"]["cache"]
        values["SESSION_ENGINE"] = f"django.contrib.sessions.backends.{kind}"
        values.update({} if kind == "db" else {"SESSION_CACHE_ALIAS": alias})
    if "queue" in stores:
        values.update(_queue(project, stores["queue"]))
    return values


def _cache(own, given):
    """A cache: the project's own backend stays where it is one for such a store."""
    backend, words = _backends[given["engine"]]
    own = own if any(word in own.get("BACKEND", "").lower() for word in words) else {}
    if _is_removed(own.get("BACKEND")):
        own = {key: value for key, value in own.items() if key not in ("BACKEND", "OPTIONS")}
    if "OPTIONS" in own and str(given["location"]).startswith("unix:"):  # a server of the site's own, without login
        options = {key: value for key, value in own["OPTIONS"].items() if key.upper() not in _addresses}
        own = {**own, "OPTIONS": options}
    prefix = {"KEY_PREFIX": given["prefix"]} if given.get("prefix") else {}
    return {"BACKEND": backend(), **own, "LOCATION": _location(given), **prefix}


def _is_removed(backend):
    """Whether a backend is the one for python-memcached, which Django has until 4.0."""
    import django

    return backend == "django.core.cache.backends.memcached.MemcachedCache" and django.VERSION >= (4, 1)


def _redis_backend():
    import django

    is_there = django.VERSION >= (4, 0)
    return "django.core.cache.backends.redis.RedisCache" if is_there else "django_redis.cache.RedisCache"


#: The backend of each kind of cache, and words that are only in the dotted paths of backends for it, in lower case.
_backends = {
    "redis": (_redis_backend, ("redis", "valkey")),
    "memcached": (lambda: "django.core.cache.backends.memcached.PyMemcacheCache", ("memcache", "pylibmc")),
    "database": (lambda: "django.core.cache.backends.db.DatabaseCache", ("databasecache",)),
}


def _location(given):
    """The address of a store, with its password where it has one."""
    from urllib.parse import quote

    if "password_file" not in given:
        return given["location"]
    return quote(pathlib.Path(given["password_file"]).read_text(), safe="").join(given["location"])


def _queue(project, given):
    """The queue of those that keep tasks or messages in Redis, and the prefix of its keys for Celery."""
    values = {}
    layers = project.get("CHANNEL_LAYERS", {})
    if any("channels_redis" in layer.get("BACKEND", "") for layer in layers.values()):
        values["CHANNEL_LAYERS"] = {alias: _layer(layer, given) for alias, layer in layers.items()}
    if given["prefix"]:
        options = project.get("CELERY_BROKER_TRANSPORT_OPTIONS", {})
        values["CELERY_BROKER_TRANSPORT_OPTIONS"] = {**options, "global_keyprefix": given["prefix"]}
    if project.get("RQ_QUEUES"):
        values["RQ_QUEUES"] = {name: _of_rq(queue, given) for name, queue in project["RQ_QUEUES"].items()}
    if "huey.contrib.djhuey" in project.get("INSTALLED_APPS", ()):
        values.update(_of_huey(project.get("HUEY"), given))
    if "redis" in project.get("Q_CLUSTER", {}):
        values["Q_CLUSTER"] = {**project["Q_CLUSTER"], "redis": _location(given)}
    for name, *keys in _settings_of_dramatiq:
        if isinstance(project.get(name), dict):
            values.update({name: _of_dramatiq(project[name], given, *keys)})
    return values


def _of_rq(queue, given):
    kept = {key: value for key, value in queue.items() if key not in _addresses and not key.startswith("SSL")}
    return {**kept, "URL": _location(given)}


#: Settings of django_dramatiq: the key of a class, the one of its options, and the first part of names in its Redis.
_settings_of_dramatiq = (
    ("DRAMATIQ_BROKER", "BROKER", "OPTIONS", "dramatiq"),
    ("DRAMATIQ_RESULT_BACKEND", "BACKEND", "BACKEND_OPTIONS", "dramatiq-results"),
)


def _of_dramatiq(own, given, kind, options, namespace):
    if "redis" not in str(own.get(kind)).lower():
        return own
    kept = {key: value for key, value in (own.get(options) or {}).items() if key.upper() not in _addresses}
    prefix = {"namespace": f"{given['prefix']}{kept.get('namespace', namespace)}"} if given["prefix"] else {}
    return {**own, options: {**kept, "url": _location(given), **prefix}}


def _of_huey(huey, given):
    """HUEY, where the project does not create its instance itself, and keeps tasks in Redis, huey's default."""
    own = {} if huey is None else huey
    if not isinstance(own, dict) or "Redis" not in own.get("huey_class", own.get("backend_class", "huey.RedisHuey")):
        return {}
    rest = {key: value for key, value in own.items() if key.upper() not in _addresses}
    kept = {key: value for key, value in own.get("connection", {}).items() if key in _not_about_addresses}
    return {"HUEY": {**rest, "connection": {**kept, "url": _location(given)}}}


#: Keys of such settings by which a project says where Redis is; a URL replaces all of them.
_addresses = {
    *("URL", "UNIX_SOCKET_PATH", "HOST", "PORT", "DB", "USERNAME", "PASSWORD", "SSL", "CONNECTION_POOL", "CONNECTION"),
    *(
        "SENTINELS",
        "MASTER_NAME",
        "CONNECTION_KWARGS",
        "SENTINEL_KWARGS",
        "REDIS_CLIENT_KWARGS",
        "USE_REDIS_CACHE",
        "CLIENT",
    ),
}
#: Keys of a connection of huey that are huey's own; the others are of the connection that the URL replaces.
_not_about_addresses = {*("blocking", "read_timeout", "client_name", "clean_name", "expire_time"), "notify_result"}


def _layer(layer, given):
    if "channels_redis" not in layer.get("BACKEND", ""):
        return layer
    prefix = {"prefix": f"{given['prefix']}asgi"} if given["prefix"] else {}
    return {**layer, "CONFIG": {**layer.get("CONFIG", {}), "hosts": [_location(given)], **prefix}}


def _shared_file(name, data):
    """The path in the folder that releases share, if a database's name leads there; else None."""
    path = os.path.realpath(name)
    return path if "shared_folder" in data and path.startswith(data["shared_folder"] + os.sep) else None


def _connection(database, age):
    """How long a connection is kept, unless configured: opening one for each request is much of a page's cost."""
    import django

    engine = _engine(database)
    if not age or not engine.startswith("django.") or "pool" in database.get("OPTIONS", {}):
        return {}
    return {"CONN_MAX_AGE": age, **({"CONN_HEALTH_CHECKS": True} if django.VERSION >= (4, 1) else {})}


def _is_sqlite(database):
    return "sqlite" in _engine(database) or "spatialite" in _engine(database)


def _engine(database):
    """The backend of a database; empty where the project has none, such as that of a variable that is not set."""
    return database.get("ENGINE") or ""


def _patience():
    """OPTIONS of SQLite for a site of several processes: one that would write waits for its turn, long enough."""
    import django

    return {"timeout": 20, **({"transaction_mode": "IMMEDIATE"} if django.VERSION >= (5, 1) else {})}


def _file(database, given, alias, folder):
    """A SQLite database: the project's own where it is one, by the name that the pillar gives it."""
    if not _is_sqlite(database):
        name = "db.sqlite3" if alias == "default" else f"{alias}.sqlite3"
        database = {"ENGINE": "django.db.backends.sqlite3", "NAME": os.path.join(folder, name)}
    options = {**_patience(), **database.get("OPTIONS", {}), **given["options"]}
    return {**database, "NAME": given["name"] or database["NAME"], "OPTIONS": options}


def _server(database, given, alias, folder):
    """A database on a server: of the project's own entry stays what is not about where it is.

    The project's engine and OPTIONS stay too where they are for a server of that kind (postgis, a pool).
    """
    kind = "postg" if "postg" in given["engine"] else "mysql"
    own = database if kind in _engine(database) else {}
    strict = {"charset": "utf8mb4", "init_command": "SET sql_mode = CONCAT(@@sql_mode, ',STRICT_TRANS_TABLES')"}
    options = {**(strict if kind == "mysql" else {}), **own.get("OPTIONS", {}), **given["options"]}
    rest = {key: value for key, value in database.items() if key not in ("ENGINE", "OPTIONS", "TEST")}
    where = {key.upper(): str(given[key]) for key in ("name", "user", "host", "port")}
    login = {"PASSWORD": ""}
    if given["password_file"]:
        files = {"USER": given["user_file"], "PASSWORD": given["password_file"]}
        login = {key: pathlib.Path(file).read_text() for key, file in files.items()}
    becomes_spatial = "postgis" in given["engine"] and "postgis" not in own.get("ENGINE", "")
    engine = given["engine"] if becomes_spatial else own.get("ENGINE", given["engine"])
    found = {**rest, "ENGINE": engine, **where, **login, "OPTIONS": options}
    return {**found, **_pooled(given, options)} if "DJANGO_DATABASE_POOL" in os.environ else found


def _pooled(given, options):
    """What differs where PgBouncer gives another connection of the server for each transaction.

    Only servers and workers have that variable: migrations and backups hold locks and cursors for a session. Without
    the option `prepare_threshold` Django has psycopg prepare no statements, which PgBouncer before 1.21 loses.
    """
    if "pool_port" not in given:
        return {}
    options = {name: value for name, value in options.items() if name != "prepare_threshold"}
    return {"PORT": str(given["pool_port"]), "DISABLE_SERVER_SIDE_CURSORS": True, "OPTIONS": options}


def _imported(module):
    """The names of the project's settings; those of django-configurations are the attributes of a class.

    Their package may set up Django while it is imported, as one that has a Celery app does, and so ask for this module,
    which has no settings until then: it is made anew for that.
    """
    this, finder = sys.modules.pop(__name__), _finder(module) if _class else None
    sys.meta_path[:0] = filter(None, [finder])
    try:
        return vars(importlib.import_module(module))
    finally:
        sys.modules[__name__] = this
        sys.meta_path[:] = [one for one in sys.meta_path if one is not finder]


def _finder(module):
    """What makes the attributes of a class names of the project's module.

    That of django-configurations itself does so with the module that DJANGO_SETTINGS_MODULE names, which is this one.
    """
    importer = importlib.import_module("configurations.importer")
    importer.install()  # its classes refuse to be made otherwise
    return type("_Finder", (importer.ConfigurationImporter,), {"module": module})()


def _read_only(connection, **_more):
    """Have a new connection to a database refuse changes, in a console that only reads (django-shell)."""
    statements = {
        "postgresql": "SET default_transaction_read_only = on",
        "mysql": "SET SESSION TRANSACTION READ ONLY",
        "sqlite": "PRAGMA query_only = ON",
    }
    if connection.vendor in statements:
        with connection.cursor() as cursor:
            cursor.execute(statements[connection.vendor])


class _NoFurther:
    """What django-configurations finds in this module, which has its settings already."""

    @classmethod
    def pre_setup(cls):
        pass

    setup = post_setup = pre_setup


_data = json.loads(pathlib.Path(__file__).with_name("settings.json").read_text())
_class = os.environ.get("DJANGO_CONFIGURATION") if importlib.util.find_spec("configurations") else None
_project = _imported(_data["settings_module"])
globals().update({name: value for name, value in _project.items() if name.isupper()})
globals().update(_over(_project, _data))
importlib.import_module("django_formula_logs")
if os.environ.get("DJANGO_READ_ONLY"):
    importlib.import_module("django.db.backends.signals").connection_created.connect(_read_only)
if _class:
    globals()[_class] = _NoFurther
