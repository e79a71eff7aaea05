"""Find the Celery app of a project: as the pillar names it, or where projects have it."""

import importlib
import importlib.util

#: Modules of a package in which projects make their app, and the names that they give it.
MODULES = ("", ".celery", ".celery_app", ".celeryapp")
NAMES = ("app", "celery_app", "celery")


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
