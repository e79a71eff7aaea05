"""Evaluate statements of a project's settings as far as their values are known. Nothing of the project is run."""

import ast
import builtins
import contextlib
import re
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path, PurePosixPath
from typing import Any

from django_formula.inspect import code, python_path
from django_formula.inspect.expressions import Missing
from django_formula.inspect.readers import Readers
from django_formula.inspect.values import (
    UNKNOWN,
    Called,
    Frame,
    Function,
    Namespace,
    Reader,
    Symbol,
    Value,
    plain,
    taint,
    truth,
)
from django_formula.knowledge.rows import rows

#: Modules that are read at most.
_MODULES = 80
#: Times that a statement is evaluated again.
_AGAIN = 20
#: Exceptions by which a missing variable is reported.
_OF_MISSING = {
    *("KeyError", "LookupError", "Exception", "BaseException", "ImproperlyConfigured", "UndefinedValueError"),
    *("EnvError", "EnvironmentError", "ValidationError", "ConfigError", "ValueError", "TypeError", "AttributeError"),
}
#: Exceptions by which a missing file is reported.
_OF_FILES = {"FileNotFoundError", "OSError", "IOError", "EnvironmentError", "Exception", "BaseException", "*"}


#: Modules with the settings of one site, which no package has.
_OF_SITE = re.compile(r"(\w+_)?(local_?settings|settings_?local|local|private_?settings|secret_?settings)")

#: A value of django-configurations → the kind of its variable.
_OF_CONFIGURATIONS = {
    **{"BooleanValue": "bool", "DatabaseURLValue": "database", "DictValue": "json"},
    **dict.fromkeys(("IntegerValue", "PositiveIntegerValue", "FloatValue", "DecimalValue"), "int"),
    **dict.fromkeys(("ListValue", "TupleValue", "SetValue"), "list"),
}
#: The end of the name of a base class → the kind of its classes; of several the first counts.
_KINDS_OF_CLASSES = {
    "BaseSettings": "model",
    "configurations.Configuration": "configuration",
    "BaseModel": "part",
}


class Raised(Exception):
    """The code raises an exception.

    Args:
        kinds: its name, and the names of the exceptions that it is one of; all of them if it is not known.
    """

    def __init__(self, *kinds: str):
        self.kinds = {*kinds, "Exception", "BaseException", "*"} if kinds else {*_OF_MISSING, "ImportError", "*"}


class _Again(Exception):
    """A function raises an exception without a variable: its call is evaluated again, as if the variable were set."""


class _Return(Exception):
    def __init__(self, value: Value):
        self.value = value


class Statements(Readers):
    """The evaluation of modules and their statements.

    Args:
        roots: the folders that modules are imported from, the folder of manage.py first.
        given: the environment variables that are set.
    """

    def __init__(self, roots: Sequence[Path], given: dict[str, str]):
        super().__init__(given)
        self.roots = roots
        self.modules: dict[Path, Namespace] = {}
        self.perhaps: set[Path] = set()
        self.handled: list[set[str]] = []
        self.handling = 0
        self.sources: dict[str, dict[str, str]] = {}
        self.absent: list[str] = []
        self.optional: list[Path] = []

    # Modules

    def module_file(self, module: str) -> Path | None:
        """Return the file of a module of the project, or None if it is not one."""
        return python_path.find_module(self.roots, module) if module else None

    def imported(self, module: str) -> Namespace | None:
        """Return a module of the project; None if it is not one.

        It is evaluated again where it is surely imported, and was only perhaps before.
        """
        path = self.module_file(module) or self._example(module)
        if not path:
            return None
        if self.certain and path in self.perhaps:
            del self.modules[path]
        is_known = path in self.modules or len(self.modules) >= _MODULES
        if not is_known:
            (self.perhaps.discard if self.certain else self.perhaps.add)(path)
            shown = {"__file__": Value(str(path)), "__name__": Value(module)}
            self.modules[path] = Namespace(shown)
            package = module if path.name == "__init__.py" else module.rpartition(".")[0]
            frame = Frame(self.modules[path].names, path, package)
            for statement in code.tree(path).body:
                with contextlib.suppress(Raised, Missing):
                    self.run([statement], frame)
        return self.modules.get(path)

    def call_library(self, name: str, args: list[Value], keywords: dict[str, Value], place: str) -> Value:
        """Return what a function of a library returns; of `import_module` the module, if it is the project's."""
        if name == "importlib.import_module" and len(args) == 1 and isinstance(args[0].content, str):
            found = self.imported(args[0].content)
            return Value(found) if found else Value(taint=args[0].taint)
        return super().call_library(name, args, keywords, place)

    def _example(self, module: str) -> Path | None:
        """Return the example of a module that is not committed, and that the project does not do without; else None."""
        paths = [root / f"{module.replace('.', '/')}.py" for root in self.roots if "." in module and not self.guards]
        return next(filter(None, map(code.example_of, paths)), None)

    def run(self, body: Sequence[ast.stmt], frame: Frame) -> None:
        """Run statements."""
        for statement in body:
            self.count()
            method = getattr(self, f"_run_{type(statement).__name__.lower()}", None)
            if method and not frame.called_from:
                self._run_again(method, statement, frame)
            elif method:
                method(statement, frame)
            else:
                for part in ast.iter_child_nodes(statement):
                    if isinstance(part, ast.expr):
                        self.evaluate(part, frame)

    def _run_again(self, method: Callable[[ast.stmt, Frame], None], statement: ast.stmt, frame: Frame) -> None:
        """Run a statement, and once more for each variable that a function which it calls requires."""
        before = len(self.assumed)
        while True:
            try:
                return method(statement, frame)
            except _Again:
                if len(self.assumed) - before > _AGAIN:
                    return None

    def _run_import(self, node: ast.Import, frame: Frame) -> None:
        for alias in node.names:
            found = self.imported(alias.name)
            name = alias.name if alias.asname else alias.name.partition(".")[0]
            value = self.imported(name) if found else None
            frame.names[alias.asname or name] = Value(value or Symbol(name))

    def _run_importfrom(self, node: ast.ImportFrom, frame: Frame) -> None:
        module = code.imported_from(node, frame.module)
        found = self.imported(module)
        takes_all = any(alias.name == "*" for alias in node.names)
        is_own = node.level or ("." in module and self.module_file(module.partition(".")[0]))
        is_own = is_own or bool(takes_all and self.guards and _OF_SITE.fullmatch(module))
        if is_own and not found and node.module and self.guards:
            self._may_have(*(root / f"{module.replace('.', '/')}.py" for root in self.roots if takes_all))
            raise Raised("ImportError", "ModuleNotFoundError")
        for alias in node.names:
            if alias.name == "*":
                is_absent = bool(is_own and not found and node.module and self.certain)
                self.absent += [module] if is_absent else []
                public = found.names.items() if found else [] if is_absent else [("*", Value())]  # any name
                frame.names.update((name, value) for name, value in public if not name.startswith("__"))
                continue
            value = found.names.get(alias.name) if found else None
            inner = None if value else self.imported(f"{module}.{alias.name}".lstrip("."))
            other = Value(inner) if inner else self.of_library(f"{module}.{alias.name}")
            frame.names[alias.asname or alias.name] = value or other

    # Assignments

    def _run_assign(self, node: ast.Assign, frame: Frame) -> None:
        value = self.evaluate(node.value, frame)
        for target in node.targets:
            self._assign(target, value, frame, f"{frame.file}:{node.lineno}")

    def _assign(self, target: ast.expr, value: Value, frame: Frame, place: str) -> None:
        name = getattr(target, "id", "")
        if frame.class_kind == "configuration":
            value = self._configured(name, value, place)
        if name == "BASE_DIR" and value.content is UNKNOWN and not value.taint and not frame.called_from:
            value = Value(PurePosixPath(self.roots[0]))  # by convention the folder of manage.py
        if value.source and name.isupper():
            self.sources.setdefault(name, {})[value.source] = value.how
        self.bind(target, value, frame)

    def _configured(self, name: str, value: Value, place: str) -> Value:
        """Read the variables of the values of django-configurations in a value; an inner one names its variable."""
        content = value.content
        if isinstance(content, Called) and content.name.endswith("Value"):
            return self._of_environment(name, content, place)
        if isinstance(content, dict):
            parts = {key: self._configured("", part, place) for key, part in content.items()}
            return replace(value, content=parts)
        return value

    def _of_environment(self, name: str, called: Called, place: str) -> Value:
        """Read the variable of a value of django-configurations."""
        named = called.keywords.get("environ_name", Value(name)).content
        if not named:
            return Value(called)
        prefix = called.keywords.get("environ_prefix", Value("DJANGO")).content
        default = called.keywords.get("default", called.args[0] if called.args else Value(None))
        is_required = called.keywords.get("environ_required", Value(False)).content is True
        required = called.name.endswith("SecretValue") or is_required
        kind = _OF_CONFIGURATIONS.get(called.name.rpartition(".")[2], "text")
        named = "DATABASE_URL" if kind == "database" and "environ_name" not in called.keywords else named
        own = f"{prefix}_" if isinstance(prefix, str) and kind != "database" else ""
        return self.read(f"{own}{named}", None if required else default, kind, place)

    def _run_annassign(self, node: ast.AnnAssign, frame: Frame) -> None:
        value = self.evaluate(node.value, frame) if node.value else None
        name = getattr(node.target, "id", "model_config")
        is_field = frame.class_kind in ("model", "part") and name != "model_config"
        if is_field and "ClassVar" not in ast.unparse(node.annotation):
            place = f"{frame.file}:{node.lineno}"
            is_name = isinstance(node.annotation, ast.Name | ast.Attribute)
            kind = self.evaluate(node.annotation, frame) if is_name else Value()
            frame.results.append(Value([Value(name), Value(node.annotation), Value(value), Value(place), kind]))
        if value:
            self._assign(node.target, value, frame, f"{frame.file}:{node.lineno}")

    def _run_augassign(self, node: ast.AugAssign, frame: Frame) -> None:
        operation = ast.BinOp(left=node.target, op=node.op, right=node.value)
        value = self.evaluate(ast.copy_location(operation, node), frame)
        before = frame.find(getattr(node.target, "id", ""))
        if value.content is UNKNOWN and before and isinstance(before.content, list) and _is_of_names(node.target):
            value = replace(before, taint=value.taint)  # some of its elements are known
        self.bind(node.target, value, frame)

    def _run_functiondef(self, node: ast.FunctionDef | ast.AsyncFunctionDef, frame: Frame) -> None:
        frame.names[node.name] = Value(Function(node, frame))

    _run_asyncfunctiondef = _run_functiondef

    def _run_classdef(self, node: ast.ClassDef, frame: Frame) -> None:
        bases = [self.evaluate(base, frame).content for base in node.bases]
        kinds = {base.kind for base in bases if isinstance(base, Namespace)} | {
            kind
            for base in bases
            if isinstance(base, Symbol)
            for word, kind in _KINDS_OF_CLASSES.items()
            if base.name.endswith(word)
        }
        inherited: dict[str, Value] = {}
        found = Namespace(inherited, next((kind for kind in _KINDS_OF_CLASSES.values() if kind in kinds), ""))
        for base in reversed(bases):
            if isinstance(base, Namespace):
                inherited.update(base.names)
                found.fields.update(base.fields)
        inner = Frame(inherited, frame.file, frame.module, frame, frame.called_from, found.kind)
        with contextlib.suppress(Raised, _Return):
            self.run(node.body, inner)
        for row in inner.results:
            name, *about = (part.content for part in row.content)
            found.fields[name] = tuple(about)
        frame.names[node.name] = Value(found)

    # Decisions

    def _run_if(self, node: ast.If, frame: Frame) -> None:
        test = self.evaluate(node.test, frame)
        is_true = truth(test)
        if is_true is None:
            for body in (node.body, node.orelse):
                self._perhaps(body, frame)
            return
        taken, other = (node.body, node.orelse) if is_true else (node.orelse, node.body)
        self._perhaps(other, _apart(frame))
        try:
            self.run(taken, frame)
        except Raised as raised:
            is_handled = self.handling or any(raised.kinds & kinds for kinds in self.handled)
            if not test.taint or not self.certain or is_handled or not _raises(taken):
                raise
            self._require(test.taint)
            self._accept(node.test, frame, is_true)
            if frame.called_from and test.taint - self.assumed:
                self.assumed |= test.taint
                raise _Again from None

    def _require(self, names: frozenset[str]) -> None:
        """Record that the code raises an exception without these variables."""
        for name in names - {name for name, value in self.given.items() if value}:
            if name in self.variables and self.variables[name].kind != "bool":
                self.variables[name].required = True
                self.variables[name].filled = True

    def _accept(self, test: ast.expr, frame: Frame, refuses: bool) -> None:
        """Record the text of a variable without which code raises an exception: ``if env.get("X") != "1": raise``."""
        operators = (ast.NotEq, ast.NotIn) if refuses else (ast.Eq, ast.In)
        if not isinstance(test, ast.Compare) or not isinstance(test.ops[0], operators):
            return
        values = [self.evaluate(part, frame) for part in (test.left, *test.comparators)]
        name = next((value.source for value in values if value.source in self.variables), "")
        known = next((plain(value) for value in values if not value.taint), None)
        texts: list[Any] = known if isinstance(known, list) else [*known] if isinstance(known, dict) else [known]
        if name and texts and all(isinstance(text, str) for text in texts):
            self.variables[name].accepted += tuple(texts)

    def _perhaps(self, body: Sequence[ast.stmt], frame: Frame) -> None:
        """Run statements that may not be run."""
        before, self.guards = self.guards, 0
        try:
            with self.uncertain():
                self.run(body, frame)
        except _Return as result:
            frame.results.append(result.value)
        except Raised:
            pass
        finally:
            self.guards = before

    def _run_assert(self, node: ast.Assert, frame: Frame) -> None:
        test = self.evaluate(node.test, frame)
        if truth(test) is False and self.certain:
            self._require(test.taint)

    def _run_raise(self, node: ast.Raise, frame: Frame) -> None:
        raised = node.exc.func if isinstance(node.exc, ast.Call) else node.exc
        name = code.dotted(raised).rpartition(".")[2] if raised else ""
        kind = getattr(builtins, name, None)
        above = [one.__name__ for one in kind.__mro__] if isinstance(kind, type) else [name]
        raise Raised(*filter(None, above))

    def _run_return(self, node: ast.Return, frame: Frame) -> None:
        raise _Return(self.evaluate(node.value, frame))

    def _run_expr(self, node: ast.Expr, frame: Frame) -> None:
        value = self.evaluate(node.value, frame).content
        if isinstance(value, Called) and value.name.rpartition(".")[2] in ("exit", "_exit"):
            raise Raised("SystemExit")
        if isinstance(value, Called) and value.name.endswith(tuple(rows("including"))):
            self._include(value, frame)

    def _include(self, called: Called, frame: Frame) -> None:
        """Run the files that a function names which includes them, in the module itself."""
        for value in called.args:
            name, needed = value.content, isinstance(value.content, str)
            name = name.args[0].content if isinstance(name, Called) and name.args else name
            found = code.matching(frame.file.parent, name)
            example = code.example_of(frame.file.parent / name) if needed and not found else None
            if isinstance(name, str) and not found and not example:
                self._may_have(frame.file.parent / name)
            for path in [*found, *filter(None, [example])]:
                if path.is_file() and path not in self.modules and len(self.modules) < _MODULES:
                    self.modules[path] = Namespace(frame.names)
                    self.run(code.tree(path).body, Frame(frame.names, path, frame.module))

    def _may_have(self, *paths: Path) -> None:
        """Record a file that the settings take every name of where it is there: the first that is in a folder."""
        found = [path for path in paths if path.parent.is_dir() and path.suffix == ".py" and path.stem.isidentifier()]
        self.optional += found[:1] if self.certain else []

    def _run_try(self, node: ast.Try, frame: Frame) -> None:
        handlers = [handler for handler in node.handlers if _handled(handler) & {*_OF_MISSING, "ImportError", "*"}]
        in_function = bool(frame.called_from)
        handles = [handler for handler in handlers if in_function or not _leaves(handler.body)]
        does_without = any("NameError" in _handled(one) and not _leaves(one.body) for one in node.handlers)
        is_without_file = any(_handled(one) & _OF_FILES and not _leaves(one.body) for one in node.handlers)
        undefined = {**self.undefined}
        self.guards += bool(handles)
        self.without_files += is_without_file
        self.handled.append({name for handler in handles for name in _handled(handler)})
        problem: Exception | None = None
        returned: _Return | None = None
        try:
            self.run(node.body, frame)
        except (Missing, Raised) as error:
            problem = error
        except _Return as result:
            returned = result
        finally:
            self.guards -= bool(handles)
            self.without_files -= is_without_file
            self.handled.pop()
            self.undefined = undefined if does_without else self.undefined
        if problem:
            self._handle(problem, handles, frame)
        elif not returned:
            self.run(node.orelse, frame)
        for handler in node.handlers if not problem else ():
            self._perhaps(handler.body, _apart(frame))
        self.run(node.finalbody, frame)
        if returned:
            raise returned

    _run_trystar = _run_try

    def _handle(self, problem: Exception, handlers: list[ast.ExceptHandler], frame: Frame) -> None:
        """Run the handler of a missing variable; one that raises an exception makes the variable required."""
        wanted = {*_OF_MISSING, "*"} if isinstance(problem, Missing) else getattr(problem, "kinds", set())
        handler = next((one for one in handlers if _handled(one) & wanted), None)
        if not handler:
            raise problem
        if not isinstance(problem, Missing):
            self.run(handler.body, frame)
            return
        name = str(problem)
        self.handling += 1
        try:
            self.run(handler.body, frame)
        except Raised:
            if self.guards:
                raise Missing(name) from None
            self.variables[name].required |= self.certain
            if not frame.called_from:
                self.assumed |= {name}
                raise _Again from None
            raise _Return(Value(UNKNOWN, name, taint=frozenset({name}))) from None
        finally:
            self.handling -= 1

    def _run_with(self, node: ast.With | ast.AsyncWith, frame: Frame) -> None:
        prefixes: list[tuple[Reader, str]] = []
        for item in node.items:
            prefixes += self._prefixed(item.context_expr, frame)
            value = self.evaluate(item.context_expr, frame)
            is_prefixed = prefixes and isinstance(item.optional_vars, ast.Name)
            if item.optional_vars:
                self.bind(item.optional_vars, Value(prefixes[-1][0]) if is_prefixed else value, frame)
        try:
            suppressed = any("suppress" in ast.unparse(item.context_expr) for item in node.items)
            if suppressed:
                self._perhaps(node.body, frame)
            else:
                self.run(node.body, frame)
        finally:
            for reader, prefix in prefixes:
                reader.prefix = prefix

    _run_asyncwith = _run_with

    def _prefixed(self, node: ast.expr, frame: Frame) -> Iterator[tuple[Reader, str]]:
        """Yield the reader that ``with env.prefixed("X_"):`` gives a prefix, and its former one."""
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute) and node.func.attr == "prefixed":
            reader = self.evaluate(node.func.value, frame).content
            prefix = self.evaluate(node.args[0], frame).content if node.args else None
            if isinstance(reader, Reader) and isinstance(prefix, str):
                yield reader, reader.prefix
                reader.prefix += prefix

    def _run_for(self, node: ast.For | ast.AsyncFor, frame: Frame) -> None:
        every = self.evaluate(node.iter, frame)
        if isinstance(every.content, list) and len(every.content) <= 200:
            for part in every.content:
                self.bind(node.target, part, frame)
                self.run(node.body, frame)
            return
        self.bind(node.target, Value(taint=taint(every)), frame)
        self._perhaps(node.body, frame)

    _run_asyncfor = _run_for

    def _run_while(self, node: ast.While, frame: Frame) -> None:
        self.evaluate(node.test, frame)
        self._perhaps(node.body, frame)

    def _run_match(self, node: ast.Match, frame: Frame) -> None:
        self.evaluate(node.subject, frame)
        for case in node.cases:
            self._perhaps(case.body, frame)

    # Functions

    def run_function(self, function: Function, frame: Frame) -> Value:
        """Return the result of a function; of several possible ones, the sources of all."""
        if isinstance(function.node, ast.Lambda):
            return self.evaluate(function.node.body, frame)
        try:
            self.run(function.node.body, frame)
            result = Value(None)
        except _Return as found:
            result = found.value
        if not frame.results:
            return result
        every = [result, *frame.results]
        source = next((value for value in every if value.source), Value())
        content = result.content if all(value.content is UNKNOWN for value in frame.results) else UNKNOWN
        return Value(content, source.source, source.how, taint(*every))


def _is_of_names(target: ast.expr) -> bool:
    """Return whether a setting is a list of which the known elements tell much, as those of INSTALLED_APPS do."""
    return getattr(target, "id", "") in ("INSTALLED_APPS", "MIDDLEWARE")


def _raises(body: Sequence[ast.stmt]) -> bool:
    """Return whether statements raise an exception themselves, or only call what does; not one in a longer body."""
    is_call = len(body) == 1 and isinstance(body[0], ast.Expr)
    return is_call or _leaves(body)


def _leaves(body: Sequence[ast.stmt]) -> bool:
    """Return whether statements raise an exception themselves, or end the program."""
    parts = [part for statement in body for part in ast.walk(statement)]
    calls = [code.dotted(part.func) for part in parts if isinstance(part, ast.Call)]
    exits = any(name.rpartition(".")[2] in ("exit", "_exit") for name in calls)
    return exits or any(isinstance(part, ast.Raise) for part in parts)


def _apart(frame: Frame) -> Frame:
    """Return a frame for code that is not run: what it assigns, and adds to lists, is not seen outside of it."""
    names = {
        name: replace(value, content=value.content.copy()) if isinstance(value.content, list | dict) else value
        for name, value in frame.names.items()
    }
    return Frame(names, frame.file, frame.module, frame.outer, frame.called_from)


def _handled(handler: ast.ExceptHandler) -> set[str]:
    """Return the last parts of the names of the exceptions that a handler is for; ``*`` for all of them."""
    if handler.type is None:
        return {"*"}
    kinds = handler.type.elts if isinstance(handler.type, ast.Tuple) else [handler.type]
    return {code.dotted(kind).rpartition(".")[2] for kind in kinds}
