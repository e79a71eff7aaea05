"""Find the servers that a project's own code connects to by itself: the settings and the pillar give it no address."""

import ast
import re
from collections.abc import Iterator, Sequence
from pathlib import Path

from django_formula.inspect import code, process_files, project
from django_formula.inspect.report import Report
from django_formula.inspect.settings import Settings
from django_formula.knowledge.rows import rows

#: The most places that are named.
_MOST = 3
#: A variable in the text of an expression.
_VARIABLE = re.compile(r"""environ(?:\.get\(|\[)'(\w+)'|getenv\('(\w+)'""")


def add(report: Report, settings: Settings, tree: Path, roots: Sequence[Path]) -> None:
    """Add a remark for each place where code connects to a server whose address is not in the settings."""
    paths = [path for path in project.own_files(roots, None, depth=6) if path.suffix == ".py"]
    live = [path for path in paths if path not in settings.files and process_files.is_for_live(path.relative_to(tree))]
    found = [(path, *place) for path in sorted(live) for place in _places(path)]
    for path, line, client, variables in found[:_MOST]:
        way = (
            f"set {' and '.join(variables)} in `environment`"
            if variables
            else "have it read its address from a variable"
        )
        report.remarks.append(
            f"{path.relative_to(tree)}:{line} connects to a server by itself ({client}), which no key of the pillar "
            f"starts: {way}"
        )


def _places(path: Path) -> Iterator[tuple[int, str, list[str]]]:
    """Yield the calls of a module that connect to a server, and to none of the settings: line, name, variables."""
    clients = {*rows("clients")}
    if not any(f"{client.rpartition('.')[2]}(" in code.read(path) for client in clients):
        return
    nodes = [*ast.walk(code.tree(path))]
    imported = {
        alias.asname or alias.name: f"{node.module}.{alias.name}"
        for node in nodes
        if isinstance(node, ast.ImportFrom)
        for alias in node.names
    }
    for node in nodes:
        if isinstance(node, ast.Call):
            client = imported.get(code.dotted(node.func), code.dotted(node.func))
            text = ast.unparse(node) if client in clients else ""
            if text and not re.search(r"\bsettings\b|\bconf\b", text):
                yield node.lineno, client, [one or other for one, other in _VARIABLE.findall(text)]
