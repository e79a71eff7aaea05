"""The documentation of functions that Salt shows (``sys.doc``), where many share a part of it."""

import inspect
import re
import textwrap
import types
from collections.abc import Iterable, Mapping

#: An argument in a docstring: its name, and what is said of it.
_ARGUMENT = re.compile(r"(?m)^(\w+)\n((?:(?: {4}.*)?\n)+)")
#: What comes after the arguments.
_EXAMPLE = re.compile(r"(?m)^(?=CLI Example:|\.\. code-block::)")


def completed(function: types.FunctionType, shared: Mapping[str, str], example: str = "") -> str:
    """Return the docstring of a function with the arguments that it leaves out, in the order of its parameters.

    Args:
        function: the function.
        shared: what is said of arguments that it does not describe itself.
        example: what comes last, where the docstring has none.
    """
    given = function.__doc__ or ""
    text, *own_example = _EXAMPLE.split(inspect.cleandoc(given) + "\n", maxsplit=1)
    own = {name: body.strip("\n") for name, body in _ARGUMENT.findall(text)}
    description = _ARGUMENT.split(text, maxsplit=1)[0]
    described = {name: own.get(name) or textwrap.indent(shared[name], "    ") for name in _parameters(function)}
    arguments = "\n".join(f"{name}\n{body}" for name, body in described.items())
    parts = [description.strip(), arguments, (own_example or [example])[0].strip()]
    indentation = " " * (len(given) - len(given.lstrip()) - 1)  # Python 3.13 removes it
    return "\n" + textwrap.indent("\n\n".join(filter(None, parts)), indentation) + "\n" + indentation


def commands(verb: str, arguments: Iterable[str]) -> str:
    """Return the examples of a verb on the command line.

    Args:
        verb: its name in Salt.
        arguments: what follows it in each example.
    """
    lines = [" ".join(("    salt-call", verb, one)).rstrip() for one in arguments]
    return "\n".join(["CLI Example:", "", ".. code-block:: bash", "", *lines])


def _parameters(function: types.FunctionType) -> list[str]:
    """Return the names of its parameters, for a tenth of what `inspect.signature` takes."""
    code = function.__code__
    positional, only = code.co_argcount, code.co_kwonlyargcount
    end = positional + only
    has_more = bool(code.co_flags & inspect.CO_VARARGS)
    return [*code.co_varnames[:positional], *code.co_varnames[end : end + has_more], *code.co_varnames[positional:end]]
