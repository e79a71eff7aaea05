"""The settings of a project, as far as its code tells without being run: their values, and the variables they read."""

import ast
import contextlib
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath
from typing import Any

from django_formula.inspect import code
from django_formula.inspect.expressions import Missing, TooMuch
from django_formula.inspect.statements import Raised, Statements
from django_formula.inspect.values import UNKNOWN, Called, Frame, Function, Method, Namespace, Value, Variable, plain


@dataclass
class Settings:
    """What is known of the settings.

    Attributes:
        variables: the environment variables that they read, by name.
        values: the settings by name.
        sources: setting → the variables that it is taken from as they are, and in which form.
        files: the modules that were read.
        written: paths that are opened for writing or created while the settings are imported → ``file`` or ``folder``.
        dotenv: files with variables that have to exist.
        set_by_application: the variables that the WSGI or ASGI module sets.
        given: the variables that were taken as set.
        configuration: the class of django-configurations whose attributes the settings are; empty for others.
        application: the WSGI or ASGI module; empty if it is not known.
        undefined: names that the modules use and do not have, and where: a NameError.
        absent: modules of the project that they take every name of, and that the source does not have.
        optional: files that they take every name of where these are there, and that the source does not have.
        perhaps: the modules among those that were read that another value of a variable may import.
        opened: files that are surely read, and where.
        imports: what `inspect.imports` has found for these settings, by the folders imported from.
    """

    variables: dict[str, Variable] = field(default_factory=dict)
    values: dict[str, Value] = field(default_factory=dict)
    sources: dict[str, dict[str, str]] = field(default_factory=dict)
    files: list[Path] = field(default_factory=list)
    written: dict[PurePosixPath, str] = field(default_factory=dict)
    dotenv: list[str] = field(default_factory=list)
    set_by_application: dict[str, str] = field(default_factory=dict)
    given: dict[str, str] = field(default_factory=dict)
    configuration: str = ""
    application: str = ""
    undefined: dict[str, str] = field(default_factory=dict)
    absent: list[str] = field(default_factory=list)
    optional: list[Path] = field(default_factory=list)
    perhaps: set[Path] = field(default_factory=set)
    opened: dict[PurePosixPath, str] = field(default_factory=dict)
    imports: dict[tuple[Path, ...], dict[Path, list[str]]] = field(default_factory=dict)

    def get(self, *names: str) -> Any:
        """Return a setting, or an element of it, without sources; `UNKNOWN` if it is not known."""
        content: Any = {name: value.content for name, value in self.values.items()}
        for name in names:
            content = content.get(name, UNKNOWN) if isinstance(content, dict) else UNKNOWN
            content = content.content if isinstance(content, Value) else content
        return UNKNOWN if isinstance(content, Called | Function | Method | Namespace) else plain(content)

    def log_files(self) -> list[PurePosixPath]:
        """Return the files of the handlers of LOGGING."""
        handlers = self.get("LOGGING", "handlers")
        every = handlers.values() if isinstance(handlers, dict) else ()
        found = (one.get("filename") for one in every if isinstance(one, dict))
        return [PurePosixPath(name) for name in found if isinstance(name, str | PurePosixPath)]


def read(roots: Sequence[Path], module: str, given: Mapping[str, str], application: str = "") -> Settings:
    """Read the settings of a project.

    Args:
        roots: the folders that it is imported from, the folder of manage.py first.
        module: the settings module.
        given: the environment variables that are set.
        application: the WSGI or ASGI module, which may set further ones.
    """
    interpreter = _Interpreter(roots, dict(given))
    values: dict[str, Value] = {}
    own: dict[str, str] = {}
    with contextlib.suppress(TooMuch, RecursionError, MemoryError):
        interpreter.set_by(application)
        own = {name: value for name, value in interpreter.given.items() if name not in given}
        values = interpreter.settings(module)
    return Settings(
        interpreter.variables,
        {name: value for name, value in values.items() if name.isupper()},
        interpreter.sources,
        list(interpreter.modules),
        interpreter.written,
        interpreter.files,
        own,
        dict(given),
        interpreter.configuration,
        application,
        interpreter.undefined,
        interpreter.absent,
        interpreter.optional,
        interpreter.perhaps,
        interpreter.opened,
    )


class _Interpreter(Statements):
    """The evaluation of a settings module, after that of the module of its application."""

    def __init__(self, roots: Sequence[Path], given: dict[str, str]):
        super().__init__(roots, given)
        self.configuration = ""

    def settings(self, module: str) -> dict[str, Value]:
        """Return the names of the settings module, which is imported after the packages that it is in."""
        self.given["DJANGO_SETTINGS_MODULE"] = module
        parts = module.split(".")
        for number in range(1, len(parts)):
            self.imported(".".join(parts[:number]))
        found = self.imported(module)
        return self._of_class(found.names) if found else {}

    def _of_class(self, names: dict[str, Value]) -> dict[str, Value]:
        """Return the names of a settings module with those of its class of django-configurations, if it has any."""
        contents = {name: value.content for name, value in names.items()}
        named = self.given.get("DJANGO_CONFIGURATION", "")  # its class may be that of a package's, which is not read
        classes = {
            name: content
            for name, content in contents.items()
            if isinstance(content, Namespace) and (content.kind == "configuration" or name == named)
        }
        self.configuration = _live_class([*classes], named)
        if not self.configuration:
            return names
        chosen = classes[self.configuration]
        return {**names, **{name: self._of_owner(chosen, name) for name in chosen.names if name.isupper()}}

    def _of_owner(self, owner: Namespace, name: str) -> Value:
        """Return a setting that is an attribute of a class: the result of a property or method."""
        value = owner.names[name]
        if isinstance(value.content, Function):
            place = f"{value.content.frame.file}:{value.content.node.lineno}"
            with contextlib.suppress(Raised, Missing):
                return self._function(value.content, [Value(owner)], {}, place)
            return Value()
        return value

    def set_by(self, application: str) -> None:
        """Take the variables that statements at the top of the application's module set to known texts."""
        path = self.module_file(application)
        frame = Frame({}, path or Path(application))
        for node in code.tree(path).body if path else ():
            is_import = isinstance(node, ast.Import | ast.ImportFrom) and getattr(node, "module", "os") == "os"
            if is_import or (isinstance(node, ast.Expr | ast.Assign) and "environ" in ast.unparse(node)):
                self.run([node], frame)
        self.variables.clear()
        self.undefined.clear()
        self.given.pop("DJANGO_SETTINGS_MODULE", None)


def _live_class(classes: Sequence[str], named: str) -> str:
    """Return the class of django-configurations for a live site: the one that the project names, unless another is."""
    live = [name for name in classes if re.match("prod|live", name, re.IGNORECASE)]
    if named in classes and (not live or not code.NOT_LIVE.search(named.lower())):
        return named
    return next(iter([*live, *classes[-1:]]), "")
