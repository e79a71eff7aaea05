"""The application of a project, which servers and programs import."""

import contextlib
import importlib
import importlib.util
import json
import os
import pathlib
import shutil


def module(name):
    """Import the module of an application, which sets up Django.

    One that imports models before it has set up Django is imported again once it is: runserver, which sets it up first,
    has never shown its author that.
    """
    with overlay_kept():
        try:
            return importlib.import_module(name)
        except Exception as error:
            if type(error).__name__ != "AppRegistryNotReady":
                raise
        import django

        django.setup()
        return importlib.import_module(name)


@contextlib.contextmanager
def overlay_kept():
    """Ignore that a WSGI module assigns the settings which the overlay begins with: it would be without effect."""
    data = pathlib.Path(__file__).with_name("settings.json")
    own = json.loads(data.read_text())["settings_module"] if data.exists() else None
    usual = type(os.environ)

    class Environment(usual):
        def __setitem__(self, key, value):
            if key != "DJANGO_SETTINGS_MODULE" or value != own:
                super().__setitem__(key, value)

    os.environ.__class__ = Environment
    try:
        yield
    finally:
        os.environ.__class__ = usual


def load(name):
    """Return the application of a module, which a server runs."""
    share_metrics()
    return module(name).application


def share_metrics():
    """Have prometheus_client, where a project has it, add up what the processes of a server count.

    Each process would answer for itself alone: 17 or 54 of 60 requests, as chance has it. The folder is that of a start
    of the instance, so that it begins at nothing, which Prometheus takes for a restart.
    """
    own = pathlib.Path(__file__).with_name("instance.json")
    if "PROMETHEUS_MULTIPROC_DIR" in os.environ or not importlib.util.find_spec("prometheus_client"):
        return
    with contextlib.suppress(OSError, ValueError, KeyError):  # the site is served, whatever its metrics do
        run = pathlib.Path(json.loads(own.read_text())["run"], own.parents[1].name.partition("-")[0])
        folder = run / f"metrics-{os.environ.get('INVOCATION_ID', '')}"
        for former in {*run.glob("metrics-*")} - {folder}:
            shutil.rmtree(former, ignore_errors=True)
        folder.mkdir(0o700, exist_ok=True)
        os.environ["PROMETHEUS_MULTIPROC_DIR"] = str(folder)
