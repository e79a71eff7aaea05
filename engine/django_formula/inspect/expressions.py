"""Evaluate expressions of a project's settings as far as their values are known. Nothing of the project is run."""

import ast
import builtins
import contextlib
import os
from collections.abc import Callable, Iterator
from pathlib import PurePosixPath
from typing import Any

from django_formula.inspect.values import (
    UNKNOWN,
    Called,
    Frame,
    Function,
    Method,
    Namespace,
    Reader,
    Symbol,
    Value,
    Variable,
    taint,
    truth,
)

#: Nodes that are evaluated at most, calls in calls, and elements of a loop.
_MOST, _DEEP, _LONG = 100_000, 12, 200
#: Methods of texts that are called on known texts.
_OF_TEXT = {
    *("lower", "upper", "strip", "lstrip", "rstrip", "split", "rsplit", "splitlines", "replace", "startswith"),
    *(
        "endswith",
        "removeprefix",
        "removesuffix",
        "title",
        "capitalize",
        "isdigit",
        "partition",
        "rpartition",
        "encode",
    ),
}
#: Those whose result is the text itself, as far as a variable is its source.
_SAME = (
    *("split", "strip", "lstrip", "rstrip", "lower", "splitlines", "encode", "decode", "read"),
    *("get_secret_value", "unicode_string"),  # of pydantic
)
#: Modules that are imported where tests run.
_OF_TESTS = ("pytest", "_pytest", "unittest", "nose", "xdist")
_COMPARISONS: dict[type[ast.cmpop], Callable[[Any, Any], bool]] = {
    ast.Eq: lambda a, b: a == b,
    ast.NotEq: lambda a, b: a != b,
    ast.Is: lambda a, b: a is b,
    ast.IsNot: lambda a, b: a is not b,
    ast.In: lambda a, b: a in b,
    ast.NotIn: lambda a, b: a not in b,
    ast.Lt: lambda a, b: a < b,
    ast.LtE: lambda a, b: a <= b,
    ast.Gt: lambda a, b: a > b,
    ast.GtE: lambda a, b: a >= b,
}


class TooMuch(Exception):
    """The settings are too large to be evaluated."""


class Missing(Exception):
    """A required variable is not set, in a block that handles it."""


class Expressions:
    """The evaluation of expressions.

    Attributes:
        given: the environment variables that are set.
        variables: those that are read, by name.
        surely_read: those that code reads which is surely run.
        certain: whether the code at hand is surely run.
        guards: blocks around the code at hand that handle a missing variable.
        written: paths that are opened for writing, or created as folders.
        opened: paths that are surely read, and where; but in blocks that handle a missing file.
        without_files: such blocks around the code at hand.
        files: names of .env files that are read.
        undefined: names that modules surely use and do not have, and where.
    """

    def __init__(self, given: dict[str, str]):
        self.given = given
        self.variables: dict[str, Variable] = {}
        self.surely_read: set[str] = set()
        self.certain = True
        self.guards = 0
        self.assumed: frozenset[str] = frozenset()
        self.written: dict[PurePosixPath, str] = {}
        self.opened: dict[PurePosixPath, str] = {}
        self.without_files = 0
        self.files: list[str] = []
        self.undefined: dict[str, str] = {}
        self._steps = self._depth = 0

    # To be provided by subclasses

    def call_library(self, name: str, args: list[Value], keywords: dict[str, Value], place: str) -> Value:
        """Return what a function of a library returns."""
        raise NotImplementedError

    def call_method(self, owner: Value, name: str, args: list[Value], keywords: dict[str, Value], place: str) -> Value:
        """Return what a method returns."""
        raise NotImplementedError

    def call_class(self, found: Namespace, place: str) -> Value:
        """Return an instance of a class of the project."""
        raise NotImplementedError

    def run_function(self, function: Function, frame: Frame) -> Value:
        """Run the body of a function."""
        raise NotImplementedError

    def subscript_of(self, owner: Value, key: Value, place: str) -> Value:
        """Return an element of what reads the environment."""
        raise NotImplementedError

    def presence(self, name: str, place: str) -> bool:
        """Return whether a variable is set, and record that this is tested."""
        raise NotImplementedError

    def needed(self, value: Value, kind: str = "") -> Value:
        """Return a value that the code needs."""
        raise NotImplementedError

    # Expressions

    @contextlib.contextmanager
    def uncertain(self) -> Iterator[None]:
        """Evaluate code in this block that may not be run."""
        before, self.certain = self.certain, False
        try:
            yield
        finally:
            self.certain = before

    def count(self) -> None:
        """Count a step.

        Raises:
            TooMuch: there were too many.
        """
        self._steps += 1
        if self._steps > _MOST:
            raise TooMuch

    def evaluate(self, node: ast.expr | None, frame: Frame) -> Value:
        """Return the value of an expression."""
        if node is None:
            return Value(None)
        self.count()
        method = getattr(self, f"_{type(node).__name__.lower()}", None)
        if method:
            found: Value = method(node, frame)
            return found
        parts = [self.evaluate(part, frame) for part in ast.iter_child_nodes(node) if isinstance(part, ast.expr)]
        return Value(taint=taint(*parts))

    def _place(self, node: ast.expr, frame: Frame) -> str:
        return frame.called_from or f"{frame.file}:{node.lineno}"

    def _constant(self, node: ast.Constant, _frame: Frame) -> Value:
        return Value(node.value)

    def _name(self, node: ast.Name, frame: Frame) -> Value:
        found = frame.find(node.id)
        is_sure = self.certain and not self.guards and not frame.outer and "*" not in frame.names
        if not found and is_sure and not hasattr(builtins, node.id):
            self.undefined.setdefault(node.id, f"{frame.file}:{node.lineno}")
        return found or Value(Symbol(node.id))

    def _attribute(self, node: ast.Attribute, frame: Frame) -> Value:
        owner = self.evaluate(node.value, frame)
        content, name = owner.content, node.attr
        if isinstance(content, Symbol):
            return self.of_library(f"{content.name}.{name}")
        if isinstance(content, Namespace):
            return content.names.get(name, Value())
        if isinstance(content, PurePosixPath):
            if name == "parents":
                return Value([Value(parent) for parent in list(content.parents)[:_LONG]])
            if name in ("parent", "name", "stem", "suffix"):
                return Value(getattr(content, name))
        return Value(Method(owner, name), taint=owner.taint)

    @staticmethod
    def of_library(name: str) -> Value:
        """Return something of a library; a server is started without the words that commands and tests have."""
        return Value([Value()] if name == "sys.argv" else Symbol(name))

    def _subscript(self, node: ast.Subscript, frame: Frame) -> Value:
        owner = self.evaluate(node.value, frame)
        content: Any = owner.content
        if isinstance(node.slice, ast.Slice):
            bounds = [self.evaluate(part, frame).content for part in (node.slice.lower, node.slice.upper)]
            known = isinstance(content, str | list) and all(bound is None or isinstance(bound, int) for bound in bounds)
            return Value(content[bounds[0] : bounds[1]] if known else UNKNOWN, taint=owner.taint)
        key = self.evaluate(node.slice, frame)
        if isinstance(content, dict | list) and isinstance(key.content, str | int):
            with contextlib.suppress(LookupError, TypeError):
                index: Any = key.content
                found: Value = content[index]
                return found
            return Value()
        return self.subscript_of(owner, key, self._place(node, frame))

    def _call(self, node: ast.Call, frame: Frame) -> Value:
        function = self.evaluate(node.func, frame)
        args = [value for argument in node.args for value in self._spread(argument, frame)]
        keywords = {key.arg: self.evaluate(key.value, frame) for key in node.keywords if key.arg}
        for keyword in node.keywords:
            more = self.evaluate(keyword.value, frame).content if keyword.arg is None else None
            keywords |= more if isinstance(more, dict) else {"**": Value()} if keyword.arg is None else {}
        place, content = self._place(node, frame), function.content
        if isinstance(content, Symbol):
            return self.call_library(content.name, args, keywords, place)
        if isinstance(content, Function):
            result = self._function(content, args, keywords, place)
            is_of_environment = len(args) == 1 and not keywords and self._is_environment(args[0])
            is_known = result.content is not UNKNOWN or result.source
            return args[0] if is_of_environment and not is_known else result  # such as a copy of it
        if isinstance(content, Method):
            return self.call_method(content.owner, content.name, args, keywords, place)
        if isinstance(content, Namespace):
            return self.call_class(content, place)
        return self.call_method(function, "", args, keywords, place)

    def _spread(self, node: ast.expr, frame: Frame) -> list[Value]:
        if not isinstance(node, ast.Starred):
            return [self.evaluate(node, frame)]
        value = self.evaluate(node.value, frame)
        return list(value.content) if isinstance(value.content, list) else [Value(taint=value.taint)]

    def _function(self, function: Function, args: list[Value], keywords: dict[str, Value], place: str) -> Value:
        """Return the result of a function of the project."""
        if self._depth >= _DEEP:
            return Value(taint=taint(*args, *keywords.values()))
        outer, formal = function.frame, function.node.args
        parameters = [*formal.posonlyargs, *formal.args]
        defaults = [*[None] * (len(parameters) - len(formal.defaults)), *formal.defaults]
        names: dict[str, Value] = {}
        for parameter, default in [
            *zip(parameters, defaults, strict=True),
            *zip(formal.kwonlyargs, formal.kw_defaults, strict=True),
        ]:
            names[parameter.arg] = self.evaluate(default, outer) if default else Value()
        names |= {parameter.arg: value for parameter, value in zip(parameters, args, strict=False)}
        own = {parameter.arg for parameter in (*parameters, *formal.kwonlyargs)}
        names |= {name: value for name, value in keywords.items() if name in own}
        if formal.vararg:
            names[formal.vararg.arg] = Value(args[len(parameters) :])
        if formal.kwarg:
            names[formal.kwarg.arg] = Value({name: value for name, value in keywords.items() if name not in own})
        self._depth += 1
        try:
            return self.run_function(function, Frame(names, outer.file, outer.module, outer, called_from=place))
        finally:
            self._depth -= 1

    def _lambda(self, node: ast.Lambda, frame: Frame) -> Value:
        return Value(Function(node, frame))

    def _namedexpr(self, node: ast.NamedExpr, frame: Frame) -> Value:
        value = self.evaluate(node.value, frame)
        frame.names[node.target.id] = value
        return value

    # Operators

    def _boolop(self, node: ast.BoolOp, frame: Frame) -> Value:
        decides = isinstance(node.op, ast.Or)
        found: list[Value] = []
        with contextlib.ExitStack() as stack:
            for part in node.values:
                found.append(self.evaluate(part, frame))
                is_true = truth(found[-1])
                if is_true is decides:
                    break
                if is_true is None and self.certain:
                    stack.enter_context(self.uncertain())
        sources = [value for value in found if value.source]
        source, how = (sources[0].source, sources[0].how) if sources and decides else ("", "")
        is_false = not decides and truth(found[-1]) is False  # whatever the parts before it are
        unknown = any(truth(value) is None for value in found) and not is_false
        return Value(UNKNOWN if unknown else found[-1].content, source, how, taint(*found))

    def _unaryop(self, node: ast.UnaryOp, frame: Frame) -> Value:
        value = self.evaluate(node.operand, frame)
        if isinstance(node.op, ast.Not):
            is_true = truth(value)
            return Value(UNKNOWN if is_true is None else not is_true, taint=value.taint)
        is_number = isinstance(value.content, int | float)
        return Value(-value.content if is_number and isinstance(node.op, ast.USub) else UNKNOWN, taint=value.taint)

    def _binop(self, node: ast.BinOp, frame: Frame) -> Value:
        left, right = self.evaluate(node.left, frame), self.evaluate(node.right, frame)
        if isinstance(node.op, ast.Add):
            left = self.needed(left) if isinstance(right.content, str) else left
            right = self.needed(right) if isinstance(left.content, str) else right
        elif isinstance(node.op, ast.Div):
            self.is_joined(left)
        return Value(_combined(node.op, left.content, right.content), taint=taint(left, right))

    def is_joined(self, value: Value) -> None:
        """Record that a path is joined to a value."""
        if value.source in self.variables:
            self.variables[value.source].is_folder = True

    def _compare(self, node: ast.Compare, frame: Frame) -> Value:
        left, *others = [self.evaluate(part, frame) for part in (node.left, *node.comparators)]
        right, operator = others[0], node.ops[0]
        if isinstance(operator, ast.In | ast.NotIn) and self._is_environment(right) and isinstance(left.content, str):
            is_set = self.presence(left.content, self._place(node, frame))
            return Value(is_set == isinstance(operator, ast.In), taint=frozenset({left.content}))
        if right.content == Symbol("sys.modules") and left.content in _OF_TESTS:
            return Value(isinstance(operator, ast.NotIn))
        known = len(others) == 1 and all(_is_plain(value.content) for value in (left, right))
        if isinstance(operator, ast.In | ast.NotIn) and known and isinstance(right.content, list):
            right = Value([part.content for part in right.content], taint=right.taint)
        found: Any = UNKNOWN
        if isinstance(operator, ast.Is | ast.IsNot) and UNKNOWN not in (left.content, right.content):
            found = (left.content is right.content) == isinstance(operator, ast.Is)
        elif known:
            with contextlib.suppress(TypeError, KeyError):
                found = _COMPARISONS[type(operator)](left.content, right.content)
        return Value(found, taint=taint(left, *others))

    @staticmethod
    def _is_environment(value: Value) -> bool:
        content = value.content
        return isinstance(content, Symbol) and content.name in ("os.environ", "environ", "env.ENVIRON")

    def _ifexp(self, node: ast.IfExp, frame: Frame) -> Value:
        test = self.evaluate(node.test, frame)
        is_true = truth(test)
        if is_true is not None:
            with self.uncertain():
                self.evaluate(node.orelse if is_true else node.body, frame)
            value = self.evaluate(node.body if is_true else node.orelse, frame)
            return Value(value.content, value.source, value.how, value.taint | test.taint)
        with self.uncertain():
            both = [self.evaluate(part, frame) for part in (node.body, node.orelse)]
        found = next((value for value in both if value.source), Value())
        return Value(UNKNOWN, found.source, found.how, taint(test, *both))

    def _joinedstr(self, node: ast.JoinedStr, frame: Frame) -> Value:
        parts = [
            self.evaluate(getattr(part, "value", None) if isinstance(part, ast.FormattedValue) else part, frame)
            for part in node.values
        ]
        known = all(isinstance(part.content, str | int | PurePosixPath) for part in parts)
        return Value("".join(str(part.content) for part in parts) if known else UNKNOWN, taint=taint(*parts))

    # Collections

    def _list(self, node: ast.List | ast.Tuple | ast.Set, frame: Frame) -> Value:
        parts = [value for part in node.elts for value in self._spread(part, frame)]
        return Value(parts, taint=taint(*parts))

    _tuple = _set = _list

    def _dict(self, node: ast.Dict, frame: Frame) -> Value:
        found: dict[Any, Value] = {}
        for key, part in zip(node.keys, node.values, strict=True):
            name, value = self.evaluate(key, frame), self.evaluate(part, frame)
            if key is None and isinstance(value.content, dict):
                found |= value.content
            elif isinstance(name.content, str | int):
                found[name.content] = value
        return Value(found, taint=taint(*found.values()))

    def _listcomp(self, node: ast.ListComp | ast.SetComp | ast.GeneratorExp, frame: Frame) -> Value:
        every = self.evaluate(node.generators[0].iter, frame)
        inner = Frame({}, frame.file, frame.module, frame, frame.called_from)
        is_known = isinstance(every.content, list) and len(node.generators) == 1
        if is_known and len(every.content) <= _LONG:
            parts: list[Value] = []
            taken: bool | None = True
            for part in every.content:
                self.bind(node.generators[0].target, part, inner)
                tests = [truth(self.evaluate(test, inner)) for test in node.generators[0].ifs]
                taken = None if None in tests else all(tests)
                if taken is None:
                    break
                parts += [self.evaluate(node.elt, inner)] if taken else []
            if taken is not None:
                return Value(parts, every.source, every.how, taint(every, *parts))
        with self.uncertain():
            self.bind(node.generators[0].target, Value(taint=every.taint), inner)
            value = self.evaluate(node.elt, inner)
        content: Any = [] if every.content == [] else UNKNOWN
        return Value(content, every.source, every.how, taint(every, value))

    _setcomp = _generatorexp = _listcomp

    def bind(self, target: ast.expr, value: Value, frame: Frame) -> None:
        """Assign a value to a name, to names, or to an element."""
        if isinstance(target, ast.Name):
            frame.names[target.id] = value
        elif isinstance(target, ast.Tuple | ast.List):
            known = value.content if isinstance(value.content, list) else []
            for number, part in enumerate(target.elts):
                self.bind(part, known[number] if number < len(known) else Value(taint=value.taint), frame)
        elif isinstance(target, ast.Subscript):
            owner, key = self.evaluate(target.value, frame), self.evaluate(target.slice, frame)
            if isinstance(owner.content, dict) and isinstance(key.content, str):
                owner.content[key.content] = value
            elif self._is_environment(owner) and isinstance(key.content, str) and isinstance(value.content, str):
                self.given = {**self.given, key.content: value.content}
        elif isinstance(target, ast.Attribute):
            owner = self.evaluate(target.value, frame)
            if isinstance(owner.content, Reader) and target.attr == "prefix" and isinstance(value.content, str):
                owner.content.prefix = value.content


def _is_plain(content: Any) -> bool:
    return content is None or isinstance(content, str | int | float | list | PurePosixPath)


def _combined(operator: ast.operator, left: Any, right: Any) -> Any:
    """Return the result of an operator on known operands."""
    kinds = (type(left), type(right))
    if isinstance(operator, ast.Div) and PurePosixPath in kinds and {*kinds} <= {PurePosixPath, str}:
        return joined(left, right)
    if isinstance(operator, ast.Add) and kinds in ((str, str), (list, list), (int, int)):
        return left + right
    if isinstance(operator, ast.Add) and kinds == (PurePosixPath, str):  # functions of os.path return texts
        return f"{left}{right}"
    if isinstance(operator, ast.Sub) and kinds == (PurePosixPath, int):  # of django-environ
        return [left, *left.parents][min(right, len(left.parents))]
    if isinstance(operator, ast.BitOr) and kinds == (dict, dict):
        return left | right
    if isinstance(operator, ast.Mult) and kinds == (int, int) and max(abs(left), abs(right)) < 1 << 40:
        return left * right
    if isinstance(operator, ast.Mod) and isinstance(left, str) and left.count("%s") == left.count("%"):
        parts = [part.content for part in right] if isinstance(right, list) else [right]
        if len(parts) == left.count("%s") and all(isinstance(part, str | int | PurePosixPath) for part in parts):
            return left % tuple(parts)
    return UNKNOWN


def joined(*parts: Any) -> Any:
    """Return a normalised path of known parts; `UNKNOWN` if one is not known."""
    if not parts or not all(isinstance(part, str | PurePosixPath) for part in parts):
        return UNKNOWN
    return PurePosixPath(os.path.normpath(os.path.join(*map(str, parts))))


def text_method(owner: Value, name: str, args: list[Value]) -> Value:
    """Return what a method of a text returns."""
    is_same = name in _SAME
    found: Any = owner.content if is_same and isinstance(owner.content, Called) else UNKNOWN
    known = [part.content for part in args]
    if isinstance(owner.content, str) and name in _OF_TEXT and all(_is_plain(part) for part in known):
        with contextlib.suppress(TypeError, ValueError):
            found = getattr(owner.content, name)(*known)
            found = [Value(part) for part in found] if isinstance(found, list | tuple) else found
    how = owner.how
    if name == "split" and not how.startswith("list:"):
        how = f"list:{known[0] if known and isinstance(known[0], str) else ' '}"
    return Value(found, owner.source if is_same else "", how, taint(owner, *args))
