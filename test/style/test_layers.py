"""Who imports whom in the engine: families in layers, as docs/internals/architecture.md has them."""

import ast
import re
from pathlib import Path

import parsed
from django_formula.deploy import order

ROOT = Path(__file__).parents[2]
TREE = ROOT / "engine/django_formula"
MODULES = {f"{path.parent.name}.{path.stem}": path for path in sorted(TREE.glob("*/[!_]*.py"))}
ARCHITECTURE = (ROOT / "docs/internals/architecture.md").read_text()
#: The layer of each family, and its sentence: the rows of the page's table.
ROWS = re.findall(r"(?m)^\| (\d+) \| `(\w+)` \| (.+) \|$", ARCHITECTURE)
LAYER = {family: int(layer) for layer, family, _sentence in ROWS}


def family(module: str) -> str:
    return module.partition(".")[0]


def imports(path: Path) -> set[str]:
    """Return the modules of the engine that a module imports, within functions too."""
    nodes = [node for node in parsed.nodes(path) if isinstance(node, ast.ImportFrom)]
    names = {f"{node.module}.{alias.name}" for node in nodes for alias in node.names} | {node.module for node in nodes}
    return {name.removeprefix("django_formula.") for name in names if name} & MODULES.keys()


def test_imports_go_down():
    pairs = [(module, name) for module, path in MODULES.items() for name in sorted(imports(path))]
    assert [(one, other) for one, other in pairs if LAYER[family(other)] > LAYER[family(one)]] == []


def test_what_looks_tells_or_measures_is_no_part_of_a_deployment():
    """So that no channel, page or metric decides, delays or fails one; the watch reads the line of its record."""
    reached: set[str] = set()
    left = {module for module in MODULES if family(module) in ("deploy", "release")}
    while left:
        reached |= left
        left = {name for module in left for name in imports(MODULES[module])} - reached
    assert {family(module) for module in reached} & {"watch", "page", "metrics", "doctor"} == set()


def test_no_module_imports_itself_by_way_of_others():
    below = {module: imports(path) for module, path in MODULES.items()}
    while leaves := {name for name, names in below.items() if not names}:
        below = {name: names - leaves for name, names in below.items() if name not in leaves}
    assert below == {}


def test_page_has_every_family_with_its_sentence():
    docstrings = {path.parent.name: ast.get_docstring(parsed.tree(path)) for path in TREE.glob("*/__init__.py")}
    assert {family: f"{sentence}." for _layer, family, sentence in ROWS} == docstrings
    assert {family(module) for module in MODULES} == LAYER.keys()


def test_life_of_a_release_has_every_step_in_its_file():
    steps = re.findall(r"(?m)^  (\w+) .* deploy/(step_\w+)\.py\b", ARCHITECTURE)
    assert [name for name, _module in steps] == [step.name for step in order.STEPS]
    assert [name for name, module in steps if f"\ndef {name}(" not in MODULES[f"deploy.{module}"].read_text()] == []


def test_systemctl_is_called_by_one_module():
    calls = [module for module, path in MODULES.items() if '["systemctl"' in path.read_text()]
    assert calls == ["host.units"]
