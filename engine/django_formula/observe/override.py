"""Replace settings of a project as soon as their module is imported; in its Python, where it is observed or built.

Later would be too late: a package that has an application of Celery may set up Django while its settings are imported.
It imports nothing of ours. Settings of django-configurations are attributes of a class, and stay.
"""

import os
import sys
from importlib.machinery import PathFinder
from typing import Any


def override(values: Any) -> None:
    """Have the module that DJANGO_SETTINGS_MODULE names get these settings when it is imported."""

    class Finder(PathFinder):
        @classmethod
        def find_spec(cls, fullname: str, path: Any = None, target: Any = None) -> Any:
            spec = super().find_spec(fullname, path, target)
            if spec is None or spec.loader is None or fullname != os.environ.get("DJANGO_SETTINGS_MODULE"):
                return spec
            run: Any = spec.loader.exec_module

            def exec_module(module: Any) -> None:
                run(module)
                vars(module).update(values)

            spec.loader.exec_module = exec_module  # type: ignore[method-assign]
            return spec

    sys.meta_path.insert(0, Finder)


class _Every(list):  # type: ignore[type-arg]  # (of each Python that a site may have)
    def __contains__(self, one: Any) -> bool:
        return True


def of_build() -> Any:
    """Return the settings that a command of a build gets: it has no folders of logs.

    Migrations are made without a database, which Django before 3.2 asks, and with `--skip-checks` without checks, for
    which Django before 3.0 has no such option.
    """
    values: Any = {"LOGGING_CONFIG": None}
    if "makemigrations" in sys.argv:
        values["DATABASES"] = {}
        try:
            from django import VERSION
        except ImportError:
            return values  # as Python says where it is used
        if VERSION < (3, 0) and "--skip-checks" in sys.argv:
            sys.argv.remove("--skip-checks")
            values["SILENCED_SYSTEM_CHECKS"] = _Every()
    return values
