"""Load each module of the engine when something of it is first used (docs/decisions/0105).

An apply or a verb imports most of the engine, and uses a part. ``from django_formula.backup import backups`` binds a
module that has not run yet, and the first look at one of its attributes runs it; ``from … import`` of what is in a
module runs it at once. What enters the engine imports this module before all others.
"""

from __future__ import annotations

import importlib.machinery
import os
import sys
import threading
import types
import zipimport
from collections.abc import Iterable, Sequence
from typing import Any, ClassVar

#: How the names of the engine's modules begin, and the folder that they are in.
_NAMES = "django_formula."
_FOLDER = os.path.dirname(os.path.dirname(os.path.abspath(__file__))) + os.sep
#: What Python itself looks at when a module is imported again.
_OF_IMPORT = frozenset(("__class__", "__file__", "__loader__", "__name__", "__package__", "__path__", "__spec__"))


class _Loader:
    """Runs a module when it is first used, and once: other threads wait until it has run.

    Args:
        loader: the loader that runs it.
    """

    #: Whether this process may not read the engine any more.
    is_sealed = False

    def __init__(self, loader: importlib.machinery.SourceFileLoader | zipimport.zipimporter):
        self._loader = loader
        self._lock = threading.RLock()
        self._is_running = False

    def __getattr__(self, name: str) -> Any:
        return getattr(self._loader, name)

    def create_module(self, spec: importlib.machinery.ModuleSpec) -> types.ModuleType | None:
        """Have Python create the module as usual."""
        return self._loader.create_module(spec)

    def exec_module(self, module: types.ModuleType) -> None:
        """Put off what Python would do now."""
        module.__class__ = _Unloaded

    def run(self, module: types.ModuleType) -> None:
        """Run a module, unless it has run, or runs in this thread.

        Raises:
            ImportError: this process has become a user who cannot read the engine.
        """
        with self._lock:
            if self._is_running or type(module) is not _Unloaded:
                return
            if self.is_sealed:
                raise ImportError(f"{module.__name__} was not loaded before this process became another user")
            self._is_running = True
            try:
                self._loader.exec_module(module)
                module.__class__ = types.ModuleType  # type: ignore[assignment]
            finally:
                self._is_running = False


class _Unloaded(types.ModuleType):
    """A module that runs when one of its attributes is first looked at."""

    def __getattribute__(self, name: str) -> Any:
        if name not in _OF_IMPORT:
            _run(self)
        return types.ModuleType.__getattribute__(self, name)  # `super` fails once the class is the usual one

    def __setattr__(self, name: str, value: object) -> None:
        _run(self)
        types.ModuleType.__setattr__(self, name, value)


def _run(module: types.ModuleType) -> None:
    loader = module.__spec__ and module.__spec__.loader
    if isinstance(loader, _Loader):
        loader.run(module)


def _in_archive(name: str, path: Sequence[str] | None) -> importlib.machinery.ModuleSpec | None:
    """Return how a module of a program is loaded, where its folder is known to be in an archive.

    Python's own finder reads and unpacks the code of each module that it finds, only to return its path.
    """
    importer = sys.path_importer_cache.get(path[0]) if path else None
    try:
        if not isinstance(importer, zipimport.zipimporter) or importer.is_package(name):
            return None
    except zipimport.ZipImportError:  # there is none
        return None
    file = f"{importer.archive}{os.sep}{importer.prefix}{name.rpartition('.')[2]}.py"
    spec = importlib.machinery.ModuleSpec(name, importer, origin=file)  # type: ignore[arg-type, unused-ignore]
    spec.has_location = True
    return spec


class _Finder:
    """Finds the modules of the engine, before Python's own finders do."""

    #: Those that have run with all that they can reach.
    _reached: ClassVar[set[str]] = set()

    @staticmethod
    def find_spec(
        name: str, path: Sequence[str] | None = None, target: types.ModuleType | None = None
    ) -> importlib.machinery.ModuleSpec | None:
        """Return how a module of the engine is loaded when it is used; None for others."""
        if not name.startswith(_NAMES):
            return None
        spec = _in_archive(name, path) or importlib.machinery.PathFinder.find_spec(name, path, target)
        is_file = spec and isinstance(spec.loader, importlib.machinery.SourceFileLoader | zipimport.zipimporter)
        if spec and is_file and not spec.submodule_search_locations and (spec.origin or "").startswith(_FOLDER):
            spec.loader = _Loader(spec.loader)  # type: ignore[arg-type, assignment]
        return spec

    @classmethod
    def run_reachable(cls, names: Iterable[str]) -> None:
        """Run modules with all of the engine that they can reach, for a process that cannot read them later."""
        waiting, reached = [*names], set[str]()
        while waiting:
            name = waiting.pop()
            module = sys.modules.get(name) if name.startswith(_NAMES) else None
            if module is None or name in reached or name in cls._reached:
                continue
            reached.add(name)
            for value in [*vars(module).values()]:
                used = value.__name__ if isinstance(value, types.ModuleType) else getattr(value, "__module__", None)
                if isinstance(used, str):
                    waiting.append(used)
        cls._reached |= reached

    @staticmethod
    def seal() -> None:
        """Have this process load no further module: it has become a user who cannot read them."""
        _Loader.is_sealed = True


def loaded() -> list[str]:
    """Return the modules of the engine that have run."""
    ours = [name for name in [*sys.modules] if name.startswith(_NAMES)]
    run = (name for name in ours if type(sys.modules[name]) is not _Unloaded)
    return sorted(name for name in run if not hasattr(sys.modules[name], "__path__"))


# In place of that of another version, which this process may have had before.
_others = [one for one in sys.meta_path if type(one).__name__ != _Finder.__name__]
sys.meta_path[:] = [_Finder(), *_others]
