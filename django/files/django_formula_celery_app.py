"""Find the Celery app of a project: as the pillar names it, or where projects have it."""

import ast
import importlib
import importlib.util
import os
import socket
import sys

#: Modules of a package in which projects make their app, and the names that they give it.
MODULES = ("", ".celery", ".celery_app", ".celeryapp")
NAMES = ("app", "celery_app", "celery")
#: Seconds in which the server that keeps results has to accept a connection.
ANSWER = 3


def find(named, modules):
    """Return the app of a project whose Django is set up.

    Args:
        named: the app as Celery's option -A takes it; empty where it is to be found.
        modules: of the project, such as that of its settings; the app is in one of the packages that they are in.

    Raises:
        RuntimeError: there is none.
    """
    if named:
        from celery.app.utils import find_app

        return find_app(named)
    for package in packages(modules):
        for module in MODULES:
            app = app_in(package + module)
            if app is not None:
                return app
    import celery

    current = celery.current_app._get_current_object()
    if current.main != "default":  # the name of the app that Celery makes where a project has none
        return current
    looked = ", ".join(package + ".celery" for package in packages(modules))
    raise RuntimeError(f"no Celery app found in the project ({looked})")


def packages(modules):
    """Return the packages that modules are in, the outer ones first."""
    found = []
    for module in modules:
        parts = module.split(".")[:-1]
        found += [".".join(parts[: count + 1]) for count in range(len(parts))]
    return list(dict.fromkeys(found))


def app_in(module):
    """Return the app that a module has, or None where there is no such module, or no app in it."""
    from celery import Celery

    try:
        is_there = importlib.util.find_spec(module) is not None
    except ModuleNotFoundError:  # its parent is no package
        is_there = False
    if not is_there:
        return None
    names = vars(importlib.import_module(module))
    found = [names.get(name) for name in NAMES] + list(names.values())
    return next((one for one in found if isinstance(one, Celery)), None)


def facts(named, modules):
    """Return what the deployment has to know of the project's app; no password is in it."""
    app = find(named, modules)
    app.loader.import_default_modules()
    app.finalize()
    conf, options = app.conf, app.conf.broker_transport_options or {}
    connections = app.connection_for_write(), app.connection_for_read()
    other = next((one for one in connections if not uses_variable(one)), None)
    connection = other or connections[0]
    return {
        "broker": connection.as_uri(),
        "uses_variable": other is None,
        "no_results": no_results(app),
        "place": place(app),
        "queues": sorted(app.amqp.queues.consume_from),
        "tasks": sorted(name for name in app.tasks if not name.startswith("celery.")),
        "schedule": {str(name): str(entry.get("task")) for name, entry in conf.beat_schedule.items()},
        "visibility_timeout": seconds(options.get("visibility_timeout", 3600))
        if "redis" in connection.as_uri()
        else None,
        "time_limit": seconds(conf.task_time_limit),
        "acks_late": bool(conf.task_acks_late),
        "rejects_lost": bool(conf.task_reject_on_worker_lost),
        "waits_when_idle": bool(getattr(conf, "worker_enable_soft_shutdown_on_idle", False)),
    }


def no_results(app):
    """Return why the Redis server that keeps the app's results does not answer; empty where it does."""
    if app.conf.task_ignore_result or not str(app.conf.result_backend or "").startswith("redis"):
        return ""
    where = app.backend.connparams
    address = where.get("path") or (where["host"], int(where["port"]))
    shown = where.get("path") or f"{where['host']}:{where['port']}"
    try:
        with socket.socket(socket.AF_UNIX) if "path" in where else socket.create_connection(address, ANSWER) as server:
            if "path" in where:
                server.connect(address)
    except OSError as error:
        return f"{shown}: {error.strerror or error}"
    return ""


def seconds(value):
    return float(value) if isinstance(value, (int, float)) else None


def uses_variable(connection):
    """Return whether a connection is to the broker of CELERY_BROKER_URL, or that variable is not set.

    Celery prefers the variable to broker_url and to the argument of the app, and these two to the variable:
    broker_read_url and broker_write_url.
    """
    from kombu import Connection

    url = os.environ.get("CELERY_BROKER_URL")
    return not url or connection.as_uri(include_password=True) == Connection(url).as_uri(include_password=True)


def place(app):
    """Return the file and the line in which the app is made, relative to the project; empty where that is not found."""
    for module in list(sys.modules.values()):
        file = getattr(module, "__file__", None) or ""
        if file.endswith(".py") and file.startswith(os.getcwd()) and any(one is app for one in vars(module).values()):
            with open(file, "rb") as source:
                calls = [node for node in ast.walk(ast.parse(source.read())) if isinstance(node, ast.Call)]
            for call in calls:
                if getattr(call.func, "id", getattr(call.func, "attr", "")) == "Celery":
                    return f"{os.path.relpath(file)}:{call.lineno}"
    return ""
