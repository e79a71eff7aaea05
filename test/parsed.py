"""The code of files, parsed once in each process: many tests look at all of it."""

import ast
import functools
from pathlib import Path


@functools.cache
def tree(path: Path) -> ast.Module:
    """The code of a file, which is not to be changed."""
    return ast.parse(path.read_text())


@functools.cache
def walked(node: ast.AST) -> tuple[ast.AST, ...]:
    """What `ast.walk` gives."""
    return tuple(ast.walk(node))


def nodes(path: Path) -> tuple[ast.AST, ...]:
    """All nodes of a file's code."""
    return walked(tree(path))


def name(node: ast.AST) -> str:
    """A dotted name as it is written: `entries.entry`; empty for any other expression. Much cheaper than unparse."""
    if isinstance(node, ast.Name):
        return node.id
    if isinstance(node, ast.Attribute) and (before := name(node.value)):
        return f"{before}.{node.attr}"
    return ""
